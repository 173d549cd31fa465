//! What a good configuration means.

use std::num::NonZeroU32;
use std::time::Duration;

use secrecy::ExposeSecret;
use tollgate_gate::{Cost, Guard, Rule, Span};

use super::*;
use crate::auth::{Kind, Reference};
use crate::codes::Code;
use crate::costs::Counts;
use crate::plan::{Compression, Format, StoreTarget};

/// As long as a provider needs to be.
const TEN_LINES: &str = r#"[platforms.kakao]
base_url = "https://apis.moment.kakao.com/openapi/v4"
headers = { adAccountId = "{account}" }
auth = { bearer = "env:TOKEN" }
[platforms.kakao.limits]
gap    = { per = ["account"], every = "5s" }
hourly = { per = ["account", "api"], max = 60, in = "1h" }
[platforms.kakao.apis.creative-report]
path = "creatives/report"
query = { creativeId = "{ids}", date = "{date|days(-1)}" }"#;

#[test]
fn ten_lines_suffice_for_a_provider() {
    assert_eq!(TEN_LINES.lines().count(), 10);
    let plan = plan(TEN_LINES);
    let kakao = plan.platforms.values().next().unwrap();
    assert_eq!(kakao.base_url.as_str(), "https://apis.moment.kakao.com/openapi/v4/");
    let auth = kakao.auth.as_ref().unwrap();
    assert!(matches!(&auth.pool[0].kind, Kind::Bearer(Reference::One(secret))
        if secret.get().unwrap().expose_secret() == "s3cret-value"));
    assert_eq!(kakao.lost_call, Duration::from_secs(60));
    assert_eq!(kakao.apis[0].timeouts.first_byte, Duration::from_secs(60));
    assert_eq!(kakao.apis[0].format, Format::Auto);
    let names: Vec<&String> = kakao.apis[0].params.names.iter().collect();
    assert_eq!(names, ["date", "ids"]);
    let limits = kakao.limits.limits();
    assert_eq!(limits.len(), 2);
    assert_eq!(limits[0].rule, Rule::Every { gap: Span::from_secs(5) });
    assert!(!limits[0].per_api && limits[1].per_api);
    let hour = Rule::Sliding { max: NonZeroU32::new(60).unwrap(), window: Span::from_secs(3600) };
    assert_eq!(limits[1].rule, hour);
}

#[test]
fn what_is_not_said_has_the_documented_default() {
    let plan = plan(BASE);
    assert_eq!(plan.data, Path::new("./tollgate-data"));
    assert!(is_file(&plan.store.target, "./tollgate-data"));
    assert_eq!(plan.store.key.text(), "{platform}/{api}/{account}/{date}/{id}/{page}.{ext}");
    assert_eq!(plan.store.compression, Compression::Zstd);
    assert!(!plan.store.fsync && !plan.node_name.is_empty());
    assert_eq!(plan.store.spool_bytes_max, 0);
    let collect = &plan.collect;
    assert_eq!((collect.concurrency, collect.attempts_max), (1024, 5));
    assert_eq!((collect.buffer_bytes_max, collect.body_bytes_max), (256 << 20, 8 << 30));
    assert_eq!(collect.drain, Duration::from_secs(30));
    assert!(collect.shards >= 1);
    let platform = plan.platforms.values().next().unwrap();
    assert_eq!(platform.limits.limits()[0].guard, Guard::Default);
}

#[test]
fn objects_go_to_the_data_folder_unless_told_otherwise() {
    let target = |text: &str| plan(&format!("{BASE}\n{text}")).store.target;
    assert!(is_file(&target("[node]\ndata = \"/var/t\""), "/var/t"));
    assert!(is_file(&target("[store]\nurl = \"file:o\""), "o"));
    assert!(is_file(&target("[store]\nurl = \"file:///srv/o\""), "/srv/o"));
    assert!(matches!(target("[store]\nurl = \"memory:\""), StoreTarget::Memory));
}

