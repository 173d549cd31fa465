//! What lines of logs say of nodes, their shards, actors, platforms and accounts. Bounded, whatever is read.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Nodes, and accounts and actors of all nodes, that are kept; lines of further ones are only counted.
const NODES_MAX: usize = 256;
const NAMES_MAX: usize = 20_000;
/// Platforms of a node, shards of it, and names of one kind (codes, outcomes, events).
const PLATFORMS_MAX: usize = 256;
const SHARDS_MAX: usize = 1025;
const KINDS_MAX: usize = 64;
/// Longest text that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// The last minute.
const MINUTE: i64 = 60;

/// One line of a node's log: what of it is looked at.
#[derive(Debug, Deserialize)]
struct Line<'l> {
    timestamp: Timestamp,
    #[serde(borrow)]
    level: Cow<'l, str>,
    #[serde(borrow)]
    event: Cow<'l, str>,
    #[serde(borrow, default)]
    node: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    version: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    config: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    platform: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    account: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    budget: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    limit: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    code: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    because: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    scope: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    outcome: Option<Cow<'l, str>>,
    shard: Option<u64>,
    shards: Option<u64>,
    wait_ms: Option<i64>,
    away_ms: Option<u64>,
    restart_in_ms: Option<u64>,
    held: Option<u64>,
    bytes: Option<u64>,
    left_out: Option<u64>,
}

/// All that was read.
#[derive(Debug, Default, Serialize)]
pub(super) struct Seen {
    /// Lines of nodes.
    pub(super) lines: u64,
    /// Lines that are none.
    pub(super) foreign: u64,
    /// Lines that were too long to be looked at.
    pub(super) too_long: u64,
    /// Lines of nodes, actors and accounts beyond those that are kept.
    pub(super) beyond: u64,
    pub(super) nodes: Vec<Node>,
    /// Whose line is the next of a source.
    #[serde(skip)]
    sources: HashMap<String, usize>,
    #[serde(skip)]
    names: usize,
}

/// One node.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    /// Nothing: the log begins after its start.
    pub(super) name: Option<String>,
    /// The file, and what stands before its lines.
    pub(super) source: String,
    pub(super) version: Option<String>,
    pub(super) config: Option<String>,
    pub(super) starts: u64,
    pub(super) state: State,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) lines: u64,
    pub(super) warnings: u64,
    pub(super) errors: u64,
    /// Lines that the node itself left out.
    pub(super) left_out: u64,
    /// Partitions that it holds.
    pub(super) partitions: Option<u64>,
    pub(super) nats: Away,
    pub(super) store: Away,
    pub(super) shards: Vec<Shard>,
    pub(super) platforms: BTreeMap<String, Platform>,
    /// How often each event was told.
    pub(super) events: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Working,
    Draining,
    Ended,
}

/// Something that comes and goes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Away {
    pub(super) times: u64,
    pub(super) away_ms: u64,
    /// It is away since then.
    pub(super) since: Option<Timestamp>,
    pub(super) reason: Option<String>,
}

/// A thread of a node, and what it supervises.
#[derive(Debug, Default, Serialize)]
pub(super) struct Shard {
    /// Nothing: the line of its death is not in the log.
    pub(super) shard: Option<u64>,
    /// It died, and its process with it.
    pub(super) died: bool,
    pub(super) collectors: Deaths,
    /// `throttle PLATFORM/ACCOUNT` and `budget PLATFORM/BUDGET`: those that died.
    pub(super) actors: BTreeMap<String, Deaths>,
}

/// Deaths of one actor, or of the collectors of one shard.
#[derive(Debug, Default, Serialize)]
pub(super) struct Deaths {
    pub(super) deaths: u64,
    pub(super) restarts: u64,
    /// It died so often that it rests for longer.
    pub(super) resting: bool,
    pub(super) last: Option<Timestamp>,
    pub(super) restart_in_ms: Option<u64>,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Platform {
    pub(super) done: u64,
    pub(super) done_bytes: u64,
    pub(super) dead: BTreeMap<String, u64>,
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) drift: BTreeMap<String, u64>,
    /// Accounts that were held, or whose calls failed.
    pub(super) accounts: BTreeMap<String, Account>,
    #[serde(skip)]
    minute: VecDeque<(i64, u64)>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Account {
    pub(super) holds: u64,
    pub(super) held_until: Option<Timestamp>,
    pub(super) because: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) failed: u64,
    pub(super) dead: u64,
}

