//! A message of a conversation: as records give it, and as chat templates see it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A chat message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; others where the template knows them.
    pub role: String,
    /// What was said. Of content in parts, their texts one after another; of none, an empty text.
    pub content: String,
    /// For training, on assistant turns: 0 leaves the turn's loss out. Absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightValue>,
    /// The whole message as it was given, where it is more than a role and a text: the template sees
    /// these fields, in their order. `weight` is not one of them.
    #[serde(skip)]
    pub given: Map<String, Value>,
}

/// A turn's weight (a number in JSON; kept as bits so that messages compare exactly).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "f32", into = "f32")]
pub struct WeightValue(u32);

impl From<f32> for WeightValue {
    fn from(v: f32) -> Self {
        Self(v.to_bits())
    }
}

impl From<WeightValue> for f32 {
    fn from(v: WeightValue) -> Self {
        f32::from_bits(v.0)
    }
}

/// What is wrong with a message: the field in it (empty for the message itself) and the problem.
#[derive(Debug, PartialEq, Eq)]
pub struct BadMessage {
    /// The field, e.g. `content[1].type`.
    pub field: String,
    /// What was found and what was expected.
    pub problem: String,
}

fn bad<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, BadMessage> {
    Err(BadMessage { field: field.into(), problem: problem.into() })
}

/// Other formats' names for the weight of a turn's loss.
const OTHER_WEIGHTS: [&str; 9] =
    ["loss", "loss_mask", "loss_weight", "mask", "masked", "train", "trainable", "training", "weights"];

/// Fields that stand in place of content.
const IN_PLACE_OF_CONTENT: [&str; 5] =
    ["tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"];

/// Fields of a message that say what its text does not: a template that leaves them out changes what
/// the model reads.
pub const SUBSTANTIAL: [&str; 14] = [
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
    "tools",
    "functions",
    "documents",
    "image",
    "images",
    "audio",
    "video",
    "videos",
    "files",
];

/// Most fields of a message.
const MOST_FIELDS: usize = 100;

impl Message {
    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self::plain("user", content)
    }

    /// The model's turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::plain("assistant", content)
    }

    fn plain(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), weight: None, given: Map::new() }
    }

    /// Reads a message as records hold it. Fields that are null are as good as absent, but for
    /// `content`, which a template may see as none.
    pub fn read(value: &Value) -> Result<Self, BadMessage> {
        let Value::Object(fields) = value else {
            let expected = "an object with `role` and `content`";
            return bad("", format!("found {}, expected {expected}", brief(value)));
        };
        if fields.len() > MOST_FIELDS {
            return bad("", format!("found {} fields, expected at most {MOST_FIELDS}", fields.len()));
        }
        let there = |name: &str| fields.get(name).filter(|v| !v.is_null());
        let role = read_role(there("role"), there("from").is_some())?;
        let content = match fields.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => read_parts(parts)?,
            None | Some(Value::Null) => {
                if !IN_PLACE_OF_CONTENT.iter().any(|name| there(name).is_some()) {
                    return bad("content", "missing, expected a string or a list of parts");
                }
                String::new()
            }
            Some(other) => {
                let expected = "a string or a list of parts";
                return bad("content", format!("found {}, expected {expected}", brief(other)));
            }
        };
        let weight = there("weight").map(read_weight).transpose()?;
        for name in fields.keys().filter(|name| there(name).is_some()) {
            if OTHER_WEIGHTS.contains(&name.as_str()) {
                return bad(name, "unknown field; the weight of a turn's loss is called `weight`");
            }
            let near = |known: &&&str| name.len() < 10 && strsim::damerau_levenshtein(name, known) == 1;
            if let Some(known) = ["role", "content", "weight"].iter().find(near) {
                return bad(name, format!("unknown field; did you mean `{known}`?"));
            }
        }
        let kept = |name: &String, v: &Value| name != "weight" && (name == "content" || !v.is_null());
        let given: Map<String, Value> = fields
            .iter()
            .filter(|(name, v)| kept(name, v))
            .map(|(name, v)| (name.clone(), v.clone()))
            .collect();
        let is_plain = given.len() == 2 && given.get("content").is_some_and(Value::is_string);
        Ok(Self { role, content, weight, given: if is_plain { Map::new() } else { given } })
    }

    /// Names of its fields beyond `role`, `content` and `weight`.
    pub fn more(&self) -> impl Iterator<Item = &str> {
        self.given.keys().map(String::as_str).filter(|name| !["role", "content"].contains(name))
    }

    /// Whether its content was given in parts.
    pub fn has_parts(&self) -> bool {
        self.given.get("content").is_some_and(Value::is_array)
    }

    /// The message with other texts: its role, its content and all texts in its other fields, but not
    /// the fields' names.
    pub fn map_texts(&self, to: &impl Fn(&str) -> String) -> Self {
        let part = |part: &Value| {
            let mut part = part.clone();
            // Its type says that it is a text, whatever that says.
            if let Some(text) = part.get_mut("text") {
                *text = map_texts(text, to);
            }
            part
        };
        let mapped = |name: &str, value: &Value| match value {
            Value::Array(parts) if name == "content" => parts.iter().map(part).collect(),
            value => map_texts(value, to),
        };
        let given = self.given.iter().map(|(name, value)| (name.clone(), mapped(name, value))).collect();
        Self { role: to(&self.role), content: to(&self.content), weight: self.weight, given }
    }

    /// Replaces its content, in parts or not.
    pub fn set_content(&mut self, text: String) {
        if let Some(given) = self.given.get_mut("content") {
            *given = text.as_str().into();
        }
        self.content = text;
    }

    /// What a template sees of it: its fields in order. Content in parts is the list, or the text that
    /// they make if `joined`.
    pub fn fields(&self, joined: bool) -> Vec<(&str, Value)> {
        if self.given.is_empty() {
            return vec![("role", self.role.as_str().into()), ("content", self.content.as_str().into())];
        }
        let field = |(name, value): (&'_ String, &Value)| match (name.as_str(), value) {
            ("content", Value::Array(_)) if joined => Value::from(self.content.as_str()),
            (_, value) => value.clone(),
        };
        self.given.iter().map(|pair| (pair.0.as_str(), field(pair))).collect()
    }
}

