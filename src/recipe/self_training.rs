//! Self-training without a filter: what is left of single-agent finetuning when the vote is taken away.

use futures::future::LocalBoxFuture;

use super::data::all_answers;
use super::finetune::Lesson;
use super::majority_ft::samples;
use super::registry::{AGENT, Recipe, SocietyNames};
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;
use crate::measure::record::Data;
use crate::run::{RecipeInfo, RunConfig};

/// One adapter answers every question k times and is finetuned on every answer that parses, right or wrong; k is `training.samples`.
pub struct SelfTraining;

impl Recipe for SelfTraining {
    fn info(&self) -> RecipeInfo {
        RecipeInfo {
            options: &["training.samples"],
            debates: false,
            ..RecipeInfo::new(
                "self-training",
                "one adapter, samples without a debate; learns every one that has an answer",
            )
        }
    }

    fn society(&self, config: &RunConfig) -> SocietyNames {
        SocietyNames::uniform(AGENT, config)
    }

    fn run(&self, lane: Lane, examiner: Examiner) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(run(lane, examiner))
    }
}

async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    let student = lane.student(AGENT).await?;
    let society = Society::uniform(student.adapter, lane.agents());
    examiner.before(&society).await?;

    for iteration in 1..=lane.config.run.iterations {
        let sampled = lane.samples(iteration, &society, samples(&lane.config)).await?;
        examiner.own_answers(iteration, &sampled)?;

        let lesson = Lesson::new(&student, all_answers(&sampled), &lane.training, Data::default());
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student]).await
}
