//! The sampler and the scorer on the CPU backend: what is drawn and scored depends on the request alone.

use std::cell::RefCell;
use std::rc::Rc;

use crate::common::tiny::*;
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::{Backend, KvSpec};
use colloquy::engine::*;

/// Requests that share much and differ in everything: adapters, prompts, settings.
fn mixed_requests(adapters: &[AdapterId]) -> Vec<SampleRequest> {
    let mut random = Random(5);
    let stem = random.tokens(50, TINY.vocab);
    let mut requests = Vec::new();
    for (i, &adapter) in adapters.iter().enumerate() {
        for key in 0..4 {
            let prompt = &stem[..[3, 20, 33, 50][(key as usize + i) % 4]];
            let mut r = request(adapter, prompt, 30, key);
            r.params = [
                SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens: 30 },
                SamplingParams { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens: 17 },
                SamplingParams { temperature: 0.7, top_k: 8, top_p: 1.0, min_p: 0.05, max_tokens: 40 },
                SamplingParams { temperature: 1.3, top_k: 0, top_p: 0.9, min_p: 0.0, max_tokens: 1 },
            ][key as usize];
            requests.push(r);
        }
    }
    for (i, &adapter) in adapters.iter().enumerate() {
        let mut r = request(adapter, &stem[..24], 25, 9);
        r.adapters = vec![(adapter, 0.5), (adapters[(i + 1) % adapters.len()], 0.5)];
        r.params.min_p = [0.0, 0.1][i % 2];
        requests.push(r);
    }
    requests
}

fn with_adapters(handle: &EngineHandle) -> Vec<AdapterId> {
    let layout = layout(handle);
    vec![
        AdapterId::BASE,
        add(handle, &strong_adapter(&layout, 4, 1)),
        add(handle, &strong_adapter(&layout, 20, 2)),
        add(handle, &fresh_adapter(&layout, 8, 3)),
    ]
}

#[test]
fn generations_together_equal_generations_alone() {
    let handle = TINY.handle(1, options());
    let adapters = with_adapters(&handle);
    let requests = mixed_requests(&adapters);
    let together = samples(&handle, &requests);
    for (i, settings) in [
        options(),
        EngineOptions { max_rows: 7, max_sequences: 5, page_tokens: 32, lm_head_rows: 2, ..options() },
        EngineOptions { max_rows: 500, page_tokens: 64, kv: KvBudget::Pages(2 * 5), ..options() },
    ]
    .into_iter()
    .enumerate()
    {
        // All at once, in another order, under other limits.
        let handle = TINY.handle(1 + i % 2, settings);
        assert_eq!(with_adapters(&handle), adapters);
        let mut reversed: Vec<SampleRequest> = requests.iter().rev().cloned().collect();
        let mut again = samples(&handle, &reversed);
        again.reverse();
        assert_eq!(again, together, "settings {i}");
        reversed.reverse();
        // Each by itself, in an engine that has seen nothing else.
        for (r, (request, expected)) in requests.iter().zip(&together).enumerate().step_by(3) {
            let handle = TINY.handle(1 + r % 2, settings);
            with_adapters(&handle);
            assert_eq!(samples(&handle, std::slice::from_ref(request))[0], *expected, "request {r}");
        }
    }
}

#[test]
fn preempted_samples_are_the_same() {
    let roomy = TINY.handle(2, options());
    let tight = TINY.handle(2, EngineOptions { kv: KvBudget::Pages(8), ..options() });
    let requests: Vec<_> = (0..20)
        .map(|key| request(AdapterId::BASE, &Random(key / 4).tokens(10 + key as usize, 64), 60, key))
        .collect();
    assert_eq!(samples(&tight, &requests), samples(&roomy, &requests));
    let preemptions = |h: &EngineHandle| h.with(|e| e.stats().sampling.preemptions);
    assert_eq!(preemptions(&roomy), 0);
    assert!(preemptions(&tight) > 5, "{} preemptions", preemptions(&tight));
    assert_eq!(tight.with(|e| e.kv_pages().0), 0);
}

#[test]
fn every_path_gives_a_long_sequence_the_same_log_probabilities() {
    every_path(|model, threads, options| model.handle(threads, options));
}

#[test]
fn every_path_gives_the_same_log_probabilities_with_bf16_keys_and_values() {
    every_path(bf16_kv);
}

fn bf16_kv(model: &Tiny, threads: usize, options: EngineOptions) -> EngineHandle {
    model.handle_on(Box::new(CpuBackend::new(threads).unwrap().with_bf16_kv()), options)
}

