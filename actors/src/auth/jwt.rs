//! Signed statements: JSON Web Tokens (RFC 7519) with ES256 or RS256 (RFC 7518 §3.3, §3.4), by ring.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use std::time::Duration;

use super::Reference;
use super::sign::nonce;
use crate::ids::Account;
use crate::recipe::{Template, fill};

/// What the texts of a statement may name.
pub const NAMES: &[&str] = &["account", "nonce", "timestamp"];
/// How much earlier than now a statement says that it was made: clocks differ.
const EARLIER: Duration = Duration::from_secs(10);

/// How a statement is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256; keys of 2048 bits or more.
    Rs256,
}

impl Algorithm {
    /// As a statement's header has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A claim or a header of a statement.
#[derive(Debug, Clone)]
pub enum Claim {
    /// A text.
    Text(Template),
    /// A number, a truth, a list of texts.
    Value(Value),
}

/// A statement to sign.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// How.
    pub algorithm: Algorithm,
    /// The private key as PEM: PKCS #8, or SEC 1 and PKCS #1 as `openssl` writes them.
    pub key: Reference,
    /// Beside `alg` and `typ`.
    pub headers: Vec<(String, Claim)>,
    /// Beside `iat` and `exp`, where they are not among them.
    pub claims: Vec<(String, Claim)>,
    /// From `iat` to `exp`.
    pub life: Duration,
}

impl Jwt {
    /// Whether its text depends on the account.
    pub(super) fn names_account(&self) -> bool {
        let names = |(_, claim): &(String, Claim)| matches!(claim, Claim::Text(text) if text.names().iter().any(|name| name == "account"));
        self.headers.iter().chain(&self.claims).any(names)
    }

    /// The statement of now, signed.
    ///
    /// # Errors
    /// The key is none for the algorithm. A sentence without it.
    pub(super) fn sign(
        &self,
        key: &str,
        account: &Account,
        wall: Timestamp,
    ) -> Result<String, String> {
        let signer = Signer::of(key, self.algorithm)?;
        let (nonce, seconds) = (nonce(), wall.as_second());
        let stamp = seconds.to_string();
        let names =
            [("account", account.as_str()), ("nonce", nonce.as_str()), ("timestamp", &stamp)];
        let filled = |all: &[(String, Claim)], into: &mut Map<String, Value>| {
            for (name, claim) in all {
                let value = match claim {
                    Claim::Text(text) => {
                        fill(text, &names).map_err(|refusal| refusal.reason)?.into()
                    }
                    Claim::Value(value) => value.clone(),
                };
                into.insert(name.clone(), value);
            }
            Ok::<_, String>(())
        };
        let mut header = Map::new();
        header.insert("alg".into(), self.algorithm.as_str().into());
        header.insert("typ".into(), "JWT".into());
        filled(&self.headers, &mut header)?;
        let iat = seconds - i64::try_from(EARLIER.as_secs()).unwrap_or(0);
        let exp = iat.saturating_add(i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX));
        let mut claims = Map::new();
        claims.insert("iat".into(), json!(iat));
        claims.insert("exp".into(), json!(exp));
        filled(&self.claims, &mut claims)?;
        let part = |map: Map<String, Value>| {
            URL_SAFE_NO_PAD.encode(Value::Object(map).to_string().as_bytes())
        };
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = signer.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// How long a statement of now can be used.
    pub(super) fn usable(&self) -> Duration {
        self.life.saturating_sub(EARLIER)
    }
}

/// Whether a text is a private key for this.
///
/// # Errors
/// It is none; a sentence without it.
pub(crate) fn check_key(pem: &str, algorithm: Algorithm) -> Result<(), String> {
    Signer::of(pem, algorithm).map(|_| ())
}

enum Signer {
    Ec(EcdsaKeyPair, SystemRandom),
    Rsa(RsaKeyPair, SystemRandom),
}

impl Signer {
    fn of(pem: &str, algorithm: Algorithm) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "it is no private key in PEM: `-----BEGIN PRIVATE KEY-----`".to_owned())?;
        let random = SystemRandom::new();
        match algorithm {
            Algorithm::Es256 => {
                let fixed = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let bad = |_| "it is no key of the curve P-256, which ES256 signs with".to_owned();
                let pair = match &key {
                    PrivateKeyDer::Pkcs8(der) => {
                        EcdsaKeyPair::from_pkcs8(fixed, der.secret_pkcs8_der(), &random)
                    }
                    PrivateKeyDer::Sec1(der) => {
                        let der = pkcs8_of_sec1(der.secret_sec1_der());
                        EcdsaKeyPair::from_pkcs8(fixed, &der, &random)
                    }
                    _ => return Err("it is an RSA key, and ES256 signs with one of P-256".into()),
                };
                Ok(Self::Ec(pair.map_err(bad)?, random))
            }
            Algorithm::Rs256 => {
                let bad = |error: ring::error::KeyRejected| {
                    format!("it is no RSA key of 2048 bits or more ({error})")
                };
                let pair = match &key {
                    PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
                    PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
                    _ => return Err("it is a key of a curve, and RS256 signs with RSA".into()),
                };
                Ok(Self::Rsa(pair.map_err(bad)?, random))
            }
        }
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |_| "the key does not sign".to_owned();
        match self {
            Self::Ec(pair, random) => {
                pair.sign(random, text).map(|signature| signature.as_ref().to_vec()).map_err(failed)
            }
            Self::Rsa(pair, random) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, random, text, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

/// A key of P-256 as SEC 1 (RFC 5915) in the frame of PKCS #8 (RFC 5208), which is what ring reads.
fn pkcs8_of_sec1(sec1: &[u8]) -> Vec<u8> {
    /// Version 0; id-ecPublicKey with prime256v1 (RFC 5480).
    const PREFIX: &[u8] = b"\x02\x01\x00\
        \x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    let framed = [PREFIX, &tagged(0x04, sec1)].concat();
    tagged(0x30, &framed)
}

/// DER: tag, length, content.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes: Vec<u8> =
                length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
            out.extend(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}
