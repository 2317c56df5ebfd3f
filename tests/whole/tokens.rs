//! Who gets in with which token, against the real server: keys from files and the environment, what is told of them, and a browser's way to
//! bring one.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::Client;
use crate::support::frames;
use crate::support::server::{Launch, Server};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const SECRET: &str = "a secret of the tests: 0123456789abcdef";

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(user: &str, expires_in_s: u64) -> String {
    let claims = json!({"sub": user, "exp": now_s() + expires_in_s, "jti": format!("{user}-{expires_in_s}")});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

fn start(more: &str) -> Server {
    Launch::new(&[]).file(&format!("auth = \"jwt\"\ntoken_secret = \"{SECRET}\"\n{more}")).start()
}

/// The status and the body of what a request is answered with.
fn answer(server: &Server, path: &str, headers: &str) -> (u16, String) {
    let mut client = Client::dial(server.listen);
    client.send(frames::request(path, headers).as_bytes());
    let head = client.head();
    let status = frames::status(head.as_bytes());
    (status, if status == 101 { head } else { head + &client.rest() })
}

#[test]
fn a_token_opens_the_door() {
    let server = start("");
    let good = token("u1", 600);
    let (status, head) = answer(&server, "/ws", &format!("Sec-WebSocket-Protocol: campanile.v1.json, bearer.{good}\r\n"));
    assert!(
        status == 101 && head.contains("Sec-WebSocket-Protocol: campanile.v1.json\r\n") && !head.contains(&good),
        "never echoed: {head}"
    );
    assert_eq!(answer(&server, "/ws", &format!("Authorization: Bearer {good}\r\n")).0, 101);
    assert_eq!(answer(&server, &format!("/ws/news?token={good}"), "").0, 101);
    for (path, words) in [
        ("/ws".to_owned(), "the subprotocol bearer.TOKEN (missing)"),
        (format!("/ws?token={good}&token={good}"), "(several)"),
        (format!("/ws?token={}", token("u1", 0)), "good or expired"),
        (format!("/ws?token={}", good.replace('.', "")), "(malformed)"),
        (format!("/ws?token={}", &good[..good.len() - 4]), "(signature)"),
        (format!("/ws?token={}", "x".repeat(5000)), "(too_long)"),
        (format!("/ws?token={}", "x".repeat(9000)), "8192 bytes"),
    ] {
        let (status, text) = answer(&server, &path, "");
        match words {
            // The leeway.
            "good or expired" => assert_eq!(status, 101),
            "8192 bytes" => assert!(status == 431 && text.contains(words), "{text}"),
            _ => {
                assert!(status == 401 && text.contains(words) && text.contains("\r\nWWW-Authenticate: Bearer"), "{text}");
                assert_eq!(text.contains("error=\"invalid_token\""), words != "the subprotocol bearer.TOKEN (missing)", "{text}");
                assert!(path.len() < 10 || !text.contains(&path[10..]), "nothing of it is quoted: {text}");
            }
        }
    }
    for reason in ["missing", "several", "malformed", "signature", "too_long"] {
        assert_eq!(server.metric("campanile_tokens_refused_total", &format!("reason=\"{reason}\"")), 1.0, "{reason}");
    }
    assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"unauthorized\""), 5.0);
    // Health checks bring none.
    assert_eq!(server.get_from(server.listen, "/healthz").unwrap().0, 200);
}

