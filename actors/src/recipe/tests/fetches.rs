use super::*;
use crate::codes::Code;

const APIS: &str = r#"
    apis.insights = { path = "{account}/insights", query = { since = "{since}", ids = "{ids|default([])|join(',')}" } }
    apis.accounts.path = "accounts"
    apis.regional.path = "https://{host}/x"
"#;

const GOOD: &str = r#"{"id":"f1","platform":"p","account":"act_1","api":"insights","params":{"since":"2026-11-19"}}"#;

/// A good fetch with one field put in, replaced, or (by null) taken out.
fn with(field: &str, value: Value) -> Vec<u8> {
    let mut fetch = map(serde_json::from_str(GOOD).unwrap());
    if value.is_null() {
        fetch.remove(field);
    } else {
        fetch.insert(field.to_owned(), value);
    }
    serde_json::to_vec(&fetch).unwrap()
}

#[test]
fn a_good_fetch_is_accepted_as_it_is() {
    let accepted = check_fetch(&plan(APIS), GOOD.as_bytes()).unwrap();
    assert_eq!(accepted.lane.subject(), "p.act_1.insights");
    assert_eq!(accepted.id, "f1");
    assert_eq!(accepted.payload, GOOD.as_bytes());
    assert_eq!(accepted.fetch.params["since"], "2026-11-19");
}

#[test]
fn everything_of_a_fetch_is_kept() {
    let text = r#"{"id":"f","platform":"p","account":"한/국.","api":"insights","params":{"ids":["a"],"since":"d"},
        "not_before":"2026-11-20T03:00:00Z","deadline":"2026-11-20T12:00:00+09:00","once":true,
        "priority":"low","labels":{"tenant":"acme"}}"#;
    let accepted = check_fetch(&plan(APIS), text.as_bytes()).unwrap();
    assert_eq!(accepted.lane.subject(), "p.%ED%95%9C%2F%EA%B5%AD%2E.insights.low");
    let again: tollgate_protos::Fetch = serde_json::from_slice(&accepted.payload).unwrap();
    assert_eq!(again, accepted.fetch);
    assert!(again.once && again.labels["tenant"] == "acme");
    assert_eq!(again.not_before, again.deadline);
}

