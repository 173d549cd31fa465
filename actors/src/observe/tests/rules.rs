//! Declared rules and the answers of real providers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::{Answered, Facts, LimitFact, Place, Press, Rules, Scope, Then};
use crate::plan::Plan;
use crate::tests::{Setup, limits, plan, wall};

const LIMITS: &str = "hourly = { per = [\"account\"], max = 60, in = \"1h\" }\n\
                      gap = { per = [\"account\", \"api\"], every = \"5s\" }";

/// A plan whose platform says this.
fn declared(lines: &str) -> Plan {
    let Setup { platform, .. } = limits(LIMITS);
    plan(&Setup { platform: format!("{lines}\n{platform}"), ..limits("") })
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What the rules of api `a` say to an answer.
fn facts(lines: &str, status: u16, headers: &[(&'static str, &str)], body: &str) -> Facts {
    let plan = declared(lines);
    let platform = plan.platforms.values().next().unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let seen = Answered { status, headers: &map, body: body.as_bytes(), wall: wall() };
    platform.apis[0].rules.read(seen, &platform.limits, &platform.costs.kept)
}

fn hourly(left: Option<u32>, max: Option<u32>, reset: Option<u64>) -> Vec<LimitFact> {
    vec![LimitFact {
        limit: Place::own(0),
        left,
        max,
        reset: reset.map(secs),
        ends: reset.map(secs),
    }]
}

/// The same where the window was told to end at another time than more is allowed at.
fn ending(mut facts: Vec<LimitFact>, ends: u64) -> Vec<LimitFact> {
    facts[0].ends = Some(secs(ends));
    facts
}

/// 2026-11-20T12:00:00Z.
const NOW: u64 = 1_795_176_000;

const GITHUB: &str = r#"observe = [
  { header = "X-RateLimit-Remaining", as = "remaining", limit = "hourly" },
  { header = "x-ratelimit-limit", as = "limit", limit = "hourly" },
  { header = "x-ratelimit-reset", as = "reset", unit = "epoch", limit = "hourly" },
]"#;

/// <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>
#[test]
fn three_headers_with_an_epoch() {
    let reset = (NOW + 900).to_string();
    let told = |remaining, reset: &str| {
        let headers = [
            ("x-ratelimit-limit", "60"),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", reset),
        ];
        facts(GITHUB, 200, &headers, "").limits
    };
    assert_eq!(told("7", &reset), hourly(Some(7), Some(60), Some(900)));
    assert_eq!(told("7", "soon"), hourly(Some(7), Some(60), None));
    assert_eq!(told("many", &reset), hourly(None, Some(60), Some(900)));
    let far = (NOW + 86_400).to_string();
    let bounded = ending(hourly(Some(0), Some(60), Some(3600)), 86_400);
    assert_eq!(told("0", &far), bounded, "no longer than the window");
    // The provider's clock is a day ahead of this one: its own date says so.
    let headers = [
        ("date", "Sat, 21 Nov 2026 12:00:00 GMT"),
        ("x-ratelimit-remaining", "1"),
        ("x-ratelimit-reset", &(NOW + 86_400 + 60).to_string()),
    ];
    assert_eq!(facts(GITHUB, 200, &headers, "").limits, hourly(Some(1), None, Some(60)));
    assert!(facts(GITHUB, 200, &[], "").is_empty());
}

/// <https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10>
#[test]
fn the_ietf_field_and_what_goes_before_it() {
    let rule = r#"observe = [{ as = "ratelimit", policy = "hour", limit = "hourly" }]"#;
    let told = |headers: &[(&'static str, &str)]| facts(rule, 200, headers, "").limits;
    let field = ("ratelimit", r#""minute";r=1;t=9, "hour";r=40;t=1200"#);
    assert_eq!(told(&[field]), hourly(Some(40), None, Some(1200)));
    let policy = ("ratelimit-policy", r#""hour";q=50;w=3600"#);
    assert_eq!(told(&[field, policy]), hourly(Some(40), Some(50), Some(1200)));
    // Retry-After goes before `t`.
    let sooner = ending(hourly(Some(40), None, Some(30)), 1200);
    assert_eq!(told(&[field, ("retry-after", "30")]), sooner);
    // One field over several lines.
    let lines = [("ratelimit", r#""minute";r=1"#), ("ratelimit", r#""hour";r=3"#)];
    assert_eq!(told(&lines), hourly(Some(3), None, None));
    // On an answer from a cache, malformed, of another policy.
    assert_eq!(told(&[field, ("age", "10")]), []);
    assert_eq!(told(&[("ratelimit", r#""hour";r=-1"#)]), []);
    assert_eq!(told(&[("ratelimit", r#""day";r=1"#)]), []);
    let any = r#"observe = [{ as = "ratelimit", limit = "hourly" }]"#;
    assert_eq!(
        facts(any, 429, &[field], "").limits,
        hourly(Some(1), None, Some(9)),
        "the strictest"
    );
}

/// <https://datatracker.ietf.org/doc/html/draft-polli-ratelimit-headers-02>: a list of limits with parameters.
#[test]
fn the_three_fields_of_older_drafts() {
    let rule = r#"observe = [
      { header = "ratelimit-limit", as = "limit", limit = "hourly" },
      { header = "ratelimit-remaining", as = "remaining", limit = "hourly" },
      { header = "ratelimit-reset", as = "reset", limit = "hourly" } ]"#;
    let headers = [
        ("ratelimit-limit", "100, 100;w=60, 1000;w=3600"),
        ("ratelimit-remaining", "5"),
        ("ratelimit-reset", "50"),
    ];
    assert_eq!(facts(rule, 200, &headers, "").limits, hourly(Some(5), Some(100), Some(50)));
}

/// Nexxen sends the same three fields twice: those of the day and those of the second.
#[test]
fn of_doubled_headers_one_is_chosen_or_the_strictest_counts() {
    let rule = |nth: &str| {
        format!(
            "observe = [{{ header = \"x-left\", as = \"remaining\", limit = \"hourly\"{nth} }}]"
        )
    };
    let lines = [("x-left", "50"), ("x-left", "3")];
    let told = |nth: &str, lines: &[(&'static str, &str)]| facts(&rule(nth), 200, lines, "").limits;
    assert_eq!(told("", &lines), hourly(Some(3), None, None));
    assert_eq!(told(", nth = 0", &lines), hourly(Some(50), None, None));
    assert_eq!(told(", nth = 1", &lines), hourly(Some(3), None, None));
    assert_eq!(told(", nth = 2", &lines), []);
    assert_eq!(told(", nth = 1", &[("x-left", "50, 3")]), hourly(Some(3), None, None));
}

/// <https://docs.x.com/x-ads-api/fundamentals/rate-limiting>: the account's headers win where they are there.
#[test]
fn a_header_that_is_named_first_goes_before_another() {
    let rule = r#"observe = [
      { header = "x-account-rate-limit-remaining", as = "remaining", limit = "hourly" },
      { header = "x-rate-limit-remaining", as = "remaining", limit = "hourly" } ]"#;
    let user = ("x-rate-limit-remaining", "9");
    assert_eq!(facts(rule, 200, &[user], "").limits, hourly(Some(9), None, None));
    let account = ("x-account-rate-limit-remaining", "200");
    assert_eq!(facts(rule, 200, &[user, account], "").limits, hourly(Some(200), None, None));
}

/// <https://developers.facebook.com/docs/graph-api/overview/rate-limiting>
#[test]
fn percentages_in_json_in_a_header() {
    let usage = r#"{"act_1":[{"type":"ads_insights","call_count":28,"total_cputime":25,"estimated_time_to_regain_access":19}]}"#;
    let rule = r#"observe = [
      { header = "x-business-use-case-usage", path = "*.*.call_count", as = "percent", target = 25, scope = "api", cap = "2h" },
      { header = "x-business-use-case-usage", path = "*.*.estimated_time_to_regain_access", as = "reset", unit = "min", scope = "api", cap = "2h" },
    ]"#;
    let told = |usage: &str| facts(rule, 200, &[("x-business-use-case-usage", usage)], "").presses;
    let reason = "the provider says that its limit is used up".to_owned();
    assert_eq!(
        told(usage),
        [Press { scope: Scope::Api, wait: secs(19 * 60), reason: reason.clone() }]
    );
    assert_eq!(told(&usage.replace(":19", ":0"))[0].wait, secs(60), "it does not say how long");
    assert_eq!(told(&usage.replace(":19", ":9999"))[0].wait, secs(7200), "no longer than the cap");
    assert_eq!(told(&usage.replace(":28", ":24.5"))[0].wait, secs(19 * 60), "rounded up");
    assert_eq!(told(&usage.replace(":28", ":24")), []);
    assert_eq!(told("{"), []);
    // Of a declared limit: 90 % are aimed at, 80 % used.
    let rule = r#"observe = [{ header = "x-app-usage", path = "call_count", as = "percent", target = 90, limit = "hourly" }]"#;
    let told = facts(rule, 200, &[("x-app-usage", r#"{"call_count":80}"#)], "");
    assert_eq!(told.limits, hourly(Some(6), None, None));
}

/// <https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/headers_api_usage.htm>
#[test]
fn usage_in_a_list_of_pairs() {
    let rule = r#"observe = [{ header = "sforce-limit-info", field = "api-usage", as = "usage", limit = "hourly" }]"#;
    let told = |value: &str| facts(rule, 200, &[("sforce-limit-info", value)], "").limits;
    assert_eq!(told("api-usage=18/50"), hourly(Some(32), Some(50), None));
    assert_eq!(
        told("per-app-api-usage=17/250(appName=x), api-usage=25/5000"),
        hourly(Some(4975), Some(5000), None)
    );
    assert_eq!(told("api-usage=18"), []);
    assert_eq!(told("other=1/2"), []);
}

/// <https://shopify.dev/docs/api/usage/rate-limits>, <https://developers.google.com/analytics/devguides/reporting/data/v1/quotas>
#[test]
fn what_is_left_in_a_body() {
    let rule = r#"observe = [
      { body = "propertyQuota.tokensPerHour.remaining", as = "remaining", limit = "hourly" },
      { body = "propertyQuota.tokensPerHour.consumed", as = "used", limit = "hourly" } ]"#;
    let body = r#"{"propertyQuota":{"tokensPerHour":{"consumed":30,"remaining":12}},"rows":[{"#;
    assert_eq!(facts(rule, 200, &[], body).limits, hourly(Some(12), None, None));
    assert!(facts(rule, 200, &[], "<html>").is_empty());
}

/// Statuses and bodies of real refusals: rule, answer, whether it is one, and the wait in seconds.
#[test]
fn refusals_under_odd_statuses() {
    // TikTok, https://business-api.tiktok.com/portal/docs?id=1740029171730433
    let tiktok = r#"over = [{ body = "code", is = [40100, 40133], hits = "hourly", wait = "5m", scope = "platform" }]"#;
    let over = facts(tiktok, 200, &[], r#"{"code":40100,"message":"x","data":{"#).over.unwrap();
    assert_eq!(
        (over.after, over.scope, over.hits),
        (Some(secs(300)), Scope::Platform, Some(Place::own(0)))
    );
    assert_eq!(facts(tiktok, 200, &[], r#"{"code":0,"data":{"code":40100}}"#).over, None);
    // GitHub, 403 with nothing left; and the wait is in a header.
    let github = r#"over = [{ status = [403, 429], header = "x-ratelimit-remaining", is = 0, wait = { header = "x-ratelimit-reset", unit = "epoch" }, floor = "1m" }]"#;
    let reset = (NOW + 900).to_string();
    let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
    assert_eq!(facts(github, 403, &headers, "").over.unwrap().after, Some(secs(900)));
    let after = ("retry-after", "120");
    let both = [headers[0], headers[1], after];
    assert_eq!(facts(github, 403, &both, "").over.unwrap().after, Some(secs(120)), "it goes first");
    let soon = [headers[0], ("x-ratelimit-reset", "0")];
    assert_eq!(facts(github, 403, &soon, "").over.unwrap().after, Some(secs(60)), "the floor");
    assert_eq!(facts(github, 403, &[("x-ratelimit-remaining", "1")], "").over, None);
    assert_eq!(facts(github, 404, &headers, "").over, None);
    // AppsFlyer: 400 and 403 with a text; UTC midnight.
    let appsflyer = r#"over = [{ status = [400, 403], contains = "reached", wait = { until = "00:00 UTC" }, then = "fail" }]"#;
    let over =
        facts(appsflyer, 400, &[], "You've reached your maximum number of reports").over.unwrap();
    assert_eq!((over.after, over.then, over.jitter), (Some(secs(12 * 3600)), Then::Fail, secs(1)));
    assert_eq!(facts(appsflyer, 400, &[], "bad date").over, None);
    // Google Ads, https://developers.google.com/google-ads/api/reference/rpc/latest/QuotaErrorDetails
    let google = r#"over = [{ status = 429, wait = { body = "error.details.*.errors.*.details.quotaErrorDetails.retryDelay", unit = "duration" }, cap = "20m" }]"#;
    let body = r#"{"error":{"details":[{"errors":[{"details":{"quotaErrorDetails":{"retryDelay":"30s"}}}]}]}}"#;
    assert_eq!(facts(google, 429, &[], body).over.unwrap().after, Some(secs(30)));
    assert_eq!(
        facts(google, 429, &[], &body.replace("30s", "900000s")).over.unwrap().after,
        Some(secs(1200))
    );
    assert_eq!(facts(google, 429, &[], "<html>").over.unwrap().after, None, "the usual doubling");
    // Search Ads 360: 410. Splash: 503 for the day. Shopify: 423. Amazon: HTML in a 429.
    for status in [410, 503, 423, 999] {
        let rule = format!("over = {{ status = {status}, wait = \"1h\" }}");
        assert_eq!(facts(&rule, status, &[], "").over.unwrap().after, Some(secs(3600)), "{status}");
        assert_eq!(facts(&rule, 500, &[], "").over, None);
    }
    // Retry-After may lengthen what is declared, and never shortens it.
    let rule = "over = { status = 503, wait = \"1h\" }";
    for (asked, wanted) in [("60", 3600), ("7200", 7200)] {
        assert_eq!(
            facts(rule, 503, &[("retry-after", asked)], "").over.unwrap().after,
            Some(secs(wanted))
        );
    }
}

#[test]
fn the_first_rule_that_fits_counts_and_an_apis_own_go_first() {
    let lines = r#"over = [{ status = 429, wait = "1s" }, { status = [429, 503], wait = "2s" }]"#;
    let after = |rules: &Rules, status| {
        let headers = HeaderMap::new();
        let seen = Answered { status, headers: &headers, body: b"", wall: wall() };
        rules.read(seen, &tollgate_gate::LimitSet::default(), &[]).over.unwrap().after.unwrap()
    };
    let Setup { platform, .. } = limits(LIMITS);
    let own = "[platforms.p.apis.b]\nover = { status = 429, wait = \"9s\" }";
    let platform = platform.replace("[platforms.p.apis.b]", own);
    let plan = plan(&Setup { platform: format!("{lines}\n{platform}"), ..limits("") });
    let apis = &plan.platforms.values().next().unwrap().apis;
    let (a, b) = (&apis[0].rules, &apis[1].rules);
    assert_eq!((after(a, 429), after(a, 503)), (secs(1), secs(2)));
    assert_eq!((after(b, 429), after(b, 503)), (secs(9), secs(2)));
}

/// <https://support.google.com/searchads/answer/9026876>: the day of Search Ads 360 is the Pacific one. Days on
/// which clocks change have 23 and 25 hours, and Lord Howe moves by half an hour.
#[test]
fn midnight_of_a_zone_is_right_on_days_when_clocks_change() {
    let table = [
        ("America/Los_Angeles", "2026-11-01T07:00:00Z", 25.0 * 3600.0),
        ("America/Los_Angeles", "2026-03-08T08:00:00Z", 23.0 * 3600.0),
        ("Asia/Seoul", "2026-11-20T15:00:00Z", 24.0 * 3600.0),
        ("Australia/Lord_Howe", "2026-04-04T13:00:00Z", 24.5 * 3600.0),
        ("Australia/Lord_Howe", "2026-10-03T13:30:00Z", 23.5 * 3600.0),
        ("UTC", "2026-11-20T23:59:59.5Z", 0.5),
    ];
    for (zone, now, wanted) in table {
        let plan =
            declared(&format!("over = {{ status = 429, wait = {{ until = \"00:00 {zone}\" }} }}"));
        let platform = plan.platforms.values().next().unwrap();
        let headers = HeaderMap::new();
        let wall = now.parse().unwrap();
        let seen = Answered { status: 429, headers: &headers, body: b"", wall };
        let over =
            platform.apis[0].rules.read(seen, &platform.limits, &platform.costs.kept).over.unwrap();
        assert_eq!(over.after, Some(Duration::from_secs_f64(wanted)), "{zone} at {now}");
    }
}

#[test]
fn a_body_is_looked_at_only_where_a_rule_wants_it() {
    let rules = |lines: &str| {
        let plan = declared(lines);
        plan.platforms.values().next().unwrap().apis[0].rules.clone()
    };
    let by_body = rules("over = { body = \"code\", is = 1 }");
    assert!(by_body.wants_body(200) && by_body.wants_body(500));
    let by_status = rules("over = { status = 429, wait = { body = \"after\" } }");
    assert!(by_status.wants_body(429) && !by_status.wants_body(200));
    assert!(!rules(GITHUB).wants_body(200));
    assert!(rules("").is_empty() && !rules("").wants_body(429));
}

/// What is left of the whole limit is not all ours: people and other tools keep their part, as they do of what is
/// counted here. And a limit that is told as it was declared contradicts nothing.
#[test]
fn the_reserve_is_taken_off_what_answers_tell() {
    let told = |limit: &str, rule: &str, value: &'static str| {
        let Setup { platform, .. } = limits(&format!("own = {{ per = [\"account\"], {limit} }}"));
        let rule = format!("observe = [{{ header = \"x-told\", limit = \"own\", {rule} }}]");
        let plan = plan(&Setup { platform: format!("{rule}\n{platform}"), ..limits("") });
        let platform = plan.platforms.values().next().unwrap();
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("x-told"),
            HeaderValue::from_static(value),
        )]);
        let seen = Answered { status: 200, headers: &headers, body: b"", wall: wall() };
        let rules = &platform.apis[0].rules;
        let facts = rules.read(seen, &platform.limits, &platform.costs.kept).limits[0];
        (facts.left, facts.max, platform.limits.max_of(0).unwrap())
    };
    let tenth = "max = 60, in = \"1h\", reserve = \"10%\"";
    assert_eq!(told(tenth, "as = \"remaining\"", "7"), (Some(1), None, 54));
    assert_eq!(told(tenth, "as = \"remaining\"", "5"), (Some(0), None, 54));
    assert_eq!(told(tenth, "as = \"used\"", "50"), (Some(4), None, 54));
    assert_eq!(told(tenth, "as = \"percent\"", "50"), (Some(24), None, 54));
    assert_eq!(told(tenth, "as = \"usage\"", "10/20"), (Some(4), Some(14), 54));
    assert_eq!(told(tenth, "as = \"limit\"", "60").1, Some(54));
    let units = "max = \"1kB\", in = \"1h\", counts = \"bytes\", cost = 10, reserve = 100";
    assert_eq!(told(units, "as = \"remaining\"", "150"), (Some(50), None, 900));
    let half = "max = 60, in = \"1h\", share = \"50%\"";
    assert_eq!(told(half, "as = \"remaining\"", "40"), (Some(40), None, 30));
    assert_eq!(told(half, "as = \"limit\"", "60").1, Some(30));
}
