//! Which accounts of a shard are held, for whoever tells of those that are for long.

use std::collections::BTreeMap;

use actix::{Context, Handler, Message, MessageResult};

use super::Shard;
use super::accounts::Ix;
use crate::ids::Slug;
use crate::notify::watch::HeldOne;
use crate::pulse::Doing;
use crate::times::Cause;

/// Accounts looked at in one turn: about 0.1 ms.
const STRETCH: u32 = 4096;
/// Accounts of a platform that are told one by one, of each stretch.
pub(crate) const LISTED_MAX: u64 = 32;

/// Sent by the node, stretch after stretch of the accounts: who is held and has something waiting? No more than a
/// stretch is looked at in one turn of the shard.
#[derive(Debug, Message)]
#[rtype(result = "HeldPart")]
pub(crate) struct WhoIsHeld {
    pub(crate) from: Ix,
}

/// The answer.
#[derive(Debug, Default)]
pub(crate) struct HeldPart {
    /// Where to go on; nothing at the end.
    pub(crate) next: Option<Ix>,
    pub(crate) listed: Vec<HeldOne>,
    pub(crate) counts: BTreeMap<Slug, u64>,
}

impl Handler<WhoIsHeld> for Shard {
    type Result = MessageResult<WhoIsHeld>;

    fn handle(&mut self, asked: WhoIsHeld, _: &mut Context<Self>) -> Self::Result {
        let _turn = self.ctx.pulse.on(Doing::Counting, None);
        let accounts = self.ctx.accounts.borrow();
        let end = asked.from.saturating_add(STRETCH);
        let mut part =
            HeldPart { next: (end < accounts.end()).then_some(end), ..HeldPart::default() };
        for ix in asked.from..end.min(accounts.end()) {
            let Some(entry) = accounts.get(ix) else { continue };
            let (Some((_, Cause::Hold)), since) = entry.spent() else { continue };
            if entry.counts().0 == 0 {
                continue;
            }
            let count = part.counts.entry(entry.key.platform.clone()).or_default();
            *count += 1;
            if *count <= LISTED_MAX {
                let glance = entry.glance();
                part.listed.push(HeldOne {
                    key: entry.key.clone(),
                    since,
                    until: glance.until,
                    because: glance.because.map(String::from).unwrap_or_default(),
                });
            }
        }
        MessageResult(part)
    }
}
