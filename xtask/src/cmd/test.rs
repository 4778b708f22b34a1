//! `cargo xtask test`: find the tests, choose, run, report.

mod arguments;
mod merge;
mod output;
mod plan;

pub(crate) use output::Files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow};
use shard::{
    BuiltBinary, DOCTESTS, Engine, Inventory, Job, Options, Outcome, Part, Plan, Report, Selector, Targets,
    Test, Timings, Verdict, WHOLE,
};
use workspace::{Settings, TestSettings};

use self::arguments::{Arguments, Ignored};
use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, TestProgress, print};

pub(crate) fn run(flags: &flags::Test) -> Result<()> {
    match &flags.command {
        Some(flags::TestCommand::Plan(flags)) => plan::run(flags),
        Some(flags::TestCommand::Merge(flags)) => merge::run(flags),
        None => run_tests(&flags.run),
    }
}

fn run_tests(flags: &flags::TestRun) -> Result<()> {
    let started = Instant::now();
    let site = Site::open(flags.timings.as_deref())?;
    let arguments = Arguments::parse(flags)?;
    if flags.dry_run {
        return dry_run(&site, flags, &arguments);
    }
    refuse_impossible(&site, flags, &arguments)?;
    let interrupt = super::interruption()?;
    if !arguments.is_list_wanted {
        output::remove_earlier(&site.folder, flags).or_exit(Code::Configuration)?;
    }
    let part = plan::for_shard(&site, flags)?;
    let selectors = part.as_ref().and_then(|(plan, index)| plan::selectors(plan, *index));
    let built = match Built::new(&site, selectors, part, flags.shard) {
        // Ctrl-C reaches cargo as well, and ends it.
        Err(_) if interrupt.load(Ordering::Relaxed) => {
            return Err(anyhow!("interrupted while building")).or_exit(Code::Interrupted);
        }
        built => built?,
    };
    if arguments.is_list_wanted {
        return print(&built.chosen(&arguments).map(|(test, _)| format!("{test}\n")).collect::<String>());
    }
    let tests = Tests { site: &site, built: &built, arguments: &arguments, interrupt: &interrupt };
    let mut report = tests.run(engine(flags, &site, &arguments, &built.inventory))?;
    report.elapsed_ms = started.elapsed().as_millis() as u64;
    if let (None, false) = (&report.shard, interrupt.load(Ordering::Relaxed)) {
        // What tests took makes later plans better; it is not worth losing the results.
        if let Err(error) = site.remember(&report, built.is_complete.then_some(&built.inventory)) {
            eprintln!("warning: what the tests took is not remembered: {error:#}");
        }
    }
    let files = output::write(&site.folder, &report, flags)?;
    finish(&report, &files, flags, &interrupt)
}

/// Shows the outcome and turns it into the exit code.
fn finish(
    report: &Report,
    files: &output::Files,
    flags: &flags::TestRun,
    interrupt: &AtomicBool,
) -> Result<()> {
    render::test_report(report, files, flags.json)?;
    if interrupt.load(Ordering::Relaxed) {
        return Err(anyhow!("interrupted")).or_exit(Code::Interrupted);
    }
    if report.failed > 0 {
        return Err(anyhow!("tests failed: {} of {}", report.failed, report.failed + report.passed))
            .or_exit(Code::TestsFailed);
    }
    // An empty shard is nothing wrong: whether it had to be empty is for `test merge` to say.
    if report.shard.is_none() { refuse_nothing(report) } else { Ok(()) }
}

/// A name with a slip of the pen must not look like success.
fn refuse_nothing(report: &Report) -> Result<()> {
    if report.passed + report.failed + report.skipped > 0 {
        return Ok(());
    }
    if report.selection == shard::ALL {
        return Err(anyhow!("this workspace has no tests")).or_exit(Code::NothingSelected);
    }
    let next = "`cargo xtask test -- --list` names all tests";
    Err(anyhow!("no test has a name as asked for; {next}")).or_exit(Code::NothingSelected)
}

