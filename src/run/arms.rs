//! From `[[arm]]` entries and `[grid]` to arms with everything resolved.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use toml::{Table, Value};

use super::load::{MAX_DEPTH, absolute_paths, check_table, deserialize, insert, merge};
use super::task_layer::forget_other_task;
use super::{ArmSection, Checked, PrimarySection, RecipeInfo, RunConfig, is_name, presets, validate};
use crate::choice::list;
use crate::error::{Error, Place, Result};

/// One arm with everything resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Unique name.
    pub name: String,
    /// What is known of its recipe.
    pub recipe: RecipeInfo,
    /// The arm's own, or the run's.
    pub seeds: Vec<u64>,
    /// The run's configuration with the arm's overrides applied (and no arms or grid of its own).
    pub config: RunConfig,
}

/// Most arms of a configuration, those that its grid makes included.
const MAX_ARMS: usize = 1000;
/// Most seeds of an arm.
const MAX_SEEDS: usize = 10_000;
/// Most bytes of all arms' configurations, as TOML. (One has 3 kB.)
const MAX_RESOLVED: usize = 64 << 20;

/// Overrides by dotted path.
type Overrides = BTreeMap<String, Value>;

/// What resolving needs to know.
pub struct Resolver<'a> {
    /// Defaults, preset, file and `--set`, one over the other.
    pub layered: &'a Table,
    /// The same, read.
    pub config: &'a RunConfig,
    /// Known keys.
    pub schema: &'a Table,
    /// The known recipes.
    pub recipes: &'a [RecipeInfo],
    /// Checks a recipe's options.
    pub check: &'a dyn Fn(&RecipeInfo, &RunConfig) -> Checked,
    /// Where relative paths may start from.
    pub folders: &'a [&'a Path],
    /// The configuration's name.
    pub source: &'a str,
    /// From a dotted path to file, line and field.
    pub place: &'a dyn Fn(&str) -> Place,
}

