use super::*;

/// A header of version 2.
fn v2_of(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    [&V2_SIGNATURE[..], &[command, kind], &(block.len() as u16).to_be_bytes(), block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// The same with its checksum put in behind the other TLVs.
fn with_crc(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    let mut header = v2_of(command, kind, &[block, &tlv(3, &[0; 4])].concat());
    let at = header.len() - 4;
    let crc = crc32c(&header[..at], &[0; 4], &[]);
    header[at..].copy_from_slice(&crc.to_be_bytes());
    header
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 0x01, 0xBB];

fn ipv6() -> Vec<u8> {
    let (from, to): (Ipv6Addr, Ipv6Addr) = ("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
    [&from.octets()[..], &to.octets(), &[0xC3, 0x50, 0x01, 0xBB]].concat()
}

fn ip(text: &str) -> Client {
    Client::Ip(text.parse().unwrap())
}

/// Every header that is good, and what it says.
fn good() -> Vec<(Vec<u8>, Client)> {
    let line = |text: &str| format!("PROXY {text}\r\n").into_bytes();
    let tlvs = [tlv(1, b"h2"), tlv(0x20, &[7, 0, 0, 0, 0]), tlv(4, &[0; 40]), tlv(0xE0, b"")].concat();
    vec![
        (line("TCP4 192.0.2.7 198.51.100.1 50000 443"), ip("192.0.2.7:50000")),
        (line("TCP4 255.255.255.255 255.255.255.255 65535 65535"), ip("255.255.255.255:65535")),
        (line("TCP4 0.0.0.0 0.0.0.0 0 0"), ip("0.0.0.0:0")),
        (line("TCP6 2001:db8::7 2001:db8::1 50000 443"), ip("[2001:db8::7]:50000")),
        (line("TCP6 ::ffff:192.0.2.7 ::1 1 2"), ip("[::ffff:192.0.2.7]:1")),
        (
            line("TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535"),
            ip("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        (line("UNKNOWN"), Client::Itself),
        (line("UNKNOWN ffff:f...f:ffff \u{1} 65535"), Client::Itself),
        (v2_of(0x21, 0x11, &IPV4), ip("192.0.2.7:50000")),
        (v2_of(0x21, 0x12, &IPV4), ip("192.0.2.7:50000")),
        (v2_of(0x21, 0x21, &ipv6()), ip("[2001:db8::7]:50000")),
        (v2_of(0x21, 0x31, &[b'/'; 216]), Client::Unix),
        (v2_of(0x21, 0x00, &[]), Client::Itself),
        (v2_of(0x21, 0x00, &tlvs), Client::Itself),
        (v2_of(0x21, 0x11, &[&IPV4[..], &tlvs].concat()), ip("192.0.2.7:50000")),
        (with_crc(0x21, 0x11, &[&IPV4[..], &tlvs].concat()), ip("192.0.2.7:50000")),
        (with_crc(0x21, 0x21, &ipv6()), ip("[2001:db8::7]:50000")),
        (v2_of(0x21, 0x11, &[&IPV4[..], &tlv(4, &[0; 520 - 12 - 3])].concat()), ip("192.0.2.7:50000")),
        // LOCAL, whatever family, length and block say; the second is a health check of HAProxy 2.6.
        (v2_of(0x20, 0x00, &[]), Client::Itself),
        (v2_of(0x20, 0x00, &[0; 15]), Client::Itself),
        (v2_of(0x20, 0x11, &[]), Client::Itself),
        (v2_of(0x20, 0x11, &IPV4), Client::Itself),
        (v2_of(0x20, 0xFF, &[0xFF; 520]), Client::Itself),
    ]
}

/// Everything that is wrong, and why.
fn bad() -> Vec<(Vec<u8>, Fault)> {
    use Fault::*;
    let line = |text: &str| (format!("PROXY {text}\r\n").into_bytes(), V1Malformed);
    let mut wrong_crc = with_crc(0x21, 0x11, &IPV4);
    *wrong_crc.last_mut().unwrap() ^= 1;
    let mut other_bytes = with_crc(0x21, 0x11, &IPV4);
    other_bytes[16] ^= 1;
    vec![
        (b"GET /ws HTTP/1.1\r\n".to_vec(), Missing),
        (b"PROXYTCP4".to_vec(), Missing),
        (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), Missing),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Missing),
        (b"\r\n\r\nGET".to_vec(), Missing),
        (b"\x16\x03\x01".to_vec(), Missing),
        line(""),
        line("TCP4"),
        line("tcp4 1.2.3.4 1.2.3.4 1 2"),
        line("TCP5 1.2.3.4 1.2.3.4 1 2"),
        line("UNKNOWNS"),
        line("TCP4  1.2.3.4 1.2.3.4 1 2"),
        line("TCP4 1.2.3.4 1.2.3.4 1 2 "),
        line("TCP4 1.2.3.4 1.2.3.4 1 2 3"),
        line("TCP4 1.2.3.4 1.2.3.4 1"),
        line("TCP4 1.2.3.4 1.2.3.4 01 2"),
        line("TCP4 1.2.3.4 1.2.3.4 +1 2"),
        line("TCP4 1.2.3.4 1.2.3.4 65536 2"),
        line("TCP4 1.2.3.4 1.2.3.4 1 "),
        line("TCP4 1.2.3 1.2.3.4 1 2"),
        line("TCP4 1.2.3.04 1.2.3.4 1 2"),
        line("TCP4 ::1 ::1 1 2"),
        line("TCP6 1.2.3.4 1.2.3.4 1 2"),
        line("TCP6 ::1%eth0 ::1 1 2"),
        line("TCP4 1.2.3.4 1.2.3.4 1 2\nX"),
        line("TCP4 1.2.3.4\u{a0}1.2.3.4 1 2"),
        (b"PROXY UNKNOWN ".iter().chain(&[b'x'; 200]).copied().collect(), V1TooLong),
        // CR at the very end of what is allowed.
        (format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 14 - 1)).into_bytes(), V1TooLong),
        (v2_of(0x11, 0x11, &IPV4), V2Unknown),
        (v2_of(0x31, 0x11, &IPV4), V2Unknown),
        (v2_of(0x22, 0x11, &IPV4), V2Unknown),
        (v2_of(0x21, 0x41, &IPV4), V2Unknown),
        (v2_of(0x21, 0x13, &IPV4), V2Unknown),
        (v2_of(0x21, 0x10, &IPV4), V2Unknown),
        (v2_of(0x21, 0x01, &[]), V2Unknown),
        (v2_of(0x21, 0x11, &IPV4[..11]), V2Malformed),
        (v2_of(0x21, 0x21, &IPV4), V2Malformed),
        (v2_of(0x21, 0x31, &[0; 215]), V2Malformed),
        (v2_of(0x21, 0x11, &[&IPV4[..], &[4, 0]].concat()), V2Malformed),
        (v2_of(0x21, 0x11, &[&IPV4[..], &[4, 0, 1]].concat()), V2Malformed),
        (v2_of(0x21, 0x11, &[&IPV4[..], &tlv(3, &[0; 5])].concat()), V2Malformed),
        (v2_of(0x21, 0x11, &[&IPV4[..], &tlv(3, &[0; 4]), &tlv(3, &[0; 4])].concat()), V2Malformed),
        (v2_of(0x21, 0x00, &[0]), V2Malformed),
        (v2_of(0x21, 0x11, &[0; 521]), V2TooLong),
        (v2_of(0x20, 0x00, &[0; 521]), V2TooLong),
        (wrong_crc, V2Checksum),
        (other_bytes, V2Checksum),
    ]
}

#[test]
fn good_headers_are_read_at_every_split() {
    for (header, client) in good() {
        let expected = Outcome::Header { bytes: header.len(), client };
        for split in 0..header.len() {
            assert_eq!(parse(&header[..split]), Outcome::Partial, "{split} of {}", header.escape_ascii());
        }
        assert!(is_preamble(&header));
        for behind in [&b""[..], b"GET /ws HTTP/1.1\r\n", &[0; 600], &header] {
            assert_eq!(parse(&[&header, behind].concat()), expected, "{}", header.escape_ascii());
        }
    }
}

#[test]
fn bad_headers_are_refused_and_stay_refused() {
    for (header, fault) in bad() {
        let mut refused = false;
        for split in 0..=header.len() {
            match parse(&header[..split]) {
                Outcome::Partial => assert!(!refused),
                Outcome::Refuse(found) => {
                    assert_eq!(found, fault, "{split} of {}", header.escape_ascii());
                    refused = true;
                }
                Outcome::Header { .. } => panic!("{}", header.escape_ascii()),
            }
        }
        assert!(refused, "{}", header.escape_ascii());
        assert_eq!(parse(&[&header, &[b'x'; 600][..]].concat()), Outcome::Refuse(fault));
    }
}

#[test]
fn nobody_is_waited_for_beyond_the_bound() {
    for begin in [&V2_SIGNATURE[..], V1_PREFIX, b"PROXY UNKNOWN", &[&V2_SIGNATURE[..], &[0x21, 0x11, 0x02, 0x08]].concat()] {
        for filler in [0, b' ', b'1', 0xFF] {
            let bytes = [begin, &[filler; BYTES_MAX]].concat();
            assert_ne!(parse(&bytes[..BYTES_MAX]), Outcome::Partial, "{}", begin.escape_ascii());
        }
    }
}

/// The checksum of "123456789" is the one that every table of checksums has.
#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"1234", b"5678", b"9"), 0xE306_9283);
    assert_eq!(crc32c(&[0; 28], &[0; 4], b""), 0x8A91_36AA);
}

