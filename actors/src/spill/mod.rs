//! Spill-over: attempts of this node's accounts at collectors of other nodes.
//!
//! The gate of an account stays with the account's owner, its *home*. When all of the home's slots are taken and
//! accounts wait for one, it asks the other nodes. One that has room offers slots, each stamped on its own clocks;
//! **only then** the home decides, records and sends the attempt. The *guest*, who offered, begins the call within
//! `OFFER_LIVES` of its own stamp or says that it did not. So the bound of a permit holds without any clock being
//! compared with another: the stamp is before the decision, and the record is stored before the attempt is sent.
//!
//! - `home` and `guest` are the two sides of it as pure state machines: the time is an argument, what to do is the
//!   answer. They survive the loss, the doubling and the delay of any message.
//! - `wire` is what they say to each other.
//! - The node's part ([`crate::node`]) carries it over NATS, and the shards do what it says.
//!
//! # What a guest tells
//!
//! All it has to say of an attempt is one growing `wire::Told`, sent at each change and again at each beat until
//! the home has heard its end. Whatever is lost or doubled on the way changes nothing. The home goes by the receipt of what
//! it is told, which is never early. Of an attempt whose order was lost its guest knows that it never begins, and says
//! so. A guest that is not heard of for `LOST_AFTER` has lost its attempts: each counts
//! as a call of a dead writer does, is looked up in the store and made again. A guest that does not hear of its home
//! for as long gives its calls up; one that hears nobody does so before the home gives their places to others. Objects
//! become visible only after the home, asked then, has said that it still waits for them; how a fetch ended is recorded
//! by the home alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::collector::USE_WITHIN;
use crate::nats::session::SessionId;
use crate::plan::How;
use crate::state::clock;

pub(crate) mod guest;
pub(crate) mod home;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

/// An offered slot is used within this time of its stamp, or not at all.
pub(crate) const OFFER_LIVES: Duration = USE_WITHIN;
/// From the receipt of an offer to the sending of its attempt, at most.
const ORDER_WITHIN: Duration = Duration::from_millis(350);
/// Between two words of a node that has attempts at another, or of another at it.
pub(crate) const BEAT_EVERY: Duration = Duration::from_millis(500);
/// Who is not heard of for so long is not waited for any more.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(6);
/// How long a guest waits for leave to make an object visible, not counting time in which it hears nobody. Long: the home
/// does not answer while its lease has lapsed, and what is given up is called again.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(180);
/// Slots that are asked for, and offered, in one message.
pub(crate) const SLOTS_MAX: usize = 64;
/// Largest order, in bytes: a fetch of 256 KiB, the state of its read, and their JSON.
pub(crate) const ORDER_BYTES_MAX: usize = 448 * 1024;

/// A moment by both clocks: the one that everything else goes by, and the one that counts the machine's sleep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) at: Instant,
    boot_ns: u64,
}

impl Stamp {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), boot_ns: clock::boot_ns() }
    }

    /// How old it is: by whichever clock says more.
    pub(crate) fn age(self, now: Self) -> Duration {
        let slept = Duration::from_nanos(now.boot_ns.saturating_sub(self.boot_ns));
        now.at.saturating_duration_since(self.at).max(slept)
    }

    #[cfg(test)]
    pub(crate) fn after(self, time: Duration) -> Self {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self { at: self.at + time, boot_ns: self.boot_ns + ns }
    }

    /// The machine has slept meanwhile.
    #[cfg(test)]
    pub(crate) fn after_sleep(self, time: Duration) -> Self {
        Self { at: self.at, ..self.after(time) }
    }
}

/// What shards have to say to whoever carries it to other nodes.
#[derive(Debug)]
pub(crate) enum Command {
    /// An offer is used: its permit is recorded.
    Order { guest: SessionId, offer: u64, permit: u64, order: Box<wire::Order> },
    /// An offer is not used.
    Back { guest: SessionId, offer: u64 },
    /// What has become of an attempt of another node so far.
    Told { home: SessionId, permit: u64, told: Box<wire::Told> },
    /// An attempt at another node is not waited for any more.
    Forget { permit: u64 },
    /// Whether the object of an attempt of another node may become visible.
    May { home: SessionId, permit: u64, leave: oneshot::Sender<bool> },
    /// This node ends: nothing is waited for any more. Told when all that was said before is on its way.
    Leave(oneshot::Sender<()>),
}

