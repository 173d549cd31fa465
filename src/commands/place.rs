//! Where questions go: to the nodes and streams on NATS, or to the data folder of `run`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::bail;
use serde::Serialize;
use tokio::sync::OnceCell;
use tollgate_actors::codes::Code;
use tollgate_actors::control::{Answer, Request};
use tollgate_actors::doctor::Evidence;
use tollgate_actors::holds::Scope;
use tollgate_actors::ledger::nats::NatsView;
use tollgate_actors::nats::ask::NodeAnswer;
use tollgate_actors::nats::service::{
    AccountQuestion, DeadQuestion, DoctorQuestion, Endpoint, Heard, OverviewQuestion,
    StatusQuestion,
};
use tollgate_actors::nats::{Bus, ask, service, session};
use tollgate_actors::plan::Plan;
use tollgate_actors::queue::Queue;
use tollgate_actors::queue::nats::NatsQueue;
use tollgate_actors::view::{Overview, list};

use super::folder::{Folder, answer_at_rest};
use super::nats::{connect, with_rights};
use super::pause;
use crate::ui::say;

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
    /// Nodes that did not answer the last question about accounts.
    silent: AtomicUsize,
    /// Opened when it is needed: while nodes answer, it takes more rights than an operator has.
    queue: OnceCell<Arc<dyn Queue>>,
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

    /// What each running node says of what holds it back.
    pub(crate) fn examine(&self, request: &Request) -> anyhow::Result<Vec<Evidence>> {
        if let At::Nats(cluster) = &self.at {
            return self.runtime.block_on(with_rights(&cluster.bus, cluster.examine(request)));
        }
        match self.ask(request)? {
            Answer::Doctor(evidence) => Ok(vec![*evidence]),
            _ => bail!("the running node gave another answer: is it of another version?"),
        }
    }

    /// Holds a scope, or ends its hold; says what became of it.
    pub(crate) fn hold(&self, scope: &Scope, hold: bool) -> anyhow::Result<String> {
        match &self.at {
            At::Folder(_) => bail!("a hold is kept on NATS, and `run` goes without: see `pause`"),
            At::Nats(cluster) => {
                let bus = &cluster.bus;
                self.runtime.block_on(with_rights(bus, pause::hold(bus, scope, hold)))
            }
        }
    }

    /// How many nodes show themselves and did not answer the last question about accounts: they are away, or of a version
    /// that does not know it.
    pub(crate) fn silent(&self) -> usize {
        match &self.at {
            At::Folder(_) => 0,
            At::Nats(cluster) => cluster.silent.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn is_folder(&self) -> bool {
        matches!(self.at, At::Folder(_))
    }

    /// Whether it is a folder that nobody works on.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(&self.at, At::Folder(folder) if folder.is_at_rest())
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
        Ok(Self { plan, bus, silent: AtomicUsize::new(0), queue: OnceCell::new() })
    }

    async fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        with_rights(&self.bus, async {
            match self.ask_nodes(request).await? {
                Some(answer) => Ok(answer),
                None => self.ask_streams(request).await,
            }
        })
        .await
    }

    /// What nodes answer; nothing if there is none, or none that answers.
    async fn ask_nodes(&self, request: &Request) -> anyhow::Result<Option<Answer>> {
        let question = match request {
            Request::Status { platform, account, most } => {
                let (platform, account) = (platform.clone(), account.clone());
                let question = StatusQuestion { platform, account, most: Some(*most) };
                return self.ask_all(&question, *most).await;
            }
            Request::Account { platform, account } => {
                let (platform, account) = (platform.clone(), account.clone());
                let question = AccountQuestion { platform, account };
                let answers = self.look(Endpoint::Account, &question).await?;
                let found = answers.into_iter().find_map(|(_, answer)| match answer {
                    Answer::Account(Some(view)) => Some(view),
                    _ => None,
                });
                // One that no node has in memory may have a record, and be of a node that did not answer.
                return Ok(found.map(|view| Answer::Account(Some(view))));
            }
            Request::Accounts(question) => {
                let answers = self.look(Endpoint::Accounts, question).await?;
                let pages = answers.into_iter().filter_map(|(node, answer)| match answer {
                    Answer::Accounts(page) => Some((node, page)),
                    _ => None,
                });
                let pages: Vec<_> = pages.collect();
                if pages.is_empty() {
                    return Ok(None);
                }
                let page = list::together(question, pages).map_err(anyhow::Error::msg)?;
                return Ok(Some(Answer::Accounts(page)));
            }
            Request::Overview => {
                let answers = self.look(Endpoint::Overview, &OverviewQuestion {}).await?;
                let mut all: Option<Box<Overview>> = None;
                for (_, answer) in answers {
                    let Answer::Overview(one) = answer else { continue };
                    match &mut all {
                        Some(all) => all.add(*one),
                        None => all = Some(one),
                    }
                }
                return Ok(all.map(Answer::Overview));
            }
            Request::LogLevel { .. } => bail!("each node is asked by itself what it logs"),
            // Asked of all, by `examine`.
            Request::Doctor { .. } => return Ok(None),
            Request::Dead { after, most } => {
                DeadQuestion { after: *after, most: Some(*most), ..DeadQuestion::default() }
            }
            Request::Revive { seq, replay: true } => {
                DeadQuestion { replay: Some(*seq), ..DeadQuestion::default() }
            }
            Request::Revive { seq, replay: false } => {
                DeadQuestion { drop: Some(*seq), ..DeadQuestion::default() }
            }
        };
        match service::ask_one::<NodeAnswer>(&self.bus, Endpoint::Dead, &question).await {
            Heard::Answered(answer) => Ok(Some(answer.answer)),
            Heard::Refused(reason) => bail!("{reason}"),
            Heard::NoNode => Ok(None),
            Heard::Silent if matches!(request, Request::Dead { .. }) => Ok(None),
            Heard::Silent => bail!(
                "{}: no node has answered in time; `tollgate dead list` shows what became of it",
                Code::NoNodeAnswers
            ),
        }
    }

    /// What each node says of its accounts; nothing where none is known to live. Said of those that do not answer: nodes
    /// of earlier versions do not know these questions.
    async fn look(
        &self,
        endpoint: Endpoint,
        question: &impl Serialize,
    ) -> anyhow::Result<Vec<(String, Answer)>> {
        let living = session::living_or_ended(&self.bus).await?;
        if living == 0 {
            return Ok(Vec::new());
        }
        let answers = ask::ask_lookers(&self.bus, endpoint, question, living).await;
        self.silent.store(living.saturating_sub(answers.len()), Ordering::Relaxed);
        Ok(answers.into_iter().map(|one| (one.node, one.answer)).collect())
    }

    async fn examine(&self, request: &Request) -> anyhow::Result<Vec<Evidence>> {
        let Request::Doctor { window_s } = request else { return Ok(Vec::new()) };
        let living = session::living_or_ended(&self.bus).await?;
        let question = DoctorQuestion { window_s: Some(*window_s) };
        let answers = ask::ask_doctor(&self.bus, &question, living).await;
        let told = |answer| match answer {
            Answer::Doctor(evidence) => Some(*evidence),
            _ => None,
        };
        let nodes: Vec<Evidence> = answers.into_iter().filter_map(|one| told(one.answer)).collect();
        if nodes.len() < living {
            say(format_args!(
                "tollgate: {}: {living} node(s) show themselves and {} answered in time",
                Code::NoNodeAnswers,
                nodes.len()
            ));
        }
        Ok(nodes)
    }

    async fn ask_all(
        &self,
        question: &StatusQuestion,
        most: usize,
    ) -> anyhow::Result<Option<Answer>> {
        let living = match session::living_or_ended(&self.bus).await {
            Ok(living) => living,
            Err(error) => {
                // Streams that are not there are told as that.
                self.queue().await?;
                return Err(error.into());
            }
        };
        if living == 0 {
            return Ok(None);
        }
        let answers = ask::ask(&self.bus, question, living).await;
        if let Some(status) = ask::together(answers, most) {
            return Ok(Some(Answer::Status(status)));
        }
        say(format_args!(
            "tollgate: {}: {living} node(s) show themselves and none answered in time; what \
             follows is from the streams",
            Code::NoNodeAnswers
        ));
        Ok(None)
    }

    async fn ask_streams(&self, request: &Request) -> anyhow::Result<Answer> {
        let queue = self.queue().await?;
        let ledger = NatsView::open(&self.bus).await?;
        answer_at_rest(&self.plan, queue, &ledger, request).await
    }

    async fn queue(&self) -> anyhow::Result<Arc<dyn Queue>> {
        let open = async || {
            let queue: Arc<dyn Queue> = Arc::new(NatsQueue::view(&self.bus).await?);
            anyhow::Ok(queue)
        };
        self.queue.get_or_try_init(open).await.cloned()
    }
}
