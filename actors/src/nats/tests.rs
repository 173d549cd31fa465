//! Against a real server.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::{Bus, Change, Names, NatsError, partition, setup};
use crate::codes::Code;
use crate::ids::{Account, AccountKey, LaneKey, Slug};
use crate::plan::NatsPlan;
use crate::testkit::nats_server::{NatsServer, free_port};

pub(crate) fn plan(server: &NatsServer) -> NatsPlan {
    NatsPlan {
        declared: true,
        urls: vec![server.url()],
        prefix: Slug::new("tollgate").unwrap(),
        replicas: 1,
        creds: None,
        nkey: None,
        user: None,
        inbox: "_INBOX".into(),
        tls: None,
        setup: true,
        fetch_bytes_max: None,
        lease: Duration::from_secs(4),
    }
}

/// A server with all streams, and a connection to it.
pub(crate) async fn ready(jetstream: &str) -> (TempDir, NatsServer, Bus) {
    crate::install_tls();
    let folder = TempDir::new().unwrap();
    let server = NatsServer::start(folder.path(), jetstream, "");
    let plan = plan(&server);
    let bus = Bus::connect(&plan, "test", false).await.unwrap();
    setup(&bus, &plan, true).await.unwrap();
    (folder, server, bus)
}

/// Three servers, everything on each of them.
pub(crate) async fn ready_three() -> ([TempDir; 3], [NatsServer; 3], Bus) {
    crate::install_tls();
    let ports = [free_port(), free_port(), free_port()];
    let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
    let folders = ports.map(|_| TempDir::new().unwrap());
    let mut ports = ports.into_iter();
    let servers = folders.each_ref().map(|folder| {
        let listen = format!("listen: \"127.0.0.1:{}\"", ports.next().unwrap());
        let cluster = format!("cluster {{ name: \"three\", {listen}, routes: [{routes}] }}");
        NatsServer::start(folder.path(), "", &cluster)
    });
    let plan = NatsPlan {
        urls: servers.iter().map(NatsServer::url).collect(),
        replicas: 3,
        ..plan(&servers[0])
    };
    let until = Instant::now() + Duration::from_secs(60);
    // A leader has to be elected first.
    let bus = loop {
        let connecting = Bus::connect(&plan, "test", false);
        let connected = async {
            let bus = connecting.await?;
            setup(&bus, &plan, true).await?;
            Ok::<_, NatsError>(bus)
        };
        match connected.await {
            Ok(bus) => break bus,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    (folders, servers, bus)
}

#[tokio::test]
async fn setup_makes_what_is_missing_mends_what_differs_and_keeps_the_rest() {
    crate::install_tls();
    let folder = TempDir::new().unwrap();
    let server = NatsServer::start(folder.path(), "", "");
    let plan = plan(&server);
    let bus = Bus::connect(&plan, "test", false).await.unwrap();
    let refused = setup(&bus, &plan, false).await.unwrap_err();
    assert_eq!(refused.code, Code::StreamMissing, "{refused}");
    let made = setup(&bus, &plan, true).await.unwrap();
    assert!(made.iter().all(|one| one.change == Change::Created), "{made:?}");
    let again = setup(&bus, &plan, false).await.unwrap();
    assert!(again.iter().all(|one| one.change == Change::Kept), "{again:?}");
    let smaller = NatsPlan { fetch_bytes_max: Some(1 << 20), ..plan };
    let refused = setup(&bus, &smaller, false).await.unwrap_err();
    assert_eq!(refused.code, Code::StreamDiffers, "{refused}");
    let mended = setup(&bus, &smaller, true).await.unwrap();
    let changed: Vec<_> = mended.iter().filter(|one| one.change != Change::Kept).collect();
    assert_eq!(changed.len(), 1, "{mended:?}");
    assert!(changed[0].to_string().contains("max_bytes"), "{}", changed[0]);
}

#[tokio::test]
async fn the_server_puts_each_account_into_the_partition_that_is_computed_here() {
    let (_folder, _server, bus) = ready("").await;
    let names = bus.names();
    for account in ["act_1", "a@b", "com.shop.app", "ÄÖ", "x", "123-456-7890", "%40"] {
        let account = AccountKey {
            platform: Slug::new("meta").unwrap(),
            account: Account::new(account).unwrap(),
        };
        let api = Slug::new("insights").unwrap();
        let lane = LaneKey { account: account.clone(), api, priority: crate::ids::Priority::High };
        let ack = bus.js().publish(names.fetch(&lane), "{}".into()).await.unwrap().await.unwrap();
        let fetch = bus.js().get_stream_no_info(names.stream("FETCH")).await.unwrap();
        let stored = fetch.direct_get(ack.sequence).await.unwrap();
        assert_eq!(stored.subject.as_str(), names.queued(&lane));
        let ack = bus.js().publish(names.ledger(&account), "x".into()).await.unwrap();
        let ledger = bus.js().get_stream_no_info(names.stream("LEDGER")).await.unwrap();
        let stored = ledger.direct_get(ack.await.unwrap().sequence).await.unwrap();
        assert_eq!(stored.subject.as_str(), names.ledger_stored(&account));
        assert!(partition(&account) < super::PARTITIONS);
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_refused_with_a_code() {
    crate::install_tls();
    let folder = TempDir::new().unwrap();
    let server = NatsServer::start(folder.path(), "", "authorization { user: u, password: p }");
    let refused = Bus::connect(&plan(&server), "test", false).await.unwrap_err();
    assert_eq!(refused.code, Code::NatsDenied, "{refused}");
    let mut nowhere = plan(&server);
    drop(server);
    let refused = Bus::connect(&nowhere, "test", false).await.unwrap_err();
    assert_eq!(refused.code, Code::NatsUnreachable, "{refused}");
    nowhere.creds = Some(folder.path().join("none.creds"));
    let refused = Bus::connect(&nowhere, "test", false).await.unwrap_err();
    assert_eq!(refused.code, Code::NatsDenied, "{refused}");
}

#[tokio::test]
async fn a_server_without_room_is_told_as_full() {
    crate::install_tls();
    let folder = TempDir::new().unwrap();
    let server = NatsServer::start(folder.path(), "max_file_store: 10MB", "");
    let plan = NatsPlan { fetch_bytes_max: Some(1 << 30), ..plan(&server) };
    let bus = Bus::connect(&plan, "test", false).await.unwrap();
    let refused = setup(&bus, &plan, true).await.unwrap_err();
    assert_eq!(refused.code, Code::NatsFull, "{refused}");
    assert_eq!(Names::new(&plan.prefix), *bus.names());
}

#[tokio::test]
async fn a_refusal_ends_the_wait_for_answers_like_an_answer() {
    use futures_util::StreamExt;

    let (_folder, _server, bus) = ready("").await;
    let subject = super::service::Endpoint::Overview.subject(&bus);
    let mut asked = bus.client().subscribe(subject).await.unwrap();
    bus.client().flush().await.unwrap();
    let node = bus.client().clone();
    let answering = tokio::spawn(async move {
        let reply = asked.next().await.unwrap().reply.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", "400");
        headers.insert("Nats-Service-Error", "TG0607: not such a question");
        node.publish_with_headers(reply.clone(), headers, "".into()).await.unwrap();
        // Of another version.
        node.publish(reply, "{}".into()).await.unwrap();
    });
    let begun = Instant::now();
    let question = super::service::OverviewQuestion::default();
    let answers =
        super::ask::ask_lookers(&bus, super::service::Endpoint::Overview, &question, 2).await;
    answering.await.unwrap();
    assert!(answers.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
