//! What every ledger must do: one function per promise, run for each back.
//!
//! A function makes accounts of its own, so that all of them can run on one ledger, at once, and on one
//! that holds other records already. Time is real.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Ledger, LedgerError, RECORD_BYTES_MAX, Stored, Writer};
use crate::ids::{ACCOUNT_BYTES_MAX, Account, AccountKey, Slug};
use crate::state::clock;

/// Makes one test per promise. The expression opens a ledger of its own for each: a pair of the ledger
/// and whatever must outlive it.
#[cfg(test)]
macro_rules! ledger_conformance {
    ($open:expr) => {
        $crate::ledger::conformance::ledger_conformance! { $open;
            an_account_without_a_record_has_none
            returns_what_was_stored_under_its_version
            refuses_a_store_that_expects_another_version
            one_of_many_writers_wins
            keeps_accounts_apart
            takes_odd_account_names
            takes_a_record_of_256_kib_and_no_more
            an_age_is_never_longer_than_the_time_that_passed
            a_store_begins_a_new_age
            the_writer_of_a_new_record_is_here
        }
    };
    ($open:expr; $($promise:ident)*) => {
        $(
            #[tokio::test]
            async fn $promise() {
                let (ledger, _keep) = $open;
                $crate::ledger::conformance::$promise(&ledger).await;
            }
        )*
    };
}
#[cfg(test)]
pub(crate) use ledger_conformance;

/// And its first version is made by expecting 0.
pub async fn an_account_without_a_record_has_none(ledger: &dyn Ledger) {
    let account = account("none");
    assert!(ledger.load(account.clone()).await.expect("the ledger answers").is_none());
    let refused = ledger.store(account.clone(), 1, "x".into()).await;
    assert!(matches!(refused, Err(LedgerError::Conflict)), "{refused:?}");
    assert!(ledger.load(account).await.expect("the ledger answers").is_none());
}

/// Each version is another one, and the answer to a store is what a load shows.
pub async fn returns_what_was_stored_under_its_version(ledger: &dyn Ledger) {
    let account = account("versions");
    let mut version = 0;
    for round in 0..5 {
        let record = Bytes::from(format!("record {round}"));
        let stored = store(ledger, &account, version, &record).await;
        assert_ne!(stored, version);
        version = stored;
        let found = load(ledger, &account).await;
        assert_eq!((found.version, found.record), (version, record));
    }
    let empty = store(ledger, &account, version, &Bytes::new()).await;
    let found = load(ledger, &account).await;
    assert_eq!((found.version, found.record), (empty, Bytes::new()));
}

/// Older, newer, none: nothing is changed.
pub async fn refuses_a_store_that_expects_another_version(ledger: &dyn Ledger) {
    let account = account("conflict");
    let first = store(ledger, &account, 0, &"first".into()).await;
    let second = store(ledger, &account, first, &"second".into()).await;
    for wrong in [0, first, second + 1, u64::MAX] {
        let refused = ledger.store(account.clone(), wrong, "wrong".into()).await;
        assert!(matches!(refused, Err(LedgerError::Conflict)), "expected {wrong}: {refused:?}");
    }
    let found = load(ledger, &account).await;
    assert_eq!((found.version, found.record), (second, "second".into()));
}

