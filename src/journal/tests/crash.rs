//! What a crash leaves, and damage: a copy of the files as they are at some moment, cut or changed somewhere, and opened again.
//!
//! `CAMPANILE_JOURNAL_SEEDS=1000` tries more than the suite does.
//!
//! Against a model of all that was shown: nothing of it is missing that a crash must not take, and whatever happens, no number that was shown is given
//! to another message.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;

use super::*;
use crate::journal::disk::folder::segment_path;
use crate::journal::record::{HEADER_BYTES, Shown};

type Name = (String, u64, u64);

/// A run of the journal with random traffic, then its files as a crash leaves them.
struct Run {
    place: Place,
    /// What was shown, ever, in all runs: channel, epoch and number name it.
    shown: HashMap<Name, Vec<u8>>,
    random: fastrand::Rng,
    now_ms: u64,
    fsync: Fsync,
    boot: u64,
    count: u64,
    /// For messages of failures.
    seed: u64,
}

/// What a run had when it crashed.
struct Crash {
    /// Behind what was shown.
    settled: (u32, u32),
    /// Behind everything.
    end: (u32, u32),
    /// What was kept of what was shown.
    kept: Vec<(Name, Vec<u8>)>,
}

const CHANNELS: usize = 5;

impl Run {
    fn new(test: &str, seed: u64, fsync: Fsync) -> Run {
        let random = fastrand::Rng::with_seed(seed);
        Run { place: Place::new(test), shown: HashMap::new(), random, now_ms: NOW_MS, fsync, boot: 1, count: 0, seed }
    }

    fn open(&self) -> Owner {
        let settings = Settings { fsync: self.fsync, boot: self.boot, segment_bytes: 2048, ..self.place.settings() };
        Owner::open(settings, self.now_ms).unwrap_or_else(|error| panic!("it always starts: {error}"))
    }

    /// Some messages, and where each is.
    fn traffic(&mut self, owner: &mut Owner, messages: usize) -> Vec<(Name, Vec<u8>)> {
        let mut sent = Vec::new();
        for _ in 0..messages {
            let (channel, count) = (format!("c{}", self.random.usize(0..CHANNELS)), self.random.usize(1..40));
            self.count += 1;
            let mut payload = format!("message {} ", self.count).into_bytes();
            payload.extend(std::iter::repeat_n(b'.', self.random.usize(0..200)));
            let key = self.random.bool().then(|| format!("key {}", self.count));
            let Appended { epoch, seq, .. } = owner.try_append(&channel, &payload, key.as_deref(), count).unwrap();
            let name = (channel, epoch, seq);
            assert!(!self.shown.contains_key(&name), "{name:?} was shown before");
            sent.push((name, payload));
        }
        sent
    }

    /// Runs until some is shown and some more is written, and leaves the files as they are then.
    fn crash(&mut self) -> Crash {
        let mut owner = self.open();
        for _ in 0..self.random.usize(1..5) {
            let messages = self.random.usize(0..60);
            let sent = self.traffic(&mut owner, messages);
            owner.settle();
            self.shown.extend(sent);
            if self.random.bool() {
                owner.rest();
            }
        }
        owner.settle();
        owner.until(|journal| (journal.disk.as_ref().unwrap().progress().written() == journal.head()).then_some(()));
        let position = |owner: &Owner| owner.journal.disk.as_ref().unwrap().position();
        let (settled, epoch_last) = (position(&owner), owner.journal.epoch_last);
        let mut kept = Vec::new();
        for at in 0..CHANNELS {
            let channel = format!("c{at}");
            if owner.journal.channels.find(&channel).is_some() {
                let epoch = owner.journal.state(&channel).unwrap().epoch;
                kept.extend(owner.read_all(&channel).into_iter().map(|(seq, payload)| ((channel.clone(), epoch, seq), payload)));
            }
        }
        // Of these nobody is told.
        let messages = self.random.usize(0..30);
        let unseen = self.traffic(&mut owner, messages);
        owner.settle();
        owner.until(|journal| (journal.disk.as_ref().unwrap().progress().written() == journal.head()).then_some(()));
        let end = position(&owner);
        // Trimmed for what comes behind it, which the crash may take or not.
        let trimmed = |(channel, _, seq): &Name| {
            let id = owner.journal.channels.find(channel).unwrap();
            owner.journal.channels[id].entries.front().is_none_or(|&at| owner.journal.entries.get(at).seq > *seq)
        };
        kept.retain(|(name, _)| !trimmed(name));
        drop(unseen);
        let copy = Place::new("crashed");
        fs::create_dir_all(&copy.0).unwrap();
        for entry in fs::read_dir(&self.place.0).unwrap() {
            let name = entry.unwrap().file_name();
            // A file that is not wanted any more may go meanwhile.
            let _ = fs::copy(self.place.0.join(&name), copy.0.join(&name));
        }
        fs::write(copy.0.join("shown"), Shown { boot: self.boot, epoch_last, segment: settled.0, offset: settled.1 }.encode()).unwrap();
        owner.close();
        self.place = copy;
        Crash { settled, end, kept }
    }

