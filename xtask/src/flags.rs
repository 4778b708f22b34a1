//! Every flag of every subcommand, and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use finding::{Check, Severity};

const EXIT_CODES: &str = "\
Exit codes:
   0 done                      11 tests failed      20 deployment rolled back
   1 other error               12 nothing selected  21 deployment needs a human
   2 usage                     13 policy violated   22 environment locked
   3 configuration or machine  14 not reproducible 130 interrupted
  10 build failed              15 a check would change files";

/// From a Cargo workspace to running services.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXIT_CODES)]
pub(crate) struct Slipway {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(Init),
    Build(Build),
    Base(Base),
    Cache(Cache),
    Push(Push),
    Pull(Pull),
    Test(Box<Test>),
    Scan(Scan),
    Deps(Deps),
    Release(Release),
    Verify(Verify),
    Key(Key),
    Ci(Ci),
    Deploy(Deploy),
    Status(Status),
    Logs(Logs),
    Rollback(Rollback),
    Down(Down),
    Github(Github),
    /// Run one process of a slot; started by a deployment.
    #[command(hide = true)]
    Supervise {
        spec: PathBuf,
    },
    /// Run the edge of an environment; started by a deployment.
    #[command(hide = true)]
    Edge {
        state: PathBuf,
        listen: SocketAddr,
    },
}

/// Look at a workspace that has never heard of this tool, and write a commented `slipway.yaml`.
///
/// It names the binaries that become images and says why, and those that were left out. Nothing else is written, and no file is
/// ever replaced without --force.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask init                      write slipway.yaml
  cargo xtask init --dry-run            print what would be written
  cargo xtask build                     then: images of all services")]
pub(crate) struct Init {
    /// Print the file and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Replace a slipway.yaml that is there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Build reproducible OCI images of services, without a container engine.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask build                     all services
  cargo xtask build api                 one service: the same bits as when all are built
  cargo xtask build --dry-run           what would be done
  cargo xtask build --load              load the images into the Docker engine as well
  cargo xtask build --platform linux/amd64,linux/arm64
                                        one index a service, with an image for each processor
  cargo xtask build --explain           what was done before, what was not, and why
  cargo xtask build --cache off         from the sources alone
  cargo xtask build --verify            build twice, in different settings, and compare
  skopeo inspect oci:target/slipway/images:api")]
pub(crate) struct Build {
    /// Services to build; all where none is named.
    pub(crate) services: Vec<String>,
    /// Print the plan and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not sign, even where a key is configured.
    #[arg(long)]
    pub(crate) unsigned: bool,
    /// Load the images into the Docker engine that DOCKER_HOST names, or the local one.
    #[arg(long)]
    pub(crate) load: bool,
    /// Build again in another setting (folder, user, host name, umask, time zone, locale, processors, clock), compare, and say why
    /// images differ.
    #[arg(long, conflicts_with_all = ["dry_run", "load"])]
    pub(crate) verify: bool,
    /// Keep what the second build left.
    #[arg(long, requires = "verify")]
    pub(crate) keep: bool,
    /// Platforms to build for, and with several of them an index under each service's name [default: build.platforms of slipway.yaml, or
    /// the configured target]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(crate) platform: Vec<workspace::Platform>,
    /// Say of each action whether its result was there already, and which input changed where it was not.
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) cache: CacheMode,
}

/// Roots of Debian packages: lock them, show them, build images of other people's programs from them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask base lock                 lock what services and images ask for and is not locked yet
  cargo xtask base lock --update        take the latest of everything
  cargo xtask base show libssl3         which roots have it, and why
  cargo xtask base build postgres --load")]
