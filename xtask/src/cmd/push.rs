//! `cargo xtask push`: build, look what the registry has, send the rest, tag.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::build::{BuiltImage, BuiltService, Session};
use anyhow::{Context, Result, anyhow, bail};
use oci::Layout;
use registry::{Push, Reference, Registry, Says};
use stdx::Digest;
use supply::{BUNDLE, PublicKey};
use workspace::Platform;

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, PlannedPush, PushedImage, TransferProgress};

pub(crate) fn run(flags: &flags::Push) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let session = Session::open(&root).or_exit(Code::Configuration)?;
    // A place that cannot be is said before anything compiles, whatever the services are called.
    let example = flags.services.first().map_or("service", String::as_str);
    repository(&session, example, flags).or_exit(Code::Configuration)?;
    let interrupted = super::interruption()?;
    let Made { layout, images: made } = make(&root, &session, flags, &interrupted)?;
    let targets = made
        .iter()
        .map(|image| targets(&session, image, flags))
        .collect::<Result<Vec<_>>>()
        .or_exit(Code::Configuration)?;
    end_when(interrupted);
    let layout = Layout::open(&layout)?;
    let says = Statements(public_key(&session).or_exit(Code::Configuration)?);
    let mut registries = Registries::default();
    if flags.dry_run {
        let mut plans = Vec::new();
        for (Image { name, digest, .. }, to) in made.iter().zip(&targets) {
            let plan = to
                .push(
                    From { registry: registries.at(&to.reference.host)?, layout: &layout, says: &says },
                    digest,
                )
                .plan()?;
            let (service, reference, tags) = (name.clone(), to.by_digest(digest), to.tags.clone());
            plans.push(PlannedPush { service, reference, tags, plan });
        }
        return render::push_plan(&plans, flags.json);
    }
    let progress = TransferProgress::new();
    let mut images = Vec::new();
    for (Image { name, digest, .. }, to) in made.iter().zip(&targets) {
        let started = Instant::now();
        progress.begin(&to.reference.name());
        let pushed = to
            .push(From { registry: registries.at(&to.reference.host)?, layout: &layout, says: &says }, digest)
            .run(&progress);
        let pushed = pushed.with_context(|| format!("cannot push {}", to.reference.name()));
        if pushed.is_err() {
            progress.finish();
        }
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (reference, tags) = (to.by_digest(digest), to.tags.clone());
        images.push(PushedImage { service: name.clone(), reference, tags, pushed: pushed?, elapsed_ms });
    }
    progress.finish();
    render::pushed(&images, flags.json)
}

/// What is to be sent.
struct Made {
    /// Folder of the layout.
    layout: PathBuf,
    images: Vec<Image>,
}

/// An image, or an index of images, as the layout has it.
struct Image {
    name: String,
    version: String,
    digest: Digest,
}

/// Builds what is sent: from the sources, and signed where there is a key.
fn make(root: &Path, session: &Session, flags: &flags::Push, interrupted: &AtomicBool) -> Result<Made> {
    let is_of_packages = |name: &String| session.settings().images.contains_key(name);
    let (packaged, services): (Vec<String>, Vec<String>) =
        flags.services.iter().cloned().partition(is_of_packages);
    let platforms = super::build::platforms(root, &flags.platform).or_exit(Code::Configuration)?;
    let mut made = Made { layout: session.layout(), images: Vec::new() };
    if !services.is_empty() || packaged.is_empty() {
        made.images = make_services(root, &platforms, &services, interrupted)?;
    }
    if !packaged.is_empty() {
        made.images.extend(make_packaged(root, &platforms, &packaged, interrupted)?);
    }
    Ok(made)
}

fn make_services(
    root: &Path,
    platforms: &[Platform],
    services: &[String],
    interrupted: &AtomicBool,
) -> Result<Vec<Image>> {
    let mut session = match platforms {
        [] => Session::open(root).or_exit(Code::Configuration)?,
        [one] => Session::open_platform(root, *one).or_exit(Code::Configuration)?,
        several => return make_indexes(root, several, services, interrupted),
    };
    let report = super::build::images(&mut session, services, interrupted)?.report;
    let image =
        |service: BuiltService| Image { name: service.name, version: service.version, digest: service.image };
    Ok(report.services.into_iter().map(image).collect())
}