fn is_file(target: &StoreTarget, path: &str) -> bool {
    matches!(target, StoreTarget::File(found) if found == Path::new(path))
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{BASE}\n[collect]\nconcurrency = 5\nattempts_max = 3\ndrain = \"1s\"").unwrap();
    let pairs = [
        ("TOLLGATE__COLLECT__CONCURRENCY", "6"),
        ("TOLLGATE__COLLECT__ATTEMPTS_MAX", "4"),
        ("TOLLGATE__PLATFORMS__KAKAO__BASE_URL", "http://127.0.0.1:8080"),
        ("TOLLGATE__PLATFORMS__KAKAO__ALLOWED_HOSTS", "a.example.com, b.example.com:81"),
        ("TOLLGATE__STORE__FSYNC", "true"),
        ("TOLLGATE_LOG", "debug"),
        ("PATH", "/bin"),
    ];
    let overrides = [("collect.concurrency".to_owned(), "7".to_owned())];
    let plan = load(Some(file.path()), env(&pairs), &overrides).unwrap().plan;
    assert_eq!((plan.collect.concurrency, plan.collect.attempts_max), (7, 4));
    assert_eq!(plan.collect.drain, Duration::from_secs(1));
    assert!(plan.store.fsync);
    let platform = plan.platforms.values().next().unwrap();
    assert_eq!(platform.base_url.as_str(), "http://127.0.0.1:8080/");
    assert_eq!(platform.allowed_hosts, ["a.example.com", "b.example.com:81"]);
}

#[test]
fn a_mistake_in_the_environment_is_named_as_such() {
    for (name, value, key, code) in [
        ("TOLLGATE__COLLECT__CONCURENCY", "6", "collect.concurency", Code::UnknownKey),
        ("TOLLGATE__COLLECT__CONCURRENCY", " 6", "collect.concurrency", Code::WrongType),
        ("TOLLGATE__COLLECT__CONCURRENCY", "0x6", "collect.concurrency", Code::WrongType),
        ("TOLLGATE__A[999999999]", "6", "a[999999999]", Code::UnknownKey),
        ("TOLLGATE__", "6", "", Code::UnknownKey),
    ] {
        let mistakes = load_with(BASE, &[(name, value)]).unwrap_err();
        let found: Vec<_> = mistakes.list().iter().map(|m| (m.key.as_str(), m.code)).collect();
        assert_eq!(found, [(key, code)], "{name}");
        assert_eq!(mistakes.list()[0].file, "the environment", "{name}");
    }
}

#[test]
fn a_whole_configuration_can_come_from_the_environment() {
    let pairs = [
        ("TOLLGATE__PLATFORMS__P__BASE_URL", "https://x/"),
        ("TOLLGATE__PLATFORMS__P__APIS__A__PATH", "{account}"),
    ];
    let loaded = load(None, env(&pairs), &[]).unwrap();
    assert_eq!(loaded.plan.platforms.len(), 1);
    assert!(loaded.warnings[0].contains("no limits"), "{:?}", loaded.warnings);
}

#[test]
fn timeouts_are_laid_over_each_other() {
    let plan = plan(
        r#"
        [collect]
        timeouts = { connect = "1s" }
        [platforms.p]
        base_url = "https://x"
        timeouts = { first_byte = "2s" }
        apis.a = { path = "a", timeouts = { stall = "3s" } }
        apis.b = { path = "b", timeouts = { connect = "1500ms" } }
        "#,
    );
    let platform = plan.platforms.values().next().unwrap();
    let millis = |i: usize| {
        let t = platform.apis[i].timeouts;
        [t.connect.as_millis(), t.first_byte.as_millis(), t.stall.as_millis()]
    };
    assert_eq!(millis(0), [1000, 2000, 3000]);
    assert_eq!(millis(1), [1500, 2000, 30_000]);
}

#[test]
fn guards_and_own_limits_reach_the_gate() {
    let plan = plan(
        r#"
        [platforms.p]
        base_url = "https://x"
        guard = "never"
        limits.a = { per = ["account"], every = "5s" }
        limits.b = { per = ["account"], max = 3, in = "1m", guard = "100ms" }
        limits.c = { per = ["account"], concurrent = 2 }
        apis.x.path = "x"
        apis.y = { path = "y", limits = { own = { per = ["account", "api"], every = "9s" } } }
        "#,
    );
    let platform = plan.platforms.values().next().unwrap();
    let limits = platform.limits.limits();
    assert_eq!(limits[0].guard, Guard::Never);
    assert_eq!(limits[1].guard, Guard::After(Span::from_millis(100)));
    assert_eq!(limits[2].rule, Rule::Concurrent { max: NonZeroU32::new(2).unwrap() });
    let own = &limits[3];
    assert_eq!((own.name.as_str(), own.api, own.per_api), ("own", Some(1), false));
    assert_eq!(platform.api("y").unwrap().0, 1);
}

