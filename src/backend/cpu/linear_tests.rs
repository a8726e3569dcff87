//! The LoRA linear against an f64 oracle, and bit for bit against itself.

use super::gemm::{Aligned, Isa};
use super::linear_backward::Work;
use super::lora::Lora;
use super::*;

/// One linear group with some adapters, and a step's rows.
struct Case {
    inputs: usize,
    outputs: usize,
    /// Start and outputs of each part.
    parts: Vec<(usize, usize)>,
    /// By slot from 1 on: rank and scale of each part.
    slots: Vec<Vec<Option<(usize, f32)>>>,
    /// Segments: slot and its sequences' lengths.
    segments: Vec<(u32, Vec<usize>)>,
    bias: bool,
    seed: u64,
}

/// About normal numbers (a sum of four uniforms), standard deviation 1.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let uniform = |i: u64| (mix(i.wrapping_add(seed << 32)) >> 40) as f64 / 16_777_216.0 - 0.5;
    (0..len as u64).map(|i| ((0..4).map(|j| uniform(4 * i + j)).sum::<f64>() * 1.7320508) as f32).collect()
}

fn scaled(len: usize, seed: u64, by: f64) -> Vec<f32> {
    numbers(len, seed).into_iter().map(|v| (f64::from(v) * by) as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn cases() -> Vec<Case> {
    vec![
        // q|k|v with a slot that lacks a part, the base between adapters, an empty segment, one slot twice.
        Case {
            inputs: 40,
            outputs: 96,
            parts: vec![(0, 64), (64, 16), (80, 16)],
            slots: vec![
                vec![Some((4, 2.0)), Some((16, 0.5)), Some((17, 1.0))],
                vec![Some((33, 1.0)), None, Some((1, 3.0))],
                vec![None, None, None],
            ],
            segments: vec![
                (1, vec![5, 1, 9]),
                (0, vec![3]),
                (2, vec![20]),
                (3, vec![2]),
                (2, vec![]),
                (2, vec![7, 2]),
            ],
            bias: true,
            seed: 1,
        },
        // Odd sizes, a part that starts inside a panel, a gap no part covers, the largest rank, a long sequence.
        Case {
            inputs: 33,
            outputs: 100,
            parts: vec![(7, 41), (60, 33)],
            slots: vec![
                vec![Some((128, 0.25)), Some((100, 1.0))],
                vec![Some((8, 1.5)), Some((2, -1.0))],
                vec![Some((5, 1.0)), None],
            ],
            segments: vec![(1, vec![150, 1]), (2, vec![40]), (3, vec![6]), (0, vec![2])],
            bias: false,
            seed: 2,
        },
        // Tiny, and more outputs than inputs.
        Case {
            inputs: 8,
            outputs: 7,
            parts: vec![(0, 7)],
            slots: vec![vec![Some((3, 1.0))]],
            segments: vec![(1, vec![1])],
            bias: false,
            seed: 3,
        },
        // Many slots of one row each.
        Case {
            inputs: 130,
            outputs: 160,
            parts: vec![(0, 160)],
            slots: (0..40).map(|i| vec![Some((1 + i * 3, 1.0 + i as f32 / 8.0))]).collect(),
            segments: (0..=40).map(|s| (s, vec![1])).collect(),
            bias: true,
            seed: 4,
        },
        // k-blocks, and a base alone.
        Case {
            inputs: 700,
            outputs: 64,
            parts: vec![(0, 64)],
            slots: vec![vec![Some((16, 1.0))]],
            segments: vec![(0, vec![2]), (1, vec![30])],
            bias: false,
            seed: 5,
        },
    ]
}

/// The numbers of one part of one slot.
#[derive(Clone)]
struct Pair {
    rank: usize,
    scale: f32,
    /// `[rank, inputs]`.
    a: Vec<f32>,
    /// `[outputs, rank]`.
    b: Vec<f32>,
}

impl Case {
    fn rows(&self) -> usize {
        self.segments.iter().flat_map(|s| &s.1).sum()
    }

    fn w(&self) -> Vec<f32> {
        scaled(self.outputs * self.inputs, self.seed * 100, 1.0 / (self.inputs as f64).sqrt())
    }

    fn bias(&self) -> Vec<f32> {
        numbers(self.outputs, self.seed * 100 + 1)
    }

    fn x(&self) -> Vec<f32> {
        numbers(self.rows() * self.inputs, self.seed * 100 + 2)
    }

    fn dy(&self) -> Vec<f32> {
        numbers(self.rows() * self.outputs, self.seed * 100 + 3)
    }

    fn residual(&self) -> Vec<f32> {
        numbers(self.rows() * self.outputs, self.seed * 100 + 4)
    }

    /// Drawn so that `s h Bᵀ` is as large as `x Wᵀ`: both have variance 1.
    fn pairs(&self, slot: u32) -> Vec<Option<Pair>> {
        let Some(parts) = (slot as usize).checked_sub(1).map(|i| &self.slots[i]) else {
            return vec![None; self.parts.len()];
        };
        let pair = |(p, part): (usize, &Option<(usize, f32)>)| {
            let (rank, scale) = (*part)?;
            let seed = self.seed * 100 + 10 + u64::from(slot) * 1000 + p as u64 * 10;
            let a = scaled(rank * self.inputs, seed, 1.0 / (self.inputs as f64).sqrt());
            let by = 1.0 / (f64::from(scale.abs()) * (rank as f64).sqrt());
            Some(Pair { rank, scale, a, b: scaled(self.parts[p].1 * rank, seed + 1, by) })
        };
        parts.iter().enumerate().map(pair).collect()
    }

    fn layout(&self) -> AdapterLayout {
        let parts = self.parts.iter().enumerate();
        let parts =
            parts.map(|(i, &(start, outputs))| PartLayout { module: format!("part{i}"), start, outputs });
        // A first group, so that the part numbers of the group under test do not start at 0.
        let other = PartLayout { module: "other".into(), start: 0, outputs: 24 };
        let other = GroupLayout { inputs: 16, outputs: 24, parts: vec![other] };
        let group = GroupLayout { inputs: self.inputs, outputs: self.outputs, parts: parts.collect() };
        AdapterLayout { groups: vec![other, group] }
    }

    fn plan(&self) -> BatchPlan {
        let mut plan = BatchPlan::default();
        let mut row = 0;
        for (slot, lengths) in &self.segments {
            let start = row;
            for &len in lengths {
                let end = row + len as u32;
                plan.sequences.push(Sequence {
                    start: row,
                    end,
                    first_position: 0,
                    pages_start: 0,
                    pages_end: 0,
                });
                row = end;
            }
            plan.segments.push(Segment { slot: Slot(*slot), start, end: row });
        }
        plan.tokens = vec![0; row as usize];
        plan.positions = vec![0; row as usize];
        plan
    }

    /// The slot of each row.
    fn slot_of(&self) -> Vec<u32> {
        self.segments.iter().flat_map(|(s, l)| std::iter::repeat_n(*s, l.iter().sum())).collect()
    }
}

/// A backend with a case loaded.
struct Loaded {
    c: CpuBackend,
    linear: Linear,
    x: Tensor,
    h: Tensor,
    dh: Tensor,
    y: Tensor,
    residual: Tensor,
    dy: Tensor,
    dx: Tensor,
}

const GROUP: Option<GroupId> = Some(GroupId(1));

fn load(case: &Case, threads: usize) -> Loaded {
    let mut c = CpuBackend::new(threads).unwrap();
    let (w, bias) = (case.w(), case.bias());
    // Two parts of W, to be stacked.
    let half = case.outputs / 2;
    let (top, bottom) = w.split_at(half * case.inputs);
    let parts = [
        WeightView::from_f32(top, half, case.inputs),
        WeightView::from_f32(bottom, case.outputs - half, case.inputs),
    ];
    let linear = c
        .load_linear(LinearSpec { parts: &parts, bias: case.bias.then_some(&bias[..]), backward: true })
        .unwrap();
    c.adapter_layout(&case.layout()).unwrap();
    for slot in 1..=case.slots.len() as u32 {
        let pairs = case.pairs(slot);
        let spec = pairs
            .iter()
            .map(|p| p.as_ref().map(|p| PartSpec { rank: p.rank, scale: p.scale }))
            .collect::<Vec<_>>();
        let spec =
            SlotSpec { parts: [vec![Some(PartSpec { rank: 5, scale: 1.0 })], spec].concat(), dropout: 0.0 };
        assert_eq!(c.create_slot(&spec).unwrap(), Slot(slot));
        for (p, pair) in pairs.iter().enumerate() {
            if let Some(pair) = pair {
                let part = PartId(p as u32 + 1);
                c.write_slot(Slot(slot), part, LoraMatrix::A, &pair.a).unwrap();
                c.write_slot(Slot(slot), part, LoraMatrix::B, &pair.b).unwrap();
            }
        }
        c.attach_optimizer(Slot(slot)).unwrap();
    }
    let rows = case.rows();
    let mut of =
        |width, element| c.tensor(TensorSpec { name: "test", rows: rows + 3, width, element }).unwrap();
    let [h, dh] = [of(3 * MAX_RANK, Element::F32), of(3 * MAX_RANK, Element::F32)];
    let mut tensor = |width| of(width, Element::Activation);
    let (x, y) = (tensor(case.inputs), tensor(case.outputs));
    let (residual, dy, dx) = (tensor(case.outputs), tensor(case.outputs), tensor(case.inputs));
    c.upload_f32(x, &case.x()).unwrap();
    c.upload_f32(dy, &case.dy()).unwrap();
    c.upload_f32(residual, &case.residual()).unwrap();
    c.begin(Arc::new(case.plan())).unwrap();
    Loaded { c, linear, x, h, dh, y, residual, dy, dx }
}

impl Loaded {
    fn forward(&mut self, group: Option<GroupId>, residual: Option<Tensor>) -> Vec<f32> {
        let (linear, x, y, shrink) = (self.linear, self.x, self.y, Some(self.h));
        self.c
            .enqueue(Op::LinearForward(LinearForward { linear, group, x, lora_x: None, shrink, residual, y }))
            .unwrap();
        let rows = self.c.plan.rows();
        self.c.download_f32(y, rows).unwrap()
    }

    fn backward(&mut self) -> Vec<f32> {
        let &mut Loaded { linear, x, dy, dx, h, dh, .. } = self;
        let (shrink, dshrink, dx) = (Some(h), Some(dh), Some(dx));
        self.c
            .enqueue(Op::LinearBackward(LinearBackward {
                linear,
                group: GROUP,
                x,
                lora_x: None,
                shrink,
                dy,
                dshrink,
                dx,
            }))
            .unwrap();
        let rows = self.c.plan.rows();
        self.c.download_f32(self.dx, rows).unwrap()
    }

    fn gradients(&mut self, case: &Case) -> Vec<Vec<f32>> {
        let mut all = Vec::new();
        for (slot, p, matrix) in matrices(case) {
            all.push(self.c.read_slot(slot, SlotRole::Gradient, PartId(p as u32 + 1), matrix).unwrap());
        }
        all
    }
}

/// All LoRA matrices of a case.
fn matrices(case: &Case) -> Vec<(Slot, usize, LoraMatrix)> {
    let mut all = Vec::new();
    for (s, parts) in case.slots.iter().enumerate() {
        for (p, _) in parts.iter().enumerate().filter(|(_, part)| part.is_some()) {
            all.extend([LoraMatrix::A, LoraMatrix::B].map(|m| (Slot(s as u32 + 1), p, m)));
        }
    }
    all
}

/// A value in f64 and the sum of the magnitudes it was added up from, which bounds its rounding in f32.
#[derive(Clone, Copy, Default)]
struct Exact {
    value: f64,
    magnitude: f64,
}

impl Exact {
    fn add(&mut self, term: f64, magnitude: f64) {
        self.value += term;
        self.magnitude += magnitude.abs();
    }
}

/// Compares with a bound of `steps` roundings of f32, and says how much of it was used.
fn assert_close(what: &str, got: &[f32], want: &[Exact], steps: usize) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let bound = w.magnitude * (steps as f64 + 8.0).sqrt() * 3.0 / 16_777_216.0 + 1e-30;
        let error = (f64::from(*g) - w.value).abs();
        assert!(
            error <= bound,
            "{what}[{i}]: {g}, expected {} within {bound:e} ({:.1} of it)",
            w.value,
            error / bound
        );
    }
}