pub(crate) struct Base {
    #[command(subcommand)]
    pub(crate) command: BaseCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaseCommand {
    /// Choose packages and write slipway.debian.lock.
    Lock(BaseLock),
    /// Show the packages that are locked, and why each is there.
    Show(BaseShow),
    /// Build the images of `images:` in slipway.yaml, without a container engine.
    Build(BaseBuild),
}

#[derive(Debug, Args)]
pub(crate) struct BaseLock {
    /// Take the latest version of every package, instead of keeping those that are locked.
    #[arg(long)]
    pub(crate) update: bool,
    /// Say what would change and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BaseShow {
    /// Show this package alone.
    pub(crate) package: Option<String>,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BaseBuild {
    /// Images to build; all where none is named.
    pub(crate) images: Vec<String>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Load the images into the Docker engine that DOCKER_HOST names, or the local one.
    #[arg(long)]
    pub(crate) load: bool,
}

/// Results of earlier builds: what is kept, and moving it between this machine and others.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask cache stats               what this machine's store holds
  cargo xtask cache gc                  bring it within its limit
  cargo xtask cache pull                fetch what a build of the workspace as it is would use
  cargo xtask cache push --dry-run      what the store that others share lacks")]
pub(crate) struct Cache {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show what this machine's store holds.
    Stats(CacheStats),
    /// Remove what was not used for longest, until the store is within its limit; never the newest.
    Gc(CacheGc),
    /// Give the shared store what it lacks of the results of the workspace as it is.
    Push(CacheMove),
    /// Take results of the workspace as it is from the shared store.
    Pull(CacheMove),
}

#[derive(Debug, Args)]
pub(crate) struct CacheStats {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheGc {
    /// The limit, in bytes [default: cache.local.limit_gib of slipway.yaml]
    #[arg(long, value_name = "BYTES")]
    pub(crate) limit: Option<u64>,
    /// Say what would be removed and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheMove {
    /// Services whose results are meant; all where none is named.
    pub(crate) services: Vec<String>,
    /// Say what would be moved and move nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How results that were made before are used.
#[derive(Debug, Args)]
pub(crate) struct CacheMode {
    /// How results that were made before are used: `off`, `read`, `local` (write to this machine's store only), `read-write`
    /// [default: $SLIPWAY_CACHE, or local]
    #[arg(long = "cache", value_name = "MODE")]
    pub(crate) mode: Option<cache::Mode>,
}

/// Build images and send them to a registry: only what it does not have yet.
///
/// Prints each image by its digest. Credentials are those of `docker login` and `podman login`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask push                                   all services, to image.prefix of slipway.yaml
  cargo xtask push api --to registry.example/team    one service, as registry.example/team/api
  cargo xtask push --tag latest --tag v1             under these tags instead of the version
  cargo xtask push --platform linux/amd64,linux/arm64
                                                     an index of both under each tag
  cargo xtask push --dry-run                         what would be sent, after asking the registry
  docker run $(cargo xtask push api)                 the very image that was sent")]
pub(crate) struct Push {
    /// Services to send; all where none is named.
    pub(crate) services: Vec<String>,
    /// Registry and what comes before a service's name [default: image.prefix of slipway.yaml]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) to: Option<String>,
    /// Tag to set in place of the version; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Platforms to build for; with several of them an index goes under each tag [default: build.platforms of slipway.yaml, or the
    /// configured target]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(crate) platform: Vec<workspace::Platform>,
    /// Build, ask the registry what it has, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Take an image from a registry into an OCI image layout, with all that is attached to it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask pull registry.example/team/api:1.2.3
  cargo xtask pull registry.example/team/api@sha256:... --layout images
  skopeo inspect oci:images:1.2.3")]
pub(crate) struct Pull {
    /// Name of the image, with a tag or a digest.
    pub(crate) reference: String,
    /// Folder of the layout [default: slipway/pulled in the target folder]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) layout: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run the tests of the whole workspace.
///
/// Each test runs in a process of its own, the longest first; documentation tests run with rustdoc. With cargo-nextest installed, it runs
/// them.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  cargo xtask test                      all tests
  cargo xtask test deploy               tests whose name contains `deploy`
  cargo xtask test --filter plan        where the name is that of a subcommand
  cargo xtask test -- --test-threads=1  arguments after -- are those of Rust's test harness
  cargo xtask test --shard 1/4          the first of four parts, balanced by what tests took before
  cargo xtask test plan --shards 4      what each part would run, and how long that would take
  cargo xtask test merge r1.json r2.json
                                        prove that the parts ran each test exactly once"
)]
pub(crate) struct Test {
    #[command(subcommand)]
    pub(crate) command: Option<TestCommand>,
    #[command(flatten)]
    pub(crate) run: TestRun,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TestCommand {
    Plan(TestPlan),
    Merge(TestMerge),
}

/// What runs tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// cargo-nextest where it is installed.
    #[default]
    Auto,
    /// This program.
    Builtin,
    /// cargo-nextest.
    Nextest,
}

/// One of several parts: `1/4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    /// Counted from 1.
    pub(crate) index: u32,
    pub(crate) of: u32,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Shard { index, of }),
            _ => Err("give the part and how many there are, such as 1/4".to_owned()),
        }
    }
}