/// Rounding K and V moves log-probabilities by what rounding two operands of a dot product moves it, and halves the pages.
#[test]
fn bf16_keys_and_values_are_near_and_take_half_the_memory() {
    let (plain, rounded) = (TINY.handle(1, options()), bf16_kv(&TINY, 1, options()));
    let tokens = Random(5).tokens(60, TINY.vocab);
    let (mut most, mut same) = (0.0f32, 0);
    let scores = [&plain, &rounded].map(|h| score(h, AdapterId::BASE, &tokens).logprobs);
    for (a, b) in scores[0].iter().zip(&scores[1]) {
        most = most.max((a - b).abs());
        same += usize::from(a == b);
    }
    assert!(most > 0.0 && most < 0.1 && same < 10, "{most}, {same} the same");
    let pages = KvSpec { layers: 2, pages: 7, page_tokens: 16, kv_width: 32 };
    let bytes = |mut c: CpuBackend| {
        c.kv_pool(pages).unwrap();
        (c.bytes_in_use(), c.kv_bytes())
    };
    let numbers = 2 * 2 * 7 * 16 * 32;
    assert_eq!(bytes(CpuBackend::new(1).unwrap()), (4 * numbers, 4));
    assert_eq!(bytes(CpuBackend::new(1).unwrap().with_bf16_kv()), (2 * numbers, 2));
}

fn every_path(handle: impl Fn(&Tiny, usize, EngineOptions) -> EngineHandle) {
    let long = Tiny { context: 768, ..TINY };
    let wide = EngineOptions { max_rows: 800, kv: KvBudget::Pages(400), micro_batch_rows: 0, ..options() };
    let on = handle;
    let handle = on(&long, 2, wide);
    let adapter = add(&handle, &strong_adapter(&layout(&handle), 8, 4));
    for adapter in [AdapterId::BASE, adapter] {
        // Token by token, after a prompt of 20.
        let prompt = Random(3).tokens(20, long.vocab);
        let drawn = samples(&handle, &[request(adapter, &prompt, 680, 7)]).remove(0);
        assert_eq!((drawn.tokens.len(), drawn.finish), (680, Finish::Length));
        let tokens: Vec<u32> = prompt.iter().chain(&drawn.tokens).copied().collect();

        // Scored: packed attention.
        let scored = score(&handle, adapter, &tokens);
        assert_eq!(scored.logprobs[19..], drawn.logprobs[..], "score");

        // As the next token of a prompt: in one piece, in chunks, with pages of any size, with a prefix that was computed before.
        let ends = [20, 21, 100, 255, 256, 257, 400, 512, 513, 640, 699];
        let settings = [
            wide,
            EngineOptions { max_rows: 130, page_tokens: 48, ..wide },
            EngineOptions { max_rows: 33, max_sequences: 1, page_tokens: 64, ..wide },
        ];
        for (i, settings) in settings.into_iter().enumerate() {
            let handle = on(&long, 1 + i % 2, settings);
            add(&handle, &strong_adapter(&layout(&handle), 8, 4));
            for order in [&ends[..], &[699, 300, 20]] {
                for &end in order {
                    let next = samples(&handle, &[request(adapter, &tokens[..end], 1, 7)]).remove(0);
                    let of = format!("token {end}, settings {i}");
                    assert_eq!(next.tokens[0], tokens[end], "{of}");
                    assert_eq!(next.logprobs[0].to_bits(), drawn.logprobs[end - 20].to_bits(), "{of}");
                }
            }
        }

        // In training: a step whose only weight is that token's.
        if adapter == AdapterId::BASE {
            continue;
        }
        let picked: Vec<usize> = (1..700).step_by(41).collect();
        let sequences: Vec<TrainSequence> = picked
            .iter()
            .map(|&t| {
                let mut weights = vec![0.0; tokens.len()];
                weights[t] = 2.0;
                TrainSequence { tokens: tokens.clone(), weights }
            })
            .collect();
        let mut r = train_request(adapter, &sequences, 1, 0.0);
        r.optimizer.weight_decay = 0.0;
        let metrics = train(&handle, &[r]).remove(0).unwrap();
        for (&t, step) in picked.iter().zip(&metrics) {
            assert_eq!((-step.loss).to_bits(), scored.logprobs[t - 1].to_bits(), "loss of token {t}");
        }
    }
}

