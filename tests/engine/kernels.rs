//! The engine on the CUDA kernels, in the emulator and on a GPU where there is one: the three equalities of "same bits" (together = alone, sampled = trained,
//! another order of threads = the same), and graphs that are replayed.

use std::sync::Arc;

use crate::common::tiny::*;
use colloquy::backend::Backend;
use colloquy::backend::cuda::CudaBackend;
use colloquy::backend::cuda::device::Gpu;
use colloquy::engine::*;

/// A device and how to open it; the emulator's seed changes the order of blocks, warps and lanes.
type Open = Arc<dyn Fn(u64) -> Box<dyn Backend>>;

fn devices() -> Vec<(&'static str, Open)> {
    let mut devices: Vec<(&'static str, Open)> = Vec::new();
    #[cfg(feature = "emulator")]
    {
        use colloquy::backend::cuda::emulator::Emulator;
        devices
            .push(("emulator", Arc::new(|seed| Box::new(CudaBackend::new(Box::new(Emulator::new(seed)))))));
    }
    #[cfg(not(feature = "emulator"))]
    eprintln!("no emulator: built without the feature `emulator`");
    match Gpu::open(0) {
        Ok(_) => {
            devices.push(("gpu", Arc::new(|_| Box::new(CudaBackend::new(Box::new(Gpu::open(0).unwrap()))))))
        }
        Err(e) => eprintln!("no GPU: {e}"),
    }
    devices
}

/// Larger than a tile in every direction, and no multiple of one.
const SMALL: Tiny = Tiny {
    vocab: 136,
    hidden: 72,
    intermediate: 136,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    context: 576,
    eos: None,
    seed: 9,
};

fn adapters(handle: &EngineHandle) -> Vec<AdapterId> {
    let layout = layout(handle);
    vec![
        AdapterId::BASE,
        add(handle, &strong_adapter(&layout, 4, 1)),
        add(handle, &strong_adapter(&layout, 20, 2)),
        add(handle, &fresh_adapter(&layout, 8, 3)),
    ]
}

fn requests(adapters: &[AdapterId]) -> Vec<SampleRequest> {
    let stem = Random(5).tokens(70, SMALL.vocab);
    let settings = [
        SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens: 9 },
        SamplingParams { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens: 6 },
        SamplingParams { temperature: 0.7, top_k: 8, top_p: 0.9, min_p: 0.05, max_tokens: 12 },
    ];
    let mut requests = Vec::new();
    for (i, &adapter) in adapters.iter().enumerate() {
        for (key, &params) in settings.iter().enumerate() {
            let prompt = &stem[..[3, 33, 70][(key + i) % 3]];
            requests.push(SampleRequest { params, ..request(adapter, prompt, 9, key as u64) });
        }
    }
    let mut mixture = request(adapters[1], &stem[..24], 5, 9);
    mixture.adapters = vec![(adapters[1], 0.5), (adapters[2], 0.5)];
    requests.push(mixture);
    requests
}

#[test]
fn generations_together_equal_generations_alone() {
    for (name, open) in devices() {
        let handle = SMALL.handle_on(open(1), options());
        let society = adapters(&handle);
        let all = requests(&society);
        let together = samples(&handle, &all);
        assert!(together.iter().all(|s| s.logprobs.iter().all(|l| l.is_finite() && *l <= 0.0)), "{name}");

        // Under other limits and pages, in another order of threads, reversed.
        let tight =
            EngineOptions { max_rows: 7, max_sequences: 5, page_tokens: 32, lm_head_rows: 2, ..options() };
        let handle = SMALL.handle_on(open(2), tight);
        assert_eq!(adapters(&handle), society);
        let reversed: Vec<SampleRequest> = all.iter().rev().cloned().collect();
        let mut again = samples(&handle, &reversed);
        again.reverse();
        assert_eq!(again, together, "{name}, other limits");

        for (i, (one, expected)) in all.iter().zip(&together).enumerate().step_by(4) {
            let handle = SMALL.handle_on(open(3), options());
            adapters(&handle);
            assert_eq!(samples(&handle, std::slice::from_ref(one))[0], *expected, "{name}, request {i}");
        }
    }
}

