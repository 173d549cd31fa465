//! Rules about what answers say: each mistake has its key and its own message, and what was understood is shown.

use std::collections::BTreeSet;

use super::*;

/// Text to add to the api of [`BASE`], the code that it must give, and the key.
const TABLE: &[(&str, Code, &str)] = &[
    (
        r#"over = [{ status = 429, wait = "boundary" }]"#,
        Code::MissingKey,
        "platforms.kakao.apis.report.over.0.hits",
    ),
    ("observe = 5", Code::WrongType, "platforms.kakao.apis.report.observe"),
    ("observe = [5]", Code::WrongType, "platforms.kakao.apis.report.observe.0"),
    (
        r#"observe = [{ header = "x" }]"#,
        Code::MissingKey,
        "platforms.kakao.apis.report.observe.0.as",
    ),
    (
        r#"observe = [{ header = "x", as = "left" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.as",
    ),
    (
        r#"observe = [{ as = "remaining" }]"#,
        Code::MissingKey,
        "platforms.kakao.apis.report.observe.0.header",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", limt = "gap" }]"#,
        Code::UnknownKey,
        "platforms.kakao.apis.report.observe.0.limt",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", limit = "gapp" }]"#,
        Code::UnknownLimit,
        "platforms.kakao.apis.report.observe.0.limit",
    ),
    (
        r#"observe = [{ as = "remaining", header = "a b" }]"#,
        Code::BadHeader,
        "platforms.kakao.apis.report.observe.0.header",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", body = "y" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.body",
    ),
    (
        r#"observe = [{ as = "remaining", body = "a..b" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.body",
    ),
    (
        r#"observe = [{ as = "remaining", body = "a", nth = 1 }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.nth",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", nth = 99 }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.nth",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", path = "a", field = "b" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.field",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", path = "" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.path",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", unit = "s" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.unit",
    ),
    (
        r#"observe = [{ as = "reset", header = "x", unit = "sec" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.unit",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", target = 90 }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.target",
    ),
    (
        r#"observe = [{ as = "percent", header = "x", target = 0 }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.target",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", limit = "gap", scope = "api" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.scope",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", limit = "gap", wait = "5s" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.wait",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", scope = "all" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.scope",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", cap = "1d" }]"#,
        Code::BadDuration,
        "platforms.kakao.apis.report.observe.0.cap",
    ),
    (
        r#"observe = [{ as = "remaining", header = "x", policy = "p" }]"#,
        Code::UnknownKey,
        "platforms.kakao.apis.report.observe.0.policy",
    ),
    (
        r#"observe = [{ as = "ratelimit", body = "x" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.observe.0.as",
    ),
    (r#"over = "429""#, Code::WrongType, "platforms.kakao.apis.report.over"),
    (r#"over = [{ wait = "5s" }]"#, Code::BadValue, "platforms.kakao.apis.report.over.0"),
    (
        r#"over = [{ status = 200, wait = "5s" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0",
    ),
    ("over = [{ status = [99] }]", Code::BadValue, "platforms.kakao.apis.report.over.0.status"),
    (
        r#"over = [{ status = "many" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.status",
    ),
    ("over = [{ status = 1.5 }]", Code::WrongType, "platforms.kakao.apis.report.over.0.status"),
    (
        "over = [{ status = 429, is = 1 }]",
        Code::MissingKey,
        "platforms.kakao.apis.report.over.0.is",
    ),
    (
        r#"over = [{ status = 429, contains = "" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.contains",
    ),
    (
        r#"over = [{ status = 429, hits = "hourly" }]"#,
        Code::UnknownLimit,
        "platforms.kakao.apis.report.over.0.hits",
    ),
    (
        "over = [{ status = 429, wait = 5 }]",
        Code::BadDuration,
        "platforms.kakao.apis.report.over.0.wait",
    ),
    (
        "over = [{ status = 429, wait = {} }]",
        Code::MissingKey,
        "platforms.kakao.apis.report.over.0.wait",
    ),
    (
        r#"over = [{ status = 429, wait = { header = "x", unit = "hours" } }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.wait.unit",
    ),
    (
        r#"over = [{ status = 429, wait = { until = "00:00" } }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.wait.until",
    ),
    (
        r#"over = [{ status = 429, wait = { until = "25:00 UTC" } }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.wait.until",
    ),
    (
        r#"over = [{ status = 429, wait = { until = "00:00 Asia/Soul" } }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.wait.until",
    ),
    (
        r#"over = [{ status = 429, floor = "5m", cap = "1m" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.floor",
    ),
    (
        r#"over = [{ status = 429, jitter = "2h" }]"#,
        Code::BadDuration,
        "platforms.kakao.apis.report.over.0.jitter",
    ),
    (
        r#"over = [{ status = 429, then = "wait" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.then",
    ),
    (
        r#"over = [{ status = 429, then = "split" }]"#,
        Code::MissingKey,
        "platforms.kakao.apis.report.over.0.then",
    ),
    (
        r#"over = [{ status = 400 }, { status = 429, then = "shrink_request" }]"#,
        Code::MissingKey,
        "platforms.kakao.apis.report.over.1.then",
    ),
    (
        r#"over = [{ status = 429, then = "park", scope = "platform" }]"#,
        Code::BadValue,
        "platforms.kakao.apis.report.over.0.scope",
    ),
    (
        r#"over = [{ status = 429, limit = "gap" }]"#,
        Code::UnknownKey,
        "platforms.kakao.apis.report.over.0.limit",
    ),
    ("adaptive = 5", Code::WrongType, "platforms.kakao.apis.report.adaptive"),
    (r#"adaptive = { max = "5/s" }"#, Code::MissingKey, "platforms.kakao.apis.report.adaptive.min"),
    (r#"adaptive = { min = "5/s" }"#, Code::MissingKey, "platforms.kakao.apis.report.adaptive.max"),
    (
        r#"adaptive = { min = "5/s", max = "1/s" }"#,
        Code::BadValue,
        "platforms.kakao.apis.report.adaptive.min",
    ),
    (
        r#"adaptive = { min = "5", max = "9/s" }"#,
        Code::BadValue,
        "platforms.kakao.apis.report.adaptive.min",
    ),
    (
        r#"adaptive = { min = "1/s", max = "99999/s" }"#,
        Code::BadValue,
        "platforms.kakao.apis.report.adaptive.max",
    ),
    (
        r#"adaptive = { min = "1/s", max = "9/s", step = "0/s" }"#,
        Code::BadValue,
        "platforms.kakao.apis.report.adaptive.step",
    ),
    (
        r#"adaptive = { min = "1/s", max = "9/s", cut = 1 }"#,
        Code::BadValue,
        "platforms.kakao.apis.report.adaptive.cut",
    ),
    (
        r#"adaptive = { min = "1/s", max = "9/s", rise = 1 }"#,
        Code::UnknownKey,
        "platforms.kakao.apis.report.adaptive.rise",
    ),
];

#[test]
fn each_mistake_of_a_rule_is_found_under_its_key() {
    for (text, code, key) in TABLE {
        let mistakes = load_with(&format!("{BASE}{text}\n"), &[]).unwrap_err();
        let found: Vec<_> =
            mistakes.list().iter().map(|one| (one.code, one.key.as_str())).collect();
        assert_eq!(found, [(*code, *key)], "{text}\n{mistakes}");
        // The line of the rule, not that of its table.
        assert_eq!(mistakes.list()[0].line, Some(9), "{text}");
    }
    let messages: BTreeSet<String> = TABLE
        .iter()
        .map(|(text, ..)| load_with(&format!("{BASE}{text}\n"), &[]).unwrap_err())
        .map(|mistakes| format!("{} {}", mistakes.list()[0].key, mistakes.list()[0].message))
        .collect();
    assert!(messages.len() >= TABLE.len() - 3, "{messages:#?}");
}

#[test]
fn all_mistakes_of_rules_are_found_at_once_and_a_platforms_are_told_once() {
    let text = BASE.replace(
        "[platforms.kakao.limits]",
        "over = [{ status = 429, hits = \"no\" }, { status = 429, then = \"so\" }]\n[platforms.kakao.limits]",
    ) + "[platforms.kakao.apis.other]\npath = \"other\"\nobserve = [{ as = \"used\" }]\n";
    let mistakes = load_with(&text, &[]).unwrap_err();
    let keys: Vec<&str> = mistakes.list().iter().map(|one| one.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "platforms.kakao.over.1.then",
            "platforms.kakao.over.0.hits",
            "platforms.kakao.apis.other.observe.0.header",
        ],
        "{mistakes}"
    );
    let text = BASE.replace(
        "[platforms.kakao.limits]",
        "over = [{ status = 429, hits = \"no\" }]\n[platforms.kakao.limits]",
    ) + "[platforms.kakao.apis.other]\npath = \"other\"\n";
    let mistakes = load_with(&text, &[]).unwrap_err();
    assert_eq!(mistakes.list().len(), 1, "{mistakes}");
    assert!(mistakes.to_string().contains("one of gap"), "{mistakes}");
}

#[test]
fn too_many_rules_are_one_mistake() {
    let rule = "{ as = \"used\", header = \"x\" }, ";
    let text = format!("{BASE}observe = [{}]\n", rule.repeat(33));
    let mistakes = load_with(&text, &[]).unwrap_err();
    assert_eq!((mistakes.list().len(), mistakes.list()[0].code), (1, Code::TooMany), "{mistakes}");
}

#[test]
fn what_is_declared_of_answers_is_shown_by_check() {
    let text = format!(
        "{BASE}{}",
        r#"observe = [
  { header = "X-Left", as = "remaining", limit = "gap" },
  { header = "x-reset", as = "reset", unit = "epoch", limit = "gap", cap = "10m" },
  { header = "x-usage", path = "*.*.call_count", as = "percent", target = 90, scope = "platform", wait = "5m" },
  { header = "sforce-limit-info", field = "api-usage", as = "usage", limit = "gap" },
  { body = "quota.used", as = "used", limit = "gap" },
  { as = "ratelimit", policy = "hour", limit = "gap" },
]
over = [
  { body = "code", is = [40100, "x"], hits = "gap", wait = "5m", scope = "platform" },
  { status = [403, 429], header = "x-left", wait = { header = "x-reset", unit = "epoch" }, floor = "1m" },
  { status = 400, contains = "reached", wait = { until = "00:00 America/Los_Angeles" }, then = "fail" },
  { status = 423 },
]
adaptive = { min = "6/min", max = "20/s" }
"#
    );
    let shown = describe(&plan(&text));
    for line in [
        "reads header x-left: calls left, of limit gap",
        "reads header x-reset: when more is allowed (epoch), of limit gap, at most 10m ahead",
        "reads `*.*.call_count` in header x-usage: percent used, 90 being all; used up, it holds the platform for 5m or as long as it says, at most 1h",
        "reads `api-usage` in header sforce-limit-info: calls used / allowed, of limit gap",
        "reads `quota.used` in the body: calls used, of limit gap",
        "reads header ratelimit: calls left of policy hour, of limit gap",
        "refused if `code` in the body is 40100 or x: waits 5m; holds the platform (limit gap), tried again",
        "refused if status 403 or 429, there is header x-left: waits as header x-reset says (epoch), at least 1m, at most 1h; holds the account, tried again",
        "refused if status 400, body holds \"reached\": waits until 00:00:00 America/Los_Angeles, and up to 1s more; holds the account, given up",
        "refused if status 423: waits as Retry-After says, else longer each time, at most 1h; holds the account, tried again",
        "adaptive pace of this api of an account: from 0.1 to 20 calls/s, + 0.2 with a good answer, x 0.5 with a refusal",
    ] {
        assert!(shown.contains(&format!("    {line}\n")), "{line}\n{shown}");
    }
}
