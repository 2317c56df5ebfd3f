//! From one spelling to the other without a data model: each value is written as soon as it is read.
//!
//! Called by [`super::payload`] on what publishers send and by [`super::spelled`] on what clients publish, at most once per message and
//! format. [`super::json`] and [`super::msgpack`] read and write; what one of them lacks is decided here, and `docs/protocol.md` tells it.

use super::json::{self, Scanner};
use super::malformed::Malformed;
use super::msgpack::{self, OpenContainer, Reader, Token};
use crate::limits::VALUE_DEPTH_MAX;

/// Appends the MessagePack spelling of the one value that `text` must be. On an error `out` holds a part of it.
///
/// Integers that fit 64 bits become integers, all other numbers `float 64`. Half a surrogate pair (`"\ud800"`), which is
/// valid JSON but no character, becomes U+FFFD.
pub fn json_to_msgpack(text: &str, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut scanner = Scanner::new(text);
    scanner.value_to_msgpack(VALUE_DEPTH_MAX, out)?;
    scanner.end()
}

/// Appends the JSON spelling of the one value that `input` must be. On an error `out` holds a part of it.
///
/// What JSON lacks: `bin` becomes a base64 string, `ext` the object `{"ext":TYPE,"data":BASE64}`, NaN and the infinities
/// `null`. Keys become strings: numbers, booleans and nil as they are spelled, `bin` as base64, and a map, an array or
/// an `ext` as base64 of its MessagePack bytes (its JSON text would double its escapes with each level).
pub fn msgpack_to_json(input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut reader = Reader::new(input);
    reader.value_to_json(VALUE_DEPTH_MAX, out)?;
    reader.end()
}

impl Scanner<'_> {
    fn value_to_msgpack(&mut self, depth_left: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self.token() {
            Some(b'"') => msgpack::write_str(out, &self.string()?),
            Some(b'{') => self.object_to_msgpack(depth_left, out)?,
            Some(b'[') => self.array_to_msgpack(depth_left, out)?,
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                let integer = self.skip_number()?;
                number_to_msgpack(&self.text[start..self.at], integer, out);
            }
            first => {
                self.skip_literal()?;
                match first {
                    Some(b'n') => msgpack::write_nil(out),
                    _ => msgpack::write_bool(out, first == Some(b't')),
                }
            }
        }
        Ok(())
    }

    fn object_to_msgpack(&mut self, depth_left: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let depth_left = depth_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
        let map = OpenContainer::begin(out);
        self.at += 1;
        let (mut pairs, mut more) = (0, self.token() != Some(b'}'));
        if !more {
            self.at += 1;
        }
        while more {
            msgpack::write_str(out, &self.key()?);
            self.value_to_msgpack(depth_left, out)?;
            pairs += 1;
            more = self.another(b'}')?;
        }
        map.end_map(out, pairs);
        Ok(())
    }

    fn array_to_msgpack(&mut self, depth_left: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let depth_left = depth_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
        let array = OpenContainer::begin(out);
        self.at += 1;
        let (mut elements, mut more) = (0, self.token() != Some(b']'));
        if !more {
            self.at += 1;
        }
        while more {
            self.value_to_msgpack(depth_left, out)?;
            elements += 1;
            more = self.another(b']')?;
        }
        array.end_array(out, elements);
        Ok(())
    }
}

fn number_to_msgpack(digits: &str, integer: bool, out: &mut Vec<u8>) {
    // "-0" is the float: as an integer it would lose its sign.
    if integer && digits != "-0" {
        if let Ok(number) = digits.parse() {
            return msgpack::write_uint(out, number);
        }
        if let Ok(number) = digits.parse() {
            return msgpack::write_sint(out, number);
        }
    }
    msgpack::write_f64(out, digits.parse().expect("every JSON number is a Rust number"));
}

