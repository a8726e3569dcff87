//! `grade`: what a task reads from given answers, and whether they are the same. Needs no model.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::records::{note, shown};
use crate::error::{Error, Result};
use crate::experiment::source;
use crate::measure::wilson;
use crate::recipe::Recipes;
use crate::run::Source;
use crate::task::{BUILT_IN, Grader, Reading, Verdict};

/// Fields of a record.
const FIELDS: [&str; 6] = ["id", "response", "reference", "solution", "answers", "choices"];

/// Grades records by one task.
pub struct Grading {
    grader: Grader,
    /// Records that were graded.
    pub records: usize,
    /// Those whose two answers are the same.
    pub equal: usize,
    /// Records in which nothing was read on either side.
    pub unread: [usize; 2],
    /// Fields that say nothing to the grader, and in how many records they stand.
    pub ignored: Map<String, Value>,
}

impl Grading {
    /// By a task's name or configuration file, and settings over it.
    pub fn open(task: &str, sets: &[String]) -> Result<Self> {
        let named = BUILT_IN.contains(&task) || task == "custom";
        let source = match named {
            true => Source {
                name: format!("task {task}"),
                text: format!("[task]\nname = {}\n", toml::Value::String(task.into())),
                folder: None,
            },
            false if Path::new(task).is_file() => source(Some(task))?,
            false => {
                return Err(Error::Usage(format!(
                    "--task {task}: expected one of {}, custom, or a configuration file",
                    BUILT_IN.join(", ")
                )));
            }
        };
        let plan = Recipes::default().load(&source, sets)?;
        let grader = Grader::new(&plan.config.task)?;
        Ok(Self { grader, records: 0, equal: 0, unread: [0; 2], ignored: Map::new() })
    }

    /// Grades a record; `place` is what to call it.
    pub fn grade(&mut self, record: Value, place: &str) -> Result<Value> {
        let Value::Object(fields) = record else {
            return Err(Error::input(place, format!("found {}, expected an object", shown(&record))));
        };
        let verdict = self.verdict(&fields, place)?;
        self.records += 1;
        self.equal += usize::from(verdict.equal());
        for (side, read) in verdict.read.iter().enumerate() {
            self.unread[side] += usize::from(read.as_ref().is_none_or(|r| r.answer.is_none()));
        }
        for field in fields.keys().filter(|f| !FIELDS.contains(&f.as_str())) {
            note(&mut self.ignored, field);
        }
        let of = |part: &dyn Fn(&Reading) -> Value| -> Vec<Value> {
            verdict.read.iter().map(|r| r.as_ref().map_or(Value::Null, part)).collect()
        };
        Ok(json!({
            "id": fields.get("id").cloned().unwrap_or(Value::Null),
            "read": of(&|r| json!(r.answer)),
            "written": of(&|r| json!(r.written)),
            "rules": of(&|r| json!(r.rule)),
            "equality": verdict.equality.name(),
            "equal": verdict.equal(),
        }))
    }

    fn verdict(&self, fields: &Map<String, Value>, place: &str) -> Result<Verdict> {
        let at = |field: &str| format!("{place}: {field}");
        let text = |field: &str, value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            // Of any other number, digits may have been lost on the way.
            Value::Number(n) if !n.is_f64() => Ok(n.to_string()),
            other => Err(Error::input(
                at(field),
                format!("found {}, expected a string or a whole number", shown(other)),
            )),
        };
        let choices = match fields.get("choices") {
            None | Some(Value::Null) => 26,
            Some(Value::Array(list)) => list.len(),
            Some(number) => number.as_u64().map_or(0, |n| usize::try_from(n).unwrap_or(0)),
        };
        if !(2..=26).contains(&choices) {
            let found = shown(&fields["choices"]);
            let problem = format!("found {found}, expected 2 to 26 of them or their number");
            return Err(Error::input(at("choices"), problem));
        }
        let given: Vec<&str> =
            FIELDS[1..5].iter().copied().filter(|f| fields.get(*f).is_some_and(|v| !v.is_null())).collect();
        match given[..] {
            ["answers"] => match fields["answers"].as_array().map(Vec::as_slice) {
                Some([a, b]) => Ok(self.grader.answers(&text("answers[0]", a)?, &text("answers[1]", b)?)),
                _ => Err(Error::input(
                    at("answers"),
                    format!("found {}, expected a list of two", shown(&fields["answers"])),
                )),
            },
            ["response", reference] if reference != "answers" => {
                let response = text("response", &fields["response"])?;
                let field = text(reference, &fields[reference])?;
                Ok(match reference {
                    "solution" => self.grader.solution(&response, &field, choices),
                    _ => self.grader.response(&response, &field, choices),
                })
            }
            _ => {
                let found = match given.is_empty() {
                    true => "none of them".to_string(),
                    false => format!("`{}`", given.join("` and `")),
                };
                Err(Error::input(
                    place,
                    format!(
                        "found {found}, expected `response` with `reference` or `solution`, or `answers`"
                    ),
                ))
            }
        }
    }

    /// Grades the records of a request; the answer, and fields that were not read. `place` is what to call the list.
    pub fn all(mut self, records: Vec<Value>, place: &str) -> Result<(Value, Map<String, Value>)> {
        if records.is_empty() {
            return Err(Error::input(place, "found none, expected at least one"));
        }
        let graded: Vec<Value> = records
            .into_iter()
            .enumerate()
            .map(|(i, record)| self.grade(record, &format!("{place}[{i}]")))
            .collect::<Result<_>>()?;
        let (low, high) = wilson(self.equal, self.records);
        let answer = json!({
            "records": graded, "equal": self.equal, "share": self.equal as f64 / self.records as f64,
            "interval": [low, high], "without_answer": self.unread[0], "without_reference": self.unread[1],
        });
        Ok((answer, self.ignored))
    }
}
