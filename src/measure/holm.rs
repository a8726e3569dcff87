//! Several comparisons at once.

/// Holm's step-down adjustment (Holm 1979, Scandinavian Journal of Statistics 6): the adjusted p values, in the order
/// given. With p(1) <= … <= p(m), `adjusted(i) = max over j <= i of min(1, (m - j + 1) p(j))`. Rejecting where it is at
/// most α keeps the chance of any false rejection at α. What is not a number is no comparison: it stays, and is not
/// counted.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = p.to_vec();
    let mut highest: f64 = 0.0;
    for (place, &i) in order.iter().enumerate() {
        highest = highest.max((order.len() - place) as f64 * p[i]).min(1.0);
        adjusted[i] = highest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_textbook_example() {
        // Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not be below the one before it.
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
    }

    /// The definition by the step-down test: adjusted p is the least α at which the procedure rejects.
    #[test]
    fn adjusted_values_reject_what_the_procedure_rejects() {
        let p = [0.2, 0.001, 0.013, 0.04, 0.013, 0.9, 0.0101];
        let adjusted = holm(&p);
        for alpha in (1..1000).map(|i| f64::from(i) / 1000.0 + 1e-7) {
            let mut order: Vec<usize> = (0..p.len()).collect();
            order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
            let stops = (0..p.len()).find(|&k| p[order[k]] > alpha / (p.len() - k) as f64).unwrap_or(p.len());
            let rejected: Vec<bool> = (0..p.len()).map(|i| order[..stops].contains(&i)).collect();
            assert_eq!(adjusted.iter().map(|a| *a <= alpha).collect::<Vec<_>>(), rejected, "{alpha}");
        }
    }

    #[test]
    fn one_is_itself_and_none_is_nothing() {
        assert_eq!(holm(&[0.03]), [0.03]);
        assert!(holm(&[]).is_empty());
        let found = holm(&[0.01, f64::NAN, 0.9]);
        assert_eq!(found[0], 0.02);
        assert!(found[1].is_nan());
        assert_eq!(found[2], 0.9);
    }
}
