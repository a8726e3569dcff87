//! How large a difference must be to be seen.

/// The standard normal's 97.5th percentile: a two-sided test at 5 %.
const Z_SIZE: f64 = 1.959_963_984_540_054;
/// Its 80th: found four times in five.
const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// The smallest true difference that a two-sided test at 5 % finds with probability 80 %, given the difference's
/// standard error (as [`paired`](super::paired) has it): `(z(0.975) + z(0.8)) se = 2.80 se` (Bloom 1995, "Minimum
/// detectable effects", Evaluation Review 19). The normal approximation; the other tail, below 1e-6 there, is left out.
pub fn smallest_detectable(standard_error: f64) -> f64 {
    (Z_SIZE + Z_POWER) * standard_error
}

/// The same of one seed, from the variance of the paired difference over questions: `2.80 sqrt(variance / questions)`.
/// For right and wrong with a share d of questions on which the two differ, and a difference Δ, the variance is d - Δ².
pub fn smallest_detectable_of(variance: f64, questions: usize) -> f64 {
    smallest_detectable((variance / questions as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Chance;

    #[test]
    fn it_is_found_four_times_in_five() {
        let mut chance = Chance::new(4);
        let mut unit = || ((chance.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (variance, questions) = (0.19f64, 500);
        let error = (variance / 500.0).sqrt();
        let truth = smallest_detectable_of(variance, questions);
        assert!((truth / error - 2.801_585).abs() < 1e-5);
        let draws = 40_000;
        let found = (0..draws).filter(|_| {
            // Box and Muller.
            let normal = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
            (truth + error * normal).abs() > 1.959_964 * error
        });
        let share = found.count() as f64 / f64::from(draws);
        assert!((share - 0.8).abs() < 0.008, "{share}");
    }
}