/// The rules of one platform's limits, as they are written.
fn rules(limits: &str) -> Vec<Rule> {
    let text = format!(
        "[platforms.p]\nbase_url = \"https://x\"\napis.x.path = \"x\"\n[platforms.p.limits]\n{limits}"
    );
    let plan = plan(&text);
    let platform = plan.platforms.values().next().unwrap();
    platform.limits.limits().iter().map(|limit| limit.rule).collect()
}

fn rule(text: &str) -> Rule {
    rules(&format!("a = {{ per = [\"account\"], {text} }}"))[0]
}

#[test]
fn every_kind_of_limit_is_read() {
    let max = |units| NonZeroU32::new(units).unwrap();
    let secs = Span::from_secs;
    let bucket = |burst, rate, per| Rule::Bucket { burst: max(burst), rate: max(rate), per };
    assert_eq!(rule("rate = \"50/s\", burst = 100"), bucket(100, 50, secs(1)));
    assert_eq!(rule("rate = \"300/m\""), bucket(1, 300, secs(60)));
    assert_eq!(rule("rate = \"10/5s\", burst = 2"), bucket(2, 10, secs(5)));
    let first = Rule::FirstUse { max: max(100), window: secs(900) };
    assert_eq!(rule("max = 100, in = \"15m\", anchor = \"first_use\""), first);
    let score = Rule::Score { max: max(60), decay: secs(300), block: secs(60) };
    assert_eq!(rule("score = 60, decay = \"300s\", block = \"1m\""), score);
    let jobs = Rule::Jobs { max: max(100), ttl: secs(3 * 3600) };
    assert_eq!(rule("jobs = 100, ttl = \"3h\""), jobs);
    let day = secs(86_400);
    let calendar =
        |calendar, window, slack| Rule::Calendar { max: max(9), window, slack, calendar };
    assert_eq!(
        rules(
            r#"
            a = { per = ["account"], max = 9, in = "1d", resets = "00:00 Asia/Seoul" }
            b = { per = ["account"], max = 9, in = "24h", resets = "00:00 Asia/Seoul" }
            c = { per = ["account"], max = 9, in = "1h", resets = "07:30 UTC", reset_slack = "5s" }
            d = { per = ["account"], max = 9, in = "10s", resets = "00:00:30 UTC" }
            "#
        ),
        [
            calendar(0, day, secs(2)),
            calendar(0, day, secs(2)), // the same resets
            calendar(1, secs(3600), secs(5)),
            calendar(2, secs(10), secs(1)), // a tenth of a short window
        ]
    );
}

#[test]
fn what_is_left_to_others_lowers_the_limit() {
    let left = |text: &str| rule(&format!("max = 90, in = \"1h\", {text}"));
    let sliding = |units| Rule::Sliding {
        max: NonZeroU32::new(units).unwrap(),
        window: Span::from_secs(3600),
    };
    assert_eq!(left("reserve = 10"), sliding(80));
    assert_eq!(left("reserve = \"10%\""), sliding(81));
    assert_eq!(left("reserve = 0.05"), sliding(85)); // 4.5 rounded up stay
    assert_eq!(left("share = \"50%\""), sliding(45));
    assert_eq!(left("share = 1"), sliding(90));
    assert_eq!(left("reserve = 40, share = 0.25"), sliding(12)); // 12.5 rounded down
    let gap = |text: &str| rule(&format!("every = \"6s\", {text}"));
    assert_eq!(gap("share = 0.5"), Rule::Every { gap: Span::from_secs(12) });
    assert_eq!(gap("reserve = \"25%\""), Rule::Every { gap: Span::from_secs(8) });
    let Rule::Bucket { burst, rate, per } = rule("rate = \"50/s\", burst = 100, share = 0.5")
    else {
        panic!("no bucket")
    };
    assert_eq!((burst.get(), rate.get(), per), (50, 50, Span::from_secs(2)));
}

