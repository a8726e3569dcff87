//! A disk in memory whose machine can crash and whose room can end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Disk, DiskFile};

/// A file: its bytes, those that were there when it was last synced, and whether it has a name.
#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    is_removed: bool,
}

type Shared = Rc<RefCell<Content>>;

/// The disk. Clones are the same one.
#[derive(Clone)]
pub struct SimulatedDisk {
    files: Rc<RefCell<BTreeMap<PathBuf, Shared>>>,
    room: Rc<Cell<usize>>,
}

impl SimulatedDisk {
    /// An empty one with room for so many bytes to be written.
    pub fn with_room(bytes: usize) -> Self {
        Self { files: Rc::default(), room: Rc::new(Cell::new(bytes)) }
    }

    /// Sets how many bytes can be written from now on.
    pub fn set_room(&self, bytes: usize) {
        self.room.set(bytes);
    }

    /// The machine crashes. Of each file what was synced is left, and of what was written since the first `kept` bytes.
    pub fn crash(&self, kept: usize) {
        for file in self.files.borrow().values() {
            let mut file = file.borrow_mut();
            let since = file.bytes.get(file.synced.len()..).unwrap_or_default();
            let since = since[..kept.min(since.len())].to_vec();
            file.bytes = [file.synced.clone(), since].concat();
            file.synced = file.bytes.clone();
        }
    }

    /// The bytes of a file, and how many of them were synced.
    pub fn bytes(&self, path: &Path) -> (Vec<u8>, usize) {
        let file = self.files.borrow()[path].clone();
        let file = file.borrow();
        (file.bytes.clone(), file.synced.len())
    }
}

impl Disk for SimulatedDisk {
    fn make_folder(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn append(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let content = self.files.borrow_mut().entry(path.into()).or_default().clone();
        Ok(Box::new(Open { content, at: 0, room: Some(self.room.clone()) }))
    }

    fn read(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let content = self.files.borrow().get(path).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(Open { content, at: 0, room: None }))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let content = self.files.borrow_mut().remove(path).ok_or(ErrorKind::NotFound)?;
        content.borrow_mut().is_removed = true;
        Ok(())
    }
}

/// An open file; one that is only read has no room.
struct Open {
    content: Shared,
    at: usize,
    room: Option<Rc<Cell<usize>>>,
}

impl Read for Open {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let content = self.content.borrow();
        let rest = content.bytes.get(self.at..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let room = self.room.as_ref().ok_or(ErrorKind::PermissionDenied)?;
        let count = bytes.len().min(room.get());
        if count == 0 && !bytes.is_empty() {
            return Err(ErrorKind::StorageFull.into());
        }
        room.set(room.get() - count);
        let mut content = self.content.borrow_mut();
        content.bytes.extend(&bytes[..count]);
        self.at = content.bytes.len();
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Open {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let from = |start: usize, by: i64| start.checked_add_signed(by as isize);
        let at = match to {
            SeekFrom::Start(at) => Some(at as usize),
            SeekFrom::Current(by) => from(self.at, by),
            SeekFrom::End(by) => from(self.content.borrow().bytes.len(), by),
        };
        self.at = at.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at as u64)
    }
}

impl DiskFile for Open {
    fn sync(&self) -> Result<()> {
        let mut content = self.content.borrow_mut();
        content.synced = content.bytes.clone();
        Ok(())
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.content.borrow_mut().bytes.truncate(length as usize);
        Ok(())
    }

    fn has_name(&self) -> Result<bool> {
        Ok(!self.content.borrow().is_removed)
    }
}
