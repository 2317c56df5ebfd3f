//! Texts to values and back: numbers, sizes, durations, addresses, core lists, names. Called by [`super::table`] alone.
//!
//! Invariants: a reason says what is wrong with this text (what is accepted stands in the table); what a `show_` function writes, its
//! parser reads back to the same value.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::words::{AUTO, NONE};
use super::{Pin, Share};
use crate::limits::CHANNEL_NAME_BYTES_MAX;
use crate::named::Named;
use crate::wire::channel_name::{self, Bad, RESERVED};

/// An unsigned number in a range; `_` may group digits.
pub fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let number: u64 = digits.parse().map_err(|_| match digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() {
        true => format!("{text} is more than {max}"),
        false => format!("{text:?} is not a whole number"),
    })?;
    in_range(number, min, max, |number| number.to_string())
}

pub fn count(text: &str, min: usize, max: usize) -> Result<usize, String> {
    number(text, min as u64, max as u64).map(|number| number as usize)
}

fn in_range(number: u64, min: u64, max: u64, show: impl Fn(u64) -> String) -> Result<u64, String> {
    match number {
        _ if number < min => Err(format!("{} is less than {}", show(number), show(min))),
        _ if number > max => Err(format!("{} is more than {}", show(number), show(max))),
        _ => Ok(number),
    }
}

/// Digits and the unit behind them.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '_').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Bytes: `4096`, `64k`, `1M`, `2G`, also spelled `KiB`, `KB`; always powers of 1024.
pub fn size(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ if digits.is_empty() => return Err(format!("{text:?} is not a size")),
        _ => return Err(format!("{unit:?} is not a unit of size")),
    };
    let bytes = number(digits, 0, u64::MAX)?.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than {}", show_size(max)))?;
    in_range(bytes, min, max, show_size)
}

/// The shortest exact spelling: `64k`, `1M`, `1500`.
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}G", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}k", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// A duration. A bare number counts `unit`; `ms`, `s`, `m` and `h` may be written behind it.
pub fn duration(text: &str, unit: Duration, min: Duration, max: Duration) -> Result<Duration, String> {
    let (digits, suffix) = split_unit(text);
    let unit_ms = match suffix.to_ascii_lowercase().as_str() {
        "" => unit.as_millis() as u64,
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ if digits.is_empty() => return Err(format!("{text:?} is not a duration")),
        _ if suffix.starts_with('.') => return Err(format!("{text:?} has a fraction; write a smaller unit, as in 1500ms")),
        _ => return Err(format!("{suffix:?} is not a unit of time")),
    };
    let ms = number(digits, 0, u64::MAX)?.checked_mul(unit_ms).ok_or_else(|| format!("{text} is more than {}", show_time(max)))?;
    in_range(ms, min.as_millis() as u64, max.as_millis() as u64, |ms| show_time(Duration::from_millis(ms))).map(Duration::from_millis)
}

/// Whole seconds, as the clients are told them.
pub fn whole_seconds(text: &str, min_s: u64, max_s: u64) -> Result<Duration, String> {
    let time = duration(text, SECOND, Duration::from_secs(min_s), Duration::from_secs(max_s))?;
    if time.subsec_millis() == 0 { Ok(time) } else { Err(format!("{text} is not a whole number of seconds")) }
}

pub const SECOND: Duration = Duration::from_secs(1);
pub const MILLISECOND: Duration = Duration::from_millis(1);

/// A bare number where `unit` divides the time, else milliseconds with their unit.
pub fn show_duration(time: Duration, unit: Duration) -> String {
    let (ms, unit_ms) = (time.as_millis(), unit.as_millis());
    if ms.is_multiple_of(unit_ms) { (ms / unit_ms).to_string() } else { format!("{ms}ms") }
}

