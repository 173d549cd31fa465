//! The store of a configuration, found usable before a call is made.

use anyhow::Context;
use tollgate_actors::codes::Code;
use tollgate_actors::plan::{Plan, StoreTarget};
use tollgate_actors::store::Store;

/// Opens it. Into a bucket a tiny object is put and taken away again, so that wrong keys, a bucket that is
/// not there and a store that does not answer cost no calls; that takes up to a minute where nobody answers.
pub(crate) async fn open_store(plan: &Plan) -> anyhow::Result<Store> {
    let store = Store::open(plan)?;
    if let StoreTarget::S3(s3) = &plan.store.target {
        let place = || format!("{}: use the bucket `{}`", Code::StoreUnavailable, s3.bucket);
        store.probe().await.with_context(place)?;
    }
    Ok(store)
}
