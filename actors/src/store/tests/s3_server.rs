//! A real S3 server (s3s-fs, installed by `bin/test`) as a process that can be killed, and a proxy before it
//! that makes trouble. The proxy passes everything on as it is, signatures too. Only the list of uploads,
//! which s3s-fs does not have, is its own; that request's signature is still checked by s3s-fs.

#![allow(dead_code, reason = "two test suites share it, and neither needs all of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "it watches a process from outside, on the real clock"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tempfile::TempDir;
use tokio::sync::oneshot;

pub(crate) const BUCKET: &str = "bucket";
pub(crate) const KEY_ID: &str = "AKIATEST";
pub(crate) const SECRET: &str = "s3cr3t-of-the-bucket";

/// The server, its files and the proxy. All end with this.
#[derive(Debug)]
pub(crate) struct S3Server {
    root: TempDir,
    port: u16,
    child: Option<Child>,
    proxy: SocketAddr,
    pub(crate) trouble: Arc<Mutex<Trouble>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the proxy does, and what it has seen.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// So many requests from now on are answered 503 SlowDown.
    pub(crate) slow_down: u64,
    /// And of all others one in so many; 0: none.
    pub(crate) slow_down_one_in: u64,
    /// Every request is answered with this status and code.
    pub(crate) says: Option<(u16, &'static str)>,
    /// Requests of this kind are answered 403 AccessDenied.
    pub(crate) denies: Option<&'static str>,
    /// The next put of a key that ends so is passed on, and its answer is lost: another takes its place.
    pub(crate) loses: Option<&'static str>,
    /// Puts under a condition are answered 501 NotImplemented, and counted as `PUT if`.
    pub(crate) no_conditions: bool,
    /// Requests are read and never answered.
    pub(crate) silent: bool,
    /// Uploads on a page of the list; 0: 1,000.
    pub(crate) page: usize,
    /// The list is answered with this status instead.
    pub(crate) no_list: Option<u16>,
    /// Uploads that were begun and neither completed nor aborted: key and id, and how many hours ago.
    pub(crate) uploads: BTreeMap<(String, String), u64>,
    /// Requests by what they are: `PUT`, `PUT part`, `POST begin`, `POST complete`, `DELETE abort`, …
    pub(crate) seen: BTreeMap<String, u64>,
    /// `Content-Type` of each object put whole.
    pub(crate) content_types: BTreeMap<String, String>,
    count: u64,
}

impl S3Server {
    /// With an empty bucket.
    pub(crate) fn start() -> Self {
        let root = TempDir::with_prefix("tollgate-s3-").unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        // Somebody else may have the port by now.
        let mut started = (0..5).map(|_| super::free_port());
        let started = started.find_map(|port| Some((port, launch(root.path(), port)?)));
        let (port, child) = started.expect("s3s-fs listens");
        let trouble = Arc::<Mutex<Trouble>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let told = Arc::clone(&trouble);
        let thread = thread::spawn(move || serve(listener, port, &told, stopped));
        Self {
            root,
            port,
            child: Some(child),
            proxy,
            trouble,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// By way of the proxy.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.proxy)
    }

    /// Without the proxy.
    pub(crate) fn direct(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `kill -9`: connections break and are refused from now on.
    pub(crate) fn go_away(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it again on the same port and files.
    pub(crate) fn come_back(&mut self) {
        self.child = launch(self.root.path(), self.port);
        assert!(self.child.is_some(), "s3s-fs does not listen");
    }

    /// Where the server keeps the objects of the bucket as plain files.
    pub(crate) fn files(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// The server's files of parts whose upload was neither completed nor aborted.
    pub(crate) fn parts(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".upload_id-")).collect()
    }

    /// How many requests of a kind have come to the proxy.
    pub(crate) fn seen(&self, what: &str) -> u64 {
        self.trouble.lock().unwrap().seen.get(what).copied().unwrap_or(0)
    }

    /// Makes all uploads look as old.
    pub(crate) fn age_uploads(&self, hours: u64) {
        self.trouble.lock().unwrap().uploads.values_mut().for_each(|age| *age = hours);
    }

    /// How many are neither completed nor aborted.
    pub(crate) fn uploads(&self) -> usize {
        self.trouble.lock().unwrap().uploads.len()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Starts the server; nothing if it ends at once, or nobody can connect.
fn launch(root: &Path, port: u16) -> Option<Child> {
    let mut child = Command::new(program())
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--access-key", KEY_ID, "--secret-key", SECRET])
        .arg(root)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..2000 {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().ok();
    child.wait().ok();
    None
}

/// Where `bin/test` has put it.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("TOLLGATE_S3S_FS") {
        return path.into();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|up| up.join("target/tools/bin/s3s-fs")).find(|p| p.is_file());
    found.expect("s3s-fs is not installed: `bin/test --tools` does it, once")
}

fn serve(
    listener: TcpListener,
    port: u16,
    trouble: &Arc<Mutex<Trouble>>,
    stopped: oneshot::Receiver<()>,
) {
    // Its client needs one, whoever else has installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let accept = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                stream.set_nodelay(true).unwrap();
                let (client, trouble) = (client.clone(), Arc::clone(trouble));
                let service = service_fn(move |request| {
                    let (client, trouble) = (client.clone(), Arc::clone(&trouble));
                    async move { Ok::<_, Infallible>(answer(request, port, &client, &trouble).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        };
        tokio::select! {
            () = accept => {}
            _ = stopped => {}
        }
    });
}

type Answer = Response<Full<Bytes>>;

fn error(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>as the test says\
         </Message></Error>"
    );
    Response::builder().status(status).body(Full::from(body)).unwrap()
}

/// The value of a parameter, decoded.
fn query(request: &Request<Incoming>, name: &str) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    let url = reqwest::Url::parse(&format!("http://x/?{query}")).unwrap();
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.map(|(_, value)| value.into_owned())
}

async fn answer(
    request: Request<Incoming>,
    port: u16,
    client: &reqwest::Client,
    trouble: &Mutex<Trouble>,
) -> Answer {
    let (begins, upload) = (query(&request, "uploads").is_some(), query(&request, "uploadId"));
    let what = match (request.method().as_str(), begins, &upload) {
        ("GET", true, _) => "GET uploads".to_owned(),
        ("GET", ..) if query(&request, "list-type").is_some() => "GET list".to_owned(),
        ("POST", true, _) => "POST begin".to_owned(),
        ("POST", _, Some(_)) => "POST complete".to_owned(),
        ("PUT", _, Some(_)) => "PUT part".to_owned(),
        ("DELETE", _, Some(_)) => "DELETE abort".to_owned(),
        (other, ..) => other.to_owned(),
    };
    let silent = {
        let mut trouble = trouble.lock().unwrap();
        *trouble.seen.entry(what.clone()).or_default() += 1;
        trouble.count += 1;
        let every = trouble.slow_down_one_in;
        let due = trouble.slow_down > 0;
        trouble.slow_down = trouble.slow_down.saturating_sub(1);
        if due || (every > 0 && trouble.count.is_multiple_of(every)) {
            return error(503, "SlowDown");
        }
        if let Some((status, code)) = trouble.says {
            return error(status, code);
        }
        if trouble.no_conditions && request.headers().contains_key("if-none-match") {
            *trouble.seen.entry("PUT if".to_owned()).or_default() += 1;
            return error(501, "NotImplemented");
        }
        if trouble.denies == Some(&*what) {
            return error(403, "AccessDenied");
        }
        trouble.silent
    };
    if silent {
        std::future::pending::<()>().await;
    }
    let marker = (
        query(&request, "key-marker").unwrap_or_default(),
        query(&request, "upload-id-marker").unwrap_or_default(),
    );
    let prefix = query(&request, "prefix").unwrap_or_default();
    let list = begins && request.method() == Method::GET;
    let bucket = format!("/{BUCKET}/");
    let key = request.uri().path().strip_prefix(&bucket).unwrap_or_default().to_owned();
    let url = format!("http://127.0.0.1:{port}{}", request.uri());
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return error(400, "IncompleteBody") };
    let content_type = head.headers.get("content-type").map(|v| v.to_str().unwrap().to_owned());
    // `Host` is signed, so it stays what the client said.
    let passed = client.request(head.method, url).headers(head.headers).body(body.to_bytes());
    let Ok(passed) = passed.send().await else { return error(502, "BadGateway") };
    let (status, headers) = (passed.status(), passed.headers().clone());
    let Ok(bytes) = passed.bytes().await else { return error(502, "BadGateway") };
    let mut trouble = trouble.lock().unwrap();
    if list && status == StatusCode::NOT_IMPLEMENTED {
        return match trouble.no_list {
            Some(status) => error(status, "AccessDenied"),
            None => Response::new(Full::from(trouble.page_after(&prefix, marker))),
        };
    }
    if &*what == "PUT" && trouble.loses.is_some_and(|end| key.ends_with(end)) {
        trouble.loses = None;
        return error(400, "Lost");
    }
    if status.is_success() {
        let text = String::from_utf8_lossy(&bytes);
        let between = |from: &str, to: &str| {
            let (_, rest) = text.split_once(from).unwrap();
            rest.split_once(to).unwrap().0.to_owned()
        };
        match (&*what, upload) {
            ("POST begin", _) => {
                let id = between("<UploadId>", "</UploadId>");
                let key = between("<Key>", "</Key>").replace("&amp;", "&");
                trouble.uploads.insert((key, id), 0);
            }
            ("POST complete" | "DELETE abort", Some(id)) => {
                trouble.uploads.retain(|(_, other), _| *other != id);
            }
            ("PUT", _) => {
                trouble.content_types.insert(key, content_type.unwrap_or_default());
            }
            _ => {}
        }
    }
    let mut answer = Response::new(Full::from(bytes));
    *answer.status_mut() = status;
    for (name, value) in &headers {
        // The length of what a HEAD does not bring is told by this alone.
        let passes = match name.as_str() {
            "content-length" => &*what == "HEAD",
            "transfer-encoding" | "connection" => false,
            _ => true,
        };
        if passes {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

impl Trouble {
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>
    fn page_after(&self, prefix: &str, marker: (String, String)) -> String {
        let most = if self.page == 0 { 1000 } else { self.page };
        let now = jiff::Timestamp::now();
        let mut later = self
            .uploads
            .iter()
            .filter(|(upload, _)| upload.0.starts_with(prefix) && **upload > marker);
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListMultipartUploadsResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>{BUCKET}</Bucket>"
        );
        let mut last = None;
        for ((key, id), hours) in later.by_ref().take(most) {
            let at = now - Duration::from_secs(hours * 3600);
            let key = key.replace('&', "&amp;");
            write!(
                text,
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiator><ID>x</ID></Initiator>\
                 <StorageClass>STANDARD</StorageClass><Initiated>{at:.3}</Initiated></Upload>"
            )
            .unwrap();
            last = Some((key, id));
        }
        let more = later.next().is_some();
        write!(text, "<IsTruncated>{more}</IsTruncated>").unwrap();
        if let (true, Some((key, id))) = (more, last) {
            write!(
                text,
                "<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>"
            )
            .unwrap();
        }
        text + "</ListMultipartUploadsResult>"
    }
}
