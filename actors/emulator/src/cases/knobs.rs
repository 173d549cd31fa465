//! What can go wrong on the way, by a seed.

use std::time::Duration;

use crate::bulk::mix;

/// The names of [`Knobs::set`], and what each is.
pub const KNOBS: &[(&str, &str)] = &[
    ("latency", "longest time from an arrival to its answer, as 80ms"),
    ("jitter", "longest one-way delay of a request, drawn for each, as 400ms"),
    ("lost", "answers that never come although their calls count, as 1%"),
    ("silent", "answers without the headers that tell of quotas, as 30%"),
    ("stale", "answers with headers of an older answer, as 20%"),
    ("rival", "part of the quota that somebody else uses, as 30%"),
    ("clock", "how far the provider's clock is off, as 300ms"),
    ("kills", "how often the collector is killed and started again, as 2"),
];

/// What can go wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knobs {
    /// Decides all that is drawn.
    pub seed: u64,
    /// Longest time from an arrival to its answer; the shortest is a quarter of it.
    pub latency: Duration,
    /// Longest one-way delay of a request: between its reading here and its arrival as the provider counts it.
    /// Drawn for each, so requests overtake each other.
    pub jitter: Duration,
    /// Of a thousand calls so many count and are never answered: the connection closes.
    pub lost: u16,
    /// Of a thousand answers so many do not tell of quotas.
    pub silent: u16,
    /// Of a thousand answers so many tell what an older answer of the account told.
    pub stale: u16,
    /// So many thousandths of a quota somebody else uses.
    pub rival: u16,
    /// How far the provider's clock is off: every few seconds fast, then slow by so much.
    pub clock: Duration,
    /// How often whoever runs the caller kills it.
    pub kills: u16,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            seed: 1,
            latency: Duration::from_millis(40),
            jitter: Duration::ZERO,
            lost: 0,
            silent: 0,
            stale: 0,
            rival: 0,
            clock: Duration::ZERO,
            kills: 0,
        }
    }
}

/// Longest latency, jitter and error of the clock.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Most kills.
const KILLS_MAX: u16 = 20;

impl Knobs {
    /// Turns one of [`KNOBS`], said as `NAME=VALUE`.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn set(&mut self, said: &str) -> Result<(), String> {
        let (name, value) =
            said.split_once('=').ok_or_else(|| format!("`{said}` is not NAME=VALUE"))?;
        let (name, value) = (name.trim(), value.trim());
        match name {
            "latency" => self.latency = time(value)?,
            "jitter" => self.jitter = time(value)?,
            "clock" => self.clock = time(value)?,
            "lost" => self.lost = per_mille(value)?,
            "silent" => self.silent = per_mille(value)?,
            "stale" => self.stale = per_mille(value)?,
            "rival" => self.rival = per_mille(value)?,
            "kills" => {
                let kills = value.parse().ok().filter(|kills| *kills <= KILLS_MAX);
                self.kills =
                    kills.ok_or_else(|| format!("`{value}` is not a number up to {KILLS_MAX}"))?;
            }
            _ => {
                let known: Vec<&str> = KNOBS.iter().map(|(name, _)| *name).collect();
                return Err(format!("there is no `{name}`; one of {}", known.join(", ")));
            }
        }
        Ok(())
    }

    /// A number by the seed, for the call with that number and one purpose.
    pub(crate) fn draw(&self, number: u64, purpose: u64) -> u64 {
        mix(self.seed ^ mix(number) ^ mix(purpose.wrapping_mul(0x1_0001)))
    }

    /// Whether a call is among so many of a thousand.
    pub(crate) fn hits(&self, per_mille: u16, number: u64, purpose: u64) -> bool {
        self.draw(number, purpose) % 1_000 < u64::from(per_mille)
    }
}

/// Evenly drawn from a range.
pub(crate) fn between(from: Duration, to: Duration, luck: u64) -> Duration {
    let width = to.saturating_sub(from).as_micros() as u64;
    from + Duration::from_micros(luck % (width + 1))
}

fn time(text: &str) -> Result<Duration, String> {
    let millis = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => millis.parse::<u64>().ok(),
        (None, Some(seconds)) => {
            seconds.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1_000))
        }
        (None, None) => None,
    };
    let time = millis.map(Duration::from_millis).filter(|time| *time <= TIME_MAX);
    time.ok_or_else(|| format!("`{text}` is not a time up to 60s, as 400ms"))
}

fn per_mille(text: &str) -> Result<u16, String> {
    let percent = text.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    percent
        .map(|percent| (percent * 10.0).round() as u16)
        .ok_or_else(|| format!("`{text}` is not a part from 0% to 100%"))
}
