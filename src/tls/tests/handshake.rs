//! The handshake with rustls's client: every suite, every split, what clients may want, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, Error};

use super::*;
use crate::tls::certificate::Name;
use crate::tls::record::HEADER_BYTES;

#[test]
fn every_suite_carries_data_both_ways() {
    let files = Files::new();
    for is_compact in [true, false] {
        let acceptor = acceptor(&Wanted { is_compact, ..wanted(&files) });
        for suite in suites() {
            let mut client = connect(&Arc::new(client_config(&files, suite)), "localhost");
            let mut established = shake(&acceptor, &mut client).unwrap();
            assert_eq!(established.suite, suite_name(suite));
            assert_eq!(established.version == Version::Tls13, suite.tls13().is_some());
            assert_eq!(established.server_name.as_deref(), Some("localhost"));
            assert!(!established.is_resumed && established.peer.is_none() && established.rest.is_empty());
            for round in 0..3 {
                talk(&mut established.layer, &mut client, round);
            }
            let mut out = Vec::new();
            established.layer.close_notify(&mut out);
            give(&mut client, &out).unwrap();
            assert_eq!(client.reader().read(&mut [0]).unwrap(), 0, "close_notify came");
            client.send_close_notify();
            let mut last = sent(&mut client);
            assert!(matches!(established.layer.open(&mut last), Ok(Opened::End { .. })));
        }
    }
}

/// What waits, and some more behind an update of keys, which TLS 1.2 has not.
fn with_other_keys(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = sent(client);
    let has_updated = client.refresh_traffic_keys().is_ok();
    assert_eq!(has_updated, client.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3));
    bytes.extend(write(client, b", and with other keys"));
    bytes
}

/// The handshake with the bytes of each flight split at `at`, and data in the segment of Finished, where the client's Finished comes last: what the
/// server reads of it, and how many bytes the longest flight has.
fn split_at(acceptor: &Arc<Acceptor>, config: &Arc<ClientConfig>, at: usize) -> (Vec<u8>, usize) {
    let mut client = connect(config, "localhost");
    let mut handshake = Handshake::new(acceptor.clone());
    client.writer().write_all(b"at once").unwrap();
    let mut longest = 0;
    let mut has_written = false;
    loop {
        let mut input = sent(&mut client);
        if !client.is_handshaking() && !has_written {
            has_written = true;
            input.extend(with_other_keys(&mut client));
        }
        longest = longest.max(input.len());
        let (first, second) = input.split_at(at.min(input.len()));
        let mut out = Vec::new();
        let mut rest = Vec::new();
        let mut done = None;
        for part in [first, second] {
            match &done {
                None => {
                    assert!(handshake.buffer_bytes() < 64 * 1024);
                    if let Step::Done(established) = handshake.advance(part, &mut out).unwrap() {
                        done = Some(established);
                    }
                }
                Some(_) => rest.extend_from_slice(part),
            }
        }
        give(&mut client, &out).unwrap();
        if let Some(mut established) = done {
            let mut bytes = std::mem::take(&mut established.rest);
            bytes.extend_from_slice(&rest);
            if !has_written {
                bytes.extend(with_other_keys(&mut client));
            }
            let data = opened(&mut established.layer, &mut bytes).unwrap();
            talk(&mut established.layer, &mut client, 7);
            return (data, longest);
        }
    }
}

/// Every boundary of a record is one of these, and every place within one.
#[test]
fn a_handshake_may_be_split_anywhere() {
    let files = Files::new();
    for (suite, resumption, is_compact) in [
        (first_suite(), Resumption::disabled(), true),
        (first_suite(), Resumption::in_memory_sessions(4), true),
        (suite_of_tls12(), Resumption::disabled(), true),
        (suite_of_tls12(), Resumption::in_memory_sessions(4), true),
        (first_suite(), Resumption::disabled(), false),
        (suite_of_tls12(), Resumption::in_memory_sessions(4), false),
    ] {
        let mut config = client_config(&files, suite);
        config.resumption = resumption;
        let config = Arc::new(config);
        let acceptor = acceptor(&Wanted { is_compact, ..wanted(&files) });
        let (_, longest) = split_at(&acceptor, &config, 0);
        for at in 0..=longest {
            assert_eq!(split_at(&acceptor, &config, at).0, b"at once, and with other keys", "{suite:?} at {at}");
        }
    }
}

#[test]
fn byte_by_byte_nothing_begins_before_the_first_record_is_whole() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    let mut client = connect(&Arc::new(client_config(&files, first_suite())), "localhost");
    let hello = sent(&mut client);
    let mut handshake = Handshake::new(acceptor);
    let mut out = Vec::new();
    for (index, byte) in hello.iter().enumerate() {
        let is_last = index + 1 == hello.len();
        assert_eq!(handshake.is_ready(&[*byte]), is_last);
        assert!(!handshake.has_begun() && out.is_empty());
        assert!(matches!(handshake.advance(&[*byte], &mut out), Ok(Step::Wants)));
    }
    assert!(handshake.has_begun() && !out.is_empty());
    give(&mut client, &out).unwrap();
    assert!(!client.is_handshaking());
}

