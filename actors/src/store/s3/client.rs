//! Connections to the store, apart for each thread.
//!
//! A connection is worked on by the runtime it was opened in, and each shard has one of its own. With
//! connections in common a request would wait for another shard's loop, and break when that ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

thread_local! {
    /// This thread's clients, by the number of the store's. They live as long as their thread: a process
    /// opens one store.
    static CLIENTS: RefCell<HashMap<u64, HttpClient>> = RefCell::default();
}

/// Makes clients that keep connections apart.
#[derive(Debug)]
pub(super) struct PerThread;

#[derive(Debug)]
struct Clients {
    number: u64,
    options: ClientOptions,
}

impl HttpConnector for PerThread {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let clients = Clients { number, options: options.clone() };
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
            client.execute(request).await
        })
    }
}
