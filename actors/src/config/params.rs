//! Which parameters the fetches of an api carry.

use std::collections::BTreeSet;

use ::config::{Value, ValueKind};
use serde_json::Map;

use super::pairs::PAIRS_MAX;
use super::section::{Section, kind_of};
use super::weights::ApiCost;
use crate::codes::Code;
use crate::ids::preview;
use crate::plan::{Api, Params, Platform};
use crate::recipe::{RESERVED, Template, Zones, is_name, taken_by};

/// The key `params`: a list of names, or a table of names with `default`.
pub(super) fn declared_params(section: &mut Section<'_>) -> Option<Params> {
    let value = section.take("params")?;
    let mut params = Params::default();
    match value.kind {
        ValueKind::Array(items) => {
            for item in items {
                match item.kind {
                    ValueKind::String(name) => _ = params.names.insert(name),
                    _ => section.mistake(
                        Code::WrongType,
                        "params",
                        "every parameter is named by text",
                        "",
                    ),
                }
            }
        }
        ValueKind::Table(table) => {
            let mut table = Section::new(section.report(), section.key("params"), table);
            for (name, value) in table.entries() {
                if let Some(mut entry) = table.section_of(&name, value) {
                    if let Some(default) = entry.take("default")
                        && let Some(default) = default_value(&entry, default)
                    {
                        params.defaults.insert(name.clone(), default);
                    }
                    entry.finish();
                }
                params.names.insert(name);
            }
        }
        _ => {
            let message = format!("{} where a list of names belongs", kind_of(&value));
            section.mistake(Code::WrongType, "params", message, "params = [\"ids\", \"date\"]");
        }
    }
    if params.names.len() > PAIRS_MAX {
        let message = format!("{} parameters, at most {PAIRS_MAX} are allowed", params.names.len());
        section.mistake(Code::TooMany, "params", message, "");
    }
    for name in &params.names {
        check_param(section, "params", name);
    }
    Some(params)
}

fn check_param(section: &Section<'_>, key: &str, name: &str) {
    if RESERVED.contains(&name) {
        let message = format!("`{name}` is {} and needs no declaring", taken_by(name));
        section.mistake(Code::ReservedName, key, message, "leave it out");
    } else if !is_name(name) {
        let message = format!("`{}` is not the name of a parameter", preview(name));
        section.mistake(
            Code::BadName,
            key,
            message,
            "letters, digits and `_`, not starting with a digit",
        );
    }
}

/// A default as a fetch would carry it.
pub(super) fn default_value(section: &Section<'_>, value: Value) -> Option<serde_json::Value> {
    match value.kind {
        ValueKind::String(text) => Some(text.into()),
        ValueKind::I64(number) => Some(number.into()),
        ValueKind::Boolean(yes) => Some(yes.into()),
        ValueKind::Float(number) => Some(number.into()),
        ValueKind::Array(items) => {
            let items = items.into_iter().map(|item| default_value(section, item));
            items.collect::<Option<Vec<_>>>().map(Into::into)
        }
        _ => {
            let message = format!("{} cannot be a parameter", kind_of(&value));
            section.mistake(
                Code::WrongType,
                "default",
                message,
                "text, a number, true, false or a list",
            );
            None
        }
    }
}

/// Which parameters fetches of this api carry, with everything that names them at hand.
pub(super) fn params(
    section: &Section<'_>,
    api: &Api,
    platform: &Platform,
    declared: Option<Params>,
    key: &Template,
    costs: &[(usize, ApiCost)],
) -> Params {
    let mut own = Vec::new();
    api.templates(&mut |template| own.push(template));
    let shared = platform.headers.iter().map(|(_, template)| template);
    let shared = shared.chain(platform.zone.iter().flat_map(Zones::templates));
    let shared = shared.chain(platform.keys.iter().map(|(_, template)| template));
    let costs = costs.iter().filter_map(|(_, cost)| match cost {
        ApiCost::Template(template) => Some(template),
        ApiCost::Units(_) => None,
    });
    let named = own.into_iter().chain(shared).chain(costs).flat_map(Template::names);
    let is_page = |name: &String| api.pages.is_some() && name.split('.').next() == Some("page");
    let named = named.filter(|name| !RESERVED.contains(&name.as_str()) && !is_page(name));
    let in_key = key.names();
    let in_key = in_key.iter().filter_map(|name| name.strip_prefix("params.")).map(str::to_owned);
    // Of `a.b` the parameter is `a`.
    let needed: BTreeSet<String> =
        named.chain(in_key).filter_map(|name| name.split('.').next().map(str::to_owned)).collect();
    match declared {
        None => Params { names: needed, defaults: Map::new() },
        Some(params) => {
            for name in needed.difference(&params.names) {
                let message = format!(
                    "`{name}` is not among them, but the platform's headers, its keys or store.key name it"
                );
                section.mistake(Code::UnknownVariable, "params", message, "add it");
            }
            params
        }
    }
}
