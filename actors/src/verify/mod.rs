//! Whether what is stored is what manifests say: every object is read and hashed, and every object is looked for in a
//! manifest.
//!
//! Works on the store alone, while nodes work on it or not. It holds what it cannot resolve yet: objects whose manifest
//! it has not read, and objects that a manifest named before the store listed them. Stores list a folder in one go, and
//! a manifest lies beside its objects, so that is little; where it becomes more than [`OPEN_MAX`] it says so and ends.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use serde::Serialize;
use tokio::sync::Semaphore;
use tollgate_protos::{Manifest, Object};

use crate::codes::Code;
use crate::pages::{PageList, is_list, list_key};
use crate::store::{Codec, Found, LINES_FOLDER, SinkError, Store, Written};

#[cfg(test)]
mod tests;

/// Most keys that are held because they are not resolved yet.
pub const OPEN_MAX: usize = 1_000_000;
/// Manifests that are looked at at once.
const MANIFESTS_AT_ONCE: usize = 64;
/// Objects of one manifest that are looked at at once.
const OBJECTS_AT_ONCE: usize = 16;
/// How often a manifest is looked at anew that has changed meanwhile.
const ROUNDS_MAX: u32 = 3;
const MANIFEST: &str = "_manifest.json";

/// What is verified, and how.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Below which key; the root: everything.
    pub prefix: Path,
    /// Whether bodies are decompressed and hashed too, where a manifest has the hash of what is stored.
    pub deep: bool,
    /// An object that is younger than this, or than `now`, may belong to a fetch that is underway: one in no manifest, and
    /// one that is not what its manifest says, which is about to be replaced.
    pub grace: Duration,
    /// Now.
    pub now: Timestamp,
    /// Below these keys are no objects of fetches: tables that were made of them.
    pub others: Vec<Path>,
    /// Objects that are read at once, 1 or more.
    pub at_once: usize,
}

/// What is wrong with something that is stored, or should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// A manifest names it, and it is not there.
    Missing,
    /// It is shorter than its manifest says.
    Torn,
    /// It is not what its manifest says.
    Different,
    /// It is in no manifest.
    Orphaned,
    /// A manifest that cannot be read.
    Unreadable,
    /// A manifest of nothing: none of what it names is there, or it names nothing and does not say why.
    Nothing,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::Torn => "torn",
            Self::Different => "different",
            Self::Orphaned => "orphaned",
            Self::Unreadable => "unreadable",
            Self::Nothing => "nothing",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// Of which object or manifest.
    pub key: String,
    /// The manifest that names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// A sentence.
    pub reason: String,
}

/// What was found, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub verified: bool,
    /// Manifests that were read.
    pub manifests: u64,
    /// Objects that manifests name and that were read and hashed.
    pub objects: u64,
    /// Their bytes as stored.
    pub stored_bytes: u64,
    /// Findings of each kind.
    pub missing: u64,
    /// See [`Fault::Torn`].
    pub torn: u64,
    /// See [`Fault::Different`].
    pub different: u64,
    /// See [`Fault::Orphaned`].
    pub orphaned: u64,
    /// See [`Fault::Unreadable`].
    pub unreadable: u64,
    /// See [`Fault::Nothing`].
    pub nothing: u64,
    /// Objects in no manifest, or not as theirs says, that are so young that they may belong to a fetch that is underway.
    pub underway: u64,
}

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No key begins so.
    #[error("no object can have a key that begins with `{text}`")]
    BadPrefix {
        /// What was typed.
        text: String,
        /// Why not.
        #[source]
        source: object_store::path::Error,
    },
    /// The store did not answer, or does not allow it.
    #[error("{}: verify `{prefix}`", Code::StoreUnavailable)]
    Store {
        /// What was verified.
        prefix: Path,
        /// What the store said.
        #[source]
        source: Box<SinkError>,
    },
    /// More was open than is held.
    #[error(
        "{}: more than {OPEN_MAX} objects below `{prefix}` are in no manifest that was read so far: verify prefixes \
         below it one by one",
        Code::TooManyOpen
    )]
    TooMany {
        /// What was verified.
        prefix: Path,
    },
}

