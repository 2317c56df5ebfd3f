//! What stands in a file of the journal: a header, then records one behind the other. Pure: bytes in, records out, and back.
//!
//! A record is a head of 12 bytes and a body. The head has the body's length, the CRC32C of the body, and a CRC32C of these two, so that a damaged
//! body costs its own record alone: whoever reads knows where the next begins. Both sums begin with the journal's salt, which nobody outside knows.
//! A payload can therefore not pass for a record when a reader looks for the next whole one behind a damaged place.
//!
//! Invariant: [`Scanner`] hands out a record only if both sums are right, whatever the bytes are, and all bytes it is given are either in a record
//! or in a [`Scanned::Damage`].

/// What files begin with.
const MAGIC: [u8; 8] = *b"CMPNJRNL";
/// Of what this build writes. All versions keep magic, version and sum of the header where they are.
pub const VERSION: u32 = 1;
/// One copy of the header.
const COPY_BYTES: usize = 64;
const HEADER_COPIES: usize = 2;
pub const HEADER_BYTES: usize = HEADER_COPIES * COPY_BYTES;
pub const HEAD_BYTES: usize = 12;

/// What a file says about itself and about the journal at the moment when it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub segment: u32,
    /// The same in all files of a journal, and never 0.
    pub salt: u32,
    /// Of the host's start during which it was written.
    pub boot: u64,
    /// Whether numbers were shown before they were synced.
    pub is_interval: bool,
    /// No larger epoch had been given.
    pub epoch_last: u64,
    /// Channels with a smaller epoch have this one.
    pub epoch_floor: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// Neither copy is whole.
    Damaged,
    /// Written by a later release.
    Newer { version: u32 },
}

impl Header {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut copy = [0; COPY_BYTES];
        copy[..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[12..16].copy_from_slice(&self.salt.to_le_bytes());
        copy[16..20].copy_from_slice(&self.segment.to_le_bytes());
        copy[20] = u8::from(self.is_interval);
        copy[24..32].copy_from_slice(&self.boot.to_le_bytes());
        copy[32..40].copy_from_slice(&self.epoch_last.to_le_bytes());
        copy[40..48].copy_from_slice(&self.epoch_floor.to_le_bytes());
        let sum = crc32c::crc32c(&copy[..COPY_BYTES - 4]);
        copy[COPY_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        (0..HEADER_COPIES).for_each(|_| out.extend_from_slice(&copy));
    }

    /// From the beginning of a file.
    pub fn decode(file: &[u8]) -> Result<Header, HeaderFault> {
        let whole = |copy: &&[u8]| {
            copy.len() == COPY_BYTES && copy.starts_with(&MAGIC) && crc32c::crc32c(&copy[..COPY_BYTES - 4]) == u32_at(copy, COPY_BYTES - 4)
        };
        let copy = file.chunks(COPY_BYTES).take(HEADER_COPIES).find(whole).ok_or(HeaderFault::Damaged)?;
        match u32_at(copy, 8) {
            VERSION => {}
            version if version > VERSION => return Err(HeaderFault::Newer { version }),
            _ => return Err(HeaderFault::Damaged),
        }
        Ok(Header {
            salt: u32_at(copy, 12),
            segment: u32_at(copy, 16),
            is_interval: copy[20] != 0,
            boot: u64_at(copy, 24),
            epoch_last: u64_at(copy, 32),
            epoch_floor: u64_at(copy, 40),
        })
    }
}

/// Up to where numbers were shown, and under which epochs, kept apart from the records that give them: whoever finds less there knows that some are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub boot: u64,
    /// No larger one was shown.
    pub epoch_last: u64,
    pub segment: u32,
    pub offset: u32,
}

impl Shown {
    pub const BYTES: usize = 28;

