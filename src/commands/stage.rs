//! `tollgate stage`: raw objects become Parquet files, table by table.

#[cfg(feature = "stage")]
mod follow;
#[cfg(feature = "stage")]
mod heard;
#[cfg(feature = "stage")]
mod inputs;
#[cfg(feature = "stage")]
mod keys;
#[cfg(feature = "stage")]
mod merge;
#[cfg(feature = "stage")]
mod outputs;
#[cfg(feature = "stage")]
mod record;
#[cfg(feature = "stage")]
mod settle;
#[cfg(feature = "stage")]
mod stager;
#[cfg(feature = "stage")]
mod tasks;
#[cfg(all(test, feature = "stage"))]
mod tests;

#[cfg(feature = "stage")]
pub(crate) use follow::{Following, Staging};
#[cfg(feature = "stage")]
pub(crate) use with::run;
#[cfg(not(feature = "stage"))]
pub(crate) use without::{Following, Staging, run};

/// A build without it has the command all the same, so that whoever looks for it learns where it is.
#[cfg(not(feature = "stage"))]
mod without {
    use std::sync::Arc;

    use tollgate_actors::cluster::Owned;
    use tollgate_actors::nats::Bus;
    use tollgate_actors::plan::Plan;
    use tollgate_actors::queue::Queue;
    use tollgate_actors::store::Store;

    const WHERE: &str = "this build cannot make Parquet; the image and the released binaries can, and so can one of the \
                         source: `cargo build --release --features stage`";

    pub(crate) fn run(
        _: &crate::cli::Global,
        _: &crate::cli::StageArgs,
    ) -> anyhow::Result<crate::commands::Exit> {
        anyhow::bail!(WHERE)
    }

    /// Nothing is followed here.
    pub(crate) enum Staging {}

    /// Nor at work.
    pub(crate) enum Following {}

    impl Staging {
        pub(crate) fn of(plan: &Arc<Plan>) -> anyhow::Result<Option<Self>> {
            match plan.stages.iter().find(|(_, stage)| stage.follow.is_some()) {
                Some((name, _)) => anyhow::bail!("stage.{name}.follow: {WHERE}"),
                None => Ok(None),
            }
        }

        pub(crate) fn hear(&self, _: Arc<dyn Queue>) -> Arc<dyn Queue> {
            match *self {}
        }

        pub(crate) fn start(self, _: Store, _: Owned, _: Option<Bus>) -> anyhow::Result<Following> {
            match self {}
        }
    }

    impl Following {
        pub(crate) fn finish(self, _: impl Future<Output = ()>) -> std::future::Ready<()> {
            match self {}
        }

        pub(crate) fn stop(&self) {
            match *self {}
        }

        pub(crate) fn end(self) -> std::future::Ready<()> {
            match self {}
        }
    }
}

#[cfg(feature = "stage")]
mod with {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use anyhow::{Context, bail};
    use tokio::signal::unix::{SignalKind, signal};
    use tollgate_actors::ids::Slug;
    use tollgate_actors::plan::{Plan, StagePlan};
    use tollgate_actors::store::buffer_bytes_for;

    use super::super::open_store::open_store;
    use super::super::{Exit, publisher_plan};
    use super::follow::lower;
    use super::stager::{Done, Look, Stager};
    use crate::cli::{Global, StageArgs};
    use crate::ui::{number, print, say, size};

