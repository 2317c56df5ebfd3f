use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::limits::VALUE_DEPTH_MAX;
use crate::wire::json::tests::any_value;
use crate::wire::msgpack;

type Decoded = Result<Command<'static>, CommandError<'static>>;

/// Decodes a command written as JSON in both spellings, which must agree but for what `publish` sends to the bus.
fn both(command: &Value) -> (Decoded, Decoded) {
    (owned(decode(true, command.to_string().as_bytes())), owned(decode(false, &rmp_serde::to_vec(command).unwrap())))
}

fn owned(result: Result<Command<'_>, CommandError<'_>>) -> Decoded {
    fn own(text: Cow<'_, str>) -> Cow<'static, str> {
        Cow::Owned(text.into_owned())
    }
    match result {
        Ok(Command { id, body }) => Ok(Command {
            id,
            body: match body {
                Body::Subscribe { channel, wish } => Body::Subscribe { channel: own(channel), wish },
                Body::SubscribeAll { channels } => Body::SubscribeAll {
                    channels: channels
                        .into_iter()
                        .map(|entry| match entry {
                            Entry::Good { channel, wish } => Entry::Good { channel: own(channel), wish },
                            Entry::Bad { channel, code, message } => Entry::Bad { channel: channel.map(own), code, message },
                        })
                        .collect(),
                },
                Body::Unsubscribe { channel } => Body::Unsubscribe { channel: own(channel) },
                Body::History { channel, range, limit } => Body::History { channel: own(channel), range, limit },
                Body::Presence { channel, members } => {
                    let members = members.map(|MemberRange { after, limit }| MemberRange { after: after.map(own), limit });
                    Body::Presence { channel: own(channel), members }
                }
                Body::Publish { channel, payload, idempotency_key } => Body::Publish {
                    channel: own(channel),
                    payload: Cow::Owned(payload.into_owned()),
                    idempotency_key: idempotency_key.map(own),
                },
                Body::MarkRead { channel, epoch, seq } => Body::MarkRead { channel: own(channel), epoch, seq },
                Body::Unread { channels } => Body::Unread { channels: channels.into_iter().map(own).collect() },
                Body::Refresh { token } => Body::Refresh { token: own(token) },
                Body::Ping => Body::Ping,
            },
        }),
        Err(CommandError { id, command, channel, code, message }) => {
            Err(CommandError { id, command: command.map(own), channel: channel.map(own), code, message })
        }
    }
}

fn command(command: &Value) -> Command<'static> {
    let (json, msgpack) = both(command);
    assert_eq!(json, msgpack, "{command}");
    json.unwrap()
}

fn error(command: &Value) -> CommandError<'static> {
    let (json, msgpack) = both(command);
    assert_eq!(json, msgpack, "{command}");
    json.unwrap_err()
}

