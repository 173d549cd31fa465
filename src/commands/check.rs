//! `tollgate check`: what was understood, or every mistake; with `--connect`, whether the store can be used.

use std::io::Write;

use serde_json::json;
use tollgate_actors::plan::Plan;
use tollgate_actors::{config, install_tls};

use super::{Exit, environment, open_store};
use crate::cli::{CheckArgs, Global};
use crate::ui::{print, say};

pub(crate) fn run(global: &Global, args: &CheckArgs) -> anyhow::Result<Exit> {
    match config::load(Some(&global.config), environment(), &[]) {
        Ok(loaded) if args.json => {
            let tried = if args.connect { Some(try_store(&loaded.plan)) } else { None };
            let ok = !matches!(tried, Some(Err(_)));
            let mut text = json!({ "ok": ok, "mistakes": [], "warnings": loaded.warnings });
            match tried {
                Some(Ok(())) => text["store"] = json!({ "ok": true }),
                Some(Err(error)) => {
                    text["store"] = json!({ "ok": false, "error": format!("{error:#}") });
                }
                None => {}
            }
            print(format_args!("{text}"))?;
            Ok(if ok { Exit::Done } else { Exit::Failed })
        }
        Ok(loaded) => {
            let text = config::describe(&loaded.plan);
            std::io::stdout().lock().write_all(text.as_bytes())?;
            for warning in loaded.warnings {
                say(format_args!("warning: {warning}"));
            }
            if !args.connect {
                return Ok(Exit::Done);
            }
            match try_store(&loaded.plan) {
                Ok(()) => say(format_args!("the store takes objects")),
                Err(error) => {
                    say(format_args!("{error:#}"));
                    return Ok(Exit::Failed);
                }
            }
            Ok(Exit::Done)
        }
        Err(mistakes) => {
            if args.json {
                let text = json!({ "ok": false, "mistakes": mistakes, "warnings": [] });
                print(format_args!("{text}"))?;
            } else {
                say(format_args!("{mistakes}"));
            }
            Ok(Exit::Usage)
        }
    }
}

/// Any store is tried, a folder too.
fn try_store(plan: &Plan) -> anyhow::Result<()> {
    install_tls();
    actix_rt::System::new().block_on(open_store::try_store(plan))
}
