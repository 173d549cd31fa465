//! The section `[traces]`: where spans go.

use ::config::ValueKind;
use url::Url;

use super::BAD;
use super::section::Section;
use crate::codes::Code;
use crate::ids::preview;
use crate::plan::TracePlan;

/// Which part of the fetches is traced, unless told otherwise.
const SAMPLE: f64 = 0.01;

pub(super) fn traces(section: Option<Section<'_>>) -> Option<TracePlan> {
    let mut section = section?;
    let endpoint = section.required("endpoint", "such as \"http://127.0.0.1:4318/v1/traces\"");
    let endpoint = endpoint.and_then(|text| endpoint_of(&section, &text));
    let sample = sample(&mut section);
    section.finish();
    Some(TracePlan { endpoint: endpoint?, sample: sample.unwrap_or(SAMPLE) })
}

fn endpoint_of(section: &Section<'_>, text: &str) -> Option<Url> {
    match Url::parse(text) {
        Ok(url) if url.password().is_some() || !url.username().is_empty() => {
            let message = "the URL holds a user or password";
            section.mistake(Code::InlineSecret, "endpoint", message, "leave it out");
        }
        Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => return Some(url),
        _ => section.mistake(
            Code::BadUrl,
            "endpoint",
            format!("`{}` is no http or https URL", preview(text)),
            "such as \"http://127.0.0.1:4318/v1/traces\"",
        ),
    }
    None
}

/// A part of one, as a number; as text where it comes from the environment.
fn sample(section: &mut Section<'_>) -> Option<f64> {
    let value = section.take("sample")?;
    let number = match &value.kind {
        ValueKind::Float(number) => Some(*number),
        ValueKind::I64(number) => Some(*number as f64),
        ValueKind::String(text) => text.parse().ok(),
        _ => None,
    };
    let good = number.filter(|number| (0.0..=1.0).contains(number));
    if good.is_none() {
        let message = format!("`{}` is no number from 0 to 1", preview(&value.to_string()));
        section.mistake(BAD, "sample", message, "such as 0.01: one fetch of a hundred");
    }
    good
}
