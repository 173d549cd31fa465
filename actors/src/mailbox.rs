//! Addresses of actors that count what waits in a mailbox: actix does not say how full one is.

use std::fmt;

use actix::dev::{MessageResponse, OneshotSender, ToEnvelope};
use actix::prelude::Request;
use actix::{Actor, Addr, Handler, Message};

use crate::telemetry::Waiting;

/// An actor's address.
pub struct Mailbox<A: Actor> {
    addr: Addr<A>,
    waiting: Waiting,
}

impl<A: Actor> Mailbox<A> {
    /// Counts what is sent to it there.
    pub(crate) fn new(addr: Addr<A>, waiting: Waiting) -> Self {
        Self { addr, waiting }
    }

    /// Sends, whether there is room or not.
    pub fn do_send<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Counted<M>>,
        A::Context: ToEnvelope<A, Counted<M>>,
    {
        self.addr.do_send(Counted::new(message, &self.waiting));
    }

    /// Sends, and waits for room and for the answer.
    pub fn send<M>(&self, message: M) -> Request<A, Counted<M>>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Counted<M>>,
        A::Context: ToEnvelope<A, Counted<M>>,
    {
        self.addr.send(Counted::new(message, &self.waiting))
    }

    /// Whether the actor lives.
    pub fn connected(&self) -> bool {
        self.addr.connected()
    }
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { addr: self.addr.clone(), waiting: self.waiting.clone() }
    }
}

impl<A: Actor> fmt::Debug for Mailbox<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("connected", &self.connected()).finish_non_exhaustive()
    }
}

/// A message that counts as waiting until it is handled, or is dropped with its mailbox.
#[derive(Debug)]
pub struct Counted<M> {
    message: M,
    counts: Counts,
}

impl<M> Counted<M> {
    pub(crate) fn new(message: M, waiting: &Waiting) -> Self {
        waiting.comes();
        Self { message, counts: Counts(waiting.clone()) }
    }

    /// For its handler: it waits no longer.
    pub(crate) fn open(self) -> M {
        drop(self.counts);
        self.message
    }
}

impl<M: Message> Message for Counted<M> {
    type Result = M::Result;
}

#[derive(Debug)]
struct Counts(Waiting);

impl Drop for Counts {
    fn drop(&mut self) {
        self.0.goes();
    }
}

/// What a handler of the message inside has answered.
#[derive(Debug)]
pub struct Passed<R>(pub(crate) R);

impl<A, M, R> MessageResponse<A, Counted<M>> for Passed<R>
where
    A: Actor,
    M: Message,
    R: MessageResponse<A, M>,
{
    fn handle(self, ctx: &mut A::Context, answer: Option<OneshotSender<M::Result>>) {
        self.0.handle(ctx, answer);
    }
}
