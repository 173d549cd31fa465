//! Where an object goes: `store.key` filled in part by part.
//!
//! A value never leaves its part: what could end it or means something to a store is percent-encoded.
//! Distinct fetches get distinct keys: the template must name all that tells them apart, with something
//! between two values, and a part that is too long for a file name is cut and ends in a hash of the whole.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use object_store::path::Path;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::template::{Found, Fragment, Piece, Scope};
use super::{Refusal, Template};
use crate::codes::Code;
use crate::ids::Account;
use crate::plan::{Api, Platform, StorePlan};

/// Longest key in bytes; S3 allows as much.
pub const KEY_BYTES_MAX: usize = 1024;
/// Highest page number.
pub const PAGE_MAX: u32 = 99_999;
/// Longest part of a key in bytes; file systems allow 255, and temporary names need some of them.
const PART_BYTES_MAX: usize = 200;
/// Hex digits of SHA-256 at the end of a part that was cut.
const HASH_DIGITS: usize = 32;
/// Stands before that hash. It is encoded in values, so no value can look like a part that was cut.
const CUT: char = '~';
/// Bytes of its own hash that tell a member's name with a secret from another such one: too few to find the secret by.
const SEEN_BYTES: usize = 4;
/// Longest end of a member's name that is kept where the name is cut, in bytes.
const KIND_BYTES_MAX: usize = 8;
const MANIFEST: &str = "_manifest.json";
/// Says whose a folder is, where a template lets fetches that differ ask for the same one.
pub(crate) const OWNER: &str = "_owner.json";
/// What the names of members begin with: they are of the first page.
const MEMBER_START: &str = "00001.";

/// What `store.key` may name.
pub(crate) const KEY_VARIABLES: &[&str] =
    &["platform", "api", "account", "id", "date", "page", "ext", "params.*"];

/// The set that `object_store` encodes in a part: everything that S3 or GCS advise against.
const PART: &AsciiSet = &CONTROLS
    .add(b'/')
    .add(b'\\')
    .add(b'{')
    .add(b'}')
    .add(b'^')
    .add(b'%')
    .add(b'`')
    .add(b'[')
    .add(b']')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'~')
    .add(b'#')
    .add(b'|')
    .add(b'*')
    .add(b'?');

/// What a key needs of its fetch.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    /// The provider.
    pub platform: &'a Platform,
    /// The endpoint.
    pub api: &'a Api,
    /// Whom the provider counts.
    pub account: &'a Account,
    /// The fetch's id.
    pub id: &'a str,
    /// Its parameters.
    pub params: &'a Map<String, Value>,
    /// When it was queued; the key holds its day in UTC.
    pub queued_at: Timestamp,
    /// Which page, from 1 to 99,999; five digits in the key.
    pub page: u32,
    /// What the key ends in, without a dot: `json.zst`.
    pub ext: &'a str,
}

struct KeyScope<'a> {
    context: &'a KeyContext<'a>,
    date: String,
    page: String,
}

impl Scope for KeyScope<'_> {
    fn get(&self, name: &str) -> Option<Found<'_>> {
        let context = self.context;
        let defaults = &context.api.params.defaults;
        Some(match name {
            "platform" => Found::Text(context.platform.name.as_str()),
            "api" => Found::Text(context.api.name.as_str()),
            "account" => Found::Text(context.account.as_str()),
            "id" => Found::Text(context.id),
            "date" => Found::Text(&self.date),
            "page" => Found::Text(&self.page),
            "ext" => Found::Text(context.ext),
            "params" => Found::Maps(context.params, Some(defaults)),
            name => {
                let name = name.strip_prefix("params.")?;
                Found::Json(context.params.get(name).or_else(|| defaults.get(name))?)
            }
        })
    }
}

/// The key of one object.
///
/// # Errors
/// A part would be empty, a parameter is missing or cannot be used, or the key is longer than 1,024 bytes.
pub fn object_key(store: &StorePlan, context: &KeyContext<'_>) -> Result<Path, Refusal> {
    if !(1..=PAGE_MAX).contains(&context.page) {
        return Err(Refusal::new(
            Code::KeyRefused,
            format!("page {} is not between 1 and {PAGE_MAX}", context.page),
        ));
    }
    let scope = KeyScope {
        context,
        date: context.queued_at.to_zoned(TimeZone::UTC).date().to_string(),
        page: format!("{:05}", context.page),
    };
    let mut key = String::with_capacity(128);
    let mut part = String::with_capacity(64);
    store.key.fill(&scope, |fragment| {
        match fragment {
            Fragment::Value(value) => part.extend(utf8_percent_encode(value, PART)),
            Fragment::Text(text) => {
                for (i, literal) in text.split('/').enumerate() {
                    if i > 0 {
                        push_part(&mut key, &part)?;
                        key.push('/');
                        part.clear();
                    }
                    part.push_str(literal);
                }
            }
        }
        Ok(())
    })?;
    push_part(&mut key, &part)?;
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::new(Code::KeyRefused, too_long(&key)));
    }
    Path::parse(&key).map_err(|error| Refusal::new(Code::KeyRefused, error.to_string()))
}