fn payload(text: bool, message: &[u8]) -> Vec<u8> {
    match decode(text, message).unwrap().body {
        Body::Publish { payload, .. } => payload.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_type_is_read() {
    let id = Some(Id::Number(7));
    assert_eq!(command(&json!({"type": "ping"})), Command { id: None, body: Body::Ping });
    assert_eq!(command(&json!({"type": "ping", "id": 7})), Command { id: id.clone(), body: Body::Ping });
    assert_eq!(
        command(&json!({"type": "unsubscribe", "channel": "a", "id": 7})),
        Command { id: id.clone(), body: Body::Unsubscribe { channel: "a".into() } }
    );
    assert_eq!(
        command(&json!({"type": "presence", "channel": "a", "id": 7})),
        Command { id: id.clone(), body: Body::Presence { channel: "a".into(), members: None } }
    );
    assert_eq!(
        command(&json!({"type": "refresh", "token": "x.y.z", "id": 7})),
        Command { id: id.clone(), body: Body::Refresh { token: "x.y.z".into() } }
    );
    assert_eq!(
        command(&json!({"type": "subscribe", "channel": "user:é", "id": 7})),
        Command { id: id.clone(), body: Body::Subscribe { channel: "user:é".into(), wish: Wish::default() } }
    );
    assert_eq!(
        command(&json!({"since": {"seq": 0, "epoch": 9007199254740991u64, "x": [1]}, "channel": "a", "type": "subscribe"})),
        Command {
            id: None,
            body: Body::Subscribe {
                channel: "a".into(),
                wish: Wish { begin: Begin::Since(Position { epoch: 9007199254740991, seq: 0 }), ..Wish::default() }
            }
        }
    );
}

#[test]
fn what_is_plain_is_borrowed() {
    let message = br#"{"type":"publish","channel":"a","data":[1, 2]}"#;
    let Body::Publish { channel: Cow::Borrowed("a"), payload: Cow::Borrowed(payload), idempotency_key: None } =
        decode(true, message).unwrap().body
    else {
        panic!("not borrowed");
    };
    assert_eq!(payload, b"[1, 2]");
}

#[test]
fn escapes_in_keys_and_names_are_resolved() {
    let message = br#" {"\u0074ype":"ping\u0000"} "#;
    assert_eq!(decode(true, message).unwrap_err().code, ErrorCode::UnknownType);
    let message = br#"{"\u0074ype":"unsubscribe","channel":"\u0061"}"#;
    assert_eq!(decode(true, message).unwrap().body, Body::Unsubscribe { channel: "a".into() });
}

#[test]
fn unknown_fields_are_ignored_and_null_means_absent() {
    let full = json!({"type": "subscribe", "x": {"type": "ping"}, "channel": "a", "since": null, "id": null, "": 1});
    assert_eq!(command(&full), Command { id: None, body: Body::Subscribe { channel: "a".into(), wish: Wish::default() } });
    // {1: 2, "type": "ping"}: a key that is no string is an unknown field too.
    assert_eq!(decode(false, b"\x82\x01\x02\xa4type\xa4ping").unwrap().body, Body::Ping);
}

#[test]
fn the_last_of_a_field_given_twice_counts() {
    assert_eq!(decode(true, br#"{"type":"pong","id":[],"type":"ping","id":2}"#).unwrap().id, Some(Id::Number(2)));
    assert_eq!(decode(false, b"\x83\xa4type\xa4ping\xa2id\x01\xa2id\x02").unwrap().id, Some(Id::Number(2)));
}

#[test]
fn integers_may_come_as_floats_without_a_fraction() {
    let subscribe = |epoch: f64| {
        let mut message = b"\x83\xa4type\xa9subscribe\xa7channel\xa1a\xa5since\x82\xa3seq\x01\xa5epoch".to_vec();
        msgpack::write_f64(&mut message, epoch);
        owned(decode(false, &message)).map(|command| match command.body {
            Body::Subscribe { wish: Wish { begin: Begin::Since(since), .. }, .. } => since.epoch,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(subscribe(4294967296.0), Ok(4294967296));
    for epoch in [0.5, -1.0, f64::NAN, f64::INFINITY, 9007199254740992.0] {
        assert_eq!(subscribe(epoch).unwrap_err().message, BAD_SINCE, "{epoch}");
    }
}

#[test]
fn a_rate_is_a_whole_number_of_messages_a_second() {
    let asked = |rate: Value| json!({"type": "subscribe", "channel": "a", "max_rate": rate});
    for (rate, expected) in [(json!(1), Some(1)), (json!(1000), Some(1000)), (json!(null), None)] {
        assert_eq!(
            command(&asked(rate)).body,
            Body::Subscribe { channel: "a".into(), wish: Wish { max_rate: expected, ..Wish::default() } }
        );
    }
    for rate in [json!(0), json!(-1), json!(1001), json!(u64::MAX), json!(0.5), json!("5"), json!([5]), json!(true)] {
        assert_eq!((error(&asked(rate.clone())).message, error(&asked(rate)).code), (BAD_MAX_RATE.into(), ErrorCode::BadCommand));
    }
}

#[test]
fn marks_name_a_number_and_questions_of_them_names() {
    let epoch = 9007199254740991u64;
    let mark = |epoch| Body::MarkRead { channel: "a".into(), epoch, seq: 0 };
    assert_eq!(command(&json!({"type": "mark_read", "channel": "a", "seq": 0, "epoch": epoch})).body, mark(Some(epoch)));
    assert_eq!(command(&json!({"type": "mark_read", "channel": "a", "seq": 0, "epoch": null})).body, mark(None));
    let asked = command(&json!({"type": "unread", "channels": ["a", "user:é", "a"]})).body;
    assert_eq!(asked, Body::Unread { channels: vec!["a".into(), "user:é".into(), "a".into()] });
    for (unread, expected) in [(json!(true), true), (json!(false), false), (json!(null), false)] {
        let wish = Wish { unread: expected, ..Wish::default() };
        assert_eq!(
            command(&json!({"type": "subscribe", "channel": "a", "unread": unread})).body,
            Body::Subscribe { channel: "a".into(), wish }
        );
    }
}

#[test]
fn ids_are_numbers_or_short_strings() {
    for (id, expected) in [
        (json!(0), Id::Number(0)),
        (json!(u64::MAX), Id::Number(u64::MAX)),
        (json!(""), Id::Text("".into())),
        (json!("é".repeat(32)), Id::Text("é".repeat(32).into())),
    ] {
        assert_eq!(command(&json!({"type": "ping", "id": id})).id, Some(expected));
    }
    for id in [json!(-1), json!(1.5), json!([]), json!({}), json!(true), json!("x".repeat(65))] {
        let error = error(&json!({"type": "ping", "id": id}));
        assert_eq!((error.id, error.code, &*error.message), (None, ErrorCode::BadCommand, BAD_ID), "{id}");
    }
}

#[test]
fn errors_say_what_is_accepted_and_carry_the_id() {
    let id = "x-1";
    for (command, code, message) in [
        (json!({"id": id}), ErrorCode::BadCommand, BAD_TYPE),
        (json!({"id": id, "type": 1}), ErrorCode::BadCommand, BAD_TYPE),
        (json!({"id": id, "type": "later", "channel": "a"}), ErrorCode::UnknownType, UNKNOWN_TYPE),
        (json!({"id": id, "type": "read"}), ErrorCode::UnknownType, UNKNOWN_TYPE),
        (json!({"id": id, "type": "mark_read", "seq": 1}), ErrorCode::BadCommand, BAD_CHANNEL),
        (json!({"id": id, "type": "mark_read", "channel": "a"}), ErrorCode::BadCommand, BAD_SEQ),
        (json!({"id": id, "type": "mark_read", "channel": "a", "seq": -1}), ErrorCode::BadCommand, BAD_SEQ),
        (json!({"id": id, "type": "mark_read", "channel": "a", "seq": 9007199254740992u64}), ErrorCode::BadCommand, BAD_SEQ),
        (json!({"id": id, "type": "mark_read", "channel": "a", "seq": 1, "epoch": "5"}), ErrorCode::BadCommand, BAD_EPOCH),
        (json!({"id": id, "type": "unread"}), ErrorCode::BadCommand, BAD_UNREAD_CHANNELS),
        (json!({"id": id, "type": "unread", "channels": "a"}), ErrorCode::BadCommand, BAD_UNREAD_CHANNELS),
        (json!({"id": id, "type": "unread", "channels": []}), ErrorCode::BadCommand, BAD_UNREAD_CHANNELS),
        (json!({"id": id, "type": "unread", "channels": ["a", {"channel": "b"}]}), ErrorCode::BadCommand, BAD_UNREAD_CHANNELS),
        (json!({"id": id, "type": "unread", "channels": vec!["a"; 129]}), ErrorCode::BadCommand, BAD_UNREAD_CHANNELS),
        (json!({"id": id, "type": "subscribe", "channel": "a", "unread": 1}), ErrorCode::BadCommand, BAD_UNREAD),
        (json!({"id": id, "type": "Subscribe"}), ErrorCode::UnknownType, UNKNOWN_TYPE),
        (json!({"id": id, "type": "subscribe"}), ErrorCode::BadCommand, BAD_CHANNEL),
        (json!({"id": id, "type": "subscribe", "channel": null}), ErrorCode::BadCommand, BAD_CHANNEL),
        (json!({"id": id, "type": "subscribe", "channel": ["a"]}), ErrorCode::BadCommand, BAD_CHANNEL),
        (json!({"id": id, "type": "subscribe", "channel": "a", "since": 5}), ErrorCode::BadCommand, BAD_SINCE),
        (json!({"id": id, "type": "subscribe", "channel": "a", "since": {"seq": 5}}), ErrorCode::BadCommand, BAD_SINCE),
        (
            json!({"id": id, "type": "subscribe", "channel": "a", "since": {"epoch": 9007199254740992u64, "seq": 1}}),
            ErrorCode::BadCommand,
            BAD_SINCE,
        ),
        (json!({"id": id, "type": "unsubscribe"}), ErrorCode::BadCommand, BAD_CHANNEL),
        (json!({"id": id, "type": "publish", "data": 1}), ErrorCode::BadCommand, BAD_CHANNEL),
        (json!({"id": id, "type": "publish", "channel": "a"}), ErrorCode::BadCommand, NO_DATA),
        (json!({"id": id, "type": "refresh"}), ErrorCode::BadCommand, BAD_TOKEN),
        (json!({"id": id, "type": "refresh", "token": 1}), ErrorCode::BadCommand, BAD_TOKEN),
    ] {
        let error = error(&command);
        let sent = |key: &str| command[key].as_str().map(|text| Cow::Owned(text.to_owned()));
        let (id, kind, channel) = (Some(Id::Text(id.into())), sent("type"), sent("channel"));
        assert_eq!(error, CommandError { id, command: kind, channel, code, message: message.into() }, "{command}");
    }
}

#[test]
fn bad_channel_names_have_their_own_code() {
    for channel in [String::new(), "a\nb".into(), "x".repeat(256)] {
        for kind in ["subscribe", "unsubscribe", "publish", "mark_read", "unread"] {
            let error = error(
                &json!({"type": kind, "channel": channel, "channels": if kind == "unread" { json!(["a", channel]) } else { json!(null) }, "seq": 1, "data": 1, "id": 3}),
            );
            assert_eq!((error.id, error.code), (Some(Id::Number(3)), ErrorCode::BadChannel));
        }
    }
}

#[test]
fn what_is_no_map_is_named_by_its_defect() {
    for (text, message, expected) in [
        (true, &b""[..], "a text message must be one JSON object: it is not a map"),
        (true, b"[1]", "a text message must be one JSON object: it is not a map"),
        (true, b"{\"a\":}", "a text message must be one JSON object: byte 5 cannot stand there"),
        (true, b"{} {}", "a text message must be one JSON object: more follows after its end at byte 3"),
        (true, b"{\"a\":\"\xff\"}", "a text message must be one JSON object: the string at byte 6 is not UTF-8"),
        (false, b"", "a binary message must be one MessagePack map: it ends too early"),
        (false, b"\x01", "a binary message must be one MessagePack map: it is not a map"),
        (false, b"{\"type\":\"ping\"}", "a binary message must be one MessagePack map: it is not a map"),
        (false, b"\x80\x80", "a binary message must be one MessagePack map: more follows after its end at byte 1"),
    ] {
        let error = decode(text, message).unwrap_err();
        assert_eq!((error.id, error.code, &*error.message), (None, ErrorCode::BadCommand, expected), "{message:?}");
    }
}

#[test]
fn an_id_of_which_only_the_beginning_is_a_number_is_no_id() {
    for id in ["07", "0x1F", "123n", "1_000", "12 34", "1.", "1e", "00", "5-", "0b1", "\"a\"b", "\"a\" \"b\"", "nullx", "1,", "1]"] {
        for message in [format!(r#"{{"type":"ping","id":{id}}}"#), format!(r#"{{"id":{id},"type":"ping"}}"#)] {
            let error = decode(true, message.as_bytes()).unwrap_err();
            assert_eq!((&error.id, error.code), (&None, ErrorCode::BadCommand), "{message}");
            assert!(error.message.contains("one JSON object: byte "), "{message}: {}", error.message);
        }
    }
}

#[test]
fn a_malformed_message_has_no_id_and_no_other_field() {
    for (text, message) in [
        (true, &br#"{"id":5,"type":"subscribe","channel":"a"#[..]),
        (true, br#"{"id":5,"type":"subscribe","channel":"a"} x"#),
        (true, b"{\"id\":5,\"type\":\"ping\",\"x\":\"\xff\"}"),
        (false, b"\x83\xa2id\x05\xa4type\xa4ping\xa1x"),
        (false, b"\x82\xa2id\x05\xa4type\xa4ping\x00"),
        (false, b"\x83\xa2id\x05\xa4type\xa4ping\xa1x\xc1"),
    ] {
        let CommandError { id, command, channel, code, message } = decode(text, message).unwrap_err();
        assert_eq!((id, command, channel, code), (None, None, None, ErrorCode::BadCommand), "{message}");
    }
}

#[test]
fn an_error_names_the_command_and_the_channel_it_answers() {
    let named = |command: Value| {
        let error = error(&command);
        (error.command.map(Cow::into_owned), error.channel.map(Cow::into_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(named(json!({"type": "subscribe", "channel": ""})), (some("subscribe"), some("")));
    assert_eq!(named(json!({"type": "unsubscribe", "channel": "a\nb"})), (some("unsubscribe"), some("a\nb")));
    assert_eq!(named(json!({"type": "publish", "channel": "a"})), (some("publish"), some("a")));
    assert_eq!(named(json!({"type": "later", "channel": "a", "id": 1})), (some("later"), some("a")));
    assert_eq!(named(json!({"type": "ping", "id": -1})), (some("ping"), None));
    assert_eq!(named(json!({"type": ["ping"], "channel": 5})), (None, None));
    // An answer is not to grow with what it answers.
    assert_eq!(
        named(json!({"type": "x".repeat(64), "channel": "c".repeat(255), "id": -1})),
        (some(&"x".repeat(64)), some(&"c".repeat(255)))
    );
    assert_eq!(named(json!({"type": "x".repeat(65), "channel": "c".repeat(256)})), (None, None));
}

#[test]
fn published_data_reaches_the_bus_as_promised() {
    assert_eq!(payload(true, br#"{"type":"publish","channel":"a","data": {"k" : [1,2]} }"#), br#"{"k" : [1,2]}"#);
    assert_eq!(payload(true, br#"{"type":"publish","channel":"a","data":null}"#), b"null");
    assert_eq!(payload(false, b"\x83\xa4type\xa7publish\xa7channel\xa1a\xa4data\x31"), b"49");
}

#[test]
fn data_may_be_as_deep_as_a_payload() {
    let publish = |levels: usize| format!(r#"{{"type":"publish","channel":"a","data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(decode(true, publish(VALUE_DEPTH_MAX).as_bytes()).is_ok());
    let deeper = publish(VALUE_DEPTH_MAX + 1);
    let error = decode(true, deeper.as_bytes()).unwrap_err();
    assert_eq!(error.message, "a text message must be one JSON object: it is nested deeper than 64 levels");
}

#[test]
fn types_lists_what_decode_takes() {
    for kind in TYPES {
        let mut whole = json!({"type": kind, "channel": "a", "data": 1, "token": "t", "seq": 1});
        if kind == UNREAD {
            whole["channels"] = json!(["a"]);
        }
        assert!(decode(true, whole.to_string().as_bytes()).is_ok());
        assert!(BAD_TYPE.contains(kind) && UNKNOWN_TYPE.contains(kind));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(text in any::<bool>(), message in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(text, &message);
    }

    #[test]
    fn random_fields_never_panic(kind in "subscribe|unsubscribe|history|publish|refresh|ping|x", id in any_value(), channel in any_value(), data in any_value(), since in any_value()) {
        let many = [json!({"channel": channel, "since": since, "latest": data}), id.clone()];
        let (json, msgpack) = both(&json!({"type": kind, "id": id, "channel": channel, "data": data, "since": since, "before": data, "limit": id}));
        prop_assert_eq!(json.as_ref().err(), msgpack.as_ref().err());
        let (json, msgpack) = both(&json!({"type": kind, "channels": many}));
        prop_assert_eq!(json.as_ref().err(), msgpack.as_ref().err());
    }

    #[test]
    fn every_truncation_is_an_error(kind in "subscribe|unsubscribe|publish|ping", data in any_value(), channel in "[a-z]{1,40}") {
        let command = json!({"type": kind, "id": 9, "channel": channel, "data": data, "since": {"epoch": 1u64 << 40, "seq": 300}});
        for (text, message) in [(true, command.to_string().into_bytes()), (false, rmp_serde::to_vec(&command).unwrap())] {
            prop_assert!(decode(text, &message).is_ok());
            for end in 0..message.len() {
                prop_assert_eq!(decode(text, &message[..end]).unwrap_err().code, ErrorCode::BadCommand);
            }
        }
    }

    #[test]
    fn a_damaged_command_is_answered_with_an_id_only_if_it_is_still_well_formed(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        id in prop_oneof![Just(json!("x")), any::<u64>().prop_map(Value::from), (0u64..200).prop_map(Value::from)],
    ) {
        let command = json!({"type": "subscribe", "id": id, "channel": "a", "since": {"epoch": 1u64 << 40, "seq": 300}});
        for (text, mut message) in [(true, command.to_string().into_bytes()), (false, rmp_serde::to_vec(&command).unwrap())] {
            let at = at.index(message.len());
            message[at] = byte;
            let well_formed = if text { std::str::from_utf8(&message).is_ok_and(|text| json::check(text).is_ok()) } else { msgpack::check(&message).is_ok() };
            if let Err(error) = decode(text, &message) {
                prop_assert!(well_formed || (error.id.is_none() && error.command.is_none() && error.channel.is_none()), "{:?}", error);
            }
        }
    }
}

#[test]
fn several_channels_are_read_each_by_itself() {
    let since = json!({"epoch": 7, "seq": 3});
    let asked = json!({"type": "subscribe", "id": 1, "channels": [
        {"channel": "a"}, {"channel": "b", "since": since, "latest": true, "max_rate": 5}, {"channel": "c\n"}, {"channel": "d", "latest": 1},
        {"latest": true}, 7, {"channel": "e", "since": {"epoch": 7}},
    ]});
    let Body::SubscribeAll { channels } = command(&asked).body else { panic!("it is one") };
    let good =
        |channel: &'static str, begin, max_rate| Entry::Good { channel: channel.into(), wish: Wish { begin, max_rate, unread: false } };
    assert_eq!(channels[0], good("a", Begin::Live, None));
    assert_eq!(channels[1], good("b", Begin::SinceOrNewest(Position { epoch: 7, seq: 3 }), Some(5)));
    let bad: Vec<_> = channels[2..]
        .iter()
        .map(|entry| match entry {
            Entry::Bad { channel, code, .. } => (channel.as_deref(), *code),
            Entry::Good { .. } => panic!("{entry:?}"),
        })
        .collect();
    let command = ErrorCode::BadCommand;
    let expected = [(Some("c\n"), ErrorCode::BadChannel), (Some("d"), command), (None, command), (None, command), (Some("e"), command)];
    assert_eq!(bad, expected);
    let many = |count: usize| json!({"type": "subscribe", "channels": vec![json!({"channel": "a"}); count]});
    assert!(matches!(command_of(&many(SUBSCRIBE_CHANNELS_MAX)), Ok(Command { body: Body::SubscribeAll { .. }, .. })));
    let beside = json!({"type": "subscribe", "channel": "a", "channels": [{"channel": "b"}]});
    for refused in [many(0), many(SUBSCRIBE_CHANNELS_MAX + 1), beside, json!({"type": "subscribe", "channels": "a"})] {
        assert_eq!(error(&refused).code, ErrorCode::BadCommand, "{refused}");
    }
    let null = json!({"type": "subscribe", "channel": "a", "channels": null, "latest": null});
    assert!(matches!(command_of(&null), Ok(Command { body: Body::Subscribe { .. }, .. })));
}

fn command_of(command: &Value) -> Decoded {
    both(command).0
}

#[test]
fn a_history_has_a_range_and_a_limit() {
    let position = json!({"epoch": 7, "seq": 3});
    let asked = |more: Value| {
        let mut asked = json!({"type": "history", "channel": "a"});
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked
    };
    let at = Position { epoch: 7, seq: 3 };
    for (more, range, limit) in [
        (json!({}), HistoryRange::Newest, HISTORY_MESSAGES_DEFAULT),
        (json!({"since": position, "limit": 1}), HistoryRange::After(at), 1),
        (json!({"before": position, "limit": 256}), HistoryRange::Before(at), 256),
        (json!({"before": null, "since": null, "limit": null}), HistoryRange::Newest, HISTORY_MESSAGES_DEFAULT),
    ] {
        assert_eq!(command(&asked(more)).body, Body::History { channel: "a".into(), range, limit });
    }
    let both = json!({"since": position, "before": position});
    for more in [json!({"limit": 0}), json!({"limit": 257}), json!({"limit": "5"}), json!({"before": 7}), both] {
        assert_eq!(error(&asked(more.clone())).code, ErrorCode::BadCommand, "{more}");
    }
}

#[test]
fn members_are_asked_for_in_pages() {
    let asked = |more: Value| {
        let mut command = json!({"type": "presence", "channel": "a"});
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        command
    };
    for (more, members) in [
        (json!({"members": false, "limit": 0, "after": 7}), None),
        (json!({"members": null}), None),
        (json!({"members": true}), Some(MemberRange { after: None, limit: HISTORY_MESSAGES_DEFAULT })),
        (json!({"members": true, "limit": 7, "after": "ann"}), Some(MemberRange { after: Some("ann".into()), limit: 7 })),
        (json!({"members": true, "limit": 256, "after": null}), Some(MemberRange { after: None, limit: 256 })),
    ] {
        assert_eq!(command(&asked(more)).body, Body::Presence { channel: "a".into(), members });
    }
    for more in [json!({"members": 1}), json!({"members": true, "limit": 257}), json!({"members": true, "after": 7})] {
        assert_eq!(error(&asked(more)).code, ErrorCode::BadCommand);
    }
}
