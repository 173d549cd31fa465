//! Aborting uploads that killed processes left: their parts are kept, and paid for, and nothing shows them.
//!
//! The store itself is asked which uploads there are (`ListMultipartUploads`), not a journal of our own: a
//! journal is gone with its disk, and has a gap between an upload's beginning and its note. Amazon, Ceph,
//! R2, Garage and SeaweedFS answer. MinIO lists only uploads of a key that is named whole, and ends old ones
//! by itself after a day. Where the store does not answer, a rule of the bucket does the same
//! (`AbortIncompleteMultipartUpload`), and the sweep says that it could not look. Google's XML API has the same
//! call. Azure has none, and needs none: what was not committed is dropped after a week, and whoever writes the
//! same key drops it at once
//! (<https://learn.microsoft.com/en-us/rest/api/storageservices/put-block-list#remarks>).

use std::time::SystemTime;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::gcp::GcpCredentialProvider;
use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::sleep;

use super::Bucket;
use super::renew::with_new_if;
use crate::store::error::{Expired, expired_answer};
use crate::store::leftovers::Cleaned;

/// Pages looked at in one sweep; a page has up to 1,000 uploads.
pub(in crate::store) const PAGES_MAX: u64 = 20;
/// Tries of a page.
const TRIES_MAX: u32 = 3;
/// A page has 1,000 uploads of keys up to 1,024 bytes: more than this is no page.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// What a signature leaves as it is (RFC 3986 §2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Who asks for the list.
pub(super) enum Lister {
    /// In the language of S3: signed, for a region.
    S3(AwsCredentialProvider, String),
    /// With a token of Google's.
    Google(GcpCredentialProvider),
    /// Nobody: Azure has no such list.
    Nobody,
}

impl std::fmt::Debug for Lister {
    /// Credentials of Google's would show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::S3(..) => "S3",
            Self::Google(_) => "Google",
            Self::Nobody => "Nobody",
        })
    }
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html> and
/// <https://cloud.google.com/storage/docs/xml-api/get-bucket-uploads>
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default, rename = "Upload")]
    uploads: Vec<Begun>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Begun {
    key: String,
    upload_id: String,
    initiated: String,
}

pub(super) async fn clean(bucket: &Bucket, older_than: SystemTime) -> Cleaned {
    let mut cleaned = Cleaned { complete: true, ..Cleaned::default() };
    if matches!(bucket.lister, Lister::Nobody) {
        return cleaned;
    }
    if let Err(reason) = clean_pages(bucket, older_than, &mut cleaned).await {
        cleaned.complete = false;
        cleaned.trouble = Some(reason);
    }
    cleaned
}

async fn clean_pages(
    bucket: &Bucket,
    older_than: SystemTime,
    cleaned: &mut Cleaned,
) -> Result<(), String> {
    let Ok(older_than) = Timestamp::try_from(older_than) else { return Ok(()) };
    let (mut key, mut id) = (String::new(), String::new());
    let mut trouble = None;
    for _ in 0..PAGES_MAX {
        let page = page(bucket, &key, &id).await?;
        for begun in &page.uploads {
            cleaned.seen += 1;
            // Without a time, or with a key of somebody else's that a `Path` cannot be, it is left alone.
            let old = begun.initiated.parse::<Timestamp>().is_ok_and(|at| at < older_than);
            let Ok(path) = Path::parse(&begun.key) else { continue };
            if !old || path.as_ref() != begun.key || !path.prefix_matches(&bucket.prefix) {
                continue;
            }
            match bucket.remote.abort_multipart(&path, &begun.upload_id).await {
                // Not there any more: it was ended meanwhile.
                Ok(()) | Err(object_store::Error::NotFound { .. }) => cleaned.removed += 1,
                Err(error) => trouble = Some(error.to_string()),
            }
        }
        let onward = (page.next_key_marker, page.next_upload_id_marker);
        if !page.is_truncated || onward == (key, id) {
            return trouble.map_or(Ok(()), Err);
        }
        (key, id) = onward;
    }
    cleaned.complete = false;
    trouble.map_or(Ok(()), Err)
}

async fn page(bucket: &Bucket, key: &str, id: &str) -> Result<Page, String> {
    let mut tries = 0;
    loop {
        tries += 1;
        let asked = with_new_if(
            bucket.remote.renewal(),
            |failure: &Failure| failure.expired,
            || ask(bucket, key, id),
        );
        match asked.await {
            Ok(page) => return Ok(page),
            Err(Failure { reason, again, .. }) if tries == TRIES_MAX || !again => {
                return Err(reason);
            }
            Err(_) => sleep(bucket.retries.backoff.max_backoff).await,
        }
    }
}

struct Failure {
    reason: String,
    again: bool,
    expired: Option<Expired>,
}

impl Failure {
    fn last(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), again: false, expired: None }
    }

    fn passing(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), again: true, expired: None }
    }
}

async fn ask(bucket: &Bucket, key: &str, id: &str) -> Result<Page, Failure> {
    let mut url = format!("{}?uploads=&max-uploads=1000", bucket.url);
    let prefix = match bucket.prefix.as_ref() {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    for (name, value) in [("prefix", &*prefix), ("key-marker", key), ("upload-id-marker", id)] {
        if !value.is_empty() {
            url.extend(["&", name, "="].into_iter().chain(utf8_percent_encode(value, QUERY)));
        }
    }
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.uri_mut() = url.parse().map_err(Failure::last)?;
    match &bucket.lister {
        Lister::S3(credentials, region) => {
            let keys = credentials.get_credential().await.map_err(Failure::passing)?;
            let authorizer = AwsAuthorizer::new(&keys, "s3", region);
            authorizer.try_authorize(&mut request, None).map_err(Failure::last)?;
        }
        Lister::Google(credentials) => {
            let token = credentials.get_credential().await.map_err(Failure::passing)?;
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.bearer))
                .map_err(|_| Failure::last("list the uploads: the token is none"))?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        Lister::Nobody => return Ok(Page::default()),
    }
    let answer = bucket.http.execute(request).await.map_err(Failure::passing)?;
    let (head, body) = answer.into_parts();
    let body = body.bytes().await.map_err(Failure::passing)?;
    if !head.status.is_success() {
        let text = String::from_utf8_lossy(&body).chars().take(500).collect::<String>();
        let reason = format!("list the uploads: {}: {text}", head.status);
        let again = head.status.is_server_error() && head.status != 501;
        let expired = expired_answer(head.status.as_u16(), &text);
        return Err(Failure { reason, again, expired });
    }
    if body.len() > PAGE_BYTES_MAX {
        return Err(Failure::last("list the uploads: the answer is too long"));
    }
    quick_xml::de::from_reader(&*body)
        .map_err(|e| Failure::last(format!("list the uploads: not the answer of S3: {e}")))
}
