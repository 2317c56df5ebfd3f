//! What tokens are verified by: a secret, PEM files, JWKS files (RFC 7517). Each key has its algorithms, and serves for no other.
//!
//! Read at start, at a reload, and to check the settings; from a URL by [`crate::control`]. Invariant: a key that could never verify anything is no key: whoever loads it is told why, and
//! not their clients one by one.

use std::fmt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::Value;

use crate::limits::auth::{KEY_FILE_BYTES_MAX, KEYS_MAX, SECRET_BYTES_MIN};

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// One key, and what it may be used for.
#[derive(Debug, Clone)]
pub struct Key {
    /// `kid`; None: of a secret or a PEM file.
    id: Option<Box<str>>,
    decoding: DecodingKey,
    /// Of a secret, for each of [`HMAC`]: what the library would make anew for each token.
    macs: Option<Box<[hmac::Key; 3]>>,
    algorithms: &'static [Algorithm],
}

impl Key {
    fn new(decoding: DecodingKey, algorithms: &'static [Algorithm]) -> Key {
        Key { id: None, decoding, macs: None, algorithms }
    }

    fn of_secret(secret: &[u8], algorithms: &'static [Algorithm]) -> Key {
        let macs = [hmac::HMAC_SHA256, hmac::HMAC_SHA384, hmac::HMAC_SHA512].map(|algorithm| hmac::Key::new(algorithm, secret));
        Key { macs: Some(macs.into()), ..Key::new(DecodingKey::from_secret(secret), algorithms) }
    }

    /// Whether this is the message's signature, as it stands in a token.
    pub(super) fn has_signed(&self, message: &[u8], signature: &str, algorithm: Algorithm) -> bool {
        let mac = self.macs.as_ref().zip(HMAC.iter().position(|other| *other == algorithm)).map(|(macs, at)| &macs[at]);
        let Some(mac) = mac else {
            return crypto::verify(signature, message, &self.decoding, algorithm) == Ok(true);
        };
        // As long as the longest of them, and room for what the decoder rounds up.
        let mut tag = [0; 66];
        let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut tag);
        length.is_ok_and(|length| hmac::verify(mac, message, &tag[..length]).is_ok())
    }

    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// All keys that tokens may be signed with.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Vec<Key>,
    /// Of the texts that they were read from: other texts are other keys.
    digests: Vec<[u8; 32]>,
    /// Entries of JWKS files that are of no use here, and why not.
    ignored: Vec<String>,
}

/// Why a key cannot be had. Quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(String);

impl fmt::Display for KeyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

impl KeyError {
    pub(super) fn new(message: &str) -> KeyError {
        KeyError(message.to_owned())
    }
}

fn error<T>(message: impl Into<String>) -> Result<T, KeyError> {
    Err(KeyError(message.into()))
}

impl Keys {
    pub fn add_secret(&mut self, secret: &[u8]) -> Result<(), KeyError> {
        check_secret(secret)?;
        self.note(secret);
        self.add(Key::of_secret(secret, HMAC))
    }

    /// A PEM file with one key or more, or a JWKS file.
    pub fn add_file(&mut self, path: &Path) -> Result<(), KeyError> {
        use std::io::Read as _;
        let mut text = String::new();
        // Bounded while it is read: a device has no length.
        std::fs::File::open(path)
            .and_then(|file| file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|reason| KeyError(format!("{} cannot be read: {reason}", path.display())))?;
        if text.len() as u64 > KEY_FILE_BYTES_MAX {
            return error(format!("{} is larger than {KEY_FILE_BYTES_MAX} bytes", path.display()));
        }
        self.add_text(&text).map_err(|reason| KeyError(format!("{}: {reason}", path.display())))
    }

    /// What such a file holds.
    pub fn add_text(&mut self, text: &str) -> Result<(), KeyError> {
        match text.trim_start() {
            text if text.starts_with('{') => self.add_jwks(text, Trust::Own),
            text if text.contains("-----BEGIN ") => {
                self.note(text.as_bytes());
                self.add_pem(text)
            }
            _ => error("it is neither PEM (-----BEGIN PUBLIC KEY-----) nor a JWKS document ({\"keys\":[…]})"),
        }
    }

    /// A JWKS document from elsewhere. Whoever publishes a secret has none, so those are left out.
    pub fn add_published(&mut self, document: &str) -> Result<(), KeyError> {
        self.add_jwks(document, Trust::Published)
    }

    /// Those of another place as well.
    pub fn add_all(&mut self, others: &Keys) -> Result<(), KeyError> {
        others.keys.iter().try_for_each(|key| self.add(key.clone()))?;
        self.digests.extend_from_slice(&others.digests);
        self.ignored.extend_from_slice(&others.ignored);
        Ok(())
    }

