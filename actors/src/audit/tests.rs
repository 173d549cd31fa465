use std::fmt::Write;

use proptest::prelude::*;

use super::*;

const CONFIG: &str = r#"
[platforms.p]
base_url = "https://a.example/v4/"
headers = { X-Account = "{account}" }
[platforms.p.limits]
gap = { per = ["account"], every = "5s", guard = "1s" }
two = { per = ["account", "api"], max = 2, in = "1m" }
slots = { per = ["account"], concurrent = 1 }
[platforms.p.apis.report]
path = "reports/{date}"
limits.slow = { per = ["account"], every = "10s" }
[platforms.p.apis.list]
path = "{account}/list"
"#;

fn audit(options: Options, log: &str) -> Report {
    let mut audit = Audit::new(options).unwrap();
    audit.read("log", log.as_bytes()).unwrap();
    audit.finish()
}

fn with(limits: &[&str]) -> Options {
    Options { limits: limits.iter().map(|&text| text.to_owned()).collect(), ..Options::default() }
}

fn verdicts(report: &Report) -> Vec<(&str, Verdict)> {
    report.limits.iter().map(|row| (row.limit.as_str(), row.verdict)).collect()
}

fn refused(options: Options) -> String {
    Audit::new(options).unwrap_err().to_string()
}

const GAP: &str = "gap = { per = [\"account\"], every = \"5s\" }";

#[test]
fn json_lines_prove_or_show_the_calls() {
    let log = "{\"account\":\"a\",\"at_ms\":1000}\n{\"account\":\"b\",\"at_ms\":1001}\n\
               {\"account\":\"a\",\"at_ms\":6002}\n";
    let report = audit(with(&[GAP]), log);
    assert!(report.proved, "{report:?}");
    assert_eq!((report.calls, report.limits[0].counters), (3, 2));
    let report = audit(with(&[GAP]), &(log.to_owned() + "{\"at_ms\":11000,\"account\":\"a\"}\n"));
    assert_eq!(verdicts(&report), [("gap", Verdict::Exceeded)]);
    let first = report.limits[0].first.as_ref().unwrap();
    assert_eq!(
        (first.account.as_deref(), first.count, first.within_seconds),
        (Some("a"), 2, 4.998)
    );
    let places: Vec<_> = first.calls.iter().map(|call| call.place.as_str()).collect();
    assert_eq!(places, ["log:3", "log:4"]);
}

#[test]
fn a_log_of_whole_seconds_leaves_open_what_it_cannot_show() {
    let line = |second: u32| {
        format!(
            "1.2.3.4 - a [10/Oct/2000:13:55:{second:02} -0700] \"GET /x HTTP/1.1\" 200 1 \"-\" \"-\"\n"
        )
    };
    let options = || Options { account: Some("$remote_user".into()), ..with(&[GAP]) };
    let report = audit(options(), &(line(1) + &line(6)));
    assert_eq!(verdicts(&report), [("gap", Verdict::Open)], "between 4 and 6 s apart");
    assert!(!report.proved);
    assert!(report.limits[0].why.as_ref().unwrap().contains("not enough to tell"), "{report:?}");
    assert!(audit(options(), &(line(1) + &line(7))).proved);
    assert_eq!(verdicts(&audit(options(), &(line(1) + &line(5)))), [("gap", Verdict::Exceeded)]);
}

#[test]
fn the_configuration_says_where_account_and_api_stand() {
    let form = "$msec $request_time $http_x_account \"$request\"";
    let options = || Options {
        config: Some(CONFIG.into()),
        form: Some(form.into()),
        stamped_at_end: true,
        sort_within: 60_000_000_000,
        ..Options::default()
    };
    let log = "100.500 0.500 a \"GET /v4/reports/2026 HTTP/1.1\"\n\
               105.200 0.100 - \"GET /v4/a/list HTTP/1.1\"\n\
               110.400 0.200 a \"GET /v4/reports/2027?x=1 HTTP/1.1\"\n\
               110.300 0.200 - \"GET /favicon.ico HTTP/1.1\"\n";
    let report = audit(options(), log);
    assert!(report.proved, "{report:?}");
    assert_eq!((report.calls, report.stepped_over), (3, 1));
    let counted: Vec<_> = report.limits.iter().map(|row| (row.limit.as_str(), row.calls)).collect();
    assert_eq!(counted, [("gap", 3), ("slots", 3), ("two", 3), ("report.slow", 2)]);
    // The last took so long that it began 4.9 s after the first, and was open while the list was read.
    let log = log.replace("110.400 0.200 a", "110.400 5.500 a");
    let report = audit(options(), &log);
    assert_eq!(
        verdicts(&report),
        [
            ("gap", Verdict::Exceeded),
            ("slots", Verdict::Exceeded),
            ("two", Verdict::Proved),
            ("report.slow", Verdict::Exceeded)
        ]
    );
    let report = audit(Options { only: vec!["two".into()], ..options() }, &log);
    assert!(report.proved);
    // Both the end and the time it took are cut off: the start is known to 2 ms.
    let near = log.replace("110.400 5.500 a", "110.400 0.299 a");
    let report = audit(Options { only: vec!["gap".into()], ..options() }, &near);
    assert_eq!(verdicts(&report), [("gap", Verdict::Open)], "5.001 s after the list");
}

