//! From text to typed columns, with a reason for each value that is not of the type.
//!
//! Every value arrives as it is written, so that nothing is rounded or cut on the way: a reader that makes whole
//! numbers of `1.5`, or floats of long decimals, would lose without a word.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, PrimitiveBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_schema::{DataType, TimeUnit};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::table::{Kind, Moment};

/// The zone that moments are kept in, as Spark, DuckDB and pandas read it: adjusted to UTC.
const UTC: &str = "UTC";
/// Most text of a value that a reason shows, in bytes.
pub(crate) const SHOWN_BYTES_MAX: usize = 80;

/// Below it every whole number is a float; one that is more may be rounded to it.
const WHOLE_END: f64 = 9_007_199_254_740_992.0;

/// Values that are not of the type: which, and why.
pub(crate) type Misfits = Vec<(usize, String)>;

/// The Arrow type of a kind.
pub(crate) fn data_type(kind: &Kind) -> DataType {
    match kind {
        Kind::String => DataType::Utf8,
        Kind::Bool => DataType::Boolean,
        Kind::Int32 => DataType::Int32,
        Kind::Int64 => DataType::Int64,
        Kind::Float64 => DataType::Float64,
        Kind::Decimal { digits, behind } => DataType::Decimal128(*digits, *behind as i8),
        Kind::Date { .. } => DataType::Date32,
        Kind::Timestamp { .. } => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
    }
}

/// The same with a zone that Arrow can show: it knows offsets only.
pub(crate) fn readable(array: &ArrayRef) -> ArrayRef {
    match array.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(moments) => Arc::new(moments.clone().with_timezone("+00:00")),
        None => Arc::clone(array),
    }
}

/// Makes one column of texts typed.
#[derive(Debug, Clone)]
pub(crate) struct Caster {
    kind: Kind,
    zone: TimeZone,
    default: Option<String>,
    nulls: Arc<[String]>,
}

impl Caster {
    /// One for a column.
    ///
    /// # Errors
    /// There is no such zone, or the default is not of the type.
    pub(crate) fn new(
        kind: &Kind,
        default: Option<&str>,
        nulls: &Arc<[String]>,
    ) -> Result<Self, String> {
        let zone = match kind {
            Kind::Timestamp { zone, .. } => TimeZone::get(zone).map_err(|e| e.to_string())?,
            _ => TimeZone::UTC,
        };
        let mut caster = Self { kind: kind.clone(), zone, default: None, nulls: nulls.clone() };
        if let Some(text) = default {
            let (_, misfits) = caster.cast(&StringArray::from(vec![text]));
            if let Some((_, reason)) = misfits.into_iter().next() {
                return Err(format!("the default: {reason}"));
            }
            caster.default = Some(text.to_owned());
        }
        Ok(caster)
    }

    /// The values of the type; null where one is not, and why.
    pub(crate) fn cast(&self, texts: &StringArray) -> (ArrayRef, Misfits) {
        match &self.kind {
            Kind::String => (self.strings(texts), Vec::new()),
            Kind::Bool => self.bools(texts),
            Kind::Int32 => self.numbers::<Int32Type>(texts, |text| {
                i32::try_from(whole(text)?).map_err(|_| "is more than 32 bits hold")
            }),
            Kind::Int64 => self.numbers::<Int64Type>(texts, whole),
            Kind::Float64 => self.numbers::<Float64Type>(texts, float),
            Kind::Decimal { digits, behind } => {
                let (digits, behind) = (*digits, *behind);
                let (array, misfits) =
                    self.primitives::<Decimal128Type>(texts, |text| decimal(text, digits, behind));
                let array = array.with_data_type(data_type(&self.kind));
                (Arc::new(array), misfits)
            }
            Kind::Date { formats } => self.numbers::<Date32Type>(texts, |text| date(text, formats)),
            Kind::Timestamp { formats, .. } => {
                let (array, misfits) = self.primitives::<TimestampMicrosecondType>(texts, |text| {
                    moment(text, formats, &self.zone)
                });
                (Arc::new(array.with_timezone(UTC)), misfits)
            }
        }
    }

