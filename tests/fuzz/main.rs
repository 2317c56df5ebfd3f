//! Whatever comes from outside, changed at random: nothing may panic, and what is taken must be what others take.
//!
//! Each test is a bolero target. Under `cargo test` it runs for a second on stable Rust, with seeds that are drawn anew each time (`scripts/check --fuzz` gives
//! each ten seconds); what fails is made smaller and shown with its seed, which `BOLERO_RANDOM_SEED` brings back. Inputs begin as what other tests
//! know to be good or bad ([`seeds`]) and are changed by [`mutate`], so that most of them get past the first check. An input worth keeping becomes
//! a test with a name, beside the code that was wrong; a file that lies in `tests/fuzz/__fuzz__/TEST/crashes` is run first.

mod addresses;
mod deflate;
mod frames;
mod head;
mod journal;
mod mutate;
mod resp;
mod routes;
mod rules;
mod seeds;
mod tls;
mod tokens;
mod values;