/// `y - base`, h, dh, dx, dA and dB by definition.
struct Oracle {
    base: Vec<Exact>,
    lora: Vec<Exact>,
    dx: Vec<Exact>,
    gradients: Vec<Vec<Exact>>,
}

fn oracle(case: &Case, x: &[f32], dy: &[f32], pairs: impl Fn(u32) -> Vec<Option<Pair>>) -> Oracle {
    let (k, n, rows) = (case.inputs, case.outputs, case.rows());
    let w = case.w();
    let mut base = vec![Exact::default(); rows * n];
    let mut lora = base.clone();
    let mut dx = vec![Exact::default(); rows * k];
    let list = matrices(case);
    let mut gradients: Vec<Vec<Exact>> = list
        .iter()
        .map(|&(slot, p, m)| {
            let rank = case.slots[slot.0 as usize - 1][p].unwrap().0;
            vec![Exact::default(); rank * if m == LoraMatrix::A { k } else { case.parts[p].1 }]
        })
        .collect();
    let all: Vec<_> = (0..=case.slots.len() as u32).map(&pairs).collect();
    for (row, slot) in case.slot_of().into_iter().enumerate() {
        let (x, dy) = (&x[row * k..][..k], &dy[row * n..][..n]);
        for j in 0..n {
            for i in 0..k {
                let wx = f64::from(w[j * k + i]);
                base[row * n + j].add(f64::from(x[i]) * wx, f64::from(x[i]) * wx);
                dx[row * k + i].add(f64::from(dy[j]) * wx, f64::from(dy[j]) * wx);
            }
        }
        for (p, pair) in all[slot as usize].iter().enumerate() {
            let Some(Pair { rank, scale, a, b }) = pair else { continue };
            let (start, outputs) = case.parts[p];
            let s = f64::from(*scale);
            let at = list.iter().position(|&(t, q, _)| t.0 == slot && q == p).unwrap();
            for r in 0..*rank {
                let (mut h, mut dh) = (Exact::default(), Exact::default());
                for i in 0..k {
                    let t = f64::from(x[i]) * f64::from(a[r * k + i]);
                    h.add(t, t);
                }
                for j in 0..outputs {
                    let t = s * f64::from(dy[start + j]) * f64::from(b[j * rank + r]);
                    dh.add(t, t);
                }
                for j in 0..outputs {
                    let f = s * f64::from(b[j * rank + r]);
                    lora[row * n + start + j].add(f * h.value, f * h.magnitude);
                    let f = s * f64::from(dy[start + j]);
                    gradients[at + 1][j * rank + r].add(f * h.value, f * h.magnitude);
                }
                for i in 0..k {
                    let f = f64::from(a[r * k + i]);
                    dx[row * k + i].add(f * dh.value, f * dh.magnitude);
                    let f = f64::from(x[i]);
                    gradients[at][r * k + i].add(f * dh.value, f * dh.magnitude);
                }
            }
        }
    }
    Oracle { base, lora, dx, gradients }
}

