//! What a platform or an api declares of its answers: `answers`, `columns`, `request_id`, `decode`, `charset`, `split`,
//! `idempotent`, `breaker`.

use std::sync::Arc;
use std::time::Duration;

use ::config::{Value, ValueKind};
use http::Method;

use super::BAD;
use super::observe::{entries, source, texts};
use super::section::{Section, one_of};
use crate::answers::{
    Answers, BreakerRule, By, CLASSES, Class, Decoding, PATHS_MAX, Rows, Rule, Split, Test,
};
use crate::codes::Code;
use crate::ids::preview;
use crate::observe::{JsonPath, RULES_MAX, Source, Then};
use crate::plan::{Api, Format};
use crate::store::{Members, Pick, Unwrap};

/// Bounds of a wait before another try.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bounds of how long a breaker holds.
const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest text of `contains`, in bytes.
const CONTAINS_MAX: usize = 200;
/// Most columns.
const COLUMNS_MAX: usize = 1_000;
/// Most rows that are asked for.
const ROWS_MAX: u64 = 1_000_000_000_000;
/// Longest pattern of a member.
const MEMBER_MAX: usize = 200;
/// Most patterns of members.
const PATTERNS_MAX: usize = 20;
/// Most days of a part.
const DAYS_MAX: u32 = 3_650;

const CLASS_HINT: &str = "class = \"ok\", \"empty\", \"transient\", \"throttled\", \"permanent\", \"unauthorized\", \"incomplete\" or \"too_much\"";

/// What a platform declares for all of its apis.
#[derive(Debug, Default)]
pub(super) struct OfPlatform {
    rules: Vec<Rule>,
    request_id: Option<Source>,
    breaker: Option<BreakerRule>,
    /// Whether a rule of its `over` makes less of fetches.
    makes_less: bool,
}

/// What beside rules of `answers` asks for less.
pub(super) struct Less {
    /// Pages that a provider cuts, or what calls cost by their parameters.
    pub(super) caps: bool,
    /// Rules of the api's own `over`, by their places.
    pub(super) rules: Vec<(usize, Then)>,
}

/// The platform's part.
pub(super) fn of_platform(section: &mut Section<'_>, makes_less: bool) -> OfPlatform {
    let rules = rules(section);
    let request_id = place(section, "request_id");
    let breaker = breaker(section).unwrap_or(Said::Rule(BreakerRule::default())).rule();
    OfPlatform { rules, request_id, breaker, makes_less }
}

/// An api's part, with its platform's behind it.
pub(super) fn of_api(
    section: &mut Section<'_>,
    platform: &OfPlatform,
    (format, method): (Format, &Method),
    less: &Less,
) -> Answers {
    let mut rules = rules(section);
    let own = rules.len();
    rules.extend(platform.rules.iter().cloned());
    if rules.len() > RULES_MAX {
        let message = format!(
            "{} rules, the platform's included; at most {RULES_MAX} are allowed",
            rules.len()
        );
        section.mistake(Code::TooMany, "answers", message, "");
    }
    let request_id = place(section, "request_id").or_else(|| platform.request_id.clone());
    let columns = columns(section, format);
    let breaker = match breaker(section) {
        Some(own) => own.rule().map(|rule| BreakerRule { per_api: true, ..rule }),
        None => platform.breaker.clone(),
    };
    let mut answers = Answers::new(rules, columns, request_id);
    if answers.paths() > PATHS_MAX {
        let message = format!(
            "{} places in the body are looked at, at most {PATHS_MAX} are allowed",
            answers.paths()
        );
        section.mistake(Code::TooMany, "answers", message, "");
    }
    answers.decoding = decoding(section, format);
    let declared = section.has("split");
    answers.split = section.section("split").and_then(split);
    let splits = |rules: &[Rule]| rules.iter().any(|rule| rule.class == Class::TooMuch);
    let others = less.caps || platform.makes_less || !less.rules.is_empty();
    if declared && !others && !splits(&answers.rules) {
        let hint = "answers = [{ body = \"error.code\", is = 1, class = \"too_much\" }], or `rows_max` of `pages`";
        let message = "nothing is ever split: no rule of `answers` has the class too_much, none of `over` has `then = \"split\"` or \"shrink_request\", no `pages` have a `rows_max`, and no `costs` follow parameters";
        section.mistake(Code::MissingKey, "split", message, hint);
    }
    if !declared && splits(&answers.rules[..own]) {
        let hint = "split = { by = \"dates\", from = \"since\", to = \"until\" }, or { by = \"list\", param = \"ids\" }";
        let message = "a rule has the class too_much, and it is not said how less is asked for";
        section.mistake(Code::MissingKey, "split", message, hint);
    }
    check_less(section, less, declared, answers.split.as_ref());
    answers.idempotent = section.flag("idempotent");
    if !method.is_idempotent() && answers.idempotent.is_none() {
        let message = format!(
            "{method} without `idempotent`: a call whose answer is lost, or a 5xx but 503, is dead (TG0246) and not made \
             again. Say `idempotent = true` if it may be made twice, as one that only asks for data may; or false, if \
             not"
        );
        section.report().warn(&section.key("idempotent"), &message);
    }
    answers.breaker = breaker;
    answers
}

