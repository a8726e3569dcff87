//! Gradient norms and AdamW, over all slots of a step at once.
//!
//! A norm is a fixed sum: squares in f64, one chain for each row of A and then of B (a row of A is one of the
//! rank, k ascending; a row of B one output, rank ascending), the row sums added in order, part by part. The
//! layout has neighbouring rows in neighbouring lanes, so the chains of 16 or 32 rows run side by side.

use super::gemm::{PANEL, Shared};
use super::slots::{OptimizerState, PartPlace, SlotData, no_optimizer};
use super::*;

/// [`Op::GradNorms`].
pub fn norms(c: &mut CpuBackend, op: &GradNorms) -> Result<()> {
    op.check(c)?;
    let (slots, out) = (&op.slots, op.out);
    let mut gradients = Vec::with_capacity(slots.len());
    for &slot in slots {
        let data = c.slots.get(slot)?;
        gradients.push((data, &*data.optimizer.as_ref().ok_or_else(|| no_optimizer(slot))?.gradient));
    }
    let mut norms = vec![0.0f32; slots.len()];
    let shared = Shared::new(&mut norms);
    let cost: usize = gradients.iter().map(|(_, g)| g.len() * 4).sum();
    c.pool.run(c.pool.helpers(cost), &[slots.len()], &|_, task| {
        let (data, gradient) = gradients[task];
        // SAFETY: each task writes its own norm.
        unsafe { shared.slice(task, 1)[0] = norm(&data.parts, gradient) };
    });
    let mut values = c.take(out)?;
    values[..norms.len()].copy_from_slice(&norms);
    c.put(out, values);
    Ok(())
}

/// The norm of one slot's gradient.
fn norm(parts: &[Option<PartPlace>], gradient: &[f32]) -> f32 {
    let mut total = 0.0f64;
    for part in parts.iter().flatten() {
        let a = &gradient[part.a.clone()];
        for lanes in (0..part.padded).step_by(RANK_STEP) {
            let rows = a.chunks_exact(part.padded).map(|line| &line[lanes..lanes + RANK_STEP]);
            total = row_sums::<RANK_STEP>(rows).iter().fold(total, |t, s| t + s);
        }
        for panel in gradient[part.b.clone()].chunks_exact(part.padded * PANEL) {
            total = row_sums::<PANEL>(panel.chunks_exact(PANEL)).iter().fold(total, |t, s| t + s);
        }
    }
    total.sqrt() as f32
}

/// Sums of squares, lane by lane.
fn row_sums<'a, const LANES: usize>(lines: impl Iterator<Item = &'a [f32]>) -> [f64; LANES] {
    let mut sums = [0.0f64; LANES];
    for line in lines {
        for (sum, &g) in sums.iter_mut().zip(line) {
            *sum += f64::from(g) * f64::from(g);
        }
    }
    sums
}

/// Numbers of a slot that one task updates.
const CHUNK: usize = 1 << 15;

/// The scalars of one adapter's step, rounded once from f64.
struct Scalars {
    clip: f32,
    decay: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction2: f32,
    epsilon: f32,
}

impl Scalars {
    fn new(s: &AdamWStep, norm: f32) -> Self {
        let (beta1, beta2, lr) = (f64::from(s.beta1), f64::from(s.beta2), f64::from(s.learning_rate));
        let t = i32::try_from(s.step).unwrap_or(i32::MAX);
        let clip = f64::from(s.max_grad_norm) / (f64::from(norm) + 1e-6);
        Self {
            clip: clip.min(1.0) as f32,
            decay: (1.0 - lr * f64::from(s.weight_decay)) as f32,
            beta1: s.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: s.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (lr / (1.0 - beta1.powi(t))) as f32,
            root_correction2: (1.0 - beta2.powi(t)).sqrt() as f32,
            epsilon: s.epsilon,
        }
    }
}

/// [`Op::AdamW`].
pub fn step(c: &mut CpuBackend, op: &AdamW) -> Result<()> {
    op.check(c)?;
    let steps = &op.steps;
    let norms = c.f32(op.norms)?[..steps.len()].to_vec();
    // One task for each chunk of each slot.
    let mut adapters = Vec::with_capacity(steps.len());
    let mut tasks = Vec::new();
    for (s, &norm) in steps.iter().zip(&norms) {
        let data = c.slots.get_mut(s.slot)?;
        let len = data.weights.len();
        tasks.extend((0..len).step_by(CHUNK).map(|at| (adapters.len(), at, CHUNK.min(len - at))));
        let weights = data.kept().as_mut_ptr();
        let o = state(data, s.slot)?;
        // SAFETY: four buffers of one slot, each of `len` values and borrowed by nobody else until the tasks
        // are done: the slots are distinct (checked above) and `c` is borrowed for all of this function.
        let shared = unsafe {
            [weights, o.gradient.as_mut_ptr(), o.moment1.as_mut_ptr(), o.moment2.as_mut_ptr()]
                .map(|p| Shared::from_raw(p, len))
        };
        adapters.push((norm.is_finite().then(|| Scalars::new(s, norm)), shared));
    }
    let cost = tasks.iter().map(|t| t.2 * 8).sum();
    c.pool.run(c.pool.helpers(cost), &[tasks.len()], &|_, task| {
        let (adapter, at, len) = tasks[task];
        let (scalars, [w, g, m, v]) = &adapters[adapter];
        // SAFETY: the chunks of a slot do not overlap.
        let (w, g, m, v) =
            unsafe { (w.slice(at, len), g.slice(at, len), m.slice(at, len), v.slice(at, len)) };
        if let Some(scalars) = scalars {
            update(scalars, w, g, m, v);
        }
        g.fill(0.0);
    });
    for s in steps {
        c.slots.get_mut(s.slot)?.round();
    }
    Ok(())
}

/// One chunk. Where the gradient has always been zero, as in a rank's padding, nothing moves.
fn update(s: &Scalars, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
        let g = g * s.clip;
        let decayed = *w * s.decay;
        *m = s.beta1 * *m + s.one_minus_beta1 * g;
        *v = s.beta2 * *v + s.one_minus_beta2 * (g * g);
        let denominator = v.sqrt() / s.root_correction2 + s.epsilon;
        // With epsilon 0, 0 / 0 would turn untouched weights into NaN.
        let ratio = if denominator == 0.0 { 0.0 } else { *m / denominator };
        *w = decayed - s.step_size * ratio;
    }
}

/// [`Op::ZeroGrad`].
pub fn zero_grad(c: &mut CpuBackend, op: &ZeroGrad) -> Result<()> {
    op.check(c)?;
    for &slot in &op.slots {
        state(c.slots.get_mut(slot)?, slot)?.gradient.fill(0.0);
    }
    Ok(())
}

fn state(data: &mut SlotData, slot: Slot) -> Result<&mut OptimizerState> {
    data.optimizer.as_mut().ok_or_else(|| no_optimizer(slot))
}