fn sum(parts: &[&[Exact]]) -> Vec<Exact> {
    let mut total = parts[0].to_vec();
    for part in &parts[1..] {
        for (t, p) in total.iter_mut().zip(*part) {
            t.add(p.value, p.magnitude);
        }
    }
    total
}

fn exact(values: &[f32]) -> Vec<Exact> {
    values.iter().map(|&v| Exact { value: f64::from(v), magnitude: f64::from(v).abs() }).collect()
}

#[test]
fn forward_and_backward_match_f64() {
    for case in cases() {
        let want = oracle(&case, &case.x(), &case.dy(), |s| case.pairs(s));
        let mut t = load(&case, 2);
        let steps = case.inputs + MAX_RANK;
        let bias: Vec<f32> = case.bias().repeat(case.rows());
        let bias = exact(&if case.bias { bias } else { vec![0.0; bias.len()] });
        let residual = Some(t.residual);
        let y = t.forward(GROUP, residual);
        assert_close("y", &y, &sum(&[&want.base, &want.lora, &bias, &exact(&case.residual())]), steps);
        let y = t.forward(GROUP, None);
        assert_close("y without residual", &y, &sum(&[&want.base, &want.lora, &bias]), steps);

        // The adapter's share by itself, which is as large as the base: an error in it cannot hide.
        let base = t.forward(None, None);
        let delta: Vec<f32> = y.iter().zip(&base).map(|(y, b)| y - b).collect();
        let mut bound = want.lora.clone();
        bound.iter_mut().zip(&want.base).for_each(|(l, b)| l.magnitude += 2.0 * b.magnitude + 4.0);
        assert_close("y - base", &delta, &bound, steps);
        let square = |v: &[Exact]| v.iter().map(|e| e.value * e.value).sum::<f64>();
        let adapted: f64 = case.slot_of().iter().filter(|&&s| s > 0).count() as f64 / case.rows() as f64;
        assert!(square(&want.lora) > 0.3 * adapted * square(&want.base), "the case draws too small adapters");

        let y_again = t.forward(GROUP, None);
        assert_eq!(bits(&y_again), bits(&y));
        let dx = t.backward();
        assert_close("dx", &dx, &want.dx, case.outputs + MAX_RANK);
        for ((got, want), id) in t.gradients(&case).iter().zip(&want.gradients).zip(matrices(&case)) {
            assert_close(&format!("gradient {id:?}"), got, want, case.rows() + steps);
        }
    }
}

