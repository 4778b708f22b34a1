//! The log of a process: its last lines, what is added to it, and its rotation. The process writes the file `current`
//! itself, so that it goes on writing when its supervisor is gone; rotation therefore copies and truncates, and may
//! lose what is written between the two.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Rotated files that are kept beside the current one.
const KEPT: u32 = 2;

/// Reading the last lines looks at no more than this.
const MAX_TAIL_BYTES: u64 = 256 * 1024;

/// The file that the process writes.
pub(crate) fn current(folder: &Path) -> PathBuf {
    folder.join("current")
}

/// Makes room in the log when it is larger than `limit` bytes.
pub(crate) fn rotate(folder: &Path, limit: u64) -> Result<()> {
    let path = current(folder);
    if std::fs::metadata(&path).map_or(0, |meta| meta.len()) <= limit {
        return Ok(());
    }
    let kept = keep(folder);
    // Also where it could not be kept: on a full disk a log must not grow on and on.
    let file =
        File::options().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.set_len(0).with_context(|| format!("cannot truncate {}", path.display()))?;
    kept
}

/// Copies the current log to the first of the older ones, after those moved on by one.
fn keep(folder: &Path) -> Result<()> {
    for number in (1..KEPT).rev() {
        let older = folder.join((number + 1).to_string());
        match std::fs::rename(folder.join(number.to_string()), &older) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot make {}", older.display()));
            }
            _ => {}
        }
    }
    let (path, copy) = (current(folder), folder.join("1"));
    std::fs::copy(&path, &copy).map(drop).with_context(|| {
        // Half a copy takes the room that is missing.
        let _ = std::fs::remove_file(&copy);
        format!("cannot copy {}", path.display())
    })
}

/// The last `count` lines, oldest first.
pub(crate) fn tail(folder: &Path, count: usize) -> Result<Vec<String>> {
    let mut text = read_end(&folder.join("1"))?;
    text.push_str(&read_end(&current(folder))?);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect())
}

fn read_end(path: &Path) -> Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        file => file.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let mut bytes = Vec::new();
    let length = file.metadata().map_or(0, |meta| meta.len());
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))
        .and_then(|_| file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads what is added to a log.
#[derive(Debug)]
pub(crate) struct Follow {
    path: PathBuf,
    position: u64,
    partial: Vec<u8>,
}

impl Follow {
    /// Begins at the present end of the log.
    pub(crate) fn new(folder: &Path) -> Follow {
        let path = current(folder);
        let position = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        Follow { path, position, partial: Vec::new() }
    }

    /// The whole lines added since the last call.
    pub(crate) fn lines(&mut self) -> Result<Vec<String>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        let length = file.metadata().map_or(0, |meta| meta.len());
        if length < self.position {
            self.position = 0;
        }
        let mut added = Vec::new();
        file.seek(SeekFrom::Start(self.position))
            .and_then(|_| file.take(MAX_TAIL_BYTES).read_to_end(&mut added))
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        self.position += added.len() as u64;
        self.partial.extend(added);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn rotation_keeps_the_newest_and_bounds_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = File::options().create(true).append(true).open(current(folder.path())).unwrap();
        for round in 0..5 {
            writeln!(process, "round {round}").unwrap();
            rotate(folder.path(), 5).unwrap();
        }
        write!(process, "last").unwrap();
        assert_eq!(tail(folder.path(), 2).unwrap(), ["round 4", "last"]);
        assert_eq!(fs::read_to_string(folder.path().join("2")).unwrap(), "round 3\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_log_that_cannot_be_copied_is_bounded_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(current(folder.path()), "much").unwrap();
        // A folder in the place of the copy stands for a disk without room.
        fs::create_dir_all(folder.path().join("2/in-the-way")).unwrap();
        fs::create_dir_all(folder.path().join("1/in-the-way")).unwrap();
        assert!(rotate(folder.path(), 3).is_err());
        assert_eq!(fs::read(current(folder.path())).unwrap(), b"");
    }

    #[test]
    fn following_gives_whole_lines_and_survives_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = File::options().create(true).append(true).open(current(folder.path())).unwrap();
        writeln!(process, "before the start of following").unwrap();
        let mut follow = Follow::new(folder.path());
        write!(process, "a\nb").unwrap();
        assert_eq!(follow.lines().unwrap(), ["a"]);
        writeln!(process, "c").unwrap();
        assert_eq!(follow.lines().unwrap(), ["bc"]);
        rotate(folder.path(), 0).unwrap();
        writeln!(process, "d").unwrap();
        assert_eq!(follow.lines().unwrap(), ["d"]);
        assert!(tail(&folder.path().join("missing"), 3).unwrap().is_empty());
    }
}
