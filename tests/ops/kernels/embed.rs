//! Embedding, gather and scatter: copies, so bit for bit.

use std::sync::Arc;

use colloquy::backend::*;

use super::support::*;

#[test]
fn rows_are_copied_by_index() {
    for mut d in devices() {
        for width in [8, 40, 192, 576] {
            let mut random = Random(width as u64);
            let rows = 21;
            let values = random.values(50 * width, 1.0);
            let table = d.backend.load_table(WeightView::from_f32(&values, 50, width)).unwrap();
            let exact = d.stored(&values);
            let mut plan = plan_of(&Segments { name: "base", parts: vec![(0, rows)] }, &[Slot::BASE]);
            plan.tokens = (0..rows).map(|_| random.below(50) as u32).collect();
            plan.logit_rows = vec![0, 3, 4, 20];
            let out = d.tensor(rows + 3, width, Element::Activation);
            let gathered = d.tensor(4, width, Element::Activation);
            let scattered = d.tensor(rows, width, Element::Activation);
            d.run(
                &plan,
                [
                    Op::Embed(Embed { table, drawn: None, out }),
                    Op::GatherRows(GatherRows { x: out, out: gathered }),
                    Op::ScatterRows(ScatterRows { dy: gathered, dx: scattered }),
                ],
            );
            let row = |i: u32| &exact[plan.tokens[i as usize] as usize * width..][..width];
            for (i, got) in d.download(out, rows).chunks_exact(width).enumerate() {
                assert_bits("embed", got, row(i as u32));
            }
            for (got, &i) in d.download(gathered, 4).chunks_exact(width).zip(&plan.logit_rows) {
                assert_bits("gather", got, row(i));
            }
            for (i, got) in d.download(scattered, rows).chunks_exact(width).enumerate() {
                let zeros = vec![0.0; width];
                let found = plan.logit_rows.contains(&(i as u32));
                assert_bits("scatter", got, if found { row(i as u32) } else { &zeros });
            }
        }
    }
}

/// A step may refer to what the one before drew, which the host has not read.
#[test]
fn a_row_is_the_embedding_of_what_the_step_before_drew() {
    for mut d in devices() {
        let (width, vocabulary, rows) = (8, 50, 5);
        // Row v is v % 8 alone, the larger the later: the most likely token after a one at j is the last v with v % 8 = j.
        let mut weights = vec![0.0; vocabulary * width];
        (0..vocabulary).for_each(|v| weights[v * width + v % width] = (1 + v / width) as f32);
        let view = WeightView::from_f32(&weights, vocabulary, width);
        let table = d.backend.load_table(view).unwrap();
        let lm_head =
            d.backend.load_linear(LinearSpec { parts: &[view], bias: None, backward: false }).unwrap();
        let hidden: Vec<f32> =
            (0..rows * width).map(|i| f32::from(u8::from(i % width == i / width))).collect();
        let hidden = d.upload(&hidden, width);
        let workspace = d.tensor(rows, vocabulary, Element::F32);
        let (tokens, logprobs) = (d.tensor(rows, 1, Element::U32), d.tensor(rows, 1, Element::F32));
        let out = d.tensor(rows, width, Element::Activation);

        let mut plan = plan_of(&Segments { name: "base", parts: vec![(0, rows)] }, &[Slot::BASE]);
        plan.logit_rows = (0..rows as u32).collect();
        plan.draw_rows = plan.logit_rows.iter().map(|&r| DrawRow { logit_row: r, weight: 1.0 }).collect();
        plan.draws = (0..rows as u32)
            .map(|i| Draw {
                rows_start: i,
                rows_end: i + 1,
                key: 0,
                position: 0,
                temperature: 0.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
            })
            .collect();
        let sample = Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace, tokens, logprobs });
        let mut next = plan_of(&Segments { name: "base", parts: vec![(0, rows)] }, &[Slot::BASE]);
        next.tokens = vec![DRAWN | 4, 7, DRAWN, DRAWN | 1, 49];
        let expected = [44, 7, 48, 49, 49];
        // Nothing is read between the two steps.
        d.run(&plan, [sample]);
        d.run(&next, [Op::Embed(Embed { table, drawn: Some(tokens), out })]);
        let got = d.download(out, rows);
        for (got, token) in got.chunks_exact(width).zip(expected) {
            assert_bits("embed", got, &weights[token * width..][..width]);
        }

        let refused = |d: &mut Device, plan: &BatchPlan, drawn| {
            d.backend.begin(Arc::new(plan.clone())).unwrap();
            d.backend.enqueue(Op::Embed(Embed { table, drawn, out })).unwrap_err().to_string()
        };
        let error = refused(&mut d, &next, None);
        assert!(error.contains("embed: draw 4 of"), "{}: {error}", d.name);
        next.tokens[1] = DRAWN | 5;
        refused(&mut d, &next, Some(tokens));
        refused(&mut d, &next, Some(out));
        [hidden, workspace, tokens, logprobs, out].into_iter().for_each(|t| d.backend.free(t));
    }
}

/// Draws are read when they are wanted: what is enqueued after them does not change them, and an error in it comes later.
#[test]
fn draws_are_fetched_as_they_were() {
    for mut d in devices() {
        let (width, vocabulary) = (8, 16);
        let mut weights = vec![0.0; vocabulary * width];
        (0..width).for_each(|v| weights[v * width + v] = 1.0);
        let view = [WeightView::from_f32(&weights, vocabulary, width)];
        let lm_head =
            d.backend.load_linear(LinearSpec { parts: &view, bias: None, backward: false }).unwrap();
        let (tokens, logprobs) = (d.tensor(2, 1, Element::U32), d.tensor(2, 1, Element::F32));
        let workspace = d.tensor(2, vocabulary, Element::F32);
        let mut plan = plan_of(&Segments { name: "base", parts: vec![(0, 2)] }, &[Slot::BASE]);
        plan.logit_rows = vec![0, 1];
        for i in 0..2 {
            plan.draw_rows.push(DrawRow { logit_row: i, weight: 1.0 });
            let (rows_start, rows_end) = (i, i + 1);
            let (key, position, temperature, top_k, top_p, min_p) = (0, 0, 0.0, 0, 1.0, 0.0);
            plan.draws.push(Draw { rows_start, rows_end, key, position, temperature, top_k, top_p, min_p });
        }
        let mut fetched = Vec::new();
        for peaks in [[3, 5], [1, 0], [7, 2]] {
            let mut hidden = vec![0.0; 2 * width];
            peaks.iter().enumerate().for_each(|(row, &peak)| hidden[row * width + peak] = 4.0 + peak as f32);
            let hidden = d.upload(&hidden, width);
            d.run(&plan, [Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace, tokens, logprobs })]);
            fetched.push((peaks, d.backend.fetch_draws(tokens, logprobs, 2).unwrap()));
        }
        // In another order than they were enqueued in.
        fetched.swap(0, 1);
        for (peaks, draws) in fetched {
            let (tokens, logprobs) = d.backend.draws(draws).unwrap();
            assert_eq!(tokens, peaks.map(|p| p as u32), "{}", d.name);
            for (&got, peak) in logprobs.iter().zip(peaks) {
                let z = (4.0 + peak as f64).exp();
                assert!((f64::from(got) - (z / (z + 15.0)).ln()).abs() < 1e-5, "{}: {got}", d.name);
            }
        }
    }
}
