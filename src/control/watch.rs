//! Sees when a file of the settings or of keys has changed, by looking once a second at what the names lead to.
//!
//! A watch of the kernel's on a file goes blind at the first rename over it, and one on its folder does not see a link elsewhere that is swapped, as
//! Kubernetes does it, or sees our own reading. A look costs a system call for each file. What was changed is read when two looks agree, so that it is not read
//! while it is written.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::State;
use super::reload::{lock, reload};

const INTERVAL: Duration = Duration::from_secs(1);

/// Whether a file is the one that it was: where it lies, its length, and when it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

/// What was seen at a moment; None: no file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look(BTreeMap<PathBuf, Option<Stamp>>);

impl Look {
    pub(super) fn at(files: &[PathBuf]) -> Look {
        Look(files.iter().map(|file| (file.clone(), stamp(file))).collect())
    }

    /// The same, looked at by a thread of its own: a file system that does not answer (NFS whose server is away) holds up nobody else.
    pub(super) async fn aside(files: Vec<PathBuf>) -> Look {
        tokio::task::spawn_blocking(move || Look::at(&files)).await.unwrap_or_default()
    }

    /// Whether there was a file.
    pub(super) fn had(&self, file: &Path) -> bool {
        self.0.get(file).is_some_and(Option::is_some)
    }

    /// The same of these files; those that have come to be looked at since are as they are now.
    pub(super) async fn and(mut self, files: Vec<PathBuf>) -> Look {
        self.0.retain(|file, _| files.contains(file));
        let new: Vec<PathBuf> = files.into_iter().filter(|file| !self.0.contains_key(file)).collect();
        if !new.is_empty() {
            self.0.append(&mut Look::aside(new).await.0);
        }
        self
    }

    /// What is there now is known, whatever it was good for. That there was a file is not forgotten.
    pub(super) fn update(&mut self, newer: &Look) {
        for (file, stamp) in &newer.0 {
            if stamp.is_some() {
                self.0.insert(file.clone(), *stamp);
            }
        }
    }

    /// Whether any of these is another one there. A file that is gone for a moment is on its way.
    fn is_other(&self, now: &Look) -> bool {
        now.0.iter().any(|(file, stamp)| stamp.is_some() && self.0.get(file) != Some(stamp))
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Until the end of the process.
pub(super) async fn watch(state: Arc<State>) {
    let mut before = Look::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        if !state.reload.in_force().settings.addresses.reload_on_change {
            continue;
        }
        let now = Look::aside(state.reload.files()).await;
        let is_changed = lock(&state.reload.looked).is_other(&now);
        if is_changed && now == before {
            let _ = reload(&state, "a file has changed").await;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("campanile-watch-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Each way in which files come to be others.
    #[test]
    fn whatever_a_file_is_changed_by_is_seen() {
        let folder = Folder::new("ways");
        let file = folder.0.join("f");
        std::fs::write(&file, "one").unwrap();
        let files = [file.clone()];
        let look = Look::at(&files);
        assert!(look.had(&file) && !look.is_other(&Look::at(&files)), "reading it changes nothing");
        // Renamed over, with the same length.
        let new = folder.0.join("new");
        std::fs::write(&new, "two").unwrap();
        std::fs::rename(&new, &file).unwrap();
        assert!(look.is_other(&Look::at(&files)));
        // Written in place.
        let look = Look::at(&files);
        std::fs::write(&file, "three").unwrap();
        assert!(look.is_other(&Look::at(&files)));
        // Gone: nothing to read yet.
        let look = Look::at(&files);
        std::fs::remove_file(&file).unwrap();
        assert!(!look.is_other(&Look::at(&files)) && !Look::at(&files).had(&file));
        // A link that leads elsewhere: `file -> data/f`, `data -> version`.
        for version in ["v1", "v2"] {
            std::fs::create_dir_all(folder.0.join(version)).unwrap();
            std::fs::write(folder.0.join(version).join("f"), "same").unwrap();
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.0.join(name)).unwrap();
        link("v1", "data");
        link("data/f", "f");
        let look = Look::at(&files);
        link("v2", "data.new");
        std::fs::rename(folder.0.join("data.new"), folder.0.join("data")).unwrap();
        assert!(look.is_other(&Look::at(&files)));
    }

    #[test]
    fn what_was_read_is_known_and_what_is_gone_is_remembered() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = Folder::new("known");
        let (file, other) = (folder.0.join("f"), folder.0.join("g"));
        std::fs::write(&file, "one").unwrap();
        let mut look = Look::at(std::slice::from_ref(&file));
        std::fs::write(&file, "bad").unwrap();
        let now = Look::at(std::slice::from_ref(&file));
        look.update(&now);
        assert!(!look.is_other(&now), "it is not read over and over");
        std::fs::remove_file(&file).unwrap();
        look.update(&Look::at(std::slice::from_ref(&file)));
        assert!(look.had(&file));
        std::fs::write(&other, "new").unwrap();
        let look = runtime.block_on(look.and(vec![other.clone()]));
        assert!(look.had(&other) && !look.had(&file) && !look.is_other(&Look::at(std::slice::from_ref(&other))));
    }
}