#[test]
fn costs_reach_the_gate_by_limit_and_api() {
    let plan = plan(
        r#"
        [platforms.p]
        base_url = "https://x"
        limits.points = { per = ["account"], max = 60, in = "5m", cost = { GET = 2, POST = 3 } }
        limits.calls = { per = ["account"], max = 9, in = "1m" }
        limits.volume = { per = ["account"], max = "10GB", in = "1h", counts = "bytes", cost = 5 }
        limits.errors = { per = ["account"], max = 10, in = "1h", counts = "errors" }
        apis.list.path = "list"
        apis.report = { path = "r/{ids|join(',')}", costs = { points = "{ids|length}", calls = 0 } }
        "#,
    );
    let platform = plan.platforms.values().next().unwrap();
    let usual = [Cost::of(2), Cost::ONE, Cost::about(5), Cost::about(1)];
    assert_eq!(platform.costs.usual(0), usual);
    assert!(platform.costs.are_settled());
    // 10 GB are more units than there are numbers: three bytes are one.
    assert_eq!(platform.costs.counts[0], (2, Counts::Bytes { unit: 3 }));
    let account = crate::ids::Account::new("a").unwrap();
    let of = |ids: serde_json::Value| {
        let params = serde_json::Map::from_iter([("ids".to_owned(), ids)]);
        let fetch = crate::recipe::FetchContext {
            account: &account,
            id: "1",
            params: &params,
            queued_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let costs = platform.costs.of(&platform.limits, platform, 1, &fetch)?.to_vec();
        crate::costs::check(&platform.limits, 1, &costs).map(|()| costs)
    };
    let three = of(serde_json::json!(["a", "b", "c"])).unwrap();
    assert_eq!(three[..2], [Cost::of(3), Cost::FREE]);
    let too_many: Vec<u32> = (0..61).collect();
    let refused = of(serde_json::json!(too_many)).unwrap_err();
    assert_eq!(refused.code, Code::BadCost);
    assert_eq!(refused.reason, "it costs 61 of limit `points`, which allows 60 at most");
}

#[test]
fn the_order_of_the_file_is_kept() {
    let text = BASE.replace(
        "query = { creativeId = \"{ids}\" }",
        "query = { z = \"1\", a = \"2\", m = 3, b = true }\n[platforms.kakao.apis.aaa]\npath = \"a\"",
    );
    let plan = plan(&text);
    let apis = &plan.platforms.values().next().unwrap().apis;
    let names: Vec<&str> = apis[0].query.iter().map(|pair| pair.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "m", "b"]);
    assert_eq!(apis[1].name.as_str(), "aaa");
}

#[test]
fn secrets_come_from_files_without_their_last_line_break() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "s3cret\r\n").unwrap();
    let auth = format!(
        "auth = {{ header = \"X-Api-Key\", value = \"file:{}\" }}\n[platforms.kakao.limits]",
        file.path().display()
    );
    let plan = plan(&BASE.replace("[platforms.kakao.limits]", &auth));
    let auth = plan.platforms.values().next().unwrap().auth.clone();
    assert!(matches!(&auth.unwrap().pool[0].headers[..], [(name, Reference::One(secret))]
        if name == "x-api-key" && secret.get().unwrap().expose_secret() == "s3cret"));
}

