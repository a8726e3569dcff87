//! Text files that a user gives: what is in them, without a byte order mark; what is no text is
//! named for what it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::pointer;
use crate::error::{Error, Result};

/// UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes without the byte order mark that editors and spreadsheets put before UTF-8.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// The text of a file. A folder, another format and what is not UTF-8 are errors that say what was
/// found and what to do.
pub fn read_text(path: &Path) -> Result<String> {
    let name = path.display().to_string();
    decode(read_bytes(path)?, &name, |line| format!("{name}, line {line}"))
}

/// A file to read; a folder is an error.
pub fn open(path: &Path) -> Result<File> {
    if path.is_dir() {
        return Err(Error::file(path, "found a folder, expected a file"));
    }
    File::open(path).map_err(Error::io(path))
}

/// The bytes of a file; a folder is an error.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

/// The text of what was read from `name`; `line` names a line of it.
pub fn decode(bytes: Vec<u8>, name: &str, line: impl Fn(usize) -> String) -> Result<String> {
    if let Some(problem) = no_text(&bytes) {
        return Err(Error::input(name, problem));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let number = 1 + good.iter().filter(|b| **b == b'\n').count();
        Error::input(line(number), "not UTF-8")
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_string(),
        None => text,
    })
}

const DECOMPRESS: &str = "decompress it first";
const TO_JSON_LINES: &str = "convert it to JSON Lines first, for example in Python with \
     pandas.read_parquet(\"FILE\").to_json(\"FILE.jsonl\", orient=\"records\", lines=True)";
const TO_UTF_8: &str = "save it as UTF-8";
const EXPORT: &str = "export its records as JSON Lines first";

/// First bytes, what they say, and what to do about it.
const FORMATS: [(&[u8], &str, &str); 19] = [
    (b"PAR1", "a Parquet file", TO_JSON_LINES),
    (b"ARROW1", "an Arrow file", EXPORT),
    (b"\xff\xff\xff\xff", "an Arrow stream", EXPORT),
    (b"Obj\x01", "an Avro file", EXPORT),
    (b"\x1f\x8b", "a gzip archive", DECOMPRESS),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", DECOMPRESS),
    (b"BZh", "a bzip2 archive", DECOMPRESS),
    (b"\xfd7zXZ\0", "an xz archive", DECOMPRESS),
    (b"\x04\x22\x4d\x18", "an lz4 archive", DECOMPRESS),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", DECOMPRESS),
    (b"PK\x03\x04", "a zip archive (spreadsheets are such too)", "take the data out of it first"),
    (b"PK\x05\x06", "an empty zip archive", "give the data itself"),
    (b"SQLite format 3\0", "an SQLite database", EXPORT),
    (b"\x89HDF\r\n", "an HDF5 file", EXPORT),
    (b"\x80\x02", "a Python pickle", EXPORT),
    (b"\x80\x03", "a Python pickle", EXPORT),
    (b"\x80\x04", "a Python pickle", EXPORT),
    (b"\x80\x05", "a Python pickle", EXPORT),
    (b"%PDF-", "a PDF file", EXPORT),
];

/// Why a file that begins so, or is these bytes, is no UTF-8 text of data, and what to do about it.
pub fn no_text(bytes: &[u8]) -> Option<String> {
    let other = || {
        let (found, remedy) = other_format(bytes)?;
        Some(format!("found {found}, expected text in UTF-8; {remedy}"))
    };
    pointer(bytes).or_else(other)
}

/// What the first bytes say a file is, if that is no UTF-8 text, and what to do about it.
fn other_format(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if let Some((_, found, remedy)) = FORMATS.iter().find(|(start, ..)| bytes.starts_with(start)) {
        // Text may start with these letters.
        let is_text =
            |start: &[u8]| bytes.starts_with(start) && bytes.get(3).is_none_or(|b| !b.is_ascii_digit());
        return (!is_text(b"BZh")).then_some((found, remedy));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", "take the data out of it first"));
    }
    let zeros = |at: [usize; 2]| at.iter().all(|&i| bytes.get(i) == Some(&0));
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some(("text in UTF-32", TO_UTF_8)),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(("text in UTF-16", TO_UTF_8)),
        _ if zeros([1, 3]) || zeros([0, 2]) => Some(("text in UTF-16 or other binary data", TO_UTF_8)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_text_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        for (bytes, expected) in [
            (&b"PAR1\x15\x04"[..], "found a Parquet file, expected text in UTF-8; convert it"),
            (b"\x1f\x8b\x08\0", "found a gzip archive"),
            (b"\x28\xb5\x2f\xfd\0", "found a zstd archive"),
            (b"BZh91AY", "found a bzip2 archive"),
            (b"\xfd7zXZ\0\0", "found an xz archive"),
            (b"PK\x03\x04", "found a zip archive"),
            (b"\xff\xfe{\0", "found text in UTF-16"),
            (b"\xfe\xff\0{", "found text in UTF-16"),
            (b"\xff\xfe\0\0{\0\0\0", "found text in UTF-32"),
            (b"{\0\"\0", "found text in UTF-16"),
            (b"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer"),
            (b"{}\n\xff", "data.jsonl, line 2: not UTF-8"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let e = read_text(&path).unwrap_err().to_string();
            assert!(e.contains(expected) && e.contains("data.jsonl"), "{e}");
        }
        let e = read_text(dir.path()).unwrap_err().to_string();
        assert!(e.ends_with("found a folder, expected a file"), "{e}");
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_text_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        for (bytes, expected) in [
            (&b"\xef\xbb\xbfa\xef\xbb\xbf"[..], "a\u{feff}"),
            (b"BZhello", "BZhello"),
            (b"", ""),
            (b"PK", "PK"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read_text(&path).unwrap(), expected);
        }
    }
}
