//! Records as every command and request takes them: what each holds, and where each stands for errors.

mod fields;

use serde_json::{Map, Value};

pub use fields::Reader;

use crate::error::{Error, Result};
use crate::files::json::parse_with_ids;
use crate::text::{BadMessage, ChatOptions, Message};

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
    /// The field that it stands in.
    pub content_field: &'static str,
    /// What goes to the chat template beside the messages.
    pub chat: ChatOptions,
    /// Fields that are there and not read.
    pub ignored: Vec<String>,
    fields: Map<String, Value>,
}

/// Most fields of a record: each name is compared with many.
const MOST_FIELDS: usize = 1000;

/// Fields that hold content; one of them is there.
const CONTENT: [&str; 4] = ["tokens", "text", "messages", "prompt"];

impl Record {
    /// An error about a field of this record.
    pub fn error(&self, field: &str, problem: impl ToString) -> Error {
        let place = if field.is_empty() { self.place.clone() } else { format!("{}: {field}", self.place) };
        Error::input(place, problem)
    }

    /// A field as a `T`; absent or null is `None`. `expected` says what a `T` is.
    pub fn field<T: serde::de::DeserializeOwned>(&self, field: &str, expected: &str) -> Result<Option<T>> {
        match self.there(field) {
            None => Ok(None),
            Some(v) => serde_json::from_value(v.clone())
                .map(Some)
                .map_err(|_| self.error(field, format!("found {}, expected {expected}", shown(v)))),
        }
    }

