//! The thread that reads the journal back, and removes files: whoever asks never waits for the disk.
//!
//! Orders are obeyed one after the other, so what was asked for before a file is removed is read before it goes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender};

use super::folder::segment_path;
use super::segments::Place;
use crate::journal::Wake;
use crate::journal::page::{Page, ReadError, ReadId};
use crate::journal::record::{self, Record};

/// Segments that are kept open between two reads.
const FILES_MAX: usize = 8;

#[derive(Debug)]
pub enum Order {
    /// Entries of one channel, and how many bytes they are.
    Read {
        id: ReadId,
        entries: Vec<(u64, Place)>,
        bytes: usize,
    },
    /// A whole segment, to be rewritten.
    Load(u32),
    Remove(u32),
}

#[derive(Debug)]
pub enum Reply {
    Read { id: ReadId, page: Result<Page, ReadError>, bytes: usize },
    Loaded { segment: u32, file: io::Result<Vec<u8>> },
}

/// The body of the thread. It ends when whoever orders is gone.
pub fn read(folder: &Path, salt: u32, orders: &Receiver<Order>, replies: &Sender<Reply>, wake: &Wake) {
    let mut files = Files { folder: folder.to_owned(), open: Vec::new() };
    for order in orders {
        let reply = match order {
            Order::Read { id, entries, bytes } => Reply::Read { id, page: files.page(salt, &entries), bytes },
            Order::Load(segment) => Reply::Loaded { segment, file: std::fs::read(segment_path(folder, segment)) },
            Order::Remove(segment) => {
                files.remove(segment);
                continue;
            }
        };
        if replies.send(reply).is_err() {
            return;
        }
        wake();
    }
}

struct Files {
    folder: PathBuf,
    /// The one that was used last at the end.
    open: Vec<(u32, File)>,
}

impl Files {
    fn page(&mut self, salt: u32, entries: &[(u64, Place)]) -> Result<Page, ReadError> {
        let mut page = Page::default();
        let mut bytes = Vec::new();
        for &(seq, place) in entries {
            bytes.resize(place.bytes as usize, 0);
            let whole = self.file(place.segment).and_then(|file| file.read_exact_at(&mut bytes, u64::from(place.offset)));
            let error = match (whole, record::decode(salt, &bytes)) {
                (Ok(()), Some(Record::Entry(entry))) if entry.seq == seq => {
                    page.push(seq, entry.timestamp_ms, entry.payload);
                    continue;
                }
                (Ok(()), _) => ReadError::Damaged { seq },
                (Err(error), _) => ReadError::Failed { seq, error: error.to_string() },
            };
            let path = segment_path(&self.folder, place.segment);
            tracing::error!(file = %path.display(), offset = place.offset, seq, "cannot read a message of the journal: {error}");
            // What comes before it is right; the next read begins with it.
            return if page.is_empty() { Err(error) } else { Ok(page) };
        }
        Ok(page)
    }

    fn file(&mut self, segment: u32) -> io::Result<&File> {
        let found = match self.open.iter().position(|(open, _)| *open == segment) {
            Some(at) => self.open.remove(at),
            None => (segment, File::open(segment_path(&self.folder, segment))?),
        };
        if self.open.len() == FILES_MAX {
            self.open.remove(0);
        }
        self.open.push(found);
        Ok(&self.open.last().expect("it was just put there").1)
    }

    fn remove(&mut self, segment: u32) {
        self.open.retain(|(open, _)| *open != segment);
        let path = segment_path(&self.folder, segment);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), "cannot remove a file of the journal that is not needed any more: {error}");
        }
    }
}
