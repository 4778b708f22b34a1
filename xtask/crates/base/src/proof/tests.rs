//! Real programs and libraries, made by the C compiler of this machine, one for each way in which a start can fail.

use std::path::{Path, PathBuf};
use std::process::Command;

use oci::Tree;
use tempfile::TempDir;

use super::*;
use crate::closure::closure;

const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// A folder in which C is compiled.
struct Workshop(TempDir);

impl Workshop {
    fn new() -> Workshop {
        Workshop(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Compiles `code` into the file `out`.
    fn cc(&self, out: &str, code: &str, args: &[&str]) -> PathBuf {
        std::fs::write(self.path("code.c"), code).unwrap();
        let status = Command::new("cc")
            .args(["-o", out, "code.c", "-L."])
            .args(args)
            .current_dir(self.0.path())
            .status();
        assert!(status.unwrap().success());
        self.path(out)
    }

    fn locate(&self) -> impl Fn(&str) -> Option<PathBuf> + '_ {
        |name| {
            let own = self.path(name);
            if own.exists() {
                return Some(own);
            }
            let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().unwrap();
            let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
            path.is_absolute().then_some(path)
        }
    }

    /// A program of two libraries, one of which has versions and needs the other.
    fn program(&self) -> PathBuf {
        self.cc(
            "libinner.so.1",
            "int inner(void){return 1;}",
            &["-shared", "-fPIC", "-Wl,-soname,libinner.so.1"],
        );
        std::fs::write(
            self.path("map"),
            "OUTER_1.0 { global: outer; };\nOUTER_1.2 { global: outer2; } OUTER_1.0;\n",
        )
        .unwrap();
        let code = "int inner(void); int outer(void){return inner();} int outer2(void){return 2;}";
        self.cc(
            "libouter.so.2",
            code,
            &[
                "-shared",
                "-fPIC",
                "-Wl,-soname,libouter.so.2",
                "-Wl,--version-script=map",
                "-l:libinner.so.1",
            ],
        );
        self.cc(
            "program",
            "int outer2(void); int main(void){return outer2()-2;}",
            &["-l:libouter.so.2", "-Wl,--allow-shlib-undefined"],
        )
    }
}

fn file(tree: &mut Tree, path: &str, from: &Path) {
    tree.file(path, 0o555, Source::Path(from.to_owned())).unwrap();
}

fn problems(trees: &[&Tree], program: Option<&str>) -> Vec<String> {
    let root = Root::new(trees.iter().copied()).unwrap();
    let start = Start { architecture: ARCHITECTURE, program, ..Start::default() };
    prove(&root, &start).unwrap().iter().map(ToString::to_string).collect()
}

/// The root of the program and its libraries, without the file whose path ends so.
fn without(workshop: &Workshop, end: &str) -> (Tree, Tree) {
    let mut libraries = Tree::new();
    for (path, entry) in closure(&workshop.program(), &workshop.locate()).unwrap().tree().unwrap().iter() {
        if let Entry::File { mode, source } = entry
            && (end.is_empty() || !path.ends_with(end))
        {
            libraries.file(path, *mode, source.clone()).unwrap();
        }
    }
    let mut app = Tree::new();
    file(&mut app, "app/program", &workshop.path("program"));
    (libraries, app)
}

#[test]
fn the_closure_of_a_program_starts_it_and_each_part_of_it_is_needed() {
    let workshop = Workshop::new();
    let check = |end: &str, expected: &[&str]| {
        let (libraries, app) = without(&workshop, end);
        assert_eq!(problems(&[&libraries, &app], Some("/app/program")), expected, "without {end}");
    };
    check("", &[]);
    check("libouter.so.2", &["/app/program needs libouter.so.2, which is nowhere that its loader looks"]);
    let folder = if ARCHITECTURE == "amd64" { "x86_64" } else { "aarch64" };
    let outer = format!(
        "/lib/{folder}-linux-gnu/libouter.so.2 needs libinner.so.1, which is nowhere that its loader looks"
    );
    check("libinner.so.1", &[&outer]);
    let (libraries, app) = without(
        &workshop,
        if ARCHITECTURE == "amd64" { "ld-linux-x86-64.so.2" } else { "ld-linux-aarch64.so.1" },
    );
    let found = problems(&[&libraries, &app], Some("/app/program"));
    assert!(found.iter().any(|line| line.starts_with("/app/program is started by /lib")), "{found:?}");
    // What is proved is true: the real loader starts it from these files alone.
    let closure = closure(&workshop.path("program"), &workshop.locate()).unwrap();
    assert_eq!(closure.files.len(), 4, "{closure:?}");
}

#[test]
fn a_version_that_the_library_does_not_have_is_named() {
    let workshop = Workshop::new();
    let (libraries, app) = without(&workshop, "libouter.so.2");
    std::fs::write(workshop.path("map"), "OUTER_1.0 { global: outer; };\n").unwrap();
    let old = workshop.cc(
        "old",
        "int outer(void){return 1;}",
        &["-shared", "-fPIC", "-Wl,-soname,libouter.so.2", "-Wl,--version-script=map"],
    );
    let mut more = Tree::new();
    file(&mut more, "usr/lib/libouter.so.2", &old);
    let root = Root::new([&libraries, &more, &app]).unwrap();
    let start = Start { architecture: ARCHITECTURE, ..Start::default() };
    let found = prove(&root, &start).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].to_string(),
        "/app/program needs OUTER_1.2 of libouter.so.2, and the image's has OUTER_1.0 at most"
    );
    assert!(found[0].cure().contains("newer version of the library"));
}

