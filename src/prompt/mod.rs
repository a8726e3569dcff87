//! Prompt templates: jinja files, built in or from a folder.
//!
//! | file | variables | turn |
//! |---|---|---|
//! | `first.jinja` | question, fields | the first answer |
//! | `summary.jinja` | question, fields, responses | the base model summarises the other agents' responses |
//! | `debate.jinja` | question, fields, summary | an agent reads that summary and answers again |
//! | `debate-concat.jinja` | question, fields, responses | an agent reads the responses themselves and answers again |
//! | `cooperative.jinja`, `cooperative-concat.jinja` | as the two above | the same where agents build on each other (`debate.style`) |
//! | `alone.jinja` (optional) | question, fields, responses (empty) | there is no other agent; `debate-concat.jinja` stands in |
//! | `agent-id.jinja` | agent (from 1), agents, prompt | every turn to an agent that is told which it is (recipe `agent-ids`) |
//! | `hint.jinja` | question, fields, answer | the question again, with the reference answer (recipe `star`) |
//!
//! `fields` holds the question record's other fields, the reference answer left out. An undefined variable is an error. Each file stands alone: it
//! includes no other. Folders of prompts come from strangers like anything else, so they are
//! bounded as chat templates are.

use std::path::{Path, PathBuf};

use minijinja::UndefinedBehavior;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value as Variable;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::BoundedTemplate;

const FIRST: &str = "first.jinja";
const SUMMARY: &str = "summary.jinja";
const DEBATE: &str = "debate.jinja";
const CONCAT: &str = "debate-concat.jinja";
const COOPERATIVE: &str = "cooperative.jinja";
const COOPERATIVE_CONCAT: &str = "cooperative-concat.jinja";
const ALONE: &str = "alone.jinja";
const AGENT_ID: &str = "agent-id.jinja";
const HINT: &str = "hint.jinja";
const FILES: [&str; 9] =
    [FIRST, SUMMARY, DEBATE, CONCAT, COOPERATIVE, COOPERATIVE_CONCAT, ALONE, AGENT_ID, HINT];

macro_rules! built_in {
    ($($name:literal: $($file:literal),+;)+) => {
        &[$(($name, &[$(($file, include_str!(concat!("../../assets/prompts/", $name, "/", $file)))),+])),+]
    };
}

type Files = &'static [(&'static str, &'static str)];

const BUILT_IN: &[(&str, Files)] = built_in! {
    "arithmetic": "first.jinja", "summary.jinja", "debate.jinja", "debate-concat.jinja", "cooperative.jinja",
        "cooperative-concat.jinja", "agent-id.jinja", "hint.jinja";
    "gsm8k": "first.jinja", "summary.jinja", "debate.jinja", "debate-concat.jinja", "cooperative.jinja",
        "cooperative-concat.jinja", "alone.jinja", "agent-id.jinja", "hint.jinja";
    "math": "first.jinja", "summary.jinja", "debate.jinja", "debate-concat.jinja", "cooperative.jinja",
        "cooperative-concat.jinja", "alone.jinja", "agent-id.jinja", "hint.jinja";
    "mmlu": "first.jinja", "summary.jinja", "debate.jinja", "debate-concat.jinja", "cooperative.jinja",
        "cooperative-concat.jinja", "alone.jinja", "agent-id.jinja", "hint.jinja";
};

/// Names of the built-in sets of templates.
pub fn built_in_names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

/// The question as templates see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its text.
    pub question: &'a str,
    /// Its other fields.
    pub fields: &'a Map<String, Value>,
}

/// A set of templates.
pub struct Prompts {
    place: PathBuf,
    sources: Vec<(String, String)>,
    /// In the order of the sources.
    templates: Vec<BoundedTemplate>,
}

impl Prompts {
    /// A built-in set by its name, else the folder of that path.
    pub fn load(name_or_folder: &str) -> Result<Self> {
        if let Some((name, files)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_folder) {
            let sources = files.iter().map(|(file, text)| (file.to_string(), text.to_string())).collect();
            return Self::new(Path::new(&format!("built-in prompts {name}")), sources);
        }
        let folder = Path::new(name_or_folder);
        if !folder.is_dir() {
            let names = built_in_names().join(", ");
            return Err(Error::file(folder, format!("no such prompts: neither a folder nor one of {names}")));
        }
        let mut sources = Vec::new();
        for file in FILES {
            let path = folder.join(file);
            if path.exists() {
                sources.push((file.to_string(), crate::files::read_text(&path)?));
            }
        }
        if !sources.iter().any(|(file, _)| file == FIRST) {
            return Err(Error::file(
                &folder.join(FIRST),
                "missing; a folder of prompts needs at least this file",
            ));
        }
        Self::new(folder, sources)
    }

