//! Dropout on what adapters read: the masks, and the linear group with them, forward and backward.

use colloquy::backend::*;

use super::support::*;

/// f32 sums as in `linear.rs`, and roundings to bf16 (of x after its factor, of h, of the result), relative to the largest element.
const LINEAR: [(Precision, f64); 2] = [(Precision::F32, 1e-5), (Precision::Bf16, 8e-3)];

const GROUP: GroupId = GroupId(1);
const RANK: usize = 20;
const SCALE: f32 = 1.5;

/// The factor, written down again from its definition.
fn factor(d: SequenceDropout, group: u32, position: u32, column: usize) -> f32 {
    fn mix(mut z: u64) -> u64 {
        for (shift, by) in [(30, 0xbf58_476d_1ce4_e5b9u64), (27, 0x94d0_49bb_1331_11eb)] {
            z = (z ^ (z >> shift)).wrapping_mul(by);
        }
        z ^ (z >> 31)
    }
    let step = |key: u64, n: u64, by: u64| mix(key ^ (n + 1).wrapping_mul(by));
    let row = step(
        step(d.key, u64::from(group), 0xd1b5_4a32_d192_ed03),
        u64::from(position),
        0x9e37_79b9_7f4a_7c15,
    );
    let bits = step(row, column as u64, 0xd1b5_4a32_d192_ed03) >> 41;
    let u = (bits as f64 + 0.5) / f64::from(1 << 23);
    if u < f64::from(d.rate) { 0.0 } else { 1.0 / (1.0 - d.rate) }
}

/// Sequences of several slots, each with its own rate; none where `rates` has 0.
fn plan(slots: &[Slot], parts: Vec<(usize, usize)>, rates: &[f32]) -> BatchPlan {
    let mut plan = plan_of(&Segments { name: "dropout", parts }, slots);
    plan.dropout = (0..plan.sequences.len())
        .map(|i| SequenceDropout {
            key: 0x1234_5678_9abc_def0 ^ (i as u64) << 40,
            rate: rates[i % rates.len()],
        })
        .collect();
    plan
}

/// The factors of a group's input `[rows, width]`.
fn factors(plan: &BatchPlan, group: GroupId, width: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for (s, &d) in plan.sequences.iter().zip(&plan.dropout) {
        for row in s.start..s.end {
            let position = plan.positions[row as usize];
            all.extend((0..width).map(|column| factor(d, group.0, position, column)));
        }
    }
    all
}

#[test]
fn elements_are_dropped_at_their_rate_and_the_others_grow() {
    for mut d in devices() {
        for (width, rates) in [(64, [0.25, 0.0, 0.9]), (1000, [0.1, 0.5, 0.0])] {
            let plan = plan(&[Slot::BASE], vec![(0, 40), (0, 1), (0, 61)], &rates);
            let mut random = Random(width as u64);
            let values = d.stored(&random.values(102 * width, 1.0));
            let x = d.upload(&values, width);
            let outs: Vec<Tensor> = (0..2).map(|_| d.tensor(102, width, Element::Activation)).collect();
            let ops = [0, 1].map(|i| Op::Dropout(Dropout { x, group: GroupId(i as u32), out: outs[i] }));
            d.run(&plan, ops);
            for (i, &out) in outs.iter().enumerate() {
                let factors = factors(&plan, GroupId(i as u32), width);
                let expected: Vec<f32> = values.iter().zip(&factors).map(|(x, f)| x * f).collect();
                let got = d.download(out, 102);
                assert_bits(&format!("{}, {width} wide, group {i}", d.name), &got, &d.stored(&expected));
                for (sequence, dropout) in plan.sequences.iter().zip(&plan.dropout) {
                    let own = &got[sequence.start as usize * width..sequence.end as usize * width];
                    let count = own.len() as f64;
                    let dropped = own.iter().filter(|&&v| v == 0.0).count() as f64;
                    let rate = f64::from(dropout.rate);
                    // Five standard deviations of a binomial count.
                    let bound = 5.0 * (count * rate * (1.0 - rate)).sqrt();
                    assert!((dropped - count * rate).abs() <= bound, "{dropped} of {count} at {rate}");
                }
            }
        }
    }
}

#[test]
fn masks_of_other_keys_groups_positions_and_columns_are_independent() {
    let mask = |key: u64, group: u32, position: u32| -> Vec<bool> {
        let row = SequenceDropout { key, rate: 0.5 }.row(GroupId(group), position);
        (0..20_000).map(|column| row.factor(column) == 0.0).collect()
    };
    let reference = mask(7, 3, 11);
    assert_eq!(reference, mask(7, 3, 11));
    for (what, other) in [
        ("key", mask(8, 3, 11)),
        ("group", mask(7, 4, 11)),
        ("position", mask(7, 3, 12)),
        ("group and position swapped", mask(7, 11, 3)),
    ] {
        let agree = reference.iter().zip(&other).filter(|(a, b)| a == b).count() as f64;
        // Five standard deviations of 20000 fair coins.
        assert!((agree - 10_000.0).abs() < 5.0 * 5000f64.sqrt(), "{what}: {agree} of 20000 agree");
    }
    let after = reference.windows(2).filter(|w| w[0] == w[1]).count() as f64;
    assert!((after - 10_000.0).abs() < 5.0 * 5000f64.sqrt(), "neighbours: {after} of 19999 agree");
}

