//! `tollgate init`: a commented configuration to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, bail};
use tollgate_actors::config;

use super::{Exit, shown};
use crate::cli::InitArgs;
use crate::ui::say;

pub(crate) fn run(args: &InitArgs) -> anyhow::Result<Exit> {
    let text = config::init_text();
    if args.file == Path::new("-") {
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(Exit::Done);
    }
    let mut options = OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = match options.open(&args.file) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already; --force replaces it", shown(&args.file))
        }
        opened => opened.with_context(|| format!("write {}", shown(&args.file)))?,
    };
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", shown(&args.file)))?;
    say(format_args!(
        "{} is written; name your provider in it, then `tollgate check`",
        shown(&args.file)
    ));
    Ok(Exit::Done)
}
