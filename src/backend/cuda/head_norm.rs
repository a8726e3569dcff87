//! [`Op::HeadNorm`] and [`Op::HeadNormBackward`]: `kernels/head_norm.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const THREADS: usize = 256;
/// Threads of a head.
const LANES: usize = 16;
const FORWARD: Kernel = Kernel::new("head_norm", "head_norm", 256);
const BACKWARD: Kernel = Kernel::new("head_norm", "head_norm_backward", 256);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    qkv: DevicePtr,
    raw: DevicePtr,
    q_weight: DevicePtr,
    k_weight: DevicePtr,
    eps: f32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
}

fn params(
    c: &CudaBackend,
    op: &str,
    qkv: Tensor,
    raw: Option<Tensor>,
    heads: Heads,
    norm: HeadNormWeights,
) -> Result<Params> {
    let Heads { heads: h, kv_heads: k, head_dim: d, .. } = heads;
    weights::check_width(&format!("{op}: a head"), d)?;
    if d > LANES * 8 {
        return Err(Error::Internal(format!("{op}: heads of {d}: expected at most {}", LANES * 8)));
    }
    Ok(Params {
        plan: c.plan.at(),
        qkv: c.at(qkv)?,
        raw: raw.map_or(Ok(DevicePtr::NULL), |t| c.at(t))?,
        q_weight: c.vectors[norm.q.0 as usize].at,
        k_weight: c.vectors[norm.k.0 as usize].at,
        eps: norm.eps,
        heads: h as u32,
        kv_heads: k as u32,
        head_dim: d as u32,
    })
}

fn launch(c: &mut CudaBackend, kernel: Kernel, params: &Params) {
    let threads = c.plan.bounds.rows * (params.heads + params.kv_heads) as usize * LANES;
    if threads > 0 {
        c.launch(kernel, [threads.div_ceil(THREADS), 1, 1], 0, params);
    }
}

/// [`Op::HeadNorm`].
pub fn forward(c: &mut CudaBackend, op: &HeadNorm) -> Result<()> {
    op.check(c)?;
    let params = params(c, HeadNorm::NAME, op.qkv, op.raw, op.heads, op.norm)?;
    launch(c, FORWARD, &params);
    Ok(())
}

/// [`Op::HeadNormBackward`].
pub fn backward(c: &mut CudaBackend, op: &HeadNormBackward) -> Result<()> {
    op.check(c)?;
    let params = params(c, HeadNormBackward::NAME, op.dqkv, Some(op.raw), op.heads, op.norm)?;
    launch(c, BACKWARD, &params);
    Ok(())
}
