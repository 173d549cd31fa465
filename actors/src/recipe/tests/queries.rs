//! What providers want of lists, reserved characters, and what is not there.

use http::Method;

use super::*;
use crate::codes::Code;

/// The query that a table of TOML makes of parameters.
fn query(table: &str, params: Value) -> String {
    let plan = plan(&format!("apis.a = {{ path = \"x\", query = {table} }}"));
    let url = request(&plan, "act_1", params).unwrap_or_else(|refusal| panic!("{refusal}")).url;
    url.query().unwrap_or("-").to_owned()
}

#[test]
fn a_list_is_written_as_the_provider_wants_it() {
    let ids = json!({"ids": ["1", 2, "a,b", "c d"]});
    for (list, expected) in [
        ("repeat", "ids=1&ids=2&ids=a%2Cb&ids=c%20d"),
        ("brackets", "ids[]=1&ids[]=2&ids[]=a%2Cb&ids[]=c%20d"),
        ("indices", "ids[0]=1&ids[1]=2&ids[2]=a%2Cb&ids[3]=c%20d"),
        ("commas", "ids=1,2,a%2Cb,c%20d"),
        ("pipes", "ids=1|2|a%2Cb|c%20d"),
        ("spaces", "ids=1%202%20a%2Cb%20c%20d"),
    ] {
        let table = format!("{{ ids = {{ value = \"{{ids}}\", list = \"{list}\" }} }}");
        assert_eq!(query(&table, ids.clone()), expected, "{list}");
        assert_eq!(query(&table, json!({"ids": []})), "-", "{list}: nothing to say");
    }
    let one = "{ ids = { value = \"{ids}\", list = \"brackets\" } }";
    assert_eq!(query(one, json!({"ids": 7})), "ids[]=7");
    assert_eq!(query("{ f = [\"a\", \"{x}\", 5] }", json!({"x": "b&c"})), "f=a&f=b%26c&f=5");
    let written = "{ f = { value = [\"a\", \"{x}\"], list = \"commas\" }, g = 1 }";
    assert_eq!(query(written, json!({"x": "b"})), "f=a,b&g=1");
}

#[test]
fn reserved_characters_stay_where_that_is_declared() {
    let kept = "{ range = { value = \"(start:{x},end:{y})\", keep = \"():,\" } }";
    assert_eq!(
        query(kept, json!({"x": "2026-01", "y": "a&b=c+d"})),
        "range=(start:2026-01,end:a%26b%3Dc%2Bd)"
    );
    let name = "{ \"filter[status]\" = { value = \"{x}\", keep = \"[]\" } }";
    assert_eq!(query(name, json!({"x": "on"})), "filter[status]=on");
    // A comma of a value is none of the list's.
    let both = "{ ids = { value = \"{ids}\", list = \"commas\", keep = \",:\" } }";
    assert_eq!(query(both, json!({"ids": ["a,b", "c:d"]})), "ids=a%2Cb,c:d");
}

#[test]
fn a_space_is_a_plus_where_that_is_declared_and_a_plus_never_is() {
    assert_eq!(query("{ q = \"{q}\" }", json!({"q": "a b+c"})), "q=a%20b%2Bc");
    assert_eq!(
        query("{ q = { value = \"{q}\", space = \"+\" } }", json!({"q": "a b+c"})),
        "q=a+b%2Bc"
    );
}

#[test]
fn what_may_be_absent_is_left_out() {
    let table = "{ a = \"{a?}\", b = \"{b?|days(-1)}\", c = \"x-{c?}\", d = [\"{a?}\", \"1\"], e = \"{e}\" }";
    assert_eq!(query(table, json!({"e": ""})), "d=1&e=");
    assert_eq!(query(table, json!({"a": null, "b": "", "c": [], "e": 0})), "d=1&e=0");
    let all = json!({"a": false, "b": "2026-01-01", "c": "y", "e": "z"});
    assert_eq!(query(table, all), "a=false&b=2025-12-31&c=x-y&d=false&d=1&e=z");
    let nothing = plan("apis.a = { path = \"x\", query = { a = \"{a?}\" } }");
    let url = request(&nothing, "act_1", json!({})).unwrap().url;
    assert_eq!(url.as_str(), "https://api.example.com/v1/x");
}

#[test]
fn json_stands_in_a_pair_as_text() {
    let table = "{ filtering = { json = [{ field = \"id\", operator = \"IN\", value = \"{ids}\", n = 2 }] } }";
    let text = query(table, json!({"ids": ["1", 2]}));
    let url = url::Url::parse(&format!("http://x/?{text}")).unwrap();
    let (_, value) = url.query_pairs().next().unwrap();
    let value: Value = serde_json::from_str(&value).unwrap();
    assert_eq!(value, json!([{"field": "id", "operator": "IN", "value": ["1", 2], "n": 2}]));
    let whole = "{ f = { json = \"{f?}\" } }";
    assert_eq!(query(whole, json!({"f": {"a": [1]}})), "f=%7B%22a%22%3A%5B1%5D%7D");
    assert_eq!(query(whole, json!({})), "-");
}

#[test]
fn a_long_query_goes_as_the_form_of_a_post() {
    let text = r#"apis.a = { path = "x", long_query = { over = "256B" }, query = { ids = { value = "{ids}", list = "commas" }, q = "a b" } }"#;
    let plan = plan(text);
    let short = request(&plan, "act_1", json!({"ids": ["1"]})).unwrap();
    assert_eq!((short.method, short.url.query()), (Method::GET, Some("ids=1&q=a%20b")));
    assert!(short.body.is_none() && !short.headers.contains_key("x-http-method-override"));

    let ids: Vec<String> = (0..20_000).map(|id| format!("id-{id}")).collect();
    let ids = &ids[..5_000];
    let long = request(&plan, "act_1", json!({"ids": ids})).unwrap();
    assert_eq!(long.method, Method::POST);
    assert_eq!(long.url.as_str(), "https://api.example.com/v1/x");
    assert_eq!(long.headers["x-http-method-override"], "GET");
    assert_eq!(long.headers["content-type"], "application/x-www-form-urlencoded");
    let body = format!("ids={}&q=a%20b", ids.join(","));
    assert_eq!(long.body.unwrap(), body);
}

#[test]
fn a_long_query_may_go_without_telling_which_method_is_meant() {
    let text = r#"apis.a = { path = "x", long_query = { over = "256B", header = "none" }, query = { q = "{q}" } }"#;
    let long = request(&plan(text), "act_1", json!({"q": "y".repeat(300)})).unwrap();
    assert_eq!((long.method, long.headers.len()), (Method::POST, 1));
}

#[test]
fn without_a_word_about_lists_a_list_is_refused() {
    let plan = plan("apis.a = { path = \"x\", query = { ids = \"{ids}\" } }");
    let refusal = request(&plan, "act_1", json!({"ids": ["1"]})).unwrap_err();
    assert_eq!(refusal.code, Code::BadParameter);
    let many: Vec<u32> = (0..10_001).collect();
    let plan = super::plan(
        "apis.a = { path = \"x\", long_query = \"post\", query = { ids = { value = \"{ids}\", list = \"repeat\" } } }",
    );
    let refusal = request(&plan, "act_1", json!({"ids": many})).unwrap_err();
    assert_eq!(refusal.code, Code::RequestTooLong);
}
