//! `colloquy run --dry-run`: what a run would do and need.

use std::collections::BTreeMap;
use std::ops::{Add, Mul};

use super::estimate::{Lengths, Stopwatch, duration};
use super::screen::{Screen, out};
use crate::error::Result;
use crate::experiment::{Ready, count, prepare, waves};
use crate::recipe::Recipes;
use crate::report;
use crate::run::{Arm, Critics, EvalMethod, Matching, Others, Plan, critic_section};

/// Samples by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// First answers.
    pub first: usize,
    /// Summaries of others' answers.
    pub summaries: usize,
    /// Answers of later rounds.
    pub later: usize,
}

impl Calls {
    /// All samples.
    pub fn all(&self) -> usize {
        self.first + self.summaries + self.later
    }

    /// The larger of each kind: what two need that ask for the same as far as it goes.
    fn or(self, other: Self) -> Self {
        Self {
            first: self.first.max(other.first),
            summaries: self.summaries.max(other.summaries),
            later: self.later.max(other.later),
        }
    }
}

impl Add for Calls {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            first: self.first + other.first,
            summaries: self.summaries + other.summaries,
            later: self.later + other.later,
        }
    }
}

impl Mul<usize> for Calls {
    type Output = Self;
    fn mul(self, n: usize) -> Self {
        Self { first: n * self.first, summaries: n * self.summaries, later: n * self.later }
    }
}

/// Upper bounds of one arm's work for one seed. What arms share is counted for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Samples that training data are made of, in all iterations.
    pub training: Calls,
    /// Those of the first iteration, drawn from the base's weights.
    pub training_untrained: Calls,
    /// Samples of evaluations.
    pub evaluation: Calls,
    /// Those before training, drawn from the base's weights.
    pub evaluation_untrained: Calls,
    /// Sequences trained on, epochs counted, if every answer is learnt: first answers.
    pub trained_first: usize,
    /// The same: answers of later rounds.
    pub trained_later: usize,
    /// Sequences scored to measure diversity.
    pub scored: usize,
    /// New tokens of all samples, if none ended early.
    pub tokens: usize,
    /// Adapters.
    pub adapters: usize,
}

impl Work {
    /// Of an arm.
    pub fn of(arm: &Arm) -> Self {
        let c = &arm.config;
        let (agents, later) = (c.debate.agents, c.debate.rounds - 1);
        let summarised = c.debate.others == Others::Summary && agents > 1;
        let debate = Calls {
            first: agents,
            summaries: if summarised { agents * later } else { 0 },
            later: agents * later,
        };
        let first = |first: usize| Calls { first, ..Calls::default() };
        let is_trained = arm.recipe.is_trained;
        let samples = if c.training.samples == 0 { agents } else { c.training.samples };
        // A question's samples for training, and the sequences that may be learnt: first answers, later ones.
        let (asked, learnt) = match arm.recipe.name {
            "base" => (Calls::default(), (0, 0)),
            "majority-ft" | "self-training" => (first(samples), (samples, 0)),
            // Each answer may be asked for again with a hint.
            "star" => (first(2 * c.training.samples.max(1)), (c.training.samples.max(1), 0)),
            "single-agent" if c.training.matching == Matching::None => (debate, (agents, 0)),
            "multiagent" if c.debate.critics != Critics::Own => (debate, (agents, 0)),
            _ => (debate, (agents, if later > 0 { agents } else { 0 })),
        };
        let exam = exam(arm, debate);
        let iterations = if is_trained { c.run.iterations } else { 0 };
        let before = usize::from(c.eval.before || !is_trained);
        let transferred = c.transfer.as_ref().map_or(0, |t| t.dev_questions + t.test_questions);
        let at_the_end = c.task.test_questions + transferred;
        let evaluation_untrained = exam * (before * (c.task.dev_questions + at_the_end));
        let last = if iterations > 0 { at_the_end } else { 0 };
        let evaluation = evaluation_untrained + exam * (c.task.dev_questions * iterations + last);
        let training = asked * (c.task.train_questions * iterations);
        let epochs = c.task.train_questions * iterations * c.training.num_epochs;
        let critic_epochs = critic_section(&c.training).map_or(c.training.num_epochs, |t| t.num_epochs);
        let critic_epochs = match arm.recipe.name {
            "agent-ids" => epochs,
            _ => c.task.train_questions * iterations * critic_epochs,
        };
        let exams = before + iterations;
        let debated = if c.eval.methods.contains(&EvalMethod::Debate) { c.eval.diversity } else { 0 };
        let scored = exams * debated.min(c.task.dev_questions) * (agents * agents + agents);
        let all = training + evaluation;
        Self {
            training,
            training_untrained: asked * if iterations > 0 { c.task.train_questions } else { 0 },
            evaluation,
            evaluation_untrained,
            trained_first: learnt.0 * epochs,
            trained_later: learnt.1 * critic_epochs,
            scored,
            tokens: (all.first + all.later) * c.sampling.max_tokens as usize
                + all.summaries * c.sampling.summary_max_tokens as usize,
            adapters: adapters(arm),
        }
    }
}

