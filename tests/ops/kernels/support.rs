//! Devices, seeded numbers, segment layouts, and comparisons that name the first bad element.

use std::sync::Arc;

pub use crate::common::random::Random;
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::cuda::CudaBackend;
use colloquy::backend::cuda::device::Gpu;
use colloquy::backend::cuda::driver::Driver;
use colloquy::backend::*;

/// What a device's activations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

/// A device under test.
pub struct Device {
    pub name: String,
    pub precision: Precision,
    pub backend: Box<dyn Backend>,
}

/// A fresh backend on each device of this machine. What is missing is said, once a test.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device {
        name: "cpu".into(),
        precision: Precision::F32,
        backend: Box::new(CpuBackend::new(2).unwrap()),
    }];
    devices.extend(kernel_devices());
    devices
}

/// A fresh backend on each device that runs the kernels.
pub fn kernel_devices() -> Vec<Device> {
    let mut devices = Vec::new();
    #[cfg(feature = "emulator")]
    {
        use colloquy::backend::cuda::emulator::{Emulator, Mma};
        // In two orders of threads, and with tensor cores of both kinds: those that round, and
        // those that truncate and do so most often.
        for (seed, emulator) in [(1, Emulator::new(1)), (2, Emulator::new(2).with_mma(Mma::AMPERE))] {
            devices.push(Device {
                name: format!("{}, seed {seed}", emulator.arithmetic()),
                precision: Precision::Bf16,
                backend: Box::new(CudaBackend::new(Box::new(emulator))),
            });
        }
    }
    #[cfg(not(feature = "emulator"))]
    eprintln!("no emulator: built without the feature `emulator`");
    match Gpu::open(0) {
        Ok(gpu) => devices.push(Device {
            name: gpu.describe(),
            precision: Precision::Bf16,
            backend: Box::new(CudaBackend::new(Box::new(gpu))),
        }),
        Err(e) => eprintln!("no GPU: {e}"),
    }
    devices
}

impl Device {
    /// The CPU again, on one thread: its results must have the same bits. None for other devices.
    pub fn on_one_thread(&self) -> Option<Device> {
        (self.precision == Precision::F32).then(|| Device {
            name: "cpu, one thread".into(),
            precision: Precision::F32,
            backend: Box::new(CpuBackend::new(1).unwrap()),
        })
    }

    /// The values as the device stores an activation or a weight.
    pub fn stored(&self, values: &[f32]) -> Vec<f32> {
        match self.precision {
            Precision::F32 => values.to_vec(),
            Precision::Bf16 => values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
        }
    }

    pub fn tensor(&mut self, rows: usize, width: usize, element: Element) -> Tensor {
        self.backend.tensor(TensorSpec { name: "test", rows, width, element }).unwrap()
    }

    /// A tensor of activations with these values.
    pub fn upload(&mut self, values: &[f32], width: usize) -> Tensor {
        let t = self.tensor(values.len() / width, width, Element::Activation);
        self.backend.upload_f32(t, values).unwrap();
        t
    }

    /// Runs operations on a plan.
    pub fn run(&mut self, plan: &BatchPlan, ops: impl IntoIterator<Item = Op>) {
        self.backend.begin(Arc::new(plan.clone())).unwrap();
        for op in ops {
            self.backend.enqueue(op).unwrap();
        }
        self.backend.submit().unwrap();
    }

    pub fn download(&mut self, t: Tensor, rows: usize) -> Vec<f32> {
        let name = self.name.clone();
        self.backend.download_f32(t, rows).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

/// How rows are dealt to slots: lengths of segments.
#[derive(Clone, Debug)]
pub struct Segments {
    pub name: &'static str,
    /// (slot index 0 = base, rows).
    pub parts: Vec<(usize, usize)>,
}

/// The segment layouts of the table, for about `rows` rows and slots `1 ..= slots` besides the base.
pub fn segment_layouts(rows: usize, slots: usize) -> Vec<Segments> {
    let uniform = |n: usize| (0..n).map(|i| (1 + i % slots, (rows / n).max(1))).collect::<Vec<_>>();
    let mut skewed = vec![(0, 1)];
    skewed.extend((1..=slots).map(|s| (s, if s == 1 { rows.saturating_sub(slots).max(1) } else { 1 })));
    vec![
        Segments { name: "identical", parts: vec![(1, rows)] },
        Segments { name: "one each", parts: (1..=slots).map(|s| (s, 1)).collect() },
        Segments { name: "uniform", parts: uniform(slots) },
        Segments {
            name: "zipf",
            parts: (1..=slots).map(|s| (s, (rows as f64 / s as f64 / 2.0).ceil() as usize)).collect(),
        },
        Segments { name: "skewed", parts: skewed },
        Segments { name: "base only", parts: vec![(0, rows)] },
        Segments { name: "empty", parts: vec![(0, 3), (1, 0), (2.min(slots), 5), (slots, 0)] },
        Segments { name: "odd", parts: vec![(0, 7), (1, 9), (slots, 1)] },
    ]
}

/// A plan with one sequence a segment, from position 0; the slots by index.
pub fn plan_of(segments: &Segments, slots: &[Slot]) -> BatchPlan {
    let mut plan = BatchPlan::default();
    for &(slot, rows) in &segments.parts {
        let start = plan.positions.len() as u32;
        let end = start + rows as u32;
        plan.positions.extend(0..rows as u32);
        plan.segments.push(Segment { slot: slots[slot], start, end });
        if rows > 0 {
            plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
        }
    }
    plan.tokens = vec![0; plan.positions.len()];
    plan
}

/// Asserts `|got - exact| <= bound * (largest exact)`, prints the share of the bound that is used, names the first bad element.
pub fn assert_close(what: &str, got: &[f32], exact: &[f64], bound: f64) {
    assert_eq!(got.len(), exact.len(), "{what}: lengths");
    let scale = exact.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    let mut worst = 0f64;
    for (i, (&g, &e)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(g) - e).abs() / scale;
        assert!(error <= bound, "{what}: element {i} is {g}, expected {e}: {error:.2e} of {bound:.0e}");
        worst = worst.max(error);
    }
    println!("{what}: {:.0} % of the bound {bound:.0e}", 100.0 * worst / bound);
}

/// Asserts equal bits and names the first that differs.
pub fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let (a, b) = (g.to_bits(), e.to_bits());
        assert!(a == b, "{what}: element {i} is {g} ({a:#x}), expected {e} ({b:#x})");
    }
}
