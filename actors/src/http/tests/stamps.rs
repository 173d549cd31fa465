//! The stamp of a request's writing against the moment of its arrival, as the provider saw it.
//!
//! What the gate relies on: a call that is charged at `min(head, stamp + guard)` has arrived by then. The
//! guard is the default's least, 25 ms.

use std::collections::HashMap;

use tollgate_emulator::{Emulator, Latency, Profile};

use super::*;

const GUARD: Duration = Duration::from_millis(25);
const CALLS: usize = 200;

/// A provider, a client, and all calls so far.
struct Bench {
    emulator: Emulator,
    clock: Clock,
    calls: RefCell<Vec<(String, Told)>>,
}

impl Bench {
    fn new(latency: Latency) -> Self {
        let profile = Profile { record: true, latency, ..Profile::default() };
        let emulator = Emulator::start(profile).unwrap();
        Self { emulator, clock: Clock::new(), calls: RefCell::default() }
    }

    fn wire(&self) -> Wire {
        Wire::new(self.clock.clone(), 64).unwrap()
    }

    /// One call to its end; `path` without query.
    async fn call(&self, wire: &Wire, path: &str) {
        let number = self.calls.borrow().len();
        let name = format!("n={number}-{}", fastrand::u64(..));
        let url = format!("{}{path}?{name}", self.emulator.base_url());
        let told =
            call(wire, &self.clock, &url, "x", timeouts(5000, 5000, 5000), GUARD * 1000).await;
        let Told { begun, words, head, answer } = told;
        let answer = match answer {
            Ok(answer) => {
                let empty = Answer {
                    status: answer.status,
                    headers: HeaderMap::new(),
                    body: futures_util::stream::empty().boxed_local(),
                };
                body(answer).await.ok();
                Ok(empty)
            }
            Err(error) => Err(error),
        };
        self.calls.borrow_mut().push((name, Told { begun, words, head, answer }));
    }

