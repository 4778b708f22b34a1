//! The middle of a build: for each service the binary that was built before, or else the one that Cargo builds now; and what is
//! remembered of it. It decides nothing about images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anyhow::Result;
use stdx::Digest;
use workspace::{Split, split};

use crate::assemble::{Libraries, outputs};
use crate::compile::{Compiled, compile};
use crate::event::{Event, Reporter};
use crate::fresh::{Inputs, Sources};
use crate::inputs::Observed;
use crate::plan::{Plan, ServicePlan};
use crate::record::Last;
use crate::report::{BuildError, Report};
use crate::reuse::{Hit, Reuse};
use crate::session::{Loaded, Session, unless_it_fails};
use crate::store::{Remembered, State};
use crate::{inputs, root, stale};

/// A build that is under way.
pub(crate) struct Work<'a> {
    pub(crate) session: &'a Session,
    pub(crate) loaded: &'a Loaded,
    pub(crate) reporter: &'a dyn Reporter,
    pub(crate) interrupted: &'a AtomicBool,
    /// One for each cargo invocation; none where nothing is to be reused.
    pub(crate) reuse: Vec<Reuse<'a>>,
    pub(crate) begun: SystemTime,
}

/// The binaries of all services, and where each came from.
pub(crate) struct Made {
    pub(crate) compiled: Compiled,
    hits: BTreeMap<String, Hit>,
    /// What Cargo was asked for, and what it was given; `None` where it was not asked.
    asked: Option<(Plan, Inputs)>,
}

/// What binaries were made from.
pub(crate) struct Read {
    pub(crate) inputs: Inputs,
    /// What compilations that ran now declared; `None` where none ran, or Cargo left no account of it.
    pub(crate) observed: Option<Observed>,
    /// What those declared that were not needed now.
    pub(crate) restored: BTreeSet<PathBuf>,
}

