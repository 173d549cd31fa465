//! What a limit is, and which limits make sense together.
//!
//! A [`LimitSet`] is checked once and then cannot be wrong. It knows nothing of calls already made: that
//! is the ledger's part.

use core::fmt;
use core::num::NonZeroU32;

use crate::time::{At, Span};

/// Number of an api within its [`LimitSet`]: its place in the names of [`LimitSet::with_apis`]. It means
/// something only under that set; a stored record has the name. 65,535 is no api: it is kept for calls of
/// apis that are gone.
pub type ApiIx = u16;

/// An api that is no longer declared: who had it is forgotten, so only limits that count all calls of the
/// account together count it.
pub(crate) const API_GONE: ApiIx = ApiIx::MAX;

/// Most apis in one set.
pub const APIS_MAX: usize = 1_000;

/// Most limits in one set.
pub const LIMITS_MAX: usize = 32;
/// Longest name of a limit or an api in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Shortest window or gap: below it the jitter of a connection is all there is.
pub const WINDOW_MIN: Span = Span::from_millis(1);
/// Longest window, gap or guard: a leap year.
pub const WINDOW_MAX: Span = Span::from_secs(366 * 24 * 3600);
/// A call of a limit with [`Guard::Never`] that ends without an answer and may have been sent is charged
/// this long after its end: whatever still lay in a buffer or on the way has arrived by then.
pub const NO_ANSWER_BOUND: Span = Span::from_secs(30);

/// Up to this `max` the charges of a window are kept one by one.
const EXACT_MAX: u32 = 64;
/// Above it a window is cut into this many parts, and each charge is rounded up to the end of its part.
const PARTS: u64 = 60;

/// How a provider counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Two calls are at least `gap` apart; 1 ms to 366 days.
    Every {
        /// From one call to the next.
        gap: Span,
    },
    /// At most `max` calls in **any** window of that length, wherever it starts; 1 ms to 366 days.
    Sliding {
        /// Most calls in a window.
        max: NonZeroU32,
        /// Length of the window. It does not contain the moment it begins at: with 60 calls an hour, the
        /// 61st may come exactly an hour after the first.
        window: Span,
    },
    /// At most `max` calls in flight at once.
    Concurrent {
        /// Most calls in flight.
        max: NonZeroU32,
    },
}

impl Rule {
    /// Length of the window, if the rule counts by time: [`Rule::Every`] is one call in any window of its
    /// gap.
    pub(crate) fn window(self) -> Option<Span> {
        match self {
            Self::Every { gap } => Some(gap),
            Self::Sliding { window, .. } => Some(window),
            Self::Concurrent { .. } => None,
        }
    }

    /// Most calls in a window, or in flight.
    pub(crate) fn max(self) -> u32 {
        match self {
            Self::Every { .. } => 1,
            Self::Sliding { max, .. } | Self::Concurrent { max } => max.get(),
        }
    }

    /// What charges are rounded up to; zero where they are kept one by one.
    pub(crate) fn rounding(self) -> Span {
        match self.window() {
            Some(window) if self.max() > EXACT_MAX => Span(window.0.div_ceil(PARTS)),
            _ => Span::ZERO,
        }
    }
}

/// The least time between the first and the last of so many calls under a rule: what the rule itself
/// costs. Time needed / time taken is the share of the allowed rate that was used.
///
/// ```
/// use core::num::NonZeroU32;
/// use tollgate_gate::{Rule, Span, time_needed};
/// let ten = NonZeroU32::new(10).unwrap();
/// // 10 calls at 0 s, 10 at 60 s, the last 5 at 120 s.
/// let minute = Rule::Sliding { max: ten, window: Span::from_secs(60) };
/// assert_eq!(time_needed(minute, 25), Span::from_secs(120));
/// // At 0, 5, 10 and 15 s.
/// assert_eq!(time_needed(Rule::Every { gap: Span::from_secs(5) }, 4), Span::from_secs(15));
/// // How long a call takes is not known here.
/// assert_eq!(time_needed(Rule::Concurrent { max: ten }, 25), Span::ZERO);
/// assert_eq!(time_needed(minute, 0), Span::ZERO);
/// ```
pub fn time_needed(rule: Rule, calls: u64) -> Span {
    let windows = calls.div_ceil(u64::from(rule.max())).saturating_sub(1);
    rule.window().map_or(Span::ZERO, |window| window.times(windows))
}