    /// Asserts that every call had arrived when it was charged, and prints what was measured.
    fn judge(&self, what: &str) {
        let arrivals: HashMap<String, Instant> = self
            .emulator
            .calls()
            .into_iter()
            .map(|call| (call.query.to_string(), Instant::from_std(call.at)))
            .collect();
        // The provider's own lateness in reading makes an arrival look later than it was. It looks at that
        // every 5 ms.
        let lag = Duration::from_micros(self.emulator.score().loop_lag_max_us + 5000);
        let (mut known, mut taken_back, mut failed) = (0, 0, 0);
        let mut late_us: Vec<i64> = Vec::new();
        for (name, told) in &*self.calls.borrow() {
            if told.words.iter().any(|(word, _)| *word == Written::Unknown) {
                taken_back += 1;
            }
            if told.answer.is_err() {
                failed += 1;
            }
            let Some(arrival) = arrivals.get(name) else {
                assert!(told.answer.is_err(), "{what}: {name} was answered and never arrived");
                continue;
            };
            assert!(*arrival <= told.head, "{what}: {name} was answered before it arrived");
            let Some((Written::At(stamp), said)) = told.words.last() else { continue };
            known += 1;
            assert!(self.clock.at(*said) >= *stamp, "{what}: a stamp from the future");
            let arrived = self.clock.at(*arrival);
            late_us.push(arrived.0 - stamp.0);
            let charge = stamp.plus(Span::from(GUARD)).min(self.clock.at(told.head));
            assert!(
                arrived <= charge.plus(Span::from(lag)),
                "{what}: {name} arrived {} us after its stamp, lag {lag:?}: {told:?}",
                arrived.0 - stamp.0
            );
        }
        late_us.sort_unstable();
        let share = |of: f64| {
            let place = (late_us.len() as f64 * of) as usize;
            late_us.get(place.min(late_us.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        println!(
            "{what}: {} calls, stamped before the answer {known}, taken back {taken_back}, failed {failed}; \
             arrival - stamp in us: min {} p1 {} p50 {} p99 {} max {}; provider's lag {lag:?}",
            self.calls.borrow().len(),
            share(0.0),
            share(0.01),
            share(0.5),
            share(0.99),
            share(1.0),
        );
    }

    fn stamped(&self) -> usize {
        let calls = self.calls.borrow();
        let is_at = |told: &Told| matches!(told.words.last(), Some((Written::At(_), _)));
        calls.iter().filter(|(_, told)| is_at(told)).count()
    }
}

const REPORT: &str = "v1/reports/daily";
const LATENCY: Latency = Latency::Fixed(Duration::from_millis(4));

/// Takes the thread for some milliseconds again and again, as work on it would.
async fn hog(most_us: u64) {
    loop {
        let until = Instant::now() + Duration::from_micros(fastrand::u64(0..most_us));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        tokio::task::yield_now().await;
    }
}

/// All at once, on one client.
async fn burst(bench: &Bench, wire: &Wire, path: &str) {
    let calls = (0..CALLS).map(|_| bench.call(wire, path));
    futures_util::future::join_all(calls).await;
}

#[test]
fn calls_on_fresh_connections_have_arrived_when_they_are_charged() {
    real(|| async {
        let bench = Bench::new(LATENCY);
        for _ in 0..CALLS {
            bench.call(&bench.wire(), REPORT).await;
        }
        bench.judge("fresh, one by one");
        assert!(bench.stamped() > CALLS * 8 / 10, "{} stamped", bench.stamped());
        let bench = Bench::new(LATENCY);
        burst(&bench, &bench.wire(), REPORT).await;
        bench.judge("fresh, all at once");
    });
}

#[test]
fn calls_on_warm_connections_have_arrived_when_they_are_charged() {
    real(|| async {
        let bench = Bench::new(LATENCY);
        let wire = bench.wire();
        for _ in 0..CALLS {
            bench.call(&wire, REPORT).await;
        }
        bench.judge("warm, one by one");
        assert!(bench.stamped() > CALLS * 8 / 10, "{} stamped", bench.stamped());
        let bench = Bench::new(LATENCY);
        let wire = bench.wire();
        for _ in 0..3 {
            burst(&bench, &wire, REPORT).await;
        }
        bench.judge("warm, all at once (first round fresh)");
    });
}

#[test]
fn calls_on_a_busy_thread_have_arrived_when_they_are_charged() {
    real(|| async {
        for most_us in [300, 4000] {
            let bench = Bench::new(LATENCY);
            let wire = bench.wire();
            let hogs: Vec<_> = (0..2).map(|_| actix_rt::spawn(hog(most_us))).collect();
            for number in 0..CALLS / 2 {
                if number % 4 == 0 {
                    bench.call(&bench.wire(), REPORT).await;
                } else {
                    bench.call(&wire, REPORT).await;
                }
            }
            burst(&bench, &wire, REPORT).await;
            hogs.iter().for_each(actix_rt::task::JoinHandle::abort);
            bench.judge(&format!("busy, turns of up to {most_us} us"));
        }
    });
}

#[test]
fn calls_on_connections_that_the_server_closes_have_arrived_when_they_are_charged() {
    real(|| async {
        // The answer promises keep-alive, then the connection is closed: at once, or while the next call
        // is on its way.
        let bench = Bench::new(LATENCY);
        let wire = bench.wire();
        for number in 0..CALLS {
            bench.call(&wire, "rude/close").await;
            if number % 3 == 1 {
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..400))).await;
            }
            bench.call(&wire, REPORT).await;
        }
        bench.judge("server closes, one by one");
        let bench = Bench::new(LATENCY);
        let wire = bench.wire();
        for round in 0..4 {
            burst(&bench, &wire, if round % 2 == 0 { "rude/close" } else { REPORT }).await;
        }
        bench.judge("server closes, all at once");
    });
}

#[test]
fn calls_right_after_the_server_closed_unseen_have_arrived_when_they_are_charged() {
    real(|| async {
        // The thread is kept busy while the server closes: the client may still take its connections for open,
        // give them requests, and send these again elsewhere.
        let bench = Bench::new(LATENCY);
        let wire = bench.wire();
        for _ in 0..8 {
            let closing = (0..25).map(|_| bench.call(&wire, "rude/close"));
            let spin = async {
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..3000))).await;
                let until = Instant::now() + Duration::from_millis(15);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            };
            futures_util::future::join(futures_util::future::join_all(closing), spin).await;
            let until = Instant::now() + Duration::from_millis(15);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            let next = (0..25).map(|_| bench.call(&wire, REPORT));
            futures_util::future::join_all(next).await;
        }
        bench.judge("server closed unseen");
    });
}
