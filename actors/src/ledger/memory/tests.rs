use std::time::Duration;

use super::*;
use crate::ids::{Account, Slug};
use crate::ledger::conformance::ledger_conformance;

ledger_conformance!((MemoryLedger::new(), ()));

fn account() -> AccountKey {
    let platform = Slug::new("meta").expect("a good name");
    AccountKey { platform, account: Account::new("act_1").expect("a good name") }
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_makes_records_old() {
    let ledger = MemoryLedger::new();
    ledger.store(account(), 0, "x".into()).await.expect("it stores");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let found = ledger.load(account()).await.expect("it answers").expect("there is one");
    assert_eq!(found.age, Duration::from_secs(3600));
}

#[tokio::test]
async fn faults_come_in_their_order_and_do_what_they_say() {
    let ledger = MemoryLedger::new();
    let stored = async || {
        let found = ledger.load(account()).await.expect("it answers");
        found.map_or((0, Bytes::new()), |found| (found.version, found.record))
    };
    ledger.fail_stores(1, Fault::UnsureLost);
    ledger.fail_stores(1, Fault::Unavailable);
    ledger.fail_stores(1, Fault::UnsureStored);
    ledger.fail_stores(1, Fault::Conflict);

    let answer = ledger.store(account(), 0, "a".into()).await;
    assert!(matches!(answer, Err(LedgerError::Unsure(_))));
    assert_eq!(stored().await.0, 0);
    let answer = ledger.store(account(), 0, "b".into()).await;
    assert!(matches!(answer, Err(LedgerError::Unavailable(_))));
    assert_eq!(stored().await.0, 0);
    let answer = ledger.store(account(), 0, "c".into()).await;
    assert!(matches!(answer, Err(LedgerError::Unsure(_))));
    assert_eq!(stored().await, (1, "c".into()));
    let answer = ledger.store(account(), 1, "d".into()).await;
    assert!(matches!(answer, Err(LedgerError::Conflict)));
    assert_eq!(stored().await.0, 2);
    let answer = ledger.store(account(), 2, "e".into()).await;
    assert_eq!(answer.expect("no fault is left"), 3);

    ledger.fail_loads(1);
    assert!(matches!(ledger.load(account()).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(stored().await.0, 3);
}

#[tokio::test]
async fn a_take_over_marks_what_the_one_before_left() {
    let ledger = MemoryLedger::new();
    let version = ledger.store(account(), 0, "x".into()).await.expect("it stores");
    let next = ledger.take_over();
    let load = async || next.load(account()).await.expect("it answers").expect("there is one");
    let found = load().await;
    assert_eq!(found.writer, Writer::Dead);
    let late = ledger.store(account(), version, "z".into()).await;
    assert!(matches!(late, Err(LedgerError::Conflict)), "it was claimed: {late:?}");
    next.store(account(), found.version, "y".into()).await.expect("it stores");
    assert_eq!(load().await.writer, Writer::Here);
}
