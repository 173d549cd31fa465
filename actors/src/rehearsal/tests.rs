use std::path::Path;

use super::*;

const CONFIG: &str = r#"
[node]
name = "n"
[platforms.p]
base_url = "https://api.example.com/v1/"
headers = { X-Account = "{account}" }
auth = { bearer = "env:TOKEN" }
[platforms.p.limits]
gap = { per = ["account"], every = "5s" }
app = { per = ["platform"], max = 100, in = "1m", cost = { POST = 2 } }
[platforms.p.apis.report]
path = "report"
body = { json = { since = "{today|days(-1)}", limit = "{limit}" } }
idempotent = true
"#;

/// Plays a case on paused time.
fn played(config: &str, case: &str) -> Rehearsed {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config).unwrap();
    let env = without_secrets(config, std::iter::empty());
    let plan = crate::config::load(Some(file.path()), env.into_iter(), &[])
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .plan;
    let case = Case::parse(case, Path::new("/nonexistent")).unwrap();
    actix_rt::System::with_tokio_rt(runtime).block_on(async { rehearse(plan, &case).await })
}

const FETCH: &str = r#"
[fetch]
id = "f1"
platform = "p"
account = "act_1"
api = "report"
params = { limit = 10 }
"#;

#[test]
fn a_fetch_is_played_from_queue_to_object() {
    let case = format!(
        "{FETCH}
        [[answers]]
        status = 500
        text = \"no\"
        [[answers]]
        status = 429
        headers = {{ retry-after = \"60\" }}
        [[answers]]
        json = {{ rows = [1, 2] }}
        after = \"2s\"
        "
    );
    let first = played(CONFIG, &case);
    assert!(first.ended, "{}", first.report);
    let request = "  POST https://api.example.com/v1/report\n  content-type: application/json\n  \
         x-account: act_1\n  authorization: ***\n  body of 33 bytes: {\"since\":\"2026-11-19\",\"limit\":10}\n";
    let request = request.replace("33", &r#"{"since":"2026-11-19","limit":10}"#.len().to_string());
    assert_eq!(first.report.matches(&request).count(), 3, "{}", first.report);
    for line in [
        "fetch f1 of p/report for act_1, queued 2026-11-20T12:00:00Z\n",
        "a call counts 1 of gap, 2 of app (the platform)\n",
        "+0s: permit for call 1\n",
        "  answer 1: 500, 2 bytes\n",
        ": transient: the provider answered 500; again in ",
        "  answer 2: 429, 0 bytes\n",
        "  answer 3: 200, application/json, 14 bytes\n",
        ": ok: stored\n",
        "object p/report/act_1/2026-11-20/f1/00001.json.zst: 14 bytes, sha256 ",
        "done f1: status 200, 3 calls, 1 pages\n",
    ] {
        assert!(first.report.contains(line), "{line}{}", first.report);
    }
    assert_eq!(played(CONFIG, &case), first, "the same each time");
    assert!(
        !first.report.contains(STAND_IN) && !first.report.contains("TOKEN"),
        "{}",
        first.report
    );
}

#[test]
fn what_the_provider_shows_of_a_secret_is_not_shown() {
    let case = format!("{FETCH}\n[[answers]]\nstatus = 400\ntext = \"bad token secret-of-TOKEN!\"");
    let Rehearsed { report, ended } = played(CONFIG, &case);
    assert!(ended && report.contains("permanent: the provider answered 400\n"), "{report}");
    assert!(report.contains("dead f1: TG0201: the provider answered 400 (1 calls)\n"), "{report}");
    assert!(!report.contains("TOKEN"), "{report}");
}

#[test]
fn a_call_without_an_answer_stops_it() {
    let Rehearsed { report, ended } = played(CONFIG, FETCH);
    assert!(
        !ended && report.ends_with("stopped: no answer is recorded for this call\n"),
        "{report}"
    );
}

#[test]
fn answers_too_many_are_told_of() {
    let case = format!("{FETCH}\n[[answers]]\ntext = \"a\"\n[[answers]]\ntext = \"b\"");
    let Rehearsed { report, ended } = played(CONFIG, &case);
    assert!(ended && report.ends_with("1 recorded answer was not needed\n"), "{report}");
}

#[test]
fn calls_may_fail_without_an_answer() {
    let case = format!(
        "{FETCH}\n[[answers]]\nfails = \"broken\"\n[[answers]]\nfails = \"unreachable\"\n[[answers]]\nafter = \"2m\"\n[[answers]]\ntext = \"b\""
    );
    let Rehearsed { report, ended } = played(CONFIG, &case);
    assert!(ended, "{report}");
    for line in [
        "  answer 1: the connection breaks\n",
        ": unreachable: ",
        "  answer 3: none in time\n",
        "done f1",
    ] {
        assert!(report.contains(line), "{line}{report}");
    }
}

#[test]
fn a_fetch_that_cannot_be_called_is_refused_with_its_code() {
    let case = FETCH.replace("limit", "limits");
    let Rehearsed { report, ended } = played(CONFIG, &case);
    assert!(ended && report.starts_with("refused: TG0112: "), "{report}");
}

#[test]
fn what_is_no_case_says_where() {
    for (text, reason) in [
        ("", "missing field `fetch`"),
        ("[fetch]\n[[answers]]\nstatus = 99", "answer 1: status 99"),
        ("[fetch]\n[[answers]]\n[[answers]]\ntext = \"a\"\njson = 1", "answer 2: has one body"),
        ("[fetch]\n[[answers]]\nfile = \"x\"", "answer 1: /nonexistent/x cannot be read"),
        ("[fetch]\n[[answers]]\nafter = \"2\"", "answer 1: after: `2`"),
        ("[fetch]\n[[answers]]\nfails = \"broken\"\nstatus = 200", "answer 1: where a call fails"),
        ("[fetch]\n[[answers]]\nbody = \"x\"", "unknown field `body`"),
        ("queued_at = \"now\"\n[fetch]", "queued_at: `now`"),
        ("[fetch]\n[[answers]]\nheaders = { \"a b\" = \"c\" }", "answer 1: headers: `a b`"),
    ] {
        let error = Case::parse(text, Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}
