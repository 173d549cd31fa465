//! `score`: points that decay, percentages of a maximum that is not told, blocks, and answers with fields left out.
//!
//! Shaped after a provider that blocks an account for 300 s when its score, which decays over 300 s, is too high; times
//! are divided by fifty. The maximum follows facts that only the provider has and drifts by a tenth. Answers tell
//! percentages of three resources in one header of JSON, of several ids, from some use on only, and a time in
//! minutes. A call during a block begins the block anew. One account is shared with a client that nobody sees.
//! Another runs out of processor time before it runs out of points. Reach is told for so many calls only; beyond
//! that an answer is good in all but the field that is left out.
//!
//! Left out, for it is not built yet: to notice by itself that a field is missing; here the answer says it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Arrival, Case, Mark, Reply, Seen, Sliding, Violations, ratio};
use crate::bulk::mix;

/// Points at most, but for the drift.
pub const MAX: u32 = 60;
/// A full score is gone after so long.
pub const DECAY: Duration = Duration::from_secs(6);
/// How long nothing is answered once the score was too high.
pub const BLOCK: Duration = Duration::from_secs(6);
/// Calls with reach, and within what time.
pub const REACH: (usize, Duration) = (10, Duration::from_secs(9));
/// Whose score somebody else raises too, unseen.
pub const SHARED: &str = "act_shared";
/// Whose calls need much processor time.
pub const HEAVY: &str = "act_heavy";
/// The endpoint of calls with reach; others cost nothing but points.
pub const REACH_ENDPOINT: &str = "/v1/reach";

/// How often the maximum drifts, and by what part of itself at most.
const DRIFTS_EVERY: Duration = Duration::from_secs(3);
const DRIFT: f64 = 0.1;
/// Part of the processor time that a call of the heavy account takes, in percent.
const CPU_OF_CALL: f64 = 2.5;
/// Calls of an account before it is told anything, and the least that is told, in percent.
const SILENT_CALLS: u64 = 5;
const TOLD_FROM: f64 = 10.0;
/// What a caller is asked to use of what was achievable.
const LEAST: f64 = 0.85;

/// The provider.
#[derive(Debug)]
pub struct Score {
    seed: u64,
    /// Part of the points that the unseen client takes.
    rival: f64,
    /// Whether its caller has declared too much.
    wrong: bool,
    accounts: BTreeMap<String, Account>,
    log: Violations,
    left_out: u64,
}

#[derive(Debug, Default)]
struct Account {
    points: f64,
    /// Processor time in percent of what is allowed.
    cpu: f64,
    as_of: Duration,
    calls: u64,
    first: Option<Duration>,
    /// Points of its own calls.
    used: f64,
    /// Points that could have decayed while there were none.
    wasted: f64,
    /// Points that the unseen client took.
    taken: f64,
    blocked_until: Option<Duration>,
    blocks: u64,
    reach: Sliding,
}

impl Score {
    /// A provider. `rival`: thousandths of the points that the unseen client takes; `wrong`: whether its caller has
    /// declared too much.
    pub fn new(seed: u64, rival: u16, wrong: bool) -> Self {
        Self {
            seed,
            rival: f64::from(rival) / 1_000.0,
            wrong,
            accounts: BTreeMap::new(),
            log: Violations::default(),
            left_out: 0,
        }
    }

    /// The maximum of a moment: it takes small steps between 54 and 66.
    fn max(&self, at: Duration) -> f64 {
        let step = at.as_secs() / DRIFTS_EVERY.as_secs();
        let drawn = (mix(self.seed ^ mix(step)) % 2_001) as f64 / 1_000.0 - 1.0;
        f64::from(MAX) * (1.0 + DRIFT * drawn)
    }

    /// Decay, and what others do meanwhile.
    fn pass(&mut self, name: &str, at: Duration) {
        let max = self.max(at);
        let rival = if name == SHARED { self.rival } else { 0.0 };
        let account = self.accounts.entry(name.to_owned()).or_default();
        let seconds = at.saturating_sub(account.as_of).as_secs_f64();
        account.as_of = at;
        let flow = max / DECAY.as_secs_f64();
        let taken = flow * rival * seconds;
        let gone = flow * seconds;
        // The unseen client keeps out of the last tenth.
        let taken = taken.min((max * 0.9 - account.points + gone).max(0.0));
        account.taken += taken;
        let left = account.points + taken - gone;
        if left < 0.0
            && account.first.is_some()
            && account.blocked_until.is_none_or(|end| end <= at)
        {
            account.wasted -= left;
        }
        account.points = left.max(0.0);
        account.cpu = (account.cpu - 100.0 / DECAY.as_secs_f64() * seconds).max(0.0);
    }

