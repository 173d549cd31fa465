//! The sections `[node]`, `[collect]`, `[nats]` and `[http]`, and timeouts wherever they stand.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::BAD;
use super::secret::secret;
use super::section::Section;
use crate::codes::Code;
use crate::ids::{Slug, preview};
use crate::plan::{CollectPlan, HttpPlan, NatsPlan, NatsTls, Timeouts};
use crate::store::BUFFER_BYTES_MIN;

const MIB: u64 = 1 << 20;
/// Bounds of `[collect]`.
const CONCURRENCY_MAX: u64 = 65_536;
const SHARDS_MAX: u64 = 1_024;
const ATTEMPTS_MAX: u64 = 100;
const BYTES_MAX: u64 = 1 << 50;
/// Less room than this for waiting fetches is a mistake.
const FETCH_STREAM_BYTES_MIN: u64 = MIB;
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// A node that does not show itself for so long has lost its accounts to the others.
const LEASE: Duration = Duration::from_secs(4);
const LEASE_MIN: Duration = Duration::from_secs(2);
const LEASE_MAX: Duration = Duration::from_secs(60);
/// Bounds of a timeout.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Longest name of a node in bytes.
const NAME_BYTES_MAX: usize = 255;

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    first_byte: Duration::from_secs(60),
    stall: Duration::from_secs(30),
};

pub(super) struct Node {
    pub(super) name: String,
    pub(super) data: PathBuf,
}

pub(super) struct Collect {
    pub(super) plan: CollectPlan,
    pub(super) timeouts: Timeouts,
}

pub(super) fn node(section: Option<Section<'_>>, env: &BTreeMap<String, String>) -> Node {
    let mut node = Node { name: host_name(env), data: PathBuf::from("./tollgate-data") };
    let Some(mut section) = section else { return node };
    if let Some(name) = section.text("name") {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            section.mistake(BAD, "name", "a node's name has 1 to 255 printable bytes", "");
        }
        node.name = name;
    }
    if let Some(data) = section.text("data") {
        if data.is_empty() {
            section.mistake(
                BAD,
                "data",
                "the data folder has no name",
                "such as \"./tollgate-data\"",
            );
        }
        node.data = PathBuf::from(data);
    }
    section.finish();
    node
}

fn host_name(env: &BTreeMap<String, String>) -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let told = told.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    told.or_else(|| env.get("HOSTNAME").cloned()).unwrap_or_else(|| "node".to_owned())
}

pub(super) fn collect(section: Option<Section<'_>>) -> Collect {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut plan = CollectPlan {
        concurrency: 1024,
        shards: cores,
        buffer_bytes_max: 256 * MIB,
        body_bytes_max: 8 * 1024 * MIB,
        attempts_max: 5,
        drain: Duration::from_secs(30),
        spill_over: true,
    };
    let Some(mut section) = section else { return Collect { plan, timeouts: TIMEOUTS } };
    if let Some(n) = section.whole_in("concurrency", 1..=CONCURRENCY_MAX) {
        plan.concurrency = n as usize;
    }
    if let Some(n) = section.whole_in("shards", 1..=SHARDS_MAX) {
        plan.shards = n as usize;
    }
    if let Some(bytes) = section.size("buffer_bytes_max", BUFFER_BYTES_MIN..=BYTES_MAX) {
        plan.buffer_bytes_max = bytes;
    }
    if let Some(bytes) = section.size("body_bytes_max", 1..=BYTES_MAX) {
        plan.body_bytes_max = bytes;
    }
    if let Some(n) = section.whole_in("attempts_max", 1..=ATTEMPTS_MAX) {
        plan.attempts_max = n as u32;
    }
    if let Some(drain) = section.duration("drain", Duration::ZERO..=DRAIN_MAX) {
        plan.drain = drain;
    }
    if let Some(spill_over) = section.flag("spill_over") {
        plan.spill_over = spill_over;
    }
    let timeouts = timeouts(&mut section, TIMEOUTS);
    section.finish();
    Collect { plan, timeouts }
}

