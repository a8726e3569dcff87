//! The recording backend: nothing runs before `submit`, nothing can be seen or changed before it, and the trace says what ran.

use std::sync::Arc;

use super::support::*;
use colloquy::backend::cuda::CudaBackend;
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

/// The names of the methods that a trait declares, from its source.
fn methods(source: &str, of: &str) -> Vec<String> {
    let start = source.find(&format!("pub trait {of}")).expect("the trait");
    let body = &source[start..][..source[start..].find("\n}\n").expect("its end")];
    let lines = body.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
    lines.map(|line| line[..line.find('(').expect("arguments")].to_string()).collect()
}

#[test]
fn nothing_is_answered_but_by_the_wrapped_backend() {
    // A default would be an answer of its own: every method must stand in the wrapper.
    let (source, wrapper) =
        (include_str!("../../src/backend/mod.rs"), include_str!("../../src/backend/recording.rs"));
    let names = [methods(source, "Backend"), methods(source, "Measured")].concat();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(wrapper.contains(&format!("fn {name}(")), "the recording backend forgets `{name}`");
    }

    // A GPU differs from the CPU, and from the defaults, in all of these.
    let gpu = || CudaBackend::counting(132);
    let (mut bare, mut b) = (gpu(), Recording::new(gpu()));
    let facts = |b: &dyn Backend| {
        let sizes = [b.activation_bytes(), b.kv_bytes(), b.width_step(), b.logit_rows(50_000)];
        (sizes, b.runs_beside(), b.has_ceilings(), b.graph_counts(), b.memory_limit(), b.memory_ceiling())
    };
    assert_eq!(facts(&b), facts(&bare));
    assert_ne!(facts(&b), facts(&cpu(1)));
    let coming = || Draws::Coming { copy: 3, draws: 1 };
    assert_eq!(b.draws(coming()).unwrap_err().to_string(), bare.draws(coming()).unwrap_err().to_string());
    let noise = Noise { seed: 1, scale: 1.0 };
    for b in [&mut bare as &mut dyn Backend, &mut b] {
        let t = tensor_of(b, 8);
        b.fill_noise(t, 8, noise).unwrap();
        assert!(b.set_profiling(true).unwrap_err().to_string().contains("only counts"));
    }
    b.begin(Arc::default()).unwrap();
    let refused = [b.fill_noise(Tensor(0), 8, noise).err(), b.flush_caches().err(), b.ceilings().err()];
    for error in refused {
        assert!(error.expect("it waits").to_string().contains("1 calls wait for `submit`"));
    }
}

fn tensor_of(b: &mut dyn Backend, width: usize) -> Tensor {
    b.tensor(TensorSpec { name: "test", rows: 1, width, element: Element::Activation }).unwrap()
}
