//! The same messages in protobuf: the types generated from `tollgate/v1/*.proto`, and conversions both ways.
//!
//! Nothing is lost on the way: whole numbers keep all 64 bits, times their nanoseconds, an absent text stays
//! absent and an empty one empty. What does not fit is an error that names the field.
//!
//! A protobuf field that is not known is ignored, as proto3 asks
//! (<https://protobuf.dev/programming-guides/proto3/#unknowns>), while JSON refuses it: a name can be misspelt,
//! a compiled field cannot.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
pub use prost::Message;
use serde_json::{Map, Number, Value as Json};

use crate::{Dead, Done, Fetch, Object, Priority};

/// The generated types, as prost writes them. The schema has the same comments.
#[allow(clippy::pedantic, missing_debug_implementations, rustdoc::all)]
pub mod v1 {
    include!("gen/tollgate.v1.rs");
}

use v1::value::Kind;

/// Most lists and objects around a value of `params`, itself included. Protobuf libraries read a hundred
/// messages within each other, and an object takes three.
pub const DEPTH_MAX: usize = 32;

/// Why bytes or a message are not what they should be.
#[derive(Debug, Clone, PartialEq)]
pub enum WireError {
    /// The bytes are no such message: cut off, of another type, or no protobuf at all.
    Torn(prost::DecodeError),
    /// A field holds what does not fit.
    Unfit {
        /// Which, as `params.ids` or `deadline`.
        field: String,
        /// What is wrong with it; reads on after the field's name.
        reason: String,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn(error) => write!(f, "{error}"),
            Self::Unfit { field, reason } => write!(f, "`{field}` {reason}"),
        }
    }
}

impl std::error::Error for WireError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Torn(error) => Some(error),
            Self::Unfit { .. } => None,
        }
    }
}

impl Fetch {
    /// Reads protobuf.
    ///
    /// # Errors
    /// The bytes are no `tollgate.v1.Fetch`, or a field holds what does not fit.
    pub fn from_protobuf(bytes: &[u8]) -> Result<Self, WireError> {
        v1::Fetch::decode(bytes).map_err(WireError::Torn)?.try_into()
    }

    /// Writes protobuf; the same fetch always gives the same bytes.
    ///
    /// # Errors
    /// `params` nests deeper than [`DEPTH_MAX`], or a time lies before the year 1.
    pub fn to_protobuf(&self) -> Result<Vec<u8>, WireError> {
        Ok(v1::Fetch::try_from(self)?.encode_to_vec())
    }
}

impl TryFrom<v1::Fetch> for Fetch {
    type Error = WireError;

    fn try_from(wire: v1::Fetch) -> Result<Self, WireError> {
        let priority = match v1::Priority::try_from(wire.priority) {
            Ok(v1::Priority::Normal) => Priority::Normal,
            Ok(v1::Priority::High) => Priority::High,
            Ok(v1::Priority::Low) => Priority::Low,
            Err(_) => {
                let reason = format!(
                    "is {}, which is none: 0 is normal, 1 is high, 2 is low",
                    wire.priority
                );
                return Err(unfit("priority", reason));
            }
        };
        let mut params = Map::new();
        for (name, value) in wire.params {
            let json = to_json(value, 0).map_err(|reason| in_param(&name, reason))?;
            params.insert(name, json);
        }
        Ok(Self {
            id: wire.id,
            platform: wire.platform,
            account: wire.account,
            api: wire.api,
            params,
            not_before: wire.not_before.map(|at| to_time("not_before", at)).transpose()?,
            deadline: wire.deadline.map(|at| to_time("deadline", at)).transpose()?,
            fresh_for: wire.fresh_for,
            once: wire.once,
            priority,
            labels: wire.labels,
        })
    }
}

impl TryFrom<&Fetch> for v1::Fetch {
    type Error = WireError;

