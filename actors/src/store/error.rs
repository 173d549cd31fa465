//! What goes wrong on the way into the store, in the few kinds a caller acts on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use object_store::client::HttpError;
use object_store::path::Path;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not even one body could stream.
    #[error("open the store: buffer_bytes_max is {given} bytes, one streamed body needs {least}")]
    Budget {
        /// What was configured, in bytes.
        given: u64,
        /// The least that works, in bytes.
        least: u64,
    },
    /// The folder is missing and could not be made, or cannot be used.
    #[error("open the store in `{}`", path.display())]
    Folder {
        /// Where objects were to go.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client for a bucket could not be made.
    #[error("open the store in the bucket `{bucket}`")]
    Bucket {
        /// Where objects were to go.
        bucket: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Objects were to go into the state folder.
    #[error("open the store in `{}`: it lies in the state folder, which holds no objects", path.display())]
    InState {
        /// Where objects were to go.
        path: PathBuf,
    },
}

/// Why a body was not stored. Nothing is under the key that was not there before.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The body is larger than allowed, after decoding.
    #[error("store `{key}`: the body has more than {bytes_max} bytes")]
    TooLarge {
        /// The object.
        key: Path,
        /// Most bytes allowed.
        bytes_max: u64,
    },
    /// The body expands more than an honest one does.
    #[error("store `{key}`: the body expands to more than {expand_max} times what was sent")]
    Bomb {
        /// The object.
        key: Path,
        /// Most bytes allowed for each byte sent.
        expand_max: u32,
    },
    /// The body is not what its content encoding says: broken, cut short, or followed by more.
    #[error("store `{key}`: the body does not decode: {reason}")]
    Encoding {
        /// The object.
        key: Path,
        /// What the decoder said.
        reason: String,
    },
    /// The body is an archive without what is wanted, or with it in a form that is not read; or it is no text in
    /// its charset.
    #[error("store `{key}`: {reason}")]
    Unfit {
        /// The object.
        key: Path,
        /// Which of the two.
        what: Unfit,
        /// A sentence.
        reason: String,
    },
    /// Whoever looked at the body does not want it to be stored.
    #[error("store `{key}`: the body was refused")]
    Refused {
        /// The object.
        key: Path,
    },
    /// The store did not take it.
    #[error("store `{key}`: {kind}")]
    Store {
        /// The object.
        key: Path,
        /// What can be done about it.
        kind: StoreErrorKind,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a body is not fit as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// An archive.
    Archive,
    /// Text.
    Text,
}

/// What can be done about a failing store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No space left, or a quota is used up: somebody must make room.
    Full,
    /// Not reachable or overloaded: worth another try.
    Away,
    /// Not allowed, read-only, or a key that may not be used: somebody must change something.
    Denied,
    /// Requests bear a time that is not the store's: somebody must set this machine's clock.
    Clock,
    /// Anything else.
    Other,
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the store is full",
            Self::Away => "the store is away",
            Self::Denied => "the store does not allow it",
            Self::Clock => {
                "the store refuses requests whose time is not its own: set this machine's clock, such as by NTP"
            }
            Self::Other => "the store failed",
        })
    }
}

impl SinkError {
    /// What the store said, sorted.
    pub(super) fn store(key: &Path, source: object_store::Error) -> Self {
        let kind = store_kind(&source);
        Self::Store { key: key.clone(), kind, source: source.into() }
    }

    /// A failure that no store reported.
    pub(crate) fn other(
        key: &Path,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Store { key: key.clone(), kind: StoreErrorKind::Other, source: source.into() }
    }

    /// A key that may not be used.
    pub(super) fn bad_key(key: &Path, reason: &'static str) -> Self {
        Self::Store { key: key.clone(), kind: StoreErrorKind::Denied, source: reason.into() }
    }
}

pub(super) fn store_kind(error: &object_store::Error) -> StoreErrorKind {
    use object_store::Error as E;
    if let Some(kind) = remote_kind(error) {
        return kind;
    }
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreErrorKind::Denied,
        // The file store wraps what the system said in private types; only the chain shows it.
        _ => io_error(error).map_or(StoreErrorKind::Other, io_kind),
    }
}

/// What a remote store said, or that it said nothing.
fn remote_kind(error: &(dyn std::error::Error + 'static)) -> Option<StoreErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<HttpError>() {
            // No answer, whatever the reason: refused, reset, silent, no such host, no TLS.
            return Some(StoreErrorKind::Away);
        }
        if let Some(answer) = Answer::of(&error.to_string()) {
            return Some(answer.kind());
        }
        next = error.source();
    }
    None
}

/// What was found under a key; nothing where there is no such object. A bucket that is missing is an error.
pub(super) fn if_there<T>(
    key: &Path,
    found: Result<T, object_store::Error>,
) -> Result<Option<T>, SinkError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error @ object_store::Error::NotFound { .. }) if !is_bucket_missing(&error) => Ok(None),
        Err(error) => Err(SinkError::store(key, error)),
    }
}

/// Whether a store said that the bucket itself is missing, not an object in it.
fn is_bucket_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let answer = Answer::of(&error.to_string());
        if answer
            .is_some_and(|answer| ["NoSuchBucket", "ContainerNotFound"].contains(&&*answer.code))
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether a store said that it does not know how to do this.
pub(super) fn is_unknown(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = Answer::of(&error.to_string()) {
            return answer.status == 501 || answer.code == "NotImplemented";
        }
        next = error.source();
    }
    false
}

