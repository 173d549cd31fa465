//! From text to a [`Plan`]: file, environment and overrides become types that cannot be wrong, or a list
//! of everything that is.
//!
//! Decides what a configuration may say. Promises that every mistake is found in one go, that nothing is
//! ignored or guessed, and that no secret is shown. Reads the configuration file and the files that
//! secrets come from; must not know sockets, clocks or the process's environment, which is an argument.
//!
//! Every key is described in the text of [`init_text`], which is also a configuration that works.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::codes::Code;
use crate::fresh::FRESH_MAX;
use crate::ids::Slug;
use crate::mixed::Limits;
use crate::plan::Plan;

mod answers;
mod api;
mod auth;
mod azure;
mod body;
mod bucket;
mod complete;
mod describe;
mod describe_answers;
mod describe_auth;
mod describe_pages;
mod describe_request;
mod describe_rules;
mod google;
mod how;
mod jobs;
mod keys;
mod limits;
mod log;
mod mistake;
mod node;
mod notify;
mod observe;
mod outline;
mod pages;
mod pairs;
mod params;
mod platform;
mod query;
mod rules;
mod s3;
mod secret;
mod section;
mod source;
mod stage;
mod store;
mod traces;
mod values;
mod weights;
mod zone;

#[cfg(test)]
mod tests;

pub use describe::describe;
pub(crate) use keys::{budget_id, generation};
pub use mistake::{Mistake, Mistakes};
pub use outline::{ApiOutline, LimitOutline, PlatformOutline, SpecialOutline, outline};

use section::Section;

/// A configuration that was understood.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says.
    pub plan: Plan,
    /// What is allowed but probably not meant, as `KEY: SENTENCE`.
    pub warnings: Vec<String>,
}

/// Reads a configuration: the file, then `TOLLGATE__SECTION__KEY` of the environment, then overrides such
/// as `("collect.concurrency", "64")`, later ones winning.
///
/// `env` is the whole environment: secrets written as `env:NAME` are looked up in it too. Without a file
/// everything comes from the other two. Relative paths in it are relative to the current directory.
///
/// # Errors
/// Everything that is wrong with it. Where the file is not TOML, only what makes it so.
pub fn load(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Loaded, Mistakes> {
    load_for(path, env, overrides, platform::Needed::Yes)
}

/// As [`load`], for whoever only publishes: platforms need not be declared.
///
/// # Errors
/// As [`load`]; platforms that are declared are checked like a node's.
pub fn load_to_publish(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Loaded, Mistakes> {
    load_for(path, env, overrides, platform::Needed::No)
}

fn load_for(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
    platforms_needed: platform::Needed,
) -> Result<Loaded, Mistakes> {
    let env: BTreeMap<String, String> = env.collect();
    let source = source::read(path, &env, overrides)?;
    let report = source.report;
    let said = how::Said::of(&source.root);
    let recipes = how::recipes(&source.root);
    let plan = {
        let mut root = Section::new(&report, String::new(), source.root);
        let node = node::node(root.section("node"), &env);
        let store = store::store(root.section("store"), &node.data, &env);
        let collect = node::collect(root.section("collect"));
        let nats = node::nats(root.section("nats"), &env);
        let http = node::http(root.section("http"), &env);
        let log = log::log(root.section("log"));
        let traces = traces::traces(root.section("traces"));
        store::check_bodies_fit(&report, &store, &collect.plan);
        let defaults =
            platform::Defaults { timeouts: collect.timeouts, key: &store.key, env: &env };
        let notify = notify::notify(root.section("notify"), &env);
        let platforms = platform::platforms(&mut root, &defaults, platforms_needed);
        store::check_state_apart(&report, &node.data, &store, &platforms);
        store::check_split_keys(&report, &store, &platforms);
        complete::check_gaps(&report, &store, &platforms);
        let stages = stage::stages(&mut root);
        root.finish();
        let hash = Limits::of_all(&platforms).hash();
        let how = said.how(&hash, &store);
        Plan {
            node_name: node.name,
            data: node.data,
            store,
            collect: collect.plan,
            nats,
            http,
            log,
            traces,
            notify,
            platforms,
            stages,
            hash,
            how,
            recipes,
        }
    };
    let warnings = report.finish()?;
    Ok(Loaded { plan, warnings })
}

/// The configuration that `tollgate init` writes: every key with its meaning, default and an example.
pub fn init_text() -> &'static str {
    include_str!("init.toml")
}

/// The commented recipe that `tollgate recipe new` writes: the table of a platform of that name.
pub fn recipe_text(name: &Slug) -> String {
    include_str!("recipe.toml").replace("NAME", name.as_str())
}

/// The JSON schema (draft 2020-12) of a configuration, for editors.
pub fn schema_text() -> &'static str {
    include_str!("../../../docs/tollgate.schema.json")
}

/// A length of time as it is written in a configuration, up to a year.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    values::parse_duration(text).ok().filter(|duration| *duration <= FRESH_MAX)
}

/// Shorthand of the sections: the code for a value that is out of place.
const BAD: Code = Code::BadValue;
