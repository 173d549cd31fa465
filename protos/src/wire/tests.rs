use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Any time that protobuf can hold and jiff too.
fn times() -> impl Strategy<Value = Timestamp> {
    (YEAR_ONE_S..=253_402_207_199_i64, 0..1_000_000_000_i32)
        .prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap())
}

fn values() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| Json::Number(Number::from_f64(number).unwrap())),
        ".{0,8}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::Array),
            btree_map(".{0,4}", inner, 0..4)
                .prop_map(|fields| Json::Object(fields.into_iter().collect())),
        ]
    })
}

fn texts() -> impl Strategy<Value = Option<String>> {
    option::of(".{0,12}")
}

prop_compose! {
    fn fetches()(
        id in texts(),
        platform in texts(),
        account in texts(),
        api in texts(),
        params in btree_map(".{0,6}", values(), 0..4),
        not_before in option::of(times()),
        deadline in option::of(times()),
        fresh_for in texts(),
        once in any::<bool>(),
        priority in prop_oneof![
            Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)
        ],
        labels in btree_map(".{0,6}", ".{0,6}", 0..3),
    ) -> Fetch {
        let params = params.into_iter().collect();
        Fetch {
            id, platform, account, api, params, not_before, deadline, fresh_for, once, priority, labels,
        }
    }
}

proptest! {
    #[test]
    fn a_fetch_comes_back_from_protobuf_as_it_was(fetch in fetches()) {
        let bytes = fetch.to_protobuf().unwrap();
        let back = Fetch::from_protobuf(&bytes).unwrap();
        // Text too: -0.0 equals 0.0, and an order of fields would show.
        prop_assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(&fetch).unwrap());
        prop_assert_eq!(back.to_protobuf().unwrap(), bytes);
        prop_assert_eq!(back, fetch);
    }

    #[test]
    fn a_done_and_a_dead_come_back_as_they_were(
        fetch in option::of(fetches()),
        numbers in any::<(u64, u16, u32, u32, u64)>(),
        text in texts(),
        at in times(),
        labels in btree_map(".{0,6}", ".{0,6}", 0..3),
    ) {
        let (seq, http_status, attempts, pages, waited_ms) = numbers;
        let object = Object {
            key: "k".into(), bytes: waited_ms, sha256: "00".into(), stored_bytes: seq,
            stored_sha256: text.clone(), member: text.clone(),
        };
        let done = Done {
            id: text.clone().unwrap_or_default(), seq, objects: vec![object; 2], http_status, attempts, pages,
            waited_ms, fetched_at: at, labels, empty: seq % 2 == 0, incomplete: seq % 3 == 0,
            request_id: text.clone(), split_into: text.clone().into_iter().collect(),
            manifest: text.clone(), lists: attempts,
        };
        let wire = v1::Done::try_from(&done).unwrap().encode_to_vec();
        prop_assert_eq!(Done::try_from(v1::Done::decode(&*wire).unwrap()).unwrap(), done);

        let dead = Dead {
            seq, fetch, raw: text.clone(), source: text.clone(), code: "TG0101".into(), reason: "r".into(),
            attempts, http_status: text.as_ref().map(|_| http_status), body_start: text.clone(), request_id: text,
            died_at: at,
        };
        let wire = v1::Dead::try_from(&dead).unwrap().encode_to_vec();
        prop_assert_eq!(Dead::try_from(v1::Dead::decode(&*wire).unwrap()).unwrap(), dead);
    }

    #[test]
    fn bytes_that_are_no_fetch_are_an_error_and_never_a_panic(bytes in vec(any::<u8>(), 0..64)) {
        if let Ok(fetch) = Fetch::from_protobuf(&bytes) {
            let again = fetch.to_protobuf().unwrap();
            prop_assert_eq!(Fetch::from_protobuf(&again).unwrap(), fetch);
        }
    }
}

#[test]
fn numbers_beyond_a_double_keep_every_digit() {
    for number in [json!(9_007_199_254_740_993_u64), json!(i64::MIN), json!(u64::MAX)] {
        let fetch = Fetch {
            params: [("n".to_owned(), number.clone())].into_iter().collect(),
            ..<_>::default()
        };
        let back = Fetch::from_protobuf(&fetch.to_protobuf().unwrap()).unwrap();
        assert_eq!(back.params["n"], number);
    }
}

