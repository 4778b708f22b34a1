//! From layers and a run configuration to an image: the two JSON documents of the OCI image specification, in canonical form.

use std::collections::BTreeMap;

use anyhow::Result;
use oci_spec::image::{
    Arch, ConfigBuilder, History, HistoryBuilder, ImageConfigurationBuilder, ImageManifestBuilder, MediaType,
    Os, RootFsBuilder,
};
use serde_json::{Value, json};
use stdx::{Digest, json as canonical_json};

use crate::FORMAT;
use crate::layer::Layer;
use crate::layout::{Layout, descriptor};

/// Everything that an image is made of; two equal values give the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// Processor, in Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// When the content was made, in RFC 3339; for people only.
    pub created: String,
    /// From the lowest to the highest.
    pub layers: Vec<Layer>,
    /// Command that always runs; an absolute path first.
    pub entrypoint: Vec<String>,
    /// Arguments after it, which whoever starts the image may replace.
    pub cmd: Vec<String>,
    /// Environment of the process.
    pub env: BTreeMap<String, String>,
    /// `uid:gid`.
    pub user: String,
    /// Folder in which the process starts.
    pub working_dir: String,
    /// TCP ports it listens on.
    pub exposed_ports: Vec<u16>,
    /// Folders that want a volume.
    pub volumes: Vec<String>,
    /// Signal that asks it to stop.
    pub stop_signal: String,
    /// How an engine may check it.
    pub health_check: Option<HealthCheck>,
    /// Labels of the configuration; they stand as annotations in the manifest too.
    pub labels: BTreeMap<String, String>,
}

/// The health check that Docker keeps in an image's configuration beside what OCI specifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Program inside the image, and its arguments; no shell.
    pub command: Vec<String>,
    /// From one check to the next.
    pub interval_ms: u64,
    /// After this long a check has failed.
    pub timeout_ms: u64,
    /// Failures before this long after the start do not count.
    pub start_period_ms: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// The two documents of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Canonical bytes of the configuration. Their digest is what Docker calls the image id.
    pub config: Vec<u8>,
    /// Canonical bytes of the manifest. Their digest is the image's digest.
    pub manifest: Vec<u8>,
    /// Digest of what runs: layers and run configuration, without labels, times and history.
    pub content: Digest,
}

impl ImageSpec {
    /// The image's documents.
    pub fn to_image(&self) -> Result<Image> {
        let config = self.config()?;
        let content = content_digest(&config)?;
        let config = canonical_json::canonical(&config)?;
        let manifest = self.manifest(&config)?;
        Ok(Image { config, manifest: canonical_json::canonical(&manifest)?, content })
    }