/// A prefix as it is typed, as [`Asked`] has it: whole parts of keys, with or without a slash at either end.
///
/// # Errors
/// [`VerifyError::BadPrefix`].
pub fn prefix_of(text: &str) -> Result<Path, VerifyError> {
    let bad = |source| VerifyError::BadPrefix { text: crate::ids::preview(text), source };
    Path::parse(text.trim_matches('/')).map_err(bad)
}

/// Reads, hashes and compares everything below a prefix. Findings are told as they come; `moves` hears how far it is,
/// often.
///
/// # Errors
/// [`VerifyError`]: what was told until then holds.
pub async fn verify(
    store: &Store,
    asked: &Asked,
    tell: &mut dyn FnMut(Finding),
    moves: &mut dyn FnMut(&Report),
) -> Result<Report, VerifyError> {
    let desk = Desk {
        store,
        asked,
        places: Semaphore::new(asked.at_once.max(1)),
        open: RefCell::new(Open::default()),
        tell: RefCell::new(tell),
    };
    let failed =
        |source| VerifyError::Store { prefix: asked.prefix.clone(), source: Box::new(source) };
    let mut listing = store.listed(&asked.prefix);
    let mut manifests = FuturesUnordered::new();
    let mut ended = false;
    loop {
        tokio::select! {
            listed = listing.next(), if !ended && manifests.len() < MANIFESTS_AT_ONCE => match listed {
                None => ended = true,
                Some(listed) => {
                    let listed = listed.map_err(failed)?;
                    let is_other = asked.others.iter().any(|at| listed.key.prefix_matches(at));
                    match if is_other { Kind::Own } else { kind(&listed.key) } {
                        Kind::Manifest => manifests.push(desk.manifest(listed.key)),
                        Kind::Object => desk.open.borrow_mut().listed(listed),
                        Kind::Own => {}
                    }
                }
            },
            Some(done) = manifests.next(), if !manifests.is_empty() => done.map_err(failed)?,
            else => break,
        }
        let open = desk.open.borrow();
        moves(&open.report);
        if open.waits.len().max(open.named.len()) > OPEN_MAX {
            return Err(VerifyError::TooMany { prefix: asked.prefix.clone() });
        }
    }
    drop(manifests);
    desk.orphans();
    let mut report = desk.open.into_inner().report;
    let wrong = report.missing + report.torn + report.different + report.orphaned;
    report.verified = wrong + report.unreadable + report.nothing == 0;
    Ok(report)
}

/// What is not resolved yet, and what has been.
#[derive(Default)]
struct Open {
    /// Objects that no manifest has named yet.
    waits: HashMap<Path, Timestamp>,
    /// Keys that a manifest names and that were not listed yet.
    named: HashSet<Path>,
    report: Report,
}

impl Open {
    fn listed(&mut self, listed: Written) {
        if !self.named.remove(&listed.key) {
            self.waits.insert(listed.key, listed.written);
        }
    }

    /// All that one look at a manifest has named.
    fn name_all(&mut self, round: &mut Round) {
        round.names.drain(..).for_each(|key| self.name(key));
        for key in round.gone.drain(..) {
            // The store will not list it.
            self.waits.remove(&key);
        }
    }

    fn name(&mut self, key: Path) {
        if self.waits.remove(&key).is_none() {
            self.named.insert(key);
        }
    }
}

enum Kind {
    Manifest,
    Object,
    /// Notes of freshness, lines about objects, probes: of no manifest.
    Own,
}

fn kind(key: &Path) -> Kind {
    let name = key.filename().unwrap_or_default();
    let parts: Vec<_> = key.parts().collect();
    let first = parts.first().map_or("", |part| part.as_ref());
    let is_own = match parts.len() {
        1 => first.starts_with("_probe-"),
        2 if first == LINES_FOLDER => name.starts_with("_probe-"),
        2 => first == crate::fresh::FOLDER,
        // An account may be called so.
        3 => first == LINES_FOLDER && key.extension() == Some("jsonl"),
        _ => false,
    };
    if is_own {
        Kind::Own
    } else if name == MANIFEST {
        Kind::Manifest
    } else if name == crate::recipe::OWNER {
        Kind::Own
    } else {
        Kind::Object
    }
}

struct Desk<'a> {
    store: &'a Store,
    asked: &'a Asked,
    places: Semaphore,
    open: RefCell<Open>,
    tell: RefCell<&'a mut dyn FnMut(Finding)>,
}

