//! What one small object costs in a bucket: CPU of this process for each, and objects in a second.
//!
//! Starts s3s-fs (installed by `bin/test --tools`) on loopback, puts objects of 1 KB through the whole way a
//! body takes (sink, SHA-256, put), 64 of them at once by default, on one thread as a shard does.
//!
//! `cargo bench -p tollgate-actors --bench put [-- OBJECTS IN_FLIGHT]`, by default 20000 and 64.

#![allow(clippy::print_stdout)]

use std::net::{TcpListener, TcpStream};
use std::path::Path as FsPath;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use tokio::time::{Instant, sleep};
use tollgate_actors::plan::{BucketPlan, Provider, S3Credentials};
use tollgate_actors::store::{Codec, Decode, EXPAND_MAX, SinkOptions, Store, Unwrap};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Killed at the end.
struct Server {
    child: Child,
    port: u16,
    _root: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn server() -> Server {
    let here = FsPath::new(env!("CARGO_MANIFEST_DIR"));
    let mut places = here.ancestors().map(|up| up.join("target/tools/bin/s3s-fs"));
    let program = places.find(|path| path.is_file()).expect("bin/test --tools has been run");
    let root = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(root.path().join("bucket")).expect("a bucket");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let child = Command::new(program)
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--access-key", "id", "--secret-key", "secret"])
        .arg(root.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("s3s-fs starts");
    let server = Server { child, port, _root: root };
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    server
}

/// Seconds of CPU of this process so far, user and system.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(')').expect("pid (name) fields");
    let field =
        |n: usize| fields.split_whitespace().nth(n).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(11).expect("utime") + field(12).expect("stime");
    // USER_HZ is 100 on every Linux.
    ticks as f64 / 100.0
}

async fn put(store: &Store, number: usize, body: &Bytes) {
    let options = SinkOptions {
        unwrap: Unwrap::None,
        charset: None,
        codec: Codec::None,
        decode: Decode::Identity,
        body_bytes_max: 1 << 33,
        expand_max: EXPAND_MAX,
    };
    let key = Path::from(format!("report/act_{}/{number}.json", number % 100));
    let mut sink = store.sink(key, options);
    sink.write(body.clone()).await.expect("written");
    sink.finish().await.expect("stored");
}

async fn measure(store: &Store, objects: usize, in_flight: usize) {
    let body = Bytes::from(vec![b'x'; 1024]);
    let (before, begun) = (cpu(), Instant::now());
    futures_util::stream::iter(0..objects)
        .map(|number| put(store, number, &body))
        .buffer_unordered(in_flight)
        .for_each(|()| async {})
        .await;
    let (took, used) = (begun.elapsed().as_secs_f64(), cpu() - before);
    println!(
        "{objects} objects of 1 KB, {in_flight} at once: {:.0} objects/s, {:.0} us of CPU each",
        objects as f64 / took,
        used * 1e6 / objects as f64
    );
}

fn main() {
    // `cargo bench` adds `--bench`.
    let numbers: Vec<usize> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let objects = numbers.first().copied().unwrap_or(20_000);
    let in_flight = numbers.get(1).copied().unwrap_or(64);
    tollgate_actors::install_tls();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = server().await;
        let plan = BucketPlan {
            bucket: "bucket".to_owned(),
            prefix: "prefix".to_owned(),
            endpoint: format!("http://127.0.0.1:{}", server.port).parse().ok(),
            concurrency: 256,
            provider: Provider::S3 {
                region: "us-east-1".to_owned(),
                path_style: true,
                credentials: S3Credentials::Keys {
                    id: "id".to_owned().into(),
                    secret: "secret".to_owned().into(),
                    token: None,
                },
            },
        };
        let store = Store::open_bucket(&plan, 1 << 33, 256 << 20).expect("a store");
        measure(&store, (objects / 10).max(1), in_flight).await;
        measure(&store, objects, in_flight).await;
        measure(&store, (objects / 4).max(1), 1).await;
    });
}
