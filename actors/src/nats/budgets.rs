//! Letters about budgets between nodes, as requests of NATS: each node hears its own on `PREFIX.budget.SESSION`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::Request;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};

use super::Bus;
use super::session::{Session, SessionId};
use crate::budget::exchange::BudgetWire;
use crate::ledger::Writer;
use crate::node::Exchanged;

/// How long a receipt may take.
const RECEIPT_WITHIN: Duration = Duration::from_secs(1);

/// The way to the other nodes of a session.
#[derive(Debug, Clone)]
pub struct NatsBudgets {
    bus: Bus,
    session: Arc<Session>,
}

impl NatsBudgets {
    /// For this session.
    pub fn new(bus: &Bus, session: &Arc<Session>) -> Self {
        Self { bus: bus.clone(), session: Arc::clone(session) }
    }

    /// Takes in what other nodes say, for as long as it is polled.
    ///
    /// # Errors
    /// The subscription cannot be made, or ended: the connection is closed.
    pub async fn listen(self, exchanged: Exchanged) -> Result<(), async_nats::Error> {
        let client = self.bus.client();
        let subject = self.bus.names().budgets(&self.session.id().to_string());
        let mut letters = client.subscribe(subject).await?;
        while let Some(letter) = letters.next().await {
            let receipt = exchanged.take(letter.payload).await;
            if let (Some(reply), Some(receipt)) = (letter.reply, receipt) {
                // Whoever hears nothing sends it again.
                let _sent = client.publish(reply, receipt).await;
            }
        }
        Err("the subscription to letters about budgets ended".into())
    }
}

impl BudgetWire for NatsBudgets {
    fn send(&self, to: SessionId, letter: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let bus = self.bus.clone();
        async move {
            if !bus.link().borrow().up {
                // Sent now it would come through when nobody wants it any more.
                return None;
            }
            let subject = bus.names().budgets(&to.to_string());
            let asking = Request::new().payload(letter).timeout(Some(RECEIPT_WITHIN));
            let receipt = bus.client().send_request(subject, asking).await;
            receipt.ok().map(|receipt| receipt.payload)
        }
        .boxed()
    }

    fn look(&self, session: SessionId) -> BoxFuture<'static, Option<Writer>> {
        let own = Arc::clone(&self.session);
        async move { own.look(session).await.ok() }.boxed()
    }
}