#[test]
fn a_connection_lives_as_long_as_its_token() {
    let server = start("token_leeway = 1\ntoken_warning = 600\n");
    let mut client = Client::connect(server.listen, &format!("/ws?format=json&token={}", token("u1", 3)));
    assert_eq!(client.event()["type"], "connected");
    assert_eq!(client.event()["type"], "expiring");
    client.command(json!({"type": "refresh", "token": token("u2", 600), "id": 1}));
    let error = client.event();
    assert_eq!((&error["code"], &error["command"], &error["id"]), (&json!("token_invalid"), &json!("refresh"), &json!(1)));
    client.command(json!({"type": "refresh", "token": token("u1", 700), "id": 2}));
    let refreshed = client.event();
    assert!(refreshed["type"] == "refreshed" && refreshed["expires"].as_u64().unwrap() > (now_s() + 600) * 1000, "{refreshed}");
    client.command(json!({"type": "refresh", "token": token("u1", 2), "id": 3}));
    let answers: Vec<Value> = (0..2).map(|_| client.event()).collect();
    assert_eq!((&answers[0]["type"], &answers[1]["type"]), (&json!("refreshed"), &json!("expiring")));
    assert_eq!(client.close_code(), Some(4001));
    server.eventually_metric("campanile_connections_closed_total", "reason=\"token_expired\"", 1.0);
}

#[test]
fn the_secret_is_told_nobody() {
    let launch = Launch::new(&["--auth", "jwt", "--user-channel"]);
    let mut command = launch.command();
    let child = command.env("CAMPANILE_TOKEN_SECRET", SECRET).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let server = Launch::adopt(child);
    let mut client = Client::connect(server.listen, &format!("/ws?format=json&token={}", token("u1", 600)));
    assert_eq!(client.event()["type"], "connected");
    let own = client.event();
    assert_eq!((&own["type"], &own["channel"]), (&json!("subscribed"), &json!("user:u1")));
    server.publish("user:u1", &json!("hello"));
    assert_eq!(client.event()["data"], "hello");
    let (_, info) = server.get("/info");
    let (_, metrics) = server.get("/metrics");
    let log = server.log();
    assert!(info.contains("\"token_secret\":\"***\"") && log.contains("tokens, verified by token_secret"), "{info}\n{log}");
    for told in [&info, &metrics, &log] {
        assert!(!told.contains("0123456789abcdef"), "{told}");
    }
    let _ = std::fs::remove_dir_all(launch.directory);
}

#[test]
fn keys_that_cannot_be_had_end_the_start_and_say_why() {
    for (file, words) in [
        ("auth = \"jwt\"\n", "error: auth: there is nothing to verify tokens by"),
        ("auth = \"jwt\"\ntoken_secret = \"0123456789abcdef\"\n", "error: token_secret: it has 16 bytes, and a secret needs 32 at least"),
        ("auth = \"jwt\"\ntoken_keys = [\"nowhere.pem\"]\n", "error: token_keys: nowhere.pem cannot be read"),
        ("auth = \"jwt\"\ntoken_keys = [\"campanile.toml\"]\n", "error: token_keys: campanile.toml: it is neither PEM"),
        ("auth = \"jvt\"\n", "did you mean jwt?"),
    ] {
        let (code, told) = Launch::new(&[]).file(file).fails();
        assert!(code == 2 && told.contains(words), "{code} {told}");
        assert!(!told.contains("0123456789abcdef"), "{told}");
    }
}

