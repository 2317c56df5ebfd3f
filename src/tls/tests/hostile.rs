//! What a peer that has the keys may send and should not.

use super::session::{SUITES, pair, session};
use super::*;
use crate::limits::tls::{EMPTY_RECORDS_MAX, KEY_UPDATES_MAX, WARNINGS_MAX};
use crate::tls::keys::{Aead, Suite};
use crate::tls::record::CONTENT_BYTES_MAX;
use crate::tls::session::{Session, Side};

/// A name, records of (kind, content), and what becomes of them.
type Case<'a> = (&'a str, &'a [(u8, &'a [u8])], Result<(), Fault>);

const TLS13: Suite = SUITES[0];
const TLS12: Suite = SUITES[3];
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// What a server makes of these records, each (kind, content), up to the first that it refuses.
fn outcome(suite: Suite, records: &[(u8, &[u8])]) -> Result<(), Fault> {
    let (mut server, mut client) = pair(suite);
    for (kind, content) in records {
        let mut record = Vec::new();
        client.test_seal(*kind, content, &mut record);
        take(&mut server, &mut record)?;
    }
    Ok(())
}

fn take(server: &mut Session, record: &mut [u8]) -> Result<(), Fault> {
    match server.open(record)? {
        Opened::Partial { .. } => panic!("a record is not whole"),
        Opened::Data { consumed, .. } | Opened::Own { consumed } | Opened::End { consumed } => assert_eq!(consumed, record.len()),
    }
    Ok(())
}

#[test]
fn messages_of_tls13_are_taken_as_the_standard_has_it() {
    let update: &[u8] = &[24, 0, 0, 1, 0];
    let hello: &[u8] = &[1, 0, 0, 2, 3, 3];
    let cases: [Case<'_>; 27] = [
        ("an update in two records", &[(HANDSHAKE, &update[..2]), (HANDSHAKE, &update[2..])], Ok(())),
        ("data in an update", &[(HANDSHAKE, &update[..2]), (DATA, b"x")], Err(Fault::UnexpectedMessage)),
        ("an empty record in an update", &[(HANDSHAKE, &update[..2]), (DATA, b"")], Err(Fault::UnexpectedMessage)),
        ("an alert in an update", &[(HANDSHAKE, &update[..2]), (ALERT, &[1, 0])], Err(Fault::UnexpectedMessage)),
        ("a value of 2", &[(HANDSHAKE, &[24, 0, 0, 1, 2])], Err(Fault::IllegalParameter)),
        ("a byte behind an update", &[(HANDSHAKE, &[24, 0, 0, 1, 0, 0])], Err(Fault::UnexpectedMessage)),
        ("two updates in a record", &[(HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0])], Err(Fault::UnexpectedMessage)),
        ("an update without a value", &[(HANDSHAKE, &[24, 0, 0, 0])], Err(Fault::DecodeError)),
        ("an update of two bytes", &[(HANDSHAKE, &[24, 0, 0, 2, 0, 0])], Err(Fault::DecodeError)),
        ("an update of 16 MB", &[(HANDSHAKE, &[24, 0xFF, 0xFF, 0xFF])], Err(Fault::DecodeError)),
        ("ClientHello", &[(HANDSHAKE, hello)], Err(Fault::UnexpectedMessage)),
        ("HelloRequest", &[(HANDSHAKE, &[0, 0, 0, 0])], Err(Fault::UnexpectedMessage)),
        ("a ticket", &[(HANDSHAKE, &[4, 0, 0, 1, 0])], Err(Fault::UnexpectedMessage)),
        ("no handshake message", &[(HANDSHAKE, b"")], Err(Fault::UnexpectedMessage)),
        ("no alert", &[(ALERT, b"")], Err(Fault::UnexpectedMessage)),
        ("no data", &[(DATA, b""), (DATA, b"x")], Ok(())),
        ("half an alert", &[(ALERT, &[2])], Err(Fault::DecodeError)),
        ("an alert of three bytes", &[(ALERT, &[1, 0, 0])], Err(Fault::DecodeError)),
        ("two alerts", &[(ALERT, &[1, 90, 1, 90])], Err(Fault::DecodeError)),
        ("a fatal alert", &[(ALERT, &[2, 40])], Err(Fault::PeerAlert)),
        ("user_canceled", &[(ALERT, &[1, 90]), (ALERT, &[1, 0])], Ok(())),
        ("no_renegotiation", &[(ALERT, &[1, 100])], Err(Fault::DecodeError)),
        ("an alert of no level", &[(ALERT, &[3, 40])], Err(Fault::IllegalParameter)),
        ("ChangeCipherSpec within", &[(20, &[1])], Err(Fault::UnexpectedMessage)),
        ("a kind that is none", &[(99, b"x")], Err(Fault::UnexpectedMessage)),
        // The bytes before it are padding then.
        ("nothing but zeros", &[(0, &[0; 40])], Err(Fault::UnexpectedMessage)),
        ("padding", &[(0, b"data\x17\0\0"), (DATA, b"x")], Ok(())),
    ];
    for (name, records, expected) in cases {
        for suite in SUITES.into_iter().filter(|suite| suite.version == Version::Tls13) {
            assert_eq!(outcome(suite, records), expected, "{name}");
        }
    }
}

