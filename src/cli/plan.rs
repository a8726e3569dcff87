//! `colloquy run --dry-run`: what a run would do and need.

use super::screen::{Screen, out};
use crate::error::Result;
use crate::experiment::{ArmWork, Estimate, Experiment, count, duration, waves};
use crate::recipe::Cost;
use crate::report;
use crate::run::Plan;

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

/// Checks everything a run checks before its first step, and prints the plan on stdout.
pub fn show(experiment: &Experiment, screen: &Screen) -> Result<()> {
    let estimate = experiment.estimate(&mut &*screen)?;
    let ready = &estimate.ready;
    let mut text =
        String::from("samples of debates for training and of evaluation, and new tokens: at most\n");
    text.push_str(&table(&ready.arms, &estimate.costs));
    text.push_str("\nmemory\n");
    for line in ready.session.engine.with(|e| e.plan().to_string()).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    if let Some(waves) = waves(ready) {
        text.push_str(&format!("  {waves}\n"));
    }
    text.push_str(&time(&estimate));
    text.push_str(&described(experiment.plan()));
    text.push_str("\nArms whose weights are still equal share samples; the table gives bounds.\n");
    out(&text)
}

/// A row for each arm, and one for all.
fn table(arms: &[ArmWork], costs: &[Cost]) -> String {
    let header = ["arm", "recipe", "seeds", "adapters", "training", "evaluation", "tokens"];
    let row = |name: &str, recipe: &str, numbers: [usize; 5]| {
        let [seeds, adapters, training, evaluation, tokens] = numbers;
        let numbers = [seeds, adapters, training, evaluation].map(|n| n.to_string());
        [vec![name.to_string(), recipe.to_string()], numbers.to_vec(), vec![count(tokens)]].concat()
    };
    let mut total = [0; 5];
    let mut rows = Vec::new();
    for (work, cost) in arms.iter().zip(costs) {
        let seeds = work.arm.seeds.len();
        let of_one =
            [1, cost.adapters, cost.training.all(), cost.evaluation.all(), cost.tokens.round() as usize];
        let numbers = of_one.map(|n| n * seeds);
        total.iter_mut().zip(numbers).for_each(|(total, n)| *total += n);
        rows.push(row(&work.arm.name, work.arm.recipe.name, numbers));
    }
    if arms.len() > 1 {
        rows.push(row("in all", "", total));
    }
    report::table(&header, &rows)
}

/// How long it would take, and how that is known.
fn time(estimate: &Estimate) -> String {
    let amount = |n: f64| count(n as usize);
    let rates = &estimate.rates;
    let answers = match estimate.answer {
        Some(mean) => format!("answers of {mean} tokens, as some that the base gave"),
        None => "answers at their longest".to_string(),
    };
    format!(
        "\ntime\n  about {}, if a quarter of all answers are learnt:\n  \
         {} samples (equal ones once): {} prompt, {} drawn tokens;\n  \
         {} gradient tokens; {} more to measure diversity;\n  \
         {answers};\n  \
         measured on this device just now: {} prompt, {} drawn, {} gradient\n  \
         tokens a second\n",
        duration(estimate.seconds()),
        amount(estimate.samples),
        amount(estimate.prompt_tokens),
        amount(estimate.drawn_tokens),
        amount(estimate.trained_tokens),
        amount(estimate.scored_tokens),
        amount(rates.prefill),
        amount(rates.decode),
        if rates.train.is_finite() { amount(rates.train) } else { "no".into() },
    )
}
