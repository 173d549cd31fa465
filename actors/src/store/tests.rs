//! Claims about the store, on files, in memory and in a bucket.

mod away;
mod bodies;
mod bounds;
mod buckets;
mod files;
mod files_in_bodies;
mod members;
mod s3;
mod s3_server;
mod servers;

use std::io::{Read, Write};
use std::path::Path as FsPath;
use std::time::Duration;

use flate2::Compression;
use tempfile::TempDir;

use self::s3_server::{BUCKET, KEY_ID, S3Server, SECRET};
use super::*;
use crate::plan::{Provider, S3Credentials};
use crate::testkit::nats_server::free_port;

/// What keys in the bucket begin with; the space and the sign are encoded on the way.
const PREFIX: &str = "a b/c&d";
const MIB: usize = 1024 * 1024;
const CODECS: [Codec; 3] = [Codec::None, Codec::Gzip, Codec::Zstd];
const STREAM_SHARE_BYTES: u64 = 2 * FILE_PART_BYTES as u64 + STREAM_SLACK_BYTES;
/// A budget for one streaming body and one small one.
const LEAST_BYTES: u64 = STREAM_SHARE_BYTES + budget::SMALL_SHARE_BYTES;

fn options(codec: Codec, decode: Decode) -> SinkOptions {
    SinkOptions {
        codec,
        decode,
        unwrap: Unwrap::None,
        charset: None,
        body_bytes_max: 1 << 33,
        expand_max: EXPAND_MAX,
    }
}

fn plain(codec: Codec) -> SinkOptions {
    options(codec, Decode::Identity)
}

fn memory() -> Store {
    Store::memory(64 * MIB as u64).unwrap()
}

/// A store in a bucket, and the server that has it.
fn bucket() -> (Store, S3Server) {
    let server = S3Server::start();
    (bucket_at(&server.endpoint()), server)
}

fn bucket_at(endpoint: &str) -> Store {
    bucket_with(endpoint, SECRET)
}

fn bucket_with(endpoint: &str, secret: &str) -> Store {
    let keys = S3Credentials::Keys {
        id: KEY_ID.to_owned().into(),
        secret: secret.to_owned().into(),
        token: None,
    };
    open_bucket(&s3_plan(endpoint, keys))
}

fn s3_plan(endpoint: &str, credentials: S3Credentials) -> BucketPlan {
    let region = "eu-north-1".to_owned();
    plan_of(BUCKET, endpoint, Provider::S3 { region, path_style: true, credentials })
}

fn plan_of(bucket: &str, endpoint: &str, provider: Provider) -> BucketPlan {
    BucketPlan {
        bucket: bucket.to_owned(),
        prefix: PREFIX.to_owned(),
        endpoint: Some(endpoint.parse().unwrap()),
        concurrency: 256,
        provider,
    }
}

fn open_bucket(plan: &BucketPlan) -> Store {
    crate::install_tls();
    Store::open_bucket(plan, 1 << 33, 128 * MIB as u64).unwrap()
}

fn files_with(budget: u64) -> (Store, TempDir) {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    (Store::open_file(folder.path(), &state, false, budget).unwrap(), folder)
}

fn files() -> (Store, TempDir) {
    files_with(64 * MIB as u64)
}

/// Something like a report: it compresses, but not to nothing.
fn report(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut out = Vec::with_capacity(bytes + 64);
    while out.len() < bytes {
        let (id, clicks) = (random.u64(..), random.u16(..));
        writeln!(out, r#"{{"campaign_id":{id},"clicks":{clicks},"currency":"KRW"}}"#).unwrap();
    }
    out.truncate(bytes);
    out
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(bytes))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn decompressed(codec: Codec, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match codec {
        Codec::None => out.extend_from_slice(object),
        Codec::Gzip => drop(flate2::read::GzDecoder::new(object).read_to_end(&mut out).unwrap()),
        Codec::Zstd => out = zstd::stream::decode_all(object).unwrap(),
    }
    out
}

async fn object(store: &Store, key: &Path) -> Option<Bytes> {
    match store.inner.objects.get(key).await {
        Ok(found) => Some(found.bytes().await.unwrap()),
        Err(object_store::Error::NotFound { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Sends a body in pieces of the given sizes, over and over.
async fn send(
    store: &Store,
    key: &str,
    options: SinkOptions,
    body: &[u8],
    pieces: &[usize],
) -> Result<Stored, SinkError> {
    let mut sink = store.sink(Path::from(key), options);
    let mut rest = body;
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        sink.write(Bytes::copy_from_slice(now)).await?;
        rest = later;
    }
    sink.finish().await
}

/// Sends a body and checks every fact about what was stored.
async fn send_and_check(
    store: &Store,
    key: &str,
    options: SinkOptions,
    wire: &[u8],
    body: &[u8],
    pieces: &[usize],
) {
    let stored = send(store, key, options.clone(), wire, pieces).await.unwrap();
    let found = object(store, &stored.key).await.unwrap();
    let got = decompressed(options.codec, &found);
    assert!(got == body, "{key}: another body ({} bytes for {})", got.len(), body.len());
    let facts = Stored {
        key: Path::from(key),
        bytes: body.len() as u64,
        sha256: sha256(body),
        stored_bytes: found.len() as u64,
        stored_sha256: sha256(&found),
    };
    assert_eq!(stored, facts);
}

/// All files below a folder, by name relative to it.
fn names(root: &FsPath) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root).unwrap().to_owned();
                names.push(name.to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    names
}

/// Waits until something holds that no event tells; fails after ten seconds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
}
