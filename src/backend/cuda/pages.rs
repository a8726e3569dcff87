//! KV pages, and [`Op::CopyPages`]: `kernels/pages.cu`.

use bytemuck::{Pod, Zeroable};

use super::*;

const COPY: Kernel = Kernel::new("pages", "copy_pages", 256);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    plan: DevicePtr,
    keys: DevicePtr,
    values: DevicePtr,
    pages: u32,
    page_tokens: u32,
    width: u32,
    unused: u32,
}

/// [`Op::CopyPages`].
pub fn copy(c: &mut CudaBackend, op: &CopyPages) -> Result<()> {
    let spec = op.check(c)?;
    let (plan, &KvBuffer { keys, values, .. }) = (c.plan.at(), c.pool(op.kv)?);
    let params = Params {
        plan,
        keys,
        values,
        pages: spec.pages as u32,
        page_tokens: spec.page_tokens as u32,
        width: spec.kv_width as u32,
        unused: 0,
    };
    let grid = [c.plan.bounds.page_copies, spec.layers, 2];
    if !grid.contains(&0) {
        c.launch(COPY, grid, 0, &params);
    }
    Ok(())
}

/// The pages of all layers: K and V, each `[layers, pages, page_tokens, kv_width]`, bf16.
pub struct KvBuffer {
    /// Its shape.
    pub spec: KvSpec,
    /// K of all layers.
    pub keys: DevicePtr,
    /// V of all layers.
    pub values: DevicePtr,
}

impl KvBuffer {
    /// Takes the memory.
    pub fn new(driver: &mut dyn Driver, spec: KvSpec) -> Result<Self> {
        if spec.page_tokens == 0 || !spec.page_tokens.is_multiple_of(16) {
            return Err(Error::Unsupported(format!(
                "KV pages of {} tokens: expected a multiple of 16",
                spec.page_tokens
            )));
        }
        weights::check_width("a KV cache", spec.kv_width)?;
        let bytes = Self::elements(&spec) * 2;
        Ok(Self {
            spec,
            keys: driver.alloc(bytes, "KV pages (K)")?,
            values: driver.alloc(bytes, "KV pages (V)")?,
        })
    }

    fn elements(spec: &KvSpec) -> usize {
        spec.layers * spec.pages * spec.page_tokens * spec.kv_width
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        Self::elements(&self.spec) * 4
    }

    /// K and V of a layer, each `[pages, page_tokens, kv_width]`.
    pub fn layer(&self, layer: usize) -> (DevicePtr, DevicePtr) {
        let offset = layer * self.spec.pages * self.spec.page_tokens * self.spec.kv_width * 2;
        (self.keys.offset(offset), self.values.offset(offset))
    }

