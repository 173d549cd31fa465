//! Threads that put small objects into a file store, several in one go.
//!
//! `object_store` runs each file operation as a job of its own on tokio's blocking threads; on threads
//! without a runtime it does them at once. A fetch's object and its manifest so cost one hand-over
//! between threads instead of three with the line that tells of them, which is most of what a small object costs.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use bytes::Bytes;
use futures_util::FutureExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::oneshot;

use super::error::SinkError;
use super::lines::Line;

/// Objects to put, in order; the first failure ends it.
type Objects = Vec<(Path, Bytes)>;

struct Job {
    /// Comes first.
    line: Option<Line>,
    objects: Objects,
    answer: oneshot::Sender<Result<(), SinkError>>,
}

/// The threads. They end when this is dropped and their work is done. At most as many jobs wait as bodies
/// have shares of the budget.
#[derive(Debug)]
pub(super) struct Writers {
    jobs: mpsc::Sender<Job>,
    count: usize,
}

impl Writers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(super) fn start(store: &Arc<dyn ObjectStore>, count: usize) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..count {
            let waiting = Arc::clone(&waiting);
            let store = Arc::clone(store);
            let name = format!("tollgate-files-{number}");
            thread::Builder::new().name(name).spawn(move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { line, objects, answer }) = next else { return };
                    if let Some(line) = line {
                        line.write();
                    }
                    // Nobody may be waiting any more; the objects are whole or absent all the same.
                    let _heard = answer.send(put_all(&store, objects));
                }
            })?;
        }
        Ok(Self { jobs, count })
    }

    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.count > 0
    }

    /// Writes the line, if there is one, and puts objects in order.
    ///
    /// # Errors
    /// What the store said of the first that failed; the ones after it were not tried.
    pub(super) async fn put(&self, objects: Objects, line: Option<Line>) -> Result<(), SinkError> {
        let key = objects.first().map(|(key, _)| key.clone()).unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let gone = || SinkError::other(&key, "the threads that write files have ended");
        self.jobs.send(Job { line, objects, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn put_all(store: &Arc<dyn ObjectStore>, objects: Objects) -> Result<(), SinkError> {
    for (key, object) in objects {
        let put = store.put(&key, object.into()).now_or_never();
        put.unwrap_or_else(|| {
            let source = "a file operation waited where no runtime is".into();
            Err(object_store::Error::Generic { store: "LocalFileSystem", source })
        })
        .map_err(|error| SinkError::store(&key, error))?;
    }
    Ok(())
}
