//! The tree as text: a node, below it its shards with what they supervise, then NATS and the store, then platforms with
//! accounts.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use jiff::Timestamp;

use super::seen::{Account, Away, Deaths, Node, Platform, Seen, Shard, State};
use crate::commands::status::printable;
use crate::ui::{number, size};

/// One line of the tree, and those below it.
struct Branch {
    text: String,
    below: Vec<Branch>,
}

impl Branch {
    fn of(text: String) -> Self {
        Self { text: printable(&text), below: Vec::new() }
    }

    fn with(text: String, below: Vec<Branch>) -> Self {
        Self { below, ..Self::of(text) }
    }

    fn write(&self, out: &mut String, before: &str, first: &str, rest: &str) {
        add(out, format_args!("{before}{first}{}\n", self.text));
        let before = format!("{before}{rest}");
        for (at, branch) in self.below.iter().enumerate() {
            let last = at + 1 == self.below.len();
            let (first, rest) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            branch.write(out, &before, first, rest);
        }
    }
}

/// All nodes, with as many actors and accounts of each shard and platform as `most`.
pub(super) fn of(seen: &Seen, most: usize) -> String {
    let mut out = String::new();
    for node in &seen.nodes {
        branch_of(node, most).write(&mut out, "", "", "");
    }
    if seen.nodes.is_empty() {
        out.push_str("no line of a node was found; `tollgate run` and `serve` write JSON where standard error is no terminal\n");
    }
    let mut apart = Vec::new();
    for (count, what) in [
        (seen.foreign, "lines of others"),
        (seen.too_long, "lines too long to be looked at"),
        (seen.beyond, "lines of more nodes, actors and accounts than are kept"),
    ] {
        if count > 0 {
            apart.push(format!("{} {what}", number(count)));
        }
    }
    if !apart.is_empty() {
        add(&mut out, format_args!("stepped over: {}\n", apart.join(", ")));
    }
    out
}

fn branch_of(node: &Node, most: usize) -> Branch {
    let name = node.name.as_deref().unwrap_or("a node whose start is not in the log");
    let mut words = vec![name.to_owned()];
    if let Some(version) = &node.version {
        words.push(format!("version {version}"));
    }
    if let Some(config) = node.config.as_deref().filter(|config| !config.is_empty()) {
        words.push(format!("limits {config}"));
    }
    words.push(match node.state {
        State::Working => "at work".to_owned(),
        State::Draining => "drains".to_owned(),
        State::Ended => "ended".to_owned(),
    });
    if node.starts > 1 {
        words.push(format!("started {} times", number(node.starts)));
    }
    if let Some(held) = node.partitions {
        words.push(format!("holds {held} partitions"));
    }
    let mut below = vec![Branch::of(format!(
        "log: {:.0} to {:.0}, {}, {}, {}{}",
        node.first,
        node.last,
        counted(node.lines, "line"),
        counted(node.warnings, "warning"),
        counted(node.errors, "error"),
        if node.left_out > 0 {
            format!(", {} left out", number(node.left_out))
        } else {
            String::new()
        }
    ))];
    let mut shards: Vec<&Shard> = node.shards.iter().collect();
    shards.sort_by_key(|shard| shard.shard.unwrap_or(u64::MAX));
    below.extend(shards.into_iter().map(|shard| of_shard(shard, most)));
    if node.events.contains_key("nats_connected") || node.nats.times > 0 {
        below.push(of_away("nats", "connected", &node.nats));
    }
    if node.store.times > 0 {
        below.push(of_away("store", "takes bodies", &node.store));
    }
    let minutes = node.last.duration_since(node.first).as_secs_f64();
    let platforms = node.platforms.iter();
    below.extend(platforms.map(|(name, one)| of_platform(name, one, node.last, minutes, most)));
    Branch::with(words.join(", "), below)
}

