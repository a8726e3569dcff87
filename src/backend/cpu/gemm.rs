//! The packed f32 matrix product. STUB: replaced by the real micro-kernel.
/// A weight matrix [outputs, inputs] packed for `y = x Wᵀ`.
pub struct Packed {
    pub outputs: usize,
    pub inputs: usize,
    pub values: Vec<f32>,
}
impl Packed {
    /// Packs rows produced by `row(i, out)`.
    pub fn new(
        _pool: &rayon::ThreadPool,
        outputs: usize,
        inputs: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let mut values = vec![0.0; outputs * inputs];
        for (i, out) in values.chunks_exact_mut(inputs).enumerate() {
            row(i, out);
        }
        Self { outputs, inputs, values }
    }
}
/// `y = (y if accumulate else 0) + x Wᵀ`; x [rows, inputs], y [rows, outputs], both contiguous; k ascending, one FMA chain for each output.
pub fn matmul(
    _pool: &rayon::ThreadPool,
    x: &[f32],
    rows: usize,
    w: &Packed,
    y: &mut [f32],
    accumulate: bool,
) {
    for r in 0..rows {
        for n in 0..w.outputs {
            let mut s = if accumulate { y[r * w.outputs + n] } else { 0.0 };
            for k in 0..w.inputs {
                s = x[r * w.inputs + k].mul_add(w.values[n * w.inputs + k], s);
            }
            y[r * w.outputs + n] = s;
        }
    }
}
/// "avx512f+fma", "avx2+fma" or "portable".
pub fn instruction_set() -> &'static str {
    "portable"
}
