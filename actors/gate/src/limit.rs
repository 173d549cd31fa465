//! What a limit is, and which limits make sense together.
//!
//! A [`LimitSet`] is checked once and then cannot be wrong. It knows nothing of calls already made: that
//! is the ledger's part.

use core::fmt;
use core::num::NonZeroU32;
use std::sync::Arc;

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

/// Most calendars in one set.
pub const CALENDARS_MAX: usize = LIMITS_MAX;
/// Longest time that a provider's clock may be off for [`Rule::Calendar`].
pub const SLACK_MAX: Span = Span::from_secs(3600);

/// How a provider counts. What is counted are *units*: a call mostly is one, but see
/// [`Cost`](crate::Cost).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Two calls are at least `gap` apart; 1 ms to 366 days. A call costs one or nothing here.
    Every {
        /// From one call to the next.
        gap: Span,
    },
    /// At most `max` units in **any** window of that length, wherever it starts; 1 ms to 366 days.
    Sliding {
        /// Most units in a window.
        max: NonZeroU32,
        /// Length of the window. It does not contain the moment it begins at: with 60 calls an hour, the
        /// 61st may come exactly an hour after the first.
        window: Span,
    },
    /// At most `max` units in flight at once.
    Concurrent {
        /// Most units in flight.
        max: NonZeroU32,
    },
    /// A token bucket: it holds `burst` units at most, `rate` units flow in per `per`, and a call takes out
    /// what it costs. The time in which it fills is at most 366 days.
    Bucket {
        /// What it holds.
        burst: NonZeroU32,
        /// How much flows in within `per`.
        rate: NonZeroU32,
        /// The time in which `rate` units flow in.
        per: Span,
    },
    /// At most `max` units from one reset to the next, the resets being moments of a [`Calendar`]: midnight
    /// in Los Angeles. A call that may have arrived on either side of a reset counts on both.
    Calendar {
        /// Most units between two resets.
        max: NonZeroU32,
        /// The usual time between two resets; 1 ms to 366 days. It does not decide when one is.
        window: Span,
        /// How far the provider's clock may be from ours; at most an hour, and less than half a window.
        slack: Span,
        /// Place of the calendar among those of the set ([`LimitSet::with_calendars`]). Without one nothing
        /// ever resets.
        calendar: u16,
    },
    /// At most `max` units in a window that the first call opens and that ends `window` later; the next call
    /// opens the next one; 1 ms to 366 days. As long as it is not known when a window ended, and for ever
    /// after a restart until the account was quiet for one window, it counts like [`Rule::Sliding`], which is
    /// stricter. A call that was answered is taken to have been counted: one that the provider did not count
    /// opened no window there, and then this opens too early; [`Rule::Sliding`] does not.
    FirstUse {
        /// Most units in a window.
        max: NonZeroU32,
        /// Length of a window.
        window: Span,
    },
    /// A score that a call raises by its cost, that falls with time, and that must not exceed `max`. How
    /// it falls providers do not say; here each unit counts in full until it is `decay` old, which is stricter
    /// than any fall that is over by then. 1 ms to 366 days.
    Score {
        /// Highest score.
        max: NonZeroU32,
        /// How long a unit counts.
        decay: Span,
        /// How long the provider answers nothing once the score was exceeded
        /// ([`Ledger::over`](crate::Ledger::over)); at most 366 days.
        block: Span,
    },
    /// At most `max` jobs at once that the provider works on after the call that ordered them is over. A job
    /// ends when it is told ([`Ledger::release`](crate::Ledger::release)), or `ttl` after its call.
    Jobs {
        /// Most jobs at once.
        max: NonZeroU32,
        /// A job of which nothing is heard is over so long after its call; 1 ms to 366 days.
        ttl: Span,
    },
}

