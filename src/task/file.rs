//! Questions from data files.
//!
//! `data` holds training questions. Dev and test questions come from `dev_data` and `test_data`; without such a file they are the part
//! of `data` that [`Split::of_question`] gives to them. Where a split has more questions than asked
//! for, those with the smallest hash are taken, so that the choice is a random one, the same for
//! everybody, and hardly changes when the file grows.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::reference::Reference;
use super::split::rank;
use super::{AnswerKey, Equality, Question, Questions, Reader, Split, records};
use crate::error::{Error, Result};
use crate::run::TaskSection;

/// A line of a file: the question and its reference answer.
struct Record {
    question: Question,
    answer: String,
    place: String,
}

/// Reads the files of `[task]`.
pub fn questions(section: &TaskSection, reader: &Reader) -> Result<(Questions, AnswerKey)> {
    let Some(data) = &section.data else {
        return Err(Error::input(
            section.key("data"),
            format!(
                "missing; the task `{}` needs a file of questions (of `eval`: --data FILE)",
                section.name
            ),
        ));
    };
    let source = Source::new(section, reader)?;
    let mut splits: HashMap<Split, Vec<Record>> = HashMap::new();
    for (path, split) in [(&section.dev_data, Split::Dev), (&section.test_data, Split::Test)] {
        if let Some(path) = path {
            splits.insert(split, source.read(Path::new(path))?);
        }
    }
    for record in source.read(Path::new(data))? {
        let split = match Split::of_question(&record.question.text) {
            Split::Dev if section.dev_data.is_none() => Split::Dev,
            Split::Test if section.test_data.is_none() => Split::Test,
            _ => Split::Train,
        };
        splits.entry(split).or_default().push(record);
    }
    disjoint(&splits)?;

    let mut answers = Vec::new();
    let mut take = |split: Split, wanted: usize, key: &str, file: &Option<String>| -> Result<Vec<Question>> {
        let records = splits.remove(&split).unwrap_or_default();
        if records.len() < wanted {
            let file = file.as_ref().unwrap_or(data);
            return Err(Error::input(
                file,
                format!(
                    "{}.{key} asks for {wanted} questions, but there are only {} for it",
                    section.section,
                    records.len()
                ),
            ));
        }
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.sort_by_key(|&i| rank(&records[i].question.text));
        let mut keep = vec![false; records.len()];
        order[..wanted].iter().for_each(|&i| keep[i] = true);
        let kept = records.into_iter().zip(keep).filter(|(_, keep)| *keep);
        Ok(kept
            .map(|(record, _)| {
                answers.push((record.question.id.clone(), record.answer));
                record.question
            })
            .collect())
    };
    let questions = Questions {
        train: take(Split::Train, section.train_questions, section.train_key(), &None)?,
        dev: take(Split::Dev, section.dev_questions, "dev_questions", &section.dev_data)?,
        test: take(Split::Test, section.test_questions, "test_questions", &section.test_data)?,
    };
    Ok((questions, AnswerKey::new(answers)))
}

/// All questions of one file, in its order.
pub fn all(section: &TaskSection, reader: &Reader, path: &Path) -> Result<(Vec<Question>, AnswerKey)> {
    let records = Source::new(section, reader)?.read(path)?;
    let answers = AnswerKey::new(records.iter().map(|r| (r.question.id.clone(), r.answer.clone())));
    Ok((records.into_iter().map(|r| r.question).collect(), answers))
}

struct Source<'a> {
    section: &'a TaskSection,
    reader: &'a Reader,
    question_field: &'a str,
    /// The first field that is there has the answer; none of them is shown to agents.
    answer_fields: Vec<(&'a str, Reference)>,
    /// Whether the choices are part of the question.
    choices: bool,
}

impl<'a> Source<'a> {
    fn new(section: &'a TaskSection, reader: &'a Reader) -> Result<Self> {
        let is_math = section.name == "math";
        let names = match section.answer_field.as_deref() {
            Some(name) => vec![name],
            None if is_math => vec!["answer", "solution"],
            None => vec!["answer"],
        };
        let answer_fields =
            names.into_iter().map(|n| Ok((n, Reference::of_field(n, section)?))).collect::<Result<_>>()?;
        let question_field =
            section.question_field.as_deref().unwrap_or(if is_math { "problem" } else { "question" });
        Ok(Self { section, reader, question_field, answer_fields, choices: section.name == "mmlu" })
    }

