//! A real `nats-server` for tests: one process in a folder of its own, which can be killed and started again.
//!
//! Self-contained (the standard library alone): the tests of the whole binary include this file too.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Below those that Linux gives to connections (`ip_local_port_range`).
const PORTS: Range<u16> = 15_000..32_000;
/// Between two tries to connect to it, and how many it gets.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 1000;

/// Where the server is: `$TOLLGATE_NATS_SERVER`, what `bin/test` installed, or the search path.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TOLLGATE_NATS_SERVER") {
        return path.into();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = here.ancestors().map(|dir| dir.join("target/judge/bin/nats-server"));
    installed.into_iter().find(|path| path.exists()).unwrap_or_else(|| "nats-server".into())
}

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct NatsServer {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts one with JetStream in `folder`, which must outlive it. `more` goes into its configuration, such
    /// as `authorization {…}`; `jetstream` into the block of that name, such as `sync_interval: always`.
    ///
    /// # Panics
    /// It cannot be started: `bin/test` installs it.
    pub fn start(folder: &Path, jetstream: &str, more: &str) -> Self {
        let port = free_port();
        let store = folder.join("jetstream");
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: \"test-{port}\"\njetstream {{ store_dir: \"{}\"\n{jetstream}\n}}\n{more}\n",
            store.display()
        );
        std::fs::write(folder.join("nats.conf"), config).expect("write the server's configuration");
        let mut server = Self { folder: folder.to_owned(), port, child: None };
        server.restart();
        server
    }

    /// Starts it again where it was.
    ///
    /// # Panics
    /// It does not start.
    #[allow(clippy::disallowed_methods)] // it blocks a test, which waits for just that
    pub fn restart(&mut self) {
        self.kill();
        let log = self.folder.join("nats.log");
        let log = std::fs::File::options().create(true).append(true).open(log).expect("its log");
        let child = Command::new(binary())
            .arg("-c")
            .arg(self.folder.join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.expect("nats-server starts; `bin/test` installs it");
        self.child = Some(child);
        let mut looks = 0;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            looks += 1;
            assert!(looks < LOOKS_MAX, "nats-server is not ready: {}", self.log());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _waited = child.wait();
        }
    }

    /// Sends it a signal, such as `STOP` or `CONT`.
    ///
    /// # Panics
    /// It is not running.
    pub fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        let sent =
            Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
        assert!(sent.expect("kill runs").success(), "kill -{name}");
        if name == "STOP" {
            // Each of its threads stops on its own: one may still answer a moment later.
            let threads = format!("/proc/{}/task", child.id());
            let has_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
                let state = thread.map(|thread| thread.path().join("status"));
                // One that has ended says nothing any more.
                let text = state.and_then(std::fs::read_to_string).unwrap_or_default();
                text.is_empty() || text.contains("State:\tT")
            };
            let is_stopped =
                || std::fs::read_dir(&threads).is_ok_and(|mut all| all.all(has_stopped));
            while !is_stopped() {
                std::thread::yield_now();
            }
        }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("nats.log")).unwrap_or_default()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens at now. None of those that the system gives to connections, which come and go.
pub fn free_port() -> u16 {
    loop {
        let drawn = RandomState::new().build_hasher().finish();
        let port = PORTS.start + (drawn % PORTS.len() as u64) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
