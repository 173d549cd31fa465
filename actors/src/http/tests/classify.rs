//! What an answer means, as tables.

use http::header::{CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER};
use jiff::Timestamp;

use super::super::classify::{Head, RETRY_AFTER_MAX, content_type, head, is_html, retry_after};
use super::*;
use crate::codes::Code;
use crate::plan::Format;

fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn wall() -> Timestamp {
    "1994-11-06T08:49:00Z".parse().unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn after(value: &str) -> Option<Duration> {
    retry_after(&headers(&[(RETRY_AFTER, value)]), wall())
}

#[test]
fn each_status_has_its_meaning() {
    let transient = Head::Transient { after: None };
    let throttled = Head::Throttled { after: None };
    let permanent = Head::Permanent(Code::PermanentStatus);
    let redirect = Head::Permanent(Code::RedirectRefused);
    let table: [(&[u16], &Head); 5] = [
        (&[200, 201, 202, 203, 204, 206, 299], &Head::Good),
        (&[408, 425, 500, 502, 503, 504, 507, 520, 529, 599], &transient),
        (&[429], &throttled),
        (&[300, 301, 302, 303, 304, 307, 308, 399], &redirect),
        (
            &[
                100, 101, 199, 400, 401, 402, 403, 404, 405, 409, 410, 413, 422, 451, 499, 501,
                505, 600, 999,
            ],
            &permanent,
        ),
    ];
    for (statuses, wanted) in table {
        for status in statuses {
            let meaning = head(*status, &HeaderMap::new(), Format::Json, wall());
            assert_eq!(meaning, *wanted, "{status}");
        }
    }
}

#[test]
fn retry_after_makes_some_statuses_a_refusal_and_only_lengthens_others() {
    let said = headers(&[(RETRY_AFTER, "7")]);
    let after = Some(secs(7));
    for status in [403, 429, 503] {
        assert_eq!(
            head(status, &said, Format::Json, wall()),
            Head::Throttled { after },
            "{status}"
        );
    }
    for status in [500, 502] {
        assert_eq!(
            head(status, &said, Format::Json, wall()),
            Head::Transient { after },
            "{status}"
        );
    }
    assert_eq!(head(200, &said, Format::Json, wall()), Head::Good);
    assert_eq!(head(404, &said, Format::Json, wall()), Head::Permanent(Code::PermanentStatus));
    let unread = headers(&[(RETRY_AFTER, "soon")]);
    assert_eq!(head(429, &unread, Format::Json, wall()), Head::Throttled { after: None });
    assert_eq!(head(403, &unread, Format::Json, wall()), Head::Permanent(Code::PermanentStatus));
}

#[test]
fn html_is_data_only_where_it_is_asked_for() {
    for kind in ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml", " text/html ;x"]
    {
        let html = headers(&[(CONTENT_TYPE, kind)]);
        assert!(is_html(&html), "{kind}");
        for format in [Format::Auto, Format::Json, Format::Csv, Format::Text] {
            let meaning = head(200, &html, format, wall());
            assert_eq!(meaning, Head::Transient { after: None }, "{kind} as {format:?}");
        }
        for format in [Format::Html, Format::Binary] {
            assert_eq!(head(200, &html, format, wall()), Head::Good, "{kind} as {format:?}");
        }
    }
    for kind in ["application/json", "text/plain", "text/htmlx", ""] {
        assert!(!is_html(&headers(&[(CONTENT_TYPE, kind)])), "{kind}");
    }
    assert_eq!(content_type(&HeaderMap::new()), None);
}

#[test]
fn retry_after_in_seconds_is_capped_and_never_negative() {
    let table = [
        ("0", Some(0)),
        ("1", Some(1)),
        (" 120 ", Some(120)),
        ("007", Some(7)),
        ("3600", Some(3600)),
        ("3601", Some(3600)),
        ("99999999999999999999999999", Some(3600)),
        ("-1", None),
        ("+5", None),
        ("1.5", None),
        ("5s", None),
        ("1e3", None),
        ("", None),
        ("soon", None),
        ("120, 240", None),
    ];
    for (text, wanted) in table {
        assert_eq!(after(text), wanted.map(secs), "{text:?}");
    }
    assert_eq!(RETRY_AFTER_MAX, secs(3600));
    assert_eq!(retry_after(&HeaderMap::new(), wall()), None);
    let mut odd = HeaderMap::new();
    odd.insert(RETRY_AFTER, HeaderValue::from_bytes(b"\xff\xfe").unwrap());
    assert_eq!(retry_after(&odd, wall()), None);
}

#[test]
fn retry_after_as_a_date_is_read_in_all_three_forms() {
    for text in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ] {
        assert_eq!(after(text), Some(secs(37)), "{text}");
    }
    for text in ["Sun, 06 Nov 1994", "1994-11-06T08:49:37Z", "Mon, 99 Nov 1994 08:49:37 GMT"] {
        assert_eq!(after(text), None, "{text}");
    }
    assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO), "it has passed");
    assert_eq!(after("Fri, 31 Dec 9999 23:59:59 GMT"), Some(RETRY_AFTER_MAX));
}

#[test]
fn a_date_counts_from_the_answers_own_date_so_that_clocks_need_not_agree() {
    let date = "Sun, 06 Nov 1994 12:00:30 GMT";
    let of = |said: &str| {
        let headers = headers(&[(RETRY_AFTER, date), (DATE, said)]);
        retry_after(&headers, wall())
    };
    assert_eq!(of("Sun, 06 Nov 1994 12:00:00 GMT"), Some(secs(30)), "hours ahead of this clock");
    assert_eq!(of("nonsense"), Some(RETRY_AFTER_MAX), "without one, this clock is asked");
}
