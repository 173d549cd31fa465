//! From evidence to findings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Blocked, Evidence};
use crate::times::{Ends, Phase, Spent, Waits};

/// What takes a smaller part of the time is not told of, unless it is broken.
const SHARE_MIN: f64 = 0.05;
/// A shard that is blocked for a smaller part of the time is told of with that part alone.
const BLOCKED_MIN: f64 = 0.1;
/// A fault that takes so much of the time comes before limits and operators, which are as they should be.
const FAULT_FIRST: f64 = 0.1;
/// What is slow is to blame if it takes so much of the time.
const SLOW_PART_MIN: f64 = 0.3;
/// Collectors that are busy with calls for so much of the time are taken up by them.
const TAKEN_UP_MIN: f64 = 0.7;
/// Phases of a call, and those in which an attempt may have a collector.
const ON_THE_WIRE: [Phase; 3] = [Phase::Connect, Phase::FirstByte, Phase::Body];
const WITH_A_COLLECTOR: [Phase; 5] =
    [Phase::Connect, Phase::FirstByte, Phase::Body, Phase::Store, Phase::Ack];
/// Means, in seconds, from which something is slow.
const NAMES_SLOW: f64 = 0.1;
const CONNECT_SLOW: f64 = 0.2;
const STORE_SLOW: f64 = 0.5;
const ACK_SLOW: f64 = 0.1;
const BODY_SLOW: f64 = 2.0;
/// A first byte is slow from here on if it takes three times as long as the best that was seen, else from there on.
const FIRST_BYTE_WORSE: f64 = 0.5;
const WORSE_BY: f64 = 3.0;
const FIRST_BYTE_SLOW: f64 = 2.0;
/// Part of the CPUs from which there are too few.
const CPU_FULL: f64 = 0.9;
/// Part of the time for which a shard waits for a CPU, from which the machine is too small.
const CPU_STARVED: f64 = 0.2;

/// What holds a node back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A declared limit of accounts.
    Limit,
    /// A declared limit that accounts share.
    Budget,
    /// The provider refuses calls as too many.
    Throttled,
    /// The provider answers slowly.
    Provider,
    /// Connections are slow.
    Network,
    /// Names are resolved slowly.
    Dns,
    /// All collectors are taken.
    Collectors,
    /// The object store is slow.
    StoreSlow,
    /// The object store takes no bodies.
    StoreAway,
    /// The object store is full.
    StoreFull,
    /// NATS is slow.
    NatsSlow,
    /// NATS does not answer.
    NatsAway,
    /// The ledger of the data folder is slow.
    Ledger,
    /// The queue of the data folder is slow.
    Queue,
    /// A shard's loop does not turn.
    ShardBlocked,
    /// There is not enough CPU.
    Cpu,
    /// What signs calls is not at hand.
    Signing,
    /// Calls fail and are tried again.
    Failing,
    /// An operator holds accounts.
    Paused,
    /// More accounts have work than have actors.
    Turn,
    /// The node ends, or its accounts go to another node.
    Drain,
}

impl Kind {
    /// Whether something is wrong: neither a declared limit nor an operator.
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Limit | Self::Budget | Self::Paused | Self::Drain)
    }

    /// Whether it is what this machine or process lacks, for which accounts wait their turn.
    fn is_of_the_machine(self) -> bool {
        matches!(self, Self::ShardBlocked | Self::Cpu)
    }

    fn is_broken(self) -> bool {
        matches!(self, Self::StoreAway | Self::StoreFull | Self::NatsAway)
    }
}

/// One thing that holds nodes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// The same as a sentence.
    pub what: String,
    /// Its part of the time in which accounts had something waiting; of the window where no account had.
    pub share: f64,
    /// The numbers that it stands on.
    pub evidence: Vec<String>,
    /// What to change, and what that would buy.
    pub advice: String,
}

/// What was found, the worst first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How long the window is, in seconds.
    pub window_s: f64,
    /// Attempts that ended in it, a second.
    pub calls_per_s: f64,
    /// Fetches that wait now.
    pub waiting: u64,
    /// Attempts in flight now.
    pub in_flight: u64,
    /// Accounts with waiting fetches, on the average over the window.
    pub accounts: f64,
    /// What was found; nothing: nothing holds it back.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether anything is wrong.
    pub fn has_fault(&self) -> bool {
        self.findings.iter().any(|finding| finding.kind.is_fault())
    }
}

