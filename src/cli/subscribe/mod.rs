//! `campanile subscribe`: prints what channels bring, one JSON per line, and goes on after every kind of break.
//!
//! What is done with the server is [`crate::client`]'s; `stop` is the end by signal.

mod stop;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::{BadUsage, check_channel, flags, output};
use crate::client::{Client, Continuity, Event, Happening, Refused, Subscribed, Subscription, Transport};
use crate::config::layers::TOKEN_VARIABLE;
use crate::config::{Settings, load};
use crate::named::Named;
use crate::wire::Format;
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
  campanile subscribe news --url unix:///run/campanile.sock
  campanile subscribe news --url wss://push.example.org/ws
  campanile subscribe news --transport sse";

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
            Arg::new("transport")
                .long("transport")
                .value_name("TRANSPORT")
                .value_parser(Transport::ALL.map(Transport::name))
                .default_value(Transport::WebSocket.name())
                .help("How the server is spoken to: WebSocket, event stream or long polling; the URL may be that of the WebSocket"),
        )
        .arg(
            Arg::new("count")
                .long("count")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..))
                .help("Exit after this many messages"),
        )
        .args(flags::trust())
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
    let transport = matches.get_one::<String>("transport").expect("it has a default");
    let transport = Transport::from_name(transport).expect("clap takes these names only");
    let mut client = Client::new(&url, transport).map_err(|error| BadUsage(format!("--url: {error}")))?;
    match (format, transport) {
        (Format::Msgpack, Transport::EventStream) => {
            return Err(BadUsage("--format msgpack: an event stream is text; take --format json".to_owned()).into());
        }
        (Format::Msgpack, Transport::WebSocket | Transport::Poll) => client = client.with_msgpack(),
        (Format::Json | Format::Raw, _) => {}
    }
    if let Some(trust) = flags::trusted(matches) {
        client = client.with_trust(trust).map_err(|error| BadUsage(error.to_string()))?;
    }
    let token = token(matches)?;
    let has_token = token.is_some();
    if let Some(token) = token {
        client = client.with_token(token);
    }
    let mut channels: Vec<String> = Vec::new();
    for channel in matches.get_many::<String>("channels").expect("clap requires one") {
        check_channel(channel)?;
        if !channels.contains(channel) {
            remark_on_pattern(channel);
            channels.push(channel.clone());
            client = client.subscribe(Subscription::to(channel));
        }
    }
    let stop = Stop::on_signal()?;
    let mut left = matches.get_one::<u64>("count").copied();
    loop {
        match client.wait().map_err(|refused| explain(refused, has_token))? {
            Happening::Connected => {
                output::remark(format_args!("connected to {}", client.shown()));
                // There are no words for it in HTTP.
                if let (Transport::WebSocket, Some(stream)) = (transport, client.stream()) {
                    stop.watch(stream);
                }
            }
            Happening::Subscribed { subscribed, continuity, line } => {
                if continuity == Continuity::Anew {
                    output::json(&line)?;
                }
                output::remark(told(&subscribed, continuity));
            }
            Happening::Received(received) => match received.event {
                // What the server gives a user unasked is not what was asked for.
                Event::Notification(message) if channels.contains(&message.channel) => {
                    output::json(&received.line)?;
                    left = left.map(|left| left - 1);
                    if left == Some(0) {
                        client.close();
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Event::Gap(gap) if channels.contains(&gap.channel) => output::json(&received.line)?,
                Event::Error(error) => bail!("{error}"),
                Event::Unsubscribed(ended) => {
                    let why = ended.reason.map_or(String::new(), |reason| format!(": {reason}"));
                    output::remark(format_args!("the server has ended the subscription to {}{why}", ended.channel));
                }
                _ => {}
            },
            Happening::Unreadable(why) => output::remark(why),
            Happening::Broken { why, wait } => {
                output::remark(format_args!("{why}, reconnecting in {} ms", wait.as_millis()));
            }
        }
    }
}

/// What a server says who is asked for a token, and is given none.
fn explain(refused: Refused, has_token: bool) -> Refused {
    if refused.status != Some(401) || has_token {
        return refused;
    }
    let why = format!("{} Give --token TOKEN, or set {TOKEN_VARIABLE}; `campanile token --sub NAME` makes one", refused.why);
    Refused { why, ..refused }
}

/// A subscription, for stderr.
fn told(subscribed: &Subscribed, continuity: Continuity) -> String {
    let text = format!("subscribed to {} at {}", subscribed.channel, subscribed.seq);
    match continuity {
        Continuity::Begun => text,
        Continuity::Recovered => text + ", going on where it was",
        Continuity::LostInPart => text + ", but what came in between is lost in part",
        Continuity::Anew => text + ", but what came in between is lost: the server counts anew",
    }
}

/// A line's end may come with what another command has printed.
fn token(matches: &ArgMatches) -> Result<Option<String>, BadUsage> {
    let given = matches.get_one::<String>("token").cloned().or_else(|| std::env::var(TOKEN_VARIABLE).ok());
    let Some(token) = given.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()) else { return Ok(None) };
    let is_token = token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(Some(token)) } else { Err(BadUsage("--token: a token has letters, digits, dots, - and _ alone".to_owned())) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_url_reaches_a_server_on_every_address() {
        let url =
            |text: &str| default_url(&Settings::default().with(|settings| settings.addresses.listen = crate::listen::listed(&[text])));
        assert_eq!(url("127.0.0.1:8080"), "ws://127.0.0.1:8080/ws");
        assert_eq!(url("0.0.0.0:80"), "ws://127.0.0.1:80/ws");
        assert_eq!(url("[::]:80"), "ws://127.0.0.1:80/ws");
        assert_eq!(url("[::1]:80"), "ws://[::1]:80/ws");
    }
}
