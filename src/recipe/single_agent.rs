//! The single-agent baseline of Multiagent Finetuning (arXiv 2501.05707, section 4.1).

use futures::future::LocalBoxFuture;

use super::data::matching_answers;
use super::finetune::Lesson;
use super::registry::{AGENT, Recipe, SocietyNames};
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;
use crate::measure::record::Data;
use crate::run::{Matching, RecipeInfo, RunConfig, Standing};

/// One adapter plays all agents of the debate, in all rounds, and is finetuned on every first answer that matches the vote.
///
/// With `training.match = "gradient-tokens"` as many tokens carry gradients as multiagent finetuning would have used on these debates: the
/// sets of generators and critics are made from them to be counted, and the data are gone over until that number is reached.
pub struct SingleAgent;

impl Recipe for SingleAgent {
    fn info(&self) -> RecipeInfo {
        RecipeInfo {
            options: &["training.match"],
            standing: Standing::OneModel,
            ..RecipeInfo::new(
                "single-agent",
                "one adapter plays all agents of the debate and learns first answers that match the vote",
            )
        }
    }

    fn society(&self, config: &RunConfig) -> SocietyNames {
        SocietyNames::uniform(AGENT, config)
    }

    // It counts what the agents of multiagent finetuning would learn.
    fn learns_trajectories(&self, config: &RunConfig) -> bool {
        config.training.matching == Matching::GradientTokens && config.debate.rounds > 1
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
        let debates = lane.debates(iteration, &society).await?;
        let labels = lane.pseudo_labels(&debates);
        examiner.pseudo_labels(iteration, &debates, &labels)?;

        let examples = matching_answers(&debates, &labels);
        let mut lesson = Lesson::new(&student, examples, &lane.training, Data::default());
        if lane.training.section.matching == Matching::GradientTokens {
            let critics = lane.config.debate.rounds > 1;
            let target = lane.gradient_tokens(&lane.agent_sets(iteration, &debates, &labels, critics)?);
            lesson = lesson.until(target);
        }
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student]).await
}
