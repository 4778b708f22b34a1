//! The files of a published release, into a folder. Names, sizes and digests come from a server: a name is a plain file name
//! or nothing is fetched. Invariant: the folder appears at once with all its files, each checked, or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::future::{Future, poll_fn};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use stdx::Digest;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::call::{Call, Save, encode};
use crate::client::Client;
use crate::failure::Failure;
use crate::release::{MAX_ASSETS, MAX_SIZE, check_tag};
use crate::request::ReleaseDownload;
use crate::response::{Done, Outcome};
use crate::run::Plan;

const NEEDS: &str = "the permission `contents: read`";

/// All files of a release together: more than the images of a large workspace, less than the disk of a runner.
const MAX_TOTAL: u64 = 10 << 30;

/// A file of the release.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asset {
    id: u64,
    size: u64,
    digest: Option<Digest>,
}

/// Asks which files there are; none of them is fetched.
pub(crate) async fn plan(client: &Client, wanted: &ReleaseDownload) -> Result<Plan, Failure> {
    let repository = client.repository();
    let call = lookup(&repository, wanted)?;
    let release = client.send(&call).await?.body;
    let id = release["id"].as_u64().filter(|_| release["tag_name"] == wanted.tag.as_str());
    let id = id.ok_or_else(|| Failure::unexpected(&call, "the answer is not the release of this tag"))?;
    let call =
        Call::get(format!("{repository}/releases/{id}/assets"), "list the files of the release", NEEDS);
    let assets = parse(&client.list(&call, None).await?, &call)?;
    if assets.is_empty() {
        return Err(Failure::Refused(format!("the release `{}` has no files", wanted.tag)));
    }
    let mut plan = Plan {
        thing: "release",
        outcome: Outcome::Fetched,
        calls: Vec::new(),
        id: Some(id),
        url: release["html_url"].as_str().map(str::to_owned),
        notes: Vec::new(),
    };
    if holds(&wanted.into, &assets)? {
        plan.outcome = Outcome::Unchanged;
        return Ok(plan);
    }
    plan.notes.extend(unproven(&assets));
    plan.calls = assets.iter().map(|(name, asset)| fetch(&repository, &wanted.into, name, asset)).collect();
    Ok(plan)
}

/// The request that everything else follows from.
pub(crate) fn plan_for_nothing(repository: &str, wanted: &ReleaseDownload) -> Result<Plan, Failure> {
    Ok(Plan {
        thing: "release",
        outcome: Outcome::Fetched,
        calls: vec![lookup(repository, wanted)?],
        id: None,
        url: None,
        notes: vec!["which files the release has is not known without a token".to_owned()],
    })
}

/// By its tag GitHub finds published releases only: a draft is nothing that may be deployed.
fn lookup(repository: &str, wanted: &ReleaseDownload) -> Result<Call, Failure> {
    check_tag(&wanted.tag).map_err(|error| Failure::input(&error))?;
    let path = format!("{repository}/releases/tags/{}", encode(&wanted.tag));
    Ok(Call::get(path, &format!("find the published release `{}`", wanted.tag), NEEDS))
}

fn fetch(repository: &str, into: &Path, name: &str, asset: &Asset) -> Call {
    let path = format!("{repository}/releases/assets/{}", asset.id);
    let save = Save { path: into.join(name), size: asset.size, digest: asset.digest };
    Call::get(path, &format!("download {name}"), NEEDS).save(save)
}

fn unproven(assets: &BTreeMap<String, Asset>) -> Option<String> {
    let count = assets.values().filter(|asset| asset.digest.is_none()).count();
    (count > 0).then(|| {
        format!(
            "the server names no digest of {count} of {} files: of these only the size is checked",
            assets.len()
        )
    })
}

