//! Who is answered by the page and the API, and what browsers are told of them.
//!
//! Without a token: this machine, under its loopback names. With one: whoever has it, in a header or, once logged in,
//! in a cookie. What changes something has to come from the page itself or from no browser at all.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::hmac;
use ring::rand::SystemRandom;
use secrecy::{ExposeSecret, SecretString};
use tollgate_actors::clock::Clock;
use tollgate_actors::codes::Code;

use super::Front;
use super::page;
use super::problem::Problem;

/// How long a login lasts, in seconds; it ends with the node too.
const LOGIN_S: i64 = 12 * 3600;

/// Nothing from elsewhere, nothing written into the page, and in nobody's frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'",
);
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
/// Told by browsers over TLS and on loopback, and nowhere else.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a request has to show.
#[derive(Debug)]
pub(super) struct Lock {
    /// The token's tag under `key`; none: nobody is asked.
    token: Option<hmac::Tag>,
    /// Of this process alone: tags of tokens and logins.
    key: hmac::Key,
    loopback: bool,
    /// Cookies know no ports: the name does, so that two nodes of one machine keep apart.
    cookie: String,
    clock: Clock,
}

impl Lock {
    pub(super) fn new(token: Option<&SecretString>, at: SocketAddr) -> anyhow::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| anyhow::anyhow!("this machine gives no random numbers"))?;
        let token = token.map(|token| hmac::sign(&key, token.expose_secret().as_bytes()));
        let cookie = format!("tollgate-{}", at.port());
        Ok(Self { token, key, loopback: is_loopback(at.ip()), cookie, clock: Clock::new() })
    }

    pub(super) fn asks_for_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether it is the token. Takes as long for any text of the same length.
    pub(super) fn fits(&self, token: &str) -> bool {
        let tag = |own: &hmac::Tag| hmac::verify(&self.key, token.as_bytes(), own.as_ref());
        self.token.as_ref().is_some_and(|own| tag(own).is_ok())
    }

    /// The cookie of somebody who has shown the token.
    pub(super) fn login(&self) -> String {
        let ends = self.clock.wall().as_second() + LOGIN_S;
        let tag = hmac::sign(&self.key, login_text(ends).as_bytes());
        let tag: String =
            tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        self.cookie_of(&format!("{ends}.{tag}"), LOGIN_S)
    }

    /// The cookie that ends a login.
    pub(super) fn logout(&self) -> String {
        self.cookie_of("", 0)
    }

    fn cookie_of(&self, value: &str, seconds: i64) -> String {
        let name = &self.cookie;
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict")
    }

    fn is_logged_in(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|all| all.to_str().ok());
        let mut pairs =
            cookies.flat_map(|all| all.split(';')).filter_map(|one| one.split_once('='));
        pairs.any(|(name, value)| name.trim() == self.cookie && self.is_login(value.trim()))
    }

    fn is_login(&self, value: &str) -> bool {
        let Some((ends, tag)) = value.split_once('.') else { return false };
        let (Ok(ends), Some(tag)) = (ends.parse::<i64>(), bytes_of(tag)) else { return false };
        let is_ours = hmac::verify(&self.key, login_text(ends).as_bytes(), &tag).is_ok();
        is_ours && self.clock.wall().as_second() < ends
    }

    /// Whether a request may ask at all.
    fn admits(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        if self.token.is_some() {
            let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let bearer = bearer.and_then(|text| text.split_once(' '));
            let shown = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            if shown.is_some_and(|(_, token)| self.fits(token.trim())) || self.is_logged_in(headers)
            {
                return Ok(());
            }
            let detail =
                "http.token is set: log in at /login, or send `Authorization: Bearer TOKEN`";
            return Err(Problem::new(Code::NoToken, detail));
        }
        if !self.loopback {
            let detail = "the node listens elsewhere than on loopback: set http.token = \"env:TOLLGATE_TOKEN\" and that \
                          variable, or http.listen = \"127.0.0.1:9464\"";
            return Err(Problem::new(Code::TokenNotSet, detail));
        }
        if is_local(host_of(headers, uri).as_deref()) {
            return Ok(());
        }
        let detail =
            "without http.token only localhost, 127.0.0.1 and [::1] are names of this node";
        Err(Problem::new(Code::HostNotOurs, detail))
    }
}

