//! What the loss of an optimizer step is divided by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::request::TrainSequence;

/// Z in the loss `Σ w·nll / Z` of one optimizer step of one adapter.
///
/// Z follows from the step's data alone, never from how its sequences share micro-batches. Weights
/// may be negative. A negative one makes its token less likely, whatever Z is, as Z is positive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// `Σ w`, so that the loss is a weighted mean. Has to be positive in every step.
    #[default]
    Weights,
    /// The number of tokens with a weight other than 0.
    Tokens,
    /// The number of sequences.
    Sequences,
    /// This number, positive and finite.
    Number(f64),
}

/// What a [`Normalizer`] is written as, for errors.
pub const NORMALIZERS: &str = "weights, tokens, sequences or a finite number > 0";

impl FromStr for Normalizer {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "weights" => Ok(Self::Weights),
            "tokens" => Ok(Self::Tokens),
            "sequences" => Ok(Self::Sequences),
            _ => text.parse().ok().filter(|&z| is_divisor(z)).map(Self::Number).ok_or(()),
        }
    }
}

impl fmt::Display for Normalizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights => f.write_str("weights"),
            Self::Tokens => f.write_str("tokens"),
            Self::Sequences => f.write_str("sequences"),
            Self::Number(z) => z.fmt(f),
        }
    }
}

fn is_divisor(z: f64) -> bool {
    z > 0.0 && z.is_finite()
}

impl Normalizer {
    /// Z of a step over `sequences`, summed in their order. The first token of a sequence is never
    /// predicted, so its weight does not count.
    ///
    /// # Errors
    ///
    /// Says what is wrong where no token has a weight, and where Z is not a positive number. The
    /// message lacks its place.
    pub fn divisor<'a>(
        self,
        sequences: impl Iterator<Item = &'a TrainSequence> + Clone,
    ) -> Result<f64, String> {
        let weights = sequences.clone().flat_map(|s| s.weights.iter().skip(1)).map(|&w| f64::from(w));
        let tokens = weights.clone().filter(|&w| w != 0.0).count();
        if tokens == 0 {
            let problem = "the weights of its tokens sum to 0, as none has one: there is no loss to minimise";
            return Err(problem.into());
        }
        match self {
            Self::Weights => sum(weights),
            Self::Tokens => Ok(tokens as f64),
            Self::Sequences => Ok(sequences.count() as f64),
            Self::Number(z) if is_divisor(z) => Ok(z),
            Self::Number(z) => Err(format!("found the normalizer {z}, expected a finite number > 0")),
        }
    }
}

/// The sum of weights, where it is more than the rounding of the weights to f32.
fn sum(weights: impl Iterator<Item = f64> + Clone) -> Result<f64, String> {
    let total: f64 = weights.clone().sum();
    // Half a unit in the last place of each. Advantages of mean 0 sum to such a number, of either sign.
    let rounding = weights.map(f64::abs).sum::<f64>() * f64::from(f32::EPSILON) / 2.0;
    if total > rounding {
        return Ok(total);
    }
    let no_more = if total > 0.0 { ", no more than their rounding" } else { "" };
    Err(format!(
        "the weights of its tokens sum to {total}{no_more}; expected a sum above 0, as the loss is divided by it. \
         With negative weights choose another normalizer: tokens, sequences or a number"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divisor(normalizer: Normalizer, weights: &[&[f32]]) -> Result<f64, String> {
        let sequence = |w: &&[f32]| TrainSequence { tokens: vec![1; w.len()], weights: w.to_vec() };
        let sequences: Vec<TrainSequence> = weights.iter().map(sequence).collect();
        normalizer.divisor(sequences.iter())
    }

    #[test]
    fn each_counts_what_it_says_but_for_first_tokens() {
        let weights: [&[f32]; 4] = [&[9.0, 1.0, 0.0, -0.5], &[9.0, 2.0], &[9.0, 0.0, 0.0], &[9.0]];
        for (text, expected) in [("weights", 2.5), ("tokens", 3.0), ("sequences", 4.0), ("0.25", 0.25)] {
            let normalizer: Normalizer = text.parse().unwrap();
            assert_eq!(divisor(normalizer, &weights), Ok(expected));
            assert_eq!(normalizer.to_string(), text);
        }
    }

    #[test]
    fn a_sum_that_is_not_positive_is_refused_for_weights_alone() {
        let others = [Normalizer::Tokens, Normalizer::Sequences, Normalizer::Number(3.0)];
        for weights in [&[0.0, 1.0, -1.0][..], &[1.0, -1.0, -1.0], &[0.0, 0.1, 0.2, -0.3]] {
            let e = divisor(Normalizer::Weights, &[weights]).unwrap_err();
            assert!(e.contains("sum to ") && e.contains("tokens, sequences or a number"), "{e}");
            assert!(others.iter().all(|n| divisor(*n, &[weights]).is_ok()));
        }
        // These cancel as decimals; as f32 they sum to 7e-9.
        let e = divisor(Normalizer::Weights, &[&[0.0, -0.1, -0.2, 0.3]]).unwrap_err();
        assert!(e.contains("no more than their rounding"), "{e}");
        assert!(divisor(Normalizer::Weights, &[&[0.0, 1.0, -0.999_999]]).is_ok());
        for normalizer in others.into_iter().chain([Normalizer::Weights]) {
            for weights in [&[][..], &[&[1.0, 0.0][..], &[1.0]]] {
                assert!(divisor(normalizer, weights).unwrap_err().contains("none has one"));
            }
        }
    }

    #[test]
    fn numbers_are_positive_and_finite() {
        for text in ["0", "-1", "inf", "NaN", "1e-400", "1e400", "token", "Tokens", "", "true", "null"] {
            assert_eq!(text.parse::<Normalizer>(), Err(()), "{text}");
        }
        for z in [0.0, -2.0, f64::INFINITY, f64::NAN] {
            assert!(divisor(Normalizer::Number(z), &[&[0.0, 1.0]]).unwrap_err().contains("> 0"));
        }
    }
}