/// The key of a fetch's manifest: beside its first page.
pub fn manifest_key(first_page: &Path) -> Path {
    first_page.parent().unwrap_or_default().join(MANIFEST)
}

/// The key of what says whose the objects beside it are.
pub(crate) fn owner_key(manifest: &Path) -> Path {
    manifest.parent().unwrap_or_default().join(OWNER)
}

/// The key of a member of an archive, of which several are stored: beside the fetch's manifest, `00001.` and the name,
/// encoded as one part of a key, and what tells of the compression. A long name is cut and has a hash of the whole.
/// `clean`: the name as it may be shown, where it holds secrets; that and a hash stand for it then.
///
/// # Errors
/// The key is longer than 1,024 bytes.
pub fn member_key(
    first_page: &Path,
    name: &[u8],
    clean: Option<&str>,
    suffix: &str,
) -> Result<Path, Refusal> {
    let mut part = format!("{MEMBER_START}{}", percent_encode(name, PART));
    let mut whole = part.clone();
    if let Some(clean) = clean {
        part = format!("{MEMBER_START}{}", utf8_percent_encode(clean, PART));
        let seen = Sha256::digest(name);
        whole = format!("{part}{CUT}{:x?}", seen.get(..SEEN_BYTES).unwrap_or_default());
    }
    if clean.is_some() || part.len() + suffix.len() > PART_BYTES_MAX {
        // What the name ends in, if that looks like a kind of file.
        let of = part.rsplit_once('.').map_or("", |(_, end)| end);
        let is_kind = (1..=KIND_BYTES_MAX).contains(&of.len())
            && of.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let kind = if is_kind { format!(".{of}") } else { String::new() };
        let start = part.strip_suffix(&*kind).unwrap_or(&part);
        part = hashed(start, &whole, PART_BYTES_MAX - suffix.len() - kind.len()) + &kind;
    }
    let folder = first_page.parent().unwrap_or_default();
    let key = format!("{folder}/{part}{suffix}");
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::new(Code::KeyRefused, too_long(&key)));
    }
    let key = key.trim_start_matches('/');
    Path::parse(key).map_err(|error| Refusal::new(Code::KeyRefused, error.to_string()))
}

/// Whether a key is that of a member, or of the answer itself, of the fetch whose manifest this is.
pub fn is_member_key(key: &Path, manifest: &Path) -> bool {
    key.parent() == manifest.parent()
        && key.filename().is_some_and(|name| name.starts_with(MEMBER_START))
}

fn too_long(key: &str) -> String {
    format!("the key has {} bytes, at most {KEY_BYTES_MAX} are allowed", key.len())
}

/// The beginning of an encoded part and a hash of all of it, together of so many bytes at most.
fn cut(part: &str, most: usize) -> String {
    hashed(part, part, most)
}

/// The beginning of an encoded part and a hash of the whole, together of so many bytes at most.
fn hashed(part: &str, whole: &str, most: usize) -> String {
    let mut kept = part.len().min(most - HASH_DIGITS - CUT.len_utf8());
    // An encoded byte is not cut in two.
    let tail = kept.saturating_sub(2);
    if let Some(sign) = part.get(tail..kept).and_then(|tail| tail.find('%')) {
        kept = tail + sign;
    }
    let hash = format!("{:x}", Sha256::digest(whole.as_bytes()));
    let hash = hash.get(..HASH_DIGITS).expect("SHA-256 has 64 digits");
    format!("{}{CUT}{hash}", part.get(..kept).expect("an encoded part is ASCII"))
}

/// Appends an encoded part: not empty, not `.` or `..`, at most 200 bytes.
fn push_part(key: &mut String, part: &str) -> Result<(), Refusal> {
    match part {
        "" => {
            return Err(Refusal::new(
                Code::KeyRefused,
                "a part of the object's key would be empty",
            ));
        }
        "." => key.push_str("%2E"),
        ".." => key.push_str("%2E%2E"),
        _ if part.len() <= PART_BYTES_MAX => key.push_str(part),
        _ => key.push_str(&cut(part, PART_BYTES_MAX)),
    }
    Ok(())
}

/// The names that a template for keys leaves out, of those that tell fetches apart. With all of them no two different
/// fetches have a folder in common.
pub(crate) fn narrow(template: &Template) -> Vec<&'static str> {
    ["platform", "api", "account", "id"].into_iter().filter(|name| !names(template, name)).collect()
}

