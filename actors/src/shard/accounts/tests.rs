use super::*;
use crate::ids::{Account, Slug};

fn key(name: &str) -> AccountKey {
    AccountKey { platform: Slug::new("p").unwrap(), account: Account::new(name).unwrap() }
}

thread_local! {
    static PLATFORM: Arc<Platform> = crate::tests::plan(&crate::tests::limits(""))
        .platforms
        .into_values()
        .next()
        .unwrap();
}

fn rest(due: i64) -> Rest {
    Rest {
        version: 1,
        platform: PLATFORM.with(Arc::clone),
        record: Box::default(),
        since: At(0),
        lanes: Box::default(),
        due: At(due),
        because: None,
        cause: None,
        usage: None,
    }
}

/// A resting account.
fn resting(accounts: &mut Accounts, name: &str, due: i64) -> Ix {
    let ix = accounts.place(&key(name));
    accounts.rest(ix, rest(due));
    ix
}

fn all_due(accounts: &mut Accounts, now: i64) -> Vec<Ix> {
    std::iter::from_fn(|| accounts.due(At(now))).collect()
}

#[test]
fn an_account_keeps_its_place_and_two_never_share_one() {
    let mut accounts = Accounts::default();
    let places: Vec<Ix> =
        (0..2000).map(|number| accounts.place(&key(&number.to_string()))).collect();
    for (number, ix) in places.iter().enumerate() {
        assert_eq!(accounts.place(&key(&number.to_string())), *ix);
        assert_eq!(accounts.get(*ix).unwrap().key, key(&number.to_string()));
    }
    assert_eq!(accounts.len(), 2000);
    assert_eq!(accounts.ready.len(), 2000, "each is ready once");
}

#[test]
fn the_same_name_on_two_platforms_is_two_accounts() {
    let mut accounts = Accounts::default();
    let other = AccountKey { platform: Slug::new("q").unwrap(), ..key("x") };
    assert_ne!(accounts.place(&key("x")), accounts.place(&other));
}

#[test]
fn deadlines_come_in_order_each_once_and_none_too_early() {
    let mut accounts = Accounts::default();
    let (late, early) = (resting(&mut accounts, "late", 300), resting(&mut accounts, "early", 100));
    let same = resting(&mut accounts, "same", 100);
    assert_eq!(accounts.next_due(), Some(At(100)));
    assert!(all_due(&mut accounts, 99).is_empty());
    let mut first = all_due(&mut accounts, 100);
    first.sort_unstable();
    let mut wanted = [early, same];
    wanted.sort_unstable();
    assert_eq!(first, wanted);
    assert!(all_due(&mut accounts, 299).is_empty());
    assert_eq!(all_due(&mut accounts, 1000), [late]);
    assert_eq!(accounts.next_due(), None);
}

#[test]
fn the_deadline_of_an_earlier_rest_wakes_nobody() {
    let mut accounts = Accounts::default();
    let ix = resting(&mut accounts, "x", 100);
    // Woken by work before that, and at rest again until later.
    accounts.get_mut(ix).unwrap().state = State::Restarting(Glance::default());
    accounts.at_work.0[part_of(&key("x")) as usize] += 1;
    assert!(all_due(&mut accounts, 150).is_empty(), "it is awake");
    accounts.rest(ix, rest(500));
    accounts.rest(ix, rest(400));
    assert!(all_due(&mut accounts, 399).is_empty());
    assert_eq!(all_due(&mut accounts, 1000), [ix], "once, at the time it last said");
}

#[test]
fn a_forgotten_account_leaves_its_place_to_another_and_its_deadline_wakes_nobody() {
    let mut accounts = Accounts::default();
    let ix = resting(&mut accounts, "x", 100);
    accounts.forget(ix);
    assert_eq!(accounts.len(), 0);
    assert!(accounts.get(ix).is_none());
    accounts.forget(ix);
    let other = accounts.place(&key("y"));
    assert_eq!(other, ix, "the place is used again");
    assert!(all_due(&mut accounts, 1000).is_empty(), "the deadline was of another");
    accounts.rest(other, rest(2000));
    assert_eq!(all_due(&mut accounts, 2000), [other]);
    assert_ne!(accounts.place(&key("x")), other, "who comes back is new");
    assert_eq!(accounts.len(), 2);
}

#[test]
fn forgetting_many_loses_none_of_the_others() {
    let mut accounts = Accounts::default();
    let mut random = fastrand::Rng::with_seed(7);
    let mut kept = std::collections::BTreeMap::new();
    for round in 0..5000 {
        let name = random.u32(0..300).to_string();
        if random.bool() {
            let ix = accounts.place(&key(&name));
            assert_eq!(*kept.entry(name).or_insert(ix), ix, "round {round}");
        } else if let Some(ix) = kept.remove(&name) {
            accounts.forget(ix);
        }
        assert_eq!(accounts.len(), kept.len());
    }
    for (name, ix) in &kept {
        assert_eq!(accounts.get(*ix).unwrap().key, key(name));
    }
}

#[test]
fn what_an_account_looks_like_follows_from_how_it_is_kept() {
    let mut accounts = Accounts::default();
    let ix = accounts.place(&key("x"));
    let glance = accounts.get(ix).unwrap().glance();
    assert_eq!((glance.waiting, glance.because.as_deref()), (0, Some("its turn")));
    let lanes = [Priority::High, Priority::Low].map(|priority| RestLane {
        api: 0,
        priority,
        unread: Unread::of(3),
        stands: true,
        is_late: false,
    });
    let because = Some("gap".into());
    accounts.rest(ix, Rest { lanes: lanes.into(), because, ..rest(77) });
    let glance = accounts.get(ix).unwrap().glance();
    assert_eq!((glance.waiting, glance.until), (6, Some(At(77))));
    assert_eq!(glance.because.as_deref(), Some("gap"));
    accounts.rest(ix, rest(77));
    let glance = accounts.get(ix).unwrap().glance();
    assert_eq!((glance.waiting, glance.until), (0, None), "it waits for nothing");
}
