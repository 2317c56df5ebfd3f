//! Values out of replies, piece by piece. Sans-IO; owned by [`super::resp::Decoder`].
//!
//! Arrays, bulk strings and integers, of which pages of streams are made, are read here: 100,000 entries took `redis::Parser` 1.5 s. All else, at
//! whatever depth, goes to that parser, which may stop anywhere and go on with the next bytes. It is fed line by line: every value ends with a
//! line's end, so at the end of one it holds nothing of what follows.

use std::io::{self, Read};

use redis::{Parser, Value};

use super::resp::Violation;

/// Of arrays in arrays. Redis's own answers are four deep.
const DEPTH_MAX: usize = 32;
/// The longest number, and its line's end.
const LINE_BYTES_MAX: usize = 32;
/// Room for so many items is made on an announcement; for more as they come.
const ITEMS_AT_ONCE: usize = 256;

#[derive(Default)]
pub struct Values {
    /// Arrays that are not complete, each within the one before.
    open: Vec<Open>,
    parser: Parser,
    /// The parser has begun a value.
    is_parsing: bool,
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Values").field("depth", &self.open.len()).field("is_parsing", &self.is_parsing).finish_non_exhaustive()
    }
}

struct Open {
    items: Vec<Value>,
    left: usize,
}

/// What some bytes brought.
#[derive(Debug)]
pub enum Step {
    /// So many were taken; there may be more to take.
    Taken(usize),
    /// With these, a value is complete.
    Complete(usize, Value),
    /// More are needed.
    Starved,
}

impl Values {
    /// Takes a piece of these bytes.
    pub fn step(&mut self, input: &[u8], value_bytes_max: usize) -> Result<Step, Violation> {
        let kind = match input.first() {
            None => return Ok(Step::Starved),
            Some(kind @ (b'*' | b'$' | b':')) if !self.is_parsing => *kind,
            Some(_) => return self.parse(input),
        };
        let Some(line) = input.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
            return if input.len() < LINE_BYTES_MAX { Ok(Step::Starved) } else { Err(not_redis("a number that does not end")) };
        };
        let number = line.checked_sub(1).filter(|&end| end > 0 && input[end] == b'\r').and_then(|end| integer(&input[1..end]));
        let Some(number) = number else { return Err(not_redis("a number was expected")) };
        let taken = line + 1;
        let value = match (kind, number) {
            (b':', number) => Value::Int(number),
            (_, -1) => Value::Nil,
            (_, ..-1) => return Err(not_redis("a length below 0")),
            (b'$', length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > value_bytes_max {
                    return Err(Violation::TooBig { bytes_max: value_bytes_max });
                }
                let Some(content) = input.get(taken..taken + length + 2) else { return Ok(Step::Starved) };
                let Some(content) = content.strip_suffix(b"\r\n") else { return Err(not_redis("a string that is longer than announced")) };
                return Ok(self.add(taken + length + 2, Value::BulkString(content.to_vec())));
            }
            (_, 0) => Value::Array(Vec::new()),
            (_, count) => {
                if self.open.len() == DEPTH_MAX {
                    return Err(not_redis("arrays in arrays without end"));
                }
                let left = usize::try_from(count).unwrap_or(usize::MAX);
                self.open.push(Open { items: Vec::with_capacity(left.min(ITEMS_AT_ONCE)), left });
                return Ok(Step::Taken(taken));
            }
        };
        Ok(self.add(taken, value))
    }

    /// A value of another kind.
    fn parse(&mut self, input: &[u8]) -> Result<Step, Violation> {
        let line = input.iter().position(|&byte| byte == b'\n').map_or(input.len(), |at| at + 1);
        let mut line = Line(&input[..line]);
        let before = line.0.len();
        let parsed = self.parser.parse_value(&mut line);
        let taken = before - line.0.len();
        match parsed {
            Ok(value) => {
                self.is_parsing = false;
                Ok(self.add(taken, value))
            }
            Err(error) if error.is_timeout() => {
                self.is_parsing = true;
                Ok(Step::Taken(taken))
            }
            Err(error) => Err(not_redis(error.detail().unwrap_or("unreadable"))),
        }
    }

    /// A value is complete, and whatever it is the last item of.
    fn add(&mut self, taken: usize, mut value: Value) -> Step {
        while let Some(mut open) = self.open.pop() {
            open.items.push(value);
            open.left -= 1;
            if open.left > 0 {
                self.open.push(open);
                return Step::Taken(taken);
            }
            value = Value::Array(open.items);
        }
        Step::Complete(taken, value)
    }
}

fn integer(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn not_redis(what: &str) -> Violation {
    Violation::NotRedis(what.to_owned())
}

/// A reader that would block at its end, which the parser takes for "not yet".
#[derive(Debug)]
pub struct Line<'a>(pub &'a [u8]);

impl Read for Line<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(out)
    }
}
