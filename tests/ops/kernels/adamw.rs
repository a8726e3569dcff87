//! Gradient norms, AdamW and zeroing, over all slots at once.
//!
//! Bounds: a norm is an f64 sum rounded once to f32; what AdamW writes is within a few f32 roundings of the exact step, of the size of the weight, of the learning
//! rate, or of the moment.

use colloquy::backend::*;

use super::support::*;

/// Relative.
const NORM: f64 = 1.2e-7;
/// Of |weight| + |step| + learning rate, and of 1, the size of the moments.
const STEP: f64 = 6e-7;

const ROLES: [SlotRole; 4] = [SlotRole::Weights, SlotRole::Gradient, SlotRole::Moment1, SlotRole::Moment2];

/// Two groups, three parts. With rank 16 a slot has more elements than a block sums (2^15), and no multiple of it.
fn layout() -> AdapterLayout {
    let part = |module: &str, start, outputs| PartLayout { module: module.into(), start, outputs };
    AdapterLayout {
        groups: vec![
            GroupLayout { inputs: 1544, outputs: 648, parts: vec![part("q", 0, 600), part("v", 600, 48)] },
            GroupLayout { inputs: 40, outputs: 24, parts: vec![part("o", 0, 24)] },
        ],
    }
}

/// Ranks of the slots' parts.
const RANKS: [[usize; 3]; 4] = [[16, 1, 0], [0, 0, 5], [0, 17, 3], [0, 0, 128]];

/// A matrix of a slot: part, which, numbers.
fn matrices(ranks: [usize; 3]) -> Vec<(PartId, LoraMatrix, usize)> {
    let layout = layout();
    let parts = layout.parts().filter(|p| ranks[p.0.0 as usize] > 0);
    parts
        .flat_map(|(id, _, group, part)| {
            let rank = ranks[id.0 as usize];
            [(id, LoraMatrix::A, rank * group.inputs), (id, LoraMatrix::B, rank * part.outputs)]
        })
        .collect()
}

fn read(d: &mut Device, slot: Slot, role: SlotRole) -> Vec<f32> {
    let all = matrices(RANKS[slot.0 as usize - 1]).into_iter();
    all.flat_map(|(part, matrix, _)| d.backend.read_slot(slot, role, part, matrix).unwrap()).collect()
}

/// Fills a role of a slot with numbers, the second moment with positive ones.
fn fill(d: &mut Device, slot: Slot, role: SlotRole, seed: u64) {
    let mut random = Random(seed * 1000 + u64::from(slot.0) * 10 + role as u64);
    for (part, matrix, len) in matrices(RANKS[slot.0 as usize - 1]) {
        let mut values = random.values(len, 0.5);
        if role == SlotRole::Moment2 {
            values.iter_mut().for_each(|v| *v = v.abs());
        }
        match role {
            SlotRole::Weights => d.backend.write_slot(slot, part, matrix, &values).unwrap(),
            _ => d.backend.write_moment(slot, role, part, matrix, &values).unwrap(),
        }
    }
}

/// Slots 1 to 4 with weights, gradients and moments.
fn with_slots(d: &mut Device) -> Vec<Slot> {
    d.backend.adapter_layout(&layout()).unwrap();
    let spec = |&rank: &usize| (rank > 0).then_some(PartSpec { rank, scale: 1.5 });
    let slots: Vec<Slot> = RANKS
        .iter()
        .map(|ranks| {
            d.backend
                .create_slot(&SlotSpec { parts: ranks.iter().map(spec).collect(), dropout: 0.0 })
                .unwrap()
        })
        .collect();
    for &slot in &slots {
        d.backend.attach_optimizer(slot).unwrap();
        for role in ROLES {
            fill(d, slot, role, 1);
        }
    }
    slots
}

fn step_of(slot: Slot) -> AdamWStep {
    let i = slot.0 as usize - 1;
    AdamWStep {
        slot,
        step: [1, 7, 1000, 2][i],
        learning_rate: [1e-3, 0.02, 0.5, 1e-4][i],
        beta1: 0.9,
        beta2: [0.999, 0.95, 0.999, 0.99][i],
        epsilon: 1e-8,
        weight_decay: [0.0, 0.1, 0.3, 0.01][i],
        max_grad_norm: [1.0, f32::INFINITY, 1e6, 0.3][i],
    }
}

/// AdamW as PyTorch documents it, on [w, m, v], in f64.
fn reference(s: &AdamWStep, norm: f64, [w, m, v]: [f64; 3], g: f64) -> [f64; 3] {
    let [lr, b1, b2, eps, wd] = [s.learning_rate, s.beta1, s.beta2, s.epsilon, s.weight_decay].map(f64::from);
    let g = g * (f64::from(s.max_grad_norm) / (norm + 1e-6)).min(1.0);
    let w = w - lr * wd * w;
    let m = b1 * m + (1.0 - b1) * g;
    let v = b2 * v + (1.0 - b2) * g * g;
    let t = f64::from(s.step);
    let (m_hat, v_hat) = (m / (1.0 - b1.powf(t)), v / (1.0 - b2.powf(t)));
    [w - lr * m_hat / (v_hat.sqrt() + eps), m, v]
}

