//! What `campanile top` shows on a terminal, and what its keys do. Knows no terminal: it draws into the frame that it is given.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, Wrap};

use super::text::{bytes, count, figures, number, reasons, seconds, span, yet_or_now};
use crate::cli::output::printable;
use crate::control::stats::snapshot::{Channel, Snapshot};
use crate::named::named;

named! {
    /// What the channels are sorted by; the key `s` goes to the next.
    Sort {
        Deliveries = "deliveries",
        Messages = "messages",
        Subscribers = "subscribers",
        Name = "name",
    }
}

/// Snapshots of which the deliveries are drawn; no terminal is wider.
const KEPT: usize = 512;
/// Narrower than this, tables stand below each other.
const WIDE: u16 = 100;

#[derive(Debug)]
pub struct Screen {
    /// Which server it is.
    place: String,
    stats: Option<Snapshot>,
    /// Why nothing comes.
    lost: Option<String>,
    deliveries: Vec<u64>,
    sort: Sort,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Draw,
    Quit,
}

impl Screen {
    pub fn new(place: String) -> Screen {
        Screen { place, stats: None, lost: None, deliveries: Vec::new(), sort: Sort::Deliveries }
    }

    pub fn take(&mut self, stats: Snapshot) {
        if let Some(rates) = &stats.rates {
            if self.deliveries.len() == KEPT {
                self.deliveries.remove(0);
            }
            self.deliveries.push(rates.deliveries.round() as u64);
        }
        (self.stats, self.lost) = (Some(stats), None);
    }

    pub fn lose(&mut self, why: String) {
        self.lost = Some(why);
    }

