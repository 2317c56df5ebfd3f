//! Reads an event stream (Server-Sent Events: HTML, section 9.2.6). Sans-IO: bytes in, events out. Called by `event_stream` beside it and by the load
//! generator.
//!
//! Invariant: what is not a whole piece yet stays in the input, so whoever calls keeps it, and bounds it. An event of one line is lent out of the input.
//! Ids are not read: what an event says of its place stands in its data.

use std::borrow::Cow;

use memchr::memchr2;

/// What a stream brings next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'b> {
    /// A line that says nothing but that the server lives.
    Comment,
    Block(Block<'b>),
}

/// Some lines up to a blank one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block<'b> {
    /// Of the event; empty: a `message`.
    pub name: &'b [u8],
    /// None: it is no event.
    pub data: Option<Cow<'b, [u8]>>,
    /// After how many milliseconds to connect again.
    pub retry_ms: Option<u64>,
}

/// How far a stream was read.
#[derive(Debug, Default)]
pub struct StreamReader {
    has_begun: bool,
    /// The last line ended with a carriage return: a line feed that comes next belongs to it.
    after_carriage_return: bool,
    /// Bytes of the block under way that are known to be whole lines, none of them blank.
    searched: usize,
}

impl StreamReader {
    /// One that comes to a stream after its beginning.
    pub fn within() -> StreamReader {
        StreamReader { has_begun: true, ..StreamReader::default() }
    }

    /// Takes the next piece off `input`. None: more bytes are needed, behind those that are left.
    pub fn next<'b>(&mut self, input: &mut &'b [u8]) -> Option<Piece<'b>> {
        if !self.has_begun && !self.begin(input) {
            return None;
        }
        loop {
            if self.after_carriage_return && !input.is_empty() {
                self.after_carriage_return = false;
                *input = input.strip_prefix(b"\n").unwrap_or(input);
            }
            if self.searched == 0 {
                let (line, length) = first_line(input)?;
                if line.is_empty() || line[0] == b':' {
                    self.take(input, length);
                    if line.is_empty() {
                        continue;
                    }
                    return Some(Piece::Comment);
                }
            }
            let length = self.block_length(input)?;
            let block = read_block(self.take(input, length));
            // A field that nobody knows, or an id alone.
            if block != Block::default() {
                return Some(Piece::Block(block));
            }
        }
    }

    /// Skips a byte order mark. False: it is not known yet whether there is one.
    fn begin(&mut self, input: &mut &[u8]) -> bool {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        if input.len() < MARK.len() && MARK.starts_with(input) {
            return false;
        }
        *input = input.strip_prefix(MARK).unwrap_or(input);
        self.has_begun = true;
        true
    }

    /// Bytes up to and with the next blank line.
    fn block_length(&mut self, input: &[u8]) -> Option<usize> {
        loop {
            let (line, length) = first_line(&input[self.searched..])?;
            // The second half of a line's end may not have come.
            if line.is_empty() || self.searched + length < input.len() || input[self.searched + length - 1] == b'\n' {
                self.searched += length;
            } else {
                return None;
            }
            if line.is_empty() {
                return Some(std::mem::take(&mut self.searched));
            }
        }
    }

    fn take<'b>(&mut self, input: &mut &'b [u8], length: usize) -> &'b [u8] {
        let (taken, rest) = input.split_at(length);
        self.after_carriage_return = taken.last() == Some(&b'\r');
        *input = rest;
        taken
    }
}

/// The first line without its end, and its length with it. None: it is not whole. One that ends with the last byte's carriage return may have a line feed
/// to come.
fn first_line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr2(b'\n', b'\r', input)?;
    let length = if input[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
    Some((&input[..end], length))
}

