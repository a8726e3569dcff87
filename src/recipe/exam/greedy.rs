//! The most likely answer of every generator.

use futures::future::{FutureExt, LocalBoxFuture};

use super::grade::Papers;
use super::{Evaluation, Examination, Method, Paper};
use crate::engine::Scope;
use crate::error::Result;
use crate::task::Question;

pub struct Greedy;

impl Method for Greedy {
    fn ask<'a>(
        &'a self,
        exam: &'a Examination<'_>,
        question: &'a Question,
        scope: &'a Scope,
    ) -> LocalBoxFuture<'a, Result<Paper>> {
        async move {
            let (scope, who) = (scope.child("greedy"), 0..exam.distinct());
            let asked = exam.table.first_answers(&scope, question, exam.society, exam.occasion, who, true);
            Ok(Paper { greedy: asked.await?, ..Paper::default() })
        }
        .boxed_local()
    }

    fn grade(&self, papers: &Papers<'_>, to: &mut Evaluation) -> Result<()> {
        let (answers, accuracy) = papers.answers(|paper| &paper.greedy);
        to.line.push(format!("greedy {}", accuracy.percent()));
        to.record.greedy = Some(answers);
        let letters = papers.letters(papers.exam.distinct(), |paper| &paper.greedy);
        to.record.outcomes.get_or_insert_default().greedy = Some(letters);
        to.transcripts.push(("greedy", papers.transcripts(|paper| &paper.greedy)?));
        Ok(())
    }
}