#[test]
fn sessions_are_resumed_with_tickets_of_any_listener_that_asks_the_same() {
    let files = Files::new().with_other();
    let tickets = Arc::new(Tickets::new(now()).unwrap());
    let load = |wanted: &Wanted| Arc::new(Acceptor::load(wanted, &tickets, now()).unwrap());
    let first = load(&wanted(&files));
    let second = load(&wanted(&files));
    let verifying = load(&Wanted { client_auth: ClientAuth::IfGiven, client_ca: Some(files.path("ca.crt")), ..wanted(&files) });
    for suite in suites() {
        let mut config = client_config(&files, suite);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let mut is_resumed = |acceptor: &Arc<Acceptor>| {
            let mut client = connect(&config, "localhost");
            let mut established = shake(acceptor, &mut client).unwrap();
            talk(&mut established.layer, &mut client, 1);
            established.is_resumed
        };
        assert_eq!([&first, &second, &first].map(&mut is_resumed), [false, true, true], "{suite:?}");
        assert_eq!([&verifying, &verifying, &first].map(&mut is_resumed), [false, true, false], "{suite:?}");
    }
}

#[test]
fn rustls_reads_records_of_many_slices_and_misses_none_that_was_taken_back() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    let content: Vec<u8> = (0..40_000_u32).map(|index| (index % 251) as u8).collect();
    let slices: Vec<IoSlice<'_>> = content.chunks(777).map(IoSlice::new).collect();
    for suite in suites() {
        let mut client = connect(&Arc::new(client_config(&files, suite)), "localhost");
        let mut established = shake(&acceptor, &mut client).unwrap();
        let layer = &mut established.layer;
        let mut scratch = vec![0; 20_000];
        let mut read_bytes = Vec::new();
        let mut records = 0_usize;
        while read_bytes.len() < content.len() {
            records += 1;
            let max = [100, 777, 16_384, 5000][records % 4];
            if records.is_multiple_of(3) {
                let mut sealer = layer.sealer();
                for _ in 0..3 {
                    assert!(sealer.seal_into(&slices, read_bytes.len(), 1000, &mut scratch).0 > 0);
                }
                layer.take_back(3);
            }
            let (taken, bytes) = layer.sealer().seal_into(&slices, read_bytes.len(), max, &mut scratch);
            assert_eq!(taken, max.min(content.len() - read_bytes.len()));
            assert_eq!(bytes, taken + layer.overhead());
            give(&mut client, &scratch[..bytes]).unwrap();
            read_bytes.extend(read(&mut client));
        }
        assert_eq!(read_bytes, content, "{suite:?}");
    }
}

#[test]
fn either_side_may_change_its_keys_at_any_time() {
    let files = Files::new();
    for is_compact in [true, false] {
        let acceptor = acceptor(&Wanted { is_compact, ..wanted(&files) });
        for suite in suites().into_iter().filter(|suite| suite.tls13().is_some()) {
            let mut client = connect(&Arc::new(client_config(&files, suite)), "localhost");
            let layer = &mut shake(&acceptor, &mut client).unwrap().layer;
            for round in 0..40 {
                if round % 2 == 0 {
                    client.refresh_traffic_keys().unwrap();
                }
                talk(layer, &mut client, round);
            }
        }
    }
}

#[test]
fn clients_are_known_by_their_certificates() {
    let files = Files::new().with_clients();
    for is_compact in [true, false] {
        let load = |client_auth| acceptor(&Wanted { client_auth, client_ca: Some(files.path("ca.crt")), is_compact, ..wanted(&files) });
        let (required, if_given) = (load(ClientAuth::Required), load(ClientAuth::IfGiven));
        for suite in [first_suite(), suite_of_tls12()] {
            let mut config = with_certificate(&files, suite, Some("client"));
            config.resumption = Resumption::in_memory_sessions(8);
            let config = Arc::new(config);
            for is_resumed in [false, true] {
                let mut client = connect(&config, "localhost");
                let mut established = shake(&required, &mut client).unwrap();
                assert_eq!(established.is_resumed, is_resumed);
                let peer = established.peer.as_ref().unwrap();
                assert_eq!(peer.subject, r"CN=device 7,OU=\+1,O=Example\, Inc.");
                let names = [
                    Name::Dns("device7.example".to_owned()),
                    Name::Uri("urn:device:7".to_owned()),
                    Name::Email("d@example.org".to_owned()),
                    Name::Ip("::1".parse().unwrap()),
                ];
                assert_eq!(peer.names, names);
                assert!((now() + 86_400..now() + 3 * 86_400).contains(&peer.not_after));
                talk(&mut established.layer, &mut client, 1);
            }
            for (own, alert) in [("expired", AlertDescription::CertificateExpired), ("foreign", AlertDescription::UnknownCA)] {
                for acceptor in [&required, &if_given] {
                    let mut client = connect(&Arc::new(with_certificate(&files, suite, Some(own))), "localhost");
                    assert_eq!(refused(acceptor, &mut client), (Fault::ClientCertificate, Some(alert)), "{own} {suite:?}");
                }
            }
            let config = Arc::new(client_config(&files, suite));
            let alert = match suite.tls13() {
                Some(_) => AlertDescription::CertificateRequired,
                None => AlertDescription::HandshakeFailure,
            };
            let is_refused = refused(&required, &mut connect(&config, "localhost"));
            assert_eq!(is_refused.0, Fault::ClientCertificate);
            assert!(is_refused.1 == Some(alert) || is_refused.1 == Some(AlertDescription::CertificateRequired), "{is_refused:?}");
            assert_eq!(shake(&if_given, &mut connect(&config, "localhost")).unwrap().peer, None);
        }
    }
}

