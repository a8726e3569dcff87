//! The samples that single answers and votes are read from, each drawn once.

use std::ops::Range;

use futures::future::{FutureExt, LocalBoxFuture};

use super::grade::Papers;
use super::{Evaluation, Examination, Method, Paper};
use crate::engine::Scope;
use crate::error::Result;
use crate::task::Question;

/// Those of this range; what stands before it is the debate's.
pub struct Samples(pub Range<usize>);

impl Method for Samples {
    fn ask<'a>(
        &'a self,
        exam: &'a Examination<'_>,
        question: &'a Question,
        scope: &'a Scope,
    ) -> LocalBoxFuture<'a, Result<Paper>> {
        async move {
            let (scope, which) = (scope.child("samples"), self.0.clone());
            let asked = exam.table.first_answers(&scope, question, exam.society, exam.occasion, which, false);
            Ok(Paper { samples: asked.await?, ..Paper::default() })
        }
        .boxed_local()
    }

    /// Kept where the debates' transcripts do not have all of them.
    fn grade(&self, papers: &Papers<'_>, to: &mut Evaluation) -> Result<()> {
        if !self.0.is_empty() {
            to.transcripts.push(("samples", papers.transcripts(|paper| &paper.samples)?));
        }
        Ok(())
    }
}
