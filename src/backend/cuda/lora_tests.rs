//! The shrinks and the gradients of LoRA on the emulator, by the functions that the linear operations call:
//! against f64 oracles on the stored inputs, and bit for bit between schedules, batches and steps.
//!
//! Bounds are shares of the largest magnitude of the exact result: f32 sums of at most 1048 products, each of
//! a few roundings of 2^-24.

use super::emulator::Emulator;
use super::shrink::{Schedule, StepGroup, backward_as, forward_as};
use super::*;

const SHRINK: f64 = 4e-7;
const GRADIENT: f64 = 4e-7;
/// What untouched memory holds.
const SENTINEL: f32 = -7.0;

fn layout() -> AdapterLayout {
    let group = |inputs, outputs, parts: &[(usize, usize)]| GroupLayout {
        inputs,
        outputs,
        parts: parts
            .iter()
            .map(|&(start, outputs)| PartLayout { module: format!("{start}"), start, outputs })
            .collect(),
    };
    AdapterLayout {
        groups: vec![
            group(192, 320, &[(0, 192), (192, 64), (256, 64)]),
            group(40, 72, &[(8, 56)]),
            group(1048, 8, &[(0, 8)]),
            group(48, 53, &[(0, 21), (21, 29)]),
            group(8, 1048, &[(0, 1048)]),
        ],
    }
}

/// Ranks of the parts; 0 for none. Slot 1 is as most adapters are.
const RANKS: [[usize; 8]; 4] = [
    [16, 16, 16, 16, 16, 16, 16, 16],
    [5, 0, 33, 1, 40, 0, 9, 128],
    [128, 64, 100, 80, 16, 33, 0, 3],
    [0, 16, 0, 0, 0, 0, 0, 0],
];

/// Segments: a slot and the lengths of its sequences.
type Segments = Vec<(usize, Vec<usize>)>;

fn segment_table() -> Vec<(&'static str, Segments)> {
    vec![
        ("identical", vec![(1, vec![20, 33, 1])]),
        ("one each", (1..=4).map(|s| (s, vec![1])).collect()),
        ("mixed", vec![(0, vec![3]), (2, vec![9, 8]), (3, vec![16, 40]), (1, vec![2]), (4, vec![5])]),
        ("again", vec![(3, vec![7]), (0, vec![1]), (2, vec![1]), (3, vec![17, 31])]),
        ("base only", vec![(0, vec![5, 6])]),
        ("empty", vec![(1, vec![]), (2, vec![0, 5]), (3, vec![])]),
    ]
}

fn plan_of(segments: &Segments) -> BatchPlan {
    let mut plan = BatchPlan::default();
    for (slot, sequences) in segments {
        let first = plan.positions.len() as u32;
        for &rows in sequences {
            let start = plan.positions.len() as u32;
            plan.positions.extend(0..rows as u32);
            let end = start + rows as u32;
            plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
        }
        let end = plan.positions.len() as u32;
        plan.segments.push(Segment { slot: Slot(*slot as u32), start: first, end });
    }
    plan.tokens = vec![0; plan.positions.len()];
    plan
}

/// Numbers around 0 that bf16 holds.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64).map(|i| rounded((mix(i ^ (seed << 40)) >> 40) as f32 / 8_388_608.0 - 1.0)).collect()
}