#[test]
fn calls_at_once_need_to_know_how_long_calls_took() {
    let slots = with(&["slots = { per = [\"account\"], concurrent = 1 }"]);
    let report = audit(slots.clone(), "{\"account\":\"a\",\"at\":1.5}\n");
    assert_eq!(report.limits[0].verdict, Verdict::Open);
    let log = "{\"account\":\"a\",\"at_ms\":1500,\"took_ms\":700}\n{\"account\":\"a\",\"at_ms\":2300,\"took_ms\":1}\n";
    assert!(audit(slots, log).proved);
}

#[test]
fn limits_of_a_kind_that_is_not_known_here_are_never_called_proved() {
    let config = CONFIG.to_owned()
        + "[platforms.p.limits.odd]\nper = [\"account\"]\nscore = 60\ndecay = \"300s\"\n\
           [platforms.p.limits.points]\nper = [\"account\"]\nmax = 60\nin = \"1h\"\ncost = 3\n\
           [platforms.p.limits.egress]\nper = [\"ip\"]\nmax = 60\nin = \"1h\"\n";
    let options = Options {
        config: Some(config),
        only: ["odd", "points", "egress"].map(str::to_owned).into(),
        ..Options::default()
    };
    let report = audit(options, "{\"account\":\"a\",\"at\":1.5}\n");
    assert!(report.limits.iter().all(|row| row.verdict == Verdict::Open), "{report:?}");
    let why: Vec<_> = report.limits.iter().map(|row| row.why.clone().unwrap()).collect();
    assert!(why[0].contains("`ip`") || why.iter().any(|why| why.contains("`ip`")), "{why:?}");
    assert!(why.iter().any(|why| why.contains("`cost`")), "{why:?}");
}

#[test]
fn lines_that_cannot_be_read_or_come_too_late_keep_it_from_being_proved() {
    let good = "{\"account\":\"a\",\"at_ms\":1000}\n{\"account\":\"a\",\"at_ms\":9000}\n";
    let report = audit(with(&[GAP]), &(good.to_owned() + "{\"account\":\"a\",\n"));
    assert_eq!((report.proved, report.unreadable), (false, 1));
    assert!(report.unreadable_first[0].starts_with("log:3: it is not JSON"), "{report:?}");
    let late = "{\"account\":\"a\",\"at_ms\":100000}\n".to_owned() + good;
    let report = audit(with(&[GAP]), &late);
    assert_eq!((report.proved, report.unsorted), (false, 2));
    let report = audit(Options { sort_within: 100_000_000_000, ..with(&[GAP]) }, &late);
    assert!(report.proved, "{report:?}");
    assert!(!audit(with(&[GAP]), "").proved, "nothing is no proof");
}

#[test]
fn our_own_log_tells_of_permits_half_a_second_before_their_calls() {
    let line = |at: &str, event: &str| {
        format!(
            "{{\"timestamp\":\"2026-11-21T00:00:{at}Z\",\"level\":\"DEBUG\",\"event\":\"{event}\",\
                 \"platform\":\"p\",\"account\":\"a\",\"api\":\"list\"}}\n"
        )
    };
    let log = line("00.100", "permit") + &line("00.101", "fetch_done") + &line("05.300", "permit");
    let report = audit(with(&[GAP]), &log);
    assert!(report.permits);
    assert_eq!((report.calls, report.stepped_over), (2, 1));
    assert_eq!(report.limits[0].verdict, Verdict::Open, "5.2 s apart, each up to 0.5 s later");
    let log = line("00.100", "permit") + &line("05.700", "permit");
    assert!(audit(with(&[GAP]), &log).proved);
}

