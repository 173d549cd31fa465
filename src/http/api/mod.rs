//! The API below `/api/v1`: questions to the cluster as the commands ask them, and what operators may change.
//!
//! `docs/openapi.json` describes it; a test compares both. Bounded are the questions that are worked on at a time
//! ([`QUESTIONS_MAX`], one more is refused), the time of each ([`ANSWER_WITHIN`]), bodies ([`BODY_BYTES_MAX`]) and pages.

mod counter;
mod live;
mod questions;
mod views;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tollgate_actors::codes::Code;

pub(crate) use self::counter::Counter;
pub(super) use self::live::{Ends, Live};
use super::Front;
use super::problem::Problem;

/// Questions that are worked on at a time; one more is refused.
const QUESTIONS_MAX: usize = 16;
/// How long one is worked on. Nodes of a cluster have 8 s for the longest of them.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// Longest body of a request.
const BODY_BYTES_MAX: usize = 16 * 1024;
const JSON: &str = "application/json";
/// What describes it all.
pub(super) const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// Where questions are taken.
#[derive(Debug)]
pub(super) struct Desks {
    counter: RwLock<Option<Arc<Counter>>>,
    questions: Semaphore,
}

impl Default for Desks {
    fn default() -> Self {
        Self { counter: RwLock::default(), questions: Semaphore::new(QUESTIONS_MAX) }
    }
}

/// A question that is worked on.
struct Asked<'f> {
    counter: Arc<Counter>,
    _permit: SemaphorePermit<'f>,
}

impl std::ops::Deref for Asked<'_> {
    type Target = Counter;

    fn deref(&self) -> &Counter {
        &self.counter
    }
}

impl Desks {
    pub(super) fn attend(&self, counter: Option<Counter>) {
        let mut place = self.counter.write().unwrap_or_else(PoisonError::into_inner);
        *place = counter.map(Arc::new);
    }

    fn counter(&self) -> Result<Arc<Counter>, Problem> {
        let place = self.counter.read().unwrap_or_else(PoisonError::into_inner);
        place.clone().ok_or_else(|| {
            Problem::not_now("the node has not begun to collect, or ends; /readyz says why")
        })
    }

    fn ask(&self) -> Result<Asked<'_>, Problem> {
        let counter = self.counter()?;
        let Ok(permit) = self.questions.try_acquire() else {
            let detail = format!("{QUESTIONS_MAX} questions are worked on, more are not taken");
            return Err(Problem::new(Code::TooManyQuestions, detail));
        };
        Ok(Asked { counter, _permit: permit })
    }

    /// Asks one thing, for a bounded time.
    async fn answer<T: Serialize>(
        &self,
        asking: impl AsyncFnOnce(&Counter) -> Result<T, Problem>,
    ) -> Result<Response, Problem> {
        let asked = self.ask()?;
        let late = || {
            let within = ANSWER_WITHIN.as_secs();
            Problem::not_now(format!("no answer within {within} s; what was to change may have"))
        };
        let answer = timeout(ANSWER_WITHIN, asking(&asked)).await.map_err(|_| late())??;
        Ok(json(&answer))
    }
}

/// One path with what can be done there, for the router and for the test that compares it with its description.
struct Route {
    path: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "axum does not say what it routes"))]
    methods: &'static [&'static str],
    does: MethodRouter<Front>,
}

