//! A network between a client and a server that fails on purpose: a TCP proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

/// What becomes of bytes from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requests {
    Pass,
    /// Kept until [`Network::release`], also beyond the end of the client's side.
    Hold,
}

#[derive(Debug, Clone, Copy)]
struct Mode {
    requests: Requests,
    replies_pass: bool,
}

/// The proxy; gone when dropped.
#[derive(Debug)]
pub(super) struct Network {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    cut: Arc<Notify>,
    release: Arc<Notify>,
    released: tokio::sync::Mutex<mpsc::Receiver<()>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Network {
    pub(super) async fn to(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Mode { requests: Requests::Pass, replies_pass: true };
        let mode = Arc::new(watch::Sender::new(mode));
        let (cut, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, released) = mpsc::channel(16);
        let (modes, cuts, releases) = (mode.clone(), cut.clone(), release.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(upstream) = TcpStream::connect(&server).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = upstream.into_split();
                tokio::spawn(requests(
                    from_client,
                    to_server,
                    modes.clone(),
                    cuts.clone(),
                    releases.clone(),
                    told.clone(),
                ));
                tokio::spawn(replies(from_server, to_client, modes.clone(), cuts.clone()));
            }
        });
        let released = tokio::sync::Mutex::new(released);
        Self { address, mode, cut, release, released, accepting }
    }

    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on, what the server says does not arrive.
    pub(super) fn swallow_replies(&self) {
        self.mode.send_modify(|mode| mode.replies_pass = false);
    }

    pub(super) fn requests(&self, requests: Requests) {
        self.mode.send_modify(|mode| mode.requests = requests);
    }

    /// Closes every connection on the client's side; what is held stays held.
    pub(super) fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// New connections pass everything.
    pub(super) fn heal(&self) {
        self.mode.send_replace(Mode { requests: Requests::Pass, replies_pass: true });
    }

    /// Lets through what was held.
    pub(super) async fn release(&self) {
        self.release.notify_waiters();
        self.released.lock().await.recv().await.unwrap();
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: Arc<watch::Sender<Mode>>,
    cut: Arc<Notify>,
    release: Arc<Notify>,
    released: mpsc::Sender<()>,
) {
    let cut = cut.notified();
    tokio::pin!(cut);
    let mut held = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = tokio::select! {
            count = from.read(&mut buffer) => count.unwrap_or(0),
            () = &mut cut => 0,
        };
        if count == 0 {
            break;
        }
        let bytes = &buffer[..count];
        if mode.borrow().requests == Requests::Hold || !held.is_empty() {
            held.extend_from_slice(bytes);
        } else if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    if !held.is_empty() {
        release.notified().await;
        to.write_all(&held).await.unwrap();
        // Read by the server before the end of the connection is.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        released.send(()).await.unwrap();
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: Arc<watch::Sender<Mode>>,
    cut: Arc<Notify>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let (mut open, mut passes) = (true, true);
    let cut = cut.notified();
    tokio::pin!(cut);
    loop {
        let count = tokio::select! {
            count = from.read(&mut buffer) => count.unwrap_or(0),
            () = &mut cut, if open => {
                open = false;
                to.shutdown().await.ok();
                continue;
            }
        };
        if count == 0 {
            return;
        }
        // Bytes in the middle cannot be left out: once silent, a connection stays so.
        passes &= mode.borrow().replies_pass;
        if open && passes && to.write_all(&buffer[..count]).await.is_err() {
            open = false;
        }
    }
}
