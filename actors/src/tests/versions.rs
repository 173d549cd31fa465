//! What a later version may leave behind or send: read past what is not known, or named and never guessed at.

use serde_json::{Value, json};
use tollgate_gate::{At, DecodeError, Ledger, LimitSet};
use tollgate_protos::{Dead, Done};

use crate::control::{Answer, Status};
use crate::holds::OperatorHold;
use crate::ledger::record::Record;
use crate::mixed::{FormError, Limits};
use crate::nats::ask::NodeAnswer;
use crate::nats::session::{About, Shown};
use crate::pages::Note;

/// The same with a field that this version does not know, in every object.
fn later(value: &Value) -> Vec<u8> {
    fn add(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(add);
                fields.insert("colour".into(), json!({ "of": ["a", "later", "version"] }));
            }
            Value::Array(items) => items.iter_mut().for_each(add),
            _ => {}
        }
    }
    let mut value = value.clone();
    add(&mut value);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn sessions_holds_events_and_answers_may_say_more() {
    let about = json!({
        "node": "n", "version": "9.0.0", "started": "2026-11-22T00:00:00Z", "config": "h",
        "takes": true, "heeds": ["h2"],
    });
    let shown: Shown = serde_json::from_slice(&later(&about)).unwrap();
    assert!(shown.takes);
    assert_eq!((shown.about.config.as_str(), shown.heeds), ("h", Some(vec!["h2".to_owned()])));
    // And less: what earlier versions write.
    let mut earlier = about;
    for gone in ["takes", "heeds"] {
        earlier.as_object_mut().unwrap().remove(gone);
    }
    let shown: Shown = serde_json::from_value(earlier.clone()).unwrap();
    assert_eq!((shown.takes, shown.heeds), (false, None));
    // Earlier versions read what this one writes: they know these fields alone.
    let now = Shown { takes: true, heeds: Some(vec!["h2".into()]), ..shown };
    let about: About = serde_json::from_value(serde_json::to_value(now).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(about).unwrap(), earlier);

    let hold = json!({ "reason": "r", "since": "2026-11-22T00:00:00Z" });
    let hold: OperatorHold = serde_json::from_slice(&later(&hold)).unwrap();
    assert_eq!(hold.reason.as_deref(), Some("r"));

    let done = serde_json::to_value(Done { id: "1".into(), seq: 7, ..Done::default() }).unwrap();
    let done: Done = serde_json::from_slice(&later(&done)).unwrap();
    assert_eq!(done.seq, 7);
    let dead = serde_json::to_value(Dead { code: "TG0209".into(), ..Dead::default() }).unwrap();
    let dead: Dead = serde_json::from_slice(&later(&dead)).unwrap();
    assert_eq!(dead.code, "TG0209");

    let answer = Answer::Status(Status { running: true, waiting: 3, ..Status::default() });
    let answer = NodeAnswer { node: "n".into(), session: None, answer };
    // The name of what is answered is no place for a second one.
    let mut answer = serde_json::to_value(answer).unwrap();
    let status = answer["answer"]["status"].take();
    answer["answer"]["status"] = serde_json::from_slice(&later(&status)).unwrap();
    answer["colour"] = "red".into();
    let answer: NodeAnswer = serde_json::from_value(answer).unwrap();
    let Answer::Status(status) = answer.answer else { panic!("{answer:?}") };
    assert_eq!(status.waiting, 3);
}

#[test]
fn records_notes_and_limits_of_a_later_form_are_refused_by_its_number() {
    let mut record = Record::default().encode().to_vec();
    record[0] = 200;
    let error = Record::decode(&record).unwrap_err().to_string();
    assert!(error.contains("version 200"), "{error}");

    let mut gate = Ledger::new().encode(&LimitSet::default(), At(0));
    gate[1] = 200;
    let read = Ledger::decode(&LimitSet::default(), &gate, At(0));
    assert_eq!(read.unwrap_err(), DecodeError::Version(200));

    let mut note = Note::default().encode().to_vec();
    note[0] = 200;
    let error = Note::decode(&note).unwrap_err().to_string();
    assert!(error.contains("200"), "{error}");

    assert_eq!(Limits::read(br#"{"form":200,"platforms":7}"#), Err(FormError::Later(200)));
}
