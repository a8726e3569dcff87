//! Slots, gradient norms and AdamW through the public contract.

use super::*;

/// Two groups, three parts; the last part starts inside a panel.
fn layout() -> AdapterLayout {
    let part = |module: &str, start, outputs| PartLayout { module: module.into(), start, outputs };
    AdapterLayout {
        groups: vec![
            GroupLayout { inputs: 12, outputs: 70, parts: vec![part("q", 0, 40), part("v", 40, 30)] },
            GroupLayout { inputs: 33, outputs: 9, parts: vec![part("o", 0, 9)] },
        ],
    }
}

fn spec(ranks: [usize; 3]) -> SlotSpec {
    let part = |&rank: &usize| (rank > 0).then_some(PartSpec { rank, scale: 2.0 });
    SlotSpec { parts: ranks.iter().map(part).collect(), dropout: 0.0 }
}

fn backend() -> CpuBackend {
    let mut c = CpuBackend::new(2).unwrap();
    c.adapter_layout(&layout()).unwrap();
    c
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64).map(|i| (mix(i ^ (seed << 40)) >> 40) as f32 / 8_388_608.0 - 1.0).collect()
}

/// The matrices of a slot and their lengths.
fn matrices(ranks: [usize; 3]) -> Vec<(PartId, LoraMatrix, usize)> {
    let mut all = Vec::new();
    for (id, _, group, part) in layout().parts() {
        let rank = ranks[id.0 as usize];
        if rank > 0 {
            all.push((id, LoraMatrix::A, rank * group.inputs));
            all.push((id, LoraMatrix::B, rank * part.outputs));
        }
    }
    all
}

/// Fills a role of a slot with numbers, and returns them in order.
fn fill(c: &mut CpuBackend, slot: Slot, role: SlotRole, ranks: [usize; 3], seed: u64) -> Vec<f32> {
    let mut all = Vec::new();
    for (i, (part, matrix, len)) in matrices(ranks).into_iter().enumerate() {
        let mut values = numbers(len, seed * 100 + i as u64);
        if role == SlotRole::Moment2 {
            values.iter_mut().for_each(|v| *v = v.abs());
        }
        match role {
            SlotRole::Weights => c.write_slot(slot, part, matrix, &values).unwrap(),
            _ => c.write_moment(slot, role, part, matrix, &values).unwrap(),
        }
        all.extend(values);
    }
    all
}

fn read(c: &mut CpuBackend, slot: Slot, role: SlotRole, ranks: [usize; 3]) -> Vec<f32> {
    let all = matrices(ranks).into_iter();
    all.flat_map(|(part, matrix, _)| c.read_slot(slot, role, part, matrix).unwrap()).collect()
}

const ROLES: [SlotRole; 4] = [SlotRole::Weights, SlotRole::Gradient, SlotRole::Moment1, SlotRole::Moment2];

/// Everything that pads a rank or a panel is zero, in every role.
fn assert_padding_is_zero(c: &CpuBackend, slot: Slot, ranks: [usize; 3]) {
    let data = c.slots.get(slot).unwrap();
    let buffers = [&data.weights]
        .into_iter()
        .chain(data.optimizer.iter().flat_map(|o| [&o.gradient, &o.moment1, &o.moment2]));
    for buffer in buffers {
        for (id, _, group, part) in layout().parts() {
            let Some(place) = &data.parts[id.0 as usize] else { continue };
            let rank = ranks[id.0 as usize];
            assert_eq!(place.padded, padded_rank(rank));
            for line in buffer[place.a.clone()].chunks_exact(place.padded) {
                assert!(line[rank..].iter().all(|v| v.to_bits() == 0));
            }
            assert_eq!(place.a.len(), group.inputs * place.padded);
            let first = part.start / 32 * 32;
            for (i, v) in buffer[place.b.clone()].iter().enumerate() {
                let (panel, r, lane) = (i / 32 / place.padded, i / 32 % place.padded, i % 32);
                let column = first + panel * 32 + lane;
                let inside = r < rank && (part.start..part.start + part.outputs).contains(&column);
                assert!(inside || v.to_bits() == 0, "padding of B");
            }
        }
    }
}

#[test]
fn slots_keep_what_is_written_whatever_their_ranks() {
    let mut c = backend();
    let ranks = [[16, 1, 128], [3, 17, 33], [0, 8, 0], [5, 0, 100]];
    let mut written = Vec::new();
    for (i, &ranks) in ranks.iter().enumerate() {
        let slot = c.create_slot(&spec(ranks)).unwrap();
        assert_eq!(slot, Slot(i as u32 + 1));
        assert!(read(&mut c, slot, SlotRole::Weights, ranks).iter().all(|v| v.to_bits() == 0));
        c.attach_optimizer(slot).unwrap();
        written.push(ROLES.map(|role| fill(&mut c, slot, role, ranks, i as u64 * 4 + role as u64)));
    }
    for (i, &ranks) in ranks.iter().enumerate() {
        let slot = Slot(i as u32 + 1);
        for (role, values) in ROLES.into_iter().zip(&written[i]) {
            assert_eq!(&read(&mut c, slot, role, ranks), values, "{slot:?} {role:?}");
        }
        assert_padding_is_zero(&c, slot, ranks);
    }
    // Attaching again zeroes.
    c.attach_optimizer(Slot(2)).unwrap();
    assert!(read(&mut c, Slot(2), SlotRole::Moment2, ranks[1]).iter().all(|&v| v == 0.0));
    assert_eq!(read(&mut c, Slot(2), SlotRole::Weights, ranks[1]), written[1][0]);
}

