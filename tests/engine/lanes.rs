//! Lanes over a shared engine: recipes as straight-line code, journalled, fused, and the same whatever shares the engine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::common::tiny::*;
use colloquy::adapter::Snapshot;
use colloquy::backend::{Backend, cpu::CpuBackend};
use colloquy::engine::*;
use colloquy::error::{Error, Result};
use futures::FutureExt;

/// A journal in memory.
#[derive(Default)]
struct Memory {
    entries: RefCell<BTreeMap<String, String>>,
    order: RefCell<Vec<String>>,
    adapters: RefCell<BTreeMap<String, Vec<Snapshot>>>,
    replayed: RefCell<usize>,
}

impl Memory {
    /// What would be left if the run had been killed after `count` calls.
    fn cut(&self, count: usize) -> Self {
        let order: Vec<String> = self.order.borrow()[..count].to_vec();
        let entries = order.iter().map(|c| (c.clone(), self.entries.borrow()[c].clone())).collect();
        Self {
            entries: RefCell::new(entries),
            order: RefCell::new(order),
            adapters: RefCell::new(self.adapters.borrow().clone()),
            replayed: RefCell::new(0),
        }
    }
}

impl Journal for Memory {
    fn replay(&self, call: &str) -> Result<Option<Entry>> {
        Ok(self.entries.borrow().get(call).map(|text| {
            *self.replayed.borrow_mut() += 1;
            serde_json::from_str(text).unwrap()
        }))
    }
    fn record(&self, call: &str, entry: &Entry) -> Result<()> {
        self.entries.borrow_mut().insert(call.into(), serde_json::to_string(entry).unwrap());
        self.order.borrow_mut().push(call.into());
        Ok(())
    }
    fn save_adapters(&self, call: &str, adapters: &[Snapshot]) -> Result<()> {
        self.adapters.borrow_mut().insert(call.into(), adapters.to_vec());
        Ok(())
    }
    fn load_adapters(&self, call: &str) -> Result<Kept> {
        Ok(Kept::Whole(self.adapters.borrow()[call].clone()))
    }
}

type Outcome = (Vec<Sample>, Vec<Vec<u32>>);

/// A recipe in small: agents answer questions, each concurrently; each is trained on its answers; they answer again.
async fn recipe(scope: Scope, agents: usize, seed: u64, out: Rc<RefCell<Outcome>>) -> Result<()> {
    let layout = out_layout();
    let mut ids: Vec<AdapterId> = Vec::new();
    for a in 0..agents {
        let fresh = fresh_adapter(&layout, 4, seed + a as u64);
        ids.push(scope.service().create(AdapterSource::Snapshot(fresh.into())).await?);
    }
    for iteration in 0..2_u64 {
        let questions = (0..4_u64).map(|q| {
            let scope = scope.child(format!("iteration-{iteration}/q-{q}"));
            let ids = ids.clone();
            async move {
                let question = Random(q).tokens(20, TINY.vocab);
                let requests = ids.iter().enumerate().map(|(a, &id)| {
                    let key = draw_key(&[&seed.to_le_bytes(), &iteration.to_le_bytes(), &[q as u8, a as u8]]);
                    request(id, &question, 10 + q as u32, key)
                });
                let first = scope.sample(requests.collect()).await?;
                let summary: Vec<u32> =
                    question.iter().copied().chain(first.iter().flat_map(|s| s.tokens.clone())).collect();
                let second = scope.sample(vec![request(AdapterId::BASE, &summary, 5, q)]).await?;
                let scores =
                    scope.score(vec![ScoreRequest { adapter: ids[0], tokens: summary.into() }]).await?;
                assert!(scores[0].logprobs.iter().all(|l| l.is_finite()));
                Ok::<_, Error>((question, first, second))
            }
        });
        let rounds = futures::future::try_join_all(questions).await?;
        let requests = ids.iter().enumerate().map(|(a, &id)| {
            let data: Vec<TrainSequence> = rounds
                .iter()
                .map(|(question, first, _)| {
                    let tokens: Vec<u32> = question.iter().chain(&first[a].tokens).copied().collect();
                    let weights = (0..tokens.len()).map(|i| f32::from(i >= question.len())).collect();
                    TrainSequence { tokens, weights }
                })
                .collect();
            TrainRequest { fresh_moments: iteration == 0, ..train_request(id, &data, 2, 0.01) }
        });
        scope.train(requests.collect(), true).await?;
        for (_, first, second) in rounds {
            out.borrow_mut().0.extend(first.into_iter().chain(second));
        }
    }
    for id in ids {
        let snapshot = scope.service().snapshot(id, true).await?;
        out.borrow_mut().1.push(bits(&snapshot));
        scope.service().drop_adapter(id).await?;
    }
    Ok(())
}