    fn segments(&self) -> Vec<(u32, u64)> {
        let files = fs::read_dir(&self.place.0).unwrap().map(|entry| entry.unwrap());
        let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".journal")?.parse().ok();
        let mut all: Vec<(u32, u64)> = files.filter_map(|entry| Some((number(&entry)?, entry.metadata().unwrap().len()))).collect();
        all.sort_unstable();
        all
    }

    /// Takes away what is behind a place.
    fn cut(&self, (segment, offset): (u32, u32)) {
        for (number, _) in self.segments() {
            if number > segment {
                fs::remove_file(segment_path(&self.place.0, number)).unwrap();
            }
        }
        let file = fs::OpenOptions::new().write(true).open(segment_path(&self.place.0, segment)).unwrap();
        file.set_len(u64::from(offset)).unwrap();
    }

    /// A place from `begin` to `end`, both among the places that a crash may end at.
    fn between(&mut self, begin: (u32, u32), end: (u32, u32)) -> (u32, u32) {
        let bytes = |number: u32, segments: &[(u32, u64)]| {
            segments.iter().find(|(other, _)| *other == number).map_or(0, |(_, bytes)| *bytes as u32)
        };
        let segments = self.segments();
        let segment = self.random.u32(begin.0..=end.0);
        let from = if segment == begin.0 { begin.1 } else { 0 };
        let to = if segment == end.0 { end.1 } else { bytes(segment, &segments) };
        (segment, self.random.u32(from..=to.max(from)))
    }

    /// Opens what is left and goes on; what is kept by then must hold `kept`. Returns the epochs.
    fn check(&mut self, kept: &[(Name, Vec<u8>)]) -> HashMap<String, u64> {
        let mut owner = self.open();
        let mut epochs = HashMap::new();
        let mut found = HashMap::new();
        for at in 0..CHANNELS {
            let channel = format!("c{at}");
            if owner.journal.channels.find(&channel).is_some() {
                epochs.insert(channel.clone(), owner.journal.state(&channel).unwrap().epoch);
                found.extend(owner.read_all(&channel).into_iter().map(|(seq, payload)| ((channel.clone(), seq), payload)));
            }
        }
        for ((channel, epoch, seq), payload) in kept {
            let there = found.keys().filter(|(other, _)| other == channel).map(|(_, seq)| *seq).collect::<std::collections::BTreeSet<_>>();
            let is_it = found.get(&(channel.clone(), *seq)) == Some(payload);
            assert!(is_it, "seed {}: {channel} {seq} is not there, but {there:?}; epochs {epoch} and {}", self.seed, epochs[channel]);
            assert!(epochs[channel] >= *epoch);
        }
        // One name, one message: what is read under it, and what it is given to.
        for ((channel, seq), payload) in found {
            let name = (channel.clone(), epochs[&channel], seq);
            assert!(self.shown.get(&name).is_none_or(|shown| *shown == payload), "{name:?} was another message");
            self.shown.insert(name, payload);
        }
        let sent = self.traffic(&mut owner, 40);
        owner.settle();
        self.shown.extend(sent);
        owner.close();
        epochs
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    0..std::env::var("CAMPANILE_JOURNAL_SEEDS").map_or(25, |text| text.parse().expect("a number"))
}

const INTERVAL: Fsync = Fsync::Interval(Duration::from_millis(1));

