//! The collector actor: a free hand of a shard. It has one attempt at a time and goes back to its
//! shard's free list after each.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;

use tollgate_gate::PermitId;

use super::attempt;
use crate::pulse::Doing;
use crate::shard::context::Context as Shard;
use crate::supervise::DeathNotice;

/// Makes one attempt at a time.
#[derive(Debug)]
pub struct Collector {
    shard: Rc<Shard>,
    /// The fetch in hand, for the report of a death.
    notice: DeathNotice,
}

impl Collector {
    /// Starts a collector on this thread.
    pub(crate) fn start(shard: Rc<Shard>) -> Addr<Self> {
        let told = Rc::clone(&shard);
        let notice = DeathNotice::new(move |reason| told.collector_died(&reason));
        Self { shard, notice }.start()
    }
}

impl Actor for Collector {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // One order at a time, and a shard only sends to a collector that is free.
        ctx.set_mailbox_capacity(1);
    }
}

/// Sent by a throttle actor with a permit; no reply: the permit tells. Never repeated.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Make(pub(crate) PermitId);

impl Handler<Make> for Collector {
    type Result = ();

    fn handle(&mut self, Make(id): Make, ctx: &mut Self::Context) {
        let Some(order) = self.shard.order(id) else { return };
        let shard = Rc::clone(&self.shard);
        let broken_off = shard.broken_off(id);
        let (pulse, ix) = (Arc::clone(&shard.pulse), shard.account_of(id));
        let attempt = async move {
            tokio::select! {
                biased;
                // The call ends with its future.
                () = broken_off => {}
                () = attempt::make(shard, order) => {}
            }
        };
        let attempt = async move {
            let mut attempt = pin!(attempt);
            let in_turn = |cx: &mut std::task::Context<'_>| {
                let _turn = pulse.on(Doing::Collecting, ix);
                attempt.as_mut().poll(cx)
            };
            poll_fn(in_turn).await;
        };
        ctx.spawn(attempt.into_actor(self).map(|(), collector, ctx| {
            if !collector.shard.collector_free(ctx.address()) {
                collector.notice.expected();
                ctx.stop();
            }
        }));
    }
}
