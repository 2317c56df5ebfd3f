//! A whole shard under a simulated network, clock and bus, driven by a seed. The sockets take a random number of bytes, block, stall,
//! reset; the bus delays answers, loses batches on the way (as a full inbox does) and announces outages. After every step the
//! clients' view is checked against the design's invariants. A failure prints its seed: `CAMPANILE_SIM_SEED=N cargo test --test sim`.

mod crowd;
#[path = "../rig/mod.rs"]
mod rig;
#[allow(dead_code)]
#[path = "../scenarios/stage.rs"]
mod stage;
mod world;

use world::Simulation;

fn run(seed: u64) {
    let result = std::panic::catch_unwind(|| Simulation::new(seed).run());
    if let Err(panic) = result {
        eprintln!("failed with CAMPANILE_SIM_SEED={seed}");
        std::panic::resume_unwind(panic);
    }
}

/// Seeds to run: one that was asked for, or `count` from `first` on.
fn seeds(first: u64, count: u64) -> Vec<u64> {
    match std::env::var("CAMPANILE_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("CAMPANILE_SIM_SEED is a number")],
        Err(_) => {
            let factor: u64 = std::env::var("CAMPANILE_SIM_FACTOR").map_or(1, |factor| factor.parse().expect("a number"));
            (first..first + count * factor).collect()
        }
    }
}

#[test]
fn the_invariants_hold_for_thousands_of_seeds() {
    let threads: Vec<_> = (0..2)
        .map(|half| {
            std::thread::spawn(move || {
                seeds(0, 10_000).into_iter().filter(|seed| seed % 2 == half || std::env::var("CAMPANILE_SIM_SEED").is_ok()).for_each(run)
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every seed passes");
    }
    if std::env::var("CAMPANILE_SIM_SEED").is_err() {
        world::SEEN.lock().unwrap().assert_everything_happened();
    }
}

/// What is too old, due or late goes by the clock that never steps.
#[test]
fn a_wall_clock_that_steps_changes_nothing_but_timestamps() {
    for seed in seeds(0, 500) {
        let (stepping, steady) = (Simulation::new(seed).run(), Simulation::with_a_steady_wall_clock(seed).run());
        assert_eq!(stepping, steady, "CAMPANILE_SIM_SEED={seed}");
    }
}

/// Channels of so many members that a lap takes many turns, under rules that limit them.
#[test]
fn no_channel_gets_more_than_its_rule_says_however_long_its_laps_are() {
    for seed in seeds(0, 40) {
        let result = std::panic::catch_unwind(|| crowd::Crowd::new(seed).run());
        if let Err(panic) = result {
            eprintln!("failed with CAMPANILE_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let digests: Vec<u64> = (0..2).map(|_| Simulation::new(7).run()).collect();
    assert_eq!(digests[0], digests[1]);
}
