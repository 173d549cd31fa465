//! Whether the loop of each shard turns, and what it runs when it does not.
//!
//! Whoever has a turn on a shard writes down what it does, an atomic of its own. A thread outside the
//! shards asks each shard that is at work for a word, every 10 ms; one that has nothing to do just now, every 50 ms, for it
//! may be stopped; one that had nothing to do for half a second is not disturbed. A word that is not there after 50 ms is a blocked loop: it is told of while it lasts, with what was running, and when it is over,
//! with how long it took and how much of that the thread had a CPU. Neither computing nor waiting for a CPU: it waited
//! in a call that blocks, or was stopped from outside.

use std::collections::VecDeque;
use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::Notify;
use tollgate_gate::{At, Span};

use crate::clock::Clock;
use crate::ids::AccountKey;
use crate::telemetry;

/// Between two looks at the shards, and while none of them had anything to do lately: a look costs some 40 µs.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOK_AT_REST: Duration = Duration::from_millis(25);
/// Between two questions to a shard that waits for something, and how long after its last work it is asked: whether its
/// thread waits or is stopped cannot be seen from outside.
const ASK_IDLE_EVERY: Span = Span::from_millis(50);
const ASK_IDLE_FOR: Span = Span::from_millis(500);
/// Parkings and wakings of a shard's thread that a question comes to.
const PARKS_OF_ASKING: u64 = 4;
/// A loop that has not turned for so long is blocked.
pub(crate) const BLOCKED_FROM: Span = Span::from_millis(50);
/// One that is blocked for so long is worth a warning.
const LONG_FROM: Span = Span::from_secs(1);
/// Blocks that are told of for one shard: one in so long. What is left out is counted.
const TELL_EVERY: Span = Span::from_secs(1);
/// Blocks that are remembered for one shard, of the last minute at most.
const BLOCKS_MAX: usize = 256;
/// Between two looks at how much CPU is used, and how many are kept.
const CPU_EVERY: Span = Span::from_secs(1);
const CPU_LOOKS_MAX: usize = 64;

/// What has a turn on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Doing {
    /// Nothing that says what it is.
    Unknown,
    /// A throttle actor decides.
    Deciding,
    /// A throttle actor hears of a call.
    Hearing,
    /// A collector has its turn: request, answer, body, store.
    Collecting,
    /// A budget's actor decides.
    Budgeting,
    /// The shard takes note of work.
    Noting,
    /// The shard looks through its accounts, for a question or a count.
    Counting,
    /// The shard tells its accounts of a change.
    Telling,
}

impl Doing {
    const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Deciding,
        Self::Hearing,
        Self::Collecting,
        Self::Budgeting,
        Self::Noting,
        Self::Counting,
        Self::Telling,
    ];

    /// Its name in events and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Deciding => "deciding",
            Self::Hearing => "hearing",
            Self::Collecting => "collecting",
            Self::Budgeting => "budgeting",
            Self::Noting => "noting",
            Self::Counting => "counting",
            Self::Telling => "telling",
        }
    }
}

/// Nobody's account.
const NO_ACCOUNT: u32 = u32::MAX;

fn packed(doing: Doing, account: u32) -> u64 {
    (doing as u64) << 32 | u64::from(account)
}

fn unpacked(word: u64) -> (Doing, Option<u32>) {
    let doing = usize::try_from(word >> 32).ok().and_then(|place| Doing::ALL.get(place)).copied();
    let account = u32::try_from(word & u64::from(u32::MAX)).unwrap_or(NO_ACCOUNT);
    (doing.unwrap_or(Doing::Unknown), (account != NO_ACCOUNT).then_some(account))
}

/// What one shard shows of itself.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// What has a turn now, and for which account of the shard.
    doing: AtomicU64,
    /// When the last word was given.
    answered: AtomicI64,
    ask: Notify,
    /// What was seen to run while it was blocked; the shard looks up whose it was.
    caught: AtomicU64,
    whose: Mutex<Option<AccountKey>>,
    /// Whether its thread is idle.
    metrics: OnceLock<RuntimeMetrics>,
    /// Where the system tells what its thread has used.
    thread: OnceLock<String>,
}

impl Default for Pulse {
    fn default() -> Self {
        let nothing = packed(Doing::Unknown, NO_ACCOUNT);
        Self {
            doing: AtomicU64::new(nothing),
            answered: AtomicI64::new(i64::MIN),
            ask: Notify::new(),
            caught: AtomicU64::new(nothing),
            whose: Mutex::default(),
            metrics: OnceLock::new(),
            thread: OnceLock::new(),
        }
    }
}