    fn new(place: &Path, sources: Vec<(String, String)>) -> Result<Self> {
        let compile = |(file, text): &(String, String)| {
            let name = place.join(file).display().to_string();
            BoundedTemplate::new(text.clone(), SyntaxConfig::default(), UndefinedBehavior::Strict, name)
        };
        let templates = sources.iter().map(compile).collect::<Result<_>>()?;
        Ok(Self { place: place.to_path_buf(), sources, templates })
    }

    /// File names and texts, for a run's manifest.
    pub fn sources(&self) -> &[(String, String)] {
        &self.sources
    }

    /// The user's turn that asks for a first answer.
    pub fn first(&self, subject: Subject<'_>) -> Result<String> {
        self.render(FIRST, Variables::of(subject))
    }

    /// The request to summarise others' responses.
    pub fn summary(&self, subject: Subject<'_>, responses: &[&str]) -> Result<String> {
        self.render(SUMMARY, Variables::of(subject).texts("responses", responses))
    }

    /// A debate turn with a summary of the others.
    pub fn debate(&self, subject: Subject<'_>, summary: &str) -> Result<String> {
        self.render(DEBATE, Variables::of(subject).text("summary", summary))
    }

    /// A debate turn with the others' responses themselves.
    pub fn debate_concat(&self, subject: Subject<'_>, responses: &[&str]) -> Result<String> {
        self.render(CONCAT, Variables::of(subject).texts("responses", responses))
    }

    /// A cooperative turn with a summary of the others.
    pub fn cooperative(&self, subject: Subject<'_>, summary: &str) -> Result<String> {
        self.render(COOPERATIVE, Variables::of(subject).text("summary", summary))
    }

    /// A cooperative turn with the others' responses themselves.
    pub fn cooperative_concat(&self, subject: Subject<'_>, responses: &[&str]) -> Result<String> {
        self.render(COOPERATIVE_CONCAT, Variables::of(subject).texts("responses", responses))
    }

    /// A turn to an agent that is told its number, counted from 1.
    pub fn agent_id(&self, agent: usize, agents: usize, prompt: &str) -> Result<String> {
        self.render(
            AGENT_ID,
            Variables::default().number("agent", agent).number("agents", agents).text("prompt", prompt),
        )
    }

    /// The question again, with its answer.
    pub fn hint(&self, subject: Subject<'_>, answer: &str) -> Result<String> {
        self.render(HINT, Variables::of(subject).text("answer", answer))
    }

    /// A further turn of an agent that has nobody to read.
    pub fn alone(&self, subject: Subject<'_>) -> Result<String> {
        let file = if self.has(ALONE) { ALONE } else { CONCAT };
        self.render(file, Variables::of(subject).texts("responses", &[]))
    }

    fn has(&self, file: &str) -> bool {
        self.sources.iter().any(|(name, _)| name == file)
    }

    fn render(&self, file: &str, variables: Variables<'_>) -> Result<String> {
        match self.sources.iter().position(|(name, _)| name == file) {
            Some(at) => self.templates[at].render(variables.values, variables.bytes),
            None => Err(Error::file(&self.place.join(file), "missing, but these settings need it")),
        }
    }
}

/// What a template sees, and how many bytes of text that is.
#[derive(Default)]
struct Variables<'a> {
    values: Vec<(&'a str, Variable)>,
    bytes: usize,
}

impl<'a> Variables<'a> {
    fn of(subject: Subject<'_>) -> Self {
        let fields = object(subject.fields);
        let bytes = subject.fields.iter().map(|(name, value)| name.len() + bytes(value)).sum();
        Self { values: vec![("fields", fields)], bytes }.text("question", subject.question)
    }

    fn text(mut self, name: &'a str, text: &str) -> Self {
        self.values.push((name, text.into()));
        self.bytes += text.len();
        self
    }

    fn texts(mut self, name: &'a str, texts: &[&str]) -> Self {
        self.values.push((name, texts.iter().copied().collect()));
        self.bytes += texts.iter().map(|text| text.len()).sum::<usize>();
        self
    }

