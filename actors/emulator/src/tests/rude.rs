//! Every rude endpoint does what it says.

use std::io::{self, ErrorKind, Read as _};
use std::time::{Duration, Instant, SystemTime};

use flate2::read::GzDecoder;

use super::client::Client;
use super::{ask, start};
use crate::{Emulator, ProviderLimit, big_sha256};

const SILENCE: Duration = Duration::from_millis(100);

fn sent(emulator: &Emulator, path: &str) -> Client {
    let mut client = Client::connect(emulator.addr());
    client.send("a", path, "").unwrap();
    client
}

/// Whether nothing more comes for a while, the connection staying open.
fn is_silent(client: &mut Client) -> bool {
    client.patience(SILENCE);
    let kind = client.stream.read(&mut [0; 1]).map_err(|error| error.kind());
    matches!(kind, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// All that comes until the end, and how it ended.
fn rest(client: &mut Client) -> (usize, io::Result<()>) {
    let mut body = Vec::new();
    let end = client.stream.read_to_end(&mut body).map(drop);
    (body.len(), end)
}

#[test]
fn hang_never_answers() {
    let emulator = start(Vec::new());
    assert!(is_silent(&mut sent(&emulator, "/rude/hang")));
}

#[test]
fn hang_after_head_sends_a_head_and_no_body() {
    let emulator = start(Vec::new());
    let mut client = sent(&emulator, "/rude/hang-after-head");
    let got = client.head().unwrap();
    assert_eq!((got.status, got.header("content-length")), (200, Some("1000")));
    assert!(is_silent(&mut client));
}

#[test]
fn stall_sends_so_many_bytes_and_no_more() {
    let emulator = start(Vec::new());
    for after in [0, 1, 70_000] {
        let mut client = sent(&emulator, &format!("/rude/stall?after={after}"));
        let promised = client.head().unwrap().header("content-length").unwrap().to_owned();
        assert_eq!(promised, (after + 1_000).to_string());
        client.stream.read_exact(&mut vec![0; after]).unwrap();
        assert!(is_silent(&mut client), "after {after}");
    }
}

#[test]
fn reset_answers_with_nothing_but_a_reset() {
    let emulator = start(Vec::new());
    let (bytes, end) = rest(&mut sent(&emulator, "/rude/reset"));
    assert_eq!((bytes, end.unwrap_err().kind()), (0, ErrorKind::ConnectionReset));
}

#[test]
fn reset_mid_sends_half_of_the_body_at_most() {
    let emulator = start(Vec::new());
    let mut client = sent(&emulator, "/rude/reset-mid");
    let got = client.head().unwrap();
    assert_eq!(got.header("content-length"), Some("1000"));
    let (bytes, end) = rest(&mut client);
    assert!(bytes <= 500, "{bytes}");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn short_ends_properly_before_what_it_promised() {
    let emulator = start(Vec::new());
    let mut client = sent(&emulator, "/rude/short");
    assert_eq!(client.head().unwrap().header("content-length"), Some("1000"));
    let (bytes, end) = rest(&mut client);
    assert_eq!((bytes, end.is_ok()), (500, true));
}

#[test]
fn long_sends_more_than_it_promised() {
    let emulator = start(Vec::new());
    let mut client = sent(&emulator, "/rude/long");
    assert_eq!(client.head().unwrap().header("content-length"), Some("10"));
    client.stream.read_exact(&mut [0; 30]).unwrap();
    assert!(is_silent(&mut client));
}

#[test]
fn garbage_is_not_http() {
    let emulator = start(Vec::new());
    let mut client = sent(&emulator, "/rude/garbage");
    assert_eq!(client.head().unwrap_err().to_string(), "this is not HTTP");
}

#[test]
fn close_promises_to_stay_and_goes() {
    let emulator = start(Vec::new());
    let mut client = Client::connect(emulator.addr());
    let got = client.get("a", "/rude/close").unwrap();
    assert_eq!((got.status, got.header("connection")), (200, Some("keep-alive")));
    assert_eq!(got.body.len(), 500);
    let (bytes, end) = rest(&mut client);
    assert_eq!((bytes, end.is_ok()), (0, true));
}

#[test]
fn status_answers_the_code_that_was_asked_for() {
    let emulator = start(Vec::new());
    for code in [200, 400, 401, 403, 404, 418, 500, 503, 599, 777] {
        assert_eq!(ask(&emulator, "a", &format!("/rude/status/{code}")).status, code);
    }
    for path in ["/rude/status/100", "/rude/status/x", "/rude/unknown", "/v1/other"] {
        assert_eq!(ask(&emulator, "a", path).status, 404, "{path}");
    }
}

#[test]
fn flaky_fails_so_often_for_each_account_and_query() {
    let emulator = start(Vec::new());
    let statuses = |account: &str, path: &str| -> Vec<u16> {
        (0..4).map(|_| ask(&emulator, account, path).status).collect()
    };
    assert_eq!(statuses("a", "/rude/flaky?fails=2"), [500, 500, 200, 200]);
    assert_eq!(statuses("b", "/rude/flaky?fails=2"), [500, 500, 200, 200]);
    assert_eq!(statuses("a", "/rude/flaky?fails=3&x=1"), [500, 500, 500, 200]);
}

#[test]
fn too_many_is_said_so_often_with_the_hint_that_was_asked_for() {
    let emulator = start(Vec::new());
    let hint = |how: &str| {
        let path = format!("/rude/429?n=1&retry_after={how}");
        let got = ask(&emulator, "a", &path);
        assert_eq!(got.status, 429);
        assert_eq!(ask(&emulator, "a", &path).status, 200);
        got.header("retry-after").unwrap().to_owned()
    };
    assert_eq!(hint("7"), "7");
    assert_eq!(hint("garbage"), "in a little while");
    assert!(hint("huge").parse::<u64>().is_err());
    let now = SystemTime::now();
    let ahead = httpdate::parse_http_date(&hint("date")).unwrap().duration_since(now).unwrap();
    assert!(ahead <= Duration::from_secs(2), "{ahead:?}");
    assert_eq!(ask(&emulator, "a", "/rude/429").header("retry-after"), None);
    assert_eq!(emulator.score().refused, 0, "no limit refused it");
}

#[test]
fn html_is_a_good_answer_of_the_wrong_kind() {
    let emulator = start(Vec::new());
    let got = ask(&emulator, "a", "/rude/html");
    assert_eq!((got.status, got.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(got.body.starts_with(b"<!doctype html>"));
}

#[test]
fn bomb_is_small_on_the_wire_and_large_behind() {
    let emulator = start(Vec::new());
    let got = ask(&emulator, "a", "/rude/bomb?bytes=100000000");
    assert_eq!(got.header("content-encoding"), Some("gzip"));
    assert!(got.body.len() < 200_000, "{}", got.body.len());
    let expanded = io::copy(&mut GzDecoder::new(got.body.as_slice()), &mut io::sink()).unwrap();
    assert_eq!(expanded, 96 << 20);
}

#[test]
fn big_has_the_length_and_the_hash_that_were_asked_for() {
    use sha2::{Digest as _, Sha256};
    let emulator = start(Vec::new());
    for (query, length) in [("bytes=3000000", Some("3000000")), ("bytes=3000000&chunked=1", None)] {
        let got = ask(&emulator, "a", &format!("/rude/big?{query}"));
        assert_eq!(got.header("content-length"), length);
        let hash = format!("{:x}", Sha256::digest(&got.body));
        assert_eq!(hash, big_sha256(3_000_000), "{query}");
    }
    assert_eq!(ask(&emulator, "a", "/rude/big?bytes=0").body.len(), 0);
}

#[test]
fn redirect_points_where_it_was_told() {
    let emulator = start(Vec::new());
    let got = ask(&emulator, "a", "/rude/redirect?to=http%3A%2F%2Felsewhere.example%2Fx");
    assert_eq!((got.status, got.header("location")), (302, Some("http://elsewhere.example/x")));
}

#[test]
fn slow_keeps_its_head_back() {
    let emulator = start(Vec::new());
    let asked = Instant::now();
    assert_eq!(ask(&emulator, "a", "/rude/slow?ms=150").status, 200);
    assert!(asked.elapsed() >= Duration::from_millis(150));
}

#[test]
fn badgzip_cannot_be_read() {
    let emulator = start(Vec::new());
    for how in ["plain", "crc", "cut"] {
        let got = ask(&emulator, "a", &format!("/rude/badgzip?how={how}"));
        assert_eq!((got.status, got.header("content-encoding")), (200, Some("gzip")));
        let read = io::copy(&mut GzDecoder::new(got.body.as_slice()), &mut io::sink());
        assert!(read.is_err(), "{how}");
    }
}

#[test]
fn rude_calls_are_judged_if_they_name_an_account() {
    let emulator = start(vec![ProviderLimit::gap("gap", Duration::from_secs(60))]);
    assert_eq!(ask(&emulator, "a", "/rude/html").status, 200);
    assert_eq!(ask(&emulator, "a", "/rude/html").status, 429);
    assert_eq!(ask(&emulator, "", "/rude/html").status, 200);
    assert_eq!(ask(&emulator, "", "/rude/html").status, 200);
}
