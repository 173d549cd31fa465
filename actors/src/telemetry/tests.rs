use std::collections::BTreeSet;
use std::path::Path;

use super::{Kind, METRICS, Metric};
use crate::collector::Again;

/// One event as it is written or as it is documented: name, level, and fields in order. A field whose value
/// is a literal is `name=value`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    name: String,
    level: String,
    fields: BTreeSet<String>,
}

/// The part of its target that tells groups of events apart, by name of the event.
fn groups(source: &str) -> BTreeSet<(String, String)> {
    let mut groups = BTreeSet::new();
    for call in source.split("tracing::").skip(1) {
        let Some((level, rest)) = call.split_once("!(") else { continue };
        if LEVELS.contains(&level) {
            let arguments = arguments(rest);
            let name = event(level, arguments.clone()).name;
            let target = arguments.iter().find_map(|a| a.strip_prefix("target: \"tollgate::"));
            let target =
                target.unwrap_or_else(|| panic!("`{name}` has no target `tollgate::GROUP`"));
            groups.insert((target.trim_end_matches('"').to_owned(), name));
        }
    }
    groups
}

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
const SOURCE: &str = concat!(
    include_str!("mod.rs"),
    include_str!("config.rs"),
    include_str!("fetches.rs"),
    include_str!("seams.rs"),
    include_str!("cluster.rs"),
    include_str!("budgets.rs"),
    include_str!("logs.rs"),
    include_str!("traces.rs"),
    include_str!("loops.rs"),
    include_str!("notify.rs"),
    include_str!("stage.rs")
);
const PAGE: &str = include_str!("../../../docs/events.md");

/// The events of a source file: each call of a `tracing` macro.
fn written(source: &str) -> Vec<Event> {
    let mut events = Vec::new();
    for call in source.split("tracing::").skip(1) {
        let Some((level, rest)) = call.split_once("!(") else { continue };
        if LEVELS.contains(&level) {
            events.push(event(level, arguments(rest)));
        }
    }
    events
}

/// What stands between the commas up to the closing parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let (mut depth, mut quoted) = (0, false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 && !quoted {
            arguments.push(String::new());
        } else {
            arguments.last_mut().unwrap().push(c);
        }
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).collect()
}

fn event(level: &str, arguments: Vec<String>) -> Event {
    let mut name = None;
    let mut fields = BTreeSet::new();
    for argument in arguments {
        match argument.split_once(" = ") {
            Some(("event", value)) => name = Some(value.trim_matches('"').to_owned()),
            Some((field, value)) if value.starts_with('"') => {
                fields.insert(format!("{field}={}", value.trim_matches('"')));
            }
            Some((field, _)) => {
                fields.insert(field.to_owned());
            }
            // The message, or the comma behind it.
            None if argument.starts_with('"') || argument.is_empty() => {}
            None if argument.starts_with("target:") => {}
            None => {
                fields.insert(argument.trim_start_matches(['%', '?']).to_owned());
            }
        }
    }
    let name = name.unwrap_or_else(|| panic!("a log line without `event`: {fields:?}"));
    Event { name, level: level.to_uppercase(), fields }
}

/// The rows of the table in a Markdown page.
fn documented(page: &str) -> Vec<Event> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.filter(|row| !row.starts_with("| `tollgate::"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        Event {
            name: cells[0].trim_matches('`').to_owned(),
            level: cells[1].to_owned(),
            fields: cells[2].split_whitespace().map(|f| f.trim_matches('`').to_owned()).collect(),
        }
    })
    .collect()
}

#[test]
fn the_page_has_every_event_with_its_level_and_fields_and_no_other() {
    let (mut written, mut documented) = (written(SOURCE), documented(PAGE));
    written.sort();
    documented.sort();
    assert!(written.len() > 25, "only {} log lines were found", written.len());
    for event in &written {
        assert!(documented.contains(event), "docs/events.md lacks {event:?}");
    }
    for event in &documented {
        assert!(written.contains(event), "nothing writes {event:?} of docs/events.md");
    }
    assert_eq!(written, documented, "one of them is there twice");
}

#[test]
fn the_page_has_every_group_with_its_events() {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `tollgate::"));
    let documented: BTreeSet<(String, String)> = rows
        .flat_map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let group = cells[0].trim_matches('`').trim_start_matches("tollgate::").to_owned();
            let events =
                cells[1].split_whitespace().map(|event| event.trim_matches('`').to_owned());
            events.map(move |event| (group.clone(), event)).collect::<Vec<_>>()
        })
        .collect();
    let written = groups(SOURCE);
    let missing: Vec<_> = written.difference(&documented).collect();
    let too_many: Vec<_> = documented.difference(&written).collect();
    assert!(
        missing.is_empty() && too_many.is_empty(),
        "docs/events.md: missing {missing:?}, too many {too_many:?}"
    );
}

#[test]
fn a_log_line_is_read_with_its_fields() {
    let line = r#"
        tracing::warn!(
            target: "tollgate::account",
            event = "hold",
            kind = "x",
            because = f(a, "b, c"),
            wait_ms,
            code = %Code::A,
            ?reason,
            "held, for now"
        );"#;
    let fields = ["kind=x", "because", "wait_ms", "code", "reason"].map(str::to_owned).into();
    let event = Event { name: "hold".into(), level: "WARN".into(), fields };
    assert_eq!(written(line), [event]);
}

