//! Against a real server, and through a network that fails on purpose.

mod network;

use async_nats::jetstream;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::ids::{Account, Slug};
use crate::ledger::conformance::ledger_conformance;
use crate::nats::session::About;
use crate::nats::tests::{plan, ready};
use crate::testkit::nats_server::NatsServer;
use network::{Network, Requests};

ledger_conformance!(open().await);

fn about() -> About {
    About {
        node: "test".into(),
        version: "0".into(),
        started: jiff::Timestamp::UNIX_EPOCH,
        config: "none".into(),
    }
}

async fn ledger(bus: &Bus) -> NatsLedger {
    ledger_after(bus, Vec::new()).await
}

/// The ledger of a new session in whose folder these ran before.
async fn ledger_after(bus: &Bus, before: Vec<SessionId>) -> NatsLedger {
    let session = Session::start(bus, SessionId::draw(), before, &about()).await.unwrap();
    NatsLedger::open(bus, Arc::new(session), 1).await.unwrap()
}

async fn open() -> (NatsLedger, (TempDir, NatsServer)) {
    let (folder, server, bus) = ready("").await;
    (ledger(&bus).await, (folder, server))
}

fn account(name: &str) -> AccountKey {
    AccountKey { platform: Slug::new("p").unwrap(), account: Account::new(name).unwrap() }
}

async fn load(ledger: &NatsLedger, account: &AccountKey) -> Stored {
    ledger.load(account.clone()).await.unwrap().expect("there is a record")
}

#[tokio::test]
async fn a_session_that_reads_anothers_record_fences_it_and_knows_its_age() {
    let (_folder, server, bus) = ready("").await;
    let other = Bus::connect(&plan(&server), "other", false).await.unwrap();
    let (one, two) = (ledger(&bus).await, ledger(&other).await);
    let key = account("x");
    for pause in [0, 40, 250] {
        let seen = load_or_none(&one, &key).await;
        let before = Instant::now();
        one.store(key.clone(), seen, Bytes::from_static(b"one")).await.unwrap();
        let after = Instant::now();
        sleep(Duration::from_millis(pause)).await;
        let found = load(&two, &key).await;
        assert_eq!((found.record.as_ref(), found.writer), (&b"one"[..], Writer::Alive));
        assert!(found.age <= before.elapsed(), "{:?} after {:?}", found.age, before.elapsed());
        let least = Duration::from_millis(pause).saturating_sub(Duration::from_millis(1));
        assert!(found.age >= least, "{:?} after at least {pause} ms", found.age);
        assert!(found.age + Duration::from_millis(200) > after.elapsed(), "{:?}", found.age);
        let late = one.store(key.clone(), seen + 1, Bytes::from_static(b"late")).await;
        assert!(matches!(late, Err(LedgerError::Conflict)), "{late:?}");
        // A claim of a claim knows when the record itself was stored, and that it is this session's.
        let own = load(&one, &key).await;
        assert_eq!((own.record.as_ref(), own.writer), (&b"one"[..], Writer::Here));
        assert!(own.age <= before.elapsed() && own.age >= least, "{:?}", own.age);
        let again = load(&two, &key).await;
        assert_eq!((again.record.as_ref(), again.writer), (&b"one"[..], Writer::Alive));
        assert!(again.age <= before.elapsed() && again.age >= found.age, "{:?}", again.age);
    }
}

async fn load_or_none(ledger: &NatsLedger, account: &AccountKey) -> u64 {
    ledger.load(account.clone()).await.unwrap().map_or(0, |stored| stored.version)
}

#[tokio::test]
async fn with_several_servers_an_age_is_shorter_by_what_their_clocks_may_differ() {
    let (_folder, _server, bus) = ready("").await;
    let (key, one) = (account("x"), ledger(&bus).await);
    one.store(key.clone(), 0, Bytes::from_static(b"one")).await.unwrap();
    let stored = Instant::now();
    sleep(Duration::from_millis(250)).await;
    let session = Session::start(&bus, SessionId::draw(), Vec::new(), &about()).await.unwrap();
    let two = NatsLedger::open(&bus, Arc::new(session), 3).await.unwrap();
    let found = load(&two, &key).await;
    assert!(found.age >= Duration::from_millis(140), "{:?}", found.age);
    assert!(found.age + CLOCKS_APART <= stored.elapsed() + Duration::from_millis(5));
}