/// Says before anything is built what could not be done after it.
fn refuse_impossible(site: &Site, flags: &flags::TestRun, arguments: &Arguments) -> Result<()> {
    if flags.json && arguments.is_output_shown {
        return Err(anyhow!("--json and --nocapture both write to standard output; take --show-output"))
            .or_exit(Code::Usage);
    }
    if flags.engine == flags::Engine::Nextest && !shard::nextest::is_installed(&site.targets.root) {
        return Err(anyhow!("cargo-nextest is not installed; `--engine builtin` needs nothing"))
            .or_exit(Code::Configuration);
    }
    Ok(())
}

/// Says what would be called, and in a shard what it would build.
fn dry_run(site: &Site, flags: &flags::TestRun, arguments: &Arguments) -> Result<()> {
    let part = plan::for_shard(site, flags)?;
    let selectors = part.as_ref().and_then(|(plan, index)| plan::selectors(plan, *index));
    let mut text = format!("{}\n", site.targets.build_command(selectors.as_ref()));
    if let Some(cmd) = site.targets.examples_command(selectors.as_ref()) {
        text = format!("{cmd}\n{text}");
    }
    text += match engine(flags, site, arguments, &Inventory::default()) {
        Engine::Builtin => "each test in a process of its own\n",
        Engine::Nextest => "cargo nextest run\n",
    };
    let doctests = Test::doctests();
    let is_ours =
        part.is_none_or(|(plan, index)| plan.shard_of(&doctests.binary, &doctests.name) == Some(index));
    if site.targets.has_doctests() && is_ours {
        let cmd = shard::doctests_command(&site.targets, &arguments.filters, &arguments.all);
        text += &format!("{cmd}\n");
    }
    print(&text)
}

/// cargo-nextest where it is installed, and takes what the user asks for and the workspace has.
fn engine(flags: &flags::TestRun, site: &Site, arguments: &Arguments, inventory: &Inventory) -> Engine {
    let is_divided = |(test, _): (Test, bool)| test.name != WHOLE || test.binary == DOCTESTS;
    let is_possible = || arguments.suits_nextest() && inventory.tests().all(is_divided);
    match flags.engine {
        flags::Engine::Builtin => Engine::Builtin,
        flags::Engine::Nextest => Engine::Nextest,
        flags::Engine::Auto if shard::nextest::is_installed(&site.targets.root) && is_possible() => {
            Engine::Nextest
        }
        flags::Engine::Auto => Engine::Builtin,
    }
}

/// The workspace, and what is known of its tests.
pub(crate) struct Site {
    targets: Targets,
    settings: TestSettings,
    timings_file: PathBuf,
    timings: Timings,
    /// Where reports are written.
    folder: PathBuf,
    /// Class of this machine.
    runner: String,
    now: u64,
}

impl Site {
    fn open(timings: Option<&Path>) -> Result<Site> {
        let root = super::workspace_root().or_exit(Code::Configuration)?;
        let settings = Settings::load(&root).or_exit(Code::Configuration)?.test;
        let targets = Targets::load(&root).or_exit(Code::Configuration)?;
        let images = ::build::layout(&root).or_exit(Code::Configuration)?;
        let folder = images.parent().context("a layout without a folder")?.join("test");
        let timings_file = timings.map_or_else(|| Ok(folder.join("timings.jsonl")), std::path::absolute)?;
        let timings = Timings::load(&timings_file).or_exit(Code::Configuration)?;
        if timings.damaged_lines > 0 {
            let (lines, file) = (timings.damaged_lines, timings_file.display());
            eprintln!("warning: {lines} lines of {file} cannot be read and are left out");
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Site { targets, settings, timings_file, timings, folder, runner: runner_class(), now })
    }

    /// Builds the tests. A folder that cannot be written to is no fault of the sources.
    fn build(&self, selectors: Option<&BTreeSet<Selector>>) -> Result<Vec<BuiltBinary>> {
        stdx::fs::create_dir_all(&self.folder).or_exit(Code::Configuration)?;
        shard::build(&self.targets, selectors).or_exit(Code::BuildFailed)
    }

    /// Adds to the timings; `complete` is the inventory where everything was built.
    fn remember(&self, report: &Report, complete: Option<&Inventory>) -> Result<()> {
        let mut timings = self.timings.clone();
        report.record(&mut timings, self.now);
        if let Some(inventory) = complete {
            report.forget_others(&mut timings, inventory);
        }
        timings.save(&self.timings_file)
    }
}

