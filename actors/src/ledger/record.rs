//! The record of one account as a ledger keeps it: a version, the gate's own form, and how far its
//! fetches have come.
//!
//! Form: one byte of version, then [postcard](https://postcard.jamesmunns.com/wire-format) of
//! [`Record`]. All times are ages relative to the moment of writing, since no two processes share a
//! timeline. A record that cannot be read is not guessed at: the caller waits one window.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::RECORD_BYTES_MAX;
use crate::ids::{LaneKey, Priority, Seq};

/// The form written now.
const VERSION: u8 = 5;
/// The forms before end earlier: version 1 before [`Record::known`], version 2 before [`Record::open`], version 3
/// before [`Record::paces`], version 4 before [`Record::denials`]. What they lack are lists, and an empty list is one zero byte.
const LACKS: [(u8, &[u8]); 4] =
    [(1, &[0, 0, 0, 0, 0]), (2, &[0, 0, 0, 0]), (3, &[0, 0]), (4, &[0])];
/// Writers whose permits are named by [`Record::known`]. One that is not, because so many others came after
/// it, is told to count everything twice should it still live.
pub const KNOWN_MAX: usize = 8;

/// How often a fetch was tried, by what became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// Calls that count against `attempts_max`.
    pub attempts: u8,
    /// Answers that said "too many calls".
    pub throttled: u8,
    /// Calls that never reached the provider.
    pub unreachable: u8,
    /// Times that a collector or the whole process died with it in flight.
    pub crashes: u8,
    /// Calls that came to nothing here: the store took no body, or the permit lapsed.
    pub wasted: u8,
}

impl Tries {
    /// Whichever is more, of each.
    pub(crate) fn or_more(self, other: Self) -> Self {
        Self {
            attempts: self.attempts.max(other.attempts),
            throttled: self.throttled.max(other.throttled),
            unreachable: self.unreachable.max(other.unreachable),
            crashes: self.crashes.max(other.crashes),
            wasted: self.wasted.max(other.wasted),
        }
    }

    /// All calls made, or begun.
    pub fn calls(self) -> u32 {
        u32::from(self.attempts)
            + u32::from(self.throttled)
            + u32::from(self.unreachable)
            + u32::from(self.crashes)
            + u32::from(self.wasted)
    }
}

/// A fetch in flight when the record was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flying {
    /// Which fetch.
    pub seq: Seq,
    /// Under which permit.
    pub permit: u64,
    /// Tries before this one.
    pub tries: Tries,
}

/// A fetch that waits for its next try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which fetch.
    pub seq: Seq,
    /// Tries so far.
    pub tries: Tries,
    /// Not tried again within this time of the writing, in milliseconds.
    pub not_within_ms: u64,
}

/// A stretch of one lane, by the numbers of its fetches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The lane's api.
    pub api: String,
    /// The lane's priority.
    pub priority: Priority,
    /// The first number.
    pub from: Seq,
    /// The last number.
    pub to: Seq,
}

impl Stretch {
    /// Whether a fetch of that lane lies in it.
    pub fn holds(&self, lane: &LaneKey, seq: Seq) -> bool {
        (self.from..=self.to).contains(&seq) && self.is_of(lane)
    }

    /// Whether it is one of that lane; accounts are not told apart.
    pub fn is_of(&self, lane: &LaneKey) -> bool {
        self.priority == lane.priority && self.api == lane.api.as_str()
    }
}

/// How far a record follows from what one process wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The process: [`Ledger::session`](super::Ledger::session).
    pub session: u64,
    /// Its permits of this account up to this number are in the record, or were and count no more.
    pub permit: u64,
}

/// How fast an account, or one of its apis, is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaceNote {
    /// Which api; nothing: all together.
    pub api: Option<String>,
    /// Calls in a million seconds.
    pub micro_rate: u64,
    /// The next one goes no earlier than this after the writing, in microseconds.
    pub next_in_us: u64,
}

/// How often access was refused in a row to an account, or to one of its apis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialNote {
    /// Which api; nothing: all together.
    pub api: Option<String>,
    /// How often, up to what opens its breaker.
    pub refusals: u8,
    /// How often the breaker was opened since the last good answer.
    pub opened: u8,
}

/// What a ledger keeps of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `Plan::hash` of the writer.
    pub config: String,
    /// The gate's ledger and holds, in the gate's own form.
    pub gate: Vec<u8>,
    /// Fetches in flight.
    pub flying: Vec<Flying>,
    /// Fetches parked between two tries.
    pub parked: Vec<Waiting>,
    /// How many 429s came in a row.
    pub throttled_in_a_row: u8,
    /// The processes whose permits this record speaks of: its writer first, then those before it, at most
    /// [`KNOWN_MAX`].
    pub known: Vec<Known>,
    /// The open block of an account without limits: fetches that were not tried before and lie here may be in
    /// flight too, without a further record. Nothing for accounts with a limit.
    pub open: Vec<Stretch>,
    /// Open blocks of processes that crashed, as far as their fetches may still wait: each is tried for itself.
    pub suspected: Vec<Stretch>,
    /// How fast apis with an adaptive pace are called.
    pub paces: Vec<PaceNote>,
    /// Whose access is refused.
    pub denials: Vec<DenialNote>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger's record cannot be read: {0}")]