/// Until this is dropped the shard does that.
pub(crate) struct Turn<'a> {
    pulse: &'a Pulse,
    before: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pulse.doing.store(self.before, Ordering::Relaxed);
    }
}

impl Pulse {
    /// Whoever has a turn does that now. For the shard's own thread alone.
    pub(crate) fn on(&self, doing: Doing, account: Option<u32>) -> Turn<'_> {
        let before = self.doing.load(Ordering::Relaxed);
        self.doing.store(packed(doing, account.unwrap_or(NO_ACCOUNT)), Ordering::Relaxed);
        Turn { pulse: self, before }
    }

    /// Gives a word whenever it is asked for one, for as long as it is polled on the shard's thread.
    pub(crate) async fn answer(&self, clock: &Clock, name: impl Fn(u32) -> Option<AccountKey>) {
        let _first = self.metrics.set(Handle::current().metrics()).is_ok();
        // `PID/task/TID`.
        if let Ok(thread) = fs::read_link("/proc/thread-self") {
            let _first = self.thread.set(format!("/proc/{}/schedstat", thread.display())).is_ok();
        }
        loop {
            self.ask.notified().await;
            let (_, account) = unpacked(self.caught.load(Ordering::Acquire));
            if let Some(account) = account {
                *lock(&self.whose) = name(account);
            }
            self.answered.store(clock.now().0, Ordering::Release);
        }
    }

    /// How often its thread went to wait and went on; nothing before its first turn.
    fn parks(&self) -> Option<u64> {
        self.metrics.get().map(|metrics| metrics.worker_park_unpark_count(0))
    }

    /// What its thread has used of a CPU, and how long it waited for one.
    fn used(&self) -> Option<Used> {
        let text = fs::read_to_string(self.thread.get()?).ok()?;
        let mut words = text.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
        let (ran, waited) = (words.next()??, words.next()??);
        Some(Used { ran_us: ran / 1000, waited_us: waited / 1000 })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone, Copy)]
struct Used {
    ran_us: u64,
    waited_us: u64,
}

/// A time in which a shard's loop did not turn.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) shard: usize,
    pub(crate) since: At,
    /// When it was over; nothing while it lasts.
    pub(crate) until: Option<At>,
    pub(crate) doing: Doing,
    pub(crate) account: Option<AccountKey>,
    /// From when it was noticed until it was over: what its thread ran, and waited for a CPU.
    pub(crate) ran: Option<Span>,
    pub(crate) starved: Option<Span>,
}

/// How much CPU there was and was used at a moment, in microseconds since whenever.
#[derive(Debug, Clone)]
struct CpuLook {
    at: At,
    /// How long each shard's thread has waited for one.
    waited_us: Box<[u64]>,
    process_us: u64,
    /// All of the machine: what was used of it, and what there was.
    busy_us: u64,
    all_us: u64,
}

/// What was used of the CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// CPUs that this process may use.
    pub cpus: f64,
    /// How many of them it used, on the average.
    pub used: f64,
    /// Which part of the whole machine was busy, with whatever.
    pub machine: f64,
    /// For which part of the time the thread of a shard waited for a CPU; of the shard that waited most.
    pub starved: f64,
}

/// The pulses of a node's shards, and what is known of their blocks.
#[derive(Debug, Default)]
pub struct Pulses {
    shards: Vec<Arc<Pulse>>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    blocks: VecDeque<Block>,
    cpu: VecDeque<CpuLook>,
}

impl Pulses {
    /// Of so many shards.
    pub(crate) fn new(shards: usize) -> Arc<Self> {
        let shards = (0..shards).map(|_| Arc::default()).collect();
        Arc::new(Self { shards, seen: Mutex::default() })
    }

    /// The pulse of a shard; one that nobody looks at where it is not of these.
    pub(crate) fn of(&self, shard: u16) -> Arc<Pulse> {
        self.shards.get(usize::from(shard)).cloned().unwrap_or_default()
    }

    /// The blocks since then, those that go on last.
    pub(crate) fn blocks(&self, start: At) -> Vec<Block> {
        let seen = lock(&self.seen);
        let since = |block: &&Block| block.until.is_none_or(|until| until > start);
        seen.blocks.iter().filter(since).cloned().collect()
    }

