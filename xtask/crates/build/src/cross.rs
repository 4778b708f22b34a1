//! What building for a processor or C library other than this machine's takes: the standard library, a linker, a C compiler. What the
//! user configured is used as it is; a cross compiler of a well-known name is found; what is missing is named with the command
//! that installs it. Invariant: nothing is compiled before all of it is known to be there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use stdx::Cmd;
use workspace::{CargoConfig, Workspace};

use crate::toolchain::Toolchain;

/// The tools for one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tools {
    /// Variables for Cargo and build scripts that the user has not set.
    pub(crate) env: BTreeMap<String, String>,
    /// The C compiler that knows where the target's C library lies.
    pub(crate) compiler: Option<PathBuf>,
}

/// What this machine has.
struct Machine<'a> {
    /// Processor in Rust's words.
    processor: &'a str,
    /// Folder of the Rust toolchain.
    sysroot: &'a Path,
    /// Looks a variable up.
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Finds a program.
    find: &'a dyn Fn(&str) -> Option<PathBuf>,
    /// Whether the C compiler knows the static C library.
    has_libc: &'a dyn Fn(&Path) -> bool,
}

/// The tools for `cargo.target`. `compiles_c` says whether any package compiles C.
///
/// # Errors
/// With all that is missing and how to install it.
fn tools(cargo: &CargoConfig, compiles_c: bool, machine: &Machine<'_>) -> Result<Tools> {
    let target = Target::parse(&cargo.target);
    if target.processor == machine.processor && target.library == "gnu" {
        return Ok(Tools { env: BTreeMap::new(), compiler: Some("cc".into()) });
    }
    let mut missing = Vec::new();
    if !machine.sysroot.join("lib/rustlib").join(&cargo.target).join("lib").is_dir() {
        missing.push(format!("Rust's standard library: `rustup target add {}`", cargo.target));
    }
    let mut tools = Tools { env: BTreeMap::new(), compiler: target.compiler(machine) };
    if cargo.linker.is_none() && !target.links_alone(machine) {
        match tools.compiler.clone().or_else(|| (machine.find)(&target.gnu_compiler())) {
            Some(linker) => {
                _ = tools.env.insert(linker_variable(&cargo.target), linker.display().to_string());
            }
            None => missing.push(format!("a linker: {}", target.advice())),
        }
    }
    match &tools.compiler {
        Some(compiler) => {
            tools.env.extend(target.compiler_variables(compiler, machine));
            if target.library == "gnu" && !(machine.has_libc)(compiler) {
                missing.push(format!("the static C library: {}", target.libc_advice()));
            }
        }
        // Where the linker is missing too, one advice brings both.
        None if compiles_c && target.users_compiler(machine.env).is_none() => {
            missing.push(format!("a C compiler: {}", target.advice()));
        }
        None => {}
    }
    if !missing.is_empty() {
        missing.dedup_by_key(|text| text.split_once(": ").map(|(_, advice)| advice.to_owned()));
        bail!("this machine cannot build for {}; it lacks\n  {}", cargo.target, missing.join("\n  "));
    }
    Ok(tools)
}