/// Names what holds these nodes back.
///
/// The time is that of accounts: each account with something waiting waits for one thing at a time. Those that wait for
/// a free collector, or for a call in flight, wait for whatever attempts spend their time with, if that is slow.
pub fn diagnose(nodes: &[Evidence]) -> Report {
    let look = Look::new(nodes);
    let mut findings = Vec::new();
    for node in nodes {
        look.broken(node, &mut findings);
        look.blocked(node, &mut findings);
    }
    look.cpu(&mut findings);
    look.waits(&mut findings);
    findings.retain(|one| {
        one.share >= SHARE_MIN || one.kind.is_broken() || one.kind == Kind::ShardBlocked
    });
    // Why it is not their turn is told.
    if findings.iter().any(|one| one.kind.is_of_the_machine() && one.share >= SHARE_MIN) {
        findings.retain(|one| one.kind != Kind::Turn);
    }
    let rank = |one: &Finding| match one.kind {
        kind if kind.is_broken() => 0,
        kind if kind.is_fault() && one.share >= FAULT_FIRST => 1,
        _ => 2,
    };
    findings.sort_by(|one, other| {
        let ranks = rank(one).cmp(&rank(other));
        ranks.then(other.share.total_cmp(&one.share)).then(one.kind.cmp(&other.kind))
    });
    Report {
        window_s: look.window,
        calls_per_s: look.calls_per_s(),
        waiting: nodes.iter().map(|node| node.waiting).sum(),
        in_flight: nodes.iter().map(|node| node.in_flight).sum(),
        accounts: look.waited / look.window.max(f64::EPSILON),
        findings,
    }
}

/// Whether a node uses all CPUs that it may.
fn is_own_cpu_full(node: &Evidence) -> bool {
    node.cpu.used / node.cpu.cpus.max(f64::EPSILON) >= CPU_FULL
}

/// Whether a node has not the CPU that it needs: a machine may be busy with what gives way.
fn is_cpu_full(node: &Evidence) -> bool {
    let is_starved = node.cpu.starved >= CPU_STARVED && node.cpu.machine >= CPU_FULL;
    is_own_cpu_full(node) || is_starved
}

/// What all nodes together say.
struct Look<'a> {
    nodes: &'a [Evidence],
    window: f64,
    /// Seconds that accounts waited, for whatever.
    waited: f64,
    /// Those by what they waited for.
    causes: BTreeMap<Waits, f64>,
    phases: Phases,
    /// The same for each platform and api.
    calls: Vec<Calls<'a>>,
    names: Spent,
    ends: Ends,
    on_nats: bool,
}

/// What attempts spent their time with, by phase.
type Phases = [Spent; Phase::ALL.len()];

/// The attempts of one api.
struct Calls<'a> {
    platform: &'a str,
    api: &'a str,
    phases: Phases,
    /// The best of its answers began after so many seconds; 0 if that is not known.
    best_first_byte: f64,
}

impl Calls<'_> {
    fn seconds(&self, phase: Phase) -> f64 {
        self.phases[phase as usize].seconds()
    }

    fn is_slow(&self, phase: Phase) -> bool {
        let mean = self.phases[phase as usize].mean();
        match phase {
            Phase::Connect => mean >= CONNECT_SLOW,
            Phase::FirstByte => {
                let worse = mean >= FIRST_BYTE_WORSE && mean >= WORSE_BY * self.best_first_byte;
                worse || mean >= FIRST_BYTE_SLOW
            }
            Phase::Body => mean >= BODY_SLOW,
            Phase::Store => mean >= STORE_SLOW,
            Phase::Ack | Phase::Ledger => mean >= ACK_SLOW,
        }
    }
}

