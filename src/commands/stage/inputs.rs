//! Objects as inputs: opened one after the other by the thread that reads, their bytes fetched by the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use object_store::path::Path;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tollgate_actors::store::{Reading, SinkError, Store, StoreErrorKind};
use tollgate_protos::{Done, Manifest};
use tollgate_stage::Input;

use super::keys;
use super::outputs::unless_stopped;

/// Pieces of an object that wait to be read.
const PIECES_MAX: usize = 8;
/// The manifest beside the objects of a fetch.
pub(super) const MANIFEST: &str = "_manifest.json";

/// An object to be staged.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) key: Path,
    /// It could not be read in peace: it is told and left for another run.
    pub(super) fault: Option<String>,
    /// Whether rows were made of it before, which stay while it cannot be read.
    pub(super) is_staged: bool,
}

/// What a job came upon on the way.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// An object that is not to be staged now, where that ended the work.
    pub(super) left: Option<String>,
    /// Objects beside a manifest that does not name them.
    pub(super) unnamed: BTreeSet<String>,
    /// Objects that the store does not give: another run tries again.
    pub(super) unread: BTreeSet<String>,
}

/// What a manifest tells of the objects beside it.
#[derive(Debug)]
pub(super) struct Told {
    facts: BTreeMap<String, String>,
    /// The last parts of their keys; none: it names none.
    names: Option<BTreeSet<String>>,
    /// Why it tells nothing.
    fault: Option<String>,
}

/// A list of the objects of a long read, beside its manifest.
#[derive(Deserialize)]
struct Names {
    objects: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    key: String,
}

/// A manifest's key, and what it told.
pub(super) type Last = Option<(Path, Option<Arc<Told>>)>;

/// Inputs, as the job asks for them.
pub(super) struct Inputs {
    pub(super) store: Store,
    pub(super) runtime: Handle,
    pub(super) wanted: std::vec::IntoIter<Wanted>,
    /// Whether only objects are taken whose fetch is there as a whole, as its manifest says.
    pub(super) whole: bool,
    /// Whether columns ask for what the manifest tells.
    pub(super) with_manifest: bool,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) stop: Arc<AtomicBool>,
    /// The template of keys.
    pub(super) template: String,
    /// The last manifest, by its key: objects of one fetch come one after the other.
    pub(super) last: Last,
}

impl Iterator for Inputs {
    type Item = io::Result<Input>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let wanted = self.wanted.next()?;
            if let Some(input) = self.open(wanted).transpose() {
                return Some(input);
            }
        }
    }
}

