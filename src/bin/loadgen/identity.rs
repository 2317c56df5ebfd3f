//! Who the clients are: tokens, by a key that is made for the run, and what the server is told of it.
//!
//! Invariant: all tokens of a round are made before it begins, so that signing them takes nobody's time in it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use campanile::auth::mint::Signer;
use serde_json::json;

use super::args::{Auth, Options};
use super::publish::redis::{KEPT_MESSAGES, KEPT_MS};

/// Longer than any run, the broadcast to a million included.
const LIFETIME: Duration = Duration::from_secs(2 * 3600);

/// A token for each user; a client is the user that its number stands for.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<[Box<str>]>);

impl Tokens {
    pub fn of(&self, client: u32) -> &str {
        &self.0[client as usize % self.0.len()]
    }
}

/// What the server asks its clients, and with what they answer.
#[derive(Debug)]
pub struct Gate {
    signer: Option<Signer>,
    /// In the environment: what stands in arguments can be seen by every user of the host.
    secret: Option<String>,
    /// With the server's file of settings, and its keys.
    directory: PathBuf,
    settings: String,
    channel: String,
    has_rules: bool,
    users: u32,
    /// So that no two rounds have the same tokens.
    made: u32,
}

impl Gate {
    /// None: nobody is asked, and there are no rules. The clients' table comes last.
    pub fn of(options: &Options) -> anyhow::Result<Option<Gate>> {
        if options.auth.is_none() && !options.rules && !options.durable {
            return Ok(None);
        }
        let directory = std::env::temp_dir().join(format!("loadgen-gate-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let mut gate = Gate {
            signer: None,
            secret: None,
            directory,
            settings: String::new(),
            channel: options.channel.clone(),
            has_rules: options.rules,
            users: options.users.unwrap_or(options.clients),
            made: 0,
        };
        match options.auth {
            None => {}
            Some(Auth::Hs256) => gate.by_secret()?,
            Some(Auth::Es256) => gate.by_key()?,
        }
        if options.rules {
            gate.add_rules(options.clients);
        } else if options.durable {
            gate.settings.push_str(&format!("[[channels]]\nprefix = {:?}\n", gate.channel));
        }
        if options.durable {
            gate.settings.push_str(&format!("durable = true\nhistory_count = {KEPT_MESSAGES}\nhistory_age = {}\n", KEPT_MS / 1000));
        }
        std::fs::write(gate.file(), &gate.settings)?;
        Ok(Some(gate))
    }

    fn by_secret(&mut self) -> anyhow::Result<()> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret)?;
        let secret = URL_SAFE_NO_PAD.encode(secret);
        self.signer = Some(Signer::of_secret(secret.as_bytes())?);
        self.secret = Some(secret);
        self.settings.push_str("auth = \"jwt\"\n");
        Ok(())
    }

    fn by_key(&mut self) -> anyhow::Result<()> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let private = STANDARD.encode(pair.to_pkcs8v1()?.as_ref());
        self.signer = Some(Signer::of_pem(&format!("-----BEGIN PRIVATE KEY-----\n{private}\n-----END PRIVATE KEY-----\n"))?);
        // A point on the curve, uncompressed: 4, then its two coordinates.
        let point = pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y}]});
        let file = self.directory.join("keys.json");
        std::fs::write(&file, keys.to_string())?;
        self.settings.push_str(&format!("auth = \"jwt\"\ntoken_keys = [{:?}]\n", file.display().to_string()));
        Ok(())
    }

    /// Limits that nobody reaches, so that each is asked: all clients come from few addresses. Of the tables the last one is the clients'.
    fn add_rules(&mut self, clients: u32) {
        let subscribe = if self.signer.is_some() { "token" } else { "anyone" };
        self.settings.push_str(&format!(
            "connections_per_address = {}\naccepts_per_address = 10000\naccepts_per_second = 1000000\ncommands_per_second = 10000\n\
             [[channels]]\npattern = \"user:{{sub}}\"\nsubscribe = \"owner\"\n\
             [[channels]]\npattern = \"room:*:staff\"\nsubscribe = \"nobody\"\n\
             [[channels]]\nprefix = {:?}\nsubscribe = \"{subscribe}\"\n",
            clients + 1000,
            self.channel
        ));
    }

    fn file(&self) -> PathBuf {
        self.directory.join("campanile.toml")
    }

    /// The server reads it before its arguments.
    pub fn hand_to(&self, command: &mut Command) {
        command.arg("--config").arg(self.file());
        if let Some(secret) = &self.secret {
            command.env("CAMPANILE_TOKEN_SECRET", secret);
        }
    }

    /// Other ones than before. None: nobody is asked for one.
    pub fn tokens(&mut self) -> anyhow::Result<Option<Tokens>> {
        let Some(signer) = &self.signer else { return Ok(None) };
        self.made += 1;
        let expires_s = (SystemTime::now().duration_since(UNIX_EPOCH)? + LIFETIME).as_secs();
        let token = |user: u32| {
            let mut claims = json!({"sub": format!("user-{user:07}"), "jti": self.made.to_string(), "exp": expires_s});
            if self.has_rules {
                claims["channels"] = json!([self.channel, format!("{}*", self.channel)]);
            }
            signer.sign(&claims).map(String::into_boxed_str).context("a token cannot be signed")
        };
        Ok(Some(Tokens((0..self.users).map(token).collect::<anyhow::Result<Vec<_>>>()?.into())))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use campanile::auth::keys::Keys;
    use campanile::auth::token::{Policy, Verifier};

    use super::*;

    fn gate(auth: Auth, users: u32) -> Gate {
        let mut gate = Gate {
            signer: None,
            secret: None,
            directory: std::env::temp_dir().join(format!("loadgen-gate-test-{}-{auth:?}", std::process::id())),
            settings: String::new(),
            channel: "bench".to_owned(),
            has_rules: true,
            users,
            made: 0,
        };
        std::fs::create_dir_all(&gate.directory).unwrap();
        match auth {
            Auth::Hs256 => gate.by_secret().unwrap(),
            Auth::Es256 => gate.by_key().unwrap(),
        }
        gate
    }

    fn keys(gate: &Gate) -> Keys {
        let mut keys = Keys::default();
        match &gate.secret {
            Some(secret) => keys.add_secret(secret.as_bytes()).unwrap(),
            None => keys.add_file(&gate.directory.join("keys.json")).unwrap(),
        }
        keys
    }

    #[test]
    fn what_is_handed_to_the_server_verifies_what_clients_bring() {
        for auth in [Auth::Hs256, Auth::Es256] {
            let mut gate = gate(auth, 3);
            let verifier = Verifier::new(keys(&gate), Policy { bytes_max: 4096, ..Policy::default() });
            let (tokens, others) = (gate.tokens().unwrap().unwrap(), gate.tokens().unwrap().unwrap());
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            let identity = verifier.look(tokens.of(4).as_bytes()).unwrap().verify(now_ms).unwrap();
            assert_eq!(identity.user(), "user-0000001");
            assert!(identity.may_hear("bench") && identity.may_hear("bench17") && !identity.may_hear("other"));
            assert_eq!(tokens.of(1), tokens.of(4), "a user's clients share its token");
            assert_ne!(tokens.of(1), others.of(1), "{auth:?}: a new one is another");
        }
    }
}
