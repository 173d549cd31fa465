//! What a node answers over HTTP: `/healthz`, `/readyz`, `/metrics`, the page at `/` and the API it stands on.
//!
//! The server has one thread with a runtime of its own, so that no question ever holds up a fetch. What health and
//! metrics tell is at hand already ([`Health`], the metrics' recorder), and no shard is asked for it; the API asks shards
//! and other nodes ([`api`]), so many questions at a time. Everything a client may take is bounded: connections, a
//! request's head and body, a connection's time.

mod api;
mod guard;
mod page;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::http::{Request, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tollgate_actors::codes::Code;
use tollgate_actors::health::{Condition, Health};
use tollgate_actors::plan::HttpPlan;
use tollgate_actors::telemetry::{self, METRICS, describe_metrics};
use tower_service::Service;

pub(crate) use self::api::Counter;
use self::api::{Desks, Ends, Live};
use self::guard::Lock;

/// Open connections; at one more, the oldest is closed.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take, and the wait for the next one on the same connection.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection is kept; one with an answer on its way has [`ANSWER_WITHIN`] more.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The metrics are written out anew at most this often, whoever asks.
const RENDER_EVERY: Duration = Duration::from_secs(1);
/// How often what histograms have gathered is put into buckets: bounds their memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// After a refused accept, for want of open files say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long answers on their way have at the end.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
const METRICS_TYPE: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON_TYPE: HeaderValue = HeaderValue::from_static("application/json");

/// The server of this process. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    front: Front,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to answer, and to record metrics. Nothing is recorded of what was started before: call this before
/// `Node::start`. Nothing is done without a plan.
///
/// # Errors
/// The address cannot be listened at (TG0313): nothing was begun.
pub(crate) fn start(
    plan: Option<&HttpPlan>,
    health: Arc<Health>,
) -> anyhow::Result<Option<Server>> {
    let Some(HttpPlan { listen, token }) = plan else { return Ok(None) };
    let bind = || {
        let listener = StdListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>((listener.local_addr()?, listener))
    };
    let (addr, listener) = bind().with_context(|| {
        format!("{}: listen at {listen} (http.listen) for /metrics and health", Code::HttpListen)
    })?;
    let front = Front(Arc::new(Standing {
        lock: Lock::new(token.as_ref(), addr)?,
        desks: Desks::default(),
        live: Live::default(),
    }));
    let metrics = Metrics { handle: recorder()?, written: None };
    let answers = Answers { health, metrics, front: front.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of the HTTP server")?;
    let (stop, stopped) = watch::channel(false);
    let serve = move || runtime.block_on(serve(listener, answers, stopped));
    let thread = std::thread::Builder::new().name("http".into()).spawn(serve);
    let thread = Some(thread.context("start the thread of the HTTP server")?);
    Ok(Some(Server { addr, front, stop, thread }))
}

impl Server {
    /// Where it listens; the port is known here also where the plan said 0.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Has the page and the API answered from now on; with nothing, no more.
    pub(crate) fn attend(&self, counter: Option<Counter>) {
        self.front.desks.attend(counter);
    }

    /// Ends it: the port is free and the thread is gone when this returns. Blocks for half a second at most.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It has said what it panicked of.
            let _panicked = thread.join();
        }
    }
}

/// The recorder of this process; installed once, whatever is started later.
fn recorder() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS.iter().filter(|metric| !metric.buckets.is_empty()) {
        let name = Matcher::Full(metric.name.to_owned());
        builder = builder.set_buckets_for_metric(name, metric.buckets).context("set buckets")?;
    }
    let handle = builder.install_recorder().context("install the recorder of metrics")?;
    describe_metrics();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

