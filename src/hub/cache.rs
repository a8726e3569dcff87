//! One commit of one repository in the cache; the layout is huggingface_hub's.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::{HubName, Kind, Watch};
use crate::adapter::ADAPTER_WEIGHTS;
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::model::{INDEX, SINGLE, shard_names};

/// A commit's place in the cache.
#[derive(Clone)]
pub struct Cached {
    /// `models--OWNER--NAME`.
    repository: PathBuf,
    /// Where locks are, beside all repositories.
    locks: PathBuf,
    commit: String,
}

impl Cached {
    /// The place of a commit, whether or not anything is there.
    pub fn new(cache: &Path, name: &HubName, commit: &str) -> Self {
        let folder = format!("models--{}", name.repository.replace('/', "--"));
        Self {
            repository: cache.join(&folder),
            locks: cache.join(".locks").join(folder),
            commit: commit.into(),
        }
    }

    /// What the cache knows of a revision.
    pub fn find(cache: &Path, name: &HubName) -> Option<Self> {
        let commit = match name.is_pinned() {
            true => name.revision.clone(),
            false => {
                let refs = Self::new(cache, name, "").repository.join("refs").join(&name.revision);
                std::fs::read_to_string(refs).ok()?.trim().to_string()
            }
        };
        // A file somebody broke must not lead out of the cache.
        let found = Self::new(cache, name, name.at(&commit).is_pinned().then_some(&commit)?);
        found.folder().is_dir().then_some(found)
    }

    /// The folder of the model or adapter.
    pub fn folder(&self) -> PathBuf {
        self.repository.join("snapshots").join(&self.commit)
    }

    /// The commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Whether a file is there.
    pub fn has(&self, file: &str) -> bool {
        self.folder().join(file).is_file()
    }

    /// A file's bytes, if it is there.
    pub fn bytes(&self, file: &str) -> Option<u64> {
        std::fs::metadata(self.folder().join(file)).ok().filter(|m| m.is_file()).map(|m| m.len())
    }

    /// The files of weights, as far as what is there tells: one, or those of the index.
    pub fn weight_files(&self, kind: Kind) -> Result<BTreeSet<String>> {
        match kind {
            Kind::Adapter => Ok([ADAPTER_WEIGHTS.to_string()].into()),
            Kind::Model if self.has(INDEX) && !self.has(SINGLE) => shard_names(&self.folder().join(INDEX)),
            Kind::Model => Ok([SINGLE.to_string()].into()),
        }
    }

    /// Files without which this is no model or adapter.
    pub fn missing(&self, kind: Kind) -> Vec<String> {
        // A broken index is reported by whoever opens the folder.
        let weights = self.weight_files(kind).unwrap_or_default();
        [kind.config().to_string()].into_iter().chain(weights).filter(|f| !self.has(f)).collect()
    }

    /// Whether it is known of every text, which may lack, that it is there or does not exist.
    pub fn is_settled(&self, kind: Kind) -> bool {
        kind.texts().iter().all(|file| self.has(file) || self.absent(file).exists())
    }

    fn absent(&self, file: &str) -> PathBuf {
        self.repository.join(".no_exist").join(&self.commit).join(file)
    }

    /// Writes down that the commit has no such file.
    pub fn write_absent(&self, file: &str) -> Result<()> {
        let path = self.absent(file);
        if path.exists() {
            return Ok(());
        }
        make_folder_of(&path)?;
        write_whole(&path, b"")
    }

    /// Writes down that this is the commit of a branch or tag.
    pub fn write_ref(&self, revision: &str) -> Result<()> {
        let path = self.repository.join("refs").join(revision);
        if std::fs::read_to_string(&path).is_ok_and(|commit| commit == self.commit) {
            return Ok(());
        }
        make_folder_of(&path)?;
        write_whole(&path, self.commit.as_bytes())
    }

    /// Where the bytes with this etag belong, with the folders above it.
    pub fn blob(&self, etag: &str) -> Result<PathBuf> {
        let path = self.repository.join("blobs").join(etag);
        make_folder_of(&path)?;
        Ok(path)
    }

    /// Makes a blob known under a file's name.
    pub fn link(&self, file: &str, etag: &str) -> Result<()> {
        let path = self.folder().join(file);
        make_folder_of(&path)?;
        // A link whose blob somebody has deleted.
        if path.symlink_metadata().is_ok() {
            std::fs::remove_file(&path).map_err(Error::io(&path))?;
        }
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &path);
        // Links need a privilege elsewhere; huggingface_hub then has the file itself here.
        #[cfg(not(unix))]
        let linked = std::fs::rename(self.repository.join("blobs").join(etag), &path);
        linked.map_err(Error::io(&path))
    }

    /// Keeps other processes, Python's too, from writing the same blob. The operating system gives
    /// the lock back however the process ends.
    pub fn lock(&self, etag: &str, watch: &dyn Watch) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_folder_of(&path)?;
        let file =
            File::options().write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                watch.note("hub      waiting for another process that downloads the same file");
                file.lock().map_err(Error::io(&path))?;
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
        }
        Ok(file)
    }
}

fn make_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io(folder))
}
