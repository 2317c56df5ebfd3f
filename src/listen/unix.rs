//! Unix sockets to listen on: who may connect, what becomes of a file that is there already, and of ours at the end.
//!
//! Invariants: nobody can connect before the file has its mode and group (it is listened on last); a file that is no socket, or that somebody
//! listens on, is left alone; and at the end only that file is removed which was made here.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// The longest path that the kernel takes.
pub const PATH_BYTES_MAX: usize = 107;

/// Where a unix socket is, and who may connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixPath {
    pub path: PathBuf,
    /// Permissions of the file; to connect is to write.
    pub mode: u32,
    pub group: Option<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub id: u32,
}

impl UnixPath {
    /// For this user alone, unless something else is said.
    pub const MODE: u32 = 0o600;

    pub fn new(path: impl Into<PathBuf>) -> UnixPath {
        UnixPath { path: path.into(), mode: UnixPath::MODE, group: None }
    }

    /// Opens it. The file goes when [`SocketFile`] is dropped.
    pub fn listen(&self, backlog: i32) -> io::Result<(Socket, SocketFile)> {
        self.make_room()?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.bind(&SockAddr::unix(&self.path)?).map_err(|error| self.explain_bind(&error))?;
        let file = SocketFile::of(&self.path)?;
        if let Some(group) = &self.group {
            chown(&self.path, None, Some(group.id)).map_err(|error| {
                self.explain(&error, format!("it cannot be given to the group {}: {error}; the server's user must be in it", group.name))
            })?;
        }
        fs::set_permissions(&self.path, Permissions::from_mode(self.mode))?;
        socket.listen(backlog)?;
        Ok((socket, file))
    }

    /// Opens it in the place of one that another server listens on: who connects gets that one until this one is there, and never none.
    pub fn listen_instead(&self, backlog: i32) -> io::Result<(Socket, SocketFile)> {
        let mut path = self.path.clone().into_os_string();
        path.push(".next");
        let beside = UnixPath { path: path.into(), ..self.clone() };
        let (socket, _beside) = beside.listen(backlog)?;
        fs::rename(&beside.path, &self.path)
            .map_err(|error| self.explain(&error, format!("it cannot take the other one's place: {error}")))?;
        Ok((socket, SocketFile::of(&self.path)?))
    }

    /// Takes a socket file away that nobody listens on: the server that made it was killed.
    fn make_room(&self) -> io::Result<()> {
        let path = self.path.display();
        let found = match fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            // Whatever else is wrong, the bind will say.
            Err(_) => return Ok(()),
        };
        if !found.file_type().is_socket() {
            let why = "there is a file that is no socket, and it is left alone; choose another path, or remove it";
            return Err(self.explain(&ErrorKind::AlreadyExists.into(), why.to_owned()));
        }
        // Without waiting: whose backlog is full listens as well.
        let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        match probe.connect(&SockAddr::unix(&self.path)?) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(&self.path)
                    .map_err(|error| self.explain(&error, format!("it is left from another server and cannot be removed: {error}")))?;
                tracing::info!("{path}: left from a server that has ended; replaced");
                Ok(())
            }
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock) => {
                let why =
                    format!("there is a socket that may be in use, and it is left alone ({error}); choose another path, or remove it");
                Err(self.explain(&ErrorKind::AddrInUse.into(), why))
            }
            Ok(()) | Err(_) => {
                let why = format!("another process listens there; stop it or choose another path (ss -lxp src {path})");
                Err(self.explain(&ErrorKind::AddrInUse.into(), why))
            }
        }
    }

    fn explain_bind(&self, error: &io::Error) -> io::Error {
        let directory = self.path.parent().unwrap_or(Path::new("/")).display();
        let why = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                format!("there is no directory {directory}; make it (RuntimeDirectory= in a systemd unit)")
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                format!("the server's user may make no file in {directory} ({error})")
            }
            _ => error.to_string(),
        };
        self.explain(error, why)
    }

    fn explain(&self, error: &io::Error, why: String) -> io::Error {
        io::Error::new(error.kind(), format!("cannot listen on unix://{}: {why}", self.path.display()))
    }
}

/// As an entry of the setting.
impl fmt::Display for UnixPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "unix://{}", self.path.display())?;
        let mut before = '?';
        if self.mode != UnixPath::MODE {
            write!(out, "{before}mode={:o}", self.mode)?;
            before = '&';
        }
        if let Some(group) = &self.group {
            write!(out, "{before}group={}", group.name)?;
        }
        Ok(())
    }
}

/// The file of a socket that is listened on here. Removed when dropped, unless somebody else has put another in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Held open, so that its inode is nobody else's as long as it is compared.
    file: File,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let file = File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
        Ok(SocketFile { path: path.to_owned(), file })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| self.file.metadata().is_ok_and(|ours| (found.dev(), found.ino()) == (ours.dev(), ours.ino()));
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    /// A directory of its own.
    fn place(test: &str) -> PathBuf {
        let place = std::env::temp_dir().join(format!("campanile-unix-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).unwrap();
        place
    }

    fn refused(path: &Path) -> String {
        UnixPath::new(path).listen(8).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_has_its_mode_and_its_file_goes_with_it() {
        let path = place("mode").join("s");
        for (mode, expected) in [(None, 0o600), (Some(0o666), 0o666), (Some(0o660), 0o660)] {
            let (socket, file) = UnixPath { mode: mode.unwrap_or(UnixPath::MODE), ..UnixPath::new(&path) }.listen(8).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, expected);
            UnixStream::connect(&path).unwrap();
            drop((socket, file));
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_a_killed_server_left_is_replaced_and_nothing_else() {
        let place = place("stale");
        let path = place.join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener that is dropped leaves its file");
        let (first, file) = UnixPath::new(&path).listen(8).unwrap();
        assert!(refused(&path).contains("another process listens there"));
        // Even where nobody accepts.
        let waiting: Vec<Socket> = (0..64)
            .map(|_| {
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
                let _ = socket.connect(&SockAddr::unix(&path).unwrap());
                socket
            })
            .collect();
        assert!(refused(&path).contains("another process listens there"));
        drop((first, file, waiting));
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert!(refused(&path).contains("no socket, and it is left alone"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(place.join("elsewhere"), &path).unwrap();
        assert!(refused(&path).contains("no socket, and it is left alone"), "a link is no socket, wherever it leads");
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(refused(&path).contains("left alone"));
        assert!(path.exists());
    }

    #[test]
    fn another_servers_file_in_the_same_place_is_not_removed() {
        let path = place("successor").join("s");
        let (old, file) = UnixPath::new(&path).listen(8).unwrap();
        drop(old);
        let (_new, _its_file) = UnixPath::new(&path).listen(8).unwrap();
        drop(file);
        assert!(path.exists(), "a server that drains leaves its successor's socket");
    }

    #[test]
    fn what_cannot_be_is_explained() {
        let place = place("explained");
        assert!(refused(&place.join("no/s")).contains("there is no directory"));
        assert!(refused(Path::new("/proc/s")).contains("cannot listen on unix:///proc/s: "));
        let long = place.join("x".repeat(PATH_BYTES_MAX));
        assert!(UnixPath::new(long).listen(8).is_err());
    }
}
