//! Whether yesterday is complete: for every account, api and day, whether it is in the store, missing, dead, or to be
//! collected again because the provider still restates it.
//!
//! What is there is told by the manifests, what is dead by the letters; nothing is asked of providers. What is expected
//! is declared: which parameter of an api's fetches names the day, from when on, and for how long days change. An
//! account is expected if it was named, or if the store or a letter has anything of it on that platform.
//!
//! One day may be of several fetches, which differ in their other parameters, as parts of a list of ids do. A day is as
//! the worst of those is of which anything is known. Of one of which nothing is known nothing is expected either.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, future};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};
use object_store::path::Path;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollgate_protos::{Dead, Fetch, Manifest, Priority};

use crate::codes::Code;
use crate::ids::{Account, Slug};
use crate::plan::{Api, Complete, Plan, Platform};
use crate::recipe::{FetchContext, key_prefix, render, zone_named};
use crate::store::{SinkError, Store};

use self::days::Writing;

mod days;
#[cfg(test)]
mod tests;

pub(crate) use self::days::lacks;

/// Most cells that are known at once.
pub const CELLS_MAX: usize = 10_000_000;
/// A manifest that was written so many days before the first day that is asked for is not read: whatever the zones of
/// the store and the account, that day had not begun.
const BEFORE_DAYS: i64 = 3;
/// Manifests that are read at once.
const AT_ONCE: usize = 32;
const MANIFEST: &str = "_manifest.json";

/// How a day of an account and an api is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is in the store, and the provider restates it no more, or it was collected today.
    Present,
    /// Nothing of it is there.
    Missing,
    /// Nothing of it is there, and its fetch was given up.
    Dead,
    /// It is there, from a day on which it was not final; or a part of it is; or collecting it once more was given up.
    Again,
}

impl State {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Missing => "missing",
            Self::Dead => "dead",
            Self::Again => "again",
        }
    }

    /// Which of two that a day is in is told.
    fn badness(self) -> u8 {
        match self {
            Self::Present => 0,
            Self::Again => 1,
            Self::Missing => 2,
            Self::Dead => 3,
        }
    }
}

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Only this platform.
    pub platform: Option<String>,
    /// Only this api of it.
    pub api: Option<String>,
    /// Which accounts are expected; none: those of which anything is known.
    pub accounts: Option<Vec<String>>,
    /// The first day; none: what `complete.from` says, else the first of which anything is there.
    pub from: Option<Date>,
    /// The last day; none: yesterday, in the zone of the account.
    pub to: Option<Date>,
}

/// One day of one account and api.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The provider.
    pub platform: String,
    /// The endpoint.
    pub api: String,
    /// Whom the provider counts.
    pub account: String,
    /// The day.
    pub day: Date,
    /// How it is.
    pub state: State,
    /// When it was collected last; of several fetches the one for which that is longest ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<Timestamp>,
    /// Why it is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of each of its fetches how it is, and which.
    #[serde(skip)]
    parts: Vec<(State, Part)>,
}

/// Which of the fetches of a day: by the number of its other parameters.
type Part = u32;

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// The store did not answer, or does not allow it.
    #[error("{}: read the manifests in the store", Code::StoreUnavailable)]
    Store(#[source] Box<SinkError>),
    /// No api says what is expected.
    #[error(
        "no api{0} has `complete`: say which parameter names the day, as \
         complete = {{ param = \"date\", restate = \"28 days\" }}"
    )]
    Undeclared(String),
    /// More is expected or there than is held.
    #[error(
        "more than {CELLS_MAX} days of accounts and apis: ask for one platform or api, or fewer days"
    )]
    TooMany,
}

/// What is known of one fetch of a day.
#[derive(Debug, Clone, Default)]
struct Known {
    fetched_at: Option<Timestamp>,
    /// A part only.
    incomplete: bool,
    /// When it was given up last, and why.
    died: Option<(Timestamp, Box<str>)>,
    /// When others took its place last, which tell of themselves.
    split_at: Option<Timestamp>,
}

