//! What chat templates use of Python where minijinja has nothing, or something else: operators and
//! methods, with the results of Python. Everything that can grow asks the meter first.

use std::sync::LazyLock;

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use regex::Regex;

use super::meter::{self, ELEMENT, made, read, read_value};

/// Python's idea of white space: Unicode's, and the four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

pub fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Gives an environment Python's operators and methods, and Jinja's functions.
pub fn install(environment: &mut Environment) {
    environment.add_function(meter::ADD, add);
    environment.add_function(meter::MULTIPLY, multiply);
    environment.add_function(meter::REMAINDER, remainder);
    environment.add_function(meter::CONCATENATE, concatenate);
    environment.add_function(meter::SLICE, slice);
    environment.add_function(meter::ITEM, item);
    environment.add_function(meter::LOOPS, loops);
    environment.add_function("range", minijinja::functions::range);
    environment.add_function("dict", minijinja::functions::dict);
    environment.add_function("namespace", minijinja::functions::namespace);
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(wrong(text_of(&message)))
    });
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        let bytes = text_bytes(state, value)?;
        made(state, bytes)?;
        out.write_str(&text_of(value)).map_err(Error::from)
    });
}

/// Before `str(value)`: reads it, and how many bytes that takes at most. Anything but a text is
/// shown with escapes, four bytes for one.
fn text_bytes(state: &mut State, value: &Value) -> Result<u64, Error> {
    let bytes = read_value(state, value)?;
    Ok(if value.as_str().is_some() { bytes } else { 4 * bytes })
}

/// `str(value)`.
pub fn text_of(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_string(),
        None if value.is_undefined() => String::new(),
        None => shown(value),
    }
}

/// `repr(value)`. Of values that [`read_value`] went through: they are not nested too deep.
fn shown(value: &Value) -> String {
    let items = |value: &Value| -> Vec<String> {
        value.try_iter().map(|items| items.map(|item| shown(&item)).collect()).unwrap_or_default()
    };
    match value.kind() {
        ValueKind::Undefined => "Undefined".to_string(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            float_text(f64::try_from(value.clone()).unwrap_or(f64::NAN))
        }
        ValueKind::Seq if value.is_tuple() => match items(value) {
            one if one.len() == 1 => format!("({},)", one[0]),
            items => format!("({})", items.join(", ")),
        },
        ValueKind::Seq => format!("[{}]", items(value).join(", ")),
        ValueKind::Map => {
            let pair =
                |key: Value| format!("{}: {}", shown(&key), shown(&value.get_item(&key).unwrap_or_default()));
            let pairs: Vec<String> =
                value.try_iter().map(|keys| keys.map(pair).collect()).unwrap_or_default();
            format!("{{{}}}", pairs.join(", "))
        }
        _ => value.to_string(),
    }
}

/// `repr(text)`: in single quotes unless only those are in it, with escapes for what cannot be printed.
fn quoted(text: &str) -> String {
    // Found in one pass: a pattern for each character takes seconds for megabytes.
    static NOT_PLAIN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"[\p{C}\p{Z}'"\\&&[^ ]]"#).expect("a valid pattern"));
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    let mut plain = 0;
    for found in NOT_PLAIN.find_iter(text) {
        out.push_str(&text[plain..found.start()]);
        plain = found.end();
        match found.as_str().chars().next().unwrap_or_default() {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            c @ ('\'' | '"') => out.push(c),
            c if c <= '\u{ff}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c <= '\u{ffff}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push_str(&text[plain..]);
    out.push(quote);
    out
}

/// `repr(number)`: the shortest digits that read back the same, with an exponent where Python writes one.
pub fn float_text(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_string();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        e if (-4..16).contains(&e) => {
            let plain = number.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
        e => format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs()),
    }
}

/// A number, or a bool, which is one in Python.
#[derive(Clone, Copy)]
pub enum Number {
    /// Of any size.
    Int(i128),
    /// One with a point.
    Float(f64),
}

impl Number {
    pub fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Number::Int(i128::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Int),
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Float),
            _ => None,
        }
    }

    fn float(self) -> f64 {
        match self {
            Number::Int(i) => i as f64,
            Number::Float(f) => f,
        }
    }
}

fn arithmetic(
    a: Number,
    b: Number,
    ints: fn(i128, i128) -> Option<i128>,
    floats: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => {
            ints(a, b).map(Value::from).ok_or_else(|| wrong("found a number that is too large"))
        }
        (a, b) => Ok(Value::from(floats(a.float(), b.float()))),
    }
}

fn unsupported(operator: &str, a: &Value, b: &Value) -> Error {
    let undefined = [a, b].iter().any(|v| v.is_undefined());
    let kind = if undefined { ErrorKind::UndefinedError } else { ErrorKind::InvalidOperation };
    Error::new(kind, format!("cannot apply {operator} to {} and {}", a.kind(), b.kind()))
}

