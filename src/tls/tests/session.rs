//! The compact session by itself: two ends that share secrets, at every split point, up to the limits of their keys.

use std::collections::BTreeSet;
use std::io::IoSlice;

use rustls::client::Resumption;

use super::*;
use crate::tls::initiator::{Initiated, Initiator, prepare};
use crate::tls::keys::{Aead, Suite};
use crate::tls::record::{CONTENT_BYTES_MAX, HEADER_BYTES, RECORD_BYTES_MAX};
use crate::tls::session::{Origin, Session, Side};

pub const SUITES: [Suite; 6] = {
    use Aead::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    use Version::{Tls12, Tls13};
    [
        Suite { version: Tls13, aead: Aes128Gcm },
        Suite { version: Tls13, aead: Aes256Gcm },
        Suite { version: Tls13, aead: Chacha20Poly1305 },
        Suite { version: Tls12, aead: Aes128Gcm },
        Suite { version: Tls12, aead: Aes256Gcm },
        Suite { version: Tls12, aead: Chacha20Poly1305 },
    ]
};

/// One end, whose numbers begin with these.
pub fn session(side: Side, suite: Suite, read: u64, write: u64) -> Session {
    let bytes = match side {
        Side::Server => [[3; 60], [5; 60]],
        Side::Client => [[5; 60], [3; 60]],
    };
    let [read_from, write_from] = bytes.each_ref().map(|bytes| match suite.version {
        Version::Tls13 => Origin::Secret(&bytes[..suite.secret_bytes()]),
        Version::Tls12 => Origin::Fixed { key: &bytes[..suite.key_bytes()], iv: &bytes[..12] },
    });
    Session::new(side, suite, (read, read_from), (write, write_from))
}

pub fn pair(suite: Suite) -> (Session, Session) {
    (session(Side::Server, suite, 0, 0), session(Side::Client, suite, 0, 0))
}

fn sealed(session: &mut Session, slices: &[&[u8]], skip: usize, max: usize) -> (usize, Vec<u8>) {
    let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let mut out = vec![9];
    let content = session.sealer().seal(&slices, skip, max, &mut out);
    (content, out.split_off(1))
}

fn content_of(session: &mut Session, record: &mut [u8]) -> Vec<u8> {
    match session.open(record).unwrap() {
        Opened::Data { content, consumed } => {
            assert_eq!(consumed, record.len());
            record[content].to_vec()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_holds_what_the_slices_have_from_there_on() {
    let whole: Vec<u8> = (0..=255).collect();
    let slices: [&[u8]; 6] = [&whole[..1], &[], &whole[1..4], &whole[4..200], &whole[200..], &[]];
    for suite in SUITES {
        let (mut server, mut client) = pair(suite);
        for skip in 0..=whole.len() {
            for max in [1, 3, 17, 196, 256, usize::MAX / 2] {
                let expected = &whole[skip..whole.len().min(skip.saturating_add(max))];
                let (content, mut record) = sealed(&mut server, &slices, skip, max);
                assert_eq!(content, expected.len());
                if expected.is_empty() {
                    assert!(record.is_empty());
                    continue;
                }
                assert_eq!(record.len(), content + server.overhead());
                assert_eq!(content_of(&mut client, &mut record), expected, "{suite:?}, {skip} {max}");
            }
        }
    }
}

#[test]
fn a_scratch_that_is_too_small_takes_what_has_room() {
    for suite in SUITES {
        let (mut server, mut client) = pair(suite);
        let mut scratch = [0xAA; 300];
        for room in 0..scratch.len() {
            let one = [7; 400];
            let two = [IoSlice::new(&one[..150]), IoSlice::new(&one[150..])];
            for slices in [&[IoSlice::new(&one)][..], &two] {
                let (content, bytes) = server.sealer().seal_into(slices, 0, usize::MAX, &mut scratch[..room]);
                assert_eq!(content, room.saturating_sub(server.overhead()));
                assert!(scratch[room..].iter().all(|byte| *byte == 0xAA));
                if content > 0 {
                    assert_eq!(bytes, room);
                    assert_eq!(content_of(&mut client, &mut scratch[..bytes]), one[..content]);
                    scratch.fill(0xAA);
                }
            }
        }
    }
}

#[test]
fn a_record_is_awaited_with_its_length_as_soon_as_that_is_known() {
    for suite in SUITES {
        let (mut server, mut client) = pair(suite);
        let (_, record) = sealed(&mut client, &[b"some content"], 0, 100);
        let mut input = record.clone();
        for split in 0..input.len() {
            let needs = (split >= HEADER_BYTES).then_some(input.len());
            assert_eq!(server.open(&mut input[..split]), Ok(Opened::Partial { needs }));
        }
        assert_eq!(input, record, "nothing of it was changed");
        input.extend_from_slice(b"more");
        let opened = server.open(&mut input);
        let Ok(Opened::Data { content, consumed }) = opened else { panic!("{opened:?}") };
        assert_eq!((&input[content], consumed), (&b"some content"[..], record.len()));
    }
}

#[test]
fn every_fault_has_a_name_of_its_own_and_its_alert_is_understood() {
    let names: BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    assert_eq!(names.len(), Fault::ALL.len());
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())));
    for suite in SUITES {
        for fault in Fault::ALL {
            let (mut server, mut client) = pair(suite);
            let mut out = Vec::new();
            server.alert(fault, &mut out);
            let expected = match fault {
                Fault::NotTls | Fault::PeerAlert => Ok(Opened::Partial { needs: None }),
                Fault::Exhausted => Ok(Opened::End { consumed: out.len() }),
                _ => Err(Fault::PeerAlert),
            };
            assert_eq!(client.open(&mut out), expected, "{fault}");
        }
    }
}

