//! JSON without a data model: checking one text, slicing an object into its fields, writing scalars.
//!
//! Called by [`super::command`] on what clients send, by [`super::payload`] and [`super::transcode`] on what publishers send, and by
//! [`super::event`]. The checker is our own because serde_json's (`IgnoredAny`) has no depth limit and its number parser
//! rounds the last digit; it accepts what serde_json's accepts, which a test compares. All input is `&str`, so slices
//! between ASCII bytes are always whole characters.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::malformed::Malformed;
use crate::limits::VALUE_DEPTH_MAX;

/// Largest integer that every JSON reader gets exactly.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Checks that `text` is exactly one complete value.
pub fn check(text: &str) -> Result<(), Malformed> {
    let mut scanner = Scanner::new(text);
    scanner.skip_value()?;
    scanner.end()
}

/// Calls `visit` with each field of the one object that `text` must be, in order, values as they were written. Fields
/// before a defect are visited before the error is returned: on an error, nothing that was visited counts.
pub fn fields<'a>(text: &'a str, visit: &mut dyn FnMut(Cow<'a, str>, &'a str)) -> Result<(), Malformed> {
    let mut scanner = Scanner::new(text);
    if scanner.token() != Some(b'{') {
        return Err(Malformed::NotAMap);
    }
    scanner.at += 1;
    if scanner.token() == Some(b'}') {
        scanner.at += 1;
        return scanner.end();
    }
    loop {
        let key = scanner.key()?;
        scanner.token();
        let start = scanner.at;
        scanner.skip_value()?;
        let value = &text[start..scanner.at];
        // A value has ended only where the next thing begins: `07` is not the number 0.
        let another = scanner.another(b'}')?;
        visit(key, value);
        if !another {
            return scanner.end();
        }
    }
}

/// Calls `visit` with each element of the one array that `text` must be, as [`fields`] does with those of an object.
pub fn elements<'a>(text: &'a str, visit: &mut dyn FnMut(&'a str)) -> Result<(), Malformed> {
    let mut scanner = Scanner::new(text);
    if scanner.token() != Some(b'[') {
        return Err(Malformed::NotAList);
    }
    scanner.at += 1;
    if scanner.token() == Some(b']') {
        scanner.at += 1;
        return scanner.end();
    }
    loop {
        scanner.token();
        let start = scanner.at;
        scanner.skip_value()?;
        let value = &text[start..scanner.at];
        let another = scanner.another(b']')?;
        visit(value);
        if !another {
            return scanner.end();
        }
    }
}

/// The string that the complete value `value` is, if it is one.
pub fn text(value: &str) -> Option<Cow<'_, str>> {
    let mut scanner = Scanner::new(value);
    (scanner.token() == Some(b'"')).then(|| scanner.string().ok())?
}

/// The unsigned integer that the complete value `value` is. `1.0` and `1e3` are integers too, as they are in JavaScript.
pub fn unsigned(value: &str) -> Option<u64> {
    if !value.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().or_else(|| integral(value.parse().ok()?))
}

/// The negative integer that the complete value `value` is.
pub fn negative(value: &str) -> Option<i64> {
    value.parse().ok().filter(|&number| number < 0)
}

/// The unsigned integer that a float is exactly, if it is one that every reader of floats would name by the same digits.
pub fn integral(number: f64) -> Option<u64> {
    (number.is_sign_positive() && number <= INTEGER_MAX as f64 && number.fract() == 0.0).then_some(number as u64)
}

pub fn flag(value: &str) -> Option<bool> {
    match value.trim_matches([' ', '\t', '\n', '\r']) {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

pub fn is_null(value: &str) -> bool {
    value == "null"
}

pub fn write_str(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every write");
}

pub fn write_uint(out: &mut Vec<u8>, number: u64) {
    serde_json::to_writer(out, &number).expect("a Vec takes every write");
}

pub fn write_sint(out: &mut Vec<u8>, number: i64) {
    serde_json::to_writer(out, &number).expect("a Vec takes every write");
}

/// NaN and the infinities, which JSON lacks, become `null`.
pub fn write_f64(out: &mut Vec<u8>, number: f64) {
    serde_json::to_writer(out, &number).expect("a Vec takes every write");
}

pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// The bytes as a string in base64 (RFC 4648, section 4, with padding).
pub fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    BASE64.encode_slice(bytes, &mut out[start..]).expect("the space was made to fit");
    out.push(b'"');
}

#[derive(Debug)]
pub(super) struct Scanner<'a> {
    pub(super) text: &'a str,
    /// Never inside a character: it only moves past ASCII bytes and whole strings.
    pub(super) at: usize,
}

