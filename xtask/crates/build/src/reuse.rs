//! What was built before, here or elsewhere, in place of compiling: each service's binary, and compiled dependencies for what
//! must be compiled. A result is looked for in two steps: a record tells which inputs earlier compilations declared, and their
//! content now, with all that is known beforehand, is the key. Invariant: nothing that was compiled from our own sources is
//! ever put into Cargo's folder as compiled code; Cargo compiles those itself or is not asked at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cache::{Blob, Found, Key, Kind, Layered, Limits, Store};
use serde::Serialize;
use stdx::Cmd;
use workspace::{Linkage, UnitGraph};

use crate::action::{Parts, Sort};
use crate::compile::Compiled;
use crate::fresh::Inputs;
use crate::ingredients::{Declared, Ingredients};
use crate::inputs::{self, Observed};
use crate::plan::{Plan, SHARED, ServicePlan};
use crate::record::{Last, Record, record_key};
use crate::report::{Action, BuiltService, Outcome};
use crate::session::Loaded;
use crate::store::Paths;

/// A binary larger than this is none.
const MAX_BINARY: u64 = 4 << 30;
/// What users and records call compiled dependencies, of services that are linked statically and of those on shared libraries.
const DEPENDENCIES: &str = "dependencies";
const SHARED_DEPENDENCIES: &str = "dependencies (shared)";

/// A result that need not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) units: Vec<workspace::Unit>,
    /// Where it is: never in Cargo's folder, which holds only what Cargo made.
    pub(crate) binary: PathBuf,
    /// What its compilation declared, as files and variables of this machine.
    pub(crate) files: BTreeSet<PathBuf>,
    pub(crate) env: BTreeSet<String>,
    /// Libraries of the system that it was linked with.
    pub(crate) libraries: BTreeSet<PathBuf>,
    parts: Parts,
}

/// A result that a store has.
struct Looked {
    from: String,
    bytes: u64,
    declared: Declared,
    parts: Parts,
}

/// A result that was moved between stores, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// What it is a result of: `compile <service>` or `dependencies`.
    pub entry: String,
    /// The store that has it; `None` where none does.
    pub from: Option<String>,
    /// The store that lacked it; `None` where none did.
    pub to: Option<String>,
    /// Of its content, where that was read.
    pub bytes: u64,
}

/// Looks results up and keeps them, for one cargo invocation of a build.
pub(crate) struct Reuse<'a> {
    stores: &'a Layered,
    /// The invocation with the services that it compiles.
    plan: &'a Plan,
    /// What its compiled dependencies are called.
    dependencies: &'static str,
    paths: &'a Paths,
    members: &'a [(PathBuf, String)],
    ingredients: Ingredients<'a>,
    last: Last,
    actions: Vec<Action>,
}