impl Rule {
    /// How long a charge counts, if the rule counts by time: [`Rule::Every`] is one call in any window of
    /// its gap, a bucket fills within so long, and between the resets of a calendar lies mostly so much.
    pub(crate) fn window(self) -> Option<Span> {
        match self {
            Self::Every { gap: window }
            | Self::Sliding { window, .. }
            | Self::Calendar { window, .. }
            | Self::FirstUse { window, .. }
            | Self::Score { decay: window, .. } => Some(window),
            Self::Bucket { burst, rate, per } => {
                let time = u128::from(burst.get()) * u128::from(per.0);
                let time = time.div_ceil(u128::from(rate.get()));
                Some(Span(u64::try_from(time).unwrap_or(u64::MAX)))
            }
            Self::Concurrent { .. } | Self::Jobs { .. } => None,
        }
    }

    /// Longest time that a call can matter after its charge, or its end.
    fn remembers(self) -> Span {
        match self {
            // No zone moves its clocks by more than three hours.
            Self::Calendar { window, slack, .. } => Span(
                window
                    .0
                    .saturating_add(slack.0.saturating_mul(2))
                    .saturating_add(3 * 3_600_000_000),
            ),
            Self::Jobs { ttl, .. } => ttl,
            _ => self.window().unwrap_or(Span::ZERO),
        }
    }

    /// Most units in a window, in flight, or in the bucket.
    pub fn max(self) -> u32 {
        match self {
            Self::Every { .. } => 1,
            Self::Bucket { burst: max, .. }
            | Self::Sliding { max, .. }
            | Self::Concurrent { max }
            | Self::Calendar { max, .. }
            | Self::FirstUse { max, .. }
            | Self::Score { max, .. }
            | Self::Jobs { max, .. } => max.get(),
        }
    }

    /// What charges are rounded up to; zero where they are kept one by one.
    pub(crate) fn rounding(self) -> Span {
        match (self, self.window()) {
            // A bucket keeps what it has to in one number.
            (Self::Bucket { .. }, _) | (_, None) => Span::ZERO,
            (_, Some(window)) if self.max() > EXACT_MAX => Span(window.0.div_ceil(PARTS)),
            _ => Span::ZERO,
        }
    }

    /// How long it takes until one unit has flowed into the bucket, in [`TICKS`] parts of a microsecond,
    /// rounded up; `None` for other rules.
    pub(crate) fn unit_ticks(self) -> Option<u128> {
        let Self::Bucket { rate, per, .. } = self else { return None };
        Some((u128::from(per.0) * TICKS).div_ceil(u128::from(rate.get())))
    }
}

/// Parts of a microsecond that buckets are computed in: a bucket of any rate is exact to a microsecond over
/// the first four billion units.
pub(crate) const TICKS: u128 = 1 << 32;

/// When windows of a calendar begin, on the timeline of the ledger. The gate knows no time zones: whoever
/// does is asked. The answers may change when the wall clock is set; they must be consistent with one
/// another as of one moment.
pub trait Calendar: fmt::Debug + Send + Sync {
    /// The latest reset that is not after `at`; [`At::MIN`] if there is none.
    fn prev_reset(&self, at: At) -> At;
    /// The earliest reset after `at`; [`At::MAX`] if there is none.
    fn next_reset(&self, at: At) -> At;
}

