//! DONE, DEAD and ONCE: before the delete, and once only.

use std::path::Path;

use tollgate_protos::Object;

use super::*;
use crate::nats::setup;
use crate::nats::tests::plan;

#[tokio::test]
async fn an_ending_is_told_once_however_often_it_is_repeated() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let inner = &queue.0.inner;
    let lane = lane("meta.act_1.insights.high");
    let (one, two) = (store(&queue, &lane, "a").await, store(&queue, &lane, "b").await);
    // As after a crash between DONE and the delete: the fetch is there, and it is done again.
    inner.finish(&lane, Seq(99), ended("a", one)).await.unwrap();
    assert_eq!(first(&queue, &lane).await.len(), 2);
    for _ in 0..3 {
        queue.finish(lane.clone(), one, ended("a", one)).await.unwrap();
    }
    inner.tell_dead(inner.names().ended("dead", &lane), &letter("b", two)).await.unwrap();
    for _ in 0..3 {
        queue.finish(lane.clone(), two, Ending::Dead(Box::new(letter("b", two)))).await.unwrap();
    }
    assert_eq!(count(&inner.fetch).await, 0);
    let told = all(inner, &inner.done).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].subject.as_str(), "tollgate.done.meta.act_1.insights");
    assert_eq!(serde_json::from_slice::<Done>(&told[0].payload).unwrap().seq, one.0);
    let header = |name| told[0].headers.get(name).unwrap().as_str();
    assert_eq!(header("Nats-Msg-Id"), format!("{}:{one}", inner.fetch.created()));
    assert_eq!(header("Content-Type"), "application/json");
    let told = all(inner, &inner.dead).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].subject.as_str(), "tollgate.dead.meta.act_1.insights");
    assert_eq!(queue.name(), format!("TOLLGATE_FETCH@{}", inner.fetch.created()).into());
}

#[tokio::test]
async fn an_ending_of_another_fetch_under_the_same_number_is_told_too() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let inner = &queue.0.inner;
    let lane = lane("meta.act_1.insights");
    let seq = store(&queue, &lane, "a").await;
    // A server that lost its latest messages gives their numbers to others.
    queue.finish(lane.clone(), seq, ended("of a lost message", seq)).await.unwrap();
    queue.finish(lane.clone(), seq, ended("a", seq)).await.unwrap();
    queue.finish(lane.clone(), seq, ended("a", seq)).await.unwrap();
    assert_eq!(count(&inner.done).await, 3, "a repeat finds only the first of the number");
}

#[tokio::test]
async fn an_ending_of_the_same_id_of_another_account_under_the_same_number_is_told_too() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let inner = &queue.0.inner;
    let (lost, lane) = (lane("meta.act_1.insights"), lane("meta.act_2.insights"));
    let dies = |seq| Ending::Dead(Box::new(letter("b", seq)));
    let (one, two) = (store(&queue, &lane, "a").await, store(&queue, &lane, "b").await);
    // A server that lost its latest messages gives their numbers to others.
    queue.finish(lost.clone(), Seq(99), ended("a", one)).await.unwrap();
    inner.tell_dead(inner.names().ended("dead", &lost), &letter("b", two)).await.unwrap();
    queue.finish(lane.clone(), one, ended("a", one)).await.unwrap();
    queue.finish(lane.clone(), two, dies(two)).await.unwrap();
    for home in [&inner.done, &inner.dead] {
        let told = all(inner, home).await;
        let subjects: Vec<_> = told.iter().map(|one| one.subject.as_str()).collect();
        let ends = |account| subjects.iter().filter(|one| one.contains(account)).count();
        assert_eq!((ends("act_1"), ends("act_2")), (1, 1), "{subjects:?}");
    }
}

