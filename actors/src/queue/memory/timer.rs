//! Wakes for what comes back by itself: one task while something is aside.

use std::sync::{Arc, Weak};

use tokio::task::JoinHandle;

use super::{Shared, lock};

/// Starts the task if there is something for it to do, or tells it to look anew.
pub(super) fn arm(shared: &Arc<Shared>) {
    if lock(&shared.content).aside.is_empty() {
        return;
    }
    let mut timer = lock(&shared.timer);
    // A task of a runtime that has ended is finished too.
    if timer.as_ref().is_none_or(JoinHandle::is_finished) {
        *timer = Some(tokio::spawn(run(Arc::downgrade(shared))));
    } else {
        shared.changed.notify_one();
    }
}

/// Sleeps from one return to the next. Holds the queue only while it looks.
async fn run(queue: Weak<Shared>) {
    loop {
        let (next, changed) = {
            let Some(shared) = queue.upgrade() else { return };
            let mut content = lock(&shared.content);
            content.bring_back();
            (content.next_due(), shared.changed.clone())
        };
        match next {
            Some(next) => tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = changed.notified() => {}
            },
            // Waits for more rather than end: an end could cross with a start.
            None => changed.notified().await,
        }
    }
}