fn rounded(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// A backend with slots, and what they hold: by slot and part.
struct Rig {
    c: CudaBackend,
    parts: Vec<Vec<Option<Pair>>>,
}

struct Pair {
    rank: usize,
    column: usize,
    scale: f32,
    a: Vec<f32>,
    b: Vec<f32>,
    gradient_a: Vec<f32>,
    gradient_b: Vec<f32>,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let layout = layout();
        let mut c = CudaBackend::new(Box::new(Emulator::new(seed)));
        c.adapter_layout(&layout).unwrap();
        let mut parts = vec![layout.parts().map(|_| None).collect()];
        for (i, ranks) in RANKS.iter().enumerate() {
            let scale = [2.0, 0.7, 0.25, 1.0][i];
            let spec = |&rank: &usize| (rank > 0).then_some(PartSpec { rank, scale });
            let slot =
                c.create_slot(&SlotSpec { parts: ranks.iter().map(spec).collect(), dropout: 0.0 }).unwrap();
            assert_eq!(slot.0 as usize, i + 1);
            c.attach_optimizer(slot).unwrap();
            let mut pairs: Vec<Option<Pair>> = Vec::new();
            for (id, _, group, part) in layout.parts() {
                let rank = ranks[id.0 as usize];
                if rank == 0 {
                    pairs.push(None);
                    continue;
                }
                let seed = 10 * (1 + i as u64 * 10 + u64::from(id.0));
                let pair = Pair {
                    rank,
                    column: c.slots.get(slot).unwrap().parts[id.0 as usize].column as usize,
                    scale,
                    a: numbers(rank * group.inputs, seed),
                    b: numbers(part.outputs * rank, seed + 1),
                    gradient_a: numbers(rank * group.inputs, seed + 2),
                    gradient_b: numbers(part.outputs * rank, seed + 3),
                };
                c.write_slot(slot, id, LoraMatrix::A, &pair.a).unwrap();
                c.write_slot(slot, id, LoraMatrix::B, &pair.b).unwrap();
                pairs.push(Some(pair));
            }
            parts.push(pairs);
        }
        let mut rig = Self { c, parts };
        rig.reset_gradients();
        rig
    }

    /// Gradients before the step: not zero.
    fn reset_gradients(&mut self) {
        for (slot, pairs) in self.parts.iter().enumerate() {
            for (id, pair) in pairs.iter().enumerate() {
                let Some(pair) = pair else { continue };
                let (slot, id, role) = (Slot(slot as u32), PartId(id as u32), SlotRole::Gradient);
                self.c.write_moment(slot, role, id, LoraMatrix::A, &pair.gradient_a).unwrap();
                self.c.write_moment(slot, role, id, LoraMatrix::B, &pair.gradient_b).unwrap();
            }
        }
    }

    /// The parts of a group that a slot has: index in the group's layout and numbers.
    fn pairs(&self, slot: usize, group: usize) -> Vec<(PartLayout, &Pair, PartId)> {
        let layout = layout();
        let first = layout.first_part(GroupId(group as u32)).0 as usize;
        let parts = layout.groups[group].parts.iter().cloned().enumerate();
        parts
            .filter_map(|(i, p)| {
                self.parts[slot][first + i].as_ref().map(|pair| (p, pair, PartId((first + i) as u32)))
            })
            .collect()
    }

    fn tensor(&mut self, values: &[f32], width: usize, element: Element) -> Tensor {
        let rows = values.len() / width;
        let t = self.c.tensor(TensorSpec { name: "test", rows: rows.max(1), width, element }).unwrap();
        self.c.upload_f32(t, values).unwrap();
        t
    }

    fn at(&self, t: Tensor) -> DevicePtr {
        self.c.tensor_buffer(t).unwrap().at
    }

    /// h of x, or dh of dy.
    fn shrink(
        &mut self,
        plan: &BatchPlan,
        group: usize,
        from: &[f32],
        back: bool,
        schedule: Schedule,
    ) -> Vec<f32> {
        let (id, rows, g) = (GroupId(group as u32), plan.rows(), &layout().groups[group]);
        let stride = stride(group);
        let x = self.tensor(from, if back { g.outputs } else { g.inputs }, Element::Activation);
        let h = self.tensor(&vec![SENTINEL; rows * stride], stride, Element::F32);
        self.c.begin(Arc::new(plan.clone())).unwrap();
        let work = StepGroup::new(&self.c, "test", id, stride).unwrap();
        let (x_at, h_at) = (self.at(x), self.at(h));
        let run = if back { backward_as } else { forward_as };
        run(&mut self.c, &work, x_at, h_at, stride, schedule).unwrap();
        let got = self.c.download_f32(h, rows).unwrap();
        self.c.free(x);
        self.c.free(h);
        got
    }

    /// Adds to the gradients.
    fn gradient(&mut self, plan: &BatchPlan, group: usize, inputs: &Inputs) {
        let (g, stride) = (&layout().groups[group], stride(group));
        let x = self.tensor(&inputs.x, g.inputs, Element::Activation);
        let dy = self.tensor(&inputs.dy, g.outputs, Element::Activation);
        let h = self.tensor(&inputs.h, stride, Element::F32);
        let dh = self.tensor(&inputs.dh, stride, Element::F32);
        self.c.begin(Arc::new(plan.clone())).unwrap();
        let [x_at, dy_at, h_at, dh_at] = [x, dy, h, dh].map(|t| self.at(t));
        lora_gradient::run(&mut self.c, GroupId(group as u32), x_at, dy_at, h_at, dh_at, stride).unwrap();
        for t in [x, dy, h, dh] {
            self.c.free(t);
        }
    }

    fn read(&mut self, slot: usize, id: PartId) -> [Vec<f32>; 2] {
        [LoraMatrix::A, LoraMatrix::B]
            .map(|m| self.c.read_slot(Slot(slot as u32), SlotRole::Gradient, id, m).unwrap())
    }

    /// All gradients of a slot in a group.
    fn gradients(&mut self, slot: usize, group: usize) -> Vec<f32> {
        let ids: Vec<PartId> = self.pairs(slot, group).into_iter().map(|p| p.2).collect();
        ids.into_iter().flat_map(|id| self.read(slot, id).concat()).collect()
    }
}

