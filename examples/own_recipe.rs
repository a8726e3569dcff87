//! A recipe of one's own in one file: forecast, run from TOML, resumed and verified.

use colloquy::debate::Society;
use colloquy::engine::{Entry, Journal};
use colloquy::error::{Error, Result};
use colloquy::experiment::{Experiment, Silent, VerifyOptions};
use colloquy::measure::record::Data;
use colloquy::recipe::{Examiner, Lane, Lengths, Lesson, Recipe, Recipes, SocietyNames, matching_answers};
use colloquy::run::{FileJournal, RecipeInfo, RunConfig, Source};
use futures::future::LocalBoxFuture;

struct Twice;

impl Recipe for Twice {
    fn info(&self) -> RecipeInfo {
        RecipeInfo::new("twice", "one adapter, two samples; learns them where they agree")
    }

    fn society(&self, config: &RunConfig) -> SocietyNames {
        SocietyNames::uniform("twice", config)
    }

    fn run(&self, lane: Lane, examiner: Examiner) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let student = lane.student("twice").await?;
            let society = Society::uniform(student.adapter, lane.agents());
            examiner.before(&society).await?;
            for iteration in 1..=lane.config.run.iterations {
                let sampled = lane.samples(iteration, &society, 2).await?;
                let examples = matching_answers(&sampled, &lane.pseudo_labels(&sampled));
                let lesson = Lesson::new(&student, examples, &lane.training, Data::default());
                lane.finetune(iteration, vec![lesson]).await?;
                examiner.after(iteration, &society).await?;
            }
            lane.dismiss(&[student]).await
        })
    }
}

/// Forecasts, runs, resumes and verifies it.
pub fn main() -> Result<()> {
    let text = include_str!("own_recipe.toml").into();
    let source = Source { name: "own_recipe.toml".into(), text, folder: None };
    let folder = std::env::temp_dir().join(format!("colloquy-own-recipe-{}", std::process::id()));
    let experiment = Experiment::with(Recipes::with(&[&Twice])?, source, &[])?.output(&folder);
    let ready = experiment.prepare(&mut Silent)?;
    let cost = ready.arms[0].forecast(&ready.codec, Lengths { answer: 60, summary: 60 })?;
    println!("{}", experiment.run(&mut Silent)?.summary);
    experiment.resume(&mut Silent)?;
    assert!(experiment.verify(&VerifyOptions::default(), &mut Silent)?.differences.is_empty());
    let journal = FileJournal::read(&folder.join("journal"), "mine/seed-0")?.0;
    let mut made = [0, 0];
    for call in journal.calls()? {
        if let Some(Entry::Samples(samples)) = journal.replay(&call)? {
            made[usize::from(call.contains("/exam/"))] += samples.len();
        }
    }
    assert_eq!(made, [cost.training.all(), cost.evaluation.all()], "samples are forecast exactly");
    std::fs::remove_dir_all(&folder).map_err(Error::io(&folder))
}
