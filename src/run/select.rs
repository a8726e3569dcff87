//! Some arms and seeds of an experiment: lanes do not know of one another, so parts that run at
//! different times or on different machines give the bits that they give together.

use super::Plan;
use crate::choice::list;
use crate::error::{Error, Result};

/// An arm to run, and which of its seeds (all of them unless given): `multiagent` or `multiagent=10,11`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Its name in the configuration.
    pub arm: String,
    /// Some of its seeds.
    pub seeds: Option<Vec<u64>>,
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let Some((arm, seeds)) = text.split_once('=') else {
            return Ok(Self { arm: text.to_string(), seeds: None });
        };
        let seeds = seeds
            .split(',')
            .map(|s| {
                s.trim().parse().map_err(|_| format!("`{s}` is no seed: expected NAME or NAME=SEED,SEED"))
            })
            .collect::<std::result::Result<Vec<u64>, _>>()?;
        Ok(Self { arm: arm.to_string(), seeds: Some(seeds) })
    }
}

/// Leaves only the selected arms and seeds (all where nothing is selected). A primary comparison
/// that then lacks a side is left out.
///
/// # Errors
/// An arm that the plan does not have, or a seed that its arm does not have.
pub fn select(plan: &mut Plan, selections: &[Selection]) -> Result<()> {
    if selections.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = plan.config.arm.iter().map(|a| a.name.as_str()).collect();
    for (i, s) in selections.iter().enumerate() {
        if selections[..i].iter().any(|other| other.arm == s.arm) {
            return Err(Error::Usage(format!(
                "--arm {}: given twice; its seeds go together: NAME=SEED,SEED",
                s.arm
            )));
        }
        let mut given = s.seeds.clone().unwrap_or_default();
        given.sort_unstable();
        if let Some(pair) = given.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Usage(format!("--arm {}: seed {} is given twice", s.arm, pair[0])));
        }
        let Some(arm) = plan.config.arm.iter().find(|a| a.name == s.arm) else {
            return Err(Error::Usage(format!(
                "--arm {}: there is no such arm; there are {}",
                s.arm,
                list(&names)
            )));
        };
        let seeds = arm.seeds.as_ref().unwrap_or(&plan.config.run.seeds);
        if let Some(seed) = s.seeds.iter().flatten().find(|s| !seeds.contains(s)) {
            return Err(Error::Usage(format!(
                "--arm {}: seed {seed} is not among its seeds {seeds:?}",
                s.arm
            )));
        }
    }
    let selected = |name: &str| selections.iter().find(|s| s.arm == name);
    plan.config.arm.retain(|a| selected(&a.name).is_some());
    for arm in &mut plan.config.arm {
        if let Some(seeds) = selected(&arm.name).and_then(|s| s.seeds.clone()) {
            arm.seeds = Some(seeds);
        }
    }
    // A grid's arms are called ARM@POINT.
    let of = |name: &str| name.split_once('@').map_or(name, |(arm, _)| arm).to_string();
    plan.arms.retain(|a| selected(&of(&a.name)).is_some());
    for arm in &mut plan.arms {
        if let Some(seeds) = selected(&of(&arm.name)).and_then(|s| s.seeds.clone()) {
            arm.seeds = seeds;
        }
    }
    let report = &mut plan.config.report;
    report.primary =
        report.primary.take().filter(|p| selected(&p.arm).is_some() && selected(&p.against).is_some());
    Ok(())
}
