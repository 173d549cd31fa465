//! The section `[store]`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::bucket::{self, Kind};
use super::mistake::Report;
use super::section::{Section, one_of};
use crate::answers::By;
use crate::codes::Code;
use crate::ids::{Slug, preview};
use crate::plan::{CollectPlan, Compression, Platform, StorePlan, StoreTarget};
use crate::recipe::{
    KEY_VARIABLES, Template, TemplateError, Variables, names, narrow, template_problems,
};
use crate::store::{BUCKET_BODY_BYTES_MAX, bucket_buffer_bytes_min};

const KEY: &str = "{platform}/{api}/{account}/{date}/{id}/{page}.{ext}";
/// Most parts of a key, so that it stays below what file systems allow.
const KEY_PARTS_MAX: usize = 16;

const COMPRESSIONS: &[(&str, Compression)] =
    &[("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];

/// The most that `spool_bytes_max` may be.
const SPOOL_BYTES_MOST: u64 = 1 << 50;

pub(super) fn store(
    section: Option<Section<'_>>,
    data: &Path,
    env: &BTreeMap<String, String>,
) -> StorePlan {
    let mut plan = StorePlan {
        target: StoreTarget::File(data.to_owned()),
        key: default_key(),
        narrow: Vec::new(),
        compression: Compression::Zstd,
        fsync: false,
        lines: true,
        spool_bytes_max: 0,
    };
    let Some(mut section) = section else { return plan };
    let url = section.text("url");
    let split = url.as_deref().and_then(|url| url.split_once(':'));
    if let Some((kind, rest)) = split.and_then(|(scheme, rest)| Some((Kind::of(scheme)?, rest))) {
        if let Some(bucket) = bucket::bucket(&mut section, kind, rest, env) {
            plan.target = StoreTarget::Bucket(Box::new(bucket));
        }
    } else {
        bucket::no_bucket(&mut section);
        if let Some(target) = url.and_then(|url| target(&section, &url)) {
            plan.target = target;
        }
    }
    if let Some(text) = section.text("key")
        && let Some(key) = key(&section, &text)
    {
        plan.narrow = narrow(&key);
        if !plan.narrow.is_empty() {
            let names: Vec<String> =
                plan.narrow.iter().map(|name| format!("`{{{name}}}`")).collect();
            let message = format!(
                "{}: without {} different fetches may ask for the same key; the second of them is given up with {}",
                Code::NarrowKey,
                names.join(", "),
                Code::KeyTaken,
            );
            section.report().warn(&section.key("key"), &message);
        }
        plan.key = key;
    }
    if let Some(text) = section.text("compression")
        && let Some(compression) = one_of(&section, "compression", &text, COMPRESSIONS)
    {
        plan.compression = compression;
    }
    if let Some(fsync) = section.flag("fsync") {
        plan.fsync = fsync;
    }
    if let Some(lines) = section.flag("lines") {
        plan.lines = lines;
    }
    if let Some(bytes) = section.size("spool_bytes_max", 0..=SPOOL_BYTES_MOST) {
        plan.spool_bytes_max = bytes;
    }
    section.finish();
    plan
}

fn default_key() -> Template {
    Template::parse(KEY, &Variables::Only(KEY_VARIABLES)).expect("the default key is a template")
}

fn target(section: &Section<'_>, url: &str) -> Option<StoreTarget> {
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let hint =
        "file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or memory:";
    match scheme {
        "memory" if rest.is_empty() || rest == "//" => Some(StoreTarget::Memory),
        "file" => {
            // `file:///var/x` is the same as `file:/var/x`; `file://host/x` is another machine's.
            let path = match rest.strip_prefix("//") {
                Some(path) if !path.starts_with('/') => "",
                Some(path) => path,
                None => rest,
            };
            if path.is_empty() {
                section.mistake(
                    Code::BadUrl,
                    "url",
                    "the URL names no folder",
                    "such as \"file:./objects\"",
                );
                return None;
            }
            Some(StoreTarget::File(PathBuf::from(path)))
        }
        "" => {
            let message = format!("`{}` does not say what kind of store it is", preview(url));
            section.mistake(
                Code::UnknownStore,
                "url",
                message,
                format!("for a folder: \"file:{}\"", preview(url)),
            );
            None
        }
        _ => {
            let message = format!("there is no store of kind `{}:`", preview(scheme));
            section.mistake(Code::UnknownStore, "url", message, hint);
            None
        }
    }
}

fn key(section: &Section<'_>, text: &str) -> Option<Template> {
    let template = match Template::parse(text, &Variables::Only(KEY_VARIABLES)) {
        Ok(template) => template,
        Err(error) => {
            let code = match error {
                TemplateError::Syntax(_) => Code::BadTemplate,
                TemplateError::Unknown { .. } => Code::UnknownVariable,
            };
            section.mistake(code, "key", error.to_string(), "");
            return None;
        }
    };
    let mut problems = template_problems(&template);
    if text.matches('/').count() >= KEY_PARTS_MAX {
        problems.push(format!("a key has at most {KEY_PARTS_MAX} parts"));
    }
    let good = problems.is_empty();
    for problem in problems {
        section.mistake(Code::UnsafeKey, "key", problem, format!("the default is \"{KEY}\""));
    }
    good.then_some(template)
}

/// Objects may not fall into the state folder: neither may the store be below it, nor a key lead there.
pub(super) fn check_state_apart(
    report: &Report,
    data: &Path,
    store: &StorePlan,
    platforms: &BTreeMap<Slug, Arc<Platform>>,
) {
    let StoreTarget::File(objects) = &store.target else { return };
    let (data, objects) = (plain(data), plain(objects));
    let state = data.join("state");
    if objects.starts_with(&state) {
        let message = "objects may not be stored in the state folder of this node";
        report.mistake(Code::BadValue, "store.url", message, "choose another folder");
    }
    let first_part = store.key.text().split('/').next().unwrap_or_default();
    let may_be_state = match first_part {
        "{platform}" => platforms.keys().any(|name| name.as_str() == "state"),
        "{api}" => platforms.values().any(|platform| platform.api("state").is_some()),
        "{account}" | "{id}" => true,
        part => part == "state" || part.contains("{params") || part.contains('|'),
    };
    if objects == data && may_be_state {
        let message = "objects would fall into `state`, the folder of this node's queue and ledger";
        report.mistake(
            Code::UnsafeKey,
            "store.key",
            message,
            "give store.url or node.data a folder of its own",
        );
    }
}

/// Where a key leaves the id out, the parts of a fetch that is split would share their keys with it and with each other,
/// unless the key names what they differ in.
pub(super) fn check_split_keys(
    report: &Report,
    store: &StorePlan,
    platforms: &BTreeMap<Slug, Arc<Platform>>,
) {
    if !store.narrow.contains(&"id") {
        return;
    }
    for platform in platforms.values() {
        for api in &platform.apis {
            let Some(split) = &api.answers.split else { continue };
            let params = match &split.by {
                By::Dates { from, to, .. } => vec![from, to],
                By::List { param } | By::Half { param, .. } => vec![param],
            };
            let needed = params.iter().map(|param| format!("params.{param}"));
            let lacking: Vec<String> = needed
                .filter(|name| !names(&store.key, name))
                .map(|name| format!("`{{{name}}}`"))
                .collect();
            if lacking.is_empty() {
                continue;
            }
            let message = format!(
                "the parts of a fetch that is split would have one key: `store.key` names neither `{{id}}` nor {}",
                lacking.join(", ")
            );
            let key = format!("platforms.{}.apis.{}.split", platform.name, api.name);
            report.mistake(Code::UnsafeKey, &key, message, "put `{id}` into store.key");
        }
    }
}

/// The largest body must fit into the parts of an upload, and two of these into the buffer.
pub(super) fn check_bodies_fit(report: &Report, store: &StorePlan, collect: &CollectPlan) {
    if !matches!(store.target, StoreTarget::Bucket(_)) {
        return;
    }
    if collect.body_bytes_max > BUCKET_BODY_BYTES_MAX {
        let message =
            format!("an object in a bucket has at most {BUCKET_BODY_BYTES_MAX} bytes (5 TiB)");
        report.mistake(Code::BadValue, "collect.body_bytes_max", message, "");
        return;
    }
    let least = bucket_buffer_bytes_min(collect.body_bytes_max);
    if collect.buffer_bytes_max < least {
        let message = format!(
            "a body of up to {} bytes goes into a bucket in 10,000 parts, and two of them with what belongs \
             to them take {least} bytes",
            collect.body_bytes_max
        );
        let hint = "a larger buffer_bytes_max, or a smaller body_bytes_max";
        report.mistake(Code::BadValue, "collect.buffer_bytes_max", message, hint);
    }
}

/// A path without `.` parts, for comparison only.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}
