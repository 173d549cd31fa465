//! The tables `[platforms.NAME]`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::config::{Value, ValueKind};
use tollgate_gate::{CALENDARS_MAX, Guard};
use url::Url;

use super::BAD;
use super::answers::of_platform;
use super::api::{ApiContext, apis};
use super::auth::{Said, auth};
use super::keys::{generation, keys, share_out, tiers};
use super::limits::{AllDeclared, guard, limits};
use super::node::timeouts;
use super::observe::{resolve, rules};
use super::pairs::{check_auth_alone, headers};
use super::section::{Section, kind_of};
use super::zone::zone;
use crate::codes::Code;
use crate::costs::Costs;
use crate::ids::{Slug, preview};
use crate::mixed::named;
use crate::observe::Place;
use crate::plan::{Platform, Special, Timeouts};
use crate::recipe::{Template, Variables};

/// Most platforms of a node.
const PLATFORMS_MAX: usize = 256;
/// Bounds of `lost_call`.
const LOST_CALL_MIN: Duration = Duration::from_secs(1);
const LOST_CALL_MAX: Duration = Duration::from_secs(24 * 3600);
const LOST_CALL: Duration = Duration::from_secs(60);
const LOST_CALL_ALIVE: Duration = Duration::from_secs(600);

/// What platforms need from the rest of the configuration.
pub(super) struct Defaults<'a> {
    pub(super) timeouts: Timeouts,
    /// `store.key`, which may name parameters too.
    pub(super) key: &'a Template,
    pub(super) env: &'a BTreeMap<String, String>,
}

/// Whether a configuration without platforms is a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// A node can do nothing then.
    Yes,
    /// A publisher need not know them.
    No,
}

pub(super) fn platforms(
    root: &mut Section<'_>,
    defaults: &Defaults<'_>,
    needed: Needed,
) -> BTreeMap<Slug, Arc<Platform>> {
    let mut platforms = BTreeMap::new();
    let had = root.has("platforms");
    let Some(mut table) = root.section("platforms") else {
        if !had && needed == Needed::Yes {
            no_platforms(root);
        }
        return platforms;
    };
    let entries = table.entries();
    if entries.is_empty() && needed == Needed::Yes {
        no_platforms(root);
    }
    if entries.len() > PLATFORMS_MAX {
        let message = format!("{} platforms, at most {PLATFORMS_MAX} are allowed", entries.len());
        root.mistake(Code::TooMany, "platforms", message, "");
        return platforms;
    }
    for (name, value) in entries {
        let Some(slug) = slug(&table, &name) else { continue };
        let Some(section) = table.section_of(&name, value) else { continue };
        if let Some(platform) = platform(section, slug.clone(), defaults) {
            platforms.insert(slug, Arc::new(platform));
        }
    }
    platforms
}

fn no_platforms(root: &Section<'_>) {
    let hint = "declare one: [platforms.NAME] with base_url, [platforms.NAME.apis.NAME] with path";
    root.mistake(Code::NoPlatforms, "platforms", "no platform is declared", hint);
}

/// The name of a platform or an api.
pub(super) fn slug(section: &Section<'_>, name: &str) -> Option<Slug> {
    Slug::new(name).map_err(|reason| section.mistake(Code::BadName, name, reason, "")).ok()
}

fn platform(mut section: Section<'_>, name: Slug, defaults: &Defaults<'_>) -> Option<Platform> {
    let base_url = section
        .required("base_url", "what the paths of this platform's apis are joined to")
        .and_then(|text| base_url(&section, &text));
    let (allowed_hosts, bare_hosts) = allowed_hosts(&mut section);
    let headers = headers(&mut section, &Variables::Any);
    let auth = match auth(&mut section, (name.as_str(), None), defaults.env) {
        Said::Auth(auth) => Some(auth),
        Said::Nothing | Said::None => None,
    };
    let own_guard = guard(&mut section).unwrap_or(Guard::Default);
    let lost_call = section.duration("lost_call", LOST_CALL_MIN..=LOST_CALL_MAX);
    let timeouts = timeouts(&mut section, defaults.timeouts);
    let mut declared = AllDeclared::default();
    limits(&mut section, None, own_guard, &mut declared);
    let own_rules = rules(&mut section);
    let answers = of_platform(&mut section, !own_rules.making_less().is_empty());
    // A platform to judge its apis by; a broken base URL was reported, and hosts cannot be checked then.
    let tiers = tiers(&mut section);
    let mut platform = Platform {
        name,
        base_url: base_url.clone().unwrap_or_else(placeholder_url),
        allowed_hosts,
        bare_hosts,
        headers,
        zone: zone(&mut section, &tiers, &Variables::Any),
        auth,
        limits: Arc::default(),
        budgets: Vec::new(),
        generation: generation(),
        keys: keys(&mut section),
        tiers,
        special: Special::default(),
        resets: Vec::new(),
        costs: Costs::default(),
        apis: Vec::new(),
        observed: Vec::new(),
        lost_call: lost_call.unwrap_or(LOST_CALL),
        lost_call_alive: lost_call.unwrap_or(LOST_CALL_ALIVE),
    };
    check_auth_alone(&section, &platform.headers, platform.auth.as_ref());
    let context = ApiContext {
        timeouts,
        guard: own_guard,
        key: defaults.key,
        answers: &answers,
        env: defaults.env,
        knows_host: base_url.is_some(),
    };
    let mut api_rules = Vec::new();
    let (apis, of_apis) = apis(&mut section, &platform, &context, &mut declared, &mut api_rules);
    platform.apis = apis;
    let AllDeclared { limits, resets } = declared;
    warn(&section, &platform, limits.is_empty());
    if resets.len() > CALENDARS_MAX {
        let message = format!(
            "windows start anew at {} times, at most {CALENDARS_MAX} are allowed for a platform",
            resets.len()
        );
        section.mistake(Code::TooMany, "limits", message, "");
    } else {
        platform.resets = resets;
        share_out(&section, &mut platform, limits, &of_apis);
        for (number, own) in api_rules.iter().enumerate() {
            let sets = (&*platform.limits, &*platform.budgets);
            let rules = resolve(&section, own, &own_rules, sets, number as u16);
            for Place { budget, limit } in rules.observe.iter().filter_map(|rule| rule.limit) {
                match budget {
                    None => platform.observed.push(limit),
                    Some(budget) => {
                        platform.budgets[usize::from(budget)].observed.push(limit);
                    }
                }
            }
            platform.apis[number].rules = Arc::new(rules);
        }
        super::jobs::check(&section, &platform);
        let budgets = platform.budgets.iter_mut().map(|budget| &mut budget.observed);
        for observed in budgets.chain([&mut platform.observed]) {
            observed.sort_unstable();
            observed.dedup();
        }
        let Platform { apis, observed, budgets, .. } = &platform;
        let special = platform.special.clone().map(|own| {
            let (apis, observed, budgets) = (apis.clone(), observed.clone(), budgets.clone());
            Arc::new(Platform { budgets, apis, observed, ..Platform::clone(&own) })
        });
        platform.special = special;
    }
    section.finish();
    named(&mut platform);
    base_url.is_some().then_some(platform)
}