async fn serve(listener: StdListener, answers: Answers, mut stopped: watch::Receiver<bool>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => unreachable!("a socket of this process in its own runtime: {error}"),
    };
    let handle = answers.metrics.handle.clone();
    let router = router(answers);
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            _ = upkeep.tick() => {
                handle.run_upkeep();
                continue;
            }
            // An error means that the server was dropped.
            _ = stopped.changed() => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= CONNECTIONS_MAX
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        let connection = converse(stream, router.clone(), stopped.clone());
        oldest_first.push_back(connections.spawn(connection));
    }
    drop(listener);
    let all_end = async { while connections.join_next().await.is_some() {} };
    // Those that have not ended are dropped with the runtime.
    let _in_time = timeout(STOP_WITHIN, all_end).await;
}

/// One connection until its end.
async fn converse(stream: TcpStream, router: Router, mut stopped: watch::Receiver<bool>) {
    // A small answer waits for nothing; where that is refused, it waits a little.
    let _set = stream.set_nodelay(true);
    let ends = Ends(Instant::now() + CONNECTION_LIFE);
    let answer = move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ends);
        // A router is always ready.
        router.clone().call(request)
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What goes wrong on a connection is its client's to see.
        _ended = connection.as_mut() => return,
        () = sleep(CONNECTION_LIFE) => {}
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _in_time = timeout(ANSWER_WITHIN, connection).await;
}

/// What all answers are made of.
#[derive(Debug)]
struct Answers {
    health: Arc<Health>,
    metrics: Metrics,
    front: Front,
}

/// What the page and the API stand on. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
struct Front(Arc<Standing>);

#[derive(Debug)]
struct Standing {
    lock: Lock,
    desks: Desks,
    live: Live,
}

impl std::ops::Deref for Front {
    type Target = Standing;

    fn deref(&self) -> &Standing {
        &self.0
    }
}

#[derive(Debug)]
struct Metrics {
    handle: PrometheusHandle,
    /// The text as it was last written, and when.
    written: Option<(Instant, axum::body::Bytes)>,
}

fn router(answers: Answers) -> Router {
    let Answers { health, metrics, front } = answers;
    let metrics = Arc::new(std::sync::Mutex::new(metrics));
    let alive = Arc::clone(&health);
    let health = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(health);
    let metrics = Router::new().route("/metrics", get(text)).with_state((alive, metrics));
    let shown = page::router().merge(api::router());
    let shown = shown.layer(from_fn_with_state(front.clone(), guard::guard)).with_state(front);
    health.merge(metrics).merge(shown).fallback(not_found)
}

/// Whether the process works.
#[derive(Debug, Serialize)]
struct Alive {
    alive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Condition>,
}

/// Whether fetches are collected.
#[derive(Debug, Serialize)]
struct Ready {
    ready: bool,
    reasons: Vec<Condition>,
    /// Those that this node holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<Vec<u32>>,
}

async fn healthz(State(health): State<Arc<Health>>) -> Response {
    let reason = health.stuck();
    let alive = reason.is_none();
    json(alive, &Alive { alive, reason })
}

async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let reasons = health.reasons();
    let ready = reasons.is_empty();
    json(ready, &Ready { ready, reasons, partitions: health.partitions() })
}

fn json(well: bool, body: &impl Serialize) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = serde_json::to_string(body).expect("names, sentences and times are JSON");
    text.push('\n');
    let headers =
        [(CONTENT_TYPE, JSON_TYPE), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, headers, text).into_response()
}

async fn text(
    State((health, metrics)): State<(Arc<Health>, Arc<std::sync::Mutex<Metrics>>)>,
) -> Response {
    // One thread: nobody else holds it, and nothing is awaited meanwhile.
    let mut metrics = metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = match &metrics.written {
        Some((at, text)) if at.elapsed() < RENDER_EVERY => text.clone(),
        _ => {
            // Where a shard hangs nobody else would tell.
            telemetry::alive(health.stuck().is_none());
            let text = axum::body::Bytes::from(metrics.handle.render());
            metrics.written = Some((Instant::now(), text.clone()));
            text
        }
    };
    ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

async fn not_found() -> Response {
    let known = "there are /, /api/v1, /healthz, /readyz and /metrics\n";
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
    (StatusCode::NOT_FOUND, headers, known).into_response()
}
