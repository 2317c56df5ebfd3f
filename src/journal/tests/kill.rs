//! A process that is killed at any moment, many times over: what it had shown is there when the next one opens the files.
//!
//! The process is this test itself, run again with [`FOLDER`] set. `CAMPANILE_JOURNAL_KILLS=200` kills more often than the suite does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const FOLDER: &str = "CAMPANILE_JOURNAL_FOLDER";
const SETTLE: &str = "CAMPANILE_JOURNAL_FSYNC";
const KEPT: usize = 100;

fn settings(folder: &Path, fsync: &str) -> Settings {
    let fsync = if fsync == "always" { Fsync::Always } else { Fsync::Interval(Duration::from_millis(20)) };
    Settings { data_dir: Some(folder.to_owned()), fsync, segment_bytes: 64 << 10, ..Settings::default() }
}

/// Depends on its name alone, so that whoever reads it knows what it must be.
fn payload(channel: &str, epoch: u64, seq: u64) -> Vec<u8> {
    let name = format!("{channel} {epoch} {seq} ");
    name.repeat(1 + seq as usize % 7).into_bytes()
}

/// Appends, and says what is settled, until it is killed.
#[test]
#[ignore = "run by the test below, as a process of its own"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut owner = Owner::open(settings(Path::new(&folder), &std::env::var(SETTLE).unwrap()), NOW_MS).unwrap();
    let mut random = fastrand::Rng::new();
    let mut waiting = VecDeque::new();
    let mut out = std::io::stdout().lock();
    loop {
        for _ in 0..random.usize(1..50) {
            let channel = format!("c{}", random.usize(0..4));
            let State { epoch, last_seq, .. } = owner.journal.state(&channel).unwrap();
            let appended = owner.append(&channel, &payload(&channel, epoch, last_seq + 1), KEPT);
            waiting.push_back((channel, appended));
        }
        owner.now_ms += 1;
        let now_ms = owner.now_ms;
        owner.journal.turn(now_ms);
        owner.until(|journal| {
            let settled = journal.settled();
            while waiting.front().is_some_and(|(_, appended): &(String, Appended)| appended.ticket <= settled) {
                let (channel, Appended { epoch, seq, .. }) = waiting.pop_front().expect("it was looked at");
                writeln!(out, "shown {channel} {epoch} {seq}").unwrap();
            }
            (waiting.len() < 1000).then_some(())
        });
        out.flush().unwrap();
    }
}

fn kill_often(fsync: &str, kills: usize) {
    let place = Place::new(fsync);
    let mut random = fastrand::Rng::new();
    let mut last = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["journal::tests::kill::child", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, &place.0)
            .env(SETTLE, fsync)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let shown_max = random.usize(1..3000);
        let mut shown = 0;
        for line in lines {
            let Ok(line) = line else { break };
            // It is read to its end: what was said before the kill was shown.
            if let Some(name) = line.strip_prefix("shown ") {
                let mut words = name.split(' ');
                let channel = words.next().unwrap().to_owned();
                let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
                // The last line may be half a line.
                if let (Some(epoch), Some(seq)) = (number(), number()) {
                    let before = last.insert(channel, (epoch, seq));
                    assert!(before.is_none_or(|before| before < (epoch, seq)), "kill {kill}: {before:?} was shown before {epoch} {seq}");
                }
                shown += 1;
                if shown == shown_max {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(shown >= shown_max, "kill {kill}: the child ended by itself");
        let mut owner = Owner::open(settings(&place.0, fsync), NOW_MS).unwrap();
        for (channel, (epoch, seq)) in &last {
            let state = owner.journal.state(channel).unwrap();
            assert_eq!(state.epoch, *epoch, "kill {kill}: the process crashed, not the host");
            assert!(state.last_seq >= *seq, "kill {kill}: {channel} {seq} was shown, and the last is {}", state.last_seq);
            let all = owner.read_all(channel);
            assert!(all.len() as u64 >= state.last_seq.min(KEPT as u64), "kill {kill}: {channel} has {} entries", all.len());
            for (seq, found) in all {
                assert_eq!(found, payload(channel, *epoch, seq), "kill {kill}");
            }
        }
        if random.bool() {
            owner.close();
        } else {
            // The same as a kill at rest.
            drop(owner);
            await_unlocked(&place.0);
        }
    }
}

/// The threads of a journal that was dropped end by themselves.
fn await_unlocked(folder: &Path) {
    let lock = std::fs::File::open(folder.join("lock")).unwrap();
    lock.lock().unwrap();
}

fn kills() -> usize {
    std::env::var("CAMPANILE_JOURNAL_KILLS").map_or(10, |text| text.parse().expect("a number"))
}

#[test]
fn nothing_that_was_shown_is_missing_after_a_kill_with_always() {
    kill_often("always", kills());
}

#[test]
fn nothing_that_was_shown_is_missing_after_a_kill_with_an_interval() {
    kill_often("interval", kills());
}
