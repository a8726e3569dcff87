//! One sample of every generator.

use super::grade::Papers;
use super::{Evaluation, Method};
use crate::error::Result;

pub struct Single;

impl Method for Single {
    fn grade(&self, papers: &Papers<'_>, to: &mut Evaluation) -> Result<()> {
        let agents = papers.exam.society.agents();
        let (answers, accuracy) = papers.answers(|paper| &paper.samples[..agents]);
        to.line.push(format!("single {}", accuracy.percent()));
        to.record.single = Some(answers);
        let letters = papers.letters(agents, |paper| &paper.samples);
        to.record.outcomes.get_or_insert_default().single = Some(letters);
        Ok(())
    }
}
