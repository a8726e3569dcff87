//! From TOML text and `--set KEY=VALUE` to one checked [`RunConfig`] and one per arm.
//!
//! Layers, later ones win: defaults, the preset, the file, `--set`; then for an arm the preset it
//! names (if it names one) and its own overrides. A layer that names another task forgets how the
//! one before it was read (`task_layer`). Every key and value is compared with a specimen of the
//! configuration before it is deserialised, so that an error names the file, the line, what was
//! found and what was expected.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::arms::{Arm, Resolver, flatten};
use super::task_layer::forget_other_task;
use super::{ArmSection, Checked, PrimaryMethod, PrimarySection, RecipeInfo, RunConfig, presets, validate};
use crate::error::{Error, Place, Result};

/// Where a configuration's text came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// For error messages: a path or `built-in NAME`.
    pub name: String,
    /// TOML.
    pub text: String,
    /// The folder that relative paths in it may start from.
    pub folder: Option<std::path::PathBuf>,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// As it is written to the run folder.
    pub config: RunConfig,
    /// At least one.
    pub arms: Vec<Arm>,
}

/// Longest text of a configuration, in bytes.
const MAX_TEXT: usize = 1 << 20;
/// Most keys one in another that a dotted path may name.
pub(super) const MAX_DEPTH: usize = 8;
/// Longest dotted path whose line is remembered: an error at a longer one has the line of the table it is in.
const MAX_PATH: usize = 200;

/// Keys that name files. (`model.path` and `task.prompts` may be built-in names too.)
const PATHS: [(&str, &str); 9] = [
    ("model", "path"),
    ("task", "data"),
    ("task", "dev_data"),
    ("task", "test_data"),
    ("task", "prompts"),
    ("transfer", "data"),
    ("transfer", "dev_data"),
    ("transfer", "test_data"),
    ("transfer", "prompts"),
];

/// Reads, checks and resolves a configuration. `recipes` are the known ones; `check` checks one's options.
pub fn load(
    source: &Source,
    sets: &[String],
    recipes: &[RecipeInfo],
    check: &dyn Fn(&RecipeInfo, &RunConfig) -> Checked,
) -> Result<Plan> {
    if source.text.len() > MAX_TEXT {
        let problem =
            format!("found {} bytes, expected a configuration of at most {MAX_TEXT}", source.text.len());
        return Err(Error::input(Place::file(&source.name), problem));
    }
    let schema = schema();
    let lines = Lines::of(&source.text, &source.name)?;
    let mut file: Table = toml::from_str(&source.text)
        .map_err(|e: toml::de::Error| syntax_error(&e, &source.text, &source.name))?;
    check_table(&file, &schema, "", &|path| lines.place(path))?;
    let here = Path::new("");
    let folders: Vec<&Path> = source.folder.iter().map(|f| f.as_path()).chain([here]).collect();
    absolute_paths(&mut file, &folders);
    let mut set_places = BTreeMap::new();
    let mut set_values = Table::new();
    for set in sets {
        let (path, value) = parse_set(set)?;
        let mut nested = Table::new();
        insert(&mut nested, &path, value);
        check_table(&nested, &schema, "", &|_| format!("--set {set}").into())?;
        set_places.insert(path.clone(), Place::from(format!("--set {set}")));
        absolute_paths(&mut nested, &[here]);
        merge(&mut set_values, nested);
    }
    forget_other_task(&mut file, &set_values);
    merge(&mut file, set_values);
    let place = |path: &str| set_places.get(path).cloned().unwrap_or_else(|| lines.place(path));

    let preset = match file.get("run").and_then(|run| run.get("preset")).and_then(Value::as_str) {
        Some(name) => presets::named(name, || place("run.preset"))?,
        None => RunConfig::default().run.preset,
    };
    let mut layered = presets::layer(preset);
    forget_other_task(&mut layered, &file);
    merge(&mut layered, file);
    if let Some(Value::Table(transfer)) = layered.get_mut("transfer") {
        // Nothing is trained on it.
        transfer.entry("train_questions").or_insert(Value::Integer(0));
    }
    let config = deserialize(&layered, &source.name, &place)?;
    validate::check(&config, &|path| place(path))?;

    let resolver = Resolver {
        layered: &layered,
        config: &config,
        schema: &schema,
        recipes,
        check,
        folders: &folders,
        source: &source.name,
        place: &place,
    };
    let arms = resolver.arms()?;
    Ok(Plan { config, arms })
}

