//! The linear group: forward and dx, with LoRA terms as large as the base's. (Its shrinks and gradients: `lora.rs`.)
//!
//! The oracle takes h and dh as the device left them in memory (f32, checked by their own tests) and applies the one rounding of s·h that the operation is
//! defined with, so what remains is the rounding of the result and the order of an f32 sum.

use colloquy::backend::*;

use super::support::*;

/// Rounding to bf16: half a unit in the last place of 8 bits, relative to the element.
const ROUNDING: f64 = 1.0 / 256.0;
/// Sums of up to 1536 products in f32, of size 1 each, relative to the largest result, which is
/// about their root. A tensor core that truncates loses less than 2^-23 of a sum at the end of each
/// block of 8 products, and less than 2^-24 by aligning each of its 9 terms: 1.3e-4 over the 196
/// blocks of the deepest sum here, if every loss were the largest possible, of one sign, and of a
/// sum as large as the largest result. These inputs use 12 % of the bound on an A100's tensor core,
/// 3 % on an H100's, and less than 1 % on one that rounds.
const F32_SUM: f64 = 1e-5;

/// A linear group, its adapters, and what the device holds of them.
struct Case {
    inputs: usize,
    outputs: usize,
    /// Start and outputs of each part.
    parts: Vec<(usize, usize)>,
    /// By slot from 1 on: rank and scale of each part.
    slots: Vec<Vec<Option<(usize, f32)>>>,
}

fn cases() -> Vec<Case> {
    let one = |ranks: &[usize]| {
        ranks.iter().enumerate().map(|(i, &r)| vec![Some((r, 0.5 + i as f32))]).collect::<Vec<_>>()
    };
    vec![
        Case { inputs: 64, outputs: 192, parts: vec![(0, 192)], slots: one(&[16, 8, 33, 128, 1]) },
        // q|k|v of unequal widths that end inside a tile; absent parts; a slot with none.
        Case {
            inputs: 72,
            outputs: 112,
            parts: vec![(0, 64), (64, 24), (88, 24)],
            slots: vec![
                vec![Some((4, 2.0)), Some((16, 0.5)), Some((17, 1.0))],
                vec![Some((33, 1.0)), None, Some((1, 3.0))],
                vec![None, None, None],
                vec![None, Some((128, 0.25)), None],
            ],
        },
        // Parts that begin inside a fragment, and outputs that none covers.
        Case {
            inputs: 72,
            outputs: 40,
            parts: vec![(3, 14), (25, 10)],
            slots: vec![vec![Some((20, 1.0)), Some((5, -1.5))], vec![None, Some((64, 1.0))]],
        },
        Case {
            inputs: 192,
            outputs: 1536,
            parts: vec![(0, 768), (768, 768)],
            slots: vec![vec![Some((16, 1.0)); 2]; 3],
        },
        Case { inputs: 576, outputs: 576, parts: vec![(0, 576)], slots: one(&[16, 64, 5]) },
    ]
}

/// A and B.
type Pair = (Vec<f32>, Vec<f32>);

/// A case on a device.
struct Loaded {
    linear: Linear,
    group: GroupId,
    w: Vec<f32>,
    bias: Vec<f32>,
    /// Slot 0 first.
    slots: Vec<Slot>,
    /// By slot index - 1, by part.
    pairs: Vec<Vec<Option<Pair>>>,
    width: usize,
}

impl Case {
    /// `scale` of part `part` of slot index `slot`, its rank, and the first column of its h.
    fn part(&self, slot: usize, part: usize) -> Option<(usize, f32, usize)> {
        let parts = &self.slots[slot - 1];
        let column = parts[..part].iter().flatten().map(|p| padded_rank(p.0)).sum();
        parts[part].map(|(rank, scale)| (rank, scale, column))
    }

