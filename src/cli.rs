//! What can be typed. No IO.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tollgate_actors::complete::State;

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
    /// What is logged: error, warn, info, debug, trace, or levels by target as `info,tollgate::fetch=debug`; goes
    /// before log.level [default: warn on a terminal and for demo, info elsewhere]
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
    /// One node on NATS JetStream: collects what is published there, until it is told to stop
    Serve,
    /// Puts the fetches in JSON Lines or CSV files on NATS, each confirmed
    Publish(PublishArgs),
    /// Says when fetches would be done, what they would wait for and what would help; makes no call
    Plan(PlanArgs),
    /// Creates or upgrades the streams and buckets on NATS
    Setup(SetupArgs),
    /// Holds a platform, an account or an api: it makes no calls until it is resumed
    Pause(PauseArgs),
    /// Ends a hold of `pause`
    Resume(ResumeArgs),
    /// Writes a commented configuration
    Init(InitArgs),
    /// Writes recipes, and tries them on recorded answers
    Recipe(RecipeArgs),
    /// Prints the JSON schema of configurations and recipes, for editors
    Schema,
    /// Reads the configuration and prints what was understood, or every mistake
    Check(CheckArgs),
    /// Shows what waits, for what and until when
    Status(StatusArgs),
    /// Shows the same live in a terminal, with keys to sort, find, hold and open accounts
    Top(TopArgs),
    /// Shows what nodes log, or changes it while they work
    LogLevel(LogLevelArgs),
    /// Shows JSON logs as a tree: nodes, shards, actors, restarts, holds, rates
    Logs(LogsArgs),
    /// Says what holds it back now, with evidence, and what changing that would buy
    Doctor(DoctorArgs),
    /// Shows fetches that were given up, and collects them again
    Dead(DeadArgs),
    /// Makes Parquet files of stored answers, as [stage.NAME] declares; a build without the feature says how to get it
    Stage(StageArgs),
    /// Proves from a log of calls that no window of any limit was exceeded, or shows the calls that did
    Audit(Box<AuditArgs>),
    /// Reads and hashes what is stored, and compares it with its manifests
    Verify(VerifyArgs),
    /// Says which days of which accounts are in the store, missing, dead or to be collected again
    Complete(CompleteArgs),
    /// Says what an error code means and what to do
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A profile is a platform that is difficult in one way, a configuration written for it, and pass
marks: what is asked of the collector, and what it got. It takes less than a minute, runs the
collector as a process of its own, and kills it now and then. What goes wrong besides is decided by
--seed and --knob. With --wrong the configuration declares more than the platform allows.

  interval  gaps between calls, of keys that the call's shape decides; requests overtake each other
  score     points that decay, percentages of an unknown maximum, blocks
  nested    a second, a minute and a day at once, refusals in the body of a 200
  jobs      slots that outlive the call
  settle    costs that only the answer tells, others who use the quota too, an error budget
  clock     days by the provider's clock, and days on which clocks are changed

Knobs: latency, jitter, clock (a time, as 400ms); lost, silent, stale, rival (a part, as 20%); kills.

Exit with --profile: 0 every mark is passed, 1 one is not, 2 it could not begin.

Examples:
  tollgate demo --accounts 1000 --fetches 10
  tollgate demo --profile settle --seed 7 --knob rival=80% --knob silent=50%
  tollgate demo --profile nested --wrong --json")]
pub(crate) struct DemoArgs {
    /// Accounts of the emulated platform [default: 200; a profile has its own number]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) accounts: Option<u32>,
    /// Shows a hard case, and says whether its marks are passed
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) profile: Option<HardCase>,
    /// Declares more than the platform allows, to see what that costs
    #[arg(long, requires = "profile")]
    pub(crate) wrong: bool,
    /// Decides what is drawn
    #[arg(long, default_value_t = 1, requires = "profile", value_name = "N")]
    pub(crate) seed: u64,
    /// Turns one thing that can go wrong, as jitter=200ms; may be said many times
    #[arg(long = "knob", requires = "profile", value_name = "NAME=VALUE")]
    pub(crate) knobs: Vec<String>,
    /// Fetches for each account
    #[arg(long, default_value_t = 30, conflicts_with = "profile", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) fetches: u32,
    /// Where objects and state go
    #[arg(long, value_name = "DIR", default_value = "./tollgate-data")]
    pub(crate) data: PathBuf,
    /// Shows the page at http://ADDRESS/ while it works, such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS", conflicts_with = "profile")]
    pub(crate) listen: Option<SocketAddr>,
    /// Prints the summary as one JSON object on the last line
    #[arg(long)]
    pub(crate) json: bool,
}

