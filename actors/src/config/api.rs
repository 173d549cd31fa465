//! The tables `[platforms.NAME.apis.NAME]`.

use tollgate_gate::Guard;

use super::limits::{Declared, limits};
use super::node::timeouts;
use super::pairs::{check_auth_alone, headers, template, templates};
use super::params::{declared_params, params};
use super::platform::slug;
use super::section::{Section, one_of};
use crate::codes::Code;
use crate::ids::Slug;
use crate::plan::{Api, Format, Params, Platform, Timeouts};
use crate::recipe::{RESERVED, Template, Variables, path_problem};

/// Most apis of a platform.
const APIS_MAX: usize = 1_000;

const FORMATS: &[(&str, Format)] = &[
    ("auto", Format::Auto),
    ("json", Format::Json),
    ("csv", Format::Csv),
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
    /// False if `base_url` is broken, so that nothing can be said of hosts.
    pub(super) knows_host: bool,
}

/// The table `apis` of a platform. Their own limits are added to `all_limits`.
pub(super) fn apis(
    section: &mut Section<'_>,
    platform: &Platform,
    context: &ApiContext<'_>,
    all_limits: &mut Vec<Declared>,
) -> Vec<Api> {
    let had = section.has("apis");
    let mut apis = Vec::new();
    let Some(mut table) = section.section("apis") else {
        if !had {
            let hint = format!("[{}.apis.NAME] with path = \"…\"", section.path());
            section.mistake(Code::NoPlatforms, "apis", "the platform has no api", hint);
        }
        return apis;
    };
    let entries = table.entries();
    if entries.is_empty() || entries.len() > APIS_MAX {
        let (code, message) = if entries.is_empty() {
            (Code::NoPlatforms, "the platform has no api".to_owned())
        } else {
            (Code::TooMany, format!("{} apis, at most {APIS_MAX} are allowed", entries.len()))
        };
        section.mistake(code, "apis", message, "");
        return apis;
    }
    let platform_limits: Vec<String> =
        all_limits.iter().map(|own| own.limit.name.clone()).collect();
    for (name, value) in entries {
        let Some(slug) = slug(&table, &name) else { continue };
        let Some(mut section) = table.section_of(&name, value) else { continue };
        for own in limits(&mut section, Some(apis.len() as u16), context.guard) {
            let name = &own.limit.name;
            if platform_limits.contains(name) {
                let message = format!("the platform has a limit `{name}` too, and both count");
                let key = format!("limits.{name}");
                section.mistake(Code::DuplicateLimit, &key, message, "rename one of them");
            }
            all_limits.push(own);
        }
        apis.extend(api(section, slug, platform, context));
    }
    apis
}

fn api(
    mut section: Section<'_>,
    name: Slug,
    platform: &Platform,
    context: &ApiContext<'_>,
) -> Option<Api> {
    let declared = declared_params(&mut section);
    let names: Vec<&str> = declared
        .iter()
        .flat_map(|params| params.names.iter().map(String::as_str))
        .chain(RESERVED.iter().copied())
        .collect();
    let allowed = if declared.is_some() { Variables::Only(&names) } else { Variables::Any };
    let path = section
        .required("path", "what is called, joined to base_url: path = \"reports/{id}\"")
        .and_then(|text| path(&section, &text, &allowed, platform, context.knows_host));
    let query = section.section("query").map(|mut table| templates(&mut table, &allowed));
    let headers = headers(&mut section, &allowed);
    check_auth_alone(&section, &headers, platform.auth.as_ref());
    let timeouts = timeouts(&mut section, context.timeouts);
    let format = section.text("format").and_then(|text| one_of(&section, "format", &text, FORMATS));
    for name in ["body", "method"] {
        section.unsupported(name, "every call is a GET without a body");
    }
    for name in ["pages", "report"] {
        section.unsupported(name, "one fetch is one call");
    }
    let Some(path) = path else {
        section.finish();
        return None;
    };
    let mut api = Api {
        name,
        path,
        query: query.unwrap_or_default(),
        headers,
        params: Params::default(),
        timeouts,
        format: format.unwrap_or(Format::Auto),
    };
    api.params = params(&section, &api, platform, declared, context.key);
    section.finish();
    Some(api)
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
