//! The way of letters about budgets between nodes, as core NATS carries them: at most once each, through the server, and
//! lost with the connection that they were for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::sleep;
use tollgate_protos::wire::{Message as _, v1};

use super::Trace;
use super::host::Life;
use super::net::Net;
use crate::budget::exchange::{BudgetWire, Exchange, Letter};
use crate::ledger::Writer;
use crate::nats::session::{Session, SessionId};

/// How long a receipt is waited for, as on NATS.
const RECEIPT_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks whether whom a letter is for can be reached again.
const REACHED_LOOK: Duration = Duration::from_millis(50);

/// A process, and where it takes letters in.
type Ear = (Arc<Life>, Addr<Exchange>);

/// Who hears letters, by session.
#[derive(Debug, Default)]
pub(super) struct Post(Mutex<BTreeMap<u64, Ear>>);

impl Post {
    /// From now on this process hears letters.
    pub(super) fn hear(&self, life: &Arc<Life>, exchange: Addr<Exchange>) {
        self.0.lock().unwrap().insert(life.session, (Arc::clone(life), exchange));
    }

    /// Brings a letter, and its receipt; nothing if nobody has heard it.
    async fn deliver(&self, to: SessionId, letter: Bytes) -> Option<Bytes> {
        let (life, exchange) = self.0.lock().unwrap().get(&to.0).cloned()?;
        let before = life.link_now();
        // The server has it, and a connection that seems to be there: it comes late, or never if that is made anew.
        while life.is_cut_off() && !life.is_dead() {
            sleep(REACHED_LOOK).await;
        }
        let now = life.link_now();
        if !now.up || now.times != before.times {
            return None;
        }
        exchange.send(Letter(letter)).await.ok()
    }
}

/// The way of one node's process to the others.
#[derive(Debug, Clone)]
pub(super) struct SimBudgets {
    pub(super) life: Arc<Life>,
    pub(super) net: Arc<Net>,
    pub(super) session: Arc<Session>,
    pub(super) post: Arc<Post>,
    pub(super) trace: Arc<Trace>,
}

impl BudgetWire for SimBudgets {
    fn send(&self, to: SessionId, letter: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let this = self.clone();
        async move {
            if !this.life.link_now().up {
                return None;
            }
            this.trace.show(|| {
                let said = v1::BudgetLetter::decode(&*letter).unwrap();
                format!(
                    "letter {}.{} of {} to {}: {:?}",
                    said.line, said.number, said.from, to.0, said.words
                )
            });
            let post = Arc::clone(&this.post);
            let work = move || {
                let (post, letter) = (Arc::clone(&post), letter.clone());
                async move { post.deliver(to, letter).await }
            };
            this.net.ask(&this.life, RECEIPT_WITHIN, work).await.flatten()
        }
        .boxed()
    }

    fn look(&self, session: SessionId) -> BoxFuture<'static, Option<Writer>> {
        let own = Arc::clone(&self.session);
        async move { own.look(session).await.ok() }.boxed()
    }
}
