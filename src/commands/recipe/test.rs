//! `tollgate recipe test`: a recipe against recorded answers. No call is made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;
use tollgate_actors::config;
use tollgate_actors::plan::Plan;
use tollgate_actors::rehearsal::{Case, Rehearsed, rehearse, without_secrets};

use super::diff::diff;
use crate::cli::{Global, RecipeTestArgs};
use crate::commands::{Exit, environment, shown};
use crate::ui::{print, say};

/// Most cases of one command, and how deep folders are searched.
const CASES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;
/// What the expectation of a case begins with; it is the last of its file.
const EXPECT: &str = "[expect]";

/// How a case went.
enum Went {
    /// As expected, or nothing was expected and it ended.
    Well,
    /// As the file says now.
    Recorded,
    /// Not as expected.
    Badly,
}

pub(super) fn run(global: &Global, args: &RecipeTestArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(&global.config) else { return Ok(Exit::Usage) };
    let mut cases = Vec::new();
    for path in &args.paths {
        if path.is_dir() {
            let before = cases.len();
            search(path, DEPTH_MAX, &mut cases)?;
            if cases.len() == before {
                bail!("{} has no case: files *.toml with a table [fetch]", shown(path));
            }
        } else {
            cases.push(path.clone());
        }
    }
    let (mut bad, mut recorded) = (0, 0);
    for path in &cases {
        match one(&plan, path, args)? {
            Went::Well => {}
            Went::Recorded => recorded += 1,
            Went::Badly => bad += 1,
        }
    }
    let count = cases.len();
    let cases = if count == 1 { "1 case".to_owned() } else { format!("{count} cases") };
    match (bad, recorded) {
        (0, 0) => say(format_args!("{cases}: as expected")),
        (0, recorded) => say(format_args!("{cases}: {recorded} recorded")),
        (bad, _) => say(format_args!("{cases}: {bad} not as expected")),
    }
    Ok(if bad > 0 { Exit::Failed } else { Exit::Done })
}

/// The configuration, with stand-ins for what it takes from the environment as secrets.
fn plan(path: &Path) -> Option<Plan> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let env = without_secrets(&text, environment());
    match config::load(Some(path), env.into_iter(), &[]) {
        Ok(loaded) => {
            for warning in loaded.warnings {
                say(format_args!("tollgate: warning: {warning}"));
            }
            Some(loaded.plan)
        }
        Err(mistakes) => {
            say(format_args!("tollgate: {mistakes}"));
            None
        }
    }
}

/// The cases in a folder and below it, in the order of their names.
fn search(folder: &Path, depth: usize, cases: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let context = || format!("read {}", shown(folder));
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        entries.push(entry.with_context(context)?.path());
    }
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if depth > 0 {
                search(&path, depth - 1, cases)?;
            }
        } else if path.extension().is_some_and(|kind| kind == "toml") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", shown(&path)))?;
            // A recipe beside its cases is none of them.
            if text.lines().any(|line| line.trim() == "[fetch]") {
                cases.push(path);
            }
        }
        if cases.len() > CASES_MAX {
            bail!("{} has more than {CASES_MAX} cases", shown(folder));
        }
    }
    Ok(())
}

fn one(plan: &Plan, path: &Path, args: &RecipeTestArgs) -> anyhow::Result<Went> {
    let case = Case::read(path)?;
    let plan = plan.clone();
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().expect("a runtime of one thread")
    };
    let system = actix_rt::System::with_tokio_rt(runtime);
    let Rehearsed { report, ended } = system.block_on(async { rehearse(plan, &case).await });
    let same = case.expected.as_deref().map(|expected| expected.trim() == report.trim());
    let name = shown(path);
    if args.json {
        let line = json!({ "case": name, "ended": ended, "expected": same, "report": report });
        print(format_args!("{line}"))?;
    } else if same != Some(true) && !args.record {
        match &case.expected {
            None => print(format_args!("{name}\n{report}"))?,
            Some(expected) => {
                let diff = diff(expected.trim(), report.trim());
                print(format_args!("{name}: not as expected\n{diff}"))?;
            }
        }
    }
    if args.record && same != Some(true) {
        record(path, &report)?;
        return Ok(Went::Recorded);
    }
    Ok(match same {
        Some(true) => Went::Well,
        None if ended => Went::Well,
        Some(false) | None => Went::Badly,
    })
}

/// Puts a report in the place of the expectation in a case, or at its end.
fn record(path: &Path, report: &str) -> anyhow::Result<()> {
    let context = || format!("write {}", shown(path));
    let text = fs::read_to_string(path).with_context(context)?;
    let text = with_expectation(&text, report).with_context(context)?;
    let beside = path.with_extension("toml.new");
    fs::write(&beside, text).with_context(context)?;
    fs::rename(&beside, path).with_context(context)
}

fn with_expectation(text: &str, report: &str) -> anyhow::Result<String> {
    let at = text.lines().position(|line| line.trim() == EXPECT);
    let lines: Vec<&str> = text.lines().collect();
    let kept = lines.get(..at.unwrap_or(lines.len())).unwrap_or_default().join("\n");
    // A report holds no line that would end its text: quotes in it are escaped.
    let report = report.replace('\\', "\\\\").replace("\"\"\"", "\"\"\\\"");
    let text = format!("{}\n\n{EXPECT}\nreport = \"\"\"\n{report}\"\"\"\n", kept.trim_end());
    // Whatever was there, nothing else of the case may be lost.
    if at.is_some_and(|at| lines[at + 1..].iter().any(|line| line.trim_start().starts_with('['))) {
        bail!("{EXPECT} must be the last table of a case, for --record to replace it");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::with_expectation;

    #[test]
    fn an_expectation_is_written_and_replaced() {
        let case = "[fetch]\nid = \"1\"\n";
        let report = "a \"b\" \\ c\n\"\"\"\n";
        let once = with_expectation(case, report).unwrap();
        let again = with_expectation(&once, report).unwrap();
        assert_eq!(once, again);
        assert!(once.starts_with(case.trim_end()));
        let case =
            tollgate_actors::rehearsal::Case::parse(&once, std::path::Path::new(".")).unwrap();
        assert_eq!(case.expected.unwrap(), report);
        assert!(with_expectation("[expect]\nreport = \"\"\n[fetch]\n", "x").is_err());
    }
}