    pub fn press(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
            // In raw mode it is a key like others.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
            KeyCode::Char('s') => {
                self.sort = Sort::ALL[(self.sort as usize + 1) % Sort::ALL.len()];
                Wish::Draw
            }
            _ => Wish::Nothing,
        }
    }

    pub fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] = Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(self.foot(), foot);
        match &self.stats {
            None => frame.render_widget(Paragraph::new("Waiting for the first figures …"), body),
            Some(stats) => self.draw_stats(frame, body, stats),
        }
    }

    fn head(&self) -> Line<'_> {
        let mut spans = vec!["campanile ".bold()];
        if let Some(stats) = &self.stats {
            let is_well = stats.not_ready.is_none();
            spans.push(format!("{} ", printable(&stats.version)).into());
            spans.push(Span::styled(printable(&stats.stage), color(if is_well { Color::Green } else { Color::Red }).bold()));
            spans.push(format!(", up {}, ", span(stats.uptime_seconds)).into());
        }
        spans.push(self.place.as_str().into());
        if let Some(why) = &self.lost {
            spans.push(Span::styled(format!("  not connected: {}", printable(why)), color(Color::Red).bold()));
        }
        Line::from(spans)
    }

    fn foot(&self) -> Line<'_> {
        let mut spans = vec!["q".bold(), " quit  ".into(), "s".bold(), " sort channels, now by ".into(), self.sort.name().into()];
        if let Some(stats) = &self.stats {
            spans.push(format!("  {} watching", stats.watchers).dim());
        }
        Line::from(spans)
    }

    fn draw_stats(&self, frame: &mut Frame<'_>, area: Rect, stats: &Snapshot) {
        let mut lines: Vec<Line<'_>> = Vec::new();
        if let Some(reason) = &stats.not_ready {
            lines.push(Line::styled(format!("not ready    {}", printable(reason)), color(Color::Red).bold()));
        }
        lines.extend(figures(stats).into_iter().map(|(name, text)| Line::from(vec![format!("{name:<12} ").dim(), text.into()])));
        if stats.connections == 0 && stats.not_ready.is_none() {
            lines.push(Line::default());
            let title = format!("Nobody is connected {}. To see a message arrive, in two other terminals:", yet_or_now(stats));
            lines.push(title.bold().into());
            lines.extend(stats.first_commands.iter().map(|command| Line::from(format!("  {}", printable(command)))));
        }
        // A word that does not fit takes its line's rest along.
        let rows_of = |line: &Line<'_>| (line.width() + 12).div_ceil(usize::from(area.width).max(1)).max(1);
        let figures_rows = lines.iter().map(rows_of).sum::<usize>().min(usize::from(area.height)) as u16;
        // A low graph, where a whole one would leave the tables too little: they want six rows beside it.
        let spark_rows = match area.height.saturating_sub(figures_rows) {
            19.. => 5,
            9.. => 3,
            _ => 0,
        };
        let [top, spark, tables] =
            Layout::vertical([Constraint::Length(figures_rows), Constraint::Length(spark_rows), Constraint::Min(0)]).areas(area);
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), top);
        if spark_rows > 0 {
            let shown = self.deliveries.len().saturating_sub(usize::from(spark.width));
            let most = self.deliveries[shown..].iter().max().copied().unwrap_or(0);
            let title = format!(" deliveries a second, up to {} ", count(most));
            let block = Block::new().borders(Borders::TOP).title(title);
            frame.render_widget(Sparkline::default().block(block).data(&self.deliveries[shown..]).style(color(Color::Yellow)), spark);
        }
        let is_wide = tables.width >= WIDE;
        let halves = [Constraint::Fill(1), Constraint::Fill(1)];
        if is_wide {
            let [left, right] = Layout::horizontal(halves).spacing(2).areas(tables);
            let [upper, lower] = Layout::vertical(halves).areas(right);
            frame.render_widget(self.channels(stats, left), left);
            frame.render_widget(shards(stats), upper);
            frame.render_widget(reasons_table(stats), lower);
        } else {
            // Two rows of a table are its title and the names of its columns: rather none of it.
            let shard_rows = (stats.shards.len() as u16).saturating_add(2).min(tables.height / 3);
            let reason_rows = tables.height / 4;
            let [upper, middle, lower] = Layout::vertical([
                Constraint::Fill(1),
                Constraint::Length(if shard_rows > 2 { shard_rows } else { 0 }),
                Constraint::Length(if reason_rows > 2 { reason_rows } else { 0 }),
            ])
            .areas(tables);
            frame.render_widget(self.channels(stats, upper), upper);
            frame.render_widget(shards(stats), middle);
            frame.render_widget(reasons_table(stats), lower);
        }
    }

    fn channels(&self, stats: &Snapshot, area: Rect) -> Table<'static> {
        let mut channels: Vec<&Channel> = stats.busiest.iter().flatten().collect();
        channels.sort_by(|a, b| match self.sort {
            Sort::Deliveries => b.deliveries.total_cmp(&a.deliveries),
            Sort::Messages => b.messages.total_cmp(&a.messages),
            Sort::Subscribers => b.subscribers.cmp(&a.subscribers),
            Sort::Name => a.name.cmp(&b.name),
        });
        let rows: Vec<Row<'static>> = channels
            .iter()
            .take(usize::from(area.height))
            .map(|channel| {
                Row::new([
                    Cell::from(printable(&channel.name)),
                    right(number(channel.deliveries)),
                    right(number(channel.messages)),
                    right(count(channel.subscribers)),
                ])
            })
            .collect();
        let title = match &stats.busiest {
            None => " busiest channels: the bus has not answered ",
            Some(channels) if channels.is_empty() => " busiest channels: nothing is delivered now ",
            Some(_) => " busiest channels, a second ",
        };
        let widths = [Constraint::Fill(1), Constraint::Length(10), Constraint::Length(10), Constraint::Length(11)];
        table(title, rows, &widths, &["channel", "deliveries", "messages", "subscribers"])
    }
}

