//! `campanile publish`: one message, or one per line, through Redis or through the control address of a server.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{BadSettings, BadUsage, check_channel, flags, output};
use crate::bus::question::PublishError;
use crate::bus::redis::cluster::map::Map;
use crate::bus::redis::names::Names;
use crate::bus::redis::{keys, library, placement};
use crate::config::{RedisTls, Settings, load, mask, redis_url};
use crate::control::client::{Answered, Client};
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::limits::bus::IDEMPOTENCY_WINDOW;

/// How long a server may take to answer before it is taken for gone.
const TIMEOUT: Duration = Duration::from_secs(10);

const LONG_ABOUT: &str = "\
Publish a message.

With --redis it goes through Redis, as any Redis client would publish it: to the Redis channel
PREFIX + CHANNEL, or to CHANNEL itself if it is one of --redis-channel; where the file's rule for
CHANNEL says durable, by the function that numbers and keeps it. Without, it goes to the control
address of a running server.

Through control, a payload that is JSON is sent as that value, other text as a string, other bytes
as bytes.";
const EXAMPLES: &str = "\
Examples:
  campanile publish news '{\"headline\":\"Bells\"}'
  campanile publish news 'plain text' --control 127.0.0.1:9090
  campanile publish news 'plain text' --url https://ops.example.org/campanile
  campanile publish user:123 '{\"unread\":4}' --redis redis://127.0.0.1:6379
  campanile publish orders:7 '{\"paid\":true}' --idempotency-key order-7-paid
  tail -f app.log | campanile publish logs - --lines";

