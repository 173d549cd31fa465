//! Limits by other keys than the account: what is understood, what is refused, and which calls they count.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tollgate_gate::Rule;

use super::*;
use crate::ids::Account;
use crate::recipe::{FetchContext, budgets};

/// What a table of one limit says, where it stands that this is wrong, and words of the message.
const MISTAKES: &[(&str, Code, &str, &str)] = &[
    ("per = []", Code::BadValue, "per", "nobody"),
    ("per = [\"acount\"]", Code::BadValue, "per", "did you mean `account`?"),
    ("per = [\"object\"]", Code::BadValue, "per", "cannot be per `object`"),
    ("per = [\"params.\"]", Code::BadValue, "per", "cannot be per"),
    ("per = [\"params.a-b\"]", Code::BadName, "per", "not the name of a parameter"),
    ("per = [\"params.account\"]", Code::BadName, "per", "not the name of a parameter"),
    ("per = [\"params.dat\"]", Code::UnknownVariable, "per", "parameter `dat`"),
    ("per = [\"app\"]", Code::MissingKey, "per", "`app` has no value"),
    ("per = [\"account\", \"region\"]", Code::MissingKey, "per", "`region` has no value"),
    ("per = [\"account\", \"account\"]", Code::BadValue, "per", "`account` is there twice"),
    ("per = [\"account\", \"platform\"]", Code::BadValue, "per", "it says nothing"),
    ("per = 5", Code::WrongType, "per", "a list of texts"),
    ("per = [\"account\"]\nwhen = {}", Code::BadValue, "when", "`when` says nothing"),
    ("per = [\"account\"]\nwhen = \"several\"", Code::WrongType, "when", "a table"),
    (
        "per = [\"account\"]\nwhen = { parms = {} }",
        Code::UnknownKey,
        "when.parms",
        "unknown key `parms`",
    ),
    (
        "per = [\"account\"]\nwhen = { method = \"GET\" }",
        Code::NotSupported,
        "when.method",
        "method",
    ),
    ("per = [\"account\"]\nwhen = { api = [] }", Code::BadValue, "when.api", "of no api"),
    (
        "per = [\"account\"]\nwhen = { api = [\"reprt\"] }",
        Code::BadValue,
        "when.api",
        "did you mean `report`?",
    ),
    ("per = [\"account\"]\nwhen = { api = [\"A B\"] }", Code::BadName, "when.api", "not a name"),
    (
        "per = [\"account\"]\nwhen = { params.ids = \"many\" }",
        Code::BadValue,
        "when.params.ids",
        "says nothing of a parameter",
    ),
    (
        "per = [\"account\"]\nwhen = { params.ids = [] }",
        Code::WrongType,
        "when.params.ids",
        "one at least",
    ),
    (
        "per = [\"account\"]\nwhen = { params.ids = 5 }",
        Code::WrongType,
        "when.params.ids",
        "a test of a parameter",
    ),
    (
        "per = [\"account\"]\nwhen = { params.ids = {} }",
        Code::BadValue,
        "when.params.ids",
        "`min`, `max` or both",
    ),
    (
        "per = [\"account\"]\nwhen = { params.ids = { min = 3, max = 2 } }",
        Code::BadValue,
        "when.params.ids",
        "from 3 to 2",
    ),
    (
        "per = [\"account\"]\nwhen = { params.ids = { mim = 3, max = 2 } }",
        Code::UnknownKey,
        "when.params.ids.mim",
        "mim",
    ),
    (
        "per = [\"account\"]\nwhen = { params.id = \"one\" }",
        Code::BadName,
        "when.params.id",
        "not the name of a parameter",
    ),
    (
        "per = [\"account\"]\nwhen = { params.date = \"one\" }",
        Code::UnknownVariable,
        "when.params",
        "parameter `date`",
    ),
    ("per = [\"account\"]\noverride = {}", Code::BadValue, "override", "`override` says nothing"),
    ("per = [\"account\"]\noverride = 5", Code::WrongType, "override", "a table"),
    ("per = [\"account\"]\noverride = { x = 5 }", Code::WrongType, "override.x", "a table"),
    (
        "per = [\"account\"]\noverride = { x = { per = [\"api\"] } }",
        Code::BadValue,
        "override.x.per",
        "the same for all values",
    ),
    (
        "per = [\"account\"]\noverride = { x = { evry = \"1s\" } }",
        Code::UnknownKey,
        "override.x.evry",
        "unknown key `evry`",
    ),
    (
        "per = [\"account\"]\noverride = { x = { every = \"0s\" } }",
        Code::ImpossibleLimit,
        "override.x.every",
        "limits nothing",
    ),
    (
        "per = [\"account\"]\noverride = { x = { max = 5 } }",
        Code::ImpossibleLimit,
        "override.x",
        "several things at once",
    ),
    (
        "per = [\"platform\"]\noverride = { kakao = { every = \"2s\" } }",
        Code::BadValue,
        "override",
        "there is one platform",
    ),
    (
        "per = [\"account\"]\ntiers = { gold = { every = \"2s\" } }",
        Code::BadValue,
        "tiers",
        "no tier `gold`",
    ),
    (
        "per = [\"platform\"]\ntiers = { iron = { every = \"2s\" } }",
        Code::BadValue,
        "tiers",
        "not per account",
    ),
];

