//! Mean-pooled hidden states: what they are, that they do not depend on what shares the batch, and that what is asked twice is computed once.

use crate::common::tiny::*;
use colloquy::engine::*;

fn embed(handle: &EngineHandle, requests: &[EmbedRequest]) -> Vec<Embedding> {
    let work = requests.iter().map(|r| handle.embed(r.clone())).collect();
    answers(handle, work).into_iter().map(|e| e.unwrap()).collect()
}

fn wanted(adapter: AdapterId, tokens: &[u32], from: usize) -> EmbedRequest {
    EmbedRequest { adapter, tokens: tokens.into(), from }
}

fn with_adapters(handle: &EngineHandle) -> [AdapterId; 3] {
    let layout = layout(handle);
    [
        AdapterId::BASE,
        add(handle, &strong_adapter(&layout, 4, 1)),
        add(handle, &strong_adapter(&layout, 12, 2)),
    ]
}

/// The lm_head `[V, d]` of a model folder.
fn lm_head(folder: &std::path::Path) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor("lm_head.weight").unwrap();
    let values = view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
    let values: Vec<f64> = values.collect();
    values.chunks_exact(view.shape()[1]).map(<[f64]>::to_vec).collect()
}

/// The hidden state of one row, times the lm_head, gives the log-probabilities that the scorer gives.
#[test]
fn one_row_is_what_the_lm_head_sees() {
    let head = lm_head(TINY.folder().path());
    let handle = TINY.handle(1, options());
    let tokens = Random(3).tokens(40, TINY.vocab);
    for adapter in with_adapters(&handle) {
        let scored = score(&handle, adapter, &tokens);
        for row in [0, 7, 38] {
            let found = embed(&handle, &[wanted(adapter, &tokens[..=row], row)]).remove(0);
            assert_eq!(found.mean.len(), TINY.hidden);
            let logits: Vec<f64> = head
                .iter()
                .map(|w| w.iter().zip(&found.mean).map(|(w, h)| w * f64::from(*h)).sum())
                .collect();
            let total: f64 = logits.iter().map(|z| z.exp()).sum();
            let expected = logits[tokens[row + 1] as usize] - total.ln();
            assert!((f64::from(scored.logprobs[row]) - expected).abs() < 1e-4, "row {row}");
        }
    }
}

#[test]
fn a_stretch_is_the_mean_of_its_rows() {
    let handle = TINY.handle(2, options());
    let tokens = Random(4).tokens(50, TINY.vocab);
    let rows: Vec<EmbedRequest> = (20..50).map(|row| wanted(AdapterId::BASE, &tokens[..=row], row)).collect();
    let rows = embed(&handle, &rows);
    let found = embed(&handle, &[wanted(AdapterId::BASE, &tokens, 20)]).remove(0);
    for (i, value) in found.mean.iter().enumerate() {
        let sum: f64 = rows.iter().map(|row| f64::from(row.mean[i])).sum();
        // A row alone is exact in f32: so is their mean, rounded once.
        assert_eq!(value.to_bits(), ((sum / 30.0) as f32).to_bits(), "{i}");
    }
}

#[test]
fn embeddings_do_not_depend_on_what_shares_the_batch() {
    let handle = TINY.handle(2, EngineOptions { max_rows: 70, ..options() });
    let adapters = with_adapters(&handle);
    let mut random = Random(8);
    let requests: Vec<EmbedRequest> = (0..20)
        .map(|i| {
            let length = [1, 2, 30, 41, 100, 128][i % 6];
            wanted(adapters[i % 3], &random.tokens(length, TINY.vocab), random.below(length))
        })
        .collect();
    // Among scores and samples, too.
    let others: Vec<_> = (0..3).map(|i| handle.sample(request(adapters[i], &[5, 6], 9, 1))).collect();
    let together = embed(&handle, &requests);
    answers(&handle, others).into_iter().for_each(|s| assert!(s.is_ok()));
    assert!(handle.with(|e| e.stats().embed_batches) < 20);
    let alone = TINY.handle(1, options());
    with_adapters(&alone);
    for (r, together) in requests.iter().zip(together) {
        assert_eq!(embed(&alone, std::slice::from_ref(r))[0], together, "{r:?}");
        assert!(together.mean.iter().all(|m| m.is_finite()) && together.mean.iter().any(|m| *m != 0.0));
    }
    // Another adapter sees something else, and so does one that sees more.
    let tokens = random.tokens(30, TINY.vocab);
    let found = [(0, 0), (1, 0), (0, 10)].map(|(a, from)| wanted(adapters[a], &tokens, from));
    let found = embed(&handle, &found);
    assert!(found[0] != found[1] && found[0] != found[2]);
    assert_ne!(embed(&handle, &[wanted(adapters[0], &tokens[10..], 0)])[0], found[2]);
}