#[test]
fn a_c_library_that_is_too_old_is_named_with_the_cure() {
    let provides = ["GLIBC_2.2.5", "GLIBC_2.9", "GLIBC_2.36", "GLIBC_PRIVATE"].map(str::to_owned).into();
    assert_eq!(newest(&provides, "GLIBC_2.38").as_deref(), Some("GLIBC_2.36"));
    let kind = Kind::Version {
        library: "libc.so.6".into(),
        version: "GLIBC_2.38".into(),
        newest: newest(&provides, "GLIBC_2.38"),
    };
    let problem = Problem { file: "app/x".into(), kind };
    assert!(problem.cure().contains("C library is not newer"), "{}", problem.cure());
}

#[test]
fn run_paths_count_as_the_loader_counts_them() {
    let workshop = Workshop::new();
    workshop.program();
    let link = |name: &str, flags: &[&str]| {
        let args = [&["-l:libouter.so.2", "-Wl,--allow-shlib-undefined"], flags].concat();
        workshop.cc(name, "int outer2(void); int main(void){return outer2()-2;}", &args)
    };
    let inherited = link("inherited", &["-Wl,--disable-new-dtags,-rpath,$ORIGIN/../private"]);
    let own = link("own", &["-Wl,--enable-new-dtags,-rpath,$ORIGIN/../private"]);
    let (libraries, _) = without(&workshop, "libouter.so.2");
    let mut base = Tree::new();
    for (path, entry) in libraries.iter().filter(|(path, _)| !path.ends_with("libinner.so.1")) {
        if let Entry::File { mode, source } = entry {
            base.file(path, *mode, source.clone()).unwrap();
        }
    }
    for name in ["libouter.so.2", "libinner.so.1"] {
        file(&mut base, &format!("opt/private/{name}"), &workshop.path(name));
    }
    let check = |program: &Path, expected: &[&str]| {
        let mut app = Tree::new();
        file(&mut app, "opt/bin/program", program);
        assert_eq!(problems(&[&base, &app], Some("/opt/bin/program")), expected);
    };
    check(&inherited, &[]);
    // The newer kind of path is not passed on to what a library needs.
    check(&own, &["/opt/private/libouter.so.2 needs libinner.so.1, which is nowhere that its loader looks"]);
}

#[test]
fn programs_scripts_and_links_must_be_there() {
    let workshop = Workshop::new();
    let program = workshop.cc("static", "int main(void){return 0;}", &["-static"]);
    let mut tree = Tree::new();
    file(&mut tree, "app/static", &program);
    tree.file("app/script", 0o555, Source::Bytes(b"#!/bin/sh\n".to_vec())).unwrap();
    tree.file("app/text", 0o444, Source::Bytes(b"text".to_vec())).unwrap();
    tree.file("app/cut", 0o555, Source::Bytes(b"\x7fELF\x02\x01\x01".to_vec())).unwrap();
    tree.symlink("app/link", "nowhere").unwrap();
    tree.symlink("app/log", "/dev/stdout").unwrap();
    let common = ["/app/cut is damaged: ", "/app/link is a link to nowhere, which is not in the image"];
    let check = |program: &str, expected: &[&str]| {
        let found: Vec<String> = problems(&[&tree], Some(program));
        let more: Vec<_> =
            found.iter().filter(|line| !common.iter().any(|text| line.starts_with(text))).collect();
        assert_eq!(more, expected);
        assert_eq!(found.len(), expected.len() + common.len(), "{found:?}");
    };
    check("/app/static", &[]);
    check("/app/script", &["/app/script is started by /bin/sh, which is not in the image"]);
    let mut shell = Tree::new();
    shell.file("bin/sh", 0o644, Source::Bytes(std::fs::read(&program).unwrap())).unwrap();
    let found = problems(&[&tree, &shell], Some("/app/script"));
    assert!(found.contains(&"/bin/sh starts others, and may not be executed".to_owned()), "{found:?}");
    check("/app/other", &["/app/other, the image's program, is not in the image"]);
    check("/app", &["/app, the image's program, is no file that can be executed"]);
    let text = "/app/text, the image's program, is no file that can be executed";
    check("/app/text", &[text]);
}

#[test]
fn a_file_for_another_processor_is_named() {
    let workshop = Workshop::new();
    let mut bytes = std::fs::read(workshop.cc("static", "int main(void){return 0;}", &["-static"])).unwrap();
    bytes[18..20].copy_from_slice(&22_u16.to_le_bytes());
    let mut tree = Tree::new();
    tree.file("app/x", 0o555, Source::Bytes(bytes)).unwrap();
    assert_eq!(problems(&[&tree], None), [format!("/app/x is for s390x and the image for {ARCHITECTURE}")]);
}
