//! The keys `job` and `job_ends` of an api: which job its calls are about, and which answers say that it is over.

use tollgate_gate::Rule;

use super::BAD;
use super::observe::{entries, predicates};
use super::pairs::template;
use super::section::Section;
use crate::codes::Code;
use crate::observe::Ends;
use crate::plan::Platform;
use crate::recipe::{Template, Variables};

/// The template that names the job.
pub(super) fn job(section: &mut Section<'_>, allowed: &Variables<'_>) -> Option<Template> {
    let text = section.text("job")?;
    if text.is_empty() {
        section.mistake(BAD, "job", "a job without a name", "job = \"{id}\"");
        return None;
    }
    template(section, "job", &text, allowed)
}

/// The answers that say that the job is over. `named`: whether it is said which.
pub(super) fn job_ends(section: &mut Section<'_>, named: bool) -> Vec<Ends> {
    if section.has("job_ends") && !named {
        let message = "it is not said which job is over";
        let hint =
            "job = \"{id}\" where it is ordered, and here the parameter that has the same value";
        section.mistake(Code::MissingKey, "job", message, hint);
    }
    entries(section, "job_ends", |mut entry| {
        let (statuses, tests) = predicates(&mut entry);
        entry.finish();
        Some(Ends { status: statuses?, tests })
    })
}

/// Jobs that nothing counts are most likely a slip.
pub(super) fn check(section: &Section<'_>, platform: &Platform) {
    let wide = platform.budgets.iter().map(|budget| &budget.counted.limits);
    let mut limits = wide.chain([&platform.limits]).flat_map(|set| set.limits());
    if limits.any(|limit| matches!(limit.rule, Rule::Jobs { .. })) {
        return;
    }
    if let Some(api) = platform.apis.iter().find(|api| !api.rules.job_ends.is_empty()) {
        let key = format!("apis.{}.job_ends", api.name);
        let message = "the platform has no limit of jobs that could be over";
        section.mistake(BAD, &key, message, "limits.NAME = { jobs = 100, ttl = \"3h\" }");
    }
}
