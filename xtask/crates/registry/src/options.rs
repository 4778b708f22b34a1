//! What a client takes from its surroundings, as a value: files of credentials and certificates, proxies, limits of time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where credentials and certificates are, and how patient to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files of credentials in Docker's form, the one that counts first; a missing one is no error.
    pub auth_files: Vec<PathBuf>,
    /// Where credential helpers are looked for, in the form of PATH; that of this program where there is none.
    pub helper_path: Option<String>,
    /// Folders with a folder of certificates for each `host:port`.
    pub certificate_folders: Vec<PathBuf>,
    /// Hosts that are spoken to without TLS. Credentials never go there.
    pub plain_http: BTreeSet<String>,
    /// Whether the proxies of the environment are used (never for this machine itself).
    pub use_proxy: bool,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until an answer's head is there.
    pub answer_timeout: Duration,
    /// Between two pieces of a body.
    pub stall_timeout: Duration,
    /// A body may take this long, and a second more for each [`Options::MIN_BYTES_PER_SECOND`].
    pub body_grace: Duration,
    /// Pause before the second attempt; each further one is twice as long.
    pub first_pause: Duration,
    /// How often a request is tried.
    pub attempts: u32,
    /// Blobs up to this size are sent with one request; larger ones in chunks, which can be resumed.
    pub single_request_limit: u64,
    /// Bytes of a chunk. Some proxies in front of registries refuse bodies of 100 MB.
    pub chunk_size: u64,
    /// How many blobs are moved at a time.
    pub threads: usize,
}

impl Options {
    /// What is slower than this is given up: a server that drips would hold a build for ever.
    pub const MIN_BYTES_PER_SECOND: u64 = 8 * 1024;

    /// When a body of so many bytes, either way, that begins now is given up.
    pub(crate) fn until(&self, bytes: u64) -> Instant {
        Instant::now() + self.body_grace + Duration::from_secs(bytes / Options::MIN_BYTES_PER_SECOND)
    }

    /// As Docker, Podman and OpenSSL find things on this machine.
    pub fn from_env() -> Options {
        Options::of(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The same with the variables of another environment.
    pub fn of(env: &dyn Fn(&str) -> Option<String>) -> Options {
        let home = env("HOME").map(PathBuf::from);
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let config = env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| below_home(".config"));
        let below_config = |path: &str| config.as_ref().map(|config| config.join(path));
        let docker = env("DOCKER_CONFIG").map(PathBuf::from).or_else(|| below_home(".docker"));
        let podman = env("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("containers/auth.json"));
        let auth_files = [
            env("REGISTRY_AUTH_FILE").map(PathBuf::from),
            docker.map(|folder| folder.join("config.json")),
            podman,
            below_config("containers/auth.json"),
        ];
        let certificate_folders = [
            below_config("containers/certs.d"),
            below_config("docker/certs.d"),
            Some(PathBuf::from("/etc/containers/certs.d")),
            Some(PathBuf::from("/etc/docker/certs.d")),
        ];
        let plain = env("SLIPWAY_PLAIN_HTTP").unwrap_or_default();
        Options {
            auth_files: auth_files.into_iter().flatten().collect(),
            helper_path: env("PATH"),
            certificate_folders: certificate_folders.into_iter().flatten().collect(),
            plain_http: plain
                .split(',')
                .map(|host| host.trim().to_owned())
                .filter(|h| !h.is_empty())
                .collect(),
            use_proxy: true,
            connect_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(120),
            stall_timeout: Duration::from_secs(45),
            body_grace: Duration::from_secs(60),
            first_pause: Duration::from_millis(400),
            attempts: 5,
            single_request_limit: 16 * 1024 * 1024,
            chunk_size: 64 * 1024 * 1024,
            threads: 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_for_where_docker_and_podman_have_them() {
        let of = |variables: &[(&str, &str)]| {
            let get = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            Options::of(&get)
        };
        let paths = |files: &[&str]| files.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/1")]).auth_files,
            paths(&[
                "/h/.docker/config.json",
                "/run/1/containers/auth.json",
                "/h/.config/containers/auth.json"
            ])
        );
        let moved = of(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("REGISTRY_AUTH_FILE", "/a.json")]);
        assert_eq!(moved.auth_files[..2], paths(&["/a.json", "/d/config.json"]));
        assert_eq!(of(&[("SLIPWAY_PLAIN_HTTP", "a:1, b")]).plain_http, ["a:1".into(), "b".into()].into());
        assert_eq!(of(&[]).auth_files, paths(&[]));
    }
}