/// A name that is safe as a folder's.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.len() <= 100
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The resolved configuration as TOML, with every value given.
pub fn to_toml(config: &RunConfig) -> Result<String> {
    toml::to_string_pretty(config).map_err(|e| Error::Internal(format!("configuration as TOML: {e}")))
}

/// The configuration that a table of known keys holds. A value that is none of those it may be is an error at its key.
pub(super) fn deserialize(table: &Table, name: &str, place: &dyn Fn(&str) -> Place) -> Result<RunConfig> {
    RunConfig::deserialize(table.clone()).map_err(|e| {
        let refused = flatten(table).into_iter().find_map(|(path, value)| {
            let mut with_it = schema();
            insert(&mut with_it, &path, value);
            let e = RunConfig::deserialize(with_it).err()?;
            Some(Error::input(place(&path), e.message()))
        });
        refused.unwrap_or_else(|| Error::input(Place::file(name), e.message()))
    })
}

/// A configuration with every optional value present: its keys and types are the known ones.
fn schema() -> Table {
    let mut config = RunConfig::default();
    let some = || Some(String::new());
    config.task.data = some();
    config.task.dev_data = some();
    config.task.test_data = some();
    config.task.prompts = some();
    config.task.question_field = some();
    config.task.answer_field = some();
    config.task.levels = vec![0];
    config.task.subjects = vec![String::new()];
    config.task.extraction = some();
    config.task.pattern = some();
    config.task.reference = some();
    config.task.equality = some();
    config.sampling.stop = vec![String::new()];
    config.transfer = Some(config.task.clone());
    let (arm, against, method) = (String::new(), String::new(), PrimaryMethod::FinalVote);
    config.report.primary = Some(PrimarySection { arm, against, method, iteration: 0 });
    config.arm = vec![ArmSection {
        name: String::new(),
        recipe: String::new(),
        seeds: Some(vec![0]),
        set: BTreeMap::new(),
    }];
    let mut table = Table::try_from(&config).expect("the configuration is TOML");
    // `[training.critic]` takes the keys of `[training]`.
    let mut critic = table["training"].clone();
    // Except those that are of a recipe as a whole.
    for key in ["critic", "samples", "data", "labels", "match"] {
        critic.as_table_mut().expect("a section").remove(key);
    }
    table["training"].as_table_mut().expect("a section").insert("critic".into(), critic);
    // `[adapter.of.NAME]` takes the keys of `[adapter]`.
    let adapter = table["adapter"].as_table_mut().expect("a section");
    adapter.remove("of");
    let of = Value::Table(adapter.clone());
    adapter.insert("of".into(), of);
    table
}

/// Every key must be known and every value of its type. `path` is where `table` stands, dotted, empty at the top.
pub(super) fn check_table(
    table: &Table,
    schema: &Table,
    path: &str,
    place: &dyn Fn(&str) -> Place,
) -> Result<()> {
    for (key, value) in table {
        let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if path == "adapter.of" {
            // Any name; which adapters there are is for the recipes to say.
            check_value(value, &Value::Table(schema.clone()), &here, place)?;
            continue;
        }
        let Some(expected) = schema.get(key) else {
            return Err(Error::input(place(&here), unknown_key(key, path, schema)));
        };
        check_value(value, expected, &here, place)?;
    }
    Ok(())
}

