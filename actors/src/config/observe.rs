//! The lists `observe` and `over`, and `adaptive`, of a platform or an api: what its answers say of limits.

use std::time::Duration;

use ::config::{Value, ValueKind};
use http::HeaderName;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use tollgate_gate::{ApiIx, LimitSet};

use super::BAD;
use super::section::{Section, one_of};
use crate::codes::Code;
use crate::ids::preview;
use crate::observe::pace::{PaceRule, RATE_MAX, RATE_MIN};
use crate::observe::{
    CAP, Ends, JsonPath, Observe, Over, PATH_STEPS_MAX, PRESSED_WAIT, Place, RULES_MAX, Rules,
    Scope, Source, THENS, Tells, Test, Then, UNITS, Unit, Wait,
};
use crate::plan::Budget;

/// Bounds of waits, floors, caps.
const WAIT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Bounds of a jitter.
const JITTER_MAX: Duration = Duration::from_secs(3600);
/// Most values of `is`, and most statuses.
const VALUES_MAX: usize = 64;
/// Longest text of `contains`, in bytes.
const CONTAINS_MAX: usize = 200;

const SCOPES: &[(&str, Scope)] = &[
    ("api", Scope::Api),
    ("account", Scope::Account),
    ("key", Scope::Key),
    ("platform", Scope::Platform),
];
const WAIT_HINT: &str = "wait = \"5m\", or { header = \"NAME\", unit = \"s\" }, or { body = \"PATH\", unit = \"s\" }, or { until = \"00:00 UTC\" }";

#[derive(Clone, Copy)]
enum As {
    Remaining,
    Used,
    Limit,
    Usage,
    Percent,
    Reset,
    RateLimit,
}

const AS: &[(&str, As)] = &[
    ("remaining", As::Remaining),
    ("used", As::Used),
    ("limit", As::Limit),
    ("usage", As::Usage),
    ("percent", As::Percent),
    ("reset", As::Reset),
    ("ratelimit", As::RateLimit),
];

/// Rules whose limits are still names: limits are known when everything else is.
#[derive(Debug, Default)]
pub(super) struct Unresolved {
    observe: Vec<(Observe, Option<Named>)>,
    /// With the scope, if it is said.
    over: Vec<(Over, Option<Named>, Option<Scope>)>,
    pace: Option<PaceRule>,
    job_ends: Vec<Ends>,
}

impl Unresolved {
    /// What becomes of refused fetches where less is asked for then.
    pub(super) fn making_less(&self) -> Vec<(usize, Then)> {
        let thens = self.over.iter().map(|(over, ..)| over.then).enumerate();
        thens.filter(|(_, then)| then.makes_less()).collect()
    }

    /// The same, with the answers that say that a job is over.
    pub(super) fn with_job_ends(self, job_ends: Vec<Ends>) -> Self {
        Self { job_ends, ..self }
    }
}

/// A limit by its name, and the key that names it.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    key: String,
}

/// What a platform or an api declares of its answers.
pub(super) fn rules(section: &mut Section<'_>) -> Unresolved {
    let observe = entries(section, "observe", observe);
    let over = entries(section, "over", over);
    let pace = section.section("adaptive").and_then(adaptive);
    Unresolved { observe, over, pace, job_ends: Vec::new() }
}

