//! Files that are whole or not there: written under a new name, synced, renamed.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::sync_folder;
use super::underway::UnderWay;
use crate::error::{Error, Result};

/// A file being written. Nothing stands under its name until [`NewFile::finish`]; dropped before, it leaves nothing.
///
/// A link is followed: what it points to is replaced, not the link. What is there and no plain file
/// (`/dev/stdout`, `/dev/null`, a named pipe) is written to as it stands: replaced by name, a
/// device would turn into a file for the whole machine.
pub struct NewFile {
    path: PathBuf,
    /// Where it lies until it is whole, and where then; none for what is written as it stands.
    names: Option<(UnderWay, PathBuf)>,
    file: Option<BufWriter<File>>,
}

impl NewFile {
    /// Starts writing what will be `path`. Missing folders are made.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::file(path, "not the name of a file"))?;
        let place = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(Error::file(path, "found a folder, expected the name of a file"));
            }
            Ok(found) if !found.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
                return Ok(Self { path: path.into(), names: None, file: Some(BufWriter::new(file)) });
            }
            Ok(_) => std::fs::canonicalize(path).map_err(Error::io(path))?,
            Err(_) => path.into(),
        };
        let folder = folder_of(&place);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(place.file_name().unwrap_or(name));
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = UnderWay::new(folder.join(temporary));
        let file = File::create(temporary.path()).map_err(Error::io(path))?;
        Ok(Self { path: path.into(), names: Some((temporary, place)), file: Some(BufWriter::new(file)) })
    }

    /// Where it lies until then, for those who write by name; they must be done before [`NewFile::finish`].
    pub fn temporary(&self) -> &Path {
        self.names.as_ref().map_or(&self.path, |(temporary, _)| temporary.path())
    }

    /// Makes the file durable and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        let written = (|| {
            let file = self.file.take().expect("finished once").into_inner().map_err(|e| e.into_error())?;
            let Some((temporary, place)) = &self.names else { return Ok(()) };
            file.sync_all()?;
            std::fs::rename(temporary.path(), place)?;
            sync_folder(folder_of(place));
            Ok(())
        })();
        written.map_err(Error::io(&self.path))?;
        self.names = None;
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
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
        if let Some((temporary, _)) = &self.names {
            self.file.take().map(|f| f.into_parts());
            let _ = std::fs::remove_file(temporary.path());
        }
    }
}

/// Replaces `path` by `bytes`, at once: after a crash or a full disk there is the old file or the
/// new one, never a part of either.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_leaves_nothing_and_a_finished_one_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/file.txt");
        write_whole(&path, b"old").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        write_whole(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let e = write_whole(path.parent().unwrap(), b"no").unwrap_err().to_string();
        assert!(e.contains("found a folder"), "{e}");
    }

    #[test]
    fn what_is_under_way_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = NewFile::create(&dir.path().join("file")).unwrap();
        file.write_all(b"half").unwrap();
        let folder = crate::files::NewFolder::create(&dir.path().join("folder")).unwrap();
        std::fs::write(folder.temporary().join("in it"), "").unwrap();
        write_whole(&dir.path().join("whole"), b"kept").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        // As a signal does, but for the files of other tests of this process.
        for path in [file.temporary(), folder.temporary()] {
            assert!(super::super::underway::is_under_way(path), "{}", path.display());
        }
        let whole = dir.path().join("whole");
        assert!(!super::super::underway::is_under_way(&whole));
        drop((file, folder));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_and_what_is_no_plain_file_stay_what_they_are() {
        use std::io::Read;
        use std::os::unix::fs::FileTypeExt;
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");

        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo makes a named pipe");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut text = String::new();
                File::open(pipe).and_then(|mut f| f.read_to_string(&mut text)).unwrap();
                text
            }
        });
        write_whole(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
        write_whole(Path::new("/dev/null"), b"gone").unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