/// Wider than any slot needs.
fn stride(group: usize) -> usize {
    [320, 96, 48, 64, 144][group]
}

struct Inputs {
    x: Vec<f32>,
    dy: Vec<f32>,
    h: Vec<f32>,
    dh: Vec<f32>,
}

impl Inputs {
    fn new(plan: &BatchPlan, group: usize) -> Self {
        let rows = plan.rows();
        let (g, seed) = (&layout().groups[group], 1000 + group as u64 * 10);
        // Not numbers that bf16 holds.
        let f32s = |n, seed| numbers(n, seed).iter().map(|v| v * 1.234_567).collect();
        let mut inputs = Self {
            x: numbers(rows * g.inputs, seed),
            dy: numbers(rows * g.outputs, seed + 1),
            h: f32s(rows * stride(group), seed + 2),
            dh: f32s(rows * stride(group), seed + 3),
        };
        // Padded ranks are zero, as the shrinks make them.
        let layout = layout();
        let first = layout.first_part(GroupId(group as u32)).0 as usize;
        for segment in plan.segments.iter().filter(|s| s.slot != Slot::BASE) {
            let ranks = &RANKS[segment.slot.0 as usize - 1][first..first + layout.groups[group].parts.len()];
            for row in segment.start as usize..segment.end as usize {
                let mut column = row * stride(group);
                for &rank in ranks {
                    let end = column + padded_rank(rank);
                    inputs.h[column + rank..end].fill(0.0);
                    inputs.dh[column + rank..end].fill(0.0);
                    column = end;
                }
            }
        }
        inputs
    }

    /// The rows of another batch, in its order.
    fn take(&self, rows: &[usize], group: usize) -> Self {
        let g = &layout().groups[group];
        let pick = |from: &[f32], width: usize| -> Vec<f32> {
            rows.iter().flat_map(|&r| &from[r * width..][..width]).copied().collect()
        };
        Self {
            x: pick(&self.x, g.inputs),
            dy: pick(&self.dy, g.outputs),
            h: pick(&self.h, stride(group)),
            dh: pick(&self.dh, stride(group)),
        }
    }
}