/// The files by name, within bounds.
fn parse(list: &[Value], call: &Call) -> Result<BTreeMap<String, Asset>, Failure> {
    let parse = || -> Result<BTreeMap<String, Asset>> {
        if list.len() > MAX_ASSETS {
            bail!("the release has more than {MAX_ASSETS} files");
        }
        let mut assets = BTreeMap::new();
        let mut folded = std::collections::BTreeSet::new();
        for asset in list {
            let (name, asset) = one(asset)?;
            // Some file systems do not tell the case of letters apart.
            if !folded.insert(name.to_ascii_lowercase()) {
                bail!("two files are called {name}");
            }
            assets.insert(name, asset);
        }
        if assets.values().map(|asset| asset.size).sum::<u64>() > MAX_TOTAL {
            bail!("the files have more than {MAX_TOTAL} bytes together");
        }
        Ok(assets)
    };
    parse().map_err(|error| Failure::unexpected(call, format!("{error:#}")))
}

fn one(asset: &Value) -> Result<(String, Asset)> {
    let name = asset["name"].as_str().context("a file has no name")?;
    if !is_plain(name) {
        bail!("a file is called {name:?}, which is no plain file name");
    }
    if asset["state"] != "uploaded" {
        bail!("{name} was not uploaded to its end");
    }
    let size = asset["size"].as_u64().filter(|size| *size < MAX_SIZE);
    let size = size.with_context(|| format!("{name} has no size below {MAX_SIZE} bytes"))?;
    let digest = match &asset["digest"] {
        Value::Null => None,
        Value::String(text) => Some(text.parse().with_context(|| format!("{name} has an unknown digest"))?),
        _ => bail!("{name} has a digest that is no text"),
    };
    let id = asset["id"].as_u64().with_context(|| format!("{name} has no id"))?;
    Ok((name.to_owned(), Asset { id, size, digest }))
}

/// A name that is a file in its folder on every system, hidden from nobody and taken for no option.
fn is_plain(name: &str) -> bool {
    name.len() <= 255
        && !name.starts_with(['.', '-'])
        && !name.ends_with('.')
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\:*?\"'`<>|$&;!".contains(&byte))
}

/// Whether the folder holds these files already; false where it is missing or empty. With anything else in it, it is somebody's.
fn holds(into: &Path, assets: &BTreeMap<String, Asset>) -> Result<bool, Failure> {
    let look = || -> Result<Option<BTreeMap<String, PathBuf>>> {
        match fs::symlink_metadata(into) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot look at {}", into.display())),
            Ok(metadata) if !metadata.is_dir() => bail!("{} is no folder", into.display()),
            Ok(_) => {}
        }
        let mut there = BTreeMap::new();
        for entry in fs::read_dir(into).with_context(|| format!("cannot read {}", into.display()))? {
            let entry = entry?;
            there.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
        }
        Ok(Some(there))
    };
    let there = look().map_err(|error| Failure::input(&error))?.unwrap_or_default();
    if there.is_empty() {
        return Ok(false);
    }
    let odd = there.iter().find(|(name, path)| !assets.get(*name).is_some_and(|asset| is_same(path, asset)));
    let why = match odd {
        Some((name, _)) => format!("{name:?} in it is no file of the release, or cannot be compared"),
        None if there.len() < assets.len() => "files of the release are missing in it".to_owned(),
        None => return Ok(true),
    };
    Err(Failure::Refused(format!(
        "{} is not empty, and {why}: remove it, or name another folder with --into",
        into.display()
    )))
}

fn is_same(path: &Path, asset: &Asset) -> bool {
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let found = || Digest::of_reader(stdx::fs::open(path).ok()?).ok();
    is_file && found().is_some_and(|(digest, size)| size == asset.size && Some(digest) == asset.digest)
}

/// Fetches what is planned beside the folder, and puts it in its place when all of it is there.
pub(crate) async fn carry_out(client: &Client, wanted: &ReleaseDownload) -> Result<Done, Failure> {
    let plan = unless_interrupted(plan(client, wanted)).await?;
    if !plan.calls.is_empty() {
        let staging = stage(&wanted.into).map_err(|error| Failure::input(&error))?;
        unless_interrupted(fetch_all(client, &plan.calls, staging.path())).await?;
        settle(staging, &wanted.into).map_err(|error| Failure::input(&error))?;
    }
    let requests = plan.calls.iter().map(Call::show).collect();
    let Plan { thing, outcome, id, url, notes, .. } = plan;
    Ok(Done { outcome, thing, id, url, notes, requests, observed: true })
}