impl<'a> Reuse<'a> {
    /// Looks at what the planned services are made from.
    pub(crate) fn new(
        loaded: &'a Loaded,
        (plan, graph): &'a (Plan, UnitGraph),
        inputs: &Inputs,
        paths: &'a Paths,
        stores: &'a Layered,
    ) -> Result<Reuse<'a>> {
        let ingredients = Ingredients::new(loaded, plan, graph, inputs)?;
        let is_shared = plan.services.iter().any(|service| service.linkage() == Linkage::Shared);
        Ok(Reuse {
            stores,
            plan,
            dependencies: if is_shared { SHARED_DEPENDENCIES } else { DEPENDENCIES },
            paths,
            members: &loaded.members,
            ingredients,
            last: Last::load(paths),
            actions: Vec::new(),
        })
    }

    /// Takes binaries that were built before, by service.
    pub(crate) fn restore_services(&mut self, inputs: &Inputs) -> Result<BTreeMap<String, Hit>> {
        let mut hits = BTreeMap::new();
        for service in &self.plan.services {
            let parts = self.ingredients.service(service, inputs)?;
            let name = format!("compile {}", service.name);
            let binary = self.paths.restored(&service.name);
            let found =
                self.find(Kind::Service, &service.name, &parts, |blob| blob.decompress(&binary, MAX_BINARY));
            match found {
                Ok(Looked { from, declared, parts, .. }) => {
                    self.tell(&name, Outcome::Hit, Some(from), None);
                    let hit = Hit {
                        units: self.ingredients.units(service)?,
                        binary,
                        files: self.ingredients.paths(&declared),
                        libraries: self.ingredients.libraries(&declared),
                        env: declared.env,
                        parts,
                    };
                    hits.insert(service.name.clone(), hit);
                }
                Err(record) => {
                    let reason = self.why(&name, &parts, &record);
                    self.tell(&name, Outcome::Miss, None, Some(reason));
                }
            }
        }
        Ok(hits)
    }

    /// Gives Cargo compiled dependencies where it has nothing at all yet: what it has itself it keeps up to date by itself.
    /// Those of all planned services do as well as those of `missing` alone. Says whether it did.
    pub(crate) fn restore_dependencies(&mut self, names: &BTreeSet<&str>, inputs: &Inputs) -> Result<bool> {
        let missing = self.services(names);
        if missing.is_empty() {
            return Ok(false);
        }
        let all = self.all_dependencies(inputs)?;
        if !is_empty(&self.plan.build_dir) {
            self.tell_kept(&all);
            return Ok(false);
        }
        let (build_dir, staging) = (&self.plan.build_dir, self.paths.staging());
        let take = |blob: &Blob| {
            stdx::fs::remove_dir_all(&staging)?;
            cache::unpack(blob.open(), &staging, Limits::default())?;
            put_in_place(&staging, build_dir)
        };
        let some = self.ingredients.dependencies(&missing, inputs)?;
        let find = |parts: &Parts| self.find(Kind::Dependencies, self.dependencies, parts, take);
        let found = find(&all)
            .or_else(|record| if some == all { Err(record) } else { find(&some).map_err(|_| record) });
        let is_found = found.is_ok();
        match found {
            Ok(found) => self.tell(self.dependencies, Outcome::Hit, Some(found.from), None),
            Err(record) => {
                stdx::fs::remove_dir_all(&staging)?;
                let reason = self.why(self.dependencies, &all, &record);
                self.tell(self.dependencies, Outcome::Miss, None, Some(reason));
            }
        }
        Ok(is_found)
    }

    fn all_dependencies(&self, inputs: &Inputs) -> Result<Parts> {
        self.ingredients.dependencies(&self.plan.services.iter().collect::<Vec<_>>(), inputs)
    }

    /// Those of its services that have these names.
    fn services(&self, names: &BTreeSet<&str>) -> Vec<&'a ServicePlan> {
        self.plan.services.iter().filter(|service| names.contains(service.name.as_str())).collect()
    }

    /// Keeps what was compiled of the services `names`.
    pub(crate) fn keep(
        &mut self,
        names: &BTreeSet<&str>,
        inputs: &Inputs,
        loaded: &Loaded,
        compiled: &Compiled,
    ) -> Result<()> {
        let services = self.services(names);
        // What the other invocation declared is none of this one's inputs.
        let observed = inputs::observed(&self.plan.only(names), loaded, &compiled.scripts)?;
        let Some(observed) = observed.filter(|_| !services.is_empty()) else { return Ok(()) };
        let (services, observed) = (&services[..], &observed);
        if !observed.unresolved.is_empty() {
            self.note_unresolved(observed);
            return Ok(());
        }
        let blobs = self.stores.writes().then(|| {
            stdx::threads::map(services, |service| {
                let binary = compiled.binaries.get(&(service.package.clone(), service.binary.clone()))?;
                Some(Blob::of_compressed(binary, self.paths.folder()))
            })
        });
        let mut blobs = blobs.unwrap_or_default().into_iter();
        for service in services {
            let parts = self.ingredients.service(service, inputs)?;
            let declared = self.ingredients.declared(service, observed, &parts);
            let parts = self.ingredients.with_declared(&parts, &declared);
            if let Some(blob) = blobs.next().flatten() {
                let key = Key { kind: Kind::Service, digest: parts.digest()? };
                self.stores.put(&key, &blob?);
                self.record(Kind::Service, &service.name, declared, &parts)?;
            }
            self.last.set(&format!("compile {}", service.name), parts);
        }
        self.keep_dependencies(services, inputs, observed)
    }

    /// What a result was made from is not known whole: nobody may take it for another one's.
    fn note_unresolved(&self, observed: &Observed) {
        let named =
            observed.unresolved.iter().map(|(library, package)| format!("`{library}` (for {package})"));
        let named = named.collect::<Vec<_>>().join(", ");
        self.stores.note(format!(
            "nothing of this build is kept in the cache: build scripts link libraries that are not found where linkers look: {named}"
        ));
    }

    fn keep_dependencies(
        &mut self,
        services: &[&ServicePlan],
        inputs: &Inputs,
        observed: &Observed,
    ) -> Result<()> {
        let parts = self.ingredients.dependencies(services, inputs)?;
        let declared = self.ingredients.declared_by_others(observed);
        let parts = self.ingredients.with_declared(&parts, &declared);
        let key = Key { kind: Kind::Dependencies, digest: parts.digest()? };
        if self.stores.shares() && !self.stores.is_kept(&key) {
            let blob = self.archive()?;
            self.stores.put(&key, &blob);
            self.record(Kind::Dependencies, self.dependencies, declared.clone(), &parts)?;
        }
        let all = self.ingredients.with_declared(&self.all_dependencies(inputs)?, &declared);
        self.last.set(self.dependencies, all);
        Ok(())
    }

    /// What was used instead of compiling is what the next build is compared with, too.
    pub(crate) fn note_hits(&mut self, hits: &BTreeMap<String, Hit>) {
        let is_own = |name: &str| self.plan.services.iter().any(|service| service.name == name);
        for (name, hit) in hits.iter().filter(|(name, _)| is_own(name)) {
            self.last.set(&format!("compile {name}"), hit.parts.clone());
        }
    }

    /// Tells of each layer whether it was packed before; `trees` says what each was packed from.
    pub(crate) fn tell_packed(
        &mut self,
        services: &[BuiltService],
        trees: &BTreeMap<(String, String), Parts>,
    ) {
        let is_own =
            |built: &&BuiltService| self.plan.services.iter().any(|service| service.name == built.name);
        for service in services.iter().filter(is_own) {
            for layer in &service.layers {
                let name =
                    format!("pack {}: {}", service.name, layer.comment.trim_start_matches("slipway: "));
                let parts =
                    trees.get(&(service.name.clone(), layer.comment.clone())).cloned().unwrap_or_default();
                if layer.reused {
                    self.tell(&name, Outcome::Hit, None, None);
                } else {
                    let changed = self.last.parts(&name).and_then(|before| parts.difference(before));
                    self.tell(
                        &name,
                        Outcome::Miss,
                        None,
                        Some(changed.unwrap_or_else(|| "not packed here before".to_owned())),
                    );
                }
                self.last.set(&name, parts);
            }
        }
    }

    /// Ends the build's reuse: what its actions were made from, and what they did.
    pub(crate) fn finish(self) -> (Last, Vec<Action>) {
        (self.last, self.actions)
    }

    /// What a build of the workspace as it is would do, as far as that is known before anything is compiled.
    pub(crate) fn explain(mut self, inputs: &Inputs) -> Result<Vec<Action>> {
        let mut is_complete = true;
        for service in &self.plan.services {
            let parts = self.ingredients.service(service, inputs)?;
            let name = entry_name(Kind::Service, &service.name);
            is_complete &= self.tell_looked(&name, Kind::Service, &service.name, &parts);
        }
        if !is_complete {
            let parts = self.all_dependencies(inputs)?;
            if is_empty(&self.plan.build_dir) {
                self.tell_looked(self.dependencies, Kind::Dependencies, self.dependencies, &parts);
            } else {
                self.tell_kept(&parts);
            }
        }
        Ok(self.actions)
    }

    fn tell_looked(&mut self, action: &str, kind: Kind, name: &str, parts: &Parts) -> bool {
        let looked = self.look(kind, name, parts);
        let is_hit = looked.is_some();
        match looked {
            Some(found) => self.tell(action, Outcome::Hit, Some(found.from), None),
            None => {
                let record =
                    self.stores.all(record_key(kind, name)).find_map(|(blob, _)| Record::read(&blob).ok());
                let reason = self.why(action, parts, &record.unwrap_or_default());
                self.tell(action, Outcome::Miss, None, Some(reason));
            }
        }
        is_hit
    }

    /// What Cargo has here already it keeps up to date by itself.
    fn tell_kept(&mut self, parts: &Parts) {
        let changed = self.last.parts(self.dependencies).and_then(|before| self.changed(before, parts));
        let (outcome, reason) = match changed {
            Some(changed) => (Outcome::Miss, changed),
            None => (Outcome::Hit, "compiled here before".to_owned()),
        };
        self.tell(self.dependencies, outcome, None, Some(reason));
    }

    /// Looks all results of the workspace as it is up, so that stores nearer by have them from now on. With `dry_run` nothing is
    /// taken.
    pub(crate) fn pull(&self, inputs: &Inputs, dry_run: bool) -> Result<Vec<Moved>> {
        let find = |kind, name: &str, parts: &Parts| {
            let looked = if dry_run {
                self.look(kind, name, parts)
            } else {
                self.find(kind, name, parts, |_| Ok(())).ok()
            };
            let (from, bytes) = looked.map_or((None, 0), |found| (Some(found.from), found.bytes));
            Moved { entry: entry_name(kind, name), from, to: None, bytes }
        };
        self.each(inputs, find)
    }

    /// Gives the shared store what it lacks of the results of the workspace as it is.
    pub(crate) fn push(&self, inputs: &Inputs, to: &dyn Store, dry_run: bool) -> Result<Vec<Moved>> {
        let mut moved = Vec::new();
        let wanted =
            self.each(inputs, |kind, name: &str, parts: &Parts| (kind, name.to_owned(), parts.clone()))?;
        for (kind, name, parts) in wanted {
            let mut content = None;
            let found = self.find(kind, &name, &parts, |blob| {
                content = Some(blob.clone());
                Ok(())
            });
            let entry = entry_name(kind, &name);
            let (declared, all, from) = match found {
                Ok(found) => (found.declared, found.parts, Some(found.from)),
                Err(_) if kind == Kind::Dependencies => match self.compiled_here(&parts) {
                    Some((declared, all)) => (declared, all, Some("this workspace".to_owned())),
                    None => (Declared::default(), Parts::default(), None),
                },
                Err(_) => (Declared::default(), Parts::default(), None),
            };
            let key = Key { kind, digest: all.digest()? };
            if from.is_none() || to.holds(&key)? {
                moved.push(Moved { entry, from, to: None, bytes: content.map_or(0, |blob| blob.size()) });
                continue;
            }
            let bytes = if dry_run {
                content.map_or(0, |blob| blob.size())
            } else {
                let blob = content.map_or_else(|| self.archive(), Ok)?;
                to.put(&key, &blob)?;
                self.record_in(to, kind, &name, declared, &all)?;
                blob.size()
            };
            moved.push(Moved { entry, from, to: Some(to.name().to_owned()), bytes });
        }
        Ok(moved)
    }

    fn each<T>(&self, inputs: &Inputs, mut one: impl FnMut(Kind, &str, &Parts) -> T) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for service in &self.plan.services {
            all.push(one(Kind::Service, &service.name, &self.ingredients.service(service, inputs)?));
        }
        all.push(one(Kind::Dependencies, self.dependencies, &self.all_dependencies(inputs)?));
        Ok(all)
    }

    /// Whether Cargo's folder holds dependencies that were compiled from just these parts.
    fn compiled_here(&self, parts: &Parts) -> Option<(Declared, Parts)> {
        let before = self.last.parts(self.dependencies).filter(|_| !is_empty(&self.plan.build_dir))?;
        let declared = self.declared_in(before, parts);
        let all = self.ingredients.with_declared(parts, &declared);
        (all == *before).then_some((declared, all))
    }

    /// Cargo's folder without anything that was compiled from our own packages. Cargo itself says which files these are: it
    /// cleans a copy, made of links.
    fn archive(&self) -> Result<Blob> {
        let copy = self.paths.staging();
        stdx::fs::remove_dir_all(&copy)?;
        link_all(&self.plan.build_dir, &copy)?;
        // Output of another invocation, which would bring our own packages along.
        stdx::fs::remove_dir_all(&copy.join(SHARED))?;
        let args = ["clean", "--locked", "--quiet"].map(str::to_owned).into_iter().chain([
            format!("--profile={}", self.plan.profile),
            format!("--target={}", self.plan.target),
            format!("--target-dir={}", copy.display()),
        ]);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // None but those that were compiled: cleaning a package whose library is called `deps` takes the folder of that name along.
        let compiled = compiled_packages(self.plan, &copy);
        let own = self.members.iter().map(|(_, name)| name).filter(|name| compiled.contains(*name));
        let clean = Cmd::new(cargo)
            .args(args)
            .args(own.map(|name| format!("--package={name}")))
            .env("CARGO_BUILD_BUILD_DIR", &copy)
            .cwd(&self.plan.root);
        clean.read().context("cannot leave our own packages out of compiled dependencies")?;
        let blob = Blob::written(self.paths.folder(), |out| cache::pack(&copy, out));
        stdx::fs::remove_dir_all(&copy)?;
        blob
    }

    /// The store that had the entry, what was declared, and all parts; or what records say, for the reason.
    fn find(
        &self,
        kind: Kind,
        name: &str,
        parts: &Parts,
        mut take: impl FnMut(&Blob) -> Result<()>,
    ) -> Result<Looked, Record> {
        let mut tried = BTreeSet::new();
        let mut newest: Option<Record> = None;
        for (blob, is_shared) in self.stores.all(record_key(kind, name)) {
            let Ok(record) = Record::read(&blob) else { continue };
            for declared in &record.sets {
                let Some(all) = self.recorded(parts, declared) else { continue };
                let Ok(digest) = all.digest() else { continue };
                let key = Key { kind, digest };
                if !tried.insert(key) {
                    continue;
                }
                let Some((blob, from)) = self.stores.get(&key) else { continue };
                match take(&blob) {
                    Ok(()) => {
                        if is_shared {
                            let known = newest.map(|record| record.sets).unwrap_or_default();
                            self.learn(kind, name, [vec![declared.clone()], known].concat(), &all);
                        }
                        return Ok(Looked {
                            from,
                            bytes: blob.size(),
                            declared: declared.clone(),
                            parts: all,
                        });
                    }
                    Err(error) => {
                        self.stores.note(format!("the entry {key} of the cache cannot be used: {error:#}"))
                    }
                }
            }
            newest.get_or_insert(record);
        }
        Err(newest.unwrap_or_default())
    }

    /// `parts` with what a record says was declared, unless that is nothing that a build declares.
    fn recorded(&self, parts: &Parts, declared: &Declared) -> Option<Parts> {
        let found = self.ingredients.with_recorded(parts, declared);
        let note = |error: &anyhow::Error| {
            self.stores.note(format!("a record of the cache is not believed: {error:#}"))
        };
        found.inspect_err(note).ok()
    }

    /// Lets this machine find by itself what another one's record led to.
    fn learn(&self, kind: Kind, name: &str, sets: Vec<Declared>, parts: &Parts) {
        match Record::new(sets, parts).blob() {
            Ok(blob) => self.stores.put_here(&record_key(kind, name), &blob),
            Err(error) => self.stores.note(format!("{error:#}")),
        }
    }

    /// The same without taking anything: by the names of entries alone.
    fn look(&self, kind: Kind, name: &str, parts: &Parts) -> Option<Looked> {
        for (blob, _) in self.stores.all(record_key(kind, name)) {
            for declared in Record::read(&blob).map(|record| record.sets).unwrap_or_default() {
                let Some(all) = self.recorded(parts, &declared) else { continue };
                let key = Key { kind, digest: all.digest().ok()? };
                if let Some(from) = self.stores.holder(&key) {
                    return Some(Looked { from, bytes: 0, declared, parts: all });
                }
            }
        }
        None
    }

    /// Adds what was declared to what records say already, in one store.
    fn record_in(
        &self,
        store: &dyn Store,
        kind: Kind,
        name: &str,
        declared: Declared,
        parts: &Parts,
    ) -> Result<()> {
        let key = record_key(kind, name);
        let known = match store.get(&key)? {
            Found::Whole(blob) => Record::read(&blob).map(|record| record.sets).unwrap_or_default(),
            Found::Missing | Found::Damaged(_) => Vec::new(),
        };
        store.put(&key, &Record::new([vec![declared], known].concat(), parts).blob()?)
    }

    /// Adds what was declared to what records say already.
    fn record(&self, kind: Kind, name: &str, declared: Declared, parts: &Parts) -> Result<()> {
        let key = record_key(kind, name);
        let mut sets = vec![declared];
        for (blob, _) in self.stores.all(key) {
            sets.extend(Record::read(&blob).map(|record| record.sets).unwrap_or_default());
        }
        self.stores.put(&key, &Record::new(sets, parts).blob()?);
        Ok(())
    }

    /// In words, why there is no result: what differs from the last one here, or from the newest one that stores know of.
    fn why(&self, name: &str, parts: &Parts, record: &Record) -> String {
        let latest = Some(&record.latest).filter(|_| !record.sets.is_empty());
        let Some(before) = self.last.parts(name).or(latest) else {
            return "nothing is known of an earlier build".to_owned();
        };
        self.changed(before, parts).unwrap_or_else(|| "no store has it".to_owned())
    }

    /// What was declared before counts as it is now: that it was not declared yet is no difference.
    fn changed(&self, before: &Parts, parts: &Parts) -> Option<String> {
        self.recorded(parts, &self.declared_in(before, parts))?.difference(before)
    }

    /// What `before` has beyond what is known beforehand: its compilation declared it.
    fn declared_in(&self, before: &Parts, parts: &Parts) -> Declared {
        let files = before.names(Sort::File).filter(|file| !parts.has(Sort::File, file));
        let env = before.names(Sort::Variable).filter(|name| !parts.has(Sort::Variable, name));
        Declared {
            files: files.map(|file| self.ingredients.unshown(file)).collect(),
            env: env.map(str::to_owned).collect(),
            libraries: BTreeSet::new(),
        }
    }

    fn tell(&mut self, action: &str, outcome: Outcome, from: Option<String>, reason: Option<String>) {
        self.actions.push(Action { action: action.to_owned(), outcome, from, reason });
    }
}