#[test]
fn an_id_that_is_not_given_is_a_hash_of_the_rest() {
    let plan = plan(APIS);
    let id = |text: &str| check_fetch(&plan, text.as_bytes()).unwrap().id;
    let a =
        id(r#"{"platform":"p","account":"a","api":"insights","params":{"since":"1","ids":["x"]}}"#);
    let b = id(
        r#" {"api":"insights","params":{"ids":["x"],"since":"1"}, "account":"\u0061","platform":"p"}"#,
    );
    assert_eq!(a, b);
    assert_eq!(a.len(), 32);
    assert!(a.bytes().all(|b| b.is_ascii_hexdigit()));
    let other = [
        r#"{"platform":"p","account":"b","api":"insights","params":{"since":"1","ids":["x"]}}"#,
        r#"{"platform":"p","account":"a","api":"insights","params":{"since":"2","ids":["x"]}}"#,
        r#"{"platform":"p","account":"a","api":"insights","params":{"since":1,"ids":["x"]}}"#,
        r#"{"platform":"p","account":"a","api":"insights","params":{"since":"1","ids":["x"]},"labels":{"a":"b"}}"#,
    ];
    for text in other {
        assert_ne!(id(text), a, "{text}");
    }
    // The stored form has the id, and is accepted as the same fetch.
    let first = check_fetch(&plan, other[0].as_bytes()).unwrap();
    let second = check_fetch(&plan, &first.payload).unwrap();
    assert_eq!((first.id, first.payload), (second.id, second.payload));
}

#[test]
fn what_is_not_a_fetch_is_refused_with_its_code() {
    let plan = plan(APIS);
    for (raw, code, reason) in [
        (b"".to_vec(), Code::FetchNotJson, "empty"),
        (b" \n".to_vec(), Code::FetchNotJson, "empty"),
        (b"null".to_vec(), Code::FetchNotJson, "`{`"),
        (b"[\"f1\",\"p\",\"a\",\"insights\"]".to_vec(), Code::FetchNotJson, "`{`"),
        (b"{\"id\":".to_vec(), Code::FetchNotJson, "EOF"),
        (b"{} {}".to_vec(), Code::FetchNotJson, "trailing"),
        (b"{\"id\":\"\xff\"}".to_vec(), Code::FetchNotUtf8, "byte 8"),
        (b"\xef\xbb\xbf{}".to_vec(), Code::FetchNotJson, "`{`"),
        (vec![b' '; FETCH_BYTES_MAX + 1], Code::FetchTooLarge, "262145"),
        (
            ("{\"a\":".repeat(200) + "1" + &"}".repeat(200)).into_bytes(),
            Code::FetchUnknownField,
            "`a`",
        ),
        (
            with("not_befor", json!("2026-11-20T03:00:00Z")),
            Code::FetchUnknownField,
            "did you mean `not_before`?",
        ),
        (with("id", json!(5)), Code::FetchWrongType, "`id` must be text"),
        (with("account", json!(123)), Code::FetchWrongType, "`account` must be text"),
        (with("params", json!([])), Code::FetchWrongType, "`params` must be an object"),
        (with("labels", json!({"a": 1})), Code::FetchWrongType, "`labels`"),
        (with("once", json!("yes")), Code::FetchWrongType, "`once`"),
        (with("priority", json!("urgent")), Code::FetchWrongType, "`priority`"),
        (with("deadline", json!("tomorrow")), Code::FetchWrongType, "`deadline`"),
        (with("not_before", json!(1_700_000_000)), Code::FetchWrongType, "`not_before`"),
        (with("platform", json!(null)), Code::FetchMissingField, "`platform`"),
        (with("account", json!(null)), Code::FetchMissingField, "`account`"),
        (with("api", json!(null)), Code::FetchMissingField, "`api`"),
        (with("platform", json!("q")), Code::UnknownPlatform, "`q`"),
        (with("platform", json!("P")), Code::UnknownPlatform, "did you mean `p`?"),
        (with("api", json!("insight")), Code::UnknownApi, "did you mean `insights`?"),
        (with("account", json!("")), Code::BadAccount, "empty"),
        (with("account", json!("a".repeat(257))), Code::BadAccount, "257"),
        (with("id", json!("")), Code::BadId, "empty"),
        (with("id", json!("a".repeat(129))), Code::BadId, "129"),
        (with("params", json!({})), Code::MissingParameter, "`since`"),
        (with("params", json!({"since": null})), Code::BadParameter, "`since`"),
        (with("params", json!({"since": {"a": 1}})), Code::BadParameter, "`since`"),
        (with("params", json!({"since": "x", "ids": "1,2"})), Code::TemplateFailed, "ids"),
        (
            with("params", json!({"since": "x", "sinse": "y"})),
            Code::UnknownParameter,
            "did you mean `since`?",
        ),
        (
            with("params", json!({"since": "x", "account": "y"})),
            Code::UnknownParameter,
            "field of the fetch",
        ),
        (with("fresh_for", json!("10")), Code::FetchWrongType, "`fresh_for`"),
        (with("labels", json!({"": "x"})), Code::BadLabels, "name"),
        (with("labels", json!({"a": "x".repeat(257)})), Code::BadLabels, "256"),
        (with("account", json!("..")), Code::UnsafePath, "path"),
    ] {
        let refusal = check_fetch(&plan, &raw).expect_err(reason);
        let shown = String::from_utf8_lossy(&raw).chars().take(120).collect::<String>();
        assert_eq!(refusal.code, code, "{shown}: {refusal}");
        assert!(refusal.reason.contains(reason), "{shown}: {refusal}");
        assert!(refusal.reason.len() < 400, "{refusal}");
    }
}

#[test]
fn a_refusal_carries_the_fetch_if_it_could_be_read() {
    let plan = plan(APIS);
    let refusal = check_fetch(&plan, &with("platform", json!("q"))).unwrap_err();
    assert_eq!(refusal.fetch.unwrap().id.as_deref(), Some("f1"));
    assert!(check_fetch(&plan, b"{").unwrap_err().fetch.is_none());
}

#[test]
fn a_host_that_is_not_declared_is_refused_before_any_call() {
    let text =
        r#"{"platform":"p","account":"a","api":"regional","params":{"host":"evil.example.net"}}"#;
    assert_eq!(check_fetch(&plan(APIS), text.as_bytes()).unwrap_err().code, Code::HostRefused);
}

#[test]
fn labels_are_bounded_in_number() {
    let labels = |n: usize| (0..n).map(|i| (format!("l{i}"), json!("x"))).collect::<Map<_, _>>();
    let plan = plan(APIS);
    assert!(check_fetch(&plan, &with("labels", labels(32).into())).is_ok());
    assert_eq!(
        check_fetch(&plan, &with("labels", labels(33).into())).unwrap_err().code,
        Code::BadLabels
    );
}

#[test]
fn a_deadline_before_its_not_before_is_refused() {
    let mut fetch = map(serde_json::from_str(GOOD).unwrap());
    fetch.insert("not_before".into(), json!("2026-11-20T03:00:01Z"));
    fetch.insert("deadline".into(), json!("2026-11-20T03:00:00Z"));
    let refusal = check_fetch(&plan(APIS), &serde_json::to_vec(&fetch).unwrap()).unwrap_err();
    assert_eq!(refusal.code, Code::DeadlinePassed);
}

#[test]
fn declared_parameters_may_be_carried_without_being_named() {
    let plan = plan("apis.a = { path = \"a\", params = [\"note\"] }");
    let fetch =
        |params: &str| format!(r#"{{"platform":"p","account":"a","api":"a","params":{params}}}"#);
    assert!(check_fetch(&plan, fetch(r#"{"note":{"any":[1]}}"#).as_bytes()).is_ok());
    assert_eq!(
        check_fetch(&plan, fetch(r#"{"other":1}"#).as_bytes()).unwrap_err().code,
        Code::UnknownParameter
    );
}

#[test]
fn a_key_that_cannot_be_is_refused_before_any_call() {
    let plan = plan(
        "apis.a = { path = \"a\" }\n[store]\nkey = \"{platform}/{api}/{account}/{params.day}/{id}/{page}\"",
    );
    let fetch = |params: &str| {
        let text = format!(r#"{{"platform":"p","account":"a","api":"a","params":{params}}}"#);
        check_fetch(&plan, text.as_bytes())
            .map(|accepted| accepted.id)
            .map_err(|refusal| refusal.code)
    };
    assert!(fetch(r#"{"day":"2026-01-01"}"#).is_ok());
    assert_eq!(fetch("{}"), Err(Code::MissingParameter));
    assert_eq!(fetch(r#"{"day":""}"#), Err(Code::KeyRefused));
}