#[test]
fn the_file_that_init_writes_is_a_configuration() {
    let loaded = load_with(init_text(), &[("EXAMPLE_TOKEN", "t0ken-value")]);
    let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let shown = describe(&loaded.plan);
    for part in [
        "GET https://api.example.com/v1/creatives/{kind}/report?ids={ids|join(',')}&date={date|days(-1)}&limit=500",
        "limit gap: at least 5s between two calls per account; guard 25ms (default)",
        "limit hourly: at most 60 calls in any 1h per account and api; guard 250ms (default)",
        "limit slots: at most 4 calls in flight per account",
        "limit strict: at most 1000 calls in any 24h per account; counted from the answer",
        "limit own_gap: at least 10s between two calls per account, of this api's calls",
        "authorization: Bearer ***",
        "kind (default \"daily\")",
        "example/creative-report/act_1/2026-11-20/fetch-1/00001.json.zst",
        "reports.example.com",
        "10s to connect, 5m to the answer's head",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert!(!shown.contains("t0ken"));
}

/// The commented keys of that file are what the defaults are.
#[test]
fn the_defaults_that_init_shows_are_the_defaults() {
    let shown: String = init_text()
        .lines()
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let is_key = bare
                .split_once(" = ")
                .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            let is_table = ["[nats]", "[http]", "[traces]", "[notify]"]
                .iter()
                .any(|table| bare.starts_with(table));
            if is_key || is_table { bare } else { line }.to_owned() + "\n"
        })
        .collect();
    let env = [("EXAMPLE_TOKEN", "t")];
    let with = load_with(&shown, &env).unwrap_or_else(|mistakes| panic!("{mistakes}")).plan;
    let without = load_with(init_text(), &env).unwrap().plan;
    assert_eq!(with.node_name, "node-a");
    assert_eq!(with.collect.shards, 2);
    let collect = |plan: &Plan| {
        format!("{:?}", crate::plan::CollectPlan { shards: 0, ..plan.collect.clone() })
    };
    assert_eq!(collect(&with), collect(&without));
    assert_eq!(format!("{:?}", with.store), format!("{:?}", without.store));
    assert_eq!(with.http, without.http);
    assert_eq!(with.log.per_second_max, without.log.per_second_max);
    assert!(without.traces.is_none() && without.notify.is_none());
    let defaults = plan(&format!("{BASE}\n[notify]")).notify;
    assert_eq!(with.notify, defaults);
    assert!(with.traces.as_ref().is_some_and(|traces| (traces.sample - 0.01).abs() < 1e-9));
    let first = |plan: &Plan| plan.platforms.values().next().unwrap().lost_call;
    assert_eq!(first(&with), first(&without));
}

#[test]
fn http_is_on_loopback_elsewhere_or_off() {
    let listen = |text: &str| {
        let plan = plan(&format!("{BASE}\n{text}"));
        plan.http.map(|http| http.listen.to_string())
    };
    assert_eq!(listen("").as_deref(), Some("127.0.0.1:9464"));
    assert_eq!(listen("[http]").as_deref(), Some("127.0.0.1:9464"));
    assert_eq!(listen("[http]\nlisten = \"[::]:80\"").as_deref(), Some("[::]:80"));
    assert_eq!(listen("[http]\nlisten = \"off\""), None);
}

#[test]
fn the_hash_follows_the_limits_and_nothing_else() {
    let base = plan(BASE).hash;
    assert_eq!(base.len(), 16);
    assert_eq!(plan(&format!("{BASE}\n[collect]\nattempts_max = 2")).hash, base);
    assert_ne!(plan(&BASE.replace("5s", "6s")).hash, base);
    assert_ne!(plan(&BASE.replace("gap =", "gap2 =")).hash, base);
    let guarded = BASE.replace("every = \"5s\"", "every = \"5s\", guard = \"1s\"");
    assert_ne!(plan(&guarded).hash, base);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let warnings = |text: &str| load_with(text, &[("T", "t")]).unwrap().warnings.join("\n");
    let slash = warnings(&BASE.replace("\"creatives/report\"", "\"/creatives/report\""));
    assert!(slash.contains("https://apis.example.com/openapi/v4/creatives/report"), "{slash}");
    let plain = BASE.replace("https://", "http://").replace(
        "[platforms.kakao.limits]",
        "auth = { bearer = \"env:T\" }\n[platforms.kakao.limits]",
    );
    assert!(warnings(&plain).contains("unencrypted"));
    assert_eq!(warnings(&plain.replace("apis.example.com", "127.0.0.1:8080")), "");
}

#[test]
fn sizes_are_read_in_both_kinds_of_units() {
    use super::super::values::parse_size;
    for (text, bytes) in
        [("1", 1), ("2 kB", 2000), ("1KiB", 1024), ("3MB", 3_000_000), ("8GiB", 8 << 30)]
    {
        assert_eq!(parse_size(text), Some(bytes), "{text}");
    }
    for text in
        ["", "MiB", "-1", "1.5GiB", "1 XB", "99999999999999999999", "99999999999GiB", "1mib"]
    {
        assert_eq!(parse_size(text), None, "{text}");
    }
}

