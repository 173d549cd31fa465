//! Operators' holds: platforms, accounts and apis that make no calls until somebody says so.
//!
//! A table that every shard reads before a decision and one task writes. Where it is kept is not its matter
//! (`nats::holds` on NATS). Without an entry a look costs one atomic read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{Account, AccountKey, LaneKey, Slug};

/// What a hold is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// The provider.
    pub platform: Slug,
    /// One account of it; none: all.
    pub account: Option<Account>,
    /// One api of that account; none: all.
    pub api: Option<Slug>,
}

impl Scope {
    /// Reads `PLATFORM[/ACCOUNT[/API]]`. An account may have `/` in its name: then the api cannot be left
    /// out by accident, it is what stands behind the last one only if it is a name and `apis` has it.
    ///
    /// # Errors
    /// A part is no name; the error is a sentence.
    pub fn parse(text: &str, has_api: impl Fn(&Slug, &str) -> bool) -> Result<Self, String> {
        let (platform, rest) = text.split_once('/').map_or((text, None), |(p, r)| (p, Some(r)));
        let platform = Slug::new(platform)?;
        let Some(rest) = rest else { return Ok(Self { platform, account: None, api: None }) };
        if let Some((account, api)) = rest.rsplit_once('/')
            && has_api(&platform, api)
        {
            let (account, api) = (Some(Account::new(account)?), Some(Slug::new(api)?));
            return Ok(Self { platform, account, api });
        }
        Ok(Self { platform, account: Some(Account::new(rest)?), api: None })
    }

    /// `platform[.account[.api]]` with the account encoded: the key of a bucket. `%` is no character of
    /// one, so it is written `=`, which occurs in no encoded account.
    pub fn key(&self) -> String {
        let mut key = self.platform.to_string();
        if let Some(account) = &self.account {
            key = format!("{key}.{}", account.encoded().replace('%', "="));
            if let Some(api) = &self.api {
                key = format!("{key}.{api}");
            }
        }
        key
    }

    /// Reads what [`Scope::key`] wrote.
    ///
    /// # Errors
    /// It is no such key; the error is a sentence.
    pub fn of_key(key: &str) -> Result<Self, String> {
        let mut tokens = key.split('.');
        let platform = Slug::new(tokens.next().unwrap_or_default())?;
        let decode = |token: &str| Account::decode(&token.replace('=', "%"));
        let account = tokens.next().map(decode).transpose()?;
        let api = tokens.next().map(Slug::new).transpose()?;
        match tokens.next() {
            None => Ok(Self { platform, account, api }),
            Some(_) => Err(format!("`{key}` has more than three parts")),
        }
    }

    /// Whether an account is concerned, with one of its apis at least.
    pub fn concerns(&self, account: &AccountKey) -> bool {
        self.platform == account.platform
            && self.account.as_ref().is_none_or(|only| *only == account.account)
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.platform)?;
        if let Some(account) = &self.account {
            write!(f, "/{account}")?;
        }
        self.api.as_ref().map_or(Ok(()), |api| write!(f, "/{api}"))
    }
}

/// An operator's hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorHold {
    /// Why, for those who wonder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// It ends by itself then; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl OperatorHold {
    /// What it is, for people.
    pub fn text(&self) -> String {
        match &self.reason {
            Some(reason) => format!("an operator's hold: {reason}"),
            None => "an operator's hold".into(),
        }
    }
}

/// All operators' holds. Cheap to clone; all clones are one table.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    table: Arc<RwLock<HashMap<Scope, Arc<OperatorHold>>>>,
    count: Arc<AtomicUsize>,
}