#[tokio::test]
async fn the_writer_of_a_record_is_told_by_its_session() {
    let (_folder, server, bus) = ready("").await;
    let key = account("x");
    let one = ledger(&bus).await;
    one.store(key.clone(), 0, Bytes::from_static(b"one")).await.unwrap();
    let number = one.0.wire.own();
    assert_eq!(load(&one, &key).await.writer, Writer::Here);
    assert_eq!(load(&ledger(&bus).await, &key).await.writer, Writer::Alive);
    let next = ledger_after(&bus, vec![number]).await;
    assert_eq!(load(&next, &key).await.writer, Writer::Dead);
    // Whoever it was that ended, a third one only knows that it is not there.
    let far = Bus::connect(&plan(&server), "far", false).await.unwrap();
    assert_eq!(load(&ledger(&far).await, &key).await.writer, Writer::Silent);
}

#[tokio::test]
async fn a_record_in_doubt_is_read_from_the_leader_once() {
    let (_folder, _server, bus) = ready("").await;
    let (key, one) = (account("x"), ledger(&bus).await);
    one.store(key.clone(), 0, Bytes::from_static(b"one")).await.unwrap();
    let mut stream = bus.js().get_stream(bus.names().stream("LEDGER")).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    // No replica answers any more, only the leader does.
    config.allow_direct = false;
    bus.js().update_stream(config).await.unwrap();
    assert!(one.load(key.clone()).await.is_err());
    one.doubt(&key);
    assert_eq!(load(&one, &key).await.record.as_ref(), b"one");
    assert!(one.load(key).await.is_err());
}

#[tokio::test]
async fn a_record_that_is_no_envelope_is_handed_over_as_it_is() {
    let (_folder, _server, bus) = ready("").await;
    let (key, one) = (account("x"), ledger(&bus).await);
    let odd = bus.js().publish(bus.names().ledger(&key), "odd".into()).await.unwrap();
    let version = odd.await.unwrap().sequence;
    let found = load(&one, &key).await;
    assert_eq!((found.version, found.record.as_ref()), (version, &b"odd"[..]));
    assert_eq!((found.age, found.writer), (Duration::ZERO, Writer::Silent));
    one.store(key, version, Bytes::from_static(b"new")).await.unwrap();
}

#[tokio::test]
async fn a_full_stream_is_told_by_its_code_and_nothing_is_stored() {
    let (_folder, _server, bus) = ready("").await;
    let mut stream = bus.js().get_stream(bus.names().stream("LEDGER")).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_bytes = 4096;
    config.discard = jetstream::stream::DiscardPolicy::New;
    bus.js().update_stream(config).await.unwrap();
    let one = ledger(&bus).await;
    let key = account("x");
    let version = one.store(key.clone(), 0, Bytes::from_static(b"small")).await.unwrap();
    let refused = one.store(key.clone(), version, Bytes::from(vec![7; 8192])).await.unwrap_err();
    assert!(matches!(refused, LedgerError::Unavailable(_)), "{refused}");
    assert!(refused.to_string().contains("TG0405"), "{refused}");
    assert_eq!(load(&one, &key).await.version, version);
}

/// A ledger whose connection passes a network that can fail, and another without.
async fn through_network() -> (TempDir, NatsServer, Network, NatsLedger, NatsLedger) {
    let (folder, server, bus) = ready("").await;
    let network = Network::to(&server.url()).await;
    let mut plan = plan(&server);
    plan.urls = vec![network.url()];
    let far = Bus::connect(&plan, "far", false).await.unwrap();
    let (far, near) = (ledger(&far).await, ledger(&bus).await);
    (folder, server, network, far, near)
}

#[tokio::test]
async fn a_store_whose_confirmation_was_lost_is_found_as_stored() {
    let (_folder, _server, network, far, _near) = through_network().await;
    let key = account("x");
    let first = far.store(key.clone(), 0, Bytes::from_static(b"first")).await.unwrap();
    network.swallow_replies();
    let store = tokio::spawn(far.store(key.clone(), first, Bytes::from_static(b"second")));
    sleep(Duration::from_millis(300)).await;
    network.cut();
    network.heal();
    let version = store.await.unwrap().unwrap();
    let found = load(&far, &key).await;
    assert_eq!((found.version, found.record.as_ref()), (version, &b"second"[..]));
}