/// The rules of one api: its own and then its platform's, with the places of their limits.
pub(super) fn resolve(
    section: &Section<'_>,
    own: &Unresolved,
    platform: &Unresolved,
    sets: (&LimitSet, &[Budget]),
    api: ApiIx,
) -> Rules {
    let own_pace = own.pace.map(|pace| PaceRule { per_api: true, ..pace });
    let (pace, job_ends) = (own_pace.or(platform.pace), own.job_ends.clone());
    let mut rules = Rules { pace, job_ends, ..Rules::default() };
    for (of, place) in [(own, Some(api)), (platform, None)] {
        for (rule, named) in &of.observe {
            let Ok(limit) = place_of(section, named.as_ref(), sets, place, api) else { continue };
            if named.is_some() && limit.is_none() {
                continue;
            }
            rules.observe.push(Observe { limit, ..rule.clone() });
        }
        for (rule, named, scope) in &of.over {
            let Ok(hits) = place_of(section, named.as_ref(), sets, place, api) else { continue };
            let scope = scope_of(*scope, hits, sets.0);
            rules.over.push(Over { hits, scope, ..rule.clone() });
        }
    }
    if rules.observe.len() > RULES_MAX || rules.over.len() > RULES_MAX {
        let message = format!(
            "{} and {} rules, the platform's included; at most {RULES_MAX} of each are allowed",
            rules.observe.len(),
            rules.over.len()
        );
        section.mistake(Code::TooMany, "observe", message, "");
    }
    rules
}

/// Whom a refusal holds: whoever the limit that was exceeded counts together, if that is wider than the account.
fn scope_of(said: Option<Scope>, hits: Option<Place>, limits: &LimitSet) -> Scope {
    match (said, hits) {
        (Some(Scope::Key) | None, Some(Place { budget: Some(_), .. })) => Scope::Key,
        (Some(Scope::Key), Some(Place { limit, .. })) => {
            let own = limits.limits().get(limit);
            let of_api = own.is_some_and(|limit| limit.per_api || limit.api.is_some());
            if of_api { Scope::Api } else { Scope::Account }
        }
        // Its limit does not count calls of this api.
        (Some(Scope::Key) | None, None | Some(_)) => Scope::default(),
        (Some(said), _) => said,
    }
}

/// The limit of a rule, if it names one and that counts calls of the api. An error was reported.
fn place_of(
    section: &Section<'_>,
    named: Option<&Named>,
    (limits, budgets): (&LimitSet, &[Budget]),
    own: Option<ApiIx>,
    api: ApiIx,
) -> Result<Option<Place>, ()> {
    let Some(Named { name, key }) = named else { return Ok(None) };
    let wide = (0..).zip(budgets).map(|(budget, wide)| (Some(budget), &*wide.counted.limits));
    let sets: Vec<(Option<u16>, &LimitSet)> = std::iter::once((None, limits)).chain(wide).collect();
    // An api's own before one of all.
    for of in [own, None] {
        let place = |set: &LimitSet| {
            let mut all = set.limits().iter();
            all.position(|limit| limit.name == *name && limit.api == of)
        };
        for (budget, set) in &sets {
            if let Some(limit) = place(set) {
                let counts = set.counts(limit, api);
                return Ok(counts.then_some(Place { budget: *budget, limit }));
            }
        }
    }
    // Told once, not for each api of the platform.
    if own.is_some() || api == 0 {
        let all = sets.iter().flat_map(|(_, set)| set.limits());
        let known = all.filter(|limit| limit.api.is_none() || limit.api == own);
        let names: Vec<&str> = known.map(|limit| limit.name.as_str()).collect();
        let hint = if names.is_empty() {
            "declare it in `limits`, or leave the name out".to_owned()
        } else {
            format!("one of {}", names.join(", "))
        };
        let message = format!("there is no limit `{}` here", preview(name));
        section.report().mistake(Code::UnknownLimit, key, message, hint);
    }
    Err(())
}

