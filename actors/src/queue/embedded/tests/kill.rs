//! A process that uses the folder is killed, or finds its disk full: what it had confirmed is there.
//!
//! The other process is this test binary, run again for one test only; an environment variable tells it
//! that it is the other one and which folder to use.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;
use crate::ledger::Ledger;
use crate::ledger::embedded::EmbeddedLedger;

const FOLDER: &str = "TOLLGATE_TEST_STATE";
const TEST: &str = "queue::embedded::tests::kill::the_other_process";

/// Works until it is killed or its disk is full, and says what was confirmed: `a ID SEQ` for an
/// appended fetch, `f ID` for a finished one, `l VERSION` for a ledger record.
#[tokio::test]
async fn the_other_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let state = State::open(folder.as_ref(), Options::default()).expect("it opens");
    let (queue, ledger) = (EmbeddedQueue::new(&state), EmbeddedLedger::new(&state));
    let lane = lane("one");
    let account = lane.account.clone();
    let record = ledger.load(account.clone()).await.expect("it answers");
    let mut version = record.map_or(0, |record| record.version);
    let say = |line: String| writeln!(std::io::stdout(), "{line}").expect("the parent reads");
    let start = clock::random();
    for number in 0_u64.. {
        let ids: Vec<_> = (0..5).map(|part| format!("{start:x}-{number}-{part}")).collect();
        let fetches = ids.iter().map(|id| NewFetch { payload: payload(), ..fetch(&lane, id) });
        let (appended, stored) = tokio::join!(
            queue.append(fetches.collect()),
            ledger.store(account.clone(), version, Bytes::from(number.to_string())),
        );
        let (Ok(appended), Ok(stored)) = (appended, stored) else { break };
        version = stored;
        say(format!("l {version}"));
        for (id, appended) in ids.iter().zip(&appended) {
            say(format!("a {id} {}", seq_of(*appended)));
        }
        let seq = seq_of(appended[0]);
        if queue.finish(lane.clone(), seq, done(seq)).await.is_err() {
            break;
        }
        say(format!("f {}", ids[0]));
    }
    // The disk is full: that stays so, and every call says why.
    let reason = state.failed().expect("it failed for good");
    for _ in 0..2 {
        let Err(QueueError::Unavailable(said)) = queue.first(lane.clone(), None, 1).await else {
            panic!("a failed state answers nothing else");
        };
        assert_eq!(said, reason);
    }
    say(format!("full {reason}"));
    state.close().await;
}

/// Large enough to fill a small disk soon.
fn payload() -> Bytes {
    Bytes::from(vec![b'x'; 2000])
}

/// What the other process said.
#[derive(Default)]
struct Confirmed {
    appended: BTreeMap<String, Seq>,
    finished: Vec<String>,
    version: u64,
    full: Option<String>,
}

impl Confirmed {
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(2, ' ').collect();
        match words[..] {
            ["a", rest] => {
                let (id, seq) = rest.split_once(' ').expect("an id and a number");
                self.appended.insert(id.into(), Seq(seq.parse().expect("a number")));
            }
            ["f", id] => self.finished.push(id.into()),
            ["l", version] => self.version = version.parse().expect("a number"),
            ["full", reason] => self.full = Some(reason.into()),
            // The test harness talks too.
            _ => {}
        }
    }

    /// Hears a process whose last line may be cut short.
    fn hear_all(&mut self, lines: BufReader<ChildStdout>, most: usize) -> BufReader<ChildStdout> {
        let mut lines = lines;
        let mut line = String::new();
        for _ in 0..most {
            line.clear();
            if lines.read_line(&mut line).expect("it is text") == 0 || !line.ends_with('\n') {
                break;
            }
            self.hear(line.trim_end());
        }
        lines
    }

    async fn is_there(&self, folder: &TempDir) {
        let state = open(folder);
        let (queue, lane) = (EmbeddedQueue::new(&state), lane("one"));
        for (id, seq) in &self.appended {
            let again = queue.append(vec![fetch(&lane, id)]).await.expect("it answers")[0];
            if self.finished.contains(id) {
                assert_eq!(again, Appended::Done(*seq), "{id}");
            } else {
                // The last one may have been finished without having had the time to say so.
                assert!(
                    matches!(again, Appended::Waiting(_) | Appended::Done(_)),
                    "{id}: {again:?}"
                );
                assert_eq!(seq_of(again), *seq);
            }
            if let Appended::Waiting(seq) = again {
                let before = Some(Seq(seq.0 - 1));
                let found = queue.first(lane.clone(), before, 1).await.expect("it answers");
                assert_eq!((found[0].seq, &found[0].payload), (seq, &payload()));
            }
        }
        let ledger = EmbeddedLedger::new(&state);
        let record = ledger.load(lane.account.clone()).await.expect("it answers");
        let record = record.expect("there is a record");
        assert!(record.version >= self.version, "{} after {}", record.version, self.version);
        assert_eq!(record.writer, crate::ledger::Writer::Dead);
        state.close().await;
    }
}

fn start(mut command: Command, folder: &TempDir) -> (Child, BufReader<ChildStdout>) {
    let mut child = command
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this binary runs");
    let lines = BufReader::new(child.stdout.take().expect("it is a pipe"));
    (child, lines)
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_confirmed() {
    let folder = TempDir::new().expect("a folder");
    let binary = std::env::current_exe().expect("this test runs");
    for round in 0..4 {
        let (mut child, lines) = start(Command::new(&binary), &folder);
        let mut confirmed = Confirmed::default();
        let lines = confirmed.hear_all(lines, 300 + 400 * round);
        child.kill().expect("it runs");
        child.wait().expect("it was started");
        confirmed.hear_all(lines, usize::MAX);
        assert!(confirmed.finished.len() > 30 && confirmed.full.is_none());
        confirmed.is_there(&folder).await;
    }
}

/// Files that may not grow stand for a disk that is full: the same kind of error at the same calls.
#[tokio::test]
async fn a_full_disk_is_reported_and_loses_nothing_that_was_confirmed() {
    let folder = TempDir::new().expect("a folder");
    // Made without the limit: fjall makes room for 64 MiB in a new journal.
    open(&folder).close().await;
    let mut shell = Command::new("sh");
    // 4,096 blocks of 512 or 1,024 bytes, after the shell. The signal that would come with the error
    // is ignored.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\""]);
    shell.arg(std::env::current_exe().expect("this test runs"));
    let (mut child, lines) = start(shell, &folder);
    let mut confirmed = Confirmed::default();
    confirmed.hear_all(lines, usize::MAX);
    assert!(child.wait().expect("it was started").success(), "it must notice and go on");
    assert!(confirmed.full.is_some(), "it must say that it failed");
    assert!(confirmed.finished.len() > 30);
    confirmed.is_there(&folder).await;
}
