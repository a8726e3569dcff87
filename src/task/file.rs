//! Questions from JSON Lines files.
//!
//! `data` holds training questions. Dev and test questions come from `dev_data` and `test_data`; without such a file they are the part
//! of `data` that [`Split::of_question`] gives to them. Where a split has more questions than asked for, those with the smallest hash are
//! taken, so that the choice is a random one, the same for everybody, and hardly changes when the file grows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::split::rank;
use super::{AnswerKey, Extraction, Question, Questions, Reader, Split};
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
        return Err(Error::input("task.data", format!("missing; the task `{}` needs it", section.name)));
    };
    let source = Source { section, reader, reference: reference(section)? };
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
                    "task.{key} asks for {wanted} questions, but there are only {} for it",
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
        train: take(Split::Train, section.train_questions, "train_questions", &None)?,
        dev: take(Split::Dev, section.dev_questions, "dev_questions", &section.dev_data)?,
        test: take(Split::Test, section.test_questions, "test_questions", &section.test_data)?,
    };
    Ok((questions, AnswerKey::new(answers)))
}

/// All questions of one file, in its order.
pub fn all(section: &TaskSection, reader: &Reader, path: &Path) -> Result<(Vec<Question>, AnswerKey)> {
    let records = Source { section, reader, reference: reference(section)? }.read(path)?;
    let answers = AnswerKey::new(records.iter().map(|r| (r.question.id.clone(), r.answer.clone())));
    Ok((records.into_iter().map(|r| r.question).collect(), answers))
}

/// How the reference answer stands in its field.
enum Reference {
    Whole,
    AfterHashes,
    Extracted(Extraction),
}

fn reference(section: &TaskSection) -> Result<Reference> {
    Ok(match section.reference.as_deref().unwrap_or("whole") {
        "whole" => Reference::Whole,
        "after-hashes" => Reference::AfterHashes,
        name => Reference::Extracted(
            Extraction::named(name, section.pattern.as_deref(), "task.reference")
                .map_err(|e| Error::input(e, "(task.reference may also be `whole` or `after-hashes`)"))?,
        ),
    })
}

struct Source<'a> {
    section: &'a TaskSection,
    reader: &'a Reader,
    reference: Reference,
}

