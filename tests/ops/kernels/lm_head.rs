//! Loss and sampling over the vocabulary: against f64 oracles, exact distributions, and each other's bits.
//!
//! `NLL`: logits and sums are f32 (128 terms a thread at most, exponentials within 2 ulp and the rounding of their argument). `GRADIENT`: on the kernels' devices the
//! gradient of the logits is rounded to bf16 (2^-9 of each on average, 2^-8 at most) before it is multiplied by W, and the product once more.

use std::sync::Arc;

use colloquy::backend::*;

use super::oracles::lm_head::*;
use super::support::*;

const NLL: f64 = 3e-6;
const GRADIENT: [f64; 2] = [1e-5, 8e-3];

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn base_rows(rows: usize) -> BatchPlan {
    let mut plan = plan_of(&Segments { name: "base", parts: vec![(0, rows)] }, &[Slot::BASE]);
    plan.logit_rows = (0..rows as u32).collect();
    plan
}

fn label_plan(labels: &[(u32, f32)]) -> BatchPlan {
    let mut plan = base_rows(labels.len());
    plan.labels = labels.iter().map(|&(token, coefficient)| Label { token, coefficient }).collect();
    plan
}

fn error_of(d: &mut Device, plan: &BatchPlan, op: Op) -> String {
    d.backend.begin(Arc::new(plan.clone())).unwrap();
    d.backend.enqueue(op).unwrap_err().to_string()
}

/// An lm_head on a device.
struct Head {
    device: Device,
    lm_head: Linear,
    width: usize,
    vocabulary: usize,
}

impl Head {
    fn new(mut device: Device, w: &[f32], width: usize) -> Self {
        let vocabulary = w.len() / width;
        let part = [WeightView::from_f32(w, vocabulary, width)];
        let lm_head =
            device.backend.load_linear(LinearSpec { parts: &part, bias: None, backward: true }).unwrap();
        Self { device, lm_head, width, vocabulary }
    }

    /// A head whose logits for the hidden state of [`Head::one`] are `z` itself, once stored.
    fn of_logits(device: Device, z: &[f32]) -> Self {
        let mut w = vec![0.0; z.len() * 8];
        w.iter_mut().step_by(8).zip(z).for_each(|(w, &z)| *w = z);
        Self::new(device, &w, 8)
    }

    fn one() -> Vec<f32> {
        let mut hidden = vec![0.0; 8];
        hidden[0] = 1.0;
        hidden
    }

    /// (out, dhidden), C rows of logits at a time; the loss without gradient has the same bits.
    fn loss(
        &mut self,
        hidden: &[f32],
        labels: &[(u32, f32)],
        capacity: usize,
        in_place: bool,
    ) -> (Vec<f32>, Vec<f32>) {
        let (lm_head, rows, width, d) = (self.lm_head, labels.len(), self.width, &mut self.device);
        let plan = label_plan(labels);
        let hidden = d.upload(hidden, width);
        let workspace = d.tensor(capacity, self.vocabulary, Element::F32);
        let out = d.tensor(rows + 1, 2, Element::F32);
        let dhidden = if in_place { hidden } else { d.tensor(rows, width, Element::Activation) };
        d.run(&plan, [Op::LmHeadLoss(LmHeadLoss { hidden, lm_head, workspace, out, dhidden: None })]);
        let forward = d.download(out, rows);
        d.run(
            &plan,
            [Op::LmHeadLoss(LmHeadLoss { hidden, lm_head, workspace, out, dhidden: Some(dhidden) })],
        );
        let all = d.download(out, rows + 1);
        assert_bits("with and without gradient", &forward, &all[..2 * rows]);
        assert!(all[2 * rows..].iter().all(|x| x.is_nan()), "{}: a row too many is written", d.name);
        let gradient = d.download(dhidden, rows);
        [hidden, workspace, out, dhidden].into_iter().for_each(|t| d.backend.free(t));
        (forward, gradient)
    }