/// A split names parameters of its api.
pub(super) fn check_split(section: &Section<'_>, api: &Api) {
    let (answers, params) = (&api.answers, &api.params);
    let Some(split) = &answers.split else { return };
    let mut dated = false;
    api.templates(&mut |template| {
        dated |= template.names().iter().any(|name| matches!(name.as_str(), "today" | "now"));
    });
    if dated {
        let message = "the parts of a fetch are queued later than it: `today` and `now` could be another day there";
        section.mistake(BAD, "split", message, "name the day by a parameter");
    }
    let named = match &split.by {
        By::Dates { from, to, .. } => vec![("split.from", from), ("split.to", to)],
        By::List { param } | By::Half { param, .. } => vec![("split.param", param)],
    };
    for (key, name) in named {
        if !params.names.contains(&**name) {
            let known: Vec<&str> = params.names.iter().map(String::as_str).collect();
            let message = format!("`{}` is no parameter of this api", preview(name));
            let hint = if known.is_empty() {
                "it has no parameters".to_owned()
            } else {
                format!("one of {}", known.join(", "))
            };
            section.mistake(Code::UnknownVariable, key, message, hint);
        }
    }
}

fn rules(section: &mut Section<'_>) -> Vec<Rule> {
    let rules = entries(section, "answers", rule);
    let catches_all = |rule: &Rule| rule.tests.is_empty() && rule.status.is_empty();
    if let Some(place) = rules.iter().position(catches_all)
        && place + 1 < rules.len()
    {
        let message =
            format!("{} fits every answer: this rule is never reached", rules[place].name);
        section.report().mistake(BAD, &rules[place + 1].name, message, "put it before that one");
    }
    rules
}

