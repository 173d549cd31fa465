//! Keeping to the limits of all nodes: tells what this node goes by, hears what the others do, and has both put in
//! force.
//!
//! The bucket CONF has the text behind each hash. A node writes its own there before its session names it. Sessions
//! renew their keys several times within their lease, so whoever listens on these subjects hears of every change at
//! once, and needs no consumer; what was not heard is found by listing them. A node that starts lets nothing go before
//! it has the limits of all that live in force, and takes no account before all of these say that they have its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use super::Bus;
use super::error::NatsError;
use super::own::{Entry, NatsOwn, is_put};
use super::session::{Session, SessionId, Shown};
use crate::codes::Code;
use crate::mixed::{Heard, Limits, Needed, Others, SILENT_FOR, mixed};
use crate::plan::Plan;
use crate::reload::Reloader;
use crate::telemetry;

const BUCKET: &str = "CONF";
/// How long one question to the server may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How long a node that starts waits for the others to go by its limits: longer than a dead one's key lives.
const HEEDED_WITHIN: Duration = Duration::from_secs(8);
/// Between two looks while it waits.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at who is silent, and two tries of what could not be read or written.
const TICK: Duration = Duration::from_secs(1);
/// Between two tries of what could not be written, at most.
const WRITE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// All sessions are listed this often, should one not have been heard.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// The bucket forgets what nobody writes for 30 days.
const WRITE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Nobody counts as gone before this node's own session was renewed in time for so long.
const STEADY_FOR: Duration = Duration::from_secs(2);
/// Keys read at once.
const READS: usize = 16;
/// The text of limits leaves so much of the server's `max_payload` free.
const HEADROOM: usize = 16 * 1024;

/// What this node knows of the limits of others, and tells of its own.
#[derive(Debug)]
pub struct Accord {
    bus: Bus,
    session: Arc<Session>,
    /// The hash that the session names.
    named: String,
    /// What is behind it.
    limits: Arc<Limits>,
    others: Others,
    told: Told,
    writes: Writes,
    /// What was put in force last: the hash of this node's own limits, and of those beside them.
    heeded: (String, Vec<String>),
}

/// How writing this node's limits fares.
#[derive(Debug)]
struct Writes {
    written: Instant,
    /// Not before.
    again: Instant,
    /// After the next failure.
    pause: Duration,
    is_told: bool,
}

impl Writes {
    fn at(now: Instant) -> Self {
        Self { written: now, again: now, pause: TICK, is_told: false }
    }

    /// Answers whether that is news.
    fn failed(&mut self, now: Instant) -> bool {
        self.again = now + self.pause;
        self.pause = WRITE_PAUSE_MAX.min(self.pause * 2);
        !std::mem::replace(&mut self.is_told, true)
    }

    /// What is to be written is another, or whom it goes to is back.
    fn soon(&mut self, now: Instant) {
        (self.again, self.pause) = (now, TICK);
    }
}

/// What was logged last.
#[derive(Debug, Default)]
struct Told {
    in_force: Vec<String>,
    unknown: BTreeSet<crate::mixed::Unknown>,
}

fn unanswered(error: &dyn std::fmt::Display) -> NatsError {
    NatsError::new(
        Code::NatsUnreachable,
        format!("the limits of other nodes cannot be read: {error}"),
        "see whether nats-server is well (its log; `nats server check jetstream`)",
    )
}

/// Writes the limits of a plan under their hash, for other nodes. To be done before a session names it.
///
/// # Errors
/// The server does not take it, or it is larger than a message may be.
pub async fn publish(bus: &Bus, plan: &Plan) -> Result<(), NatsError> {
    write(bus, plan).await.map_err(|error| bus.blame(error))
}

async fn write(bus: &Bus, plan: &Plan) -> Result<(), NatsError> {
    let text = Limits::of(plan).text();
    let most = bus.client().server_info().max_payload.saturating_sub(HEADROOM);
    if text.len() > most {
        return Err(NatsError::new(
            Code::TooMany,
            format!("the limits have {} bytes as other nodes are told, at most {most}", text.len()),
            "put accounts alike into a tier, or raise `max_payload` of nats-server",
        ));
    }
    let subject = bus.names().bucket_key(BUCKET, &plan.hash);
    let message = PublishMessage::build().payload(text.into());
    let sent = async { bus.js().send_publish(subject, message).await?.await };
    match timeout(WITHIN, sent).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(unanswered(&error)),
        Err(_) => Err(unanswered(&"no answer in time")),
    }
}

