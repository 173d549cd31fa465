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

/// Splits as far as it goes; every end, and how deep it was.
fn ends(split: &Split, fetch: &Fetch) -> Vec<Fetch> {
    let id = fetch.id.clone().unwrap();
    match split.parts(fetch, &id, &Map::new()) {
        Ok(parts) => parts.iter().flat_map(|part| ends(split, part)).collect(),
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
        let ends = ends(&split, &whole);
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
        let ends = ends(&split, &fetch(json!({ "ids": value })));
        prop_assert_eq!(ends.len(), count);
        let all: Vec<String> = ends.iter().map(|end| match &end.params["ids"] {
            Value::String(text) => text.clone(),
            other => other[0].as_str().unwrap().to_owned(),
        }).collect();
        prop_assert_eq!(all, items);
    }

    #[test]
    fn ids_of_parts_are_short_different_and_the_same_each_time(id in "[a-z]{1,128}", depth in 0usize..20) {
        let mut ids = vec![id];
        for _ in 0..depth {
            let id = ids.last().unwrap();
            let (one, two) = (part_id(id, 1), part_id(id, 2));
            prop_assert_ne!(&one, &two);
            prop_assert_eq!(&part_id(id, 2), &two);
            prop_assert!(two.len() <= ID_BYTES_MAX);
            ids.push(two);
        }
        prop_assert_eq!(suffixes(ids.last().unwrap()).1, depth);
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
        let error = split.parts(&fetch(params.clone()), "f", &Map::new()).unwrap_err();
        assert!(error.contains(wanted), "{params}: {error}");
    }
    let deep = format!("f{}", "~1".repeat(SPLITS_MAX));
    let wide = fetch(json!({ "since": "2026-01-01", "until": "2026-11-20" }));
    let error = dates(false, 1).parts(&wide, &deep, &Map::new()).unwrap_err();
    assert!(error.contains("at most 16"), "{error}");
}

#[test]
fn a_default_of_the_api_is_split_too_and_a_number_is_halved_in_its_own_form() {
    let Value::Object(defaults) = json!({ "limit": "500" }) else { panic!("an object") };
    let half = Split { by: By::Half { param: "limit".into(), min: 1 } };
    let parts = half.parts(&fetch(json!({})), "f", &defaults).unwrap();
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].params["limit"], "250");
    let parts = half.parts(&fetch(json!({ "limit": 501 })), "f", &defaults).unwrap();
    assert_eq!(parts[0].params["limit"], 250);
    assert_eq!(parts[0].id.as_deref(), Some("f~1"));
}
