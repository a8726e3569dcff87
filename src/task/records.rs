//! Records of data files: JSON Lines, JSON, the CSV of multiple choice, and folders of these.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::json::with_exact_numbers;
use crate::files::read_text;

/// Deepest folder below the one that is named.
const MAX_DEPTH: usize = 8;

/// A record as it stands in its file.
pub struct Record {
    /// Its fields.
    pub fields: Map<String, Value>,
    /// File and line, for errors.
    pub place: String,
}

/// The data files of a path: itself, or all `.jsonl`, `.json` and `.csv` files below it, in the
/// order of their paths. Hidden ones are left out.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    collect(path, MAX_DEPTH, &mut found)?;
    found.sort();
    if found.is_empty() {
        return Err(Error::file(path, nothing_found(path)));
    }
    Ok(found)
}

/// What to say of a folder without data, with a file of another format that it has.
fn nothing_found(folder: &Path) -> String {
    const OTHERS: [&str; 11] =
        ["parquet", "arrow", "gz", "zst", "bz2", "xz", "zip", "tar", "tsv", "xlsx", "txt"];
    let problem = "a folder without .jsonl, .json or .csv files";
    let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    let other = names.filter(|path| OTHERS.iter().any(|e| has_extension(path, e))).min();
    match other.as_deref().and_then(Path::file_name) {
        Some(name) => format!("{problem}; convert what it has ({}, …) to JSON Lines", name.to_string_lossy()),
        None => problem.into(),
    }
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
        } else if ["jsonl", "json", "csv"].iter().any(|e| has_extension(&path, e)) {
            found.push(path);
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// All records of one file. A number that a [`Value`] would round is a string of its digits.
/// `choices`: whether it may be the CSV of multiple choice.
pub fn read(path: &Path, choices: bool) -> Result<Vec<Record>> {
    let text = read_text(path)?;
    if has_extension(path, "csv") {
        return match choices {
            true => of_csv(path, &text),
            false => Err(Error::file(
                path,
                "CSV is read by the task `mmlu` only; JSON Lines is what all tasks read",
            )),
        };
    }
    if has_extension(path, "json") {
        return of_json(path, &text);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let place = format!("{}, line {}", path.display(), i + 1);
            // Files that were put together may have marks inside.
            let json = with_exact_numbers(line.trim_start_matches('\u{feff}'));
            let fields = serde_json::from_str(&json)
                .map_err(|e| Error::input(&place, format!("not a JSON object: {e}")))?;
            Ok(Record { fields, place })
        })
        .collect()
}

/// A file that is one object, or an array of objects.
fn of_json(path: &Path, text: &str) -> Result<Vec<Record>> {
    let wrong = |problem: String| Error::file(path, problem);
    let value: Value = serde_json::from_str(&with_exact_numbers(text))
        .map_err(|e| wrong(format!("not JSON: {e} (JSON Lines files are called .jsonl)")))?;
    let items = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    let several = items.len() > 1;
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| {
            let place = if several {
                format!("{}, item {}", path.display(), i + 1)
            } else {
                path.display().to_string()
            };
            match item {
                Value::Object(fields) => Ok(Record { fields, place }),
                _ => Err(Error::input(place, "not a JSON object")),
            }
        })
        .collect()
}

/// Question, choices and the letter of the right one; the subject is the file's name without `_test` and the like.
fn of_csv(path: &Path, text: &str) -> Result<Vec<Record>> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let subject =
        ["_test", "_val", "_dev", "_train"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    let rows = rows(text)
        .map_err(|(line, problem)| Error::input(format!("{}, line {line}", path.display()), problem))?;
    rows.into_iter()
        .map(|(line, cells)| {
            let place = format!("{}, line {line}", path.display());
            if cells.len() != 6 {
                let problem = format!("{} columns, expected 6: question, A, B, C, D, answer", cells.len());
                return Err(Error::input(place, problem));
            }
            let fields =
                json!({"question": cells[0], "choices": cells[1..5], "answer": cells[5], "subject": subject});
            match fields {
                Value::Object(fields) => Ok(Record { fields, place }),
                _ => Err(Error::Internal("an object".into())),
            }
        })
        .collect()
}

/// The first line of a row and its cells.
type Row = (usize, Vec<String>);

/// Rows of RFC 4180: cells may be quoted, quotes in them are doubled, line ends in them are kept.
/// Errors have their line.
fn rows(text: &str) -> std::result::Result<Vec<Row>, (usize, &'static str)> {
    let mut rows = Vec::new();
    let (mut cells, mut cell, mut line, mut start) = (Vec::new(), String::new(), 1, 1);
    let mut chars = text.chars().peekable();
    let mut any = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if cell.is_empty() && !any => {
                let open = line;
                loop {
                    match chars.next() {
                        Some('"') if chars.peek() == Some(&'"') => {
                            chars.next();
                            cell.push('"');
                        }
                        Some('"') => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            cell.push(c);
                        }
                        None => return Err((open, "a quoted cell that is never closed")),
                    }
                }
                any = true;
                if !matches!(chars.peek(), None | Some(',' | '\n' | '\r')) {
                    return Err((line, "text after a quoted cell"));
                }
            }
            ',' => {
                cells.push(std::mem::take(&mut cell));
                any = false;
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                if any || !cell.is_empty() || !cells.is_empty() {
                    cells.push(std::mem::take(&mut cell));
                    rows.push((start, std::mem::take(&mut cells)));
                }
                any = false;
                line += 1;
                start = line;
            }
            c => cell.push(c),
        }
    }
    if any || !cell.is_empty() || !cells.is_empty() {
        cells.push(cell);
        rows.push((start, cells));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_has_quotes_and_line_ends_in_cells() {
        let text = "a,\"b, \"\"c\"\"\",d\r\n\"x\ny\",,\"\"\n\n1,2";
        let expected: Vec<Row> =
            [(1, vec!["a", "b, \"c\"", "d"]), (2, vec!["x\ny", "", ""]), (5, vec!["1", "2"])]
                .into_iter()
                .map(|(line, cells)| (line, cells.into_iter().map(String::from).collect()))
                .collect();
        assert_eq!(rows(text).unwrap(), expected);
        assert_eq!(rows("a\n\"b\nc"), Err((2, "a quoted cell that is never closed")));
        assert_eq!(rows("\"a\"b,c"), Err((1, "text after a quoted cell")));
        assert_eq!(rows("say \"hi\",b").unwrap()[0].1[0], "say \"hi\"");
    }

    #[test]
    fn folders_are_read_whole_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/2.json", "a/10.json", "a/1.json", "c.csv", "README.md", ".hidden.json", "z.jsonl"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let found = files(dir.path()).unwrap();
        let names: Vec<String> =
            found.iter().map(|p| p.strip_prefix(dir.path()).unwrap().display().to_string()).collect();
        assert_eq!(names, ["a/1.json", "a/10.json", "b/2.json", "c.csv", "z.jsonl"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(files(empty.path()).unwrap_err().to_string().contains("a folder without"));
    }
}
