//! Against counters that know only calls and what each configuration says by itself.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use proptest::prelude::*;
use serde_json::{Map, Value};
use tokio::time::{Instant, advance};
use tollgate_gate::{Ask, At, Cost, Decision, Ledger, LimitSet, PermitId, Rule, Sent, decide};

use super::*;
use crate::calendar::{Line, plan_on};
use crate::ids::Account;
use crate::nats::session::SessionId;
use crate::plan::{Plan, Platform};
use crate::recipe::{FetchContext, budgets};

const S: i64 = 1_000_000;

fn plan(text: &str) -> Plan {
    read(text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
}

fn read(text: &str) -> Result<Plan, crate::config::Mistakes> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let loaded = crate::config::load(Some(file.path()), std::iter::empty(), &[])?;
    Ok(loaded.plan)
}

/// A platform `p` with the apis `a` and `b` and these limits; `own` are those of `a`.
fn text(limits: &[String], own: &[String]) -> String {
    format!(
        "[store]\nurl = \"memory:\"\n[platforms.p]\nbase_url = \"https://p.example.com/\"\nkeys = {{ app = \"main\" }}\n\
         [platforms.p.limits]\n{}\n[platforms.p.apis.a]\npath = \"a\"\n[platforms.p.apis.a.limits]\n{}\n\
         [platforms.p.apis.b]\npath = \"b\"\n",
        limits.join("\n"),
        own.join("\n"),
    )
}

fn limited(limit: &str) -> Plan {
    plan(&text(&[limit.to_owned()], &[]))
}

fn with(own: &Plan, others: &[&Plan]) -> (Plan, Vec<Unheeded>) {
    let others: Vec<_> =
        others.iter().map(|other| std::sync::Arc::new(Limits::of(other))).collect();
    mixed(own, &others)
}

fn platform(plan: &Plan) -> &std::sync::Arc<Platform> {
    plan.platforms.values().next().unwrap()
}

/// The limits of each account by name: how much of it is stood for by a rule shown.
fn rules(plan: &Plan) -> Vec<(String, Rule)> {
    let limits = platform(plan).limits.limits().iter();
    limits.map(|limit| (limit.name.clone(), limit.rule)).collect()
}

/// What a call counts in: the name of a record, its limits, what it costs.
type CountsIn = (String, std::sync::Arc<LimitSet>, Vec<Cost>);

fn counts_in(plan: &Plan, account: &str, api: u16) -> Vec<CountsIn> {
    let account = Account::new(account).unwrap();
    let params: Map<String, Value> = Map::new();
    let platform = platform(plan).of(&account);
    let fetch = FetchContext {
        account: &account,
        id: "1",
        params: &params,
        queued_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let costs = platform.costs.of(&platform.limits, &platform, api, &fetch).unwrap();
    let own = (account.to_string(), platform.limits.clone(), costs.into_owned());
    let wide = budgets(&platform, &platform.apis[usize::from(api)], &fetch).unwrap();
    let wide = wide
        .iter()
        .map(|key| (key.record().account.to_string(), key.limits().clone(), key.costs().to_vec()));
    std::iter::once(own).chain(wide).collect()
}

/// The gates of all records under one plan.
struct Gates<'p> {
    plan: &'p Plan,
    ledgers: HashMap<String, Ledger>,
}

impl<'p> Gates<'p> {
    fn new(plan: &'p Plan) -> Self {
        Self { plan, ledgers: HashMap::new() }
    }

    /// The first moment from `now` on at which a call may go; nothing: never.
    fn earliest(&mut self, account: &str, api: u16, mut now: At) -> Option<At> {
        let all = counts_in(self.plan, account, api);
        loop {
            let mut later = now;
            for (record, limits, costs) in &all {
                let ledger = self.ledgers.entry(record.clone()).or_default();
                let ask = Ask { api, costs, ..Ask::new(api) };
                match decide(limits, ledger, ledger.holds(), ask, now) {
                    Decision::Go => {}
                    Decision::WaitUntil { at, .. } => later = later.max(at?),
                    Decision::Never { .. } => return None,
                }
            }
            if later == now {
                return Some(now);
            }
            now = later;
        }
    }

