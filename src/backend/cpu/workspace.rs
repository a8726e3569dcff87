//! What operations take of their own, beside tensors: bounds for the memory plan, one function for each place
//! that takes something.
//!
//! The buffers of `scratch` are per thread. A request takes the smallest that is large enough, or makes the
//! largest larger, so a thread never has more buffers above any size than requests above that size were open
//! at once: what is open at once bounds all.

use super::gemm::{Isa, Kernels, PANEL, Product};
use super::*;

/// [`Backend::workspace_bytes`].
pub fn bytes(c: &CpuBackend, spec: &WorkspaceSpec) -> usize {
    // The thread that calls works too.
    let threads = c.pool.threads();
    let kernels = Isa::best().kernels();
    let per_thread =
        tasks(c, spec, kernels) + attention_backward::task_values(spec.training_rows, &spec.heads);
    4 * (shared(c, spec) + attention(spec) + threads * per_thread) + threads * sampling(c, spec)
}

/// f32 that the calling thread holds for all threads of an operation: x or dy, and h, packed.
fn shared(c: &CpuBackend, spec: &WorkspaceSpec) -> usize {
    let of = |(index, linear): (usize, &linear::LinearWeights)| {
        let lm_head = index == spec.lm_head.0 as usize;
        let rows = |rows: usize| if lm_head { spec.lm_head_rows } else { rows };
        // With dropout what A reads is packed beside x.
        let read = if spec.dropout && !lm_head { 2 * spec.training_rows } else { rows(spec.training_rows) };
        let forward = rows(spec.inference_rows).max(read) * linear.forward.inputs;
        let backward =
            if spec.training_rows > 0 { rows(spec.training_rows) * linear.forward.outputs } else { 0 };
        forward.max(backward)
    };
    let rows = spec.inference_rows.max(spec.training_rows);
    c.linears.iter().enumerate().map(of).max().unwrap_or(0) + rows * spec.shrink_width + 2 * PANEL
}

/// f32 that a thread holds for the tasks of a linear: packing at load, or output columns and what LoRA terms add.
fn tasks(c: &CpuBackend, spec: &WorkspaceSpec, kernels: Kernels) -> usize {
    let packing = |l: &linear::LinearWeights| PANEL * l.forward.inputs.max(l.forward.outputs.div_ceil(PANEL));
    let packing = c.linears.iter().map(packing).max().unwrap_or(0);
    let rows = spec.inference_rows.max(spec.training_rows).max(spec.lm_head_rows);
    packing.max(Product::most_columns(kernels, rows))
        + linear_backward::most_task_values(kernels, spec.shrink_width)
}

/// f32 of the keys by tiles of packed attention; a sequence's last tile may hold a single key.
fn attention(spec: &WorkspaceSpec) -> usize {
    spec.inference_rows.max(spec.training_rows) * pages::TILE * spec.heads.kv_width()
}

/// Bytes that a thread holds to draw from a row of logits.
fn sampling(c: &CpuBackend, spec: &WorkspaceSpec) -> usize {
    c.linears.get(spec.lm_head.0 as usize).map_or(0, |l| lm_head_sample::task_bytes(l.forward.outputs))
}