#[test]
fn sampled_scored_and_trained_log_probabilities_are_the_same() {
    for (name, open) in devices() {
        let wide =
            EngineOptions { max_rows: 576, kv: KvBudget::Pages(200), micro_batch_rows: 0, ..options() };
        let handle = SMALL.handle_on(open(1), wide);
        let adapter = add(&handle, &strong_adapter(&layout(&handle), 8, 4));
        // Token by token across the border of a split of the positions.
        let prompt = Random(3).tokens(501, SMALL.vocab);
        let drawn = samples(&handle, &[request(adapter, &prompt, 24, 7)]).remove(0);
        let tokens: Vec<u32> = prompt.iter().chain(&drawn.tokens).copied().collect();
        let scored = score(&handle, adapter, &tokens);
        assert_eq!(scored.logprobs[500..], drawn.logprobs[..], "{name}: score");

        let chunked = EngineOptions { max_rows: 33, page_tokens: 64, ..wide };
        let handle = SMALL.handle_on(open(2), chunked);
        let again = add(&handle, &strong_adapter(&layout(&handle), 8, 4));
        assert_eq!(again, adapter);
        for end in [502, 511, 512, 513, 524] {
            let next = samples(&handle, &[request(adapter, &tokens[..end], 1, 7)]).remove(0);
            assert_eq!(
                (next.tokens[0], next.logprobs[0].to_bits()),
                (tokens[end], drawn.logprobs[end - 501].to_bits()),
                "{name}: token {end}"
            );
        }

        let picked = [1, 300, 512, 524];
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
            assert_eq!((-step.loss).to_bits(), scored.logprobs[t - 1].to_bits(), "{name}: loss of token {t}");
        }
    }
}

#[test]
fn adapters_trained_together_equal_adapters_trained_alone() {
    for (name, open) in devices() {
        let run = |seed, micro_batch_rows, alone: bool| {
            let handle = SMALL.handle_on(open(seed), EngineOptions { micro_batch_rows, ..options() });
            let layout = layout(&handle);
            let mut random = Random(11);
            let mut request = |snapshot, count, batch, lengths| {
                let sequences = sequences(&mut random, count, lengths, SMALL.vocab);
                train_request(add(&handle, snapshot), &sequences, batch, 0.02)
            };
            let requests = vec![
                request(&fresh_adapter(&layout, 4, 1), 2, 1, (2, 60)),
                request(&strong_adapter(&layout, 16, 2), 5, 3, (10, 90)),
                request(&strong_adapter(&layout, 24, 3), 12, 12, (5, 25)),
            ];
            let metrics: Vec<_> = if alone {
                requests.iter().map(|r| train(&handle, std::slice::from_ref(r)).remove(0).unwrap()).collect()
            } else {
                train(&handle, &requests).into_iter().map(Result::unwrap).collect()
            };
            let snapshots: Vec<_> =
                requests.iter().map(|r| bits(&handle.snapshot(r.adapter, true).unwrap())).collect();
            (metrics, snapshots)
        };
        let reference = run(1, 128, true);
        for (seed, rows) in [(2, 128), (3, 512), (1, 0)] {
            let (metrics, snapshots) = run(seed, rows, false);
            assert_eq!(metrics, reference.0, "{name}: micro-batches of {rows}");
            assert!(snapshots == reference.1, "{name}: micro-batches of {rows}");
        }
    }
}

/// Decode steps are one graph for each bucket of rows, whatever the positions, pages, adapters and draws.
#[test]
fn decode_steps_are_replayed() {
    for (name, open) in devices() {
        let handle = SMALL.handle_on(open(1), options());
        let society = adapters(&handle);
        let prompt = Random(8).tokens(6, SMALL.vocab);
        let all: Vec<SampleRequest> =
            (0..8).map(|i| request(society[i % society.len()], &prompt[..1 + i % 6], 20, i as u64)).collect();
        let tokens: usize = samples(&handle, &all).iter().map(|s| s.tokens.len()).sum();
        assert_eq!(tokens, 160, "{name}");
        let counts = handle.with(|e| e.backend().graph_counts()).expect("a device with graphs");
        // 20 steps: the prefill and the first decode steps are new, the second of a kind is captured, all others are replayed.
        assert!(counts.launched <= 3 && counts.captured <= 2, "{name}: {counts:?}");
        assert!(counts.replayed >= 16, "{name}: {counts:?}");
    }
}

