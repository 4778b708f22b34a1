//! Packs one file as a layer, for `ci/bench/packing`: `pack FILE gzip|zstd|none LAYOUT` prints seconds, bytes of the layer and the
//! largest memory in kB.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use oci::{Compression, Layer, Layout, Source, Tree};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, compression, layout] = arguments.as_slice() else { bail!("pack FILE gzip|zstd|none LAYOUT") };
    let compression = match compression.as_str() {
        "gzip" => Compression::Gzip,
        "zstd" => Compression::Zstd,
        "none" => Compression::None,
        other => bail!("{other} is no compression"),
    };
    let layout = Layout::create(Path::new(layout))?;
    let mut tree = Tree::new();
    tree.file("app/program", 0o555, Source::Path(file.into()))?;
    let started = Instant::now();
    let layer = Layer::pack(&tree, compression, "", &layout)?;
    let seconds = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    println!("{seconds:.3} {} {}", layer.size, peak.trim().trim_end_matches(" kB"));
    Ok(())
}