fn rule(mut entry: Section<'_>) -> Option<Rule> {
    let name = entry.path().to_owned();
    let status = statuses(&mut entry);
    let mut tests = Vec::new();
    value_test(&mut entry, &mut tests);
    if let Some(text) = entry.text("contains") {
        if text.is_empty() || text.len() > CONTAINS_MAX {
            let message = format!("{} bytes, 1 to {CONTAINS_MAX} are allowed", text.len());
            entry.mistake(BAD, "contains", message, "");
        }
        tests.push(Test::Contains(text));
    }
    if let Some(kinds) = entry.list("content_type") {
        for kind in kinds.iter().filter(|kind| !kind.contains('/') || kind.contains(';')) {
            let message = format!("`{}` is no content type", preview(kind));
            entry.mistake(
                BAD,
                "content_type",
                message,
                "such as \"text/html\", without parameters",
            );
        }
        tests.push(Test::ContentType(kinds.iter().map(|kind| kind.to_ascii_lowercase()).collect()));
    }
    match entry.flag("empty") {
        Some(true) => tests.push(Test::Blank),
        Some(false) => {
            let message = "only `empty = true` means something";
            entry.mistake(BAD, "empty", message, "leave it out");
        }
        None => {}
    }
    rows_tests(&mut entry, &mut tests);
    let class = entry.required("class", CLASS_HINT);
    let class = class.and_then(|text| one_of(&entry, "class", &text, CLASSES));
    let message = place(&mut entry, "message");
    let wait = entry.duration("wait", Duration::from_millis(1)..=WAIT_MAX);
    let keep = entry.text("then").and_then(|text| one_of(&entry, "then", &text, &[("keep", true)]));
    let breaks = entry.flag("breaker");
    if let Some(class) = class {
        let gives_up = matches!(class, Class::Permanent | Class::Unauthorized);
        let waits = matches!(class, Class::Transient | Class::Throttled | Class::Incomplete);
        for (key, is_there, fits, of) in [
            ("wait", wait.is_some(), waits, "transient, throttled or incomplete"),
            ("then", keep.is_some(), class == Class::Incomplete, "incomplete"),
            ("breaker", breaks.is_some(), gives_up, "permanent or unauthorized"),
        ] {
            if is_there && !fits {
                let message = format!("this is for answers of the class {of}");
                entry.mistake(BAD, key, message, "leave it out");
            }
        }
    }
    if keep.is_some() && wait.is_some() {
        let message = "what is kept is not tried again, so nothing waits";
        entry.mistake(BAD, "wait", message, "leave `wait` or `then` out");
    }
    entry.finish();
    Some(Rule {
        name,
        status: status?,
        tests,
        class: class?,
        message,
        wait,
        keep: keep.unwrap_or(false),
        // As a 401 does.
        breaks: breaks.unwrap_or(class == Some(Class::Unauthorized)),
    })
}

/// `header` or `body` with `is`, `not` or `absent`; nothing of these: it is there.
fn value_test(entry: &mut Section<'_>, tests: &mut Vec<Test>) {
    let said = entry.has("header") || entry.has("body");
    let from = source(entry);
    let is = entry.take("is").and_then(|value| texts(entry, "is", &value));
    let not = entry.take("not").and_then(|value| texts(entry, "not", &value));
    let absent = entry.flag("absent");
    let tested = [("is", is.is_some()), ("not", not.is_some()), ("absent", absent.is_some())];
    let tested: Vec<&str> =
        tested.iter().filter(|(_, there)| *there).map(|(key, _)| *key).collect();
    if let [_, second, ..] = tested.as_slice() {
        let message = format!("`{}` and `{second}` of the same value", tested[0]);
        entry.mistake(BAD, second, message, "say one of `is`, `not`, `absent`");
    }
    if let ([key, ..], false) = (tested.as_slice(), said) {
        let hint = "body = \"code\", is = [40100], or header = \"NAME\", not = \"0\"";
        entry.mistake(Code::MissingKey, key, "it is not said of what value", hint);
    }
    let Some(from) = from else { return };
    tests.push(match (is, not, absent) {
        (Some(wanted), ..) => Test::Is(from, wanted),
        (None, Some(unwanted), _) => Test::Not(from, unwanted),
        (None, None, Some(true)) => Test::Absent(from),
        (None, None, _) => Test::Is(from, Vec::new()),
    });
}

