//! What comes in becomes a fetch that can be called, or a refusal with a code. No call is made.

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollgate_protos::Fetch;

use super::key::{KeyContext, object_key};
use super::{FetchContext, RESERVED, Refusal, budgets, build, did_you_mean, taken_by};
use crate::answers::Split;
use crate::codes::Code;
use crate::config::parse_duration;
use crate::costs;
use crate::ids::{Account, AccountKey, ID_BYTES_MAX, LaneKey, Seq, Slug, preview};
use crate::plan::{Api, Plan, Platform};

/// Largest fetch in bytes.
pub const FETCH_BYTES_MAX: usize = 256 * 1024;
/// Most labels of a fetch, and the longest name and value of one in bytes.
const LABELS_MAX: usize = 32;
const LABEL_NAME_BYTES_MAX: usize = 64;
const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Hex digits of SHA-256 in an id that was not given.
const ID_DIGITS: usize = 32;
/// What of an id is encoded in a header, beside all that is not ASCII.
const NOT_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The fields of a fetch.
pub(crate) const FIELDS: &[&str] = &[
    "id",
    "platform",
    "account",
    "api",
    "params",
    "not_before",
    "deadline",
    "fresh_for",
    "once",
    "priority",
    "labels",
];

/// A fetch that can be called.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Where it belongs.
    pub lane: LaneKey,
    /// Its id, given or made.
    pub id: String,
    /// The fetch with its id filled in and its parameters sorted by name.
    pub fetch: Fetch,
    /// That as JSON; at most 256 KiB.
    pub payload: Bytes,
}

impl Accepted {
    /// What `Nats-Msg-Id` says: `platform.account.api:id`, the account as in the subject.
    ///
    /// Of the id only visible ASCII stays as it is; `%` and the rest are percent-encoded, for a header holds
    /// one line of text. At most 1,281 bytes.
    pub fn message_id(&self) -> String {
        let id = utf8_percent_encode(&self.id, NOT_IN_HEADER);
        format!("{}.{}:{id}", self.lane.account.subject(), self.lane.api)
    }
}

/// Checks a line against the plan, and tries out the request and the key it would have.
///
/// A deadline is not compared with the time: that is for whoever has a clock.
///
/// # Errors
/// Whatever makes it no fetch that can be called; the refusal carries the fetch if it could be read.
pub fn check_fetch(plan: &Plan, raw: &[u8]) -> Result<Accepted, Refusal> {
    finish(read_json(raw)?, |fetch| check(plan, fetch))
}

/// Checks a fetch before it is published: against the plan where that declares platforms, as [`check_fetch`]
/// does, else its form only. A publisher's machine need not know the platforms; the node checks again.
///
/// # Errors
/// As [`check_fetch`].
pub fn check_to_publish(plan: &Plan, fetch: Fetch) -> Result<Accepted, Refusal> {
    if plan.platforms.is_empty() {
        check_form(fetch)
    } else {
        finish(fetch, |fetch| check(plan, fetch))
    }
}

/// Checks what can be checked without a plan: names, id, labels, times, size. Whether there is such a
/// platform, api or parameter is not known.
///
/// # Errors
/// As [`check_fetch`].
pub fn check_form(fetch: Fetch) -> Result<Accepted, Refusal> {
    finish(fetch, form)
}

/// The fetch as JSON.
///
/// # Errors
/// It is larger than 256 KiB.
pub fn encode_json(fetch: &Fetch) -> Result<Bytes, Refusal> {
    let json = to_json(fetch)?;
    check_size(json.len())?;
    Ok(Bytes::from(json))
}

/// The fetch as protobuf, for the content type `application/x-protobuf`.
///
/// # Errors
/// A field does not fit, or it is larger than 256 KiB.
pub fn encode_protobuf(fetch: &Fetch) -> Result<Bytes, Refusal> {
    let bytes = fetch
        .to_protobuf()
        .map_err(|error| Refusal::new(Code::FetchWrongType, error.to_string()))?;
    check_size(bytes.len())?;
    Ok(Bytes::from(bytes))
}

/// Runs a check that fills in what was left out, and gives the fetch to whichever way it goes.
pub(super) fn finish(
    mut fetch: Fetch,
    check: impl FnOnce(&mut Fetch) -> Result<(LaneKey, String, Bytes), Refusal>,
) -> Result<Accepted, Refusal> {
    match check(&mut fetch) {
        Ok((lane, id, payload)) => Ok(Accepted { lane, id, fetch, payload }),
        Err(refusal) => Err(Refusal { fetch: Some(Box::new(fetch)), ..refusal }),
    }
}

