//! The other setting: every circumstance of a build that must not count is made another one, as far as this machine allows.
//! What could not be changed is said, never passed over. Choosing is pure; [`Here::observe`] and [`Means::probe`] look.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use stdx::Cmd;

const USER: &str = "slipway-verify";
const USER_ID: u32 = 4242;
/// Without digit and mark: the leak gate would end the second build before anything can be compared.
const HOST: &str = "slipwayverify";
/// Forward, so that nothing that was made before seems to come from the future.
const CLOCK_SHIFT: &str = "+400d";

/// Name of the program in the second home folder that starts the compiler under the true clock: libfaketime and the compiler's
/// allocator wait for each other for ever.
const COMPILER: &str = "rustc";

/// Writes the program that starts the compiler under the true clock.
pub(crate) fn write_compiler(home: &Path) -> Result<()> {
    let script = "#!/bin/sh\nunset LD_PRELOAD\nexec \"${SLIPWAY_VERIFY_RUSTC:-rustc}\" \"$@\"\n";
    stdx::fs::write_atomic(&home.join(COMPILER), script.as_bytes(), 0o755)
}

/// The cargo that runs this program, where Cargo says which one that is.
pub(crate) fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A circumstance of a build, in both settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circumstance {
    /// What it is.
    pub name: String,
    /// As it was in the first build.
    pub first: String,
    /// As it was in the second one.
    pub second: String,
    /// Why it was the same in both, or what of it was.
    pub note: Option<String>,
}

/// What this process sees of its surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    pub(crate) root: PathBuf,
    pub(crate) target_dir: PathBuf,
    pub(crate) cargo_home: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) rustup_home: Option<PathBuf>,
    pub(crate) user: String,
    pub(crate) user_id: u32,
    pub(crate) host: String,
    pub(crate) umask: String,
    pub(crate) time_zone: String,
    pub(crate) locale: String,
    pub(crate) cpus: Vec<usize>,
}

/// What this machine lets this process change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Means {
    /// `unshare` with the arguments that work here, and whether they change the user and the host name.
    pub(crate) namespaces: Option<Vec<&'static str>>,
    pub(crate) changes_user: bool,
    pub(crate) taskset: bool,
    pub(crate) faketime: bool,
}

/// Folders of the second build.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) root: PathBuf,
    pub(crate) target_dir: PathBuf,
    pub(crate) cargo_home: PathBuf,
    pub(crate) home: PathBuf,
}

/// How commands are run in the other setting.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Put in front of each command.
    wrapper: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
    root: PathBuf,
    /// A program that starts the compiler under the true clock.
    compiler: PathBuf,
    pub(crate) circumstances: Vec<Circumstance>,
}

impl Here {
    /// Looks around. What cannot be found out is empty.
    pub(crate) fn observe(root: &Path, target_dir: &Path) -> Result<Here> {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        let home = std::env::home_dir().unwrap_or_default();
        let rustup_home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
        let rustup_home = rustup_home.or_else(|| Some(home.join(".rustup")).filter(|folder| folder.is_dir()));
        Ok(Here {
            root: root.to_owned(),
            target_dir: target_dir.to_owned(),
            cargo_home: workspace::cargo_home(root).unwrap_or_default(),
            home,
            rustup_home,
            user: [var("USER"), var("LOGNAME")].into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
            user_id: rustix::process::getuid().as_raw(),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
            umask: field("Umask"),
            time_zone: var("TZ"),
            locale: [var("LC_ALL"), var("LANG")]
                .into_iter()
                .find(|name| !name.is_empty())
                .unwrap_or_default(),
            cpus: cpu_list(&field("Cpus_allowed_list")),
        })
    }
}

/// The numbers of a list such as `0-2,5`.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse::<usize>().ok()?..=to.trim().parse::<usize>().ok()?.min(4096))
    };
    text.split(',').filter_map(range).flatten().collect()
}

