//! The keeper of a node's credentials: reads secrets, gets tokens, and wakes whoever waits for them.
//!
//! Shards ask it on their threads, and never wait in it: what is not at hand is got by one task on the node's own
//! thread, once for each credential (or for each account of it, where accounts have something of their own).

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tollgate_gate::{At, Span};

use super::places::Places;
use super::reading::{read_secrets, texts, watch, watch_programs};
use super::renew::{Desk, Failed, Had};
use super::secret::Missing;
use super::vault::Vault;
use super::{Auth, Credential, EARLY_MAX, Kind, Problem, State, Token, Used, Wake};
use crate::clock::Clock;
use crate::codes::Code;
use crate::http::Transport;
use crate::ids::{Account, AccountKey, Seq};
use crate::plan::InForce;
use crate::telemetry;

/// Fetches that are remembered to have been tried again after a 401; older ones may be a second time.
const REFUSED_MAX: usize = 4096;
/// A token as young as this, or as a tenth of its life, is not taken for dead upon a 401.
const YOUNG_MAX: Duration = Duration::from_secs(30);
/// Secrets of an account are not read again upon refusals of its calls more often than this.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// A token is not used any more so long before its end, or a twentieth of its life.
const MARGIN_MAX: Duration = Duration::from_secs(5);
/// The first and the longest wait after a failure that may pass.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(300);
/// The wait after one that will not: another try is for those who mended it elsewhere.
const WAIT_LASTING: Duration = Duration::from_secs(900);
/// What an account waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Nothing is tried before; none: it will be told.
    pub until: Option<At>,
    /// What for.
    pub why: String,
}

/// See to a credential, for this account.
struct Job {
    credential: Arc<Credential>,
    account: Account,
    /// Secrets that can be read again are.
    again: bool,
}

/// Keeps the credentials of a node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

struct Inner {
    clock: Clock,
    /// At most one for each state that is in memory: whoever sends it marks the state first, which keeps it there.
    jobs: mpsc::UnboundedSender<Job>,
    refused: Mutex<Refused>,
}

#[derive(Default)]
struct Refused {
    known: HashSet<(AccountKey, (Seq, u32))>,
    order: VecDeque<(AccountKey, (Seq, u32))>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

/// The part of a keeper that does what takes time.
pub struct Worker {
    keeper: Keeper,
    jobs: mpsc::UnboundedReceiver<Job>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

/// How long before its end a token of that life is renewed.
pub(super) fn early(declared: Option<Duration>, life: Duration) -> Duration {
    let early = declared.unwrap_or((life / 10).min(EARLY_MAX));
    early.max(margin(life)).min(life / 2)
}

/// How long before its end it is not used any more.
fn margin(life: Duration) -> Duration {
    (life / 20).min(MARGIN_MAX)
}

impl Keeper {
    /// A keeper, and its worker, which has to run.
    pub fn new(clock: Clock) -> (Self, Worker) {
        let (send, jobs) = mpsc::unbounded_channel();
        let keeper = Self(Arc::new(Inner { clock, jobs: send, refused: Mutex::default() }));
        (keeper.clone(), Worker { keeper, jobs })
    }

    /// Whether what signs the calls of an account is at hand; else what it waits for. `wake` is called when that has
    /// come, or has not.
    pub fn ready(
        &self,
        auth: &Auth,
        account: &AccountKey,
        wake: impl FnOnce() -> Wake,
    ) -> Option<Wait> {
        let credential = auth.of(&account.account);
        let reading = credential.live.is_reading();
        if credential.is_at_hand() && !reading {
            return None;
        }
        let now = self.0.clock.now();
        let secrets = credential.secrets(&account.account);
        if !credential.has_token() && secrets.is_ok() && !reading {
            return None;
        }
        let mut states = credential.live.lock();
        let part = credential.part(&account.account);
        if !credential.has_token() && secrets.is_ok() {
            // Under the lock: whoever is done reading wakes those that are in the table by then.
            if !states.get(&part).is_some_and(|state| state.reading) {
                return None;
            }
            let state = states.used(&part, State::default);
            state.waiting.insert(account.clone(), wake());
            let why =
                format!("the secret of {}, which was refused and is read again", credential.shown);
            return Some(Wait { until: None, why });
        }
        let state = states.used(&part, State::default);
        if let Err(Missing::None(reason)) = secrets {
            // It is in no file that could be read: only another configuration has it.
            let why = format!("{}: {reason} ({})", credential.shown, Code::SecretUnavailable);
            return Some(Wait { until: Some(now.plus(Span::from(WAIT_LASTING))), why });
        }
        let usable = state.token.as_ref().filter(|token| now < token.until);
        let fresh = usable.is_some_and(|token| now < token.renew_at);
        let usable = usable.is_some() && secrets.is_ok();
        let waits = state.problem.as_ref().filter(|problem| problem.until > now);
        let begins = !state.working && waits.is_none() && !(usable && fresh);
        let wait = waits.map(|problem| Wait {
            until: Some(problem.until),
            why: format!("{}: {} ({})", credential.shown, problem.reason, problem.code),
        });
        state.working |= begins;
        let wait = (!usable).then(|| {
            state.waiting.insert(account.clone(), wake());
            let what = if credential.has_token() { "the token" } else { "a secret" };
            wait.unwrap_or_else(|| Wait {
                until: None,
                why: format!("{what} of {}", credential.shown),
            })
        });
        drop(states);
        if begins {
            self.order(credential, &account.account, false);
        }
        wait
    }