fn check_value(value: &Value, expected: &Value, path: &str, place: &dyn Fn(&str) -> Place) -> Result<()> {
    let wrong = |wanted: &str| {
        Err(Error::input(place(path), format!("`{path}`: found {}, expected {wanted}", describe(value))))
    };
    match (expected, value) {
        (Value::Table(_), Value::Table(_)) if path.ends_with(".set") || path == "grid" => Ok(()),
        (Value::Table(schema), Value::Table(table)) => check_table(table, schema, path, place),
        (Value::Array(schema), Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                check_value(item, &schema[0], &format!("{path}[{i}]"), place)?;
            }
            Ok(())
        }
        (Value::Integer(_), Value::Integer(i)) if *i < 0 => wrong("a whole number that is not negative"),
        (Value::Integer(_), Value::Integer(i)) if *i > i64::from(u32::MAX) && !path.contains("seed") => {
            wrong("a smaller number")
        }
        (Value::Float(_), Value::Integer(_)) => Ok(()),
        // As the configuration keeps it: one beyond that would be written to the run folder as
        // infinite, and not be read again.
        (Value::Float(_), Value::Float(f)) if !(*f as f32).is_finite() => {
            wrong("a finite number below 3.4e38")
        }
        _ if expected.same_type(value) => Ok(()),
        (Value::Integer(_), _) => wrong("a whole number"),
        (Value::Float(_), _) => wrong("a number"),
        (Value::String(_), _) => wrong("a string"),
        (Value::Boolean(_), _) => wrong("true or false"),
        (Value::Array(_), _) => wrong("an array"),
        (Value::Table(_), _) => wrong("a table"),
        (Value::Datetime(_), _) => wrong("a date"),
    }
}

/// What a person sees of a value that is of the wrong type.
fn describe(value: &Value) -> String {
    match value {
        Value::String(s) => format!("the string {s:?}"),
        Value::Integer(i) => format!("the integer {i}"),
        Value::Float(f) => format!("the number {f}"),
        Value::Boolean(b) => format!("{b}"),
        Value::Datetime(d) => format!("the date {d}"),
        Value::Array(_) => "an array".into(),
        Value::Table(_) => "a table".into(),
    }
}

fn unknown_key(key: &str, path: &str, siblings: &Table) -> String {
    let distance = |a: &str, b: &str| strsim::damerau_levenshtein(&a.replace('-', "_"), b);
    let near = siblings.keys().min_by_key(|k| distance(key, k)).cloned().unwrap_or_default();
    let close = distance(key, &near) <= 1 + key.len() / 3;
    let whole = schema();
    // The same key in another section is a better guess than a distant neighbour.
    let elsewhere = whole.iter().find_map(|(section, value)| {
        let table = value.as_table()?;
        table.contains_key(key).then(|| format!("{section}.{key}"))
    });
    let full = if path.is_empty() { near } else { format!("{path}.{near}") };
    let nearest = if close { full } else { elsewhere.unwrap_or(full) };
    let at = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    format!("unknown key `{at}`; the nearest known key is `{nearest}`")
}

/// `a.b.c=VALUE`: the value is TOML, or a bare string where it is not.
fn parse_set(set: &str) -> Result<(String, Value)> {
    let Some((path, text)) = set.split_once('=') else {
        return Err(Error::Usage(format!("--set {set}: expected KEY=VALUE, e.g. --set debate.rounds=3")));
    };
    let path = path.trim().to_string();
    if path.is_empty() || path.split('.').any(str::is_empty) {
        return Err(Error::Usage(format!("--set {set}: expected a dotted key before `=`")));
    }
    if path.split('.').count() > MAX_DEPTH {
        return Err(Error::Usage(format!("--set {set}: expected at most {MAX_DEPTH} keys one in another")));
    }
    if path == "arm" || path.starts_with("arm.") {
        return Err(Error::Usage(format!("--set {set}: arms are set in the configuration file")));
    }
    let value = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_string()));
    Ok((path, value))
}

/// Puts a value at a dotted path.
pub(super) fn insert(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_string(), value);
        }
        Some((head, rest)) => {
            let child = table.entry(head.to_string()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(child) = child {
                insert(child, rest, value);
            }
        }
    }
}

/// `over` wins.
pub(super) fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Files may be named from the configuration's own folder or from where the program runs; from here
/// on they are named in full.
pub(super) fn absolute_paths(table: &mut Table, folders: &[&Path]) {
    for (section, key) in PATHS {
        let Some(Value::Table(section)) = table.get_mut(section) else { continue };
        let Some(Value::String(path)) = section.get_mut(key) else { continue };
        // Names of built-in models and prompts come first.
        let built_in: &[&str] = match key {
            "path" => &["embedded"],
            "prompts" => &["arithmetic", "gsm8k", "math", "mmlu"],
            _ => &[],
        };
        if built_in.contains(&path.as_str()) {
            continue;
        }
        if let Some(found) = folders.iter().map(|f| f.join(&*path)).find(|p| p.exists()) {
            *path = std::fs::canonicalize(&found).unwrap_or(found).to_string_lossy().into_owned();
        }
    }
}

