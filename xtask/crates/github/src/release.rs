//! Releases: a draft first, then its files, then it is published, so that nobody sees a release without its SBOM. Files that are
//! there with the same digest stay. Invariant: a file of a published release is only replaced where the caller said so.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use stdx::Digest;

use crate::call::{Asset, Body, Call, Method, compact};
use crate::client::Client;
use crate::failure::{self, Failure};
use crate::request::Release;
use crate::response::Outcome;
use crate::run::Plan;
use crate::{files, markdown};

const NEEDS: &str = "the permission `contents: write`";

/// GitHub's bounds for a release.
pub(crate) const MAX_ASSETS: usize = 1_000;
pub(crate) const MAX_SIZE: u64 = 2 << 30;
const MAX_NOTES: usize = 125_000;

/// A release as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    release: Release,
    notes: Option<String>,
    assets: Vec<Asset>,
}

/// A release that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    release: Value,
    /// By name.
    assets: BTreeMap<String, Value>,
}

pub(crate) async fn plan(client: &Client, release: &Release) -> Result<Plan, Failure> {
    let wanted = load(release)?;
    let observed = observe(client, &release.tag).await?;
    lower(&client.repository(), &wanted, observed.as_ref())
}

/// The release of the tag; a published one before a draft. A draft has no tag of its own, so that the list is searched.
async fn observe(client: &Client, tag: &str) -> Result<Option<Observed>, Failure> {
    let call = Call::get(format!("{}/releases", client.repository()), "list the releases", NEEDS);
    let releases = client.list(&call, None).await?;
    let of_tag = releases.into_iter().filter(|release| release["tag_name"] == tag);
    let Some(release) = of_tag.min_by_key(|release| release["draft"] == true) else { return Ok(None) };
    let id = release["id"].as_u64().ok_or_else(|| Failure::unexpected(&call, "a release has no id"))?;
    let path = format!("{}/releases/{id}/assets", client.repository());
    let assets = client.list(&Call::get(path, "list the files of the release", NEEDS), None).await?;
    let named = |asset: Value| Some((asset["name"].as_str()?.to_owned(), asset));
    Ok(Some(Observed { release, assets: assets.into_iter().filter_map(named).collect() }))
}

/// Reads the notes and hashes the files.
pub(crate) fn load(release: &Release) -> Result<Wanted, Failure> {
    let load = || -> Result<Wanted> {
        check_tag(&release.tag)?;
        let notes = release.notes.as_deref().map(files::text).transpose()?;
        let mut assets = release.assets.iter().map(|path| asset(path)).collect::<Result<Vec<_>>>()?;
        assets.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = assets.windows(2).find(|pair| pair[0].name == pair[1].name) {
            bail!(
                "{} and {} have one name; a release has one file of a name",
                pair[0].path.display(),
                pair[1].path.display()
            );
        }
        if assets.len() > MAX_ASSETS {
            bail!("{} files are more than the {MAX_ASSETS} that a release takes", assets.len());
        }
        Ok(Wanted {
            release: release.clone(),
            notes: notes.map(|notes| markdown::bounded(&notes, MAX_NOTES)),
            assets,
        })
    };
    load().map_err(|error| Failure::input(&error))
}

/// As git takes them (git-check-ref-format), as far as it matters in a URL.
pub(crate) fn check_tag(tag: &str) -> Result<()> {
    let is_odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    if tag.len() > 250 || tag.starts_with('-') || tag.contains(is_odd) || !tag.split('/').all(is_part) {
        bail!("`{}` cannot be a tag", failure::clean(tag));
    }
    Ok(())
}

fn asset(path: &Path) -> Result<Asset> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no name that is text", path.display()))?;
    // GitHub silently renames what has other characters, and would then not be found again.
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
        || name.starts_with('.')
    {
        bail!("{name} cannot be the name of a release's file: letters, digits, and - _ + . but not first");
    }
    let (digest, size) = Digest::of_reader(stdx::fs::open(path)?)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if size == 0 || size >= MAX_SIZE {
        bail!("{} has {size} bytes; GitHub takes 1 to {} bytes", path.display(), MAX_SIZE - 1);
    }
    Ok(Asset { name: name.to_owned(), path: path.to_owned(), size, digest, content_type: content_type(name) })
}

