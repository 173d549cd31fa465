use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpListener;
use tollgate_protos::{Fetch, Priority};
use url::Url;

use super::otlp::ExportTraceServiceRequest;
use super::*;
use crate::ids::{Account, AccountKey, LaneKey, Seq, Slug};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn item(origin: u64, label: Option<&str>) -> Item {
    let slug = |text: &str| Slug::new(text).unwrap();
    let account = AccountKey { platform: slug("p"), account: Account::new("a").unwrap() };
    let labels: BTreeMap<String, String> =
        label.map(|label| (TRACEPARENT.to_owned(), label.to_owned())).into_iter().collect();
    Item {
        lane: LaneKey { account, api: slug("report"), priority: Priority::Normal },
        seq: Seq(origin),
        origin: Seq(origin),
        queued_at: Timestamp::UNIX_EPOCH,
        id: "one".to_owned(),
        fetch: Fetch { labels, ..Fetch::default() },
        budgets: Box::default(),
        generation: crate::plan::Generation(0),
    }
}

fn plan(endpoint: &str, sample: f64) -> TracePlan {
    TracePlan { endpoint: Url::parse(endpoint).unwrap(), sample }
}

#[test]
fn a_traceparent_is_read_as_w3c_has_it_and_nothing_else() {
    let (trace, span, sampled) = parent_of(PARENT).unwrap();
    assert_eq!((trace[0], trace[15], span[0], span[7], sampled), (0x4b, 0x36, 0x00, 0xb7, true));
    assert!(!parent_of(&PARENT.replace("-01", "-00")).unwrap().2);
    assert!(parent_of(&PARENT.replacen("00-", "01-", 1).replace("-01", "-01-more")).is_some());
    for bad in [
        "",
        "00",
        &PARENT.replace("-01", ""),
        &PARENT.replace("-01", "-01-more"),
        &PARENT.replacen("00-", "ff-", 1),
        &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
        &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
        &PARENT.replace("4bf9", "4BF9"),
        &PARENT.replace("4bf9", "ü4"),
    ] {
        assert_eq!(parent_of(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn ids_are_those_of_the_fetch_and_the_publisher_decides_what_is_traced() {
    assert_eq!(Ids::of(&item(1, None)), Ids::of(&item(1, None)));
    assert_ne!(Ids::of(&item(1, None)).trace, Ids::of(&item(2, None)).trace);
    let told = Ids::of(&item(1, Some(PARENT)));
    assert_eq!(told.fetch, Ids::of(&item(1, None)).fetch);
    assert_eq!((told.trace[0], told.parent.unwrap()[7]), (0x4b, 0xb7));
    crate::install_tls();
    let clock = Clock::new();
    let of = |sample, label| {
        let (traces, _exporter) =
            Traces::new(&plan("http://127.0.0.1:1/", sample), "n", &clock).unwrap();
        (0..1000).filter(|origin| traces.of(&item(*origin, label)).is_some()).count()
    };
    assert_eq!((of(0.0, None), of(1.0, None)), (0, 1000));
    let some = of(0.1, None);
    assert!((50..200).contains(&some), "{some}");
    assert_eq!(of(0.0, Some(PARENT)), 1000);
    let unsampled = PARENT.replace("-01", "-00");
    assert_eq!(of(1.0, Some(&unsampled)), 0);
}

/// A collector that answers one status after the other, and keeps what it was sent.
async fn collector(statuses: Vec<u16>) -> (Url, mpsc::UnboundedReceiver<Bytes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        let statuses = std::rc::Rc::new(std::cell::RefCell::new(statuses.into_iter()));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tell, statuses) = (tell.clone(), std::rc::Rc::clone(&statuses));
            let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (tell, statuses) = (tell.clone(), std::rc::Rc::clone(&statuses));
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    tell.send(body).unwrap();
                    let status = statuses.borrow_mut().next().unwrap_or(200);
                    let answer = hyper::Response::builder().status(status);
                    answer.body(Full::new(Bytes::new()))
                }
            });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::task::spawn_local(async move {
                serving.serve_connection(TokioIo::new(stream), answer).await.ok();
            });
        }
    });
    (Url::parse(&url).unwrap(), told)
}

#[test]
fn spans_are_sent_in_batches_again_after_503_and_the_last_ones_at_the_end() {
    actix_rt::System::new().block_on(async {
        crate::install_tls();
        let (endpoint, mut told) = collector(vec![503, 200, 400, 200]).await;
        let clock = Clock::new();
        let plan = TracePlan { endpoint, sample: 1.0 };
        let (traces, exporter) = Traces::new(&plan, "node-a", &clock).unwrap();
        let exporting = exporter.start();
        let trace = traces.of(&item(1, None)).unwrap();
        for calls in 0..3 {
            trace.fetch(&item(1, None), calls, None);
        }
        let first = told.recv().await.unwrap();
        assert_eq!(told.recv().await.unwrap(), first, "the same again after 503");
        let request = ExportTraceServiceRequest::decode(first).unwrap();
        assert_eq!(request.resource_spans[0].scope_spans[0].spans.len(), 3);
        // A refusal for good is not tried again.
        trace.fetch(&item(1, None), 7, Some("TG0205".into()));
        let refused = ExportTraceServiceRequest::decode(told.recv().await.unwrap()).unwrap();
        let span = &refused.resource_spans[0].scope_spans[0].spans[0];
        assert_eq!(span.status.as_ref().unwrap().message, "TG0205");
        trace.fetch(&item(1, None), 8, None);
        exporting.end().await;
        let last = ExportTraceServiceRequest::decode(told.try_recv().unwrap()).unwrap();
        assert_eq!(last.resource_spans[0].scope_spans[0].spans.len(), 1);
        assert!(told.try_recv().is_err());
    });
}

#[test]
fn a_full_queue_drops_spans_and_waits_for_nobody() {
    actix_rt::System::new().block_on(async {
        crate::install_tls();
        let clock = Clock::new();
        let (traces, _exporter) =
            Traces::new(&plan("http://127.0.0.1:1/", 1.0), "n", &clock).unwrap();
        let trace = traces.of(&item(1, None)).unwrap();
        for _ in 0..SPANS_MAX + 100 {
            trace.fetch(&item(1, None), 1, None);
        }
        assert_eq!(traces.spans.capacity(), 0);
    });
}