/// A hard case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HardCase {
    /// Gaps between calls, of keys that the call's shape decides
    Interval,
    /// Points that decay, percentages, blocks
    Score,
    /// A second, a minute and a day at once
    Nested,
    /// Slots that outlive the call
    Jobs,
    /// Costs that only the answer tells
    Settle,
    /// Days by the provider's clock
    Clock,
}

impl HardCase {
    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Score => "score",
            Self::Nested => "nested",
            Self::Jobs => "jobs",
            Self::Settle => "settle",
            Self::Clock => "clock",
        }
    }

    /// What is difficult.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Interval => {
                "gaps of keys that a call's shape decides, requests overtake each other"
            }
            Self::Score => "points that decay, percentages of an unknown maximum, blocks",
            Self::Nested => "a second, a minute and a day at once, refusals in the body of a 200",
            Self::Jobs => "slots that outlive the call, lost answers, kills",
            Self::Settle => "costs that only the answer tells, others who use the quota too",
            Self::Clock => "days by the provider's clock, days on which clocks are changed",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// JSON Lines, one fetch each; `-` is standard input. None: what is left of earlier runs
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Shows the page at http://ADDRESS/ while it works, and answers the API, /healthz, /readyz and /metrics there
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Prints the summary as one JSON object on the last line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// JSON Lines or CSV, one fetch each; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The form of all inputs; else the file's extension says it, and standard input is JSON Lines
    #[arg(long, value_enum)]
    pub(crate) format: Option<InputFormat>,
    /// Sends protobuf instead of JSON
    #[arg(long)]
    pub(crate) protobuf: bool,
    /// Gives up when the server has confirmed nothing for so many seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) patience: u64,
    /// Prints the counts as one JSON object on the last line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The form of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// One JSON object per line
    Jsonl,
    /// A header and rows
    Csv,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
What is assumed: each fetch is one call that succeeds; an answer comes after --latency; the
accounts have made no calls before (--local: those that the data folder knows of); at most
collect.concurrency calls are in flight. The machine and the network cost no time.

Examples:
  tollgate plan fetches.jsonl
  tollgate plan --latency 0.2s --latency kakao=1.5s --latency kakao/creative-report=20s fetches.csv
  tollgate plan --at 2026-11-22T00:00:00+09:00 --json - < fetches.jsonl")]
pub(crate) struct PlanArgs {
    /// JSON Lines or CSV, one fetch each; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The form of all inputs; else the file's extension says it, and standard input is JSON Lines
    #[arg(long, value_enum)]
    pub(crate) format: Option<InputFormat>,
    /// When it starts, as 2026-11-22T00:00:00Z; else now
    #[arg(long, value_name = "TIME", conflicts_with = "local")]
    pub(crate) at: Option<String>,
    /// From a request to the end of its answer; of all, of a platform or of one api; may be said many times
    #[arg(long, value_name = "[PLATFORM[/API]=]DURATION", default_value = "0.3s")]
    pub(crate) latency: Vec<String>,
    /// Starts from what the data folder of `run` knows of the accounts; nobody may be working on it
    #[arg(long)]
    pub(crate) local: bool,
    /// Leaves out what changing a limit would buy
    #[arg(long)]
    pub(crate) no_changes: bool,
    /// Most accounts shown one by one
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) most: usize,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Changes nothing; exit 1 if something is missing or otherwise
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// What to hold; none: shows what is held
    #[arg(value_name = "PLATFORM[/ACCOUNT[/API]]")]
    pub(crate) of: Option<String>,
    /// Ends by itself after this time, as `2h` or `90m`
    #[arg(long = "for", value_name = "DURATION", requires = "of")]
    pub(crate) within: Option<String>,
    /// Why, for those who wonder
    #[arg(long, requires = "of")]
    pub(crate) reason: Option<String>,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// What to let go on, as it was held
    #[arg(
        value_name = "PLATFORM[/ACCOUNT[/API]]",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(crate) of: Option<String>,
    /// Ends every hold
    #[arg(long)]
    pub(crate) all: bool,
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
    /// Tries the store as well: puts a tiny object there and takes it away again. Up to a minute where nobody answers
    #[arg(long)]
    pub(crate) connect: bool,
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
    /// Asks the data folder of `run`, also where the configuration has a section [nats]
    #[arg(long)]
    pub(crate) local: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Asks anew after so many seconds, 0.2 to 60
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = every)]
    pub(crate) every: f64,
    /// Asks the data folder of `run`, also where the configuration has a section [nats]
    #[arg(long)]
    pub(crate) local: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A filter is a level, or levels by target; docs/events.md says which events have which target. What is
