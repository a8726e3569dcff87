//! The operation trace: what the engine asks of a backend does not grow with the number of adapters, and it never looks at a
//! value before it downloads it (the recording backend runs nothing before `submit`).

use std::any::Any;
use std::collections::BTreeMap;

use crate::common::tiny::*;
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::recording::Recording;
use colloquy::backend::{AdamW, Backend, Op};
use colloquy::engine::*;

fn recorded(options: EngineOptions) -> EngineHandle {
    let mut backend: Box<dyn Backend> = Box::new(Recording::new(CpuBackend::new(2).unwrap()));
    let model = TINY.load(&mut *backend);
    EngineHandle::new(Engine::new(backend, model, options).unwrap())
}

fn with_recording<T>(handle: &EngineHandle, look: impl FnOnce(&mut Recording<CpuBackend>) -> T) -> T {
    handle.with(|e| {
        let backend: &mut dyn Any = e.backend();
        look(backend.downcast_mut().expect("the recording backend"))
    })
}

/// The operations of one step.
fn step(handle: &EngineHandle) -> BTreeMap<&'static str, usize> {
    with_recording(handle, Recording::clear_trace);
    assert!(handle.with(Engine::step).unwrap());
    with_recording(handle, |r| {
        assert_eq!(r.stored(), 0, "work is left behind the submit");
        r.counts()
    })
}

fn agents(handle: &EngineHandle, count: u64) -> Vec<AdapterId> {
    let layout = layout(handle);
    (0..count).map(|i| add(handle, &strong_adapter(&layout, 4 + 4 * (i as usize % 5), i))).collect()
}

#[test]
fn a_decode_step_of_sixteen_adapters_is_that_of_one() {
    let mut traces = vec![];
    for count in [1, 16] {
        let handle = recorded(options());
        let waiting: Vec<_> =
            agents(&handle, count).into_iter().map(|a| handle.sample(request(a, &[5, 6], 4, 1))).collect();
        let prefill = step(&handle);
        let decode = step(&handle);
        let segments = with_recording(&handle, |r| r.trace().iter().map(|t| t.segments).max());
        assert_eq!(segments, Some(count as usize));
        assert_eq!(prefill, decode);
        traces.push(decode);
        for sample in answers(&handle, waiting) {
            assert_eq!(sample.unwrap().tokens.len(), 4);
        }
    }
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0]["linear_forward"], 4 * TINY.layers);
    assert_eq!(traces[0]["lm_head_sample"], 1);
}

#[test]
fn a_micro_batch_of_sixteen_adapters_is_that_of_one_and_they_step_at_once() {
    let mut traces = vec![];
    for count in [1, 16] {
        let handle = recorded(EngineOptions { micro_batch_rows: 0, ..options() });
        let waiting: Vec<_> = agents(&handle, count)
            .into_iter()
            .map(|a| {
                let data = sequences(&mut Random(u64::from(a.0)), 3, (5, 20), TINY.vocab);
                handle.train(train_request(a, &data, 3, 0.01))
            })
            .collect();
        let micro_batch = step(&handle);
        let optimizer = step(&handle);
        assert_eq!(optimizer, BTreeMap::from([("grad_norms", 1), ("adamw", 1)]));
        with_recording(&handle, |r| match &r.trace()[1].op {
            Op::AdamW(AdamW { steps, .. }) => assert_eq!(steps.len(), count as usize),
            other => panic!("{other:?}"),
        });
        assert!(!handle.with(Engine::step).unwrap());
        traces.push(micro_batch);
        for metrics in answers(&handle, waiting) {
            assert_eq!(metrics.unwrap().len(), 1);
        }
    }
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0]["linear_forward"], 4 * TINY.layers);
    assert_eq!(traces[0]["linear_backward"], 4 * TINY.layers);
    assert_eq!(traces[0]["lm_head_loss"], 1);
}

#[test]
fn deferred_execution_gives_the_same_results() {
    let run = |handle: &EngineHandle| {
        let ids = agents(handle, 3);
        let requests: Vec<_> = ids
            .iter()
            .flat_map(|&a| (0..5).map(move |key| request(a, &Random(key).tokens(40, 64), 30, key)))
            .collect();
        let drawn = samples(handle, &requests);
        let data = sequences(&mut Random(1), 9, (5, 40), TINY.vocab);
        let training: Vec<_> = ids.iter().map(|&a| train_request(a, &data, 4, 0.01)).collect();
        let metrics: Vec<_> = train(handle, &training).into_iter().map(|m| m.unwrap()).collect();
        let snapshots: Vec<_> = ids.iter().map(|&a| bits(&handle.snapshot(a, true).unwrap())).collect();
        (drawn, metrics, snapshots, samples(handle, &requests))
    };
    let tight = EngineOptions { kv: KvBudget::Pages(12), ..options() };
    assert!(run(&recorded(tight)) == run(&TINY.handle(1, options())));
}

#[test]
fn three_agents_prefill_a_question_once() {
    let handle = recorded(options());
    let layout = layout(&handle);
    let question = Random(1).tokens(50, TINY.vocab);
    let waiting: Vec<_> = (0..3)
        .map(|a| {
            let id = add(&handle, &fresh_adapter(&layout, 4, a));
            handle.sample(request(id, &question, 5, a))
        })
        .collect();
    step(&handle);
    with_recording(&handle, |r| assert!(r.trace().iter().all(|t| (t.rows, t.segments) == (50, 1))));
    assert_eq!(handle.with(|e| e.stats().sampling.tokens), 3);
    answers(&handle, waiting).into_iter().for_each(|s| assert!(s.is_ok()));
}
