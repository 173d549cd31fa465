//! Tables of limits: one for a platform, one for each of its apis.

use std::time::Duration;

use ::config::ValueKind;
use tollgate_gate::{ApiIx, Guard, Limit, Span};

use super::BAD;
use super::keys::{self, Own};
use super::rules::{Ruled, rule};
use super::section::{Section, kind_of, one_of};
use super::weights::LimitCost;
use crate::calendar::Resets;
use crate::codes::Code;
use crate::ids::Slug;
use crate::plan::{Dim, When};

/// Bounds of a guard.
const GUARD_MIN: Duration = Duration::ZERO;
const GUARD_MAX: Duration = Duration::from_secs(3600);

/// The limits of a platform, its apis' included, as far as they are understood.
#[derive(Debug, Default)]
pub(super) struct AllDeclared {
    pub(super) limits: Vec<Declared>,
    /// By the numbers in their rules.
    pub(super) resets: Vec<Resets>,
}

/// A limit with the key that it counts by.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// Of which key: sorted, each dimension once.
    pub(super) dims: Vec<Dim>,
    /// Which calls it counts.
    pub(super) when: When,
    /// The limit itself.
    pub(super) limit: Counted,
    /// The same limit for some values of its key, and for some tiers of accounts.
    pub(super) own: Own<Counted>,
    /// Where it stands.
    pub(super) path: String,
}

/// A limit, and what it says of a call's cost.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) limit: Limit,
    pub(super) cost: LimitCost,
}

impl Declared {
    pub(super) fn name(&self) -> &str {
        &self.limit.limit.name
    }
}

/// The table `limits` of a section, added to those that are declared already. `api` is given for an api's own
/// limits.
pub(super) fn limits(
    section: &mut Section<'_>,
    api: Option<ApiIx>,
    guard: Guard,
    all: &mut AllDeclared,
) {
    let Some(mut table) = section.section("limits") else { return };
    for (name, value) in table.entries() {
        if let Err(reason) = Slug::new(&name) {
            table.mistake(Code::BadName, &name, reason, "");
            continue;
        }
        let Some(entry) = table.section_of(&name, value) else { continue };
        let declared = declared(entry, &name, api, guard, &mut all.resets);
        all.limits.extend(declared);
    }
}

fn declared(
    mut entry: Section<'_>,
    name: &str,
    api: Option<ApiIx>,
    above: Guard,
    resets: &mut Vec<Resets>,
) -> Option<Declared> {
    let path = entry.path().to_owned();
    let dims = keys::per(&mut entry);
    let when = keys::when(&mut entry, api.is_some());
    let own = keys::own(&mut entry, dims.as_deref());
    // Each is the whole limit with some of its words replaced, and read like any other.
    let mut read = |entry| limit(entry, name, dims.as_deref(), (api, above), resets);
    let own = own.map(|words| read(entry.with(words)));
    let limit = read(entry);
    Some(Declared { dims: dims?, when: when?, limit: limit?, own: own?, path })
}

fn limit(
    mut entry: Section<'_>,
    name: &str,
    dims: Option<&[Dim]>,
    (api, above): (Option<ApiIx>, Guard),
    resets: &mut Vec<Resets>,
) -> Option<Counted> {
    for kind in ["concurrent", "jobs"] {
        if entry.has("guard") && entry.has(kind) {
            let message = "calls in flight are counted until their end: a guard means nothing here";
            entry.mistake(BAD, "guard", message, "leave it out");
        }
    }
    let guard = guard(&mut entry).unwrap_or(above);
    let free_pages = entry.text("pages").is_some_and(|text| {
        let words = [("free", true), ("count", false)];
        one_of(&entry, "pages", &text, &words).unwrap_or(false)
    });
    let ruled = rule(&mut entry, resets);
    entry.finish();
    let Ruled { rule, counts, cost, kept } = ruled?;
    // Within an api there is nothing left to tell apart; the key of a budget has it.
    let per_api = api.is_none() && dims == Some(&[Dim::Account, Dim::Api]);
    let limit = Limit { name: name.to_owned(), per_api, api, rule, guard };
    Some(Counted { limit, cost: LimitCost { counts, cost, free_pages, kept } })
}

/// The key `guard` of a platform or a limit.
pub(super) fn guard(section: &mut Section<'_>) -> Option<Guard> {
    let value = section.take("guard")?;
    match &value.kind {
        ValueKind::String(text) if text == "never" => return Some(Guard::Never),
        ValueKind::String(_) | ValueKind::I64(_) | ValueKind::Float(_) => {}
        _ => {
            let message = format!("{} where a duration or \"never\" belongs", kind_of(&value));
            section.mistake(Code::WrongType, "guard", message, "");
            return None;
        }
    }
    let duration =
        section.duration_of("guard", &value, GUARD_MIN..=GUARD_MAX, Code::BadDuration)?;
    Some(Guard::After(Span::from(duration)))
}
