//! What inputs begin as: the vectors of `docs/protocol.md`, and what the tests of each part know.

use std::collections::BTreeMap;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The fields of this kind (`json`, `msgpack`, `frame`…) of all vectors of these groups; hex as its bytes.
pub fn vectors(groups: &[&str], field: &str) -> Vec<Vec<u8>> {
    let blocks = DOCUMENT.split("```text\nvector: ").skip(1).map(|rest| rest.split("\n```").next().expect("one part at least"));
    let mut found = Vec::new();
    for block in blocks {
        let (name, rest) = block.split_once('\n').expect("a name, then fields");
        if !groups.contains(&name.split('/').next().expect("a group")) {
            continue;
        }
        let mut fields: BTreeMap<&str, String> = BTreeMap::new();
        let mut last = "";
        for line in rest.lines() {
            match line.strip_prefix("  ") {
                Some(more) => *fields.get_mut(last).expect("a line before") += more,
                None => {
                    let (key, value) = line.split_once(": ").expect("`key: value`");
                    last = key;
                    fields.insert(key, value.to_owned());
                }
            }
        }
        if let Some(value) = fields.get(field) {
            found.push(hex(value).unwrap_or_else(|| value.clone().into_bytes()));
        }
    }
    assert!(!found.is_empty(), "no vector of {groups:?} has a field {field}");
    found
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    if digits.len().is_multiple_of(2) { pairs.collect() } else { None }
}

/// As byte strings.
pub fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