/// Whether a store has refused a request only because its credentials have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// It says so.
    Said,
    /// It does not say why.
    Perhaps,
}

/// Whether credentials that have ended are why this failed.
pub(super) fn expired(error: &(dyn std::error::Error + 'static)) -> Option<Expired> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = Answer::of(&error.to_string()) {
            return answer.expired();
        }
        next = error.source();
    }
    None
}

/// The same of an answer that nobody has made an error of.
pub(super) fn expired_answer(status: u16, body: &str) -> Option<Expired> {
    Answer::new(status, body).expired()
}

/// A remote store's answer that was no success.
struct Answer {
    status: u16,
    /// The name of the error in its body; empty if it has none
    /// (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>,
    /// <https://cloud.google.com/storage/docs/xml-api/reference-status>,
    /// <https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-error-codes>).
    code: String,
    /// Whether its body says that the time of the request is wrong, in words that have no name.
    skewed: bool,
}

impl Answer {
    fn new(status: u16, text: &str) -> Self {
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let code = code.map(|(code, _)| code.trim().to_owned()).unwrap_or_default();
        Self { status, code, skewed: SKEWED.iter().any(|words| text.contains(words)) }
    }

    /// `object_store` tells an answer as text only: the type that holds it is private. Of the chain just
    /// that error begins so.
    fn of(text: &str) -> Option<Self> {
        let of = |status: u16| Self::new(status, text);
        if let Some(rest) = text.strip_prefix("Server returned non-2xx status code: ") {
            return Some(of(rest.get(..3)?.parse().ok()?));
        }
        // 301, as S3 tells that the bucket is in another region.
        if text.starts_with("Received redirect without LOCATION") {
            return Some(of(301));
        }
        // One of several that Azure was asked to delete at once.
        if text.starts_with("Bulk delete request failed for key ") {
            let (_, code) = text.rsplit_once("(code: ")?;
            return Some(of(code.trim_end_matches(')').parse().ok()?));
        }
        // A success that turned into an error while it was told.
        text.strip_prefix("Server returned error response: ")?;
        Some(of(503))
    }

    fn kind(&self) -> StoreErrorKind {
        match (&*self.code, self.status) {
            _ if self.skewed => StoreErrorKind::Clock,
            ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage", _) | (_, 507) => {
                StoreErrorKind::Full
            }
            ("RequestTimeout" | "SlowDown" | "ServiceUnavailable" | "ContainerBeingDeleted", _) => {
                StoreErrorKind::Away
            }
            // An upload that somebody has ended: the next is another.
            ("NotImplemented" | "NoSuchUpload", _) | (_, 501) => StoreErrorKind::Other,
            // Keys that have expired or are unknown, another region, no such bucket: 301, 400, 403, 404. Where an
            // object may be missing, that is found out before.
            (
                "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "AuthorizationHeaderMalformed"
                | "InvalidAuthenticationInfo"
                | "InvalidBucketName"
                | "KeyTooLongError"
                | "UserProjectMissing"
                | "IllegalLocationConstraintException",
                _,
            )
            | (_, 300..=399 | 401 | 403 | 404 | 405) => StoreErrorKind::Denied,
            (_, 408 | 429 | 500..=599) => StoreErrorKind::Away,
            _ => StoreErrorKind::Other,
        }
    }

    fn expired(&self) -> Option<Expired> {
        const NAMES: &[&str] = &[
            "ExpiredToken",
            "TokenRefreshRequired",
            "InvalidToken",
            // Of keys that are gone.
            "InvalidAccessKeyId",
            "InvalidAuthenticationInfo",
        ];
        // The answer to a HEAD has no body: S3's to one with a token that has ended is a bare 400, and a bare 403 is
        // also what a right that is missing looks like.
        match (self.code.is_empty(), self.status) {
            (_, 401) | (true, 400) => Some(Expired::Said),
            _ if NAMES.contains(&&*self.code) => Some(Expired::Said),
            (true, 403) => Some(Expired::Perhaps),
            _ => None,
        }
    }
}

/// What an answer says whose request bears a wrong time: S3, Azure, Google (of a token that it signs itself).
const SKEWED: &[&str] = &[
    "<Code>RequestTimeTooSkewed</Code>",
    "date header too old",
    "Token must be a short-lived token",
];

/// The first error of the operating system in a chain.
fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

pub(super) fn io_kind(error: &io::Error) -> StoreErrorKind {
    use io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => StoreErrorKind::Full,
        K::PermissionDenied | K::ReadOnlyFilesystem => StoreErrorKind::Denied,
        K::TimedOut
        | K::Interrupted
        | K::WouldBlock
        | K::ResourceBusy
        | K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::NotConnected
        | K::BrokenPipe
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::StaleNetworkFileHandle => StoreErrorKind::Away,
        // Out of file descriptors has no kind of its own; it passes as soon as others are closed.
        _ if is_out_of_files(error) => StoreErrorKind::Away,
        _ => StoreErrorKind::Other,
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let given = error.raw_os_error();
    given == Some(Errno::MFILE.raw_os_error()) || given == Some(Errno::NFILE.raw_os_error())
}
