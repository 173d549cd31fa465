//! Jobs that go on behind their calls: their places are free when an answer says that they are over, else by time.

use super::*;
use crate::ledger::Writer;

const CREATE: &str = "[platforms.p.apis.a]\npath = \"a/{id}\"\njob = \"{id}\"\n\
                      job_ends = [{ status = 409 }]\n";
const POLL: &str = "[platforms.p.apis.poll]\npath = \"poll/{id}\"\njob = \"{of}\"\n\
                    job_ends = [{ body = \"state\", is = [\"done\", \"failed\"] }]\n";

/// One job of an account at once, or of all accounts.
fn jobs(per: &str) -> Setup {
    let platform = format!(
        "lost_call = \"1s\"\n{CREATE}\
         [platforms.p.apis.a.limits]\nslots = {{ per = [\"{per}\"], jobs = 1, ttl = \"60s\" }}\n{POLL}"
    );
    Setup { platform, ..limits("") }
}

async fn poll(rig: &Rig, account: &str, id: &str, of: &str) {
    let of = format!(r#""params":{{"of":"{of}"}}"#);
    rig.put_as(account, "poll", id, Priority::Normal, &of).await;
}

fn states(seen: &Seen) -> Reply {
    match (api_of(seen).as_str(), id_of(seen).as_str()) {
        ("poll", id) if id.starts_with("runs") => Reply::ok(r#"{"state":"running"}"#),
        ("poll", _) => Reply::ok(r#"{"state":"done"}"#),
        _ => Reply::ok("{}"),
    }
}

#[test]
fn a_place_is_free_when_an_answer_says_that_the_job_is_over() {
    paused(|| async {
        let rig = Rig::start(jobs("account"), states);
        for id in ["one", "two", "three"] {
            rig.put("x", "a", id).await;
        }
        rig.at(5000).await;
        assert_eq!(rig.calls().len(), 1);
        poll(&rig, "x", "runs", "one").await;
        rig.at(6000).await;
        poll(&rig, "x", "of-nobody", "none").await;
        rig.at(7000).await;
        // An account's jobs are its own.
        poll(&rig, "y", "of-another", "one").await;
        rig.at(10_000).await;
        poll(&rig, "x", "over", "one").await;
        rig.all_end(secs(300)).await;
        assert_eq!(rig.times_of("two"), [10_000]);
        // Of the second nothing is heard.
        assert_eq!(rig.times_of("three"), [70_000]);
    });
}

#[test]
fn a_place_of_all_accounts_is_free_when_one_of_them_hears_that_its_job_is_over() {
    paused(|| async {
        let rig = Rig::start(jobs("platform"), states);
        rig.put("x", "a", "one").await;
        rig.at(1000).await;
        rig.put("y", "a", "two").await;
        rig.put("z", "a", "three").await;
        rig.at(5000).await;
        assert_eq!(rig.calls().len(), 1);
        poll(&rig, "x", "over", "one").await;
        rig.all_end(secs(300)).await;
        assert_eq!(rig.times_of("two"), [5000]);
        assert_eq!(rig.times_of("three"), [65_000]);
    });
}

#[test]
fn a_job_that_was_never_begun_takes_no_place() {
    for per in ["account", "platform"] {
        paused(|| async {
            let rig = Rig::start(jobs(per), |seen| match id_of(seen).as_str() {
                "one" => Reply::status(409).head_after(ms(20)),
                _ => Reply::ok("{}"),
            });
            rig.put("x", "a", "one").await;
            rig.put("x", "a", "two").await;
            rig.all_end(secs(300)).await;
            assert_eq!(rig.times_of("two"), [20], "{per}");
        });
    }
}

#[test]
fn what_is_free_is_free_after_a_restart_and_what_was_not_heard_of_ends_by_its_time() {
    for (says, then) in [("over", 10_000..11_000), ("runs", 60_000..62_000)] {
        for per in ["account", "platform"] {
            let then = then.clone();
            paused(|| async move {
                let rig = Rig::start(jobs(per), states);
                rig.put("x", "a", "one").await;
                rig.at(1000).await;
                poll(&rig, "x", says, "one").await;
                // A record is written when the account rests, and when a budget is not asked for any more.
                rig.at(10_000 - 1).await;
                rig.put("x", "poll", "none").await;
                rig.at(10_000).await;
                if per == "platform" {
                    // What a kill takes of a budget's last seconds falls back to the time of the job.
                    rig.shard.send(crate::shard::SettleBudgets { within: secs(1) }).await.unwrap();
                }
                let ledger = rig.ledger.inner.take_over();
                ledger.ends_as(Writer::Dead);
                let clock = rig.shared.clock.clone();
                let queue = MemoryQueue::starting(wall());
                let next = Rig::start_on(jobs(per), clock, queue, ledger, states);
                next.put("x", "a", "two").await;
                next.all_end(secs(300)).await;
                let at = next.wire.seen().iter().map(|seen| rig.ms(seen.begun)).max().unwrap();
                assert!(then.contains(&at), "{says} {per}: {at}");
            });
        }
    }
}
