use proptest::prelude::*;

use super::*;
use crate::codes::Code;

const SIMPLE: &str = r#"apis.a = { path = "c/{x}/r", query = { q = "{y|default('')}" } }"#;

fn url(apis: &str, params: Value) -> Result<String, Refusal> {
    request(&plan(apis), "act_1", params).map(|request| request.url.to_string())
}

#[test]
fn a_request_has_url_query_and_headers() {
    let plan = plan(
        r#"
        headers = { X-Account = "{account}", X-Kind = "platform" }
        auth = { bearer = "env:SECRET" }
        apis.a.path = "c/{id}/r"
        apis.a.query = { b = "{ids|join(',')}", a = "{date|days(-1)}", n = 5 }
        apis.a.headers = { x-kind = "api {platform}/{api}" }
        "#,
    );
    let request =
        request(&plan, "act/1", json!({"ids": ["1", "2"], "date": "2026-01-01"})).unwrap();
    assert_eq!(request.url.as_str(), "https://api.example.com/v1/c/f1/r?b=1%2C2&a=2025-12-31&n=5");
    let headers = &request.headers;
    assert_eq!(headers["x-account"], "act/1");
    assert_eq!(headers["x-kind"], "api p/a");
    assert_eq!(headers["authorization"], "Bearer s3cret-value");
    assert!(headers["authorization"].is_sensitive());
    assert_eq!(headers.len(), 3);
    assert!(!format!("{request:?}{plan:?}").contains("s3cret"));
}

#[test]
fn a_default_stands_in_for_a_parameter() {
    let apis = r#"apis.a = { path = "{kind}", query = { n = "{n}" }, params = { kind = { default = "daily" }, n = { default = 5 } } }"#;
    assert!(url(apis, json!({})).unwrap().ends_with("/v1/daily?n=5"));
    assert!(url(apis, json!({"kind": "w", "n": 6})).unwrap().ends_with("/v1/w?n=6"));
}

#[test]
fn a_value_cannot_leave_its_segment_or_its_pair() {
    for (value, encoded) in [
        ("../../admin", "..%2F..%2Fadmin"),
        ("a/b?c#d", "a%2Fb%3Fc%23d"),
        ("a\\b", "a%5Cb"),
        ("%2e%2e", "%252e%252e"),
        ("a b+c&d=e", "a%20b%2Bc%26d%3De"),
        ("a;b:c@d", "a%3Bb%3Ac%40d"),
        ("\r\nX: y", "%0D%0AX%3A%20y"),
        ("\0", "%00"),
        ("é", "%C3%A9"),
        ("...", "..."),
    ] {
        let url = url(SIMPLE, json!({"x": value, "y": value})).unwrap();
        assert_eq!(url, format!("https://api.example.com/v1/c/{encoded}/r?q={encoded}"));
    }
}

#[test]
fn a_value_that_would_change_the_path_is_refused() {
    for value in [".", "..", ""] {
        for path in ["c/{x}/r", "{x}/r", "c/{x}", "{x}", "c/{x}{e}/r"] {
            let apis = format!("apis.a.path = \"{path}\"");
            let params = if path.contains("{e}") {
                json!({"x": value, "e": ""})
            } else {
                json!({"x": value})
            };
            let refusal = url(&apis, params).expect_err(path);
            assert_eq!(refusal.code, Code::UnsafePath, "{path} with {value:?}");
        }
    }
    let halves = |apis| url(apis, json!({"x": ".", "y": "."})).unwrap_err().code;
    assert_eq!(halves("apis.a.path = \"c/{x}{y}/r\""), Code::UnsafePath);
    assert_eq!(halves("apis.a.path = \"c/{x}./{y}r\""), Code::UnsafePath);
    assert_eq!(halves("apis.a.path = \"c/%2E{x}/{y}r\""), Code::UnsafePath);
    assert!(url("apis.a.path = \"c/x{x}/r\"", json!({"x": ""})).is_ok());
}

