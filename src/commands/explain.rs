//! `tollgate explain`: what an error code means and what to do.

use std::io::Write;

use anyhow::bail;
use tollgate_actors::codes;

use super::Exit;
use crate::cli::ExplainArgs;
use crate::ui::print;

pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let Some(code) = &args.code else {
        for code in codes::all() {
            print(format_args!("{code}  {}", code.title()))?;
        }
        return Ok(Exit::Done);
    };
    let Some(page) = codes::explain(code) else {
        bail!("there is no code `{code}`; `tollgate explain` lists them all");
    };
    std::io::stdout().lock().write_all(page.as_bytes())?;
    Ok(Exit::Done)
}