/// Images of `images:`.
fn make_packaged(
    root: &Path,
    platforms: &[Platform],
    names: &[String],
    interrupted: &AtomicBool,
) -> Result<Vec<Image>> {
    let session = match platforms {
        [] => Session::open(root).or_exit(Code::Configuration)?,
        [one] => Session::open_platform(root, *one).or_exit(Code::Configuration)?,
        _ => {
            let error = anyhow!(
                "{} of `images:` is made for one platform at a time; name it, such as `--platform linux/amd64`",
                names.join(", ")
            );
            return Err(error).or_exit(Code::Configuration);
        }
    };
    let made = super::base::make(&session, names, false, interrupted)?;
    let image = |image: BuiltImage| Image { name: image.name, version: image.version, digest: image.image };
    Ok(made.images.into_iter().map(image).collect())
}

fn make_indexes(
    root: &Path,
    platforms: &[Platform],
    services: &[String],
    interrupted: &AtomicBool,
) -> Result<Vec<Image>> {
    let built = super::build::indexes(root, platforms, services, interrupted)?;
    let report = built.platforms.into_values().next().context("several platforms give several reports")?;
    let index = |service: BuiltService| {
        let found = built.indexes.iter().find(|index| index.name == service.name);
        let found = found.with_context(|| format!("there is no index of {}", service.name))?;
        Ok(Image { name: service.name, version: service.version, digest: found.index })
    };
    report.services.into_iter().map(index).collect()
}

/// Where an image goes.
struct Target {
    /// Without tag and digest.
    reference: Reference,
    tags: Vec<String>,
}

/// One connection for each registry: what is known of it serves all images.
#[derive(Default)]
struct Registries(BTreeMap<String, Registry>);

impl Registries {
    fn at(&mut self, host: &str) -> Result<&Registry> {
        if !self.0.contains_key(host) {
            self.0.insert(host.to_owned(), Registry::connect(host).or_exit(Code::Configuration)?);
        }
        self.0.get(host).context("a connection that was just made is there")
    }
}

/// Where images are sent from, and over which connection.
#[derive(Clone, Copy)]
struct From<'a> {
    registry: &'a Registry,
    layout: &'a Layout,
    says: &'a Statements,
}

/// What bundles say, as far as this key signed them: a statement that was signed twice is still one statement.
#[derive(Debug)]
struct Statements(Option<PublicKey>);

impl Says for Statements {
    fn says(&self, artifact_type: &str, content: &[u8]) -> Option<Digest> {
        let key = self.0.as_ref().filter(|_| artifact_type == BUNDLE)?;
        let statement = supply::verify(content, key).ok()?;
        Some(Digest::of(statement.to_bytes().ok()?))
    }
}

fn public_key(session: &Session) -> Result<Option<PublicKey>> {
    let path = session.settings().signing.public_key.as_ref();
    path.map(|path| super::key::public(&session.root().join(path))).transpose()
}

impl Target {
    fn push<'a>(&'a self, from: From<'a>, image: &'a Digest) -> Push<'a> {
        let From { registry, layout, says } = from;
        Push { registry, layout, image, to: &self.reference, tags: &self.tags, says }
    }

    fn by_digest(&self, image: &Digest) -> Reference {
        Reference { digest: Some(*image), ..self.reference.clone() }
    }
}

fn targets(session: &Session, image: &Image, flags: &flags::Push) -> Result<Target> {
    let by_settings = session.reference(&image.name, &image.version);
    let (_, version) = by_settings.rsplit_once(':').context("the name of an image ends with its tag")?;
    let reference = repository(session, &image.name, flags)?;
    let tags = if flags.tags.is_empty() { vec![version.to_owned()] } else { flags.tags.clone() };
    for tag in &tags {
        reference.with_tag(tag)?;
    }
    Ok(Target { reference, tags })
}

/// Where the images of `service` go.
fn repository(session: &Session, service: &str, flags: &flags::Push) -> Result<Reference> {
    let prefix = match &flags.to {
        Some(prefix) if prefix.ends_with(char::is_alphanumeric) => format!("{prefix}/"),
        Some(prefix) => prefix.clone(),
        None => session.settings().image.prefix.clone(),
    };
    let name = format!("{prefix}{service}");
    let reference: Reference = name.parse()?;
    // Without a host a name means Docker's own registry, for all the world to see: that should be said, not forgotten.
    if reference.host == "docker.io" && !name.starts_with("docker.io/") {
        let problem = match prefix.as_str() {
            "" => "nothing says where images go".to_owned(),
            prefix => format!("`{prefix}` names no registry"),
        };
        bail!(
            "{problem}; begin `image: {{ prefix: … }}` in slipway.yaml, or --to, with its host, such as registry.example/team/ \
             (docker.io/ for Docker Hub)"
        );
    }
    Ok(reference)
}

/// Ends the program when the user interrupts: a registry forgets what was begun, and tags are set last.
fn end_when(interrupted: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        while !interrupted.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("error: interrupted; what was sent stays and is not sent again");
        std::process::exit(Code::Interrupted as i32);
    });
}