#[test]
fn a_value_cannot_break_a_header() {
    let plan = plan("headers = { X-A = \"{x}\" }\napis.a.path = \"a\"");
    for value in ["a\r\nHost: evil", "a\nb", "a\0", "\u{7f}"] {
        let refusal = request(&plan, "a", json!({"x": value})).unwrap_err();
        assert_eq!(refusal.code, Code::UnsafeHeader, "{value:?}");
        assert!(refusal.reason.contains("x-a"));
    }
    assert!(request(&plan, "a", json!({"x": "한국 \t ok"})).is_ok());
}

#[test]
fn calls_go_to_declared_hosts_only() {
    let apis = r#"
        allowed_hosts = ["eu.example.com", "us.example.com:8443"]
        apis.a = { path = "https://{host}/x" }
    "#;
    for good in ["eu.example.com", "EU.example.com", "api.example.com"] {
        assert!(url(apis, json!({"host": good})).is_ok(), "{good}");
    }
    for bad in [
        "evil.example.net",
        "example.com",
        "us.example.com",
        "eu.example.com:8443",
        "eu.example.com.evil.net",
        "eu.example.com@evil.net",
        "evil.net/eu.example.com",
        "evil.net#eu.example.com",
        "127.0.0.1",
        "eu.example.com\\.evil.net",
        "",
    ] {
        let refusal = url(apis, json!({"host": bad})).expect_err(bad);
        assert!(matches!(refusal.code, Code::HostRefused | Code::UnsafePath), "{bad}: {refusal}");
    }
}

#[test]
fn an_allowed_host_counts_with_its_port_and_never_without_tls() {
    let plan =
        plan("allowed_hosts = [\"b.example.com\", \"c.example.com:81\"]\napis.a.path = \"a\"");
    let (platform, _) = first(&plan);
    for (url, allowed) in [
        ("https://api.example.com/other", true),
        ("https://api.example.com:443/", true),
        ("https://api.example.com:444/", false),
        ("http://api.example.com/", false),
        ("https://b.example.com/", true),
        ("http://b.example.com/", false),
        ("https://b.example.com:81/", false),
        ("https://c.example.com:81/", true),
        ("https://c.example.com/", false),
        ("https://user@b.example.com/", false),
        ("ftp://b.example.com/", false),
        ("https://xb.example.com/", false),
    ] {
        assert_eq!(url_allowed(&platform, &url.parse().unwrap()), allowed, "{url}");
    }
}

#[test]
fn a_url_is_bounded() {
    let refusal = url(SIMPLE, json!({"x": "x".repeat(URL_BYTES_MAX)})).unwrap_err();
    assert_eq!(refusal.code, Code::RequestTooLong);
    assert!(url(SIMPLE, json!({"x": "x".repeat(URL_BYTES_MAX - 100)})).is_ok());
}

proptest! {
    #[test]
    fn whatever_the_value_the_call_stays_where_the_recipe_put_it(x in ".*", y in "\\PC*") {
        let plan = plan(SIMPLE);
        if let Ok(request) = request(&plan, "a", json!({"x": x, "y": y})) {
            let url = request.url;
            prop_assert_eq!(url.host_str(), Some("api.example.com"));
            let segments: Vec<&str> = url.path_segments().unwrap().collect();
            prop_assert_eq!(segments.len(), 4);
            prop_assert_eq!((segments[0], segments[1], segments[3]), ("v1", "c", "r"));
            let decoded = percent_encoding::percent_decode_str(segments[2]).decode_utf8().unwrap();
            prop_assert_eq!(decoded.as_ref(), x.as_str());
            let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(pairs, vec![("q".to_owned(), y)]);
            prop_assert_eq!(url.fragment(), None);
        } else {
            prop_assert!(x.is_empty() || x == "." || x == "..", "{:?} was refused", x);
        }
    }
}
