//! Child processes that must not outlive this program, however it ends but by SIGKILL. It knows nothing of signals that come
//! in: whoever ends the program without unwinding calls [`kill_tied`] first.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

/// Leaders of process groups that run now.
static TIED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// Each round stops what the round before had started; nobody starts processes for so long once their parents stand still.
const MOST_ROUNDS: usize = 100;

/// A child with a process group of its own that is killed with this program, until this value goes away.
#[derive(Debug)]
pub struct Tied(i32);

impl Tied {
    /// Ties a child that leads a process group.
    pub fn new(child: &Child) -> Tied {
        let leader = Pid::from_child(child).as_raw_nonzero().get();
        tied().insert(leader);
        Tied(leader)
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        tied().remove(&self.0);
    }
}

fn tied() -> MutexGuard<'static, BTreeSet<i32>> {
    TIED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills all tied children with their process groups and all that they started, in whatever group that is now.
pub fn kill_tied() {
    let leaders = tied().clone();
    let send = |process: i32, signal| {
        // It fails only where the process is gone already.
        Pid::from_raw(process).map(|pid| kill_process(pid, signal).ok());
    };
    let mut found = BTreeSet::new();
    for _ in 0..MOST_ROUNDS {
        let new: Vec<i32> = family(&leaders, &processes()).difference(&found).copied().collect();
        if new.is_empty() {
            break;
        }
        new.iter().for_each(|process| send(*process, Signal::STOP));
        found.extend(new);
    }
    found.iter().for_each(|process| send(*process, Signal::KILL));
}

/// The leaders, the members of their groups, and all descendants of these. `processes` has parent and group of each.
fn family(leaders: &BTreeSet<i32>, processes: &BTreeMap<i32, (i32, i32)>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (process, (parent, group)) in processes {
            if leaders.contains(group) || leaders.contains(process) || found.contains(parent) {
                found.insert(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Parent and process group of every process that this one can see.
fn processes() -> BTreeMap<i32, (i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |entry: std::fs::DirEntry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        Some((process, parse_stat(&std::fs::read_to_string(entry.path().join("stat")).ok()?)?))
    };
    entries.filter_map(process).collect()
}

/// Source: proc_pid_stat(5). A program's name may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(i32, i32)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_groups_and_descendants_and_nobody_else() {
        // 10 leads a group with 11; 12 left the group, and 13 is its child. 14 lost its parent. 20 is somebody else.
        let processes =
            [(10, (1, 10)), (11, (10, 10)), (12, (11, 12)), (13, (12, 12)), (14, (1, 10)), (20, (1, 20))];
        let found = family(&BTreeSet::from([10]), &processes.into());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
        assert!(family(&BTreeSet::new(), &processes.into()).is_empty());
    }

    #[test]
    fn names_of_programs_do_not_mislead() {
        assert_eq!(parse_stat("7 (a) b) S 3 5 5 0"), Some((3, 5)));
        assert_eq!(parse_stat("7 (a"), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(processes().contains_key(&own));
    }
}
