//! What a table is: where its records are, what its columns are, and what becomes of what does not fit.
//!
//! Types only, without a dependency, so that a configuration can be read by a build that cannot make Parquet.

use std::fmt;

/// Most columns of a table, with those that were added.
pub const COLUMNS_MAX: usize = 2_000;
/// Most arrays that one record is taken apart by.
pub const EXPLODES_MAX: usize = 8;
/// Digits of a decimal: what a 128-bit one holds, and what Spark and DuckDB read.
pub const DECIMAL_DIGITS_MAX: u8 = 38;

/// A table that raw answers become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// How the bytes are written; none: as each input's name says.
    pub format: Option<Format>,
    /// Where the records are in a JSON document. A list is walked through with `[]`. Empty: the document is the record.
    pub records: Vec<Step>,
    /// Arrays below a record whose elements become rows, in this order.
    pub explode: Vec<Vec<String>>,
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// Columns by whose values files lie in folders `NAME=VALUE`; they are not in the files.
    pub partition: Vec<usize>,
    /// Columns that the rows of each row group are sorted by, ascending, nulls last.
    pub sort: Vec<usize>,
    /// What becomes of fields that no column takes.
    pub unknown: Unknown,
    /// What becomes of a row with a value that is not of its column's type.
    pub mismatch: Mismatch,
    /// Texts that mean null, beside JSON's own.
    pub nulls: Vec<String>,
    /// What separates the fields of a CSV line; TSV has a tab.
    pub separator: u8,
}

/// How the bytes of an input are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON document, or several one after the other.
    Json,
    /// One JSON value per line.
    Ndjson,
    /// Comma-separated values, the first line with the names.
    Csv,
    /// The same with tabs.
    Tsv,
}

impl Format {
    /// As the end of a name says, compression apart: `json`, `ndjson`, `jsonl`, `csv`, `tsv`.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(name);
        match name.rsplit_once('.')?.1 {
            "json" => Some(Self::Json),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            _ => None,
        }
    }
}

/// One step on the way to the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into a member of an object.
    Field(String),
    /// Through the elements of a list.
    Each,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// What it is called in the files.
    pub name: String,
    /// Where its values come from.
    pub from: From,
    /// What they are.
    pub kind: Kind,
    /// Instead of null, as it would be written in an input.
    pub default: Option<String>,
    /// Whether a row without a value is quarantined; the column is not nullable then.
    pub required: bool,
}

/// Where a column's values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The names from the record down to the value; of a CSV one name.
    Path(Vec<String>),
    /// Something about the input that is the same for all of its rows, by the name the caller has for it.
    Input(String),
}

/// What a column's values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text, as it is written.
    String,
    /// true or false.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A floating-point number of 64 bits.
    Float64,
    /// An exact number.
    Decimal {
        /// All digits, 1 to 38.
        digits: u8,
        /// Those behind the point, 0 to `digits`.
        behind: u8,
    },
    /// A day.
    Date {
        /// How it is written, as strftime has it; none: `2026-11-20`.
        formats: Vec<String>,
    },
    /// A moment, kept in microseconds UTC; what is finer is cut off.
    Timestamp {
        /// How it is written; the first that fits counts.
        formats: Vec<Moment>,
        /// Whose clock is meant where none is said: an IANA name. A time that a clock shows twice is the first.
        zone: String,
    },
}

/// How a moment is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// ISO 8601 or RFC 3339, with or without an offset.
    Iso,
    /// A number since 1970-01-01T00:00:00Z in units of which a second has so many: 1, 1,000, 1,000,000.
    Unix(i64),
    /// As strftime has it.
    Format(String),
}

/// What becomes of fields of a record that no column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They are left out.
    Ignore,
    /// They become columns.
    Add,
    /// The record is quarantined.
    Quarantine,
    /// The work ends with an error.
    Refuse,
}

/// What becomes of a row with a value that is not of its column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The column's type becomes one that takes both.
    Widen,
    /// The row is quarantined.
    Quarantine,
    /// The work ends with an error.
    Refuse,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Bool => f.write_str("bool"),
            Self::Int32 => f.write_str("int32"),
            Self::Int64 => f.write_str("int64"),
            Self::Float64 => f.write_str("float64"),
            Self::Decimal { digits, behind } => write!(f, "decimal({digits},{behind})"),
            Self::Date { .. } => f.write_str("date"),
            Self::Timestamp { .. } => f.write_str("timestamp"),
        }
    }
}

impl Kind {
    /// The type of that name, with ISO formats and UTC where it needs such.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::String,
            "bool" => Self::Bool,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "float64" => Self::Float64,
            "date" => Self::Date { formats: Vec::new() },
            "timestamp" => Self::Timestamp { formats: vec![Moment::Iso], zone: "UTC".to_owned() },
            _ => {
                let inside = name.strip_prefix("decimal(")?.strip_suffix(')')?;
                let (digits, behind) = inside.split_once(',')?;
                let (digits, behind) = (digits.trim().parse().ok()?, behind.trim().parse().ok()?);
                if !(1..=DECIMAL_DIGITS_MAX).contains(&digits) || behind > digits {
                    return None;
                }
                Self::Decimal { digits, behind }
            }
        })
    }

    /// The next wider type; text takes everything. None: there is none.
    pub fn wider(&self) -> Option<Self> {
        Some(match self {
            Self::String => return None,
            Self::Int32 => Self::Int64,
            // Whole numbers stay exact; what has a fraction or an exponent is a float.
            Self::Int64 => Self::Float64,
            Self::Decimal { digits, behind } if *digits < DECIMAL_DIGITS_MAX => {
                // Room for twice the digits behind the point, the rest before it.
                let behind = behind.saturating_mul(2).clamp(4, 18);
                Self::Decimal {
                    digits: DECIMAL_DIGITS_MAX,
                    behind: behind.max(digits.min(&18) / 2),
                }
            }
            _ => Self::String,
        })
    }
}

/// The names of a path such as `price.total`.
pub fn path(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

/// The way to the records, as `data.offers[]` says; `[]` alone is a list at the top.
///
/// # Errors
/// A name is empty.
pub fn records(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    if text.is_empty() {
        return Ok(steps);
    }
    for (number, part) in text.split('.').enumerate() {
        let name = part.trim_end_matches("[]");
        if name.is_empty() && (number > 0 || part.is_empty()) {
            return Err(format!("`{text}` has an empty name"));
        }
        if !name.is_empty() {
            steps.push(Step::Field(name.to_owned()));
        }
        steps.extend((0..(part.len() - name.len()) / 2).map(|_| Step::Each));
    }
    Ok(steps)
}
