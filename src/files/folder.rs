//! A folder that is whole or not there.

use std::path::{Path, PathBuf};

use super::sync_folder;
use super::underway::UnderWay;
use crate::error::{Error, Result};

/// A folder being filled under a temporary name. Nothing stands under its own name until
/// [`NewFolder::finish`]; dropped before, it leaves nothing.
pub struct NewFolder {
    path: PathBuf,
    temporary: UnderWay,
    finished: bool,
}

impl NewFolder {
    /// Starts what will be `path`. Missing folders above it are made.
    pub fn create(path: &Path) -> Result<Self> {
        if path.file_name().is_none() {
            return Err(Error::file(path, "found no name of a folder, expected one to make"));
        }
        let temporary = UnderWay::new(beside(path, ""));
        std::fs::create_dir_all(parent(path)).map_err(Error::io(parent(path)))?;
        std::fs::create_dir(temporary.path()).map_err(Error::io(path))?;
        Ok(Self { path: path.to_path_buf(), temporary, finished: false })
    }

    /// Where it lies until it is finished.
    pub fn temporary(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the folder its name. One that stands there already makes way, and is removed once the
    /// new one is in its place.
    pub fn finish(mut self) -> Result<()> {
        sync_folder(self.temporary.path());
        let old = beside(&self.path, ".old");
        let replaces = self.path.exists();
        if replaces {
            std::fs::rename(&self.path, &old).map_err(Error::io(&self.path))?;
        }
        if let Err(e) = std::fs::rename(self.temporary.path(), &self.path) {
            if replaces {
                let _ = std::fs::rename(&old, &self.path);
            }
            return Err(Error::io(&self.path)(e));
        }
        self.finished = true;
        sync_folder(parent(&self.path));
        if replaces {
            std::fs::remove_dir_all(&old).map_err(Error::io(&old))?;
        }
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_dir_all(self.temporary.path());
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name of this process beside `path`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!("{what}.{}.tmp", std::process::id()));
    parent(path).join(name)
}