fn add(state: &mut State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return arithmetic(a, b, i128::checked_add, |a, b| a + b);
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        made(state, (a.len() + b.len()) as u64)?;
        return Ok(Value::from([a, b].concat()));
    }
    if [a, b].iter().all(|v| matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable)) {
        made(state, ELEMENT * (elements(a) + elements(b)))?;
        let items = a.try_iter()?.chain(b.try_iter()?);
        return Ok(match a.is_tuple() && b.is_tuple() {
            true => Value::from(Tuple::from(items.collect::<Vec<_>>())),
            false => items.collect(),
        });
    }
    Err(unsupported("+", a, b))
}

pub fn elements(value: &Value) -> u64 {
    value.len().unwrap_or(0) as u64
}

fn multiply(state: &mut State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return arithmetic(a, b, i128::checked_mul, |a, b| a * b);
    }
    let (repeated, times) = if Number::of(a).is_some() { (b, a) } else { (a, b) };
    let Some(Number::Int(times)) = Number::of(times) else { return Err(unsupported("*", a, b)) };
    let times = u64::try_from(times.max(0)).unwrap_or(u64::MAX);
    if let Some(text) = repeated.as_str() {
        made(state, times.saturating_mul(text.len() as u64))?;
        return Ok(Value::from(text.repeat(if text.is_empty() { 0 } else { times as usize })));
    }
    if repeated.kind() != ValueKind::Seq {
        return Err(unsupported("*", a, b));
    }
    made(state, times.saturating_mul(ELEMENT * elements(repeated)))?;
    let items: Vec<Value> = repeated.try_iter()?.collect();
    let len = if items.is_empty() { 0 } else { items.len() * times as usize };
    Ok(items.into_iter().cycle().take(len).collect())
}

/// The remainder has the sign of the divisor; of a text, `%` is its formatting.
fn remainder(state: &mut State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(text) = a.as_str() {
        let args = if b.is_tuple() { b.try_iter()?.collect() } else { vec![b.clone()] };
        return format_text(state, text, &args);
    }
    match (Number::of(a), Number::of(b)) {
        (Some(_), Some(zero)) if zero.float() == 0.0 => Err(wrong("division by zero")),
        (Some(a), Some(b)) => arithmetic(
            a,
            b,
            |a, b| a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
            |a, b| a - b * (a / b).floor(),
        ),
        _ => Err(unsupported("%", a, b)),
    }
}

/// `format % args`.
pub fn format_text(state: &mut State, format: &str, args: &[Value]) -> Result<Value, Error> {
    bounded_format(format)?;
    made(state, format.len() as u64)?;
    let places = format.matches('%').count() as u64;
    made(state, places * 10_000)?;
    for arg in args {
        let bytes = read_value(state, arg)?;
        made(state, bytes)?;
    }
    minijinja::formatting::format(minijinja::formatting::FormatStyle::Printf, format, args).map(Value::from)
}

pub fn concatenate(state: &mut State, a: &Value, b: &Value) -> Result<Value, Error> {
    let bytes = text_bytes(state, a)? + text_bytes(state, b)?;
    made(state, bytes)?;
    Ok(Value::from(text_of(a) + &text_of(b)))
}

/// `value[start:stop:step]`.
fn slice(
    state: &mut State,
    value: &Value,
    start: &Value,
    stop: &Value,
    step: &Value,
) -> Result<Value, Error> {
    let bound = |v: &Value| -> Result<Option<i128>, Error> {
        match (v.is_none() || v.is_undefined(), Number::of(v)) {
            (true, _) => Ok(None),
            (_, Some(Number::Int(i))) => Ok(Some(i)),
            _ => Err(wrong(format!("slice indices must be integers or none, not {}", v.kind()))),
        }
    };
    let step = bound(step)?.unwrap_or(1);
    if step == 0 {
        return Err(wrong("slice step cannot be zero"));
    }
    let (start, stop) = (bound(start)?, bound(stop)?);
    let picked = |len: usize| {
        let len = len as i128;
        let (first, last) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let place = |i: Option<i128>, absent: i128| match i {
            None => absent,
            Some(i) if i < 0 => (i.saturating_add(len)).max(first),
            Some(i) => i.min(last),
        };
        let (from, to) = if step > 0 {
            (place(start, first), place(stop, last))
        } else {
            (place(start, last), place(stop, first))
        };
        std::iter::successors(Some(from), move |i| i.checked_add(step))
            .take_while(move |&i| if step > 0 { i < to } else { i > to })
            .map(|i| i as usize)
    };
    if let Some(text) = value.as_str() {
        read(state, text.len() as u64)?;
        made(state, text.len() as u64)?;
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(picked(chars.len()).map(|i| chars[i]).collect::<String>()));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(unsupported("[:]", value, value));
    }
    made(state, ELEMENT * elements(value))?;
    let items: Vec<Value> = value.try_iter()?.collect();
    let items = picked(items.len()).map(|i| items[i].clone());
    Ok(if value.is_tuple() { Value::from(Tuple::from(items.collect::<Vec<_>>())) } else { items.collect() })
}