#[test]
fn the_oracle_s_gradients_are_finite_differences() {
    // The loss is Σ y dy, linear or bilinear in everything, so central differences in f64 are exact but for rounding.
    let small = Case {
        inputs: 9,
        outputs: 40,
        parts: vec![(0, 12), (20, 20)],
        slots: vec![vec![Some((3, 2.0)), Some((5, 1.0))], vec![None, Some((2, -1.0))]],
        segments: vec![(0, vec![1]), (1, vec![2, 1]), (2, vec![3])],
        bias: true,
        seed: 6,
    };
    for case in [small] {
        let (x, dy) = (case.x(), case.dy());
        let loss = |x: &[f32], pairs: &dyn Fn(u32) -> Vec<Option<Pair>>| -> f64 {
            let o = oracle(&case, x, &dy, pairs);
            sum(&[&o.base, &o.lora]).iter().zip(&dy).map(|(y, &d)| y.value * f64::from(d)).sum()
        };
        let want = oracle(&case, &x, &dy, |s| case.pairs(s));
        let step = 0.5f32;
        let check = |what: &str, plus: f64, minus: f64, want: Exact| {
            let got = (plus - minus) / (2.0 * f64::from(step));
            assert!(
                (got - want.value).abs() <= 1e-5 * (1.0 + want.magnitude),
                "{what}: {got} {}",
                want.value
            );
        };
        for at in [0, x.len() / 2, x.len() - 1] {
            let moved = |by: f32| {
                let mut x = x.clone();
                x[at] += by;
                (x[at] - case.x()[at], loss(&x, &|s| case.pairs(s)))
            };
            let ((up, plus), (down, minus)) = (moved(step), moved(-step));
            let slope = (plus - minus) / f64::from(up - down);
            let want = want.dx[at];
            assert!(
                (slope - want.value).abs() <= 1e-5 * (1.0 + want.magnitude),
                "dx: {slope} {}",
                want.value
            );
        }
        for ((slot, p, matrix), want) in matrices(&case).into_iter().zip(&want.gradients) {
            for at in [0, want.len() / 2, want.len() - 1] {
                let moved = |by: f32| {
                    loss(&x, &|s| {
                        let mut pairs = case.pairs(s);
                        // Powers of two added to small numbers: rounding of the sum is far below the tolerance.
                        if s == slot.0 {
                            let pair = pairs[p].as_mut().unwrap();
                            let values = if matrix == LoraMatrix::A { &mut pair.a } else { &mut pair.b };
                            values[at] += by;
                        }
                        pairs
                    })
                };
                check(&format!("{slot:?} {p} {matrix:?}"), moved(step), moved(-step), want[at]);
            }
        }
    }
}