pub(super) fn check(plan: &Plan, fetch: &mut Fetch) -> Result<(LaneKey, String, Bytes), Refusal> {
    let (platform, api) = destination(plan, fetch)?;
    let account = account(fetch)?;
    check_fields(fetch)?;
    check_params(&fetch.params, api)?;
    let (id, payload) = settle(fetch)?;
    // Its own time is known only once it is queued; any will do to try it out.
    let queued_at = jiff::Timestamp::UNIX_EPOCH;
    let context = FetchContext { account: &account, id: &id, params: &fetch.params, queued_at };
    build(platform, api, &context)?;
    let (number, _) = platform.api(api.name.as_str()).unwrap_or((u16::MAX, api));
    let own = platform.special_of(&account).map_or(platform, |own| own);
    let costs = own.costs.of(&own.limits, own, number, &context)?;
    let mut is_allowed = costs::check(&own.limits, number, &costs);
    for budget in budgets(platform, api, &context)? {
        is_allowed =
            is_allowed.and_then(|()| costs::check(budget.limits(), number, budget.costs()));
    }
    // What is too heavy for a limit and can be made less is, when its turn comes.
    let splits = |split: &Split| split.parts(fetch, (&id, Seq(0)), &api.params.defaults).is_ok();
    if !api.answers.split.as_ref().is_some_and(splits) {
        is_allowed?;
    }
    if plan.store.key.text().contains("params") {
        object_key(
            &plan.store,
            &KeyContext {
                platform,
                api,
                account: &account,
                id: &id,
                params: &fetch.params,
                queued_at,
                page: 1,
                ext: "json.zst",
            },
        )?;
    }
    Ok((lane(platform.name.clone(), account, api.name.clone(), fetch), id, payload))
}

fn form(fetch: &mut Fetch) -> Result<(LaneKey, String, Bytes), Refusal> {
    let name = |field, given: &Option<String>, code| {
        let given = given.as_deref().ok_or_else(|| absent(field))?;
        Slug::new(given).map_err(|reason| Refusal::new(code, format!("{field}: {reason}")))
    };
    let platform = name("platform", &fetch.platform, Code::UnknownPlatform)?;
    let api = name("api", &fetch.api, Code::UnknownApi)?;
    let account = account(fetch)?;
    check_fields(fetch)?;
    for name in fetch.params.keys() {
        check_not_reserved(name)?;
    }
    let (id, payload) = settle(fetch)?;
    Ok((lane(platform, account, api, fetch), id, payload))
}

fn lane(platform: Slug, account: Account, api: Slug, fetch: &Fetch) -> LaneKey {
    LaneKey { account: AccountKey { platform, account }, api, priority: fetch.priority }
}

fn account(fetch: &Fetch) -> Result<Account, Refusal> {
    let account = fetch.account.as_deref().ok_or_else(|| absent("account"))?;
    Account::new(account).map_err(|reason| Refusal::new(Code::BadAccount, reason))
}

/// Sorts the parameters, makes the id if there is none, and writes the fetch down.
fn settle(fetch: &mut Fetch) -> Result<(String, Bytes), Refusal> {
    for value in fetch.params.values_mut() {
        value.sort_all_objects();
    }
    fetch.params.sort_keys();
    let id = if let Some(id) = &fetch.id {
        id.clone()
    } else {
        let digest = format!("{:x}", Sha256::digest(to_json(fetch)?));
        let id: String = digest.chars().take(ID_DIGITS).collect();
        fetch.id = Some(id.clone());
        id
    };
    Ok((id, encode_json(fetch)?))
}

/// Reads JSON, without a look at what the fields hold.
pub(crate) fn read_json(raw: &[u8]) -> Result<Fetch, Refusal> {
    check_size(raw.len())?;
    let text = std::str::from_utf8(raw).map_err(|error| {
        Refusal::new(Code::FetchNotUtf8, format!("byte {} is not UTF-8", error.valid_up_to() + 1))
    })?;
    if !text.trim_start().starts_with('{') {
        let what =
            if text.trim().is_empty() { "it is empty" } else { "it does not start with `{`" };
        return Err(Refusal::new(
            Code::FetchNotJson,
            format!("a fetch is one JSON object: {what}"),
        ));
    }
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            explain_field(text, &error)
        } else {
            Refusal::new(Code::FetchNotJson, format!("not JSON: {error}"))
        }
    })
}

/// Says which field is wrong: serde's message does not.
fn explain_field(text: &str, error: &serde_json::Error) -> Refusal {
    // Nested too deeply to be read a second time: then the first message has to do.
    let Ok(fields) = serde_json::from_str::<Map<String, Value>>(text) else {
        let code = if error.to_string().starts_with("unknown field") {
            Code::FetchUnknownField
        } else {
            Code::FetchWrongType
        };
        return Refusal::new(code, error.to_string());
    };
    for (name, value) in &fields {
        if !FIELDS.contains(&name.as_str()) {
            let hint = did_you_mean(name, FIELDS.iter().copied());
            return Refusal::new(
                Code::FetchUnknownField,
                format!("a fetch has no field `{}`{hint}", preview(name)),
            );
        }
        let (good, wanted) = match name.as_str() {
            "params" => (value.is_object(), "an object"),
            "labels" => (
                value.as_object().is_some_and(|labels| labels.values().all(Value::is_string)),
                "an object whose values are text",
            ),
            "once" => (value.is_boolean(), "true or false"),
            "priority" => (
                matches!(value.as_str(), Some("high" | "normal" | "low")),
                "\"high\", \"normal\" or \"low\"",
            ),
            "not_before" | "deadline" => (
                value.is_null()
                    || value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
                "a time such as \"2026-11-20T03:00:00Z\"",
            ),
            _ => (value.is_null() || value.is_string(), "text"),
        };
        if !good {
            return Refusal::new(Code::FetchWrongType, format!("`{name}` must be {wanted}"));
        }
    }
    Refusal::new(Code::FetchWrongType, error.to_string())
}

