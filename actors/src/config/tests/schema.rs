//! The schema for editors knows what the parser knows, and the recipe to start from is right line by line.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::config::section::KNOWN;
use crate::ids::Slug;

fn schema() -> Value {
    serde_json::from_str(schema_text()).unwrap()
}

/// What a `$ref` stands for.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(name) => {
            let found = root.pointer(name.strip_prefix('#').unwrap());
            resolved(root, found.unwrap_or_else(|| panic!("{name} is not defined")))
        }
        None => schema,
    }
}

/// The schemas that a key of an object, or a place of a list, may have.
fn below<'s>(root: &'s Value, schema: &'s Value, key: &str, found: &mut Vec<&'s Value>) {
    let schema = resolved(root, schema);
    for choice in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        below(root, choice, key, found);
    }
    if key.parse::<usize>().is_ok()
        && let Some(items) = schema.get("items")
    {
        found.push(items);
        return;
    }
    if let Some(property) = schema.pointer("/properties").and_then(|all| all.get(key)) {
        found.push(property);
    } else if let Some(other) = schema.get("additionalProperties").filter(|other| other.is_object())
    {
        found.push(other);
    }
}

/// What the whole of a limit has, and the part of it that is another for some does not.
const OF_THE_WHOLE: &[&str] = &["per", "when", "override", "tiers"];