#[test]
fn the_page_names_every_outcome_of_an_attempt() {
    use Again::{Crashed, Denied, Incomplete, Late, StoreAway, Throttled, Transient, Unreachable};
    for outcome in [Transient, Incomplete, Throttled, Denied, Unreachable, StoreAway, Late, Crashed]
    {
        assert!(PAGE.contains(&format!("`{}`", outcome.as_str())), "{}", outcome.as_str());
    }
}

#[test]
fn nothing_is_logged_but_by_this_module() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("telemetry") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                let logs = LEVELS.iter().any(|level| text.contains(&format!("tracing::{level}!")));
                assert!(!logs, "{} logs by itself", path.display());
            }
        }
    }
    assert!(files > 50, "only {files} files were found");
}

/// The rows of the table of metrics in a Markdown page.
fn metric_rows(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with("| `tollgate_"));
    rows.filter(|row| row.split(" | ").count() == 5).map(str::to_owned).collect()
}

fn metric_row(metric: &Metric) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let Metric { name, unit, meaning, .. } = metric;
    format!("| `{name}` | {} | {unit} | {} | {meaning} |", metric.kind.as_str(), labels.join(" "))
}

#[test]
fn the_page_has_every_metric_and_no_other() {
    let written: BTreeSet<String> = METRICS.iter().map(metric_row).collect();
    assert_eq!(written.len(), METRICS.len(), "one of them is there twice");
    let page = metric_rows(include_str!("../../../docs/metrics.md"));
    let missing: Vec<_> = written.difference(&page).collect();
    let too_many: Vec<_> = page.difference(&written).collect();
    assert!(
        missing.is_empty() && too_many.is_empty(),
        "missing {missing:#?}, too many {too_many:#?}"
    );
}

/// <https://prometheus.io/docs/practices/naming/>
#[test]
fn names_units_and_labels_are_as_prometheus_wants_them() {
    for Metric { name, kind, unit, labels, buckets, .. } in METRICS {
        assert!(name.starts_with("tollgate_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        for base in ["seconds", "bytes"] {
            let bare = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(bare.ends_with(base), *unit == base, "{name} in {unit}");
        }
        let bounded = [
            "platform", "api", "code", "class", "kind", "version", "cause", "phase", "shard",
            "table", "way", "limit", "actor",
        ];
        assert!(labels.iter().all(|label| bounded.contains(label)), "{name}");
        assert_eq!(!buckets.is_empty(), *kind == Kind::Histogram, "{name}");
        assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]), "{name}");
    }
}

/// The names of metrics in a text, with the labels that are asked of them between braces or in legends.
fn metrics_named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices("tollgate_")
        .map(|(at, _)| text.split_at(at))
        .filter(|(before, _)| !before.ends_with(is_part))
        .map(|(_, from)| from.split(|c| !is_part(c)).next().unwrap())
        .collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let dashboard = include_str!("../../../docker/observe/dashboard.json");
    let alerts = include_str!("../../../docker/observe/alerts.yaml");
    let series: BTreeSet<String> = METRICS
        .iter()
        .flat_map(|metric| match metric.kind {
            Kind::Histogram => {
                ["bucket", "sum", "count"].map(|end| format!("{}_{end}", metric.name)).to_vec()
            }
            Kind::Counter | Kind::Gauge => vec![metric.name.to_owned()],
        })
        .collect();
    for (page, least) in [(dashboard, 30), (alerts, 15)] {
        let named = metrics_named(page);
        let unknown: Vec<_> = named.iter().filter(|name| !series.contains(**name)).collect();
        assert!(unknown.is_empty(), "no node has {unknown:?}");
        assert!(named.len() >= least, "{named:?}");
    }
    // Every metric can be seen, but the few that are of use to alerts or to the curious alone.
    let unseen: Vec<_> = METRICS
        .iter()
        .map(|metric| metric.name)
        .filter(|name| !dashboard.contains(name) && !alerts.contains(name))
        .collect();
    let left = [
        "tollgate_objects_total",
        "tollgate_wakes_total",
        "tollgate_spilled_attempts_lost_total",
        "tollgate_trace_spans_total",
        "tollgate_budget_asks_total",
        "tollgate_budget_permits_lent",
        "tollgate_budget_accounts_waiting",
        "tollgate_budget_words_dropped_total",
    ];
    assert_eq!(unseen, left);
}

#[test]
fn the_dashboard_groups_by_labels_that_the_metrics_have() {
    let dashboard = include_str!("../../../docker/observe/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter();
    let targets = targets.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut looked = 0;
    for expr in targets.map(|target| target["expr"].as_str().unwrap()) {
        let named = metrics_named(expr);
        let own: BTreeSet<&str> = METRICS
            .iter()
            .filter(|metric| named.iter().any(|name| name.starts_with(metric.name)))
            .flat_map(|metric| metric.labels.iter().copied())
            .collect();
        for by in expr.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(", ") {
                assert!(["le", "instance"].contains(&label) || own.contains(label), "{expr}");
                looked += 1;
            }
        }
    }
    assert!(looked > 30, "{looked}");
}
