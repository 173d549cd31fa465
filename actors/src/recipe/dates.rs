//! Dates and times in templates: `{today}`, `{now}`, and what filters make of them.
//!
//! They are those of the moment at which the fetch was queued, so that every try asks for the same, and of the
//! zone that the api, or else the platform, declares. A date is text such as `2026-11-20`; a time is RFC 3339 with
//! its offset, `2026-11-20T09:00:00+09:00`.

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use minijinja::{Error, ErrorKind, State, Value};

use super::template::Scope;
use super::{Refusal, Template};
use crate::codes::Code;
use crate::ids::{Account, preview};

/// Under which name filters find the zone; no placeholder can name it.
pub(super) const ZONE: &str = "the zone";
/// The filters for which it matters.
pub(super) const ZONED: &[&str] = &["days", "epoch", "format", "hours", "months", "utc"];
/// Longest text that says how a time is written, in bytes.
const FORMAT_BYTES_MAX: usize = 128;

/// Whose days `{today}` and the filters of dates mean.
#[derive(Debug, Clone)]
pub struct Zones {
    /// Whoever is not named below. Names a zone of the IANA database once it is filled in.
    pub usual: Template,
    /// Accounts of their own.
    pub accounts: BTreeMap<Account, Template>,
    /// Tiers of accounts, by name.
    pub tiers: BTreeMap<String, Template>,
}

impl Zones {
    /// The zone's template for an account of that tier.
    pub fn of(&self, account: &Account, tier: Option<&str>) -> &Template {
        let own = self.accounts.get(account).or_else(|| self.tiers.get(tier?));
        own.unwrap_or(&self.usual)
    }

    /// Every template, for whoever wants to know what they name.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        std::iter::once(&self.usual).chain(self.accounts.values()).chain(self.tiers.values())
    }
}

/// The moment a fetch was queued, as templates have it.
#[derive(Debug)]
pub(super) struct Dates {
    pub(super) zone: String,
    pub(super) today: String,
    pub(super) now: String,
}

impl Dates {
    /// In the zone that a template gives.
    ///
    /// # Errors
    /// There is no such zone.
    pub(super) fn new(
        queued_at: Timestamp,
        zone: Option<&Template>,
        scope: &dyn Scope,
    ) -> Result<Self, Refusal> {
        let name = zone.map_or_else(|| Ok("UTC".to_owned()), |zone| zone.render(scope))?;
        let zone = zone_named(&name).ok_or_else(|| {
            let hint = "use a name such as Asia/Seoul, or UTC";
            Refusal::new(
                Code::BadParameter,
                format!("there is no time zone `{}`; {hint}", preview(&name)),
            )
        })?;
        let now = queued_at.to_zoned(zone);
        Ok(Self { zone: name, today: now.date().to_string(), now: show(&now) })
    }
}

/// A zone of the IANA database, or UTC.
pub(crate) fn zone_named(name: &str) -> Option<TimeZone> {
    if name == "UTC" { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() }
}

fn show(time: &Zoned) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// What a date or a time in a template is.
enum Moment {
    Day(Date),
    Time(Zoned),
}

impl Moment {
    fn parse(filter: &str, text: &str, zone: &TimeZone) -> Result<Self, Error> {
        let fail = |_| {
            let text = preview(text);
            failed(format!("`{filter}` needs a date such as 2026-11-20 or a time, not `{text}`"))
        };
        if !text.contains([':', 'T', 't', ' ']) {
            return text.parse().map(Self::Day).map_err(fail);
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self::Time(time.to_zoned(zone.clone())));
        }
        text.parse::<DateTime>()
            .and_then(|time| time.to_zoned(zone.clone()))
            .map(Self::Time)
            .map_err(fail)
    }

    /// A day is its beginning.
    fn time(self, zone: &TimeZone) -> Result<Zoned, Error> {
        match self {
            Self::Day(day) => day.to_zoned(zone.clone()).map_err(|_| outside()),
            Self::Time(time) => Ok(time),
        }
    }

    fn plus(self, span: Span) -> Result<String, Error> {
        match self {
            Self::Day(day) => day.checked_add(span).map(|day| day.to_string()),
            Self::Time(time) => time.checked_add(span).map(|time| show(&time)),
        }
        .map_err(|_| outside())
    }
}

/// `{date|days(-1)}`: some days later or earlier; of a time the same time of that day.
pub(super) fn days(state: &State<'_, '_>, text: &str, count: i64) -> Result<String, Error> {
    let span = Span::new().try_days(count).map_err(|_| outside())?;
    Moment::parse("days", text, &zone_of(state)?)?.plus(span)
}

/// `{date|months(-1)}`: some months later or earlier, the month's last day where that day is not in it.
pub(super) fn months(state: &State<'_, '_>, text: &str, count: i64) -> Result<String, Error> {
    let span = Span::new().try_months(count).map_err(|_| outside())?;
    Moment::parse("months", text, &zone_of(state)?)?.plus(span)
}

/// `{now|hours(-1)}`: some hours later or earlier, a time also of a date.
pub(super) fn hours(state: &State<'_, '_>, text: &str, count: i64) -> Result<String, Error> {
    let zone = zone_of(state)?;
    let span = Span::new().try_hours(count).map_err(|_| outside())?;
    Moment::Time(Moment::parse("hours", text, &zone)?.time(&zone)?).plus(span)
}

/// `{today|format('%Y%m%d')}`: as `strftime` writes it.
pub(super) fn format(state: &State<'_, '_>, text: &str, format: &str) -> Result<String, Error> {
    if format.len() > FORMAT_BYTES_MAX {
        return Err(failed(format!("`format` takes at most {FORMAT_BYTES_MAX} bytes")));
    }
    let zone = zone_of(state)?;
    let time = Moment::parse("format", text, &zone)?.time(&zone)?;
    jiff::fmt::strtime::format(format, &time)
        .map_err(|error| failed(format!("`{}` is no format: {error}", preview(format))))
}

/// `{today|epoch}`: seconds since 1970, of a date those of its beginning.
pub(super) fn epoch(state: &State<'_, '_>, text: &str) -> Result<i64, Error> {
    instant(state, "epoch", text).map(Timestamp::as_second)
}

/// `{now|epoch_ms}`: the same in milliseconds.
pub(super) fn epoch_ms(state: &State<'_, '_>, text: &str) -> Result<i64, Error> {
    instant(state, "epoch_ms", text).map(Timestamp::as_millisecond)
}

/// `{today|utc}`: that moment in UTC, `2026-11-19T15:00:00Z`; of a date its beginning.
pub(super) fn utc(state: &State<'_, '_>, text: &str) -> Result<String, Error> {
    let time = instant(state, "utc", text)?.to_zoned(TimeZone::UTC);
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn instant(state: &State<'_, '_>, filter: &str, text: &str) -> Result<Timestamp, Error> {
    let zone = zone_of(state)?;
    Ok(Moment::parse(filter, text, &zone)?.time(&zone)?.timestamp())
}

fn zone_of(state: &State<'_, '_>) -> Result<TimeZone, Error> {
    let Some(name) = state.lookup(ZONE).filter(|zone: &Value| !zone.is_undefined()) else {
        return Ok(TimeZone::UTC);
    };
    let name = name.as_str().unwrap_or_default();
    zone_named(name).ok_or_else(|| failed(format!("there is no time zone `{}`", preview(name))))
}

fn outside() -> Error {
    failed("that is outside the calendar".to_owned())
}

fn failed(detail: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}
