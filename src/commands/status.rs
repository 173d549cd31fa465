//! `tollgate status`: what waits, for what and until when.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use serde::Serialize;
use tollgate_actors::clock::Clock;
use tollgate_actors::cluster::{PARTITIONS, Parts};
use tollgate_actors::codes::Code;
use tollgate_actors::control::{Answer, Request, Status};
use tollgate_actors::forecast::shown as span;
use tollgate_actors::view::{AccountView, Eta};

use super::place::Place;
use super::{Exit, plan};
use crate::cli::{Global, StatusArgs};
use crate::ui::{number, print, say};

pub(crate) mod account;

pub(crate) fn run(global: &Global, args: &StatusArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let (platform, account) = match args.of.as_deref().map(|of| of.split_once('/')) {
        None => (None, None),
        Some(None) => (args.of.clone(), None),
        Some(Some((platform, account))) => (Some(platform.to_owned()), Some(account.to_owned())),
    };
    if let Some(name) = &platform
        && !plan.platforms.keys().any(|known| known.as_str() == name)
    {
        bail!("the configuration has no platform `{name}`");
    }
    let one = match (&platform, &account) {
        (Some(platform), Some(account)) => {
            let (platform, account) = (platform.clone(), account.clone());
            Some(Request::Account { platform, account })
        }
        _ => None,
    };
    let request = Request::Status { platform, account, most: args.most };
    let place = Place::open(Arc::new(plan), args.local)?;
    let told = ask(&place, &request, one.as_ref());
    place.close();
    let told = told?;
    if args.json {
        print(format_args!("{}", serde_json::to_string(&told)?))?;
    } else {
        show(&told.status)?;
        if let Some(view) = &told.account {
            account::show(view)?;
        }
    }
    Ok(Exit::Done)
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    status: Status,
    /// Of one account that was asked for, if anything is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<Box<AccountView>>,
}

fn ask(place: &Place, request: &Request, one: Option<&Request>) -> anyhow::Result<Told> {
    let Answer::Status(status) = place.ask(request)? else {
        bail!("the running node gave another answer: is it of another version?");
    };
    let Some(one) = one else { return Ok(Told { status, account: None }) };
    let account = match place.ask(one) {
        Ok(Answer::Account(view)) => view,
        Ok(_) => None,
        // What waits was told, which an older node can do too.
        Err(error) => {
            say(format_args!("tollgate: what holds the account is not told: {error:#}"));
            None
        }
    };
    if account.is_none() && place.silent() > 0 {
        say(format_args!(
            "tollgate: {}: {} node(s) show themselves and do not say what they know of the account: \
             they do not answer, or are of an earlier version",
            Code::NoNodeAnswers,
            place.silent()
        ));
    }
    Ok(Told { status, account })
}

fn show(status: &Status) -> std::io::Result<()> {
    let state = if status.running { "running" } else { "not running" };
    let now = Clock::new().wall();
    print(format_args!(
        "{state}: {} fetches wait, {} in flight, {} put aside until their not_before",
        number(status.waiting),
        number(status.in_flight),
        status.postponed.map_or_else(|| "?".to_owned(), number)
    ))?;
    if let Some(eta) = status.eta.as_ref().filter(|_| status.waiting > 0) {
        print(format_args!("all of it is done {}", eta_in_words(eta, now)))?;
    }
    if let Some(fetches) = status.without_eta.filter(|fetches| *fetches > 0 && status.waiting > 0) {
        let fetches = number(fetches.min(status.waiting));
        print(format_args!(
            "when {fetches} of them are done is not known: held without an end, or not told"
        ))?;
    }
    for held in &status.partitions {
        let parts: Parts = held.partitions.iter().copied().collect();
        let node = printable(&held.node);
        let guests = match held.guests {
            0 => String::new(),
            count => format!("; makes {} calls for other nodes", number(count)),
        };
        let count = parts.len();
        print(format_args!("{node} holds {count} of {PARTITIONS} partitions: {parts}{guests}"))?;
    }
    let first = status.configs.first();
    if status.configs.iter().any(|one| first.is_none_or(|first| first.config != one.config)) {
        for one in &status.configs {
            print(format_args!("{} has limits {}", printable(&one.node), printable(&one.config)))?;
        }
        print(format_args!(
            "warning: nodes have different limits; until they agree every limit of all of them applies"
        ))?;
    }
    if status.accounts.is_empty() {
        return Ok(());
    }
    print(format_args!(
        "{:>10} {:>9} {:>10}  {:<32} WAITS FOR",
        "WAITING", "IN FLIGHT", "DONE IN", "ACCOUNT"
    ))?;
    for look in &status.accounts {
        let name = format!("{}/{}", look.platform, printable(&look.account));
        let because = look.because.as_deref().map_or_else(|| "nothing".into(), printable);
        let until = look.until.map_or_else(String::new, |until| format!(", until {until:.3}"));
        let done = look.eta.as_ref().map_or_else(|| "-".into(), |eta| done_in(eta, now));
        print(format_args!(
            "{:>10} {:>9} {done:>10}  {name:<32} {because}{until}",
            number(look.waiting),
            look.in_flight
        ))?;
    }
    Ok(())
}

/// How long it takes from now on: `~2h 10m` where that is an estimate.
pub(crate) fn done_in(eta: &Eta, now: Timestamp) -> String {
    let about = if eta.about { "~" } else { "" };
    format!("{about}{}", span(left(eta.at, now)))
}

/// `about 14:05:00 on …, in 2h 10m; hourly holds it most`.
fn eta_in_words(eta: &Eta, now: Timestamp) -> String {
    let about = if eta.about { "about " } else { "" };
    let by = match &eta.by {
        Some(by) => format!("; {} holds it longest", printable(by)),
        None => String::new(),
    };
    format!("{about}at {:.0}, in {}{by}", eta.at, span(left(eta.at, now)))
}

/// From now until then; nothing of what is over.
pub(crate) fn left(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// A name that may hold anything, without what a terminal would act on.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