impl Seen {
    /// Takes one line of a source.
    pub(super) fn take(&mut self, source: &str, line: &[u8]) {
        let Some(at) = line.iter().position(|byte| *byte == b'{') else {
            self.foreign += u64::from(!line.trim_ascii().is_empty());
            return;
        };
        let (before, object) = line.split_at(at);
        let Ok(line) = serde_json::from_slice::<Line<'_>>(object.trim_ascii_end()) else {
            self.foreign += 1;
            return;
        };
        self.lines += 1;
        let source = source_of(source, before);
        let Some(at) = self.node_of(source, &line) else {
            self.beyond += 1;
            return;
        };
        self.tell(at, &line);
    }

    fn node_of(&mut self, source: String, line: &Line<'_>) -> Option<usize> {
        let current = self.sources.get(&source).copied();
        if line.event != "node_started" {
            return current.or_else(|| self.add(source, line));
        }
        let name = line.node.as_deref().map(kept);
        // The lines before it, of the same process, did not know its name; those of a process before have another end.
        let known = self.nodes.iter().position(|node| {
            node.source == source && (node.name == name || node.name.is_none() && node.starts == 0)
        });
        let at = match known {
            Some(at) => at,
            None => self.add(source.clone(), line)?,
        };
        self.sources.insert(source, at);
        let node = &mut self.nodes[at];
        node.name = name;
        node.version = line.version.as_deref().map(kept);
        node.config = line.config.as_deref().map(kept);
        node.starts += 1;
        node.state = State::Working;
        for shard in 0..line.shards.unwrap_or(0).min(SHARDS_MAX as u64) {
            node.shard(Some(shard));
        }
        Some(at)
    }

    fn add(&mut self, source: String, line: &Line<'_>) -> Option<usize> {
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        self.nodes.push(Node::new(source.clone(), line.timestamp));
        self.sources.insert(source, self.nodes.len() - 1);
        Some(self.nodes.len() - 1)
    }

    fn tell(&mut self, at: usize, line: &Line<'_>) {
        let room = self.names < NAMES_MAX;
        let added = self.nodes[at].tell(line, room);
        match added {
            Added::Nothing => {}
            Added::Name => self.names += 1,
            Added::NoRoom => self.beyond += 1,
        }
    }
}

/// What a line has brought that was not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Added {
    Nothing,
    Name,
    NoRoom,
}

/// The source of a line by its file and by what stands before the object, where that is the same for all lines of a
/// node: the last word that is no time.
fn source_of(file: &str, before: &[u8]) -> String {
    let before = String::from_utf8_lossy(before);
    let word = before
        .split_whitespace()
        .rev()
        .map(|word| word.trim_end_matches(['|', ':']))
        .find(|word| !word.is_empty() && word.parse::<Timestamp>().is_err());
    match word {
        None => file.to_owned(),
        Some(word) if file.is_empty() => kept(word),
        Some(word) => format!("{file} {}", kept(word)),
    }
}

/// As much of a text as is kept.
fn kept(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut kept = text.to_owned();
    kept.truncate(end);
    kept
}

fn count(of: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = of.get_mut(name) {
        *count += 1;
    } else if of.len() < KINDS_MAX {
        of.insert(kept(name), 1);
    }
}

impl Away {
    fn went(&mut self, at: Timestamp, reason: Option<&str>) {
        self.times += u64::from(self.since.is_none());
        self.since.get_or_insert(at);
        self.reason = reason.map(kept);
    }

    fn came(&mut self, away_ms: Option<u64>) {
        if self.since.take().is_some() {
            self.away_ms += away_ms.unwrap_or(0);
        }
        self.reason = None;
    }
}

impl Node {
    fn new(source: String, first: Timestamp) -> Self {
        Self {
            name: None,
            source,
            version: None,
            config: None,
            starts: 0,
            state: State::Working,
            first,
            last: first,
            lines: 0,
            warnings: 0,
            errors: 0,
            left_out: 0,
            partitions: None,
            nats: Away::default(),
            store: Away::default(),
            shards: Vec::new(),
            platforms: BTreeMap::new(),
            events: BTreeMap::new(),
        }
    }

    fn shard(&mut self, number: Option<u64>) -> &mut Shard {
        let known = self.shards.iter().position(|shard| shard.shard == number);
        let at = known.unwrap_or_else(|| {
            // A number that no node has is nobody's.
            let number = number.filter(|_| self.shards.len() < SHARDS_MAX);
            self.shards.push(Shard { shard: number, ..Shard::default() });
            self.shards.len() - 1
        });
        &mut self.shards[at]
    }

    fn platform(&mut self, line: &Line<'_>) -> Option<&mut Platform> {
        let name = kept(line.platform.as_deref()?);
        if !self.platforms.contains_key(&name) && self.platforms.len() >= PLATFORMS_MAX {
            return None;
        }
        Some(self.platforms.entry(name).or_default())
    }

