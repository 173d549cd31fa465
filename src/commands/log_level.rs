//! `tollgate log-level`: what nodes log, while they work.

use anyhow::{Context, bail};
use tollgate_actors::control::{self, Answer, Request};
use tollgate_actors::levels::Told;
use tollgate_actors::nats::ask::NodeAnswer;
use tollgate_actors::nats::service::{Endpoint, LogQuestion};
use tollgate_actors::nats::{ask, session};
use tollgate_actors::plan::Plan;

use super::nats::{connect, with_rights};
use super::status::printable;
use super::{Exit, plan};
use crate::cli::{Global, LogLevelArgs};
use crate::ui::{print, say};

pub(crate) fn run(global: &Global, args: &LogLevelArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let question = LogQuestion {
        node: args.node.clone(),
        level: args.level.clone(),
        within: args.within.clone(),
        reset: args.reset,
    };
    let request = Request::LogLevel { wish: question.wish().map_err(anyhow::Error::msg)? };
    let (answers, silent) = actix_rt::System::new().block_on(async {
        if plan.nats.declared && !args.local {
            ask_nodes(&plan, &question).await
        } else {
            let answer = control::ask(&plan.state(), &request).await;
            let answer = answer.context("ask the running node")?;
            let Some(answer) = answer else {
                bail!("no node works in {}", plan.data.display());
            };
            let node = plan.node_name.clone();
            Ok((vec![NodeAnswer { node, session: None, answer }], 0))
        }
    })?;
    for NodeAnswer { node, answer, .. } in answers {
        match answer {
            Answer::LogLevel(told) => show(&node, &told, args.json)?,
            Answer::Failed { reason, .. } => bail!("{}: {reason}", printable(&node)),
            _ => bail!("{} gave another answer: is it of another version?", printable(&node)),
        }
    }
    if silent > 0 {
        say(format_args!(
            "tollgate: {silent} node(s) did not answer: of an earlier version, or away"
        ));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

/// What the nodes say, and how many of those that live said nothing.
async fn ask_nodes(
    plan: &Plan,
    question: &LogQuestion,
) -> anyhow::Result<(Vec<NodeAnswer>, usize)> {
    let bus = connect(plan, "question").await?;
    with_rights(&bus, async {
        let living = session::living_or_ended(&bus).await?;
        let expected = if question.node.is_some() { living.min(1) } else { living };
        if expected == 0 {
            bail!("no node is at work");
        }
        let answers = ask::ask_each(&bus, Endpoint::Log, question, expected).await;
        let silent = expected.saturating_sub(answers.len());
        Ok((answers, silent))
    })
    .await
}

fn show(node: &str, told: &Told, json: bool) -> anyhow::Result<()> {
    if json {
        let mut line = serde_json::to_value(told)?;
        line["node"] = node.into();
        print(format_args!("{line}"))?;
        return Ok(());
    }
    let by = match told.by.as_str() {
        "operator" => "as wished",
        "flag" => "by --log-level",
        "config" => "by the configuration",
        _ => "by default",
    };
    let until = told.until.map_or_else(String::new, |until| format!(", until {until:.0}"));
    print(format_args!("{}  {}  {by}{until}", printable(node), told.level))?;
    Ok(())
}
