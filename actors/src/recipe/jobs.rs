//! Which job a call is about: one that its provider goes on with after the call.

use sha2::{Digest, Sha256};

use super::FetchContext;
use super::build::render;
use crate::plan::{Api, Platform};

/// The number of the job that a call of this fetch orders, asks about or ends: of the api's `job`, so that calls of
/// several apis can mean the same one; nothing if the api has none, or it cannot be filled in. The same in every
/// process: records have it. No number of a queue is as large.
pub(crate) fn job(platform: &Platform, api: &Api, fetch: &FetchContext<'_>) -> Option<u64> {
    let template = api.job.as_ref()?;
    let text = render(template, platform, api, fetch).ok().filter(|text| !text.is_empty())?;
    let mut hasher = Sha256::new();
    hasher.update(fetch.account.as_str());
    hasher.update([0]);
    hasher.update(text);
    let digest = hasher.finalize();
    let bytes: [u8; 8] = digest[..8].try_into().ok()?;
    Some(u64::from_be_bytes(bytes) | 1 << 63)
}
