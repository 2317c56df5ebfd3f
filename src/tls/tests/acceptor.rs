//! Which certificate is shown, and what is wrong with files.

use super::*;

fn why_not(wanted: &Wanted, unix_seconds: u64) -> String {
    let tickets = Arc::new(Tickets::new(now()).unwrap());
    format!("{:#}", Acceptor::load(wanted, &tickets, unix_seconds).expect_err("it is of no use"))
}

#[test]
fn a_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let files = Files::new().with_other();
    let pair = |name: &str| (files.path(&format!("{name}.crt")), files.path(&format!("{name}.key")));
    let acceptor = acceptor(&Wanted { pairs: vec![pair("server"), pair("other")], ..wanted(&files) });
    let leaf = |name: &str| CertificateDer::from_pem_file(files.path(&format!("{name}.crt"))).unwrap();
    let config = Arc::new(client_config(&files, first_suite()));
    for (name, shown) in [
        ("localhost", "server"),
        ("LOCALHOST", "server"),
        ("other.example", "other"),
        ("b.wild.example", "server"),
        // A name itself before a wildcard.
        ("a.wild.example", "other"),
        // No name at all.
        ("127.0.0.1", "server"),
    ] {
        let mut client = connect(&config, name);
        let established = shake(&acceptor, &mut client).unwrap();
        assert_eq!(client.peer_certificates().unwrap()[0], leaf(shown), "{name}");
        let asked = (name != "127.0.0.1").then(|| name.to_lowercase());
        assert_eq!(established.server_name.map(|name| name.to_lowercase()), asked);
    }
    // Whoever asks for another is shown the first, and leaves by itself.
    for name in ["elsewhere.example", "a.b.wild.example", "wild.example"] {
        let mut client = connect(&config, name);
        let mut handshake = Handshake::new(acceptor.clone());
        let mut out = Vec::new();
        handshake.advance(&sent(&mut client), &mut out).unwrap();
        assert!(matches!(give(&mut client, &out), Err(rustls::Error::InvalidCertificate(_))), "{name}");
        let alert = sent(&mut client);
        assert_eq!(handshake.advance(&alert, &mut out).map(drop), Err(Fault::PeerAlert));
    }
}

