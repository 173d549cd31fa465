//! Where questions go: to the nodes and streams on NATS, or to the data folder of `run`.

use std::sync::Arc;

use anyhow::bail;
use tollgate_actors::codes::Code;
use tollgate_actors::control::{Answer, Request};
use tollgate_actors::ledger::nats::NatsView;
use tollgate_actors::nats::{Bus, ask, session};
use tollgate_actors::plan::Plan;
use tollgate_actors::queue::Queue;
use tollgate_actors::queue::nats::NatsQueue;

use super::folder::{Folder, answer_at_rest};
use super::nats::connect;
use crate::ui::say;

/// Asks once.
pub(crate) fn ask_once(plan: Arc<Plan>, local: bool, request: &Request) -> anyhow::Result<Answer> {
    let place = Place::open(plan, local)?;
    let answer = place.ask(request);
    place.close();
    answer
}

/// What can be asked several things.
pub(crate) struct Place {
    runtime: actix_rt::SystemRunner,
    at: At,
}

enum At {
    Folder(Folder),
    Nats(Box<Cluster>),
}

struct Cluster {
    plan: Arc<Plan>,
    bus: Bus,
    queue: Arc<dyn Queue>,
}

impl Place {
    /// NATS where the configuration has a section for it, unless `local`; else the data folder.
    pub(crate) fn open(plan: Arc<Plan>, local: bool) -> anyhow::Result<Self> {
        let runtime = actix_rt::System::new();
        let at = runtime.block_on(async {
            anyhow::Ok(if plan.nats.declared && !local {
                At::Nats(Box::new(Cluster::open(plan).await?))
            } else {
                At::Folder(Folder::open(plan).await?)
            })
        })?;
        Ok(Self { runtime, at })
    }

    pub(crate) fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        let answer = self.runtime.block_on(async {
            match &self.at {
                At::Folder(folder) => folder.ask(request).await,
                At::Nats(cluster) => cluster.ask(request).await,
            }
        })?;
        match answer {
            Answer::Failed { code, reason } if code.is_empty() => bail!("{reason}"),
            Answer::Failed { code, reason } => bail!("{code}: {reason}"),
            answer => Ok(answer),
        }
    }

    /// Which command collects what is put back, if none is running.
    pub(crate) fn collected_by(&self) -> Option<&'static str> {
        match &self.at {
            At::Folder(folder) => folder.is_at_rest().then_some("tollgate run"),
            At::Nats(_) => None,
        }
    }

    pub(crate) fn close(self) {
        if let At::Folder(folder) = self.at {
            self.runtime.block_on(folder.close());
        }
    }
}

impl Cluster {
    async fn open(plan: Arc<Plan>) -> anyhow::Result<Self> {
        let bus = connect(&plan, "question").await?;
        let queue = Arc::new(NatsQueue::view(&bus).await?);
        Ok(Self { plan, bus, queue })
    }

    async fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        if let Request::Status { most, .. } = request {
            let living = session::living(&self.bus).await?;
            if living > 0 {
                let answers = ask::ask(&self.bus, request, living).await;
                if let Some(status) = ask::together(answers, *most) {
                    return Ok(Answer::Status(status));
                }
                say(format_args!(
                    "tollgate: {}: {living} node(s) show themselves and none answered in time; what \
                     follows is from the streams",
                    Code::NoNodeAnswers
                ));
            }
        }
        let ledger = NatsView::open(&self.bus).await?;
        answer_at_rest(&self.plan, Arc::clone(&self.queue), &ledger, request).await
    }
}
