//! `colloquy run --dry-run`: what a run would do and need.

use std::collections::{BTreeMap, HashMap};

use super::estimate::{Rates, Stopwatch, duration};
use super::screen::{Screen, out};
use crate::error::Result;
use crate::experiment::{ArmWork, Ready, count, prepare, waves};
use crate::recipe::{Cost, Draw, Lengths, forecast};
use crate::report;
use crate::run::{Plan, SamplingSection, TaskSection};

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
pub fn show(plan: &Plan, screen: &Screen) -> Result<()> {
    let ready = prepare(plan, None, &mut &*screen)?;
    screen.line("measuring the time it would take: some seconds");
    let mut stopwatch = Stopwatch::new(&ready);
    let measured = Measured::by(&mut stopwatch, &ready)?;
    let mut text =
        String::from("samples of debates for training and of evaluation, and new tokens: at most\n");
    text.push_str(&table(&ready.arms, &measured.costs));
    text.push_str("\nmemory\n");
    for line in ready.session.engine.with(|e| e.plan().to_string()).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    if let Some(waves) = waves(&ready) {
        text.push_str(&format!("  {waves}\n"));
    }
    text.push_str(&measured.time(&ready.arms));
    text.push_str(&described(plan));
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

/// The share of all answers that is taken to be learnt: what matches the vote is not known before. With the embedded model it is about this.
const LEARNT: f64 = 0.25;

/// What the arms cost, one seed of each, and how fast this device is.
struct Measured {
    rates: Rates,
    costs: Vec<Cost>,
    /// The mean length of answers, if all were seen.
    answer: Option<usize>,
}

impl Measured {
    fn by(stopwatch: &mut Stopwatch, ready: &Ready) -> Result<Self> {
        let rates = stopwatch.rates()?;
        // Arms with the same texts are measured once.
        let mut known: Vec<(&TaskSection, &SamplingSection, usize, bool)> = Vec::new();
        let mut costs = Vec::new();
        for work in &ready.arms {
            let c = &work.arm.config;
            let same = known.iter().find(|k| (k.0, k.1) == (&c.task, &c.sampling)).copied();
            let (.., answer, _) = match same {
                Some(same) => same,
                None => {
                    let (answer, seen) = stopwatch.answer(work, &rates)?;
                    known.push((&c.task, &c.sampling, answer, seen));
                    (&c.task, &c.sampling, answer, seen)
                }
            };
            let all = (c.debate.agents - 1) * answer;
            let lengths = Lengths { answer, summary: all.min(c.sampling.summary_max_tokens as usize) };
            let (recipe, transfer) = (work.recipe, work.transfer.as_ref());
            costs.push(forecast(recipe, c, &ready.codec, &work.own, transfer, lengths)?);
        }
        let seen = known.iter().all(|k| k.3);
        let answer = known.iter().map(|k| k.2).max().filter(|_| seen);
        Ok(Self { rates, costs, answer })
    }

    /// How long it would take, and how that is known.
    fn time(&self, arms: &[ArmWork]) -> String {
        let draws = draws(arms, &self.costs);
        let sum = |of: &dyn Fn(&Draw) -> f64| draws.iter().map(|(n, d)| n * of(d)).sum::<f64>();
        let samples = sum(&|d| d.count);
        let prompts = sum(&|d| d.count * d.prompt as f64);
        let drawn = sum(&|d| d.count * d.new as f64);
        let of_lanes = |of: &dyn Fn(&Cost) -> f64| {
            let lanes = arms.iter().zip(&self.costs);
            lanes.map(|(work, cost)| work.arm.seeds.len() as f64 * of(cost)).sum::<f64>()
        };
        let trained = LEARNT * of_lanes(&|cost| cost.trained_tokens);
        let scored = of_lanes(&|cost| cost.scored_tokens);
        let seconds = self.rates.seconds(prompts + scored, drawn, trained);
        let rate = |r: f64| count(r as usize);
        let answers = match self.answer {
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
            duration(seconds),
            count(samples as usize),
            count(prompts as usize),
            count(drawn as usize),
            count(trained as usize),
            count(scored as usize),
            rate(self.rates.prefill),
            rate(self.rates.decode),
            if self.rates.train.is_finite() { rate(self.rates.train) } else { "no".into() },
        )
    }
}

/// All draws, and by how many seeds each is made. The lanes of a seed draw once what several of
/// them ask of the base's weights.
fn draws<'c>(arms: &[ArmWork], costs: &'c [Cost]) -> Vec<(f64, &'c Draw)> {
    let mut by_seed: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, work) in arms.iter().enumerate() {
        work.arm.seeds.iter().for_each(|seed| by_seed.entry(*seed).or_default().push(i));
    }
    let mut seeds: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
    by_seed.into_values().for_each(|arms| *seeds.entry(arms).or_default() += 1.0);
    let mut all = Vec::new();
    for (arms, seeds) in seeds {
        let mut shared: HashMap<u64, &Draw> = HashMap::new();
        for cost in arms.iter().map(|i| &costs[*i]) {
            all.extend(cost.own.iter().map(|draw| (seeds, draw)));
            for (key, draw) in &cost.of_base {
                let known = shared.entry(*key).or_insert(draw);
                *known = if draw.count > known.count { draw } else { known };
            }
        }
        all.extend(shared.into_values().map(|draw| (seeds, draw)));
    }
    all
}
