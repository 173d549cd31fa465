//! Letters as bytes. Times go as spans from now: what comes late counts for longer, never for less.

use tollgate_gate::{At, Cost, LimitSet, PermitId, Sent, Span};
use tollgate_protos::wire::{Message, v1};

use super::{Reply, Word};
use crate::budget::{Heard, Told};
use crate::ids::{Account, Slug};
use crate::plan::Platform;
use crate::recipe::{BudgetKey, budget_named};
use crate::throttle::came::Came;
use v1::budget_told::What as ToldOnWire;
use v1::budget_word::Said;

/// Longest text that explains a wait, in bytes.
const WHY_BYTES_MAX: usize = 512;

/// A letter being written.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) letter: v1::BudgetLetter,
}

impl Writing {
    /// Adds what is said of a budget.
    pub(super) fn say(&mut self, key: &BudgetKey, said: Said) {
        let record = key.record().account.as_str();
        let same = |name: &v1::BudgetName| {
            name.record == record
                && name.platform == key.platform().as_str()
                && name.account == key.account().as_str()
        };
        let name = || v1::BudgetName {
            platform: key.platform().to_string(),
            record: record.to_owned(),
            values: key.values().to_vec(),
            account: key.account().to_string(),
        };
        self.say_of(same, name, said);
    }

    /// The same by the name that another node has for it.
    pub(super) fn say_by_name(&mut self, name: v1::BudgetName, said: Said) {
        self.say_of(|known| *known == name, || name.clone(), said);
    }

    fn say_of(
        &mut self,
        same: impl Fn(&v1::BudgetName) -> bool,
        name: impl FnOnce() -> v1::BudgetName,
        said: Said,
    ) {
        let budgets = &mut self.letter.budgets;
        // Mostly it is the one before.
        let place = budgets.iter().rposition(same).unwrap_or_else(|| {
            budgets.push(name());
            budgets.len() - 1
        });
        let budget = u32::try_from(place).unwrap_or(u32::MAX);
        self.letter.words.push(v1::BudgetWord { budget, said: Some(said) });
    }

    pub(super) fn len(&self) -> usize {
        self.letter.words.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.letter.encoded_len()
    }
}

/// Reads which budget is meant; nothing if this configuration has none such.
pub(super) fn budget(platform: &Platform, name: &v1::BudgetName) -> Option<BudgetKey> {
    let account = Account::new(&name.account).ok()?;
    budget_named(platform, &name.record, &name.values, &account)
}

pub(super) fn costs_out(key: &BudgetKey, api: u16) -> Vec<v1::BudgetCost> {
    let (set, costs) = (key.limits(), key.costs());
    let all_one = |costs: &[Cost]| costs.iter().all(|cost| *cost == Cost::ONE);
    // Without any the owner goes by what calls of that api usually cost.
    if all_one(costs) && all_one(key.usual(api)) {
        return Vec::new();
    }
    let one = vec![Cost::ONE; set.limits().len()];
    let costs = if costs.is_empty() { &one } else { costs };
    // Nodes may have different limits of one name: named by what both know them as.
    let cost = |(place, (limit, cost)): (usize, (&tollgate_gate::Limit, &Cost))| v1::BudgetCost {
        limit: set.known_as(place).unwrap_or(&limit.name).to_owned(),
        api: limit.api.and_then(|api| set.apis().get(usize::from(api))).cloned(),
        units: cost.units,
        is_estimate: cost.is_estimate,
    };
    set.limits().iter().zip(costs).enumerate().map(cost).collect()
}