    fn try_from(fetch: &Fetch) -> Result<Self, WireError> {
        let priority = match fetch.priority {
            Priority::Normal => v1::Priority::Normal,
            Priority::High => v1::Priority::High,
            Priority::Low => v1::Priority::Low,
        };
        let mut params = BTreeMap::new();
        for (name, json) in &fetch.params {
            let value = from_json(json, 0).map_err(|reason| in_param(name, reason))?;
            params.insert(name.clone(), value);
        }
        Ok(Self {
            id: fetch.id.clone(),
            platform: fetch.platform.clone(),
            account: fetch.account.clone(),
            api: fetch.api.clone(),
            params,
            not_before: fetch.not_before.map(|at| from_time("not_before", at)).transpose()?,
            deadline: fetch.deadline.map(|at| from_time("deadline", at)).transpose()?,
            fresh_for: fetch.fresh_for.clone(),
            once: fetch.once,
            priority: priority.into(),
            labels: fetch.labels.clone(),
        })
    }
}

impl From<v1::Object> for Object {
    fn from(wire: v1::Object) -> Self {
        let v1::Object { key, bytes, sha256, stored_bytes, member, stored_sha256 } = wire;
        Self { key, bytes, sha256, stored_bytes, stored_sha256, member }
    }
}

impl From<Object> for v1::Object {
    fn from(object: Object) -> Self {
        let Object { key, bytes, sha256, stored_bytes, stored_sha256, member } = object;
        Self { key, bytes, sha256, stored_bytes, member, stored_sha256 }
    }
}

impl TryFrom<v1::Done> for Done {
    type Error = WireError;

    fn try_from(wire: v1::Done) -> Result<Self, WireError> {
        Ok(Self {
            id: wire.id,
            seq: wire.seq,
            objects: wire.objects.into_iter().map(Object::from).collect(),
            http_status: status(wire.http_status)?,
            attempts: wire.attempts,
            pages: wire.pages,
            waited_ms: wire.waited_ms,
            fetched_at: required_time("fetched_at", wire.fetched_at)?,
            labels: wire.labels,
            manifest: wire.manifest,
            lists: wire.lists,
            empty: wire.empty,
            incomplete: wire.incomplete,
            request_id: wire.request_id,
            split_into: wire.split_into,
        })
    }
}

impl TryFrom<&Done> for v1::Done {
    type Error = WireError;

    fn try_from(done: &Done) -> Result<Self, WireError> {
        Ok(Self {
            id: done.id.clone(),
            seq: done.seq,
            objects: done.objects.iter().cloned().map(v1::Object::from).collect(),
            http_status: done.http_status.into(),
            attempts: done.attempts,
            pages: done.pages,
            waited_ms: done.waited_ms,
            fetched_at: Some(from_time("fetched_at", done.fetched_at)?),
            labels: done.labels.clone(),
            manifest: done.manifest.clone(),
            lists: done.lists,
            empty: done.empty,
            incomplete: done.incomplete,
            request_id: done.request_id.clone(),
            split_into: done.split_into.clone(),
        })
    }
}

impl TryFrom<v1::Dead> for Dead {
    type Error = WireError;

    fn try_from(wire: v1::Dead) -> Result<Self, WireError> {
        Ok(Self {
            seq: wire.seq,
            fetch: wire.fetch.map(Fetch::try_from).transpose()?,
            raw: wire.raw,
            source: wire.source,
            code: wire.code,
            reason: wire.reason,
            attempts: wire.attempts,
            http_status: wire.http_status.map(status).transpose()?,
            body_start: wire.body_start,
            request_id: wire.request_id,
            died_at: required_time("died_at", wire.died_at)?,
        })
    }
}

impl TryFrom<&Dead> for v1::Dead {
    type Error = WireError;

    fn try_from(dead: &Dead) -> Result<Self, WireError> {
        Ok(Self {
            seq: dead.seq,
            fetch: dead.fetch.as_ref().map(v1::Fetch::try_from).transpose()?,
            raw: dead.raw.clone(),
            source: dead.source.clone(),
            code: dead.code.clone(),
            reason: dead.reason.clone(),
            attempts: dead.attempts,
            http_status: dead.http_status.map(u32::from),
            body_start: dead.body_start.clone(),
            request_id: dead.request_id.clone(),
            died_at: Some(from_time("died_at", dead.died_at)?),
        })
    }
}