    fn number(mut self, name: &'a str, number: usize) -> Self {
        self.values.push((name, number.into()));
        self
    }
}

fn object(fields: &Map<String, Value>) -> Variable {
    Variable::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), variable(value))))
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len(),
        Value::Array(items) => items.iter().map(bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes(value)).sum(),
        _ => 0,
    }
}

fn variable(value: &Value) -> Variable {
    match value {
        Value::Null => ().into(),
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(whole)) => whole.into(),
            (None, None) => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(s) => s.as_str().into(),
        Value::Array(items) => items.iter().map(variable).collect(),
        Value::Object(fields) => object(fields),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn load(dir: &tempfile::TempDir) -> Result<Prompts> {
        Prompts::load(dir.path().to_str().unwrap())
    }

    fn subject(fields: &Map<String, Value>) -> Subject<'_> {
        Subject { question: "1+1", fields }
    }

    #[test]
    fn built_in_sets_render_every_turn() {
        let fields = Map::new();
        let s = subject(&fields);
        for name in built_in_names() {
            let prompts = Prompts::load(name).unwrap();
            assert!(prompts.first(s).unwrap().contains("1+1"));
            let summary = prompts.summary(s, &["it is two", "it is three"]).unwrap();
            assert!(summary.contains("it is two") && summary.contains("it is three"));
            let debate = prompts.debate(s, "they disagree").unwrap();
            assert!(debate.contains("1+1") && debate.contains("they disagree"));
            assert!(prompts.debate_concat(s, &["it is two"]).unwrap().contains("it is two"));
            let together = prompts.cooperative(s, "they disagree").unwrap();
            assert!(together.contains("1+1") && together.contains("they disagree") && together != debate);
            assert!(prompts.cooperative_concat(s, &["it is two"]).unwrap().contains("it is two"));
            let told = prompts.agent_id(2, 3, &debate).unwrap();
            assert!(told.contains(&debate) && told.contains("2 of 3"), "{told}");
            let hint = prompts.hint(s, "17").unwrap();
            assert!(hint.contains("1+1") && hint.contains("17"));
            assert!(!prompts.alone(s).unwrap().is_empty());
            for (_, text) in prompts.sources() {
                assert!(!text.is_empty());
            }
        }
    }

    #[test]
    fn prompts_have_no_trailing_newline() {
        let dir = folder(&[("first.jinja", "What is {{ question }}?\n")]);
        assert_eq!(load(&dir).unwrap().first(subject(&Map::new())).unwrap(), "What is 1+1?");
    }

    #[test]
    fn fields_reach_the_template() {
        let dir = folder(&[("first.jinja", "{{ fields.topic }}: {{ question }}")]);
        let mut fields = Map::new();
        fields.insert("topic".into(), "sums".into());
        assert_eq!(load(&dir).unwrap().first(subject(&fields)).unwrap(), "sums: 1+1");
    }

    #[test]
    fn errors_are_one_line_with_file_and_line() {
        let fields = Map::new();
        let cases = [
            ("fine\n{{ questoin }}", "line 2: undefined value"),
            ("{{ fields.absent }}", "line 1: undefined value"),
            ("a\nb\n{% for x in %}", "line 3: syntax error"),
            (
                "{% for i in range(9000) %}{% for j in range(9000) %}x{% endfor %}{% endfor %}",
                "line 1: found a template that does not end",
            ),
            (
                "{% set x = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set x.s = x.s ~ x.s %}{% endfor %}",
                "builds more text",
            ),
            ("\n{% include 'debate.jinja' %}", "line 2: "),
        ];
        for (text, expected) in cases {
            let dir = folder(&[("first.jinja", text)]);
            let e = load(&dir).and_then(|p| p.first(subject(&fields))).unwrap_err().to_string();
            assert!(e.contains("first.jinja") && e.contains(expected), "{e}");
            assert!(!e.contains('\n'), "{e}");
        }
    }

    #[test]
    fn missing_files_are_named() {
        let fields = Map::new();
        let dir = folder(&[("debate.jinja", "x")]);
        assert!(load(&dir).err().unwrap().to_string().contains("first.jinja"));
        let dir = folder(&[("first.jinja", "x")]);
        let e = load(&dir).unwrap().summary(subject(&fields), &["a"]).unwrap_err().to_string();
        assert!(e.contains("summary.jinja"), "{e}");
        assert!(Prompts::load("no-such-set").err().unwrap().to_string().contains("arithmetic"));
    }
}
