//! What people look at: all accounts together, platforms, pages of accounts, one account.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tollgate_actors::config::{PlatformOutline, outline};
use tollgate_actors::view::{AccountsPage, AccountsQuestion, Overview, PAGE_MAX, PlatformView};

use super::super::Front;
use super::super::problem::Problem;
use super::counter::Counter;
use super::query;
use super::questions::Nothing;

/// Longest part of a name that is searched for, in characters.
const SEARCH_CHARS_MAX: usize = 256;

type Answered = Result<Response, Problem>;

/// An answer, and how many nodes are not in it.
#[derive(Debug, Serialize)]
pub(super) struct Told<T> {
    #[serde(flatten)]
    told: T,
    /// Nodes of the cluster that show themselves and did not answer; nothing where NATS does not say who there is.
    silent: Option<usize>,
}

/// What all accounts come to.
pub(super) async fn look_over(counter: &Counter) -> Result<Told<Overview>, Problem> {
    let (told, silent) = counter.overview().await?;
    Ok(Told { told, silent })
}

pub(super) async fn overview(State(front): State<Front>, uri: Uri) -> Answered {
    let Nothing {} = query(&uri)?;
    front.desks.answer(look_over).await
}

#[derive(Serialize)]
struct Platforms {
    platforms: Vec<PlatformNow>,
}

/// A platform as it is declared, and how it fares.
#[derive(Serialize)]
struct PlatformNow {
    #[serde(flatten)]
    outline: PlatformOutline,
    now: PlatformView,
}

pub(super) async fn platforms(State(front): State<Front>, uri: Uri) -> Answered {
    let Nothing {} = query(&uri)?;
    let listing = async |counter: &Counter| {
        let (Overview { platforms: mut views, .. }, silent) = counter.overview().await?;
        let of_each = outline(&counter.plan()).into_iter().map(|outline| {
            let place = views.iter().position(|view| view.platform == outline.name);
            let nothing =
                || PlatformView { platform: outline.name.clone(), ..PlatformView::default() };
            let now = place.map_or_else(nothing, |place| views.swap_remove(place));
            PlatformNow { outline, now }
        });
        Ok(Told { told: Platforms { platforms: of_each.collect() }, silent })
    };
    front.desks.answer(listing).await
}

pub(super) async fn accounts(State(front): State<Front>, uri: Uri) -> Answered {
    let question: AccountsQuestion = query(&uri)?;
    if question.most.is_some_and(|most| !(1..=PAGE_MAX).contains(&most)) {
        return Err(Problem::question(format!("`most` is between 1 and {PAGE_MAX}")));
    }
    if question.search.as_ref().is_some_and(|search| search.chars().count() > SEARCH_CHARS_MAX) {
        return Err(Problem::question(format!(
            "`search` has at most {SEARCH_CHARS_MAX} characters"
        )));
    }
    let listing = async |counter: &Counter| -> Result<Told<AccountsPage>, Problem> {
        let (told, silent) = counter.accounts(&question).await?;
        Ok(Told { told, silent })
    };
    front.desks.answer(listing).await
}

pub(super) async fn account(
    State(front): State<Front>,
    uri: Uri,
    told: Result<Path<(String, String)>, PathRejection>,
) -> Answered {
    let Nothing {} = query(&uri)?;
    let not_text = |_| Problem::question("the names in the path are no UTF-8");
    let Path((platform, account)) = told.map_err(not_text)?;
    show(&front, &platform, &account).await
}

/// Whom to show.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whom {
    platform: String,
    account: String,
}

/// The same for every name: browsers and proxies take `.` and `..` out of paths, however they are encoded.
pub(super) async fn account_by_query(State(front): State<Front>, uri: Uri) -> Answered {
    let Whom { platform, account } = query(&uri)?;
    show(&front, &platform, &account).await
}

async fn show(front: &Front, platform: &str, account: &str) -> Answered {
    let showing = async |counter: &Counter| {
        let (view, silent) = counter.account(platform, account).await?;
        match view {
            Some(view) => Ok(view),
            None if silent.is_none() => Err(Problem::not_now(
                "NATS does not say which nodes there are, and the account may be another's",
            )),
            None if silent.is_some_and(|silent| silent > 0) => Err(Problem::not_now(format!(
                "{} node(s) do not answer, and the account may be one of theirs",
                silent.unwrap_or_default()
            ))),
            None => Err(Problem::nothing(format!(
                "nothing is known of {platform}/{account}: nothing waits there, and its limits remember no call"
            ))),
        }
    };
    front.desks.answer(showing).await
}
