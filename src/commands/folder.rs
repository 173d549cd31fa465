//! A data folder: its running node if it has one, else the folder itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};
use tollgate_actors::clock::Clock;
use tollgate_actors::control::{self, Answer, Request, Status};
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

/// Asks once: whoever works on the folder, or the folder.
pub(crate) fn ask(plan: &Arc<Plan>, request: &Request) -> anyhow::Result<Answer> {
    let mut folder = Folder::open(Arc::clone(plan))?;
    let answer = folder.ask(request);
    folder.close();
    answer
}

/// A data folder that can be asked several things.
pub(crate) struct Folder {
    runtime: actix_rt::SystemRunner,
    plan: Arc<Plan>,
    /// Nothing while a node works on it: then the node is asked.
    state: Option<State>,
}

impl Folder {
    pub(crate) fn open(plan: Arc<Plan>) -> anyhow::Result<Self> {
        let runtime = actix_rt::System::new();
        let path = plan.state();
        if !path.exists() {
            bail!("{} holds nothing yet: `tollgate run` has not been here", shown(&plan.data));
        }
        let opening = async {
            let until = Instant::now() + OPENING_MAX;
            while !is_answered(&path).await {
                match State::open(&path, Options::default()) {
                    // Another question, or a node that does not listen yet.
                    Err(StateError::Locked { .. }) if Instant::now() < until => {
                        sleep(LOOK_AGAIN).await;
                    }
                    opened => return opened.map(Some).map_err(with_code),
                }
            }
            Ok(None)
        };
        let state = runtime.block_on(opening)?;
        Ok(Self { runtime, plan, state })
    }

    pub(crate) fn ask(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let answer = match &self.state {
            None => {
                let path = self.plan.state();
                let answer = control::ask(&path, request);
                let answer = self.runtime.block_on(answer).context("ask the running node")?;
                answer.context("the running node has just ended; ask again")?
            }
            Some(state) => self.runtime.block_on(at_rest(&self.plan, state, request))?,
        };
        match answer {
            Answer::Failed { code, reason } if code.is_empty() => bail!("{reason}"),
            Answer::Failed { code, reason } => bail!("{code}: {reason}"),
            answer => Ok(answer),
        }
    }

    /// Whether nobody works on it.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.state.is_some()
    }

    pub(crate) fn close(self) {
        if let Some(state) = self.state {
            self.runtime.block_on(state.close());
        }
    }
}

async fn at_rest(plan: &Plan, state: &State, request: &Request) -> anyhow::Result<Answer> {
    let queue: Arc<dyn Queue> = Arc::new(EmbeddedQueue::new(state));
    Ok(match request {
        Request::Status { platform, account, most } => {
            let ledger = EmbeddedLedger::new(state);
            let (platform, account) = (platform.as_deref(), account.as_deref());
            let clock = Clock::new();
            let status =
                status::at_rest(plan, &*queue, &ledger, &clock, platform, account, *most).await?;
            Answer::Status(Status { running: false, ..status })
        }
        Request::Dead { after, most } => control::dead(&*queue, *after, *most).await,
        Request::Revive { seq, replay } => {
            control::revive(plan, &Intake::alone(queue), *seq, *replay).await
        }
    })
}