    fn load(&self, d: &mut Device, random: &mut Random) -> Loaded {
        // A group before this one: ids are not indices.
        let other = GroupLayout {
            inputs: 8,
            outputs: 8,
            parts: vec![PartLayout { module: "other".into(), start: 0, outputs: 8 }],
        };
        let parts = self.parts.iter().enumerate();
        let group = GroupLayout {
            inputs: self.inputs,
            outputs: self.outputs,
            parts: parts
                .map(|(i, &(start, outputs))| PartLayout { module: format!("part {i}"), start, outputs })
                .collect(),
        };
        d.backend.adapter_layout(&AdapterLayout { groups: vec![other, group] }).unwrap();
        let w = random.values(self.outputs * self.inputs, 1.0);
        let bias = random.values(self.outputs, 2.0);
        let linear = LinearSpec {
            parts: &[WeightView::from_f32(&w, self.outputs, self.inputs)],
            bias: Some(&bias),
            backward: true,
        };
        let linear = d.backend.load_linear(linear).unwrap();
        let mut slots = vec![Slot::BASE];
        let mut pairs = Vec::new();
        let mut width = 0;
        for parts in &self.slots {
            let spec = parts.iter().map(|p| p.map(|(rank, scale)| PartSpec { rank, scale }));
            let spec = SlotSpec { parts: std::iter::once(None).chain(spec).collect(), dropout: 0.0 };
            let slot = d.backend.create_slot(&spec).unwrap();
            d.backend.attach_optimizer(slot).unwrap();
            slots.push(slot);
            width = width.max(parts.iter().flatten().map(|p| padded_rank(p.0)).sum());
            let mut own = Vec::new();
            for (i, part) in parts.iter().enumerate() {
                own.push(part.map(|(rank, _)| {
                    let outputs = self.parts[i].1;
                    // The LoRA term is about three times the base's, forward and backward.
                    let size = 3.0 / (rank as f64).sqrt();
                    let a = random.values(rank * self.inputs, 1.0);
                    let b = random.values(outputs * rank, size);
                    let part = PartId(1 + i as u32);
                    d.backend.write_slot(slot, part, LoraMatrix::A, &a).unwrap();
                    d.backend.write_slot(slot, part, LoraMatrix::B, &b).unwrap();
                    (d.stored(&a), d.stored(&b))
                }));
            }
            pairs.push(own);
        }
        Loaded { linear, group: GroupId(1), w: d.stored(&w), bias, slots, pairs, width: width.max(16) + 4 }
    }

    /// `x Wᵀ + b` or `dy W`, and the LoRA term from the device's h or dh.
    fn exact(
        &self,
        d: &Device,
        l: &Loaded,
        plan: &BatchPlan,
        x: &[f32],
        h: &[f32],
        transposed: bool,
    ) -> [Vec<f64>; 2] {
        let (depth, width) =
            if transposed { (self.outputs, self.inputs) } else { (self.inputs, self.outputs) };
        let rows = plan.rows();
        let (mut base, mut lora) = (vec![0f64; rows * width], vec![0f64; rows * width]);
        for row in 0..rows {
            for k in 0..depth {
                let x = f64::from(x[row * depth + k]);
                for m in 0..width {
                    let w = if transposed { l.w[k * width + m] } else { l.w[m * depth + k] };
                    base[row * width + m] += x * f64::from(w);
                }
            }
            if !transposed {
                base[row * width..][..width].iter_mut().zip(&l.bias).for_each(|(y, &b)| *y += f64::from(b));
            }
        }
        for segment in &plan.segments {
            let slot = l.slots.iter().position(|&s| s == segment.slot).unwrap();
            for part in (0..self.parts.len()).filter(|_| slot > 0) {
                let Some((rank, scale, column)) = self.part(slot, part) else { continue };
                let (a, b) = l.pairs[slot - 1][part].as_ref().unwrap();
                let (start, outputs) = self.parts[part];
                for row in segment.start as usize..segment.end as usize {
                    let factor = if transposed { 1.0 } else { scale };
                    let scaled: Vec<f32> =
                        h[row * l.width + column..][..rank].iter().map(|h| h * factor).collect();
                    for (i, &v) in d.stored(&scaled).iter().enumerate() {
                        let v = f64::from(v);
                        if transposed {
                            for m in 0..width {
                                lora[row * width + m] += v * f64::from(a[i * width + m]);
                            }
                        } else {
                            for m in 0..outputs {
                                lora[row * width + start + m] += v * f64::from(b[m * rank + i]);
                            }
                        }
                    }
                }
            }
        }
        [base, lora]
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Residual {
    None,
    Separate,
    InPlace,
}

/// What a step left.
struct Step {
    y: Vec<f32>,
    h: Vec<f32>,
    dx: Vec<f32>,
    dh: Vec<f32>,
}

/// Forward and backward of one plan.
#[expect(clippy::too_many_arguments, reason = "the operands of one operation, as its formula has them")]
fn step(
    d: &mut Device,
    case: &Case,
    l: &Loaded,
    plan: &BatchPlan,
    x: &[f32],
    dy: &[f32],
    residual: Option<&[f32]>,
    how: Residual,
) -> Step {
    let rows = plan.rows();
    let x = d.upload(x, case.inputs);
    let dy = d.upload(dy, case.outputs);
    let shrink = d.tensor(rows, l.width, Element::F32);
    let dshrink = d.tensor(rows, l.width, Element::F32);
    let dx = d.tensor(rows, case.inputs, Element::Activation);
    let residual = residual.map(|r| d.upload(r, case.outputs));
    let y = match (how, residual) {
        (Residual::InPlace, Some(r)) => r,
        _ => d.tensor(rows + 1, case.outputs, Element::Activation),
    };
    let (linear, group, shrink_of) = (l.linear, Some(l.group), Some(shrink));
    d.run(
        plan,
        [
            Op::LinearForward(LinearForward {
                linear,
                group,
                x,
                lora_x: None,
                shrink: shrink_of,
                residual,
                y,
            }),
            Op::LinearBackward(LinearBackward {
                linear,
                group,
                x,
                lora_x: None,
                shrink: shrink_of,
                dy,
                dshrink: Some(dshrink),
                dx: Some(dx),
            }),
        ],
    );
    let step = Step {
        y: d.download(y, rows),
        h: d.download(shrink, rows),
        dx: d.download(dx, rows),
        dh: d.download(dshrink, rows),
    };
    for t in [x, dy, shrink, dshrink, dx, y].into_iter().chain(residual.filter(|&r| r != y)) {
        d.backend.free(t);
    }
    step
}

/// Half a unit in the last place of a bf16 of this size.
fn half_unit(x: f64) -> f64 {
    ROUNDING * x.abs().max(1e-30).log2().floor().exp2()
}

/// Element by element: the rounding of the result, and the error of the sum that this cannot
/// explain.
fn assert_rounded(what: &str, d: &Device, got: &[f32], exact: &[f64]) {
    assert_eq!(got.len(), exact.len(), "{what}: lengths");
    let scale = exact.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    let mut worst = 0f64;
    for (i, (&g, &e)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(g) - e).abs();
        let rounding =
            if d.precision == Precision::Bf16 { half_unit(f64::from(g).abs().max(e.abs())) } else { 0.0 };
        let sum = (error - rounding).max(0.0) / scale;
        assert!(
            sum <= F32_SUM,
            "{what}: element {i} is {g}, expected {e}: {error:.2e}, {rounding:.0e} of it rounding"
        );
        worst = worst.max(sum);
    }
    println!("{what}: {:.0} % of the bound {F32_SUM:.0e}", 100.0 * worst / F32_SUM);
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0f64, |m, x| m.max(x.abs()))
}

