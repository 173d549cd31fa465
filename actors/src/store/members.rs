//! Which members of a zip archive are taken where several are, and what of their names is refused. No IO, no async.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::fits;
use super::zip::unfit;
use crate::ids::preview;

/// Most members that are taken of one archive: a manifest names so many objects one by one.
pub const MEMBERS_MAX: usize = 256;
/// Most entries of an archive of which several members are taken, folders and what is not taken among them.
const ENTRIES_MAX: usize = 10_000;
/// Longest name of a member that is taken, in bytes: manifests name it.
const NAME_BYTES_MAX: usize = 512;

/// Which members are taken: each whose whole name fits one of these patterns of `*` (any characters) and `?` (any one).
/// Every pattern has to have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members(pub Arc<[Arc<str>]>);

/// A member's name, as it stands in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberName {
    /// Its bytes: UTF-8, or what the writer of the archive used.
    pub bytes: Vec<u8>,
    /// As text; what is no UTF-8 is replaced.
    pub text: String,
}

/// Where one of several members begins and ends.
#[derive(Debug)]
pub(super) enum Mark {
    Began(MemberName),
    Ended,
}

/// What is known of the members while the archive streams by.
#[derive(Debug)]
pub(super) struct Several {
    members: Members,
    /// Which of the patterns have a member.
    fit: Vec<bool>,
    entries: usize,
    taken: HashSet<Vec<u8>>,
    marks: VecDeque<Mark>,
}

impl Several {
    pub(super) fn new(members: Members) -> Self {
        let fit = vec![false; members.0.len()];
        Self { members, fit, entries: 0, taken: HashSet::new(), marks: VecDeque::new() }
    }

    /// Counts an entry, be it a folder. An error if there are too many.
    pub(super) fn looks_at_one(&mut self) -> io::Result<()> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(unfit(format!(
                "the zip archive has more than {ENTRIES_MAX} entries, folders among them, which is the most that are looked at"
            )));
        }
        Ok(())
    }

    /// Whether a member is taken. An error if it is, and may not be.
    pub(super) fn wants(&mut self, bytes: &[u8], name: &str) -> io::Result<bool> {
        let mut wanted = false;
        for (fit, pattern) in self.fit.iter_mut().zip(self.members.0.iter()) {
            if fits(pattern, name) {
                *fit = true;
                wanted = true;
            }
        }
        if !wanted {
            return Ok(false);
        }
        if bytes.len() > NAME_BYTES_MAX {
            return Err(unfit(format!(
                "the name of `{}` in the zip archive has {} bytes, at most {NAME_BYTES_MAX} are allowed",
                preview(name),
                bytes.len()
            )));
        }
        if let Some(why) = leads_out(name) {
            return Err(unfit(format!(
                "the name of `{}` in the zip archive {why}: nothing of such an archive is taken",
                preview(name)
            )));
        }
        if self.taken.contains(bytes) {
            return Err(unfit(format!(
                "two members of the zip archive are called `{}`: they would be one object",
                preview(name)
            )));
        }
        if self.taken.len() >= MEMBERS_MAX {
            return Err(unfit(format!(
                "more than {MEMBERS_MAX} members of the zip archive fit, which is the most that are taken: let `members` \
                 name fewer, or ask for less"
            )));
        }
        Ok(true)
    }

    pub(super) fn begins(&mut self, bytes: &[u8], name: &str) {
        self.taken.insert(bytes.to_vec());
        let name = MemberName { bytes: bytes.to_vec(), text: name.to_owned() };
        self.marks.push_back(Mark::Began(name));
    }

    pub(super) fn ends(&mut self) {
        self.marks.push_back(Mark::Ended);
    }

    pub(super) fn mark(&mut self) -> Option<Mark> {
        self.marks.pop_front()
    }

    pub(super) fn is_marked(&self) -> bool {
        !self.marks.is_empty()
    }

    /// The first pattern that has no member.
    pub(super) fn lacks(&self) -> Option<&Arc<str>> {
        self.members.0.iter().zip(&self.fit).find_map(|(pattern, fit)| (!fit).then_some(pattern))
    }
}

/// Why a name means a place that is not below the archive's own, if it does.
fn leads_out(name: &str) -> Option<&'static str> {
    let mut parts = name.split(['/', '\\']);
    let drive =
        |name: &str| matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    if name.is_empty() {
        Some("is empty")
    } else if name.contains('\0') {
        Some("has a NUL in it")
    } else if name.starts_with(['/', '\\']) || drive(name) {
        Some("is an absolute path")
    } else if parts.any(|part| part == "..") {
        Some("leads out of it by `..`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_an_archive_are_told_from_those_that_do_not() {
        for (name, leads) in [
            ("a.csv", false),
            ("a/b/c.csv", false),
            ("a\\b.csv", false),
            ("...", false),
            ("a..b/c", false),
            ("./a", false),
            ("ab:c", false),
            ("", true),
            ("/etc/passwd", true),
            ("\\share\\x", true),
            ("c:x", true),
            ("C:\\x", true),
            ("..", true),
            ("../a", true),
            ("a/../../b", true),
            ("a\\..\\b", true),
            ("a\0.csv", true),
        ] {
            assert_eq!(leads_out(name).is_some(), leads, "{name:?}");
        }
    }
}
