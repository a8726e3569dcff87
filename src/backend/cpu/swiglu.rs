//! SwiGLU and its backward: `silu(gate) * up` with `silu(g) = g / (1 + exp(-g))`.

use super::lanes::{LANES, Level, Simd, simd};
use super::*;

/// `1 / (1 + exp(-g))`.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, g: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, math::exp(s, s.sub(s.splat(0.0), g))))
}

/// `silu(gate) * up`.
#[inline(always)]
fn value<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V {
    s.mul(s.mul(gate, sigmoid(s, gate)), up)
}

/// The gradients of gate and up.
#[inline(always)]
fn gradients<S: Simd>(s: S, gate: S::V, up: S::V, dout: S::V) -> (S::V, S::V) {
    let one = s.splat(1.0);
    let sig = sigmoid(s, gate);
    let slope = s.mul(sig, s.fma(gate, s.sub(one, sig), one));
    (s.mul(s.mul(dout, up), slope), s.mul(dout, s.mul(gate, sig)))
}

simd! {
    fn forward_rows[](s, gate_up: &[f32], out: &mut [f32], f: usize) {
        for (row, out) in gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = row.split_at(f);
            let ((gates, gate), (ups, up)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
            let (outs, out) = out.as_chunks_mut::<LANES>();
            for ((g, u), o) in gates.iter().zip(ups).zip(outs) {
                s.store(o, value(s, s.load(g), s.load(u)));
            }
            s.store_some(out, value(s, s.load_or(gate, 0.0), s.load_or(up, 0.0)));
        }
    }
}

simd! {
    /// Without `gate_up`, d holds it.
    fn backward_rows[](s, gate_up: Option<&[f32]>, dout: &[f32], d: &mut [f32], f: usize) {
        for (row, (dout, d)) in dout.chunks_exact(f).zip(d.chunks_exact_mut(2 * f)).enumerate() {
            let (dgate, dup) = d.split_at_mut(f);
            let halves = gate_up.map(|x| x[row * 2 * f..][..2 * f].split_at(f));
            for (i, ((dout, dgate), dup)) in
                dout.chunks(LANES).zip(dgate.chunks_mut(LANES)).zip(dup.chunks_mut(LANES)).enumerate()
            {
                let at = i * LANES..i * LANES + dout.len();
                let (gate, up) = halves.map_or((&*dgate, &*dup), |(g, u)| (&g[at.clone()], &u[at]));
                let (g, u) =
                    gradients(s, s.load_or(gate, 0.0), s.load_or(up, 0.0), s.load_or(dout, 0.0));
                s.store_some(dgate, g);
                s.store_some(dup, u);
            }
        }
    }
}

/// Roughly the scalar operations of one element: an exponential and a division.
const COST: usize = 16;

/// [`Op::SwiGlu`].
pub fn forward(c: &mut CpuBackend, op: &SwiGlu) -> Result<()> {
    let (rows, f) = op.check(c)?;
    rows::write(c, op.out, rows * f, |c, out| {
        let gate_up = rows::read(c, op.gate_up, rows * 2 * f)?;
        let level = Level::detect();
        rows::blocks(&c.pool, out, f, COST * f, |first, out| {
            forward_rows(level, &gate_up[2 * first * f..][..2 * out.len()], out, f);
        });
        Ok(())
    })
}

/// [`Op::SwiGluBackward`].
pub fn backward(c: &mut CpuBackend, op: &SwiGluBackward) -> Result<()> {
    let (rows, f) = op.check(c)?;
    rows::write(c, op.dgate_up, rows * 2 * f, |c, d| {
        let dout = rows::read(c, op.dout, rows * f)?;
        let in_place = op.gate_up == op.dgate_up;
        let gate_up = (!in_place).then(|| rows::read(c, op.gate_up, rows * 2 * f)).transpose()?;
        let level = Level::detect();
        rows::blocks(&c.pool, d, 2 * f, 2 * COST * f, |first, d| {
            let at = first * f..first * f + d.len() / 2;
            let gate_up = gate_up.map(|x| &x[2 * at.start..2 * at.end]);
            backward_rows(level, gate_up, &dout[at], d, f);
        });
        Ok(())
    })
}
