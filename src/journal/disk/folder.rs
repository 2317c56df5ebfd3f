//! The folder `data_dir`: whose it is, which files are in it, and how they are called.
//!
//! `lock` is held for as long as a process works here, `shown` says up to where numbers were shown ([`Shown`]), and `NUMBER.journal` are the
//! segments. What else lies here is nobody's business and stays.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::journal::record::{self, Shown};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{} is in use by another process{}: each process needs a data_dir of its own; stop that one, or set another data_dir",
        .path.display(),
        .pid.map_or(String::new(), |pid| format!(" ({pid})"))
    )]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error(
        "{} was written by a later release (format {version}; this one reads up to {}): start that release, or set another data_dir. \
         Nothing was changed",
        .path.display(), record::VERSION
    )]
    Newer { path: PathBuf, version: u32 },
    #[error("{what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// For `map_err`.
pub fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// Whoever is just ending is waited for; a child that it was starting holds the lock for a moment too.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    /// Held, not read: whoever has it open and locked is the only one here.
    #[expect(dead_code, reason = "held, not read")]
    lock: File,
    shown: File,
}

impl Folder {
    pub fn open(path: &Path) -> Result<Folder, OpenError> {
        std::fs::create_dir_all(path).map_err(cannot("cannot make", path))?;
        let lock_path = path.join("lock");
        let open = |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut lock = open(&lock_path).map_err(cannot("cannot open", &lock_path))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        let mut locked = lock.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && Instant::now() < deadline {
            std::thread::sleep(LOCK_PATIENCE / 20);
            locked = lock.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Whose it is only helps.
                let _ = lock.read_to_string(&mut text);
                return Err(OpenError::InUse { path: path.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(cannot("cannot lock", &lock_path)(source)),
        }
        // On a full disk it stays empty, and whoever is refused is not told the process.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        let shown_path = path.join("shown");
        let shown = open(&shown_path).map_err(cannot("cannot open", &shown_path))?;
        Ok(Folder { path: path.to_owned(), lock, shown })
    }

    /// What an earlier process showed; None: it does not say.
    pub fn read_shown(&self) -> Option<Shown> {
        let mut bytes = [0; Shown::BYTES];
        self.shown.read_exact_at(&mut bytes, 0).ok()?;
        Shown::decode(&bytes)
    }

    pub fn write_shown(&self, shown: Shown) -> io::Result<()> {
        self.shown.write_all_at(&shown.encode(), 0)
    }

    /// The numbers of the segments, from the oldest on.
    pub fn segments(&self) -> Result<Vec<u32>, OpenError> {
        let failed = || cannot("cannot list", &self.path);
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let number: Option<u32> = name.to_str().and_then(|name| name.strip_suffix(".journal")?.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub fn segment(&self, number: u32) -> PathBuf {
        segment_path(&self.path, number)
    }

    /// What was made or removed in the folder is so after a crash of the host as well.
    pub fn sync(&self) -> Result<(), OpenError> {
        sync_folder(&self.path).map_err(cannot("cannot sync", &self.path))
    }
}

pub fn segment_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:010}.journal"))
}

pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A number that is another one after the host has started again. Where the kernel does not tell, it is always another one.
pub fn boot() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or_else(|_| fastrand::u64(..))
}
