//! Where logs go: standard error, through a thread of their own, so that a reader that does not read
//! never stops a shard. What is told can be changed meanwhile, and no event may flood.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tollgate_actors::levels::{Apply, Filter, Levels};
use tollgate_actors::plan::LogPlan;
use tollgate_actors::telemetry;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Context as Around, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry, reload};

use crate::cli::{Global, LogFormat};
use crate::ui::{Progress, say_through};

/// Lines that wait for a slow reader; further ones are dropped and counted.
const LINES_MAX: usize = 64 * 1024;
/// How often lines are counted anew, what was left out is told, and a wish of an operator may end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the logs going; dropped, it writes out what waits.
#[derive(Debug)]
pub(crate) struct Logs {
    // In the order in which they end: the last word of the looking goes through the writer.
    looking: Looking,
    levels: Levels,
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Logs {
    /// Starts logging for this process; `default` is the level where there is no terminal and nothing else said.
    pub(crate) fn start(
        global: &Global,
        plan: &LogPlan,
        progress: &Progress,
        default: &str,
    ) -> anyhow::Result<Self> {
        let terminal = std::io::stderr().is_terminal();
        let default = if terminal { "warn" } else { default };
        let flag = global.log_level.as_deref();
        let level = flag.or(plan.level.as_ref().map(Filter::as_str)).unwrap_or(default);
        let filter = filter(level).map_err(anyhow::Error::msg).with_context(|| {
            let from = if flag.is_some() { "--log-level" } else { "log.level" };
            format!("{from} {level}: not a level and not a filter")
        })?;
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .finish(progress.log_writer());
        let dropped = writer.error_counter();
        say_through(Some(writer.clone()));
        let (filter, handle) = reload::Layer::new(filter);
        let counts = Arc::new(Counts::new(plan.per_second_max));
        let text = match global.log_format {
            LogFormat::Auto => terminal,
            LogFormat::Text => true,
            LogFormat::Json => false,
        };
        let told = registry().with(filter).with(Sparing(Arc::clone(&counts)));
        let lines = fmt::layer().with_writer(writer).with_target(false);
        if text {
            let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            told.with(lines.compact().with_ansi(colour)).init();
        } else {
            let lines = lines.json().flatten_event(true);
            told.with(lines.with_current_span(false).with_span_list(false)).init();
        }
        let apply =
            InForce { filter: Box::new(move |filter| handle.reload(filter).is_ok()), counts };
        let counts = Arc::clone(&apply.counts);
        let levels = Levels::new(Box::new(apply), default, flag.map(str::to_owned), plan.clone());
        let looking = Looking::start(counts, levels.clone())?;
        Ok(Self { looking, levels, _guard: guard, dropped })
    }

    /// Changes what is told.
    pub(crate) fn levels(&self) -> Levels {
        self.levels.clone()
    }

    /// Lines, what the run itself says included, that nobody read in time.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.looking.end();
        say_through(None);
    }
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    // What the NATS client says below a warning stands in events of our own. That lines were left out, or that another
    // filter is in force, is told whatever the filter, unless it names that target.
    EnvFilter::try_new(format!("async_nats=warn,tollgate::log=warn,{level}"))
        .map_err(|error| error.to_string())
}

/// What puts another filter and another number in force.
struct InForce {
    filter: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
    counts: Arc<Counts>,
}

impl Apply for InForce {
    fn apply(&self, level: &str, per_second_max: u32) -> Result<(), String> {
        let filter = filter(level)?;
        if !(self.filter)(filter) {
            return Err("the logs have ended".into());
        }
        self.counts.most.store(per_second_max, Ordering::Relaxed);
        Ok(())
    }
}

/// Lines of this second, by the place in the code that writes them: as many as there are such places.
#[derive(Debug)]
struct Counts {
    most: AtomicU32,
    places: RwLock<HashMap<usize, Arc<Count>>>,
}

