//! The recording backend: nothing runs before `submit`, nothing can be seen or changed before it, and the trace says what ran.

use std::sync::Arc;

use super::support::*;
use colloquy::backend::recording::Recording;
use colloquy::backend::*;

#[test]
fn work_runs_at_submit_and_only_then() {
    let mut b = Recording::new(cpu(1));
    let x = upload(&mut b, &[3.0, 4.0], 2);
    let out = tensor(&mut b, 1, 2);
    let weight = b.load_vector(WeightView::from_f32(&[1.0, 1.0], 1, 2)).unwrap();
    b.begin(Arc::new(plan_of(&[(0, 1)]))).unwrap();
    b.enqueue(Op::RmsNorm(RmsNorm { x, weight, eps: 0.0, out, gathered: false })).unwrap();
    assert_eq!(b.stored(), 2);
    assert!(b.trace().is_empty());

    let spec = TensorSpec { name: "late", rows: 1, width: 1, element: Element::F32 };
    let kv = KvSpec { layers: 1, pages: 1, page_tokens: 16, kv_width: 16 };
    let (slot, part, matrix) = (Slot(1), PartId(0), LoraMatrix::A);
    let refused = [
        b.download_f32(out, 1).err(),
        b.download_u32(out, 1).err(),
        b.upload_f32(x, &[0.0]).err(),
        b.read_slot(slot, SlotRole::Weights, part, matrix).err(),
        b.write_slot(slot, part, matrix, &[]).err(),
        b.write_moment(slot, SlotRole::Moment1, part, matrix, &[]).err(),
        b.copy_slot(slot, slot).err(),
        b.create_slot(&SlotSpec::default()).err(),
        b.attach_optimizer(slot).err(),
        b.adapter_layout(&AdapterLayout::default()).err(),
        b.tensor(spec).err(),
        b.kv_pool(kv).err(),
    ];
    for (i, error) in refused.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("call {i} was let through")).to_string();
        assert!(error.contains("2 calls wait for `submit`"), "{error}");
    }

    b.submit().unwrap();
    let rstd = 1.0 / 12.5f32.sqrt();
    assert_eq!(b.download_f32(out, 1).unwrap(), [3.0 * rstd, 4.0 * rstd]);
}

#[test]
fn the_trace_counts_operations_with_their_plan() {
    let mut b = Recording::new(cpu(1));
    let (x, out) = (upload(&mut b, &[1.0; 6], 2), tensor(&mut b, 3, 1));
    let mut plan = plan_of(&[(0, 1), (0, 2)]);
    plan.segments =
        vec![Segment { slot: Slot::BASE, start: 0, end: 1 }, Segment { slot: Slot(3), start: 1, end: 3 }];
    let op = Op::SwiGlu(SwiGlu { gate_up: x, out });
    let mut second = plan_of(&[(0, 1)]);
    second.logit_rows = vec![0];
    for plan in [plan, second] {
        b.begin(Arc::new(plan)).unwrap();
        b.enqueue(op.clone()).unwrap();
    }
    b.enqueue(Op::ScatterRows(ScatterRows { dy: out, dx: out })).unwrap();
    assert!(b.submit().unwrap_err().to_string().contains("read and written"));
    assert_eq!(b.stored(), 0, "the work that failed is gone");
    let entry = |rows, segments, sequences| recording::TraceEntry {
        name: "swiglu",
        op: op.clone(),
        rows,
        segments,
        sequences,
    };
    assert_eq!(b.trace(), [entry(3, 2, 2), entry(1, 1, 1)]);
    assert_eq!(b.count("swiglu"), 2);
    assert_eq!(b.counts().into_iter().collect::<Vec<_>>(), [("swiglu", 2)]);
    b.clear_trace();
    assert!(b.trace().is_empty());
    assert_eq!(b.describe(), format!("recording {}", b.inner().describe()));
}
