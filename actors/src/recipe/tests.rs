use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::*;
use crate::config;
use crate::ids::Account;
use crate::plan::{Api, Plan, Platform};

mod bodies;
mod dates;
mod fetches;
mod keys;
mod queries;
mod queued;
mod requests;
mod templates;

/// A plan of one platform `p` at `https://api.example.com/v1/`; `apis` is TOML below `[platforms.p]`.
fn plan(apis: &str) -> Plan {
    let overrides = [
        ("platforms.p.base_url".to_owned(), "https://api.example.com/v1".to_owned()),
        ("node.name".to_owned(), "n".to_owned()),
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("[platforms.p]\n{apis}")).unwrap();
    let env = [("SECRET".to_owned(), "s3cret-value".to_owned())];
    match config::load(Some(file.path()), env.into_iter(), &overrides) {
        Ok(loaded) => loaded.plan,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

fn first(plan: &Plan) -> (Arc<Platform>, Api) {
    let platform = plan.platforms.values().next().unwrap().clone();
    let api = platform.apis[0].clone();
    (platform, api)
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Builds the request of the plan's first api.
fn request(plan: &Plan, account: &str, params: Value) -> Result<Request, Refusal> {
    let (platform, api) = first(plan);
    let account = Account::new(account).unwrap();
    // 03:00 of the next day in Seoul.
    let queued_at = "2026-11-20T18:00:00Z".parse().unwrap();
    let params = map(params);
    let context = FetchContext { account: &account, id: "f1", params: &params, queued_at };
    let mut request = build(&platform, &api, &context)?;
    if let Some(auth) = &api.auth {
        auth.sign(&account, &mut request, &crate::clock::Clock::new()).unwrap();
    }
    Ok(request)
}