#[test]
fn scores_do_not_depend_on_what_shares_the_batch() {
    let handle = TINY.handle(2, EngineOptions { max_rows: 40, ..options() });
    let adapters = with_adapters(&handle);
    let mut random = Random(8);
    let requests: Vec<ScoreRequest> = (0..24)
        .map(|i| {
            let length = [1, 2, 30, 41, 100, 128][i % 6];
            let tokens = random.tokens(length, TINY.vocab).into();
            ScoreRequest { adapter: adapters[i % 4], tokens }
        })
        .collect();
    let together = answers(&handle, requests.iter().map(|r| handle.score(r.clone())).collect());
    let alone = TINY.handle(1, options());
    with_adapters(&alone);
    for (r, together) in requests.iter().zip(together) {
        let together = together.unwrap();
        assert_eq!(score(&alone, r.adapter, &r.tokens), together);
        assert_eq!(together.logprobs.len(), r.tokens.len() - 1);
        assert!(together.logprobs.iter().all(|l| l.is_finite() && *l < 0.0));
    }
    // The most likely token is the greedy one.
    let mut greedy = request(adapters[1], &[5, 6, 7], 20, 0);
    greedy.params.temperature = 0.0;
    let drawn = samples(&handle, &[greedy]).remove(0);
    let tokens: Vec<u32> = [5, 6, 7].into_iter().chain(drawn.tokens).collect();
    assert!(score(&handle, adapters[1], &tokens).is_argmax[2..].iter().all(|&a| a));
}

#[test]
fn min_p_keeps_tokens_near_the_most_likely_one_and_reports_what_was_there_before() {
    let handle = TINY.handle(1, options());
    let adapter = with_adapters(&handle)[1];
    let prompt = Random(6).tokens(12, TINY.vocab);
    let drawn = |min_p: f32, temperature: f32, key: u64| {
        let mut r = request(adapter, &prompt, 20, key);
        (r.params.min_p, r.params.temperature) = (min_p, temperature);
        samples(&handle, &[r]).remove(0)
    };
    // All of them, so that what is remembered of one is not taken for another.
    let greedy = drawn(0.0, 0.0, 0);
    let (free, half) = (drawn(0.0, 1.5, 3), drawn(0.5, 1.5, 3));
    assert_eq!(drawn(1.0, 1.5, 3), greedy);
    assert!(free != half && half != greedy);
    let scored = |s: &Sample| {
        let tokens: Vec<u32> = prompt.iter().chain(&s.tokens).copied().collect();
        (score(&handle, adapter, &tokens).logprobs[prompt.len() - 1..].to_vec(), tokens)
    };
    let (mut dropped, mut kept) = (0, 0);
    for key in 0..12 {
        for (min_p, sample) in [(0.5, drawn(0.5, 1.5, key)), (0.0, drawn(0.0, 1.5, key))] {
            let (logprobs, tokens) = scored(&sample);
            assert_eq!(logprobs, sample.logprobs, "under the unmodified distribution");
            for (i, logprob) in logprobs.iter().enumerate() {
                let before = &tokens[..prompt.len() + i];
                let mut best = request(adapter, before, 1, 0);
                best.params.temperature = 0.0;
                let best = samples(&handle, &[best]).remove(0).logprobs[0];
                let ratio = ((logprob - best) / 1.5).exp();
                assert!(min_p == 0.0 || ratio > 0.499, "{ratio}");
                dropped += usize::from(ratio < 0.499);
                kept += usize::from(min_p > 0.0 && ratio < 1.0);
            }
        }
    }
    assert!(dropped > 20 && kept > 5, "{dropped} far without min-p, {kept} not the best with it");
}

#[test]
fn a_draw_group_mixes_distributions() {
    let handle = TINY.handle(1, options());
    let adapters = with_adapters(&handle);
    let prompt = Random(2).tokens(9, TINY.vocab);
    let group = |members: &[(AdapterId, f32)]| {
        let mut r = request(AdapterId::BASE, &prompt, 12, 3);
        r.adapters = members.to_vec();
        samples(&handle, &[r]).remove(0)
    };
    let alone = group(&[(adapters[1], 1.0)]);
    // Equal members mix to what each of them is, up to rounding.
    let same = group(&[(adapters[1], 0.25), (adapters[1], 0.75)]);
    assert_eq!(same.tokens, alone.tokens);
    for (a, b) in same.logprobs.iter().zip(&alone.logprobs) {
        assert!((a - b).abs() < 1e-5);
    }
    // The first log-probability is that of the mixture.
    let mixed = group(&[(adapters[1], 0.5), (adapters[2], 0.5)]);
    let tokens: Vec<u32> = prompt.iter().copied().chain([mixed.tokens[0]]).collect();
    let probability = |a| f64::from(score(&handle, a, &tokens).logprobs[8]).exp();
    let expected = (0.5 * probability(adapters[1]) + 0.5 * probability(adapters[2])).ln();
    assert!((f64::from(mixed.logprobs[0]) - expected).abs() < 1e-5);
}