/// The names of all fields in a value.
pub fn field_names<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| field_names(item, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                found.push(name);
                field_names(value, found);
            }
        }
        _ => {}
    }
}

/// A value with other texts; names of fields stay.
pub fn map_texts(value: &Value, to: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(to(text)),
        Value::Array(items) => items.iter().map(|item| map_texts(item, to)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, v)| (name.clone(), map_texts(v, to))).collect())
        }
        other => other.clone(),
    }
}

fn read_role(role: Option<&Value>, is_share_gpt: bool) -> Result<String, BadMessage> {
    let role = match role {
        Some(Value::String(role)) => role,
        None if is_share_gpt => {
            return bad("role", "missing; `from` and `value` are called `role` and `content` here");
        }
        None => return bad("role", "missing, expected a string such as `user`"),
        Some(other) => return bad("role", format!("found {}, expected a string", brief(other))),
    };
    let known = match role.to_lowercase().as_str() {
        "human" => "user",
        "gpt" | "bot" => "assistant",
        lower => match ["system", "user", "assistant", "tool"].into_iter().find(|known| *known == lower) {
            Some(known) => known,
            None => return Ok(role.clone()),
        },
    };
    if role == known {
        return Ok(role.clone());
    }
    bad("role", format!("found `{}`, expected `{known}`", brief_text(role)))
}

/// The texts of parts, one after another.
fn read_parts(parts: &[Value]) -> Result<String, BadMessage> {
    if parts.is_empty() {
        return bad("content", "found no parts, expected at least one");
    }
    let mut text = String::new();
    for (i, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str);
        match (kind, part.get("text")) {
            (Some("text"), Some(Value::String(more))) => text.push_str(more),
            (Some("text"), _) => return bad(format!("content[{i}].text"), "expected a string"),
            (Some(other), _) => {
                let problem =
                    format!("found `{}`, expected `text`: the model reads text alone", brief_text(other));
                return bad(format!("content[{i}].type"), problem);
            }
            (None, _) => {
                let expected = "{\"type\": \"text\", \"text\": …}";
                return bad(format!("content[{i}]"), format!("found {}, expected {expected}", brief(part)));
            }
        }
        let known = ["type", "text"];
        if let Some(name) = part.as_object().and_then(|p| p.keys().find(|k| !known.contains(&k.as_str()))) {
            return bad(
                format!("content[{i}].{}", brief_text(name)),
                "unknown field of a part of type `text`",
            );
        }
    }
    Ok(text)
}

fn read_weight(value: &Value) -> Result<WeightValue, BadMessage> {
    match value.as_f64().map(|w| w as f32) {
        Some(weight) if weight.is_finite() => Ok(weight.into()),
        _ => bad("weight", format!("found {}, expected a number", brief(value))),
    }
}