    fn config(&self) -> Result<Value> {
        let env = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        let mut config = ConfigBuilder::default()
            .user(self.user.clone())
            .env(env)
            .entrypoint(self.entrypoint.clone())
            .working_dir(self.working_dir.clone())
            .stop_signal(self.stop_signal.clone())
            .labels(self.labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
        if !self.exposed_ports.is_empty() {
            config = config.exposed_ports(
                self.exposed_ports.iter().map(|port| format!("{port}/tcp")).collect::<Vec<_>>(),
            );
        }
        if !self.cmd.is_empty() {
            config = config.cmd(self.cmd.clone());
        }
        if !self.volumes.is_empty() {
            config = config.volumes(self.volumes.clone());
        }
        let diff_ids = self.layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>();
        let image = ImageConfigurationBuilder::default()
            .created(self.created.clone())
            .architecture(Arch::from(self.architecture.as_str()))
            .os(Os::Linux)
            .config(config.build()?)
            .rootfs(RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build()?)
            .history(self.history()?)
            .build()?;
        let mut value = serde_json::to_value(image)?;
        if let Some(check) = &self.health_check {
            value["config"]["Healthcheck"] = check.to_docker();
        }
        value["config"]["Labels"]["dev.slipway.format"] = json!(FORMAT.to_string());
        Ok(value)
    }

    fn history(&self) -> Result<Vec<History>> {
        let entry = |layer: &Layer| {
            let builder =
                HistoryBuilder::default().created(self.created.clone()).created_by(layer.comment.clone());
            Ok(builder.build()?)
        };
        self.layers.iter().map(entry).collect()
    }

    fn manifest(&self, config: &[u8]) -> Result<Value> {
        let layer = |layer: &Layer| descriptor(layer.compression.oci_media_type(), &layer.digest, layer.size);
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(descriptor(MediaType::ImageConfig, &Digest::of(config), config.len() as u64)?)
            .layers(self.layers.iter().map(layer).collect::<Result<Vec<_>>>()?)
            .annotations(self.labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
            .build()?;
        Ok(serde_json::to_value(manifest)?)
    }
}

impl Image {
    /// Digest of the manifest: the image's name by content.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Adds both documents to `layout` and lets `name` stand for the image. Its layers must be there already.
    pub fn write(&self, name: &str, layout: &Layout) -> Result<Digest> {
        let digest = self.put(layout)?;
        layout.tag(name, &digest, self.manifest.len() as u64)?;
        Ok(digest)
    }

    /// Adds both documents to `layout` without a name, for an index that will list the image.
    pub fn put(&self, layout: &Layout) -> Result<Digest> {
        layout.put(&self.config)?;
        layout.put(&self.manifest)
    }
}

impl HealthCheck {
    /// Docker counts in nanoseconds.
    fn to_docker(&self) -> Value {
        let nanoseconds = |milliseconds: u64| milliseconds.saturating_mul(1_000_000);
        let mut test = vec!["CMD".to_owned()];
        test.extend(self.command.iter().cloned());
        json!({
            "Test": test,
            "Interval": nanoseconds(self.interval_ms),
            "Timeout": nanoseconds(self.timeout_ms),
            "StartPeriod": nanoseconds(self.start_period_ms),
            "Retries": self.retries,
        })
    }
}

fn content_digest(config: &Value) -> Result<Digest> {
    let mut run = config["config"].clone();
    if let Some(members) = run.as_object_mut() {
        members.remove("Labels");
    }
    let content = json!({ "architecture": config["architecture"], "rootfs": config["rootfs"], "run": run });
    Ok(Digest::of(canonical_json::canonical(&content)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compression;

    fn spec() -> ImageSpec {
        let layer = Layer {
            diff_id: Digest::of("tar"),
            digest: Digest::of("gzip"),
            size: 4,
            unpacked_size: 3,
            compression: Compression::Gzip,
            comment: "binary".into(),
        };
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        ImageSpec {
            architecture: "amd64".into(),
            created: "2026-01-02T03:04:05Z".into(),
            layers: vec![layer],
            entrypoint: vec!["/app/api".into()],
            cmd: vec![],
            env: pairs(&[("Z", "1"), ("A", "2")]),
            user: "10001:10001".into(),
            working_dir: "/".into(),
            exposed_ports: vec![8000],
            volumes: vec!["/data".into()],
            stop_signal: "SIGTERM".into(),
            health_check: Some(HealthCheck {
                command: vec!["/app/api".into(), "healthcheck".into()],
                interval_ms: 5000,
                timeout_ms: 2000,
                start_period_ms: 30_000,
                retries: 3,
            }),
            labels: pairs(&[("org.opencontainers.image.title", "api")]),
        }
    }

    /// As in `layer`: these bytes change only together with `FORMAT`.
    #[test]
    fn golden_documents_of_format_1() {
        let image = spec().to_image().unwrap();
        assert_eq!(
            String::from_utf8(image.config.clone()).unwrap(),
            concat!(
                r#"{"architecture":"amd64","config":{"Entrypoint":["/app/api"],"Env":["A=2","Z=1"],"ExposedPorts":{"8000/tcp":{}},"#,
                r#""Healthcheck":{"Interval":5000000000,"Retries":3,"StartPeriod":30000000000,"Test":["CMD","/app/api","healthcheck"],"#,
                r#""Timeout":2000000000},"Labels":{"dev.slipway.format":"1","org.opencontainers.image.title":"api"},"#,
                r#""StopSignal":"SIGTERM","User":"10001:10001","Volumes":{"/data":{}},"WorkingDir":"/"},"#,
                r#""created":"2026-01-02T03:04:05Z","history":[{"created":"2026-01-02T03:04:05Z","created_by":"binary"}],"os":"linux","#,
                r#""rootfs":{"diff_ids":["sha256:90aebae315675cbf04612de4f7d5874850f48e0b8dd82becbeaa47ca93f5ebfb"],"type":"layers"}}"#,
            )
        );
        assert_eq!(
            image.digest().to_string(),
            "sha256:9fbcec8f4b6ab13688a5ce63eec731b0d41db360810f75830d39bb61fbb27cb2"
        );
    }

    #[test]
    fn content_ignores_labels_and_times_and_nothing_else() {
        let content = |change: &dyn Fn(&mut ImageSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.to_image().unwrap().content
        };
        let same = content(&|_| {});
        assert_eq!(content(&|spec| spec.created = "2027-01-01T00:00:00Z".into()), same);
        assert_eq!(content(&|spec| spec.labels.clear()), same);
        assert_ne!(content(&|spec| spec.env.clear()), same);
        assert_ne!(content(&|spec| spec.health_check = None), same);
        assert_ne!(content(&|spec| spec.layers[0].diff_id = Digest::of("other")), same);
    }
}