impl Known {
    /// Whether others have its place since it was heard of last.
    fn is_split(&self) -> bool {
        let died = self.died.as_ref().map(|(at, _)| *at);
        self.split_at.is_some_and(|at| Some(at) >= self.fetched_at.max(died))
    }
}

/// What is known of all days that were asked for.
#[derive(Debug)]
pub struct Board<'p> {
    asked: &'p Asked,
    apis: Vec<Declared<'p>>,
    /// Numbers of accounts, by platform and name.
    accounts: BTreeMap<(&'p Slug, String), u32>,
    names: Vec<String>,
    /// Apis and accounts of which something is there.
    heard: HashSet<(u32, u32)>,
    /// By api, account and day: its fetches.
    days: HashMap<(u32, u32, Date), Vec<(Part, Known)>>,
    /// Fetches of days that are held.
    held: usize,
    /// The other parameters of fetches by their number, and the numbers by api and what they are as text.
    others: Vec<Other>,
    numbers: HashMap<(u32, String), Part>,
    /// Fetches of a declared api that do not say which day they are of.
    pub undated: u64,
}

/// What fetches of a day ask for beside it, and how they write it.
#[derive(Debug)]
struct Other {
    params: Map<String, Value>,
    writing: Writing,
}

#[derive(Debug, Clone, Copy)]
struct Declared<'p> {
    platform: &'p Platform,
    api: &'p Api,
    complete: &'p Complete,
    /// Whether a fetch that says what is declared can be called.
    fills: bool,
}

impl<'p> Board<'p> {
    /// An empty one.
    ///
    /// # Errors
    /// [`CompleteError::Undeclared`].
    pub fn new(plan: &'p Plan, asked: &'p Asked) -> Result<Self, CompleteError> {
        let mut apis = Vec::new();
        let is = |wanted: &Option<String>, name: &Slug| {
            wanted.as_ref().is_none_or(|wanted| wanted == name.as_str())
        };
        for platform in plan.platforms.values().filter(|p| is(&asked.platform, &p.name)) {
            for api in platform.apis.iter().filter(|api| is(&asked.api, &api.name)) {
                if let Some(complete) = &api.complete {
                    let fills = lacks(&plan.store, platform, api, complete).is_none();
                    apis.push(Declared { platform, api, complete, fills });
                }
            }
        }
        if apis.is_empty() {
            let of = match (&asked.platform, &asked.api) {
                (Some(platform), Some(api)) => format!(" {platform}/{api}"),
                (Some(platform), None) => format!(" of {platform}"),
                _ => String::new(),
            };
            return Err(CompleteError::Undeclared(of));
        }
        let mut board = Self {
            asked,
            apis,
            accounts: BTreeMap::new(),
            names: Vec::new(),
            heard: HashSet::new(),
            days: HashMap::new(),
            held: 0,
            others: Vec::new(),
            numbers: HashMap::new(),
            undated: 0,
        };
        for name in asked.accounts.iter().flatten() {
            for place in 0..board.apis.len() {
                let platform = board.apis[place].platform;
                board.number(&platform.name, name);
            }
        }
        Ok(board)
    }

    fn number(&mut self, platform: &'p Slug, account: &str) -> u32 {
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let number = *self.accounts.entry((platform, account.to_owned())).or_insert(next);
        if number == next {
            self.names.push(account.to_owned());
        }
        number
    }

    fn is_wanted(&self, account: &str) -> bool {
        let wanted = self.asked.accounts.as_ref();
        wanted.is_none_or(|wanted| wanted.iter().any(|name| name == account))
    }