/// Durations of one class of machines say little of another.
fn runner_class() -> String {
    let machine = || format!("{}-{}-{}", std::env::consts::OS, std::env::consts::ARCH, processors());
    std::env::var("SLIPWAY_RUNNER_CLASS").unwrap_or_else(|_| machine())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Test binaries that were built and listed, and which of their tests are this run's.
struct Built {
    binaries: Vec<BuiltBinary>,
    /// The tests of these binaries.
    inventory: Inventory,
    selectors: Option<BTreeSet<Selector>>,
    part: Option<(Plan, u32)>,
    /// Whether these are all binaries of the workspace.
    is_complete: bool,
}

impl Built {
    /// Builds and lists; plans, where a shard is asked for and could not be planned before.
    fn new(
        site: &Site,
        selectors: Option<BTreeSet<Selector>>,
        part: Option<(Plan, u32)>,
        shard: Option<flags::Shard>,
    ) -> Result<Built> {
        let is_complete = selectors.is_none();
        let binaries = site.build(selectors.as_ref())?;
        let inventory = inventory(site, &binaries)?;
        let part = match (part, shard) {
            (None, Some(shard)) => {
                let plan = plan::exact(site, &inventory, shard.of)?;
                render::test_plan_summary(&plan);
                Some((plan, shard.index))
            }
            (part, _) => part,
        };
        Ok(Built { binaries, inventory, selectors, part, is_complete })
    }

    /// The tests that the user chose and this shard runs, and whether each is ignored.
    fn chosen<'a>(&'a self, arguments: &'a Arguments) -> impl Iterator<Item = (Test, bool)> + 'a {
        self.inventory
            .tests()
            .filter(|(test, is_ignored)| self.is_ours(test) && arguments.chooses(test, *is_ignored))
    }

    fn is_ours(&self, test: &Test) -> bool {
        let Some((plan, index)) = &self.part else { return true };
        plan.shard_of(&test.binary, &test.name) == Some(*index)
    }

    /// All chosen tests of the binaries that this shard has a part of, by binary.
    fn listed(&self, arguments: &Arguments) -> BTreeMap<String, BTreeSet<String>> {
        let has_part = |id: &str| {
            let Some((plan, index)) = &self.part else { return true };
            plan.binaries.get(id).is_some_and(|assignment| assignment.shards.contains(index))
        };
        let mut listed: BTreeMap<String, BTreeSet<String>> = self
            .inventory
            .binaries
            .keys()
            .filter(|id| has_part(id))
            .map(|id| (id.clone(), BTreeSet::new()))
            .collect();
        for (test, is_ignored) in self.inventory.tests() {
            if let (true, Some(names)) = (arguments.chooses(&test, is_ignored), listed.get_mut(&test.binary))
            {
                names.insert(test.name);
            }
        }
        listed
    }
}

/// The tests of the binaries that were built, and the documentation tests.
fn inventory(site: &Site, binaries: &[BuiltBinary]) -> Result<Inventory> {
    let lists = shard::list(binaries, processors()).or_exit(Code::TestsFailed)?;
    let mut inventory = site.targets.inventory.clone();
    let is_built =
        |id: &String, binary: &shard::Binary| lists.contains_key(id) || !binary.selector.is_built();
    inventory.binaries.retain(|id, binary| is_built(id, binary));
    for (id, tests) in lists {
        let binary = inventory
            .binaries
            .get_mut(&id)
            .with_context(|| format!("cargo built {id}, which its metadata does not have"))?;
        (binary.tests, binary.is_listed) = (tests, true);
    }
    Ok(inventory)
}

/// Tests that are ready to run.
struct Tests<'a> {
    site: &'a Site,
    built: &'a Built,
    arguments: &'a Arguments,
    interrupt: &'a AtomicBool,
}