#[test]
fn messages_of_tls12_are_taken_as_the_standard_has_it() {
    let hello: &[u8] = &[1, 0, 0, 2, 3, 3];
    let cases: [Case<'_>; 12] = [
        ("one renegotiation", &[(HANDSHAKE, hello), (DATA, b"x")], Ok(())),
        ("two", &[(HANDSHAKE, hello), (HANDSHAKE, hello)], Err(Fault::Renegotiation)),
        ("half a ClientHello", &[(HANDSHAKE, &hello[..5])], Err(Fault::DecodeError)),
        ("Finished", &[(HANDSHAKE, &[20, 0, 0, 0])], Err(Fault::UnexpectedMessage)),
        ("a KeyUpdate", &[(HANDSHAKE, &[24, 0, 0, 1, 0])], Err(Fault::UnexpectedMessage)),
        ("no handshake message", &[(HANDSHAKE, b"")], Err(Fault::UnexpectedMessage)),
        ("ChangeCipherSpec", &[(20, &[1])], Err(Fault::UnexpectedMessage)),
        ("no alert", &[(ALERT, b"")], Err(Fault::UnexpectedMessage)),
        ("an alert of three bytes", &[(ALERT, &[1, 0, 0])], Err(Fault::DecodeError)),
        ("a warning", &[(ALERT, &[1, 100]), (DATA, b"")], Ok(())),
        ("a fatal alert", &[(ALERT, &[2, 40])], Err(Fault::PeerAlert)),
        ("an alert of no level", &[(ALERT, &[0, 0])], Err(Fault::IllegalParameter)),
    ];
    for (name, records, expected) in cases {
        for suite in SUITES.into_iter().filter(|suite| suite.version == Version::Tls12) {
            assert_eq!(outcome(suite, records), expected, "{name}");
        }
    }
    let (mut server, mut client) = pair(TLS12);
    let mut record = Vec::new();
    client.test_seal(HANDSHAKE, hello, &mut record);
    take(&mut server, &mut record).unwrap();
    assert!(server.owes());
    record.clear();
    server.seal_own(&mut record);
    assert!(!server.owes());
    let Ok(Opened::Own { consumed }) = client.open(&mut record) else { panic!("the client is told by a warning") };
    assert_eq!(consumed, record.len());
}

#[test]
fn what_costs_the_peer_little_is_counted() {
    let many = |kind, content: &'static [u8], count: u8| vec![(kind, content); usize::from(count)];
    let update: &[u8] = &[24, 0, 0, 1, 1];
    let of_updates = |count| {
        let (mut server, mut client) = pair(TLS13);
        let mut found = Ok(());
        for _ in 0..count {
            let mut record = Vec::new();
            client.test_update(true, &mut record);
            found = found.and_then(|()| take(&mut server, &mut record));
        }
        found.map(|()| {
            // All of them are answered by one.
            let mut answer = Vec::new();
            server.seal_own(&mut answer);
            assert_eq!(answer.len(), update.len() + server.overhead());
        })
    };
    assert_eq!(of_updates(KEY_UPDATES_MAX), Ok(()));
    assert_eq!(of_updates(KEY_UPDATES_MAX + 1), Err(Fault::KeyUpdateFlood));
    for suite in [TLS13, TLS12] {
        assert_eq!(outcome(suite, &many(DATA, b"", EMPTY_RECORDS_MAX)), Ok(()));
        assert_eq!(outcome(suite, &many(DATA, b"", EMPTY_RECORDS_MAX + 1)), Err(Fault::EmptyFlood));
        assert_eq!(outcome(suite, &many(ALERT, &[1, 90], WARNINGS_MAX)), Ok(()));
        assert_eq!(outcome(suite, &many(ALERT, &[1, 90], WARNINGS_MAX + 1)), Err(Fault::WarningFlood));
        let mut with_data = many(DATA, b"", EMPTY_RECORDS_MAX);
        with_data.push((DATA, b"x"));
        with_data.extend(many(DATA, b"", EMPTY_RECORDS_MAX));
        assert_eq!(outcome(suite, &with_data), Ok(()));
    }
}

#[test]
fn lengths_are_judged_by_the_header_alone() {
    for suite in SUITES {
        let (mut server, _) = pair(suite);
        let max = match suite.version {
            Version::Tls13 => 16_640,
            Version::Tls12 if suite.aead == Aead::Chacha20Poly1305 => 16_400,
            Version::Tls12 => 16_408,
        };
        let mut header = |length: u16| {
            let [high, low] = length.to_be_bytes();
            server.open(&mut [DATA, 3, 3, high, low])
        };
        assert_eq!(header(max), Ok(Opened::Partial { needs: Some(5 + usize::from(max)) }));
        for length in [max + 1, 20_000, u16::MAX] {
            assert_eq!(header(length), Err(Fault::RecordOverflow));
        }
        for length in 0..16 {
            assert_eq!(header(length), Err(Fault::BadRecordMac));
        }
    }
}

