//! Tables of limits: one for a platform, one for each of its apis.

use std::num::NonZeroU32;
use std::time::Duration;

use ::config::{Value, ValueKind};
use tollgate_gate::{ApiIx, Guard, Limit, Rule, Span};

use super::BAD;
use super::keys::{self, Own};
use super::section::{Section, kind_of};
use crate::codes::Code;
use crate::ids::Slug;
use crate::plan::{Dim, When};

/// Bounds of a window or a gap.
const WINDOW_MIN: Duration = Duration::from_millis(1);
const WINDOW_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Bounds of a guard.
const GUARD_MIN: Duration = Duration::ZERO;
const GUARD_MAX: Duration = Duration::from_secs(3600);

const RULES: &str = "say every = \"5s\", or max = 60 with in = \"1h\", or concurrent = 4";

/// A limit with the key that it counts by.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// Of which key: sorted, each dimension once.
    pub(super) dims: Vec<Dim>,
    /// Which calls it counts.
    pub(super) when: When,
    /// The limit itself.
    pub(super) limit: Limit,
    /// The same limit for some values of its key, and for some tiers of accounts.
    pub(super) own: Own<Limit>,
    /// Where it stands.
    pub(super) path: String,
}

/// The table `limits` of a section. `api` is given for an api's own limits.
pub(super) fn limits(section: &mut Section<'_>, api: Option<ApiIx>, guard: Guard) -> Vec<Declared> {
    let Some(mut table) = section.section("limits") else { return Vec::new() };
    let entries = table.entries();
    let mut limits = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        if let Err(reason) = Slug::new(&name) {
            table.mistake(Code::BadName, &name, reason, "");
            continue;
        }
        let Some(entry) = table.section_of(&name, value) else { continue };
        limits.extend(declared(entry, &name, api, guard));
    }
    limits
}

fn declared(
    mut entry: Section<'_>,
    name: &str,
    api: Option<ApiIx>,
    above: Guard,
) -> Option<Declared> {
    let path = entry.path().to_owned();
    let dims = keys::per(&mut entry);
    let when = keys::when(&mut entry, api.is_some());
    let own = keys::own(&mut entry, dims.as_deref());
    // Each is the whole limit with some of its words replaced, and read like any other.
    let own = own.map(|words| limit(entry.with(words), name, dims.as_deref(), api, above));
    let limit = limit(entry, name, dims.as_deref(), api, above);
    Some(Declared { dims: dims?, when: when?, limit: limit?, own: own?, path })
}

fn limit(
    mut entry: Section<'_>,
    name: &str,
    dims: Option<&[Dim]>,
    api: Option<ApiIx>,
    above: Guard,
) -> Option<Limit> {
    let supported = refuse_unsupported(&mut entry);
    if entry.has("guard") && entry.has("concurrent") {
        let message = "calls in flight are counted until their end: a guard means nothing here";
        entry.mistake(BAD, "guard", message, "leave it out");
    }
    let guard = guard(&mut entry).unwrap_or(above);
    let rule = rule(&mut entry, supported);
    entry.finish();
    // Within an api there is nothing left to tell apart; the key of a budget has it.
    let per_api = api.is_none() && dims == Some(&[Dim::Account, Dim::Api]);
    Some(Limit { name: name.to_owned(), per_api, api, rule: rule?, guard })
}

/// False if the limit is of a kind that is declared but not built.
fn refuse_unsupported(entry: &mut Section<'_>) -> bool {
    let before = entry.report().count();
    for name in ["rate", "burst"] {
        entry.unsupported(name, "a token bucket is not kept yet; say max and in instead");
    }
    entry.unsupported("resets", "windows that start anew at a time of day are not kept yet; a sliding max and in is stricter");
    for name in ["cost", "reserve"] {
        entry.unsupported(name, "every call counts one");
    }
    entry.report().count() == before
}

fn rule(entry: &mut Section<'_>, supported: bool) -> Option<Rule> {
    let every = entry.take("every");
    let has_max = entry.has("max");
    let max = entry.whole("max");
    let window = entry.take("in");
    let has_concurrent = entry.has("concurrent");
    let concurrent = entry.whole("concurrent");
    let whole = |message: &str| {
        let name = entry.path().rsplit('.').next().unwrap_or_default();
        entry.report().mistake(
            Code::ImpossibleLimit,
            entry.path(),
            format!("limit `{name}` {message}"),
            RULES,
        );
        None
    };
    if !supported {
        return None;
    }
    match (every, has_max || window.is_some(), has_concurrent) {
        (Some(gap), false, false) => Some(Rule::Every { gap: span(entry, "every", &gap)? }),
        (None, true, false) => {
            if !has_max {
                entry.mistake(Code::MissingKey, "max", "`in` without `max`", "max = 60");
            }
            let Some(window) = window else {
                entry.mistake(Code::MissingKey, "in", "`max` without `in`", "in = \"1h\"");
                return None;
            };
            let window = span(entry, "in", &window);
            let max = positive(entry, "max", max?);
            Some(Rule::Sliding { max: max?, window: window? })
        }
        (None, false, true) => {
            Some(Rule::Concurrent { max: positive(entry, "concurrent", concurrent?)? })
        }
        (None, false, false) => whole("limits nothing"),
        _ => whole("says several things at once"),
    }
}

fn span(entry: &Section<'_>, name: &str, value: &Value) -> Option<Span> {
    let zero = matches!(&value.kind, ValueKind::String(text)
        if super::values::parse_duration(text).is_ok_and(|duration| duration.is_zero()));
    if zero {
        let message = "a window of no length limits nothing";
        entry.mistake(Code::ImpossibleLimit, name, message, "durations look like \"5s\", \"1h\"");
        return None;
    }
    let duration = entry.duration_of(name, value, WINDOW_MIN..=WINDOW_MAX, Code::SlidingDay)?;
    Some(Span::from(duration))
}

fn positive(entry: &Section<'_>, name: &str, number: i64) -> Option<NonZeroU32> {
    if number <= 0 {
        let message = format!("with {number} no call could ever go");
        entry.mistake(Code::ImpossibleLimit, name, message, "a whole number from 1");
        return None;
    }
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    if number.is_none() {
        entry.mistake(BAD, name, format!("at most {} are possible", u32::MAX), "");
    }
    number
}

/// The key `guard` of a platform or a limit.
pub(super) fn guard(section: &mut Section<'_>) -> Option<Guard> {
    let value = section.take("guard")?;
    match &value.kind {
        ValueKind::String(text) if text == "never" => return Some(Guard::Never),
        ValueKind::String(_) | ValueKind::I64(_) | ValueKind::Float(_) => {}
        _ => {
            let message = format!("{} where a duration or \"never\" belongs", kind_of(&value));
            section.mistake(Code::WrongType, "guard", message, "");
            return None;
        }
    }
    let duration =
        section.duration_of("guard", &value, GUARD_MIN..=GUARD_MAX, Code::BadDuration)?;
    Some(Guard::After(Span::from(duration)))
}
