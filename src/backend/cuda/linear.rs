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
const SHRINK_STEP: usize = 4;

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

    /// Large tiles move least through the L2 cache for each product; they must still be enough to occupy the device. With few rows W is read once at the
    /// speed of memory, and it is the blocks' bytes in flight that count: many small tiles, unless each would read as much of X as of W. Whatever is
    /// chosen, the results are the same bits.
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

/// `y = x Wᵀ + b`, or `x W` without bias where `transposed`; `x_stride` elements from one row of x to the next. No LoRA.
pub fn product(
    c: &mut CudaBackend,
    w: Matrix,
    x: DevicePtr,
    x_stride: usize,
    rows: RowCount,
    y: Output,
    transposed: bool,
) -> Result<()> {
    launch(c, w, x, x_stride, rows, y, transposed, None, DevicePtr::NULL)
}

/// The kernel: [`product`] with the LoRA parts of a group and a residual (or null) of the shape of y.
pub fn launch(
    c: &mut CudaBackend,
    w: Matrix,
    x: DevicePtr,
    x_stride: usize,
    rows: RowCount,
    y: Output,
    transposed: bool,
    adapters: Option<Adapters>,
    residual: DevicePtr,
) -> Result<()> {
    let (outputs, depth) = if transposed { (w.inputs, w.outputs) } else { (w.outputs, w.inputs) };
    let (bound, offset, capacity, mut flags) = match rows {
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
        return Err(Error::Internal(format!("linear: rows of x {x_stride} apart: expected a multiple of 8")));
    }
    let (y, float) = match y {
        Output::Bf16(y) => (y, false),
        Output::F32(y) => (y, true),
    };
    if float {
        flags |= FLOAT_Y;
    }
    if wide(y, outputs * if float { 4 } else { 2 }) && wide(residual, 0) {
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

/// Checks what forward and backward have in common: the linear exists, the group has its shape, the slots of the plan exist.
pub fn resolve(c: &CudaBackend, op: &str, linear: Linear, group: Option<GroupId>) -> Result<Matrix> {
    let w = c
        .linears
        .get(linear.0 as usize)
        .ok_or_else(|| Error::Internal(format!("{op}: linear {} does not exist", linear.0)))?;
    if let Some(group) = group {
        let (layout, _) = c.slots.group(group)?;
        if (layout.inputs, layout.outputs) != (w.inputs, w.outputs) {
            return Err(Error::Internal(format!(
                "{op}: linear {} is [{}, {}], group {} is [{}, {}]",
                linear.0, w.outputs, w.inputs, group.0, layout.outputs, layout.inputs
            )));
        }
    }
    Ok(w.into())
}

/// Checks that `t` can hold `h` of all rows for every slot of the plan, and says where it lies and how wide it is; None where no slot of
/// the plan has a part in the group.
pub fn check_shrink(
    c: &CudaBackend,
    op: &str,
    t: Option<Tensor>,
    group: GroupId,
) -> Result<Option<(DevicePtr, usize)>> {
    let parts = c.slots.group(group)?.0.parts.len();
    if parts > MAX_PARTS {
        return Err(Error::Unsupported(format!(
            "a linear group of {parts} LoRA parts on the GPU: at most {MAX_PARTS}"
        )));
    }
    let mut width = 0;
    for segment in c.plan.host.segments.iter().filter(|s| s.start < s.end) {
        width = width.max(c.slots.shrink_width(segment.slot, group)?);
    }
    let rows = c.plan.host.rows();
    let t = t.ok_or_else(|| Error::Internal(format!("{op}: a group needs shrink tensors")))?;
    let TensorBuffer { spec, at } = c.tensor_buffer(t)?;
    if spec.rows < rows
        || spec.width < width
        || !spec.width.is_multiple_of(SHRINK_STEP)
        || spec.element != Element::F32
    {
        return Err(Error::Internal(format!(
            "{op}: tensor {} is {:?} [{}, {}], expected F32 [>= {rows}, >= {width} and a multiple of {SHRINK_STEP}]",
            spec.name, spec.element, spec.rows, spec.width
        )));
    }
    Ok((width > 0).then_some((*at, spec.width)))
}

/// Checks that an output shares no memory with an input.
pub fn distinct(op: &str, tensors: &[Option<Tensor>]) -> Result<()> {
    for (i, a) in tensors.iter().enumerate() {
        if let (Some(a), true) = (a, tensors[..i].contains(a)) {
            return Err(Error::Internal(format!("{op}: tensor {} is given twice", a.0)));
        }
    }
    Ok(())
}

/// [`Op::LinearForward`].
pub fn forward(c: &mut CudaBackend, op: &LinearForward) -> Result<()> {
    let &LinearForward { linear, group, x, lora_x, shrink, residual, y } = op;
    const OP: &str = "linear_forward";
    let w = resolve(c, OP, linear, group)?;
    let rows = c.plan.host.rows();
    let x_at = c.at(OP, x, rows, w.inputs, Element::Activation)?;
    let y_at = c.at(OP, y, rows, w.outputs, Element::Activation)?;
    let residual_at = match residual {
        Some(r) => c.at(OP, r, rows, w.outputs, Element::Activation)?,
        None => DevicePtr::NULL,
    };
    let a_x = lora_x.unwrap_or(x);
    let a_x_at = c.at(OP, a_x, rows, w.inputs, Element::Activation)?;
    distinct(OP, &[Some(x), lora_x, shrink, residual.filter(|&r| r != y), Some(y)])?;
    let mut adapters = None;
    if let Some(group) = group
        && let Some((h, stride)) = check_shrink(c, OP, shrink, group)?
    {
        shrink::forward(c, group, a_x_at, h, stride)?;
        adapters = Some(Adapters { group, h, stride, dropout: false });
    }
    launch(c, w, x_at, w.inputs, RowCount::All, Output::Bf16(y_at), false, adapters, residual_at)
}
