//! Each mistake in a table `auth` has its place, its code and its words.

use super::*;
use crate::codes::Code;

/// A private key of P-256, as `openssl ecparam -name prime256v1 -genkey -noout` writes it.
pub(super) const EC: &str = include_str!("data/ec.pem");
/// The same as PKCS #8.
pub(super) const EC_PKCS8: &str = include_str!("data/ec-pkcs8.pem");
/// An RSA key of 2048 bits as PKCS #8, and of 1024.
pub(super) const RSA: &str = include_str!("data/rsa.pem");
const RSA_SHORT: &str = include_str!("data/rsa-1024.pem");

#[track_caller]
fn mistake(said: &str, key: &str, code: Code, words: &str) {
    let mistakes = load(&text(&format!("auth = {said}"))).expect_err(said);
    let list = mistakes.list();
    assert_eq!(list.len(), 1, "{said}: {mistakes}");
    assert_eq!((list[0].key.as_str(), list[0].code), (key, code), "{said}: {mistakes}");
    assert!(list[0].message.contains(words), "{said}: {}", list[0].message);
    assert!(!mistakes.to_string().contains("s3cret"), "{mistakes}");
}

fn oauth2(of: &str) -> String {
    format!("{{ oauth2 = {{ token_url = \"https://t.example.com/\", {of} }} }}")
}