#[test]
fn a_table_of_parquet_is_understood() {
    use tollgate_stage::{From, Kind, Mismatch, Moment, Step, Unknown};
    let text = r#"
[stage.offers]
from = "kakao/offers/"
records = "data.offers[]"
explode = ["legs[]", "legs.segments"]
partition = ["dt"]
sort = ["price"]
unknown = "add"
mismatch = "widen"
nulls = [""]
file_bytes = "64MiB"
follow = "5m"
[stage.offers.columns]
id = { type = "int64", required = true }
price = { path = "price.total", type = "decimal(12,2)", default = "0" }
"odd.name" = { path = ["odd.name"], type = "string" }
at = { type = "timestamp", format = ["unix_ms", "%d/%m/%Y, %H:%M"], zone = "Asia/Seoul" }
dt = { type = "date", input = "part.date" }
"#;
    let plan = plan(&format!("{BASE}{text}"));
    let stage = plan.stages.values().next().unwrap();
    assert_eq!((stage.from.as_ref(), stage.to.as_ref()), ("kakao/offers", "staged/offers"));
    assert!(stage.manifest);
    assert_eq!((stage.file_bytes, stage.follow), (64 << 20, Some(Duration::from_secs(300))));
    let table = &stage.table;
    assert_eq!(table.records.last(), Some(&Step::Each));
    assert_eq!(table.explode, [vec!["legs"], vec!["legs", "segments"]]);
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "price", "odd.name", "at", "dt"]);
    assert_eq!((&table.partition[..], &table.sort[..]), (&[4][..], &[1][..]));
    assert!(table.columns[0].required);
    assert_eq!(table.columns[1].kind, Kind::Decimal { digits: 12, behind: 2 });
    assert_eq!(table.columns[2].from, From::Path(vec!["odd.name".to_owned()]));
    assert_eq!(
        table.columns[3].kind,
        Kind::Timestamp {
            formats: vec![Moment::Unix(1000), Moment::Format("%d/%m/%Y, %H:%M".to_owned())],
            zone: "Asia/Seoul".to_owned(),
        }
    );
    assert_eq!(table.columns[4].from, From::Input("part.date".to_owned()));
    assert_eq!((table.unknown, table.mismatch), (Unknown::Add, Mismatch::Widen));
}

#[test]
fn what_init_shows_of_a_table_of_parquet_is_right() {
    let text = init_text();
    let lines = text.lines().skip_while(|line| *line != "# [stage.offers]");
    let lines = lines.map_while(|line| line.strip_prefix("# ")).collect::<Vec<_>>().join("\n");
    let plan = plan(&format!("{BASE}{lines}\n"));
    let stage = plan.stages.values().next().unwrap();
    assert_eq!((stage.table.columns.len(), &stage.table.partition[..]), (3, &[2][..]));
}

#[test]
fn every_mistake_of_a_table_of_parquet_is_told() {
    let text = r#"
[stage.offers]
from = "kakao/offers"
to = "kakao/offers/staged"
separator = "ab"
records = "data..x"
partition = ["day"]
unknown = "keep"
also = 1
[stage.offers.columns]
a = "integer"
b = { type = "decimal(39,2)" }
c = { type = "int64", format = "%Y" }
d = { type = "date", format = "yyyy" }
e = { type = "timestamp", format = "soon" }
f = { type = "string", input = "colour" }
g = { type = "string", path = "x", input = "key" }
h = { type = "string", zone = "UTC" }
i = { type = "string", path = "a..b" }
[stage.loose]
from = "loose"
manifest = false
follow = "500ms"
[stage.loose.columns]
id = "int64"
[stage.also]
from = "also"
manifest = false
follow = "5m"
[stage.also.columns]
id = "int64"
[stage.none]
"#;
    let mistakes = load_with(&format!("{BASE}{text}"), &[]).unwrap_err().to_string();
    for key in [
        "stage.offers.to",
        "stage.offers.separator",
        "stage.offers.records",
        "stage.offers.partition",
        "stage.offers.unknown",
        "stage.offers.also",
        "columns.a",
        "columns.b.type",
        "columns.c.format",
        "columns.d.format",
        "columns.e.format",
        "columns.f.input",
        "columns.g.input",
        "columns.h.zone",
        "columns.i.path",
        "stage.loose.follow",
        "stage.also.follow",
        "stage.none.from",
        "stage.none.columns",
    ] {
        assert!(mistakes.contains(key), "{key} is not in\n{mistakes}");
    }
}