/// How long after its writing a request is certain to have arrived.
///
/// A provider counts arrivals, and an arrival cannot be seen from here: it lies between the writing of
/// the request and the beginning of its answer. A call is charged at whichever is first, the answer or
/// the guard's end. What matters is how late a request is *relative to those after it*: a delay that all
/// requests share cancels out, so a guard has to cover the jitter of the way, not its length. Its price
/// is at most one guard per window.
///
/// This is condition (b) of the first promise: requests travel faster than the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// A 400th of the window, at least 25 ms, at most 250 ms.
    ///
    /// A 400th costs 0.25 % of the rate. 25 ms cover the jitter of a warm connection, also where the
    /// window is so short that they cost more. Beyond 250 ms a longer guard buys little: a packet that
    /// was lost has mostly been sent again by then, and what takes longer is seldom the only thing late.
    #[default]
    Default,
    /// So long; zero trusts that requests arrive in the moment of their writing. At most 366 days.
    After(Span),
    /// No time is enough: a call is charged when its answer begins, and until then nothing that needs its
    /// place goes. Calls that end without an answer are charged after [`NO_ANSWER_BOUND`].
    Never,
}

impl Guard {
    /// The guard of a limit with that window (or gap); `None` for [`Guard::Never`].
    ///
    /// ```
    /// use tollgate_gate::{Guard, Span};
    /// let of = |window| Guard::Default.span(window);
    /// assert_eq!(of(Span::from_secs(1)), Some(Span::from_millis(25))); // 2.5 ms is too short
    /// assert_eq!(of(Span::from_secs(40)), Some(Span::from_millis(100))); // 40 s / 400
    /// assert_eq!(of(Span::from_secs(3600)), Some(Span::from_millis(250))); // 9 s is too long
    /// assert_eq!(Guard::Never.span(Span::from_secs(1)), None);
    /// ```
    pub fn span(self, window: Span) -> Option<Span> {
        match self {
            Self::Default => Some(
                Span(window.0.div_ceil(400)).clamp(Span::from_millis(25), Span::from_millis(250)),
            ),
            Self::After(span) => Some(span),
            Self::Never => None,
        }
    }
}

/// One rule of a provider for an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// What it is called in the configuration; 1 to 128 bytes. Charges are found by it after a restart.
    pub name: String,
    /// True if each api is counted separately.
    pub per_api: bool,
    /// The api whose calls it counts; all calls if `None`.
    pub api: Option<ApiIx>,
    /// How it counts.
    pub rule: Rule,
    /// How long a written request may be on its way. Without meaning for [`Rule::Concurrent`].
    pub guard: Guard,
}

impl Limit {
    /// Whether calls of that api count.
    pub(crate) fn matches(&self, api: ApiIx) -> bool {
        match self.api {
            Some(own) => own == api,
            None => !(self.per_api && api == API_GONE),
        }
    }

    /// Which of the limit's counters counts calls of that api: `None` is the one that all share.
    pub(crate) fn bucket(&self, api: ApiIx) -> Option<ApiIx> {
        (self.per_api && self.api.is_none()).then_some(api)
    }

    /// The guard, if the limit has one and counts by time.
    pub(crate) fn guard_span(&self) -> Option<Span> {
        self.rule.window().and_then(|window| self.guard.span(window))
    }

    /// When a request that was written at `at` is charged, as long as no answer has come; `None` if only
    /// an answer tells.
    pub(crate) fn charge_of(&self, written: At) -> Option<At> {
        self.guard_span().map(|guard| written.plus(guard))
    }
}

/// The limits of an account; every one that matches a call must agree to it. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitSet {
    limits: Vec<Limit>,
    /// The names of the apis by their numbers; empty: they have none.
    apis: Vec<String>,
}

