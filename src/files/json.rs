//! JSON objects that somebody else wrote, read with errors that name file, field, found and expected.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// No size in a file may exceed this, so that products of sizes never overflow.
const MAX_SIZE: usize = 1 << 24;

/// Parses a JSON object.
pub fn parse_object(bytes: &[u8], place: &str) -> Result<Map<String, Value>> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::input(place, format!("found no valid JSON ({e}), expected a JSON object")))?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(Error::input(place, format!("found {}, expected a JSON object", brief(&other)))),
    }
}

/// A value as an error message shows it.
pub fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The fields of a JSON object, read with errors that name file, field, found and expected. `null` counts as absent.
pub struct Fields<'a> {
    /// The file.
    pub place: &'a str,
    /// What comes before a field's name, e.g. `rope_parameters.`.
    pub prefix: &'a str,
    /// The fields.
    pub map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Names a field in errors.
    pub fn name(&self, field: &str) -> String {
        format!("{}, field {}{field}", self.place, self.prefix)
    }

    /// The error of a field that is not what was expected.
    pub fn wrong(&self, field: &str, found: &Value, expected: &str) -> Error {
        Error::input(self.name(field), format!("found {}, expected {expected}", brief(found)))
    }

    /// A field that is there and not null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// A positive integer that must be there.
    pub fn size(&self, field: &str) -> Result<usize> {
        const EXPECTED: &str = "an integer from 1 to 16777216";
        match self.get(field) {
            None => Err(Error::input(self.name(field), format!("missing, expected {EXPECTED}"))),
            Some(v) => match v.as_u64() {
                Some(n) if (1..=MAX_SIZE as u64).contains(&n) => Ok(n as usize),
                _ => Err(self.wrong(field, v, EXPECTED)),
            },
        }
    }

    /// Likewise, with a default.
    pub fn size_or(&self, field: &str, default: usize) -> Result<usize> {
        if self.get(field).is_none() { Ok(default) } else { self.size(field) }
    }

    /// A positive finite number.
    pub fn positive(&self, field: &str, default: Option<f32>) -> Result<f32> {
        const EXPECTED: &str = "a positive number";
        match (self.get(field), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::input(self.name(field), format!("missing, expected {EXPECTED}"))),
            (Some(v), _) => match v.as_f64().map(|n| n as f32) {
                Some(n) if n > 0.0 && n.is_finite() => Ok(n),
                _ => Err(self.wrong(field, v, EXPECTED)),
            },
        }
    }

    /// A boolean.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(field, v, "true or false")),
        }
    }

    /// A string.
    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| self.wrong(field, v, "a string")),
        }
    }

    /// An object.
    pub fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>> {
        match self.get(field) {
            None => Ok(None),
            Some(v) => v.as_object().map(Some).ok_or_else(|| self.wrong(field, v, "an object")),
        }
    }

    /// A token id, a list of them, or nothing.
    pub fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let list = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        list.iter()
            .map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
            .collect::<Option<Vec<u32>>>()
            .ok_or_else(|| self.wrong(field, value, "a token id or a list of token ids"))
    }
}
