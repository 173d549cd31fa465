//! Each mistake has its code, its key and its own message, and all of them are found at once.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::*;

/// Text to add to [`BASE`], the code that it must give, and the key.
const TABLE: &[(&str, Code, &str)] = &[
    ("[colect]\nconcurrency = 5", Code::UnknownKey, "colect"),
    ("[collect]\nconcurency = 5", Code::UnknownKey, "collect.concurency"),
    ("[collect]\nconcurrency = 0", Code::BadValue, "collect.concurrency"),
    ("[collect]\nconcurrency = -3", Code::BadValue, "collect.concurrency"),
    ("[collect]\nconcurrency = \"many\"", Code::WrongType, "collect.concurrency"),
    ("[collect]\nattempts_max = 101", Code::BadValue, "collect.attempts_max"),
    ("[collect]\ndrain = 30", Code::BadDuration, "collect.drain"),
    ("[collect]\ndrain = \"1d\"", Code::BadDuration, "collect.drain"),
    ("[collect]\nbuffer_bytes_max = \"256 MeB\"", Code::BadSize, "collect.buffer_bytes_max"),
    ("[collect]\nbody_bytes_max = true", Code::WrongType, "collect.body_bytes_max"),
    (
        "[collect]\ntimeouts = { first_bite = \"3s\" }",
        Code::UnknownKey,
        "collect.timeouts.first_bite",
    ),
    ("[collect]\ntimeouts = { stall = \"2h\" }", Code::BadDuration, "collect.timeouts.stall"),
    ("[collect]\ntimeouts = \"3s\"", Code::WrongType, "collect.timeouts"),
    ("[node]\nname = \"\"", Code::BadValue, "node.name"),
    ("[store]\nurl = \"az:container\"\naccount = \"abc\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"gs://-bucket\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"gs://bucket\"\nregion = \"r\"", Code::BadValue, "store.region"),
    ("[store]\nurl = \"gs://bucket\"\naccount = \"abc\"", Code::BadValue, "store.account"),
    (
        "[store]\nurl = \"gs://bucket\"\nservice_account = \"{}\"",
        Code::InlineSecret,
        "store.service_account",
    ),
    ("[store]\nurl = \"az://a_b\"\naccount = \"abc\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"az://a--b\"\naccount = \"abc\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"az://container\"", Code::MissingKey, "store.account"),
    ("[store]\nurl = \"az://container\"\naccount = \"A.b\"", Code::BadValue, "store.account"),
    (
        "[store]\nurl = \"az://container\"\naccount = \"abc\"\ntenant_id = \"t\"\nclient_id = \"c\"",
        Code::MissingKey,
        "store.client_secret",
    ),
    ("[store]\nurl = \"s3:bucket\"\nregion = \"r\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"s3://Bucket\"\nregion = \"r\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"s3://id:key@bucket\"\nregion = \"r\"", Code::InlineSecret, "store.url"),
    ("[store]\nurl = \"s3://bucket/{platform}\"\nregion = \"r\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"s3://bucket\"", Code::MissingKey, "store.region"),
    ("[store]\nurl = \"s3://bucket\"\nregion = \"a/b\"", Code::BadValue, "store.region"),
    ("[store]\nurl = \"s3://bucket\"\nendpoint = \"http://x\"", Code::BadValue, "store.endpoint"),
    ("[store]\nurl = \"gs://bucket\"\nallow_http = true", Code::BadValue, "store.allow_http"),
    ("[store]\nurl = \"s3://bucket\"\nendpoint = \"x:9000\"", Code::BadUrl, "store.endpoint"),
    (
        "[store]\nurl = \"s3://bucket\"\nregion = \"r\"\naccess_key_id = \"env:A\"",
        Code::SecretNotFound,
        "store.access_key_id",
    ),
    (
        "[store]\nurl = \"s3://bucket\"\nregion = \"r\"\nsecret_access_key = \"inline\"",
        Code::InlineSecret,
        "store.secret_access_key",
    ),
    ("[store]\nendpoint = \"https://x\"", Code::BadValue, "store.endpoint"),
    (
        "[store]\nurl = \"s3://bucket\"\nregion = \"r\"\n[collect]\nbody_bytes_max = 6000000000000",
        Code::BadValue,
        "collect.body_bytes_max",
    ),
    (
        "[store]\nurl = \"s3://bucket\"\nregion = \"r\"\n[collect]\nbuffer_bytes_max = \"8MiB\"",
        Code::BadValue,
        "collect.buffer_bytes_max",
    ),
    ("[store]\nurl = \"./objects\"", Code::UnknownStore, "store.url"),
    ("[store]\nurl = \"ftp://x/y\"", Code::UnknownStore, "store.url"),
    ("[store]\nurl = \"file:\"", Code::BadUrl, "store.url"),
    ("[store]\nurl = \"file:tollgate-data/state/x\"", Code::BadValue, "store.url"),
    ("[store]\ncompression = \"zst\"", Code::BadValue, "store.compression"),
    ("[store]\nspool_bytes_max = \"much\"", Code::BadSize, "store.spool_bytes_max"),
    ("[store]\nfsync = \"yes\"", Code::WrongType, "store.fsync"),
    (
        "[store]\nkey = \"{platform}/{api}/{account}/{idd}/{page}\"",
        Code::UnknownVariable,
        "store.key",
    ),
    ("[store]\nkey = \"{platform}/{api}/{account}/{id}/x\"", Code::UnsafeKey, "store.key"),
    ("[store]\nkey = \"{platform}/{api}/{account}/{id\"", Code::BadTemplate, "store.key"),
    ("[nats]\nurl = \"http://x\"", Code::BadUrl, "nats.url"),
    ("[nats]\nreplicas = 2", Code::BadValue, "nats.replicas"),
    ("[nats]\nprefix = \"a.b\"", Code::BadName, "nats.prefix"),
    ("[nats]\ncreds = \"SUAB\"", Code::InlineSecret, "nats.creds"),
    ("[nats]\nnkey = \"SUAB\"", Code::InlineSecret, "nats.nkey"),
    ("[nats]\nuser = \"a\"", Code::BadValue, "nats.user"),
    ("[nats]\nuser = \"a\"\npassword = \"hunter2\"", Code::InlineSecret, "nats.password"),
    ("[nats]\nuser = \"a\"\npassword = \"env:NOPE\"", Code::SecretNotFound, "nats.password"),
    ("[nats]\ncreds = \"file:a\"\nnkey = \"file:b\"", Code::BadValue, "nats.creds"),
    ("[nats]\ninbox = \"a.>\"", Code::BadValue, "nats.inbox"),
    ("[http]\nlisten = \"9464\"", Code::BadValue, "http.listen"),
    ("[http]\ntoken = \"hunter2hunter2hunter2\"", Code::InlineSecret, "http.token"),
    ("[http]\ntoken = \"env:NOPE\"", Code::SecretNotFound, "http.token"),
    ("[platforms.Meta]\nbase_url = \"https://x\"", Code::BadName, "platforms.Meta"),
    ("[platforms.b]\napis.x.path = \"x\"", Code::MissingKey, "platforms.b.base_url"),
    ("[platforms.b]\nbase_url = \"https://x\"", Code::NoPlatforms, "platforms.b.apis"),
    ("[platforms.b]\nbase_url = \"x\"\napis.x.path = \"x\"", Code::BadUrl, "platforms.b.base_url"),
    (
        "[platforms.b]\nbase_url = \"https://x/?a=1\"\napis.x.path = \"x\"",
        Code::BadUrl,
        "platforms.b.base_url",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"5s\"\nconcurrent = 2",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x",
    ),
    (
        "[platforms.kakao.limits.x]\nevery = \"5s\"",
        Code::MissingKey,
        "platforms.kakao.limits.x.per",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = 5",
        Code::BadDuration,
        "platforms.kakao.limits.x.every",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"0s\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.every",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"10us\"",
        Code::BadDuration,
        "platforms.kakao.limits.x.every",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 1\nin = \"1d\"",
        Code::SlidingDay,
        "platforms.kakao.limits.x.in",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 1\nin = \"9000h\"",
        Code::BadDuration,
        "platforms.kakao.limits.x.in",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 1",
        Code::MissingKey,
        "platforms.kakao.limits.x.in",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nin = \"1h\"",
        Code::MissingKey,
        "platforms.kakao.limits.x.max",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 0\nin = \"1h\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.max",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nconcurrent = 0",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.concurrent",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = 50",
        Code::BadValue,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = \"20\"\nburst = 5",
        Code::BadValue,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = \"x/s\"",
        Code::BadValue,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = \"0/s\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = \"50/parsec\"",
        Code::BadValue,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = \"50/d\"",
        Code::SlidingDay,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = true",
        Code::WrongType,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = \"50/s\"\nburst = 0",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.burst",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nrate = \"1/h\"\nburst = 9000",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.burst",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nburst = 5",
        Code::MissingKey,
        "platforms.kakao.limits.x.rate",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"5s\"\nburst = 5",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.burst",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"5s\"\nresets = \"00:00 UTC\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.resets",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1d\"\nresets = \"midnight\"",
        Code::BadValue,
        "platforms.kakao.limits.x.resets",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1d\"\nresets = \"25:00 UTC\"",
        Code::BadValue,
        "platforms.kakao.limits.x.resets",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1d\"\nresets = \"00:00 Asia/Soul\"",
        Code::BadValue,
        "platforms.kakao.limits.x.resets",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"7h\"\nresets = \"00:00 UTC\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.in",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"48h\"\nresets = \"00:00 UTC\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.in",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1m\"\nresets = \"00:00 UTC\"\nreset_slack = \"30s\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.reset_slack",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\nreset_slack = \"1s\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.reset_slack",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\nanchor = \"midnight\"",
        Code::BadValue,
        "platforms.kakao.limits.x.anchor",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\nanchor = \"first_use\"\nresets = \"00:00 UTC\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.anchor",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1d\"\nanchor = \"first_use\"",
        Code::SlidingDay,
        "platforms.kakao.limits.x.in",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\ncost = 10",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.cost",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\ncost = -1",
        Code::BadValue,
        "platforms.kakao.limits.x.cost",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\ncost = { GETT = 1 }",
        Code::BadValue,
        "platforms.kakao.limits.x.cost.GETT",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\ncost = { GET = true }",
        Code::WrongType,
        "platforms.kakao.limits.x.cost.GET",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"5s\"\ncost = 2",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.cost",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\ncounts = \"apples\"",
        Code::BadValue,
        "platforms.kakao.limits.x.counts",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\ncounts = \"errors\"\ncost = 1",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.cost",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nconcurrent = 9\ncounts = \"bytes\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.counts",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = \"9 apples\"\nin = \"1h\"\ncounts = \"bytes\"",
        Code::BadSize,
        "platforms.kakao.limits.x.max",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\nreserve = 9",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.reserve",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\nreserve = \"120%\"",
        Code::BadValue,
        "platforms.kakao.limits.x.reserve",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\nshare = 0.01",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.share",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 9\nin = \"1h\"\nshare = 5",
        Code::BadValue,
        "platforms.kakao.limits.x.share",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"5s\"\nreserve = 2",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.reserve",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nscore = 60\ndecay = \"300s\"",
        Code::MissingKey,
        "platforms.kakao.limits.x.block",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nscore = 60\nblock = \"300s\"",
        Code::MissingKey,
        "platforms.kakao.limits.x.decay",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nscore = 60\ndecay = \"300s\"\nblock = \"10ms\"",
        Code::BadValue,
        "platforms.kakao.limits.x.block",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\ndecay = \"300s\"",
        Code::MissingKey,
        "platforms.kakao.limits.x.score",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\njobs = 5",
        Code::MissingKey,
        "platforms.kakao.limits.x.ttl",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\njobs = 0\nttl = \"3h\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.x.jobs",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nttl = \"3h\"",
        Code::MissingKey,
        "platforms.kakao.limits.x.jobs",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\njobs = 5\nttl = \"3h\"\nguard = \"1s\"",
        Code::BadValue,
        "platforms.kakao.limits.x.guard",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 5\nin = \"1m\"\n[platforms.kakao.limits.y]\nper = [\"account\"]\nmax = 6\nin = \"1m\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.y",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nmax = 50\nin = \"1m\"\n[platforms.kakao.limits.y]\nper = [\"account\"]\nmax = 6\nin = \"2m\"",
        Code::ImpossibleLimit,
        "platforms.kakao.limits.y",
    ),
    (
        "[platforms.kakao.apis.report.costs]\ngapp = 2",
        Code::BadValue,
        "platforms.kakao.apis.report.costs.gapp",
    ),
    (
        "[platforms.kakao.apis.report.costs]\ngap = 2",
        Code::ImpossibleLimit,
        "platforms.kakao.apis.report.costs.gap",
    ),
    (
        "[platforms.kakao.apis.report.costs]\ngap = \"free\"",
        Code::WrongType,
        "platforms.kakao.apis.report.costs.gap",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"app\"]\nevery = \"1s\"",
        Code::MissingKey,
        "platforms.kakao.limits.x.per",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"acount\"]\nevery = \"1s\"",
        Code::BadValue,
        "platforms.kakao.limits.x.per",
    ),
    (
        "[platforms.kakao.limits.x]\nper = [\"account\"]\nevery = \"1s\"\nguard = 250",
        Code::BadDuration,
        "platforms.kakao.limits.x.guard",
    ),
    (
        "[platforms.kakao.apis.report.limits]\ngap = { per = [\"account\"], every = \"9s\" }",
        Code::DuplicateLimit,
        "platforms.kakao.apis.report.limits.gap",
    ),
    ("[platforms.kakao.apis.x]\nquery = {}", Code::MissingKey, "platforms.kakao.apis.x.path"),
    (
        "[platforms.kakao.apis.x]\npath = \"a\"\nbody = { a = 1 }",
        Code::UnknownKey,
        "platforms.kakao.apis.x.body.a",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"a\"\nformat = \"jsn\"",
        Code::BadValue,
        "platforms.kakao.apis.x.format",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"https://evil.example.net/a\"",
        Code::HostNotDeclared,
        "platforms.kakao.apis.x.path",
    ),
    ("[platforms.kakao.apis.x]\npath = \"a?b=1\"", Code::BadValue, "platforms.kakao.apis.x.path"),
    ("[platforms.kakao.apis.x]\npath = \"../a\"", Code::BadValue, "platforms.kakao.apis.x.path"),
    (
        "[platforms.kakao.apis.x]\npath = \"{{account}}\"",
        Code::BadTemplate,
        "platforms.kakao.apis.x.path",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"{date|dais(1)}\"",
        Code::BadTemplate,
        "platforms.kakao.apis.x.path",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"{creative-id}\"",
        Code::BadTemplate,
        "platforms.kakao.apis.x.path",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"{params.ids}\"",
        Code::UnknownVariable,
        "platforms.kakao.apis.x.path",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"{idz}\"\nparams = [\"ids\"]",
        Code::UnknownVariable,
        "platforms.kakao.apis.x.path",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"a\"\nparams = [\"account\"]",
        Code::ReservedName,
        "platforms.kakao.apis.x.params",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"a\"\nparams = [\"a-b\"]",
        Code::BadName,
        "platforms.kakao.apis.x.params",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"a\"\nheaders = { Host = \"a\" }",
        Code::BadHeader,
        "platforms.kakao.apis.x.headers.Host",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"a\"\nheaders = { \"a b\" = \"a\" }",
        Code::BadHeader,
        "platforms.kakao.apis.x.headers.a b",
    ),
];

fn of(text: &str) -> Vec<Mistake> {
    load_with(&format!("{BASE}\n{text}"), &[]).expect_err(text).list().to_vec()
}

#[test]
fn the_base_of_these_tests_has_no_mistake() {
    assert!(load_with(BASE, &[]).unwrap().warnings.is_empty());
}

#[test]
fn every_mistake_has_its_code_its_key_and_its_line() {
    for (text, code, key) in TABLE {
        let found = of(text);
        let wanted = found.iter().find(|mistake| mistake.code == *code && mistake.key == *key);
        let wanted = wanted.unwrap_or_else(|| panic!("{text}\ngave {found:#?}"));
        assert!(wanted.line > Some(9), "{text}: line {:?}", wanted.line);
        assert!(!wanted.message.is_empty() && !wanted.message.ends_with('.'));
        assert_eq!(found.len(), 1, "{text} gave {found:#?}");
    }
}

#[test]
fn a_mistake_of_a_budget_is_the_same_mistake() {
    let counted = |text: &&str| text.contains("limits.x]\nper = [\"account\"]\n");
    let mut checked = 0;
    for (text, code, key) in TABLE.iter().filter(|(text, ..)| counted(text)) {
        let of_budget = text.replace("per = [\"account\"]", "per = [\"platform\"]");
        // But for the table's own limit, which is per account.
        let (own, budget) = (of(text), of(&of_budget));
        if own.iter().any(|mistake| mistake.message.contains("`gap`")) {
            continue;
        }
        let said = |found: &[Mistake]| -> Vec<String> {
            found.iter().map(|m| format!("{} {} {}", m.code, m.key, m.message)).collect()
        };
        assert_eq!(said(&own), said(&budget), "{of_budget}");
        assert!(budget.iter().any(|m| m.code == *code && m.key == *key), "{of_budget}");
        checked += 1;
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn what_says_who_asks_a_bucket_is_looked_at_and_never_shown() {
    let user = r#"{"type":"authorized_user","refresh_token":"hidden"}"#;
    let external = r#"{"type":"external_account","token_url":"hidden"}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), external).unwrap();
    let path = file.path().to_str().unwrap();
    let google = "url = \"gs://bucket\"\n";
    let azure = "url = \"az://container\"\naccount = \"abc\"\n";
    let env = [("USER", user), ("TOKEN", "hidden-token"), ("KEY", "aGlkZGVu")];
    let cases: &[(&str, &str, Code, &str)] = &[
        (google, "service_account = \"env:USER\"", Code::BadValue, "service_account"),
        (google, "service_account = \"env:TOKEN\"", Code::BadValue, "service_account"),
        (
            google,
            "service_account = \"env:TOKEN\"\naccess_token = \"env:TOKEN\"",
            Code::BadValue,
            "access_token",
        ),
        (azure, "account_key = \"env:TOKEN\"", Code::BadValue, "account_key"),
        (azure, "sas_token = \"env:TOKEN\"", Code::BadValue, "sas_token"),
        (
            azure,
            "account_key = \"env:KEY\"\nsas_token = \"env:TOKEN\"",
            Code::BadValue,
            "sas_token",
        ),
    ];
    let mut told = Vec::new();
    for (store, more, code, key) in cases {
        let text = format!("{BASE}\n[store]\n{store}{more}");
        let mistakes = load_with(&text, &env).expect_err(more);
        let [found] = mistakes.list() else { panic!("{mistakes}") };
        assert_eq!((found.code, &*found.key), (*code, &*format!("store.{key}")), "{mistakes}");
        told.push(mistakes.to_string());
    }
    let text = format!("{BASE}\n[store]\n{google}");
    for (path, says) in [(path, "`external_account`"), ("/nowhere", "cannot be read")] {
        let mistakes = load_with(&text, &[("GOOGLE_APPLICATION_CREDENTIALS", path)]).unwrap_err();
        assert_eq!(mistakes.list()[0].code, Code::SecretNotFound);
        assert!(mistakes.to_string().contains(says), "{mistakes}");
        told.push(mistakes.to_string());
    }
    for text in told {
        assert!(!text.contains("hidden") && !text.contains("aGlkZGVu"), "{text}");
    }
}

#[test]
fn different_mistakes_say_different_things() {
    let messages: BTreeSet<String> = TABLE
        .iter()
        .flat_map(|(text, ..)| of(text))
        .map(|m| format!("{}{}", m.key, m.message))
        .collect();
    assert!(messages.len() >= TABLE.len() - 1, "{messages:#?}");
}

#[test]
fn all_mistakes_of_one_file_are_found_at_once_in_its_order() {
    let text = r#"
[node]
nmae = "a"
[store]
url = "gs://-bucket"
compression = "lz4"
[collect]
concurrency = "x"
drain = 5
[platforms.kakao]
base_url = "https://user:hunter2hunter2@x/"
auth = { bearer = "sk-live-0123456789" }
headers = { X-Api-Key = "0123456789abcdef", Host = "h" }
[platforms.kakao.limits]
gap = { per = ["account"], every = "1d" }
hour = { per = ["platform"], max = 0, in = "1h" }
[platforms.kakao.apis.report]
query = { a = "{b|nope}" }
"#;
    let mistakes = load_with(text, &[]).unwrap_err();
    let found: Vec<(usize, Code)> =
        mistakes.list().iter().map(|m| (m.line.unwrap(), m.code)).collect();
    assert_eq!(
        found,
        [
            (3, Code::UnknownKey),
            (5, Code::BadUrl),
            (6, Code::BadValue),
            (8, Code::WrongType),
            (9, Code::BadDuration),
            (11, Code::InlineSecret),
            (12, Code::InlineSecret),
            (13, Code::InlineSecret),
            (13, Code::BadHeader),
            (15, Code::SlidingDay),
            (16, Code::ImpossibleLimit),
            (17, Code::MissingKey),
            (18, Code::BadTemplate),
        ]
    );
    let shown = mistakes.to_string();
    for (number, (line, code)) in found.iter().enumerate() {
        assert!(shown.contains(&format!("\n{}. ", number + 1)), "{shown}");
        assert!(shown.contains(&format!(":{line}: ")) && shown.contains(&format!("[{code}]")));
    }
    for secret in ["hunter2", "sk-live", "0123456789abcdef"] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!serde_json::to_string(&mistakes).unwrap().contains(secret));
    }
}

#[test]
fn a_near_miss_is_pointed_out() {
    let hint = |text| of(text)[0].hint.clone().unwrap_or_default() + &of(text)[0].message;
    assert!(hint("[collect]\nconcurency = 5").contains("did you mean `concurrency`?"));
    assert!(hint("[colect]").contains("did you mean `collect`?"));
    assert!(hint("[store]\ncompression = \"zst\"").contains("did you mean `zstd`?"));
    assert!(
        hint("[platforms.kakao.apis.x]\npath = \"{date|dais(1)}\"")
            .contains("did you mean `days`?")
    );
}

#[test]
fn broken_toml_is_shown_with_line_and_column_and_without_values() {
    let mistakes =
        load_with("[node]\nname = \"a\"\ntoken = \"s3cret\" x\n[store\n", &[]).unwrap_err();
    let first = &mistakes.list()[0];
    assert_eq!((first.code, first.line), (Code::ConfigSyntax, Some(3)));
    assert!(first.message.contains("column") && first.message.contains("`token`"), "{first:?}");
    assert_eq!(mistakes.list().len(), 2, "{mistakes}");
    assert!(!mistakes.to_string().contains("s3cret"));
    let twice = load_with("a = 1\na = 2\n", &[]).unwrap_err();
    assert_eq!(twice.list()[0].code, Code::ConfigSyntax);
    let huge = load_with("[collect]\nconcurrency = 99999999999999999999999\n", &[]).unwrap_err();
    assert_eq!(huge.list()[0].code, Code::ConfigSyntax);
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let absent = load(Some(Path::new("/no/such/tollgate.toml")), env(&[]), &[]).unwrap_err();
    assert_eq!(absent.list()[0].code, Code::ConfigUnreadable);
    assert!(absent.to_string().contains("/no/such/tollgate.toml"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    std::fs::write(&path, b"# \xff\xfe").unwrap();
    assert_eq!(
        load(Some(&path), env(&[]), &[]).unwrap_err().list()[0].code,
        Code::ConfigUnreadable
    );
    std::fs::write(&path, " ".repeat(2 << 20)).unwrap();
    assert_eq!(
        load(Some(&path), env(&[]), &[]).unwrap_err().list()[0].code,
        Code::ConfigUnreadable
    );
}

#[test]
fn nothing_to_call_is_a_mistake() {
    for text in ["", "[platforms]", "[node]\nname = \"a\""] {
        let mistakes = load_with(text, &[]).unwrap_err();
        assert_eq!(mistakes.list()[0].code, Code::NoPlatforms, "{text}");
    }
    assert_eq!(load(None, env(&[]), &[]).unwrap_err().list()[0].code, Code::NoPlatforms);
}

#[test]
fn a_secret_that_is_not_there_is_named_and_never_shown() {
    let with = |auth: &str| {
        load_with(
            &BASE.replace(
                "[platforms.kakao.limits]",
                &format!("auth = {auth}\n[platforms.kakao.limits]"),
            ),
            &[("EMPTY", ""), ("LINES", "s3cret\nvalue"), ("GOOD", "s3cret")],
        )
    };
    for (auth, code) in [
        ("{ bearer = \"env:ABSENT\" }", Code::SecretNotFound),
        ("{ bearer = \"env:EMPTY\" }", Code::SecretNotFound),
        ("{ bearer = \"env:LINES\" }", Code::SecretNotFound),
        ("{ bearer = \"file:/no/such/file\" }", Code::SecretNotFound),
        ("{ bearer = \"s3cret\" }", Code::InlineSecret),
        ("{ header = \"X-Key\", value = \"s3cret\" }", Code::InlineSecret),
        ("{ header = \"X-Key\" }", Code::MissingKey),
        ("{ value = \"env:GOOD\" }", Code::MissingKey),
        ("{ bearer = \"env:GOOD\", header = \"X-Key\", value = \"env:GOOD\" }", Code::BadValue),
        ("{}", Code::MissingKey),
        ("\"env:GOOD\"", Code::WrongType),
        ("{ bearer = \"env:GOOD\", oauth2 = {} }", Code::BadValue),
        ("{ bearer = \"env:GOOD\", aws = {} }", Code::NotSupported),
        ("{ header = \"Host\", value = \"env:GOOD\" }", Code::BadHeader),
    ] {
        let mistakes = with(auth).expect_err(auth);
        assert_eq!(mistakes.list().len(), 1, "{auth}: {mistakes}");
        assert_eq!(mistakes.list()[0].code, code, "{auth}");
        assert!(!mistakes.to_string().contains("s3cret"), "{mistakes}");
    }
    let good = with("{ bearer = \"env:GOOD\" }").unwrap();
    assert!(!format!("{good:?}").contains("s3cret"));
}

#[test]
fn secrets_in_headers_and_queries_are_refused() {
    for (text, code) in [
        ("headers = { Authorization = \"Bearer 0123456789\" }", Code::InlineSecret),
        ("headers = { X-Access-Token = \"0123456789\" }", Code::InlineSecret),
        ("headers = { X-Thing = \"env:TOKEN\" }", Code::NotSupported),
        ("query = { api_key = \"0123456789\" }", Code::InlineSecret),
        ("query = { access_token = \"file:x\" }", Code::NotSupported),
    ] {
        let found = of(&format!("[platforms.kakao.apis.x]\npath = \"x\"\n{text}"));
        assert_eq!((found.len(), found[0].code), (1, code), "{text}");
        assert!(!found[0].to_string().contains("0123456789"));
    }
}

#[test]
fn a_header_may_not_be_set_by_auth_and_by_hand() {
    let text = BASE.replace(
        "[platforms.kakao.limits]",
        "auth = { bearer = \"env:T\" }\nheaders = { authorization = \"{x}\" }\n[platforms.kakao.limits]",
    );
    let mistakes = load_with(&text, &[("T", "t")]).unwrap_err();
    assert_eq!(mistakes.list()[0].code, Code::BadHeader);
}

#[test]
fn keys_that_could_overwrite_each_other_are_refused() {
    for key in [
        "{platform}/{api}/{account}/{id}.{ext}",        // no page
        "{platform}-{api}/{account}/{id}/{page}.{ext}", // a-b + c = a + b-c
        "{platform}/{api}/{account}/{id}-{page}.{ext}", // one manifest for all ids
        "{platform}/{api}/{account}/{id}.{ext}/{page}", // a + b.c = a.b + c
        "{platform}/{api}/{account}/{date}{id}/{page}.{ext}", // side by side
        "{platform}/{api}/{account}/{id}/{page}/_manifest.json",
        "/{platform}/{api}/{account}/{id}/{page}",
        "{platform}//{api}/{account}/{id}/{page}",
        "../{platform}/{api}/{account}/{id}/{page}",
        "a~b/{platform}/{api}/{account}/{id}/{page}",
        "_manifests/{platform}/{api}/{account}/{id}/{page}",
        "{platform}/{api}/{account}/{id}/_owner{page}",
    ] {
        let found = of(&format!("[store]\nkey = \"{key}\""));
        assert!(found.iter().all(|m| m.code == Code::UnsafeKey), "{key}: {found:?}");
    }
    for key in [
        "raw/{platform}/{api}/dt={date}/{account}/{id}/{page}.{ext}",
        "{platform}/{api}/{account}/{params.ids}/{id}/{date}-{page}.{ext}",
        "{platform}/{api}/{account}/{id}/{page}/data.{ext}",
    ] {
        assert!(load_with(&format!("{BASE}\n[store]\nkey = \"{key}\""), &[]).is_ok(), "{key}");
    }
}

#[test]
fn a_key_that_leaves_out_what_tells_fetches_apart_is_warned_of_by_name() {
    for (key, names) in [
        ("{platform}/{api}/account={account}/dt={params.ids}/{page}.{ext}", "`{id}`"),
        ("{platform}/{api}/{account|lower}/{id}/{page}.{ext}", "`{account}`"), // A = a
        ("raw/dt={date}/{id}/{page}.{ext}", "`{platform}`, `{api}`, `{account}`"),
    ] {
        let loaded = load_with(&format!("{BASE}\n[store]\nkey = \"{key}\""), &[]).unwrap();
        let warned: Vec<&String> =
            loaded.warnings.iter().filter(|warning| warning.contains("TG0042")).collect();
        assert_eq!(warned.len(), 1, "{key}: {:?}", loaded.warnings);
        assert!(
            warned[0].starts_with("store.key: ")
                && warned[0].contains(&format!("without {names} different")),
            "{warned:?}"
        );
    }
    let hive = "{platform}/{api}/account={account}/dt={date}/id={id}/{page}.{ext}";
    let loaded = load_with(&format!("{BASE}\n[store]\nkey = \"{hive}\""), &[]).unwrap();
    assert!(loaded.plan.store.narrow.is_empty());
    assert!(!loaded.warnings.iter().any(|warning| warning.contains("TG0042")));
}

#[test]
fn a_key_without_the_id_names_all_that_the_parts_of_a_split_differ_in() {
    let split = "platforms.kakao.apis.report.split";
    for (by, key, good) in [
        ("by = \"list\", param = \"ids\"", "{platform}/{api}/{account}/{date}/{page}.{ext}", false),
        (
            "by = \"list\", param = \"ids\"",
            "{api}/{account}/{params.ids|lower}/{page}.{ext}",
            false,
        ),
        ("by = \"list\", param = \"ids\"", "{api}/{account}/{params.ids}/{page}.{ext}", true),
        ("by = \"list\", param = \"ids\"", "{api}/{account}/{id}/{page}.{ext}", true),
        ("by = \"list\", param = \"ids\"", "{api}/{id}/{page}.{ext}", true),
        ("by = \"dates\", from = \"a\", to = \"b\"", "{api}/{params.a}/{page}.{ext}", false),
        (
            "by = \"dates\", from = \"a\", to = \"b\"",
            "{api}/{params.a}/{params.b}/{page}.{ext}",
            true,
        ),
    ] {
        let text = format!(
            "[platforms.kakao]\nbase_url = \"http://k.test/\"\n[platforms.kakao.apis.report]\npath = \"r\"\n\
             query = {{ ids = \"{{ids?}}\", a = \"{{a?}}\", b = \"{{b?}}\" }}\nsplit = {{ {by} }}\n\
             answers = [{{ empty = true, class = \"too_much\" }}]\n[store]\nkey = \"{key}\""
        );
        match load_with(&text, &[]) {
            Ok(_) => assert!(good, "{by} {key}"),
            Err(mistakes) => {
                let list = mistakes.list();
                assert!(!good && list.len() == 1, "{by} {key}: {list:?}");
                assert_eq!((list[0].code, &*list[0].key), (Code::UnsafeKey, split), "{list:?}");
            }
        }
    }
}

#[test]
fn objects_never_fall_among_the_state() {
    let state = BASE.replace("kakao", "state");
    assert_eq!(load_with(&state, &[]).unwrap_err().list()[0].code, Code::UnsafeKey);
    assert!(load_with(&format!("{state}\n[store]\nurl = \"file:elsewhere\""), &[]).is_ok());
    let by_account =
        "[store]\nurl = \"file:tollgate-data\"\nkey = \"{account}/{platform}/{api}/{id}/{page}\"";
    assert_eq!(of(by_account)[0].code, Code::UnsafeKey);
}

#[test]
fn more_limits_than_the_gate_takes_are_one_mistake() {
    let mut text = format!("{BASE}\n[platforms.kakao.apis.report.limits]\n");
    for i in 0..40 {
        writeln!(text, "l{i} = {{ per = [\"account\"], every = \"{}s\" }}", i + 1).unwrap();
    }
    let mistakes = load_with(&text, &[]).unwrap_err();
    assert_eq!(mistakes.list().len(), 1, "{mistakes}");
    assert_eq!(mistakes.list()[0].code, Code::TooMany);
}

#[test]
fn a_closed_list_of_parameters_covers_platform_headers_and_the_key() {
    let text = BASE.replace(
        "[platforms.kakao.limits]",
        "headers = { X-A = \"{region}\" }\n[platforms.kakao.limits]",
    );
    assert!(load_with(&text, &[]).is_ok());
    let closed = text.clone() + "params = [\"ids\"]";
    let mistakes = load_with(&closed, &[]).unwrap_err();
    assert_eq!(mistakes.list()[0].code, Code::UnknownVariable);
    assert!(mistakes.to_string().contains("`region`"));
    assert!(load_with(&(text + "params = [\"ids\", \"region\"]"), &[]).is_ok());
}

#[test]
fn only_a_publisher_may_do_without_platforms() {
    let none = || std::iter::empty();
    for file in ["", "[platforms]\n", "[collect]\nconcurrency = 1\n"] {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let mistakes = load(Some(path.path()), none(), &[]).unwrap_err();
        assert_eq!(mistakes.list()[0].code, Code::NoPlatforms);
        assert!(load_to_publish(Some(path.path()), none(), &[]).unwrap().plan.platforms.is_empty());
    }
    // What it does declare must be right.
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), "[platforms.p]\nbase_url = \"x\"\n[nodes]\n").unwrap();
    let of = |loaded: Result<Loaded, Mistakes>| loaded.unwrap_err();
    assert_eq!(
        of(load_to_publish(Some(path.path()), none(), &[])),
        of(load(Some(path.path()), none(), &[]))
    );
}

/// Keys of a limit with values that are right, wrong and absurd.
fn any_limit() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let key = prop::sample::select(vec![
        "per",
        "every",
        "max",
        "in",
        "resets",
        "reset_slack",
        "anchor",
        "rate",
        "burst",
        "concurrent",
        "score",
        "decay",
        "block",
        "jobs",
        "ttl",
        "cost",
        "counts",
        "reserve",
        "share",
        "guard",
        "what",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "[\"account\"]",
            "[\"account\", \"api\"]",
            "\"5s\"",
            "\"1h\"",
            "\"1d\"",
            "\"0s\"",
            "\"8784h\"",
            "\"50/s\"",
            "\"1/8784h\"",
            "\"0/s\"",
            "\"/\"",
            "\"4294967296/s\"",
            "\"00:00 Asia/Seoul\"",
            "\"24:00 UTC\"",
            "\"first_use\"",
            "\"bytes\"",
            "\"errors\"",
            "\"100MB\"",
            "\"8388607GiB\"",
            "\"10%\"",
            "\"-1%\"",
            "\"nan%\"",
            "\"inf%\"",
            "0.5",
            "nan",
            "inf",
            "-0.0",
            "1",
            "0",
            "-1",
            "4294967295",
            "4294967296",
            "9223372036854775807",
            "true",
            "{ GET = 0 }",
            "{ POST = 9 }",
            "\"never\"",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        "[ -~&&[^\"\\\\]]{0,12}".prop_map(|text| format!("\"{text}\"")),
    ];
    prop::collection::btree_map(key, value, 0..7).prop_map(|pairs| {
        let pairs: Vec<String> =
            pairs.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
        pairs.join("\n")
    })
}

proptest::proptest! {
    #[test]
    fn no_limit_however_written_is_a_panic_or_passes_the_gate_unseen(one in any_limit(), two in any_limit()) {
        let text = format!(
            "{BASE}\n[platforms.kakao.limits.x]\n{one}\n[platforms.kakao.apis.report.limits.y]\n{two}\n"
        );
        if let Ok(loaded) = load_with(&text, &[]) {
            // What is accepted is what was written, and can be told.
            let platform = &loaded.plan.platforms.values().next().unwrap();
            let line = crate::calendar::Line::From("2026-11-20T12:00:00Z".parse().unwrap());
            let platform = crate::calendar::platform_on(platform, &line);
            let own = (&platform.limits, &platform.costs);
            let budgets = platform.budgets.iter();
            let budgets = budgets.map(|budget| (&budget.counted.limits, &*budget.counted.costs));
            let sets: Vec<_> = std::iter::once(own).chain(budgets).collect();
            let limits: usize = sets.iter().map(|(limits, _)| limits.limits().len()).sum();
            proptest::prop_assert_eq!(limits, 3);
            let told = crate::config::describe(&loaded.plan);
            for name in ["x", "y"] {
                let (limit, budget) = (format!("limit {name}: "), format!("budget {name}: "));
                proptest::prop_assert!(told.contains(&limit) || told.contains(&budget));
            }
            for (limits, costs) in sets {
                let ledger = tollgate_gate::Ledger::new();
                let ask = tollgate_gate::Ask::new(0).with_costs(costs.usual(0));
                let now = tollgate_gate::At(0);
                let decision = tollgate_gate::decide(limits, &ledger, ledger.holds(), ask, now);
                proptest::prop_assert_eq!(decision, tollgate_gate::Decision::Go);
            }
        }
    }
}