/// The tables of a list.
pub(super) fn entries<T>(
    section: &mut Section<'_>,
    name: &'static str,
    read: impl Fn(Section<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(value) = section.take(name) else { return Vec::new() };
    let items = match value.kind {
        ValueKind::Array(items) => items,
        // One rule needs no list.
        ValueKind::Table(_) => vec![value],
        _ => {
            let hint = format!("{name} = [{{ … }}, {{ … }}]");
            section.mistake(Code::WrongType, name, "a list of tables belongs here", hint);
            return Vec::new();
        }
    };
    if items.len() > RULES_MAX {
        let message = format!("{} rules, at most {RULES_MAX} are allowed", items.len());
        section.mistake(Code::TooMany, name, message, "");
        return Vec::new();
    }
    let each = items.into_iter().enumerate();
    each.filter_map(|(place, item)| read(section.section_of(&format!("{name}.{place}"), item)?))
        .collect()
}

fn observe(mut entry: Section<'_>) -> Option<(Observe, Option<Named>)> {
    let hint = "as = \"remaining\", \"used\", \"limit\", \"usage\", \"percent\", \"reset\" or \"ratelimit\"";
    let what = entry.required("as", hint);
    let what = what.and_then(|text| one_of(&entry, "as", &text, AS));
    if matches!(what, Some(As::RateLimit)) && !entry.has("header") && !entry.has("body") {
        entry.take("header");
        return Some(rate_limit(entry));
    }
    let said = entry.has("header") || entry.has("body");
    let from = source(&mut entry);
    if !said {
        let hint = "header = \"x-ratelimit-remaining\", or body = \"meta.remaining\"";
        entry.mistake(Code::MissingKey, "header", "it is not said where to look", hint);
    }
    let target = entry.whole_in("target", 1..=100);
    let unit = unit(&mut entry);
    let limit = named(&mut entry, "limit");
    if target.is_some() && !matches!(what, Some(As::Percent) | None) {
        entry.mistake(BAD, "target", "only a percentage has a target", "as = \"percent\"");
    }
    if unit.is_some() && !matches!(what, Some(As::Reset) | None) {
        entry.mistake(BAD, "unit", "only a reset has a unit", "as = \"reset\"");
    }
    let is_field = matches!(what, Some(As::RateLimit));
    let policy = if is_field { entry.text("policy") } else { None };
    let (scope, wait, cap) = held(&mut entry, limit.as_ref());
    if is_field && !matches!(from, Some(Source::Header { field: None, path: None, .. }) | None) {
        let message = "the field RateLimit is a header, read as a whole";
        entry.mistake(BAD, "as", message, "as = \"ratelimit\", header = \"NAME\"");
    }
    entry.finish();
    let tells = match what? {
        As::Remaining => Tells::Remaining,
        As::Used => Tells::Used,
        As::Limit => Tells::Limit,
        As::Usage => Tells::Usage,
        As::Percent => Tells::Percent { target: target.unwrap_or(100) as u8 },
        As::Reset => Tells::Reset(unit.unwrap_or(Unit::Seconds)),
        As::RateLimit => Tells::RateLimit { policy },
    };
    Some((Observe { from: from?, tells, limit: None, scope, wait, cap }, limit))
}

/// `{ as = "ratelimit", policy = "default", limit = "hourly" }`: the field has the name that the draft gives it.
fn rate_limit(mut entry: Section<'_>) -> (Observe, Option<Named>) {
    let policy = entry.text("policy");
    let limit = named(&mut entry, "limit");
    let (scope, wait, cap) = held(&mut entry, limit.as_ref());
    entry.finish();
    let name = HeaderName::from_static("ratelimit");
    let from = Source::Header { name, nth: None, field: None, path: None };
    let tells = Tells::RateLimit { policy };
    (Observe { from, tells, limit: None, scope, wait, cap }, limit)
}

/// What becomes of a limit that is not declared when it is used up.
fn held(entry: &mut Section<'_>, limit: Option<&Named>) -> (Scope, Duration, Duration) {
    let scope = scope(entry);
    let wait = entry.duration("wait", Duration::from_millis(1)..=WAIT_MAX);
    let cap = entry.duration("cap", Duration::from_millis(1)..=WAIT_MAX);
    if limit.is_some() {
        for (name, is_there) in [("scope", scope.is_some()), ("wait", wait.is_some())] {
            if is_there {
                let message = "the named limit says whom it concerns, and its window for how long";
                entry.mistake(BAD, name, message, "leave it out, or leave `limit` out");
            }
        }
    }
    if limit.is_none() && scope == Some(Scope::Key) {
        let message = "a limit that is not declared has no key";
        entry.mistake(BAD, "scope", message, "one of api, account, platform");
    }
    // A limit has a window, which caps what is believed of it.
    let cap = cap.unwrap_or(if limit.is_some() { WAIT_MAX } else { CAP });
    (scope.unwrap_or_default(), wait.unwrap_or(PRESSED_WAIT), cap)
}

/// What an answer must be like: `status`, `header` or `body` with `is`, `contains`.
pub(super) fn predicates(entry: &mut Section<'_>) -> (Option<Vec<u16>>, Vec<Test>) {
    let statuses = statuses(entry);
    let wanted = entry.take("is").and_then(|value| texts(entry, "is", &value));
    let both = entry.has("header") && entry.has("body");
    let from = source(entry);
    let mut tests: Vec<Test> = Vec::new();
    match (from, wanted) {
        (Some(from), wanted) => tests.push(Test::Is(from, wanted.unwrap_or_default())),
        (None, Some(_)) if !both => {
            let hint = "body = \"code\", is = [40100], or header = \"NAME\", is = \"0\"";
            entry.mistake(Code::MissingKey, "is", "it is not said what is this", hint);
        }
        (None, _) => {}
    }
    if let Some(text) = entry.text("contains") {
        if text.is_empty() || text.len() > CONTAINS_MAX {
            let message = format!("{} bytes, 1 to {CONTAINS_MAX} are allowed", text.len());
            entry.mistake(BAD, "contains", message, "");
        }
        tests.push(Test::Contains(text));
    }
    (statuses, tests)
}

fn over(mut entry: Section<'_>) -> Option<(Over, Option<Named>, Option<Scope>)> {
    let (statuses, tests) = predicates(&mut entry);
    let good = |status: &u16| (200..300).contains(status);
    let any_good = statuses.as_ref().is_some_and(|list| list.is_empty() || list.iter().any(good));
    if tests.is_empty() && any_good {
        let hint = "say a status from 300 on, or body, header or contains";
        let message = "every good answer would be a refusal";
        entry.report().mistake(BAD, entry.path(), message, hint);
    }
    let hits = named(&mut entry, "hits");
    let wait = wait(&mut entry);
    if matches!(wait, Some(Wait::Boundary)) && hits.is_none() {
        let message = "it is not said which limit's window is waited for";
        entry.mistake(Code::MissingKey, "hits", message, "hits = \"LIMIT\"");
    }
    let floor = entry.duration("floor", Duration::ZERO..=WAIT_MAX).unwrap_or_default();
    let cap = entry.duration("cap", Duration::from_millis(1)..=WAIT_MAX);
    let told = matches!(wait, Some(Wait::Asked | Wait::Told(..)));
    let cap = cap.unwrap_or(if told { CAP.max(floor) } else { WAIT_MAX });
    if floor > cap {
        entry.mistake(BAD, "floor", "the floor is above the cap", "");
    }
    let jitter = entry.duration("jitter", Duration::ZERO..=JITTER_MAX);
    // Nobody else should come in the very moment of a boundary that all know.
    let boundary = matches!(wait, Some(Wait::Boundary | Wait::UntilTime(..)));
    let jitter = jitter.unwrap_or(Duration::from_secs(u64::from(boundary)));
    let scope = scope(&mut entry);
    if scope == Some(Scope::Key) && hits.is_none() {
        let message = "it is not said which limit's key is meant";
        entry.mistake(Code::MissingKey, "hits", message, "hits = \"LIMIT\"");
    }
    let then = entry.text("then").and_then(|text| one_of(&entry, "then", &text, THENS));
    if then == Some(Then::Park) && scope.is_some() {
        let message = "nobody else waits for what is put aside";
        entry.mistake(BAD, "scope", message, "leave out `scope`, or `then`");
    }
    entry.finish();
    let over = Over {
        status: statuses?,
        tests,
        hits: None,
        wait: wait?,
        floor: floor.min(cap),
        cap,
        jitter,
        scope: Scope::default(),
        then: then.unwrap_or_default(),
    };
    Some((over, hits, scope))
}

fn statuses(entry: &mut Section<'_>) -> Option<Vec<u16>> {
    let Some(value) = entry.take("status") else { return Some(Vec::new()) };
    let texts = texts(entry, "status", &value)?;
    let statuses: Option<Vec<u16>> =
        texts.iter().map(|text| text.parse().ok().filter(|s| (200..=999).contains(s))).collect();
    if statuses.is_none() {
        let message = "a status is a number from 200 to 999";
        entry.mistake(BAD, "status", message, "status = [403, 429]");
    }
    statuses
}

/// One value or several, as texts.
pub(super) fn texts(entry: &Section<'_>, name: &str, value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match &value.kind {
        ValueKind::String(text) => Some(text.clone()),
        ValueKind::I64(number) => Some(number.to_string()),
        ValueKind::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    };
    let all: Option<Vec<String>> = match &value.kind {
        ValueKind::Array(items) if !items.is_empty() => items.iter().map(one).collect(),
        _ => one(value).map(|text| vec![text]),
    };
    match all {
        Some(all) if all.len() <= VALUES_MAX => return Some(all),
        Some(all) => {
            let message = format!("{} values, at most {VALUES_MAX} are allowed", all.len());
            entry.mistake(Code::TooMany, name, message, "");
        }
        None => {
            let message = "a value, or a list of values, belongs here";
            entry.mistake(Code::WrongType, name, message, "");
        }
    }
    None
}