/// The shards' way to other nodes. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct Spill(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// At most a few for each attempt in flight and each slot that is offered.
    commands: mpsc::UnboundedSender<Command>,
    /// Accounts of each shard that wait for a slot and whose fetches may travel.
    waiting: Box<[AtomicUsize]>,
    /// Accounts begin to wait, or the node to end.
    news: Notify,
    /// Somebody carries what is said.
    on: AtomicBool,
    /// The node is about to end: it neither asks nor offers.
    ending: AtomicBool,
    guests: AtomicUsize,
    /// Ends of attempts that came back and are not recorded yet.
    endings: Arc<AtomicUsize>,
}

/// The end of an attempt that came back, until it is recorded.
#[derive(Debug)]
pub(crate) struct Recording(Arc<AtomicUsize>);

impl Drop for Recording {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Spill {
    pub(crate) fn new(shards: usize) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, heard) = mpsc::unbounded_channel();
        let waiting = (0..shards).map(|_| AtomicUsize::new(0)).collect();
        let (news, on, ending, guests, endings) = Default::default();
        (Self(Arc::new(Inner { commands, waiting, news, on, ending, guests, endings })), heard)
    }

    /// Whether attempts may travel.
    pub(crate) fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Acquire) && !self.is_ending()
    }

    pub(crate) fn set_on(&self, on: bool) {
        self.0.on.store(on, Ordering::Release);
    }

    /// The node neither asks nor offers any more; what is under way goes on.
    pub(crate) fn end(&self) {
        self.0.ending.store(true, Ordering::Release);
        self.0.news.notify_one();
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Acquire)
    }

    /// So many accounts of a shard wait for a slot and may travel.
    pub(crate) fn waits(&self, shard: u16, count: usize) {
        if let Some(waiting) = self.0.waiting.get(usize::from(shard))
            && waiting.swap(count, Ordering::AcqRel) == 0
            && count > 0
        {
            self.0.news.notify_one();
        }
    }

    /// Waits until accounts begin to wait, or the node to end; for one who carries. Dropping the future loses nothing.
    pub(crate) async fn news(&self) {
        self.0.news.notified().await;
    }

    /// The same of each shard.
    pub(crate) fn waiting(&self) -> Vec<usize> {
        self.0.waiting.iter().map(|count| count.load(Ordering::Acquire)).collect()
    }

    /// Attempts of other nodes' accounts that are made here.
    pub(crate) fn guests(&self) -> usize {
        self.0.guests.load(Ordering::Acquire)
    }

    pub(crate) fn set_guests(&self, guests: usize) {
        self.0.guests.store(guests, Ordering::Release);
    }

    /// The end of an attempt has come back: it takes no slot until it is recorded, so it is counted.
    pub(crate) fn records(&self) -> Recording {
        self.0.endings.fetch_add(1, Ordering::AcqRel);
        Recording(Arc::clone(&self.0.endings))
    }

    /// Whether as many ends wait to be recorded as calls may be in flight: nothing more goes elsewhere until then.
    pub(crate) fn is_behind(&self, concurrency: usize) -> bool {
        self.0.endings.load(Ordering::Acquire) >= concurrency
    }

    /// Tells others that this node ends, and waits until all that was said before is on its way.
    pub async fn leave(&self) {
        if !self.0.on.load(Ordering::Acquire) {
            return;
        }
        let (done, wait) = oneshot::channel();
        self.say(Command::Leave(done));
        // Nobody carries anything: then there is nothing to wait for.
        let _done = wait.await.is_ok();
    }

    pub(crate) fn say(&self, command: Command) {
        // Nobody carries it any more: the node has ended.
        let _carried = self.0.commands.send(command).is_ok();
    }
}

/// A slot that another node has offered; dropping it gives it back.
#[derive(Debug)]
pub struct Offer {
    spill: Spill,
    guest: SessionId,
    number: u64,
    received: Instant,
    used: bool,
}

impl Offer {
    pub(crate) fn new(spill: Spill, guest: SessionId, number: u64) -> Self {
        Self { spill, guest, number, received: Instant::now(), used: false }
    }

    /// Whether an attempt would arrive too late, or hardly in time.
    pub(crate) fn has_lapsed(&self) -> bool {
        self.received.elapsed() >= ORDER_WITHIN
    }

    /// Sends an attempt there, whose permit is recorded.
    pub(crate) fn send(mut self, permit: u64, order: wire::Order) {
        self.used = true;
        let (guest, offer) = (self.guest, self.number);
        self.spill.say(Command::Order { guest, offer, permit, order: Box::new(order) });
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if !self.used {
            self.spill.say(Command::Back { guest: self.guest, offer: self.number });
        }
    }
}

/// Whether two nodes collect the same fetch in the same way, into the same place.
pub(crate) fn agree(one: &How, other: &How) -> bool {
    one == other
}
