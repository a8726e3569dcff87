//! A line of `colloquy session`: from its bytes to a request whose every field is checked, before
//! the model is asked for anything.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::generate::{self, Wishes};
use super::grade::Grading;
use super::records::{Reader, Record, shown};
use super::train::{self, Settings};
use crate::adapter::AdapterOrigin;
use crate::engine::{SamplingParams, draw_key};
use crate::error::{Error, Result};
use crate::files::json::parse_with_ids;
use crate::files::without_mark;
use crate::recipe;

/// Most samples of one request: all are under way at once.
const MAX_SAMPLES: u64 = 100_000;

/// A request but for its `id`, as it is written.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Written {
    Generate {
        records: Vec<Value>,
        #[serde(default)]
        prompt_tokens: bool,
    },
    Score {
        records: Vec<Value>,
    },
    Train {
        adapters: Map<String, Value>,
    },
    Grade {
        task: String,
        records: Vec<Value>,
        #[serde(default)]
        set: Vec<String>,
    },
    Load {
        adapter: String,
        source: String,
    },
    Clone {
        adapter: String,
        to: String,
    },
    Reset {
        adapter: String,
    },
    Save {
        adapter: String,
        output: PathBuf,
        #[serde(default)]
        force: bool,
    },
    Drop {
        adapter: String,
    },
    List {},
}

/// What a line asks for. Whether the adapters it names are there is for the session to say.
pub enum Request {
    /// Samples of records.
    Generate {
        /// The records and what each asks for.
        records: Vec<(Record, Wishes)>,
        /// Whether the answer has the prompts' tokens too.
        prompt_tokens: bool,
    },
    /// Log-probabilities of records.
    Score {
        /// The records.
        records: Vec<Record>,
    },
    /// Training of adapters, together.
    Train {
        /// Each one's name and what it is trained on. What is wrong there counts once the name is
        /// known to be an adapter's.
        adapters: Vec<(String, Result<Training>)>,
    },
    /// Given answers, graded.
    Grade {
        /// What was read of each, and how many are equal.
        graded: Value,
        /// Fields that were not read, and in how many records each is.
        ignored: Map<String, Value>,
    },
    /// A new adapter.
    Load {
        /// Its name.
        adapter: String,
        /// Where its numbers come from.
        source: AdapterOrigin,
    },
    /// A copy of an adapter.
    Clone {
        /// Of this one.
        adapter: String,
        /// Its name.
        to: String,
    },
    /// An adapter as it was when it was loaded.
    Reset {
        /// Its name.
        adapter: String,
    },
    /// A PEFT folder of an adapter.
    Save {
        /// Its name.
        adapter: String,
        /// The folder.
        output: PathBuf,
        /// Whether one that is there is replaced.
        force: bool,
    },
    /// Forget an adapter.
    Drop {
        /// Its name.
        adapter: String,
    },
    /// The adapters' names.
    List,
}

/// An adapter's training.
pub struct Training {
    /// The data.
    pub records: Vec<Record>,
    /// The settings, and the number of steps if that is set.
    pub settings: (recipe::Training, Option<usize>),
    /// Decides the order of the data.
    pub key: u64,
    /// Whether AdamW goes on with its moments.
    pub keep_moments: bool,
}

/// The `id` of a line and its request. `place` is what to call the line in errors; `seed` counts
/// where a record or a training gives none.
pub fn read(line: &[u8], place: &str, seed: u64) -> (Value, Result<Request>) {
    let text = match std::str::from_utf8(without_mark(line)) {
        Ok(text) => text,
        Err(e) => return (Value::Null, Err(Error::input(place, format!("not UTF-8: {e} of the line")))),
    };
    let mut fields = match parse_with_ids(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => {
            return (
                Value::Null,
                Err(Error::input(place, format!("found {}, expected an object", shown(&other)))),
            );
        }
        Err(e) => return (Value::Null, Err(Error::input(place, format!("not JSON: {e} of the line")))),
    };
    let id = fields.shift_remove("id").unwrap_or(Value::Null);
    if let Some(op) = fields.get("op").filter(|op| !op.is_string()) {
        let problem = format!("found {}, expected a name such as `score`", shown(op));
        return (id, Err(Error::input(format!("{place}: op"), problem)));
    }
    let request = serde_json::from_value::<Written>(Value::Object(fields))
        .map_err(|e| Error::input(place, e))
        .and_then(|written| check(written, place, seed));
    (id, request)
}

