//! The decision: properties over all that may be seen, and nodes that decide by late and different views of one board.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::Parts;
use super::decide::{self, Member, Moves, SETTLES, View, Wanted, wanted};
use crate::nats::PARTITIONS;
use crate::nats::session::SessionId;

/// As a node decides that was not there before.
fn decide(view: &View, now: Duration) -> Moves {
    decide::decide(view, now, &mut Wanted::default())
}

const ALL: usize = PARTITIONS as usize;

fn sessions() -> impl Strategy<Value = BTreeSet<SessionId>> {
    prop::collection::btree_set(any::<u64>().prop_map(SessionId), 1..=40)
}

fn by_owner(owners: &[Option<SessionId>; ALL]) -> BTreeMap<SessionId, usize> {
    let mut held = BTreeMap::new();
    for owner in owners.iter().flatten() {
        *held.entry(*owner).or_default() += 1;
    }
    held
}

fn moved(one: &[Option<SessionId>; ALL], other: &[Option<SessionId>; ALL]) -> usize {
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

proptest! {
    #[test]
    fn every_partition_is_wanted_by_one_member_and_none_has_more_than_its_share(
        members in sessions()
    ) {
        let members: Vec<SessionId> = members.into_iter().collect();
        let owners = wanted(&members);
        prop_assert!(owners.iter().all(|owner| owner.is_some_and(|owner| members.contains(&owner))));
        let most = by_owner(&owners).into_values().max().unwrap();
        prop_assert!(most <= ALL.div_ceil(members.len()));
        // Whoever lists them in another order means the same.
        let reversed: Vec<SessionId> = members.iter().rev().copied().collect();
        prop_assert_eq!(wanted(&reversed), owners);
    }

    #[test]
    fn little_moves_when_a_node_comes_or_goes(
        members in prop::collection::btree_set(any::<u64>().prop_map(SessionId), 1..=16),
        new: u64,
    ) {
        prop_assume!(!members.contains(&SessionId(new)));
        let few: Vec<SessionId> = members.iter().copied().collect();
        let more: Vec<SessionId> = members.iter().copied().chain([SessionId(new)]).collect();
        let (before, after) = (wanted(&few), wanted(&more));
        let comes = by_owner(&after).get(&SessionId(new)).copied().unwrap_or(0);
        prop_assert!(comes <= ALL.div_ceil(more.len()));
        // What the new one has moves in any case. Beside it the lower cap pushes some from one to another: 3 of 64
        // on the average, at most 12 in a thousand drawn at random.
        let pushed = moved(&before, &after) - comes;
        prop_assert!(pushed <= 20, "{pushed} pushed, {comes} came, {} nodes", few.len());
    }

    #[test]
    fn nothing_is_taken_from_who_lives_nor_by_who_is_not_steady(view in views(), now in 0_u64..20_000) {
        let now = Duration::from_millis(now);
        let Moves { take, adopt, lose, give_up, keep, look_at } = decide(&view, now);
        for part in 0..PARTITIONS {
            let claim = view.claims[part as usize];
            let mine = view.ours.has(part);
            if take.has(part) {
                prop_assert!(view.takes && !mine);
                if let Some(owner) = claim {
                    let since = view.steady_since.unwrap();
                    prop_assert!(owner != view.me && !view.members.contains_key(&owner));
                    prop_assert!(view.over.contains(&owner) || now >= since + SETTLES);
                } else {
                    let since = view.whole_since.unwrap();
                    prop_assert!(since.is_zero() || now >= since + SETTLES);
                }
            }
            prop_assert_eq!(lose.has(part), mine && claim != Some(view.me));
            prop_assert!(!adopt.has(part) || (!mine && claim == Some(view.me)));
            prop_assert!(!give_up.has(part) || (mine && claim == Some(view.me)));
            prop_assert!(!keep.has(part) || view.closing.has(part));
            let doing = [take, adopt, lose, give_up, keep];
            prop_assert!(doing.iter().filter(|parts| parts.has(part)).count() <= 1);
        }
        prop_assert!(look_at.is_none_or(|at| at > now));
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_and_goes_each_partition_has_one_owner_in_the_end(
        seed: u64,
        events in prop::collection::vec((0_u8..5, 0_usize..5, 1_u64..4000), 0..40),
    ) {
        let mut world = World::new(seed);
        for (kind, node, wait) in events {
            world.happen(kind, node);
            world.go_on(Duration::from_millis(wait));
        }
        for node in 0..world.nodes.len() {
            world.happen(RESUME, node);
        }
        if world.nodes.iter().all(|node| node.ends) {
            world.happen(START, 0);
        }
        world.go_on(Duration::from_secs(30));
        world.assert_settled();
    }
}

fn views() -> impl Strategy<Value = View> {
    let id = || (0_u64..6).prop_map(SessionId);
    let claims = prop::collection::vec(prop::option::of(id()), ALL);
    let members = prop::collection::btree_map(id(), any::<bool>(), 0..6);
    let over = prop::collection::btree_set(id(), 0..3);
    let sets = (any::<u64>(), any::<u64>(), any::<u64>());
    let steady = prop::option::of(0_u64..10_000);
    let whole = prop::option::of(prop_oneof![Just(0_u64), 0_u64..10_000]);
    (claims, members, over, sets, (steady, whole), any::<bool>()).prop_map(
        |(claims, members, over, (ours, closing, kept), (steady, whole), takes)| View {
            me: SessionId(0),
            takes,
            members: members.into_iter().map(|(id, takes)| (id, Member { takes })).collect(),
            over: over.into_iter().filter(|id| *id != SessionId(0)).collect(),
            claims: claims.try_into().unwrap(),
            ours: Parts(ours),
            closing: Parts(ours & closing),
            kept: Parts(kept),
            steady_since: steady.map(Duration::from_millis),
            whole_since: whole.map(Duration::from_millis),
        },
    )
}

/// Kinds of events.
const START: u8 = 0;
const KILL: u8 = 1;
const STOP: u8 = 2;
const RESUME: u8 = 3;
const LEAVE: u8 = 4;

const TICK: Duration = Duration::from_millis(100);
const LIVES: Duration = Duration::from_secs(5);
const HOLDS: Duration = Duration::from_secs(3);
/// What a watch is behind at most.
const BEHIND: Duration = Duration::from_millis(700);

/// A change as the watches see it.
#[derive(Debug, Clone)]
enum Told {
    Shows(SessionId, bool),
    Gone(SessionId),
    Claimed(u32, Option<SessionId>, u64),
}

/// The server: the keys as they are, and what it told each watch.
struct World {
    now: Duration,
    random: u64,
    shown: BTreeMap<SessionId, (Duration, bool)>,
    claims: [(Option<SessionId>, u64); ALL],
    revision: u64,
    nodes: Vec<Node>,
    /// How often each session began: a new one has another number.
    born: u64,
}

struct Node {
    view: View,
    wanted: Wanted,
    revisions: [u64; ALL],
    news: VecDeque<(Duration, Told)>,
    renewed: Duration,
    stopped: bool,
    ends: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            random: seed,
            shown: BTreeMap::new(),
            claims: [(None, 0); ALL],
            revision: 0,
            nodes: Vec::new(),
            born: 0,
        };
        for _ in 0..3 {
            world.happen(START, 0);
        }
        world
    }

    fn luck(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % below
    }

    fn tell(&mut self, told: &Told) {
        for node in 0..self.nodes.len() {
            let behind = self.luck(u64::try_from(BEHIND.as_millis()).unwrap());
            let news = &mut self.nodes[node].news;
            let after = news.back().map_or(Duration::ZERO, |(at, _)| *at);
            news.push_back((after.max(self.now + Duration::from_millis(behind)), told.clone()));
        }
    }

    fn happen(&mut self, kind: u8, node: usize) {
        if kind == START {
            if self.nodes.iter().filter(|node| !node.ends).count() >= 6 {
                return;
            }
            self.born += 1;
            let me = SessionId(self.born.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            self.shown.insert(me, (self.now, true));
            self.tell(&Told::Shows(me, true));
            let members = self.shown.iter().map(|(id, (_, takes))| (*id, Member { takes: *takes }));
            let view = View {
                me,
                takes: true,
                members: members.collect(),
                over: BTreeSet::new(),
                claims: self.claims.map(|(owner, _)| owner),
                ours: Parts::NONE,
                closing: Parts::NONE,
                kept: Parts::NONE,
                steady_since: Some(self.now),
                whole_since: Some(self.now),
            };
            self.nodes.push(Node {
                view,
                wanted: Wanted::default(),
                revisions: self.claims.map(|(_, revision)| revision),
                news: VecDeque::new(),
                renewed: self.now,
                stopped: false,
                ends: false,
            });
            return;
        }
        let count = self.nodes.len();
        if count == 0 {
            return;
        }
        let node = &mut self.nodes[node % count];
        match kind {
            KILL => node.ends = true,
            STOP => node.stopped = true,
            RESUME => node.stopped = false,
            LEAVE if !node.ends && !node.stopped => {
                node.view.takes = false;
                let me = node.view.me;
                self.shown.insert(me, (self.now, false));
                self.tell(&Told::Shows(me, false));
            }
            _ => {}
        }
    }

    fn go_on(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += TICK;
            let gone: Vec<SessionId> = self
                .shown
                .iter()
                .filter(|(_, (renewed, _))| self.now >= *renewed + LIVES)
                .map(|(id, _)| *id)
                .collect();
            for id in gone {
                self.shown.remove(&id);
                self.tell(&Told::Gone(id));
            }
            for node in 0..self.nodes.len() {
                if !self.nodes[node].ends && !self.nodes[node].stopped {
                    self.one(node);
                }
            }
            self.nodes.retain(|node| !node.ends);
        }
    }

    fn one(&mut self, place: usize) {
        let now = self.now;
        let (me, takes) = (self.nodes[place].view.me, self.nodes[place].view.takes);
        // A lapse: what it held is looked at anew.
        let late = now >= self.nodes[place].renewed + HOLDS;
        if now >= self.nodes[place].renewed + Duration::from_secs(1) {
            let was = self.shown.insert(me, (now, takes));
            if was.is_none() {
                self.tell(&Told::Shows(me, takes));
            }
            let node = &mut self.nodes[place];
            node.renewed = now;
            if late {
                (node.view.steady_since, node.view.whole_since) = (Some(now), Some(now));
                for part in node.view.ours.iter() {
                    let (owner, revision) = self.claims[part as usize];
                    node.view.claims[part as usize] = owner;
                    node.revisions[part as usize] = revision;
                }
            }
        }
        let node = &mut self.nodes[place];
        while let Some((at, _)) = node.news.front()
            && *at <= now
        {
            match node.news.pop_front().unwrap().1 {
                Told::Shows(id, takes) => {
                    node.view.members.insert(id, Member { takes });
                }
                Told::Gone(id) => {
                    node.view.members.remove(&id);
                }
                Told::Claimed(part, owner, revision) => {
                    if revision > node.revisions[part as usize] {
                        node.view.claims[part as usize] = owner;
                        node.revisions[part as usize] = revision;
                    }
                }
            }
        }
        let moves = decide::decide(&node.view, now, &mut node.wanted);
        node.view.ours -= moves.lose;
        node.view.closing -= moves.lose | moves.keep;
        node.view.ours |= moves.adopt;
        let freed = node.view.closing;
        node.view.closing = moves.give_up;
        let seen = node.revisions;
        for part in moves.take.iter() {
            let (owner, revision) = self.claims[part as usize];
            // As the keeper does: whoever is taken from is asked for at the leader.
            if owner.is_some_and(|owner| self.shown.contains_key(&owner)) {
                continue;
            }
            if revision == seen[part as usize] {
                self.claim(place, part, Some(me));
            }
        }
        for part in freed.iter() {
            self.nodes[place].view.ours -= Parts::one(part);
            if self.claims[part as usize].1 == seen[part as usize] {
                self.claim(place, part, None);
            }
        }
    }

    fn claim(&mut self, place: usize, part: u32, owner: Option<SessionId>) {
        self.revision += 1;
        self.claims[part as usize] = (owner, self.revision);
        let node = &mut self.nodes[place];
        node.view.claims[part as usize] = owner;
        node.revisions[part as usize] = self.revision;
        if owner.is_some() {
            node.view.ours |= Parts::one(part);
        }
        self.tell(&Told::Claimed(part, owner, self.revision));
    }

    fn assert_settled(&self) {
        let takers: Vec<SessionId> =
            self.nodes.iter().filter(|node| node.view.takes).map(|node| node.view.me).collect();
        if takers.is_empty() {
            return;
        }
        let owners = wanted(&takers);
        for node in &self.nodes {
            let mine = |part: &u32| owners[*part as usize] == Some(node.view.me);
            let wanted: Parts = (0..PARTITIONS).filter(mine).collect();
            assert_eq!(node.view.ours, wanted, "of {} nodes", self.nodes.len());
            assert_eq!(node.view.closing, Parts::NONE);
        }
        assert_eq!(self.claims.map(|(owner, _)| owner), owners);
    }
}

