//! The days that a fetch is of, and how it writes them.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use serde_json::{Map, Value};

use super::Declared;
use crate::answers::Form;
use crate::codes::Code;
use crate::ids::Account;
use crate::plan::{Api, Complete, Platform, StorePlan};
use crate::recipe::{FetchContext, KeyContext, Refusal, build, object_key};

/// Most days of one fetch, and of one question.
const DAYS_MAX: i32 = 3_660;

/// How a day is written: as a day, or as a time that begins with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    form: Form,
    /// What follows the day.
    rest: String,
}

impl Written {
    fn write(&self, day: Date) -> Value {
        match self.form.write(day) {
            Value::String(text) => Value::from(text + &self.rest),
            number => number,
        }
    }
}

/// How a fetch writes its first day and its last one, where it says that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Writing {
    first: Written,
    last: Option<Written>,
}

impl Writing {
    /// As `complete.params` writes a day, else with dashes.
    pub(super) fn declared(complete: &Complete) -> Self {
        let of =
            |name: &String| complete.params.get(name).and_then(read).map(|(_, written)| written);
        let usual = || Written { form: Form::Dashes, rest: String::new() };
        let first = of(&complete.param);
        let last = complete.to.as_ref().map(|to| of(to).or_else(|| first.clone()));
        let last = last.map(|last| last.unwrap_or_else(usual));
        Self { first: first.unwrap_or_else(usual), last }
    }

    /// What a fetch of one day says.
    pub(super) fn write(&self, complete: &Complete, day: Date, params: &mut Map<String, Value>) {
        params.insert(complete.param.clone(), self.first.write(day));
        if let (Some(to), Some(last)) = (&complete.to, &self.last) {
            let end = if complete.to_is_excluded { day.tomorrow().unwrap_or(day) } else { day };
            params.insert(to.clone(), last.write(end));
        }
    }
}

/// The first and last day that a fetch is of, and how it writes them.
pub(super) fn of(of: Declared<'_>, params: &Map<String, Value>) -> Option<((Date, Date), Writing)> {
    let value = |name: &String| params.get(name).or_else(|| of.api.params.defaults.get(name));
    let (first, written) = read(value(&of.complete.param)?)?;
    let mut writing = Writing { first: written, last: None };
    let mut last = first;
    if let Some(to) = &of.complete.to {
        let (day, written) = read(value(to)?)?;
        writing.last = Some(written);
        last = if of.complete.to_is_excluded { day.checked_sub(1.day()).ok()? } else { day };
    }
    let days = first.until(last).ok()?.get_days();
    (0..DAYS_MAX).contains(&days).then_some(((first, last), writing))
}

/// `2026-11-20`, `20261120`, or a time of which the first is the beginning.
fn read(value: &Value) -> Option<(Date, Written)> {
    let short = |text: &str| {
        let is_short = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_short.then(|| Date::strptime("%Y%m%d", text).ok()).flatten()
    };
    let (day, form, rest) = match value {
        Value::String(text) => {
            if let Some(day) = short(text) {
                (day, Form::Digits, "")
            } else {
                let (day, rest) = text.split_at_checked(10)?;
                (Date::strptime("%Y-%m-%d", day).ok()?, Form::Dashes, rest)
            }
        }
        Value::Number(number) => (short(&number.to_string())?, Form::Number, ""),
        _ => return None,
    };
    Some((day, Written { form, rest: rest.to_owned() }))
}

/// What a fetch of a day lacks of which nothing else is known than what `complete` says: a parameter.
pub(crate) fn lacks(
    store: &StorePlan,
    platform: &Platform,
    api: &Api,
    complete: &Complete,
) -> Option<String> {
    let account = Account::new("account").ok()?;
    let mut params = complete.params.clone();
    Writing::declared(complete).write(complete, Date::constant(2026, 1, 1), &mut params);
    let all: Map<String, Value> = api.params.defaults.clone().into_iter().chain(params).collect();
    let (id, queued_at) = ("id", Timestamp::UNIX_EPOCH);
    let call = FetchContext { account: &account, id, params: &all, queued_at };
    let (params, account, ext) = (&all, &account, "x");
    let key = KeyContext { platform, api, account, id, params, queued_at, page: 1, ext };
    let refused = |refusal: Refusal| {
        // Of an account that is none little else can be said.
        (refusal.code == Code::MissingParameter).then_some(refusal.reason)
    };
    let built = build(platform, api, &call).err().and_then(refused);
    built.or_else(|| object_key(store, &key).err().and_then(refused))
}
