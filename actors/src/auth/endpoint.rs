//! One question to a token endpoint (RFC 6749 §3.2, §5), strictly read.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::time::timeout;
use tollgate_gate::Span;

use super::redact::Redactor;
use super::sign::{basic, encoded};
use super::{AssertionAs, Grant, OAuth2};
use crate::clock::Clock;
use crate::http::classify::retry_after;
use crate::http::{CallBounds, Transport};
use crate::plan::Timeouts;
use crate::recipe::Request;

/// How long the server may take, from the connection to the end of its answer: so many seconds in which this process
/// runs. An answer that came while it was stopped is read, and not given up for its age: it may be the only one.
const CONNECT: Duration = Duration::from_secs(10);
const SECONDS: u32 = 30;
const SECOND: Duration = Duration::from_secs(1);
/// Never met: the seconds are what bounds a call.
const NEVER: Duration = Duration::from_secs(3600);
/// Largest answer in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// How much of what the server says is shown.
const SAID_BYTES_MAX: usize = 200;
/// Bounds of a token's life: shorter is taken as that, longer too.
const LIFE_MIN: Duration = Duration::from_secs(1);
const LIFE_MAX: Duration = Duration::from_secs(400 * 24 * 3600);

/// What is asked with.
pub(super) struct Client {
    pub(super) id: Option<String>,
    pub(super) secret: Option<SecretString>,
    pub(super) refresh: Option<SecretString>,
    pub(super) assertion: Option<(String, AssertionAs)>,
}

/// What a server gave.
pub(super) struct Given {
    pub(super) access: SecretString,
    pub(super) life: Duration,
    /// Another refresh token, in place of the one that was asked with.
    pub(super) refresh: Option<SecretString>,
}

/// Why it gave nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It said no, and will say so again.
    Refused(String),
    /// Later it may. `lost`: it may have given what never came here; `answered`: it said so itself.
    Later { reason: String, after: Option<Duration>, lost: bool, answered: bool },
}

