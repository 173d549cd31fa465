//! `tollgate schema`: what a configuration may say, for editors.

use std::io::Write;

use tollgate_actors::config;

use super::Exit;

pub(crate) fn run() -> anyhow::Result<Exit> {
    std::io::stdout().lock().write_all(config::schema_text().as_bytes())?;
    Ok(Exit::Done)
}
