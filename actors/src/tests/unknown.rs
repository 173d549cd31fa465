//! Fetches for platforms and apis that the configuration does not have, where they do not wait.

use tokio::sync::mpsc;
use tollgate_protos::Priority;

use super::{Reply, Rig, lane, limits, paused};
use crate::codes::Code;
use crate::ids::{LaneKey, Slug};
use crate::node::bury_unknown;
use crate::queue::{NewFetch, Queue};

#[test]
fn they_become_dead_letters_also_after_the_queue_was_away() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}"));
        rig.queue.lose_wakes(true);
        let no_api = lane("x", "nothing", Priority::High);
        let mut no_platform: LaneKey = lane("x", "a", Priority::Normal);
        no_platform.account.platform = Slug::new("nowhere").unwrap();
        let fetch = |lane: &LaneKey, id: usize, payload: &str| NewFetch {
            lane: lane.clone(),
            id: id.to_string(),
            payload: payload.to_owned().into(),
            not_before: None,
        };
        let mut fetches: Vec<_> =
            (0..150).map(|id| fetch(&no_api, id, &format!(r#"{{"id":"{id}"}}"#))).collect();
        fetches.push(fetch(&no_platform, 0, "{}"));
        fetches.push(fetch(&no_platform, 1, "not JSON"));
        let kept = fetch(&lane("x", "a", Priority::Normal), 0, "{}");
        fetches.push(kept.clone());
        rig.queue.append(fetches).await.unwrap();
        rig.queue.fail_next(3);
        let (lanes, told) = mpsc::channel(2);
        let burying = actix_rt::spawn(bury_unknown(rig.shared.clone(), told));
        lanes.send(no_api.clone()).await.unwrap();
        lanes.send(no_platform.clone()).await.unwrap();
        drop(lanes);
        burying.await.unwrap();
        let left = rig.queue.lanes(None).await.unwrap().lanes;
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].lane, kept.lane);
        let letters = rig.queue.dead(None, 1000).await.unwrap();
        let of = |code: Code| letters.iter().filter(move |one| one.dead.code == code.to_string());
        assert_eq!(of(Code::UnknownApi).count(), 150);
        for letter in of(Code::UnknownApi) {
            let fetch = letter.dead.fetch.as_ref().unwrap();
            assert_eq!(fetch.api.as_deref(), Some("nothing"), "what the subject says is filled in");
            assert_eq!(letter.dead.source.as_deref(), Some("p.x.nothing.high"));
        }
        assert_eq!(of(Code::UnknownPlatform).count(), 1);
        let raw: Vec<_> = of(Code::FetchNotJson).map(|one| one.dead.raw.clone()).collect();
        assert_eq!(raw, [Some("not JSON".into())]);
        assert_eq!(rig.shared.totals.fetches_dead.get(), 152);
    });
}
