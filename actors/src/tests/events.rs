//! The names of events that are told on this thread.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Metadata, Subscriber, span};

/// Hears events until it is dropped.
pub(crate) struct Events {
    names: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
}

impl Events {
    pub(crate) fn hear() -> Self {
        let names = Arc::default();
        let guard = set_default(Listener(Arc::clone(&names)));
        Self { names, _guard: guard }
    }

    /// How often that was told.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.names.lock().unwrap().iter().filter(|told| *told == name).count()
    }
}

struct Listener(Arc<Mutex<Vec<String>>>);

struct Name(Option<String>);

impl Visit for Name {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.0 = Some(value.to_owned());
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut name = Name(None);
        event.record(&mut name);
        self.0.lock().unwrap().extend(name.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
