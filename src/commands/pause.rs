//! `tollgate pause` and `tollgate resume`: operators' holds, kept on NATS.

use anyhow::bail;
use jiff::Timestamp;
use tollgate_actors::clock::Clock;
use tollgate_actors::holds::{OperatorHold, Scope};
use tollgate_actors::nats::service::{
    Endpoint, Heard, Held, PauseQuestion, Paused, ResumeQuestion, Resumed,
};
use tollgate_actors::nats::{Bus, holds, service};
use tollgate_actors::plan::Plan;

use super::nats::{connect, told, with_rights};
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
    let until = service::until(since, args.within.as_deref()).map_err(anyhow::Error::msg)?;
    let hold = OperatorHold { reason: args.reason.clone(), since, until };
    let question = PauseQuestion {
        key: Some(scope.key()),
        reason: args.reason.clone(),
        within: args.within.clone(),
        ..PauseQuestion::default()
    };
    actix_rt::System::new().block_on(async {
        let bus = connect(&plan, "pause").await?;
        let setting = async {
            match node_or(service::ask_one::<Paused>(&bus, Endpoint::Pause, &question).await)? {
                Some(_) => Ok(()),
                // Setting it again does no harm.
                None => holds::put(&bus, &scope, &hold).await.map_err(told),
            }
        };
        with_rights(&bus, setting).await
    })?;
    say(format_args!("{} is held{}", printable(&scope.to_string()), ends(until)));
    Ok(Exit::Done)
}

pub(crate) fn resume(global: &Global, args: &ResumeArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let wanted = args.of.as_deref().map(|of| scope(&plan, of)).transpose()?;
    let question =
        ResumeQuestion { key: wanted.as_ref().map(Scope::key), ..ResumeQuestion::default() };
    let Resumed { ended, still } = actix_rt::System::new().block_on(async {
        let bus = connect(&plan, "resume").await?;
        let ending = async {
            match node_or(service::ask_one(&bus, Endpoint::Resume, &question).await)? {
                Some(resumed) => Ok(resumed),
                None => service::resume(&bus, wanted.as_ref()).await.map_err(told),
            }
        };
        with_rights(&bus, ending).await
    })?;
    for of in &ended {
        say(format_args!("{} goes on", printable(of)));
    }
    let Some(wanted) = wanted else {
        say(format_args!("{} holds ended", ended.len()));
        return Ok(Exit::Done);
    };
    // What is wider, or narrower, still holds.
    for of in &still {
        say(format_args!("{} is still held", printable(of)));
    }
    if ended.is_empty() {
        say(format_args!("{} was not held by itself", printable(&wanted.to_string())));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

/// Holds a scope, or ends its hold, over a connection that is there; says what became of it.
pub(super) async fn hold(bus: &Bus, scope: &Scope, hold: bool) -> anyhow::Result<String> {
    let of = printable(&scope.to_string());
    if !hold {
        let question = ResumeQuestion { key: Some(scope.key()), ..ResumeQuestion::default() };
        let Resumed { ended, still } =
            match node_or(service::ask_one(bus, Endpoint::Resume, &question).await)? {
                Some(resumed) => resumed,
                None => service::resume(bus, Some(scope)).await.map_err(told)?,
            };
        return Ok(match (ended.is_empty(), still.first()) {
            (_, Some(still)) => format!("{} is still held", printable(still)),
            (true, None) => format!("{of} was not held"),
            (false, None) => format!("{of} goes on"),
        });
    }
    let question = PauseQuestion { key: Some(scope.key()), ..PauseQuestion::default() };
    if node_or(service::ask_one::<Paused>(bus, Endpoint::Pause, &question).await)?.is_none() {
        let since = Clock::new().wall();
        let hold = OperatorHold { reason: None, since, until: None };
        holds::put(bus, scope, &hold).await.map_err(told)?;
    }
    Ok(format!("{of} is held until it is resumed"))
}

/// A node's answer; nothing where none answers: then the bucket itself is asked.
fn node_or<T>(heard: Heard<T>) -> anyhow::Result<Option<T>> {
    match heard {
        Heard::Answered(answer) => Ok(Some(answer)),
        Heard::Refused(reason) => bail!("{reason}"),
        Heard::NoNode | Heard::Silent => Ok(None),
    }
}

fn show(plan: &Plan, json: bool) -> anyhow::Result<Exit> {
    let Paused { held } = actix_rt::System::new().block_on(async {
        let bus = connect(plan, "pause").await?;
        let (question, told_by) = (PauseQuestion::default(), Endpoint::Pause);
        let reading = async {
            match node_or(service::ask_one(&bus, told_by, &question).await)? {
                Some(paused) => Ok(paused),
                None => service::told(&bus).await.map_err(told),
            }
        };
        with_rights(&bus, reading).await
    })?;
    if held.is_empty() && !json {
        say(format_args!("nothing is held"));
    }
    for Held { of, hold, .. } in held {
        if json {
            let mut line = serde_json::to_value(&hold)?;
            line["of"] = of.into();
            print(format_args!("{line}"))?;
            continue;
        }
        let reason = hold.reason.as_deref().map(|reason| format!(": {}", printable(reason)));
        print(format_args!(
            "{}  since {:.0}{}{}",
            printable(&of),
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
    let scope = service::scope(plan, of).map_err(anyhow::Error::msg)?;
    if !plan.platforms.contains_key(&scope.platform) {
        bail!("the configuration has no platform `{}`", scope.platform);
    }
    Ok(scope)
}
