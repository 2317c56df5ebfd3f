//! Keys from a URL: a JWKS document is fetched, and fetched again when it has grown old or a token names a key that it does not have.
//!
//! Invariants: the last good keys stay while there are no newer ones; however many tokens name unknown keys, at most one fetch in half a minute is for their sake;
//! a fetch is bounded in time and size, follows no redirect, and waits on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;
use ureq::Agent;
use ureq::http::{HeaderMap, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::State;
use super::reload::take_fetched;
use crate::auth::keys::Keys;
use crate::config::AuthMode;
use crate::limits::auth::KEY_FILE_BYTES_MAX;

/// Between two fetches because a key was missing.
const ASKED_PAUSE: Duration = Duration::from_secs(30);
/// How long keys are good without a word from whoever publishes them, and the bounds of what it may say (`max-age`).
const AGE: Duration = Duration::from_secs(300);
const AGE_MIN: Duration = Duration::from_secs(60);
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// After a failure; doubled with each further one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// From the name's look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether a shard misses a key. It cannot wake this thread: in a descriptor table of its own the number means something else.
const LOOK: Duration = Duration::from_millis(200);

/// What was fetched, and how long it is good.
#[derive(Debug)]
pub struct Fetched {
    pub keys: Keys,
    age: Duration,
}

/// Fetches keys, on the calling thread. The error says why there are none.
pub fn fetch(url: &str) -> Result<Fetched, String> {
    let mut answer = agent().get(url).call().map_err(|error| error.to_string())?;
    let status = answer.status();
    if status.is_redirection() {
        return Err(format!("it is answered {status}, which leads elsewhere; give the URL that it leads to"));
    }
    if !status.is_success() {
        return Err(format!("it is answered {status}"));
    }
    let age = age(answer.headers());
    let document = answer.body_mut().with_config().limit(KEY_FILE_BYTES_MAX).read_to_string().map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(limit) => format!("the document is larger than {limit} bytes"),
        error => error.to_string(),
    })?;
    let mut keys = Keys::default();
    keys.add_published(&document).map_err(|reason| reason.to_string())?;
    Ok(Fetched { keys, age })
}

/// With the roots that this host trusts (`SSL_CERT_FILE` names others), and the one crypto provider of the program.
fn agent() -> Agent {
    let roots: Vec<Certificate<'static>> =
        rustls_native_certs::load_native_certs().certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build();
    Agent::config_builder().tls_config(tls).timeout_global(Some(TIMEOUT)).max_redirects(0).http_status_as_error(false).build().into()
}

/// `Cache-Control: max-age` (RFC 9111, 5.2.2.1), within its bounds.
fn age(headers: &HeaderMap) -> Duration {
    let directives =
        headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let directives: Vec<String> = directives.map(|directive| directive.trim().to_ascii_lowercase()).collect();
    if directives.iter().any(|directive| directive == "no-store" || directive == "no-cache") {
        return AGE_MIN;
    }
    let seconds = directives.iter().find_map(|directive| directive.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    seconds.map_or(AGE, Duration::from_secs).clamp(AGE_MIN, AGE_MAX)
}

/// When to ask next.
#[derive(Debug)]
struct Schedule {
    due: Instant,
    failures: u32,
    /// The last fetch for the sake of a missing key.
    asked: Option<Instant>,
}

impl Schedule {
    fn new(now: Instant) -> Schedule {
        Schedule { due: now, failures: 0, asked: None }
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now.duration_since(asked) >= ASKED_PAUSE)
    }

    /// Whether to ask now; `is_wanted`: a token names a key that is not there. What has failed is tried again at its own time.
    fn is_due(&mut self, now: Instant, is_wanted: bool) -> bool {
        if now >= self.due {
            return true;
        }
        let is_asked = is_wanted && self.failures == 0 && self.may_ask(now);
        if is_asked {
            self.asked = Some(now);
        }
        is_asked
    }

    /// None: it has failed.
    fn done(&mut self, now: Instant, age: Option<Duration>) {
        self.failures = if age.is_some() { 0 } else { self.failures + 1 };
        self.due = now + age.unwrap_or_else(|| RETRY_MAX.min(RETRY * 2u32.saturating_pow(self.failures - 1)));
    }
}

