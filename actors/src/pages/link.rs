//! The header `Link` (RFC 8288, <https://www.rfc-editor.org/rfc/rfc8288#section-3>), as far as `rel=next` goes.

/// The target of the first link with the relation `next`, as it stands: it may be relative.
///
/// # Errors
/// A field that is no list of links: it might have named the next page.
pub(super) fn next<'a>(
    fields: impl IntoIterator<Item = &'a str>,
) -> Result<Option<String>, &'a str> {
    for field in fields {
        if let Some(target) = next_of(field)? {
            return Ok(Some(target));
        }
    }
    Ok(None)
}

fn next_of(field: &str) -> Result<Option<String>, &str> {
    let mut rest = field;
    loop {
        let Some((_, from)) = rest.split_once('<') else {
            let ends =
                rest.trim_matches(|sign: char| sign == ',' || sign.is_whitespace()).is_empty();
            return if ends { Ok(None) } else { Err(field) };
        };
        let (target, after) = from.split_once('>').ok_or(field)?;
        let (is_next, behind) = parameters(after);
        if is_next {
            return Ok(Some(target.trim().to_owned()));
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