#[tokio::test]
async fn a_store_whose_confirmation_was_lost_and_that_another_replaced_is_a_conflict() {
    let (_folder, _server, network, far, near) = through_network().await;
    let key = account("x");
    let first = far.store(key.clone(), 0, Bytes::from_static(b"first")).await.unwrap();
    network.swallow_replies();
    let store = tokio::spawn(far.store(key.clone(), first, Bytes::from_static(b"second")));
    sleep(Duration::from_millis(300)).await;
    let theirs = load(&near, &key).await;
    assert_eq!(theirs.record.as_ref(), b"second", "it had come through");
    near.store(key.clone(), theirs.version, Bytes::from_static(b"third")).await.unwrap();
    network.cut();
    network.heal();
    let answer = store.await.unwrap();
    assert!(matches!(answer, Err(LedgerError::Conflict)), "{answer:?}");
    let found = load(&far, &key).await;
    assert_eq!((found.record.as_ref(), found.writer), (&b"third"[..], Writer::Alive));
}

#[tokio::test]
async fn a_store_that_was_not_there_yet_is_told_so_and_is_found_as_ours_when_it_comes_late() {
    let (_folder, _server, network, far, _near) = through_network().await;
    let key = account("x");
    let first = far.store(key.clone(), 0, Bytes::from_static(b"first")).await.unwrap();
    network.requests(Requests::Hold);
    let store = tokio::spawn(far.store(key.clone(), first, Bytes::from_static(b"late")));
    sleep(Duration::from_millis(300)).await;
    network.cut();
    network.heal();
    let answer = store.await.unwrap();
    assert!(matches!(answer, Err(LedgerError::Unavailable(_))), "{answer:?}");
    assert_eq!(load(&far, &key).await.version, first);
    network.release().await;
    let conflict = async {
        loop {
            let answer = far.store(key.clone(), first + 7, Bytes::from_static(b"next")).await;
            assert!(matches!(answer, Err(LedgerError::Conflict)), "{answer:?}");
            let found = load(&far, &key).await;
            if found.version != first {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let found = timeout(Duration::from_secs(10), conflict).await.unwrap();
    assert_eq!((found.record.as_ref(), found.writer), (&b"late"[..], Writer::Here));
}

#[tokio::test]
async fn without_any_answer_a_store_is_unsure_and_while_the_link_is_down_nothing_is_sent() {
    let (_folder, mut server, bus) = ready("").await;
    let (key, one) = (account("x"), ledger(&bus).await);
    let version = one.store(key.clone(), 0, Bytes::from_static(b"first")).await.unwrap();
    server.signal("STOP");
    let answer = one.store(key.clone(), version, Bytes::from_static(b"second")).await;
    assert!(matches!(answer, Err(LedgerError::Unsure(_))), "{answer:?}");
    server.signal("CONT");
    let found = timeout(Duration::from_secs(10), load(&one, &key)).await.unwrap();
    assert_eq!(found.writer, Writer::Here);
    server.kill();
    let mut link = bus.link();
    link.wait_for(|link| !link.up).await.unwrap();
    let began = Instant::now();
    let answer = one.store(key.clone(), found.version, Bytes::from_static(b"third")).await;
    assert!(matches!(answer, Err(LedgerError::Unavailable(_))), "{answer:?}");
    assert!(began.elapsed() < Duration::from_millis(500));
    server.restart();
    link.wait_for(|link| link.up).await.unwrap();
    assert_eq!(load(&one, &key).await.record, found.record);
}

#[tokio::test]
async fn a_confirmed_record_survives_kill_9_of_a_server_that_syncs() {
    let (_folder, mut server, bus) = ready("sync_interval: always").await;
    let one = ledger(&bus).await;
    let keys: Vec<AccountKey> = (0..20).map(|number| account(&format!("x{number}"))).collect();
    let mut versions = vec![0; keys.len()];
    for round in 0..3 {
        for (key, version) in keys.iter().zip(&mut versions) {
            let record = Bytes::from(format!("{round} of {}", key.account));
            *version = one.store(key.clone(), *version, record).await.unwrap();
        }
        server.kill();
        server.restart();
        let mut link = bus.link();
        link.wait_for(|link| link.up).await.unwrap();
        for (key, version) in keys.iter().zip(&versions) {
            let found = load_when_ready(&one, key).await;
            let record = format!("{round} of {}", key.account);
            assert_eq!((found.version, found.record.as_ref()), (*version, record.as_bytes()));
        }
    }
}

/// A server that has just started may not know its streams yet.
async fn load_when_ready(ledger: &NatsLedger, account: &AccountKey) -> Stored {
    let loaded = async {
        loop {
            match ledger.load(account.clone()).await {
                Ok(Some(found)) => return found,
                Ok(None) => panic!("the record is gone"),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), loaded).await.unwrap()
}
