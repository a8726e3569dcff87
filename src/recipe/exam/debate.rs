//! The debate: the votes of its rounds, and its answers.

use futures::future::{FutureExt, LocalBoxFuture};

use super::grade::{Papers, agreement, per_agent, rates, transcript};
use super::{Evaluation, Examination, Method, Paper};
use crate::debate::{Debate, Round, Vote};
use crate::engine::Scope;
use crate::error::Result;
use crate::measure::record::{self, Digits};
use crate::task::Question;

pub struct Debated;

impl Method for Debated {
    fn ask<'a>(
        &'a self,
        exam: &'a Examination<'_>,
        question: &'a Question,
        scope: &'a Scope,
    ) -> LocalBoxFuture<'a, Result<Paper>> {
        async move {
            let scope = scope.child("debate");
            let debate = exam.table.debate(&scope, question, exam.society, exam.occasion).await?;
            Ok(Paper { debate: Some(debate), ..Paper::default() })
        }
        .boxed_local()
    }

    fn grade(&self, papers: &Papers<'_>, to: &mut Evaluation) -> Result<()> {
        let debates: Vec<&Debate> = papers.papers.iter().filter_map(|p| p.debate.as_ref()).collect();
        let count = debates.first().map_or(0, |d| d.rounds.len());
        let outcomes = to.record.outcomes.get_or_insert_default();
        let (mut turns, mut voted, mut counts) = (vec![], vec![], vec![]);
        let mut rounds = Vec::new();
        for m in 0..count {
            let round: Vec<&Round> = debates.iter().map(|d| &d.rounds[m]).collect();
            let votes: Vec<Vote> = round.iter().map(|r| r.vote.clone()).collect();
            let accuracy = papers.accuracy(&votes);
            to.line.push(match m + 1 {
                last if last == count => format!("debate {}", accuracy.percent()),
                earlier => format!("vote of round {earlier} {}", accuracy.percent()),
            });
            let all: Vec<_> = papers.questions.iter().zip(round.iter().map(|r| &r.turns[..])).collect();
            rounds.push(record::Round {
                accuracy: accuracy.value,
                standard_error: accuracy.standard_error,
                agents: per_agent(&all, papers.exam.answers),
                agreement: agreement(&round),
                rates: rates(round.iter().flat_map(|r| &r.turns)),
            });
            let agents = papers.exam.society.agents();
            turns.push(papers.letters(agents, |p| p.debate.as_ref().map_or(&[][..], |d| &d.rounds[m].turns)));
            voted.push(papers.vote_letters(&votes));
            counts.push(Digits(votes.iter().map(|v| v.votes).collect()));
        }
        (outcomes.debate, outcomes.vote, outcomes.votes) = (Some(turns), Some(voted), Some(counts));
        let last = rounds.last().cloned().unwrap_or_default();
        to.record.debate = Some(record::Debated { last, rounds, costs_samples: papers.budget() });
        let graded = debates.iter().map(|debate| transcript(debate, papers.exam.answers));
        to.transcripts.push(("debate", graded.collect::<Result<_>>()?));
        Ok(())
    }
}