    /// Draws whose groups are given as (logit row, weight), C rows of logits at a time.
    fn draw(
        &mut self,
        hidden: &[f32],
        draws: &[(Draw, &[(u32, f32)])],
        capacity: usize,
    ) -> (Vec<u32>, Vec<f32>) {
        let (lm_head, width, d) = (self.lm_head, self.width, &mut self.device);
        let mut plan = base_rows(hidden.len() / width);
        for (draw, group) in draws {
            let rows_start = plan.draw_rows.len() as u32;
            plan.draw_rows.extend(group.iter().map(|&(logit_row, weight)| DrawRow { logit_row, weight }));
            plan.draws.push(Draw { rows_start, rows_end: plan.draw_rows.len() as u32, ..*draw });
        }
        let hidden = d.upload(hidden, width);
        let workspace = d.tensor(capacity, self.vocabulary, Element::F32);
        let (tokens, logprobs) =
            (d.tensor(draws.len(), 1, Element::U32), d.tensor(draws.len(), 1, Element::F32));
        d.run(&plan, [Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace, tokens, logprobs })]);
        let drawn = d.backend.download_u32(tokens, draws.len()).unwrap_or_else(|e| panic!("{}: {e}", d.name));
        let result = (drawn, d.download(logprobs, draws.len()));
        [hidden, workspace, tokens, logprobs].into_iter().for_each(|t| d.backend.free(t));
        result
    }

    /// Whether the device is slow, so that tests repeat less often.
    fn slow(&self) -> bool {
        self.device.precision == Precision::Bf16
    }
}

// ---- loss ----

#[test]
fn loss_and_gradient_match_the_oracle() {
    for (rows, v, d, scale) in [
        (1, 16, 8, 1.0),
        (5, 50, 24, 3.0),
        (5, 37, 24, 3.0),
        (9, 1000, 16, 1.0),
        (9, 1024, 16, 1.0),
        (30, 2100, 32, 2.0),
        (4, 2050, 8, 1.0),
        (3, 4097, 32, 2.0),
    ] {
        // Shapes beyond those that the emulator has time for.
        let more = [37, 1024, 2100].contains(&v);
        for device in devices().into_iter().filter(|d| !more || d.precision == Precision::F32) {
            let mut random = Random(rows as u64);
            let hidden = device.stored(&random.values(rows * d, scale));
            let w = device.stored(&random.values(v * d, 1.0));
            let bound = GRADIENT[usize::from(device.precision == Precision::Bf16)];
            let labels: Vec<(u32, f32)> =
                (0..rows).map(|_| (random.below(v) as u32, random.values(1, 2.0)[0])).collect();
            let what = format!("{}, {rows} rows, vocabulary {v}", device.name);
            let mut head = Head::new(device, &w, d);
            let (out, dhidden) = head.loss(&hidden, &labels, 100, false);
            let z = logits(&widen(&hidden), &w, d);
            let losses: Vec<f64> = z.iter().zip(&labels).map(|(z, l)| nll(z, l.0 as usize)).collect();
            let got: Vec<f32> = out.iter().step_by(2).copied().collect();
            assert_close(&format!("nll, {what}"), &got, &losses, NLL);
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
            assert_close(&format!("dhidden, {what}"), &dhidden, &exact, bound);
            if rows * d < 200 {
                let loss = |x: &[f64]| -> f64 {
                    let z = logits(x, &w, d);
                    z.iter().zip(&labels).map(|(z, l)| f64::from(l.1) * nll(z, l.0 as usize)).sum()
                };
                let mut x = widen(&hidden);
                let differences: Vec<f64> = (0..x.len())
                    .map(|i| {
                        let at = std::mem::replace(&mut x[i], f64::from(hidden[i]) + 1e-5);
                        let above = loss(&x);
                        x[i] = at - 1e-5;
                        let below = loss(&x);
                        x[i] = at;
                        (above - below) / 2e-5
                    })
                    .collect();
                assert_close(&format!("differences, {what}"), &dhidden, &differences, bound);
            }
            let mut heads = vec![head];
            heads.extend(heads[0].device.on_one_thread().map(|device| Head::new(device, &w, d)));
            for head in &mut heads {
                for (capacity, in_place) in [(1, true), (2, false), (7, true)] {
                    let (o, dh) = head.loss(&hidden, &labels, capacity, in_place);
                    assert_bits("nll by chunks", &o, &out);
                    assert_bits("dhidden by chunks", &dh, &dhidden);
                }
            }
            let head = &mut heads[0];
            let last = (rows - 1) * d..rows * d;
            let (alone, dalone) = head.loss(&hidden[last.clone()], &labels[rows - 1..], 3, false);
            assert_bits("nll alone", &alone, &out[2 * rows - 2..]);
            assert_bits("dhidden alone", &dalone, &dhidden[last]);
        }
    }
}

