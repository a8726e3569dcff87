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
//! `fields` holds the question record's other fields, the reference answer left out. An undefined variable is an error.

use std::path::{Path, PathBuf};

use minijinja::value::Value as Variable;
use minijinja::{Environment, UndefinedBehavior, context};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What one rendering may cost, in template instructions: ends loops that would not.
const FUEL: u64 = 1_000_000;

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
    environment: Environment<'static>,
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
                sources.push((file.to_string(), std::fs::read_to_string(&path).map_err(Error::io(&path))?));
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
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let mut prompts = Self { place: place.to_path_buf(), sources, environment };
        for (file, text) in prompts.sources.clone() {
            if let Err(e) = prompts.environment.add_template_owned(file.clone(), text) {
                return Err(prompts.explain(&file, &e));
            }
        }
        Ok(prompts)
    }

    /// File names and texts, for a run's manifest.
    pub fn sources(&self) -> &[(String, String)] {
        &self.sources
    }

    /// The user's turn that asks for a first answer.
    pub fn first(&self, subject: Subject<'_>) -> Result<String> {
        let Subject { question, fields } = subject;
        self.render(FIRST, context! { question, fields => variables(fields) })
    }

    /// The request to summarise others' responses.
    pub fn summary(&self, subject: Subject<'_>, responses: &[&str]) -> Result<String> {
        let Subject { question, fields } = subject;
        self.render(
            SUMMARY,
            context! { question, fields => variables(fields), responses => texts(responses) },
        )
    }

    /// A debate turn with a summary of the others.
    pub fn debate(&self, subject: Subject<'_>, summary: &str) -> Result<String> {
        let Subject { question, fields } = subject;
        self.render(DEBATE, context! { question, fields => variables(fields), summary })
    }

    /// A debate turn with the others' responses themselves.
    pub fn debate_concat(&self, subject: Subject<'_>, responses: &[&str]) -> Result<String> {
        let Subject { question, fields } = subject;
        self.render(CONCAT, context! { question, fields => variables(fields), responses => texts(responses) })
    }

    /// A cooperative turn with a summary of the others.
    pub fn cooperative(&self, subject: Subject<'_>, summary: &str) -> Result<String> {
        let Subject { question, fields } = subject;
        self.render(COOPERATIVE, context! { question, fields => variables(fields), summary })
    }

    /// A cooperative turn with the others' responses themselves.
    pub fn cooperative_concat(&self, subject: Subject<'_>, responses: &[&str]) -> Result<String> {
        let Subject { question, fields } = subject;
        self.render(
            COOPERATIVE_CONCAT,
            context! { question, fields => variables(fields), responses => texts(responses) },
        )
    }

    /// A turn to an agent that is told its number, counted from 1.
    pub fn agent_id(&self, agent: usize, agents: usize, prompt: &str) -> Result<String> {
        self.render(AGENT_ID, context! { agent, agents, prompt })
    }

    /// The question again, with its answer.
    pub fn hint(&self, subject: Subject<'_>, answer: &str) -> Result<String> {
        let Subject { question, fields } = subject;
        self.render(HINT, context! { question, fields => variables(fields), answer })
    }

    /// A further turn of an agent that has nobody to read.
    pub fn alone(&self, subject: Subject<'_>) -> Result<String> {
        let Subject { question, fields } = subject;
        let file = if self.has(ALONE) { ALONE } else { CONCAT };
        self.render(file, context! { question, fields => variables(fields), responses => texts(&[]) })
    }

    fn has(&self, file: &str) -> bool {
        self.sources.iter().any(|(name, _)| name == file)
    }

    fn render(&self, file: &str, variables: Variable) -> Result<String> {
        if !self.has(file) {
            return Err(Error::file(&self.place.join(file), "missing, but these settings need it"));
        }
        self.environment
            .get_template(file)
            .and_then(|template| template.render(variables))
            .map_err(|e| self.explain(file, &e))
    }

    /// One line with file and line number.
    fn explain(&self, file: &str, e: &minijinja::Error) -> Error {
        let place = self.place.join(e.name().unwrap_or(file));
        let place = match e.line() {
            Some(line) => format!("{}, line {line}", place.display()),
            None => place.display().to_string(),
        };
        let problem = match e.detail() {
            Some(detail) => format!("{}: {detail}", e.kind()),
            None => e.kind().to_string(),
        };
        Error::input(place, problem.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

fn texts(responses: &[&str]) -> Variable {
    responses.iter().copied().collect()
}

fn variables(fields: &Map<String, Value>) -> Variable {
    Variable::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), variable(value))))
}

fn variable(value: &Value) -> Variable {
    match value {
        Value::Null => ().into(),
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(whole) => whole.into(),
            None => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(s) => s.as_str().into(),
        Value::Array(items) => items.iter().map(variable).collect(),
        Value::Object(fields) => variables(fields),
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
            ("{% for i in range(9000) %}{% for j in range(9000) %}x{% endfor %}{% endfor %}", "fuel"),
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