/// rustls does not verify it again.
#[test]
fn a_certificate_that_has_expired_since_resumes_nothing() {
    #[derive(Debug)]
    struct At(u64);
    impl TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
        }
    }
    let files = Files::new().with_clients();
    for is_compact in [true, false] {
        let now_on =
            acceptor(&Wanted { client_auth: ClientAuth::Required, client_ca: Some(files.path("ca.crt")), is_compact, ..wanted(&files) });
        let later = Arc::new(now_on.test_at(Arc::new(At(now() + 3 * 86_400))));
        for suite in [first_suite(), suite_of_tls12()] {
            let mut config = with_certificate(&files, suite, Some("client"));
            config.resumption = Resumption::in_memory_sessions(8);
            let config = Arc::new(config);
            let mut client = connect(&config, "localhost");
            let mut established = shake(&now_on, &mut client).unwrap();
            talk(&mut established.layer, &mut client, 1);
            let mut client = connect(&config, "localhost");
            let told = refused(&later, &mut client);
            let expected = if is_compact { Some(AlertDescription::CertificateExpired) } else { None };
            assert_eq!(told, (Fault::ClientCertificate, expected), "{suite:?}");
        }
    }
}

/// Why, and which alert the client got.
fn refused(acceptor: &Arc<Acceptor>, client: &mut ClientConnection) -> (Fault, Option<AlertDescription>) {
    let mut handshake = Handshake::new(acceptor.clone());
    loop {
        let mut out = Vec::new();
        let step = handshake.advance(&sent(client), &mut out);
        let told = give(client, &out);
        match step {
            Ok(Step::Wants) => told.unwrap(),
            Ok(Step::Done(_)) => panic!("it was let in"),
            Err(fault) => {
                let alert = match told {
                    Err(Error::AlertReceived(alert)) => Some(alert),
                    told => {
                        assert_eq!(told, Ok(()));
                        None
                    }
                };
                return (fault, alert);
            }
        }
    }
}

#[test]
fn what_both_do_not_speak_is_refused_with_its_alert() {
    let files = Files::new();
    let only_tls13 = acceptor(&Wanted { min_version: Version::Tls13, ..wanted(&files) });
    let mut client = connect(&Arc::new(client_config(&files, suite_of_tls12())), "localhost");
    assert_eq!(refused(&only_tls13, &mut client), (Fault::Version, Some(AlertDescription::ProtocolVersion)));

    let only_chacha = acceptor(&Wanted { suites: vec!["TLS13_CHACHA20_POLY1305_SHA256".to_owned()], ..wanted(&files) });
    let mut client = connect(&Arc::new(client_config(&files, first_suite())), "localhost");
    assert_eq!(refused(&only_chacha, &mut client), (Fault::NoSharedSuite, Some(AlertDescription::HandshakeFailure)));

    let any = acceptor(&wanted(&files));
    let mut config = client_config(&files, first_suite());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = connect(&Arc::new(config.clone()), "localhost");
    assert_eq!(refused(&any, &mut client), (Fault::NoSharedProtocol, Some(AlertDescription::NoApplicationProtocol)));
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let mut client = connect(&Arc::new(config), "localhost");
    shake(&any, &mut client).unwrap();
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
}

/// A record of a handshake message of this type, with this version in it and so much behind.
fn hello_of(kind: u8, version: [u8; 2], bytes: usize) -> Vec<u8> {
    let length = (2 + bytes) as u32;
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&((length + 4) as u16).to_be_bytes());
    record.extend_from_slice(&[&[kind], &length.to_be_bytes()[1..], &version].concat());
    record.resize(record.len() + bytes, 0);
    record
}

