//! Progress of a build on standard error: a bar on a terminal, else one line for each thing done.

use std::io::{IsTerminal, stderr};

use build::{Event, Reporter};
use indicatif::{ProgressBar, ProgressStyle};

/// Shows events as they happen.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar where standard error is a terminal.
    pub(crate) fn new() -> Progress {
        Progress { bar: stderr().is_terminal().then(ProgressBar::new_spinner) }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Reporter for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::Waiting => self.line("waiting for another build of this workspace"),
            Event::Diagnostic(text) => self.line(&text),
            Event::CompileStarted { units } => match &self.bar {
                Some(bar) => start(bar, units),
                None => eprintln!("compiling"),
            },
            Event::Compiled { package, fresh } => {
                if let Some(bar) = &self.bar {
                    bar.inc(1);
                    bar.set_message(package);
                } else if !fresh {
                    eprintln!("compiled {package}");
                }
            }
            Event::CompileFinished { .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_message("packing images");
                }
            }
            Event::Fetching { image, bytes, of } => match &self.bar {
                Some(bar) => {
                    let (bytes, of) = (super::bytes(bytes), super::bytes(of));
                    bar.set_message(format!("fetching {image}: {bytes} of {of}"));
                }
                None if bytes == 0 => eprintln!("fetching {image}"),
                None => {}
            },
            Event::Packed { service } => {
                if self.bar.is_none() {
                    eprintln!("packed {service}");
                }
            }
        }
    }
}

/// Without an earlier build nobody knows how many compilations there will be: a count then, no bar.
fn start(bar: &ProgressBar, units: usize) {
    let template =
        if units == 0 { "{spinner} {pos} compiled  {wide_msg}" } else { "{bar:30} {pos}/{len}  {wide_msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_length(units as u64);
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
}
