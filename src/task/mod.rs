//! Tasks: questions and where they come from, how answers are read, and the key that grades them.
//!
//! A [`Question`] carries no answer. The reference answers live in an [`AnswerKey`], which loading
//! a task returns apart and which only measurement holds: training code has no value from which it
//! could learn one.

mod after;
mod answer;
mod arithmetic;
mod boxed;
mod choice;
mod file;
mod grade;
mod labels;
mod math;
mod number;
mod records;
mod reference;
mod specimen;
mod split;

use std::collections::HashMap;

use serde_json::{Map, Value};

pub use answer::{Equality, Extraction, Reader, Reading};
pub use arithmetic::Arithmetic;
pub use grade::{Grader, Verdict};
pub use labels::Labels;
pub use split::{Split, content_hash, question_id};

use crate::engine::draw_key;
use crate::error::{Error, Result};
use crate::measure::Chance;
use crate::prompt::{Prompts, Subject};
use crate::run::TaskSection;

/// Names of the built-in tasks; `custom` is a task with every key given.
pub const BUILT_IN: [&str; 4] = ["arithmetic", "gsm8k", "math", "mmlu"];

/// A question, without its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Hash of its text.
    pub id: String,
    /// Its text: what makes it the question it is.
    pub text: String,
    /// The record's other fields, the answer left out; templates may show them.
    pub fields: Map<String, Value>,
}

impl Question {
    /// A question with this text and no other fields.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { id: question_id(&text), text, fields: Map::new() }
    }

    /// As templates see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject { question: &self.text, fields: &self.fields }
    }
}

/// How a task asks and how it reads answers.
pub struct Task {
    /// Its name in the configuration.
    pub name: String,
    /// Its prompt templates.
    pub prompts: Prompts,
    /// Its extraction and equality.
    pub reader: Reader,
}

impl Task {
    /// The answer in a response to a question, in canonical form. Of a question with a list
    /// `choices` only these are answers.
    pub fn read(&self, question: &Question, response: &str) -> Option<String> {
        let choices = question.fields.get("choices").and_then(Value::as_array).map_or(26, Vec::len);
        self.reader.read_among(response, choices)
    }
}

/// The questions of a run, disjoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Questions {
    /// Debated and learned from.
    pub train: Vec<Question>,
    /// For measuring, as often as one likes.
    pub dev: Vec<Question>,
    /// For measuring at the end.
    pub test: Vec<Question>,
}

/// Reference answers by question, in canonical form. Grades; never shown to a recipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerKey(HashMap<String, String>);

impl AnswerKey {
    /// From (question id, canonical answer) pairs.
    pub fn new(answers: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(answers.into_iter().collect())
    }

    /// The reference answer of a question, if the key has one.
    pub fn reference(&self, id: &str) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }

    /// Whether a canonical answer is right. No answer is wrong.
    pub fn is_right(&self, id: &str, answer: Option<&str>) -> bool {
        answer.is_some() && self.reference(id) == answer
    }
}

impl Questions {
    /// Those of one seed: `count` training questions drawn from all of them, in their order. Dev
    /// and test are the same for every seed.
    pub fn of_seed(&self, count: usize, seed: u64) -> Self {
        if self.train.len() <= count {
            return self.clone();
        }
        let key = draw_key(&[&seed.to_le_bytes(), b"training subset"]);
        let train = Chance::new(key).choose(&self.train, count);
        Self { train, dev: self.dev.clone(), test: self.test.clone() }
    }
}

/// A loaded task.
pub struct Loaded {
    /// How to ask and to read.
    pub task: Task,
    /// The questions.
    pub questions: Questions,
    /// The answers, apart.
    pub answers: AnswerKey,
}

/// `[task]` with the choices of the built-in task it names where it makes none of its own.
pub fn resolve(section: &TaskSection) -> Result<TaskSection> {
    let mut section = section.clone();
    let (prompts, extraction, reference, equality) = match section.name.as_str() {
        "arithmetic" => ("arithmetic", "last-number", Some("whole"), "number"),
        "gsm8k" => ("gsm8k", "boxed, last-number", Some("after-hashes"), "number"),
        // By the field that has it: `answer` whole, `solution` in its last box.
        "math" => ("math", "boxed", None, "math"),
        "mmlu" => ("mmlu", "choice", Some("whole"), "choice"),
        "custom" => ("math", "boxed", Some("whole"), "exact"),
        other => {
            return Err(Error::input(
                section.key("name"),
                format!("`{other}` is none of {}, custom", BUILT_IN.join(", ")),
            ));
        }
    };
    section.prompts.get_or_insert_with(|| prompts.into());
    section.extraction.get_or_insert_with(|| extraction.into());
    section.reference = section.reference.or(reference.map(Into::into));
    section.equality.get_or_insert_with(|| equality.into());
    Ok(section)
}

/// Prompts, extraction and equality, without questions (for questions asked by hand).
pub fn open(section: &TaskSection) -> Result<Task> {
    let section = resolve(section)?;
    let prompts = Prompts::load(section.prompts.as_deref().unwrap_or("math"))?;
    Ok(Task { name: section.name.clone(), prompts, reader: Reader::new(&section)? })
}

/// Loads a task with its questions and answers, those of the whole `train_pool` if there is one:
/// the splits are disjoint and as large as asked, or it is an error.
pub fn load(section: &TaskSection) -> Result<Loaded> {
    let mut section = resolve(section)?;
    section.train_questions = section.train_questions.max(section.train_pool);
    let task = open(&section)?;
    let loaded = if section.name == "arithmetic" && section.data.is_none() {
        Arithmetic::new(&section)?.questions(&section)
    } else {
        file::questions(&section, &task.reader)
    };
    let (questions, answers) = loaded?;
    Ok(Loaded { task, questions, answers })
}

/// All questions of one file with their answers, whatever split they belong to.
pub fn load_file(section: &TaskSection, path: &std::path::Path) -> Result<(Vec<Question>, AnswerKey)> {
    let section = resolve(section)?;
    let task = open(&section)?;
    file::all(&section, &task.reader, path)
}

/// The files a task reads, for a run's manifest.
pub fn data_files(section: &TaskSection) -> Vec<std::path::PathBuf> {
    file::files(section)
}
