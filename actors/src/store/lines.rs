//! JSON Lines that tell of every object, below `_manifests/` in the store: for query engines, which would rather read
//! some files of many lines than as many manifests as there are fetches.
//!
//! A line is appended to a file in the state folder before its object becomes visible, so that a process that is
//! killed leaves no object without one. A file that is full, old or of another day is put into the store under a name
//! of its own, and removed here; one that a killed process left is put by the next. Putting it twice writes the same
//! key. Lines are not fsynced: after a power cut `_manifest.json` is what counts.
//!
//! What a store does not take stays in the state folder, up to a bound; from there on lines are left out, and an event
//! says so. Objects and their manifests are stored all the same.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use object_store::path::Path;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::{SMALL_OBJECT_BYTES_MAX, Store};
use crate::plan::Plan;
use crate::telemetry;

/// Where the lines are in the store; `dt=YYYY-MM-DD` below it is the day (UTC) on which their file was begun.
pub const LINES_FOLDER: &str = "_manifests";
/// Where they are in the state folder until then.
const STATE_FOLDER: &str = "manifests";
const SUFFIX: &str = ".jsonl";
/// A file with so many bytes is put.
const FILE_BYTES_MAX: u64 = 768 * 1024;
/// Longest line. What may be long in one is bounded where it is made.
pub(crate) const LINE_BYTES_MAX: usize = SMALL_OBJECT_BYTES_MAX - FILE_BYTES_MAX as usize;
/// Most bytes of files that wait in the state folder.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// A file that is so old is put.
const OLD: Duration = Duration::from_secs(300);
/// Between two looks at what is to be put.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long the last files of a node may take; what is left is put by the next.
const END_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Lines {
    folder: PathBuf,
    node: String,
    kept: Mutex<Kept>,
    /// Most bytes of files that wait.
    kept_bytes_max: u64,
    full: Notify,
    /// One at a time puts files.
    sending: tokio::sync::Mutex<()>,
}

/// What is in the folder.
#[derive(Debug, Default)]
struct Kept {
    open: Option<Open>,
    /// Of the files that are not written to any more, as they were last seen.
    waiting_bytes: u64,
    /// Whether the last line was left out, which is told once.
    fails: bool,
}

impl Kept {
    /// Nothing more is written to the file.
    fn close(&mut self) {
        self.waiting_bytes += self.open.take().map_or(0, |open| open.bytes);
    }
}

/// A line about an object, to be written before that becomes visible.
#[derive(Debug)]
pub(super) struct Line {
    lines: Arc<Lines>,
    text: Vec<u8>,
    wall: Timestamp,
}

impl Line {
    /// Appends it; blocks. One that cannot be written is told as an event and does not keep its object out: the manifest
    /// has the same.
    pub(super) fn write(self) {
        if let Err(error) = self.lines.append(&self.text, self.wall) {
            telemetry::lines_unsent(&format!("write a line into the state folder: {error}"));
        }
    }
}

/// The file that lines are appended to.
#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
    day: Date,
    begun: Instant,
}

/// Keeps lines of what is stored from now on, if the configuration wants it, and puts them into the store for as long
/// as the future goes on: it is to come before the node stores anything. Dropping it is safe; [`Store::end_lines`]
/// puts the rest.
pub fn keep_lines(store: Store, plan: &Plan) -> impl Future<Output = ()> + use<> {
    if plan.store.lines {
        let lines =
            Lines::new(plan.state().join(STATE_FOLDER), plan.node_name.clone(), KEPT_BYTES_MAX);
        // A store has one node.
        let _first = store.inner.lines.set(Arc::new(lines)).is_ok();
    }
    async move {
        let Some(lines) = store.inner.lines.get() else { return };
        let mut told = false;
        loop {
            match store.send_lines(false).await {
                Ok(()) => told = false,
                Err(reason) => {
                    if !std::mem::replace(&mut told, true) {
                        telemetry::lines_unsent(&reason);
                    }
                }
            }
            let _either = timeout(LOOK_EVERY, lines.full.notified()).await;
        }
    }
}

