//! A process that cannot outlive its test, and what it said.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::{LOOK_EVERY, lossy, wait_or_tell};

/// Longest life of a process: far more than any test needs, so that only one that hangs meets it.
const LIFE_MAX: Duration = Duration::from_secs(60);

/// A process to be started.
#[derive(Debug)]
pub(crate) struct Tollgate {
    command: Command,
    input: Vec<u8>,
    text: String,
}

impl Tollgate {
    /// The binary with these arguments, in this folder.
    pub(super) fn new(folder: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(args).current_dir(folder);
        // What the person who runs the tests has set is no part of them.
        for name in ["NO_COLOR", "RUST_LOG", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        Self { command, input: Vec::new(), text: format!("tollgate {}", args.join(" ")) }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads on standard input.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Starts it and waits for its end.
    pub(crate) fn run(self) -> Ran {
        self.start().wait()
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let input = std::mem::take(&mut self.input);
        let (running, mut stdin) = self.start_with_open_input();
        // A process that ends before it has read everything breaks the pipe, which is its right.
        thread::spawn(move || stdin.write_all(&input).ok());
        running
    }

    /// Starts it with a standard input that stays open until the second value is dropped.
    pub(crate) fn start_with_open_input(mut self) -> (Running, ChildStdin) {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = Gathered::of(child.stdout.take().unwrap());
        let stderr = Gathered::of(child.stderr.take().unwrap());
        let started = Instant::now();
        (Running { child, stdout, stderr, text: self.text, started }, stdin)
    }
}

/// What a process writes, as it comes.
#[derive(Debug)]
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Gathered {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let there = bytes.clone();
        let reader = thread::spawn(move || {
            let mut piece = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                there.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        lossy(&self.bytes.lock().unwrap())
    }

    fn all(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// A process; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Gathered,
    stderr: Gathered,
    text: String,
    started: Instant,
}

impl Running {
    /// Sends a signal by name: `TERM`, `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.unwrap().success(), "kill -{name} {pid}");
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Ran {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits until standard error holds a text.
    pub(crate) fn wait_says(&self, text: &str) {
        let look = || self.stderr.so_far().contains(text).then_some(());
        wait_or_tell(look, || {
            format!("`{text}` on standard error of {}:\n{}", self.text, self.stderr.so_far())
        });
    }

    /// How often standard error has a text by now.
    pub(crate) fn said(&self, text: &str) -> usize {
        self.stderr.so_far().matches(text).count()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, at most [`LIFE_MAX`] after its start.
    pub(crate) fn wait(mut self) -> Ran {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if self.started.elapsed() > LIFE_MAX {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                break None;
            }
            thread::sleep(LOOK_EVERY);
        };
        let took = self.started.elapsed();
        let ran = Ran {
            text: self.text.clone(),
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
            took,
        };
        assert!(status.is_some(), "it did not end within {LIFE_MAX:?}:\n{ran}");
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    text: String,
    /// Nothing if a signal ended it.
    pub(crate) code: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    pub(crate) took: Duration,
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, err) = (self.out(), self.err());
        // The end tells more than the beginning.
        let skip = err.lines().count().saturating_sub(25);
        let err: Vec<&str> = err.lines().skip(skip).collect();
        let err = err.join("\n  ");
        write!(
            f,
            "{} ended with {:?} after {:.3?}\nstandard output:\n{out}\nstandard error (the last 25 lines):\n  {err}",
            self.text, self.code, self.took
        )
    }
}

/// The last line of `run --json`: exactly these fields.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    pub(crate) fetches: u64,
    pub(crate) done: u64,
    pub(crate) dead: u64,
    pub(crate) left: u64,
    pub(crate) calls: u64,
    pub(crate) refused: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) limits: Vec<LimitUse>,
}

/// How much of a limit was used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitUse {
    pub(crate) limit: String,
    pub(crate) share: f64,
}

impl Ran {
    /// Asserts how it ended.
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\n{self}");
        self
    }

    /// Standard output.
    pub(crate) fn out(&self) -> String {
        lossy(&self.stdout)
    }

    /// Standard error.
    pub(crate) fn err(&self) -> String {
        lossy(&self.stderr)
    }

    /// Asserts that standard error holds a text.
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.err().contains(text), "`{text}` is not on standard error\n{self}");
        self
    }

    /// The last line of standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        let out = self.out();
        let line = out.lines().last().unwrap_or_else(|| panic!("no output\n{self}"));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }

    /// The summary of a run.
    pub(crate) fn summary(&self) -> Summary {
        serde_json::from_value(self.json()).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }

    /// The log lines: those of standard error that begin like JSON, all of which must be.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.err()
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}
