//! The packed product for the shapes of a 135 M model, on every instruction set of this machine, next to the `gemm` crate.
//! `cargo bench --bench gemm -- 576x576`: throughput is in floating-point operations (2 for each multiply-add).
//! Then the LoRA linear for ways to share 64 or 512 rows among adapters; throughput counts the base product only, so what adapters cost
//! is seen against the line `base`.

use std::sync::Arc;

use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::cpu::gemm::{Isa, Packed, Team, matmul_with};
use colloquy::backend::*;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Outputs and inputs.
const SHAPES: [(usize, usize); 5] = [(384, 128), (576, 576), (1536, 576), (576, 1536), (49152, 576)];
const ROWS: [usize; 3] = [1, 24, 256];

fn numbers(len: usize) -> Vec<f32> {
    (0..len as u64).map(|i| (colloquy::backend::mix(i) >> 40) as f32 / 8_388_608.0 - 1.0).collect()
}

fn product(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Team::new(threads).expect("threads");
    for (outputs, inputs) in SHAPES {
        let w = numbers(outputs * inputs);
        let packed =
            Packed::new(&pool, outputs, inputs, |i, out| out.copy_from_slice(&w[i * inputs..][..inputs]));
        for rows in ROWS {
            let mut group = c.benchmark_group(format!("{outputs}x{inputs}"));
            group.throughput(Throughput::Elements((2 * rows * outputs * inputs) as u64));
            let x = numbers(rows * inputs);
            let mut y = vec![0.0f32; rows * outputs];
            for isa in Isa::available().into_iter().filter(|&i| i != Isa::Portable || rows == 1) {
                group.bench_function(BenchmarkId::new(isa.name(), rows), |b| {
                    b.iter(|| matmul_with(isa, &pool, &x, rows, &packed, &mut y, false));
                });
            }
            group.bench_function(BenchmarkId::new("gemm crate", rows), |b| {
                b.iter(|| {
                    // SAFETY: the strides describe x `[rows, inputs]`, w `[outputs, inputs]` and y `[rows, outputs]`, all row-major.
                    unsafe {
                        gemm::gemm(
                            rows,
                            outputs,
                            inputs,
                            y.as_mut_ptr(),
                            1,
                            outputs as isize,
                            false,
                            x.as_ptr(),
                            1,
                            inputs as isize,
                            w.as_ptr(),
                            inputs as isize,
                            1,
                            0.0,
                            1.0,
                            false,
                            false,
                            false,
                            gemm::Parallelism::Rayon(threads),
                        );
                    }
                });
            });
            group.finish();
        }
    }
}

/// Forward and backward of a 1536 x 576 linear with adapters of rank 16, `adapters` segments of `rows` rows each.
fn lora(c: &mut Criterion) {
    let (outputs, inputs) = (1536, 576);
    for (name, adapters, rows) in
        [("base", 0, 64), ("1 of 64", 1, 64), ("64 of 1", 64, 1), ("base", 0, 512), ("2 of 256", 2, 256)]
    {
        let mut backend = CpuBackend::new(0).expect("a backend");
        let w = numbers(outputs * inputs);
        let parts = [WeightView::from_f32(&w, outputs, inputs)];
        let linear =
            backend.load_linear(LinearSpec { parts: &parts, bias: None, backward: true }).expect("weights");
        let part = PartLayout { module: "up".into(), start: 0, outputs };
        let group = GroupLayout { inputs, outputs, parts: vec![part] };
        backend.adapter_layout(&AdapterLayout { groups: vec![group] }).expect("a layout");
        let mut plan = BatchPlan::default();
        let mut row = 0;
        for _ in 0..adapters.max(1) {
            let mut slot = Slot::BASE;
            if adapters > 0 {
                let spec = SlotSpec { parts: vec![Some(PartSpec { rank: 16, scale: 2.0 })], dropout: 0.0 };
                slot = backend.create_slot(&spec).expect("a slot");
                backend.attach_optimizer(slot).expect("state");
                backend.write_slot(slot, PartId(0), LoraMatrix::B, &numbers(outputs * 16)).expect("B");
            }
            let (start, end) = (row, row + rows);
            plan.segments.push(Segment { slot, start, end });
            plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
            row = end;
        }
        let rows = row as usize;
        plan.tokens = vec![0; rows];
        let mut tensor = |width, element| {
            let spec = TensorSpec { name: "bench", rows, width, element };
            let tensor = backend.tensor(spec).expect("a tensor");
            backend.upload_f32(tensor, &numbers(rows * width)).expect("values");
            tensor
        };
        let [shrink, dshrink] = [(); 2].map(|()| Some(tensor(16, Element::F32)));
        let [x, dx, y, dy] =
            [inputs, inputs, outputs, outputs].map(|width| tensor(width, Element::Activation));
        backend.begin(Arc::new(plan)).expect("a plan");
        let mut criterion = c.benchmark_group(format!("lora {rows} rows"));
        criterion.throughput(Throughput::Elements((2 * rows * outputs * inputs) as u64));
        let group = Some(GroupId(0));
        criterion.bench_function(BenchmarkId::new("forward", name), |b| {
            let op = Op::LinearForward(LinearForward {
                linear,
                group,
                x,
                lora_x: None,
                shrink,
                residual: None,
                y,
            });
            b.iter(|| backend.enqueue(op.clone()).expect("forward"));
        });
        criterion.bench_function(BenchmarkId::new("backward", name), |b| {
            let op = Op::LinearBackward(LinearBackward {
                linear,
                group,
                x,
                lora_x: None,
                shrink,
                dy,
                dshrink,
                dx: Some(dx),
            });
            b.iter(|| backend.enqueue(op.clone()).expect("backward"));
        });
        criterion.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = product, lora
}
criterion_main!(benches);