/// `value[key]`.
fn item(state: &mut State, value: &Value, key: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        read(state, text.len() as u64)?;
    }
    value.get_item(key)
}

/// Before a loop over a value: `none` and numbers are no lists.
fn loops(state: &mut State, value: &Value) -> Result<(), Error> {
    read(state, elements(value))?;
    match value.kind() {
        ValueKind::None | ValueKind::Number | ValueKind::Bool => {
            Err(wrong(format!("{} is not iterable", value.kind())))
        }
        _ => Ok(()),
    }
}

/// The method of a string, list or dict.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    for arg in args {
        read_value(state, arg)?;
    }
    if let Some(text) = value.as_str() {
        read(state, text.len() as u64)?;
        return string_method(state, value, text, name, args);
    }
    let map = value.kind() == ValueKind::Map;
    match name {
        // As lists, since nothing writes to a dict while its items are looked at.
        "keys" | "values" | "items" if map => {
            let () = from_args(args)?;
            made(state, ELEMENT * elements(value))?;
            value
                .try_iter()?
                .map(|key| {
                    Ok(match name {
                        "keys" => key,
                        "values" => value.get_item(&key)?,
                        _ => Value::from(Tuple::from([key.clone(), value.get_item(&key)?])),
                    })
                })
                .collect::<Result<Vec<_>, Error>>()
                .map(Value::from)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Removes characters at one or both ends: those of `set`, or white space.
pub fn strip<'a>(text: &'a str, set: Option<&str>, start: bool, end: bool) -> &'a str {
    let goes = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

/// `text.split(separator, limit)`, or from the right; without separator at runs of white space.
fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    limit: Option<i64>,
    right: bool,
) -> Result<Vec<&'a str>, Error> {
    let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = text;
    match separator {
        Some(separator) => {
            while parts.len() < limit {
                let cut = if right { rest.rsplit_once(separator) } else { rest.split_once(separator) };
                let Some((before, after)) = cut else { break };
                parts.push(if right { after } else { before });
                rest = if right { before } else { after };
            }
            parts.push(rest);
        }
        None => loop {
            rest = strip(rest, None, !right, right);
            if rest.is_empty() {
                break;
            }
            let cut = if right { rest.rfind(is_space) } else { rest.find(is_space) };
            match cut.filter(|_| parts.len() < limit) {
                Some(at) if right => {
                    let after = at + rest[at..].chars().next().map_or(0, char::len_utf8);
                    parts.push(&rest[after..]);
                    rest = &rest[..at];
                }
                Some(at) => {
                    parts.push(&rest[..at]);
                    rest = &rest[at..];
                }
                None => {
                    parts.push(rest);
                    break;
                }
            }
        },
    }
    if right {
        parts.reverse();
    }
    Ok(parts)
}

pub fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let width = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(0, char::len_utf8)
        };
        found.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

/// A character at the head of a word: for most its upper case, but digraphs and ligatures have a form of their own.
fn titled(c: char) -> String {
    match c {
        'Ǆ' | 'ǅ' | 'ǆ' => "ǅ".into(),
        'Ǉ' | 'ǈ' | 'ǉ' => "ǈ".into(),
        'Ǌ' | 'ǋ' | 'ǌ' => "ǋ".into(),
        'Ǳ' | 'ǲ' | 'ǳ' => "ǲ".into(),
        'ß' | 'ﬀ'..='ﬆ' => {
            let upper: Vec<char> = c.to_uppercase().collect();
            upper[..1].iter().copied().chain(upper[1..].iter().flat_map(|c| c.to_lowercase())).collect()
        }
        _ => c.to_uppercase().collect(),
    }
}

pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| titled(first) + &chars.as_str().to_lowercase())
}

/// `str.title`: a word begins after each character that has no case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.push_str(&titled(c)),
        }
        inside = c.is_lowercase() || c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ');
    }
    out
}

pub fn replace(
    state: &mut State,
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
) -> Result<Value, Error> {
    let count = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let times = text.matches(old).take(count).count() as u64;
    made(state, text.len() as u64 + times.saturating_mul(new.len() as u64))?;
    Ok(Value::from(text.replacen(old, new, count)))
}

/// The part of `text` between two character positions, as Python's optional `start` and `end` of
/// searches mean it; and the first in bytes.
fn between(text: &str, start: Option<i64>, end: Option<i64>) -> (&str, usize) {
    let length = text.chars().count() as i64;
    let place = |i: i64| if i < 0 { (i + length).max(0) } else { i.min(length) } as usize;
    let byte = |i: usize| text.char_indices().nth(i).map_or(text.len(), |(at, _)| at);
    let (from, to) = (byte(start.map_or(0, place)), byte(end.map_or(length as usize, place)));
    (&text[from..to.max(from)], from)
}

