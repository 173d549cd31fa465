//! What is done, read from the stream DONE on from a place, as the server has it: in order, none left out.
//!
//! There is no consumer: whoever reads remembers the place, and asks for the next batch by Direct Get
//! (ADR-31 of nats-architecture-and-design, read 2026-11-22). A replica that is behind says that there is nothing yet; so does
//! a stream that was made anew or restored, whose numbers begin before that place. So the stream itself is asked now and then.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tollgate_protos::Done;

use super::Bus;

/// Messages of one batch, and their bytes.
const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// How long the server may take for each message.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often the stream is asked whether it is still the one that was read.
const ASK_EVERY: Duration = Duration::from_secs(60);
const HEADER_SEQUENCE: &str = "Nats-Sequence";

/// The stream was not read; what was heard before stays heard.
#[derive(Debug, thiserror::Error)]
#[error("the stream DONE cannot be read: {0}")]
pub struct DoneError(String);

/// Some of what is done.
#[derive(Debug, Default)]
pub struct Heard {
    /// In order.
    pub done: Vec<Done>,
    /// Some is not among them: the stream does not keep it any more, was made anew, or nobody of this version wrote it.
    pub has_gap: bool,
    /// More may wait.
    pub more: bool,
}

/// Reads the stream DONE.
#[derive(Debug)]
pub struct DoneReader {
    bus: Bus,
    end: End,
    /// When the stream was asked for it.
    asked: Instant,
}

/// Where a stream ends.
#[derive(Debug, Clone, Copy)]
struct End {
    /// When it was made, in nanoseconds since 1970.
    created: i128,
    /// The last message that was heard, or that was there before.
    after: u64,
}

impl End {
    async fn of(bus: &Bus) -> Result<Self, DoneError> {
        let asked = async {
            let stream = bus.js().get_stream(bus.names().stream("DONE")).await;
            stream.map(|stream| {
                let info = stream.cached_info();
                let created = info.created.unix_timestamp_nanos();
                Self { created, after: info.state.last_sequence }
            })
        };
        let end = timeout(ANSWER_WITHIN, asked).await.map_err(|_| no_answer())?;
        end.map_err(|error| DoneError(error.to_string()))
    }
}

impl DoneReader {
    /// Hears what comes from now on.
    ///
    /// # Errors
    /// The server does not say where the stream ends.
    pub async fn from_now(bus: &Bus) -> Result<Self, DoneError> {
        let end = End::of(bus).await?;
        Ok(Self { bus: bus.clone(), end, asked: Instant::now() })
    }

    /// The next ones; none: there are none yet. Dropping the future is safe: what was not returned comes again.
    ///
    /// # Errors
    /// The server does not answer, or refuses; the next call asks for the same again.
    pub async fn next(&mut self) -> Result<Heard, DoneError> {
        let mut heard = self.batch().await?;
        if self.asked.elapsed() >= ASK_EVERY {
            let now = End::of(&self.bus).await?;
            self.asked = Instant::now();
            if now.created != self.end.created || now.after < self.end.after {
                // Another stream, or an earlier state of this: what it has up to here was not heard.
                heard.has_gap = true;
                self.end = now;
            }
        }
        Ok(heard)
    }

    async fn batch(&mut self) -> Result<Heard, DoneError> {
        let failed = |error: &dyn std::fmt::Display| DoneError(error.to_string());
        let client = self.bus.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        let ask = json!({
            "seq": self.end.after + 1,
            "next_by_subj": self.bus.names().subject("done.>"),
            "batch": BATCH_MAX,
            "max_bytes": BATCH_BYTES_MAX,
        });
        let subject = format!("$JS.API.DIRECT.GET.{}", self.bus.names().stream("DONE"));
        let asked = client.publish_with_reply(subject, inbox, ask.to_string().into()).await;
        asked.map_err(|error| failed(&error))?;
        let (mut heard, mut after) = (Heard::default(), self.end.after);
        loop {
            let answer = timeout(ANSWER_WITHIN, answers.next()).await;
            let answer = answer.map_err(|_| no_answer())?.ok_or_else(no_answer)?;
            match answer.status.map(|status| (status.as_u16(), status)) {
                None => {}
                // The end of the batch, or nothing at all.
                Some((204 | 404, _)) => break,
                Some((_, status)) => {
                    let why = answer.description.as_deref().unwrap_or_default();
                    return Err(DoneError(format!("{status} {why}")));
                }
            }
            let sequence = answer.headers.as_ref().and_then(|headers| headers.get(HEADER_SEQUENCE));
            let sequence = sequence.and_then(|text| text.as_str().parse::<u64>().ok());
            let Some(sequence) = sequence else {
                return Err(DoneError("an answer has no number".to_owned()));
            };
            heard.has_gap |= sequence != after + 1;
            after = sequence;
            match serde_json::from_slice(&answer.payload) {
                Ok(done) => heard.done.push(done),
                Err(_) => heard.has_gap = true,
            }
        }
        heard.more = after > self.end.after;
        self.end.after = after;
        Ok(heard)
    }
}

