//! Secrets in page state: hidden behind marks, and there again when a call is made.

use super::super::mask::{Mask, Unmasked, is_masked, shown};
use super::*;
use crate::plan::Platform;

const KEY: &str = "the-s3cret-key";

fn platform(auth: &str) -> Arc<Platform> {
    Arc::clone(plan(auth).platforms.values().next().unwrap())
}

fn hide(platform: &Platform, text: &str) -> String {
    Mask::of(platform, &account("a"), None, false).hide(text)
}

fn show(platform: &Platform, text: &str) -> Result<String, Unmasked> {
    let (account, auth) = (account("a"), platform.auth.as_ref());
    let own = auth.map(|auth| &**auth.of(&account));
    shown(text, platform, &account, own).map(std::borrow::Cow::into_owned)
}

#[test]
fn what_is_hidden_holds_no_secret_and_is_the_same_when_it_is_shown() {
    let query = platform(r#"auth = { query = "key", value = "env:KEY" }"#);
    let basic = platform(r#"auth = { basic = { user = "me", password = "env:KEY" } }"#);
    let pair = STANDARD.encode(format!("me:{KEY}"));
    let base64 = STANDARD.encode(KEY);
    for platform in [&query, &basic] {
        for text in [
            format!("c3.{KEY}"),
            format!("{KEY}{KEY}"),
            format!("https://x/a?b={}&{KEY}", super::super::sign::encoded(KEY)),
            format!("ä{base64}ö"),
            format!("\u{1}{KEY}\u{2}\u{1}"),
        ] {
            let hidden = hide(platform, &text);
            assert!(is_masked(&hidden), "{hidden:?}");
            assert!(!hidden.contains(KEY) && !hidden.contains(&base64), "{hidden:?}");
            assert_eq!(show(platform, &hidden), Ok(text));
        }
        assert_eq!(hide(platform, "c3.the-s3cret"), "c3.the-s3cret");
        assert_eq!(show(platform, "c3"), Ok("c3".to_owned()));
    }
    let hidden = hide(&basic, &format!("c {pair}"));
    assert!(!hidden.contains(&pair), "{hidden:?}");
    assert_eq!(show(&basic, &hidden), Ok(format!("c {pair}")));
}

#[test]
fn marks_that_a_provider_makes_up_are_no_secrets() {
    let query = platform(r#"auth = { query = "key", value = "env:KEY" }"#);
    let made_up = hide(&query, KEY);
    let hidden = hide(&query, &made_up);
    assert_eq!(show(&query, &hidden), Ok(made_up), "its own words come back to it");
    // What an older version kept as it came.
    assert_eq!(show(&query, "a\u{1}b"), Err(Unmasked::Unknown));
    assert_eq!(show(&query, "a\u{1}b\u{2}"), Err(Unmasked::Unknown));
}

#[test]
fn a_mark_is_the_secret_of_now_and_unknown_where_it_is_declared_no_more() {
    let before = platform(r#"auth = { query = "key", value = "env:KEY" }"#);
    let hidden = hide(&before, &format!("c.{KEY}"));
    let after = platform(r#"auth = { query = "key", value = "env:REFRESH" }"#);
    assert_eq!(show(&after, &hidden), Ok("c.the-first-refresh".to_owned()));
    assert_eq!(show(&platform(""), &hidden), Err(Unmasked::Unknown));
    let pool =
        r#"auth = { pool = { main = { bearer = "env:KEY" }, b = { bearer = "env:TOKEN" } } }"#;
    assert_eq!(show(&platform(pool), &hidden), Err(Unmasked::Unknown));
}

#[test]
fn a_token_has_a_mark_and_is_missed_where_there_is_none() {
    let of = |text: &str| {
        let auth = format!(
            "auth = {{ oauth2 = {{ grant = \"client_credentials\", token_url = \"https://api.example.com/t\", \
             client_id = \"env:ID\", client_secret = \"env:KEY\" }} }}{text}"
        );
        platform(&auth)
    };
    let platform = of("");
    let text = format!("c.{KEY} the-client-id");
    let hidden = hide(&platform, &text);
    assert!(!hidden.contains("the-client-id"), "{hidden:?}");
    assert_eq!(show(&platform, &hidden), Ok(text));
    let key = &platform.auth.as_ref().unwrap().pool[0].key;
    let missing = show(&platform, &format!("c.\u{1}{key}/t.0\u{2}"));
    assert!(matches!(missing, Err(Unmasked::NotAtHand(_))), "{missing:?}");
    let anothers = shown("\u{1}p._._/t.0\u{2}", &platform, &account("a"), None);
    assert_eq!(anothers, Err(Unmasked::Unknown), "nobody would wait for it");
    assert_eq!(show(&platform, &format!("\u{1}{key}/9.0\u{2}")), Err(Unmasked::Unknown));
    assert_eq!(show(&platform, &format!("\u{1}{key}/0.9\u{2}")), Err(Unmasked::Unknown));
}
