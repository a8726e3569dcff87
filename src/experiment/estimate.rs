//! What an experiment costs and how long it takes, known before it runs.

use std::collections::{BTreeMap, HashMap};

use super::prepare::{ArmWork, Ready};
use super::stopwatch::{Rates, Stopwatch};
use crate::error::Result;
use crate::recipe::{Cost, Draw, Lengths};
use crate::run::{SamplingSection, TaskSection};

/// The share of all answers that is taken to be learnt: what matches the vote is not known before.
/// With the embedded model it is about this.
const LEARNT: f64 = 0.25;

/// What an experiment asks of this device, at most, and how fast this device is.
pub struct Estimate {
    /// What is to be run.
    pub ready: Ready,
    /// What one lane of each arm asks for.
    pub costs: Vec<Cost>,
    /// Tokens a second, just measured.
    pub rates: Rates,
    /// The mean length of answers, if some of each arm were seen; else they count at their longest.
    pub answer: Option<usize>,
    /// Samples; one that several lanes share counts once, here and below.
    pub samples: f64,
    /// Tokens of prompts.
    pub prompt_tokens: f64,
    /// Tokens that are drawn.
    pub drawn_tokens: f64,
    /// Tokens of sequences that are trained on, if a quarter of all answers are learnt.
    pub trained_tokens: f64,
    /// Tokens of sequences that are scored to measure diversity.
    pub scored_tokens: f64,
}

impl Estimate {
    /// Measures, for some seconds.
    pub(super) fn of(ready: Ready) -> Result<Self> {
        let mut stopwatch = Stopwatch::new(&ready);
        let rates = stopwatch.rates()?;
        let (costs, answer) = costs(&mut stopwatch, &rates, &ready)?;
        let draws = draws(&ready.arms, &costs);
        let sum = |of: &dyn Fn(&Draw) -> f64| draws.iter().map(|(n, d)| n * of(d)).sum::<f64>();
        let of_lanes = |of: &dyn Fn(&Cost) -> f64| {
            let lanes = ready.arms.iter().zip(&costs);
            lanes.map(|(work, cost)| work.arm.seeds.len() as f64 * of(cost)).sum::<f64>()
        };
        let samples = sum(&|d| d.count);
        let prompt_tokens = sum(&|d| d.count * d.prompt as f64);
        let drawn_tokens = sum(&|d| d.count * d.new as f64);
        let trained_tokens = LEARNT * of_lanes(&|cost| cost.trained_tokens);
        let scored_tokens = of_lanes(&|cost| cost.scored_tokens);
        drop(draws);
        Ok(Self {
            ready,
            costs,
            rates,
            answer,
            samples,
            prompt_tokens,
            drawn_tokens,
            trained_tokens,
            scored_tokens,
        })
    }

    /// How long it takes at these rates.
    pub fn seconds(&self) -> f64 {
        self.rates.seconds(self.prompt_tokens + self.scored_tokens, self.drawn_tokens, self.trained_tokens)
    }
}

/// What one lane of each arm costs; the mean length of answers, if all were seen.
fn costs(stopwatch: &mut Stopwatch, rates: &Rates, ready: &Ready) -> Result<(Vec<Cost>, Option<usize>)> {
    // Arms with the same texts are measured once.
    let mut known: Vec<(&TaskSection, &SamplingSection, usize, bool)> = Vec::new();
    let mut costs = Vec::new();
    for work in &ready.arms {
        let c = &work.arm.config;
        let same = known.iter().find(|k| (k.0, k.1) == (&c.task, &c.sampling)).copied();
        let (.., answer, _) = match same {
            Some(same) => same,
            None => {
                let (answer, seen) = stopwatch.answer(work, rates)?;
                known.push((&c.task, &c.sampling, answer, seen));
                (&c.task, &c.sampling, answer, seen)
            }
        };
        let all = (c.debate.agents - 1) * answer;
        let lengths = Lengths { answer, summary: all.min(c.sampling.summary_max_tokens as usize) };
        costs.push(work.forecast(&ready.codec, lengths)?);
    }
    let seen = known.iter().all(|k| k.3);
    Ok((costs, known.iter().map(|k| k.2).max().filter(|_| seen)))
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