/// Where to look: `header` (with `nth`, `field` or `path`) or `body`.
pub(super) fn source(entry: &mut Section<'_>) -> Option<Source> {
    let header = entry.text("header");
    let body = entry.text("body");
    let nth = entry.whole_in("nth", 0..=15);
    let field = entry.text("field");
    let path = entry.text("path");
    let path_of = |name: &str, text: &str| {
        let path = JsonPath::new(text);
        if path.is_none() {
            let message = format!(
                "`{}` is no path: names with dots between them, at most {PATH_STEPS_MAX}",
                preview(text)
            );
            entry.mistake(BAD, name, message, "such as \"error.code\", or \"*.*.call_count\"");
        }
        path
    };
    match (header, body) {
        (Some(_), Some(_)) => {
            let message = "a header or the body, not both";
            entry.mistake(BAD, "body", message, "make two rules of it");
            None
        }
        (Some(text), None) => {
            let Ok(name) = HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes()) else {
                let message = format!("`{}` is no name of a header", preview(&text));
                entry.mistake(Code::BadHeader, "header", message, "");
                return None;
            };
            if field.is_some() && path.is_some() {
                let message = "the value is a list or JSON, not both";
                entry.mistake(BAD, "field", message, "say `field` or `path`");
                return None;
            }
            let path = match path {
                Some(text) => Some(path_of("path", &text)?),
                None => None,
            };
            Some(Source::Header { name, nth: nth.map(|nth| nth as usize), field, path })
        }
        (None, Some(text)) => {
            for (name, is_there) in
                [("nth", nth.is_some()), ("field", field.is_some()), ("path", path.is_some())]
            {
                if is_there {
                    let message = "this is for headers; `body` is the path itself";
                    entry.mistake(BAD, name, message, "leave it out");
                }
            }
            path_of("body", &text).map(Source::Body)
        }
        (None, None) => None,
    }
}

