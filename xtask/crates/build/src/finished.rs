//! The binary as it goes into an image: what Cargo linked, without symbols and with the list of its packages. What Cargo linked
//! keeps its symbols, so that its bytes can be told apart later.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// The section that scanners look into.
const AUDIT_SECTION: &str = ".dep-v0";

/// Makes `to` out of `binary`. It is not touched where it is as it would be written.
pub(crate) fn finish(binary: &Path, audit: &[u8], to: &Path) -> Result<()> {
    let sections = [(AUDIT_SECTION, audit)];
    if let Ok(file) = File::open(to) {
        let mut compare = Compare { file: BufReader::new(file), is_same: true };
        elf::finish(binary, &mut compare, &sections)?;
        if compare.is_same && compare.file.read(&mut [0])? == 0 {
            return Ok(());
        }
    }
    let folder = to.parent().context("a binary without a folder")?;
    stdx::fs::create_dir_all(folder)?;
    let file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    elf::finish(binary, &mut writer, &sections)?;
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error);
    stdx::fs::persist(file.with_context(|| format!("cannot write {}", to.display()))?, to, 0o755)
}

/// Takes what is written and only says whether a file holds the very same.
struct Compare {
    file: BufReader<File>,
    is_same: bool,
}

impl Write for Compare {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.is_same {
            let mut there = vec![0; bytes.len()];
            self.is_same = match self.file.read_exact(&mut there) {
                Ok(()) => there == bytes,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(error),
            };
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn it_is_only_written_where_something_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (this, to) = (std::env::current_exe().unwrap(), folder.path().join("finished/api"));
        let inode = |audit: &[u8]| {
            finish(&this, audit, &to).unwrap();
            let meta = to.metadata().unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o755);
            meta.ino()
        };
        let first = inode(b"one");
        assert_eq!(inode(b"one"), first);
        let bytes = std::fs::read(&to).unwrap();
        // Equal as far as it goes, and longer or shorter.
        for other in [[bytes.as_slice(), b"x"].concat(), bytes[..bytes.len() - 1].to_vec()] {
            std::fs::write(&to, &other).unwrap();
            inode(b"one");
            assert!(std::fs::read(&to).unwrap() == bytes);
        }
        inode(b"two");
        assert!(std::fs::read(&to).unwrap() != bytes);
    }
}
