//! Objects as inputs: opened one after the other by the thread that reads, their bytes fetched by the runtime.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tollgate_actors::store::{Reading, Store};
use tollgate_protos::Manifest;
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
}

/// Inputs, as the job asks for them.
pub(super) struct Inputs {
    pub(super) store: Store,
    pub(super) runtime: Handle,
    pub(super) wanted: std::vec::IntoIter<Wanted>,
    /// Whether only objects are taken whose fetch is there as a whole, as its manifest says.
    pub(super) whole: bool,
    /// Whether columns ask for what the manifest tells.
    pub(super) with_manifest: bool,
    /// An object that is not to be staged now, where that ended the work.
    pub(super) left: Arc<Mutex<Option<String>>>,
    pub(super) stop: Arc<AtomicBool>,
    /// The template of keys.
    pub(super) template: String,
    /// The last manifest, by its key: objects of one fetch come one after the other.
    pub(super) last: Option<(Path, Option<BTreeMap<String, String>>)>,
}

impl Iterator for Inputs {
    type Item = io::Result<Input>;

    fn next(&mut self) -> Option<Self::Item> {
        let wanted = self.wanted.next()?;
        Some(self.open(wanted))
    }
}

impl Inputs {
    fn open(&mut self, wanted: Wanted) -> io::Result<Input> {
        let Wanted { key, fault } = wanted;
        let Some(facts) = self.facts(&key)? else { return Err(self.leave(&key)) };
        let name = key.to_string();
        let broken = |fault: String, facts: BTreeMap<String, String>| Input {
            key: name.clone(),
            facts,
            bytes: Box::new(io::empty()),
            is_unchanged: Box::new(|| Ok(true)),
            fault: Some(fault),
        };
        if let Some(fault) = fault {
            return Ok(broken(fault, facts));
        }
        let read = self.wait(self.store.read(&key))?.map_err(io::Error::other)?;
        let Some((listed, reading)) = read else { return Err(self.leave(&key)) };
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
            let now = runtime.block_on(unless_stopped(&stop, store.look(&key)))?;
            let now = now.map_err(io::Error::other)?;
            Ok(now.is_some_and(|now| now.is_same(&listed)))
        });
        Ok(Input { key: name, facts, bytes, is_unchanged, fault: None })
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        self.runtime.block_on(unless_stopped(&self.stop, work))
    }

    /// Ends the work because of an object that is not to be staged now.
    fn leave(&self, key: &Path) -> io::Error {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = Some(key.to_string());
        io::Error::other("its fetch is not there as a whole")
    }

    /// What is known of an object besides its bytes; none: its fetch is not there as a whole any more.
    fn facts(&mut self, key: &Path) -> io::Result<Option<BTreeMap<String, String>>> {
        let mut facts: BTreeMap<String, String> = BTreeMap::new();
        if self.whole || self.with_manifest {
            let manifest = key.parent().unwrap_or_default().join(MANIFEST);
            let known = self.last.as_ref().filter(|(last, _)| *last == manifest);
            let told = if let Some((_, known)) = known {
                known.clone()
            } else {
                let got = self.wait(self.store.get(&manifest))?.map_err(io::Error::other)?;
                let told = got.map(|text| {
                    of_manifest(&text)
                        .map_err(|error| io::Error::other(format!("{manifest}: {error}")))
                });
                let told = told.transpose()?.flatten();
                self.last = Some((manifest, told.clone()));
                told
            };
            if self.whole && told.is_none() {
                return Ok(None);
            }
            facts = told.unwrap_or_default();
        }
        for (name, value) in keys::parts(key.as_ref(), &self.template) {
            facts.insert(format!("part.{name}"), value);
        }
        facts.insert("key".to_owned(), key.to_string());
        Ok(Some(facts))
    }
}

/// What a manifest tells; none: it stands for one that could not be removed, while its fetch is collected again.
fn of_manifest(text: &[u8]) -> serde_json::Result<Option<BTreeMap<String, String>>> {
    let manifest: Manifest = serde_json::from_slice(text)?;
    // With a queue it is the end of a fetch of which a rule says that a part is enough.
    if manifest.done.incomplete && manifest.queue.is_empty() {
        return Ok(None);
    }
    let mut facts = BTreeMap::from([
        ("platform".to_owned(), manifest.platform),
        ("api".to_owned(), manifest.api),
        ("account".to_owned(), manifest.account),
        ("id".to_owned(), manifest.done.id),
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
    Ok(Some(facts))
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
