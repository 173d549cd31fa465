//! What an answer says about limits, by declared rules. Pure: no IO, and the time is an argument.
//!
//! Providers say how much is left, when more is allowed and that too much was asked for in as many ways as
//! there are providers. A platform or an api therefore declares where to look ([`Observe`]) and what a refusal
//! looks like ([`Over`]); [`Rules::read`] applies them to one answer and returns [`Facts`]. What follows from
//! them is the throttle actor's, and that of the budget whose limit is meant: they lower what is left of a limit, or hold
//! a scope for a while. All they may open is a window of the first call, by telling when it ends.

mod drift;
mod json;
mod ratelimit;
mod read;
mod shuts;
mod value;

pub mod pace;

#[cfg(test)]
mod tests;

use std::time::Duration;

use http::HeaderName;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

pub(crate) use drift::{Drift, DriftKind, Pulse, Trend};
pub(crate) use json::Step;
pub use json::{JsonPath, PATH_STEPS_MAX};
pub use read::{Answered, Facts, LimitFact, Overuse, Press, Sets};
pub use shuts::Shuts;
pub use value::{UNITS, Unit, retry_after};

/// Bytes of a body that rules see, after decompression.
pub const BODY_SEEN_MAX: usize = 8 * 1024;
/// Most rules of each kind that apply to one api, its platform's included.
pub const RULES_MAX: usize = 32;
/// How long what an answer says is believed where no cap is declared and no limit with a window is named.
pub const CAP: Duration = Duration::from_secs(3600);
/// How long a scope is held that an answer says is used up, without saying until when.
pub const PRESSED_WAIT: Duration = Duration::from_secs(60);

/// Which limit is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The budget that it is of, by its place among the platform's; nothing: the account's own limits.
    pub budget: Option<u16>,
    /// Its place in that set.
    pub limit: usize,
}

impl Place {
    /// The account's own limit at that place.
    pub fn own(limit: usize) -> Self {
        Self { budget: None, limit }
    }
}

/// What to read of the answers of one api: its own rules first, then its platform's.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Where answers tell how much is left. Of several that tell the same of the same limit, the first that
    /// is there counts.
    pub observe: Vec<Observe>,
    /// What a refusal looks like. The first that fits counts.
    pub over: Vec<Over>,
    /// How fast an api with unpublished limits is called.
    pub pace: Option<pace::PaceRule>,
    /// Which answers say that the job that the call is about is over, or was never begun.
    pub job_ends: Vec<Ends>,
}

/// Where an answer tells something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A header.
    Header {
        /// Its name.
        name: HeaderName,
        /// Which of several of the same name, from 0; all of them where it is not said, and the strictest
        /// counts.
        nth: Option<usize>,
        /// The value is a list such as `api-usage=18/5000; other=1`, and this key of it is meant.
        field: Option<String>,
        /// The value is JSON, and this is where to look in it.
        path: Option<JsonPath>,
    },
    /// A place in the first bytes of a JSON body.
    Body(JsonPath),
}

/// What is told there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tells {
    /// How many calls are left.
    Remaining,
    /// How many were made.
    Used,
    /// How many are allowed.
    Limit,
    /// Both, as `18/5000`.
    Usage,
    /// How much is used, in percent.
    Percent {
        /// What is aimed at: at so many percent nothing is left.
        target: u8,
    },
    /// When more is allowed.
    Reset(Unit),
    /// The structured field `RateLimit` of the IETF's draft; the item of this policy, else the strictest one.
    RateLimit {
        /// The name of the policy.
        policy: Option<String>,
    },
}

/// Something to read of every answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observe {
    /// Where.
    pub from: Source,
    /// What.
    pub tells: Tells,
    /// The limit it is about; nothing: a limit that is not declared, which holds `scope` when it is used up.
    pub limit: Option<Place>,
    /// Whom that concerns.
    pub scope: Scope,
    /// For how long, where the answer does not say.
    pub wait: Duration,
    /// Longest time that is believed.
    pub cap: Duration,
}

/// What an answer looks like that says that a job is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// Statuses; empty: any from 200 to 299.
    pub status: Vec<u16>,
    /// What else must be so.
    pub tests: Vec<Test>,
}

/// What a refusal looks like, and what follows.
#[derive(Debug, Clone)]
pub struct Over {
    /// Statuses; empty: any.
    pub status: Vec<u16>,
    /// What else must be so.
    pub tests: Vec<Test>,
    /// The limit that was exceeded.
    pub hits: Option<Place>,
    /// How long to wait.
    pub wait: Wait,
    /// At least so long.
    pub floor: Duration,
    /// At most so long.
    pub cap: Duration,
    /// Up to so much longer, by chance.
    pub jitter: Duration,
    /// Whom it concerns.
    pub scope: Scope,
    /// What becomes of the fetch.
    pub then: Then,
}

/// One condition on an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Something is there and, unless the list is empty, is one of these.
    Is(Source, Vec<String>),
    /// The first bytes of the body hold this text.
    Contains(String),
}

/// How long to wait after a refusal.
#[derive(Debug, Clone)]
pub enum Wait {
    /// As Retry-After asks, else by the usual doubling.
    Asked,
    /// So long, or longer where Retry-After asks for it.
    For(Duration),
    /// As the answer tells there; as [`Wait::Asked`] where it does not. Retry-After goes before it.
    Told(Source, Unit),
    /// Until what counts now has left the limit that was exceeded: its next reset, or one window.
    Boundary,
    /// Until this time of day.
    UntilTime(Time, TimeZone),
}

/// Whom a hold concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Scope {
    /// The api, of this account.
    Api,
    /// The account.
    #[default]
    Account,
    /// All whose calls the limit that was exceeded counts together with this one: its budget's.
    Key,
    /// Every account of the platform, on this node.
    Platform,
}

/// What becomes of a refused fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Then {
    /// It is tried again when the hold is over.
    #[default]
    Retry,
    /// It is dead.
    Fail,
    /// It alone waits, and is tried again then: the call is too heavy, and others may be let through.
    Park,
    /// Fetches that ask for a part each take its place.
    Split,
    /// A fetch that asks for less at a time takes its place.
    Shrink,
}

/// What becomes of a refused fetch, by its name in a configuration.
pub const THENS: &[(&str, Then)] = &[
    ("retry", Then::Retry),
    ("fail", Then::Fail),
    ("park", Then::Park),
    ("split", Then::Split),
    ("shrink_request", Then::Shrink),
];

impl Then {
    /// Whether less is asked for then, by the `split` of its api.
    pub fn makes_less(self) -> bool {
        matches!(self, Self::Split | Self::Shrink)
    }
}

impl Scope {
    /// As it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Account => "account",
            Self::Key => "key",
            Self::Platform => "platform",
        }
    }
}
