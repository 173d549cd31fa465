//! How calls are authorised, in words. No secret is in them; where each comes from is.

use std::fmt::{self, Write};
use std::time::Duration;

use tollgate_gate::{LimitSet, Rule};

use super::values::show;
use crate::auth::secret::{Reference, Source};
use crate::auth::{Auth, Bearing, Credential, Hash, Kind, OAuth2, Words};

/// The credentials of a platform or an api.
pub(super) fn write_auth(out: &mut String, auth: &Auth, indent: &str) -> fmt::Result {
    if let [only] = auth.pool.as_slice() {
        return write_credential(out, only, indent);
    }
    writeln!(out, "{indent}one of {} credentials for each account:", auth.pool.len())?;
    for credential in &auth.pool {
        writeln!(out, "{indent}  {}", credential.name)?;
        write_credential(out, credential, &format!("{indent}    "))?;
    }
    Ok(())
}

fn write_credential(out: &mut String, credential: &Credential, indent: &str) -> fmt::Result {
    let from = |reference: &Reference| format!("*** from {}", source(reference));
    match &credential.kind {
        Kind::Headers => {}
        Kind::Bearer(secret) => {
            writeln!(out, "{indent}authorization: Bearer {}", from(secret))?;
        }
        Kind::Query(name, secret) => writeln!(out, "{indent}?{name}={}", from(secret))?,
        Kind::Basic { user, password } => {
            let user = words(user);
            writeln!(out, "{indent}authorization: Basic {user}:{}", from(password))?;
        }
        Kind::OAuth2(oauth2) => write_oauth2(out, oauth2, indent)?,
        Kind::Jwt(jwt, bearing) => writeln!(
            out,
            "{indent}{} a token signed with {} and the key from {}, made anew before {} are over",
            bears(bearing),
            jwt.algorithm.as_str(),
            source(&jwt.key),
            show(jwt.life)
        )?,
        Kind::Hmac(hmac) => {
            writeln!(
                out,
                "{indent}signed: HMAC-{} of {:?} with the key from {}",
                hash(hmac.algorithm),
                hmac.sign.text(),
                source(&hmac.key)
            )?;
            for (name, text) in &hmac.headers {
                writeln!(out, "{indent}  {name}: {text}")?;
            }
            for (name, text) in &hmac.query {
                writeln!(out, "{indent}  &{name}={text}")?;
            }
        }
        Kind::OAuth1(oauth1) => writeln!(
            out,
            "{indent}signed: OAuth 1.0a, HMAC-{}, client {}",
            hash(oauth1.algorithm),
            words(&oauth1.consumer_key)
        )?,
    }
    for (name, secret) in &credential.headers {
        writeln!(out, "{indent}{name}: {}", from(secret))?;
    }
    Ok(())
}

fn write_oauth2(out: &mut String, oauth2: &OAuth2, indent: &str) -> fmt::Result {
    let mut url = oauth2.token_url.clone();
    // A query may hold what is nobody's business.
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    writeln!(
        out,
        "{indent}{} a token of {url} by {}, renewed {} before its end",
        bears(&oauth2.bearing),
        oauth2.grant.as_str(),
        oauth2.early.map_or_else(|| "a tenth of its life".to_owned(), show)
    )?;
    writeln!(out, "{indent}  asked at most {}", limits(&oauth2.limits))
}

fn limits(limits: &LimitSet) -> String {
    let words = limits.limits().iter().map(|limit| match limit.rule {
        Rule::Every { gap } => format!("every {}", show(Duration::from(gap))),
        Rule::Sliding { max, window } => {
            format!("{max} times in {}", show(Duration::from(window)))
        }
        other => format!("{other:?}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn bears(bearing: &Bearing) -> String {
    match bearing {
        Bearing::Bearer => "authorization: Bearer".to_owned(),
        Bearing::Header(name) => format!("{name}:"),
    }
}

fn hash(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha1 => "SHA1",
        Hash::Sha256 => "SHA256",
        Hash::Sha512 => "SHA512",
    }
}

fn words(words: &Words) -> String {
    match words {
        Words::Plain(text) => text.clone(),
        Words::Secret(reference) => format!("*** from {}", source(reference)),
    }
}

fn source(reference: &Reference) -> String {
    match reference {
        Reference::One(secret) => match secret.source() {
            Source::Env(name) => format!("env:{name}"),
            Source::File(path) => format!("file:{}", path.display()),
            // Its arguments may say more than they should.
            Source::Command(words) => {
                format!("command:{}", words.first().map(String::as_str).unwrap_or_default())
            }
        },
        Reference::Table(table) => format!("a table of {} accounts", table.len()),
        Reference::Files(files) => format!("file:{}", files.path()),
    }
}