/// Line numbers of every key, by dotted path.
struct Lines {
    name: String,
    by_path: BTreeMap<String, usize>,
}

impl Lines {
    fn of(text: &str, name: &str) -> Result<Self> {
        let table = toml::de::DeTable::parse(text).map_err(|e| syntax_error(&e, text, name))?;
        let ends: Vec<usize> =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
        let mut by_path = BTreeMap::new();
        walk(table.get_ref(), "", &ends, &mut by_path);
        return Ok(Self { name: name.to_string(), by_path });

        fn walk(
            table: &toml::de::DeTable<'_>,
            path: &str,
            ends: &[usize],
            out: &mut BTreeMap<String, usize>,
        ) {
            let line = |offset: usize| 1 + ends.partition_point(|end| *end < offset);
            for (key, value) in table {
                let name = key.get_ref();
                if path.len() + name.len() > MAX_PATH {
                    continue;
                }
                let here = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                out.insert(here.clone(), line(key.span().start));
                match value.get_ref() {
                    toml::de::DeValue::Table(t) => walk(t, &here, ends, out),
                    toml::de::DeValue::Array(items) => {
                        for (i, item) in items.iter().enumerate() {
                            let at = format!("{here}[{i}]");
                            out.insert(at.clone(), line(item.span().start));
                            if let toml::de::DeValue::Table(t) = item.get_ref() {
                                walk(t, &at, ends, out);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// A key, with its line or that of the nearest table above it.
    fn place(&self, path: &str) -> Place {
        let above = std::iter::successors(Some(path), |at| at.rfind(['.', '[']).map(|i| &at[..i]));
        let line = above.into_iter().find_map(|at| self.by_path.get(at));
        Place { line: line.copied(), key: Some(path.into()), ..Place::file(&self.name) }
    }
}

fn line(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}

fn syntax_error(e: &toml::de::Error, text: &str, name: &str) -> Error {
    let line = e.span().map(|span| line(text, span.start));
    Error::input(Place { line, ..Place::file(name) }, e.message().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::super::{MixRule, Ties};
    use super::*;

    const fn recipe(name: &'static str, is_trained: bool, options: &'static [&'static str]) -> RecipeInfo {
        RecipeInfo { options, is_trained, ..RecipeInfo::new(name, "") }
    }

    const RECIPES: [RecipeInfo; 3] = [
        recipe("multiagent", true, &["training.data"]),
        recipe("single-agent", true, &["training.match"]),
        recipe("base", false, &[]),
    ];

    /// All options hold.
    fn load(source: &Source, sets: &[String], recipes: &[RecipeInfo]) -> Result<Plan> {
        super::load(source, sets, recipes, &|_, _| Ok(()))
    }

    fn source(text: &str) -> Source {
        Source { name: "run.toml".into(), text: text.into(), folder: None }
    }

    fn error(text: &str, sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        load(&source(text), &sets, &RECIPES).expect_err("an error").to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults_with_one_arm() {
        let plan = load(&source(""), &[], &RECIPES).unwrap();
        assert_eq!(plan.arms.len(), 1);
        assert_eq!(plan.arms[0].recipe, RECIPES[0]);
        assert_eq!(plan.config, RunConfig::default());
    }

    #[test]
    fn unknown_keys_name_the_line_and_the_nearest_key() {
        let e = error("[model]\n[debate]\nagnts = 3\n", &[]);
        assert!(e.starts_with("run.toml:3: debate.agnts: "), "{e}");
        assert!(e.contains("`debate.agents`"), "{e}");
        let e = error("agents = 3\n", &[]);
        assert!(e.contains("`debate.agents`"), "{e}");
        let e = error("[training.critic]\nlearning-rate = 1.0\n", &[]);
        assert!(e.contains("`training.critic.learning_rate`"), "{e}");
        let e = error("", &["sampling.temprature=0.5"]);
        assert!(e.contains("--set sampling.temprature=0.5") && e.contains("`sampling.temperature`"), "{e}");
    }

    #[test]
    fn mistyped_values_say_found_and_expected() {
        let e = error("[debate]\nagents = \"three\"\n", &[]);
        assert!(
            e.contains("run.toml:2") && e.contains("found the string \"three\", expected a whole number"),
            "{e}"
        );
        let e = error("[run]\nseeds = [0, true]\n", &[]);
        assert!(e.contains("run.seeds[1]") && e.contains("found true"), "{e}");
        let e = error("[debate]\nagents = -1\n", &[]);
        assert!(e.contains("not negative"), "{e}");
        let e = error("debate = 3\n", &[]);
        assert!(e.contains("expected a table"), "{e}");
        let e = error("[debate\n", &[]);
        assert!(e.starts_with("run.toml:1"), "{e}");
        assert!(!e.contains('\n'), "{e}");
    }

    #[test]
    fn values_are_checked_by_field() {
        for (text, field) in [
            ("[debate]\nagents = 0", "debate.agents"),
            ("[task]\nlevels = [0]\nname = \"math\"", "task.levels"),
            ("[task]\nlevels = [1]", "task.levels"),
            ("[task]\nsubjects = [\" \"]\nname = \"mmlu\"", "task.subjects"),
            ("[debate]\nrounds = 0", "debate.rounds"),
            ("[sampling]\ntop_p = 0.0", "sampling.top_p"),
            ("[sampling]\nmin_p = 1.5", "sampling.min_p"),
            ("[sampling]\ntemperature = -1", "sampling.temperature"),
            ("[adapter]\nrank = 129", "adapter.rank"),
            ("[adapter.of.critic]\nrank = 0", "adapter.of.critic.rank"),
            ("[adapter.of.critic]\ntargets = []", "adapter.of.critic.targets"),
            ("[adapter.of.critic-1]\nranks = 3", "adapter.of.critic-1.ranks"),
            ("[adapter.of]\ncritic = 3", "adapter.of.critic"),
            ("[training]\nlr_scheduler = \"cosin\"", "training.lr_scheduler"),
            ("[training.critic]\ncritic_mix = 2.0", "training.critic.critic_mix"),
            ("[training]\nlearning_rate = 3.5e38", "training.learning_rate"),
            ("[run]\nseeds = []", "run.seeds"),
            ("[eval]\nmethods = [\"greedly\"]", "eval.methods"),
        ] {
            let e = error(text, &[]);
            assert!(e.contains(field) && e.starts_with("run.toml:2"), "{text}: {e}");
        }
    }

    #[test]
    fn a_choice_that_is_none_names_its_key_and_the_known_ones() {
        for (path, known) in [
            ("debate.others", "`summary`, `concatenate`"),
            ("debate.style", "`debate`, `cooperative`"),
            ("debate.critics", "`own`, `generator`, `base`"),
            ("debate.ties", "`random`, `first`, `largest`"),
            ("training.lr_scheduler", "`constant`, `linear`, `cosine`"),
            ("training.critic.lr_scheduler", "`constant`, `linear`, `cosine`"),
            ("training.non_finite", "`stop`, `skip`"),
            ("training.critic_mix_rule", "`ratio`, `coin-flip`"),
            ("training.critic_loss", "`final`, `all`"),
            ("training.start_from", "`previous`, `base`"),
            ("training.data", "`own`, `dealt`"),
            ("training.labels", "`vote`, `shuffled`"),
            ("training.match", "`none`, `gradient-tokens`"),
            ("eval.methods", "`greedy`, `single`, `majority`, `debate`"),
            ("eval.encoder", "`base-mean-pooled`"),
        ] {
            let value = if path == "eval.methods" { "[\"single\", \"x\"]" } else { "\"x\"" };
            let problem = format!("found `x`, expected one of {known}");
            assert_eq!(error(&format!("\n{path} = {value}"), &[]), format!("run.toml:2: {path}: {problem}"));
            let set = format!("{path}={value}");
            assert_eq!(error("", &[&set]), format!("--set {set}: {problem}"));
            let arm = format!("[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\n[arm.set]\n{path} = {value}");
            assert_eq!(error(&arm, &[]), format!("run.toml:5: arm[0].set.{path}: {problem}"));
            let grid = format!("[grid]\n{path} = [{value}]");
            assert_eq!(error(&grid, &[]), format!("run.toml:2: grid.{path}: {problem}"));
        }
        let e = error("[run]\npreset = \"papr\"", &[]);
        let problem = "unknown preset `papr`; known are `default`, `paper`, `official-code`";
        assert_eq!(e, format!("run.toml:2: run.preset: {problem}"));
    }

    #[test]
    fn arms_override_and_are_checked() {
        let text = "[debate]\nrounds = 2\n[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\n\
                    [arm.set]\n\"debate.rounds\" = 3\ntraining.critic.num_epochs = 1\n\
                    [[arm]]\nname = \"b\"\nrecipe = \"single-agent\"\n";
        let plan = load(&source(text), &["debate.agents=5".into()], &RECIPES).unwrap();
        assert_eq!(plan.arms[0].config.debate.rounds, 3);
        assert_eq!(plan.arms[0].config.training.critic["num_epochs"], Value::Integer(1));
        assert_eq!(plan.arms[1].config.debate.rounds, 2);
        assert_eq!(plan.arms[1].config.debate.agents, 5);
        assert!(error("[[arm]]\nname = \"a\"\nrecipe = \"x\"\n", &[]).contains("`multiagent`"));
        let twice = "[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\n".repeat(2);
        assert!(error(&twice, &[]).contains("two arms"));
        let e = error("[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\nset = {\"debate.round\" = 1}\n", &[]);
        assert!(e.contains("`debate.rounds`"), "{e}");
        let e = error("[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\nset = {\"run.seeds\" = [1]}\n", &[]);
        assert!(e.contains("shared by all arms"), "{e}");
        assert!(error("[[arm]]\nname = \"../x\"\nrecipe = \"multiagent\"\n", &[]).contains("names folders"));
    }

    #[test]
    fn options_of_other_recipes_are_refused() {
        let arm = |recipe: &str, set: &str| {
            format!("[[arm]]\nname = \"a\"\nrecipe = \"{recipe}\"\nset = {{{set}}}\n")
        };
        let dealt = "\"training.data\" = \"dealt\"";
        assert!(load(&source(&arm("multiagent", dealt)), &[], &RECIPES).is_ok());
        let e = error(&arm("single-agent", dealt), &[]);
        assert!(e.starts_with("run.toml:4: arm[0].set.training.data: "), "{e}");
        assert!(e.contains("read by `multiagent` only, not by `single-agent`"), "{e}");
        let e = error(&arm("base", ""), &["training.match=gradient-tokens"]);
        assert!(e.contains("--set training.match=gradient-tokens") && e.contains("`single-agent`"), "{e}");
        assert!(error("", &["training.critic.data=dealt"]).contains("unknown key"));
        let refuse = |info: &RecipeInfo, _: &RunConfig| match info.name {
            "multiagent" => Err(("debate.rounds", "no".into())),
            _ => Ok(()),
        };
        let text = source("[debate]\nrounds = 2\n");
        let e = super::load(&text, &[], &RECIPES, &refuse).unwrap_err().to_string();
        assert_eq!(e, "run.toml:2: debate.rounds: no");
    }

    #[test]
    fn a_grid_multiplies_every_arm() {
        let arms = "[[arm]]\nname = \"m\"\nrecipe = \"multiagent\"\n\
                    [[arm]]\nname = \"b\"\nrecipe = \"base\"\nseeds = [5, 6]\n";
        let grid = "[grid]\ntraining.learning_rate = [1e-3, 5e-4]\n\"training.critic.learning_rate\" = [1e-4]\n\
                    \"sampling.temperature\" = [1.0, 0.7]\n";
        let plan = load(&source(&format!("{grid}{arms}")), &[], &RECIPES).unwrap();
        let names: Vec<&str> = plan.arms.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "m@temperature=1.0,training.critic.learning_rate=0.0001,training.learning_rate=0.001",
                "m@temperature=1.0,training.critic.learning_rate=0.0001,training.learning_rate=0.0005",
                "m@temperature=0.7,training.critic.learning_rate=0.0001,training.learning_rate=0.001",
                "m@temperature=0.7,training.critic.learning_rate=0.0001,training.learning_rate=0.0005",
                "b@temperature=1.0",
                "b@temperature=0.7",
            ]
        );
        assert_eq!(plan.arms[3].config.training.learning_rate, 5e-4);
        assert_eq!(plan.arms[3].config.sampling.temperature, 0.7);
        assert_eq!((&plan.arms[3].seeds, &plan.arms[5].seeds), (&vec![0], &vec![5, 6]));
        assert!(plan.arms[3].config.grid.is_empty());
        // What is written to the run folder is multiplied again.
        assert_eq!(load(&source(&to_toml(&plan.config).unwrap()), &[], &RECIPES).unwrap(), plan);
        let by_set = load(&source(arms), &["grid.debate.rounds=[2, 3]".into()], &RECIPES).unwrap();
        assert_eq!(by_set.arms[1].config.debate.rounds, 3);

        let e = error(&format!("{grid}{arms}"), &["task.test_questions=10"]);
        assert!(e.contains("task.test_questions") && e.contains("never touches test"), "{e}");
        assert!(error(&format!("[grid]\n\"debate.round\" = [1]\n{arms}"), &[]).contains("`debate.rounds`"));
        assert!(error(&format!("[grid]\n\"debate.rounds\" = 1\n{arms}"), &[]).contains("a list of values"));
        assert!(error(&format!("[grid]\n\"debate.rounds\" = [0]\n{arms}"), &[]).contains("at least 1"));
        assert!(error(&format!("[grid]\n\"run.seeds\" = [[0]]\n{arms}"), &[]).contains("shared by all arms"));
        assert!(error(&format!("[grid]\n\"debate.rounds\" = [2, 2]\n{arms}"), &[]).contains("is taken"));
        let both = "set = {\"debate.rounds\" = 3}";
        assert!(
            error(&format!("[grid]\ndebate.rounds = [2]\n{arms}{both}\n"), &[]).contains("for every arm")
        );
    }

    #[test]
    fn what_multiplies_is_bounded() {
        let list = (1..=32).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
        let keys = [
            "debate.rounds",
            "run.iterations",
            "training.num_epochs",
            "training.batch_size",
            "adapter.rank",
            "task.terms",
        ];
        let grid: String = keys.iter().map(|key| format!("{key} = [{list}]\n")).collect();
        let e = error(&format!("[grid]\n{grid}"), &[]);
        assert_eq!(e, "run.toml:1: grid: found 1073741824 arms in all, expected at most 1000");
        let arms: String =
            (0..1001).map(|i| format!("[[arm]]\nname = \"a{i}\"\nrecipe = \"base\"\n")).collect();
        assert!(error(&arms, &[]).contains("arm: found 1001 arms in all"));
        let seeds = vec!["1"; 10_001].join(",");
        assert!(error(&format!("[run]\nseeds = [{seeds}]"), &[]).contains("the same seed twice"));
        let seeds = (0..10_001).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        assert!(
            error(&format!("[run]\nseeds = [{seeds}]"), &[])
                .contains("run.toml:2: run.seeds: found 10001 seeds, expected at most 10000")
        );
        let set = |key: &str| {
            format!("[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\nset = {{ \"{key}\" = 1 }}\n")
        };
        assert!(
            error(&set(&"a.".repeat(100_000)), &[])
                .contains("found 100001 keys one in another, expected at most 8")
        );
        assert!(error("", &[&format!("{}b=1", "a.".repeat(100_000))]).contains("at most 8 keys"));
        assert!(error(&"# ".repeat(1 << 20), &[]).contains("run.toml: found 2097152 bytes"));
    }

    #[test]
    fn a_long_key_costs_no_more_than_its_length() {
        // With each item of its list the path would be remembered once more.
        let text =
            format!("{} = [{}]\n[debate]\nagnts = 1", "k".repeat(100_000), vec!["0"; 100_000].join(","));
        assert!(error(&text, &[]).contains("unknown key"));
    }

    #[test]
    fn arms_may_have_seeds_of_their_own() {
        let arm = |seeds: &str| format!("[[arm]]\nname = \"m\"\nrecipe = \"multiagent\"\nseeds = {seeds}\n");
        assert_eq!(load(&source(&arm("[3, 4]")), &[], &RECIPES).unwrap().arms[0].seeds, [3, 4]);
        assert!(error(&arm("[]"), &[]).contains("run.toml:4: arm[0].seeds: found an empty list"));
        assert!(error(&arm("[1, 1]"), &[]).contains("the same seed twice"));
        assert!(error(&arm("[-1]"), &[]).contains("not negative"));
    }

    #[test]
    fn the_primary_comparison_names_what_there_is() {
        let text = |primary: &str| {
            format!(
                "[run]\niterations = 3\n[report.primary]\n{primary}\n[[arm]]\nname = \"m\"\nrecipe = \"multiagent\"\n\
                 [[arm]]\nname = \"b\"\nrecipe = \"base\"\n[[arm]]\nname = \"s\"\nrecipe = \"single-agent\"\n"
            )
        };
        let of = |arm: &str, against: &str, method: &str, iteration: usize| {
            text(&format!(
                "arm = \"{arm}\"\nagainst = \"{against}\"\nmethod = \"{method}\"\niteration = {iteration}"
            ))
        };
        let good = of("m", "s", "final-vote", 3);
        let plan = load(&source(&good), &[], &RECIPES).unwrap();
        assert_eq!(plan.config.report.primary.unwrap().iteration, 3);
        load(&source(&good), &["grid.debate.rounds=[2, 3]".into()], &RECIPES).unwrap();
        for (text, expected) in [
            (
                of("x", "s", "final-vote", 3),
                "report.primary.arm: no arm is called `x`; there are `m`, `b`, `s`",
            ),
            (of("m", "m", "final-vote", 3), "not compared with itself"),
            (of("m", "s", "final", 3), "report.primary.method: found `final`"),
            (of("m", "s", "final-vote", 4), "the last iteration of `m` is 3"),
            (of("m", "b", "final-vote", 3), "the last iteration of `b` is 0"),
            (text("arm = \"m\""), "missing field"),
        ] {
            let e = error(&text, &[]);
            assert!(e.contains(expected), "{e}");
        }
        assert!(error(&good, &["eval.methods=[\"single\"]"]).contains("needs `debate` in eval.methods"));
    }

    #[test]
    fn a_transfer_task_is_for_measuring_only() {
        let plan = load(&source("[transfer]\nname = \"arithmetic\"\nterms = 3\n"), &[], &RECIPES).unwrap();
        let transfer = plan.arms[0].config.transfer.clone().unwrap();
        assert_eq!((transfer.terms, transfer.train_questions), (3, 0));
        assert_eq!(load(&source(&to_toml(&plan.config).unwrap()), &[], &RECIPES).unwrap(), plan);
        assert!(error("[transfer]\nterm = 3\n", &[]).contains("`transfer.terms`"));
        assert!(error("[transfer]\ntrain_questions = 3\n", &[]).contains("nothing is trained"));
        assert!(error("[task]\ntrain_pool = 100\n", &[]).contains("at least task.train_questions = 150"));
    }

    #[test]
    fn presets_stand_side_by_side() {
        let text = "[[arm]]\nname = \"p\"\nrecipe = \"multiagent\"\nset = {\"run.preset\" = \"paper\"}\n\
                    [[arm]]\nname = \"d\"\nrecipe = \"multiagent\"\nset = {\"run.preset\" = \"default\"}\n";
        for preset in ["default", "paper", "official-code"] {
            let plan = load(&source(text), &[format!("run.preset={preset}")], &RECIPES).unwrap();
            let of = |i: usize| {
                let c = &plan.arms[i].config;
                (c.debate.min_agreement, c.sampling.top_p, c.training.critic_mix_rule)
            };
            assert_eq!((of(0), of(1)), ((1, 0.9, MixRule::Ratio), (0, 1.0, MixRule::Ratio)), "{preset}");
            assert_eq!(load(&source(&to_toml(&plan.config).unwrap()), &[], &RECIPES).unwrap(), plan);
        }
    }

    #[test]
    fn presets_fill_in_what_is_not_given() {
        let plan =
            load(&source("[run]\npreset = \"official-code\"\n[debate]\nties = \"first\"\n"), &[], &RECIPES)
                .unwrap();
        assert_eq!(plan.config.debate.ties, Ties::First);
        assert_eq!(plan.config.training.critic_mix_rule, MixRule::CoinFlip);
    }

    #[test]
    fn the_resolved_configuration_loads_to_the_same_plan() {
        let text = "[run]\npreset = \"paper\"\n[training]\nlearning_rate = 3e-4\n[[arm]]\nname = \"a\"\n\
                    recipe = \"multiagent\"\nset = {\"run.preset\" = \"official-code\", \"training.num_epochs\" = 1}\n";
        let plan = load(&source(text), &[], &RECIPES).unwrap();
        let again = load(&source(&to_toml(&plan.config).unwrap()), &[], &RECIPES).unwrap();
        assert_eq!(plan, again);
    }
}
