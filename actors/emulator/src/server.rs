//! The provider's side of the wire: accepts connections, stamps arrivals, has them judged and answers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::ACCEPT_ENCODING;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep};
use url::form_urlencoded;

use crate::answer::{self, Answer};
use crate::bulk::mix;
use crate::judge::{Judge, Standing, Ticket, Verdict};
use crate::profile::{AccountFrom, Gzip, Latency, Profile, Tells};
use crate::raw;
use crate::report::ReportPieces;
use crate::rude::Rude;
use crate::score::{Call, Score};

/// Most calls that are recorded; further ones are judged and counted only.
pub const CALLS_MAX: usize = 4_000_000;
/// Most different calls of `/rude/flaky` and `/rude/429` that are told apart; further ones succeed at once.
const REPEATS_MAX: usize = 1_000_000;
/// Longest account name, in bytes.
const ACCOUNT_BYTES_MAX: usize = 256;
/// How often the loop's own lag is measured.
const LAG_EVERY: Duration = Duration::from_millis(5);

/// What the connections and the owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    profile: Profile,
    state: Mutex<State>,
    lag_max_us: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) refused: AtomicU64,
}

#[derive(Debug)]
struct State {
    judge: Judge,
    recorded: Vec<Call>,
    malformed: u64,
    repeats: HashMap<String, u32>,
}

impl Shared {
    pub(crate) fn new(profile: Profile) -> Self {
        let judge = Judge::new(profile.limits.clone(), profile.count_refused);
        let judge = judge.with_hidden(profile.hidden);
        let state = State { judge, recorded: Vec::new(), malformed: 0, repeats: HashMap::new() };
        Self {
            profile,
            state: Mutex::new(state),
            lag_max_us: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(crate) fn score(&self) -> Score {
        let state = self.lock();
        Score::of(&state.judge, state.malformed, self.lag_max_us.load(Relaxed))
    }

    pub(crate) fn recorded(&self) -> Vec<Call> {
        self.lock().recorded.clone()
    }

    /// A panic elsewhere leaves the counts as whole as they were.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges and records one arrival, and says how its account stands behind it.
    fn arrive(
        &self,
        account: &str,
        endpoint: &str,
        query: &str,
        at: Instant,
    ) -> (Verdict, Option<Standing>) {
        let mut state = self.lock();
        let verdict = state.judge.arrive(account, endpoint, at);
        let tells = self.profile.tells != Tells::Nothing;
        let standing = tells.then(|| state.judge.standing(account, at)).flatten();
        let refusal = match &verdict {
            Verdict::Accepted(_) => None,
            Verdict::Refused(refusal) => Some(refusal.clone()),
            Verdict::TurnedAway => return (verdict, None),
        };
        self.calls.fetch_add(1, Relaxed);
        if refusal.is_some() {
            self.refused.fetch_add(1, Relaxed);
        }
        if self.profile.record && state.recorded.len() < CALLS_MAX {
            let (account, endpoint, query) = (account.into(), endpoint.into(), query.into());
            state.recorded.push(Call { account, endpoint, query, at, refusal });
        }
        (verdict, standing)
    }

    /// How often this account made the same call before.
    fn repeated(&self, account: &str, endpoint: &str, query: &str) -> u32 {
        let mut state = self.lock();
        let key = format!("{account}\n{endpoint}?{query}");
        if state.repeats.len() >= REPEATS_MAX && !state.repeats.contains_key(&key) {
            return u32::MAX;
        }
        let count = state.repeats.entry(key).or_insert(0);
        let earlier = *count;
        *count = count.saturating_add(1);
        earlier
    }
}

/// An accepted call until its answer has ended, however it ends.
pub(crate) struct Open {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.lock().judge.leave(ticket);
        }
    }
}

/// Accepts connections until the runtime ends.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
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

/// Measures how late this thread gets to what is due.
pub(crate) async fn measure_lag(shared: Arc<Shared>) {
    let mut ticks = interval(LAG_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let due = ticks.tick().await;
        shared.lag_max_us.fetch_max(due.elapsed().as_micros() as u64, Relaxed);
    }
}

/// Tells the connection to leave hyper and misbehave.
#[derive(Debug)]
struct LeaveHyper;

impl std::fmt::Display for LeaveHyper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer is not for hyper to give")
    }
}

impl std::error::Error for LeaveHyper {}

/// What a connection does after leaving hyper.
type Raw = Mutex<Option<(Rude, Option<Open>)>>;

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without it answers wait for the client's delayed acknowledgement; a failure only makes them slow.
    stream.set_nodelay(true).ok();
    let raw = Arc::new(Raw::default());
    let raw_of_calls = raw.clone();
    let service = service_fn(move |request| {
        // hyper calls this in the same turn in which it has read the head: nothing can be stamped earlier.
        let at = Instant::now();
        answer(shared.clone(), raw_of_calls.clone(), request, at)
    });
    let mut http = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    // An error is a client that went away, or `LeaveHyper`.
    (&mut http).await.ok();
    let left = raw.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((rude, open)) = left {
        let stream = http.into_parts().io.into_inner();
        raw::serve(stream, &rude, open).await.ok();
    }
}