    /// All records of a file or folder. The same question with the same answer counts once.
    fn read(&self, path: &Path) -> Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        let mut by_id: HashMap<String, usize> = HashMap::new();
        let mut filter = Filter::new(self.section);
        for file in records::files(path)? {
            for raw in records::read(&file, self.choices)? {
                if !filter.takes(&raw)? {
                    continue;
                }
                let record = self.record(raw)?;
                match by_id.get(&record.question.id).map(|&j| &records[j]) {
                    None => {
                        by_id.insert(record.question.id.clone(), records.len());
                        records.push(record);
                    }
                    Some(first) if first.answer == record.answer => {}
                    Some(first) => {
                        return Err(Error::input(
                            record.place,
                            format!("the same question as at {}, with another answer", first.place),
                        ));
                    }
                }
            }
        }
        filter.check(path)?;
        if records.is_empty() {
            return Err(Error::file(path, "holds no questions"));
        }
        Ok(records)
    }

    fn record(&self, raw: records::Record) -> Result<Record> {
        let records::Record { mut fields, place } = raw;
        let bad = |problem: String| Error::input(&place, problem);
        let text = |key: &str, value: Value| match value {
            Value::String(s) if !s.trim().is_empty() => Ok(s),
            Value::Number(n) => Ok(n.to_string()),
            Value::String(_) => Err(bad(format!("field `{key}` is empty"))),
            _ => Err(bad(format!("field `{key}` is neither a string nor a number"))),
        };
        let mut question = match fields.shift_remove(self.question_field) {
            Some(value) => text(self.question_field, value)?,
            None => return Err(bad(format!("no field `{}`", self.question_field))),
        };
        let choices = if self.choices { Some(choices(fields.get("choices")).map_err(bad)?) } else { None };
        // Removed whichever is used: a solution is an answer too.
        let found: Vec<(&str, &Reference, Value)> = self
            .answer_fields
            .iter()
            .filter_map(|(key, reference)| Some((*key, reference, fields.shift_remove(*key)?)))
            .collect();
        let Some((key, reference, value)) = found.into_iter().next() else {
            let names: Vec<String> = self.answer_fields.iter().map(|(key, _)| format!("`{key}`")).collect();
            return Err(bad(format!("no field {}", names.join(" or "))));
        };
        let answer = match (&choices, value.as_u64()) {
            (Some(choices), Some(index)) => {
                let letter = u8::try_from(index).ok().filter(|i| usize::from(*i) < choices.len());
                let letter = letter.ok_or_else(|| {
                    bad(format!(
                        "field `{key}`: found {index}, expected an index below {} (the number of choices)",
                        choices.len()
                    ))
                })?;
                char::from(b'A' + letter).to_string()
            }
            _ => text(key, value)?,
        };
        let canonical = reference.find(&answer).and_then(|w| self.reader.canonical(&w)).ok_or_else(|| {
            let shown: String = answer.chars().take(60).collect();
            bad(format!("field `{key}`: no reference answer in {shown:?}"))
        })?;
        question = question.trim().to_string();
        if let Some(choices) = &choices {
            if self.reader.equality() == Equality::Choice && !is_letter_of(&canonical, choices.len()) {
                return Err(bad(format!(
                    "field `{key}`: found `{canonical}`, expected one of A to {}",
                    letter(choices.len() - 1)
                )));
            }
            question = with_choices(&question, choices);
        }
        let mut question = Question::new(question);
        question.fields = fields;
        Ok(Record { question, answer: canonical, place })
    }
}

/// The texts of a record's choices.
fn choices(value: Option<&Value>) -> std::result::Result<Vec<String>, String> {
    let Some(value) = value else { return Err("no field `choices`".into()) };
    let texts: Option<Vec<String>> = value.as_array().and_then(|items| {
        let text = |item: &Value| match item {
            Value::String(s) => Some(s.trim().to_string()),
            Value::Number(n) => Some(n.to_string()),
            _ => None,
        };
        items.iter().map(text).collect()
    });
    match texts {
        Some(texts) if (2..=26).contains(&texts.len()) => Ok(texts),
        Some(texts) => Err(format!("field `choices`: found {}, expected 2 to 26", texts.len())),
        None => Err("field `choices` is no list of strings".into()),
    }
}

/// A question as it is asked: `Which is red?: A) grass, B) blood, C) the sky, D) snow`. The same
/// question with other choices is another one.
fn with_choices(question: &str, choices: &[String]) -> String {
    let listed: Vec<String> =
        choices.iter().enumerate().map(|(i, text)| format!("{}) {text}", letter(i))).collect();
    format!("{question}: {}", listed.join(", "))
}

fn letter(index: usize) -> char {
    char::from(b'A' + u8::try_from(index).unwrap_or(25).min(25))
}