/// y, h, dx, dh and the gradients of a case on one instruction set.
fn all_bits(case: &Case, isa: Isa, threads: usize) -> Vec<Vec<u32>> {
    let t = load(case, threads);
    let (rows, c) = (case.rows(), &t.c);
    let lora = Lora::new(&c.slots, &c.plan, GROUP).unwrap();
    let weights = &c.linears[0];
    let stride = lora.width + 5;
    let (mut h, mut dh) = (vec![0.0; rows * stride], vec![0.0; rows * stride]);
    let (mut y, mut dx) = (case.residual(), vec![0.0; rows * case.inputs]);
    let (x, dy) = (case.x(), case.dy());
    let shrink = linear::H { values: &mut h, stride };
    let (lora_x, residual) = (None, linear::Residual::InPlace);
    let forward = linear::Forward { isa, pool: &c.pool, weights, lora: &lora, rows, x: &x, lora_x, residual };
    forward.compute(shrink, &mut y);
    let adapters = linear_backward::adapters(&lora, &c.plan);
    let mut gradients: Vec<Aligned> =
        adapters.iter().map(|a| Aligned::zeros(c.slots.get(a.slot).unwrap().weights.len())).collect();
    let work = Work {
        factors: &[],
        isa,
        pool: &c.pool,
        backward: weights.backward.as_ref(),
        lora: &lora,
        adapters: &adapters,
        rows,
        inputs: case.inputs,
        outputs: case.outputs,
        x: &x,
        h: &h,
        h_stride: stride,
        dy: &dy,
        dh_stride: stride,
    };
    work.compute(&mut dh, Some(&mut dx), &mut gradients);
    let mut all = vec![bits(&y), bits(&h), bits(&dx), bits(&dh)];
    all.extend(gradients.iter().map(|g| bits(g)));
    all
}

