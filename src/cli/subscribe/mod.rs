//! `campanile subscribe`: prints what channels bring, one JSON per line, and goes on after every kind of break.
//!
//! `connection` is one connection from dial to break, `resume` what is remembered between two, `stop` the end by signal.

mod connection;
mod resume;
mod stop;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Arg, ArgMatches, Command, value_parser};
use tungstenite::http::Uri;

use super::{BadUsage, check_channel, flags, output};
use crate::config::layers::TOKEN_VARIABLE;
use crate::config::mask;
use crate::config::{Settings, load};
use crate::named::Named;
use crate::wire::Format;
use connection::{Break, Target};
use resume::Resume;
use stop::Stop;

const LONG_ABOUT: &str = "\
Subscribe to channels and print what they bring.

Each message is one line of JSON on stdout. A `gap` line names numbers that were lost; a `subscribed`
line says that the server counts anew, so that what was lost before it cannot be told. What happens to
the connection is said on stderr. After a break it connects again and goes on where it was, as
far as the server still has the messages.";
const EXAMPLES: &str = "\
Examples:
  campanile subscribe news
  campanile subscribe user:123 notifications --url ws://10.0.0.7:8080/ws
  campanile subscribe prices:eurusd --count 10 | jq .data
  campanile subscribe news --token \"$(campanile token --sub me)\"
  campanile subscribe news --url unix:///run/campanile.sock";

pub fn command() -> Command {
    Command::new("subscribe")
        .about("Subscribe to channels and print what they bring")
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .arg(
            Arg::new("channels")
                .value_name("CHANNEL")
                .required(true)
                .num_args(1..)
                .help("Channels, as clients name them: without the Redis prefix"),
        )
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .help("The server [default: the first listen address of the settings here, ws://127.0.0.1:8080/ws]"),
        )
        .arg(
            Arg::new("token")
                .long("token")
                .value_name("TOKEN")
                .help("Who you are, where the server asks [env: CAMPANILE_TOKEN, which other users of the host cannot see]"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser([Format::Json, Format::Msgpack].map(Format::name))
                .default_value(Format::Json.name())
                .help("How the server is asked to send; printed is always JSON, bytes as base64"),
        )
        .arg(
            Arg::new("count")
                .long("count")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..))
                .help("Exit after this many messages"),
        )
        .arg(flags::file())
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let url = match matches.get_one::<String>("url") {
        Some(url) => url.clone(),
        None => match load(&flags::sources(matches), None) {
            Ok(loaded) => default_url(&loaded.settings),
            // Settings that are wrong are for `serve` to explain; a client only wants the likely address.
            Err(_) => {
                let url = default_url(&Settings::default());
                output::remark(format_args!("the settings here are not usable (`campanile config --check` tells why); trying {url}"));
                url
            }
        },
    };
    let format = Format::from_name(matches.get_one::<String>("format").expect("it has a default")).expect("clap takes these names only");
    let target = match parse_url(&url)? {
        Address::Tcp(uri) => Target::tcp(uri, format),
        Address::Unix(path) => Target::unix(&path, format),
    };
    let target = target.with_token(token(matches)?);
    let mut channels: Vec<String> = Vec::new();
    for channel in matches.get_many::<String>("channels").expect("clap requires one") {
        check_channel(channel)?;
        if !channels.contains(channel) {
            remark_on_pattern(channel);
            channels.push(channel.clone());
        }
    }
    let mut resume = Resume::new(channels, matches.get_one::<u64>("count").copied());
    let stop = Stop::on_signal()?;

    let mut backoff = Backoff::default();
    loop {
        let before = resume.taken();
        let ended = connection::follow(&target, &mut resume, &stop)?;
        if resume.taken() > before {
            backoff = Backoff::default();
        }
        let (why, wait) = match ended {
            Break::Done => return Ok(ExitCode::SUCCESS),
            Break::Refused(why) => bail!("{why}"),
            // At once only if the last connection brought something: a client that is too slow even so must not spin.
            Break::Overrun => {
                let wait = if resume.taken() > before { Duration::ZERO } else { backoff.next() };
                ("the server dropped this client, which was too slow (4008)".to_owned(), wait)
            }
            Break::Lost { why, retry_after } => (why, retry_after.unwrap_or_else(|| backoff.next())),
        };
        output::remark(format_args!("{why}, reconnecting in {} ms", wait.as_millis()));
        std::thread::sleep(wait);
    }
}

/// A line's end may come with what another command has printed.
fn token(matches: &ArgMatches) -> Result<Option<String>, BadUsage> {
    let given = matches.get_one::<String>("token").cloned().or_else(|| std::env::var(TOKEN_VARIABLE).ok());
    let Some(token) = given.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()) else { return Ok(None) };
    let is_token = token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(Some(token)) } else { Err(BadUsage("--token: a token has letters, digits, dots, - and _ alone".to_owned())) }
}

