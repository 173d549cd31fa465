//! Mistakes that people make in recipes, all in one file: each is told, with its own words, at its own place.

use super::*;
use crate::codes::Code;

/// A recipe as somebody wrote it in a hurry. Each mistake's line ends in a comment with its number.
const RECIPE: &str = r#"
[platforms.acme]
base_url = "https://api.example.com/v1/?key=1"                              # 1 the query belongs to the apis
auth = { bearer = "sk-live-0123456789" }                                    # 2 a secret written inline
zone = "Seoul"                                                              # 3 no such zone
header = { X-Account = "{account}" }                                        # 4 misspelt
allowed_hosts = ["*.example.com"]                                           # 5 not a host
[platforms.acme.limits]
gap = { every = "5s" }                                                      # 6 whose calls?
hourly = { per = ["account"], max = 60 }                                    # 7 in what time?
daily = { per = ["account"], max = 1000, in = "1d" }                        # 8 a day from when?
rate = { per = ["acount"], rate = "50/s", burst = 100 }                     # 9 misspelt
fast = { per = ["account"], every = 5 }                                     # 10 5 what?
[platforms.acme.apis.report]
path = "reports/{id}?date={date}"                                           # 11 the query in the path
[platforms.acme.apis.list]
path = "list"
params = ["since"]
query = { since = "{sinse}" }                                               # 12 wrong placeholder
[platforms.acme.apis.rows]
path = "rows/{campaign-id}"                                                 # 13 no name
[platforms.acme.apis.days]
path = "days"
query = { day = "{today|fromat('%Y%m%d')}" }                                # 14 no such filter
[platforms.acme.apis.ids]
path = "ids"
query = { ids = { value = "ids-{ids}", list = "commas" } }                  # 15 no list in it
[platforms.acme.apis.search]
path = "search"
method = "post"                                                             # 16 methods are upper case
[platforms.acme.apis.create]
path = "create"
body = { json = { a = 1 }, form = { a = 1 } }                               # 17 two bodies
[platforms.acme.apis.graph]
path = "graph"
body = { json = { query = "query { shop { name } }" } }                     # 18 braces of GraphQL
[platforms.acme.apis.old]
path = "old"
headers = { Authorization = "Bearer 0123456789" }                           # 19 a secret again
[platforms.acme.apis.slow]
path = "slow"
timeouts = { first_byte = 300 }                                             # 20 300 what?
[platforms.acme.apis.over]
path = "over"
over = [{ status = 200 }]                                                   # 21 every good answer
[platforms.acme.apis.cost]
path = "cost"
costs = { points = 3 }                                                      # 22 no such limit
[platforms.acme.apis.fresh]
path = "fresh"
fresh_for = "1d"                                                            # 23 a day is a calendar thing
[platforms.acme.apis.header]
path = "header"
headers = { "X Account" = "{account}" }                                     # 24 no name of a header
[platforms.acme.apis.token]
path = "token"
auth = { bearer = "env:ACME_TOKEN" }                                        # 25 not set
[platforms.acme.apis.endless]
path = "endless"
query = { page = "{page.number}" }
pages = { by = "page", size = 100, items = "data" }                         # 26 nothing ends it
[platforms.acme.apis.sized]
path = "sized"
query = { page = "{page.number}" }
pages = { by = "page", size = "100", items = "data", stop = "short" }       # 27 a number as text
[platforms.acme.apis.same]
path = "same"
pages = { by = "page", size = 50, items = "data", stop = "short" }          # 28 the same page each time
[platforms.acme.apis.unpaged]
path = "unpaged"
query = { after = "{page.cursor}" }                                         # 29 no pages declared
[platforms.acme.apis.cursor]
path = "cursor"
query = { after = "{page.cursor}" }
pages = { by = "cursor", items = "data" }                                   # 30 where is the cursor?
[platforms.acme.apis.mixed]
path = "mixed"
query = { page = "{page.number}" }                                          # 31 a number, by cursor
pages = { by = "cursor", next = "paging.next", items = "data" }
[platforms.acme.apis.counted]
path = "counted"
pages = { by = "link", total = "meta.total" }                               # 32 rows of what?
[platforms.acme.apis.judged]
path = "judged"
answers = [{ body = "code", not = 0, class = "fatal" }]                     # 33 no such class
[platforms.acme.apis.unclassed]
path = "unclassed"
answers = [{ status = 404 }]                                                # 34 is what?
[platforms.acme.apis.unsaid]
path = "unsaid"
answers = [{ is = 40100, class = "throttled" }]                             # 35 what is?
[platforms.acme.apis.shadowed]
path = "shadowed"
answers = [{ class = "ok" }, { status = 500, class = "transient" }]         # 36 never reached
[platforms.acme.apis.waiting]
path = "waiting"
answers = [{ status = 404, class = "empty", wait = "5m" }]                  # 37 what is stored waits for nothing
[platforms.acme.apis.capped]                                                # 38 too much, and then?
path = "capped"
answers = [{ rows = "data", min = 15000, class = "too_much" }]
[platforms.acme.apis.parted]
path = "parted"
query = { since = "{since}", until = "{until}" }
answers = [{ rows = "data", min = 15000, class = "too_much" }]
split = { by = "dates", from = "since", to = "til" }                        # 39 no such parameter
[platforms.acme.apis.unparted]
path = "unparted"
query = { ids = { value = "{ids}", list = "commas" } }
split = { by = "list", param = "ids" }                                      # 40 when?
[platforms.acme.apis.zipped]
path = "zipped"
decode = ["zip"]                                                            # 41 and what is in it?
[platforms.acme.apis.titled]
path = "titled"
format = "json"
columns = ["date", "clicks"]                                                # 42 JSON has none
[platforms.acme.apis.lettered]
path = "lettered"
charset = "utf8mb4"                                                         # 43 no such charset
[platforms.acme.apis.broken]
path = "broken"
breaker = { after = 5, for = 300 }                                          # 44 300 what?
[platforms.acme.apis.repeated]
path = "repeated"
idempotent = "yes"                                                          # 45 true or false
"#;