    fn call(&mut self, account: &str, api: u16, at: At, id: u64) {
        for (record, limits, costs) in &counts_in(self.plan, account, api) {
            let ledger = self.ledgers.entry(record.clone()).or_default();
            let ask = Ask { api, costs, ..Ask::new(api) };
            ledger.take(limits, PermitId(id), ask, at);
            ledger.written(limits, PermitId(id), at);
            ledger.answered(limits, PermitId(id), at);
            ledger.ended(limits, PermitId(id), at, Sent::Never);
            ledger.prune(limits, at);
        }
    }
}

/// Whose calls, under the limit at which place, of which api.
type CounterKey = (String, usize, Option<u16>);

/// A provider that keeps every call for ever and counts each limit of one configuration by what its words say.
struct Counter<'p> {
    plan: &'p Plan,
    calls: HashMap<CounterKey, Vec<(i64, u64)>>,
}

impl Counter<'_> {
    /// Counts a call; the first limit that it is too much for.
    fn call(&mut self, account: &str, api: u16, at: At) -> Result<(), String> {
        for (record, limits, costs) in counts_in(self.plan, account, api) {
            for (place, limit) in limits.limits().iter().enumerate() {
                if limit.api.is_some_and(|own| own != api) {
                    continue;
                }
                let units = u64::from(costs.get(place).map_or(1, |cost| cost.units));
                let key = (record.clone(), place, limit.per_api.then_some(api));
                let calls = self.calls.entry(key).or_default();
                calls.push((at.0, units));
                if units > 0 && !allowed(limit.rule, calls) {
                    return Err(format!("{record} {} {:?} {calls:?}", limit.name, limit.rule));
                }
            }
        }
        Ok(())
    }
}

/// Whether the last of these calls was one too many, nor those before.
fn allowed(rule: Rule, calls: &[(i64, u64)]) -> bool {
    let (now, _) = calls[calls.len() - 1];
    let since =
        |from: i64| calls.iter().filter(|(at, _)| *at > from).map(|(_, units)| units).sum::<u64>();
    match rule {
        Rule::Every { gap } => since(now - gap.0 as i64) <= 1,
        Rule::Sliding { max, window } => since(now - window.0 as i64) <= u64::from(max.get()),
        Rule::Score { max, decay, .. } => since(now - decay.0 as i64) <= u64::from(max.get()),
        Rule::Calendar { max, window, .. } => {
            let window = window.0 as i64;
            since(now.div_euclid(window) * window - 1) <= u64::from(max.get())
        }
        Rule::FirstUse { max, window } => {
            let (mut opened, mut units) = (i64::MIN, 0);
            for (at, cost) in calls.iter().filter(|(_, units)| *units > 0) {
                if opened == i64::MIN || *at >= opened + window.0 as i64 {
                    (opened, units) = (*at, 0);
                }
                units += cost;
            }
            units <= u64::from(max.get())
        }
        Rule::Bucket { burst, rate, per } => {
            let full = u128::from(burst.get()) * u128::from(per.0);
            let (mut holds, mut before) = (full, calls[0].0);
            calls.iter().all(|(at, units)| {
                holds = full.min(holds + (at - before) as u128 * u128::from(rate.get()));
                before = *at;
                let wants = u128::from(*units) * u128::from(per.0);
                let has = holds >= wants;
                holds = holds.saturating_sub(wants);
                has
            })
        }
        // Every call here is over at once.
        Rule::Concurrent { .. } | Rule::Jobs { .. } => true,
    }
}