/// The tools for `cargo.target` on this machine.
pub(crate) fn load(
    cargo: &CargoConfig,
    toolchain: &Toolchain,
    workspace: &Workspace,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Tools> {
    let compiles_c = |package: &cargo_metadata::Package| matches!(package.name.as_str(), "cc" | "cmake");
    let machine = Machine {
        processor: std::env::consts::ARCH,
        sysroot: &toolchain.sysroot,
        env,
        find: &find,
        has_libc: &has_libc,
    };
    tools(cargo, workspace.metadata.packages.iter().any(compiles_c), &machine)
}

/// The first program of this name in the folders of `PATH`.
fn find(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Whether the compiler finds the archive of the C library: it prints the bare name of what it does not find. One that cannot be asked is
/// the user's own.
fn has_libc(compiler: &Path) -> bool {
    let printed = Cmd::new(compiler).arg("-print-file-name=libc.a").read();
    printed.map_or(true, |path| Path::new(&path).is_absolute())
}

/// The variable that tells Cargo the target's linker.
pub(crate) fn linker_variable(target: &str) -> String {
    format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"))
}

/// The parts of a target triple that the names of tools are made of.
struct Target<'a> {
    triple: &'a str,
    processor: &'a str,
    library: &'a str,
}

impl<'a> Target<'a> {
    fn parse(triple: &'a str) -> Target<'a> {
        let processor = triple.split('-').next().unwrap_or_default();
        let library = triple.rsplit('-').next().unwrap_or_default();
        Target { triple, processor, library }
    }

    /// As GNU's tools name it.
    fn gnu_processor(&self) -> &'a str {
        if self.processor == "riscv64gc" { "riscv64" } else { self.processor }
    }

    fn gnu_compiler(&self) -> String {
        format!("{}-linux-gnu-gcc", self.gnu_processor())
    }

    /// Names of compilers for this C library, the best one first.
    fn compilers(&self, host: &str) -> Vec<String> {
        let prefixed = format!("{}-linux-{}-gcc", self.gnu_processor(), self.library);
        let is_wrapped = self.library == "musl" && self.processor == host;
        [prefixed].into_iter().chain(is_wrapped.then(|| "musl-gcc".to_owned())).collect()
    }

    /// Rust brings all that links for this C library but the program `cc`.
    fn links_alone(&self, machine: &Machine<'_>) -> bool {
        self.library == "musl" && self.processor == machine.processor
    }

    /// The user's, where it is a program alone, or one of a well-known name.
    fn compiler(&self, machine: &Machine<'_>) -> Option<PathBuf> {
        let users = self.users_compiler(machine.env).filter(|text| !text.contains(char::is_whitespace));
        let known = || self.compilers(machine.processor).iter().find_map(|name| (machine.find)(name));
        users.map(PathBuf::from).or_else(known)
    }

    /// In the order of the `cc` crate.
    fn users_compiler(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let underscored = self.triple.replace('-', "_");
        let names = [format!("CC_{}", self.triple), format!("CC_{underscored}"), "TARGET_CC".to_owned()];
        names.iter().find_map(|name| env(name))
    }

    fn compiler_variables(&self, compiler: &Path, machine: &Machine<'_>) -> BTreeMap<String, String> {
        let underscored = self.triple.replace('-', "_");
        let mut variables = BTreeMap::new();
        if self.users_compiler(machine.env).is_none() {
            variables.insert(format!("CC_{underscored}"), compiler.display().to_string());
        }
        let cxx = compiler.to_string_lossy().strip_suffix("gcc").map(|prefix| format!("{prefix}g++"));
        let names = [format!("CXX_{}", self.triple), format!("CXX_{underscored}"), "TARGET_CXX".to_owned()];
        if let Some(cxx) = cxx.filter(|cxx| Path::new(cxx).is_file())
            && names.iter().all(|name| (machine.env)(name).is_none())
        {
            variables.insert(format!("CXX_{underscored}"), cxx);
        }
        variables
    }

    /// How to get linker and compiler.
    fn advice(&self) -> String {
        let underscored = self.triple.replace('-', "_");
        let own = format!("or set CC_{underscored} and {}", linker_variable(self.triple));
        match self.library {
            "gnu" => format!("`apt install {}` (Debian, Ubuntu), {own}", self.debian_compiler()),
            "musl" if self.processor == std::env::consts::ARCH => {
                format!("`apt install musl-tools` (Debian, Ubuntu), {own}")
            }
            _ => format!("{}, {own}", self.compilers("").join(" or ")),
        }
    }

    fn libc_advice(&self) -> String {
        let debian = match self.processor {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "riscv64gc" => "riscv64",
            "powerpc64le" => "ppc64el",
            other => other,
        };
        format!("`apt install libc6-dev-{debian}-cross` (Debian, Ubuntu)")
    }

    fn debian_compiler(&self) -> String {
        format!("gcc-{}-linux-gnu", self.gnu_processor().replace('_', "-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case<'a> {
        target: &'a str,
        installed: &'a [&'a str],
        variables: &'a [(&'a str, &'a str)],
        linker: Option<&'a str>,
        has_std: bool,
        compiles_c: bool,
    }

    const CROSS: Case<'_> = Case {
        target: "aarch64-unknown-linux-gnu",
        installed: &["aarch64-linux-gnu-gcc"],
        variables: &[],
        linker: None,
        has_std: true,
        compiles_c: true,
    };

    fn check(case: &Case<'_>) -> Result<BTreeMap<String, String>> {
        let sysroot = tempfile::tempdir().unwrap();
        if case.has_std {
            std::fs::create_dir_all(sysroot.path().join("lib/rustlib").join(case.target).join("lib"))
                .unwrap();
        }
        let cargo = CargoConfig {
            target: case.target.into(),
            rustflags: vec![],
            linker: case.linker.map(PathBuf::from),
            cargo_home: "/cargo".into(),
            env: BTreeMap::new(),
            forced_env: vec![],
        };
        let variable = |name: &str| {
            let found = case.variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let machine = Machine {
            processor: "x86_64",
            sysroot: sysroot.path(),
            env: &variable,
            find: &|name| case.installed.contains(&name).then(|| Path::new("/bin").join(name)),
            has_libc: &|compiler| !compiler.ends_with("no-libc"),
        };
        tools(&cargo, case.compiles_c, &machine).map(|tools| tools.env)
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const LINKER: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER";
    const CC: &str = "CC_aarch64_unknown_linux_gnu";

    #[test]
    fn a_well_known_cross_compiler_links_and_compiles() {
        let gcc = "/bin/aarch64-linux-gnu-gcc";
        assert_eq!(check(&CROSS).unwrap(), env(&[(LINKER, gcc), (CC, gcc)]));
        let native = Case { target: "x86_64-unknown-linux-gnu", installed: &[], has_std: false, ..CROSS };
        assert_eq!(check(&native).unwrap(), env(&[]));
    }

    #[test]
    fn what_the_user_configured_stays() {
        let own =
            Case { linker: Some("my-ld"), variables: &[("TARGET_CC", "my-cc")], installed: &[], ..CROSS };
        assert_eq!(check(&own).unwrap(), env(&[]));
        let wrapped = Case { variables: &[(CC, "ccache my-cc")], ..CROSS };
        assert_eq!(check(&wrapped).unwrap(), env(&[(LINKER, "/bin/aarch64-linux-gnu-gcc")]));
        let compiler = Case { variables: &[(CC, "my-cc")], ..CROSS };
        assert_eq!(check(&compiler).unwrap(), env(&[(LINKER, "my-cc")]));
    }

    #[test]
    fn all_that_is_missing_is_named_with_its_command() {
        let error = |case: &Case<'_>| check(case).unwrap_err().to_string();
        let bare = error(&Case { installed: &[], has_std: false, ..CROSS });
        assert!(bare.contains("rustup target add aarch64-unknown-linux-gnu"), "{bare}");
        assert!(bare.contains("apt install gcc-aarch64-linux-gnu"), "{bare}");
        let no_libc = error(&Case { variables: &[(CC, "no-libc")], ..CROSS });
        assert!(no_libc.contains("apt install libc6-dev-arm64-cross"), "{no_libc}");
        let no_compiler = error(&Case { linker: Some("my-ld"), installed: &[], ..CROSS });
        assert!(no_compiler.contains("a C compiler: `apt install gcc-aarch64-linux-gnu`"), "{no_compiler}");
        let riscv = error(&Case { target: "riscv64gc-unknown-linux-gnu", ..CROSS });
        assert!(riscv.contains("apt install gcc-riscv64-linux-gnu"), "{riscv}");
    }

    #[test]
    fn musl_needs_a_compiler_only_for_c() {
        let musl = Case { target: "x86_64-unknown-linux-musl", installed: &[], compiles_c: false, ..CROSS };
        assert_eq!(check(&musl).unwrap(), env(&[]));
        let error = check(&Case { compiles_c: true, ..musl }).unwrap_err().to_string();
        assert!(error.contains("musl-tools") || error.contains("x86_64-linux-musl-gcc"), "{error}");
        let with = Case { installed: &["musl-gcc"], compiles_c: true, ..musl };
        assert_eq!(check(&with).unwrap(), env(&[("CC_x86_64_unknown_linux_musl", "/bin/musl-gcc")]));
        let cross = Case { target: "aarch64-unknown-linux-musl", compiles_c: false, ..CROSS };
        let linker = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER";
        assert_eq!(check(&cross).unwrap(), env(&[(linker, "/bin/aarch64-linux-gnu-gcc")]));
    }
}
