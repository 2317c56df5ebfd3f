//! MessagePack without a data model: checking one value, slicing a map into its fields, writing scalars.
//!
//! Called by [`super::command`] on what clients send, by [`super::payload`] and [`super::transcode`] on what publishers send, and by
//! [`super::event`]. Input is never trusted: a length announced is compared with the bytes that are there before
//! anything is done with it, nesting ends at [`VALUE_DEPTH_MAX`], strings must be UTF-8 (the format says so; what some old
//! libraries put there instead would be an invalid text for every reader behind us).

use std::borrow::Cow;

use rmp::Marker;

use super::json;
use super::malformed::Malformed;
use crate::limits::VALUE_DEPTH_MAX;

/// Checks that `input` is exactly one complete value.
pub fn check(input: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(input);
    reader.skip(VALUE_DEPTH_MAX)?;
    reader.end()
}

/// Calls `visit` with each field of the one map that `input` must be, in order, values still encoded. Fields before a
/// defect are visited before the error is returned: on an error, nothing that was visited counts. Fields whose key is not a string are checked and left out.
pub fn fields<'a>(input: &'a [u8], visit: &mut dyn FnMut(Cow<'a, str>, &'a [u8])) -> Result<(), Malformed> {
    let mut reader = Reader::new(input);
    let Token::Map(len) = reader.token()? else { return Err(Malformed::NotAMap) };
    for _ in 0..len {
        let key = reader.raw()?;
        let value = reader.raw()?;
        if let Some(key) = text(key) {
            visit(Cow::Borrowed(key), value);
        }
    }
    reader.end()
}

/// Calls `visit` with each element of the one array that `input` must be, as [`fields`] does with those of a map.
pub fn elements<'a>(input: &'a [u8], visit: &mut dyn FnMut(&'a [u8])) -> Result<(), Malformed> {
    let mut reader = Reader::new(input);
    let Token::Array(len) = reader.token()? else { return Err(Malformed::NotAList) };
    for _ in 0..len {
        visit(reader.raw()?);
    }
    reader.end()
}

/// How many events stand in `input`, one after the other.
pub fn count(input: &[u8]) -> Result<u32, Malformed> {
    let mut reader = Reader::new(input);
    let mut count = 0;
    while reader.end().is_err() {
        // The event itself, and what it holds.
        reader.skip(VALUE_DEPTH_MAX + 1)?;
        count += 1;
    }
    Ok(count)
}

/// The string that `value` is, if it is one.
pub fn text(value: &[u8]) -> Option<&str> {
    match scalar(value)? {
        Token::Str(text) => Some(text),
        _ => None,
    }
}

/// The bytes that `value` is, if it is a `bin`.
pub fn bytes(value: &[u8]) -> Option<&[u8]> {
    match scalar(value)? {
        Token::Bin(bytes) => Some(bytes),
        _ => None,
    }
}

/// The unsigned integer that `value` is. A float without a fraction counts: some JavaScript encoders write every number
/// above 2^32 as one.
pub fn unsigned(value: &[u8]) -> Option<u64> {
    match scalar(value)? {
        Token::Unsigned(number) => Some(number),
        Token::Float(number) => json::integral(number),
        _ => None,
    }
}

/// The negative integer that `value` is.
pub fn negative(value: &[u8]) -> Option<i64> {
    match scalar(value)? {
        Token::Negative(number) => Some(number),
        _ => None,
    }
}

/// Whether `value` is a map or an array: what the payload rule `auto` takes as MessagePack.
pub fn is_container(value: &[u8]) -> bool {
    matches!(value.first(), Some(0x80..=0x9f | 0xdc..=0xdf))
}

pub fn is_nil(value: &[u8]) -> bool {
    value == [Marker::Null.to_u8()]
}

fn scalar(value: &[u8]) -> Option<Token<'_>> {
    Reader::new(value).token().ok()
}

pub fn write_str(out: &mut Vec<u8>, text: &str) {
    rmp::encode::write_str(out, text).expect("a Vec takes every write");
}

/// Writes bytes that are known to be UTF-8 as a string, without checking them again.
pub fn write_str_bytes(out: &mut Vec<u8>, text: &[u8]) {
    rmp::encode::write_str_len(out, len_u32(text)).expect("a Vec takes every write");
    out.extend_from_slice(text);
}

pub fn write_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    rmp::encode::write_bin_len(out, len_u32(bytes)).expect("a Vec takes every write");
    out.extend_from_slice(bytes);
}

pub fn write_uint(out: &mut Vec<u8>, number: u64) {
    rmp::encode::write_uint(out, number).expect("a Vec takes every write");
}

pub fn write_sint(out: &mut Vec<u8>, number: i64) {
    rmp::encode::write_sint(out, number).expect("a Vec takes every write");
}

pub fn write_f64(out: &mut Vec<u8>, number: f64) {
    rmp::encode::write_f64(out, number).expect("a Vec takes every write");
}

pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { Marker::True } else { Marker::False }.to_u8());
}