impl Work<'_> {
    /// Binaries from stores where they have them, and one run of Cargo for all others.
    pub(crate) fn make(&mut self, state: &mut State, inputs: &Inputs) -> Result<Made> {
        let hits: Result<Vec<_>> =
            self.reuse.iter_mut().map(|reuse| reuse.restore_services(inputs)).collect();
        let hits = unless_it_fails(hits, self.reporter);
        if hits.is_none() {
            self.reuse.clear();
        }
        let hits: BTreeMap<String, Hit> = hits.into_iter().flatten().flatten().collect();
        let services = &self.loaded.plan.services;
        let missing: BTreeSet<&str> = services
            .iter()
            .map(|service| service.name.as_str())
            .filter(|name| !hits.contains_key(*name))
            .collect();
        let mut made = Made { compiled: Compiled::default(), hits, asked: None };
        if !missing.is_empty() {
            let plan = self.loaded.plan.only(&missing);
            // What is not compiled now must not count as known to Cargo.
            let given = if made.hits.is_empty() { inputs.clone() } else { self.inputs_of(&missing)? };
            made.compiled = self.compile(&plan, state, &given)?;
            made.asked = Some((plan, given));
        }
        for (name, hit) in &made.hits {
            let service = services.iter().find(|service| service.name == *name);
            let Some(ServicePlan { package, binary, .. }) = service else { continue };
            made.compiled.binaries.insert((package.clone(), binary.clone()), hit.binary.clone());
            made.compiled.add_units(&hit.units);
        }
        Ok(made)
    }

    fn compile(&mut self, plan: &Plan, state: &mut State, given: &Inputs) -> Result<Compiled> {
        let names = names(plan);
        for reuse in &mut self.reuse {
            if unless_it_fails(reuse.restore_dependencies(&names, given), self.reporter) == Some(true) {
                // Nobody has seen what is in Cargo's folder now: whatever it has of ours is forgotten.
                state.seen.clear();
                state.restored = true;
            }
        }
        if state.restored && self.session.is_from_sources() {
            self.reporter.event(Event::Diagnostic(
                "compiled dependencies here came from a cache: compiling them again".to_owned(),
            ));
            // That of both ways of linking: nothing is known of which it was.
            stdx::fs::remove_dir_all(&self.session.build_dir())?;
            state.seen.clear();
            state.restored = false;
        }
        let loaded = self.loaded;
        let linked = loaded.identity().files.keys().chain(&loaded.runtime).chain(&loaded.named);
        let linked = linked.cloned().collect();
        let folders = plan.all_profile_folders(&self.session.build_dir());
        stale::forget(&folders, state, given, &loaded.members, &loaded.vendored, &linked)?;
        state.write(&self.session.paths)?;
        self.reporter.event(Event::CompileStarted { units: state.units });
        let compiled = compile(plan, self.reporter, self.interrupted);
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(BuildError::Interrupted.into());
        }
        let compiled = compiled?;
        self.reporter
            .event(Event::CompileFinished { units: compiled.units.len(), compiled: compiled.compiled });
        Ok(compiled)
    }

    fn inputs_of(&self, names: &BTreeSet<&str>) -> Result<Inputs> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Inputs::take(self.session.sources(self.loaded, &names)?)
    }

    /// Everything that the binaries were made from: what was known beforehand, and what compilations declared.
    pub(crate) fn read(&self, mut inputs: Inputs, made: &Made) -> Result<Read> {
        for service in &self.loaded.plan.services {
            let files = root::sources(service, &self.loaded.plan.target)?;
            inputs.extend(files.into_iter().collect(), &BTreeSet::new())?;
        }
        for hit in made.hits.values() {
            inputs.extend(hit.files.clone(), &hit.env)?;
        }
        let mut observed = None;
        if let Some((plan, _)) = &made.asked {
            observed = inputs::observed(plan, self.loaded, &made.compiled.scripts)?;
            if let Some(observed) = &observed {
                inputs.extend(observed.files.clone(), &observed.env)?;
            }
        }
        let restored = made.hits.values().flat_map(|hit| &hit.files).cloned().collect();
        Ok(Read { inputs, observed, restored })
    }

    /// By service: the libraries of the system that its binary was linked with because build scripts ask for them, by name and digest.
    pub(crate) fn libraries(&self, read: &Read, made: &Made) -> Libraries {
        let named = |path: &PathBuf| {
            let digest = read.inputs.digest(path)?;
            Some((path.file_name()?.to_string_lossy().into_owned(), digest))
        };
        let metadata = &self.loaded.workspace.metadata;
        let of = |service: &ServicePlan| -> BTreeSet<(String, Digest)> {
            if let Some(hit) = made.hits.get(&service.name) {
                return hit.libraries.iter().filter_map(named).collect();
            }
            let Split { linked, build_only, .. } = split(metadata, &made.compiled.units, &service.package);
            let libraries = read.observed.iter().flat_map(|observed| &observed.libraries);
            let own = libraries
                .filter(|(_, of)| of.iter().any(|id| linked.contains(id) || build_only.contains(id)));
            own.filter_map(|(path, _)| named(path)).collect()
        };
        self.loaded.plan.services.iter().map(|service| (service.name.clone(), of(service))).collect()
    }

    /// Remembers what was built from what, unless a source changed while it was built, and keeps it for others.
    pub(crate) fn remember(
        self,
        mut state: State,
        read: Read,
        made: &Made,
        report: &mut Report,
    ) -> Result<()> {
        state.units = made.compiled.units.len();
        let selection = self.session.selection(&self.loaded.names);
        state.results.remove(&selection);
        let Read { inputs, observed, .. } = read;
        if let (Some((_, given)), Some(observed)) = (&made.asked, &observed) {
            let mut given = given.clone();
            given.extend(observed.files.clone(), &observed.env)?;
            stale::note(&mut state, &given);
            state.libraries.extend(observed.looked_at.clone());
        }
        let is_known = made.asked.is_none() || observed.is_some();
        let holds = is_known && inputs.touched_since(self.begun).is_empty();
        let mut known = Last::load(&self.session.paths);
        let is_reused = !self.reuse.is_empty();
        for mut reuse in self.reuse {
            reuse.note_hits(&made.hits);
            if let (Some((plan, _)), true) = (&made.asked, holds) {
                reuse.keep(&names(plan), &inputs, self.loaded, &made.compiled)?;
            }
            reuse.tell_packed(&report.services, &state.trees);
            let (last, actions) = reuse.finish();
            report.actions.extend(actions);
            known.merge(last);
        }
        if is_reused {
            known.write(&self.session.paths)?;
        }
        if holds {
            let files = outputs(&report.services, self.loaded.plan.platform.as_deref(), &self.session.paths)?
                .into_iter()
                .collect();
            let outputs = Inputs::take(Sources { files, ..Sources::default() })?;
            state.results.insert(selection, Remembered { inputs, outputs, report: report.clone() });
        }
        state.write(&self.session.paths)
    }
}

fn names(plan: &Plan) -> BTreeSet<&str> {
    plan.services.iter().map(|service| service.name.as_str()).collect()
}
