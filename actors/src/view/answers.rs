//! The last answers, for whoever looks at an account: one ring for all accounts of a shard, and a short one for each
//! account that somebody looks at.
//!
//! Nothing is kept per account. The ring of a shard has its last [`LAST_MAX`] answers at 40 bytes each, so an account that is
//! called every 5 s shows some when it is looked at first, unless its shard makes many calls; from then on, for
//! [`WATCHED_FOR`], its own answers are kept beside. Noting one costs about 10 ns.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;
use tollgate_gate::{At, Span};

use crate::collector::Outcome;
use crate::ids::AccountKey;

/// Answers that a shard remembers of all its accounts: 160 KiB.
const LAST_MAX: usize = 4096;
/// Answers of an account that is looked at.
const OWN_MAX: usize = 32;
/// Accounts of a shard that are looked at; one more takes the place of the one looked at longest ago.
const WATCHED_MAX: usize = 64;
/// How long after a look.
const WATCHED_FOR: Span = Span::from_secs(600);

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Whose, as a hash of the name.
    whose: u64,
    pub(crate) at: At,
    pub(crate) class: &'static str,
    pub(crate) api: u16,
    /// 0: none.
    status: u16,
}

impl Mark {
    pub(crate) fn status(self) -> Option<u16> {
        (self.status > 0).then_some(self.status)
    }
}

/// What a shard remembers.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    hasher: DefaultHashBuilder,
    kept: RefCell<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    last: VecDeque<Mark>,
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    whose: u64,
    looked_at: At,
    marks: VecDeque<Mark>,
}

impl Answers {
    /// Notes how an attempt ended.
    pub(crate) fn note(&self, account: &AccountKey, api: u16, outcome: &Outcome, now: At) {
        let (class, status) = outcome.judged();
        let whose = self.hasher.hash_one(account);
        let mark = Mark { whose, at: now, class, api, status: status.unwrap_or(0) };
        let mut kept = self.kept.borrow_mut();
        let Kept { last, watched } = &mut *kept;
        push(last, mark, LAST_MAX);
        if let Some(own) = watched.iter_mut().find(|own| own.whose == whose) {
            push(&mut own.marks, mark, OWN_MAX);
        }
    }

    /// The last answers of an account, the newest first; from now on they are kept for a while.
    pub(crate) fn of(&self, account: &AccountKey, now: At) -> Vec<Mark> {
        let whose = self.hasher.hash_one(account);
        let mut kept = self.kept.borrow_mut();
        let Kept { last, watched } = &mut *kept;
        watched.retain(|own| own.whose == whose || now.since(own.looked_at) < WATCHED_FOR);
        if let Some(own) = watched.iter_mut().find(|own| own.whose == whose) {
            own.looked_at = now;
            return own.marks.iter().rev().copied().collect();
        }
        let newest = last.iter().rev().filter(|mark| mark.whose == whose).take(OWN_MAX);
        let newest: Vec<Mark> = newest.copied().collect();
        if watched.len() >= WATCHED_MAX
            && let Some(oldest) = (0..watched.len()).min_by_key(|place| watched[*place].looked_at)
        {
            watched.swap_remove(oldest);
        }
        let marks = newest.iter().rev().copied().collect();
        watched.push(Watched { whose, looked_at: now, marks });
        newest
    }
}

fn push(marks: &mut VecDeque<Mark>, mark: Mark, most: usize) {
    if marks.len() >= most {
        marks.pop_front();
    }
    marks.push_back(mark);
}

// Said in docs/status.md.
const _: () = assert!(size_of::<Mark>() == 40 && WATCHED_FOR.0 == 600_000_000);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::{Again, LastAnswer};

    fn key(account: &str) -> AccountKey {
        AccountKey::parse(&format!("p.{account}")).unwrap()
    }

    fn done(bytes: u64) -> Outcome {
        Outcome::Done { bytes, objects: 1 }
    }

    fn refused() -> Outcome {
        let last = LastAnswer { status: Some(429), ..LastAnswer::default() };
        Outcome::Again { kind: Again::Throttled, after: None, reason: String::new(), last }
    }

    #[test]
    fn an_account_shows_its_own_answers_the_newest_first() {
        let answers = Answers::default();
        for i in 0..10 {
            answers.note(&key("a"), 0, &done(i), At(i as i64));
            answers.note(&key("b"), 1, &refused(), At(i as i64));
        }
        let told = answers.of(&key("b"), At(100));
        assert_eq!(told.len(), 10);
        assert_eq!((told[0].at, told[0].class, told[0].status()), (At(9), "throttled", Some(429)));
        assert!(answers.of(&key("c"), At(100)).is_empty());
    }

    #[test]
    fn once_looked_at_its_answers_stay_whatever_others_have() {
        let answers = Answers::default();
        answers.note(&key("a"), 0, &done(1), At(1));
        assert_eq!(answers.of(&key("a"), At(2)).len(), 1);
        for i in 0..2 * LAST_MAX as i64 {
            answers.note(&key("b"), 0, &done(1), At(10 + i));
        }
        for i in 0..40 {
            answers.note(&key("a"), 0, &done(1), At(100_000 + i));
        }
        let told = answers.of(&key("a"), At(200_000));
        assert_eq!((told.len(), told[0].at), (OWN_MAX, At(100_039)));
        assert_eq!(answers.kept.borrow().last.len(), LAST_MAX);
    }

    #[test]
    fn so_many_accounts_are_looked_at_and_no_more_and_not_for_ever() {
        let answers = Answers::default();
        for i in 0..100 {
            answers.of(&key(&format!("a{i}")), At(i));
        }
        assert_eq!(answers.kept.borrow().watched.len(), WATCHED_MAX);
        answers.of(&key("b"), At(100).plus(WATCHED_FOR));
        assert_eq!(answers.kept.borrow().watched.len(), 1);
    }
}
