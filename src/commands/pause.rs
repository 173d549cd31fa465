//! `tollgate pause` and `tollgate resume`: operators' holds, kept on NATS.

use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use tollgate_actors::clock::Clock;
use tollgate_actors::holds::{OperatorHold, Scope};
use tollgate_actors::nats::holds;
use tollgate_actors::plan::Plan;

use super::nats::{connect, told};
use super::status::printable;
use super::{Exit, plan};
use crate::cli::{Global, PauseArgs, ResumeArgs};
use crate::ui::{print, say};

pub(crate) fn pause(global: &Global, args: &PauseArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let Some(of) = &args.of else { return show(&plan, args.json) };
    let scope = scope(&plan, of)?;
    if let (Some(account), None) = (&scope.account, &scope.api)
        && let Some((_, last)) = account.as_str().rsplit_once('/')
    {
        let (platform, last) = (&scope.platform, printable(last));
        say(format_args!(
            "tollgate: warning: {platform} has no api `{last}`: the account is meant whose name ends so"
        ));
    }
    let since = Clock::new().wall();
    let until = match &args.within {
        None => None,
        Some(text) => {
            let within: SignedDuration = text
                .parse()
                .with_context(|| format!("`{text}` is no duration; such as 90m or 2h30m"))?;
            if within <= SignedDuration::ZERO {
                bail!("`{text}` is no time to come; such as 90m or 2h30m");
            }
            Some(since.checked_add(within).context("that is too far off")?)
        }
    };
    let hold = OperatorHold { reason: args.reason.clone(), since, until };
    actix_rt::System::new().block_on(async {
        let bus = connect(&plan, "pause").await?;
        holds::put(&bus, &scope, &hold).await.map_err(told)
    })?;
    say(format_args!("{} is held{}", printable(&scope.to_string()), ends(until)));
    Ok(Exit::Done)
}

pub(crate) fn resume(global: &Global, args: &ResumeArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let wanted = args.of.as_deref().map(|of| scope(&plan, of)).transpose()?;
    actix_rt::System::new().block_on(async {
        let bus = connect(&plan, "resume").await?;
        let all = holds::list(&bus).await.map_err(told)?;
        let ending: Vec<Scope> = match &wanted {
            Some(scope) => vec![scope.clone()],
            None => all.keys().cloned().collect(),
        };
        let mut ended = 0;
        for scope in &ending {
            if holds::remove(&bus, scope).await.map_err(told)? {
                ended += 1;
                say(format_args!("{} goes on", printable(&scope.to_string())));
            }
        }
        let Some(wanted) = wanted else {
            say(format_args!("{ended} holds ended"));
            return Ok(Exit::Done);
        };
        // What is wider, or narrower, still holds.
        for scope in all.keys().filter(|scope| **scope != wanted && overlap(scope, &wanted)) {
            say(format_args!("{} is still held", printable(&scope.to_string())));
        }
        if ended == 0 {
            say(format_args!("{} was not held by itself", printable(&wanted.to_string())));
            return Ok(Exit::Failed);
        }
        Ok(Exit::Done)
    })
}

fn overlap(one: &Scope, other: &Scope) -> bool {
    fn fits<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
        one.is_none() || other.is_none() || one == other
    }
    one.platform == other.platform
        && fits(one.account.as_ref(), other.account.as_ref())
        && fits(one.api.as_ref(), other.api.as_ref())
}

fn show(plan: &Plan, json: bool) -> anyhow::Result<Exit> {
    let holds = actix_rt::System::new().block_on(async {
        let bus = connect(plan, "pause").await?;
        holds::list(&bus).await.map_err(told)
    })?;
    let mut holds: Vec<(Scope, OperatorHold)> = holds.into_iter().collect();
    holds.sort_by(|(one, _), (other, _)| one.cmp(other));
    if holds.is_empty() && !json {
        say(format_args!("nothing is held"));
    }
    for (scope, hold) in holds {
        if json {
            let mut line = serde_json::to_value(&hold)?;
            line["of"] = scope.to_string().into();
            print(format_args!("{line}"))?;
            continue;
        }
        let reason = hold.reason.as_deref().map(|reason| format!(": {}", printable(reason)));
        print(format_args!(
            "{}  since {:.0}{}{}",
            printable(&scope.to_string()),
            hold.since,
            ends(hold.until),
            reason.unwrap_or_default()
        ))?;
    }
    Ok(Exit::Done)
}

fn ends(until: Option<Timestamp>) -> String {
    until.map_or_else(|| ", until it is resumed".into(), |until| format!(", until {until:.0}"))
}

fn scope(plan: &Plan, of: &str) -> anyhow::Result<Scope> {
    let has_api = |platform: &_, api: &str| {
        plan.platforms.get(platform).is_some_and(|platform| platform.api(api).is_some())
    };
    let scope = Scope::parse(of, has_api).map_err(anyhow::Error::msg)?;
    if !plan.platforms.contains_key(&scope.platform) {
        bail!("the configuration has no platform `{}`", scope.platform);
    }
    Ok(scope)
}
