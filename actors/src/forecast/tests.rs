use serde_json::json;
use tollgate_gate::{Ask, PermitId, Sent};

use super::*;
use crate::config;
use crate::publish::{Format, read};

const START: &str = "2026-11-21T00:00:00Z";

fn plan(limits: &str, more: &str) -> Plan {
    let text = format!(
        "[collect]\nconcurrency = 1000\n{more}\n[platforms.p]\nbase_url = \"https://a.example/\"\n\
         guard = \"0s\"\n[platforms.p.limits]\n{limits}\n\
         [platforms.p.apis.x]\npath = \"x/{{account}}\"\nquery = {{ n = \"{{n}}\" }}\n\
         [platforms.p.apis.y]\npath = \"y/{{account}}\"\nquery = {{ n = \"{{n}}\" }}\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    config::load(Some(file.path()), std::iter::empty(), &[]).unwrap().plan
}

fn line(account: &str, api: &str, n: u32, more: serde_json::Value) -> String {
    let mut fetch = json!({ "platform": "p", "account": account, "api": api, "id": n.to_string(),
        "params": { "n": n } });
    fetch.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    format!("{fetch}\n")
}

fn assumed() -> Assumed {
    Assumed {
        latency: Duration::from_millis(300),
        latencies: Vec::new(),
        concurrency: 1_000,
        threads: 2,
        changes: true,
        most: 3,
    }
}

fn forecast(plan: &Plan, lines: &str, assumed: &Assumed) -> Forecast {
    let clock = Clock::starting_at(START.parse().unwrap());
    let start = clock.at_wall(START.parse().unwrap());
    let mut orders = Orders::new(plan, &clock);
    for record in read(plan, "f", Format::JsonLines, lines.as_bytes()).unwrap() {
        let record = record.unwrap();
        match &record.fetch {
            Ok(accepted) => orders.add(accepted),
            Err(refusal) => orders.refuse(&record.place, refusal),
        }
    }
    orders.forecast(start, Ledgers::new(), assumed)
}

fn change(forecast: &Forecast, text: &str) -> f64 {
    forecast.changes.iter().find(|row| row.to_string() == text).unwrap().seconds
}

#[test]
fn it_says_when_all_is_done_what_binds_and_what_would_help() {
    let plan = plan(
        "gap = { per = [\"account\"], every = \"5s\" }\nhourly = { per = [\"account\"], max = 10, in = \"1h\" }",
        "",
    );
    let mut lines = String::new();
    for n in 0..21 {
        for account in ["a", "b", "c"] {
            lines += &line(account, "x", n, json!({}));
        }
    }
    lines += &line("few", "y", 1, json!({}));
    let told = forecast(&plan, &lines, &assumed());
    assert_eq!((told.fetches, told.calls, told.accounts, told.shapes), (64, 64, 4, 2));
    // Ten calls in 45 s, an hour after each the next ten; the 21st at two hours.
    assert!((told.seconds - 7_200.3).abs() < 0.001, "{}", told.seconds);
    assert_eq!(told.finish.unwrap().to_string(), "2026-11-21T02:00:00.3Z");
    assert_eq!(told.limits[0].limit, "p.hourly");
    assert_eq!((told.limits[0].accounts_bound, told.limits[0].share), (3, Some(1.0)));
    assert!((told.limits[0].waited_max_seconds - 2.0 * 3_555.0).abs() < 0.001);
    assert_eq!((told.limits[1].limit.as_str(), told.limits[1].waited_max_seconds), ("p.gap", 90.0));
    assert!((change(&told, "without p.hourly") - 100.3).abs() < 0.001);
    assert!((change(&told, "p.hourly doubled") - 3_600.3).abs() < 0.001);
    assert!((change(&told, "without p.gap") - 7_200.3).abs() < 0.001);
    let slowest: Vec<_> = told.slowest.iter().map(|row| row.account.as_str()).collect();
    assert_eq!(slowest, ["a", "b", "c"]);
    assert_eq!(told.slowest[0].because.as_deref(), Some("p.hourly"));
    let apis: Vec<_> =
        told.platforms[0].apis.iter().map(|row| (row.api.as_str(), row.calls)).collect();
    assert_eq!(apis, [("x", 63), ("y", 1)]);
}

#[test]
fn what_a_change_buys_is_what_a_plan_with_that_change_says() {
    let rows = [
        ("gap", "{ per = [\"account\"], every = \"2s\" }"),
        ("minute", "{ per = [\"account\"], max = 12, in = \"1m\" }"),
        ("each", "{ per = [\"account\", \"api\"], max = 5, in = \"40s\" }"),
        ("slots", "{ per = [\"account\"], concurrent = 1 }"),
    ];
    let limits = |without: usize| {
        let kept = rows.iter().enumerate().filter(|(place, _)| *place != without);
        kept.map(|(_, (name, rule))| format!("{name} = {rule}")).collect::<Vec<_>>().join("\n")
    };
    let mut lines = String::new();
    for (account, count) in [("a", 40), ("b", 33), ("c", 17), ("d", 40)] {
        for n in 0..count {
            lines += &line(account, if n % 3 == 0 { "y" } else { "x" }, n, json!({}));
        }
    }
    let assumed = Assumed { latency: Duration::from_millis(2_500), ..assumed() };
    let whole = forecast(&plan(&limits(usize::MAX), ""), &lines, &assumed);
    for (place, (name, _)) in rows.iter().enumerate() {
        let changed = forecast(&plan(&limits(place), ""), &lines, &assumed);
        let told = change(&whole, &format!("without p.{name}"));
        assert!((told - changed.seconds).abs() < 0.001, "{name}: {told}, {}", changed.seconds);
    }
}

#[test]
fn more_calls_at_once_than_the_node_makes_are_spread_over_time() {
    let plan = plan("gap = { per = [\"account\"], every = \"5s\" }", "");
    let lines: String = (0..200).map(|n| line(&format!("a{n}"), "x", 1, json!({}))).collect();
    let told = forecast(&plan, &lines, &Assumed { concurrency: 10, ..assumed() });
    assert_eq!(told.shapes, 1);
    assert!((told.seconds - 6.0).abs() < 0.1, "200 calls of 0.3 s, ten at once: {}", told.seconds);
    assert!((change(&told, "collect.concurrency doubled") - 3.0).abs() < 0.1);
    let roomy = forecast(&plan, &lines, &assumed());
    assert!((roomy.seconds - 0.3).abs() < 0.001);
    assert!(roomy.concurrency_delay_seconds == 0.0);
}

#[test]
fn what_would_be_dead_is_counted_with_its_code_and_costs_no_call() {
    let plan = plan("gap = { per = [\"account\"], every = \"5s\" }", "");
    let lines = [
        line("a", "x", 1, json!({})),
        line("a", "x", 1, json!({})),
        line("a", "x", 2, json!({ "deadline": "2026-11-21T00:00:04Z" })),
        line("a", "x", 3, json!({ "not_before": "2026-11-21T01:00:00Z" })),
        line("a", "nope", 1, json!({})),
        line("b", "nope", 1, json!({})),
        "garbage\n".into(),
    ]
    .concat();
    let told = forecast(&plan, &lines, &assumed());
    assert_eq!((told.fetches, told.calls, told.duplicates, told.late), (7, 2, 1, 1));
    let refused: Vec<_> = told.refused.iter().map(|row| (row.code, row.fetches)).collect();
    assert_eq!(refused, [(Code::FetchNotJson, 1), (Code::UnknownApi, 2)]);
    assert_eq!(told.refused[1].first, "f:5");
    assert!((told.seconds - 3_600.3).abs() < 0.001, "{}", told.seconds);
    assert!(told.not_before_seconds > 3_500.0);
}

#[test]
fn an_account_starts_from_its_ledger() {
    let plan = plan("gap = { per = [\"account\"], every = \"5s\" }", "");
    let clock = Clock::starting_at(START.parse().unwrap());
    let start = clock.at_wall(START.parse().unwrap());
    let platform = plan.platforms.values().next().unwrap();
    let mut ledger = Ledger::new();
    ledger.take(&platform.limits, PermitId(1), Ask::new(0), start);
    ledger.ended(&platform.limits, PermitId(1), start, Sent::Never);
    let mut orders = Orders::new(&plan, &clock);
    for account in ["a", "b"] {
        let line = line(account, "x", 1, json!({}));
        orders.add(&crate::recipe::check_fetch(&plan, line.as_bytes()).unwrap());
    }
    let known = orders.accounts().find(|key| key.account.as_str() == "a").unwrap().clone();
    let told = orders.forecast(start, Ledgers::from([(known, ledger)]), &assumed());
    assert_eq!((told.from_ledger, told.shapes), (1, 2));
    assert_eq!(told.slowest[0].account, "a");
    assert!((told.seconds - 5.3).abs() < 0.001, "{}", told.seconds);
}

#[test]
fn each_platform_and_api_has_its_own_latency() {
    let plan = plan("slots = { per = [\"account\"], concurrent = 1 }", "");
    let slug = |text| Slug::new(text).unwrap();
    let latencies = vec![
        (slug("p"), None, Duration::from_secs(2)),
        (slug("p"), Some(slug("y")), Duration::from_secs(7)),
    ];
    let lines = line("a", "x", 1, json!({})) + &line("a", "y", 1, json!({}));
    let told = forecast(&plan, &lines, &Assumed { latencies, ..assumed() });
    assert!((told.seconds - 9.0).abs() < 0.001, "{}", told.seconds);
}

#[test]
fn times_are_shown_as_durations_are_written() {
    let of = |ms: u64| shown(Duration::from_millis(ms)).to_string();
    let told = [0, 300, 59_999, 60_000, 3_599_999, 3_600_000, 11_400_000, 200_000_000].map(of);
    assert_eq!(told, ["0s", "0.3s", "59.999s", "1m", "60m", "1h", "3h 10m", "2d 8h"]);
}

#[test]
fn what_is_split_without_a_call_is_planned_as_its_parts() {
    let text = "[platforms.p]\nbase_url = \"https://a.example/\"\nguard = \"0s\"\n\
        [platforms.p.limits]\nunits = { per = [\"account\"], max = 3, in = \"1m\" }\n\
        [platforms.p.apis.x]\npath = \"x\"\nquery = { ids = { value = \"{ids}\", list = \"commas\" } }\n\
        costs.units = \"{ids|length}\"\nsplit = { by = \"list\", param = \"ids\" }\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let plan = config::load(Some(file.path()), std::iter::empty(), &[]).unwrap().plan;
    let ids = json!({ "params": { "ids": ["1", "2", "3", "4", "5", "6", "7"] } });
    let told = forecast(&plan, &line("a", "x", 1, ids), &assumed());
    // 4 of 7 are two and two: 7 units, 3 a minute.
    assert_eq!((told.fetches, told.calls, told.never), (3, 3, 0));
    assert!(told.refused.is_empty() && told.seconds > 60.0, "{}", told.seconds);
}

mod budgets;
