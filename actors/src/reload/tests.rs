use std::io::Write;

use tollgate_gate::ChangeKind;

use super::*;

const BASE: &str = r#"
[node]
name = "n"
[store]
url = "memory:"
[platforms.kakao]
base_url = "https://apis.example.com/"
auth = { bearer = "env:TOKEN" }
[platforms.kakao.limits]
gap = { per = ["account"], every = "5s" }
[platforms.kakao.apis.report]
path = "report"
[platforms.meta]
base_url = "https://graph.example.com/"
[platforms.meta.limits]
pair = { per = ["account"], max = 2, in = "1m" }
[platforms.meta.apis.insights]
path = "insights"
"#;

fn read(text: &str, token: &str) -> Plan {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let env = [("TOKEN".to_owned(), token.to_owned())].into_iter();
    crate::config::load(Some(file.path()), env, &[]).unwrap().plan
}

fn changed(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from}");
    BASE.replace(from, to)
}

#[test]
fn the_same_text_changes_nothing_and_keeps_every_platform() {
    let before = read(BASE, "t");
    let (plan, changes) = merge(&before, read(&format!("# said anew\n{BASE}"), "t"));
    assert_eq!(changes.applied, Applied::default());
    for (name, platform) in &plan.platforms {
        assert!(Arc::ptr_eq(platform, &before.platforms[name]), "{name}");
    }
}

#[test]
fn only_the_platform_that_differs_is_another_and_its_limits_are_named() {
    let before = read(BASE, "t");
    let (plan, changes) = merge(&before, read(&changed("every = \"5s\"", "every = \"9s\""), "t"));
    let wanted = Applied { platforms_changed: 1, limits_changed: 1, ..Applied::default() };
    assert_eq!(changes.applied, wanted);
    let [(platform, change, _)] = &changes.limits[..] else { panic!("{:?}", changes.limits) };
    assert_eq!((platform.as_str(), change.name.as_str()), ("kakao", "gap"));
    assert_eq!(change.kind, ChangeKind::Tightened);
    let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    let from = counts_from(change, None, now).unwrap();
    assert_eq!(from.to_string(), "2026-11-20T11:59:55Z", "5 s is all that anybody remembers");
    let meta = Slug::new("meta").unwrap();
    assert!(Arc::ptr_eq(&plan.platforms[&meta], &before.platforms[&meta]));
    assert_ne!(plan.hash, before.hash);
}

#[test]
fn what_is_no_limit_is_a_change_of_its_platform_too() {
    let before = read(BASE, "t");
    for (from, to) in [
        ("path = \"report\"", "path = \"reports\""),
        ("path = \"report\"", "path = \"report\"\ntimeouts = { stall = \"7s\" }"),
        ("path = \"report\"", "path = \"report\"\nheaders = { X-A = \"b\" }"),
        ("[store]", "[collect]\ntimeouts = { stall = \"7s\" }\n[store]"),
        ("https://apis.example.com/", "https://api.example.com/"),
    ] {
        let (plan, changes) = merge(&before, read(&changed(from, to), "t"));
        assert!(changes.applied.platforms_changed > 0, "{to}");
        assert_eq!(changes.applied.limits_changed, 0, "{to}");
        assert_eq!(plan.hash, before.hash, "{to}");
    }
    // A secret is shown nowhere, and is a change all the same.
    let (_, changes) = merge(&before, read(BASE, "another"));
    assert_eq!(changes.applied.platforms_changed, 1);
}

#[test]
fn platforms_come_and_go_with_their_limits() {
    let (all, one) = (read(BASE, "t"), read(BASE.split_once("[platforms.meta]").unwrap().0, "t"));
    let (plan, changes) = merge(&all, one.clone());
    let wanted = Applied { platforms_removed: 1, limits_changed: 1, ..Applied::default() };
    assert_eq!((changes.applied, plan.platforms.len()), (wanted, 1));
    let (plan, changes) = merge(&one, all);
    let wanted = Applied { platforms_added: 1, limits_changed: 1, ..Applied::default() };
    assert_eq!((changes.applied, plan.platforms.len()), (wanted, 2));
    assert_eq!(changes.limits[0].1.known, Known::For(tollgate_gate::Span::ZERO));
}

