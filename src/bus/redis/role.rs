//! What a server says that it is (`ROLE`). Depends on the answer alone.

use redis::Value;

/// Why it is not to be written to. None: it is a master, or does not say what it is.
pub fn no_master(value: &Value) -> Option<String> {
    let Value::Array(parts) = value else { return None };
    let text = |value: &Value| match value {
        Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    };
    match (parts.first().map(text).as_deref(), parts.get(1..3)) {
        (Some("slave"), Some([host, port])) => Some(format!(
            "it is a replica of {}:{}, which takes nothing: name the master, or the Sentinels that know it",
            text(host),
            text(port)
        )),
        (Some("slave"), _) => Some("it is a replica, which takes nothing: name the master, or the Sentinels that know it".to_owned()),
        (Some("sentinel"), _) => Some("it is a Sentinel: the URL of what it watches is redis+sentinel://HOST:PORT/SERVICE".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_master_is_written_to() {
        let told = |text: &str| no_master(&redis::parse_redis_value(text.replace(' ', "\r\n").as_bytes()).unwrap());
        assert_eq!(told("*3 $6 master :7 *0 "), None);
        assert_eq!(told("$2 no "), None);
        assert_eq!(told("*0 "), None);
        assert!(told("*5 $5 slave $9 127.0.0.1 :6379 $9 connected :7 ").unwrap().contains("a replica of 127.0.0.1:6379"));
        assert!(told("*1 $5 slave ").unwrap().contains("a replica"));
        assert!(told("*2 $8 sentinel *1 $1 m ").unwrap().contains("redis+sentinel://"));
    }
}