fn unit(entry: &mut Section<'_>) -> Option<Unit> {
    entry.text("unit").and_then(|text| one_of(entry, "unit", &text, UNITS))
}

fn scope(entry: &mut Section<'_>) -> Option<Scope> {
    entry.text("scope").and_then(|text| one_of(entry, "scope", &text, SCOPES))
}

fn named(entry: &mut Section<'_>, name: &'static str) -> Option<Named> {
    let key = entry.key(name);
    entry.text(name).map(|name| Named { name, key })
}

fn wait(entry: &mut Section<'_>) -> Option<Wait> {
    let Some(value) = entry.take("wait") else { return Some(Wait::Asked) };
    if matches!(&value.kind, ValueKind::String(text) if text == "boundary") {
        return Some(Wait::Boundary);
    }
    let table = matches!(value.kind, ValueKind::Table(_));
    if !table {
        let range = Duration::from_millis(1)..=WAIT_MAX;
        return entry.duration_of("wait", &value, range, Code::BadDuration).map(Wait::For);
    }
    let mut table = entry.section_of("wait", value)?;
    let said = table.has("header") || table.has("body");
    let wait = if let Some(text) = table.text("until") {
        time_of_day(&table, &text)
    } else {
        let from = source(&mut table);
        let unit = unit(&mut table).unwrap_or(Unit::Seconds);
        if !said {
            let message = "it is not said how long to wait";
            table.report().mistake(Code::MissingKey, table.path(), message, WAIT_HINT);
        }
        from.map(|from| Wait::Told(from, unit))
    };
    table.finish();
    wait
}

