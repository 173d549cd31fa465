//! The tables `[stage.NAME]`: what raw answers become in Parquet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::config::{Value, ValueKind};
use object_store::path::Path;
use tollgate_stage::{
    Column, EXPLODES_MAX, Format, From, Kind, Mismatch, Moment, Step, Table, Unknown, path, records,
};

use super::BAD;
use super::platform::slug;
use super::section::{Section, kind_of, one_of};
use crate::codes::Code;
use crate::ids::{Slug, preview};
use crate::plan::StagePlan;

/// Most tables of a configuration.
const STAGES_MAX: usize = 256;
/// Columns of a table that are declared.
const COLUMNS_MAX: usize = 1_000;
const FILE_BYTES: u64 = 128 * 1024 * 1024;
const RECORD_BYTES: u64 = 16 * 1024 * 1024;
/// A record is in memory several times over while it becomes rows.
const RECORD_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long what was collected may wait for nodes that stage.
const FOLLOW_LEAST: Duration = Duration::from_secs(1);
const FOLLOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How far apart objects may have been stored whose rows are put into one file later.
const MERGE_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
const MERGE_WITHIN_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

const FORMATS: &[(&str, Format)] = &[
    ("json", Format::Json),
    ("ndjson", Format::Ndjson),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
];
const UNKNOWN: &[(&str, Unknown)] = &[
    ("ignore", Unknown::Ignore),
    ("add", Unknown::Add),
    ("quarantine", Unknown::Quarantine),
    ("refuse", Unknown::Refuse),
];
const MISMATCH: &[(&str, Mismatch)] = &[
    ("quarantine", Mismatch::Quarantine),
    ("widen", Mismatch::Widen),
    ("refuse", Mismatch::Refuse),
];
/// What can be said of an input, beside `params.NAME` and `part.NAME`.
const OF_INPUTS: &[&str] = &["key", "platform", "api", "account", "id", "fetched_at"];
const TYPES: &str = "string, bool, int32, int64, float64, decimal(DIGITS,BEHIND), date, timestamp";

pub(super) fn stages(root: &mut Section<'_>) -> BTreeMap<Slug, Arc<StagePlan>> {
    let mut stages = BTreeMap::new();
    let Some(mut table) = root.section("stage") else { return stages };
    let entries = table.entries();
    if entries.len() > STAGES_MAX {
        let message = format!("{} tables, at most {STAGES_MAX} are allowed", entries.len());
        root.mistake(Code::TooMany, "stage", message, "");
        return stages;
    }
    for (name, value) in entries {
        let Some(slug) = slug(&table, &name) else { continue };
        let Some(section) = table.section_of(&name, value) else { continue };
        let Some(stage) = stage(section, &slug) else { continue };
        if let Some((key, other, whose)) = clash(&stages, &stage) {
            let message = format!(
                "it lies in `{whose}` of stage.{other}, or around it: files of one would be taken for the other's"
            );
            table.mistake(BAD, &format!("{slug}.{key}"), message, "a prefix of its own");
        }
        stages.insert(slug, Arc::new(stage));
    }
    stages
}

/// Another table whose files or objects would lie among those of this one: each run removes files below its `to` that
/// its records do not name. First the key of this one, last that of the other.
fn clash<'s>(
    stages: &'s BTreeMap<Slug, Arc<StagePlan>>,
    stage: &StagePlan,
) -> Option<(&'static str, &'s Slug, &'static str)> {
    let overlap = |a: &Path, b: &Path| a.prefix_matches(b) || b.prefix_matches(a);
    stages.iter().find_map(|(name, other)| {
        [
            ("to", &stage.to, "to", &other.to),
            ("to", &stage.to, "from", &other.from),
            ("from", &stage.from, "to", &other.to),
        ]
        .into_iter()
        .find_map(|(key, place, whose, others)| {
            overlap(place, others).then_some((key, name, whose))
        })
    })
}

