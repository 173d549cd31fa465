//! What reqwest's connector layer can tell: when this call began to connect, and when it was done.
//!
//! reqwest hands out sealed connections, so the write of a request cannot be stamped by wrapping them.
//! But hyper's pool polls the connector inside the future of the call that wants a connection, so a
//! task-local note finds its call. Three things follow (hyper-util 0.1, `one_connection_for`):
//! - no connect of its own began: the call went out on a warm connection, at once;
//! - it began and ended: the request was written on it right after, or earlier on another one that came
//!   free meanwhile; either way not later than right after the end;
//! - a connect begins after the request was believed written: the warm connection turned out to be
//!   closed and hyper sends the untouched request again.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

tokio::task_local! {
    /// The note of the call whose future is being polled.
    pub(super) static CALL: Arc<ConnectNote>;
}

/// Patience of a connect whose call is not known (hyper goes on in the background).
const CONNECT_DEFAULT: Duration = Duration::from_secs(10);

/// What became of the connects of one call.
#[derive(Debug)]
pub(super) struct ConnectNote {
    begun: AtomicU32,
    ended: AtomicU32,
    /// One more than the number of connects before it was written; zero while it is not.
    written: AtomicU32,
    changed: Notify,
    patience: Duration,
    write_by: Instant,
    /// No connect may begin any more.
    shut: AtomicBool,
}

impl ConnectNote {
    pub(super) fn new(patience: Duration, write_by: Instant) -> Arc<Self> {
        Arc::new(Self {
            begun: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            written: AtomicU32::new(0),
            changed: Notify::new(),
            patience,
            write_by,
            shut: AtomicBool::new(false),
        })
    }

    /// The request was written after that many connects.
    pub(super) fn written(&self, begun: u32) {
        self.written.store(begun + 1, Ordering::Release);
    }

    /// Whether it was written, and no connect has begun since.
    pub(super) fn is_written(&self) -> bool {
        self.written.load(Ordering::Acquire) == self.begun() + 1
    }

    /// By when it has to be written.
    pub(super) fn write_by(&self) -> Instant {
        self.write_by
    }

    /// The request was written, and is not to be written again.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// How many connects began.
    pub(super) fn begun(&self) -> u32 {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether one is under way.
    pub(super) fn pending(&self) -> bool {
        self.begun() != self.ended.load(Ordering::Acquire)
    }

    /// Waits until a connect begins or ends.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Counts a connect as ended however it ends, also by being dropped.
struct Ending(Option<Arc<ConnectNote>>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(note) = &self.0 {
            note.ended.fetch_add(1, Ordering::Release);
            note.changed.notify_one();
        }
    }
}

/// The permit of the call had lapsed when its connection was ready.
#[derive(Debug, thiserror::Error)]
#[error("the connection was ready too late for its permit")]
pub(super) struct TooLate;

/// No connection within the connect timeout.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {0:?}")]
pub(super) struct ConnectTimeout(Duration);

/// Watches a client's connects.
#[derive(Debug, Clone)]
pub(super) struct WatchConnects;

impl<S> Layer<S> for WatchConnects {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner }
    }
}

/// A watched connector.
#[derive(Debug, Clone)]
pub(super) struct Watched<S> {
    inner: S,
}

impl<S, R> Service<R> for Watched<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let note = CALL.try_with(Arc::clone).ok();
        if let Some(note) = &note {
            note.begun.fetch_add(1, Ordering::Release);
            note.changed.notify_one();
        }
        if note.as_ref().is_some_and(|note| note.shut.load(Ordering::Acquire)) {
            drop(Ending(note));
            return Box::pin(async { Err(TooLate.into()) });
        }
        let ending = Ending(note);
        let connecting = self.inner.call(request);
        Box::pin(async move {
            let ending = ending;
            let patience = ending.0.as_ref().map_or(CONNECT_DEFAULT, |note| note.patience);
            let connection = tokio::time::timeout(patience, connecting)
                .await
                .map_err(|_| ConnectTimeout(patience))??;
            // A timer polls what it guards first: a process that was stopped while connecting would
            // write its request however late it is. So the clock is compared once more.
            if ending.0.as_ref().is_some_and(|note| Instant::now() > note.write_by) {
                return Err(TooLate.into());
            }
            Ok(connection)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use super::*;

    #[derive(Clone, Default)]
    struct Counted(Arc<AtomicU32>);

    impl Service<()> for Counted {
        type Response = ();
        type Error = BoxError;
        type Future = Ready<Result<(), BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            self.0.fetch_add(1, Ordering::AcqRel);
            ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn no_connect_begins_once_a_request_was_said_to_be_written_for_good() {
        let (connects, far) = (Counted::default(), Duration::from_secs(60));
        let mut watched = WatchConnects.layer(connects.clone());
        let note = ConnectNote::new(far, Instant::now() + far);
        let calls = async {
            watched.call(()).await.unwrap();
            note.shut();
            let error = watched.call(()).await.unwrap_err();
            assert!(error.is::<TooLate>(), "{error}");
        };
        CALL.scope(Arc::clone(&note), calls).await;
        assert_eq!(connects.0.load(Ordering::Acquire), 1);
        assert!(note.begun() == 2 && !note.pending());
    }
}
