//! What a node logs now, and who may change it while it works: the command line, the configuration, an operator.
//!
//! Whoever starts the logs says how a filter is put in force; nothing here knows the crate that writes them. The
//! command line goes before the configuration, and an operator's wish before both, until it ends.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::plan::LogPlan;
use crate::telemetry;

/// Longest text of a filter in bytes, and most parts of one.
const FILTER_BYTES_MAX: usize = 1024;
const PARTS_MAX: usize = 32;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged: levels by target, as `info` or `warn,tollgate::fetch=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// Reads a level, or several `TARGET=LEVEL` between commas. A target is `tollgate::` and a group of
    /// `docs/events.md`, or the path of a module; the longest that fits counts.
    ///
    /// # Errors
    /// It is none; the error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if text.len() > FILTER_BYTES_MAX || parts.len() > PARTS_MAX {
            return Err(format!("more than {PARTS_MAX} parts or {FILTER_BYTES_MAX} bytes"));
        }
        let mut read = Vec::new();
        for part in parts {
            let (target, level) = part
                .split_once('=')
                .map_or((None, part), |(target, level)| (Some(target.trim()), level.trim()));
            let level = level.to_ascii_lowercase();
            if !LEVELS.contains(&level.as_str()) {
                return Err(format!("`{level}` is no level: {}", LEVELS.join(", ")));
            }
            read.push(match target {
                None => level,
                Some(target) if is_target(target) => format!("{target}={level}"),
                Some(target) => return Err(format!("`{target}` is no target of events")),
            });
        }
        Ok(Self(read.join(",")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_target(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && text.split("::").all(|part| !part.is_empty() && part.chars().all(good))
}

/// What is to be logged from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// This filter.
    Set {
        /// As [`Filter::parse`] reads it.
        level: String,
        /// For so long; nothing: until something else is wished, or the process ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// What the command line or the configuration says.
    Reset,
}

/// What is logged now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The filter in force.
    pub level: String,
    /// Who said so: `default`, `config`, `flag` or `operator`.
    pub by: String,
    /// When an operator's wish ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Puts a filter in force, and how many lines of one event a second may have; 0: any number.
pub trait Apply: Send + Sync {
    /// # Errors
    /// The filter is not understood; the one before stays.
    fn apply(&self, filter: &str, per_second_max: u32) -> Result<(), String>;
}

/// What a node logs. Cheap to clone.
#[derive(Clone)]
pub struct Levels(Arc<Mutex<State>>);

struct State {
    apply: Box<dyn Apply>,
    /// What is logged where nobody says anything.
    default: String,
    /// What the command line says.
    flag: Option<String>,
    config: LogPlan,
    wish: Option<Wished>,
}

struct Wished {
    level: Filter,
    ends: Option<(Instant, Timestamp)>,
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").finish_non_exhaustive()
    }
}

impl Levels {
    /// As the process starts, with that in force already.
    pub fn new(
        apply: Box<dyn Apply>,
        default: &str,
        flag: Option<String>,
        config: LogPlan,
    ) -> Self {
        let default = default.to_owned();
        Self(Arc::new(Mutex::new(State { apply, default, flag, config, wish: None })))
    }

    /// What is logged now.
    pub fn told(&self) -> Told {
        self.locked().told()
    }

    /// The configuration was read anew.
    pub fn configured(&self, config: &LogPlan) {
        let mut state = self.locked();
        if state.config == *config {
            return;
        }
        let before = std::mem::replace(&mut state.config, config.clone());
        if let Err(reason) = state.put_in_force() {
            state.config = before;
            telemetry::log_level_refused(&reason);
        } else {
            telemetry::log_level_changed(&state.told());
        }
    }

    /// Does what an operator wishes.
    ///
    /// # Errors
    /// It is no filter; the error is a sentence.
    pub fn wish(&self, wish: &Wish, now: Timestamp) -> Result<Told, String> {
        let mut state = self.locked();
        let wished = match wish {
            Wish::Reset => None,
            Wish::Set { level, for_ms } => {
                let ends = for_ms.map(|ms| {
                    let within = Duration::from_millis(ms);
                    let until = now.checked_add(within).unwrap_or(Timestamp::MAX);
                    (Instant::now().checked_add(within).unwrap_or_else(Instant::now), until)
                });
                Some(Wished { level: Filter::parse(level)?, ends })
            }
        };
        let before = std::mem::replace(&mut state.wish, wished);
        if let Err(reason) = state.put_in_force() {
            state.wish = before;
            return Err(reason);
        }
        let told = state.told();
        telemetry::log_level_changed(&told);
        Ok(told)
    }

    /// Ends a wish whose time is over. To be called now and then.
    pub fn look(&self) {
        let mut state = self.locked();
        let ends = state.wish.as_ref().and_then(|wish| wish.ends);
        if ends.is_some_and(|(at, _)| Instant::now() >= at) {
            state.wish = None;
            // What was in force before can be so again.
            let _applied = state.put_in_force();
            telemetry::log_level_changed(&state.told());
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn told(&self) -> Told {
        let (level, by) = match (&self.wish, &self.flag, &self.config.level) {
            (Some(wish), _, _) => (wish.level.as_str(), "operator"),
            (None, Some(flag), _) => (flag.as_str(), "flag"),
            (None, None, Some(level)) => (level.as_str(), "config"),
            (None, None, None) => (self.default.as_str(), "default"),
        };
        let until = self.wish.as_ref().and_then(|wish| wish.ends).map(|(_, until)| until);
        Told { level: level.to_owned(), by: by.to_owned(), until }
    }

    fn put_in_force(&self) -> Result<(), String> {
        self.apply.apply(&self.told().level, self.config.per_second_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Apply for Seen {
        fn apply(&self, filter: &str, most: u32) -> Result<(), String> {
            self.0.lock().unwrap().push(format!("{filter} {most}"));
            Ok(())
        }
    }

    fn config(level: Option<&str>) -> LogPlan {
        let level = level.map(|level| Filter::parse(level).unwrap());
        LogPlan { level, per_second_max: 7 }
    }

    #[test]
    fn a_filter_is_levels_by_target_and_nothing_else() {
        let text = " INFO, tollgate::fetch = Debug ,async_nats=off";
        assert_eq!(
            Filter::parse(text).unwrap().as_str(),
            "info,tollgate::fetch=debug,async_nats=off"
        );
        let long = vec!["info"; PARTS_MAX + 1].join(",");
        for bad in
            ["", "loud", "a=b=c", "=info", "a b=info", "a::=info", "info,", "a[{x}]=info", &long]
        {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_goes_before_the_flag_and_that_before_the_configuration_until_it_ends() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let levels = Levels::new(Box::new(Seen(seen.clone())), "warn", None, config(None));
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!((levels.told().level.as_str(), levels.told().by.as_str()), ("warn", "default"));
        levels.configured(&config(Some("info")));
        levels.configured(&config(Some("info")));
        assert_eq!(*seen.lock().unwrap(), ["info 7"], "what says nothing new changes nothing");
        let set = |level: &str, for_ms| Wish::Set { level: level.into(), for_ms };
        let told = levels.wish(&set("tollgate::fetch=debug,info", Some(60_000)), now).unwrap();
        assert_eq!((told.by.as_str(), told.until.unwrap().as_second()), ("operator", 60));
        assert!(levels.wish(&set("loud", None), now).is_err());
        tokio::time::advance(Duration::from_secs(59)).await;
        levels.look();
        assert_eq!(levels.told(), told);
        tokio::time::advance(Duration::from_secs(1)).await;
        levels.look();
        assert_eq!((levels.told().level.as_str(), levels.told().by.as_str()), ("info", "config"));
        levels.wish(&set("error", None), now).unwrap();
        levels.configured(&config(Some("debug")));
        assert_eq!(levels.told().level, "error", "the configuration waits for its turn");
        levels.wish(&Wish::Reset, now).unwrap();
        assert_eq!(levels.told().level, "debug");

        let flagged = Levels::new(
            Box::new(Seen(seen.clone())),
            "warn",
            Some("trace".into()),
            config(Some("info")),
        );
        assert_eq!((flagged.told().level.as_str(), flagged.told().by.as_str()), ("trace", "flag"));
    }
}