/// Keeps the keys fresh, until the end of the process.
pub(super) async fn keep(state: Arc<State>) {
    let reload = &state.reload;
    let (mut url, mut schedule, mut said) = (None, Schedule::new(Instant::now()), String::new());
    loop {
        let now = Instant::now();
        let in_force = reload.in_force();
        let wanted_url = in_force.settings.auth.jwks_url.clone().filter(|_| in_force.settings.auth.mode == AuthMode::Jwt);
        drop(in_force);
        if wanted_url != url {
            (url, schedule, said) = (wanted_url, Schedule::new(now), String::new());
        }
        if let Some(url) = &url
            && (reload.fetch_asked.swap(false, Relaxed) | schedule.is_due(now, reload.wanted.is_wanted()))
        {
            let asking = url.clone();
            reload.wanted.begin_fetch();
            let fetched = tokio::task::spawn_blocking(move || fetch(&asking)).await.unwrap_or_else(|error| Err(error.to_string()));
            let age = fetched.as_ref().ok().map(|fetched| fetched.age);
            let outcome = match fetched {
                Ok(fetched) => {
                    let ignored: Vec<String> = fetched.keys.ignored().to_vec();
                    take_fetched(&state, url, fetched.keys).await.map(|is_new| (is_new, ignored))
                }
                Err(error) => Err(error),
            };
            reload.wanted.end_fetch(outcome.is_ok());
            schedule.done(Instant::now(), age.filter(|_| outcome.is_ok()));
            note(&state, outcome, &mut said);
        }
        tokio::time::sleep(LOOK).await;
        if state.stopping() {
            return;
        }
    }
}

/// An outage is said once.
fn note(state: &State, outcome: Result<(bool, Vec<String>), String>, said: &mut String) {
    let tally = &state.reload.tally;
    match outcome {
        Ok((is_new, ignored)) => {
            tally.fetched.fetch_add(1, Relaxed);
            tally.fetched_unix_ms.store(crate::sys::unix_ms(), Relaxed);
            if is_new {
                tracing::info!("jwks_url: {} keys verify tokens now", state.reload.in_force().keys());
                ignored.iter().for_each(|ignored| tracing::warn!("jwks_url: {ignored}"));
            } else if !said.is_empty() {
                tracing::info!("jwks_url: it answers again");
            }
            said.clear();
        }
        Err(error) => {
            tally.fetch_failed.fetch_add(1, Relaxed);
            if *said != error {
                tracing::warn!("jwks_url: no keys can be fetched, {} keys stay: {error}", state.reload.in_force().keys());
                *said = error;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_good_for_as_long_as_is_said_within_bounds() {
        let said = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, header::HeaderValue::from_static(value));
            }
            age(&headers).as_secs()
        };
        for (values, seconds) in [
            (&[][..], 300),
            (&["max-age=600"], 600),
            (&["public, Max-Age=\"900\""], 900),
            (&["public", "max-age=120, must-revalidate"], 120),
            (&["max-age=1"], 60),
            (&["max-age=99999999"], 86_400),
            (&["no-store"], 60),
            (&["max-age=soon"], 300),
            (&["max-age=99999999999999999999999"], 300),
        ] {
            assert_eq!(said(values), seconds, "{values:?}");
        }
    }

    #[test]
    fn however_often_a_key_is_missing_it_is_asked_for_now_and_then() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut schedule = Schedule::new(begin);
        assert!(schedule.is_due(at(0), false));
        schedule.done(at(0), Some(Duration::from_secs(3600)));
        let asked = (1..600_000).step_by(200).filter(|&ms| {
            let is_due = schedule.is_due(at(ms), true);
            if is_due {
                schedule.done(at(ms), Some(Duration::from_secs(3600)));
            }
            is_due
        });
        assert_eq!(asked.count(), 20, "at once, and then each half minute");
        assert!(schedule.is_due(at(5_000_000), false), "it has grown old");
    }

    #[test]
    fn what_fails_is_tried_less_and_less() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(begin);
        let mut waits = Vec::new();
        for _ in 0..9 {
            schedule.done(begin, None);
            waits.push(schedule.due.duration_since(begin).as_secs());
            assert!(!schedule.is_due(begin, true), "not for the sake of a missing key");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.done(begin, Some(AGE));
        assert!(schedule.is_due(begin, true));
    }
}
