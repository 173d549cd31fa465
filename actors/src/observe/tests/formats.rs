//! Every format, with the page it is from.

use std::time::Duration;

use http::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use jiff::Timestamp;

use super::super::json::JsonPath;
use super::super::ratelimit::{Item, items};
use super::super::retry_after;
use super::super::value::{Unit, count_left, count_used, percent, wait};

fn now() -> Timestamp {
    "1994-11-06T08:49:00Z".parse().unwrap()
}

/// Text, unit, the wait in milliseconds, and where it is written so.
const TIMES: &[(&str, Unit, Option<u64>, &str)] = &[
    (
        "120",
        Unit::RetryAfter,
        Some(120_000),
        "https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3",
    ),
    ("0", Unit::RetryAfter, Some(0), "the same"),
    ("1000000", Unit::RetryAfter, Some(1_000_000_000), "the same"),
    ("99999999999999999999", Unit::RetryAfter, Some(u64::MAX), "the same"),
    ("-1", Unit::RetryAfter, None, "the same: a non-negative integer"),
    ("1.5", Unit::RetryAfter, None, "the same"),
    ("soon", Unit::RetryAfter, None, "the same"),
    ("", Unit::RetryAfter, None, "the same"),
    (
        "Sun, 06 Nov 1994 08:49:37 GMT",
        Unit::RetryAfter,
        Some(37_000),
        "https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7",
    ),
    ("Sunday, 06-Nov-94 08:49:37 GMT", Unit::RetryAfter, Some(37_000), "the same: RFC 850"),
    ("Sun Nov  6 08:49:37 1994", Unit::RetryAfter, Some(37_000), "the same: asctime"),
    ("Sun, 06 Nov 1994 08:00:00 GMT", Unit::RetryAfter, Some(0), "it has passed"),
    ("1994-11-06T08:49:37Z", Unit::RetryAfter, None, "no HTTP date"),
    (
        "784111777",
        Unit::Epoch,
        Some(37_000),
        "https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api",
    ),
    (
        "784111777",
        Unit::Epoch,
        Some(37_000),
        "https://docs.x.com/x-ads-api/fundamentals/rate-limiting",
    ),
    ("784111777.25", Unit::Epoch, Some(37_250), "with a fraction"),
    (
        "784111777500",
        Unit::EpochMillis,
        Some(37_500),
        "https://developers.hubspot.com/docs/api/usage-details",
    ),
    ("0", Unit::Epoch, Some(0), "it has passed"),
    ("-784111777", Unit::Epoch, None, "no moment of a reset"),
    ("soon", Unit::Epoch, None, ""),
    (
        "30",
        Unit::Seconds,
        Some(30_000),
        "https://datatracker.ietf.org/doc/html/draft-polli-ratelimit-headers-02",
    ),
    ("0.5", Unit::Seconds, Some(500), "with a fraction"),
    (
        "5",
        Unit::Minutes,
        Some(300_000),
        "https://developers.facebook.com/docs/graph-api/overview/rate-limiting: estimated_time_to_regain_access",
    ),
    ("0", Unit::Minutes, Some(0), "the same"),
    (
        "300",
        Unit::Seconds,
        Some(300_000),
        "https://developers.facebook.com/docs/marketing-api/overview/rate-limiting: reset_time_duration",
    ),
    ("1500", Unit::Millis, Some(1_500), ""),
    ("1e3", Unit::Seconds, None, ""),
    ("NaN", Unit::Seconds, None, ""),
    ("5s", Unit::Seconds, None, "a unit of its own is a duration"),
    (
        "30s",
        Unit::Duration,
        Some(30_000),
        "https://developers.google.com/google-ads/api/reference/rpc/latest/QuotaErrorDetails",
    ),
    (
        "3.5s",
        Unit::Duration,
        Some(3_500),
        "https://protobuf.dev/reference/protobuf/google.protobuf/#duration",
    ),
    ("1h30m", Unit::Duration, Some(5_400_000), ""),
    ("PT5M", Unit::Duration, Some(300_000), "https://www.iso.org/standard/70907.html"),
    ("-5s", Unit::Duration, None, ""),
    ("30", Unit::Duration, None, "no unit"),
    ("1994-11-06T08:49:37Z", Unit::Date, Some(37_000), "https://www.rfc-editor.org/rfc/rfc3339"),
    ("1994-11-06T17:49:37+09:00", Unit::Date, Some(37_000), "the same"),
    ("Sun, 06 Nov 1994 08:49:37 GMT", Unit::Date, Some(37_000), "an HTTP date"),
    ("1994-11-06", Unit::Date, None, "no moment"),
];

#[test]
fn every_form_of_a_time_is_read_and_no_other() {
    for (text, unit, wanted, source) in TIMES {
        let wait = wait(text, *unit, now());
        let ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        assert_eq!(ms, *wanted, "{text:?} as {unit:?}: {source}");
    }
    // Beyond the calendar, and beyond all numbers.
    for text in ["99999999999", "99999999999999999999"] {
        assert!(wait(text, Unit::Epoch, now()) > Some(Duration::from_secs(1 << 33)), "{text}");
    }
}

#[test]
fn a_moment_is_compared_with_the_answers_own_clock() {
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("Sun, 06 Nov 1994 12:00:30 GMT"));
    assert_eq!(retry_after(&headers, now()), Some(Duration::from_secs(3 * 3600 + 11 * 60 + 30)));
    headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 12:00:00 GMT"));
    assert_eq!(retry_after(&headers, now()), Some(Duration::from_secs(30)));
}