#[test]
fn forward_and_dx_match_the_oracle() {
    for mut d in devices() {
        for (number, case) in cases().iter().enumerate() {
            let mut random = Random(number as u64);
            let l = case.load(&mut d, &mut random);
            let big = case.inputs * case.outputs > 50_000;
            let rows: &[usize] = if big { &[19] } else { &[19, 100] };
            for (i, layout) in rows.iter().flat_map(|&r| segment_layouts(r, case.slots.len())).enumerate() {
                if big && !["zipf", "skewed", "odd"].contains(&layout.name) {
                    continue;
                }
                let plan = plan_of(&layout, &l.slots);
                let rows = plan.rows();
                let x = d.stored(&random.values(rows * case.inputs, 1.0));
                let dy = d.stored(&random.values(rows * case.outputs, 1.0));
                let how = [Residual::None, Residual::Separate, Residual::InPlace][i % 3];
                let added = d.stored(&random.values(rows * case.outputs, 10.0));
                let residual = (how != Residual::None).then_some(&added[..]);
                let got = step(&mut d, case, &l, &plan, &x, &dy, residual, how);
                let name = format!("{}, {number}, {rows} rows {}", d.name, layout.name);

                let [mut base, lora] = case.exact(&d, &l, &plan, &x, &got.h, false);
                let product = largest(&base);
                if let Some(r) = residual {
                    base.iter_mut().zip(r).for_each(|(b, &r)| *b += f64::from(r));
                }
                assert_rounded(&format!("{name}: y"), &d, &got.y, &sum(&base, &lora));
                let [dx_base, dx_lora] = case.exact(&d, &l, &plan, &dy, &got.dh, true);
                assert_rounded(&format!("{name}: dx"), &d, &got.dx, &sum(&dx_base, &dx_lora));
                if plan.segments.iter().any(|s| s.slot == l.slots[1] && s.start < s.end) {
                    assert!(
                        largest(&lora) > product && largest(&dx_lora) > largest(&dx_base),
                        "{name}: LoRA is small"
                    );
                    // A part of the base's size would hide in y, not here: its bound is a share of the LoRA term.
                    let bound = 2.0 * ROUNDING * (1.0 + largest(&base) / largest(&lora));
                    let minus = |got: &[f32], base: &[f64]| -> Vec<f32> {
                        got.iter().zip(base).map(|(&g, b)| (f64::from(g) - b) as f32).collect()
                    };
                    assert_close(&format!("{name}: y - base"), &minus(&got.y, &base), &lora, bound);
                    let bound = 2.0 * ROUNDING * (1.0 + largest(&dx_base) / largest(&dx_lora));
                    assert_close(&format!("{name}: dx - base"), &minus(&got.dx, &dx_base), &dx_lora, bound);
                }
            }
            d.backend = fresh(&d.name);
        }
    }
}

