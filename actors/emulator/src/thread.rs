//! A thread of its own for a provider, so that its stamps do not depend on the client's loop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

/// Connections that may wait to be accepted: thousands arrive at once.
const BACKLOG: u32 = 4_096;

/// A thread that serves a port of 127.0.0.1. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    addr: SocketAddr,
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Calls `serve` with a listener on a free port, within the thread's own runtime. It takes calls when this
    /// returns.
    pub(crate) fn start(serve: impl FnOnce(TcpListener) + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (report, reported) = mpsc::channel();
        let thread =
            Builder::new().name("emulator".into()).spawn(move || run(serve, stopped, report))?;
        let addr = reported.recv().map_err(io::Error::other)??;
        Ok(Self { addr, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection and ends the thread. Repeats are harmless.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its own thread, and the score tells the rest.
            thread.join().ok();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(
    serve: impl FnOnce(TcpListener),
    stopped: oneshot::Receiver<()>,
    report: mpsc::Sender<io::Result<SocketAddr>>,
) {
    let ran =
        tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            runtime.block_on(async {
                let listener = listen()?;
                let addr = listener.local_addr()?;
                serve(listener);
                report.send(Ok(addr)).ok();
                // It never carries a value: the sender is dropped to stop.
                stopped.await.ok();
                Ok(())
            })
        });
    if let Err(error) = ran {
        report.send(Err(error)).ok();
    }
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(BACKLOG)
}
