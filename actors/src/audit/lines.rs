//! Lines of a log become calls: JSON objects, or text of a declared form. Reading only; nothing is counted
//! here.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::date;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::counter::Ns;

/// The combined log format of nginx and Apache, as nginx writes it down:
/// <https://nginx.org/en/docs/http/ngx_http_log_module.html>.
pub const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

const SECOND: Ns = 1_000_000_000;

/// The fields that are looked at, by their names; a row has their values in the same order.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Vec<String>);

/// What a line says in the fields that are looked at.
pub(super) type Row<'a> = Vec<Option<Cell<'a>>>;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    Text(Cow<'a, str>),
    Whole(i64),
    Real(f64),
}

impl Cell<'_> {
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Cell::Text(text) => Cow::Borrowed(text),
            Cell::Whole(number) => Cow::Owned(number.to_string()),
            Cell::Real(number) => Cow::Owned(number.to_string()),
        }
    }
}

/// What a number of a field counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit(Ns);

impl Unit {
    pub(super) const SECONDS: Self = Self(SECOND);

    /// Reads `s`, `ms`, `us` or `ns`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self(match text {
            "s" => SECOND,
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => return None,
        }))
    }

    /// What the end of a name says: `at_ms`.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::parse(name.rsplit_once('_')?.1)
    }
}

/// The form of text lines, as nginx's `log_format` declares it.
#[derive(Debug)]
pub(super) struct Form {
    before: String,
    /// Each variable with its place in the row, if it is looked at, and the text behind it.
    parts: Vec<(Option<usize>, String)>,
}

impl Form {
    /// Reads a form; `fields` says which variables matter.
    ///
    /// # Errors
    /// A sentence: it has no variable, or two without anything between them.
    pub(super) fn new(text: &str, fields: &Fields) -> Result<Self, String> {
        let mut pieces = text.split('$');
        let before = pieces.next().unwrap_or_default().to_owned();
        let mut parts = Vec::new();
        for piece in pieces {
            let (name, after) = variable(piece);
            if name.is_empty() {
                return Err("a `$` is followed by the name of a variable".into());
            }
            parts.push((fields.0.iter().position(|field| field == name), after.to_owned()));
        }
        match parts.split_last() {
            None => Err("it names no variable, as $msec".into()),
            Some((_, rest)) if rest.iter().any(|(_, after)| after.is_empty()) => {
                Err("two variables stand side by side: where one ends cannot be told".into())
            }
            Some(_) => Ok(Self { before, parts }),
        }
    }

    /// The variables of a form.
    pub(super) fn variables(text: &str) -> Vec<String> {
        text.split('$').skip(1).map(|piece| variable(piece).0.to_owned()).collect()
    }

    /// What a line says; `None` if it is not of this form. More behind its end does not matter.
    pub(super) fn read<'a>(&self, line: &'a str, fields: usize) -> Option<Row<'a>> {
        let mut row: Row<'a> = vec![None; fields];
        let mut rest = line.strip_prefix(self.before.as_str())?;
        for (field, after) in &self.parts {
            let end = if after.is_empty() { rest.len() } else { ends(rest, after)? };
            let (value, behind) = (rest.get(..end)?, rest.get(end..)?);
            if let Some(field) = field {
                row[*field] = Some(Cell::Text(Cow::Borrowed(value)));
            }
            rest = behind.strip_prefix(after.as_str())?;
        }
        Some(row)
    }
}

fn variable(piece: &str) -> (&str, &str) {
    if let Some((name, after)) = piece.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        return (name, after);
    }
    let end = piece.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(piece.len());
    piece.split_at(end)
}

/// Where a value ends that `after` follows. A quote within quotes is written with a backslash before it.
fn ends(rest: &str, after: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let end = from + rest.get(from..)?.find(after)?;
        let escaped = after.starts_with('"')
            && rest.get(..end)?.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        if !escaped {
            return Some(end);
        }
        from = end + 1;
    }
}

/// What a JSON object says.
///
/// # Errors
/// What serde says.
pub(super) fn read_json<'a>(line: &'a [u8], fields: &Fields) -> Result<Row<'a>, String> {
    let mut reader = serde_json::Deserializer::from_slice(line);
    let row = Wanted(fields).deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(row)
}

