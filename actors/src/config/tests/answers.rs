//! What is declared of answers: each mistake has its key and its own message, and what was understood is shown.

use std::collections::BTreeSet;

use super::*;

/// Text to add to the api of [`BASE`], the code that it must give, and the key below the api.
const TABLE: &[(&str, Code, &str)] = &[
    ("answers = 5", Code::WrongType, "answers"),
    ("answers = [5]", Code::WrongType, "answers.0"),
    (r#"answers = [{ body = "code", is = 1 }]"#, Code::MissingKey, "answers.0.class"),
    (r#"answers = [{ body = "code", class = "good" }]"#, Code::BadValue, "answers.0.class"),
    (r#"answers = [{ bod = "code", class = "ok" }]"#, Code::UnknownKey, "answers.0.bod"),
    (r#"answers = [{ body = "a..b", class = "ok" }]"#, Code::BadValue, "answers.0.body"),
    (r#"answers = [{ header = "a b", class = "ok" }]"#, Code::BadHeader, "answers.0.header"),
    (r#"answers = [{ is = 1, class = "ok" }]"#, Code::MissingKey, "answers.0.is"),
    (r#"answers = [{ absent = true, class = "ok" }]"#, Code::MissingKey, "answers.0.absent"),
    (
        r#"answers = [{ body = "a", is = 1, not = 2, class = "ok" }]"#,
        Code::BadValue,
        "answers.0.not",
    ),
    (r#"answers = [{ status = 20, class = "ok" }]"#, Code::BadValue, "answers.0.status"),
    (r#"answers = [{ status = "500-499", class = "ok" }]"#, Code::BadValue, "answers.0.status"),
    (r#"answers = [{ contains = "", class = "ok" }]"#, Code::BadValue, "answers.0.contains"),
    (
        r#"answers = [{ content_type = "json", class = "ok" }]"#,
        Code::BadValue,
        "answers.0.content_type",
    ),
    (r#"answers = [{ empty = false, class = "ok" }]"#, Code::BadValue, "answers.0.empty"),
    (r#"answers = [{ rows = 5, min = 1, class = "ok" }]"#, Code::WrongType, "answers.0.rows"),
    (r#"answers = [{ rows = "data", class = "incomplete" }]"#, Code::MissingKey, "answers.0.rows"),
    (r#"answers = [{ min = 7, class = "incomplete" }]"#, Code::MissingKey, "answers.0.min"),
    (
        r#"answers = [{ rows = true, min = 7, max = 6, class = "ok" }]"#,
        Code::BadValue,
        "answers.0.min",
    ),
    (r#"answers = [{ rows = true, below = "", class = "ok" }]"#, Code::BadValue, "answers.0.below"),
    (
        r#"answers = [{ empty = true, class = "ok", wait = "5m" }]"#,
        Code::BadValue,
        "answers.0.wait",
    ),
    (
        r#"answers = [{ empty = true, class = "ok", then = "keep" }]"#,
        Code::BadValue,
        "answers.0.then",
    ),
    (
        r#"answers = [{ empty = true, class = "incomplete", then = "drop" }]"#,
        Code::BadValue,
        "answers.0.then",
    ),
    (
        r#"answers = [{ empty = true, class = "incomplete", then = "keep", wait = "5m" }]"#,
        Code::BadValue,
        "answers.0.wait",
    ),
    (
        r#"answers = [{ empty = true, class = "transient", breaker = true }]"#,
        Code::BadValue,
        "answers.0.breaker",
    ),
    (
        r#"answers = [{ empty = true, class = "transient", message = {} }]"#,
        Code::MissingKey,
        "answers.0.message",
    ),
    (
        r#"answers = [{ class = "ok" }, { empty = true, class = "permanent" }]"#,
        Code::BadValue,
        "answers.1",
    ),
    (r#"answers = [{ empty = true, class = "too_much" }]"#, Code::MissingKey, "split"),
    (r#"request_id = { body = "a", header = "b" }"#, Code::BadValue, "request_id.body"),
    (r#"request_id = "a..b""#, Code::BadValue, "request_id"),
    ("columns = []", Code::TooMany, "columns"),
    ("format = \"json\"\ncolumns = [\"a\"]", Code::BadValue, "columns"),
    (r#"decode = ["rar"]"#, Code::BadValue, "decode"),
    ("format = \"csv\"\ndecode = [\"zip\", \"gzip\"]", Code::NotSupported, "decode"),
    (r#"decode = ["zip"]"#, Code::MissingKey, "decode"),
    (r#"member = "*.csv""#, Code::MissingKey, "member"),
    ("format = \"csv\"\ndecode = [\"gzip\"]\nmember = \"a\"", Code::BadValue, "member"),
    ("format = \"csv\"\ndecode = [\"zip\"]\nmember = \"\"", Code::BadValue, "member"),
    (r#"members = "*""#, Code::MissingKey, "members"),
    ("format = \"csv\"\ndecode = [\"gzip\"]\nmembers = \"*\"", Code::BadValue, "members"),
    ("format = \"csv\"\ndecode = [\"zip\"]\nmembers = []", Code::TooMany, "members"),
    ("format = \"csv\"\ndecode = [\"zip\"]\nmembers = [\"a\", \"\"]", Code::BadValue, "members"),
    ("format = \"csv\"\ndecode = [\"zip\"]\nmembers = 5", Code::WrongType, "members"),
    (
        "format = \"csv\"\ndecode = [\"zip\"]\nmembers = \"*\"\nmember = \"a.csv\"",
        Code::BadValue,
        "members",
    ),
    (
        "format = \"csv\"\ndecode = [\"zip\"]\nmembers = \"*\"\npages = { by = \"link\" }",
        Code::NotSupported,
        "members",
    ),
    (r#"charset = "utf-17""#, Code::BadValue, "charset"),
    (r#"charset = "iso-2022-kr""#, Code::BadValue, "charset"),
    ("format = \"binary\"\ncharset = \"euc-kr\"", Code::BadValue, "charset"),
    (r#"idempotent = "no""#, Code::WrongType, "idempotent"),
    (r#"breaker = "on""#, Code::WrongType, "breaker"),
    ("breaker = 5", Code::WrongType, "breaker"),
    ("breaker = { after = 0 }", Code::BadValue, "breaker.after"),
    ("breaker = { for = 5 }", Code::BadDuration, "breaker.for"),
    (r#"breaker = { for = "48h" }"#, Code::BadDuration, "breaker.for"),
    ("breaker = { status = [500] }", Code::BadValue, "breaker.status"),
    ("breaker = { afer = 5 }", Code::UnknownKey, "breaker.afer"),
    (r#"split = { by = "list", param = "ids" }"#, Code::MissingKey, "split"),
    (
        "params = [\"ids\"]\nover = [{ status = 400, then = \"split\" }]\nsplit = { by = \"half\", param = \"ids\" }",
        Code::BadValue,
        "over.0.then",
    ),
    (
        "params = [\"ids\"]\nover = [{ status = 400, then = \"shrink_request\" }]\nsplit = { by = \"list\", param = \"ids\" }",
        Code::BadValue,
        "over.0.then",
    ),
];

/// The same for `split`, behind a rule that asks for it.
const SPLITS: &[(&str, Code, &str)] = &[
    (r#"split = { param = "ids" }"#, Code::MissingKey, "split.by"),
    (r#"split = { by = "weeks" }"#, Code::BadValue, "split.by"),
    (r#"split = { by = "list" }"#, Code::MissingKey, "split.param"),
    (r#"split = { by = "list", param = "id" }"#, Code::UnknownVariable, "split.param"),
    (r#"split = { by = "list", param = "ids", min = 5 }"#, Code::UnknownKey, "split.min"),
    (r#"split = { by = "half", param = "ids", min = 0 }"#, Code::BadValue, "split.min"),
    (r#"split = { by = "dates", to = "ids" }"#, Code::MissingKey, "split.from"),
    (r#"split = { by = "dates", from = "ids" }"#, Code::MissingKey, "split.to"),
    (r#"split = { by = "dates", from = "ids", to = "ids" }"#, Code::BadValue, "split.to"),
    (r#"split = { by = "dates", from = "ids", to = "b" }"#, Code::UnknownVariable, "split.to"),
    (
        r#"split = { by = "dates", from = "ids", to = "b", min = "1h" }"#,
        Code::BadValue,
        "split.min",
    ),
    (
        r#"split = { by = "dates", from = "ids", to = "b", end = "in" }"#,
        Code::BadValue,
        "split.end",
    ),
];

fn texts() -> impl Iterator<Item = (String, Code, String)> {
    let rule = "answers = [{ empty = true, class = \"too_much\" }]\n";
    let all = TABLE.iter().map(|one| ("", one)).chain(SPLITS.iter().map(move |one| (rule, one)));
    all.map(|(rule, (text, code, key))| {
        (format!("{BASE}{rule}{text}\n"), *code, format!("platforms.kakao.apis.report.{key}"))
    })
}

#[test]
fn every_mistake_about_answers_has_its_code_its_key_and_its_own_message() {
    let mut messages = BTreeSet::new();
    let mut count = 0;
    for (text, code, key) in texts() {
        let mistakes = load_with(&text, &[]).unwrap_err();
        let first = &mistakes.list()[0];
        assert_eq!((first.code, first.key.as_str()), (code, key.as_str()), "{text}\n{mistakes}");
        assert!(first.line.is_some(), "{text}\n{mistakes}");
        messages.insert(format!("{} {}", first.key, first.message));
        count += 1;
    }
    assert!(messages.len() >= count - 3, "{messages:#?}");
}

#[test]
fn a_cap_of_rows_is_reason_enough_for_a_split() {
    let pages = |guards: &str| {
        format!(
            "{BASE}pages = {{ by = \"none\", items = \"d\"{guards} }}\nsplit = {{ by = \"list\", param = \"ids\" }}\n"
        )
    };
    let loaded = load_with(&pages(", rows_max = 15000"), &[]).unwrap();
    let api = &loaded.plan.platforms.values().next().unwrap().apis[0];
    assert!(api.answers.split.is_some());
    let mistakes = load_with(&pages(""), &[]).unwrap_err();
    assert_eq!(mistakes.list()[0].code, Code::MissingKey, "{mistakes}");
}

#[test]
fn all_mistakes_about_answers_are_found_at_once() {
    let text = BASE.replace(
        "[platforms.kakao.limits]",
        "answers = [{ class = \"no\" }]\nrequest_id = 5\nbreaker = { after = 0 }\n[platforms.kakao.limits]",
    ) + "answers = [{ rows = true, class = \"so\" }]\ncharset = \"x\"\nsplit = { by = \"y\" }\n";
    let mistakes = load_with(&text, &[]).unwrap_err();
    let keys: BTreeSet<&str> = mistakes.list().iter().map(|one| one.key.as_str()).collect();
    let wanted = [
        "platforms.kakao.answers.0.class",
        "platforms.kakao.request_id",
        "platforms.kakao.breaker.after",
        "platforms.kakao.apis.report.answers.0.rows",
        "platforms.kakao.apis.report.answers.0.class",
        "platforms.kakao.apis.report.charset",
        "platforms.kakao.apis.report.split.by",
        "platforms.kakao.apis.report.split",
    ];
    assert_eq!(keys, wanted.into(), "{mistakes}");
}

#[test]
fn what_is_declared_of_answers_being_good_is_shown_by_check() {
    let text = BASE.replace(
        "[platforms.kakao.limits]",
        "answers = [{ status = [404, \"500-502\"], header = \"X-No\", absent = true, class = \"empty\" }]\n\
         request_id = { header = \"X-Transaction-ID\" }\n[platforms.kakao.limits]",
    ) + r#"answers = [
  { body = "code", is = [40100, 50000], class = "throttled", wait = "5m" },
  { body = "code", not = 0, class = "permanent", message = "message", breaker = true },
  { rows = "data.list", min = 15000, class = "too_much" },
  { rows = true, below = "total", class = "incomplete", wait = "10m" },
  { rows = true, max = 0, content_type = "text/csv", class = "incomplete", then = "keep" },
  { empty = true, contains = "x", class = "transient" },
]
format = "csv"
columns = ["date", "clicks"]
decode = ["zip"]
member = "*.csv"
charset = "utf-16"
params = ["ids", "since", "until"]
split = { by = "dates", from = "since", to = "until", min = "2d", end = "excluded" }
idempotent = false
breaker = { after = 3, for = "1m", status = [401] }
"#;
    let shown = describe(&plan(&text));
    for line in [
        "decodes a zip archive: its member *.csv",
        "charset UTF-16LE is stored as UTF-8",
        "answer throttled if `code` in the body is 40100 or 50000: holds the account for 5m",
        "answer permanent if `code` in the body is not 0: given up; counts for the breaker; says why in `message` in the body",
        "answer too_much if `data.list` has 15000 rows or more: split",
        "answer incomplete if the body has fewer rows than `total` says: tried again after 10m",
        "answer incomplete if the content type is text/csv, the body has 0 rows or fewer: stored and marked",
        "answer transient if the body holds \"x\", the body is empty: tried again",
        "answer empty if status 404 or 500-502, the header x-no is missing: stored and marked",
        "answer must name the columns date, clicks",
        "request id: the header x-transaction-id",
        "split: the days from since to until (excluded) in two halves of at least 2, at most 16 times",
        "not idempotent: a call whose answer is lost is dead",
        "breaker: 3 answers of 401 in a row hold this api of the account for 1m, then one call at a time",
    ] {
        assert!(shown.contains(&format!("    {line}\n")), "{line}\n{shown}");
    }
    let shown = describe(&plan(BASE));
    let line =
        "breaker: 10 answers of 401, 407 in a row hold the account for 5m, then one call at a time";
    assert!(shown.contains(line), "{shown}");
    let several =
        "format = \"csv\"\ndecode = \"zip\"\nmembers = [\"ads/*.csv\", \"keywords.csv\"]\n";
    let several = describe(&plan(&format!("{BASE}{several}")));
    let line = "    decodes a zip archive: an object of each member ads/*.csv or keywords.csv, at most 256\n";
    assert!(several.contains(line), "{several}");
    let off = describe(&plan(&format!("{BASE}breaker = \"off\"\n")));
    assert!(off.contains("    breaker off\n"), "{off}");
}
