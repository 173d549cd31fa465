//! The store of a configuration, found usable before a call is made.

use anyhow::Context;
use tollgate_actors::codes::Code;
use tollgate_actors::plan::{Plan, StoreTarget};
use tollgate_actors::store::{LINES_FOLDER, Store};

/// Opens it. Into a bucket a tiny object is put and taken away again, so that wrong keys, a bucket that is
/// not there and a store that does not answer cost no calls; that takes up to a minute where nobody answers.
pub(crate) async fn open_store(plan: &Plan) -> anyhow::Result<Store> {
    let store = Store::open(plan)?;
    if let StoreTarget::Bucket(_) = &plan.store.target {
        probe(plan, &store).await?;
    }
    Ok(store)
}

/// Opens it and puts a tiny object there, whatever it is, and one where the lines about objects go.
pub(crate) async fn try_store(plan: &Plan) -> anyhow::Result<()> {
    let store = Store::open(plan).with_context(|| Code::StoreUnavailable.to_string())?;
    probe(plan, &store).await?;
    if plan.store.lines {
        let probed = store.probe_lines().await;
        return probed.with_context(|| {
            format!(
                "{}: put lines about objects below `{LINES_FOLDER}/` (store.lines = false does without)",
                Code::StoreUnavailable
            )
        });
    }
    Ok(())
}

async fn probe(plan: &Plan, store: &Store) -> anyhow::Result<()> {
    let place = || match &plan.store.target {
        StoreTarget::Bucket(bucket) => format!("use the bucket `{}`", bucket.bucket),
        StoreTarget::File(root) => format!("use the folder `{}`", root.display()),
        StoreTarget::Memory => "use the memory".to_owned(),
    };
    store.probe().await.with_context(|| format!("{}: {}", Code::StoreUnavailable, place()))
}