/// `usual`: what a call of that api mostly costs here, by the places of the limits; none: one.
pub(super) fn costs_in(set: &LimitSet, usual: &[Cost], costs: &[v1::BudgetCost]) -> Box<[Cost]> {
    if costs.is_empty() && usual.is_empty() {
        return Box::default();
    }
    let of = |(place, limit): (usize, &tollgate_gate::Limit)| {
        let api = limit.api.and_then(|api| set.apis().get(usize::from(api)));
        let same_api = |cost: &&v1::BudgetCost| cost.api.as_ref() == api;
        let named = |name: &str| costs.iter().filter(same_api).find(|cost| cost.limit == name);
        let cost =
            |cost: &v1::BudgetCost| Cost { units: cost.units, is_estimate: cost.is_estimate };
        let known = set.known_as(place).and_then(named).or_else(|| named(&limit.name));
        if let Some(known) = known {
            return cost(known);
        }
        // Who asks has other limits of that name: the dearest, and no more than there is.
        let alike = costs.iter().filter(same_api);
        let alike = alike.filter(|cost| base(&cost.limit) == base(&limit.name)).map(cost);
        let dearest = alike.max_by_key(|cost| cost.units);
        // Or it has none such, and what it costs is known here alone.
        let cost = dearest.or_else(|| usual.get(place).copied()).unwrap_or(Cost::ONE);
        Cost { units: cost.units.min(limit.rule.max()), ..cost }
    };
    set.limits().iter().enumerate().map(of).collect()
}

/// The limit that other nodes know under that name, or else this one.
fn limit_in(set: &LimitSet, name: &str, api: Option<&str>) -> Option<usize> {
    let own = set.limits().iter().enumerate().filter(|(_, limit)| {
        let own = limit.api.and_then(|api| set.apis().get(usize::from(api)));
        own.map(String::as_str) == api
    });
    let mut known = own.clone().filter(|(place, _)| set.known_as(*place) == Some(name));
    let mut named = own.filter(|(_, limit)| limit.name == name);
    known.next().or_else(|| named.next()).map(|(place, _)| place)
}

/// The name that a configuration has for a limit, whichever of several of that name it is.
fn base(name: &str) -> &str {
    name.split('~').next().unwrap_or(name)
}

/// Below zero for what is to come: a call of which nothing is heard counts as arrived when it can have at the latest.
fn ago(at: At, now: At) -> i64 {
    now.0.saturating_sub(at.0)
}

fn ahead(at: At, now: At) -> u64 {
    at.since(now).0
}

/// What a node says of a permit that it was lent, or of a budget.
pub(super) fn word_out(key: &BudgetKey, word: &Word, platform: &Platform, now: At) -> Said {
    match word {
        Word::Leave(account) => Said::Leaves(account.to_string()),
        Word::Told(id, told) => {
            let what = match *told {
                Told::Written(at) => ToldOnWire::WrittenUs(ago(at, now)),
                // Of one that is gone no other node is told; this would free no place there.
                Told::Unwritten | Told::Gone(_) => ToldOnWire::Unwritten(true),
                Told::Answered(at) => ToldOnWire::AnsweredUs(ago(at, now)),
                Told::Came(came) => {
                    let (bytes, is_all, is_error) = came.parts();
                    ToldOnWire::Came(v1::BudgetCame { bytes, is_all, is_error })
                }
                Told::Ended(at, sent) => {
                    let sent = sent == Sent::Maybe;
                    ToldOnWire::Ended(v1::BudgetEnded { ago_us: ago(at, now), sent })
                }
                Told::Unused => ToldOnWire::Unused(true),
                Told::Lost => ToldOnWire::Lost(true),
                Told::Runs => ToldOnWire::Runs(true),
            };
            Said::Told(v1::BudgetTold { permit: id.0, what: Some(what) })
        }
        Word::Heard(id, heard) => {
            let set = key.limits();
            let limit = set.limits().get(heard.limit);
            let api_of = |api: u16| set.apis().get(usize::from(api)).cloned();
            let api = platform.apis.get(usize::from(heard.api));
            Said::Heard(v1::BudgetHeard {
                permit: id.0,
                limit: limit.map(|limit| limit.name.clone()).unwrap_or_default(),
                limit_api: limit.and_then(|limit| limit.api).and_then(api_of),
                api: api.map(|api| api.name.to_string()).unwrap_or_default(),
                left: heard.left,
                until_us: heard.until.map(|at| ahead(at, now)),
                ends_us: heard.ends.map(|at| ahead(at, now)),
                over: heard.over,
            })
        }
        Word::JobOver(job, of) => {
            Said::JobOver(v1::BudgetJobOver { job: *job, of: of.map(|id| id.0) })
        }
        Word::Hold(until, reason) => {
            Said::Hold(v1::BudgetHold { for_us: ahead(*until, now), reason: reason.clone() })
        }
    }
}