fn norm_of(gradient: &[f32]) -> f64 {
    gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
}

fn roles(d: &mut Device, slot: Slot) -> [Vec<f32>; 4] {
    ROLES.map(|role| read(d, slot, role))
}

#[test]
fn every_slot_steps_by_its_own_numbers() {
    for mut d in devices() {
        let mut slots = with_slots(&mut d);
        slots.reverse();
        let before: Vec<_> = slots.iter().map(|&s| roles(&mut d, s)).collect();
        let steps: Vec<AdamWStep> = slots.iter().map(|&s| step_of(s)).collect();
        // A second step, of the zeroed gradient, with other scalars, before the host has seen anything of the first.
        let again: Vec<AdamWStep> = steps
            .iter()
            .rev()
            .skip(1)
            .map(|s| AdamWStep { step: s.step + 1, learning_rate: s.learning_rate * 0.5, ..*s })
            .collect();
        let norms = d.tensor(slots.len() + 1, 1, Element::F32);
        let zeros = d.tensor(again.len(), 1, Element::F32);
        let ops = [
            Op::GradNorms(GradNorms { slots: slots.clone(), out: norms }),
            Op::AdamW(AdamW { steps: steps.clone(), norms }),
            Op::GradNorms(GradNorms { slots: again.iter().map(|s| s.slot).collect(), out: zeros }),
            Op::AdamW(AdamW { steps: again.clone(), norms: zeros }),
        ];
        d.run(&BatchPlan::default(), ops);
        let got = d.download(norms, slots.len());
        assert!(d.download(zeros, again.len()).iter().all(|&n| n == 0.0));
        assert!(got[0] > 0.3 && got[3] > 1.0, "two slots are clipped: {got:?}");
        let mut worst = 0f64;
        for (i, step) in steps.iter().enumerate() {
            let [w, g, m, v] = &before[i];
            let norm = norm_of(g);
            assert!((f64::from(got[i]) / norm - 1.0).abs() < NORM, "{}: norm {} {norm}", d.name, got[i]);
            let [w2, g2, m2, v2] = roles(&mut d, step.slot);
            assert!(g2.iter().all(|g| g.to_bits() == 0), "the gradient is zeroed");
            let second = again.iter().find(|s| s.slot == step.slot);
            assert_eq!(second.is_none(), i == 3);
            for j in 0..w.len() {
                let start = [w[j], m[j], v[j]].map(f64::from);
                let mut exact = reference(step, norm, start, f64::from(g[j]));
                if let Some(second) = second {
                    exact = reference(second, 0.0, exact, 0.0);
                }
                // A small second moment makes a step far larger than the learning rate.
                let size =
                    [start[0].abs() + (exact[0] - start[0]).abs() + f64::from(step.learning_rate), 1.0, 1.0];
                for (k, got) in [w2[j], m2[j], v2[j]].into_iter().enumerate() {
                    let error = (f64::from(got) - exact[k]).abs() / size[k];
                    let what =
                        format!("{}, slot {}, {:?}", d.name, step.slot.0, [ROLES[0], ROLES[2], ROLES[3]][k]);
                    assert!(error <= STEP, "{what}: element {j} is {got}, expected {}", exact[k]);
                    worst = worst.max(error / STEP);
                }
            }
        }
        println!("{}: {:.0} % of the bound {STEP:.0e}", d.name, 100.0 * worst);
    }
}

