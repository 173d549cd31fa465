//! Against a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::nats::Link;
use crate::nats::own::{Following, OwnError};
use crate::nats::tests::{plan, ready};
use crate::tests::buckets;
use crate::tests::events::Events;

fn about(node: &str) -> About {
    About {
        node: node.into(),
        version: "0".into(),
        started: jiff::Timestamp::UNIX_EPOCH,
        config: "none".into(),
    }
}

async fn session(bus: &Bus) -> Session {
    Session::start(bus, SessionId::draw(), Vec::new(), &about("one")).await.unwrap()
}

#[tokio::test]
async fn a_session_shows_itself_and_lives_on_beyond_the_time_of_one_key() {
    let (_folder, server, bus) = ready("").await;
    let one = session(&bus).await;
    let shown = one.own().last(key(one.id())).await.unwrap().unwrap().value.unwrap();
    assert_eq!(serde_json::from_slice::<About>(&shown).unwrap(), about("one"));
    // Who starts at the same moment reads its limits, and waits for it.
    let shown = serde_json::from_slice::<Shown>(&shown).unwrap();
    assert_eq!((shown.takes, shown.heeds), (false, Some(Vec::new())));
    let other = Bus::connect(&plan(&server), "other", false).await.unwrap();
    let two = session(&other).await;
    sleep(LIVES + RENEW_EVERY).await;
    assert_eq!(two.look(one.id()).await.unwrap(), Writer::Alive);
    assert_eq!(two.look(two.id()).await.unwrap(), Writer::Here);
    let id = one.id();
    one.end().await.unwrap();
    sleep(SEEN_HOLDS).await;
    assert_eq!(two.look(id).await.unwrap(), Writer::Silent);
}

