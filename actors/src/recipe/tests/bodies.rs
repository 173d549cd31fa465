//! What requests carry.

use http::Method;

use super::*;
use crate::codes::Code;

fn sent(api: &str, params: Value) -> Result<Request, Refusal> {
    request(&plan(&format!("apis.a = {{ path = \"x\", {api} }}")), "act_1", params)
}

fn json_body(body: &str, params: Value) -> Value {
    let request = sent(&format!("body = {{ json = {body} }}"), params);
    let request = request.unwrap_or_else(|refusal| panic!("{refusal}"));
    assert_eq!(request.headers["content-type"], "application/json");
    serde_json::from_slice(&request.body.unwrap()).unwrap()
}

#[test]
fn a_body_makes_a_post_of_a_call_unless_the_method_is_said() {
    let method = |api: &str| sent(api, json!({})).unwrap().method;
    assert_eq!(method("body = { json = {} }"), Method::POST);
    assert_eq!(method("method = \"PUT\", body = { json = {} }"), Method::PUT);
    assert_eq!(method("method = \"POST\""), Method::POST);
    assert_eq!(method("format = \"json\""), Method::GET);
}

#[test]
fn values_keep_their_types_in_json() {
    let body = r#"{ n = "{n}", text = "n is {n}", ids = "{ids}", o = "{o}", fixed = 5, yes = true, half = 0.5, list = ["{n}", "a", { b = "{ids|length}" }], first = "{ids|first}", nothing = "{nothing}", date = "{date|days(1)}" }"#;
    let params = json!({"n": 10, "ids": ["1", 2], "o": {"a": {"b": [null]}}, "nothing": null, "date": "2026-11-20"});
    let expected = json!({
        "n": 10, "text": "n is 10", "ids": ["1", 2], "o": {"a": {"b": [null]}}, "fixed": 5, "yes": true, "half": 0.5,
        "list": [10, "a", {"b": 2}], "first": "1", "nothing": null, "date": "2026-11-21"
    });
    assert_eq!(json_body(body, params), expected);
}

#[test]
fn what_is_left_out_of_json_leaves_no_gap() {
    let body = r#"{ a = "{a?}", b = ["{a?}", 1], c = { d = "{a?}" }, e = "{e?|default(3)}" }"#;
    assert_eq!(json_body(body, json!({})), json!({"b": [1], "c": {}}));
    assert_eq!(
        json_body(body, json!({"a": 0, "e": 7})),
        json!({"a": 0, "b": [0, 1], "c": {"d": 0}, "e": 7})
    );
}

#[test]
fn a_graphql_document_stands_as_it_is() {
    let api = r#"body = { graphql = "query($id: ID!) { shop(id: $id) { name } }", variables = { id = "{id}", first = "{n}" } }"#;
    let body = sent(api, json!({"n": 5})).unwrap().body.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body,
        json!({"query": "query($id: ID!) { shop(id: $id) { name } }", "variables": {"id": "f1", "first": 5}})
    );
}

#[test]
fn a_form_is_written_as_forms_are() {
    let api = r#"body = { form = { a = "{a}", ids = { value = "{ids}", list = "repeat" }, c = "{c?}" } }"#;
    let request = sent(api, json!({"a": "x y&z=+%", "ids": [1, 2]})).unwrap();
    assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(request.body.unwrap(), "a=x+y%26z%3D%2B%25&ids=1&ids=2");
}

#[test]
fn text_is_sent_as_it_is_with_the_type_that_is_declared() {
    let api = r#"body = { text = "<q id='{id}'>{q}</q>", type = "text/xml" }"#;
    let request = sent(api, json!({"q": "a & b"})).unwrap();
    assert_eq!(request.headers["content-type"], "text/xml");
    assert_eq!(request.body.unwrap(), "<q id='f1'>a & b</q>");
    let api = r#"body = { json = {} }, headers = { Content-Type = "application/vnd.api+json" }"#;
    assert_eq!(sent(api, json!({})).unwrap().headers["content-type"], "application/vnd.api+json");
}

#[test]
fn a_body_is_bounded() {
    let params = json!({"a": "x".repeat(300 * 1024)});
    let api = "body = { json = [\"{a}\", \"{a}\", \"{a}\", \"{a}\"] }";
    assert_eq!(sent(api, params.clone()).unwrap_err().code, Code::RequestTooLong);
    assert!(sent("body = { json = [\"{a}\"] }", params).is_ok());
}

#[test]
fn a_number_that_did_not_come_through_is_refused_at_any_depth() {
    let params: Value = serde_json::from_str(r#"{"a": {"b": [12345678901234567890123]}}"#).unwrap();
    let refusal = sent("body = { json = { a = \"{a}\" } }", params).unwrap_err();
    assert_eq!(refusal.code, Code::BadParameter);
}

#[test]
fn parameters_of_a_body_are_the_apis() {
    let plan = plan("apis.a = { path = \"x\", body = { json = { a = [\"{x}\"], b = \"{y?}\" } } }");
    let names: Vec<String> = first(&plan).1.params.names.into_iter().collect();
    assert_eq!(names, ["x", "y"]);
}