fn any_rule() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (1u32..6, 1u32..9).prop_map(|(max, secs)| format!("max = {max}, in = \"{secs}s\"")),
        2 => (1u32..6).prop_map(|secs| format!("every = \"{secs}s\"")),
        1 => (1u32..4, 1u32..5, 1u32..5)
            .prop_map(|(burst, rate, secs)| format!("burst = {burst}, rate = \"{rate}/{secs}s\"")),
        1 => (1u32..6, 1u32..6)
            .prop_map(|(max, secs)| format!("max = {max}, in = \"{secs}s\", anchor = \"first_use\"")),
        1 => (2u32..9, prop_oneof![Just(1), Just(5)]).prop_map(|(max, mins)| {
            format!("max = {max}, in = \"{mins}m\", resets = \"00:00 UTC\", reset_slack = \"0s\"")
        }),
        1 => (1u32..5).prop_map(|n| format!("concurrent = {n}")),
        1 => (1u32..5, 1u32..9)
            .prop_map(|(n, secs)| format!("score = {n}, decay = \"{secs}s\", block = \"{secs}s\"")),
    ]
}

fn any_limit(name: &'static str) -> impl Strategy<Value = String> {
    let per = prop_oneof![
        4 => Just("[\"account\"]"),
        1 => Just("[\"account\", \"api\"]"),
        2 => Just("[\"platform\"]"),
        1 => Just("[\"api\"]"),
        1 => Just("[\"app\"]"),
    ];
    let more = prop_oneof![
        6 => Just(""),
        1 => Just(", guard = \"1s\""),
        1 => Just(", guard = \"never\""),
        1 => Just(", when = { api = [\"b\"] }"),
        2 => Just(", override = { act_1 = { MORE } }"),
    ];
    (per, any_rule(), more, any_rule()).prop_map(move |(per, rule, more, other)| {
        let of_account = per == "[\"account\"]";
        let own = other.split_once(" = ").unwrap().0 == rule.split_once(" = ").unwrap().0;
        let more = if more.contains("MORE") && !(of_account && own) { "" } else { more };
        let more = more.replace("MORE", &other);
        let more = if rule.contains("concurrent") && more.contains("guard") { "" } else { &more };
        format!("{name} = {{ per = {per}, {rule}{more} }}")
    })
}