/// `around` counts the lists and objects around the value.
fn to_json(value: v1::Value, around: usize) -> Result<Json, String> {
    let kind = value.kind.ok_or("has a value without a kind; for null, set null_value")?;
    Ok(match kind {
        Kind::NullValue(_) => Json::Null,
        Kind::BoolValue(value) => value.into(),
        Kind::Int64Value(value) => value.into(),
        Kind::Uint64Value(value) => value.into(),
        Kind::DoubleValue(value) => Number::from_f64(value)
            .map(Json::Number)
            .ok_or_else(|| format!("has the number {value}, which JSON cannot hold"))?,
        Kind::StringValue(value) => value.into(),
        Kind::ListValue(list) => {
            check_depth(around)?;
            let values: Result<_, _> =
                list.values.into_iter().map(|value| to_json(value, around + 1)).collect();
            Json::Array(values?)
        }
        Kind::ObjectValue(object) => {
            check_depth(around)?;
            let mut fields = Map::new();
            for (name, value) in object.fields {
                fields.insert(name, to_json(value, around + 1)?);
            }
            Json::Object(fields)
        }
    })
}

fn from_json(json: &Json, around: usize) -> Result<v1::Value, String> {
    let kind = match json {
        Json::Null => Kind::NullValue(prost_types::NullValue::NullValue.into()),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => {
            if let Some(value) = number.as_i64() {
                Kind::Int64Value(value)
            } else if let Some(value) = number.as_u64() {
                Kind::Uint64Value(value)
            } else {
                let value = number.as_f64().filter(|value| value.is_finite());
                Kind::DoubleValue(value.ok_or("has a number that no double can hold")?)
            }
        }
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => {
            check_depth(around)?;
            let values: Result<_, _> =
                values.iter().map(|value| from_json(value, around + 1)).collect();
            Kind::ListValue(v1::ListValue { values: values? })
        }
        Json::Object(fields) => {
            check_depth(around)?;
            let mut wire = BTreeMap::new();
            for (name, value) in fields {
                wire.insert(name.clone(), from_json(value, around + 1)?);
            }
            Kind::ObjectValue(v1::ObjectValue { fields: wire })
        }
    };
    Ok(v1::Value { kind: Some(kind) })
}

fn check_depth(around: usize) -> Result<(), String> {
    if around >= DEPTH_MAX {
        return Err(format!(
            "nests deeper than the {DEPTH_MAX} lists and objects that protobuf may carry"
        ));
    }
    Ok(())
}

fn to_time(field: &str, at: prost_types::Timestamp) -> Result<Timestamp, WireError> {
    if !(0..1_000_000_000).contains(&at.nanos) {
        let reason = format!("has {} ns; a timestamp has 0 to 999,999,999", at.nanos);
        return Err(unfit(field, reason));
    }
    let outside = || {
        let reason = format!("is {} s from 1970, outside the years 1 to 9999", at.seconds);
        unfit(field, reason)
    };
    let time = Timestamp::new(at.seconds, at.nanos).map_err(|_| outside())?;
    if at.seconds < YEAR_ONE_S { Err(outside()) } else { Ok(time) }
}

/// 0001-01-01T00:00:00Z, the first moment of a `google.protobuf.Timestamp`
/// (<https://protobuf.dev/reference/protobuf/google.protobuf/#timestamp>), in seconds from 1970.
const YEAR_ONE_S: i64 = -62_135_596_800;

fn from_time(field: &str, at: Timestamp) -> Result<prost_types::Timestamp, WireError> {
    // Protobuf counts nanoseconds upwards from the second, also before 1970.
    let (mut seconds, mut nanos) = (at.as_second(), at.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    if seconds < YEAR_ONE_S {
        return Err(unfit(field, format!("is {at}, before the year 1")));
    }
    Ok(prost_types::Timestamp { seconds, nanos })
}

fn required_time(field: &str, at: Option<prost_types::Timestamp>) -> Result<Timestamp, WireError> {
    to_time(field, at.ok_or_else(|| unfit(field, "is not set".into()))?)
}

fn status(status: u32) -> Result<u16, WireError> {
    u16::try_from(status)
        .map_err(|_| unfit("http_status", format!("is {status}, at most 65535 can be")))
}

fn in_param(name: &str, reason: String) -> WireError {
    // A name can be as long as a fetch.
    let name: String = name.chars().take(32).flat_map(char::escape_debug).collect();
    unfit(&format!("params.{name}"), reason)
}

fn unfit(field: &str, reason: String) -> WireError {
    WireError::Unfit { field: field.to_owned(), reason }
}

#[cfg(test)]
mod tests;
