//! The closing summary, for people and for programs.

use serde::Serialize;
use tollgate_actors::telemetry::Summary;

use super::{number, print, say, size};

/// What the emulated provider says of a demo.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    /// Calls it received.
    pub(crate) calls: u64,
    /// Calls it refused.
    pub(crate) refused: u64,
    /// Least time the calls need under its limits over the time they took, as it saw them arrive.
    pub(crate) share: Option<f64>,
}

#[derive(Serialize)]
struct WithVerdict<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    emulator: &'a Verdict,
}

/// Prints the summary: one JSON object on standard output, or a few lines for people.
///
/// # Errors
/// Nobody reads it.
pub(crate) fn show(
    summary: &Summary,
    verdict: Option<&Verdict>,
    json: bool,
    places: &[(&str, String)],
) -> anyhow::Result<()> {
    if json {
        let text = match verdict {
            Some(emulator) => serde_json::to_string(&WithVerdict { summary, emulator })?,
            None => serde_json::to_string(summary)?,
        };
        print(format_args!("{text}"))?;
        return Ok(());
    }
    let Summary { fetches, done, dead, left, calls, refused, objects, bytes, seconds, limits } =
        summary;
    say(format_args!(""));
    let line = |name: &str, text: String| say(format_args!("  {name:<10}{text}"));
    line(
        "fetches",
        format!(
            "{}: {} done, {} dead, {} left",
            number(*fetches),
            number(*done),
            number(*dead),
            number(*left)
        ),
    );
    let rate = *calls as f64 / seconds.max(0.001);
    line("calls", format!("{} in {seconds:.1} s ({rate:.0} a second)", number(*calls)));
    match verdict {
        Some(verdict) => line(
            "refused",
            format!(
                "{} by the provider, which counted {} calls as they arrived",
                number(verdict.refused),
                number(verdict.calls)
            ),
        ),
        None => line("refused", format!("{} by providers", number(*refused))),
    }
    line("objects", format!("{}, {} before compression", number(*objects), size(*bytes)));
    for used in limits {
        line("used", format!("{:.1} % of what limit {} allows", used.share * 100.0, used.limit));
    }
    if let Some(share) = verdict.and_then(|verdict| verdict.share) {
        line(
            "in all",
            format!(
                "{:.1} % of the rate that all limits together allow, by the provider's count",
                share * 100.0
            ),
        );
    }
    for (name, place) in places {
        line(name, place.clone());
    }
    Ok(())
}