#[test]
fn what_is_asked_twice_while_it_waits_is_computed_once() {
    let handle = TINY.handle(1, options());
    let layout = layout(&handle);
    let [base, strong, _] = with_adapters(&handle);
    let fresh = add(&handle, &fresh_adapter(&layout, 4, 7));
    let clone = handle.create(AdapterSource::Clone(strong)).unwrap();
    let tokens = Random(2).tokens(60, TINY.vocab);
    let of = |adapter| handle.score(ScoreRequest { adapter, tokens: tokens.clone().into() });
    // 59 rows each: two to a batch would be too many. A fresh adapter is the base; a clone is its parent.
    let scores = answers(&handle, vec![of(base), of(fresh), of(strong), of(clone), of(base)]);
    assert_eq!(handle.with(|e| e.stats().score_batches), 2);
    let scores: Vec<Score> = scores.into_iter().map(|s| s.unwrap()).collect();
    assert!(scores[0] == scores[1] && scores[0] == scores[4] && scores[2] == scores[3]);
    assert_ne!(scores[0], scores[2]);
    // Asked again when it is answered, it is computed again: nothing is kept.
    assert_eq!(score(&handle, base, &tokens), scores[0]);
    assert_eq!(handle.with(|e| e.stats().score_batches), 3);
    // Also when others have left the queue meanwhile.
    let other = ScoreRequest { adapter: base, tokens: Random(9).tokens(60, TINY.vocab).into() };
    let first = handle.score(other);
    let second = of(strong);
    assert!(handle.with(Engine::step).unwrap());
    let again = of(clone);
    let found = answers(&handle, vec![first, second, again]);
    assert_eq!(handle.with(|e| e.stats().score_batches), 5);
    assert!(found[1..].iter().all(|s| *s.as_ref().unwrap() == scores[2]));
    let of = |adapter, from| handle.embed(wanted(adapter, &tokens, from));
    let found = answers(&handle, vec![of(base, 3), of(fresh, 3), of(base, 4), of(base, 3)]);
    assert_eq!(handle.with(|e| e.stats().embed_batches), 2);
    let found: Vec<Embedding> = found.into_iter().map(|e| e.unwrap()).collect();
    assert!(found[0] == found[1] && found[0] == found[3] && found[0] != found[2]);
}

#[test]
fn who_waits_for_weights_that_are_gone_is_told() {
    let handle = TINY.handle(1, options());
    let [base, strong, other] = with_adapters(&handle);
    let tokens = Random(2).tokens(60, TINY.vocab);
    let of = |adapter| handle.score(ScoreRequest { adapter, tokens: tokens.clone().into() });
    let waiting = vec![of(base), of(strong), of(other), of(strong)];
    let encoded = vec![handle.embed(wanted(strong, &tokens, 1)), handle.embed(wanted(other, &tokens, 1))];
    handle.drop_adapter(strong).unwrap();
    // One that came after finds its like in the queue that is left.
    let more = of(other);
    let found = answers(&handle, waiting.into_iter().chain([more]).collect());
    assert!(message(&found[1]).contains("score request: its adapter was changed or dropped"));
    assert!(found[3].is_err());
    assert_eq!(found[2].as_ref().unwrap(), found[4].as_ref().unwrap());
    assert_eq!(*found[0].as_ref().unwrap(), score(&handle, base, &tokens));
    assert_eq!(handle.with(|e| e.stats().score_batches), 3);
    let encoded = answers(&handle, encoded);
    assert!(message(&encoded[0]).contains("embed request") && encoded[1].is_ok());
}

#[test]
fn bad_requests_are_refused() {
    let handle = TINY.handle(1, options());
    let refused = |tokens: &[u32], from: usize| {
        message(&answers(&handle, vec![handle.embed(wanted(AdapterId::BASE, tokens, from))]).remove(0))
    };
    assert!(refused(&[], 0).contains("no tokens"));
    assert!(refused(&[5, 6], 2).contains("from token 2 of 2"));
    assert!(refused(&[5, 64], 0).contains("outside the vocabulary"));
    assert!(refused(&[5; 129], 0).contains("context is 128"));
}
