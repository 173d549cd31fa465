//! `tollgate recipe new`: a commented recipe to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use tollgate_actors::config;
use tollgate_actors::ids::Slug;

use crate::cli::RecipeNewArgs;
use crate::commands::{Exit, shown};
use crate::ui::say;

pub(super) fn run(args: &RecipeNewArgs) -> anyhow::Result<Exit> {
    let name = match Slug::new(&args.name) {
        Ok(name) => name,
        Err(reason) => bail!("`{}` is no name of a platform: {reason}", args.name),
    };
    let text = config::recipe_text(&name);
    if args.stdout {
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(Exit::Done);
    }
    let path = PathBuf::from(format!("{name}.toml"));
    let mut options = OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = match options.open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already; --force replaces it", shown(&path))
        }
        opened => opened.with_context(|| format!("write {}", shown(&path)))?,
    };
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", shown(&path)))?;
    say(format_args!(
        "{} is written; `tollgate --config {} check` says what it means",
        shown(&path),
        shown(&path)
    ));
    Ok(Exit::Done)
}