/// Asks for a token. `redactor` knows every secret that is sent.
pub(super) async fn ask(
    transport: &dyn Transport,
    clock: &Clock,
    oauth2: &OAuth2,
    client: &Client,
    redactor: &Redactor,
) -> Result<Given, Denied> {
    let request = request(oauth2, client)?;
    let bounds = CallBounds {
        timeouts: Timeouts { connect: CONNECT, first_byte: NEVER, stall: NEVER },
        write_by: clock.now().plus(Span::from(CONNECT)),
        once: false,
    };
    let later = |reason: String, lost| Denied::Later { reason, after: None, lost, answered: false };
    let written = Rc::new(Cell::new(false));
    let seen = Rc::clone(&written);
    let asking = async {
        let on_written = Rc::new(move |_| seen.set(true));
        let answer = transport.send(request, bounds, on_written).await;
        let mut answer =
            answer.map_err(|error| later(error.to_string(), error.may_have_been_sent()))?;
        let mut body = Vec::new();
        while let Some(piece) = answer.body.next().await {
            let piece = piece.map_err(|error| later(error.to_string(), true))?;
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_BYTES_MAX {
                let reason = format!("its answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(later(reason, true));
            }
        }
        Ok((answer.status, answer.headers, body))
    };
    let mut asking = std::pin::pin!(asking);
    let mut answer = None;
    for _ in 0..SECONDS {
        if let Ok(came) = timeout(SECOND, &mut asking).await {
            answer = Some(came);
            break;
        }
    }
    let nothing = || later(format!("no answer within {SECONDS} s"), written.get());
    let (status, headers, body) = answer.unwrap_or_else(|| Err(nothing()))?;
    read(oauth2, status, &headers, &body, redactor, clock)
}

/// The question: a form, as §4 and §6 have it.
fn request(oauth2: &OAuth2, client: &Client) -> Result<Request, Denied> {
    let grant = match oauth2.grant {
        Grant::RefreshToken => "refresh_token",
        Grant::ClientCredentials => "client_credentials",
        Grant::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
    };
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", grant);
    if let Some(refresh) = &client.refresh {
        form.append_pair("refresh_token", refresh.expose_secret());
    }
    let mut headers = HeaderMap::new();
    let secret = client.secret.as_ref().map(ExposeSecret::expose_secret);
    if oauth2.client_basic {
        // §2.3.1: both are encoded as in a form first.
        let id = encoded(client.id.as_deref().unwrap_or_default());
        let value = basic(&id, &encoded(secret.unwrap_or_default()));
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| Denied::Refused("client_id and client_secret fit no header".into()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    } else {
        let pairs = [("client_id", client.id.as_deref()), ("client_secret", secret)];
        for (name, value) in pairs {
            value.map(|value| form.append_pair(name, value));
        }
    }
    match &client.assertion {
        None => {}
        Some((text, AssertionAs::Assertion)) => _ = form.append_pair("assertion", text),
        Some((text, AssertionAs::ClientSecret)) => _ = form.append_pair("client_secret", text),
        Some((text, AssertionAs::ClientAssertion)) => {
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            form.append_pair("client_assertion_type", kind).append_pair("client_assertion", text);
        }
    }
    if let Some(scope) = &oauth2.scope {
        form.append_pair("scope", scope);
    }
    for (name, value) in &oauth2.params {
        form.append_pair(name, value);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    // What is asked for is small: no coding has to be undone.
    headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let body = Some(Bytes::from(form.finish()));
    Ok(Request { method: Method::POST, url: oauth2.token_url.clone(), headers, body })
}

fn read(
    oauth2: &OAuth2,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    redactor: &Redactor,
    clock: &Clock,
) -> Result<Given, Denied> {
    let json: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
    if status != 200 {
        // §5.2: `error` is a word, `error_description` a sentence.
        let text = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
        let said = [text("error"), text("error_description")];
        let said: Vec<String> = said.into_iter().flatten().collect();
        let mut said = redactor.clean(&said.join(": ")).into_owned();
        let mut end = SAID_BYTES_MAX.min(said.len());
        while !said.is_char_boundary(end) {
            end -= 1;
        }
        said.truncate(end);
        let said = if said.is_empty() { said } else { format!(" ({said})") };
        let reason = format!("the token endpoint answered {status}{said}");
        let busy =
            matches!(text("error").as_deref(), Some("temporarily_unavailable" | "slow_down"));
        return Err(match status {
            408 | 425 | 429 | 500..=599 => {
                let after = retry_after(headers, clock.wall());
                Denied::Later { reason, after, lost: status >= 500, answered: true }
            }
            _ if busy => Denied::Later { reason, after: None, lost: false, answered: true },
            _ => Denied::Refused(reason),
        });
    }
    let odd = |what: &str| Denied::Later {
        reason: format!("the token endpoint's answer {what}"),
        after: None,
        lost: true,
        answered: true,
    };
    let json = json.ok_or_else(|| odd("is no JSON object"))?;
    let text = |name: &str| json.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let access = text("access_token").ok_or_else(|| odd("has no `access_token`"))?;
    if HeaderValue::from_str(access).is_err() {
        return Err(odd("has an `access_token` that no header can carry"));
    }
    let life = match json.get("expires_in") {
        None | Some(Value::Null) => oauth2.life,
        // Some servers write it as text.
        Some(value) => {
            let seconds = value.as_f64().or_else(|| value.as_str()?.parse().ok());
            let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
            let seconds = seconds.ok_or_else(|| odd("has an `expires_in` that is no number"))?;
            Duration::from_secs_f64(seconds.min(LIFE_MAX.as_secs_f64()))
        }
    };
    Ok(Given {
        access: access.to_owned().into(),
        life: life.clamp(LIFE_MIN, LIFE_MAX),
        refresh: text("refresh_token").map(|text| text.to_owned().into()),
    })
}
