//! A run that goes on under a larger configuration: more arms, more seeds, what there is unchanged.

use toml::{Table, Value};

use super::{Arm, Plan, RunConfig};
use crate::choice::list;
use crate::error::{Error, Result};

/// Returns `wanted` as what the run of `plan` becomes. Where and how to compute (`run.device`,
/// `run.threads` and the like) stays as it was.
///
/// # Errors
/// An arm or a seed of the run that is missing in `wanted`, or an arm whose settings differ: its
/// results so far would not be those of the configuration. `place` is what to call `wanted`.
pub fn extend(plan: &Plan, wanted: Plan, place: &str) -> Result<Plan> {
    let mut wanted = wanted;
    let computes = &plan.config.run;
    for config in std::iter::once(&mut wanted.config).chain(wanted.arms.iter_mut().map(|a| &mut a.config)) {
        config.run.device.clone_from(&computes.device);
        config.run.memory.clone_from(&computes.memory);
        config.run.threads = computes.threads;
        config.run.micro_batch_rows = computes.micro_batch_rows;
        config.run.step_rows = computes.step_rows;
        config.run.max_sequences = computes.max_sequences;
    }
    if plan.config.model != wanted.config.model {
        return Err(Error::input(
            format!("{place}: model.path"),
            format!("found `{}`, the run has `{}`", wanted.config.model.path, plan.config.model.path),
        ));
    }
    for arm in &plan.arms {
        let Some(now) = wanted.arms.iter().find(|a| a.name == arm.name) else {
            let names: Vec<&str> = wanted.arms.iter().map(|a| a.name.as_str()).collect();
            return Err(Error::input(
                place,
                format!("the run has an arm `{}`, the configuration only {}", arm.name, list(&names)),
            ));
        };
        if let Some(seed) = arm.seeds.iter().find(|s| !now.seeds.contains(s)) {
            return Err(Error::input(
                format!("{place}: seeds of arm {}", arm.name),
                format!("the run has seed {seed}, the configuration only {:?}", now.seeds),
            ));
        }
        if let Some(difference) = difference(arm, now)? {
            return Err(Error::input(format!("{place}: arm {}", arm.name), difference));
        }
    }
    Ok(wanted)
}

/// The first setting in which two versions of an arm differ, but for what says nothing about its lanes' results.
fn difference(then: &Arm, now: &Arm) -> Result<Option<String>> {
    if then.recipe != now.recipe {
        return Ok(Some(format!("found recipe `{}`, the run has `{}`", now.recipe.name, then.recipe.name)));
    }
    let (then, now) = (settings(&then.config)?, settings(&now.config)?);
    Ok(differing(&then, &now, "").map(|(path, then, now)| {
        format!("found {path} = {}, the run has {}", text(now.as_ref()), text(then.as_ref()))
    }))
}

fn settings(config: &RunConfig) -> Result<Table> {
    let mut config = config.clone();
    // A seed is a lane's name; the comparison is drawn from results.
    config.run.seeds = Vec::new();
    config.report = Default::default();
    Table::try_from(&config).map_err(|e| Error::Internal(format!("configuration as TOML: {e}")))
}

type Difference = (String, Option<Value>, Option<Value>);

fn differing(then: &Table, now: &Table, prefix: &str) -> Option<Difference> {
    then.keys().chain(now.keys().filter(|k| !then.contains_key(*k))).find_map(|key| {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match (then.get(key), now.get(key)) {
            (a, b) if a == b => None,
            (Some(Value::Table(a)), Some(Value::Table(b))) => differing(a, b, &path),
            (a, b) => Some((path, a.cloned(), b.cloned())),
        }
    })
}

fn text(value: Option<&Value>) -> String {
    value.map_or("nothing".into(), ToString::to_string)
}
