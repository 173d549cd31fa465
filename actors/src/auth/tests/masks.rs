//! Secrets in page state: hidden behind marks, and there again when a call is made.

use super::super::mask::{Goes, Mask, Unmasked, is_masked, may_go, shown};
use super::*;
use crate::plan::Platform;

const KEY: &str = "the-s3cret-key";

fn platform(auth: &str) -> Arc<Platform> {
    Arc::clone(plan(auth).platforms.values().next().unwrap())
}

fn hide(platform: &Platform, text: &str) -> String {
    hide_for(platform, text, platform.base_url.as_str())
}

fn hide_for(platform: &Platform, text: &str, to: &str) -> String {
    let (account, to) = (account("a"), to.parse().unwrap());
    let own = platform.auth.as_ref().map(|auth| &**auth.of(&account));
    Mask::of(platform, &account, None, Goes { to: &to, own, in_url: false }).hide(text)
}

fn goes(platform: &Platform, text: &str, to: &str) -> bool {
    let (account, to) = (account("a"), to.parse().unwrap());
    let own = platform.auth.as_ref().map(|auth| &**auth.of(&account));
    may_go(text, platform, Goes { to: &to, own, in_url: false })
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

#[test]
fn a_host_without_credentials_gets_the_secret_that_was_put_there_and_no_other() {
    let of = |auth: &str| {
        let hosts =
            r#"allowed_hosts = ["b.example.com", { host = "files.example.com", auth = false }]"#;
        platform(&format!("{auth}\n{hosts}"))
    };
    let before = of(r#"auth = { query = "key", value = "env:KEY" }"#);
    let after = of(r#"auth = { query = "key", value = "env:REFRESH" }"#);
    let own = "https://api.example.com/x";
    let (signed, bare) = ("https://b.example.com/x", "https://files.example.com/x");
    for auth in [
        r#"auth = { query = "key", value = "env:KEY" }"#,
        r#"auth = { basic = { user = "me", password = "env:KEY" } }"#,
    ] {
        let same = of(auth);
        for text in [format!("c.{KEY}"), STANDARD.encode(format!("me:{KEY}"))] {
            let hidden = hide_for(&same, &text, bare);
            assert_eq!(show(&same, &hidden), Ok(text), "it is what the provider put there");
            assert!(goes(&same, &hidden, bare) && goes(&same, &hidden, own), "{hidden:?}");
        }
    }
    let hidden = hide_for(&before, &format!("c.{KEY}"), bare);
    assert!(is_masked(&hidden) && !hidden.contains(KEY), "{hidden:?}");
    assert_eq!(show(&after, &hidden), Err(Unmasked::Unknown));
    // A host that gets them gets the new one, wherever it is the call's own.
    for to in [own, signed] {
        let hidden = hide_for(&before, &format!("c.{KEY}"), to);
        assert_eq!(show(&after, &hidden), Ok("c.the-first-refresh".to_owned()));
        assert!(goes(&before, &hidden, to), "{hidden:?}");
        // Kept before the host was declared so, or by an older version.
        assert!(!goes(&before, &hidden, bare), "{hidden:?}");
    }
    assert!(goes(&before, "\u{1}\u{2} is the provider's own", bare));
    // Of a credential that is not the call's own nothing new goes to another host, of a pool's other one neither.
    let pool = |key: &str| {
        of(&format!(
            "auth = {{ pool = {{ a = {{ bearer = \"env:TOKEN\" }}, b = {{ query = \"key\", value = \"env:{key}\" }} }} }}"
        ))
    };
    let (before, after) = (pool("KEY"), pool("REFRESH"));
    let auth = before.auth.as_ref().unwrap();
    let own_one = auth.of(&account("a"));
    let is_own = own_one.name == "b";
    let hidden = hide_for(&before, &format!("c.{KEY}"), signed);
    let expected =
        if is_own { Ok("c.the-first-refresh".to_owned()) } else { Err(Unmasked::Unknown) };
    assert_eq!(show(&after, &hidden), expected);
    let hidden = hide_for(&before, &format!("c.{KEY}"), own);
    assert_eq!(show(&after, &hidden), Ok("c.the-first-refresh".to_owned()));
    assert_eq!(goes(&before, &hidden, signed), is_own);
}

/// Credentials that are declared the one or the other way, all under one key.
const HEADERS: &str = r#"headers = { X-First = "env:TOKEN", "X.Dotted" = "env:REFRESH" }"#;

fn hmac(more: &str) -> String {
    format!(
        "auth = {{ hmac = {{ algorithm = \"sha256\", key = \"env:TOKEN\", sign = \"{{timestamp}}\", headers = {{ X-Sign = \"{{signature}}\" }} }}{more} }}"
    )
}

#[test]
fn after_a_change_of_auth_no_secret_of_another_use_stands_where_one_stood() {
    let query = r#"query = "key", value = "env:KEY""#;
    let before = platform(&format!("auth = {{ {query} }}"));
    let hidden = hide(&before, &format!("https://x/?k={KEY}"));
    let more = platform(&format!("auth = {{ {query}, {HEADERS} }}"));
    assert_eq!(show(&more, &hidden), Ok(format!("https://x/?k={KEY}")), "it is the same one");
    let basic = r#"auth = { basic = { user = "env:ID", password = "env:TOKEN" } }"#.to_owned();
    for after in [
        hmac(""),
        r#"auth = { bearer = "env:TOKEN" }"#.to_owned(),
        basic,
        format!("auth = {{ {HEADERS} }}"),
    ] {
        assert_eq!(show(&platform(&after), &hidden), Err(Unmasked::Unknown), "{after}");
    }
    // The same header, whatever stands before it.
    let before = platform(r#"auth = { headers = { "X.Dotted" = "env:KEY" } }"#);
    let hidden = hide(&before, &format!("c.{KEY}"));
    for more in [String::new(), format!("{query}, ")] {
        let after = platform(&format!("auth = {{ {more}{HEADERS} }}"));
        assert_eq!(show(&after, &hidden), Ok("c.the-first-refresh".to_owned()));
    }
    let to = "https://files.example.com/x".parse().unwrap();
    let goes = Goes { to: &to, own: None, in_url: false };
    let bound = Mask::of(&before, &account("a"), None, goes).hide(KEY);
    assert!(may_go(&bound, &before, goes), "{bound:?}");
    assert_eq!(show(&before, &bound), Ok(KEY.to_owned()));
}

#[test]
fn a_mark_of_a_version_before_is_read_where_it_is_certain_what_it_means() {
    let query = platform(r#"auth = { query = "key", value = "env:KEY" }"#);
    let several = platform(&format!(r#"auth = {{ query = "key", value = "env:KEY", {HEADERS} }}"#));
    let old = "\u{1}p._._/0.0\u{2}";
    assert_eq!(show(&query, &format!("c.{old}")), Ok(format!("c.{KEY}")));
    for unsure in [&several, &platform(&hmac(""))] {
        assert_eq!(show(unsure, old), Err(Unmasked::Unknown));
    }
    // One that says which it was.
    let to = "https://files.example.com/x".parse().unwrap();
    let goes = Goes { to: &to, own: None, in_url: false };
    let hidden = Mask::of(&several, &account("a"), None, goes).hide(KEY);
    let place = |place: usize| hidden.replace("/query.", &format!("/{place}."));
    assert_ne!(place(0), hidden, "{hidden:?}");
    assert_eq!(show(&several, &place(2)), Ok(KEY.to_owned()));
    assert_eq!(show(&several, &place(0)), Err(Unmasked::Unknown));
}

#[test]
fn nobody_waits_for_what_a_credential_of_another_kind_never_has() {
    let bearer = platform(r#"auth = { bearer = "env:KEY" }"#);
    for which in ["t", "r", "p"] {
        let hidden = format!("c.\u{1}p._._/{which}.0\u{2}");
        assert_eq!(show(&bearer, &hidden), Err(Unmasked::Unknown), "{which}");
    }
}