fn stage(mut section: Section<'_>, name: &Slug) -> Option<StagePlan> {
    let from = section.required("from", "the prefix of the objects, such as \"kakao/offers\"");
    let from = from.and_then(|text| prefix(&section, "from", &text));
    let to = section.text("to").unwrap_or_else(|| format!("staged/{name}"));
    let to = prefix(&section, "to", &to);
    if let (Some(from), Some(to)) = (&from, &to)
        && (from.prefix_matches(to) || to.prefix_matches(from))
    {
        let message = "files would lie among the objects that they are made of";
        section.mistake(BAD, "to", message, "a prefix of its own, such as \"staged/NAME\"");
    }
    let manifest = section.flag("manifest").unwrap_or(true);
    let format = section.text("format");
    let format = format.and_then(|text| one_of(&section, "format", &text, FORMATS));
    let separator = separator(&mut section).unwrap_or(b',');
    let records = steps(&mut section);
    let explode = explode(&mut section);
    let columns = columns(&mut section);
    let partition = named(&mut section, "partition", &columns);
    let sort = named(&mut section, "sort", &columns);
    let unknown = section.text("unknown");
    let unknown = unknown.and_then(|text| one_of(&section, "unknown", &text, UNKNOWN));
    let mismatch = section.text("mismatch");
    let mismatch = mismatch.and_then(|text| one_of(&section, "mismatch", &text, MISMATCH));
    let nulls = texts(&mut section, "nulls").unwrap_or_default();
    let file_bytes = section.size("file_bytes", 64 * 1024..=4 * 1024 * 1024 * 1024);
    let record_bytes = section.size("record_bytes_max", 1024..=RECORD_BYTES_MAX);
    let follow = section.duration("follow", FOLLOW_LEAST..=FOLLOW_MAX);
    let merge_within = section.duration("merge_within", Duration::ZERO..=MERGE_WITHIN_MAX);
    if follow.is_some() && !manifest {
        let message = "nodes follow what they collect, which has manifests: with `manifest = false` they would not hear of the rest";
        section.mistake(BAD, "follow", message, "leave one of the two out");
    }
    section.finish();
    let table = Table {
        format,
        records,
        explode,
        columns,
        partition,
        sort,
        unknown: unknown.unwrap_or(Unknown::Ignore),
        mismatch: mismatch.unwrap_or(Mismatch::Quarantine),
        nulls,
        separator,
    };
    Some(StagePlan {
        from: from?,
        to: to?,
        manifest,
        table,
        file_bytes: file_bytes.unwrap_or(FILE_BYTES),
        record_bytes_max: record_bytes.unwrap_or(RECORD_BYTES),
        follow,
        merge_within: merge_within.unwrap_or(MERGE_WITHIN),
    })
}

fn prefix(section: &Section<'_>, name: &str, text: &str) -> Option<Path> {
    let bad = |message: String| {
        section.mistake(BAD, name, message, "parts with slashes between them, below the store");
        None
    };
    match Path::parse(text.trim_end_matches('/')) {
        Ok(path) if path.is_root() => bad("a prefix has at least one part".to_owned()),
        Ok(path) => Some(path),
        Err(error) => bad(error.to_string()),
    }
}

fn separator(section: &mut Section<'_>) -> Option<u8> {
    let text = section.text("separator")?;
    let &[byte] = text.as_bytes() else {
        section.mistake(BAD, "separator", "a separator is one ASCII character", "such as \";\"");
        return None;
    };
    if !byte.is_ascii() || byte.is_ascii_alphanumeric() || b"\"\r\n".contains(&byte) {
        let message = format!("`{}` cannot separate fields", preview(&text));
        section.mistake(BAD, "separator", message, "such as \";\"");
        return None;
    }
    Some(byte)
}

fn steps(section: &mut Section<'_>) -> Vec<Step> {
    let Some(text) = section.text("records") else { return Vec::new() };
    records(&text).unwrap_or_else(|reason| {
        section.mistake(BAD, "records", reason, "such as \"data.offers[]\"");
        Vec::new()
    })
}

fn explode(section: &mut Section<'_>) -> Vec<Vec<String>> {
    let Some(lists) = section.list("explode") else { return Vec::new() };
    if lists.len() > EXPLODES_MAX {
        let message = format!("{} lists, at most {EXPLODES_MAX} are allowed", lists.len());
        section.mistake(Code::TooMany, "explode", message, "");
        return Vec::new();
    }
    lists.iter().map(|text| path(text.trim_end_matches("[]"))).collect()
}

fn columns(section: &mut Section<'_>) -> Vec<Column> {
    if !section.has("columns") {
        section.knows("columns");
        let hint = format!("[{}] with lines such as id = \"int64\"", section.key("columns"));
        section.mistake(Code::MissingKey, "columns", "`columns` is missing", hint);
        return Vec::new();
    }
    let Some(mut table) = section.section("columns") else { return Vec::new() };
    let entries = table.entries();
    if entries.is_empty() || entries.len() > COLUMNS_MAX {
        let message = format!("{} columns, 1 to {COLUMNS_MAX} are allowed", entries.len());
        section.mistake(Code::TooMany, "columns", message, "");
    }
    entries.into_iter().filter_map(|(name, value)| column(&table, name, value)).collect()
}

