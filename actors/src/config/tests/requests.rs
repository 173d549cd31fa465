//! What can be wrong with how an api is called.

use super::*;
use crate::codes::Code;

/// What stands below `[platforms.kakao.apis.x]` beside the path, the key below that, and a word of the message.
const TABLE: &[(&str, Code, &str, &str)] = &[
    ("method = \"get\"", Code::BadValue, "method", "did you mean"),
    ("method = \"HEAD\"", Code::BadValue, "method", "not known"),
    ("method = 1", Code::WrongType, "method", "a number"),
    ("body = {}", Code::MissingKey, "body", "neither"),
    ("body = \"x\"", Code::WrongType, "body", "text"),
    ("body = { josn = {} }", Code::UnknownKey, "body.josn", "josn"),
    ("body = { json = {}, form = {} }", Code::BadValue, "body", "json and form"),
    ("body = { json = { a = { b = \"{x\" } } }", Code::BadTemplate, "body.json.a.b", "closing"),
    ("body = { json = [1, \"{x|nope}\"] }", Code::BadTemplate, "body.json.1", "no filter"),
    ("params = []\nbody = { json = { a = \"{x}\" } }", Code::UnknownVariable, "body.json.a", "`x`"),
    (
        "body = { json = { client_secret = \"abcdefgh\" } }",
        Code::InlineSecret,
        "body.json.client_secret",
        "not shown",
    ),
    ("body = { json = { a = nan } }", Code::WrongType, "body.json.a", "does not have"),
    ("body = { text = \"{x?}\" }", Code::BadTemplate, "body.text", "left out"),
    ("body = { text = \"x\", type = \"xml\" }", Code::BadValue, "body.type", "no content type"),
    ("body = { graphql = 1 }", Code::WrongType, "body.graphql", "a number"),
    (
        "body = { graphql = \"{ a }\", variables = 1 }",
        Code::WrongType,
        "body.variables",
        "a number",
    ),
    ("body = { form = { a = { list = \"commas\" } } }", Code::MissingKey, "body.form.a", "neither"),
    (
        "query = { a = { value = \"{x}\", list = \"comma\" } }",
        Code::BadValue,
        "query.a.list",
        "commas",
    ),
    (
        "query = { a = { value = \"x-{x}\", list = \"commas\" } }",
        Code::BadValue,
        "query.a.list",
        "no list",
    ),
    ("query = { a = { value = \"{x}\", json = 1 } }", Code::BadValue, "query.a", "either"),
    (
        "query = { a = { json = [\"{x}\"], list = \"commas\" } }",
        Code::BadValue,
        "query.a.list",
        "one text",
    ),
    ("query = { a = { value = \"{x}\", keep = \",&\" } }", Code::BadValue, "query.a.keep", "'&'"),
    ("query = { a = { value = \"{x}\", space = \"-\" } }", Code::BadValue, "query.a.space", "`-`"),
    (
        "query = { a = { value = \"{x}\", lists = \"commas\" } }",
        Code::UnknownKey,
        "query.a.lists",
        "lists",
    ),
    ("query = { a = [[\"x\"]] }", Code::WrongType, "query.a", "a list"),
    ("query = { api_key = [\"abcdefgh\"] }", Code::InlineSecret, "query.api_key", "not shown"),
    (
        "query = { api_key = { value = \"abcdefgh\" } }",
        Code::InlineSecret,
        "query.api_key",
        "not shown",
    ),
    ("query = { d = \"{today|format('%!')}\" }", Code::BadTemplate, "query.d", "no format"),
    ("query = { d = \"{today|days('x')}\" }", Code::BadTemplate, "query.d", "days"),
    ("long_query = \"get\"", Code::BadValue, "long_query", "`get`"),
    ("long_query = { over = 1 }", Code::BadValue, "long_query.over", "256"),
    ("long_query = { header = \"Host\" }", Code::BadHeader, "long_query.header", "host"),
    ("long_query = \"post\"\nbody = { json = {} }", Code::BadValue, "long_query", "nowhere"),
    ("zone = \"Asia/Seuol\"", Code::BadValue, "zone", "Asia/Seuol"),
    ("zone = \"{today}\"", Code::BadValue, "zone", "today"),
    ("zone = 9", Code::WrongType, "zone", "a number"),
    ("zone = { tiers = { paid = \"UTC\" } }", Code::BadValue, "zone.tiers.paid", "no tier"),
    ("zone = { accounts = { act_1 = \"KST\" } }", Code::BadValue, "zone.accounts.act_1", "KST"),
    ("zone = { defualt = \"UTC\" }", Code::UnknownKey, "zone.defualt", "defualt"),
    ("params = [\"today\"]", Code::ReservedName, "params", "today"),
];

