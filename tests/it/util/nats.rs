//! A `nats-server` of a test's own, and what a client in Rust sees of it.

use std::fmt::Debug;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::wait_until;
use crate::nats_server::NatsServer;

/// What the client waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A server, and a client that connects anew for each question, so that the server may die between two.
#[derive(Debug)]
pub(crate) struct Nats {
    runtime: Runtime,
    pub(crate) server: NatsServer,
    // After the server, which writes into it until it is dropped.
    folder: TempDir,
}

impl Nats {
    /// A server with JetStream.
    pub(crate) fn start() -> Self {
        Self::with("", "")
    }

    /// The same with more in the block `jetstream`, and in the whole configuration.
    pub(crate) fn with(jetstream: &str, more: &str) -> Self {
        let folder = TempDir::with_prefix("tollgate-it-nats-").unwrap();
        let server = NatsServer::start(folder.path(), jetstream, more);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, server, folder }
    }

    /// Runs a server with this configuration in its place.
    pub(crate) fn reconfigure(&mut self, change: impl FnOnce(String) -> String) {
        let path = self.folder.path().join("nats.conf");
        let config = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, change(config)).unwrap();
        self.server.restart();
    }

    /// Asks JetStream something, on a connection of its own.
    pub(crate) fn js<T>(&self, ask: impl AsyncFnOnce(Context) -> T) -> T {
        self.runtime.block_on(async {
            let client = async_nats::ConnectOptions::new().request_timeout(Some(ANSWER_WITHIN));
            let client = client.connect(self.server.url()).await.unwrap();
            ask(jetstream::new(client)).await
        })
    }

    /// Publishes as anybody might, and waits for the confirmation: its number in the stream.
    pub(crate) fn publish(
        &self,
        subject: &str,
        headers: &[(&'static str, &str)],
        payload: impl Into<Vec<u8>>,
    ) -> u64 {
        let (subject, payload) = (subject.to_owned(), payload.into());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        self.js(async |js| {
            let sent = js.publish_with_headers(subject, map, payload.into()).await.unwrap();
            sent.await.unwrap().sequence
        })
    }

    /// How many messages a stream holds, by the name behind the prefix: `FETCH`.
    pub(crate) fn count(&self, stream: &str) -> u64 {
        self.js(async |js| js.get_stream(name(stream)).await.unwrap().cached_info().state.messages)
    }

    /// Waits until a stream holds so many messages.
    pub(crate) fn wait_count(&self, stream: &str, count: u64) {
        wait_until(&format!("{count} messages in {stream}"), || {
            (self.count(stream) == count).then_some(())
        });
    }

    /// All messages of a stream.
    pub(crate) fn messages(&self, stream: &str) -> Vec<StreamMessage> {
        self.js(async |js| {
            let stream = js.get_stream(name(stream)).await.unwrap();
            let state = stream.cached_info().state.clone();
            let mut all = Vec::new();
            for seq in state.first_sequence..=state.last_sequence {
                // One that was deleted is not there.
                all.extend(stream.get_raw_message(seq).await);
            }
            assert_eq!(all.len() as u64, state.messages, "messages that could be read");
            all
        })
    }

    /// The message ids of a stream, for streams with many.
    pub(crate) fn ids(&self, stream: &str) -> Vec<String> {
        self.js(async |js| {
            let stream = js.get_stream(name(stream)).await.unwrap();
            let config = pull::Config {
                ack_policy: AckPolicy::None,
                headers_only: true,
                memory_storage: true,
                ..pull::Config::default()
            };
            let reader = stream.create_consumer(config).await.unwrap();
            let count = reader.cached_info().num_pending as usize;
            let messages = reader.stream().messages().await.unwrap().take(count);
            let id = |message: jetstream::Message| {
                message.headers.as_ref().unwrap().get(NATS_MESSAGE_ID).unwrap().to_string()
            };
            messages.map(|message| id(message.unwrap())).collect().await
        })
    }

    /// The messages of a stream that hold JSON, with their subjects.
    pub(crate) fn events<T: DeserializeOwned + Debug>(&self, stream: &str) -> Vec<(String, T)> {
        let read = |message: StreamMessage| {
            let event = serde_json::from_slice(&message.payload);
            (
                message.subject.to_string(),
                event.unwrap_or_else(|error| panic!("{error}: {message:?}")),
            )
        };
        self.messages(stream).into_iter().map(read).collect()
    }
}

fn name(stream: &str) -> String {
    format!("TOLLGATE_{stream}")
}
