//! Who comes in with which token, for how long it stays, what verifying may cost a turn, and which channels it may have.

use std::time::Duration;

use super::stage::{PLENTY, Stage, frame, settings};
use crate::rig::net::{request, unix_ms};
use campanile::auth::pattern::Pattern;
use campanile::auth::rules::Access;
use campanile::auth::token::TokenReason;
use campanile::config::{AuthMode, ChannelRule, Selector, Settings};
use campanile::wire::Format;
use campanile::wire::frame::Opcode;
use campanile::wire::http::origin::AllowedOrigin;
use campanile::wire::http::refusal::RefusalReason;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Of the tests alone.
const PRIVATE: &str = include_str!("../keys/p256.private.pem");
const PUBLIC: &str = include_str!("../keys/p256.public.pem");

pub fn tokens(change: impl FnOnce(&mut Settings)) -> Settings {
    settings()
        .with(|settings| {
            settings.auth.mode = AuthMode::Jwt;
            settings.auth.secret = Some(SECRET.to_owned());
            settings.auth.leeway = Duration::from_secs(5);
            settings.auth.warning = Duration::from_secs(20);
            settings.clients.heartbeat = Duration::from_secs(30);
        })
        .with(change)
}

/// When the stage begins.
fn begin_s() -> u64 {
    unix_ms(1_000_000_000) / 1000
}