struct Loaded {
    linear: Linear,
    slots: Vec<Slot>,
    w: Vec<f32>,
    /// A and B of each slot but the base.
    pairs: Vec<[Vec<f32>; 2]>,
}

fn load(d: &mut Device, inputs: usize, outputs: usize) -> Loaded {
    let mut random = Random(inputs as u64);
    let part = |outputs| vec![PartLayout { module: "m".into(), start: 0, outputs }];
    let groups = vec![
        GroupLayout { inputs: 8, outputs: 8, parts: part(8) },
        GroupLayout { inputs, outputs, parts: part(outputs) },
    ];
    d.backend.adapter_layout(&AdapterLayout { groups }).unwrap();
    let w = random.values(outputs * inputs, 1.0);
    let parts = [WeightView::from_f32(&w, outputs, inputs)];
    let linear = d.backend.load_linear(LinearSpec { parts: &parts, bias: None, backward: true }).unwrap();
    let (mut slots, mut pairs) = (vec![Slot::BASE], vec![]);
    for _ in 0..2 {
        let part = Some(PartSpec { rank: RANK, scale: SCALE });
        let slot = d.backend.create_slot(&SlotSpec { parts: vec![None, part], dropout: 0.0 }).unwrap();
        d.backend.attach_optimizer(slot).unwrap();
        let pair = [random.values(RANK * inputs, 0.5), random.values(outputs * RANK, 0.5)];
        for (matrix, values) in [LoraMatrix::A, LoraMatrix::B].into_iter().zip(&pair) {
            d.backend.write_slot(slot, PartId(1), matrix, values).unwrap();
        }
        pairs.push(pair.map(|m| d.stored(&m)));
        slots.push(slot);
    }
    Loaded { linear, slots, w: d.stored(&w), pairs }
}

/// y and dx, and for each slot dA and dB.
struct Step {
    y: Vec<f32>,
    dx: Vec<f32>,
    gradients: Vec<[Vec<f32>; 2]>,
}

fn step(
    d: &mut Device,
    l: &Loaded,
    plan: &BatchPlan,
    x: &[f32],
    dy: &[f32],
    widths: [usize; 2],
    dropout: bool,
) -> Step {
    let rows = plan.rows();
    let [inputs, outputs] = widths;
    let (x, dy) = (d.upload(x, inputs), d.upload(dy, outputs));
    let (dropped, dx) =
        (d.tensor(rows, inputs, Element::Activation), Some(d.tensor(rows, inputs, Element::Activation)));
    let y = d.tensor(rows, outputs, Element::Activation);
    let [shrink, dshrink] = [0; 2].map(|_| Some(d.tensor(rows, 32, Element::F32)));
    let (linear, group, lora_x) = (l.linear, Some(GROUP), dropout.then_some(dropped));
    d.backend.enqueue(Op::ZeroGrad(ZeroGrad { slots: l.slots[1..].to_vec() })).unwrap();
    d.run(
        plan,
        dropout.then_some(Op::Dropout(Dropout { x, group: GROUP, out: dropped })).into_iter().chain([
            Op::LinearForward(LinearForward { linear, group, x, lora_x, shrink, residual: None, y }),
            Op::LinearBackward(LinearBackward { linear, group, x, lora_x, shrink, dy, dshrink, dx }),
        ]),
    );
    let (y_values, dx_values) = (d.download(y, rows), d.download(dx.unwrap(), rows));
    let gradients = l.slots[1..]
        .iter()
        .map(|&slot| {
            [LoraMatrix::A, LoraMatrix::B]
                .map(|m| d.backend.read_slot(slot, SlotRole::Gradient, PartId(1), m).unwrap())
        })
        .collect();
    for t in [x, dy, dropped, y].into_iter().chain(dx).chain(shrink).chain(dshrink) {
        d.backend.free(t);
    }
    Step { y: y_values, dx: dx_values, gradients }
}