    fn usage(account: &str, points: f64, cpu: f64, minutes: f64) -> String {
        // The second id is one that the calls touch as well; the larger percentage is the one that matters.
        serde_json::json!({
            format!("page_of_{account}"): [{ "type": "pages", "call_count": 1, "total_cputime": 1,
                "total_time": 2, "estimated_time_to_regain_access": 0 }],
            account: [{ "type": "reads", "call_count": points.ceil(), "total_cputime": cpu.ceil(),
                "total_time": (cpu / 2.0).ceil(), "estimated_time_to_regain_access": minutes }],
        })
        .to_string()
    }
}

impl Case for Score {
    fn arrive(&mut self, call: &Arrival<'_>, at: Duration) -> Reply {
        self.pass(call.account, at);
        let max = self.max(at);
        let account = self.accounts.get_mut(call.account).expect("it was just looked at");
        account.calls += 1;
        account.first.get_or_insert(at);
        let refusal = serde_json::json!({
            "error": { "code": 17, "error_subcode": 2_446_079, "message": "User request limit reached" },
        });
        let block_minutes = BLOCK.as_secs_f64() / 60.0;
        if let Some(end) = account.blocked_until.filter(|end| *end > at) {
            self.log.note(at, call.account, "during a block", Some(end.saturating_sub(at)));
            account.blocked_until = Some(at + BLOCK);
            let usage = Self::usage(call.account, 100.0, account.cpu, block_minutes);
            return Reply::refused(400, &refusal).header("x-usage", usage);
        }
        account.blocked_until = None;
        account.points += 1.0;
        if call.account == HEAVY {
            account.cpu += CPU_OF_CALL;
        }
        if account.points > max || account.cpu > 100.0 {
            account.blocks += 1;
            account.blocked_until = Some(at + BLOCK);
            account.points = max;
            let usage = Self::usage(call.account, 100.0, account.cpu, block_minutes);
            return Reply::refused(400, &refusal).header("x-usage", usage);
        }
        account.used += 1.0;
        let percent = account.points / max * 100.0;
        let mut reply = Reply::good(call);
        if call.endpoint == REACH_ENDPOINT {
            let rival =
                if call.account == SHARED { (self.rival * 10.0).round() as usize } else { 0 };
            let most = REACH.0.saturating_sub(rival);
            if account.reach.early(most, REACH.1, at).is_some() {
                self.left_out += 1;
                let body = serde_json::json!({ "rows": [1], "left_out": { "reach": true } });
                reply.body = body.to_string();
            } else {
                account.reach.count(at);
            }
        }
        if account.calls <= SILENT_CALLS || percent.max(account.cpu) < TOLD_FROM {
            return reply;
        }
        let usage = Self::usage(call.account, percent, account.cpu, 0.0);
        reply.tells("x-usage", usage)
    }

    fn marks(&self, seen: &Seen) -> Vec<Mark> {
        let blocks = self.accounts.values().map(|account| account.blocks).max().unwrap_or(0);
        let during = Mark::unviolated("calls during a block", &self.log, seen);
        if self.wrong {
            let all: u64 = self.accounts.values().map(|account| account.blocks).sum();
            let last = self.accounts.values().map(|account| account.as_of).max();
            let windows = last.unwrap_or_default().as_secs() / DECAY.as_secs() + 1;
            return vec![
                Mark::new(
                    "blocks where too much is declared",
                    "at least 1",
                    all.to_string(),
                    all > 0,
                ),
                Mark::at_most(
                    format!("blocks of one account in {windows} times its decay"),
                    windows,
                    blocks,
                ),
                during,
            ];
        }
        let quiet = self.accounts.iter().filter(|(name, _)| *name != SHARED && *name != HEAVY);
        let quiet: Vec<&Account> = quiet.map(|(_, account)| account).collect();
        let used: f64 = quiet.iter().map(|account| account.used).sum();
        let wasted: f64 = quiet.iter().map(|account| account.wasted).sum();
        let others: u64 = quiet.iter().map(|account| account.blocks).sum();
        let share = "share of the points that could be used";
        let mut marks = vec![
            Mark::at_most("blocks of one account", 1, blocks),
            Mark::at_most("blocks of accounts with points of their own alone", 0, others),
            during,
            Mark::part(share, LEAST, ratio(used, used + wasted)),
        ];
        if let Some(shared) = self.accounts.get(SHARED) {
            let all = shared.used + shared.taken;
            let text = format!("{share} by {SHARED} and somebody else");
            marks.push(Mark::part(text, LEAST, ratio(all, all + shared.wasted)));
        }
        let left_out = self.left_out;
        marks.push(Mark::new(
            "answers with a field left out, for the next mark",
            "at least 1 where somebody else uses reach up",
            left_out.to_string(),
            left_out > 0 || self.rival == 0.0,
        ));
        marks
    }

    fn violations(&self) -> &Violations {
        &self.log
    }
}