#[test]
fn the_bytes_are_those_of_the_schema() {
    // Written by hand from the schema and https://protobuf.dev/programming-guides/encoding/.
    let bytes = b"\x0a\x02f1\x12\x01p\x1a\x01a\x22\x01x\
        \x2a\x0b\x0a\x01n\x12\x06\x18\xff\xff\xff\xff\x0f\
        \x2a\x0e\x0a\x01o\x12\x09\x42\x07\x0a\x05\x0a\x01k\x12\x00\
        \x48\x01\x50\x02\x5a\x06\x0a\x01l\x12\x01v";
    // The value below `o` has no kind.
    let error = Fetch::from_protobuf(bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`params.o` has a value without a kind; for null, set null_value"
    );
    let bytes = b"\x0a\x02f1\x12\x01p\x1a\x01a\x22\x01x\
        \x2a\x0b\x0a\x01n\x12\x06\x18\xff\xff\xff\xff\x0f\
        \x2a\x10\x0a\x01o\x12\x0b\x42\x09\x0a\x07\x0a\x01k\x12\x02\x10\x01\
        \x32\x08\x08\x01\x10\x80\xca\xb5\xee\x01\
        \x48\x01\x50\x02\x5a\x06\x0a\x01l\x12\x01v";
    let fetch = Fetch::from_protobuf(bytes).unwrap();
    let text = r#"{"id":"f1","platform":"p","account":"a","api":"x","params":{"n":4294967295,"o":{"k":true}},
        "not_before":"1970-01-01T00:00:01.5Z","once":true,"priority":"low","labels":{"l":"v"}}"#;
    assert_eq!(fetch, serde_json::from_str(text).unwrap());
    assert_eq!(fetch.to_protobuf().unwrap(), bytes);
}

#[test]
fn what_does_not_fit_is_named() {
    let param = |kind| {
        let value = v1::Value { kind };
        v1::Fetch { params: [("n".to_owned(), value)].into(), ..<_>::default() }
    };
    let at = |seconds, nanos| v1::Fetch {
        deadline: Some(prost_types::Timestamp { seconds, nanos }),
        ..<_>::default()
    };
    for (wire, wanted) in [
        (param(None), "`params.n` has a value without a kind"),
        (param(Some(Kind::DoubleValue(f64::NAN))), "`params.n` has the number NaN"),
        (param(Some(Kind::DoubleValue(f64::INFINITY))), "`params.n` has the number inf"),
        (at(0, 1_000_000_000), "`deadline` has 1000000000 ns"),
        (at(0, -1), "`deadline` has -1 ns"),
        (at(i64::MAX, 0), "`deadline` is 9223372036854775807 s from 1970, outside"),
        (at(YEAR_ONE_S - 1, 0), "outside the years 1 to 9999"),
        (v1::Fetch { priority: 3, ..<_>::default() }, "`priority` is 3, which is none"),
        (v1::Fetch { priority: -1, ..<_>::default() }, "`priority` is -1"),
    ] {
        let error = Fetch::from_protobuf(&wire.encode_to_vec()).unwrap_err();
        assert!(
            error.to_string().starts_with(wanted) || error.to_string().ends_with(wanted),
            "{error}"
        );
    }
    let done = v1::Done { http_status: 65_536, ..<_>::default() };
    assert_eq!(
        Done::try_from(done).unwrap_err().to_string(),
        "`http_status` is 65536, at most 65535 can be"
    );
    assert_eq!(
        Dead::try_from(v1::Dead::default()).unwrap_err().to_string(),
        "`died_at` is not set"
    );
}

#[test]
fn a_value_of_the_greatest_depth_is_carried_also_within_a_dead_letter_and_a_deeper_one_refused() {
    let nested = |depth: usize, list: bool| {
        let value = (0..depth)
            .fold(json!(1), |inner, _| if list { json!([inner]) } else { json!({ "k": inner }) });
        Fetch { params: [("deep".to_owned(), value)].into_iter().collect(), ..<_>::default() }
    };
    for list in [true, false] {
        let fetch = nested(DEPTH_MAX, list);
        let dead = v1::Dead {
            fetch: Some(v1::Fetch::try_from(&fetch).unwrap()),
            died_at: Some(prost_types::Timestamp::default()),
            ..<_>::default()
        };
        let back = Dead::try_from(v1::Dead::decode(&*dead.encode_to_vec()).unwrap()).unwrap();
        assert_eq!(back.fetch.unwrap(), fetch);

        let error = nested(DEPTH_MAX + 1, list).to_protobuf().unwrap_err();
        assert!(error.to_string().contains("deeper than the 32"), "{error}");
    }
    // As deep as a fetch in JSON can be at all.
    assert!(nested(126, true).to_protobuf().is_err());
}

#[test]
fn an_unknown_field_is_ignored() {
    // Field 100, a text.
    let bytes = b"\x0a\x01f\xa2\x06\x03new";
    assert_eq!(Fetch::from_protobuf(bytes).unwrap().id.as_deref(), Some("f"));
}