mod oracle {
    use proptest::prelude::*;

    use super::*;

    /// What `ppp` makes of the same bytes; None where it differs on purpose from the specification, or from us.
    fn v1_by_ppp(bytes: &[u8]) -> Option<(usize, Client)> {
        let header = ppp::v1::Header::try_from(bytes).ok()?;
        let client = match header.addresses {
            ppp::v1::Addresses::Unknown => Client::Itself,
            ppp::v1::Addresses::Tcp4(tcp) => Client::Ip(SocketAddr::new(tcp.source_address.into(), tcp.source_port)),
            ppp::v1::Addresses::Tcp6(tcp) => Client::Ip(SocketAddr::new(tcp.source_address.into(), tcp.source_port)),
        };
        Some((header.header.len(), client))
    }

    fn v2_by_ppp(bytes: &[u8]) -> Option<(usize, Client)> {
        let header = ppp::v2::Header::try_from(bytes).ok()?;
        let client = match header.addresses {
            _ if header.command == ppp::v2::Command::Local => Client::Itself,
            ppp::v2::Addresses::Unspecified => Client::Itself,
            ppp::v2::Addresses::IPv4(ip) => Client::Ip(SocketAddr::new(ip.source_address.into(), ip.source_port)),
            ppp::v2::Addresses::IPv6(ip) => Client::Ip(SocketAddr::new(ip.source_address.into(), ip.source_port)),
            ppp::v2::Addresses::Unix(_) => Client::Unix,
        };
        Some((header.len(), client))
    }

