//! Intervals over seeds × questions.
//!
//! All seeds answer the same questions, so seeds and questions are crossed, and the bootstrap draws both: seeds with
//! replacement, and questions with replacement, the same questions for all seeds (Owen 2007, "The pigeonhole
//! bootstrap", Annals of Applied Statistics 1). It takes in how much a result depends on the seed and on the questions;
//! what depends on both at once it counts up to three times, so that intervals are rather too wide than too narrow.
//! With one seed only questions are drawn, and the interval says nothing about other seeds.

use serde::Serialize;

use super::Chance;

/// Resamples of an interval.
pub const RESAMPLES: usize = 10_000;
/// Every interval is of this stream, so that a report made again is the same.
const KEY: u64 = 0x0062_6f6f_7473_7472;

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The mean over seeds and questions.
    pub value: f64,
    /// The 2.5th percentile of the resampled means.
    pub low: f64,
    /// The 97.5th.
    pub high: f64,
}

/// A difference between two arms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// a - b and its interval.
    pub difference: Interval,
    /// Standard deviation of the resampled differences.
    pub standard_error: f64,
    /// Two-sided p value of no difference, from the same resamples; see [`paired`].
    pub p: f64,
}

/// The mean of `outcomes[seed][question]` (e.g. the share of right answers) and its interval. A matrix without values,
/// or with rows of different lengths, has none: all three numbers are NaN.
pub fn interval(outcomes: &[Vec<f64>]) -> Interval {
    interval_of(outcomes, RESAMPLES, &mut Chance::new(KEY))
}

/// [`interval`] with another number of resamples and another stream.
pub fn interval_of(outcomes: &[Vec<f64>], resamples: usize, chance: &mut Chance) -> Interval {
    percentiles(outcomes, &resampled_means(outcomes, resamples, chance))
}

/// a - b: seeds and questions are paired by their place, and where one arm has more seeds than the other, those are
/// left out ([`pairs`] finds the seeds that both have). NaN as in [`interval`].
///
/// The p value is `2 min(P(d* <= 0), P(d* >= 0))` over the resampled differences d*, each count and their number with
/// one added (Davison & Hinkley 1997, section 4.2): it is below 0.05 where the interval leaves out zero, and, as the
/// interval, speaks of other seeds and other questions. The sign-flip test ([`sign_flip`]) is exact, but speaks of
/// these seeds only, and flipping seeds instead could never be significant with 5 seeds or fewer (2 / 2^5 > 0.05); so
/// reports print this one.
pub fn paired(a: &[Vec<f64>], b: &[Vec<f64>]) -> Paired {
    paired_of(a, b, RESAMPLES, &mut Chance::new(KEY))
}

/// [`paired`] with another number of resamples and another stream.
pub fn paired_of(a: &[Vec<f64>], b: &[Vec<f64>], resamples: usize, chance: &mut Chance) -> Paired {
    let differences = differences(a, b);
    let means = resampled_means(&differences, resamples, chance);
    let n = means.len() as f64;
    let mean = means.iter().sum::<f64>() / n;
    let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let share =
        |holds: &dyn Fn(f64) -> bool| (means.iter().filter(|m| holds(**m)).count() as f64 + 1.0) / (n + 1.0);
    let p = (2.0 * share(&|m| m <= 0.0).min(share(&|m| m >= 0.0))).min(1.0);
    Paired {
        difference: percentiles(&differences, &means),
        standard_error: variance.sqrt(),
        p: if means.is_empty() { f64::NAN } else { p },
    }
}