    fn is_null(&self, text: &str) -> bool {
        self.nulls.iter().any(|null| null == text)
    }

    fn strings(&self, texts: &StringArray) -> ArrayRef {
        let has_null_text =
            !self.nulls.is_empty() && texts.iter().flatten().any(|t| self.is_null(t));
        if !has_null_text && (self.default.is_none() || texts.null_count() == 0) {
            return Arc::new(texts.clone());
        }
        let texts = texts
            .iter()
            .map(|text| text.filter(|text| !self.is_null(text)).or(self.default.as_deref()));
        Arc::new(texts.collect::<StringArray>())
    }

    fn bools(&self, texts: &StringArray) -> (ArrayRef, Misfits) {
        let mut values = BooleanBuilder::with_capacity(texts.len());
        let mut misfits = Vec::new();
        for (row, text) in texts.iter().enumerate() {
            let text = text.filter(|text| !self.is_null(text)).or(self.default.as_deref());
            match text {
                None => values.append_null(),
                Some("true" | "True" | "TRUE" | "1") => values.append_value(true),
                Some("false" | "False" | "FALSE" | "0") => values.append_value(false),
                Some(text) => {
                    values.append_null();
                    misfits.push((row, self.misfit(text, "is neither true nor false")));
                }
            }
        }
        (Arc::new(values.finish()), misfits)
    }

    fn numbers<T: ArrowPrimitiveType>(
        &self,
        texts: &StringArray,
        parse: impl Fn(&str) -> Result<T::Native, &'static str>,
    ) -> (ArrayRef, Misfits) {
        let (array, misfits) = self.primitives::<T>(texts, parse);
        (Arc::new(array), misfits)
    }

    fn primitives<T: ArrowPrimitiveType>(
        &self,
        texts: &StringArray,
        parse: impl Fn(&str) -> Result<T::Native, &'static str>,
    ) -> (arrow_array::PrimitiveArray<T>, Misfits) {
        let default = self.default.as_deref().and_then(|text| parse(text).ok());
        let mut values = PrimitiveBuilder::<T>::with_capacity(texts.len());
        let mut misfits = Vec::new();
        // Answers repeat themselves, the same day row after row; to read a number costs no more than to compare it.
        let remembers = matches!(self.kind, Kind::Date { .. } | Kind::Timestamp { .. });
        let mut last: Option<(&str, T::Native)> = None;
        for (row, text) in texts.iter().enumerate() {
            let Some(text) = text.filter(|text| !self.is_null(text)) else {
                values.append_option(default);
                continue;
            };
            if let Some((known, value)) = last
                && known == text
            {
                values.append_value(value);
                continue;
            }
            match parse(text) {
                Ok(value) => {
                    values.append_value(value);
                    last = remembers.then_some((text, value));
                }
                Err(reason) => {
                    values.append_null();
                    misfits.push((row, self.misfit(text, reason)));
                }
            }
        }
        (values.finish(), misfits)
    }

    fn misfit(&self, text: &str, reason: &str) -> String {
        format!("`{}` {reason} ({})", shown(text, SHOWN_BYTES_MAX), self.kind)
    }
}

/// The beginning of a text.
pub(crate) fn shown(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// A whole number; `12.0` is one too.
fn whole(text: &str) -> Result<i64, &'static str> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match decimal(text, 38, 0) {
        Ok(number) => i64::try_from(number).map_err(|_| "is more than 64 bits hold"),
        Err("has too many digits behind the point") => Err("is not a whole number"),
        Err(reason) => Err(reason),
    }
}

/// A number with a fraction or an exponent is the nearest float, as everybody reads it; a whole one, such as an id, is
/// that number or none.
fn float(text: &str) -> Result<f64, &'static str> {
    let number: f64 = text.parse().map_err(|_| "is not a number")?;
    if !number.is_finite() {
        return Err("is not a finite number of 64 bits");
    }
    if number.abs() >= WHOLE_END && !text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return Err("is a whole number of more than 53 bits, which would be rounded");
    }
    Ok(number)
}

