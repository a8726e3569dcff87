//! Loss and sampling over the vocabulary: against f64 oracles, exact distributions, and each other's bits.

use super::kernels::oracles::lm_head::*;
use super::support::*;
use colloquy::backend::*;

fn label_plan(labels: &[(u32, f32)]) -> BatchPlan {
    let mut plan = plan_of(&[(0, labels.len())]);
    plan.logit_rows = (0..labels.len() as u32).collect();
    plan.labels = labels.iter().map(|&(token, coefficient)| Label { token, coefficient }).collect();
    plan
}

/// (out, dhidden) of the loss.
struct Loss {
    threads: usize,
    capacity: usize,
    in_place: bool,
}

impl Loss {
    fn run(&self, hidden: &[f32], w: &[f32], d: usize, labels: &[(u32, f32)]) -> (Vec<f32>, Vec<f32>) {
        let mut b = cpu(self.threads);
        let (v, rows) = (w.len() / d, labels.len());
        let part = [WeightView::from_f32(w, v, d)];
        let lm_head = b.load_linear(LinearSpec { parts: &part, bias: None, backward: true }).unwrap();
        let hidden = upload(&mut b, hidden, d);
        let (workspace, out) = (tensor(&mut b, self.capacity, v), tensor(&mut b, rows, 2));
        let dhidden = if self.in_place { hidden } else { tensor(&mut b, rows, d) };
        run(
            &mut b,
            &label_plan(labels),
            Op::LmHeadLoss(LmHeadLoss { hidden, lm_head, workspace, out, dhidden: None }),
        );
        let forward_only = b.download_f32(out, rows).unwrap();
        let op = Op::LmHeadLoss(LmHeadLoss { hidden, lm_head, workspace, out, dhidden: Some(dhidden) });
        run(&mut b, &label_plan(labels), op);
        let out = b.download_f32(out, rows).unwrap();
        assert_bits("with and without gradient", &forward_only, &out);
        (out, b.download_f32(dhidden, rows).unwrap())
    }
}

const PLAIN: Loss = Loss { threads: 2, capacity: 100, in_place: false };

#[test]
fn loss_and_gradient_match_the_oracle() {
    let mut random = Random(1);
    for (rows, v, d, scale) in [(1, 16, 8, 1.0), (5, 37, 24, 3.0), (9, 1024, 16, 1.0), (30, 2100, 32, 2.0)] {
        let hidden = random.values(rows * d, scale);
        let w = random.values(v * d, 1.0);
        let labels: Vec<(u32, f32)> =
            (0..rows).map(|_| (random.below(v) as u32, random.values(1, 2.0)[0])).collect();
        let (out, dhidden) = PLAIN.run(&hidden, &w, d, &labels);
        let z = logits(&widen(&hidden), &w, d);
        let losses: Vec<f64> = z.iter().zip(&labels).map(|(z, l)| nll(z, l.0 as usize)).collect();
        assert_close("nll", &out.iter().step_by(2).copied().collect::<Vec<_>>(), &losses, 3e-6);
        for ((z, l), out) in z.iter().zip(&labels).zip(out.chunks_exact(2)) {
            let best = z.iter().all(|&other| other <= z[l.0 as usize]);
            assert_eq!(out[1], f32::from(u8::from(best)));
        }
        let mut exact = vec![0.0; rows * d];
        for (r, (z, &(token, c))) in z.iter().zip(&labels).enumerate() {
            for (n, p) in softmax(z, 1.0).into_iter().enumerate() {
                let g = f64::from(c) * (p - f64::from(u8::from(n == token as usize)));
                for i in 0..d {
                    exact[r * d + i] += g * f64::from(w[n * d + i]);
                }
            }
        }
        assert_close("dhidden", &dhidden, &exact, 1e-5);
        if rows * d < 200 {
            let loss = |x: &[f64]| {
                logits(x, &w, d)
                    .iter()
                    .zip(&labels)
                    .map(|(z, l)| f64::from(l.1) * nll(z, l.0 as usize))
                    .sum::<f64>()
            };
            assert_close("differences", &dhidden, &differences(&hidden, loss), 1e-5);
        }
        for capacity in [1, 2, 7] {
            for in_place in [false, true] {
                let (o, dh) = Loss { threads: 1, capacity, in_place }.run(&hidden, &w, d, &labels);
                assert_bits("nll by chunks", &o, &out);
                assert_bits("dhidden by chunks", &dh, &dhidden);
            }
        }
    }
}