impl Means {
    /// Tries what works.
    pub(crate) fn probe() -> Means {
        let works = |cmd: Cmd| cmd.read().is_ok();
        let script = format!("hostname {HOST} && test \"$(hostname)\" = {HOST}");
        let user = ["unshare", "--user", "--map-user=4242", "--map-group=4242", "--keep-caps", "--uts"];
        let root = ["unshare", "--user", "--map-root-user", "--uts"];
        let try_it = |args: &[&'static str]| {
            let cmd = Cmd::new(args[0]).args(&args[1..]).args(["sh", "-c", &script]);
            works(cmd).then(|| args.to_vec())
        };
        let as_user = try_it(&user);
        Means {
            changes_user: as_user.is_some(),
            namespaces: as_user.or_else(|| try_it(&root)),
            taskset: works(Cmd::new("taskset").arg("--version")),
            // With some programs libfaketime never ends.
            faketime: works(
                Cmd::new("timeout")
                    .args(["10", "faketime", "-f", CLOCK_SHIFT])
                    .arg(cargo_program())
                    .arg("--version"),
            ),
        }
    }
}

/// Chooses a setting in which nothing that must not count is as it is here.
pub(crate) fn another(here: &Here, means: &Means, places: &Places) -> Setting {
    let mut setting = Setting {
        wrapper: Vec::new(),
        env: BTreeMap::new(),
        root: places.root.clone(),
        compiler: places.home.join(COMPILER),
        circumstances: Vec::new(),
    };
    setting.folders(here, places);
    setting.identity(here, means);
    setting.surroundings(here);
    setting.machine(here, means);
    setting
}

