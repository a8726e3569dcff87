//! [`Op::LmHeadLoss`]: `kernels/lm_head_loss.cu` between two products, a workspace of rows of logits at a time; and what it shares with the sampler.

use bytemuck::{Pod, Zeroable};

use super::linear::{Matrix, Output, RowCount, product};
use super::*;

/// Threads of a block of the kernels that read rows of logits.
pub const THREADS: u32 = 512;
/// Partial results of a block's warps (`BlockScratch`).
pub const SCRATCH: usize = THREADS as usize / 32 * 12;

const LOSS: Kernel = Kernel::new("lm_head_loss", "lm_head_loss", THREADS);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    logits: DevicePtr,
    out: DevicePtr,
    vocabulary: u32,
    first: u32,
    capacity: u32,
    gradient: u32,
}

/// The operands that both lm_head operations have.
pub struct Operands {
    /// `[V, d]`.
    pub weights: Matrix,
    /// bf16 `[L, d]`.
    pub hidden: DevicePtr,
    /// f32 `[C, V]`.
    pub logits: DevicePtr,
    /// C.
    pub capacity: usize,
}

impl Operands {
    /// Checks them.
    pub fn new(
        c: &CudaBackend,
        op: &str,
        hidden: Tensor,
        lm_head: Linear,
        workspace: Tensor,
    ) -> Result<Operands> {
        let weights = c
            .linears
            .get(lm_head.0 as usize)
            .ok_or_else(|| Error::Internal(format!("{op}: linear {} does not exist", lm_head.0)))?;
        let weights = Matrix::from(weights);
        let logits = c.at(op, workspace, 1, weights.outputs, Element::F32)?;
        let rows = c.plan.host.logit_rows.len();
        let hidden = c.at(op, hidden, rows, weights.inputs, Element::Activation)?;
        Ok(Operands { weights, hidden, logits, capacity: c.tensor_buffer(workspace)?.spec.rows })
    }

    /// Enqueues the logits of the logit rows `first ..` that there is room for.
    pub fn product(&self, c: &mut CudaBackend, first: usize) -> Result<()> {
        let x = self.hidden.offset(first * self.weights.inputs * 2);
        let rows = RowCount::Logits { offset: first, capacity: self.capacity };
        product(c, self.weights, x, self.weights.inputs, rows, Output::F32(self.logits), false)
    }
}

/// [`Op::LmHeadLoss`].
pub fn run(c: &mut CudaBackend, op: &LmHeadLoss) -> Result<()> {
    let &LmHeadLoss { hidden, lm_head, workspace, out, dhidden } = op;
    const OP: &str = "lm_head_loss";
    let plan = c.plan.host.clone();
    let count = plan.logit_rows.len();
    let operands = Operands::new(c, OP, hidden, lm_head, workspace)?;
    let Matrix { inputs, outputs, .. } = operands.weights;
    if plan.labels.len() != count {
        return Err(Error::Internal(format!("{OP}: {} labels for {count} rows", plan.labels.len())));
    }
    if let Some(label) = plan.labels.iter().find(|l| l.token as usize >= outputs) {
        return Err(Error::Internal(format!("{OP}: label {} of a vocabulary of {outputs}", label.token)));
    }
    if [hidden, workspace].contains(&out) || dhidden.is_some_and(|t| t == workspace || t == out) {
        return Err(Error::Internal(format!("{OP}: operands share a tensor")));
    }
    let out = c.at(OP, out, count, 2, Element::F32)?;
    let dhidden = dhidden.map(|t| c.at(OP, t, count, inputs, Element::Activation)).transpose()?;
    let bound = c.plan.bounds.logit_rows;
    for first in (0..bound).step_by(operands.capacity) {
        operands.product(c, first)?;
        let params = Params {
            plan: c.plan.at(),
            logits: operands.logits,
            out,
            vocabulary: outputs as u32,
            first: first as u32,
            capacity: operands.capacity as u32,
            gradient: u32::from(dhidden.is_some()),
        };
        c.launch(LOSS, [operands.capacity.min(bound - first), 1, 1], SCRATCH, &params);
        // `dhidden` may be `hidden`: these rows have given their logits.
        if let Some(dhidden) = dhidden {
            let rows = RowCount::Logits { offset: first, capacity: operands.capacity };
            let dhidden = Output::Bf16(dhidden.offset(first * inputs * 2));
            product(c, operands.weights, operands.logits, 2 * outputs, rows, dhidden, true)?;
        }
    }
    Ok(())
}