    /// Whether they are the same keys, in whatever order and spelling they came.
    pub fn is_like(&self, other: &Keys) -> bool {
        let sorted = |keys: &Keys| {
            let mut digests = keys.digests.clone();
            digests.sort_unstable();
            digests
        };
        sorted(self) == sorted(other)
    }

    fn note(&mut self, text: &[u8]) {
        self.digests.push(digest(&SHA256, text).as_ref().try_into().expect("SHA-256 has 32 bytes"));
    }

    fn add(&mut self, key: Key) -> Result<(), KeyError> {
        if self.keys.len() >= KEYS_MAX {
            return error(format!("there are more than {KEYS_MAX} keys"));
        }
        self.keys.push(key);
        Ok(())
    }

    fn add_pem(&mut self, text: &str) -> Result<(), KeyError> {
        for block in text.split("-----BEGIN ").skip(1) {
            self.add(pem_key(block)?)?;
        }
        Ok(())
    }

    fn add_jwks(&mut self, text: &str, trust: Trust) -> Result<(), KeyError> {
        let Ok(document) = serde_json::from_str::<Value>(text) else { return error("it is not JSON") };
        let entries = match document.get("keys") {
            Some(Value::Array(entries)) => entries.as_slice(),
            Some(_) => return error("its `keys` is no list"),
            // A key alone is a set of one.
            None if document.get("kty").is_some() => std::slice::from_ref(&document),
            None => return error("it has no `keys`"),
        };
        let before = self.keys.len();
        let mut ignored = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match jwk_key(entry, trust) {
                Ok(key) => {
                    self.add(key)?;
                    // As serde_json writes it: without spaces, members in the order of their names.
                    self.note(entry.to_string().as_bytes());
                }
                Err(reason) => ignored.push(format!("key {}: {reason}", index + 1)),
            }
        }
        if self.keys.len() == before {
            return error(match ignored.first() {
                Some(first) => format!("it holds no key that can be used; {first}"),
                None => "it holds no key".to_owned(),
            });
        }
        self.ignored.extend(ignored);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What JWKS files hold besides: one line for each entry.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Whether one of them has this `kid`.
    pub(super) fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// Those that a token of this `kid` may be signed with: those of that name, else those without one. A token that names none may be signed with any.
    pub(super) fn named(&self, id: Option<&str>) -> impl Iterator<Item = &Key> {
        let is_known = id.is_some_and(|id| self.has(id));
        self.keys.iter().filter(move |key| match id {
            None => true,
            Some(id) if is_known => key.id.as_deref() == Some(id),
            Some(_) => key.id.is_none(),
        })
    }
}

/// What guessing cannot find (RFC 7518, 3.2). The library would take an empty one.
pub fn check_secret(secret: &[u8]) -> Result<(), KeyError> {
    match secret.len() {
        SECRET_BYTES_MIN.. => Ok(()),
        bytes => {
            error(format!("it has {bytes} bytes, and a secret needs {SECRET_BYTES_MIN} at least; `openssl rand -base64 32` makes one"))
        }
    }
}

/// `block` follows `-----BEGIN `.
fn pem_key(block: &str) -> Result<Key, KeyError> {
    let label = block.split("-----").next().unwrap_or_default();
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        "CERTIFICATE" => return error("it holds a certificate, not a key; `openssl x509 -pubkey -noout` takes the key out of it"),
        label if label.ends_with("PRIVATE KEY") => {
            return error(
                "it holds a private key, which only whoever signs tokens should have; `openssl pkey -pubout` makes the public one",
            );
        }
        _ => return error("it holds a PEM block that is no public key (-----BEGIN PUBLIC KEY-----)"),
    }
    let end = format!("-----END {label}-----");
    let Some((body, _)) = block.split_once(&end) else { return error("its PEM block has no end") };
    let pem = format!("-----BEGIN {body}{end}\n");
    let pem = pem.as_bytes();
    // Each reader takes its own kind alone, but that of RSA believes the label.
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return usable(key, &[(&signature::ED25519, ED25519)], "Ed25519");
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        let curves: Curves = &[(&signature::ECDSA_P256_SHA256_FIXED, P256), (&signature::ECDSA_P384_SHA384_FIXED, P384)];
        return usable(key, curves, "elliptic curve key on P-256 or P-384");
    }
    let Ok(key) = DecodingKey::from_rsa_pem(pem) else { return error("its key is not one of RSA, P-256, P-384 or Ed25519") };
    let modulus = key.try_get_as_bytes().ok().and_then(|der| der_value(0x02, der_value(0x30, der)?));
    check_modulus(modulus.unwrap_or_default()).map_err(KeyError)?;
    usable(key, &[(&signature::RSA_PKCS1_2048_8192_SHA256, RSA)], "RSA key")
}

