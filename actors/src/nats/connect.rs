//! One connection to NATS, and how it fares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, context::AccountErrorKind, context::ContextBuilder};
use async_nats::{Client, ConnectOptions, Event, ServerInfo};
use secrecy::ExposeSecret;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::error::{NatsError, leaderless, no_jetstream, of_account};
use super::names::Names;
use crate::codes::Code;
use crate::plan::NatsPlan;
use crate::telemetry;

/// How long the server may take for an answer of its JetStream API.
const API_WITHIN: Duration = Duration::from_secs(5);
/// How long a publish may stay unconfirmed.
const ACK_WITHIN: Duration = Duration::from_secs(2);
/// Publishes without a confirmation yet, over the whole connection; more wait.
const ACKS_MAX: usize = 8192;
/// How long one server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A server that has just started has its JetStream, or its cluster's leader, after this time at the latest.
const JETSTREAM_WITHIN: Duration = Duration::from_secs(30);
/// Servers that share JetStream may be without a leader, while they elect one or too few of them are there: whoever
/// waits, waits so long.
const LEADER_WITHIN: Duration = Duration::from_secs(5 * 60);
/// What the server refused is of what fails now for so long: longer than any answer is waited for.
const SAID_HOLDS: Duration = Duration::from_secs(10);
/// Between two tries to connect, at most.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// A connection over which nothing came for so long is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Dropped messages are told of this often at most.
const SLOW_TOLD_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether an event of the connection was missed.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// A connection that is away for so long is asked why, and again at this interval.
const ASK_WHY_AFTER: Duration = Duration::from_secs(2);
const ASK_WHY_EVERY: Duration = Duration::from_secs(30);
/// Messages of one subscription that wait to be taken; beyond, they are dropped and that is told.
const SUBSCRIPTION_MAX: usize = 64 * 1024;
/// The oldest server that knows all that is needed: TTLs of keys with markers came with 2.11
/// (<https://github.com/nats-io/nats-server/releases/tag/v2.11.0>).
const VERSION_MIN: (u32, u32) = (2, 11);

/// How the connection fares.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Whether it stands.
    pub up: bool,
    /// Since when.
    pub since: Instant,
    /// How often it was made.
    pub times: u64,
}

/// One connection to NATS. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    js: jetstream::Context,
    names: Names,
    watched: Arc<Watched>,
}

#[derive(Debug)]
struct Watched {
    link: watch::Sender<Link>,
    /// Messages of a subscription were dropped.
    slow: Notify,
    slow_told: Mutex<Option<Instant>>,
    /// What the server last refused on the connection, a right that is missing for example, and when.
    said: Mutex<Option<(String, Instant)>>,
    refused: Notify,
}

impl Watched {
    fn new() -> Self {
        let link = Link { up: false, since: Instant::now(), times: 0 };
        Self {
            link: watch::Sender::new(link),
            slow: Notify::new(),
            slow_told: Mutex::new(None),
            said: Mutex::default(),
            refused: Notify::new(),
        }
    }

    fn note(&self, event: &Event) {
        match event {
            Event::Connected => {
                let link = *self.link.borrow();
                let times = link.times + 1;
                let away = link.since.elapsed();
                self.link.send_replace(Link { up: true, since: Instant::now(), times });
                *self.said() = None;
                telemetry::nats_connected(times, away);
            }
            Event::Disconnected | Event::Closed => {
                let link = *self.link.borrow();
                if link.up {
                    self.link.send_replace(Link { up: false, since: Instant::now(), ..link });
                    telemetry::nats_away(&event.to_string());
                }
            }
            Event::SlowConsumer(_) => {
                // One comes for each message that is dropped.
                let mut told = self.slow_told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.is_none_or(|told| told.elapsed() >= SLOW_TOLD_EVERY) {
                    *told = Some(Instant::now());
                    telemetry::nats_slow();
                }
                self.slow.notify_waiters();
            }
            Event::ServerError(error) => {
                let what = error.to_string();
                self.refused(code_of(&what), what);
            }
            // How a try to connect again ended, in a word: `compare` finds out more.
            Event::ClientError(_) | Event::LameDuckMode | Event::Draining => {}
        }
    }

    /// Told once as long as it stays the same.
    fn refused(&self, code: Code, what: String) {
        let mut said = self.said();
        if said.as_ref().is_none_or(|(said, _)| *said != what) {
            telemetry::nats_refused(code, &what);
        }
        *said = Some((what, Instant::now()));
        self.refused.notify_waiters();
    }

