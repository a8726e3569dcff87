//! The loss over the vocabulary: log-sum-exp, negative log-likelihood and gradient, a workspace of rows of
//! logits at a time. The same [`Lse`] serves the sampler, so a sampled log-probability is the trainer's, bit
//! for bit.

use super::lanes::{LANES, Level, simd};
use super::*;

/// Logits whose exponentials are summed in f32 before they join the f64 sum of a row.
const TILE: usize = 1024;

/// The log-sum-exp of a row of logits in two parts, so that a token of probability near 1 keeps its small loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lse {
    /// The largest logit.
    pub largest: f32,
    /// `Σ exp(z - largest)`.
    pub mass: f32,
    /// Its natural logarithm.
    pub ln_mass: f32,
}

impl Lse {
    /// The negative log-likelihood of a token with logit `z`.
    pub fn nll(&self, z: f32) -> f32 {
        self.ln_mass - (z - self.largest)
    }
}

simd! {
    /// `Σ exp((z - largest) / temperature)`: tiles of [`TILE`] in f32, their sums in f64, in ascending order.
    pub fn mass[](s, z: &[f32], largest: f32, temperature: f32) -> f64 {
        let (largest, temperature) = (s.splat(largest), s.splat(temperature));
        let mut sum = 0.0f64;
        for tile in z.chunks(TILE) {
            let mut acc = [s.splat(0.0); 4];
            let (blocks, rest) = tile.as_chunks::<{ 4 * LANES }>();
            for block in blocks {
                for (a, z) in acc.iter_mut().zip(block.as_chunks::<LANES>().0) {
                    *a = s.add(*a, math::exp(s, s.div(s.sub(s.load(z), largest), temperature)));
                }
            }
            for (a, z) in acc.iter_mut().zip(rest.chunks(LANES)) {
                let z = s.load_or(z, f32::NEG_INFINITY);
                *a = s.add(*a, math::exp(s, s.div(s.sub(z, largest), temperature)));
            }
            sum += f64::from(s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]))));
        }
        sum
    }
}

simd! {
    fn ln_of[](s, x: f32) -> f32 {
        math::ln1(s, x)
    }
}

/// The log-sum-exp of a row of logits.
pub fn lse(level: Level, z: &[f32]) -> Lse {
    let largest = math::largest(level, z);
    let mass = mass(level, z, largest, 1.0) as f32;
    Lse { largest, mass, ln_mass: ln_of(level, mass) }
}

simd! {
    /// The lowest index with `z >= value`, if any.
    pub fn first_at_least[](s, z: &[f32], value: f32) -> Option<usize> {
        let value_s = s.splat(value);
        let (blocks, rest) = z.as_chunks::<LANES>();
        for (i, block) in blocks.iter().enumerate() {
            let mask = s.mask_ge(s.load(block), value_s);
            if mask != 0 {
                return Some(i * LANES + mask.trailing_zeros() as usize);
            }
        }
        rest.iter().position(|&z| z >= value).map(|i| blocks.len() * LANES + i)
    }
}

simd! {
    /// `z = coefficient * (softmax(z) - onehot(label))` in place.
    fn gradient[](s, z: &mut [f32], lse: Lse, label: usize, coefficient: f32) {
        let (largest, factor) = (s.splat(lse.largest), s.splat(coefficient / lse.mass));
        let (blocks, rest) = z.as_chunks_mut::<LANES>();
        for block in blocks {
            let g = s.mul(math::exp(s, s.sub(s.load(block), largest)), factor);
            s.store(block, g);
        }
        let g = s.mul(math::exp(s, s.sub(s.load_or(rest, f32::NEG_INFINITY), largest)), factor);
        s.store_some(rest, g);
        z[label] -= coefficient;
    }
}

/// `z = hidden Wᵀ (+ b)` for `rows` rows.
pub fn logits(c: &CpuBackend, lm_head: &linear::LinearWeights, hidden: &[f32], rows: usize, z: &mut [f32]) {
    gemm::matmul(&c.pool, hidden, rows, &lm_head.forward, z, false);
    if let Some(bias) = &lm_head.bias {
        for z in z.chunks_exact_mut(bias.len()).take(rows) {
            z.iter_mut().zip(bias).for_each(|(z, b)| *z += b);
        }
    }
}

/// [`Op::LmHeadLoss`].
pub fn run(c: &mut CpuBackend, op: &LmHeadLoss) -> Result<()> {
    let LmHeadWork { width: d, vocabulary: v, capacity } = op.check(c)?;
    let &LmHeadLoss { hidden, lm_head, workspace, out, dhidden } = op;
    let plan = c.plan.clone();
    let count = plan.logit_rows.len();

    // Nothing below fails, so what is taken is given back.
    let mut results = c.take(out)?;
    let mut z = c.take(workspace)?;
    let mut dh = dhidden.map(|t| c.take(t)).transpose()?;
    let in_place = dhidden == Some(hidden);
    let weights = &c.linears[lm_head.0 as usize];
    let level = Level::detect();
    for first in (0..count).step_by(capacity) {
        let rows = capacity.min(count - first);
        let at = first * d..(first + rows) * d;
        let labels = &plan.labels[first..first + rows];
        let z = &mut z[..rows * v];
        match &dh {
            Some(dh) if in_place => logits(c, weights, &dh[at.clone()], rows, z),
            _ => logits(c, weights, &c.f32(hidden)?[at.clone()], rows, z),
        }
        let results = &mut results[2 * first..2 * (first + rows)];
        let with_gradient = dh.is_some();
        let row = |((z, result), label): ((&mut [f32], &mut [f32]), &Label)| {
            let lse = lse(level, z);
            let token = label.token as usize;
            result[0] = lse.nll(z[token]);
            let best = z[token] == lse.largest && first_at_least(level, z, lse.largest) == Some(token);
            result[1] = f32::from(u8::from(best));
            if with_gradient {
                gradient(level, z, lse, token, label.coefficient);
            }
        };
        if rows::serial(&c.pool, rows * v * 4) {
            z.chunks_exact_mut(v).zip(results.chunks_exact_mut(2)).zip(labels).for_each(row);
        } else {
            let mut rows: Vec<_> =
                z.chunks_exact_mut(v).zip(results.chunks_exact_mut(2)).zip(labels).collect();
            c.pool.each(&mut rows, || (), |(), _, ((z, result), label)| row(((z, result), label)));
        }
        if let (Some(dh), Some(backward)) = (&mut dh, &weights.backward) {
            let dh = &mut dh[at];
            gemm::matmul(&c.pool, z, rows, backward, dh, false);
            for (dh, label) in dh.chunks_exact_mut(d).zip(labels) {
                // Selected, since the logits may not be finite.
                if label.coefficient == 0.0 {
                    dh.fill(0.0);
                }
            }
        }
    }
    c.put(out, results);
    c.put(workspace, z);
    if let (Some(t), Some(values)) = (dhidden, dh) {
        c.put(t, values);
    }
    Ok(())
}