struct Wanted<'f>(&'f Fields);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Row<'de>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Row<'de>, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Row<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("one JSON object per line")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row<'de>, A::Error> {
        let fields = &self.0.0;
        let mut row: Row<'de> = vec![None; fields.len()];
        while let Some(place) = map.next_key_seed(Name(fields))? {
            match place {
                Some(place) => row[place] = map.next_value_seed(Scalar)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(row)
    }
}

struct Name<'f>(&'f [String]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Option<usize>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|field| field == name))
    }
}

struct Scalar;

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = Option<Cell<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Option<Cell<'de>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cell::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cell::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(Cell::Whole(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(number).ok().map(Cell::Whole))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(Cell::Real(number)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// A moment and the step of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) at: Ns,
    pub(super) step: Ns,
}

/// Reads a moment. A number without a unit is told by its size: seconds since 1970 have ten digits,
/// milliseconds thirteen, microseconds sixteen, nanoseconds nineteen; a small one is in seconds.
pub(super) fn stamp(cell: &Cell<'_>, unit: Option<Unit>) -> Option<Stamp> {
    match cell {
        Cell::Whole(number) => {
            let unit = unit.unwrap_or(match number.unsigned_abs() {
                0..100_000_000_000 => Unit(SECOND),
                100_000_000_000..100_000_000_000_000 => Unit(1_000_000),
                100_000_000_000_000..100_000_000_000_000_000 => Unit(1_000),
                _ => Unit(1),
            });
            Some(Stamp { at: number.checked_mul(unit.0)?, step: unit.0 })
        }
        Cell::Real(number) => decimal(&number.to_string(), unit.unwrap_or(Unit::SECONDS)),
        Cell::Text(text) => {
            let text = text.trim();
            if text.bytes().next()?.is_ascii_digit() && text.bytes().all(|b| b.is_ascii_digit()) {
                return stamp(&Cell::Whole(text.parse().ok()?), unit);
            }
            local(text)
                .or_else(|| decimal(text, unit.unwrap_or(Unit::SECONDS)))
                .or_else(|| written(text))
        }
    }
}

/// A length of time and its step.
pub(super) fn length(cell: &Cell<'_>, unit: Unit) -> Option<(Ns, Ns)> {
    let length = match cell {
        Cell::Whole(number) => Stamp { at: number.checked_mul(unit.0)?, step: unit.0 },
        Cell::Real(number) => decimal(&number.to_string(), unit)?,
        Cell::Text(text) => decimal(text.trim(), unit)?,
    };
    (length.at >= 0).then_some((length.at, length.step))
}

/// `1763712345.123`: exact, where a binary fraction is not. The step is that of its last digit.
fn decimal(text: &str, unit: Unit) -> Option<Stamp> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let mut at = whole.parse::<i64>().ok()?.checked_mul(unit.0)?;
    let mut step = unit.0;
    for digit in fraction.bytes() {
        step /= 10;
        at = at.checked_add(Ns::from(digit - b'0').checked_mul(step)?)?;
    }
    Some(Stamp { at: at.checked_mul(sign)?, step: step.max(1) })
}

/// `2026-11-21T15:04:05.123Z`.
fn written(text: &str) -> Option<Stamp> {
    let time: Timestamp = text.parse().ok()?;
    let digits = text
        .split_once(['.', ','])
        .map_or(0, |(_, fraction)| fraction.bytes().take_while(u8::is_ascii_digit).count());
    let step = 10_i64.pow(9_u32.saturating_sub(u32::try_from(digits).ok()?));
    Some(Stamp { at: Ns::try_from(time.as_nanosecond()).ok()?, step })
}