fn assert_close(what: &str, got: &[f32], exact: &[f64], bound: f64) {
    assert_eq!(got.len(), exact.len(), "{what}");
    let scale = exact.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    let mut worst = 0f64;
    for (i, (&g, &e)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(g) - e).abs() / scale;
        assert!(error <= bound, "{what}: element {i} is {g}, expected {e}");
        worst = worst.max(error);
    }
    println!("{what}: {:.0} % of the bound {bound:.0e}", 100.0 * worst / bound);
}

fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(g.to_bits() == e.to_bits(), "{what}: element {i} is {g}, expected {e}");
    }
}

/// h or dh as it should be; columns that stay as they are hold the sentinel.
fn exact_shrink(rig: &Rig, plan: &BatchPlan, group: usize, from: &[f32], back: bool) -> Vec<f64> {
    let (g, stride) = (&layout().groups[group], stride(group));
    let mut out = vec![f64::from(SENTINEL); plan.rows() * stride];
    for s in &plan.segments {
        for (part, pair, _) in rig.pairs(s.slot.0 as usize, group) {
            for r in s.start as usize..s.end as usize {
                let to = &mut out[r * stride + pair.column..][..padded_rank(pair.rank)];
                to.fill(0.0);
                for (i, to) in to[..pair.rank].iter_mut().enumerate() {
                    *to = if back {
                        let dy = &from[r * g.outputs + part.start..][..part.outputs];
                        let b = pair.b[i..].iter().step_by(pair.rank);
                        let sum: f64 = dy.iter().zip(b).map(|(&d, &b)| f64::from(d) * f64::from(b)).sum();
                        sum * f64::from(pair.scale)
                    } else {
                        let x = &from[r * g.inputs..][..g.inputs];
                        let a = &pair.a[i * g.inputs..][..g.inputs];
                        x.iter().zip(a).map(|(&x, &a)| f64::from(x) * f64::from(a)).sum()
                    };
                }
            }
        }
    }
    out
}

#[test]
fn shrinks_are_the_products_whatever_the_schedule() {
    for seed in [1, 2] {
        let mut rig = Rig::new(seed);
        for group in 0..layout().groups.len() {
            for (name, segments) in segment_table() {
                let plan = plan_of(&segments);
                let inputs = Inputs::new(&plan, group);
                for (back, from) in [(false, &inputs.x), (true, &inputs.dy)] {
                    let what = format!("group {group}, {name}, backward {back}");
                    let exact = exact_shrink(&rig, &plan, group, from, back);
                    let whole = rig.shrink(&plan, group, from, back, Schedule::Whole);
                    assert_close(&what, &whole, &exact, SHRINK);
                    let split = rig.shrink(&plan, group, from, back, Schedule::Split);
                    assert_bits(&what, &split, &whole);
                }
            }
        }
    }
}