    pub fn encode(&self) -> [u8; Shown::BYTES] {
        let mut bytes = [0; Shown::BYTES];
        bytes[..8].copy_from_slice(&self.boot.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch_last.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.segment.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.offset.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..24]);
        bytes[24..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Shown> {
        let is_whole = bytes.len() == Shown::BYTES && crc32c::crc32c(&bytes[..24]) == u32_at(bytes, 24);
        is_whole.then(|| Shown {
            boot: u64_at(bytes, 0),
            epoch_last: u64_at(bytes, 8),
            segment: u32_at(bytes, 16),
            offset: u32_at(bytes, 20),
        })
    }
}

/// A channel's numbers: what every record that proves them says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    pub epoch: u64,
    /// The epoch in which number 1 was given: a channel that was forgotten begins again with a larger one.
    pub born: u64,
    pub last_seq: u64,
    /// What its rule asked to keep.
    pub count: u64,
    pub age_ms: u64,
    /// Some numbers before the last were lost by damage.
    pub has_holes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    Entry(Entry<'a>),
    /// Where no entry says it: a channel without any, or with a new epoch.
    Channel {
        channel: &'a str,
        numbers: Numbers,
    },
    /// An idempotency key whose entry lies elsewhere or has gone.
    Key {
        channel: &'a str,
        key: &'a str,
        born: u64,
        seq: u64,
        at_ms: u64,
    },
    /// `epoch` is the channel's at that time.
    Mark {
        user: &'a str,
        channel: &'a str,
        epoch: u64,
        seq: u64,
        at_ms: u64,
    },
    /// The journal was closed as it should be; nothing was under way.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub channel: &'a str,
    pub seq: u64,
    pub timestamp_ms: u64,
    pub key: Option<&'a str>,
    /// As they were when this was written; `last_seq` is at least `seq`.
    pub numbers: Numbers,
    pub payload: &'a [u8],
}

const ENTRY: u8 = 1;
const CHANNEL: u8 = 2;
const KEY: u8 = 3;
const MARK: u8 = 4;
const CLOSED: u8 = 5;

impl Record<'_> {
    /// Returns how many bytes it takes.
    pub fn encode(&self, salt: u32, out: &mut Vec<u8>) -> usize {
        let begin = out.len();
        out.extend_from_slice(&[0; HEAD_BYTES]);
        match *self {
            Record::Entry(Entry { channel, seq, timestamp_ms, key, numbers, payload }) => {
                out.push(ENTRY);
                put_text(out, channel);
                put(out, seq);
                put(out, timestamp_ms);
                put_numbers(out, numbers);
                put(out, key.map_or(0, |key| key.len() as u64 + 1));
                out.extend_from_slice(key.unwrap_or_default().as_bytes());
                out.extend_from_slice(payload);
            }
            Record::Channel { channel, numbers } => {
                out.push(CHANNEL);
                put_text(out, channel);
                put_numbers(out, numbers);
            }
            Record::Key { channel, key, born, seq, at_ms } => {
                out.push(KEY);
                put_text(out, channel);
                put_text(out, key);
                [born, seq, at_ms].into_iter().for_each(|number| put(out, number));
            }
            Record::Mark { user, channel, epoch, seq, at_ms } => {
                out.push(MARK);
                put_text(out, user);
                put_text(out, channel);
                [epoch, seq, at_ms].into_iter().for_each(|number| put(out, number));
            }
            Record::Closed => out.push(CLOSED),
        }
        let bytes = out.len() - begin;
        let body_bytes = u32::try_from(bytes - HEAD_BYTES).expect("payloads end far below 2^32 bytes");
        let body_sum = crc32c::crc32c_append(salt, &out[begin + HEAD_BYTES..]);
        let head = &mut out[begin..begin + HEAD_BYTES];
        head[..4].copy_from_slice(&body_bytes.to_le_bytes());
        head[4..8].copy_from_slice(&body_sum.to_le_bytes());
        let head_sum = crc32c::crc32c_append(salt, &head[..8]);
        head[8..].copy_from_slice(&head_sum.to_le_bytes());
        bytes
    }
}

/// What a record of an entry takes beside its names and its payload, at most.
pub const ENTRY_BYTES: usize = HEAD_BYTES + 1 + 8 * 10 + 4;

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_numbers(out: &mut Vec<u8>, numbers: Numbers) {
    let Numbers { epoch, born, last_seq, count, age_ms, has_holes } = numbers;
    [epoch, epoch - born, last_seq, count, age_ms, u64::from(has_holes)].into_iter().for_each(|number| put(out, number));
}

/// The body of a whole record that begins here, as whoever knows where it lies reads it. None: it is damaged.
pub fn decode(salt: u32, bytes: &[u8]) -> Option<Record<'_>> {
    let body_bytes = body_bytes(salt, bytes)?;
    let body = bytes[HEAD_BYTES..].get(..body_bytes)?;
    if crc32c::crc32c_append(salt, body) != u32_at(bytes, 4) {
        return None;
    }
    let mut fields = Fields(body);
    let record = fields.record()?;
    fields.0.is_empty().then_some(record)
}