wished here goes before --log-level and log.level, until its time is over, it is reset, or the node ends.

Examples:
  tollgate log-level
  tollgate log-level info,tollgate::fetch=debug --for 10m
  tollgate log-level --reset --node node-b")]
pub(crate) struct LogLevelArgs {
    /// What is to be logged; none: shows what is
    #[arg(value_name = "FILTER", conflicts_with = "reset")]
    pub(crate) level: Option<String>,
    /// Ends by itself after this time, as `10m`
    #[arg(long = "for", value_name = "DURATION", requires = "level")]
    pub(crate) within: Option<String>,
    /// Back to what the command line or the configuration says
    #[arg(long)]
    pub(crate) reset: bool,
    /// Only the node of this name; else all
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    pub(crate) node: Option<String>,
    /// Asks the data folder of `run`, also where the configuration has a section [nats]
    #[arg(long)]
    pub(crate) local: bool,
    /// Prints one JSON object for each node
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A log is what a node writes to standard error as JSON, one object per line. What stands before the object,
as `docker compose logs` and `kubectl logs --prefix` have it, tells nodes apart; lines without one are
counted. Text logs cannot be read.

Examples:
  tollgate logs node-a.log node-b.log
  docker compose logs --no-color | tollgate logs
  tollgate logs --follow node-a.log
  tollgate logs --json node-a.log | jq '.nodes[].platforms'")]
pub(crate) struct LogsArgs {
    /// Logs, each of one or more nodes; `-`, or none: standard input
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Goes on reading, and shows the tree anew when something has come
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Most actors and accounts shown one by one, of each shard and platform
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) most: usize,
    /// Prints one JSON object; with --follow one per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit: 0 if nothing but declared limits or operators' holds was found, or nothing at all; 1 if something is
wrong; 2 if no node answers.")]
pub(crate) struct DoctorArgs {
    /// Looks at so many seconds until now, in steps of 5
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..=60))]
    pub(crate) window: u64,
    /// Prints JSON: the findings, and the evidence of each node
    #[arg(long)]
    pub(crate) json: bool,
    /// Asks the node of the data folder, also where the configuration has a section [nats]
    #[arg(long)]
    pub(crate) local: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecipeArgs {
    #[command(subcommand)]
    pub(crate) command: RecipeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecipeCommand {
    /// Plays fetches against recorded answers, on virtual time; makes no call
    Test(RecipeTestArgs),
    /// Writes a commented recipe to start from
    New(RecipeNewArgs),
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A case is a TOML file: a table [fetch], the answers to its calls as [[answers]], in order, and what
is expected, in [expect]. The recipe is what --config says. Secrets of the environment are not
needed: stand-ins take their place, and no report shows them.

  [fetch]
  platform = \"kakao\"
  account = \"act_1\"
  api = \"creative-report\"
  params = { ids = [\"1\"] }
  [[answers]]
  status = 500
  [[answers]]
  headers = { content-type = \"application/json\" }
  file = \"page-1.json\"

A body is text = \"…\", json = { … } or file = \"…\" beside the case; after = \"2s\" is how long an answer
takes, fails = \"unreachable\" or \"broken\" a call without one; queued_at says when the fetch is queued.

Exit 0: all as expected. 1: some are not. 2: the configuration or a case is not right.")]
pub(crate) struct RecipeTestArgs {
    /// Cases, or folders of them
    #[arg(value_name = "FILE|FOLDER", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Writes what happens into the cases, as what is expected from now on
    #[arg(long)]
    pub(crate) record: bool,
    /// Prints one JSON object for each case
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecipeNewArgs {
    /// The platform's name; the recipe goes to NAME.toml
    pub(crate) name: String,
    /// Prints it instead
    #[arg(long)]
    pub(crate) stdout: bool,
    /// Replaces a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    pub(crate) command: DeadCommand,
    /// Asks the data folder of `run`, also where the configuration has a section [nats]
    #[arg(long, global = true)]
    pub(crate) local: bool,
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
#[command(after_long_help = "\
A log is JSON Lines, or text: the combined format of nginx and Apache, or another that --line
declares as nginx's log_format does. Logs that are gzip are unpacked. Several are read as one,
the oldest first.

SOURCE is path:TEMPLATE as path:/v1/{account}/reports/{api}, query:NAME, or the name of a field
(JSON) or variable (text, as http_x_account). Where nothing is said: the fields `account` and
`api`, then what the configuration's paths, queries and headers hold.
FIELD may end in its unit, as at:ms. Times without one are told by their size; RFC 3339 and the
form of the combined format are known.

Exit 0: every limit is proved. 1: one was exceeded, or the log does not tell. 2: it could not begin.

A call may come up to a second after its stamp of a whole second: such a log proves nothing about
a window of 1 s, and the audit says so. nginx stamps the end of a call: log $msec and
$request_time, and say --stamp end.

Examples:
  tollgate audit access.log --platform kakao
  tollgate audit --line '$msec $request_time $http_x_account \"$request\"' --stamp end access.log.1.gz
  tollgate audit calls.jsonl --limit 'gap = { per = [\"account\"], every = \"5s\" }' --time at_ns
  tollgate audit --ledger")]
pub(crate) struct AuditArgs {
    /// Logs, oldest first; `-` is standard input
    #[arg(value_name = "LOG", required_unless_present = "ledger", conflicts_with = "ledger")]
    pub(crate) logs: Vec<PathBuf>,
    /// Looks at what the data folder of `run` keeps of calls, instead of a log
    #[arg(long)]
    pub(crate) ledger: bool,
    /// Whose limits, if the configuration has several platforms; calls of others are stepped over
    #[arg(long, value_name = "NAME")]
    pub(crate) platform: Option<String>,
    /// A limit as the configuration would declare it; with one, the configuration's own do not count
    /// unless --platform is said
    #[arg(long = "limit", value_name = "TOML")]
    pub(crate) limits: Vec<String>,
    /// Only this limit; may be said many times
    #[arg(long, value_name = "LIMIT")]
    pub(crate) only: Vec<String>,
    /// The form of text lines, as nginx's log_format
    #[arg(long, value_name = "FORM")]
    pub(crate) line: Option<String>,
    /// Where the account stands
    #[arg(long, value_name = "SOURCE")]
    pub(crate) account: Option<String>,
    /// Where the api stands
    #[arg(long, value_name = "SOURCE")]
    pub(crate) api: Option<String>,
    /// The time of a call
    #[arg(long, value_name = "FIELD")]
    pub(crate) time: Option<String>,
    /// How long a call took: calls at once cannot be counted without
    #[arg(long, value_name = "FIELD")]
    pub(crate) took: Option<String>,
    /// Whether the time is that of the call's start or of its end
    #[arg(long, value_enum, default_value_t = StampOf::Start)]
    pub(crate) stamp: StampOf,
    /// The step of the log's clock, where it is another than it looks
    #[arg(long, value_name = "DURATION")]
    pub(crate) step: Option<String>,
    /// By how much a time may be wrong beyond that, either way
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub(crate) slack: String,
    /// How far lines may be out of order
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) sort_within: String,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which moment of a call a log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StampOf {
    /// When it came
    Start,
    /// When it was answered
    End,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Every object that a manifest below PREFIX names is read and hashed, and every object below PREFIX is
looked for in a manifest. It needs the right to list and to read, and no node.

  missing     a manifest names it, and it is not there
  torn        it is shorter than its manifest says
  different   it is not what its manifest says
  orphaned    no manifest names it
  unreadable  a manifest that cannot be read
  nothing     a manifest of nothing: none of what it names is there

Exit 0: all is as manifests say. 1: something is not. 2: it could not begin, or the store failed.

Examples:
  tollgate verify
  tollgate verify kakao/creative-report --grace 1h
  tollgate verify --json | jq -c 'select(.fault)'")]
pub(crate) struct VerifyArgs {
    /// The beginning of keys, whole parts of them; none: everything
    #[arg(value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// Decompresses every body and hashes it too
    #[arg(long)]
    pub(crate) deep: bool,
    /// Objects that are younger, as 1h, may belong to fetches that are underway: in no manifest yet, or not as theirs says
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub(crate) grace: String,
    /// Objects that are read at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) at_once: u16,
    /// Prints each finding as one JSON object, and what was found in numbers as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Objects below `from` become rows of Parquet files below `to`. What was staged is not staged again
unless it has changed: then its rows take the place of the old ones. Rows that do not fit lie in
`_quarantine/` below `to`, as JSON Lines with the reason, the object and the place in it.

Exit 0: all is staged. 1: something is in quarantine, or was not staged. 2: it could not begin.
3: stopped; what is left is staged by the next run.

Examples:
  tollgate stage
  tollgate stage offers --json")]
pub(crate) struct StageArgs {
    /// Tables; none: all that are declared
    #[arg(value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// Stages everything anew
    #[arg(long)]
    pub(crate) again: bool,
    /// Threads that decode [default: as many as there are cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) workers: Option<u8>,
    /// Prints a JSON object for each table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
What is expected is declared for an api: complete = { param = \"date\", from = \"2026-11-01\",
restate = \"28 days\" }. It reads the manifests in the store and the dead letters, and makes no call.

  present  in the store, and final, or collected today
  missing  not in the store
  dead     not in the store, and its fetch was given up
  again    in the store, from a day on which the provider still restated it; or a part of it

Exit 0: nothing is missing or dead, or --fetches. 1: something is. 2: it could not begin.

Examples:
  tollgate complete
  tollgate complete kakao/creative-report --from 2026-11-01 --accounts accounts.txt
  tollgate complete --csv --gaps > gaps.csv
  tollgate complete --fetches | tollgate publish -
  tollgate complete --fetches > again.jsonl && tollgate run again.jsonl")]
pub(crate) struct CompleteArgs {
    /// Only this platform, or only this api of it
    #[arg(value_name = "PLATFORM[/API]")]
    pub(crate) of: Option<String>,
    /// A file of accounts that are expected, one a line; else those of which anything is known
    #[arg(long, value_name = "FILE")]
    pub(crate) accounts: Option<PathBuf>,
    /// The first day, as 2026-11-01; else `complete.from`, else the first that is there
    #[arg(long, value_name = "DAY")]
    pub(crate) from: Option<String>,
    /// The last day; else yesterday, as the account's zone has it
    #[arg(long, value_name = "DAY")]
    pub(crate) to: Option<String>,
    /// Prints the fetches that would fill the gaps, as JSON Lines; of these states
    #[arg(long, value_name = "STATES", value_enum, num_args = 0.., require_equals = true, value_delimiter = ',', conflicts_with_all = ["json", "csv"])]
    pub(crate) fetches: Option<Vec<CellState>>,
    /// Leaves out what is present, with --json and --csv
    #[arg(long)]
    pub(crate) gaps: bool,
    /// Most gaps shown one by one
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) most: usize,
    /// Prints each day of each account and api as one JSON object, and the counts as the last line
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// The same as CSV, without the counts
    #[arg(long)]
    pub(crate) csv: bool,
    /// Asks the data folder of `run` for dead letters, also where the configuration has a section [nats]
    #[arg(long)]
    pub(crate) local: bool,
}

/// Which gaps are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CellState {
    /// Not in the store
    Missing,
    /// Given up
    Dead,
    /// To be collected again
    Again,
}

impl CellState {
    /// Whether it is this state of a day.
    pub(crate) fn is(self, state: State) -> bool {
        state
            == match self {
                Self::Missing => State::Missing,
                Self::Dead => State::Dead,
                Self::Again => State::Again,
            }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code, as TG0007; none: all of them
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
}

/// Seconds between two looks of `top`. What is no number is in no range.
fn every(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    let is_in = (0.2..=60.0).contains(&seconds);
    is_in.then_some(seconds).ok_or_else(|| format!("{text} is not in 0.2..=60"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_takes_seconds_of_its_range_alone() {
        let top = |text| Cli::try_parse_from(["tollgate", "top", "--every", text]);
        for good in ["0.2", "1", "60"] {
            assert!(top(good).is_ok(), "{good}");
        }
        for bad in ["nan", "inf", "-inf", "0", "0.1", "61", "soon"] {
            assert_eq!(top(bad).expect_err(bad).exit_code(), 2, "{bad}");
        }
    }
}
