//! Keys and tokens: every kind that is taken, and whatever is not.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::identity::Identity;
use super::keys::Keys;
use super::token::TokenReason::{
    self, Algorithm as WrongAlgorithm, Audience, Claim, Critical, Expired, Issuer, Malformed, NotYetValid, Signature, TooLong, UnknownKey,
};
use super::token::{Policy, TokenError, Verifier};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_S: u64 = 1_800_000_000;

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A pair of keys, as PEM, and what of the public one stands in a JWK.
struct Pair {
    private: String,
    public: String,
    jwk: Value,
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &str, bytes: usize) -> Pair {
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Pair {
        private: pem("PRIVATE KEY", document.as_ref()),
        public: pem("PUBLIC KEY", der.as_ref()),
        jwk: json!({"kty": "EC", "crv": curve, "x": base64url(&point[..bytes]), "y": base64url(&point[bytes..])}),
    }
}

static P256: LazyLock<Pair> = LazyLock::new(|| ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32));
static P384: LazyLock<Pair> = LazyLock::new(|| ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", 48));
static ED25519: LazyLock<Pair> = LazyLock::new(|| {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Pair {
        private: pem("PRIVATE KEY", document.as_ref()),
        public: pem("PUBLIC KEY", der.as_ref()),
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())}),
    }
});
static RSA: LazyLock<Pair> = LazyLock::new(|| {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let (modulus, exponent) = (pair.public_key().modulus(), pair.public_key().exponent());
    Pair {
        private: pem("PRIVATE KEY", private.as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
        jwk: json!({
            "kty": "RSA",
            "n": base64url(modulus.big_endian_without_leading_zero()),
            "e": base64url(exponent.big_endian_without_leading_zero()),
        }),
    }
});

fn keys(texts: &[&str]) -> Result<Keys, String> {
    let mut keys = Keys::default();
    for text in texts {
        keys.add_text(text).map_err(|error| error.to_string())?;
    }
    Ok(keys)
}

fn policy() -> Policy {
    Policy { bytes_max: 4096, leeway_s: 30, warning_s: 60, issuer: None, audience: None }
}

fn with_secret(policy: Policy) -> Verifier {
    let mut keys = Keys::default();
    keys.add_secret(SECRET).unwrap();
    Verifier::new(keys, policy)
}

fn claims() -> Value {
    json!({"sub": "u1", "exp": NOW_S + 100})
}

/// Signed with the secret.
fn token(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

/// The same from parts as they are, signed all the same.
fn raw_token(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn verify(verifier: &Verifier, token: &str) -> Result<Identity, TokenError> {
    verifier.look(token.as_bytes())?.verify(NOW_S * 1000)
}

fn refused(verifier: &Verifier, token: &str) -> TokenReason {
    verify(verifier, token).expect_err(token).reason
}

/// With a claim, or without it.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn every_algorithm_verifies_what_it_signed() {
    let secret = EncodingKey::from_secret(SECRET);
    let ec = |pair: &Pair| EncodingKey::from_ec_pem(pair.private.as_bytes()).unwrap();
    let rsa = EncodingKey::from_rsa_pem(RSA.private.as_bytes()).unwrap();
    let ed = EncodingKey::from_ed_pem(ED25519.private.as_bytes()).unwrap();
    let mut all = keys(&[&P256.public, &P384.public, &ED25519.public, &RSA.public]).unwrap();
    all.add_secret(SECRET).unwrap();
    let all = Verifier::new(all, policy());
    for (algorithm, key, cost) in [
        (Algorithm::HS256, &secret, 1),
        (Algorithm::HS384, &secret, 1),
        (Algorithm::HS512, &secret, 1),
        (Algorithm::RS256, &rsa, 10),
        (Algorithm::RS384, &rsa, 10),
        (Algorithm::RS512, &rsa, 10),
        (Algorithm::PS256, &rsa, 10),
        (Algorithm::PS384, &rsa, 10),
        (Algorithm::PS512, &rsa, 10),
        (Algorithm::ES256, &ec(&P256), 28),
        (Algorithm::ES384, &ec(&P384), 28),
        (Algorithm::EdDSA, &ed, 28),
    ] {
        let token = encode(&Header::new(algorithm), &claims(), key).unwrap();
        assert_eq!(verify(&all, &token).unwrap().user(), "u1", "{algorithm:?}");
        assert_eq!(all.look(token.as_bytes()).unwrap().cost(), cost, "{algorithm:?}");
    }
}

/// Another key of the same kind.
#[test]
fn a_strangers_token_is_not_taken() {
    let stranger = ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32);
    let verifier = Verifier::new(keys(&[&stranger.public, &ED25519.public, &RSA.public]).unwrap(), policy());
    let token = encode(&Header::new(Algorithm::ES256), &claims(), &EncodingKey::from_ec_pem(P256.private.as_bytes()).unwrap()).unwrap();
    assert_eq!(refused(&verifier, &token), Signature);
    let other = encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(&[7; 32])).unwrap();
    assert_eq!(refused(&with_secret(policy()), &other), Signature);
}