pub fn write_nil(out: &mut Vec<u8>) {
    out.push(Marker::Null.to_u8());
}

fn len_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("messages are far smaller than 4 GiB")
}

/// A map or array whose length is known only after its elements are written: one byte is kept free for the header, and
/// what is written after it moves by two or four bytes when there are more than 15 elements.
#[derive(Debug)]
pub struct OpenContainer {
    at: usize,
}

impl OpenContainer {
    pub fn begin(out: &mut Vec<u8>) -> OpenContainer {
        out.push(0);
        OpenContainer { at: out.len() - 1 }
    }

    pub fn end_map(self, out: &mut Vec<u8>, pairs: u32) {
        self.end(out, pairs, Marker::FixMap(pairs as u8 & 0xf), Marker::Map16, Marker::Map32);
    }

    pub fn end_array(self, out: &mut Vec<u8>, elements: u32) {
        self.end(out, elements, Marker::FixArray(elements as u8 & 0xf), Marker::Array16, Marker::Array32);
    }

    fn end(self, out: &mut Vec<u8>, len: u32, fix: Marker, short: Marker, long: Marker) {
        let (marker, extra) = match len {
            0..=15 => (fix, 0),
            16..=0xffff => (short, 2),
            _ => (long, 4),
        };
        out[self.at] = marker.to_u8();
        if extra > 0 {
            let (body, body_end) = (self.at + 1, out.len());
            out.resize(body_end + extra, 0);
            out.copy_within(body..body_end, body + extra);
            out[body..body + extra].copy_from_slice(&len.to_be_bytes()[4 - extra..]);
        }
    }
}

