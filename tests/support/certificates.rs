//! Certificates by the system's own openssl.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a server on this host is called.
pub const HERE: &str = "IP:127.0.0.1,DNS:localhost";
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// In a folder, each file in PEM.
#[derive(Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// In a folder that is made anew where it is missing, and that is for the caller to remove.
    pub fn at(folder: &Path) -> Certificates {
        std::fs::create_dir_all(folder).unwrap();
        Certificates(folder.to_owned())
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        let status = command.args(arguments).current_dir(&self.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("openssl is needed; scripts/test installs it").success(), "{arguments:?}");
    }

    /// One that vouches for itself, as `openssl req -x509` makes it: it says that it is a CA.
    pub fn root(&self, name: &str) {
        let (key, cert, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        let what = ["-days", "2", "-subj", &subject, "-keyout", &key, "-out", &cert];
        self.openssl(&[&["req", "-x509"][..], &NEW_KEY, &what].concat());
    }

    /// One that a root vouches for, for this host.
    pub fn signed(&self, name: &str, root: &str) {
        self.signed_for(name, root, HERE, 2);
    }

    /// The same for other names, for so many days from now on; negative: it has expired.
    pub fn signed_for(&self, name: &str, root: &str, names: &str, days: i32) {
        let file = |ending: &str| format!("{name}.{ending}");
        let (key, request, cert) = (file("key"), file("csr"), file("crt"));
        let (subject, root_cert, root_key) = (format!("/CN={name}"), format!("{root}.crt"), format!("{root}.key"));
        self.openssl(&[&["req"][..], &NEW_KEY, &["-subj", &subject, "-keyout", &key, "-out", &request]].concat());
        std::fs::write(self.0.join("names"), format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n")).unwrap();
        let days = days.to_string();
        let by = ["-CA", &root_cert, "-CAkey", &root_key, "-CAcreateserial", "-extfile", "names", "-days", &days];
        self.openssl(&[&["x509", "-req", "-in", &request, "-out", &cert][..], &by].concat());
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// As an argument.
    pub fn text(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }
}