#[test]
fn same_bits_on_every_instruction_set_and_thread_count() {
    for case in cases() {
        let expected = all_bits(&case, Isa::Portable, 1);
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                assert!(all_bits(&case, isa, threads) == expected, "case {}: {isa:?} {threads}", case.seed);
            }
        }
    }
}

#[test]
fn a_sequence_alone_has_the_bits_it_has_in_company() {
    for case in cases() {
        let mut together = load(&case, 2);
        let (y, dx) = (together.forward(GROUP, None), together.backward());
        let gradients = together.gradients(&case);
        let mut alone = load(&case, 1);
        let (x, dy) = (case.x(), case.dy());
        let mut row = 0;
        // One call for each sequence, in order: the gradients must add up to the same bits.
        for (slot, lengths) in &case.segments {
            for &len in lengths {
                let single = Case { segments: vec![(*slot, vec![len])], ..case.shape() };
                alone.c.begin(Arc::new(single.plan())).unwrap();
                alone.c.upload_f32(alone.x, &x[row * case.inputs..][..len * case.inputs]).unwrap();
                alone.c.upload_f32(alone.dy, &dy[row * case.outputs..][..len * case.outputs]).unwrap();
                let got = alone.forward(GROUP, None);
                assert_eq!(bits(&got), bits(&y[row * case.outputs..][..got.len()]), "y of row {row}");
                let got = alone.backward();
                assert_eq!(bits(&got), bits(&dx[row * case.inputs..][..got.len()]), "dx of row {row}");
                row += len;
            }
        }
        for (a, b) in alone.gradients(&case).iter().zip(&gradients) {
            assert_eq!(bits(a), bits(b));
        }
    }
}