    pub(crate) fn run(global: &Global, args: &StageArgs) -> anyhow::Result<Exit> {
        let Some(mut plan) = publisher_plan(global) else { return Ok(Exit::Usage) };
        let stages = chosen(&plan, &args.tables)?;
        for (name, stage) in &stages {
            if let Err(reason) = tollgate_stage::check(&stage.table) {
                bail!("stage.{name}: {reason}");
            }
        }
        // Rows and the quarantine are written side by side.
        let least = buffer_bytes_for(&plan, 2);
        plan.collect.buffer_bytes_max = plan.collect.buffer_bytes_max.max(least);
        tollgate_actors::install_tls();
        let stop = Arc::new(AtomicBool::new(false));
        // All of this process: whatever else the machine does goes first.
        lower();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let on_signal = Arc::clone(&stop);
            let mut term = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
            let mut int = signal(SignalKind::interrupt()).context("listen to ctrl-C")?;
            tokio::spawn(async move {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                on_signal.store(true, Ordering::Relaxed);
            });
            let store = open_store(&plan).await?;
            let mut exit = Exit::Done;
            for (name, stage) in stages {
                let key = plan.store.key.text();
                let stager =
                    Stager::new(store.clone(), stage, key, args.workers.map(usize::from), &stop);
                let _lock = super::record::lock(&plan.state(), &name)?;
                let done = stager.run(args.again, Look::All).await?;
                tell(&name, &done, args.json)?;
                if done.stopped {
                    return Ok(Exit::Left);
                }
                if done.quarantined + done.standing > 0 || !done.failed.is_empty() {
                    exit = Exit::Failed;
                }
            }
            Ok(exit)
        })
    }

    fn chosen(plan: &Plan, names: &[String]) -> anyhow::Result<Vec<(Slug, Arc<StagePlan>)>> {
        let all = plan.stages.iter().map(|(name, stage)| (name.clone(), Arc::clone(stage)));
        if plan.stages.is_empty() {
            bail!("no table is declared: [stage.NAME] with `from` and [stage.NAME.columns]");
        }
        if names.is_empty() {
            return Ok(all.collect());
        }
        let known: Vec<_> = all.collect();
        let mut chosen = Vec::with_capacity(names.len());
        for name in names {
            match known.iter().find(|(known, _)| known.as_str() == name) {
                Some(found) => chosen.push(found.clone()),
                None => bail!("no table is called `{name}`: [stage.{name}] is not declared"),
            }
        }
        Ok(chosen)
    }

    fn tell(name: &Slug, done: &Done, json: bool) -> anyhow::Result<()> {
        if done.leftovers > 0 {
            say(format_args!(
                "tollgate: stage.{name}: {} files of a run that was ended are removed",
                done.leftovers
            ));
        }
        if done.torn > 0 {
            say(format_args!(
                "tollgate: stage.{name}: files of {} jobs were gone, their objects are staged again",
                done.torn
            ));
        }
        for reason in &done.failed {
            say(format_args!("tollgate: stage.{name}: {reason}"));
        }
        if let Some(first) = &done.first_bad {
            let place = done.quarantine.as_deref().unwrap_or_default();
            let count = number(done.quarantined);
            say(format_args!(
                "tollgate: stage.{name}: {count} entries in {place}, the first: {first}"
            ));
        }
        if json {
            let text = serde_json::json!({
                "table": name.as_str(), "inputs": done.inputs, "unchanged": done.unchanged,
                "incomplete": done.incomplete, "waiting": done.waiting, "gone": done.gone,
                "unnamed": done.unnamed, "standing": done.standing,
                "files": done.files, "rows": done.rows, "bytes": done.bytes,
                "quarantined": done.quarantined, "merged": done.merged, "torn": done.torn,
                "failed": done.failed.len(),
            });
            return Ok(print(format_args!("{text}"))?);
        }
        let mut text = format!(
            "{name}: {} objects became {} rows in {} files of {} together",
            number(done.inputs),
            number(done.rows),
            number(done.files),
            size(done.bytes),
        );
        for (count, what) in [
            (done.quarantined, "entries in quarantine"),
            (done.standing, "entries of earlier runs stand in quarantine"),
            (done.unchanged, "objects were staged before"),
            (done.merged, "small files were put together"),
            (done.incomplete, "objects have no manifest and wait for it"),
            (done.waiting, "jobs wait for fetches that are being collected again"),
            (done.gone, "staged objects are gone; their rows stay"),
            (
                done.unnamed,
                "objects are left from earlier reads, which no manifest names; they are left out",
            ),
        ] {
            if count > 0 {
                text.extend(["; ", &number(count), " ", what]);
            }
        }
        Ok(print(format_args!("{text}"))?)
    }
}
