//! A case: a fetch, the answers that were recorded for it, and what should come of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// Largest file of a case, and of a body beside it, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
const BODY_BYTES_MAX: u64 = 256 << 20;
/// Most answers of a case.
const ANSWERS_MAX: usize = 10_000;
/// When a fetch was queued whose case does not say it.
const QUEUED_AT: &str = "2026-11-20T12:00:00Z";

/// A fetch and the answers to its calls.
#[derive(Debug, Clone)]
pub struct Case {
    /// The fetch, as it would be published.
    pub fetch: serde_json::Value,
    /// When it is queued.
    pub queued_at: Timestamp,
    /// One for each call, in order.
    pub answers: Vec<Recorded>,
    /// The report that is expected, if one is.
    pub expected: Option<String>,
}

/// A recorded answer.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What comes back.
    pub kind: RecordedKind,
    /// How long the answer's head takes.
    pub after: Duration,
}

/// What comes back on a call.
#[derive(Debug, Clone)]
pub enum RecordedKind {
    /// An answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: HeaderMap,
        /// Its body.
        body: Bytes,
    },
    /// No connection comes about.
    Unreachable,
    /// The connection breaks before an answer.
    Broken,
}

/// Why a file is no case: a sentence that says where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaseError(String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    fetch: toml::Table,
    queued_at: Option<String>,
    #[serde(default)]
    answers: Vec<RawAnswer>,
    expect: Option<RawExpect>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    report: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnswer {
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    text: Option<String>,
    json: Option<toml::Value>,
    file: Option<PathBuf>,
    fails: Option<Fails>,
    after: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fails {
    Unreachable,
    Broken,
}

impl Case {
    /// Reads a case; files of bodies are beside it.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        let bytes = read_file(path, FILE_BYTES_MAX)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| CaseError(format!("{}: not UTF-8", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder)
            .map_err(|CaseError(reason)| CaseError(format!("{}: {reason}", path.display())))
    }

    /// The same from text; `folder` has the files of bodies.
    ///
    /// # Errors
    /// It is no case, or a body cannot be read.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, CaseError> {
        let raw: RawCase =
            toml::from_str(text).map_err(|error| CaseError(format!("not a case: {error}")))?;
        if raw.answers.len() > ANSWERS_MAX {
            return Err(CaseError(format!(
                "{} answers, at most {ANSWERS_MAX} are allowed",
                raw.answers.len()
            )));
        }
        let queued_at = raw.queued_at.as_deref().unwrap_or(QUEUED_AT);
        let queued_at = queued_at.parse().map_err(|_| {
            CaseError(format!("queued_at: `{queued_at}` is no time such as {QUEUED_AT}"))
        })?;
        let fetch = serde_json::to_value(&raw.fetch)
            .map_err(|error| CaseError(format!("fetch: not JSON: {error}")))?;
        let answers = raw.answers.into_iter().enumerate().map(|(number, answer)| {
            answer
                .read(folder)
                .map_err(|reason| CaseError(format!("answer {}: {reason}", number + 1)))
        });
        Ok(Self {
            fetch,
            queued_at,
            answers: answers.collect::<Result<_, _>>()?,
            expected: raw.expect.map(|expect| expect.report),
        })
    }
}

impl RawAnswer {
    fn read(self, folder: &Path) -> Result<Recorded, String> {
        let after = match self.after.as_deref().map(|text| (text, text.parse::<SignedDuration>())) {
            None => Duration::ZERO,
            Some((text, parsed)) => parsed
                .ok()
                .and_then(|after| Duration::try_from(after).ok())
                .ok_or_else(|| format!("after: `{text}` is no length of time such as \"2s\""))?,
        };
        let bodies = [self.text.is_some(), self.json.is_some(), self.file.is_some()];
        if bodies.into_iter().filter(|has| *has).count() > 1 {
            return Err("has one body: `text`, `json` or `file`".to_owned());
        }
        if let Some(fails) = self.fails {
            if bodies.contains(&true) || self.status.is_some() || !self.headers.is_empty() {
                return Err("where a call fails there is no status, header or body".to_owned());
            }
            let kind = match fails {
                Fails::Unreachable => RecordedKind::Unreachable,
                Fails::Broken => RecordedKind::Broken,
            };
            return Ok(Recorded { kind, after });
        }
        let status = self.status.unwrap_or(200);
        if !(200..=599).contains(&status) {
            return Err(format!("status {status} is none of a whole answer"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("headers: `{name}` is no name of a header"))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("headers: the value of `{name}` cannot stand in a header"))?;
            headers.append(name, value);
        }
        let body = match (self.text, self.json, self.file) {
            (Some(text), ..) => Bytes::from(text),
            (_, Some(json), _) => {
                let kind = HeaderValue::from_static("application/json");
                headers.entry(http::header::CONTENT_TYPE).or_insert(kind);
                serde_json::to_vec(&json).map_err(|error| format!("json: {error}"))?.into()
            }
            (.., Some(file)) => {
                let path = folder.join(file);
                read_file(&path, BODY_BYTES_MAX).map_err(|error| error.0)?.into()
            }
            (None, None, None) => Bytes::new(),
        };
        Ok(Recorded { kind: RecordedKind::Answer { status, headers, body }, after })
    }
}

fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, CaseError> {
    use std::io::Read;
    let fail =
        |error: std::io::Error| CaseError(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(fail)?;
    if bytes.len() as u64 > most {
        return Err(CaseError(format!("{} is larger than {most} bytes", path.display())));
    }
    Ok(bytes)
}