pub fn token_with(user: &str, expires_in_s: u64, more: &Value) -> String {
    let mut claims = json!({"sub": user, "exp": begin_s() + expires_in_s});
    claims.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

fn token(user: &str, expires_in_s: u64) -> String {
    token_with(user, expires_in_s, &json!({}))
}

/// Long past.
fn old(user: &str) -> String {
    token_with(user, 0, &json!({"exp": begin_s() - 60}))
}

/// With fields of its own.
fn request_with(path: &str, fields: &[String]) -> String {
    let more: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    request(path, Format::Json).replacen("\r\n\r\n", &format!("\r\n{more}\r\n"), 1)
}

fn knock(stage: &mut Stage, path: &str, fields: &[String]) -> usize {
    let client = stage.knock(&request_with(path, fields), PLENTY);
    stage.rig.shard.on_listener();
    stage.turns(3);
    client
}

fn status(stage: &Stage, client: usize) -> u16 {
    if stage.clients[client].is_upgraded() { 101 } else { stage.clients[client].refused.expect("an answer") }
}

pub fn refused(stage: &Stage, reason: TokenReason) -> u64 {
    stage.rig.metrics.tokens_refused[reason as usize].get()
}

fn refresh(stage: &mut Stage, client: usize, token: &str) {
    stage.text(client, &json!({"type": "refresh", "token": token, "id": 1}).to_string());
}

/// Lets time pass as it does.
fn pass(stage: &mut Stage, seconds: usize) {
    for _ in 0..10 * seconds {
        stage.pass(Duration::from_millis(100));
        for client in 0..stage.clients.len() {
            if std::mem::take(&mut stage.clients[client].pings) > 0 {
                stage.send(client, &frame(true, Opcode::Pong, b""));
            }
        }
        stage.turn();
    }
}

#[test]
fn a_token_lets_its_bearer_in_and_nothing_else_does() {
    let mut stage = Stage::new(tokens(|_| ()));
    let good = token("u", 100);
    for (path, fields) in [
        (format!("/ws?token={good}"), vec![]),
        ("/ws".to_owned(), vec![format!("Authorization: Bearer {good}")]),
        ("/ws".to_owned(), vec![format!("Sec-WebSocket-Protocol: bearer.{good}")]),
    ] {
        let client = knock(&mut stage, &path, &fields);
        assert_eq!(status(&stage, client), 101, "{path} {fields:?}");
    }
    assert_eq!((stage.rig.metrics.signatures.get(), stage.rig.metrics.tokens_known.get()), (1, 2), "one signature for all of them");
    for (path, fields, reason) in [
        ("/ws".to_owned(), vec![], TokenReason::Missing),
        (format!("/ws?token={good}&token={good}"), vec![], TokenReason::Several),
        (format!("/ws?token={good}"), vec![format!("Authorization: Bearer {good}")], TokenReason::Several),
        ("/ws?token=x".to_owned(), vec![], TokenReason::Malformed),
        (format!("/ws?token={}", "x".repeat(5000)), vec![], TokenReason::TooLong),
        (format!("/ws?token={good}x"), vec![], TokenReason::Signature),
        (format!("/ws?token={}", old("v")), vec![], TokenReason::Expired),
        (format!("/ws?token={}", token_with("v", 100, &json!({"nbf": begin_s() + 50}))), vec![], TokenReason::NotYetValid),
        (format!("/ws?token={}", token_with("v", 100, &json!({"aud": "x"}))), vec![], TokenReason::Audience),
    ] {
        let before = refused(&stage, reason);
        let client = knock(&mut stage, &path, &fields);
        assert_eq!((status(&stage, client), refused(&stage, reason)), (401, before + 1), "{path} {fields:?}");
    }
    assert_eq!(stage.rig.metrics.connections.get(), 3);
    assert_eq!(stage.rig.metrics.refused[RefusalReason::Unauthorized as usize].get(), 9);
}

/// `exp` of a token that was verified before is asked again.
#[test]
fn a_known_token_expires_all_the_same() {
    let mut stage = Stage::new(tokens(|_| ()));
    let path = format!("/ws?token={}", token("u", 1));
    assert_eq!(knock(&mut stage, &path, &[]), 0);
    pass(&mut stage, 6);
    let late = knock(&mut stage, &path, &[]);
    assert_eq!((status(&stage, 0), status(&stage, late), refused(&stage, TokenReason::Expired)), (101, 401, 1));
    assert_eq!(stage.rig.metrics.signatures.get(), 1);
}

#[test]
fn a_connection_ends_with_its_token_and_is_told_before() {
    let mut stage = Stage::new(tokens(|_| ()));
    let client = knock(&mut stage, &format!("/ws/news?token={}", token("u", 100)), &[]);
    let other = knock(&mut stage, &format!("/ws?token={}", token("v", 100)), &[]);
    pass(&mut stage, 79);
    assert_eq!((stage.clients[client].expiring, stage.clients[client].close), (0, None));
    pass(&mut stage, 2);
    assert_eq!(stage.clients[client].expiring, 1, "twenty seconds before");
    pass(&mut stage, 23);
    assert_eq!((stage.clients[client].expiring, stage.clients[client].close), (1, None), "the leeway is not over");
    pass(&mut stage, 2);
    assert_eq!((stage.clients[client].close, stage.clients[other].close), (Some(4001), Some(4001)));
    pass(&mut stage, 10);
    assert_eq!(stage.closed(), [("token_expired", 2)]);
}

/// There is one timer for heartbeats and tokens.
#[test]
fn heartbeats_come_as_they_would_without_a_token() {
    let beats = |expires_in_s: Option<u64>| {
        let mut stage = Stage::new(match expires_in_s {
            Some(_) => tokens(|_| ()),
            None => settings().with(|settings| settings.clients.heartbeat = Duration::from_secs(30)),
        });
        let path = expires_in_s.map_or("/ws".to_owned(), |expires_in_s| format!("/ws?token={}", token("u", expires_in_s)));
        let client = knock(&mut stage, &path, &[]);
        let mut beats = Vec::new();
        for second in 0..200 {
            let before = stage.rig.metrics.pings_sent.get();
            pass(&mut stage, 1);
            if stage.rig.metrics.pings_sent.get() > before {
                beats.push(second);
            }
        }
        assert_eq!(stage.clients[client].close, None);
        beats
    };
    let without = beats(None);
    assert!(without.len() >= 6, "{without:?}");
    for expires_in_s in [1000, 250, 210] {
        assert_eq!(beats(Some(expires_in_s)), without, "{expires_in_s}");
    }
}

#[test]
fn a_refresh_takes_the_place_of_the_token() {
    let mut stage = Stage::new(tokens(|_| ()));
    let client = knock(&mut stage, &format!("/ws?token={}", token("u", 100)), &[]);
    pass(&mut stage, 81);
    refresh(&mut stage, client, &token("u", 200));
    stage.turns(2);
    assert_eq!((stage.clients[client].expiring, stage.clients[client].refreshed), (1, 1));
    assert_eq!(stage.clients[client].answers, [json!({"type": "refreshed", "id": 1, "expires": (begin_s() + 200) * 1000})]);
    pass(&mut stage, 98);
    assert_eq!((stage.clients[client].expiring, stage.clients[client].close), (1, None));
    pass(&mut stage, 3);
    assert_eq!(stage.clients[client].expiring, 2, "of the second one, too");
    // One that expires sooner than the one before.
    refresh(&mut stage, client, &token("u", 190));
    pass(&mut stage, 13);
    assert_eq!((stage.clients[client].refreshed, stage.clients[client].close), (2, Some(4001)));
}

#[test]
fn what_cannot_take_its_place_leaves_it() {
    let mut stage = Stage::new(tokens(|_| ()));
    let client = knock(&mut stage, &format!("/ws?token={}", token("u", 100)), &[]);
    let path = format!("/ws?token={}", token("v", 100));
    knock(&mut stage, &path, &[]);
    for (token, reason) in [
        (token("v", 200), TokenReason::OtherUser),
        (token("v", 100), TokenReason::OtherUser),
        (old("u"), TokenReason::Expired),
        ("x".repeat(5000), TokenReason::TooLong),
        ("x".to_owned(), TokenReason::Malformed),
        (String::new(), TokenReason::Malformed),
    ] {
        let before = refused(&stage, reason);
        refresh(&mut stage, client, &token);
        stage.turns(2);
        let error = stage.clients[client].errors.last().unwrap();
        assert_eq!((error["code"].as_str(), error["command"].as_str(), &error["id"]), (Some("token_invalid"), Some("refresh"), &json!(1)));
        assert_eq!(refused(&stage, reason), before + 1, "{error}");
    }
    pass(&mut stage, 106);
    assert_eq!(stage.clients[client].close, Some(4001), "as its first token says");
    let mut open = Stage::new(settings());
    let client = open.connect("/ws", PLENTY);
    open.turns(2);
    refresh(&mut open, client, &token("u", 100));
    open.turns(2);
    assert_eq!(open.clients[client].errors[0]["code"], "token_invalid");
}

/// The token that was to take its place lay in the socket while the thread was held up.
#[test]
fn a_refresh_that_came_in_time_counts_when_the_thread_was_held_up() {
    let mut stage = Stage::new(tokens(|settings| settings.auth.warning = Duration::ZERO));
    let client = knock(&mut stage, &format!("/ws?token={}", token("u", 10)), &[]);
    let late = knock(&mut stage, &format!("/ws?token={}", token("v", 10)), &[]);
    refresh(&mut stage, client, &token("u", 100));
    // Its edge has not been told.
    stage.pass(Duration::from_secs(16));
    stage.rig.shard.turn();
    stage.turns(3);
    assert_eq!((stage.clients[client].close, stage.clients[client].refreshed), (None, 1));
    assert_eq!(stage.clients[late].close, Some(4001));
}

fn signed(user: usize) -> String {
    let claims = json!({"sub": format!("user-{user}"), "exp": begin_s() + 1000});
    encode(&Header::new(Algorithm::ES256), &claims, &EncodingKey::from_ec_pem(PRIVATE.as_bytes()).unwrap()).unwrap()
}

/// A stage whose tokens are dear.
fn dear(test: &str) -> Stage {
    let file = std::env::temp_dir().join(format!("campanile-scenario-{test}-{}.pem", std::process::id()));
    std::fs::write(&file, PUBLIC).unwrap();
    let stage = Stage::new(tokens(|settings| settings.auth.key_files = vec![file.clone()]));
    std::fs::remove_file(file).unwrap();
    stage
}

/// A crowd with tokens that nobody has seen: a turn does not take longer for it, and all get in, in the order in which they came.
#[test]
fn signatures_have_a_budget_and_nobody_is_forgotten() {
    let mut stage = dear("budget");
    let paths: Vec<String> = (0..60).map(|user| format!("/ws/news?token={}", signed(user))).collect();
    let clients: Vec<usize> = paths.iter().map(|path| stage.connect(path, PLENTY)).collect();
    // Behind the head of one that will wait.
    stage.text(clients[59], r#"{"type":"ping","id":"behind"}"#);
    let mut in_before = 0;
    for _ in 0..20 {
        let before = stage.rig.metrics.signatures.get();
        let wait_ns = stage.rig.shard.wait_ns(stage.wires.borrow().now_ns);
        assert!(!(1..60).contains(&in_before) || wait_ns == Some(0), "the next turn is not put off");
        stage.turn();
        assert!(stage.rig.metrics.signatures.get() - before <= 9, "in one turn");
        let is_in: Vec<bool> = clients.iter().map(|&client| stage.clients[client].is_upgraded()).collect();
        let count = is_in.iter().filter(|&&is_in| is_in).count();
        assert!(is_in[..count].iter().all(|&is_in| is_in), "one after the other: {is_in:?}");
        in_before = count;
    }
    assert_eq!((in_before, stage.rig.metrics.signatures.get()), (60, 60));
    assert_eq!(stage.clients[59].answers[0]["id"], "behind");
    // Whoever comes back pays nothing, and waits for nobody.
    for path in &paths {
        stage.connect(path, PLENTY);
    }
    stage.turns(2);
    assert_eq!((stage.rig.metrics.connections.get(), stage.rig.metrics.signatures.get()), (120, 60));
}

#[test]
fn whoever_waits_too_long_for_a_signature_is_told_to_come_later() {
    let mut stage = dear("overdue");
    let clients: Vec<usize> = (0..30).map(|user| stage.connect(&format!("/ws?token={}", signed(user)), PLENTY)).collect();
    stage.turn();
    stage.pass(Duration::from_secs(11));
    stage.turns(10);
    let in_time = clients.iter().filter(|&&client| stage.clients[client].is_upgraded()).count();
    let overdue = clients.iter().filter(|&&client| stage.clients[client].refused == Some(503)).count();
    assert!(in_time >= 9 && overdue >= 9 && in_time + overdue == 30, "{in_time} {overdue}");
    assert_eq!(stage.rig.metrics.refused[RefusalReason::TokensWaiting as usize].get(), overdue as u64);
}

/// Forged tokens cost as much as good ones.
#[test]
fn a_client_that_refreshes_without_end_takes_no_more_than_its_turn() {
    let mut stage = dear("flood");
    let flooder = knock(&mut stage, &format!("/ws?token={}", signed(0)), &[]);
    let other = knock(&mut stage, &format!("/ws?token={}", signed(1)), &[]);
    let forged: Vec<String> = (0..100).map(|number| format!("{}{number:03}", &signed(0)[..signed(0).len() - 3])).collect();
    for token in &forged {
        refresh(&mut stage, flooder, token);
    }
    for round in 0..50 {
        stage.text(other, &json!({"type": "ping", "id": round}).to_string());
        let before = stage.rig.metrics.signatures.get();
        stage.turn();
        assert!(stage.rig.metrics.signatures.get() - before <= 9);
    }
    assert_eq!(stage.clients[other].answers.len(), 50, "the other one is served");
    let codes: Vec<&str> = stage.clients[flooder].errors.iter().map(|error| error["code"].as_str().unwrap()).collect();
    assert_eq!(codes.len(), 100, "each is answered");
    assert!(codes.contains(&"token_invalid") && codes.iter().all(|code| ["token_invalid", "busy"].contains(code)), "{codes:?}");
}

#[test]
fn a_cookie_counts_for_pages_that_may_connect() {
    let mut stage = Stage::new(tokens(|settings| {
        settings.auth.cookie = Some("session".to_owned());
        settings.auth.origins = vec![AllowedOrigin::read("https://app.example").unwrap()];
    }));
    let token = token("u", 100);
    let cookie = format!("Cookie: a=b; session={token}");
    let origin = |origin: &str| format!("Origin: {origin}");
    for (fields, expected) in [
        (vec![cookie.clone(), origin("https://app.example")], 101),
        (vec![cookie.clone(), origin("https://evil.example")], 403),
        (vec![cookie.clone(), origin("null")], 403),
        (vec![cookie.clone()], 403),
        (vec![origin("https://app.example")], 401),
        (vec![format!("Authorization: Bearer {token}")], 101),
        (vec![format!("Authorization: Bearer {token}"), origin("https://evil.example")], 403),
    ] {
        let client = knock(&mut stage, "/ws", &fields);
        assert_eq!(status(&stage, client), expected, "{fields:?}");
    }
}

#[test]
fn a_user_is_believed_where_that_is_wanted_and_has_a_channel() {
    let mut stage = Stage::new(settings().with(|settings| {
        settings.auth.mode = AuthMode::Query;
        settings.auth.user_channel = true;
    }));
    let client = knock(&mut stage, "/ws/news?user=u%20123&channel=user:u%20123", &[]);
    stage.turns(3);
    let mut channels: Vec<&String> = stage.clients[client].subscriptions.keys().collect();
    channels.sort();
    assert_eq!(channels, ["news", "user:u 123"]);
    assert!(stage.clients[client].errors.is_empty());
    for path in ["/ws", "/ws?user=", "/ws?user=a&user=b", "/ws?user=%00", "/ws?user=%FF"] {
        let client = knock(&mut stage, path, &[]);
        assert_eq!(status(&stage, client), 401, "{path}");
    }
}

fn rules(tables: &[(&str, Access, Access)]) -> impl FnOnce(&mut Settings) {
    let tables: Vec<(Selector, ChannelRule)> = tables
        .iter()
        .map(|&(pattern, subscribe, publish)| {
            let rule = ChannelRule { subscribe, publish, ..settings().channels.default };
            (Selector::Pattern(Pattern::read(pattern).unwrap()), rule)
        })
        .collect();
    move |settings| settings.channels.tables = tables
}

/// What a client is answered when it asks for each of these channels.
fn ask(stage: &mut Stage, client: usize, command: &str, channels: &[&str]) -> Vec<String> {
    let mut answers = Vec::new();
    for channel in channels {
        let before = stage.clients[client].answers.len();
        stage.text(client, &json!({"type": command, "channel": channel, "data": 1, "id": 7}).to_string());
        stage.turns(4);
        let answer = stage.clients[client].answers.get(before);
        answers.push(answer.map_or("accepted".to_owned(), |answer| match answer["code"].as_str() {
            Some(code) => format!("{code} {}", answer["channel"].as_str().unwrap()),
            None => answer["type"].as_str().unwrap().to_owned(),
        }));
    }
    answers
}

#[test]
fn without_rules_channels_of_users_and_groups_are_theirs() {
    let mut stage = Stage::new(tokens(|_| ()));
    let token = token_with("u", 100, &json!({"groups": ["admins"]}));
    let client = knock(&mut stage, &format!("/ws?token={token}"), &[]);
    let answers = ask(&mut stage, client, "subscribe", &["news", "user:u", "user:v", "group:admins", "group:staff"]);
    assert_eq!(answers, ["subscribed", "subscribed", "not_allowed user:v", "subscribed", "not_allowed group:staff"]);
    assert_eq!(ask(&mut stage, client, "publish", &["news"]), ["not_allowed news"]);
    assert_eq!(stage.rig.metrics.not_allowed.get(), 3);
    // On open, too.
    let other = knock(&mut stage, &format!("/ws/user:v?token={token}"), &[]);
    stage.turns(3);
    assert_eq!(stage.clients[other].errors[0]["code"], "not_allowed");
    assert_eq!(
        (&stage.clients[other].errors[0]["command"], &stage.clients[other].errors[0]["channel"]),
        (&json!("subscribe"), &json!("user:v"))
    );
}

#[test]
fn rules_say_who_may_subscribe_and_publish() {
    let mut stage = Stage::new(tokens(rules(&[
        ("inbox:{sub}", Access::Owner, Access::Authenticated),
        ("room:*:chat", Access::Token, Access::Token),
        ("shut", Access::Nobody, Access::Nobody),
        ("**", Access::Authenticated, Access::Auto),
    ])));
    let claims = json!({"channels": ["room:1:chat", "room:2:*"], "publish": ["room:1:*", "shut"]});
    let client = knock(&mut stage, &format!("/ws?token={}", token_with("u", 100, &claims)), &[]);
    let channels = ["inbox:u", "inbox:v", "room:1:chat", "room:2:chat", "room:3:chat", "shut", "user:v"];
    let answers = ask(&mut stage, client, "subscribe", &channels);
    assert_eq!(
        answers,
        ["subscribed", "not_allowed inbox:v", "subscribed", "subscribed", "not_allowed room:3:chat", "not_allowed shut", "subscribed"]
    );
    let answers = ask(&mut stage, client, "publish", &channels);
    // What is accepted goes to the bus, which does not answer here.
    assert_eq!(
        answers,
        [
            "accepted",
            "accepted",
            "accepted",
            "not_allowed room:2:chat",
            "not_allowed room:3:chat",
            "not_allowed shut",
            "not_allowed user:v"
        ]
    );
}

#[test]
fn what_a_new_token_does_not_open_ends() {
    let mut stage = Stage::new(tokens(|settings| {
        settings.auth.user_channel = true;
        rules(&[("room:*", Access::Token, Access::Nobody), ("user:{sub}", Access::Nobody, Access::Nobody)])(settings);
    }));
    let rooms = |rooms: &[&str]| json!({"channels": rooms});
    let client = knock(&mut stage, &format!("/ws?token={}", token_with("u", 100, &rooms(&["room:*"]))), &[]);
    stage.turns(3);
    assert_eq!(ask(&mut stage, client, "subscribe", &["room:1", "room:2", "news"]), ["subscribed"; 3]);
    refresh(&mut stage, client, &token_with("u", 200, &rooms(&["room:2"])));
    stage.turns(3);
    let mut left: Vec<&String> = stage.clients[client].subscriptions.keys().collect();
    left.sort();
    assert_eq!(left, ["news", "room:2", "user:u"], "the user's own channel is the server's to give");
    assert_eq!((stage.clients[client].ended.as_slice(), stage.rig.metrics.not_allowed.get()), (&["room:1".to_owned()][..], 1));
    assert_eq!(ask(&mut stage, client, "subscribe", &["room:1"]), ["not_allowed room:1"]);
}

/// A client with very many subscriptions holds nobody up when its token does not open them any more: what is over is over after some turns, and each is told.
#[test]
fn a_token_that_opens_less_is_asked_about_many_channels_in_many_turns() {
    const COUNT: usize = 20_000;
    let mut stage = Stage::new(tokens(|settings| {
        rules(&[("room:*", Access::Token, Access::Nobody)])(settings);
        settings.bounds.subscriptions_max = COUNT;
        settings.bounds.commands_per_second = None;
    }));
    let all = token_with("u", 100, &json!({"channels": ["room:*"]}));
    let client = knock(&mut stage, &format!("/ws?token={all}"), &[]);
    let other = knock(&mut stage, &format!("/ws/room:0?token={all}"), &[]);
    for number in 0..COUNT {
        stage.text(client, &json!({"type": "subscribe", "channel": format!("room:{number}")}).to_string());
        if number % 100 == 0 {
            stage.turns(30);
        }
    }
    stage.turns(100);
    assert_eq!(stage.clients[client].subscriptions.len(), COUNT, "{:?}", stage.clients[client].errors.last());
    // Every hundredth is still open to it.
    refresh(&mut stage, client, &token_with("u", 101, &json!({"channels": ["room:*00", "room:0"]})));
    let mut left = vec![COUNT];
    for _ in 0..400 {
        stage.turn();
        // In the middle of it, channels come and go.
        let number = left.len() * 7;
        stage.text(client, &json!({"type": "unsubscribe", "channel": format!("room:{number}")}).to_string());
        left.push(stage.clients[client].subscriptions.len());
    }
    let most = left.windows(2).map(|pair| pair[0] - pair[1]).max().unwrap();
    let view = &stage.clients[client];
    let told = (view.close, view.refreshed, view.ended.len(), &left[..20], left.last());
    assert!((1..1000).contains(&most), "a turn ends {most} at most: {told:?}");
    let mut kept: Vec<&str> = view.subscriptions.keys().map(|name| &name["room:".len()..]).collect();
    kept.sort_unstable();
    let is_kept = |number: &&str| *number == "0" || number.ends_with("00");
    assert!(kept.len() > COUNT / 110 && kept.iter().all(is_kept), "{} are kept: {told:?}", kept.len());
    assert!(stage.clients[other].subscriptions.contains_key("room:0"), "others keep theirs");
    assert!(view.ended.len() > COUNT / 110 * 90);
}
