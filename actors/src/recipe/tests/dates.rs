//! Dates in an account's zone. The fetch was queued on 2026-11-20 at 18:00 UTC.

use super::*;
use crate::codes::Code;

/// What a template gives, with `zone` as TOML.
fn dated(zone: &str, template: &str, params: Value) -> Result<String, Refusal> {
    let plan = plan(&format!(
        "{zone}\napis.a = {{ path = \"x\", headers = {{ X-Date = {} }} }}",
        json!(template)
    ));
    let request = request(&plan, "act_1", params)?;
    Ok(request.headers["x-date"].to_str().unwrap().to_owned())
}

#[test]
fn today_is_the_accounts_day() {
    for (zone, today, now) in [
        ("", "2026-11-20", "2026-11-20T18:00:00+00:00"),
        ("zone = \"Asia/Seoul\"", "2026-11-21", "2026-11-21T03:00:00+09:00"),
        ("zone = \"America/Los_Angeles\"", "2026-11-20", "2026-11-20T10:00:00-08:00"),
    ] {
        assert_eq!(dated(zone, "{today}", json!({})).unwrap(), today);
        assert_eq!(dated(zone, "{now}", json!({})).unwrap(), now);
    }
}

#[test]
fn dates_are_written_and_moved_as_declared() {
    for (template, expected) in [
        ("{today|days(-1)}", "2026-11-20"),
        ("{today|days(-1)|format('%Y%m%d')}", "20261120"),
        ("{today|months(-1)|format('%Y-%m-01')}", "2026-10-01"),
        ("{today|format('%d.%m.%y %H:%M')}", "21.11.26 00:00"),
        ("{now|format('%H')}", "03"),
        ("{now|hours(-4)}", "2026-11-20T23:00:00+09:00"),
        ("{today|hours(1)}", "2026-11-21T01:00:00+09:00"),
        ("{today|epoch}", "1795186800"),
        ("{today|epoch_ms}", "1795186800000"),
        ("{now|epoch}", "1795197600"),
        ("{today|utc}", "2026-11-20T15:00:00Z"),
        ("{now|days(-7)|utc}", "2026-11-13T18:00:00Z"),
        ("{date|epoch}", "1767193200"),
        ("{time|epoch}", "1767225600"),
        ("{time|format('%Y-%m-%d %H:%M')}", "2026-01-01 09:00"),
        ("{local|utc}", "2026-01-01T00:30:00Z"),
        ("{date|months(1)}", "2026-02-01"),
    ] {
        let params = json!({"date": "2026-01-01", "time": "2026-01-01T00:00:00Z", "local": "2026-01-01T09:30:00"});
        let names = ["date", "time", "local"];
        let params = params.as_object().unwrap().clone().into_iter();
        let params: Map<String, Value> = params
            .filter(|(name, _)| names.contains(&&**name) && template.contains(&**name))
            .collect();
        let got = dated("zone = \"Asia/Seoul\"", template, params.into());
        assert_eq!(
            got.unwrap_or_else(|refusal| panic!("{template}: {refusal}")),
            expected,
            "{template}"
        );
    }
}

#[test]
fn a_day_has_the_length_that_it_has_there() {
    let zone = "zone = \"America/New_York\"";
    // The clocks go forward on 2027-03-14 at 02:00.
    let of = |template: &str| {
        dated(zone, template, json!({"d": "2027-03-14"})).unwrap().parse::<i64>().unwrap()
    };
    assert_eq!(of("{d|days(1)|epoch}") - of("{d|epoch}"), 23 * 3600);
    let time = dated(zone, "{t|days(1)}", json!({"t": "2027-03-13T12:00:00"})).unwrap();
    assert_eq!(time, "2027-03-14T12:00:00-04:00");
}

#[test]
fn zones_are_of_accounts_tiers_and_parameters() {
    let zones = r#"
        tiers = { us = { accounts = ["act_1"] } }
        zone = { default = "UTC", tiers = { us = "America/Los_Angeles" }, accounts = { act_2 = "Asia/Seoul" } }
        apis.a = { path = "{today}/{now|format('%H')}" }
        "#;
    let plan = plan(zones);
    let path = |account: &str| request(&plan, account, json!({})).unwrap().url.path().to_owned();
    assert_eq!(path("act_1"), "/v1/2026-11-20/10");
    assert_eq!(path("act_2"), "/v1/2026-11-21/03");
    assert_eq!(path("act_3"), "/v1/2026-11-20/18");

    let zone = "zone = \"{tz}\"";
    assert_eq!(dated(zone, "{today}", json!({"tz": "Asia/Seoul"})).unwrap(), "2026-11-21");
    let refusal = dated(zone, "{today}", json!({"tz": "Asia/Seuol"})).unwrap_err();
    assert_eq!(refusal.code, Code::BadParameter);
    assert!(refusal.reason.contains("Asia/Seuol"), "{refusal}");
    assert_eq!(dated(zone, "{today}", json!({})).unwrap_err().code, Code::MissingParameter);
}

#[test]
fn an_apis_zone_goes_before_its_platforms() {
    let text = "zone = \"Asia/Seoul\"\napis.a = { path = \"{today}\", zone = \"UTC\" }";
    assert_eq!(request(&plan(text), "a", json!({})).unwrap().url.path(), "/v1/2026-11-20");
}

#[test]
fn what_is_no_date_is_refused() {
    for (template, params) in [
        ("{d|days(1)}", json!({"d": "tomorrow"})),
        ("{d|epoch}", json!({"d": "2026-02-30"})),
        ("{d|days(1)}", json!({"d": "9999-12-31"})),
        ("{d|format(f)}", json!({"d": "2026-01-01", "f": "%"})),
        ("{d|format(f)}", json!({"d": "2026-01-01", "f": "%Y".repeat(100)})),
    ] {
        let refusal = dated("", template, params).unwrap_err();
        assert_eq!(refusal.code, Code::TemplateFailed, "{template}: {refusal}");
    }
}
