//! What is seen of the sessions and the claims: the entries of the bucket OWN, in the order of their revisions.

use std::collections::BTreeMap;

use async_nats::jetstream::kv::{Entry, Operation};
use serde::{Deserialize, Serialize};

use super::decide::Member;
use crate::nats::PARTITIONS;
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

/// All that is seen.
#[derive(Debug, Clone)]
pub(super) struct Board {
    pub(super) members: BTreeMap<SessionId, (u64, Member)>,
    pub(super) claims: [Seen; PARTITIONS as usize],
}

impl Default for Board {
    fn default() -> Self {
        Self { members: BTreeMap::new(), claims: [Seen::default(); PARTITIONS as usize] }
    }
}

impl Board {
    /// Notes one entry; whether anything is otherwise now.
    pub(super) fn note(&mut self, entry: &Entry) -> bool {
        let is_put = entry.operation == Operation::Put;
        if let Some(id) = entry.key.strip_prefix("n.").and_then(SessionId::parse) {
            let about = is_put.then(|| serde_json::from_slice::<Shown>(&entry.value).ok());
            // One that cannot be read is of another version: it lives, and takes nothing that we know of.
            let member =
                about.map(|about| Member { takes: about.is_some_and(|shown| shown.takes) });
            return self.note_member(id, entry.revision, member);
        }
        let part = entry.key.strip_prefix("p.").and_then(|part| part.parse::<u32>().ok());
        let Some(part) = part.filter(|part| *part < PARTITIONS) else { return false };
        let claim = is_put.then(|| serde_json::from_slice::<Claim>(&entry.value).ok()).flatten();
        let owner = claim.and_then(|claim| claim.session);
        self.note_claim(part, Seen { owner, revision: entry.revision })
    }

    /// A session's key was read at a revision: nothing if it has ended.
    pub(super) fn note_member(
        &mut self,
        id: SessionId,
        revision: u64,
        member: Option<Member>,
    ) -> bool {
        match (self.members.get_mut(&id), member) {
            (Some((known, _)), _) if *known > revision => false,
            (Some(_), None) => self.members.remove(&id).is_some(),
            (None, None) => false,
            (Some(known), Some(member)) => std::mem::replace(known, (revision, member)).1 != member,
            (None, Some(member)) => self.members.insert(id, (revision, member)).is_none(),
        }
    }

    /// A claim was read.
    pub(super) fn note_claim(&mut self, part: u32, seen: Seen) -> bool {
        let known = &mut self.claims[part as usize];
        if known.revision > seen.revision {
            return false;
        }
        std::mem::replace(known, seen) != seen
    }
}