/// `rows = "PATH"` or `rows = true` with `min`, `max`, `below`.
fn rows_tests(entry: &mut Section<'_>, tests: &mut Vec<Test>) {
    let said = entry.has("rows");
    let rows = entry.take("rows").and_then(|value| match &value.kind {
        ValueKind::Boolean(true) => Some(Rows::OfBody),
        ValueKind::String(text) => path(entry, "rows", text).map(Rows::At),
        _ => {
            let hint = "rows = \"data.list\", or rows = true for the lines of CSV and NDJSON";
            entry.mistake(Code::WrongType, "rows", "a path, or true, belongs here", hint);
            None
        }
    });
    let min = entry.whole_in("min", 0..=ROWS_MAX);
    let max = entry.whole_in("max", 0..=ROWS_MAX);
    let below = entry.text("below");
    let of = [("min", min.is_some()), ("max", max.is_some()), ("below", below.is_some())];
    let first = of.iter().find(|(_, there)| *there).map(|(key, _)| *key);
    match (said, first) {
        (false, Some(key)) => {
            let hint = "rows = \"data.list\", or rows = true for the lines of CSV and NDJSON";
            entry.mistake(Code::MissingKey, key, "it is not said what is counted", hint);
        }
        (true, None) => {
            let hint = "min = 15000, max = 0, or below = \"total\"";
            entry.mistake(Code::MissingKey, "rows", "it is not said how many rows fit", hint);
        }
        _ => {}
    }
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        entry.mistake(BAD, "min", "no number is both", "min above max fits nothing");
    }
    let below = below.and_then(|text| path(entry, "below", &text));
    let Some(rows) = rows else { return };
    tests.extend(min.map(|min| Test::RowsFrom(rows.clone(), min)));
    tests.extend(max.map(|max| Test::RowsTo(rows.clone(), max)));
    tests.extend(below.map(|total| Test::RowsBelow(rows, total)));
}

fn path(entry: &Section<'_>, name: &str, text: &str) -> Option<JsonPath> {
    let path = JsonPath::new(text);
    if path.is_none() {
        let message = format!("`{}` is no path: names with dots between them", preview(text));
        entry.mistake(BAD, name, message, "such as \"error.code\", or \"items.0.id\"");
    }
    path
}

/// A place whose value is only shown: a path in the body as text, or a table with `header` or `body`.
fn place(section: &mut Section<'_>, name: &'static str) -> Option<Source> {
    let value = section.take(name)?;
    if let ValueKind::String(text) = &value.kind {
        return path(section, name, text).map(Source::Body);
    }
    let mut table = section.section_of(name, value)?;
    let said = table.has("header") || table.has("body");
    let from = source(&mut table);
    if !said {
        let hint =
            format!("{name} = {{ header = \"X-Request-Id\" }}, or \"request_id\" in the body");
        let message = "it is not said where to look";
        table.report().mistake(Code::MissingKey, table.path(), message, hint);
    }
    table.finish();
    from
}

/// `404`, `[404, 410]`, `"500-599"`.
fn statuses(entry: &mut Section<'_>) -> Option<Vec<(u16, u16)>> {
    let Some(value) = entry.take("status") else { return Some(Vec::new()) };
    let all = texts(entry, "status", &value)?;
    let range = |text: &String| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to): (u16, u16) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        ((200..=999).contains(&from) && (from..=999).contains(&to)).then_some((from, to))
    };
    let ranges: Option<Vec<(u16, u16)>> = all.iter().map(range).collect();
    if ranges.is_none() {
        let message = "a status is a number from 200 to 999, or two with a dash between them";
        entry.mistake(BAD, "status", message, "status = [404, \"500-599\"]");
    }
    ranges
}

fn columns(section: &mut Section<'_>, format: Format) -> Vec<String> {
    let Some(columns) = section.list("columns") else { return Vec::new() };
    if columns.is_empty() || columns.len() > COLUMNS_MAX {
        let message = format!("{} columns, 1 to {COLUMNS_MAX} are allowed", columns.len());
        section.mistake(Code::TooMany, "columns", message, "");
    }
    if !matches!(format, Format::Auto | Format::Csv | Format::Tsv) {
        let message = "only CSV and TSV have columns";
        section.mistake(BAD, "columns", message, "format = \"csv\" or \"tsv\"");
    }
    columns
}

