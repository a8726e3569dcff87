//! STaR (arXiv 2203.14465). It asks for labels: it is told the reference answers of its training questions.

use futures::future::LocalBoxFuture;
use serde_json::json;

use super::data::Example;
use super::finetune::Lesson;
use super::registry::{AGENT, Recipe, SocietyNames};
use super::{Examiner, Lane, Usage};
use crate::debate::{Debate, Occasion, Society, Turn};
use crate::error::Result;
use crate::measure::record::Data;
use crate::run::{RecipeInfo, RunConfig, Standing};
use crate::task::Labels;

/// One adapter answers every question. Answers that meet the reference are kept; where one doesn't, the question is asked again with a hint
/// that gives the answer away, and what then meets it is kept too, as an answer to the question without the hint. Finetuned on those.
///
/// STaR starts each iteration from the base (`training.start_from = "base"`) and samples one answer (`training.samples` = 0 or 1).
pub struct Star;

impl Recipe for Star {
    fn info(&self) -> RecipeInfo {
        RecipeInfo {
            options: &["training.samples"],
            asks_for_labels: true,
            debates: false,
            standing: Standing::Baseline,
            ..RecipeInfo::new(
                "star",
                "STaR: asks for reference answers; learns right samples, and after a hint those that were wrong",
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
        let count = lane.config.training.samples.max(1);
        let sampled = lane.samples(iteration, &society, count).await?;
        let examples = rationalise(&lane, iteration, &society, &sampled).await?;
        let hinted = examples.iter().filter(|e| e.kind == "hinted").count();
        examiner.references(iteration, &sampled, &examples)?;

        let about = Data { labels: Some("reference".into()), hinted: Some(hinted), ..Data::default() };
        let lesson = Lesson::new(&student, examples, &lane.training, about);
        lane.finetune(iteration, vec![lesson]).await?;
        examiner.after(iteration, &society).await?;
    }
    lane.dismiss(&[student]).await
}

/// What is kept of each question's answers.
async fn rationalise(
    lane: &Lane,
    iteration: usize,
    society: &Society,
    sampled: &[Debate],
) -> Result<Vec<Example>> {
    let labels = lane.labels()?;
    let scope = lane.scope.child(format!("iteration-{iteration}/hints"));
    let phase = lane.ledger.phase(iteration, "hints");
    let occasion = Occasion { seed: lane.seed, iteration, purpose: "train" };
    let asked = |i: usize, question, scope| async move {
        let debate: &Debate = &sampled[i];
        let (mut kept, mut hinted) = (Vec::new(), Vec::new());
        for (s, turn) in debate.rounds[0].turns.iter().enumerate() {
            if meets(labels, debate, turn) {
                kept.extend(Example::of_turn(debate, turn, "first"));
                continue;
            }
            let speaker = &society.generators[turn.agent];
            let again = lane.table.hinted(&scope, question, speaker, occasion, labels, s).await?;
            if let Some(again) = &again
                && meets(labels, debate, again)
            {
                kept.extend(Example::without_hint(debate, turn, again));
            }
            hinted.extend(again);
        }
        Ok((kept, hinted))
    };
    let (kept, hinted): (Vec<_>, Vec<_>) =
        lane.table.each(&scope, &lane.questions, asked).await?.into_iter().unzip();
    let record = |(debate, turns): (&Debate, &Vec<Turn>)| json!({"id": debate.id, "question": debate.question, "turns": turns});
    let records: Vec<_> = sampled.iter().zip(&hinted).map(record).collect();
    lane.output.transcripts(lane.name(), iteration, "train-hints", &records)?;
    let mut usage = Usage::default();
    usage.turns(&society.generators, hinted.iter().flatten());
    phase.end(&usage)?;
    Ok(kept.into_iter().flatten().collect())
}

/// Whether an answer is whole and the reference.
fn meets(labels: &Labels, debate: &Debate, turn: &Turn) -> bool {
    labels.is_right(&debate.id, turn.answer.as_deref()) && !turn.is_cut_off()
}