fn out_layout() -> colloquy::backend::AdapterLayout {
    thread_local!(static LAYOUT: colloquy::backend::AdapterLayout = layout(&TINY.handle(1, options())));
    LAYOUT.with(Clone::clone)
}

/// Runs (agents, seed) lanes over one engine.
fn run(handle: &EngineHandle, journal: Rc<dyn Journal>, lanes: &[(usize, u64)]) -> Vec<Outcome> {
    let outs: Vec<Rc<RefCell<Outcome>>> = lanes.iter().map(|_| Rc::default()).collect();
    let futures = lanes.iter().zip(&outs).enumerate().map(|(i, (&(agents, seed), out))| {
        let scope = Scope::new(format!("lane-{i}"), Rc::new(handle.clone()), journal.clone());
        recipe(scope, agents, seed, out.clone()).boxed_local()
    });
    run_lanes(handle, futures.collect()).unwrap();
    outs.into_iter().map(|o| o.take()).collect()
}

#[test]
fn lanes_together_equal_lanes_alone() {
    let lanes = [(3, 1), (1, 1), (2, 5)];
    let handle = TINY.handle(2, EngineOptions { micro_batch_rows: 1024, ..options() });
    let together = run(&handle, Rc::new(NoJournal), &lanes);
    for (lane, together) in lanes.iter().zip(&together) {
        let handle = TINY.handle(1, EngineOptions { max_rows: 33, micro_batch_rows: 0, ..options() });
        assert!(run(&handle, Rc::new(NoJournal), &[*lane])[0] == *together, "{lane:?}");
    }
    // Seed 1's first agent is the same in both lanes, and so are the first answers: drawn once.
    assert!(handle.with(|e| e.stats().sampling.shared) >= 4);
    // All lanes' training fell together: 2 iterations of 2 steps each.
    assert_eq!(handle.with(|e| e.stats().optimizer_steps), 4);
    assert_eq!(handle.with(|e| e.kv_pages().0), 0);
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let lanes = [(2, 1), (1, 9)];
    let journal = Rc::new(Memory::default());
    let expected = run(&TINY.handle(2, options()), journal.clone(), &lanes);
    let calls = journal.order.borrow().len();
    assert_eq!(calls, 2 * (2 * 4 * 3 + 2));
    for count in (0..=calls).step_by(5).chain([calls]) {
        let cut = Rc::new(journal.cut(count));
        let handle = TINY.handle(1, options());
        assert!(run(&handle, cut.clone(), &lanes) == expected, "after {count} calls");
        assert_eq!(*cut.replayed.borrow(), count);
        assert_eq!(cut.order.borrow().len(), calls);
    }
}

#[test]
fn the_error_of_a_lane_ends_the_run() {
    let handle = TINY.handle(1, options());
    let inner = handle.clone();
    let failing = async move {
        inner.sample(request(AdapterId::BASE, &[1, 2], 3, 0)).await?;
        // One bad request beside a good one: only it is refused.
        let good = inner.sample(request(AdapterId::BASE, &[1, 2], 3, 1));
        let bad = inner.sample(request(AdapterId::BASE, &[], 3, 1)).await;
        assert!(message(&bad).contains("empty"));
        assert_eq!(good.await?.tokens.len(), 3);
        bad.map(|_| ())
    };
    let inner = handle.clone();
    let endless = async move {
        for key in 0.. {
            inner.sample(request(AdapterId::BASE, &[1, 2], 3, key)).await?;
        }
        Ok(())
    };
    let error = run_lanes(&handle, vec![endless.boxed_local(), failing.boxed_local()]);
    assert!(message(&error).contains("empty"));
}

#[test]
fn waiting_for_nothing_is_an_error() {
    let handle = TINY.handle(1, options());
    let stuck = run_lanes(&handle, vec![std::future::pending().boxed_local()]);
    assert!(matches!(stuck, Err(Error::Internal(_))), "{stuck:?}");
    run_lanes(&handle, vec![]).unwrap();
}