impl Case {
    /// The same weights and adapters, for other rows.
    fn shape(&self) -> Case {
        Case { parts: self.parts.clone(), slots: self.slots.clone(), segments: Vec::new(), ..*self }
    }
}

#[test]
fn an_adapter_whose_b_is_zero_is_the_base() {
    for case in cases() {
        let mut t = load(&case, 2);
        for (slot, p, matrix) in matrices(&case) {
            if matrix == LoraMatrix::B {
                let len = t.c.read_slot(slot, SlotRole::Weights, PartId(p as u32 + 1), matrix).unwrap().len();
                t.c.write_slot(slot, PartId(p as u32 + 1), matrix, &vec![0.0; len]).unwrap();
            }
        }
        // Rows of zeros of either sign among them.
        let mut x = case.x();
        x[..case.inputs].fill(-0.0);
        t.c.upload_f32(t.x, &x).unwrap();
        let base = t.forward(None, None);
        let y = t.forward(GROUP, None);
        assert_eq!(bits(&y), bits(&base));
    }
}

#[test]
fn training_writes_nothing_that_reading_does_not_show() {
    // What pads ranks and panels must stay zero: an adapter written anew from what was read computes the same.
    for case in cases() {
        let mut t = load(&case, 2);
        t.forward(GROUP, None);
        t.backward();
        let slots: Vec<Slot> = (1..=case.slots.len() as u32).map(Slot).collect();
        let spec = TensorSpec { name: "norms", rows: slots.len(), width: 1, element: Element::F32 };
        let norms = t.c.tensor(spec).unwrap();
        let step = |&slot: &Slot| AdamWStep {
            slot,
            step: 1,
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
        };
        t.c.enqueue(Op::GradNorms(GradNorms { slots: slots.clone(), out: norms })).unwrap();
        t.c.enqueue(Op::AdamW(AdamW { steps: slots.iter().map(step).collect(), norms })).unwrap();
        let mut fresh = load(&case, 2);
        for (slot, p, matrix) in matrices(&case) {
            let part = PartId(p as u32 + 1);
            let values = t.c.read_slot(slot, SlotRole::Weights, part, matrix).unwrap();
            fresh.c.write_slot(slot, part, matrix, &values).unwrap();
        }
        assert_eq!(bits(&t.forward(GROUP, None)), bits(&fresh.forward(GROUP, None)), "case {}", case.seed);
        assert_eq!(bits(&t.backward()), bits(&fresh.backward()), "case {}", case.seed);
    }
}

#[test]
fn the_residual_may_be_y() {
    for case in cases() {
        let mut t = load(&case, 2);
        let residual = Some(t.residual);
        let apart = t.forward(GROUP, residual);
        t.c.upload_f32(t.y, &case.residual()).unwrap();
        let y = Some(t.y);
        assert_eq!(bits(&t.forward(GROUP, y)), bits(&apart));
    }
}

#[test]
fn a_nan_stays_in_its_rows_and_its_slot() {
    let case = &cases()[0];
    let mut clean = load(case, 2);
    let (y, dx) = (clean.forward(GROUP, None), clean.backward());
    let gradients = clean.gradients(case);
    let mut t = load(case, 2);
    // Row 4 is of slot 1, in the middle of its first sequence.
    let mut x = case.x();
    x[4 * case.inputs + 3] = f32::NAN;
    let mut dy = case.dy();
    dy[4 * case.outputs + 3] = f32::INFINITY;
    t.c.upload_f32(t.x, &x).unwrap();
    t.c.upload_f32(t.dy, &dy).unwrap();
    let (bad_y, bad_dx) = (t.forward(GROUP, None), t.backward());
    for row in (0..case.rows()).filter(|&r| r != 4) {
        let (n, k) = (row * case.outputs, row * case.inputs);
        assert_eq!(bits(&bad_y[n..][..case.outputs]), bits(&y[n..][..case.outputs]), "row {row}");
        assert_eq!(bits(&bad_dx[k..][..case.inputs]), bits(&dx[k..][..case.inputs]), "row {row}");
    }
    assert!(bad_y[4 * case.outputs..][..case.outputs].iter().all(|v| v.is_nan()));
    for ((bad, good), (slot, ..)) in t.gradients(case).iter().zip(&gradients).zip(matrices(case)) {
        if slot != Slot(1) {
            assert_eq!(bits(bad), bits(good));
        } else {
            assert!(bad.iter().any(|v| v.is_nan()));
        }
    }
}

