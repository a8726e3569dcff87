//! The logits, their softmax and the loss in f64.

/// `hidden Wᵀ` in f64, row by row.
pub fn logits(hidden: &[f64], w: &[f32], d: usize) -> Vec<Vec<f64>> {
    hidden
        .chunks_exact(d)
        .map(|h| w.chunks_exact(d).map(|w| h.iter().zip(w).map(|(h, &w)| h * f64::from(w)).sum()).collect())
        .collect()
}

/// `softmax(z / temperature)`.
pub fn softmax(z: &[f64], temperature: f64) -> Vec<f64> {
    let largest = z.iter().copied().fold(f64::MIN, f64::max);
    let e: Vec<f64> = z.iter().map(|z| ((z - largest) / temperature).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|e| e / total).collect()
}

/// `lse(z) - z[label]`.
pub fn nll(z: &[f64], label: usize) -> f64 {
    let largest = z.iter().copied().fold(f64::MIN, f64::max);
    largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln() - z[label]
}
