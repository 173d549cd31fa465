//! `jobs`: work that goes on behind the call, in slots.
//!
//! Shaped after a provider with 100 report jobs at once for each account, whose jobs take three minutes in the median
//! and hours at worst. Here a job takes 2 s in the median and 4 s at most, which is also after what time a caller that
//! hears nothing may take it for over. A job holds its slot whatever becomes of the call that ordered it: the answer
//! may be lost, the caller killed.
//!
//! Two keys are held at once: a slot of the account and one of the app. Long jobs (`days` of 3 or more) hold one of the
//! account's few slots for those as well: the shape decides. Creating has a budget of its own.
//!
//! Every fourth job is over with the answer that orders it, which says so: what it would make was there. Such a one holds
//! no slot, so whoever reads its answer may use the slot at once, and whoever does not waits as for any other.
//!
//! Left out, for it is not built yet: to ask how a job goes, to list jobs, to download what they made (URLs that expire,
//! a host that takes no credentials, empty results). So the slot of a job that goes on is free for the caller when the
//! time is over, not when the job is.

use std::collections::HashMap;
use std::time::Duration;

use super::{Arrival, Case, Mark, Reply, Seen, Violations, param};
use crate::bulk::mix;

/// Jobs of an account at once.
pub const PER_ACCOUNT: usize = 5;
/// Long ones of them.
pub const LONG_PER_ACCOUNT: usize = 2;
/// Jobs of all accounts together.
pub const PER_APP: usize = 30;
/// Days from which on a job is a long one.
pub const LONG_DAYS: u32 = 3;
/// A job is over after this time at the latest.
pub const TTL: Duration = Duration::from_secs(4);
/// Creates of a second, and at once.
pub const CREATES: u32 = 20;

/// One job in so many is over at once.
const AT_ONCE: u64 = 4;

/// The median of a job's time, the spread of its logarithm, and the shortest.
const MEDIAN: Duration = Duration::from_secs(2);
const SPREAD: f64 = 0.9;
const SHORTEST: Duration = Duration::from_millis(200);

/// The provider.
#[derive(Debug)]
pub struct Jobs {
    wrong: bool,
    running: Vec<Job>,
    /// Jobs that were over at once, as long as they would hold a slot of a caller who has not heard it.
    over: Vec<Job>,
    /// Creates that such a caller would have had no slot for.
    on_freed: u64,
    /// When each report was ordered.
    created: HashMap<(String, String), Vec<Duration>>,
    most_app: usize,
    most_account: usize,
    most_long: usize,
    /// What the bucket of creates holds, and when that was.
    bucket: (f64, Duration),
    /// Slots over their time, in seconds.
    busy: f64,
    log: Violations,
    /// Refusals for want of a slot, by account.
    refused: HashMap<String, Vec<Duration>>,
}

#[derive(Debug)]
struct Job {
    account: String,
    is_long: bool,
    until: Duration,
}

impl Jobs {
    /// A provider. `wrong`: whether its caller has declared too much.
    pub fn new(wrong: bool) -> Self {
        Self {
            wrong,
            running: Vec::new(),
            over: Vec::new(),
            on_freed: 0,
            created: HashMap::new(),
            most_app: 0,
            most_account: 0,
            most_long: 0,
            bucket: (f64::from(CREATES), Duration::ZERO),
            busy: 0.0,
            log: Violations::default(),
            refused: HashMap::new(),
        }
    }

    /// The answer to whoever has ordered a job.
    fn answer(call: &Arrival<'_>, state: &str) -> Reply {
        let body = serde_json::json!({
            "code": 0, "account": call.account, "query": call.query, "state": state,
        });
        let reply = Reply { status: 200, body: body.to_string(), ..Reply::default() };
        reply.tells("x-concurrent-job-limit", PER_ACCOUNT)
    }

    /// How long a job takes: the logarithm is about normal (twelve even numbers make one).
    fn takes(luck: u64) -> Duration {
        let even = |i| (mix(luck ^ mix(i)) % 1_000_001) as f64 / 1_000_000.0;
        let normal: f64 = (0..12).map(even).sum::<f64>() - 6.0;
        MEDIAN.mul_f64((normal * SPREAD).exp()).clamp(SHORTEST, TTL)
    }
}

