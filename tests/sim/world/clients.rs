//! What clients do: they come, with tokens and through proxies, speak, and say their last.

use campanile::wire::Format;
use campanile::wire::frame::{Opcode, encode_masked_compressed_frame, encode_masked_frame};
use fastrand::Rng;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use super::{CHANNELS, COUNTED, Peer, Poll, RATES, SECRET, SLOW_RATE, Simulation, USERS};
use crate::rig::client::{Client, deflate};
use crate::rig::net::{DEFLATE_OFFER, UNASKED, request_with};

impl Simulation {
    pub(super) fn connect(&mut self) {
        if self.peers.len() >= 24 {
            return;
        }
        let format = *self.rng.choice(&Format::ALL).unwrap();
        let mut client = Client::new(format);
        if format == Format::Json && self.rng.u8(..4) == 0 {
            return self.come_to_poll(client);
        }
        let is_stream = format == Format::Json && self.rng.bool();
        let mut path = String::from(if is_stream { "/sse" } else { "/ws" });
        let mut query = '?';
        for channel in CHANNELS {
            if self.rng.u8(..3) == 0 {
                path += &format!("{query}channel={channel}");
                query = '&';
                if format != Format::Raw {
                    client.asked.push(channel.to_owned());
                }
                if channel == "slow" {
                    client.pace(channel, SLOW_RATE, self.wires.borrow().now_ns);
                }
            }
        }
        if is_stream && client.asked.len() > 1 {
            client.streamed = client.asked.clone();
        }
        client.unasked = self.rng.u8(..5) == 0 || is_stream;
        if client.unasked {
            path += &format!("{query}{UNASKED}");
        }
        if self.has_tokens && self.rng.u8(..10) > 0 {
            path += &format!("{query}token={}", self.token());
        }
        // Some can take all that ever comes.
        let room = if self.rng.u8(..5) == 0 { usize::MAX / 2 } else { self.rng.usize(0..600) };
        let offer = if self.rng.bool() { DEFLATE_OFFER } else { "" };
        if format == Format::Raw && self.rng.bool() {
            path += &format!("{}deflate=true", if path.contains('?') { '&' } else { '?' });
        }
        let pipe = self.wires.borrow_mut().connect(&request_with(&path, format, offer), room);
        let polite = self.rng.u8(..5) > 0;
        let mut peer = Peer { takes_all: room > 600, polite, is_stream, ..Peer::new(pipe, client) };
        if self.rng.u8(..10) == 0 {
            // No WebSocket client: it asks for something else, or for nothing that is known, and has nothing more to say.
            let mut wires = self.wires.borrow_mut();
            wires.pipes[pipe].to_server.clear();
            wires.send_last(
                pipe,
                self.rng.choice(["GET /healthz HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\u{16}\u{3}"]).unwrap().as_bytes(),
            );
            peer.last_said_ns = Some(wires.now_ns);
        }
        if peer.last_said_ns.is_none() && self.tls.as_mut().is_some_and(Rng::bool) {
            self.wires.borrow_mut().secure(pipe);
        }
        self.peers.push(peer);
        self.rig.shard.on_listener();
        if self.rng.u8(..3) == 0 {
            self.come_by_proxy(pipe);
        }
    }

    /// Somebody who asks for what there is, and when it has that, for what comes next.
    fn come_to_poll(&mut self, client: Client) {
        let channels = CHANNELS.into_iter().filter(|_| self.rng.u8(..3) == 0).map(str::to_owned).collect();
        let pipe = self.wires.borrow_mut().connect("", self.rng.usize(0..600));
        if self.tls.as_mut().is_some_and(Rng::bool) {
            self.wires.borrow_mut().secure(pipe);
        }
        self.peers.push(Peer { poll: Some(Poll { channels, answered: 0 }), ..Peer::new(pipe, client) });
        self.ask_next(self.peers.len() - 1);
        self.rig.shard.on_listener();
    }