    /// Gives the memory back.
    pub fn free(self, driver: &mut dyn Driver) {
        driver.free(self.keys);
        driver.free(self.values);
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::backend::cuda::emulator::Emulator;

    const SPEC: KvSpec = KvSpec { layers: 3, pages: 7, page_tokens: 16, kv_width: 48 };

    /// The bits of K and V of all layers.
    fn contents(c: &mut CudaBackend, kv: KvPool) -> [Vec<u16>; 2] {
        c.flush().unwrap();
        let KvBuffer { spec, keys, values } = c.kv_pools[kv.0 as usize].as_ref().unwrap();
        let (elements, keys, values) = (KvBuffer::elements(spec), *keys, *values);
        [keys, values].map(|at| {
            let mut bits = vec![0u16; elements];
            c.driver.download(at, bytemuck::cast_slice_mut(&mut bits)).unwrap();
            bits
        })
    }

    fn upload(c: &mut CudaBackend, width: usize, bits: &[u16]) -> Tensor {
        let values: Vec<f32> = bits.iter().map(|&b| half::bf16::from_bits(b).to_f32()).collect();
        let rows = bits.len() / width;
        let t = c.tensor(TensorSpec { name: "test", rows, width, element: Element::Activation }).unwrap();
        c.upload_f32(t, &values).unwrap();
        t
    }

    /// Where token `token` of `page` of a layer starts.
    fn start(layer: usize, page: u32, token: usize) -> usize {
        ((layer * SPEC.pages + page as usize) * SPEC.page_tokens + token) * SPEC.kv_width
    }

    /// Three sequences: 18 tokens from position 15 on (its last page with one token), one token at 0, one at 31.
    fn plan() -> BatchPlan {
        let mut plan = BatchPlan { page_table: vec![5, 0, 3, 6, 2, 1], ..BatchPlan::default() };
        let mut pages = 0;
        for (rows, first_position) in [(18u32, 15u32), (1, 0), (1, 31)] {
            let start = plan.tokens.len() as u32;
            plan.tokens.extend(vec![0; rows as usize]);
            plan.positions.extend(first_position..first_position + rows);
            let count = (first_position + rows).div_ceil(16);
            let pages_start = pages;
            pages += count;
            plan.sequences.push(Sequence {
                start,
                end: start + rows,
                first_position,
                pages_start,
                pages_end: pages,
            });
        }
        plan.segments = vec![Segment { slot: Slot::BASE, start: 0, end: plan.tokens.len() as u32 }];
        plan
    }

    #[test]
    fn rope_writes_keys_and_values_to_their_pages_and_nothing_else() {
        // Whole and partial rotations, by 8, 4 and 1 pairs a thread.
        for (kv_heads, head_dim, half) in [(3, 16, 8), (2, 24, 12), (1, 48, 8), (1, 48, 20), (1, 48, 5)] {
            let heads = Heads { heads: 2 * kv_heads, kv_heads, head_dim, scale: 1.0, window: None };
            let mut c = CudaBackend::new(Box::new(Emulator::new(half as u64)));
            let angles = |f: fn(f32) -> f32| (0..40 * half).map(|i| f(i as f32 * 0.1)).collect::<Vec<f32>>();
            let table = c.load_rope(&angles(f32::cos), &angles(f32::sin), half).unwrap();
            let kv = c.kv_pool(SPEC).unwrap();
            let plan = plan();
            let (rows, width) = (plan.rows(), heads.qkv_width());
            let bits: Vec<u16> = (0..rows * width).map(|i| 0x3f00 + (mix(i as u64) % 0xff) as u16).collect();
            let qkv = upload(&mut c, width, &bits);
            let layer = 1;
            c.begin(Arc::new(plan.clone())).unwrap();
            c.enqueue(Op::Rope(Rope { qkv, table, heads, kv: Some((kv, layer as u32)) })).unwrap();
            let rotated: Vec<u16> = c
                .download_f32(qkv, rows)
                .unwrap()
                .iter()
                .map(|&x| half::bf16::from_f32(x).to_bits())
                .collect();
            assert_ne!(rotated, bits);
            let mut expected =
                [vec![0xffffu16; KvBuffer::elements(&SPEC)], vec![0xffff; KvBuffer::elements(&SPEC)]];
            for s in &plan.sequences {
                for row in s.start..s.end {
                    let position = (s.first_position + row - s.start) as usize;
                    let page = plan.page_table[s.pages_start as usize + position / 16];
                    let to = start(layer, page, position % 16);
                    let from = row as usize * width + heads.q_width();
                    expected[0][to..to + 48].copy_from_slice(&rotated[from..from + 48]);
                    expected[1][to..to + 48].copy_from_slice(&rotated[from + 48..from + 96]);
                }
            }
            assert!(contents(&mut c, kv) == expected, "{kv_heads} heads of {head_dim}, half {half}");
        }
    }

    #[test]
    fn copies_move_the_first_tokens_of_a_page_in_all_layers() {
        let mut c = CudaBackend::new(Box::new(Emulator::new(1)));
        let kv = c.kv_pool(SPEC).unwrap();
        let elements = KvBuffer::elements(&SPEC);
        let mut expected =
            [0, 1].map(|which| (0..elements).map(|i| mix(2 * i as u64 + which) as u16).collect::<Vec<_>>());
        let pool = c.kv_pools[0].as_ref().unwrap();
        for (at, bits) in [pool.keys, pool.values].into_iter().zip(&expected) {
            c.driver.upload(at, bytemuck::cast_slice(bits)).unwrap();
        }
        let copies = [(0, 3, 16), (0, 6, 1), (5, 2, 7), (1, 1, 16), (4, 5, 0)];
        // Page 5 is a target without tokens and a source: the order would matter if it had any.
        let page_copies = copies.map(|(from, to, tokens)| PageCopy { from, to, tokens }).to_vec();
        let mut plan = BatchPlan { page_copies, ..BatchPlan::default() };
        c.begin(Arc::new(plan.clone())).unwrap();
        assert!(
            c.enqueue(Op::CopyPages(CopyPages { kv })).unwrap_err().to_string().contains("that is copied to")
        );
        plan.page_copies.pop();
        c.begin(Arc::new(plan.clone())).unwrap();
        c.enqueue(Op::CopyPages(CopyPages { kv })).unwrap();
        for data in &mut expected {
            for copy in &plan.page_copies {
                for layer in 0..SPEC.layers {
                    let from = start(layer, copy.from, 0);
                    data.copy_within(from..from + copy.tokens as usize * 48, start(layer, copy.to, 0));
                }
            }
        }
        assert!(contents(&mut c, kv) == expected);
        for (copy, problem) in
            [((0, 7, 1), "pool of 7 pages"), ((0, 1, 17), "16 tokens"), ((0, 3, 1), "two copies")]
        {
            let mut bad = plan.clone();
            bad.page_copies.push(PageCopy { from: copy.0, to: copy.1, tokens: copy.2 });
            c.begin(Arc::new(bad)).unwrap();
            let error = c.enqueue(Op::CopyPages(CopyPages { kv })).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn sequences_without_pages_are_errors() {
        let mut c = CudaBackend::new(Box::new(Emulator::new(1)));
        let heads = Heads { heads: 1, kv_heads: 1, head_dim: 48, scale: 1.0, window: None };
        let table = c.load_rope(&[1.0; 40 * 8], &[0.0; 40 * 8], 8).unwrap();
        let kv = c.kv_pool(SPEC).unwrap();
        let qkv = upload(&mut c, heads.qkv_width(), &vec![0; 20 * heads.qkv_width()]);
        let mut errors = |plan: BatchPlan, heads: Heads, layer: u32| {
            c.begin(Arc::new(plan)).unwrap();
            c.enqueue(Op::Rope(Rope { qkv, table, heads, kv: Some((kv, layer)) })).unwrap_err().to_string()
        };
        let mut short = plan();
        short.sequences[0].pages_end -= 1;
        assert!(errors(short, heads, 0).contains("has 2 pages of 16 tokens, needs 33 tokens"));
        let mut beyond = plan();
        beyond.page_table[4] = 7;
        assert!(errors(beyond, heads, 0).contains("page 7 of a pool of 7"));
        assert!(errors(plan(), heads, 3).contains("layer 3"));
    }
}
