//! Signed statements, and the records of tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair,
    UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::config_mistakes::{EC, EC_PKCS8, RSA};
use super::*;

fn jwt_of(algorithm: &str, pem: &str, rest: &str) -> Jwt {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    std::fs::write(&path, pem).unwrap();
    let auth = auth(&format!(
        "auth = {{ jwt = {{ algorithm = \"{algorithm}\", key = \"file:{}\", {rest} }} }}",
        path.display()
    ));
    let Kind::Jwt(jwt, Bearing::Bearer) = &auth.pool[0].kind else { panic!() };
    Jwt::clone(jwt)
}

fn parts(text: &str) -> (String, Vec<u8>, Value, Value) {
    let (signed, signature) = text.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let json = |part: &str| serde_json::from_slice(&decode(part)).unwrap();
    (signed.to_owned(), decode(signature), json(header), json(claims))
}

#[test]
fn a_statement_says_what_is_declared_and_its_signature_holds() {
    let rest = r#"headers = { kid = "K1" }, claims = { iss = "me", aud = ["x", "y"], sub = "{account}", jti = "{nonce}", n = 5 }, life = "20m""#;
    let wall: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    for pem in [EC, EC_PKCS8] {
        let jwt = jwt_of("ES256", pem, rest);
        assert!(jwt.names_account());
        let text = jwt.sign(pem, &account("act/1"), wall).unwrap();
        let (signed, signature, header, claims) = parts(&text);
        assert_eq!(header, serde_json::json!({"alg": "ES256", "typ": "JWT", "kid": "K1"}));
        let iat = claims["iat"].as_i64().unwrap();
        assert!((0..=30).contains(&(wall.as_second() - iat)));
        assert_eq!(claims["exp"].as_i64().unwrap() - iat, 1200);
        assert_eq!(claims["aud"], serde_json::json!(["x", "y"]));
        assert_eq!((claims["sub"].as_str(), claims["n"].as_i64()), (Some("act/1"), Some(5)));
        assert_eq!(claims["jti"].as_str().unwrap().len(), 32);
        let der = PrivatePkcs8KeyDer::from_pem_slice(EC_PKCS8.as_bytes()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            der.secret_pkcs8_der(),
            &ring::rand::SystemRandom::new(),
        )
        .unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
        public.verify(signed.as_bytes(), &signature).unwrap();
        assert!(public.verify(b"another", &signature).is_err());
    }
    let jwt = jwt_of("RS256", RSA, "claims = { iss = \"me\", exp = 5 }");
    assert!(!jwt.names_account());
    let (signed, signature, header, claims) = parts(&jwt.sign(RSA, &account("a"), wall).unwrap());
    assert_eq!((header["alg"].as_str(), claims["exp"].as_i64()), (Some("RS256"), Some(5)));
    let der = PrivatePkcs8KeyDer::from_pem_slice(RSA.as_bytes()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
    public.verify(signed.as_bytes(), &signature).unwrap();
}

#[tokio::test]
async fn a_program_prints_a_secret_within_its_bounds() {
    let of = |command: &str| {
        let words = command.split_whitespace().map(str::to_owned).collect();
        Secret::unread(Source::Command(words), secret::Fit::Line)
    };
    let printed = of("printf the-printed\\n");
    assert_eq!(printed.run().await, Ok(true));
    assert_eq!(printed.get().unwrap().expose_secret(), "the-printed");
    assert_eq!(printed.run().await, Ok(false), "the same again is no change");
    for (command, words) in [
        ("false", "ended with"),
        ("true", "empty"),
        ("no-such-program", "cannot be run"),
        ("head -c 100000 /dev/zero", "more than"),
        ("printf a\\nb", "line break"),
    ] {
        let secret = of(command);
        let failed = secret.run().await.unwrap_err();
        assert!(failed.contains(words), "{command}: {failed}");
        assert!(secret.get().is_none());
    }
    // No shell: what it would do is an argument.
    let echoed = of("printf $HOME;id");
    echoed.run().await.unwrap();
    assert_eq!(echoed.get().unwrap().expose_secret(), "$HOME;id");
}

#[test]
fn what_is_shown_of_credentials_holds_no_secret() {
    let all = plan(
        r#"auth = { headers = { X-K = "env:KEY" }, oauth2 = { grant = "refresh_token", token_url = "https://t.example.com/", client_id = "env:ID", client_secret = "env:KEY", refresh_token = "env:REFRESH" } }"#,
    );
    let shown = format!("{all:?}{}", config::describe(&all));
    for (_, secret) in ENV.iter().filter(|(name, _)| *name != "PATH") {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    let described = config::describe(&all);
    for words in ["a token of https://t.example.com/ by refresh_token", "x-k: *** from env:KEY"] {
        assert!(described.contains(words), "{words}: {described}");
    }
}