/// Most digits of a number whose digits 64 bits hold, whatever they are.
const SHORT_DIGITS: usize = 18;

/// A short number as most are written, with as many digits behind the point as are kept, or fewer; none: it is for
/// [`decimal`] to say what it is.
fn short(text: &str, digits: u8, behind: u8) -> Option<i128> {
    let (negative, rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    if rest.is_empty() || rest.len() > SHORT_DIGITS + 1 {
        return None;
    }
    let mut value = 0_u64;
    let mut point = None;
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() && at > 0 => point = Some(at),
            _ => return None,
        }
    }
    let after = point.map_or(0, |at| rest.len() - at - 1);
    if rest.len() > SHORT_DIGITS && point.is_none() {
        return None;
    }
    let shift = u32::from(behind).checked_sub(after as u32)?;
    let value = i128::from(value.checked_mul(10_u64.checked_pow(shift)?)?);
    // With 20 digits and more, no value of 64 bits is too long.
    let fits = 10_u64.checked_pow(digits.into()).is_none_or(|end| value < i128::from(end));
    fits.then_some(if negative { -value } else { value })
}

/// Exactly what is written, or an error: nothing is rounded.
fn decimal(text: &str, digits: u8, behind: u8) -> Result<i128, &'static str> {
    match short(text, digits, behind) {
        Some(value) => Ok(value),
        None => any_decimal(text, digits, behind),
    }
}

fn any_decimal(text: &str, digits: u8, behind: u8) -> Result<i128, &'static str> {
    const BAD: &str = "is not a number";
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| BAD)?),
        None => (rest, 0),
    };
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(before) || !is_digits(after) || (before.is_empty() && after.is_empty()) {
        return Err(BAD);
    }
    let after = after.trim_end_matches('0');
    let mut value: i128 = 0;
    for digit in before.bytes().chain(after.bytes()) {
        let next = value.checked_mul(10).and_then(|v| v.checked_add(i128::from(digit - b'0')));
        value = next.ok_or("has too many digits")?;
    }
    // Where the last digit of `value` stands, against the last one that is kept.
    let mut shift = i64::from(exponent) - after.len() as i64 + i64::from(behind);
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return Err("has too many digits behind the point");
        }
        value /= 10;
        shift += 1;
    }
    if value != 0 && shift > 0 {
        let factor = u32::try_from(shift).ok().and_then(|shift| 10_i128.checked_pow(shift));
        value = factor.and_then(|f| value.checked_mul(f)).ok_or("has too many digits")?;
    }
    if value >= 10_i128.checked_pow(u32::from(digits)).unwrap_or(i128::MAX) {
        return Err("has too many digits");
    }
    Ok(if negative { -value } else { value })
}

fn date(text: &str, formats: &[String]) -> Result<i32, &'static str> {
    let found = if formats.is_empty() {
        text.parse::<Date>().ok().filter(|_| text.len() <= 10)
    } else {
        formats.iter().find_map(|format| Date::strptime(format, text).ok())
    };
    let date = found.ok_or("is not a date as it is declared")?;
    let days = date.since(Date::constant(1970, 1, 1)).map_err(|_| "is out of range")?;
    Ok(days.get_days())
}

fn moment(text: &str, formats: &[Moment], zone: &TimeZone) -> Result<i64, &'static str> {
    let found = formats.iter().find_map(|format| match format {
        Moment::Iso => iso(text, zone),
        Moment::Unix(per_second) => {
            // Exact to the microsecond whatever the unit, as `1763683200.25` seconds.
            let behind = match per_second {
                1 => 6,
                1_000 => 3,
                _ => 0,
            };
            let micros = decimal(text, 38, behind).ok().and_then(|n| i64::try_from(n).ok())?;
            Timestamp::from_microsecond(micros).ok()
        }
        Moment::Format(format) => {
            let told = jiff::fmt::strtime::parse(format, text).ok()?;
            // A text that tells its offset or zone is of that one or of none.
            match told.iana_time_zone() {
                Some(_) if told.offset().is_some() => Some(told.to_zoned().ok()?.timestamp()),
                Some(name) => at(told.to_datetime().ok()?, &TimeZone::get(name).ok()?),
                None if told.offset().is_some() || told.timestamp().is_some() => {
                    told.to_timestamp().ok()
                }
                None => at(told.to_datetime().ok()?, zone),
            }
        }
    });
    found.map(Timestamp::as_microsecond).ok_or("is not a time as it is declared")
}

