//! The stored form: nothing is lost in it, and nothing foreign is taken for it.

use proptest::prelude::*;

use super::{APIS, LIMITS_IN_TESTS, S, any_cost, any_limits, declared, every, limit, set};
use crate::charges::{Drained, Entry, Opened};
use crate::codec::checksum;
use crate::ledger::{Permit, Slot, State};
use crate::{
    ApiIx, Ask, At, Cost, DecodeError, Hold, HoldScope, Ledger, LimitSet, PermitId, Rule, Sent,
    Span, decide,
};

pub(super) fn any_at() -> impl Strategy<Value = At> {
    // Mostly so close together that windows end between them.
    prop_oneof![3 => -2 * S..2 * S, 1 => -5_000 * S..5_000 * S].prop_map(At)
}

/// Limits, with names of apis or without, and any ledger of theirs, whether or not the gate would lead
/// there.
fn any_ledger() -> impl Strategy<Value = (LimitSet, Ledger)> {
    (any_ledger_without_names(), any::<bool>()).prop_map(|((limits, ledger), named)| {
        (if named { declared(&limits, &[0, 1, 2]) } else { limits }, ledger)
    })
}

pub(super) fn any_ledger_without_names() -> impl Strategy<Value = (LimitSet, Ledger)> {
    let charge = (0usize..5, 0..APIS, any_at(), 1u32..1_000);
    let state = prop_oneof![
        Just(State::Uncharged),
        any_at().prop_map(State::Written),
        Just(State::Charged),
        (any_at(), prop::option::of(any_at()))
            .prop_map(|(at, written)| State::Answered { at, written }),
    ];
    let costs = prop::option::of(prop::collection::vec(any_cost(), LIMITS_IN_TESTS));
    let one = (0..APIS, state, costs, 0..3u64);
    let taken = (0..APIS, any_at(), 1u32..9, prop::option::of((0..LIMITS_IN_TESTS, 0..3u64)));
    let until = prop_oneof![9 => any_at(), 1 => Just(At::MAX)];
    let hold = (prop::option::of(0..APIS), until, "\\PC{0,12}");
    (
        any_limits(),
        prop::collection::vec(charge, 0..60),
        prop::collection::btree_map(any::<u64>(), one, 0..8),
        prop::collection::vec(taken, 0..4),
        prop::collection::vec(hold, 0..4),
        prop::collection::vec((any_at(), any::<u64>(), any::<bool>()), LIMITS_IN_TESTS),
    )
        .prop_map(|(limits, charges, permits, slots, holds, kept)| {
            let mut ledger = Ledger::new();
            for (place, api, at, calls) in charges {
                if let Some(limit) = limits.limits().get(place)
                    && limit.rule.window().is_some()
                {
                    ledger.add(place, limit.bucket(api), Entry { at, calls });
                }
            }
            for (place, (at, ticks, some)) in kept.into_iter().enumerate().filter(|kept| kept.1.2) {
                let Some(limit) = limits.limits().get(place) else { continue };
                let ends = some.then_some(at);
                match limit.rule.unit_ticks() {
                    Some(unit) => {
                        let ticks = u128::from(ticks) << (ticks % 20);
                        let counter = ledger.counter(place, limit.bucket(0));
                        counter.drain(Drained { at, ticks, unit });
                    }
                    None if matches!(limit.rule, Rule::FirstUse { .. }) => {
                        let opened = Opened { ends_from: ends, ends_by: ends, sure_from: at };
                        ledger.counter(place, limit.bucket(0)).set_opened(opened);
                    }
                    None => {}
                }
            }
            let count = limits.limits().len();
            ledger.permits = permits
                .into_iter()
                .map(|(id, (api, state, costs, job))| {
                    let costs = costs.map(|costs| costs[..count].into());
                    let costs: Option<Box<[Cost]>> = costs;
                    let costs = costs.filter(|costs| costs.iter().any(|cost| *cost != Cost::ONE));
                    Permit { costs, job, ..permit(PermitId(id), api, state) }
                })
                .collect();
            ledger.slots = slots
                .into_iter()
                .filter(|(_, _, _, limit)| limit.is_none_or(|(place, _)| place < count))
                .map(|(api, until, calls, limit)| Slot { limit, ..slot(api, until, calls) })
                .collect();
            for (api, until, reason) in holds {
                let scope = api.map_or(HoldScope::Account, HoldScope::Api);
                ledger.holds_mut().set(Hold { scope, until, reason });
            }
            (limits, ledger)
        })
}

/// A permit that costs one everywhere.
pub(super) fn permit(id: PermitId, api: ApiIx, state: State) -> Permit {
    Permit { id, api, taken: At::MIN, state, costs: None, job: 0 }
}

/// Slots of a dead writer.
pub(super) fn slot(api: ApiIx, until: At, calls: u32) -> Slot {
    Slot { api, until, calls, limit: None }
}