/// The same in f64: `y = x Wᵀ + s (m x) Aᵀ Bᵀ`, `dx = dy W + m (s dy B A)`, `dA = (s dy B)ᵀ (m x)`, `dB = s dyᵀ h`.
fn oracle(
    l: &Loaded,
    plan: &BatchPlan,
    x: &[f32],
    dy: &[f32],
    [inputs, outputs]: [usize; 2],
    masks: &[f32],
) -> (Vec<f64>, Vec<f64>, Vec<[Vec<f64>; 2]>) {
    let rows = plan.rows();
    let (mut y, mut dx) = (vec![0f64; rows * outputs], vec![0f64; rows * inputs]);
    let mut gradients = vec![[vec![0f64; RANK * inputs], vec![0f64; outputs * RANK]]; 2];
    for segment in &plan.segments {
        let slot = l.slots.iter().position(|&s| s == segment.slot).unwrap();
        for r in segment.start as usize..segment.end as usize {
            let (x, m) = (&x[r * inputs..][..inputs], &masks[r * inputs..][..inputs]);
            let dy = &dy[r * outputs..][..outputs];
            let (y, dx) = (&mut y[r * outputs..][..outputs], &mut dx[r * inputs..][..inputs]);
            for n in 0..outputs {
                for k in 0..inputs {
                    let w = f64::from(l.w[n * inputs + k]);
                    y[n] += f64::from(x[k]) * w;
                    dx[k] += f64::from(dy[n]) * w;
                }
            }
            if slot == 0 {
                continue;
            }
            let [a, b] = &l.pairs[slot - 1];
            let [da, db] = &mut gradients[slot - 1];
            for i in 0..RANK {
                let row = &a[i * inputs..][..inputs];
                let read = |k: usize| f64::from(x[k]) * f64::from(m[k]);
                let h: f64 = (0..inputs).map(|k| read(k) * f64::from(row[k])).sum();
                let dh: f64 = (0..outputs).map(|n| f64::from(dy[n]) * f64::from(b[n * RANK + i])).sum();
                let s = f64::from(SCALE);
                for n in 0..outputs {
                    y[n] += s * h * f64::from(b[n * RANK + i]);
                    db[n * RANK + i] += s * h * f64::from(dy[n]);
                }
                for k in 0..inputs {
                    dx[k] += f64::from(m[k]) * s * dh * f64::from(row[k]);
                    da[i * inputs + k] += s * dh * read(k);
                }
            }
        }
    }
    (y, dx, gradients)
}

#[test]
fn the_linear_group_matches_the_oracle() {
    // 1 to 300 rows: every configuration of the kernel; widths that end inside a tile.
    for (inputs, outputs, parts) in [
        (64, 192, vec![(1, 1)]),
        (72, 112, vec![(0, 3), (1, 9), (2, 17)]),
        (200, 456, vec![(1, 40), (0, 5), (2, 100), (1, 5)]),
        (136, 264, vec![(2, 130), (1, 170)]),
    ] {
        for mut d in devices() {
            let l = load(&mut d, inputs, outputs);
            let plan = plan(&l.slots, parts.clone(), &[0.3, 0.0, 0.5]);
            let mut random = Random(5);
            let x = d.stored(&random.values(plan.rows() * inputs, 1.0));
            let dy = d.stored(&random.values(plan.rows() * outputs, 1.0));
            let masks = factors(&plan, GROUP, inputs);
            let got = step(&mut d, &l, &plan, &x, &dy, [inputs, outputs], true);
            let (y, dx, gradients) = oracle(&l, &plan, &x, &dy, [inputs, outputs], &masks);
            let bound = LINEAR.iter().find(|b| b.0 == d.precision).unwrap().1;
            let name = format!("{}, {} rows of {inputs} to {outputs}", d.name, plan.rows());
            assert_close(&format!("{name}: y"), &got.y, &y, bound);
            assert_close(&format!("{name}: dx"), &got.dx, &dx, bound);
            for (slot, (got, exact)) in got.gradients.iter().zip(&gradients).enumerate() {
                for (matrix, (got, exact)) in ["dA", "dB"].iter().zip(got.iter().zip(exact)) {
                    assert_close(&format!("{name}: {matrix} of {slot}"), got, exact, bound);
                }
            }

            // Sequences without dropout have the bits that they have where nobody has any.
            let mut without = plan.clone();
            without.dropout.clear();
            let bare = step(&mut d, &l, &without, &x, &dy, [inputs, outputs], false);
            for (s, _) in plan.sequences.iter().zip(&plan.dropout).filter(|(_, d)| d.rate == 0.0) {
                let of =
                    |v: &[f32], width: usize| v[s.start as usize * width..s.end as usize * width].to_vec();
                assert_bits(&format!("{name}: y"), &of(&got.y, outputs), &of(&bare.y, outputs));
                assert_bits(&format!("{name}: dx"), &of(&got.dx, inputs), &of(&bare.dx, inputs));
            }
        }
    }
}

#[test]
fn a_plan_that_does_not_say_its_dropout_is_refused() {
    for mut d in devices() {
        let l = load(&mut d, 64, 64);
        let mut plan = plan(&l.slots, vec![(1, 4), (2, 4)], &[0.5]);
        plan.dropout.pop();
        let x = d.upload(&[0.0; 8 * 64], 64);
        let out = d.tensor(8, 64, Element::Activation);
        d.backend.begin(std::sync::Arc::new(plan)).unwrap();
        let op = Op::Dropout(Dropout { x, group: GROUP, out });
        let e = d.backend.enqueue(op).unwrap_err().to_string();
        assert!(e.contains("dropout of 1 sequences, the plan has 2"), "{e}");
    }
}