    /// What we take, the oracle takes for the same, but where it is stricter than the specification: LOCAL with less than its family's addresses.
    fn check(bytes: &[u8]) {
        let Outcome::Header { bytes: length, client } = parse(bytes) else { return };
        let is_v2 = bytes.starts_with(V2_SIGNATURE);
        let by_ppp = if is_v2 { v2_by_ppp(bytes) } else { v1_by_ppp(bytes) };
        let is_local = is_v2 && bytes[12] == 0x20;
        if by_ppp.is_some() || !is_local {
            assert_eq!(by_ppp, Some((length, client)), "{}", bytes[..length].escape_ascii());
        }
    }

    #[test]
    fn the_oracle_agrees_on_what_is_good() {
        let is_ours_alone = |bytes: &[u8]| bytes.ends_with(b" \x01 65535\r\n");
        good().iter().filter(|(header, _)| !is_ours_alone(header)).for_each(|(header, _)| check(header));
        for (header, client) in good().iter().filter(|(header, _)| header.get(12) == Some(&0x21)) {
            assert_eq!(v2_by_ppp(header), Some((header.len(), *client)));
        }
    }

    /// Its errors are ours too, but for what it does not look at: signs and zeros of ports, checksums, TLVs that overrun, our bound.
    #[test]
    fn the_oracle_refuses_no_less_than_it_says() {
        for (header, fault) in bad() {
            let taken = if header.starts_with(V2_SIGNATURE) { v2_by_ppp(&header) } else { v1_by_ppp(&header) };
            if taken.is_some() {
                let text = header.escape_ascii().to_string();
                let is_known = matches!(fault, Fault::V2Checksum | Fault::V2Malformed | Fault::V2TooLong | Fault::V2Unknown)
                    || text.contains(" +1 ")
                    || text.contains(" 01 ");
                assert!(is_known, "{fault:?}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged_once_and_for_all(
            version in 0..3u8,
            command in prop_oneof![Just(0x20u8), Just(0x21), any::<u8>()],
            kind in prop_oneof![Just(0u8), Just(0x11), Just(0x21), Just(0x31), any::<u8>()],
            length in prop_oneof![0..600u16, any::<u16>()],
            words in "[A-Z0-9. :]{0,40}",
            rest in prop::collection::vec(any::<u8>(), 0..700),
        ) {
            let bytes = match version {
                0 => [&V2_SIGNATURE[..], &[command, kind], &length.to_be_bytes(), &rest].concat(),
                1 => [b"PROXY TCP4 ", words.as_bytes(), b"\r\n", &rest].concat(),
                _ => rest,
            };
            check(&bytes);
            let whole = parse(&bytes);
            let mut last = Outcome::Partial;
            for split in 0..=bytes.len() {
                let now = parse(&bytes[..split]);
                prop_assert!(last == Outcome::Partial || now == last, "{:?} became {:?}", last, now);
                last = now;
            }
            prop_assert_eq!(last, whole);
            if bytes.len() >= BYTES_MAX {
                prop_assert_ne!(whole, Outcome::Partial);
            }
        }

        #[test]
        fn every_address_comes_through(from: [u8; 16], to: [u8; 16], ports: (u16, u16), is_ipv6: bool, crc: bool) {
            let (from6, to6) = (Ipv6Addr::from(from), Ipv6Addr::from(to));
            let (from4, to4) = (Ipv4Addr::new(from[0], from[1], from[2], from[3]), Ipv4Addr::new(to[0], to[1], to[2], to[3]));
            let ports_be = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
            let (line, kind, block, ip) = if is_ipv6 {
                let line = format!("PROXY TCP6 {from6} {to6} {} {}\r\n", ports.0, ports.1);
                (line, 0x21, [&from[..], &to, &ports_be].concat(), from6.into())
            } else {
                let line = format!("PROXY TCP4 {from4} {to4} {} {}\r\n", ports.0, ports.1);
                (line, 0x11, [&from[..4], &to[..4], &ports_be].concat(), from4.into())
            };
            let binary = if crc { with_crc(0x21, kind, &block) } else { v2_of(0x21, kind, &block) };
            let client = Client::Ip(SocketAddr::new(ip, ports.0));
            for bytes in [line.as_bytes(), &binary] {
                prop_assert_eq!(parse(bytes), Outcome::Header { bytes: bytes.len(), client });
                check(bytes);
            }
        }
    }
}