#[test]
fn every_mistake_of_a_request_has_its_code_and_its_key() {
    for (text, code, key, word) in TABLE {
        let text = format!("{BASE}\n[platforms.kakao.apis.x]\npath = \"a\"\n{text}");
        let found = load_with(&text, &[]).expect_err(&text);
        let key = format!("platforms.kakao.apis.x.{key}");
        let wanted =
            found.list().iter().find(|mistake| mistake.code == *code && mistake.key == key);
        let wanted = wanted.unwrap_or_else(|| panic!("{text}\ngave {found:#?}"));
        let said = format!("{} {:?}", wanted.message, wanted.hint);
        assert!(said.contains(word), "{text}: {said}");
        assert!(wanted.line > Some(11), "{text}: line {:?}", wanted.line);
        assert_eq!(found.list().len(), 1, "{text} gave {found:#?}");
        assert!(!found.to_string().contains("abcdefgh"), "{found}");
    }
}

#[test]
fn what_is_in_a_list_has_a_line_of_its_own() {
    let text =
        format!("{BASE}\n[platforms.kakao.apis.x]\npath = \"a\"\nbody.json = [\n1,\n\"{{x\",\n]");
    let found = load_with(&text, &[]).expect_err(&text);
    let line = text.lines().position(|line| line.starts_with("\"{x")).unwrap() + 1;
    assert_eq!(found.list()[0].line, Some(line), "{found}");
}

#[test]
fn a_body_of_json_is_bounded() {
    let nested = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let many = format!("[{}]", "1,".repeat(5000));
    for body in [nested, many] {
        let text =
            format!("{BASE}\n[platforms.kakao.apis.x]\npath = \"a\"\nbody = {{ json = {body} }}");
        let found = load_with(&text, &[]).expect_err("too much");
        assert!(found.list().iter().all(|mistake| mistake.code == Code::TooMany), "{found}");
    }
}

#[test]
fn what_a_call_costs_may_depend_on_its_method() {
    let text = format!(
        "{BASE}\n[platforms.kakao.limits.points]\nper = [\"account\"]\nmax = 100\nin = \"1h\"\n\
         cost = {{ GET = 0, POST = 3 }}\n[platforms.kakao.apis.x]\npath = \"a\"\nmethod = \"POST\"\n\
         [platforms.kakao.apis.y]\npath = \"a\"\nmethod = \"PUT\""
    );
    let plan = plan(&text);
    let platform = plan.platforms.values().next().unwrap();
    let place = platform.limits.limits().iter().position(|limit| limit.name == "points").unwrap();
    let costs: Vec<u32> =
        (0..3).map(|api| platform.costs.usual(api).get(place).map_or(1, |c| c.units)).collect();
    assert_eq!(costs, [0, 3, 1]);
}

#[test]
fn check_says_how_an_api_is_called() {
    let text = format!(
        "{BASE}\n[platforms.kakao.apis.x]\npath = \"a\"\nzone = \"Asia/Seoul\"\n\
         query = {{ ids = {{ value = \"{{ids}}\", list = \"brackets\" }}, f = [\"1\", \"2\"] }}\n\
         body = {{ json = {{ n = \"{{n}}\", on = true }} }}\n\
         [platforms.kakao.apis.y]\npath = \"b\"\nlong_query = \"post\""
    );
    let described = describe(&plan(&text));
    for line in [
        "    POST https://apis.example.com/openapi/v4/a?ids[]={ids}&ids[]=…&f=1&f=2\n",
        "    body, application/json: {\"n\":\"{n}\",\"on\":true}\n",
        "    days are those of Asia/Seoul\n",
        "    a URL over 4096 bytes: the query goes as the form of a POST, x-http-method-override: GET\n",
    ] {
        assert!(described.contains(line), "{line}{described}");
    }
}
