//! The page of a run: one file, no script, nothing fetched. Headlines, charts, every row, the command to repeat it.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::Report;
use super::chart::{Axis, Line, Width, chart, escape};
use super::series::Point;
use crate::progress::{short, short_bytes, short_us};

const STYLE: &str = "
:root{--bg:#f6f7f9;--card:#fff;--ink:#1a2230;--soft:#667085;--grid:#e4e7ec;--a:#2563eb;--b:#0d9488;--bad:#b42318;--badbg:#fef3f2;--ok:#067647;--okbg:#ecfdf3}
@media(prefers-color-scheme:dark){:root{--bg:#0f141c;--card:#171e29;--ink:#e6eaf1;--soft:#8f9bb0;--grid:#273041;--a:#6ea0ff;--b:#2dd4bf;--bad:#fda29b;--badbg:#3a1714;--ok:#6ce9a6;--okbg:#0d2c1f}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 24px 48px}
header{display:flex;align-items:center;gap:14px;flex-wrap:wrap}h1{font-size:28px;line-height:1.2;margin:0;letter-spacing:-.01em}
.badge{font-size:13px;font-weight:600;padding:3px 12px;border-radius:99px;background:var(--okbg);color:var(--ok)}.badge.bad{background:var(--badbg);color:var(--bad)}
.sub{color:var(--soft);margin:6px 0 24px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));gap:14px;margin-bottom:14px}
.card,section{background:var(--card);border:1px solid var(--grid);border-radius:12px;padding:16px 18px}
.card .k{color:var(--soft);font-size:13px}.card .v{font-size:22px;font-weight:650;letter-spacing:-.01em;line-height:1.3;margin-top:2px}.card .d{color:var(--soft);font-size:13px;margin-top:2px}
section{margin-bottom:14px}h2{font-size:16px;margin:0 0 2px}p.hint{color:var(--soft);font-size:13px;margin:0 0 10px}
svg{display:block;width:100%;height:auto}.narrow{display:none}.grid{stroke:var(--grid);stroke-width:1}.grid.faint{opacity:.55}.tick{fill:var(--soft);font-size:11.5px}.note{fill:var(--ink);font-size:11.5px;font-weight:600}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.line.a{stroke:var(--a)}.line.b{stroke:var(--b)}.fill{stroke:none;opacity:.13}.band{fill:var(--soft);opacity:.16}.fill.a{fill:var(--a)}.fill.b{fill:var(--b)}.dot{fill:var(--card);stroke:var(--a);stroke-width:2}
table{border-collapse:collapse;width:100%;font-size:14px}td{padding:6px 0;border-top:1px solid var(--grid);vertical-align:top;overflow-wrap:anywhere}tr:first-child td{border-top:0}td:first-child{color:var(--soft);width:280px;padding-right:20px}td.n{font-variant-numeric:tabular-nums}
.fail{background:var(--badbg);border-color:transparent}.fail h2,.fail li{color:var(--bad)}.fail ul{margin:6px 0 0;padding-left:20px}
pre{margin:8px 0 0;padding:12px 14px;background:var(--bg);border-radius:8px;font:13px/1.5 ui-monospace,'DejaVu Sans Mono',monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.two{display:grid;grid-template-columns:1fr 1fr;gap:14px}.two{margin-bottom:14px}.two section{margin:0;min-width:0}@media(max-width:860px){.two{grid-template-columns:1fr}}
footer{color:var(--soft);font-size:13px;margin-top:18px}
@media(max-width:560px){main{padding:20px 14px 32px}h1{font-size:24px}.card,section{padding:14px}.wide{display:none}.narrow{display:block}
table,tbody,tr,td{display:block}td:first-child{width:auto;padding:8px 0 0}td.n{border-top:0;padding:0 0 8px}}
";

pub fn page(report: &Report) -> String {
    let result = report.result();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{} · loadgen</title>\n<style>{STYLE}</style>\n<main>\n",
        escape(report.scenario)
    );
    let badge = format!("<span class=\"badge{}\">{result}</span>", if result == "ok" { "" } else { " bad" });
    let _ = writeln!(
        page,
        "<header><h1>{}</h1>{badge}</header>\n<p class=\"sub\">against {} · {}</p>",
        escape(&capitalised(report.scenario)),
        escape(&report.title),
        utc(report.begin_unix_ms())
    );
    if result == "failed" {
        let items: String = report.failures.iter().chain(&report.samples).map(|text| format!("<li>{}</li>", escape(text))).collect();
        let _ = writeln!(page, "<section class=\"fail\"><h2>What went wrong</h2><ul>{items}</ul></section>");
    }
    page += "<div class=\"cards\">";
    for row in report.rows.iter().filter(|row| row.is_headline) {
        let (value, detail) = split_value(&row.value);
        let _ = write!(page, "<div class=\"card\"><div class=\"k\">{}</div><div class=\"v\">{}</div>", escape(&row.label), escape(value));
        if !detail.is_empty() {
            let _ = write!(page, "<div class=\"d\">{}</div>", escape(detail));
        }
        page += "</div>";
    }
    if !report.total.latency_us.is_empty() {
        let at = |percentile| short_us(report.total.latency_us.value_at_percentile(percentile) as f64);
        let _ = write!(
            page,
            "<div class=\"card\"><div class=\"k\">latency, p99</div><div class=\"v\">{}</div><div class=\"d\">p50 {}, p99.99 {}</div></div>",
            at(99.0),
            at(50.0),
            at(99.99)
        );
    }
    page += "</div>\n";

    if !report.total.latency_us.is_empty() {
        let hint = "From the time a message was due to be sent to the read that brought it, by percentile. Both scales are logarithmic.";
        section(&mut page, "Latency", hint, &percentiles(&report.total.latency_us));
        let hint = "Share of messages by latency.";
        section(&mut page, "Latency distribution", hint, &distribution(&report.total.latency_us));
        if !report.total.direct_us.is_empty() {
            let hint = "The same of messages to single clients, which are not in the two above.";
            section(&mut page, "Latency of direct messages", hint, &percentiles(&report.total.direct_us));
        }
    } else if !report.total.connect_us.is_empty() {
        let hint = "From the time a connection was begun until it was ready, by percentile. Both scales are logarithmic.";
        section(&mut page, "Connect latency", hint, &percentiles(&report.total.connect_us));
    }
    let points = &report.series.points;
    if points.len() > 2 {
        page += "<div class=\"two\">";
        let turns = &report.series.floor_turns;
        let hint =
            |text: &str| if turns.is_empty() { text.to_owned() } else { format!("{text} Shaded: the floor's turns, not the server's.") };
        let messages = rate(points, turns, "a", |point| point.messages, short);
        section(&mut page, "Messages per second", &hint("Received by all clients together."), &messages);
        let bytes = rate(points, turns, "b", |point| point.bytes, short_bytes);
        section(&mut page, "Bytes per second", &hint("Received, frame headers included."), &bytes);
        section(&mut page, "Connections", &hint("Ready at that time."), &level(points, turns, |point| point.ready));
        let connects = rate(points, turns, "b", |point| point.connected, short);
        section(&mut page, "Connects per second", &hint("That became ready."), &connects);
        page += "</div>\n";
    }
    page += "<section><h2>All figures</h2><table>";
    for row in &report.rows {
        let _ = write!(page, "<tr><td>{}</td><td class=\"n\">{}</td></tr>", escape(&row.label), escape(&row.value));
    }
    let _ = write!(page, "</table></section>\n<section><h2>To repeat it</h2><pre>{}</pre></section>\n", escape(&report.command()));
    let machine = report.machine();
    let text = |key: &str| machine[key].as_str().map_or_else(|| machine[key].to_string(), str::to_owned);
    let _ = write!(
        page,
        "<footer>{} · {} core{} · {} · Linux {} · load {} at the begin · loadgen {}</footer>\n</main>\n</html>\n",
        escape(&text("cpu")),
        text("cores"),
        if text("cores") == "1" { "" } else { "s" },
        gigabytes(&text("memory")),
        escape(&text("kernel")),
        text("load_average"),
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn section(page: &mut String, title: &str, hint: &str, body: &str) {
    let _ = write!(page, "<section><h2>{title}</h2><p class=\"hint\">{hint}</p>{body}</section>");
}

/// Latency over the number of nines: 90 %, 99 %, 99.9 % stand at equal distances.
fn percentiles(histogram: &Histogram<u64>) -> String {
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).max(1e-9).log10();
    // No further than there are messages to tell percentiles apart.
    let most = nines(99.99).min((histogram.len() as f64).log10().max(1.0));
    let mut points = Vec::new();
    let mut at = 0.0;
    while at <= most {
        points.push((at, histogram.value_at_quantile(1.0 - 10f64.powf(-at)).max(1) as f64));
        at += 0.02;
    }
    points.push((most, histogram.value_at_quantile(1.0 - 10f64.powf(-most)).max(1) as f64));
    let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99].into_iter().filter(|mark| nines(*mark) <= most + 1e-9);
    let marks: Vec<(f64, String)> = marks.map(|mark| (nines(mark), format!("{mark} %"))).collect();
    let notes: Vec<(f64, f64, String)> = marks
        .iter()
        .skip(1)
        .map(|(at, _)| {
            let value = histogram.value_at_quantile(1.0 - 10f64.powf(-at)).max(1) as f64;
            (*at, value, short_us(value))
        })
        .collect();
    let (least, last) = (histogram.value_at_quantile(0.0).max(1) as f64, points.last().map_or(1.0, |point| point.1));
    chart(
        Width::Whole,
        &Axis::marked(0.0, most, marks),
        &Axis::log(least, last, |us| tick(short_us(us))),
        &[Line { class: "a", points, is_filled: true }],
        &notes,
        &[],
    )
}

fn distribution(histogram: &Histogram<u64>) -> String {
    // Twelve bars to a power of ten.
    const PER_POWER: f64 = 12.0;
    let least = (histogram.min().max(1) as f64).log10();
    let most = (histogram.max().max(2) as f64).log10();
    let (first, last) = ((least * PER_POWER).floor() as i32, (most * PER_POWER).floor() as i32);
    let mut shares = vec![0.0; (last - first + 1) as usize];
    for bucket in histogram.iter_recorded() {
        let slot = ((bucket.value_iterated_to().max(1) as f64).log10() * PER_POWER).floor() as i32 - first;
        shares[slot.clamp(0, last - first) as usize] += bucket.count_since_last_iteration() as f64 * 100.0 / histogram.len() as f64;
    }
    let mut points = Vec::new();
    for (slot, share) in shares.iter().enumerate() {
        let edge = |slot: usize| 10f64.powf((first + slot as i32) as f64 / PER_POWER);
        points.extend([(edge(slot), *share), (edge(slot + 1), *share)]);
    }
    let top = shares.iter().copied().fold(0.0, f64::max);
    let (left, right) = (points[0].0, points[points.len() - 1].0);
    let x = Axis::log(left, right, |us| tick(short_us(us)));
    chart(
        Width::Whole,
        &x,
        &Axis::linear(top, |share| format!("{} %", (share * 100.0).round() / 100.0)),
        &[Line { class: "a", points, is_filled: true }],
        &[],
        &[],
    )
}

fn rate(points: &[Point], floor_turns: &[(f64, f64)], class: &str, of: impl Fn(&Point) -> u64, show: impl Fn(f64) -> String) -> String {
    let line: Vec<(f64, f64)> = points
        .windows(2)
        .map(|pair| {
            let seconds = (pair[1].seconds - pair[0].seconds).max(1e-6);
            (pair[1].seconds, of(&pair[1]).saturating_sub(of(&pair[0])) as f64 / seconds)
        })
        .collect();
    let most = line.iter().map(|point| point.1).fold(0.0, f64::max);
    over_time(points, floor_turns, most, class, line, show)
}

fn level(points: &[Point], floor_turns: &[(f64, f64)], of: impl Fn(&Point) -> u64) -> String {
    let line: Vec<(f64, f64)> = points.iter().map(|point| (point.seconds, of(point) as f64)).collect();
    let most = line.iter().map(|point| point.1).fold(0.0, f64::max);
    over_time(points, floor_turns, most, "a", line, short)
}

fn over_time(
    points: &[Point],
    floor_turns: &[(f64, f64)],
    most: f64,
    class: &str,
    line: Vec<(f64, f64)>,
    show: impl Fn(f64) -> String,
) -> String {
    let last_turn = floor_turns.last().map_or(0.0, |turn| turn.1);
    let end = points.last().map_or(1.0, |point| point.seconds).max(last_turn);
    chart(
        Width::Half,
        &Axis::time(end),
        &Axis::linear(most, |value| tick(show(value))),
        &[Line { class, points: line, is_filled: true }],
        &[],
        floor_turns,
    )
}

/// A round number without the digits after its point.
fn tick(text: String) -> String {
    for zeros in [".00", ".0"] {
        if let Some(at) = text.find(zeros).filter(|at| !text[at + zeros.len()..].starts_with(|next: char| next.is_ascii_digit())) {
            return format!("{}{}", &text[..at], &text[at + zeros.len()..]);
        }
    }
    text
}

/// The figure, and what follows it in brackets or after a comma.
fn split_value(value: &str) -> (&str, &str) {
    let at = [value.find(" ("), value.find(", ")].into_iter().flatten().min();
    match at {
        Some(at) => (&value[..at], value[at..].trim_start_matches([' ', ',']).trim_start()),
        None => (value, ""),
    }
}

/// /proc/meminfo counts in kB.
fn gigabytes(kilobytes: &str) -> String {
    let number = kilobytes.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    number.map_or_else(|| kilobytes.to_owned(), |number| short_bytes(number * 1024.0))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// 2026-01-31 12:00 UTC. Days are counted as in Howard Hinnant's `civil_from_days`.
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(utc(1_767_225_600_000), "2026-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00 UTC");
    }

    #[test]
    fn marks_are_short() {
        assert_eq!(
            ["1.0 ms", "15.0 MB", "1.00 s", "1.05 s", "60.0k"].map(|text| tick(text.to_owned())),
            ["1 ms", "15 MB", "1 s", "1.05 s", "60k"]
        );
    }

    #[test]
    fn a_figure_is_parted_from_its_detail() {
        assert_eq!(split_value("1.07 × (1.02 to 1.10)"), ("1.07 ×", "(1.02 to 1.10)"));
        assert_eq!(split_value("8970 ns"), ("8970 ns", ""));
        assert_eq!(split_value("23 ms with them, 36 ms without"), ("23 ms with them", "36 ms without"));
    }
}