impl Accord {
    /// Learns what limits the other nodes go by, and waits until they go by those of this plan; answers with the plan
    /// that has all of them in force. The session must have been started with the plan's hash, after [`publish`].
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn reach(
        bus: &Bus,
        session: Arc<Session>,
        own: &Plan,
    ) -> Result<(Self, Plan), NatsError> {
        let others = Others::new(own.hash.clone());
        let named = own.hash.clone();
        let mut accord = Self {
            bus: bus.clone(),
            session,
            heeded: (named.clone(), Vec::new()),
            named,
            limits: Arc::new(Limits::of(own)),
            others,
            told: Told::default(),
            writes: Writes::at(Instant::now()),
        };
        let until = Instant::now() + HEEDED_WITHIN;
        loop {
            let live = accord.list().await.map_err(|error| bus.blame(error))?;
            accord.others.only(&live);
            accord.learn().await;
            let needed = accord.others.needed();
            let hashes: Vec<String> = needed.limits.keys().cloned().collect();
            // Told even if there is none: it says that this node would.
            accord.session.heeds(accord.named.clone(), hashes).await.map_err(|e| unanswered(&e))?;
            let waits = !accord.others.heedless().is_empty() || !accord.others.wanted().is_empty();
            if waits && Instant::now() < until {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            for node in accord.others.heedless() {
                telemetry::config_not_heeded(&node);
            }
            let others: Vec<Arc<Limits>> = needed.limits.values().cloned().collect();
            let (plan, unheeded) = mixed(own, &others);
            accord.heeded.1 = needed.limits.keys().cloned().collect();
            accord.tell(&needed);
            unheeded.iter().for_each(telemetry::limit_unheeded);
            return Ok((accord, plan));
        }
    }

    /// Whose limits are in force beside this node's own, as [`Accord::reach`] had it.
    pub fn in_force(&mut self) -> Vec<Arc<Limits>> {
        self.others.needed().limits.into_values().collect()
    }

    /// Follows the others, and what this node itself reads anew, for as long as it is polled.
    pub async fn follow(mut self, reloader: Reloader) {
        let subject = self.bus.names().bucket_key("OWN", "n.*");
        let mut own = reloader.own();
        let mut link = self.bus.link();
        let mut heard: Option<Subscriber> = None;
        let (mut listed, mut paused_until) = (Instant::now(), Instant::now());
        let mut list_now = true;
        let mut last: Option<Arc<Plan>> = None;
        loop {
            if heard.is_none() {
                // Refused: what is listed will do, some seconds later.
                heard = self.bus.client().subscribe(subject.clone()).await.ok();
            }
            let listen = async {
                match &mut heard {
                    Some(heard) => heard.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = listen => match message {
                    Some(message) => self.hear(&message),
                    None => heard = None,
                },
                changed = link.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    list_now = true;
                    self.writes.soon(Instant::now());
                }
                changed = own.changed() => if changed.is_err() { return },
                () = sleep(TICK) => {}
            }
            let plan = Arc::clone(&own.borrow_and_update());
            self.read(&plan);
            // Own writes are heard, too: each failure ends what this turn may ask.
            if paused_until <= Instant::now() {
                let named = self.name(&plan).await;
                if list_now || named || listed.elapsed() >= LIST_EVERY {
                    list_now = self.list().await.is_err();
                    listed = Instant::now();
                    if named && !list_now {
                        // Who starts from now on sees the new name, and waits until this node has its limits in
                        // force.
                        self.others.settled();
                    }
                }
                if list_now || self.is_unsettled(&plan) {
                    paused_until = Instant::now() + TICK;
                }
            }
            let since = self.session.steady_since();
            if since.is_some_and(|since| since.elapsed() >= STEADY_FOR) {
                self.others.forget(SILENT_FOR.max(self.session.lease() * 3 / 2));
            }
            self.learn().await;
            let needed = self.others.needed();
            let hashes: Vec<String> = needed.limits.keys().cloned().collect();
            let now = (plan.hash.clone(), hashes);
            // Also if it reads the same again: what it read between may still be beside it.
            let is_read = last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &plan));
            last = Some(Arc::clone(&plan));
            if is_read || now != self.heeded {
                let others = needed.limits.values().cloned().collect();
                let unheeded = reloader.heed(&plan.hash, others).await;
                unheeded.iter().for_each(telemetry::limit_unheeded);
                self.heeded = now;
                // What is not told now is with the next renewal.
                let _told = self.session.heeds(self.named.clone(), self.heeds()).await;
            }
            self.tell(&needed);
        }
    }

    /// Notes that this node has read other limits, if so.
    fn read(&mut self, plan: &Plan) {
        if plan.hash != self.others.own() {
            let named = (self.named.clone(), Arc::clone(&self.limits));
            self.others.own_is(plan.hash.clone(), named);
            self.writes.soon(Instant::now());
            self.writes.is_told = false;
        }
    }

    /// Whether what the session named before is in force though its new name can be read.
    fn is_unsettled(&self, plan: &Plan) -> bool {
        self.named == plan.hash && self.others.keeps()
    }

    /// Has the session name this node's own limits, once others can read them. True if it does so now, instead of
    /// what is still in force.
    async fn name(&mut self, plan: &Plan) -> bool {
        let renamed = plan.hash != self.named;
        let due = renamed || self.writes.written.elapsed() >= WRITE_EVERY;
        if due && self.writes.again <= Instant::now() {
            match publish(&self.bus, plan).await {
                Ok(()) => {
                    self.writes = Writes::at(Instant::now());
                    self.named.clone_from(&plan.hash);
                    self.limits = Arc::new(Limits::of(plan));
                }
                Err(error) => {
                    if self.writes.failed(Instant::now()) {
                        telemetry::config_untold(&plan.hash, &error);
                    }
                }
            }
        }
        self.is_unsettled(plan)
            && self.session.heeds(self.named.clone(), self.heeds()).await.is_ok()
    }

    /// The hashes of what is in force here beside what the session names.
    fn heeds(&self) -> Vec<String> {
        let (own, others) = &self.heeded;
        let all = others.iter().chain([own]).filter(|hash| **hash != self.named);
        all.cloned().collect()
    }

    /// Logs what changed.
    fn tell(&mut self, needed: &Needed) {
        for unknown in needed.unknown.difference(&self.told.unknown) {
            telemetry::config_unknown(&unknown.node, &unknown.config, &unknown.reason);
        }
        let in_force: Vec<String> = needed.limits.keys().cloned().collect();
        if in_force != self.told.in_force {
            if in_force.is_empty() {
                telemetry::config_agreed(&self.named);
            } else {
                telemetry::config_mixed(&self.named, &in_force, &needed.nodes);
            }
        }
        telemetry::configs_seen(in_force.len(), needed.unknown.len());
        self.told = Told { in_force, unknown: needed.unknown.clone() };
    }

    fn hear(&mut self, message: &Message) {
        let start = self.bus.names().bucket_key("OWN", "");
        let key = message.subject.strip_prefix(&start);
        let Some(id) = key.and_then(|key| self.id_of(key)) else { return };
        if !message.headers.as_ref().is_none_or(is_put) {
            self.others.ended(id);
        } else if let Ok(shown) = serde_json::from_slice::<Shown>(&message.payload) {
            self.others.hear(id, heard(shown), Instant::now());
        }
        // Else it is of another version: listed, it is told of.
    }

    /// Of another session.
    fn id_of(&self, key: &str) -> Option<SessionId> {
        let id = key.strip_prefix("n.").and_then(SessionId::parse);
        id.filter(|id| *id != self.session.id())
    }

    /// Reads all sessions from the leader; answers which live.
    async fn list(&mut self) -> Result<BTreeSet<SessionId>, NatsError> {
        let asked = Instant::now();
        let reading = async { NatsOwn::open(&self.bus).await?.lasts("n.*").await };
        let found = timeout(WITHIN * 2, reading).await;
        let found = found.map_err(|_| unanswered(&"no answer in time"))?;
        let mut live = BTreeSet::new();
        for Entry { key, value, .. } in found.map_err(|error| unanswered(&error))? {
            let Some(id) = self.id_of(&key) else { continue };
            let Some(payload) = value else {
                self.others.ended(id);
                continue;
            };
            let shown = serde_json::from_slice::<Shown>(&payload);
            let shown = shown.map_or_else(|_| unreadable(id), heard);
            self.others.hear(id, shown, asked);
            live.insert(id);
        }
        Ok(live)
    }

    /// Reads what is behind the hashes that others name.
    async fn learn(&mut self) {
        let wanted = self.others.wanted();
        if wanted.is_empty() {
            return;
        }
        let bus = &self.bus;
        let reads = stream::iter(wanted).map(|hash| async move {
            let found = read(bus, &hash).await;
            (hash, found)
        });
        let found: BTreeMap<String, _> = reads.buffer_unordered(READS).collect().await;
        for (hash, limits) in found {
            self.others.learn(hash, limits.map(Arc::new));
        }
    }
}

