//! Building again in another setting, comparing, and finding out why two builds differ. It knows nothing of how results look or
//! where the first image came from. Invariant: the second build shares nothing with the first one but the toolchain and the
//! archives of packages, and what of the setting could not be changed is part of the result.

mod compare;
mod cure;
mod made;
mod setting;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use elf::SectionDifference;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stdx::{Cmd, Digest, Tied};
use workspace::{CargoConfig, Platform, Settings};

pub use compare::ImageAt;
pub use cure::Kind;
pub use setting::Circumstance;

use crate::compile::interrupt_when_asked;
use crate::event::{Event, Reporter};
use crate::git::GitState;
use crate::report::{BuildError, BuiltService, Report};
use crate::session::{Loaded, Naming, Session, elapsed_ms};
use crate::stack::BuiltImage;
use compare::Place;
use made::{Culprit, Evidence, Made, Sides};
use setting::{Here, Means, Places, Setting};

/// Beyond what the first build left: a layout, registry sources, and room to breathe.
const SPARE: u64 = 512 << 20;

/// Which images are built again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Those of services.
    Services,
    /// Those of `images:`, made of packages.
    Packages,
}

/// A build to be done again.
pub struct Request<'a> {
    /// Which images.
    pub what: What,
    /// This very tool, which is started in the other setting.
    pub program: &'a Path,
    /// Folder of the workspace.
    pub root: &'a Path,
    /// The commit to build; the sources as they lie there where `None`.
    pub commit: Option<&'a str>,
    /// The time that was fixed for the commit's build with `SOURCE_DATE_EPOCH`, where one was.
    pub epoch: Option<&'a str>,
    /// The platform to build for; what the sources ask for where `None`.
    pub platform: Option<Platform>,
    /// Services or images to build; all where empty.
    pub services: &'a [String],
    /// The variable that holds the signing key: the second build signs nothing and has no use for it.
    pub secret: Option<&'a str>,
    /// Takes what happens.
    pub reporter: &'a dyn Reporter,
    /// Ends the build when it is raised.
    pub interrupted: &'a AtomicBool,
}

/// A build that was done again. What it left is removed when this value goes away.
#[derive(Debug)]
pub struct Rebuilt {
    /// What it gave.
    pub images: Vec<ImageAgain>,
    /// In which circumstances.
    pub circumstances: Vec<Circumstance>,
    layout: PathBuf,
    revision: Option<String>,
    setting: Setting,
    here: Here,
    places: Places,
    program: PathBuf,
    /// What comes after `build` on the command line.
    args: Vec<String>,
    folders: Folders,
}

/// An image that was built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageAgain {
    /// Name of the service or image.
    pub name: String,
    /// Digest of the manifest.
    pub image: Digest,
    /// Where the statement lies that says how.
    pub provenance_path: PathBuf,
}

/// What two builds made on their way.
struct Makings {
    first: Made,
    second: Made,
    /// Packages of each service, dependencies first.
    orders: BTreeMap<String, Vec<String>>,
    /// What each package is made with.
    helpers: BTreeMap<String, Vec<String>>,
}

/// Folders of the second build, removed at the end.
#[derive(Debug)]
struct Folders {
    sources: Option<tempfile::TempDir>,
    work: PathBuf,
    is_kept: bool,
}

/// What comparing two builds gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// Whether all images have the same digests.
    pub is_reproducible: bool,
    /// In which circumstances the builds were made.
    pub circumstances: Vec<Circumstance>,
    /// What both were made with: compiler, standard library, linker, C compiler and C library by version and digest.
    pub toolchain: BTreeMap<String, String>,
    /// By name of the service.
    pub services: Vec<VerifiedService>,
    /// Wall time of the second build and of comparing.
    pub elapsed_ms: u64,
}