/// A table whose logits for `hidden = [1]` are `z` itself.
fn table(z: &[f32]) -> (Vec<f32>, Vec<f32>) {
    (vec![1.0], z.to_vec())
}

#[test]
fn a_loss_near_zero_keeps_its_digits_and_ties_go_to_the_lower_id() {
    let (hidden, w) = table(&[30.0, 10.0, 10.0, 12.0]);
    let (out, _) = PLAIN.run(&hidden, &w, 1, &[(0, 1.0)]);
    let exact = (1.0 + 2.0 * (-20f64).exp() + (-18f64).exp()).ln();
    // Half a unit of f32's 1 + x, not of 30.
    assert!((f64::from(out[0]) - exact).abs() < 6e-8, "{} for {exact}", out[0]);
    for (label, expected) in [(0, 0.0), (1, 1.0), (2, 0.0)] {
        let (hidden, w) = table(&[1.0, 2.0, 2.0]);
        assert_eq!(PLAIN.run(&hidden, &w, 1, &[(label, 1.0)]).0[1], expected, "label {label}");
    }
}

#[test]
fn rows_without_a_coefficient_have_no_gradient_whatever_their_logits() {
    let mut random = Random(2);
    let (v, d) = (50, 8);
    let w = random.values(v * d, 1.0);
    let mut hidden = random.values(4 * d, 1.0);
    let labels = [(1, 0.5), (2, 0.0), (3, 0.0), (4, -1.0)];
    let (clean, clean_gradient) = PLAIN.run(&hidden, &w, d, &labels);
    hidden[d..2 * d].fill(f32::NAN);
    hidden[2 * d] = f32::INFINITY;
    let (out, gradient) = PLAIN.run(&hidden, &w, d, &labels);
    assert_bits("zeros", &gradient[d..3 * d], &vec![0.0; 2 * d]);
    for row in [0, 3] {
        assert_bits("nll", &out[2 * row..2 * row + 2], &clean[2 * row..2 * row + 2]);
        let at = row * d..(row + 1) * d;
        assert_bits("gradient", &gradient[at.clone()], &clean_gradient[at]);
    }
    assert!(out[2].is_nan() && !out[4].is_finite());
}

#[test]
fn the_loss_checks_its_operands() {
    let mut b = cpu(1);
    let w = [1.0; 12];
    let part = [WeightView::from_f32(&w, 6, 2)];
    let lm_head = b.load_linear(LinearSpec { parts: &part, bias: None, backward: false }).unwrap();
    let (hidden, workspace, out) = (tensor(&mut b, 2, 2), tensor(&mut b, 1, 6), tensor(&mut b, 2, 2));
    let op = |dhidden| Op::LmHeadLoss(LmHeadLoss { hidden, lm_head, workspace, out, dhidden });
    let mut plan = label_plan(&[(0, 1.0), (6, 1.0)]);
    assert!(error_of(&mut b, &plan, op(None)).contains("label 6 of a vocabulary of 6"));
    plan.labels[1].token = 5;
    assert!(error_of(&mut b, &plan, op(Some(hidden))).contains("without `backward`"));
    assert!(error_of(&mut b, &plan, op(Some(out))).contains("share a tensor"));
    plan.labels.pop();
    assert!(error_of(&mut b, &plan, op(None)).contains("1 labels for 2 rows"));
}

// ---- sampling ----

const PLAIN_DRAW: Draw = Draw {
    rows_start: 0,
    rows_end: 1,
    key: 0,
    position: 0,
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
};

/// The draws of rows of logits, which an identity for an lm_head would be: `hidden` and `w` as for the loss.
struct Sampler {
    b: cpu::CpuBackend,
    hidden: Tensor,
    lm_head: Linear,
    workspace: Tensor,
    rows: usize,
}

