//! Whether a server throws streams of durable channels away when its memory is full: the operator is warned, once for each way in which it would.
//! Sans-IO; owned by [`super::server::Server`].

use redis::Value;

/// What the last answer told.
#[derive(Debug, Default)]
pub struct Eviction {
    told: Option<String>,
}

impl Eviction {
    /// The answer to `INFO memory`. What the operator is to be told, if it is new.
    pub fn answered(&mut self, answer: &Value) -> Option<String> {
        let policy = policy(answer);
        if policy == self.told {
            return None;
        }
        self.told = policy;
        self.told.as_deref().map(|policy| {
            format!(
                "Redis has maxmemory-policy {policy} and a maxmemory: when that is reached it throws away streams of durable channels, whole and without a word. \
                 Set maxmemory-policy noeviction there (CONFIG SET, redis.conf), so that publishing is refused instead"
            )
        })
    }
}

/// The policy, if keys with a time to live, as streams have one, go by it.
fn policy(answer: &Value) -> Option<String> {
    let text = match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let is_limited = field("maxmemory").is_some_and(|bytes| bytes != "0");
    field("maxmemory_policy").filter(|policy| is_limited && *policy != "noeviction").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_losing_streams_is_told_once() {
        let info = |maxmemory: u64, policy: &str| {
            let text = format!("# Memory\r\nused_memory:1\r\nmaxmemory:{maxmemory}\r\nmaxmemory_human:0B\r\nmaxmemory_policy:{policy}\r\n");
            Value::BulkString(text.into_bytes())
        };
        let mut eviction = Eviction::default();
        assert_eq!(eviction.answered(&info(0, "allkeys-lru")), None, "without a limit nothing is thrown away");
        assert_eq!(eviction.answered(&info(1000, "noeviction")), None);
        assert!(eviction.answered(&info(1000, "volatile-ttl")).unwrap().contains("maxmemory-policy volatile-ttl"));
        assert_eq!(eviction.answered(&info(1000, "volatile-ttl")), None);
        assert_eq!(eviction.answered(&info(1000, "noeviction")), None);
        assert!(eviction.answered(&info(1000, "volatile-ttl")).is_some());
        for odd in [Value::Nil, Value::Int(3), Value::BulkString(b"maxmemory:1\r\n".into()), Value::BulkString(b"\xff".into())] {
            assert_eq!(policy(&odd), None);
        }
    }
}