/// The table `timeouts` of a section, laid over what counts above it.
pub(super) fn timeouts(section: &mut Section<'_>, above: Timeouts) -> Timeouts {
    let mut timeouts = above;
    let Some(mut table) = section.section("timeouts") else { return timeouts };
    let mut take = |name, slot: &mut Duration| {
        if let Some(duration) = table.duration(name, TIMEOUT_MIN..=TIMEOUT_MAX) {
            *slot = duration;
        }
    };
    take("connect", &mut timeouts.connect);
    take("first_byte", &mut timeouts.first_byte);
    take("stall", &mut timeouts.stall);
    table.finish();
    timeouts
}

pub(super) fn nats(section: Option<Section<'_>>, env: &BTreeMap<String, String>) -> NatsPlan {
    let mut plan = NatsPlan {
        declared: section.is_some(),
        urls: vec!["nats://127.0.0.1:4222".to_owned()],
        prefix: Slug::new("tollgate").expect("a good name"),
        replicas: 1,
        creds: None,
        nkey: None,
        user: None,
        inbox: INBOX.to_owned(),
        tls: None,
        setup: true,
        fetch_bytes_max: None,
        lease: LEASE,
    };
    let Some(mut section) = section else { return plan };
    if let Some(text) = section.text("url") {
        let servers = text.split(',').map(|server| server.trim().to_owned());
        plan.urls = servers.filter(|server| is_server(&section, server)).collect();
    }
    if let Some(prefix) = section.text("prefix") {
        match Slug::new(&prefix) {
            Ok(prefix) => plan.prefix = prefix,
            Err(reason) => section.mistake(Code::BadName, "prefix", reason, ""),
        }
    }
    if let Some(n) = section.whole("replicas") {
        match n {
            1 | 3 | 5 => plan.replicas = n as usize,
            _ => section.mistake(BAD, "replicas", format!("{n} is not 1, 3 or 5"), ""),
        }
    }
    plan.creds = secret_file(&mut section, "creds");
    plan.nkey = secret_file(&mut section, "nkey");
    plan.user = user(&mut section, env);
    if [plan.creds.is_some(), plan.nkey.is_some(), plan.user.is_some()]
        .iter()
        .filter(|is| **is)
        .count()
        > 1
    {
        section.mistake(
            BAD,
            "creds",
            "there is more than one way to log in",
            "give one of creds, nkey, user",
        );
    }
    if let Some(inbox) = section.text("inbox") {
        if is_subject(&inbox) {
            plan.inbox = inbox;
        } else {
            section.mistake(
                BAD,
                "inbox",
                "not the beginning of a subject",
                "such as \"_INBOX_node\"",
            );
        }
    }
    if let Some(setup) = section.flag("setup") {
        plan.setup = setup;
    }
    plan.fetch_bytes_max = section.size("fetch_bytes_max", FETCH_STREAM_BYTES_MIN..=BYTES_MAX);
    if let Some(lease) = section.duration("lease", LEASE_MIN..=LEASE_MAX) {
        if lease.subsec_nanos() > 0 {
            section.mistake(BAD, "lease", "a lease has whole seconds", "such as \"4s\"");
        }
        plan.lease = lease;
    }
    plan.tls = section.section("tls").map(nats_tls);
    section.finish();
    plan
}

/// Where answers come, as every client has it.
const INBOX: &str = "_INBOX";
/// Longest beginning of their subjects, and longest name of a user, in bytes.
const INBOX_BYTES_MAX: usize = 128;
const USER_BYTES_MAX: usize = 255;

fn secret_file(section: &mut Section<'_>, name: &'static str) -> Option<PathBuf> {
    let text = section.text(name)?;
    match text.strip_prefix("file:") {
        Some(path) if !path.is_empty() => Some(PathBuf::from(path)),
        _ => {
            let message = "this comes from a file; its value is not shown";
            section.mistake(Code::InlineSecret, name, message, "file:PATH");
            None
        }
    }
}