#[test]
fn tables_of_parquet_that_would_remove_each_others_files_are_refused() {
    let table = |name: &str, from: &str, to: &str| {
        format!(
            "[stage.{name}]\nfrom = \"{from}\"\nto = \"{to}\"\n[stage.{name}.columns]\nid = \"int64\"\n"
        )
    };
    let told = |from: &str, to: &str| {
        let text = format!("{BASE}{}{}", table("a", "kakao/a", "staged/a"), table("b", from, to));
        load_with(&text, &[]).map(|_| ()).map_err(|mistakes| mistakes.to_string())
    };
    // The same objects may become several tables.
    told("kakao/a", "staged/ab").unwrap();
    for (from, to, whose) in [
        ("kakao/b", "staged/a", "`to` of stage.a"),
        ("kakao/b", "staged", "`to` of stage.a"),
        ("kakao/b", "staged/a/b", "`to` of stage.a"),
        ("staged/a", "other", "`to` of stage.a"),
        ("staged", "other", "`to` of stage.a"),
        ("kakao/b", "kakao/a/b", "`from` of stage.a"),
        ("x", "kakao", "`from` of stage.a"),
    ] {
        let mistakes = told(from, to).unwrap_err();
        assert!(
            mistakes.contains("stage.b.") && mistakes.contains(whose),
            "{from} {to}: {mistakes}"
        );
    }
}

#[test]
fn what_is_told_and_traced_is_checked_as_the_rest() {
    let mistake = |section: &str| {
        let mistakes = load_with(&format!("{BASE}\n{section}"), &[]).unwrap_err();
        (mistakes.list()[0].code, mistakes.list()[0].key.clone())
    };
    let told = [
        ("[log]\nlevel = \"loud\"", Code::BadValue, "log.level"),
        ("[log]\nper_second_max = -1", Code::BadValue, "log.per_second_max"),
        ("[traces]\nsample = 1", Code::MissingKey, "traces.endpoint"),
        ("[traces]\nendpoint = \"grpc://h:4317\"", Code::BadUrl, "traces.endpoint"),
        ("[traces]\nendpoint = \"http://a:b@h/\"", Code::InlineSecret, "traces.endpoint"),
        ("[traces]\nendpoint = \"http://h/\"\nsample = 2", Code::BadValue, "traces.sample"),
        ("[traces]\nendpoint = \"http://h/\"\nrate = 1", Code::UnknownKey, "traces.rate"),
    ];
    for (section, code, key) in told {
        assert_eq!(mistake(section), (code, key.to_owned()), "{section}");
    }
    let plan = plan(&format!("{BASE}\n[log]\nlevel = \"info, tollgate::fetch=DEBUG\""));
    assert_eq!(plan.log.level.unwrap().as_str(), "info,tollgate::fetch=debug");
}

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G";

#[test]
fn who_is_told_is_read_with_secrets_that_are_shown_nowhere() {
    let text = format!(
        r#"{BASE}
[notify]
held_after = "1h"
dead_over = 7
nats = false
[notify.webhooks.ops]
url = "env:OPS_URL"
headers = {{ Authorization = "env:OPS_TOKEN" }}
secret = "env:OPS_KEY"
timeout = "2s"
[notify.webhooks.pager]
url = "http://127.0.0.1:9/x"
"#
    );
    let url = "https://hooks.example.com/s3cret";
    let env = [("OPS_URL", url), ("OPS_TOKEN", "Bearer s3cret"), ("OPS_KEY", KEY)];
    let loaded = load_with(&text, &env).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let notify = loaded.plan.notify.clone().unwrap();
    let told = (notify.held_after.as_secs(), notify.dead_over, notify.nats);
    assert_eq!(told, (3600, 7, false));
    let ops = &notify.webhooks[0];
    assert_eq!((ops.name.as_str(), ops.url.as_str(), ops.timeout.as_secs()), ("ops", url, 2));
    assert_eq!(ops.headers[0].0, "authorization");
    assert_eq!(ops.key.as_ref().map(|key| key.expose_secret().len()), Some(30));
    let shown = format!("{:?}\n{}", loaded.plan, describe(&loaded.plan));
    assert!(!shown.contains("s3cret") && !shown.contains("MfKQ"), "{shown}");
    assert!(shown.contains("ops at https://hooks.example.com, signed"), "{shown}");
}