#[test]
fn three_nodes_have_a_third_each() {
    let members = [SessionId(11), SessionId(22), SessionId(33)];
    let held: Vec<usize> = by_owner(&wanted(&members)).into_values().collect();
    assert_eq!(held.iter().sum::<usize>(), ALL);
    assert_eq!(held.iter().max(), Some(&22));
    assert_eq!(wanted(&[]), [None; ALL]);
}

#[test]
fn when_all_leases_end_at_once_nobody_takes_anything() {
    // An election of the server that keeps them: this node's lease is the first to be back.
    let (me, other) = (SessionId(1), SessionId(2));
    let owners = wanted(&[me, other]);
    let ours: Parts = (0..PARTITIONS).filter(|part| owners[*part as usize] == Some(me)).collect();
    let back = Duration::from_secs(100);
    let mut view = View {
        me,
        takes: true,
        members: BTreeMap::from([(me, Member { takes: true })]),
        over: BTreeSet::new(),
        claims: owners,
        ours,
        closing: Parts::NONE,
        kept: Parts::NONE,
        steady_since: Some(back),
        whole_since: Some(back),
    };
    let moves = decide(&view, back + Duration::from_millis(1900));
    assert_eq!(moves, Moves { look_at: Some(back + SETTLES), ..Moves::default() });
    // The other's is back as well: nothing has moved.
    view.members.insert(other, Member { takes: true });
    assert_eq!(decide(&view, back + SETTLES), Moves::default());
    // It does not come back.
    view.members.remove(&other);
    assert_eq!(decide(&view, back + SETTLES).take, Parts::ALL - ours);
}

#[test]
fn what_is_free_is_claimed_at_once_by_who_was_renewed_late_and_after_a_lapse_when_all_have_shown_themselves()
 {
    let (me, left) = (SessionId(1), SessionId(2));
    let now = Duration::from_secs(100);
    let mut view = View {
        me,
        takes: true,
        members: BTreeMap::from([(me, Member { takes: true }), (left, Member { takes: false })]),
        over: BTreeSet::new(),
        claims: [None; ALL],
        ours: Parts::NONE,
        closing: Parts::NONE,
        kept: Parts::NONE,
        steady_since: None,
        whole_since: Some(Duration::ZERO),
    };
    view.claims[7] = Some(SessionId(3));
    let free = Parts::ALL - Parts::one(7);
    assert_eq!(decide(&view, now), Moves { take: free, ..Moves::default() });
    view.whole_since = Some(now);
    assert_eq!(decide(&view, now), Moves { look_at: Some(now + SETTLES), ..Moves::default() });
    assert_eq!(decide(&view, now + SETTLES).take, free);
    view.whole_since = None;
    assert_eq!(decide(&view, now + SETTLES), Moves::default());
}
