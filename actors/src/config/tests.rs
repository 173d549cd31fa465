use std::io::Write;

use super::*;

mod accepted;
mod answers;
mod buckets;
mod fuzz;
mod keys;
mod mistakes;
mod observe;
mod pages;
mod requests;
mod schema;
mod twenty;

/// The least that names a provider, to put mistakes behind.
pub(super) const BASE: &str = r#"
[platforms.kakao]
base_url = "https://apis.example.com/openapi/v4/"
[platforms.kakao.limits]
gap = { per = ["account"], every = "5s" }
[platforms.kakao.apis.report]
path = "creatives/report"
query = { creativeId = "{ids}" }
"#;

pub(super) fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    pairs.into_iter()
}

pub(super) fn load_with(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load(Some(file.path()), env(pairs), &[])
}

pub(super) fn plan(text: &str) -> Plan {
    match load_with(text, &[("TOKEN", "s3cret-value")]) {
        Ok(loaded) => loaded.plan,
        Err(mistakes) => panic!("{mistakes}"),
    }
}
