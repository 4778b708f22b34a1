//! Where the frames of a WebSocket connection begin and end (RFC 6455, section 5.2). It looks at heads and skips the rest; it
//! does not judge what they say: that is for the two ends.

/// A close frame with the code 1012, "service restart": clients are asked to come back.
pub(crate) const RESTART: [u8; 4] = [0x88, 2, (1012_u16 >> 8) as u8, 1012_u16 as u8];

/// The opcode of a close frame.
const CLOSE: u8 = 8;

/// The longest head: two bytes, a length of eight and a mask of four.
const LONGEST_HEAD: usize = 14;

/// Follows the bytes of one direction.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; LONGEST_HEAD],
    /// How much of the present head is there.
    seen: usize,
    /// Bytes of the present frame that follow its head.
    left: u64,
    is_closed: bool,
}

impl Frames {
    /// Whether all that was seen is whole frames.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    /// Whether a close frame was among them: nothing may follow it.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Sees all of `bytes`.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// Sees `bytes` up to the first end of a frame; how many those are, or `None` where there is none.
    pub(crate) fn see_to_boundary(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]);
            if self.is_at_boundary() {
                return Some(at);
            }
        }
        None
    }

    /// Sees at least one byte, and none beyond the end of a frame.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let skipped = self.left.min(bytes.len() as u64);
            self.left -= skipped;
            return skipped as usize;
        }
        self.head[self.seen] = bytes[0];
        self.seen += 1;
        if self.seen == self.head_length() {
            self.left = self.payload_length();
            self.is_closed |= self.head[0] & 0xf == CLOSE;
            self.seen = 0;
        }
        1
    }

    fn head_length(&self) -> usize {
        if self.seen < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn payload_length(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([7; 4].iter().take(if is_masked { 4 } else { 0 }));
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    /// Property: however the bytes are cut, the boundaries are where frames end and nowhere else.
    #[test]
    fn boundaries_are_the_ends_of_frames() {
        let lengths = [0, 1, 125, 126, 127, 300, 65535, 65536, 70000];
        let frames: Vec<_> =
            lengths.iter().flat_map(|length| [false, true].map(|mask| frame(2, *length, mask))).collect();
        let (bytes, mut ends, mut at) = (frames.concat(), Vec::new(), 0);
        for frame in &frames {
            at += frame.len();
            ends.push(at);
        }
        for piece in [1, 2, 3, 7, 1000, 1 << 20] {
            let (mut seen, mut all, mut found) = (Frames::default(), Frames::default(), Vec::new());
            for (number, chunk) in bytes.chunks(piece).enumerate() {
                let mut from = 0;
                while let Some(length) = seen.see_to_boundary(&chunk[from..]) {
                    from += length;
                    found.push(number * piece + from);
                }
                all.see(chunk);
                let end = number * piece + chunk.len();
                assert_eq!(all.is_at_boundary(), ends.contains(&end), "{piece}: {end}");
            }
            assert_eq!(found, ends, "{piece}");
            assert!(!seen.is_closed() && !all.is_closed(), "what a frame carries is no frame");
        }
    }

    #[test]
    fn a_close_frame_is_noticed() {
        let mut frames = Frames::default();
        frames.see(&RESTART);
        assert!(frames.is_closed() && frames.is_at_boundary());
    }
}
