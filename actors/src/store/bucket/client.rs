//! Connections to the store, apart for each thread, and whether requests come through at all.
//!
//! A connection is worked on by the runtime it was opened in, and each shard has one of its own. With
//! connections in common a request would wait for another shard's loop, and break when that ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use http::StatusCode;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use tokio::sync::Notify;

thread_local! {
    /// This thread's clients, by the number of the store's. They live as long as their thread: a process
    /// opens one store.
    static CLIENTS: RefCell<HashMap<u64, HttpClient>> = RefCell::default();
}

/// So many requests that fail in a row, whoever made them: the store is away. Where it is slow and refuses
/// some, others come through in between.
const FAILING: u32 = 16;

/// How many requests have failed since the last that did not. Tells of a store that is away long before the
/// last try of an operation ends.
#[derive(Debug, Default)]
pub(super) struct Streak {
    length: AtomicU32,
    grown: Notify,
}

impl Streak {
    fn ended(&self, answer: &Result<HttpResponse, HttpError>) {
        let failed = answer.as_ref().map_or(true, |answer| {
            let status = answer.status();
            status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
        });
        if !failed {
            self.length.store(0, Ordering::Relaxed);
        } else if self.length.fetch_add(1, Ordering::Relaxed) + 1 == FAILING {
            self.grown.notify_one();
        }
    }

    /// Somebody else has found out that the store is away.
    pub(super) fn tell(&self) {
        self.length.fetch_max(FAILING, Ordering::Relaxed);
        self.grown.notify_one();
    }

    /// Waits until requests fail one after the other.
    pub(super) async fn failing(&self) {
        loop {
            self.grown.notified().await;
            // It may be over by the time that somebody asks.
            if self.length.load(Ordering::Relaxed) >= FAILING {
                return;
            }
        }
    }
}

/// Makes clients that keep connections apart.
#[derive(Debug, Clone)]
pub(super) struct PerThread {
    streak: Arc<Streak>,
    /// Of the first client it makes; the next has the next.
    first: u64,
    made: Arc<AtomicU64>,
}

/// Most clients that one of these makes. A bucket needs three, and as many for its credentials.
const CLIENTS_MAX: u64 = 16;

impl PerThread {
    pub(super) fn new(streak: Arc<Streak>) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let first = LAST.fetch_add(CLIENTS_MAX, Ordering::Relaxed);
        Self { streak, first, made: Arc::default() }
    }

    /// For clients of another service: that it is away says nothing of the store, nor that it answers.
    pub(super) fn apart() -> Self {
        Self::new(Arc::default())
    }

    /// Makes the same clients anew, in the same order: whoever asks for them with the same options gets the
    /// connections that there are.
    pub(super) fn again(&self) -> Self {
        Self { made: Arc::default(), ..self.clone() }
    }
}

#[derive(Debug)]
struct Clients {
    number: u64,
    options: ClientOptions,
    streak: Arc<Streak>,
}

impl HttpConnector for PerThread {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        if made >= CLIENTS_MAX {
            // The next number is that of another bucket's client, with other options.
            let source = format!("more than {CLIENTS_MAX} clients of one bucket").into();
            return Err(object_store::Error::Generic { store: "client", source });
        }
        let number = self.first + made;
        let (options, streak) = (options.clone(), Arc::clone(&self.streak));
        let clients = Clients { number, options, streak };
        // What is wrong with the options shows here, not at the first request.
        clients.here()?;
        Ok(HttpClient::new(clients))
    }
}

impl Clients {
    fn here(&self) -> object_store::Result<HttpClient> {
        CLIENTS.with_borrow_mut(|clients| {
            if let Some(client) = clients.get(&self.number) {
                return Ok(client.clone());
            }
            let client = ReqwestConnector::default().connect(&self.options)?;
            clients.insert(self.number, client.clone());
            Ok(client)
        })
    }
}

impl HttpService for Clients {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> BoxFuture<'f, Result<HttpResponse, HttpError>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let client = self.here().map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
            let answer = client.execute(request).await;
            self.streak.ended(&answer);
            answer
        })
    }
}