#[test]
fn counts_are_rounded_to_the_safe_side() {
    let table = [
        ("17", Some(17), Some(17)),
        (" 17 ", Some(17), Some(17)),
        ("17.9", Some(17), Some(18)),
        ("0", Some(0), Some(0)),
        ("-3", Some(0), None),
        ("99999999999999", Some(u32::MAX), Some(u32::MAX)),
        ("many", None, None),
        ("", None, None),
        ("1e9", None, None),
        ("0x10", None, None),
    ];
    for (text, left, used) in table {
        assert_eq!((count_left(text), count_used(text)), (left, used), "{text:?}");
    }
    assert_eq!(
        (percent("95"), percent("95.1%"), percent("120"), percent("%")),
        (Some(95), Some(96), Some(120), None)
    );
}

/// The answer of the draft's examples and of the deployments that are met.
/// <https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10>
#[test]
fn the_ratelimit_field_is_read_as_a_structured_field() {
    let item = |policy: &str, left, reset| Item { policy: policy.into(), left, reset, quota: None };
    let table = [
        (r#""default";r=50;t=30"#, Some(vec![item("default", Some(50), Some(30))])),
        (r#""problemPolicy";r=0;t=10"#, Some(vec![item("problemPolicy", Some(0), Some(10))])),
        (
            r#""perminute";r=9;t=50 , "perhour"; r=999"#,
            Some(vec![item("perminute", Some(9), Some(50)), item("perhour", Some(999), None)]),
        ),
        (r#""peruser";r=7;pk=:cHsdsRa894==:;t=9"#, Some(vec![item("peruser", Some(7), Some(9))])),
        (r#"default;r=5;x;y=?1;z=1.5;note="a\"b""#, Some(vec![item("default", Some(5), None)])),
        // Of a repeated parameter the last counts.
        (r#""a";r=5;r=4"#, Some(vec![item("a", Some(4), None)])),
        ("", Some(vec![])),
        (r#""a" ;r=5"#, None),
        (r#""a";r=5,"#, None),
        (r#""a";r=-5"#, None),
        (r#""a";r="5""#, None),
        (r#""a";r=5.0"#, None),
        (r#""a";r"#, None),
        (r#""a";R=5"#, None),
        (r#""a" "b""#, None),
        (r#""a"#, None),
        (r#""a\n""#, None),
        (r#""a";r=1000000000000000"#, None),
        ("limit=10, remaining=5, reset=3", None),
        ("5", None),
        ("(1 2)", None),
        ("\u{e4}", None),
        (";r=5", None),
    ];
    for (text, wanted) in table {
        assert_eq!(items(text), wanted, "{text}");
    }
    let policy = items(r#""default";q=100;w=10, "bytes";q=5000;qu="content-bytes""#).unwrap();
    assert_eq!((policy[0].quota, policy[1].quota), (Some(100), Some(5000)));
    let many = vec![r#""a";r=1"#; 65].join(", ");
    assert_eq!(items(&many), None);
}

fn found(path: &str, text: &str) -> Vec<String> {
    JsonPath::new(path).unwrap().find(text.as_bytes())
}

#[test]
fn a_place_in_json_is_found_also_where_the_text_breaks_off() {
    // https://business-api.tiktok.com/portal/docs?id=1740029171730433: code 40100 in a 200.
    let tiktok = r#"{"message":"Too many requests","code":40100,"data":{"list":[{"id":1},{"#;
    assert_eq!(found("code", tiktok), ["40100"]);
    assert_eq!(found("data.list.0.id", tiktok), ["1"]);
    assert_eq!(found("data.list.1.id", tiktok), [""; 0]);
    // https://developers.facebook.com/docs/graph-api/overview/rate-limiting
    let meta = r#"{"123":[{"type":"ads_insights","call_count":28,"total_time":25},{"type":"x","call_count":95.5}],
        "456":[{"call_count":7}]}"#;
    assert_eq!(found("*.*.call_count", meta), ["28", "95.5", "7"]);
    assert_eq!(found("123.0.call_count", meta), ["28"]);
    assert_eq!(found("123.*.call_count", meta), ["28", "95.5"]);
    // https://shopify.dev/docs/api/usage/rate-limits
    let shopify = r#"{"data":{"a":[1,2,3]},"extensions":{"cost":{"throttleStatus":{"currentlyAvailable":954}}}}"#;
    assert_eq!(found("extensions.cost.throttleStatus.currentlyAvailable", shopify), ["954"]);
    assert_eq!(found("extensions.cost", shopify), [""; 0], "an object is no value");
    assert_eq!(found("ok", r#"{"ok":false}"#), ["false"]);
    assert_eq!(found("0", "[7,8]"), ["7"]);
    assert_eq!(found("a", "{\"\\u0061\":\"x\\ny\"}"), ["x\ny"]);
    for text in ["", "<html>", "null", "7", "{\"a\"", "{\"a\":", "\u{0}", "[[[["] {
        assert_eq!(found("a", text), [""; 0], "{text}");
    }
    // As deep as serde goes and no deeper.
    assert_eq!(found("a", &"[".repeat(100_000)), [""; 0]);
    let many = format!("[{}]", vec!["1"; 1000].join(","));
    assert_eq!(found("*", &many).len(), 256);
}

#[test]
fn paths_that_are_none_are_refused() {
    for text in ["", ".", "a.", ".a", "a..b", &vec!["a"; 17].join(".")] {
        assert_eq!(JsonPath::new(text), None, "{text}");
    }
    for text in ["a", "*.*.x", "errors.0.code"] {
        assert_eq!(JsonPath::new(text).unwrap().to_string(), text);
    }
}
