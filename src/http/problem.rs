//! What goes wrong with a question, as RFC 9457 has it: `application/problem+json` with our code.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tollgate_actors::codes::Code;

const PROBLEM_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
/// When to ask again where that is no question of what was asked.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: String,
    title: String,
    detail: String,
}

/// Its form on the wire.
#[derive(Serialize)]
struct Told<'a> {
    /// Nothing is at home there: `tollgate explain` has the page.
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        let (code_id, title) = (code.id().to_owned(), code.title().to_owned());
        Self { status: status_of(code), code: code_id, title, detail: detail.into() }
    }

    /// What a node answers instead of an answer: a code, perhaps, and a sentence.
    pub(super) fn told(code: &str, reason: &str) -> Self {
        let known = tollgate_actors::codes::all().iter().find(|known| known.id() == code);
        match known {
            Some(code) => Self::new(*code, reason),
            None => Self::new(Code::BadQuestion, reason),
        }
    }

    pub(super) fn question(detail: impl Into<String>) -> Self {
        Self::new(Code::BadQuestion, detail)
    }

    pub(super) fn nothing(detail: impl Into<String>) -> Self {
        Self::new(Code::NoSuchThing, detail)
    }

    pub(super) fn not_now(detail: impl Into<String>) -> Self {
        Self::new(Code::NotAtWork, detail)
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// As the stream of live numbers tells it.
    pub(super) fn text(&self) -> String {
        let told = Told {
            r#type: format!("urn:tollgate:{}", self.code),
            title: &self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            code: &self.code,
        };
        serde_json::to_string(&told).expect("texts are JSON")
    }
}

fn status_of(code: Code) -> StatusCode {
    match code {
        Code::NoToken => StatusCode::UNAUTHORIZED,
        Code::TokenNotSet | Code::ForeignOrigin => StatusCode::FORBIDDEN,
        Code::HostNotOurs => StatusCode::MISDIRECTED_REQUEST,
        Code::BadQuestion => StatusCode::BAD_REQUEST,
        Code::NoSuchThing => StatusCode::NOT_FOUND,
        Code::TooManyQuestions
        | Code::NotAtWork
        | Code::QueueUnavailable
        | Code::LedgerUnavailable
        | Code::NoNodeAnswers
        | Code::NatsUnreachable
        | Code::NatsDenied => StatusCode::SERVICE_UNAVAILABLE,
        // A fetch that cannot be called as the configuration is, or what this node cannot do.
        _ => StatusCode::CONFLICT,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut text = self.text();
        text.push('\n');
        let mut answer = (self.status, [(CONTENT_TYPE, PROBLEM_TYPE)], text).into_response();
        let headers = answer.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(AGAIN_AFTER.as_secs()));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Bearer realm=\"tollgate\"");
            headers.insert(WWW_AUTHENTICATE, how);
        }
        answer
    }
}