/// What one look at a manifest has found.
#[derive(Default)]
struct Round {
    names: Vec<Path>,
    /// Named, and not there.
    gone: Vec<Path>,
    findings: Vec<Finding>,
    underway: u64,
    objects: u64,
    stored_bytes: u64,
}

impl Desk<'_> {
    fn finding(&self, finding: Finding) {
        let report = &mut self.open.borrow_mut().report;
        *match finding.fault {
            Fault::Missing => &mut report.missing,
            Fault::Torn => &mut report.torn,
            Fault::Different => &mut report.different,
            Fault::Orphaned => &mut report.orphaned,
            Fault::Unreadable => &mut report.unreadable,
            Fault::Nothing => &mut report.nothing,
        } += 1;
        (self.tell.borrow_mut())(finding);
    }

    /// Looks at all that a manifest names. One that is replaced meanwhile, because its fetch is collected again, is
    /// looked at anew.
    async fn manifest(&self, key: Path) -> Result<(), SinkError> {
        let mut rounds = 0;
        let Some(mut text) = self.text(&key).await? else { return Ok(()) };
        let mut round = loop {
            let mut round = self.round(&key, &text).await?;
            rounds += 1;
            if round.findings.is_empty() || rounds >= ROUNDS_MAX {
                break round;
            }
            match self.text(&key).await? {
                Some(now) if now == text => break round,
                Some(now) => text = now,
                // Its objects are being replaced.
                None => {
                    self.open.borrow_mut().name_all(&mut round);
                    return Ok(());
                }
            }
        };
        {
            let mut open = self.open.borrow_mut();
            open.report.manifests += 1;
            open.report.objects += round.objects;
            open.report.stored_bytes += round.stored_bytes;
            open.report.underway += round.underway;
            open.name_all(&mut round);
        }
        round.findings.into_iter().for_each(|finding| self.finding(finding));
        Ok(())
    }

    /// A manifest's bytes; of one that is too large to be one, none.
    async fn text(&self, key: &Path) -> Result<Option<Bytes>, SinkError> {
        let _place = self.places.acquire().await;
        match self.store.get(key).await {
            Err(SinkError::TooLarge { .. }) => Ok(Some(Bytes::new())),
            other => other,
        }
    }

    async fn round(&self, key: &Path, text: &[u8]) -> Result<Round, SinkError> {
        let mut round = Round::default();
        let of =
            |fault, reason: String| Finding { fault, key: key.to_string(), manifest: None, reason };
        let manifest = match serde_json::from_slice::<Manifest>(text) {
            Ok(manifest) if manifest.version == 1 => manifest,
            Ok(manifest) => {
                let reason = format!("its form is {}, known is 1", manifest.version);
                round.findings.push(of(Fault::Unreadable, reason));
                return Ok(round);
            }
            Err(error) => {
                let reason = format!("it is no manifest: {error}");
                round.findings.push(of(Fault::Unreadable, reason));
                return Ok(round);
            }
        };
        let done = &manifest.done;
        let unfinished = manifest.queue.is_empty() && done.incomplete;
        if done.objects.is_empty() && done.lists == 0 {
            if done.split_into.is_empty() && !unfinished {
                round.findings.push(of(Fault::Nothing, "it names no object".to_owned()));
            }
            return Ok(round);
        }
        let mut there = 0;
        if done.lists == 0 {
            there += self.objects(key, &done.objects, &mut round).await?;
        }
        for number in 1..=done.lists {
            let list = list_key(key, number);
            let Some(objects) = self.list(&list).await? else {
                let reason = "a list of the manifest's pages is not there, or cannot be read";
                let finding = of(Fault::Missing, reason.to_owned());
                let (key, manifest) = (list.to_string(), Some(key.to_string()));
                round.findings.push(Finding { key, manifest, ..finding });
                continue;
            };
            round.names.push(list);
            there += self.objects(key, &objects, &mut round).await?;
        }
        if there == 0 {
            let reason = "nothing of what it names is there".to_owned();
            round.findings.push(of(Fault::Nothing, reason));
        }
        Ok(round)
    }

    async fn list(&self, key: &Path) -> Result<Option<Vec<Object>>, SinkError> {
        let text = self.text(key).await?;
        let list = text.and_then(|text| serde_json::from_slice::<PageList>(&text).ok());
        Ok(list.map(|list| list.objects))
    }

    /// Looks at objects of a manifest; how many are there.
    async fn objects(
        &self,
        manifest: &Path,
        objects: &[Object],
        round: &mut Round,
    ) -> Result<u64, SinkError> {
        let looks = stream::iter(objects).map(|object| self.object(object));
        let mut looks = looks.buffer_unordered(OBJECTS_AT_ONCE);
        let mut there = 0;
        while let Some(look) = looks.next().await {
            let Look { key, found, finding } = look?;
            let mut finding = finding;
            if let Some((bytes, written)) = found {
                there += 1;
                round.objects += 1;
                round.stored_bytes += bytes;
                if finding.is_some() && self.is_young(written) {
                    // Its manifest comes after it.
                    finding = None;
                    round.underway += 1;
                }
            }
            if let Some((fault, name, reason)) = finding {
                let manifest = Some(manifest.to_string());
                round.findings.push(Finding { fault, key: name, manifest, reason });
            }
            if found.is_some() { &mut round.names } else { &mut round.gone }.extend(key);
        }
        Ok(there)
    }

    async fn object(&self, object: &Object) -> Result<Look, SinkError> {
        let name = object.key.clone();
        let wrong = |fault, reason| Some((fault, name, reason));
        let Ok(key) = Path::parse(&object.key) else {
            let finding = wrong(Fault::Missing, "no object can have this key".to_owned());
            return Ok(Look { key: None, found: None, finding });
        };
        let _place = self.places.acquire().await;
        let deep = self.asked.deep || object.stored_sha256.is_none();
        let found = self.store.sums(&key, deep.then(|| Codec::of_key(&key))).await?;
        let finding = match &found {
            None => wrong(Fault::Missing, "it is not there".to_owned()),
            Some(found) => compare(object, found).and_then(|(fault, why)| wrong(fault, why)),
        };
        let found = found.map(|found| (found.stored_bytes, found.written));
        Ok(Look { key: Some(key), found, finding })
    }

    fn is_young(&self, written: Timestamp) -> bool {
        let age = Duration::try_from(self.asked.now.duration_since(written));
        age.map_or(true, |age| age < self.asked.grace)
    }

    fn orphans(&self) {
        let waits = std::mem::take(&mut self.open.borrow_mut().waits);
        let mut waits: Vec<(Path, Timestamp)> = waits.into_iter().collect();
        waits.sort_unstable();
        for (key, written) in waits {
            if self.is_young(written) {
                self.open.borrow_mut().report.underway += 1;
            } else {
                let reason = if is_list(&key) {
                    format!("a list of pages that no manifest counts, written at {written}")
                } else {
                    format!("no manifest names it; it was written at {written}")
                };
                let key = key.to_string();
                let finding = Finding { fault: Fault::Orphaned, key, manifest: None, reason };
                self.finding(finding);
            }
        }
    }
}

