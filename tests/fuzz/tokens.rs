//! Tokens and keys: nothing that no key of ours has signed is believed, whatever it claims.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use campanile::auth::keys::Keys;
use campanile::auth::mint::Signer;
use campanile::auth::token::{Policy, Verifier};
use serde_json::{Value, json};

use crate::mutate::mutated;
use crate::seeds::texts;

const SECRET: &str = "a secret of the tests: 0123456789abcdef";
const PRIVATE: &str = include_str!("../keys/p256.private.pem");
const PUBLIC: &str = include_str!("../keys/p256.public.pem");
const NOW_MS: u64 = 1_767_225_600_000;
const EXP: u64 = NOW_MS / 1000 + 60;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let mut keys = Keys::default();
    keys.add_secret(SECRET.as_bytes()).unwrap();
    keys.add_text(PUBLIC).unwrap();
    Verifier::new(keys, Policy { bytes_max: 4096, leeway_s: 5, warning_s: 0, issuer: None, audience: None })
});

fn claims() -> Value {
    json!({"sub": "u1", "exp": EXP, "nbf": EXP - 100, "jti": "t1", "channels": ["room:*", "user:{sub}"], "publish": ["a"], "groups": ["g"]})
}

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Signed by us.
fn good() -> Vec<Vec<u8>> {
    let secret = Signer::of_secret(SECRET.as_bytes()).unwrap();
    let key = Signer::of_pem(PRIVATE).unwrap();
    [&secret, &key].map(|signer| signer.sign(&claims()).unwrap().into_bytes()).into()
}

/// The secret's signature of any header and claims.
fn signed(header: &[u8], claims: &[u8]) -> Vec<u8> {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref())).into_bytes()
}

/// Signed with the public key as a secret, or by nobody.
fn forged() -> Vec<Vec<u8>> {
    let claims = encoded(&claims().to_string());
    let message = format!("{}.{claims}", encoded(r#"{"alg":"HS256"}"#));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, PUBLIC.as_bytes()), message.as_bytes());
    let mut forged = vec![format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref())).into_bytes()];
    for alg in ["none", "None", "", "HS256", "ES256", "RS256", "EdDSA"] {
        let header = encoded(&format!(r#"{{"alg":"{alg}"}}"#));
        forged.push(format!("{header}.{claims}.").into_bytes());
        forged.push(format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([0; 64])).into_bytes());
    }
    forged
}

#[test]
fn tokens() {
    let good = good();
    let is_ours = |token: &[u8]| {
        let message = |token: &[u8]| token.iter().rposition(|byte| *byte == b'.').map(|at| token[..at].to_vec());
        good.iter().any(|good| message(good) == message(token))
    };
    for token in &good {
        VERIFIER.look(token).unwrap().verify(NOW_MS).unwrap();
    }
    let seeds: Vec<Vec<u8>> = good.iter().cloned().chain(forged()).collect();
    let words: &[&[u8]] =
        &[b".", b"..", b"=", b"A", b"eyJhbGciOiJub25lIn0", b"eyJhbGciOiJIUzI1NiJ9", b"e30", b"-", b"_", b"+", b"/", b"\xff"];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|token: &Vec<u8>| {
        if let Ok(signed) = VERIFIER.look(token) {
            assert!(signed.cost() > 0);
            if let Ok(identity) = signed.verify(NOW_MS) {
                assert!(is_ours(token), "{} is believed to be of {}", String::from_utf8_lossy(token), identity.user());
            }
        }
    });
}