/// What another program has signed: Python's hmac, by way of a key file in JWKS.
#[test]
fn a_jwks_file_verifies_what_others_sign() {
    let script = "import base64,hashlib,hmac,json,sys,time\n\
                  b=lambda data: base64.urlsafe_b64encode(data).rstrip(b'=').decode()\n\
                  message=b(json.dumps({'alg':'HS512','typ':'JWT','kid':'k2'}).encode())+'.'+b(json.dumps({'sub':'py','exp':time.time()+60}).encode())\n\
                  print(message+'.'+b(hmac.new(sys.argv[1].encode(),message.encode(),hashlib.sha512).digest()))";
    let python = std::process::Command::new("python3").args(["-c", script, SECRET]).output().expect("this test needs python3");
    let token = String::from_utf8(python.stdout).unwrap();
    let launch = Launch::new(&["--auth", "jwt", "--token-keys", "keys.json"]);
    std::fs::create_dir_all(&launch.directory).unwrap();
    let base64 = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let keys = json!({"keys": [
        {"kty": "oct", "kid": "k1", "k": base64(&"x".repeat(64))},
        {"kty": "oct", "kid": "k2", "k": base64(SECRET), "alg": "HS512"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
    ]});
    std::fs::write(launch.directory.join("keys.json"), keys.to_string()).unwrap();
    let server = launch.start();
    assert!(server.log().contains("key 3: its curve (`crv`) is neither P-256 nor P-384"), "{}", server.log());
    assert_eq!(answer(&server, &format!("/ws?token={}", token.trim()), "").0, 101);
    let (status, text) = answer(&server, &format!("/ws?token={}", self::token("u1", 60)), "");
    assert!(status == 401 && text.contains("(signature)"), "without a kid each key is tried: {text}");
}

#[test]
fn who_says_so_is_believed_where_that_is_wanted() {
    let server = Launch::new(&["--auth", "query", "--origins", "https://*.example.org"]).start();
    assert!(server.log_when("identity").contains("?user= is believed: whoever reaches the port may be anybody"));
    assert_eq!(answer(&server, "/ws?user=u1", "").0, 101);
    assert_eq!(answer(&server, "/ws?user=u1", "Origin: https://a.example.org\r\n").0, 101);
    for origin in ["null", "https://example.org", "http://a.example.org", "https://a.example.org.evil.example", "https://a.example.org:444"]
    {
        let (status, text) = answer(&server, "/ws?user=u1", &format!("Origin: {origin}\r\n"));
        assert!(status == 403 && text.contains("pages of this Origin"), "{origin}: {text}");
    }
    let (status, text) = answer(&server, "/ws", "");
    assert!(status == 401 && text.contains("/ws?user=NAME"), "{text}");
    assert_eq!(server.metric("campanile_connections_refused_total", "reason=\"origin\""), 5.0);
}

/// The command as somebody types it beside a server.
fn subscribe(arguments: &[&str], token: Option<&str>) -> std::process::Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_campanile"));
    command.arg("subscribe").args(arguments).current_dir(std::env::temp_dir()).env_remove("CAMPANILE_TOKEN");
    command.envs(token.map(|token| ("CAMPANILE_TOKEN", token)));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

fn ended(child: std::process::Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_line_says_who_it_is_also_by_unix_socket() {
    let place = std::env::temp_dir().join(format!("campanile-tokens-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let socket = format!("unix://{}", place.join("public.sock").display());
    let rules = "[[channels]]\nprefix = \"room:\"\nsubscribe = \"token\"\n";
    let file = format!("auth = \"jwt\"\ntoken_secret = \"{SECRET}\"\n{rules}");
    let server = Launch::new(&["--listen", "127.0.0.1:0", "--listen", &socket]).file(&file).start();
    let tcp = format!("ws://{}/ws", server.listen);
    let good = token("u1", 600);

    for (url, given) in [(&tcp, None), (&socket, Some("?"))] {
        let (arguments, variable): (&[&str], _) = match given {
            None => (&["--token", &good], None),
            Some(_) => (&[], Some(&*good)),
        };
        let child = subscribe(&[&["news", "--url", url, "--count", "1"], arguments].concat(), variable);
        server.eventually_metric("campanile_subscriptions", "", 1.0);
        server.publish("news", &json!("hello"));
        let (code, stdout, stderr) = ended(child);
        assert!(code == 0 && stdout.contains("\"data\":\"hello\"") && !stderr.contains(&good), "{url}: {stdout}{stderr}");
        server.eventually_metric("campanile_subscriptions", "", 0.0);
    }
    let (code, _, stderr) = ended(subscribe(&["news", "room:7", "--url", &tcp], Some(&good)));
    assert!(code == 1 && stderr.contains("the server says not_allowed for room:7: "), "{stderr}");
    let (code, _, stderr) = ended(subscribe(&["news", "--url", &tcp], None));
    assert!(code == 1 && stderr.contains("401") && stderr.contains("Give --token TOKEN, or set CAMPANILE_TOKEN"), "{stderr}");
    let (code, _, stderr) = ended(subscribe(&["news", "--url", &tcp, "--token", "a b"], None));
    assert!(code == 2 && stderr.contains("--token: a token has"), "{stderr}");
    drop(server);
    let _ = std::fs::remove_dir_all(place);
}

/// A command in an empty directory with this file, as somebody types it: exit code, stdout, stderr.
fn type_in(file: &str, arguments: &[&str]) -> (i32, String, String) {
    let launch = Launch::new(&[]);
    std::fs::create_dir_all(&launch.directory).unwrap();
    std::fs::write(launch.directory.join("campanile.toml"), file).unwrap();
    std::fs::write(launch.directory.join("private.pem"), PRIVATE).unwrap();
    std::fs::write(launch.directory.join("public.pem"), PUBLIC).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_campanile"));
    let output = command.args(arguments).current_dir(&launch.directory).env_remove("CAMPANILE_TOKEN_SECRET").output().unwrap();
    let _ = std::fs::remove_dir_all(&launch.directory);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Of the tests alone.
const PRIVATE: &str = include_str!("../keys/p256.private.pem");
const PUBLIC: &str = include_str!("../keys/p256.public.pem");

const FILE: &str = "auth = \"jwt\"
token_secret = \"a secret of the tests: 0123456789abcdef\"
token_keys = [\"public.pem\"]
token_issuer = \"tests\"
[[channels]]
pattern = \"inbox:{sub}\"
subscribe = \"owner\"
[[channels]]
prefix = \"room:\"
subscribe = \"token\"
publish = \"token\"
";

#[test]
fn a_token_is_made_and_explained() {
    for key in [&[][..], &["--key", "private.pem", "--kid", "k1"]] {
        let made = ["token", "--sub", "u1", "--channels", "room:*", "--channels", "x", "--groups", "g", "--ttl", "5m", "--jti", "t"];
        let (code, token, told) = type_in(FILE, &[&made[..], key].concat());
        assert_eq!((code, told.as_str()), (0, ""), "{told}");
        let (code, explained, _) = type_in(FILE, &["token", "--inspect", token.trim()]);
        assert_eq!(code, 0);
        for words in [
            if key.is_empty() { "\"alg\":\"HS256\"" } else { "\"alg\":\"ES256\"" },
            "\"channels\":[\"room:*\",\"x\"]",
            "\"groups\":[\"g\"]",
            "\"iss\":\"tests\"",
            "\"jti\":\"t\"",
            "verdict    taken: user u1, for ",
            "campanile.toml:6: pattern = \"inbox:{sub}\": subscribe inbox:u1; publish none",
            "campanile.toml:9: prefix = \"room:\": subscribe what fits room:*, x, group:g; publish none: the token has no `publish`",
            "otherwise  subscribe all, of those of users user:u1, of those of groups group:g; publish none: allow_client_publish is off",
        ] {
            assert!(explained.contains(words), "{words} is missing in\n{explained}");
        }
        let (exit, refused, _) = type_in(&FILE.replace("\"tests\"", "\"others\""), &["token", "--inspect", token.trim()]);
        assert!(exit == 1 && refused.contains("verdict    refused: the token's `iss`") && refused.contains("(issuer)"), "{refused}");
    }
}

#[test]
fn what_cannot_be_made_or_explained_is_told() {
    for (file, arguments, code, words) in [
        ("auth = \"jwt\"\ntoken_secret = \"short\"\n", &["config", "--explain", "a"][..], 2, "error: token_secret"),
        ("", &["token", "--sub", "u1"], 2, "give --key FILE, or set token_secret"),
        (FILE, &["token", "--sub", ""], 2, "must not be empty"),
        (FILE, &["token", "--sub", "u1", "--ttl", "soon"], 2, "--ttl: \"soon\" is not a duration"),
        (FILE, &["token", "--sub", "u1", "--channels", "a{b}"], 2, "a brace that is not part of {sub}"),
        (FILE, &["token", "--sub", "u1", "--groups", ""], 2, "that cannot be a name"),
        (FILE, &["config", "--explain", "a", "--user", "u1"], 2, "--user is for auth = \"query\""),
        (FILE, &["token", "--sub", "u1", "--key", "public.pem"], 1, "no private key"),
        (FILE, &["token", "--sub", "u1", "--key", "none.pem"], 1, "none.pem cannot be read"),
        (FILE, &["token"], 2, "--sub"),
        (FILE, &["config", "--explain", "a\nb"], 2, "control character"),
        (FILE, &["config", "--token", "x"], 2, "--explain"),
    ] {
        let (exit, _, told) = type_in(file, arguments);
        assert!(exit == code && told.contains(words), "{arguments:?}: {exit} {told}");
        assert!(!told.contains("0123456789abcdef"), "{told}");
    }
    let (_, explained, _) = type_in(FILE, &["token", "--inspect", "no.token"]);
    assert!(explained.contains("header     not JSON in base64url") && explained.contains("(malformed)"), "{explained}");
}

#[test]
fn the_rule_that_decides_is_explained() {
    let explain = |arguments: &[&str]| {
        let (code, told, error) = type_in(FILE, &[&["config", "--explain"], arguments].concat());
        assert_eq!(code, 0, "{error}");
        told
    };
    let claims = json!({"sub": "u1", "exp": now_s() + 60, "iss": "tests", "channels": ["room:1"]});
    let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    for (arguments, expected) in [
        (
            &["room:1", "--token", &token][..],
            &[
                "campanile.toml:9: [[channels]] prefix = \"room:\"",
                "client           u1",
                "token (this client may)",
                "publish          token (this client may not: the token does not name it)",
                "history_count    0",
            ][..],
        ),
        (&["room:2", "--token", &token], &["subscribe        token (this client may not: the token does not name it)"]),
        (&["inbox:u1", "--token", &token], &["owner (this client may)"]),
        (
            &["inbox:u2"],
            &[
                "campanile.toml:6: [[channels]] pattern = \"inbox:{sub}\"",
                "owner (a client with a token that says nothing of it (--token tells of one) may not: only the user",
            ],
        ),
        (
            &["news"],
            &["no table of [[channels]] is for it", "auto (a client with a token that says nothing of it (--token tells of one) may)"],
        ),
        (&["news", "--token", "x"], &["client           nobody: this is no JSON Web Token"]),
    ] {
        let told = explain(arguments);
        for words in expected {
            assert!(told.contains(words), "{words} is missing in\n{told}");
        }
    }
}

/// Rules are kept by the real server, and a client that may publish does.
#[test]
fn rules_hold_on_the_wire() {
    let server = start("[[channels]]\nprefix = \"room:\"\nsubscribe = \"token\"\npublish = \"token\"\n");
    let claims = json!({"sub": "u1", "exp": now_s() + 60, "channels": ["room:*"], "publish": ["room:1"]});
    let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    let mut client = Client::connect(server.listen, &format!("/ws/room:1?format=json&token={token}"));
    assert_eq!((&client.event()["type"], &client.event()["type"]), (&json!("connected"), &json!("subscribed")));
    client.command(json!({"type": "publish", "channel": "room:2", "data": 1, "id": 1}));
    let error = client.event();
    assert_eq!((&error["code"], &error["channel"], &error["id"]), (&json!("not_allowed"), &json!("room:2"), &json!(1)));
    client.command(json!({"type": "publish", "channel": "room:1", "data": "hello", "id": 2}));
    let mut types: Vec<Value> = (0..2).map(|_| client.event()["type"].clone()).collect();
    types.sort_by_key(Value::to_string);
    assert_eq!(types, ["notification", "published"]);
    assert_eq!(server.metric("campanile_not_allowed_total", ""), 1.0);
}