/// A service's images from two builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifiedService {
    /// Name of the service.
    pub name: String,
    /// Digest of the first build's image.
    pub first: Digest,
    /// Digest of the second build's image.
    pub second: Digest,
    /// Where they differ, and why.
    pub difference: Option<Difference>,
}

/// Where two images differ, and why as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The first package, in the order of dependencies, whose result differs: `name@version`.
    pub package: Option<String>,
    /// What shows that it is this package.
    pub evidence: Option<String>,
    /// The file in the image, or the key of its configuration.
    pub place: String,
    /// The section of the file, and the offset in it.
    pub section: Option<String>,
    /// All sections that differ.
    pub sections: Vec<String>,
    /// What the first build has there: text, or bytes in hexadecimal.
    pub first: String,
    /// What the second build has there.
    pub second: String,
    /// What kind of thing differs.
    pub kind: Kind,
    /// What is known to help.
    pub cure: String,
}

/// Builds in another setting: other folders, user, host name, umask, time zone, locale, processors, clock, times of files. The
/// work folder is `verify` in the output folder of the workspace; the sources go to the system's folder for temporary files, so that
/// nothing above them is the workspace itself.
///
/// # Errors
/// A [`BuildError`] where there is no room or the build fails.
pub fn rebuild(request: &Request<'_>) -> Result<Rebuilt> {
    let (places, folders) = prepare(request).map_err(refused)?;
    let here = Here::observe(request.root, &workspace::target_dir(request.root)?)?;
    let mut setting = setting::another(&here, &Means::probe(), &places);
    if request.commit.is_some() {
        setting.fix_time(request.epoch);
    }
    if let Some(name) = request.secret {
        setting.hide(name);
    }
    let args = args(request, &places.root).map_err(refused)?;
    // Images are compared, and signatures never change them; the key may well not be in the copy.
    let command: &[&str] = match request.what {
        What::Services => &["build", "--json", "--unsigned"],
        What::Packages => &["base", "build", "--json", "--unsigned"],
    };
    let words = command.iter().copied().chain(args.iter().map(String::as_str));
    let stdout = run(&setting.command(request.program, words), request)?;
    let (layout, images, git) = given(request.what, &stdout)?;
    Ok(Rebuilt {
        images,
        layout,
        revision: git.map(|git| git.revision).or(request.commit.map(str::to_owned)),
        circumstances: setting.circumstances.clone(),
        setting,
        here,
        places,
        program: request.program.to_owned(),
        args,
        folders,
    })
}

/// The layout, the images and the commit that a build's document tells of.
fn given(what: What, document: &str) -> Result<(PathBuf, Vec<ImageAgain>, Option<GitState>)> {
    match what {
        What::Services => {
            let report = Report::from_document(document)?;
            let again = |BuiltService { name, image, provenance_path, .. }| ImageAgain {
                name,
                image,
                provenance_path,
            };
            Ok((report.layout, report.services.into_iter().map(again).collect(), report.git))
        }
        What::Packages => {
            let mut value: Value = serde_json::from_str(document).context("the build printed no document")?;
            let layout = serde_json::from_value(value["layout"].take())?;
            let images: Vec<BuiltImage> = serde_json::from_value(value["images"].take())
                .context("the build printed another kind of document")?;
            let again =
                |BuiltImage { name, image, provenance_path, .. }| ImageAgain { name, image, provenance_path };
            Ok((layout, images.into_iter().map(again).collect(), None))
        }
    }
}

/// What comes after `build`: the services, and the platform unless the copied sources are built for it anyway.
fn args(request: &Request<'_>, copy: &Path) -> Result<Vec<String>> {
    let mut args: Vec<String> = Vec::new();
    if let Some(platform) = request.platform {
        let settings = Settings::load(copy)?;
        let usual = CargoConfig::load(copy, settings.build.target.as_deref())?.target;
        let is_usual = settings.build.platforms.is_empty() && Platform::of_target(&usual) == Some(platform);
        if request.commit.is_none() || !is_usual {
            args.push(format!("--platform={platform}"));
        }
    }
    args.push("--".to_owned());
    args.extend(request.services.iter().cloned());
    Ok(args)
}

