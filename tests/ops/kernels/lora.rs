//! The gradients of LoRA, through the forward and the backward of a linear group.
//!
//! The oracle takes h and dh as the device left them, with the one rounding of s·h and dh that the operation is defined with; that they are right, `linear.rs`
//! and the finite differences here say. What remains is the order of an f32 sum.

use colloquy::backend::*;

use super::support::*;

/// f32 sums of at most 64 rows, relative to the largest element.
const GRADIENT: f64 = 1e-6;
/// A finite difference against the gradient along it, relative: the rounding of every y, and of the moved weights, to 8 bits.
const DIFFERENCE: [(Precision, f64); 2] = [(Precision::F32, 1e-5), (Precision::Bf16, 2e-3)];

/// Inputs, outputs, parts (start, outputs), and by slot the ranks of the parts (0: none).
struct Case {
    inputs: usize,
    outputs: usize,
    parts: &'static [(usize, usize)],
    ranks: &'static [&'static [usize]],
}

const CASES: [Case; 3] = [
    Case {
        inputs: 192,
        outputs: 320,
        parts: &[(0, 192), (192, 64), (256, 64)],
        ranks: &[&[16, 16, 16], &[5, 0, 33], &[16, 16, 16], &[0, 128, 64]],
    },
    Case { inputs: 576, outputs: 64, parts: &[(0, 64)], ranks: &[&[8], &[16], &[1], &[128]] },
    Case {
        inputs: 40,
        outputs: 53,
        parts: &[(0, 21), (24, 29)],
        ranks: &[&[16, 8], &[3, 0], &[40, 1], &[0, 16]],
    },
];

struct Loaded<'a> {
    case: &'a Case,
    linear: Linear,
    slots: Vec<Slot>,
    stride: usize,
}

/// `s` of a slot.
fn scale(slot: usize) -> f32 {
    [1.0, 2.0, 0.7, -0.5, 1.5][slot]
}

impl Case {
    fn layout(&self) -> AdapterLayout {
        let part =
            |&(start, outputs): &(usize, usize)| PartLayout { module: format!("{start}"), start, outputs };
        let parts = self.parts.iter().map(part).collect();
        AdapterLayout { groups: vec![GroupLayout { inputs: self.inputs, outputs: self.outputs, parts }] }
    }

    fn load(&self, d: &mut Device) -> Loaded<'_> {
        let mut random = Random(self.inputs as u64);
        d.backend.adapter_layout(&self.layout()).unwrap();
        let w = random.values(self.outputs * self.inputs, 0.05);
        let parts = [WeightView::from_f32(&w, self.outputs, self.inputs)];
        let linear = d.backend.load_linear(LinearSpec { parts: &parts, bias: None, backward: true }).unwrap();
        let mut slots = vec![Slot::BASE];
        let mut stride = 16;
        for (i, ranks) in self.ranks.iter().enumerate() {
            let spec = |&rank: &usize| (rank > 0).then_some(PartSpec { rank, scale: scale(i + 1) });
            let spec = SlotSpec { parts: ranks.iter().map(spec).collect(), dropout: 0.0 };
            stride = stride.max(spec.shrink_width(&self.layout(), GroupId(0)));
            let slot = d.backend.create_slot(&spec).unwrap();
            d.backend.attach_optimizer(slot).unwrap();
            slots.push(slot);
        }
        let l = Loaded { case: self, linear, slots, stride };
        for (slot, part, rank, _) in l.all_parts() {
            let a = random.values(rank * self.inputs, 0.1);
            let b = random.values(self.parts[part].1 * rank, 0.1);
            d.backend.write_slot(l.slots[slot], PartId(part as u32), LoraMatrix::A, &a).unwrap();
            d.backend.write_slot(l.slots[slot], PartId(part as u32), LoraMatrix::B, &b).unwrap();
        }
        l
    }
}

