//! Multiagent finetuning (arXiv 2501.05707, Algorithm 1).

use serde_json::json;

use super::data::{critic_set, critic_sets, generator_set};
use super::finetune::Lesson;
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::error::Result;

/// N agents debate, vote, and each is finetuned on its own part of what the debate produced; L times.
///
/// A generator answers first, a critic answers in the later rounds: 2N adapters, all starting as the base model. With one
/// round there are no critics.
pub async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    let generators = lane.students("generator")?;
    let critics = if lane.config.debate.rounds > 1 { lane.students("critic")? } else { vec![] };
    let society = Society {
        generators: generators.iter().map(|s| s.adapter).collect(),
        critics: critics.iter().map(|s| s.adapter).collect(),
    };
    examiner.before(&society).await?;

    for iteration in 1..=lane.config.run.iterations {
        let debates = lane.debates(iteration, &society).await?;
        let labels = lane.pseudo_labels(&debates);
        examiner.pseudo_labels(iteration, &debates, &labels)?;

        let mut lessons = Vec::new();
        for (n, student) in generators.iter().enumerate() {
            let examples = generator_set(&debates, &labels, n);
            lessons.push(Lesson { student, examples, training: &lane.training, about: json!({}) });
        }
        for (n, student) in critics.iter().enumerate() {
            let training = &lane.critic_training;
            let (corrected, confirmed) =
                critic_sets(&debates, &labels, n, training.critic_loss, lane.table.codec())?;
            let key = lane.choice(iteration, "mix", &student.name);
            let (examples, shares) = critic_set(corrected, confirmed, training, &debates, key);
            let about = json!({
                "corrected": shares.corrected,
                "confirmed": shares.confirmed,
                "corrected_taken": shares.corrected_taken,
                "confirmed_taken": shares.confirmed_taken,
                "critic_mix": training.section.critic_mix,
                "effective_mix": shares.effective_mix(),
            });
            lessons.push(Lesson { student, examples, training, about });
        }
        lane.finetune(iteration, lessons).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&generators)?;
    lane.dismiss(&critics)
}
