//! How long a decision takes under 1, 3 and 7 limits: `cargo bench -p tollgate-gate`.
//!
//! `go` and `wait` decide about an account that has called for days as fast as its limits let it: each
//! counter but the first has about 60 entries.

use core::num::NonZeroU32;

use divan::{Bencher, black_box};
use tollgate_gate::{
    Ask, At, Decision, Guard, Ledger, Limit, LimitSet, PermitId, Rule, Sent, Span, decide,
};

const COUNTS: [usize; 3] = [1, 3, 7];
const ASK: Ask<'static> = Ask::new(0);
/// Most calls in so many seconds: a gap, and the others of the same rate.
const RULES: [(u32, u64); 7] = [
    (1, 60),
    (60, 3_600),
    (120, 7_200),
    (240, 14_400),
    (480, 28_800),
    (960, 57_600),
    (1_920, 115_200),
];

fn main() {
    divan::main();
}

fn limits(count: usize) -> LimitSet {
    let limit = |(max, secs)| Limit {
        name: format!("{max} in {secs} s"),
        per_api: false,
        api: None,
        rule: Rule::Sliding {
            max: NonZeroU32::new(max).expect("none is zero"),
            window: Span::from_secs(secs),
        },
        guard: Guard::Default,
    };
    LimitSet::new(RULES.into_iter().take(count).map(limit).collect()).expect("sound limits")
}

/// A ledger of calls as fast as the limits let them go, and when the next one may.
fn full(limits: &LimitSet) -> (Ledger, At) {
    let (mut ledger, mut now) = (Ledger::new(), At(0));
    for call in 0.. {
        if let Decision::WaitUntil { at: Some(at), .. } =
            decide(limits, &ledger, ledger.holds(), ASK, now)
        {
            now = at;
        }
        if call == 4_000 {
            break;
        }
        ledger.take(limits, PermitId(call), ASK, now);
        ledger.answered(limits, PermitId(call), now);
        ledger.ended(limits, PermitId(call), now, Sent::Maybe);
    }
    (ledger, now)
}

fn bench(bencher: Bencher<'_, '_>, count: usize, calls: bool, before: Span) {
    let limits = limits(count);
    let (ledger, due) = if calls { full(&limits) } else { (Ledger::new(), At(0)) };
    let now = due.minus(before);
    let ask = || decide(black_box(&limits), black_box(&ledger), ledger.holds(), ASK, now);
    assert_eq!(ask() == Decision::Go, before == Span::ZERO);
    bencher.bench_local(ask);
}

/// The first call of an account.
#[divan::bench(args = COUNTS)]
fn first(bencher: Bencher<'_, '_>, count: usize) {
    bench(bencher, count, false, Span::ZERO);
}

/// A call that may go.
#[divan::bench(args = COUNTS)]
fn go(bencher: Bencher<'_, '_>, count: usize) {
    bench(bencher, count, true, Span::ZERO);
}

/// One that must wait.
#[divan::bench(args = COUNTS)]
fn wait(bencher: Bencher<'_, '_>, count: usize) {
    bench(bencher, count, true, Span::from_secs(1));
}
