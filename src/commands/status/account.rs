//! One account for people: its limits with what counts, its holds, answers and next calls.

use tollgate_actors::view::{
    AccountView, AnswerView, CounterView, HoldView, Holder, LimitKind, LimitView,
};

use super::{left, printable, span};
use crate::ui::{number, print};

/// Answers that are shown of those that were told.
const ANSWERS: usize = 10;
/// Next calls that are.
const NEXT: usize = 10;
/// Signs of a gauge.
const GAUGE: u64 = 20;

/// Prints it.
pub(super) fn show(view: &AccountView) -> std::io::Result<()> {
    for lane in &view.lanes {
        let priority = serde_json::to_value(lane.priority).unwrap_or_default();
        let priority = priority.as_str().filter(|name| *name != "normal");
        let priority = priority.map_or_else(String::new, |name| format!(", {name}"));
        print(format_args!("  {}{priority}: {} wait", lane.api, number(lane.waiting)))?;
    }
    if let Some(node) = &view.node {
        print(format_args!("  at {}", printable(node)))?;
    }
    for hold in &view.holds {
        print(format_args!("{}", held(hold)))?;
    }
    if !view.limits.is_empty() {
        print(format_args!("\n{:<24} {:>11}  {:<22} FREES", "LIMIT", "USED", ""))?;
    }
    for limit in &view.limits {
        show_limit(view, limit)?;
    }
    let next = view.next.iter().take(NEXT);
    let next: Vec<String> = next.map(|call| format!("{:.1} {}", call.at, call.api)).collect();
    if !next.is_empty() {
        print(format_args!("\nNEXT CALLS\n  {}", next.join("\n  ")))?;
    }
    if !view.answers.is_empty() {
        print(format_args!("\nLAST ANSWERS"))?;
    }
    for answer in view.answers.iter().take(ANSWERS) {
        print(format_args!("  {}", answered(answer)))?;
    }
    Ok(())
}

fn held(hold: &HoldView) -> String {
    let by = match hold.by {
        Holder::Operator => "an operator",
        Holder::Provider => "the provider",
    };
    let until = hold.until.map_or_else(|| "it is ended".into(), |until| format!("{until:.0}"));
    format!("  held by {by} until {until}, {}: {}", printable(&hold.of), printable(&hold.reason))
}

fn show_limit(view: &AccountView, limit: &LimitView) -> std::io::Result<()> {
    let api = limit.api.as_ref().map_or_else(String::new, |api| format!(" ({api})"));
    let name = format!("{}{api}", limit.name);
    if limit.shared {
        let per = limit.per.join(" and ");
        return print(format_args!("{name:<24} {:>11}  shared per {per}", "-"));
    }
    for counter in &limit.counters {
        let name = match &counter.api {
            Some(api) => format!("{name} ({api})"),
            None => name.clone(),
        };
        let used = format!("{}/{}", number(counter.used), number(limit.max));
        let frees = counter.frees.filter(|_| limit.kind != LimitKind::Bucket);
        let frees = frees
            .or(counter.clears)
            .map_or_else(String::new, |at| format!("in {}", span(left(at, view.now))));
        print(format_args!("{name:<24} {used:>11}  {:<22} {frees}", gauge(counter, limit.max)))?;
    }
    Ok(())
}

/// How much is used: what is charged, then what is reserved by calls in flight.
pub(crate) fn gauge(counter: &CounterView, max: u64) -> String {
    let max = max.max(1);
    let signs = |units: u64| (units.min(max) * GAUGE).div_ceil(max);
    let used = signs(counter.used);
    let charged = signs(counter.used.saturating_sub(counter.reserved)).min(used);
    let repeat = |sign: &str, count: u64| sign.repeat(usize::try_from(count).unwrap_or(0));
    format!(
        "[{}{}{}]",
        repeat("#", charged),
        repeat("+", used - charged),
        repeat(".", GAUGE - used)
    )
}

fn answered(answer: &AnswerView) -> String {
    let status = answer.status.map_or_else(|| "-".into(), |status| status.to_string());
    format!("{:.1} {} {status} {}", answer.at, answer.api, answer.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_shows_what_is_charged_and_what_is_reserved() {
        let counter = |used, reserved| CounterView {
            api: None,
            used,
            reserved,
            since: None,
            frees: None,
            clears: None,
            calls: Vec::new(),
            calls_left_out: 0,
        };
        assert_eq!(gauge(&counter(0, 0), 10), "[....................]");
        assert_eq!(gauge(&counter(5, 1), 10), "[########++..........]");
        assert_eq!(gauge(&counter(30, 0), 10), "[####################]");
        assert_eq!(gauge(&counter(1, 0), 1_000_000), "[#...................]");
    }
}