#[test]
fn content_of_more_than_16_kib_is_refused_though_its_header_is_not() {
    let too_much = vec![0xFF; CONTENT_BYTES_MAX + 1];
    for suite in SUITES {
        assert_eq!(outcome(suite, &[(DATA, &too_much[1..])]), Ok(()));
        assert_eq!(outcome(suite, &[(DATA, &too_much)]), Err(Fault::RecordOverflow));
    }
    // With padding: the inner plaintext counts.
    let mut padded = vec![0; CONTENT_BYTES_MAX + 2];
    padded[0] = DATA;
    assert_eq!(outcome(TLS13, &[(0, &padded[..CONTENT_BYTES_MAX])]), Ok(()));
    assert_eq!(outcome(TLS13, &[(0, &padded)]), Err(Fault::RecordOverflow));
}

#[test]
fn what_is_not_sealed_is_not_taken() {
    for (record, fault) in [
        (vec![ALERT, 3, 3, 0, 2, 1, 0], Fault::UnexpectedMessage),
        (vec![20, 3, 3, 0, 1, 1], Fault::UnexpectedMessage),
        (b"\x17\x03\x03\x00\x05hello".to_vec(), Fault::BadRecordMac),
        (vec![HANDSHAKE, 3, 3, 0, 4, 0, 0, 0, 0], Fault::UnexpectedMessage),
        (vec![99, 3, 3, 0, 40], Fault::UnexpectedMessage),
    ] {
        assert_eq!(pair(TLS13).0.open(&mut record.clone()), Err(fault), "{record:?}");
    }
    for (record, fault) in [
        (vec![ALERT, 3, 3, 0, 2, 1, 0], Fault::BadRecordMac),
        (vec![20, 3, 3, 0, 1, 1], Fault::BadRecordMac),
        (vec![99, 3, 3, 0, 40], Fault::UnexpectedMessage),
    ] {
        assert_eq!(pair(TLS12).0.open(&mut record.clone()), Err(fault), "{record:?}");
    }
}

#[test]
fn a_record_that_was_changed_or_sent_again_is_refused() {
    for suite in SUITES {
        let (_, mut client) = pair(suite);
        let mut records = [Vec::new(), Vec::new()];
        for record in &mut records {
            client.test_seal(DATA, b"content", record);
        }
        let [first, second] = records;
        let mut server = session(Side::Server, suite, 0, 0);
        assert_eq!(take(&mut server, &mut second.clone()), Err(Fault::BadRecordMac), "it comes too early");
        let mut server = session(Side::Server, suite, 0, 0);
        take(&mut server, &mut first.clone()).unwrap();
        assert_eq!(take(&mut server, &mut first.clone()), Err(Fault::BadRecordMac), "it comes again");
        for at in (0..3).chain(5..first.len()) {
            let mut changed = first.clone();
            changed[at] ^= 1;
            let found = take(&mut session(Side::Server, suite, 0, 0), &mut changed);
            assert!(matches!(found, Err(Fault::BadRecordMac | Fault::UnexpectedMessage)), "{suite:?}, byte {at}: {found:?}");
        }
    }
}

/// Whatever is in a record, and however it is cut, nothing panics, and what is said to be content lies in it.
#[test]
fn any_messages_at_all() {
    bolero::check!().with_type::<Vec<(u8, Vec<u8>)>>().for_each(|records| {
        for suite in [TLS13, TLS12] {
            for side in [Side::Server, Side::Client] {
                let other = if side == Side::Server { Side::Client } else { Side::Server };
                let (mut reader, mut writer) = (session(side, suite, 0, 0), session(other, suite, 0, 0));
                for (kind, content) in records {
                    let mut record = Vec::new();
                    // Mostly of a kind that there is.
                    let kind = if *kind < 200 { 20 + kind % 5 } else { *kind };
                    writer.test_seal(kind, content, &mut record);
                    let length = record.len();
                    match reader.open(&mut record) {
                        Err(_) => break,
                        Ok(Opened::Partial { .. }) => panic!("it was whole"),
                        Ok(Opened::Data { content: place, consumed }) => {
                            assert!(&record[place] == content && consumed == length || kind == 0)
                        }
                        Ok(Opened::Own { consumed } | Opened::End { consumed }) => assert_eq!(consumed, length),
                    }
                    if reader.owes() {
                        reader.seal_own(&mut Vec::new());
                    }
                    if kind == HANDSHAKE && content.starts_with(&[24, 0, 0, 1]) {
                        break;
                    }
                }
            }
        }
    });
}
