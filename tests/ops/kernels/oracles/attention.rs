//! Attention and its gradient in f64.

use colloquy::backend::Heads;

/// A head shape with the usual scale.
pub fn heads(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> Heads {
    Heads { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window }
}

/// Attention of one sequence in f64, `[t, H D]`.
pub fn oracle(h: &Heads, qkv: &[f64]) -> Vec<f64> {
    let (d, width) = (h.head_dim, h.qkv_width());
    let tokens = qkv.len() / width;
    let mut out = vec![0.0; tokens * h.q_width()];
    for i in 0..tokens {
        for head in 0..h.heads {
            let kv = head / (h.heads / h.kv_heads);
            let q = &qkv[i * width + head * d..][..d];
            let low = h.window.map_or(0, |w| (i + 1).saturating_sub(w));
            let scores: Vec<f64> = (low..=i)
                .map(|j| {
                    let k = &qkv[j * width + h.q_width() + kv * d..][..d];
                    f64::from(h.scale) * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            for (j, s) in (low..=i).zip(&scores) {
                let p = (s - largest).exp() / total;
                let v = &qkv[j * width + h.q_width() + h.kv_width() + kv * d..][..d];
                for (o, v) in out[i * h.q_width() + head * d..].iter_mut().zip(v) {
                    *o += p * v;
                }
            }
        }
    }
    out
}

/// The gradient of `Σ dout oracle(qkv)` in f64.
pub fn oracle_backward(h: &Heads, qkv: &[f64], dout: &[f64]) -> Vec<f64> {
    let (d, width, qw) = (h.head_dim, h.qkv_width(), h.q_width());
    let tokens = qkv.len() / width;
    let mut grad = vec![0.0; qkv.len()];
    for i in 0..tokens {
        for head in 0..h.heads {
            let kv = head / (h.heads / h.kv_heads);
            let low = h.window.map_or(0, |w| (i + 1).saturating_sub(w));
            let at = |j: usize, part: usize| j * width + qw + part * h.kv_width() + kv * d;
            let q = i * width + head * d;
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let g = &dout[i * qw + head * d..][..d];
            let scores: Vec<f64> = (low..=i)
                .map(|j| f64::from(h.scale) * dot(&qkv[q..q + d], &qkv[at(j, 0)..at(j, 0) + d]))
                .collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - largest).exp() / total).collect();
            let dp: Vec<f64> = (low..=i).map(|j| dot(g, &qkv[at(j, 1)..at(j, 1) + d])).collect();
            let delta = dot(&p, &dp);
            for (n, j) in (low..=i).enumerate() {
                let ds = p[n] * (dp[n] - delta) * f64::from(h.scale);
                for e in 0..d {
                    grad[q + e] += ds * qkv[at(j, 0) + e];
                    grad[at(j, 0) + e] += ds * qkv[q + e];
                    grad[at(j, 1) + e] += p[n] * g[e];
                }
            }
        }
    }
    grad
}
