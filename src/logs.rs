//! Where logs go: standard error, through a thread of their own, so that a reader that does not read
//! never stops a shard.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, LogFormat};
use crate::ui::{Progress, say_through};

/// Lines that wait for a slow reader; further ones are dropped and counted.
const LINES_MAX: usize = 64 * 1024;

/// Keeps the logs going; dropped, it writes out what waits.
#[derive(Debug)]
pub(crate) struct Logs {
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Logs {
    /// Starts logging for this process; `default` is the level where there is no terminal.
    pub(crate) fn start(
        global: &Global,
        progress: &Progress,
        default: &str,
    ) -> anyhow::Result<Self> {
        let terminal = std::io::stderr().is_terminal();
        let default = if terminal { "warn" } else { default };
        let level = global.log_level.as_deref().unwrap_or(default);
        // What the NATS client says below a warning stands in events of our own.
        let filter = EnvFilter::try_new(format!("async_nats=warn,{level}"))
            .with_context(|| format!("--log-level {level}: not a level and not a filter"))?;
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .finish(progress.log_writer());
        let dropped = writer.error_counter();
        say_through(Some(writer.clone()));
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        let text = match global.log_format {
            LogFormat::Auto => terminal,
            LogFormat::Text => true,
            LogFormat::Json => false,
        };
        if text {
            let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            logs.compact().with_target(false).with_ansi(colour).init();
        } else {
            logs.json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_target(false)
                .init();
        }
        Ok(Self { _guard: guard, dropped })
    }

    /// Lines, what the run itself says included, that nobody read in time.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        say_through(None);
    }
}
