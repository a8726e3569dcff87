//! What operations take of their own, beside tensors: bounds for the memory plan.

use super::attention::{SPLIT, partial_bytes};
use super::plan::bucket;
use super::*;

/// Bytes that the packed plan takes for a row that is a sequence, a segment, a draw and a tile of each kind by itself.
const PLAN_BYTES_PER_ROW: usize = 224;
/// Header of the packed plan, and what aligns its arrays.
const PLAN_BYTES: usize = 1024;
/// Buffers that are rounded up to 64 KiB.
const BUFFERS: usize = 12;

/// [`Backend::workspace_bytes`].
pub fn bytes(c: &CudaBackend, spec: &WorkspaceSpec) -> usize {
    let (inference, training) = (bucket(spec.inference_rows), bucket(spec.training_rows));
    let rows = inference.max(training);
    let heads = spec.heads;
    let splits = spec.context.div_ceil(SPLIT as usize).max(1);
    let per_row = PLAN_BYTES_PER_ROW + (splits - 1) * size_of::<plan::AttentionTile>();
    let rope = 4 * (rows + spec.rope_extra);
    let plan = (PLAN_BYTES + rows * per_row + 4 * spec.page_entries + rope).next_power_of_two().max(1 << 16);
    // Every row at the end of a context, in splits of its own.
    let partials = match splits {
        1 => 0,
        splits => bucket(inference * splits) * partial_bytes(&heads),
    };
    // Sequences of two tokens, each on a tile of its own.
    let statistics = match training {
        0 => 0,
        rows => heads.heads * (rows + 64 * (bucket(rows / 2) + 1)) * 8,
    };
    let shrinks = shrink::GROUPS * rows * spec.shrink_width * 4;
    let rounded = 2 * training * spec.shrink_width * 2;
    let (vocabulary, width) =
        c.linears.get(spec.lm_head.0 as usize).map_or((0, 0), |l| (l.outputs, l.inputs));
    let mixtures = bucket(spec.inference_rows).min(c.driver.multiprocessors() as usize)
        * (vocabulary + spec.lm_head_rows + 8)
        * 4;
    let gathered = spec.lm_head_rows * (width * 2 + 16) + inference * 16;
    let optimizer = adamw::workspace_bytes(spec.adapters, spec.adapter_elements);
    plan + partials + statistics + shrinks + rounded + mixtures + gathered + optimizer + BUFFERS * (1 << 16)
}