/// The media type of a file, by its name.
fn content_type(name: &str) -> &'static str {
    let endings = [
        (".cdx.json", "application/vnd.cyclonedx+json"),
        (".spdx.json", "application/spdx+json"),
        (".intoto.jsonl", "application/vnd.in-toto+json"),
        (".sigstore.json", "application/vnd.dev.sigstore.bundle.v0.3+json"),
        (".sarif", "application/sarif+json"),
        (".json", "application/json"),
        (".jsonl", "application/jsonl"),
        (".tar.gz", "application/gzip"),
        (".tgz", "application/gzip"),
        (".gz", "application/gzip"),
        (".tar", "application/x-tar"),
        (".zip", "application/zip"),
        (".md", "text/markdown"),
        (".txt", "text/plain"),
    ];
    endings
        .iter()
        .find(|(ending, _)| name.ends_with(ending))
        .map_or("application/octet-stream", |(_, kind)| kind)
}

pub(crate) fn lower(repository: &str, wanted: &Wanted, observed: Option<&Observed>) -> Result<Plan, Failure> {
    let mut plan = Plan {
        thing: "release",
        outcome: Outcome::Created,
        calls: Vec::new(),
        id: None,
        url: None,
        notes: Vec::new(),
    };
    let Some(observed) = observed else {
        plan.calls.push(
            Call::post(
                format!("{repository}/releases"),
                wanted.body(true),
                "create the release as a draft",
                NEEDS,
            )
            .keeps(&[("id", "release"), ("upload_url", "upload_url")]),
        );
        plan.calls.extend(wanted.assets.iter().map(|asset| upload("{upload_url}", asset)));
        if !wanted.release.draft {
            plan.calls.push(publish(&format!("{repository}/releases/{{release}}"), wanted));
        }
        return Ok(plan);
    };
    let id = observed.release["id"].as_u64().unwrap_or_default();
    plan.id = Some(id);
    plan.url = observed.release["html_url"].as_str().map(str::to_owned);
    plan.calls = complete(repository, wanted, observed)?;
    let is_draft = observed.release["draft"] == true;
    if is_draft && !wanted.release.draft || !wanted.is_described_by(&observed.release) {
        plan.calls.push(publish(&format!("{repository}/releases/{id}"), wanted));
    }
    if !is_draft && wanted.release.draft {
        plan.notes.push("the release is published already and stays so".to_owned());
    }
    plan.outcome = if plan.calls.is_empty() { Outcome::Unchanged } else { Outcome::Updated };
    Ok(plan)
}

/// Uploads what is missing, and replaces what differs.
fn complete(repository: &str, wanted: &Wanted, observed: &Observed) -> Result<Vec<Call>, Failure> {
    let is_published = observed.release["draft"] != true;
    let url = observed.release["upload_url"].as_str().unwrap_or_default();
    let url = url.split('{').next().unwrap_or_default();
    let mut calls = Vec::new();
    for asset in &wanted.assets {
        if let Some(there) = observed.assets.get(&asset.name) {
            if is_same(asset, there) {
                continue;
            }
            // An upload that broke off is no file that anyone has.
            let is_whole = there["state"] == "uploaded";
            if is_published && is_whole && !wanted.release.replace {
                return Err(Failure::Refused(format!(
                    "the published release `{}` has another file `{}`: give the new one another name, make another release, \
                     or replace it with --replace",
                    wanted.release.tag, asset.name
                )));
            }
            let id = there["id"].as_u64().unwrap_or_default();
            let path = format!("{repository}/releases/assets/{id}");
            let what = format!("delete the former {}", asset.name);
            calls.push(Call::new(Method::Delete, path, Body::Empty, what, NEEDS));
        }
        calls.push(upload(url, asset));
    }
    Ok(calls)
}

/// GitHub gives digests of what was uploaded since 2025; where there is none (an older server), the size must do.
fn is_same(asset: &Asset, there: &Value) -> bool {
    let is_equal = match there["digest"].as_str() {
        Some(digest) => digest == asset.digest.to_string(),
        None => there["size"] == asset.size,
    };
    there["state"] == "uploaded" && is_equal
}

fn upload(url: &str, asset: &Asset) -> Call {
    let what = format!("upload {}", asset.name);
    Call::new(Method::Post, url, Body::File(asset.clone()), what, NEEDS).query("name", asset.name.as_str())
}

/// An upload whose answer names other bytes than ours is none.
pub(crate) fn check_upload(call: &Call, answer: &Value) -> Result<(), Failure> {
    let Body::File(asset) = &call.body else { return Ok(()) };
    let size_differs = answer["size"].as_u64().is_some_and(|size| size != asset.size);
    let digest_differs = answer["digest"].as_str().is_some_and(|digest| digest != asset.digest.to_string());
    if size_differs || digest_differs {
        return Err(Failure::unexpected(
            call,
            format!("GitHub holds other bytes than {}; the release stays as it is", asset.path.display()),
        ));
    }
    Ok(())
}

