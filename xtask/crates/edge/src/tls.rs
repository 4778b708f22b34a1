//! Certificates from files: which one a client is shown, and when they are read again. It does not know connections. The
//! invariant: certificates in force are replaced by others that can be used, or not at all.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;

use crate::log;
use crate::options::CertificateFiles;

/// How often the files are looked at.
const WATCH: Duration = Duration::from_secs(5);

/// A chain of certificates has some kilobytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What is offered to clients, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Who may read a private key beside its owner.
const GROUP_AND_OTHERS: u32 = 0o077;

/// The certificates of an edge.
pub(crate) struct Certificates {
    files: Vec<CertificateFiles>,
    in_force: Arc<InForce>,
    provider: Arc<CryptoProvider>,
    /// What the files looked like when they were read last, with or without success.
    seen: Mutex<Vec<Stamp>>,
}

/// The certificates in force, replaced as a whole.
#[derive(Debug)]
struct InForce(RwLock<Arc<Set>>);

#[derive(Debug)]
struct Set {
    /// By host in lower case; `*.` stands for one label.
    by_host: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
    count: usize,
}

/// What changes with the content of a file.
type Stamp = Option<(u64, u64, i64, i64)>;

impl Certificates {
    /// Reads the certificates.
    ///
    /// # Errors
    /// When there are none, or one cannot be used.
    pub(crate) fn load(files: &[CertificateFiles]) -> Result<Certificates> {
        let provider = Arc::new(ring::default_provider());
        let seen = stamps(files);
        let in_force = Arc::new(InForce(RwLock::new(Arc::new(load(files, &provider)?))));
        Ok(Certificates { files: files.to_vec(), in_force, provider, seen: Mutex::new(seen) })
    }

    /// What connections are accepted with.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(crate) fn config(&self) -> Result<Arc<ServerConfig>> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<InForce>::clone(&self.in_force);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.ticketer = ring::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Reads the files again; returns how many certificates are in force then.
    ///
    /// # Errors
    /// When one cannot be used: those in force stay, all of them.
    pub(crate) fn reload(&self) -> Result<usize> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.files);
        let set = load(&self.files, &self.provider)?;
        let count = set.count;
        *self.in_force.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
        Ok(count)
    }

    /// Reads the files again whenever they have changed.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(WATCH);
        loop {
            ticks.tick().await;
            let this = Arc::clone(&self);
            // A folder on a network may keep whoever looks at it waiting.
            let _ = tokio::task::spawn_blocking(move || this.reload_where_changed()).await;
        }
    }

    fn reload_where_changed(&self) {
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) == stamps(&self.files) {
            return;
        }
        match self.reload() {
            Ok(count) => log::event("certificates_reloaded", json!({ "certificates": count })),
            Err(error) => log::event("CERTIFICATE_REFUSED", json!({ "error": format!("{error:#}") })),
        }
    }
}

fn stamps(files: &[CertificateFiles]) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let data = std::fs::metadata(path).ok()?;
        Some((data.ino(), data.len(), data.ctime(), data.ctime_nsec()))
    };
    files.iter().flat_map(|pair| [stamp(&pair.cert), stamp(&pair.key)]).collect()
}

fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Set> {
    let mut by_host: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let mut first = None;
    for pair in files {
        let (key, hosts) = load_pair(pair, provider)
            .with_context(|| format!("cannot use the certificate {}", pair.cert.display()))?;
        let key = Arc::new(key);
        for host in hosts {
            by_host.entry(host).or_default().push(Arc::clone(&key));
        }
        first.get_or_insert(key);
    }
    let first = first.context("TLS needs a certificate, and none is named")?;
    Ok(Set { by_host, first, count: files.len() })
}

/// The certificate with its key, and the hosts that it is for.
fn load_pair(pair: &CertificateFiles, provider: &CryptoProvider) -> Result<(CertifiedKey, Vec<String>)> {
    let text = read(&pair.cert)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is not PEM", pair.cert.display()))?;
    let own = chain.first().with_context(|| format!("{} has no certificate", pair.cert.display()))?;
    let parsed = webpki::EndEntityCert::try_from(own)
        .with_context(|| format!("{} does not begin with a certificate", pair.cert.display()))?;
    let hosts = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    let key = read_key(&pair.key)?;
    let key = CertifiedKey::from_der(chain.clone(), key, provider)
        .with_context(|| format!("{} is not the key of the certificate", pair.key.display()))?;
    Ok((key, hosts))
}

/// A key that others can read is no secret any more, so it is refused.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let data = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mode = data.permissions().mode();
    ensure!(
        mode & GROUP_AND_OTHERS == 0,
        "the key {} can be read by others than its owner (mode {:03o}): `chmod 600` it",
        path.display(),
        mode & 0o777
    );
    let owner = data.uid();
    ensure!(
        owner == 0 || owner == rustix::process::geteuid().as_raw(),
        "the key {} belongs to another user ({owner}), who can change it",
        path.display()
    );
    // The error of the parser may quote what it could not read.
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| anyhow::anyhow!("{} holds no private key in PEM", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = stdx::fs::open(path)?;
    ensure!(file.metadata()?.is_file(), "{} is not a file", path.display());
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= MAX_FILE_BYTES, "{} has more than {MAX_FILE_BYTES} bytes", path.display());
    Ok(bytes)
}

impl ResolvesServerCert for InForce {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let known = hello.server_name().and_then(|host| set.find(host));
        // Where no certificate is for the host, the client gets the first one and judges for itself.
        let fitting = known.and_then(|keys| keys.iter().find(fits)).unwrap_or(&set.first);
        Some(Arc::clone(fitting))
    }
}

impl Set {
    fn find(&self, host: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let wildcard = || self.by_host.get(&format!("*.{}", host.split_once('.')?.1));
        self.by_host.get(&host).or_else(wildcard)
    }
}