    /// What was used of the CPUs since then.
    pub(crate) fn cpu(&self, start: At) -> Cpu {
        let cpus = cpus();
        let seen = lock(&self.seen);
        let first = seen.cpu.iter().rev().find(|look| look.at <= start).or(seen.cpu.front());
        let (Some(first), Some(last)) = (first, seen.cpu.back()) else {
            return Cpu { cpus, ..Cpu::default() };
        };
        let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let waited = first.waited_us.iter().zip(&last.waited_us);
        let waited = waited.map(|(first, last)| last.saturating_sub(*first)).max().unwrap_or(0);
        Cpu {
            cpus,
            used: ratio(last.process_us - first.process_us, last.at.since(first.at).0),
            machine: ratio(last.busy_us - first.busy_us, last.all_us - first.all_us),
            starved: ratio(waited, last.at.since(first.at).0).min(1.0),
        }
    }

    /// Looks at the shards from a thread of its own, until what it returns is dropped.
    pub(crate) fn watch(self: &Arc<Self>, clock: Clock) -> Option<Watching> {
        let (stop, stopped) = channel::<()>();
        let pulses = Arc::clone(self);
        let look = move || {
            let mut watched: Vec<Watched> = pulses.shards.iter().map(|_| Watched::new()).collect();
            let lags: Vec<_> = (0..watched.len()).map(telemetry::LoopMeters::new).collect();
            let mut cpu_at = At::MIN;
            let mut pause = LOOK_EVERY;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                let now = clock.now();
                let at_rest = watched.iter().all(|watched| watched.is_at_rest(now));
                pause = if at_rest { LOOK_AT_REST } else { LOOK_EVERY };
                for (shard, watched) in watched.iter_mut().enumerate() {
                    pulses.look(shard, watched, &lags[shard], now);
                }
                if now.since(cpu_at) >= CPU_EVERY {
                    cpu_at = now;
                    pulses.look_at_cpu(now);
                }
            }
        };
        // Without it all goes on but this.
        let thread = std::thread::Builder::new().name("pulse".into()).spawn(look);
        thread.is_ok().then_some(Watching { _stop: stop })
    }

    fn look(&self, shard: usize, watched: &mut Watched, meters: &telemetry::LoopMeters, now: At) {
        let pulse = &self.shards[shard];
        if let Some(asked) = watched.asked {
            let answered = At(pulse.answered.load(Ordering::Acquire));
            if answered < asked {
                self.silent(shard, watched, asked, now);
                return;
            }
            let lag = answered.since(asked);
            meters.lag(lag);
            watched.asked = None;
            if lag >= BLOCKED_FROM {
                meters.blocked();
                self.freed(shard, watched, (asked, answered), now);
            }
            watched.caught = None;
            pulse.caught.store(packed(Doing::Unknown, NO_ACCOUNT), Ordering::Release);
        }
        let Some(parks) = pulse.parks() else { return };
        if watched.is_to_be_asked(parks, now) {
            watched.asked = Some(now);
            pulse.ask.notify_one();
        }
    }

    /// A shard has not answered yet.
    fn silent(&self, shard: usize, watched: &mut Watched, asked: At, now: At) {
        let pulse = &self.shards[shard];
        let silent = now.since(asked);
        let running = pulse.doing.load(Ordering::Relaxed);
        let caught = watched.caught.get_or_insert_with(|| Caught {
            running,
            used: pulse.used(),
            is_told: false,
            is_long: false,
        });
        if unpacked(running).0 != Doing::Unknown {
            caught.running = running;
            pulse.caught.store(running, Ordering::Release);
        }
        let (doing, _) = unpacked(caught.running);
        if silent >= BLOCKED_FROM && !caught.is_told {
            caught.is_told = true;
            watched.tells = watched.told_at.is_none_or(|at| now.since(at) >= TELL_EVERY);
            if watched.tells {
                watched.told_at = Some(now);
                let left_out = std::mem::take(&mut watched.left_out);
                telemetry::shard_blocked(shard, doing, silent, left_out);
            } else {
                watched.left_out += 1;
            }
            let (account, ran, starved) = (None, None, None);
            let block = Block { shard, since: asked, until: None, doing, account, ran, starved };
            self.note(block);
        }
        if silent >= LONG_FROM && !caught.is_long {
            caught.is_long = true;
            watched.tells = true;
            telemetry::shard_blocked_long(shard, doing, silent);
        }
    }

    /// A shard that was blocked has answered.
    fn freed(&self, shard: usize, watched: &mut Watched, (since, until): (At, At), now: At) {
        let pulse = &self.shards[shard];
        let account = lock(&pulse.whose).take();
        let caught = watched.caught.take();
        let doing = caught.as_ref().map_or(Doing::Unknown, |caught| unpacked(caught.running).0);
        let used = caught.as_ref().and_then(|caught| Some((caught.used?, pulse.used()?)));
        let ran = used.map(|(then, now)| Span(now.ran_us.saturating_sub(then.ran_us)));
        let starved = used.map(|(then, now)| Span(now.waited_us.saturating_sub(then.waited_us)));
        let block = Block { shard, since, until: Some(until), doing, account, ran, starved };
        // One that this thread came too late to see was not told of.
        let tells = match &caught {
            Some(caught) if caught.is_told => watched.tells,
            _ => watched.told_at.is_none_or(|at| now.since(at) >= TELL_EVERY),
        };
        if tells {
            watched.told_at = Some(now);
            telemetry::shard_freed(&block);
        }
        self.note(block);
    }

    fn note(&self, block: Block) {
        let mut seen = lock(&self.seen);
        let same = |known: &&mut Block| known.shard == block.shard && known.until.is_none();
        if let Some(known) = seen.blocks.iter_mut().find(same) {
            *known = block;
            return;
        }
        if seen.blocks.len() >= BLOCKS_MAX * self.shards.len() {
            seen.blocks.pop_front();
        }
        seen.blocks.push_back(block);
    }

    fn look_at_cpu(&self, at: At) {
        let waited = |pulse: &Arc<Pulse>| pulse.used().map_or(0, |used| used.waited_us);
        let waited = self.shards.iter().map(waited).collect();
        let Some(look) = cpu_look(at, waited) else { return };
        let mut seen = lock(&self.seen);
        if seen.cpu.len() >= CPU_LOOKS_MAX {
            seen.cpu.pop_front();
        }
        seen.cpu.push_back(look);
    }
}