/// Whoever of them it is; the others are told.
pub async fn one_of_many_writers_wins(ledger: &dyn Ledger) {
    let account = account("race");
    let mut version = 0;
    for _ in 0..10 {
        let writers = (0..20).map(|writer| {
            let record = Bytes::from(vec![writer]);
            let store = ledger.store(account.clone(), version, record.clone());
            async move { (record, store.await) }
        });
        let mut winners = Vec::new();
        for (record, answer) in join_all(writers).await {
            match answer {
                Ok(version) => winners.push((version, record)),
                Err(LedgerError::Conflict) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let found = load(ledger, &account).await;
        assert_eq!((found.version, found.record), winners[0]);
        version = found.version;
    }
}

/// One name being the beginning of the other, or the same on another platform.
pub async fn keeps_accounts_apart(ledger: &dyn Ledger) {
    let one = account("apart");
    let name = one.account.as_str();
    let longer = Account::new(&format!("{name}2")).expect("a good name");
    let accounts = [
        one.clone(),
        AccountKey { account: longer, ..one.clone() },
        AccountKey { platform: Slug::new("conformance2").expect("a good name"), ..one.clone() },
    ];
    for account in &accounts {
        store(ledger, account, 0, &account.subject().into()).await;
    }
    for account in &accounts {
        assert_eq!(load(ledger, account).await.record, account.subject());
    }
}

/// Whatever a provider calls its accounts.
pub async fn takes_odd_account_names(ledger: &dyn Ledger) {
    let unique = format!("{:x}", clock::random());
    let long = "%".repeat(ACCOUNT_BYTES_MAX - unique.len()) + &unique;
    let names = ["😀", "com.shop.app.", "../../x", ".", " ", "*", ">", "a\0b", "%2E"];
    let names: Vec<_> = names.iter().map(|name| format!("{name}{unique}")).chain([long]).collect();
    let key = |name: &str| AccountKey {
        account: Account::new(name).expect("a good name"),
        ..account("odd")
    };
    for name in &names {
        store(ledger, &key(name), 0, &Bytes::from(name.clone())).await;
    }
    for name in &names {
        assert_eq!(load(ledger, &key(name)).await.record, *name);
    }
}

/// With one byte more nothing is stored.
pub async fn takes_a_record_of_256_kib_and_no_more(ledger: &dyn Ledger) {
    let account = account("large");
    let record: Bytes = (0..RECORD_BYTES_MAX).map(|i| (i % 251) as u8).collect();
    let version = store(ledger, &account, 0, &record).await;
    let larger = Bytes::from(vec![0; RECORD_BYTES_MAX + 1]);
    let refused = ledger.store(account.clone(), version, larger).await;
    assert!(matches!(refused, Err(LedgerError::Unavailable(_))), "{refused:?}");
    let found = load(ledger, &account).await;
    assert_eq!((found.version, found.record), (version, record));
}

/// Neither right after it was stored nor later; and it does grow.
pub async fn an_age_is_never_longer_than_the_time_that_passed(ledger: &dyn Ledger) {
    let account = account("age");
    let before = Instant::now();
    store(ledger, &account, 0, &"x".into()).await;
    let after = Instant::now();
    let mut age = Duration::ZERO;
    while age < Duration::from_millis(100) {
        // Read later than the answer was made, so this much has passed at least.
        let least = age;
        age = load(ledger, &account).await.age;
        let most = before.elapsed();
        assert!(age <= most, "{age:?} old after {most:?}");
        assert!(age >= least, "{age:?} old after it was {least:?}");
        assert!(after.elapsed() < Duration::from_secs(20), "it does not grow old");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The record's, not the account's.
pub async fn a_store_begins_a_new_age(ledger: &dyn Ledger) {
    let account = account("renewed");
    let version = store(ledger, &account, 0, &"x".into()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = Instant::now();
    store(ledger, &account, version, &"y".into()).await;
    let age = load(ledger, &account).await.age;
    assert!(age <= before.elapsed(), "{age:?}");
}

/// It is this very process.
pub async fn the_writer_of_a_new_record_is_here(ledger: &dyn Ledger) {
    let account = account("writer");
    store(ledger, &account, 0, &"x".into()).await;
    assert_eq!(load(ledger, &account).await.writer, Writer::Here);
}

/// An account that nobody else has.
fn account(name: &str) -> AccountKey {
    let platform = Slug::new("conformance").expect("a good name");
    let account = format!("{name}-{:x}", clock::random());
    AccountKey { platform, account: Account::new(&account).expect("a good name") }
}

async fn store(ledger: &dyn Ledger, account: &AccountKey, expected: u64, record: &Bytes) -> u64 {
    ledger.store(account.clone(), expected, record.clone()).await.expect("the ledger stores it")
}

async fn load(ledger: &dyn Ledger, account: &AccountKey) -> Stored {
    ledger.load(account.clone()).await.expect("the ledger answers").expect("there is a record")
}
