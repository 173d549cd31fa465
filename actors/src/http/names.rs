//! Names of hosts, resolved as the system does it, and how long that takes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tollgate_gate::At;

use crate::clock::Clock;
use crate::times::Spent;

/// Look-ups that are remembered; a connection lives for many calls, so there are few.
const KEPT: usize = 256;

/// The system's resolver, on a thread that may wait, with a note of each look-up.
#[derive(Debug)]
pub struct Names {
    clock: Clock,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// When look-ups began and ended.
    over: VecDeque<(At, At)>,
    /// Those that go on.
    open: BTreeMap<u64, At>,
    next: u64,
}

impl Names {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, noted: Mutex::default() })
    }

    /// What was spent with look-ups from then until now.
    pub(crate) fn spent(&self, start: At) -> Spent {
        let now = self.clock.now();
        let noted = self.noted();
        let mut spent = Spent::default();
        let mut add = |from: At, to: At, is_over: bool| {
            if to > start {
                spent.us += to.since(from.max(start)).0;
                let took = to.since(from);
                if is_over { spent.is_over(took) } else { spent.is_open(took) }
            }
        };
        noted.over.iter().for_each(|(from, to)| add(*from, *to, true));
        noted.open.values().for_each(|from| add(*from, now, false));
        spent
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the end of a look-up however it ends, also by being dropped.
struct Open {
    names: Arc<Names>,
    number: u64,
}

impl Open {
    fn new(names: &Arc<Names>) -> Self {
        let now = names.clock.now();
        let mut noted = names.noted();
        let number = noted.next;
        noted.next += 1;
        noted.open.insert(number, now);
        drop(noted);
        Self { names: Arc::clone(names), number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let now = self.names.clock.now();
        let mut noted = self.names.noted();
        if let Some(since) = noted.open.remove(&self.number) {
            if noted.over.len() >= KEPT {
                noted.over.pop_front();
            }
            noted.over.push_back((since, now));
        }
    }
}

/// As reqwest asks for names.
#[derive(Debug, Clone)]
pub(super) struct Resolver(pub(super) Arc<Names>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let open = Open::new(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            drop(open);
            let found: Vec<SocketAddr> = found?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_look_up_is_noted_with_how_long_it_took_also_one_that_is_given_up() {
        let names = Names::new(Clock::new());
        let start = names.clock.now();
        let resolver = Resolver(Arc::clone(&names));
        let found = resolver.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(found.into_iter().all(|address| address.ip().is_loopback()));
        assert_eq!(names.spent(start).count, 1);
        let open = Open::new(&names);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let during = names.spent(start);
        assert_eq!((during.count, during.open), (1, 1));
        assert!(during.us >= 20_000, "{during:?}");
        drop(open);
        assert_eq!(names.spent(start).count, 2);
        assert_eq!(names.spent(names.clock.now()).count, 0);
    }
}