impl Resolver<'_> {
    /// All arms, those of a grid multiplied out.
    pub fn arms(&self) -> Result<Vec<Arm>> {
        let sections = if self.config.arm.is_empty() {
            let first = |r: &RecipeInfo| (r.name.to_string(), r.name.to_string());
            let (name, recipe) = self.recipes.first().map(first).unwrap_or_default();
            vec![ArmSection { name, recipe, seeds: None, set: BTreeMap::new() }]
        } else {
            self.config.arm.clone()
        };
        let grid = self.grid()?;
        self.check_size(&sections, &grid)?;
        let mut shared = self.layered.clone();
        for key in ["arm", "grid"] {
            shared.remove(key);
        }
        let mut arms: Vec<Arm> = Vec::new();
        for (i, section) in sections.iter().enumerate() {
            let at = |key: &str| (self.place)(&format!("arm[{i}].{key}"));
            if !is_name(&section.name) {
                return Err(Error::input(
                    at("name"),
                    format!(
                        "found `{}`, expected letters, digits, `-`, `_` or `.` (it names folders)",
                        section.name
                    ),
                ));
            }
            if sections[..i].iter().any(|s| s.name == section.name) {
                return Err(Error::input(at("name"), format!("two arms are called `{}`", section.name)));
            }
            let Some(recipe) = self.recipes.iter().find(|r| r.name == section.recipe) else {
                let known: Vec<&str> = self.recipes.iter().map(|r| r.name).collect();
                return Err(Error::input(
                    at("recipe"),
                    format!("unknown recipe `{}`; known are {}", section.recipe, list(&known)),
                ));
            };
            let seeds = section.seeds.clone().unwrap_or_else(|| self.config.run.seeds.clone());
            if seeds.is_empty() {
                return Err(Error::input(at("seeds"), "found an empty list, expected at least one seed"));
            }
            if seeds.iter().collect::<HashSet<_>>().len() < seeds.len() {
                return Err(Error::input(at("seeds"), "found the same seed twice, expected different seeds"));
            }
            for point in points(&grid, recipe.is_trained) {
                let name = point_name(&section.name, &point, &grid);
                if name.len() > 200 || arms.iter().any(|a| a.name == name) {
                    return Err(Error::input(
                        (self.place)("grid"),
                        format!("its values give no names of their own: `{name}` is taken or too long"),
                    ));
                }
                let config = self.resolve(shared.clone(), flatten(&section.set), &point, recipe, &at)?;
                arms.push(Arm { name, recipe: *recipe, seeds: seeds.clone(), config });
            }
        }
        if let Some(primary) = &self.config.report.primary {
            self.check_primary(primary, &sections, &arms)?;
        }
        Ok(arms)
    }

    /// Refuses more arms than anybody runs before one is made: a grid multiplies, and each arm has
    /// a configuration of its own.
    fn check_size(&self, sections: &[ArmSection], grid: &[(String, Vec<Value>)]) -> Result<()> {
        let points = grid.iter().fold(1usize, |n, (_, values)| n.saturating_mul(values.len()));
        let arms = points.saturating_mul(sections.len());
        if arms > MAX_ARMS {
            let place = if points > 1 { "grid" } else { "arm" };
            let problem = format!("found {arms} arms in all, expected at most {MAX_ARMS}");
            return Err(Error::input((self.place)(place), problem));
        }
        let seeds = sections
            .iter()
            .enumerate()
            .map(|(i, s)| (format!("arm[{i}].seeds"), s.seeds.as_deref().unwrap_or_default()));
        for (path, seeds) in seeds.chain([("run.seeds".to_string(), self.config.run.seeds.as_slice())]) {
            if seeds.len() > MAX_SEEDS {
                let problem = format!("found {} seeds, expected at most {MAX_SEEDS}", seeds.len());
                return Err(Error::input((self.place)(&path), problem));
            }
        }
        let shared = RunConfig { arm: Vec::new(), grid: BTreeMap::new(), ..self.config.clone() };
        let each = super::to_toml(&shared)?.len();
        if arms > 1 && arms.saturating_mul(each) > MAX_RESOLVED {
            let problem = format!(
                "found {arms} arms of {each} bytes each, expected at most {MAX_RESOLVED} bytes in all"
            );
            return Err(Error::input((self.place)("arm"), problem));
        }
        Ok(())
    }

    /// The grid's keys with their values; refused where it could look at test questions.
    fn grid(&self) -> Result<Vec<(String, Vec<Value>)>> {
        let mut grid = Vec::new();
        for (path, values) in flatten(&self.config.grid) {
            let place = (self.place)(&format!("grid.{path}"));
            let values = match values {
                Value::Array(values) if !values.is_empty() => values,
                other => {
                    return Err(Error::input(place, format!("found {other}, expected a list of values")));
                }
            };
            self.check_shared(&path, &place)?;
            if path == "run.preset" {
                return Err(Error::input(place, "a preset sets many keys at once; name it in an [[arm]]"));
            }
            grid.push((path, values));
        }
        Ok(grid)
    }

    /// An arm's configuration: its preset, its overrides and its point of the grid over `table`,
    /// the run's without arms and grid.
    fn resolve(
        &self,
        mut table: Table,
        overrides: Overrides,
        point: &[(&str, &Value)],
        recipe: &RecipeInfo,
        at: &dyn Fn(&str) -> Place,
    ) -> Result<RunConfig> {
        if let Some(Value::String(name)) = overrides.get("run.preset") {
            merge(&mut table, presets::layer(presets::named(name, || at("set.run.preset"))?));
        }
        let in_grid = |path: &str| point.iter().any(|(p, _)| *p == path);
        let place_of = |path: &str| {
            if in_grid(path) {
                (self.place)(&format!("grid.{path}"))
            } else if overrides.contains_key(path) {
                at(&format!("set.{path}"))
            } else {
                (self.place)(path)
            }
        };
        let mut named = Table::new();
        for section in ["task", "transfer"] {
            let path = format!("{section}.name");
            let of_point = point.iter().find(|(p, _)| *p == path).map(|(_, value)| *value);
            if let Some(name) = overrides.get(&path).or(of_point) {
                insert(&mut named, &path, name.clone());
            }
        }
        forget_other_task(&mut table, &named);
        for (path, value) in &overrides {
            let place = at(&format!("set.{path}"));
            self.check_shared(path, &place)?;
            if in_grid(path) {
                return Err(Error::input(place, format!("[grid] sets `{path}` for every arm")));
            }
            self.put(&mut table, path, value, &place)?;
        }
        for (path, value) in point {
            self.put(&mut table, path, value, &place_of(path))?;
        }
        let resolved = deserialize(&table, self.source, &place_of)?;
        validate::check(&resolved, &place_of)?;
        if !self.config.grid.is_empty() {
            let transferred = resolved.transfer.as_ref().map_or(0, |t| t.test_questions);
            for (key, count) in [
                ("task.test_questions", resolved.task.test_questions),
                ("transfer.test_questions", transferred),
            ] {
                if count > 0 {
                    let problem = "tuning never touches test questions; with [grid] this must be 0";
                    return Err(Error::input(place_of(key), format!("found {count}: {problem}")));
                }
            }
        }
        self.check_options(&resolved, recipe, &place_of)?;
        (self.check)(recipe, &resolved).map_err(|(key, problem)| Error::input(place_of(key), problem))?;
        Ok(resolved)
    }

    fn put(&self, table: &mut Table, path: &str, value: &Value, place: &Place) -> Result<()> {
        // Before it is nested as deep as it has dots.
        if path.split('.').count() > MAX_DEPTH {
            return Err(Error::input(
                place.clone(),
                format!(
                    "found {} keys one in another, expected at most {MAX_DEPTH}",
                    path.split('.').count()
                ),
            ));
        }
        let mut nested = Table::new();
        insert(&mut nested, path, value.clone());
        check_table(&nested, self.schema, "", &|_| place.clone())?;
        absolute_paths(&mut nested, self.folders);
        merge(table, nested);
        Ok(())
    }

    /// What all arms share is no arm's to change.
    fn check_shared(&self, path: &str, place: &Place) -> Result<()> {
        let shared = ["model.", "report.", "grid.", "arm"].iter().any(|s| path.starts_with(s))
            || (path.starts_with("run.") && path != "run.preset" && path != "run.iterations");
        if shared {
            return Err(Error::input(
                place.clone(),
                format!("`{path}` is shared by all arms; set it outside [[arm]]"),
            ));
        }
        Ok(())
    }

    /// Keys of other recipes' must have their defaults: nothing is accepted and then ignored.
    fn check_options(
        &self,
        config: &RunConfig,
        recipe: &RecipeInfo,
        place: &dyn Fn(&str) -> Place,
    ) -> Result<()> {
        let values = |config: &RunConfig| Table::try_from(config).map_err(|e| Error::Internal(e.to_string()));
        let (found, defaults) = (values(config)?, values(&RunConfig::default())?);
        for option in self.recipes.iter().flat_map(|r| r.options).filter(|o| !recipe.options.contains(o)) {
            let of = |table: &Table| {
                let (section, key) = option.split_once('.')?;
                table.get(section)?.as_table()?.get(key).cloned()
            };
            if of(&found) != of(&defaults) {
                let readers = self.recipes.iter().filter(|r| r.options.contains(option));
                let readers: Vec<&str> = readers.map(|r| r.name).collect();
                return Err(Error::input(
                    place(option),
                    format!("`{option}` is read by {} only, not by `{}`", list(&readers), recipe.name),
                ));
            }
        }
        Ok(())
    }

    /// The primary comparison is between two arms that both measure what is compared. With a grid
    /// it names arms as they stand in the file.
    fn check_primary(&self, primary: &PrimarySection, sections: &[ArmSection], arms: &[Arm]) -> Result<()> {
        let at = |key: &str| (self.place)(&format!("report.primary.{key}"));
        for (key, name) in [("arm", &primary.arm), ("against", &primary.against)] {
            let gridded = sections.iter().any(|s| s.name == *name);
            let of: Vec<&Arm> = arms
                .iter()
                .filter(|a| a.name == *name || gridded && a.name.split('@').next() == Some(name))
                .collect();
            let Some(first) = of.first() else {
                let known: Vec<&str> = sections.iter().map(|s| s.name.as_str()).collect();
                return Err(Error::input(
                    at(key),
                    format!("no arm is called `{name}`; there are {}", list(&known)),
                ));
            };
            let (method, measured) = (primary.method, primary.method.needs());
            if !first.config.eval.methods.contains(&measured) {
                return Err(Error::input(
                    at("method"),
                    format!("`{method}` needs `{measured}` in eval.methods, which `{name}` has not"),
                ));
            }
            let last = if first.recipe.is_trained { first.config.run.iterations } else { 0 };
            if primary.iteration > last {
                return Err(Error::input(
                    at("iteration"),
                    format!("found {}, but the last iteration of `{name}` is {last}", primary.iteration),
                ));
            }
        }
        if primary.arm == primary.against {
            return Err(Error::input(at("against"), "an arm is not compared with itself"));
        }
        Ok(())
    }
}