pub struct RecordError(String);

impl Record {
    /// The last permit of that process that this record speaks of, 0 if it speaks of none.
    pub fn knows(&self, session: u64) -> u64 {
        let known = self.known.iter().find(|known| known.session == session);
        known.map_or(0, |known| known.permit)
    }

    /// The record as bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        bytes = postcard::to_extend(self, bytes).expect("a Vec takes whatever is written");
        debug_assert!(bytes.len() <= RECORD_BYTES_MAX, "a record of {} bytes", bytes.len());
        bytes.into()
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are of another version, torn, or no record at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| RecordError(error.to_string()))
            }
            Some((version, rest)) => {
                let Some((_, lacks)) = LACKS.iter().find(|(before, _)| before == version) else {
                    let reason = format!("it has version {version}, this program reads {VERSION}");
                    return Err(RecordError(reason));
                };
                postcard::from_bytes(&[rest, lacks].concat())
                    .map_err(|error| RecordError(error.to_string()))
            }
            None => Err(RecordError("it is empty".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> Record {
        Record {
            config: "abc".into(),
            gate: vec![1, 2, 3],
            flying: vec![Flying { seq: Seq(7), permit: 1 << 50, tries: Tries::default() }],
            parked: vec![Waiting {
                seq: Seq(9),
                tries: Tries { attempts: 3, throttled: 1, unreachable: 0, crashes: 2, wasted: 4 },
                not_within_ms: 1500,
            }],
            throttled_in_a_row: 2,
            known: vec![Known { session: u64::MAX, permit: 1 << 50 }],
            open: vec![stretch(8, 71)],
            suspected: vec![stretch(1, 3), stretch(5, 5)],
            paces: vec![PaceNote { api: None, micro_rate: 1_500_000, next_in_us: 9 }],
            denials: vec![DenialNote { api: Some("a".into()), refusals: 10, opened: 2 }],
        }
    }

    #[test]
    fn a_record_reads_back_as_written_and_a_torn_one_is_an_error() {
        let record = full();
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Record::decode(&[9, 1, 2]).is_err());
    }

    /// 256 cases; as many as `TOLLGATE_FUZZ_CASES` says where it does.
    fn cases() -> ProptestConfig {
        let asked = std::env::var("TOLLGATE_FUZZ_CASES").ok().and_then(|text| text.parse().ok());
        ProptestConfig::with_cases(asked.unwrap_or(256))
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn no_bytes_panic_and_what_is_read_can_be_written_again(
            version in prop_oneof![0..=VERSION + 1, any::<u8>()],
            noise in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut changed = full().encode().to_vec();
            for (place, byte) in changes {
                let place = place.index(changed.len());
                changed[place] = byte;
            }
            let torn = &changed[..cut.index(changed.len() + 1)];
            for bytes in [&[&[version], &noise[..]].concat(), &changed, torn] {
                // Nothing of it makes the reader ask for more memory than there are bytes, or panic.
                if let Ok(record) = Record::decode(bytes) {
                    prop_assert_eq!(Record::decode(&record.encode()).unwrap(), record);
                }
            }
        }
    }

    fn stretch(from: u64, to: u64) -> Stretch {
        let (from, to) = (Seq(from), Seq(to));
        Stretch { api: "a".into(), priority: Priority::Low, from, to }
    }

    #[test]
    fn records_of_earlier_versions_are_still_read() {
        let one = Record {
            config: "abc".into(),
            gate: vec![1, 2, 3],
            flying: vec![Flying { seq: Seq(7), permit: 1 << 50, tries: Tries::default() }],
            throttled_in_a_row: 2,
            ..Record::default()
        };
        let two = Record { known: vec![Known { session: 9, permit: 7 }], ..one.clone() };
        let three = Record { open: vec![stretch(8, 71)], ..two.clone() };
        let paces = vec![PaceNote { api: None, micro_rate: 7, next_in_us: 9 }];
        let four = Record { paces, ..three.clone() };
        for (version, record, lacks) in [(1, one, 5), (2, two, 4), (3, three, 2), (4, four, 1)] {
            let mut bytes = record.encode().to_vec();
            bytes[0] = version;
            bytes.truncate(bytes.len() - lacks);
            assert_eq!(Record::decode(&bytes).unwrap(), record, "version {version}");
            bytes.pop();
            assert!(Record::decode(&bytes).is_err(), "version {version}, torn");
        }
    }

    #[test]
    fn a_stretch_holds_the_numbers_of_its_own_lane() {
        let lane = |api: &str, priority| LaneKey {
            account: crate::ids::AccountKey {
                platform: crate::ids::Slug::new("p").unwrap(),
                account: crate::ids::Account::new("x").unwrap(),
            },
            api: crate::ids::Slug::new(api).unwrap(),
            priority,
        };
        let stretch = stretch(8, 71);
        for (seq, held) in [(7, false), (8, true), (71, true), (72, false)] {
            assert_eq!(stretch.holds(&lane("a", Priority::Low), Seq(seq)), held, "{seq}");
        }
        assert!(!stretch.holds(&lane("a", Priority::High), Seq(8)));
        assert!(!stretch.holds(&lane("b", Priority::Low), Seq(8)));
    }
}
