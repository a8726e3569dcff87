//! The table of accuracies while a run goes on, from what was measured so far.

use std::collections::BTreeMap;

use super::scores::{Mean, means_of};
use super::tables::{accuracy, asking};
use crate::measure::record::Line;

/// What a run has measured on dev questions. Of an iteration that is complete only means are kept.
pub struct Running {
    /// The arms, in the order of the table.
    arms: Vec<String>,
    /// Those whose training is given right answers.
    asking: Vec<String>,
    incomplete: BTreeMap<u64, Vec<Line>>,
    complete: BTreeMap<u64, Vec<Mean>>,
}

impl Running {
    /// Of these arms, in the order of their lanes.
    pub fn new(arms: Vec<String>) -> Self {
        Self { arms, asking: vec![], incomplete: BTreeMap::new(), complete: BTreeMap::new() }
    }

    /// Adds an evaluation on dev questions.
    pub fn add(&mut self, line: Line) {
        let known = self.asking.iter().any(|a| *a == line.arm);
        self.asking
            .extend(asking(std::slice::from_ref(&line)).iter().filter(|_| !known).map(|a| a.to_string()));
        self.incomplete.entry(line.iteration).or_default().push(line);
    }

    /// The table up to an iteration that all lanes have measured.
    pub fn table(&mut self, iteration: u64) -> Option<String> {
        let arms: Vec<&str> = self.arms.iter().map(String::as_str).collect();
        if let Some(lines) = self.incomplete.remove(&iteration) {
            let mut means = means_of(&lines, &arms, &["dev"]);
            means.iter_mut().flat_map(|m| &mut m.seeds).for_each(|(_, score)| score.outcomes = vec![]);
            self.complete.insert(iteration, means);
        }
        let others =
            self.incomplete.range(..iteration).flat_map(|(_, lines)| means_of(lines, &arms, &["dev"]));
        let mut means: Vec<Mean> = self.complete.range(..=iteration).flat_map(|(_, m)| m.clone()).collect();
        means.extend(others);
        means.sort_by_key(|m| (arms.iter().position(|a| *a == m.arm), m.iteration, m.method));
        let asking: Vec<&str> = self.asking.iter().map(String::as_str).collect();
        accuracy(&means, &asking, "dev")
    }
}