#[test]
fn gradients_are_sums_over_the_sequences_of_a_slot() {
    for seed in [1, 2] {
        let mut rig = Rig::new(seed);
        for group in 0..layout().groups.len() {
            let (g, stride) = (&layout().groups[group], stride(group));
            for (name, segments) in segment_table() {
                let plan = plan_of(&segments);
                let inputs = Inputs::new(&plan, group);
                rig.reset_gradients();
                rig.gradient(&plan, group, &inputs);
                for slot in 1..rig.parts.len() {
                    let mut exact = Vec::new();
                    for (part, pair, id) in rig.pairs(slot, group) {
                        let mut a: Vec<f64> = pair.gradient_a.iter().map(|&v| f64::from(v)).collect();
                        let mut b: Vec<f64> = pair.gradient_b.iter().map(|&v| f64::from(v)).collect();
                        let segments = plan.segments.iter().filter(|s| s.slot.0 as usize == slot);
                        for r in segments.flat_map(|s| s.start as usize..s.end as usize) {
                            let x = &inputs.x[r * g.inputs..][..g.inputs];
                            let dy = &inputs.dy[r * g.outputs + part.start..][..part.outputs];
                            for i in 0..pair.rank {
                                let at = r * stride + pair.column + i;
                                let dh = f64::from(rounded(inputs.dh[at]));
                                let h = f64::from(rounded(pair.scale * inputs.h[at]));
                                for (k, &x) in x.iter().enumerate() {
                                    a[i * g.inputs + k] += dh * f64::from(x);
                                }
                                for (n, &dy) in dy.iter().enumerate() {
                                    b[n * pair.rank + i] += h * f64::from(dy);
                                }
                            }
                        }
                        exact.push((id, a, b));
                    }
                    for (id, a, b) in exact {
                        let [got_a, got_b] = rig.read(slot, id);
                        let what = format!("group {group}, {name}, slot {slot}, part {}", id.0);
                        assert_close(&format!("{what}, dA"), &got_a, &a, GRADIENT);
                        assert_close(&format!("{what}, dB"), &got_b, &b, GRADIENT);
                    }
                }
            }
        }
        padding_is_zero(&mut rig);
    }
}

/// The padded ranks of all gradients are zero after whatever has been added.
fn padding_is_zero(rig: &mut Rig) {
    let layout = layout();
    for slot in 1..rig.parts.len() {
        // The norm of the gradient is over the padding too.
        let out = rig.tensor(&[0.0], 1, Element::F32);
        rig.c.enqueue(Op::GradNorms(GradNorms { slots: vec![Slot(slot as u32)], out })).unwrap();
        let got = f64::from(rig.c.download_f32(out, 1).unwrap()[0]);
        let mut squares = 0.0;
        for group in 0..layout.groups.len() {
            squares += rig.gradients(slot, group).iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
        }
        assert!((got / squares.sqrt() - 1.0).abs() < 1e-7, "slot {slot}: {got} {}", squares.sqrt());
    }
}

/// The rows of a slot in a plan.
fn rows_of(plan: &BatchPlan, slot: usize) -> Vec<usize> {
    let segments = plan.segments.iter().filter(|s| s.slot.0 as usize == slot);
    segments.flat_map(|s| s.start as usize..s.end as usize).collect()
}

#[test]
fn a_slot_alone_and_in_company_has_the_same_bits() {
    let mut rig = Rig::new(3);
    for group in 0..layout().groups.len() {
        for name in ["mixed", "again"] {
            let table = segment_table();
            let segments = &table.iter().find(|s| s.0 == name).unwrap().1;
            let plan = plan_of(segments);
            let inputs = Inputs::new(&plan, group);
            let h = rig.shrink(&plan, group, &inputs.x, false, Schedule::Whole);
            let dh = rig.shrink(&plan, group, &inputs.dy, true, Schedule::Whole);
            rig.reset_gradients();
            rig.gradient(&plan, group, &inputs);
            let together: Vec<Vec<f32>> = (0..5).map(|slot| rig.gradients(slot, group)).collect();
            for slot in [1, 2, 3] {
                let rows = rows_of(&plan, slot);
                if rows.is_empty() {
                    continue;
                }
                let own = inputs.take(&rows, group);
                let mine = segments.iter().filter(|s| s.0 == slot);
                let sequences: Vec<usize> = mine.flat_map(|s| s.1.clone()).collect();
                let what = format!("group {group}, {name}, slot {slot}");
                // Alone, as one segment.
                let alone = plan_of(&vec![(slot, sequences.clone())]);
                let stride = stride(group);
                for (back, from, all) in [(false, &own.x, &h), (true, &own.dy, &dh)] {
                    let got = rig.shrink(&alone, group, from, back, Schedule::Split);
                    let expected: Vec<f32> =
                        rows.iter().flat_map(|&r| &all[r * stride..][..stride]).copied().collect();
                    assert_bits(&what, &got, &expected);
                }
                rig.reset_gradients();
                rig.gradient(&alone, group, &own);
                assert_bits(&what, &rig.gradients(slot, group), &together[slot]);
                // A step for each sequence.
                rig.reset_gradients();
                let mut first = 0;
                for rows in sequences {
                    let range: Vec<usize> = (first..first + rows).collect();
                    rig.gradient(&plan_of(&vec![(slot, vec![rows])]), group, &own.take(&range, group));
                    first += rows;
                }
                assert_bits(&what, &rig.gradients(slot, group), &together[slot]);
            }
        }
    }
}