#[test]
fn what_is_no_client_hello_is_refused_before_it_costs_anything() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    let cases: [(&str, Vec<u8>, Fault, Option<u8>); 12] = [
        ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), Fault::NotTls, None),
        ("SSH", b"SSH-2.0-x".to_vec(), Fault::NotTls, None),
        ("PROXY", b"PROXY TCP4".to_vec(), Fault::NotTls, None),
        ("SSLv2", vec![0x80, 0x2E, 1, 3, 1], Fault::NotTls, None),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40], Fault::NotTls, None),
        ("garbage", b"\x16\xFF\xFF".to_vec(), Fault::DecodeError, Some(50)),
        ("SSLv3", hello_of(1, [3, 0], 40), Fault::Version, Some(70)),
        ("TLS 1.0", hello_of(1, [3, 1], 40), Fault::Version, Some(70)),
        ("TLS 1.1", hello_of(1, [3, 2], 40), Fault::Version, Some(70)),
        ("ServerHello", hello_of(2, [3, 3], 40), Fault::UnexpectedMessage, Some(10)),
        ("a large one", vec![22, 3, 1, 0x40, 1], Fault::RecordOverflow, Some(22)),
        ("a large message", vec![22, 3, 1, 0x40, 0, 1, 0, 0x40, 1], Fault::HandshakeTooLarge, Some(50)),
    ];
    for (name, bytes, fault, alert) in cases {
        // Whole, and one byte at a time.
        for step in [bytes.len(), 1] {
            let mut handshake = Handshake::new(acceptor.clone());
            let mut out = Vec::new();
            let mut found = Ok(());
            for part in bytes.chunks(step) {
                assert!(!handshake.is_ready(part), "{name}");
                found = handshake.advance(part, &mut out).map(drop);
                if found.is_err() {
                    break;
                }
            }
            assert_eq!(found, Err(fault), "{name}");
            assert!(!handshake.has_begun(), "{name}");
            let told: Vec<u8> = alert.iter().flat_map(|alert| [21, 3, 3, 0, 2, 2, *alert]).collect();
            assert_eq!(out, told, "{name}");
        }
    }
}

#[test]
fn what_a_handshake_keeps_is_bounded() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    // A ClientHello of 16,000 bytes, one in each record; and one of 16 MB, of which the first record does not tell.
    let mut message = vec![1, 0, 0x3E, 0x80];
    message.resize(4 + 16_000, 3);
    let small: Vec<u8> = message.iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    let mut large = vec![22, 3, 1, 0, 1, 1, 22, 3, 1, 0x40, 0, 0xFF, 0xFF, 0xFF];
    large.resize(large.len() + 16_381, 0);
    large.extend_from_slice(&[22, 3, 1, 0x40, 0]);
    large.resize(large.len() + 16_384, 0);
    for bytes in [small, large] {
        let mut handshake = Handshake::new(acceptor.clone());
        let mut out = Vec::new();
        let mut found = Ok(());
        for part in bytes.chunks(1000) {
            found = handshake.advance(part, &mut out).map(drop);
            assert!(handshake.buffer_bytes() < 64 * 1024);
            if found.is_err() {
                break;
            }
        }
        assert!(matches!(found, Err(Fault::HandshakeTooLarge)), "{found:?}");
        assert_eq!(out, [21, 3, 3, 0, 2, 2, 50]);
    }
}

/// A client that goes in the middle, with the alert that says so, or without one.
#[test]
fn a_client_may_give_up() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    for alert in [0, 40] {
        let mut client = connect(&Arc::new(client_config(&files, first_suite())), "localhost");
        let mut handshake = Handshake::new(acceptor.clone());
        let mut out = Vec::new();
        assert!(matches!(handshake.advance(&sent(&mut client), &mut out), Ok(Step::Wants)));
        assert_eq!(handshake.advance(&[21, 3, 3, 0, 2, 1 + u8::from(alert > 0), alert], &mut out).map(drop), Err(Fault::PeerAlert));
    }
}

#[test]
fn a_client_hello_may_come_in_two_records() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    for at in [1, 3, 4, 5, 6, 7, 100] {
        let mut client = connect(&Arc::new(client_config(&files, first_suite())), "localhost");
        let hello = sent(&mut client);
        let (first, second) = hello[HEADER_BYTES..].split_at(at);
        let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
        let mut handshake = Handshake::new(acceptor.clone());
        let mut out = Vec::new();
        assert!(matches!(handshake.advance(&record(first), &mut out), Ok(Step::Wants)));
        assert!(matches!(handshake.advance(&record(second), &mut out), Ok(Step::Wants)));
        give(&mut client, &out).unwrap();
        assert!(matches!(handshake.advance(&sent(&mut client), &mut out), Ok(Step::Done(_))), "at {at}");
    }
}