fn routes() -> Vec<Route> {
    let route = |path, methods, does| Route { path, methods, does };
    vec![
        route("/api/v1/about", &["get"], get(questions::about)),
        route("/api/v1/openapi.json", &["get"], get(openapi)),
        route("/api/v1/overview", &["get"], get(views::overview)),
        route("/api/v1/events", &["get"], get(live::events)),
        route("/api/v1/platforms", &["get"], get(views::platforms)),
        route("/api/v1/accounts", &["get"], get(views::accounts)),
        route("/api/v1/accounts/{platform}/{account}", &["get"], get(views::account)),
        route("/api/v1/account", &["get"], get(views::account_by_query)),
        route("/api/v1/holds", &["get"], get(questions::holds)),
        route("/api/v1/pause", &["post"], post(questions::pause)),
        route("/api/v1/resume", &["post"], post(questions::resume)),
        route("/api/v1/dead", &["get"], get(questions::dead)),
        route(
            "/api/v1/dead/{number}",
            &["get", "delete"],
            get(questions::letter).merge(delete(questions::drop_letter)),
        ),
        route("/api/v1/dead/{number}/replay", &["post"], post(questions::replay)),
        route("/api/v1/doctor", &["get"], get(questions::doctor)),
        route("/api/v1/config", &["get"], get(questions::config)),
        route(
            "/api/v1/log-level",
            &["get", "post"],
            get(questions::log_level).post(questions::set_log_level),
        ),
    ]
}

pub(super) fn router() -> Router<Front> {
    let mut router = Router::new();
    for Route { path, does, .. } in routes() {
        router = router.route(path, does);
    }
    router
        .route("/api", get(nothing))
        .route("/api/{*rest}", get(nothing))
        .method_not_allowed_fallback(wrong_method)
}

async fn nothing() -> Problem {
    Problem::nothing("there is no such path; /api/v1/openapi.json tells all of them")
}

async fn wrong_method() -> Problem {
    let detail = "this cannot be done here; the header Allow says what can";
    Problem::question(detail).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(JSON))], OPENAPI).into_response()
}

fn json(answer: &impl Serialize) -> Response {
    let mut text = serde_json::to_vec(answer).expect("answers are JSON");
    text.push(b'\n');
    ([(CONTENT_TYPE, HeaderValue::from_static(JSON))], text).into_response()
}

/// The parameters of a URL.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    serde_urlencoded::from_str(uri.query().unwrap_or_default())
        .map_err(|error| Problem::question(format!("the parameters are not understood: {error}")))
}

/// A body of one content type, as no form of another site can send it where that is not a form's.
pub(super) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    kind: &str,
) -> Result<Bytes, Problem> {
    let told = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let told = told.split(';').next().unwrap_or_default().trim();
    if !told.eq_ignore_ascii_case(kind) {
        let problem = Problem::question(format!("the body has to be {kind}"));
        return Err(problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        let problem = Problem::question(format!("a body has at most {BODY_BYTES_MAX} bytes"));
        problem.with_status(StatusCode::PAYLOAD_TOO_LARGE)
    })
}

async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let body = read_body(headers, body, JSON).await?;
    // A list would do for an object otherwise.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::question("the body is no JSON object"));
    }
    serde_json::from_slice(&body)
        .map_err(|error| Problem::question(format!("the body is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn each_route_is_described_and_each_that_is_described_is_there() {
        let described: Value = serde_json::from_str(OPENAPI).unwrap();
        let methods = ["get", "put", "post", "delete", "patch", "options", "head", "trace"];
        let mut told = BTreeSet::new();
        for (path, item) in described["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                if methods.contains(&method.as_str()) {
                    told.insert((path.clone(), method.clone()));
                }
            }
        }
        let routes = routes();
        let ours = routes.iter().flat_map(|route| {
            route.methods.iter().map(move |method| (route.path.to_owned(), (*method).to_owned()))
        });
        let mut there: BTreeSet<_> = ours.collect();
        for path in ["/healthz", "/readyz", "/metrics"] {
            there.insert((path.to_owned(), "get".to_owned()));
        }
        assert_eq!(told, there);
    }

    #[test]
    fn one_question_more_than_are_worked_on_is_refused() {
        let desks = Desks::default();
        let permits: Vec<_> = (0..QUESTIONS_MAX).map(|_| desks.questions.try_acquire()).collect();
        assert!(permits.iter().all(Result::is_ok));
        assert!(desks.questions.try_acquire().is_err());
    }
}
