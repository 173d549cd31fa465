//! One home and two guests over a network that loses, doubles, delays and reorders, while nodes are stopped: the two
//! state machines against what must hold whatever happens.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::guest::{self, Guest, room};
use super::home::{self, Home};
use super::wire::{End, Order, Told, Word};
use super::{BEAT_EVERY, LOST_AFTER, OFFER_LIVES, Spill, Stamp, agree, wire};
use crate::collector::{Item, Outcome};
use crate::ids::{Account, AccountKey, LaneKey, Priority, Seq, Slug};
use crate::nats::session::SessionId;
use crate::plan::How;
use crate::shard::permit::BodyRead;

const HOME: SessionId = SessionId(1);
const GUESTS: [SessionId; 2] = [SessionId(2), SessionId(3)];
const SLOTS: usize = 6;
const TURN: Duration = Duration::from_millis(25);
const LOST_CALL: Duration = Duration::from_secs(600);

fn item() -> Item {
    Item {
        lane: LaneKey {
            account: AccountKey {
                platform: Slug::new("p").unwrap(),
                account: Account::new("act.1/ä").unwrap(),
            },
            api: Slug::new("report").unwrap(),
            priority: Priority::Low,
        },
        seq: Seq(7),
        origin: Seq(5),
        queued_at: "2026-11-20T12:00:00.123Z".parse().unwrap(),
        id: "x".into(),
        fetch: serde_json::from_str(r#"{"id":"x","params":{"n":1.5,"s":"é","l":[1,null]}}"#)
            .unwrap(),
        budgets: Box::default(),
        generation: crate::plan::Generation(0),
    }
}

fn order() -> Box<Order> {
    Box::new(Order::of(&item(), (1, None), How::default(), LOST_CALL))
}

fn done() -> Told {
    let end = End::of(&Outcome::Done { bytes: 1, objects: 1 }, None, BodyRead::default());
    Told { written: true, ended: Some(true), end: Some(Box::new(end)), ..Told::default() }
}

/// A slot of a guest: counted while it is there.
#[derive(Debug)]
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(free: &Rc<Cell<usize>>) -> Self {
        free.set(free.get() - 1);
        Self(Rc::clone(free))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

struct Host {
    guest: Guest<Place>,
    free: Rc<Cell<usize>>,
    making: BTreeMap<u64, Place>,
    stopped: bool,
}

struct World {
    now: Stamp,
    home: Home,
    home_stopped: bool,
    hosts: Vec<Host>,
    mail: Vec<(SessionId, SessionId, Word)>,
    /// Slots that the home holds and has not used.
    held: Vec<(SessionId, u64)>,
    next_permit: u64,
    sent: BTreeMap<u64, Instant>,
    begun: BTreeSet<u64>,
    finished: BTreeSet<u64>,
    over: BTreeSet<u64>,
    /// What guests have told of attempts, and what the home knows of them.
    told: BTreeMap<u64, bool>,
    known: BTreeMap<u64, bool>,
    lost: BTreeSet<u64>,
    wants: usize,
}

impl World {
    fn new() -> Self {
        let now = Stamp::now();
        let host = |_| Host {
            guest: Guest::new(now.at),
            free: Rc::new(Cell::new(SLOTS)),
            making: BTreeMap::new(),
            stopped: false,
        };
        Self {
            now,
            home: Home::new(now.at),
            home_stopped: false,
            hosts: (0..GUESTS.len()).map(host).collect(),
            mail: Vec::new(),
            held: Vec::new(),
            next_permit: 0,
            sent: BTreeMap::new(),
            begun: BTreeSet::new(),
            finished: BTreeSet::new(),
            over: BTreeSet::new(),
            told: BTreeMap::new(),
            known: BTreeMap::new(),
            lost: BTreeSet::new(),
            wants: 0,
        }
    }

    fn host(session: SessionId) -> usize {
        GUESTS.iter().position(|guest| *guest == session).unwrap()
    }

    fn at_home(&mut self, todo: Vec<home::Do>) {
        for todo in todo {
            match todo {
                home::Do::Publish(word) => {
                    let copies = GUESTS.map(|guest| (HOME, guest, word.clone()));
                    self.mail.extend(copies);
                }
                home::Do::Send(to, word) => self.mail.push((HOME, to, word)),
                home::Do::Offered(guest, offer) => self.held.push((guest, offer)),
                home::Do::Told(permit, told) => {
                    self.known.insert(permit, told.written);
                    if let Some(end) = &told.end {
                        assert!(self.over.insert(permit), "{permit} ended twice");
                        assert!(!self.lost.contains(&permit));
                        let never = told.ended == Some(false);
                        assert!(
                            !never || !self.begun.contains(&permit),
                            "{permit} was begun: {end:?}"
                        );
                        assert!(never || self.finished.contains(&permit));
                    }
                }
                home::Do::Lost(permit, sent) => {
                    assert_eq!(self.sent[&permit], sent);
                    assert!(self.now.at - sent >= LOST_AFTER, "{permit} lost too soon");
                    assert!(self.lost.insert(permit) && !self.over.contains(&permit));
                }
                home::Do::May(guest, permit) => {
                    // As the shard says: it waits for this one.
                    assert!(!self.over.contains(&permit) && !self.lost.contains(&permit));
                    self.mail.push((HOME, guest, Word::Leave { permit, may: true }));
                }
            }
        }
    }

    fn as_guest(&mut self, host: usize, todo: Vec<guest::Do<Place>>) {
        for todo in todo {
            match todo {
                guest::Do::Send(to, word) => self.mail.push((GUESTS[host], to, word)),
                guest::Do::Begin(home, permit, _, place, stamp) => {
                    assert_eq!(home, HOME);
                    assert!(self.begun.insert(permit), "{permit} begun twice");
                    assert!(stamp.age(self.now) < OFFER_LIVES, "{permit} begun too late");
                    assert!(
                        stamp.at <= self.sent[&permit],
                        "offered after its permit was recorded"
                    );
                    self.hosts[host].making.insert(permit, place);
                }
                guest::Do::Abort(_, permit) => drop(self.hosts[host].making.remove(&permit)),
                // A copy of it may come when nobody waits for it any more.
                guest::Do::Leave(_, permit, may) => {
                    assert!(!may || self.begun.contains(&permit));
                }
            }
        }
    }

    fn turn(&mut self) {
        if !self.home_stopped {
            let (now, wants) = (self.now.at, self.wants);
            let todo = self.home.turn(now, wants, &How::default(), (true, 7));
            self.at_home(todo);
        }
        for host in 0..self.hosts.len() {
            if !self.hosts[host].stopped {
                let todo = self.hosts[host].guest.turn(self.now, true);
                self.as_guest(host, todo);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let mut left = time;
        while left > Duration::ZERO {
            let step = left.min(TURN);
            self.now = self.now.after(step);
            left -= step;
            self.turn();
        }
    }

    fn deliver(&mut self, place: usize, keep: bool) {
        let place = place % self.mail.len();
        let (from, to, word) = self.mail[place].clone();
        let stopped =
            if to == HOME { self.home_stopped } else { self.hosts[Self::host(to)].stopped };
        if stopped {
            return;
        }
        if !keep {
            self.mail.swap_remove(place);
        }
        if to == HOME {
            let todo = self.home.hear(self.now.at, from, word);
            return self.at_home(todo);
        }
        let host = Self::host(to);
        let todo = if let Word::Ask { number, wants, .. } = word {
            let free = &self.hosts[host].free;
            let room = room(wants, free.get(), SLOTS);
            let places = (0..room).map(|_| Place::take(free)).collect();
            self.hosts[host].guest.offer(self.now, from, number, places).into_iter().collect()
        } else {
            self.hosts[host].guest.hear(self.now, from, word)
        };
        self.as_guest(host, todo);
    }

    /// The home uses a slot that it was offered: decides, records, and sends.
    fn send(&mut self) {
        let Some((guest, offer)) = self.held.pop() else { return };
        self.next_permit += 1;
        let permit = self.next_permit;
        self.home.send(self.now.at, guest, offer, permit);
        self.sent.insert(permit, self.now.at);
        self.mail.push((HOME, guest, Word::Order { offer, permit, order: order() }));
    }

    fn give_back(&mut self) {
        let Some((guest, offer)) = self.held.pop() else { return };
        self.mail.push((HOME, guest, Word::Back { offers: vec![offer] }));
    }

    fn finish(&mut self, host: usize) {
        if self.hosts[host].stopped {
            return;
        }
        let Some((permit, place)) = self.hosts[host].making.pop_first() else { return };
        drop(place);
        let todo = self.hosts[host].guest.told(HOME, permit, done());
        // Of one that the guest has given up nothing is said.
        if todo.is_some() {
            self.finished.insert(permit);
        }
        self.as_guest(host, todo.into_iter().collect());
    }

    /// A request is written, or after all is not.
    fn tell(&mut self, host: usize) {
        if self.hosts[host].stopped {
            return;
        }
        let Some(permit) = self.hosts[host].making.keys().next().copied() else { return };
        let written = !self.told.get(&permit).copied().unwrap_or(false);
        let told = Told { written, facts: Some(Box::default()), ..Told::default() };
        let todo = self.hosts[host].guest.told(HOME, permit, told);
        if todo.is_some() {
            self.told.insert(permit, written);
        }
        self.as_guest(host, todo.into_iter().collect());
    }

    /// All that is said comes, at once and in its order, for so long.
    fn hear_all(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / TURN.as_millis() {
            self.pass(TURN);
            let all = std::mem::take(&mut self.mail);
            for one in all {
                self.mail.push(one);
                self.deliver(self.mail.len() - 1, false);
            }
        }
    }

    fn ask_leave(&mut self, host: usize) {
        let Some(permit) = self.hosts[host].making.keys().next().copied() else { return };
        self.mail.push((GUESTS[host], HOME, Word::May { permit }));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u16),
    Deliver(usize),
    Double(usize),
    Drop(usize),
    Send,
    Back,
    Finish(usize),
    Tell(usize),
    Ask(usize),
    Stop(usize),
    Wants(usize),
    Flood,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u16..400).prop_map(Step::Pass),
        1 => (400_u16..9000).prop_map(Step::Pass),
        8 => any::<usize>().prop_map(Step::Deliver),
        2 => any::<usize>().prop_map(Step::Double),
        1 => any::<usize>().prop_map(Step::Drop),
        5 => Just(Step::Send),
        1 => Just(Step::Back),
        3 => (0..2_usize).prop_map(Step::Finish),
        3 => (0..2_usize).prop_map(Step::Tell),
        1 => (0..2_usize).prop_map(Step::Ask),
        1 => (0..3_usize).prop_map(Step::Stop),
        2 => (0..8_usize).prop_map(Step::Wants),
        2 => Just(Step::Flood),
    ]
}

fn run(steps: &[Step]) -> World {
    let mut world = World::new();
    world.wants = 4;
    for step in steps {
        match step {
            Step::Pass(ms) => world.pass(Duration::from_millis((*ms).into())),
            Step::Deliver(_) | Step::Double(_) | Step::Drop(_) if world.mail.is_empty() => {}
            Step::Deliver(place) => world.deliver(*place, false),
            Step::Double(place) => world.deliver(*place, true),
            Step::Drop(place) => {
                let place = place % world.mail.len();
                world.mail.swap_remove(place);
            }
            Step::Send if !world.home_stopped => world.send(),
            Step::Back if !world.home_stopped => world.give_back(),
            Step::Send | Step::Back => {}
            Step::Finish(host) => world.finish(*host),
            Step::Tell(host) => world.tell(*host),
            Step::Ask(host) => world.ask_leave(*host),
            Step::Stop(0) => world.home_stopped = !world.home_stopped,
            Step::Stop(node) => {
                let host = &mut world.hosts[node - 1];
                host.stopped = !host.stopped;
            }
            Step::Wants(wants) => world.wants = *wants,
            Step::Flood => {
                for _ in 0..world.mail.len().min(32) {
                    if !world.mail.is_empty() {
                        world.deliver(0, false);
                    }
                }
            }
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_permit_is_used_twice_or_late_and_each_ends_once_whatever_is_lost_or_doubled(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut world = run(&steps);
        // Nothing fails any more: all that is out comes to an end, and every slot is free again.
        world.home_stopped = false;
        world.hosts.iter_mut().for_each(|host| host.stopped = false);
        world.wants = 0;
        // What was said last is lost. Within two beats everything is known all the same.
        world.mail.clear();
        world.hear_all(2 * BEAT_EVERY + 2 * TURN);
        for host in &world.hosts {
            for permit in host.making.keys() {
                if world.over.contains(permit) || world.lost.contains(permit) {
                    continue;
                }
                if let Some(told) = world.told.get(permit) {
                    prop_assert_eq!(world.known.get(permit), Some(told), "of {}", permit);
                }
            }
        }
        while !world.held.is_empty() {
            world.give_back();
        }
        for _ in 0..40 {
            for _ in 0..2 * world.mail.len() {
                if !world.mail.is_empty() {
                    world.deliver(0, false);
                }
            }
            world.finish(0);
            world.finish(1);
            world.pass(Duration::from_millis(600));
        }
        for permit in world.sent.keys() {
            let ends = world.over.contains(permit) || world.lost.contains(permit);
            prop_assert!(ends, "nobody knows what became of {}", permit);
        }
        prop_assert_eq!(world.home.len(), 0);
        for host in &mut world.hosts {
            host.making.clear();
            prop_assert!(host.guest.is_idle());
            prop_assert_eq!(host.free.get(), SLOTS);
        }
    }
}

#[test]
fn slots_are_offered_and_used_and_their_ends_are_heard() {
    let mut world = World::new();
    world.wants = 4;
    world.pass(Duration::from_millis(100));
    while !world.mail.is_empty() {
        world.deliver(0, false);
    }
    // Of six free ones two stay, and half of the rest is offered.
    assert_eq!(world.held.len(), 4);
    for _ in 0..4 {
        world.send();
    }
    while !world.mail.is_empty() {
        world.deliver(0, false);
    }
    assert_eq!((world.begun.len(), world.home.len()), (4, 4));
    world.wants = 0;
    world.pass(Duration::from_secs(20));
    assert_eq!(world.home.len(), 0, "nothing was delivered for so long");
    assert_eq!(world.lost.len(), 4);
}

#[test]
fn a_guest_that_slept_between_offer_and_order_begins_nothing_and_says_so() {
    let mut world = World::new();
    let (free, now) = (Rc::new(Cell::new(2)), world.now);
    let guest = &mut world.hosts[0].guest;
    let places = vec![Place::take(&free), Place::take(&free)];
    assert!(guest.offer(now, HOME, 1, places).is_some());
    let order = |offer, permit| Word::Order { offer, permit, order: order() };
    // Only the clock that counts sleep has gone on.
    let slept = now.after_sleep(OFFER_LIVES);
    let todo = guest.hear(slept, HOME, order(1, 10));
    let [guest::Do::Send(HOME, Word::Told { permit: 10, told })] = &todo[..] else {
        panic!("{todo:?}")
    };
    assert!(told.ended == Some(false) && told.end.is_some() && !told.written);
    // Another node's offer is not for this one, and one that nobody knows says nothing.
    assert!(guest.hear(now, GUESTS[1], order(2, 11)).is_empty());
    assert!(guest.hear(now, HOME, order(9, 11)).is_empty());
    let todo = guest.hear(now.after(OFFER_LIVES.saturating_sub(TURN)), HOME, order(2, 12));
    assert!(matches!(&todo[..], [guest::Do::Begin(HOME, 12, ..)]), "{todo:?}");
    assert!(guest.hear(now, HOME, order(2, 12)).is_empty(), "a copy of its order");
    drop(todo);
    assert_eq!(free.get(), 2);
}

#[test]
fn an_attempt_whose_order_was_lost_ends_as_soon_as_its_offer_has_lapsed_and_is_no_crash() {
    let mut world = World::new();
    world.wants = 4;
    world.hear_all(Duration::from_millis(100));
    assert_eq!(world.held.len(), 4);
    world.send();
    world.mail.clear();
    world.send();
    world.wants = 0;
    world.hear_all(Duration::from_millis(100));
    assert_eq!((world.begun.len(), world.home.len()), (1, 2));
    world.hear_all(OFFER_LIVES + 2 * BEAT_EVERY);
    // `at_home` looks that what has not begun is what ended, without a call.
    assert_eq!((world.over.len(), world.home.len(), world.lost.len()), (1, 1, 0));
    assert!(world.over.is_disjoint(&world.begun));
    // The other goes on, also long after its offer would have lapsed.
    world.hear_all(Duration::from_secs(20));
    world.hosts.iter().for_each(|host| assert!(host.guest.len() <= 1));
    assert_eq!((world.over.len(), world.home.len(), world.lost.len()), (1, 1, 0));
}

/// A guest with one attempt that may be kept so long, and the moment of its beginning.
fn guest_with(lost_call: Duration) -> (Guest<Place>, Stamp) {
    let (free, now) = (Rc::new(Cell::new(1)), Stamp::now());
    let mut guest = Guest::new(now.at);
    assert!(guest.offer(now, HOME, 1, vec![Place::take(&free)]).is_some());
    let order = Box::new(Order::of(&item(), (1, None), How::default(), lost_call));
    let todo = guest.hear(now, HOME, Word::Order { offer: 1, permit: 1, order });
    assert!(matches!(&todo[..], [guest::Do::Begin(HOME, 1, ..)]), "{todo:?}");
    (guest, now)
}

fn aborted(todo: &[guest::Do<Place>]) -> bool {
    todo.iter().any(|todo| matches!(todo, guest::Do::Abort(HOME, 1)))
}

#[test]
fn a_guest_that_is_cut_off_gives_up_before_the_places_of_its_call_are_free() {
    for (lost_call, linked_now_and_then) in
        [(600, false), (600, true), (60, false), (8, false), (4, false)]
    {
        let lost_call = Duration::from_secs(lost_call);
        let (mut guest, begun) = guest_with(lost_call);
        let mut now = begun;
        let mut turns = 0_u64;
        loop {
            now = now.after(TURN);
            turns += 1;
            // A link that comes back for moments, in which nothing is heard, makes nothing longer.
            let linked = linked_now_and_then && turns.is_multiple_of(100);
            if aborted(&guest.turn(now, linked)) {
                break;
            }
            assert!(begun.age(now) < lost_call, "it goes on for {lost_call:?}");
        }
        let bound = lost_call.saturating_sub(Duration::from_secs(5)).max(lost_call / 2);
        assert!(begun.age(now) >= bound && begun.age(now) <= bound + TURN);
        assert!(guest.is_idle());
    }
}

#[test]
fn a_guest_ends_at_once_what_its_home_gives_up_and_goes_on_with_the_rest() {
    let mut world = World::new();
    let guest = SessionId(9);
    for permit in [1, 2] {
        world.home.send(Instant::now(), guest, permit + 10, permit);
    }
    let Some(home::Do::Send(to, Word::Waits { permits })) = world.home.forget(1) else {
        panic!("its guest is told");
    };
    assert_eq!((to, permits), (guest, vec![(2, 12)]));
    assert!(world.home.forget(1).is_none());
    // It is the last there.
    let (mut guest, begun) = guest_with(Duration::from_secs(600));
    let now = begun.after(Duration::from_secs(3));
    let waits = |permits| Word::Waits { permits };
    assert!(!aborted(&guest.hear(now, HOME, waits(vec![(1, 1)]))));
    assert!(aborted(&guest.hear(now, HOME, waits(Vec::new()))));
}

#[test]
fn a_home_that_is_heard_after_a_stop_or_a_short_cut_is_worked_for_further() {
    let (mut guest, mut now) = guest_with(Duration::from_secs(60));
    for _ in 0..54 * 40 {
        now = now.after(TURN);
        assert!(!aborted(&guest.turn(now, false)));
    }
    // What it says has lain in the socket while this node was stopped for too long.
    now = now.after(Duration::from_secs(30));
    assert!(!aborted(&guest.turn(now, true)));
    assert!(guest.hear(now, HOME, Word::Waits { permits: vec![(1, 1)] }).is_empty());
    for _ in 0..5 * 40 {
        now = now.after(TURN);
        assert!(!aborted(&guest.turn(now, true)));
    }
    now = now.after_sleep(Duration::from_secs(60));
    assert!(aborted(&guest.turn(now, true)), "a sleep counts");
}

#[test]
fn no_more_goes_elsewhere_while_the_ends_of_what_came_back_are_not_recorded() {
    let (spill, _said) = Spill::new(1);
    let mut ends: Vec<_> = (0..3).map(|_| spill.records()).collect();
    assert!(spill.is_behind(3) && !spill.is_behind(4));
    ends.pop();
    assert!(!spill.is_behind(3));
}

#[test]
fn a_quarter_of_the_slots_stays_for_a_nodes_own_accounts() {
    assert_eq!(room(100, 8, 8), 3);
    assert_eq!(room(100, 5, 8), 2);
    assert_eq!((room(100, 3, 8), room(100, 2, 8)), (1, 0));
    assert_eq!((room(1, 1000, 1024), room(1000, 1024, 1024)), (1, 64));
    assert_eq!(room(5, 1, 1), 0, "the only one is not lent");
}

#[test]
fn what_travels_is_read_as_it_was_written() {
    let item = item();
    let so_far = crate::pages::SoFar {
        page: 3,
        filled: true,
        used: 5,
        calls: 4,
        exts: vec!["json".into()],
        ..crate::pages::SoFar::default()
    };
    let read = crate::pages::Read::new(17, so_far.clone());
    let how = How { calls: "a".into(), store: "b".into() };
    let order = Order::of(&item, (2, Some(&read)), how.clone(), LOST_CALL);
    let text = serde_json::to_vec(&order).unwrap();
    assert!(text.len() <= wire::order_bytes(&item));
    let order: Order = serde_json::from_slice(&text).unwrap();
    assert!(agree(&order.how, &how) && !agree(&order.how, &How::default()));
    let lost_call = order.lost_call;
    let read = order.read().unwrap();
    assert_eq!((read.lane, read.seq, read.origin), (item.lane, item.seq, item.origin));
    assert_eq!((read.id, read.fetch, read.queued_at), (item.id, item.fetch, item.queued_at));
    let pages = read.read.unwrap();
    assert_eq!(lost_call, LOST_CALL);
    assert_eq!((pages.version(), &pages.so_far, read.calls), (17, &so_far, 2));
}
