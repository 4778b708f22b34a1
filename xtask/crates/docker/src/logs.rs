//! What a container's program printed: read to the end, or followed, line by line.

use std::ops::ControlFlow;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;

use crate::engine::{Engine, check_name};
use crate::error::Result;

/// The most of one line that is kept. Engines cut lines at 16 KiB.
const MAX_LINE: usize = 64 * 1024;

/// Which part of a container's output is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// So many lines before the end; all that are kept where `None`.
    pub tail: Option<u32>,
    /// Whether to go on with what is printed from now on, until the program ends.
    pub follow: bool,
    /// Whether lines have their time.
    pub timestamps: bool,
}

/// Where a program printed a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it was printed.
    pub stream: Stream,
    /// When, in RFC 3339 by the engine's clock, where that was asked for.
    pub at: Option<String>,
    /// The line without its end. Bytes that are no UTF-8 are replaced; control characters are as they came.
    pub text: String,
}

impl LogQuery {
    /// All that is kept until now.
    pub fn all() -> LogQuery {
        LogQuery { tail: None, follow: false, timestamps: false }
    }

    /// The last lines until now.
    pub fn tail(lines: u32) -> LogQuery {
        LogQuery { tail: Some(lines), ..LogQuery::all() }
    }
}

impl Engine {
    /// Gives each line to `each`, until that breaks off or there are no more. Docker 20.10 may leave out the last lines of a program
    /// whose end it follows; they are there when it is asked again.
    ///
    /// # Errors
    /// When there is no such container, or the end does not come in this time.
    pub fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        deadline: Duration,
        each: &mut dyn FnMut(Line) -> ControlFlow<()>,
    ) -> Result<()> {
        let what = format!("read the output of the container {container}");
        check_name(&what, container)?;
        self.wait(&what, Some(deadline), self.read_logs(&what, container, query, each))
    }

    async fn read_logs(
        &self,
        what: &str,
        container: &str,
        query: &LogQuery,
        each: &mut dyn FnMut(Line) -> ControlFlow<()>,
    ) -> Result<()> {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(query.follow)
            .timestamps(query.timestamps)
            .tail(&query.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()))
            .build();
        let pieces = self.docker().logs(container, Some(options));
        self.read_lines(what, query.timestamps, pieces, each).await
    }

    /// Gives the lines of an output that comes in pieces.
    pub(crate) async fn read_lines(
        &self,
        what: &str,
        timestamps: bool,
        mut pieces: impl futures_util::Stream<Item = std::result::Result<LogOutput, bollard::errors::Error>>
        + Unpin,
        each: &mut dyn FnMut(Line) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut lines = Lines { timestamps, ..Lines::default() };
        while let Some(piece) = pieces.next().await {
            let (stream, bytes) = match piece.map_err(|error| self.told(what, &error))? {
                LogOutput::StdErr { message } => (Stream::Error, message),
                LogOutput::StdOut { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message } => (Stream::Out, message),
            };
            if lines.take(stream, &bytes, each).is_break() {
                return Ok(());
            }
        }
        let _ = lines.finish(each);
        Ok(())
    }
}

/// Puts pieces together to lines. Each stream has one that is not finished yet.
#[derive(Default)]
struct Lines {
    timestamps: bool,
    unfinished: [Vec<u8>; 2],
}

impl Lines {
    fn take(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        each: &mut dyn FnMut(Line) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = &mut self.unfinished[stream as usize];
            let room = MAX_LINE.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(line);
                each(self.line(stream, &line))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn finish(&mut self, each: &mut dyn FnMut(Line) -> ControlFlow<()>) -> ControlFlow<()> {
        for stream in [Stream::Out, Stream::Error] {
            let rest = std::mem::take(&mut self.unfinished[stream as usize]);
            if !rest.is_empty() {
                each(self.line(stream, &rest))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn line(&self, stream: Stream, bytes: &[u8]) -> Line {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        match text.split_once(' ').filter(|_| self.timestamps) {
            Some((at, text)) => Line { stream, at: Some(at.to_owned()), text: text.to_owned() },
            None => Line { stream, at: None, text: text.to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(timestamps: bool, pieces: &[(Stream, &[u8])]) -> Vec<Line> {
        let mut found = Vec::new();
        let mut lines = Lines { timestamps, ..Lines::default() };
        let mut each = |line| {
            found.push(line);
            ControlFlow::Continue(())
        };
        for (stream, bytes) in pieces {
            assert!(lines.take(*stream, bytes, &mut each).is_continue());
        }
        assert!(lines.finish(&mut each).is_continue());
        found
    }

    fn texts(found: &[Line]) -> Vec<&str> {
        found.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_are_put_together_from_pieces_of_either_stream() {
        let found =
            lines(false, &[(Stream::Out, b"a\nb"), (Stream::Error, b"x\r\n"), (Stream::Out, b"c\n\nd")]);
        assert_eq!(texts(&found), ["a", "x", "bc", "", "d"]);
        assert_eq!(found[1].stream, Stream::Error);
    }

    #[test]
    fn a_time_stands_before_the_first_space() {
        let found = lines(true, &[(Stream::Out, b"2026-01-01T00:00:00Z a b\nc\n")]);
        assert_eq!(found[0].at.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(texts(&found), ["a b", "c"]);
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_no_bytes_make_it_panic() {
        let flood = vec![0xff; 3 * MAX_LINE];
        let found = lines(true, &[(Stream::Out, &flood), (Stream::Out, b"\n"), (Stream::Out, b"next\n")]);
        assert_eq!(found.len(), 2);
        assert!(found[0].text.chars().count() <= MAX_LINE && found[1].text == "next");
        let mut state = 3usize;
        for _ in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..40 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push([b'\n', b'\r', b' ', 0, 0xc3, 0xa9, b'a', 0xff][(state >> 33) % 8]);
            }
            let cut = state % bytes.len();
            let whole = lines(true, &[(Stream::Out, &bytes)]);
            assert_eq!(whole, lines(true, &[(Stream::Out, &bytes[..cut]), (Stream::Out, &bytes[cut..])]));
        }
    }
}