    fn said(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was refused so lately that it is why something fails now.
    fn said_lately(&self) -> Option<String> {
        let said = self.said();
        let lately = said.as_ref().filter(|(_, at)| at.elapsed() < SAID_HOLDS);
        lately.map(|(said, _)| said.clone())
    }
}

impl Bus {
    /// Connects, and checks that the server is one that can be used. `name` is shown by the server's own
    /// monitoring. With `wait` a server that is away is waited for, and its absence logged; else it is an
    /// error. Once connected it stays so: a lost connection is made anew, for as long as it takes.
    ///
    /// # Errors
    /// The server cannot be reached, refuses the credentials, is too old, or has no JetStream.
    pub async fn connect(plan: &NatsPlan, name: &str, wait: bool) -> Result<Self, NatsError> {
        let watched = Arc::new(Watched::new());
        let mut told = false;
        let client = loop {
            let noted = Arc::clone(&watched);
            let options = options(plan, name).await?.event_callback(move |event| {
                noted.note(&event);
                std::future::ready(())
            });
            let error = match options.connect(plan.urls.clone()).await {
                Ok(client) => break client,
                Err(error) => error,
            };
            // What waiting does not mend is told at once, also to those who would wait.
            let refused = unreachable(plan, &error);
            if !wait || [Code::NatsDenied, Code::NatsTls].contains(&refused.code) {
                return Err(refused);
            }
            if !std::mem::replace(&mut told, true) {
                telemetry::nats_away(&refused.what);
            }
            sleep(RECONNECT_MAX).await;
        };
        let js = ContextBuilder::new()
            .timeout(API_WITHIN)
            .ack_timeout(ACK_WITHIN)
            .max_ack_inflight(ACKS_MAX)
            .build(client.clone());
        let asked = (plan.clone(), format!("{name} (why not)"));
        tokio::spawn(compare(client.clone(), Arc::downgrade(&watched), asked));
        let bus = Self { client, js, names: Names::new(&plan.prefix), watched };
        let checked = Instant::now();
        let mut told = false;
        loop {
            let Err(error) = bus.check().await else { return Ok(bus) };
            let within = match error.code {
                Code::NatsVersion => Duration::ZERO,
                Code::NatsUnreachable => LEADER_WITHIN,
                _ => JETSTREAM_WITHIN,
            };
            if !wait || checked.elapsed() >= within {
                return Err(error);
            }
            if error.code == Code::NatsUnreachable && !std::mem::replace(&mut told, true) {
                telemetry::nats_away(&error.what);
            }
            sleep(RECONNECT_MAX).await;
        }
    }

    async fn check(&self) -> Result<(), NatsError> {
        let ServerInfo { version, .. } = self.client.server_info();
        let mut numbers = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0_u32));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < VERSION_MIN {
            return Err(NatsError::new(
                Code::NatsVersion,
                format!("nats-server {version} is too old"),
                format!(
                    "at least {}.{} is needed, 2.14 or later is best",
                    VERSION_MIN.0, VERSION_MIN.1
                ),
            ));
        }
        match self.js.query_account().await {
            Ok(_) => Ok(()),
            Err(error) => Err(match (self.said(), error.kind()) {
                (Some(said), _) => denied(&said),
                (None, AccountErrorKind::JetStream(said)) => of_account(&said),
                (None, AccountErrorKind::TimedOut) => leaderless("no answer in time"),
                (None, _) => no_jetstream(&error.to_string()),
            }),
        }
    }

    /// The connection itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream on it.
    pub fn js(&self) -> &jetstream::Context {
        &self.js
    }

    /// The names in use.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// How the connection fares, from now on.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.watched.link.subscribe()
    }

    /// Waits until messages of a subscription were dropped because nobody took them in time.
    pub async fn slow(&self) {
        self.watched.slow.notified().await;
    }

    /// A right that this user lacks, as an error that says so, if the server said it on this connection within the
    /// last 10 s.
    pub fn denied(&self) -> Option<NatsError> {
        let said = self.said()?;
        said.to_ascii_lowercase().contains("permissions violation").then(|| denied(&said))
    }

    /// What the server said when it refused a publish to a subject since then, where that is what it refused last.
    pub(super) fn refused_publish(&self, subject: &str, since: Instant) -> Option<String> {
        let said = self.watched.said();
        let (said, at) = said.as_ref()?;
        let refused = format!("publish to \"{}\"", subject.to_ascii_lowercase());
        (*at >= since && said.to_ascii_lowercase().contains(&refused)).then(|| said.clone())
    }

    /// Waits until a right is missed.
    pub async fn until_denied(&self) -> NatsError {
        loop {
            let refused = self.watched.refused.notified();
            if let Some(denied) = self.denied() {
                return denied;
            }
            refused.await;
        }
    }

    /// The error, or the missing right that it comes from: the server tells one apart from the answer that is
    /// waited for in vain.
    pub(super) fn blame(&self, error: NatsError) -> NatsError {
        self.denied().unwrap_or(error)
    }

    /// What the server refused on this connection, last, within the last 10 s.
    pub fn said(&self) -> Option<String> {
        self.watched.said_lately()
    }
}