/// `00:00 UTC`, `09:30 Asia/Seoul`.
fn time_of_day(table: &Section<'_>, text: &str) -> Option<Wait> {
    let hint = "until = \"00:00 UTC\", or \"00:00 America/Los_Angeles\"";
    let bad = |message: String| {
        table.mistake(BAD, "until", message, hint);
        None
    };
    let Some((time, zone)) = text.trim().split_once(' ') else {
        return bad(format!("`{}` is not a time of day and a zone", preview(text)));
    };
    let Ok(time) = time.parse::<Time>() else {
        return bad(format!("`{}` is not a time of day", preview(time)));
    };
    match TimeZone::get(zone.trim()) {
        Ok(zone) => Some(Wait::UntilTime(time, zone)),
        Err(_) => bad(format!("there is no time zone `{}`", preview(zone))),
    }
}

fn adaptive(mut table: Section<'_>) -> Option<PaceRule> {
    let hint = "adaptive = { min = \"1/s\", max = \"20/s\" }";
    let rate = |table: &mut Section<'_>, name, needed| {
        if needed && !table.has(name) {
            table.take(name);
            table.mistake(Code::MissingKey, name, format!("`{name}` is missing"), hint);
            return None;
        }
        let text = table.text(name)?;
        let rate = parse_rate(&text).filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
        if rate.is_none() {
            let message = format!("`{}` is not a rate from 1/d to 10000/s", preview(&text));
            table.mistake(BAD, name, message, "calls per s, min, h or d, such as \"6/min\"");
        }
        rate
    };
    let min = rate(&mut table, "min", true);
    let max = rate(&mut table, "max", true);
    let step = rate(&mut table, "step", false);
    let cut = table.take("cut").map(|value| match value.kind {
        ValueKind::Float(cut) if cut > 0.0 && cut < 1.0 => Some(cut),
        _ => {
            let message = "what a refusal leaves of the rate is above 0 and below 1";
            table.mistake(BAD, "cut", message, "cut = 0.5");
            None
        }
    });
    if let (Some(min), Some(max)) = (min, max)
        && min >= max
    {
        table.mistake(BAD, "min", "the slowest rate is not below the fastest", hint);
    }
    table.finish();
    let (min, max) = (min?, max?);
    let cut = cut.unwrap_or(Some(0.5))?;
    (min < max).then_some(PaceRule {
        min,
        max,
        step: step.unwrap_or(max / 100.0),
        cut,
        per_api: false,
    })
}

/// Calls per second: `20/s`, `0.5/s`, `6/min`, `100/h`, `1000/d`.
fn parse_rate(text: &str) -> Option<f64> {
    let (calls, unit) = text.trim().split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let calls: f64 = calls.trim().parse().ok()?;
    (calls.is_finite() && calls > 0.0).then_some(calls / seconds)
}