#[test]
fn a_slot_of_nan_changes_no_other() {
    let table = segment_table();
    let plan = plan_of(&table.iter().find(|s| s.0 == "mixed").unwrap().1);
    for group in 0..layout().groups.len() {
        let (g, stride) = (&layout().groups[group], stride(group));
        let mut inputs = Inputs::new(&plan, group);
        let mut rig = Rig::new(4);
        let mut results = Vec::new();
        for poisoned in [false, true] {
            if poisoned {
                for r in rows_of(&plan, 3) {
                    inputs.x[r * g.inputs..][..g.inputs].fill(f32::NAN);
                    inputs.dy[r * g.outputs..][..g.outputs].fill(f32::NAN);
                    inputs.h[r * stride..][..stride].fill(f32::NAN);
                    inputs.dh[r * stride..][..stride].fill(f32::NAN);
                }
                let ids: Vec<(PartId, usize, usize)> =
                    rig.pairs(3, group).iter().map(|(_, p, id)| (*id, p.a.len(), p.b.len())).collect();
                for (id, a, b) in ids {
                    rig.c.write_slot(Slot(3), id, LoraMatrix::A, &vec![f32::NAN; a]).unwrap();
                    rig.c.write_slot(Slot(3), id, LoraMatrix::B, &vec![f32::NAN; b]).unwrap();
                }
            }
            rig.reset_gradients();
            rig.gradient(&plan, group, &inputs);
            let mut result: Vec<f32> = [1, 2, 4].iter().flat_map(|&s| rig.gradients(s, group)).collect();
            let lost = rig.gradients(3, group);
            assert_eq!(lost.iter().any(|g| g.is_nan()), poisoned && !lost.is_empty());
            for (back, from) in [(false, &inputs.x), (true, &inputs.dy)] {
                for schedule in [Schedule::Whole, Schedule::Split] {
                    let h = rig.shrink(&plan, group, from, back, schedule);
                    for slot in [0, 1, 2, 4] {
                        let rows = rows_of(&plan, slot);
                        result.extend(rows.iter().flat_map(|&r| &h[r * stride..][..stride]));
                    }
                }
            }
            results.push(result);
        }
        assert_bits(&format!("group {group}"), &results[1], &results[0]);
    }
}