fn brief(value: &Value) -> String {
    brief_text(&value.to_string())
}

fn brief_text(text: &str) -> String {
    match text.char_indices().nth(40) {
        None => text.to_string(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plain_message_is_a_role_and_a_text() {
        let message = Message::read(&json!({"role": "user", "content": "a", "weight": 0.5, "name": null}));
        let message = message.unwrap();
        assert_eq!((message.role.as_str(), message.content.as_str()), ("user", "a"));
        assert_eq!(message.weight.map(f32::from), Some(0.5));
        assert!(message.given.is_empty());
        assert_eq!(message.fields(false), [("role", json!("user")), ("content", json!("a"))]);
    }

    #[test]
    fn fields_stay_in_their_order_and_parts_can_be_joined() {
        let parts = json!([{"type": "text", "text": "a"}, {"text": "b", "type": "text"}]);
        let value = json!({"name": "n", "content": parts, "weight": 0, "role": "user"});
        let message = Message::read(&value).unwrap();
        assert_eq!(message.content, "ab");
        assert!(message.has_parts());
        assert_eq!(message.more().collect::<Vec<_>>(), ["name"]);
        let seen = |joined| message.fields(joined);
        assert_eq!(seen(false), [("name", json!("n")), ("content", parts), ("role", json!("user"))]);
        assert_eq!(seen(true)[1], ("content", json!("ab")));

        let call = json!({"role": "assistant", "content": null, "tool_calls": [1]});
        let message = Message::read(&call).unwrap();
        assert_eq!((message.content.as_str(), message.has_parts()), ("", false));
        assert_eq!(message.fields(true)[1], ("content", Value::Null));
    }

    #[test]
    fn all_texts_of_a_message_can_be_replaced() {
        let value = json!({"role": "r", "content": [{"type": "text", "text": "a"}], "tool_calls": [{"name": "b", "n": 1}]});
        let message = Message::read(&value).unwrap().map_texts(&|text| format!("<{text}>"));
        assert_eq!((message.role.as_str(), message.content.as_str()), ("<r>", "<a>"));
        assert_eq!(message.fields(true)[1].1, json!("<a>"));
        assert_eq!(message.fields(false)[1].1, json!([{"type": "text", "text": "<a>"}]));
        assert_eq!(message.fields(false)[2].1, json!([{"name": "<b>", "n": 1}]));
        assert_eq!(Message::user("a").map_texts(&|_| "b".into()).content, "b");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |extra: Value| {
            let mut value = json!({"role": "user", "content": "a"});
            value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            Message::read(&value).unwrap_err()
        };
        for (extra, field, problem) in [
            (json!({"role": 7}), "role", "found 7, expected a string"),
            (json!({"role": null}), "role", "missing"),
            (json!({"role": "human"}), "role", "found `human`, expected `user`"),
            (json!({"role": "Assistant"}), "role", "expected `assistant`"),
            (json!({"role": null, "from": "gpt"}), "role", "`from` and `value` are called"),
            (json!({"content": 7}), "content", "found 7, expected a string or a list of parts"),
            (json!({"content": null}), "content", "missing"),
            (json!({"content": []}), "content", "found no parts"),
            (json!({"content": ["a"]}), "content[0]", "found \"a\", expected {\"type\""),
            (json!({"content": [{"type": "text"}]}), "content[0].text", "expected a string"),
            (json!({"content": [{"type": "image_url"}]}), "content[0].type", "found `image_url`"),
            (json!({"content": [{"type": "text", "text": "", "x": 1}]}), "content[0].x", "unknown"),
            (json!({"weight": "0"}), "weight", "found \"0\", expected a number"),
            (json!({"weight": 1e300}), "weight", "expected a number"),
            (json!({"weights": 0}), "weights", "is called `weight`"),
            (json!({"train": false}), "train", "is called `weight`"),
            (json!({"contents": "b"}), "contents", "did you mean `content`?"),
        ] {
            let e = of(extra.clone());
            assert!(e.field == field && e.problem.contains(problem), "{extra}: {e:?}");
        }
        let many = (0..101).map(|i| (format!("f{i}"), json!(1))).collect();
        assert!(Message::read(&Value::Object(many)).unwrap_err().problem.contains("found 101 fields"));
        assert!(Message::read(&json!("hi")).unwrap_err().problem.contains("expected an object"));
    }
}
