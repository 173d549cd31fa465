//! What several accounts share, what calls cost, and accounts with values of their own.

use super::*;

fn lines(accounts: &[(&str, u32)], api: &str) -> String {
    let of = |(account, count): &(&str, u32)| {
        (0..*count).map(|n| line(account, api, n, json!({}))).collect::<String>()
    };
    accounts.iter().map(of).collect()
}

fn seconds_of(told: &Forecast, account: &str) -> f64 {
    told.slowest.iter().find(|row| row.account == account).unwrap().seconds
}

#[test]
fn accounts_take_turns_in_what_they_share() {
    let plan = plan("app = { per = [\"platform\"], max = 10, in = \"1s\" }", "");
    let accounts: Vec<(String, u32)> = (0..50).map(|n| (format!("a{n}"), 20)).collect();
    let of: Vec<(&str, u32)> =
        accounts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let told = forecast(&plan, &lines(&of, "x"), &Assumed { most: 50, ..assumed() });
    // 1,000 calls at 10 a second: the last ten 99 s after the first.
    assert!((told.seconds - 99.3).abs() < 0.01, "{}", told.seconds);
    assert_eq!((told.calls, told.shapes, told.limits.len()), (1_000, 50, 1));
    let limit = &told.limits[0];
    assert_eq!((limit.limit.as_str(), limit.accounts_bound), ("p.app", 50));
    assert!(limit.share.unwrap() > 0.999, "{limit:?}");
    // Each has one of every fifty turns: all end in the last round.
    assert!(told.slowest.iter().all(|row| row.seconds > 94.0), "{:?}", told.slowest[49]);
    assert_eq!(told.slowest[0].because.as_deref(), Some("p.app (shared)"));
    assert!((change(&told, "without p.app") - 0.3).abs() < 0.01);
    assert!((change(&told, "p.app doubled") - 49.3).abs() < 0.01);
}

#[test]
fn who_shares_nothing_is_not_held_up_by_those_who_do() {
    let plan = plan(
        "gap = { per = [\"account\"], every = \"1s\" }\n\
         app = { per = [\"platform\"], max = 1, in = \"10s\", when = { api = [\"y\"] } }",
        "",
    );
    let lines = lines(&[("a", 5), ("b", 5)], "y") + &self::lines(&[("c", 5)], "x");
    let told = forecast(&plan, &lines, &assumed());
    assert!((told.seconds - 90.3).abs() < 0.01, "{}", told.seconds);
    assert!((seconds_of(&told, "c") - 4.3).abs() < 0.01);
    assert!((change(&told, "without p.app") - 4.3).abs() < 0.01);
    assert!((change(&told, "without p.gap") - 90.3).abs() < 0.01);
}

#[test]
fn nobody_holds_one_budget_while_waiting_for_another() {
    let plan = plan(
        "one = { per = [\"params.n\"], concurrent = 1 }\n\
         all = { per = [\"platform\"], concurrent = 2 }",
        "",
    );
    let fetch =
        |account: &str, id: u32, n: u32| line(account, "x", id, json!({ "params": { "n": n } }));
    // Five accounts want value 1, one at a time; the sixth has another value and needs only a place.
    let mut text = String::new();
    for account in ["a", "b", "c", "d", "e"] {
        text += &fetch(account, 0, 1);
    }
    text += &fetch("f", 0, 2);
    let told = forecast(&plan, &text, &Assumed { most: 6, ..assumed() });
    assert!((told.seconds - 1.5).abs() < 0.01, "{}", told.seconds);
    assert!(seconds_of(&told, "f") < 0.31, "{:?}", told.slowest);
}

#[test]
fn calls_weigh_what_they_cost() {
    let text = plan("points = { per = [\"account\"], max = 10, in = \"1m\", cost = 5 }", "");
    let told = forecast(&text, &lines(&[("a", 6)], "x"), &assumed());
    assert!((told.seconds - 120.3).abs() < 0.01, "{}", told.seconds);
    let shared = plan("points = { per = [\"platform\"], max = 10, in = \"1m\", cost = 5 }", "");
    let told = forecast(&shared, &lines(&[("a", 3), ("b", 3)], "x"), &assumed());
    assert!((told.seconds - 120.3).abs() < 0.01, "{}", told.seconds);
}

#[test]
fn an_account_with_values_of_its_own_is_planned_for_by_them() {
    let plan = plan(
        "hourly = { per = [\"account\"], max = 2, in = \"1h\", override = { big = { max = 10 } } }",
        "",
    );
    let told = forecast(&plan, &lines(&[("big", 10), ("small", 10)], "x"), &assumed());
    assert!((seconds_of(&told, "big") - 0.3).abs() < 0.01, "{:?}", told.slowest);
    assert!((seconds_of(&told, "small") - 4.0 * 3_600.0 - 0.3).abs() < 0.01);
    assert!((change(&told, "p.hourly doubled") - 2.0 * 3_600.0 - 0.3).abs() < 0.01);
}

#[test]
fn a_window_of_the_calendar_ends_where_its_day_does() {
    let plan = plan(
        "daily = { per = [\"account\"], max = 3, in = \"1d\", resets = \"00:00 Asia/Seoul\" }",
        "",
    );
    let clock = Clock::starting_at(START.parse().unwrap());
    let line_of = crate::calendar::Line::Clock(clock.clone());
    let plan = crate::calendar::plan_on(&Arc::new(plan), &line_of);
    let start = clock.at_wall(START.parse().unwrap());
    let mut orders = Orders::new(&plan, &clock);
    for n in 0..7 {
        let line = line("a", "x", n, json!({}));
        orders.add(&crate::recipe::check_fetch(&plan, line.as_bytes()).unwrap());
    }
    let told = orders.forecast(start, Ledgers::new(), &assumed());
    // Midnight in Seoul is 15:00 UTC: three at once, three then, the last a day later; 2 s of doubt about clocks.
    let last = 39.0 * 3_600.0;
    assert!((told.seconds - last).abs() < 5.0, "{}", told.seconds);
}
