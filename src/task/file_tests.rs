//! Data files: published forms, splits, filters, and what is wrong with a file.

use super::*;
use crate::task::{Loaded, data_files, load};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn write(&self, name: &str, text: &str) -> Option<String> {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
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
    range.map(|i| format!("{{\"question\": \"What is {i}?\", \"answer\": \"so #### 1,{i:03}\"}}\n")).collect()
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
        e.contains("dev.jsonl, line 1") && e.contains("train.jsonl, line 21") && e.contains("What is 20?"),
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
        (r#"{"question": "b?", "answer": true}"#, "`answer` is neither a string nor a number"),
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
    assert!(error(&section(files.write("empty.jsonl", "\n\n"), [1, 0, 0])).contains("holds no questions"));
    assert!(
        error(&section(files.write("few.jsonl", &lines(0..20)), [50, 0, 0]))
            .contains("asks for 50 questions")
    );
    assert!(error(&section(Some("/no/such/file.jsonl".into()), [1, 0, 0])).contains("/no/such/file.jsonl"));
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
    (section.question_field, section.answer_field) = (Some("q".into()), Some("a".into()));
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

/// A section for these files: all of them training questions, but for two files of one question each for dev and test.
fn whole(name: &str, files: &Files, data: Option<String>, count: usize, other: &str) -> TaskSection {
    let mut section = TaskSection { name: name.into(), ..section(data, [count, 0, 0]) };
    section.dev_data = files.write("other/dev.jsonl", other);
    section.test_data = files.write("other/test.jsonl", &other.replace("other", "another"));
    section
}

const MATH_DEV: &str = r#"{"problem": "other?", "answer": "1", "level": 1, "type": "Algebra"}"#;
const MMLU_DEV: &str = r#"{"question": "other?", "choices": ["a", "b"], "answer": 0, "subject": "x y"}"#;

fn problem(text: &str, level: &str, kind: &str, boxed: &str) -> String {
    serde_json::json!({"problem": text, "level": level, "type": kind, "solution": format!("We find ${boxed}$.")}).to_string()
}

#[test]
fn math_is_read_as_published() {
    let files = Files::new();
    files.write(
        "MATH/train/algebra/1.json",
        &problem("A?", "Level 3", "Algebra", r"1 or \boxed{\frac{1}{2}}"),
    );
    files.write("MATH/train/algebra/2.json", &problem("B?", "Level 5", "Algebra", r"\boxed{\text{even}}"));
    files.write("MATH/train/geometry/1.json", &problem("C?", "Level ?", "Geometry", r"\fbox{3}"));
    files.write(
        "MATH/train/counting/1.json",
        &problem("D?", "Level 1", "Counting & Probability", r"\boxed 5"),
    );
    let folder = Some(files.0.path().join("MATH/train").to_str().unwrap().to_string());
    let mut section = whole("math", &files, folder, 4, MATH_DEV);
    let Loaded { task, questions, answers } = load(&section).unwrap();
    let references: Vec<_> =
        questions.train.iter().map(|q| (q.text.as_str(), answers.reference(&q.id).unwrap())).collect();
    assert_eq!(references, [("A?", "1/2"), ("B?", "even"), ("D?", "5"), ("C?", "3")]);
    let q = &questions.train[0];
    assert_eq!(q.fields.keys().collect::<Vec<_>>(), ["level", "type"], "no solution, no answer");
    assert!(answers.is_right(&q.id, task.read(q, r"so \boxed{0.5}").as_deref()));
    assert!(!answers.is_right(&q.id, task.read(q, r"\boxed{0.5} or \boxed{2}").as_deref()));
    assert_eq!(task.read(q, "0.5"), None);
    assert_eq!(data_files(&section).len(), 6, "each file of a folder is named");

    (section.levels, section.train_questions) = (vec![1, 3], 2);
    // The filter holds for all splits.
    section.dev_data = files
        .write("dev.jsonl", &format!("{MATH_DEV}\n{}", problem("E?", "Level 3", "Algebra", r"\boxed{1}")));
    section.test_data = files.write("test.jsonl", &problem("F?", "3", "Algebra", r"\boxed{1}"));
    assert!(error(&section).contains("test.jsonl: no question has task.levels 1; there are 3"));
    let levels = ["1", "Level 3"].map(|l| problem(&format!("G{l}?"), l, "Algebra", r"\boxed{1}"));
    section.test_data = files.write("test.jsonl", &levels.join("\n"));
    let texts: String = load(&section).unwrap().questions.train.into_iter().map(|q| q.text).collect();
    assert_eq!(texts, "A?D?");
}

#[test]
fn math_500_and_answers_alone_are_read_too() {
    let files = Files::new();
    let lines = [
        r#"{"problem": "A?", "solution": "\\boxed{7}", "answer": "7", "subject": "Algebra", "level": 2, "unique_id": "t/1"}"#,
        r#"{"problem": "B?", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "subject": "Precalculus", "level": 2}"#,
    ];
    let data = files.write("math500.jsonl", &lines.join("\n"));
    let mut section = whole("math", &files, data, 2, MATH_DEV);
    let Loaded { questions, answers, .. } = load(&section).unwrap();
    assert_eq!(answers.reference(&questions.train[1].id), Some("(3,pi/2)"));
    assert!(
        questions
            .train
            .iter()
            .all(|q| !q.fields.contains_key("solution") && !q.fields.contains_key("answer"))
    );
    section.answer_field = Some("solution".into());
    assert!(error(&section).contains("no field `solution`"));
    let array = files.write("array.json", &format!("[{}]", lines.join(",")));
    let section = whole("math", &files, array, 2, MATH_DEV);
    assert_eq!(load(&section).unwrap().questions.train.len(), 2);
}

#[test]
fn filters_choose_and_say_what_they_miss() {
    let files = Files::new();
    let all: Vec<String> = [
        ("A?", "Level 1", "Algebra"),
        ("B?", "Level 2", "Number Theory"),
        ("C?", "Level 2", "Counting & Probability"),
    ]
    .iter()
    .map(|(text, level, kind)| problem(text, level, kind, r"\boxed{1}"))
    .collect();
    let data = files.write("data.jsonl", &all.join("\n"));
    let section = TaskSection { name: "math".into(), ..section(data.clone(), [0, 0, 0]) };
    let chosen = |levels: &[u32], subjects: &[&str]| {
        let mut section = section.clone();
        (section.levels, section.subjects) =
            (levels.to_vec(), subjects.iter().map(|s| s.to_string()).collect());
        let path = std::path::PathBuf::from(data.as_ref().unwrap());
        let texts = |(q, _): (Vec<Question>, AnswerKey)| q.into_iter().map(|q| q.text).collect::<String>();
        crate::task::load_file(&section, &path).map(texts).map_err(|e| e.to_string())
    };
    assert_eq!(chosen(&[], &[]).unwrap(), "A?B?C?");
    assert_eq!(chosen(&[2], &[]).unwrap(), "B?C?");
    assert_eq!(chosen(&[], &["algebra", "counting_and_probability"]).unwrap(), "A?C?");
    assert_eq!(chosen(&[2], &["Number Theory"]).unwrap(), "B?");
    let e = chosen(&[4], &[]).unwrap_err();
    assert!(e.contains("data.jsonl: no question has task.levels 4; there are 1, 2"), "{e}");
    let e = chosen(&[], &["Algebr"]).unwrap_err();
    assert!(
        e.contains("task.subjects `algebr`; there are algebra, counting and probability, number theory"),
        "{e}"
    );
    assert!(chosen(&[1], &["Number Theory"]).unwrap_err().contains("holds no questions"));
    for (line, expected) in [
        (r#"{"problem": "x", "answer": "1", "type": "A"}"#, "field `level`: found none"),
        (r#"{"problem": "x", "answer": "1", "level": "hard", "type": "A"}"#, "found \"hard\""),
        (r#"{"problem": "x", "answer": "1", "level": 1.5, "type": "A"}"#, "found 1.5"),
        (r#"{"problem": "x", "answer": "1", "level": 1}"#, "no field `subject` or `type`"),
    ] {
        let mut section = self::section(files.write("bad.jsonl", line), [1, 0, 0]);
        (section.name, section.levels, section.subjects) = ("math".into(), vec![1], vec!["A".into()]);
        let e = error(&section);
        assert!(e.contains("bad.jsonl, line 1: ") && e.contains(expected), "{e}");
    }
}

#[test]
fn mmlu_is_read_as_published() {
    let files = Files::new();
    let csv = "\"Which is red, \"\"really\"\"?\",grass,blood,\"the\nsky\",snow,B\nWhich is red?,a,b,c,d,D\n";
    files.write("test/high_school_art_test.csv", csv);
    files.write("test/law_test.csv", "Which is red?,a,b,c,e,A\n");
    let folder = Some(files.0.path().join("test").to_str().unwrap().to_string());
    let mut section = whole("mmlu", &files, folder, 3, MMLU_DEV);
    let Loaded { task, questions, answers } = load(&section).unwrap();
    let q = &questions.train[0];
    assert_eq!(q.text, "Which is red, \"really\"?: A) grass, B) blood, C) the\nsky, D) snow");
    assert_eq!(q.fields["subject"], "high_school_art");
    assert!(!q.fields.contains_key("answer"));
    let right: Vec<_> = questions.train.iter().map(|q| answers.reference(&q.id).unwrap()).collect();
    assert_eq!(right, ["B", "D", "A"], "the same words with other choices are another question");
    assert!(answers.is_right(&q.id, task.read(q, "(A) is green, so (b)").as_deref()));
    assert_eq!(task.read(q, "I say (B), see (e)").as_deref(), Some("B"));
    assert_eq!(task.read(q, "(F)"), None);
    let prompt = task.prompts.first(q.subject()).unwrap();
    assert!(prompt.contains("B) blood") && prompt.contains("in the form (X)"), "{prompt}");
    section.subjects = vec!["High School Art".into()];
    section.dev_data = None;
    section.test_data = None;
    assert!(error(&section).contains("task.train_questions asks for 3"));
}

#[test]
fn mmlu_as_json_lines_and_what_is_wrong_with_it() {
    let files = Files::new();
    let lines = [
        r#"{"question": "A?", "choices": ["x", "y", "z"], "answer": 2, "subject": "s"}"#,
        r#"{"question": "B?", "choices": ["x", 7], "answer": "b"}"#,
    ];
    let section = whole("mmlu", &files, files.write("all.jsonl", &lines.join("\n")), 2, MMLU_DEV);
    let Loaded { task, questions, answers } = load(&section).unwrap();
    let right: Vec<_> = questions.train.iter().map(|q| answers.reference(&q.id).unwrap()).collect();
    assert_eq!(right, ["C", "B"]);
    assert_eq!(task.read(&questions.train[1], "(C)"), None, "there are two choices");
    for (line, expected) in [
        (r#"{"question": "b?", "answer": "A"}"#, "no field `choices`"),
        (r#"{"question": "b?", "choices": "x, y", "answer": "A"}"#, "`choices` is no list of strings"),
        (r#"{"question": "b?", "choices": ["x"], "answer": "A"}"#, "`choices`: found 1, expected 2 to 26"),
        (r#"{"question": "b?", "choices": ["x", "y"], "answer": "C"}"#, "found `C`, expected one of A to B"),
        (r#"{"question": "b?", "choices": ["x", "y"], "answer": 2}"#, "found 2, expected an index below 2"),
        (r#"{"question": "b?", "choices": ["x", "y"], "answer": "x y"}"#, "no reference answer"),
        (r#"{"question": "b?", "choices": ["x", "y"]}"#, "no field `answer`"),
    ] {
        let mut section = self::section(files.write("bad.jsonl", line), [1, 0, 0]);
        section.name = "mmlu".into();
        let e = error(&section);
        assert!(e.contains("bad.jsonl, line 1: ") && e.contains(expected), "{e}");
    }
    let mut section = self::section(files.write("bad.csv", "q,a,b,c,B\n"), [1, 0, 0]);
    section.name = "mmlu".into();
    assert!(error(&section).contains("bad.csv, line 1: 5 columns, expected 6"));
    section.name = "math".into();
    assert!(error(&section).contains("CSV is read by the task `mmlu` only"));
}

#[test]
fn a_custom_task_has_the_same_errors() {
    let files = Files::new();
    let good = r#"{"q": "a?", "a": "1"}"#;
    for (line, expected) in [
        (r#"{"q": "b?"}"#, "no field `a`"),
        (r#"{"a": "1"}"#, "no field `q`"),
        (r#"{"q": 5, "a": ["1"]}"#, "`a` is neither a string nor a number"),
        (r#"{"q": {}, "a": "1"}"#, "`q` is neither a string nor a number"),
        (r#"{"q": "a?", "a": "2"}"#, "the same question as at"),
    ] {
        let mut section = section(files.write("bad.jsonl", &format!("{good}\n{line}\n")), [1, 0, 0]);
        (section.name, section.question_field, section.answer_field) =
            ("custom".into(), Some("q".into()), Some("a".into()));
        let e = error(&section);
        assert!(e.contains("bad.jsonl, line 2: ") && e.contains(expected), "{e}");
    }
    let mut section = section(files.write("good.jsonl", good), [1, 0, 0]);
    (section.name, section.question_field, section.answer_field) =
        ("custom".into(), Some("q".into()), Some("a".into()));
    section.dev_data = files.write("dev.jsonl", r#"{"q": " a? ", "a": "1"}"#);
    assert!(error(&section).contains("splits must be disjoint"));
    section.dev_data = files.write("dev.jsonl", r#"{"q": "b?", "a": "1"}"#);
    section.test_data = files.write("test.jsonl", r#"{"q": "c?", "a": "1"}"#);
    section.dev_questions = 2;
    let e = error(&section);
    assert!(e.contains("dev.jsonl: task.dev_questions asks for 2 questions, but there are only 1"), "{e}");
}
