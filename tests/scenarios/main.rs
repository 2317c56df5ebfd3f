//! Bugs that a whole shard once had, one test for each, named after what went wrong. The network is the simulation's, but nothing is left
//! to chance: every test says who reads how much, and when.

mod arrivals;
mod asides;
mod channels;
mod ends;
mod feeds;
mod marks;
mod orders;
mod pacing;
mod pages;
mod reload;
mod replies;
#[path = "../rig/mod.rs"]
mod rig;
mod silence;
mod slow;
mod stage;
mod tokens;
