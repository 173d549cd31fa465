//! One connection to NATS, and how it fares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerInfo};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::error::{NatsError, no_jetstream};
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
/// Between two tries to connect, at most.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// A connection over which nothing came for so long is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Dropped messages are told of this often at most.
const SLOW_TOLD_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether an event of the connection was missed.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
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
    /// What the server last refused on the connection, a right that is missing for example.
    said: Mutex<Option<String>>,
}

impl Watched {
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
            Event::ServerError(error) => self.refused(error.to_string()),
            // How a try to connect again ended, for example.
            Event::ClientError(error) => self.refused(error.to_string()),
            Event::LameDuckMode | Event::Draining => {}
        }
    }

    /// Told once as long as it stays the same.
    fn refused(&self, what: String) {
        let mut said = self.said();
        if said.as_ref() != Some(&what) {
            telemetry::nats_refused(&what);
            *said = Some(what);
        }
    }

    fn said(&self) -> MutexGuard<'_, Option<String>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
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
        let link = Link { up: false, since: Instant::now(), times: 0 };
        let watched = Arc::new(Watched {
            link: watch::Sender::new(link),
            slow: Notify::new(),
            slow_told: Mutex::new(None),
            said: Mutex::default(),
        });
        let mut told = false;
        let client = loop {
            let error = match options(plan, name, &watched).await?.connect(plan.urls.clone()).await
            {
                Ok(client) => break client,
                Err(error) => error,
            };
            // What waiting does not mend is told at once, also to those who would wait.
            let refused = unreachable(plan, &error);
            if !wait || refused.code == Code::NatsDenied || error.kind() == ConnectErrorKind::Tls {
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
        tokio::spawn(compare(client.clone(), Arc::downgrade(&watched)));
        let bus = Self { client, js, names: Names::new(&plan.prefix), watched };
        let until = Instant::now() + if wait { JETSTREAM_WITHIN } else { Duration::ZERO };
        loop {
            match bus.check().await {
                Ok(()) => return Ok(bus),
                Err(error) if error.code == Code::NatsVersion || Instant::now() >= until => {
                    return Err(error);
                }
                Err(_) => sleep(RECONNECT_MAX).await,
            }
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
            Err(error) => Err(match self.said() {
                Some(said) => denied(&said),
                None => no_jetstream(&error.to_string()),
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

    /// What the server refused on this connection, last.
    pub fn said(&self) -> Option<String> {
        self.watched.said().clone()
    }
}

async fn options(
    plan: &NatsPlan,
    name: &str,
    watched: &Arc<Watched>,
) -> Result<ConnectOptions, NatsError> {
    let noted = Arc::clone(watched);
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(CONNECT_WITHIN)
        .ping_interval(PING_EVERY)
        .request_timeout(Some(API_WITHIN))
        .subscription_capacity(SUBSCRIPTION_MAX)
        .reconnect_delay_callback(|attempts| {
            let doubled = 50_u64 << attempts.clamp(1, 6).saturating_sub(1);
            let jitter = fastrand::u64(0..=doubled / 4 + 1);
            RECONNECT_MAX.min(Duration::from_millis(doubled + jitter))
        })
        .event_callback(move |event| {
            noted.note(&event);
            std::future::ready(())
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
    if let Some(tls) = &plan.tls {
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

/// The client drops events that come faster than they are taken: what it says of itself has the last word.
async fn compare(client: Client, watched: Weak<Watched>) {
    loop {
        sleep(COMPARE_EVERY).await;
        let Some(watched) = watched.upgrade() else { return };
        let stands = client.connection_state() == State::Connected;
        if stands != watched.link.borrow().up {
            watched.note(if stands { &Event::Connected } else { &Event::Disconnected });
        }
    }
}

pub(super) fn denied(said: &str) -> NatsError {
    NatsError::new(
        Code::NatsDenied,
        format!("the server refused: {said}"),
        "give this user the rights that docs/nats.md lists, or name other credentials in nats.creds",
    )
}

fn unreachable(plan: &NatsPlan, error: &async_nats::ConnectError) -> NatsError {
    use async_nats::ConnectErrorKind as Kind;
    let what = format!("{} cannot be used: {error}", plan.urls.join(", "));
    match error.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => {
            NatsError::new(Code::NatsDenied, what, "name good credentials in nats.creds")
        }
        Kind::Tls => NatsError::new(
            Code::NatsUnreachable,
            what,
            "look at nats.tls and the server's certificate",
        ),
        _ => NatsError::new(
            Code::NatsUnreachable,
            what,
            "start nats-server there, or set nats.url to where it is",
        ),
    }
}