#[test]
fn what_is_wrong_with_who_is_told_is_found() {
    let webhook = |lines: &str| format!("[notify.webhooks.ops]\nurl = \"https://h/\"\n{lines}");
    let env =
        [("TOKEN", "t"), ("BAD", "no key"), ("SHORT", "whsec_c2hvcnQ="), ("NO_URL", "s3cret")];
    let cases = [
        ("[notify]\nheld_afte = \"1m\"".to_owned(), Code::UnknownKey, "notify.held_afte"),
        ("[notify]\nheld_after = \"1d\"".to_owned(), Code::BadDuration, "notify.held_after"),
        ("[notify]\ndead_over = 0".to_owned(), Code::BadValue, "notify.dead_over"),
        ("[notify]\nrepeat_after = \"1s\"".to_owned(), Code::BadDuration, "notify.repeat_after"),
        (
            "[notify.webhooks.Ops]\nurl = \"https://h/\"".to_owned(),
            Code::BadName,
            "notify.webhooks.Ops",
        ),
        ("[notify.webhooks.ops]".to_owned(), Code::MissingKey, "notify.webhooks.ops.url"),
        (
            "[notify.webhooks.ops]\nurl = \"ftp://h/\"".to_owned(),
            Code::BadUrl,
            "notify.webhooks.ops.url",
        ),
        (
            "[notify.webhooks.ops]\nurl = \"env:NO_URL\"".to_owned(),
            Code::BadUrl,
            "notify.webhooks.ops.url",
        ),
        (
            "[notify.webhooks.ops]\nurl = \"https://a:b@h/\"".to_owned(),
            Code::InlineSecret,
            "notify.webhooks.ops.url",
        ),
        (webhook("secret = \"whsec_inline\""), Code::InlineSecret, "notify.webhooks.ops.secret"),
        (webhook("secret = \"env:NONE\""), Code::SecretNotFound, "notify.webhooks.ops.secret"),
        (webhook("secret = \"env:BAD\""), Code::BadValue, "notify.webhooks.ops.secret"),
        (webhook("secret = \"env:SHORT\""), Code::BadValue, "notify.webhooks.ops.secret"),
        (
            webhook("headers = { Authorization = \"Bearer s3cret\" }"),
            Code::InlineSecret,
            "notify.webhooks.ops.headers.Authorization",
        ),
        (
            webhook("headers = { webhook-id = \"env:TOKEN\" }"),
            Code::BadValue,
            "notify.webhooks.ops.headers.webhook-id",
        ),
        (webhook("headers = { X = 1 }"), Code::WrongType, "notify.webhooks.ops.headers.X"),
        (webhook("retries = 3"), Code::UnknownKey, "notify.webhooks.ops.retries"),
    ];
    for (section, code, key) in cases {
        let mistakes = load_with(&format!("{BASE}\n{section}"), &env).unwrap_err();
        let first = &mistakes.list()[0];
        assert_eq!((first.code, first.key.as_str()), (code, key), "{section}: {mistakes}");
        assert!(!mistakes.to_string().contains("s3cret"), "{mistakes}");
    }
    let text = "[notify.webhooks.ops]\nurl = \"http://h/\"\nheaders = { A = \"env:TOKEN\" }";
    let loaded = load_with(&format!("{BASE}\n{text}"), &env).unwrap();
    assert!(loaded.warnings[0].contains("without encryption"), "{:?}", loaded.warnings);
}