impl Sampler {
    fn new(threads: usize, capacity: usize, hidden: &[f32], w: &[f32], d: usize) -> Self {
        let mut b = cpu(threads);
        let v = w.len() / d;
        let part = [WeightView::from_f32(w, v, d)];
        let lm_head = b.load_linear(LinearSpec { parts: &part, bias: None, backward: false }).unwrap();
        let hidden_t = upload(&mut b, hidden, d);
        let workspace = tensor(&mut b, capacity, v);
        Self { b, hidden: hidden_t, lm_head, workspace, rows: hidden.len() / d }
    }

    /// Draws whose groups are given as (logit row, weight).
    fn draw(&mut self, draws: &[(Draw, &[(u32, f32)])]) -> (Vec<u32>, Vec<f32>) {
        let mut plan = plan_of(&[(0, self.rows)]);
        plan.logit_rows = (0..self.rows as u32).collect();
        for (draw, group) in draws {
            let rows_start = plan.draw_rows.len() as u32;
            plan.draw_rows.extend(group.iter().map(|&(logit_row, weight)| DrawRow { logit_row, weight }));
            plan.draws.push(Draw { rows_start, rows_end: plan.draw_rows.len() as u32, ..*draw });
        }
        let b = &mut self.b;
        let tokens = tensor_u32(b, draws.len());
        let logprobs = tensor(b, draws.len(), 1);
        let Self { hidden, lm_head, workspace, .. } = *self;
        run(b, &plan, Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace, tokens, logprobs }));
        let result =
            (b.download_u32(tokens, draws.len()).unwrap(), b.download_f32(logprobs, draws.len()).unwrap());
        b.free(tokens);
        b.free(logprobs);
        result
    }
}

/// The exact distribution of a draw from `q`: top-k, then top-p over its survivors, then min-p, as in transformers.
fn enumerate(q: &[f64], draw: &Draw) -> Vec<f64> {
    let (top_k, top_p) = (draw.top_k as usize, f64::from(draw.top_p));
    let mut order: Vec<usize> = (0..q.len()).collect();
    order.sort_by(|&a, &b| q[b].total_cmp(&q[a]).then(a.cmp(&b)));
    if top_k > 0 {
        order.truncate(top_k);
    }
    let total: f64 = order.iter().map(|&i| q[i]).sum();
    let mut kept = vec![0.0; q.len()];
    let mut better = 0.0;
    for (n, &i) in order.iter().enumerate() {
        let likely = q[i] >= f64::from(draw.min_p) * q[order[0]];
        if n == 0 || (top_p >= 1.0 || better / total < top_p) && likely {
            kept[i] = q[i];
        }
        better += q[i];
    }
    let total: f64 = kept.iter().sum();
    kept.iter().map(|q| q / total).collect()
}

/// Asserts that counts follow the probabilities: no count where there is none, and chi-square below its mean by five
/// standard deviations of it at most.
fn assert_distribution(what: &str, counts: &[usize], probabilities: &[f64]) {
    let n: usize = counts.iter().sum();
    let (mut chi, mut freedom, mut rare) = (0.0, -1.0f64, (0.0, 0.0));
    for (token, (&count, &p)) in counts.iter().zip(probabilities).enumerate() {
        assert!(p > 0.0 || count == 0, "{what}: token {token} was drawn {count} times");
        let expected = p * n as f64;
        if expected < 5.0 {
            rare = (rare.0 + expected, rare.1 + count as f64);
            continue;
        }
        chi += (count as f64 - expected).powi(2) / expected;
        freedom += 1.0;
    }
    if rare.0 >= 5.0 {
        chi += (rare.1 - rare.0).powi(2) / rare.0;
        freedom += 1.0;
    }
    let limit = freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0;
    assert!(chi < limit, "{what}: chi-square {chi:.1} with {freedom} degrees of freedom");
}

