//! [`Op::LmHeadSample`]: `kernels/lm_head_sample.cu` after a product, a workspace of rows of logits at a time.
//!
//! A chunk is the next C logit rows, and has the draws whose rows it has: which they are is found on the
//! device, so all steps of a kind are the same launches. Only where a draw mixes rows of different chunks are
//! chunks put together here, of whole groups, and their rows gathered.

use bytemuck::{Pod, Zeroable};

use super::linear::{Output, Product, RowCount};
use super::lm_head_loss::{Operands, SCRATCH, THREADS};
use super::*;

const GATHER: Kernel = Kernel::new("lm_head_sample", "lm_head_gather", 256);
const LSE: Kernel = Kernel::new("lm_head_sample", "lm_head_lse", THREADS);
const SAMPLE: Kernel = Kernel::new("lm_head_sample", "lm_head_sample", THREADS);
const SAMPLE_FILTERED: Kernel = Kernel::new("lm_head_sample", "lm_head_sample_filtered", THREADS);

const GATHERED_PER_BLOCK: usize = 8;
/// Tokens that a block can list (`kListed`), 12 bytes each.
const LISTED: usize = 2048;
/// `SampleScratch`.
const SAMPLE_SCRATCH: usize = (SCRATCH + THREADS as usize / 32 * 4 + 4).next_multiple_of(16) + LISTED * 12;
/// `LogSumExp`.
const LSE_BYTES: usize = 16;
/// No row.
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GatherParams {
    rows: DevicePtr,
    hidden: DevicePtr,
    out: DevicePtr,
    width: u32,
    capacity: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    logits: DevicePtr,
    lses: DevicePtr,
    tokens: DevicePtr,
    logprobs: DevicePtr,
    mixtures: DevicePtr,
    places: DevicePtr,
    draw_chunks: DevicePtr,
    vocabulary: u32,
    first: u32,
    capacity: u32,
    chunk: u32,
    mixture_stride: u32,
    unused: u32,
}

/// Chunks put together from whole groups.
struct Chunks {
    /// C for each chunk: the logit row at each place, or [`NOWHERE`].
    rows: Vec<u32>,
    /// The place of each entry of the plan's `draw_rows`.
    places: Vec<u32>,
    /// The chunk of each draw.
    draws: Vec<u32>,
}

impl Chunks {
    /// Fills chunk after chunk with the draws, in the order of their first rows, so that a row that several
    /// draws need is computed once.
    fn new(plan: &BatchPlan, capacity: usize) -> Self {
        let group = |i: usize| plan.draws[i].rows_start as usize..plan.draws[i].rows_end as usize;
        let mut order: Vec<usize> = (0..plan.draws.len()).collect();
        order.sort_by_key(|&i| plan.draw_rows[group(i).start].logit_row);
        let mut chunks = Chunks {
            rows: Vec::new(),
            places: vec![0; plan.draw_rows.len()],
            draws: vec![0; plan.draws.len()],
        };
        // The chunk's rows, and where each logit row is in it.
        let mut rows: Vec<u32> = Vec::new();
        let mut place = vec![NOWHERE; plan.logit_rows.len()];
        for i in order {
            let mut missing: Vec<u32> = plan.draw_rows[group(i)].iter().map(|m| m.logit_row).collect();
            missing.retain(|&r| place[r as usize] == NOWHERE);
            missing.sort_unstable();
            missing.dedup();
            if rows.len() + missing.len() > capacity {
                chunks.close(&mut rows, &mut place, capacity);
            }
            for member in group(i) {
                let row = plan.draw_rows[member].logit_row;
                let at = &mut place[row as usize];
                if *at == NOWHERE {
                    *at = rows.len() as u32;
                    rows.push(row);
                }
                chunks.places[member] = *at;
            }
            chunks.draws[i] = (chunks.rows.len() / capacity) as u32;
        }
        chunks.close(&mut rows, &mut place, capacity);
        chunks
    }

    fn close(&mut self, rows: &mut Vec<u32>, place: &mut [u32], capacity: usize) {
        rows.iter().for_each(|&row| place[row as usize] = NOWHERE);
        self.rows.extend_from_slice(rows);
        self.rows.resize(self.rows.len().next_multiple_of(capacity), NOWHERE);
        rows.clear();
    }
}

/// Blocks for the draws of either kernel; 0 where there are none.
struct Sampling {
    plain: usize,
    filtered: usize,
}

