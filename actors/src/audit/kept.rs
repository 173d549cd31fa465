//! The proof from a data folder: the charges that its records keep lie within the limits of now.
//!
//! A record keeps what its longest window needs, so this shows the last window of each account and no more.
//! The stored form is the gate's and is read by it; the counting is done here.

use tollgate_gate::{At, Ledger as GateLedger, LimitSet, Rule as Declared, Span};

use super::counter::{Error, Ns, Rule};
use super::limits::Limit;
use super::proof::{Entry, Proof};
use super::report::{self, Report, Seen};
use super::{AuditError, Names, asked};
use crate::codes::Code;
use crate::ids::{AccountKey, Slug, preview};
use crate::ledger::Ledger;
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::record::Record;
use crate::plan::{Plan, Platform};
use crate::recipe::budget_of_record;
use crate::state::State;

/// Records looked at in one step.
const PAGE: usize = 1_024;
/// Where the charges of a record are put on a timeline; only their distances matter.
const NOW: At = At(1 << 50);

/// Counts the charges in every record of a state folder that nobody works on.
///
/// # Errors
/// There is no such platform or limit, or the folder cannot be read.
pub async fn ledger(
    plan: &Plan,
    state: &State,
    platform: Option<&str>,
    only: &[String],
) -> Result<Report, AuditError> {
    if let Some(name) = platform
        && !plan.platforms.keys().any(|known| known.as_str() == name)
    {
        return Err(asked(format!("the configuration has no platform `{}`", preview(name))));
    }
    let ledger = EmbeddedLedger::new(state);
    let platforms: Vec<&Platform> = plan
        .platforms
        .values()
        .map(AsRef::as_ref)
        .filter(|of| platform.is_none_or(|name| name == of.name.as_str()))
        .collect();
    let mut limits: Vec<Limit> = Vec::new();
    let mut places: Vec<(usize, Option<usize>, usize)> = Vec::new();
    for (place, platform) in platforms.iter().enumerate() {
        let wide = platform.budgets.iter().enumerate();
        let wide = wide.map(|(number, budget)| (Some(number), &budget.counted.limits));
        let sets = std::iter::once((None, &platform.limits)).chain(wide);
        let all = sets.flat_map(|(budget, set)| {
            set.limits().iter().enumerate().map(move |(index, limit)| (budget, index, limit))
        });
        for (budget, index, limit) in all {
            let api = limit.api.and_then(|api| platform.apis.get(usize::from(api)));
            let api = api.map(|api| api.name.to_string());
            let own = api.as_ref().map_or_else(String::new, |api| format!("{api}."));
            let name = format!("{}.{own}{}", platform.name, limit.name);
            let of_platform = name.split_once('.').map_or("", |(_, name)| name);
            if only.is_empty() || only.iter().any(|only| *only == name || only == of_platform) {
                let (per_account, per_api) = (true, limit.per_api);
                let varies = budget.is_some_and(|budget| {
                    let special = &platform.budgets[budget].special;
                    let own = special.values.values().chain(special.tiers.values());
                    let rule = |set: &LimitSet| set.limits().get(index).map(|limit| limit.rule);
                    own.map(|own| rule(&own.limits)).any(|rule| rule != Some(limit.rule))
                });
                let rule = if varies {
                    Err("its number is another one for some values of its key, or some tiers"
                        .into())
                } else {
                    counted(limit.rule)
                };
                limits.push(Limit { name, api, only: Vec::new(), per_account, per_api, rule });
                places.push((place, budget, index));
            }
        }
    }
    if limits.is_empty() {
        return Err(asked("there is no limit to prove".into()));
    }
    let mut names = Names::default();
    let mut proof = Proof::new(&limits);
    proof.stamps(1_000, Error::default());
    let mut seen = Seen {
        platform: platform.map(str::to_owned),
        lines: 0,
        stepped_over: 0,
        unreadable: 0,
        told: Vec::new(),
        permits: false,
        logs: vec!["record".into()],
        names: Vec::new(),
    };
    let away = |error: &dyn std::fmt::Display| AuditError::Asked {
        code: Code::LedgerUnavailable,
        reason: format!("the folder's records cannot be read: {error}"),
    };
    let mut after = None;
    loop {
        let page = ledger.accounts(after, PAGE).await.map_err(|error| away(&error))?;
        let Some(last) = page.last().cloned() else { break };
        for key in page {
            let Some(account) = owner_of(&key) else {
                seen.stepped_over += 1;
                continue;
            };
            let own = |of: &&Platform| of.name == account.platform;
            let budgets = |of: &&Platform| Slug::of_budgets(&of.name) == account.platform;
            let mut found = platforms.iter().enumerate();
            let Some((place, of)) = found.find(|(_, of)| own(of) || budgets(of)) else {
                seen.stepped_over += 1;
                continue;
            };
            seen.lines += 1;
            let budget = if own(of) {
                None
            } else {
                let number = budget_of_record(of, account.account.as_str());
                if number.is_none() {
                    seen.unreadable += 1;
                    if seen.told.len() < super::TOLD_MAX {
                        let why = "a budget that is not declared any more, or whose name was cut";
                        seen.told.push(format!("{account}: {why}"));
                    }
                    continue;
                }
                number
            };
            let set = budget.map_or(&of.limits, |number| &of.budgets[number].counted.limits);
            let stored = ledger.load(account.clone()).await.map_err(|error| away(&error))?;
            let Some(stored) = stored else { continue };
            let since = NOW.minus(Span::from(stored.age));
            let read = Record::decode(&stored.record).map_err(|error| error.to_string()).and_then(
                |record| GateLedger::decode(set, &record.gate, since).map_err(|e| e.to_string()),
            );
            let (gate, _) = match read {
                Ok(read) => read,
                Err(why) => {
                    seen.unreadable += 1;
                    if seen.told.len() < super::TOLD_MAX {
                        seen.told.push(format!("{account}: {why}"));
                    }
                    continue;
                }
            };
            let line = seen.lines;
            let account = Some(names.number(&account.to_string())?);
            for (limit, bucket, at, calls) in gate.charged() {
                let of_limit = (place, budget, limit);
                let Some(counted) = places.iter().position(|of| *of == of_limit) else {
                    continue;
                };
                let api = bucket.and_then(|api| of.apis.get(usize::from(api)));
                let api = api.map(|api| names.number(api.name.as_str())).transpose()?;
                let at = at.0.saturating_mul(1_000) as Ns;
                let call = Entry { at, line, end: None, account, api };
                // As many as matter: one more than is allowed is enough to see it.
                let most = match &limits[counted].rule {
                    Ok(Rule::Window { max, .. }) => u64::from(calls).min(max.saturating_add(1)),
                    _ => 1,
                };
                for _ in 0..most {
                    proof.count_one(&limits, counted, &call);
                }
                proof.calls += u64::from(calls);
            }
        }
        after = Some(last);
    }
    seen.names = names.texts;
    Ok(report::of(&limits, proof, seen))
}

/// Whose a record is: an account's, or a budget's, whose platform has a name that no platform has.
fn owner_of(key: &str) -> Option<AccountKey> {
    let budget = || {
        let own = AccountKey::parse(key.strip_prefix('_')?).ok()?;
        Some(AccountKey { platform: Slug::of_budgets(&own.platform), ..own })
    };
    AccountKey::parse(key).ok().or_else(budget)
}

/// The rule as it is counted here.
fn counted(rule: Declared) -> Result<Rule, String> {
    let ns = |span: Span| Ns::try_from(span.0.saturating_mul(1_000)).unwrap_or(Ns::MAX);
    if let Declared::Every { gap } = rule {
        return Ok(Rule::Window { max: 1, window: ns(gap) });
    }
    if let Declared::Sliding { max, window } = rule {
        return Ok(Rule::Window { max: u64::from(max.get()), window: ns(window) });
    }
    Err("records do not keep calls of this kind of limit one by one".into())
}
