//! Git's history: every version of every file that any reference leads to, once. Memory is bounded by a few files at a time;
//! commits are asked for only where something was found.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result, ensure};
use finding::{Finding, Place};
use stdx::Cmd;

use crate::report::{partial_history_note, partly_scanned_note};
use crate::tree::git;
use crate::{Options, report};

/// A version of a file.
struct Blob {
    id: String,
    path: String,
    bytes: Vec<u8>,
    /// Of the whole, where `bytes` is only its start.
    size: u64,
}

/// What was found in a version, before it is known which commit brought it.
type Found = (String, Finding);

/// The secrets in the history of the checkout at `root`, each at the oldest commit that has it.
///
/// # Errors
/// When git fails, or when it was interrupted.
pub fn history(root: &Path, options: &Options<'_>) -> Result<Vec<Finding>> {
    let (paths, missing) = objects(root)?;
    let found = scan(root, &paths, options)?;
    let mut findings = if found.is_empty() { Vec::new() } else { dated(root, found)? };
    let is_shallow = git(root).args(["rev-parse", "--is-shallow-repository"]).read()? == "true";
    if missing > 0 || is_shallow {
        let why = if is_shallow {
            "the clone is shallow".to_owned()
        } else {
            format!("the clone lacks {missing} objects")
        };
        findings.push(partial_history_note(format!(
            "only a part of the history was searched for secrets: {why}"
        )));
    }
    crate::pool::sort(&mut findings);
    Ok(findings)
}

/// The findings with the oldest commits that have them; of the same secret in many versions of a file the first.
fn dated(root: &Path, found: Vec<Found>) -> Result<Vec<Finding>> {
    let wanted: BTreeSet<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
    let commits = commits(root, &wanted)?;
    let mut oldest = BTreeMap::<_, (usize, Finding)>::new();
    for (id, mut finding) in found {
        let fallback = (usize::MAX, String::new());
        let (age, commit) = commits.get(&id).unwrap_or(&fallback);
        if let Place::Commit { commit: at, .. } = &mut finding.place {
            commit.clone_into(at);
        }
        let entry = oldest.entry(finding.fingerprint()).or_insert_with(|| (*age, finding.clone()));
        if (*age, &finding) < (entry.0, &entry.1) {
            *entry = (*age, finding);
        }
    }
    Ok(oldest.into_values().map(|(_, finding)| finding).collect())
}

/// Everything that references lead to, with the path at which it was first met (commits and top folders have none), and how
/// many objects this clone lacks.
fn objects(root: &Path) -> Result<(BTreeMap<String, String>, usize)> {
    let cmd = git(root).args(["rev-list", "--objects", "--missing=print", "--all"]);
    let (mut paths, mut missing) = (BTreeMap::new(), 0);
    lines(&cmd, |line| {
        missing += usize::from(line.starts_with('?'));
        if let Some((id, path)) = line.split_once(' ').filter(|(_, path)| !path.is_empty()) {
            paths.insert(id.to_owned(), path.to_owned());
        }
    })?;
    Ok((paths, missing))
}

fn scan(root: &Path, paths: &BTreeMap<String, String>, options: &Options<'_>) -> Result<Vec<Found>> {
    let (send, receive) = sync_channel(options.threads.get());
    let receive = Mutex::new(receive);
    let work = || {
        let mut found = Vec::new();
        while let Some(blob) = take(&receive) {
            found.extend(scan_blob(&blob).into_iter().map(|finding| (blob.id.clone(), finding)));
        }
        found
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads.get()).map(|_| scope.spawn(work)).collect();
        let read = read_blobs(root, paths, options, |blob| drop(send.send(blob)));
        drop(send);
        let mut found = Vec::new();
        for worker in workers {
            found.extend(worker.join().map_err(|_| anyhow::anyhow!("a thread that looks for secrets died"))?);
        }
        read.map(|()| found)
    })
}

fn take(receive: &Mutex<Receiver<Blob>>) -> Option<Blob> {
    receive.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv().ok()
}

