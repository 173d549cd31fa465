//! The tables `[platforms.NAME.apis.NAME]`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tollgate_gate::Guard;

use super::answers::{Less, OfPlatform, check_split, of_api};
use super::auth::{Said, auth};
use super::body::{body, long_query, method};
use super::complete::complete;
use super::jobs::{job, job_ends};
use super::limits::{AllDeclared, Declared, limits};
use super::node::timeouts;
use super::observe::{Unresolved, rules};
use super::pages::{check_end, check_templates, pages, set_how};
use super::pairs::{check_auth_alone, headers, template};
use super::params::{declared_params, params};
use super::platform::slug;
use super::query::pairs;
use super::section::{Section, one_of};
use super::weights::{ApiCost, api_costs};
use super::zone::zone;
use crate::codes::Code;
use crate::fresh::FRESH_MAX;
use crate::ids::Slug;
use crate::pages::VARIABLES;
use crate::plan::{Api, Format, Params, Platform, Timeouts};
use crate::recipe::{RESERVED, Template, Variables, path_problem};
use crate::store::Unwrap;

/// Most apis of a platform.
const APIS_MAX: usize = 1_000;

const FORMATS: &[(&str, Format)] = &[
    ("auto", Format::Auto),
    ("json", Format::Json),
    ("ndjson", Format::Ndjson),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("text", Format::Text),
    ("html", Format::Html),
    ("binary", Format::Binary),
];

/// What an api needs of its platform.
pub(super) struct ApiContext<'a> {
    pub(super) timeouts: Timeouts,
    pub(super) guard: Guard,
    /// `store.key`, which may name parameters too.
    pub(super) key: &'a Template,
    /// What the platform says of its answers.
    pub(super) answers: &'a OfPlatform,
    pub(super) env: &'a BTreeMap<String, String>,
    /// False if `base_url` is broken, so that nothing can be said of hosts.
    pub(super) knows_host: bool,
}

/// What each api says its calls cost.
pub(super) type AllCosts = Vec<Vec<(usize, ApiCost)>>;

/// The table `apis` of a platform, and what their calls cost. Their own limits are added to `all`,
/// their rules to `all_rules`.
pub(super) fn apis(
    section: &mut Section<'_>,
    platform: &Platform,
    context: &ApiContext<'_>,
    all: &mut AllDeclared,
    all_rules: &mut Vec<Unresolved>,
) -> (Vec<Api>, AllCosts) {
    let had = section.has("apis");
    let (mut apis, mut costs) = (Vec::new(), Vec::new());
    let Some(mut table) = section.section("apis") else {
        if !had {
            let hint = format!("[{}.apis.NAME] with path = \"…\"", section.path());
            section.mistake(Code::NoPlatforms, "apis", "the platform has no api", hint);
        }
        return (apis, costs);
    };
    let entries = table.entries();
    if entries.is_empty() || entries.len() > APIS_MAX {
        let (code, message) = if entries.is_empty() {
            (Code::NoPlatforms, "the platform has no api".to_owned())
        } else {
            (Code::TooMany, format!("{} apis, at most {APIS_MAX} are allowed", entries.len()))
        };
        section.mistake(code, "apis", message, "");
        return (apis, costs);
    }
    let platform_limits: Vec<String> = all.limits.iter().map(|own| own.name().to_owned()).collect();
    for (name, value) in entries {
        let Some(slug) = slug(&table, &name) else { continue };
        let Some(mut section) = table.section_of(&name, value) else { continue };
        let before = all.limits.len();
        let number = apis.len() as u16;
        limits(&mut section, Some(number), context.guard, all);
        for own in all.limits[before..].iter().map(Declared::name) {
            if platform_limits.iter().any(|known| known == own) {
                let message = format!("the platform has a limit `{own}` too, and both count");
                let key = format!("limits.{own}");
                section.mistake(Code::DuplicateLimit, &key, message, "rename one of them");
            }
        }
        let named = section.has("job");
        let of_answers = rules(&mut section).with_job_ends(job_ends(&mut section, named));
        let of_api = (number, &*all.limits, &of_answers);
        let Some((api, own)) = api(section, slug, platform, context, of_api) else {
            continue;
        };
        apis.push(api);
        costs.push(own);
        all_rules.push(of_answers);
    }
    (apis, costs)
}

