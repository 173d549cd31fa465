//! Carries what shards and other nodes have to say to each other of attempts that travel, over NATS.
//!
//! Each node hears `PREFIX.spill.SESSION`, what is meant for it, and `PREFIX.spill.ask`, what is asked of all. Core NATS:
//! what is lost is said again or not needed ([`crate::spill`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tollgate_gate::PermitId;

use crate::collector::Slot;
use crate::mailbox::Mailbox;
use crate::nats::Bus;
use crate::nats::session::SessionId;
use crate::shard::Shard;
use crate::shard::context::{Shared, shard_of_permit};
use crate::shard::guests::{EndVisit, GuestLost, Host, Lent, MayStore, Said};
use crate::spill::guest::{self, Guest};
use crate::spill::home::{self, Home};
use crate::spill::wire::{self, Letter, Told, Word};
use crate::spill::{Command, LEAVE_WITHIN, Offer, Spill, Stamp, agree};
use crate::telemetry;

/// How often it is looked who waits for a slot.
const TURN_EVERY: Duration = Duration::from_millis(25);
/// The same while nothing is under way, for each look wakes the thread: those who begin to wait say so.
const QUIET_EVERY: Duration = Duration::from_millis(250);
/// Between two tries to subscribe.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);
/// Between two tries to ask whether an object may become visible.
const ASK_LEAVE_EVERY: Duration = Duration::from_millis(500);
/// Smallest `max_payload` of a server over which attempts travel: the largest order and what goes around it.
const PAYLOAD_MIN: usize = 512 * 1024;
/// Where all are asked.
const ALL: &str = "spill.ask";

/// Lets attempts travel while it is run.
#[derive(Debug)]
pub struct Spilling {
    spill: Spill,
    said: mpsc::UnboundedReceiver<Command>,
    shards: Arc<[Mailbox<Shard>]>,
    shared: Shared,
}

impl Spilling {
    pub(super) fn new(
        spill: Spill,
        said: mpsc::UnboundedReceiver<Command>,
        shards: Arc<[Mailbox<Shard>]>,
        shared: Shared,
    ) -> Self {
        Self { spill, said, shards, shared }
    }

    /// Works on this thread until that is dropped.
    pub fn start(self, bus: Bus, me: SessionId) -> Carrying {
        Carrying(actix_rt::spawn(self.run(bus, me)))
    }

    /// When it ends by itself, what is elsewhere is waited for in vain. Does nothing on a server whose messages are too
    /// small for an order.
    async fn run(self, bus: Bus, me: SessionId) {
        if bus.client().max_payload() < PAYLOAD_MIN {
            return std::future::pending().await;
        }
        let Self { spill, said, shards, shared } = self;
        let mine = bus.names().subject(&format!("spill.{me}"));
        let (own, all) = loop {
            let own = bus.client().subscribe(mine.clone()).await;
            let all = bus.client().subscribe(bus.names().subject(ALL)).await;
            if let (Ok(own), Ok(all)) = (own, all) {
                break (own, all);
            }
            sleep(SUBSCRIBE_AGAIN).await;
        };
        let now = Instant::now();
        let _off = Off(spill.clone());
        spill.set_on(true);
        let carrier = Carrier {
            bus,
            me,
            spill,
            shards,
            shared,
            home: Home::new(now),
            guest: Guest::new(now),
            asking: HashMap::new(),
        };
        carrier.work(said, own, all).await;
    }
}

/// What lets attempts travel, at work.
#[derive(Debug)]
pub struct Carrying(JoinHandle<()>);

