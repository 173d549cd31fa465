//! OAuth 1.0a: the `Authorization` header of a signed request (RFC 5849 §3).
//!
//! `oauth_signature_method` is HMAC-SHA1 (§3.4.2) or HMAC-SHA256, which is the same with the other hash.

use secrecy::ExposeSecret;

use super::secret::Text;
use super::sign::{Stamp, encoded};
use super::{Encoding, Hash, OAuth1, Reference};
use crate::recipe::Request;

/// Its secrets, as they are now.
pub(super) struct Keys {
    pub(super) consumer_key: String,
    pub(super) consumer_secret: String,
    pub(super) token: Option<String>,
    pub(super) token_secret: Option<String>,
}

impl Keys {
    pub(super) fn of<E>(
        oauth1: &OAuth1,
        get: &mut impl FnMut(&Reference) -> Result<Text, E>,
    ) -> Result<Self, E> {
        let text = |text: Text| text.expose_secret().to_owned();
        Ok(Self {
            consumer_key: oauth1.consumer_key.read(get)?,
            consumer_secret: get(&oauth1.consumer_secret).map(text)?,
            token: oauth1.token.as_ref().map(|token| token.read(get)).transpose()?,
            token_secret: oauth1.token_secret.as_ref().map(get).transpose()?.map(text),
        })
    }
}

/// The value of the header (§3.5.1).
pub(super) fn header(oauth1: &OAuth1, keys: &Keys, request: &Request, stamp: &Stamp) -> String {
    let method = match oauth1.algorithm {
        Hash::Sha1 => "HMAC-SHA1",
        Hash::Sha256 | Hash::Sha512 => "HMAC-SHA256",
    };
    let mut own: Vec<(&str, String)> = vec![
        ("oauth_consumer_key", keys.consumer_key.clone()),
        ("oauth_nonce", stamp.nonce.clone()),
        ("oauth_signature_method", method.to_owned()),
        ("oauth_timestamp", stamp.wall.as_second().to_string()),
        ("oauth_version", "1.0".to_owned()),
    ];
    if let Some(token) = &keys.token {
        own.push(("oauth_token", token.clone()));
    }
    let base = base_string(request, &own);
    // §3.4.2: both secrets, encoded, and `&` even where the second is empty.
    let secret = keys.token_secret.as_deref().unwrap_or_default();
    let key = format!("{}&{}", encoded(&keys.consumer_secret), encoded(secret));
    let hash = if oauth1.algorithm == Hash::Sha1 { Hash::Sha1 } else { Hash::Sha256 };
    let signature = Encoding::Base64.encode(&hash.keyed(key.as_bytes(), base.as_bytes()));
    own.push(("oauth_signature", signature));
    own.sort_unstable();
    let realm = oauth1.realm.iter().map(|realm| format!("realm=\"{}\"", encoded(realm)));
    let own = own.iter().map(|(name, value)| format!("{name}=\"{}\"", encoded(value)));
    format!("OAuth {}", realm.chain(own).collect::<Vec<_>>().join(", "))
}

/// What is signed (§3.4.1).
pub(super) fn base_string(request: &Request, own: &[(&str, String)]) -> String {
    let url = &request.url;
    // §3.4.1.2: the port only where it is not the scheme's own, which `Url` leaves out too.
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    let base = format!("{}://{host}{port}{}", url.scheme(), url.path());
    // §3.4.1.3.1: of the query, of a body that is a form, and of the header.
    let mut pairs: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (encoded(&name), encoded(&value))).collect();
    let kind = request.headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_form = kind.is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if is_form && let Some(body) = &request.body {
        let form = url::form_urlencoded::parse(body);
        pairs.extend(form.map(|(name, value)| (encoded(&name), encoded(&value))));
    }
    pairs.extend(own.iter().map(|(name, value)| (encoded(name), encoded(value))));
    // §3.4.1.3.2: by the encoded bytes of name and value.
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let method = request.method.as_str();
    format!("{method}&{}&{}", encoded(&base), encoded(&pairs.join("&")))
}
