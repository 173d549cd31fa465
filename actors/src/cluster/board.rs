//! What is seen of the sessions and the claims: the entries of the bucket OWN, in the order of their revisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::decide::Member;
use crate::nats::PARTITIONS;
use crate::nats::own::Entry;
use crate::nats::session::{SessionId, Shown};

/// A claim, as the value of its key `p.PARTITION`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// The session that owns the partition; nothing: it was given up.
    pub(super) session: Option<SessionId>,
    /// Its node's name, for people.
    pub(super) node: String,
}

/// The key of a partition's claim.
pub(super) fn key(part: u32) -> String {
    format!("p.{part}")
}

/// What is seen of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) owner: Option<SessionId>,
    /// What the next write must expect; 0: there was none yet.
    pub(super) revision: u64,
}

/// In place of the owner that an unreadable claim may name: it is of another version, and nobody takes it from whom
/// it cannot ask. No session draws this number.
pub(super) const UNREADABLE: SessionId = SessionId(u64::MAX);

impl Seen {
    /// What an entry of a claim's key says.
    pub(super) fn of(entry: &Entry) -> Self {
        let owner = entry.value.as_ref().and_then(|value| {
            let claim = serde_json::from_slice::<Claim>(value);
            claim.map_or(Some(UNREADABLE), |claim| claim.session)
        });
        Self { owner, revision: entry.revision }
    }
}

/// Sessions that are known to have ended, though a replica may still show them. Of more the lowest go, and are
/// asked for again.
const ENDED_MAX: usize = 1024;

/// What is seen of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shows {
    revision: u64,
    pub(super) member: Member,
    /// When it was last seen to renew.
    renewed: Instant,
}

/// All that is seen.
#[derive(Debug, Clone)]
pub(super) struct Board {
    pub(super) members: BTreeMap<SessionId, Shows>,
    pub(super) claims: [Seen; PARTITIONS as usize],
    /// The last revision of sessions that the leader says have ended.
    ended: BTreeMap<SessionId, u64>,
    /// What was seen by the watch before: an entry that is the same is no renewal.
    earlier: BTreeMap<SessionId, Shows>,
    /// The key of an entry that could not be read.
    unreadable: Option<String>,
}

impl Default for Board {
    fn default() -> Self {
        let claims = [Seen::default(); PARTITIONS as usize];
        let (members, ended, earlier, unreadable) = Default::default();
        Self { members, claims, ended, earlier, unreadable }
    }
}

impl Board {
    /// A new one, on which nothing stands but which sessions have ended for certain.
    pub(super) fn anew(&self) -> Self {
        let (ended, earlier) = (self.ended.clone(), self.members.clone());
        Self { ended, earlier, ..Self::default() }
    }

    /// The newest entry of the bucket is this one. What ended later did so in another bucket, which is gone.
    pub(super) fn begins_at_most(&mut self, revision: u64) {
        self.ended.retain(|_, last| *last <= revision);
    }

    /// Notes one entry; whether anything is otherwise now.
    pub(super) fn note(&mut self, entry: &Entry) -> bool {
        if let Some(id) = entry.key.strip_prefix("n.").and_then(SessionId::parse) {
            let about =
                entry.value.as_ref().map(|value| serde_json::from_slice::<Shown>(value).ok());
            if about.as_ref().is_some_and(Option::is_none) {
                self.unreadable.get_or_insert_with(|| entry.key.clone());
            }
            // One that cannot be read is of another version: it lives, and takes nothing that we know of.
            let member =
                about.map(|about| Member { takes: about.is_some_and(|shown| shown.takes) });
            return self.note_member(id, entry.revision, member);
        }
        let part = entry.key.strip_prefix("p.").and_then(|part| part.parse::<u32>().ok());
        let Some(part) = part.filter(|part| *part < PARTITIONS) else { return false };
        let seen = Seen::of(entry);
        if seen.owner == Some(UNREADABLE) {
            self.unreadable.get_or_insert_with(|| entry.key.clone());
        }
        self.note_claim(part, seen)
    }

    /// The first entry that could not be read since this was asked last.
    pub(super) fn take_unreadable(&mut self) -> Option<String> {
        self.unreadable.take()
    }

    /// Sessions that were not seen to renew since `before`. The watch may live on a replica of the bucket that came
    /// back from a crash with keys that the leader has removed: it shows them for ever, and nobody renews them.
    pub(super) fn silent_since(&self, before: Instant) -> Vec<SessionId> {
        let silent = self.members.iter().filter(|(_, shows)| shows.renewed <= before);
        silent.map(|(id, _)| *id).collect()
    }

    /// Who of the others was silent for longest: since when.
    pub(super) fn renewed_first(&self, me: SessionId) -> Option<Instant> {
        let others = self.members.iter().filter(|(id, _)| **id != me);
        others.map(|(_, shows)| shows.renewed).min()
    }

