//! Jinja's filters and tests as chat templates use them: minijinja's behind the meter, and Python's where those differ.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, filters, tests};

use super::json::to_json;
use super::meter::{ELEMENT, made, read, read_value};
use super::python::{
    Number, capitalize, concatenate, elements, format_text, is_space, join, lines, replace, strip, text_of,
    wrong,
};

/// Filters of minijinja that go through their operands once and make nothing larger than they are.
macro_rules! metered_filters {
    ($environment:ident: $($name:literal $filter:ident $cost:ident),* $(,)?) => {$(
        $environment.add_filter(concat!(" ", $name), filters::$filter);
        $environment.add_filter($name, |state: &mut State, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            let args = args.into_values();
            $cost(state, &args)?;
            state.apply_filter(concat!(" ", $name), &args)
        });
    )*};
}

/// For what looks at the elements of a list, but not into them.
fn shallow(state: &mut State, args: &[Value]) -> Result<(), Error> {
    let size = |v: &Value| v.as_str().map_or_else(|| elements(v), |text| text.len() as u64);
    let size = args.iter().map(size).sum();
    read(state, size)
}

/// For what reads all of its operands and makes a list, or a text, of the same size.
fn deep(state: &mut State, args: &[Value]) -> Result<(), Error> {
    if args[1..].iter().any(|v| matches!(Number::of(v), Some(Number::Int(i)) if i > 100_000)) {
        return Err(wrong("found a count above 100000"));
    }
    for (i, arg) in args.iter().enumerate() {
        let bytes = read_value(state, arg)?;
        // A text as a list has an element for each character.
        made(state, if i == 0 && arg.as_str().is_some() { ELEMENT * bytes } else { bytes })?;
    }
    Ok(())
}

/// Gives an environment what stands behind `|` and `is`.
pub fn install(environment: &mut Environment) {
    install_tests(environment);
    metered_filters!(environment:
        "length" length shallow, "count" length shallow, "first" first shallow, "last" last shallow,
        "default" default shallow, "d" default shallow, "attr" attr shallow, "abs" abs shallow, "round" round shallow,
        "int" int shallow, "float" float shallow, "upper" upper deep, "lower" lower deep, "list" list deep, "reverse" reverse deep,
        "sort" sort deep, "unique" unique deep, "min" min deep, "max" max deep, "sum" sum deep, "batch" batch deep, "slice" slice deep,
        "map" map deep, "select" select deep, "reject" reject deep, "selectattr" selectattr deep, "rejectattr" rejectattr deep,
        "groupby" groupby deep, "dictsort" dictsort deep, "items" items deep, "safe" safe deep,
    );
    environment
        .add_filter("string", |state: &mut State, value: &Value| concatenate(state, value, &Value::from("")));
    environment.add_filter("trim", |state: &mut State, value: &Value, set: Option<String>| {
        let text = concatenate(state, value, &Value::from(""))?;
        Ok::<_, Error>(Value::from(strip(text.as_str().unwrap_or_default(), set.as_deref(), true, true)))
    });
    environment.add_filter("capitalize", |state: &mut State, value: &Value| {
        let text = concatenate(state, value, &Value::from(""))?;
        Ok::<_, Error>(Value::from(capitalize(text.as_str().unwrap_or_default())))
    });
    environment.add_filter("title", |state: &mut State, value: &Value| {
        let text = concatenate(state, value, &Value::from(""))?;
        Ok::<_, Error>(Value::from(title_filter(text.as_str().unwrap_or_default())))
    });
    environment.add_filter(
        "replace",
        |state: &mut State, value: &Value, old: &Value, new: &Value, count: Option<i64>| {
            let text = concatenate(state, value, &Value::from(""))?;
            replace(state, text.as_str().unwrap_or_default(), &text_of(old), &text_of(new), count)
        },
    );
    environment.add_filter(
        "join",
        |state: &mut State, value: &Value, separator: Option<String>, options: Kwargs| {
            let attribute: Option<String> = options.get("attribute")?;
            options.assert_all_used()?;
            let values = match attribute {
                None => value.clone(),
                Some(name) => {
                    value.try_iter()?.map(|v| v.get_attr(&name)).collect::<Result<Vec<_>, _>>()?.into()
                }
            };
            join(state, &values, separator.as_deref().unwrap_or(""), false)
        },
    );
    environment.add_filter("indent", indent);
    environment.add_filter("format", |state: &mut State, format: &Value, args: Rest<Value>| {
        format_text(state, format.as_str().unwrap_or_default(), &args)
    });
    environment.add_filter("tojson", to_json);
}