fn destination<'p>(plan: &'p Plan, fetch: &Fetch) -> Result<(&'p Platform, &'p Api), Refusal> {
    let platform = fetch.platform.as_deref().ok_or_else(|| absent("platform"))?;
    let api = fetch.api.as_deref().ok_or_else(|| absent("api"))?;
    let found = plan.platforms.values().find(|known| known.name.as_str() == platform);
    let found = found.ok_or_else(|| {
        let hint = did_you_mean(platform, plan.platforms.keys().map(Slug::as_str));
        Refusal::new(
            Code::UnknownPlatform,
            format!("there is no platform `{}`{hint}", preview(platform)),
        )
    })?;
    let (_, api) = found.api(api).ok_or_else(|| {
        let hint = did_you_mean(api, found.apis.iter().map(|known| known.name.as_str()));
        Refusal::new(
            Code::UnknownApi,
            format!("platform `{platform}` has no api `{}`{hint}", preview(api)),
        )
    })?;
    Ok((found, api))
}

fn check_fields(fetch: &Fetch) -> Result<(), Refusal> {
    match fetch.id.as_deref() {
        Some("") => return Err(Refusal::new(Code::BadId, "the id is empty")),
        Some(id) if id.len() > ID_BYTES_MAX => {
            return Err(Refusal::new(
                Code::BadId,
                format!("the id has {} bytes, at most {ID_BYTES_MAX} are allowed", id.len()),
            ));
        }
        _ => {}
    }
    if let Some(text) = &fetch.fresh_for
        && parse_duration(text).is_none()
    {
        let text = preview(text);
        return Err(Refusal::new(
            Code::FetchWrongType,
            format!(
                "`fresh_for` must be a length of time up to 8784h such as \"10m\", not `{text}`"
            ),
        ));
    }
    if let (Some(not_before), Some(deadline)) = (fetch.not_before, fetch.deadline)
        && deadline < not_before
    {
        return Err(Refusal::new(Code::DeadlinePassed, "`deadline` lies before `not_before`"));
    }
    if fetch.labels.len() > LABELS_MAX {
        return Err(Refusal::new(
            Code::BadLabels,
            format!("{} labels, at most {LABELS_MAX} are allowed", fetch.labels.len()),
        ));
    }
    for (name, value) in &fetch.labels {
        if name.is_empty() || name.len() > LABEL_NAME_BYTES_MAX {
            return Err(Refusal::new(
                Code::BadLabels,
                format!("a label's name has 1 to {LABEL_NAME_BYTES_MAX} bytes, not {}", name.len()),
            ));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return Err(Refusal::new(
                Code::BadLabels,
                format!("label `{}` has over {LABEL_VALUE_BYTES_MAX} bytes", preview(name)),
            ));
        }
    }
    Ok(())
}

fn check_params(params: &Map<String, Value>, api: &Api) -> Result<(), Refusal> {
    for name in params.keys() {
        if api.params.names.contains(name) {
            continue;
        }
        check_not_reserved(name)?;
        let known = api.params.names.iter().map(String::as_str);
        return Err(Refusal::new(
            Code::UnknownParameter,
            format!(
                "api `{}` takes no parameter `{}`{}",
                api.name,
                preview(name),
                did_you_mean(name, known)
            ),
        ));
    }
    Ok(())
}

fn check_not_reserved(name: &str) -> Result<(), Refusal> {
    if RESERVED.contains(&name) {
        return Err(Refusal::new(
            Code::UnknownParameter,
            format!("`{name}` is {} and may not be in `params`", taken_by(name)),
        ));
    }
    Ok(())
}

pub(super) fn check_size(bytes: usize) -> Result<(), Refusal> {
    if bytes > FETCH_BYTES_MAX {
        return Err(Refusal::new(
            Code::FetchTooLarge,
            format!("the fetch has {bytes} bytes, at most {FETCH_BYTES_MAX} are allowed"),
        ));
    }
    Ok(())
}

fn absent(field: &str) -> Refusal {
    Refusal::new(Code::FetchMissingField, format!("the fetch says no `{field}`"))
}

fn to_json(fetch: &Fetch) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(fetch)
        .map_err(|error| Refusal::new(Code::FetchNotJson, format!("not JSON: {error}")))
}