/// What came of a look at one object.
struct Look {
    key: Option<Path>,
    /// Its size and when it was written, if it is there.
    found: Option<(u64, Timestamp)>,
    finding: Option<(Fault, String, String)>,
}

fn compare(object: &Object, found: &Found) -> Option<(Fault, String)> {
    if found.stored_bytes != object.stored_bytes {
        let fault =
            if found.stored_bytes < object.stored_bytes { Fault::Torn } else { Fault::Different };
        let (there, said) = (found.stored_bytes, object.stored_bytes);
        return Some((fault, format!("it has {there} bytes, its manifest says {said}")));
    }
    if let Some(said) = object.stored_sha256.as_ref().filter(|said| **said != found.stored_sha256) {
        let there = &found.stored_sha256;
        return Some((
            Fault::Different,
            format!("its SHA-256 is {there}, its manifest says {said}"),
        ));
    }
    match &found.body {
        Some(Err(reason)) => {
            Some((Fault::Different, format!("its body cannot be decompressed: {reason}")))
        }
        Some(Ok((bytes, sha256))) if (*bytes, sha256) != (object.bytes, &object.sha256) => Some((
            Fault::Different,
            format!(
                "its body has {bytes} bytes and the SHA-256 {sha256}, its manifest says {} and {}",
                object.bytes, object.sha256
            ),
        )),
        None | Some(Ok(_)) => None,
    }
}
