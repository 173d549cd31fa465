//! How a node and the commands come into a NATS server that lets not everybody in: TLS, credentials files, nkeys,
//! passwords. What goes wrong is told with a code, and without the secret.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::nats_server::NatsServer;
use crate::tls::{Authority, Issued};
use crate::util::{Config, Dir, Provider, Ran, Told, fetch, free_port, get, wait_until};

/// A key pair of NATS (<https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth>).
struct Nkey {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
    kind: u8,
}

const OPERATOR: u8 = 14 << 3;
const ACCOUNT: u8 = 0;
const USER: u8 = 20 << 3;
const SEED: u8 = 18 << 3;

impl Nkey {
    fn new(kind: u8) -> Self {
        let seed = ring::rand::generate::<[u8; 32]>(&SystemRandom::new()).unwrap().expose();
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&seed).unwrap(), seed, kind }
    }

    fn public(&self) -> String {
        encoded(&[&[self.kind], self.pair.public_key().as_ref()].concat())
    }

    fn seed(&self) -> String {
        let head = [SEED | (self.kind >> 5), (self.kind & 31) << 3];
        encoded(&[&head[..], &self.seed].concat())
    }

    /// Claims of `sub` signed by this key.
    fn jwt(&self, sub: &str, more: Value) -> String {
        let mut claims = json!({ "jti": "test", "iat": 1_700_000_000, "iss": self.public(), "name": "test", "sub": sub });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
        let text = format!("{head}.{}", part(&claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes())))
    }
}

/// Base32 of bytes and their CRC-16/XMODEM, low byte first.
fn encoded(bytes: &[u8]) -> String {
    let crc = bytes.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    let (mut text, mut bits, mut held) = (String::new(), 0_u32, 0);
    for byte in bytes.iter().copied().chain(crc.to_le_bytes()) {
        bits = (bits << 8) | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[(bits >> held) as usize & 31],
            ));
        }
    }
    if held > 0 {
        text.push(char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[(bits << (5 - held)) as usize & 31],
        ));
    }
    text
}

/// A server in a folder of its own.
struct Server {
    server: NatsServer,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(more: &str) -> Self {
        let folder = tempfile::TempDir::with_prefix("tollgate-it-login-").unwrap();
        let server = NatsServer::start(folder.path(), "", more);
        Self { server, folder }
    }

    /// One with TLS, for whatever name the certificate has.
    fn with_tls(issued: &Issued, more: &str) -> Self {
        let folder = tempfile::TempDir::with_prefix("tollgate-it-login-").unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name).display().to_string()
        };
        let (cert, key) = (file("cert.pem", &issued.cert), file("key.pem", &issued.key));
        let more = more.replace("CA", &file("ca.pem", &issued.authority));
        let tls =
            format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\", timeout: 5\n{more} }}");
        let server = NatsServer::start(folder.path(), "", &tls);
        Self { server, folder }
    }
}

fn provider() -> Provider {
    Provider::start(|_, _| Told::json(&json!({ "ok": true })))
}

fn dir(provider: &Provider, server: &Server, more: &str) -> Dir {
    let config = Config::at(&provider.base_url())
        .nats(&format!("url = \"{}\"", server.server.url()))
        .nats(more)
        .api("report", "path = \"report/{date}\"");
    Dir::with(&config)
}

/// Sets up, publishes, collects, asks: whatever a folder says of logging in works for all of it.
fn works(dir: &Dir, provider: &Provider, env: &[(&str, &str)]) {
    let with = |args: &[&str]| {
        env.iter().fold(dir.tollgate(args), |command, (name, value)| command.env(name, value))
    };
    with(&["setup"]).run().exits(0);
    let node = with(&["serve"]).start();
    // Of another id each time: one server may be worked with more than once.
    let id = format!("{}", provider.base_url().len() + provider.asked().len() + env.len());
    let one = fetch("a", "report", &id, json!({ "params": { "date": id } }));
    with(&["publish", "-"]).input(one).run().exits(0);
    let path = format!("report/{id}");
    wait_until("the call", || (provider.count(&path, None) == 1).then_some(()));
    // Calls may be made a moment before the node can be asked.
    wait_until("an answer of the node", || {
        let status = with(&["status", "--json"]).run().exits(0).json();
        (status["running"] == true).then_some(())
    });
    node.signal("TERM");
    node.wait().exits(0);
}

/// Both a command and a node end soon, with this code, this text and no secret.
fn is_refused(dir: &Dir, env: &[(&str, &str)], code: &str, text: &str, secrets: &[&str]) -> Ran {
    let run = |args: &[&str]| {
        let command =
            env.iter().fold(dir.tollgate(args), |command, (name, value)| command.env(name, value));
        let ran = command.run().exits(2).says(code).says(text);
        assert!(ran.took < Duration::from_secs(8), "{ran}");
        for secret in secrets {
            assert!(!ran.err().contains(secret) && !ran.out().contains(secret), "{ran}");
        }
        ran
    };
    run(&["setup"]);
    run(&["serve"])
}