fn user(
    section: &mut Section<'_>,
    env: &BTreeMap<String, String>,
) -> Option<(String, SecretString)> {
    let (name, with_password) = (section.text("user"), section.has("password"));
    let password = secret(section, "password", env);
    let name = match name {
        Some(name) if name.is_empty() || name.len() > USER_BYTES_MAX => {
            section.mistake(BAD, "user", "a user's name has 1 to 255 bytes", "");
            return None;
        }
        name if name.is_some() != with_password => {
            section.mistake(
                BAD,
                "user",
                "a user and a password go together",
                "give both, or neither",
            );
            return None;
        }
        name => name?,
    };
    Some((name, password?))
}

/// Whether tokens may stand behind it.
fn is_subject(text: &str) -> bool {
    let is_token = |token: &str| {
        let good = |c: char| c.is_ascii_graphic() && c != '*' && c != '>';
        !token.is_empty() && token.chars().all(good)
    };
    text.len() <= INBOX_BYTES_MAX && !text.starts_with('$') && text.split('.').all(is_token)
}

fn is_server(section: &Section<'_>, server: &str) -> bool {
    match Url::parse(server) {
        Ok(url) if url.password().is_some() || !url.username().is_empty() => section.mistake(
            Code::InlineSecret,
            "url",
            "the URL holds a user or password",
            "leave it out: creds = \"file:PATH\", or user = \"NAME\" and password = \"env:NAME\"",
        ),
        Ok(url) if ["nats", "tls"].contains(&url.scheme()) && url.has_host() => return true,
        Ok(url) if ["ws", "wss"].contains(&url.scheme()) => section.mistake(
            Code::NotSupported,
            "url",
            "NATS over WebSocket is not supported",
            "such as \"nats://127.0.0.1:4222\"",
        ),
        _ => section.mistake(
            Code::BadUrl,
            "url",
            "not the URL of a NATS server",
            "such as \"nats://127.0.0.1:4222\"",
        ),
    }
    false
}

fn nats_tls(mut tls: Section<'_>) -> NatsTls {
    let mut file = |name| {
        let path = tls.text(name)?;
        if path.contains("-----BEGIN") {
            tls.mistake(Code::InlineSecret, name, "this is the path of a file", "");
            return None;
        }
        Some(PathBuf::from(path))
    };
    let files = NatsTls { ca: file("ca"), cert: file("cert"), key: file("key") };
    if files.cert.is_some() != files.key.is_some() {
        tls.mistake(BAD, "cert", "a certificate and its key go together", "give both, or neither");
    }
    tls.finish();
    files
}

/// Where `serve` answers HTTP.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// Says that it does not.
const LISTEN_OFF: &str = "off";

/// Shortest token: nobody guesses it.
const TOKEN_BYTES_MIN: usize = 16;

pub(super) fn http(
    section: Option<Section<'_>>,
    env: &BTreeMap<String, String>,
) -> Option<HttpPlan> {
    let mut plan = Some(HttpPlan { listen: LISTEN, token: None });
    let Some(mut section) = section else { return plan };
    let token = secret(&mut section, "token", env);
    if token.as_ref().is_some_and(|token| token.expose_secret().len() < TOKEN_BYTES_MIN) {
        let message =
            format!("a token has {TOKEN_BYTES_MIN} bytes at least, so that nobody guesses it");
        section.mistake(
            Code::BadSecret,
            "token",
            message,
            "such as `openssl rand -hex 24` makes one",
        );
    }
    if let Some(plan) = &mut plan {
        plan.token = token;
    }
    if let Some(text) = section.text("listen") {
        match text.parse() {
            Ok(listen) => {
                if let Some(plan) = &mut plan {
                    plan.listen = listen;
                }
            }
            Err(_) if text == LISTEN_OFF => plan = None,
            Err(_) => {
                let message = format!("`{}` is not an address with a port", preview(&text));
                section.mistake(BAD, "listen", message, "such as \"127.0.0.1:9464\", or \"off\"");
            }
        }
    }
    section.finish();
    plan
}
