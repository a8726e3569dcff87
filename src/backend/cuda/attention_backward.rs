//! [`Op::AttentionPackedBackward`]: `kernels/attention_backward.cu`.

use bytemuck::{Pod, Zeroable};

use super::attention::{padded, tile_bytes, window};
use super::*;

const THREADS: u32 = 128;
const WARPS: usize = 4;
/// Rows of a tile (`kTile`).
const TILE_ROWS: usize = 64;

/// By padded head size / 32 - 1.
const DQ: [Kernel; 4] = [
    Kernel::new("attention_backward", "attention_dq_32", THREADS),
    Kernel::new("attention_backward", "attention_dq_64", THREADS),
    Kernel::new("attention_backward", "attention_dq_96", THREADS),
    Kernel::new("attention_backward", "attention_dq_128", THREADS),
];
const DKV: [Kernel; 4] = [
    Kernel::new("attention_backward", "attention_dkv_32", THREADS),
    Kernel::new("attention_backward", "attention_dkv_64", THREADS),
    Kernel::new("attention_backward", "attention_dkv_96", THREADS),
    Kernel::new("attention_backward", "attention_dkv_128", THREADS),
];

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    qkv: DevicePtr,
    out: DevicePtr,
    dout: DevicePtr,
    dqkv: DevicePtr,
    stats: DevicePtr,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    window: u32,
    scale: f32,
    scale_log2: f32,
    stats_pitch: u32,
    unused: u32,
}

/// [`Op::AttentionPackedBackward`].
pub fn run(c: &mut CudaBackend, op: &AttentionPackedBackward) -> Result<()> {
    op.check(c)?;
    let heads = &op.heads;
    let (qkv, out, dout, dqkv) = (c.at(op.qkv)?, c.at(op.out)?, c.at(op.dout)?, c.at(op.dqkv)?);
    let tiles = c.plan.bounds.packed_tiles;
    if tiles == 0 {
        return Ok(());
    }
    // Each sequence starts at a tile of its own: `start / 64 + index`.
    let sequences = plan::bucket(c.plan.host.sequences.len());
    let pitch = (c.plan.bounds.rows / TILE_ROWS + sequences + 1) * TILE_ROWS;
    let stats = c.workspace("attention backward", heads.heads * pitch * 8)?;
    let params = Params {
        plan: c.plan.at(),
        qkv,
        out,
        dout,
        dqkv,
        stats,
        heads: heads.heads as u32,
        kv_heads: heads.kv_heads as u32,
        head_dim: heads.head_dim as u32,
        window: window(heads),
        scale: heads.scale,
        scale_log2: heads.scale * std::f32::consts::LOG2_E,
        stats_pitch: pitch as u32,
        unused: 0,
    };
    let padded = padded(heads.head_dim);
    // The block's own two tiles, the ring (`kSlots`), flags, and log-sum-exp and delta of the pairs in the ring.
    let slots = if padded == 128 { 3 } else { 4 };
    let shared = (2 + slots) * tile_bytes(padded) + WARPS * 4 + slots / 2 * TILE_ROWS * 8;
    let group = heads.heads / heads.kv_heads;
    c.launch(DQ[padded / 32 - 1], [tiles, heads.kv_heads, group], shared, &params);
    c.launch(DKV[padded / 32 - 1], [tiles, heads.kv_heads, 1], shared, &params);
    Ok(())
}
