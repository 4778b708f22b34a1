//! Images without a registry.

use docker::{Error, Store, TransferKind};
use oci::Compression;

use crate::rig::Lab;

#[test]
fn only_what_the_engine_lacks_is_sent() {
    let Some(lab) = Lab::open() else { return };
    let base = lab.noise("base", 3 << 20, Compression::Gzip);
    let image = |tag: &str, file: &str| {
        let image = lab.image(vec![base.clone(), lab.noise(file, 10_000, Compression::Gzip)], "");
        (image, lab.engine.transfer(&lab.layout, image, &lab.reference(tag)).unwrap())
    };
    let (first, sent) = image("1", "one");
    assert_eq!((sent.kind, sent.sent_layers, sent.layers), (TransferKind::Full, 2, 2));
    assert!(sent.sent_bytes > 3 << 20, "{sent:?}");
    assert_eq!(sent.id, lab.layout.config(&first).unwrap().to_string());
    let again = lab.engine.transfer(&lab.layout, first, &lab.reference("again")).unwrap();
    assert_eq!((again.kind, again.sent_bytes, &again.id), (TransferKind::Present, 0, &sent.id));
    let (second, sent) = image("2", "two");
    if let Store::Containerd(_) = lab.engine.facts().store {
        return;
    }
    assert_eq!((sent.kind, sent.sent_layers, sent.layers), (TransferKind::Incremental, 1, 2));
    assert!(sent.sent_bytes < 40_000, "{sent:?}");
    assert_eq!(sent.id, lab.layout.config(&second).unwrap().to_string());
    println!("3 MiB and 10 kB: second image sent in {} bytes", sent.sent_bytes);
}

#[test]
fn an_image_that_came_in_parts_has_all_its_files_in_every_compression() {
    let Some(lab) = Lab::open() else { return };
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let base = lab.noise(&format!("base-{compression:?}"), 100_000, compression);
        let program = lab.program(compression);
        let only_base = lab.image(vec![base.clone()], "");
        lab.engine.transfer(&lab.layout, only_base, &lab.reference("base")).unwrap();
        let image = lab.image(vec![base, program], "");
        let reference = lab.reference(&format!("{compression:?}").to_lowercase());
        let sent = lab.engine.transfer(&lab.layout, image, &reference).unwrap();
        assert_ne!(sent.kind, TransferKind::Present);
        let name = format!("{compression:?}").to_lowercase();
        let step = format!("stat=/base-{compression:?}");
        let (status, output) = lab.run(&lab.spec(&name, &sent.id, &[&step]));
        assert_eq!(status, 0);
        assert!(output.contains("ok 444 0 0"), "{output}");
    }
}

#[test]
fn a_damaged_layer_is_named_and_never_becomes_an_image() {
    let Some(lab) = Lab::open() else { return };
    for compression in [Compression::Gzip, Compression::None] {
        let layer = lab.noise(&format!("victim-{compression:?}"), 1 << 20, compression);
        let image = lab.image(vec![layer.clone()], "");
        let path = lab.layout.blob_path(&layer.digest);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let error = lab.engine.transfer(&lab.layout, image, &lab.reference("damaged")).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::Local { .. })
                && text.contains("damaged")
                && text.contains(&layer.digest.hex()),
            "{text}"
        );
        assert_eq!(lab.engine.image(&lab.reference("damaged")).unwrap(), None);
        assert_eq!(lab.engine.image(&lab.layout.config(&image).unwrap().to_string()).unwrap(), None);
    }
}

#[test]
fn layers_that_go_away_while_it_is_sent_are_sent_after_all() {
    let Some(lab) = Lab::open() else { return };
    let missing = lab.noise("nobody-has-this", 50_000, Compression::Gzip);
    let image = lab.image(vec![missing], "");
    // What the engine says when an archive counts on layers that it does not have.
    let mut archive = Vec::new();
    let form = oci::ArchiveForm { layers: oci::ArchiveLayers::AsStored, without_lowest: 1 };
    oci::write_archive(&lab.layout, image, &lab.reference("x"), form, &mut archive).unwrap();
    let mut load = std::process::Command::new("docker")
        .arg("load")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut load.stdin.take().unwrap(), &archive).ok();
    assert!(!load.wait().unwrap().success());
    assert_eq!(lab.engine.image(&lab.reference("x")).unwrap(), None);
    let sent = lab.engine.transfer(&lab.layout, image, &lab.reference("x")).unwrap();
    assert_eq!(sent.kind, TransferKind::Full);
}
