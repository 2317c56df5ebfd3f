//! What comes from Redis, in pieces.

use std::io::{self, Read};

use campanile::bus::redis::keeping;
use campanile::bus::redis::resp::{Decoder, Reply};
use campanile::wire::channel_name;

use crate::mutate::mutated;
use crate::seeds::texts;

const VALUE_BYTES_MAX: usize = 4096;

struct Piece<'a>(&'a [u8]);

impl Read for Piece<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(out) }
    }
}

/// The replies in words, and whether it ended in a violation.
fn read(bytes: &[u8], piece: usize) -> (Vec<String>, bool) {
    let mut decoder = Decoder::new(VALUE_BYTES_MAX);
    let mut replies = Vec::new();
    for part in bytes.chunks(piece.max(1)) {
        let mut part = Piece(part);
        while !part.0.is_empty() {
            decoder.fill(&mut part).expect("there is something");
            loop {
                match decoder.next_reply() {
                    Ok(None) => break,
                    Ok(Some(reply)) => {
                        if let Reply::Message { channel, payload } = &reply {
                            assert!(channel.len() <= VALUE_BYTES_MAX && payload.len() <= VALUE_BYTES_MAX);
                        }
                        replies.push(format!("{reply:?}"));
                    }
                    Err(_) => return (replies, true),
                }
            }
        }
    }
    (replies, false)
}

#[test]
fn replies_of_redis() {
    let seeds = texts(&[
        "*3\r\n$7\r\nmessage\r\n$18\r\nnotifications:news\r\n$5\r\nhello\r\n",
        ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$0\r\n\r\n*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$2\r\n\r\n\r\n",
        ">4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$2\r\nno\r\n$3\r\nabc\r\n",
        ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n>3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n",
        "+OK\r\n-ERR unknown command\r\n:42\r\n$-1\r\n*-1\r\n*0\r\n_\r\n#t\r\n,1.5\r\n(123456789012345678901234567890\r\n",
        "%2\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n~2\r\n+a\r\n+b\r\n|1\r\n+k\r\n+v\r\n+OK\r\n",
        "=15\r\ntxt:Some string\r\n!21\r\nSYNTAX invalid syntax\r\n",
        "*2\r\n*2\r\n*1\r\n+a\r\n:1\r\n$3\r\nfoo\r\n+PONG\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n",
    ]);
    let words: &[&[u8]] = &[
        b"\r\n",
        b"$-1\r\n",
        b"*1\r\n",
        b"*3\r\n$7\r\nmessage\r\n",
        b"$4096\r\n",
        b"$4097\r\n",
        b"*1000000\r\n",
        b">3\r\n",
        b"%1\r\n",
        b"?\r\n",
        b";0\r\n",
        b"$99999999999999999999\r\n",
        b":-9223372036854775808\r\n",
    ];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        let whole = read(bytes, usize::MAX);
        for piece in [1, 2, 3, 13] {
            let (replies, is_violation) = read(bytes, piece);
            // What is not the protocol is refused; where that is noticed, the pieces decide: `redis::Parser` forgets what it began when a piece ends there.
            if whole.1 {
                assert!(replies.starts_with(&whole.0), "in pieces of {piece}: {replies:?}, not {:?}", whole.0);
            } else {
                assert_eq!((replies, is_violation), whole, "in pieces of {piece}");
            }
        }
    });
}

/// On a channel that whoever has rights in Redis may publish to.
#[test]
fn what_nodes_tell_each_other_of_marks() {
    let seeds = texts(&["1700000000000 41 5f3a9c0e00000000002a ann\nfeed:a", "1 2 - a b {\nc d", "18446744073709551615 0 - u\n\u{e9}"]);
    let words: &[&[u8]] = &[b" ", b"\n", b"-", b"0", b"18446744073709551616", b"\0", b"\xff", b"__campanile__:"];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|bytes: &Vec<u8>| {
        if let Some(news) = keeping::news(bytes) {
            assert!(channel_name::check(&news.channel).is_ok() && !news.user.is_empty() && news.seq.max(news.epoch) < 1 << 53);
        }
    });
}
