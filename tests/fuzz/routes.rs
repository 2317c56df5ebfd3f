//! Messages of publishers that go where a field of their own says.

use campanile::bus::route::Routes;
use campanile::config::Route;
use campanile::config::routes::{FieldPath, Template};
use campanile::wire::channel_name;
use campanile::wire::payload::{Expect, Kind, classify};
use serde_json::Value;

use crate::mutate::mutated;
use crate::seeds::{texts, vectors};

/// As others read it, the channel of one value; None: it names none, or it is not for us to say.
fn named(value: &Value) -> Option<String> {
    let id = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    Some(format!("user:{id}")).filter(|name| !id.is_empty() && channel_name::check(name).is_ok())
}

#[test]
fn routes() {
    let (field, to) = (FieldPath::read("user.id").unwrap(), Template::read("user:{}").unwrap());
    let routes = Routes::new(&[Route { from: "n".into(), field, to, otherwise: Some("else".into()) }]);
    let mut seeds = texts(&[
        r#"{"user":{"id":"u1"}}"#,
        r#"{"title":"Ding","user":{"name":"x","id":17},"data":[{"user":1}]}"#,
        r#"{"user":{"id":["a","b",3,"a"]}}"#,
        r#"{"user":{"id":null}}"#,
        r#"{"user":{"id":{"id":1}}}"#,
        r#"{"user":"u1","id":1}"#,
        "[1]",
    ]);
    seeds.push(b"\x81\xa4user\x81\xa2id\xa2u1".to_vec());
    seeds.push(b"\x82\xa1x\x01\xa4user\x82\xa1y\xc0\xa2id\x93\x01\xa1b\xcf\xff\xff\xff\xff\xff\xff\xff\xff".to_vec());
    seeds.extend(vectors(&["notification"], "published"));
    let words: &[&[u8]] = &[
        b"\"user\":",
        b"\"id\":",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"null",
        b"\"\"",
        b"\\u0000",
        b"1.5",
        b"\xa2id",
        b"\xa4user",
        b"\x81",
        b"\x92",
        b"\xc0",
    ];
    bolero::check!().with_generator(mutated(seeds, words)).for_each(|payload: &Vec<u8>| {
        let kind = classify(payload, Expect::Auto).0;
        let found = routes.channels("n", kind, payload);
        if let Ok(channels) = &found {
            assert!(!channels.is_empty() && channels.iter().all(|name| channel_name::check(name).is_ok()), "{channels:?}");
            assert!(channels.is_sorted() && channels.iter().all(|name| name == "else" || name.starts_with("user:")), "{channels:?}");
        }
        let is_else = matches!(&found, Ok(channels) if channels == &["else"]);
        // Text that is no JSON has no fields; of MessagePack its invariants have to do.
        if kind != Kind::Json {
            assert!(kind == Kind::Msgpack || is_else);
            return;
        }
        let Ok(value) = serde_json::from_slice::<Value>(payload) else { return };
        match &value["user"]["id"] {
            Value::Null => assert!(is_else, "{value}: {found:?}"),
            Value::Array(list) => {
                let mut names: Vec<String> = list.iter().filter_map(named).collect();
                names.sort_unstable();
                names.dedup();
                if list.iter().all(|id| named(id).is_some()) && !list.is_empty() && list.len() <= 1000 {
                    assert_eq!(found.ok(), Some(names), "{value}");
                }
            }
            one => {
                if let Some(name) = named(one) {
                    assert_eq!(found.ok(), Some(vec![name]), "{value}");
                }
            }
        }
    });
}