#[test]
fn two_engines_live_side_by_side() {
    let (a, b) = (TINY.handle(1, options()), Tiny { seed: 2, ..TINY }.handle(1, options()));
    let r = request(AdapterId::BASE, &[5, 6, 7], 20, 1);
    let alone = samples(&a, std::slice::from_ref(&r)).remove(0);
    let c = TINY.handle(1, options());
    let both = Rc::new(RefCell::new(vec![]));
    let lane = {
        let (b, c, r, both) = (b.clone(), c.clone(), r.clone(), both.clone());
        async move {
            let other = b.sample(r.clone());
            let same = c.sample(r).await?;
            both.borrow_mut().push(same);
            while b.with(Engine::step)? {}
            let other = other.await?;
            both.borrow_mut().push(other);
            Ok(())
        }
    };
    run_lanes(&c, vec![lane.boxed_local()]).unwrap();
    assert_eq!(both.borrow()[0], alone);
    assert_ne!(both.borrow()[1], alone);
}

#[test]
fn the_memory_plan_names_the_smallest_limit_that_works() {
    let mut backend: Box<dyn Backend> = Box::new(CpuBackend::new(1).unwrap());
    let model = TINY.load(&mut *backend);
    let plan = |limit: Option<usize>| {
        let options =
            EngineOptions { memory_limit: limit, kv: KvBudget::Auto, adapters: 4, max_rank: 16, ..options() };
        MemoryPlan::new(&*backend, &model, &options).map(|p| (p, options))
    };
    let text = message(&plan(Some(1000)));
    let number: usize = text.split('(').nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(plan(Some(number - 1)).is_err(), "{text}");
    let (smallest, options) = plan(Some(number)).unwrap();
    assert_eq!(smallest.total(), number);
    assert_eq!(smallest.kv_pages, 8);
    let table = smallest.to_string();
    for consumer in
        ["weights", "adapters", "optimizer", "sampling", "training", "logits", "KV cache", "in all"]
    {
        assert!(table.contains(consumer), "{table}");
    }
    assert!(plan(None).unwrap().0.total() > number);

    // The plan holds: an engine under it samples and trains all it was planned for, and takes no more.
    let handle = EngineHandle::new(Engine::new(backend, model, options).unwrap());
    let layout = layout(&handle);
    let mut requests = vec![];
    for a in 0..4 {
        let id = add(&handle, &strong_adapter(&layout, 16, a));
        samples(&handle, &[request(id, &[1, 2, 3], 125, a)]);
        requests.push(train_request(id, &sequences(&mut Random(a), 8, (30, 128), 64), 8, 0.01));
    }
    for result in train(&handle, &requests) {
        result.unwrap();
    }
    let in_use = handle.with(|e| e.backend().bytes_in_use());
    let planned = number - smallest.beside;
    assert!(in_use <= planned, "{in_use} of {planned}");
    assert!(in_use > planned * 9 / 10, "{in_use} of {planned}");
}

/// A value after a journey as text.
fn sent<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> T {
    let arrived = serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap();
    assert_eq!(value, &arrived);
    arrived
}