impl Loaded<'_> {
    /// Slot, part, rank, column of h.
    fn all_parts(&self) -> Vec<(usize, usize, usize, usize)> {
        let mut all = Vec::new();
        for (i, ranks) in self.case.ranks.iter().enumerate() {
            let mut column = 0;
            for (part, &rank) in ranks.iter().enumerate() {
                if rank > 0 {
                    all.push((i + 1, part, rank, column));
                }
                column += padded_rank(rank);
            }
        }
        all
    }

    /// y, h and dh of one step; gradients are added to.
    fn step(&self, d: &mut Device, plan: &BatchPlan, x: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let rows = plan.rows();
        let (x, dy) = (d.upload(x, self.case.inputs), d.upload(dy, self.case.outputs));
        let y = d.tensor(rows, self.case.outputs, Element::Activation);
        let (h, dh) = (d.tensor(rows, self.stride, Element::F32), d.tensor(rows, self.stride, Element::F32));
        let (linear, group, shrink, dshrink) = (self.linear, Some(GroupId(0)), Some(h), Some(dh));
        d.run(
            plan,
            [
                Op::LinearForward(LinearForward {
                    linear,
                    group,
                    x,
                    lora_x: None,
                    shrink,
                    residual: None,
                    y,
                }),
                Op::LinearBackward(LinearBackward {
                    linear,
                    group,
                    x,
                    lora_x: None,
                    shrink,
                    dy,
                    dshrink,
                    dx: None,
                }),
            ],
        );
        let got = [d.download(y, rows), d.download(h, rows), d.download(dh, rows)];
        [x, dy, y, h, dh].into_iter().for_each(|t| d.backend.free(t));
        got
    }

    /// dA and dB of a part of a slot.
    fn gradient(&self, d: &mut Device, slot: usize, part: usize) -> [Vec<f32>; 2] {
        [LoraMatrix::A, LoraMatrix::B].map(|m| {
            d.backend.read_slot(self.slots[slot], SlotRole::Gradient, PartId(part as u32), m).unwrap()
        })
    }

    fn gradients(&self, d: &mut Device) -> Vec<f32> {
        self.all_parts()
            .into_iter()
            .flat_map(|(slot, part, ..)| self.gradient(d, slot, part).concat())
            .collect()
    }

    fn zero(&self, d: &mut Device) {
        d.backend.enqueue(Op::ZeroGrad(ZeroGrad { slots: self.slots[1..].to_vec() })).unwrap();
    }
}

/// The plan with each segment cut into sequences of at most `length` rows.
fn cut(mut plan: BatchPlan, length: u32) -> BatchPlan {
    let whole = std::mem::take(&mut plan.sequences);
    for s in whole {
        let mut start = s.start;
        while start < s.end {
            let end = s.end.min(start + length);
            plan.sequences.push(Sequence { start, end, ..s });
            start = end;
        }
    }
    plan
}

fn inputs(d: &Device, case: &Case, rows: usize) -> [Vec<f32>; 2] {
    let mut random = Random(rows as u64);
    [random.values(rows * case.inputs, 1.0), random.values(rows * case.outputs, 1.0)].map(|v| d.stored(&v))
}

#[test]
fn gradients_are_sums_over_rows() {
    for case in &CASES {
        for mut d in devices() {
            let l = case.load(&mut d);
            for segments in segment_layouts(40, 4) {
                let plan = cut(plan_of(&segments, &l.slots), 11);
                let [x, dy] = inputs(&d, case, plan.rows());
                l.zero(&mut d);
                let [_, h, dh] = l.step(&mut d, &plan, &x, &dy);
                for (slot, part, rank, column) in l.all_parts() {
                    let (start, outputs) = case.parts[part];
                    let (mut a, mut b) = (vec![0f64; rank * case.inputs], vec![0f64; outputs * rank]);
                    let own = plan.segments.iter().filter(|s| s.slot == l.slots[slot]);
                    for r in own.flat_map(|s| s.start as usize..s.end as usize) {
                        let at = r * l.stride + column;
                        let scaled: Vec<f32> = h[at..at + rank].iter().map(|h| scale(slot) * h).collect();
                        let (h, dh) = (d.stored(&scaled), d.stored(&dh[at..at + rank]));
                        for i in 0..rank {
                            for (k, &x) in x[r * case.inputs..][..case.inputs].iter().enumerate() {
                                a[i * case.inputs + k] += f64::from(dh[i]) * f64::from(x);
                            }
                            for (n, &dy) in dy[r * case.outputs + start..][..outputs].iter().enumerate() {
                                b[n * rank + i] += f64::from(h[i]) * f64::from(dy);
                            }
                        }
                    }
                    let what = format!("{}, {}, slot {slot}, part {part}", d.name, segments.name);
                    let [got_a, got_b] = l.gradient(&mut d, slot, part);
                    assert_close(&format!("{what}, dA"), &got_a, &a, GRADIENT);
                    assert_close(&format!("{what}, dB"), &got_b, &b, GRADIENT);
                }
            }
        }
    }
}