fn is_letter_of(answer: &str, choices: usize) -> bool {
    (0..choices).any(|i| answer.starts_with(letter(i)) && answer.len() == 1)
}

/// `[task] levels` and `subjects`, and what they met.
struct Filter<'a> {
    section: &'a TaskSection,
    subjects: Vec<String>,
    seen_levels: BTreeSet<u64>,
    seen_subjects: BTreeSet<String>,
}

impl<'a> Filter<'a> {
    fn new(section: &'a TaskSection) -> Self {
        let subjects = section.subjects.iter().map(|s| plain(s)).collect();
        Self { section, subjects, seen_levels: BTreeSet::new(), seen_subjects: BTreeSet::new() }
    }

    fn takes(&mut self, record: &records::Record) -> Result<bool> {
        let mut takes = true;
        if !self.section.levels.is_empty() {
            let level = level(record, self.section)?;
            self.seen_levels.extend(level);
            takes &= level.is_some_and(|l| self.section.levels.iter().any(|wanted| u64::from(*wanted) == l));
        }
        if !self.subjects.is_empty() {
            let field = record.fields.get("subject").or_else(|| record.fields.get("type"));
            let Some(subject) = field.and_then(Value::as_str) else {
                let needs = self.section.section;
                let problem =
                    format!("no field `subject` or `type` that is a string; {needs}.subjects needs it");
                return Err(Error::input(&record.place, problem));
            };
            takes &= self.subjects.contains(&plain(subject));
            self.seen_subjects.insert(plain(subject));
        }
        Ok(takes)
    }

    /// A level or subject that nothing has is a mistake.
    fn check(&self, path: &Path) -> Result<()> {
        let missing = |key: &str, wanted: String, there: Vec<String>| {
            let problem = format!(
                "no question has {}.{key} {wanted}; there are {}",
                self.section.section,
                there.join(", ")
            );
            Err(Error::file(path, problem))
        };
        if let Some(level) = self.section.levels.iter().find(|l| !self.seen_levels.contains(&u64::from(**l)))
        {
            let there = self.seen_levels.iter().map(u64::to_string).collect();
            return missing("levels", level.to_string(), there);
        }
        if let Some(subject) = self.subjects.iter().find(|s| !self.seen_subjects.contains(*s)) {
            return missing("subjects", format!("`{subject}`"), self.seen_subjects.iter().cloned().collect());
        }
        Ok(())
    }
}

/// The level of a record: `3`, `"3"` or `"Level 3"`; none for `"Level ?"`, which the published data has.
fn level(record: &records::Record, section: &TaskSection) -> Result<Option<u64>> {
    let wrong = |found: String| {
        Err(Error::input(
            &record.place,
            format!(
                "field `level`: found {found}, expected a number or `Level N`; {}.levels needs it",
                section.section
            ),
        ))
    };
    match record.fields.get("level") {
        Some(Value::Number(n)) => match n.as_u64() {
            Some(level) => Ok(Some(level)),
            None => wrong(n.to_string()),
        },
        Some(Value::String(text)) => {
            let level = text.trim().trim_start_matches("Level").trim();
            match level.parse() {
                Ok(level) => Ok(Some(level)),
                Err(_) if level == "?" => Ok(None),
                Err(_) => wrong(format!("{text:?}")),
            }
        }
        Some(other) => wrong(other.to_string()),
        None => wrong("none".into()),
    }
}

/// A subject's name without case and spelling: `counting_and_probability` is `Counting & Probability`.
fn plain(subject: &str) -> String {
    let text = subject.to_lowercase().replace('_', " ").replace('&', " and ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// No question may be in two splits.
fn disjoint(splits: &HashMap<Split, Vec<Record>>) -> Result<()> {
    let mut seen: HashMap<&str, &Record> = HashMap::new();
    for split in [Split::Train, Split::Dev, Split::Test] {
        for record in splits.get(&split).into_iter().flatten() {
            if let Some(first) = seen.insert(&record.question.id, record) {
                let shown: String = record.question.text.chars().take(60).collect();
                return Err(Error::input(
                    &record.place,
                    format!("the question {shown:?} is also at {}; splits must be disjoint", first.place),
                ));
            }
        }
    }
    Ok(())
}

/// The files a task reads, for a run's manifest.
pub fn files(section: &TaskSection) -> Vec<PathBuf> {
    let named =
        [&section.data, &section.dev_data, &section.test_data].into_iter().flatten().map(PathBuf::from);
    // A folder that can't be read any more is named itself: whoever opens it says why.
    named.flat_map(|path| records::files(&path).unwrap_or_else(|_| vec![path])).collect()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
