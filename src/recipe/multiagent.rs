//! Multiagent finetuning (arXiv 2501.05707, Algorithm 1), and its ablations and controls.

use futures::future::LocalBoxFuture;

use super::finetune::Lesson;
use super::registry::{BASE, Recipe, SocietyNames, names};
use super::sets::about_mix;
use super::{Examiner, Lane};
use crate::debate::{Society, Speaker};
use crate::engine::AdapterId;
use crate::error::Result;
use crate::measure::record::Data;
use crate::run::{Critics, DataOf, LabelsOf, RecipeInfo, RunConfig, Standing};

/// N agents debate, vote, and each is finetuned on its own part of what the debate produced; L times.
///
/// A generator answers first, a critic answers in the later rounds: 2N adapters, all starting as the base model. With one
/// round, or with `debate.critics` other than `own`, there are no critics to finetune.
pub struct Multiagent;

impl Recipe for Multiagent {
    fn info(&self) -> RecipeInfo {
        RecipeInfo {
            options: &["debate.critics", "training.data", "training.labels"],
            standing: Standing::Method,
            ..RecipeInfo::new(
                "multiagent",
                "N generators and N critics, each finetuned on its own part of the debates",
            )
        }
    }

    fn society(&self, config: &RunConfig) -> SocietyNames {
        let agents = config.debate.agents;
        let generators = names("generator", agents);
        let critics = match config.debate.critics {
            Critics::Own if config.debate.rounds > 1 => names("critic", agents),
            Critics::Base if config.debate.rounds > 1 => vec![BASE.to_string(); agents],
            _ => generators.clone(),
        };
        SocietyNames { generators, critics }
    }

    fn learns_trajectories(&self, config: &RunConfig) -> bool {
        config.debate.critics == Critics::Own && config.debate.rounds > 1
    }

    fn run(&self, lane: Lane, examiner: Examiner) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(run(lane, examiner))
    }
}

async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    let generators = lane.students("generator").await?;
    let (rounds, who) = (lane.config.debate.rounds, lane.config.debate.critics);
    let critics = if rounds > 1 && who == Critics::Own { lane.students("critic").await? } else { vec![] };
    let of_generators: Vec<Speaker> = generators.iter().map(|s| s.adapter.into()).collect();
    let of_critics = match who {
        Critics::Own => critics.iter().map(|s| s.adapter.into()).collect(),
        Critics::Base => vec![AdapterId::BASE.into(); lane.agents()],
        Critics::Generator => of_generators.clone(),
    };
    let society = Society { generators: of_generators, critics: of_critics };
    examiner.before(&society).await?;

    for iteration in 1..=lane.config.run.iterations {
        let debates = lane.debates(iteration, &society).await?;
        let labels = lane.pseudo_labels(&debates);
        examiner.pseudo_labels(iteration, &debates, &labels)?;

        let mut sets = lane.agent_sets(iteration, &debates, &labels, !critics.is_empty())?;
        if lane.training.section.labels == LabelsOf::Shuffled {
            sets = lane.shuffled(iteration, &debates, sets)?;
        }
        if lane.training.section.data == DataOf::Dealt {
            sets = lane.dealt(iteration, &debates, sets);
        }
        let mut lessons = Vec::new();
        for (student, examples) in generators.iter().zip(sets.generators) {
            lessons.push(Lesson::new(student, examples, &lane.training, Data::default()));
        }
        for ((student, examples), shares) in critics.iter().zip(sets.critics).zip(&sets.shares) {
            let training = &lane.critic_training;
            lessons.push(Lesson::new(student, examples, training, about_mix(shares, training)));
        }
        lane.finetune(iteration, lessons).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&generators).await?;
    lane.dismiss(&critics).await
}