#[test]
fn a_part_of_nan_changes_no_other_part() {
    // B of a part lies before A of the next, and its outputs are no whole k-steps.
    for group in [0, 3] {
        let mut rig = Rig::new(6);
        let plan = plan_of(&vec![(1, vec![9]), (2, vec![3])]);
        let mut inputs = Inputs::new(&plan, group);
        let (g, stride) = (&layout().groups[group], stride(group));
        let (parts, first) = (g.parts.len(), layout().first_part(GroupId(group as u32)).0 as usize);
        let (last, id) = (g.parts.last().unwrap(), PartId((first + parts - 1) as u32));
        let mut results = Vec::new();
        for poisoned in [false, true] {
            if poisoned {
                for matrix in [LoraMatrix::A, LoraMatrix::B] {
                    let len = 16 * if matrix == LoraMatrix::A { g.inputs } else { last.outputs };
                    rig.c.write_slot(Slot(1), id, matrix, &vec![f32::NAN; len]).unwrap();
                }
                for row in inputs.dy.chunks_exact_mut(g.outputs) {
                    row[last.start..][..last.outputs].fill(f32::NAN);
                }
                // Slot 1 has rank 16 in every part.
                let column = 16 * (parts - 1);
                for row in 0..9 {
                    inputs.h[row * stride + column..][..16].fill(f32::NAN);
                    inputs.dh[row * stride + column..][..16].fill(f32::NAN);
                }
            }
            rig.reset_gradients();
            rig.gradient(&plan, group, &inputs);
            let mut result: Vec<f32> =
                (first..first + parts - 1).flat_map(|p| rig.read(1, PartId(p as u32)).concat()).collect();
            assert_eq!(rig.read(1, id).concat().iter().any(|v| v.is_nan()), poisoned);
            for (back, from) in [(false, &inputs.x), (true, &inputs.dy)] {
                for schedule in [Schedule::Whole, Schedule::Split] {
                    let h = rig.shrink(&plan, group, from, back, schedule);
                    let rows = h[..9 * stride].chunks_exact(stride);
                    result.extend(rows.flat_map(|row| &row[..16 * (parts - 1)]));
                }
            }
            results.push(result);
        }
        assert_bits(&format!("group {group}"), &results[1], &results[0]);
    }
}

#[test]
fn an_optimizer_step_changes_what_kernels_read() {
    let mut rig = Rig::new(5);
    let slot = Slot(2);
    let (id, pair) = (PartId(3), rig.parts[2][3].as_ref().unwrap());
    assert_eq!((pair.rank, pair.scale), (1, 0.7));
    let norms = rig.tensor(&[1.0], 1, Element::F32);
    let step = AdamWStep {
        slot,
        step: 1,
        learning_rate: 0.013,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
    };
    rig.c.enqueue(Op::AdamW(AdamW { steps: vec![step], norms })).unwrap();
    let masters =
        [LoraMatrix::A, LoraMatrix::B].map(|m| rig.c.read_slot(slot, SlotRole::Weights, id, m).unwrap());
    // One row for each input or output: the shrinks of unit vectors are the columns of A and s times the rows of B.
    let (g, stride) = (&layout().groups[1], stride(1));
    let unit = |n: usize| (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let a = rig.shrink(&plan_of(&vec![(2, vec![g.inputs])]), 1, &unit(g.inputs), false, Schedule::Whole);
    let b = rig.shrink(&plan_of(&vec![(2, vec![g.outputs])]), 1, &unit(g.outputs), true, Schedule::Whole);
    for (k, row) in a.chunks_exact(stride).enumerate() {
        assert_eq!(row[0].to_bits(), rounded(masters[0][k]).to_bits());
        assert_ne!(rounded(masters[0][k]), masters[0][k], "the master is finer");
        assert!(row[1..16].iter().all(|&v| v == 0.0), "the padding moved: {row:?}");
    }
    for (n, row) in b.chunks_exact(stride).skip(8).take(56).enumerate() {
        assert_eq!(row[0].to_bits(), (0.7 * rounded(masters[1][n])).to_bits());
        assert!(row[1..16].iter().all(|&v| v == 0.0), "the padding moved: {row:?}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let mut rig = Rig::new(1);
    let plan = plan_of(&vec![(1, vec![4])]);
    rig.c.begin(Arc::new(plan)).unwrap();
    let fails = |result: Result<()>, part: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let nowhere = DevicePtr::NULL;
    fails(shrink::forward(&mut rig.c, GroupId(0), nowhere, nowhere, 32), "needs 48");
    fails(shrink::backward(&mut rig.c, GroupId(9), nowhere, nowhere, 48), "group 9");
    rig.c.detach_optimizer(Slot(1));
    let run = lora_gradient::run(&mut rig.c, GroupId(0), nowhere, nowhere, nowhere, nowhere, 48);
    fails(run, "slot 1 has no optimizer state");
}
