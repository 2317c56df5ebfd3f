//! What the function of durable publishing sends to subscribers: messages with the numbers that the stream has given them.
//!
//! `0xC1`, which begins no MessagePack value and no UTF-8 text, then in ASCII `1 EPOCH FIRST T LENGTH…` and a line's end, then the payloads
//! one after the other: version, epoch, number of the first message, when they were published (Unix milliseconds), and how many bytes each has.

/// What an envelope begins with.
pub const MARK: u8 = 0xC1;
const VERSION: &[u8] = b"1";
/// The longest head that is read; a thousand lengths fit many times.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Numbers that every reader of JSON gets exactly.
const NUMBER_MAX: u64 = 1 << 53;

/// Messages of one call, in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub epoch: u64,
    pub first: u64,
    pub timestamp_ms: u64,
    count: usize,
    lengths: &'a [u8],
    payloads: &'a [u8],
}

/// Why what begins with the mark is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Of another version of the function.
    Version,
    Malformed,
}

impl<'a> Envelope<'a> {
    /// None: it is something else.
    pub fn read(message: &'a [u8]) -> Option<Result<Envelope<'a>, Bad>> {
        let (&MARK, rest) = message.split_first()? else { return None };
        Some(read(rest))
    }

    /// The number of the last message.
    pub fn last(&self) -> u64 {
        self.first + self.count as u64 - 1
    }

    /// In the order of their numbers.
    pub fn payloads(&self) -> impl Iterator<Item = &'a [u8]> {
        let (mut lengths, mut rest) = (self.lengths, self.payloads);
        std::iter::from_fn(move || {
            let length = number(&mut lengths)?;
            let (payload, others) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = others;
            Some(payload)
        })
    }
}

fn read(rest: &[u8]) -> Result<Envelope<'_>, Bad> {
    let head_max = rest.len().min(HEAD_BYTES_MAX);
    let end = rest[..head_max].iter().position(|&byte| byte == b'\n').ok_or(Bad::Malformed)?;
    let (mut head, payloads) = (&rest[..end], &rest[end + 1..]);
    let version_end = head.iter().position(|&byte| byte == b' ').ok_or(Bad::Malformed)?;
    if &head[..version_end] != VERSION {
        return Err(if head[..version_end].iter().all(u8::is_ascii_digit) { Bad::Version } else { Bad::Malformed });
    }
    head = &head[version_end + 1..];
    let mut next = || number(&mut head).filter(|&number| number < NUMBER_MAX).ok_or(Bad::Malformed);
    let (epoch, first, timestamp_ms) = (next()?, next()?, next()?);
    let lengths = head;
    let (mut count, mut bytes) = (0, 0u64);
    while let Some(length) = number(&mut head) {
        count += 1;
        bytes = bytes.saturating_add(length);
    }
    // All of the head was numbers, and together they are what follows.
    let is_whole = head.is_empty() && count > 0 && bytes == payloads.len() as u64;
    if !is_whole || epoch == 0 || first == 0 || first + count as u64 > NUMBER_MAX {
        return Err(Bad::Malformed);
    }
    Ok(Envelope { epoch, first, timestamp_ms, count, lengths, payloads })
}

/// Takes a number and the space behind it, if there is one. None: there is no number, and nothing is taken.
fn number(text: &mut &[u8]) -> Option<u64> {
    let digits = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    // Twenty digits may be more than 64 bits hold.
    if digits == 0 || digits > 19 || !text[..digits].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text[..digits].iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    *text = text.get(digits + 1..).unwrap_or_default();
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts<'a> = (u64, u64, u64, u64, Vec<&'a [u8]>);

    fn read(text: &[u8]) -> Option<Result<Parts<'_>, Bad>> {
        Envelope::read(text)
            .map(|read| read.map(|found| (found.epoch, found.first, found.last(), found.timestamp_ms, found.payloads().collect())))
    }

    #[test]
    fn messages_and_their_numbers_are_found() {
        assert_eq!(
            read(b"\xC11 1795659799162 7 1795659799999 5\nhello"),
            Some(Ok((1795659799162, 7, 7, 1795659799999, vec![b"hello".as_slice()])))
        );
        assert_eq!(read(b"\xC11 3 1 0 2 0 3\nab\n\xC1c"), Some(Ok((3, 1, 3, 0, vec![b"ab".as_slice(), b"", b"\n\xC1c"]))));
        assert_eq!(read(b"\xC11 3 1 0 0\n"), Some(Ok((3, 1, 1, 0, vec![b"".as_slice()]))));
    }

    #[test]
    fn what_is_none_is_told_apart() {
        assert_eq!(read(b""), None);
        assert_eq!(read(b"{}"), None);
        assert_eq!(read("\u{c1}1 3 1 0 0\n".as_bytes()), None, "a letter of UTF-8 is another byte");
        assert_eq!(read(b"\xC12 3 1 0 0\n"), Some(Err(Bad::Version)));
        for malformed in [
            &b"\xC1"[..],
            b"\xC1\n",
            b"\xC11\n",
            b"\xC11 3 1 0\n",
            b"\xC11 3 1 0 5\nhell",
            b"\xC11 3 1 0 5\nhello!",
            b"\xC11 3 1 0 5",
            b"\xC11 0 1 0 0\n",
            b"\xC11 3 0 0 0\n",
            b"\xC11 -3 1 0 0\n",
            b"\xC11 3 1 0 x\n",
            b"\xC11 3 1 0 1 x\na",
            b"\xC11  3 1 0 0\n",
            b"\xC11 9007199254740993 1 0 0\n",
            b"\xC11 3 9007199254740991 0 0 0\n",
            b"\xC11 99999999999999999999999 1 0 0\n",
            b"\xC11 3 1 0 18446744073709551615 1\n",
            b"\xC1x 3 1 0 0\n",
            b"\xC1\x92\x01\x02",
        ] {
            assert_eq!(read(malformed), Some(Err(Bad::Malformed)), "{}", malformed.escape_ascii());
        }
        let endless = [b"\xC11 3 1 0".to_vec(), b" 0".repeat(100_000), b"\n".to_vec()].concat();
        assert_eq!(read(&endless), Some(Err(Bad::Malformed)));
    }
}
