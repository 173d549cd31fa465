use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::ids::{Account, Slug};
use crate::ledger::conformance::ledger_conformance;
use crate::state::Options;

ledger_conformance!({
    let folder = TempDir::new().expect("a folder");
    (EmbeddedLedger::new(&open(&folder)), folder)
});

fn open(folder: &TempDir) -> State {
    State::open(folder.path(), Options::default()).expect("it opens")
}

fn account() -> AccountKey {
    let platform = Slug::new("meta").expect("a good name");
    AccountKey { platform, account: Account::new("act_1").expect("a good name") }
}

fn head(boot: u8, boot_s: u64, wall_s: u64, session: u64) -> Head {
    Head {
        version: 1,
        boot: Boot::from_bytes([boot; 16]),
        boot_ns: boot_s * 1_000_000_000,
        wall_ms: wall_s * 1000,
        session,
    }
}

const UNKNOWN: u8 = 0;

#[tokio::test]
async fn a_record_outlives_its_process_whose_end_is_known() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder);
    let ledger = EmbeddedLedger::new(&state);
    let before = Instant::now();
    let version = ledger.store(account(), 0, "mine".into()).await.expect("it stores");
    state.close().await;

    let state = open(&folder);
    let ledger = EmbeddedLedger::new(&state);
    let found = ledger.load(account()).await.expect("it answers").expect("there is one");
    assert_eq!((found.version, found.record), (version, "mine".into()));
    assert_eq!(found.writer, Writer::Dead);
    assert!(found.age > Duration::ZERO, "the same boot counts on");
    assert!(found.age <= before.elapsed());
    ledger.store(account(), version, "mine now".into()).await.expect("it stores");
    let found = ledger.load(account()).await.expect("it answers").expect("there is one");
    assert_eq!(found.writer, Writer::Here);
}

#[tokio::test]
async fn a_closed_ledger_says_so() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder);
    let ledger = EmbeddedLedger::new(&state);
    state.close().await;
    let answer = ledger.store(account(), 0, "late".into()).await;
    assert!(matches!(answer, Err(LedgerError::Unavailable(_))), "{answer:?}");
}

#[test]
fn setting_the_wall_clock_changes_no_age_within_a_boot() {
    for wall_s in [0, 500, 1_000_000] {
        assert_eq!(head(1, 100, 500, 1).age(&head(1, 130, wall_s, 2)), Duration::from_secs(30));
    }
    assert_eq!(head(1, 100, 500, 1).age(&head(1, 90, 500, 2)), Duration::ZERO);
}

#[test]
fn a_record_of_another_boot_is_as_old_as_this_boot_at_least() {
    assert_eq!(head(1, 1000, 500, 1).age(&head(2, 40, 900, 2)), Duration::from_secs(40));
}

#[test]
fn a_folder_from_another_machine_gains_nothing_by_its_uptime() {
    assert_eq!(head(1, 1000, 500, 1).age(&head(2, 90_000, 505, 2)), Duration::from_secs(5));
    assert_eq!(head(1, 1000, 500, 1).age(&head(2, 90_000, 400, 2)), Duration::ZERO);
}

#[test]
fn a_machine_that_does_not_name_its_boots_trusts_only_its_own_process() {
    let unknown = |boot_s, session| head(UNKNOWN, boot_s, 500, session);
    assert_eq!(unknown(100, 1).age(&unknown(107, 1)), Duration::from_secs(7));
    assert_eq!(unknown(100, 1).age(&unknown(107, 2)), Duration::ZERO);
    assert_eq!(head(1, 100, 500, 1).age(&unknown(107, 2)), Duration::ZERO);
    assert_eq!(unknown(100, 1).age(&head(1, 107, 9000, 2)), Duration::ZERO);
}

#[test]
fn a_head_reads_as_it_was_written() {
    let written = head(7, 1, 2, 3);
    let bytes = [&written.to_bytes()[..], b"record"].concat();
    let (read, record) = Head::read(&bytes).expect("it is whole");
    assert_eq!((read, record), (written, &b"record"[..]));
    assert!(matches!(Head::read(&bytes[..HEAD - 1]), Err(Failure::Corrupt(_))));
}