/// A folder for this process. What processes that are gone left (killed, or with `--keep`) is removed.
fn own_folder(all: &Path, platform: Option<Platform>) -> Result<PathBuf> {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            stdx::fs::remove_dir_all(&entry.path())?;
        }
    }
    // One for each platform: what is kept of one must outlive the next.
    let platform = platform.map(|platform| format!("-{}", platform.to_string().replace('/', "-")));
    let own = all.join(format!("{}{}", std::process::id(), platform.unwrap_or_default()));
    stdx::fs::remove_dir_all(&own)?;
    Ok(own)
}

/// Makes room, the copy of the sources, and a cargo home with the archives that the workspace needs.
fn prepare(request: &Request<'_>) -> Result<(Places, Folders)> {
    let session = Session::open_as(request.root, request.platform, Naming::Service)?;
    let work = own_folder(&crate::output_folder(request.root)?.join("verify"), request.platform)?;
    require_room(&session.build_dir(), &work, request.reporter)?;
    let sources = tempfile::Builder::new().prefix("slipway-verify-").tempdir();
    let sources = sources.context("cannot create a folder for the copied sources")?;
    let place = sources.path().to_owned();
    let folders = Folders { sources: Some(sources), work: work.clone(), is_kept: false };
    // What a commit reaches beyond its tree is not known to git either.
    let outside = match request.commit {
        Some(_) => BTreeSet::new(),
        None => outside(&session.plan(request.services)?),
    };
    let root = source::copy(request.root, request.commit, &outside, &place)?;
    let home = work.join("other-home");
    let places = Places { root, target_dir: work.join("other-target"), cargo_home: home.join("cargo"), home };
    let cargo_home = workspace::cargo_home(request.root).context("neither CARGO_HOME nor HOME is set")?;
    link_cargo_home(&cargo_home, &places.cargo_home)?;
    setting::write_compiler(&places.home)?;
    Ok((places, folders))
}

/// Folders of local packages outside the workspace.
fn outside(loaded: &Loaded) -> BTreeSet<PathBuf> {
    let folders = loaded.members.iter().map(|(folder, _)| folder);
    folders.filter(|folder| !folder.starts_with(&loaded.plan.root)).cloned().collect()
}