#[test]
fn the_schema_has_every_key_that_the_parser_knows() {
    KNOWN.with(|known| known.borrow_mut().clear());
    for text in texts() {
        drop(load_with(&text, &ENV));
    }
    let known: BTreeSet<Vec<String>> = KNOWN.with(|known| known.borrow().clone());
    assert!(known.len() > 100, "{known:?}");
    let root = schema();
    let mut missing = BTreeSet::new();
    for path in &known {
        let mut schemas = vec![&root];
        for key in path {
            let mut next = Vec::new();
            for schema in schemas {
                below(&root, schema, key, &mut next);
            }
            schemas = next;
        }
        let last = path.last().unwrap();
        let in_part =
            path.iter().rev().nth(2).is_some_and(|above| OF_THE_WHOLE.contains(&above.as_str()));
        if schemas.is_empty() && !(in_part && OF_THE_WHOLE.contains(&last.as_str())) {
            missing.insert(path.join("."));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

const ENV: [(&str, &str); 3] = [("EXAMPLE_TOKEN", "t"), ("TOKEN", "t"), ("NAME", "n")];

fn recipe() -> String {
    recipe_text(&Slug::new("acme").unwrap())
}

/// Lines that begin with `# ` and a key, without that sign.
fn commented(line: &str) -> Option<&str> {
    let bare = line.strip_prefix("# ")?;
    let (key, _) = bare.split_once(" = ")?;
    let is_key = |b: u8| b.is_ascii_lowercase() || b"_.".contains(&b);
    key.bytes().all(is_key).then_some(bare)
}

/// A recipe with one of its comments in force, in the place of the same key where it is there.
fn with(number: usize, bare: &str) -> String {
    let key = bare.split_once(" = ").unwrap().0;
    let text = recipe();
    let lines: Vec<&str> = text.lines().collect();
    let table = |at: usize| lines[..at].iter().rposition(|line| line.starts_with('['));
    let kept = lines.iter().enumerate().map(|(at, line)| {
        if at == number {
            bare
        } else if line.starts_with(&format!("{key} = ")) && table(at) == table(number) {
            ""
        } else {
            line
        }
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn alternatives() -> Vec<String> {
    let text = recipe();
    let lines = text.lines().enumerate();
    lines.filter_map(|(number, line)| Some(with(number, commented(line)?))).collect()
}

/// Configurations with as many keys as are documented.
fn texts() -> Vec<String> {
    let all: Vec<String> = init_text()
        .lines()
        .map(|line| {
            let bare = line.trim_start_matches("# ").trim_start_matches("#   ");
            let is_key = bare.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
            let is_table = ["[nats]", "[http]", "[traces]", "[notify]"]
                .iter()
                .any(|table| bare.starts_with(table));
            if is_key || is_table { bare.to_owned() } else { line.to_owned() }
        })
        .collect();
    let mut texts = vec![init_text().to_owned(), all.join("\n"), recipe()];
    texts.extend(alternatives());
    texts
}

#[test]
fn every_line_of_the_recipe_to_start_from_can_be_put_in_force() {
    let alternatives = alternatives();
    assert!(alternatives.len() > 20, "{}", alternatives.len());
    for text in alternatives.iter().chain([&recipe()]) {
        if let Err(mistakes) = load_with(text, &ENV) {
            panic!("{text}\n{mistakes}");
        }
    }
}

/// What the schema says is wrong with a value: the few words of JSON schema that it uses.
fn problem(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    let schema = resolved(root, schema);
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let problems: Vec<String> =
            choices.iter().filter_map(|choice| problem(root, choice, value)).collect();
        if problems.len() == choices.len() {
            return Some(format!("{value}: none of {problems:?}"));
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
    match schema.get("type") {
        Some(Value::Array(kinds)) if !kinds.iter().any(fits) => {
            return Some(format!("{value} is no {kinds:?}"));
        }
        Some(wanted @ Value::String(_)) if !fits(wanted) => {
            return Some(format!("{value} is no {wanted}"));
        }
        _ => {}
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array)
        && !words.contains(value)
    {
        return Some(format!("{value} is none of {words:?}"));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return Some(format!("{value} is another"));
    }
    for (place, item) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(problem) = schema.get("items").and_then(|items| problem(root, items, item)) {
            return Some(format!("{place}: {problem}"));
        }
    }
    let needed = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in needed {
        if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
            return Some(format!("{name} is missing"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let own = schema.pointer("/properties").and_then(|all| all.get(name));
        let problem = match own.or_else(|| schema.get("additionalProperties")) {
            Some(Value::Bool(false)) => Some("not known".to_owned()),
            Some(other) => problem(root, other, field),
            None => None,
        };
        if let Some(problem) = problem {
            return Some(format!("{name}: {problem}"));
        }
    }
    None
}

fn as_json(text: &str) -> Value {
    serde_json::to_value(
        text.parse::<toml::Table>().unwrap_or_else(|error| panic!("{text}\n{error}")),
    )
    .unwrap()
}

#[test]
fn what_the_parser_takes_the_schema_takes_too() {
    let root = schema();
    for text in texts() {
        if text.parse::<toml::Table>().is_err() || load_with(&text, &ENV).is_err() {
            continue;
        }
        if let Some(problem) = problem(&root, &root, &as_json(&text)) {
            panic!("{text}\n{problem}");
        }
    }
    let base = as_json(BASE);
    assert_eq!(problem(&root, &root, &base), None);
}

#[test]
fn what_is_misspelt_the_schema_refuses() {
    let root = schema();
    for text in [
        "[nod]",
        "[collect]\nconcurrency = \"many\\n\"\nshard = 1",
        "[platforms.p]\nbase_url = \"https://x\"\napis.a = { pat = \"x\" }",
        "[platforms.p]\nbase_url = \"https://x\"\napis.a = { path = \"x\", method = \"get\" }",
        "[platforms.p]\nbase_url = \"https://x\"\napis.a = { path = \"x\", query = { a = { valu = \"x\" } } }",
        "[platforms.p]\nbase_url = \"https://x\"\nlimits.a = { pre = [\"account\"] }\napis.a = { path = \"x\" }",
    ] {
        assert!(problem(&root, &root, &as_json(text)).is_some(), "{text}");
    }
}

/// The examples of docs/recipes.md: what kind each is (`toml KIND`), and its text.
fn examples() -> Vec<(String, String)> {
    let text = include_str!("../../../../docs/recipes.md");
    let mut examples = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(kind) = kind.strip_prefix("toml") {
            examples.push((kind.trim().to_owned(), body.join("\n")));
        }
    }
    examples
}

#[test]
fn every_example_of_the_documentation_is_right() {
    let env = [("ACME_TOKEN", "t")];
    let (base, root) = ("[platforms.acme]\nbase_url = \"https://api.example.com/v1/\"\n", schema());
    let examples = examples();
    assert!(examples.len() > 25, "{}", examples.len());
    for (kind, text) in examples {
        let text = match &*kind {
            "whole" => text,
            "platform" => format!("{base}{text}\n[platforms.acme.apis.a]\npath = \"x\""),
            "" => {
                let path = if text.contains("path = ") { "" } else { "path = \"x\"\n" };
                format!("{base}[platforms.acme.apis.a]\n{path}{text}")
            }
            "case" => {
                let case = crate::rehearsal::Case::parse(&text, Path::new("."));
                assert!(case.is_ok(), "{text}\n{case:?}");
                continue;
            }
            other => panic!("{other}: whole, platform or case, or nothing for an api"),
        };
        if let Err(mistakes) = load_with(&text, &env) {
            panic!("{text}\n{mistakes}");
        }
        if let Some(problem) = problem(&root, &root, &as_json(&text)) {
            panic!("{text}\n{problem}");
        }
    }
}
