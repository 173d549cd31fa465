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
];

#[test]
fn twenty_mistakes_are_told_at_once_each_at_its_place() {
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
