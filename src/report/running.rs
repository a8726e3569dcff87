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
        let known = self.asking.contains(&line.arm);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Outcome;
    use crate::measure::record::{Evaluation, Letters, Majority, Outcomes, Record};

    fn line(arm: &str, seed: u64, iteration: u64, letters: &str) -> Line {
        let letters = Letters(Outcome::read(letters).unwrap());
        let right = letters.0.iter().filter(|o| **o == Outcome::Right).count();
        let accuracy = right as f64 / letters.0.len() as f64;
        let record = Evaluation {
            questions: letters.0.len(),
            majority: Some(Majority { accuracy, standard_error: 0.1, samples: 3, ..Majority::default() }),
            outcomes: Some(Outcomes { majority: Some(letters), ..Outcomes::default() }),
            asks_for_labels: arm == "b",
            ..Evaluation::default()
        };
        Line { arm: arm.into(), seed, iteration, record: Record::Evaluation("dev", record.into()) }
    }

    #[test]
    fn the_table_is_that_of_all_lines_whatever_came_first() {
        // The untrained arm is late, and a lane of `a` is ahead.
        let lines = [
            line("a", 1, 0, "1010"),
            line("b", 0, 0, "1000"),
            line("a", 0, 0, "1110"),
            line("a", 0, 1, "1111"),
            line("a", 0, 2, "0000"),
            line("b", 0, 1, "110-"),
            line("a", 1, 1, "0110"),
            line("base", 0, 0, "0011"),
        ];
        let arms = ["base", "a", "b"];
        let mut running = Running::new(arms.map(String::from).to_vec());
        let mut shown = 0;
        for (n, line) in lines.iter().enumerate() {
            running.add(line.clone());
            let Some(iteration) = [(6, 1), (7, 0)].iter().find(|(at, _)| *at == n) else { continue };
            let so_far: Vec<Line> =
                lines[..=n].iter().filter(|l| l.iteration <= iteration.1).cloned().collect();
            let expected = accuracy(&means_of(&so_far, &arms, &["dev"]), &["b"], "dev").unwrap();
            assert_eq!(running.table(iteration.1), Some(expected.clone()));
            assert!(expected.contains("b *") && expected.contains("half the 95 % interval"), "{expected}");
            shown += 1;
        }
        assert_eq!(shown, 2);
    }
}
