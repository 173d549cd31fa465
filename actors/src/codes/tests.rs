use std::collections::BTreeSet;
use std::path::Path;

use super::*;

#[test]
fn every_code_has_a_page_of_the_right_form() {
    for code in all() {
        let page = code.page();
        assert!(page.starts_with(&format!("# {code}: ")), "{code}: the heading is wrong");
        assert!(code.title().len() > 2, "{code}: no title");
        assert!(page.contains("What to do: "), "{code}: does not say what to do");
    }
}

#[test]
fn no_page_is_an_orphan() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/codes");
    let on_disk: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        .collect();
    let declared: BTreeSet<String> = all().iter().map(|code| code.id().to_owned()).collect();
    assert_eq!(on_disk, declared);
}

#[test]
fn codes_are_in_order_and_none_is_given_twice() {
    assert!(all().windows(2).all(|pair| pair[0].id() < pair[1].id()));
    let titles: BTreeSet<(&str, &str)> =
        all().iter().map(|c| (c.id().get(..4).unwrap(), c.title())).collect();
    assert_eq!(titles.len(), all().len(), "two codes of one group have the same title");
}

#[test]
fn a_page_is_found_in_any_case_and_only_by_a_whole_code() {
    assert_eq!(explain("tg0003"), Some(Code::UnknownKey.page()));
    assert_eq!(explain(" TG0003\n"), Some(Code::UnknownKey.page()));
    assert_eq!(explain("0003"), None);
    assert_eq!(explain("TG9999"), None);
}