impl Setting {
    /// The command as it is run in this setting.
    pub(crate) fn command(
        &self,
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Cmd {
        let mut words = self.wrapper.iter().cloned();
        let mut cmd = match words.next() {
            Some(first) => Cmd::new(first).args(words).arg(program),
            None => Cmd::new(program),
        };
        cmd = cmd.args(args).cwd(&self.root);
        cmd.env.extend(self.env.clone());
        cmd
    }

    /// Fixes the time that build scripts are told and images carry, whatever this process has for it.
    pub(crate) fn fix_time(&mut self, epoch: Option<&str>) {
        self.env.insert("SOURCE_DATE_EPOCH".into(), epoch.map(OsString::from));
    }

    /// Keeps a variable of this process from the second build.
    pub(crate) fn hide(&mut self, name: &str) {
        self.env.insert(name.into(), None);
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.env.insert(name.into(), Some(value.into()));
    }

    fn note(&mut self, name: &str, first: impl fmt::Display, second: impl fmt::Display, note: Option<&str>) {
        let (first, second) = (first.to_string(), second.to_string());
        self.circumstances.push(Circumstance {
            name: name.to_owned(),
            first,
            second,
            note: note.map(str::to_owned),
        });
    }

    fn folders(&mut self, here: &Here, places: &Places) {
        self.note("folder", here.root.display(), places.root.display(), None);
        self.set("CARGO_TARGET_DIR", &places.target_dir);
        self.note("target folder", here.target_dir.display(), places.target_dir.display(), None);
        self.set("CARGO_HOME", &places.cargo_home);
        self.note("cargo home", here.cargo_home.display(), places.cargo_home.display(), None);
        self.set("HOME", &places.home);
        self.note("home folder", here.home.display(), places.home.display(), None);
        if let Some(folder) = &here.rustup_home {
            self.set("RUSTUP_HOME", folder);
        }
        // A second build that took what the first one made would prove nothing.
        self.set("RUSTC_WRAPPER", "");
        self.set("SLIPWAY_CACHE", "off");
        self.set("CARGO_NET_OFFLINE", "true");
        self.env.insert("CARGO_BUILD_TARGET_DIR".into(), None);
        self.note("times of files", "as they are", "2001, each another one", None);
        self.note(
            "order of files",
            "as they were made",
            "made in the reverse order",
            Some("ext4 lists a folder by hashes of the names all the same"),
        );
    }

    fn identity(&mut self, here: &Here, means: &Means) {
        for name in ["USER", "LOGNAME", "USERNAME"] {
            self.set(name, USER);
        }
        let id = if means.changes_user { USER_ID } else { here.user_id };
        let note = (!means.changes_user).then_some("only the name: this machine allows no user namespaces");
        self.note("user", format!("{} ({})", here.user, here.user_id), format!("{USER} ({id})"), note);
        self.set("HOSTNAME", HOST);
        self.set("HOST", HOST);
        match &means.namespaces {
            Some(words) => {
                self.wrapper.extend(words.iter().map(OsString::from));
                self.note("host name", &here.host, HOST, None);
            }
            None => {
                self.note(
                    "host name",
                    &here.host,
                    &here.host,
                    Some("only the variable changed: this machine allows no namespaces"),
                );
            }
        }
    }

    fn surroundings(&mut self, here: &Here) {
        let pick = |current: &str, choices: [&'static str; 2]| {
            if current.trim_start_matches('0') == choices[0].trim_start_matches('0') {
                choices[1]
            } else {
                choices[0]
            }
        };
        let zone = pick(&here.time_zone, ["Asia/Kathmandu", "America/St_Johns"]);
        self.set("TZ", zone);
        self.note("time zone", &here.time_zone, zone, None);
        let locale = pick(&here.locale, ["tr_TR.UTF-8", "C"]);
        for name in ["LC_ALL", "LANG"] {
            self.set(name, locale);
        }
        self.set("LANGUAGE", "tr");
        self.note("locale", &here.locale, locale, None);
        let umask = pick(&here.umask, ["0077", "0022"]);
        let host = if self.wrapper.is_empty() { String::new() } else { format!("hostname {HOST} && ") };
        let script = format!("{host}umask {umask} && exec \"$@\"");
        self.wrapper.extend(["sh", "-c", &script, "sh"].map(OsString::from));
        self.note("umask", &here.umask, umask, None);
    }

    fn machine(&mut self, here: &Here, means: &Means) {
        let half = &here.cpus[..here.cpus.len().div_ceil(2)];
        let list = half.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let can = means.taskset && half.len() < here.cpus.len();
        if can {
            self.wrapper.extend(["taskset", "--cpu-list", &list].map(OsString::from));
        }
        let note = match (can, means.taskset) {
            (true, _) => None,
            (false, true) => Some("there is only one"),
            (false, false) => Some("there is no `taskset` here"),
        };
        self.note("processors", here.cpus.len(), if can { half.len() } else { here.cpus.len() }, note);
        if means.faketime {
            self.wrapper.extend(["faketime", "-f", CLOCK_SHIFT].map(OsString::from));
            self.set("NO_FAKE_STAT", "1");
            if let Some(rustc) = std::env::var_os("RUSTC") {
                self.set("SLIPWAY_VERIFY_RUSTC", rustc);
            }
            self.set("RUSTC", self.compiler.clone());
            let note = "for build scripts; macros run in the compiler, which does not start under `faketime`, and see now";
            self.note("clock", "now", format!("{CLOCK_SHIFT} from now"), Some(note));
        } else {
            self.note(
                "clock",
                "now",
                "now, some time later",
                Some("not shifted: there is no `faketime` here"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Here {
        Here {
            root: "/w".into(),
            target_dir: "/w/target".into(),
            cargo_home: "/home/u/.cargo".into(),
            home: "/home/u".into(),
            rustup_home: Some("/home/u/.rustup".into()),
            user: "u".into(),
            user_id: 1000,
            host: "h".into(),
            umask: "0077".into(),
            time_zone: "Asia/Kathmandu".into(),
            locale: String::new(),
            cpus: vec![0, 1, 4],
        }
    }

    fn places() -> Places {
        Places {
            root: "/v/s".into(),
            target_dir: "/v/t".into(),
            cargo_home: "/v/c".into(),
            home: "/v/h".into(),
        }
    }

    #[test]
    fn everything_is_another_where_the_machine_allows_it() {
        let means =
            Means { namespaces: Some(vec!["unshare"]), changes_user: true, taskset: true, faketime: true };
        let setting = another(&here(), &means, &places());
        for circumstance in &setting.circumstances {
            assert_ne!(circumstance.first, circumstance.second, "{}", circumstance.name);
        }
        let cmd = setting.command("cargo", ["build"]).to_string();
        let words = "unshare sh -c 'hostname slipwayverify && umask 0022 && exec \"$@\"' sh taskset --cpu-list 0,1 faketime -f +400d cargo build";
        assert_eq!(cmd, words);
    }

    #[test]
    fn what_stays_is_said() {
        let setting = another(&here(), &Means::default(), &places());
        let kept: Vec<&str> =
            setting.circumstances.iter().filter(|c| c.first == c.second).map(|c| c.name.as_str()).collect();
        assert_eq!(kept, ["host name", "processors"]);
        let noted = |name: &str| setting.circumstances.iter().any(|c| c.name == name && c.note.is_some());
        assert!(["user", "host name", "processors", "clock"].into_iter().all(noted));
        assert_eq!(setting.command("x", [""; 0]).to_string(), "sh -c 'umask 0022 && exec \"$@\"' sh x");
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cpu_list(""), [0; 0]);
    }
}