#[test]
fn weights_of_every_type_are_widened_as_they_are_packed() {
    let (outputs, inputs) = (37, 19);
    let values: Vec<f32> =
        numbers(outputs * inputs, 1).iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect();
    let values: Vec<f32> = values.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
    let f16: Vec<u8> = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let bf16: Vec<u8> = values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    // One byte in, so that nothing is aligned.
    let shifted = [vec![0], f16].concat();
    let c = CpuBackend::new(2).unwrap();
    let product = |parts: &[WeightView<'_>]| {
        let w =
            linear::LinearWeights::pack(&c.pool, LinearSpec { parts, bias: None, backward: true }).unwrap();
        let mut y = vec![0.0; outputs];
        gemm::matmul(&c.pool, &numbers(inputs, 2), 1, &w.forward, &mut y, false);
        let mut x = vec![0.0; inputs];
        gemm::matmul(&c.pool, &numbers(outputs, 3), 1, w.backward.as_ref().unwrap(), &mut x, false);
        [y, x].concat()
    };
    let expected = product(&[WeightView::from_f32(&values, outputs, inputs)]);
    let view = |bytes, dtype, rows| WeightView { bytes, dtype, rows, cols: inputs };
    assert_eq!(product(&[view(&shifted[1..], WeightType::F16, outputs)]), expected);
    let as_bf16: Vec<f32> =
        bf16.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let expected = product(&[WeightView::from_f32(&as_bf16, outputs, inputs)]);
    let (top, bottom) = bf16.split_at(5 * inputs * 2);
    let parts = [view(top, WeightType::Bf16, 5), view(bottom, WeightType::Bf16, outputs - 5)];
    assert_eq!(product(&parts), expected);
}

#[test]
fn wrong_shapes_are_errors_and_leave_the_tensors_in_place() {
    let case = &cases()[0];
    let mut t = load(case, 1);
    let Loaded { linear, x, h, dh, y, dy, dx, .. } = t;
    let shrink = Some(h);
    let op = LinearForward { linear, group: GROUP, x, lora_x: None, shrink, residual: None, y };
    let fails = |t: &mut Loaded, op: LinearForward, part: &str| {
        let error = t.c.enqueue(Op::LinearForward(op)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    fails(&mut t, LinearForward { shrink: None, ..op }, "shrink");
    fails(&mut t, LinearForward { x: y, ..op }, "expected");
    fails(&mut t, LinearForward { shrink: Some(x), ..op }, "given twice");
    fails(&mut t, LinearForward { linear: Linear(9), ..op }, "does not exist");
    fails(&mut t, LinearForward { group: Some(GroupId(0)), ..op }, "group 0");
    fails(&mut t, LinearForward { group: Some(GroupId(7)), ..op }, "group 7");
    t.c.detach_optimizer(Slot(2));
    let (group, dshrink, dx) = (GROUP, Some(dh), Some(dx));
    let back = LinearBackward { linear, group, x, lora_x: None, shrink, dy, dshrink, dx };
    let error = t.c.enqueue(Op::LinearBackward(back)).unwrap_err().to_string();
    assert!(error.contains("slot 2"), "{error}");
    t.c.drop_slot(Slot(2));
    fails(&mut t, op, "slot 2");
    let mut plan = case.plan();
    plan.segments[0].end += 1;
    t.c.begin(Arc::new(plan)).unwrap();
    fails(&mut t, op, "segment");
    assert_eq!(bits(&t.c.download_f32(x, case.rows()).unwrap()), bits(&case.x()));
}
