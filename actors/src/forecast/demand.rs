//! All accounts' calls in flight together, over time, as a flow of work through `collect.concurrency`.
//!
//! A walk of one account cannot see that the node is busy with others. So the calls of all walks are summed
//! in slices of time, and what does not fit into a slice is carried into the next: the flow of a queue with
//! so many servers. It is exact where the node has room and where it never has, and a good estimate between.

use tollgate_gate::Span;

/// Slices at most; with more, two become one.
const SLICES_MAX: usize = 1 << 16;
/// The first width of a slice.
const WIDTH: Span = Span::from_millis(50);

/// Work in call-microseconds by slices of time.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    width: u64,
    slices: Vec<u64>,
    latency_max: Span,
}

/// What a bound on calls in flight makes of it.
#[derive(Debug)]
pub(crate) struct Flow {
    width: u64,
    /// By how much calls of a slice are later, in microseconds.
    delays: Vec<u64>,
    /// The longest of them.
    pub(crate) delay_max: Span,
    /// When the last call has ended, as far as the bound alone is concerned.
    pub(crate) drained: Span,
}

impl Default for Demand {
    fn default() -> Self {
        Self { width: WIDTH.0, slices: Vec::new(), latency_max: Span::ZERO }
    }
}

impl Demand {
    /// So many calls begin that long after the start, and take so long.
    pub(crate) fn add(&mut self, since: Span, latency: Span, calls: u64) {
        while since.0 / self.width >= SLICES_MAX as u64 {
            self.widen();
        }
        let place = (since.0 / self.width) as usize;
        if place >= self.slices.len() {
            self.slices.resize(place + 1, 0);
        }
        self.slices[place] =
            self.slices[place].saturating_add(latency.0.max(1).saturating_mul(calls));
        self.latency_max = self.latency_max.max(latency);
    }

    /// The calls of both.
    pub(crate) fn join(&mut self, mut other: Self) {
        while self.width < other.width {
            self.widen();
        }
        while other.width < self.width {
            other.widen();
        }
        let longer = self.slices.len().max(other.slices.len());
        self.slices.resize(longer, 0);
        for (sum, more) in self.slices.iter_mut().zip(&other.slices) {
            *sum = sum.saturating_add(*more);
        }
        self.latency_max = self.latency_max.max(other.latency_max);
    }

    fn widen(&mut self) {
        self.slices = self.slices.chunks(2).map(|pair| pair.iter().sum()).collect();
        self.width = self.width.saturating_mul(2);
    }

    /// The least time all of it takes with at most so many calls in flight.
    pub(crate) fn least(&self, concurrency: usize) -> Span {
        let work = self.slices.iter().fold(0_u64, |sum, work| sum.saturating_add(*work));
        Span(work / concurrency.max(1) as u64)
    }

    /// What becomes of it with at most so many calls in flight.
    pub(crate) fn through(&self, concurrency: usize) -> Flow {
        let servers = concurrency.max(1) as u64;
        let room = self.width.saturating_mul(servers);
        let mut backlog = 0_u64;
        let mut drained = Span::ZERO;
        let mut delays = Vec::with_capacity(self.slices.len());
        for (place, work) in self.slices.iter().enumerate() {
            backlog = backlog.saturating_add(*work);
            // The last of a slice waits until all before it have begun: its own call is no wait.
            let own = self.latency_max.0.saturating_mul(servers);
            delays.push(backlog.saturating_sub(own.max(room)) / servers);
            if *work > 0 {
                let begins = (place as u64).saturating_mul(self.width);
                drained = drained.max(Span(begins.saturating_add(backlog / servers)));
            }
            backlog = backlog.saturating_sub(room);
        }
        let delay_max = Span(delays.iter().copied().max().unwrap_or(0));
        // Less than a call fits into: the bound was never felt.
        let drained = if delay_max == Span::ZERO { Span::ZERO } else { drained };
        Flow { width: self.width, delays, delay_max, drained }
    }
}

impl Flow {
    /// By how much a call is later that would have begun that long after the start.
    pub(crate) fn delay(&self, since: Span) -> Span {
        let place = usize::try_from(since.0 / self.width).unwrap_or(usize::MAX);
        Span(self.delays.get(place).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn work_that_fits_is_not_delayed() {
        let mut demand = Demand::default();
        for second in 0..60 {
            demand.add(Span(second * S), Span(S / 2), 100);
        }
        let flow = demand.through(100);
        assert_eq!((flow.delay_max, flow.drained), (Span::ZERO, Span::ZERO));
    }

    #[test]
    fn work_that_does_not_fit_takes_its_sum_over_the_servers() {
        let mut demand = Demand::default();
        demand.add(Span::ZERO, Span(300_000), 40_000);
        let flow = demand.through(1_000);
        assert_eq!(flow.drained, Span(12 * S));
        // The last begin when 39,000 before them have ended: after 11.7 s.
        assert_eq!(flow.delay(Span::ZERO), Span(11_700_000));
        assert_eq!(flow.delay(Span(S)), Span::ZERO, "nothing came then");
    }

    #[test]
    fn slices_widen_and_join_without_a_loss() {
        let (mut one, mut two) = (Demand::default(), Demand::default());
        one.add(Span(30 * 24 * 3600 * S), Span(S), 5);
        two.add(Span(7 * S), Span(S), 3);
        two.join(one);
        assert!(two.slices.len() <= SLICES_MAX);
        assert_eq!(two.slices.iter().sum::<u64>(), 8 * S);
    }
}