/// Samples of one question of an evaluation.
fn exam(arm: &Arm, debate: Calls) -> Calls {
    let c = &arm.config;
    let agents = c.debate.agents;
    let has = |method| c.eval.methods.contains(&method);
    let majority = if c.eval.majority_samples == 0 { agents } else { c.eval.majority_samples };
    let mut exam = Calls::default();
    if has(EvalMethod::Greedy) {
        exam.first +=
            if arm.recipe.name == "multiagent" || arm.recipe.name == "agent-ids" { agents } else { 1 };
    }
    let drawn = [(EvalMethod::Single, agents), (EvalMethod::Majority, majority)];
    let drawn = drawn.iter().filter(|(m, _)| has(*m)).map(|(_, n)| *n).max().unwrap_or(0);
    exam.first += drawn;
    if has(EvalMethod::Debate) {
        // The first round's samples are those of `single` and `majority`, and cost nothing again.
        exam = exam + Calls { first: debate.first - drawn.min(agents), ..debate };
    }
    exam
}

/// Adapters of one lane of an arm.
fn adapters(arm: &Arm) -> usize {
    let recipe = Recipes::default().get(arm.recipe.name);
    recipe.map_or(0, |recipe| recipe.society(&arm.config).adapters().len())
}

/// Questions, iterations, agents and rounds, and the arms that have them.
fn described(plan: &Plan) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for arm in &plan.arms {
        let (t, d) = (&arm.config.task, &arm.config.debate);
        let pool = if t.train_pool > 0 { format!(" of {}", t.train_pool) } else { String::new() };
        let mut what = format!(
            "\n{}: {} train{pool}, {} dev, {} test questions;\n  {} iterations, {} agents, {} rounds",
            t.name,
            t.train_questions,
            t.dev_questions,
            t.test_questions,
            arm.config.run.iterations,
            d.agents,
            d.rounds
        );
        if let Some(t) = &arm.config.transfer {
            what.push_str(&format!(
                "; transfer to {}, {} dev, {} test",
                t.name, t.dev_questions, t.test_questions
            ));
        }
        match groups.iter_mut().find(|(w, _)| *w == what) {
            Some((_, arms)) => arms.push(&arm.name),
            None => groups.push((what, vec![&arm.name])),
        }
    }
    let mut text = String::new();
    for (what, arms) in &groups {
        text.push_str(&format!("{what}\n"));
        let mut line = String::from(" ");
        for name in arms {
            if line.len() + name.len() + 2 > 80 && line.len() > 1 {
                text.push_str(&format!("{line}\n"));
                line = String::from(" ");
            }
            line.push_str(&format!(" {name}"));
        }
        text.push_str(&format!("{line}\n"));
    }
    text
}

/// Samples of the base's weights that several arms ask for, by what makes them the same.
#[derive(Default)]
struct Shared(BTreeMap<String, (Calls, Calls, usize)>);

impl Shared {
    /// An arm's part for one seed; `at` is the arm's place among those with texts of the same lengths.
    fn add(&mut self, arm: &Arm, seed: u64, work: &Work, at: usize) {
        let c = &arm.config;
        let tells_ids = arm.recipe.tells_ids;
        let d = &c.debate;
        let key = format!(
            "{seed} {:?} {tells_ids}",
            (&c.task, &c.transfer, &c.sampling, d.agents, d.rounds, &d.others, &d.style)
        );
        let (training, evaluation, _) = self.0.entry(key).or_insert((Calls::default(), Calls::default(), at));
        *training = training.or(work.training_untrained);
        *evaluation = evaluation.or(work.evaluation_untrained);
    }
}

