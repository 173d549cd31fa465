//! Which partitions a node should hold, claim and give up now: a pure function of what it sees.
//!
//! Rendezvous hashing over the members says who is wanted where, with no member above its share of partitions
//! rounded up. Everybody computes the same from the same members, so nobody has to be told. What a node does
//! about it follows from the claims: one that is free is claimed by who is wanted; one whose owner lives is given
//! up by its owner, and by nobody else; one whose owner is gone is taken by who is wanted, unless it may be that
//! everybody lost its lease at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Parts;
use crate::nats::PARTITIONS;
use crate::nats::session::SessionId;

/// After this node's own lease was renewed late, nobody counts as gone for so long: in an election of the server
/// that keeps the leases they all end together, and this is the time to have them renewed.
pub const SETTLES: Duration = Duration::from_secs(2);

/// A session that shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// It takes partitions: it has started, and is not about to end.
    pub takes: bool,
}

/// What a node sees.
#[derive(Debug, Clone)]
pub struct View {
    /// This node's session.
    pub me: SessionId,
    /// Whether this node itself takes partitions.
    pub takes: bool,
    /// The sessions that show themselves.
    pub members: BTreeMap<SessionId, Member>,
    /// Sessions that are certain to be over: earlier ones of this node's folder.
    pub over: BTreeSet<SessionId>,
    /// Who has claimed each partition; nobody: it is free.
    pub claims: [Option<SessionId>; PARTITIONS as usize],
    /// What this node works in, what it gives out of hand included.
    pub ours: Parts,
    /// What it gives out of hand.
    pub closing: Parts,
    /// What it could not give out of hand lately, and keeps for a while.
    pub kept: Parts,
    /// Since when its lease has been renewed in time: zero if it always was; nothing while it is not.
    pub steady_since: Option<Duration>,
    /// Since when its lease has held, though it may have been renewed late: zero if it always did; nothing while it
    /// does not.
    pub whole_since: Option<Duration>,
}

/// What a node does now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moves {
    /// Claim these, by compare-and-set on the claims seen.
    pub take: Parts,
    /// These are claimed by this node already: work in them.
    pub adopt: Parts,
    /// These are another's: stop.
    pub lose: Parts,
    /// Give these out of hand.
    pub give_up: Parts,
    /// These need not be given out of hand any more: go on.
    pub keep: Parts,
    /// Look again at this time, though nothing happens.
    pub look_at: Option<Duration>,
}

/// Who is wanted for each partition; nobody if nobody takes any.
pub fn wanted(members: &[SessionId]) -> [Option<SessionId>; PARTITIONS as usize] {
    let mut owners = [None; PARTITIONS as usize];
    if members.is_empty() {
        return owners;
    }
    let most = (PARTITIONS as usize).div_ceil(members.len());
    let pairs = (0..PARTITIONS)
        .flat_map(|part| members.iter().map(move |member| (weight(*member, part), *member, part)));
    let mut pairs: Vec<(u64, SessionId, u32)> = pairs.collect();
    pairs.sort_unstable_by(|one, other| other.cmp(one));
    let mut held: BTreeMap<SessionId, usize> = BTreeMap::new();
    for (_, member, part) in pairs {
        let owner = &mut owners[part as usize];
        let held = held.entry(member).or_default();
        if owner.is_none() && *held < most {
            *owner = Some(member);
            *held += 1;
        }
    }
    owners
}

/// Who is wanted, kept for as long as the same take partitions: it is asked at every turn, and they seldom change.
#[derive(Debug, Default)]
pub struct Wanted(Option<(Vec<SessionId>, [Option<SessionId>; PARTITIONS as usize])>);

impl Wanted {
    /// As [`wanted`] says.
    pub fn by(&mut self, members: Vec<SessionId>) -> [Option<SessionId>; PARTITIONS as usize] {
        match &self.0 {
            Some((known, owners)) if *known == members => *owners,
            Some(_) | None => {
                let owners = wanted(&members);
                self.0 = Some((members, owners));
                owners
            }
        }
    }
}

/// How much a partition is drawn to a member: the finalizer of SplitMix64
/// (<https://prng.di.unimi.it/splitmix64.c>), the same on every machine and in every version.
fn weight(member: SessionId, part: u32) -> u64 {
    let mut z = member.0 ^ u64::from(part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    z
}

/// What to do now. Doing it changes what is seen; then it is asked again, with the same `wanted`.
pub fn decide(view: &View, now: Duration, wanted: &mut Wanted) -> Moves {
    let takers = view.members.iter().filter(|(id, member)| **id != view.me && member.takes);
    let mut takers: Vec<SessionId> = takers.map(|(id, _)| *id).collect();
    if view.takes {
        takers.push(view.me);
    }
    takers.sort_unstable();
    let wanted = wanted.by(takers);
    let mut moves = Moves::default();
    for part in 0..PARTITIONS {
        let one = Parts::one(part);
        let (claim, wanted) = (view.claims[part as usize], wanted[part as usize]);
        let mine = view.ours.has(part);
        match claim {
            Some(owner) if owner == view.me => {
                if !mine {
                    // A write that seemed lost came through. A node that ends leaves it to its session's end.
                    moves.adopt |= if view.takes { one } else { Parts::NONE };
                } else if view.takes && wanted == Some(view.me) {
                    moves.keep |= one & view.closing;
                } else if !view.closing.has(part) && !view.kept.has(part) {
                    moves.give_up |= one;
                }
            }
            _ if mine => moves.lose |= one,
            _ if wanted != Some(view.me) => {}
            // Its owner gives it up; only it knows when.
            Some(owner) if view.members.contains_key(&owner) => {}
            claim => {
                let (since, at_once) = match claim {
                    // Nobody can lose what is free: late renewals of a loaded machine do not delay a hand-over. But
                    // after a lapse of the lease who is wanted is known only once all have shown themselves.
                    None => (view.whole_since, view.whole_since.is_some_and(|at| at.is_zero())),
                    Some(owner) => (view.steady_since, view.over.contains(&owner)),
                };
                let Some(since) = since else { continue };
                let from = if at_once { since } else { since + SETTLES };
                if now >= from {
                    moves.take |= one;
                } else {
                    moves.look_at = Some(moves.look_at.map_or(from, |at| at.min(from)));
                }
            }
        }
    }
    moves
}