#[derive(Debug, Default, Args)]
pub(crate) struct TestRun {
    /// Parts of names of tests; all tests where none is given.
    pub(crate) filters: Vec<String>,
    /// The same, for what would be a subcommand.
    #[arg(long, short = 'E', value_name = "NAME")]
    pub(crate) filter: Vec<String>,
    /// Run one of several parts, and build only what it needs.
    #[arg(long, value_name = "K/N")]
    pub(crate) shard: Option<Shard>,
    /// The plan that says which part runs what, from `test plan --out` [default: made from the timings]
    #[arg(long, value_name = "FILE", requires = "shard")]
    pub(crate) plan: Option<PathBuf>,
    /// What tests took before; a run of all parts adds to it [default: slipway/test/timings.jsonl in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) timings: Option<PathBuf>,
    /// Where to write the report [default: slipway/test in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Where to write the results as JUnit XML [default: beside the report]
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// What runs the tests.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: Engine,
    /// Print the commands and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Arguments of Rust's test harness, such as --nocapture, --ignored, --skip, --exact, --test-threads, --list.
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
}

/// Show which part runs what, and how long that is expected to take beside what no plan could beat.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask test plan --shards 4              a table
  cargo xtask test plan --shards 4 --matrix     the matrix of a GitHub workflow, with the number of tests
  cargo xtask test plan --shards 4 --out p.json
  cargo xtask test --shard 1/4 --plan p.json    all parts by that very plan")]
