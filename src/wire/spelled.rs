//! One complete value in whichever of the two spellings it came in. Whoever reads a message asks here for what it needs and never which
//! spelling it is: nothing is decoded that is not asked for, and what can be lent is not copied.
//!
//! Called by [`super::command`] for what clients send, and by the bus for the field that says where a message goes.

use std::borrow::Cow;

use super::malformed::Malformed;
use super::{json, msgpack, transcode};

#[derive(Debug, Clone, Copy)]
pub enum Spelled<'a> {
    Json(&'a str),
    Msgpack(&'a [u8]),
}

impl<'a> Spelled<'a> {
    /// A text message is JSON, a binary one MessagePack. That it is one complete value is found out when its fields are read.
    pub fn message(text: bool, bytes: &'a [u8]) -> Result<Spelled<'a>, Malformed> {
        if !text {
            return Ok(Spelled::Msgpack(bytes));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Spelled::Json(text)),
            Err(error) => Err(Malformed::NotUtf8 { at: error.valid_up_to() }),
        }
    }

    /// Visits the fields of a map in their order.
    pub fn fields(self, visit: &mut dyn FnMut(Cow<'a, str>, Spelled<'a>)) -> Result<(), Malformed> {
        match self {
            Spelled::Json(value) => json::fields(value, &mut |key, value| visit(key, Spelled::Json(value))),
            Spelled::Msgpack(value) => msgpack::fields(value, &mut |key, value| visit(key, Spelled::Msgpack(value))),
        }
    }

    /// Visits the elements of a list in their order.
    pub fn elements(self, visit: &mut dyn FnMut(Spelled<'a>)) -> Result<(), Malformed> {
        match self {
            Spelled::Json(value) => json::elements(value, &mut |value| visit(Spelled::Json(value))),
            Spelled::Msgpack(value) => msgpack::elements(value, &mut |value| visit(Spelled::Msgpack(value))),
        }
    }

    pub fn is_null(self) -> bool {
        match self {
            Spelled::Json(value) => json::is_null(value),
            Spelled::Msgpack(value) => msgpack::is_nil(value),
        }
    }

    pub fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Spelled::Json(value) => json::text(value),
            Spelled::Msgpack(value) => msgpack::text(value).map(Cow::Borrowed),
        }
    }

    pub fn flag(self) -> Option<bool> {
        match self {
            Spelled::Json(value) => json::flag(value),
            Spelled::Msgpack(value) => msgpack::flag(value),
        }
    }

    pub fn unsigned(self) -> Option<u64> {
        match self {
            Spelled::Json(value) => json::unsigned(value),
            Spelled::Msgpack(value) => msgpack::unsigned(value),
        }
    }

    /// What names somebody or something: a text, or an integer as its digits.
    pub fn identifier(self) -> Option<Cow<'a, str>> {
        if let Some(text) = self.text() {
            return Some(text);
        }
        if let Some(number) = self.unsigned() {
            return Some(Cow::Owned(number.to_string()));
        }
        let negative = match self {
            Spelled::Json(value) => json::negative(value),
            Spelled::Msgpack(value) => msgpack::negative(value),
        };
        negative.map(|number| Cow::Owned(number.to_string()))
    }

    /// The value as the bus carries it: JSON text as it was written, MessagePack maps and arrays as they are, `bin` as its bytes. Other
    /// MessagePack scalars become JSON, because their bytes could be read as something else: 0x31 is the number 49 and the text "1".
    pub fn payload(self) -> Cow<'a, [u8]> {
        match self {
            Spelled::Json(value) => Cow::Borrowed(value.as_bytes()),
            Spelled::Msgpack(value) if msgpack::is_container(value) => Cow::Borrowed(value),
            Spelled::Msgpack(value) => msgpack::bytes(value).map_or_else(|| Cow::Owned(scalar_as_json(value)), Cow::Borrowed),
        }
    }
}

fn scalar_as_json(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    transcode::msgpack_to_json(value, &mut out).expect("the value was sliced as complete");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same answers whichever spelling it is.
    #[test]
    fn nobody_need_ask_which_spelling_it_is() {
        for value in [Spelled::Json(r#"{"a":"x","b":7,"c":null}"#), Spelled::Msgpack(b"\x83\xa1a\xa1x\xa1b\x07\xa1c\xc0")] {
            let mut seen = Vec::new();
            value.fields(&mut |key, value| seen.push((key, value.text(), value.unsigned(), value.is_null()))).unwrap();
            let text = |text: &'static str| Some(Cow::Borrowed(text));
            assert_eq!(seen, [("a".into(), text("x"), None, false), ("b".into(), None, Some(7), false), ("c".into(), None, None, true)]);
        }
        assert!(matches!(Spelled::message(true, b"ab\xff"), Err(Malformed::NotUtf8 { at: 2 })));
        assert!(matches!(Spelled::message(false, b"ab\xff"), Ok(Spelled::Msgpack(_))));
    }

    #[test]
    fn lists_and_identifiers_are_read_alike() {
        let json = Spelled::Json(r#"{"ids": [ "a\u0062", 7 , -3,1.0,0.5,{"x":[1]},[],null,true ], "none":[], "no": {}}"#);
        let msgpack = Spelled::Msgpack(b"\x83\xa3ids\x99\xa2ab\x07\xfd\xcb\x3f\xf0\0\0\0\0\0\0\xcb\x3f\xe0\0\0\0\0\0\0\x81\xa1x\x91\x01\x90\xc0\xc3\xa4none\x90\xa2no\x80");
        for value in [json, msgpack] {
            let mut lists = Vec::new();
            value
                .fields(&mut |_, value| {
                    let mut ids = Vec::new();
                    let is_list = value.elements(&mut |element| ids.push(element.identifier().map(Cow::into_owned)));
                    lists.push((is_list, ids));
                })
                .unwrap();
            let named = |name: &str| Some(name.to_owned());
            let ids = vec![named("ab"), named("7"), named("-3"), named("1"), None, None, None, None, None];
            assert_eq!(lists, [(Ok(()), ids), (Ok(()), vec![]), (Err(Malformed::NotAList), vec![])]);
        }
        for malformed in ["[1", "[1,]", "[1]2", "[01]", "[,1]"] {
            assert!(json::elements(malformed, &mut |_| ()).is_err(), "{malformed}");
        }
        assert!(msgpack::elements(b"\x92\x01", &mut |_| ()).is_err() && msgpack::elements(b"\x91\x01\x01", &mut |_| ()).is_err());
    }

    #[test]
    fn what_the_bus_carries_is_not_mistaken_for_something_else() {
        for (value, payload) in [
            (Spelled::Json("{\"k\" : [1,2]}"), &b"{\"k\" : [1,2]}"[..]),
            (Spelled::Json("null"), b"null"),
            (Spelled::Msgpack(b"\x81\xa1k\x01"), b"\x81\xa1k\x01"),
            (Spelled::Msgpack(b"\xdc\x00\x01\x05"), b"\xdc\x00\x01\x05"),
            (Spelled::Msgpack(b"\x31"), b"49"),
            (Spelled::Msgpack(b"\xa3a\"b"), br#""a\"b""#),
            (Spelled::Msgpack(b"\xc0"), b"null"),
            (Spelled::Msgpack(b"\xc4\x03\x00\xff\x01"), b"\x00\xff\x01"),
            (Spelled::Msgpack(b"\xd4\x05\x01"), br#"{"ext":5,"data":"AQ=="}"#),
        ] {
            assert_eq!(&*value.payload(), payload, "{value:?}");
        }
    }
}