async fn options(plan: &NatsPlan, name: &str) -> Result<ConnectOptions, NatsError> {
    let mut options = ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(&plan.inbox)
        .connection_timeout(CONNECT_WITHIN)
        .ping_interval(PING_EVERY)
        .request_timeout(Some(API_WITHIN))
        .subscription_capacity(SUBSCRIPTION_MAX)
        .reconnect_delay_callback(|attempts| {
            let doubled = 50_u64 << attempts.clamp(1, 6).saturating_sub(1);
            let jitter = fastrand::u64(0..=doubled / 4 + 1);
            RECONNECT_MAX.min(Duration::from_millis(doubled + jitter))
        });
    if let Some(path) = &plan.creds {
        options = options.credentials_file(path).await.map_err(|error| {
            NatsError::new(
                Code::NatsDenied,
                format!("the credentials file {} cannot be used: {error}", path.display()),
                "nats.creds names a file as `nsc generate creds` writes it",
            )
        })?;
    }
    if let Some(path) = &plan.nkey {
        let seed = std::fs::read_to_string(path).map_err(|error| {
            NatsError::new(
                Code::NatsDenied,
                format!("the seed of an nkey in {} cannot be read: {error}", path.display()),
                "nats.nkey names a file with a line that begins with SU",
            )
        })?;
        options = options.nkey(seed.trim().to_owned());
    }
    if let Some((user, password)) = &plan.user {
        options = options.user_and_password(user.clone(), password.expose_secret().to_owned());
    }
    if let Some(tls) = &plan.tls {
        for path in [&tls.ca, &tls.cert, &tls.key].into_iter().flatten() {
            if let Err(error) = std::fs::File::open(path) {
                return Err(NatsError::new(
                    Code::NatsTls,
                    format!("{} cannot be read: {error}", path.display()),
                    "nats.tls names files",
                ));
            }
        }
        options = options.require_tls(true);
        if let Some(ca) = &tls.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
    }
    Ok(options)
}

/// The client drops events that come faster than they are taken: what it says of itself has the last word. And it
/// keeps to itself why it cannot connect again, so that a connection is tried beside it to learn that.
async fn compare(client: Client, watched: Weak<Watched>, (plan, name): (NatsPlan, String)) {
    let mut asked: Option<Instant> = None;
    loop {
        sleep(COMPARE_EVERY).await;
        let Some(watched) = watched.upgrade() else { return };
        let stands = client.connection_state() == State::Connected;
        if stands != watched.link.borrow().up {
            watched.note(if stands { &Event::Connected } else { &Event::Disconnected });
        }
        let link = *watched.link.borrow();
        let is_long = !link.up && link.since.elapsed() >= ASK_WHY_AFTER;
        if is_long && asked.is_none_or(|asked| asked.elapsed() >= ASK_WHY_EVERY) {
            asked = Some(Instant::now());
            if let Err(why) = why_not(&plan, &name).await
                && !watched.link.borrow().up
            {
                watched.refused(why.code, why.what);
            }
        }
    }
}

/// Connects and goes, or says why that cannot be.
async fn why_not(plan: &NatsPlan, name: &str) -> Result<(), NatsError> {
    let connected = options(plan, name).await?.connect(plan.urls.clone()).await;
    connected.map(drop).map_err(|error| unreachable(plan, &error))
}

pub(super) fn denied(said: &str) -> NatsError {
    NatsError::new(
        Code::NatsDenied,
        format!("the server refused: {said}"),
        "give this user the rights that docs/nats.md lists, or name other credentials in nats.creds",
    )
}

/// The files of `nats.tls`, in brackets.
fn files(plan: &NatsPlan) -> String {
    let tls = plan.tls.as_ref();
    let files = tls.into_iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]).flatten();
    let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
    if files.is_empty() { String::new() } else { format!(" ({})", files.join(", ")) }
}

/// Whether an error is of a handshake. A server that wants a certificate says so only after its own part of one,
/// so that the client takes it for a connection that breaks.
fn is_of_tls(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["tls error", "certificate", "fatal alert", "corrupt message"]
        .iter()
        .any(|word| said.contains(word))
}

/// What an error of a try to connect is of.
fn code_of(said: &str) -> Code {
    let lower = said.to_ascii_lowercase();
    let of_login =
        ["authorization", "authentication", "permissions", "nonce", "account", "revoked"];
    if is_of_tls(said) {
        Code::NatsTls
    } else if of_login.iter().any(|word| lower.contains(word)) {
        Code::NatsDenied
    } else {
        Code::NatsUnreachable
    }
}

fn unreachable(plan: &NatsPlan, error: &async_nats::ConnectError) -> NatsError {
    use async_nats::ConnectErrorKind as Kind;
    let what = format!("{} cannot be used: {error}", plan.urls.join(", "));
    match error.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => {
            NatsError::new(Code::NatsDenied, what, "name good credentials in nats.creds")
        }
        kind if kind == Kind::Tls || is_of_tls(&error.to_string()) => NatsError::new(
            Code::NatsTls,
            what,
            format!("look at nats.tls{} and the server's certificate", files(plan)),
        ),
        _ => NatsError::new(
            Code::NatsUnreachable,
            what,
            "start nats-server there, or set nats.url to where it is",
        ),
    }
}