/// Whether a template for keys has this name as it is, without a filter that could make two values one.
pub(crate) fn names(template: &Template, name: &str) -> bool {
    template.pieces().iter().any(|piece| matches!(piece, Piece::Name(n) if &**n == name))
}

/// What every key of an api begins with: the parts of the template that its platform and name tell.
pub(crate) fn key_prefix(store: &StorePlan, platform: &Platform, api: &Api) -> Path {
    let mut prefix = Path::default();
    let mut part = String::new();
    for piece in store.key.pieces() {
        let text = match piece {
            Piece::Text(text) => text,
            Piece::Name(name) if &**name == "platform" => platform.name.as_str(),
            Piece::Name(name) if &**name == "api" => api.name.as_str(),
            Piece::Name(_) | Piece::Computed(_) => return prefix,
        };
        for (i, literal) in text.split('/').enumerate() {
            if i > 0 {
                prefix = prefix.join(std::mem::take(&mut part));
            }
            part.push_str(literal);
        }
    }
    prefix
}

/// What is wrong with a template for keys, sentence by sentence: what could make two objects share a key.
pub(crate) fn template_problems(template: &Template) -> Vec<String> {
    let mut problems = Vec::new();
    if !names(template, "page") {
        problems
            .push("`{page}` is missing, so that the pages of a fetch would share a key".to_owned());
    }
    let parts = parts_of(template);
    for part in &parts {
        let free = part.iter().filter(|piece| is_free(piece)).count();
        if free > 1 || (free == 1 && part.iter().any(|piece| matches!(piece, KeyPiece::Ext))) {
            problems.push("put `/` between two names of one part: joined by anything else, different values could give the same key".to_owned());
        }
        if part.windows(2).any(|pair| pair.iter().all(|piece| !matches!(piece, KeyPiece::Text(_))))
        {
            problems
                .push("two placeholders stand side by side: put something between them".to_owned());
        }
        if part.is_empty() {
            problems
                .push("a part is empty: no `/` at the start or the end, and no `//`".to_owned());
        }
        for piece in part {
            if let KeyPiece::Text(text) = piece
                && utf8_percent_encode(text, PART).to_string() != *text
            {
                problems.push(format!("`{text}` holds a character that keys cannot have"));
            }
        }
        if let [KeyPiece::Text("." | "..")] = part.as_slice() {
            problems.push("a part may not be `.` or `..`".to_owned());
        }
    }
    if let Some(last) = parts.last() {
        if last.iter().any(is_free) {
            problems.push(
                "behind the last `/` only `{page}`, `{date}` and `{ext}` may stand: the manifest goes beside the first page, one for each fetch"
                    .to_owned(),
            );
        }
        if matches!(last.first(), Some(KeyPiece::Text(text)) if text.starts_with("_manifest")) {
            problems.push("a name that starts with `_manifest` is taken".to_owned());
        }
        if matches!(last.first(), Some(KeyPiece::Text(text)) if text.starts_with("_pages")) {
            problems.push("a name that starts with `_pages` is taken".to_owned());
        }
        if matches!(last.first(), Some(KeyPiece::Text(text)) if text.starts_with("_owner")) {
            problems.push("a name that starts with `_owner` is taken".to_owned());
        }
    }
    if let Some([KeyPiece::Text(text)]) = parts.first().map(Vec::as_slice)
        && matches!(*text, "_manifests" | "_fresh")
    {
        problems.push(format!("the folder `{text}` is taken"));
    }
    problems
}

/// A piece of one part of a key.
enum KeyPiece<'a> {
    Text(&'a str),
    /// `date` or `page`: of a fixed length.
    Fixed,
    /// `ext`: one of a few, of different lengths.
    Ext,
    /// Any text.
    Free,
}

fn is_free(piece: &KeyPiece<'_>) -> bool {
    matches!(piece, KeyPiece::Free)
}

/// A template for keys, split at its literal `/`.
fn parts_of(template: &Template) -> Vec<Vec<KeyPiece<'_>>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    for piece in template.pieces() {
        match piece {
            Piece::Text(text) => {
                for (i, literal) in text.split('/').enumerate() {
                    if i > 0 {
                        parts.push(std::mem::take(&mut part));
                    }
                    if !literal.is_empty() {
                        part.push(KeyPiece::Text(literal));
                    }
                }
            }
            Piece::Name(name) if matches!(&**name, "date" | "page") => part.push(KeyPiece::Fixed),
            Piece::Name(name) if &**name == "ext" => part.push(KeyPiece::Ext),
            Piece::Name(_) | Piece::Computed(_) => part.push(KeyPiece::Free),
        }
    }
    parts.push(part);
    parts
}
