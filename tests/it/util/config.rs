//! Configurations and fetches as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use tollgate_emulator::Emulator;

use super::Nats;

/// A configuration for one platform, `p`.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    base_url: String,
    sections: BTreeMap<&'static str, Vec<String>>,
    apis: Vec<String>,
}

impl Config {
    /// The platform `p` at this emulator, which is told the account by header. No limits, no apis.
    pub(crate) fn of(emulator: &Emulator) -> Self {
        Self::at(&emulator.base_url()).platform(r#"headers = { X-Account = "{account}" }"#)
    }

    /// The platform `p` at this URL.
    pub(crate) fn at(base_url: &str) -> Self {
        Self { base_url: base_url.to_owned(), sections: BTreeMap::new(), apis: Vec::new() }
    }

    fn line(mut self, section: &'static str, line: &str) -> Self {
        self.sections.entry(section).or_default().push(line.to_owned());
        self
    }

    pub(crate) fn store(self, line: &str) -> Self {
        self.line("store", line)
    }

    pub(crate) fn collect(self, line: &str) -> Self {
        self.line("collect", line)
    }

    /// With the streams on this server.
    pub(crate) fn on(self, nats: &Nats) -> Self {
        self.nats(&format!("url = \"{}\"", nats.server.url()))
    }

    /// A line of `[nats]`, a section that is there only with a line.
    pub(crate) fn nats(self, line: &str) -> Self {
        self.line("nats", line)
    }

    /// A line of `[http]`. Without one a node answers no HTTP: its usual port is of no use to many tests at once.
    pub(crate) fn http(self, line: &str) -> Self {
        self.line("http", line)
    }

    /// A line of `[platforms.p]`.
    pub(crate) fn platform(self, line: &str) -> Self {
        self.line("platforms.p", line)
    }

    /// A line of `[platforms.p.limits]`.
    pub(crate) fn limit(self, line: &str) -> Self {
        self.line("platforms.p.limits", line)
    }

    /// An api with the lines of its table.
    pub(crate) fn api(mut self, name: &str, lines: &str) -> Self {
        self.apis.push(format!("[platforms.p.apis.{name}]\n{lines}\n"));
        self
    }

    /// The api `report` that collects `v1/reports/daily?date=…`.
    pub(crate) fn report(self) -> Self {
        self.api("report", "path = \"v1/reports/daily\"\nquery = { date = \"{date}\" }")
    }

    /// As TOML.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let lines = |name: &str| self.sections.get(name).map(|l| l.join("\n")).unwrap_or_default();
        writeln!(text, "[node]\ndata = \"data\"").unwrap();
        for section in ["store", "collect"] {
            writeln!(text, "[{section}]\n{}", lines(section)).unwrap();
        }
        if self.sections.contains_key("nats") {
            writeln!(text, "[nats]\n{}", lines("nats")).unwrap();
            let listen = self.sections.contains_key("http");
            let listen = if listen { lines("http") } else { "listen = \"off\"".into() };
            writeln!(text, "[http]\n{listen}").unwrap();
        }
        writeln!(text, "[platforms.p]\nbase_url = \"{}\"", self.base_url).unwrap();
        writeln!(text, "{}", lines("platforms.p")).unwrap();
        writeln!(text, "[platforms.p.limits]\n{}", lines("platforms.p.limits")).unwrap();
        text.extend(self.apis.iter().map(String::as_str));
        text
    }
}

/// One fetch of platform `p` as a line, with these further fields.
pub(crate) fn fetch(account: &str, api: &str, id: &str, more: Value) -> String {
    let mut fetch = json!({ "id": id, "platform": "p", "account": account, "api": api });
    if let Value::Object(more) = more {
        fetch.as_object_mut().unwrap().extend(more);
    }
    format!("{fetch}\n")
}

/// Fetches of the api `report`, `each` for every account, day by day; the id is the day.
pub(crate) fn reports(accounts: &[String], each: usize) -> String {
    let day = |day: usize| format!("2026-{:02}-{:02}", 1 + day / 28, 1 + day % 28);
    (0..each)
        .flat_map(|n| accounts.iter().map(move |account| (n, account)))
        .map(|(n, account)| {
            fetch(account, "report", &day(n), json!({ "params": { "date": day(n) } }))
        })
        .collect()
}

/// `prefix_0`, `prefix_1`, …
pub(crate) fn accounts(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}_{n}")).collect()
}
