//! TLS to a real Redis: who vouches for it, and as whom we show ourselves.

use std::path::PathBuf;

use campanile::config::{RedisTls, Settings};

use crate::bench::{Bench, settings};
use crate::certificates::Certificates;
use crate::support::{self, RedisServer};

/// A server that shows this certificate, and asks for one that `asks` vouches for.
fn redis(certificates: &Certificates, name: &str, asks: Option<&str>) -> (RedisServer, u16) {
    let port = support::free_port();
    let (port_text, cert, key) = (port.to_string(), certificates.path(&format!("{name}.crt")), certificates.path(&format!("{name}.key")));
    let ca = certificates.path(&format!("{}.crt", asks.unwrap_or(name)));
    let arguments = ["--tls-port", &port_text, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let auth = ["--tls-auth-clients", if asks.is_some() { "yes" } else { "no" }];
    (RedisServer::with_arguments(&[&arguments[..], &auth].concat()), port)
}

fn settings_of(port: u16, host: &str, tls: RedisTls) -> Settings {
    settings(Some(format!("rediss://{host}:{port}"))).with(|settings| {
        (settings.redis.tls_ca, settings.redis.tls_cert, settings.redis.tls_key) = (tls.ca, tls.cert, tls.key);
    })
}

/// Why no thread starts with these files.
fn why_not(tls: RedisTls) -> String {
    let result = campanile::bus::thread::spawn_with_timing(
        &settings_of(1, "localhost", tls),
        Default::default(),
        Vec::new(),
        Default::default(),
        crate::bench::patient(),
    );
    format!("{:#}", result.map(drop).expect_err("it is of no use"))
}

#[test]
fn a_server_is_believed_for_its_root_or_for_itself() {
    let certificates = Certificates::new("redis");
    certificates.root("root");
    certificates.root("other");
    certificates.signed("server", "root", &["localhost"]);
    certificates.signed("client", "root", &[]);
    let file = |name: &str| Some(PathBuf::from(certificates.path(name)));
    let works = |port: u16, host: &str, tls: RedisTls| {
        let mut bench = Bench::new(settings_of(port, host, tls));
        bench.wait_ready(true);
        assert!(bench.publish("a", b"x").is_ok());
    };
    let fails = |port: u16, host: &str, tls: RedisTls| {
        let mut bench = Bench::new(settings_of(port, host, tls));
        let begin = std::time::Instant::now();
        bench.wait("a few tries", |_| begin.elapsed() > std::time::Duration::from_millis(300));
        assert_eq!((bench.metrics.connects.get(), bench.metrics.ready.get()), (0, 0));
    };

    // With a root of one's own; the server asks who we are.
    let (_asking, port) = redis(&certificates, "server", Some("root"));
    let own = RedisTls { ca: file("root.crt"), cert: file("client.crt"), key: file("client.key") };
    works(port, "127.0.0.1", own.clone());
    works(port, "localhost", own.clone());
    fails(port, "127.0.0.1", RedisTls { ca: file("root.crt"), ..RedisTls::default() });
    fails(port, "127.0.0.1", RedisTls { ca: file("other.crt"), ..own.clone() });
    // For another name it does not vouch, but the certificate itself may be known.
    fails(port, "127.0.0.2", own.clone());
    works(port, "127.0.0.1", RedisTls { ca: file("server.crt"), ..own.clone() });

    // One that vouches for itself and says that it is a CA.
    let (_itself, port) = redis(&certificates, "other", None);
    works(port, "127.0.0.1", RedisTls { ca: file("other.crt"), ..RedisTls::default() });
    fails(port, "127.0.0.1", RedisTls { ca: file("root.crt"), ..RedisTls::default() });

    // Files that are of no use end the start and are named.
    let odd = |name: &str, text: &str| {
        std::fs::write(certificates.path(name), text).unwrap();
        file(name)
    };
    let with_ca = |ca: Option<PathBuf>| why_not(RedisTls { ca, ..RedisTls::default() });
    assert!(with_ca(file("none.crt")).contains("redis_ca: "), "{}", with_ca(file("none.crt")));
    assert!(with_ca(odd("empty.crt", "")).contains("there is no certificate in"));
    assert!(with_ca(file("root.key")).contains("there is no certificate in"));
    let with_key = |key: Option<PathBuf>| why_not(RedisTls { key, ..own.clone() });
    assert!(with_key(file("root.crt")).contains("redis_key: no private key"), "{}", with_key(file("root.crt")));
    assert!(with_key(file("server.key")).contains("is not the key of"), "{}", with_key(file("server.key")));
}
