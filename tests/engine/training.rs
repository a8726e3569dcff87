//! The trainer on the CPU backend: an adapter learns the same alone and beside others.

use crate::common::tiny::{self, *};
use colloquy::adapter::Snapshot;
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::{LoraMatrix, PartId};
use colloquy::engine::*;

/// Adapters of mixed shape with a request each, of batch sizes 1, 3 and 64.
fn society(handle: &EngineHandle) -> Vec<TrainRequest> {
    let layout = layout(handle);
    let mut random = Random(11);
    let mut request = |snapshot: &Snapshot, count, batch, lengths| {
        let sequences = sequences(&mut random, count, lengths, TINY.vocab);
        train_request(add(handle, snapshot), &sequences, batch, 0.02)
    };
    let mut dropped = strong_adapter(&layout, 8, 4);
    dropped.spec.dropout = 0.3;
    vec![
        request(&dropped, 7, 2, (8, 90)),
        request(&fresh_adapter(&layout, 4, 1), 3, 1, (2, 60)),
        request(&strong_adapter(&layout, 16, 2), 8, 3, (10, 128)),
        request(&strong_adapter(&layout, 24, 3), 130, 64, (5, 25)),
    ]
}

/// Each adapter under several normalizers, one a step, half of its weights negative where that may be.
fn mixed_normalizers(mut requests: Vec<TrainRequest>) -> Vec<TrainRequest> {
    let kinds = [Normalizer::Tokens, Normalizer::Sequences, Normalizer::Weights, Normalizer::Number(2.5)];
    for (i, request) in requests.iter_mut().enumerate() {
        let mut sequences = request.sequences.to_vec();
        for (k, step) in request.steps.iter_mut().enumerate() {
            step.normalizer = kinds[(i + k) % kinds.len()];
            if step.normalizer != Normalizer::Weights {
                let own = step.sequences.iter().step_by(2);
                own.for_each(|&s| sequences[s as usize].weights.iter_mut().for_each(|w| *w = -*w));
            }
        }
        request.sequences = sequences.into();
    }
    requests
}

#[test]
fn adapters_trained_together_equal_adapters_trained_alone() {
    let run = |threads, micro_batch_rows, alone: bool| {
        let handle = TINY.handle(threads, EngineOptions { micro_batch_rows, ..options() });
        let requests = mixed_normalizers(society(&handle));
        let metrics: Vec<_> = if alone {
            requests.iter().map(|r| train(&handle, std::slice::from_ref(r)).remove(0).unwrap()).collect()
        } else {
            train(&handle, &requests).into_iter().map(Result::unwrap).collect()
        };
        let snapshots: Vec<_> =
            requests.iter().map(|r| bits(&handle.snapshot(r.adapter, true).unwrap())).collect();
        (metrics, snapshots)
    };
    let reference = run(1, 256, true);
    assert_eq!(reference.0.iter().map(Vec::len).collect::<Vec<_>>(), [4, 3, 3, 3]);
    for threads in [1, 2] {
        for rows in [256, 1024, 0] {
            let (metrics, snapshots) = run(threads, rows, false);
            assert_eq!(metrics, reference.0, "{threads} threads, micro-batches of {rows}");
            assert!(snapshots == reference.1, "{threads} threads, micro-batches of {rows}");
        }
    }
    assert!(run(2, 0, true) == reference);
}

#[test]
fn dropout_is_drawn_anew_each_step_from_the_key_and_can_be_drawn_again() {
    // The bits after three steps over the same sequences, and the losses; the learning rate is so small that the adapter hardly moves.
    let run = |rate: f32, key: u64, fresh: &[bool]| {
        let handle = TINY.handle(2, options());
        let mut snapshot = strong_adapter(&layout(&handle), 8, 1);
        snapshot.spec.dropout = rate;
        let adapter = add(&handle, &snapshot);
        let data = sequences(&mut Random(3), 4, (20, 40), TINY.vocab);
        let mut losses = Vec::new();
        for &fresh_moments in fresh {
            let mut r = TrainRequest { key, fresh_moments, ..train_request(adapter, &data, 4, 1e-7) };
            if fresh.len() == 1 {
                r.steps = vec![r.steps[0].clone(); 3];
            }
            losses.extend(train(&handle, &[r]).remove(0).unwrap().iter().map(|m| m.loss));
        }
        let after = handle.snapshot(adapter, true).unwrap();
        assert_eq!(after.spec.dropout, rate);
        (losses, bits(&after))
    };
    let at_once = [true];
    let (bare, dropped) = (run(0.0, 1, &at_once), run(0.4, 1, &at_once));
    let apart = |losses: &[f32]| (losses[0] - losses[1]).abs().min((losses[1] - losses[2]).abs());
    assert!(apart(&bare.0) < 1e-4, "{:?}", bare.0);
    assert!(apart(&dropped.0) > 1e-3, "{:?}: the same masks in every step?", dropped.0);
    assert!((dropped.0[0] - bare.0[0]).abs() > 1e-3);
    assert!(run(0.4, 1, &at_once) == dropped);
    assert!(run(0.4, 2, &at_once).0[0] != dropped.0[0]);
    // Training that goes on in another request goes on with the masks.
    assert!(run(0.4, 1, &[true, false, false]) == dropped);
}

