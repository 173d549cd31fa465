//! A receiver on a socket that answers as it is told, and what it gets.

use std::sync::Mutex;
use std::time::Duration;

use http::HeaderName;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::super::sign::signature;
use super::super::webhook::Poster;
use super::*;
use crate::clock::Clock;
use crate::plan::WebhookPlan;

const KEY: &[u8] = b"a key of thirty-two bytes, no less";

/// What the receiver got: the head in lower case, and the body.
type Got = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Answers the requests in turn, the last answer to all further ones; nothing: it hangs.
async fn receiver(listener: TcpListener, answers: &'static [Option<&'static str>], got: Got) {
    let mut number = 0;
    'requests: loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        let (head, body) = loop {
            let mut piece = [0; 4096];
            let count = socket.read(&mut piece).await.unwrap();
            if count == 0 {
                continue 'requests;
            }
            bytes.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            let Some(end) = text.find("\r\n\r\n") else { continue };
            let length = text.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if bytes.len() >= end + 4 + length {
                break (text.split_at(end).0.to_owned(), bytes[end + 4..].to_vec());
            }
        };
        got.lock().unwrap().push((head, body));
        let answer = answers[number.min(answers.len() - 1)];
        number += 1;
        match answer {
            Some(answer) => {
                let text =
                    format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                socket.write_all(text.as_bytes()).await.unwrap();
            }
            None => drop(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(60)).await;
                drop(socket);
            })),
        }
    }
}

fn plan(port: u16) -> WebhookPlan {
    WebhookPlan {
        name: Slug::new("ops").unwrap(),
        url: format!("http://127.0.0.1:{port}/hook/s3cret-path").parse().unwrap(),
        headers: vec![(
            HeaderName::from_static("authorization"),
            SecretString::from("Bearer s3cret-token"),
        )],
        key: Some(KEY.to_vec().into_boxed_slice().into()),
        timeout: Duration::from_millis(300),
    }
}

fn outgoing(number: usize) -> Arc<Outgoing> {
    let notice =
        Notice { id: format!("n{number}"), what: "a1 is held".into(), ..Notice::default() };
    let json = serde_json::to_vec(&notice).unwrap().into();
    Arc::new(Outgoing { notice, kind: Kind::AccountHeld, json, made: Instant::now() })
}

/// Sends so many notices to a receiver that answers so, and what it got once it had so many requests.
fn posted(
    answers: &'static [Option<&'static str>],
    send: usize,
    wanted: usize,
) -> Vec<(String, Vec<u8>)> {
    actix_rt::System::new().block_on(async {
        crate::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Got::default();
        let serving = tokio::spawn(receiver(listener, answers, Arc::clone(&got)));
        let (way, end) = Way::new("ops");
        let posting = Poster::new(plan(port), end, &Clock::new()).unwrap().start();
        (0..send).for_each(|number| way.send(&outgoing(number)));
        let enough = async {
            while got.lock().unwrap().len() < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), enough).await.expect("as many requests as are wanted");
        // Whatever would come without being wanted.
        tokio::time::sleep(Duration::from_millis(200)).await;
        posting.end().await;
        serving.abort();
        got.lock().unwrap().clone()
    })
}

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {head}"))
}

#[test]
fn a_notice_is_posted_once_signed_and_with_its_headers() {
    let got = posted(&[Some("204 No Content")], 2, 2);
    assert_eq!(got.len(), 2);
    for (number, (head, body)) in got.iter().enumerate() {
        assert!(head.starts_with("post /hook/s3cret-path http/1.1"), "{head}");
        assert_eq!(header(head, "authorization"), "bearer s3cret-token");
        assert_eq!(header(head, "content-type"), "application/json");
        assert_eq!(header(head, "webhook-id"), format!("n{number}"));
        let seconds: i64 = header(head, "webhook-timestamp").parse().unwrap();
        assert!((Clock::new().wall().as_second() - seconds).abs() < 60);
        let signed = signature(KEY, &format!("n{number}"), seconds, body);
        assert_eq!(header(head, "webhook-signature"), signed.to_lowercase());
        let notice: Notice = serde_json::from_slice(body).unwrap();
        assert_eq!(notice.id, format!("n{number}"));
    }
}

#[test]
fn what_is_not_taken_is_posted_again_in_order_and_under_the_same_id() {
    // Busy, then nothing at all, then taken.
    let got = posted(&[Some("503 Busy"), None, Some("200 OK")], 2, 4);
    let ids: Vec<&str> = got.iter().map(|(head, _)| header(head, "webhook-id")).collect();
    assert_eq!(ids, ["n0", "n0", "n0", "n1"]);
    assert_eq!(got[0].1, got[2].1);
}