fn decoding(section: &mut Section<'_>, format: Format) -> Decoding {
    let steps = section.list("decode");
    let member = section.text("member");
    let members = section.has("members").then(|| section.list("members").unwrap_or_default());
    let charset = section.text("charset");
    if let Some(member) = &member
        && (member.is_empty() || member.len() > MEMBER_MAX)
    {
        let message = format!("{} bytes, 1 to {MEMBER_MAX} are allowed", member.len());
        section.mistake(BAD, "member", message, "such as \"report.csv\", or \"*.csv\"");
    }
    if let Some(members) = &members {
        members_problems(section, members, member.is_some());
    }
    let unwrap = match steps.as_deref() {
        None => Unwrap::None,
        Some([step]) if step == "gzip" => Unwrap::Gzip,
        Some([step]) if step == "zip" => match &members {
            Some(members) => {
                Unwrap::Members(Members(members.iter().map(|name| Arc::from(&**name)).collect()))
            }
            None => Unwrap::Zip(Pick(member.as_deref().map(Arc::from))),
        },
        Some([_, _, ..]) => {
            let message = "one step is undone, beside the answer's own Content-Encoding";
            section.mistake(Code::NotSupported, "decode", message, "decode = [\"zip\"]");
            Unwrap::None
        }
        Some(steps) => {
            let step = steps.first().map(|step| preview(step)).unwrap_or_default();
            let message = format!("`{step}` is not known");
            section.mistake(BAD, "decode", message, "decode = [\"gzip\"], or [\"zip\"]");
            Unwrap::None
        }
    };
    for (key, is_said) in [("member", member.is_some()), ("members", members.is_some())] {
        if is_said && steps.is_none() {
            let message = "a member of what is not said";
            section.mistake(Code::MissingKey, key, message, "decode = [\"zip\"]");
        } else if is_said && unwrap == Unwrap::Gzip {
            section.mistake(BAD, key, "a gzip file has no members with names", "leave it out");
        }
    }
    if unwrap != Unwrap::None && format == Format::Auto {
        let message = "the content type tells of the file, and not of what is in it";
        section.mistake(Code::MissingKey, "decode", message, "say what is in it: format = \"csv\"");
    }
    let charset = charset.and_then(|label| {
        let known = encoding_rs::Encoding::for_label(label.as_bytes());
        // Its text is nothing but the sign for what cannot be read.
        let known = known.filter(|charset| *charset != encoding_rs::REPLACEMENT);
        if known.is_none() {
            let message = format!("there is no charset `{}`", preview(&label));
            section.mistake(
                BAD,
                "charset",
                message,
                "such as \"utf-16\", \"euc-kr\", \"shift_jis\"",
            );
        }
        known
    });
    if charset.is_some() && format == Format::Binary {
        section.mistake(
            BAD,
            "charset",
            "`format` says that it is no text",
            "leave one of them out",
        );
    }
    Decoding { unwrap, charset }
}

/// Whether it is said how less is asked for, in the way that rules of `over` name.
fn check_less(section: &mut Section<'_>, less: &Less, declared: bool, split: Option<&Split>) {
    for (place, then) in &less.rules {
        let key = format!("over.{place}.then");
        let halves = split.map(|split| matches!(split.by, By::Half { .. }));
        match (then, halves) {
            (_, None) if !declared => {
                let message = "it is not said how less is asked for";
                let hint = if *then == Then::Shrink {
                    "split = { by = \"half\", param = \"limit\", min = 10 }"
                } else {
                    "split = { by = \"list\", param = \"ids\" }, or { by = \"dates\", from = \"since\", to = \"until\" }"
                };
                section.mistake(Code::MissingKey, &key, message, hint);
            }
            (Then::Split, Some(true)) => {
                let message = "`split` by half makes no parts: one smaller fetch takes the place";
                section.mistake(BAD, &key, message, "then = \"shrink_request\"");
            }
            (Then::Shrink, Some(false)) => {
                let message = "`split` makes parts of the fetch, and not a smaller one";
                section.mistake(BAD, &key, message, "then = \"split\"");
            }
            _ => {}
        }
    }
}

/// What is wrong with the patterns of several members.
fn members_problems(section: &mut Section<'_>, members: &[String], has_member: bool) {
    if has_member {
        let message = "`member` takes one of them, and this several";
        section.mistake(BAD, "members", message, "leave one of the two out");
    }
    if !(1..=PATTERNS_MAX).contains(&members.len()) {
        let message = format!("{} patterns, 1 to {PATTERNS_MAX} are allowed", members.len());
        section.mistake(Code::TooMany, "members", message, "members = [\"*.csv\"]");
    }
    if members.iter().any(|member| member.is_empty() || member.len() > MEMBER_MAX) {
        let message = format!("a pattern has 1 to {MEMBER_MAX} bytes");
        section.mistake(BAD, "members", message, "members = [\"*\"] takes all");
    }
}

