//! Means with standard errors over questions.

use serde::Serialize;

/// A mean over questions and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean; 0 without values.
    pub value: f64,
    /// Standard deviation over questions / √n: for right or wrong, √(p(1-p)/n).
    pub standard_error: f64,
}

impl Estimate {
    /// Of one value a question. Several answers to one question are averaged first: they are not independent.
    pub fn of(values: &[f64]) -> Self {
        if values.is_empty() {
            return Self { value: 0.0, standard_error: 0.0 };
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        Self { value: mean, standard_error: (variance / n).sqrt() }
    }

    /// Of a yes or no for each question.
    pub fn share(values: &[bool]) -> Self {
        Self::of(&values.iter().map(|&v| f64::from(u8::from(v))).collect::<Vec<_>>())
    }

    /// `47.5 ± 3.5 %`
    pub fn percent(&self) -> String {
        format!("{:.1} ± {:.1} %", 100.0 * self.value, 100.0 * self.standard_error)
    }
}

/// The share of `true`, 0 without values.
pub fn share(values: impl IntoIterator<Item = bool>) -> f64 {
    let (mut yes, mut all) = (0usize, 0usize);
    for value in values {
        yes += usize::from(value);
        all += 1;
    }
    if all == 0 { 0.0 } else { yes as f64 / all as f64 }
}

/// The 95 % interval of a share of `yes` in `all`, by Wilson's score (1927): unlike one from the standard error, it
/// does not shrink to nothing at 0 and 1. Without values (0, 1).
pub fn wilson(yes: usize, all: usize) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    // The normal quantile of 0.975.
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (all as f64, yes as f64 / all as f64);
    let scale = 1.0 + Z * Z / n;
    let middle = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_holds_at_the_ends_and_agrees_with_published_values() {
        let close = |(a, b): (f64, f64), c: f64, d: f64| (a - c).abs() < 5e-5 && (b - d).abs() < 5e-5;
        // Newcombe (1998), Table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        assert!(close(wilson(81, 263), 0.2553, 0.3662));
        assert!(close(wilson(15, 148), 0.0624, 0.1605));
        assert!(close(wilson(0, 20), 0.0, 0.1611));
        assert!(close(wilson(1, 29), 0.0061, 0.1718));
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(7, 7).1, 1.0);
    }

    #[test]
    fn standard_error_of_a_share_is_binomial() {
        let values: Vec<bool> = (0..500).map(|i| i % 5 < 2).collect();
        let e = Estimate::share(&values);
        assert!((e.value - 0.4).abs() < 1e-12);
        assert!((e.standard_error - (0.4f64 * 0.6 / 500.0).sqrt()).abs() < 1e-12);
        assert_eq!(e.percent(), "40.0 ± 2.2 %");
    }

    #[test]
    fn nothing_is_zero() {
        assert_eq!(Estimate::of(&[]), Estimate { value: 0.0, standard_error: 0.0 });
        assert_eq!(share([]), 0.0);
        assert_eq!(share([true, false]), 0.5);
    }
}