/// What is allowed but probably not meant.
fn warn(section: &Section<'_>, platform: &Platform, unlimited: bool) {
    if unlimited {
        section.report().warn(section.path(), "no limits: calls go as fast as they can");
    }
    let host = platform.base_url.host_str().unwrap_or_default();
    let local = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    let signs = platform.auth.is_some() || platform.apis.iter().any(|api| api.auth.is_some());
    if signs && platform.base_url.scheme() == "http" && !local {
        section
            .report()
            .warn(section.path(), "the secret is sent unencrypted: base_url begins with http://");
    }
}

fn placeholder_url() -> Url {
    Url::parse("http://localhost/").expect("a constant URL")
}

fn base_url(section: &Section<'_>, text: &str) -> Option<Url> {
    let bad = |code, message: &str, hint: &str| {
        section.mistake(code, "base_url", message, hint);
        None
    };
    let Ok(mut url) = Url::parse(text) else {
        return bad(Code::BadUrl, "not a URL", "such as \"https://api.example.com/v1/\"");
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint =
            "use auth = { bearer = \"env:NAME\" } or { header = \"NAME\", value = \"env:NAME\" }";
        return bad(Code::InlineSecret, "the URL holds a user or password; it is not shown", hint);
    }
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return bad(
            Code::BadUrl,
            "not an http or https URL",
            "such as \"https://api.example.com/v1/\"",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return bad(
            Code::BadUrl,
            "a base URL has no `?` and no `#`",
            "put the query into the api's `query`",
        );
    }
    if text.contains(['{', '}']) {
        return bad(
            Code::BadUrl,
            "a base URL is not a template",
            "put placeholders into the api's `path`",
        );
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Some(url)
}

/// Hosts that may be called too, and those of them that get no credentials.
fn allowed_hosts(section: &mut Section<'_>) -> (Vec<String>, Vec<String>) {
    let (mut hosts, mut bare) = (Vec::new(), Vec::new());
    let Some(value) = section.take("allowed_hosts") else { return (hosts, bare) };
    let items = match value.kind {
        // One text with commas will do: the environment has no lists.
        ValueKind::String(text) => {
            text.split(',').map(|item| Value::from(item.trim().to_owned())).collect()
        }
        ValueKind::Array(items) => items,
        _ => {
            let message = format!("{} where a list of hosts belongs", kind_of(&value));
            section.mistake(Code::WrongType, "allowed_hosts", message, "");
            return (hosts, bare);
        }
    };
    for item in items {
        let (text, auth) = match item.kind {
            ValueKind::String(text) => (Some(text), true),
            ValueKind::Table(_) => {
                let Some(mut entry) = section.section_of("allowed_hosts", item) else { continue };
                let text = entry.required("host", "{ host = \"files.example.com\", auth = false }");
                let auth = entry.flag("auth").unwrap_or(true);
                entry.finish();
                (text, auth)
            }
            _ => {
                let message = "every item of this list must be a host";
                let hint =
                    "\"files.example.com\" or { host = \"files.example.com\", auth = false }";
                section.mistake(Code::WrongType, "allowed_hosts", message, hint);
                continue;
            }
        };
        if let Some(host) = text.and_then(|text| allowed_host(section, &text)) {
            if !auth {
                bare.push(host.clone());
            }
            hosts.push(host);
        }
    }
    (hosts, bare)
}

fn allowed_host(section: &Section<'_>, text: &str) -> Option<String> {
    // Written as a URL reads it: lower case, international names in their ASCII form.
    let url = Url::parse(&format!("https://{text}/")).ok().filter(|url| {
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        bare && url.username().is_empty() && url.password().is_none() && !text.contains('/')
    });
    let bad = |message: String, hint: &str| {
        section.mistake(BAD, "allowed_hosts", message, hint);
        None
    };
    match url.as_ref().and_then(|url| Some((url.host_str()?, url.port()))) {
        Some((host, _)) if host.contains('*') => {
            bad(format!("`{}`: name each host", preview(text)), "")
        }
        Some((host, None)) => Some(host.to_owned()),
        Some((host, Some(port))) => Some(format!("{host}:{port}")),
        None => {
            bad(format!("`{}` is not a host", preview(text)), "such as \"reports.example.com\"")
        }
    }
}
