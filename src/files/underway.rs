//! Files and folders on the way to their names: known to the whole process, so that one that is
//! told to end leaves none of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static UNDER_WAY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn under_way() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A set of names is whole whatever a thread was doing that panicked.
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file or folder under a temporary name, as long as this is held. Made before the file is.
pub(super) struct UnderWay(PathBuf);

impl UnderWay {
    pub(super) fn new(path: PathBuf) -> Self {
        under_way().insert(path.clone());
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        under_way().remove(&self.0);
    }
}

/// Removes everything under way. Until what it returns is dropped, nothing new is begun: for a process that ends.
#[must_use = "once it is dropped, more can be begun"]
pub fn remove_under_way() -> impl Sized {
    let paths = under_way();
    for path in &*paths {
        let is_folder = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        // What cannot be removed now is what a killed process leaves.
        let _ = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    paths
}

#[cfg(test)]
pub(super) fn is_under_way(path: &Path) -> bool {
    under_way().contains(path)
}