#[test]
fn a_loss_near_zero_keeps_its_digits_and_ties_go_to_the_lower_id() {
    for device in devices() {
        let mut head = Head::of_logits(device, &[30.0, 10.0, 10.0, 12.0]);
        let (out, _) = head.loss(&Head::one(), &[(0, 1.0)], 1, false);
        let exact = (1.0 + 2.0 * (-20f64).exp() + (-18f64).exp()).ln();
        // Half a unit of f32's 1 + x, not of 30.
        assert!((f64::from(out[0]) - exact).abs() < 6e-8, "{} for {exact}", out[0]);
        let mut head = Head::of_logits(head.device, &[1.0, 2.0, 2.0]);
        for (label, expected) in [(0, 0.0), (1, 1.0), (2, 0.0)] {
            assert_eq!(head.loss(&Head::one(), &[(label, 1.0)], 1, false).0[1], expected, "label {label}");
        }
    }
}

#[test]
fn rows_without_a_coefficient_have_no_gradient_whatever_their_logits() {
    for device in devices() {
        let mut random = Random(2);
        let (v, d) = (50, 8);
        let w = random.values(v * d, 1.0);
        let mut hidden = random.values(4 * d, 1.0);
        let labels = [(1, 0.5), (2, 0.0), (3, 0.0), (4, -1.0)];
        let mut head = Head::new(device, &w, d);
        for capacity in [1, 3, 4] {
            hidden[d..3 * d].fill(0.5);
            let (clean, clean_gradient) = head.loss(&hidden, &labels, capacity, true);
            hidden[d..2 * d].fill(f32::NAN);
            hidden[2 * d] = f32::INFINITY;
            let (out, gradient) = head.loss(&hidden, &labels, capacity, true);
            assert_bits("zeros", &gradient[d..3 * d], &vec![0.0; 2 * d]);
            for row in [0, 3] {
                assert_bits("nll", &out[2 * row..2 * row + 2], &clean[2 * row..2 * row + 2]);
                let at = row * d..(row + 1) * d;
                assert_bits("gradient", &gradient[at.clone()], &clean_gradient[at]);
            }
            assert!(out[2].is_nan() && !out[4].is_finite());
        }
    }
}

#[test]
fn the_loss_checks_its_operands() {
    for device in devices() {
        let Head { device: mut d, lm_head, .. } = Head::new(device, &[1.0; 48], 8);
        let (hidden, workspace) = (d.tensor(2, 8, Element::Activation), d.tensor(1, 6, Element::F32));
        let out = d.tensor(2, 2, Element::F32);
        let op = |dhidden| Op::LmHeadLoss(LmHeadLoss { hidden, lm_head, workspace, out, dhidden });
        let mut plan = label_plan(&[(0, 1.0), (6, 1.0)]);
        assert!(error_of(&mut d, &plan, op(None)).contains("label 6 of a vocabulary of 6"));
        plan.labels[1].token = 5;
        assert!(error_of(&mut d, &plan, op(Some(out))).contains("share a tensor"));
        if d.precision == Precision::F32 {
            // The kernels read the same weights either way.
            let part = [WeightView::from_f32(&[1.0; 48], 6, 8)];
            let lm_head =
                d.backend.load_linear(LinearSpec { parts: &part, bias: None, backward: false }).unwrap();
            let op = LmHeadLoss { hidden, lm_head, workspace, out, dhidden: Some(hidden) };
            assert!(error_of(&mut d, &plan, Op::LmHeadLoss(op)).contains("without `backward`"));
        }
        plan.labels.pop();
        assert!(error_of(&mut d, &plan, op(None)).contains("1 labels for 2 rows"));
    }
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
const ONLY: &[(u32, f32)] = &[(0, 1.0)];

/// Tokens in the order that top-k and top-p keep them.
fn by_rank(q: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..q.len()).collect();
    order.sort_by(|&a, &b| q[b].total_cmp(&q[a]).then(a.cmp(&b)));
    order
}

