//! The provider: it answers whatever comes, after a time of its own, and counts by brute force over the list of all
//! arrivals. It shares nothing with the gate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::HeaderMap;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::Trace;
use super::host::Life;
use super::server::LedgerServer;
use crate::clock::Clock;
use crate::http::{Answer, CallBounds, CallError, OnWritten, Transport, Written};
use crate::recipe::Request;

/// A limit of the provider's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// Most arrivals in a window of so many milliseconds.
    Max(usize, u64),
    /// Most calls at once.
    AtOnce(usize),
}

/// Whom a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Per {
    Account,
    Api,
    Everybody,
}

/// A limit, and its name in the configuration.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub(super) per: Per,
    pub(super) rule: Rule,
}

impl Limit {
    pub(super) fn toml(&self, name: &str, guard_ms: u64) -> String {
        let per = match self.per {
            Per::Account => r#""account""#,
            Per::Api => r#""platform", "api""#,
            Per::Everybody => r#""platform""#,
        };
        match self.rule {
            Rule::Max(max, window) => format!(
                "{name} = {{ per = [{per}], max = {max}, in = \"{window}ms\", guard = \"{guard_ms}ms\" }}\n"
            ),
            Rule::AtOnce(max) => format!("{name} = {{ per = [{per}], concurrent = {max} }}\n"),
        }
    }
}

/// A call as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    /// The last byte of its answer was sent.
    pub(super) over: Instant,
    pub(super) account: String,
    pub(super) api: String,
    pub(super) id: String,
    pub(super) status: u16,
    pub(super) node: usize,
    pub(super) session: u64,
    /// When its caller wrote it.
    pub(super) written: Instant,
}

/// The provider, as all nodes call it.
#[derive(Debug)]
pub(super) struct Provider {
    state: Mutex<State>,
    /// The most that a request takes on its way, in milliseconds: what the configuration calls a guard.
    guard_ms: u64,
    /// Of four answers so many take long.
    long: u8,
    trace: Arc<Trace>,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    arrivals: Vec<Arrival>,
    failed: BTreeMap<String, u32>,
}

struct Fate {
    connect: Duration,
    stamp: Duration,
    way: Duration,
    takes: Duration,
    body: Duration,
}

impl Provider {
    pub(super) fn new(
        random: fastrand::Rng,
        (guard_ms, long): (u64, u8),
        trace: Arc<Trace>,
    ) -> Arc<Self> {
        let state = State { random, arrivals: Vec::new(), failed: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state), guard_ms, long, trace })
    }

    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.state.lock().unwrap().arrivals.clone()
    }

    fn fate(&self) -> Fate {
        let random = &mut self.state.lock().unwrap().random;
        let mut within = |ms: u64| Duration::from_micros(random.u64(0..=ms * 1000));
        let (way, short, long) = (within(self.guard_ms), within(150), within(2500));
        let (connect, stamp, body) = (within(250), within(4), within(30));
        let is_long = random.u8(0..4) < self.long;
        let is_warm = random.u8(0..3) > 0;
        Fate {
            connect: if is_warm { Duration::ZERO } else { connect },
            stamp,
            way,
            takes: if is_long { long } else { short },
            body,
        }
    }

    /// What it thinks of a call: ids beginning with `bad` are unknown to it; now and then it fails, at most twice for
    /// one.
    fn status(&self, id: &str) -> u16 {
        if id.starts_with("bad") {
            return 404;
        }
        let state = &mut *self.state.lock().unwrap();
        let failed = state.failed.entry(id.to_owned()).or_default();
        if *failed < 2 && state.random.u8(0..25) == 0 {
            *failed += 1;
            return 500;
        }
        200
    }

    fn arrive(&self, arrival: Arrival) {
        self.trace.note(|| {
            let Arrival { account, id, status, node, session, .. } = &arrival;
            format!("arrived {id} of {account} from {node}/{session}: {status}")
        });
        self.state.lock().unwrap().arrivals.push(arrival);
    }

    /// Every break of a limit.
    pub(super) fn breaks(&self, limits: &[Limit]) -> Vec<String> {
        let arrivals = self.arrivals();
        let mut broken = Vec::new();
        for limit in limits {
            let mut groups: BTreeMap<&str, Vec<&Arrival>> = BTreeMap::new();
            for arrival in &arrivals {
                let whose = match limit.per {
                    Per::Account => arrival.account.as_str(),
                    Per::Api => arrival.api.as_str(),
                    Per::Everybody => "everybody",
                };
                groups.entry(whose).or_default().push(arrival);
            }
            for (whose, mut calls) in groups {
                calls.sort_by_key(|call| call.at);
                match limit.rule {
                    Rule::Max(max, window) => {
                        let window = Duration::from_millis(window);
                        for (place, call) in calls.iter().enumerate() {
                            let end = call.at + window;
                            let inside: Vec<_> =
                                calls[place..].iter().take_while(|one| one.at < end).collect();
                            if inside.len() > max {
                                let inside = inside.iter().map(|one| self.told(one));
                                let inside: Vec<_> = inside.collect();
                                broken.push(format!("{limit:?} of {whose}: {inside:?}"));
                            }
                        }
                    }
                    Rule::AtOnce(max) => {
                        for call in &calls {
                            let open: Vec<_> = calls
                                .iter()
                                .filter(|one| one.at <= call.at && one.over > call.at)
                                .collect();
                            if open.len() > max {
                                let open: Vec<_> = open.iter().map(|one| self.told(one)).collect();
                                broken.push(format!("{limit:?} of {whose}: {open:?}"));
                            }
                        }
                    }
                }
            }
        }
        broken
    }

    fn told(&self, arrival: &Arrival) -> String {
        let Arrival { at, id, node, session, written, .. } = arrival;
        let (at, written) = (self.trace.ms(*at), self.trace.ms(*written));
        format!("{id} at {at} (written {written}) by {node}/{session}")
    }
}

