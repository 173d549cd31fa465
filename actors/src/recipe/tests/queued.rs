use jiff::Timestamp;
use tollgate_protos::{Fetch, Priority};

use super::*;
use crate::codes::Code;
use crate::ids::LaneKey;

const APIS: &str = r#"apis.insights = { path = "{account}/insights", query = { since = "{since}", n = "{n|default('')}" } }"#;

fn lane(subject: &str) -> LaneKey {
    LaneKey::parse(subject).unwrap()
}

fn json(subject: &str, payload: &[u8]) -> Result<Accepted, Refusal> {
    check_queued(&plan(APIS), &lane(subject), &Content::Json, payload)
}

fn protobuf(subject: &str, payload: &[u8]) -> Result<Accepted, Refusal> {
    check_queued(&plan(APIS), &lane(subject), &Content::Protobuf, payload)
}

#[test]
fn a_content_type_is_read_as_the_header_may_be_written() {
    for (header, content) in [
        (None, Content::Json),
        (Some(""), Content::Json),
        (Some("application/json"), Content::Json),
        (Some(" Application/JSON ; charset=utf-8"), Content::Json),
        (Some("application/x-protobuf"), Content::Protobuf),
        (Some("APPLICATION/PROTOBUF;proto=tollgate.v1.Fetch"), Content::Protobuf),
        (Some("application/vnd.google.protobuf"), Content::Protobuf),
        (Some("text/csv; header=present"), Content::Other("text/csv; header=present".into())),
        (Some("application/jsonp"), Content::Other("application/jsonp".into())),
    ] {
        assert_eq!(Content::of(header), content, "{header:?}");
    }
    let Content::Other(kind) = Content::of(Some(&"x\n".repeat(1000))) else { panic!() };
    assert!(kind.len() < 100 && !kind.contains('\n'), "{kind}");
}