    /// A field that is there and not null.
    fn there(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|v| !v.is_null())
    }

    fn parse(line: &str, place: String, reader: Reader) -> Result<Self> {
        let value = parse_with_ids(line.trim_start_matches('\u{feff}'))
            .map_err(|e| Error::input(&place, format!("not JSON: {e} of the line")))?;
        Self::from_value(value, place, reader)
    }

    /// A record that was read as JSON, for the command `reader`.
    pub fn from_value(value: Value, place: String, reader: Reader) -> Result<Self> {
        let Value::Object(fields) = value else {
            return Err(Error::input(&place, format!("found {}, expected an object", shown(&value))));
        };
        if fields.len() > MOST_FIELDS {
            let problem = format!("found {} fields, expected at most {MOST_FIELDS}", fields.len());
            return Err(Error::input(place, problem));
        }
        let mut record = Self {
            place,
            id: Value::Null,
            adapter: None,
            content: Content::Text(String::new()),
            content_field: "text",
            chat: ChatOptions::default(),
            ignored: Vec::new(),
            fields,
        };
        record.ignored = fields::check(&record.fields, reader)
            .map_err(|(field, problem)| record.error(&field, problem))?;
        record.id = record.fields.get("id").cloned().unwrap_or(Value::Null);
        record.adapter = record.field("adapter", "a name or null")?;
        (record.content_field, record.content) = record.read_content(reader)?;
        record.chat = record.read_chat()?;
        Ok(record)
    }

    fn read_content(&self, reader: Reader) -> Result<(&'static str, Content)> {
        let kinds: Vec<&'static str> = CONTENT.into_iter().filter(|k| self.there(k).is_some()).collect();
        let content = match kinds[..] {
            ["tokens"] => self.read_tokens()?,
            ["text"] => Content::Text(self.field("text", "a string")?.unwrap_or_default()),
            ["messages"] => {
                let messages = self.read_messages("messages", reader)?;
                let carries =
                    |m: &Message| m.role == "assistant" && m.weight.is_none_or(|w| f32::from(w) != 0.0);
                if reader == Reader::Train && !messages.iter().any(carries) {
                    let problem = "found no turn of the assistant with a weight: nothing in it carries loss";
                    return Err(self.error("messages", problem));
                }
                Content::Messages(messages)
            }
            ["prompt"] => self.read_prompt(reader)?,
            [] => {
                let (field, problem) = fields::no_content(&self.fields);
                return Err(self.error(&field, problem));
            }
            _ => {
                return Err(
                    self.error("", format!("found `{}`, expected one of them", kinds.join("` and `")))
                );
            }
        };
        for (field, of) in [("completion", "prompt"), ("weights", "tokens")] {
            if self.there(field).is_some() && kinds[0] != of {
                return Err(
                    self.error(field, format!("found it with `{}`, expected it with `{of}`", kinds[0]))
                );
            }
        }
        Ok((kinds[0], content))
    }

    fn read_tokens(&self) -> Result<Content> {
        let tokens: Vec<u32> = self.field("tokens", "an array of token ids")?.unwrap_or_default();
        if tokens.is_empty() {
            return Err(self.error("tokens", "found no tokens, expected at least one"));
        }
        let weights: Option<Vec<f32>> = self.field("weights", "an array of numbers")?;
        if let Some(w) = &weights {
            if w.len() != tokens.len() {
                return Err(self.error(
                    "weights",
                    format!("found {} weights, expected one for each of {} tokens", w.len(), tokens.len()),
                ));
            }
            if w.iter().any(|w| !w.is_finite()) {
                return Err(self.error("weights", "found a weight that is not finite"));
            }
            if w.iter().skip(1).all(|w| *w == 0.0) {
                return Err(self.error(
                    "weights",
                    "found no weight behind the first token's: nothing in it carries loss",
                ));
            }
        }
        Ok(Content::Tokens(tokens, weights))
    }

    /// `prompt`, alone for `generate`, else with `completion`; texts or lists of messages.
    fn read_prompt(&self, reader: Reader) -> Result<Content> {
        let prompt = self.there("prompt").unwrap_or(&Value::Null);
        let expected = "a string or a list of messages";
        let wrong = |field: &str, found: &Value, expected: &str| {
            self.error(field, format!("found {}, expected {expected}", shown(found)))
        };
        if reader == Reader::Generate {
            return match prompt {
                Value::String(text) => Ok(Content::Text(text.clone())),
                Value::Array(_) => Ok(Content::Messages(self.read_messages("prompt", reader)?)),
                other => Err(wrong("prompt", other, expected)),
            };
        }
        let completion = self.there("completion").ok_or_else(|| {
            let problem =
                "missing; it goes with `prompt` (for a text that is whole, use `text` or `messages`)";
            self.error("completion", problem)
        })?;
        match (prompt, completion) {
            (Value::String(prompt), Value::String(completion)) => {
                Ok(Content::PromptCompletion(prompt.clone(), completion.clone()))
            }
            (Value::Array(_), Value::Array(_)) => Ok(Content::Messages(self.read_completion(reader)?)),
            (Value::String(_), other) => Err(wrong("completion", other, "a string, as `prompt` is one")),
            (Value::Array(_), other) => {
                Err(wrong("completion", other, "a list of messages, as `prompt` is one"))
            }
            (other, _) => Err(wrong("prompt", other, expected)),
        }
    }

    /// A conversation of which only the completion's turns carry loss.
    fn read_completion(&self, reader: Reader) -> Result<Vec<Message>> {
        let mut messages = self.read_messages("prompt", reader)?;
        if let Some(i) = messages.iter().position(|m| m.weight.is_some_and(|w| f32::from(w) != 0.0)) {
            let problem = "found a weight, expected none: only the completion carries loss";
            return Err(self.error(&format!("prompt[{i}].weight"), problem));
        }
        if messages.last().is_some_and(|m| m.role == "assistant") {
            let place = format!("prompt[{}]", messages.len() - 1);
            return Err(
                self.error(&place, "found a turn of the assistant, expected the last turn before its answer")
            );
        }
        messages.iter_mut().filter(|m| m.role == "assistant").for_each(|m| m.weight = Some(0.0.into()));
        let completion = self.read_messages("completion", reader)?;
        if !completion.iter().any(|m| m.role == "assistant") {
            return Err(self.error("completion", "found no turn of the assistant, expected at least one"));
        }
        messages.extend(completion);
        Ok(messages)
    }

    fn read_messages(&self, field: &str, reader: Reader) -> Result<Vec<Message>> {
        let values = match self.there(field) {
            Some(Value::Array(values)) => values.as_slice(),
            Some(other) => {
                let expected = "an array of {\"role\": …, \"content\": …}";
                return Err(self.error(field, format!("found {}, expected {expected}", shown(other))));
            }
            None => &[],
        };
        if values.is_empty() {
            return Err(self.error(field, "found no messages, expected at least one"));
        }
        let message = |(i, value)| {
            let message = Message::read(value).map_err(|BadMessage { field: inner, problem }| {
                let dot = if inner.is_empty() { "" } else { "." };
                self.error(&format!("{field}[{i}]{dot}{inner}"), problem)
            })?;
            self.check_weight(&message, &format!("{field}[{i}].weight"), reader)?;
            Ok(message)
        };
        values.iter().enumerate().map(message).collect()
    }

    /// The weight of a turn stands where it counts.
    fn check_weight(&self, message: &Message, place: &str, reader: Reader) -> Result<()> {
        let Some(weight) = message.weight.map(f32::from) else { return Ok(()) };
        if reader != Reader::Train {
            let problem =
                format!("a field of `train`, which `{}` does not read; leave it out", reader.name());
            return Err(self.error(place, problem));
        }
        if message.role != "assistant" && weight != 0.0 {
            let role = shown(&Value::from(message.role.as_str()));
            let problem = format!("found {weight} on a turn of role {role}, expected it on the assistant's");
            return Err(self.error(place, problem));
        }
        Ok(())
    }

    /// What goes to the chat template beside the messages.
    fn read_chat(&self) -> Result<ChatOptions> {
        let tools: Option<Vec<Map<String, Value>>> = self.field("tools", "a list of objects")?;
        let kwargs: Option<Map<String, Value>> =
            self.field("chat_template_kwargs", "an object of the template's variables")?;
        let chat = ChatOptions {
            tools: tools.map(|tools| tools.into_iter().map(Value::Object).collect()),
            kwargs: kwargs.unwrap_or_default(),
        };
        chat.check()
            .map_err(|(name, problem)| self.error(&format!("chat_template_kwargs.{name}"), problem))?;
        if !matches!(self.content, Content::Messages(_)) {
            let given = [
                ("tools", chat.tools.as_ref().is_none_or(Vec::is_empty)),
                ("chat_template_kwargs", chat.kwargs.is_empty()),
            ];
            if let Some((field, _)) = given.iter().find(|(_, is_empty)| !is_empty) {
                let found = self.content_field;
                let problem =
                    format!("found it with `{found}`, which no chat template sees; expected `messages`");
                return Err(self.error(field, problem));
            }
        }
        Ok(chat)
    }
}