impl<'a> Look<'a> {
    fn new(nodes: &'a [Evidence]) -> Self {
        let mut causes = BTreeMap::new();
        let mut phases = Phases::default();
        let (mut names, mut ends) = (Spent::default(), Ends::default());
        let mut calls: BTreeMap<(&str, &str), (Phases, Option<u64>)> = BTreeMap::new();
        for node in nodes {
            for waited in &node.waits {
                *causes.entry(waited.cause).or_default() += waited.seconds;
            }
            for phased in &node.phases {
                phases[phased.phase as usize].add(&phased.spent);
                let (its, best) = calls.entry((&phased.platform, &phased.api)).or_default();
                its[phased.phase as usize].add(&phased.spent);
                *best = (*best).into_iter().chain(phased.best_us).min();
            }
            node.ends.iter().for_each(|ended| ends.add(&ended.ends));
            names.add(&node.names);
        }
        Self {
            nodes,
            window: nodes.iter().map(|node| node.window_s).fold(0.0, f64::max),
            // The sum of nothing would be less than nothing.
            waited: causes.values().fold(0.0, |sum, seconds| sum + seconds),
            causes,
            phases,
            calls: calls
                .into_iter()
                .map(|((platform, api), (phases, best))| {
                    let best_first_byte = best.map_or(0.0, |us| us as f64 / 1e6);
                    Calls { platform, api, phases, best_first_byte }
                })
                .collect(),
            names,
            ends,
            on_nats: nodes.iter().any(|node| node.on_nats),
        }
    }

    fn calls_per_s(&self) -> f64 {
        self.ends.all() as f64 / self.window.max(f64::EPSILON)
    }

    fn waited_for(&self, cause: Waits) -> f64 {
        self.causes.get(&cause).copied().unwrap_or(0.0)
    }

    fn share(&self, seconds: f64) -> f64 {
        if self.waited > 0.0 { (seconds / self.waited).min(1.0) } else { 0.0 }
    }

    fn phase(&self, phase: Phase) -> Spent {
        self.phases[phase as usize]
    }

    /// How much faster it goes with this part of the time halved.
    fn buys(&self, share: f64) -> String {
        let factor = 1.0 / (1.0 - share / 2.0);
        let rate = self.calls_per_s();
        format!("about {:.1} calls/s instead of {rate:.1}", rate * factor)
    }

    fn broken(&self, node: &Evidence, findings: &mut Vec<Finding>) {
        let share =
            |cause| if self.waited > 0.0 { self.share(self.waited_for(cause)) } else { 1.0 };
        if let Some(why) = &node.store_away {
            let is_full = why.contains("store is full");
            let (kind, what, advice) = if is_full {
                (
                    Kind::StoreFull,
                    "the object store is full",
                    "make room; it goes on by itself then",
                )
            } else {
                let advice =
                    "see to the store; calls go on by themselves when it takes bodies again";
                (Kind::StoreAway, "the object store takes no bodies", advice)
            };
            findings.push(Finding {
                kind,
                what: format!("{what}, so {} makes no calls", node.node),
                share: share(Waits::Store),
                evidence: vec![why.clone()],
                advice: advice.into(),
            });
        }
        if node.nats_away {
            findings.push(Finding {
                kind: Kind::NatsAway,
                what: format!("NATS does not answer {}, which makes no calls", node.node),
                share: share(Waits::Nats),
                evidence: vec!["the connection is away, or JetStream has no leader".into()],
                advice: "see to NATS; calls go on by themselves when it answers".into(),
            });
        }
    }

    /// A part of the window in which a shard did nothing, as far as that held anybody back: one with nothing to do is in
    /// nobody's way.
    fn if_late(&self, part: f64) -> f64 {
        let late = self.share(self.waited_for(Waits::Turn));
        if self.waited <= 0.0 || late >= SHARE_MIN { part } else { part.min(late) }
    }