#[test]
fn draws_follow_the_exact_distribution() {
    // Ties, a clear favourite, a tail; 37 tokens so that the last lanes are partial.
    let mut z = Random(3).values(37, 2.0);
    (z[4], z[20], z[36]) = (z[9], z[9], z[9]);
    z[30] = f32::NEG_INFINITY;
    let (hidden, w) = table(&z);
    let mut sampler = Sampler::new(2, 1, &hidden, &w, 1);
    let cases = [
        (1.0, 0, 1.0, 0.0),
        (0.5, 0, 1.0, 0.0),
        (2.5, 0, 1.0, 0.0),
        (1.0, 5, 1.0, 0.0),
        (1.0, 0, 0.7, 0.0),
        (1.3, 12, 0.8, 0.0),
        (0.7, 36, 0.999, 0.0),
        (1.0, 37, 0.95, 0.0),
        (1.0, 1000, 0.3, 0.0),
        (1.0, 1, 1.0, 0.0),
        (1.0, 0, 1e-9, 0.0),
        (1.0, 0, 0.0, 0.0),
        (1.0, 0, -1.0, 0.0),
        (1.0, 0, 1.0, 0.1),
        (0.7, 0, 1.0, 0.02),
        (1.0, 0, 0.7, 0.2),
        (1.3, 12, 0.8, 0.3),
        (1.0, 20, 1.0, 0.05),
        (2.5, 0, 1.0, 1e-9),
        (1.0, 0, 1.0, 1.0),
    ];
    for (n, (temperature, top_k, top_p, min_p)) in cases.into_iter().enumerate() {
        let draws: Vec<(Draw, &[(u32, f32)])> = (0..20_000u64)
            .map(|i| {
                let key = mix(i / 4) ^ n as u64;
                (
                    Draw { key, position: i as u32 % 4, temperature, top_k, top_p, min_p, ..PLAIN_DRAW },
                    &[(0, 1.0)][..],
                )
            })
            .collect();
        let (tokens, logprobs) = sampler.draw(&draws);
        let mut counts = vec![0; z.len()];
        tokens.iter().for_each(|&t| counts[t as usize] += 1);
        let q = softmax(&widen(&z), f64::from(temperature));
        let exact = enumerate(&q, &draws[0].0);
        assert_distribution(&format!("T {temperature}, k {top_k}, p {top_p}, min {min_p}"), &counts, &exact);
        for (&token, &logprob) in tokens.iter().zip(&logprobs) {
            assert!((f64::from(logprob) + nll(&widen(&z), token as usize)).abs() < 1e-5);
        }
    }
}

#[test]
fn ties_go_to_the_lower_id_in_every_filter() {
    let z = [0.0, 1.0, 1.0, 1.0, -0.0, 0.5];
    let (hidden, w) = table(&z);
    let mut sampler = Sampler::new(1, 1, &hidden, &w, 1);
    let mut drawn = |draw: Draw| -> Vec<u32> {
        let draws: Vec<_> = (0..400).map(|key| (Draw { key, ..draw }, &[(0, 1.0)][..])).collect();
        let mut tokens = sampler.draw(&draws).0;
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    };
    assert_eq!(drawn(Draw { temperature: 0.0, ..PLAIN_DRAW }), [1]);
    assert_eq!(drawn(Draw { top_k: 1, ..PLAIN_DRAW }), [1]);
    assert_eq!(drawn(Draw { top_k: 2, ..PLAIN_DRAW }), [1, 2]);
    assert_eq!(drawn(Draw { top_k: 5, ..PLAIN_DRAW }), [0, 1, 2, 3, 5]);
    assert_eq!(drawn(Draw { top_p: 1e-6, ..PLAIN_DRAW }), [1]);
    // Three equal tokens after top-k: the second stays while one third < p.
    assert_eq!(drawn(Draw { top_k: 3, top_p: 0.3, ..PLAIN_DRAW }), [1]);
    assert_eq!(drawn(Draw { top_k: 3, top_p: 0.4, ..PLAIN_DRAW }), [1, 2]);
    assert_eq!(drawn(Draw { top_k: 3, top_p: 0.7, ..PLAIN_DRAW }), [1, 2, 3]);
    // exp(-0.5) = 0.607 and exp(-1) = 0.368 times as likely as the best.
    assert_eq!(drawn(Draw { min_p: 1.0, ..PLAIN_DRAW }), [1, 2, 3]);
    assert_eq!(drawn(Draw { min_p: 0.61, ..PLAIN_DRAW }), [1, 2, 3]);
    assert_eq!(drawn(Draw { min_p: 0.6, ..PLAIN_DRAW }), [1, 2, 3, 5]);
    assert_eq!(drawn(Draw { min_p: 0.37, ..PLAIN_DRAW }), [1, 2, 3, 5]);
    assert_eq!(drawn(Draw { min_p: 0.36, ..PLAIN_DRAW }), [0, 1, 2, 3, 4, 5]);
    assert_eq!(drawn(Draw { min_p: 0.5, temperature: 0.5, ..PLAIN_DRAW }), [1, 2, 3]);
    assert_eq!(drawn(Draw { min_p: 0.6, top_k: 2, ..PLAIN_DRAW }), [1, 2]);
    // Top-p is a share of what min-p leaves out too: of what it keeps, 0.6 would be two tokens.
    assert_eq!(drawn(Draw { min_p: 0.9, top_p: 0.6, ..PLAIN_DRAW }), [1, 2, 3]);
    assert_eq!(drawn(Draw { temperature: 1e-30, ..PLAIN_DRAW }), [1, 2, 3]);
}

