//! A node on NATS that is given another configuration.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::ProviderLimit;

use super::{dead, done, emulator, publish, serve, stop};
use crate::util::{Config, Dir, Nats, assert_none_refused, fetch, wait_until};

#[test]
fn an_api_that_is_added_is_called_and_one_that_is_removed_waits_and_is_not_dead() {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::gap("gap", Duration::from_millis(100))], 5);
    let base =
        || Config::of(&emulator).on(&nats).limit(r#"gap = { per = ["account"], every = "100ms" }"#);
    let other = |config: Config| config.api("other", "path = \"v1/reports/other\"");
    let dir = Dir::with(&base().report());
    dir.tollgate(&["setup"]).run().exits(0);
    let node = serve(&dir);
    let of = |api: &str, from: usize, to: usize| -> String {
        let more = |n: usize| match api {
            "report" => json!({ "params": { "date": format!("day-{n}") } }),
            _ => json!({}),
        };
        (from..to).map(|n| fetch("acc", api, &format!("{api}-{n}"), more(n))).collect()
    };
    publish(&dir, &of("report", 0, 3));
    wait_until("3 done", || (done(&nats).len() == 3).then_some(()));
    // Added.
    dir.write("tollgate.toml", other(base().report()).text());
    node.signal("HUP");
    node.wait_says(r#""event":"config_reloaded""#);
    publish(&dir, &of("other", 0, 3));
    wait_until("6 done", || (done(&nats).len() == 6).then_some(()));
    // Removed, with work that waits and a call in flight at times.
    let both = of("report", 3, 40) + &of("other", 3, 5);
    publish(&dir, &both);
    wait_until("some more done", || (done(&nats).len() >= 9).then_some(()));
    dir.write("tollgate.toml", other(base()).text());
    node.signal("HUP");
    wait_until("the second reload", || {
        (node.said(r#""event":"config_reloaded""#) == 2).then_some(())
    });
    wait_until("all of the api that stays", || {
        let done = done(&nats);
        (done.iter().filter(|(_, done)| done.id.starts_with("other")).count() == 5).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    let before = done(&nats).len();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(done(&nats).len(), before, "nothing of the api that is gone is called");
    assert!(before < 45, "something waits");
    assert!(dead(&nats).is_empty(), "{:?}", dead(&nats));
    // Back.
    dir.write("tollgate.toml", other(base().report()).text());
    node.signal("HUP");
    wait_until("all done", || (done(&nats).len() == 45).then_some(()));
    stop(node);
    assert!(dead(&nats).is_empty());
    assert_none_refused(&emulator);
}