/// Most fields that are named; the rest is counted together.
const MOST_NAMED: usize = 30;

/// Names of fields that are not read with the number of records that have each, in the order in which they come.
pub fn count<'a>(names: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    let mut counts = Map::new();
    names.into_iter().for_each(|name| note(&mut counts, name));
    counts
}

/// Counts one more record that has a field which is not read.
pub fn note(counts: &mut Map<String, Value>, name: &str) {
    let name = brief(name);
    let is_room = counts.len() < MOST_NAMED || counts.contains_key(&name);
    let count = counts.entry(if is_room { name } else { "…".into() }).or_insert(0.into());
    *count = Value::from(count.as_u64().unwrap_or(0) + 1);
}

/// The line that names them; none if there are none.
pub fn ignored_line(counts: &Map<String, Value>) -> Option<String> {
    let mut names = Vec::new();
    for (i, (name, count)) in counts.iter().enumerate() {
        let records = match (i, count.as_u64()) {
            (0, Some(1)) => " record",
            (0, _) => " records",
            _ => "",
        };
        names.push(format!("{name} ({count}{records})"));
    }
    (!names.is_empty()).then(|| format!("ignored  {}", names.join(", ")))
}

/// A value as an error shows it: short.
pub fn shown(value: &Value) -> String {
    brief(&value.to_string())
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(40) {
        None => text.to_string(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Reads all records of a text, a JSON object a line, for the command `reader`; `name` is what to call the text.
pub fn read(text: &str, name: &str, reader: Reader) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if !line.trim().is_empty() {
            records.push(Record::parse(line, format!("{name}:{}", i + 1), reader)?);
        }
    }
    if records.is_empty() {
        return Err(Error::input(name, "holds no records"));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Record> {
        Record::parse(line, "in.jsonl:3".into(), Reader::Train)
    }

    #[test]
    fn contents_are_read() {
        let r =
            parse(r#"{"id":[1],"adapter":null,"tokens":[1,2],"weights":[0,1.5],"note":"kept out"}"#).unwrap();
        assert_eq!(r.content, Content::Tokens(vec![1, 2], Some(vec![0.0, 1.5])));
        assert_eq!((r.id, r.adapter), (serde_json::json!([1]), None));
        assert_eq!(r.ignored, ["note"]);
        let turns = r#"[{"role":"assistant","content":"hi","weight":0},{"role":"assistant","content":"a"}]"#;
        let r = parse(&format!("{{\"messages\":{turns}}}")).unwrap();
        let Content::Messages(m) = r.content else { panic!() };
        assert_eq!(f32::from(m[0].weight.unwrap()), 0.0);
        let r = parse(r#"{"prompt":"a","completion":"b"}"#).unwrap();
        assert_eq!(r.content, Content::PromptCompletion("a".into(), "b".into()));
        let tools = r#"{"messages":[{"role":"assistant","content":"a"}],
                        "tools":[{"name":"t"}],"chat_template_kwargs":{"x":[1]}}"#;
        let chat = parse(tools).unwrap().chat;
        assert_eq!(chat.tools, Some(vec![serde_json::json!({"name": "t"})]));
        assert_eq!(chat.kwargs["x"], serde_json::json!([1]));
    }

    #[test]
    fn only_the_completion_of_a_conversation_carries_loss() {
        let line = r#"{"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
                                 {"role":"user","content":"c"}],
                       "completion":[{"role":"assistant","content":"d"},{"role":"user","content":"e"},
                                     {"role":"assistant","content":"f","weight":0.5}]}"#;
        let Content::Messages(messages) = parse(line).unwrap().content else { panic!() };
        let weights: Vec<(String, Option<f32>)> =
            messages.iter().map(|m| (m.content.clone(), m.weight.map(f32::from))).collect();
        let expected =
            [("a", None), ("b", Some(0.0)), ("c", None), ("d", None), ("e", None), ("f", Some(0.5))];
        assert_eq!(weights, expected.map(|(text, weight)| (text.to_string(), weight)));
    }

    #[test]
    fn a_prompt_alone_is_for_generate() {
        let of = |line: &str| Record::parse(line, "in.jsonl:3".into(), Reader::Generate);
        let r = of(r#"{"prompt":"3+4"}"#).unwrap();
        assert_eq!((r.content, r.content_field), (Content::Text("3+4".into()), "prompt"));
        let r = of(r#"{"prompt":[{"role":"user","content":"3+4"}]}"#).unwrap();
        assert_eq!(r.content, Content::Messages(vec![Message::user("3+4")]));
        for (line, expected) in [
            (r#"{"prompt":["3+4"]}"#, "prompt[0]: found \"3+4\", expected an object"),
            (r#"{"prompt":7}"#, "prompt: found 7, expected a string or a list of messages"),
            (r#"{"prompt":"a","completion":"b"}"#, "completion: a field of `score` and `train`"),
            (
                r#"{"messages":[{"role":"user","content":"a","weight":0}]}"#,
                "messages[0].weight: a field of `train`",
            ),
        ] {
            let e = of(line).unwrap_err().to_string();
            assert!(e.contains(expected), "{line}: {e}");
        }
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
            (
                r#"{"prompt":"a","completion":[]}"#,
                "completion: found [], expected a string, as `prompt` is one",
            ),
            (r#"{"prompt":[],"completion":"a"}"#, "completion: found \"a\", expected a list of messages"),
            (r#"{"prompt":[],"completion":[]}"#, "prompt: found no messages"),
            (
                r#"{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"user","content":"a"}]}"#,
                "completion: found no turn of the assistant",
            ),
            (
                r#"{"prompt":[{"role":"assistant","content":"a"}],"completion":[{"role":"assistant","content":"a"}]}"#,
                "prompt[0]: found a turn of the assistant",
            ),
            (
                r#"{"prompt":[{"role":"assistant","content":"a","weight":1}],"completion":[]}"#,
                "prompt[0].weight: found a weight",
            ),
            (
                r#"{"text":"a","completion":"b"}"#,
                "completion: found it with `text`, expected it with `prompt`",
            ),
            (
                r#"{"prompt":"b","completion":"c","weights":[0]}"#,
                "weights: found it with `prompt`, expected it with `tokens`",
            ),
            (r#"{"text":"a","adapter":3}"#, "adapter: found 3"),
            (r#"{"text":"a","weight_s":3}"#, "did you mean `weights`?"),
            (
                r#"{"text":"a","labels":[1]}"#,
                "in.jsonl:3: labels: unknown field; give `tokens` with `weights`",
            ),
            (
                r#"{"text":"a","max_tokens":3}"#,
                "max_tokens: a field of `generate`, which `train` does not read",
            ),
            (r#"{"messages":[{"role":"user"}]}"#, "in.jsonl:3: messages[0].content: missing"),
            (r#"{"messages":[{"role":"user","content":"a"}]}"#, "messages: found no turn of the assistant"),
            (
                r#"{"messages":[{"role":"assistant","content":"a","weight":0}]}"#,
                "messages: found no turn of the assistant",
            ),
            (r#"{"tokens":[1,2],"weights":[1,0]}"#, "weights: found no weight behind the first token's"),
            (r#"{"messages":"hi"}"#, "messages: found \"hi\", expected an array of"),
            (
                r#"{"messages":[{"role":"user","content":"a","weight":1}]}"#,
                "messages[0].weight: found 1 on a turn of role \"user\"",
            ),
            (r#"{"text":"a","tools":[{}]}"#, "tools: found it with `text`"),
            (r#"{"text":"a","chat_template_kwargs":{"a":1}}"#, "chat_template_kwargs: found it with `text`"),
            (
                r#"{"messages":[{"role":"assistant","content":"a"}],"tools":["t"]}"#,
                "tools: found [\"t\"], expected a list of objects",
            ),
            (
                r#"{"messages":[{"role":"assistant","content":"a"}],"chat_template_kwargs":{"messages":1}}"#,
                "chat_template_kwargs.messages: reserved",
            ),
            (
                r#"{"messages":[{"role":"assistant","content":"a"}],"chat_template_kwargs":{"eos_token":1}}"#,
                "chat_template_kwargs.eos_token: reserved",
            ),
            (
                r#"{"messages":[{"role":"assistant","content":"a"}],"chat_template_kwargs":{" input bytes":1}}"#,
                "expected the name of a template's variable",
            ),
        ] {
            let e = parse(line).unwrap_err().to_string();
            assert!(e.contains(expected) && e.starts_with("in.jsonl:3"), "{line}: {e}");
        }
    }

    #[test]
    fn fields_are_bounded() {
        let of = |n: usize| {
            let more: String = (1..n).map(|i| format!(r#","f{i}":1"#)).collect();
            parse(&format!(r#"{{"text":"a"{more}}}"#))
        };
        assert_eq!(of(1000).unwrap().ignored.len(), 999);
        assert!(of(1001).unwrap_err().to_string().contains("found 1001 fields, expected at most 1000"));
    }

    #[test]
    fn fields_that_are_not_read_are_counted() {
        let counts = count(["source", "note", "source"]);
        assert_eq!(ignored_line(&counts).as_deref(), Some("ignored  source (2 records), note (1)"));
        assert_eq!(ignored_line(&count(["source"])).as_deref(), Some("ignored  source (1 record)"));
        assert_eq!(ignored_line(&Map::new()), None);
    }
}