/// With its unit, for people.
pub fn show_time(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// An IP address and a port. An IPv4 address that is written as an IPv6 one (`[::ffff:127.0.0.1]`) is the IPv4 address that it is:
/// a socket that is IPv6's alone could not have it.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(SocketAddr::new(address.ip().to_canonical(), address.port()));
    }
    if let Some(port) = text.strip_prefix(':').or(Some(text)).filter(|port| port.parse::<u16>().is_ok()) {
        return Err(format!(
            "{text:?} has no address; 127.0.0.1:{port} is this host alone, 0.0.0.0:{port} every IPv4 network, [::]:{port} IPv6 as well"
        ));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.split(['/', '?']).next().unwrap_or_default();
        let hint = if bare.parse::<SocketAddr>().is_ok() { format!("; write {bare}") } else { String::new() };
        return Err(format!("it is a URL, not an address{hint}"));
    }
    Err(match text.rsplit_once(':') {
        _ if text.parse::<std::net::IpAddr>().is_ok() => format!("{text:?} has no port"),
        Some(("localhost", port)) => format!("{text:?} is a name; write 127.0.0.1:{port}"),
        Some((_, port)) if port.parse::<u16>().is_err() => format!("{text:?} has no port from 0 to 65535"),
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => {
            format!("an IPv6 address stands in brackets: [{host}]:{port}")
        }
        _ => format!("{text:?} is not an IP address and a port"),
    })
}

/// An address or a network of addresses.
pub fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().into());
    }
    let network: IpNet = text.parse().map_err(|_| format!("{text:?} is neither an IP address nor a network"))?;
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(format!("{text:?} has bits behind its prefix; write {whole}, or {} alone", network.addr())),
    }
}

/// [`address`], also as the start block shows where the server is asked: `http://127.0.0.1:9090`.
pub fn http_address(text: &str) -> Result<SocketAddr, String> {
    match text.strip_prefix("http://") {
        Some(rest) => match rest.split_once('/') {
            Some((bare, path)) if !path.is_empty() => Err(format!("{text:?} has a path, which an address has not; write {bare}")),
            Some((bare, _)) => address(bare),
            None => address(rest),
        },
        None if text.starts_with("https://") => Err("the control address speaks plain HTTP; put a TLS proxy in between".to_owned()),
        None => address(text),
    }
}

/// `auto`, `none`, or cores as in `0,2-3`.
pub fn pin(text: &str) -> Result<Pin, String> {
    match text {
        AUTO => return Ok(Pin::Auto),
        NONE => return Ok(Pin::None),
        _ => {}
    }
    let core = |text: &str| -> Result<usize, String> {
        let text = text.trim();
        // A core number beyond this is a slip of the finger, and a range up to it would fill memory.
        text.parse().ok().filter(|&core: &usize| core < 65_536).ok_or_else(|| format!("{text:?} is not a core's number"))
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (core(first)?, core(last)?),
            None => (core(part)?, core(part)?),
        };
        if first > last {
            return Err(format!("the range {part} runs backwards"));
        }
        for core in first..=last {
            if cores.contains(&core) {
                return Err(format!("core {core} is named twice"));
            }
            cores.push(core);
        }
    }
    Ok(Pin::List(cores))
}

pub fn share(text: &str, max: usize) -> Result<Share, String> {
    match text {
        AUTO => Ok(Share::Auto),
        NONE => Ok(Share::None),
        _ => count(text, 1, max).map(Share::Count),
    }
}

/// A limit that can be left away.
pub fn limit(text: &str, max: usize) -> Result<Option<usize>, String> {
    if text == NONE { Ok(None) } else { count(text, 1, max).map(Some) }
}

pub fn show_share(share: Share) -> String {
    match share {
        Share::Auto => AUTO.to_owned(),
        Share::None => NONE.to_owned(),
        Share::Count(count) => count.to_string(),
    }
}

pub fn show_pin(pin: &Pin) -> String {
    match pin {
        Pin::Auto => AUTO.to_owned(),
        Pin::None => NONE.to_owned(),
        Pin::List(cores) => show_cores(cores),
    }
}