    /// Reads every manifest that may be of an api that is looked at; `moves` hears how many, often.
    ///
    /// # Errors
    /// The store fails, or there is too much.
    pub async fn read(
        &mut self,
        plan: &Plan,
        store: &Store,
        moves: &mut dyn FnMut(u64),
    ) -> Result<(), CompleteError> {
        let failed = |error| CompleteError::Store(Box::new(error));
        let first = |of: &Declared<'_>| self.asked.from.or(of.complete.from);
        let first = self.apis.iter().map(first).min().flatten();
        let since = first.and_then(|day| day.checked_sub(BEFORE_DAYS.days()).ok());
        let since = since.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
        let since = since.map_or(Timestamp::MIN, |day| day.timestamp());
        let mut prefixes: Vec<Path> =
            self.apis.iter().map(|of| key_prefix(&plan.store, of.platform, of.api)).collect();
        prefixes.sort_unstable();
        // One that lies below another is read with it.
        prefixes.dedup_by(|one, above| one.prefix_matches(above));
        let mut count = 0;
        for prefix in prefixes {
            let listed = store.listed(&prefix);
            let keys = listed.try_filter(|listed| {
                let is_manifest = listed.key.filename() == Some(MANIFEST);
                future::ready(is_manifest && listed.written >= since)
            });
            let read = keys.map(|listed| async {
                match store.get(&listed?.key).await {
                    // None of ours.
                    Err(SinkError::TooLarge { .. }) => Ok(None),
                    other => other,
                }
            });
            let mut read = read.buffer_unordered(AT_ONCE);
            while let Some(text) = read.next().await {
                let text = text.map_err(failed)?;
                let manifest = text.and_then(|text| serde_json::from_slice(&text).ok());
                if let Some(manifest) = manifest {
                    self.take(&manifest)?;
                }
                count += 1;
                moves(count);
            }
        }
        Ok(())
    }

    /// Takes a manifest in.
    fn take(&mut self, manifest: &Manifest) -> Result<(), CompleteError> {
        let Manifest { platform, account, api, params, done, .. } = manifest;
        // It is not written to its end.
        if manifest.queue.is_empty() {
            return Ok(());
        }
        self.each(platform, api, account, params, |known| {
            if !done.split_into.is_empty() {
                known.split_at = known.split_at.max(Some(done.fetched_at));
                return;
            }
            if known.fetched_at.is_none_or(|at| at <= done.fetched_at) {
                known.fetched_at = Some(done.fetched_at);
                known.incomplete = done.incomplete;
            }
        })
    }

    /// Takes a dead letter in.
    ///
    /// # Errors
    /// There is too much.
    pub fn dead(&mut self, letter: &Dead) -> Result<(), CompleteError> {
        let Some(fetch) = &letter.fetch else { return Ok(()) };
        let (Some(platform), Some(api), Some(account)) =
            (&fetch.platform, &fetch.api, &fetch.account)
        else {
            return Ok(());
        };
        self.each(platform, api, account, &fetch.params, |known| {
            if known.died.as_ref().is_none_or(|(at, _)| *at <= letter.died_at) {
                known.died = Some((letter.died_at, letter.code.as_str().into()));
            }
        })
    }

    fn each(
        &mut self,
        platform: &str,
        api: &str,
        account: &str,
        params: &Map<String, Value>,
        mut tell: impl FnMut(&mut Known),
    ) -> Result<(), CompleteError> {
        let mut apis = self.apis.iter().enumerate();
        let of = |(_, of): &(usize, &Declared<'_>)| {
            of.platform.name.as_str() == platform && of.api.name.as_str() == api
        };
        let Some((place, declared)) = apis.find(of).map(|(place, of)| (place, *of)) else {
            return Ok(());
        };
        if !self.is_wanted(account) {
            return Ok(());
        }
        let account = self.number(&declared.platform.name, account);
        let api = u32::try_from(place).unwrap_or(u32::MAX);
        self.heard.insert((api, account));
        let Some(((first, last), writing)) = days::of(declared, params) else {
            self.undated += 1;
            return Ok(());
        };
        let part = self.part((api, declared), params, writing);
        for day in first.series(Span::new().days(1)).take_while(|day| *day <= last) {
            let parts = self.days.entry((api, account, day)).or_default();
            let place = parts.iter().position(|(of, _)| *of == part).unwrap_or_else(|| {
                self.held += 1;
                parts.push((part, Known::default()));
                parts.len() - 1
            });
            tell(&mut parts[place].1);
        }
        if self.held > CELLS_MAX { Err(CompleteError::TooMany) } else { Ok(()) }
    }