/// As a process leaves it that is killed: it ends anywhere behind what was shown.
#[test]
fn after_a_kill_all_that_was_shown_is_there_under_its_name() {
    for seed in seeds() {
        let mut run = Run::new("kill", seed, if seed % 2 == 0 { Fsync::Always } else { INTERVAL });
        for _ in 0..3 {
            let crash = run.crash();
            let at = run.between(crash.settled, crash.end);
            run.cut(at);
            let epochs = run.check(&crash.kept);
            assert!(crash.kept.iter().all(|((channel, epoch, _), _)| epochs[channel] == *epoch), "seed {seed}: epochs stay");
        }
    }
}

/// As a host leaves it that crashes: with another boot, and what was synced.
#[test]
fn after_a_crash_of_the_host_epochs_stay_only_if_all_that_was_shown_was_synced() {
    for seed in seeds() {
        for fsync in [Fsync::Always, INTERVAL] {
            let mut run = Run::new("host", seed, fsync);
            let crash = run.crash();
            run.boot = 2;
            // What was shown before the last sync may be gone with an interval: here one ends before the last thing shown.
            let begin = if fsync == Fsync::Always { crash.settled } else { (crash.settled.0, HEADER_BYTES as u32) };
            let at = run.between(begin.min(crash.settled), crash.end);
            run.cut(at);
            let kept = if fsync == Fsync::Always { &crash.kept[..] } else { &[] };
            let epochs = run.check(kept);
            for ((channel, epoch, _), _) in &crash.kept {
                if let Some(now) = epochs.get(channel) {
                    assert_eq!(now == epoch, fsync == Fsync::Always, "seed {seed}");
                }
            }
        }
    }
}

/// A byte changes anywhere: that costs the record in which it lies.
#[test]
fn damage_costs_one_record_and_no_name_is_given_twice() {
    for seed in seeds() {
        let mut run = Run::new("damage", seed, INTERVAL);
        for _ in 0..3 {
            let crash = run.crash();
            let segments = run.segments();
            let (segment, bytes) = segments[run.random.usize(0..segments.len())];
            let at = run.random.u64(0..bytes);
            let damaged = record_at(&fs::read(segment_path(&run.place.0, segment)).unwrap(), at);
            let file = fs::OpenOptions::new().read(true).write(true).open(segment_path(&run.place.0, segment)).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << run.random.u8(0..8))], at).unwrap();
            let kept: Vec<_> =
                crash.kept.into_iter().filter(|(_, payload)| !damaged.iter().any(|near| near.starts_with(payload))).collect();
            run.check(&kept);
            // The damage is still there, and is not found again as something new.
            run.check(&[]);
        }
    }
}

/// What begins like a payload about here.
fn record_at(file: &[u8], at: u64) -> Vec<Vec<u8>> {
    let near = &file[(at as usize).saturating_sub(600)..(at as usize + 600).min(file.len())];
    let begins = near.windows(8).enumerate().filter(|(_, window)| *window == b"message ").map(|(begin, _)| begin);
    begins.map(|begin| near[begin..].to_vec()).collect()
}

/// Whatever is done to the files, it starts, and no name is given twice as long as it is told what was shown.
#[test]
fn it_starts_from_whatever_is_left() {
    for seed in seeds() {
        let mut run = Run::new("garbage", seed, INTERVAL);
        for _ in 0..3 {
            run.crash();
            for _ in 0..run.random.usize(1..4) {
                let segments = run.segments();
                let Some(&(segment, bytes)) = run.random.choice(&segments) else { continue };
                let path = segment_path(&run.place.0, segment);
                match run.random.u8(0..5) {
                    0 => {
                        let offset = run.random.u32(0..=bytes as u32);
                        run.cut((segment, offset));
                    }
                    1 => run.cut((segment, 0)),
                    2 => fs::write(path, vec![0; run.random.usize(0..3000)]).unwrap(),
                    _ => {
                        let mut file = fs::read(&path).unwrap();
                        for _ in 0..run.random.usize(1..100) {
                            let at = run.random.usize(0..file.len().max(1));
                            if let Some(byte) = file.get_mut(at) {
                                *byte = run.random.u8(..);
                            }
                        }
                        fs::write(path, file).unwrap();
                    }
                }
            }
            run.check(&[]);
        }
    }
}