/// A layout of adapters is fixed once a backend, so each case needs its own.
fn fresh(name: &str) -> Box<dyn Backend> {
    devices().into_iter().find(|d| d.name == name).unwrap().backend
}

/// The segments of a plan, each as a plan of its own, with the rows it had.
fn alone(plan: &BatchPlan) -> Vec<(BatchPlan, std::ops::Range<usize>)> {
    plan.segments
        .iter()
        .filter(|s| s.start < s.end)
        .map(|s| {
            let rows = s.start as usize..s.end as usize;
            let only = Segments { name: "alone", parts: vec![(0, rows.len())] };
            (plan_of(&only, &[s.slot]), rows)
        })
        .collect()
}

/// Alone every segment runs in the configuration for few rows, together in that for many, at other places of the tile: the same bits.
#[test]
fn a_segment_alone_and_in_company_is_the_same() {
    for mut d in devices() {
        for (number, case) in cases().iter().enumerate() {
            let mut random = Random(100 + number as u64);
            let l = case.load(&mut d, &mut random);
            let slots = case.slots.len();
            let rows = if case.outputs > 576 { 40 } else { 140 };
            for layout in segment_layouts(rows, slots) {
                if !["zipf", "one each", "odd", "skewed"].contains(&layout.name)
                    || (case.inputs > 192 && layout.name != "zipf")
                    || (case.outputs > 576 && layout.name != "odd")
                {
                    continue;
                }
                let plan = plan_of(&layout, &l.slots);
                let rows = plan.rows();
                let x = random.values(rows * case.inputs, 1.0);
                let dy = random.values(rows * case.outputs, 1.0);
                let r = random.values(rows * case.outputs, 1.0);
                let all = step(&mut d, case, &l, &plan, &x, &dy, Some(&r), Residual::Separate);
                for (one, rows) in alone(&plan) {
                    let (k, n) = (case.inputs, case.outputs);
                    let of =
                        |values: &[f32], width: usize| values[rows.start * width..rows.end * width].to_vec();
                    let got = step(
                        &mut d,
                        case,
                        &l,
                        &one,
                        &of(&x, k),
                        &of(&dy, n),
                        Some(&of(&r, n)),
                        Residual::Separate,
                    );
                    let name = format!("{}, {number}, {} rows {rows:?}", d.name, layout.name);
                    assert_bits(&format!("{name}: y"), &got.y, &of(&all.y, n));
                    assert_bits(&format!("{name}: dx"), &got.dx, &of(&all.dx, k));
                }
            }
            d.backend = fresh(&d.name);
        }
    }
}

/// One row, in batches of all sizes: every configuration of the kernel gives its bits, with and without an adapter.
#[test]
fn every_configuration_gives_the_same_bits() {
    for mut d in devices() {
        let case = Case {
            inputs: 200,
            outputs: 456,
            parts: vec![(8, 400)],
            slots: vec![vec![Some((24, 1.0))], vec![Some((16, 1.0))]],
        };
        let mut random = Random(7);
        let l = case.load(&mut d, &mut random);
        let (x, dy) = (random.values(200, 1.0), random.values(456, 1.0));
        let mut first: Option<Step> = None;
        for (rows, slot) in [(1, 1), (9, 1), (40, 1), (70, 1), (150, 1)] {
            let layout = Segments { name: "last", parts: vec![(2, rows - 1), (slot, 1)] };
            let plan = plan_of(&layout, &l.slots);
            let many = |row: &[f32], random: &mut Random| {
                let mut all = random.values((rows - 1) * row.len(), 1.0);
                all.extend_from_slice(row);
                all
            };
            let (x, dy) = (many(&x, &mut random), many(&dy, &mut random));
            let got = step(&mut d, &case, &l, &plan, &x, &dy, None, Residual::None);
            let last = |values: &[f32], width: usize| values[(rows - 1) * width..].to_vec();
            let got = Step { y: last(&got.y, 456), h: vec![], dx: last(&got.dx, 200), dh: vec![] };
            let name = format!("{}, {rows} rows", d.name);
            if let Some(first) = &first {
                assert_bits(&format!("{name}: y"), &got.y, &first.y);
                assert_bits(&format!("{name}: dx"), &got.dx, &first.dx);
            } else {
                first = Some(got);
            }
        }
    }
}

