//! What can be typed. No IO.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Collects data from rate-limited APIs: every call as early as every limit allows, and never earlier.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration; the environment (TOLLGATE__SECTION__KEY) goes over it
    #[arg(long, global = true, value_name = "FILE", default_value = "tollgate.toml")]
    pub(crate) config: PathBuf,
    /// How logs look; auto: text on a terminal, JSON elsewhere
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Auto)]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter as `tollgate_actors=debug`
    /// [default: warn on a terminal and for demo, info elsewhere]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Auto,
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows it at work: an emulated ad platform that enforces its limits, 200 accounts, a score
    Demo(DemoArgs),
    /// Collects the fetches in JSON Lines files, and what is left of earlier runs
    Run(RunArgs),
    /// Writes a commented configuration
    Init(InitArgs),
    /// Reads the configuration and prints what was understood, or every mistake
    Check(CheckArgs),
    /// Shows what waits, for what and until when
    Status(StatusArgs),
    /// Shows fetches that were given up, and collects them again
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Says what an error code means and what to do
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Accounts of the emulated platform
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) accounts: u32,
    /// Fetches for each account
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) fetches: u32,
    /// Where objects and state go
    #[arg(long, value_name = "DIR", default_value = "./tollgate-data")]
    pub(crate) data: PathBuf,
    /// Prints the summary as one JSON object on the last line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// JSON Lines, one fetch each; `-` is standard input. None: what is left of earlier runs
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Prints the summary as one JSON object on the last line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where to; `-` is standard output
    #[arg(value_name = "FILE", default_value = "tollgate.toml")]
    pub(crate) file: PathBuf,
    /// Replaces a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Prints mistakes and warnings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this platform, or only this account of it
    #[arg(value_name = "PLATFORM[/ACCOUNT]")]
    pub(crate) of: Option<String>,
    /// Most accounts shown one by one
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) most: usize,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Lists them
    List {
        /// Only those with higher numbers
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
        /// Most of them
        #[arg(long, default_value_t = 100, value_name = "N")]
        most: usize,
        /// Prints one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Shows one: the fetch, why it was given up, the last answer
    Show {
        /// Its number
        seq: u64,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Puts fetches back to be collected again, under the configuration of now
    Replay(DeadChoice),
    /// Forgets them
    Drop(DeadChoice),
}

#[derive(Debug, Args)]
pub(crate) struct DeadChoice {
    /// Their numbers
    #[arg(value_name = "SEQ", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) seqs: Vec<u64>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code, as TG0007; none: all of them
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
}