#[test]
fn training_lowers_the_loss() {
    let handle = TINY.handle(2, options());
    let adapter = add(&handle, &fresh_adapter(&layout(&handle), 8, 1));
    let data = sequences(&mut Random(1), 4, (20, 30), TINY.vocab);
    let mut r = train_request(adapter, &data, 4, 0.02);
    r.steps = vec![r.steps[0].clone(); 30];
    let metrics = train(&handle, &[r]).remove(0).unwrap();
    assert!(metrics[29].loss < 0.3 * metrics[0].loss, "{} to {}", metrics[0].loss, metrics[29].loss);
    assert_eq!(metrics[0].tokens, data.iter().map(|s| s.tokens.len() as u64).sum::<u64>());
    // The loss is the weighted mean of what the scorer says.
    let other = TINY.handle(1, options());
    let (mut sum, mut total) = (0.0, 0.0);
    for s in &data {
        let scored = score(&other, AdapterId::BASE, &s.tokens);
        for (l, w) in scored.logprobs.iter().zip(&s.weights[1..]) {
            sum -= f64::from(w * l);
            total += f64::from(*w);
        }
    }
    assert!((f64::from(metrics[0].loss) - sum / total).abs() < 1e-6);
}

#[test]
fn five_hundred_clones_step_at_once_as_each_would_alone() {
    let mini = Tiny { hidden: 16, intermediate: 16, layers: 1, heads: 1, context: 32, ..TINY };
    let settings = EngineOptions { micro_batch_rows: 0, ..options() };
    let handle = mini.handle(2, settings);
    let parent = strong_adapter(&layout(&handle), 2, 1);
    let parent_id = add(&handle, &parent);
    let mut random = Random(4);
    let requests: Vec<TrainRequest> = (0..500)
        .map(|i| {
            let clone = handle.create(AdapterSource::Clone(parent_id)).unwrap();
            let data = sequences(&mut random, 1 + i % 2, (3, 12), mini.vocab);
            train_request(clone, &data, 2, 0.001 * (1 + i % 7) as f32)
        })
        .collect();
    let together = train(&handle, &requests);
    let stats = handle.with(|e| e.stats());
    assert_eq!((stats.micro_batches, stats.optimizer_steps), (1, 1));

    let alone = mini.handle(1, settings);
    for (request, together) in requests.iter().zip(together) {
        let id = add(&alone, &parent);
        let request_alone = TrainRequest { adapter: id, ..request.clone() };
        assert_eq!(train(&alone, &[request_alone]).remove(0).unwrap(), together.unwrap());
        let (a, b) = (alone.snapshot(id, true).unwrap(), handle.snapshot(request.adapter, true).unwrap());
        assert!(bits(&a) == bits(&b), "clone {:?}", request.adapter);
        alone.drop_adapter(id).unwrap();
    }
    assert!(bits(&handle.snapshot(parent_id, false).unwrap()) == bits(&parent));
}

