//! JSON objects that somebody else wrote, read with errors that name file, field, found and
//! expected.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::without_mark;

use crate::error::{Error, Result};

/// No size in a file may exceed this, so that products of sizes never overflow.
const MAX_SIZE: usize = 1 << 24;

/// Parses a JSON object. A byte order mark before it is skipped.
pub fn parse_object(bytes: &[u8], place: &str) -> Result<Map<String, Value>> {
    let value: Value = serde_json::from_slice(without_mark(bytes))
        .map_err(|e| Error::input(place, format!("found no valid JSON ({e}), expected a JSON object")))?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(Error::input(place, format!("found {}, expected a JSON object", brief(&other)))),
    }
}

/// JSON with every number that a [`Value`] would round as a string of its digits instead. A `Value`
/// holds integers of 64 bits and floating-point numbers; an answer of 21 digits would become
/// another one.
pub fn with_exact_numbers(json: &str) -> Cow<'_, str> {
    with_exact(json, "\"", "\"")
}

/// JSON with `open` and `close` around every number that a [`Value`] would round.
fn with_exact<'a>(json: &'a str, open: &str, close: &str) -> Cow<'a, str> {
    let bytes = json.as_bytes();
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let is_part = |b: &&u8| matches!(**b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let end = at + bytes[at..].iter().take_while(is_part).count();
                // What is no number is left to the parser, which says so.
                if is_number(&json[at..end]) && !is_exact(&json[at..end]) {
                    out.push_str(&json[copied..at]);
                    out.push_str(open);
                    out.push_str(&json[at..end]);
                    out.push_str(close);
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(&json[copied..]);
    Cow::Owned(out)
}

/// Stands in a [`Value`] for a number that it would round, until [`to_line`] writes the number:
/// `{"$exact number": "…"}`.
const MARK: (&str, &str) = ("{\"$exact number\":\"", "\"}");

/// Parses a JSON text in which ids are to come back as they are: numbers in the fields `id`, its
/// own and that of the objects in its list `records`, keep their digits, and [`to_line`] writes
/// these.
pub fn parse_with_ids(json: &str) -> serde_json::Result<Value> {
    let mut value: Value = serde_json::from_str(json)?;
    let Cow::Owned(marked) = with_exact(json, MARK.0, MARK.1) else { return Ok(value) };
    let mut marked: Value = serde_json::from_str(&marked)?;
    let take = |to: &mut Value, from: &mut Value| {
        if let (Some(to), Some(from)) = (to.get_mut("id"), from.get_mut("id")) {
            *to = from.take();
        }
    };
    take(&mut value, &mut marked);
    if let (Some(Value::Array(to)), Some(Value::Array(from))) =
        (value.get_mut("records"), marked.get_mut("records"))
    {
        to.iter_mut().zip(from).for_each(|(to, from)| take(to, from));
    }
    Ok(value)
}

/// A value as one line of JSON, with the ids of [`parse_with_ids`] as they were.
pub fn to_line(value: &Value) -> String {
    let line = value.to_string();
    // Quotes are escaped inside strings, so the mark is never found in one.
    let mut parts = line.split(MARK.0);
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        match part.split_once(MARK.1) {
            Some((number, rest)) if is_number(number) => {
                out.push_str(number);
                out.push_str(rest);
            }
            _ => {
                out.push_str(MARK.0);
                out.push_str(part);
            }
        }
    }
    out
}

/// Whether a text is a number of JSON's grammar.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, decimals) = match mantissa.split_once('.') {
        Some((whole, decimals)) => (whole, Some(decimals)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && decimals.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

/// Whether a [`Value`] holds exactly this number.
fn is_exact(number: &str) -> bool {
    if number.len() <= 15 && !number.contains(['e', 'E']) {
        return true;
    }
    if !number.contains(['.', 'e', 'E']) {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    let value = number.parse().ok().filter(|v: &f64| v.is_finite());
    value.is_some_and(|v| significant(&format!("{v:e}")) == significant(number))
}

/// The digits of a number without zeros at either end, and the power of ten of the last.
fn significant(number: &str) -> Option<(bool, String, i64)> {
    let negative = number.starts_with('-');
    let text = number.trim_start_matches('-');
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{decimals}");
    let kept = digits.trim_end_matches('0');
    let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
    let power = exponent.parse::<i64>().ok()? - i64::try_from(decimals.len()).ok()? + dropped;
    let kept = kept.trim_start_matches('0').to_string();
    Some(if kept.is_empty() { (false, kept, 0) } else { (negative, kept, power) })
}

/// A value as an error message shows it.
pub fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The fields of a JSON object, read with errors that name file, field, found and expected. `null`
/// counts as absent.
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

    /// Refuses a field that is there and null: absent, it has a default; null, it says nothing that
    /// can be read.
    pub fn not_null(&self, field: &str) -> Result<()> {
        match self.map.get(field) {
            Some(Value::Null) => Err(self.wrong(field, &Value::Null, "a value, or no such field")),
            _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_would_be_rounded_keep_their_digits_as_text() {
        for (json, expected) in [
            (r#"{"a": 123456789012345678901}"#, r#"{"a": "123456789012345678901"}"#),
            ("-123456789012345678901234567890", r#""-123456789012345678901234567890""#),
            ("[0.12345678901234567890]", r#"["0.12345678901234567890"]"#),
            ("100000000000000000000", r#""100000000000000000000""#),
            ("1e400", r#""1e400""#),
            ("[1e-400,2]", r#"["1e-400",2]"#),
            ("9007199254740993.5", r#""9007199254740993.5""#),
        ] {
            assert_eq!(with_exact_numbers(json), expected);
        }
        for json in [
            r#"{"a \" 123456789012345678901": "123456789012345678901"}"#,
            "[18446744073709551615, -9223372036854775808, 9007199254740993]",
            "[0.1, 1.50, 1e3, 1E+2, 0.0, -0.0, 1e20, 3.14159265358979]",
            "[2.2250738585072014e-308, 1.7976931348623157e308]",
            // No JSON: the parser is to see it as it is.
            "[01234567890123456789012, 1234567890.123.4567890123456, -]",
            r#"{"never closed: 123456789012345678901"#,
        ] {
            assert!(matches!(with_exact_numbers(json), Cow::Borrowed(_)), "{json}");
        }
    }

    #[test]
    fn ids_come_back_as_they_were() {
        for (line, expected) in [
            (r#"{"id":123456789012345678901234567890,"n":1}"#, None),
            (
                r#"{"id":[0.12345678901234567890,{"a":-1e-400}],"records":[{"id":18446744073709551616},7]}"#,
                None,
            ),
            (r#"{"id":"{\"$exact number\":\"12\"}"}"#, None),
            (r#"{"id":"a\u00e9","records":3}"#, Some("{\"id\":\"a\u{e9}\",\"records\":3}")),
            // Numbers that are read are read as ever.
            (
                r#"{"id":99999999999999999999,"weights":[0.33333333333333333333]}"#,
                Some(r#"{"id":99999999999999999999,"weights":[0.3333333333333333]}"#),
            ),
        ] {
            assert_eq!(to_line(&parse_with_ids(line).unwrap()), expected.unwrap_or(line));
        }
        assert!(parse_with_ids("{").is_err() && parse_with_ids(r#"{"id":1e400}"#).is_err());
    }

    #[test]
    fn a_byte_order_mark_before_an_object_is_skipped() {
        assert_eq!(parse_object(b"\xef\xbb\xbf{\"a\": 1}", "x").unwrap()["a"], 1);
    }
}
