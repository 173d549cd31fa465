//! A store that takes no bodies: no permits until it does, and no fetch pays for it.

use std::path::PathBuf;

use super::*;
use crate::mailbox::Mailbox;
use crate::node::probe_store;

/// A store whose folder can be taken away and given back.
struct Folder {
    _root: tempfile::TempDir,
    path: PathBuf,
    aside: PathBuf,
}

impl Folder {
    fn new() -> (Self, Store) {
        let root = tempfile::tempdir().unwrap();
        let (path, aside) = (root.path().join("objects"), root.path().join("aside"));
        let store = Store::open_file_on_tokio(&path, &root.path().join("state"), 1 << 30).unwrap();
        (Self { _root: root, path, aside }, store)
    }

    /// A file stands where the folder was.
    fn take_away(&self) {
        std::fs::rename(&self.path, &self.aside).unwrap();
        std::fs::write(&self.path, "").unwrap();
    }

    fn give_back(&self) {
        std::fs::remove_file(&self.path).unwrap();
        std::fs::rename(&self.aside, &self.path).unwrap();
    }
}

fn start(store: Store) -> Rig {
    let setup = limits(r#"gap = { per = ["account"], every = "100ms" }"#).attempts_max(1);
    let rig = Rig::start(Setup { store: Some(store), ..setup }, |_| Reply::ok("{}"));
    let shards: Arc<[Mailbox<Shard>]> = Arc::new([rig.shard.clone()]);
    actix_rt::spawn(probe_store(rig.shared.clone(), shards));
    rig
}

#[test]
fn a_store_that_is_away_stops_permits_until_it_takes_bodies_again_and_costs_no_try() {
    paused(|| async {
        let (folder, store) = Folder::new();
        let rig = start(store);
        rig.put_many("x", "a", 10).await;
        rig.put_many("y", "a", 2).await;
        rig.at(450).await;
        folder.take_away();
        rig.at(10_000).await;
        let calls = rig.calls_of("x");
        assert_eq!(calls.len(), 6, "one call found out, none followed: {calls:?}");
        let looks = rig.look().await;
        let because = looks.accounts[0].because.clone().unwrap();
        assert!(because.contains("object store"), "{because}");
        // An account that comes now waits as well.
        rig.put("z", "a", "new").await;
        rig.at(11_000).await;
        assert_eq!(rig.calls_of("z"), []);
        folder.give_back();
        rig.all_end(secs(60)).await;
        assert_eq!(rig.done(), 13, "with attempts_max = 1");
        assert_eq!(rig.dead().await, []);
        // Probes come after 0.5, 1, 2, 4, 8 s: at 500 + 15_500 ms it is found to be back.
        assert_eq!(rig.times_of("new"), [16_000]);
        assert_eq!(rig.wire.count(), 14, "only the call that found out was made in vain");
    });
}

#[test]
fn calls_in_flight_while_the_store_goes_are_made_again_once_each() {
    paused(|| async {
        let (folder, store) = Folder::new();
        let setup = Setup { store: Some(store), ..limits("").attempts_max(1) };
        let rig = Rig::start(setup, |_| Reply::ok("{}").head_after(ms(100)));
        let shards: Arc<[Mailbox<Shard>]> = Arc::new([rig.shard.clone()]);
        actix_rt::spawn(probe_store(rig.shared.clone(), shards));
        rig.put_many("x", "a", 20).await;
        rig.at(50).await;
        folder.take_away();
        rig.at(3000).await;
        folder.give_back();
        rig.all_end(secs(60)).await;
        assert_eq!(rig.done(), 20);
        assert_eq!(rig.wire.count(), 40);
    });
}