#[derive(Debug)]
struct Count {
    event: String,
    level: &'static str,
    lines: AtomicU32,
    left_out: AtomicU64,
}

impl Count {
    fn allow(&self, most: u32) -> bool {
        let is_one = self.lines.fetch_add(1, Ordering::Relaxed) < most;
        if !is_one {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        is_one
    }
}

impl Counts {
    fn new(most: u32) -> Self {
        Self { most: AtomicU32::new(most), places: RwLock::default() }
    }

    /// Whether one more line of this event is written: a look-up and an addition.
    fn allow(&self, event: &Event<'_>) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return true;
        }
        let place = std::ptr::from_ref::<Metadata<'_>>(event.metadata()) as usize;
        if let Some(count) = self.places.read().unwrap_or_else(PoisonError::into_inner).get(&place)
        {
            return count.allow(most);
        }
        self.first_of(place, event).allow(most)
    }

    fn first_of(&self, place: usize, event: &Event<'_>) -> Arc<Count> {
        let mut name = Name(None);
        event.record(&mut name);
        let count = || {
            Arc::new(Count {
                event: name.0.unwrap_or_else(|| event.metadata().target().to_owned()),
                level: event.metadata().level().as_str(),
                lines: AtomicU32::new(0),
                left_out: AtomicU64::new(0),
            })
        };
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(place).or_insert_with(count))
    }

    /// Begins another second, and tells what was left out in the one before.
    fn look(&self) {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        for count in places.values() {
            count.lines.store(0, Ordering::Relaxed);
            let left_out = count.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                told.push((Arc::clone(count), left_out));
            }
        }
        // Telling takes the same lock.
        drop(places);
        for (count, left_out) in told {
            telemetry::lines_left_out(&count.event, count.level, left_out);
        }
    }
}

/// The value of the field `event`.
struct Name(Option<String>);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Leaves out lines of an event that comes too often.
struct Sparing(Arc<Counts>);

impl<S: Subscriber> Layer<S> for Sparing {
    fn event_enabled(&self, event: &Event<'_>, _: Around<'_, S>) -> bool {
        self.0.allow(event)
    }
}

/// A thread that looks after the logs once a second.
#[derive(Debug)]
struct Looking {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Looking {
    fn start(counts: Arc<Counts>, levels: Levels) -> anyhow::Result<Self> {
        let (end, ended) = mpsc::channel();
        let look = move || {
            loop {
                let goes_on = ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout);
                counts.look();
                if !goes_on {
                    return;
                }
                levels.look();
            }
        };
        let thread = std::thread::Builder::new().name("logs".into()).spawn(look);
        Ok(Self { end: Some(end), thread: Some(thread.context("start a thread")?) })
    }

    /// Tells what is left to tell.
    fn end(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It panics only with the logs, and then there is nothing more to be said.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes lines as they are written.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_that_floods_is_cut_others_are_not_and_the_number_is_told() {
        let (page, counts) = (Page::default(), Arc::new(Counts::new(3)));
        let writer = page.clone();
        let lines = fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
        let told = registry().with(Sparing(Arc::clone(&counts))).with(lines);
        tracing::subscriber::with_default(told, || {
            for _ in 0..10 {
                tracing::info!(event = "flood", "again");
            }
            tracing::info!(event = "calm", "once");
            counts.look();
            for _ in 0..4 {
                tracing::info!(event = "flood", "of another place");
            }
            counts.most.store(0, Ordering::Relaxed);
            for _ in 0..5 {
                tracing::info!(event = "any", "number");
            }
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let count = |word: &str| text.matches(word).count();
        assert_eq!((count("again"), count("of another place")), (3, 3), "{text}");
        assert_eq!((count("\"calm\""), count("\"any\"")), (1, 5), "{text}");
        let told = "\"of\":\"flood\",\"log_level\":\"INFO\",\"left_out\":7";
        assert_eq!((count("lines_left_out"), count(told)), (1, 1), "{text}");
    }
}
