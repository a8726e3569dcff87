//! [`Op::LinearForward`]: `kernels/linear.cu`; and the plain product that the lm_head uses.

use bytemuck::{Pod, Zeroable};

use super::*;

/// Twin of `LinearParams`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    slots: DevicePtr,
    places: DevicePtr,
    w: DevicePtr,
    bias: DevicePtr,
    x: DevicePtr,
    h: DevicePtr,
    residual: DevicePtr,
    y: DevicePtr,
    outputs: u32,
    depth: u32,
    x_stride: u32,
    h_stride: u32,
    first_part: u32,
    part_count: u32,
    offset: u32,
    capacity: u32,
    flags: u32,
    group: u32,
}

const LOGIT_ROWS: u32 = 1;
const FLOAT_Y: u32 = 2;
const WIDE_Y: u32 = 4;
const WIDE_X: u32 = 8;
const DROPOUT: u32 = 16;

/// Parts of a group that the kernel's table has room for, for every row of a tile (`kMaxParts`).
const MAX_PARTS: usize = 4;
/// A row of `h` is copied in pieces of this many f32.
pub const SHRINK_STEP: usize = 4;

/// A configuration of the kernel.
pub struct Tiling {
    outputs: usize,
    rows: usize,
    depth: usize,
    stages: usize,
    /// Forward, transposed.
    pub kernels: [Kernel; 2],
}

const TINY: Tiling = Tiling {
    outputs: 16,
    rows: 32,
    depth: 64,
    stages: 12,
    kernels: [
        Kernel::new("linear", "linear_tiny", 128),
        Kernel::new("linear", "linear_tiny_transposed", 128),
    ],
};
const SMALL: Tiling = Tiling {
    outputs: 64,
    rows: 64,
    depth: 64,
    stages: 4,
    kernels: [
        Kernel::new("linear", "linear_small", 128),
        Kernel::new("linear", "linear_small_transposed", 128),
    ],
};
const MEDIUM: Tiling = Tiling {
    outputs: 128,
    rows: 64,
    depth: 64,
    stages: 3,
    kernels: [
        Kernel::new("linear", "linear_medium", 256),
        Kernel::new("linear", "linear_medium_transposed", 256),
    ],
};
const LARGE: Tiling = Tiling {
    outputs: 128,
    rows: 128,
    depth: 32,
    stages: 4,
    kernels: [
        Kernel::new("linear", "linear_large", 128),
        Kernel::new("linear", "linear_large_transposed", 128),
    ],
};

impl Tiling {
    fn blocks(&self, outputs: usize, rows: usize) -> usize {
        outputs.div_ceil(self.outputs) * rows.div_ceil(self.rows)
    }

    /// Shared memory of a block: the ring of stages, and the table of LoRA parts.
    pub fn shared(&self) -> usize {
        const ENTRY: usize = 24;
        self.stages * (self.outputs + self.rows) * self.depth * 2 + (self.rows + 1) * MAX_PARTS * ENTRY
    }

    /// Large tiles move least through the L2 cache for each product; they must still be enough to occupy the
    /// device. With few rows W is read once at the speed of memory, and it is the blocks' bytes in flight
    /// that count: many small tiles, unless each would read as much of X as of W. Whatever is chosen, the
    /// results are the same bits.
    pub fn choose(multiprocessors: usize, outputs: usize, rows: usize) -> &'static Tiling {
        if rows > SMALL.rows && LARGE.blocks(outputs, rows) >= multiprocessors {
            return &LARGE;
        }
        let medium = MEDIUM.blocks(outputs, rows);
        if medium >= multiprocessors || (rows > MEDIUM.rows && medium * 5 >= multiprocessors * 2) {
            return &MEDIUM;
        }
        let few = multiprocessors / if rows <= TINY.outputs { 2 } else { 8 };
        if SMALL.blocks(outputs, rows) < few { &TINY } else { &SMALL }
    }
}

/// A frozen matrix W `[outputs, inputs]`, bf16, and its bias (f32 or null).
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// W, row-major.
    pub at: DevicePtr,
    /// f32 `[outputs]`, or null.
    pub bias: DevicePtr,
    /// Columns, a multiple of 8.
    pub inputs: usize,
    /// Rows.
    pub outputs: usize,
}

impl From<&weights::LinearWeights> for Matrix {
    fn from(w: &weights::LinearWeights) -> Self {
        Self { at: w.at, bias: w.bias, inputs: w.inputs, outputs: w.outputs }
    }
}

/// Where the device finds the exact number of rows.
#[derive(Clone, Copy, Debug)]
pub enum RowCount {
    /// All rows of the plan.
    All,
    /// The logit rows `offset ..`, at most `capacity`.
    Logits {
        /// The logit row that row 0 is.
        offset: usize,
        /// Rows that there is room for.
        capacity: usize,
    },
}

/// Where a product goes: dense rows.
#[derive(Clone, Copy, Debug)]
pub enum Output {
    /// Rounded once.
    Bf16(DevicePtr),
    /// As accumulated.
    F32(DevicePtr),
}

/// The LoRA parts that take part.
#[derive(Clone, Copy)]
pub struct Adapters {
    /// Whose parts.
    pub group: GroupId,
    /// `h` (or `dh`, for dx), f32.
    pub h: DevicePtr,
    /// Numbers from one row of `h` to the next.
    pub stride: usize,
    /// Their term gets the factors of [`Op::Dropout`]; for dx alone.
    pub dropout: bool,
}