impl Carrying {
    /// Waits until nothing is carried any more, which it never should: calls at other nodes are waited for in vain
    /// then.
    pub async fn died(&mut self) {
        // A panic was said by itself.
        let _ended = (&mut self.0).await.is_ok();
        telemetry::carrier_died();
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Nothing travels any more.
struct Off(Spill);

impl Drop for Off {
    fn drop(&mut self) {
        self.0.set_on(false);
    }
}

/// Somebody who waits for leave to make an object visible.
struct Asking {
    leave: oneshot::Sender<bool>,
    asked: Instant,
    /// Time in which an answer could have come.
    waited: Duration,
}

struct Carrier {
    bus: Bus,
    me: SessionId,
    spill: Spill,
    shards: Arc<[Mailbox<Shard>]>,
    shared: Shared,
    home: Home,
    guest: Guest<OwnedSemaphorePermit>,
    asking: HashMap<(SessionId, u64), Asking>,
}

impl Carrier {
    async fn work(
        mut self,
        mut said: mpsc::UnboundedReceiver<Command>,
        mut own: Subscriber,
        mut all: Subscriber,
    ) {
        let spill = self.spill.clone();
        let mut turned = Instant::now();
        loop {
            let every = if self.is_quiet() { QUIET_EVERY } else { TURN_EVERY };
            tokio::select! {
                // Before what was heard: a node that was stopped has to know that first.
                biased;
                () = sleep_until(turned + every) => {
                    self.turn().await;
                    turned = Instant::now();
                }
                // The next turn comes sooner.
                () = spill.news() => {}
                command = said.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                message = own.next() => match message {
                    Some(message) => self.hear(&message).await,
                    None => return,
                },
                message = all.next() => match message {
                    Some(message) => self.hear(&message).await,
                    None => return,
                },
            }
        }
    }

    /// Nothing is here or elsewhere, and nobody waits: only what others say can change that.
    fn is_quiet(&self) -> bool {
        self.home.is_empty()
            && self.guest.is_empty()
            && self.asking.is_empty()
            && self.spill.waiting().into_iter().all(|count| count == 0)
    }

    fn is_linked(&self) -> bool {
        self.bus.link().borrow().up && !self.shared.back_health.is_away()
    }

    async fn turn(&mut self) {
        let (stamp, linked) = (Stamp::now(), self.is_linked());
        let plan = self.shared.plan.get();
        let ready = !self.spill.is_ending()
            && !self.shared.store_health.is_away()
            && !self.spill.is_behind(plan.collect.concurrency);
        let wants = if ready { self.spill.waiting().into_iter().sum() } else { 0 };
        let how = plan.how.clone();
        let jitter = crate::state::clock::random().to_be_bytes()[0];
        for todo in self.home.turn(stamp.at, wants, &how, (linked, jitter)) {
            self.at_home(todo).await;
        }
        for todo in self.guest.turn(stamp, linked) {
            self.as_guest(todo).await;
        }
        self.asking.retain(|_, asking| {
            // Whoever asked takes it for a no.
            !asking.leave.is_closed() && asking.waited < LEAVE_WITHIN
        });
        let again: Vec<_> = self
            .asking
            .iter_mut()
            .filter(|(_, asking)| asking.asked.elapsed() >= ASK_LEAVE_EVERY)
            .map(|(key, asking)| {
                if linked {
                    asking.waited += ASK_LEAVE_EVERY;
                }
                asking.asked = Instant::now();
                *key
            })
            .collect();
        for (home, permit) in again {
            self.send(home, Word::May { permit }).await;
        }
        self.count();
    }

    fn count(&self) {
        let guests = self.guest.len();
        if self.spill.guests() != guests {
            self.spill.set_guests(guests);
            telemetry::GUESTS.gauge(&[]).set(u32::try_from(guests).unwrap_or(u32::MAX));
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Order { guest, offer, permit, order } => {
                telemetry::SPILLED.counter(&[]).increment(1);
                self.home.send(Instant::now(), guest, offer, permit);
                self.send(guest, Word::Order { offer, permit, order }).await;
            }
            Command::Back { guest, offer } => {
                self.send(guest, Word::Back { offers: vec![offer] }).await;
            }
            Command::Told { home, permit, told } => {
                let told = self.fitting(*told);
                if let Some(todo) = self.guest.told(home, permit, told) {
                    self.as_guest(todo).await;
                }
                self.count();
            }
            Command::Forget { permit } => {
                if let Some(todo) = self.home.forget(permit) {
                    self.at_home(todo).await;
                }
            }
            Command::May { home, permit, leave } => {
                let asking = Asking { leave, asked: Instant::now(), waited: Duration::ZERO };
                self.asking.insert((home, permit), asking);
                self.send(home, Word::May { permit }).await;
            }
            Command::Leave(done) => {
                for todo in self.home.leave() {
                    self.at_home(todo).await;
                }
                let _flushed = self.bus.client().flush().await;
                // Whoever asked waits no longer.
                let _told = done.send(());
            }
        }
    }

    /// What does not fit into a message is told as a crash: what there is in the store is looked up then.
    fn fitting(&self, told: Told) -> Told {
        let most = self.bus.client().max_payload().saturating_sub(4096);
        let fits = serde_json::to_vec(&told).is_ok_and(|text| text.len() <= most);
        if fits || told.end.is_none() {
            return told;
        }
        let outcome = wire::crashed("what came of it is too much for a message");
        let body = told.end.as_ref().map(|end| end.body()).unwrap_or_default();
        let end = Some(Box::new(wire::End::of(&outcome, None, body)));
        Told { facts: None, end, ..told }
    }

    async fn hear(&mut self, message: &Message) {
        // Of another version, perhaps.
        let Ok(Letter { from, word }) = serde_json::from_slice(&message.payload) else { return };
        if from == self.me {
            return;
        }
        match word {
            Word::Ask { number, wants, how } => {
                let own = self.shared.plan.get();
                let busy = self.spill.waiting().into_iter().any(|count| count > 0);
                let ready = !self.spill.is_ending()
                    && !self.shared.store_health.is_away()
                    && self.is_linked();
                if !ready || busy || !agree(&own.how, &how) {
                    return;
                }
                let slots = &self.shared.slots;
                let free = slots.available_permits();
                let room = guest::room(wants, free, own.collect.concurrency);
                let place = |_| Arc::clone(slots).try_acquire_owned().ok();
                let places = (0..room).map_while(place).collect();
                if let Some(todo) = self.guest.offer(Stamp::now(), from, number, places) {
                    self.as_guest(todo).await;
                }
            }
            word @ (Word::Offer { .. }
            | Word::Told { .. }
            | Word::Going { .. }
            | Word::May { .. }) => {
                let mut waiting = self.spill.waiting();
                for todo in self.home.hear(Instant::now(), from, word) {
                    if let home::Do::Offered(guest, offer) = todo {
                        self.offered(guest, offer, &mut waiting).await;
                    } else {
                        self.at_home(todo).await;
                    }
                }
            }
            word => {
                for todo in self.guest.hear(Stamp::now(), from, word) {
                    self.as_guest(todo).await;
                }
                self.count();
            }
        }
    }

    /// A slot goes to the shard where most accounts wait.
    async fn offered(&self, guest: SessionId, offer: u64, waiting: &mut [usize]) {
        let most = waiting.iter_mut().enumerate().max_by_key(|(_, count)| **count);
        match most.filter(|(_, count)| **count > 0) {
            Some((shard, count)) if !self.spill.is_ending() => {
                *count -= 1;
                let slot = Slot::abroad(Offer::new(self.spill.clone(), guest, offer));
                self.shards[shard].do_send(Lent(slot));
            }
            _ => self.send(guest, Word::Back { offers: vec![offer] }).await,
        }
    }

    fn shard(&self, permit: u64) -> Option<&Mailbox<Shard>> {
        self.shards.get(shard_of_permit(permit))
    }

    async fn at_home(&self, todo: home::Do) {
        match todo {
            home::Do::Publish(word) => self.publish(self.bus.names().subject(ALL), word).await,
            home::Do::Send(to, word) => self.send(to, word).await,
            home::Do::Offered(guest, offer) => {
                self.offered(guest, offer, &mut self.spill.waiting()).await;
            }
            home::Do::Told(permit, told) => {
                if let Some(shard) = self.shard(permit) {
                    shard.do_send(Said { permit: PermitId(permit), told });
                }
            }
            home::Do::Lost(permit, sent) => {
                if let Some(shard) = self.shard(permit) {
                    shard.do_send(GuestLost { permit: PermitId(permit), sent });
                }
            }
            home::Do::May(guest, permit) => {
                let Some(shard) = self.shard(permit).cloned() else { return };
                let (bus, me) = (self.bus.clone(), self.me);
                actix_rt::spawn(async move {
                    // Asked again while there is no answer.
                    let Ok(Some(may)) = shard.send(MayStore(PermitId(permit))).await else {
                        return;
                    };
                    let subject = bus.names().subject(&format!("spill.{guest}"));
                    publish(&bus, me, subject, Word::Leave { permit, may }).await;
                });
            }
        }
    }

    async fn as_guest(&mut self, todo: guest::Do<OwnedSemaphorePermit>) {
        match todo {
            guest::Do::Send(to, word) => self.send(to, word).await,
            guest::Do::Begin(home, permit, order, place, stamp) => {
                let slot = Slot::new(place);
                // Any will do; the same for the same permit.
                let shards = self.shards.len() as u64;
                let shard = usize::try_from(permit % shards).unwrap_or(0);
                let host = Host { home, permit, order, slot, offered: stamp.at };
                self.shards[shard].do_send(host);
            }
            guest::Do::Abort(home, permit) => {
                self.asking.remove(&(home, permit));
                for shard in self.shards.iter() {
                    shard.do_send(EndVisit { home, permit });
                }
            }
            guest::Do::Leave(home, permit, may) => {
                if let Some(Asking { leave, .. }) = self.asking.remove(&(home, permit)) {
                    // It waits no longer: then it has taken that for a no.
                    let _heard = leave.send(may);
                }
            }
        }
    }

    async fn send(&self, to: SessionId, word: Word) {
        self.publish(self.bus.names().subject(&format!("spill.{to}")), word).await;
    }

    async fn publish(&self, subject: String, word: Word) {
        publish(&self.bus, self.me, subject, word).await;
    }
}

async fn publish(bus: &Bus, from: SessionId, subject: String, word: Word) {
    let Ok(text) = serde_json::to_vec(&Letter { from, word }) else { return };
    // What does not come through is as if it were lost.
    let _sent = bus.client().publish(subject, text.into()).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::tests::events::Events;

    #[test]
    fn what_carries_is_noticed_when_it_dies() {
        actix_rt::System::new().block_on(async {
            let events = Events::hear();
            let mut carrying = Carrying(actix_rt::spawn(std::future::pending()));
            assert!(timeout(Duration::from_millis(50), carrying.died()).await.is_err());
            assert_eq!(events.count("carrier_died"), 0);
            let mut carrying = Carrying(actix_rt::spawn(async { panic!("told") }));
            timeout(Duration::from_secs(1), carrying.died()).await.unwrap();
            assert_eq!(events.count("carrier_died"), 1);
        });
    }
}