/// A scalar, or the head of a container with the number of its elements (pairs for a map).
#[derive(Debug)]
pub(super) enum Token<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Str(&'a str),
    Bin(&'a [u8]),
    Ext(i8, &'a [u8]),
    Array(u32),
    Map(u32),
}

#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) input: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Reader<'a> {
        Reader { input, at: 0 }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let rest = &self.input[self.at..];
        if rest.len() < len {
            return Err(Malformed::Truncated);
        }
        self.at += len;
        Ok(&rest[..len])
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    /// A big-endian length of 1, 2 or 4 bytes.
    #[inline]
    fn len(&mut self, width: usize) -> Result<usize, Malformed> {
        Ok(self.take(width)?.iter().fold(0, |len, &byte| len << 8 | usize::from(byte)))
    }

    /// Each element takes a byte at least, so a count above what is left is refused before it is looped over.
    #[inline]
    fn count(&mut self, width: usize, bytes_each: usize) -> Result<u32, Malformed> {
        let count = self.len(width)?;
        if count > (self.input.len() - self.at) / bytes_each {
            return Err(Malformed::Truncated);
        }
        Ok(count as u32)
    }

    #[inline]
    fn str(&mut self, len: usize) -> Result<Token<'a>, Malformed> {
        let at = self.at;
        let text = self.take(len)?;
        std::str::from_utf8(text).map(Token::Str).map_err(|_| Malformed::NotUtf8 { at })
    }

    #[inline]
    fn ext(&mut self, len: usize) -> Result<Token<'a>, Malformed> {
        let [kind] = self.array()?;
        Ok(Token::Ext(kind as i8, self.take(len)?))
    }

    #[inline]
    fn signed(number: i64) -> Token<'a> {
        u64::try_from(number).map_or(Token::Negative(number), Token::Unsigned)
    }

    #[inline]
    pub(super) fn token(&mut self) -> Result<Token<'a>, Malformed> {
        let [first] = self.array()?;
        Ok(match Marker::from_u8(first) {
            Marker::FixPos(number) => Token::Unsigned(number.into()),
            Marker::FixNeg(number) => Token::Negative(number.into()),
            Marker::Null => Token::Nil,
            Marker::False => Token::Bool(false),
            Marker::True => Token::Bool(true),
            Marker::U8 => Token::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Token::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Token::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Self::signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Self::signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Self::signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Self::signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(len) => self.str(len.into())?,
            Marker::Str8 => self.len(1).and_then(|len| self.str(len))?,
            Marker::Str16 => self.len(2).and_then(|len| self.str(len))?,
            Marker::Str32 => self.len(4).and_then(|len| self.str(len))?,
            Marker::Bin8 => self.len(1).and_then(|len| self.take(len)).map(Token::Bin)?,
            Marker::Bin16 => self.len(2).and_then(|len| self.take(len)).map(Token::Bin)?,
            Marker::Bin32 => self.len(4).and_then(|len| self.take(len)).map(Token::Bin)?,
            Marker::FixExt1 => self.ext(1)?,
            Marker::FixExt2 => self.ext(2)?,
            Marker::FixExt4 => self.ext(4)?,
            Marker::FixExt8 => self.ext(8)?,
            Marker::FixExt16 => self.ext(16)?,
            Marker::Ext8 => self.len(1).and_then(|len| self.ext(len))?,
            Marker::Ext16 => self.len(2).and_then(|len| self.ext(len))?,
            Marker::Ext32 => self.len(4).and_then(|len| self.ext(len))?,
            Marker::FixArray(len) => Token::Array(len.into()),
            Marker::Array16 => Token::Array(self.count(2, 1)?),
            Marker::Array32 => Token::Array(self.count(4, 1)?),
            Marker::FixMap(len) => Token::Map(len.into()),
            Marker::Map16 => Token::Map(self.count(2, 2)?),
            Marker::Map32 => Token::Map(self.count(4, 2)?),
            Marker::Reserved => return Err(Malformed::Unexpected { at: self.at - 1 }),
        })
    }

    pub(super) fn skip(&mut self, depth_left: usize) -> Result<(), Malformed> {
        let values = match self.token()? {
            Token::Array(len) => u64::from(len),
            Token::Map(len) => 2 * u64::from(len),
            _ => return Ok(()),
        };
        let depth_left = depth_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
        (0..values).try_for_each(|_| self.skip(depth_left))
    }

    /// The bytes of the next value.
    fn raw(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.at;
        self.skip(VALUE_DEPTH_MAX)?;
        Ok(&self.input[start..self.at])
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.at < self.input.len() { Err(Malformed::Trailing { at: self.at }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::json::tests::any_value;
    use super::super::transcode::tests::{from_hex, to_json};
    use super::*;

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(to_json(&bytes).map(|_| ()), check(&bytes));
            let _ = fields(&bytes, &mut |_, _| {});
            if let Ok(text) = to_json(&bytes) {
                prop_assert_eq!(json::check(&text).is_err(), false, "{}", text);
            }
        }

        #[test]
        fn bytes_that_begin_like_a_map_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), first in 0x80u8..0xa0) {
            let bytes = [&[first], &*bytes].concat();
            prop_assert_eq!(to_json(&bytes).map(|_| ()), check(&bytes));
        }

        #[test]
        fn every_truncation_and_every_extension_is_an_error(value in any_value()) {
            let packed = rmp_serde::to_vec(&value).unwrap();
            prop_assert_eq!(check(&packed), Ok(()));
            for end in 0..packed.len() {
                prop_assert_eq!(check(&packed[..end]), Err(Malformed::Truncated));
            }
            let longer = [&packed[..], &[0]].concat();
            prop_assert_eq!(check(&longer), Err(Malformed::Trailing { at: packed.len() }));
        }
    }

    #[test]
    fn announced_lengths_cost_nothing() {
        for hex in ["ddffffffff", "dfffffffff", "c6ffffffff", "dbffffffff", "c9ffffffff01", "dcffff00", "deffff00", "9f", "8f"] {
            assert_eq!(check(&from_hex(hex)), Err(Malformed::Truncated), "{hex}");
            assert_eq!(to_json(&from_hex(hex)), Err(Malformed::Truncated), "{hex}");
        }
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        for unit in [&[0x91][..], &[0x81, 0x00]] {
            let nested = |levels| [unit.repeat(levels), vec![0]].concat();
            assert_eq!(check(&nested(VALUE_DEPTH_MAX)), Ok(()));
            assert!(to_json(&nested(VALUE_DEPTH_MAX)).is_ok());
            assert_eq!(check(&nested(VALUE_DEPTH_MAX + 1)), Err(Malformed::TooDeep));
            assert_eq!(to_json(&nested(VALUE_DEPTH_MAX + 1)), Err(Malformed::TooDeep));
            assert_eq!(check(&nested(1_000_000)), Err(Malformed::TooDeep));
        }
        // A map as the key of a map, as deep as it goes: the keys must not grow with each level.
        let keys = [vec![0x81; VALUE_DEPTH_MAX], vec![0; VALUE_DEPTH_MAX + 1]].concat();
        assert!(to_json(&keys).unwrap().len() < 200);
    }

    #[test]
    fn strings_must_be_utf8_and_0xc1_stands_for_nothing() {
        assert_eq!(check(&[0xa1, 0xff]), Err(Malformed::NotUtf8 { at: 1 }));
        assert_eq!(check(&[0x91, 0xc1]), Err(Malformed::Unexpected { at: 1 }));
    }

    #[test]
    fn containers_of_every_header_size_are_closed_right() {
        for len in [0u32, 1, 15, 16, 17, 65_535, 65_536] {
            let mut out = vec![0xaa];
            let array = OpenContainer::begin(&mut out);
            (0..len).for_each(|_| out.push(7));
            array.end_array(&mut out, len);
            assert_eq!(rmp_serde::from_slice::<Vec<u8>>(&out[1..]).unwrap(), vec![7; len as usize]);

            let map = OpenContainer::begin(&mut out);
            let at = map.at;
            (0..len).for_each(|key| {
                write_str(&mut out, &key.to_string());
                write_bool(&mut out, true);
            });
            map.end_map(&mut out, len);
            let value: Value = rmp_serde::from_slice(&out[at..]).unwrap();
            assert_eq!(value.as_object().unwrap().len(), len as usize);
            assert_eq!(out[0], 0xaa);
        }
    }
}
