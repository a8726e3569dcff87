//! How a question went, one letter each: what `outcomes` in metrics.jsonl holds.

use crate::error::{Error, Result};

/// How one answer to one question went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// `1`: the reference answer.
    Right,
    /// `0`: another answer.
    Wrong,
    /// `-`: no answer, though the text ended.
    NoAnswer,
    /// `t`: cut off by length, without an answer.
    CutOff,
    /// `m`: nothing was said, because the prompt outgrew the context.
    Missing,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Right, Self::Wrong, Self::NoAnswer, Self::CutOff, Self::Missing];

    /// Its letter.
    pub fn letter(self) -> char {
        match self {
            Self::Right => '1',
            Self::Wrong => '0',
            Self::NoAnswer => '-',
            Self::CutOff => 't',
            Self::Missing => 'm',
        }
    }

    /// The outcomes of a string, one a question. Any other letter is an error.
    pub fn read(letters: &str) -> Result<Vec<Self>> {
        let known = |c: char| Self::ALL.into_iter().find(|o| o.letter() == c);
        letters
            .chars()
            .enumerate()
            .map(|(i, c)| {
                known(c).ok_or_else(|| {
                    let problem = format!("found `{c}` at question {i}, expected one of 1, 0, -, t, m");
                    Error::input("outcomes", problem)
                })
            })
            .collect()
    }

    /// The string of outcomes.
    pub fn write(outcomes: impl IntoIterator<Item = Self>) -> String {
        outcomes.into_iter().map(Self::letter).collect()
    }
}

/// The share of right answers to each question, over several strings (agents or samples): a row for
/// [`interval`](super::interval). Questions that not all strings have are left out.
pub fn shares_right(strings: &[Vec<Outcome>]) -> Vec<f64> {
    let questions = strings.iter().map(Vec::len).min().unwrap_or(0);
    let right = |q: usize| strings.iter().filter(|s| s[q] == Outcome::Right).count();
    (0..questions).map(|q| right(q) as f64 / strings.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_and_written() {
        let read = Outcome::read("10-tm").unwrap();
        assert_eq!(read, Outcome::ALL);
        assert_eq!(Outcome::write(read), "10-tm");
        let e = Outcome::read("10x").unwrap_err().to_string();
        assert!(e.contains("`x` at question 2"), "{e}");
    }

    #[test]
    fn shares_are_over_strings() {
        let of = |s: &str| Outcome::read(s).unwrap();
        assert_eq!(shares_right(&[of("110t"), of("1-01"), of("10m0")]), [1.0, 1.0 / 3.0, 0.0, 1.0 / 3.0]);
        assert!(shares_right(&[]).is_empty());
    }
}
