//! What a provider is like: its limits, its latency, its bodies and its faults.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::rude::Rude;

/// What an emulated provider is like. The default has no limits, no latency and no faults.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Every limit that matches a call must accept it, or it is refused.
    pub limits: Vec<ProviderLimit>,
    /// Whether a refused call counts in the windows that it matched. Default false.
    pub count_refused: bool,
    /// Where a request names its account. Default: the header `X-Account`.
    pub account_from: AccountFrom,
    /// How long an accepted call waits before its answer's head. Default none. Refusals do not wait.
    pub latency: Latency,
    /// What reports look like.
    pub body: BodyShape,
    /// What a refusal says in `Retry-After`. Default: whole seconds.
    pub retry_after: RetryAfter,
    /// What a refusal looks like. Default: status 429 with a JSON body.
    pub refusal: RefusalShape,
    /// What every judged answer tells of the account's limits. Default nothing.
    pub tells: Tells,
    /// Calls that somebody else makes for each account in the moment of its first one: they count in the
    /// windows of its account, and nobody sees them. Default 0.
    pub hidden: u32,
    /// Bad luck of accepted report calls; drawn in this order, the first that hits is served.
    pub faults: Vec<Fault>,
    /// Decides latencies within their range and faults, by the number of the call.
    pub seed: u64,
    /// Whether `calls()` returns every call; at most [`crate::CALLS_MAX`] are kept. Default false.
    pub record: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            count_refused: false,
            account_from: AccountFrom::Header("x-account".into()),
            latency: Latency::None,
            body: BodyShape::default(),
            retry_after: RetryAfter::Seconds,
            refusal: RefusalShape::Status(429),
            tells: Tells::Nothing,
            hidden: 0,
            faults: Vec::new(),
            seed: 1,
            record: false,
        }
    }
}

/// One rule of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderLimit {
    /// How the score and refusals call it.
    pub name: Arc<str>,
    /// Who is counted together.
    pub per: Per,
    /// If set, only calls of this endpoint are counted: a path such as `/v1/reports/daily`, without account.
    pub only: Option<Arc<str>>,
    /// What is allowed.
    pub rule: Rule,
}

impl ProviderLimit {
    /// At most `max` calls in any window of length `within`, per account.
    ///
    /// # Panics
    /// When `max` is 0: such a limit refuses everything.
    pub fn window(name: &str, max: u32, within: Duration) -> Self {
        Self::new(name, Rule::Window { max: at_least_one(max), within })
    }

    /// At least `every` between two calls, per account.
    pub fn gap(name: &str, every: Duration) -> Self {
        Self::new(name, Rule::Window { max: NonZeroU32::MIN, within: every })
    }

    /// At most `max` calls open at once, per account.
    ///
    /// # Panics
    /// When `max` is 0: such a limit refuses everything.
    pub fn concurrent(name: &str, max: u32) -> Self {
        Self::new(name, Rule::Concurrent { max: at_least_one(max) })
    }

    /// The same limit, counted per account and endpoint.
    pub fn per_endpoint(self) -> Self {
        Self { per: Per::AccountEndpoint, ..self }
    }

    /// The same limit, counted over all accounts together.
    pub fn per_platform(self) -> Self {
        Self { per: Per::Platform, ..self }
    }

    /// The same limit, for calls of one endpoint only.
    pub fn only(self, endpoint: &str) -> Self {
        Self { only: Some(endpoint.into()), ..self }
    }

    fn new(name: &str, rule: Rule) -> Self {
        Self { name: name.into(), per: Per::Account, only: None, rule }
    }

    /// Whether calls of this endpoint are counted.
    pub(crate) fn matches(&self, endpoint: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == endpoint)
    }
}

fn at_least_one(max: u32) -> NonZeroU32 {
    NonZeroU32::new(max).expect("a limit allows at least one call")
}

/// Who is counted together by a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Each account.
    Account,
    /// Each endpoint of each account.
    AccountEndpoint,
    /// All accounts together.
    Platform,
}

/// What a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// At most `max` arrivals in any half-open window of length `within`: of `max + 1` arrivals in a row the
    /// last comes `within` after the first or later. A gap is the window with `max` 1.
    Window {
        /// Calls per window.
        max: NonZeroU32,
        /// Length of the window.
        within: Duration,
    },
    /// At most `max` calls that have arrived and are not yet answered in full.
    Concurrent {
        /// Calls at once.
        max: NonZeroU32,
    },
}

/// Where a request names its account. An account is 1 to 256 bytes of UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountFrom {
    /// The value of this header; any case.
    Header(String),
    /// The value of this query parameter.
    Query(String),
    /// The path segment behind `accounts`: `/v1/accounts/{account}/reports/daily`. Both segments are taken
    /// out of the endpoint, which is then `/v1/reports/daily`.
    Path,
}

/// How long an accepted call waits before its answer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// Not at all.
    None,
    /// Always this long.
    Fixed(Duration),
    /// Evenly drawn between the two, by the seed.
    Range(Duration, Duration),
}

/// What reports look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyShape {
    /// Rows of a report, about 110 bytes each. Default 5; a query with `rows=N` replaces it. At most
    /// [`crate::ROWS_MAX`].
    pub rows: u32,
    /// When reports are compressed. Default never.
    pub gzip: Gzip,
}

impl Default for BodyShape {
    fn default() -> Self {
        Self { rows: 5, gzip: Gzip::Never }
    }
}

/// When a report is sent with `Content-Encoding: gzip`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gzip {
    /// Never.
    Never,
    /// When the request's `Accept-Encoding` names gzip.
    IfAccepted,
    /// Whether the client can read it or not.
    Always,
}

/// What a refusal says in `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// Nothing.
    No,
    /// Seconds until the call would be accepted, rounded up.
    Seconds,
    /// The same as an HTTP date.
    Date,
}

/// What a refusal looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalShape {
    /// This status, with a JSON body that names the limit.
    Status(u16),
    /// 200, with this code in its JSON body: `{"code":40100,"message":"…"}`.
    Code(u32),
    /// This status, with a page of HTML that says "slow down".
    Html(u16),
}

/// What an answer tells of the window of the account of which least is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// Nothing.
    Nothing,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, the last in seconds from now, rounded up.
    Headers,
    /// `RateLimit` and `RateLimit-Policy`, of a policy that has the limit's name.
    Fields,
}

/// Bad luck of some accepted report calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Of a thousand calls this many meet it; 0 to 1,000.
    pub per_mille: u16,
    /// What happens to them.
    pub rude: Rude,
}
