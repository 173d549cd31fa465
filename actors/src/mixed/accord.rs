//! What is seen of other nodes, and whose limits are needed for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Limits;
use crate::nats::session::SessionId;

/// A session that was not heard of for so long is over, while this node's own is renewed: longer than the key of one
/// lives without a renewal, unless its lease is longer than that.
pub(crate) const SILENT_FOR: Duration = Duration::from_secs(6);
/// Configurations beside this node's own; the limits of further ones are not in force here.
pub(crate) const OTHERS_MAX: usize = 16;
/// What could not be had is not asked for again before this has passed.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Sessions that are followed.
const SESSIONS_MAX: usize = 1024;

/// What a session tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Its node's name.
    pub(crate) node: String,
    /// The hash of its own limits.
    pub(crate) config: String,
    /// Whose limits are in force there, too; nothing: it is of a version that knows of none but its own.
    pub(crate) heeds: Option<Vec<String>>,
    /// Whether it takes accounts.
    pub(crate) takes: bool,
}

#[derive(Debug)]
struct Seen {
    heard: Heard,
    at: Instant,
    /// The hash of what is in force for it: the last that it named and that could be had.
    in_force: Option<String>,
}

/// Limits that are not known, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unknown {
    pub(crate) node: String,
    pub(crate) config: String,
    pub(crate) reason: String,
}

/// What must be in force beside this node's own limits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needed {
    /// By their hashes, in order.
    pub(crate) limits: BTreeMap<String, Arc<Limits>>,
    /// Nodes that have others than this one, in order.
    pub(crate) nodes: BTreeSet<String>,
    pub(crate) unknown: BTreeSet<Unknown>,
}

/// The other nodes, as far as their limits go.
#[derive(Debug)]
pub(crate) struct Others {
    own: String,
    /// What this node named before and others may still see of it, by its hash: in force here as long.
    kept: BTreeMap<String, Arc<Limits>>,
    sessions: BTreeMap<SessionId, Seen>,
    /// What was found of each hash, and when.
    known: BTreeMap<String, (Instant, Result<Arc<Limits>, String>)>,
}

impl Others {
    /// Nobody yet, for a node whose own limits have that hash.
    pub(crate) fn new(own: String) -> Self {
        Self { own, kept: BTreeMap::new(), sessions: BTreeMap::new(), known: BTreeMap::new() }
    }

    /// The hash of this node's own limits.
    pub(crate) fn own(&self) -> &str {
        &self.own
    }

    /// This node's own limits are others now. Its session still names `named`, which stay in force until [`settled`]
    /// and, from here on, for each session that has them.
    ///
    /// [`settled`]: Others::settled
    pub(crate) fn own_is(&mut self, own: String, named: (String, Arc<Limits>)) {
        self.own = own;
        let (hash, limits) = named;
        self.known.insert(hash.clone(), (Instant::now(), Ok(Arc::clone(&limits))));
        // As many as are heeded; further ones were named for a moment only.
        if self.kept.len() < OTHERS_MAX {
            self.kept.insert(hash, limits);
        }
    }

    /// Whether limits that this node named before are in force because of that alone.
    pub(crate) fn keeps(&self) -> bool {
        !self.kept.is_empty()
    }

    /// This node's session names its own limits, and whoever showed itself before that is known.
    pub(crate) fn settled(&mut self) {
        self.kept.clear();
    }

    /// A session showed itself.
    pub(crate) fn hear(&mut self, id: SessionId, heard: Heard, at: Instant) {
        let room = self.sessions.len() < SESSIONS_MAX;
        match self.sessions.get_mut(&id) {
            Some(seen) if seen.at <= at => (seen.heard, seen.at) = (heard, at),
            None if room => {
                self.sessions.insert(id, Seen { heard, at, in_force: None });
            }
            Some(_) | None => {}
        }
    }

    /// A session has ended for certain.
    pub(crate) fn ended(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    /// Only these sessions live: the server that keeps them says so.
    pub(crate) fn only(&mut self, live: &BTreeSet<SessionId>) {
        self.sessions.retain(|id, _| live.contains(id));
    }

    /// Forgets who was silent for so long. Only to be asked while this node's own session is renewed: in an election
    /// of the server nobody is heard of.
    pub(crate) fn forget(&mut self, silent_for: Duration) {
        self.sessions.retain(|_, seen| seen.at.elapsed() < silent_for);
        // What nobody has named lately may be another's next time, read anew then.
        let named = |hash: &String| {
            let mut sessions = self.sessions.values();
            sessions.any(|seen| seen.heard.config == *hash || seen.in_force.as_ref() == Some(hash))
        };
        self.known.retain(|hash, _| named(hash));
    }

    /// Hashes whose limits are to be had.
    pub(crate) fn wanted(&self) -> BTreeSet<String> {
        let named = self.sessions.values().filter(|seen| seen.heard.heeds.is_some());
        let named = named.map(|seen| &seen.heard.config).filter(|hash| **hash != self.own);
        let asks = |hash: &&String| match self.known.get(*hash) {
            None => true,
            Some((_, Ok(_))) => false,
            Some((at, Err(_))) => at.elapsed() >= ASK_AGAIN,
        };
        named.filter(asks).take(OTHERS_MAX).cloned().collect()
    }

    /// What was found of a hash.
    pub(crate) fn learn(&mut self, hash: String, limits: Result<Arc<Limits>, String>) {
        self.known.insert(hash, (Instant::now(), limits));
    }

    /// What has to be in force now.
    pub(crate) fn needed(&mut self) -> Needed {
        let mut needed = Needed::default();
        let most = OTHERS_MAX + self.kept.len();
        for (hash, limits) in self.kept.iter().filter(|(hash, _)| **hash != self.own) {
            needed.limits.insert(hash.clone(), Arc::clone(limits));
        }
        for seen in self.sessions.values_mut() {
            let Heard { node, config, heeds, takes } = &seen.heard;
            if *config == self.own {
                // Should this node have others before it is known what that one has next.
                seen.in_force = Some(self.own.clone());
                continue;
            }
            needed.nodes.insert(node.clone());
            let mut unknown = |reason: &str| {
                let (node, config, reason) = (node.clone(), config.clone(), reason.to_owned());
                needed.unknown.insert(Unknown { node, config, reason });
            };
            match self.known.get(config) {
                _ if heeds.is_none() => {
                    // It is about to tell, unless it works already.
                    if *takes {
                        unknown("it is of an earlier version, which does not tell them");
                    }
                    continue;
                }
                Some((_, Ok(_))) => seen.in_force = Some(config.clone()),
                Some((_, Err(reason))) => unknown(reason),
                None => unknown("they have not been found yet"),
            }
            // What it had before stays in force until it is known what it has now.
            let Some(hash) = seen.in_force.as_ref().filter(|hash| **hash != self.own) else {
                continue;
            };
            let Some((_, Ok(limits))) = self.known.get(hash) else { continue };
            if needed.limits.len() < most || needed.limits.contains_key(hash) {
                needed.limits.insert(hash.clone(), Arc::clone(limits));
            } else {
                unknown("there are too many different ones");
            }
        }
        needed
    }

    /// Nodes that do not go by this one's limits yet, of those that tell.
    pub(crate) fn heedless(&self) -> BTreeSet<String> {
        let heedless = self.sessions.values().filter(|seen| {
            let heeds = |heeds: &Vec<String>| !heeds.contains(&self.own);
            seen.heard.config != self.own && seen.heard.heeds.as_ref().is_some_and(heeds)
        });
        heedless.map(|seen| seen.heard.node.clone()).collect()
    }
}