async fn answer(
    shared: Arc<Shared>,
    raw: Arc<Raw>,
    request: Request<Incoming>,
    at: Instant,
) -> Result<Response<Answer>, LeaveHyper> {
    let profile = &shared.profile;
    let (account, endpoint) = identify(&profile.account_from, &request);
    let query = request.uri().query().unwrap_or_default();
    let is_rude = endpoint.starts_with("/rude/");

    let (mut open, mut standing) = (None, None);
    if let Some(account) = &account {
        let verdict;
        (verdict, standing) = shared.arrive(account, &endpoint, query, at);
        match verdict {
            Verdict::Accepted(ticket) => {
                open = Some(Open { shared: shared.clone(), ticket: Some(ticket) });
            }
            Verdict::Refused(refusal) => {
                let mut response = answer::refused(&refusal, profile.refusal, profile.retry_after);
                answer::tell(&mut response, profile.tells, standing.as_ref());
                return Ok(response);
            }
            Verdict::TurnedAway => {
                return Ok(answer::error(StatusCode::SERVICE_UNAVAILABLE, "too_many_accounts"));
            }
        }
    } else if !is_rude {
        shared.lock().malformed += 1;
        return Ok(answer::error(StatusCode::BAD_REQUEST, "account_missing"));
    }
    let account = account.unwrap_or_default();

    // The number of the call decides its luck, so a run with the same order of calls has the same.
    let luck = mix(profile.seed ^ mix(shared.calls.load(Relaxed)));
    let wait = latency(profile.latency, luck);
    if !wait.is_zero() {
        sleep(wait).await;
    }

    let kind = endpoint.strip_prefix("/v1/reports/").filter(|kind| !kind.is_empty());
    let rude = match kind {
        Some(_) => fault(profile, luck),
        None => Rude::parse(&endpoint, query),
    };
    let mut response = match (rude, kind) {
        (Some(rude), _) if rude.is_raw() => {
            let mut raw = raw.lock().unwrap_or_else(PoisonError::into_inner);
            *raw = Some((rude, open));
            return Err(LeaveHyper);
        }
        (Some(rude), _) => {
            if let Rude::Slow { ms } = rude {
                sleep(Duration::from_millis(ms)).await;
            }
            let earlier = match rude {
                Rude::Flaky { .. } | Rude::TooMany { .. } => {
                    shared.repeated(&account, &endpoint, query)
                }
                _ => 0,
            };
            answer::rude(&rude, earlier)
        }
        (None, Some(kind)) => {
            let pieces = ReportPieces::new(&account, kind, query, profile.body.rows);
            answer::report(pieces, is_gzip(profile.body.gzip, &request))
        }
        (None, None) => answer::error(StatusCode::NOT_FOUND, "no_such_endpoint"),
    };
    answer::tell(&mut response, profile.tells, standing.as_ref());
    response.body_mut().hold(open);
    Ok(response)
}

/// Whose call it is, if it says so, and the endpoint without account and query.
fn identify<'a>(
    from: &AccountFrom,
    request: &'a Request<Incoming>,
) -> (Option<Cow<'a, str>>, Cow<'a, str>) {
    let path = request.uri().path();
    let (account, endpoint) = match from {
        AccountFrom::Header(name) => {
            let value = request.headers().get(name.as_str());
            let text = value.and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
            (text.map(Cow::from), Cow::from(path))
        }
        AccountFrom::Query(name) => {
            let query = request.uri().query().unwrap_or_default();
            let mut params = form_urlencoded::parse(query.as_bytes());
            let found = params.find(|(key, _)| key == name.as_str());
            (found.map(|(_, value)| value), Cow::from(path))
        }
        AccountFrom::Path => match path.split_once("/accounts/") {
            Some((before, rest)) => {
                let (account, after) = rest.split_once('/').unwrap_or((rest, ""));
                let account = percent_decode_str(account).decode_utf8().ok();
                (account, Cow::from(format!("{before}/{after}")))
            }
            None => (None, Cow::from(path)),
        },
    };
    let usable = account.filter(|name| (1..=ACCOUNT_BYTES_MAX).contains(&name.len()));
    (usable, endpoint)
}

fn latency(latency: Latency, luck: u64) -> Duration {
    match latency {
        Latency::None => Duration::ZERO,
        Latency::Fixed(wait) => wait,
        Latency::Range(from, to) => {
            let width_us = to.saturating_sub(from).as_micros() as u64;
            from + Duration::from_micros(mix(luck) % (width_us + 1))
        }
    }
}

/// The fault that this call meets, if any.
fn fault(profile: &Profile, luck: u64) -> Option<Rude> {
    let meets = |(i, per_mille): (u64, u16)| mix(luck ^ (i + 1)) % 1_000 < u64::from(per_mille);
    let mut faults = profile.faults.iter().zip(0..);
    faults.find(|(fault, i)| meets((*i, fault.per_mille))).map(|(fault, _)| fault.rude.clone())
}

fn is_gzip(gzip: Gzip, request: &Request<Incoming>) -> bool {
    let accepts = || {
        let values = request.headers().get_all(ACCEPT_ENCODING).iter();
        values.filter_map(|value| value.to_str().ok()).any(|value| value.contains("gzip"))
    };
    match gzip {
        Gzip::Never => false,
        Gzip::IfAccepted => accepts(),
        Gzip::Always => true,
    }
}
