//! Who answers the API's questions: this node, and with `serve` the others too, over NATS.

use std::sync::Arc;

use tollgate_actors::clock::Clock;
use tollgate_actors::codes::Code;
use tollgate_actors::control::{Answer, Desk, Request};
use tollgate_actors::doctor::Evidence;
use tollgate_actors::holds::{OperatorHold, Scope};
use tollgate_actors::ids::{Account, Slug};
use tollgate_actors::nats::ask::NodeAnswer;
use tollgate_actors::nats::service::{
    self, AccountQuestion, DoctorQuestion, Endpoint, Held, LogQuestion, OverviewQuestion, Paused,
    Resumed,
};
use tollgate_actors::nats::{Bus, ask, holds, session};
use tollgate_actors::plan::Plan;
use tollgate_actors::view::{
    AccountState, AccountView, AccountsPage, AccountsQuestion, Overview, list,
};

use super::super::problem::Problem;

/// Answers for a node, and for its cluster.
pub(crate) struct Counter {
    desk: Desk,
    /// Where the other nodes are; none with `run`.
    bus: Option<Bus>,
    clock: Clock,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").field("cluster", &self.bus.is_some()).finish_non_exhaustive()
    }
}

/// What every node is asked for itself.
#[derive(Clone, Copy)]
enum Question<'q> {
    Overview,
    Accounts(&'q AccountsQuestion),
    Account(&'q AccountQuestion),
    Doctor(&'q DoctorQuestion),
    Log(&'q LogQuestion),
}

/// What nodes answered.
pub(super) struct Heard<T> {
    pub(super) answers: Vec<T>,
    /// Nodes that show themselves and did not answer; nothing where NATS does not say who there is.
    pub(super) silent: Option<usize>,
}

/// Who is asked beside this node.
enum Others<'b> {
    /// Nobody: it is alone.
    Nobody,
    /// So many nodes show themselves, this one among them, and are asked there.
    Living(&'b Bus, usize),
    /// NATS does not say: there may be others.
    Unknown,
}

impl Counter {
    pub(crate) fn new(desk: Desk, bus: Option<Bus>) -> Self {
        Self { desk, bus, clock: Clock::new() }
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        self.desk.plan.get()
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.bus.is_some()
    }

    pub(super) fn now(&self) -> jiff::Timestamp {
        self.clock.wall()
    }

    /// What this node answers.
    async fn own(&self, request: &Request) -> Result<Answer, Problem> {
        let text = serde_json::to_vec(request).expect("a request is JSON");
        match self.desk.answer(&text).await {
            Answer::Failed { code, reason } => Err(Problem::told(&code, &reason)),
            answer => Ok(answer),
        }
    }

    async fn others(&self) -> Others<'_> {
        let Some(bus) = &self.bus else { return Others::Nobody };
        match session::living(bus).await {
            Ok(living) if living > 1 => Others::Living(bus, living),
            Ok(_) => Others::Nobody,
            Err(_) => Others::Unknown,
        }
    }

    /// Everybody's answers, this node's among them in any case.
    async fn each(
        &self,
        request: &Request,
        question: Question<'_>,
    ) -> Result<Heard<NodeAnswer>, Problem> {
        let name = self.plan().node_name.clone();
        let mut heard = match self.others().await {
            Others::Living(bus, living) => {
                let answers = match question {
                    Question::Overview => {
                        let question = OverviewQuestion::default();
                        ask::ask_lookers(bus, Endpoint::Overview, &question, living).await
                    }
                    Question::Accounts(question) => {
                        ask::ask_lookers(bus, Endpoint::Accounts, question, living).await
                    }
                    Question::Account(question) => {
                        ask::ask_lookers(bus, Endpoint::Account, question, living).await
                    }
                    Question::Doctor(question) => ask::ask_doctor(bus, question, living).await,
                    Question::Log(question) => {
                        ask::ask_each(bus, Endpoint::Log, question, living).await
                    }
                };
                Heard { silent: Some(living.saturating_sub(answers.len())), answers }
            }
            Others::Nobody => Heard { answers: Vec::new(), silent: Some(0) },
            // Only this node can be asked, and that others are missing has to be said.
            Others::Unknown => Heard { answers: Vec::new(), silent: None },
        };
        if !heard.answers.iter().any(|one| one.node == name) {
            match self.own(request).await {
                Ok(answer) => {
                    heard.answers.push(NodeAnswer { node: name, session: None, answer });
                    heard.silent = heard.silent.map(|silent| silent.saturating_sub(1));
                }
                Err(problem) if heard.answers.is_empty() => return Err(problem),
                // What the others know is told; this node is among the silent ones.
                Err(_) => {}
            }
        }
        Ok(heard)
    }

    pub(super) async fn overview(&self) -> Result<(Overview, Option<usize>), Problem> {
        let Heard { answers, silent } = self.each(&Request::Overview, Question::Overview).await?;
        let mut all = Overview::empty(self.now());
        for one in answers {
            if let Answer::Overview(overview) = one.answer {
                all.add(*overview);
            }
        }
        Ok((all, silent))
    }

    pub(super) async fn accounts(
        &self,
        question: &AccountsQuestion,
    ) -> Result<(AccountsPage, Option<usize>), Problem> {
        // A question that no node can answer is no matter for all of them.
        list::check(question).map_err(Problem::question)?;
        let request = Request::Accounts(question.clone());
        let Heard { answers, silent } = self.each(&request, Question::Accounts(question)).await?;
        let pages = answers.into_iter().filter_map(|one| match one.answer {
            Answer::Accounts(page) => Some((one.node, page)),
            _ => None,
        });
        let page = list::together(question, pages.collect()).map_err(Problem::question)?;
        Ok((page, silent))
    }

    pub(super) async fn account(
        &self,
        platform: &str,
        account: &str,
    ) -> Result<(Option<Box<AccountView>>, Option<usize>), Problem> {
        Slug::new(platform).map_err(Problem::question)?;
        Account::new(account).map_err(Problem::question)?;
        let (platform, account) = (platform.to_owned(), account.to_owned());
        let question = AccountQuestion { platform: platform.clone(), account: account.clone() };
        let request = Request::Account { platform, account };
        let Heard { answers, silent } = self.each(&request, Question::Account(&question)).await?;
        let views = answers.into_iter().filter_map(|one| match one.answer {
            Answer::Account(Some(view)) => Some(view),
            _ => None,
        });
        // One that is on its way from a node to another is known to both: whoever has an actor of it works on it.
        let mut views: Vec<_> = views.collect();
        views.sort_by_key(|view| view.state != AccountState::Live);
        Ok((views.into_iter().next(), silent))
    }

    pub(super) async fn doctor(&self, window_s: u64) -> Result<Heard<Evidence>, Problem> {
        let question = DoctorQuestion { window_s: Some(window_s) };
        let request = Request::Doctor { window_s };
        let Heard { answers, silent } = self.each(&request, Question::Doctor(&question)).await?;
        let told = answers.into_iter().filter_map(|one| match one.answer {
            Answer::Doctor(evidence) => Some(*evidence),
            _ => None,
        });
        Ok(Heard { answers: told.collect(), silent })
    }

    pub(super) async fn log(&self, question: &LogQuestion) -> Result<Heard<NodeAnswer>, Problem> {
        let wish = question.wish().map_err(Problem::question)?;
        let (request, ours) = (Request::LogLevel { wish }, self.plan().node_name.clone());
        match &question.node {
            None => return self.each(&request, Question::Log(question)).await,
            Some(node) if *node == ours => {
                let answer = self.own(&request).await?;
                let answers = vec![NodeAnswer { node: ours, session: None, answer }];
                return Ok(Heard { answers, silent: Some(0) });
            }
            Some(_) => {}
        }
        let nobody = || Problem::nothing("no node of this name answers");
        let bus = match self.others().await {
            Others::Living(bus, _) => bus,
            Others::Nobody => return Err(nobody()),
            Others::Unknown => {
                return Err(Problem::not_now("NATS does not say which nodes there are"));
            }
        };
        let answers = ask::ask_each(bus, Endpoint::Log, question, 1).await;
        if answers.is_empty() { Err(nobody()) } else { Ok(Heard { answers, silent: Some(0) }) }
    }

    /// Dead letters are of all nodes, and any of them has them.
    pub(super) async fn queue(&self, request: &Request) -> Result<Answer, Problem> {
        self.own(request).await
    }

    pub(super) async fn holds(&self) -> Result<Vec<Held>, Problem> {
        let Some(bus) = &self.bus else { return Ok(Vec::new()) };
        let Paused { held } = service::told(bus).await.map_err(|error| not_now(&error))?;
        Ok(held)
    }

    pub(super) fn scope(
        &self,
        platform: &str,
        account: Option<&str>,
        api: Option<&str>,
    ) -> Result<Scope, Problem> {
        let plan = self.plan();
        let slug = |name: &str| Slug::new(name).map_err(Problem::question);
        let platform = slug(platform)?;
        let Some(known) = plan.platforms.get(&platform) else {
            return Err(Problem::nothing(format!(
                "the configuration has no platform `{platform}`"
            )));
        };
        let account = account.map(Account::new).transpose().map_err(Problem::question)?;
        let api = api.map(slug).transpose()?;
        if let Some(api) = &api {
            if account.is_none() {
                return Err(Problem::question("`api` goes with `account`"));
            }
            if known.api(api.as_str()).is_none() {
                return Err(Problem::nothing(format!("{platform} has no api `{api}`")));
            }
        }
        Ok(Scope { platform, account, api })
    }

    pub(super) async fn pause(
        &self,
        scope: &Scope,
        reason: Option<String>,
        within: Option<&str>,
    ) -> Result<Held, Problem> {
        let bus = self.bus.as_ref().ok_or_else(no_holds)?;
        let since = self.now();
        let until = service::until(since, within).map_err(Problem::question)?;
        let hold = OperatorHold { reason, since, until };
        holds::put(bus, scope, &hold).await.map_err(|error| not_now(&error))?;
        Ok(Held { of: scope.to_string(), key: scope.key(), hold })
    }

    pub(super) async fn resume(&self, scope: Option<&Scope>) -> Result<Resumed, Problem> {
        let bus = self.bus.as_ref().ok_or_else(no_holds)?;
        service::resume(bus, scope).await.map_err(|error| not_now(&error))
    }
}

fn no_holds() -> Problem {
    let detail = "holds are kept on NATS: they need `tollgate serve`, and `run` goes without";
    Problem::new(Code::NotHere, detail)
}

pub(super) fn another() -> Problem {
    Problem::not_now("a node gave another answer: is it of another version?")
}

fn not_now(error: &tollgate_actors::nats::NatsError) -> Problem {
    Problem::told(error.code.id(), &error.to_string())
}