impl LimitSet {
    /// Checks limits. No limits at all are fine: then every call goes.
    ///
    /// # Errors
    /// The first mistake: see [`LimitError`].
    pub fn new(limits: Vec<Limit>) -> Result<Self, LimitError> {
        if limits.len() > LIMITS_MAX {
            return Err(LimitError::TooMany(limits.len()));
        }
        for (index, limit) in limits.iter().enumerate() {
            let name = || limit.name.clone();
            if limit.name.is_empty() || limit.name.len() > NAME_BYTES_MAX {
                return Err(LimitError::Name { index, bytes: limit.name.len() });
            }
            let same = |other: &Limit| other.name == limit.name && other.api == limit.api;
            if limits.iter().take(index).any(same) {
                return Err(LimitError::Duplicate(name()));
            }
            if limit.api == Some(API_GONE) {
                return Err(LimitError::NoApi(name()));
            }
            if let Some(window) = limit.rule.window() {
                if window < WINDOW_MIN {
                    return Err(LimitError::TooShort(name()));
                }
                let guard = limit.guard.span(window).unwrap_or(Span::ZERO);
                if window.max(guard) > WINDOW_MAX {
                    return Err(LimitError::TooLong(name()));
                }
            }
        }
        Ok(Self { limits, apis: Vec::new() })
    }

    /// Names the apis, in the order of their numbers. A record has these names, so that it means the same
    /// after apis were added, removed or moved. Without names (an empty list is the same) it has the
    /// numbers: enough for as long as no api ever changes its own.
    ///
    /// # Errors
    /// The first mistake: more than 1,000 names, one that is empty, longer than 128 bytes or not the only one
    /// of its kind, a limit of an api that has none.
    ///
    /// ```
    /// use tollgate_gate::*;
    /// let one = |api| Limit {
    ///     name: "gap".into(),
    ///     per_api: false,
    ///     api: Some(api),
    ///     rule: Rule::Every { gap: Span::from_secs(5) },
    ///     guard: Guard::Default,
    /// };
    /// let apis = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    /// // `reports` was the first api, then `ads` came before it.
    /// let old = LimitSet::new(vec![one(0)]).unwrap().with_apis(apis(&["reports"])).unwrap();
    /// let new = LimitSet::new(vec![one(1)]).unwrap().with_apis(apis(&["ads", "reports"])).unwrap();
    /// let mut ledger = Ledger::new();
    /// ledger.take(&old, PermitId(1), Ask { api: 0 }, At(0));
    /// ledger.ended(&old, PermitId(1), At(0), Sent::Never);
    /// let (ledger, notes) = ledger.under(&old, &new, At(0));
    /// assert!(notes.is_empty());
    /// let decision = |api| decide(&new, &ledger, ledger.holds(), Ask { api }, At(0));
    /// assert_eq!(decision(0), Decision::Go);
    /// let because = Because::Limit(0);
    /// assert_eq!(decision(1), Decision::WaitUntil { at: Some(At(5_000_000)), because });
    /// ```
    pub fn with_apis(self, apis: Vec<String>) -> Result<Self, LimitError> {
        if apis.len() > APIS_MAX {
            return Err(LimitError::TooManyApis(apis.len()));
        }
        for (index, name) in apis.iter().enumerate() {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(LimitError::ApiName { index, bytes: name.len() });
            }
            if apis[..index].contains(name) {
                return Err(LimitError::DuplicateApi(name.clone()));
            }
        }
        let set = Self { limits: self.limits, apis };
        let nobodys = |limit: &&Limit| limit.api.is_some_and(|api| !set.has_api(api));
        match set.limits.iter().find(nobodys) {
            Some(limit) => Err(LimitError::NoApi(limit.name.clone())),
            None => Ok(set),
        }
    }

    /// The limits, in the order they were given.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The names of the apis by their numbers; empty if they have none.
    pub fn apis(&self) -> &[String] {
        &self.apis
    }

    /// The same set but for the name of the limit at that place. One that has that name, and so would be the same,
    /// takes its old one.
    pub(crate) fn renamed(&self, place: usize, name: &str) -> Self {
        let mut set = self.clone();
        let (api, before) = (set.limits[place].api, set.limits[place].name.clone());
        let same = |other: &&mut Limit| other.name == name && other.api == api;
        if let Some(other) = set.limits.iter_mut().find(same) {
            other.name = before;
        }
        name.clone_into(&mut set.limits[place].name);
        set
    }

    /// The number of the api of that name.
    pub(crate) fn api_of(&self, name: &str) -> Option<ApiIx> {
        self.apis.iter().position(|own| own == name).map(|place| place as ApiIx)
    }

    /// Whether there is an api of that number. Without names there is every one.
    pub(crate) fn has_api(&self, api: ApiIx) -> bool {
        if self.apis.is_empty() { api != API_GONE } else { usize::from(api) < self.apis.len() }
    }

    /// Whether any limit counts by time. Without one there is nothing to charge, only calls in flight.
    pub fn is_dated(&self) -> bool {
        self.limits.iter().any(|limit| limit.rule.window().is_some())
    }

    /// The longest that a written request may be on its way under these limits: the longest guard, with
    /// [`NO_ANSWER_BOUND`] for [`Guard::Never`]; zero without a limit that counts by time.
    ///
    /// Whoever charges the calls of a dead writer ([`Ledger::lost`](crate::Ledger::lost)) adds it to the
    /// last moment at which one of them can have been written.
    pub fn guard_max(&self) -> Span {
        let dated = self.limits.iter().filter(|limit| limit.rule.window().is_some());
        dated.map(|limit| limit.guard_span().unwrap_or(NO_ANSWER_BOUND)).max().unwrap_or(Span::ZERO)
    }

    /// The shortest guard of these limits; zero without a limit that has one.
    pub fn guard_min(&self) -> Span {
        let dated = self.limits.iter().filter(|limit| limit.rule.window().is_some());
        dated.filter_map(Limit::guard_span).min().unwrap_or(Span::ZERO)
    }

    /// Whether the guard of any limit that counts by time was left to [`Guard::Default`].
    pub fn has_default_guard(&self) -> bool {
        self.limits
            .iter()
            .any(|limit| limit.rule.window().is_some() && limit.guard == Guard::Default)
    }

    /// The limits that count calls of that api, with their places in the set.
    pub(crate) fn of(&self, api: ApiIx) -> impl Iterator<Item = (usize, &Limit)> {
        self.limits.iter().enumerate().filter(move |(_, limit)| limit.matches(api))
    }
}