fn any_config() -> impl Strategy<Value = String> {
    let names = ["x", "y", "z"].map(any_limit);
    (names, 0usize..8, prop::option::weighted(0.3, any_rule())).prop_map(|(limits, some, own)| {
        let limits = limits.iter().enumerate().filter(|(at, _)| some & (1 << at) != 0);
        let limits: Vec<String> = limits.map(|(_, limit)| limit.clone()).collect();
        let own = own.map(|rule| format!("x = {{ per = [\"account\"], {rule} }}"));
        text(&limits, own.as_slice())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_all_together_let_go_each_alone_lets_go_and_no_later(
        configs in prop::collection::vec(any_config(), 2..4),
        calls in prop::collection::vec((0i64..2_500, 0usize..3, 0u16..2), 1..40),
    ) {
        // Some say what no configuration may.
        let own: Vec<Plan> = configs.iter().filter_map(|text| read(text).ok()).collect();
        prop_assume!(own.len() >= 2);
        let line = Line::From(jiff::Timestamp::UNIX_EPOCH);
        for me in 0..own.len() {
            let others: Vec<&Plan> =
                own.iter().enumerate().filter(|(at, _)| *at != me).map(|(_, plan)| plan).collect();
            let (all, unheeded) = with(&own[me], &others);
            prop_assert!(unheeded.is_empty(), "{:?}", unheeded);
            let all = plan_on(&std::sync::Arc::new(all), &line);
            let alone: Vec<_> =
                own.iter().map(|plan| plan_on(&std::sync::Arc::new(plan.clone()), &line)).collect();
            let mut together = Gates::new(&all);
            let mut each: Vec<Gates<'_>> = alone.iter().map(|plan| Gates::new(plan)).collect();
            let mut counters: Vec<Counter<'_>> =
                alone.iter().map(|plan| Counter { plan, calls: HashMap::new() }).collect();
            let mut now = At(1);
            for (id, (pause_ms, account, api)) in calls.iter().enumerate() {
                let account = ["act_1", "act_2", "act_3"][*account];
                now = now.plus(tollgate_gate::Span::from_millis(*pause_ms as u64));
                let goes = together.earliest(account, *api, now);
                // As late as the latest of each, asked again where that moved another.
                let mut latest = Some(now);
                while let Some(at) = latest {
                    latest = each.iter_mut().try_fold(at, |at, gates| gates.earliest(account, *api, at));
                    if latest == Some(at) {
                        break;
                    }
                }
                prop_assert_eq!(goes, latest, "call {} of {} by {}", id, account, api);
                let Some(at) = goes else { continue };
                now = at;
                together.call(account, *api, now, id as u64);
                for gates in &mut each {
                    gates.call(account, *api, now, id as u64);
                }
                for counter in &mut counters {
                    let counted = counter.call(account, *api, now);
                    prop_assert!(counted.is_ok(), "call {}: {:?}", id, counted);
                }
            }
        }
    }

    #[test]
    fn a_text_says_the_same_again_and_its_hash_is_of_nothing_else(config in any_config()) {
        let Ok(plan) = read(&config) else { return Ok(()) };
        let limits = Limits::of(&plan);
        prop_assert_eq!(&Limits::read(&limits.text()).unwrap(), &limits);
        prop_assert_eq!(limits.hash(), plan.hash.clone());
        // Another order, another recipe.
        let again = read(&config.replace("path = \"b\"", "path = \"bb\"\nmethod = \"POST\"")).unwrap();
        prop_assert_eq!(&again.hash, &plan.hash);
        // Beside its own limits a node changes nothing.
        let (same, unheeded) = with(&plan, &[&again]);
        prop_assert!(unheeded.is_empty());
        for (name, platform) in &same.platforms {
            prop_assert!(std::sync::Arc::ptr_eq(platform, &plan.platforms[name]));
        }
    }
}

#[test]
fn the_stricter_number_has_the_name_and_what_cannot_be_compared_stands_beside() {
    let four = limited(r#"pair = { per = ["account"], max = 4, in = "1s" }"#);
    let two = limited(r#"pair = { per = ["account"], max = 2, in = "1s" }"#);
    let (one, other) = (with(&four, &[&two]).0, with(&two, &[&four]).0);
    assert_eq!(rules(&one), rules(&two));
    assert_eq!(rules(&other), rules(&two));
    let slow = limited(r#"pair = { per = ["account"], max = 8, in = "10s" }"#);
    let (both, _) = with(&four, &[&slow]);
    let names: Vec<String> = rules(&both).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], "pair", "its own keeps its name");
    assert!(names[1].starts_with("pair~"), "{names:?}");
    assert_eq!(rules(&both)[0].1, rules(&four)[0].1);
    assert_eq!(rules(&both)[1].1, rules(&slow)[0].1);
    // Three at once, and again without the third.
    let (three, _) = with(&four, &[&slow, &two]);
    let all: Vec<Rule> = rules(&three).into_iter().map(|(_, rule)| rule).collect();
    assert_eq!(all, [rules(&two)[0].1, rules(&slow)[0].1]);
    assert_eq!(rules(&with(&four, &[]).0), rules(&four));
}

#[test]
fn a_record_goes_on_counting_under_the_other_nodes_limits_in_both_directions() {
    let four = limited(r#"pair = { per = ["account"], max = 4, in = "1s" }"#);
    let slow = limited(r#"pair = { per = ["account"], max = 8, in = "60s" }"#);
    let (one, _) = with(&four, &[&slow]);
    let mut gates = Gates::new(&one);
    let mut now = At(0);
    for id in 0..8 {
        now = gates.earliest("act_1", 0, now).unwrap();
        gates.call("act_1", 0, now, id);
    }
    // The eighth came after a second; from now on the minute is full.
    let set = &platform(&one).limits;
    let record = gates.ledgers["act_1"].encode(set, now);
    for plan in [&slow, &with(&slow, &[&four]).0, &one] {
        let set = &platform(plan).limits;
        let (ledger, notes) = Ledger::decode(set, &record, now).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let until = match decide(set, &ledger, ledger.holds(), Ask::new(0), now) {
            Decision::WaitUntil { at, .. } => at.unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(until.0 >= 60 * S, "{until:?}");
    }
    // Who has only the first goes by that.
    let set = &platform(&four).limits;
    let (ledger, _) = Ledger::decode(set, &record, now).unwrap();
    let later = now.plus(tollgate_gate::Span::from_secs(2));
    assert_eq!(decide(set, &ledger, ledger.holds(), Ask::new(0), later), Decision::Go);
}

#[test]
fn tiers_that_differ_give_every_account_the_strictest() {
    let tiers = |accounts: &str, max: u32| {
        let limit = format!(
            "x = {{ per = [\"account\"], max = 9, in = \"1s\", tiers = {{ gold = {{ max = {max} }} }} }}"
        );
        plan(
            &text(&[limit], &[]).replace(
                "keys = {",
                &format!("tiers.gold = {{ accounts = [{accounts}] }}\nkeys = {{"),
            ),
        )
    };
    let max = |plan: &Plan, account: &str| {
        let own = platform(plan).of(&Account::new(account).unwrap());
        own.limits.limits().iter().map(|limit| limit.rule.max()).min().unwrap()
    };
    let own = tiers("\"act_1\"", 20);
    // The same accounts: each tier by itself.
    let (same, _) = with(&own, &[&tiers("\"act_1\"", 15)]);
    assert_eq!((max(&same, "act_1"), max(&same, "act_2")), (15, 9));
    // Others: nobody knows here who is in it there.
    let (other, _) = with(&own, &[&tiers("\"act_2\"", 3)]);
    assert_eq!((max(&other, "act_1"), max(&other, "act_2")), (3, 3));
}

#[test]
fn what_cannot_apply_is_told_and_the_rest_applies() {
    let own = limited(r#"x = { per = ["account"], max = 9, in = "1s" }"#);
    let limits = [
        r#"x = { per = ["account"], max = 5, in = "1s" }"#.to_owned(),
        r#"wide = { per = ["app"], max = 5, in = "1s" }"#.to_owned(),
    ];
    let other = plan(&text(&limits, &[]).replace("app = \"main\"", "app = \"other\""));
    let (both, unheeded) = with(&own, &[&other]);
    assert_eq!(rules(&both)[0].1.max(), 5);
    let [left] = &unheeded[..] else { panic!("{unheeded:?}") };
    assert_eq!((left.what.as_str(), left.platform.as_str()), ("wide", "p"));
    assert!(left.reason.contains("keys.app"), "{left:?}");
    // With the same key it is one budget more.
    let (both, unheeded) = with(&own, &[&plan(&text(&limits, &[]))]);
    assert_eq!((platform(&both).budgets.len(), unheeded.len()), (1, 0));
    // More limits than a gate has room for.
    let many = |from: u32| {
        let one = |n: u32| {
            format!("l{n} = {{ per = [\"account\"], max = {}, in = \"{}s\" }}", n + 1, n + 1)
        };
        plan(&text(&(from..from + 20).map(one).collect::<Vec<_>>(), &[]))
    };
    let (both, unheeded) = with(&many(0), &[&many(20)]);
    assert_eq!((platform(&both).limits.limits().len(), unheeded.len()), (32, 8));
}

#[test]
fn platforms_and_apis_that_only_others_have_are_theirs() {
    let own = limited(r#"x = { per = ["account"], max = 9, in = "1s" }"#);
    let extra = "[platforms.q]\nbase_url = \"https://q.example.com/\"\n[platforms.q.limits]\n\
        x = { per = [\"account\"], max = 1, in = \"1s\" }\n[platforms.q.apis.c]\npath = \"c\"\n\
        [platforms.p.apis.c]\npath = \"c\"\nlimits.c = { per = [\"account\"], max = 1, in = \"1s\" }\n";
    let limit = r#"x = { per = ["account"], max = 9, in = "1s" }"#.to_owned();
    let other = plan(&format!("{}{extra}", text(&[limit], &[])));
    let (both, unheeded) = with(&own, &[&other]);
    assert!(unheeded.is_empty(), "{unheeded:?}");
    assert_eq!(both.platforms.len(), 1);
    assert_eq!(rules(&both), rules(&own));
}

#[test]
fn a_later_form_is_named_and_a_damaged_one_is_no_limits() {
    let limits = Limits::of(&limited(r#"x = { per = ["account"], every = "1s" }"#));
    let mut later: Value = serde_json::from_slice(&limits.text()).unwrap();
    later["form"] = 2.into();
    later["colour"] = "red".into();
    assert_eq!(Limits::read(later.to_string().as_bytes()), Err(FormError::Later(2)));
    later["form"] = 1.into();
    assert!(matches!(Limits::read(later.to_string().as_bytes()), Err(FormError::Broken(_))));
    assert!(matches!(Limits::read(b"\x00"), Err(FormError::Broken(_))));
    // A kind of rule that there is not yet.
    let text = String::from_utf8(limits.text()).unwrap().replace("\"every\"", "\"mostly\"");
    assert!(matches!(Limits::read(text.as_bytes()), Err(FormError::Broken(_))));
}

fn heard(config: &str, heeds: Option<&[&str]>) -> Heard {
    let heeds = heeds.map(|heeds| heeds.iter().map(|hash| (*hash).to_owned()).collect());
    Heard { node: format!("n-{config}"), config: config.into(), heeds, takes: true }
}

#[tokio::test(start_paused = true)]
async fn what_another_named_last_stays_in_force_until_it_is_known_what_it_has_now() {
    let limits = |max: u32| {
        let limit = format!("x = {{ per = [\"account\"], max = {max}, in = \"1s\" }}");
        std::sync::Arc::new(Limits::of(&limited(&limit)))
    };
    let (id, second) = (SessionId(7), std::time::Duration::from_secs(1));
    let mut others = Others::new("own".into());
    let hashes = |needed: &Needed| needed.limits.keys().cloned().collect::<Vec<_>>();
    others.hear(id, heard("h1", Some(&[])), Instant::now());
    assert_eq!(others.wanted().into_iter().collect::<Vec<_>>(), ["h1"]);
    assert_eq!(others.heedless().len(), 1);
    others.learn("h1".into(), Ok(limits(1)));
    assert_eq!(hashes(&others.needed()), ["h1"]);
    assert!(others.wanted().is_empty());
    // It is reloaded, and what it has now cannot be had.
    others.hear(id, heard("h2", Some(&["own"])), Instant::now());
    others.learn("h2".into(), Err("gone".into()));
    let needed = others.needed();
    assert_eq!(hashes(&needed), ["h1"]);
    let unknown: Vec<_> = needed.unknown.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(unknown, ["gone"]);
    assert!(others.heedless().is_empty());
    assert!(others.wanted().is_empty(), "not at once");
    advance(second).await;
    assert_eq!(others.wanted().into_iter().collect::<Vec<_>>(), ["h2"]);
    others.learn("h2".into(), Ok(limits(2)));
    assert_eq!(hashes(&others.needed()), ["h2"]);
    // It has the same as this node; then this node has another.
    others.hear(id, heard("own", Some(&[])), Instant::now());
    assert!(others.needed().limits.is_empty());
    others.own_is("new".into(), ("own".into(), limits(3)));
    others.settled();
    assert!(others.wanted().is_empty(), "nobody knows them better");
    assert_eq!(hashes(&others.needed()), ["own"]);
    // Silent for a while it stays; for long it is over.
    advance(SILENT_FOR.checked_sub(second).unwrap()).await;
    others.forget(SILENT_FOR);
    assert_eq!(hashes(&others.needed()), ["own"]);
    advance(second).await;
    others.forget(SILENT_FOR);
    assert!(others.needed().limits.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_of_an_earlier_version_is_told_of_and_not_waited_for() {
    let mut others = Others::new("own".into());
    others.hear(SessionId(1), heard("old", None), Instant::now());
    let needed = others.needed();
    assert!(needed.limits.is_empty() && others.wanted().is_empty() && others.heedless().is_empty());
    let reasons: BTreeMap<_, _> =
        needed.unknown.iter().map(|one| (one.node.as_str(), one.reason.as_str())).collect();
    assert!(reasons["n-old"].contains("earlier version"), "{reasons:?}");
    // More configurations than are kept: each further one is named.
    for n in 0..40 {
        let hash = format!("h{n:02}");
        others.hear(SessionId(100 + n), heard(&hash, Some(&[])), Instant::now());
    }
    let limits =
        std::sync::Arc::new(Limits::of(&limited(r#"x = { per = ["account"], every = "1s" }"#)));
    loop {
        let wanted = others.wanted();
        if wanted.is_empty() {
            break;
        }
        for hash in wanted {
            others.learn(hash, Ok(limits.clone()));
        }
    }
    let needed = others.needed();
    assert_eq!((needed.limits.len(), needed.unknown.len()), (16, 1 + 24));
    others.ended(SessionId(1));
    assert_eq!(others.needed().unknown.len(), 24);
}

#[tokio::test(start_paused = true)]
async fn what_this_node_named_before_stays_in_force_until_it_names_another() {
    let limits = |max: u32| {
        let limit = format!("x = {{ per = [\"account\"], max = {max}, in = \"1s\" }}");
        std::sync::Arc::new(Limits::of(&limited(&limit)))
    };
    let hashes = |others: &mut Others| others.needed().limits.into_keys().collect::<Vec<_>>();
    // Nobody else is known, and the new ones cannot be written yet.
    let mut others = Others::new("one".into());
    others.own_is("two".into(), ("one".into(), limits(1)));
    assert!(others.keeps());
    assert_eq!(hashes(&mut others), ["one"]);
    // Not even the third is written: the first is what others see.
    others.own_is("three".into(), ("one".into(), limits(1)));
    others.forget(SILENT_FOR);
    assert_eq!(hashes(&mut others), ["one"]);
    // Back to what it named, which is not beside itself.
    others.own_is("one".into(), ("one".into(), limits(1)));
    assert!(hashes(&mut others).is_empty());
    // Its session names the fourth now; who has the first was heard meanwhile.
    others.own_is("four".into(), ("one".into(), limits(1)));
    others.hear(SessionId(1), heard("one", Some(&["four"])), Instant::now());
    others.settled();
    assert!(!others.keeps() && others.wanted().is_empty());
    assert_eq!(hashes(&mut others), ["one"]);
    others.ended(SessionId(1));
    assert!(hashes(&mut others).is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_had_the_same_limits_is_held_to_have_them_until_others_of_its_own_are_known() {
    let mut others = Others::new("one".into());
    others.hear(SessionId(1), heard("one", Some(&[])), Instant::now());
    assert!(others.needed().limits.is_empty());
    // Both are reloaded, and what the other has now is not found.
    others.hear(SessionId(1), heard("lost", Some(&[])), Instant::now());
    let limits = Limits::of(&limited(r#"x = { per = ["account"], every = "1s" }"#));
    others.own_is("two".into(), ("one".into(), std::sync::Arc::new(limits)));
    others.settled();
    others.forget(SILENT_FOR);
    let needed = others.needed();
    assert_eq!(needed.limits.into_keys().collect::<Vec<_>>(), ["one"]);
    assert_eq!(needed.unknown.len(), 1);
}