#[test]
fn the_largest_record_is_read_and_none_is_larger() {
    let content = vec![1; CONTENT_BYTES_MAX + 1];
    for suite in SUITES {
        let (mut server, mut client) = pair(suite);
        let (taken, mut record) = sealed(&mut client, &[&content], 0, usize::MAX);
        assert_eq!(taken, CONTENT_BYTES_MAX);
        assert!(record.len() <= RECORD_BYTES_MAX);
        assert_eq!(content_of(&mut server, &mut record), content[..taken]);
    }
}

/// They never left the process; what takes their numbers is read as if they had not been.
#[test]
fn what_was_taken_back_is_not_missed() {
    for suite in SUITES {
        let (mut server, mut client) = pair(suite);
        for round in 0..5 {
            for _ in 0..3 {
                sealed(&mut server, &[b"forgotten"], 0, 100);
            }
            server.take_back(3);
            let (_, mut record) = sealed(&mut server, &[&[round; 9]], 0, 100);
            assert_eq!(content_of(&mut client, &mut record), [round; 9]);
        }
    }
}

#[test]
#[should_panic(expected = "no more is taken back")]
fn what_another_key_has_sealed_cannot_be_taken_back() {
    let (mut server, mut client) = pair(SUITES[0]);
    sealed(&mut server, &[b"before"], 0, 100);
    let mut update = Vec::new();
    client.test_seal(22, &[24, 0, 0, 1, 1], &mut update);
    assert!(matches!(server.open(&mut update), Ok(Opened::Own { .. })));
    server.seal_own(&mut Vec::new());
    server.take_back(1);
}

#[test]
fn keys_are_changed_before_they_have_sealed_too_much() {
    for suite in SUITES.into_iter().filter(|suite| suite.version == Version::Tls13 && suite.aead != Aead::Chacha20Poly1305) {
        let half = suite.records_max() / 2;
        let mut server = session(Side::Server, suite, 0, half - 1);
        let mut client = session(Side::Client, suite, half - 1, 0);
        assert!(!server.owes());
        let mut out = sealed(&mut server, &[b"old"], 0, 100).1;
        assert!(server.owes());
        out.extend(sealed(&mut server, &[b"late"], 0, 100).1);
        server.seal_own(&mut out);
        assert!(!server.owes());
        out.extend(sealed(&mut server, &[b"new"], 0, 100).1);
        let mut layer = Layer::Compact(client);
        assert_eq!(opened(&mut layer, &mut out).unwrap(), b"oldlatenew");
        assert!(!layer.owes(), "it was not asked for");

        // Whoever never asks what it owes cannot seal more than the key may.
        client = session(Side::Client, suite, 0, suite.records_max() - 17);
        assert_eq!(sealed(&mut client, &[b"last"], 0, 100).0, 4);
        assert_eq!(sealed(&mut client, &[b"none"], 0, 100), (0, Vec::new()));
        assert!(!client.is_exhausted());
        client.seal_own(&mut Vec::new());
        assert_eq!(sealed(&mut client, &[b"again"], 0, 100).0, 5);
    }
}

