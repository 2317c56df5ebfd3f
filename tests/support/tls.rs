//! A real nginx or a real HAProxy at which TLS ends.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::certificates::Certificates;
use super::redis::{PATIENCE, free_port};

/// A proxy before a server, with one of the certificates.
#[derive(Debug)]
pub struct Terminator {
    child: Child,
    directory: PathBuf,
    program: &'static str,
    pub address: SocketAddr,
}

impl Terminator {
    /// nginx, which passes on requests and answers.
    pub fn nginx(certificates: &Certificates, name: &str, server: SocketAddr) -> Terminator {
        let (port, directory) = Terminator::place();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
            .collect();
        let (cert, key) = (certificates.path(&format!("{name}.crt")), certificates.path(&format!("{name}.key")));
        let text = format!(
            "daemon off;\nmaster_process off;\npid {}/pid;\nerror_log stderr crit;\nevents {{ worker_connections 1024; }}\n\
             http {{\naccess_log off;\n{temporary}\
             map $http_upgrade $upgraded {{ default upgrade; '' close; }}\n\
             server {{\nlisten 127.0.0.1:{port} ssl;\nssl_certificate {cert};\nssl_certificate_key {key};\nssl_protocols TLSv1.2 TLSv1.3;\n\
             location / {{\nproxy_pass http://{server};\nproxy_http_version 1.1;\nproxy_set_header Host $http_host;\n\
             proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection $upgraded;\nproxy_buffering off;\n}}\n}}\n}}\n",
            directory.display()
        );
        Terminator::start("nginx", directory, port, &text)
    }

    /// HAProxy, which passes on bytes, of so many clients.
    pub fn haproxy(certificates: &Certificates, name: &str, server: SocketAddr, clients: u32) -> Terminator {
        let (port, directory) = Terminator::place();
        let both = [".crt", ".key"].map(|ending| std::fs::read_to_string(certificates.path(&format!("{name}{ending}"))).unwrap());
        let pem = directory.join("both.pem");
        std::fs::write(&pem, both.concat()).unwrap();
        let text = format!(
            "global\n    maxconn {clients}\n    nbthread 1\ndefaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
             frontend clients\n    bind 127.0.0.1:{port} ssl crt {} alpn http/1.1\n    default_backend server\n\
             backend server\n    server here {server}\n",
            pem.display()
        );
        Terminator::start("haproxy", directory, port, &text)
    }

    fn place() -> (u16, PathBuf) {
        let port = free_port();
        let directory = std::env::temp_dir().join(format!("campanile-terminator-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        (port, directory)
    }

    fn start(program: &'static str, directory: PathBuf, port: u16, settings: &str) -> Terminator {
        std::fs::write(directory.join("conf"), settings).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Terminator { child: Terminator::run(program, &directory, address), directory, program, address }
    }

    fn run(program: &str, directory: &Path, address: SocketAddr) -> Child {
        let mut command = Command::new(program);
        match program {
            "nginx" => command.arg("-p").arg(directory).arg("-c").arg(directory.join("conf")).args(["-e", "stderr"]),
            _ => command.arg("-db").arg("-f").arg(directory.join("conf")),
        };
        let child = command.stdin(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("this test needs {program} ({error}); scripts/test installs it"));
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "{program} does not start");
            assert!(begin.elapsed() < PATIENCE, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(20)); // another program's port has no event
        }
        child
    }

    /// It is gone, and its connections with it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// At the same address, with the same certificate.
    pub fn start_again(&mut self) {
        self.child = Terminator::run(self.program, &self.directory, self.address);
    }

    /// `wss://…/ws` by this host's name.
    pub fn url(&self) -> String {
        format!("wss://localhost:{}/ws", self.address.port())
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