/// Two-sided sign-flip test of a - b (Fisher 1935; for right and wrong of one seed it is McNemar's exact test): under
/// no difference the two arms' answers to a question could be exchanged, those of all seeds at once. Exact for these
/// seeds, whatever the distribution; p is the share of random exchanges with a difference as large, themselves
/// included.
pub fn sign_flip(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let differences = differences(a, b);
    let Some(questions) = rectangular(&differences) else { return f64::NAN };
    let by_question: Vec<f64> = (0..questions).map(|q| differences.iter().map(|d| d[q]).sum()).collect();
    let observed: f64 = by_question.iter().sum::<f64>().abs();
    // Sums of the same numbers in other orders differ by rounding only.
    let slack = 1e-12 * by_question.iter().map(|d| d.abs()).sum::<f64>();
    let mut chance = Chance::new(KEY);
    let as_large = (0..RESAMPLES).filter(|_| {
        let mut bits = 0;
        let flipped = |(q, d): (usize, &f64)| {
            if q % 64 == 0 {
                bits = chance.bits();
            }
            bits >>= 1;
            if bits & 1 == 1 { -d } else { *d }
        };
        let sum: f64 = by_question.iter().enumerate().map(flipped).sum();
        sum.abs() >= observed - slack
    });
    (as_large.count() as f64 + 1.0) / (RESAMPLES as f64 + 1.0)
}

/// The rows of the seeds that both arms have, in the order of their numbers.
pub fn pairs(a: &[(u64, Vec<f64>)], b: &[(u64, Vec<f64>)]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let mut both: Vec<(u64, &Vec<f64>, &Vec<f64>)> = a
        .iter()
        .filter_map(|(seed, row)| Some((*seed, row, &b.iter().find(|(other, _)| other == seed)?.1)))
        .collect();
    both.sort_by_key(|(seed, ..)| *seed);
    both.into_iter().map(|(_, a, b)| (a.clone(), b.clone())).unzip()
}

fn differences(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    // Two arms that were not asked the same number of questions are not paired; such rows make no rectangle.
    let of_row = |(a, b): (&Vec<f64>, &Vec<f64>)| match a.len() == b.len() {
        true => a.iter().zip(b).map(|(a, b)| a - b).collect(),
        false => vec![],
    };
    a.iter().zip(b).map(of_row).collect()
}

/// Questions of every seed, if all have the same number, and at least one.
fn rectangular(outcomes: &[Vec<f64>]) -> Option<usize> {
    let questions = outcomes.first()?.len();
    (questions > 0 && outcomes.iter().all(|row| row.len() == questions)).then_some(questions)
}

/// The mean of each resample, in ascending order; none where there is nothing to draw from.
fn resampled_means(outcomes: &[Vec<f64>], resamples: usize, chance: &mut Chance) -> Vec<f64> {
    let Some(questions) = rectangular(outcomes) else { return vec![] };
    let seeds = outcomes.len();
    let mut draws = Draws { chance, spare: None };
    let mut times = vec![0u32; seeds];
    let mut sums = vec![0.0; questions];
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| {
            times.fill(0);
            (0..seeds).for_each(|_| times[draws.below(seeds as u32)] += 1);
            sums.fill(0.0);
            for (row, &times) in outcomes.iter().zip(&times).filter(|(_, times)| **times > 0) {
                let times = f64::from(times);
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += times * value);
            }
            let sum: f64 = (0..questions).map(|_| sums[draws.below(questions as u32)]).sum();
            sum / (seeds * questions) as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    means
}