/// A slot that is all NaN and a row that is all NaN share tiles with others: those keep their bits. Rows of the base, and of an adapter whose B is
/// zero, are the base model's.
#[test]
#[expect(clippy::too_many_lines, reason = "one batch, looked at from many sides")]
fn nan_stays_where_it_is_and_no_adapter_is_the_base() {
    for mut d in devices() {
        let case = Case {
            inputs: 72,
            outputs: 112,
            parts: vec![(0, 64), (64, 24), (88, 20)],
            slots: vec![
                vec![Some((16, 2.0)), Some((16, 0.5)), Some((17, 1.0))],
                vec![Some((16, 1.0)), None, Some((16, 3.0))],
                vec![Some((40, 1.0)), Some((3, 1.0)), None],
            ],
        };
        let mut random = Random(9);
        let l = case.load(&mut d, &mut random);
        // Slot 3 has no effect forward: B = 0. (Backward it has none either: dh = 0.)
        for (part, outputs) in [(1, 64), (2, 24)] {
            let rank = case.slots[2][part as usize - 1].unwrap().0;
            d.backend
                .write_slot(l.slots[3], PartId(part), LoraMatrix::B, &vec![0.0; outputs * rank])
                .unwrap();
        }
        let layout =
            Segments { name: "mixed", parts: vec![(1, 5), (2, 3), (0, 4), (1, 1), (3, 6), (2, 60), (1, 11)] };
        let plan = plan_of(&layout, &l.slots);
        let rows = plan.rows();
        let mut x = random.values(rows * 72, 1.0);
        let mut dy = random.values(rows * 112, 1.0);
        let clean = step(&mut d, &case, &l, &plan, &x, &dy, None, Residual::None);

        // The base's rows.
        let (x_t, y_t) = (d.upload(&x, 72), d.tensor(rows, 112, Element::Activation));
        let (dy_t, dx_t) = (d.upload(&dy, 112), d.tensor(rows, 72, Element::Activation));
        d.run(
            &plan,
            [
                Op::LinearForward(LinearForward {
                    linear: l.linear,
                    group: None,
                    x: x_t,
                    lora_x: None,
                    shrink: None,
                    residual: None,
                    y: y_t,
                }),
                Op::LinearBackward(LinearBackward {
                    linear: l.linear,
                    group: None,
                    x: x_t,
                    lora_x: None,
                    shrink: None,
                    dy: dy_t,
                    dshrink: None,
                    dx: Some(dx_t),
                }),
            ],
        );
        let (y, dx) = (d.download(y_t, rows), d.download(dx_t, rows));
        for range in [8..12, 13..19] {
            let name = format!("{}: base rows {range:?}", d.name);
            assert_bits(
                &name,
                &clean.y[range.start * 112..range.end * 112],
                &y[range.start * 112..range.end * 112],
            );
            assert_bits(
                &name,
                &clean.dx[range.start * 72..range.end * 72],
                &dx[range.start * 72..range.end * 72],
            );
        }

        for (part, outputs) in [(1, 64), (3, 20)] {
            d.backend.write_slot(l.slots[2], PartId(part), LoraMatrix::A, &[f32::NAN; 16 * 72]).unwrap();
            d.backend
                .write_slot(l.slots[2], PartId(part), LoraMatrix::B, &vec![f32::NAN; 16 * outputs])
                .unwrap();
        }
        // Row 2 is of slot 1, row 10 of the base.
        for row in [2, 10] {
            x[row * 72..][..72].fill(f32::NAN);
            dy[row * 112..][..112].fill(f32::NAN);
        }
        let got = step(&mut d, &case, &l, &plan, &x, &dy, None, Residual::None);
        for row in 0..rows {
            let poisoned = (5..8).contains(&row) || (19..79).contains(&row) || [2, 10].contains(&row);
            let (y, dx) = (&got.y[row * 112..][..112], &got.dx[row * 72..][..72]);
            if poisoned {
                assert!(
                    y[..64].iter().all(|v| v.is_nan()) && dx.iter().all(|v| v.is_nan()),
                    "{}: row {row}",
                    d.name
                );
            } else {
                assert_bits(&format!("{}: y of row {row}", d.name), y, &clean.y[row * 112..][..112]);
                assert_bits(&format!("{}: dx of row {row}", d.name), dx, &clean.dx[row * 72..][..72]);
            }
            // Outputs that the slot leaves alone. (The CPU pads a part to whole panels of outputs.)
            if d.precision == Precision::Bf16 && ((5..8).contains(&row) || (19..79).contains(&row)) {
                let range = row * 112 + 64..row * 112 + 88;
                assert_bits(
                    &format!("{}: y of row {row}, k", d.name),
                    &got.y[range.clone()],
                    &clean.y[range],
                );
                let range = row * 112 + 108..row * 112 + 112;
                assert_bits(
                    &format!("{}: y of row {row}, end", d.name),
                    &got.y[range.clone()],
                    &clean.y[range],
                );
            }
        }
    }
}

