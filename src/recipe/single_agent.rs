//! The single-agent baseline of Multiagent Finetuning (arXiv 2501.05707, section 4.1).

use serde_json::json;

use super::data::generator_set;
use super::finetune::Lesson;
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;

/// Its one adapter's name.
pub const NAME: &str = "agent";

/// One adapter plays all agents of the debate, in all rounds, and is finetuned on every first answer that matches the vote.
pub async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    let student = lane.student(NAME)?;
    let society = Society::uniform(student.adapter, lane.agents());
    examiner.before(&society).await?;

    for iteration in 1..=lane.config.run.iterations {
        let debates = lane.debates(iteration, &society).await?;
        let labels = lane.pseudo_labels(&debates);
        examiner.pseudo_labels(iteration, &debates, &labels)?;

        let examples = debates
            .iter()
            .zip(&labels)
            .flat_map(|(debate, label)| {
                let of_agent = |n| generator_set(std::slice::from_ref(debate), &[*label], n);
                (0..lane.agents()).flat_map(of_agent)
            })
            .collect();
        let lesson = Lesson { student: &student, examples, training: &lane.training, about: json!({}) };
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student])
}