    fn tell(&mut self, line: &Line<'_>, room: bool) -> Added {
        self.lines += 1;
        self.last = self.last.max(line.timestamp);
        match &*line.level {
            "WARN" => self.warnings += 1,
            "ERROR" => self.errors += 1,
            _ => {}
        }
        count(&mut self.events, &line.event);
        let reason = line.reason.as_deref();
        match &*line.event {
            "config_reloaded" => self.config = line.config.as_deref().map(kept),
            "drain_started" => self.state = State::Draining,
            "drained" => self.state = State::Ended,
            "nats_away" => self.nats.went(line.timestamp, reason),
            "nats_connected" => self.nats.came(line.away_ms),
            "store_away" => self.store.went(line.timestamp, reason),
            "store_back" => self.store.came(line.away_ms),
            "partitions_gained" | "partitions_given_up" => self.partitions = line.held,
            "lines_left_out" => self.left_out += line.left_out.unwrap_or(0),
            "actor_started" if line.kind.as_deref() == Some("shard") => {
                self.shard(line.shard).died = false;
            }
            "actor_died" | "actor_restarted" => return self.supervised(line, room),
            "fetch_done" => {
                let at = line.timestamp.as_second();
                if let Some(platform) = self.platform(line) {
                    platform.done += 1;
                    platform.done_bytes += line.bytes.unwrap_or(0);
                    platform.in_minute(at);
                }
            }
            "limit_drift" => {
                let (limit, kind) = (line.limit.as_deref(), line.kind.as_deref());
                let of = [limit.unwrap_or(""), kind.unwrap_or("")].join(" ");
                if let Some(platform) = self.platform(line) {
                    count(&mut platform.drift, of.trim());
                }
            }
            "fetch_dead" | "attempt_failed" | "hold" | "breaker_closed" => {
                return self.troubled(line, room);
            }
            _ => {}
        }
        Added::Nothing
    }

    /// An actor died, or another took its place.
    fn supervised(&mut self, line: &Line<'_>, room: bool) -> Added {
        let died = line.event == "actor_died";
        let platform = line.platform.as_deref().unwrap_or("");
        let name = match line.kind.as_deref() {
            Some("shard") => {
                self.shard(line.shard).died |= died;
                return Added::Nothing;
            }
            Some("collector") => None,
            Some(kind) => {
                let of = line.account.as_deref().or(line.budget.as_deref()).unwrap_or("");
                Some(kept(&format!("{kind} {platform}/{of}")))
            }
            None => return Added::Nothing,
        };
        let mut added = Added::Nothing;
        let deaths = match name {
            None => &mut self.shard(line.shard).collectors,
            Some(name) => {
                // The line of a restart does not say where: where it died.
                let place = self.shards.iter().position(|shard| shard.actors.contains_key(&name));
                let number = place.map_or(line.shard, |at| self.shards[at].shard);
                let shard = self.shard(number);
                if !shard.actors.contains_key(&name) {
                    if !room {
                        return Added::NoRoom;
                    }
                    added = Added::Name;
                }
                shard.actors.entry(name).or_default()
            }
        };
        if died {
            deaths.deaths += 1;
            deaths.resting = line.level == "ERROR";
            deaths.last = Some(line.timestamp);
            deaths.restart_in_ms = line.restart_in_ms;
            deaths.reason = line.reason.as_deref().map(kept);
        } else {
            deaths.restarts += 1;
            deaths.resting = false;
        }
        added
    }

    /// A fetch or an account is not well, or is so again.
    fn troubled(&mut self, line: &Line<'_>, room: bool) -> Added {
        let event = &*line.event;
        let Some(platform) = self.platform(line) else { return Added::Nothing };
        match event {
            "fetch_dead" => count(&mut platform.dead, line.code.as_deref().unwrap_or("")),
            "attempt_failed" => count(&mut platform.failed, line.outcome.as_deref().unwrap_or("")),
            _ => {}
        }
        let Some(name) = line.account.as_deref().map(kept) else { return Added::Nothing };
        let mut added = Added::Nothing;
        if !platform.accounts.contains_key(&name) {
            if event == "breaker_closed" {
                return Added::Nothing;
            }
            if !room {
                return Added::NoRoom;
            }
            added = Added::Name;
        }
        let account = platform.accounts.entry(name).or_default();
        match event {
            "fetch_dead" => account.dead += 1,
            "attempt_failed" => account.failed += 1,
            "hold" => {
                account.holds += 1;
                let wait = jiff::SignedDuration::from_millis(line.wait_ms.unwrap_or(0).max(0));
                let until = line.timestamp.checked_add(wait).unwrap_or(Timestamp::MAX);
                account.held_until = account.held_until.max(Some(until));
                account.because = line.because.as_deref().map(kept);
                account.scope = line.scope.as_deref().map(kept);
            }
            _ => account.held_until = None,
        }
        added
    }
}

impl Platform {
    fn in_minute(&mut self, second: i64) {
        match self.minute.back_mut() {
            // Threads write their lines a little out of order.
            Some((last, count)) if second <= *last => *count += 1,
            _ => self.minute.push_back((second, 1)),
        }
        while self.minute.len() > MINUTE as usize {
            self.minute.pop_front();
        }
    }

    /// Fetches done in the minute before a moment.
    pub(super) fn done_in_minute(&self, before: Timestamp) -> u64 {
        let from = before.as_second() - MINUTE;
        self.minute.iter().filter(|(second, _)| *second > from).map(|(_, count)| count).sum()
    }
}