/// Kept apart from the token itself, which is signed with the same key.
fn login_text(ends: i64) -> String {
    format!("login until {ends}")
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    // A tag of SHA-256.
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hex.as_bytes().chunks(2).map(pair).collect()
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Which host a request is for.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok());
    host.or_else(|| uri.authority().map(Authority::as_str)).map(str::to_owned)
}

fn is_local(host: Option<&str>) -> bool {
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(is_loopback)
}

/// Whether what changes something may come from there. Browsers tell where a request comes from; programs need not.
fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    let told = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = told(&FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = told(&ORIGIN) else { return true };
    let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    of.is_some_and(|of| host_of(headers, uri).is_some_and(|host| host.eq_ignore_ascii_case(of)))
}

/// Before and after every answer of the page and the API.
pub(super) async fn guard(State(front): State<Front>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_open = front.lock.asks_for_token() && page::is_open(path);
    let is_trusted = request.headers().contains_key(FETCH_SITE);
    let admitted = front.lock.admits(request.headers(), request.uri());
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let mut answer = match admitted {
        Err(_) if is_open && is_safe => next.run(request).await,
        Err(problem) if path == "/" && front.lock.asks_for_token() => {
            drop(problem);
            page::login_page(StatusCode::UNAUTHORIZED, false)
        }
        _ if !is_safe && !is_same_origin(request.headers(), request.uri()) => {
            let detail = "the request comes from a page of another origin";
            Problem::new(Code::ForeignOrigin, detail).into_response()
        }
        Err(_) if is_open => next.run(request).await,
        Err(problem) => problem.into_response(),
        Ok(()) => next.run(request).await,
    };
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // With `no-referrer` browsers send `Origin: null` with our own forms, and over plain http nothing else that would
    // tell them from foreign ones.
    headers.insert(REFERRER_POLICY, SAME_ORIGIN);
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), SAME_ORIGIN);
    if is_trusted {
        // Elsewhere browsers ignore it, and say so as an error.
        headers.insert(HeaderName::from_static("cross-origin-opener-policy"), SAME_ORIGIN);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(token: Option<&str>, at: &str) -> Lock {
        let token = token.map(|token| SecretString::from(token.to_owned()));
        Lock::new(token.as_ref(), at.parse().unwrap()).unwrap()
    }

    #[test]
    fn names_of_this_machine_are_known_from_names_that_point_to_it() {
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1:9464",
            "127.3.2.1",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_local(Some(host)), "{host}");
        }
        for host in [
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "10.0.0.1",
            "[::2]",
            "",
            "a b",
            "localhost@evil.test:80x",
        ] {
            assert!(!is_local(Some(host)), "{host}");
        }
        assert!(!is_local(None));
    }

    #[test]
    fn a_login_is_of_this_process_and_ends() {
        let lock = lock(Some("0123456789abcdef"), "127.0.0.1:9464");
        let cookie = lock.login();
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{cookie}");
        let value = cookie.split_once('=').unwrap().1.split_once(';').unwrap().0;
        assert!(lock.is_login(value));
        assert!(!cookie.contains("0123456789abcdef"), "the token is not in it");
        let other = super::tests::lock(Some("0123456789abcdef"), "127.0.0.1:9464");
        assert!(!other.is_login(value), "another process");
        let (ends, tag) = value.split_once('.').unwrap();
        let later = ends.parse::<i64>().unwrap() + 1;
        assert!(!lock.is_login(&format!("{later}.{tag}")), "a longer one");
        let past = lock.clock.wall().as_second();
        let tag = hmac::sign(&lock.key, login_text(past).as_bytes());
        let tag: String =
            tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        assert!(!lock.is_login(&format!("{past}.{tag}")), "one that has ended");
        for bad in ["", ".", "1.", "x.y", &format!("{ends}.{}", "é".repeat(32))] {
            assert!(!lock.is_login(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_fits_whole_and_the_log_shows_none() {
        let lock = lock(Some("0123456789abcdef"), "0.0.0.0:9464");
        assert!(lock.fits("0123456789abcdef"));
        for bad in ["", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF"] {
            assert!(!lock.fits(bad), "{bad}");
        }
        assert!(!format!("{lock:?}").contains("0123456789abcdef"));
        assert!(!super::tests::lock(None, "0.0.0.0:9464").fits(""), "none fits nothing");
    }
}
