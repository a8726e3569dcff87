//! What the files of a run share: JSON Lines written whole, and hashes.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::NewFile;

/// Replaces `path` by JSON Lines, of values or of their texts.
pub fn write_lines<T: std::fmt::Display>(path: &Path, records: impl IntoIterator<Item = T>) -> Result<()> {
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

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
