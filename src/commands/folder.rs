//! A data folder: its running node if it has one, else the folder itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};
use tollgate_actors::clock::Clock;
use tollgate_actors::codes::Code;
use tollgate_actors::control::{self, Answer, Request, Status};
use tollgate_actors::ids::{Account, AccountKey, Slug};
use tollgate_actors::ledger::Ledger;
use tollgate_actors::ledger::embedded::EmbeddedLedger;
use tollgate_actors::node::Intake;
use tollgate_actors::plan::Plan;
use tollgate_actors::queue::Queue;
use tollgate_actors::queue::embedded::EmbeddedQueue;
use tollgate_actors::state::{Options, State, StateError};
use tollgate_actors::status;

use super::shown;

/// What a node may take from its start until it answers; it reads what waits first.
const OPENING_MAX: Duration = Duration::from_secs(10);
/// What a question may take of a folder at rest, before a node that starts calls it in use.
const QUESTION_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Opens the state folder to work on it, or says with a code why not. Somebody who only asks something has
/// it for a moment; that is waited for, another node is not.
pub(crate) async fn open_state(plan: &Plan) -> anyhow::Result<State> {
    let path = plan.state();
    let until = Instant::now() + QUESTION_MAX;
    loop {
        match State::open(&path, Options { fsync: plan.store.fsync }) {
            Err(StateError::Locked { .. })
                if Instant::now() < until && !is_answered(&path).await =>
            {
                sleep(LOOK_AGAIN).await;
            }
            opened => return opened.map_err(with_code),
        }
    }
}

/// Whether a node works on a state folder and answers.
async fn is_answered(state: &Path) -> bool {
    let least = Request::Status { platform: None, account: None, most: 0 };
    matches!(control::ask(state, &least).await, Ok(Some(_)))
}

pub(crate) fn with_code(error: StateError) -> anyhow::Error {
    let code = error.code();
    anyhow::Error::from(error).context(code)
}

/// A data folder that can be asked several things: its running node if it has one, else the folder itself.
pub(super) struct Folder {
    plan: Arc<Plan>,
    /// Nothing while a node works on it: then the node is asked.
    state: Option<State>,
}

impl Folder {
    pub(super) async fn open(plan: Arc<Plan>) -> anyhow::Result<Self> {
        let path = plan.state();
        if !path.exists() {
            bail!("{} holds nothing yet: `tollgate run` has not been here", shown(&plan.data));
        }
        let until = Instant::now() + OPENING_MAX;
        let state = loop {
            if is_answered(&path).await {
                break None;
            }
            match State::open(&path, Options::default()) {
                // Another question, or a node that does not listen yet.
                Err(StateError::Locked { .. }) if Instant::now() < until => {
                    sleep(LOOK_AGAIN).await;
                }
                opened => break Some(opened.map_err(with_code)?),
            }
        };
        Ok(Self { plan, state })
    }

    pub(super) async fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        match &self.state {
            None => {
                let answer = control::ask(&self.plan.state(), request).await;
                let answer = answer.context("ask the running node")?;
                answer.context("the running node has just ended; ask again")
            }
            Some(state) => at_rest(&self.plan, state, request).await,
        }
    }

    /// Whether nobody works on it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.state.is_some()
    }

    pub(super) async fn close(self) {
        if let Some(state) = self.state {
            state.close().await;
        }
    }
}

async fn at_rest(plan: &Plan, state: &State, request: &Request) -> anyhow::Result<Answer> {
    let queue: Arc<dyn Queue> = Arc::new(EmbeddedQueue::new(state));
    let ledger = EmbeddedLedger::new(state);
    answer_at_rest(plan, queue, &ledger, request).await
}

/// The answer from a queue and a ledger that no node works on.
pub(super) async fn answer_at_rest(
    plan: &Plan,
    queue: Arc<dyn Queue>,
    ledger: &dyn Ledger,
    request: &Request,
) -> anyhow::Result<Answer> {
    Ok(match request {
        Request::Status { platform, account, most } => {
            let (platform, account) = (platform.as_deref(), account.as_deref());
            let clock = Clock::new();
            let status =
                status::at_rest(plan, &*queue, ledger, &clock, platform, account, *most).await?;
            Answer::Status(Status { running: false, ..status })
        }
        Request::Account { platform, account } => {
            let key = Slug::new(platform)
                .and_then(|platform| Ok(AccountKey { platform, account: Account::new(account)? }));
            let key = key.map_err(anyhow::Error::msg)?;
            let clock = Clock::new();
            let view = status::account_at_rest(plan, &*queue, ledger, &clock, &key).await?;
            Answer::Account(view.map(Box::new))
        }
        Request::Accounts(question) => {
            let clock = Clock::new();
            let page = status::accounts_at_rest(plan, &*queue, ledger, &clock, question).await?;
            Answer::Accounts(page.map_err(anyhow::Error::msg)?)
        }
        Request::Overview => {
            let overview = status::overview_at_rest(plan, &*queue, &Clock::new()).await?;
            Answer::Overview(Box::new(overview))
        }
        // Nobody who could say.
        Request::Doctor { .. } => Answer::Failed {
            code: Code::NoNodeAnswers.to_string(),
            reason: "no node is running, so nothing can be said of one".into(),
        },
        Request::Dead { after, most } => control::dead(&*queue, *after, *most).await,
        Request::Revive { seq, replay } => {
            control::revive(plan, &Intake::alone(queue), *seq, *replay).await
        }
        Request::LogLevel { .. } => bail!("no node is at work here: there is nothing to log"),
    })
}
