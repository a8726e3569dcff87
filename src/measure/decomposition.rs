//! Where a gain comes from.
//!
//! An answer is right if it came to an end (was not cut off by length and had room in the context), if an answer could be read in it, and if
//! that is the right one: accuracy = ended × parsed × right given an answer, each share among what the one before left. A gain between two
//! sets of answers is divided among the three by their Shapley values (Shapley 1953): the change that a factor makes, averaged over
//! all orders in which the three could change. For factors x (before) and y (after):
//!
//! `gain(1) = (y1 - x1) ((x2 x3 + y2 y3) / 3 + (x2 y3 + y2 x3) / 6)`, and so on; the three sum to `y1 y2 y3 - x1 x2 x3` exactly.

use serde::Serialize;

use super::Outcome;

/// A gain in accuracy and its three parts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// Accuracy after less accuracy before; the sum of the three.
    pub total: f64,
    /// Because more answers came to an end: fewer were cut off by length without an answer, or had no room in the context.
    pub truncation: f64,
    /// Because in more of those that ended an answer could be read.
    pub parsing: f64,
    /// Because more of the answers were right.
    pub accuracy: f64,
}

/// What answers were like: shares of all.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Factors {
    /// ended, parsed, right; `None` where nothing is left to take a share of.
    shares: [Option<f64>; 3],
}

impl Factors {
    fn of(strings: &[Vec<Outcome>]) -> Self {
        let count =
            |holds: &dyn Fn(Outcome) -> bool| strings.iter().flatten().filter(|o| holds(**o)).count() as f64;
        let all = count(&|_| true);
        let ended = count(&|o| !matches!(o, Outcome::CutOff | Outcome::Missing));
        let answered = count(&Outcome::is_answer);
        let right = count(&|o| o == Outcome::Right);
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        Self { shares: [share(ended, all), share(answered, ended), share(right, answered)] }
    }
}

/// The gain from `before` to `after`, each the outcomes of any number of agents and seeds, all questions alike. A factor that is not
/// defined on one side (no answer at all: there is no accuracy given an answer) counts as unchanged. `None` if either side is empty.
pub fn gain(before: &[Vec<Outcome>], after: &[Vec<Outcome>]) -> Option<Gain> {
    let (before, after) = (Factors::of(before).shares, Factors::of(after).shares);
    if before[0].is_none() || after[0].is_none() {
        return None;
    }
    let filled = |own: [Option<f64>; 3], other: [Option<f64>; 3]| -> [f64; 3] {
        std::array::from_fn(|i| own[i].or(other[i]).unwrap_or(0.0))
    };
    let (x, y) = (filled(before, after), filled(after, before));
    let part = |i: usize| {
        let (j, k) = ((i + 1) % 3, (i + 2) % 3);
        (y[i] - x[i]) * ((x[j] * x[k] + y[j] * y[k]) / 3.0 + (x[j] * y[k] + y[j] * x[k]) / 6.0)
    };
    let total = y.iter().product::<f64>() - x.iter().product::<f64>();
    Some(Gain { total, truncation: part(0), parsing: part(1), accuracy: part(2) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Chance;

    fn read(s: &str) -> Vec<Outcome> {
        Outcome::read(s).unwrap()
    }

    fn accuracy(o: &[Vec<Outcome>]) -> f64 {
        let all: Vec<_> = o.iter().flatten().collect();
        all.iter().filter(|o| ***o == Outcome::Right).count() as f64 / all.len() as f64
    }

    #[test]
    fn each_factor_alone_takes_the_whole_gain() {
        let parts = |a: &str, b: &str| {
            let g = gain(&[read(a)], &[read(b)]).unwrap();
            [g.total, g.truncation, g.parsing, g.accuracy].map(|v| (v * 1e12).round() / 1e12)
        };
        // Accuracy given an answer 1/2 before and after, all parsed.
        assert_eq!(parts("10tt", "1010"), [0.25, 0.25, 0.0, 0.0]);
        assert_eq!(parts("10mt", "1010"), [0.25, 0.25, 0.0, 0.0]);
        assert_eq!(parts("10--", "1010"), [0.25, 0.0, 0.25, 0.0]);
        assert_eq!(parts("1000", "1110"), [0.5, 0.0, 0.0, 0.5]);
        assert_eq!(parts("1110", "1000"), [-0.5, 0.0, 0.0, -0.5]);
        // No answer before: how right answers are is not known, so it did not change.
        assert_eq!(parts("----", "1100"), [0.5, 0.0, 0.5, 0.0]);
        assert_eq!(parts("tttt", "11--"), [0.5, 0.5, 0.0, 0.0]);
        assert_eq!(parts("tttt", "----"), [0.0, 0.0, 0.0, 0.0]);
        assert!(gain(&[], &[read("1")]).is_none());
    }

    /// The mean over all six orders, by walking them.
    #[test]
    fn parts_are_shapley_values_and_sum_to_the_gain() {
        let mut chance = Chance::new(8);
        for _ in 0..300 {
            let mut draw = || -> Vec<Outcome> { (0..17).map(|_| Outcome::ALL[chance.below(5)]).collect() };
            let (a, b) = ([draw(), draw()], [draw(), draw(), draw()]);
            let found = gain(&a, &b).unwrap();
            assert!((found.total - (accuracy(&b) - accuracy(&a))).abs() < 1e-12);
            assert!((found.truncation + found.parsing + found.accuracy - found.total).abs() < 1e-12);
            let (x, y) =
                (Factors::of(&a).shares.map(Option::unwrap), Factors::of(&b).shares.map(Option::unwrap));
            let mut parts = [0.0; 3];
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let mut now = x;
                for i in order {
                    let before: f64 = now.iter().product();
                    now[i] = y[i];
                    parts[i] += (now.iter().product::<f64>() - before) / 6.0;
                }
            }
            for (part, found) in parts.iter().zip([found.truncation, found.parsing, found.accuracy]) {
                assert!((part - found).abs() < 1e-12);
            }
        }
    }
}