fn of_shard(shard: &Shard, most: usize) -> Branch {
    let name = match shard.shard {
        Some(number) => format!("shard {number}"),
        None => "a shard that the log does not name".to_owned(),
    };
    let mut below = Vec::new();
    if shard.collectors.deaths + shard.collectors.restarts > 0 {
        below.push(Branch::of(format!("collectors: {}", of_deaths(&shard.collectors))));
    }
    let mut actors: Vec<(&String, &Deaths)> = shard.actors.iter().collect();
    actors.sort_by_key(|(_, deaths)| std::cmp::Reverse((deaths.resting, deaths.deaths)));
    let left = actors.len().saturating_sub(most);
    for (name, deaths) in actors.into_iter().take(most) {
        below.push(Branch::of(format!("{name}: {}", of_deaths(deaths))));
    }
    if left > 0 {
        below.push(Branch::of(format!("{} more that died", number(left as u64))));
    }
    let died = if shard.died { ": died, and the process with it" } else { "" };
    Branch::with(format!("{name}{died}"), below)
}

fn of_deaths(deaths: &Deaths) -> String {
    let mut text = format!("died {}, restarted {}", times(deaths.deaths), times(deaths.restarts));
    if deaths.resting {
        let rests = deaths.restart_in_ms.unwrap_or(0) / 1000;
        add(&mut text, format_args!(", keeps dying and rests for {rests} s"));
    } else if deaths.restarts < deaths.deaths {
        text += ", not back yet";
    }
    if let Some(reason) = &deaths.reason {
        add(&mut text, format_args!("; last: {reason}"));
    }
    text
}

fn of_away(name: &str, well: &str, away: &Away) -> Branch {
    let mut text = match away.since {
        Some(since) => format!("{name}: away since {since:.0}"),
        None => format!("{name}: {well}"),
    };
    if away.times > 0 {
        add(&mut text, format_args!(", away {}", times(away.times)));
    }
    if away.away_ms > 0 {
        add(&mut text, format_args!(" for {:.1} s in all", away.away_ms as f64 / 1000.0));
    }
    if let Some(reason) = &away.reason {
        add(&mut text, format_args!("; {reason}"));
    }
    Branch::of(text)
}

fn of_platform(name: &str, one: &Platform, now: Timestamp, seconds: f64, most: usize) -> Branch {
    let mut text = format!("{name}: {} done", number(one.done));
    if one.done > 0 {
        let rate = one.done as f64 / seconds.max(1.0);
        add(&mut text, format_args!(", {}, {rate:.1}/s", size(one.done_bytes)));
        if seconds > 60.0 {
            add(
                &mut text,
                format_args!(", {:.1}/s in the last minute", one.done_in_minute(now) as f64 / 60.0),
            );
        }
    }
    let mut below = Vec::new();
    for (what, counts) in
        [("dead", &one.dead), ("failed attempts", &one.failed), ("limits that drift", &one.drift)]
    {
        if !counts.is_empty() {
            below.push(Branch::of(format!("{what}: {}", of_counts(counts))));
        }
    }
    let holds: u64 = one.accounts.values().map(|account| account.holds).sum();
    let held = |account: &Account| account.held_until.is_some_and(|until| until > now);
    if holds > 0 {
        let now_held = one.accounts.values().filter(|account| held(account)).count();
        below.push(Branch::of(format!(
            "holds: {}, {} held at the end of the log",
            number(holds),
            counted(now_held as u64, "account")
        )));
    }
    let mut accounts: Vec<(&String, &Account)> = one.accounts.iter().collect();
    accounts.sort_by_key(|(_, a)| std::cmp::Reverse((held(a), a.holds + a.dead, a.failed)));
    let left = accounts.len().saturating_sub(most);
    for (name, account) in accounts.into_iter().take(most) {
        let mut words = Vec::new();
        if account.holds > 0 {
            let because = account.because.as_deref().unwrap_or("");
            let scope = account.scope.as_deref().unwrap_or("account");
            let until = account.held_until.map_or_else(String::new, |until| {
                format!(", {} {until:.3}", if held(account) { "until" } else { "last until" })
            });
            words.push(format!("held {} ({because}, the {scope}{until})", times(account.holds)));
        }
        if account.failed > 0 {
            words.push(counted(account.failed, "failed attempt"));
        }
        if account.dead > 0 {
            words.push(format!("{} dead", number(account.dead)));
        }
        below.push(Branch::of(format!("account {name}: {}", words.join(", "))));
    }
    if left > 0 {
        below.push(Branch::of(format!("{} more accounts", number(left as u64))));
    }
    Branch::with(text, below)
}