/// A second build takes about as much room as the first one took.
fn require_room(first: &Path, work: &Path, reporter: &dyn Reporter) -> Result<()> {
    let needed = folder_size(first) + SPARE;
    stdx::fs::create_dir_all(work)?;
    let stat = rustix::fs::statvfs(work)
        .with_context(|| format!("cannot ask for the room below {}", work.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let text = format!("the second build needs about {} below {}", gigabytes(needed), work.display());
    ensure!(free > needed, "{text}, and {} are free", gigabytes(free));
    reporter.event(Event::Diagnostic(format!("verify: {text} ({} are free)", gigabytes(free))));
    Ok(())
}

fn folder_size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// A cargo home of its own: the packages' archives, from which Cargo unpacks the sources anew (and this program Debian's packages,
/// by digest), and the indexes, which are in no program. Credentials stay where they are.
fn link_cargo_home(from: &Path, to: &Path) -> Result<()> {
    stdx::fs::create_dir_all(&to.join("registry"))?;
    let link = |name: &str| {
        let target = from.join(name);
        if !target.exists() {
            return Ok(());
        }
        stdx::fs::create_dir_all(to.join(name).parent().unwrap_or(to))?;
        std::os::unix::fs::symlink(&target, to.join(name))
            .with_context(|| format!("cannot link {}", target.display()))
    };
    for name in
        ["registry/index", "registry/cache", "git/db", "config.toml", "config", "slipway/debian/packages"]
    {
        link(name)?;
    }
    Ok(())
}

/// Runs the second build; its lines go on to the reporter. Gives what it printed.
fn run(cmd: &Cmd, request: &Request<'_>) -> Result<String> {
    let mut command = cmd.to_std()?;
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot run {cmd}"))?;
    let _tied = Tied::new(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let finished = AtomicBool::new(false);
    let group = Pid::from_child(&child);
    let mut printed = String::new();
    let status = std::thread::scope(|scope| {
        scope.spawn(|| interrupt_when_asked(group, request.interrupted, &finished));
        scope.spawn(|| stderr.into_iter().for_each(|stderr| pass_on(stderr, request.reporter)));
        let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut printed));
        let status = child.wait();
        finished.store(true, Ordering::SeqCst);
        read.and(status)
    });
    if request.interrupted.load(Ordering::SeqCst) {
        return Err(BuildError::Interrupted.into());
    }
    match status.with_context(|| format!("cannot wait for {cmd}"))?.code() {
        Some(0) => Ok(printed),
        Some(14) => Err(BuildError::NotReproducible("the binaries of the second build give its folders away".to_owned()).into()),
        code => Err(BuildError::Failed(anyhow::anyhow!(
            "the build in another setting ended with {}; it has the files that git would give somebody else: see whether it needs one that git ignores",
            code.map_or_else(|| "a signal".to_owned(), |code| code.to_string())
        ))
        .into()),
    }
}

/// The lines of the second build become events of this one.
fn pass_on(stderr: impl Read, reporter: &dyn Reporter) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        match line.split_once(' ') {
            None if line == "compiling" => reporter.event(Event::CompileStarted { units: 0 }),
            Some(("compiled", package)) => {
                reporter.event(Event::Compiled { package: package.to_owned(), fresh: false });
            }
            Some(("packed", service)) => reporter.event(Event::Packed { service: service.to_owned() }),
            _ => reporter.event(Event::Diagnostic(line)),
        }
    }
}

impl Session {
    /// Builds, builds again in another setting, and compares. `program` is this tool. With `keep`, what the second build left stays.
    ///
    /// # Errors
    /// A [`BuildError`]. Images that differ are no error here.
    pub fn verify(&mut self, request: &Request<'_>, keep: bool) -> Result<(Report, Verification)> {
        let report = self.build(request.services, request.reporter, request.interrupted)?;
        let started = Instant::now();
        request.reporter.event(Event::Diagnostic("verify: building again in another setting".to_owned()));
        let mut rebuilt = rebuild(&Request { platform: self.platform, ..*request })?;
        rebuilt.folders.is_kept = keep;
        let loaded = self.plan(request.services)?;
        let first: BTreeMap<&str, ImageAt<'_>> = report
            .services
            .iter()
            .map(|service| (service.name.as_str(), ImageAt { layout: &report.layout, image: service.image }))
            .collect();
        let services = rebuilt.compare(&first, Some(&loaded))?;
        let verification = Verification {
            is_reproducible: services.iter().all(|service| service.difference.is_none()),
            circumstances: rebuilt.circumstances,
            services,
            toolchain: loaded.toolchain_identity().clone(),
            elapsed_ms: elapsed_ms(started),
        };
        Ok((report, verification))
    }
}

impl Verification {
    /// Names of the services whose images differ.
    pub fn differing(&self) -> impl Iterator<Item = &str> {
        self.services
            .iter()
            .filter(|service| service.difference.is_some())
            .map(|service| service.name.as_str())
    }
}

