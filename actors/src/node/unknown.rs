//! Fetches for a platform or api that the configuration does not have: they wait for one that has it, or die.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::codes::Code;
use crate::ids::LaneKey;
use crate::queue::{Ending, FIRST_MAX, QueueError, Queued};
use crate::recipe::{Content, Refusal, check_queued};
use crate::shard::context::Shared;
use crate::telemetry;

/// What becomes of fetches for a platform or api that the configuration does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// They wait: the next run may know it.
    #[default]
    Wait,
    /// They become dead letters: nobody else would ever tell their publishers.
    Die,
}

/// Lanes that wait to be buried; what does not fit is told again by the next discovery.
pub(super) const LANES_MAX: usize = 1024;
/// Fetches of a lane buried at once.
const AT_ONCE: usize = 16;
/// Between two tries when the queue does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Buries what waits in lanes that nobody serves, one lane after the other. A lane that cannot be buried is
/// tried again behind the others.
pub(crate) async fn bury(shared: Shared, mut lanes: mpsc::Receiver<LaneKey>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Some(lane) = lanes.recv().await else { return };
            waiting.push_back(lane);
        }
        while waiting.len() < LANES_MAX
            && let Ok(lane) = lanes.try_recv()
        {
            if !waiting.contains(&lane) {
                waiting.push_back(lane);
            }
        }
        let Some(lane) = waiting.pop_front() else { continue };
        if let Err(error) = bury_lane(&shared, &lane).await {
            telemetry::queue_away(&lane.account, &error);
            waiting.push_back(lane);
            sleep(AGAIN).await;
        }
    }
}

async fn bury_lane(shared: &Shared, lane: &LaneKey) -> Result<(), QueueError> {
    let mut after = None;
    loop {
        let rows = shared.queue.first(lane.clone(), after, FIRST_MAX).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(last.seq);
        stream::iter(rows)
            .map(|row| bury_one(shared, lane, row))
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |()| Ok(()))
            .await?;
    }
}

async fn bury_one(shared: &Shared, lane: &LaneKey, row: Queued) -> Result<(), QueueError> {
    let content = Content::of(row.content_type.as_deref());
    let refusal = match check_queued(&shared.plan.get(), lane, &content, &row.payload) {
        Err(refusal) => refusal,
        // Not for a lane that nobody serves; it is buried all the same.
        Ok(accepted) => Refusal {
            code: Code::UnknownApi,
            reason: format!("this configuration does not have `{}`", lane.subject()),
            fetch: Some(Box::new(accepted.fetch)),
        },
    };
    let (code, reason) = (refusal.code, refusal.reason.clone());
    let source = lane.subject();
    let dead =
        refusal.into_dead(row.origin.0, &row.payload, Some(source.clone()), shared.clock.wall());
    shared.queue.finish(lane.clone(), row.seq, Ending::Dead(Box::new(dead))).await?;
    telemetry::fetch_refused(&source, code, &reason);
    shared.totals.dead();
    Ok(())
}
