//! Memory does not grow with what is packed. A file of its own: the largest memory is that of the whole process.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs::File;
use std::io::{self, Read};

use oci::{Compression, Layer, Layout, Source, Tree};

/// Kilobytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn packing_a_large_file_takes_little_memory_and_so_does_reading_it_back() {
    const SIZE: u64 = 192 << 20;
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(&folder.path().join("layout")).unwrap();
    let program = folder.path().join("program");
    // Sparse on disk: what is packed is 192 MiB of zeros all the same.
    File::create(&program).unwrap().set_len(SIZE).unwrap();
    let mut tree = Tree::new();
    tree.file("app/program", 0o555, Source::Path(program)).unwrap();
    let before = peak();
    for compression in [Compression::Zstd, Compression::Gzip] {
        let layer = Layer::pack(&tree, compression, "", &layout).unwrap();
        assert!(layer.unpacked_size > SIZE && layer.size < SIZE / 100);
        let blob = compression.open(&layout.blob_path(&layer.digest)).unwrap();
        assert_eq!(io::copy(&mut blob.take(u64::MAX), &mut io::sink()).unwrap(), layer.unpacked_size);
    }
    let grown = peak() - before;
    assert!(grown < 24 * 1024, "packing took {grown} kB");
}