impl Store {
    /// Whether lines are kept of what is stored.
    pub(crate) fn has_lines(&self) -> bool {
        self.inner.lines.get().is_some()
    }

    /// A line, which ends in a line feed, about what is stored next; `wall` is now. Nothing if none are kept.
    pub(super) fn line(&self, text: Vec<u8>, wall: Timestamp) -> Option<Line> {
        let lines = Arc::clone(self.inner.lines.get()?);
        Some(Line { lines, text, wall })
    }

    /// Writes a line, on a thread that may wait for the disk.
    pub(super) async fn tell(&self, line: Option<Line>) {
        let Some(line) = line else { return };
        if let Err(error) = spawn_blocking(move || line.write()).await {
            telemetry::lines_unsent(&format!("write a line into the state folder: {error}"));
        }
    }

    /// Puts all lines that are left, for three seconds at most: what stays is put by the next node.
    pub async fn end_lines(&self) {
        let sent = timeout(END_WITHIN, self.send_lines(true)).await;
        let sent = sent.unwrap_or_else(|_| Err("the store took no lines in time".to_owned()));
        if let Err(reason) = sent {
            telemetry::lines_unsent(&reason);
        }
    }

    /// Puts files that are full or old, or all.
    async fn send_lines(&self, all: bool) -> Result<(), String> {
        let Some(lines) = self.inner.lines.get() else { return Ok(()) };
        let _one = lines.sending.lock().await;
        let inner = Arc::clone(&self.inner);
        let waiting = spawn_blocking(move || match inner.lines.get() {
            Some(lines) => lines.waiting(all),
            None => Ok(Vec::new()),
        });
        let waiting = waiting.await.map_err(io::Error::other).flatten();
        let waiting =
            waiting.map_err(|error| format!("read lines in the state folder: {error}"))?;
        let mut failed = None;
        for path in waiting {
            // One that fails keeps none of the others back.
            if let Err(reason) = self.send_file(lines, path).await {
                failed.get_or_insert(reason);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn send_file(&self, lines: &Lines, path: PathBuf) -> Result<(), String> {
        let Some(key) = lines.key(&path) else { return Ok(()) };
        let from = path.clone();
        let content = spawn_blocking(move || whole_lines(&from)).await;
        let content = content.map_err(io::Error::other).flatten();
        let content = content.map_err(|error| format!("read {}: {error}", path.display()))?;
        if !content.is_empty() {
            let put = self.put_small(&key, content).await;
            put.map_err(|error| match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            })?;
        }
        let inner = Arc::clone(&self.inner);
        let removed = spawn_blocking(move || match inner.lines.get() {
            Some(lines) => lines.remove(&path),
            None => Ok(()),
        });
        let removed = removed.await.map_err(io::Error::other).flatten();
        removed.map_err(|error| format!("remove lines that were put: {error}"))
    }
}

impl Lines {
    fn new(folder: PathBuf, node: String, kept_bytes_max: u64) -> Self {
        Self {
            folder,
            node,
            kept: Mutex::default(),
            kept_bytes_max,
            full: Notify::new(),
            sending: tokio::sync::Mutex::default(),
        }
    }

    /// Appends a line. An error is told by the first of several lines that fail.
    fn append(&self, line: &[u8], wall: Timestamp) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = self.append_to(&mut kept, line, wall);
        let is_told = std::mem::replace(&mut kept.fails, appended.is_err());
        if is_told { Ok(()) } else { appended }
    }

    fn append_to(&self, kept: &mut Kept, line: &[u8], wall: Timestamp) -> io::Result<()> {
        let day = wall.to_zoned(TimeZone::UTC).date();
        if kept.open.as_ref().is_some_and(|open| open.bytes >= FILE_BYTES_MAX || open.day != day) {
            kept.close();
            self.full.notify_one();
        }
        let bytes = line.len() as u64;
        let there = kept.waiting_bytes + kept.open.as_ref().map_or(0, |open| open.bytes);
        if there + bytes > self.kept_bytes_max {
            return Err(io::Error::other(format!(
                "{there} bytes of lines wait there, which is as much as is kept: lines are left out until the store takes these"
            )));
        }
        if kept.open.is_none() {
            fs::create_dir_all(&self.folder)?;
            let name =
                format!("{day}_{:013}-{:08x}{SUFFIX}", wall.as_millisecond(), fastrand::u32(..));
            let path = self.folder.join(name);
            let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
            kept.open = Some(Open { file, path, bytes: 0, day, begun: Instant::now() });
        }
        let Some(to) = kept.open.as_mut() else { return Ok(()) };
        to.bytes += bytes;
        if let Err(error) = to.file.write_all(line) {
            // What came of it may be half a line: nothing may follow that.
            kept.close();
            return Err(error);
        }
        Ok(())
    }

    /// The files to put: none of them is written to any more.
    fn waiting(&self, all: bool) -> io::Result<Vec<PathBuf>> {
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let old = kept.open.as_ref().is_some_and(|open| open.begun.elapsed() >= OLD);
            if all || old {
                kept.close();
            }
        }
        let listed = self.listed()?;
        // Only now: one that was opened meanwhile may be among them.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let open = kept.open.as_ref().map(|open| &open.path);
        let mut found = Vec::new();
        let mut waiting_bytes = 0;
        for (path, bytes) in listed {
            if Some(&path) != open {
                found.push(path);
                waiting_bytes += bytes;
            }
        }
        kept.waiting_bytes = waiting_bytes;
        found.sort_unstable();
        Ok(found)
    }

