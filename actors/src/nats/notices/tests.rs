//! Against a real server.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use tempfile::TempDir;
use tollgate_protos::Notice;

use super::super::tests::plan;
use super::*;
use crate::notify::{Kind, Way};
use crate::plan::NatsPlan;
use crate::testkit::nats_server::NatsServer;

fn outgoing() -> Arc<Outgoing> {
    let notice = Notice { id: "n1".into(), platform: Some("p".into()), ..Notice::default() };
    let json = serde_json::to_vec(&notice).unwrap().into();
    Arc::new(Outgoing { notice, kind: Kind::AccountHeld, json, made: Instant::now() })
}

/// What is counted of one notice that is published as a user who may publish that.
fn counted(denied: &str, then: impl Fn(&NatsServer)) -> (bool, bool) {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            crate::install_tls();
            let folder = TempDir::new().unwrap();
            let user = format!(
                "authorization {{ users: [ {{ user: u, password: p, permissions: {{ publish: {{ deny: \"{denied}\" }} }} }} ] }}"
            );
            let server = NatsServer::start(folder.path(), "", &user);
            let plan = NatsPlan { user: Some(("u".into(), "p".to_owned().into())), ..plan(&server) };
            let bus = Bus::connect(&plan, "test", false).await.unwrap();
            then(&server);
            let (way, end) = Way::new("nats");
            way.send(&outgoing());
            // It ends with the way.
            drop(way);
            publish(bus, end).await;
        });
    });
    let text = recorder.handle().render();
    let is =
        |what: &str| text.contains(&format!("tollgate_notices_{what}_total{{way=\"nats\"}} 1"));
    (is("sent"), is("dropped"))
}

#[test]
fn a_notice_that_the_server_has_is_counted_as_sent() {
    assert_eq!(counted("other.>", |_| {}), (true, false));
}

#[test]
fn a_notice_that_the_server_refuses_is_counted_as_lost() {
    assert_eq!(counted("tollgate.notice.>", |_| {}), (false, true));
}

#[test]
fn a_notice_to_a_server_that_does_not_answer_is_counted_as_lost() {
    assert_eq!(counted("other.>", |server| server.signal("STOP")), (false, true));
}
