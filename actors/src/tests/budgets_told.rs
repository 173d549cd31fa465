//! What answers say of limits wider than an account reaches whoever they count.

use super::*;
use crate::ledger::Writer;
use crate::testkit::on_points;

/// All accounts together, a hundred calls a minute; an api beside that it does not count; rules about answers.
fn told(rules: &str) -> Setup {
    let platform = format!(
        "{rules}\nlost_call = \"1s\"\n[platforms.p.limits]\n\
         all = {{ per = [\"platform\"], max = 100, in = \"60s\", guard = \"0ms\", when.api = [\"a\"] }}\n\
         [platforms.p.apis.a]\npath = \"a/{{id}}\"\n[platforms.p.apis.free]\npath = \"free/{{id}}\"\n"
    );
    Setup { platform, ..limits("") }
}

const LEFT: &str = "observe = [{ header = \"x-left\", as = \"remaining\", limit = \"all\" }, \
                    { header = \"x-reset\", as = \"reset\", unit = \"s\", limit = \"all\" }]";
const OVER: &str = "over = [{ status = 429, hits = \"all\", wait = \"20s\" }]";

async fn put(rig: &Rig, account: &str, api: &str) {
    rig.put(account, api, &format!("{account}-{api}-0")).await;
}

#[test]
fn what_one_account_is_told_to_be_left_is_left_to_all() {
    paused(|| async {
        let rig = Rig::start(told(LEFT), |_| {
            Reply::ok("{}").header("x-left", "2").header("x-reset", "30")
        });
        put(&rig, "x", "a").await;
        rig.at(1000).await;
        rig.answer(|_| Reply::ok("{}"));
        for account in ["u", "v", "w", "y"] {
            put(&rig, account, "a").await;
            put(&rig, account, "free").await;
        }
        rig.all_end(secs(300)).await;
        let times = |api: &str| -> Vec<u64> {
            let calls = rig.calls().into_iter();
            calls.filter(|(_, id)| id.ends_with(&format!("-{api}-0"))).map(|(at, _)| at).collect()
        };
        assert_eq!(times("a"), [0, 1000, 1000, 30_000, 30_000]);
        assert_eq!(times("free"), [1000; 4]);
    });
}

#[test]
fn nothing_that_is_told_of_a_budget_raises_it_and_others_use_is_believed() {
    paused(|| async {
        let narrow = told(LEFT).platform.replace("max = 100", "max = 2");
        let rig = Rig::start(Setup { platform: narrow, ..limits("") }, |_| {
            Reply::ok("{}").header("x-left", "90")
        });
        for account in ["u", "v", "w"] {
            put(&rig, account, "a").await;
        }
        rig.all_end(secs(300)).await;
        let times: Vec<u64> = rig.calls().iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 0, 60_000]);
        // Without a reset: somebody else has used all but one.
        let rig = Rig::start(told(LEFT), |_| Reply::ok("{}").header("x-left", "1"));
        put(&rig, "u", "a").await;
        rig.at(1000).await;
        rig.answer(|_| Reply::ok("{}"));
        for account in ["v", "w"] {
            put(&rig, account, "a").await;
        }
        rig.all_end(secs(300)).await;
        // The own call of 0 s leaves the window first.
        let times: Vec<u64> = rig.calls().iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 1000, 60_000]);
    });
}

#[test]
fn a_call_that_ended_untold_may_be_in_no_answer() {
    paused(|| async {
        // Two in flight together: the first ends with nothing said, the second was written before it arrived.
        let rig = Rig::start(told(LEFT), |seen| match account_of(seen).as_str() {
            "quiet" => Reply::ok("{}").head_after(ms(50)),
            "slow" => {
                Reply::ok("{}").head_after(ms(200)).header("x-left", "3").header("x-reset", "30")
            }
            _ => Reply::ok("{}"),
        });
        put(&rig, "slow", "a").await;
        put(&rig, "quiet", "a").await;
        rig.at(1000).await;
        for account in ["u", "v", "w"] {
            put(&rig, account, "a").await;
        }
        rig.all_end(secs(300)).await;
        let times: Vec<u64> = rig.calls().iter().skip(2).map(|(at, _)| *at).collect();
        assert_eq!(times, [1000, 1000, 30_200]);
    });
}

#[test]
fn a_refusal_by_a_wide_limit_holds_all_whom_it_counts_and_nobody_else() {
    paused(|| async {
        let rig = Rig::start(told(OVER), |_| Reply::status(429).head_after(ms(10)));
        put(&rig, "x", "a").await;
        rig.at(1000).await;
        rig.answer(|_| Reply::ok("{}"));
        for account in ["x", "y"] {
            rig.put(account, "a", &format!("{account}-late")).await;
            rig.put(account, "free", &format!("{account}-free")).await;
        }
        rig.all_end(secs(300)).await;
        for id in ["x-late", "y-late"] {
            assert_eq!(rig.times_of(id), [20_010], "{id}");
        }
        for id in ["x-free", "y-free"] {
            assert_eq!(rig.times_of(id), [1000], "{id}");
        }
        assert_eq!(rig.times_of("x-a-0").len(), 2);
    });
}

#[test]
fn a_budgets_hold_is_in_its_record() {
    paused(|| async {
        // Given up at the refusal, so that the first process wants nothing any more.
        let over = OVER.replace("wait =", "then = \"fail\", wait =");
        let rig = Rig::start(told(&over), |_| Reply::status(429).head_after(ms(10)));
        put(&rig, "x", "a").await;
        rig.at(1000).await;
        let ledger = rig.ledger.inner.take_over();
        ledger.ends_as(Writer::Dead);
        let clock = rig.shared.clock.clone();
        let queue = MemoryQueue::starting(wall());
        let next = Rig::start_on(told(&over), clock, queue, ledger, |_| Reply::ok("{}"));
        put(&next, "y", "a").await;
        next.all_end(secs(300)).await;
        let at: Vec<u64> = next.wire.seen().iter().map(|seen| rig.ms(seen.begun)).collect();
        // An age is rounded up, so a hold of a record ends a little later at most.
        assert!(matches!(at[..], [20_010..20_030]), "{at:?}");
    });
}

#[test]
fn a_hold_that_comes_while_the_budgets_actor_restarts_holds() {
    paused(|| async {
        let rig = Rig::start(told(OVER), |_| Reply::status(429).head_after(ms(200)));
        let dies = std::rc::Rc::new(std::cell::Cell::new(false));
        let now = std::rc::Rc::clone(&dies);
        let _hooked = on_points(move |name, _| {
            assert!(!(name == "budget step" && now.replace(false)), "it panics on purpose");
        });
        put(&rig, "x", "a").await;
        rig.at(150).await;
        dies.set(true);
        // Its asking kills the budget; the refusal of `x` comes before it is back.
        rig.answer(|_| Reply::ok("{}"));
        put(&rig, "y", "a").await;
        rig.all_end(secs(300)).await;
        assert_eq!(rig.shared.totals.restarts.get(), 1);
        let times = rig.times_of("y-a-0");
        assert!(matches!(times[..], [20_200..20_300]), "{times:?}");
    });
}