fn percentiles(outcomes: &[Vec<f64>], means: &[f64]) -> Interval {
    if means.is_empty() {
        return Interval { value: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    let values = outcomes.iter().map(Vec::len).sum::<usize>() as f64;
    let value = outcomes.iter().flatten().sum::<f64>() / values;
    // Between the two nearest ranks, straight.
    let quantile = |share: f64| {
        let place = share * (means.len() - 1) as f64;
        let (below, above) = (means[place.floor() as usize], means[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    Interval { value, low: quantile(0.025), high: quantile(0.975) }
}

/// Uniform numbers, two from 64 bits.
struct Draws<'a> {
    chance: &'a mut Chance,
    spare: Option<u32>,
}

impl Draws<'_> {
    fn half(&mut self) -> u32 {
        self.spare.take().unwrap_or_else(|| {
            let bits = self.chance.bits();
            self.spare = Some(bits as u32);
            (bits >> 32) as u32
        })
    }

    /// Exactly uniform in `0..n` (Lemire 2019, arXiv 1805.10941): no division but for rare numbers.
    #[inline]
    fn below(&mut self, n: u32) -> usize {
        let mut product = u64::from(self.half()) * u64::from(n);
        if (product as u32) < n {
            let rejected = n.wrapping_neg() % n;
            while (product as u32) < rejected {
                product = u64::from(self.half()) * u64::from(n);
            }
        }
        (product >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coins(chance: &mut Chance, p: f64) -> f64 {
        f64::from(u8::from((chance.bits() >> 11) as f64 / (1u64 << 53) as f64 <= p))
    }

    fn close(found: f64, expected: f64, share: f64) {
        assert!((found / expected - 1.0).abs() < share, "{found} is not {expected}");
    }

    #[test]
    fn one_seed_is_the_binomial_interval() {
        let row: Vec<f64> = (0..500).map(|i| f64::from(u8::from(i % 5 < 2))).collect();
        let found = interval(&[row]);
        assert!((found.value - 0.4).abs() < 1e-12);
        let half = 1.959_964 * (0.24f64 / 500.0).sqrt();
        close(found.high - found.value, half, 0.05);
        close(found.value - found.low, half, 0.05);
    }

    /// All resamples of 2 seeds × 3 questions, each as likely as the other.
    #[test]
    fn resamples_are_those_of_crossed_seeds_and_questions() {
        let outcomes = [vec![1.0, 0.0, 0.25], vec![0.0, 0.5, 1.0]];
        let mut all = Vec::new();
        for seeds in 0..4usize {
            for questions in 0..27usize {
                let seeds = [seeds % 2, seeds / 2];
                let questions = [questions % 3, questions / 3 % 3, questions / 9];
                let sum: f64 = seeds
                    .iter()
                    .flat_map(|&s| questions.map(|q| outcomes[s][q]))
                    .collect::<Vec<f64>>()
                    .iter()
                    .sum();
                all.push(sum / 6.0);
            }
        }
        all.sort_unstable_by(f64::total_cmp);
        let moments = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
        };
        let drawn = resampled_means(&outcomes, 40_000, &mut Chance::new(5));
        let ((mean, variance), (drawn_mean, drawn_variance)) = (moments(&all), moments(&drawn));
        close(drawn_mean, mean, 0.01);
        close(drawn_variance, variance, 0.03);
        // The whole distribution: the share at or below each possible mean.
        for mean in &all {
            let share =
                |of: &[f64]| of.iter().filter(|m| **m <= mean + 1e-9).count() as f64 / of.len() as f64;
            assert!((share(&all) - share(&drawn)).abs() < 0.01, "at {mean}");
        }
    }

    /// Seeds that differ and questions that differ: of 300 worlds, about 95 % of the intervals hold the true mean.
    #[test]
    fn intervals_cover_the_truth() {
        let (seeds, questions) = (6, 60);
        let mut chance = Chance::new(11);
        let unit = |chance: &mut Chance| (chance.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let mut held = 0;
        for _ in 0..300 {
            // The truth is 0.5: both effects are symmetric about 0.
            let by_seed: Vec<f64> = (0..seeds).map(|_| 0.2 * (unit(&mut chance) - 0.5)).collect();
            let by_question: Vec<f64> = (0..questions).map(|_| 0.7 * (unit(&mut chance) - 0.5)).collect();
            let outcomes: Vec<Vec<f64>> = by_seed
                .iter()
                .map(|s| by_question.iter().map(|q| coins(&mut chance, 0.5 + s + q)).collect())
                .collect();
            let found = interval_of(&outcomes, 400, &mut chance);
            held += usize::from(found.low <= 0.5 && 0.5 <= found.high);
        }
        assert!((276..=298).contains(&held), "{held} of 300");
    }

    #[test]
    fn pairs_share_questions_and_seeds() {
        let mut chance = Chance::new(2);
        let base: Vec<Vec<f64>> =
            (0..3).map(|_| (0..200).map(|_| coins(&mut chance, 0.5)).collect()).collect();
        let same = paired(&base, &base);
        assert_eq!((same.difference.low, same.difference.high, same.p), (0.0, 0.0, 1.0));
        // b is a, but for 20 of 200 questions that every seed loses.
        let mut less = base.clone();
        less.iter_mut().for_each(|row| row[..20].fill(0.0));
        let mut more = base.clone();
        more.iter_mut().for_each(|row| row[..20].fill(1.0));
        let found = paired(&more, &less);
        assert!((found.difference.value - 0.1).abs() < 1e-12);
        // Only questions matter: the binomial variance of 20 in 200.
        close(found.standard_error, (0.1f64 * 0.9 / 200.0).sqrt(), 0.03);
        assert!(found.p < 0.001 && found.difference.low > 0.0);
        let back = paired(&less, &more);
        assert!((back.difference.value + 0.1).abs() < 1e-12 && back.difference.high < 0.0);
        // A seed that only one arm has is left out.
        assert_eq!(paired(&more, &less[..2]), paired(&more[..2], &less[..2]));
    }

    #[test]
    fn p_values_agree_with_the_normal_approximation_and_with_mcnemar() {
        // 12 questions gained, 4 lost, of 100.
        let row = |gained: bool| -> Vec<f64> {
            (0..100)
                .map(|q| {
                    f64::from(u8::from(if q < 12 {
                        gained
                    } else if q < 16 {
                        !gained
                    } else {
                        q < 60
                    }))
                })
                .collect()
        };
        let (a, b) = ([row(true)], [row(false)]);
        // McNemar's exact test: 2 P(X <= 4), X of 16 fair coins.
        let below: f64 = [1.0, 16.0, 120.0, 560.0, 1820.0].iter().sum::<f64>() / 65_536.0;
        assert!((sign_flip(&a, &b) - 2.0 * below).abs() < 0.012, "{}", sign_flip(&a, &b));
        // z = 0.08 / sqrt((0.16 - 0.08²) / 100) = 2.0412, two-sided p 0.0412.
        let found = paired(&a, &b);
        assert!((found.p - 0.0412).abs() < 0.015, "{}", found.p);
        assert_eq!(found.p < 0.05, found.difference.low > 0.0);
    }

    #[test]
    fn rejections_are_rare_under_no_difference() {
        let mut chance = Chance::new(3);
        let mut rejected = 0;
        for _ in 0..300 {
            let mut row = || -> Vec<f64> { (0..80).map(|_| coins(&mut chance, 0.5)).collect() };
            let (a, b) = ([row()], [row()]);
            rejected += usize::from(paired_of(&a, &b, 400, &mut chance).p < 0.05);
        }
        assert!((5..=27).contains(&rejected), "{rejected} of 300");
    }

    #[test]
    fn nothing_to_draw_from_is_no_number() {
        for outcomes in [vec![], vec![vec![]], vec![vec![1.0], vec![]], vec![vec![1.0], vec![1.0, 0.0]]] {
            let found = interval(&outcomes);
            assert!(found.value.is_nan() && found.low.is_nan() && found.high.is_nan(), "{outcomes:?}");
        }
        let unlike = paired(&[vec![1.0, 0.0]], &[vec![1.0]]);
        assert!(unlike.difference.value.is_nan() && unlike.p.is_nan());
        assert!(sign_flip(&[], &[]).is_nan());
    }

    #[test]
    fn seeds_are_paired_by_number() {
        let row = |v: f64| vec![v];
        let (a, b) = pairs(&[(3, row(3.0)), (1, row(1.0)), (2, row(2.0))], &[(1, row(-1.0)), (3, row(-3.0))]);
        assert_eq!((a, b), (vec![row(1.0), row(3.0)], vec![row(-1.0), row(-3.0)]));
    }
}
