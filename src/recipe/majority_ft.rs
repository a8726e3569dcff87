//! Majority finetuning (the baseline of arXiv 2501.05707, section 3.2).

use serde_json::json;

use super::catalogue::samples;
use super::data::matching_answers;
use super::finetune::Lesson;
use super::single_agent::NAME;
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;

/// One adapter answers every question k times, the answers vote, and it is finetuned on all that match the vote. No debate is held to make
/// data; k is `training.samples`.
pub async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    let student = lane.student(NAME).await?;
    let society = Society::uniform(student.adapter, lane.agents());
    examiner.before(&society).await?;

    for iteration in 1..=lane.config.run.iterations {
        let sampled = lane.samples(iteration, &society, samples(&lane.config)).await?;
        let labels = lane.pseudo_labels(&sampled);
        examiner.pseudo_labels(iteration, &sampled, &labels)?;

        let examples = matching_answers(&sampled, &labels);
        let lesson = Lesson::new(&student, examples, &lane.training, json!({}));
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student]).await
}