#[test]
fn a_server_with_a_trusted_certificate_is_used_and_one_with_another_is_told_nothing() {
    let (authority, provider) = (Authority::new(), provider());
    let good = Server::with_tls(&authority.issue(&["127.0.0.1"], false), "");
    let trusting = dir(&provider, &good, "tls = { ca = \"ca.pem\" }");
    trusting.write("ca.pem", authority.pem());
    works(&trusting, &provider, &[]);

    // The authority is another; is none; is not there; is no certificate.
    let other = dir(&provider, &good, "tls = { ca = \"ca.pem\" }");
    other.write("ca.pem", Authority::new().pem());
    is_refused(&other, &[], "TG0409", "certificate", &[]);
    is_refused(&dir(&provider, &good, ""), &[], "TG0409", "certificate", &[]);
    is_refused(&dir(&provider, &good, "tls = { ca = \"no.pem\" }"), &[], "TG0409", "no.pem", &[]);
    other.write("ca.pem", "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n");
    is_refused(&other, &[], "TG0409", "ca.pem", &[]);

    // Its certificate is out of date, or of another name.
    for (issued, what) in [
        (authority.issue(&["127.0.0.1"], true), "expired"),
        (authority.issue(&["elsewhere.example"], false), "not valid for"),
    ] {
        let bad = Server::with_tls(&issued, "");
        let asking = dir(&provider, &bad, "tls = { ca = \"ca.pem\" }");
        asking.write("ca.pem", authority.pem());
        let ran = is_refused(&asking, &[], "TG0409", "certificate", &[]);
        assert!(ran.err().to_lowercase().contains(what), "{ran}");
    }

    // It has none at all.
    let plain = Server::start("");
    let asking = dir(&provider, &plain, "tls = { ca = \"ca.pem\" }");
    asking.write("ca.pem", authority.pem());
    is_refused(&asking, &[], "TG0409", "", &[]);
}

#[test]
fn a_server_that_verifies_its_clients_wants_a_certificate_of_its_authority() {
    let (authority, provider) = (Authority::new(), provider());
    let server =
        Server::with_tls(&authority.issue(&["127.0.0.1"], false), "ca_file: \"CA\"\nverify: true");
    let shown =
        dir(&provider, &server, "tls = { ca = \"ca.pem\", cert = \"c.pem\", key = \"k.pem\" }");
    shown.write("ca.pem", authority.pem());
    let show = |issued: Issued| {
        shown.write("c.pem", &issued.cert);
        shown.write("k.pem", &issued.key);
    };
    show(authority.issue(&["node"], false));
    works(&shown, &provider, &[]);

    let none = dir(&provider, &server, "tls = { ca = \"ca.pem\" }");
    none.write("ca.pem", authority.pem());
    is_refused(&none, &[], "TG0409", "certificate", &[]);
    show(authority.issue(&["node"], true));
    is_refused(&shown, &[], "TG0409", "certificate", &[]);
    show(Authority::new().issue(&["node"], false));
    is_refused(&shown, &[], "TG0409", "", &[]);
}

#[test]
fn a_node_whose_server_shows_a_bad_certificate_holds_and_goes_on_with_a_good_one() {
    let (authority, provider, port) = (Authority::new(), provider(), free_port());
    let mut server = Server::with_tls(&authority.issue(&["127.0.0.1"], false), "");
    let config = Config::at(&provider.base_url())
        .nats(&format!("url = \"{}\"\ntls = {{ ca = \"ca.pem\" }}", server.server.url()))
        .http(&format!("listen = \"127.0.0.1:{port}\""))
        .api("report", "path = \"report/{date}\"");
    let dir = Dir::with(&config);
    dir.write("ca.pem", authority.pem());
    let node = dir.tollgate(&["serve"]).start();
    let ready = |wanted: u16| {
        wait_until("readiness", || (get(port, "/readyz")?.0 == wanted).then_some(()));
    };
    ready(200);
    let certificate = |server: &mut Server, expired: bool| {
        server.server.kill();
        let issued = authority.issue(&["127.0.0.1"], expired);
        std::fs::write(server.folder.path().join("cert.pem"), &issued.cert).unwrap();
        std::fs::write(server.folder.path().join("key.pem"), &issued.key).unwrap();
        server.server.restart();
    };
    certificate(&mut server, true);
    node.wait_says("TG0409");
    ready(503);
    certificate(&mut server, false);
    ready(200);
    let one = fetch("a", "report", "1", json!({ "params": { "date": "1" } }));
    dir.tollgate(&["publish", "-"]).input(one).run().exits(0);
    wait_until("the call", || (provider.count("report/1", None) == 1).then_some(()));
    node.signal("TERM");
    let ran = node.wait().exits(0);
    let told = ran.events().into_iter().filter(|event| event["event"] == "nats_refused");
    assert!(told.clone().any(|event| event["code"] == "TG0409"), "{ran}");
    assert!(told.clone().count() < 20, "told once, not at each try: {ran}");
}

