//! Lines of a log, one after the other, however long it is and while it grows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest line that is looked at.
const LINE_BYTES_MAX: usize = 256 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;
/// How often it is looked whether a file has grown.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Line(Vec<u8>),
    /// A line that is not looked at.
    TooLong,
    End,
}

/// A log that is read.
pub(super) struct Input {
    from: BufReader<Box<dyn Read + Send>>,
    /// A file that is followed.
    followed: Option<Followed>,
    line: Vec<u8>,
    too_long: bool,
}

struct Followed {
    path: PathBuf,
    inode: u64,
    read: u64,
    /// Another has taken its place, and this one is read to its end.
    left: bool,
}

impl Input {
    pub(super) fn open(path: &Path, follow: bool) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::of(Box::new(io::stdin()), None));
        }
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let followed =
            follow.then(|| Followed { path: path.to_owned(), inode, read: 0, left: false });
        Ok(Self::of(Box::new(file), followed))
    }

    fn of(from: Box<dyn Read + Send>, followed: Option<Followed>) -> Self {
        let from = BufReader::with_capacity(READ_BYTES, from);
        Self { from, followed, line: Vec::new(), too_long: false }
    }

    /// Waits for it where the log is followed.
    pub(super) fn next(&mut self) -> io::Result<Piece> {
        loop {
            let some = match self.from.fill_buf() {
                Ok(some) => some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if some.is_empty() {
                if self.followed.is_some() {
                    self.wait()?;
                    continue;
                }
                // The last line may have no end.
                return Ok(if self.line.is_empty() && !self.too_long {
                    Piece::End
                } else {
                    self.piece()
                });
            }
            let end = some.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(some.len(), |end| end + 1);
            if self.line.len() + taken > LINE_BYTES_MAX {
                self.too_long = true;
                self.line.clear();
            } else if !self.too_long {
                self.line.extend_from_slice(&some[..end.unwrap_or(taken)]);
            }
            self.from.consume(taken);
            if let Some(followed) = &mut self.followed {
                followed.read += taken as u64;
            }
            if end.is_some() {
                return Ok(self.piece());
            }
        }
    }

    fn piece(&mut self) -> Piece {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.too_long) { Piece::TooLong } else { Piece::Line(line) }
    }

    /// Waits a moment, and goes on with the file that has taken the place of this one, if one has.
    fn wait(&mut self) -> io::Result<()> {
        let Some(followed) = &mut self.followed else { return Ok(()) };
        let left = std::mem::take(&mut followed.left);
        if !left {
            std::thread::park_timeout(LOOK_EVERY);
        }
        // Between two files of a rotation there is none.
        let Ok(now) = std::fs::metadata(&followed.path) else { return Ok(()) };
        let moved = now.ino() != followed.inode;
        if moved && !left {
            // Whoever writes may not have taken the other yet: this one is read to its end once more.
            std::thread::park_timeout(LOOK_EVERY);
            followed.left = true;
            return Ok(());
        }
        if moved || now.len() < followed.read {
            let Ok(file) = File::open(&followed.path) else { return Ok(()) };
            (followed.inode, followed.read) = (file.metadata()?.ino(), 0);
            self.from = BufReader::with_capacity(READ_BYTES, Box::new(file));
            self.line.clear();
            self.too_long = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_come_whole_and_those_that_are_too_long_do_not() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let text = [b"one\n\n".as_slice(), &long, b"\ntwo\nlast"].concat();
        let mut input = Input::of(Box::new(io::Cursor::new(text)), None);
        let mut pieces = Vec::new();
        while let piece @ (Piece::Line(_) | Piece::TooLong) = input.next().unwrap() {
            pieces.push(piece);
        }
        let line = |text: &str| Piece::Line(text.into());
        assert_eq!(pieces, [line("one"), line(""), Piece::TooLong, line("two"), line("last")]);
    }

    #[test]
    fn a_log_that_is_followed_goes_on_in_the_file_that_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.log");
        std::fs::write(&path, "one\ntw").unwrap();
        let mut input = Input::open(&path, true).unwrap();
        let line = |text: &str| Piece::Line(text.into());
        assert_eq!(input.next().unwrap(), line("one"));
        File::options().append(true).open(&path).unwrap().write_all(b"o\n").unwrap();
        assert_eq!(input.next().unwrap(), line("two"), "a line is not cut where reading stopped");
        let mut before = File::options().append(true).open(&path).unwrap();
        std::fs::rename(&path, dir.path().join("node.log.1")).unwrap();
        std::fs::write(&path, "three\n").unwrap();
        let input_of = std::thread::spawn(move || {
            let mut input = input;
            let next = input.next().unwrap();
            (input, next)
        });
        // It has seen the end of the one, and that there is another.
        std::thread::park_timeout(LOOK_EVERY + LOOK_EVERY / 2);
        before.write_all(b"late\n").unwrap();
        let (mut input, next) = input_of.join().unwrap();
        assert_eq!(next, line("late"), "the last lines of the one before");
        assert_eq!(input.next().unwrap(), line("three"));
        std::fs::write(&path, "4\n").unwrap();
        assert_eq!(input.next().unwrap(), line("4"), "a file that was cut is read anew");
    }
}
