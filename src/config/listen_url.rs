//! How a listener is typed: an address, or a URL that says what is spoken there. Called by [`super::table`] and [`mod@super::file`].

use super::parse::address;
use crate::listen::unix::{Group, PATH_BYTES_MAX, UnixPath};
use crate::listen::{Address, Listener};
use crate::sys;

pub const ACCEPTED: &str = "an IP address and a port, as in 127.0.0.1:8080, [::1]:8080; or tcp://ADDR, tls://ADDR, unix:///PATH, each with proxy+ in front where PROXY protocol is expected, as in proxy+tcp://127.0.0.1:8080. 0.0.0.0 is every IPv4 address of the host, [::] IPv4 and IPv6, or IPv6 alone where 0.0.0.0 with the same port is listed too. unix:///PATH?mode=660&group=NAME says who may connect; 600 and the server's own group unless said";

/// An entry of `listen`.
pub fn listener(text: &str) -> Result<Listener, String> {
    let (is_proxied, bare) = text.strip_prefix("proxy+").map_or((false, text), |bare| (true, bare));
    let address = match bare.split_once("://") {
        Some(("unix", rest)) => Address::Unix(unix(rest)?),
        Some(("tcp" | "tls", rest)) => Address::Ip(address(rest.strip_suffix('/').unwrap_or(rest))?),
        Some((scheme, _)) if is_proxied || scheme == "proxy" => {
            return Err(format!(
                "{text:?} says none of tcp, tls and unix; write proxy+tcp://127.0.0.1:8080, proxy+tls://0.0.0.0:443 or proxy+unix:///run/campanile.sock"
            ));
        }
        None if is_proxied => return Err(format!("{text:?} does not say what carries it; write proxy+tcp://{bare}")),
        _ if bare.starts_with('/') => return Err(format!("{text:?} is a path; write unix://{text}")),
        _ => Address::Ip(address(bare)?),
    };
    Ok(Listener { is_proxied, is_tls: bare.starts_with("tls://"), ..Listener::at(address) })
}

/// Where operators ask.
pub fn control(text: &str) -> Result<Address, String> {
    match text.strip_prefix("unix://") {
        Some(rest) => unix(rest).map(Address::Unix),
        None => super::parse::http_address(text).map(Address::Ip),
    }
}

/// What stands behind `unix://`.
fn unix(text: &str) -> Result<UnixPath, String> {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    if !path.starts_with('/') {
        return Err("its path is not absolute; three slashes, as in unix:///run/campanile.sock".to_owned());
    }
    if path.ends_with('/') || path.len() > PATH_BYTES_MAX || path.contains(|letter: char| letter.is_control()) {
        return Err(format!("that cannot be a socket's path, which is a file's of at most {PATH_BYTES_MAX} bytes"));
    }
    let mut unix = UnixPath::new(path);
    // What else stands there may be a password in the wrong place, and is not repeated.
    for pair in query.into_iter().flat_map(|query| query.split('&')) {
        match pair.split_once('=') {
            Some(("mode", value)) => unix.mode = mode(value)?,
            Some(("group", value)) => unix.group = Some(group(value)?),
            _ => return Err("behind ? it may say mode=660 and group=NAME, and nothing else".to_owned()),
        }
    }
    Ok(unix)
}

/// Octal, as chmod takes it.
fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| (0o1..=0o777).contains(mode));
    mode.filter(|_| !digits.starts_with('+')).ok_or_else(|| format!("{text:?} is no mode of a file; write one as in 660 or 666"))
}

/// By name, or by number.
fn group(text: &str) -> Result<Group, String> {
    let id = match text.parse() {
        Ok(id) => Some(id),
        Err(_) => sys::group_id(text).map_err(|error| format!("the group {text:?} cannot be looked up: {error}"))?,
    };
    let id = id.ok_or_else(|| format!("there is no group {text:?} on this host"))?;
    Ok(Group { name: text.to_owned(), id })
}

/// The keys of a `[[listen]]` table.
pub const KEYS: [&str; 3] = ["address", "mode", "group"];

