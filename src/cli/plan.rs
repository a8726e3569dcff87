//! `colloquy run --dry-run`: what a run would do and need.

use super::execute;
use super::screen::{Screen, out};
use crate::error::Result;
use crate::recipe;
use crate::report;
use crate::run::{Arm, Plan};

/// Upper bounds of one arm's work for one seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Samples of debates over training questions, summaries included.
    pub training_samples: usize,
    /// Samples of evaluations.
    pub evaluation_samples: usize,
    /// New tokens of all of them, if none ended early.
    pub tokens: usize,
    /// Adapters.
    pub adapters: usize,
}

impl Work {
    /// Of an arm. What arms share is counted for each.
    pub fn of(arm: &Arm) -> Self {
        let c = &arm.config;
        let agents = c.debate.agents;
        let later = c.debate.rounds - 1;
        let summarised = c.debate.others == "summary" && agents > 1;
        // (answers, summaries) of one question.
        let debate = (agents * c.debate.rounds, if summarised { agents * later } else { 0 });
        let has = |method: &str| c.eval.methods.iter().any(|m| m == method);
        let majority = if c.eval.majority_samples == 0 { agents } else { c.eval.majority_samples };
        let mut exam = (0, 0);
        if has("greedy") {
            exam.0 += if arm.recipe == "single-agent" { 1 } else { agents };
        }
        exam.0 += [("single", agents), ("majority", majority)]
            .iter()
            .filter(|(m, _)| has(m))
            .map(|(_, n)| *n)
            .max()
            .unwrap_or(0);
        if has("debate") {
            // The first round's samples are those of `single` and `majority`, and cost nothing again.
            let shared = if has("single") || has("majority") { agents.min(majority.max(agents)) } else { 0 };
            exam.0 += debate.0 - shared.min(agents);
            exam.1 += debate.1;
        }
        let exams = c.run.iterations + usize::from(c.eval.before);
        let tests = 1 + usize::from(c.eval.before);
        let examined = c.task.dev_questions * exams + c.task.test_questions * tests;
        let trained = c.task.train_questions * c.run.iterations;
        let tokens_of = |(answers, summaries): (usize, usize)| {
            answers * c.sampling.max_tokens as usize + summaries * c.sampling.summary_max_tokens as usize
        };
        Self {
            training_samples: trained * (debate.0 + debate.1),
            evaluation_samples: examined * (exam.0 + exam.1),
            tokens: trained * tokens_of(debate) + examined * tokens_of(exam),
            adapters: adapters(arm),
        }
    }
}

/// Adapters of one lane of an arm.
pub fn adapters(arm: &Arm) -> usize {
    let Ok(names) = recipe::society_names(&arm.recipe, &arm.config) else { return 0 };
    let all = names.generators.iter().chain(&names.critics);
    let mut all: Vec<&String> = all.filter(|name| *name != recipe::BASE).collect();
    all.sort();
    all.dedup();
    all.len()
}

/// What is said where not all lanes run at once.
pub fn waves(plan: &Plan, ready: &execute::Ready) -> Option<String> {
    let all: usize = plan.arms.iter().map(|a| a.seeds.len() * adapters(a)).sum();
    let lanes: usize = plan.arms.iter().map(|a| a.seeds.len()).sum();
    let room = ready.session.engine.with(|e| e.plan().options.adapters);
    (room < all).then(|| {
        format!("room for {room} adapters; {lanes} lanes need {all} in all and start as room is left")
    })
}

/// Checks everything a run checks before its first step, and prints the plan on stdout.
pub fn show(plan: &Plan, screen: &Screen) -> Result<()> {
    let ready = execute::prepare(plan, screen)?;
    let header = ["arm", "recipe", "seeds", "adapters", "training", "evaluation", "new tokens"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut total = Work::default();
    for arm in &plan.arms {
        let w = Work::of(arm);
        let seeds = arm.seeds.len();
        rows.push(vec![
            arm.name.clone(),
            arm.recipe.clone(),
            seeds.to_string(),
            (seeds * w.adapters).to_string(),
            (seeds * w.training_samples).to_string(),
            (seeds * w.evaluation_samples).to_string(),
            super::session::count(seeds * w.tokens),
        ]);
        total.training_samples += seeds * w.training_samples;
        total.evaluation_samples += seeds * w.evaluation_samples;
        total.tokens += seeds * w.tokens;
        total.adapters += seeds * w.adapters;
    }
    if plan.arms.len() > 1 {
        rows.push(vec![
            "in all".to_string(),
            String::new(),
            String::new(),
            total.adapters.to_string(),
            total.training_samples.to_string(),
            total.evaluation_samples.to_string(),
            super::session::count(total.tokens),
        ]);
    }
    let mut text =
        String::from("samples of debates for training and of evaluation, and new tokens: at most\n");
    text.push_str(&report::table(&header, &rows));
    text.push_str("\nmemory\n");
    for line in ready.session.engine.with(|e| e.plan().to_string()).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    for arm in &plan.arms {
        let t = &arm.config.task;
        text.push_str(&format!(
            "\n{}: {}, {} train, {} dev, {} test questions;\n  {} iterations, {} agents, {} rounds\n",
            arm.name,
            t.name,
            t.train_questions,
            t.dev_questions,
            t.test_questions,
            arm.config.run.iterations,
            arm.config.debate.agents,
            arm.config.debate.rounds
        ));
    }
    text.push_str("\nArms whose weights are still equal share samples; the numbers above are bounds.\n");
    out(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunConfig;

    #[test]
    fn work_is_counted_as_the_paper_does() {
        let mut config = RunConfig::default();
        config.run.iterations = 1;
        config.task.train_questions = 500;
        config.task.dev_questions = 500;
        config.eval.before = false;
        config.eval.methods = vec!["debate".into()];
        let arm = Arm { name: "a".into(), recipe: "multiagent".into(), seeds: vec![0], config };
        let w = Work::of(&arm);
        // 3 first answers, 3 summaries, 3 critics' answers for 1000 questions.
        assert_eq!(w.training_samples + w.evaluation_samples, 9000);
        assert_eq!(w.adapters, 6);
    }
}
