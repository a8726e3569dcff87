//! The vote over samples, and over fewer of them.

use super::grade::{Papers, rates};
use super::{Evaluation, Method};
use crate::debate::Vote;
use crate::error::Result;
use crate::measure::record;

/// Over this many samples.
pub struct Majority(pub usize);

/// Numbers of samples whose votes are given: 1, 3, 5, … of those that vote.
fn sizes(voters: usize) -> impl Iterator<Item = usize> {
    (1..=voters).step_by(2)
}

impl Method for Majority {
    fn grade(&self, papers: &Papers<'_>, to: &mut Evaluation) -> Result<()> {
        let exam = papers.exam;
        let votes = |k: usize| -> Vec<Vote> {
            papers.each().map(|(q, p)| exam.table.vote(q, exam.occasion, &p.samples[..k])).collect()
        };
        let vote_of = |k: usize| {
            let accuracy = papers.accuracy(&votes(k));
            record::VoteOf { samples: k, accuracy: accuracy.value, standard_error: accuracy.standard_error }
        };
        let all = votes(self.0);
        let accuracy = papers.accuracy(&all);
        to.line.push(format!("majority of {} {}", self.0, accuracy.percent()));
        to.record.majority = Some(record::Majority {
            accuracy: accuracy.value,
            standard_error: accuracy.standard_error,
            samples: self.0,
            rates: rates(papers.papers.iter().flat_map(|p| &p.samples[..self.0])),
            by_samples: sizes(self.0).map(vote_of).collect(),
            budget: papers.budget().filter(|k| *k <= self.0).map(vote_of),
        });
        let drawn = papers.papers.first().map_or(0, |p| p.samples.len());
        let outcomes = to.record.outcomes.get_or_insert_default();
        outcomes.majority = Some(papers.vote_letters(&all));
        outcomes.samples = Some(papers.letters(drawn, |p| &p.samples));
        Ok(())
    }
}