/// What the contract says, token by token.
fn gumbel_winner(q: &[f64], draw: &Draw) -> u32 {
    let kept = enumerate(q, draw);
    let score = |token: usize| {
        let u = f64::from(uniform(draw.key, draw.position, token as u32));
        q[token].ln() - (-u.ln()).ln()
    };
    let candidates = (0..q.len()).filter(|&t| kept[t] > 0.0);
    candidates
        .fold(None, |best: Option<usize>, t| best.filter(|&b| score(b) >= score(t)).or(Some(t)))
        .unwrap() as u32
}

#[test]
fn each_draw_is_the_gumbel_maximum_over_a_large_vocabulary() {
    let mut random = Random(4);
    let (v, d, rows) = (5000, 4, 12);
    for scale in [0.0, 0.3, 2.0] {
        let hidden = random.values(rows * d, scale);
        let w = random.values(v * d, 1.0);
        let z = logits(&widen(&hidden), &w, d);
        let mut sampler = Sampler::new(2, 5, &hidden, &w, d);
        let draws: Vec<Draw> = (0..240)
            .map(|i| Draw {
                key: random.bits(),
                position: i,
                temperature: [1.0, 0.6, 1.7][i as usize % 3],
                top_k: [0, 0, 40, 3000][i as usize / 3 % 4],
                top_p: [1.0, 0.9, 0.5, 0.99][i as usize / 12 % 4],
                min_p: if i < 48 { 0.0 } else { [0.02, 1e-8, 0.3, 1.0][i as usize % 4] },
                ..PLAIN_DRAW
            })
            .collect();
        let groups: Vec<[(u32, f32); 1]> = (0..240).map(|i| [(i * 7 % rows as u32, 1.0)]).collect();
        let list: Vec<_> = draws.iter().zip(&groups).map(|(&draw, group)| (draw, &group[..])).collect();
        let (tokens, _) = sampler.draw(&list);
        let mut different = 0;
        for (i, draw) in draws.iter().enumerate() {
            let q = softmax(&z[groups[i][0].0 as usize], f64::from(draw.temperature));
            different += usize::from(tokens[i] != gumbel_winner(&q, draw));
        }
        // Equal logits (scale 0) have f32 masses whose sums differ from f64's; elsewhere rounding may decide a close call.
        assert!(different <= 2, "scale {scale}: {different} of 240 draws differ from the exact maximum");
    }
}

