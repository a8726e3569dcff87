//! Root mean square norm and its backward. Sums over a row run over four accumulators of sixteen lanes and one tree
//! ([`math::dot`]).

use super::lanes::{LANES, Level, Simd, simd};
use super::*;

simd! {
    /// `out = x rstd w` of each row.
    pub fn forward_rows[](s, x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
        let d = w.len();
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let rstd = s.splat(rstd(s, x, eps));
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let (ws, w_rest) = w.as_chunks::<LANES>();
            let (os, o_rest) = out.as_chunks_mut::<LANES>();
            for ((x, w), o) in xs.iter().zip(ws).zip(os) {
                s.store(o, s.mul(s.mul(s.load(x), rstd), s.load(w)));
            }
            let y = s.mul(s.mul(s.load_or(x_rest, 0.0), rstd), s.load_or(w_rest, 0.0));
            s.store_some(o_rest, y);
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn rstd<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (math::dot(s, x, x) / x.len() as f32 + eps).sqrt()
}

simd! {
    /// `dx = (dx if accumulate) + rstd * (w dy - x * rstd² * mean(w dy x))`; without `dy`, dx holds it.
    pub fn backward_rows[](s, x: &[f32], w: &[f32], eps: f32, dy: Option<&[f32]>, dx: &mut [f32], accumulate: bool) {
        let d = w.len();
        for (row, dx) in dx.chunks_exact_mut(d).enumerate() {
            let x = &x[row * d..][..d];
            let rstd = rstd(s, x, eps);
            let product = match dy {
                Some(dy) => weighted(s, x, w, &dy[row * d..][..d]),
                None => weighted(s, x, w, dx),
            };
            let c = s.splat(product / d as f32 * (rstd * rstd));
            let rstd = s.splat(rstd);
            for (i, dx) in dx.chunks_mut(LANES).enumerate() {
                let at = i * LANES..i * LANES + dx.len();
                let old = s.load_or(dx, 0.0);
                let dy = match dy {
                    Some(dy) => s.load_or(&dy[row * d..][at.clone()], 0.0),
                    None => old,
                };
                let (x, w) = (s.load_or(&x[at.clone()], 0.0), s.load_or(&w[at], 0.0));
                let g = s.mul(rstd, s.fnma(x, c, s.mul(w, dy)));
                s.store_some(dx, if accumulate { s.add(old, g) } else { g });
            }
        }
    }
}

/// `Σ w dy x`, each factor `w dy` rounded first.
#[inline(always)]
fn weighted<S: Simd>(s: S, x: &[f32], w: &[f32], dy: &[f32]) -> f32 {
    let mut acc = [s.splat(0.0); 4];
    for (i, ((x, w), dy)) in x.chunks(LANES).zip(w.chunks(LANES)).zip(dy.chunks(LANES)).enumerate() {
        let (x, w, dy) = (s.load_or(x, 0.0), s.load_or(w, 0.0), s.load_or(dy, 0.0));
        acc[i % 4] = s.fma(s.mul(w, dy), x, acc[i % 4]);
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// [`Op::RmsNorm`].
pub fn forward(c: &mut CpuBackend, op: &RmsNorm) -> Result<()> {
    let (rows, d) = op.check(c)?;
    rows::write(c, op.out, rows * d, |c, out| {
        let x = rows::read(c, op.x, rows * d)?;
        let w = &c.vectors[op.weight.0 as usize];
        let level = Level::detect();
        rows::blocks(&c.pool, out, d, d, |first, out| {
            forward_rows(level, &x[first * d..][..out.len()], w, op.eps, out);
        });
        Ok(())
    })
}

/// [`Op::RmsNormBackward`].
pub fn backward(c: &mut CpuBackend, op: &RmsNormBackward) -> Result<()> {
    let (rows, d) = op.check(c)?;
    rows::write(c, op.dx, rows * d, |c, out| {
        let x = rows::read(c, op.x, rows * d)?;
        let w = &c.vectors[op.weight.0 as usize];
        let dy = (op.dy != op.dx).then(|| rows::read(c, op.dy, rows * d)).transpose()?;
        let level = Level::detect();
        rows::blocks(&c.pool, out, d, 3 * d, |first, out| {
            let at = first * d..first * d + out.len();
            backward_rows(level, &x[at.clone()], w, op.eps, dy.map(|dy| &dy[at]), out, op.accumulate);
        });
        Ok(())
    })
}
