//! Connections, stamps, and what the knobs do to calls and answers.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::header::{CONTENT_TYPE, DATE, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::knobs::between;
use super::{Arrival, Case, Knobs, Mark, Reply, Seen, Violation};
use crate::answer::Answer;
use crate::thread::Serving;

/// How often the loop's own lag is measured.
const LAG_EVERY: Duration = Duration::from_millis(5);
/// Accounts whose former headers are kept, and how many of each.
const FORMER_ACCOUNTS_MAX: usize = 10_000;
const FORMER_MAX: usize = 6;
/// How long a clock that is off is fast before it is slow, and so on.
const CLOCK_TURNS: Duration = Duration::from_secs(5);

/// A running provider of a hard kind. It ends when this is dropped.
#[derive(Debug)]
pub struct Hard {
    shared: Arc<Shared>,
    serving: Serving,
}

#[derive(Debug)]
struct Shared {
    knobs: Knobs,
    started: Instant,
    state: Mutex<State>,
    numbers: AtomicU64,
    lag_us: AtomicU64,
    calls: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
struct State {
    case: Box<dyn Case>,
    kills: Vec<Duration>,
    mended: Option<Duration>,
    lost: u64,
    last: Duration,
    /// What answers told, by account, the oldest first.
    former: HashMap<String, VecDeque<Told>>,
}

type Told = Vec<(&'static str, String)>;

impl Hard {
    /// Starts a provider on a free port of 127.0.0.1. It takes calls when this returns.
    ///
    /// # Errors
    /// When the system gives no port, no thread or no event queue.
    pub fn start(case: Box<dyn Case>, knobs: Knobs) -> io::Result<Self> {
        let state = State {
            case,
            kills: Vec::new(),
            mended: None,
            lost: 0,
            last: Duration::ZERO,
            former: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            knobs,
            started: Instant::now(),
            state: Mutex::new(state),
            numbers: AtomicU64::new(0),
            lag_us: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let there = shared.clone();
        let serving = Serving::start(move |listener| {
            tokio::spawn(accept(listener, there.clone()));
            tokio::spawn(measure_lag(there));
        })?;
        Ok(Self { shared, serving })
    }

    /// Where it listens; ends in `/`.
    pub fn base_url(&self) -> String {
        format!("http://{}/", self.serving.addr())
    }

    /// Calls so far, and those of them that were refused. Costs nothing.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.calls.load(Relaxed), self.shared.refused.load(Relaxed))
    }

    /// When the last call arrived, from the start.
    pub fn last_arrival(&self) -> Duration {
        self.shared.lock().last
    }

    /// The time since its start.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Whoever calls is being killed now.
    pub fn note_kill(&self) {
        let at = self.elapsed();
        self.shared.lock().kills.push(at);
    }

    /// What was declared wrong is being put right now.
    pub fn note_mended(&self) {
        let at = self.elapsed();
        self.shared.lock().mended = Some(at);
    }

    /// What was asked and what was got so far.
    pub fn marks(&self) -> Vec<Mark> {
        let state = self.shared.lock();
        let lag = Duration::from_micros(self.shared.lag_us.load(Relaxed));
        let seen = Seen { kills: state.kills.clone(), mended: state.mended, lost: state.lost, lag };
        state.case.marks(&seen)
    }

    /// What the provider did not like: how often, and the first of it.
    pub fn violations(&self) -> (u64, Vec<Violation>) {
        let state = self.shared.lock();
        let log = state.case.violations();
        (log.count, log.first.clone())
    }
}

impl Shared {
    /// A panic elsewhere leaves the counts as whole as they were.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, call: &Arrival<'_>) -> (Reply, bool) {
        let mut state = self.lock();
        // Under the lock, so that moments are told in their order.
        let at = self.started.elapsed();
        let mut reply = state.case.arrive(call, at);
        state.last = at;
        self.calls.fetch_add(1, Relaxed);
        self.refused.fetch_add(u64::from(reply.refused), Relaxed);
        let is_lost = !reply.refused && self.knobs.hits(self.knobs.lost, call.number, 1);
        state.lost += u64::from(is_lost);
        if !reply.told.is_empty() {
            self.spoil(&mut reply, &mut state, call);
        }
        (reply, is_lost)
    }

    /// Leaves out what an answer tells, or puts something older in its place.
    fn spoil(&self, reply: &mut Reply, state: &mut State, call: &Arrival<'_>) {
        let room = state.former.len() < FORMER_ACCOUNTS_MAX;
        let newest = reply.told.clone();
        if self.knobs.hits(self.knobs.silent, call.number, 2) {
            reply.told.clear();
        } else if self.knobs.hits(self.knobs.stale, call.number, 3)
            && let Some(older) = state.former.get(call.account).and_then(VecDeque::front)
        {
            reply.told.clone_from(older);
        }
        if room || state.former.contains_key(call.account) {
            let former = state.former.entry(call.account.to_owned()).or_default();
            former.push_back(newest);
            if former.len() > FORMER_MAX {
                former.pop_front();
            }
        }
    }

    /// The provider's own date.
    fn date(&self) -> HeaderValue {
        let turns = self.started.elapsed().as_secs() / CLOCK_TURNS.as_secs();
        let now = SystemTime::now();
        let now = if turns.is_multiple_of(2) {
            now + self.knobs.clock
        } else {
            now.checked_sub(self.knobs.clock).unwrap_or(now)
        };
        HeaderValue::from_str(&httpdate::fmt_http_date(now)).expect("a date is visible ASCII")
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, shared.clone()));
            }
            // Out of file descriptors: connections that end will free some.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn measure_lag(shared: Arc<Shared>) {
    let mut ticks = interval(LAG_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let due = ticks.tick().await;
        shared.lag_us.fetch_max(due.elapsed().as_micros() as u64, Relaxed);
    }
}

/// An answer that never comes.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer is lost")
    }
}

impl std::error::Error for Lost {}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without it answers wait for the client's delayed acknowledgement; a failure only makes them slow.
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request| {
        let read_at = tokio::time::Instant::now();
        answer(shared.clone(), request, read_at)
    });
    let http = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    // An error is a client that went away, or a lost answer.
    http.await.ok();
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    read_at: tokio::time::Instant,
) -> Result<Response<Answer>, Lost> {
    let knobs = shared.knobs;
    let number = shared.numbers.fetch_add(1, Relaxed) + 1;
    let delay = between(Duration::ZERO, knobs.jitter, knobs.draw(number, 4));
    if !delay.is_zero() {
        sleep_until(read_at + delay).await;
    }
    let account = request.headers().get("x-account").and_then(|value| value.to_str().ok());
    let call = Arrival {
        number,
        luck: knobs.draw(number, 5),
        account: account.unwrap_or_default(),
        endpoint: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
    };
    let (reply, is_lost) = shared.arrive(&call);
    let latency = between(knobs.latency / 4, knobs.latency, knobs.draw(number, 6));
    if !latency.is_zero() && !reply.refused {
        sleep(latency).await;
    }
    if is_lost {
        return Err(Lost);
    }
    let mut response = Response::new(Answer::one(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(DATE, shared.date());
    for (name, value) in reply.headers.iter().chain(&reply.told) {
        let value = HeaderValue::from_str(value).expect("cases tell visible ASCII");
        headers.append(HeaderName::from_static(name), value);
    }
    Ok(response)
}
