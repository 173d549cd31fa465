//! What a rehearsal tells: the calls, and what the node's own events say between them.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::answers::redacted;

/// Most bytes of a report.
const REPORT_BYTES_MAX: usize = 4 << 20;

/// The report as it grows. All clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Told(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    text: Mutex<String>,
    /// The last wait that was told.
    last_wait: Mutex<String>,
    begun: Instant,
    wall: Timestamp,
}

impl Told {
    pub(super) fn new(wall: Timestamp) -> Self {
        Self(Arc::new(Inner {
            text: Mutex::default(),
            last_wait: Mutex::default(),
            begun: Instant::now(),
            wall,
        }))
    }

    /// One more line.
    pub(super) fn line(&self, line: fmt::Arguments<'_>) {
        let mut text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() < REPORT_BYTES_MAX {
            // A line stays one line whatever an answer holds.
            let line = line.to_string().replace('\r', "\\r").replace('\n', "\\n");
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }

    /// One more line with its time.
    fn timed(&self, line: fmt::Arguments<'_>) {
        let passed = SignedDuration::try_from(self.0.begun.elapsed()).unwrap_or_default();
        // Below that it is how tokio's timer counts, not what limits say.
        let passed = SignedDuration::from_millis(i64::try_from(passed.as_millis()).unwrap_or(0));
        self.line(format_args!("+{passed:#}: {line}"));
    }

    pub(super) fn report(&self) -> String {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of events on this thread until the guard is dropped.
    pub(super) fn listen(&self) -> DefaultGuard {
        set_default(Listener(self.clone()))
    }

    fn event(&self, level: Level, fields: &Fields) {
        let get = |name: &str| fields.0.get(name).map_or("", String::as_str);
        let after = |name: &str| {
            let at: Option<Timestamp> = get(name).parse().ok();
            at.map(|at| format!(" until +{:#}", rounded(at.duration_since(self.0.wall))))
        };
        let millis = |name: &str| {
            let ms = get(name).parse().ok().map(SignedDuration::from_millis);
            ms.map(|ms| format!("{ms:#}")).unwrap_or_default()
        };
        match get("event") {
            "waiting" => {
                let until = after("until").unwrap_or_default();
                let wait = format!("waits, {}{until}", get("because"));
                let mut last = self.0.last_wait.lock().unwrap_or_else(PoisonError::into_inner);
                if *last != wait {
                    self.timed(format_args!("{wait}"));
                    *last = wait;
                }
            }
            "permit" => self.timed(format_args!("permit for call {}", get("call"))),
            "hold" => self.timed(format_args!(
                "{} is held for {}: {}",
                get("scope"),
                millis("wait_ms"),
                get("because")
            )),
            "attempt_failed" => {
                let next = match millis("retry_in_ms").as_str() {
                    "" => "given up".to_owned(),
                    wait => format!("again in {wait}"),
                };
                self.timed(format_args!("{}: {}; {next}", get("outcome"), redacted(get("reason"))));
            }
            "fetch_done" => self.timed(format_args!("ok: stored")),
            "fetch_dead" => self.timed(format_args!("permanent: {}", redacted(get("reason")))),
            _ if level > Level::WARN => {}
            event => {
                let mut rest = String::new();
                for (name, value) in &fields.0 {
                    if !["event", "message", "platform", "account", "seq"].contains(&&**name) {
                        // A String takes all that is written.
                        let _fits = write!(rest, " {name}={}", redacted(value)).is_ok();
                    }
                }
                self.timed(format_args!("{event}{rest}"));
            }
        }
    }
}

fn rounded(duration: SignedDuration) -> SignedDuration {
    SignedDuration::from_millis(i64::try_from(duration.as_millis()).unwrap_or(0))
}

/// Hears events; there are no spans.
struct Listener(Told);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && metadata.is_event()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.0.contains_key("event") {
            self.0.event(*event.metadata().level(), &fields);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
