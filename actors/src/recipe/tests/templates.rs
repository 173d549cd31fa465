use super::super::template::{Found, Scope};
use super::*;
use crate::codes::Code;

struct Values(Map<String, Value>);

impl Scope for Values {
    fn get(&self, name: &str) -> Option<Found<'_>> {
        self.0.get(name).map(Found::Json)
    }
}

fn render(text: &str, values: Value) -> Result<String, Refusal> {
    Template::parse(text, &Variables::Any).unwrap().render(&Values(map(values)))
}

fn syntax_error(text: &str) -> String {
    match Template::parse(text, &Variables::Any) {
        Err(TemplateError::Syntax(message)) => message,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_template_fills_in_names_and_filters() {
    for (text, values, expected) in [
        ("plain", json!({}), "plain"),
        ("", json!({}), ""),
        ("a/{x}/b", json!({"x": "1"}), "a/1/b"),
        ("{ x }", json!({"x": 5}), "5"),
        ("{x}{y}", json!({"x": true, "y": 1.5}), "true1.5"),
        ("{date|days(-1)}", json!({"date": "2026-03-01"}), "2026-02-28"),
        ("{date|days(366)}", json!({"date": "2027-12-31"}), "2028-12-31"),
        ("{ids|join(',')}", json!({"ids": ["a", 2, true]}), "a,2,true"),
        ("{ids|join}", json!({"ids": []}), ""),
        ("{ids|sort|join('}')}", json!({"ids": ["b", "a"]}), "a}b"),
        ("{x|default('d')}", json!({}), "d"),
        ("{x|default('d')|upper}", json!({"x": "q"}), "Q"),
        ("{x if x is defined else 'none'}", json!({}), "none"),
        ("{x|replace('act_', '')}", json!({"x": "act_12"}), "12"),
        ("{page * 100 + 1}", json!({"page": 3}), "301"),
        ("{'{'}\"a\":{x}{'}'}", json!({"x": 1}), "{\"a\":1}"),
        ("{\"it's\"}", json!({}), "it's"),
        ("{'a\\'}b'}", json!({}), "a'}b"),
        ("광고/{x}", json!({"x": "日本"}), "광고/日本"),
        ("{x}", json!({"x": "{y}"}), "{y}"),
        ("{x|first}", json!({"x": ["a"]}), "a"),
    ] {
        assert_eq!(render(text, values).unwrap(), expected, "{text}");
    }
}

#[test]
fn what_is_not_a_template_is_refused_with_a_reason() {
    for (text, reason) in [
        ("{", "no closing"),
        ("a{x", "no closing"),
        ("{'x}", "no closing"),
        ("a}", "without its `{`"),
        ("{{x}}", "single braces"),
        ("{}", "empty"),
        ("{ }", "empty"),
        ("{a b}", "`{a b}`"),
        ("{a|}", "identifier"),
        ("{a|nope}", "no filter `nope`"),
        ("{a|safe}", "no filter `safe`"),
        ("{range(9)}", "no function `range`"),
        ("{a is odd}", "no test `odd`"),
        ("{a ~ b}", "no `~`"),
        ("{creative-id}", "letters, digits and `_`"),
        ("{% if x %}", "{% if x %}"),
    ] {
        let message = syntax_error(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
    assert!(syntax_error(&"x".repeat(TEMPLATE_BYTES_MAX + 1)).contains("8192"));
}

#[test]
fn filters_that_are_declared_exist() {
    for filter in super::super::filters::FILTERS {
        let result = render(&format!("{{x|{filter}}}"), json!({"x": "5"}));
        let unknown = result.err().is_some_and(|refusal| refusal.reason.contains("unknown filter"));
        assert!(!unknown, "{filter}");
    }
    for test in super::super::filters::TESTS {
        render(&format!("{{x is {test}}}"), json!({"x": "5"})).unwrap();
    }
}

#[test]
fn only_what_is_allowed_can_be_named() {
    let allowed = Variables::Only(&["id", "params.*"]);
    for good in
        ["{id}", "{params.day}", "{params.day|lower}", "{id if params.x is defined else 'y'}"]
    {
        assert!(Template::parse(good, &allowed).is_ok(), "{good}");
    }
    for bad in
        ["{idd}", "{day}", "{params}", "{day|lower}", "{id if day else 'x'}", "{params|join}"]
    {
        let error = Template::parse(bad, &allowed).unwrap_err();
        assert!(matches!(error, TemplateError::Unknown { .. }), "{bad}: {error:?}");
    }
}

#[test]
fn names_are_listed_once_and_in_order() {
    let template = Template::parse("{b}{a|upper}{b}{c if d else 'e'}", &Variables::Any).unwrap();
    assert_eq!(template.names(), ["a", "b", "c", "d"]);
}

#[test]
fn a_value_that_cannot_stand_for_itself_is_refused_by_name() {
    for (text, values, code) in [
        ("{x}", json!({}), Code::MissingParameter),
        ("{x|upper}", json!({}), Code::MissingParameter),
        ("{x|days(1)}", json!({}), Code::MissingParameter),
        ("{x if y else 'z'}", json!({"y": 1}), Code::MissingParameter),
        ("{x|upper}", json!({"x": [1]}), Code::TemplateFailed),
        ("{x|string}", json!({"x": [1]}), Code::TemplateFailed),
        ("{x|join(',')}", json!({"x": "a,b"}), Code::TemplateFailed),
        ("{x}", json!({"x": null}), Code::BadParameter),
        ("{x}", json!({"x": [1]}), Code::BadParameter),
        ("{x}", json!({"x": {"a": 1}}), Code::BadParameter),
        ("{x|join(',')}", json!({"x": [["a"]]}), Code::BadParameter),
        ("{x|join(',')}", json!({"x": [null]}), Code::BadParameter),
        ("{x|string}", json!({"x": {"a": 1}}), Code::BadParameter),
        ("{x|sort}", json!({"x": [1]}), Code::BadParameter),
        ("{x}", json!({"x": 12_345_678_901_234_567_890_123.0}), Code::BadParameter),
        ("{x|join}", json!({"x": [1e30]}), Code::BadParameter),
        ("{x|days(1)}", json!({"x": "yesterday"}), Code::TemplateFailed),
        ("{x|days(99999999)}", json!({"x": "2026-01-01"}), Code::TemplateFailed),
    ] {
        let refusal = render(text, values).expect_err(text);
        assert_eq!(refusal.code, code, "{text}: {refusal}");
        assert!(refusal.reason.contains('x'), "{text}: {refusal}");
    }
}

#[test]
fn a_filled_in_template_is_bounded() {
    let long = "x".repeat(40_000);
    let refusal = render("{a}{a}", json!({"a": long})).unwrap_err();
    assert_eq!(refusal.code, Code::RequestTooLong);
    // 20,000 times 20,000 bytes would be 400 MB on the way.
    let short = "x".repeat(20_000);
    for text in ["{a|replace('x', a)}", "{b|join(a)}"] {
        let template = Template::parse(text, &Variables::Any).unwrap();
        let values = map(json!({"a": short, "b": vec!["y"; 20_000]}));
        assert_eq!(template.render(&Values(values)).unwrap_err().code, Code::TemplateFailed);
    }
}
