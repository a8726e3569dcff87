//! JSON Lines in and out: input records with their line numbers, results that stand under their name only when they are whole.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::json::{parse_with_ids, to_line};
use crate::files::{NewFile, decode, read_bytes};
use crate::text::Message;

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Token ids, used as they are, with the loss weight of each if given.
    Tokens(Vec<u32>, Option<Vec<f32>>),
    /// Text, tokenized without a template.
    Text(String),
    /// A conversation, through the chat template.
    Messages(Vec<Message>),
    /// Text of which only `completion` is trained on.
    PromptCompletion(String, String),
}

/// One input record.
#[derive(Clone, Debug)]
pub struct Record {
    /// `FILE:LINE`, for errors.
    pub place: String,
    /// Copied to the output.
    pub id: Value,
    /// The adapter; none is the base model.
    pub adapter: Option<String>,
    /// What it holds.
    pub content: Content,
    fields: Map<String, Value>,
}

/// Fields every command knows.
const COMMON: [&str; 7] = ["id", "adapter", "tokens", "text", "messages", "prompt", "completion"];

impl Record {
    /// An error about a field of this record.
    pub fn error(&self, field: &str, problem: impl ToString) -> Error {
        let place = if field.is_empty() { self.place.clone() } else { format!("{}: {field}", self.place) };
        Error::input(place, problem)
    }

    /// A field as a `T`; absent or null is `None`. `expected` says what a `T` is.
    pub fn field<T: serde::de::DeserializeOwned>(&self, field: &str, expected: &str) -> Result<Option<T>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => serde_json::from_value(v.clone())
                .map(Some)
                .map_err(|_| self.error(field, format!("found {}, expected {expected}", shown(v)))),
        }
    }

    fn parse(line: &str, place: String, known: &[&str]) -> Result<Self> {
        let value = parse_with_ids(line.trim_start_matches('\u{feff}'))
            .map_err(|e| Error::input(&place, format!("not JSON: {e} of the line")))?;
        Self::from_value(value, place, known)
    }

    /// A record that was read as JSON. `known` are the command's own fields.
    pub fn from_value(value: Value, place: String, known: &[&str]) -> Result<Self> {
        let Value::Object(fields) = value else {
            return Err(Error::input(&place, format!("found {}, expected an object", shown(&value))));
        };
        let mut record =
            Record { place, id: Value::Null, adapter: None, content: Content::Text(String::new()), fields };
        for field in record.fields.keys() {
            let mut all = COMMON.iter().chain(known);
            let close = |k: &&&str| strsim::damerau_levenshtein(&field.replace('-', "_"), k) <= 1;
            if !all.clone().any(|k| k == field)
                && let Some(near) = all.find(close).filter(|k| k.len() > 3)
            {
                return Err(record.error(field, format!("unknown field; did you mean `{near}`?")));
            }
        }
        record.id = record.fields.get("id").cloned().unwrap_or(Value::Null);
        record.adapter = record.field("adapter", "a name or null")?;
        record.content = record.read_content()?;
        Ok(record)
    }

    fn read_content(&self) -> Result<Content> {
        let kinds: Vec<&str> = ["tokens", "text", "messages", "prompt"]
            .into_iter()
            .filter(|k| self.fields.get(*k).is_some_and(|v| !v.is_null()))
            .collect();
        match kinds[..] {
            ["tokens"] => {
                let tokens: Vec<u32> = self.field("tokens", "an array of token ids")?.unwrap_or_default();
                if tokens.is_empty() {
                    return Err(self.error("tokens", "found no tokens, expected at least one"));
                }
                let weights: Option<Vec<f32>> = self.field("weights", "an array of numbers")?;
                if let Some(w) = &weights {
                    if w.len() != tokens.len() {
                        return Err(self.error(
                            "weights",
                            format!(
                                "found {} weights, expected one for each of {} tokens",
                                w.len(),
                                tokens.len()
                            ),
                        ));
                    }
                    if w.iter().any(|w| !w.is_finite()) {
                        return Err(self.error("weights", "found a weight that is not finite"));
                    }
                }
                Ok(Content::Tokens(tokens, weights))
            }
            ["text"] => Ok(Content::Text(self.field("text", "a string")?.unwrap_or_default())),
            ["messages"] => {
                let wanted = "an array of {\"role\": …, \"content\": …}";
                let messages: Vec<Message> = self.field("messages", wanted)?.unwrap_or_default();
                if messages.is_empty() {
                    return Err(self.error("messages", "found no messages, expected at least one"));
                }
                Ok(Content::Messages(messages))
            }
            ["prompt"] => {
                let prompt = self.field("prompt", "a string")?.unwrap_or_default();
                match self.field("completion", "a string")? {
                    Some(completion) => Ok(Content::PromptCompletion(prompt, completion)),
                    None => Err(self.error("completion", "missing; it goes with `prompt`")),
                }
            }
            [] => {
                Err(self
                    .error("", "found no content, expected one of `tokens`, `text`, `messages`, `prompt`"))
            }
            _ => Err(self.error("", format!("found `{}`, expected one of them", kinds.join("` and `")))),
        }
    }
}

