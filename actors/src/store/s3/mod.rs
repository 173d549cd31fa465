//! Objects in a bucket of S3 or of a store that speaks its language.
//!
//! Decides how requests are made, how often and how many at once. A failed request is repeated by
//! `object_store`, which signs and speaks; what still fails is the caller's to act on.
//!
//! # Bounds
//!
//! - At most [`S3Plan::concurrency`] operations of the node at once; others wait in turn.
//! - An operation is tried again after 5xx, 429, 408 and a lost connection: up to [`RETRIES_MAX`] times
//!   with 0.2 to 5 s in between, about 12 s in all, and no more once [`RETRY_WITHIN`] have passed. One that
//!   hears nothing ends after [`SILENCE_MAX`] and a second for each MiB of a part.
//! - A body of up to one part is one put; a larger one has at most [`PARTS_MAX`] parts of one size, at
//!   least [`PART_BYTES_MIN`], one of them on its way while the next is filled.

mod client;
mod leftovers;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpClient, HttpConnector};
use object_store::limit::LimitStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use secrecy::ExposeSecret;

use self::client::{PerThread, Streak};
use super::error::OpenError;
use super::leftovers::Cleaned;
use crate::plan::{S3Credentials, S3Plan};

/// Largest object (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>): what every
/// compatible store has taken from S3.
pub const S3_BODY_BYTES_MAX: u64 = 5 << 40;
/// Most parts of an object, and the least a part has that is not the last (the same page).
const PARTS_MAX: u64 = 10_000;
const PART_BYTES_MIN: u64 = 5 << 20;
/// Longest key in bytes, the prefix included
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>).
const KEY_BYTES_MAX: usize = 1024;

/// How often an operation is repeated, and until when after its beginning.
const RETRIES_MAX: usize = 7;
const RETRY_WITHIN: Duration = Duration::from_secs(20);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the answer to a request without a body.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Idle connections are closed before the store does.
const IDLE: Duration = Duration::from_secs(15);

const USER_AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

/// What a key ends in and what is told of its object. A compressed object is what it is: with a content
/// encoding some clients would hand out other bytes than were stored.
const CONTENT_TYPES: &[(&str, &str)] = &[
    ("zst", "application/zstd"),
    ("gz", "application/gzip"),
    ("json", "application/json"),
    ("csv", "text/csv"),
    ("txt", "text/plain"),
    ("html", "text/html"),
];
const CONTENT_TYPE: &str = "application/octet-stream";

/// Size of a part where bodies have up to `body_bytes_max` bytes: so large that the parts suffice.
pub(super) fn part_bytes(body_bytes_max: u64) -> u64 {
    // What does not compress grows: zstd by a 256th and a block's head, gzip by less.
    let stored = body_bytes_max.saturating_add(body_bytes_max / 128 + 64 * 1024);
    stored.div_ceil(PARTS_MAX).max(PART_BYTES_MIN)
}

/// What only a bucket has.
#[derive(Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    /// For what `object_store` has no call.
    http: HttpClient,
    /// The URL of the bucket, without a slash at its end.
    url: String,
    region: String,
    prefix: Path,
    retries: RetryConfig,
    concurrency: usize,
    streak: Arc<Streak>,
}