    /// From where the last answer ended, which the next one must go on from.
    pub(super) fn ask_next(&mut self, at: usize) {
        let mut path = format!("/poll?wait={}", self.rng.u8(..4));
        if self.has_tokens {
            path += &format!("&token={}", self.token());
        }
        let now_ns = self.wires.borrow().now_ns;
        let Peer { client, poll, .. } = &mut self.peers[at];
        let poll = poll.as_mut().expect("it polls");
        poll.answered = client.answered.len();
        client.asked.clone_from(&poll.channels);
        for channel in &poll.channels {
            path += &format!("&channel={channel}");
            if let Some(view) = client.subscriptions.get(channel) {
                path += &format!("&since={}:{}", view.epoch, view.seq);
            }
            if channel == "slow" {
                client.pace(channel, SLOW_RATE, now_ns);
            }
        }
        self.send_bytes(at, format!("GET {path} HTTP/1.1\r\nHost: sim\r\n\r\n").as_bytes());
    }

    /// Of somebody who polls and has its answer: what comes next?
    pub(super) fn somebody_asks_next(&mut self) {
        let waiting: Vec<usize> = (0..self.peers.len()).filter(|&at| self.peers[at].may_ask_next(&self.wires.borrow())).collect();
        if let Some(at) = self.rng.choice(waiting) {
            self.ask_next(at);
        }
    }