/// Reads what another node says of a permit that it was lent.
pub(super) fn told_in(told: &v1::BudgetTold, now: At) -> Option<(PermitId, Told)> {
    let before = |us: i64| At(now.0.saturating_sub(us));
    let what = match told.what.as_ref()? {
        ToldOnWire::WrittenUs(us) => Told::Written(before(*us)),
        ToldOnWire::Unwritten(_) => Told::Unwritten,
        ToldOnWire::AnsweredUs(us) => Told::Answered(before(*us)),
        ToldOnWire::Came(came) => {
            Told::Came(Came::of_parts(came.bytes, came.is_all, came.is_error))
        }
        ToldOnWire::Ended(ended) => {
            let sent = if ended.sent { Sent::Maybe } else { Sent::Never };
            Told::Ended(before(ended.ago_us), sent)
        }
        ToldOnWire::Unused(_) => Told::Unused,
        ToldOnWire::Lost(_) => Told::Lost,
        ToldOnWire::Runs(_) => Told::Runs,
    };
    Some((PermitId(told.permit), what))
}

/// Reads what an answer said of a limit; nothing if this configuration has no such limit.
pub(super) fn heard_in(
    key: &BudgetKey,
    heard: &v1::BudgetHeard,
    platform: &Platform,
    now: At,
) -> Option<(PermitId, Heard)> {
    let limit = limit_in(key.limits(), &heard.limit, heard.limit_api.as_deref())?;
    let (api, _) = platform.api(&heard.api)?;
    let at = |us: Option<u64>| us.map(|us| now.plus(Span(us)));
    let (until, ends) = (at(heard.until_us), at(heard.ends_us));
    let (left, over) = (heard.left, heard.over);
    // Its clock says nothing here.
    let as_of = At::MIN;
    let generation = key.generation();
    let heard_here = Heard { limit, generation, api, left, until, ends, as_of, over };
    Some((PermitId(heard.permit), heard_here))
}

/// What a budget says to an account on another node.
pub(super) fn reply_out(account: &Account, reply: &Reply, now: At) -> Said {
    let account = account.to_string();
    match reply {
        Reply::Lent { incarnation, asked, permit } => Said::Lent(v1::BudgetLent {
            account,
            incarnation: *incarnation,
            asked: asked.0,
            permit: permit.0,
        }),
        Reply::Wait { incarnation, asked, until, again, why } => Said::Wait(v1::BudgetWait {
            account,
            incarnation: *incarnation,
            asked: asked.0,
            until_us: until.map(|at| ahead(at, now)),
            again_us: again.map(|at| ahead(at, now)),
            why: cut(why),
        }),
        Reply::Until { until, why } => {
            Said::Until(v1::BudgetUntil { account, until_us: ahead(*until, now), why: cut(why) })
        }
        Reply::Turn => Said::Turn(account),
    }
}