    fn blocked(&self, node: &Evidence, findings: &mut Vec<Finding>) {
        for Blocked { shard, times, seconds, longest_s, now, doing, account, ran_s, starved_s } in
            &node.blocked
        {
            let share = (seconds / node.window_s.max(f64::EPSILON)).min(1.0);
            if share < BLOCKED_MIN && !now {
                continue;
            }
            // One that does not turn now does not tell whom it keeps waiting.
            let share = if *now { share } else { self.if_late(share) };
            // Where there is too little CPU for all, that is what is found.
            let starved = *starved_s > seconds / 2.0;
            if starved && is_cpu_full(node) {
                continue;
            }
            let whose = account.as_ref().map_or_else(String::new, |name| format!(" for {name}"));
            let computed = *ran_s > seconds / 2.0;
            let how = if computed {
                "it computes"
            } else if starved {
                "something else takes its CPU"
            } else {
                "it is in a call that blocks, or is stopped from outside"
            };
            findings.push(Finding {
                kind: Kind::ShardBlocked,
                what: format!("shard {shard} of {} does not turn: {how}", node.node),
                share,
                evidence: vec![
                    format!("blocked {times} times, {seconds:.2} s of {:.0} s, at most {longest_s:.2} s", node.window_s),
                    format!("the longest while {}{whose}", doing.as_str()),
                    format!("meanwhile its thread ran for {ran_s:.2} s and waited for a CPU for {starved_s:.2} s"),
                ],
                advice: format!(
                    "all accounts of this shard stand still meanwhile; see the events `shard_freed` for what it was. Without it: {}",
                    self.buys(share)
                ),
            });
        }
    }

    fn cpu(&self, findings: &mut Vec<Finding>) {
        for node in self.nodes {
            if !is_cpu_full(node) {
                continue;
            }
            // Who waits for limits does not wait for a CPU, nor does for one of these where others take the CPUs.
            let causes = [Waits::Turn, Waits::Collector, Waits::Queue, Waits::Ledger];
            let is_own = is_own_cpu_full(node);
            let causes = if is_own { &causes[..] } else { &causes[..1] };
            let waited: f64 = causes.iter().map(|cause| self.waited_for(*cause)).sum();
            let share = self.share(waited).max(self.if_late(node.cpu.starved));
            let whose = if is_own { "it uses all of them" } else { "others use them" };
            findings.push(Finding {
                kind: Kind::Cpu,
                what: format!("the CPUs of {} are taken: {whose}", node.node),
                share: share.min(1.0),
                evidence: vec![format!(
                    "{:.1} of {:.0} CPUs used by the node, {:.0} % of the machine busy; a shard waited for a CPU for {:.0} % of the time",
                    node.cpu.used,
                    node.cpu.cpus,
                    100.0 * node.cpu.machine,
                    100.0 * node.cpu.starved
                )],
                advice: "another node, or more CPUs, or less beside it".into(),
            });
        }
    }

    fn waits(&self, findings: &mut Vec<Finding>) {
        self.limits(findings);
        self.flights(findings);
        self.budgets(findings);
        self.held(findings);
        self.collectors(findings);
        self.backs(findings);
        let plain = [
            (Waits::Paused, Kind::Paused, "operators hold accounts", "`tollgate resume`"),
            (
                Waits::Signing,
                Kind::Signing,
                "what signs calls is not at hand",
                "see the events `token_unavailable`, `secret_unreadable`",
            ),
            (
                Waits::Retry,
                Kind::Failing,
                "fetches that failed wait for their next try, and nothing else waits",
                "see the events `attempt_failed`",
            ),
            (
                Waits::Turn,
                Kind::Turn,
                "accounts wait for their turn: more have work than can have an actor, or their shards are late with them",
                "more shards where CPUs are free, or another node",
            ),
            (Waits::Drain, Kind::Drain, "the node ends, or gives accounts to another", "wait"),
        ];
        for (cause, kind, what, advice) in plain {
            let seconds = self.waited_for(cause);
            if seconds > 0.0 {
                let evidence = vec![self.waited_text(seconds), self.ends_text()];
                let (share, what) = (self.share(seconds), what.into());
                findings.push(Finding { kind, what, share, evidence, advice: advice.into() });
            }
        }
    }

    fn waited_text(&self, seconds: f64) -> String {
        let accounts = seconds / self.window.max(f64::EPSILON);
        format!(
            "{:.0} % of the time that accounts waited: {accounts:.1} accounts at any time",
            100.0 * self.share(seconds)
        )
    }

    fn ends_text(&self) -> String {
        ends_text(&self.ends)
    }

