//! What any NATS client published becomes a fetch that can be called: its subject, its content type, its bytes.

use tollgate_protos::wire::WireError;
use tollgate_protos::{Fetch, Priority};

use super::Refusal;
use super::check::{Accepted, check, check_size, finish, read_json};
use crate::codes::Code;
use crate::ids::{Account, LaneKey, preview};
use crate::plan::Plan;

/// The content type of a fetch in protobuf.
pub const PROTOBUF: &str = "application/x-protobuf";

/// What a message says its payload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// `application/json`, or nothing at all.
    Json,
    /// `application/x-protobuf`, `application/protobuf` or `application/vnd.google.protobuf`:
    /// a `tollgate.v1.Fetch`.
    Protobuf,
    /// Something else; the first 32 characters of it.
    Other(String),
}

impl Content {
    /// Reads the header `Content-Type`; upper and lower case are one, and what follows a `;` has no
    /// meaning here.
    pub fn of(header: Option<&str>) -> Self {
        let text = header.unwrap_or_default();
        let (kind, _parameters) = text.split_once(';').unwrap_or((text, ""));
        match kind.trim().to_ascii_lowercase().as_str() {
            "" | "application/json" => Self::Json,
            PROTOBUF | "application/protobuf" | "application/vnd.google.protobuf" => Self::Protobuf,
            _ => Self::Other(preview(text.trim())),
        }
    }
}

/// Checks what was published under a lane's subject, as [`check_fetch`](super::check_fetch) checks a line.
///
/// The subject says platform, account, api and priority; a fetch may leave them out, and gets them filled in.
/// What it says must agree: the account as the provider knows it with the decoded account of the subject, a
/// priority other than normal with the subject's `.high` or `.low`.
///
/// # Errors
/// Whatever makes it no fetch that can be called. The refusal carries the fetch if it could be read, whole:
/// with what the subject says filled in wherever the fetch says nothing.
pub fn check_queued(
    plan: &Plan,
    lane: &LaneKey,
    content: &Content,
    payload: &[u8],
) -> Result<Accepted, Refusal> {
    let fetch = match content {
        Content::Json => read_json(payload).map_err(|refusal| or_protobuf(refusal, payload))?,
        Content::Protobuf => read_protobuf(payload)?,
        Content::Other(kind) => {
            let reason = format!(
                "the header Content-Type says `{kind}`; send JSON (application/json, or no such header) or \
                 protobuf ({PROTOBUF})"
            );
            return Err(Refusal::new(Code::UnknownContentType, reason));
        }
    };
    finish(fetch, |fetch| {
        agree(lane, fetch)?;
        check(plan, fetch)
    })
}

fn read_protobuf(payload: &[u8]) -> Result<Fetch, Refusal> {
    check_size(payload.len())?;
    let looks_like_json = payload.trim_ascii_start().first() == Some(&b'{');
    let json = || {
        let reason = format!(
            "the header Content-Type says protobuf, but it looks like JSON: send application/json, or a \
             tollgate.v1.Fetch as {PROTOBUF}"
        );
        Refusal::new(Code::FetchNotProtobuf, reason)
    };
    // As a tag, `{` would begin a group, which proto3 does not have.
    if payload.first() == Some(&b'{') {
        return Err(json());
    }
    Fetch::from_protobuf(payload).map_err(|error| match error {
        WireError::Torn(_) if looks_like_json => json(),
        WireError::Torn(error) => {
            let text = error.to_string();
            let detail = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text);
            Refusal::new(Code::FetchNotProtobuf, format!("not a tollgate.v1.Fetch: {detail}"))
        }
        WireError::Unfit { .. } => Refusal::new(Code::FetchWrongType, error.to_string()),
    })
}

/// Says what to do where protobuf came without its header.
fn or_protobuf(refusal: Refusal, payload: &[u8]) -> Refusal {
    let unreadable = matches!(refusal.code, Code::FetchNotJson | Code::FetchNotUtf8);
    if !unreadable || payload.is_empty() || Fetch::from_protobuf(payload).is_err() {
        return refusal;
    }
    let reason = format!(
        "{}; it looks like protobuf, which needs the header Content-Type: {PROTOBUF}",
        refusal.reason
    );
    Refusal { reason, ..refusal }
}

/// Fills in what the subject says and the fetch does not, then compares.
fn agree(lane: &LaneKey, fetch: &mut Fetch) -> Result<(), Refusal> {
    let (platform, account) = (lane.account.platform.as_str(), lane.account.account.as_str());
    let mut differs = None;
    for (field, said, subject) in [
        ("platform", &mut fetch.platform, platform),
        ("account", &mut fetch.account, account),
        ("api", &mut fetch.api, lane.api.as_str()),
    ] {
        let said = said.get_or_insert_with(|| subject.to_owned());
        if said != subject && differs.is_none() {
            differs = Some((field, said.clone(), subject));
        }
    }
    let said_priority = fetch.priority;
    if said_priority == Priority::Normal {
        fetch.priority = lane.priority;
    }
    if let Some((field, said, subject)) = differs {
        let encoded = field == "account"
            && Account::decode(&said).is_ok_and(|account| account == lane.account.account);
        let hint = if encoded {
            "; only in the subject is an account percent-encoded, the fetch has it as the provider knows it"
        } else {
            ""
        };
        let reason = format!(
            "the subject says {field} `{}`, the fetch `{}`{hint}",
            preview(subject),
            preview(&said)
        );
        return Err(Refusal::new(Code::SubjectMismatch, reason));
    }
    if fetch.priority != lane.priority {
        let reason = format!(
            "the subject says priority `{}`, the fetch `{}`; the subject of one that is not normal ends in \
             .high or .low",
            name(lane.priority),
            name(said_priority)
        );
        return Err(Refusal::new(Code::SubjectMismatch, reason));
    }
    Ok(())
}

fn name(priority: Priority) -> &'static str {
    match priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}
