//! [`Op::LmHeadLoss`]: `kernels/lm_head_loss.cu` between two products, a workspace of rows of logits at a
//! time; and what it shares with the sampler.

use bytemuck::{Pod, Zeroable};

use super::linear::{Matrix, Output, Product, RowCount};
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
    /// Looks them up.
    pub fn new(c: &CudaBackend, lm_head: Linear, hidden: Tensor, workspace: Tensor) -> Result<Operands> {
        let weights = Matrix::from(&c.linears[lm_head.0 as usize]);
        let TensorBuffer { spec, at } = c.tensor_buffer(workspace)?;
        Ok(Operands { weights, hidden: c.at(hidden)?, logits: *at, capacity: spec.rows })
    }

    /// The logits of the logit rows `first ..` that there is room for.
    pub fn product(&self, first: usize) -> Product {
        let x = self.hidden.offset(first * self.weights.inputs * 2);
        let rows = RowCount::Logits { offset: first, capacity: self.capacity };
        Product { rows, ..Product::new(self.weights, x, Output::F32(self.logits)) }
    }
}

/// [`Op::LmHeadLoss`].
pub fn run(c: &mut CudaBackend, op: &LmHeadLoss) -> Result<()> {
    op.check(c)?;
    let operands = Operands::new(c, op.lm_head, op.hidden, op.workspace)?;
    let Matrix { inputs, outputs, .. } = operands.weights;
    let out = c.at(op.out)?;
    let dhidden = op.dhidden.map(|t| c.at(t)).transpose()?;
    let bound = c.plan.bounds.logit_rows;
    for first in (0..bound).step_by(operands.capacity) {
        operands.product(first).enqueue(c)?;
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
            let product = Product::transposed(operands.weights, operands.logits, dhidden);
            // The gradient takes the place of the logits, in bf16.
            Product { rows, x_stride: 2 * outputs, ..product }.enqueue(c)?;
        }
    }
    Ok(())
}