impl Source<'_> {
    /// All records of a file. The same question with the same answer counts once.
    fn read(&self, path: &Path) -> Result<Vec<Record>> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let line =
                1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
            Error::input(format!("{}, line {line}", path.display()), "not UTF-8")
        })?;
        let mut records: Vec<Record> = Vec::new();
        let mut by_id: HashMap<String, usize> = HashMap::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let record = self.record(line, format!("{}, line {}", path.display(), i + 1))?;
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
        if records.is_empty() {
            return Err(Error::file(path, "holds no questions"));
        }
        Ok(records)
    }

    fn record(&self, line: &str, place: String) -> Result<Record> {
        let bad = |problem: String| Error::input(&place, problem);
        let mut fields: Map<String, Value> =
            serde_json::from_str(line).map_err(|e| bad(format!("not a JSON object: {e}")))?;
        let mut field = |key: &str| match fields.shift_remove(key) {
            Some(Value::String(s)) if !s.trim().is_empty() => Ok(s),
            Some(Value::Number(n)) => Ok(n.to_string()),
            Some(Value::String(_)) => Err(bad(format!("field `{key}` is empty"))),
            Some(_) => Err(bad(format!("field `{key}` is neither a string nor a number"))),
            None => Err(bad(format!("no field `{key}`"))),
        };
        let (question_key, answer_key) = (&self.section.question_field, &self.section.answer_field);
        let question = field(question_key)?;
        let answer = field(answer_key)?;
        let written = match &self.reference {
            Reference::Whole => Some(answer.clone()),
            Reference::AfterHashes => answer.rsplit_once("####").map(|(_, after)| after.to_string()),
            Reference::Extracted(extraction) => extraction.find(&answer),
        };
        let canonical = written.and_then(|w| self.reader.canonical(&w)).ok_or_else(|| {
            let shown: String = answer.chars().take(60).collect();
            bad(format!("field `{answer_key}`: no reference answer in {shown:?}"))
        })?;
        let mut question = Question::new(question.trim());
        question.fields = fields;
        Ok(Record { question, answer: canonical, place })
    }
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
    [&section.data, &section.dev_data, &section.test_data].into_iter().flatten().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Loaded, load};

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn write(&self, name: &str, text: &str) -> Option<String> {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path.to_str().unwrap().into())
        }
    }

    fn section(data: Option<String>, counts: [usize; 3]) -> TaskSection {
        TaskSection {
            name: "gsm8k".into(),
            data,
            train_questions: counts[0],
            dev_questions: counts[1],
            test_questions: counts[2],
            ..TaskSection::default()
        }
    }

    fn lines(range: std::ops::Range<usize>) -> String {
        range
            .map(|i| format!("{{\"question\": \"What is {i}?\", \"answer\": \"so #### 1,{i:03}\"}}\n"))
            .collect()
    }

    fn error(section: &TaskSection) -> String {
        let e = load(section).err().expect("an error").to_string();
        assert!(!e.contains('\n'), "{e}");
        e
    }

    #[test]
    fn one_file_is_split_by_hash() {
        let files = Files::new();
        let section = section(files.write("all.jsonl", &lines(0..500)), [300, 20, 30]);
        let Loaded { questions, answers, .. } = load(&section).unwrap();
        assert_eq!((questions.train.len(), questions.dev.len(), questions.test.len()), (300, 20, 30));
        assert!(questions.train.iter().all(|q| Split::of_question(&q.text) == Split::Train));
        assert!(questions.dev.iter().all(|q| Split::of_question(&q.text) == Split::Dev));
        let q = &questions.test[0];
        let i: usize = q.text.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert_eq!(answers.reference(&q.id).unwrap(), (1000 + i).to_string());
        // Fewer questions are a subset, in file order, and not simply the first.
        let fewer = TaskSection { train_questions: 20, ..section };
        let few = load(&fewer).unwrap().questions.train;
        let places: Vec<usize> =
            few.iter().map(|q| questions.train.iter().position(|p| p == q).unwrap()).collect();
        assert!(places.is_sorted() && places[19] > 40, "{places:?}");
    }

    #[test]
    fn given_files_are_used_whole() {
        let files = Files::new();
        let mut section = section(files.write("train.jsonl", &lines(0..30)), [30, 10, 5]);
        section.dev_data = files.write("dev.jsonl", &lines(30..40));
        section.test_data = files.write("test.jsonl", &lines(40..45));
        let questions = load(&section).unwrap().questions;
        assert_eq!((questions.train.len(), questions.dev.len(), questions.test.len()), (30, 10, 5));
    }

    #[test]
    fn a_question_in_two_files_is_an_error() {
        let files = Files::new();
        let mut section = section(files.write("train.jsonl", &lines(0..30)), [5, 5, 0]);
        section.dev_data = files.write("dev.jsonl", &lines(20..40));
        let e = error(&section);
        assert!(
            e.contains("dev.jsonl, line 1")
                && e.contains("train.jsonl, line 21")
                && e.contains("What is 20?"),
            "{e}"
        );
    }

    #[test]
    fn bad_files_are_errors() {
        let files = Files::new();
        let good = "{\"question\": \"a?\", \"answer\": \"#### 1\"}";
        for (line, expected) in [
            ("{\"question\": \"b?\"", "not a JSON object"),
            ("[1]", "not a JSON object"),
            (r#"{"question": "b?"}"#, "no field `answer`"),
            (r#"{"answer": "b?"}"#, "no field `question`"),
            (r#"{"question": " ", "answer": "1"}"#, "`question` is empty"),
            (r#"{"question": ["b"], "answer": "1"}"#, "neither a string nor a number"),
            (r#"{"question": "b?", "answer": "so 1"}"#, "no reference answer in \"so 1\""),
            ("{\"question\": \"b?\", \"answer\": \"so #### x\"}", "no reference answer"),
            ("{\"question\": \"a?\", \"answer\": \"so #### 2\"}", "with another answer"),
        ] {
            let section = section(files.write("bad.jsonl", &format!("{good}\n\n{line}\n")), [1, 0, 0]);
            let e = error(&section);
            assert!(e.contains("bad.jsonl, line 3: ") && e.contains(expected), "{e}");
        }
        assert!(
            error(&section(files.write("empty.jsonl", "\n\n"), [1, 0, 0])).contains("holds no questions")
        );
        assert!(
            error(&section(files.write("few.jsonl", &lines(0..20)), [50, 0, 0]))
                .contains("asks for 50 questions")
        );
        assert!(
            error(&section(Some("/no/such/file.jsonl".into()), [1, 0, 0])).contains("/no/such/file.jsonl")
        );
        assert!(error(&section(None, [1, 0, 0])).contains("task.data"));
    }

    #[test]
    fn repeated_lines_count_once() {
        let files = Files::new();
        let text = format!("{}{}", lines(0..3), lines(0..3));
        let mut section = section(files.write("twice.jsonl", &text), [3, 0, 0]);
        section.dev_data = files.write("dev.jsonl", &lines(5..6));
        section.test_data = files.write("test.jsonl", &lines(6..7));
        assert_eq!(load(&section).unwrap().questions.train.len(), 3);
    }

    #[test]
    fn fields_are_named_and_the_answer_is_left_out() {
        let files = Files::new();
        let mut section = section(
            files.write("x.jsonl", "{\"q\": \"Capital of Peru?\", \"a\": \" Lima \", \"hint\": \"L\"}\n"),
            [1, 0, 0],
        );
        section.name = "custom".into();
        (section.question_field, section.answer_field) = ("q".into(), "a".into());
        section.dev_data = files.write("d.jsonl", "{\"q\": \"Capital of Chile?\", \"a\": 7}\n");
        section.test_data =
            section.dev_data.clone().map(|_| files.write("t.jsonl", "{\"q\":\"x\",\"a\":\"y\"}").unwrap());
        let Loaded { questions, answers, .. } = load(&section).unwrap();
        let q = &questions.train[0];
        assert_eq!(q.fields.keys().collect::<Vec<_>>(), ["hint"]);
        assert_eq!(answers.reference(&q.id), Some("Lima"));
        assert!(answers.is_right(&q.id, Some("Lima")));
        assert!(!answers.is_right(&q.id, Some("lima")) && !answers.is_right(&q.id, None));
    }
}