    /// By platform and limit, the seconds that accounts waited.
    fn by_limit(&self, cause: Waits) -> BTreeMap<(&str, &str), f64> {
        let mut sums = BTreeMap::new();
        for waited in self.nodes.iter().flat_map(|node| &node.waits) {
            if waited.cause == cause {
                let limit = waited.limit.as_deref().unwrap_or("?");
                *sums.entry((&*waited.platform, limit)).or_default() += waited.seconds;
            }
        }
        sums
    }

    fn limits(&self, findings: &mut Vec<Finding>) {
        for ((platform, limit), seconds) in self.by_limit(Waits::Limit) {
            let share = self.share(seconds);
            findings.push(Finding {
                kind: Kind::Limit,
                what: format!("limit `{limit}` of {platform} is used up"),
                share,
                evidence: vec![self.waited_text(seconds), self.rate_text()],
                advice: format!(
                    "if the provider allows more, declare it; with twice as much: {}. `tollgate plan` says what binds next",
                    self.buys(share)
                ),
            });
        }
    }

    fn rate_text(&self) -> String {
        format!("{:.1} calls/s ended", self.calls_per_s())
    }

    /// Limits that wait for calls in flight: for the calls, if these are slow.
    fn flights(&self, findings: &mut Vec<Finding>) {
        for ((platform, limit), seconds) in self.by_limit(Waits::Flight) {
            let share = self.share(seconds);
            let waited = format!(
                "limit `{limit}` of {platform} waits for calls in flight, {}",
                self.waited_text(seconds)
            );
            if let Some(mut finding) = self.slow(Some(platform), &ON_THE_WIRE, share) {
                finding.evidence.insert(0, waited);
                findings.push(finding);
            } else {
                findings.push(Finding {
                    kind: Kind::Limit,
                    what: format!("limit `{limit}` of {platform} waits for calls in flight"),
                    share,
                    evidence: vec![waited, self.phases_text()],
                    advice: format!(
                        "if the provider allows more at once, declare it; with twice as many: {}",
                        self.buys(share)
                    ),
                });
            }
        }
    }

    fn phases_text(&self) -> String {
        let texts = Phase::ALL.into_iter().filter(|phase| self.phase(*phase).mean() > 0.0);
        let texts: Vec<String> = texts
            .map(|phase| {
                let spent = self.phase(phase);
                let mean = 1000.0 * spent.mean();
                format!("{} {mean:.0} ms", phase.as_str())
            })
            .collect();
        format!("a call on the average: {}", texts.join(", "))
    }

    /// What is slow of these phases, in the calls of one platform or of all: of the apis and phases that are, the one
    /// that takes most of the time, if that is much of it.
    fn slow(&self, platform: Option<&str>, phases: &[Phase], share: f64) -> Option<Finding> {
        let calls = || self.calls.iter().filter(|c| platform.is_none_or(|only| c.platform == only));
        let each = || calls().flat_map(|calls| phases.iter().map(move |phase| (calls, *phase)));
        let all: f64 = each().map(|(calls, phase)| calls.seconds(phase)).sum();
        let (calls, mut phase) = each()
            .filter(|(calls, phase)| calls.is_slow(*phase))
            .max_by(|one, other| one.0.seconds(one.1).total_cmp(&other.0.seconds(other.1)))
            .filter(|(calls, phase)| calls.seconds(*phase) >= SLOW_PART_MIN * all)?;
        let spent = calls.phases[phase as usize];
        // A large body comes no faster than the store takes it.
        if phase == Phase::Body && calls.is_slow(Phase::Store) {
            phase = Phase::Store;
        }
        let mean = format!(
            "{} of {}/{} takes {:.2} s on the average, at most {:.2} s, {:.0} % of what calls take there",
            phase.as_str(),
            calls.platform,
            calls.api,
            spent.mean(),
            spent.max_us as f64 / 1e6,
            100.0 * spent.seconds() / all.max(f64::EPSILON)
        );
        let mut evidence = vec![mean, self.phases_text()];
        let (kind, what, advice) = match phase {
            Phase::Connect if self.is_dns_slow() => {
                evidence.push(format!(
                    "{} names were looked up, {:.2} s on the average",
                    self.names.count,
                    self.names.mean()
                ));
                (Kind::Dns, "names are resolved slowly", "see to the resolver of this machine")
            }
            Phase::Connect => (
                Kind::Network,
                "connections are slow",
                "see to the network between here and the provider",
            ),
            Phase::FirstByte => {
                if calls.best_first_byte > 0.0 {
                    let best = calls.best_first_byte;
                    evidence.push(format!("the best of its answers began after {best:.3} s"));
                }
                (
                    Kind::Provider,
                    "the provider answers slowly",
                    "nothing here: ask the provider; more collectors hide it where limits leave room",
                )
            }
            Phase::Body => {
                (Kind::Provider, "the provider sends its answers slowly", "ask for less at a time")
            }
            Phase::Store => (
                Kind::StoreSlow,
                "the object store is slow",
                "see to the store, or to `store.concurrency`",
            ),
            Phase::Ack | Phase::Ledger if self.on_nats => (
                Kind::NatsSlow,
                "NATS is slow",
                "a server nearer or on faster disks; see `sync_interval` and replicas",
            ),
            Phase::Ack => (Kind::Queue, "the queue is slow", "a faster disk for the data folder"),
            Phase::Ledger => {
                (Kind::Ledger, "the ledger is slow", "a faster disk for the data folder")
            }
        };
        let advice = format!("{advice}; if it took half as long: {}", self.buys(share));
        Some(Finding { kind, what: what.into(), share, evidence, advice })
    }

