//! What the journal of a run asks of a disk, so that a simulated one can stand in.
//!
//! Models, adapters and data are mapped into memory, and files that are written whole may be links or devices: both
//! stay on the real disk.

use std::fs::{File, OpenOptions};
use std::io::{Read, Result, Seek, Write};
use std::path::Path;

/// Where files are.
pub trait Disk {
    /// Makes a folder and those above it, unless they are there.
    fn make_folder(&self, path: &Path) -> Result<()>;
    /// Opens a file to read it and to write at its end; makes it unless it is there.
    fn append(&self, path: &Path) -> Result<Box<dyn DiskFile>>;
    /// Opens a file to read it.
    fn read(&self, path: &Path) -> Result<Box<dyn DiskFile>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;
}

/// An open file.
pub trait DiskFile: Read + Write + Seek {
    /// Makes what was written survive a crash of the machine.
    fn sync(&self) -> Result<()>;
    /// Cuts the file off.
    fn truncate(&self, length: u64) -> Result<()>;
    /// Whether the file has a name still: nobody finds what is written to one that was removed.
    fn has_name(&self) -> Result<bool>;
}

/// The machine's own.
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_folder(&self, path: &Path) -> Result<()> {
        std::fs::create_dir_all(path)
    }

    fn append(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).append(true).create(true).open(path)?))
    }

    fn read(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path)
    }
}

impl DiskFile for File {
    fn sync(&self) -> Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.set_len(length)
    }

    fn has_name(&self) -> Result<bool> {
        #[cfg(unix)]
        return Ok(std::os::unix::fs::MetadataExt::nlink(&self.metadata()?) > 0);
        #[cfg(not(unix))]
        Ok(true)
    }
}