/// A stack of open containers, one bit each, that the compiler can keep in a register.
const _: () = assert!(VALUE_DEPTH_MAX <= u64::BITS as usize);

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0 }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Moves to the next byte that is not white space and tells it.
    #[inline]
    pub(super) fn token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    #[cold]
    fn unexpected(&self) -> Malformed {
        if self.at < self.text.len() { Malformed::Unexpected { at: self.at } } else { Malformed::Truncated }
    }

    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        if self.token().is_some() { Err(Malformed::Trailing { at: self.at }) } else { Ok(()) }
    }

    /// Skips one value without recursion.
    fn skip_value(&mut self) -> Result<(), Malformed> {
        // The lowest bit is the innermost container: 1 for an object.
        let (mut objects, mut depth) = (0u64, 0);
        loop {
            let opened = match self.token() {
                Some(b'"') => {
                    self.skip_string()?;
                    false
                }
                Some(open @ (b'{' | b'[')) => {
                    if depth == VALUE_DEPTH_MAX {
                        return Err(Malformed::TooDeep);
                    }
                    self.at += 1;
                    depth += 1;
                    objects = objects << 1 | u64::from(open == b'{');
                    true
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.skip_number()?;
                    false
                }
                _ => {
                    self.skip_literal()?;
                    false
                }
            };
            if opened && self.token() != Some(if objects & 1 == 1 { b'}' } else { b']' }) {
                if objects & 1 == 1 {
                    self.skip_key()?;
                }
                continue;
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                match self.token() {
                    Some(b',') => {
                        self.at += 1;
                        if is_object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    Some(b'}') if is_object => self.at += 1,
                    Some(b']') if !is_object => self.at += 1,
                    _ => return Err(self.unexpected()),
                }
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// After an element: true past a comma, false past `close`.
    pub(super) fn another(&mut self, close: u8) -> Result<bool, Malformed> {
        let next = self.token();
        if next != Some(b',') && next != Some(close) {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(next == Some(b','))
    }

    fn skip_key(&mut self) -> Result<(), Malformed> {
        if self.token() != Some(b'"') {
            return Err(self.unexpected());
        }
        self.skip_string()?;
        self.colon()
    }

    pub(super) fn key(&mut self) -> Result<Cow<'a, str>, Malformed> {
        if self.token() != Some(b'"') {
            return Err(self.unexpected());
        }
        let key = self.string()?;
        self.colon()?;
        Ok(key)
    }

    #[inline]
    fn colon(&mut self) -> Result<(), Malformed> {
        if self.token() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    pub(super) fn skip_literal(&mut self) -> Result<(), Malformed> {
        let rest = &self.text.as_bytes()[self.at..];
        let literal: &[u8] = match rest.first() {
            Some(b't') => b"true",
            Some(b'f') => b"false",
            Some(b'n') => b"null",
            _ => return Err(self.unexpected()),
        };
        let same = rest.iter().zip(literal).take_while(|(a, b)| a == b).count();
        self.at += same;
        if same < literal.len() { Err(self.unexpected()) } else { Ok(()) }
    }

    /// Skips a number; true if it has neither fraction nor exponent.
    pub(super) fn skip_number(&mut self) -> Result<bool, Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.skip_digits()?;
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
            integer = false;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.skip_digits()?;
            integer = false;
        }
        Ok(integer)
    }

    fn skip_digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected()) } else { Ok(()) }
    }

    /// Skips a string; true if it has escapes.
    fn skip_string(&mut self) -> Result<bool, Malformed> {
        self.at += 1;
        let mut escapes = false;
        loop {
            self.at += plain_len(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escapes);
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.skip_escape()?;
                    escapes = true;
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn skip_escape(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                        return Err(self.unexpected());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.unexpected()),
        }
        Ok(())
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let start = self.at + 1;
        let escapes = self.skip_string()?;
        let content = &self.text[start..self.at - 1];
        Ok(if escapes { Cow::Owned(unescape(content)) } else { Cow::Borrowed(content) })
    }
}