#[tokio::test]
async fn a_session_that_is_renewed_no_more_falls_silent_within_its_time() {
    let (_folder, _server, bus) = ready("").await;
    let (one, two) = (session(&bus).await, session(&bus).await);
    let id = one.id();
    drop(one);
    let dropped = Instant::now();
    assert_eq!(two.look(id).await.unwrap(), Writer::Alive);
    while two.look(id).await.unwrap() == Writer::Alive {
        assert!(dropped.elapsed() < LIVES + SEEN_HOLDS + Duration::from_secs(3));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(dropped.elapsed() + RENEW_EVERY + Duration::from_millis(500) >= LIVES);
    assert_eq!(two.look(id).await.unwrap(), Writer::Silent);
}

#[tokio::test]
async fn a_server_away_takes_the_session_and_its_return_brings_it_back_with_the_same_number() {
    let (_folder, mut server, bus) = ready("").await;
    let one = session(&bus).await;
    let two = session(&bus).await;
    let health = Arc::new(BackHealth::default());
    let watching = one.watch(Arc::clone(&health));
    let mut away = health.follow();
    assert!(one.is_held() && !health.is_away());
    // It does not answer, and the connection stands: only the renewals tell.
    server.signal("STOP");
    let stopped = Instant::now();
    timeout(Duration::from_secs(10), away.wait_for(|away| *away)).await.unwrap().unwrap();
    assert!(stopped.elapsed() + RENEW_EVERY >= LOST_AFTER, "{:?}", stopped.elapsed());
    assert!(!one.is_held());
    sleep((LIVES + RENEW_EVERY).saturating_sub(stopped.elapsed())).await;
    server.signal("CONT");
    timeout(Duration::from_secs(10), away.wait_for(|away| !away)).await.unwrap().unwrap();
    assert!(one.is_held());
    // Both keys had ended, through nobody's fault: neither counts the other as gone.
    assert_ne!(two.look(one.id()).await.unwrap(), Writer::Silent);
    // Now it breaks: told at once.
    server.kill();
    let killed = Instant::now();
    timeout(Duration::from_secs(10), away.wait_for(|away| *away)).await.unwrap().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    server.restart();
    timeout(Duration::from_secs(10), away.wait_for(|away| !away)).await.unwrap().unwrap();
    watching.abort();
}

#[tokio::test]
async fn what_ran_in_a_folder_before_is_over_and_its_key_is_taken_away() {
    let (_folder, _server, bus) = ready("").await;
    let folder = TempDir::new().unwrap();
    let file = SessionFile::open(folder.path()).unwrap();
    assert!(file.before.is_empty());
    let refused = SessionFile::open(folder.path()).unwrap_err();
    assert!(matches!(refused, StateError::Locked { .. }), "{refused}");
    let one = Session::start(&bus, file.id, file.before.clone(), &about("one")).await.unwrap();
    let first = file.id;
    drop((one, file));
    let file = SessionFile::open(folder.path()).unwrap();
    assert_eq!(file.before, [first]);
    assert_ne!(file.id, first);
    let third = session(&bus).await;
    assert_eq!(third.look(first).await.unwrap(), Writer::Alive);
    let two = Session::start(&bus, file.id, file.before.clone(), &about("two")).await.unwrap();
    assert_eq!(two.look(first).await.unwrap(), Writer::Dead);
    sleep(SEEN_HOLDS).await;
    assert_eq!(third.look(first).await.unwrap(), Writer::Silent, "its key is gone at once");
}

#[test]
fn a_folder_remembers_so_many_sessions_and_nothing_torn() {
    let folder = TempDir::new().unwrap();
    let mut all = Vec::new();
    for _ in 0..BEFORE_MAX + 3 {
        let file = SessionFile::open(folder.path()).unwrap();
        all.push(file.id);
    }
    let torn = std::fs::read_to_string(folder.path().join("sessions")).unwrap() + "zz\n\n";
    std::fs::write(folder.path().join("sessions"), torn).unwrap();
    let file = SessionFile::open(folder.path()).unwrap();
    assert_eq!(file.before, all[all.len() - BEFORE_MAX..]);
}

#[tokio::test]
async fn a_session_of_a_later_version_is_alive() {
    let (_folder, _server, bus) = ready("").await;
    let (one, later) = (session(&bus).await, SessionId::draw());
    assert_eq!(one.ask(later).await.unwrap(), None);
    let value = Some("not what we know".into());
    one.own()
        .write(Draft { key: key(later), value, lives: Some(LIVES), expected: 0 })
        .await
        .unwrap();
    assert!(matches!(one.ask(later).await.unwrap(), Some((_, false))));
}

#[tokio::test]
async fn a_key_that_had_ended_when_it_was_renewed_counts_as_a_renewal_that_failed() {
    let (_folder, _server, bus) = ready("").await;
    let one = session(&bus).await;
    assert!(one.confirm().await.unwrap());
    assert_eq!(one.steady_since(), Some(one.started()));
    let stream = bus.js().get_stream(bus.names().bucket_stream("OWN")).await.unwrap();
    stream.purge().await.unwrap();
    let purged = Instant::now();
    assert!(!one.confirm().await.unwrap());
    assert!(one.is_held() && one.steady_since().is_none());
    sleep(RENEW_EVERY * 2).await;
    assert!(one.steady_since().unwrap() > purged, "the next one was in time");
}

/// Whoever writes into it dies of it, once it is said.
#[derive(Debug)]
struct Fatal {
    own: Arc<dyn OwnBucket>,
    is: AtomicBool,
}

impl OwnBucket for Fatal {
    fn write(&self, draft: Draft) -> BoxFuture<'static, Result<Wrote, OwnError>> {
        assert!(!self.is.load(Ordering::Acquire), "told");
        self.own.write(draft)
    }

    fn last(&self, key: String) -> BoxFuture<'static, Result<Option<Entry>, OwnError>> {
        self.own.last(key)
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, OwnError>> {
        self.own.follow()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.own.link()
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_renewed_no_more_by_a_panic_is_noticed_at_once() {
    let events = Events::hear();
    let [own] = buckets();
    let fatal = Arc::new(Fatal { own, is: AtomicBool::new(false) });
    let (own, id) = (Arc::clone(&fatal) as Arc<dyn OwnBucket>, SessionId::draw());
    let (lease, owned) = (Lease::default(), Owned::default());
    let one = Session::start_on(own, id, Vec::new(), &about("one"), lease, owned).await.unwrap();
    assert!(timeout(LIVES * 2, one.died()).await.is_err(), "it is renewed");
    assert_eq!(events.count("session_died"), 0);
    fatal.is.store(true, Ordering::Release);
    timeout(RENEW_EVERY * 2, one.died()).await.unwrap();
    assert_eq!(events.count("session_died"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_late_holds_and_one_that_had_ended_begins_anew() {
    let ([own], owned) = (buckets(), Owned::nothing());
    let id = SessionId::draw();
    let lease = Lease::default();
    let one = Session::start_on(own, id, Vec::new(), &about("one"), lease, owned).await.unwrap();
    // Nobody renews it but this.
    one.renewing.abort();
    sleep(RENEW_EVERY * 2).await;
    assert!(one.confirm().await.unwrap());
    assert_eq!(one.whole_since(), Some(one.started()));
    sleep(LOST_AFTER).await;
    assert!(one.confirm().await.unwrap(), "its key still lives");
    assert_eq!(one.whole_since().unwrap().elapsed().as_millis(), 0);
    let before = one.whole_since();
    sleep(LIVES + RENEW_EVERY).await;
    assert!(!one.confirm().await.unwrap());
    assert!(one.whole_since() > before);
}