#[test]
fn a_step_that_is_not_finite_can_be_left_out() {
    let skip = Optimizer { non_finite: NonFinite::Skip, ..Optimizer::default() };
    let of = |ids: &[usize], handle: &EngineHandle, data: &[TrainSequence], spoilt: bool| {
        let layout = layout(handle);
        let mut broken = strong_adapter(&layout, 4, 1);
        broken.weights.iter_mut().filter(|m| m.1 == LoraMatrix::B).for_each(|m| m.2[0] = f32::INFINITY);
        let all = [&broken, &strong_adapter(&layout, 4, 2), &strong_adapter(&layout, 4, 3)];
        let mut requests: Vec<TrainRequest> = ids
            .iter()
            .map(|&i| {
                let r = train_request(add(handle, all[i]), data, 2, 0.01);
                TrainRequest { optimizer: skip, ..r }
            })
            .collect();
        if spoilt {
            // Of the third adapter, the second step alone: weights so large that the square of the gradient is beyond f32.
            let last = requests.last_mut().unwrap();
            let mut sequences = last.sequences.to_vec();
            sequences[3].weights.fill(0.0);
            sequences[2].weights.fill(0.0);
            sequences[2].weights[1..4].copy_from_slice(&[1e38, -1e38, 1e-30]);
            last.sequences = sequences.into();
            last.steps[1].normalizer = Normalizer::Tokens;
        }
        let ids: Vec<AdapterId> = requests.iter().map(|r| r.adapter).collect();
        let metrics: Vec<_> = train(handle, &requests).into_iter().map(Result::unwrap).collect();
        let bits: Vec<_> = ids.iter().map(|&id| bits(&handle.snapshot(id, true).unwrap())).collect();
        (metrics, bits)
    };
    let data = sequences(&mut Random(1), 6, (10, 20), TINY.vocab);
    let (metrics, bits) = of(&[0, 1, 2], &TINY.handle(2, options()), &data, true);
    let faults = |i: usize| metrics[i].iter().map(|m: &StepMetrics| m.fault).collect::<Vec<_>>();
    assert_eq!(faults(0), [Some(Fault::Loss(0)), Some(Fault::Loss(2)), Some(Fault::Loss(4))]);
    assert_eq!(faults(1), [None; 3]);
    assert_eq!(faults(2), [None, Some(Fault::GradNorm), None]);
    assert_eq!(metrics[2].iter().map(|m| m.step).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(metrics[2][1].tokens, data[2..4].iter().map(|s| s.tokens.len() as u64).sum::<u64>());

    // The one that was left alone has the bytes that it has alone.
    let alone = of(&[1], &TINY.handle(1, options()), &data, false);
    assert!(alone == (vec![metrics[1].clone()], vec![bits[1].clone()]), "another adapter felt it");
    // The one that never stepped is as it was; the one that left a step out is as one that was never given it.
    let handle = TINY.handle(1, options());
    let layout = layout(&handle);
    let id = add(&handle, &strong_adapter(&layout, 4, 3));
    let mut r = TrainRequest { optimizer: skip, ..train_request(id, &data, 2, 0.01) };
    r.steps.remove(1);
    let two = train(&handle, &[r]).remove(0).unwrap();
    assert_eq!(two.iter().map(|m| m.loss).collect::<Vec<_>>(), [metrics[2][0].loss, metrics[2][2].loss]);
    assert!(tiny::bits(&handle.snapshot(id, true).unwrap()) == bits[2]);
}

#[test]
fn a_loss_that_is_not_finite_ends_that_request_alone() {
    let handle = TINY.handle(2, options());
    let layout = layout(&handle);
    let mut broken = strong_adapter(&layout, 4, 1);
    broken.weights.iter_mut().filter(|m| m.1 == LoraMatrix::B).for_each(|m| m.2[0] = f32::INFINITY);
    let (bad, good) = (add(&handle, &broken), add(&handle, &strong_adapter(&layout, 4, 2)));
    let data = sequences(&mut Random(1), 6, (10, 20), TINY.vocab);
    let before = bits(&handle.snapshot(bad, false).unwrap());
    let results = train(&handle, &[train_request(bad, &data, 3, 0.01), train_request(good, &data, 3, 0.01)]);
    assert!(is_not_finite(&results[0]));
    let text = message(&results[0]);
    assert!(text.contains("adapter 1, step 1, sequence 0"), "{text}");
    assert_eq!(bits(&handle.snapshot(bad, false).unwrap()), before);

    let other = TINY.handle(1, options());
    let alone = add(&other, &strong_adapter(&layout, 4, 2));
    assert_eq!(
        train(&other, &[train_request(alone, &data, 3, 0.01)])[0].as_ref().unwrap(),
        results[1].as_ref().unwrap()
    );
    assert!(
        bits(&other.snapshot(alone, true).unwrap()) == bits(&handle.snapshot(good, true).unwrap()),
        "the other adapter felt it"
    );
    // Mended, it trains as if nothing had been.
    handle.restore(bad, &strong_adapter(&layout, 4, 2)).unwrap();
    let mended = TrainRequest { fresh_moments: false, ..train_request(bad, &data, 3, 0.01) };
    train(&handle, &[mended]).remove(0).unwrap();
    assert!(bits(&other.snapshot(alone, true).unwrap()) == bits(&handle.snapshot(bad, true).unwrap()));

    // Sampling from it is an error too.
    let again = add(&handle, &broken);
    let work = vec![handle.sample(request(again, &[1, 2, 3], 5, 1))];
    assert!(is_not_finite(&answers(&handle, work)[0]));
    let work = vec![handle.score(ScoreRequest { adapter: again, tokens: [1, 2, 3].into() })];
    assert!(is_not_finite(&answers(&handle, work)[0]));
}

#[test]
fn moments_go_on_from_a_snapshot() {
    let data = sequences(&mut Random(7), 12, (10, 30), TINY.vocab);
    let handle = TINY.handle(1, options());
    let start = strong_adapter(&layout(&handle), 4, 1);
    let whole = add(&handle, &start);
    train(&handle, &[train_request(whole, &data, 3, 0.01)]).remove(0).unwrap();

    let halves = add(&handle, &start);
    train(&handle, &[train_request(halves, &data[..6], 3, 0.01)]).remove(0).unwrap();
    let middle = handle.snapshot(halves, true).unwrap();
    assert_eq!(middle.moments.as_ref().unwrap().steps, 2);
    let other = TINY.handle(2, options());
    let resumed = add(&other, &middle);
    let mut rest = train_request(resumed, &data[6..], 3, 0.01);
    rest.fresh_moments = false;
    train(&other, std::slice::from_ref(&rest)).remove(0).unwrap();
    let expected = bits(&handle.snapshot(whole, true).unwrap());
    assert!(bits(&other.snapshot(resumed, true).unwrap()) == expected);
    // Fresh moments give something else.
    other.restore(resumed, &middle).unwrap();
    rest.fresh_moments = true;
    train(&other, &[rest]).remove(0).unwrap();
    assert!(bits(&other.snapshot(resumed, true).unwrap()) != expected);
}

#[test]
fn bad_training_requests_are_refused_before_any_work() {
    let handle = TINY.handle(1, options());
    let adapter = add(&handle, &fresh_adapter(&layout(&handle), 4, 1));
    let data = sequences(&mut Random(1), 2, (10, 20), TINY.vocab);
    let good = train_request(adapter, &data, 2, 0.01);
    let refused = |change: &dyn Fn(&mut TrainRequest)| {
        let mut r = good.clone();
        change(&mut r);
        message(&train(&handle, &[r])[0])
    };
    let with = |change: &dyn Fn(&mut TrainSequence)| {
        refused(&|r| {
            let mut sequences = r.sequences.to_vec();
            change(&mut sequences[1]);
            r.sequences = sequences.into();
        })
    };
    assert!(refused(&|r| r.adapter = AdapterId::BASE).contains("base model"));
    assert!(refused(&|r| r.adapter = AdapterId(77)).contains("adapter 77"));
    assert!(refused(&|r| r.steps[0].sequences.push(9)).contains("sequence 9 of 2"));
    assert!(refused(&|r| r.steps[0].learning_rate = f32::NAN).contains("learning rate"));
    let weightless = refused(&|r| {
        let mut sequences = r.sequences.to_vec();
        // The first token is never predicted, so its weight doesn't count.
        sequences.iter_mut().for_each(|s| s.weights.iter_mut().skip(1).for_each(|w| *w = 0.0));
        sequences[0].weights[0] = 1.0;
        r.sequences = sequences.into();
    });
    assert!(weightless.contains("step 1") && weightless.contains("sum to 0"), "{weightless}");
    let opposed = |normalizer| {
        refused(&|r| {
            let mut sequences = r.sequences.to_vec();
            sequences.iter_mut().for_each(|s| s.weights.fill(-1.0));
            r.sequences = sequences.into();
            r.steps[0].normalizer = normalizer;
        })
    };
    let negative = opposed(Normalizer::Weights);
    let tokens: usize = data.iter().map(|s| s.tokens.len() - 1).sum();
    assert!(
        negative.contains("adapter 1, step 1") && negative.contains(&format!("sum to -{tokens}")),
        "{negative}"
    );
    assert!(negative.contains("tokens, sequences or a number"), "{negative}");
    assert!(opposed(Normalizer::Number(-1.0)).contains("the normalizer -1"));
    assert!(with(&|s| s.weights.truncate(3)).contains("3 weights"));
    assert!(with(&|s| s.weights[1] = f32::INFINITY).contains("weight of inf"));
    assert!(with(&|s| s.tokens[0] = 64).contains("sequence 1: token 64"));
    let long = with(&|s| *s = TrainSequence { tokens: vec![5; 129], weights: vec![1.0; 129] });
    assert!(long.contains("129 tokens, the model's context is 128"), "{long}");
    assert_eq!(handle.with(|e| e.stats().micro_batches), 0);
    // No steps: nothing to do, and nothing wrong with that.
    assert_eq!(
        train(&handle, &[TrainRequest { steps: vec![], ..good.clone() }])[0].as_ref().unwrap().len(),
        0
    );
    // While it is trained nobody else may use it.
    let first = handle.train(good.clone());
    let sampled = answers(&handle, vec![handle.sample(request(adapter, &[1, 2], 3, 0))]);
    assert!(message(&sampled[0]).contains("being trained"));
    assert!(message(&train(&handle, std::slice::from_ref(&good))[0]).contains("being trained"));
    assert!(message(&handle.drop_adapter(adapter)).contains("being trained"));
    answers(&handle, vec![first]).remove(0).unwrap();
    train(&handle, &[good]).remove(0).unwrap();
}

/// One step of an adapter on weights of this sign, and what it left.
fn one_step(sign: f32, normalizer: Normalizer, start: &Snapshot, decay: f32) -> (StepMetrics, Snapshot) {
    let handle = TINY.handle(1, options());
    let id = add(&handle, start);
    let mut data = sequences(&mut Random(8), 3, (10, 20), TINY.vocab);
    data.iter_mut().for_each(|s| s.weights.iter_mut().for_each(|w| *w *= sign));
    let mut r = train_request(id, &data, 3, 0.01);
    r.optimizer.weight_decay = decay;
    r.steps[0].normalizer = normalizer;
    (train(&handle, &[r]).remove(0).unwrap()[0], handle.snapshot(id, true).unwrap())
}

#[test]
fn negative_weights_train_exactly_the_opposite() {
    let layout = layout(&TINY.handle(1, options()));
    let numbers = |list: &[(PartId, LoraMatrix, Vec<f32>)], sign: f32| -> Vec<f32> {
        list.iter().flat_map(|m| &m.2).map(|v| sign * v).collect()
    };
    for normalizer in [Normalizer::Tokens, Normalizer::Sequences, Normalizer::Number(0.3)] {
        // Gradients are opposite: AdamW's first moment is a multiple of the clipped gradient.
        let start = strong_adapter(&layout, 4, 1);
        let ((up, with), (down, against)) =
            (one_step(1.0, normalizer, &start, 0.1), one_step(-1.0, normalizer, &start, 0.1));
        assert_eq!((down.loss, down.grad_norm), (-up.loss, up.grad_norm));
        let (with, against) = (with.moments.unwrap(), against.moments.unwrap());
        assert!(numbers(&with.first, 1.0).iter().any(|v| *v != 0.0));
        assert_eq!(numbers(&with.first, 1.0), numbers(&against.first, -1.0), "{normalizer}");
        assert_eq!(numbers(&with.second, 1.0), numbers(&against.second, 1.0), "{normalizer}");
        // From B = 0, what the step writes is opposite too, and A stays: its gradient is 0.
        let start = fresh_adapter(&layout, 4, 1);
        let ((_, with), (_, against)) =
            (one_step(1.0, normalizer, &start, 0.0), one_step(-1.0, normalizer, &start, 0.0));
        for ((with, against), start) in with.weights.iter().zip(&against.weights).zip(&start.weights) {
            let sign = if with.1 == LoraMatrix::B { -1.0 } else { 1.0 };
            assert_eq!(numbers(std::slice::from_ref(with), sign), against.2, "{normalizer}");
            assert_eq!(with.2 == start.2, with.1 == LoraMatrix::A);
        }
    }
}

#[test]
fn weights_that_sum_to_zero_train_under_other_normalizers_as_weighted_sums() {
    let handle = TINY.handle(2, options());
    let start = strong_adapter(&layout(&handle), 4, 1);
    let mut data = sequences(&mut Random(2), 2, (12, 12), TINY.vocab);
    let signs = [1.0, -1.0];
    data.iter_mut().zip(signs).for_each(|(s, sign)| s.weights.fill(sign));
    let of = |normalizer| {
        let mut r = train_request(add(&handle, &start), &data, 2, 0.01);
        r.steps[0].normalizer = normalizer;
        train(&handle, &[r]).remove(0)
    };
    let e = message(&of(Normalizer::Weights));
    assert!(e.contains("step 1") && e.contains("sum to 0; expected a sum above 0"), "{e}");
    // Of the first sequence alone and of the second alone, by the same number, make up the sum.
    let id = add(&handle, &start);
    let sums = data
        .iter()
        .map(|s| score(&handle, id, &s.tokens).logprobs.iter().map(|l| -f64::from(*l)).sum::<f64>());
    let total: f64 = sums.zip(signs).map(|(sum, sign)| sum * f64::from(sign)).sum();
    for (normalizer, z) in
        [(Normalizer::Tokens, 22.0), (Normalizer::Sequences, 2.0), (Normalizer::Number(0.5), 0.5)]
    {
        let metrics = of(normalizer).unwrap();
        assert!((f64::from(metrics[0].loss) - total / z).abs() < 1e-6 * total.abs().max(1.0) / z);
        assert!(metrics[0].grad_norm > 0.0 && metrics[0].fault.is_none());
    }
}

#[test]
fn loss_and_gradient_scale_with_the_normalizer() {
    let layout = layout(&TINY.handle(1, options()));
    let start = strong_adapter(&layout, 4, 1);
    let (whole, _) = one_step(1.0, Normalizer::Number(1.0), &start, 0.1);
    for z in [0.25, 8.0, 1024.0] {
        // Powers of two change no mantissa.
        let (part, _) = one_step(1.0, Normalizer::Number(z), &start, 0.1);
        assert_eq!((part.loss, part.grad_norm), (whole.loss / z as f32, whole.grad_norm / z as f32));
    }
}

#[test]
fn sequences_without_weights_change_nothing() {
    let handle = TINY.handle(1, options());
    let start = strong_adapter(&layout(&handle), 4, 1);
    let mut data = sequences(&mut Random(1), 4, (10, 20), TINY.vocab);
    let silent = TrainSequence { tokens: vec![5; 30], weights: vec![0.0; 30] };
    let run = |data: &[TrainSequence]| {
        let id = add(&handle, &start);
        let metrics = train(&handle, &[train_request(id, data, data.len(), 0.01)]).remove(0).unwrap();
        (metrics[0].loss, bits(&handle.snapshot(id, true).unwrap()))
    };
    let expected = run(&data);
    data.insert(1, silent.clone());
    data.push(silent);
    assert!(run(&data) == expected);
}

/// With bf16 adapters the model reads what a GPU would store, and the f32 numbers are kept beside it.
#[test]
fn bf16_adapters_are_read_rounded_and_kept_whole() {
    let rounding = || TINY.handle_on(Box::new(CpuBackend::new(1).unwrap().with_bf16_adapters()), options());
    let (a, plain) = (rounding(), TINY.handle(1, options()));
    let adapter = strong_adapter(&layout(&a), 8, 5);
    let mut by_hand = adapter.clone();
    for (_, _, values) in &mut by_hand.weights {
        values.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
    }
    let tokens = Random(4).tokens(40, TINY.vocab);
    let (x, y) = (add(&a, &adapter), add(&plain, &by_hand));
    assert_eq!(score(&a, x, &tokens), score(&plain, y, &tokens));
    assert_eq!(bits(&a.snapshot(x, false).unwrap()), bits(&adapter.clone()));
    assert_ne!(bits(&adapter), bits(&by_hand));

    // A step too small for bf16 is not lost.
    let data = sequences(&mut Random(1), 2, (20, 30), TINY.vocab);
    train(&a, &[train_request(x, &data, 2, 1e-6)]).remove(0).unwrap();
    let trained = a.snapshot(x, false).unwrap();
    assert_ne!(bits(&trained), bits(&adapter));
    let again = rounding();
    let copy = add(&again, &trained);
    assert_eq!(score(&again, copy, &tokens), score(&a, x, &tokens));
}
