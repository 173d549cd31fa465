//! Subjects, streams and buckets by name, and which partition an account is in.
//!
//! Every name starts with the prefix of the configuration: subjects as it is, streams and buckets in upper
//! case. What follows stands in one place, here, and in docs/nats.md for people.

use std::sync::Arc;

use crate::ids::{AccountKey, LaneKey, Priority, Seq, Slug};

/// Partitions of the accounts. It cannot change while anything waits: the server puts each fetch into one.
pub const PARTITIONS: u32 = 64;

/// The names below one prefix. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: Arc<str>,
    upper: Arc<str>,
}

impl Names {
    /// The names below `prefix`.
    pub fn new(prefix: &Slug) -> Self {
        Self { prefix: prefix.as_str().into(), upper: prefix.as_str().to_ascii_uppercase().into() }
    }

    /// The prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A stream, such as `FETCH`.
    pub fn stream(&self, name: &str) -> String {
        format!("{}_{name}", self.upper)
    }

    /// A bucket, such as `OWN`.
    pub fn bucket(&self, name: &str) -> String {
        self.stream(name)
    }

    /// The stream below a bucket.
    pub fn bucket_stream(&self, name: &str) -> String {
        format!("KV_{}", self.bucket(name))
    }

    /// The subject of a key of a bucket.
    pub fn bucket_key(&self, name: &str, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket(name))
    }

    /// A subject below the prefix.
    pub fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    /// Where a fetch is published.
    pub fn fetch(&self, lane: &LaneKey) -> String {
        format!("{}.fetch.{}", self.prefix, lane.subject())
    }

    /// Where the server stores it.
    pub fn queued(&self, lane: &LaneKey) -> String {
        format!("{}.q.{}.{}", self.prefix, partition(&lane.account), lane.subject())
    }

    /// All that waits of an account.
    pub fn queued_of(&self, account: &AccountKey) -> String {
        format!("{}.q.{}.{}.>", self.prefix, partition(account), account.subject())
    }

    /// Where the record of an account's permits is published.
    pub fn ledger(&self, account: &AccountKey) -> String {
        format!("{}.ledger.{}", self.prefix, account.subject())
    }

    /// Where the server stores it.
    pub fn ledger_stored(&self, account: &AccountKey) -> String {
        format!("{}.l.{}.{}", self.prefix, partition(account), account.subject())
    }

    /// Where a fetch is kept until its time.
    pub fn later(&self, lane: &LaneKey) -> String {
        let priority = match lane.priority {
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        };
        let (part, account) = (partition(&lane.account), lane.account.subject());
        format!("{}.later.{part}.{account}.{}.{priority}", self.prefix, lane.api)
    }

    /// All that is kept so of an account.
    pub fn later_of(&self, account: &AccountKey) -> String {
        format!("{}.later.{}.{}.>", self.prefix, partition(account), account.subject())
    }

    /// The lane of a subject that [`Names::later`] made.
    ///
    /// # Errors
    /// The text is no such subject; the error is a sentence.
    pub fn lane_of_later(&self, subject: &str) -> Result<LaneKey, String> {
        let rest = self.behind(subject, "later")?;
        let rest = rest.strip_suffix(".normal").unwrap_or(rest);
        LaneKey::parse(rest)
    }

    /// What stands behind `PREFIX.KIND.PARTITION.` in a stored subject.
    ///
    /// # Errors
    /// The subject does not begin so; the error is a sentence.
    pub fn behind<'a>(&self, subject: &'a str, kind: &str) -> Result<&'a str, String> {
        let rest = subject
            .strip_prefix(&*self.prefix)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_prefix(kind))
            .and_then(|rest| rest.strip_prefix('.'));
        let rest = rest.and_then(|rest| rest.split_once('.'));
        match rest {
            Some((part, rest)) if part.parse::<u32>().is_ok() => Ok(rest),
            _ => Err(format!("`{subject}` is not {}.{kind}.PARTITION.…", self.prefix)),
        }
    }

    /// Where it is told how a fetch ended: `done` or `dead`.
    pub fn ended(&self, kind: &str, lane: &LaneKey) -> String {
        format!("{}.{kind}.{}.{}", self.prefix, lane.account.subject(), lane.api)
    }

    /// Where the node of a session hears of budgets; of the session `*` all of them.
    pub fn budgets(&self, session: &str) -> String {
        format!("{}.budget.{session}", self.prefix)
    }

    /// Where the progress of a fetch is kept.
    pub fn progress(&self, account: &AccountKey, seq: Seq) -> String {
        let part = partition(account);
        format!("{}.progress.{part}.{}.{seq}", self.prefix, account.subject())
    }

    /// Whose progress a subject that [`Names::progress`] made is; none if it is none.
    pub fn of_progress(&self, subject: &str) -> Option<(AccountKey, Seq)> {
        let (account, seq) = self.behind(subject, "progress").ok()?.rsplit_once('.')?;
        let (account, seq) = (AccountKey::parse(account).ok()?, Seq(seq.parse().ok()?));
        (self.progress(&account, seq) == subject).then_some((account, seq))
    }
}

/// The partition of an account: FNV-1a (32 bit) over its two tokens without the dot between, modulo
/// [`PARTITIONS`], as the server's `partition(64,1,2)` has it
/// (<https://docs.nats.io/nats-concepts/subject_mapping#deterministic-subject-token-partitioning>).
pub fn partition(account: &AccountKey) -> u32 {
    let (platform, name) = (account.platform.as_str(), account.account.encoded());
    let hash = platform
        .bytes()
        .chain(name.bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % PARTITIONS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_reads_back_from_the_subject_of_each_kind() {
        let names = Names::new(&Slug::new("tollgate").unwrap());
        for text in ["meta.act_1.insights", "meta.a%40b%2Ec.insights.high", "m.x.y.low"] {
            let lane = LaneKey::parse(text).unwrap();
            let later = names.later(&lane);
            assert_eq!(names.lane_of_later(&later).unwrap(), lane, "{later}");
            let queued = names.queued(&lane);
            assert_eq!(names.behind(&queued, "q").unwrap(), text);
        }
        let account = AccountKey::parse("meta.a%40b%2Ec").unwrap();
        let progress = names.progress(&account, Seq(7));
        assert_eq!(names.of_progress(&progress), Some((account, Seq(7))), "{progress}");
        assert_eq!(names.of_progress(&progress.replace("%2E", "%2e")), None);
        assert_eq!(names.of_progress("tollgate.progress.64.meta.act_1.7"), None);
        assert!(names.behind("tollgate.q.x.meta.a.b", "q").is_err());
        assert!(names.behind("tollgate.quiet.1.meta.a.b", "q").is_err());
        assert!(names.behind("other.q.1.meta.a.b", "q").is_err());
    }
}
