//! What compilers, build scripts and Cargo say to people while they run: each warning with its package, as soon as it is there,
//! and what went wrong at the end, where it is read. It does not know how either is shown.

use std::sync::Mutex;

use cargo_metadata::CompilerMessage;
use cargo_metadata::diagnostic::DiagnosticLevel;

use crate::compile::short_name;
use crate::event::{Event, Reporter};

/// Cargo's own steps that take time or need patience.
const SHOWN_STEPS: [&str; 3] = ["Blocking", "Downloading", "Updating"];

/// Passes on what is said, and keeps errors until the end.
pub(crate) struct Diagnostics<'a> {
    reporter: &'a dyn Reporter,
    /// What compilers said, then what Cargo said of it.
    errors: Mutex<(Vec<String>, Vec<String>)>,
}

impl<'a> Diagnostics<'a> {
    pub(crate) fn new(reporter: &'a dyn Reporter) -> Diagnostics<'a> {
        Diagnostics { reporter, errors: Mutex::default() }
    }

    /// Takes a compiler's message.
    pub(crate) fn compiler(&self, message: &CompilerMessage) {
        let diagnostic = &message.message;
        let is_summary = diagnostic.spans.is_empty()
            && (diagnostic.message.starts_with("aborting due to")
                || diagnostic.message.ends_with(" emitted"));
        if is_summary {
            return;
        }
        let text = diagnostic.rendered.as_ref().unwrap_or(&diagnostic.message);
        let text = format!("{}: {}", short_name(&message.package_id.repr), text.trim_end());
        match diagnostic.level {
            DiagnosticLevel::Error | DiagnosticLevel::Ice | DiagnosticLevel::FailureNote => {
                self.errors().0.push(text);
            }
            _ => self.reporter.event(Event::Diagnostic(text)),
        }
    }

    /// Takes what Cargo writes to its standard error: its own steps, warnings of build scripts, errors.
    pub(crate) fn cargo(&self, lines: impl Iterator<Item = String>) {
        let mut block: Vec<String> = Vec::new();
        for line in lines {
            if let Some(step) = step(&line) {
                self.block(&std::mem::take(&mut block));
                if SHOWN_STEPS.contains(&step) {
                    self.reporter.event(Event::Diagnostic(line.trim().to_owned()));
                }
                continue;
            }
            if ["warning", "error"].iter().any(|word| line.starts_with(word)) {
                self.block(&std::mem::take(&mut block));
            }
            block.push(line);
        }
        self.block(&block);
    }

    /// Reports what went wrong; called once, when nothing else will be said.
    pub(crate) fn finish(&self) {
        let (compilers, cargo) = std::mem::take(&mut *self.errors());
        compilers.into_iter().chain(cargo).for_each(|text| self.reporter.event(Event::Diagnostic(text)));
    }

    fn block(&self, lines: &[String]) {
        let text = lines.join("\n").trim_end().to_owned();
        // Each of them was shown with its package.
        let is_count = text.starts_with("warning: `") && text.contains(" generated ");
        if text.is_empty() || is_count || text.starts_with("warning: build failed, waiting for other jobs") {
            return;
        }
        if text.starts_with("error") {
            self.errors().1.push(text);
        } else {
            self.reporter.event(Event::Diagnostic(text));
        }
    }

    fn errors(&self) -> std::sync::MutexGuard<'_, (Vec<String>, Vec<String>)> {
        self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The word of one of Cargo's steps, which ends in the twelfth column: `   Compiling api v0.1.0`.
pub(crate) fn step(line: &str) -> Option<&str> {
    let (word, rest) = line.split_at_checked(12)?;
    let word = word.trim_start();
    let is_word = word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(char::is_alphabetic);
    (is_word && rest.starts_with(' ')).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Reporter for Lines {
        fn event(&self, event: Event) {
            let Event::Diagnostic(text) = event else { panic!("{event:?}") };
            self.0.lock().unwrap().push(text);
        }
    }

    fn compiler(package: &str, level: &str, text: &str) -> CompilerMessage {
        serde_json::from_value(serde_json::json!({
            "package_id": format!("registry+https://example.com/index#{package}@1.0.0"),
            "target": { "name": package, "kind": ["bin"], "crate_types": ["bin"], "src_path": "/x", "edition": "2024" },
            "message": {
                "message": text, "code": null, "level": level, "children": [], "rendered": format!("{level}: {text}\n\n"),
                "spans": [],
            },
        }))
        .unwrap()
    }

    #[test]
    fn warnings_are_shown_at_once_and_errors_last() {
        let lines = Lines::default();
        let diagnostics = Diagnostics::new(&lines);
        diagnostics.compiler(&compiler("bad", "error", "no such thing"));
        diagnostics.compiler(&compiler("bad", "error", "aborting due to 1 previous error"));
        diagnostics.compiler(&compiler("good", "warning", "unused"));
        diagnostics.compiler(&compiler("good", "warning", "1 warning emitted"));
        let text = "   Compiling bad v1.0.0 (/w/bad)\n    Blocking waiting for file lock on build directory\n\
                    warning: good@1.0.0: said by its build script\n\
                    warning: `good` (bin \"good\") generated 1 warning\n\
                    error: failed to run custom build command for `worse`\n\nCaused by:\n  --- stderr\n  why\n\
                    warning: build failed, waiting for other jobs to finish...\nwarning: late@1.0.0: later\n";
        diagnostics.cargo(text.lines().map(str::to_owned));
        diagnostics.finish();
        let expected = [
            "good: warning: unused",
            "Blocking waiting for file lock on build directory",
            "warning: good@1.0.0: said by its build script",
            "warning: late@1.0.0: later",
            "bad: error: no such thing",
            "error: failed to run custom build command for `worse`\n\nCaused by:\n  --- stderr\n  why",
        ];
        assert_eq!(*lines.0.lock().unwrap(), expected);
    }

    #[test]
    fn code_that_stands_beside_a_bar_is_no_step() {
        for line in
            ["  --> src/main.rs:1:5", "   |         ^^^ help", "12 |     let Some = 1;", "", "  = note: x"]
        {
            assert_eq!(step(line), None, "{line}");
        }
        assert_eq!(step("    Finished `release` profile"), Some("Finished"));
    }
}
