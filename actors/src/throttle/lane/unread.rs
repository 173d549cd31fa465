//! How much of a lane is still to be read, by what was told of it.

/// How much of a lane is still to be read. A fetch that is read before its coming was told is counted a second time when
/// it is told, until the lane has been read to its end: reading goes by the higher number, whoever is told of it gets the
/// lower one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unread {
    /// No more fetches than these.
    at_most: u64,
    /// Those of them that had been read when their coming was told. At the most of this type, or of one below, it is told
    /// too high again.
    told_again: u32,
    /// Fetches that were read and whose coming was not told yet.
    early: u16,
    /// More of `at_most` that a count did not have: they are not there, or came after it.
    uncounted: u16,
}

impl Unread {
    /// So many fetches, none of which was read.
    pub(crate) fn of(fetches: u64) -> Self {
        Self { at_most: fetches, ..Self::default() }
    }

    /// It is certain that nothing is to be read.
    pub(crate) fn is_none(&self) -> bool {
        self.at_most == 0
    }

    /// No more fetches than these are to be read.
    pub(crate) fn at_most(&self) -> u64 {
        self.at_most
    }

    /// How many there are as far as is known; never more than [`Self::at_most`]. Fewer than there are, until the next
    /// count or the end of the lane, after a message that told of one was lost, or where some came while they were
    /// counted.
    pub(crate) fn known(&self) -> u64 {
        self.at_most - u64::from(self.told_again) - u64::from(self.uncounted)
    }

    /// So many have to be read again.
    pub(crate) fn again(&mut self, fetches: u64) {
        self.at_most += fetches;
    }

    /// The coming of so many is told.
    pub(crate) fn came(&mut self, fetches: u64) {
        let read_before =
            u16::try_from(fetches).map_or(self.early, |fetches| fetches.min(self.early));
        self.early -= read_before;
        self.told_again = self.told_again.saturating_add(u32::from(read_before));
        self.at_most += fetches;
    }

    /// They were counted in the queue a while ago: there were so many; since then some more may have come.
    pub(crate) fn counted(&mut self, fetches: u64) {
        self.at_most = self.at_most.max(fetches);
        let more = self.at_most - fetches;
        self.told_again = self.told_again.min(u32::try_from(more).unwrap_or(u32::MAX));
        let uncounted = more - u64::from(self.told_again);
        self.uncounted = u16::try_from(uncounted).unwrap_or(u16::MAX);
        self.early = 0;
    }

    /// One has been read.
    pub(crate) fn read(&mut self) {
        if self.known() == 0 {
            if self.uncounted > 0 {
                // It came after the count.
                self.uncounted -= 1;
            } else {
                self.early = self.early.saturating_add(1);
                self.told_again = self.told_again.saturating_sub(1);
            }
        }
        self.at_most = self.at_most.saturating_sub(1);
    }

    /// The lane was read to its end.
    pub(crate) fn ended(&mut self) {
        *self = Self { early: self.early, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Publish(u64),
        Tell(u64),
        Read(u64),
        /// So many are given back, as when another node has worked here.
        Again(u64),
        /// The queue is counted, once all was told.
        Count,
        /// It is counted, and that comes to be known after this many steps.
        CountLate(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..9u64).prop_map(Step::Publish),
            (1..9u64).prop_map(Step::Tell),
            (1..9u64).prop_map(Step::Read),
            (1..4u64).prop_map(Step::Again),
            Just(Step::Count),
            (0..5usize).prop_map(Step::CountLate),
        ]
    }

    proptest! {
        #[test]
        fn whoever_is_told_gets_what_was_told_of_and_not_read(steps in prop::collection::vec(any_step(), 1..60)) {
            let mut unread = Unread::default();
            // Of the fetches that were published, in their order: so many were told of, so many were read.
            let (mut published, mut told, mut read) = (0_u64, 0, 0);
            let (mut counts, mut is_exact) = (Vec::new(), true);
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Publish(more) => published += more,
                    Step::Tell(more) => {
                        let more = more.min(published - told);
                        told += more;
                        unread.came(more);
                    }
                    Step::Read(more) => {
                        for _ in 0..more.min(published - read) {
                            read += 1;
                            unread.read();
                        }
                    }
                    // They were told of when they were read.
                    Step::Again(more) if read <= told => {
                        let more = more.min(read);
                        read -= more;
                        unread.again(more);
                    }
                    Step::Count if told == published => {
                        unread.counted(published - read);
                        is_exact = unread.uncounted == 0;
                    }
                    Step::Again(_) | Step::Count => {}
                    Step::CountLate(steps) => counts.push((at + steps, published)),
                }
                for (_, counted) in counts.extract_if(.., |(known_at, _)| *known_at <= at) {
                    // Beside those in hand by then, as the actor does it.
                    unread.counted(counted.saturating_sub(read));
                    is_exact = false;
                }
                let wanted = told.saturating_sub(read);
                prop_assert!(unread.at_most() >= wanted, "one would not be read: {:?}", unread);
                prop_assert!(!is_exact || unread.known() == wanted, "{wanted} {unread:?}");
                prop_assert_eq!(unread.is_none(), unread.at_most() == 0);
            }
            // Whatever came between: a count of all that was told of is right again.
            unread.came(published - told);
            unread.counted(published - read);
            prop_assert_eq!(unread.known(), published - read);
        }
    }

    #[test]
    fn what_came_while_it_was_counted_is_not_taken_for_what_was_read_early() {
        let mut unread = Unread::of(4);
        unread.came(100);
        unread.counted(4);
        assert_eq!((unread.known(), unread.at_most()), (4, 104));
        (0..104).for_each(|_| unread.read());
        unread.came(7);
        assert_eq!((unread.known(), unread.at_most()), (7, 7));
    }

    #[test]
    fn a_count_ends_every_error_and_leaves_what_may_have_come_since() {
        let mut unread = Unread::of(9);
        unread.counted(4);
        assert_eq!((unread.known(), unread.at_most()), (4, 9));
        unread.counted(20);
        assert_eq!((unread.known(), unread.at_most()), (20, 20));
        // Of one that was read it is never told: the next one stands for it until the count.
        let mut unread = Unread::default();
        unread.read();
        unread.came(1);
        assert_eq!((unread.known(), unread.at_most()), (0, 1));
        unread.counted(1);
        assert_eq!((unread.known(), unread.at_most()), (1, 1));
    }
}