#[tokio::test]
async fn what_was_collected_once_is_known_by_its_id() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let (one, other) = (lane("meta.act_1.insights"), lane("meta.act_1.campaigns"));
    let seq = store(&queue, &one, "a").await;
    assert_eq!(queue.once(one.clone(), "a".into()).await.unwrap(), None);
    let told = done("a", seq);
    let ending = Ending::Done { done: Box::new(told.clone()), once: true };
    queue.finish(one.clone(), seq, ending).await.unwrap();
    assert_eq!(queue.once(one.clone(), "a".into()).await.unwrap(), Some(told.clone()));
    let urgent = lane("meta.act_1.insights.high");
    assert_eq!(queue.once(urgent, "a".into()).await.unwrap(), Some(told));
    assert_eq!(queue.once(other, "a".into()).await.unwrap(), None);
    assert_eq!(queue.once(one.clone(), "b".into()).await.unwrap(), None);
    let without = store(&queue, &one, "c").await;
    queue.finish(one.clone(), without, ended("c", without)).await.unwrap();
    assert_eq!(queue.once(one, "c".into()).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_server_is_named_as_such() {
    let (folder, server, bus) = ready("max_file_store: 4MB").await;
    let queue = NatsQueue::open(&bus).await.unwrap();
    let lane = lane("meta.act_1.insights");
    let large = Bytes::from(vec![b'x'; 200 * 1024]);
    let refused = async {
        for id in 0..100 {
            let large = NewFetch { payload: large.clone(), ..fetch(&lane, &id.to_string()) };
            if let Err(error) = queue.append(vec![large]).await {
                return error;
            }
        }
        panic!("20 MB in 4 MB");
    };
    let refused = refused.await.to_string();
    assert!(refused.contains("TG0405"), "{refused}");
    drop((folder, server));
}

#[tokio::test]
async fn a_queue_whose_server_is_gone_says_so_in_time() {
    let (queue, (_folder, mut server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let seq = store(&queue, &lane, "a").await;
    server.kill();
    let asked = tokio::join!(
        queue.first(lane.clone(), None, 1),
        queue.finish(lane.clone(), seq, ended("a", seq)),
        queue.lanes(None),
        queue.append(vec![fetch(&lane, "b")]),
    );
    let away = |error: QueueError| matches!(error, QueueError::Unavailable(_));
    assert!(away(asked.0.unwrap_err()) && away(asked.1.unwrap_err()));
    assert!(away(asked.2.unwrap_err()) && away(asked.3.unwrap_err()));
    server.restart();
    until("it answers again", async || queue.finish(lane.clone(), seq, ended("a", seq)).await.ok())
        .await;
    let left: Vec<_> = first(&queue, &lane).await.iter().map(|queued| queued.seq).collect();
    assert!(!left.contains(&seq), "it was finished");
}

#[tokio::test]
async fn an_id_with_line_breaks_is_a_header_all_the_same() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let seq = store(&queue, &lane, "a\r\nNats-Rollup: all\0").await;
    let again = queue.append(vec![fetch(&lane, "a\r\nNats-Rollup: all\0")]).await.unwrap();
    assert_eq!(again, [Appended::Waiting(seq)]);
    store(&queue, &lane, "a\n\nNats-Rollup: all\0").await;
}

#[tokio::test]
async fn a_letter_that_is_too_long_for_the_server_keeps_a_beginning() {
    let (queue, (_folder, _server, bus)) = open().await;
    let inner = &queue.0.inner;
    let lane = lane("meta.act_1.insights");
    let seq = store(&queue, &lane, "a").await;
    // In protobuf one byte each, in JSON six.
    let params = serde_json::json!({"q": "\u{1}".repeat(200 * 1024)});
    let mut dead = letter("a", seq);
    dead.fetch.as_mut().unwrap().params = params.as_object().unwrap().clone();
    dead.body_start = Some("x".repeat(2048));
    assert!(serde_json::to_vec(&dead).unwrap().len() > bus.client().max_payload());
    for _ in 0..2 {
        // As after a crash between DEAD and the delete.
        inner.tell_dead(inner.names().ended("dead", &lane), &dead).await.unwrap();
    }
    queue.finish(lane.clone(), seq, Ending::Dead(Box::new(dead.clone()))).await.unwrap();
    assert!(queue.bury([1; 16], dead.clone()).await.unwrap());
    assert_eq!(count(&inner.fetch).await, 0);
    let told = queue.dead(None, 10).await.unwrap();
    assert_eq!(told.len(), 2);
    for Letter { dead: told, .. } in told {
        assert_eq!((&told.code, &told.body_start), (&dead.code, &dead.body_start));
        assert!(told.reason.starts_with("no; ") && told.reason.contains("max_payload"), "{told:?}");
        let raw = told.raw.unwrap();
        assert!(told.fetch.is_none() && raw.len() == 2048 && raw.contains(r#""id":"a""#), "{raw}");
    }
}

#[tokio::test]
async fn an_ending_that_is_too_long_for_the_server_names_what_fits_and_the_manifest() {
    crate::install_tls();
    let folder = TempDir::new().unwrap();
    let server = NatsServer::start(folder.path(), "", "max_payload: 128KB\n");
    let plan = plan(&server);
    let bus = Bus::connect(&plan, "test", false).await.unwrap();
    setup(&bus, &plan, true).await.unwrap();
    let queue = NatsQueue::open(&bus).await.unwrap();
    let lane = lane("meta.act_1.insights");
    let object = |number: u32| Object {
        key: format!("p/a/f/00001.{number:03}.csv"),
        bytes: 2,
        sha256: "0".repeat(64),
        stored_bytes: 2,
        stored_sha256: None,
        // One byte each, in JSON six.
        member: Some("\u{1}".repeat(512)),
    };
    let objects: Vec<Object> = (0..256).map(object).collect();
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let whole = |seq| Done { objects: objects.clone(), labels: labels.clone(), ..done("a", seq) };
    assert!(serde_json::to_vec(&whole(Seq(1))).unwrap().len() > 5 * bus.client().max_payload());
    let seq = store(&queue, &lane, "a").await;
    let ending = Ending::Done { done: Box::new(whole(seq)), once: true };
    queue.finish(lane.clone(), seq, ending).await.unwrap();
    let inner = &queue.0.inner;
    assert_eq!(count(&inner.fetch).await, 0);
    let told = all(inner, &inner.done).await.pop().unwrap();
    let length = told.payload.len();
    assert!((126_000..=128 * 1024 - 512).contains(&length), "{length}");
    let told: Done = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!(told.manifest.as_deref(), Some("p/a/f/_manifest.json"));
    assert!(told.objects.len() > 30 && told.objects == objects[..told.objects.len()]);
    assert_eq!((told.labels.clone(), told.lists), (labels, 0));
    assert_eq!(queue.once(lane.clone(), "a".into()).await.unwrap(), Some(told));
    drop((folder, server));
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn no_fetch_goes_for_one_that_a_power_cut_took_together_with_its_number() {
    let (queue, (folder, mut server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let kept = store(&queue, &lane, "kept").await;
    let (store_dir, before) = (folder.path().join("jetstream"), folder.path().join("before"));
    server.kill();
    copy_all(&store_dir, &before);
    server.restart();
    let mut lost = Vec::new();
    for id in ["done", "dead", "aside"] {
        let again = async || queue.append(vec![fetch(&lane, id)]).await.ok();
        until("it is back", again).await;
        lost.push(first(&queue, &lane).await.pop().unwrap().seq);
    }
    server.kill();
    std::fs::remove_dir_all(&store_dir).unwrap();
    std::fs::rename(&before, &store_dir).unwrap();
    server.restart();
    let mut given_again = Vec::new();
    for id in ["x", "y", "z"] {
        let again = async || queue.append(vec![fetch(&lane, id)]).await.ok();
        let appended = until("it is back", again).await;
        let [Appended::New(seq) | Appended::Waiting(seq)] = appended[..] else { panic!() };
        given_again.push(seq);
    }
    assert_eq!(given_again, lost);
    let waiting = async || {
        let found = first(&queue, &lane).await;
        found.iter().map(|queued| queued.seq).collect::<Vec<_>>()
    };
    let all = [&[kept][..], &lost].concat();
    assert_eq!(waiting().await, all);
    // What was under way when the power went.
    let dies = |seq| Ending::Dead(Box::new(letter("dead", seq)));
    let far = clock::wall() + SignedDuration::from_hours(1);
    queue.finish(lane.clone(), lost[0], ended("done", lost[0])).await.unwrap();
    queue.finish(lane.clone(), lost[1], dies(lost[1])).await.unwrap();
    queue.postpone(lane.clone(), lost[2], far).await.unwrap();
    assert_eq!(waiting().await, all, "the others wait for their own turn");
    queue.finish(lane.clone(), kept, ended("kept", kept)).await.unwrap();
    queue.finish(lane.clone(), lost[0], ended("x", lost[0])).await.unwrap();
    queue.finish(lane.clone(), lost[1], dies(lost[1])).await.unwrap();
    queue.postpone(lane.clone(), lost[2], far).await.unwrap();
    assert_eq!(waiting().await, []);
    let inner = &queue.0.inner;
    assert_eq!((count(&inner.dead).await, count(&inner.aside).await), (1, 1));
    assert!(lock(&inner.seen).0.is_empty());
}

#[tokio::test]
async fn no_fetch_goes_for_one_of_a_stream_that_was_made_anew() {
    let (queue, (_folder, server, bus)) = open().await;
    let inner = &queue.0.inner;
    let lane = lane("meta.act_1.insights");
    let old = store(&queue, &lane, "old").await;
    assert_eq!(first(&queue, &lane).await[0].seq, old);
    bus.js().delete_stream(&inner.fetch.name).await.unwrap();
    setup(&bus, &plan(&server), true).await.unwrap();
    assert_eq!(store(&queue, &lane, "new").await, old);
    // As is done from time to time.
    inner.fetch.info().await.unwrap();
    queue.finish(lane.clone(), old, ended("old", old)).await.unwrap();
    assert_eq!(first(&queue, &lane).await.len(), 1);
    queue.finish(lane.clone(), old, ended("new", old)).await.unwrap();
    assert!(first(&queue, &lane).await.is_empty());
}
