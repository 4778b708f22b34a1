//! Runs jobs here, without YAML and without GitHub: the same steps in the same order, with the same conditions and the same
//! variables. What an action does on GitHub has a meaning on this machine; commands are the real ones. Jobs run one after the
//! other in the work tree. It does not know what the commands do: a job is red when one of them says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value as Json;
use stdx::Cmd;

use crate::commands::{FOLDER, REPORTS};
use crate::expr::{Context, Ended};
use crate::model::{Action, Arg, Artifact, Body, Job, Run, Step, Steps, Workflow};
use crate::outputs;

/// GitHub's limit for the jobs of a matrix.
const MAX_MATRIX: usize = 256;
/// What is shown of a failed step; the log has all of it.
const MAX_SHOWN_BYTES: u64 = 16 * 1024;

/// Where jobs run, and with what.
#[derive(Debug)]
pub struct Local<'a> {
    /// Root of the workspace.
    pub root: &'a Path,
    /// The program that stands for `cargo xtask`.
    pub tool: &'a Path,
    /// The workflow.
    pub workflow: &'a Workflow,
    /// Names of the environments, in order.
    pub environments: &'a [String],
    /// Inputs of the workflow.
    pub inputs: BTreeMap<String, String>,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A job begins.
    Started(&'a str),
    /// A step was carried out, or a word on why not.
    Step(&'a str, &'a str),
    /// A job ended, with its result and seconds.
    Ended(&'a str, Outcome, u64),
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All steps did what they should.
    Success,
    /// A step did not.
    Failure,
    /// Its condition did not hold.
    Skipped,
}

/// A job that was run here, or one share of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobReport {
    /// The job, with its number where it has a matrix.
    pub name: String,
    /// How it ended.
    pub result: Outcome,
    /// The first step that went wrong.
    pub failed_step: Option<String>,
    /// The exit status of its command; `None` where it was no command.
    pub exit_status: Option<i32>,
    /// All that its steps printed.
    pub log: PathBuf,
    /// The end of what each failed step printed.
    pub output: String,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// What one step came to.
enum Did {
    /// A word on what it came to here.
    Well(String),
    /// Its exit status, where it was a command.
    Wrong(Option<i32>),
}

impl Local<'_> {
    /// Runs the job `id` and those that it needs, or all.
    ///
    /// # Errors
    /// When the workflow has no such job, or files cannot be written. A red job is no error.
    pub fn run(&self, id: Option<&str>, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Vec<JobReport>> {
        let wanted = self.wanted(id)?;
        stdx::fs::remove_dir_all(&self.root.join(FOLDER))?;
        stdx::fs::create_dir_all(&self.root.join(REPORTS))?;
        let mut context = Context { inputs: self.inputs.clone(), ..Context::default() };
        let mut reports = Vec::new();
        for job in self.workflow.jobs.iter().filter(|job| wanted.contains(job.id.as_str())) {
            let (ended, mut parts) = self.job(job, &mut context, progress)?;
            context.jobs.insert(job.id.clone(), ended);
            reports.append(&mut parts);
        }
        Ok(reports)
    }

    fn wanted(&self, id: Option<&str>) -> Result<BTreeSet<&str>> {
        let Some(id) = id else {
            return Ok(self.workflow.jobs.iter().map(|job| job.id.as_str()).collect());
        };
        let mut wanted = BTreeSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let Some(job) = self.workflow.job(id) else {
                bail!("there is no job `{id}` in {}.yml; next: cargo xtask ci list", self.workflow.file);
            };
            if wanted.insert(job.id.as_str()) {
                open.extend(job.needs.iter().map(String::as_str));
            }
        }
        Ok(wanted)
    }

    fn job(
        &self,
        job: &Job,
        context: &mut Context,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(Ended, Vec<JobReport>)> {
        let result = |name: &String| context.jobs.get(name).map(|job| job.result.as_str());
        let has_failed = job.needs.iter().any(|name| result(name) != Some("success"));
        let runs = job.when.map_or(!has_failed, |when| when.holds(context, self.environments, has_failed));
        let steps = match &job.body {
            Body::Steps(steps) if runs => steps,
            _ => {
                progress(Progress::Ended(&job.id, Outcome::Skipped, 0));
                let report = self.report(&job.id, Outcome::Skipped);
                return Ok((Ended { result: "skipped".to_owned(), ..Ended::default() }, vec![report]));
            }
        };
        let entries = match steps.matrix {
            None => vec![(job.id.clone(), BTreeMap::new())],
            Some((from, output)) => {
                let text = context.jobs.get(from).and_then(|job| job.outputs.get(output));
                let entries = matrix(text.map(String::as_str).unwrap_or_default())
                    .with_context(|| format!("the matrix of the job {} cannot be used", job.id))?;
                entries
                    .into_iter()
                    .enumerate()
                    .map(|(index, entry)| (format!("{} {index}", job.id), entry))
                    .collect()
            }
        };
        let (mut reports, mut outputs) = (Vec::new(), BTreeMap::new());
        for (index, (name, entry)) in entries.into_iter().enumerate() {
            (context.matrix, context.job_index) = (entry, index);
            let (report, mut given) = self.part(&name, steps, context, progress)?;
            reports.push(report);
            outputs.append(&mut given);
        }
        let is_good = reports.iter().all(|report| report.result == Outcome::Success);
        let result = if is_good { "success" } else { "failure" }.to_owned();
        Ok((Ended { result, outputs }, reports))
    }

    /// One job, or one share of a job with a matrix.
    fn part(
        &self,
        name: &str,
        steps: &Steps,
        context: &Context,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(JobReport, BTreeMap<String, String>)> {
        progress(Progress::Started(name));
        let started = Instant::now();
        let mut report = self.report(name, Outcome::Success);
        stdx::fs::create_dir_all(report.log.parent().unwrap_or(self.root))?;
        let output_file = report.log.with_extension("outputs");
        for path in [&report.log, &output_file] {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        for step in &steps.steps {
            let has_failed = report.result == Outcome::Failure;
            if !step.when.map_or(!has_failed, |when| when.holds(context, self.environments, has_failed)) {
                continue;
            }
            let before = fs::metadata(&report.log).map_or(0, |log| log.len());
            match self.step(step, context, &report.log, &output_file)? {
                Did::Well(word) => progress(Progress::Step(&step.name, &word)),
                Did::Wrong(status) => {
                    progress(Progress::Step(&step.name, "failed"));
                    if !has_failed {
                        report.result = Outcome::Failure;
                        report.failed_step = Some(step.name.clone());
                        report.exit_status = status;
                    }
                    report.output += &tail(&report.log, before)?;
                }
            }
        }
        report.elapsed_ms = started.elapsed().as_millis() as u64;
        progress(Progress::Ended(name, report.result, report.elapsed_ms / 1000));
        let given = outputs::parse(&stdx::fs::read_to_string(&output_file)?)?;
        Ok((report, given.into_iter().filter(|(name, _)| steps.outputs.contains(&name.as_str())).collect()))
    }

    fn report(&self, name: &str, result: Outcome) -> JobReport {
        JobReport {
            name: name.to_owned(),
            result,
            failed_step: None,
            exit_status: None,
            log: self.root.join(FOLDER).join("logs").join(format!("{}.log", name.replace(' ', "-"))),
            output: String::new(),
            elapsed_ms: 0,
        }
    }

    fn step(&self, step: &Step, context: &Context, log: &Path, outputs: &Path) -> Result<Did> {
        let well = |word: &str| Ok(Did::Well(word.to_owned()));
        match &step.action {
            Action::Checkout { .. } => well("the work tree"),
            Action::Setup(..) => well("the tool that runs"),
            Action::Save(_) => well("nothing to do here"),
            Action::Attest { .. } => well("skipped: there is no identity to sign with here"),
            Action::UploadSarif { path } => well(path),
            Action::Run(run) => self.command(run, context, log, outputs),
            Action::Upload { name, path, .. } => {
                let name = name.resolve(context).context("an artifact without a name")?;
                let to = self.artifacts().join(name);
                self.copied(&self.root.join(path), &to, log)
            }
            Action::Download { name, path } => {
                let to = self.root.join(path);
                match name {
                    Artifact::Named(name) => self.copied(&self.artifacts().join(name), &to, log),
                    Artifact::BeginningWith(prefix) => {
                        let names = names(&self.artifacts())?;
                        for name in names.iter().filter(|name| name.starts_with(prefix)) {
                            copy(&self.artifacts().join(name), &to)?;
                        }
                        Ok(Did::Well(path.clone()))
                    }
                }
            }
        }
    }

    fn artifacts(&self) -> PathBuf {
        self.root.join(FOLDER).join("artifacts")
    }

    /// What another step should have made and did not is a red step, as it is on GitHub.
    fn copied(&self, from: &Path, to: &Path, log: &Path) -> Result<Did> {
        if !from.exists() {
            writeln!(append(log)?, "{} does not exist", from.display())
                .with_context(|| format!("cannot write {}", log.display()))?;
            return Ok(Did::Wrong(None));
        }
        let to = if from.is_file() { to.join(from.file_name().unwrap_or_default()) } else { to.to_owned() };
        copy(from, &to)?;
        Ok(Did::Well(to.strip_prefix(self.root).unwrap_or(&to).display().to_string()))
    }

    fn command(&self, run: &Run, context: &Context, log: &Path, outputs: &Path) -> Result<Did> {
        let cmd = self.cmd(run, context)?;
        let mut command = cmd.to_std()?;
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_withheld(&name.to_string_lossy(), run)) {
            command.env_remove(name);
        }
        command.env("GITHUB_OUTPUT", outputs).env("GITHUB_STEP_SUMMARY", log.with_extension("md"));
        command.stdin(std::process::Stdio::null());
        let stdout = match &run.stdout {
            Some(path) => {
                let path = self.root.join(path);
                stdx::fs::create_dir_all(path.parent().unwrap_or(self.root))?;
                File::create(&path).with_context(|| format!("cannot write {}", path.display()))?
            }
            None => append(log)?,
        };
        let status = command
            .stdout(stdout)
            .stderr(append(log)?)
            .status()
            .with_context(|| format!("cannot run {cmd}"))?;
        if status.success() { Ok(Did::Well(run.line())) } else { Ok(Did::Wrong(status.code())) }
    }

    fn cmd(&self, run: &Run, context: &Context) -> Result<Cmd> {
        let mut cmd = Cmd::new(self.tool).cwd(self.root);
        let mut values = BTreeMap::new();
        for (name, value) in &run.env {
            // Secrets and tokens are the caller's own variables, where there are any.
            if let Some(value) = value.resolve(context) {
                cmd = cmd.env(name, &value);
                values.insert(name.as_str(), value);
            }
        }
        let value = |name: &str| {
            values.get(name).cloned().with_context(|| format!("the variable {name} has no value"))
        };
        for arg in &run.args {
            cmd = match arg {
                Arg::Text(text) => cmd.arg(text),
                Arg::Var(name) => cmd.arg(value(name)?),
                Arg::Around(before, name, after) => cmd.arg(format!("{before}{}{after}", value(name)?)),
                Arg::Files(folder, ending) => {
                    let names = names(&self.root.join(folder))?;
                    let files = names.iter().filter(|name| name.ends_with(ending));
                    cmd.args(files.map(|name| format!("{folder}/{name}")))
                }
            };
        }
        Ok(cmd)
    }
}

/// What a run on GitHub is told must not reach the same commands run for this one; a token reaches those that name it.
fn is_withheld(variable: &str, run: &Run) -> bool {
    let is_of_github = variable == "CI"
        || ["GITHUB_", "ACTIONS_", "RUNNER_"].iter().any(|prefix| variable.starts_with(prefix));
    is_of_github && !run.env.iter().any(|(named, _)| named == variable)
}

/// The entries of a matrix.
fn matrix(text: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let matrix: Json = serde_json::from_str(text).context("it is not JSON")?;
    let entries = matrix["include"].as_array().context("it has no list `include`")?;
    if entries.is_empty() || entries.len() > MAX_MATRIX {
        bail!("{} entries are not between 1 and {MAX_MATRIX}", entries.len());
    }
    let pairs = |entry: &Json| {
        let pairs = entry.as_object().into_iter().flatten();
        pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    };
    Ok(entries.iter().map(pairs).collect())
}

fn append(path: &Path) -> Result<File> {
    File::options().append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// The names in a folder, sorted; none where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let context = || format!("cannot read the folder {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        names.push(entry.with_context(context)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        stdx::fs::create_dir_all(to.parent().unwrap_or(to))?;
        fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        return Ok(());
    }
    stdx::fs::create_dir_all(to)?;
    names(from)?.iter().try_for_each(|name| copy(&from.join(name), &to.join(name)))
}

/// The end of what was written to `log` from `before` on.
fn tail(log: &Path, before: u64) -> Result<String> {
    let mut file = stdx::fs::open(log)?;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(before.max(end.saturating_sub(MAX_SHOWN_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(MAX_SHOWN_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
