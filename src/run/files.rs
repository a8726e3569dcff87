//! Files that are whole or not there: written under a new name, synced, renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::sync_folder;

/// A file being written. Nothing stands under its name until [`NewFile::finish`]; dropped before, it leaves nothing.
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl NewFile {
    /// Starts writing what will be `path`. Missing folders are made.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().ok_or_else(|| Error::file(path, "not the name of a file"))?);
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = folder.join(name);
        let file = File::create(&temporary).map_err(Error::io(path))?;
        Ok(Self { path: path.to_path_buf(), temporary, file: Some(BufWriter::new(file)) })
    }

    /// Where it lies until then, for those who write by name; they must be done before [`NewFile::finish`].
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Makes the file durable and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        let written = (|| {
            let file = self.file.take().expect("finished once").into_inner().map_err(|e| e.into_error())?;
            file.sync_all()?;
            std::fs::rename(&self.temporary, &self.path)
        })();
        match written {
            Ok(()) => {
                self.temporary = PathBuf::new();
                sync_folder(self.path.parent().unwrap_or(Path::new(".")));
                Ok(())
            }
            Err(e) => Err(Error::io(&self.path)(e)),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.as_mut().expect("not finished").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().expect("not finished").flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            self.file.take().map(|f| f.into_parts());
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces `path` by `bytes`, at once.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.finish()
}

/// Replaces `path` by JSON Lines.
pub fn write_lines(path: &Path, records: &[serde_json::Value]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    for record in records {
        writeln!(file, "{record}").map_err(Error::io(path))?;
    }
    file.finish()
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path))?;
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_leaves_nothing_and_a_finished_one_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/file.txt");
        write_file(&path, b"old").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        write_file(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(sha256_file(&path).unwrap(), sha256(b"new"));
    }
}