/// Exponential backoff with full jitter: a herd of clients that lost the same server must not come back as a herd.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);

    fn next(&mut self) -> Duration {
        Duration::from_millis(fastrand::u64(..=self.ceiling().as_millis() as u64))
    }

    /// What the next delay is drawn below; doubles with every call.
    fn ceiling(&mut self) -> Duration {
        let ceiling = Backoff::FIRST.saturating_mul(1 << self.attempts.min(10)).min(Backoff::LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        ceiling
    }
}

/// It is a good name, but hardly one that was meant.
fn remark_on_pattern(channel: &str) {
    if channel.contains(['*', '?', '[']) {
        output::remark(format_args!("{channel} is taken for the name of one channel: there are no patterns; name each channel"));
    }
}

/// Where a server with these settings is reached from this host.
fn default_url(settings: &Settings) -> String {
    let listen = &settings.addresses.listen;
    let by_address = listen.iter().find(|listener| listener.is_plain());
    by_address
        .or_else(|| listen.iter().find(|listener| !listener.is_proxied))
        .map_or_else(|| default_url(&Settings::default()), |listener| listener.reachable().url())
}

/// Where the server is.
#[derive(Debug, PartialEq)]
enum Address {
    Tcp(Uri),
    Unix(PathBuf),
}

fn parse_url(text: &str) -> Result<Address, BadUsage> {
    let accepted = "accepted: ws://HOST[:PORT][/ws], as in ws://127.0.0.1:8080/ws, and unix:///PATH";
    if let Some(rest) = text.strip_prefix("unix://") {
        // As in the settings, where it may say who may connect.
        let path = rest.split('?').next().unwrap_or_default();
        return match path.starts_with('/') {
            true => Ok(Address::Unix(path.into())),
            false => Err(BadUsage(format!("--url: the path in {text:?} is not absolute; three slashes, as in unix:///run/campanile.sock"))),
        };
    }
    // A token or a password may stand in it.
    let shown = mask::url(text);
    let uri: Uri = text.parse().map_err(|error| BadUsage(format!("--url {shown:?} is not a URL: {error}; {accepted}")))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("ws"), Some(_)) => {}
        (Some("wss"), _) => {
            return Err(BadUsage(format!("--url: wss:// is not supported by this command yet; {accepted}, or a TLS proxy in between")));
        }
        (Some("http"), Some(_)) => {
            return Err(BadUsage(format!("--url: {shown:?} is the address of a page; the socket is ws{}", &shown[4..])));
        }
        // `host:port` reads as a host, or as a scheme and a path.
        (None, _) if text.contains(':') && !text.contains('/') => {
            return Err(BadUsage(format!("--url: {shown:?} is an address, not a URL; write ws://{shown}/ws")));
        }
        _ => return Err(BadUsage(format!("--url: {shown:?} names no WebSocket server; {accepted}"))),
    }
    if matches!(uri.path(), "" | "/") {
        let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
        let authority = uri.authority().expect("it has a host");
        return Ok(Address::Tcp(format!("ws://{authority}/ws{query}").parse().expect("a good URL with another path is a good URL")));
    }
    Ok(Address::Tcp(uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, url) in [("ws://h:1/ws", "ws://h:1/ws"), ("ws://h:1", "ws://h:1/ws"), ("ws://[::1]:1/?a=b", "ws://[::1]:1/ws?a=b")] {
            assert_eq!(parse_url(text).unwrap(), Address::Tcp(url.parse().unwrap()));
        }
        assert_eq!(parse_url("unix:///run/c.sock?mode=660").unwrap(), Address::Unix("/run/c.sock".into()));
        for (text, part) in [
            ("wss://h/ws", "not supported"),
            ("http://h/ws", "ws://h/ws"),
            ("h:1", "write ws://h:1/ws"),
            ("/ws", "accepted"),
            ("unix://run/c.sock", "three slashes"),
            ("ws://", "accepted"),
        ] {
            let reason = parse_url(text).unwrap_err().to_string();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }

    #[test]
    fn the_default_url_reaches_a_server_on_every_address() {
        let url =
            |text: &str| default_url(&Settings::default().with(|settings| settings.addresses.listen = crate::listen::listed(&[text])));
        assert_eq!(url("127.0.0.1:8080"), "ws://127.0.0.1:8080/ws");
        assert_eq!(url("0.0.0.0:80"), "ws://127.0.0.1:80/ws");
        assert_eq!(url("[::]:80"), "ws://127.0.0.1:80/ws");
        assert_eq!(url("[::1]:80"), "ws://[::1]:80/ws");
    }

    #[test]
    fn backoff_doubles_to_its_bound() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..9).map(|_| backoff.ceiling().as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.attempts = u32::MAX - 1;
        assert!(backoff.next() <= Backoff::LONGEST);
    }
}