#[test]
fn what_the_subject_says_may_be_left_out_and_the_fetch_is_the_same() {
    let whole = check_fetch(
        &plan(APIS),
        br#"{"platform":"p","account":"a@b","api":"insights","params":{"since":"1"}}"#,
    )
    .unwrap();
    let short: Fetch = serde_json::from_str(r#"{"params":{"since":"1"}}"#).unwrap();
    let bytes = encode_protobuf(&short).unwrap();
    // Three spellings of one account.
    for subject in ["p.a%40b.insights", "p.a@b.insights", "p.%61@b.insights"] {
        for accepted in [
            json(subject, br#"{"params":{"since":"1"}}"#).unwrap(),
            json(subject, br#"{"account":"a@b","params":{"since":"1"}}"#).unwrap(),
            json(subject, &whole.payload).unwrap(),
            protobuf(subject, &bytes).unwrap(),
            protobuf(subject, &encode_protobuf(&whole.fetch).unwrap()).unwrap(),
        ] {
            assert_eq!(accepted.lane.subject(), "p.a%40b.insights");
            assert_eq!(accepted.payload, whole.payload);
            assert_eq!(accepted.fetch, whole.fetch);
            assert_eq!(accepted.id, whole.id);
        }
    }
}

#[test]
fn protobuf_carries_what_json_does_and_numbers_whole() {
    let text = r#"{"id":"f","params":{"since":"d","n":9007199254740993},"not_before":"2026-11-20T03:00:00.5Z",
        "deadline":"2026-11-20T12:00:01+09:00","once":true,"labels":{"tenant":"acme"}}"#;
    let fetch: Fetch = serde_json::from_str(text).unwrap();
    let from_json = json("p.a.insights.low", text.as_bytes()).unwrap();
    let from_protobuf = protobuf("p.a.insights.low", &encode_protobuf(&fetch).unwrap()).unwrap();
    assert_eq!(from_protobuf.payload, from_json.payload);
    assert_eq!(encode_json(&from_protobuf.fetch).unwrap(), from_json.payload);
    let stored = String::from_utf8(from_json.payload.to_vec()).unwrap();
    assert!(stored.contains("9007199254740993"), "{stored}");
    // What is stored is a line that `run` would take, too.
    let again = check_fetch(&plan(APIS), &from_json.payload).unwrap();
    assert_eq!((again.lane, again.id), (from_json.lane, from_json.id));
}

#[test]
fn the_subject_says_the_priority() {
    let good = |subject: &str, said: &str| {
        json(subject, format!(r#"{{"params":{{"since":"1"}}{said}}}"#).as_bytes())
    };
    for (subject, said, priority) in [
        ("p.a.insights", "", Priority::Normal),
        ("p.a.insights.high", "", Priority::High),
        ("p.a.insights.high", r#","priority":"normal""#, Priority::High),
        ("p.a.insights.low", r#","priority":"low""#, Priority::Low),
    ] {
        let accepted = good(subject, said).unwrap();
        assert_eq!((accepted.fetch.priority, accepted.lane.priority), (priority, priority));
        assert_eq!(accepted.lane.subject(), subject);
    }
    for (subject, said, reason) in [
        ("p.a.insights", "high", "the subject says priority `normal`, the fetch `high`"),
        ("p.a.insights.low", "high", "the subject says priority `low`, the fetch `high`"),
    ] {
        let refusal = good(subject, &format!(r#","priority":"{said}""#)).unwrap_err();
        assert_eq!(refusal.code, Code::SubjectMismatch);
        assert!(refusal.reason.starts_with(reason), "{refusal}");
    }
}

#[test]
fn what_disagrees_with_the_subject_is_refused_and_the_refusal_is_whole() {
    for (payload, reason) in [
        (r#"{"platform":"q"}"#, "the subject says platform `p`, the fetch `q`"),
        (r#"{"api":"other"}"#, "the subject says api `insights`, the fetch `other`"),
        (r#"{"account":"a@c"}"#, "the subject says account `a@b`, the fetch `a@c`"),
        (r#"{"account":""}"#, "the subject says account `a@b`, the fetch ``"),
        (
            r#"{"account":"a%40b"}"#,
            "the subject says account `a@b`, the fetch `a%40b`; only in the subject",
        ),
    ] {
        let fetch: Fetch = serde_json::from_str(payload).unwrap();
        let subject = "p.a%40b.insights.high";
        for refusal in [
            json(subject, payload.as_bytes()).unwrap_err(),
            protobuf(subject, &encode_protobuf(&fetch).unwrap()).unwrap_err(),
        ] {
            assert_eq!(refusal.code, Code::SubjectMismatch);
            assert!(refusal.reason.starts_with(reason), "{refusal}");
            let kept = refusal.fetch.unwrap();
            assert!(kept.platform.is_some() && kept.account.is_some() && kept.api.is_some());
            assert_eq!(kept.priority, Priority::High);
            assert_eq!(kept.account.as_deref(), fetch.account.as_deref().or(Some("a@b")));
        }
    }
    // Where the plan refuses it, the letter's fetch is whole as well.
    let refusal = json("p.a.nothing", b"{\"id\":\"f\"}").unwrap_err();
    assert_eq!(refusal.code, Code::UnknownApi);
    let kept = *refusal.fetch.unwrap();
    assert_eq!(
        serde_json::to_value(kept).unwrap(),
        json!({"id": "f", "platform": "p", "account": "a", "api": "nothing"})
    );
}

#[test]
fn what_is_not_of_its_content_type_is_refused_with_what_to_send() {
    let subject = "p.a.insights";
    let good =
        encode_protobuf(&serde_json::from_str(r#"{"id":"f1","params":{"since":"1"}}"#).unwrap())
            .unwrap();
    for (content, payload, code, reason) in [
        (
            Content::Json,
            &good[..],
            Code::FetchNotJson,
            "which needs the header Content-Type: application/x-protobuf",
        ),
        (Content::Json, b"", Code::FetchNotJson, "empty"),
        (Content::Json, b"hello", Code::FetchNotJson, "it does not start with `{`"),
        (
            Content::Protobuf,
            br#"{"id":"f1"}"#,
            Code::FetchNotProtobuf,
            "it looks like JSON: send application/json",
        ),
        (Content::Protobuf, b" \n{\"id\":1}", Code::FetchNotProtobuf, "it looks like JSON"),
        (Content::Protobuf, b"{|", Code::FetchNotProtobuf, "it looks like JSON"),
        (
            Content::Protobuf,
            &good[..good.len() - 1],
            Code::FetchNotProtobuf,
            "not a tollgate.v1.Fetch: ",
        ),
        (Content::Protobuf, b"\x0a\x02\xff\xff", Code::FetchNotProtobuf, "Fetch.id: "),
        (Content::Protobuf, b"\x50\x07", Code::FetchWrongType, "`priority` is 7, which is none"),
        (Content::Protobuf, &vec![0; FETCH_BYTES_MAX + 1], Code::FetchTooLarge, "262145"),
        (
            Content::of(Some("text/csv")),
            b"{}",
            Code::UnknownContentType,
            "Content-Type says `text/csv`; send JSON",
        ),
    ] {
        let refusal = check_queued(&plan(APIS), &lane(subject), &content, payload).unwrap_err();
        assert_eq!(refusal.code, code, "{content:?}: {refusal}");
        assert!(refusal.reason.contains(reason), "{content:?}: {refusal}");
        assert!(refusal.reason.len() < 400 && refusal.fetch.is_none(), "{refusal}");
    }
    // Nothing to fill in is no mistake of the form: it lacks its parameter only.
    for content in [Content::Protobuf, Content::Json] {
        let payload: &[u8] = if content == Content::Json { b"{}" } else { b"" };
        let refusal = check_queued(&plan(APIS), &lane(subject), &content, payload).unwrap_err();
        assert_eq!(refusal.code, Code::MissingParameter);
    }
}

#[test]
fn a_dead_letter_has_the_fetch_or_a_bounded_beginning_of_what_came() {
    let letter =
        |refusal: Refusal, raw: &[u8]| refusal.into_dead(7, raw, None, Timestamp::UNIX_EPOCH);
    let torn = [b"\x0a\x7f".as_slice(), &[0xff; 5000]].concat();
    let dead = letter(protobuf("p.a.insights", &torn).unwrap_err(), &torn);
    let raw = dead.raw.unwrap();
    assert!(raw.starts_with("\\n\\x7f\\xff\\xff") && raw.len() <= 2048, "{raw}");
    assert_eq!((dead.seq, dead.fetch, dead.code.as_str()), (7, None, "TG0124"));

    let text = "{".to_owned() + &"가".repeat(3000);
    let dead = letter(json("p.a.insights", text.as_bytes()).unwrap_err(), text.as_bytes());
    let raw = dead.raw.unwrap();
    assert!(raw.starts_with("{가가") && raw.len() <= 2048 + 2, "{}", raw.len());

    // JSON under the wrong header stays readable, and so does text that is not UTF-8.
    let dead = letter(protobuf("p.a.insights", b"{\"id\":1}").unwrap_err(), b"{\"id\":1}");
    assert_eq!(dead.raw.as_deref(), Some("{\"id\":1}"));
    let dead =
        letter(json("p.a.insights", b"{\"id\":\"\xff\"}").unwrap_err(), b"{\"id\":\"\xff\"}");
    assert_eq!(dead.raw.as_deref(), Some("{\"id\":\"\u{fffd}\"}"));

    let payload = b"{\"id\":\"f\"}";
    let dead = letter(json("p.a.insights.low", payload).unwrap_err(), payload);
    assert_eq!(dead.raw, None);
    assert_eq!(dead.fetch.unwrap().priority, Priority::Low);
}

#[test]
fn an_id_in_a_header_is_one_line_of_ascii_and_still_one_id() {
    let id = |id: &str| {
        let payload = json!({"id": id, "params": {"since": "1"}}).to_string();
        json("p.a%40b.insights.high", payload.as_bytes()).unwrap().message_id()
    };
    assert_eq!(id("2026-11-20/act_1:x"), "p.a%40b.insights:2026-11-20/act_1:x");
    assert_eq!(id("a b\r\nX: 1"), "p.a%40b.insights:a%20b%0D%0AX:%201");
    assert_eq!(id("100%"), "p.a%40b.insights:100%25");
    assert_ne!(id("가"), id("%EA%B0%80"));
}