/// Ends the thread that looks when it is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    _stop: Sender<()>,
}

/// How far the thread that looks is with a shard.
#[derive(Debug)]
struct Watched {
    /// When it was asked for a word that it has not given.
    asked: Option<At>,
    /// When it was asked last, and how often its thread had gone to wait and gone on then.
    asked_at: At,
    asked_parks: u64,
    /// The same at the last look, and when it was last seen to be at work.
    parks: u64,
    worked_at: At,
    caught: Option<Caught>,
    told_at: Option<At>,
    /// Whether the block of now was told of.
    tells: bool,
    left_out: u64,
}

impl Watched {
    fn new() -> Self {
        Self {
            asked: None,
            asked_at: At::MIN,
            asked_parks: 0,
            parks: 0,
            worked_at: At::MIN,
            caught: None,
            told_at: None,
            tells: false,
            left_out: 0,
        }
    }

    /// Whether the shard had nothing to do for long, and gives its words.
    fn is_at_rest(&self, now: At) -> bool {
        self.asked.is_none() && now.since(self.worked_at) > ASK_IDLE_FOR
    }

    /// Whether a shard is to be asked whose thread has gone to wait and gone on so often.
    fn is_to_be_asked(&mut self, parks: u64, now: At) -> bool {
        // An odd count: it waits.
        let is_idle = parks % 2 == 1;
        let by_asking = parks <= self.asked_parks + PARKS_OF_ASKING;
        if !is_idle || (parks != self.parks && !by_asking) {
            self.worked_at = now;
        }
        self.parks = parks;
        let lately = now.since(self.worked_at) <= ASK_IDLE_FOR;
        let asks = !is_idle || (lately && now.since(self.asked_at) >= ASK_IDLE_EVERY);
        if asks {
            (self.asked_at, self.asked_parks) = (now, parks);
        }
        asks
    }
}

/// What was seen of a shard that does not answer.
#[derive(Debug)]
struct Caught {
    running: u64,
    used: Option<Used>,
    is_told: bool,
    is_long: bool,
}

/// The kernel counts in ticks, a hundred a second wherever Linux runs today.
const TICK_US: u64 = 10_000;