fn read_block(mut rest: &[u8]) -> Block<'_> {
    let mut block = Block::default();
    while let Some((line, length)) = first_line(rest) {
        rest = &rest[length..];
        let (field, value) = match memchr::memchr(b':', line) {
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &b""[..]),
        };
        match field {
            b"data" => match &mut block.data {
                None => block.data = Some(Cow::Borrowed(value)),
                Some(data) => {
                    let data = data.to_mut();
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            b"event" => block.name = value,
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                block.retry_ms = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            }
            _ => {}
        }
    }
    // The name is an event's.
    if block.data.is_none() {
        block.name = b"";
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pieces of a stream that comes in these parts, and what is left.
    fn pieces(parts: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let (mut reader, mut kept, mut found) = (StreamReader::default(), Vec::new(), Vec::new());
        for part in parts {
            kept.extend_from_slice(part);
            let mut input = &kept[..];
            while let Some(piece) = reader.next(&mut input) {
                found.push(match piece {
                    Piece::Comment => ":".to_owned(),
                    Piece::Block(Block { name, data, retry_ms }) => {
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        let data = data.map_or("-".to_owned(), |data| format!("{:?}", text(&data)));
                        format!("{}|{data}|{}", text(name), retry_ms.map_or(String::new(), |ms| ms.to_string()))
                    }
                });
            }
            kept = input.to_vec();
        }
        (found, kept)
    }

    /// Whole, byte by byte, and cut in two wherever it can be.
    #[track_caller]
    fn assert_reads(stream: &[u8], expected: &[&str], left: &[u8]) {
        let check = |parts: &[&[u8]]| {
            let (found, kept) = pieces(parts);
            assert_eq!(found, expected, "{parts:?}");
            // Whether a line feed belongs to the line before is found out when something comes behind it.
            assert_eq!(kept, left, "{parts:?}");
        };
        check(&[stream]);
        check(&stream.chunks(1).collect::<Vec<_>>());
        for at in 0..=stream.len() {
            check(&[&stream[..at], &stream[at..]]);
        }
    }

    #[test]
    fn what_campanile_sends_is_read() {
        assert_reads(
            b"retry: 2500\n\nevent: connected\ndata: {\"a\":1}\n\n:\nid: 7:42\ndata: {\"b\":2}\n\n:\n:\nevent: position\nid: 7:42,-\ndata:\n\nid: never\nevent: close\ndata: {}\n\ndata: cut of",
            &["|-|2500", "connected|\"{\\\"a\\\":1}\"|", ":", "|\"{\\\"b\\\":2}\"|", ":", ":", "position|\"\"|", "close|\"{}\"|"],
            b"data: cut of",
        );
    }

    #[test]
    fn lines_end_in_three_ways() {
        let expected = ["|\"a\\nb\"|", ":", "x|\"\\n\"|", "|\"c\"|"];
        let stream = "data: a\ndata:b\n\n:beat\nevent: x\ndata\ndata:\n\ndata: c\n\n";
        for end in ["\n", "\r\n", "\r"] {
            assert_reads(stream.replace('\n', end).as_bytes(), &expected, b"");
        }
        // Mixed, each with any other behind it.
        assert_reads(
            b"data: a\r\ndata: b\r\rdata: c\n\r\ndata: d\r\n\ndata: e\r\r\n",
            &["|\"a\\nb\"|", "|\"c\"|", "|\"d\"|", "|\"e\"|"],
            b"",
        );
    }

    #[test]
    fn what_means_nothing_is_passed_over() {
        assert_reads(b"\xEF\xBB\xBFdata: \xEF\xBB\xBF\n\n", &["|\"\\u{feff}\"|"], b"");
        assert_reads(b"\n\n\nid: 5\n\nunknown: x\n\ndata : x\n\nevent: gap\n\ndata: y\n\n", &["|\"y\"|"], b"");
        assert_reads(b"retry: 5s\n\nretry: -1\n\nretry:\n\nretry: 99999999999999999999\n\nretry:7\n\n", &["|-|7"], b"");
        assert_reads(b"data: x\n: a remark\ndata: y\n\n", &["|\"x\\ny\"|"], b"");
        assert_reads(b"data:  two\n\n", &["|\" two\"|"], b"");
        assert_reads(b"", &[], b"");
    }

    /// The same, said otherwise: lines first, then what they come to.
    fn expected(stream: &str) -> Vec<String> {
        let text = stream.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<&str> = text.split('\n').collect();
        // What is behind the last end is no line yet.
        lines.pop();
        let (mut found, mut block): (Vec<String>, Vec<&str>) = (Vec::new(), Vec::new());
        for line in lines {
            if line.is_empty() {
                let data: Vec<&str> = block.iter().filter_map(|line| line.strip_prefix("data:")).collect();
                let name = block.iter().rev().find_map(|line| line.strip_prefix("event:")).unwrap_or_default();
                found.extend((!data.is_empty()).then(|| format!("{name}|{:?}|", data.join("\n"))));
                block.clear();
            } else if !line.starts_with(':') {
                block.push(line);
            } else if block.is_empty() {
                found.push(":".to_owned());
            }
        }
        found
    }

    #[test]
    fn whatever_lines_there_are_they_are_read_the_same_in_one_piece_and_in_two() {
        const PIECES: [&str; 5] = ["data:x", "event:e", ":", "\r", "\n"];
        for number in 0..PIECES.len().pow(6) {
            let stream: String = (0..6).map(|at| PIECES[number / PIECES.len().pow(at) % PIECES.len()]).collect();
            let expected = expected(&stream);
            let bytes = stream.as_bytes();
            assert_eq!(pieces(&[bytes]).0, expected, "{stream:?}");
            // Where a line ends or begins.
            for at in (1..bytes.len()).filter(|&at| matches!(bytes[at - 1], b'\r' | b'\n' | b':') || matches!(bytes[at], b'\r' | b'\n')) {
                assert_eq!(pieces(&[&bytes[..at], &bytes[at..]]).0, expected, "{stream:?} at {at}");
            }
        }
    }

    #[test]
    fn a_long_event_is_not_searched_again_with_each_part_of_it() {
        let mut reader = StreamReader::within();
        let stream = b"data: 1\ndata: 2\ndata: 3";
        assert_eq!(reader.next(&mut &stream[..]), None);
        assert_eq!(reader.searched, 16);
    }
}