/// A value as an error shows it: short.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Reads all records of a file or, for `-`, of stdin. `known` are the command's own fields.
pub fn read(path: &Path, known: &[&str]) -> Result<Vec<Record>> {
    let (name, text) = read_text(path)?;
    let mut records = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if !line.trim().is_empty() {
            records.push(Record::parse(line, format!("{name}:{}", i + 1), known)?);
        }
    }
    if records.is_empty() {
        return Err(Error::input(name, "holds no records"));
    }
    Ok(records)
}

/// A file's text, or stdin's, and what to call it.
pub fn read_text(path: &Path) -> Result<(String, String)> {
    let mut bytes = Vec::new();
    let name = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(Error::io(Path::new("stdin")))?;
        "stdin".to_string()
    } else {
        bytes = read_bytes(path)?;
        path.display().to_string()
    };
    let text = decode(bytes, &name, |line| format!("{name}:{line}"))?;
    Ok((name, text))
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
    pub fn write(&mut self, record: &Value) -> Result<()> {
        let record = to_line(record);
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

    fn parse(line: &str) -> Result<Record> {
        Record::parse(line, "in.jsonl:3".into(), &["max_tokens", "weights"])
    }

    #[test]
    fn contents_are_read() {
        let r =
            parse(r#"{"id":[1],"adapter":null,"tokens":[1,2],"weights":[0,1.5],"note":"kept out"}"#).unwrap();
        assert_eq!(r.content, Content::Tokens(vec![1, 2], Some(vec![0.0, 1.5])));
        assert_eq!((r.id, r.adapter), (serde_json::json!([1]), None));
        let r = parse(r#"{"messages":[{"role":"user","content":"hi","weight":0}]}"#).unwrap();
        let Content::Messages(m) = r.content else { panic!() };
        assert_eq!(f32::from(m[0].weight.unwrap()), 0.0);
        let r = parse(r#"{"prompt":"a","completion":"b"}"#).unwrap();
        assert_eq!(r.content, Content::PromptCompletion("a".into(), "b".into()));
    }

    #[test]
    fn errors_name_line_and_field() {
        for (line, expected) in [
            ("{", "in.jsonl:3: not JSON"),
            ("[1]", "expected an object"),
            ("{}", "found no content"),
            (r#"{"tokens":[]}"#, "in.jsonl:3: tokens: found no tokens"),
            (r#"{"tokens":[-1]}"#, "in.jsonl:3: tokens: found [-1], expected an array of token ids"),
            (r#"{"tokens":[1],"weights":[1,2]}"#, "weights: found 2 weights"),
            (r#"{"tokens":[1],"text":"a"}"#, "found `tokens` and `text`"),
            (r#"{"text":7}"#, "text: found 7, expected a string"),
            (r#"{"prompt":"a"}"#, "completion: missing"),
            (r#"{"text":"a","adapter":3}"#, "adapter: found 3"),
            (r#"{"text":"a","max_token":3}"#, "did you mean `max_tokens`?"),
            (r#"{"messages":[{"role":"user"}]}"#, "in.jsonl:3: messages: found"),
        ] {
            let e = parse(line).unwrap_err().to_string();
            assert!(e.contains(expected) && e.starts_with("in.jsonl:3"), "{line}: {e}");
        }
    }
}