/// What each is told as, by its number: a code, where it stands below the platform, a word of the message or hint.
const TOLD: &[(usize, Code, &str, &str)] = &[
    (1, Code::BadUrl, "base_url", "put the query into the api's `query`"),
    (2, Code::InlineSecret, "auth.bearer", "env:NAME"),
    (3, Code::BadValue, "zone", "no time zone `Seoul`"),
    (4, Code::UnknownKey, "header", "did you mean `headers`?"),
    (5, Code::BadValue, "allowed_hosts", "name each host"),
    (6, Code::MissingKey, "limits.gap.per", "`per` is missing"),
    (7, Code::MissingKey, "limits.hourly.in", "in"),
    (8, Code::SlidingDay, "limits.daily.in", "resets"),
    (9, Code::BadValue, "limits.rate.per", "did you mean `account`?"),
    (10, Code::BadDuration, "limits.fast.every", "say the unit"),
    (11, Code::BadValue, "apis.report.path", "put the query into `query`"),
    (12, Code::UnknownVariable, "apis.list.query.since", "`sinse`"),
    (13, Code::BadTemplate, "apis.rows.path", "letters, digits and `_`"),
    (14, Code::BadTemplate, "apis.days.query.day", "did you mean `format`?"),
    (15, Code::BadValue, "apis.ids.query.ids.list", "there is no list in it"),
    (16, Code::BadValue, "apis.search.method", "did you mean `POST`?"),
    (17, Code::BadValue, "apis.create.body", "json and form"),
    (18, Code::BadTemplate, "apis.graph.body.json.query", "placeholder"),
    (19, Code::InlineSecret, "apis.old.headers.Authorization", "auth = "),
    (20, Code::BadDuration, "apis.slow.timeouts.first_byte", "say the unit"),
    (21, Code::BadValue, "apis.over.over.0", "every good answer would be a refusal"),
    (22, Code::BadValue, "apis.cost.costs.points", "no limit `points`"),
    (23, Code::BadDuration, "apis.fresh.fresh_for", "24h"),
    (24, Code::BadHeader, "apis.header.headers.X Account", "not the name of a header"),
    (25, Code::SecretNotFound, "apis.token.auth.bearer", "no variable `ACME_TOKEN`"),
    (26, Code::NoStopRule, "apis.endless.pages.stop", "nothing ends a read by page"),
    (27, Code::WrongType, "apis.sized.pages.size", "size = 100"),
    (28, Code::PageStateUnused, "apis.same.pages", "each call would be the same"),
    (29, Code::UnknownVariable, "apis.unpaged.query", "the api has no `pages`"),
    (30, Code::MissingKey, "apis.cursor.pages.next", "where the next cursor stands"),
    (31, Code::UnknownVariable, "apis.mixed.query", "`{page.cursor}`"),
    (32, Code::MissingKey, "apis.counted.pages.items", "`total` is about rows"),
    (33, Code::BadValue, "apis.judged.answers.0.class", "fatal"),
    (34, Code::MissingKey, "apis.unclassed.answers.0.class", "\"empty\""),
    (35, Code::MissingKey, "apis.unsaid.answers.0.is", "of what value"),
    (36, Code::BadValue, "apis.shadowed.answers.1", "never reached"),
    (37, Code::BadValue, "apis.waiting.answers.0.wait", "transient, throttled or incomplete"),
    (38, Code::MissingKey, "apis.capped.split", "how less is asked for"),
    (39, Code::UnknownVariable, "apis.parted.split.to", "one of since, until"),
    (40, Code::MissingKey, "apis.unparted.split", "nothing is ever split"),
    (41, Code::MissingKey, "apis.zipped.decode", "format = \"csv\""),
    (42, Code::BadValue, "apis.titled.columns", "only CSV and TSV"),
    (43, Code::BadValue, "apis.lettered.charset", "no charset `utf8mb4`"),
    (44, Code::BadDuration, "apis.broken.breaker.for", "say the unit"),
    (45, Code::WrongType, "apis.repeated.idempotent", ""),
];

#[test]
fn all_mistakes_are_told_at_once_each_at_its_place() {
    let found = load_with(RECIPE, &[]).expect_err("it has mistakes");
    let text = found.to_string();
    for (number, code, key, word) in TOLD {
        let key = format!("platforms.acme.{key}");
        let told = found.list().iter().find(|mistake| mistake.code == *code && mistake.key == key);
        let told =
            told.unwrap_or_else(|| panic!("{number} is not told as {code} of {key}:\n{text}"));
        let said = format!("{} {}", told.message, told.hint.as_deref().unwrap_or_default());
        assert!(said.contains(word), "{number}: {said}");
        let line =
            RECIPE.lines().position(|line| line.contains(&format!("# {number} "))).unwrap() + 1;
        assert_eq!(told.line, Some(line), "{number}: {told}");
    }
    let words: std::collections::BTreeSet<&str> =
        found.list().iter().map(|mistake| mistake.message.as_str()).collect();
    assert!(words.len() >= TOLD.len() - 2, "their own words: {text}");
    for secret in ["sk-live", "0123456789"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(found.list().len(), TOLD.len(), "nothing else is told: {text}");
}
