//! Real TLS, with ring alone: a provider whose certificate is trusted is collected from, any other is not
//! even asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::util::{Config, Dir, fetch, wait_until};

/// An authority and what it signs.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names, which may be out of date.
    pub(crate) fn issue(&self, names: &[&str], expired: bool) -> Issued {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { cert: certificate.pem(), key: key.serialize_pem(), authority: self.pem.clone() }
    }

    /// A server configuration for `localhost`.
    fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}

/// A certificate, its key and who signed it, as PEM.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) authority: String,
}

/// An HTTPS provider on a thread of its own, until the test ends.
struct Provider {
    addr: SocketAddr,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Provider {
    fn start(config: ServerConfig) -> Self {
        let (requests, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (tell, told) = mpsc::channel();
        let (requests_there, connections_there) = (requests.clone(), connections.clone());
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let acceptor = TlsAcceptor::from(Arc::new(config));
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections_there.fetch_add(1, Ordering::SeqCst);
                    let (acceptor, requests) = (acceptor.clone(), requests_there.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let service = service_fn(move |request: Request<Incoming>| {
                            requests.fetch_add(1, Ordering::SeqCst);
                            let token = request.headers().get("authorization");
                            let body = json!({
                                "path": request.uri().to_string(),
                                "token": token.and_then(|token| token.to_str().ok()),
                            });
                            let body = Full::new(Bytes::from(body.to_string()));
                            async move { Ok::<_, Infallible>(Response::new(body)) }
                        });
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                            .ok();
                    });
                }
            });
        });
        Self { addr: told.recv().unwrap(), requests, connections }
    }

    fn config(&self, host: &str) -> Config {
        Config::at(&format!("https://{host}:{}/", self.addr.port()))
            .platform("auth = { bearer = \"env:TOKEN\" }")
            .api("a", "path = \"things/{account}\"\nformat = \"json\"")
    }
}

#[test]
fn a_provider_with_a_trusted_certificate_is_collected_from() {
    let authority = Authority::new();
    let provider = Provider::start(authority.server());
    let dir = Dir::with(&provider.config("localhost"));
    dir.write("ca.pem", &authority.pem);
    let fetches: String = (0..5).map(|n| fetch(&format!("act_{n}"), "a", "1", json!({}))).collect();
    let ran = dir
        .tollgate(&["run", "--json", "-"])
        .env("SSL_CERT_FILE", dir.path("ca.pem").to_str().unwrap())
        .env("TOKEN", "t0ken")
        .input(fetches)
        .run()
        .exits(0);
    assert_eq!((ran.summary().done, ran.summary().calls), (5, 5), "{ran}");
    assert_eq!(provider.requests.load(Ordering::SeqCst), 5);
    let collected = dir.collected();
    let one = &collected[&("act_3".into(), "a".into(), "1".into())];
    let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
    assert_eq!(body, json!({ "path": "/things/act_3", "token": "Bearer t0ken" }));
}

/// Runs until a call has failed, and checks that the provider was never asked.
fn is_never_asked(provider: &Provider, host: &str, trusted: &str) {
    let dir = Dir::with(&provider.config(host));
    dir.write("ca.pem", trusted);
    let running = dir
        .tollgate(&["run", "--json", "-"])
        .env("SSL_CERT_FILE", dir.path("ca.pem").to_str().unwrap())
        .env("TOKEN", "t0ken")
        .input(fetch("a", "a", "1", json!({})))
        .start();
    running.wait_says("attempt_failed");
    wait_until("the connection", || {
        (provider.connections.load(Ordering::SeqCst) > 0).then_some(())
    });
    running.signal("TERM");
    let ran = running.wait().exits(3);
    let events = ran.events();
    let failed = events.iter().find(|event| event["event"] == "attempt_failed").unwrap();
    assert_eq!(failed["outcome"], "unreachable", "{failed}");
    assert!(failed["reason"].as_str().unwrap().contains("certificate"), "{failed}");
    assert_eq!((ran.summary().left, ran.summary().done), (1, 0), "{ran}");
    assert_eq!(provider.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn a_provider_with_an_unknown_certificate_is_never_asked() {
    let provider = Provider::start(Authority::new().server());
    is_never_asked(&provider, "localhost", &Authority::new().pem);
}

#[test]
fn a_provider_with_the_certificate_of_another_host_is_never_asked() {
    let authority = Authority::new();
    let provider = Provider::start(authority.server());
    is_never_asked(&provider, "127.0.0.1", &authority.pem);
}