/// The classic one: a public key is known to all, and must not serve as a secret.
#[test]
fn an_algorithm_is_the_keys_and_not_the_tokens() {
    let verifier = Verifier::new(keys(&[&RSA.public]).unwrap(), policy());
    for secret in [RSA.public.as_bytes(), RSA.public.trim_end().as_bytes()] {
        let forged = encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(refused(&verifier, &forged), WrongAlgorithm);
    }
    let secret = with_secret(policy());
    for alg in ["none", "None", "NONE", "", "HS1", "ES256K", "ES512", "hs256"] {
        let token = raw_token(&format!(r#"{{"alg":"{alg}"}}"#), &claims().to_string());
        assert_eq!(refused(&secret, &token), WrongAlgorithm, "{alg}");
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(refused(&secret, &unsigned), WrongAlgorithm, "{alg}");
    }
    // The JWK says which one of RSA's.
    let mut jwk = RSA.jwk.clone();
    jwk["alg"] = "PS256".into();
    let only = Verifier::new(keys(&[&json!({"keys": [jwk]}).to_string()]).unwrap(), policy());
    let rsa = EncodingKey::from_rsa_pem(RSA.private.as_bytes()).unwrap();
    let signed = |algorithm| encode(&Header::new(algorithm), &claims(), &rsa).unwrap();
    assert!(verify(&only, &signed(Algorithm::PS256)).is_ok());
    assert_eq!(refused(&only, &signed(Algorithm::RS256)), WrongAlgorithm);
}

#[test]
fn a_key_is_found_by_its_id() {
    let named = |pair: &Pair, id: &str| {
        let mut jwk = pair.jwk.clone();
        jwk["kid"] = id.into();
        jwk
    };
    let set = json!({"keys": [named(&P256, "a"), named(&P384, "b"), named(&ED25519, "c"), named(&RSA, "d")]}).to_string();
    let verifier = Verifier::new(keys(&[&set]).unwrap(), policy());
    let key = EncodingKey::from_ec_pem(P256.private.as_bytes()).unwrap();
    let signed = |id: Option<&str>| {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims(), &key).unwrap()
    };
    assert!(verify(&verifier, &signed(Some("a"))).is_ok() && verify(&verifier, &signed(None)).is_ok());
    assert_eq!(refused(&verifier, &signed(Some("b"))), WrongAlgorithm);
    assert_eq!(refused(&verifier, &signed(Some("x"))), UnknownKey);
    // A key without an id serves for every id that no other has.
    let with_pem = Verifier::new(keys(&[&set, &P256.public]).unwrap(), policy());
    assert!(verify(&with_pem, &signed(Some("x"))).is_ok());
    // The same id twice: both are tried.
    let twice = json!({"keys": [named(&ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32), "a"), named(&P256, "a")]}).to_string();
    assert!(verify(&Verifier::new(keys(&[&twice]).unwrap(), policy()), &signed(Some("a"))).is_ok());
}