impl Inputs {
    /// The object, unless it is none of its fetch.
    fn open(&mut self, wanted: Wanted) -> io::Result<Option<Input>> {
        let Wanted { key, fault, is_staged } = wanted;
        let told = self.told(&key)?;
        if self.whole {
            let Some(told) = &told else { return Err(self.leave(&key)) };
            let is_named =
                |names: &BTreeSet<String>| key.filename().is_some_and(|name| names.contains(name));
            if !told.names.as_ref().is_none_or(is_named) {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.unnamed.insert(key.to_string());
                return Ok(None);
            }
        }
        let facts = self.facts(&key, told.as_deref());
        let name = key.to_string();
        let broken = |fault: String, facts: BTreeMap<String, String>| Input {
            key: name.clone(),
            facts,
            bytes: Box::new(io::empty()),
            is_unchanged: Box::new(|| Ok(true)),
            fault: Some(fault),
        };
        if let Some(fault) = fault.or_else(|| told?.fault.clone()) {
            return Ok(Some(broken(fault, facts)));
        }
        let read = match self.wait(self.store.read(&key))? {
            Err(error) if !is_staged && is_lasting(&error) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.unread.insert(name.clone());
                return Ok(Some(broken(reason(&error), facts)));
            }
            read => read.map_err(io::Error::other)?,
        };
        let Some((listed, reading)) = read else { return Err(self.leave(&key)) };
        // One answer is of one version; a file may be written over while it is read.
        let is_file = matches!(reading, Reading::File(_));
        let bytes: Box<dyn Read + Send> = match reading {
            Reading::File(file) => Box::new(file),
            Reading::Stream(mut stream) => {
                let (to, pieces) = mpsc::channel(PIECES_MAX);
                self.runtime.spawn(async move {
                    while let Some(piece) = stream.next().await {
                        if to.send(piece).await.is_err() {
                            return;
                        }
                    }
                });
                let (runtime, stop) = (self.runtime.clone(), Arc::clone(&self.stop));
                Box::new(Pieces { pieces, piece: Bytes::new(), runtime, stop })
            }
        };
        let (store, runtime) = (self.store.clone(), self.runtime.clone());
        let stop = Arc::clone(&self.stop);
        let is_unchanged = Box::new(move || {
            if !is_file {
                return Ok(true);
            }
            let now = runtime.block_on(unless_stopped(&stop, store.look(&key)))?;
            let now = now.map_err(io::Error::other)?;
            Ok(now.is_some_and(|now| now.is_same(&listed)))
        });
        Ok(Some(Input { key: name, facts, bytes, is_unchanged, fault: None }))
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        self.runtime.block_on(unless_stopped(&self.stop, work))
    }

    /// Ends the work because of an object that is not to be staged now.
    fn leave(&self, key: &Path) -> io::Error {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.left = Some(key.to_string());
        io::Error::other("its fetch is not there as a whole")
    }

    /// What is known of an object besides its bytes.
    fn facts(&self, key: &Path, told: Option<&Told>) -> BTreeMap<String, String> {
        let mut facts = told.map(|told| told.facts.clone()).unwrap_or_default();
        for (name, value) in keys::parts(key.as_ref(), &self.template) {
            facts.insert(format!("part.{name}"), value);
        }
        facts.insert("key".to_owned(), key.to_string());
        facts
    }

    /// What the manifest beside an object tells; none: its fetch is not there as a whole any more.
    fn told(&mut self, key: &Path) -> io::Result<Option<Arc<Told>>> {
        if !self.whole && !self.with_manifest {
            return Ok(None);
        }
        let manifest = key.parent().unwrap_or_default().join(MANIFEST);
        if let Some((last, known)) = &self.last
            && *last == manifest
        {
            return Ok(known.clone());
        }
        let got = self.wait(self.store.get(&manifest))?.map_err(io::Error::other)?;
        let told = match got.map(|text| of_manifest(&text)) {
            Some(Ok(Some((facts, done)))) => {
                let names = if self.whole { self.names(&manifest, &done)? } else { None };
                Some(Arc::new(Told { facts, names, fault: None }))
            }
            None | Some(Ok(None)) => None,
            Some(Err(error)) => {
                let fault = Some(format!("`{manifest}` is no manifest: {error}"));
                Some(Arc::new(Told { facts: BTreeMap::new(), names: None, fault }))
            }
        };
        self.last = Some((manifest, told.clone()));
        Ok(told)
    }

    /// The last parts of the keys that a manifest names, it or the lists beside it; none: it names none, as one that
    /// somebody else wrote, or a list is gone. The whole keys are those of the place that it was stored in first.
    fn names(&self, manifest: &Path, done: &Done) -> io::Result<Option<BTreeSet<String>>> {
        let name = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
        if done.lists == 0 {
            let names: BTreeSet<String> = done.objects.iter().map(|one| name(&one.key)).collect();
            return Ok((!names.is_empty()).then_some(names));
        }
        let folder: Path = manifest.parent().unwrap_or_default();
        let mut names = BTreeSet::new();
        for number in 1..=done.lists {
            let list = folder.clone().join(format!("_pages-{number:05}.json"));
            let got = self.wait(self.store.get(&list))?.map_err(io::Error::other)?;
            let listed = got.and_then(|text| serde_json::from_slice::<Names>(&text).ok());
            let Some(listed) = listed else { return Ok(None) };
            names.extend(listed.objects.iter().map(|one| name(&one.key)));
        }
        Ok(Some(names))
    }
}

/// Whether the store gives an object no sooner than somebody changes something: a right, or what is archived.
fn is_lasting(error: &SinkError) -> bool {
    use StoreErrorKind::{Denied, Other};
    matches!(error, SinkError::Store { kind: Denied | Other, .. })
}

fn reason(error: &SinkError) -> String {
    match error {
        SinkError::Store { kind, source, .. } => {
            format!("it cannot be read: {kind}: {source}; the next run tries again")
        }
        other => other.to_string(),
    }
}

/// What a manifest tells; none: it stands for one that could not be removed, while its fetch is collected again.
fn of_manifest(text: &[u8]) -> serde_json::Result<Option<(BTreeMap<String, String>, Done)>> {
    let manifest: Manifest = serde_json::from_slice(text)?;
    // With a queue it is the end of a fetch of which a rule says that a part is enough.
    if manifest.done.incomplete && manifest.queue.is_empty() {
        return Ok(None);
    }
    let mut facts = BTreeMap::from([
        ("platform".to_owned(), manifest.platform),
        ("api".to_owned(), manifest.api),
        ("account".to_owned(), manifest.account),
        ("id".to_owned(), manifest.done.id.clone()),
        ("fetched_at".to_owned(), manifest.done.fetched_at.to_string()),
    ]);
    for (name, value) in manifest.params {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        facts.insert(format!("params.{name}"), value);
    }
    Ok(Some((facts, manifest.done)))
}

/// Pieces that come from the runtime, read by a thread.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    runtime: Handle,
    stop: Arc<AtomicBool>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(unless_stopped(&self.stop, self.pieces.recv()))? {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece[..count]);
        self.piece.advance(count);
        Ok(count)
    }
}