async fn fetch_all(client: &Client, calls: &[Call], staging: &Path) -> Result<(), Failure> {
    for call in calls {
        let mut call = call.clone();
        if let Some(save) = &mut call.save {
            save.path = staging.join(save.path.file_name().unwrap_or_default());
        }
        client.send(&call).await?;
    }
    Ok(())
}

/// A folder of our own beside `into`, so that one rename puts all of it in place.
fn stage(into: &Path) -> Result<TempDir> {
    let parent = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    stdx::fs::create_dir_all(parent)?;
    tempfile::Builder::new()
        .prefix(".slipway-download-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot create a folder in {}", parent.display()))
}

fn settle(staging: TempDir, into: &Path) -> Result<()> {
    let place = || -> std::io::Result<()> {
        fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755))?;
        fs::rename(staging.path(), into)
    };
    place().with_context(|| format!("cannot put the files into {}", into.display()))?;
    // It has its own name now, and nothing is left to remove.
    let _ = staging.keep();
    Ok(())
}

/// Ends the work at a signal, so that what it began is removed.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::Input(format!("cannot listen for signals: {error}")));
    let mut signals = [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?];
    let mut work = pin!(work);
    poll_fn(|cx| {
        if signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
            return Poll::Ready(Err(Failure::Interrupted));
        }
        work.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asset(name: &str) -> Value {
        json!({ "id": 1, "name": name, "state": "uploaded", "size": 3, "digest": Digest::of("abc").to_string() })
    }

    fn read(list: &[Value]) -> Result<BTreeMap<String, Asset>, Failure> {
        parse(list, &Call::get("/x", "list", ""))
    }

    #[test]
    fn names_are_plain_or_nothing_is_fetched() {
        for name in ["release.json", "api-1.2.0+x86_64.tar.gz", "a@b~1", "(1)"] {
            assert!(read(&[asset(name)]).is_ok(), "{name}");
        }
        let long = "x".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "a\\b",
            ".bashrc",
            "-rf",
            "a\nb",
            "a b",
            "C:x",
            "é",
            "x.",
            &long,
        ] {
            assert!(read(&[asset(name)]).is_err(), "{name}");
        }
        assert!(read(&[asset("A"), asset("a")]).is_err());
    }

    #[test]
    fn what_is_odd_about_a_file_is_refused() {
        let with = |member: &str, value: Value| {
            let mut asset = asset("a");
            asset[member] = value;
            read(&[asset])
        };
        assert_eq!(with("digest", Value::Null).unwrap()["a"].digest, None);
        for (member, value) in [
            ("digest", json!("md5:0")),
            ("digest", json!(7)),
            ("state", json!("starter")),
            ("size", json!(MAX_SIZE)),
            ("size", json!(-1)),
            ("id", json!("../1")),
            ("name", Value::Null),
        ] {
            assert!(with(member, value.clone()).is_err(), "{member} {value}");
        }
        let large: Vec<_> = (0..6)
            .map(|at| {
                let mut asset = asset(&format!("a{at}"));
                asset["size"] = json!(MAX_SIZE - 1);
                asset
            })
            .collect();
        assert!(read(&large).is_err());
    }

    #[test]
    fn only_a_folder_that_is_free_or_equal_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("into");
        let assets = read(&[asset("a")]).unwrap();
        assert!(!holds(&into, &assets).unwrap());
        fs::create_dir(&into).unwrap();
        assert!(!holds(&into, &assets).unwrap());
        fs::write(into.join("a"), "abc").unwrap();
        assert!(holds(&into, &assets).unwrap());
        fs::write(into.join("a"), "abd").unwrap();
        assert!(holds(&into, &assets).is_err());
        fs::write(into.join("a"), "abc").unwrap();
        fs::write(into.join("b"), "mine").unwrap();
        assert!(holds(&into, &assets).unwrap_err().to_string().contains("\"b\""));
        assert!(holds(&into.join("a"), &assets).is_err());
    }
}
