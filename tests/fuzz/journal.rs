//! Files of the journal, as damage leaves them: what is read of them is what was written, whatever the bytes are.

use campanile::journal::record::{self, Entry, HEAD_BYTES, HEADER_BYTES, Header, Numbers, Record, Scanned, Scanner};

use crate::mutate::mutated;

const SALT: u32 = 7;

fn records() -> Vec<Record<'static>> {
    let numbers =
        Numbers { epoch: 1_800_000_000_007, born: 1_800_000_000_000, last_seq: 300, count: 1000, age_ms: 60_000, has_holes: false };
    let entry = Entry { channel: "news", seq: 300, timestamp_ms: 1_800_000_000_009, key: None, numbers, payload: b"{\"title\":\"Ding\"}" };
    vec![
        Record::Entry(entry),
        Record::Entry(Entry { key: Some("a-key"), payload: b"", ..entry }),
        Record::Channel { channel: "quiet", numbers: Numbers { has_holes: true, ..numbers } },
        Record::Key { channel: "news", key: "a-key", born: 1, seq: 2, at_ms: u64::MAX },
        Record::Mark { user: "u1", channel: "news", epoch: 1, seq: 0, at_ms: 3 },
        Record::Closed,
    ]
}

fn file() -> Vec<u8> {
    let mut file = Vec::new();
    Header { segment: 1, salt: SALT, boot: 2, is_interval: true, epoch_last: 3, epoch_floor: 0 }.encode(&mut file);
    for record in records() {
        record.encode(SALT, &mut file);
    }
    file
}

/// Every byte is in a record or in a damaged place, and a record is one that was written.
#[test]
fn journal_files() {
    let written = records();
    bolero::check!().with_generator(mutated([file()], &[b"CMPNJRNL", b"\x01\x00\x00\x00", b"\xFF\xFF\xFF\xFF"])).for_each(
        |file: &Vec<u8>| {
            let _ = Header::decode(file);
            let mut end = HEADER_BYTES;
            for scanned in Scanner::new(file, SALT, HEADER_BYTES) {
                let (from, to) = match scanned {
                    Scanned::Record { at, bytes, record } => {
                        assert!(written.contains(&record), "{record:?} was not written");
                        (at, at + bytes)
                    }
                    Scanned::Damage { from, to } => (from, to),
                };
                assert!(from == end && to > from, "{from}..{to} behind {end}");
                end = to;
            }
            assert_eq!(end, file.len().max(HEADER_BYTES));
        },
    );
}

/// A body whose sums are right, whatever is in it: what is taken can be written and is the same when it is read again.
#[test]
fn journal_records() {
    let body = |record: &Record<'_>| {
        let mut bytes = Vec::new();
        record.encode(SALT, &mut bytes);
        bytes.split_off(HEAD_BYTES)
    };
    let bodies: Vec<Vec<u8>> = records().iter().map(body).collect();
    bolero::check!().with_generator(mutated(bodies, &[b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", b"\x80", b"\x00"])).for_each(
        |body: &Vec<u8>| {
            let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
            bytes.extend(crc32c::crc32c_append(SALT, body).to_le_bytes());
            bytes.extend(crc32c::crc32c_append(SALT, &bytes).to_le_bytes());
            bytes.extend_from_slice(body);
            if let Some(record) = record::decode(SALT, &bytes) {
                let mut again = Vec::new();
                record.encode(SALT, &mut again);
                assert_eq!(record::decode(SALT, &again), Some(record));
            }
        },
    );
}