fn cut(why: &str) -> String {
    let mut end = why.len().min(WHY_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.get(..end).unwrap_or_default().to_owned()
}

/// Reads the name of an api.
pub(super) fn api_in(platform: &Platform, api: &str) -> Option<u16> {
    platform.api(api).map(|(number, _)| number)
}

/// Reads the name of a platform.
pub(super) fn platform_in(name: &v1::BudgetName) -> Option<Slug> {
    Slug::new(&name.platform).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(said: Said, now: At) -> (PermitId, Told) {
        let Said::Told(told) = said else { panic!("{said:?}") };
        told_in(&told, now).unwrap()
    }

    fn key() -> (crate::plan::Plan, BudgetKey) {
        let mut setup = crate::tests::limits(r#"all = { per = ["platform"], max = 5, in = "1s" }"#);
        setup.concurrency = 1;
        let plan = crate::tests::plan(&setup);
        let platform = plan.platforms.values().next().unwrap();
        let account = Account::new("x").unwrap();
        let values = ["p".to_owned()];
        let key = budget_named(platform, "platform=p", &values, &account).unwrap();
        (plan, key)
    }

    #[test]
    fn what_is_told_of_a_permit_reads_back_and_no_time_becomes_earlier_on_the_way() {
        let (plan, key) = key();
        let platform = plan.platforms.values().next().unwrap();
        let sent = At(1 << 50);
        for delay in [0, 7, 1_000_000] {
            // Another clock, and the time that the letter took.
            let taken = At((1 << 40) + delay);
            let there = |at: At| At(at.0 - sent.0 + taken.0);
            let at = sent.minus(Span(500));
            let to_come = sent.plus(Span(30_000_000));
            let of = |told: Told| {
                let word = Word::Told(PermitId(9), told);
                let said = word_out(&key, &word, platform, sent);
                let bytes = v1::BudgetWord { budget: 0, said: Some(said) }.encode_to_vec();
                let said = v1::BudgetWord::decode(&*bytes).unwrap().said.unwrap();
                let (id, told) = read(said, taken);
                assert_eq!(id, PermitId(9));
                told
            };
            assert!(matches!(of(Told::Written(at)), Told::Written(found) if found == there(at)));
            let late = of(Told::Answered(to_come));
            assert!(matches!(late, Told::Answered(found) if found == there(to_come)), "{late:?}");
            let ended = of(Told::Ended(at, Sent::Never));
            assert!(matches!(ended, Told::Ended(found, Sent::Never) if found == there(at)));
            assert!(matches!(of(Told::Unused), Told::Unused));
            assert!(matches!(of(Told::Unwritten), Told::Unwritten));
            assert!(matches!(of(Told::Lost), Told::Lost));
            assert!(matches!(of(Told::Runs), Told::Runs));
            let came = of(Told::Came(Came::of_parts(77, false, true)));
            assert!(matches!(came, Told::Came(came) if came.parts() == (77, false, true)));
        }
    }

    #[test]
    fn the_words_of_before_keep_their_bytes_and_those_to_come_mean_nothing() {
        let lost = Some(ToldOnWire::Lost(true));
        let bytes = v1::BudgetTold { permit: 9, what: lost }.encode_to_vec();
        assert_eq!(bytes, [8, 9, 64, 1]);
        // As this one is for a node of the version before.
        let told = v1::BudgetTold::decode(&[8, 9, 120, 1][..]).unwrap();
        assert!(told.permit == 9 && told_in(&told, At(0)).is_none());
    }

    #[test]
    fn where_nothing_is_said_of_a_cost_the_usual_one_counts_and_no_more_than_there_is() {
        let (_plan, key) = key();
        let cost = |limit: &str, units| v1::BudgetCost {
            limit: limit.to_owned(),
            api: None,
            units,
            is_estimate: false,
        };
        let units = |usual: &[Cost], costs: &[v1::BudgetCost]| {
            let costs = costs_in(key.limits(), usual, costs);
            costs.iter().map(|cost| cost.units).collect::<Vec<_>>()
        };
        let name = &key.limits().limits()[0].name;
        assert!(units(&[], &[]).is_empty());
        assert_eq!(units(&[Cost::of(3)], &[]), [3]);
        assert_eq!(units(&[Cost::of(9)], &[]), [5]);
        assert_eq!(units(&[Cost::of(3)], &[cost("other", 4)]), [3]);
        assert_eq!(units(&[], &[cost("other", 4)]), [1]);
        assert_eq!(units(&[Cost::of(3)], &[cost(name, 2)]), [2]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(letter) = v1::BudgetLetter::decode(&*bytes) {
                for word in letter.words {
                    if let Some(Said::Told(told)) = word.said {
                        told_in(&told, At(0));
                    }
                }
            }
        }
    }
}