#[test]
fn a_large_unordered_log_is_read_in_pieces_and_gzip_is_unpacked() {
    let mut log = String::new();
    for n in 0..20_000_u64 {
        // Neighbours are swapped; each account calls every 5.05 s.
        let n = n ^ 1;
        writeln!(log, "{{\"account\":\"a{}\",\"at_us\":{}}}", n % 50, n * 101_000).unwrap();
    }
    let options = || Options { sort_within: 1_000_000_000, ..with(&[GAP]) };
    let report = audit(options(), &log);
    assert!(report.proved, "{report:?}");
    assert_eq!((report.calls, report.limits[0].counters), (20_000, 50));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, log.as_bytes()).unwrap();
    let mut audit = Audit::new(options()).unwrap();
    audit.read("log.gz", &packed.finish().unwrap()[..]).unwrap();
    assert_eq!(audit.finish().calls, 20_000);
}

#[test]
fn daily_and_bucket_limits_are_counted_as_declared() {
    let day = "day = { per = [\"account\"], max = 1, in = \"1d\", resets = \"00:00 Asia/Seoul\" }";
    let at = |time: &str| format!("{{\"account\":\"a\",\"time\":\"2026-11-21T{time}Z\"}}\n");
    // Midnight in Seoul is 15:00 UTC.
    assert!(audit(with(&[day]), &(at("14:59:59.900") + &at("15:00:00.100"))).proved);
    let report = audit(with(&[day]), &(at("15:00:00.100") + &at("23:00:00.000")));
    assert_eq!(verdicts(&report), [("day", Verdict::Exceeded)]);
    let bucket = "burst = { per = [\"account\"], rate = \"2/s\", burst = 3 }";
    let calls = |ms: &[u32]| -> String {
        let lines: Vec<String> =
            ms.iter().map(|ms| format!("{{\"account\":\"a\",\"at_ms\":{ms}}}")).collect();
        lines.join("\n")
    };
    let exact = || Options { step: Some(0), ..with(&[bucket]) };
    assert!(audit(exact(), &calls(&[0, 0, 0, 500, 1000])).proved);
    assert_eq!(verdicts(&audit(exact(), &calls(&[0, 0, 0, 499]))), [("burst", Verdict::Exceeded)]);
}

#[test]
fn every_mistake_says_what_is_wrong() {
    let config = |text: &str| Options { config: Some(text.into()), ..Options::default() };
    let cases = [
        (Options::default(), "no limit"),
        (config("platforms = 1"), "declares no platforms"),
        (config("= x"), "not TOML"),
        (config("[platforms.a]\n[platforms.b]\n"), "--platform"),
        (Options { platform: Some("q".into()), ..config(CONFIG) }, "no platform `q`"),
        (Options { only: vec!["q".into()], ..config(CONFIG) }, "gap, slots, two"),
        (with(&["gap = 5"]), "it is no table"),
        (with(&["gap = { every = \"0s\" }"]), "a duration with its unit"),
        (with(&["gap = { max = 0, in = \"1s\" }"]), "whole number from 1"),
        (with(&["gap = { max = 5 }"]), "without `in`"),
        (with(&["gap = { max = 5, in = \"1d\" }"]), "a duration with its unit"),
        (
            with(&["d = { max = 5, in = \"1d\", resets = \"00:00 Asia/Soul\" }"]),
            "no time zone `Asia/Soul`",
        ),
        (with(&["b = { rate = \"50\" }"]), "as \"50/s\""),
        (Options { account: Some("path:/a/b".into()), ..with(&[GAP]) }, "a path has a place"),
        (Options { account: Some("path:/{api}".into()), ..with(&[GAP]) }, "it has no {account}"),
        (Options { time: Some("at:min".into()), ..with(&[GAP]) }, "s, ms, us or ns"),
        (Options { form: Some("$request".into()), ..with(&[GAP]) }, "it has no time"),
        (Options { form: Some("$msec$request".into()), ..with(&[GAP]) }, "side by side"),
    ];
    for (options, wanted) in cases {
        let text = refused(options);
        assert!(text.starts_with("TG0320: ") && text.contains(wanted), "{wanted}: {text}");
    }
}