/// The same for the platform.
const OF_PLATFORM: &[(&str, Code, &str, &str)] = &[
    ("[platforms.kakao.keys]\nap = \"main\"", Code::UnknownKey, "keys.ap", "no dimension"),
    (
        "[platforms.kakao.keys]\naccount = \"main\"",
        Code::UnknownKey,
        "keys.account",
        "no dimension",
    ),
    ("[platforms.kakao.keys]\napp = 5", Code::WrongType, "keys.app", "text belongs"),
    ("[platforms.kakao.keys]\napp = \"\"", Code::BadValue, "keys.app", "tells nobody apart"),
    ("[platforms.kakao.keys]\napp = \"{app\"", Code::BadTemplate, "keys.app", "{app"),
    ("[platforms.kakao.keys]\napp = \"{id}\"", Code::UnknownVariable, "keys.app", "every fetch"),
    ("[platforms.kakao.tiers.gold]", Code::MissingKey, "tiers.gold.accounts", "without accounts"),
    ("[platforms.kakao.tiers.Gold]\naccounts = [\"x\"]", Code::BadName, "tiers.Gold", "not a name"),
    (
        "[platforms.kakao.tiers.gold]\naccounts = [\"\"]",
        Code::BadValue,
        "tiers.gold.accounts",
        "empty",
    ),
    (
        "[platforms.kakao.tiers.gold]\naccounts = [\"x\"]\nweight = 0",
        Code::BadValue,
        "tiers.gold.weight",
        "not between",
    ),
    (
        "[platforms.kakao.tiers.gold]\naccounts_file = \"/no/such\"",
        Code::ConfigUnreadable,
        "tiers.gold.accounts_file",
        "cannot be read",
    ),
    (
        "[platforms.kakao.tiers]\ngold = { accounts = [\"x\"] }\nlead = { accounts = [\"x\"] }",
        Code::BadValue,
        "tiers.lead.accounts",
        "in tier `gold` too",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"x\"\nlimits.l = { per = [\"app\"], every = \"1s\", when = { api = [\"x\"] } }\n[platforms.kakao.keys]\napp = \"main\"",
        Code::BadValue,
        "apis.x.limits.l.when.api",
        "its api's own",
    ),
    (
        "[platforms.kakao.apis.x]\npath = \"x/{d}\"\nparams = [\"d\"]\n[platforms.kakao.keys]\napp = \"{main}\"",
        Code::UnknownVariable,
        "apis.x.params",
        "`main` is not among them",
    ),
];

#[test]
fn every_mistake_of_a_key_has_its_own_message_and_place() {
    let tier = "[platforms.kakao.tiers.iron]\naccounts = [\"x\"]";
    let limits = MISTAKES.iter().map(|(text, code, key, words)| {
        let text = format!("{tier}\n[platforms.kakao.limits.x]\nevery = \"1s\"\n{text}");
        (text, *code, format!("limits.x.{key}"), *words)
    });
    let platform = OF_PLATFORM.iter();
    let platform = platform.map(|(t, c, k, w)| ((*t).to_owned(), *c, (*k).to_owned(), *w));
    let mut messages = BTreeSet::new();
    for (text, code, key, words) in limits.chain(platform) {
        let mistakes = load_with(&format!("{BASE}\n{text}"), &[]).expect_err(&text);
        let key = format!("platforms.kakao.{key}");
        let found = mistakes.list().iter().find(|m| m.code == code && m.key == key);
        let found = found.unwrap_or_else(|| panic!("{text}\nwanted {key}, gave {mistakes}"));
        assert!(found.message.contains(words), "{text}\ngave {mistakes}");
        assert!(found.line.is_some(), "{text}");
        messages.insert(format!("{} {}", found.key, found.message));
    }
    assert_eq!(messages.len(), MISTAKES.len() + OF_PLATFORM.len());
}