#[test]
fn sampled_log_probabilities_are_the_trainers_bits_and_draws_ignore_their_company() {
    let mut random = Random(5);
    let (v, d, rows) = (3000, 16, 9);
    let hidden = random.values(rows * d, 1.0);
    let w = random.values(v * d, 1.0);
    let draws: Vec<Draw> = (0..60)
        .map(|i| Draw {
            key: random.bits(),
            position: i,
            temperature: [0.0, 1.0, 0.8][i as usize % 3],
            top_k: [0, 50][i as usize % 2],
            top_p: [1.0, 0.9][i as usize / 2 % 2],
            min_p: [0.0, 0.1][i as usize / 4 % 2],
            ..PLAIN_DRAW
        })
        .collect();
    let groups: Vec<[(u32, f32); 1]> = (0..60).map(|i| [(i * 5 % rows as u32, 1.0)]).collect();
    let list: Vec<_> = draws.iter().zip(&groups).map(|(&draw, group)| (draw, &group[..])).collect();
    let (tokens, logprobs) = Sampler::new(2, 4, &hidden, &w, d).draw(&list);
    for (capacity, threads) in [(1, 1), (2, 2), (9, 1), (20, 2)] {
        let (t, l) = Sampler::new(threads, capacity, &hidden, &w, d).draw(&list);
        assert_eq!(t, tokens);
        assert_bits("log-probabilities", &l, &logprobs);
    }
    for i in 0..60 {
        let row = groups[i][0].0 as usize;
        let alone = &hidden[row * d..(row + 1) * d];
        let (t, l) = Sampler::new(1, 1, alone, &w, d).draw(&[(draws[i], &[(0, 1.0)])]);
        assert_eq!(t[0], tokens[i]);
        assert_bits("alone", &l, &logprobs[i..i + 1]);
        let (loss, _) = PLAIN.run(alone, &w, d, &[(tokens[i], 1.0)]);
        assert_bits("minus the loss", &[-l[0]], &loss[..1]);
    }
}

#[test]
fn groups_draw_from_their_mixture() {
    let mut random = Random(6);
    let (v, d) = (33, 8);
    let hidden = random.values(3 * d, 1.0);
    let w = random.values(v * d, 1.0);
    let z = logits(&widen(&hidden), &w, d);
    let mut sampler = Sampler::new(2, 3, &hidden, &w, d);
    let group: &[(u32, f32)] = &[(2, 0.5), (0, 0.2), (1, 0.3)];
    let mixture = |temperature: f64| -> Vec<f64> {
        let parts: Vec<Vec<f64>> = z.iter().map(|z| softmax(z, temperature)).collect();
        (0..v).map(|t| group.iter().map(|&(r, w)| f64::from(w) * parts[r as usize][t]).sum()).collect()
    };
    for (temperature, top_k, top_p, min_p) in [
        (1.0, 0, 1.0, 0.0),
        (0.6, 0, 1.0, 0.0),
        (1.5, 7, 1.0, 0.0),
        (1.0, 0, 0.8, 0.0),
        (0.9, 9, 0.7, 0.0),
        (0.8, 0, 1.0, 0.2),
        (1.2, 0, 0.9, 0.1),
    ] {
        let draws: Vec<_> = (0..20_000)
            .map(|key| (Draw { key, temperature, top_k, top_p, min_p, ..PLAIN_DRAW }, group))
            .collect();
        let (tokens, logprobs) = sampler.draw(&draws);
        let mut counts = vec![0; v];
        tokens.iter().for_each(|&t| counts[t as usize] += 1);
        let exact = enumerate(&mixture(f64::from(temperature)), &draws[0].0);
        assert_distribution(&format!("T {temperature}, k {top_k}, p {top_p}, min {min_p}"), &counts, &exact);
        let plain = mixture(1.0);
        for (&token, &logprob) in tokens.iter().zip(&logprobs).take(200) {
            assert!((f64::from(logprob) - plain[token as usize].ln()).abs() < 1e-5);
        }
    }
    let best = mixture(1.0).iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let (tokens, _) = sampler.draw(&[(Draw { temperature: 0.0, ..PLAIN_DRAW }, group)]);
    assert_eq!(tokens, [best as u32]);
    // Groups, single rows and shared rows in one step, whatever the room for logits.
    let list: Vec<(Draw, &[(u32, f32)])> = vec![
        (Draw { key: 1, ..PLAIN_DRAW }, group),
        (Draw { key: 2, ..PLAIN_DRAW }, &[(0, 1.0)]),
        (Draw { key: 3, ..PLAIN_DRAW }, &group[1..]),
        (Draw { key: 4, temperature: 0.5, ..PLAIN_DRAW }, &[(2, 1.0)]),
    ];
    let together = Sampler::new(2, 9, &hidden, &w, d).draw(&list);
    for (i, draw) in list.iter().enumerate() {
        let alone = Sampler::new(1, 3, &hidden, &w, d).draw(std::slice::from_ref(draw));
        assert_eq!(alone.0[0], together.0[i]);
        assert_bits("log-probability", &alone.1, &together.1[i..i + 1]);
    }
}

