//! Line charts as inline SVG: a frame, grid lines at round numbers, filled lines. Colours come from the page's style sheet.

use std::fmt::Write;

const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 38.0;

/// An axis: which values are marked, how, and where a value stands (0 to 1).
pub struct Axis {
    pub ticks: Vec<(f64, String)>,
    first: f64,
    last: f64,
    is_log: bool,
}

impl Axis {
    /// From 0 to a round number that is not below `most`.
    pub fn linear(most: f64, show: impl Fn(f64) -> String) -> Axis {
        let step = round_step(most.max(1e-9) / 4.0);
        let count = (most / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|tick| (f64::from(tick) * step, show(f64::from(tick) * step))).collect();
        Axis { ticks, first: 0.0, last: count * step, is_log: false }
    }

    /// From 0 to `most` exactly: time, which ends where the run ends.
    pub fn time(most: f64) -> Axis {
        let step = round_step(most.max(1e-3) / 5.0);
        let ticks =
            (0..=(most / step) as u32).map(|tick| (f64::from(tick) * step, format!("{} s", trim(f64::from(tick) * step)))).collect();
        Axis { ticks, first: 0.0, last: most.max(1e-3), is_log: false }
    }

    /// Powers of ten around both ends.
    pub fn log(least: f64, most: f64, show: impl Fn(f64) -> String) -> Axis {
        let first = least.max(1.0).log10().floor();
        let last = most.max(10.0).log10().ceil().max(first + 1.0);
        let mut ticks = Vec::new();
        let mut power = first;
        while power <= last {
            ticks.push((10f64.powf(power), show(10f64.powf(power))));
            power += 1.0;
        }
        Axis { ticks, first: 10f64.powf(first), last: 10f64.powf(last), is_log: true }
    }

    /// Values that are marked as given, evenly from `first` to `last`.
    pub fn marked(first: f64, last: f64, ticks: Vec<(f64, String)>) -> Axis {
        Axis { ticks, first, last, is_log: false }
    }

    fn place(&self, value: f64) -> f64 {
        let place = if self.is_log {
            (value.max(self.first).log10() - self.first.log10()) / (self.last.log10() - self.first.log10())
        } else {
            (value - self.first) / (self.last - self.first)
        };
        place.clamp(0.0, 1.0)
    }
}

/// Charts side by side are narrower, so that their letters come out as large.
#[derive(Debug, Clone, Copy)]
pub enum Width {
    Whole,
    Half,
}

/// On a telephone every chart has the whole, small width; drawn for it, because letters that shrink with a picture cannot be read.
const NARROW: f64 = 340.0;
/// About what a letter of an axis takes.
const LETTER: f64 = 6.6;

pub struct Line<'a> {
    /// Class of the style sheet: `a`, `b`.
    pub class: &'a str,
    pub points: Vec<(f64, f64)>,
    pub is_filled: bool,
}

/// `notes` are put at points, with a dot; `bands` shade stretches of the x axis, behind everything.
/// Drawn twice, for a wide and for a narrow window; the style sheet shows one of them.
pub fn chart(width: Width, x: &Axis, y: &Axis, lines: &[Line<'_>], notes: &[(f64, f64, String)], bands: &[(f64, f64)]) -> String {
    let width = match width {
        Width::Whole => 960.0,
        Width::Half => 480.0,
    };
    let draw = |width| drawn(width, x, y, lines, notes, bands);
    format!(r#"<div class="wide">{}</div><div class="narrow">{}</div>"#, draw(width), draw(NARROW))
}

fn drawn(width: f64, x: &Axis, y: &Axis, lines: &[Line<'_>], notes: &[(f64, f64, String)], bands: &[(f64, f64)]) -> String {
    let left = |value: f64| LEFT + x.place(value) * (width - LEFT - RIGHT);
    let top = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(r#"<svg viewBox="0 0 {width} {HEIGHT}" role="img">"#);
    for (begin, end) in bands {
        let (from, to) = (left(*begin), left(*end));
        let height = HEIGHT - BOTTOM - TOP;
        let _ = write!(svg, r#"<rect class="band" x="{from:.1}" y="{TOP}" width="{:.1}" height="{height}"/>"#, (to - from).max(1.0));
    }
    for (value, text) in &y.ticks {
        let at = top(*value);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            width - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            escape(text)
        );
    }
    let mut free_from = f64::NEG_INFINITY;
    for (value, text) in &x.ticks {
        let at = left(*value);
        let _ = write!(svg, r#"<line class="grid faint" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"/>"#, HEIGHT - BOTTOM);
        let half = text.chars().count() as f64 * LETTER / 2.0;
        if at - half < free_from {
            continue;
        }
        free_from = at + half + LETTER;
        let _ =
            write!(svg, r#"<text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#, HEIGHT - BOTTOM + 18.0, escape(text));
    }
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let path: Vec<String> = line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", left(*x), top(*y))).collect();
        if line.is_filled {
            let (first, last) = (left(line.points[0].0), left(line.points[line.points.len() - 1].0));
            let floor = HEIGHT - BOTTOM;
            let _ = write!(svg, r#"<path class="fill {}" d="M{first:.1},{floor} L{} L{last:.1},{floor} Z"/>"#, line.class, path.join(" L"));
        }
        let _ = write!(svg, r#"<path class="line {}" d="M{}"/>"#, line.class, path.join(" L"));
    }
    let mut free_from = f64::NEG_INFINITY;
    for (x, y, text) in notes {
        let (at_x, at_y) = (left(*x), top(*y));
        let _ = write!(svg, r#"<circle class="dot" cx="{at_x:.1}" cy="{at_y:.1}" r="3.5"/>"#);
        // To the left of its dot where there would be no room on the right.
        let length = text.chars().count() as f64 * LETTER;
        let (shift, anchor, begin) =
            if at_x + 8.0 + length > width - 4.0 { (-8.0, "end", at_x - 8.0 - length) } else { (8.0, "start", at_x + 8.0) };
        if begin < free_from {
            continue;
        }
        free_from = begin + length + LETTER;
        let _ = write!(
            svg,
            r#"<text class="note" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            at_x + shift,
            at_y - 8.0,
            escape(text)
        );
    }
    svg + "</svg>"
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|round| *round >= step * 0.999).unwrap_or(step)
}

fn trim(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let axis = Axis::linear(37.0, |value| format!("{value}"));
        assert_eq!((axis.last, axis.ticks.len()), (40.0, 5));
        let axis = Axis::log(35.0, 4200.0, |value| format!("{value}"));
        assert_eq!(axis.ticks.iter().map(|tick| tick.0).collect::<Vec<_>>(), [10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(Axis::linear(0.0, |value| format!("{value}")).place(0.0), 0.0);
    }

    #[test]
    fn marks_that_would_run_into_each_other_are_left_out() {
        let marks = |width: f64| {
            let x = Axis::marked(0.0, 4.0, vec![(0.0, "0 %".into()), (0.3, "50 %".into()), (1.0, "90 %".into()), (4.0, "99.99 %".into())]);
            let svg = drawn(width, &x, &Axis::linear(1.0, |_| String::new()), &[], &[], &[]);
            [" %", "50 %"].map(|text| svg.matches(text).count())
        };
        assert_eq!((marks(960.0), marks(NARROW)), ([4, 1], [3, 0]));
    }

    #[test]
    fn points_never_leave_the_frame() {
        let axis = Axis::linear(10.0, |value| format!("{value}"));
        assert_eq!((axis.place(-5.0), axis.place(500.0)), (0.0, 1.0));
    }
}