/// The least time between the first and the last of so many calls of one unit each under a rule: what the
/// rule itself costs. Time needed / time taken is the share of the allowed rate that was used.
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
/// // 10 at once, 15 more at 5 a second.
/// let bucket = Rule::Bucket { burst: ten, rate: NonZeroU32::new(5).unwrap(), per: Span::from_secs(1) };
/// assert_eq!(time_needed(bucket, 25), Span::from_secs(3));
/// ```
pub fn time_needed(rule: Rule, calls: u64) -> Span {
    let windows = calls.div_ceil(u64::from(rule.max())).saturating_sub(1);
    match rule {
        // The rest has to flow in.
        Rule::Bucket { burst, .. } => {
            let rest = calls.saturating_sub(burst.get().into());
            let ticks = rule.unit_ticks().unwrap_or(0).saturating_mul(rest.into());
            Span(u64::try_from(ticks / TICKS).unwrap_or(u64::MAX))
        }
        // One reset may come right after the first call.
        Rule::Calendar { window, .. } => window.times(windows.saturating_sub(1)),
        _ => rule.window().map_or(Span::ZERO, |window| window.times(windows)),
    }
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

    /// How long a charge counts, if the limit counts by time: its window or gap, the time in which a bucket
    /// fills, the usual time between two resets.
    pub fn window(&self) -> Option<Span> {
        self.rule.window()
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
///
/// Two sets are equal if they have the same limits and apis and weigh calls alike. Their calendars are not
/// compared: they say where the same resets lie on a timeline.
#[derive(Debug, Clone, Default)]
pub struct LimitSet {
    limits: Vec<Limit>,
    /// The names of the apis by their numbers; empty: they have none.
    apis: Vec<String>,
    /// By the numbers in the rules.
    calendars: Vec<Arc<dyn Calendar>>,
    /// By the places of the limits; empty: each call is one unit of every limit.
    weighings: Vec<u64>,
    /// By the places of the limits; empty: records of others know them by their names alone.
    known_as: Vec<String>,
}

/// What divides the name of a limit from that which tells it apart from others of its name.
const APART: char = '~';

impl PartialEq for LimitSet {
    fn eq(&self, other: &Self) -> bool {
        let alike = (0..self.limits.len()).all(|at| self.weighing(at) == other.weighing(at));
        (&self.limits, &self.apis) == (&other.limits, &other.apis) && alike
    }
}

impl Eq for LimitSet {}

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
                // A bucket may be full again in no time: then the rate is what limits.
                if window < WINDOW_MIN && !matches!(limit.rule, Rule::Bucket { .. }) {
                    return Err(LimitError::TooShort(name()));
                }
                let guard = limit.guard.span(window).unwrap_or(Span::ZERO);
                if window.max(guard) > WINDOW_MAX {
                    return Err(LimitError::TooLong(name()));
                }
            }
            match limit.rule {
                Rule::Bucket { per, .. } if per < WINDOW_MIN => {
                    return Err(LimitError::TooShort(name()));
                }
                Rule::Bucket { per: span, .. } | Rule::Score { block: span, .. }
                    if span > WINDOW_MAX =>
                {
                    return Err(LimitError::TooLong(name()));
                }
                Rule::Jobs { ttl, .. } if ttl < WINDOW_MIN => {
                    return Err(LimitError::TooShort(name()));
                }
                Rule::Jobs { ttl, .. } if ttl > WINDOW_MAX => {
                    return Err(LimitError::TooLong(name()));
                }
                Rule::Calendar { window, slack, .. }
                    if slack > SLACK_MAX || slack.times(2) >= window =>
                {
                    return Err(LimitError::Slack(name()));
                }
                Rule::Calendar { calendar, .. } if usize::from(calendar) >= CALENDARS_MAX => {
                    return Err(LimitError::NoCalendar(name()));
                }
                _ => {}
            }
        }
        Ok(Self { limits, ..Self::default() })
    }

    /// Other limits of the same apis, with the same calendars.
    ///
    /// # Errors
    /// Any of [`LimitSet::new`], [`LimitSet::with_apis`] and [`LimitSet::with_calendars`].
    pub fn with_limits(&self, limits: Vec<Limit>) -> Result<Self, LimitError> {
        let set = Self::new(limits)?.with_apis(self.apis.clone())?;
        set.with_calendars(self.calendars.clone())
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
    /// ledger.take(&old, PermitId(1), Ask::new(0), At(0));
    /// ledger.ended(&old, PermitId(1), At(0), Sent::Never);
    /// let (ledger, notes) = ledger.under(&old, &new, At(0));
    /// assert!(notes.is_empty());
    /// let decision = |api| decide(&new, &ledger, ledger.holds(), Ask::new(api), At(0));
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
        let set = Self { apis, ..self };
        let nobodys = |limit: &&Limit| limit.api.is_some_and(|api| !set.has_api(api));
        match set.limits.iter().find(nobodys) {
            Some(limit) => Err(LimitError::NoApi(limit.name.clone())),
            None => Ok(set),
        }
    }

    /// Says when the windows of [`Rule::Calendar`] begin, by the numbers in the rules. They belong to one
    /// timeline, so they are given where the clock is known.
    ///
    /// # Errors
    /// A rule names a calendar that is not among them, or there are more than 32.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use core::num::NonZeroU32;
    /// use tollgate_gate::*;
    /// /// Every day of 24 hours from 0 on; a real one knows time zones and the wall clock.
    /// #[derive(Debug)]
    /// struct Days;
    /// const DAY: i64 = 24 * 3600 * 1_000_000;
    /// impl Calendar for Days {
    ///     fn prev_reset(&self, at: At) -> At {
    ///         At(at.0.div_euclid(DAY) * DAY)
    ///     }
    ///     fn next_reset(&self, at: At) -> At {
    ///         At((at.0.div_euclid(DAY) + 1) * DAY)
    ///     }
    /// }
    /// let daily = Limit {
    ///     name: "daily".into(),
    ///     per_api: false,
    ///     api: None,
    ///     rule: Rule::Calendar {
    ///         max: NonZeroU32::MIN,
    ///         window: Span(DAY as u64),
    ///         slack: Span::from_secs(2),
    ///         calendar: 0,
    ///     },
    ///     guard: Guard::Default,
    /// };
    /// let limits = LimitSet::new(vec![daily]).unwrap().with_calendars(vec![Arc::new(Days)]).unwrap();
    /// let (mut ledger, s) = (Ledger::new(), 1_000_000);
    /// ledger.take(&limits, PermitId(1), Ask::new(0), At(DAY - 3600 * s));
    /// ledger.answered(&limits, PermitId(1), At(DAY - 3600 * s));
    /// let because = Because::Limit(0);
    /// assert_eq!(
    ///     decide(&limits, &ledger, ledger.holds(), Ask::new(0), At(DAY - 1)),
    ///     Decision::WaitUntil { at: Some(At(DAY + 2 * s)), because }, // its midnight, surely
    /// );
    /// ```
    pub fn with_calendars(self, calendars: Vec<Arc<dyn Calendar>>) -> Result<Self, LimitError> {
        let missing = self.limits.iter().find(|limit| match limit.rule {
            Rule::Calendar { calendar, .. } => usize::from(calendar) >= calendars.len(),
            _ => calendars.len() > CALENDARS_MAX,
        });
        match missing {
            Some(limit) => Err(LimitError::NoCalendar(limit.name.clone())),
            None => Ok(Self { calendars, ..self }),
        }
    }

    /// Says how each limit weighs calls, by its place: limits of one number give every call the same cost,
    /// and 0, which is also what is not said, gives each call one unit. The gate takes costs from its callers; with
    /// this it can tell whether what one limit remembers is what another one would
    /// ([`Ledger::under`](crate::Ledger::under)).
    #[must_use]
    pub fn with_weighings(self, weighings: Vec<u64>) -> Self {
        Self { weighings, ..self }
    }

    /// Says under which other name a record may know each limit, by its place. Two nodes may have different limits of
    /// one name, and each keeps both for a while: its own as `gap`, and the other's as `gap~1a2b`, which that one
    /// knows as `gap`. A record is read by that name first, then by the limit's own, then by that before the `~`: all
    /// of these counted the same calls.
    #[must_use]
    pub fn with_known_as(self, known_as: Vec<String>) -> Self {
        Self { known_as, ..self }
    }

    /// The other name of the limit at that place, if it has one.
    pub fn known_as(&self, place: usize) -> Option<&str> {
        self.known_as.get(place).map(String::as_str).filter(|other| !other.is_empty())
    }

    /// The names under which a record may have what the limit at that place counted, best first.
    fn names_of(&self, place: usize) -> impl Iterator<Item = &str> {
        let name = self.limits.get(place).map_or("", |limit| limit.name.as_str());
        let base = name.rsplit_once(APART).map(|(base, _)| base);
        self.known_as(place).into_iter().chain([name]).chain(base)
    }

    /// Which of these limits, of one kind and with names, holds what the limit at that place counted.
    pub(crate) fn source<'n>(
        &self,
        place: usize,
        known: impl Iterator<Item = (usize, &'n str)> + Clone,
    ) -> Option<usize> {
        let find = |wanted: &str| known.clone().find(|(_, name)| *name == wanted);
        self.names_of(place).find_map(find).map(|(source, _)| source)
    }

    /// Whether a limit of that name stands for another node's beside one's own.
    pub(crate) fn is_apart(name: &str) -> bool {
        name.contains(APART)
    }

    /// How the limit at that place weighs calls.
    pub(crate) fn weighing(&self, place: usize) -> u64 {
        self.weighings.get(place).copied().unwrap_or(0)
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

    /// Whether any limit remembers calls that are over. Without one there are only calls in flight.
    pub fn is_dated(&self) -> bool {
        self.limits.iter().any(|limit| !matches!(limit.rule, Rule::Concurrent { .. }))
    }

    /// The longest time after which a call that is over can still matter: the longest window, gap or life
    /// of a job; zero without any. An account whose ledger cannot be read has to wait so long.
    pub fn window_max(&self) -> Span {
        self.limits.iter().map(|limit| limit.rule.remembers()).max().unwrap_or(Span::ZERO)
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

    /// The latest charge that no longer counts at `now` under a limit that counts by time and is not a
    /// bucket, by the rule alone.
    pub(crate) fn left_by(&self, limit: &Limit, now: At) -> At {
        match limit.rule {
            Rule::Calendar { slack, calendar, .. } => {
                let Some(calendar) = self.calendars.get(usize::from(calendar)) else {
                    return At::MIN;
                };
                // By the slowest clock that the provider can have, its window began here; by the fastest
                // one it had begun for calls of so much before.
                calendar.prev_reset(now.minus(slack)).minus(slack).minus(Span(1))
            }
            rule => now.minus(rule.window().unwrap_or(Span::ZERO)),
        }
    }

    /// When a charge at `at` no longer counts: the other side of [`Self::left_by`].
    pub(crate) fn leaves(&self, limit: &Limit, at: At) -> At {
        match limit.rule {
            Rule::Calendar { slack, calendar, .. } => self
                .calendars
                .get(usize::from(calendar))
                .map_or(At::MAX, |calendar| calendar.next_reset(at.plus(slack)).plus(slack)),
            rule => at.plus(rule.window().unwrap_or(Span::ZERO)),
        }
    }

    /// A charge as it is kept: rounded up where a limit has too many, and never over the end of a window that
    /// is known.
    pub(crate) fn rounded(&self, limit: &Limit, at: At) -> At {
        let rounded = at.rounded_up(limit.rule.rounding());
        match limit.rule {
            Rule::Calendar { slack, .. } if rounded > at => {
                let last = self.leaves(limit, at).minus(slack).minus(slack).minus(Span(1));
                rounded.min(last).max(at)
            }
            _ => rounded,
        }
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
    /// The provider's clock may be further off under this limit than an hour or half its window.
    Slack(String),
    /// This limit's calendar is not among those given, or there are more than 32.
    NoCalendar(String),
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
            Self::Slack(name) => {
                write!(f, "limit `{name}` has a slack above an hour or half its window")
            }
            Self::NoCalendar(name) => write!(f, "limit `{name}` has no calendar"),
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
