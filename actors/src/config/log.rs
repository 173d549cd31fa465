//! The section `[log]`: what a node tells of itself, and how much of it.

use super::BAD;
use super::section::Section;
use crate::ids::preview;
use crate::levels::Filter;
use crate::plan::LogPlan;

/// Lines of one event in a second, unless told otherwise.
const PER_SECOND: u32 = 1000;
const PER_SECOND_MAX: u64 = 1_000_000;

pub(super) fn log(section: Option<Section<'_>>) -> LogPlan {
    let mut plan = LogPlan { level: None, per_second_max: PER_SECOND };
    let Some(mut section) = section else { return plan };
    if let Some(text) = section.text("level") {
        match Filter::parse(&text) {
            Ok(filter) => plan.level = Some(filter),
            Err(reason) => section.mistake(
                BAD,
                "level",
                format!("`{}`: {reason}", preview(&text)),
                "such as \"info\", or \"warn,tollgate::fetch=info\"",
            ),
        }
    }
    if let Some(most) = section.whole_in("per_second_max", 0..=PER_SECOND_MAX) {
        plan.per_second_max = most as u32;
    }
    section.finish();
    plan
}