#[test]
fn numbers_of_slots_are_used_again() {
    let mut c = backend();
    let empty = c.bytes_in_use();
    let slots: Vec<Slot> = (0..300).map(|i| c.create_slot(&spec([1 + i % 128, 16, 0])).unwrap()).collect();
    assert_eq!(slots[299], Slot(300));
    c.attach_optimizer(Slot(7)).unwrap();
    fill(&mut c, Slot(7), SlotRole::Weights, [7, 16, 0], 1);
    c.drop_slot(Slot(7));
    assert!(c.read_slot(Slot(7), SlotRole::Weights, PartId(0), LoraMatrix::A).is_err());
    assert_eq!(c.create_slot(&spec([2, 0, 2])).unwrap(), Slot(7));
    assert!(read(&mut c, Slot(7), SlotRole::Weights, [2, 0, 2]).iter().all(|&v| v == 0.0));
    assert!(c.read_slot(Slot(7), SlotRole::Gradient, PartId(0), LoraMatrix::A).is_err());
    slots.into_iter().for_each(|s| c.drop_slot(s));
    assert_eq!(c.bytes_in_use(), empty);
    // The base is no slot to drop or to write.
    c.drop_slot(Slot::BASE);
    assert_eq!(c.create_slot(&spec([1, 1, 1])).unwrap(), Slot(1));
    assert!(c.write_slot(Slot::BASE, PartId(0), LoraMatrix::A, &[0.0; 12]).is_err());
}

#[test]
fn a_copy_has_the_optimizer_state_of_its_source() {
    let mut c = backend();
    let ranks = [4, 0, 20];
    let (from, to) = (c.create_slot(&spec(ranks)).unwrap(), c.create_slot(&spec(ranks)).unwrap());
    let other = c.create_slot(&spec([4, 0, 21])).unwrap();
    fill(&mut c, from, SlotRole::Weights, ranks, 1);
    c.attach_optimizer(from).unwrap();
    fill(&mut c, from, SlotRole::Moment1, ranks, 2);
    c.copy_slot(from, to).unwrap();
    for role in ROLES {
        assert_eq!(read(&mut c, from, role, ranks), read(&mut c, to, role, ranks));
    }
    c.detach_optimizer(from);
    c.copy_slot(from, to).unwrap();
    assert!(c.read_slot(to, SlotRole::Gradient, PartId(0), LoraMatrix::A).is_err());
    assert!(c.copy_slot(from, other).unwrap_err().to_string().contains("differ"));
    assert!(c.copy_slot(from, Slot::BASE).is_err());
    c.copy_slot(from, from).unwrap();
}

#[test]
fn wrong_ranks_and_sizes_are_named() {
    let mut c = backend();
    let fails = |r: Result<Slot>, part: &str| {
        let error = r.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    fails(c.create_slot(&spec([1, 129, 1])), "v: rank 129");
    let zero = SlotSpec { parts: vec![Some(PartSpec { rank: 0, scale: 1.0 }), None, None], dropout: 0.0 };
    fails(c.create_slot(&zero), "q: rank 0");
    let scale =
        SlotSpec { parts: vec![None, None, Some(PartSpec { rank: 1, scale: f32::NAN })], dropout: 0.0 };
    fails(c.create_slot(&scale), "o: scale NaN");
    fails(c.create_slot(&SlotSpec::default()), "0 parts");
    let slot = c.create_slot(&spec([2, 0, 2])).unwrap();
    let write = |c: &mut CpuBackend, part, len: usize| {
        c.write_slot(slot, PartId(part), LoraMatrix::B, &vec![0.0; len]).map(|()| slot)
    };
    fails(write(&mut c, 0, 79), "q B: 79 values, expected 80");
    fails(write(&mut c, 1, 60), "no part 1");
    fails(write(&mut c, 3, 60), "no part 3");
    fails(
        c.write_moment(slot, SlotRole::Moment1, PartId(0), LoraMatrix::A, &[0.0; 24]).map(|()| slot),
        "optimizer",
    );
    fails(c.attach_optimizer(Slot::BASE).map(|()| slot), "slot 0");
    fails(c.adapter_layout(&layout()).map(|()| slot), "once");
    fails(c.enqueue(Op::ZeroGrad(ZeroGrad { slots: vec![slot] })).map(|()| slot), "optimizer");
}

#[test]
fn adamw_over_many_steps_follows_a_hand_computed_run() {
    // torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01), p = 1, gradients 0.5, -0.25, 2.
    let mut c = backend();
    let slot = c.create_slot(&spec([1, 0, 0])).unwrap();
    c.attach_optimizer(slot).unwrap();
    c.write_slot(slot, PartId(0), LoraMatrix::A, &[1.0; 12]).unwrap();
    let norms = c.tensor(TensorSpec { name: "norms", rows: 1, width: 1, element: Element::F32 }).unwrap();
    let expected = [0.899, 0.871467, 0.803531];
    for (t, g) in [0.5f64, -0.25, 2.0].into_iter().enumerate() {
        let gradient = [g as f32; 12];
        c.write_moment(slot, SlotRole::Gradient, PartId(0), LoraMatrix::A, &gradient).unwrap();
        c.enqueue(Op::GradNorms(GradNorms { slots: vec![slot], out: norms })).unwrap();
        let step = AdamWStep {
            slot,
            step: t as u32 + 1,
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: f32::INFINITY,
        };
        c.enqueue(Op::AdamW(AdamW { steps: vec![step], norms })).unwrap();
        let got = c.read_slot(slot, SlotRole::Weights, PartId(0), LoraMatrix::A).unwrap();
        assert!(got.iter().all(|&x| (f64::from(x) - expected[t]).abs() < 1e-6), "{got:?} {}", expected[t]);
    }
    assert_padding_is_zero(&c, slot, [1, 0, 0]);
}