fn cpu_look(at: At, waited_us: Box<[u64]>) -> Option<CpuLook> {
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; then state, and eleven numbers before utime and stime.
    let mut words = own.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let all = fs::read_to_string("/proc/stat").ok()?;
    let line = all.lines().next()?.strip_prefix("cpu")?;
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().filter_map(|one| one.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
    let sum: u64 = ticks.iter().take(8).sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Some(CpuLook {
        at,
        waited_us,
        process_us: (user + system) * TICK_US,
        busy_us: (sum - idle) * TICK_US,
        all_us: sum * TICK_US,
    })
}

/// How many CPUs this process may use: whole ones, or a part where its control groups grant one.
fn cpus() -> f64 {
    let whole = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let groups = std::path::Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    let granted = groups.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup"));
    let granted = granted
        .filter_map(|group| granted_of(&std::fs::read_to_string(group.join("cpu.max")).ok()?));
    // The whole ones are those of the grant rounded down, unless the process is bound to fewer.
    granted.reduce(f64::min).filter(|granted| *granted < whole + 1.0).unwrap_or(whole)
}

/// The CPUs of a `cpu.max`: microseconds in a period, or none that is stated
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files>).
fn granted_of(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_packed_with_whose_it_is() {
        for doing in Doing::ALL {
            assert_eq!(unpacked(packed(doing, 7)), (doing, Some(7)));
            assert_eq!(unpacked(packed(doing, NO_ACCOUNT)), (doing, None));
        }
    }

    #[test]
    fn a_turn_within_a_turn_gives_it_back() {
        let pulse = Pulse::default();
        let doing = || unpacked(pulse.doing.load(Ordering::Relaxed)).0;
        let outer = pulse.on(Doing::Counting, None);
        {
            let _inner = pulse.on(Doing::Deciding, Some(1));
            assert_eq!(doing(), Doing::Deciding);
        }
        assert_eq!(doing(), Doing::Counting);
        drop(outer);
        assert_eq!(doing(), Doing::Unknown);
    }

    /// What is asked of a shard whose thread waits, look after look, by how often that has gone on until then.
    fn asked(parks: impl Fn(u64) -> u64, looks: u64) -> Vec<u64> {
        let (mut watched, mut by_asking) = (Watched::new(), 0);
        let asks = (0..looks).filter(|look| {
            let now = At(0).plus(Span::from_millis(1000 + 10 * look));
            let asks = watched.is_to_be_asked(parks(*look) + by_asking, now);
            by_asking += if asks { 2 } else { 0 };
            asks
        });
        asks.collect()
    }

    #[test]
    fn a_shard_that_waits_is_asked_while_it_has_work_and_not_for_long_after() {
        // At work: each look finds it on its way.
        assert_eq!(asked(|look| 2 * look, 10).len(), 10);
        // A call every 50 ms, and waiting at each look: it may be stopped.
        let often = asked(|look| 1 + 10 * (look / 5), 200);
        assert!((35..=45).contains(&often.len()), "{often:?}");
        // Its last work was at the hundredth look.
        let ended = asked(|look| 1 + 10 * (look / 5).min(20), 400);
        assert!(ended.last().is_some_and(|last| (140..=160).contains(last)), "{ended:?}");
    }

    #[test]
    fn a_part_of_a_cpu_is_read_as_it_is_granted() {
        assert_eq!(granted_of("50000 100000\n"), Some(0.5));
        assert_eq!(granted_of("190000 100000"), Some(1.9));
        for none in ["max 100000\n", "", "1", "0 100000", "x y"] {
            assert_eq!(granted_of(none), None, "{none}");
        }
        assert!(cpus() > 0.0);
    }

    #[test]
    fn the_machine_says_what_was_used_of_its_cpus() {
        let look = cpu_look(At(0), Box::default()).expect("Linux says");
        assert!(look.busy_us <= look.all_us && look.all_us > 0);
    }

    /// A loop on a thread of its own that computes for 300 ms and then goes on.
    #[test]
    fn a_loop_that_computes_is_seen_to_be_blocked_and_by_what() {
        let pulses = Pulses::new(1);
        let clock = Clock::new();
        let (pulse, own) = (pulses.of(0), clock.clone());
        let account = AccountKey {
            platform: crate::ids::Slug::new("kakao").unwrap(),
            account: crate::ids::Account::new("a1").unwrap(),
        };
        let (named, started) = (account.clone(), clock.now());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let (answering, clock) = (Arc::clone(&pulse), own.clone());
                tokio::task::spawn_local(async move {
                    answering.answer(&clock, |ix| (ix == 7).then(|| named.clone())).await;
                });
                for _ in 0..200 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                {
                    let _turn = pulse.on(Doing::Deciding, Some(7));
                    let until = own.now().plus(Span::from_millis(300));
                    while own.now() < until {}
                }
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    tokio::task::yield_now().await;
                }
            });
        });
        let watching = pulses.watch(clock.clone()).unwrap();
        thread.join().unwrap();
        drop(watching);
        let blocks = pulses.blocks(started);
        let long = |block: &&Block| {
            block.until.is_some_and(|until| until.since(block.since) >= Span::from_millis(200))
        };
        let block = blocks.iter().find(long).unwrap_or_else(|| panic!("{blocks:?}"));
        assert_eq!((block.doing, &block.account), (Doing::Deciding, &Some(account)));
        assert!(pulses.cpu(started).used > 0.0);
    }
}