fn split(mut table: Section<'_>) -> Option<Split> {
    const HINT: &str = "by = \"dates\", \"list\" or \"half\"";
    let by = table.required("by", HINT);
    let by =
        by.and_then(|text| one_of(&table, "by", &text, &[("dates", 0), ("list", 1), ("half", 2)]));
    let by = match by {
        Some(0) => dates(&mut table),
        Some(1) => param(&mut table).map(|param| By::List { param }),
        Some(_) => {
            let param = param(&mut table);
            let min = table.whole_in("min", 1..=1_000_000_000);
            param.map(|param| By::Half { param, min: min.unwrap_or(1) })
        }
        None => {
            // What belongs to it is not known.
            for name in ["from", "to", "min", "end", "param"] {
                table.take(name);
            }
            None
        }
    };
    table.finish();
    by.map(|by| Split { by })
}

fn param(table: &mut Section<'_>) -> Option<Arc<str>> {
    table.required("param", "the parameter that is made less: param = \"ids\"").map(Arc::from)
}

fn dates(table: &mut Section<'_>) -> Option<By> {
    let from = table.required("from", "the parameter with the first day: from = \"since\"");
    let to = table.required("to", "the parameter with the last day: to = \"until\"");
    let min = table.text("min").map(|text| {
        let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
        let days: Option<u32> = days.filter(|days| (1..=DAYS_MAX).contains(days));
        if days.is_none() {
            let message = format!("`{}` is not a number of days up to {DAYS_MAX}d", preview(&text));
            table.mistake(BAD, "min", message, "min = \"1d\"");
        }
        days
    });
    let ends = [("included", false), ("excluded", true)];
    let to_is_excluded = table.text("end").and_then(|text| one_of(table, "end", &text, &ends));
    if from.is_some() && from == to {
        table.mistake(BAD, "to", "the same parameter as `from`", "");
        return None;
    }
    Some(By::Dates {
        from: from?.into(),
        to: to?.into(),
        to_is_excluded: to_is_excluded.unwrap_or(false),
        min_days: min.unwrap_or(Some(1))?,
    })
}

/// What is said of the breaker.
enum Said {
    Off,
    Rule(BreakerRule),
}

impl Said {
    fn rule(self) -> Option<BreakerRule> {
        match self {
            Self::Off => None,
            Self::Rule(rule) => Some(rule),
        }
    }
}

fn breaker(section: &mut Section<'_>) -> Option<Said> {
    let value: Value = section.take("breaker")?;
    if matches!(&value.kind, ValueKind::String(text) if text == "off") {
        return Some(Said::Off);
    }
    if matches!(&value.kind, ValueKind::String(_)) {
        let hint = "breaker = { after = 10, for = \"5m\" }, or \"off\"";
        section.mistake(Code::WrongType, "breaker", "a table, or \"off\", belongs here", hint);
        return None;
    }
    let mut table = section.section_of("breaker", value)?;
    let after = table.whole_in("after", 1..=100);
    let wait = table.duration("for", HOLD_MIN..=HOLD_MAX);
    let statuses = table.take("status").and_then(|value| texts(&table, "status", &value));
    let numbers = statuses.as_ref().map(|texts| {
        let number = |text: &String| text.parse().ok().filter(|s| (400..=499).contains(s));
        texts.iter().map(number).collect::<Option<Vec<u16>>>()
    });
    if let Some(None) = numbers {
        let message = "what refuses access is a status from 400 to 499";
        table.mistake(BAD, "status", message, "status = [401, 403]");
    }
    table.finish();
    let default = BreakerRule::default();
    Some(Said::Rule(BreakerRule {
        after: after.map_or(default.after, |after| after as u8),
        wait: wait.unwrap_or(default.wait),
        statuses: numbers.flatten().unwrap_or(default.statuses),
        per_api: false,
    }))
}
