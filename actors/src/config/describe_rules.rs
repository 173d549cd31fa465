//! Rules about what answers say, in words.

use std::fmt::{self, Write};
use std::time::Duration;

use super::values::show;
use crate::observe::{Observe, Over, Place, Rules, Source, Tells, Test, Then, UNITS, Unit, Wait};
use crate::plan::Platform;

/// From here on a bound is none.
const NO_BOUND: Duration = Duration::from_secs(366 * 24 * 3600);

/// What is read of the answers of one api.
pub(super) fn write_rules(out: &mut String, rules: &Rules, platform: &Platform) -> fmt::Result {
    for rule in &rules.observe {
        writeln!(out, "    reads {}", observe(rule, platform))?;
    }
    for rule in &rules.over {
        writeln!(out, "    refused {}", over(rule, platform))?;
    }
    if let Some(pace) = rules.pace {
        let whose = if pace.per_api { "this api of an account" } else { "an account" };
        writeln!(
            out,
            "    adaptive pace of {whose}: from {} to {} calls/s, + {} with a good answer, x {} with a refusal",
            round(pace.min),
            round(pace.max),
            round(pace.step),
            pace.cut
        )?;
    }
    Ok(())
}

fn round(rate: f64) -> f64 {
    (rate * 1e4).round() / 1e4
}

fn name(platform: &Platform, place: Place) -> &str {
    let budget = place.budget.and_then(|budget| platform.budgets.get(usize::from(budget)));
    let limits = budget.map_or(&platform.limits, |budget| &budget.counted.limits);
    limits.limits().get(place.limit).map_or("?", |limit| &limit.name)
}

fn source(from: &Source) -> String {
    match from {
        Source::Body(path) => format!("`{path}` in the body"),
        Source::Header { name, nth, field, path } => {
            let inside = field.clone().or_else(|| path.as_ref().map(ToString::to_string));
            let inside = inside.map(|inside| format!("`{inside}` in ")).unwrap_or_default();
            let nth = nth.map(|nth| format!(" (number {nth})")).unwrap_or_default();
            format!("{inside}header {name}{nth}")
        }
    }
}

fn unit(unit: Unit) -> &'static str {
    UNITS.iter().find(|(_, known)| *known == unit).map_or("", |(name, _)| name)
}

fn observe(rule: &Observe, platform: &Platform) -> String {
    let what = match &rule.tells {
        Tells::Remaining => "calls left".to_owned(),
        Tells::Used => "calls used".to_owned(),
        Tells::Limit => "calls allowed".to_owned(),
        Tells::Usage => "calls used / allowed".to_owned(),
        Tells::Percent { target } => format!("percent used, {target} being all"),
        Tells::Reset(of) => format!("when more is allowed ({})", unit(*of)),
        Tells::RateLimit { policy: Some(policy) } => format!("calls left of policy {policy}"),
        Tells::RateLimit { policy: None } => "calls left of the strictest policy".to_owned(),
    };
    let from = source(&rule.from);
    let Some(place) = rule.limit else {
        return format!(
            "{from}: {what}; used up, it holds the {} for {} or as long as it says, at most {}",
            rule.scope.as_str(),
            show(rule.wait),
            show(rule.cap)
        );
    };
    let cap = (rule.cap < NO_BOUND).then(|| format!(", at most {} ahead", show(rule.cap)));
    format!("{from}: {what}, of limit {}{}", name(platform, place), cap.unwrap_or_default())
}

fn over(rule: &Over, platform: &Platform) -> String {
    let mut tests = Vec::new();
    if !rule.status.is_empty() {
        let list: Vec<String> = rule.status.iter().map(ToString::to_string).collect();
        tests.push(format!("status {}", list.join(" or ")));
    }
    for test in &rule.tests {
        tests.push(match test {
            Test::Contains(text) => format!("body holds {text:?}"),
            Test::Is(from, wanted) if wanted.is_empty() => format!("there is {}", source(from)),
            Test::Is(from, wanted) => format!("{} is {}", source(from), wanted.join(" or ")),
        });
    }
    let wait = match &rule.wait {
        Wait::Asked => "waits as Retry-After says, else longer each time".to_owned(),
        Wait::Boundary => "waits for the end of the limit's window".to_owned(),
        Wait::For(wait) => format!("waits {}", show(*wait)),
        Wait::Told(from, of) => format!("waits as {} says ({})", source(from), unit(*of)),
        Wait::UntilTime(time, zone) => {
            format!("waits until {time} {}", zone.iana_name().unwrap_or("UTC"))
        }
    };
    let bounds = [
        ("at least ", rule.floor, ""),
        ("at most ", rule.cap, ""),
        ("and up to ", rule.jitter, " more"),
    ];
    let bounds = bounds.into_iter().filter(|(_, bound, _)| !bound.is_zero() && *bound < NO_BOUND);
    let bounds: Vec<String> =
        bounds.map(|(word, bound, more)| format!(", {word}{}{more}", show(bound))).collect();
    let bounds = bounds.concat();
    let hits = rule.hits.map(|place| format!(" (limit {})", name(platform, place)));
    let then = match rule.then {
        Then::Retry => "tried again",
        Then::Fail => "given up",
        Then::Park => {
            let tests = tests.join(", ");
            return format!(
                "if {tests}: put aside, {wait}{bounds}, and tried again; holds nobody else"
            );
        }
        Then::Split => "split into parts that take its place",
        Then::Shrink => "made smaller",
    };
    format!(
        "if {}: {wait}{bounds}; holds the {}{}, {then}",
        tests.join(", "),
        rule.scope.as_str(),
        hits.unwrap_or_default()
    )
}
