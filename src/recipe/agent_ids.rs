//! One model with agent ids (arXiv 2501.05707, appendix E.2): is it the weights that make agents differ, or would a name do?

use futures::future::LocalBoxFuture;

use super::finetune::Lesson;
use super::registry::{AGENT, Recipe, SocietyNames};
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;
use crate::measure::record::Data;
use crate::run::{RecipeInfo, RunConfig};

/// One adapter plays all agents, and every prompt says which agent it is. It is finetuned on the union of what all generators and critics of
/// multiagent finetuning would learn, each example with its agent's id.
pub struct AgentIds;

impl Recipe for AgentIds {
    fn info(&self) -> RecipeInfo {
        RecipeInfo {
            tells_ids: true,
            ..RecipeInfo::new(
                "agent-ids",
                "one adapter whose prompts say which agent it is; learns what all generators and critics would",
            )
        }
    }

    fn society(&self, config: &RunConfig) -> SocietyNames {
        SocietyNames::uniform(AGENT, config)
    }

    fn learns_trajectories(&self, config: &RunConfig) -> bool {
        config.debate.rounds > 1
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

        let sets = lane.agent_sets(iteration, &debates, &labels, lane.config.debate.rounds > 1)?;
        let examples = sets.generators.into_iter().chain(sets.critics).flatten().collect();
        let lesson = Lesson::new(&student, examples, &lane.training, Data::default());
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student]).await
}