/// How many bytes from the start are neither quote, backslash nor control character. Eight at a time: strings are most of
/// a text, and a byte at a time would double the time of the whole check.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let stops = zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\'))) | control;
        // Borrows spoil only the bytes above the first hit, so the lowest one is right.
        if stops != 0 {
            return index * 8 + stops.trailing_zeros() as usize / 8;
        }
    }
    let in_rest = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
    words.len() * 8 + in_rest
}

/// Resolves the escapes of a string that [`Scanner::skip_string`] has accepted.
fn unescape(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(backslash) = rest.find('\\') {
        out.push_str(&rest[..backslash]);
        let escape = rest.as_bytes()[backslash + 1];
        rest = &rest[backslash + 2..];
        out.push(match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => unescape_unit(&mut rest),
            other => char::from(other),
        });
    }
    out.push_str(rest);
    out
}

/// The character of the `\u` escape whose digits begin `rest`, with its second half if it is a surrogate pair.
fn unescape_unit(rest: &mut &str) -> char {
    let unit = |digits: &str| u32::from_str_radix(digits, 16).expect("the scanner saw four hex digits");
    let first = unit(&rest[..4]);
    *rest = &rest[4..];
    if let (0xd800..0xdc00, Some(second)) = (first, rest.strip_prefix("\\u"))
        && let low @ 0xdc00..0xe000 = unit(&second[..4])
    {
        *rest = &second[4..];
        return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00)).expect("a pair is a character");
    }
    char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::msgpack;
    use super::super::transcode::tests::to_msgpack;
    use super::*;

    /// Values that JSON and MessagePack can both hold.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-200i64..300).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[a-z\"\\\\\\x00-\\x1f]{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 120, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..20).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// What serde_json makes of it, which has no depth limit here and is no reference for depth.
    fn serde_accepts(text: &str) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    }

    proptest! {

        #[test]
        fn check_agrees_with_serde_json_on_nearly_json(text in "[\\[\\]{}:,\" \n0-9.eE+\\-tfnulrase\\\\ud8\u{1}é]{0,24}") {
            prop_assert_eq!(check(&text).is_ok(), serde_accepts(&text), "{:?}", text);
            prop_assert_eq!(to_msgpack(&text).map(|_| ()), check(&text), "{:?}", text);
        }

        #[test]
        fn check_agrees_with_serde_json_on_damaged_json(value in any_value(), at in any::<prop::sample::Index>(), patch in "[\\[\\]{}:,\"0.e\\-tn\\\\ \u{1}]{0,2}") {
            let mut text = serde_json::to_string_pretty(&value).unwrap();
            let mut at = at.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
            text.replace_range(at..end, &patch);
            prop_assert_eq!(check(&text).is_ok(), serde_accepts(&text), "{}", text);
            prop_assert_eq!(to_msgpack(&text).map(|_| ()), check(&text));
        }

        #[test]
        fn every_truncation_is_an_error(value in any_value()) {
            let text = format!("[{value}]");
            for (end, _) in text.char_indices() {
                prop_assert_eq!(check(&text[..end]), Err(Malformed::Truncated));
            }
        }

        #[test]
        fn strings_are_read_as_serde_json_reads_them(string in any::<String>()) {
            let quoted = serde_json::to_string(&string).unwrap();
            prop_assert_eq!(text(&quoted).unwrap(), &*string);
            let escaped: String = string.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let quoted = format!("\"{escaped}\"");
            prop_assert_eq!(text(&quoted).unwrap(), &*string);
        }
    }

    #[test]
    fn a_string_ends_wherever_it_ends() {
        for len in 0..40 {
            for stop in 0..len {
                for byte in [b'"', b'\\', 0x1f, 0x00] {
                    let mut bytes = vec![b'!'; len];
                    // Bytes of a multibyte character and DEL stop nothing.
                    bytes.iter_mut().step_by(3).for_each(|byte| *byte = 0xa2);
                    bytes.iter_mut().skip(1).step_by(3).for_each(|byte| *byte = 0x7f);
                    assert_eq!(plain_len(&bytes), len);
                    bytes[stop] = byte;
                    bytes[len - 1] = byte;
                    assert_eq!(plain_len(&bytes), stop);
                }
            }
        }
    }

    #[test]
    fn errors_name_the_byte() {
        for (text, error) in [
            ("", Malformed::Truncated),
            ("  ", Malformed::Truncated),
            ("tru", Malformed::Truncated),
            ("trux", Malformed::Unexpected { at: 3 }),
            ("[1,]", Malformed::Unexpected { at: 3 }),
            ("{,}", Malformed::Unexpected { at: 1 }),
            ("{\"a\":1,}", Malformed::Unexpected { at: 7 }),
            ("{\"a\" 1}", Malformed::Unexpected { at: 5 }),
            ("[1}", Malformed::Unexpected { at: 2 }),
            ("01", Malformed::Trailing { at: 1 }),
            ("1.", Malformed::Truncated),
            ("-x", Malformed::Unexpected { at: 1 }),
            ("\"\\x\"", Malformed::Unexpected { at: 2 }),
            ("\"\\u12g4\"", Malformed::Unexpected { at: 5 }),
            ("\"a\nb\"", Malformed::Unexpected { at: 2 }),
            ("{} x", Malformed::Trailing { at: 3 }),
            ("\u{feff}{}", Malformed::Unexpected { at: 0 }),
        ] {
            assert_eq!(check(text), Err(error), "{text:?}");
            assert_eq!(to_msgpack(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |levels| format!("{}0{}", open.repeat(levels), close.repeat(levels));
            assert_eq!(check(&nested(VALUE_DEPTH_MAX)), Ok(()));
            assert!(to_msgpack(&nested(VALUE_DEPTH_MAX)).is_ok());
            assert_eq!(check(&nested(VALUE_DEPTH_MAX + 1)), Err(Malformed::TooDeep));
            assert_eq!(to_msgpack(&nested(VALUE_DEPTH_MAX + 1)), Err(Malformed::TooDeep));
            assert_eq!(check(&open.repeat(1_000_000)), Err(Malformed::TooDeep));
        }
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        for (quoted, plain) in [(r#""\ud83d\ude00""#, "😀"), (r#""\ud83d""#, "\u{fffd}"), (r#""a\ude00b""#, "a\u{fffd}b")] {
            assert_eq!(text(quoted).unwrap(), plain);
        }
        assert_eq!(text(r#""\ud83dA""#).unwrap(), "\u{fffd}A");
        assert_eq!(text(r#""\ud83d\ud83d\ude00""#).unwrap(), "\u{fffd}😀");
    }

    #[test]
    fn unsigned_takes_what_javascript_calls_an_integer() {
        for (text, number) in [("0", Some(0)), ("18446744073709551615", Some(u64::MAX)), ("1e3", Some(1000)), ("7.0", Some(7))] {
            assert_eq!(unsigned(text), number);
        }
        for text in ["-1", "1.5", "1e400", "\"1\"", "null", "18446744073709551616", "true"] {
            assert_eq!(unsigned(text), None, "{text}");
        }
    }

    #[test]
    fn minus_zero_is_no_unsigned_integer_in_either_spelling() {
        let mut packed = Vec::new();
        msgpack::write_f64(&mut packed, -0.0);
        assert_eq!((unsigned("-0.0"), unsigned("-0"), msgpack::unsigned(&packed)), (None, None, None));
    }

    #[test]
    fn fields_come_in_order_and_before_an_error() {
        let collect = |text: &str| {
            let mut seen = Vec::new();
            let result = fields(text, &mut |key, value| seen.push(format!("{key}={value}")));
            (seen.join(" "), result)
        };
        assert_eq!(collect(" { \"a\" : [1, 2] , \"b\\n\":\"x\"} "), ("a=[1, 2] b\n=\"x\"".into(), Ok(())));
        assert_eq!(collect("{}"), (String::new(), Ok(())));
        assert_eq!(collect("{\"a\":1,\"b\":"), ("a=1".into(), Err(Malformed::Truncated)));
        assert_eq!(collect("{\"a\":1,\"b\":07}"), ("a=1".into(), Err(Malformed::Unexpected { at: 12 })));
        assert_eq!(collect("{\"a\":1,\"b\":0"), ("a=1".into(), Err(Malformed::Truncated)));
        assert_eq!(collect("{\"a\":1} 2"), ("a=1".into(), Err(Malformed::Trailing { at: 8 })));
        assert_eq!(collect("[]").1, Err(Malformed::NotAMap));
        assert_eq!(collect("").1, Err(Malformed::NotAMap));
    }
}