/// A credentials file as `nsc` writes it.
fn creds(jwt: &str, user: &Nkey) -> String {
    let mut text = String::new();
    for (name, value) in [("NATS USER JWT", jwt), ("USER NKEY SEED", &user.seed())] {
        writeln!(text, "-----BEGIN {name}-----\n{value}\n------END {name}------\n").unwrap();
    }
    text
}

#[test]
fn a_credentials_file_lets_in_and_one_that_is_wrong_is_told_as_that() {
    let (operator, account, user) = (Nkey::new(OPERATOR), Nkey::new(ACCOUNT), Nkey::new(USER));
    let all = json!({ "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1,
        "payload": -1, "wildcards": true, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1 });
    let system = Nkey::new(ACCOUNT);
    let of_account = json!({ "nats": { "limits": all, "type": "account", "version": 2 } });
    let limits = json!({ "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1,
        "payload": -1, "wildcards": true });
    let of_system = json!({ "nats": { "limits": limits, "type": "account", "version": 2 } });
    let server = Server::start(&format!(
        "operator: \"{}\"\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: \"{}\", {}: \"{}\" }}",
        operator.jwt(
            &operator.public(),
            json!({ "nats": { "type": "operator", "version": 2, "system_account": system.public() } })
        ),
        system.public(),
        account.public(),
        operator.jwt(&account.public(), of_account.clone()),
        system.public(),
        operator.jwt(&system.public(), of_system),
    ));
    let of_user = |more: Value| {
        let mut claims = json!({ "nats": { "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
            "type": "user", "version": 2 } });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let provider = provider();
    let dir = dir(&provider, &server, "creds = \"file:node.creds\"");
    let jwt = account.jwt(&user.public(), of_user(json!({})));
    dir.write("node.creds", creds(&jwt, &user));
    works(&dir, &provider, &[]);

    let seed = user.seed();
    let refused = |text: String, says: &str| {
        dir.write("node.creds", text);
        is_refused(&dir, &[], "TG0404", says, &[&seed, &jwt]);
    };
    // Out of date; of an account that nobody knows; a key that is not of its JWT; torn; empty.
    let past = account.jwt(&user.public(), of_user(json!({ "exp": 1_700_000_001 })));
    refused(creds(&past, &user), "creds");
    refused(creds(&Nkey::new(ACCOUNT).jwt(&user.public(), of_user(json!({}))), &user), "creds");
    refused(creds(&jwt, &Nkey::new(USER)), "creds");
    let whole = creds(&jwt, &user);
    refused(whole.chars().take(whole.len() / 2).collect(), "node.creds");
    refused(String::new(), "node.creds");
    std::fs::remove_file(dir.path("node.creds")).unwrap();
    is_refused(&dir, &[], "TG0404", "node.creds", &[]);
}

#[test]
fn an_nkey_and_a_password_let_in_and_wrong_ones_are_told_as_that() {
    let (user, provider) = (Nkey::new(USER), provider());
    let server = Server::start(&format!(
        "authorization {{ users: [ {{ nkey: {} }}, {{ user: n, password: \"right-word\" }} ] }}",
        user.public()
    ));
    let by_key = dir(&provider, &server, "nkey = \"file:seed\"");
    by_key.write("seed", user.seed() + "\n");
    works(&by_key, &provider, &[]);
    let other = Nkey::new(USER).seed();
    for seed in [&other, "SUAnonsense", ""] {
        by_key.write("seed", seed);
        let secrets: Vec<&str> = [seed].into_iter().filter(|seed| !seed.is_empty()).collect();
        is_refused(&by_key, &[], "TG0404", "", &secrets);
    }
    std::fs::remove_file(by_key.path("seed")).unwrap();
    is_refused(&by_key, &[], "TG0404", "seed", &[]);

    let provider = self::provider();
    let by_word = dir(&provider, &server, "user = \"n\"\npassword = \"env:WORD\"");
    works(&by_word, &provider, &[("WORD", "right-word")]);
    is_refused(&by_word, &[("WORD", "wrong-word")], "TG0404", "", &["wrong-word"]);
    by_word.tollgate(&["setup"]).run().exits(2).says("WORD");
}
