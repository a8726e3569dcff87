//! `tojson` as transformers has it: Python's `json.dumps`, without HTML's escapes.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::meter::{made, read_value};
use super::python::float_text;

struct Style {
    ensure_ascii: bool,
    /// What a level is indented by; without it all is one line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub fn to_json(
    state: &mut State,
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let ensure_ascii = ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false);
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => Some(match (v.as_str(), v.as_i64()) {
            (Some(text), _) => text.to_string(),
            (None, Some(n)) if n <= 1000 => " ".repeat(n.max(0) as usize),
            _ => return Err(wrong("found an indent that is neither a text nor a number up to 1000")),
        }),
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(wrong("found separators that are not two")),
    };
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let style = Style { ensure_ascii, indent, item, key, sort_keys };
    // Before it is written: no deeper than the meter allows.
    read_value(state, value)?;
    let mut out = String::new();
    write(state, value, &style, 0, &mut out)?;
    Ok(Value::from(out))
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}

fn push(state: &mut State, text: &str, out: &mut String) -> Result<(), Error> {
    made(state, text.len() as u64)?;
    out.push_str(text);
    Ok(())
}

fn write(
    state: &mut State,
    value: &Value,
    style: &Style,
    level: usize,
    out: &mut String,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => push(state, "null", out),
        ValueKind::Bool => push(state, if value.is_true() { "true" } else { "false" }, out),
        ValueKind::Number => push(state, &number(value), out),
        ValueKind::String => {
            push(state, &quoted(value.as_str().unwrap_or_default(), style.ensure_ascii), out)
        }
        ValueKind::Map => {
            let mut pairs = Vec::new();
            for key in value.try_iter()? {
                let name = match key.kind() {
                    ValueKind::String => key.as_str().unwrap_or_default().to_string(),
                    ValueKind::Number => number(&key),
                    ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
                    ValueKind::None => "null".to_string(),
                    kind => return Err(wrong(&format!("found a key of kind {kind}, expected a string"))),
                };
                pairs.push((name, value.get_item(&key)?));
            }
            if style.sort_keys {
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
            }
            push(state, "{", out)?;
            for (i, (key, item)) in pairs.iter().enumerate() {
                next(state, style, level, i, out)?;
                push(state, &quoted(key, style.ensure_ascii), out)?;
                push(state, &style.key, out)?;
                write(state, item, style, level + 1, out)?;
            }
            close(state, style, level, !pairs.is_empty(), "}", out)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            push(state, "[", out)?;
            let mut count = 0;
            for item in value.try_iter()? {
                next(state, style, level, count, out)?;
                write(state, &item, style, level + 1, out)?;
                count += 1;
            }
            close(state, style, level, count > 0, "]", out)
        }
        kind => Err(wrong(&format!("a value of kind {kind} is not JSON"))),
    }
}

/// What stands before the `i`th item.
fn next(state: &mut State, style: &Style, level: usize, i: usize, out: &mut String) -> Result<(), Error> {
    if i > 0 {
        push(state, &style.item, out)?;
    }
    line(state, style, level + 1, out)
}

fn close(
    state: &mut State,
    style: &Style,
    level: usize,
    filled: bool,
    end: &str,
    out: &mut String,
) -> Result<(), Error> {
    if filled {
        line(state, style, level, out)?;
    }
    push(state, end, out)
}

fn line(state: &mut State, style: &Style, level: usize, out: &mut String) -> Result<(), Error> {
    let Some(indent) = &style.indent else { return Ok(()) };
    push(state, "\n", out)?;
    (0..level).try_for_each(|_| push(state, indent, out))
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()).unwrap_or(f64::NAN) {
        number if number.is_finite() => float_text(number),
        number if number.is_nan() => "NaN".into(),
        number => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
    }
}

/// A JSON string; escaped is what JSON asks for, and with `ensure_ascii` all that is not ASCII.
fn quoted(text: &str, ensure_ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && c > '~') => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
