//! Not written yet.

use super::*;

/// See [`Op`].
pub fn forward(
    _c: &mut CudaBackend,
    _qkv: Tensor,
    _table: RopeTable,
    _heads: Heads,
    _kv: Option<(KvPool, u32)>,
) -> Result<()> {
    Err(Error::Unsupported("rope on CUDA".into()))
}

/// See [`Op`].
pub fn backward(_c: &mut CudaBackend, _dqkv: Tensor, _table: RopeTable, _heads: Heads) -> Result<()> {
    Err(Error::Unsupported("rope on CUDA".into()))
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