/// Jinja's `title`: a word begins after white space, a dash or an opening bracket.
fn title_filter(text: &str) -> String {
    let begins = |c: char| is_space(c) || "-({[<".contains(c);
    text.split_inclusive(begins)
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or(String::new(), |first| {
                first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect()
            })
        })
        .collect()
}

/// Jinja's `indent(width=4, first=False, blank=False)`.
fn indent(state: &mut State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let (width, first, blank, options): (Option<Value>, Option<bool>, Option<bool>, Kwargs) =
        from_args(&args.into_values())?;
    let width = match width {
        Some(width) => Some(width),
        None => options.get("width")?,
    };
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = blank.or(options.get("blank")?).unwrap_or(false);
    options.assert_all_used()?;
    let by = match width.as_ref().map(|w| (w.as_str(), Number::of(w))) {
        None => " ".repeat(4),
        Some((Some(text), _)) => text.to_string(),
        Some((None, Some(Number::Int(n)))) if n <= 1000 => " ".repeat(n.max(0) as usize),
        _ => return Err(wrong("found an indent that is neither a text nor a number up to 1000")),
    };
    let text = concatenate(state, value, &Value::from("\n"))?;
    let text = text.as_str().unwrap_or_default();
    let found = lines(text, false);
    made(state, text.len() as u64 + (found.len() as u64).saturating_mul(by.len() as u64))?;
    let mut out = String::new();
    for (i, line) in found.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i == 0 && first) || (i > 0 && (blank || !line.is_empty())) {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

/// Tests of minijinja: they read what they are given and make nothing.
macro_rules! metered_tests {
    ($environment:ident: $($name:literal $test:ident $cost:ident),* $(,)?) => {$(
        $environment.add_test(concat!(" ", $name), tests::$test);
        $environment.add_test($name, |state: &mut State, args: Rest<ValueOrKwargs>| -> Result<bool, Error> {
            let args = args.into_values();
            $cost(state, &args)?;
            state.perform_test(concat!(" ", $name), &args)
        });
    )*};
}

fn free(_: &mut State, _: &[Value]) -> Result<(), Error> {
    Ok(())
}

fn whole(state: &mut State, args: &[Value]) -> Result<(), Error> {
    args.iter().try_for_each(|arg| read_value(state, arg).map(drop))
}

fn install_tests(environment: &mut Environment) {
    use ValueKind::{Bool, Iterable, Map, Number, Seq, String, Undefined};
    environment.add_test("number", |v: &Value| matches!(v.kind(), Number | Bool));
    environment
        .add_test("iterable", |v: &Value| matches!(v.kind(), String | Seq | Map | Iterable | Undefined));
    environment
        .add_test("sequence", |v: &Value| matches!(v.kind(), String | Seq | Map | Iterable | Undefined));
    metered_tests!(environment:
        "defined" is_defined free, "undefined" is_undefined free, "none" is_none free, "boolean" is_boolean free, "odd" is_odd free,
        "even" is_even free, "divisibleby" is_divisibleby free, "integer" is_integer free, "float" is_float free,
        "string" is_string free, "mapping" is_mapping free, "true" is_true free,
        "false" is_false free, "sameas" is_sameas free, "lower" is_lower whole, "upper" is_upper whole,
        "eq" is_eq whole, "equalto" is_eq whole, "==" is_eq whole, "ne" is_ne whole, "!=" is_ne whole, "lt" is_lt whole, "lessthan" is_lt whole,
        "<" is_lt whole, "le" is_le whole, "<=" is_le whole, "gt" is_gt whole, "greaterthan" is_gt whole, ">" is_gt whole, "ge" is_ge whole,
        ">=" is_ge whole, "in" is_in whole,
    );
}