#[test]
fn a_slot_steps_alone_as_in_company() {
    for mut d in devices() {
        let slots = with_slots(&mut d);
        let norms = d.tensor(4, 1, Element::F32);
        let all = [
            Op::GradNorms(GradNorms { slots: slots.clone(), out: norms }),
            Op::AdamW(AdamW { steps: slots.iter().map(|&s| step_of(s)).collect(), norms }),
        ];
        d.run(&BatchPlan::default(), all);
        let together = d.download(norms, 4);
        let after: Vec<_> = slots.iter().map(|&s| roles(&mut d, s)).collect();
        for &slot in &slots {
            for role in ROLES {
                fill(&mut d, slot, role, 1);
            }
            let alone = [
                Op::GradNorms(GradNorms { slots: vec![slot], out: norms }),
                Op::AdamW(AdamW { steps: vec![step_of(slot)], norms }),
            ];
            d.run(&BatchPlan::default(), alone);
            let i = slot.0 as usize - 1;
            assert_bits("norm", &d.download(norms, 1), &together[i..=i]);
            for (role, (got, expected)) in ROLES.iter().zip(roles(&mut d, slot).iter().zip(&after[i])) {
                assert_bits(&format!("{}, slot {}, {role:?}", d.name, slot.0), got, expected);
            }
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_keeps_weights_and_moments() {
    for mut d in devices() {
        let slots = with_slots(&mut d);
        let lost = [(slots[0], f32::NAN), (slots[2], f32::INFINITY)];
        for (slot, value) in lost {
            // The last number of the slot.
            let (part, matrix, len) = *matrices(RANKS[slot.0 as usize - 1]).last().unwrap();
            let mut gradient = vec![0.25; len];
            gradient[len - 1] = value;
            d.backend.write_moment(slot, SlotRole::Gradient, part, matrix, &gradient).unwrap();
        }
        let before: Vec<_> = slots.iter().map(|&s| roles(&mut d, s)).collect();
        let norms = d.tensor(4, 1, Element::F32);
        // Epsilon 0 must not turn what never moved into NaN.
        let steps = slots.iter().map(|&s| AdamWStep { epsilon: 0.0, ..step_of(s) }).collect();
        d.run(
            &BatchPlan::default(),
            [
                Op::GradNorms(GradNorms { slots: slots.clone(), out: norms }),
                Op::AdamW(AdamW { steps, norms }),
            ],
        );
        let got = d.download(norms, 4);
        assert!(
            got[0].is_nan() && got[2] == f32::INFINITY && got[1].is_finite() && got[3].is_finite(),
            "{got:?}"
        );
        for (i, &slot) in slots.iter().enumerate() {
            let after = roles(&mut d, slot);
            assert!(after[1].iter().all(|g| g.to_bits() == 0), "the gradient is zeroed");
            for k in [0, 2, 3] {
                if got[i].is_finite() {
                    assert!(after[k].iter().all(|v| v.is_finite()));
                    assert_ne!(after[k], before[i][k]);
                } else {
                    assert_bits(&format!("{}, slot {}", d.name, slot.0), &after[k], &before[i][k]);
                }
            }
        }
    }
}

#[test]
fn squares_beyond_f32_do_not_overflow() {
    for mut d in devices() {
        let slots = with_slots(&mut d);
        let len = 5 * 40;
        d.backend
            .write_moment(slots[1], SlotRole::Gradient, PartId(2), LoraMatrix::A, &vec![1e30; len])
            .unwrap();
        let norms = d.tensor(1, 1, Element::F32);
        d.run(&BatchPlan::default(), [Op::GradNorms(GradNorms { slots: vec![slots[1]], out: norms })]);
        let got = f64::from(d.download(norms, 1)[0]);
        let expected = f64::from(1e30f32) * (len as f64).sqrt();
        assert!((got / expected - 1.0).abs() < NORM, "{}: {got}", d.name);
    }
}

#[test]
fn zeroing_takes_the_gradients_of_the_named_slots_only() {
    for mut d in devices() {
        let slots = with_slots(&mut d);
        let before: Vec<_> = slots.iter().map(|&s| roles(&mut d, s)).collect();
        d.run(&BatchPlan::default(), [Op::ZeroGrad(ZeroGrad { slots: vec![slots[2], slots[0]] })]);
        for (i, &slot) in slots.iter().enumerate() {
            let after = roles(&mut d, slot);
            for (k, role) in ROLES.into_iter().enumerate() {
                let zeroed = role == SlotRole::Gradient && i % 2 == 0;
                let expected = if zeroed { vec![0.0; after[k].len()] } else { before[i][k].clone() };
                assert_bits(&format!("{}, slot {}, {role:?}", d.name, slot.0), &after[k], &expected);
            }
        }
    }
}

#[test]
fn what_cannot_step_is_named() {
    for mut d in devices() {
        let slots = with_slots(&mut d);
        let norms = d.tensor(2, 1, Element::F32);
        let narrow = d.tensor(1, 1, Element::F32);
        let fails = |d: &mut Device, op: Op, part: &str| {
            let error = d.backend.enqueue(op).unwrap_err().to_string();
            assert!(error.contains(part), "{}: {error}", d.name);
        };
        d.backend.detach_optimizer(slots[1]);
        let none = "slot 2 has no optimizer state";
        fails(&mut d, Op::GradNorms(GradNorms { slots: vec![slots[0], slots[1]], out: norms }), none);
        fails(&mut d, Op::AdamW(AdamW { steps: vec![step_of(slots[1])], norms }), none);
        fails(&mut d, Op::ZeroGrad(ZeroGrad { slots: vec![slots[1]] }), none);
        fails(&mut d, Op::ZeroGrad(ZeroGrad { slots: vec![Slot::BASE] }), "slot 0");
        fails(
            &mut d,
            Op::GradNorms(GradNorms { slots: vec![slots[0], slots[2]], out: narrow }),
            "grad_norms",
        );
        fails(&mut d, Op::AdamW(AdamW { steps: vec![step_of(slots[0]); 2], norms }), "slot 1 steps twice");
        let first = AdamWStep { step: 0, ..step_of(slots[0]) };
        fails(&mut d, Op::AdamW(AdamW { steps: vec![first], norms }), "step 0 of slot 1");
        fails(&mut d, Op::ZeroGrad(ZeroGrad { slots: vec![Slot(77)] }), "slot 77");
    }
}