fn scan_blob(blob: &Blob) -> Vec<Finding> {
    let place = |line| Place::Commit { commit: String::new(), path: blob.path.clone(), line };
    let mut found = report::findings(&blob.path, &blob.bytes, |line, _| place(Some(line)));
    if blob.size > blob.bytes.len() as u64 {
        found.push(partly_scanned_note(place(None), blob.bytes.len() as u64, blob.size));
    }
    found
}

/// Gives every blob among `paths` to `each`, in the order of their ids.
fn read_blobs(
    root: &Path,
    paths: &BTreeMap<String, String>,
    options: &Options<'_>,
    mut each: impl FnMut(Blob),
) -> Result<()> {
    let cmd = git(root).args(["cat-file", "--batch", "--buffer"]);
    let mut child = spawn(&cmd, Stdio::piped())?;
    let mut input = child.stdin.take().context("git has no standard input")?;
    let output = child.stdout.take().context("git has no standard output")?;
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            for id in paths.keys() {
                // Git closes its end when it is stopped; what went wrong is seen on its output.
                if writeln!(input, "{id}").is_err() {
                    break;
                }
            }
        });
        let result = read_batch(BufReader::with_capacity(1 << 18, output), paths, options, &mut each);
        if result.is_err() {
            let _ = child.kill();
        }
        result
    });
    let status = child.wait().with_context(|| format!("cannot wait for {cmd}"))?;
    result?;
    ensure!(status.success(), "`{cmd}` failed with {status}");
    Ok(())
}

fn read_batch(
    mut output: BufReader<ChildStdout>,
    paths: &BTreeMap<String, String>,
    options: &Options<'_>,
    each: &mut impl FnMut(Blob),
) -> Result<()> {
    let mut header = String::new();
    loop {
        options.check()?;
        header.clear();
        if output.read_line(&mut header)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = header.split_ascii_whitespace().collect();
        let [id, kind, size] = words[..] else { continue };
        let size: u64 = size.parse().with_context(|| format!("git gives the size `{size}`"))?;
        let wanted = if kind == "blob" { size.min(options.most_bytes_per_file) } else { 0 };
        let mut bytes = Vec::new();
        output.by_ref().take(wanted).read_to_end(&mut bytes)?;
        // The rest, and the line break after it.
        std::io::copy(&mut output.by_ref().take(size - wanted + 1), &mut std::io::sink())?;
        if let Some(path) = paths.get(id).filter(|_| kind == "blob") {
            each(Blob { id: id.to_owned(), path: path.clone(), bytes, size });
        }
    }
}

/// For each of the blobs the oldest commit that brought it, with its place in the order of history.
fn commits(root: &Path, wanted: &BTreeSet<&str>) -> Result<BTreeMap<String, (usize, String)>> {
    let cmd = git(root).args(["log", "--all", "--reverse", "--topo-order", "--root", "-m", "--raw"]);
    let cmd = cmd.args(["--no-abbrev", "--no-renames", "--no-show-signature", "--format=commit %H"]);
    let mut found = BTreeMap::new();
    let (mut age, mut commit) = (0, String::new());
    lines(&cmd, |line| {
        if let Some(id) = line.strip_prefix("commit ") {
            age += 1;
            id.clone_into(&mut commit);
        } else if let Some(id) = line.starts_with(':').then(|| line.split(' ').nth(3)).flatten()
            && wanted.contains(id)
        {
            found.entry(id.to_owned()).or_insert_with(|| (age, commit.clone()));
        }
    })?;
    Ok(found)
}

/// Runs the command and gives each line of its output to `each`.
fn lines(cmd: &Cmd, mut each: impl FnMut(&str)) -> Result<()> {
    let mut child = spawn(cmd, Stdio::null())?;
    let mut output = BufReader::new(child.stdout.take().context("git has no standard output")?);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        each(String::from_utf8_lossy(line.trim_ascii_end()).as_ref());
        line.clear();
    }
    let status = child.wait().with_context(|| format!("cannot wait for {cmd}"))?;
    ensure!(status.success(), "`{cmd}` failed with {status}; see what git says above");
    Ok(())
}

fn spawn(cmd: &Cmd, stdin: Stdio) -> Result<Child> {
    let child = cmd.to_std()?.stdin(stdin).stdout(Stdio::piped()).spawn();
    child.with_context(|| format!("cannot run {cmd}"))
}
