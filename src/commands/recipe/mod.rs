//! `tollgate recipe`: what helps to write recipes.

mod diff;
mod new;
mod test;

use super::Exit;
use crate::cli::{Global, RecipeArgs, RecipeCommand};

pub(crate) fn run(global: &Global, args: &RecipeArgs) -> anyhow::Result<Exit> {
    match &args.command {
        RecipeCommand::Test(args) => test::run(global, args),
        RecipeCommand::New(args) => new::run(args),
    }
}
