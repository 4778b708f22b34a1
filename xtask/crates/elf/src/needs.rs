//! What a binary needs to start.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef, elf};

/// Checks that the binary at `path` is an ELF file for `architecture` (Go's word) that starts in an empty root: it names no
/// interpreter, so it needs no shared library.
pub fn require_static(path: &Path, architecture: &str) -> Result<()> {
    let cache = ReadCache::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    let data = &cache;
    let class = data.read_bytes_at(0, 5).ok().and_then(|magic| magic.get(4).copied());
    let interpreter = match class {
        Some(class) if class == elf::ELFCLASS64.0 => {
            interpreter::<elf::FileHeader64<Endianness>>(data, architecture)
        }
        _ => bail!("{} is not a 64 bit ELF file", path.display()),
    };
    match interpreter.with_context(|| format!("cannot read {}", path.display()))? {
        None => Ok(()),
        Some(interpreter) => bail!(
            "{} is linked dynamically (it asks for {interpreter}), and the base `static` has no shared libraries; \
             see whether a build script or `-C link-arg` asks for a shared library, or a linker wrapper changes the flags",
            path.display()
        ),
    }
}

fn interpreter<H: FileHeader<Endian = Endianness>>(
    data: &ReadCache<File>,
    architecture: &str,
) -> Result<Option<String>> {
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let machine = crate::dynamic::machine(header.e_machine(endian));
    if machine != architecture {
        bail!("it is for {machine} and the image for {architecture}");
    }
    for segment in header.program_headers(endian, data)? {
        if segment.p_type(endian) == elf::PT_INTERP {
            let bytes = segment.data(endian, data).unwrap_or_default();
            return Ok(Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_binary_is_refused_with_its_interpreter() {
        let this = std::env::current_exe().unwrap();
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let error = format!("{:#}", require_static(&this, architecture).unwrap_err());
        assert!(error.contains("linked dynamically") && error.contains("ld-linux"), "{error}");
        let error = format!("{:#}", require_static(&this, "s390x").unwrap_err());
        assert!(error.contains("the image for s390x"), "{error}");
    }

    #[test]
    fn what_is_no_binary_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for content in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01", &[0x7f; 4096]] {
            std::fs::write(file.path(), content).unwrap();
            assert!(require_static(file.path(), "amd64").is_err(), "{content:?}");
        }
    }
}