#[test]
fn requests_that_were_sent_elsewhere_give_the_same_results() {
    let (here, there) = (TINY.handle(1, options()), TINY.handle(1, options()));
    let layout = layout(&here);
    let sources = [1, 2].map(|seed| AdapterSource::Snapshot(Arc::new(strong_adapter(&layout, 4, seed))));
    let ids = sources.each_ref().map(|source| here.create(source.clone()).unwrap());
    assert_eq!(sources.each_ref().map(|source| there.create(sent(source)).unwrap()), ids);
    let prompt = Random(1).tokens(20, TINY.vocab);
    let mixed = SampleRequest {
        adapters: vec![(ids[0], 0.3), (ids[1], 0.7)],
        kind: SampleKind::LaterAnswer,
        ..request(ids[0], &prompt, 12, u64::MAX - 1)
    };
    assert_eq!(samples(&here, std::slice::from_ref(&mixed)), samples(&there, &[sent(&mixed)]));
    let score = ScoreRequest { adapter: ids[1], tokens: prompt.clone().into() };
    let scores = |handle: &EngineHandle, r| answers(handle, vec![handle.score(r)]).remove(0).unwrap();
    assert_eq!(scores(&here, score.clone()), scores(&there, sent(&score)));
    let embed = EmbedRequest { adapter: ids[0], tokens: prompt.into(), from: 3 };
    let means = |handle: &EngineHandle, r| answers(handle, vec![handle.embed(r)]).remove(0).unwrap();
    assert_eq!(means(&here, embed.clone()), means(&there, sent(&embed)));
    let mut lesson =
        train_request(ids[0], &sequences(&mut Random(2), 4, (9, 20), TINY.vocab), 2, 0.1f32.sqrt());
    lesson.optimizer.max_grad_norm = f32::INFINITY;
    lesson.steps[1].normalizer = Normalizer::Number(1.0 / 3.0);
    let metrics = |handle, r| train(handle, &[r]).remove(0).unwrap();
    assert_eq!(metrics(&here, lesson.clone()), metrics(&there, sent(&lesson)));
    let trained = [&here, &there].map(|handle| handle.snapshot(ids[0], true).unwrap());
    assert_eq!(bits(&trained[0]), bits(&trained[1]));
    assert_eq!(bits(&sent(&trained[0])), bits(&trained[0]));
    let stop = Stop::new(u64::MAX, &["b".into(), String::new(), "a\n".into(), "b".into()]);
    assert_eq!(sent(&stop).unwrap().strings[..], ["a\n", "b"]);
}

#[test]
fn a_lane_numbers_its_adapters_by_itself() {
    let handle = TINY.handle(1, options());
    let layout = layout(&handle);
    let numbers = |seed| Arc::new(strong_adapter(&layout, 4, seed));
    let lane = |name: &str| Scope::lane(name, Rc::new(handle.clone()), Rc::new(NoJournal));
    let (first, second, numbers) = (lane("first"), lane("second"), [1, 2, 3].map(numbers));
    let work = async move {
        let new = |i: usize| AdapterSource::Snapshot(numbers[i].clone());
        assert_eq!(first.service().create(new(0)).await?, AdapterId(1));
        assert_eq!(second.service().create(new(1)).await?, AdapterId(1));
        assert_eq!(first.service().create(AdapterSource::Clone(AdapterId(1))).await?, AdapterId(2));
        assert_eq!(second.service().create(new(2)).await?, AdapterId(2));
        // Each reads, samples, scores and writes its own.
        for (scope, id, expected) in [(&first, 1, 0), (&second, 1, 1), (&first, 2, 0), (&second, 2, 2)] {
            let found = scope.service().snapshot(AdapterId(id), false).await?;
            assert_eq!(bits(&found), bits(&numbers[expected]), "{} {id}", scope.path());
        }
        let ask = |id| vec![request(AdapterId(id), &[5, 6, 7], 20, 1)];
        let [one, other] = [first.sample(ask(1)).await?, second.sample(ask(1)).await?];
        assert_ne!(one, other);
        assert_eq!(first.sample(ask(2)).await?, one, "a clone");
        let read = |id| vec![ScoreRequest { adapter: AdapterId(id), tokens: [5, 6, 7, 8].into() }];
        assert_ne!(first.score(read(1)).await?, second.score(read(1)).await?);
        first.service().restore(AdapterId(2), numbers[2].clone()).await?;
        assert_eq!(first.score(read(2)).await?, second.score(read(2)).await?);
        // Errors call an adapter as the lane does.
        let mut bad = train_request(AdapterId(2), &sequences(&mut Random(2), 1, (9, 9), 8), 1, 0.1);
        bad.steps[0].sequences = vec![7];
        assert!(message(&second.train(vec![bad], false).await).contains("training of adapter 2, step 1"));
        second.service().drop_adapter(AdapterId(1)).await?;
        let gone = message(&second.sample(ask(1)).await);
        assert_eq!(gone, "adapter 1: there is no such adapter");
        assert_eq!(first.sample(ask(1)).await?, one);
        assert!(message(&first.score(read(3)).await).contains("adapter 3: there is no such"));
        assert!(message(&first.service().drop_adapter(AdapterId::BASE).await).contains("the base model"));
        Ok(())
    };
    run_lanes(&handle, vec![work.boxed_local()]).unwrap();
}
