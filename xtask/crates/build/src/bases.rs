//! Which base each service gets, and why: where the configuration leaves the choice open (`auto`), static and shared linking are
//! compared by the bytes that the images of all services take together.
//!
//! A static binary carries its part of the C library, once per service; shared libraries are one layer, once for all.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use stdx::Cmd;
use workspace::{Base, CargoConfig, Linkage, Service, Workspace};

/// What linking costs on this machine, in bytes of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// What a binary grows by when it is linked statically.
    pub static_extra: u64,
    /// The loader and the libraries that every Rust binary needs otherwise.
    pub shared: u64,
}

/// Both ways of linking for so many services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BreakEven {
    /// What linking costs.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// How many services there are to share libraries.
    pub services: u64,
    /// From how many services on shared libraries are smaller.
    pub shared_from: u64,
}

impl BreakEven {
    /// Compares both ways for so many services.
    pub(crate) fn new(sizes: Sizes, services: u64) -> BreakEven {
        BreakEven { sizes, services, shared_from: sizes.shared / sizes.static_extra.max(1) + 1 }
    }

    /// The way that gives fewer bytes; static where both give the same.
    pub fn choice(&self) -> Linkage {
        if self.services >= self.shared_from { Linkage::Shared } else { Linkage::Static }
    }
}

/// The target's compiler driver, which Cargo would link with as well.
fn linker(target: &str) -> PathBuf {
    let key = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
    if let Some(linker) = std::env::var_os(key) {
        return linker.into();
    }
    let processor = target.split('-').next().unwrap_or_default();
    if processor == std::env::consts::ARCH {
        return "cc".into();
    }
    format!("{}-linux-gnu-gcc", processor.replace("riscv64gc", "riscv64")).into()
}

/// The file that the target's linker takes for a library of this name.
pub(crate) fn locate(target: &str, library: &str) -> Option<PathBuf> {
    let printed = Cmd::new(linker(target)).arg(format!("-print-file-name={library}")).read().ok()?;
    // The compiler prints the bare name of what it does not find.
    Some(PathBuf::from(printed)).filter(|path| path.is_absolute())
}

/// What Rust's standard library calls of the C library, roughly: as much of it gets into a static binary.
const PROBE: &str = r"
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
extern int _Unwind_Backtrace(void *, void *);
void *volatile used[] = { getaddrinfo, pthread_create, malloc, realloc, posix_memalign, sigaltstack, dl_iterate_phdr, poll, mmap,
    writev, realpath, getcwd, readdir, posix_spawnp, getpwuid_r, strerror_r, getenv, pow, _Unwind_Backtrace };
int main(void) { return used[0] == 0; }
";

/// Links one program both ways and compares.
///
/// # Errors
/// When there is no C compiler for the target, or no C library to link statically.
pub(crate) fn measure(target: &str) -> Result<Sizes> {
    // Not in the output folder: a dry run leaves nothing there.
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = folder.path();
    let source = folder.join("probe.c");
    stdx::fs::write_atomic(&source, PROBE.as_bytes(), 0o644)?;
    let link = |name: &str, args: &[&str]| -> Result<PathBuf> {
        let out = folder.join(name);
        let cmd = Cmd::new(linker(target)).args(["-Os", "-s", "-w", "-o"]).arg(&out).arg(&source);
        cmd.args(args)
            .read()
            .with_context(|| format!("cannot link a program for {target} to compare sizes"))?;
        Ok(out)
    };
    let shared = link("shared", &["-Wl,--no-as-needed", "-lm", "-lgcc_s"])?;
    let alone = link("static", &["-static-pie", "-lm", "-lgcc_eh"])?;
    let closure = base::closure(&shared, &|name| locate(target, name))?;
    let (alone, small) = (alone.metadata()?.len(), shared.metadata()?.len());
    Ok(Sizes { static_extra: alone.saturating_sub(small), shared: closure.size() })
}

/// What each service's base is where nothing is left open, in the order of `services`; `auto` is asked at most once.
pub(crate) fn choose<'a>(
    workspace: &Workspace,
    services: &[&'a Service],
    auto: impl FnOnce() -> Result<Linkage>,
) -> Result<Vec<(&'a Service, Base)>> {
    let asked = |service: &Service| {
        service.config.image.base.clone().unwrap_or_else(|| workspace.settings.image.base.clone())
    };
    let is_open = services.iter().any(|service| asked(service) == Base::Auto);
    let decided = if is_open { Some(auto()?) } else { None };
    let base = |service: &&'a Service| {
        let base = match (asked(service), decided) {
            (Base::Auto, Some(Linkage::Shared)) => Base::Closure,
            (Base::Auto, _) => Base::Static,
            (other, _) => other,
        };
        (*service, base)
    };
    Ok(services.iter().map(base).collect())
}

/// How many services of the whole workspace have the choice, whichever are built.
pub(crate) fn open_services(workspace: &Workspace) -> u64 {
    let of = |service: &&Service| {
        service.config.image.base.as_ref().unwrap_or(&workspace.settings.image.base) == &Base::Auto
    };
    workspace.services.values().filter(of).count() as u64
}

/// Refuses what a target cannot give.
pub(crate) fn check(cargo: &CargoConfig, bases: &[(&Service, Base)]) -> Result<()> {
    for (service, base) in bases {
        let needs_glibc = matches!(base, Base::Debian(_));
        ensure!(
            !needs_glibc || cargo.target.ends_with("-linux-gnu"),
            "{} has the base {base}, whose C library is glibc, and the target is {}",
            service.name,
            cargo.target
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_break_even_is_arithmetic() {
        // The figures of glibc 2.36 on amd64: four services share what four static binaries carry.
        let sizes = Sizes { static_extra: 1_030_000, shared: 3_180_000 };
        let at = |services| BreakEven::new(sizes, services);
        assert_eq!(at(1).shared_from, 4);
        assert_eq!(
            [1, 3, 4, 9].map(|n| at(n).choice()),
            [Linkage::Static, Linkage::Static, Linkage::Shared, Linkage::Shared]
        );
        assert_eq!(BreakEven::new(Sizes { static_extra: 0, shared: 5 }, 2).choice(), Linkage::Static);
    }

    #[test]
    fn sizes_are_those_of_this_machine() {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let sizes = measure(&target).unwrap();
        assert!(sizes.static_extra > 300_000 && sizes.static_extra < 5_000_000, "{sizes:?}");
        assert!(sizes.shared > 1_000_000 && sizes.shared < 10_000_000, "{sizes:?}");
        eprintln!("{sizes:?}");
    }
}
