//! The header `Link` (RFC 8288, <https://www.rfc-editor.org/rfc/rfc8288#section-3>), as far as `rel=next` goes.

/// The target of the first link with the relation `next`, as it stands: it may be relative.
pub(super) fn next<'a>(fields: impl IntoIterator<Item = &'a str>) -> Option<String> {
    fields.into_iter().find_map(next_of)
}

fn next_of(field: &str) -> Option<String> {
    let mut rest = field;
    loop {
        let (_, from) = rest.split_once('<')?;
        let (target, after) = from.split_once('>')?;
        let (is_next, behind) = parameters(after);
        if is_next {
            return Some(target.trim().to_owned());
        }
        rest = behind;
    }
}

/// Whether the parameters of one link say `rel=next`, and what follows them.
fn parameters(text: &str) -> (bool, &str) {
    let (mut is_next, mut said) = (false, false);
    let mut rest = text.trim_start();
    while let Some(from) = rest.strip_prefix(';') {
        let end = from.find([';', ',', '=']).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        let (value, behind) = match after.strip_prefix('=') {
            Some(value) => value_of(value.trim_start()),
            None => (String::new(), after),
        };
        // Only the first `rel` counts (section 3.3).
        if name.trim().eq_ignore_ascii_case("rel") && !said {
            said = true;
            is_next = value.split_ascii_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"));
        }
        rest = behind.trim_start();
    }
    (is_next, rest)
}

/// A token or a quoted text, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut signs = quoted.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(signs.next().map(|(_, sign)| sign)),
            sign => value.push(sign),
        }
    }
    (value, "")
}