const KAKAO: &str = r#"
[platforms.kakao]
base_url = "https://apis.example.com/openapi/v4/"
keys = { app = "main", region = "{region|default('eu')}" }
[platforms.kakao.tiers.gold]
accounts = ["act_1", "act_2"]
weight = 5
[platforms.kakao.limits]
gap = { per = ["account"], every = "5s" }
one = { per = ["account"], every = "5s", when = { params.ids = "one" } }
multi = { per = ["app"], every = "5s", when = { params.ids = "several" } }
app = { per = ["app"], max = 10, in = "1s", override = { main = { max = 20 } } }
apps = { per = ["region", "app"], max = 9, in = "1s", override = { "main/us" = { max = 20 } } }
object = { per = ["params.object"], max = 4, in = "1h" }
short = { per = ["platform"], max = 9, in = "1m", when = { params.days = { max = 2 }, api = ["report"] } }
long = { per = ["platform"], max = 1, in = "1h", when = { params.days = { min = 3 } } }
hourly = { per = ["account", "api"], max = 60, in = "1h", tiers = { gold = { max = 600 } }, override = { act_2 = { max = 7 } } }
[platforms.kakao.apis.report]
path = "report"
params = ["ids", "region", "object", "days"]
limits.own = { per = ["platform", "api"], concurrent = 2 }
[platforms.kakao.apis.other]
path = "other"
"#;

/// The records of the budgets that a call counts in.
fn keys(plan: &Plan, account: &str, api: &str, params: &Value) -> Vec<String> {
    let platform = plan.platforms.values().next().unwrap();
    let (_, api) = platform.api(api).unwrap();
    let account = Account::new(account).unwrap();
    let params = params.as_object().unwrap();
    let context =
        FetchContext { account: &account, id: "1", params, queued_at: jiff::Timestamp::UNIX_EPOCH };
    let keys = budgets(platform, api, &context).unwrap();
    assert!(keys.is_sorted());
    keys.iter().map(|key| key.record().account.to_string()).collect()
}