/// `0,2-3`: neighbours in the list's own order drawn together.
pub fn show_cores(cores: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => ranges.push((core, core)),
        }
    }
    let texts: Vec<String> =
        ranges.iter().map(|&(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") }).collect();
    texts.join(",")
}

/// One of a few words.
pub fn word<T: Named>(text: &str) -> Result<T, String> {
    T::from_name(text).ok_or_else(|| {
        let close = super::problem::closest(&text.to_lowercase(), T::EACH.iter().map(|value| value.name()));
        format!("{text:?} is none of them{}", close.map_or(String::new(), |name| format!("; did you mean {name}?")))
    })
}

pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A channel name or the beginning of one.
pub fn channel_text(text: &str, may_be_empty: bool) -> Result<String, String> {
    match channel_name::check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(Bad::Empty) if may_be_empty => Ok(text.to_owned()),
        Err(Bad::Empty) => Err("it is empty".to_owned()),
        Err(Bad::TooLong) => Err(format!("it is {} bytes long, more than {CHANNEL_NAME_BYTES_MAX}", text.len())),
        Err(Bad::ControlCharacter) => Err(format!("{text:?} holds a control character")),
        Err(Bad::Reserved) => Err(format!("what begins with {RESERVED} is the servers' own")),
    }
}

/// What the Redis channels begin with that are served.
pub fn prefix(text: &str) -> Result<String, String> {
    let prefix = channel_text(text, true)?;
    if !prefix.is_empty() && RESERVED.starts_with(&*prefix) {
        return Err(format!(
            "with it clients could name what begins with {RESERVED}, which is the servers' own; a longer one, or none, will do"
        ));
    }
    Ok(prefix)
}