fn api(
    mut section: Section<'_>,
    name: Slug,
    platform: &Platform,
    context: &ApiContext<'_>,
    (number, limits, rules): (u16, &[Declared], &Unresolved),
) -> Option<(Api, Vec<(usize, ApiCost)>)> {
    let declared = declared_params(&mut section);
    let (pages, ends) = pages(&mut section).unzip();
    let caps = pages.as_ref().is_some_and(|pages| pages.rows_max.is_some());
    let page_state = if pages.is_some() { VARIABLES.as_slice() } else { &[] };
    let names: Vec<&str> = declared
        .iter()
        .flat_map(|params| params.names.iter().map(String::as_str))
        .chain(RESERVED.iter().copied())
        .collect();
    let with_pages: Vec<&str> = names.iter().chain(page_state).copied().collect();
    let of_request = if declared.is_some() { Variables::Only(&with_pages) } else { Variables::Any };
    let allowed = if declared.is_some() { Variables::Only(&names) } else { Variables::Any };
    let path = section
        .required("path", "what is called, joined to base_url: path = \"reports/{id}\"")
        .and_then(|text| path(&section, &text, &of_request, platform, context.knows_host));
    let query = pairs(&mut section, "query", &of_request);
    let headers = headers(&mut section, &of_request);
    let body = body(&mut section, &of_request);
    let method = method(&mut section, body.as_ref());
    let long_query = long_query(&mut section, body.as_ref());
    let zone = zone(&mut section, &platform.tiers, &allowed);
    let auth = match auth(&mut section, (platform.name.as_str(), Some(name.as_str())), context.env)
    {
        Said::Nothing => platform.auth.clone(),
        Said::None => None,
        Said::Auth(auth) => Some(auth),
    };
    check_auth_alone(&section, &headers, auth.as_ref());
    let costs = api_costs(&mut section, limits, number, &allowed);
    let timeouts = timeouts(&mut section, context.timeouts);
    let fresh_for = section.duration("fresh_for", Duration::from_millis(1)..=FRESH_MAX);
    let format = section.text("format").and_then(|text| one_of(&section, "format", &text, FORMATS));
    let format = format.unwrap_or(Format::Auto);
    let job = job(&mut section, &allowed);
    let by_params = costs.iter().any(|(_, cost)| matches!(cost, ApiCost::Template(_)));
    let less = Less { caps: caps || by_params, rules: rules.making_less() };
    let answers = of_api(&mut section, context.answers, (format, &method), &less);
    if pages.is_some() && matches!(answers.decoding.unwrap, Unwrap::Members(_)) {
        let message = "each answer is several objects, and a page is one";
        let hint = "leave out `pages`, or take one `member` of each";
        section.mistake(Code::NotSupported, "members", message, hint);
    }
    section.unsupported("report", "one fetch is one call");
    let Some(path) = path else {
        section.finish();
        return None;
    };
    let mut api = Api {
        name,
        method,
        path,
        query,
        long_query,
        headers,
        body,
        zone,
        auth,
        params: Params::default(),
        timeouts,
        fresh_for,
        format,
        rules: Arc::default(),
        job,
        pages,
        answers: Arc::new(answers),
        complete: None,
    };
    check_templates(&section, &api);
    check_end(&section, &mut api, ends.unwrap_or_default());
    set_how(&mut api);
    api.params = params(&section, &api, platform, declared, context.key, &costs);
    check_split(&section, &api);
    api.complete = complete(&mut section, &api);
    section.finish();
    Some((api, costs))
}

fn path(
    section: &Section<'_>,
    text: &str,
    allowed: &Variables<'_>,
    platform: &Platform,
    knows_host: bool,
) -> Option<Template> {
    let below = text.trim_start_matches('/');
    if below.len() < text.len() {
        let message = format!("the path is joined to base_url: {}{below}", platform.base_url);
        section.report().warn(&section.key("path"), &message);
    }
    let path = template(section, "path", below, allowed)?;
    match path_problem(&path, platform) {
        Some((Code::HostNotDeclared, _)) if !knows_host => Some(path),
        Some((code, message)) => {
            let hint = if code == Code::HostNotDeclared { "add it to allowed_hosts" } else { "" };
            section.mistake(code, "path", message, hint);
            None
        }
        None => Some(path),
    }
}
