//! Addresses, as proxies tell and operators type them.

use campanile::config::{listen_url, mask, parse, redis_url};
use campanile::wire::proxy::{self, Client, Outcome};

use crate::mutate::mutated;
use crate::seeds::texts;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, kind], &(block.len() as u16).to_be_bytes(), block].concat()
}

/// What `ppp` makes of it.
fn by_ppp(bytes: &[u8]) -> Option<(usize, Option<std::net::IpAddr>)> {
    if bytes.starts_with(SIGNATURE) {
        let header = ppp::v2::Header::try_from(bytes).ok()?;
        let ip = match header.addresses {
            _ if header.command == ppp::v2::Command::Local => None,
            ppp::v2::Addresses::IPv4(ip) => Some(ip.source_address.into()),
            ppp::v2::Addresses::IPv6(ip) => Some(ip.source_address.into()),
            ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_) => None,
        };
        return Some((header.len(), ip));
    }
    let header = ppp::v1::Header::try_from(bytes).ok()?;
    let ip = match header.addresses {
        ppp::v1::Addresses::Unknown => None,
        ppp::v1::Addresses::Tcp4(tcp) => Some(tcp.source_address.into()),
        ppp::v1::Addresses::Tcp6(tcp) => Some(tcp.source_address.into()),
    };
    Some((header.header.len(), ip))
}

#[test]
fn proxy_headers() {
    let ipv4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 0x01, 0xBB];
    let mut seeds = texts(&[
        "PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nGET /ws HTTP/1.1\r\n",
        "PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 50000 443\r\n",
        "PROXY UNKNOWN\r\n",
    ]);
    seeds.extend([
        v2(0x21, 0x11, &ipv4),
        v2(0x21, 0x11, &[&ipv4[..], &[1, 0, 2, b'h', b'2'], &[4, 0, 3, 0, 0, 0]].concat()),
        v2(0x21, 0x21, &[7; 36]),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x20, 0x00, &[]),
        // With its checksum: CRC32c of the header with zeros in its place.
        v2(0x21, 0x00, &[3, 0, 4, 0, 0, 0, 0]),
    ]);
    let words: &[&[u8]] = &[
        b"PROXY ",
        b"TCP4",
        b"TCP6",
        b"UNKNOWN",
        b" ",
        b"\r\n",
        b"\r",
        b"255.255.255.255",
        b"::",
        b"%eth0",
        b"\x03\x00\x04",
        b"\x02\x08",
        SIGNATURE,
    ];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        let whole = proxy::parse(bytes);
        let mut last = Outcome::Partial;
        for split in 0..=bytes.len().min(proxy::BYTES_MAX + 8) {
            let now = proxy::parse(&bytes[..split]);
            assert!(last == Outcome::Partial || now == last, "{last:?} became {now:?}");
            last = now;
        }
        if bytes.len() >= proxy::BYTES_MAX {
            assert_ne!(whole, Outcome::Partial);
        }
        if let Outcome::Header { bytes: length, client } = whole {
            assert!(length <= proxy::BYTES_MAX.min(bytes.len()));
            let ip = match client {
                Client::Ip(address) => Some(address.ip()),
                Client::Itself | Client::Unix => None,
            };
            // It wants text in what stands behind UNKNOWN, and addresses in LOCAL.
            let is_theirs = !bytes.starts_with(b"PROXY UNKNOWN") && bytes.get(12) != Some(&0x20);
            if is_theirs {
                assert_eq!(by_ppp(bytes), Some((length, ip)), "{}", bytes[..length].escape_ascii());
            }
        }
    });
}

#[test]
fn what_operators_type() {
    let seeds = texts(&[
        "127.0.0.1:8080",
        "proxy+tcp://[::1]:8080",
        "unix:///run/c.sock?mode=660&group=www-data",
        "proxy+unix:///a",
        "tcp://0.0.0.0:0/",
        "redis://user:p%40ss@host:6379/1",
        "rediss://:pw@h",
        "unix:///path/to/redis.sock?db=0&user=u&pass=p",
        "10.0.0.0/8",
        "2001:db8::/32",
        "512K",
        "1.5s",
        "250ms",
        "0-3,5",
        "50%",
    ]);
    let words: &[&[u8]] = &[
        b"://",
        b"proxy+",
        b"unix",
        b"tcp",
        b"?",
        b"&",
        b"=",
        b"mode=",
        b"group=",
        b"%",
        b"@",
        b"[",
        b"]",
        b":",
        b"/",
        b"\0",
        "é".as_bytes(),
    ];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(listener) = listen_url::listener(text) {
            let shown = listener.to_string();
            assert_eq!(listen_url::listener(&shown).map(|again| again.to_string()), Ok(shown), "{text:?}");
        }
        let _ = listen_url::control(text);
        let _ = redis_url::check(text);
        let _ = (mask::url(text), mask::line(text), mask::secret(text));
        let _ = (parse::address(text).is_ok(), parse::network(text).is_ok(), parse::pin(text).is_ok(), parse::share(text, 100).is_ok());
        if let Ok(bytes) = parse::size(text, 0, u64::MAX) {
            assert_eq!(parse::size(&parse::show_size(bytes), 0, u64::MAX), Ok(bytes), "{text:?}");
        }
    });
}