/// All times of a ledger that much later.
fn later(ledger: &Ledger, by: Span) -> Ledger {
    let mut moved = Ledger::new();
    for charges in &ledger.charges {
        for entry in charges.entries() {
            let at = entry.at.plus(by);
            moved.add(charges.limit, charges.bucket, Entry { at, calls: entry.calls });
        }
        if let Some(drained) = charges.drained() {
            let at = drained.at.plus(by);
            moved.counter(charges.limit, charges.bucket).drain(Drained { at, ..drained });
        }
    }
    moved.permits.clone_from(&ledger.permits);
    for permit in &mut moved.permits {
        match &mut permit.state {
            State::Uncharged | State::Charged => {}
            State::Written(at) => *at = at.plus(by),
            State::Answered { at, written } => {
                *at = at.plus(by);
                *written = written.map(|at| at.plus(by));
            }
        }
    }
    let slot = |slot: &Slot| Slot { until: slot.until.plus(by), ..slot.clone() };
    moved.slots = ledger.slots.iter().map(slot).collect();
    for hold in ledger.holds().as_slice() {
        moved.holds_mut().set(Hold { until: hold.until.plus(by), ..hold.clone() });
    }
    moved
}

/// Its counters in one order.
fn sorted(ledger: &Ledger) -> Ledger {
    let mut sorted = ledger.clone();
    sorted.charges.sort_by_key(|charges| (charges.limit, charges.bucket));
    sorted
}

/// The same without what a record that may be older than it seems does not say.
fn known_after(ledger: &Ledger) -> Ledger {
    let mut known = sorted(ledger);
    for charges in known.charges.iter_mut().filter(|charges| charges.opened().is_some()) {
        charges.kept = None;
    }
    known.charges.retain(|charges| !charges.entries().is_empty() || charges.kept.is_some());
    known
}

fn framed(body: &[u8]) -> Vec<u8> {
    framed_as(3, body)
}

/// A record of that version with a right checksum.
pub(super) fn framed_as(version: u8, body: &[u8]) -> Vec<u8> {
    let empty = Ledger::new().encode(&LimitSet::default(), At(0));
    let mut bytes = [&[empty[0], version], body].concat();
    bytes.extend(checksum(&bytes));
    bytes
}

/// Does with a ledger whatever can be done; nothing may panic.
fn exercise(limits: &LimitSet, mut ledger: Ledger, now: At) {
    for api in 0..APIS {
        decide(limits, &ledger, ledger.holds(), Ask::new(api), now);
    }
    let ids: Vec<_> = ledger.in_flight().collect();
    for (i, id) in ids.into_iter().enumerate() {
        match i % 4 {
            0 => ledger.written(limits, id, now),
            1 => ledger.answered(limits, id, now),
            2 => ledger.ended(limits, id, now, Sent::Maybe),
            _ => ledger.unwritten(id),
        };
    }
    ledger.lost(limits, now, now);
    let again = ledger.encode(limits, now);
    Ledger::decode(limits, &again, now).unwrap();
    ledger.prune(limits, now);
}

/// 256 cases; as many as `TOLLGATE_FUZZ_CASES` says where it does, new ones each time.
fn cases() -> ProptestConfig {
    let asked = std::env::var("TOLLGATE_FUZZ_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(asked.unwrap_or(256))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_is_read_is_what_was_written(
        (limits, mut ledger) in any_ledger(),
        now in any_at(),
        by in (0..1_000_000u64).prop_map(Span),
    ) {
        let record = ledger.encode(&limits, now);
        ledger.prune(&limits, now); // a record leaves out what pruning would
        prop_assert_eq!(&record, &ledger.encode(&limits, now));
        let (read, notes) = Ledger::decode_exact(&limits, &record, now).unwrap();
        prop_assert_eq!(sorted(&read), sorted(&ledger));
        prop_assert_eq!(notes, []);
        let (moved, _) = Ledger::decode(&limits, &record, now.plus(by)).unwrap();
        prop_assert_eq!(known_after(&moved), known_after(&later(&ledger, by)));
    }

    #[test]
    fn a_single_wrong_byte_a_missing_or_additional_end_is_an_error(
        (limits, ledger) in any_ledger(),
        now in any_at(),
        flip in 1..=255u8,
    ) {
        let record = ledger.encode(&limits, now);
        let is_error = |bytes: &[u8]| Ledger::decode(&limits, bytes, now).is_err();
        for place in 0..record.len() {
            for flip in [flip, 1 << (place % 8)] {
                let mut wrong = record.clone();
                wrong[place] ^= flip;
                prop_assert!(is_error(&wrong), "byte {place}");
            }
            prop_assert!(is_error(&record[..place]), "cut at {place}");
        }
        prop_assert!(is_error(&[&record[..], &[flip]].concat()));
        prop_assert!(is_error(&[&record[..], &record[..]].concat()));
    }

    #[test]
    fn no_bytes_panic(limits in any_limits(), bytes: Vec<u8>, at: i64) {
        prop_assert!(Ledger::decode(&limits, &bytes, At(at)).is_err());
    }

    #[test]
    fn no_bytes_with_a_right_checksum_panic(
        (limits, ledger) in any_ledger(),
        body in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..64),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        at: i64,
    ) {
        let mut record = ledger.encode(&limits, At(0));
        record.truncate(record.len() - 4);
        let mut changed = record.split_off(2);
        for (place, byte) in changes {
            let place = place.index(changed.len());
            changed[place] = byte;
        }
        for bytes in [framed(&body), framed(&changed)] {
            if let Ok((ledger, _)) = Ledger::decode(&limits, &bytes, At(at)) {
                exercise(&limits, ledger, At(at));
            }
        }
    }
}