    /// The number of what a fetch asks for beside its days.
    fn part(
        &mut self,
        (api, of): (u32, Declared<'_>),
        params: &Map<String, Value>,
        writing: Writing,
    ) -> Part {
        let Complete { param, to, .. } = of.complete;
        let is_other = |name: &str| name != param && Some(name) != to.as_deref();
        // As it is called: what is left out is what the api says.
        let defaults = &of.api.params.defaults;
        let all: BTreeMap<&String, &Value> = defaults.iter().chain(params).collect();
        let all = all.into_iter().filter(|(name, value)| is_other(name) && !value.is_null());
        let text = serde_json::to_string(&all.collect::<BTreeMap<_, _>>())
            .expect("its values are plain JSON");
        let next = u32::try_from(self.others.len()).unwrap_or(u32::MAX);
        let part = *self.numbers.entry((api, text)).or_insert(next);
        if part == next {
            let others = params.iter().filter(|(name, _)| is_other(name));
            let params = others.map(|(name, value)| (name.clone(), value.clone())).collect();
            self.others.push(Other { params, writing });
        }
        part
    }

    /// Every day that is expected, by platform, api, account and day; `now` is now.
    ///
    /// # Errors
    /// There is too much.
    pub fn cells(
        &self,
        now: Timestamp,
        tell: &mut dyn FnMut(Cell, Declaration<'_>),
    ) -> Result<(), CompleteError> {
        let mut count = 0;
        for (place, of) in self.apis.iter().enumerate() {
            let api = u32::try_from(place).unwrap_or(u32::MAX);
            let seen = self.days.keys().filter(|(of, ..)| *of == api).map(|(.., day)| *day).min();
            let first = self.asked.from.or(of.complete.from).or(seen);
            let Some(first) = first else { continue };
            for ((platform, name), account) in &self.accounts {
                // Accounts that are not named are expected of the apis they were collected from.
                let is_expected =
                    self.asked.accounts.is_some() || self.heard.contains(&(api, *account));
                if **platform != of.platform.name || !is_expected {
                    continue;
                }
                let zone = zone(*of, name, now);
                let today = now.to_zoned(zone.clone()).date();
                let last = self.asked.to.unwrap_or_else(|| today.yesterday().unwrap_or(today));
                for day in first.series(Span::new().days(1)).take_while(|day| *day <= last) {
                    count += 1;
                    if count > CELLS_MAX {
                        return Err(CompleteError::TooMany);
                    }
                    let known = self.days.get(&(api, *account, day)).map_or(&[][..], Vec::as_slice);
                    let known = known.iter().filter(|(_, known)| !known.is_split());
                    let known: Vec<&(Part, Known)> = known.collect();
                    let parts: Vec<(State, Part)> = known
                        .iter()
                        .map(|(part, known)| {
                            (state(of.complete, known, (day, today), &zone), *part)
                        })
                        .collect();
                    let worst = parts.iter().map(|(state, _)| *state);
                    let state = worst.max_by_key(|state| state.badness()).unwrap_or(State::Missing);
                    let mut ends = known.iter().map(|(_, known)| known);
                    let cell = Cell {
                        platform: platform.to_string(),
                        api: of.api.name.to_string(),
                        account: name.clone(),
                        day,
                        state,
                        fetched_at: known.iter().filter_map(|(_, known)| known.fetched_at).min(),
                        code: ends
                            .find(|known| state == State::Dead && known.fetched_at.is_none())
                            .and_then(|known| Some(known.died.as_ref()?.1.to_string())),
                        parts,
                    };
                    let Declared { complete, fills, .. } = *of;
                    tell(cell, Declaration { complete, fills, today, others: &self.others });
                }
            }
        }
        Ok(())
    }
}

/// What is declared of a cell's api, for the fetch that would fill it.
#[derive(Debug, Clone, Copy)]
pub struct Declaration<'p> {
    complete: &'p Complete,
    fills: bool,
    today: Date,
    others: &'p [Other],
}

impl Declaration<'_> {
    /// The fetches that collect what is so of a day: after all else of its account, and once a day however often they are
    /// published. Each asks for what the one did whose place it takes, and writes the day like it; where nothing is known of
    /// a day, for what is declared, if that can be called.
    pub fn fetches(&self, cell: &Cell, is_wanted: impl Fn(State) -> bool) -> Vec<Fetch> {
        if cell.parts.is_empty() {
            let params = &self.complete.params;
            let is_wanted = self.fills && is_wanted(cell.state);
            let writing = Writing::declared(self.complete);
            return is_wanted.then(|| self.fetch(cell, params, &writing)).into_iter().collect();
        }
        let wanted = cell.parts.iter().filter(|(state, _)| is_wanted(*state));
        let others = wanted.filter_map(|(_, part)| self.others.get(*part as usize));
        others.map(|other| self.fetch(cell, &other.params, &other.writing)).collect()
    }