#[test]
fn a_redirect_is_not_followed_and_what_is_refused_is_not_posted_again() {
    let got =
        posted(&[Some("307 Elsewhere\r\nlocation: /other"), Some("400 No"), Some("200 OK")], 3, 3);
    let paths: Vec<&str> = got.iter().map(|(head, _)| head.split(' ').nth(1).unwrap()).collect();
    assert_eq!(paths, ["/hook/s3cret-path"; 3]);
    let ids: Vec<&str> = got.iter().map(|(head, _)| header(head, "webhook-id")).collect();
    assert_eq!(ids, ["n0", "n1", "n2"]);
}

#[test]
fn a_receiver_that_is_away_holds_up_nobody_and_gets_what_there_is_room_for_once_it_is_back() {
    actix_rt::System::new().block_on(async {
        crate::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (way, end) = Way::new("ops");
        let posting = Poster::new(plan(address.port()), end, &Clock::new()).unwrap().start();
        let began = Instant::now();
        (0..2 * WAITING_MAX).for_each(|number| way.send(&outgoing(number)));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let listener = TcpListener::bind(address).await.unwrap();
        let got = Got::default();
        let serving = tokio::spawn(receiver(listener, &[Some("200 OK")], Arc::clone(&got)));
        let enough = async {
            while got.lock().unwrap().len() < WAITING_MAX {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), enough).await.expect("what there was room for");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ids: Vec<String> = {
            let got = got.lock().unwrap();
            got.iter().map(|(head, _)| header(head, "webhook-id").to_owned()).collect()
        };
        // One may have been taken out before there was no room.
        assert!(ids.len() <= WAITING_MAX + 1, "{}", ids.len());
        let expected: Vec<String> = (0..ids.len()).map(|number| format!("n{number}")).collect();
        assert_eq!(ids, expected);
        posting.end().await;
        serving.abort();
    });
}

#[test]
fn a_node_that_ends_waits_for_no_receiver() {
    actix_rt::System::new().block_on(async {
        crate::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(receiver(listener, &[None], Got::default()));
        let (way, end) = Way::new("ops");
        let plan = WebhookPlan { timeout: Duration::from_secs(60), ..plan(port) };
        let posting = Poster::new(plan, end, &Clock::new()).unwrap().start();
        (0..3).for_each(|number| way.send(&outgoing(number)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        posting.end().await;
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        serving.abort();
    });
}

/// What is counted as sent and as lost of three notices, and what the receiver got, where the node ends while the first
/// one is posted.
fn ended(answers: &'static [Option<&'static str>]) -> ([bool; 2], Vec<String>) {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let got = Got::default();
    metrics::with_local_recorder(&recorder, || {
        actix_rt::System::new().block_on(async {
            crate::install_tls();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let serving = tokio::spawn(receiver(listener, answers, Arc::clone(&got)));
            let (way, end) = Way::new("ops");
            let plan = WebhookPlan { timeout: Duration::from_secs(60), ..plan(port) };
            let posting = Poster::new(plan, end, &Clock::new()).unwrap().start();
            (0..3).for_each(|number| way.send(&outgoing(number)));
            while got.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            posting.end().await;
            serving.abort();
        });
    });
    let text = recorder.handle().render();
    let is = |what| text.contains(&format!("tollgate_notices_{what}_total{{way=\"ops\"}} 3"));
    let ids =
        got.lock().unwrap().iter().map(|(head, _)| header(head, "webhook-id").to_owned()).collect();
    (["sent", "dropped"].map(is), ids)
}

#[test]
fn a_node_that_ends_posts_all_that_waits_once_more() {
    let (counted, ids) = ended(&[None, Some("200 OK")]);
    assert_eq!(ids, ["n0", "n0", "n1", "n2"]);
    assert_eq!(counted, [true, false]);
}

#[test]
fn what_is_not_taken_when_a_node_ends_is_counted_as_lost() {
    let (counted, ids) = ended(&[None]);
    assert_eq!(ids, ["n0", "n0"], "no time is left for the others");
    assert_eq!(counted, [false, true]);
}

#[test]
fn nothing_secret_of_a_webhook_is_shown() {
    let shown = format!("{:?}", plan(9));
    assert!(shown.contains("127.0.0.1:9") && !shown.contains("s3cret"), "{shown}");
}