#[test]
fn keys_that_are_read_at_the_start_only_are_named_and_stay_as_they_were() {
    let before = read(BASE, "t");
    assert_eq!(needs_restart(&before, &before), [""; 0]);
    for (from, to, keys) in [
        ("name = \"n\"", "name = \"m\"", &["node.name"][..]),
        ("name = \"n\"", "name = \"n\"\ndata = \"other\"", &["node.data"]),
        ("[store]", "[store]\ncompression = \"gzip\"", &["store"]),
        (
            "[store]",
            "[collect]\nconcurrency = 3\nshards = 7\n[store]",
            &["collect.concurrency", "collect.shards"],
        ),
        (
            "[store]",
            "[collect]\nbody_bytes_max = 4096\nbuffer_bytes_max = \"64MiB\"\ndrain = \"3s\"\n[store]",
            &["collect.buffer_bytes_max", "collect.body_bytes_max", "collect.drain"],
        ),
        ("[store]", "[nats]\nurl = \"nats://other:4222\"\n[store]", &["nats"]),
        ("[store]", "[http]\nlisten = \"off\"\n[store]", &["http"]),
        (
            "[store]",
            "[stage.t]\nfrom = \"t\"\nfollow = \"5m\"\n[stage.t.columns]\nid = \"int64\"\n[store]",
            &["stage"],
        ),
        // Whoever stages by the command reads it anew each time.
        ("[store]", "[stage.t]\nfrom = \"t\"\n[stage.t.columns]\nid = \"int64\"\n[store]", &[]),
    ] {
        let new = read(&changed(from, to), "t");
        assert_eq!(needs_restart(&before, &new), keys, "{to}");
        let (plan, changes) = merge(&before, new);
        assert_eq!(changes.applied, Applied::default(), "{to}");
        assert_eq!(needs_restart(&before, &plan), [""; 0], "{to}");
    }
}

#[test]
fn attempts_and_timeouts_are_the_part_of_collect_that_changes() {
    let before = read(BASE, "t");
    let text = changed("[store]", "[collect]\nattempts_max = 9\nconcurrency = 3\n[store]");
    let (plan, _) = merge(&before, read(&text, "t"));
    assert_eq!(plan.collect.attempts_max, 9);
    assert_eq!(plan.collect.concurrency, before.collect.concurrency);
}

#[test]
fn limits_that_are_budgets_are_named_too() {
    let all = |max| {
        format!(
            "gap = {{ per = [\"account\"], every = \"5s\" }}\nall = {{ per = [\"platform\"], max = {max}, in = \"1m\" }}"
        )
    };
    let with = |max| changed("gap = { per = [\"account\"], every = \"5s\" }", &all(max));
    let before = read(&with(9), "t");
    let named = |text: &str| {
        let (_, changes) = merge(&before, read(text, "t"));
        assert_eq!(changes.applied.limits_changed, changes.limits.len());
        let named = changes.limits.iter().map(|(_, change, _)| (change.name.clone(), change.kind));
        named.collect::<Vec<_>>()
    };
    assert_eq!(named(&with(9)), []);
    assert_eq!(named(&with(3)), [("all".to_owned(), ChangeKind::Tightened)]);
    assert_eq!(named(BASE), [("all".to_owned(), ChangeKind::Removed)]);
    // By another key it counts other calls.
    let text = with(9).replace("\"platform\"", "\"account\"");
    let kinds: Vec<ChangeKind> = named(&text).into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, [ChangeKind::Added, ChangeKind::Removed]);
}

#[test]
fn changed_costs_and_changed_resets_are_told_where_nothing_else_of_a_limit_changes() {
    let with = |limits: &str, api: &str| {
        changed("gap = { per = [\"account\"], every = \"5s\" }", limits)
            .replace("path = \"report\"", &format!("path = \"report\"\n{api}"))
    };
    let hourly = "hourly = { per = [\"account\"], max = 60, in = \"1h\" }";
    let all = "all = { per = [\"platform\"], max = 60, in = \"1h\", cost = 2 }";
    let daily = |resets: &str| {
        format!("daily = {{ per = [\"account\"], max = 9, in = \"1d\", resets = \"{resets}\" }}")
    };
    let told = |one: &str, other: &str| {
        let (_, changes) = merge(&read(one, "t"), read(other, "t"));
        assert_eq!(changes.applied.limits_changed, changes.limits.len());
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let told = changes.limits.iter().map(|(_, change, moved)| {
            let from = counts_from(change, moved.as_ref(), now).map(|from| from.to_string());
            (change.name.clone(), change.kind.as_str(), from)
        });
        told.collect::<Vec<_>>()
    };
    let costs = |name: &str| vec![(name.to_owned(), "costs", None)];
    assert_eq!(told(&with(hourly, ""), &with(hourly, "costs = { hourly = 3 }")), costs("hourly"));
    let thrice = all.replace("cost = 2", "cost = 3");
    assert_eq!(told(&with(all, ""), &with(&thrice, "")), costs("all"));
    assert_eq!(told(&with(hourly, ""), &with(hourly, "")), []);
    // At 12:00 UTC what came before the UTC day began is forgotten, and Seoul's began nine hours before.
    let (utc, seoul) = (daily("00:00 UTC"), daily("00:00 Asia/Seoul"));
    let from = Some("2026-11-20T00:00:00Z".to_owned());
    let moved = vec![("daily".to_owned(), "resets", from)];
    assert_eq!(told(&with(&utc, ""), &with(&seoul, "")), moved);
}
