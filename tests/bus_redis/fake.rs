//! A server that speaks RESP and says what a test wants it to say.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What the server does at a command.
pub enum Act {
    Say(String),
    /// As a Redis would, in RESP3.
    Obey,
    HangUp,
}

pub fn say(text: &str) -> Act {
    Act::Say(format!("{text}\r\n"))
}

/// A connection, from the server's side.
pub struct Session {
    /// Of the connection, from 0 on.
    pub number: u32,
    /// Commands received on it so far, each with its arguments.
    pub commands: Vec<Vec<String>>,
    pub stream: TcpStream,
}

/// Serves until the test ends; returns the port on 127.0.0.1.
pub fn serve(act: impl Fn(&mut Session) -> Act + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (act, count) = (Arc::new(act), AtomicU32::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let (act, number) = (act.clone(), count.fetch_add(1, Relaxed));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut session = Session { number, commands: Vec::new(), stream };
                while let Some(command) = read_command(&mut reader) {
                    session.commands.push(command);
                    let answer = match act(&mut session) {
                        Act::Say(text) => text,
                        Act::Obey => obey(session.commands.last().unwrap()),
                        Act::HangUp => break,
                    };
                    if session.stream.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
                let _ = session.stream.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    port
}

impl Session {
    /// The newest command, in one line.
    pub fn command(&self) -> String {
        self.commands.last().unwrap().join(" ")
    }

    /// How often a command that begins like this came on this connection.
    pub fn count(&self, begin: &str) -> usize {
        self.commands.iter().filter(|command| command.join(" ").starts_with(begin)).count()
    }
}

/// None at the end of the connection.
fn read_command(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let number = |line: String| line.trim_end()[1..].parse::<usize>().ok();
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&count| count > 0).map(|_| line)
    };
    let count = number(line()?)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&count| count > 0)?;
        let mut word = vec![0; number(header)? + 2];
        reader.read_exact(&mut word).ok()?;
        words.push(String::from_utf8_lossy(&word[..word.len() - 2]).into_owned());
    }
    Some(words)
}

/// What a Redis answers in RESP3.
pub fn obey(command: &[String]) -> String {
    let confirm = |verb: &str| -> String {
        command[1..].iter().map(|name| format!(">3\r\n${}\r\n{verb}\r\n${}\r\n{name}\r\n:1\r\n", verb.len(), name.len())).collect()
    };
    match command[0].as_str() {
        "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
        "SUBSCRIBE" => confirm("subscribe"),
        "UNSUBSCRIBE" => confirm("unsubscribe"),
        "PSUBSCRIBE" => confirm("psubscribe"),
        "PING" => "+PONG\r\n".to_owned(),
        "PUBLISH" => ":0\r\n".to_owned(),
        "CONFIG" => "%1\r\n$7\r\ntimeout\r\n$1\r\n0\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    }
}

pub fn message(channel: &str, payload: &str) -> String {
    format!(">3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n{payload}\r\n", channel.len(), payload.len())
}
