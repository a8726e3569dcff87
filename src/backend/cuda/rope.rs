//! [`Op::Rope`] and [`Op::RopeBackward`]: `kernels/rope.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const THREADS: usize = 256;
/// By the number of pairs that a thread rotates.
const ROPE_8: Kernel = Kernel::new("rope", "rope_8", 256);
const ROPE_4: Kernel = Kernel::new("rope", "rope_4", 256);
const ROPE_1: Kernel = Kernel::new("rope", "rope_1", 256);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    qkv: DevicePtr,
    cos: DevicePtr,
    sin: DevicePtr,
    keys: DevicePtr,
    values: DevicePtr,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    half: u32,
    page_tokens: u32,
    inverse: u32,
    table_rows: u32,
    unused: u32,
}

/// [`Op::Rope`].
pub fn forward(c: &mut CudaBackend, op: &Rope) -> Result<()> {
    op.check(c)?;
    let mut params = params(c, Rope::NAME, op.qkv, op.table, &op.heads)?;
    if let Some((kv, layer)) = op.kv {
        let pool = c.pool(kv)?;
        (params.keys, params.values) = pool.layer(layer as usize);
        params.page_tokens = pool.spec.page_tokens as u32;
    }
    launch(c, &params);
    Ok(())
}

/// [`Op::RopeBackward`].
pub fn backward(c: &mut CudaBackend, op: &RopeBackward) -> Result<()> {
    op.check(c)?;
    let mut params = params(c, RopeBackward::NAME, op.dqkv, op.table, &op.heads)?;
    params.inverse = 1;
    launch(c, &params);
    Ok(())
}

fn params(c: &CudaBackend, op: &str, qkv: Tensor, table: RopeTable, heads: &Heads) -> Result<Params> {
    let table = &c.ropes[table.0 as usize];
    weights::check_width(&format!("{op}: a head"), heads.head_dim)?;
    Ok(Params {
        plan: c.plan.at(),
        qkv: c.at(qkv)?,
        cos: table.cos,
        sin: table.sin,
        keys: DevicePtr::NULL,
        values: DevicePtr::NULL,
        heads: heads.heads as u32,
        kv_heads: heads.kv_heads as u32,
        head_dim: heads.head_dim as u32,
        half: table.half as u32,
        page_tokens: 0,
        inverse: 0,
        table_rows: table.positions as u32,
        unused: 0,
    })
}

fn launch(c: &mut CudaBackend, p: &Params) {
    let (kernel, pairs, rest) = match p.half {
        half if half.is_multiple_of(8) => (ROPE_8, 8, 8),
        half if half.is_multiple_of(4) => (ROPE_4, 4, 8),
        _ => (ROPE_1, 1, 1),
    };
    let mut units = (p.heads + p.kv_heads) * (p.half / pairs);
    if p.keys != DevicePtr::NULL {
        units += p.kv_heads * ((p.head_dim - 2 * p.half) / rest + p.head_dim / 8);
    }
    let units = c.plan.bounds.rows * units as usize;
    if units > 0 {
        c.launch(kernel, [units.div_ceil(THREADS), 1, 1], 0, p);
    }
}

/// cos and sin, each f32 `[positions, half]`.
pub struct RopeBuffer {
    /// cos.
    pub cos: DevicePtr,
    /// sin.
    pub sin: DevicePtr,
    /// Half the rotated part of a head.
    pub half: usize,
    /// Rows.
    pub positions: usize,
}

impl RopeBuffer {
    /// Uploads the tables.
    pub fn load(driver: &mut dyn Driver, cos: &[f32], sin: &[f32], half: usize) -> Result<Self> {
        if half == 0 || cos.len() != sin.len() || !cos.len().is_multiple_of(half) {
            return Err(Error::Internal(format!(
                "rope: tables of {} and {} numbers with rows of {half}",
                cos.len(),
                sin.len()
            )));
        }
        let at = [driver.alloc(cos.len() * 4, "rope")?, driver.alloc(sin.len() * 4, "rope")?];
        driver.upload(at[0], bytemuck::cast_slice(cos))?;
        driver.upload(at[1], bytemuck::cast_slice(sin))?;
        Ok(Self { cos: at[0], sin: at[1], half, positions: cos.len() / half })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.positions * self.half * 8
    }
}