pub fn command() -> Command {
    Command::new("publish")
        .about("Publish a message")
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .arg(Arg::new("channel").value_name("CHANNEL").required(true).help("The channel, as clients name it: without the Redis prefix"))
        .arg(
            Arg::new("payload")
                .value_name("PAYLOAD")
                .default_value("-")
                .hide_default_value(true)
                .allow_hyphen_values(true)
                .value_parser(value_parser!(OsString))
                .help("The message; - (or nothing) reads stdin to its end and sends it as it is, final line break included"),
        )
        .arg(
            Arg::new("lines")
                .long("lines")
                .action(ArgAction::SetTrue)
                .help("Every line of stdin is one message, sent when it is complete, without its line break"),
        )
        .arg(
            Arg::new("idempotency-key")
                .long("idempotency-key")
                .value_name("KEY")
                .conflicts_with("lines")
                .help("Of a durable channel: publish it once, however often this is said; known again for ten minutes"),
        )
        .arg(flags::file())
        .args(
            flags::some(&["redis", "prefix", "redis_channel", "pubsub", "control", "control_token"])
                .into_iter()
                .map(|arg| arg.help_heading("Where to")),
        )
        .args(flags::control_url())
        .mut_arg("url", |arg| arg.conflicts_with("--redis"))
        .mut_arg("--redis", |arg| {
            let help = "Publish through this Redis instead of a server's control address";
            let long_help = format!("{help}:\nredis://[[user]:password@]host[:6379][/db], rediss://… (TLS), unix:///path,\nredis+cluster://host:6379[,host:6379]…,\nredis+sentinel://host:26379[,host:26379]…/SERVICE; of several, the one that has the channel");
            arg.conflicts_with("--control").help(help).long_help(long_help)
        })
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let sources = flags::sources(matches);
    // Only the flag chooses Redis: the way a message takes should be seen on the command line.
    let through_redis = sources.flags.iter().any(|(setting, texts)| setting.key == "redis" && texts.iter().any(|text| !text.is_empty()));
    let settings = load(&sources, None).map_err(BadSettings)?.settings;
    let channel = matches.get_one::<String>("channel").expect("clap requires it");
    check_channel(channel)?;
    let key = matches.get_one::<String>("idempotency-key").map(String::as_str);
    if let Some(key) = key.filter(|key| !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len())) {
        return Err(BadUsage(format!("--idempotency-key takes 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes; this has {}", key.len())).into());
    }
    let mut target = match flags::endpoint(matches)? {
        Some(endpoint) => {
            Target::Control { client: Client::at(endpoint, settings.addresses.control_token.as_deref(), TIMEOUT), channel, key }
        }
        None if through_redis => Target::redis(&settings, channel, key)?,
        None => Target::control(&settings, channel, key),
    };

    let payload = matches.get_one::<OsString>("payload").expect("it has a default");
    if matches.get_flag("lines") {
        if payload != "-" {
            return Err(BadUsage("--lines reads stdin: leave PAYLOAD away, or write -".to_owned()).into());
        }
        let mut stdin = std::io::stdin().lock();
        let mut line = Vec::new();
        while stdin.read_until(b'\n', &mut line).context("stdin cannot be read")? > 0 {
            line.pop_if(|byte| *byte == b'\n');
            line.pop_if(|byte| *byte == b'\r');
            output::json(&target.publish(&line)?)?;
            line.clear();
        }
    } else if payload == "-" {
        let mut stdin = std::io::stdin().lock();
        if stdin.is_terminal() {
            output::remark("type the message, then Ctrl-D");
        }
        let mut bytes = Vec::new();
        stdin.read_to_end(&mut bytes).context("stdin cannot be read")?;
        output::json(&target.publish(&bytes)?)?;
    } else {
        output::json(&target.publish(&payload.clone().into_vec())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where messages go.
enum Target<'a> {
    Redis {
        connection: Box<redis::Connection>,
        channel: &'a str,
        command: &'static str,
        redis_channel: String,
    },
    /// By the function of durable channels.
    Durable {
        connection: Box<redis::Connection>,
        channel: &'a str,
        call: redis::Cmd,
        /// Replicas that must have it.
        replicas: usize,
    },
    Control {
        client: Client,
        channel: &'a str,
        key: Option<&'a str>,
    },
}

impl<'a> Target<'a> {
    fn redis(settings: &Settings, channel: &'a str, key: Option<&str>) -> anyhow::Result<Target<'a>> {
        // Of several, the one that has the channel.
        let server = placement::hashed(channel, settings.redis.urls().count());
        let url = settings.redis.urls().nth(server).expect("the flag was given and read");
        let files = settings.redis.tls();
        let connection = match (redis_url::seeds(url), redis_url::watched(url)) {
            (Some(seeds), _) => connect_owner(&seeds, &files, channel)?,
            (None, Some(watched)) => {
                let master = super::redis::servers::master_of(&watched, &files);
                connect(&master.map_err(|why| anyhow::anyhow!("{} has no master now: {why}", mask::url(url)))?, &files)?
            }
            (None, None) => connect(url, &files)?,
        };
        let names = Names::new(&settings.redis);
        let command = std::str::from_utf8(names.publish_command()).expect("a command is ASCII");
        let redis_channel = names.to_redis(channel);
        if settings.channels.of(channel).durable {
            return Ok(Target::Durable {
                connection,
                channel,
                call: call(settings, channel, (command, &redis_channel), key),
                replicas: settings.redis.durable_wait,
            });
        }
        if key.is_some() {
            return Err(
                BadUsage(format!("--idempotency-key is for durable channels, and no rule of the file says that {channel} is one")).into()
            );
        }
        Ok(Target::Redis { connection, channel, command, redis_channel })
    }

    fn control(settings: &Settings, channel: &'a str, key: Option<&'a str>) -> Target<'a> {
        let token = settings.addresses.control_token.as_deref();
        Target::Control { client: Client::new(&settings.addresses.control, token, TIMEOUT), channel, key }
    }

    /// Publishes one message and says what became of it.
    fn publish(&mut self, payload: &[u8]) -> anyhow::Result<String> {
        match self {
            Target::Redis { connection, channel, command, redis_channel } => {
                let receivers: u64 = redis::cmd(command)
                    .arg(&*redis_channel)
                    .arg(payload)
                    .query(connection)
                    .map_err(|error| anyhow::anyhow!("Redis did not take the message for {redis_channel}: {error}"))?;
                let plural = if receivers == 1 { "" } else { "s" };
                Ok(format!("published to {channel} (Redis channel {redis_channel}): {receivers} receiver{plural}"))
            }
            Target::Durable { connection, channel, call, replicas } => {
                let answer: Vec<u64> = call.clone().arg(payload).query(connection).map_err(|error| {
                    let advice = if error.to_string().contains("Function not found") { "; run campanile redis install" } else { "" };
                    anyhow::anyhow!("Redis did not take the message for {channel}: {error}{advice}")
                })?;
                let [epoch, _, seq, is_repeat] = answer[..] else { bail!("the function campanile_publish_1 answers {answer:?}") };
                let wanted = *replicas;
                if wanted > 0 {
                    let replicas: usize = redis::cmd("WAIT").arg(wanted).arg(1000).query(connection).unwrap_or(0);
                    if replicas < wanted {
                        bail!("{}", PublishError::NotReplicated { replicas, wanted });
                    }
                }
                Ok(numbered(channel, epoch, seq, is_repeat > 0))
            }
            Target::Control { client, channel, key } => {
                let address = client.place();
                let body = serde_json::to_vec(&Body { idempotency_key: *key, ..body(channel, payload) })
                    .expect("texts and checked JSON can always be written");
                let Answered { status, body: text } = client.post("/publish", &body).with_context(|| {
                    format!(
                        "the server cannot be reached: is `campanile serve` running? control address {address} (--control ADDR changes it)"
                    )
                })?;
                let answer: Answer = serde_json::from_str(&text).unwrap_or_default();
                match status {
                    StatusCode::OK => {}
                    StatusCode::UNAUTHORIZED => {
                        bail!("the server at {address} asks for its token: set CAMPANILE_CONTROL_TOKEN, or control_token in the file")
                    }
                    _ => bail!("the server at {address} refused the message ({status}): {}", answer.reason(&text)),
                }
                Ok(match answer.seq {
                    Some(seq) if key.is_some() => numbered(channel, answer.epoch.unwrap_or_default(), seq, answer.repeated),
                    Some(seq) => format!("published to {channel}: seq {seq}"),
                    None => format!("published to {channel}; no seq: most likely nobody on that server listens to it"),
                })
            }
        }
    }
}

fn numbered(channel: &str, epoch: u64, seq: u64, is_repeat: bool) -> String {
    let before = if is_repeat { ", published before" } else { "" };
    format!("published to {channel}: epoch {epoch}, seq {seq}{before}")
}

/// Of the function, but for the payload.
fn call(settings: &Settings, channel: &str, (command, redis_channel): (&str, &str), key: Option<&str>) -> redis::Cmd {
    let (prefix, rule) = (&settings.redis.prefix, settings.channels.of(channel));
    let mut call = redis::cmd("FCALL");
    call.arg(library::PUBLISH).arg(if key.is_some() { 3 } else { 2 });
    call.arg(keys::stream(prefix, channel)).arg(keys::meta(prefix, channel));
    if let Some(key) = key {
        call.arg(keys::once(prefix, channel, key));
    }
    let window_ms = if key.is_some() { IDEMPOTENCY_WINDOW.as_millis() } else { 0 };
    call.arg(command).arg(redis_channel).arg(rule.history_count).arg(rule.history_age.as_millis() as u64).arg(window_ms as u64);
    call
}

fn connect(url: &str, files: &RedisTls) -> anyhow::Result<Box<redis::Connection>> {
    if url.starts_with("rediss://") {
        // An error says that the program has one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let shown = mask::url(url);
    super::redis::client(url, files)
        .and_then(|client| client.get_connection_with_timeout(TIMEOUT))
        .and_then(|connection| {
            connection.set_read_timeout(Some(TIMEOUT))?;
            connection.set_write_timeout(Some(TIMEOUT))?;
            Ok(Box::new(connection))
        })
        // The error's sources repeat its own words, so it is not kept as one.
        .map_err(|error| {
            let why = if error.is_timeout() { format!("no answer in {} s", TIMEOUT.as_secs()) } else { error.to_string() };
            anyhow::anyhow!("Redis cannot be reached at {shown} ({why}): is it running, is the URL right?")
        })
}

/// The master of the channel's slot, as the first node says that can be reached.
fn connect_owner(seeds: &[String], files: &RedisTls, channel: &str) -> anyhow::Result<Box<redis::Connection>> {
    let mut last = None;
    for seed in seeds {
        let mut connection = match connect(seed, files) {
            Ok(connection) => connection,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        let answer: redis::Value =
            redis::cmd("CLUSTER").arg("SLOTS").query(&mut connection).map_err(|error| anyhow::anyhow!("{}: {error}", mask::url(seed)))?;
        let slot = keys::slot_of(channel);
        let map = Map::read(&answer, redis_url::host(seed).unwrap_or_default().as_str());
        let masters = map.map(|map| map.masters).unwrap_or_default();
        let owner = masters.into_iter().find(|master| master.slots.iter().any(|slots| slots.contains(&slot)));
        let owner =
            owner.with_context(|| format!("the Cluster at {} has no master for the slot of {channel} ({slot})", mask::url(seed)))?;
        return connect(&redis_url::at(seed, &owner.node.to_string()), files);
    }
    Err(last.expect("a URL names a node at least"))
}

/// The request of `POST /publish`.
#[derive(Debug, Serialize)]
struct Body<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Content<'a> {
    /// JSON exactly as typed: long numbers and the order of keys stay as they are.
    Data(&'a RawValue),
    Payload(&'a str),
    PayloadBase64(String),
}

fn body<'a>(channel: &'a str, payload: &'a [u8]) -> Body<'a> {
    let content = match std::str::from_utf8(payload) {
        Ok(text) => serde_json::from_str(text).map_or(Content::Payload(text), Content::Data),
        Err(_) => Content::PayloadBase64(STANDARD.encode(payload)),
    };
    Body { channel, idempotency_key: None, content }
}

#[derive(Debug, Default, Deserialize)]
struct Answer {
    seq: Option<u64>,
    epoch: Option<u64>,
    #[serde(default)]
    repeated: bool,
    error: Option<serde_json::Value>,
    message: Option<String>,
}

impl Answer {
    /// Why the server refused, from its JSON or else from its text.
    fn reason(&self, text: &str) -> String {
        let error = self.error.as_ref().map(|error| error.get("message").unwrap_or(error));
        let error = error.map(|error| error.as_str().map_or_else(|| error.to_string(), str::to_owned));
        let said: Vec<String> = error.into_iter().chain(self.message.clone()).collect();
        if said.is_empty() { text.trim().chars().take(300).collect() } else { said.join(": ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payload: &[u8]) -> String {
        serde_json::to_string(&body("c", payload)).unwrap()
    }

    #[test]
    fn a_payload_is_sent_as_what_it_is() {
        assert_eq!(written(br#"{"b":1,"a":12345678901234567890123}"#), r#"{"channel":"c","data":{"b":1,"a":12345678901234567890123}}"#);
        assert_eq!(written(b"17"), r#"{"channel":"c","data":17}"#);
        assert_eq!(written(b"plain \"text\"\n"), r#"{"channel":"c","payload":"plain \"text\"\n"}"#);
        assert_eq!(written(b""), r#"{"channel":"c","payload":""}"#);
        assert_eq!(written(b"\xff\x00"), r#"{"channel":"c","payload_base64":"/wA="}"#);
    }

    #[test]
    fn a_channel_outside_the_prefix_keeps_its_name() {
        let settings = Settings::default();
        assert_eq!(Names::new(&settings.redis).to_redis("user:123"), "notifications:user:123");
        assert_eq!(Names::new(&settings.redis).to_redis("notifications"), "notifications");
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let reason = |text: &str| serde_json::from_str::<Answer>(text).unwrap_or_default().reason(text);
        assert_eq!(reason(r#"{"error":"bad_channel"}"#), "bad_channel");
        assert_eq!(reason(r#"{"error":"bad_channel","message":"it is empty"}"#), "bad_channel: it is empty");
        assert_eq!(reason(r#"{"error":{"code":1,"message":"no"}}"#), "no");
        assert_eq!(reason("plain\n"), "plain");
    }
}