#[test]
fn errors_tell_foreign_other_and_damaged_records_apart() {
    let limits = LimitSet::default();
    let record = Ledger::new().encode(&limits, At(0));
    let decode = |bytes: &[u8]| Ledger::decode(&limits, bytes, At(0)).unwrap_err();
    assert_eq!(decode(b""), DecodeError::Damaged);
    assert_eq!(decode(b"{\"charges\":[]}"), DecodeError::Foreign);
    assert_eq!(decode(&[record[0], 9, 0, 0, 0, 0]), DecodeError::Version(9));
    assert_eq!(decode(&record[..5]), DecodeError::Damaged);
    assert_eq!(decode(&[record[0], 1, 0, 0, 0, 0]), DecodeError::Version(1));
    assert_eq!(decode(&framed(&[0; 10])), DecodeError::Malformed("end"));
    assert_eq!(decode(&framed(&[0; 8])), DecodeError::Malformed("holds"));
    // More apis or limits than there are bytes, and a number of 70 bits.
    assert_eq!(decode(&framed(&[31, 0, 0])), DecodeError::Malformed("apis"));
    assert_eq!(decode(&framed(&[0, 31, 0, 0])), DecodeError::Malformed("limits"));
    assert_eq!(decode(&framed(&[0xff; 12])), DecodeError::Malformed("apis"));
    // An api 70,000 without a name; a permit of the second of one api.
    assert_eq!(decode(&framed(&[1, 0, 0xf0, 0xa2, 4, 0, 0])), DecodeError::Malformed("apis"));
    let other = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0];
    assert_eq!(decode(&framed(&other)), DecodeError::Malformed("permits"));
    // The same permit twice: id 1, the first api, uncharged.
    let twice = [1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1, 0, 1, 1, 0, 0, 0];
    assert_eq!(decode(&framed(&twice)), DecodeError::Malformed("permits"));
}

#[test]
fn a_record_of_two_dropped_limits_is_read() {
    let old = set([limit("a", every(5)), limit("b", every(5)), limit("c", every(5))]);
    let record = Ledger::new().encode(&old, At(0));
    let new = set([limit("c", every(5))]);
    let (ledger, notes) = Ledger::decode(&new, &record, At(0)).unwrap();
    assert!(ledger.is_empty());
    assert_eq!(notes.len(), 2);
}

#[test]
fn the_last_of_many_limits_is_read() {
    let limits = set((0..32).map(|i| limit(&i.to_string(), every(5))).collect::<Vec<_>>());
    let mut ledger = Ledger::new();
    ledger.add(31, None, Entry { at: At(0), calls: 1 });
    let record = ledger.encode(&limits, At(1));
    assert_eq!(Ledger::decode(&limits, &record, At(1)).unwrap().0, ledger);
}

#[test]
fn a_record_keeps_what_counts_for_one_more_microsecond_and_no_more() {
    let limits = set([limit("gap", every(5))]);
    let mut ledger = Ledger::new();
    ledger.add(0, None, Entry { at: At(0), calls: 1 });
    for (now, kept) in [(5 * S - 1, true), (5 * S, false)] {
        let record = ledger.encode(&limits, At(now));
        let (read, _) = Ledger::decode(&limits, &record, At(now)).unwrap();
        assert_eq!(!read.is_empty(), kept);
    }
}

#[test]
fn a_record_says_the_same_on_another_timeline() {
    let limits = set([limit("gap", every(60))]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), Ask::new(0), At(1_000 * S));
    ledger.answered(&limits, PermitId(1), At(1_000 * S));
    ledger.ended(&limits, PermitId(1), At(1_001 * S), Sent::Maybe);
    ledger.holds_mut().set(Hold {
        scope: HoldScope::Account,
        until: At(1_030 * S),
        reason: "paused".into(),
    });
    // Stored 20 s after the call; read where that moment is called 7 s: the call was at -13 s.
    let record = ledger.encode(&limits, At(1_020 * S));
    let (read, _) = Ledger::decode(&limits, &record, At(7 * S)).unwrap();
    let expected = Entry { at: At(-13 * S), calls: 1 };
    assert_eq!(read.charges[0].entries(), [expected]);
    assert_eq!(read.holds().as_slice()[0].until, At(17 * S)); // 10 s remained
}