fn iso(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    plain(text).or_else(|| any_iso(text, zone))
}

/// A moment as most are written, `2026-11-20T09:30:00Z`; none: it is for [`any_iso`] to say what it is.
fn plain(text: &str) -> Option<Timestamp> {
    let &[
        y1,
        y2,
        y3,
        y4,
        b'-',
        o1,
        o2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        m1,
        m2,
        b':',
        s1,
        s2,
        b'Z',
    ] = text.as_bytes()
    else {
        return None;
    };
    let digit =
        |byte: u8| Some(byte.wrapping_sub(b'0') as i8).filter(|digit| (0..10).contains(digit));
    let two = |tens, ones| Some(digit(tens)? * 10 + digit(ones)?);
    let year = i16::from(two(y1, y2)?) * 100 + i16::from(two(y3, y4)?);
    let (month, day) = (two(o1, o2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    let local = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Offset::UTC.to_timestamp(local).ok()
}

fn any_iso(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    // The zone that a bracket names, at the end, would not be looked at.
    if text.ends_with(']') {
        return None;
    }
    // Behind the date a sign begins an offset. One that makes the time none is not passed over.
    if text.bytes().skip(8).any(|byte| matches!(byte, b'Z' | b'z' | b'+' | b'-')) {
        return text.parse().ok();
    }
    at(text.parse::<DateTime>().ok()?, zone)
}

/// A local time as a moment: the first of two where clocks went back, none where they skipped it.
fn at(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let moment = zone.to_ambiguous_timestamp(local);
    if matches!(moment.offset(), AmbiguousOffset::Gap { .. }) {
        return None;
    }
    moment.compatible().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(kind: &str, text: &str) -> Result<String, String> {
        let kind = Kind::of_name(kind).unwrap();
        let caster = Caster::new(&kind, None, &Vec::new().into()).unwrap();
        let (array, misfits) = caster.cast(&StringArray::from(vec![text]));
        match misfits.into_iter().next() {
            Some((_, reason)) => Err(reason),
            None => Ok(arrow_cast::display::array_value_to_string(&readable(&array), 0).unwrap()),
        }
    }

    #[test]
    fn a_number_is_kept_exactly_or_refused() {
        assert_eq!(one("int64", "9223372036854775807").unwrap(), "9223372036854775807");
        assert_eq!(one("int64", "12.0").unwrap(), "12");
        assert_eq!(one("int64", "1e3").unwrap(), "1000");
        assert_eq!(one("int64", "0e999999999").unwrap(), "0");
        assert!(one("int64", "1.5").unwrap_err().contains("not a whole number"));
        assert!(one("int64", "9223372036854775808").unwrap_err().contains("64 bits"));
        assert!(one("int32", "2147483648").unwrap_err().contains("32 bits"));
        assert!(one("int64", "1e999999999").unwrap_err().contains("too many digits"));
        assert_eq!(one("decimal(5,2)", "-123.4500").unwrap(), "-123.45");
        assert_eq!(one("decimal(5,2)", "1.2345e2").unwrap(), "123.45");
        assert_eq!(
            one("decimal(5,2)", "1.2345e1").unwrap_err(),
            "`1.2345e1` has too many digits behind the point (decimal(5,2))"
        );
        assert!(one("decimal(5,2)", "1000").unwrap_err().contains("too many digits"));
        assert_eq!(
            one("decimal(38,0)", "99999999999999999999999999999999999999").unwrap(),
            "99999999999999999999999999999999999999"
        );
        assert!(one("decimal(38,0)", "100000000000000000000000000000000000000").is_err());
        assert_eq!(one("float64", "-9007199254740991").unwrap(), "-9007199254740991.0");
        assert_eq!(one("float64", "9007199254740993.0").unwrap(), "9007199254740992.0");
        for text in ["9007199254740993", "-9007199254740995", "123456789012345678901"] {
            assert!(one("float64", text).unwrap_err().contains("would be rounded"), "{text}");
        }
        assert!(one("float64", "1e400").unwrap_err().contains("finite"));
        assert!(one("float64", "NaN").is_err());
        assert!(one("decimal(5,2)", "").is_err());
        assert!(one("decimal(5,2)", ".").is_err());
        assert!(one("bool", "yes").is_err());
    }

    #[test]
    fn a_moment_is_adjusted_to_utc() {
        assert_eq!(one("timestamp", "2026-11-20T09:00:00+09:00").unwrap(), "2026-11-20T00:00:00Z");
        assert_eq!(
            one("timestamp", "2026-11-20 09:00:00.123456").unwrap(),
            "2026-11-20T09:00:00.123456Z"
        );
        assert!(one("timestamp", "20-11-2026").is_err());
        // Neither in the default zone nor in the one that is not looked at.
        assert!(one("timestamp", "2026-11-20T09:00:00[Asia/Seoul]").is_err());
        assert!(one("timestamp", "2026-11-20T09:00:00+09:00[Asia/Seoul]").is_err());
        let seoul = Kind::Timestamp {
            formats: vec![Moment::Format("%d/%m/%Y %H:%M".to_owned()), Moment::Unix(1000)],
            zone: "Asia/Seoul".to_owned(),
        };
        let caster = Caster::new(&seoul, None, &Vec::new().into()).unwrap();
        let (array, misfits) =
            caster.cast(&StringArray::from(vec!["20/11/2026 09:00", "1763683200250", "x"]));
        let array = readable(&array);
        let text = |row| arrow_cast::display::array_value_to_string(&array, row).unwrap();
        assert_eq!(text(0), "2026-11-20T00:00:00Z");
        assert_eq!(text(1), "2025-11-21T00:00:00.250Z");
        assert_eq!(misfits.len(), 1);
        assert_eq!(one("date", "2026-11-20").unwrap(), "2026-11-20");
        assert!(one("date", "2026-02-30").is_err());
        assert!(one("date", "2026-11-20T00:00:00").is_err());
    }

    #[test]
    fn an_offset_counts_or_the_text_is_no_time() {
        let kind =
            |formats: Vec<Moment>| Kind::Timestamp { formats, zone: "Asia/Seoul".to_owned() };
        let cast = |kind: &Kind, text: &str| {
            let caster = Caster::new(kind, None, &Vec::new().into()).unwrap();
            let (array, misfits) = caster.cast(&StringArray::from(vec![text]));
            let text = arrow_cast::display::array_value_to_string(&readable(&array), 0).unwrap();
            misfits.is_empty().then_some(text)
        };
        let iso = |text: &str| cast(&kind(vec![Moment::Iso]), text);
        for text in ["2026-11-20T00:00:00Z", "2026-11-20 09:00:00", "2026-11-19T19:00:00-05:00"] {
            assert_eq!(iso(text).as_deref(), Some("2026-11-20T00:00:00Z"), "{text}");
        }
        assert_eq!(iso("20261120T090000+0900").as_deref(), Some("2026-11-20T00:00:00Z"));
        assert_eq!(iso("2026-11-20").as_deref(), Some("2026-11-19T15:00:00Z"));
        // Times that are out of range by their offset only.
        assert_eq!(iso("9999-12-31T23:00:00+00:00"), None);
        assert_eq!(iso("9999-12-31T23:00:00-01:00"), None);
        let formats = |format: &str| kind(vec![Moment::Format(format.to_owned())]);
        let offset = formats("%Y-%m-%d %H:%M %z");
        assert_eq!(cast(&offset, "9999-12-31 23:00 -0100"), None);
        assert_eq!(cast(&offset, "2026-11-20 09:00 +0900").unwrap(), "2026-11-20T00:00:00Z");
        let zone = formats("%Y-%m-%d %H:%M %Q");
        assert_eq!(cast(&zone, "2026-11-20 01:00 Europe/Paris").unwrap(), "2026-11-20T00:00:00Z");
        assert_eq!(cast(&formats("%s"), "0").unwrap(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_local_time_that_clocks_skipped_is_none_and_of_two_the_first_counts() {
        let paris = Kind::Timestamp {
            formats: vec![Moment::Iso, Moment::Format("%d/%m/%Y %H:%M".to_owned())],
            zone: "Europe/Paris".to_owned(),
        };
        let caster = Caster::new(&paris, None, &Vec::new().into()).unwrap();
        let texts = ["2026-03-29 02:30:00", "29/03/2026 02:30", "2026-10-25 02:30:00"];
        let (array, misfits) = caster.cast(&StringArray::from(texts.to_vec()));
        assert_eq!(misfits.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1]);
        let array = readable(&array);
        let text = arrow_cast::display::array_value_to_string(&array, 2).unwrap();
        assert_eq!(text, "2026-10-25T00:30:00Z");
    }

    #[test]
    fn nulls_and_defaults() {
        let nulls: Arc<[String]> = Arc::new([String::new(), "NA".to_owned()]);
        let caster = Caster::new(&Kind::Int64, Some("7"), &nulls).unwrap();
        let (array, misfits) =
            caster.cast(&StringArray::from(vec![Some("1"), None, Some("NA"), Some("")]));
        assert!(misfits.is_empty());
        let text = |row| arrow_cast::display::array_value_to_string(&array, row).unwrap();
        assert_eq!(
            (text(0), text(1), text(2), text(3)),
            ("1".into(), "7".into(), "7".into(), "7".into())
        );
        assert!(Caster::new(&Kind::Int64, Some("seven"), &nulls).is_err());
    }

    #[test]
    fn most_moments_are_plain() {
        for text in ["2026-11-20T09:30:00Z", "0001-01-01T00:00:00Z", "2024-02-29T23:59:59Z"] {
            assert!(plain(text).is_some(), "{text}");
        }
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T09:30:60Z",
            "2026-11-20 09:30:00Z",
            "2026-11-20T09:30:00",
            "+026-11-20T09:30:00Z",
            "2026-11-20T09:30:0:Z",
            "2026/11/20T09:30:00Z",
        ] {
            assert_eq!(plain(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_plain_moment_is_what_any_moment_is(
            text in "[0-9]{3,4}[-/]([01][0-9]|[0-9:]{2})-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-9/]{2}[Zz]?"
        ) {
            if let Some(moment) = plain(&text) {
                proptest::prop_assert_eq!(Some(moment), any_iso(&text, &TimeZone::UTC));
            }
        }

        #[test]
        fn a_short_number_is_what_any_number_is(
            text in "[-+]?[0-9]{0,20}[.]?[0-9]{0,6}[e.x-]?[0-9]{0,2}", digits in 1_u8..39, behind in 0_u8..12
        ) {
            if let Some(value) = short(&text, digits, behind) {
                proptest::prop_assert_eq!(Ok(value), any_decimal(&text, digits, behind));
            }
        }
    }

    #[test]
    fn most_numbers_are_short() {
        for (text, value) in
            [("1.25", 12_500), ("-0.0001", -1), ("99999999.9999", 999_999_999_999), ("7", 70_000)]
        {
            assert_eq!(short(text, 12, 4), Some(value), "{text}");
        }
        for text in ["", "-", ".5", "1e3", "1.00000", "100000000", "+1", "1.2.3", " 1"] {
            assert_eq!(short(text, 12, 4), None, "{text}");
        }
        assert_eq!(short("999999999999999999", 38, 0), Some(999_999_999_999_999_999));
        assert_eq!(short("9999999999999999999", 38, 0), None);
    }
}