/// A host name as a `Host` header carries it, in lower case and without the dot at its end. An internationalised one in its ASCII form.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    match name {
        "" => Err("it is empty".to_owned()),
        _ if name.contains("://") => Err(format!("{text:?} is a URL; a host name alone is wanted")),
        _ if name.contains(':') => Err(format!("{text:?} holds a port; a host name holds for every port")),
        _ if name.contains('*') => Err(format!("{text:?} holds a *; every name is listed by itself")),
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) => {
            Err(format!("{text:?} is no host name: it may hold letters, digits, hyphens and dots"))
        }
        _ => Ok(name.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_lets_clients_name_what_is_the_servers_own() {
        for good in ["", "notifications:", "campanile:", "__campanile:"] {
            assert_eq!(prefix(good).as_deref(), Ok(good));
        }
        for bad in ["_", "__campanile__:", RESERVED, "__campanile__:revoked:x"] {
            assert!(prefix(bad).is_err_and(|error| error.contains("the servers' own")), "{bad}");
        }
    }

    #[test]
    fn host_names() {
        assert_eq!(host_name("Ops.Example.org."), Ok("ops.example.org".to_owned()));
        assert_eq!(host_name("campanile_1"), Ok("campanile_1".to_owned()));
        for (text, reason) in [
            ("", "empty"),
            (".", "empty"),
            ("https://ops.example", "a URL"),
            ("ops.example:9090", "a port"),
            ("*.example", "by itself"),
            ("ops example", "no host name"),
            ("öps.example", "no host name"),
        ] {
            let error = host_name(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4_096", 4096),
            ("256k", 256 << 10),
            ("256K", 256 << 10),
            ("64KiB", 64 << 10),
            ("1M", 1 << 20),
            ("1 MB", 1 << 20),
            ("2G", 2 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(size(text, 0, u64::MAX), Ok(bytes), "{text}");
            assert_eq!(size(&show_size(bytes), 0, u64::MAX), Ok(bytes), "{text} shown");
        }
        for text in ["", "k", "-1", "1.5M", "1X", "99999999999999999999", "99999999999G", "ten"] {
            assert!(size(text, 0, u64::MAX).is_err(), "{text}");
        }
        assert_eq!(size("1k", 0, 512), Err("1k is more than 512".to_owned()));
        assert_eq!(size("1k", 2048, 1 << 20), Err("1k is less than 2k".to_owned()));
        assert_eq!(show_size(1 << 20), "1M");
        assert_eq!(show_size(1500), "1500");
    }

    #[test]
    fn durations() {
        let any = |text: &str, unit| duration(text, unit, Duration::ZERO, Duration::from_secs(86_400));
        assert_eq!(any("2", MILLISECOND), Ok(Duration::from_millis(2)));
        assert_eq!(any("2ms", MILLISECOND), Ok(Duration::from_millis(2)));
        assert_eq!(any("2 ms", SECOND), Ok(Duration::from_millis(2)));
        assert_eq!(any("30", SECOND), Ok(Duration::from_secs(30)));
        assert_eq!(any("1s", MILLISECOND), Ok(SECOND));
        assert_eq!(any("5m", SECOND), Ok(Duration::from_secs(300)));
        assert_eq!(any("1h", SECOND), Ok(Duration::from_secs(3600)));
        for text in ["", "s", "-1", "0.5", "1.5s", "1d", "2us", "25h", "9999999999999999h"] {
            assert!(any(text, SECOND).is_err(), "{text}");
        }
        assert_eq!(whole_seconds("1500ms", 1, 60), Err("1500ms is not a whole number of seconds".to_owned()));
        assert_eq!(whole_seconds("0", 1, 60), Err("0s is less than 1s".to_owned()));
        for time in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(300)] {
            assert_eq!(any(&show_duration(time, SECOND), SECOND), Ok(time));
        }
    }

    #[test]
    fn pins() {
        assert_eq!(pin("auto"), Ok(Pin::Auto));
        assert_eq!(pin("none"), Ok(Pin::None));
        assert_eq!(pin("3"), Ok(Pin::List(vec![3])));
        assert_eq!(pin("0,2-4, 7"), Ok(Pin::List(vec![0, 2, 3, 4, 7])));
        for text in ["", "0,", "a", "3-1", "0,0", "0-2,1", "0-99999999", "-1", "1--2"] {
            assert!(pin(text).is_err(), "{text}");
        }
        for text in ["auto", "none", "0,2-4,7", "5,1-2"] {
            assert_eq!(show_pin(&pin(text).unwrap()), text);
        }
    }

    #[test]
    fn addresses_say_what_is_missing() {
        assert!(address("127.0.0.1:8080").is_ok());
        assert!(address("[::1]:8080").is_ok());
        assert_eq!(address("[::ffff:127.0.0.1]:8080"), address("127.0.0.1:8080"));
        assert_eq!(http_address("http://127.0.0.1:9090"), address("127.0.0.1:9090"));
        assert_eq!(http_address("http://[::1]:9090/"), address("[::1]:9090"));
        assert!(http_address("http://127.0.0.1:9090/publish").unwrap_err().contains("write 127.0.0.1:9090"));
        assert!(http_address("https://127.0.0.1:9090").unwrap_err().contains("plain HTTP"));
        for (text, part) in [
            ("8080", "127.0.0.1:8080"),
            (":8080", "0.0.0.0:8080"),
            ("127.0.0.1", "has no port"),
            ("::1", "has no port"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("127.0.0.1:http", "has no port from 0 to 65535"),
            ("127.0.0.1:99999", "has no port from 0 to 65535"),
            ("example.org:80", "is not an IP address"),
            ("ws://127.0.0.1:8080/ws", "; write 127.0.0.1:8080"),
            ("redis://h", "not an address"),
        ] {
            let reason = address(text).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }

    #[test]
    fn networks() {
        for (text, shown) in
            [("10.0.0.0/8", "10.0.0.0/8"), ("127.0.0.1", "127.0.0.1/32"), ("::1", "::1/128"), ("::ffff:10.0.0.1", "10.0.0.1/32")]
        {
            assert_eq!(network(text).unwrap().to_string(), shown);
        }
        assert!(network("10.0.0.1/8").unwrap_err().contains("write 10.0.0.0/8, or 10.0.0.1 alone"));
        for text in ["", "10.0.0.0/33", "10.0.0", "10.0.0.0/", "example.org", "10.0.0.1:80"] {
            assert!(network(text).unwrap_err().contains("neither an IP address nor a network"), "{text}");
        }
    }

    #[test]
    fn names() {
        assert!(channel_text("notifications:", false).is_ok());
        assert!(channel_text("", true).is_ok());
        assert!(channel_text("", false).is_err());
        assert!(channel_text("a\nb", false).is_err());
        assert!(channel_text(&"x".repeat(256), false).is_err());
    }
}
