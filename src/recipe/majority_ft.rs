//! Majority finetuning (the baseline of arXiv 2501.05707, section 3.2).

use futures::future::LocalBoxFuture;

use super::data::matching_answers;
use super::finetune::Lesson;
use super::registry::{AGENT, Recipe, SocietyNames};
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;
use crate::measure::record::Data;
use crate::run::{Checked, RecipeInfo, RunConfig, Standing};

/// One adapter answers every question k times, the answers vote, and it is finetuned on all that match the vote. No debate is held to make
/// data; k is `training.samples`.
pub struct MajorityFt;

impl Recipe for MajorityFt {
    fn info(&self) -> RecipeInfo {
        RecipeInfo {
            options: &["training.samples"],
            debates: false,
            standing: Standing::Baseline,
            ..RecipeInfo::new(
                "majority-ft",
                "one adapter, samples without a debate; learns those that match their vote",
            )
        }
    }

    /// A label must be reachable by the samples that vote.
    fn check(&self, config: &RunConfig) -> Checked {
        let (samples, wanted) = (samples(config), config.debate.min_agreement);
        if wanted <= samples {
            return Ok(());
        }
        Err((
            "debate.min_agreement",
            format!("found {wanted}, expected at most the {samples} samples that vote"),
        ))
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
        let labels = lane.pseudo_labels(&sampled);
        examiner.pseudo_labels(iteration, &sampled, &labels)?;

        let examples = matching_answers(&sampled, &labels);
        let lesson = Lesson::new(&student, examples, &lane.training, Data::default());
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student]).await
}

/// Answers sampled to a training question where there is no debate.
pub fn samples(config: &RunConfig) -> usize {
    if config.training.samples == 0 { config.debate.agents } else { config.training.samples }
}