impl Bucket {
    /// No request is made.
    pub(super) fn new(plan: &S3Plan, part_bytes: u64) -> Result<Self, OpenError> {
        let refused = |source: object_store::Error| OpenError::Bucket {
            bucket: plan.bucket.clone(),
            source: source.into(),
        };
        let prefix = Path::parse(&plan.prefix).map_err(|e| refused(e.into()))?;
        let retries = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: BACKOFF_FIRST,
                max_backoff: BACKOFF_MAX,
                base: 3.0,
            },
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_WITHIN,
        };
        let url = bucket_url(plan);
        let tls = url.starts_with("https:");
        let options = client_options(tls, part_bytes, plan.concurrency);
        let streak = Arc::<Streak>::default();
        let connector = PerThread { streak: Arc::clone(&streak) };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&plan.bucket)
            .with_region(&plan.region)
            .with_endpoint(&url)
            // The endpoint names the bucket already, in its host or its path.
            .with_virtual_hosted_style_request(true)
            .with_client_options(options.clone())
            .with_http_connector(connector.clone())
            .with_retry(retries.clone())
            // TLS guards the bytes on their way; hashing a part would hold up a loop.
            .with_unsigned_payload(tls)
            // A single delete is what every store has.
            .with_disable_bulk_delete(true);
        match &plan.credentials {
            S3Credentials::Keys { id, secret, token } => {
                builder = builder
                    .with_access_key_id(id.expose_secret())
                    .with_secret_access_key(secret.expose_secret());
                if let Some(token) = token {
                    builder = builder.with_token(token.expose_secret());
                }
            }
            S3Credentials::Ambient(variables) => {
                for (name, value) in variables {
                    let key: Result<AmazonS3ConfigKey, _> = name.to_ascii_lowercase().parse();
                    builder = builder.with_config(key.map_err(refused)?, value);
                }
            }
        }
        let store = builder.build().map_err(refused)?;
        let http = connector.connect(&options).map_err(refused)?;
        Ok(Self {
            store,
            http,
            url,
            region: plan.region.clone(),
            prefix,
            retries,
            concurrency: plan.concurrency,
            streak,
        })
    }

    /// The objects below the prefix, no more of them at work on at once than was declared.
    pub(super) fn objects(&self) -> Arc<dyn ObjectStore> {
        let below = PrefixStore::new(self.store.clone(), self.prefix.clone());
        Arc::new(LimitStore::new(below, self.concurrency))
    }

    /// Waits until requests fail one after the other.
    pub(super) async fn failing(&self) {
        self.streak.failing().await;
    }

    /// Why a key may not be used, if it may not.
    pub(super) fn check(&self, key: &Path) -> Result<(), &'static str> {
        let bytes = self.prefix.as_ref().len() + 1 + key.as_ref().len();
        if bytes > KEY_BYTES_MAX {
            Err("a key in a bucket has at most 1,024 bytes")
        } else {
            Ok(())
        }
    }

    /// Aborts uploads below the prefix that were begun before `older_than` and not ended.
    pub(super) async fn clean(&self, older_than: SystemTime) -> Cleaned {
        leftovers::clean(self, older_than).await
    }
}

/// `https://host/bucket` or `https://bucket.host`.
fn bucket_url(plan: &S3Plan) -> String {
    let S3Plan { bucket, region, .. } = plan;
    let endpoint = plan.endpoint.as_ref().map_or_else(
        || format!("https://s3.{region}.amazonaws.com"),
        |url| url.as_str().trim_end_matches('/').to_owned(),
    );
    match endpoint.split_once("://") {
        Some((scheme, rest)) if !plan.path_style => format!("{scheme}://{bucket}.{rest}"),
        _ => format!("{endpoint}/{bucket}"),
    }
}

fn client_options(tls: bool, part_bytes: u64, concurrency: usize) -> ClientOptions {
    let slow = Duration::from_secs(part_bytes.div_ceil(1 << 20));
    let mut options = ClientOptions::new()
        .with_user_agent(http::HeaderValue::from_static(USER_AGENT))
        .with_allow_http(!tls)
        .with_connect_timeout(CONNECT_MAX)
        .with_timeout(SILENCE_MAX + slow)
        .with_pool_idle_timeout(IDLE)
        .with_pool_max_idle_per_host(concurrency)
        .with_default_content_type(CONTENT_TYPE);
    for (suffix, content_type) in CONTENT_TYPES {
        options = options.with_content_type_for_suffix(*suffix, *content_type);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_body_fits_into_the_parts() {
        assert_eq!(part_bytes(8 << 30), PART_BYTES_MIN, "the default");
        for body in [0, 1, 40 << 30, 50 << 30, 1 << 40, S3_BODY_BYTES_MAX] {
            let part = part_bytes(body);
            assert!((PART_BYTES_MIN..5 << 30).contains(&part), "{body}: {part}");
            assert!((body + body / 256 + 1024).div_ceil(part) <= PARTS_MAX, "{body}: {part}");
        }
    }

    #[test]
    fn the_bucket_stands_in_the_path_or_in_the_host() {
        let of = |endpoint: Option<&str>, path_style| {
            bucket_url(&S3Plan {
                bucket: "b".into(),
                prefix: String::new(),
                region: "eu-west-1".into(),
                endpoint: endpoint.map(|url| url.parse().unwrap()),
                path_style,
                concurrency: 1,
                credentials: S3Credentials::Ambient(Vec::new()),
            })
        };
        assert_eq!(of(None, false), "https://b.s3.eu-west-1.amazonaws.com");
        assert_eq!(of(None, true), "https://s3.eu-west-1.amazonaws.com/b");
        assert_eq!(of(Some("http://h:9000/"), true), "http://h:9000/b");
        assert_eq!(of(Some("http://h:9000"), false), "http://b.h:9000");
        assert_eq!(of(Some("https://h/s3/"), true), "https://h/s3/b");
    }
}