/// A line of a known form with some of its bytes replaced, cut off or repeated.
fn torn_line() -> impl Strategy<Value = Vec<u8>> {
    let good = [
        r#"{"account":"a","at_us":1800000000000000,"took_ms":3,"api":"list","x":[1,{"y":null}]}"#,
        r#"{"account":"a","time":"2026-11-21T00:00:00.123Z","path":"/v4/a/list?x=1"}"#,
        r#"1.2.3.4 - a [10/Oct/2000:13:55:36 -0700] "GET /v4/a/list HTTP/1.1" 200 1 "-" "-""#,
    ];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5);
    (prop::sample::select(good.to_vec()), edits, any::<prop::sample::Index>()).prop_map(
        |(line, edits, end)| {
            let mut line = line.as_bytes().to_vec();
            for (place, byte) in edits {
                let place = place.index(line.len());
                line[place] = byte;
            }
            line.truncate(end.index(line.len() * 3).max(1));
            line
        },
    )
}

proptest! {
    #[test]
    fn no_line_whatever_brings_it_down_and_each_is_counted_once(
        lines in prop::collection::vec(
            prop_oneof![torn_line(), prop::collection::vec(any::<u8>(), 0..80)], 0..20),
    ) {
        let mut audit = Audit::new(Options {
            config: Some(CONFIG.into()),
            sort_within: 1_000_000_000,
            ..Options::default()
        }).unwrap();
        let log = lines.join(&b'\n');
        audit.read("log", &log[..]).unwrap();
        let report = audit.finish();
        let told = report.calls + report.unsorted + report.stepped_over + report.unreadable;
        prop_assert_eq!(told, report.lines);
        prop_assert!(!(report.proved && report.unreadable > 0));
    }
}

#[test]
fn limits_wider_than_an_account_are_counted_where_their_key_is_known() {
    let config = "[platforms.p]\nbase_url = \"https://a.example/\"\n\
        headers = { X-Account = \"{account}\" }\n\
        keys = { app = \"main\", user = \"{account}\", region = \"{region}\" }\n\
        [platforms.p.limits]\n\
        all = { per = [\"platform\"], max = 3, in = \"10s\" }\n\
        app = { per = [\"app\"], max = 3, in = \"10s\" }\n\
        user = { per = [\"user\"], max = 2, in = \"10s\" }\n\
        region = { per = [\"region\"], max = 3, in = \"10s\" }\n\
        reports = { per = [\"platform\"], max = 1, in = \"10s\", when = { api = [\"report\"] } }\n\
        days = { per = [\"platform\"], max = 1, in = \"10s\", when = { params = { days = \"1\" } } }\n\
        [platforms.p.apis.report]\npath = \"report\"\n[platforms.p.apis.list]\npath = \"list\"\n";
    let options = || Options { config: Some(config.into()), ..Options::default() };
    let line = |account: &str, path: &str, at: u32| {
        format!("{{\"account\":\"{account}\",\"path\":\"/{path}\",\"at_ms\":{at}}}\n")
    };
    let log = [line("a", "report", 0), line("b", "list", 1000), line("c", "list", 2000)].concat();
    let kept = ["all", "app", "user", "reports"];
    let report = audit(options(), &log);
    for (name, verdict) in verdicts(&report) {
        let wanted = if kept.contains(&name) { Verdict::Proved } else { Verdict::Open };
        assert_eq!(verdict, wanted, "{name}");
    }
    let why = |name: &str| {
        let row = report.limits.iter().find(|row| row.limit == name).unwrap();
        row.why.clone().unwrap()
    };
    assert!(why("region").contains("does not tell the `region`"), "{}", why("region"));
    assert!(why("days").contains("does not tell which"), "{}", why("days"));
    // One more of another account: too many of the platform, and of the app, whose only value all calls have.
    let more = log.clone() + &line("d", "list", 3000);
    let exceeded = |log: &str| -> Vec<String> {
        let report = audit(options(), log);
        let broken = report.limits.into_iter().filter(|row| row.verdict == Verdict::Exceeded);
        broken.map(|row| row.limit).collect()
    };
    assert_eq!(exceeded(&log), [""; 0]);
    assert_eq!(exceeded(&more), ["all", "app"]);
    let again = log.replace("/list", "/report");
    assert_eq!(exceeded(&again), ["reports"]);
    let same = log.replace("\"b\"", "\"a\"").replace("\"c\"", "\"a\"");
    assert_eq!(exceeded(&same), ["user"]);
}