impl Holds {
    /// Puts another table in place of this one, and answers which holds came, went or changed.
    pub fn replace(&self, holds: HashMap<Scope, OperatorHold>) -> Vec<Scope> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let gone = table.keys().filter(|scope| !holds.contains_key(scope)).cloned();
        let mut changed: Vec<Scope> = gone.collect();
        let new =
            holds.iter().filter(|(scope, hold)| table.get(scope).map(AsRef::as_ref) != Some(hold));
        changed.extend(new.map(|(scope, _)| scope.clone()));
        *table = holds.into_iter().map(|(scope, hold)| (scope, Arc::new(hold))).collect();
        self.count.store(table.len(), Ordering::Release);
        changed
    }

    /// The hold that a lane is under at `now`, the widest one.
    pub fn of(&self, lane: &LaneKey, now: Timestamp) -> Option<Arc<OperatorHold>> {
        if self.is_empty() {
            return None;
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let AccountKey { platform, account } = &lane.account;
        let mut scope = Scope { platform: platform.clone(), account: None, api: None };
        let found = |scope: &Scope| {
            let hold = table.get(scope)?;
            hold.until.is_none_or(|until| now < until).then(|| Arc::clone(hold))
        };
        if let Some(hold) = found(&scope) {
            return Some(hold);
        }
        scope.account = Some(account.clone());
        if let Some(hold) = found(&scope) {
            return Some(hold);
        }
        scope.api = Some(lane.api.clone());
        found(&scope)
    }

    /// The holds that concern an account at `now`, the widest first.
    pub fn on(&self, account: &AccountKey, now: Timestamp) -> Vec<(Scope, Arc<OperatorHold>)> {
        if self.is_empty() {
            return Vec::new();
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let holds = table.iter().filter(|(scope, hold)| {
            scope.concerns(account) && hold.until.is_none_or(|until| now < until)
        });
        let mut holds: Vec<_> =
            holds.map(|(scope, hold)| (scope.clone(), Arc::clone(hold))).collect();
        holds.sort_by(|(one, _), (other, _)| one.cmp(other));
        holds
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back_from_its_key_and_from_what_was_typed() {
        let apis = |_: &Slug, api: &str| api == "insights";
        for (typed, key) in [
            ("meta", "meta"),
            ("meta/act_1", "meta.act_1"),
            ("meta/a@b.c", "meta.a=40b=2Ec"),
            ("meta/act_1/insights", "meta.act_1.insights"),
            ("meta/a/b", "meta.a=2Fb"),
            ("meta/a/b/insights", "meta.a=2Fb.insights"),
        ] {
            let scope = Scope::parse(typed, apis).unwrap();
            assert_eq!(scope.key(), key);
            assert_eq!(Scope::of_key(key).unwrap(), scope);
            assert_eq!(scope.to_string(), typed);
        }
        assert!(Scope::parse("Meta", apis).is_err());
        assert!(Scope::parse("meta/", apis).is_err());
        assert!(Scope::of_key("meta.a.b.c").is_err());
    }

    #[test]
    fn a_lane_is_held_by_what_concerns_it_until_that_ends() {
        let holds = Holds::default();
        let lane = LaneKey::parse("meta.act_1.insights").unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        assert!(holds.of(&lane, now).is_none());
        let hold = |until| OperatorHold { reason: None, since: now, until };
        for (key, until, held) in [
            ("meta", None, true),
            ("meta.act_1", None, true),
            ("meta.act_1.insights", None, true),
            ("meta.act_2", None, false),
            ("meta.act_1.other", None, false),
            ("kakao", None, false),
            ("meta", Some(now), false),
            ("meta", Some(Timestamp::from_second(1001).unwrap()), true),
        ] {
            let scope = Scope::of_key(key).unwrap();
            holds.replace([(scope, hold(until))].into());
            assert_eq!(holds.of(&lane, now).is_some(), held, "{key}");
        }
        let both: HashMap<_, _> = [Scope::of_key("meta").unwrap(), Scope::of_key("kakao").unwrap()]
            .map(|scope| (scope, hold(None)))
            .into();
        assert_eq!(holds.replace(both.clone()).len(), 2);
        assert!(holds.replace(both).is_empty());
        assert_eq!(holds.replace(HashMap::new()).len(), 2);
        assert!(holds.is_empty());
    }
}