fn entry_name(kind: Kind, name: &str) -> String {
    if kind == Kind::Service { format!("compile {name}") } else { name.to_owned() }
}

/// Whether Cargo has nothing there yet; what the other invocation has within is its own.
fn is_empty(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name() != SHARED).count() == 0
}

/// Moves what was unpacked to where Cargo looks for it, around what the other invocation has within.
fn put_in_place(staging: &Path, build_dir: &Path) -> Result<()> {
    let shared = build_dir.join(SHARED);
    if shared.exists() {
        let aside = staging.join(SHARED);
        std::fs::rename(&shared, &aside).with_context(|| format!("cannot move {}", shared.display()))?;
    }
    stdx::fs::remove_dir_all(build_dir)?;
    let above = build_dir.parent().context("a folder of Cargo's without a folder above it")?;
    stdx::fs::create_dir_all(above)?;
    std::fs::rename(staging, build_dir).with_context(|| format!("cannot move {}", staging.display()))
}

/// The same tree of folders, with the same files in it.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    stdx::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_all(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, &target)?;
        } else {
            std::fs::hard_link(entry.path(), &target)
                .with_context(|| format!("cannot link {}", target.display()))?;
        }
    }
    Ok(())
}

/// The names of the packages that Cargo's folder `copy` has fingerprints of (`<name>-<hash>`).
fn compiled_packages(plan: &Plan, copy: &Path) -> BTreeSet<String> {
    let folders = plan.profile_folders().into_iter();
    let inside = folders.filter_map(|folder| Some(copy.join(folder.strip_prefix(&plan.build_dir).ok()?)));
    let entries =
        inside.flat_map(|folder| std::fs::read_dir(folder.join(".fingerprint")).into_iter().flatten());
    let name = |entry: std::fs::DirEntry| Some(entry.file_name().to_str()?.rsplit_once('-')?.0.to_owned());
    entries.flatten().filter_map(name).collect()
}
