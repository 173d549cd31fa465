//! The token endpoints of a rehearsal: whoever asks gets a stand-in.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use serde_json::json;

use super::STAND_IN;
use crate::clock::Clock;
use crate::http::{Answer, CallBounds, CallError, OnWritten, Transport, Written};
use crate::recipe::Request;

/// How long a stand-in is good for, in seconds.
const LIFE: u32 = 86_400;

/// Answers every request with a token that stands in for a real one.
#[derive(Debug)]
pub(super) struct Tokens(pub(super) Clock);

impl Transport for Tokens {
    fn send(
        &self,
        _: Request,
        _: CallBounds,
        on_written: OnWritten,
    ) -> LocalBoxFuture<'static, Result<Answer, CallError>> {
        on_written(Written::At(self.0.now()));
        let token = format!("{STAND_IN}TOKEN");
        let told = json!({ "access_token": token, "token_type": "Bearer", "expires_in": LIFE });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from(told.to_string());
        let body = stream::iter([Ok(body)]).boxed_local();
        async move { Ok(Answer { status: 200, headers, body }) }.boxed_local()
    }
}
