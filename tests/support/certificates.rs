//! Certificates, made by the system's own openssl. Each file is in PEM: NAME.crt, NAME.key.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of them, until it is dropped.
#[derive(Debug)]
pub struct Certificates(pub PathBuf);

impl Certificates {
    pub fn new(test: &str) -> Certificates {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("campanile-certificates-{}-{number}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Certificates(folder)
    }

    pub fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        let output = command.args(arguments).current_dir(&self.0).stdin(Stdio::null()).output();
        let output = output.expect("openssl is needed; scripts/test installs it");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// One that vouches for itself, as `openssl req -x509` makes it: it says that it is a CA.
    pub fn root(&self, name: &str) {
        let (key, cert, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        self.openssl(&[&["req", "-x509"], &curve[..], &["-days", "2", "-subj", &subject, "-keyout", &key, "-out", &cert]].concat());
    }

    /// One that a root vouches for, for 127.0.0.1 and these names.
    pub fn signed(&self, name: &str, root: &str, names: &[&str]) {
        self.signed_for(name, &format!("/CN={name}"), root, names, &["-days", "2"]);
    }

    /// `until`: what openssl is told of its time.
    pub fn signed_for(&self, name: &str, subject: &str, root: &str, names: &[&str], until: &[&str]) {
        let file = |ending: &str| format!("{name}.{ending}");
        let (key, request, cert) = (file("key"), file("csr"), file("crt"));
        let (root_cert, root_key) = (format!("{root}.crt"), format!("{root}.key"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        self.openssl(&[&["req"], &curve[..], &["-subj", subject, "-keyout", &key, "-out", &request]].concat());
        let names: String = names.iter().map(|name| format!(",DNS:{name}")).collect();
        let extensions = format!("subjectAltName=IP:127.0.0.1{names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.0.join(file("ext")), extensions).unwrap();
        let by = ["-CA", &root_cert, "-CAkey", &root_key, "-CAcreateserial", "-extfile", &file("ext")];
        self.openssl(&[&["x509", "-req", "-in", &request, "-out", &cert][..], &by, until].concat());
    }

    pub fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
