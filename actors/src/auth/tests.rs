use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;

use super::redact::Redactor;
use super::sign::Stamp;
use super::*;
use crate::clock::Clock;
use crate::config;
use crate::plan::Plan;
use crate::recipe::Request;

mod config_mistakes;
mod keeping;
mod masks;
mod signing;
mod tokens;
mod vaults;

/// A configuration with one platform `p` with this `auth`, as text.
pub(super) fn text(auth: &str) -> String {
    format!(
        "[store]\nurl = \"memory:\"\n[platforms.p]\nbase_url = \"https://api.example.com/v1/\"\n\
         {auth}\n[platforms.p.limits]\ngap = {{ per = [\"account\"], every = \"1ms\" }}\n\
         [platforms.p.apis.a]\npath = \"things\"\nquery = {{ q = \"1\" }}\n"
    )
}

pub(super) const ENV: &[(&str, &str)] = &[
    ("ID", "the-client-id"),
    ("KEY", "the-s3cret-key"),
    ("REFRESH", "the-first-refresh"),
    ("TOKEN", "the-token"),
    ("PATH", "/usr/bin:/bin"),
];

pub(super) fn load(text: &str) -> Result<Plan, config::Mistakes> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let env = ENV.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    config::load(Some(file.path()), env, &[]).map(|loaded| loaded.plan)
}

pub(super) fn plan(auth: &str) -> Plan {
    load(&text(auth)).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

pub(super) fn auth(auth: &str) -> Auth {
    plan(auth).platforms.values().next().unwrap().auth.clone().unwrap()
}

pub(super) fn account(name: &str) -> Account {
    Account::new(name).unwrap()
}

pub(super) fn request(url: &str) -> Request {
    Request {
        method: Method::GET,
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: None,
    }
}

/// The request of the plan's api, signed at a moment of wall time.
pub(super) fn signed(auth: &Auth, of: &str, mut request: Request, at: Timestamp) -> Request {
    auth.sign(&account(of), &mut request, &Clock::starting_at(at)).unwrap();
    request
}

#[test]
fn a_pool_gives_each_account_always_the_same_credential_and_each_credential_its_share() {
    let pool = |names: &[&str]| {
        let all: Vec<String> =
            names.iter().map(|name| format!("{name} = {{ bearer = \"env:TOKEN\" }}")).collect();
        auth(&format!("auth = {{ pool = {{ {} }} }}", all.join(", ")))
    };
    let (three, four) = (pool(&["a", "b", "c"]), pool(&["a", "b", "c", "d"]));
    let mut shares = HashMap::<String, usize>::new();
    let mut moved = 0;
    for number in 0..3000 {
        let account = account(&format!("act_{number}"));
        let (before, after) = (three.of(&account), four.of(&account));
        assert_eq!(before.name, three.of(&account).name);
        *shares.entry(before.name.clone()).or_default() += 1;
        if before.name != after.name {
            assert_eq!(after.name, "d", "an account moves to the new one only");
            moved += 1;
        }
    }
    assert!(
        shares.len() == 3 && shares.values().all(|share| (850..1150).contains(share)),
        "{shares:?}"
    );
    assert!((600..900).contains(&moved), "{moved}");
}

#[test]
fn a_redactor_finds_a_secret_in_every_form_in_which_it_is_sent() {
    let secret = r#"pa"ss/w+rd = 1"#;
    let redactor = Redactor::new(&[secret.to_owned()], &[format!("me:{secret}")]);
    for form in [
        secret.to_owned(),
        "pa%22ss%2Fw%2Brd%20%3D%201".to_owned(),
        "pa%22ss%2Fw%2Brd+%3D+1".to_owned(),
        serde_json::to_string(secret).unwrap(),
        r#"pa\"ss\/w+rd = 1"#.to_owned(),
        STANDARD.encode(secret),
        STANDARD.encode(format!("me:{secret}")),
    ] {
        let said = format!("you sent {form}, which is wrong");
        let clean = redactor.clean(&said);
        assert!(clean.contains("[redacted]") && !clean.contains("ss"), "{form}: {clean}");
    }
}

#[test]
fn a_text_is_a_secret_only_where_it_is_nothing_else() {
    let texts = ["s3cret/0123456789", "admin"].map(str::to_owned);
    let redactor = Redactor::new(&texts, &[]);
    assert!(redactor.is_secret("s3cret/0123456789") && redactor.is_secret("s3cret%2F0123456789"));
    for text in ["", "admin", "x-s3cret/0123456789", "s3cret…", "caf… s3cret/0123456789"] {
        assert!(!redactor.is_secret(text), "{text}");
    }
}

#[test]
fn a_secret_that_a_body_start_cuts_in_two_is_not_shown_in_part() {
    let redactor = Redactor::new(&["abcdefghij".to_owned()], &[]);
    let body = format!("{}abcdefghij and more", "x".repeat(20));
    for max in 15..40 {
        let read = &body.as_bytes()[..body.len().min(max + redactor.longest())];
        let shown = redactor.start(read, max, read.len() == body.len());
        assert!(shown.len() <= max && !shown.contains("abc"), "{max}: {shown}");
    }
    // Where reading stopped in the middle of one.
    let shown = redactor.start(&body.as_bytes()[..25], 100, false);
    assert_eq!(shown, "x".repeat(20));
}
