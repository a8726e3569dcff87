//! What the tests of the operations share: seeded numbers, plans of packed sequences, and comparisons that name the first bad element.
#![allow(dead_code, unused_imports)] // each test file uses a part

use std::sync::Arc;

pub use crate::common::random::Random;
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::*;

pub fn cpu(threads: usize) -> CpuBackend {
    CpuBackend::new(threads).unwrap()
}

pub fn tensor(b: &mut impl Backend, rows: usize, width: usize) -> Tensor {
    b.tensor(TensorSpec { name: "test", rows, width, element: Element::Activation }).unwrap()
}

pub fn tensor_u32(b: &mut impl Backend, rows: usize) -> Tensor {
    b.tensor(TensorSpec { name: "test", rows, width: 1, element: Element::U32 }).unwrap()
}

/// A tensor with these values.
pub fn upload(b: &mut impl Backend, values: &[f32], width: usize) -> Tensor {
    let t = tensor(b, values.len() / width, width);
    b.upload_f32(t, values).unwrap();
    t
}

/// Rows of sequences of these (first position, tokens), all of the base.
pub fn plan_of(sequences: &[(usize, usize)]) -> BatchPlan {
    let mut plan = BatchPlan::default();
    for &(first, tokens) in sequences {
        let start = plan.positions.len() as u32;
        plan.positions.extend((first..first + tokens).map(|p| p as u32));
        plan.sequences.push(Sequence {
            start,
            end: start + tokens as u32,
            first_position: first as u32,
            pages_start: 0,
            pages_end: 0,
        });
    }
    let rows = plan.positions.len();
    plan.tokens = vec![0; rows];
    plan.segments = vec![Segment { slot: Slot::BASE, start: 0, end: rows as u32 }];
    plan
}

/// Runs one operation on a plan.
pub fn run(b: &mut impl Backend, plan: &BatchPlan, op: Op) {
    b.begin(Arc::new(plan.clone())).unwrap();
    b.enqueue(op).unwrap();
    b.submit().unwrap();
}

/// The error of one operation on a plan.
pub fn error_of(b: &mut impl Backend, plan: &BatchPlan, op: Op) -> String {
    b.begin(Arc::new(plan.clone())).unwrap();
    b.enqueue(op).unwrap_err().to_string()
}

/// Asserts `|got - exact| <= budget * (largest exact)` and says where it fails first.
pub fn assert_close(what: &str, got: &[f32], exact: &[f64], budget: f64) {
    assert_eq!(got.len(), exact.len(), "{what}: lengths");
    let scale = exact.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (i, (&g, &e)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(g) - e).abs() / scale;
        assert!(error <= budget, "{what}: element {i} is {g}, expected {e}: {error:.2e} of {budget:.0e}");
    }
}

/// Asserts equal bits and names the first that differs.
pub fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            g.to_bits() == e.to_bits(),
            "{what}: element {i} is {g} ({:#x}), expected {e} ({:#x})",
            g.to_bits(),
            e.to_bits()
        );
    }
}

/// Gradient of `f` at `x` by central differences in f64.
pub fn differences(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    (0..x.len())
        .map(|i| {
            let (old, h) = (x[i], 1e-5);
            x[i] = old + h;
            let up = f(&x);
            x[i] = old - h;
            let down = f(&x);
            x[i] = old;
            (up - down) / (2.0 * h)
        })
        .collect()
}

pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}