impl Tests<'_> {
    fn run(&self, engine: Engine) -> Result<Report> {
        let (jobs, mut outcomes) = self.jobs();
        let progress = TestProgress::new(jobs.len());
        let options = self.options();
        outcomes.extend(match engine {
            Engine::Builtin => shard::run(jobs, &options, &|event| progress.event(&event)),
            Engine::Nextest if jobs.is_empty() => Vec::new(),
            Engine::Nextest => {
                let selectors = self.built.selectors.as_ref();
                shard::nextest::run(&self.site.targets, selectors, &jobs, &options)
                    .or_exit(Code::TestsFailed)?
            }
        });
        progress.finish();
        let doctests = self.doctests();
        let each = doctests.map_or_else(Vec::new, |doctests| {
            outcomes.push(doctests.whole);
            doctests.each
        });
        Ok(self.report(engine, outcomes, each))
    }

    /// What is to run, and the outcomes of what is not: ignored tests.
    fn jobs(&self) -> (Vec<Job>, Vec<Outcome>) {
        let expected = shard::expected(&self.built.inventory, &self.site.timings, &self.site.runner);
        let binaries: BTreeMap<&str, &BuiltBinary> =
            self.built.binaries.iter().map(|binary| (binary.id.as_str(), binary)).collect();
        let (mut jobs, mut skipped) = (Vec::new(), Vec::new());
        for (test, is_ignored) in self.built.chosen(self.arguments) {
            if is_ignored && self.arguments.ignored == Ignored::Skip {
                skipped.push(Outcome::new(&test, Verdict::Skipped, 0.0, ""));
            } else if let Some(binary) = binaries.get(test.binary.as_str()) {
                let groups = &self.site.settings.groups;
                let group = groups.iter().find(|group| group.holds(&test.binary, &test.name));
                jobs.push(Job {
                    command: self.arguments.command(binary, &test),
                    expected: expected.get(&test).copied().unwrap_or(0.0),
                    group: group.map(|group| group.name.clone()),
                    must_report: binary.has_harness && !self.arguments.changes_format(),
                    test,
                });
            }
        }
        (jobs, skipped)
    }

    fn options(&self) -> Options<'_> {
        let settings = &self.site.settings;
        Options {
            slots: self.arguments.threads.unwrap_or_else(processors),
            groups: settings.groups.iter().map(|group| (group.name.clone(), group.max_threads)).collect(),
            slow_after: Duration::from_secs(settings.slow_after_s),
            timeout: settings.timeout_s.map(Duration::from_secs),
            is_output_shown: self.arguments.is_output_shown,
            interrupt: self.interrupt,
        }
    }

    /// Runs the documentation tests where they are this run's.
    fn doctests(&self) -> Option<shard::Doctests> {
        let is_ours = self.site.targets.has_doctests() && self.built.is_ours(&Test::doctests());
        let Arguments { filters, all, is_output_shown, .. } = self.arguments;
        let slow_after = Duration::from_secs(self.site.settings.slow_after_s);
        is_ours.then(|| {
            let cmd = shard::doctests_command(&self.site.targets, filters, all);
            shard::run_doctests(cmd, *is_output_shown, slow_after, self.interrupt)
        })
    }

    fn report(&self, engine: Engine, mut tests: Vec<Outcome>, doctests: Vec<Outcome>) -> Report {
        for outcome in tests.iter_mut().filter(|outcome| outcome.verdict == Verdict::Passed) {
            if !self.arguments.is_all_output_wanted {
                outcome.output.clear();
            }
        }
        tests.sort_by(|a, b| a.test.cmp(&b.test));
        let builds =
            self.built.binaries.iter().filter_map(|b| Some((b.id.clone(), b.build_seconds?))).collect();
        let mut report = Report {
            schema: Report::SCHEMA.to_owned(),
            runner: self.site.runner.clone(),
            engine,
            selection: self.arguments.selection(),
            shard: self.built.part.as_ref().map(|(plan, index)| part(plan, *index)),
            elapsed_ms: 0,
            passed: 0,
            failed: 0,
            skipped: 0,
            listed: self.built.listed(self.arguments),
            tests,
            doctests,
            builds,
        };
        report.count();
        report
    }
}

fn part(plan: &Plan, index: u32) -> Part {
    let binaries = plan.binaries.iter().map(|(id, assignment)| (id.clone(), assignment.shards.clone()));
    Part { index, of: plan.shards.len() as u32, plan: plan.digest, binaries: binaries.collect() }
}