#[test]
fn embeddings_together_equal_embeddings_alone_and_those_of_the_cpu() {
    for (name, open) in devices() {
        let handle = SMALL.handle_on(open(1), options());
        let society = adapters(&handle);
        let mut random = Random(3);
        let wanted: Vec<EmbedRequest> = (0..8)
            .map(|i| {
                let length = [1, 9, 33, 70][i % 4];
                let tokens = random.tokens(length, SMALL.vocab).into();
                EmbedRequest { adapter: society[i % 4], tokens, from: random.below(length) }
            })
            .collect();
        let embed = |handle: &EngineHandle, wanted: &[EmbedRequest]| -> Vec<Embedding> {
            let work = wanted.iter().map(|r| handle.embed(r.clone())).collect();
            answers(handle, work).into_iter().map(|e| e.unwrap()).collect()
        };
        let together = embed(&handle, &wanted);
        let handle = SMALL.handle_on(open(2), EngineOptions { max_rows: 40, ..options() });
        assert_eq!(adapters(&handle), society);
        let cpu = SMALL.handle(1, options());
        adapters(&cpu);
        for (one, together) in wanted.iter().zip(&together) {
            assert_eq!(embed(&handle, std::slice::from_ref(one))[0], *together, "{name}");
            let exact = embed(&cpu, std::slice::from_ref(one)).remove(0);
            let dot = |a: &Embedding, b: &Embedding| -> f32 {
                a.mean.iter().zip(&b.mean).map(|(a, b)| a * b).sum()
            };
            let cosine = dot(&exact, together) / (dot(&exact, &exact) * dot(together, together)).sqrt();
            assert!(cosine > 0.999, "{name}: {cosine}");
        }
    }
}

/// The next step is on the device before the host reads what the last one drew.
#[test]
fn a_step_is_enqueued_before_the_draws_of_the_one_before_are_read() {
    for (name, open) in devices() {
        let handle = SMALL.handle_on(open(1), options());
        let prompts = Random(4).tokens(9, SMALL.vocab);
        for i in 0..3 {
            let request = request(AdapterId::BASE, &prompts[i..i + 3], 5, i as u64);
            drop(handle.with(|e| e.sample(request)).unwrap());
        }
        let mut seen = Vec::new();
        while handle.with(|e| e.step()).unwrap() {
            let stats = handle.with(|e| e.stats().sampling);
            seen.push((stats.steps, stats.tokens));
        }
        // The last has nothing to enqueue: lengths are known ahead.
        assert_eq!(seen, [(1, 0), (2, 3), (3, 6), (4, 9), (5, 12), (5, 15)], "{name}");
    }
}

/// A long stretch is encoded in larger buffers; draws that were under way in the old ones are not lost.
#[test]
fn encoding_between_sampling_steps_changes_no_draw() {
    for (name, open) in devices() {
        let prompt = Random(4).tokens(3, SMALL.vocab);
        let wanted = request(AdapterId::BASE, &prompt, 6, 7);
        let alone = samples(&SMALL.handle_on(open(1), options()), std::slice::from_ref(&wanted));
        let handle = SMALL.handle_on(open(1), options());
        let drawing = handle.sample(wanted);
        for _ in 0..3 {
            assert!(handle.with(|e| e.step()).unwrap());
        }
        let tokens = Random(5).tokens(500, SMALL.vocab).into();
        let encoding = handle.embed(EmbedRequest { adapter: AdapterId::BASE, tokens, from: 400 });
        let drawn = answers(&handle, vec![drawing]).remove(0).unwrap();
        assert_eq!(drawn, alone[0], "{name}");
        answers(&handle, vec![encoding]).remove(0).unwrap();
    }
}