impl Case for Jobs {
    fn arrive(&mut self, call: &Arrival<'_>, at: Duration) -> Reply {
        self.running.retain(|job| job.until > at);
        let days = param(call.query, "days").and_then(|days| days.parse().ok()).unwrap_or(1);
        let is_long = days >= LONG_DAYS;
        let own = |job: &&Job| job.account == call.account;
        let account = self.running.iter().filter(own).count();
        let long = self.running.iter().filter(own).filter(|job| job.is_long).count();
        let (held, before) = self.bucket;
        let flowed = at.saturating_sub(before).as_secs_f64() * f64::from(CREATES);
        let held = (held + flowed).min(f64::from(CREATES));
        let broken = if account >= PER_ACCOUNT {
            Some("slots of the account")
        } else if is_long && long >= LONG_PER_ACCOUNT {
            Some("slots for long jobs")
        } else if self.running.len() >= PER_APP {
            Some("slots of the app")
        } else if held < 1.0 {
            Some("creates")
        } else {
            None
        };
        if let Some(rule) = broken {
            // How soon a job ends is not known: time does not excuse it. A full bucket is a matter of time.
            let early = Duration::from_secs_f64((1.0 - held).max(0.0) / f64::from(CREATES));
            let early = (rule == "creates").then_some(early);
            self.log.note(at, call.account, rule, early);
            self.refused.entry(call.account.to_owned()).or_default().push(at);
            let body = serde_json::json!({ "error": { "code": "TOO_MANY_JOBS", "rule": rule } });
            return Reply::refused(429, &body).header("x-concurrent-job-limit", PER_ACCOUNT);
        }
        self.bucket = (held - 1.0, at);
        self.over.retain(|job| job.until > at);
        let own_over = self.over.iter().filter(own).count();
        // Running ones count here for as long as they run only: a caller holds them for longer.
        let blind =
            account + own_over >= PER_ACCOUNT || self.running.len() + self.over.len() >= PER_APP;
        self.on_freed += u64::from(blind);
        let report = (call.account.to_owned(), call.query.to_owned());
        self.created.entry(report).or_default().push(at);
        if mix(call.luck).is_multiple_of(AT_ONCE) {
            self.over.push(Job { account: call.account.into(), is_long, until: at + TTL });
            return Self::answer(call, "DONE");
        }
        let takes = Self::takes(call.luck);
        self.busy += takes.as_secs_f64();
        self.running.push(Job { account: call.account.into(), is_long, until: at + takes });
        self.most_app = self.most_app.max(self.running.len());
        self.most_account = self.most_account.max(account + 1);
        self.most_long = self.most_long.max(long + usize::from(is_long));
        Self::answer(call, "RUNNING")
    }

    fn marks(&self, seen: &Seen) -> Vec<Mark> {
        let most =
            |mark: &str, most: usize, got: usize| Mark::at_most(mark, most as u64, got as u64);
        let mut marks = vec![
            most("jobs of all accounts at once", PER_APP, self.most_app),
            most("jobs of one account at once", PER_ACCOUNT, self.most_account),
            most("long jobs of one account at once", LONG_PER_ACCOUNT, self.most_long),
        ];
        // Whose caller was killed has not heard the answer either, and orders anew once it is back.
        let again = |created: &Vec<Duration>| {
            let pairs = created.windows(2);
            pairs.filter(|pair| !seen.killed_between(pair[0], pair[1])).count() as u64
        };
        let again = self.created.values().map(again).sum();
        let mark = "jobs ordered again, by whom no kill excuses, at most one for each lost answer";
        marks.push(Mark::at_most(mark, seen.lost, again));
        if self.wrong {
            let all = self.log.count;
            marks.push(Mark::new(
                "refusals where too much is declared",
                "at least 1",
                all.to_string(),
                all > 0,
            ));
            let within = self.refused.values().flat_map(|at| {
                at.iter()
                    .map(|from| at.iter().filter(|at| (*from..*from + TTL).contains(at)).count())
            });
            let within = within.max().unwrap_or(0);
            marks.push(most("refusals of one account within the longest time of a job", 1, within));
        } else {
            let mark = "creates without a slot, or beyond their budget";
            marks.insert(0, Mark::unviolated(mark, &self.log, seen));
            marks.push(Mark::new(
                "creates in slots of jobs that were over at once",
                "at least 1",
                self.on_freed.to_string(),
                self.on_freed > 0,
            ));
        }
        marks
    }

    fn violations(&self) -> &Violations {
        &self.log
    }
}
