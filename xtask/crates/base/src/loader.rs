//! Where a dynamic loader looks for libraries: the folders that are built into it, and the index that `ldconfig` wrote.
//!
//! Source: glibc's `elf/dl-load.c` and `sysdeps/generic/dl-cache.h`; musl's `ldso/dynlink.c`.

use std::collections::BTreeMap;

/// A loader's own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loader {
    /// Folders that it searches last, without `/` at the end.
    pub(crate) folders: Vec<String>,
    /// Whether it is musl's, which is the C library itself and knows no symbol versions.
    pub(crate) is_musl: bool,
}

/// Where a loader looks that does not tell.
const USUAL: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Libraries that musl's loader takes for itself.
const MUSL_OWN: [&str; 7] = ["libc.", "libpthread.", "librt.", "libm.", "libdl.", "libutil.", "libxnet."];
/// Entries that an index of libraries may have.
const MOST_CACHED: usize = 100_000;

impl Loader {
    /// What the loader at `path` with this content does.
    pub(crate) fn new(path: &str, content: &[u8]) -> Loader {
        let name = path.rsplit('/').next().unwrap_or(path);
        if name.starts_with("ld-musl") {
            let folders = ["/lib", "/usr/local/lib", "/usr/lib"].map(str::to_owned).into();
            return Loader { folders, is_musl: true };
        }
        let folders = built_in(content).unwrap_or_else(|| USUAL.map(str::to_owned).into());
        Loader { folders, is_musl: false }
    }

    /// Whether a library is part of the loader.
    pub(crate) fn is_own(&self, library: &str) -> bool {
        self.is_musl && MUSL_OWN.iter().any(|own| library.starts_with(own))
    }
}

/// glibc keeps its folders as one run of strings that end with `/`, the last of them `/usr/lib/` or `/usr/lib64/`.
fn built_in(content: &[u8]) -> Option<Vec<String>> {
    let mut run: Vec<String> = Vec::new();
    for part in content.split(|byte| *byte == 0) {
        let text = std::str::from_utf8(part).ok();
        match text.filter(|text| is_folder(text)) {
            Some(folder) => run.push(folder.trim_end_matches('/').to_owned()),
            None if run.iter().any(|folder| folder.starts_with("/usr/lib")) => return Some(run),
            None => run.clear(),
        }
    }
    None
}

fn is_folder(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
    text.len() > 4
        && text.len() < 256
        && text.starts_with('/')
        && text.ends_with('/')
        && text.contains("lib")
        && text.chars().all(plain)
}

/// Library name to path, from the content of `/etc/ld.so.cache`. Of several paths the first counts. Empty for what is no such
/// file.
pub(crate) fn cached(content: &[u8]) -> BTreeMap<String, String> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    // An old index may stand in front of it.
    let Some(start) = content.windows(MAGIC.len()).position(|window| window == MAGIC) else {
        return BTreeMap::new();
    };
    let content = &content[start..];
    let number = |at: usize| {
        let bytes = content.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let string = |at: usize| {
        let bytes = content.get(at..)?.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(bytes).ok().filter(|text| text.len() < 4096).map(str::to_owned)
    };
    let mut found = BTreeMap::new();
    for index in 0..number(MAGIC.len()).unwrap_or(0).min(MOST_CACHED) {
        let at = HEADER + index * ENTRY;
        let pair = number(at + 4).and_then(string).zip(number(at + 8).and_then(string));
        let Some((name, path)) = pair else { break };
        found.entry(name).or_insert(path);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_are_those_built_into_the_loader() {
        let content =
            b"\0noise/\0/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0more\0";
        let loader = Loader::new("/lib64/ld-linux-x86-64.so.2", content);
        assert_eq!(
            loader.folders,
            ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"]
        );
        assert_eq!(Loader::new("/lib64/ld-linux-x86-64.so.2", b"").folders, USUAL);
        assert!(Loader::new("/lib/ld-musl-x86_64.so.1", b"").is_own("libc.musl-x86_64.so.1"));
    }

    #[test]
    fn the_index_of_this_machine_is_read_and_no_bytes_panic() {
        let bytes = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
        let found = cached(&bytes);
        if !bytes.is_empty() {
            assert!(found.get("libc.so.6").is_some_and(|path| path.ends_with("/libc.so.6")), "{found:?}");
        }
        for cut in 0..bytes.len().min(3000) {
            cached(&bytes[..cut]);
        }
        let mut damaged = bytes;
        for at in (0..damaged.len()).step_by(3) {
            damaged[at] = 0xff;
        }
        cached(&damaged);
    }
}