#[test]
fn tls12_ends_when_its_key_is_used_up() {
    for suite in SUITES.into_iter().filter(|suite| suite.version == Version::Tls12 && suite.aead != Aead::Chacha20Poly1305) {
        let mut server = session(Side::Server, suite, 0, suite.records_max() - 17);
        let mut client = session(Side::Client, suite, suite.records_max() - 17, 0);
        assert!(!server.is_exhausted());
        let mut out = sealed(&mut server, &[b"last"], 0, 100).1;
        assert!(server.is_exhausted() && !server.owes());
        assert_eq!(sealed(&mut server, &[b"none"], 0, 100), (0, Vec::new()));
        assert_eq!(content_of(&mut client, &mut out), b"last");
        let mut end = Vec::new();
        server.alert(Fault::Exhausted, &mut end);
        assert!(matches!(client.open(&mut end), Ok(Opened::End { .. })));
    }
}

/// Both ends ours, the client's from rustls's keys: (server, client, what has come to the client).
fn both_ends(acceptor: &Arc<Acceptor>, config: &Arc<ClientConfig>) -> (Box<Established>, Box<Initiated>, Vec<u8>) {
    let mut initiator = Initiator::new(config.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut handshake = Handshake::new(acceptor.clone());
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut initiated = initiator.advance(&[], &mut to_server).unwrap();
    let established = loop {
        let step = handshake.advance(&std::mem::take(&mut to_server), &mut to_client).unwrap();
        if initiated.is_none() {
            initiated = initiator.advance(&std::mem::take(&mut to_client), &mut to_server).unwrap();
        }
        if let Step::Done(established) = step {
            break established;
        }
    };
    let mut initiated = initiated.expect("the client is done as well");
    let mut came = std::mem::take(&mut initiated.rest);
    came.append(&mut to_client);
    (established, initiated, came)
}

#[test]
fn keys_go_on_from_those_that_rustls_derives() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    for suite in suites() {
        let mut config = client_config(&files, suite);
        prepare(&mut config);
        let (established, initiated, mut came) = both_ends(&acceptor, &Arc::new(config));
        let (mut server, mut client) = (established.layer, Layer::Compact(initiated.session));
        assert_eq!((initiated.suite, initiated.is_resumed), (established.suite, false));
        for round in 0..50 {
            seal(&mut server, &[round; 40], &mut came);
            assert_eq!(opened(&mut client, &mut came).unwrap(), [round; 40]);
            came.clear();
            let mut bytes = Vec::new();
            if let (true, Layer::Compact(session)) = (suite.tls13().is_some(), &mut client) {
                session.test_update(round % 3 == 0, &mut bytes);
            }
            seal(&mut client, &[round; 50], &mut bytes);
            assert_eq!(opened(&mut server, &mut bytes).unwrap(), [round; 50]);
            assert_eq!(server.owes(), suite.tls13().is_some() && round % 3 == 0);
        }
    }
}

#[test]
fn a_client_resumes_by_the_tickets_that_it_took() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    for suite in suites() {
        let mut config = client_config(&files, suite);
        config.resumption = Resumption::in_memory_sessions(8);
        prepare(&mut config);
        let config = Arc::new(config);
        for round in 0..3 {
            let (established, mut initiated, mut came) = both_ends(&acceptor, &config);
            assert_eq!((established.is_resumed, initiated.is_resumed), (round > 0, round > 0), "{suite:?}");
            let mut count = 0;
            let mut at = 0;
            while at < came.len() {
                let take = &mut |ticket: &[u8]| {
                    initiated.tickets.take(ticket).unwrap();
                    count += 1;
                };
                let Ok(Opened::Own { consumed }) = initiated.session.open_for(&mut came[at..], take) else { panic!("only tickets came") };
                at += consumed;
            }
            assert_eq!(count > 0, suite.tls13().is_some());
        }
    }
}