fn heard(shown: Shown) -> Heard {
    let Shown { about, takes, heeds } = shown;
    Heard { node: about.node, config: about.config, heeds, takes }
}

/// A session of a version that says it otherwise: it lives, and what it goes by is not known.
fn unreadable(id: SessionId) -> Heard {
    Heard { node: id.to_string(), config: "?".into(), heeds: None, takes: true }
}

async fn stream_of(bus: &Bus, bucket: &str) -> Result<Stream<()>, NatsError> {
    let name = bus.names().bucket_stream(bucket);
    bus.js().get_stream_no_info(name).await.map_err(|error| unanswered(&error))
}

/// The limits behind a hash, from the leader; a sentence where there are none.
async fn read(bus: &Bus, hash: &str) -> Result<Limits, String> {
    let reading = async {
        let conf = stream_of(bus, BUCKET).await.map_err(|error| error.to_string())?;
        let last =
            conf.get_last_raw_message_by_subject(&bus.names().bucket_key(BUCKET, hash)).await;
        match last {
            Ok(last) => Ok(last.payload),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Err("the bucket CONF does not have them".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    };
    let text: Bytes =
        timeout(WITHIN, reading).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
    let limits = Limits::read(&text).map_err(|error| error.to_string())?;
    if limits.hash() != hash {
        return Err("they are not what their hash says".to_owned());
    }
    Ok(limits)
}
