//! Certificates, made by the system's openssl.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A folder with the certificates of one test, which goes with it: `ca`, and `server`, whom it vouches for.
pub struct Files(PathBuf);

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

impl Files {
    pub fn new() -> Files {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("campanile-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let files = Files(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&files.0).unwrap();
        files.authority("ca");
        files.signed("server", "ca", "/CN=server", "DNS:localhost,DNS:*.wild.example,IP:127.0.0.1", 2);
        files
    }

    /// A second server's: `other`.
    pub fn with_other(self) -> Files {
        self.signed("other", "ca", "/CN=other", "DNS:other.example,DNS:a.wild.example", 2);
        self
    }

    /// `client`; `expired`; and `foreign`, whom `stranger` vouches for.
    pub fn with_clients(self) -> Files {
        let names = "DNS:device7.example,URI:urn:device:7,email:d@example.org,IP:::1";
        self.signed("client", "ca", r"/O=Example, Inc./OU=\+1/CN=device 7", names, 2);
        self.signed("expired", "ca", "/CN=expired", "DNS:expired.example", -1);
        self.authority("stranger");
        self.signed("foreign", "stranger", "/CN=foreign", "DNS:foreign.example", 2);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file of its own with this content.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(&self.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("openssl is needed; scripts/test installs it").success(), "{arguments:?}");
    }

    fn authority(&self, name: &str) {
        let (key, cert, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        self.openssl(&[&["req", "-x509"], &NEW_KEY[..], &["-days", "2", "-subj", &subject, "-keyout", &key, "-out", &cert]].concat());
    }

    fn signed(&self, name: &str, by: &str, subject: &str, names: &str, days: i32) {
        let file = |ending: &str| format!("{name}.{ending}");
        let (key, request, cert, extensions) = (file("key"), file("csr"), file("crt"), file("ext"));
        let (ca, ca_key, days) = (format!("{by}.crt"), format!("{by}.key"), days.to_string());
        self.openssl(&[&["req"], &NEW_KEY[..], &["-subj", subject, "-keyout", &key, "-out", &request]].concat());
        self.write(&extensions, format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n"));
        let signing = ["x509", "-req", "-in", &request, "-out", &cert, "-days", &days, "-extfile", &extensions];
        self.openssl(&[&signing[..], &["-CA", &ca, "-CAkey", &ca_key, "-set_serial", "7"]].concat());
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