#[test]
fn a_write_to_a_slot_forgets_what_was_cached_under_it() {
    let handle = TINY.handle(1, options());
    let (first, second) = (strong_adapter(&layout(&handle), 4, 1), strong_adapter(&layout(&handle), 4, 2));
    let adapter = add(&handle, &first);
    let clone = handle.create(AdapterSource::Clone(adapter)).unwrap();
    let r = request(adapter, &Random(1).tokens(40, 64), 20, 1);
    let before = samples(&handle, std::slice::from_ref(&r)).remove(0);
    handle.restore(adapter, &second).unwrap();
    let after = samples(&handle, std::slice::from_ref(&r)).remove(0);
    assert_ne!(before, after);
    let other = TINY.handle(1, options());
    let again = add(&other, &second);
    assert_eq!(samples(&other, &[SampleRequest { adapters: vec![(again, 1.0)], ..r.clone() }])[0], after);
    // The clone still has the weights, the pages and the sample.
    let rows = handle.with(|e| e.stats().sampling.rows);
    let of_clone = SampleRequest { adapters: vec![(clone, 1.0)], ..r.clone() };
    assert_eq!(samples(&handle, &[of_clone])[0], before);
    assert_eq!(handle.with(|e| e.stats().sampling.rows), rows);
    // With nobody left to hold them they are gone.
    handle.drop_adapter(clone).unwrap();
    handle.drop_adapter(adapter).unwrap();
    assert_eq!(handle.with(|e| e.kv_pages()), (0, 0));
    assert!(message(&handle.snapshot(adapter, false)).contains("no such adapter"));
}

#[test]
fn a_trained_adapter_is_sampled_as_it_is_now() {
    let handle = TINY.handle(1, options());
    let adapter = add(&handle, &strong_adapter(&layout(&handle), 4, 1));
    let mut requests = vec![request(adapter, &Random(1).tokens(40, 64), 20, 1)];
    let before = samples(&handle, &requests);
    let data = sequences(&mut Random(2), 4, (20, 30), TINY.vocab);
    train(&handle, &[train_request(adapter, &data, 2, 0.05)]).remove(0).unwrap();
    // The same request, and one that only shares its prompt: neither the sample nor the pages of the old weights are used.
    requests.push(SampleRequest { key: 2, ..requests[0].clone() });
    let after = samples(&handle, &requests);
    assert_ne!(before[0], after[0]);
    let other = TINY.handle(1, options());
    let again = add(&other, &handle.snapshot(adapter, false).unwrap());
    requests.iter_mut().for_each(|r| r.adapters = vec![(again, 1.0)]);
    assert_eq!(samples(&other, &requests), after);
}

#[test]
fn samples_end_where_they_should() {
    /// A text of any tokens ends when it is as long as the string.
    struct Lengths;
    impl StopRules for Lengths {
        fn tokenizer(&self) -> u64 {
            7
        }
        fn watch(&self, strings: &[String]) -> Watch {
            let mut left = strings[0].len();
            Box::new(move |_| {
                left -= 1;
                left == 0
            })
        }
    }
    let prompt = Random(1).tokens(100, TINY.vocab);
    let handle = TINY.handle(1, options());
    let full = samples(&handle, &[request(AdapterId::BASE, &prompt, 1000, 1)]).remove(0);
    assert_eq!((full.tokens.len(), full.finish), (28, Finish::Length));
    let mut stopped = request(AdapterId::BASE, &prompt, 1000, 1);
    stopped.stop = Lengths.stop(&["12345".into()]);
    let unknown = handle.with(|e| e.sample(stopped.clone()).map(drop));
    let expected = "found stop strings of tokenizer 0000000000000007, expected one that the engine was given";
    assert!(message(&unknown).contains(expected), "{unknown:?}");
    handle.with(|e| e.add_stop_rules(Rc::new(Lengths)));
    // Heard as it is drawn; the second time nothing is drawn.
    let heard = Rc::new(RefCell::new(vec![]));
    let into = heard.clone();
    let aloud = handle.sample_aloud(stopped.clone(), Box::new(move |token| into.borrow_mut().push(token)));
    let first = answers(&handle, vec![aloud]).remove(0).unwrap();
    assert_eq!(first.tokens, heard.take());
    let aloud = handle.sample_aloud(stopped.clone(), Box::new(|token| panic!("{token} is remembered")));
    assert_eq!(answers(&handle, vec![aloud]).remove(0).unwrap(), first);
    let stopped = samples(&handle, &[stopped]).remove(0);
    assert_eq!((&stopped.tokens[..], stopped.finish), (&full.tokens[..5], Finish::Stop));
    // The same model, told that the fourth token ends a sequence.
    let eos = full.tokens[3];
    let place = full.tokens.iter().position(|&t| t == eos).unwrap();
    let handle = Tiny { eos: Some(eos), ..TINY }.handle(1, options());
    let ended = samples(&handle, &[request(AdapterId::BASE, &prompt, 1000, 1)]).remove(0);
    assert_eq!((&ended.tokens[..], ended.finish), (&full.tokens[..=place], Finish::Stop));
    assert_eq!(ended.logprobs[..], full.logprobs[..=place]);
}