fn of_counts(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<(&String, &u64)> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let words: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} {}", number(**count))).collect();
    words.join(", ")
}

fn add(text: &mut String, more: fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a String takes all that is written");
}

fn counted(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {what}{s}", number(count))
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{} times", number(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as a node writes it, a second after the one before.
    fn line(second: u32, level: &str, rest: &str) -> String {
        format!(
            r#"{{"timestamp":"2026-11-20T12:00:{second:02}.5Z","level":"{level}","message":"m",{rest}}}"#
        )
    }

    fn seen(lines: &[(&str, String)]) -> Seen {
        let mut seen = Seen::default();
        for (source, line) in lines {
            seen.take(source, line.as_bytes());
        }
        seen
    }

    #[test]
    fn a_tree_shows_who_died_where_and_who_is_held() {
        let log = [
            (
                "WARN",
                r#""event":"hold","platform":"p","account":"early","because":"told","scope":"account","wait_ms":1"#,
            ),
            (
                "INFO",
                r#""event":"node_started","node":"a","shards":2,"platforms":1,"config":"c0","version":"0.1.0""#,
            ),
            ("ERROR", r#""event":"panicked","reason":"boom","place":"x.rs:1""#),
            (
                "WARN",
                r#""event":"actor_died","kind":"throttle","shard":1,"platform":"p","account":"act_7","reason":"boom (x.rs:1)","deaths":1,"restart_in_ms":100"#,
            ),
            (
                "INFO",
                r#""event":"actor_restarted","kind":"throttle","platform":"p","account":"act_7","running":2"#,
            ),
            (
                "ERROR",
                r#""event":"actor_died","kind":"budget","shard":0,"platform":"p","budget":"all","code":"TG0207","reason":"again","deaths":6,"restart_in_ms":60000"#,
            ),
            (
                "WARN",
                r#""event":"actor_died","kind":"collector","shard":1,"reason":"boom","deaths":1"#,
            ),
            ("INFO", r#""event":"actor_restarted","kind":"collector","shard":1"#),
            ("WARN", r#""event":"nats_away","code":"TG0401","reason":"no server""#),
            ("INFO", r#""event":"nats_connected","times":2,"away_ms":2500"#),
            ("ERROR", r#""event":"store_away","code":"TG0206","reason":"no space""#),
            (
                "INFO",
                r#""event":"fetch_done","platform":"p","account":"a","api":"r","fetch_id":"1","seq":1,"bytes":2048,"calls":1"#,
            ),
            (
                "WARN",
                r#""event":"attempt_failed","platform":"p","account":"act_1","api":"r","outcome":"throttled","http_status":429,"reason":"r""#,
            ),
            (
                "WARN",
                r#""event":"hold","platform":"p","account":"act_1","because":"throttled","scope":"account","wait_ms":60000"#,
            ),
            (
                "WARN",
                r#""event":"fetch_dead","platform":"p","account":"act_2","api":"r","code":"TG0205","reason":"r""#,
            ),
            (
                "WARN",
                r#""event":"lines_left_out","of":"fetch_done","log_level":"INFO","left_out":12"#,
            ),
        ];
        let mut lines: Vec<(&str, String)> = Vec::new();
        for (second, (level, rest)) in log.iter().enumerate() {
            lines.push(("", line(second as u32, level, rest)));
        }
        lines.push(("", "tollgate: something for people".into()));
        lines.push(("", r#"{"timestamp":"now","level":"INFO","event":"of another"}"#.into()));
        let seen = seen(&lines);
        assert_eq!((seen.lines, seen.foreign, seen.nodes.len()), (16, 2, 1));
        let wanted = "\
a, version 0.1.0, limits c0, at work
├─ log: 2026-11-20T12:00:00Z to 2026-11-20T12:00:15Z, 16 lines, 8 warnings, 3 errors, 12 left out
├─ shard 0
│  └─ budget p/all: died once, restarted 0 times, keeps dying and rests for 60 s; last: again
├─ shard 1
│  ├─ collectors: died once, restarted once; last: boom
│  └─ throttle p/act_7: died once, restarted once; last: boom (x.rs:1)
├─ nats: connected, away once for 2.5 s in all
├─ store: away since 2026-11-20T12:00:10Z, away once; no space
└─ p: 1 done, 2.00 KiB, 0.1/s
   ├─ dead: TG0205 1
   ├─ failed attempts: throttled 1
   ├─ holds: 2, 1 account held at the end of the log
   ├─ account act_1: held once (throttled, the account, until 2026-11-20T12:01:13.500Z), 1 failed attempt
   ├─ account act_2: 1 dead
   └─ account early: held once (told, the account, last until 2026-11-20T12:00:00.501Z)
stepped over: 2 lines of others
";
        assert_eq!(of(&seen, 10), wanted);
        assert!(of(&seen, 1).contains("└─ 2 more accounts"));
    }

    #[test]
    fn nodes_are_told_apart_by_what_stands_before_their_lines() {
        let start = |node: &str| {
            line(1, "INFO", &format!(r#""event":"node_started","node":"{node}","shards":1"#))
        };
        let done = line(2, "INFO", r#""event":"fetch_done","platform":"p","account":"a""#);
        let seen = seen(&[
            ("", format!("tollgate-1  | {}", start("a"))),
            ("", format!("tollgate-2  | 2026-11-20T12:00:00Z {}", start("b"))),
            ("", format!("tollgate-1  | {done}")),
            ("", format!("tollgate-2  | 2026-11-20T12:00:09Z {done}")),
            ("", format!("tollgate-2  | 2026-11-20T12:00:10Z {done}")),
            ("", format!("tollgate-2  | 2026-11-20T12:00:11Z {}", start("b"))),
        ]);
        let told: Vec<_> = seen
            .nodes
            .iter()
            .map(|node| (node.name.as_deref().unwrap(), node.starts, node.platforms["p"].done))
            .collect();
        assert_eq!(told, [("a", 1, 1), ("b", 2, 2)]);
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_comes() {
        let mut seen = Seen::default();
        for n in 0..400 {
            seen.take(&format!("file{n}"), line(1, "INFO", r#""event":"drained""#).as_bytes());
        }
        assert_eq!((seen.nodes.len(), seen.beyond), (256, 144));
        for n in 0..30_000 {
            let hold = format!(r#""event":"hold","platform":"p","account":"{n}","wait_ms":1"#);
            seen.take("file0", line(2, "WARN", &hold).as_bytes());
        }
        assert_eq!(seen.nodes[0].platforms["p"].accounts.len(), 20_000);
        assert_eq!(seen.beyond, 144 + 10_000);
        for n in 0..2_000 {
            let dead = format!(r#""event":"fetch_dead","platform":"x{n}","code":"{n}""#);
            seen.take("file1", line(3, "WARN", &dead).as_bytes());
        }
        assert_eq!(seen.nodes[1].platforms.len(), 256);
        let long = format!(r#""event":"nats_away","reason":"{}""#, "ü".repeat(4000));
        seen.take("file2", line(4, "WARN", &long).as_bytes());
        assert!(seen.nodes[2].nats.reason.as_ref().unwrap().len() <= 256);
    }
}