fn shards(stats: &Snapshot) -> Table<'static> {
    let rows = stats.shards.iter().enumerate().map(|(number_of, shard)| {
        let busy = Cell::from(Line::from(format!("{:.0} %", shard.busy * 100.0)).alignment(Alignment::Right));
        let busy = if shard.busy > 0.85 { busy.style(color(Color::Red)) } else { busy };
        let closed = if shard.closed_by.is_empty() { String::new() } else { format!(" closed: {}", shard.closed_by.join(", ")) };
        Row::new([
            Cell::from(printable(&format!("{number_of}{closed}"))),
            busy,
            right(seconds(shard.lag_seconds)),
            right(count(shard.connections)),
            right(number(shard.deliveries)),
            right(count(shard.lagging)),
            right(bytes(shard.log_bytes)),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(9),
    ];
    table(" shards ", rows.collect(), &widths, &["shard", "busy", "lag", "clients", "sent/s", "behind", "logs"])
}

fn reasons_table(stats: &Snapshot) -> Table<'static> {
    let rows =
        reasons(stats).into_iter().map(|(reason, of)| Row::new([Cell::from(reason), right(number(of.rate)), right(count(of.total))]));
    let widths = [Constraint::Fill(1), Constraint::Length(9), Constraint::Length(9)];
    table(" refused, closed, passed ", rows.collect(), &widths, &["reason", "a second", "in all"])
}

fn table(title: &'static str, rows: Vec<Row<'static>>, widths: &[Constraint], names: &[&'static str]) -> Table<'static> {
    let header = names.iter().enumerate().map(|(at, name)| if at == 0 { Cell::from(*name) } else { right((*name).to_owned()) });
    Table::new(rows, widths.to_vec())
        .header(Row::new(header).style(Style::new().dim()))
        .column_spacing(1)
        .block(Block::new().borders(Borders::TOP).title(title))
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).alignment(Alignment::Right))
}

/// Where it is not wanted (<https://no-color.org>), everything keeps the terminal's own.
fn color(color: Color) -> Style {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) { Style::new() } else { Style::new().fg(color) }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::control::stats::snapshot::{Bus, Count, Latency, Memory, Part, Rates, Server, Shard};

    fn stats() -> Snapshot {
        let channel = |name: &str, deliveries, messages, subscribers| Channel { name: name.into(), deliveries, messages, subscribers };
        let shard = |busy| Shard { busy, connections: 50_000, ..Shard::default() };
        Snapshot {
            version: "1.2.3".into(),
            uptime_seconds: 7300,
            stage: "serving".into(),
            connections: 100_000,
            connections_max: 1_000_000,
            rates: Some(Rates { seconds: 1.0, deliveries: 12_345.0, ..Rates::default() }),
            latency: Some(Latency { p50: 0.0004, p90: 0.001, p99: 0.0025, p999: 0.01 }),
            shards: vec![shard(0.25), shard(0.5)],
            busiest: Some(vec![channel("zebra", 9000.0, 3.0, 3000), channel("ant", 800.0, 8.0, 100), channel("news", 70.0, 70.0, 1)]),
            closed: vec![Count { name: "overrun".into(), total: 7, rate: 0.5 }],
            refused: vec![Count { name: "overloaded_lag".into(), total: 90, rate: 2.0 }],
            bus: Bus {
                kind: "redis".into(),
                is_ready: true,
                servers: vec![Server { url: "redis://h:6379".into(), is_ready: true, probe_age_seconds: Some(2.4) }],
            },
            memory: Memory { resident_bytes: Some(123 << 20), bytes_max: 2 << 30, parts: Vec::new() },
            watchers: 1,
            first_commands: vec!["campanile subscribe news".into(), "campanile publish news hello".into()],
            ..Snapshot::default()
        }
    }

    fn shown(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn screen_with(stats: Snapshot) -> Screen {
        let mut screen = Screen::new("127.0.0.1:9090".into());
        screen.take(stats);
        screen
    }

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn everything_is_shown_on_a_wide_terminal_and_on_a_small_one() {
        let screen = screen_with(stats());
        for (width, height) in [(140, 45), (80, 40)] {
            let text = shown(&screen, width, height);
            for part in [
                "campanile 1.2.3 serving, up 2 h 1 min, 127.0.0.1:9090",
                "100,000 of 1.0M",
                "12,345/s",
                "p50 400 µs, p90 1.0 ms, p99 2.5 ms, p99.9 10.0 ms",
                "123 MiB, user memory bounded by 2.0 GiB",
                "redis://h:6379 messages flow, probe came back 2.4 s ago",
                "refused: overloaded_lag",
                "closed: overrun",
                "50 %",
                "zebra",
                "q quit",
            ] {
                assert!(text.contains(part), "{part:?} is missing at {width} x {height}:\n{text}");
            }
            assert!(!text.contains("Nobody is connected"), "{text}");
        }
        // No size is too small to draw.
        for (width, height) in [(1, 1), (10, 3), (40, 10), (99, 24), (300, 5)] {
            shown(&screen, width, height);
        }
    }

    #[test]
    fn the_graph_is_there_on_a_terminal_of_24_rows_and_somewhat_below() {
        let part = |name: &str| Part { name: name.into(), bytes: 1 << 20, bytes_max: 1 << 30 };
        // As long as a server tells it, a line that takes several rows.
        let parts = ["connections", "logs", "inboxes", "history", "commands"].map(part).to_vec();
        let long = screen_with(Snapshot { memory: Memory { parts, ..stats().memory }, ..stats() });
        let graph = "deliveries a second, up to 12,345";
        for (screen, height) in [(&screen_with(stats()), 18), (&screen_with(stats()), 22), (&long, 24)] {
            let text = shown(screen, 80, height);
            for part in [graph, "█", "zebra", "ant", "news", "q quit"] {
                assert!(text.contains(part), "{part:?} is missing in {height} rows:\n{text}");
            }
        }
        let text = shown(&screen_with(stats()), 80, 24);
        for part in [graph, "50 %", "refused: overloaded_lag"] {
            assert!(text.contains(part), "{part:?} is missing:\n{text}");
        }
        // Figures and channels are worth more than a picture.
        let text = shown(&screen_with(stats()), 80, 14);
        assert!(!text.contains(graph) && text.contains("zebra"), "{text}");
    }

    #[test]
    fn s_sorts_by_the_next_and_q_escape_and_control_c_end_it() {
        let mut screen = screen_with(stats());
        let first = |screen: &Screen| {
            let text = shown(screen, 80, 40);
            let names = ["zebra", "ant", "news"];
            names.into_iter().min_by_key(|name| text.find(&format!("\"{name} ")).unwrap_or(usize::MAX)).unwrap()
        };
        let mut orders = vec![first(&screen)];
        for _ in 0..4 {
            assert_eq!(screen.press(key(KeyCode::Char('s'))), Wish::Draw);
            orders.push(first(&screen));
        }
        assert_eq!(orders, ["zebra", "news", "zebra", "ant", "zebra"], "deliveries, messages, subscribers, name, deliveries");
        assert_eq!([KeyCode::Char('q'), KeyCode::Esc].map(|code| screen.press(key(code))), [Wish::Quit; 2]);
        assert_eq!(screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Quit);
        assert_eq!([KeyCode::Char('c'), KeyCode::Up, KeyCode::Char('x')].map(|code| screen.press(key(code))), [Wish::Nothing; 3]);
    }

    #[test]
    fn an_empty_server_says_what_to_type_and_a_lost_one_that_it_is_lost() {
        let empty = Snapshot { connections: 0, busiest: Some(Vec::new()), closed: Vec::new(), ..stats() };
        let mut screen = Screen::new("here".into());
        assert!(shown(&screen, 80, 24).contains("Waiting for the first figures"));
        screen.take(empty);
        let text = shown(&screen, 80, 30);
        assert!(text.contains("Nobody is connected yet") && text.contains("  campanile subscribe news"), "{text}");
        assert!(text.contains("nothing is delivered now"), "{text}");
        screen.take(Snapshot { connections: 0, ..stats() });
        assert!(shown(&screen, 80, 30).contains("Nobody is connected now"));
        screen.take(Snapshot { connections: 0, not_ready: Some("Redis cannot be reached".into()), ..stats() });
        assert!(!shown(&screen, 80, 30).contains("Nobody is connected"), "first it must be ready");
        screen.lose("the server has closed the connection".into());
        assert!(shown(&screen, 120, 30).contains("not connected: the server has closed the connection"));
        screen.take(Snapshot { not_ready: Some("Redis cannot be reached".into()), busiest: None, ..stats() });
        let text = shown(&screen, 80, 30);
        assert!(text.contains("not ready    Redis cannot be reached") && text.contains("the bus has not answered"), "{text}");
        assert!(!text.contains("not connected"), "{text}");
    }

    #[test]
    fn hostile_names_stay_text() {
        let hostile = "\x1b[31m\x1b]0;owned\x07\u{9b}2J\u{202e}evil\r\n<script>";
        let mut stats = stats();
        stats.busiest.as_mut().unwrap()[0].name = hostile.into();
        (stats.version, stats.stage, stats.bus.servers[0].url) = (hostile.into(), hostile.into(), hostile.into());
        stats.closed[0].name = hostile.into();
        stats.shards[0].closed_by = vec![hostile.into()];
        stats.not_ready = Some(hostile.into());
        stats.first_commands = vec![hostile.into()];
        let page = super::super::text::page(&stats);
        let mut screen = screen_with(Snapshot { connections: 0, ..stats });
        screen.lose(hostile.into());
        for text in [shown(&screen, 140, 45), shown(&screen, 80, 40), page] {
            let steers = |letter: char| letter != '\n' && (letter.is_control() || letter == '\u{202e}');
            assert!(!text.contains(steers), "{text:?}");
            assert!(text.contains("[31m") && text.contains("evil"), "it is shown as text: {text}");
        }
    }
}