    fn order(&self, credential: &Arc<Credential>, account: &Account, again: bool) {
        let (credential, account) = (Arc::clone(credential), account.clone());
        // Without a worker the node is ending.
        let _sent = self.0.jobs.send(Job { credential, account, again }).is_ok();
    }

    /// A provider refused a call for what signed it, by a 401 or by what else is declared. True if the call is worth
    /// another try: with a token that is newer or will be, or with secrets that are read again. Once for each page of a
    /// fetch.
    pub fn refused(&self, used: &Used, account: &AccountKey, fetch: Seq, page: u32) -> bool {
        let credential = &used.credential;
        let now = self.0.clock.now();
        let mut states = credential.live.lock();
        let state = states.used(&credential.part(&account.account), State::default);
        let before = state.read_again.filter(|at| now < at.plus(Span::from(READ_AGAIN)));
        let reads = credential.can_change() && before.is_none();
        let mut begins = false;
        let worth = match used.generation {
            Some(generation) => match state.token.clone() {
                Some(token) if token.generation <= generation => {
                    let life = token.until.since(token.had);
                    let young = Span(life.0 / 10).min(Span::from(YOUNG_MAX));
                    let is_dead = now >= token.had.plus(young);
                    if is_dead {
                        state.dead = Some(Arc::clone(&token.value));
                        state.before = Some(token);
                        state.token = None;
                        state.doubted |= reads;
                    }
                    is_dead
                }
                // There is another by now, or none: then it was taken for dead already.
                _ => true,
            },
            None if credential.can_change() => {
                if reads && !state.working {
                    state.read_again = Some(now);
                    state.working = true;
                    credential.live.set_reading(state, true);
                    begins = true;
                }
                true
            }
            None => false,
        };
        drop(states);
        if begins {
            self.order(credential, &account.account, true);
        }
        worth && self.first_time(account, (fetch, page))
    }