/// The way of one node's process to the provider.
pub(super) struct Calls {
    pub(super) provider: Arc<Provider>,
    pub(super) life: Arc<Life>,
    pub(super) clock: Clock,
    pub(super) ledger: Arc<LedgerServer>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Transport for Calls {
    fn send(
        &self,
        request: Request,
        bounds: CallBounds,
        on_written: OnWritten,
    ) -> LocalBoxFuture<'static, Result<Answer, CallError>> {
        let (provider, life) = (Arc::clone(&self.provider), Arc::clone(&self.life));
        let (clock, ledger) = (self.clock.clone(), Arc::clone(&self.ledger));
        async move {
            if !life.step() {
                return std::future::pending().await;
            }
            let mut path = request.url.path_segments().unwrap().map(str::to_owned);
            let (api, id) = (path.next().unwrap(), path.next_back().unwrap());
            let account = request.headers["x-account"].to_str().unwrap().to_owned();
            let fate = provider.fate();
            if !fate.connect.is_zero() {
                sleep(fate.connect.min(bounds.timeouts.connect)).await;
                if fate.connect > bounds.timeouts.connect {
                    return Err(CallError::Connect("not in time".into()));
                }
            }
            if clock.now() > bounds.write_by {
                return Err(CallError::Late);
            }
            if !life.step() {
                return std::future::pending().await;
            }
            if id.starts_with("killer") {
                // Its request leaves, and the process is no more.
                life.die();
            }
            // Written: from here on the call arrives, whatever becomes of its caller.
            let written = Instant::now();
            ledger.called(&account, &id, life.session);
            let (tell, told) = oneshot::channel();
            let status = provider.status(&id);
            let (node, session) = (life.node, life.session);
            let (way, takes, body) = (fate.way, fate.takes, fate.body);
            tokio::spawn(async move {
                sleep_until(written + way).await;
                let at = Instant::now();
                let over = at + takes + body;
                let arrival =
                    Arrival { at, over, account, api, id, status, node, session, written };
                provider.arrive(arrival);
                sleep(takes).await;
                let _heard = tell.send(());
            });
            if life.is_dead() {
                return std::future::pending().await;
            }
            sleep(fate.stamp).await;
            on_written(Written::At(clock.now()));
            let answered = tokio::time::timeout(bounds.timeouts.first_byte, told).await;
            if answered.is_err() {
                return Err(CallError::FirstByte(bounds.timeouts.first_byte));
            }
            if !life.step() {
                return std::future::pending().await;
            }
            let body = stream::once(async move {
                sleep(body).await;
                Ok(Bytes::from_static(b"{}"))
            });
            Ok(Answer { status, headers: HeaderMap::new(), body: body.boxed_local() })
        }
        .boxed_local()
    }
}
