//! A set of partitions, and which one an account is in.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Not, Sub, SubAssign};

use crate::ids::AccountKey;
use crate::nats::{PARTITIONS, partition};

const _: () = assert!(PARTITIONS == u64::BITS, "a set is one word");

/// The partition of an account, or of a budget's record: below [`PARTITIONS`].
pub fn part_of(key: &AccountKey) -> u32 {
    partition(key)
}

/// A set of partitions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Parts(pub u64);

impl Parts {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(u64::MAX);

    /// This one alone; `part` is below [`PARTITIONS`].
    pub fn one(part: u32) -> Self {
        Self(1 << (part % PARTITIONS))
    }

    /// Whether it has this one.
    pub fn has(self, part: u32) -> bool {
        self.0 & Self::one(part).0 != 0
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many it has.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Those it has, in order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..PARTITIONS).filter(move |part| self.has(*part))
    }

    /// The first at or behind `from`.
    pub fn first_from(self, from: u32) -> Option<u32> {
        self.iter().find(|part| *part >= from)
    }
}

impl FromIterator<u32> for Parts {
    fn from_iter<T: IntoIterator<Item = u32>>(parts: T) -> Self {
        parts.into_iter().fold(Self::NONE, |all, part| all | Self::one(part))
    }
}

impl BitOr for Parts {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Parts {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Parts {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Parts {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl Sub for Parts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl SubAssign for Parts {
    fn sub_assign(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// As people read it: `0-3 7 9-12`.
impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut from = 0;
        while let Some(start) = self.first_from(from) {
            let end = (start..PARTITIONS).take_while(|part| self.has(*part)).last();
            let end = end.unwrap_or(start);
            if !std::mem::replace(&mut first, false) {
                f.write_str(" ")?;
            }
            if end > start {
                write!(f, "{start}-{end}")?;
            } else {
                write!(f, "{start}")?;
            }
            from = end + 1;
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_shown_in_stretches() {
        assert_eq!(Parts::NONE.to_string(), "none");
        assert_eq!(Parts::ALL.to_string(), "0-63");
        assert_eq!([0, 1, 2, 7, 62, 63].into_iter().collect::<Parts>().to_string(), "0-2 7 62-63");
        assert_eq!(Parts::one(63).iter().collect::<Vec<_>>(), [63]);
        assert_eq!((Parts::ALL - Parts::one(5)).len(), 63);
    }
}