#[test]
fn logits_that_are_not_finite_neither_panic_nor_reach_other_rows() {
    let mut random = Random(7);
    let (v, d) = (100, 4);
    let w = random.values(v * d, 1.0);
    let mut hidden = random.values(3 * d, 1.0);
    let list: Vec<(Draw, [(u32, f32); 1])> = (0..36)
        .map(|i| {
            let draw = Draw {
                key: i,
                temperature: [0.0, 1.0][i as usize % 2],
                top_k: [0, 10][i as usize / 2 % 2],
                top_p: [1.0, 0.9][i as usize / 4 % 2],
                min_p: [0.0, 0.1][i as usize / 8 % 2],
                ..PLAIN_DRAW
            };
            (draw, [(i as u32 % 3, 1.0)])
        })
        .collect();
    let list: Vec<(Draw, &[(u32, f32)])> = list.iter().map(|(draw, group)| (*draw, &group[..])).collect();
    let clean = Sampler::new(1, 3, &hidden, &w, d).draw(&list);
    hidden[d..2 * d].fill(f32::NAN);
    let got = Sampler::new(1, 3, &hidden, &w, d).draw(&list);
    for i in 0..36 {
        if list[i].1[0].0 == 1 {
            assert!(got.1[i].is_nan() && (got.0[i] as usize) < v);
        } else {
            assert_eq!(got.0[i], clean.0[i]);
            assert_bits("others", &got.1[i..=i], &clean.1[i..=i]);
        }
    }
}

#[test]
fn uniform_stays_inside_the_unit_interval() {
    let (mut lowest, mut highest) = (1.0f32, 0.0f32);
    let mut sum = 0.0;
    for i in 0..4_000_000u32 {
        let u = uniform(u64::from(i >> 12), i >> 7 & 31, i & 127);
        (lowest, highest) = (lowest.min(u), highest.max(u));
        sum += f64::from(u);
    }
    assert!(lowest > 0.0 && highest < 1.0, "{lowest} to {highest}");
    assert!((sum / 4e6 - 0.5).abs() < 1e-3);
    // The two ends of the formula, exactly.
    let end = |bits: u64| (bits as f32 + 0.5) * (1.0 / 8_388_608.0);
    assert!(end(0) > 0.0 && end((1 << 23) - 1) < 1.0);
}

#[test]
fn draws_that_make_no_sense_are_errors() {
    let (hidden, w) = table(&[1.0, 2.0]);
    let mut sampler = Sampler::new(1, 1, &hidden, &w, 1);
    let Sampler { hidden, lm_head, workspace, .. } = sampler;
    let b = &mut sampler.b;
    let (tokens, logprobs) = (tensor_u32(b, 1), tensor(b, 1, 1));
    let op = Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace, tokens, logprobs });
    let mut plan = plan_of(&[(0, 1)]);
    plan.logit_rows = vec![0];
    plan.draw_rows = vec![DrawRow { logit_row: 0, weight: 1.0 }, DrawRow { logit_row: 1, weight: 1.0 }];
    for (draw, problem) in [
        (Draw { rows_end: 0, ..PLAIN_DRAW }, "no rows"),
        (Draw { rows_end: 3, ..PLAIN_DRAW }, "no rows"),
        (Draw { rows_end: 2, ..PLAIN_DRAW }, "mixes 2 rows in a workspace of 1"),
        (Draw { rows_start: 1, rows_end: 2, ..PLAIN_DRAW }, "beyond the 1 logit rows"),
        (Draw { temperature: -1.0, ..PLAIN_DRAW }, "temperature -1"),
        (Draw { temperature: f32::NAN, ..PLAIN_DRAW }, "temperature NaN"),
        (Draw { top_p: f32::NAN, ..PLAIN_DRAW }, "top-p"),
        (Draw { min_p: f32::NAN, ..PLAIN_DRAW }, "min-p NaN"),
        (Draw { min_p: -0.1, ..PLAIN_DRAW }, "min-p -0.1"),
        (Draw { min_p: 1.5, ..PLAIN_DRAW }, "min-p 1.5"),
    ] {
        plan.draws = vec![draw];
        let error = error_of(b, &plan, op.clone());
        assert!(error.contains(problem), "{error}");
    }
}
