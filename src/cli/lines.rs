//! JSON Lines in and out: texts of files and of stdin, results that stand under their name only when they are whole.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::files::json::to_line;
use crate::files::{Line, MAX_LINE, NewFile, no_text, open, read_line, without_mark};
use crate::serve::records::{self, Reader, Record};

/// Reads all records of a file or, for `-`, of stdin, for the command `reader`.
pub fn read(path: &Path, reader: Reader) -> Result<Vec<Record>> {
    let (name, text) = read_text(path)?;
    records::read(&text, &name, reader)
}

/// A file's text, or stdin's, and what to call it. No line may be longer than [`MAX_LINE`].
pub fn read_text(path: &Path) -> Result<(String, String)> {
    if path == Path::new("-") {
        let text = bounded_text(std::io::stdin().lock(), "stdin", Path::new("stdin"))?;
        return Ok(("stdin".to_string(), text));
    }
    let name = path.display().to_string();
    let text = bounded_text(BufReader::with_capacity(1 << 16, open(path)?), &name, path)?;
    Ok((name, text))
}

fn bounded_text(mut from: impl BufRead, name: &str, path: &Path) -> Result<String> {
    let (mut text, mut line) = (String::new(), Vec::new());
    if let Some(problem) = no_text(from.fill_buf().map_err(Error::io(path))?) {
        return Err(Error::input(name, problem));
    }
    for number in 1.. {
        let place = || format!("{name}:{number}");
        match read_line(&mut from, &mut line, MAX_LINE).map_err(Error::io(path))? {
            Line::End => break,
            Line::TooLong => return Err(too_long(&place())),
            Line::Whole => {
                let line = if number == 1 { without_mark(&line) } else { &line };
                text.push_str(std::str::from_utf8(line).map_err(|_| Error::input(place(), "not UTF-8"))?);
                text.push('\n');
            }
        }
    }
    Ok(text)
}

/// The error of a line of more than [`MAX_LINE`] bytes.
pub fn too_long(place: &str) -> Error {
    Error::input(place, format!("found a line of more than {} MiB, expected at most that", MAX_LINE >> 20))
}

/// A record as a line.
pub fn line(record: &impl Serialize) -> Result<String> {
    let value = serde_json::to_value(record).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(to_line(&value))
}

/// Where results go: stdout, line by line, or a file that appears when it is complete.
pub enum Sink {
    /// `-`.
    Stdout,
    /// A file.
    File(NewFile, std::path::PathBuf),
}

impl Sink {
    /// Opens `path`; one that exists is an error unless `force`.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Sink::Stdout);
        }
        if path.exists() && !force {
            return Err(Error::file(
                path,
                "exists already; choose another --output, or --force to replace it",
            ));
        }
        if path.is_dir() {
            return Err(Error::file(path, "is a folder"));
        }
        Ok(Sink::File(NewFile::create(path)?, path.to_path_buf()))
    }

    /// Writes one record.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let record = line(record)?;
        match self {
            Sink::Stdout => {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{record}").and_then(|()| out.flush()).map_err(Error::io(Path::new("stdout")))
            }
            Sink::File(file, path) => writeln!(file, "{record}").map_err(Error::io(path)),
        }
    }

    /// All records are written.
    pub fn finish(self) -> Result<()> {
        match self {
            Sink::Stdout => Ok(()),
            Sink::File(file, _) => file.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_line_by_line() {
        let of = |bytes: &[u8]| bounded_text(bytes, "in.jsonl", Path::new("in.jsonl"));
        assert_eq!(of(b"a\r\n\nb").unwrap().lines().collect::<Vec<_>>(), ["a", "", "b"]);
        assert_eq!(of(b"a\nb\xff\n").unwrap_err().to_string(), "in.jsonl:2: not UTF-8");
        // Without an end, as of a device.
        let endless = BufReader::new(std::io::repeat(b'x'));
        let e = bounded_text(endless, "in.jsonl", Path::new("in.jsonl")).unwrap_err().to_string();
        assert!(e.starts_with("in.jsonl:1: found a line of more than 64 MiB"), "{e}");
    }
}
