//! Objects in a bucket: of S3 or a store that speaks its language, of Google, or a container of Azure.
//!
//! Decides how requests are made, how often and how many at once, the same for all three. A failed request is
//! repeated by `object_store`, which signs and speaks; what still fails is the caller's to act on. What a provider
//! has of its own is in `s3`, `google` and `azure`: where it is and what it is shown.
//!
//! # Bounds
//!
//! - At most [`BucketPlan::concurrency`] operations of the node at once; others wait in turn.
//! - An operation is tried again after 5xx, 429, 408 and a lost connection: up to [`RETRIES_MAX`] times
//!   with 0.2 to 5 s in between, about 12 s in all, and no more once [`RETRY_WITHIN`] have passed. One that
//!   hears nothing ends after [`SILENCE_MAX`] and a second for each MiB of a part. One that is refused because its
//!   credentials have ended is made once more with new ones (see `renew`).
//! - What a bucket that is away does not take waits on the disk, up to a bound (see `patient`).
//! - A body of up to one part is one put; a larger one has at most [`PARTS_MAX`] parts of one size, at
//!   least [`PART_BYTES_MIN`], one of them on its way while the next is filled.

mod azure;
mod client;
mod google;
mod leftovers;
mod patient;
mod remote;
mod renew;
mod s3;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::client::{HttpClient, HttpConnector};
use object_store::limit::LimitStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use self::client::{PerThread, Streak};
use self::leftovers::Lister;
use self::patient::{Patience, Patient};
use self::remote::{Remote, Renewing};
use self::renew::Renewal;
use super::error::OpenError;
use super::leftovers::Cleaned;
use super::spool::Spool;
use crate::plan::{BucketPlan, Provider};

pub(super) use self::patient::holding;
pub(crate) use self::patient::landing;

/// Largest object (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>,
/// <https://cloud.google.com/storage/quotas#objects>): what every compatible store has taken from S3. Azure takes
/// more.
pub const BUCKET_BODY_BYTES_MAX: u64 = 5 << 40;
/// Most parts of an object, and the least a part has that is not the last (the same pages). Azure takes 50,000 of
/// any size.
const PARTS_MAX: u64 = 10_000;
const PART_BYTES_MIN: u64 = 5 << 20;
/// Longest key in bytes, the prefix included
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>,
/// <https://cloud.google.com/storage/docs/objects#naming>; Azure counts characters:
/// <https://learn.microsoft.com/en-us/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>).
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
    remote: Renewing,
    /// For what `object_store` has no call.
    http: HttpClient,
    /// The URL of the bucket, without a slash at its end.
    url: String,
    lister: Lister,
    prefix: Path,
    retries: RetryConfig,
    /// The objects below the prefix, no more of them at work on at once than was declared.
    limited: Arc<dyn ObjectStore>,
    /// None: a bucket that is away is not waited for.
    patience: Option<Arc<Patience>>,
    streak: Arc<Streak>,
    /// Between the words of a name of metadata. Azure takes names of programs only
    /// (<https://learn.microsoft.com/en-us/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>), and
    /// proxies before the others drop headers with an underscore.
    pub(super) joint: char,
}

/// How a provider's client is to make its requests.
struct Setting<'p> {
    plan: &'p BucketPlan,
    options: ClientOptions,
    /// For the service that gives credentials.
    asking: ClientOptions,
    connector: PerThread,
    retries: RetryConfig,
    tls: bool,
}

/// A provider's client.
struct Opened {
    remote: Arc<dyn Remote>,
    lister: Lister,
    renewal: Option<Arc<dyn Renewal>>,
    url: String,
}

impl Bucket {
    /// No request is made. `spool`: where answers wait while the bucket is away.
    pub(super) fn new(
        plan: &BucketPlan,
        part_bytes: u64,
        spool: Option<Spool>,
    ) -> Result<Self, OpenError> {
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
        // Without an endpoint it is the provider's own.
        let tls = plan.endpoint.as_ref().is_none_or(|url| url.scheme() == "https");
        let options = client_options(tls, part_bytes, plan.concurrency);
        let asking = options.clone().with_timeout(renew::ANSWER_MAX);
        let streak = Arc::<Streak>::default();
        let connector = PerThread::new(Arc::clone(&streak));
        let http = connector.connect(&options).map_err(refused)?;
        let setting = Setting { plan, options, asking, connector, retries: retries.clone(), tls };
        let opened = match &plan.provider {
            Provider::S3 { region, path_style, credentials } => {
                s3::open(&setting, region, *path_style, credentials)
            }
            Provider::Google(credentials) => google::open(&setting, credentials),
            Provider::Azure { account, credentials } => azure::open(&setting, account, credentials),
        };
        let Opened { remote, lister, renewal, url } = opened.map_err(refused)?;
        let parts_have_attributes = !matches!(plan.provider, Provider::Azure { .. });
        let remote = Renewing::new(remote, renewal, parts_have_attributes);
        let below = PrefixStore::new(remote.clone(), prefix.clone());
        let patience = spool.map(|spool| Arc::new(Patience::new(spool, Arc::clone(&streak))));
        Ok(Self {
            remote,
            http,
            url,
            lister,
            prefix,
            retries,
            limited: Arc::new(LimitStore::new(below, plan.concurrency)),
            patience,
            streak,
            joint: if matches!(plan.provider, Provider::Azure { .. }) { '_' } else { '-' },
        })
    }

    /// The objects below the prefix. Puts wait for a bucket that is away, where they may.
    pub(super) fn objects(&self) -> Arc<dyn ObjectStore> {
        let limited = Arc::clone(&self.limited);
        match &self.patience {
            Some(patience) => Arc::new(Patient::new(limited, Arc::clone(patience))),
            None => limited,
        }
    }

    /// Puts a few bytes and takes them away again, without patience; those that wait go on if that succeeds.
    pub(super) async fn probe(&self, key: &Path) -> object_store::Result<()> {
        self.limited.put(key, "probe\n".into()).await?;
        if let Some(patience) = &self.patience {
            patience.is_back();
        }
        // Work needs no right to delete, and another node's probe may be gone with ours.
        drop(self.limited.delete(key).await);
        Ok(())
    }

    /// Bytes that wait on the disk.
    pub(super) fn spooled_bytes(&self) -> u64 {
        self.patience.as_ref().map_or(0, |patience| patience.spooled_bytes())
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
        for body in [0, 1, 40 << 30, 50 << 30, 1 << 40, BUCKET_BODY_BYTES_MAX] {
            let part = part_bytes(body);
            assert!((PART_BYTES_MIN..5 << 30).contains(&part), "{body}: {part}");
            assert!((body + body / 256 + 1024).div_ceil(part) <= PARTS_MAX, "{body}: {part}");
        }
    }
}