/// None: no head begins here.
fn body_bytes(salt: u32, bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..HEAD_BYTES)?;
    (crc32c::crc32c_append(salt, &head[..8]) == u32_at(head, 8)).then(|| u32_at(head, 0) as usize)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn record(&mut self) -> Option<Record<'a>> {
        let (&kind, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(match kind {
            ENTRY => {
                let (channel, seq, timestamp_ms) = (self.text()?, self.number()?, self.number()?);
                let numbers = self.numbers()?;
                let key = match self.number()? {
                    0 => None,
                    more => Some(self.text_of(more - 1)?),
                };
                Record::Entry(Entry { channel, seq, timestamp_ms, key, numbers, payload: std::mem::take(&mut self.0) })
            }
            CHANNEL => Record::Channel { channel: self.text()?, numbers: self.numbers()? },
            KEY => {
                Record::Key { channel: self.text()?, key: self.text()?, born: self.number()?, seq: self.number()?, at_ms: self.number()? }
            }
            MARK => Record::Mark {
                user: self.text()?,
                channel: self.text()?,
                epoch: self.number()?,
                seq: self.number()?,
                at_ms: self.number()?,
            },
            CLOSED => Record::Closed,
            _ => return None,
        })
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7F).checked_shl(shift).filter(|part| part >> shift == u64::from(byte & 0x7F))?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let bytes = self.number()?;
        self.text_of(bytes)
    }

    fn text_of(&mut self, bytes: u64) -> Option<&'a str> {
        let (text, rest) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn numbers(&mut self) -> Option<Numbers> {
        let epoch = self.number()?;
        let born = epoch.checked_sub(self.number()?)?;
        let (last_seq, count, age_ms) = (self.number()?, self.number()?, self.number()?);
        Some(Numbers { epoch, born, last_seq, count, age_ms, has_holes: self.number()? != 0 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned<'a> {
    Record {
        at: usize,
        bytes: usize,
        record: Record<'a>,
    },
    /// No record of these bytes can be read. One that reaches the end is what a write leaves that was cut off, or damage like any other.
    Damage {
        from: usize,
        to: usize,
    },
}

/// Reads the records of a file from its first on.
#[derive(Debug)]
pub struct Scanner<'a> {
    file: &'a [u8],
    salt: u32,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// `at`: where a record begins, [`HEADER_BYTES`] for the first.
    pub fn new(file: &'a [u8], salt: u32, at: usize) -> Scanner<'a> {
        Scanner { file, salt, at }
    }

    /// Where the next record begins.
    pub fn at(&self) -> usize {
        self.at
    }

    fn record_at(&self, at: usize) -> Option<(usize, Record<'a>)> {
        let bytes = self.file.get(at..)?;
        let record = decode(self.salt, bytes)?;
        Some((HEAD_BYTES + body_bytes(self.salt, bytes)?, record))
    }

    /// Where one goes on behind a damaged place.
    fn next_whole(&self, from: usize) -> usize {
        // Its head is right: the damage ends with it.
        let next = body_bytes(self.salt, &self.file[from..]).and_then(|bytes| from.checked_add(HEAD_BYTES + bytes));
        if let Some(next) = next.filter(|&next| self.record_at(next).is_some()) {
            return next;
        }
        (from + 1..self.file.len()).find(|&at| self.record_at(at).is_some()).unwrap_or(self.file.len())
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Scanned<'a>;

    fn next(&mut self) -> Option<Scanned<'a>> {
        let at = self.at;
        if at >= self.file.len() {
            return None;
        }
        if let Some((bytes, record)) = self.record_at(at) {
            self.at = at + bytes;
            return Some(Scanned::Record { at, bytes, record });
        }
        self.at = self.next_whole(at);
        Some(Scanned::Damage { from: at, to: self.at })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 0x5A17;
    const NUMBERS: Numbers =
        Numbers { epoch: 1_800_000_000_007, born: 1_800_000_000_000, last_seq: 300, count: 1000, age_ms: 60_000, has_holes: false };

    fn records() -> Vec<Record<'static>> {
        let entry = Entry { channel: "news", seq: 300, timestamp_ms: 1_800_000_000_009, key: None, numbers: NUMBERS, payload: b"{}" };
        vec![
            Record::Entry(entry),
            Record::Entry(Entry { key: Some("a-key"), payload: b"", ..entry }),
            Record::Entry(Entry { key: Some(""), channel: "", seq: u64::MAX, ..entry }),
            Record::Channel { channel: "quiet", numbers: Numbers { has_holes: true, ..NUMBERS } },
            Record::Key { channel: "news", key: "a-key", born: 1, seq: 2, at_ms: u64::MAX },
            Record::Mark { user: "u1", channel: "news", epoch: 1, seq: 0, at_ms: 3 },
            Record::Closed,
        ]
    }

    fn file(records: &[Record<'_>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut ends = vec![HEADER_BYTES];
        for record in records {
            record.encode(SALT, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn scan(bytes: &[u8]) -> Vec<Scanned<'_>> {
        Scanner::new(bytes, SALT, HEADER_BYTES).collect()
    }

    #[test]
    fn records_come_back_as_they_were() {
        let records = records();
        let (bytes, ends) = file(&records);
        let read = scan(&bytes);
        for (at, scanned) in read.iter().enumerate() {
            assert_eq!(*scanned, Scanned::Record { at: ends[at], bytes: ends[at + 1] - ends[at], record: records[at] });
        }
        assert_eq!(read.len(), records.len());
        assert!(Scanner::new(&bytes, SALT + 1, HEADER_BYTES).all(|scanned| matches!(scanned, Scanned::Damage { .. })), "another salt");
    }

    #[test]
    fn a_file_that_ends_anywhere_has_its_whole_records_and_a_damaged_end() {
        let records = records();
        let (bytes, ends) = file(&records);
        for cut in HEADER_BYTES..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let read = scan(&bytes[..cut]);
            assert!(read.iter().take(whole).all(|scanned| matches!(scanned, Scanned::Record { .. })), "cut at {cut}");
            let rest = (cut > ends[whole]).then_some(Scanned::Damage { from: ends[whole], to: cut });
            assert_eq!(read[whole..], Vec::from_iter(rest), "cut at {cut}");
        }
    }

    #[test]
    fn a_byte_that_changes_costs_one_record_and_no_other() {
        let records = records();
        let (bytes, ends) = file(&records);
        for at in HEADER_BYTES..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let hit = ends.iter().filter(|end| **end <= at).count() - 1;
                let mut expected: Vec<_> = scan(&bytes);
                expected[hit] = Scanned::Damage { from: ends[hit], to: ends[hit + 1] };
                assert_eq!(scan(&changed), expected, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_payload_that_looks_like_a_record_is_none() {
        let mut inner = Vec::new();
        Record::Mark { user: "u1", channel: "news", epoch: 1, seq: 9, at_ms: 3 }.encode(SALT + 1, &mut inner);
        let entry = Entry { channel: "news", seq: 1, timestamp_ms: 1, key: None, numbers: NUMBERS, payload: &inner };
        let (mut bytes, ends) = file(&[Record::Entry(entry), Record::Closed]);
        bytes[HEADER_BYTES] ^= 1;
        let damage = Scanned::Damage { from: ends[0], to: ends[1] };
        assert_eq!(scan(&bytes), [damage, Scanned::Record { at: ends[1], bytes: ends[2] - ends[1], record: Record::Closed }]);
    }

    #[test]
    fn a_header_survives_damage_to_one_copy_and_a_newer_one_is_told() {
        let header = Header { segment: 7, salt: SALT, boot: 1, is_interval: true, epoch_last: 2, epoch_floor: 3 };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!((bytes.len(), Header::decode(&bytes)), (HEADER_BYTES, Ok(header)));
        for at in 0..HEADER_BYTES {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert_eq!(Header::decode(&changed), Ok(header), "byte {at}");
            changed[(at + COPY_BYTES) % HEADER_BYTES] ^= 1;
            assert_eq!(Header::decode(&changed), Err(HeaderFault::Damaged), "byte {at}");
        }
        assert_eq!(Header::decode(&bytes[..10]), Err(HeaderFault::Damaged));
        bytes[8] = 2;
        let sum = crc32c::crc32c(&bytes[..COPY_BYTES - 4]);
        bytes[COPY_BYTES - 4..COPY_BYTES].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(HeaderFault::Newer { version: 2 }));
    }

    #[test]
    fn what_was_shown_is_read_whole_or_not_at_all() {
        let shown = Shown { boot: 1, epoch_last: 4, segment: 2, offset: 3 };
        let bytes = shown.encode();
        assert_eq!(Shown::decode(&bytes), Some(shown));
        assert_eq!((Shown::decode(&bytes[..27]), Shown::decode(&[0; 28])), (None, None));
    }
}