    /// A header comes before all that the client says; sometimes by itself, a byte at a time, and sometimes it is none.
    pub(super) fn come_by_proxy(&mut self, pipe: usize) {
        let address = self.rng.u8(1..4);
        let binary = |command: u8, kind: u8, block: &[u8]| {
            [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, kind], &(block.len() as u16).to_be_bytes(), block].concat()
        };
        let header = match self.rng.u8(..7) {
            0 | 1 => format!("PROXY TCP4 192.0.2.{address} 127.0.0.1 4711 80\r\n").into_bytes(),
            2 | 3 => binary(0x21, 0x11, &[192, 0, 2, address, 127, 0, 0, 1, 0x12, 0x67, 0, 80, 0x04, 0, 1, 0]),
            4 => binary(0x20, 0x00, &[0; 15]),
            5 => b"PROXY UNKNOWN\r\n".to_vec(),
            _ => binary(0x21, 0x11, &[192, 0, 2]),
        };
        let in_bytes = self.rng.bool() && !self.wires.borrow().pipes[pipe].client_closed;
        let said = {
            let pipe = &mut self.wires.borrow_mut().pipes[pipe];
            pipe.is_proxied = true;
            let said: Vec<u8> = pipe.to_server.drain(..).collect();
            if !in_bytes {
                pipe.to_server.extend(header.iter().chain(&said));
                return;
            }
            said
        };
        for byte in header {
            self.wires.borrow_mut().send_raw(pipe, &[byte]);
            self.turn();
        }
        self.wires.borrow_mut().send_raw(pipe, &said);
    }

    /// A token of somebody, good for some seconds, or long past; now and then nobody has signed it. There are few, so many are known.
    pub(super) fn token(&mut self) -> String {
        let user = self.rng.choice(USERS).unwrap();
        let now_s = self.wires.borrow().unix_ms() / 1000;
        let claims = serde_json::json!({"sub": user, "exp": now_s - 3 + self.rng.u64(..20)});
        let secret = if self.rng.u8(..12) == 0 { "another" } else { SECRET };
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    pub(super) fn live_peer(&mut self) -> Option<usize> {
        let is_live = |peer: &Peer| !peer.ended && peer.client.is_upgraded() && peer.last_said_ns.is_none();
        let live: Vec<usize> = (0..self.peers.len()).filter(|&at| is_live(&self.peers[at])).collect();
        self.rng.choice(live)
    }

    pub(super) fn client_speaks(&mut self) {
        let Some(at) = self.live_peer() else { return };
        let channel = *self.rng.choice(&CHANNELS).unwrap();
        let peer = &mut self.peers[at];
        if peer.client.close.is_some() || peer.mute || peer.is_stream || self.wires.borrow().pipes[peer.pipe].client_closed {
            return;
        }
        let is_raw = peer.client.format == Format::Raw;
        let subscribed = peer.client.subscriptions.get(channel).copied();
        let asked = peer.client.asked.iter().any(|asked| asked == channel);
        if self.has_tokens && self.rng.u8(..6) == 0 {
            for _ in 0..self.rng.usize(1..5) {
                let token = self.token();
                self.command(at, &serde_json::json!({"type": "refresh", "token": token}));
            }
            return;
        }
        match self.rng.u8(..20) {
            0..7 if !is_raw && subscribed.is_none() && !asked => {
                let mut command = serde_json::json!({"type": "subscribe", "channel": channel, "id": 5});
                // A position from anywhere: what the channel has, what it had, what it never had.
                if self.rng.bool()
                    && let Some(known) = self.channels.get(channel)
                {
                    let seq = self.rng.u64(0..known.seq + 3);
                    command["since"] = serde_json::json!({"epoch": known.channel.epoch, "seq": seq});
                }
                // The newest at once, where nothing better is known.
                if at % 3 == 0 {
                    command["latest"] = true.into();
                }
                if self.has_tokens && channel == COUNTED {
                    command["unread"] = self.rng.bool().into();
                }
                let mut rate = (channel == "slow").then_some(SLOW_RATE);
                if self.rng.u8(..3) == 0 {
                    let asked = *self.rng.choice(&RATES).unwrap();
                    command["max_rate"] = asked.into();
                    rate = Some(rate.map_or(asked, |rate| rate.min(asked)));
                }
                let now_ns = self.wires.borrow().now_ns;
                let client = &mut self.peers[at].client;
                client.unpace(channel);
                if let Some(rate) = rate {
                    client.pace(channel, rate, now_ns);
                }
                self.peers[at].client.asked.push(channel.to_owned());
                self.command(at, &command);
            }
            7..11 if !is_raw && subscribed.is_some() => self.command(at, &serde_json::json!({"type": "unsubscribe", "channel": channel})),
            11..13 if !is_raw => self.command(at, &serde_json::json!({"type": "ping", "id": "p"})),
            13 if !is_raw && self.has_tokens => {
                let seq = self.rng.u64(..50);
                self.command(at, &serde_json::json!({"type": "mark_read", "channel": COUNTED, "seq": seq, "id": 5}));
                self.command(at, &serde_json::json!({"type": "unread", "channels": [COUNTED, COUNTED], "id": 5}));
            }
            13 if !is_raw => self.command(at, &serde_json::json!({"type": "nonsense"})),
            14..18 => self.frame(at, Opcode::Ping, b"are you there"),
            18 => {
                self.frame(at, Opcode::Close, &1000u16.to_be_bytes());
                self.peers[at].mute = true;
            }
            // Who answers no pings or broke the protocol may have been cut off already.
            19 if peer.polite && !peer.stalled && !peer.broke_protocol => self.say_last(at),
            _ => {}
        }
    }

    pub(super) fn command(&mut self, at: usize, command: &serde_json::Value) {
        match self.peers[at].client.format {
            Format::Msgpack => self.frame(at, Opcode::Binary, &rmp_serde::to_vec_named(command).unwrap()),
            _ => self.frame(at, Opcode::Text, command.to_string().as_bytes()),
        }
    }

    pub(super) fn frame(&mut self, at: usize, opcode: Opcode, payload: &[u8]) {
        let mut bytes = Vec::new();
        let mask = self.rng.u32(..).to_ne_bytes();
        let is_message = matches!(opcode, Opcode::Text | Opcode::Binary);
        if is_message && self.peers[at].client.deflate && self.rng.bool() {
            encode_masked_compressed_frame(&mut bytes, true, opcode, mask, &deflate(payload));
        } else {
            encode_masked_frame(&mut bytes, true, opcode, mask, payload);
        }
        self.peers[at].pings_sent += usize::from(opcode == Opcode::Ping);
        let cut = if self.rng.u8(..4) == 0 { self.rng.usize(0..bytes.len()) } else { bytes.len() };
        self.send_bytes(at, &bytes[..cut]);
        if cut < bytes.len() {
            self.turn();
            self.send_bytes(at, &bytes[cut..]);
        }
    }

    /// A ping, perhaps a close frame, and the end of the stream, all at once.
    pub(super) fn say_last(&mut self, at: usize) {
        let mut bytes = Vec::new();
        encode_masked_frame(&mut bytes, true, Opcode::Ping, [3; 4], b"are you there");
        if self.rng.bool() {
            encode_masked_frame(&mut bytes, true, Opcode::Close, [3; 4], &1000u16.to_be_bytes());
        }
        let mut wires = self.wires.borrow_mut();
        let peer = &mut self.peers[at];
        peer.pings_sent += 1;
        peer.last_said_ns = Some(wires.now_ns);
        wires.send_last(peer.pipe, &bytes);
    }

    pub(super) fn send_bytes(&mut self, at: usize, bytes: &[u8]) {
        self.wires.borrow_mut().send(self.peers[at].pipe, bytes);
    }
}