pub(crate) struct TestPlan {
    /// How many parts.
    #[arg(long, value_name = "N")]
    pub(crate) shards: u32,
    /// Build all tests and ask them for their names, instead of planning with those of the last time.
    #[arg(long)]
    pub(crate) exact: bool,
    /// What tests took before [default: slipway/test/timings.jsonl in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) timings: Option<PathBuf>,
    /// Write the plan to a file as well, for `test --plan`.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print the matrix of a GitHub workflow instead of a table.
    #[arg(long, conflicts_with = "json")]
    pub(crate) matrix: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prove from the reports of all parts that each test ran exactly once, and put the results together.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask test merge target/slipway/test/report-*-of-4.json
  cargo xtask test merge --plan p.json --junit all.xml report-*.json")]
pub(crate) struct TestMerge {
    /// Reports that parts have written.
    #[arg(required = true)]
    pub(crate) reports: Vec<PathBuf>,
    /// The plan that the parts ran by: compared as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Where to add what the tests took [default: slipway/test/timings.jsonl in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) timings: Option<PathBuf>,
    /// Where to write the report of all parts [default: slipway/test/merged.json in the target folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Where to write the results as JUnit XML [default: beside the report]
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what each service is made of: which packages are linked into it, built it or only test it, and their bytes.
///
/// Packages come from Cargo's own plan of the build, so nothing is compiled. Bytes come from the binaries of the last
/// `cargo xtask build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask deps                      all services, by size
  cargo xtask deps api --svg api.svg    a picture of one
  cargo xtask deps --why openssl-sys    who asks for it
  cargo xtask deps --diff main          what came, went and changed since
  cargo xtask deps --record             write the sizes down in deps.lock, as what growth is measured from
  cargo xtask deps --check              exit 13 when a budget of slipway.yaml is exceeded")]
pub(crate) struct Deps {
    /// Services; all where none is named.
    pub(crate) services: Vec<String>,
    /// Show the shortest chains that lead to a package: `name` or `name@version`.
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) why: Option<String>,
    /// Compare with another git revision.
    #[arg(long, value_name = "REV", conflicts_with_all = ["why", "check", "record"])]
    pub(crate) diff: Option<String>,
    /// Fail when a budget of `deps:` in slipway.yaml is exceeded.
    #[arg(long, conflicts_with_all = ["why", "record"])]
    pub(crate) check: bool,
    /// Write packages and sizes to deps.lock.
    #[arg(long, conflicts_with = "why")]
    pub(crate) record: bool,
    /// Write a treemap of the binary as SVG; needs one service, or gives each its own file beside this name.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Show packages that built it, test it or are absent as well, not only those that are linked.
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not let Cargo download anything.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// GitHub Actions: generate the workflows, check them, run their jobs here.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask ci generate               write .github from the definitions and `ci:` in slipway.yaml
  cargo xtask ci check                  exit 15 when a generated file is not as it would be written
  cargo xtask ci check --fix            take over pins of actions that a bot edited in the workflows
  cargo xtask ci run                    run all jobs here, in order, to the gate
  cargo xtask ci run lint               run one job, after those that it needs
  cargo xtask ci list                   what there is")]
pub(crate) struct Ci {
    #[command(subcommand)]
    pub(crate) command: CiCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CiCommand {
    /// Write the workflows, the composite action and, where there is none, the lock file of actions.
    Generate(CiGenerate),
    /// Compare the files with what would be written.
    Check(CiCheck),
    /// Show the jobs.
    List(CiList),
    /// Run a job here, after those that it needs; all jobs where none is named.
    Run(CiRun),
    /// Say what the other jobs must do; the job `plan` calls it.
    Plan(CiPlan),
    /// Check formatting and lints of the whole workspace; the job `lint` calls it.
    Lint,
    /// Compare how all jobs ended with what was planned; the job `gate` calls it.
    Gate(CiGate),
    /// Remove what is compiled from the workspace's own packages; called before dependencies are kept in a cache.
    Prune(CiPrune),
    /// Name the images that are to be signed; the job `images` calls it.
    Subjects(CiSubjects),
}

#[derive(Debug, Args)]
pub(crate) struct CiGenerate {
    /// Replace files that somebody else wrote.
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what would be written and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiCheck {
    /// Take over pins that were edited in the workflows into ci/actions.lock; whatever else differs stays a failure.
    #[arg(long)]
    pub(crate) fix: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiList {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask ci run                    all jobs of ci.yml
  cargo xtask ci run test               the shards, after the plan
  cargo xtask ci run build/images       a job of build.yml
  cargo xtask ci run deploy/staging --input environment=staging --input release=v1.2.3")]
pub(crate) struct CiRun {
    /// The job, or `workflow/job`; all jobs of ci.yml where none is named.
    pub(crate) job: Option<String>,
    /// An input of the workflow.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) input: Vec<String>,
    /// The program that stands for `cargo xtask` [default: this one]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) tool: Option<PathBuf>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiPlan {
    /// What `cargo xtask test plan --matrix` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) matrix: PathBuf,
    /// Put this program into the folder, for other jobs.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) tool: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CiGate {
    /// What `cargo xtask test merge` wrote; it may be missing where no tests were planned.
    #[arg(long, value_name = "FILE")]
    pub(crate) tests: PathBuf,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiPrune {
    /// Print the command and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiSubjects {
    /// What `cargo xtask build --json` printed.
    pub(crate) build: PathBuf,
}

/// Look for what must not be shipped: known vulnerabilities, secrets, licences outside the policy, unsafe images, configuration
/// and workflows.
///
/// Advisories are told apart by what is really linked into each service, what only builds it, and what is merely in the lock
/// file. Findings of the severity that the policy names end with exit code 13.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask scan                      every check
  cargo xtask scan advisories licences  some
  cargo xtask scan --offline            with what was fetched before
  cargo xtask scan --fail-on critical   another threshold for all checks
  cargo xtask scan secrets --history    secrets in every commit as well
  cargo xtask scan --release target/slipway/release.json    a release, with its images
  cargo xtask scan --sarif scan.sarif   for code scanning
  cargo xtask scan --notices NOTICES    the licence texts of everything that is linked")]
pub(crate) struct Scan {
    /// Checks to run; all where none is named.
    #[arg(value_name = "CHECK", value_parser = check)]
    pub(crate) checks: Vec<Check>,
    /// Ask nothing over the network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Look for secrets in every commit as well.
    #[arg(long)]
    pub(crate) history: bool,
    /// Findings of this severity and above fail, whatever the policy says.
    #[arg(long, value_name = "SEVERITY", value_parser = severity, conflicts_with = "environment")]
    pub(crate) fail_on: Option<Severity>,
    /// Judge by the policy of this environment.
    #[arg(long, short, value_name = "NAME")]
    pub(crate) environment: Option<String>,
    /// Scan this release: its images, and its SBOMs against the advisories. Deployments of it go by the result.
    #[arg(long, value_name = "FILE")]
    pub(crate) release: Option<PathBuf>,
    /// Where the result of scanning a release is written [default: scans/<release>.json in target/slipway]
    #[arg(long, value_name = "FILE", requires = "release")]
    pub(crate) record: Option<PathBuf>,
    /// Write the findings as SARIF 2.1.0 as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) sarif: Option<PathBuf>,
    /// Write the licence texts of everything that is linked.
    #[arg(long, value_name = "FILE")]
    pub(crate) notices: Option<PathBuf>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

fn check(name: &str) -> Result<Check, String> {
    let known = || Check::ALL.map(Check::name).join(", ");
    Check::parse(name).ok_or_else(|| format!("there are: {}", known()))
}

fn severity(name: &str) -> Result<Severity, String> {
    let known = || Severity::ALL.map(Severity::name).join(", ");
    Severity::ALL.into_iter().find(|one| one.name() == name).ok_or_else(|| format!("there are: {}", known()))
}

/// The release manifest: images and configuration of all services as one file that is scanned, kept and deployed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask release create                       build, and write target/slipway/release.json
  cargo xtask release create --output v1.json      to another file
  cargo xtask release show v1.json                 what it holds
  cargo xtask scan --release v1.json               scan it
  cargo xtask deploy staging --release v1.json     deploy it; later the same file to production")]
pub(crate) struct Release {
    #[command(subcommand)]
    pub(crate) command: ReleaseCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    Create(ReleaseCreate),
    Show(ReleaseShow),
}

/// Build the images of all services and write the release manifest.
#[derive(Debug, Args)]
pub(crate) struct ReleaseCreate {
    /// Where to write it [default: release.json in the build's output folder, target/slipway]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what a release manifest holds.
#[derive(Debug, Args)]
pub(crate) struct ReleaseShow {
    /// The manifest [default: the one that was created last]
    pub(crate) file: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check that an image is what somebody with the key built: signature, provenance and SBOMs, each held against the image's digest.
///
/// With --rebuild the commit that the provenance names is built again in a folder of its own, and must give the same digest.
/// What does not hold ends with exit code 13, another digest with 14.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify api                          the image that was built here
  cargo xtask verify api --key release.pub        by this key instead of `signing.public_key` in slipway.yaml
  cargo xtask verify api --release v1.json        and it must be the one that the release names
  cargo xtask verify registry.example.com/team/api:1.2.3 --service api
  cargo xtask verify dist/images:api              an OCI image layout, and a name in it
  cargo xtask verify api --rebuild                build it again and compare")]
pub(crate) struct Verify {
    /// A service, a folder with an OCI image layout (`FOLDER` or `FOLDER:NAME`), or an image in a registry.
    pub(crate) image: String,
    /// The public key [default: `signing.public_key` in slipway.yaml]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The service that it must be [default: IMAGE where that is a service's name, or any]
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// The builder that provenance must name [default: `signing.builder` in slipway.yaml, or any]
    #[arg(long, value_name = "URI")]
    pub(crate) builder: Option<String>,
    /// The commit that it must come from, without further changes.
    #[arg(long, value_name = "COMMIT")]
    pub(crate) revision: Option<String>,
    /// The release that must name this image, its provenance and its SBOMs.
    #[arg(long, value_name = "FILE")]
    pub(crate) release: Option<PathBuf>,
    /// Build the commit again elsewhere and compare the digest.
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Keys that sign images.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask key generate                        slipway.key and slipway.pub in this folder
  cargo xtask key generate --output ~/keys")]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    Generate(KeyGenerate),
}

/// Make a key pair: ECDSA on the curve P-256, the private key as PKCS#8 that only its owner can read.
#[derive(Debug, Args)]
pub(crate) struct KeyGenerate {
    /// Where to put slipway.key and slipway.pub [default: this folder]
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which environment, and where it keeps its state.
#[derive(Debug, Args)]
pub(crate) struct Environment {
    /// Name of the environment: `deploy/environments/<name>.yaml`; `local` exists without a file.
    #[arg(default_value = "local")]
    pub(crate) environment: String,
    /// Folder for journal, slots, data and logs [default: .slipway/<environment> in the workspace]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
}

/// Build, start beside what serves, check, switch traffic, drain and stop what served before.
///
/// Nothing is switched before the new release is healthy. If it does not become healthy, what served before serves on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask deploy                    to this machine: the environment `local`
  cargo xtask deploy local --dry-run    what would be started, switched and stopped
  cargo xtask deploy local --json       the outcome as one JSON document
  cargo xtask deploy staging --release v1.json    a release that was built and scanned before")]
pub(crate) struct Deploy {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Deploy this release manifest instead of building one; its images lie in the image layout of this workspace.
    #[arg(long, value_name = "FILE")]
    pub(crate) release: Option<PathBuf>,
    /// The record of the release's scan [default: the one that `scan --release` wrote for it here]
    #[arg(long, value_name = "FILE")]
    pub(crate) scan: Option<PathBuf>,
    /// Print the plan and change nothing in the environment.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// First move a damaged journal aside and begin a new one from what is running.
    #[arg(long)]
    pub(crate) repair: bool,
}

/// Show what is really running: asked from the edge, the processes and their health checks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask status                    the environment `local`
  cargo xtask status local --json       the same as one JSON document")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what services wrote.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask logs                      the last lines of every service
  cargo xtask logs api --follow         go on with what it writes
  cargo xtask logs api -n 500           more lines")]
pub(crate) struct Logs {
    /// One service; all where none is named.
    pub(crate) service: Option<String>,
    /// Name of the environment.
    #[arg(long, short, default_value = "local")]
    pub(crate) environment: String,
    /// Folder of the environment [default: .slipway/<environment> in the workspace]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
    /// How many of the last lines of each process.
    #[arg(long, short = 'n', default_value_t = 50)]
    pub(crate) lines: usize,
    /// Go on with what is added, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print one JSON document a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Go back to the release and configuration that served before.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask rollback                  the environment `local`
  cargo xtask rollback local --json     the outcome as one JSON document")]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// First move a damaged journal aside and begin a new one from what is running: then nothing earlier is known.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Stop all services of an environment and its edge. Data stays unless asked otherwise.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask down                      stop the environment `local`; its data stays
  cargo xtask down --delete-data        and delete its data")]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Delete the data of the services as well. It cannot be brought back.
    #[arg(long)]
    pub(crate) delete_data: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Tell GitHub: deployments, check runs, pull-request comments, releases.
///
/// Each of them looks first at what is there, so that the same call again changes nothing. The token comes from GH_TOKEN or
/// GITHUB_TOKEN, never from a flag; in GitHub Actions, everything else is known already.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github deployment start --environment production
  cargo xtask github deployment finish --environment production --state success --url https://example.org
  cargo xtask github check --name scan target/scan.sarif
  cargo xtask github comment --build head.json --base-build base.json
  cargo xtask github release v1.2.0 release.json api.cdx.json --notes notes.md
  cargo xtask github release download v1.2.0 --into target/slipway/release")]
pub(crate) struct Github {
    #[command(subcommand)]
    pub(crate) command: GithubCommand,
    #[command(flatten)]
    pub(crate) common: GithubCommon,
}

/// What all of `cargo xtask github` take.
#[derive(Debug, Args)]
pub(crate) struct GithubCommon {
    /// OWNER/NAME [default: GITHUB_REPOSITORY, or the git remote `origin`]
    #[arg(long, global = true)]
    pub(crate) repository: Option<String>,
    /// Do nothing, with a notice, where there is no token, repository or pull request, or where the token may not do it.
    #[arg(long, global = true)]
    pub(crate) optional: bool,
    /// Print the requests that would change something or fetch files, and send none of them.
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How long to wait in all for rate limits and an ailing server.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) max_wait: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GithubCommand {
    /// Deployments and their statuses.
    #[command(subcommand)]
    Deployment(GithubDeployment),
    Check(GithubCheck),
    Comment(GithubComment),
    Release(GithubRelease),
}

#[derive(Debug, Subcommand)]
pub(crate) enum GithubDeployment {
    /// A deployment exists and is in progress.
    Start(GithubStart),
    /// The deployment has ended, well or not.
    Finish(GithubFinish),
}

/// Which deployment, and what is said about it.
#[derive(Debug, Args)]
pub(crate) struct GithubStatus {
    /// Name of the environment on GitHub.
    #[arg(long)]
    pub(crate) environment: String,
    /// What makes it the same deployment when asked again [default: the run of the workflow, or else the commit]
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// One sentence.
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Where the environment is reached.
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Where the log is [default: the run of the workflow]
    #[arg(long)]
    pub(crate) log_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GithubStart {
    #[command(flatten)]
    pub(crate) status: GithubStatus,
    /// Full commit id [default: GITHUB_SHA, or the commit that is checked out]
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// End users use this environment [default: GitHub decides by its name]
    #[arg(long)]
    pub(crate) production: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct GithubFinish {
    #[command(flatten)]
    pub(crate) status: GithubStatus,
    /// How it ended.
    #[arg(long)]
    pub(crate) state: GithubState,
    /// Leave earlier deployments to the environment active.
    #[arg(long)]
    pub(crate) keep_earlier: bool,
}

/// How a deployment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GithubState {
    /// The new release serves.
    Success,
    /// The new release does not serve.
    Failure,
    /// It is not known what serves.
    Error,
    /// What was deployed is gone.
    Inactive,
}

/// Show findings beside the commit and on its lines.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github check --name scan scan.json               findings of `cargo xtask scan --json`
  cargo xtask github check --name clippy clippy.sarif          SARIF of any tool
  cargo xtask github check --name scan scan.json --fail-on warning")]
pub(crate) struct GithubCheck {
    /// Files of findings: SARIF 2.1.0, slipway.scan/1 or slipway.annotations/1. None means that nothing was found.
    pub(crate) files: Vec<PathBuf>,
    /// Name shown beside the commit.
    #[arg(long)]
    pub(crate) name: String,
    /// Full commit id [default: the head of the pull request, GITHUB_SHA, or the commit that is checked out]
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// From which level on a finding fails the check.
    #[arg(long, default_value = "failure")]
    pub(crate) fail_on: GithubLevel,
    /// A Markdown file shown above the findings.
    #[arg(long, value_name = "FILE")]
    pub(crate) summary: Option<PathBuf>,
    /// Where details are shown [default: the run of the workflow]
    #[arg(long, value_name = "URL")]
    pub(crate) details_url: Option<String>,
}

/// Levels of findings on GitHub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GithubLevel {
    /// Severity note or low.
    Notice,
    /// Severity medium.
    Warning,
    /// Severity high or critical.
    Failure,
}

/// Write a comment on a pull request, or bring the one that is there up to date.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github comment --build head/build.json --base-build base/build.json \\
      --sbom head/sbom --base-sbom base/sbom --scan head/scan.json --base-scan base/scan.json
  cargo xtask github comment --name coverage --body coverage.md")]
pub(crate) struct GithubComment {
    /// Number of the pull request [default: that of the workflow's event]
    #[arg(long)]
    pub(crate) pull: Option<u64>,
    /// Tells several comments on one pull request apart.
    #[arg(long, default_value = "report")]
    pub(crate) name: String,
    /// Heading.
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// A Markdown file of your own, taken as it is: nothing in it is escaped.
    #[arg(long, value_name = "FILE")]
    pub(crate) body: Option<PathBuf>,
    /// Images: what `cargo xtask build --json` printed, or a release manifest.
    #[arg(long, value_name = "FILE")]
    pub(crate) build: Option<PathBuf>,
    /// The same from before the change.
    #[arg(long, value_name = "FILE", requires = "build")]
    pub(crate) base_build: Option<PathBuf>,
    /// Dependencies: a CycloneDX document, or a folder of them such as target/slipway/sbom.
    #[arg(long, value_name = "PATH", requires = "base_sbom")]
    pub(crate) sbom: Option<PathBuf>,
    /// The same from before the change.
    #[arg(long, value_name = "PATH", requires = "sbom")]
    pub(crate) base_sbom: Option<PathBuf>,
    /// Findings: what `cargo xtask scan --json` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) scan: Option<PathBuf>,
    /// The same from before the change.
    #[arg(long, value_name = "FILE", requires = "scan")]
    pub(crate) base_scan: Option<PathBuf>,
}

/// Create the release of a tag with its files, or complete it: a draft first, then the files, then it is published.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  cargo xtask github release v1.2.0 release.json target/slipway/sbom
  cargo xtask github release v1.2.0 --draft                    leave it for a person to publish
  cargo xtask github release download v1.2.0 --into target/slipway/release"
)]
pub(crate) struct GithubRelease {
    #[command(subcommand)]
    pub(crate) command: Option<GithubReleaseCommand>,
    /// Name of the tag.
    #[arg(required = true)]
    pub(crate) tag: Option<String>,
    /// Files to attach, under their own names; of a folder, the files in it.
    #[arg(value_name = "FILE")]
    pub(crate) assets: Vec<PathBuf>,
    /// Commit to make the tag from, where it does not exist yet.
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// Title [default: the tag]
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// A Markdown file with the notes.
    #[arg(long, value_name = "FILE")]
    pub(crate) notes: Option<PathBuf>,
    /// Do not publish it.
    #[arg(long)]
    pub(crate) draft: bool,
    /// Mark it as not ready for production.
    #[arg(long)]
    pub(crate) prerelease: bool,
    /// Replace files of a published release that differ from the ones given.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GithubReleaseCommand {
    Download(GithubReleaseDownload),
}

/// Fetch all files of a published release into a folder.
///
/// The folder appears with all of them or not at all. Sizes, and the digests that GitHub names, are checked; where the folder
/// holds these files already, nothing is fetched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github release download v1.2.0 --into target/slipway/release
  cargo xtask github release download v1.2.0 --into r --dry-run    which files there are")]
pub(crate) struct GithubReleaseDownload {
    /// Name of the tag.
    pub(crate) tag: String,
    /// Folder to make; it may be there if it is empty.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) into: PathBuf,
}
