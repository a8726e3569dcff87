//! STUB: packs, so that the lm_head operations can be tested; does not run.
use super::*;
pub struct LinearWeights {
    pub forward: gemm::Packed,
    pub backward: Option<gemm::Packed>,
    pub bias: Option<Vec<f32>>,
}
impl LinearWeights {
    pub fn pack(pool: &rayon::ThreadPool, spec: LinearSpec<'_>) -> Result<Self> {
        let cols = spec.parts[0].cols;
        let mut w = vec![];
        for part in spec.parts {
            for r in 0..part.rows {
                let mut row = vec![0.0; cols];
                part.row_into(r, &mut row);
                w.extend(row);
            }
        }
        let n = w.len() / cols;
        let forward =
            gemm::Packed::new(pool, n, cols, |r, out| out.copy_from_slice(&w[r * cols..(r + 1) * cols]));
        let backward = spec.backward.then(|| {
            gemm::Packed::new(pool, cols, n, |c, out| {
                out.iter_mut().enumerate().for_each(|(r, o)| *o = w[r * cols + c])
            })
        });
        Ok(Self { forward, backward, bias: spec.bias.map(<[f32]>::to_vec) })
    }
    pub fn bytes(&self) -> usize {
        0
    }
}
pub fn forward(
    _c: &mut CpuBackend,
    _l: Linear,
    _g: Option<GroupId>,
    _x: Tensor,
    _s: Option<Tensor>,
    _r: Option<Tensor>,
    _y: Tensor,
) -> Result<()> {
    Err(Error::Unsupported("not written yet".into()))
}
