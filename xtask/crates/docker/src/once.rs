//! A program that runs to its end once, as a migration does: its output as it comes, its end in time, nothing of it left.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bollard::container::AttachContainerResults;
use bollard::query_parameters::AttachContainerOptionsBuilder;

use crate::engine::{Engine, QUICK};
use crate::error::{Error, Result};
use crate::logs::Line;
use crate::spec::{ContainerSpec, Restart};

/// What the engine may still have to say when a program has ended.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// The last lines of an output that is too long, in bytes.
const LAST_LINES: u64 = 16 * 1024;

/// How much of a program's output is given on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputBound {
    /// So many bytes from the beginning. Of what comes after, only the last lines are given on, when the program has ended: they say
    /// why.
    pub bytes: u64,
}

impl Default for OutputBound {
    fn default() -> OutputBound {
        OutputBound { bytes: 4 << 20 }
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub ending: Ending,
    /// From its start to its end.
    pub took: Duration,
    /// Bytes of output that were not given on.
    pub dropped_bytes: u64,
}

/// Why a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this status; 0 is success.
    Exited(i64),
    /// For want of memory.
    OutOfMemory,
    /// It was killed: its time was over.
    TimedOut,
    /// It was killed: the flag that this engine heeds was set.
    Interrupted,
}

impl Engine {
    /// Makes the container, runs it to its end, gives each line of output to `each`, and removes it with its secrets. It is never
    /// started twice.
    ///
    /// # Errors
    /// When it cannot be made or started, or the way to the engine breaks: whether it ended is then not known, and the container is left
    /// under its name for whoever looks. That the program fails is no error.
    pub fn run_to_end(
        &self,
        spec: &ContainerSpec,
        deadline: Duration,
        bound: OutputBound,
        each: &mut dyn FnMut(Line),
    ) -> Result<Ended> {
        if spec.restart != Restart::Never {
            return Err(Error::unsupported(
                format!("run {} to its end", spec.name),
                "it would be started again",
            ));
        }
        let id = self.create(spec)?.id;
        let attached = self.attach_output(&id).and_then(|output| self.start(&id).map(|()| output));
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => {
                self.unheeding().remove(&id).ok();
                return Err(error);
            }
        };
        let since = Instant::now();
        let mut output = Output { left: bound.bytes, dropped: 0, last: VecDeque::new(), last_bytes: 0, each };
        let followed = self.follow(&id, attached, deadline, &mut output);
        output.finish();
        let ending = self.ending(&id, spec, followed)?;
        let took = since.elapsed();
        self.unheeding().remove(&id)?;
        Ok(Ended { ending, took, dropped_bytes: output.dropped })
    }

    /// The output from the very beginning. The engine's log is no substitute: it can be cut, and 20.10 may leave out its end.
    fn attach_output(&self, id: &str) -> Result<AttachContainerResults> {
        let what = format!("read the output of the container {id}");
        let options = AttachContainerOptionsBuilder::default().stream(true).stdout(true).stderr(true).build();
        self.call(&what, QUICK, self.docker().attach_container(id, Some(options)))
    }

    fn follow(
        &self,
        id: &str,
        attached: AttachContainerResults,
        deadline: Duration,
        output: &mut Output<'_>,
    ) -> Result<i64> {
        let until = Instant::now() + deadline;
        let what = format!("read the output of the container {id}");
        let mut take = |line| {
            output.take(line);
            ControlFlow::Continue(())
        };
        self.wait(&what, Some(deadline), self.read_lines(&what, false, attached.output, &mut take))?;
        // The output ends a moment before the engine knows that the program did; or long before, when the program closed it.
        self.wait_for_end(id, until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1)))
    }

    /// Why it ended; it is made to, where it did not by itself.
    fn ending(&self, id: &str, spec: &ContainerSpec, followed: Result<i64>) -> Result<Ending> {
        let engine = self.unheeding();
        let ending = match followed {
            Ok(code) => Ending::Exited(code),
            Err(Error::Deadline { .. }) => Ending::TimedOut,
            Err(Error::Interrupted { .. }) => Ending::Interrupted,
            Err(error) => return Err(error),
        };
        if !matches!(ending, Ending::Exited(_)) {
            engine.stop(id, spec.stop_grace)?;
            engine.wait_for_end(id, LAST_WORDS)?;
            return Ok(ending);
        }
        let is_out_of_memory = engine.container(id)?.is_some_and(|found| found.was_out_of_memory);
        // A process that it had started may have been the one, and the program gone on to a good end.
        Ok(if is_out_of_memory && ending != Ending::Exited(0) { Ending::OutOfMemory } else { ending })
    }
}

struct Output<'a> {
    left: u64,
    dropped: u64,
    last: VecDeque<Line>,
    last_bytes: u64,
    each: &'a mut dyn FnMut(Line),
}

impl Output<'_> {
    fn take(&mut self, line: Line) {
        let length = length(&line);
        if length <= self.left {
            self.left -= length;
            (self.each)(line);
            return;
        }
        // What follows a line that was left out would read as if it had come after the one before.
        self.left = 0;
        self.last_bytes += length;
        self.last.push_back(line);
        while self.last_bytes > LAST_LINES
            && let Some(first) = self.last.pop_front()
        {
            self.last_bytes -= self::length(&first);
            self.dropped += self::length(&first);
        }
    }

    fn finish(&mut self) {
        std::mem::take(&mut self.last).into_iter().for_each(&mut *self.each);
    }
}

fn length(line: &Line) -> u64 {
    line.text.len() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Stream;

    #[test]
    fn of_an_output_that_is_too_long_its_beginning_and_its_end_are_given() {
        let mut seen = Vec::new();
        let mut each = |line: Line| seen.push(line.text);
        let mut output =
            Output { left: 30, dropped: 0, last: VecDeque::new(), last_bytes: 0, each: &mut each };
        let all = 10_000;
        for number in 0..all {
            output.take(Line { stream: Stream::Out, at: None, text: format!("line {number:04}") });
        }
        output.finish();
        let dropped = output.dropped;
        assert_eq!(seen[..3], ["line 0000", "line 0001", "line 0002"]);
        assert_eq!(seen.last().unwrap(), "line 9999");
        assert_eq!(dropped + seen.len() as u64 * 10, all * 10);
        assert!(seen.len() < 3 + 1 + LAST_LINES as usize / 10);
    }
}