    /// What the leader has of a session: its revision and what it shows; nothing if it has ended.
    pub(super) fn note_certain(&mut self, id: SessionId, shown: Option<(u64, Member)>) {
        if let Some((revision, member)) = shown {
            self.ended.remove(&id);
            self.note_member(id, revision, Some(member));
            if let Some(shows) = self.members.get_mut(&id) {
                shows.renewed = Instant::now();
            }
        } else if let Some(shows) = self.members.remove(&id) {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_first();
            }
            self.ended.insert(id, shows.revision);
        }
    }

    /// A session's key was read at a revision: nothing if it has ended.
    pub(super) fn note_member(
        &mut self,
        id: SessionId,
        revision: u64,
        member: Option<Member>,
    ) -> bool {
        if self.ended.get(&id).is_some_and(|last| *last >= revision) {
            return false;
        }
        let renewed = Instant::now();
        match (self.members.get_mut(&id), member) {
            (Some(known), _) if known.revision > revision => false,
            (Some(_), None) => self.members.remove(&id).is_some(),
            (None, None) => false,
            (Some(known), Some(_)) if known.revision == revision => false,
            (Some(known), Some(member)) => {
                let before = std::mem::replace(known, Shows { revision, member, renewed });
                before.member != member
            }
            (None, Some(member)) => {
                let same = self.earlier.get(&id).filter(|shows| shows.revision == revision);
                let renewed = same.map_or(renewed, |shows| shows.renewed);
                self.members.insert(id, Shows { revision, member, renewed }).is_none()
            }
        }
    }

    /// A claim was read.
    pub(super) fn note_claim(&mut self, part: u32, seen: Seen) -> bool {
        let known = &mut self.claims[part as usize];
        // Only the leader says that there is none: the bucket was emptied, for claims are never taken away.
        if known.revision > seen.revision && seen.revision > 0 {
            return false;
        }
        std::mem::replace(known, seen) != seen
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TAKES: Member = Member { takes: true };

    #[tokio::test(start_paused = true)]
    async fn a_session_that_only_a_replica_still_shows_is_asked_for_and_stays_gone() {
        let lease = Duration::from_secs(4);
        let (phantom, live, me) = (SessionId(1), SessionId(2), SessionId(3));
        let mut board = Board::default();
        board.note_member(phantom, 10, Some(TAKES));
        for renewal in 0..5 {
            board.note_member(live, 20 + renewal, Some(TAKES));
            tokio::time::advance(Duration::from_secs(1)).await;
            // The same entry again is no renewal.
            board.note_member(phantom, 10, Some(TAKES));
        }
        assert_eq!(board.silent_since(Instant::now() - lease), [phantom]);
        assert_eq!(board.renewed_first(me), Some(Instant::now() - Duration::from_secs(5)));
        board.note_certain(phantom, None);
        assert!(board.silent_since(Instant::now() - lease).is_empty());

        // A watch that begins anew reads what the replica has.
        let known = board.clone();
        let mut board = board.anew();
        assert!(!board.note_member(phantom, 10, Some(TAKES)) && board.members.is_empty());
        assert!(board.note_member(phantom, 11, Some(TAKES)), "it lives after all");
        tokio::time::advance(Duration::from_secs(4)).await;
        let mut board = known.anew();
        board.note_member(live, 24, Some(TAKES));
        assert_eq!(board.silent_since(Instant::now() - lease), [live], "no renewal either");

        // The bucket was made anew: its numbers begin at 1.
        let mut board = known.anew();
        board.begins_at_most(7);
        assert!(board.note_member(phantom, 7, Some(TAKES)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_later_version_wrote_counts_as_taken_and_as_alive() {
        let entry = |key: &str, value: &'static str| Entry {
            key: key.into(),
            revision: 3,
            value: Some(value.into()),
        };
        let mut board = Board::default();
        board.note(&entry("p.5", r#"{"owners":["00000000000000aa"]}"#));
        board.note(&entry("p.6", r#"{"session":null,"node":"x","since":1}"#));
        board.note(&entry("n.00000000000000aa", "\u{1}"));
        assert_eq!(board.claims[5].owner, Some(UNREADABLE));
        assert_eq!(board.claims[6].owner, None, "only more is told");
        assert_eq!(board.members[&SessionId(0xaa)].member, Member { takes: false });
        assert_eq!(board.take_unreadable().as_deref(), Some("p.5"));
        // Taken away: free.
        board.note(&Entry { key: "p.5".into(), revision: 4, value: None });
        assert_eq!(board.claims[5].owner, None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_the_leader_knows_is_not_asked_for_again_at_once() {
        let id = SessionId(7);
        let mut board = Board::default();
        board.note_member(id, 10, Some(TAKES));
        tokio::time::advance(Duration::from_secs(5)).await;
        board.note_certain(id, Some((10, TAKES)));
        assert!(board.silent_since(Instant::now() - Duration::from_secs(4)).is_empty());
        assert_eq!(board.members.len(), 1);
    }
}