fn column(table: &Section<'_>, name: String, value: Value) -> Option<Column> {
    if let ValueKind::String(text) = &value.kind {
        let kind = kind(table, &name, text)?;
        let from = From::Path(path(&name));
        return Some(Column { name, from, kind, default: None, required: false });
    }
    let mut section = table.section_of(&name, value)?;
    let kind = section.required("type", TYPES).and_then(|text| kind(&section, "type", &text));
    let default = section.text("default");
    let required = section.flag("required").unwrap_or(false);
    let below = match section.peek("path").map(|value| &value.kind) {
        Some(ValueKind::Array(_)) => section.list("path"),
        _ => section.text("path").map(|text| path(&text)),
    };
    let input = section.text("input");
    if let Some(input) = &input {
        if below.is_some() {
            let message = "a value is of the record (`path`) or of its object (`input`), not both";
            section.mistake(BAD, "input", message, "");
        }
        let is_named = ["params.", "part."]
            .iter()
            .any(|start| input.len() > start.len() && input.starts_with(start));
        if !is_named && !OF_INPUTS.contains(&input.as_str()) {
            let message = format!("nothing of an object is called `{}`", preview(input));
            let hint = format!("one of {}, params.NAME, part.NAME", OF_INPUTS.join(", "));
            section.mistake(BAD, "input", message, hint);
        }
    }
    if below.as_ref().is_some_and(|below| below.is_empty() || below.iter().any(String::is_empty)) {
        section.mistake(BAD, "path", "a path has no empty names", "such as \"price.total\"");
    }
    let formats = texts(&mut section, "format");
    let zone = section.text("zone");
    let kind = kind.map(|kind| with_formats(&section, kind, formats, zone));
    section.finish();
    let from = match (input, below) {
        (Some(input), _) => From::Input(input),
        (None, Some(below)) => From::Path(below),
        (None, None) => From::Path(path(&name)),
    };
    Some(Column { name, from, kind: kind?, default, required })
}

fn kind(section: &Section<'_>, name: &str, text: &str) -> Option<Kind> {
    let kind = Kind::of_name(text);
    if kind.is_none() {
        let message = format!("there is no type `{}`", preview(text));
        section.mistake(BAD, name, message, format!("one of {TYPES}; DIGITS at most 38"));
    }
    kind
}

fn with_formats(
    section: &Section<'_>,
    kind: Kind,
    said: Option<Vec<String>>,
    zone: Option<String>,
) -> Kind {
    let is_strftime = |text: &String| text.contains('%');
    match kind {
        Kind::Timestamp { formats, zone: utc } => {
            let formats = match said {
                None => formats,
                Some(said) => said.into_iter().filter_map(|text| moment(section, text)).collect(),
            };
            Kind::Timestamp { formats, zone: zone.unwrap_or(utc) }
        }
        kind => {
            if zone.is_some() {
                section.mistake(BAD, "zone", "only a timestamp has a time zone", "");
            }
            let Some(formats) = said else { return kind };
            if let Some(odd) = formats.iter().find(|text| !is_strftime(text)) {
                let message = format!("`{}` is no format of a date", preview(odd));
                section.mistake(BAD, "format", message, "as strftime has it: \"%Y%m%d\"");
            }
            if let Kind::Date { .. } = kind {
                return Kind::Date { formats };
            }
            section.mistake(BAD, "format", "only a date or a timestamp has a format", "");
            kind
        }
    }
}

fn moment(section: &Section<'_>, text: String) -> Option<Moment> {
    Some(match text.as_str() {
        "iso" => Moment::Iso,
        "unix_s" => Moment::Unix(1),
        "unix_ms" => Moment::Unix(1_000),
        "unix_us" => Moment::Unix(1_000_000),
        _ if text.contains('%') => Moment::Format(text),
        _ => {
            let message = format!("`{}` is no format of a timestamp", preview(&text));
            let hint = "iso, unix_s, unix_ms, unix_us, or as strftime has it: \"%d/%m/%Y %H:%M\"";
            section.mistake(BAD, "format", message, hint);
            return None;
        }
    })
}

/// A text, or a list of texts; commas separate nothing.
fn texts(section: &mut Section<'_>, name: &'static str) -> Option<Vec<String>> {
    let value = section.take(name)?;
    let items = match value.kind {
        ValueKind::String(text) => return Some(vec![text]),
        ValueKind::Array(items) => items,
        _ => {
            let message = format!("{} where text or a list of texts belongs", kind_of(&value));
            section.mistake(Code::WrongType, name, message, "");
            return None;
        }
    };
    let texts = items.into_iter().map(|item| match item.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    });
    let texts: Option<Vec<String>> = texts.collect();
    if texts.is_none() {
        section.mistake(Code::WrongType, name, "every item of this list must be text", "");
    }
    texts
}

/// Columns by name.
fn named(section: &mut Section<'_>, name: &'static str, columns: &[Column]) -> Vec<usize> {
    let Some(names) = section.list(name) else { return Vec::new() };
    let mut found = Vec::with_capacity(names.len());
    for wanted in names {
        match columns.iter().position(|column| column.name == wanted) {
            Some(at) if !found.contains(&at) => found.push(at),
            _ => {
                let message =
                    format!("there is no column `{}`, or it is said twice", preview(&wanted));
                section.mistake(BAD, name, message, "");
            }
        }
    }
    found
}