fn string_method(
    state: &mut State,
    value: &Value,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let looks = ["startswith", "endswith", "find", "rfind", "index", "rindex", "count"].contains(&name);
    if !looks && !name.starts_with("is") {
        // What changes case or is cut out of a text is hardly longer than it.
        made(state, 3 * text.len() as u64)?;
    }
    let list = |state: &mut State, parts: Vec<&str>| -> Result<Value, Error> {
        made(state, ELEMENT * parts.len() as u64)?;
        Ok(parts.into_iter().map(Value::from).collect())
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            Ok(Value::from(strip(text, set, name != "rstrip", name != "lstrip")))
        }
        "split" | "rsplit" => {
            let (separator, limit, options): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(options.get("sep")?);
            let limit = limit.or(options.get("maxsplit")?);
            options.assert_all_used()?;
            // Before the list is there: it is larger than the text where every other character separates.
            let parts = match separator {
                Some("") => return Err(wrong("empty separator")),
                Some(separator) => text.matches(separator).count(),
                None => text.matches(is_space).count(),
            };
            made(state, ELEMENT * parts as u64)?;
            list(state, split(text, separator, limit, name == "rsplit")?)
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            list(state, lines(text, keep_ends.unwrap_or(false)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(wrong("empty separator"));
            }
            let right = name == "rpartition";
            let cut = if right { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match cut {
                Some((before, after)) => [before, separator, after],
                None if right => ["", "", text],
                None => [text, "", ""],
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            replace(state, text, old, new, count)
        }
        "capitalize" => {
            let () = from_args(args)?;
            Ok(Value::from(capitalize(text)))
        }
        "title" => {
            let () = from_args(args)?;
            Ok(Value::from(title(text)))
        }
        "isspace" => {
            let () = from_args(args)?;
            Ok(Value::from(!text.is_empty() && text.chars().all(is_space)))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (part, from) = between(text, start, end);
            let found = if name.starts_with('r') { part.rfind(what) } else { part.find(what) };
            match found {
                Some(at) => Ok(Value::from(text[..from + at].chars().count())),
                None if name.ends_with("find") => Ok(Value::from(-1)),
                None => Err(wrong("substring not found")),
            }
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            join(state, values, text, true)
        }
        "format" => {
            bounded_format(text)?;
            let places = text.matches('{').count() as u64;
            made(state, places * 10_000)?;
            for arg in args {
                let bytes = read_value(state, arg)?;
                made(state, bytes.saturating_mul(1 + places))?;
            }
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Refuses widths and precisions that no text needs.
fn bounded_format(format: &str) -> Result<(), Error> {
    let long = format.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4);
    if long || format.contains("%*") || format.contains(".*") {
        return Err(wrong("found a format with a width of more than four digits"));
    }
    Ok(())
}

/// The values with `separator` between them. `str.join` takes strings only, the filter anything.
pub fn join(state: &mut State, values: &Value, separator: &str, strings: bool) -> Result<Value, Error> {
    let mut out = String::new();
    for (i, value) in values.try_iter()?.enumerate() {
        if strings && value.as_str().is_none() {
            return Err(wrong(format!("sequence item {i}: expected a string, found {}", value.kind())));
        }
        let bytes = text_bytes(state, &value)? + if i > 0 { separator.len() as u64 } else { 0 };
        made(state, bytes)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(&text_of(&value));
    }
    Ok(Value::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shown_as_python_shows_them() {
        // `repr` of each, by Python 3.11.
        for (text, repr) in [
            ("", "''"),
            ("plain text", "'plain text'"),
            ("it's", "\u{22}it's\u{22}"),
            ("say \u{22}x\u{22}", "'say \u{22}x\u{22}'"),
            ("it's \u{22}x\u{22}", "'it\u{5c}'s \u{22}x\u{22}'"),
            (
                "a\u{5c}b\u{a}\u{d}\u{9}\u{0}\u{7f}\u{a0}\u{ad}",
                "'a\u{5c}\u{5c}b\u{5c}n\u{5c}r\u{5c}t\u{5c}x00\u{5c}x7f\u{5c}xa0\u{5c}xad'",
            ),
            (
                "\u{200b}\u{2028}\u{3000}\u{e9}\u{fffd}\u{e000}\u{1f642}\u{e0001} end",
                "'\u{5c}u200b\u{5c}u2028\u{5c}u3000\u{e9}\u{fffd}\u{5c}ue000\u{1f642}\u{5c}U000e0001 end'",
            ),
        ] {
            assert_eq!(quoted(text), repr);
        }
    }
}
