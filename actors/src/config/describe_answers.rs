//! What answers are worth, in words.

use std::fmt::{self, Write};

use super::values::show;
use crate::answers::{Answers, By, Class, INCOMPLETE_WAIT, Rows, Rule, SPLITS_MAX, Test, place};
use crate::store::{MEMBERS_MAX, Unwrap};

/// How the answers of one api are judged and decoded.
pub(super) fn write_answers(out: &mut String, answers: &Answers) -> fmt::Result {
    match &answers.decoding.unwrap {
        Unwrap::None => {}
        Unwrap::Gzip => writeln!(out, "    decodes a gzip file")?,
        Unwrap::Zip(pick) => match &pick.0 {
            Some(name) => writeln!(out, "    decodes a zip archive: its member {name}")?,
            None => writeln!(out, "    decodes a zip archive: its only member")?,
        },
        Unwrap::Members(members) => writeln!(
            out,
            "    decodes a zip archive: an object of each member {}, at most {MEMBERS_MAX}",
            members.0.join(" or ")
        )?,
    }
    if let Some(charset) = answers.decoding.charset {
        writeln!(out, "    charset {} is stored as UTF-8", charset.name())?;
    }
    for rule in &answers.rules {
        writeln!(out, "    answer {}", in_words(rule))?;
    }
    if !answers.columns.is_empty() {
        writeln!(out, "    answer must name the columns {}", answers.columns.join(", "))?;
    }
    if let Some(source) = &answers.request_id {
        writeln!(out, "    request id: {}", place(source))?;
    }
    if let Some(split) = &answers.split {
        let how = match &split.by {
            By::Dates { from, to, to_is_excluded, min_days } => {
                let end = if *to_is_excluded { "excluded" } else { "included" };
                format!("the days from {from} to {to} ({end}) in two halves of at least {min_days}")
            }
            By::List { param } => format!("the values of {param} in two halves"),
            By::Half { param, min } => format!("half of {param}, at least {min}"),
        };
        writeln!(out, "    split: {how}, at most {SPLITS_MAX} times")?;
    }
    match answers.idempotent {
        Some(true) => writeln!(out, "    idempotent: a call whose answer is lost is made again")?,
        Some(false) => writeln!(out, "    not idempotent: a call whose answer is lost is dead")?,
        None => {}
    }
    let Some(breaker) = &answers.breaker else {
        return writeln!(out, "    breaker off");
    };
    let statuses: Vec<String> = breaker.statuses.iter().map(ToString::to_string).collect();
    let whom = if breaker.per_api { "this api of the account" } else { "the account" };
    writeln!(
        out,
        "    breaker: {} answers of {} in a row hold {whom} for {}, then one call at a time",
        breaker.after,
        statuses.join(", "),
        show(breaker.wait)
    )
}

fn in_words(rule: &Rule) -> String {
    let mut tests = Vec::new();
    if !rule.status.is_empty() {
        let range = |(from, to): &(u16, u16)| {
            if from == to { from.to_string() } else { format!("{from}-{to}") }
        };
        let ranges: Vec<String> = rule.status.iter().map(range).collect();
        tests.push(format!("status {}", ranges.join(" or ")));
    }
    tests.extend(rule.tests.iter().map(test));
    let then = match rule.class {
        Class::Ok => "stored".to_owned(),
        Class::Empty => "stored and marked".to_owned(),
        Class::Transient => match rule.wait {
            Some(wait) => format!("tried again after {}", show(wait)),
            None => "tried again".to_owned(),
        },
        Class::Throttled => match rule.wait {
            Some(wait) => format!("holds the account for {}", show(wait)),
            None => "holds the account".to_owned(),
        },
        Class::Permanent if rule.breaks => "given up; counts for the breaker".to_owned(),
        Class::Permanent => "given up".to_owned(),
        Class::Unauthorized => "tried once more with a new token, or secrets read again".to_owned(),
        Class::Incomplete if rule.keep => "stored and marked".to_owned(),
        Class::Incomplete => {
            format!("tried again after {}", show(rule.wait.unwrap_or(INCOMPLETE_WAIT)))
        }
        Class::TooMuch => "split".to_owned(),
    };
    let message = rule.message.as_ref().map(|source| format!("; says why in {}", place(source)));
    let tests = if tests.is_empty() {
        "in any case".to_owned()
    } else {
        format!("if {}", tests.join(", "))
    };
    format!("{} {tests}: {then}{}", rule.class.as_str(), message.unwrap_or_default())
}

fn test(test: &Test) -> String {
    let rows = |rows: &Rows| match rows {
        Rows::OfBody => "the body".to_owned(),
        Rows::At(path) => format!("`{path}`"),
    };
    match test {
        Test::Is(from, wanted) if wanted.is_empty() => format!("there is {}", place(from)),
        Test::Is(from, wanted) => format!("{} is {}", place(from), wanted.join(" or ")),
        Test::Not(from, unwanted) => format!("{} is not {}", place(from), unwanted.join(" or ")),
        Test::Absent(from) => format!("{} is missing", place(from)),
        Test::Contains(text) => format!("the body holds {text:?}"),
        Test::ContentType(kinds) => format!("the content type is {}", kinds.join(" or ")),
        Test::Blank => "the body is empty".to_owned(),
        Test::RowsFrom(of, least) => format!("{} has {least} rows or more", rows(of)),
        Test::RowsTo(of, most) => format!("{} has {most} rows or fewer", rows(of)),
        Test::RowsBelow(of, total) => format!("{} has fewer rows than `{total}` says", rows(of)),
    }
}
