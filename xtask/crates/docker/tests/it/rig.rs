//! An engine, a workshop for images, and a label by which all that a test made is removed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use docker::{Command as Run, ContainerSpec, Engine, Labels, LogQuery};
use oci::{Compression, ImageSpec, Layer, Layout, Source, Tree};
use stdx::Digest;

/// What everything carries that tests make.
pub(crate) const LABEL: &str = "dev.slipway.test";
/// Long enough for a machine with other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One test's share of an engine.
pub(crate) struct Lab {
    pub(crate) engine: Engine,
    pub(crate) layout: Layout,
    pub(crate) name: String,
    _folder: tempfile::TempDir,
}

/// The engine of this machine, or `None` where there is none: the test then says so.
pub(crate) fn engine() -> Option<Engine> {
    match Engine::connect_default() {
        Ok(engine) => Some(engine),
        Err(error) => {
            skip("docker", &error.to_string());
            None
        }
    }
}

/// Says that a test is skipped for want of `program`; fails where SLIPWAY_TEST_REQUIRE names it.
pub(crate) fn skip(program: &str, why: &str) {
    let required =
        std::env::var("SLIPWAY_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == program));
    assert!(!required, "SLIPWAY_TEST_REQUIRE names {program}: {why}");
    eprintln!("skipped: {why}");
}

impl Lab {
    pub(crate) fn open() -> Option<Lab> {
        Some(Lab::with(engine()?))
    }

    pub(crate) fn with(engine: Engine) -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        let name = format!("slipway-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Lab { engine, layout, name, _folder: folder }
    }

    pub(crate) fn labels(&self) -> Labels {
        Labels::from([(LABEL.to_owned(), self.name.clone())])
    }

    /// A name of this test's own.
    pub(crate) fn named(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    /// A layer with one file of so many bytes that do not compress.
    pub(crate) fn noise(&self, file: &str, bytes: usize, compression: Compression) -> Layer {
        let mut state = Digest::of(format!("{}{file}", self.name)).bytes().to_vec();
        let mut content = Vec::with_capacity(bytes + 32);
        while content.len() < bytes {
            state = Digest::of(&state).bytes().to_vec();
            content.extend_from_slice(&state);
        }
        content.truncate(bytes);
        let mut tree = Tree::new();
        tree.file(file, 0o444, Source::Bytes(content)).unwrap();
        Layer::pack(&tree, compression, "", &self.layout).unwrap()
    }

    /// The layer with the program.
    pub(crate) fn program(&self, compression: Compression) -> Layer {
        let mut tree = Tree::new();
        tree.file("probe", 0o555, Source::Bytes(std::fs::read(program()).unwrap())).unwrap();
        tree.dir("tmp", 0o1777, 0).unwrap();
        Layer::pack(&tree, compression, "", &self.layout).unwrap()
    }

    /// An image of these layers that runs as `user`; gives its digest in the layout.
    pub(crate) fn image(&self, layers: Vec<Layer>, user: &str) -> Digest {
        let spec = ImageSpec {
            architecture: self.engine.facts().architecture.clone(),
            created: "1970-01-01T00:00:00Z".into(),
            layers,
            entrypoint: vec!["/probe".into()],
            cmd: vec![],
            env: [("OF_IMAGE".to_owned(), "yes".to_owned())].into(),
            user: user.into(),
            working_dir: "/".into(),
            exposed_ports: Vec::new(),
            volumes: Vec::new(),
            stop_signal: "SIGTERM".into(),
            health_check: None,
            labels: self.labels(),
        };
        spec.to_image().unwrap().write("image", &self.layout).unwrap()
    }

    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("{}:{tag}", self.name)
    }

    /// The id of an image with the program, on the engine.
    pub(crate) fn probe(&self, user: &str) -> String {
        let image = self.image(vec![self.program(Compression::Gzip)], user);
        self.engine
            .transfer(&self.layout, image, &self.reference(&format!("probe{}", user.replace(':', "-"))))
            .unwrap()
            .id
    }

    /// A container that does these steps.
    pub(crate) fn spec(&self, name: &str, image: &str, steps: &[&str]) -> ContainerSpec {
        ContainerSpec {
            labels: self.labels(),
            command: Run::Arguments(steps.iter().map(|step| (*step).to_owned()).collect()),
            stop_grace: Duration::from_secs(1),
            ..ContainerSpec::new(self.named(name), image)
        }
    }

    /// Runs it to its end; gives its exit status and what it printed.
    pub(crate) fn run(&self, spec: &ContainerSpec) -> (i64, String) {
        self.engine.create(spec).unwrap();
        self.engine.start(&spec.name).unwrap();
        let status = self.engine.wait_for_end(&spec.name, PATIENCE).unwrap();
        (status, self.output(&spec.name))
    }

    /// What a container printed until now.
    pub(crate) fn output(&self, container: &str) -> String {
        let mut output = String::new();
        let all = LogQuery::all();
        self.engine
            .logs(container, &all, PATIENCE, &mut |line| {
                output += &format!("{}\n", line.text);
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        output
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let labels = self.labels();
        for found in self.engine.containers(&labels).unwrap_or_default() {
            self.engine.remove(&found.id).ok();
        }
        for network in self.engine.networks(&labels).unwrap_or_default() {
            self.engine.remove_network(&network.name).ok();
        }
        for volume in self.engine.volumes(&labels).unwrap_or_default() {
            self.engine.remove_volume(&volume.name).ok();
        }
        for image in self.engine.images(&labels).unwrap_or_default() {
            self.engine.remove_image(&image.id).ok();
        }
    }
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program that runs in the containers, compiled once for all tests.
pub(crate) fn program() -> PathBuf {
    let source = include_str!("probe.rs");
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join(format!("probe-{}", Digest::of(source).short()));
    if !program.exists() {
        let work = tempfile::tempdir_in(folder).unwrap();
        std::fs::write(work.path().join("probe.rs"), source).unwrap();
        let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
        let status = Command::new(rustc)
            .args([
                "--edition=2024",
                "-Copt-level=s",
                "-Cstrip=symbols",
                "-Cpanic=abort",
                "--target",
                &target,
                "probe.rs",
            ])
            .current_dir(work.path())
            .status()
            .unwrap();
        assert!(status.success(), "`rustup target add {target}` gives what is missing");
        std::fs::rename(work.path().join("probe"), &program).unwrap();
    }
    program
}