#[test]
fn gradients_are_the_slopes_of_the_forward() {
    for mut d in devices() {
        let case = &CASES[0];
        let l = case.load(&mut d);
        let plan = plan_of(&Segments { name: "two", parts: vec![(2, 13), (1, 27)] }, &l.slots);
        let [x, dy] = inputs(&d, case, plan.rows());
        // y is linear in A and in B, each by itself, so a large step has no error of its own.
        for (part, matrix) in [(0, LoraMatrix::A), (2, LoraMatrix::A), (1, LoraMatrix::B), (2, LoraMatrix::B)]
        {
            let (slot, id) = (l.slots[1], PartId(part));
            l.zero(&mut d);
            l.step(&mut d, &plan, &x, &dy);
            let gradient = d.backend.read_slot(slot, SlotRole::Gradient, id, matrix).unwrap();
            let weights = d.backend.read_slot(slot, SlotRole::Weights, id, matrix).unwrap();
            let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            let epsilon = 4.0 / norm;
            let mut loss = |sign: f64| {
                let moved: Vec<f32> = weights
                    .iter()
                    .zip(&gradient)
                    .map(|(&w, &g)| (f64::from(w) + sign * epsilon * f64::from(g)) as f32)
                    .collect();
                d.backend.write_slot(slot, id, matrix, &moved).unwrap();
                let [y, ..] = l.step(&mut d, &plan, &x, &dy);
                y.iter().zip(&dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum::<f64>()
            };
            let slope = (loss(1.0) - loss(-1.0)) / (2.0 * epsilon * norm);
            d.backend.write_slot(slot, id, matrix, &weights).unwrap();
            let bound = DIFFERENCE.iter().find(|b| b.0 == d.precision).unwrap().1;
            let error = (slope / norm - 1.0).abs();
            println!(
                "{}, part {part}, {matrix:?}: {:.0} % of the bound {bound:.0e}",
                d.name,
                100.0 * error / bound
            );
            assert!(error <= bound, "{}, part {part}, {matrix:?}: slope {slope}, gradient {norm}", d.name);
        }
    }
}

#[test]
fn steps_may_end_between_any_two_sequences() {
    for mut d in devices() {
        let case = &CASES[0];
        let l = case.load(&mut d);
        let segments = Segments { name: "three", parts: vec![(2, 21), (0, 3), (1, 30), (4, 9)] };
        let plan = cut(plan_of(&segments, &l.slots), 10);
        let [x, dy] = inputs(&d, case, plan.rows());
        l.step(&mut d, &plan, &x, &dy);
        let together = l.gradients(&mut d);
        l.zero(&mut d);
        for s in &plan.sequences {
            let (rows, segment) = (s.start as usize..s.end as usize, &plan.segments);
            let slot = segment.iter().find(|g| g.start <= s.start && s.end <= g.end).unwrap().slot;
            let index = l.slots.iter().position(|&own| own == slot).unwrap();
            let alone = plan_of(&Segments { name: "alone", parts: vec![(index, rows.len())] }, &l.slots);
            let (x, dy) = (
                &x[rows.start * case.inputs..rows.end * case.inputs],
                &dy[rows.start * case.outputs..rows.end * case.outputs],
            );
            l.step(&mut d, &alone, x, dy);
        }
        assert_bits(&d.name.clone(), &l.gradients(&mut d), &together);
    }
}
