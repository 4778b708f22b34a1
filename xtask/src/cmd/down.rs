//! `cargo xtask down`: stop everything of an environment.

use anyhow::Result;
use deploy::{Progress, Volumes};

use crate::exit::{Code, ResultExt};
use crate::{flags, render};

pub(crate) fn run(flags: &flags::Down) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let state = super::deploy::state(&root, &flags.environment)?;
    let layout = ::build::layout(&root).or_exit(Code::Configuration)?;
    let interrupted = super::interruption()?;
    let show = |event: Progress<'_>| {
        if let Progress::Note { text } = event {
            eprintln!("{text}");
        }
    };
    let site = super::deploy::site(super::deploy::launcher()?, &state, &layout, &interrupted, &show);
    let volumes = if flags.delete_data { Volumes::Remove } else { Volumes::Keep };
    if flags.dry_run {
        return render::down_plan(&::deploy::down_dry_run(&state, volumes)?, flags.json);
    }
    render::down(&::deploy::down(&site, volumes)?, flags.json)
}
