//! Whom to trust: the authorities of this machine, and those that Docker's folders name for one registry.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// Certificates for one registry.
#[derive(Default)]
pub(crate) struct Own {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl Own {
    /// What the folders hold for `host`: `*.crt` are authorities, `client.cert` with `client.key` shows who we are.
    ///
    /// Source: Docker's and containers' "certs.d".
    pub(crate) fn load(folders: &[PathBuf], host: &str) -> Result<Own> {
        let mut own = Own::default();
        for folder in folders.iter().map(|folder| folder.join(host)).filter(|folder| folder.is_dir()) {
            for path in files(&folder)? {
                if path.extension().is_some_and(|end| end == "crt") {
                    own.authorities.extend(certificates(&path)?);
                } else if path.extension().is_some_and(|end| end == "cert") && own.client.is_none() {
                    own.client = Some(client(&path, &path.with_extension("key"))?);
                }
            }
        }
        Ok(own)
    }

    /// For the registry itself, and for the servers that it leads to, which must not learn who we are.
    pub(crate) fn configs(self) -> (TlsConfig, TlsConfig) {
        let roots = RootCerts::from(self.authorities.into_iter().chain(authorities()));
        let builder = || TlsConfig::builder().root_certs(roots.clone());
        (builder().client_cert(self.client).build(), builder().build())
    }
}

/// The authorities of this machine, where SSL_CERT_FILE and SSL_CERT_DIR may name others; those of Mozilla where it has none.
fn authorities() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs().certs;
    let chosen = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    if found.is_empty() && !chosen {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        return roots.map(|der| Certificate::from_der(der)).collect();
    }
    found.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let bytes = stdx::fs::read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) =
            item.with_context(|| format!("{} is not a file of PEM blocks", path.display()))?
        {
            found.push(certificate);
        }
    }
    Ok(found)
}

fn client(certificate: &Path, key: &Path) -> Result<ClientCert> {
    let chain = certificates(certificate)?;
    let key = PrivateKey::from_pem(&stdx::fs::read(key)?)
        .ok()
        .with_context(|| format!("{} holds no private key in PEM form", key.display()))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}