fn publish(path: &str, wanted: &Wanted) -> Call {
    let what = if wanted.release.draft { "describe the release" } else { "publish the release" };
    Call::patch(path, wanted.body(wanted.release.draft), what, NEEDS)
}

impl Wanted {
    fn title(&self) -> &str {
        self.release.title.as_deref().unwrap_or(&self.release.tag)
    }

    fn body(&self, is_draft: bool) -> Value {
        compact(json!({
            "tag_name": self.release.tag,
            "target_commitish": self.release.commit,
            "name": self.title(),
            "body": self.notes,
            "draft": is_draft,
            "prerelease": self.release.prerelease,
        }))
    }

    /// Whether title, notes and kind are as wanted; notes that are not given may be anything.
    fn is_described_by(&self, release: &Value) -> bool {
        let text =
            |value: &Value| value.as_str().unwrap_or_default().replace("\r\n", "\n").trim_end().to_owned();
        let notes = self.notes.as_ref().is_none_or(|notes| text(&json!(notes)) == text(&release["body"]));
        notes && text(&release["name"]) == self.title() && release["prerelease"] == self.release.prerelease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> Wanted {
        let asset = |name: &&str| Asset {
            name: (*name).to_owned(),
            path: name.into(),
            size: 3,
            digest: Digest::of(name),
            content_type: "text/plain",
        };
        let release = Release {
            tag: "v1".into(),
            commit: None,
            title: None,
            notes: None,
            assets: Vec::new(),
            draft: false,
            prerelease: false,
            replace: false,
        };
        Wanted { release, notes: None, assets: names.iter().map(asset).collect() }
    }

    fn there(is_draft: bool, assets: &[(&str, &str)]) -> Observed {
        let release = json!({ "id": 5, "draft": is_draft, "name": "v1", "prerelease": false,
            "upload_url": "https://u/releases/5/assets{?name,label}" });
        let asset = |&(name, content): &(&str, &str)| {
            let digest = Digest::of(content).to_string();
            (name.to_owned(), json!({ "id": 8, "name": name, "state": "uploaded", "digest": digest }))
        };
        Observed { release, assets: assets.iter().map(asset).collect() }
    }

    fn calls(plan: &Plan) -> Vec<String> {
        plan.calls.iter().map(|call| format!("{} {}", call.method.name(), call.target())).collect()
    }

    #[test]
    fn a_release_is_public_only_with_all_its_files() {
        let plan = lower("/r", &wanted(&["a", "b"]), None).unwrap();
        assert_eq!(
            calls(&plan),
            [
                "POST /r/releases",
                "POST {upload_url}?name=a",
                "POST {upload_url}?name=b",
                "PATCH /r/releases/{release}"
            ]
        );
    }

    #[test]
    fn an_interrupted_release_is_completed() {
        let plan =
            lower("/r", &wanted(&["a", "b"]), Some(&there(true, &[("a", "a"), ("b", "old")]))).unwrap();
        assert_eq!(
            calls(&plan),
            ["DELETE /r/releases/assets/8", "POST https://u/releases/5/assets?name=b", "PATCH /r/releases/5"]
        );
    }

    #[test]
    fn a_published_release_keeps_its_files_unless_told_otherwise() {
        let mut wanted = wanted(&["a"]);
        assert_eq!(
            lower("/r", &wanted, Some(&there(false, &[("a", "a")]))).unwrap().outcome,
            Outcome::Unchanged
        );
        let other = there(false, &[("a", "other")]);
        let refused = lower("/r", &wanted, Some(&other)).unwrap_err();
        assert!(refused.to_string().contains("--replace"), "{refused}");
        wanted.release.replace = true;
        assert_eq!(lower("/r", &wanted, Some(&other)).unwrap().calls.len(), 2);
    }

    #[test]
    fn media_types_follow_the_longest_ending() {
        let types = ["api.cdx.json", "release.json", "p.intoto.jsonl", "x.tar.gz", "x"].map(content_type);
        assert_eq!(
            types,
            [
                "application/vnd.cyclonedx+json",
                "application/json",
                "application/vnd.in-toto+json",
                "application/gzip",
                "application/octet-stream"
            ]
        );
    }
}
