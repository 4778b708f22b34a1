//! What an engine is and can do, as it says itself; and the two things that only the machine below it knows: free space, and which
//! folder is in memory.

use std::path::{Path, PathBuf};

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum, SystemVersion};

/// How an engine keeps images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Layers of its own; the name of the driver. An image's id is the digest of its configuration.
    GraphDriver(String),
    /// containerd's; the name of the snapshotter. An image's id is the digest of its manifest.
    Containerd(String),
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Of the engine: `20.10.24`.
    pub version: String,
    /// Version of the API that is spoken with it: `(1, 41)`.
    pub api: (u32, u32),
    /// Processor, in Go's words.
    pub architecture: String,
    /// What its machine calls itself.
    pub machine: String,
    /// How it keeps images.
    pub store: Store,
    /// Whether containers go on when the engine stops.
    pub has_live_restore: bool,
    /// 1 or 2; `None` where the engine does not tell.
    pub cgroup_version: Option<u8>,
    /// Whether it runs without being root.
    pub is_rootless: bool,
    /// Whether limits of memory, processors and processes can be kept there.
    pub can_limit: CanLimit,
    /// Whether system calls are filtered.
    pub has_seccomp: bool,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Processors of the machine.
    pub cpus: u32,
    /// The engine's folder.
    pub data_root: PathBuf,
    /// Free space there; `None` where there is no way to look.
    pub free_bytes: Option<u64>,
    /// Where files can be put that must not reach a disk.
    pub memory_folder: MemoryFolder,
    /// What the engine warns of.
    pub warnings: Vec<String>,
}

/// A folder of the engine's machine that is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryFolder {
    /// It was looked at, and is.
    Seen(PathBuf),
    /// There is no way to look; on usual machines this one is.
    Assumed(PathBuf),
    /// None was found.
    Missing,
}

/// Which limits can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanLimit {
    /// Bytes of memory.
    pub memory: bool,
    /// Time of processors.
    pub cpus: bool,
    /// Number of processes.
    pub pids: bool,
}

/// Folders that are in memory on most machines, the better one first.
pub(crate) const MEMORY_FOLDERS: [&str; 2] = ["/run", "/dev/shm"];

impl Facts {
    /// What its images are for: `linux/amd64`.
    pub fn platform(&self) -> String {
        format!("linux/{}", self.architecture)
    }

    pub(crate) fn new(version: SystemVersion, info: SystemInfo, api: (u32, u32)) -> Facts {
        let driver = info.driver.unwrap_or_default();
        let status = info.driver_status.unwrap_or_default();
        let is_containerd = status.iter().flatten().any(|text| text.starts_with("io.containerd.snapshotter"));
        let security = info.security_options.unwrap_or_default();
        let has = |name: &str| {
            security.iter().any(|option| option.split(',').any(|part| part == format!("name={name}")))
        };
        Facts {
            version: version.version.unwrap_or_default(),
            api,
            architecture: version.arch.unwrap_or_default(),
            machine: info.name.unwrap_or_default(),
            store: if is_containerd { Store::Containerd(driver) } else { Store::GraphDriver(driver) },
            has_live_restore: info.live_restore_enabled.unwrap_or_default(),
            cgroup_version: match info.cgroup_version {
                Some(SystemInfoCgroupVersionEnum::_1) => Some(1),
                Some(SystemInfoCgroupVersionEnum::_2) => Some(2),
                Some(SystemInfoCgroupVersionEnum::EMPTY) | None => None,
            },
            is_rootless: has("rootless"),
            can_limit: CanLimit {
                memory: info.memory_limit.unwrap_or_default(),
                cpus: info.cpu_cfs_quota.unwrap_or_default(),
                pids: info.pids_limit.unwrap_or_default(),
            },
            has_seccomp: has("seccomp"),
            memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
            cpus: info.ncpu.and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
            data_root: PathBuf::from(info.docker_root_dir.unwrap_or_default()),
            free_bytes: None,
            memory_folder: MemoryFolder::Assumed(PathBuf::from(MEMORY_FOLDERS[0])),
            warnings: info.warnings.unwrap_or_default(),
        }
    }

    /// Whether the engine's machine is this one, so that its folders can be looked at.
    pub(crate) fn is_here(&self) -> bool {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        !self.machine.is_empty() && name.trim() == self.machine && self.data_root.is_absolute()
    }
}