#[test]
fn each_mistake_has_its_place_and_its_words() {
    let at = |rest: &str| format!("platforms.p.auth{rest}");
    let (missing, bad) = (Code::MissingKey, Code::BadValue);
    for (said, key, code, words) in [
        (r#"{ bearer = "env:ABSENT" }"#, ".bearer", Code::SecretNotFound, "no variable `ABSENT`"),
        (
            r#"{ bearer = "file:/no/such" }"#,
            ".bearer",
            Code::SecretNotFound,
            "`/no/such` cannot be read",
        ),
        (
            r#"{ bearer = "command:no-such-program x" }"#,
            ".bearer",
            Code::SecretNotFound,
            "no program `no-such-program`",
        ),
        (r#"{ bearer = "command: " }"#, ".bearer", Code::SecretNotFound, "names no program"),
        (
            r#"{ bearer = "file:/no/such/{account}" }"#,
            ".bearer",
            Code::SecretNotFound,
            "folder `/no/such`",
        ),
        (r#"{ bearer = "my-s3cret" }"#, ".bearer", Code::InlineSecret, "may not be written here"),
        ("{ bearer = 5 }", ".bearer", Code::WrongType, "a number"),
        (r#"{ bearer = { "" = "env:KEY" } }"#, ".bearer.", Code::BadAccount, ""),
        (r#"{ bearer = { act_1 = "s3cret" } }"#, ".bearer.act_1", Code::InlineSecret, "may not"),
        (r#"{ query = "key" }"#, ".value", missing, "`value` is missing"),
        (r#"{ query = "", value = "env:KEY" }"#, ".query", bad, "empty"),
        (r#"{ headers = { X-Key = "s3cret" } }"#, ".headers.X-Key", Code::InlineSecret, "may not"),
        (r#"{ headers = { Host = "env:KEY" } }"#, ".headers.Host", Code::BadHeader, "`host`"),
        (
            r#"{ bearer = "env:KEY", headers = { Authorization = "env:KEY" } }"#,
            "",
            Code::BadHeader,
            "`authorization` would be set twice",
        ),
        (r#"{ beerer = "env:KEY" }"#, ".beerer", Code::UnknownKey, "`beerer`"),
        (r#"{ basic = { password = "env:KEY" } }"#, ".basic.user", missing, "`user`"),
        (r#"{ basic = { user = "a:b", password = "env:KEY" } }"#, ".basic.user", bad, "colon"),
        (r#"{ basic = { user = "a" } }"#, ".basic.password", missing, "`password`"),
        ("{ pool = {} }", ".pool", Code::TooMany, "0 credentials"),
        (r#"{ pool = { Main = { bearer = "env:KEY" } } }"#, ".pool.Main", Code::BadName, ""),
        (
            r#"{ pool = { main = { bearer = "s3cret" } } }"#,
            ".pool.main.bearer",
            Code::InlineSecret,
            "may not",
        ),
        (
            r#"{ hmac = { algorithm = "md5", key = "env:KEY", sign = "x", headers = { S = "{signature}" } } }"#,
            ".hmac.algorithm",
            bad,
            "`md5` is not known",
        ),
        (
            r#"{ hmac = { algorithm = "sha256", key = "env:KEY", sign = "{timestmp}", headers = { S = "{signature}" } } }"#,
            ".hmac.sign",
            Code::UnknownVariable,
            "`timestmp` is not known",
        ),
        (
            r#"{ hmac = { algorithm = "sha256", key = "env:KEY", sign = "x" } }"#,
            ".hmac.headers",
            missing,
            "sent nowhere",
        ),
        (
            r#"{ hmac = { algorithm = "sha256", key = "env:KEY", key_encoding = "hex", sign = "x", headers = { S = "{signature}" } } }"#,
            ".hmac.key",
            Code::BadSecret,
            "hexadecimal",
        ),
        (
            r#"{ hmac = { algorithm = "sha256", key = "env:KEY", key_encoding = "base64", sign = "x", headers = { S = "{signature}" } } }"#,
            ".hmac.key",
            Code::BadSecret,
            "Base64",
        ),
        (
            r#"{ oauth1 = { consumer_key = "k", consumer_secret = "env:KEY", token = "env:TOKEN" } }"#,
            ".oauth1.token_secret",
            missing,
            "beside `token`",
        ),
        (
            r#"{ oauth1 = { consumer_secret = "env:KEY" } }"#,
            ".oauth1.consumer_key",
            missing,
            "`consumer_key`",
        ),
        (
            r#"{ jwt = { algorithm = "HS256", key = "env:KEY" } }"#,
            ".jwt.algorithm",
            bad,
            "`HS256` is not known",
        ),
        (
            r#"{ jwt = { algorithm = "ES256", key = "env:KEY" } }"#,
            ".jwt.key",
            Code::BadSecret,
            "no private key in PEM",
        ),
        (r#"{ jwt = { algorithm = "ES256" } }"#, ".jwt.key", missing, "`key`"),
    ] {
        mistake(said, &at(key), code, words);
    }
    for (said, key, code, words) in [
        (r#"client_id = "c""#, ".oauth2.grant", missing, "`grant`"),
        (r#"grant = "password", client_id = "c""#, ".oauth2.grant", bad, "`password` is not known"),
        (
            r#"grant = "refresh_token", refresh_token = "env:REFRESH""#,
            ".oauth2.client_id",
            missing,
            "needs `client_id`",
        ),
        (
            r#"grant = "refresh_token", client_id = "c""#,
            ".oauth2.refresh_token",
            missing,
            "needs `refresh_token`",
        ),
        (
            r#"grant = "refresh_token", client_id = "c", refresh_token = "env:NOPE""#,
            ".oauth2.refresh_token",
            Code::SecretNotFound,
            "no variable `NOPE`",
        ),
        (
            r#"grant = "client_credentials", client_id = "c""#,
            ".oauth2.client_secret",
            missing,
            "needs `client_secret`",
        ),
        (
            r#"grant = "client_credentials", client_id = "c", client_secret = "env:KEY", refresh_token = "env:REFRESH""#,
            ".oauth2.refresh_token",
            bad,
            "has no use for",
        ),
        (r#"grant = "jwt-bearer""#, ".oauth2.assertion", missing, "needs `assertion`"),
        (
            r#"grant = "client_credentials", client_id = "c", client_secret = "env:KEY", early = "60""#,
            ".oauth2.early",
            Code::BadDuration,
            "no unit",
        ),
        (
            r#"grant = "client_credentials", client_id = "c", client_secret = "env:KEY", limits = { a = { max = 5 } }"#,
            ".oauth2.limits.a",
            Code::ImpossibleLimit,
            "no limit of a token endpoint",
        ),
        (
            r#"grant = "client_credentials", client_id = "c", client_secret = "env:KEY", params = { p = "env:KEY" }"#,
            ".oauth2.params.p",
            Code::NotSupported,
            "secrets",
        ),
    ] {
        mistake(&oauth2(said), &at(key), code, words);
    }
    let of_url = |url: &str| {
        format!(
            r#"{{ oauth2 = {{ grant = "client_credentials", token_url = "{url}", client_id = "c", client_secret = "env:KEY" }} }}"#
        )
    };
    mistake(&of_url("ftp://x/"), &at(".oauth2.token_url"), Code::BadUrl, "not an http");
    mistake(
        &of_url("https://u:s3cret@x/"),
        &at(".oauth2.token_url"),
        Code::InlineSecret,
        "not shown",
    );
}

#[test]
fn a_private_key_has_to_be_one_for_its_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    let of = |algorithm: &str, pem: &str| {
        let path = folder.path().join("key.pem");
        std::fs::write(&path, pem).unwrap();
        format!("{{ jwt = {{ algorithm = \"{algorithm}\", key = \"file:{}\" }} }}", path.display())
    };
    for (algorithm, pem) in [("ES256", EC), ("ES256", EC_PKCS8), ("RS256", RSA)] {
        load(&text(&format!("auth = {}", of(algorithm, pem)))).unwrap_or_else(|m| panic!("{m}"));
    }
    for (algorithm, pem, words) in [
        ("RS256", EC, "key of a curve"),
        ("ES256", RSA, "P-256"),
        ("RS256", RSA_SHORT, "2048 bits"),
    ] {
        mistake(&of(algorithm, pem), "platforms.p.auth.jwt.key", Code::BadSecret, words);
    }
}

#[test]
fn mistakes_of_several_tables_are_told_at_once() {
    let text = text(
        r#"auth = { pool = { a = { bearer = "s3cret" }, b = { oauth2 = { grant = "none" } }, c = { hmac = { sign = "{x}" } } } }"#,
    );
    let text = text + "auth = { bearer = \"env:ABSENT\" }\n";
    let mistakes = load(&text).unwrap_err();
    let keys: Vec<&str> = mistakes.list().iter().map(|mistake| mistake.key.as_str()).collect();
    for key in [
        "platforms.p.auth.pool.a.bearer",
        "platforms.p.auth.pool.b.oauth2.grant",
        "platforms.p.auth.pool.b.oauth2.token_url",
        "platforms.p.auth.pool.c.hmac.algorithm",
        "platforms.p.auth.pool.c.hmac.key",
        "platforms.p.auth.pool.c.hmac.sign",
        "platforms.p.apis.a.auth.bearer",
    ] {
        assert!(keys.contains(&key), "{key} is not among {keys:?}");
    }
    assert_eq!(keys.len(), 7, "{mistakes}");
}

#[test]
fn an_api_can_have_its_own_credentials_or_none() {
    let with = |own: &str| load(&(text(r#"auth = { bearer = "env:TOKEN" }"#) + own)).unwrap();
    let of = |plan: &Plan| plan.platforms.values().next().unwrap().apis[0].auth.clone();
    let shared = of(&with("")).unwrap();
    assert!(matches!(shared.pool[0].kind, Kind::Bearer(_)));
    assert!(of(&with("auth = \"none\"\n")).is_none());
    let own = of(&with("auth = { query = \"k\", value = \"env:KEY\" }\n")).unwrap();
    assert_eq!(own.pool[0].shown, "p/a");
    let shown = config::describe(&with("auth = \"none\"\n"));
    assert!(shown.contains("without credentials") && !shown.contains("the-token"), "{shown}");
}

#[test]
fn a_limit_per_token_counts_by_the_credential_of_a_pool() {
    let text = text(
        r#"auth = { pool = { main = { bearer = "env:TOKEN" }, second = { bearer = "env:KEY" } } }"#,
    );
    let text = text.replace(
        "[platforms.p.apis.a]",
        "each = { per = [\"token\"], max = 5, in = \"1s\" }\n[platforms.p.apis.a]",
    );
    let plan = load(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let platform = plan.platforms.values().next().unwrap();
    let params = serde_json::Map::new();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..50 {
        let account = account(&format!("act_{number}"));
        let fetch = crate::recipe::FetchContext {
            account: &account,
            id: "1",
            params: &params,
            queued_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let keys = crate::recipe::budgets(platform, &platform.apis[0], &fetch).unwrap();
        let own = platform.auth.as_ref().unwrap().of(&account).name.clone();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].shown(), format!("token {own}"));
        seen.insert(own);
    }
    assert_eq!(seen.len(), 2);
    let none = text.replace("auth = {", "#");
    assert!(load(&none).unwrap_err().to_string().contains("`token` has no value"));
}

#[test]
fn a_host_may_be_called_without_credentials() {
    let text = text(
        r#"auth = { bearer = "env:TOKEN" }
allowed_hosts = ["b.example.com", { host = "files.example.com", auth = false }]"#,
    );
    let plan = load(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let platform = plan.platforms.values().next().unwrap();
    let bare = |url: &str| crate::recipe::is_bare(platform, &url.parse().unwrap());
    assert!(bare("https://files.example.com/x?sig=1"));
    assert!(!bare("https://b.example.com/") && !bare("https://api.example.com/"));
    assert!(!bare("https://files.example.com:444/"));
    let odd = text.replace("auth = false", "oth = false");
    assert!(load(&odd).unwrap_err().to_string().contains("unknown key `oth`"));
}