    fn is_dns_slow(&self) -> bool {
        let connects = self.phase(Phase::Connect).seconds();
        self.names.mean() >= NAMES_SLOW && self.names.seconds() >= connects / 2.0
    }

    fn budgets(&self, findings: &mut Vec<Finding>) {
        let seconds = self.waited_for(Waits::Budget);
        if seconds <= 0.0 {
            return;
        }
        let mut names: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, count) in self.nodes.iter().flat_map(|node| &node.budgets) {
            *names.entry(name).or_default() += count;
        }
        let most = names.iter().max_by_key(|(_, count)| **count);
        let what = match most {
            Some((name, _)) => format!("a limit that accounts share is used up: {name}"),
            None => "limits that accounts share are used up".into(),
        };
        let mut evidence = vec![self.waited_text(seconds), self.rate_text()];
        evidence
            .extend(names.iter().map(|(name, count)| format!("{count} accounts wait for {name}")));
        let share = self.share(seconds);
        let advice = format!(
            "if the provider allows more, declare it; with twice as much: {}",
            self.buys(share)
        );
        findings.push(Finding { kind: Kind::Budget, what, share, evidence, advice });
    }

    /// Holds, by platform: after refusals, but where what ended says that they are for something else.
    fn held(&self, findings: &mut Vec<Finding>) {
        let mut platforms: BTreeMap<&str, f64> = BTreeMap::new();
        for waited in self.nodes.iter().flat_map(|node| &node.waits) {
            if waited.cause == Waits::Hold {
                *platforms.entry(&waited.platform).or_default() += waited.seconds;
            }
        }
        let count: u64 = self.nodes.iter().map(|node| node.held_count).sum();
        let count = (platforms.len() == 1).then_some(count);
        for (platform, seconds) in platforms {
            if seconds > 0.0 {
                findings.push(self.held_of(platform, seconds, count));
            }
        }
    }

    /// `count`: how many are held, if that is known.
    fn held_of(&self, platform: &str, seconds: f64, count: Option<u64>) -> Finding {
        let of_it = |name: &str| name == platform;
        let ended = self.nodes.iter().flat_map(|node| &node.ends);
        let mut ends = Ends::default();
        ended.filter(|ended| of_it(&ended.platform)).for_each(|ended| ends.add(&ended.ends));
        let held = self.nodes.iter().flat_map(|node| &node.held);
        let held: Vec<_> = held.filter(|one| of_it(&one.platform)).collect();
        let Ends { done, throttled, unreachable, failed, .. } = ends;
        let (kind, what, advice) = if unreachable > throttled {
            let what = format!("{platform} cannot be reached, and its accounts are held");
            let advice = "see the events `attempt_failed`: the name, the route, a certificate";
            (Kind::Network, what, advice)
        } else if throttled == 0 && failed > done {
            let what = format!("calls of {platform} fail, and its accounts are held");
            let advice = "see the events `attempt_failed`: rights and tokens most often";
            (Kind::Failing, what, advice)
        } else if throttled == 0 && done > 0 {
            let what = format!("answers of {platform} say that nothing is left for now");
            let advice = "nothing: it goes on when they say; declared limits leave more than the provider does";
            (Kind::Limit, what, advice)
        } else {
            let what = match (&*held, count) {
                ([one], Some(1)) => format!("{platform}/{} is held: {}", one.account, one.because),
                (_, Some(count @ 1..)) => {
                    format!("{count} accounts of {platform} are held after refusals")
                }
                ([], _) => format!("accounts of {platform} were held after refusals"),
                _ => format!("accounts of {platform} are held after refusals"),
            };
            let advice = "the provider allows less than is declared, or somebody else uses the same account: compare the limits with its page; others are not held up by it";
            (Kind::Throttled, what, advice)
        };
        let mut evidence = vec![self.waited_text(seconds), ends_text(&ends)];
        evidence.extend(held.iter().map(|one| {
            let until = one.until.map_or_else(String::new, |until| format!(" until {until:.0}"));
            let because = &one.because;
            format!(
                "{}/{} with {} waiting is held{until}: {because}",
                one.platform, one.account, one.waiting
            )
        }));
        let share = self.share(seconds);
        Finding { kind, what, share, evidence, advice: advice.into() }
    }

    fn collectors(&self, findings: &mut Vec<Finding>) {
        let seconds = self.waited_for(Waits::Collector);
        if seconds <= 0.0 {
            return;
        }
        let share = self.share(seconds);
        let slots: u64 = self.nodes.iter().map(|node| node.slots).sum();
        let waiting = seconds / self.window.max(f64::EPSILON);
        let taken =
            format!("{waiting:.1} accounts waited for one of {slots} collectors at any time");
        // A small body gives its collector back before it is stored: where calls alone take the collectors up, no store
        // does.
        let calls: f64 = ON_THE_WIRE.iter().map(|phase| self.phase(*phase).seconds()).sum();
        let taken_up = slots as f64 * self.window * TAKEN_UP_MIN;
        let during: &[Phase] = if calls >= taken_up { &ON_THE_WIRE } else { &WITH_A_COLLECTOR };
        if let Some(mut finding) = self.slow(None, during, share) {
            finding.evidence.insert(0, taken);
            findings.push(finding);
            return;
        }
        let wanted = slots + waiting.ceil() as u64;
        findings.push(Finding {
            kind: Kind::Collectors,
            what: format!("all {slots} collectors are taken"),
            share,
            evidence: vec![taken, self.waited_text(seconds), self.phases_text()],
            advice: format!(
                "raise `collect.concurrency`, to about {wanted}; if half as many waited: {}",
                self.buys(share)
            ),
        });
    }

    /// Ledger and queue, which accounts wait for themselves.
    fn backs(&self, findings: &mut Vec<Finding>) {
        let (ledger, queue) = (self.waited_for(Waits::Ledger), self.waited_for(Waits::Queue));
        let seconds = ledger + queue;
        if seconds <= 0.0 {
            return;
        }
        let share = self.share(seconds);
        let parts = format!(
            "accounts waited {ledger:.1} s for records and {queue:.1} s for their next fetch to be read, {}",
            self.waited_text(seconds)
        );
        let (kind, what, advice) = if self.on_nats {
            let advice = "a server nearer or on faster disks; see `sync_interval` and replicas";
            (Kind::NatsSlow, "accounts wait for NATS", advice)
        } else if ledger >= queue {
            (Kind::Ledger, "accounts wait for the ledger", "a faster disk for the data folder")
        } else {
            (Kind::Queue, "accounts wait for the queue", "a faster disk for the data folder")
        };
        findings.push(Finding {
            kind,
            what: what.into(),
            share,
            evidence: vec![parts, self.phases_text()],
            advice: format!("{advice}; if it took half as long: {}", self.buys(share)),
        });
    }
}

fn ends_text(ends: &Ends) -> String {
    let Ends { done, throttled, unreachable, store_away, failed } = ends;
    format!(
        "{done} calls stored, {throttled} refused, {unreachable} unreachable, {store_away} not taken by the store, {failed} failed"
    )
}