/// The exact distribution of a draw from `q`: top-k, then top-p over its survivors, then min-p, as in transformers.
fn enumerate(q: &[f64], draw: &Draw) -> Vec<f64> {
    let (top_k, top_p) = (draw.top_k as usize, f64::from(draw.top_p));
    let mut order = by_rank(q);
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

/// The score of each token, whose largest wins: that of a token that top-k, top-p or min-p has removed is
/// minus infinity.
fn gumbel_scores(q: &[f64], draw: &Draw) -> Vec<f64> {
    let kept = enumerate(q, draw);
    let score = |token: usize| {
        let u = f64::from(uniform(draw.key, draw.position, token as u32));
        q[token].ln() - (-u.ln()).ln()
    };
    (0..q.len()).map(|t| if kept[t] > 0.0 { score(t) } else { f64::NEG_INFINITY }).collect()
}

/// What the contract says, token by token: of equal scores the lower id.
fn gumbel_winner(q: &[f64], draw: &Draw) -> u32 {
    let scores = gumbel_scores(q, draw);
    (0..q.len()).reduce(|best, t| if scores[best] >= scores[t] { best } else { t }).unwrap() as u32
}

/// Two scores so near that f32 may turn them round: a score is below 2^5, a unit in its last place
/// at most 2^-19 = 2e-6, and it is the sum of two logarithms.
const CLOSE_CALL: f64 = 1e-5;

/// Asserts that a draw is the winner, or one whose score is as good but for the rounding of f32.
fn assert_wins(what: &str, token: u32, q: &[f64], draw: &Draw) {
    let (winner, scores) = (gumbel_winner(q, draw), gumbel_scores(q, draw));
    let behind = scores[winner as usize] - scores[token as usize];
    assert!(
        token == winner || behind <= CLOSE_CALL,
        "{what}: token {token} was drawn, which is {behind:.1e} behind token {winner}"
    );
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
    let freedom = freedom.max(0.0);
    let limit = freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0;
    assert!(chi < limit, "{what}: chi-square {chi:.1} with {freedom} degrees of freedom");
}

#[test]
fn draws_follow_the_exact_distribution() {
    for device in devices() {
        // Ties, a clear favourite, a tail; 37 tokens so that the last lanes are partial.
        let mut z = device.stored(&Random(3).values(37, 2.0));
        (z[4], z[20], z[36]) = (z[9], z[9], z[9]);
        z[30] = f32::NEG_INFINITY;
        let name = device.name.clone();
        let mut head = Head::of_logits(device, &z);
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
            let repeats = match (head.slow(), top_k == 0 && top_p == 1.0 && min_p == 0.0) {
                (false, _) => 20_000,
                (true, true) => 200,
                (true, false) => 48,
            };
            let draws: Vec<(Draw, &[(u32, f32)])> = (0..repeats)
                .map(|i| {
                    let key = mix(i / 4) ^ n as u64;
                    (
                        Draw { key, position: i as u32 % 4, temperature, top_k, top_p, min_p, ..PLAIN_DRAW },
                        ONLY,
                    )
                })
                .collect();
            let (tokens, logprobs) = head.draw(&Head::one(), &draws, 1);
            let mut counts = vec![0; z.len()];
            tokens.iter().for_each(|&t| counts[t as usize] += 1);
            let q = softmax(&widen(&z), f64::from(temperature));
            let exact = enumerate(&q, &draws[0].0);
            let what = format!("{name}, T {temperature}, k {top_k}, p {top_p}, min {min_p}");
            assert_distribution(&what, &counts, &exact);
            let losses: Vec<f64> = (0..z.len()).map(|token| nll(&widen(&z), token)).collect();
            for (&token, &logprob) in tokens.iter().zip(&logprobs) {
                assert!((f64::from(logprob) + losses[token as usize]).abs() < 1e-5);
            }
            for ((draw, _), &token) in draws.iter().zip(&tokens).take(250) {
                assert_wins(&what, token, &q, draw);
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_id_in_every_filter() {
    for device in devices() {
        let mut head = Head::of_logits(device, &[0.0, 1.0, 1.0, 1.0, -0.0, 0.5]);
        let keys = if head.slow() { 24 } else { 400 };
        let mut drawn = |draw: Draw| -> Vec<u32> {
            let draws: Vec<_> = (0..keys).map(|key| (Draw { key, ..draw }, ONLY)).collect();
            let mut tokens = head.draw(&Head::one(), &draws, 1).0;
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
        assert_eq!(drawn(Draw { temperature: 1e-42, top_k: 2, ..PLAIN_DRAW }), [1, 2]);
    }
}

#[test]
fn each_draw_is_the_gumbel_maximum_over_a_large_vocabulary() {
    // Flat, so that more tokens are candidates than can be listed; peaked; and in between. The last has equal logits by the hundred.
    for (scale, v) in [(0.0, 5000), (0.3, 4097), (2.0, 5000), (1.0, 1000)] {
        for device in devices() {
            let (mut random, d, rows) = (Random(4), 8, 12);
            let hidden = device.stored(&random.values(rows * d, scale));
            let mut w = device.stored(&random.values(v * d, 1.0));
            if v == 1000 {
                w.iter_mut().for_each(|w| *w = w.round());
            }
            let name = device.name.clone();
            let z = logits(&widen(&hidden), &w, d);
            let mut head = Head::new(device, &w, d);
            let n = if head.slow() { 72 } else { 240 };
            let draws: Vec<Draw> = (0..n)
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
            let groups: Vec<[(u32, f32); 1]> = (0..n).map(|i| [(i * 7 % rows as u32, 1.0)]).collect();
            let list: Vec<_> = draws.iter().zip(&groups).map(|(&draw, group)| (draw, &group[..])).collect();
            let (tokens, _) = head.draw(&hidden, &list, 5);
            let mut different = 0;
            for (i, draw) in draws.iter().enumerate() {
                let q = softmax(&z[groups[i][0].0 as usize], f64::from(draw.temperature));
                different += usize::from(tokens[i] != gumbel_winner(&q, draw));
            }
            // Equal logits (scale 0) have f32 masses whose sums differ from f64's; elsewhere rounding may decide a close call.
            assert!(
                different <= 2,
                "{name}, scale {scale}: {different} of {n} draws are not the exact maximum"
            );
        }
    }
}

#[test]
fn sampled_log_probabilities_are_the_trainers_bits_and_draws_ignore_their_company() {
    for (v, d, rows) in [(50, 16, 9), (4097, 8, 5), (1000, 24, 7)] {
        for device in devices() {
            let mut random = Random(5);
            let hidden = random.values(rows * d, 1.0);
            let w = random.values(v * d, 1.0);
            let mut head = Head::new(device, &w, d);
            // How many draws, and how many of them alone.
            let (n, alone) = if head.slow() { (24, rows) } else { (60, 60) };
            let draws: Vec<Draw> = (0..n)
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
            let groups: Vec<[(u32, f32); 1]> = (0..n).map(|i| [(i * 5 % rows as u32, 1.0)]).collect();
            let list: Vec<_> = draws.iter().zip(&groups).map(|(&draw, group)| (draw, &group[..])).collect();
            let (tokens, logprobs) = head.draw(&hidden, &list, 4);
            let mut heads = vec![head];
            heads.extend(heads[0].device.on_one_thread().map(|device| Head::new(device, &w, d)));
            for head in &mut heads {
                for capacity in [1, 9, 20] {
                    let (t, l) = head.draw(&hidden, &list, capacity);
                    assert_eq!(t, tokens);
                    assert_bits("log-probabilities", &l, &logprobs);
                }
            }
            let head = &mut heads[0];
            let labels: Vec<(u32, f32)> = (0..alone).map(|r| (tokens[r], 1.0)).collect();
            let in_order: Vec<f32> =
                (0..alone).flat_map(|i| hidden[groups[i][0].0 as usize * d..][..d].to_vec()).collect();
            let (losses, _) = head.loss(&in_order, &labels, 3, false);
            for i in 0..alone {
                assert_bits("minus the loss", &[-logprobs[i]], &losses[2 * i..2 * i + 1]);
                let row = groups[i][0].0 as usize;
                let (t, l) = head.draw(&hidden[row * d..(row + 1) * d], &[(draws[i], ONLY)], 1);
                assert_eq!(t[0], tokens[i]);
                assert_bits("alone", &l, &logprobs[i..i + 1]);
            }
        }
    }
}

#[test]
fn groups_draw_from_their_mixture() {
    for device in devices() {
        let mut random = Random(6);
        let (v, d) = (33, 8);
        let hidden = device.stored(&random.values(3 * d, 1.0));
        let w = device.stored(&random.values(v * d, 1.0));
        let z = logits(&widen(&hidden), &w, d);
        let mut head = Head::new(device, &w, d);
        let group: &[(u32, f32)] = &[(2, 0.5), (0, 0.2), (1, 0.3)];
        let mixture = |temperature: f64| -> Vec<f64> {
            let parts: Vec<Vec<f64>> = z.iter().map(|z| softmax(z, temperature)).collect();
            (0..v).map(|t| group.iter().map(|&(r, w)| f64::from(w) * parts[r as usize][t]).sum()).collect()
        };
        let repeats = if head.slow() { 48 } else { 20_000 };
        for (temperature, top_k, top_p, min_p) in [
            (1.0, 0, 1.0, 0.0),
            (0.6, 0, 1.0, 0.0),
            (1.5, 7, 1.0, 0.0),
            (1.0, 0, 0.8, 0.0),
            (0.9, 9, 0.7, 0.0),
            (0.8, 0, 1.0, 0.2),
            (1.2, 0, 0.9, 0.1),
        ] {
            let draws: Vec<_> = (0..repeats)
                .map(|key| (Draw { key, temperature, top_k, top_p, min_p, ..PLAIN_DRAW }, group))
                .collect();
            let (tokens, logprobs) = head.draw(&hidden, &draws, 3);
            let mut counts = vec![0; v];
            tokens.iter().for_each(|&t| counts[t as usize] += 1);
            let q = mixture(f64::from(temperature));
            let what = format!("T {temperature}, k {top_k}, p {top_p}, min {min_p}");
            assert_distribution(&what, &counts, &enumerate(&q, &draws[0].0));
            let plain = mixture(1.0);
            for ((draw, _), (&token, &logprob)) in draws.iter().zip(tokens.iter().zip(&logprobs)).take(200) {
                assert!((f64::from(logprob) - plain[token as usize].ln()).abs() < 1e-5);
                assert_wins(&what, token, &q, draw);
            }
        }
        let best = by_rank(&mixture(1.0))[0];
        let (tokens, _) = head.draw(&hidden, &[(Draw { temperature: 0.0, ..PLAIN_DRAW }, group)], 3);
        assert_eq!(tokens, [best as u32]);
    }
}

#[test]
fn chunks_hold_whole_groups_whatever_the_room() {
    for device in devices() {
        let mut random = Random(8);
        let (v, d, rows) = (50, 8, 11);
        let hidden = random.values(rows * d, 1.0);
        let w = random.values(v * d, 1.0);
        // Groups near and far, single rows, shared rows, a row that nobody draws from.
        let groups: [&[(u32, f32)]; 8] = [
            &[(10, 0.5), (0, 0.2), (5, 0.3)],
            &[(0, 1.0)],
            &[(0, 0.5), (1, 0.5)],
            &[(9, 1.0)],
            &[(3, 0.25), (4, 0.25), (3, 0.5)],
            &[(8, 0.9), (1, 0.1)],
            &[(7, 1.0)],
            &[(2, 1.0)],
        ];
        let mut head = Head::new(device, &w, d);
        for temperature in [1.0, 0.5, 0.0] {
            let list: Vec<(Draw, &[(u32, f32)])> = (0..)
                .zip(groups)
                .map(|(key, group)| (Draw { key, temperature, top_p: 0.9, ..PLAIN_DRAW }, group))
                .collect();
            let together = head.draw(&hidden, &list, rows);
            for capacity in [3, 4, 7] {
                let got = head.draw(&hidden, &list, capacity);
                assert_eq!(got.0, together.0, "capacity {capacity}");
                assert_bits("log-probabilities", &got.1, &together.1);
            }
            for (i, draw) in list.iter().enumerate() {
                let alone = head.draw(&hidden, std::slice::from_ref(draw), 3);
                assert_eq!(alone.0[0], together.0[i]);
                assert_bits("alone", &alone.1, &together.1[i..i + 1]);
            }
        }
    }
}

#[test]
fn logits_that_are_not_finite_neither_panic_nor_reach_other_rows() {
    for device in devices() {
        let mut random = Random(7);
        let (v, d) = (100, 8);
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
        let mut head = Head::new(device, &w, d);
        let clean = head.draw(&hidden, &list, 3);
        for bad in [f32::NAN, f32::INFINITY] {
            hidden[d..2 * d].fill(bad);
            let got = head.draw(&hidden, &list, 2);
            for i in 0..36 {
                if list[i].1[0].0 == 1 {
                    assert!(got.1[i].is_nan() && (got.0[i] as usize) < v);
                } else {
                    assert_eq!(got.0[i], clean.0[i]);
                    assert_bits("others", &got.1[i..=i], &clean.1[i..=i]);
                }
            }
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
    for device in devices() {
        let Head { device: mut d, lm_head, .. } = Head::of_logits(device, &[1.0, 2.0]);
        let (hidden, workspace) = (d.upload(&Head::one(), 8), d.tensor(1, 2, Element::F32));
        let (tokens, logprobs) = (d.tensor(1, 1, Element::U32), d.tensor(1, 1, Element::F32));
        let op = Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace, tokens, logprobs });
        let mut plan = base_rows(1);
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
            let error = error_of(&mut d, &plan, op.clone());
            assert!(error.contains(problem), "{error}");
        }
    }
}