/// Many adapters of one row each: more segments than a warp has lanes, in tiles of every kind.
#[test]
fn many_adapters_of_one_row() {
    for mut d in devices() {
        let case = Case {
            inputs: 40,
            outputs: 136,
            parts: vec![(0, 136)],
            slots: (0..130).map(|i| vec![Some((1 + i % 20, 1.0 + i as f32 / 64.0))]).collect(),
        };
        let mut random = Random(11);
        let l = case.load(&mut d, &mut random);
        for rows in [64, 130] {
            let parts = (1..=rows).map(|s| (s, 1)).collect();
            let plan = plan_of(&Segments { name: "one each", parts }, &l.slots);
            let x = d.stored(&random.values(rows * 40, 1.0));
            let dy = d.stored(&random.values(rows * 136, 1.0));
            let got = step(&mut d, &case, &l, &plan, &x, &dy, None, Residual::None);
            let [base, lora] = case.exact(&d, &l, &plan, &x, &got.h, false);
            assert_rounded(&format!("{}, {rows}: y", d.name), &d, &got.y, &sum(&base, &lora));
            let [base, lora] = case.exact(&d, &l, &plan, &dy, &got.dh, true);
            assert_rounded(&format!("{}, {rows}: dx", d.name), &d, &got.dx, &sum(&base, &lora));
        }
    }
}

/// What the kernel has no room for is refused by name, before anything runs.
#[test]
fn what_the_kernel_cannot_do_is_an_error() {
    for mut d in kernel_devices() {
        let parts = |n: usize| {
            let part = |i| PartLayout { module: format!("part {i}"), start: 8 * i, outputs: 8 };
            GroupLayout { inputs: 8, outputs: 40, parts: (0..n).map(part).collect() }
        };
        d.backend.adapter_layout(&AdapterLayout { groups: vec![parts(5), parts(1)] }).unwrap();
        let w = vec![1.0; 40 * 8];
        let linear = LinearSpec { parts: &[WeightView::from_f32(&w, 40, 8)], bias: None, backward: true };
        let linear = d.backend.load_linear(linear).unwrap();
        let (x, y) = (d.tensor(4, 8, Element::Activation), d.tensor(4, 40, Element::Activation));
        let activation = d.tensor(4, 40, Element::Activation);
        let [wide, odd] = [16, 18].map(|width| d.tensor(4, width, Element::F32));
        let plan = plan_of(&Segments { name: "base", parts: vec![(0, 4)] }, &[Slot::BASE]);
        d.backend.begin(std::sync::Arc::new(plan)).unwrap();
        for (group, shrink, expected) in [
            (0, Some(wide), "a linear group of 5 LoRA parts on the GPU: at most 4"),
            (1, Some(odd), "F32 [4, 18], expected F32 [>= 4, >= 0 and a multiple of 4]"),
            (1, None, "a group needs shrink tensors"),
            (1, Some(activation), "is Activation [4, 40], expected F32"),
        ] {
            let group = Some(GroupId(group));
            let op = Op::LinearForward(LinearForward {
                linear,
                group,
                x,
                lora_x: None,
                shrink,
                residual: None,
                y,
            });
            let error = d.backend.enqueue(op).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", d.name);
        }
    }
}