fn check(written: Written, place: &str, seed: u64) -> Result<Request> {
    let at = format!("{place}: records");
    Ok(match written {
        Written::Generate { records, prompt_tokens } => {
            let defaults =
                SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens: 256 };
            let wished = |record: Record| {
                let wishes = generate::wishes(&record, defaults, seed)?;
                Ok((record, wishes))
            };
            let records = read_records(records, Reader::Generate, &at)?;
            let records: Vec<(Record, Wishes)> = records.into_iter().map(wished).collect::<Result<_>>()?;
            let samples: u64 = records.iter().map(|(_, wishes)| u64::from(wishes.n)).sum();
            if samples > MAX_SAMPLES {
                let problem =
                    format!("found {samples} samples, expected at most {MAX_SAMPLES} in one request");
                return Err(Error::input(at, problem));
            }
            Request::Generate { records, prompt_tokens }
        }
        Written::Score { records } => Request::Score { records: read_records(records, Reader::Score, &at)? },
        Written::Train { adapters } => {
            let of = |(name, value): (String, Value)| {
                let training = training(&name, value, place, seed);
                (name, training)
            };
            Request::Train { adapters: adapters.into_iter().map(of).collect() }
        }
        Written::Grade { task, records, set } => {
            let grading = Grading::open(&task, &set).map_err(|e| Error::input(place, e))?;
            let (graded, ignored) = grading.all(records, &at)?;
            Request::Grade { graded, ignored }
        }
        Written::Load { adapter, source } => {
            let source = AdapterOrigin::parse(&source).map_err(|e| Error::input(place, e))?;
            Request::Load { adapter, source }
        }
        Written::Clone { adapter, to } => Request::Clone { adapter, to },
        Written::Reset { adapter } => Request::Reset { adapter },
        Written::Save { adapter, output, force } => Request::Save { adapter, output, force },
        Written::Drop { adapter } => Request::Drop { adapter },
        Written::List {} => Request::List,
    })
}

fn training(adapter: &str, value: Value, place: &str, seed: u64) -> Result<Training> {
    let place = format!("{place}: adapters.{adapter}");
    let Value::Object(mut fields) = value else {
        return Err(Error::input(place, format!("found {}, expected an object", shown(&value))));
    };
    let Some(Value::Array(records)) = fields.shift_remove("records") else {
        return Err(Error::input(format!("{place}.records"), "found none, expected a list of records"));
    };
    let key = match fields.shift_remove("key") {
        None => draw_key(&[&seed.to_le_bytes(), b"train", adapter.as_bytes()]),
        Some(key) => key.as_u64().ok_or_else(|| {
            Error::input(format!("{place}.key"), format!("found {}, expected a whole number", shown(&key)))
        })?,
    };
    let keep_moments = match fields.shift_remove("keep_moments") {
        None => false,
        Some(keep) => keep.as_bool().ok_or_else(|| {
            let problem = format!("found {}, expected true or false", shown(&keep));
            Error::input(format!("{place}.keep_moments"), problem)
        })?,
    };
    let settings =
        Settings::from_json(&fields, &place)?.of(adapter, &[adapter]).map_err(|e| Error::input(&place, e))?;
    let records = read_records(records, Reader::Train, &format!("{place}.records"))?;
    train::check_length(records.len(), &settings).map_err(|problem| Error::input(&place, problem))?;
    Ok(Training { records, settings, key, keep_moments })
}

/// Records of a request, at least one.
fn read_records(records: Vec<Value>, reader: Reader, place: &str) -> Result<Vec<Record>> {
    if records.is_empty() {
        return Err(Error::input(place, "found none, expected at least one"));
    }
    let record = |(i, value)| Record::from_value(value, format!("{place}[{i}]"), reader);
    records.into_iter().enumerate().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        read(line.as_bytes(), "stdin:1", 0).1.err().map_or(String::new(), |e| e.to_string())
    }

    #[test]
    fn work_that_is_made_before_it_begins_is_bounded() {
        let generate = |n: u64| format!(r#"{{"op":"generate","records":[{{"text":"a","n":{n}}}]}}"#);
        assert_eq!(error(&generate(10_000)), "");
        assert!(
            error(&generate(4_294_967_295))
                .contains("records[0]: n: found 4294967295, expected at most 10000")
        );
        let many = |count: usize| {
            let records = vec![r#"{"text":"a","n":10000}"#; count].join(",");
            format!(r#"{{"op":"generate","records":[{records}]}}"#)
        };
        assert_eq!(error(&many(10)), "");
        assert!(error(&many(11)).contains("records: found 110000 samples, expected at most 100000 in one"));
        let train = |field: &str| {
            format!(r#"{{"op":"train","adapters":{{"a":{{"records":[{{"text":"a"}}],{field}}}}}}}"#)
        };
        let of_training = |field: &str| match read(train(field).as_bytes(), "stdin:1", 0).1 {
            Ok(Request::Train { adapters }) => {
                adapters.into_iter().next().unwrap().1.err().map_or(String::new(), |e| e.to_string())
            }
            _ => panic!("a training"),
        };
        assert_eq!(of_training("\"max_steps\":1000000"), "");
        for field in ["max_steps", "num_epochs"] {
            let e = of_training(&format!("\"{field}\":18446744073709551615"));
            assert!(
                e.starts_with(&format!("stdin:1: adapters.a: {field}: found 18446744073709551615")),
                "{e}"
            );
        }
    }

    #[test]
    fn an_id_is_given_back_with_what_is_wrong() {
        let (id, request) = read(br#"{"id":[1],"op":"sing"}"#, "stdin:1", 0);
        assert_eq!(id, serde_json::json!([1]));
        assert!(request.is_err_and(|e| e.to_string().contains("unknown variant `sing`")));
    }
}
