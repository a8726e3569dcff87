//! JSON Lines that stand in the order of their keys, whatever the order in which they come.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Bound::{Excluded, Unbounded};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::NewFile;

/// A JSON Lines file. What it says stays on the disk, since a long run measures much; in memory is where each line
/// lies.
pub struct SortedLines<K> {
    path: PathBuf,
    /// The first line.
    head: Option<String>,
    spans: BTreeMap<K, Span>,
    /// Bytes of the file.
    length: u64,
}

/// A line, without its end.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    start: u64,
    length: usize,
}

impl<K: Ord> SortedLines<K> {
    /// Those of a file; none if it isn't there. Of lines with the same key the last counts; those without a key are
    /// gone with the next insertion.
    pub fn open(
        path: PathBuf,
        head: Option<String>,
        key: impl Fn(&Map<String, Value>) -> Result<Option<K>>,
    ) -> Result<Self> {
        let mut spans = BTreeMap::new();
        let mut start = 0;
        for_each_line(&path, |line, record| {
            if let Some(key) = key(&record)? {
                spans.insert(key, Span { start, length: line.trim_end_matches(['\r', '\n']).len() });
            }
            start += line.len() as u64;
            Ok(())
        })?;
        Ok(Self { path, head, spans, length: start })
    }

    /// Whether there is a line of this key.
    pub fn contains(&self, key: &K) -> bool {
        self.spans.contains_key(key)
    }

    /// All lines in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Span)> {
        self.spans.iter().map(|(key, span)| (key, *span))
    }

    /// Puts a line, which has no line break, in its place, or in that of the one with the same key. The file is
    /// replaced whole: after an error it is as it was.
    pub fn insert(&mut self, key: K, line: &str) -> Result<()> {
        let mut file = NewFile::create(&self.path)?;
        if let Some(head) = &self.head {
            writeln!(file, "{head}").map_err(Error::io(&self.path))?;
        }
        if self.spans.is_empty() {
            writeln!(file, "{line}").map_err(Error::io(&self.path))?;
        } else {
            let mut reader = self.reader()?;
            let before = self.spans.range(..&key).map(|(_, span)| Some(span));
            let after = self.spans.range((Excluded(&key), Unbounded)).map(|(_, span)| Some(span));
            for kept in before.chain([None]).chain(after) {
                let kept = kept.map(|&span| reader.line(span)).transpose()?;
                writeln!(file, "{}", kept.as_deref().unwrap_or(line)).map_err(Error::io(&self.path))?;
            }
        }
        file.finish()?;
        self.spans.insert(key, Span { start: 0, length: line.len() });
        self.length = self.head.as_ref().map_or(0, |head| head.len() as u64 + 1);
        for span in self.spans.values_mut() {
            span.start = self.length;
            self.length += span.length as u64 + 1;
        }
        Ok(())
    }

    /// Reads lines. Refuses a file that others have changed since: where its lines lie is no longer known.
    pub fn reader(&self) -> Result<LineReader> {
        let file = File::open(&self.path).map_err(Error::io(&self.path))?;
        let found = file.metadata().map_err(Error::io(&self.path))?.len();
        if found != self.length {
            let problem =
                format!("was changed by another program: found {found} bytes, expected {}", self.length);
            return Err(Error::file(&self.path, problem));
        }
        Ok(LineReader { path: self.path.clone(), file: BufReader::new(file), at: 0 })
    }
}

/// Reads lines of a [`SortedLines`] as it was, best in their order.
pub struct LineReader {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
}

impl LineReader {
    /// One line.
    pub fn line(&mut self, span: Span) -> Result<String> {
        let mut bytes = vec![0; span.length];
        self.file
            .seek_relative(span.start as i64 - self.at as i64)
            .and_then(|()| self.file.read_exact(&mut bytes))
            .map_err(Error::io(&self.path))?;
        self.at = span.start + span.length as u64;
        String::from_utf8(bytes)
            .map_err(|_| Error::file(&self.path, "was changed by another program: not UTF-8"))
    }
}

/// Reads a JSON Lines file, one record at a time: each line with its end, and what it says. Nothing
/// if it isn't there.
pub fn for_each_line(path: &Path, mut see: impl FnMut(&str, Map<String, Value>) -> Result<()>) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if file.read_line(&mut line).map_err(Error::io(path))? == 0 {
            break;
        }
        let place = || format!("{}:{number}", path.display());
        let record = serde_json::from_str(line.trim_end()).map_err(|e| Error::input(place(), e))?;
        see(&line, record).map_err(|e| e.at(place()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> SortedLines<u64> {
        SortedLines::open(path.into(), None, |record| Ok(record.get("key").and_then(Value::as_u64))).unwrap()
    }

    fn line(key: u64, text: &str) -> String {
        serde_json::json!({"key": key, "text": text}).to_string()
    }

    #[test]
    fn lines_stand_in_key_order_and_take_the_place_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        let mut lines = open(&path);
        let mut expected = BTreeMap::new();
        // Texts of many lengths, more than a buffer in all; again under the same key; opened anew in between.
        for n in 0..120u64 {
            let (key, text) = (n * 37 % 80, "ä".repeat((n * n % 301) as usize));
            lines.insert(key, &line(key, &text)).unwrap();
            expected.insert(key, line(key, &text));
            let whole: String = expected.values().map(|l| format!("{l}\n")).collect();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
            if n % 50 == 49 {
                lines = open(&path);
            }
        }
        assert!(lines.contains(&79) && !lines.contains(&80));
        let mut reader = lines.reader().unwrap();
        let read: Vec<String> = lines.iter().map(|(_, span)| reader.line(span).unwrap()).collect();
        assert_eq!(read, expected.values().cloned().collect::<Vec<_>>());
        // Backwards too.
        let last = lines.iter().last().unwrap().1;
        let first = lines.iter().next().unwrap().1;
        assert_eq!(
            (reader.line(last).unwrap(), reader.line(first).unwrap()),
            (read[79].clone(), read[0].clone())
        );
    }

    #[test]
    fn what_others_wrote_is_put_in_order_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        let given = [line(5, "five"), line(2, "old"), "{}".into(), line(2, "two")];
        std::fs::write(&path, given.join("\r\n")).unwrap();
        let mut lines = open(&path);
        lines.insert(3, &line(3, "three")).unwrap();
        let whole = [line(2, "two"), line(3, "three"), line(5, "five")].map(|l| l + "\n").concat();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);

        std::fs::write(&path, format!("{whole}{}\n", line(9, "of another program"))).unwrap();
        let e = lines.insert(4, &line(4, "four")).unwrap_err().to_string();
        assert!(e.contains("lines.jsonl") && e.contains("changed by another program"), "{e}");
        std::fs::write(&path, &whole).unwrap();
        lines.insert(4, &line(4, "four")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);

        std::fs::write(&path, format!("{whole}{{\n")).unwrap();
        let e = SortedLines::open(path, None, |_| Ok(Some(0))).err().unwrap().to_string();
        assert!(e.contains("lines.jsonl:4"), "{e}");
    }

    #[test]
    fn after_an_error_all_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        let mut lines = open(&path);
        lines.insert(1, &line(1, "one")).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        // A folder where the new file would be made.
        let blocked = dir.path().join(format!(".lines.jsonl.{}.tmp", std::process::id()));
        std::fs::create_dir(&blocked).unwrap();
        for key in [1, 2] {
            lines.insert(key, &line(key, "new")).unwrap_err();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        std::fs::remove_dir(&blocked).unwrap();
        assert!(!lines.contains(&2));
        lines.insert(3, &line(3, "three")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}{}\n", line(3, "three")));
    }
}