impl Sampling {
    /// Enqueues the draws of a chunk of at most `rows` rows.
    fn launch(&self, c: &mut CudaBackend, rows: usize, params: &Params) {
        c.launch(LSE, [rows, 1, 1], SCRATCH, params);
        if self.plain > 0 {
            c.launch(SAMPLE, [self.plain, 1, 1], SCRATCH, params);
        }
        if self.filtered > 0 {
            c.launch(SAMPLE_FILTERED, [self.filtered, 1, 1], SAMPLE_SCRATCH, params);
        }
    }
}

/// [`Op::LmHeadSample`].
pub fn run(c: &mut CudaBackend, op: &LmHeadSample) -> Result<()> {
    let LmHeadWork { capacity, .. } = op.check(c)?;
    let plan = c.plan.host.clone();
    let operands = Operands::new(c, op.lm_head, op.hidden, op.workspace)?;
    if plan.draws.is_empty() {
        return Ok(());
    }
    let vocabulary = operands.weights.outputs;
    let mut params = Params {
        plan: c.plan.at(),
        logits: operands.logits,
        lses: c.workspace("lm_head_sample.lses", capacity * LSE_BYTES)?,
        tokens: c.at(op.tokens)?,
        logprobs: c.at(op.logprobs)?,
        mixtures: DevicePtr::NULL,
        places: DevicePtr::NULL,
        draw_chunks: DevicePtr::NULL,
        vocabulary: vocabulary as u32,
        first: 0,
        capacity: capacity as u32,
        chunk: 0,
        mixture_stride: 0,
        unused: 0,
    };
    let group = |d: &Draw| &plan.draw_rows[d.rows_start as usize..d.rows_end as usize];
    let mut sampling = Sampling { plain: 0, filtered: 0 };
    for draw in &plan.draws {
        let filtered = draw.temperature != 0.0
            && (draw.limits_count(vocabulary) || draw.top_p < 1.0 || draw.min_p > 0.0);
        let which =
            if filtered || group(draw).len() > 1 { &mut sampling.filtered } else { &mut sampling.plain };
        *which = c.plan.bounds.draws;
    }
    if plan.draws.iter().any(|d| group(d).len() > 1) {
        // As many blocks as run at once: each has a row for its mixture, and behind it room for the weights
        // of a group's members.
        let blocks = sampling.filtered.min(c.driver.multiprocessors() as usize);
        sampling.filtered = blocks;
        let stride = vocabulary.next_multiple_of(4) + capacity.next_multiple_of(4);
        params.mixture_stride = stride as u32;
        params.mixtures = c.workspace("lm_head_sample.mixtures", blocks * stride * 4)?;
    }
    let chunk_of = |r: &DrawRow| r.logit_row as usize / capacity;
    if plan.draws.iter().all(|d| group(d).iter().all(|r| chunk_of(r) == chunk_of(&group(d)[0]))) {
        let bound = c.plan.bounds.logit_rows;
        for (chunk, first) in (0..bound).step_by(capacity).enumerate() {
            operands.product(first).enqueue(c)?;
            params.first = first as u32;
            params.chunk = chunk as u32;
            sampling.launch(c, capacity.min(bound - first), &params);
        }
        return Ok(());
    }

    let chunks = Chunks::new(&plan, capacity);
    let width = operands.weights.inputs;
    let lists = [&chunks.rows, &chunks.places, &chunks.draws];
    let packed: Vec<u32> = lists.into_iter().flatten().copied().collect();
    let x = c.workspace("lm_head_sample.hidden", capacity * width * 2)?;
    let rows = c.workspace("lm_head_sample.chunks", packed.len() * 4)?;
    // What is enqueued may read the lists of another step.
    c.flush()?;
    c.driver.upload(rows, bytemuck::cast_slice(&packed))?;
    params.places = rows.offset(chunks.rows.len() * 4);
    params.draw_chunks = params.places.offset(chunks.places.len() * 4);
    for chunk in 0..chunks.rows.len() / capacity {
        let gather = GatherParams {
            rows: rows.offset(chunk * capacity * 4),
            hidden: operands.hidden,
            out: x,
            width: width as u32,
            capacity: capacity as u32,
        };
        c.launch(GATHER, [capacity.div_ceil(GATHERED_PER_BLOCK), 1, 1], 0, &gather);
        // There are more logit rows than C, or all would be one chunk: all C places are computed.
        let all = RowCount::Logits { offset: 0, capacity };
        let product = Product::new(operands.weights, x, Output::F32(operands.logits));
        Product { rows: all, ..product }.enqueue(c)?;
        params.chunk = chunk as u32;
        sampling.launch(c, capacity, &params);
    }
    Ok(())
}