/// `10/Oct/2000:13:55:36 -0700`, with or without a fraction of the second.
fn local(text: &str) -> Option<Stamp> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    if text.as_bytes().get(2) != Some(&b'/') {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i8>().ok();
    let month = MONTHS.find(text.get(3..6)?)? / 3 + 1;
    let year = text.get(7..11)?.parse::<i16>().ok()?;
    if !(1970..=2261).contains(&year) || !(1..=31).contains(&number(0, 2)?) {
        return None;
    }
    let (hour, minute, second) = (number(12, 14)?, number(15, 17)?, number(18, 20)?);
    // A leap second is the one before it.
    let second = second.min(59);
    let valid = (0..24).contains(&hour) && (0..60).contains(&minute) && second >= 0;
    let day = i8::try_from(month)
        .ok()
        .and_then(|month| jiff::civil::Date::new(year, month, number(0, 2)?).ok())?;
    if !valid {
        return None;
    }
    let (fraction, zone) = text.get(20..)?.split_once(' ')?;
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let offset =
        zone.get(1..3)?.parse::<i64>().ok()? * 3600 + zone.get(3..5)?.parse::<i64>().ok()? * 60;
    let days = i64::from((day - date(1970, 1, 1)).get_days());
    let of_day = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    let seconds = days * 86_400 + of_day - sign * offset;
    let part =
        if fraction.is_empty() { "0".into() } else { format!("0{}", fraction.replace(',', ".")) };
    let part = decimal(&part, Unit::SECONDS)?;
    Some(Stamp { at: seconds.checked_mul(SECOND)?.checked_add(part.at)?, step: part.step })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(Ns, Ns)> {
        stamp(&Cell::Text(text.into()), None).map(|stamp| (stamp.at, stamp.step))
    }

    #[test]
    fn times_are_read_exactly_in_every_form_with_their_step() {
        let second = 971_211_336;
        let ms = 1_000_000;
        assert_eq!(of("10/Oct/2000:13:55:36 -0700"), Some((second * SECOND, SECOND)));
        assert_eq!(of("10/Oct/2000:20:55:36.250 +0000"), Some((second * SECOND + 250 * ms, ms)));
        assert_eq!(of("971211336.123"), Some((second * SECOND + 123 * ms, ms)));
        assert_eq!(of("2000-10-10T13:55:36-07:00"), Some((second * SECOND, SECOND)));
        assert_eq!(of("2000-10-10T20:55:36.123456Z"), Some((second * SECOND + 123_456_000, 1_000)));
        assert_eq!(of("971211336123"), Some((second * SECOND + 123 * ms, ms)));
        assert_eq!(of("971211336123456"), Some((second * SECOND + 123_456_000, 1_000)));
        assert_eq!(of("971211336"), Some((second * SECOND, SECOND)));
        let real = stamp(&Cell::Real(1_763_712_345.123_456), None).unwrap();
        assert_eq!(real, Stamp { at: 1_763_712_345_123_456_000, step: 1_000 });
        assert_eq!(stamp(&Cell::Whole(5), Unit::parse("us")).unwrap().at, 5_000);
        let wrong = [
            "",
            "-",
            "x",
            "10/Oct/2000",
            "99/Oct/2000:13:55:36 -0700",
            "12.3.4",
            "1e9",
            "31/Feb/2026:00:00:00 +0000",
        ];
        for wrong in wrong {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(length(&Cell::Text("0.250".into()), Unit::SECONDS), Some((250 * ms, ms)));
        assert_eq!(length(&Cell::Real(-0.5), Unit::SECONDS), None);
    }

    #[test]
    fn a_line_of_the_combined_format_is_read_with_quotes_in_it() {
        let fields = Fields(["time_local", "request", "remote_user"].map(str::to_owned).into());
        let form = Form::new(COMBINED, &fields).unwrap();
        let line = r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?q=\"x\" HTTP/1.0" 200 2326 "-" "Mozilla (\"y\")" 0.003"#;
        let row = form.read(line, 3).unwrap();
        let text: Vec<_> = row.iter().map(|cell| cell.as_ref().unwrap().text()).collect();
        assert_eq!(text, ["10/Oct/2000:13:55:36 -0700", r#"GET /a?q=\"x\" HTTP/1.0"#, "frank"]);
        assert_eq!(form.read("nonsense", 3), None);
        assert_eq!(form.read("", 3), None);
        assert!(Form::new("$a$b", &fields).is_err());
        assert!(Form::new("plain", &fields).is_err());
        assert_eq!(Form::variables("'$msec ${x_y} $request_uri'"), ["msec", "x_y", "request_uri"]);
    }

    #[test]
    fn of_a_json_line_only_the_fields_are_kept() {
        let fields = Fields(["at", "account", "deep"].map(str::to_owned).into());
        let line = br#"{"x":{"at":1},"at":12.5,"account":"a\"b","y":[1,{"z":2}],"deep":{"q":1}}"#;
        let row = read_json(line, &fields).unwrap();
        let wanted = [Some(Cell::Real(12.5)), Some(Cell::Text("a\"b".into())), None];
        assert_eq!(row, wanted);
        assert!(read_json(b"[1]", &fields).is_err());
        assert!(read_json(b"{\"at\":1} x", &fields).is_err());
        assert!(read_json(b"{\"at\":", &fields).is_err());
    }
}