/// One launch of the kernel: `y = x Wᵀ + b`, or `x W` without bias where transposed, with the LoRA
/// parts of a group.
#[derive(Clone, Copy)]
pub struct Product {
    /// The weights.
    pub w: Matrix,
    /// bf16.
    pub x: DevicePtr,
    /// Elements from one row of x to the next.
    pub x_stride: usize,
    /// Which rows.
    pub rows: RowCount,
    /// Where they go.
    pub y: Output,
    /// Whether W is read the other way.
    pub transposed: bool,
    /// What LoRA adds.
    pub adapters: Option<Adapters>,
    /// Of the shape of y, added at the end; or null.
    pub residual: DevicePtr,
}

impl Product {
    /// `y = x Wᵀ + b` of all rows, side by side.
    pub fn new(w: Matrix, x: DevicePtr, y: Output) -> Self {
        let (rows, residual) = (RowCount::All, DevicePtr::NULL);
        Self { w, x, x_stride: w.inputs, rows, y, transposed: false, adapters: None, residual }
    }

    /// `y = x W` of all rows, side by side.
    pub fn transposed(w: Matrix, x: DevicePtr, y: Output) -> Self {
        Self { x_stride: w.outputs, transposed: true, ..Self::new(w, x, y) }
    }

    /// Enqueues it.
    pub fn enqueue(self, c: &mut CudaBackend) -> Result<()> {
        let Self { w, x, x_stride, transposed, adapters, residual, .. } = self;
        let (outputs, depth) = if transposed { (w.inputs, w.outputs) } else { (w.outputs, w.inputs) };
        let (bound, offset, capacity, mut flags) = match self.rows {
            RowCount::All => (c.plan.bounds.rows, 0, 0, 0),
            RowCount::Logits { offset, capacity } => {
                (c.plan.bounds.logit_rows.saturating_sub(offset).min(capacity), offset, capacity, LOGIT_ROWS)
            }
        };
        if bound == 0 {
            return Ok(());
        }
        let wide = |at: DevicePtr, bytes: usize| at.0.is_multiple_of(16) && bytes.is_multiple_of(16);
        if depth.is_multiple_of(8) && wide(x, x_stride * 2) {
            flags |= WIDE_X;
        } else if !transposed {
            return Err(Error::Internal(format!(
                "linear: rows of x {x_stride} apart: expected a multiple of 8"
            )));
        }
        let (y, element) = match self.y {
            Output::Bf16(y) => (y, 2),
            Output::F32(y) => (y, 4),
        };
        if element == 4 {
            flags |= FLOAT_Y;
        }
        if wide(y, outputs * element) && wide(residual, 0) {
            flags |= WIDE_Y;
        }
        let (mut first_part, mut part_count, mut places) = (0, 0, DevicePtr::NULL);
        if let Some(a) = adapters {
            if a.dropout {
                flags |= DROPOUT;
            }
            let (layout, first) = c.slots.group(a.group)?;
            (first_part, part_count) = (first.0, layout.parts.len());
            places = c.slots.places().offset(first_part as usize * size_of::<[u32; 4]>());
        }
        let tiling = Tiling::choose(c.driver.multiprocessors() as usize, outputs, bound);
        let params = Params {
            plan: c.plan.at(),
            slots: c.slots.table(),
            places,
            w: w.at,
            bias: if transposed { DevicePtr::NULL } else { w.bias },
            x,
            h: adapters.map_or(DevicePtr::NULL, |a| a.h),
            residual,
            y,
            outputs: outputs as u32,
            depth: depth as u32,
            x_stride: x_stride as u32,
            h_stride: adapters.map_or(0, |a| a.stride as u32),
            first_part,
            part_count: part_count as u32,
            offset: offset as u32,
            capacity: capacity as u32,
            flags,
            group: adapters.map_or(0, |a| a.group.0),
        };
        let kernel = tiling.kernels[usize::from(transposed)];
        c.launch(kernel, [tiling.blocks(outputs, bound), 1, 1], tiling.shared(), &params);
        Ok(())
    }
}

/// Checks that the kernel's table has room for the parts of a group.
pub fn check_parts(c: &CudaBackend, group: GroupId) -> Result<()> {
    match c.slots.group(group)?.0.parts.len() {
        0..=MAX_PARTS => Ok(()),
        parts => Err(Error::Unsupported(format!(
            "a linear group of {parts} LoRA parts on the GPU: at most {MAX_PARTS}"
        ))),
    }
}

/// [`Op::LinearForward`].
pub fn forward(c: &mut CudaBackend, op: &LinearForward) -> Result<()> {
    let LinearWork { width, stride, .. } = op.check(c)?;
    let (x, y) = (c.at(op.x)?, Output::Bf16(c.at(op.y)?));
    let mut product = Product::new((&c.linears[op.linear.0 as usize]).into(), x, y);
    if let Some(residual) = op.residual {
        product.residual = c.at(residual)?;
    }
    if let (Some(group), Some(h)) = (op.group, op.shrink) {
        check_parts(c, group)?;
        if width > 0 {
            let (a_x, h) = (c.at(op.lora_x.unwrap_or(op.x))?, c.at(h)?);
            shrink::forward(c, group, a_x, h, stride)?;
            product.adapters = Some(Adapters { group, h, stride, dropout: false });
        }
    }
    product.enqueue(c)
}
