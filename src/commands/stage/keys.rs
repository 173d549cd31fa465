//! What a key tells of the object under it.

use std::collections::BTreeMap;

/// Names and values that stand in a key: `NAME=VALUE` parts as Hive has them, and what the template of keys names as
/// whole parts, or behind a text. Values are decoded.
pub(super) fn parts(key: &str, template: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let (parts, wanted): (Vec<&str>, Vec<&str>) =
        (key.split('/').collect(), template.split('/').collect());
    if parts.len() == wanted.len() {
        for (part, wanted) in parts.iter().zip(wanted) {
            let Some((before, rest)) = wanted.split_once('{') else { continue };
            let Some(name) = rest.strip_suffix('}') else { continue };
            let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
            if let (true, Some(value)) = (is_name, part.strip_prefix(before)) {
                found.insert(name.to_owned(), decoded(value));
            }
        }
    }
    for part in parts {
        if let Some((name, value)) = part.split_once('=')
            && !name.is_empty()
        {
            found.insert(decoded(name), decoded(value));
        }
    }
    found
}

/// Undoes percent-encoding; what is none stays.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            plain.push(byte);
            at += 3;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(plain).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_key_are_found_by_name() {
        let found = parts(
            "kakao/offers/act%2F1/dt=2026-11-20/id-1/00001.json.zst",
            "{platform}/{api}/{account}/dt={date}/{id}/{page}.{ext}",
        );
        let wanted = [
            ("account", "act/1"),
            ("api", "offers"),
            ("date", "2026-11-20"),
            ("dt", "2026-11-20"),
            ("id", "id-1"),
            ("platform", "kakao"),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, BTreeMap::from(wanted));
        assert_eq!(
            parts("x/100%/a=%zz", "{platform}"),
            BTreeMap::from([("a".into(), "%zz".into())])
        );
    }
}
