//! `campanile top`: what happens on a server, on a terminal, once a second. The page at `/` of its control port shows the same.
//!
//! `connection` brings the figures, `screen` shows them, `text` spells them.

mod connection;
mod screen;
mod text;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::SignalKind;

use super::{BadSettings, flags, output, signals};
use crate::config::load;
use crate::control::stats::snapshot::Snapshot;
use connection::{Connection, Target};
use screen::{Screen, Wish};

const LONG_ABOUT: &str = "\
Show what happens on a server: connections, deliveries, latency, load of each shard, the busiest
channels, who was refused or closed and why, Redis, memory. Once a second, by its control port.

Where standard output is no terminal, it prints the figures of one second as text and ends.";
const EXAMPLES: &str = "\
Examples:
  campanile top
  campanile top --control 10.0.0.7:9090
  campanile top --url https://ops.example.org/campanile
  campanile top --once
  campanile top --json | jq .rates.deliveries

Keys: q ends it, s sorts the channels by something else.";

/// How often keys are looked for.
const LOOK: Duration = Duration::from_millis(100);
const RECONNECT: Duration = Duration::from_secs(1);
/// Snapshots that wait to be drawn.
const NEWS_MAX: usize = 4;

pub fn command() -> Command {
    Command::new("top")
        .about("Show what happens on a server")
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).help("Print the figures of one second as text, and end"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON, a line each second; with --once one line"))
        .arg(flags::file())
        .args(flags::some(&["control", "control_token"]).into_iter().map(|arg| arg.help_heading("Which server")))
        .args(flags::control_url())
}

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let settings = load(&flags::sources(matches), None).map_err(BadSettings)?.settings;
    let token = settings.addresses.control_token.clone();
    let target = match flags::endpoint(matches)? {
        Some(endpoint) => Target::at(endpoint, token),
        None => Target::new(&settings.addresses.control, token),
    };
    let (once, json) = (matches.get_flag("once"), matches.get_flag("json"));
    let connection = target.connect()?;
    if json || once || !std::io::stdout().is_terminal() {
        return print(connection, once, json);
    }
    watch(target, connection)
}

/// Rates are known from the second snapshot on.
fn print(mut connection: Connection, once: bool, json: bool) -> anyhow::Result<ExitCode> {
    loop {
        let stats = connection.next().map_err(|why| anyhow!("{why}"))?;
        if stats.rates.is_none() {
            continue;
        }
        if !json {
            output::bytes(text::page(&stats).as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        output::json(&serde_json::to_string(&stats)?)?;
        if once {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

enum News {
    Stats(Box<Snapshot>),
    Lost(String),
}

fn watch(target: Target, connection: Connection) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::new(target.place());
    let (sender, news) = sync_channel(NEWS_MAX);
    std::thread::Builder::new().name("stats".to_owned()).spawn(move || follow(&target, connection, &sender))?;
    restore_on_signal()?;
    let mut terminal = ratatui::try_init().context("the terminal cannot be taken over; --once prints the figures instead")?;
    let outcome = show(&mut terminal, &mut screen, &news);
    ratatui::restore();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn show(terminal: &mut ratatui::DefaultTerminal, screen: &mut Screen, news: &Receiver<News>) -> anyhow::Result<()> {
    terminal.draw(|frame| screen.draw(frame))?;
    loop {
        let mut wish = Wish::Nothing;
        if event::poll(LOOK)? {
            wish = match event::read()? {
                Event::Key(key) => screen.press(key),
                Event::Resize(..) => Wish::Draw,
                Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => Wish::Nothing,
            };
        }
        loop {
            match news.try_recv() {
                Ok(News::Stats(stats)) => screen.take(*stats),
                Ok(News::Lost(why)) => screen.lose(why),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(anyhow!("the thread that reads has ended; this is a bug, please report it")),
            }
            wish = if wish == Wish::Quit { wish } else { Wish::Draw };
        }
        match wish {
            Wish::Quit => return Ok(()),
            Wish::Draw => {
                terminal.draw(|frame| screen.draw(frame))?;
            }
            Wish::Nothing => {}
        }
    }
}

/// Reads for as long as somebody looks, and connects again when the server has gone.
fn follow(target: &Target, connection: Connection, news: &SyncSender<News>) {
    let mut open = Some(connection);
    loop {
        let told = match &mut open {
            Some(connection) => connection.next().map(|stats| News::Stats(Box::new(stats))),
            None => match target.connect() {
                Ok(connection) => {
                    open = Some(connection);
                    continue;
                }
                Err(error) => Err(format!("{error:#}")),
            },
        };
        let is_lost = told.is_err();
        if news.send(told.unwrap_or_else(News::Lost)).is_err() {
            return;
        }
        if is_lost {
            open = None;
            std::thread::sleep(RECONNECT);
        }
    }
}

/// A terminal that was taken over is given back, whatever ends the command.
fn restore_on_signal() -> anyhow::Result<()> {
    signals::end_on([SignalKind::hangup(), SignalKind::terminate()], ratatui::restore)
}