#[test]
fn what_is_no_key_says_why() {
    let private_label = RSA.private.replace("PRIVATE KEY", "RSA PRIVATE KEY");
    let small = pem("RSA PUBLIC KEY", &[0x30, 0x08, 0x02, 0x03, 0x01, 0x00, 0x01, 0x02, 0x01, 0x03]);
    // The OID of P-256 with another one's, secp256k1: a point of the same length.
    let other_curve = {
        let der = STANDARD.decode(P256.public.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
        let (p256, k256) = ([0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07], [0x2B, 0x81, 0x04, 0x00, 0x0A]);
        let at = der.windows(8).position(|window| window == p256).unwrap();
        let mut changed = [&der[..at], &k256[..], &der[at + 8..]].concat();
        changed[1] -= 3;
        changed[3] -= 3;
        changed[at - 1] = 5;
        // And a point that is on neither.
        *changed.last_mut().unwrap() ^= 1;
        pem("PUBLIC KEY", &changed)
    };
    for (text, words) in [
        ("", "neither PEM"),
        ("hello", "neither PEM"),
        ("{", "not JSON"),
        ("{}", "no `keys`"),
        (r#"{"keys":{}}"#, "no list"),
        (r#"{"keys":[]}"#, "holds no key"),
        (&RSA.private, "private key"),
        (&private_label, "private key"),
        (&pem("EC PRIVATE KEY", b"x"), "private key"),
        (&pem("CERTIFICATE", b"x"), "certificate"),
        (&pem("PGP MESSAGE", b"x"), "no public key"),
        (&pem("PUBLIC KEY", b"x"), "not one of RSA"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA", "no end"),
        (&small, "RSA key of 17 bits"),
        (&other_curve, "no elliptic curve key"),
    ] {
        let error = keys(&[text]).expect_err(text);
        assert!(error.contains(words), "{text}: {error}");
    }
    for (jwk, words) in [
        (json!({"kty": "oct", "k": base64url(b"short")}), "5 bytes"),
        (json!({"kty": "oct"}), "no `k`"),
        (json!({"kty": "oct", "k": "***"}), "base64url"),
        (json!({"kty": "DSA"}), "`kty`"),
        (json!({}), "no `kty`"),
        (json!(7), "no `kty`"),
        (json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}), "P-256 nor P-384"),
        (json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), "wrong length"),
        (json!({"kty": "EC", "crv": "P-256", "x": base64url(&[7; 32]), "y": base64url(&[7; 32])}), "not on the curve"),
        (json!({"kty": "OKP", "crv": "X25519", "x": "AA"}), "not Ed25519"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "no Ed25519"),
        (json!({"kty": "RSA", "n": base64url(&[0xFF; 128]), "e": "AQAB"}), "1024 bits"),
        (json!({"kty": "RSA", "n": RSA.jwk["n"], "e": "AQAB", "alg": "RSA-OAEP"}), "`alg`"),
        (json!({"kty": "RSA", "n": RSA.jwk["n"], "e": "AQAB", "alg": "ES256"}), "`alg`"),
        (json!({"kty": "RSA", "n": RSA.jwk["n"], "e": "AQAB", "use": "enc"}), "`use`"),
        (json!({"kty": "RSA", "n": RSA.jwk["n"], "e": "AQAB", "key_ops": ["encrypt"]}), "`key_ops`"),
    ] {
        let error = keys(&[&json!({"keys": [jwk]}).to_string()]).expect_err(&jwk.to_string());
        assert!(error.contains(words), "{jwk}: {error}");
        // Beside one that is good it is passed over, and said.
        let beside = keys(&[&json!({"keys": [jwk, P256.jwk]}).to_string()]).unwrap();
        assert_eq!((beside.len(), beside.ignored().len()), (1, 1), "{jwk}");
        assert!(beside.ignored()[0].starts_with("key 1: ") && beside.ignored()[0].contains(words), "{:?}", beside.ignored());
    }
}

#[test]
fn keys_come_from_files_of_a_bounded_size() {
    let folder = std::env::temp_dir().join(format!("campanile-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut keys = Keys::default();
    keys.add_file(&file("two.pem", &format!("# ours\n{}\n{}", P256.public, RSA.public))).unwrap();
    keys.add_file(&file("one.json", &P384.jwk.to_string())).unwrap();
    assert_eq!(keys.len(), 3);
    let error = keys.add_file(&folder.join("none")).unwrap_err().to_string();
    assert!(error.contains("none cannot be read"), "{error}");
    let error = keys.add_file("/dev/zero".as_ref()).unwrap_err().to_string();
    assert!(error.contains("larger than"), "{error}");
    let many = json!({"keys": vec![P256.jwk.clone(); 40]}).to_string();
    let error = keys.add_file(&file("many.json", &many)).unwrap_err().to_string();
    assert!(error.ends_with("many.json: there are more than 32 keys"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_short_secret_is_none() {
    for secret in [&b""[..], &SECRET[..31]] {
        let error = Keys::default().add_secret(secret).unwrap_err().to_string();
        assert!(error.contains("needs 32 at least"), "{error}");
    }
}

#[test]
fn claims_are_judged() {
    let verifier = with_secret(policy());
    assert!(verify(&verifier, &token(&claims())).is_ok());
    for (claims, reason) in [
        (without("exp"), Claim),
        (with("exp", json!(null)), Claim),
        (with("exp", json!("1900000000")), Claim),
        (with("exp", json!([NOW_S + 5])), Claim),
        (with("exp", json!(-1)), Expired),
        (with("exp", json!(0)), Expired),
        (with("exp", json!(NOW_S - 30)), Expired),
        (with("exp", json!(NOW_S as f64 - 30.5)), Expired),
        (with("nbf", json!(NOW_S + 31)), NotYetValid),
        (with("nbf", json!("now")), Claim),
        (without("sub"), Claim),
        (with("sub", json!(7)), Claim),
        (with("sub", json!("")), Claim),
        (with("sub", json!("x".repeat(251))), Claim),
        (with("sub", json!("a\nb")), Claim),
        (with("jti", json!(7)), Claim),
        (with("aud", json!("somebody")), Audience),
        (with("aud", json!([])), Audience),
        (with("channels", json!("news")), Claim),
        (with("channels", json!([7])), Claim),
        (with("channels", json!(["a{b}"])), Claim),
        (with("publish", json!({"news": true})), Claim),
        (with("groups", json!([["a"]])), Claim),
        (with("groups", json!(["a\nb"])), Claim),
        (with("groups", json!([""])), Claim),
        (with("channels", json!(["a\nb"])), Claim),
    ] {
        assert_eq!(refused(&verifier, &token(&claims)), reason, "{claims}");
    }
    for claims in [
        with("exp", json!(NOW_S - 29)),
        with("exp", json!(NOW_S as f64 + 0.5)),
        with("exp", json!(u64::MAX)),
        with("exp", json!(1e300)),
        with("nbf", json!(NOW_S + 30)),
        with("nbf", json!(null)),
        with("iss", json!(["any", 7])),
        with("iat", json!("whatever")),
        with("channels", json!(null)),
        with("other", json!({"deep": [[[[]]]]})),
    ] {
        assert!(verify(&verifier, &token(&claims)).is_ok(), "{claims}");
    }
    // Of an old token it is said that it is old, whatever else is wrong with it.
    let mut old = with("exp", json!(5));
    old["channels"] = json!(7);
    assert_eq!(refused(&verifier, &token(&old)), Expired);
}

#[test]
fn issuer_and_audience_are_asked_for_where_they_are_set() {
    let verifier = with_secret(Policy { issuer: Some("https://id.example".to_owned()), audience: Some("live".to_owned()), ..policy() });
    let token = |iss: Value, aud: Value| {
        let mut claims = claims();
        (claims["iss"], claims["aud"]) = (iss, aud);
        token(&claims)
    };
    let issuer = || json!("https://id.example");
    assert!(verify(&verifier, &token(issuer(), json!("live"))).is_ok());
    assert!(verify(&verifier, &token(issuer(), json!(["other", "live"]))).is_ok());
    for (iss, aud, reason) in [
        (json!(null), json!("live"), Issuer),
        (json!("https://id.example/"), json!("live"), Issuer),
        (json!(["https://id.example"]), json!("live"), Issuer),
        (json!(7), json!("live"), Issuer),
        (issuer(), json!(null), Audience),
        (issuer(), json!("Live"), Audience),
        (issuer(), json!(["other"]), Audience),
        (issuer(), json!(["live", 7]), Audience),
        (issuer(), json!(7), Audience),
    ] {
        assert_eq!(refused(&verifier, &token(iss.clone(), aud.clone())), reason, "{iss} {aud}");
    }
}

#[test]
fn what_is_no_token_is_none() {
    let verifier = with_secret(policy());
    let good = token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let header = r#"{"alg":"HS256"}"#;
    let longest = "x".repeat(4096);
    for (token, reason) in [
        (String::new(), Malformed),
        (".".to_owned(), Malformed),
        ("..".to_owned(), Malformed),
        ("a.b.c".to_owned(), Malformed),
        (parts[..2].join("."), Malformed),
        (format!("{good}.x"), Malformed),
        (format!("{good}."), Malformed),
        (format!("x.{good}"), Malformed),
        (good.replace('.', ","), Malformed),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), Malformed),
        (format!(" {good}"), Malformed),
        (raw_token("{}", &claims().to_string()), Malformed),
        (raw_token("[]", &claims().to_string()), Malformed),
        (raw_token(r#"{"alg":"HS256","alg":"none"}"#, &claims().to_string()), Malformed),
        (raw_token(r#"{"alg":7}"#, &claims().to_string()), Malformed),
        (raw_token(r#"{"alg":"HS256","kid":7}"#, &claims().to_string()), Malformed),
        (raw_token(r#"{"alg":"HS256","crit":["exp"]}"#, &claims().to_string()), Critical),
        (raw_token(r#"{"alg":"HS256","crit":[]}"#, &claims().to_string()), Critical),
        (raw_token(r#"{"alg":"HS256","crit":null}"#, &claims().to_string()), Critical),
        (raw_token(header, "not JSON"), Malformed),
        (raw_token(header, "[]"), Malformed),
        (raw_token(header, r#"{"sub":"a","sub":"b","exp":1900000000}"#), Malformed),
        (format!("{}.{}.", parts[0], parts[1]), Signature),
        (format!("{}.{}.{}", parts[0], parts[1], &parts[2][1..]), Signature),
        (format!("{}.{}.{}", parts[0], base64url(br#"{"sub":"root","exp":1900000000}"#), parts[2]), Signature),
        (longest.clone(), Malformed),
        (longest + "x", TooLong),
    ] {
        assert_eq!(refused(&verifier, &token), reason, "{token}");
    }
    assert_eq!(verifier.look(b"\xff.\xff.\xff").unwrap_err().reason, Malformed);
    let deep = format!(r#"{{"sub":"u","exp":{},"x":{}{}}}"#, NOW_S + 1, "[".repeat(1000), "]".repeat(1000));
    // Whatever it comes to, it comes to something.
    let _ = verify(&verifier, &raw_token(header, &deep));
}

#[test]
fn a_bearer_is_believed_until_one_moment_wherever_it_is_asked() {
    let verifier = with_secret(policy());
    let identity = verify(&verifier, &token(&claims())).unwrap();
    let ends_ms = (NOW_S + 130) * 1000;
    assert_eq!((verifier.warns_ms(&identity), verifier.ends_ms(&identity)), (Some((NOW_S + 40) * 1000), ends_ms));
    for (now_ms, is_good) in [(ends_ms - 1, true), (ends_ms, false)] {
        assert_eq!(verifier.check_time(&identity, now_ms).is_ok(), is_good);
        assert_eq!(verifier.look(token(&claims()).as_bytes()).unwrap().verify(now_ms).is_ok(), is_good);
    }
    let forever = Identity::of_user("u").unwrap();
    assert_eq!((verifier.warns_ms(&forever), verifier.ends_ms(&forever)), (None, u64::MAX));
    let silent = with_secret(Policy { warning_s: 0, ..policy() });
    assert_eq!(silent.warns_ms(&identity), None);
}

#[test]
fn what_a_token_lets_its_bearer_have() {
    let verifier = with_secret(policy());
    let mut claims = claims();
    claims["jti"] = "t-1".into();
    claims["channels"] = json!(["room:*", "user:{sub}"]);
    claims["publish"] = json!(["room:1"]);
    claims["groups"] = json!(["admins"]);
    let identity = verify(&verifier, &token(&claims)).unwrap();
    assert_eq!((identity.user(), identity.token_id(), identity.expires_s()), ("u1", "t-1", Some(NOW_S + 100)));
    assert!(identity.may_hear("user:u1") && identity.may_publish("room:1") && identity.is_in_group("admins"));
}

/// However many claims a token has: what is kept of it is no more than its length says.
#[test]
fn what_is_kept_of_a_token_is_bounded_by_its_length() {
    let verifier = with_secret(policy());
    for (name, list) in [("channels", vec!["a"; 700]), ("groups", vec!["g"; 700]), ("publish", vec!["news:*"; 200])] {
        let token = token(&with(name, json!(list)));
        assert!(token.len() <= 4096, "{}", token.len());
        let bytes = verify(&verifier, &token).unwrap().heap_bytes();
        assert!(bytes <= super::identity::heap_bytes_max(token.len()), "{bytes} of {}", token.len());
    }
    let small = token(&claims());
    assert!(verify(&verifier, &small).unwrap().heap_bytes() <= super::identity::heap_bytes_max(small.len()));
}

/// Nothing that is told quotes the token.
#[test]
fn every_reason_has_words() {
    for reason in TokenReason::ALL {
        let TokenError { text, .. } = reason.into();
        assert!(text.len() > 10 && !text.ends_with('.') && !text.contains('{'), "{reason:?}: {text}");
    }
}

proptest! {
    #[test]
    fn random_tokens_never_panic(token in prop::collection::vec(any::<u8>(), 0..300)) {
        let verifier = with_secret(policy());
        if let Ok(signed) = verifier.look(&token) {
            prop_assert!(signed.verify(NOW_S * 1000).is_err());
        }
    }

    #[test]
    fn random_claims_never_panic(claims in crate::wire::json::tests::any_value(), name in "exp|nbf|iss|aud|sub|jti|channels|publish|groups") {
        let verifier = with_secret(policy());
        let _ = verify(&verifier, &token(&with(&name, claims.clone())));
        let _ = verify(&verifier, &raw_token(r#"{"alg":"HS256"}"#, &claims.to_string()));
        let _ = verify(&verifier, &raw_token(&claims.to_string(), "{}"));
    }

    #[test]
    fn a_changed_token_is_not_taken(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let verifier = with_secret(policy());
        let good = token(&claims());
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        let taken = verifier.look(&bytes).and_then(|signed| signed.verify(NOW_S * 1000));
        prop_assert!(taken.is_err());
    }
}
