//! The command line of Tollgate: parse, dispatch, print what went wrong once, exit code.

mod cli;
mod commands;
mod http;
mod logs;
mod systemd;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use commands::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match &cli.command {
        Command::Demo(args) => commands::demo::run(&cli.global, args),
        Command::Run(args) => commands::run::run(&cli.global, args),
        Command::Serve => commands::serve::run(&cli.global),
        Command::Publish(args) => commands::publish::run(&cli.global, args),
        Command::Plan(args) => commands::plan::run(&cli.global, args),
        Command::Setup(args) => commands::setup::run(&cli.global, args),
        Command::Pause(args) => commands::pause::pause(&cli.global, args),
        Command::Resume(args) => commands::pause::resume(&cli.global, args),
        Command::Init(args) => commands::init::run(args),
        Command::Recipe(args) => commands::recipe::run(&cli.global, args),
        Command::Schema => commands::schema::run(),
        Command::Check(args) => commands::check::run(&cli.global, args),
        Command::Status(args) => commands::status::run(&cli.global, args),
        Command::Top(args) => commands::top::run(&cli.global, args),
        Command::LogLevel(args) => commands::log_level::run(&cli.global, args),
        Command::Logs(args) => commands::logs::run(args),
        Command::Doctor(args) => commands::doctor::run(&cli.global, args),
        Command::Dead(args) => commands::dead::run(&cli.global, args),
        Command::Stage(args) => commands::stage::run(&cli.global, args),
        Command::Audit(args) => commands::audit::run(&cli.global, args),
        Command::Verify(args) => commands::verify::run(&cli.global, args),
        Command::Complete(args) => commands::complete::run(&cli.global, args),
        Command::Explain(args) => commands::explain::run(args),
    };
    match exit {
        Ok(exit) => exit.into(),
        Err(error) => {
            if is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            ui::say(format_args!("tollgate: {error:#}"));
            Exit::Usage.into()
        }
    }
}

/// Whoever read the output has had enough: that is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
