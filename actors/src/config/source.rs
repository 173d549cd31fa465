//! From text to one tree of values: the file, then the environment, then overrides, later ones winning.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use ::config::{Config, Environment, File, FileFormat, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Mistakes, Place, Report};
use crate::codes::Code;

/// Largest configuration file in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Environment variables that are configuration start with this; `__` stands for the dot of a key.
const PREFIX: &str = "TOLLGATE__";
const SEPARATOR: &str = "__";
/// Most syntax errors that are shown of one file.
const SYNTAX_MAX: usize = 20;

/// Everything that was said, and what tells where.
pub(super) struct Source {
    pub(super) root: std::collections::HashMap<String, Value>,
    pub(super) report: Report,
}

/// Reads the file, if there is one, and puts environment and overrides over it.
pub(super) fn read(
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
    overrides: &[(String, String)],
) -> Result<Source, Mistakes> {
    let file = path.map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    let whole = |code, message: String, hint: &str| {
        Mistakes::one(Mistake {
            code,
            file: file.clone(),
            line: None,
            key: String::new(),
            message,
            hint: Some(hint.to_owned()),
        })
    };
    let text = match path {
        None => String::new(),
        Some(path) => read_file(path).map_err(|message| {
            whole(Code::ConfigUnreadable, message, "`tollgate init` writes a commented file")
        })?,
    };
    let places = parse_places(&file, &text)?;
    let settings: BTreeMap<&String, &String> =
        env.iter().filter(|(name, _)| name.to_uppercase().starts_with(PREFIX)).collect();
    let key_of = |name: &str| {
        name.get(PREFIX.len()..).unwrap_or_default().to_lowercase().replace(SEPARATOR, ".")
    };
    let from_environment: BTreeSet<String> = settings.keys().map(|name| key_of(name)).collect();
    let report = Report::new(file.clone(), places, from_environment);

    // Names that the crate would take for a path expression with brackets and the like.
    let (good, odd): (Vec<_>, Vec<_>) = settings.into_iter().partition(|(name, _)| {
        let key = key_of(name);
        key.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        })
    });
    for (name, _) in odd {
        report.mistake(
            Code::UnknownKey,
            &key_of(name),
            format!("the environment variable `{name}` names no key"),
            "names look like TOLLGATE__COLLECT__CONCURRENCY",
        );
    }
    let source = good.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut builder = Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .add_source(Environment::with_prefix("TOLLGATE").separator(SEPARATOR).source(Some(source)));
    for (key, value) in overrides {
        builder = builder
            .set_override(key, value.as_str())
            .map_err(|error| whole(Code::UnknownKey, format!("`{key}` is no key: {error}"), ""))?;
    }
    let config = builder.build().map_err(|error| {
        // What is TOML and still no value, a number beyond all bounds say: `config` does not know where it stands.
        if let Err(error) = text.parse::<toml::Table>() {
            return Mistakes::one(syntax_mistake(&file, &text, &error));
        }
        whole(Code::ConfigSyntax, format!("the configuration cannot be read: {error}"), "")
    })?;
    let root = config.cache.into_table().unwrap_or_default();
    Ok(Source { root, report })
}

fn read_file(path: &Path) -> Result<String, String> {
    let fail = |error: std::io::Error| format!("the file cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| {
        format!("the file is not UTF-8: byte {} is not", error.utf8_error().valid_up_to() + 1)
    })
}

/// Where each key stands, or every error of syntax. `config` knows neither lines nor columns.
fn parse_places(file: &str, text: &str) -> Result<BTreeMap<String, Place>, Mistakes> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut mistakes: Vec<Mistake> =
            errors.iter().take(SYNTAX_MAX).map(|error| syntax_mistake(file, text, error)).collect();
        mistakes.sort_by_key(|mistake| mistake.line);
        mistakes.dedup_by_key(|mistake| mistake.line);
        return Err(Mistakes::of(mistakes));
    }
    let mut line_starts = vec![0];
    line_starts.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
    let mut places = BTreeMap::new();
    collect_places(table.get_ref(), "", &line_starts, &mut places);
    Ok(places)
}

fn syntax_mistake(file: &str, text: &str, error: &toml::de::Error) -> Mistake {
    let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    // The line itself may hold a secret, so only what stands before a value is shown.
    let shown: String = text
        .lines()
        .nth(line - 1)
        .unwrap_or_default()
        .chars()
        .take_while(|c| *c != '=')
        .take(60)
        .collect();
    let shown = shown.trim();
    let quoted = if shown.is_empty() { String::new() } else { format!(" (at `{shown}`)") };
    Mistake {
        code: Code::ConfigSyntax,
        file: file.to_owned(),
        line: Some(line),
        key: String::new(),
        message: format!("not TOML: {}, column {column}{quoted}", error.message().trim()),
        hint: None,
    }
}

fn collect_places(
    table: &DeTable<'_>,
    above: &str,
    line_starts: &[usize],
    places: &mut BTreeMap<String, Place>,
) {
    for (key, value) in table {
        let name = key.get_ref();
        let path = if above.is_empty() { name.to_string() } else { format!("{above}.{name}") };
        let byte = key.span().start;
        let line = line_starts.partition_point(|start| *start <= byte);
        places.insert(path.clone(), Place { byte, line });
        places_within(value, &path, line_starts, places);
    }
}

/// Those of a table, and of the tables in a list by their numbers.
fn places_within(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    line_starts: &[usize],
    places: &mut BTreeMap<String, Place>,
) {
    match value.get_ref() {
        DeValue::Table(inner) => collect_places(inner, path, line_starts, places),
        DeValue::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                let path = format!("{path}.{number}");
                let byte = item.span().start;
                let line = line_starts.partition_point(|start| *start <= byte);
                places.insert(path.clone(), Place { byte, line });
                places_within(item, &path, line_starts, places);
            }
        }
        _ => {}
    }
}
