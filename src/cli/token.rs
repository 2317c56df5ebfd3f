//! `campanile token`: makes a token, to try a server out, and explains one. It reads the settings as `campanile serve` would.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use serde_json::{Value, json};

use super::{BadSettings, BadUsage, flags, output};
use crate::auth::Gate;
use crate::auth::identity::{GROUP_CHANNEL, Identity, USER_CHANNEL, check_user};
use crate::auth::mint::Signer;
use crate::auth::pattern::Pattern;
use crate::auth::rules::Access;
use crate::config::{ChannelRule, Loaded, Selector, Settings, load, parse};

const EXAMPLES: &str = "\
Examples:
  campanile token --sub u1                                  for an hour, signed with token_secret (HS256)
  campanile token --sub u1 --channels 'room:*' --ttl 5m     which rules with subscribe = \"token\" ask for
  campanile token --sub u1 --key private.pem --kid k1       signed with a key of RSA, P-256, P-384 or Ed25519
  campanile token --inspect eyJ…                            whether this server takes it, and what it opens";

pub fn command() -> Command {
    let list =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("PATTERN").action(ArgAction::Append).help(help);
    Command::new("token")
        .about("Make a token, or explain one")
        .after_help(EXAMPLES)
        .arg(Arg::new("sub").long("sub").value_name("USER").help("Make one for this user"))
        .arg(Arg::new("inspect").long("inspect").value_name("TOKEN").help("Explain this one"))
        .group(ArgGroup::new("what").args(["sub", "inspect"]).required(true))
        .arg(Arg::new("ttl").long("ttl").value_name("TIME").default_value("1h").help("How long it is good: 30s, 5m, 1h"))
        .arg(list("channels", "Channels that it lets its bearer subscribe to, by rules that ask the token. May be given more than once"))
        .arg(list("publish", "The same to publish to"))
        .arg(list("groups", "Groups that its bearer is in").value_name("NAME"))
        .arg(Arg::new("jti").long("jti").value_name("ID").help("The token's own name"))
        .arg(Arg::new("key").long("key").value_name("FILE").help("A private key in PEM to sign with [default: token_secret]"))
        .arg(Arg::new("kid").long("kid").value_name("ID").help("Which key it is signed with, for whoever verifies it"))
        .args(flags::all_hidden(&["publish"]))
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let loaded = load(&flags::sources(matches), None).map_err(BadSettings)?;
    match matches.get_one::<String>("inspect") {
        Some(token) if inspect(&loaded, token.trim())? => {}
        Some(_) => return Ok(ExitCode::FAILURE),
        None => {
            let token = mint(&loaded.settings, matches)?;
            output::line(format_args!("{token}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn mint(settings: &Settings, matches: &ArgMatches) -> anyhow::Result<String> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let user = text("sub").expect("clap asks for it");
    check_user(user).map_err(|problem| BadUsage(format!("--sub: {problem}")))?;
    let ttl = text("ttl").expect("it has a default");
    let ttl = parse::duration(ttl, Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(366 * 86_400))
        .map_err(|problem| BadUsage(format!("--ttl: {problem}")))?;
    let issued_s = now().as_secs();
    let mut claims = json!({"sub": user, "iat": issued_s, "exp": issued_s + ttl.as_secs().max(1)});
    let mut claim = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            claims[name] = value;
        }
    };
    claim("jti", text("jti").map(Value::from));
    claim("iss", settings.auth.issuer.clone().map(Value::from));
    claim("aud", settings.auth.audience.clone().map(Value::from));
    for name in ["channels", "publish", "groups"] {
        let Some(given) = matches.get_many::<String>(name) else { continue };
        let list: Vec<&String> = given.collect();
        if name == "groups" {
            if let Some(group) = list.iter().find(|group| check_user(group).is_err()) {
                return Err(BadUsage(format!("--groups {group:?}: that cannot be a name")).into());
            }
        } else {
            for pattern in &list {
                Pattern::read(pattern).map_err(|problem| BadUsage(format!("--{name} {pattern:?}: {problem}")))?;
            }
        }
        claim(name, Some(json!(list)));
    }
    let signer = match text("key") {
        Some(file) => {
            let pem = std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?;
            Signer::of_pem(&pem).with_context(|| file.to_owned())?
        }
        None => {
            let secret = settings.auth.secret.as_ref();
            let missing = "there is nothing to sign with: give --key FILE, or set token_secret (CAMPANILE_TOKEN_SECRET)";
            Signer::of_secret(secret.ok_or_else(|| BadUsage(missing.to_owned()))?.as_bytes())?
        }
    };
    signer.named(text("kid")).sign(&claims).context("the token cannot be signed")
}

/// Whether it would be taken is told, too.
fn inspect(loaded: &Loaded, token: &str) -> anyhow::Result<bool> {
    let mut parts = token.split('.');
    for name in ["header", "claims"] {
        let shown = parts.next().and_then(decoded).unwrap_or_else(|| "not JSON in base64url".to_owned());
        line(name, &shown)?;
    }
    let Gate::Tokens(verifier) = super::gate(&loaded.settings)? else {
        line("verdict", "this server asks for no tokens (auth)")?;
        return Ok(true);
    };
    let now_ms = now().as_millis() as u64;
    let identity = match verifier.look(token.as_bytes()).and_then(|signed| signed.verify(now_ms)) {
        Ok(identity) => identity,
        Err(error) => {
            line("verdict", &format!("refused: {} ({})", error.text, error.reason.name()))?;
            return Ok(false);
        }
    };
    let left_s = verifier.ends_ms(&identity).saturating_sub(now_ms) / 1000;
    line("verdict", &format!("taken: user {}, for {} more", identity.user(), parse::show_time(Duration::from_secs(left_s))))?;
    let channels = &loaded.settings.channels;
    for ((selector, rule), place) in channels.tables.iter().zip(loaded.origins.tables()) {
        line("rule", &format!("{place}: {selector}: {}", opened(loaded, rule, Some(selector), &identity)))?;
    }
    line("otherwise", &opened(loaded, &channels.default, None, &identity))?;
    Ok(true)
}

/// What a rule lets this bearer do with the channels that it is for.
fn opened(loaded: &Loaded, rule: &ChannelRule, selector: Option<&Selector>, identity: &Identity) -> String {
    let (heard, published, groups) = (identity.heard(), identity.published(), identity.groups());
    let in_groups = groups.iter().map(|group| format!("{GROUP_CHANNEL}{group}"));
    let named = |channels: Vec<String>, claim: &str| match channels.is_empty() {
        true => format!("none: the token has no {claim}"),
        false => format!("what fits {}", channels.join(", ")),
    };
    let own = selector.and_then(Selector::pattern).map(|pattern| pattern.as_str().replace("{sub}", identity.user()));
    let of = |access: Access, named: String, unsaid: String| match access {
        Access::Auto => unsaid,
        Access::Nobody => "none".to_owned(),
        Access::Anyone | Access::Authenticated => "all".to_owned(),
        Access::Owner => own.clone().unwrap_or_else(|| "none".to_owned()),
        Access::Token => named,
    };
    let hears = named(heard.into_iter().map(str::to_owned).chain(in_groups.clone()).collect(), "`channels`");
    let unsaid = in_groups
        .fold(format!("all, of those of users {USER_CHANNEL}{}, of those of groups", identity.user()), |text, group| text + " " + &group);
    let unsaid = if groups.is_empty() { unsaid + " none" } else { unsaid };
    let subscribe = of(rule.subscribe, hears, unsaid);
    let in_general = if loaded.settings.clients.allow_client_publish { "all" } else { "none: allow_client_publish is off" };
    let publishes = named(published.into_iter().map(str::to_owned).collect(), "`publish`");
    format!("subscribe {subscribe}; publish {}", of(rule.publish, publishes, in_general.to_owned()))
}

fn decoded(part: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    Some(value.to_string())
}

fn line(name: &str, text: &str) -> anyhow::Result<()> {
    output::line(format_args!("{name:<10} {text}"))
}