    fn listed(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry?;
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file);
            let bytes = meta.map_or(0, |meta| meta.len());
            listed.push((entry.path(), bytes));
        }
        Ok(listed)
    }

    /// Removes a file that was put.
    fn remove(&self, path: &FsPath) -> io::Result<()> {
        let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
        fs::remove_file(path)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.waiting_bytes = kept.waiting_bytes.saturating_sub(bytes);
        Ok(())
    }

    /// Where a file goes; nothing if it is none of ours.
    fn key(&self, path: &FsPath) -> Option<Path> {
        let name = path.file_name()?.to_str()?;
        let (day, rest) = name.split_once('_')?;
        let day: Date = day.parse().ok()?;
        rest.strip_suffix(SUFFIX)?;
        let (day, name) = (format!("dt={day}"), format!("{}-{rest}", self.node));
        Some(Path::from_iter([LINES_FOLDER, &day, &name]))
    }
}

/// The lines of a file, without one that was cut off when its process was killed.
fn whole_lines(path: &FsPath) -> io::Result<Bytes> {
    let mut content = fs::read(path)?;
    let end = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    content.truncate(end);
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(folder: &FsPath) -> (Store, PathBuf) {
        kept_at_most(folder, KEPT_BYTES_MAX)
    }

    fn kept_at_most(folder: &FsPath, bytes: u64) -> (Store, PathBuf) {
        let store = Store::memory(1 << 30).unwrap();
        let state = folder.join(STATE_FOLDER);
        let lines = Lines::new(state.clone(), "node/a#".into(), bytes);
        store.inner.lines.set(Arc::new(lines)).unwrap();
        (store, state)
    }

    async fn told(store: &Store) -> String {
        let mut all = String::new();
        for key in store.keys(1000).await.unwrap() {
            assert!(key.as_ref().starts_with("_manifests/dt=2026-11-2"), "{key}");
            assert!(!key.as_ref().contains('#') && key.parts().count() == 3, "{key}");
            all += std::str::from_utf8(&store.get(&key).await.unwrap().unwrap()).unwrap();
        }
        all
    }

    #[tokio::test]
    async fn lines_of_a_killed_process_are_put_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let wall: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let (first, state) = kept(folder.path());
        first.tell(first.line(b"{\"n\":1}\n".to_vec(), wall)).await;
        first.tell(first.line(b"{\"n\":2}\n".to_vec(), wall)).await;
        drop(first);
        // Half a line, as a kill in the middle of a write leaves it.
        let left = fs::read_dir(&state).unwrap().next().unwrap().unwrap().path();
        OpenOptions::new().append(true).open(&left).unwrap().write_all(b"{\"n\":").unwrap();
        let (second, _) = kept(folder.path());
        second.send_lines(false).await.unwrap();
        assert_eq!(told(&second).await, "{\"n\":1}\n{\"n\":2}\n");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        // Those of now stay until they are old, or all are wanted; another day is another file.
        second.tell(second.line(b"{\"n\":3}\n".to_vec(), wall)).await;
        second.send_lines(false).await.unwrap();
        assert!(!told(&second).await.contains('3'));
        let next_day = "2026-11-23T00:00:00Z".parse().unwrap();
        second.tell(second.line(b"{\"n\":4}\n".to_vec(), next_day)).await;
        second.send_lines(false).await.unwrap();
        assert!(told(&second).await.contains('3'));
        second.end_lines().await;
        assert!(told(&second).await.contains('4'));
        assert_eq!(second.keys(1000).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_file_that_is_full_is_put_and_no_file_is_too_large_to_be_put() {
        let folder = tempfile::tempdir().unwrap();
        let wall: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let (store, _) = kept(folder.path());
        let mut line = vec![b'x'; LINE_BYTES_MAX - 1];
        line.push(b'\n');
        for _ in 0..9 {
            store.tell(store.line(line.clone(), wall)).await;
        }
        store.end_lines().await;
        assert_eq!(told(&store).await.len(), 9 * line.len());
        assert!(store.keys(1000).await.unwrap().len() > 1);
    }

    #[test]
    fn no_line_is_lost_while_others_look_for_files_to_put() {
        const WRITERS: usize = 4;
        const EACH: usize = 300;
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = kept(folder.path());
        let day = |n: usize| {
            // Another day for each line: nearly each opens a file.
            let day = 20 + n % 2;
            format!("2026-11-{day}T10:00:00Z").parse::<Timestamp>().unwrap()
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        let inner = &store.inner;
        let found = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    scope.spawn(move || {
                        let lines = inner.lines.get().unwrap();
                        for n in 0..EACH {
                            let line = format!("{{\"w\":{writer},\"n\":{n}}}\n");
                            lines.append(line.as_bytes(), day(n)).unwrap();
                        }
                    })
                })
                .collect();
            let sender = scope.spawn(|| {
                let lines = inner.lines.get().unwrap();
                let mut found = 0;
                loop {
                    let last = done.load(std::sync::atomic::Ordering::SeqCst);
                    for path in lines.waiting(last).unwrap() {
                        let content = whole_lines(&path).unwrap();
                        found += std::str::from_utf8(&content).unwrap().lines().count();
                        lines.remove(&path).unwrap();
                    }
                    if last {
                        return found;
                    }
                }
            });
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            sender.join().unwrap()
        });
        assert_eq!(found, WRITERS * EACH);
    }

    #[tokio::test]
    async fn what_the_store_does_not_take_stays_up_to_a_bound_and_keeps_nothing_else_back() {
        let folder = tempfile::tempdir().unwrap();
        let wall: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let (store, state) = kept_at_most(folder.path(), 30);
        let lines = store.inner.lines.get().unwrap();
        for n in 0..3 {
            lines.append(format!("{{\"n\":{n}}}\n").as_bytes(), wall).unwrap();
        }
        let told = lines.append(b"{\"n\":3}\n", wall).unwrap_err().to_string();
        assert!(told.contains("lines are left out"), "{told}");
        // Once.
        lines.append(b"{\"n\":4}\n", wall).unwrap();
        // One that cannot be read, before all others.
        let broken = state.join("2026-11-01_0-0.jsonl");
        fs::create_dir(&broken).unwrap();
        let failed = store.send_lines(true).await.unwrap_err();
        assert!(failed.contains("2026-11-01_0-0.jsonl"), "{failed}");
        lines.append(b"{\"n\":5}\n", wall).unwrap();
        fs::remove_dir(&broken).unwrap();
        store.send_lines(true).await.unwrap();
        assert_eq!(told_of(&store).await, "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n{\"n\":5}\n");
    }

    async fn told_of(store: &Store) -> String {
        let mut lines: Vec<String> = told(store).await.lines().map(|l| format!("{l}\n")).collect();
        lines.sort();
        lines.concat()
    }
}
