//! Reads the configuration anew while a node works: on SIGHUP, and when the file has changed.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};
use tollgate_actors::config::{self, Loaded};
use tollgate_actors::levels::Levels;
use tollgate_actors::reload::Reloader;

use super::environment;
use super::session::Stop;
use crate::cli::Global;

/// Between two looks at the file. A change counts once it was the same at two looks: whoever writes a file in
/// pieces is not read in the middle.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is read of a file at most; a configuration is never as large.
const LOOK_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// What a file holds; nothing: it cannot be read.
type Seen = Option<Vec<u8>>;

/// A configuration file as it was when it was read.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Seen,
}

impl Watched {
    /// The file of now. Called before the configuration is read, so that no change after that goes unnoticed.
    pub(crate) fn new(global: &Global) -> Self {
        Self { path: global.config.clone(), seen: look(&global.config) }
    }

    /// From now on SIGHUP does not end the process, but waits to be heard.
    ///
    /// # Errors
    /// The system does not let signals be listened to.
    pub(crate) fn listen(self) -> anyhow::Result<Listening> {
        let hangup = signal(SignalKind::hangup()).context("listen to SIGHUP")?;
        Ok(Listening { watched: self, hangup, terminal: std::io::stderr().is_terminal() })
    }
}

/// A configuration that is followed as soon as there is a node.
#[derive(Debug)]
pub(crate) struct Listening {
    watched: Watched,
    hangup: Signal,
    /// The process was started on a terminal.
    terminal: bool,
}

impl Listening {
    /// Hands what is read anew to the node, until the task is aborted.
    pub(crate) fn follow(self, reloader: Reloader, levels: Levels, stop: Stop) -> JoinHandle<()> {
        let Self { watched: Watched { path, mut seen }, mut hangup, terminal } = self;
        actix_rt::spawn(async move {
            let mut changed: Option<Seen> = None;
            loop {
                let asked = tokio::select! {
                    heard = hangup.recv() => heard.is_some(),
                    () = tokio::time::sleep(LOOK_EVERY) => false,
                };
                if asked && terminal && !std::io::stderr().is_terminal() {
                    // Its terminal was closed: whoever watched it is gone.
                    stop.ask();
                    return;
                }
                let looked = path.clone();
                let Ok(now) = spawn_blocking(move || look(&looked)).await else { continue };
                let differs = now != seen;
                let settled = differs && changed.as_ref() == Some(&now);
                if !asked && !settled {
                    changed = differs.then_some(now);
                    continue;
                }
                (seen, changed) = (now, None);
                let read = path.clone();
                let loaded = spawn_blocking(move || config::load(Some(&read), environment(), &[]));
                if let Ok(loaded) = loaded.await {
                    if let Ok(Loaded { plan, .. }) = &loaded {
                        levels.configured(&plan.log);
                    }
                    // What became of it is in the log.
                    let _outcome = reloader.take(loaded).await;
                }
            }
        })
    }
}

fn look(path: &Path) -> Seen {
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(LOOK_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
