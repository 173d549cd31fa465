//! How far it is: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use tollgate_actors::telemetry::Totals;

use super::{number, say};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how far it is.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    /// A bar if standard error is a terminal.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(8));
            let style = "{elapsed_precise} [{bar:32}] {pos}/{len} fetches  {msg}";
            // The template is a constant; a plain bar is shown should it ever be wrong.
            let style = ProgressStyle::with_template(style)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar
        });
        Self { bar, started: Instant::now(), last_line: None }
    }

    /// None: for what does not end by itself.
    pub(crate) fn none() -> Self {
        Self { bar: None, started: Instant::now(), last_line: None }
    }

    /// Shows where things stand.
    pub(crate) fn show(&mut self, totals: &Totals, seen: u64, note: &str) {
        let ended = totals.fetches_done.get() + totals.fetches_dead.get();
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let calls = totals.calls.get();
        let dead = totals.fetches_dead.get();
        let refused = totals.refused.get();
        let rate = calls as f64 / seconds;
        if let Some(bar) = &self.bar {
            bar.set_length(seen.max(ended));
            bar.set_position(ended);
            bar.set_message(format!("{rate:.0} calls/s, {refused} refused, {dead} dead  {note}"));
            return;
        }
        let due = self.last_line.unwrap_or(self.started) + LINE_EVERY;
        if Instant::now() >= due {
            self.last_line = Some(Instant::now());
            say(format_args!(
                "{seconds:.0} s: {} of {} fetches ended, {dead} dead, {} calls ({rate:.0}/s), {refused} refused {note}",
                number(ended),
                number(seen.max(ended)),
                number(calls),
            ));
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Standard error, above the bar where there is one.
    pub(crate) fn log_writer(&self) -> LogWriter {
        LogWriter { bar: self.bar.clone() }
    }
}

/// Writes log lines above the bar.
#[derive(Debug)]
pub(crate) struct LogWriter {
    bar: Option<ProgressBar>,
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut stderr = std::io::stderr();
        match &self.bar {
            Some(bar) => bar.suspend(|| stderr.write_all(bytes))?,
            None => stderr.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}
