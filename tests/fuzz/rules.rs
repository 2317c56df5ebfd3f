//! Patterns of channels, and files of settings.

use campanile::auth::pattern::{Pattern, User};
use campanile::config::file;
use campanile::wire::channel_name;

use crate::mutate::mutated;
use crate::seeds::texts;

/// The slow way, by trying every length.
fn is_match(pattern: &str, name: &str) -> bool {
    const USER: &str = "u1";
    if let Some(rest) = pattern.strip_prefix("**") {
        return name.char_indices().any(|(at, letter)| is_match(rest, &name[at + letter.len_utf8()..]));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        let letters = name.char_indices().take_while(|(_, letter)| *letter != ':');
        return letters.into_iter().any(|(at, letter)| is_match(rest, &name[at + letter.len_utf8()..]));
    }
    if let Some(rest) = pattern.strip_prefix("{sub}") {
        return name.strip_prefix(USER).is_some_and(|name| is_match(rest, name));
    }
    match pattern.chars().next() {
        None => name.is_empty(),
        Some(letter) => name.strip_prefix(letter).is_some_and(|name| is_match(&pattern[letter.len_utf8()..], name)),
    }
}

#[test]
fn patterns() {
    let seeds = texts(&[
        "room:*:chat\nroom:1:chat",
        "user:{sub}\nuser:u1",
        "**\na:b:c",
        "a*b*c\nabbbcc",
        "{sub}:*:**\nu1:x:y:z",
        "*é*\nxéy",
        "news\nnews",
        "a**b\naxyb",
    ]);
    let words: &[&[u8]] = &[b"*", b"**", b"***", b"{sub}", b"{", b"}", b":", "é".as_bytes(), b"\n", b"u1", b"a", b"\x7f", b"\xc2\x85"];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let (pattern, channel) = text.split_once('\n').unwrap_or((text, ""));
        let Ok(read) = Pattern::read(pattern) else { return };
        assert_eq!(read.as_str(), pattern);
        if channel_name::check(channel).is_err() {
            let _ = read.matches(channel, User::Is("u1"));
            return;
        }
        let is_matched = read.matches(channel, User::Is("u1"));
        // So few that the slow way ends.
        if pattern.matches('*').count() <= 4 && channel.len() < 60 {
            assert_eq!(is_matched, is_match(pattern, channel), "{pattern:?} and {channel:?}");
        }
        assert!(!is_matched || read.matches(channel, User::Any), "{pattern:?} and {channel:?}");
        assert!(!is_matched || channel.starts_with(read.beginning()), "{pattern:?} and {channel:?}");
    });
}

#[test]
fn files_of_settings() {
    let seeds = texts(&[
        "listen = [\"0.0.0.0:8080\", \"proxy+unix:///run/c.sock?mode=660\"]\nauth = \"jwt\"\ntoken_secret = \"0123456789abcdef0123456789abcdef\"\n",
        "[[channels]]\npattern = \"user:{sub}\"\nsubscribe = \"owner\"\nhistory_count = 10\n[[channels]]\nprefix = \"room:\"\npublish = \"token\"\n",
        "[[listen]]\naddress = \"unix:///run/c.sock\"\nmode = \"0660\"\n[clients]\nheartbeat = 30\n",
        "log_bytes_total = \"64M\"\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\norigins = [\"https://*.example.org\"]\nshards = 2\n",
    ]);
    let words: &[&[u8]] = &[
        b"[[channels]]\n",
        b"[[listen]]\n",
        b"prefix = \"a\"\n",
        b"pattern = \"**\"\n",
        b"= ",
        b"\"",
        b"\"\"\"",
        b"'",
        b"[",
        b"]",
        b"{",
        b"}",
        b"\\u0000",
        b"true",
        b"1979-05-27",
        b"inf",
        b"0x10",
        b"subscribe = \"nobody\"\n",
        b"#",
        b"\n",
    ];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let contents = file::read("f.toml", text);
        for problem in &contents.problems {
            let told = problem.to_string();
            // Nobody knows of a line that does not say so that it holds one.
            const SECRET: &str = "0123456789abcdef0123456789abcdef";
            let is_said = |line: &str| {
                line.find("secret").is_some_and(|at| line[at..].find('=').is_some_and(|value| line[at + value..].contains(SECRET)))
            };
            assert!(!told.lines().any(is_said), "a secret is told: {told}");
        }
    });
}