/// Checks everything a run checks before its first step, and prints the plan on stdout.
pub fn show(plan: &Plan, screen: &Screen) -> Result<()> {
    let ready = prepare(plan, None, &mut &*screen)?;
    let header = ["arm", "recipe", "seeds", "adapters", "training", "evaluation", "tokens"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut total = Work::default();
    let mut lanes = 0;
    for arm in &plan.arms {
        let w = Work::of(arm);
        let seeds = arm.seeds.len();
        rows.push(vec![
            arm.name.clone(),
            arm.recipe.name.into(),
            seeds.to_string(),
            (seeds * w.adapters).to_string(),
            (seeds * w.training.all()).to_string(),
            (seeds * w.evaluation.all()).to_string(),
            count(seeds * w.tokens),
        ]);
        total.training = total.training + w.training * seeds;
        total.evaluation = total.evaluation + w.evaluation * seeds;
        total.tokens += seeds * w.tokens;
        total.adapters += seeds * w.adapters;
        lanes += seeds;
    }
    if plan.arms.len() > 1 {
        rows.push(vec![
            "in all".to_string(),
            String::new(),
            lanes.to_string(),
            total.adapters.to_string(),
            total.training.all().to_string(),
            total.evaluation.all().to_string(),
            count(total.tokens),
        ]);
    }
    let mut text =
        String::from("samples of debates for training and of evaluation, and new tokens: at most\n");
    text.push_str(&report::table(&header, &rows));
    text.push_str("\nmemory\n");
    for line in ready.session.engine.with(|e| e.plan().to_string()).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    if let Some(waves) = waves(&ready) {
        text.push_str(&format!("  {waves}\n"));
    }
    text.push_str(&time(&ready, screen)?);
    text.push_str(&described(plan));
    text.push_str("\nArms whose weights are still equal share samples; the table gives bounds.\n");
    out(&text)
}

/// The share of all answers that is taken to be learnt: what matches the vote is not known before. With the embedded model it is about this.
const LEARNT: f64 = 0.25;

/// How long it would take, and how that is known.
fn time(ready: &Ready, screen: &Screen) -> Result<String> {
    screen.line("measuring the time it would take: some seconds");
    let mut stopwatch = Stopwatch::new(ready);
    let rates = stopwatch.rates()?;
    // Arms with the same texts are measured once.
    let mut known: Vec<(String, Lengths, bool)> = Vec::new();
    let (mut drawn, mut prompts, mut trained, mut scored) = (0.0, 0.0, 0.0, 0.0);
    let mut samples = 0;
    let mut shared = Shared::default();
    for work in &ready.arms {
        let c = &work.arm.config;
        let key =
            format!("{:?}", (&c.task, &c.sampling, c.debate.agents, &c.debate.others, c.debate.rounds > 1));
        let at = match known.iter().position(|(k, ..)| *k == key) {
            Some(at) => at,
            None => {
                let (lengths, seen) = stopwatch.lengths(work, &rates)?;
                known.push((key, lengths, seen));
                known.len() - 1
            }
        };
        let w = Work::of(&work.arm);
        for &seed in &work.arm.seeds {
            shared.add(&work.arm, seed, &w, at);
            for (all, of_base) in [(w.training, w.training_untrained), (w.evaluation, w.evaluation_untrained)]
            {
                let own = Calls {
                    first: all.first - of_base.first,
                    summaries: all.summaries - of_base.summaries,
                    later: all.later - of_base.later,
                };
                let (p, d) = known[at].1.tokens(&own);
                (prompts, drawn, samples) = (prompts + p, drawn + d, samples + own.all());
            }
            trained += LEARNT * known[at].1.trained(&w);
            scored += known[at].1.scored(&w);
        }
    }
    for (training, evaluation, at) in shared.0.values() {
        let calls = *training + *evaluation;
        let (p, d) = known[*at].1.tokens(&calls);
        (prompts, drawn, samples) = (prompts + p, drawn + d, samples + calls.all());
    }
    let seconds = rates.seconds(prompts + scored, drawn, trained);
    let rate = |r: f64| count(r as usize);
    let answers = match known.iter().filter(|k| k.2).map(|k| k.1.answer).reduce(f64::max) {
        Some(mean) if known.iter().all(|k| k.2) => {
            format!("answers of {mean:.0} tokens, as some that the base gave")
        }
        _ => "answers at their longest".to_string(),
    };
    Ok(format!(
        "\ntime\n  about {}, if a quarter of all answers are learnt:\n  \
         {} samples (equal ones once): {} prompt, {} drawn tokens;\n  \
         {} gradient tokens; {} more to measure diversity;\n  \
         {answers};\n  \
         measured on this device just now: {} prompt, {} drawn, {} gradient\n  \
         tokens a second\n",
        duration(seconds),
        count(samples),
        count(prompts as usize),
        count(drawn as usize),
        count(trained as usize),
        count(scored as usize),
        rate(rates.prefill),
        rate(rates.decode),
        if rates.train.is_finite() { rate(rates.train) } else { "no".into() },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunConfig;

    fn arm(recipe: &str, edit: impl Fn(&mut RunConfig)) -> Arm {
        let mut config = RunConfig::default();
        config.run.iterations = 1;
        config.task.train_questions = 500;
        config.task.dev_questions = 500;
        config.eval.before = false;
        config.eval.methods = vec![EvalMethod::Debate];
        edit(&mut config);
        Arm {
            name: "a".into(),
            recipe: Recipes::default().get(recipe).unwrap().info(),
            seeds: vec![0],
            config,
        }
    }

    #[test]
    fn work_is_counted_as_the_paper_does() {
        let w = Work::of(&arm("multiagent", |_| {}));
        // 3 first answers, 3 summaries, 3 critics' answers for 1000 questions.
        assert_eq!(w.training.all() + w.evaluation.all(), 9000);
        assert_eq!(w.adapters, 6);
        assert_eq!((w.trained_first, w.trained_later), (3000, 3000));
        assert_eq!(w.training_untrained, w.training);
        // One exam, 50 debates, 12 sequences each.
        assert_eq!(w.scored, 600);
    }

    #[test]
    fn each_recipe_has_its_own_work() {
        let samples = |recipe: &str, edit: fn(&mut RunConfig)| {
            let w = Work::of(&arm(recipe, edit));
            (w.training.all(), w.evaluation.all(), w.trained_first, w.trained_later, w.adapters)
        };
        assert_eq!(samples("base", |_| {}), (0, 4500, 0, 0, 0));
        assert_eq!(samples("majority-ft", |_| {}), (1500, 4500, 3000, 0, 1));
        assert_eq!(samples("majority-ft", |c| c.training.samples = 9), (4500, 4500, 9000, 0, 1));
        assert_eq!(samples("star", |_| {}), (1000, 4500, 1000, 0, 1));
        assert_eq!(samples("single-agent", |_| {}), (4500, 4500, 3000, 0, 1));
        let matched = |c: &mut RunConfig| c.training.matching = Matching::GradientTokens;
        assert_eq!(samples("single-agent", matched), (4500, 4500, 3000, 3000, 1));
        assert_eq!(samples("agent-ids", |_| {}), (4500, 4500, 3000, 3000, 1));
        for who in [Critics::Generator, Critics::Base] {
            let w = Work::of(&arm("multiagent", |c| c.debate.critics = who));
            assert_eq!((w.trained_later, w.adapters), (0, 3), "{who}");
        }
        let w = Work::of(&arm("multiagent", |c| {
            c.run.iterations = 3;
            c.eval.before = true;
            c.task.test_questions = 100;
            c.transfer =
                Some(crate::run::TaskSection { dev_questions: 20, test_questions: 0, ..c.task.clone() });
        }));
        assert_eq!(w.evaluation.all(), 9 * (4 * 500 + 2 * 120));
        assert_eq!(w.evaluation_untrained.all(), 9 * 620);
        assert_eq!(w.training_untrained.all() * 3, w.training.all());
    }

    #[test]
    fn what_arms_share_is_counted_once() {
        let mut shared = Shared::default();
        for (recipe, edit) in [
            ("multiagent", (|_| {}) as fn(&mut RunConfig)),
            ("single-agent", |_| {}),
            ("majority-ft", |c| c.training.samples = 5),
            ("agent-ids", |_| {}),
            ("multiagent", |c| c.debate.agents = 5),
        ] {
            let arm = arm(recipe, edit);
            shared.add(&arm, 0, &Work::of(&arm), 0);
        }
        let calls: Vec<usize> = shared.0.values().map(|(training, ..)| training.all()).collect();
        let mut sorted = calls;
        sorted.sort_unstable();
        // Debates of three; the same with two more samples; and those of agents with ids and of five agents.
        assert_eq!(sorted, [4500, 5500, 7500]);
    }
}
