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

#[cfg(test)]
mod tests {
    use super::*;

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