impl Rebuilt {
    /// Compares images, by name of the service, with those of this build. `loaded` is the plan whose results still lie in their
    /// folder; with it the package is named that differs first.
    pub fn compare(
        &self,
        first: &BTreeMap<&str, ImageAt<'_>>,
        loaded: Option<&Loaded>,
    ) -> Result<Vec<VerifiedService>> {
        let mut sides = None;
        let mut services = Vec::new();
        for built in &self.images {
            let Some(image) = first.get(built.name.as_str()) else { continue };
            let second = ImageAt { layout: &self.layout, image: built.image };
            let place = compare::place(*image, second)?;
            let difference = place.map(|place| {
                let made = sides.get_or_insert_with(|| loaded.and_then(|loaded| self.made(loaded).ok()));
                self.explain(&built.name, &place, made.as_ref())
            });
            services.push(VerifiedService {
                name: built.name.clone(),
                first: image.image,
                second: built.image,
                difference,
            });
        }
        Ok(services)
    }

    /// What both builds made of each package, and the order of packages.
    fn made(&self, loaded: &Loaded) -> Result<Makings> {
        let plan = &loaded.plan;
        let first = made::made(&plan.command(), &plan.build_dir.join(&plan.target))?;
        let args = ["build", "--dry-run", "--json"].into_iter().chain(self.args.iter().map(String::as_str));
        let other: Value = serde_json::from_str(&self.setting.command(&self.program, args).read()?)?;
        let texts = |key: &str| {
            let values = other[key].as_array().into_iter().flatten();
            values.filter_map(|value| value.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let mut cmd = self.setting.command(setting::cargo_program(), texts("cargo_args"));
        for (name, value) in other["env"].as_object().into_iter().flatten() {
            cmd.env.insert(name.into(), value.as_str().map(Into::into));
        }
        let (Some(build_dir), Some(target)) = (other["build_dir"].as_str(), other["target"].as_str()) else {
            bail!("the second plan names no folder");
        };
        let second = made::made(&cmd, &Path::new(build_dir).join(target))?;
        let metadata = &loaded.workspace.metadata;
        let services = loaded.workspace.services.values();
        let orders = services.map(|service| (service.name.clone(), made::order(metadata, &service.package)));
        Ok(Makings { first, second, orders: orders.collect(), helpers: made::helpers(metadata) })
    }

    fn known(&self) -> cure::Known {
        let (here, places) = (&self.here, &self.places);
        let pair = |name: &str| {
            let found = self.circumstances.iter().find(|circumstance| circumstance.name == name);
            found.map(|found| (found.first.clone(), found.second.clone())).unwrap_or_default()
        };
        let user = pair("user");
        let parts = |text: &str| {
            let (name, number) = text.split_once(" (").unwrap_or((text, ""));
            (name.to_owned(), number.trim_end_matches(')').to_owned())
        };
        let (one, other) = (parts(&user.0), parts(&user.1));
        cure::Known {
            paths: vec![
                (here.root.clone(), places.root.clone()),
                (here.target_dir.clone(), places.target_dir.clone()),
                (here.cargo_home.clone(), places.cargo_home.clone()),
                (here.home.clone(), places.home.clone()),
            ],
            hosts: pair("host name"),
            users: vec![(one.0, other.0), (one.1, other.1)],
            revision: self.revision.clone(),
            words: vec![pair("time zone"), pair("locale")],
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64),
        }
    }

    fn explain(&self, service: &str, place: &Place, made: Option<&Makings>) -> Difference {
        match place {
            Place::Document { key, first, second } => Difference::of(key, first, second, Kind::Document),
            Place::Layer { number } => {
                Difference::of(&format!("layer {number}, not its files' content"), "", "", Kind::Document)
            }
            Place::File { path, sections } => {
                let known = self.known();
                let culprit = made.and_then(|Makings { first, second, orders, .. }| {
                    let order = orders.get(service)?;
                    made::culprit(&Sides { first, second, order, paths: &known.paths }, sections)
                });
                difference(&known, path, sections, culprit, made.map(|made| &made.helpers))
            }
        }
    }
}

impl Difference {
    fn of(place: &str, first: &str, second: &str, kind: Kind) -> Difference {
        Difference {
            package: None,
            evidence: None,
            place: place.to_owned(),
            section: None,
            sections: Vec::new(),
            first: first.to_owned(),
            second: second.to_owned(),
            kind,
            cure: cure::cure(kind, &[]),
        }
    }
}

/// Puts what was found about a file into words.
fn difference(
    known: &cure::Known,
    path: &str,
    sections: &[SectionDifference],
    culprit: Option<Culprit>,
    helpers: Option<&BTreeMap<String, Vec<String>>>,
) -> Difference {
    let is_program = sections.iter().all(|difference| difference.section != "content");
    let shown = sections.first();
    let text = |pick: fn(&SectionDifference) -> String| shown.map(pick).unwrap_or_default();
    let (mut first, mut second) = (text(|shown| shown.first.text()), text(|shown| shown.second.text()));
    let section = shown.map(|shown| shown.section.as_str()).unwrap_or_default();
    let mut kind = cure::kind(known, section, &first, &second);
    match culprit.as_ref().map(|culprit| &culprit.evidence) {
        Some(Evidence::Generated { first: a, second: b, .. } | Evidence::Told { first: a, second: b }) => {
            if !shown.is_some_and(|shown| shown.first.is_readable() && shown.second.is_readable()) {
                (first, second) = (a.clone(), b.clone());
            }
            let by_line = cure::kind(known, "", a, b);
            if kind == Kind::Unknown || by_line != Kind::Unknown {
                kind = by_line;
            }
        }
        Some(Evidence::Object { difference, .. })
            if kind == Kind::Unknown || !shown.is_some_and(|shown| shown.first.is_readable()) =>
        {
            (first, second) = (difference.first.text(), difference.second.text());
            kind = cure::kind(known, &difference.section, &first, &second);
        }
        Some(Evidence::Renamed) => kind = Kind::Name,
        None if !is_program => kind = Kind::Asset,
        None if helpers.is_some() && kind == Kind::Unknown => kind = Kind::Linker,
        _ => {}
    }
    let package = culprit.as_ref().map(|culprit| culprit.package.clone());
    let helpers = package.as_ref().and_then(|package| helpers?.get(package)).map_or(&[][..], Vec::as_slice);
    let names: Vec<&str> = package.iter().chain(helpers).map(String::as_str).collect();
    Difference {
        evidence: culprit.map(|culprit| culprit.evidence.words(helpers)),
        place: path.to_owned(),
        section: shown.map(|shown| format!("{} at {:#x}", shown.section, shown.offset)),
        sections: sections.iter().map(|difference| difference.section.clone()).collect(),
        first,
        second,
        kind,
        cure: cure::cure(kind, &names),
        package,
    }
}

impl Evidence {
    /// In words; `helpers` are what the package is made with.
    fn words(&self, helpers: &[String]) -> String {
        let with = if helpers.is_empty() {
            String::new()
        } else {
            format!("; it is made with {}", helpers.join(", "))
        };
        match self {
            Evidence::Generated { file, first, second } => {
                format!("its build script wrote another {file}: `{first}` and `{second}`")
            }
            Evidence::Told { first, second } => {
                format!("its build script told Cargo `{first}` and `{second}`")
            }
            Evidence::Metadata => format!("the text is a constant of it, or what a macro in it became{with}"),
            Evidence::Object { member, difference } => {
                format!("its object {member} differs in {}{with}", difference.section)
            }
            Evidence::Renamed => "Cargo gives it another name in each folder".to_owned(),
        }
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        if self.is_kept {
            self.sources.take().map(tempfile::TempDir::keep);
        } else {
            // Nothing depends on it: the next verification removes what is left.
            stdx::fs::remove_dir_all(&self.work).ok();
            self.work.parent().map(fs::remove_dir);
        }
    }
}

fn refused(error: anyhow::Error) -> anyhow::Error {
    if error.is::<BuildError>() { error } else { BuildError::Refused(error).into() }
}
