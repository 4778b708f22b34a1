//! From compiled binaries to images: each is checked, packed and described; only when all are good does the layout name them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use oci::{Image, Layout};
use stdx::Digest;
use workspace::Linkage;

use crate::compile::Compiled;
use crate::documents::{Documents, making};
use crate::event::{Event, Reporter};
use crate::git::GitState;
use crate::pack::Packer;
use crate::plan::{REVISION, ServicePlan};
use crate::report::{BuildError, BuiltService};
use crate::session::{Loaded, elapsed_ms};
use crate::store::{Paths, State};
use crate::{documents, finished, leak, root, sbom};

struct Assembled {
    image: Image,
    built: BuiltService,
    documents: Documents,
}

/// What images are made from.
pub(crate) struct Built<'a> {
    pub(crate) loaded: &'a Loaded,
    pub(crate) compiled: &'a Compiled,
    /// Where the source stood, and what speaks against that.
    pub(crate) source: Option<&'a GitState>,
    pub(crate) libraries: &'a Libraries,
}

/// Libraries of the system, by service: the name and digest of each.
pub(crate) type Libraries = BTreeMap<String, BTreeSet<(String, Digest)>>;

/// Makes the images of all planned services, each on a thread of its own.
pub(crate) fn assemble(
    built: &Built<'_>,
    paths: &Paths,
    state: &Mutex<State>,
    reporter: &dyn Reporter,
) -> Result<Vec<BuiltService>> {
    let Built { loaded, compiled, source, libraries } = *built;
    let layout = Layout::create(&paths.layout())?;
    let packer = Packer::new(&layout, state, loaded.plan.compression);
    let origin = sbom::Origin {
        metadata: &loaded.workspace.metadata,
        units: &compiled.units,
        toolchain: &loaded.toolchain,
        checksums: sbom::checksums(&loaded.lock)?,
        glibc: loaded.runtime.iter().find_map(|path| sbom::glibc_version(path)),
        created: loaded.created,
        vendor: loaded.workspace.settings.image.vendor.clone(),
        tools: loaded.toolchain_identity().clone(),
    };
    let platform = loaded.plan.platform.as_deref();
    let one = |service: &ServicePlan| {
        let started = Instant::now();
        let mut sbom = sbom::sbom(&origin, &service.package, &[]);
        let binary = paths.finished(&service.name, platform);
        finished::finish(linked(compiled, service)?, &supply::audit(&sbom)?, &binary)?;
        check(loaded, &binary, service)?;
        let root = root::root(loaded, service, &binary, reporter)
            .with_context(|| format!("cannot make the root of the image of {}", service.name))?;
        let packed = packer
            .pack(&labelled(service, source), &binary, &root)
            .with_context(|| format!("cannot pack the image of {}", service.name))?;
        root.describe(&mut sbom);
        sbom.about.layers = packed.layers.iter().map(|layer| layer.digest).collect();
        let from =
            documents::From { source, libraries: libraries.get(&service.name), packed: &packed, sbom: &sbom };
        let documents = Documents::of(making(loaded, service, &from), &sbom)?;
        let built = BuiltService {
            name: service.name.clone(),
            version: service.version.clone(),
            config: service.config.clone(),
            image: packed.image.digest(),
            content: packed.image.content,
            sbom: Digest::of(&documents.cyclonedx),
            sbom_path: paths.sbom(&service.name, platform),
            spdx: Digest::of(&documents.spdx),
            spdx_path: paths.spdx(&service.name, platform),
            provenance: Digest::of(&documents.provenance),
            provenance_path: paths.provenance(&service.name, platform),
            binary_size: binary.metadata()?.len(),
            unpacked_size: packed.unpacked_size,
            size: packed.layers.iter().map(|layer| layer.size).sum(),
            layers: packed.layers,
            elapsed_ms: elapsed_ms(started),
        };
        reporter.event(Event::Packed { service: service.name.clone() });
        Ok(Assembled { image: packed.image, built, documents })
    };
    let assembled: Vec<Result<Assembled>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            loaded.plan.services.iter().map(|service| scope.spawn(|| one(service))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let assembled = assembled.into_iter().collect::<Result<Vec<_>>>()?;
    let publish = |Assembled { image, built, documents }| {
        // An index will name it, or its name stands for it from now on, whatever index did before.
        if loaded.plan.platform.is_some() {
            image.put(&layout)?
        } else {
            image.write(&built.name, &layout)?
        };
        documents.publish(&built.described(), &layout)?;
        Ok(built)
    };
    assembled.into_iter().map(publish).collect()
}

/// The plan was made before anybody knew what would be read.
fn labelled(service: &ServicePlan, source: Option<&GitState>) -> ServicePlan {
    let mut service = service.clone();
    service.image.labels.extend(source.map(|source| (REVISION.to_owned(), source.label())));
    service
}

/// The binary as Cargo linked it.
fn linked<'a>(compiled: &'a Compiled, service: &ServicePlan) -> Result<&'a Path> {
    let key = (service.package.clone(), service.binary.clone());
    let binary = compiled.binaries.get(&key).with_context(|| {
        format!("cargo did not build the binary `{}` of {}", service.binary, service.name)
    })?;
    Ok(binary)
}

/// Refuses a binary that does not start in its image, or gives something of this machine away.
fn check(loaded: &Loaded, binary: &Path, service: &ServicePlan) -> Result<()> {
    if service.linkage() == Linkage::Static {
        elf::require_static(binary, &service.image.architecture)?;
    }
    let home = std::env::home_dir();
    let leaks = leak::leaks(binary, &loaded.plan.remaps, home.as_deref(), &loaded.members)?;
    if !leaks.is_empty() {
        let leaks = leaks.into_iter().collect();
        return Err(BuildError::Leaks { service: service.name.clone(), leaks }.into());
    }
    Ok(())
}

/// The files that must stay as they are for a report to hold.
pub(crate) fn outputs(
    services: &[BuiltService],
    platform: Option<&str>,
    paths: &Paths,
) -> Result<Vec<PathBuf>> {
    let layout = Layout::open(&paths.layout())?;
    let mut files = Vec::new();
    for service in services {
        files.push(paths.finished(&service.name, platform));
        files.extend([&service.sbom_path, &service.spdx_path, &service.provenance_path].map(Clone::clone));
        files.extend([&service.sbom, &service.spdx, &service.provenance].map(|one| layout.blob_path(one)));
        files.push(layout.blob_path(&service.image));
        files.push(layout.blob_path(&layout.config(&service.image)?));
        files.extend(service.layers.iter().map(|layer| layout.blob_path(&layer.digest)));
    }
    Ok(files)
}
