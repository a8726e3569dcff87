//! Self-training without a filter: what is left of single-agent finetuning when the vote is taken away.

use serde_json::json;

use super::catalogue::samples;
use super::data::all_answers;
use super::finetune::Lesson;
use super::single_agent::NAME;
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;

/// One adapter answers every question k times and is finetuned on every answer that parses, right or wrong; k is `training.samples`.
pub async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    let student = lane.student(NAME).await?;
    let society = Society::uniform(student.adapter, lane.agents());
    examiner.before(&society).await?;

    for iteration in 1..=lane.config.run.iterations {
        let sampled = lane.samples(iteration, &society, samples(&lane.config)).await?;
        examiner.own_answers(iteration, &sampled)?;

        let lesson = Lesson::new(&student, all_answers(&sampled), &lane.training, json!({}));
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student]).await
}