impl Reader<'_> {
    fn value_to_json(&mut self, depth_left: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self.token()? {
            Token::Nil => out.extend_from_slice(b"null"),
            Token::Bool(value) => json::write_bool(out, value),
            Token::Unsigned(number) => json::write_uint(out, number),
            Token::Negative(number) => json::write_sint(out, number),
            Token::Float(number) => json::write_f64(out, number),
            Token::Str(text) => json::write_str(out, text),
            Token::Bin(bytes) => json::write_base64(out, bytes),
            Token::Ext(kind, bytes) => {
                depth_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
                out.extend_from_slice(b"{\"ext\":");
                json::write_sint(out, kind.into());
                out.extend_from_slice(b",\"data\":");
                json::write_base64(out, bytes);
                out.push(b'}');
            }
            Token::Array(len) => {
                let depth_left = depth_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
                out.push(b'[');
                for index in 0..len {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.value_to_json(depth_left, out)?;
                }
                out.push(b']');
            }
            Token::Map(len) => {
                let depth_left = depth_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
                out.push(b'{');
                for index in 0..len {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.key_to_json(depth_left, out)?;
                    out.push(b':');
                    self.value_to_json(depth_left, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }

    fn key_to_json(&mut self, depth_left: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let start = self.at;
        match self.token()? {
            Token::Str(text) => json::write_str(out, text),
            Token::Bin(bytes) => json::write_base64(out, bytes),
            Token::Array(_) | Token::Map(_) | Token::Ext(..) => {
                self.at = start;
                self.skip(depth_left)?;
                json::write_base64(out, &self.input[start..self.at]);
            }
            Token::Nil | Token::Bool(_) | Token::Unsigned(_) | Token::Negative(_) | Token::Float(_) => {
                self.at = start;
                out.push(b'"');
                self.value_to_json(0, out)?;
                out.push(b'"');
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::json::tests::any_value;
    use super::*;

    pub(crate) fn to_msgpack(text: &str) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        json_to_msgpack(text, &mut out).map(|()| out)
    }

    pub(crate) fn to_json(input: &[u8]) -> Result<String, Malformed> {
        let mut out = Vec::new();
        msgpack_to_json(input, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn a_value_survives_both_ways(value in any_value()) {
            let text = value.to_string();
            prop_assert!(depth(&value) <= VALUE_DEPTH_MAX);
            prop_assert_eq!(json::check(&text), Ok(()));
            let packed = to_msgpack(&text).unwrap();
            prop_assert_eq!(msgpack::check(&packed), Ok(()));
            prop_assert_eq!(&rmp_serde::from_slice::<Value>(&packed).unwrap(), &value);
            prop_assert_eq!(to_json(&packed).unwrap(), text);
        }

        #[test]
        fn the_shortest_msgpack_form_is_written(value in any_value()) {
            // rmp-serde writes f64 and the shortest integers too, and knows the lengths beforehand.
            prop_assert_eq!(to_msgpack(&value.to_string()).unwrap(), rmp_serde::to_vec(&value).unwrap());
        }
    }

    #[test]
    fn numbers_beyond_64_bits_become_floats() {
        for (text, value) in [
            ("18446744073709551615", Value::from(u64::MAX)),
            ("18446744073709551616", Value::from(18446744073709551616.0)),
            ("-9223372036854775808", Value::from(i64::MIN)),
            ("-9223372036854775809", Value::from(-9223372036854775809.0)),
            ("1.0", Value::from(1.0)),
            ("-0", Value::from(-0.0)),
        ] {
            assert_eq!(rmp_serde::from_slice::<Value>(&to_msgpack(text).unwrap()).unwrap(), value, "{text}");
        }
        let infinite = to_msgpack("1e999").unwrap();
        assert_eq!(to_json(&infinite).unwrap(), "null");
    }

    #[test]
    fn every_marker_of_the_format_is_understood() {
        for (hex, json) in [
            ("c0", "null"),
            ("c2", "false"),
            ("c3", "true"),
            ("7f", "127"),
            ("e0", "-32"),
            ("ccff", "255"),
            ("cdffff", "65535"),
            ("ceffffffff", "4294967295"),
            ("cfffffffffffffffff", "18446744073709551615"),
            ("d005", "5"),
            ("d080", "-128"),
            ("d18000", "-32768"),
            ("d280000000", "-2147483648"),
            ("d38000000000000000", "-9223372036854775808"),
            ("ca3f000000", "0.5"),
            ("cb3fe0000000000000", "0.5"),
            ("cb7ff0000000000000", "null"),
            ("cb7ff8000000000000", "null"),
            ("a3c3a978", "\"éx\""),
            ("d90161", "\"a\""),
            ("da000161", "\"a\""),
            ("db0000000161", "\"a\""),
            ("c40201ff", "\"Af8=\""),
            ("c500020000", "\"AAA=\""),
            ("c600000000", "\"\""),
            ("d4fe01", "{\"ext\":-2,\"data\":\"AQ==\"}"),
            ("d5010102", "{\"ext\":1,\"data\":\"AQI=\"}"),
            ("d6ff00000000", "{\"ext\":-1,\"data\":\"AAAAAA==\"}"),
            ("d7010000000000000000", "{\"ext\":1,\"data\":\"AAAAAAAAAAA=\"}"),
            ("d80100000000000000000000000000000000", "{\"ext\":1,\"data\":\"AAAAAAAAAAAAAAAAAAAAAA==\"}"),
            ("c70005", "{\"ext\":5,\"data\":\"\"}"),
            ("c8000105aa", "{\"ext\":5,\"data\":\"qg==\"}"),
            ("c90000000105aa", "{\"ext\":5,\"data\":\"qg==\"}"),
            ("9201c0", "[1,null]"),
            ("dc000101", "[1]"),
            ("dd0000000101", "[1]"),
            ("81a16101", "{\"a\":1}"),
            ("de0001a16101", "{\"a\":1}"),
            ("df00000001a16101", "{\"a\":1}"),
        ] {
            let bytes = from_hex(hex);
            assert_eq!(msgpack::check(&bytes), Ok(()), "{hex}");
            assert_eq!(to_json(&bytes).as_deref(), Ok(json), "{hex}");
        }
    }

    #[test]
    fn keys_that_are_no_strings_become_strings() {
        // {1: 0, -1: 0, true: 0, nil: 0, 0.5: 0, bin(00): 0, []: 0, {}: 0, ext 5: 0}
        let bytes = from_hex("890100ff00c300c000cb3fe000000000000000c401000090008000c7000500");
        let json = r#"{"1":0,"-1":0,"true":0,"null":0,"0.5":0,"AA==":0,"kA==":0,"gA==":0,"xwAF":0}"#;
        assert_eq!(to_json(&bytes).as_deref(), Ok(json));
    }
}
