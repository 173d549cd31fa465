use jiff::civil::date;
use serde_json::json;
use tollgate_protos::Done;

use super::*;

fn plan(complete: &str) -> Plan {
    let text = format!(
        "[platforms.p]\nbase_url = \"http://p.test/\"\nzone = \"Asia/Seoul\"\n\
         [platforms.p.apis.r]\npath = \"r\"\nquery = {{ date = \"{{date}}\", until = \"{{until?}}\", level = \"{{level?}}\" }}\n\
         complete = {complete}\n[platforms.p.apis.other]\npath = \"o\"\n\
         [platforms.q]\nbase_url = \"http://q.test/\"\n[platforms.q.apis.r]\npath = \"r\"\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    match crate::config::load(Some(file.path()), std::iter::empty(), &[]) {
        Ok(loaded) => loaded.plan,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

fn manifest(account: &str, params: Value, fetched_at: &str) -> Manifest {
    let Value::Object(params) = params else { panic!("parameters are a table") };
    Manifest {
        version: 1,
        queue: "q".into(),
        platform: "p".into(),
        account: account.into(),
        api: "r".into(),
        params,
        provenance: None,
        done: Done { fetched_at: fetched_at.parse().unwrap(), ..Done::default() },
    }
}

fn letter(account: &str, day: &str) -> Dead {
    let fetch = Fetch {
        platform: Some("p".into()),
        account: Some(account.into()),
        api: Some("r".into()),
        params: Map::from_iter([("date".to_owned(), json!(day))]),
        ..Fetch::default()
    };
    let died_at = "2026-11-20T10:00:00Z".parse().unwrap();
    Dead { fetch: Some(fetch), code: "TG0202".into(), died_at, ..Dead::default() }
}

/// Every cell as `ACCOUNT DAY STATE`, at noon of 2026-11-22 in UTC: there it is evening in Seoul.
fn cells(board: &Board<'_>) -> Vec<String> {
    let mut all = Vec::new();
    let now = "2026-11-22T12:00:00Z".parse().unwrap();
    let mut tell = |cell: Cell, _: Declaration<'_>| {
        all.push(format!("{} {} {}", cell.account, cell.day, cell.state.as_str()));
    };
    board.cells(now, &mut tell).unwrap();
    all
}

#[test]
fn every_expected_day_of_every_account_is_present_missing_dead_or_due_again() {
    let plan = plan("{ param = \"date\", from = \"2026-11-19\", restate = \"2 days\" }");
    let asked = Asked::default();
    let mut board = Board::new(&plan, &asked).unwrap();
    // Final since the 21st, and collected then, as Seoul has it.
    board.take(&manifest("a", json!({"date": "2026-11-19"}), "2026-11-20T15:00:00Z")).unwrap();
    // One minute earlier it is the 20th there.
    board.take(&manifest("b", json!({"date": "2026-11-19"}), "2026-11-20T14:59:00Z")).unwrap();
    // Restated until the 23rd: collected today is as good as it gets.
    board.take(&manifest("a", json!({"date": "2026-11-21"}), "2026-11-21T15:00:00Z")).unwrap();
    board.dead(&letter("b", "2026-11-20")).unwrap();
    // Dead once, there by now.
    board.dead(&letter("a", "2026-11-19")).unwrap();
    assert_eq!(
        cells(&board),
        [
            "a 2026-11-19 present",
            "a 2026-11-20 missing",
            "a 2026-11-21 present",
            "b 2026-11-19 again",
            "b 2026-11-20 dead",
            "b 2026-11-21 missing",
        ]
    );
}

#[test]
fn a_day_that_was_not_over_or_is_there_in_part_is_collected_again() {
    let plan = plan("{ param = \"date\", to = \"until\" }");
    let asked = Asked::default();
    let mut board = Board::new(&plan, &asked).unwrap();
    // 2026-11-20 in Seoul ends at 15:00 UTC.
    board
        .take(&manifest(
            "a",
            json!({"date": "20261120", "until": "20261120"}),
            "2026-11-20T14:00:00Z",
        ))
        .unwrap();
    let mut part = manifest(
        "a",
        json!({"date": "2026-11-21", "until": "2026-11-21T00:00:00"}),
        "2026-11-22T10:00:00Z",
    );
    part.done.incomplete = true;
    board.take(&part).unwrap();
    // Several days in one, the first of which begins what is expected.
    board
        .take(&manifest(
            "b",
            json!({"date": "2026-11-18", "until": "2026-11-20"}),
            "2026-11-22T00:00:00Z",
        ))
        .unwrap();
    // Of no day, of an endless time, of others, split, or not written to its end.
    let none = manifest("c", json!({"date": "soon", "until": "x"}), "2026-11-22T00:00:00Z");
    board.take(&none).unwrap();
    board
        .take(&manifest(
            "c",
            json!({"date": "0001-01-01", "until": "9000-01-01"}),
            "2026-11-22T00:00:00Z",
        ))
        .unwrap();
    board.take(&Manifest { api: "other".into(), ..none.clone() }).unwrap();
    let mut split =
        manifest("d", json!({"date": "2026-11-20", "until": "2026-11-20"}), "2026-11-22T00:00:00Z");
    split.done.split_into = vec!["x".into()];
    board.take(&split).unwrap();
    board.take(&Manifest { queue: String::new(), ..split }).unwrap();
    assert_eq!(board.undated, 2);
    let all = cells(&board);
    let of = |name: &str| -> Vec<String> {
        all.iter().filter_map(|cell| cell.strip_prefix(name)).map(str::to_owned).collect()
    };
    assert_eq!(
        of("a "),
        ["2026-11-18 missing", "2026-11-19 missing", "2026-11-20 again", "2026-11-21 again"]
    );
    assert_eq!(
        of("b "),
        ["2026-11-18 present", "2026-11-19 present", "2026-11-20 present", "2026-11-21 missing"]
    );
    // Known, though not by a day.
    assert_eq!(of("c ").len(), 4);
    assert_eq!(of("d ").len(), 4);
}

#[test]
fn accounts_that_are_named_are_expected_whatever_is_there_and_no_others() {
    let plan = plan("{ param = \"date\" }");
    let asked = Asked {
        accounts: Some(vec!["x".into(), "y".into()]),
        from: Some(date(2026, 11, 20)),
        to: Some(date(2026, 11, 20)),
        ..Asked::default()
    };
    let mut board = Board::new(&plan, &asked).unwrap();
    board.take(&manifest("y", json!({"date": "2026-11-20"}), "2026-11-22T00:00:00Z")).unwrap();
    board.take(&manifest("z", json!({"date": "2026-11-20"}), "2026-11-22T00:00:00Z")).unwrap();
    assert_eq!(cells(&board), ["x 2026-11-20 missing", "y 2026-11-20 present"]);
    let of = |platform: &str| Asked { platform: Some(platform.into()), ..Asked::default() };
    assert!(matches!(Board::new(&plan, &of("q")), Err(CompleteError::Undeclared(_))));
    assert!(Board::new(&plan, &of("p")).is_ok());
}

#[test]
fn the_fetch_that_fills_a_gap_can_be_called_and_goes_after_all_else() {
    let plan = plan(
        "{ param = \"date\", to = \"until\", from = \"2026-11-21\", params = { level = \"ad\" } }",
    );
    let asked = Asked { accounts: Some(vec!["a".into()]), ..Asked::default() };
    let board = Board::new(&plan, &asked).unwrap();
    let mut fetches = Vec::new();
    let now = "2026-11-22T12:00:00Z".parse().unwrap();
    board
        .cells(now, &mut |cell, declared| fetches.extend(declared.fetches(&cell, |_| true)))
        .unwrap();
    let text = serde_json::to_value(&fetches).unwrap();
    assert_eq!(
        text,
        json!([{
            "id": "2026-11-21-on-2026-11-22", "platform": "p", "account": "a", "api": "r", "priority": "low",
            "params": { "date": "2026-11-21", "until": "2026-11-21", "level": "ad" },
        }])
    );
    let line = serde_json::to_vec(&fetches[0]).unwrap();
    assert!(crate::recipe::check_fetch(&plan, &line).is_ok());
}

#[test]
fn a_gap_is_filled_by_fetches_that_write_days_as_those_before_them_did() {
    let filled = |complete: &str, known: Option<Value>| -> Value {
        let plan = plan(complete);
        let asked = Asked { accounts: Some(vec!["a".into()]), ..Asked::default() };
        let mut board = Board::new(&plan, &asked).unwrap();
        if let Some(params) = known {
            let mut part = manifest("a", params, "2026-11-22T01:00:00Z");
            part.done.incomplete = true;
            board.take(&part).unwrap();
            assert_eq!(cells(&board), ["a 2026-11-21 again"]);
        }
        let mut fetches = Vec::new();
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        board
            .cells(now, &mut |cell, declared| fetches.extend(declared.fetches(&cell, |_| true)))
            .unwrap();
        assert_eq!(fetches.len(), 1, "{complete}");
        let line = serde_json::to_vec(&fetches[0]).unwrap();
        assert!(crate::recipe::check_fetch(&plan, &line).is_ok());
        Value::Object(fetches.remove(0).params)
    };
    let one = "{ param = \"date\", from = \"2026-11-21\" }";
    let to = "{ param = \"date\", to = \"until\", from = \"2026-11-21\" }";
    let out = "{ param = \"date\", to = \"until\", from = \"2026-11-21\", end = \"excluded\" }";
    // As it was.
    for (complete, known) in [
        (one, json!({"date": "20261121"})),
        (one, json!({"date": 20_261_121})),
        (one, json!({"date": "2026-11-21T00:00:00+09:00", "level": "ad"})),
        (to, json!({"date": "2026-11-21T00:00:00", "until": "2026-11-21T23:59:59"})),
        (out, json!({"date": "20261121", "until": "2026-11-22"})),
    ] {
        assert_eq!(filled(complete, Some(known.clone())), known);
    }
    // As it is declared, or with dashes.
    assert_eq!(filled(out, None), json!({"date": "2026-11-21", "until": "2026-11-22"}));
    let declared =
        "{ param = \"date\", to = \"until\", from = \"2026-11-21\", params = { date = 20200101 } }";
    assert_eq!(filled(declared, None), json!({"date": 20_261_121, "until": 20_261_121}));
}

#[test]
fn the_end_of_a_fetch_is_as_its_split_says_unless_it_is_declared() {
    let complete = |more: &str| {
        let text = format!(
            "[platforms.p]\nbase_url = \"http://p.test/\"\n[platforms.p.apis.r]\npath = \"r\"\n\
             query = {{ a = \"{{a}}\", b = \"{{b}}\" }}\nanswers = [{{ empty = true, class = \"too_much\" }}]\n\
             split = {{ by = \"dates\", from = \"a\", to = \"b\", end = \"excluded\" }}\n\
             complete = {{ param = \"a\", to = \"b\"{more} }}\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let plan = crate::config::load(Some(file.path()), std::iter::empty(), &[]).unwrap().plan;
        plan.platforms.values().next().unwrap().apis[0].complete.clone().unwrap()
    };
    assert!(complete("").to_is_excluded);
    assert!(!complete(", end = \"included\"").to_is_excluded);
}

#[test]
fn no_fetch_is_made_that_nobody_could_call() {
    let text = "[platforms.p]\nbase_url = \"http://p.test/\"\n[platforms.p.apis.r]\npath = \"r\"\n\
                query = { date = \"{date}\", ids = \"{ids}\" }\n\
                complete = { param = \"date\", from = \"2026-11-20\" }\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let loaded = crate::config::load(Some(file.path()), std::iter::empty(), &[]).unwrap();
    let warned = |warning: &&String| {
        warning.starts_with("platforms.p.apis.r.complete.params: the parameter `ids` is missing")
    };
    assert_eq!(loaded.warnings.iter().filter(warned).count(), 1, "{:?}", loaded.warnings);
    let asked = Asked { accounts: Some(vec!["a".into()]), ..Asked::default() };
    let mut board = Board::new(&loaded.plan, &asked).unwrap();
    let chunk = json!({"date": "2026-11-20", "ids": [1, 2]});
    let mut part = manifest("a", chunk.clone(), "2026-11-22T01:00:00Z");
    part.done.incomplete = true;
    board.take(&part).unwrap();
    let (mut fetches, mut beyond) = (Vec::new(), Vec::new());
    let now = "2026-11-22T12:00:00Z".parse().unwrap();
    board
        .cells(now, &mut |cell, declared| {
            fetches.extend(declared.fetches(&cell, |_| true));
            beyond.push((cell.day, declared.is_beyond(&cell)));
        })
        .unwrap();
    // One of which something is known is collected again as it was.
    assert_eq!(fetches.len(), 1);
    assert_eq!(Value::Object(fetches.remove(0).params), chunk);
    assert_eq!(beyond, [(date(2026, 11, 20), false), (date(2026, 11, 21), true)]);
}

#[test]
fn a_day_of_several_fetches_is_as_the_worst_of_them_is() {
    let plan = plan("{ param = \"date\", to = \"until\", from = \"2026-11-21\" }");
    let asked = Asked::default();
    let of = |level: &str| json!({"date": "2026-11-21", "until": "2026-11-21", "level": level});
    let at = "2026-11-22T01:00:00Z";
    let mut died = letter("a", "2026-11-21");
    died.fetch.as_mut().unwrap().params = serde_json::from_value(of("ad")).unwrap();
    // One of three chunks: what nobody ordered nobody misses.
    let mut board = Board::new(&plan, &asked).unwrap();
    board.take(&manifest("a", of("campaign"), at)).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 present"]);
    // A chunk that died is not there because another one is, whichever is heard of first.
    board.dead(&died).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 dead"]);
    // Nor is a part whole because a newer chunk is.
    let mut board = Board::new(&plan, &asked).unwrap();
    let mut part = manifest("a", of("ad"), "2026-11-22T00:30:00Z");
    part.done.incomplete = true;
    board.take(&part).unwrap();
    board.take(&manifest("a", of("campaign"), at)).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 again"]);
    let mut fetches = Vec::new();
    let now = "2026-11-22T12:00:00Z".parse().unwrap();
    let again = |state| state == State::Again;
    board.cells(now, &mut |cell, declared| fetches.extend(declared.fetches(&cell, again))).unwrap();
    // What is to be collected again is, and no more.
    assert_eq!(fetches.len(), 1);
    assert_eq!(Value::Object(fetches[0].params.clone()), of("ad"));
    let id = fetches[0].id.clone().unwrap();
    assert!(id.starts_with("2026-11-21-on-2026-11-22-"), "{id}");
    // The same chunk, whole: nothing is wrong any more.
    board.take(&manifest("a", of("ad"), at)).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 present"]);
    // A letter of before says nothing, one of since does.
    board.dead(&died).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 present"]);
    died.died_at = "2026-11-22T02:00:00Z".parse().unwrap();
    board.dead(&died).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 again"]);
}

#[test]
fn an_api_is_not_filled_as_another_one_is_nor_expected_of_accounts_that_it_never_had() {
    let plan = plan(
        "{ param = \"date\", from = \"2026-11-20\" }\n[platforms.p.apis.s]\npath = \"s\"\n\
         query = { since = \"{since}\", until = \"{until}\" }\n\
         complete = { param = \"since\", to = \"until\", from = \"2026-11-20\" }",
    );
    let asked = Asked { to: Some(date(2026, 11, 21)), ..Asked::default() };
    let mut board = Board::new(&plan, &asked).unwrap();
    let at = "2026-11-22T01:00:00Z";
    board.take(&manifest("a", json!({"date": "20261120"}), at)).unwrap();
    let of_s = |account: &str, day: &str| {
        let days = json!({"since": day, "until": day});
        Manifest { api: "s".into(), ..manifest(account, days, at) }
    };
    board.take(&of_s("a", "2026-11-20")).unwrap();
    board.take(&of_s("b", "2026-11-20")).unwrap();
    let mut all = Vec::new();
    let now = "2026-11-22T12:00:00Z".parse().unwrap();
    let mut tell = |cell: Cell, declared: Declaration<'_>| {
        all.push(format!("{} {} {} {}", cell.account, cell.api, cell.day, cell.state.as_str()));
        for fetch in declared.fetches(&cell, |state| state == State::Missing) {
            all.push(Value::Object(fetch.params).to_string());
        }
    };
    board.cells(now, &mut tell).unwrap();
    let expected = [
        "a r 2026-11-20 present",
        "a r 2026-11-21 missing",
        r#"{"date":"2026-11-21"}"#,
        "a s 2026-11-20 present",
        "a s 2026-11-21 missing",
        r#"{"since":"2026-11-21","until":"2026-11-21"}"#,
        "b s 2026-11-20 present",
        "b s 2026-11-21 missing",
        r#"{"since":"2026-11-21","until":"2026-11-21"}"#,
    ];
    assert_eq!(all, expected);
}

#[test]
fn a_fetch_whose_place_others_took_is_not_waited_for() {
    let plan = plan("{ param = \"date\", from = \"2026-11-21\" }");
    let asked = Asked::default();
    let of = |level: &str| json!({"date": "2026-11-21", "level": level});
    let mut board = Board::new(&plan, &asked).unwrap();
    // Stored once, before the day was over; split ever since.
    board.take(&manifest("a", of("all"), "2026-11-21T01:00:00Z")).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 again"]);
    let mut split = manifest("a", of("all"), "2026-11-22T01:00:00Z");
    split.done.split_into = vec!["x".into()];
    board.take(&split).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 missing"]);
    board.take(&manifest("a", of("ad"), "2026-11-22T01:05:00Z")).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 present"]);
    // By days its parts ask for the same beside them.
    board.take(&manifest("a", of("all"), "2026-11-22T02:00:00Z")).unwrap();
    assert_eq!(cells(&board), ["a 2026-11-21 present"]);
}

#[tokio::test]
async fn manifests_are_found_below_what_the_template_begins_with() {
    let plan = plan("{ param = \"date\" }");
    let store = Store::memory(1 << 30).unwrap();
    for (key, account) in
        [("p/r/a/2026-11-22/1", "a"), ("p/r/b/2026-11-22/2", "b"), ("q/r/c/2026-11-22/1", "c")]
    {
        let text = serde_json::to_vec(&manifest(
            account,
            json!({"date": "2026-11-21"}),
            "2026-11-22T00:00:00Z",
        ))
        .unwrap();
        let key = Path::from(format!("{key}/_manifest.json"));
        store.put_small(&key, text.into()).await.unwrap();
    }
    let broken = Path::from("p/r/a/x/_manifest.json");
    store.put_small(&broken, "{".into()).await.unwrap();
    let asked = Asked::default();
    let mut board = Board::new(&plan, &asked).unwrap();
    let mut count = 0;
    board.read(&plan, &store, &mut |now| count = now).await.unwrap();
    // What lies below another platform's name was not read.
    assert_eq!(count, 3);
    assert_eq!(cells(&board), ["a 2026-11-21 present", "b 2026-11-21 present"]);
    // Nor is what was written long before the first day that is asked for.
    for (days, read) in [(3, 3), (4, 0)] {
        let now = crate::clock::Clock::new().wall().to_zoned(TimeZone::UTC).date();
        let asked = Asked { from: Some(now + days.days()), ..Asked::default() };
        let mut board = Board::new(&plan, &asked).unwrap();
        let mut count = 0;
        board.read(&plan, &store, &mut |now| count = now).await.unwrap();
        assert_eq!(count, read, "{days}");
    }
}