    /// Whether no fetch can be made for a day though it is missing: what is declared does not say all that one needs.
    pub fn is_beyond(&self, cell: &Cell) -> bool {
        cell.parts.is_empty() && !self.fills
    }

    fn fetch(&self, cell: &Cell, params: &Map<String, Value>, writing: &Writing) -> Fetch {
        let Complete { param, to, .. } = self.complete;
        let is_other = |name: &String| name != param && Some(name) != to.as_ref();
        let others = |params: &Map<String, Value>| -> BTreeMap<String, Value> {
            let others = params.iter().filter(|(name, _)| is_other(name));
            others.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let mut id = format!("{}-on-{}", cell.day, self.today);
        let sorted = others(params);
        if sorted != others(&self.complete.params) && !sorted.is_empty() {
            let text = serde_json::to_vec(&sorted).expect("its values are plain JSON");
            let hash = format!("{:x}", Sha256::digest(text));
            id = format!("{id}-{}", hash.get(..12).unwrap_or_default());
        }
        let mut all = params.clone();
        writing.write(self.complete, cell.day, &mut all);
        Fetch {
            id: Some(id),
            platform: Some(cell.platform.clone()),
            account: Some(cell.account.clone()),
            api: Some(cell.api.clone()),
            params: all,
            priority: Priority::Low,
            ..Fetch::default()
        }
    }
}

fn state(complete: &Complete, known: &Known, (day, today): (Date, Date), zone: &TimeZone) -> State {
    let Some(fetched_at) = known.fetched_at else { return State::Dead };
    // What was stored is still there, but collecting it anew has failed since.
    let gave_up = known.died.as_ref().is_some_and(|(at, _)| *at > fetched_at);
    let fetched = fetched_at.to_zoned(zone.clone()).date();
    let restate = Span::new().days(i64::from(complete.restate_days));
    let is_final = day.checked_add(restate).unwrap_or(Date::MAX);
    // While it is restated it is collected each day, and once more when it is final. A day that is not over yet when it
    // is collected changes too.
    let over = day.tomorrow().unwrap_or(Date::MAX);
    let due = today.min(is_final.max(over));
    if known.incomplete || gave_up || fetched < due { State::Again } else { State::Present }
}

/// Whose days an account's are.
fn zone(of: Declared<'_>, account: &str, now: Timestamp) -> TimeZone {
    let zones = of.api.zone.as_ref().or(of.platform.zone.as_ref());
    let named = zones.and_then(|zones| {
        let account = Account::new(account).ok()?;
        let template = zones.of(&account, of.platform.tiers.name_of(&account));
        let params = Map::new();
        let context = FetchContext { account: &account, id: "", params: &params, queued_at: now };
        // A zone that a parameter of each fetch says is not known here.
        zone_named(&render(template, of.platform, of.api, &context).ok()?)
    });
    named.unwrap_or(TimeZone::UTC)
}
