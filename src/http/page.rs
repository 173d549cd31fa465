//! The page at `/`: files of this binary, a login, and nothing from elsewhere.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::Front;
use super::api::read_body;
use super::problem::Problem;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// What it is made of: path, type, bytes. uPlot 1.6.32 is as its authors publish it.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("page/index.html")),
    ("/page.css", CSS, include_str!("page/page.css")),
    ("/icon.svg", SVG, include_str!("page/icon.svg")),
    ("/app.js", JS, include_str!("page/app.js")),
    ("/lib.js", JS, include_str!("page/lib.js")),
    ("/overview.js", JS, include_str!("page/overview.js")),
    ("/views.js", JS, include_str!("page/views.js")),
    ("/account.js", JS, include_str!("page/account.js")),
    ("/uplot.js", JS, include_str!("page/uplot/uPlot.iife.min.js")),
    ("/uplot.css", CSS, include_str!("page/uplot/uPlot.min.css")),
    ("/uplot.txt", TEXT, include_str!("page/uplot/LICENSE")),
];
const LOGIN: &str = include_str!("page/login.html");

/// What is answered before anybody has logged in: the form, and what it looks like.
pub(super) fn is_open(path: &str) -> bool {
    matches!(path, "/login" | "/page.css" | "/icon.svg")
}

pub(super) fn router() -> Router<Front> {
    let mut router = Router::new();
    for (path, kind, text) in FILES {
        let file = move || async move { file(StatusCode::OK, kind, text) };
        router = router.route(path, get(file));
    }
    router.route("/login", get(form).post(log_in)).route("/logout", post(log_out))
}

fn file(status: StatusCode, kind: &'static str, text: &'static str) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

/// The form, after a wrong token too.
pub(super) fn login_page(status: StatusCode, wrong: bool) -> Response {
    if wrong {
        // The one place in it that changes.
        let text = LOGIN.replace(" hidden>", ">");
        let kind = HeaderValue::from_static(HTML);
        return (status, [(CONTENT_TYPE, kind)], text).into_response();
    }
    file(status, HTML, LOGIN)
}

async fn form(State(front): State<Front>) -> Response {
    if front.lock.asks_for_token() { login_page(StatusCode::OK, false) } else { to("/", None) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

async fn log_in(
    State(front): State<Front>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = read_body(&headers, body, "application/x-www-form-urlencoded").await?;
    let asked: Result<Login, _> = serde_urlencoded::from_bytes(&body);
    let Ok(Login { token }) = asked else {
        return Err(Problem::question("the form has one field, `token`"));
    };
    if front.lock.fits(token.trim()) {
        return Ok(to("/", Some(front.lock.login())));
    }
    Ok(login_page(StatusCode::UNAUTHORIZED, true))
}

async fn log_out(State(front): State<Front>) -> Response {
    to("/login", Some(front.lock.logout()))
}

fn to(place: &'static str, cookie: Option<String>) -> Response {
    let headers = [(LOCATION, HeaderValue::from_static(place))];
    let mut answer = (StatusCode::SEE_OTHER, headers).into_response();
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    answer
}
