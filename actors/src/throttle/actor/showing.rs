//! What an actor shows of itself to whoever looks at its account.

use actix::{Context, Handler, MessageResult};

use super::Throttle;
use crate::throttle::messages::{Show, Shown};
use crate::view::account::LaneNow;

impl Handler<Show> for Throttle {
    type Result = MessageResult<Show>;

    // Not counted among what was handled: an actor that rests need not wait for whoever looks, who asks again then.
    fn handle(&mut self, _: Show, _: &mut Context<Self>) -> Self::Result {
        let mut lanes: Vec<LaneNow> = self
            .lanes
            .iter()
            .map(|lane| LaneNow {
                api: lane.api,
                priority: lane.key.priority,
                waiting: lane.waiting(),
            })
            .filter(|lane| lane.waiting > 0)
            .collect();
        for decided in self.decided_or_asking() {
            let Some(lane) = self.lanes.get(decided.lane) else { continue };
            let same =
                |known: &&mut LaneNow| known.api == lane.api && known.priority == lane.key.priority;
            match lanes.iter_mut().find(same) {
                Some(known) => known.waiting += 1,
                None => {
                    lanes.push(LaneNow { api: lane.api, priority: lane.key.priority, waiting: 1 });
                }
            }
        }
        MessageResult(Shown {
            platform: std::sync::Arc::clone(&self.platform),
            ledger: self.gate.ledger().clone(),
            lanes,
            in_flight: u32::try_from(self.flights.len()).unwrap_or(u32::MAX),
            because: self.because.as_deref().map(str::to_owned),
            cause: self.spent.0.map(|(_, cause)| cause),
            until: self.until,
        })
    }
}