/// A `[[listen]]` table as the one text that says the same.
pub fn of_table(address: &str, mode: Option<&str>, group: Option<&str>) -> Result<String, String> {
    let query: Vec<String> =
        [("mode", mode), ("group", group)].iter().filter_map(|(key, value)| Some(format!("{key}={}", (*value)?))).collect();
    if query.is_empty() {
        return Ok(address.to_owned());
    }
    if !address.contains("unix://") {
        return Err(format!("{address:?} is no unix socket; it has neither mode nor group"));
    }
    let joint = if address.contains('?') { '&' } else { '?' };
    Ok(format!("{address}{joint}{}", query.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_and_shown_alike() {
        for (text, is_proxied) in [
            ("127.0.0.1:8080", false),
            ("[::]:8080", false),
            ("proxy+tcp://127.0.0.1:8080", true),
            ("proxy+tcp://[::1]:8080", true),
            ("tls://0.0.0.0:443", false),
            ("proxy+tls://[::1]:443", true),
            ("unix:///run/campanile.sock", false),
            ("unix:///run/campanile.sock?mode=660", false),
            ("unix:///run/campanile.sock?group=0", false),
            ("proxy+unix:///run/campanile.sock?mode=666&group=root", true),
        ] {
            let listener = listener(text).unwrap();
            assert_eq!((listener.to_string().as_str(), listener.is_proxied), (text, is_proxied));
        }
        for (text, shown) in [
            ("tcp://127.0.0.1:1", "127.0.0.1:1"),
            ("tcp://[::1]:1/", "[::1]:1"),
            ("unix:///s?mode=0600", "unix:///s"),
            ("unix:///s?mode=0o640", "unix:///s?mode=640"),
        ] {
            assert_eq!(listener(text).unwrap().to_string(), shown);
        }
        let Address::Unix(unix) = listener("unix:///s?group=root").unwrap().address else { panic!() };
        assert_eq!((unix.mode, unix.group), (0o600, Some(Group { name: "root".into(), id: 0 })));
        assert_eq!(control("http://127.0.0.1:9090").unwrap().to_string(), "127.0.0.1:9090");
        assert_eq!(control("unix:///run/c?mode=660").unwrap().to_string(), "unix:///run/c?mode=660");
    }

    #[test]
    fn what_cannot_be_says_what_to_write() {
        for (text, part) in [
            ("proxy+127.0.0.1:8080", "write proxy+tcp://127.0.0.1:8080"),
            ("proxy://127.0.0.1:8080", "write proxy+tcp://"),
            ("proxy+ws://127.0.0.1:8080", "write proxy+tcp://"),
            ("tcp://8080", "has no address"),
            ("tcp://localhost:8080", "is a name"),
            ("ws://127.0.0.1:8080/ws", "; write 127.0.0.1:8080"),
            ("/run/c.sock", "write unix:///run/c.sock"),
            ("unix://run/c.sock", "three slashes"),
            ("unix:///", "cannot be a socket's path"),
            ("unix:///run/a\nb", "cannot be a socket's path"),
            ("unix:///s?mode=888", "no mode"),
            ("unix:///s?mode=1777", "no mode"),
            ("unix:///s?mode=+60", "no mode"),
            ("unix:///s?group=no-such-group-here", "no group \"no-such-group-here\" on this host"),
            ("unix:///s?owner=root", "mode=660 and group=NAME, and nothing else"),
        ] {
            let reason = listener(text).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
        assert!(listener(&format!("unix:///{}", "x".repeat(107))).is_err());
        assert!(control("https://127.0.0.1:9090").is_err() && control("proxy+tcp://127.0.0.1:9090").is_err());
    }

    #[test]
    fn a_table_says_the_same_as_a_text() {
        assert_eq!(of_table("127.0.0.1:1", None, None), Ok("127.0.0.1:1".to_owned()));
        assert_eq!(of_table("unix:///s", Some("660"), Some("g")), Ok("unix:///s?mode=660&group=g".to_owned()));
        assert!(of_table("127.0.0.1:1", Some("660"), None).unwrap_err().contains("no unix socket"));
    }
}