fn no_answer() -> DoneError {
    DoneError("no answer in time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::ready;
    use super::*;

    async fn publish(bus: &Bus, id: &str) {
        let text = json!({
            "id": id, "seq": 1, "objects": [], "http_status": 200, "attempts": 1, "pages": 1, "waited_ms": 0,
            "fetched_at": "2026-11-20T00:00:00Z",
        });
        let subject = bus.names().subject("done.p.a.report");
        let stored = bus.js().publish(subject, text.to_string().into()).await.unwrap();
        stored.await.unwrap();
    }

    /// All that is there, by ids, and whether some is missing.
    async fn all(reader: &mut DoneReader) -> (Vec<String>, bool) {
        let (mut ids, mut has_gap) = (Vec::new(), false);
        loop {
            let heard = reader.next().await.unwrap();
            has_gap |= heard.has_gap;
            ids.extend(heard.done.into_iter().map(|done| done.id));
            if !heard.more {
                return (ids, has_gap);
            }
        }
    }

    #[tokio::test]
    async fn what_is_done_is_heard_once_in_order_however_much_it_is() {
        let (_folder, _server, bus) = ready("").await;
        publish(&bus, "before").await;
        let mut reader = DoneReader::from_now(&bus).await.unwrap();
        assert_eq!(all(&mut reader).await, (Vec::new(), false));
        let wanted: Vec<String> = (0..600).map(|n| format!("{n}")).collect();
        for id in &wanted {
            publish(&bus, id).await;
        }
        assert_eq!(all(&mut reader).await, (wanted, false));
        assert_eq!(all(&mut reader).await, (Vec::new(), false));
    }

    #[tokio::test]
    async fn what_is_not_kept_any_more_and_what_nobody_can_read_is_told() {
        let (_folder, _server, bus) = ready("").await;
        let mut reader = DoneReader::from_now(&bus).await.unwrap();
        publish(&bus, "1").await;
        publish(&bus, "2").await;
        let stream = bus.js().get_stream(bus.names().stream("DONE")).await.unwrap();
        stream.delete_message(1).await.unwrap();
        assert_eq!(all(&mut reader).await, (vec!["2".to_owned()], true));
        let subject = bus.names().subject("done.p.a.report");
        bus.js().publish(subject, "{".into()).await.unwrap().await.unwrap();
        publish(&bus, "3").await;
        assert_eq!(all(&mut reader).await, (vec!["3".to_owned()], true));
        publish(&bus, "4").await;
        assert_eq!(all(&mut reader).await, (vec!["4".to_owned()], false));
    }
    #[tokio::test]
    async fn a_stream_that_was_made_anew_is_told_and_heard_from_there_on() {
        let (_folder, _server, bus) = ready("").await;
        let name = bus.names().stream("DONE");
        let config = bus.js().get_stream(&name).await.unwrap().cached_info().config.clone();
        for left in [7, 1] {
            for n in 0..5 {
                publish(&bus, &format!("{n}")).await;
            }
            let mut reader = DoneReader::from_now(&bus).await.unwrap();
            bus.js().delete_stream(&name).await.unwrap();
            bus.js().create_stream(config.clone()).await.unwrap();
            // More than were heard, or fewer.
            for n in 0..left {
                publish(&bus, &format!("{n}")).await;
            }
            assert!(!all(&mut reader).await.1);
            reader.asked = reader.asked.checked_sub(ASK_EVERY).unwrap();
            assert!(all(&mut reader).await.1);
            publish(&bus, "next").await;
            assert_eq!(all(&mut reader).await, (vec!["next".to_owned()], false));
            // Nothing is told of one that is as it was.
            reader.asked = reader.asked.checked_sub(ASK_EVERY).unwrap();
            assert_eq!(all(&mut reader).await, (Vec::new(), false));
        }
    }
}
