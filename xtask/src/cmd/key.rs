//! `cargo xtask key`: makes the key that signs images; and reads it, for those who sign. The private key is never shown.

use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use stdx::Cmd;
use supply::{PublicKey, SigningKey};
use workspace::{KeySource, SigningSettings};

use crate::exit::{Code, ResultExt};
use crate::flags::{self, KeyCommand};
use crate::render;

/// Names of the two files.
const PRIVATE: &str = "slipway.key";
const PUBLIC: &str = "slipway.pub";

pub(crate) fn run(flags: &flags::Key) -> Result<()> {
    match &flags.command {
        KeyCommand::Generate(flags) => generate(flags).or_exit(Code::Configuration),
    }
}

fn generate(flags: &flags::KeyGenerate) -> Result<()> {
    let folder = flags.output.clone().unwrap_or_default();
    if folder.components().next().is_some() {
        stdx::fs::create_dir_all(&folder)?;
    }
    let (private, public) = (folder.join(PRIVATE), folder.join(PUBLIC));
    for path in [&private, &public] {
        if path.exists() {
            bail!(
                "{} is there already, and whoever lost a key cannot sign with it again; name another folder",
                path.display()
            );
        }
    }
    let key = random()?;
    // The mode is there from the first byte on.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&private);
    let written = file.as_mut().map_err(|error| anyhow::anyhow!("{error}")).and_then(|file| {
        file.write_all(key.to_pem()?.as_bytes())?;
        Ok(file.sync_all()?)
    });
    written.with_context(|| format!("cannot write {}", private.display()))?;
    stdx::fs::write_atomic(&public, key.public().to_pem()?.as_bytes(), 0o644)?;
    if is_in_git(&private) {
        eprintln!(
            "warning: {} is in a git work tree that does not ignore it; move it, and never commit it",
            private.display()
        );
    }
    render::key(&private, &public, &key.public().hint()?, flags.json)
}

fn random() -> Result<SigningKey> {
    const SOURCE: &str = "/dev/urandom";
    let mut source = stdx::fs::open(Path::new(SOURCE))?;
    loop {
        let mut bytes = [0; 32];
        source.read_exact(&mut bytes).with_context(|| format!("cannot read {SOURCE}"))?;
        if let Some(key) = SigningKey::from_random(&bytes) {
            return Ok(key);
        }
    }
}

/// Whether git would take the file into a commit.
fn is_in_git(path: &Path) -> bool {
    let Some(folder) = std::path::absolute(path).ok().and_then(|path| Some(path.parent()?.to_owned())) else {
        return false;
    };
    let git = |args: &[&str]| Cmd::new("git").args(args).cwd(&folder).read().is_ok();
    git(&["rev-parse", "--is-inside-work-tree"]) && !git(&["check-ignore", "--quiet", PRIVATE])
}

/// Whether images are going to be signed: a key is named, and a variable that should hold it does. Nothing of it is read.
pub(crate) fn is_there(settings: &SigningSettings) -> bool {
    match &settings.key {
        None => false,
        Some(KeySource::Env(name)) => std::env::var(name).is_ok_and(|pem| !pem.trim().is_empty()),
        Some(KeySource::File(_) | KeySource::Command(_)) => true,
    }
}

/// The key that signs, where one is configured. A variable that is not set is no key: not every machine has it.
///
/// # Errors
/// When the key is named and cannot be had; the text never holds a part of it.
pub(crate) fn load(root: &Path, settings: &SigningSettings) -> Result<Option<SigningKey>> {
    let (pem, place) = match &settings.key {
        None => return Ok(None),
        Some(KeySource::Env(name)) => match std::env::var(name) {
            Ok(pem) if !pem.trim().is_empty() => (pem, format!("the variable {name}")),
            _ => return Ok(None),
        },
        Some(KeySource::File(path)) => {
            let path = root.join(path);
            (private_file(&path)?, path.display().to_string())
        }
        Some(KeySource::Command(words)) => {
            let command = Cmd::new(&words[0]).args(&words[1..]).cwd(root);
            let pem = command.read().context("the command that prints the signing key failed")?;
            (pem, format!("what `{}` printed", words[0]))
        }
    };
    let key = SigningKey::from_pem(&pem).with_context(|| format!("{place} cannot sign"))?;
    if let Some(path) = &settings.public_key {
        let public = public(&root.join(path))?;
        if public != key.public() {
            bail!(
                "{path} is not the public half of the key in {place}: what was signed here could not be verified"
            );
        }
    }
    Ok(Some(key))
}

/// Reads a private key, unless others can, too.
fn private_file(path: &Path) -> Result<String> {
    let mode = std::fs::metadata(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        let mode = mode & 0o777;
        bail!(
            "{0} can be read by others (mode {mode:03o}); next: `chmod 600 {0}`, or make another key",
            path.display()
        );
    }
    stdx::fs::read_to_string(path)
}

/// Reads a public key.
pub(crate) fn public(path: &Path) -> Result<PublicKey> {
    PublicKey::from_pem(&stdx::fs::read_to_string(path)?)
        .with_context(|| format!("{} cannot verify", path.display()))
}
