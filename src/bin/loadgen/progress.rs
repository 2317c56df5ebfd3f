//! What is seen while a run goes on: a bar with live rates on a terminal, a line every few seconds otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Counts;

const ON_TERMINAL: Duration = Duration::from_millis(150);
const ON_LINES: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Progress {
    kind: Kind,
    last: Instant,
    last_counts: Counts,
    last_label: String,
    begin: Instant,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines,
    Quiet,
}

impl Progress {
    pub fn new(is_quiet: bool) -> Progress {
        let kind = if is_quiet {
            Kind::Quiet
        } else if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{spinner:.cyan} {prefix:<12} [{bar:30.cyan/dim}] {msg}").expect("the template is sound");
            Kind::Bar(ProgressBar::new(1).with_style(style.progress_chars("━╸─")))
        } else {
            Kind::Lines
        };
        Progress { kind, last: Instant::now(), last_counts: Counts::default(), last_label: String::new(), begin: Instant::now() }
    }

    /// Called often; shows something now and then.
    pub fn show(&mut self, label: &str, clients: u32, counts: &Counts) {
        let pause = match self.kind {
            Kind::Bar(_) => ON_TERMINAL,
            Kind::Lines => ON_LINES,
            Kind::Quiet => return,
        };
        // Another stage may have other clients: rates begin anew.
        if self.last_label != label {
            self.last_label = label.to_owned();
            self.last_counts = *counts;
            self.last = Instant::now();
        }
        let elapsed = self.last.elapsed();
        if elapsed < pause {
            return;
        }
        let rates = counts.since(&self.last_counts);
        let per_second = |count: u64| count as f64 / elapsed.as_secs_f64();
        let mut text = format!(
            "{} of {clients} ready, {} connects/s, {} messages/s, {}/s",
            counts.ready,
            short(per_second(rates.connected)),
            short(per_second(rates.messages + rates.slow_messages)),
            short_bytes(per_second(rates.bytes)),
        );
        let faults = counts.lost + counts.duplicates + counts.reordered + counts.misrouted;
        for (count, name) in
            [(faults, "FAULTS"), (counts.announced, "announced lost"), (counts.closed, "closed"), (counts.retries, "retries")]
        {
            if count > 0 {
                text += &format!(", {count} {name}");
            }
        }
        match &self.kind {
            Kind::Bar(bar) => {
                bar.set_prefix(label.to_owned());
                bar.set_length(u64::from(clients));
                bar.set_position(counts.ready);
                bar.set_message(text);
                bar.tick();
            }
            Kind::Lines => eprintln!("{:6.1} s  {label}: {text}", self.begin.elapsed().as_secs_f64()),
            Kind::Quiet => {}
        }
        self.last = Instant::now();
        self.last_counts = *counts;
    }

    pub fn end(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

/// Three digits and a unit: 1.23M.
pub fn short(number: f64) -> String {
    let (number, unit) = match number {
        n if n >= 999.5e6 => (n / 1e9, "G"),
        n if n >= 999.5e3 => (n / 1e6, "M"),
        n if n >= 10_000.0 => (n / 1e3, "k"),
        n => return if n < 10.0 && n.fract() > 0.05 { format!("{n:.1}") } else { format!("{n:.0}") },
    };
    let digits = if number < 9.995 {
        2
    } else if number < 99.95 {
        1
    } else {
        0
    };
    format!("{number:.digits$}{unit}")
}

pub fn short_bytes(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e4 => format!("{:.0} kB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}

/// Microseconds for people.
pub fn short_us(us: f64) -> String {
    match us {
        us if us >= 10e6 => format!("{:.1} s", us / 1e6),
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 100e3 => format!("{:.0} ms", us / 1e3),
        us if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let shown: Vec<String> = [0.0, 2.5, 999.0, 10_000.0, 1_234_567.0, 3.2e9].map(short).to_vec();
        assert_eq!(shown, ["0", "2.5", "999", "10.0k", "1.23M", "3.20G"]);
        assert_eq!([999.0, 1500.0, 250_000.0, 2e6].map(short_us), ["999 µs", "1.5 ms", "250 ms", "2.00 s"]);
        assert_eq!([999.0, 12_000.0, 3e6].map(short_bytes), ["999 B", "12 kB", "3.0 MB"]);
    }
}
