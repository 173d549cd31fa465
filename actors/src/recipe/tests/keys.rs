use std::collections::HashSet;

use jiff::Timestamp;
use object_store::path::Path;
use proptest::prelude::*;

use super::*;
use crate::codes::Code;

fn key_of(plan: &Plan, account: &str, id: &str, params: Value, page: u32) -> Result<Path, Refusal> {
    let (platform, api) = first(plan);
    object_key(
        &plan.store,
        &KeyContext {
            platform: &platform,
            api: &api,
            account: &Account::new(account).unwrap(),
            id,
            params: &map(params),
            queued_at: "2026-11-20T23:59:59Z".parse::<Timestamp>().unwrap(),
            page,
            ext: "json.zst",
        },
    )
}

fn simple() -> Plan {
    plan("apis.a.path = \"a\"")
}

fn key(account: &str, id: &str) -> String {
    key_of(&simple(), account, id, json!({}), 1).unwrap().to_string()
}

#[test]
fn a_key_follows_its_template() {
    assert_eq!(key("act_1", "f"), "p/a/act_1/2026-11-20/f/00001.json.zst");
    let plan = simple();
    let page = |n| key_of(&plan, "a", "f", json!({}), n).map(|key| key.to_string());
    assert_eq!(page(12_345).unwrap(), "p/a/a/2026-11-20/f/12345.json.zst");
    assert_eq!(page(0).unwrap_err().code, Code::KeyRefused);
    assert_eq!(page(PAGE_MAX + 1).unwrap_err().code, Code::KeyRefused);
}

#[test]
fn a_manifest_lies_beside_the_first_page() {
    let first = Path::parse(key("act_1", "f")).unwrap();
    assert_eq!(manifest_key(&first).as_ref(), "p/a/act_1/2026-11-20/f/_manifest.json");
}

#[test]
fn a_value_never_leaves_its_folder() {
    for (account, part) in [
        ("../../x", "..%2F..%2Fx"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("a.b", "a.b"),
        ("*", "%2A"),
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("\\", "%5C"),
        ("a\nb\0", "a%0Ab%00"),
        ("🦀", "%F0%9F%A6%80"),
        ("a~b", "a%7Eb"),
        ("_manifest.json", "_manifest.json"),
        (" ", " "),
    ] {
        assert_eq!(
            key(account, "f"),
            format!("p/a/{part}/2026-11-20/f/00001.json.zst"),
            "{account:?}"
        );
    }
}

#[test]
fn a_part_that_is_too_long_is_cut_and_ends_in_a_hash_of_the_whole() {
    let percent = "%".repeat(256);
    let part = |account: &str| key(account, "f").split('/').nth(2).unwrap().to_owned();
    let cut = part(&percent);
    assert!(cut.len() <= 200 && cut.contains('~'), "{cut}");
    // No encoded byte is cut in two.
    let (kept, hash) = cut.split_once('~').unwrap();
    assert_eq!(kept.len() % 3, 0);
    assert_eq!(hash.len(), 32);
    assert_eq!(part(&"a".repeat(200)), "a".repeat(200));
    assert_eq!(part(&"a".repeat(201)).len(), 200);
    let (x, y) = ("a".repeat(255) + "x", "a".repeat(255) + "y");
    assert_ne!(part(&x), part(&y));
    // Nobody can be called what another one is cut to.
    assert_ne!(part(&part(&x)), part(&x));
}

#[test]
fn a_key_may_name_parameters() {
    let plan = plan(
        "apis.a = { path = \"a\", params = { day = { default = \"d0\" }, x = {} } }\n[store]\nkey = \"{platform}/{api}/{account}/{params.day}/{params.x|lower}/{id}/{page}\"",
    );
    let key = |params| key_of(&plan, "u", "f", params, 1);
    assert_eq!(key(json!({"day": "a/b", "x": "Q/"})).unwrap().as_ref(), "p/a/u/a%2Fb/q%2F/f/00001");
    assert_eq!(key(json!({"x": [5]})).unwrap_err().code, Code::TemplateFailed);
    assert_eq!(key(json!({"x": "5"})).unwrap().as_ref(), "p/a/u/d0/5/f/00001");
    assert_eq!(key(json!({})).unwrap_err().code, Code::MissingParameter);
    assert_eq!(key(json!({"x": ""})).unwrap_err().code, Code::KeyRefused);
}

#[test]
fn distinct_keys_stay_distinct_as_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let accounts = [
        "a",
        "A",
        "../../x",
        "..",
        ".",
        "%2E",
        "a.b",
        "*",
        "🦀",
        "a/b",
        "a%2Fb",
        "한국어",
        "a b",
        " a",
        "~",
        "#1",
        "a#1",
        "con",
        "-",
    ];
    let accounts = accounts.map(str::to_owned).into_iter();
    let mut paths = HashSet::new();
    for account in accounts.chain(["%".repeat(256), "🦀".repeat(64), "x".repeat(256)]) {
        let key = Path::parse(key(&account, "f")).unwrap();
        let path = store.path_to_filesystem(&key).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &account).unwrap();
        let inside = std::fs::canonicalize(&path).unwrap();
        assert!(inside.starts_with(std::fs::canonicalize(folder.path()).unwrap()), "{account:?}");
        assert!(
            path.components()
                .all(|part| part.as_os_str().len() <= 200 || part.as_os_str().len() > 255)
        );
        assert!(paths.insert(path), "{account:?} overwrites another");
    }
    for path in paths {
        assert!(path.exists());
    }
}