/// Free space where the folder is, on this machine.
pub(crate) fn free_here(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// The first folder that is in memory, on this machine.
pub(crate) fn memory_folder_here() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    MEMORY_FOLDERS.into_iter().find(|folder| is_tmpfs(&mounts, folder)).map(PathBuf::from)
}

/// Source: fstab(5): device, folder, type. The last mount on a folder is the one that is seen.
fn is_tmpfs(mounts: &str, folder: &str) -> bool {
    let mut here = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == folder).then(|| words.next()).flatten()
    });
    here.next_back() == Some("tmpfs")
}

/// The question for a shell about free space in `folder`, with an answer for [`free_of_df`].
pub(crate) fn df_script(folder: &Path) -> String {
    format!(
        "df -Pk -- '{}' 2>/dev/null",
        folder.display().to_string().replace('\'', "'\\''").replace('\n', "")
    )
}

/// Source: POSIX, df -P: `file system, 1024-blocks, used, available, capacity, mounted on`, one line each.
pub(crate) fn free_of_df(lines: &[String]) -> Option<u64> {
    let fields: Vec<&str> = lines.get(1)?.split_whitespace().collect();
    // The file system's name may hold spaces; what follows the percentage is the path.
    let percentage = fields.iter().position(|field| field.ends_with('%'))?;
    fields.get(percentage.checked_sub(1)?)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The question for a shell about folders in memory, with an answer for [`memory_folder_of`].
pub(crate) fn memory_script() -> String {
    MEMORY_FOLDERS.map(|folder| format!("stat -f -c %T {folder} 2>/dev/null || echo none")).join("\n")
}

/// One line for each folder: the type of its file system.
pub(crate) fn memory_folder_of(lines: &[String]) -> Option<PathBuf> {
    let mut found = MEMORY_FOLDERS.iter().zip(lines);
    found.find(|(_, kind)| kind.trim() == "tmpfs").map(|(folder, _)| PathBuf::from(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn free_space_is_read_from_df() {
        let df = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n/dev/vda 264212084 54078712  41422552      57% /\n";
        assert_eq!(free_of_df(&lines(df)), Some(41_422_552 * 1024));
        assert_eq!(free_of_df(&lines("head\n//nas/a share 100 90 10 90% /mnt/a 5%\n")), Some(10 * 1024));
        for bad in [
            "",
            "head",
            "head\n",
            "head\n%",
            "head\nx%",
            "head\n99999999999999999999 1%",
            "head\n18446744073709551615 1%",
        ] {
            assert_eq!(free_of_df(&lines(bad)), None, "{bad}");
        }
        assert_eq!(df_script(Path::new("/a'b")), "df -Pk -- '/a'\\''b' 2>/dev/null");
    }

    #[test]
    fn a_folder_in_memory_is_what_was_mounted_last() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n/dev/vda /run ext4 rw 0 0\nx\n";
        assert!(
            !is_tmpfs(mounts, "/run")
                && is_tmpfs(mounts, "/dev/shm")
                && !is_tmpfs(mounts, "/")
                && !is_tmpfs("", "/run")
        );
        assert_eq!(memory_folder_of(&lines("ext2/ext3\ntmpfs")), Some("/dev/shm".into()));
        assert_eq!(memory_folder_of(&lines("tmpfs\ntmpfs")), Some("/run".into()));
        assert_eq!(memory_folder_of(&lines("none")), None);
    }

    #[test]
    fn the_store_is_containerds_where_the_engine_says_so() {
        let info = |status: &[&str]| SystemInfo {
            driver: Some("overlayfs".into()),
            driver_status: Some(vec![status.iter().map(|text| (*text).to_owned()).collect()]),
            security_options: Some(vec!["name=seccomp,profile=default".into(), "name=rootless".into()]),
            ..SystemInfo::default()
        };
        let facts = |status| Facts::new(SystemVersion::default(), info(status), (1, 41));
        assert_eq!(
            facts(&["driver-type", "io.containerd.snapshotter.v1"]).store,
            Store::Containerd("overlayfs".into())
        );
        let graph = facts(&["Backing Filesystem", "extfs"]);
        assert_eq!(graph.store, Store::GraphDriver("overlayfs".into()));
        assert!(graph.has_seccomp && graph.is_rootless && !graph.can_limit.memory);
    }
}