/// The contents of the DER value (X.690, 8.1) of this tag that `bytes` begin with.
fn der_value(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    let (&[found, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    rest.get(..length).filter(|_| found == tag)
}

/// The sizes that signatures are verified with. A smaller or larger key is read without a word, and then no signature of it is good.
fn check_modulus(modulus: &[u8]) -> Result<(), String> {
    let zeros = modulus.iter().take_while(|&&byte| byte == 0).count();
    let significant = &modulus[zeros..];
    let bits = significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize);
    if (2048..=8192).contains(&bits) { Ok(()) } else { Err(format!("it is an RSA key of {bits} bits, and 2,048 to 8,192 are taken")) }
}

type Curves = &'static [(&'static dyn VerificationAlgorithm, &'static [Algorithm])];

/// What verifies later parses the key anew for each token, and calls a key that it cannot parse a bad signature.
fn usable(key: DecodingKey, curves: Curves, wanted: &str) -> Result<Key, KeyError> {
    let bytes = key.try_get_as_bytes().map_err(|_| KeyError("its key is in an unknown form".to_owned()))?;
    let found = curves.iter().find(|(algorithm, _)| ParsedPublicKey::new(*algorithm, bytes).is_ok());
    match found {
        Some((_, algorithms)) => Ok(Key::new(key, algorithms)),
        None => error(format!("its key is no {wanted}")),
    }
}

/// Where a JWKS document is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A file of the operator's.
    Own,
    /// A URL.
    Published,
}

/// An entry of a JWKS document.
fn jwk_key(entry: &Value, trust: Trust) -> Result<Key, String> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let needed = |name: &str| text(name).ok_or_else(|| format!("it has no `{name}`"));
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures (`use`)".to_owned());
    }
    if let Some(Value::Array(operations)) = entry.get("key_ops")
        && !operations.iter().any(|operation| operation == "verify")
    {
        return Err("it is not for verifying (`key_ops`)".to_owned());
    }
    let unreadable = |_| "it cannot be read".to_owned();
    let key = match (needed("kty")?, text("crv")) {
        ("RSA", _) => rsa_jwk(needed("n")?, needed("e")?)?,
        ("EC", Some("P-256")) => ec_jwk(needed("x")?, needed("y")?, 32, &signature::ECDSA_P256_SHA256_FIXED, P256)?,
        ("EC", Some("P-384")) => ec_jwk(needed("x")?, needed("y")?, 48, &signature::ECDSA_P384_SHA384_FIXED, P384)?,
        ("EC", _) => return Err("its curve (`crv`) is neither P-256 nor P-384".to_owned()),
        ("OKP", Some("Ed25519")) => {
            let key = DecodingKey::from_ed_components(needed("x")?).map_err(unreadable)?;
            usable(key, &[(&signature::ED25519, ED25519)], "Ed25519 key").map_err(|reason| reason.0)?
        }
        ("OKP", _) => return Err("its curve (`crv`) is not Ed25519".to_owned()),
        ("oct", _) if trust == Trust::Published => return Err("it is a secret (`oct`), and this document is public".to_owned()),
        ("oct", _) => {
            let secret = decoded(needed("k")?)?;
            check_secret(&secret).map_err(|reason| reason.0)?;
            Key::of_secret(&secret, HMAC)
        }
        _ => return Err("its `kty` is not one of RSA, EC, OKP, oct".to_owned()),
    };
    // By the key, never by what a token says.
    let algorithms = match text("alg") {
        None => key.algorithms,
        Some(named) => {
            let only = key.algorithms.iter().position(|&algorithm| format!("{algorithm:?}") == named);
            let only = only.ok_or_else(|| "its `alg` is unknown, or does not fit the key".to_owned())?;
            &key.algorithms[only..=only]
        }
    };
    Ok(Key { id: text("kid").map(Box::from), algorithms, ..key })
}

fn decoded(text: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| "it is not in base64url".to_owned())
}

fn rsa_jwk(modulus: &str, exponent: &str) -> Result<Key, String> {
    let (modulus, exponent) = (decoded(modulus)?, decoded(exponent)?);
    check_modulus(&modulus)?;
    let components = signature::RsaPublicKeyComponents { n: &modulus, e: &exponent };
    let parsed = components.to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256);
    parsed.map_err(|_| "it is no RSA key".to_owned())?;
    Ok(Key::new(DecodingKey::from_rsa_raw_components(&modulus, &exponent), RSA))
}

fn ec_jwk(
    x: &str,
    y: &str,
    bytes: usize,
    algorithm: &'static dyn VerificationAlgorithm,
    algorithms: &'static [Algorithm],
) -> Result<Key, String> {
    let (x, y) = (decoded(x)?, decoded(y)?);
    if x.len() != bytes || y.len() != bytes {
        return Err("its point has the wrong length".to_owned());
    }
    let point = [&[4], &x[..], &y[..]].concat();
    ParsedPublicKey::new(algorithm, &point).map_err(|_| "its point is not on the curve".to_owned())?;
    Ok(Key::new(DecodingKey::from_ec_der(&point), algorithms))
}