proptest! {
    #[test]
    fn distinct_fetches_have_distinct_keys(
        a in "[a-b/.%~\\PC]{1,8}", b in "[a-b/.%~\\PC]{1,8}", c in "[a-b/.%~]{1,4}", d in "[a-b/.%~]{1,4}",
    ) {
        let same = (&a, &c) == (&b, &d);
        prop_assert_eq!(key(&a, &c) == key(&b, &d), same);
        prop_assert_eq!(key(&a, &c).matches('/').count(), 5);
    }
}

#[test]
fn the_key_of_a_member_holds_the_name_as_it_may_be_shown() {
    let first = Path::parse(key("act_1", "f")).unwrap();
    let of = |name: &str, clean: Option<&str>| {
        let key = member_key(&first, name.as_bytes(), clean, ".zst").unwrap().to_string();
        key.strip_prefix("p/a/act_1/2026-11-20/f/").unwrap().to_owned()
    };
    assert_eq!(of("ads/a.csv", None), "00001.ads%2Fa.csv.zst");
    let clean = Some("a-[redacted].csv");
    let (one, other) = (of("a-s3cret01.csv", clean), of("a-s3cret02.csv", clean));
    assert_ne!(one, other, "two secrets are two objects");
    assert_eq!(one, of("a-s3cret01.csv", clean));
    assert!(one.starts_with("00001.a-%5Bredacted%5D~") && one.ends_with(".csv.zst"), "{one}");
    let nothing = of("a-s3cret01.csv", Some(""));
    assert!(nothing.starts_with("00001.~") && nothing.len() == 7 + 32 + 4, "{nothing}");
    let long = format!("{}.csv", "[redacted]".repeat(40));
    let long = of("x", Some(&long));
    // An encoded byte is not cut in two.
    assert!((198..=200).contains(&long.len()) && long.ends_with(".csv.zst"), "{long}");
    // As it was before there were such: cut at its own length.
    let cut = of(&"x".repeat(300), None);
    assert!(cut.len() == 200 && cut.contains("xx~"), "{cut}");
}

#[test]
fn a_key_may_be_hive_style_and_values_stay_within_their_part() {
    let plan = plan(
        "apis.a = { path = \"a\", params = { day = {} } }\n[store]\nkey = \"{platform}/{api}/account={account}/dt={params.day}/id={id}/{page}.{ext}\"",
    );
    let key = |account: &str, day: &str| {
        key_of(&plan, account, "f", json!({ "day": day }), 1).map(|key| key.to_string())
    };
    assert_eq!(
        key("act_1", "2026-11-20").unwrap(),
        "p/a/account=act_1/dt=2026-11-20/id=f/00001.json.zst"
    );
    for (day, part) in [
        ("../..", "dt=..%2F.."),
        ("..", "dt=.."),
        ("a=b", "dt=a=b"),
        ("a\0\n\u{7f}", "dt=a%00%0A%7F"),
        ("é", "dt=%C3%A9"),
        // Composed and decomposed: two names, on file systems that take them for one too.
        ("e\u{301}", "dt=e%CC%81"),
        // Nothing is a value as well: the part is not empty.
        ("", "dt="),
    ] {
        let key = key("a", day).unwrap();
        assert_eq!(key, format!("p/a/account=a/{part}/id=f/00001.json.zst"), "{day:?}");
    }
    let long = key("a", &"x".repeat(5000)).unwrap();
    assert!(long.split('/').all(|part| part.len() <= 200), "{long}");
    assert_ne!(long, key("a", &"x".repeat(5001)).unwrap());
}
