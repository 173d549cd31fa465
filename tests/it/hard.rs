//! The hard cases: `demo --profile`, the real binary on a provider that is difficult in one way and keeps the marks.
//!
//! Each case twice: with what the provider allows, and with too much declared, where the marks are what a mistake may
//! cost at most. Smaller than the demo, and with the same seed each time; the provider lets pass what its own late stamps
//! explain. The marks that are asserted are those that hold on the busiest machine. How much of what is allowed was used
//! is a figure, which the demo itself asserts.

use serde_json::Value;

use crate::util::Dir;

/// Runs a case and asserts that these marks are among its own and passed. Answers with what it told.
fn passes(args: &[&str], marks: &[&str]) -> Value {
    let dir = Dir::empty();
    let args: Vec<&str> = [&["demo", "--json", "--profile"], args].concat();
    let ran = dir.tollgate(&args).run();
    let told = ran.json();
    let all = told["marks"].as_array().unwrap();
    for mark in marks {
        let is = |own: &&Value| own["mark"].as_str().unwrap().contains(mark);
        let own = all.iter().find(is).unwrap_or_else(|| panic!("no mark `{mark}`\n{ran}"));
        assert_eq!(own["pass"], true, "{own:#}\n{told:#}\n{ran}");
    }
    let pass = all.iter().all(|mark| mark["pass"] == true);
    assert_eq!(told["pass"], pass);
    ran.exits(i32::from(!pass));
    told
}

#[test]
fn gaps_of_keys_that_the_shape_decides_hold_on_arrival_through_jitter_and_kills() {
    let marks = ["arrivals too early", "stored once"];
    let told = passes(&["interval", "--accounts", "12"], &marks);
    assert_eq!((&told["refused"], &told["kills"]), (&0.into(), &2.into()));
    assert_eq!(told["knobs"]["jitter"], "400ms");
}

#[test]
fn a_gap_that_a_provider_lengthens_raises_an_alarm_and_is_kept_once_it_is_declared() {
    let marks = ["right behind a refusal", "until the alarm", "without a restart", "alarms"];
    passes(&["interval", "--wrong", "--accounts", "8"], &marks);
}

#[test]
fn a_score_that_is_told_in_percent_is_used_and_not_exceeded() {
    let marks = ["blocks of one account", "calls during a block", "left out that were stored"];
    // What a kill takes of a short run depends on the machine: the demo has one, and more to spread it over.
    passes(&["score", "--accounts", "2", "--knob", "kills=0"], &marks);
}

#[test]
fn a_score_declared_too_high_costs_a_block_at_a_time_and_none_is_poked() {
    let marks = ["calls during a block", "alarms"];
    // An alarm takes three blocks, and an account that is slow on a busy machine may be through its calls with one.
    passes(&["score", "--wrong", "--accounts", "4"], &marks);
}

#[test]
fn windows_within_windows_hold_and_the_last_ten_calls_of_a_day_survive_a_kill() {
    let marks = ["beyond a second", "first 100 ms of a day", "last ten", "stored once"];
    let told = passes(&["nested"], &marks);
    assert_eq!(told["kills"], 1);
}

#[test]
fn nested_windows_declared_too_wide_cost_a_violation_each_and_the_right_wait() {
    let marks = ["windows broken", "within a penalty", "alarms"];
    passes(&["nested", "--wrong"], &marks);
}

#[test]
fn slots_that_outlive_calls_are_never_too_many_through_lost_answers_and_kills() {
    let marks = [
        "of all accounts at once",
        "long jobs",
        "ordered again",
        "beyond their budget",
        "over at once",
    ];
    let told = passes(&["jobs", "--accounts", "8"], &marks);
    assert_eq!((&told["refused"], &told["kills"]), (&0.into(), &3.into()));
}

#[test]
fn a_slot_too_many_costs_a_refusal_within_the_time_of_a_job() {
    passes(&["jobs", "--wrong"], &["refusals of one account within", "alarms"]);
}

#[test]
fn costs_told_afterwards_and_others_use_overshoot_by_no_more_than_was_in_flight() {
    let marks = ["beyond the quota", "reserve", "guesses given back", "server errors"];
    passes(&["settle", "--accounts", "4"], &marks);
}

#[test]
fn a_quota_declared_too_high_costs_a_refusal_a_window() {
    passes(&["settle", "--wrong"], &["refusals of one account within a window", "alarms"]);
}

#[test]
fn days_by_the_providers_clock_hold_and_days_of_23_and_25_hours_are_known() {
    let marks = ["the provider's clock", "America/Los_Angeles", "Asia/Seoul"];
    passes(&["clock", "--accounts", "6"], &marks);
}

#[test]
fn a_day_declared_too_wide_costs_a_violation_a_day() {
    passes(&["clock", "--wrong"], &["violations of one account in one day", "alarms"]);
}

#[test]
fn what_is_no_profile_or_knob_is_told() {
    let dir = Dir::empty();
    dir.tollgate(&["demo", "--profile", "nothing"]).run().exits(2).says("interval");
    for (knob, says) in [
        ("jitter=ten", "is not a time"),
        ("lost=101%", "is not a part"),
        ("speed=1", "there is no `speed`"),
        ("kills", "is not NAME=VALUE"),
    ] {
        let ran = dir.tollgate(&["demo", "--profile", "jobs", "--knob", knob]).run();
        ran.exits(2).says(says).says("stale");
    }
    dir.tollgate(&["demo", "--wrong"]).run().exits(2);
    assert!(dir.files(".").is_empty());
}
