//! Counters over time, for the charts: a point every tenth of a second, thinned out as a run grows long.

use std::time::{Duration, Instant};

use crate::tally::Counts;

const POINTS_MAX: usize = 1200;

#[derive(Debug, Clone, Copy, Default)]
pub struct Point {
    pub seconds: f64,
    pub ready: u64,
    /// Since the begin.
    pub messages: u64,
    pub bytes: u64,
    pub connected: u64,
    pub published: u64,
}

#[derive(Debug)]
pub struct Series {
    begin: Instant,
    pause: Duration,
    last: Instant,
    published: u64,
    pub points: Vec<Point>,
    /// When the floor had its turn instead of the server: begin and end, seconds.
    pub floor_turns: Vec<(f64, f64)>,
    floor_since: Option<f64>,
    /// A crowd that has ended takes its counters along: what the ones before had counted.
    base: Counts,
    newest: Counts,
}

impl Default for Series {
    fn default() -> Series {
        Series::new()
    }
}

impl Series {
    pub fn new() -> Series {
        let now = Instant::now();
        Series {
            begin: now,
            pause: Duration::from_millis(100),
            last: now - Duration::from_secs(1),
            published: 0,
            points: Vec::new(),
            floor_turns: Vec::new(),
            floor_since: None,
            base: Counts::default(),
            newest: Counts::default(),
        }
    }

    pub fn look(&mut self, counts: &Counts) {
        if self.last.elapsed() < self.pause {
            return;
        }
        // Nobody looked for a while (the floor had its turn): nothing happened then, rather than a little all the time.
        let away = self.last.elapsed();
        if away > 5 * self.pause
            && let Some(&point) = self.points.last()
        {
            let now = self.begin.elapsed().as_secs_f64();
            let pause = self.pause.as_secs_f64();
            self.points.push(Point { seconds: point.seconds + pause, ..point });
            self.points.push(Point { seconds: (now - pause).max(point.seconds + pause), ..point });
        }
        self.last = Instant::now();
        if counts.bytes < self.newest.bytes || counts.connected < self.newest.connected {
            self.base.add(&self.newest);
        }
        self.newest = *counts;
        self.points.push(Point {
            seconds: self.begin.elapsed().as_secs_f64(),
            ready: counts.ready,
            messages: self.base.messages + counts.messages + counts.slow_messages,
            bytes: self.base.bytes + counts.bytes,
            connected: self.base.connected + counts.connected,
            published: self.published,
        });
        if self.points.len() >= POINTS_MAX {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.pause *= 2;
        }
    }

    pub fn floor_begins(&mut self) {
        self.floor_since = Some(self.begin.elapsed().as_secs_f64());
    }

    pub fn floor_ends(&mut self) {
        if let Some(since) = self.floor_since.take() {
            self.floor_turns.push((since, self.begin.elapsed().as_secs_f64()));
        }
    }

    pub fn published(&mut self, messages: u64) {
        self.published = messages;
    }
}