/// Why limits were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitError {
    /// More than 32 of them; this many.
    TooMany(usize),
    /// The name of the limit at `index` is empty or longer than 128 bytes.
    Name {
        /// Its place, from 0.
        index: usize,
        /// Length of its name.
        bytes: usize,
    },
    /// Two limits of the same api (or both of none) have this name.
    Duplicate(String),
    /// The window or gap of this limit is zero or below 1 ms.
    TooShort(String),
    /// The window, gap or guard of this limit is above 366 days.
    TooLong(String),
    /// This limit is of an api that there is not.
    NoApi(String),
    /// More than 1,000 apis; this many.
    TooManyApis(usize),
    /// The name of the api at `index` is empty or longer than 128 bytes.
    ApiName {
        /// Its place, from 0.
        index: usize,
        /// Length of its name.
        bytes: usize,
    },
    /// Two apis have this name.
    DuplicateApi(String),
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(count) => write!(f, "{count} limits, at most {LIMITS_MAX} are allowed"),
            Self::Name { index, bytes } => {
                write!(
                    f,
                    "the name of limit {index} has {bytes} bytes, 1 to {NAME_BYTES_MAX} are allowed"
                )
            }
            Self::Duplicate(name) => write!(f, "limit `{name}` is declared twice"),
            Self::TooShort(name) => write!(f, "limit `{name}` has a window or gap below 1 ms"),
            Self::TooLong(name) => {
                write!(f, "limit `{name}` has a window, gap or guard above 366 days")
            }
            Self::NoApi(name) => write!(f, "limit `{name}` is of an api that is not declared"),
            Self::TooManyApis(count) => {
                write!(f, "{count} apis, at most {APIS_MAX} are allowed")
            }
            Self::ApiName { index, bytes } => {
                write!(
                    f,
                    "the name of api {index} has {bytes} bytes, 1 to {NAME_BYTES_MAX} are allowed"
                )
            }
            Self::DuplicateApi(name) => write!(f, "api `{name}` is declared twice"),
        }
    }
}

impl core::error::Error for LimitError {}
