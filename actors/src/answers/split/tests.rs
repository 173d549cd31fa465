use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fetch(params: Value) -> Fetch {
    let Value::Object(params) = params else { panic!("an object") };
    Fetch { id: Some("f".into()), params, once: true, ..Fetch::default() }
}

fn dates(to_is_excluded: bool, min_days: u32) -> Split {
    Split { by: By::Dates { from: "since".into(), to: "until".into(), to_is_excluded, min_days } }
}

/// Every day of a fetch.
fn days(fetch: &Fetch, to_is_excluded: bool) -> Vec<Date> {
    let day = |name| day(name, &fetch.params[name]).unwrap().0;
    let (first, last) = (day("since"), day("until"));
    let all = first.series(1.day());
    all.take_while(|day| if to_is_excluded { *day < last } else { *day <= last }).collect()
}

/// Splits as far as it goes, each under the next number; every end.
fn ends(split: &Split, fetch: &Fetch, number: &mut u64) -> Vec<Fetch> {
    let id = fetch.id.clone().unwrap();
    *number += 1;
    match split.parts(fetch, (&id, Seq(*number)), &Map::new()) {
        Ok(parts) => parts.iter().flat_map(|part| ends(split, part, number)).collect(),
        Err(_) => vec![fetch.clone()],
    }
}

proptest! {
    #[test]
    fn the_parts_of_a_range_are_the_range_and_do_not_overlap(
        start in 0i64..20_000,
        length in 1i64..400,
        excluded: bool,
        min in 1u32..5,
        digits: bool,
    ) {
        let first = Date::constant(1990, 1, 1).checked_add(start.days()).unwrap();
        let last = first.checked_add((length - i64::from(!excluded)).days()).unwrap();
        let form = if digits { Form::Digits } else { Form::Dashes };
        let whole = fetch(json!({ "since": form.write(first), "until": form.write(last), "x": 1 }));
        let split = dates(excluded, min);
        let ends = ends(&split, &whole, &mut 0);
        let mut all: Vec<Date> = ends.iter().flat_map(|end| days(end, excluded)).collect();
        prop_assert!(ends.iter().all(|end| end.params["x"] == 1 && end.once));
        let count = all.len();
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), count, "a day is in two parts");
        prop_assert_eq!(&all, &days(&whole, excluded));
        if ends.len() > 1 {
            prop_assert!(ends.iter().all(|end| days(end, excluded).len() >= min as usize));
        }
        let ids: BTreeSet<_> = ends.iter().map(|end| end.id.clone()).collect();
        prop_assert_eq!(ids.len(), ends.len());
    }

    #[test]
    fn the_parts_of_a_list_are_the_list_in_order(count in 1usize..200, as_text: bool) {
        let items: Vec<String> = (0..count).map(|n| format!("id{n}")).collect();
        let value = if as_text { json!(items.join(",")) } else { json!(items) };
        let split = Split { by: By::List { param: "ids".into() } };
        let ends = ends(&split, &fetch(json!({ "ids": value })), &mut 0);
        prop_assert_eq!(ends.len(), count);
        let all: Vec<String> = ends.iter().map(|end| match &end.params["ids"] {
            Value::String(text) => text.clone(),
            other => other[0].as_str().unwrap().to_owned(),
        }).collect();
        prop_assert_eq!(all, items);
    }

    #[test]
    fn ids_of_parts_are_short_different_and_the_same_each_time(
        id in "[a-z.~0-9]{1,128}",
        depth in 0usize..20,
        origin in 1u64..u64::MAX >> 1,
    ) {
        let mut all = BTreeSet::new();
        let before = Family::of(&id).depth();
        let mut ids = vec![id];
        for level in 0..depth as u64 {
            let id = ids.last().unwrap();
            let numbers = [origin + level, origin + level + 1];
            let parts: Vec<String> = numbers
                .into_iter()
                .flat_map(|number| [part_id(id, Seq(number), 1), part_id(id, Seq(number), 2)])
                .collect();
            prop_assert_eq!(&part_id(id, Seq(origin + level), 2), &parts[1]);
            prop_assert!(parts.iter().all(|part| part.len() <= ID_BYTES_MAX));
            // A fetch of the same id that is queued later has other parts.
            all.extend(parts.iter().cloned());
            prop_assert_eq!(all.len(), 4 * (level as usize + 1));
            ids.push(parts[1].clone());
        }
        if before == 0 {
            prop_assert_eq!(Family::of(ids.last().unwrap()).depth(), depth);
        }
    }
}

#[test]
fn ids_of_parts_name_the_way_to_them_and_the_number_of_what_was_split() {
    assert_eq!(part_id("year", Seq(17), 1), "year~17.1");
    assert_eq!(part_id("year~17.1", Seq(21), 2), "year~21.12");
    // One of before numbers stood in them.
    assert_eq!(part_id("year~2", Seq(30), 1), "year~2~30.1");
    assert_eq!(Family::of("year~2~30.1").depth(), 2);
    for id in ["a~1.3", "a~.1", "a~b.1", "a~7.", "a.1"] {
        assert_eq!(Family::of(id).depth(), 0, "{id}");
    }
}

#[test]
fn what_cannot_be_made_less_says_why() {
    let list = Split { by: By::List { param: "ids".into() } };
    let half = Split { by: By::Half { param: "limit".into(), min: 10 } };
    for (split, params, wanted) in [
        (dates(false, 1), json!({ "since": "2026-11-20", "until": "2026-11-20" }), "1 days"),
        (dates(true, 1), json!({ "since": "2026-11-20", "until": "2026-11-21" }), "1 days"),
        (dates(false, 7), json!({ "since": "2026-11-01", "until": "2026-11-13" }), "at least 7"),
        (dates(false, 1), json!({ "since": "2026-11-20", "until": "2026-11-01" }), "0 days"),
        (dates(false, 1), json!({ "since": "today", "until": "2026-11-20" }), "`since` is today"),
        (dates(false, 1), json!({ "since": "2026-11-20" }), "no parameter `until`"),
        (list.clone(), json!({ "ids": "7" }), "cannot be made fewer"),
        (list, json!({ "ids": ["7"] }), "cannot be made fewer"),
        (half.clone(), json!({ "limit": 19 }), "not made smaller than 10"),
        (half, json!({ "limit": "all" }), "no whole number"),
    ] {
        let error = split.parts(&fetch(params.clone()), ("f", Seq(1)), &Map::new()).unwrap_err();
        assert!(error.contains(wanted), "{params}: {error}");
    }
    let deep = format!("f~9.{}", "1".repeat(SPLITS_MAX));
    let wide = fetch(json!({ "since": "2026-01-01", "until": "2026-11-20" }));
    let error = dates(false, 1).parts(&wide, (&deep, Seq(1)), &Map::new()).unwrap_err();
    assert!(error.contains("at most 16"), "{error}");
}

#[test]
fn a_default_of_the_api_is_split_too_and_a_number_is_halved_in_its_own_form() {
    let Value::Object(defaults) = json!({ "limit": "500" }) else { panic!("an object") };
    let half = Split { by: By::Half { param: "limit".into(), min: 1 } };
    let parts = half.parts(&fetch(json!({})), ("f", Seq(4)), &defaults).unwrap();
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].params["limit"], "250");
    let parts = half.parts(&fetch(json!({ "limit": 501 })), ("f", Seq(4)), &defaults).unwrap();
    assert_eq!(parts[0].params["limit"], 250);
    assert_eq!(parts[0].id.as_deref(), Some("f~4.1"));
}