/// What whoever has a key may get wrong, or try.
#[test]
fn claims_that_are_signed() {
    let seeds = [
        claims().to_string(),
        json!({"sub": "é", "exp": EXP as f64 + 0.5, "channels": [], "aud": null, "iss": null}).to_string(),
        json!({"sub": "a\"b", "exp": 1e18, "nbf": -1, "groups": ["a b"]}).to_string(),
    ];
    let words: &[&[u8]] = &[
        b"\"exp\":",
        b"\"nbf\":",
        b"\"sub\":",
        b"\"aud\":\"x\",",
        b"\"crit\":[],",
        b"null",
        b"{}",
        b"[]",
        b"1e999",
        b"-1",
        b"\"\"",
        b"\\u0000",
        b"\\n",
        b"***",
        b"{sub}",
        b"\xff",
    ];
    bolero::check!().with_generator(mutated(seeds.map(String::into_bytes), words)).for_each(|claims: &Vec<u8>| {
        let token = signed(br#"{"alg":"HS256","typ":"JWT"}"#, claims);
        let Ok(identity) = VERIFIER.look(&token).and_then(|signed| signed.verify(NOW_MS)) else { return };
        // As others read the same claims, it has not expired, has begun, and is that user's.
        // A number beyond every double, in a claim that nobody looks at, is none to them.
        let Ok(claims) = serde_json::from_slice::<Value>(claims) else { return };
        assert!(claims["exp"].as_f64().expect("a number") + 5.0 > NOW_MS as f64 / 1000.0, "{claims}");
        assert!(
            claims.get("nbf").is_none_or(|nbf| nbf.is_null() || nbf.as_f64().expect("a number") < NOW_MS as f64 / 1000.0 + 6.0),
            "{claims}"
        );
        assert!(claims.get("aud").is_none_or(Value::is_null), "{claims}");
        assert_eq!(claims["sub"], identity.user());
        assert!(!identity.user().contains(char::is_control) && !identity.user().is_empty());
        let _ = (identity.may_hear("room:1"), identity.may_publish("a"), identity.is_in_group("g"));
    });
}

#[test]
fn headers_that_are_signed() {
    let seeds = texts(&[r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"alg":"ES256","kid":"k1"}"#, r#"{"alg":"HS256","crit":["exp"],"exp":1}"#]);
    let words: &[&[u8]] = &[
        b"\"alg\":\"none\"",
        b"\"alg\":\"HS512\"",
        b"\"alg\":\"ES256\"",
        b"\"kid\":",
        b"\"crit\":",
        b"null",
        b"[]",
        b"\"jwk\":{}",
        b"\"b64\":false",
        b",",
        b"\xff",
    ];
    let claims = claims().to_string();
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|header: &Vec<u8>| {
        let token = signed(header, claims.as_bytes());
        if VERIFIER.look(&token).and_then(|signed| signed.verify(NOW_MS)).is_ok() {
            let Ok(header) = serde_json::from_slice::<Value>(header) else { return };
            assert_eq!(header["alg"], "HS256", "{header}");
            assert!(header.get("crit").is_none_or(Value::is_null), "{header}");
        }
    });
}

#[test]
fn files_of_keys() {
    let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let seeds = [
        PUBLIC.to_owned(),
        json!({"keys": [
            {"kty": "oct", "kid": "k1", "k": base64(SECRET.as_bytes()), "alg": "HS256"},
            {"kty": "EC", "crv": "P-256", "x": base64(&[1; 32]), "y": base64(&[2; 32]), "use": "sig", "key_ops": ["verify"]},
            {"kty": "RSA", "n": base64(&[0xC3; 256]), "e": "AQAB"},
            {"kty": "OKP", "crv": "Ed25519", "x": base64(&[3; 32])},
        ]})
        .to_string(),
    ];
    let words: &[&[u8]] = &[
        b"\"kty\":",
        b"\"oct\"",
        b"null",
        b"[]",
        b"{}",
        b"\"\"",
        b"-----BEGIN PUBLIC KEY-----\n",
        b"-----END PUBLIC KEY-----\n",
        b"PRIVATE",
        b"AQAB",
    ];
    bolero::check!().with_generator(mutated(seeds.map(String::into_bytes), words)).for_each(|text: &Vec<u8>| {
        let Ok(text) = std::str::from_utf8(text) else { return };
        let mut keys = Keys::default();
        if let Err(error) = keys.add_text(text) {
            // Secrets of a file are not told.
            assert!(!error.to_string().contains(&base64(SECRET.as_bytes())), "{error}");
        }
        assert!(keys.ignored().iter().all(|line| !line.contains(&base64(SECRET.as_bytes()))));
        let verifier = Verifier::new(keys, Policy { bytes_max: 4096, ..Policy::default() });
        for forged in forged() {
            let believed = verifier.look(&forged).and_then(|signed| signed.verify(NOW_MS));
            assert!(believed.is_err(), "{}", String::from_utf8_lossy(&forged));
        }
    });
}
