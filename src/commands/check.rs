//! `tollgate check`: what was understood, or every mistake.

use std::io::Write;

use serde_json::json;
use tollgate_actors::config;

use super::{Exit, environment};
use crate::cli::{CheckArgs, Global};
use crate::ui::{print, say};

pub(crate) fn run(global: &Global, args: &CheckArgs) -> anyhow::Result<Exit> {
    match config::load(Some(&global.config), environment(), &[]) {
        Ok(loaded) if args.json => {
            let text = json!({ "ok": true, "mistakes": [], "warnings": loaded.warnings });
            print(format_args!("{text}"))?;
            Ok(Exit::Done)
        }
        Ok(loaded) => {
            let text = config::describe(&loaded.plan);
            std::io::stdout().lock().write_all(text.as_bytes())?;
            for warning in loaded.warnings {
                say(format_args!("warning: {warning}"));
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