#[test]
fn a_call_counts_in_the_budgets_of_its_shape() {
    let plan = plan(KAKAO);
    let of = |api: &str, params: Value| {
        let keys = keys(&plan, "act_1", api, &params);
        // Those with a condition end in what tells them apart.
        keys.iter().map(|key| key.split('?').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let always = ["api=report", "app=main", "app=main,region=eu"];
    assert_eq!(of("report", json!({})), always);
    assert_eq!(of("other", json!({})), ["app=main", "app=main,region=eu"]);
    for (params, more) in [
        (json!({"ids": "7"}), vec!["account=act_1"]),
        (json!({"ids": ["7"]}), vec!["account=act_1"]),
        (json!({"ids": 7}), vec!["account=act_1"]),
        (json!({"ids": ["7", "8"]}), vec!["app=main"]),
        (json!({"ids": "7,8"}), vec!["app=main"]),
        (json!({"ids": []}), vec![]),
        (json!({"ids": null}), vec![]),
        (json!({"object": "a,b=c?~%"}), vec!["params.object=a%2Cb%3Dc%3F%7E%25"]),
        (json!({"days": 2}), vec!["platform=kakao"]),
        (json!({"days": "3"}), vec!["platform=kakao"]),
        // What cannot be told counts in both.
        (json!({"days": "week"}), vec!["platform=kakao", "platform=kakao"]),
    ] {
        let mut wanted: Vec<&str> = always.into_iter().chain(more).collect();
        wanted.sort_unstable();
        let mut found = of("report", params.clone());
        found.sort_unstable();
        assert_eq!(found, wanted, "{params}");
    }
    assert_eq!(of("report", json!({"region": "us"}))[2], "app=main,region=us");
}

#[test]
fn values_of_a_key_that_are_long_are_told_apart_and_stay_within_a_name() {
    let plan = plan(KAKAO);
    let long = |end: &str| json!({ "object": format!("{}{end}", "é".repeat(300)) });
    let [one, other] = ["1", "2"].map(|end| keys(&plan, "x", "report", &long(end)));
    let long = |keys: &[String]| keys.iter().find(|key| key.starts_with("params")).unwrap().clone();
    let (one, other) = (long(&one), long(&other));
    assert_ne!(one, other);
    assert!(one.len() <= 256 && one.contains('~'), "{one}");
}

#[test]
fn values_and_tiers_have_numbers_of_their_own() {
    let plan = plan(KAKAO);
    let platform = plan.platforms.values().next().unwrap();
    let hourly = |account: &str| {
        let limits = platform.of(&Account::new(account).unwrap()).limits.clone();
        let limit = limits.limits().iter().find(|limit| limit.name == "hourly").unwrap().clone();
        assert!(limit.per_api && limits.limits().len() == 2);
        match limit.rule {
            Rule::Sliding { max, .. } => max.get(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(["x", "act_1", "act_2"].map(hourly), [60, 600, 7]);
    let params = json!({"region": "us"});
    let account = Account::new("x").unwrap();
    let context = FetchContext {
        account: &account,
        id: "1",
        params: params.as_object().unwrap(),
        queued_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let keys = budgets(platform, &platform.apis[0], &context).unwrap();
    let max = |record: &str| {
        let key = keys.iter().find(|key| key.record().account.as_str() == record).unwrap();
        key.limits().limits()[0].rule
    };
    for record in ["app=main", "app=main,region=us"] {
        assert!(matches!(max(record), Rule::Sliding { max, .. } if max.get() == 20), "{record}");
    }
    assert_eq!(platform.tiers.weight_of(&Account::new("act_2").unwrap()), 5);
    assert_eq!(platform.tiers.weight_of(&account), 1);
}

#[test]
fn a_fetch_without_what_a_key_needs_is_refused() {
    let text = KAKAO.replace("{region|default('eu')}", "{region}");
    let plan = plan(&text);
    let check = |params: &str| {
        let fetch =
            format!(r#"{{"platform":"kakao","account":"x","api":"report","params":{params}}}"#);
        crate::recipe::check_fetch(&plan, fetch.as_bytes()).map_err(|refusal| refusal.code).err()
    };
    assert_eq!(check("{}"), Some(Code::MissingParameter));
    assert_eq!(check(r#"{"region":""}"#), Some(Code::BadParameter));
    assert_eq!(check(r#"{"region":"eu"}"#), None);
    // An api that declares no parameters takes those of the keys, too.
    let fetch = r#"{"platform":"kakao","account":"x","api":"other","params":{"region":"eu"}}"#;
    assert!(crate::recipe::check_fetch(&plan, fetch.as_bytes()).is_ok());
}

#[test]
fn accounts_of_a_tier_may_stand_in_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# paid\nact_1\n\n act_2 \n").unwrap();
    let path = format!("accounts_file = {:?}", file.path());
    let plan = plan(&KAKAO.replace("accounts = [\"act_1\", \"act_2\"]", &path));
    let tiers = &plan.platforms.values().next().unwrap().tiers;
    assert_eq!(tiers.accounts.len(), 2);
    assert_eq!(tiers.name_of(&Account::new("act_2").unwrap()), Some("gold"));
}

#[test]
fn other_keys_and_numbers_are_other_limits_in_force() {
    let hash = |text: &str| plan(text).hash;
    let base = hash(KAKAO);
    for (from, to) in [
        ("override = { act_2 = { max = 7 } }", "override = { act_2 = { max = 8 } }"),
        ("per = [\"params.object\"]", "per = [\"params.object\", \"account\"]"),
        ("when = { params.ids = \"one\" }", "when = { params.ids = \"present\" }"),
        ("app = \"main\"", "app = \"other\""),
        ("\"act_1\", \"act_2\"", "\"act_1\""),
    ] {
        assert!(KAKAO.contains(from));
        assert_ne!(hash(&KAKAO.replace(from, to)), base, "{from}");
    }
    assert_eq!(hash(&KAKAO.replace("weight = 5", "weight = 6")), base, "nobody may call more");
}

#[test]
fn what_was_understood_of_keys_is_shown() {
    let shown = describe(&plan(KAKAO));
    for line in [
        "  app: main",
        "  region: {region|default('eu')}",
        "  tier gold: 2 accounts, 5 turns for one of others",
        "  limit hourly: at most 60 calls in any 1h per account and api; guard 250ms (default)",
        "    tier gold: at most 600 calls in any 1h per account and api; guard 250ms (default)",
        "    value \"act_2\": at most 7 calls in any 1h per account and api; guard 250ms (default)",
        "  budget app: at most 10 calls in any 1s per app; guard 25ms (default)",
        "    value \"main\": at most 20 calls in any 1s per app; guard 25ms (default)",
        "  budget apps: at most 9 calls in any 1s per app and region; guard 25ms (default)",
        "  budget multi: at least 5s between two calls per app; guard 25ms (default); counts calls where ids has several values",
        "  budget short: at most 9 calls in any 1m per platform; guard 150ms (default); counts calls of report, where days is 2 or less",
        "    budget own: at most 2 calls in flight per api, of this api's calls",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\nis not in\n{shown}");
    }
}
