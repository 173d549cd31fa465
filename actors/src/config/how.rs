//! What tells configurations apart that collect the same fetch in another way.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use ::config::{Value, ValueKind};
use sha2::{Digest, Sha256};

use crate::plan::{How, StorePlan, StoreTarget};

/// What a node's own machine and place are, and not how it collects.
const OWN_SECTIONS: [&str; 4] = ["node", "nats", "http", "stage"];
const OWN_OF_COLLECT: [&str; 5] =
    ["concurrency", "shards", "buffer_bytes_max", "drain", "spill_over"];

/// What a configuration says, in one canonical form. Secrets are in it as they stand there: by the names of where they
/// are.
pub(super) struct Said {
    calls: String,
    store: String,
}

impl Said {
    pub(super) fn of(root: &HashMap<String, Value>) -> Self {
        let (mut calls, mut store) = (String::new(), String::new());
        for (name, value) in sorted(root) {
            match name {
                "store" => write_value(&mut store, value),
                "collect" => {
                    let ValueKind::Table(table) = &value.kind else { continue };
                    let table = sorted(table).filter(|(name, _)| !OWN_OF_COLLECT.contains(name));
                    for (name, value) in table {
                        // In force only after a restart, as is all of the store.
                        let said = if name == "body_bytes_max" { &mut store } else { &mut calls };
                        said.push_str(name);
                        write_value(said, value);
                    }
                }
                name if OWN_SECTIONS.contains(&name) => {}
                name => {
                    calls.push_str(name);
                    write_value(&mut calls, value);
                }
            }
        }
        Self { calls, store }
    }

    /// `limits`: the hash of the limits, which may come from files; `store` as it was understood.
    pub(super) fn how(self, limits: &str, store: &StorePlan) -> How {
        let Self { calls, store: said } = self;
        let version = env!("CARGO_PKG_VERSION");
        let place = match &store.target {
            // Of two folders of that name below others, each is its own.
            StoreTarget::File(root) => {
                let root = std::path::absolute(root).unwrap_or_else(|_| root.clone());
                root.display().to_string()
            }
            StoreTarget::Memory | StoreTarget::Bucket(_) => String::new(),
        };
        How {
            calls: short(&format!("{version} {limits} {calls}")),
            store: short(&format!("{place} {said}")),
        }
    }
}

/// What tells the recipes of apis apart: see [`crate::plan::Plan::recipes`].
pub(super) fn recipes(root: &HashMap<String, Value>) -> BTreeMap<String, BTreeMap<String, String>> {
    let table = |value: Option<&Value>| match value.map(|value| &value.kind) {
        Some(ValueKind::Table(table)) => table.clone(),
        _ => HashMap::new(),
    };
    let mut all = BTreeMap::new();
    for (name, platform) in table(root.get("platforms")) {
        let platform = table(Some(&platform));
        let mut common = String::new();
        for (key, value) in sorted(&platform).filter(|(key, _)| !matches!(*key, "apis" | "limits"))
        {
            write_text(&mut common, key);
            write_value(&mut common, value);
        }
        let mut apis = BTreeMap::new();
        for (api, said) in table(platform.get("apis")) {
            let mut own = common.clone();
            for (key, value) in sorted(&table(Some(&said))).filter(|(key, _)| *key != "limits") {
                write_text(&mut own, key);
                write_value(&mut own, value);
            }
            apis.insert(api, short(&own));
        }
        all.insert(name, apis);
    }
    all
}

fn sorted(table: &HashMap<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    let sorted: BTreeMap<&str, &Value> =
        table.iter().map(|(name, value)| (name.as_str(), value)).collect();
    sorted.into_iter()
}

/// Each value with what ends it, so that no two trees read the same.
fn write_value(out: &mut String, value: &Value) {
    match &value.kind {
        ValueKind::Table(table) => {
            out.push('{');
            for (name, value) in sorted(table) {
                write_text(out, name);
                write_value(out, value);
            }
            out.push('}');
        }
        ValueKind::Array(values) => {
            out.push('[');
            for value in values {
                write_value(out, value);
            }
            out.push(']');
        }
        ValueKind::String(text) => write_text(out, text),
        other => write_text(out, &other.to_string()),
    }
}

fn write_text(out: &mut String, text: &str) {
    write!(out, "{}:{text} ", text.len()).expect("a String takes all");
}

fn short(text: &str) -> String {
    format!("{:x}", Sha256::digest(text)).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use crate::plan::How;

    fn how(text: &str) -> How {
        let file = tempfile::NamedTempFile::new().unwrap();
        let base =
            "[platforms.p]\nbase_url = \"http://p.test/\"\n[platforms.p.apis.a]\npath = \"a\"\n";
        std::fs::write(file.path(), format!("{text}\n{base}")).unwrap();
        match crate::config::load(Some(file.path()), std::iter::empty(), &[]) {
            Ok(loaded) => loaded.plan.how,
            Err(mistakes) => panic!("{mistakes}"),
        }
    }

    #[test]
    fn what_is_a_nodes_own_makes_no_difference_and_all_else_does() {
        let base = how("");
        for own in [
            "[node]\nname = \"other\"",
            "[http]\nlisten = \"off\"",
            "[nats]\nurl = \"nats://other:4222\"",
            "[collect]\nconcurrency = 7\nshards = 1\ndrain = \"1s\"\nspill_over = false",
        ] {
            assert_eq!(how(own), base, "{own}");
        }
        for store in [
            "[store]\ncompression = \"gzip\"",
            "[store]\nurl = \"file:/other\"",
            "[collect]\nbody_bytes_max = \"1MiB\"",
        ] {
            let other = how(store);
            assert!(other.store != base.store && other.calls == base.calls, "{store}");
        }
        for calls in [
            "[collect]\ntimeouts = { connect = \"1s\" }",
            "[platforms.q]\nbase_url = \"http://q.test/\"\n[platforms.q.apis.a]\npath = \"a\"",
        ] {
            let other = how(calls);
            assert!(other.calls != base.calls && other.store == base.store, "{calls}");
        }
    }
}