/// All combinations of the grid's values, one with nothing if there is no grid. What trains nothing
/// has no use for training settings.
fn points(grid: &[(String, Vec<Value>)], is_trained: bool) -> Vec<Vec<(&str, &Value)>> {
    let of_training = |path: &str| path.starts_with("training.") || path.starts_with("adapter.");
    let mut points = vec![vec![]];
    for (path, values) in grid.iter().filter(|(path, _)| is_trained || !of_training(path)) {
        let with = |point: &Vec<_>| {
            let more = values.iter().map(|value| [point.clone(), vec![(path.as_str(), value)]].concat());
            more.collect::<Vec<_>>()
        };
        points = points.iter().flat_map(with).collect();
    }
    points
}

/// `NAME@key=value,…`: the last part of a key where that tells the grid's keys apart, else all of it.
fn point_name(arm: &str, point: &[(&str, &Value)], grid: &[(String, Vec<Value>)]) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let parts: Vec<String> = point
        .iter()
        .map(|(path, value)| {
            let alone = grid.iter().filter(|(p, _)| last(p) == last(path)).count() == 1;
            let key = if alone { last(path) } else { path.to_string() };
            let written = match value {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
            format!("{key}={}", written.chars().map(safe).collect::<String>())
        })
        .collect();
    if parts.is_empty() { arm.to_string() } else { format!("{arm}@{}", parts.join(",")) }
}

/// Overrides by full dotted path, whether they were written `"debate.rounds" = 3` or `debate.rounds = 3`.
pub(super) fn flatten<'a>(set: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Overrides {
    fn walk(path: String, value: &Value, out: &mut Overrides) {
        match value {
            Value::Table(t) => t.iter().for_each(|(k, v)| walk(format!("{path}.{k}"), v, out)),
            v => {
                out.insert(path, v.clone());
            }
        }
    }
    let mut out = BTreeMap::new();
    set.into_iter().for_each(|(k, v)| walk(k.clone(), v, &mut out));
    out
}