#[test]
fn keys_of_two_kinds_for_one_name_serve_clients_of_either() {
    let files = Files::new();
    let (key, cert) = ("rsa.key", "rsa.crt");
    files.openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=rsa", "-keyout", key, "-out", "rsa.csr"]);
    let signing = ["x509", "-req", "-in", "rsa.csr", "-out", cert, "-days", "2", "-extfile", "server.ext"];
    files.openssl(&[&signing[..], &["-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial", "8"]].concat());
    let mut wanted = wanted(&files);
    wanted.pairs.push((files.path(cert), files.path(key)));
    let acceptor = acceptor(&wanted);
    // In TLS 1.2 the suite says which kind of key the client takes.
    for suite in [provider::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, suite_of_tls12()] {
        let config = Arc::new(client_config(&files, suite));
        for name in ["localhost", "127.0.0.1"] {
            let mut client = connect(&config, name);
            let mut established = shake(&acceptor, &mut client).unwrap();
            assert_eq!(established.suite, suite_name(suite), "{name}");
            talk(&mut established.layer, &mut client, 1);
        }
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_name() {
    let files = Files::new().with_clients();
    let fine = wanted(&files);
    let (cert, key) = fine.pairs[0].clone();
    let text = |path: &Path| String::from_utf8(read_file(path)).unwrap();
    let empty = files.write("empty.pem", "");
    let swapped = files.write("swapped.pem", text(&files.path("ca.crt")) + &text(&cert));
    let broken = files.write("broken.pem", text(&cert).replace("MII", "!!!"));
    let no_der = files.write("no-der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    files.openssl(&["pkey", "-in", "server.key", "-out", "encrypted.key", "-aes256", "-passout", "pass:secret"]);
    let encrypted = files.path("encrypted.key");
    let short = files.write("short.txt", "too short\n");
    let pair = |cert: &Path, key: &Path| Wanted { pairs: vec![(cert.to_owned(), key.to_owned())], ..fine.clone() };
    let clients = |client_ca| Wanted { client_auth: ClientAuth::Required, client_ca, ..fine.clone() };
    let cases: [(&str, Wanted, u64, &[&str]); 19] = [
        ("no file", pair(Path::new("/nowhere/at/all.pem"), &key), now(), &["/nowhere/at/all.pem cannot be read"]),
        ("no certificate", pair(&empty, &key), now(), &["there is no certificate in", "empty.pem"]),
        ("a key for a certificate", pair(&key, &key), now(), &["there is no certificate in", "server.key"]),
        ("broken PEM", pair(&broken, &key), now(), &["broken.pem cannot be read as PEM"]),
        ("no X.509", pair(&no_der, &key), now(), &["the first certificate in", "no-der.pem", "it is no X.509 certificate"]),
        ("no key", pair(&cert, &cert), now(), &["there is no private key in", "server.crt"]),
        ("an encrypted key", pair(&cert, &encrypted), now(), &["encrypted.key is encrypted", "openssl pkey"]),
        ("another key", pair(&cert, &files.path("ca.key")), now(), &["ca.key is not the key of the first certificate in", "server.crt"]),
        ("the CA first", pair(&swapped, &key), now(), &["server.key is not the key of the first", "comes first"]),
        ("expired", pair(&files.path("expired.crt"), &files.path("expired.key")), now(), &["expired.crt has expired", "hours ago"]),
        ("expired long ago", fine.clone(), now() + 40 * 86_400, &["server.crt has expired 38 days ago"]),
        ("not yet valid", fine.clone(), now() - 7300, &["server.crt is not valid yet", "in 2 hours", "is the clock right?"]),
        ("no pairs", Wanted { pairs: Vec::new(), ..fine.clone() }, now(), &["needs a certificate"]),
        (
            "an unknown suite",
            Wanted { suites: vec!["TLS_RSA_WITH_RC4_128_MD5".to_owned()], ..fine.clone() },
            now(),
            &["there is no cipher suite \"TLS_RSA_WITH_RC4_128_MD5\"", "TLS13_AES_128_GCM_SHA256, ", "TLS_ECDHE_RSA_WITH_"],
        ),
        (
            "no suite of TLS 1.3",
            Wanted { min_version: Version::Tls13, suites: vec!["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".to_owned()], ..fine.clone() },
            now(),
            &["TLS 1.3", "TLS13_"],
        ),
        ("no CA", clients(None), now(), &["clients' certificates cannot be verified"]),
        ("a CA file without certificates", clients(Some(empty.clone())), now(), &["there is no certificate in", "empty.pem"]),
        ("a CA file of something else", clients(Some(no_der.clone())), now(), &["no-der.pem"]),
        ("a short secret", Wanted { ticket_keys: Some(short), ..fine.clone() }, now(), &["short.txt", "has 9 bytes", "openssl rand"]),
    ];
    for (name, wanted, unix_seconds, words) in cases {
        let reason = why_not(&wanted, unix_seconds);
        for word in words {
            assert!(reason.contains(word), "{name}: {reason}");
        }
    }
}

#[test]
fn what_a_listener_shows_can_be_told() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    let [certificate] = acceptor.certificates() else { panic!("there is one") };
    assert_eq!(certificate.file, files.path("server.crt"));
    assert_eq!(certificate.subject, "CN=server");
    let names: Vec<String> = certificate.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNS:localhost", "DNS:*.wild.example", "IP:127.0.0.1"]);
    assert!((now() + 86_400..now() + 3 * 86_400).contains(&certificate.not_after));
}

#[test]
fn aes_128_is_taken_whatever_the_client_likes_most() {
    let files = Files::new();
    let acceptor = acceptor(&wanted(&files));
    let mut suites = provider::ALL_CIPHER_SUITES.to_vec();
    suites.sort_by_key(|suite| suite_name(*suite).contains("AES_128"));
    for (version, expected) in
        [(&rustls::version::TLS13, "TLS13_AES_128_GCM_SHA256"), (&rustls::version::TLS12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]
    {
        let config = Arc::new(with_suites(&files, suites.clone(), version, None));
        assert_eq!(shake(&acceptor, &mut connect(&config, "localhost")).unwrap().suite, expected);
    }
}