    fn first_time(&self, account: &AccountKey, fetch: (Seq, u32)) -> bool {
        let mut refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let fetch = (account.clone(), fetch);
        if !refused.known.insert(fetch.clone()) {
            return false;
        }
        refused.order.push_back(fetch);
        if refused.order.len() > REFUSED_MAX
            && let Some(oldest) = refused.order.pop_front()
        {
            refused.known.remove(&oldest);
        }
        true
    }
}

impl Worker {
    /// Does what is ordered, and looks after files, for as long as it is polled. On a thread with a `LocalSet`.
    pub async fn run(self, transport: Rc<dyn Transport>, vault: Arc<dyn Vault>, plan: InForce) {
        let Self { keeper, mut jobs } = self;
        let clock = keeper.0.clock.clone();
        let desk = Rc::new(Desk::new(transport, vault, clock));
        let _watching = AbortOnDrop(actix_rt::spawn(watch(plan.clone())));
        let _running = AbortOnDrop(actix_rt::spawn(watch_programs(plan)));
        let mut places = Places::default();
        let (left, mut leaving) = mpsc::unbounded_channel();
        loop {
            while let Some((whose, job)) = places.take() {
                let (keeper, desk, left) = (keeper.clone(), Rc::clone(&desk), left.clone());
                // Not ended with this one: what a server gives is kept.
                actix_rt::spawn(async move {
                    let mut doing = Doing { keeper, whose, left, job: Some(job) };
                    doing.run(&desk).await;
                });
            }
            tokio::select! {
                job = jobs.recv() => {
                    let Some(job) = job else { return };
                    places.wait(Arc::as_ptr(&job.credential) as usize, job);
                }
                whose = leaving.recv() => {
                    let Some(whose) = whose else { return };
                    places.leave(whose);
                }
            }
        }
    }
}

/// A job that has a place, until it is dropped.
struct Doing {
    keeper: Keeper,
    whose: usize,
    left: mpsc::UnboundedSender<usize>,
    /// There until its end is known.
    job: Option<Job>,
}

impl Doing {
    async fn run(&mut self, desk: &Desk) {
        let Some(job) = &self.job else { return };
        let got = self.keeper.see_to(desk, job).await;
        if let Some(job) = self.job.take() {
            self.keeper.seen_to(&job, got);
        }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        if let Some(job) = self.job.take()
            && std::thread::panicking()
        {
            let reason = "nobody finished getting it".to_owned();
            let (code, lasting) = (Code::TokenUnavailable, false);
            self.keeper.seen_to(&job, Err(Failed { code, reason, after: None, lasting }));
        }
        // Without a worker nobody waits for the place.
        let _sent = self.left.send(self.whose).is_ok();
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keeper {
    async fn see_to(&self, desk: &Desk, job: &Job) -> Result<Option<Had>, Failed> {
        let Job { credential, account, again } = job;
        let again = {
            let mut states = credential.live.lock();
            let state = states.used(&credential.part(account), State::default);
            if state.doubted {
                state.read_again = Some(self.0.clock.now());
            }
            std::mem::take(&mut state.doubted) || *again
        };
        read_secrets(credential, account, again).await.map_err(unread)?;
        let before = texts(credential, account);
        let got = self.get(desk, credential, account).await;
        let is_refused = |failed: &Failed| failed.code == Code::TokenRefused;
        if again || !got.as_ref().is_err_and(is_refused) || !credential.can_change() {
            return got;
        }
        // By a secret that may be another one by now.
        read_secrets(credential, account, true).await.map_err(unread)?;
        let same = texts(credential, account)
            .iter()
            .zip(&before)
            .all(|(now, before)| now.expose_secret() == before.expose_secret());
        if same { got } else { self.get(desk, credential, account).await }
    }

    async fn get(
        &self,
        desk: &Desk,
        credential: &Credential,
        account: &Account,
    ) -> Result<Option<Had>, Failed> {
        let part = credential.part(account);
        let dead = credential.live.lock().get(&part).and_then(|state| state.dead.clone());
        match &credential.kind {
            Kind::OAuth2(oauth2) => {
                desk.token(credential, oauth2, account, dead.as_deref()).await.map(Some)
            }
            Kind::Jwt(jwt, _) => mint(jwt, account, &self.0.clock).map(Some),
            _ => Ok(None),
        }
    }

    /// What came of a job is known, and whoever waits for it is told.
    fn seen_to(&self, job: &Job, got: Result<Option<Had>, Failed>) {
        let Job { credential, account, again } = job;
        let now = self.0.clock.now();
        let mut states = credential.live.lock();
        let state = states.used(&credential.part(account), State::default);
        state.working = false;
        match got {
            Ok(None) => state.problem = None,
            Ok(Some(had)) => {
                state.problem = None;
                telemetry::token_had(&credential.shown, had.called, had.left);
                let generation = state.token.as_ref().or(state.before.as_ref());
                let generation = generation.map_or(0, |token| token.generation) + 1;
                let declared = match &credential.kind {
                    Kind::OAuth2(oauth2) => oauth2.early,
                    _ => None,
                };
                let life = had.left + had.age;
                let (early, margin) = (early(declared, life), margin(life));
                let token = Token {
                    value: Arc::new(had.access),
                    generation,
                    had: now.minus(Span::from(had.age)),
                    until: now.plus(Span::from(had.left.saturating_sub(margin))),
                    renew_at: now.plus(Span::from(had.left.saturating_sub(early))),
                };
                if let Some(before) = state.token.replace(Arc::new(token)) {
                    state.before = Some(before);
                }
                if let Some(refresh) = had.refresh.map(Arc::new) {
                    state.replace_refresh(refresh);
                }
            }
            Err(failed) => {
                let fails = state.problem.as_ref().map_or(0, |problem| problem.fails) + 1;
                let backoff = if failed.lasting {
                    WAIT_LASTING
                } else {
                    let doubled = WAIT_FIRST * 2u32.saturating_pow(fails.min(16) - 1);
                    // Up to a quarter more, so that nodes do not ask together.
                    let wait = doubled.min(WAIT_MAX);
                    wait + wait.mul_f64(fastrand::f64() / 4.0)
                };
                // A server may say "in a second" for an hour.
                let wait = backoff.max(failed.after.unwrap_or_default());
                telemetry::token_unavailable(&credential.shown, failed.code, &failed.reason, wait);
                state.problem = Some(Problem {
                    code: failed.code,
                    reason: failed.reason.into(),
                    until: now.plus(Span::from(wait)),
                    fails,
                });
            }
        }
        let waiting = std::mem::take(&mut state.waiting);
        if *again {
            credential.live.set_reading(state, false);
        }
        drop(states);
        for wake in waiting.into_values() {
            wake();
        }
    }
}

fn unread(reason: String) -> Failed {
    Failed { code: Code::SecretUnavailable, reason, after: None, lasting: false }
}

/// A statement that is its own token.
fn mint(jwt: &super::jwt::Jwt, account: &Account, clock: &Clock) -> Result<Had, Failed> {
    let failed =
        |reason| Failed { code: Code::SecretUnavailable, reason, after: None, lasting: true };
    let pem = jwt.key.get(account).map_err(|_| failed("its key was not read yet".into()))?;
    let text = jwt.sign(pem.expose_secret(), account, clock.wall());
    let text = text.map_err(|reason| failed(format!("its key does not sign: {reason}")))?;
    Ok(Had {
        access: text.into(),
        refresh: None,
        age: Duration::ZERO,
        left: jwt.usable(),
        called: true,
    })
}
