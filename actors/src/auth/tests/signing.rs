//! What is put on requests, beside the documented examples of each scheme.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

const NOW: &str = "2026-11-20T12:00:00.250Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn header<'r>(request: &'r Request, name: &str) -> &'r str {
    let value = &request.headers[name];
    assert!(value.is_sensitive(), "{name}");
    value.to_str().unwrap()
}

#[test]
fn static_credentials_go_where_they_are_declared() {
    let of = |text: &str| {
        signed(&auth(text), "act_1", request("https://api.example.com/v1/x?a=1"), now())
    };
    let made = of(r#"auth = { bearer = "env:TOKEN" }"#);
    assert_eq!(header(&made, "authorization"), "Bearer the-token");
    let made =
        of(r#"auth = { header = "X-Key", value = "env:KEY", headers = { X-Id = "env:ID" } }"#);
    assert_eq!(
        (header(&made, "x-key"), header(&made, "x-id")),
        ("the-s3cret-key", "the-client-id")
    );
    let made = of(r#"auth = { query = "api key", value = "env:KEY" }"#);
    assert_eq!(made.url.as_str(), "https://api.example.com/v1/x?a=1&api%20key=the-s3cret-key");
    assert!(!format!("{made:?}").contains("s3cret"), "{made:?}");
    // RFC 7617 §2 has this pair.
    let basic = r#"auth = { basic = { user = "Aladdin", password = "env:SESAME" } }"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "open sesame\n").unwrap();
    let made = of(&basic.replace("env:SESAME", &format!("file:{}", file.path().display())));
    assert_eq!(header(&made, "authorization"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

#[test]
fn each_account_has_its_own_secret_from_a_table_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("act%2F1"), "of-act-1\n").unwrap();
    let text = format!("auth = {{ bearer = \"file:{}/{{account}}\" }}", folder.path().display());
    let files = auth(&text);
    let mut made = request("https://api.example.com/");
    let unread = files.sign(&account("act/1"), &mut made, &Clock::new());
    assert!(matches!(unread, Err(Unsigned::NotAtHand(_))), "{unread:?}");
    // The keeper reads it; here by hand.
    let Kind::Bearer(reference) = &files.pool[0].kind else { panic!() };
    let secret = reference.secret(&account("act/1")).unwrap();
    assert_eq!(secret.read_file(), Ok(true));
    assert_eq!(header(&signed(&files, "act/1", made, now()), "authorization"), "Bearer of-act-1");
    for escape in ["..", "../x", "/etc/passwd"] {
        let secret = reference.secret(&account(escape)).unwrap();
        let Source::File(path) = secret.source() else { panic!() };
        assert_eq!(path.parent(), Some(folder.path()), "{escape}");
    }

    let table = auth(r#"auth = { bearer = { act_1 = "env:TOKEN", act_2 = "env:KEY" } }"#);
    let of = |name| signed(&table, name, request("https://api.example.com/"), now());
    assert_eq!(header(&of("act_1"), "authorization"), "Bearer the-token");
    assert_eq!(header(&of("act_2"), "authorization"), "Bearer the-s3cret-key");
    let mut other = request("https://api.example.com/");
    assert!(table.sign(&account("act_3"), &mut other, &Clock::new()).is_err());
    assert!(other.headers.is_empty());
}

#[test]
fn a_keyed_hash_is_over_what_is_sent_at_the_moment_of_sending() {
    // As Naver's search ad api has it: milliseconds, method and path between dots, in Base64
    // (https://naver.github.io/searchad-apidoc). The hash is of `openssl dgst -sha256 -hmac`.
    let auth = auth(
        r#"auth = { headers = { X-API-KEY = "env:ID" }, hmac = { algorithm = "sha256", key = "env:KEY", sign = "{timestamp_ms}.{method}.{path}", headers = { X-Timestamp = "{timestamp_ms}", X-Signature = "{signature}" } } }"#,
    );
    let made = signed(&auth, "act_1", request("https://api.example.com/v1/x?a=1"), now());
    let stamp = header(&made, "x-timestamp");
    assert!(
        (1_763_640_000_250..1_763_640_001_250 + 31_536_000_000)
            .contains(&stamp.parse::<u64>().unwrap())
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"the-s3cret-key");
    let wanted = ring::hmac::sign(&key, format!("{stamp}.GET./v1/x").as_bytes());
    let wanted = STANDARD.encode(wanted);
    assert_eq!(header(&made, "x-signature"), wanted);
    assert_eq!(header(&made, "x-api-key"), "the-client-id");
}

#[test]
fn a_keyed_hash_knows_every_name_and_encoding() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "4a656665").unwrap();
    let text = format!(
        "auth = {{ hmac = {{ algorithm = \"sha256\", key = \"file:{}\", key_encoding = \"hex\", \
         sign = \"what do ya want for nothing?\", encoding = \"hex\", \
         query = {{ sig = \"{{signature}}\", n = \"{{nonce}}\", h = \"{{host}} {{account}} {{method|lower}} {{query}} {{body}} {{body_sha256}}\" }} }} }}",
        file.path().display()
    );
    let auth = auth(&text);
    let mut asked = request("https://api.example.com:8443/x?a=1");
    asked.body = Some(Bytes::from_static(b"abc"));
    let made = signed(&auth, "act_1", asked, now());
    let pairs: HashMap<String, String> = made.url.query_pairs().into_owned().collect();
    // RFC 4231, test case 2.
    let wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(pairs["sig"], wanted);
    assert_eq!(pairs["a"], "1");
    assert_eq!(pairs["n"].len(), 32);
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(pairs["h"], format!("api.example.com:8443 act_1 get a=1 abc {abc}"));
}

fn oauth1_of(keys: [&str; 4], nonce: &str, seconds: i64, request: &Request) -> (String, String) {
    let secret = |text: &str| Reference::One(Secret::known(Source::Env("X".into()), text.into()));
    let oauth1 = OAuth1 {
        algorithm: Hash::Sha1,
        consumer_key: Words::Plain(keys[0].into()),
        consumer_secret: secret(keys[1]),
        token: Some(Words::Plain(keys[2].into())),
        token_secret: Some(secret(keys[3])),
        realm: None,
    };
    let stamp = Stamp { wall: Timestamp::from_second(seconds).unwrap(), nonce: nonce.to_owned() };
    let keys = oauth1::Keys::of(&oauth1, &mut |secret| secret.get(&account("a"))).unwrap();
    let header = oauth1::header(&oauth1, &keys, request, &stamp);
    let (_, signature) = header.split_once("oauth_signature=\"").unwrap();
    let signature = signature.split('"').next().unwrap();
    let signature = percent_encoding::percent_decode_str(signature).decode_utf8_lossy();
    (signature.into_owned(), header)
}

#[test]
fn oauth_1_signs_as_x_documents_it() {
    // https://docs.x.com/resources/fundamentals/authentication/oauth-1-0a/creating-a-signature
    let mut request =
        request("https://api.twitter.com/1.1/statuses/update.json?include_entities=true");
    request.method = Method::POST;
    request
        .headers
        .insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
    request.body = Some(Bytes::from_static(
        b"status=Hello%20Ladies%20%2b%20Gentlemen%2c%20a%20signed%20OAuth%20request%21",
    ));
    let (signature, header) = oauth1_of(
        [
            "xvz1evFS4wEEPTGEFPHBog",
            "kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw",
            "370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb",
            "LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE",
        ],
        "kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg",
        1_318_622_958,
        &request,
    );
    assert_eq!(signature, "hCtSmYh+iHYCEqBWrE7C7hYmtUk=", "{header}");
    assert!(
        header.starts_with("OAuth oauth_consumer_key=\"xvz1evFS4wEEPTGEFPHBog\", "),
        "{header}"
    );
}

#[test]
fn oauth_1_signs_as_the_rfc_has_it() {
    // RFC 5849 §1.2, the request for the photo; its signature is of the errata-free example there, without
    // `oauth_version`, so the base string is compared.
    let request = request("http://photos.example.net/photos?file=vacation.jpg&size=original");
    let own = [
        ("oauth_consumer_key", "dpf43f3p2l4k3l03".to_owned()),
        ("oauth_token", "nnch734d00sl2jdk".to_owned()),
        ("oauth_signature_method", "HMAC-SHA1".to_owned()),
        ("oauth_timestamp", "137131202".to_owned()),
        ("oauth_nonce", "chapoH".to_owned()),
    ];
    let base = oauth1::base_string(&request, &own);
    let key = b"kd94hf93k423kf44&pfkkdhi9sl3r4s00";
    let signature = Encoding::Base64.encode(&Hash::Sha1.keyed(key, base.as_bytes()));
    assert_eq!(signature, "MdpQcU8iPSUjWoN/UDMsK2sui9I=");
}

#[test]
fn oauth_1_normalises_parameters_as_the_rfc_has_it() {
    // RFC 5849 §3.4.1.1.
    let mut request = request("http://EXAMPLE.COM:80/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b");
    request.method = Method::POST;
    request
        .headers
        .insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
    request.body = Some(Bytes::from_static(b"c2&a3=2+q"));
    let own = [
        ("oauth_consumer_key", "9djdj82h48djs9d2".to_owned()),
        ("oauth_token", "kkk9d7dh3k39sjv7".to_owned()),
        ("oauth_signature_method", "HMAC-SHA1".to_owned()),
        ("oauth_timestamp", "137131201".to_owned()),
        ("oauth_nonce", "7d8f3e4a".to_owned()),
    ];
    assert_eq!(
        oauth1::base_string(&request, &own),
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D\
         %26c%2540%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a\
         %26oauth_signature_method%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
    );
}
