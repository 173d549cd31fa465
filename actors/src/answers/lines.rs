//! Counts the lines of CSV and TSV as they stream by, and keeps the first.

/// Longest first line that is read for its columns, in bytes.
const FIRST_BYTES_MAX: usize = 256 * 1024;

/// Lines of a table. A line break within quotes is none (RFC 4180: <https://www.rfc-editor.org/rfc/rfc4180>).
#[derive(Debug, Default)]
pub(super) struct Lines {
    first: Vec<u8>,
    first_is_over: bool,
    /// Lines that have something on them.
    lines: u64,
    /// Whether quotes mean something: in TSV they are signs like others.
    quoting: bool,
    in_quotes: bool,
    /// Whether a quote here opens: a field begins, or one that was quoted has just closed (`""` within it).
    may_open: bool,
    has_something: bool,
}

impl Lines {
    pub(super) fn new(quoting: bool) -> Self {
        Self { quoting, may_open: true, ..Self::default() }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'"' if self.quoting && (self.in_quotes || self.may_open) => {
                    self.may_open = self.in_quotes;
                    self.in_quotes = !self.in_quotes;
                    self.has_something = true;
                }
                b'\n' | b'\r' if !self.in_quotes => {
                    self.may_open = true;
                    self.line_ends();
                }
                byte => {
                    self.may_open = !self.in_quotes && matches!(byte, b',' | b';' | b'\t');
                    self.has_something = true;
                }
            }
            if !self.first_is_over && self.has_something && self.first.len() < FIRST_BYTES_MAX {
                self.first.push(*byte);
            }
        }
    }

    fn line_ends(&mut self) {
        if self.has_something {
            self.lines += 1;
            self.first_is_over = true;
        }
        self.has_something = false;
    }

    /// Lines behind the first; that was all.
    pub(super) fn rows(&mut self) -> u64 {
        self.line_ends();
        self.lines.saturating_sub(1)
    }

    /// Which of these columns the first line does not name. It may be separated by commas, semicolons or tabs.
    pub(super) fn lacks(&self, columns: &[String]) -> Vec<String> {
        let lacking = |separator: u8| {
            let mut reader = csv::ReaderBuilder::new()
                .has_headers(false)
                .delimiter(separator)
                .from_reader(self.first.as_slice());
            let mut first = csv::ByteRecord::new();
            // What is no line names nothing.
            let is_read = reader.read_byte_record(&mut first).is_ok();
            let names = |column: &&String| {
                let named = |name: &[u8]| {
                    let name = name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name);
                    name.trim_ascii() == column.as_bytes()
                };
                is_read && first.iter().any(named)
            };
            columns.iter().filter(|column| !names(column)).cloned().collect::<Vec<_>>()
        };
        let each = b",;\t".iter().map(|separator| lacking(*separator));
        each.min_by_key(Vec::len).unwrap_or_default()
    }
}
