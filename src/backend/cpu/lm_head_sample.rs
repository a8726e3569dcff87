//! Drawing tokens: temperature, top-k, top-p, min-p and Gumbel-max (Maddison et al. 2014, arXiv 1411.0030)
//! over logits that exist only in the workspace.
//!
//! The order in which tokens are considered is free, because a draw's noise is a function of (key, position,
//! token) alone. So the search starts from the most likely token and leaves out whatever cannot win any more:
//! no noise exceeds [`NOISE_LIMIT`].

use super::lanes::{LANES, Level, Simd, simd};
use super::lm_head_loss::{Lse, first_at_least, logits, lse, mass};
use super::*;

/// Above the largest `-ln(-ln u)` that [`uniform`] can give, 16.64 for u = 1 - 2^-24.
const NOISE_LIMIT: f32 = 16.7;

/// Distances below the largest scaled logit within which top-k and top-p look for their tokens, one after the other.
const REACHES: [f32; 4] = [4.0, 8.0, 16.0, f32::INFINITY];

/// The scaled logits of one draw: token v has the score `(z[v] - largest) / temperature`, 0 for the most likely.
#[derive(Clone, Copy)]
struct Scores<'a> {
    z: &'a [f32],
    largest: f32,
    temperature: f32,
}

/// Workspace of one thread.
#[derive(Default)]
struct Scratch {
    /// The mixture of a group, `[V]`.
    mixture: Vec<f32>,
    /// Candidates of top-k and top-p as [`sort_key`]s.
    candidates: Vec<u64>,
    /// Their scores.
    scores: Vec<f32>,
}

/// `-ln(-ln u)`, the Gumbel noise of a uniform number.
#[inline(always)]
fn gumbel<S: Simd>(s: S, u: S::V) -> S::V {
    let zero = s.splat(0.0);
    s.sub(zero, math::ln(s, s.sub(zero, math::ln(s, u))))
}

/// The best of (score, token) so far; a tie goes to the lower token.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    token: u32,
}

impl Best {
    #[inline(always)]
    fn offer(&mut self, score: f32, token: u32) {
        if score > self.score || score == self.score && token < self.token {
            *self = Best { score, token };
        }
    }
}

simd! {
    /// The winner of a draw among all tokens, `first` being one of the most likely.
    fn draw_from_all[](s, x: Scores<'_>, first: u32, key: u64, position: u32) -> u32 {
        let noise = gumbel(s, s.splat(uniform(key, position, first)));
        let mut best = Best { score: s.array(noise)[0], token: first };
        let (largest, temperature) = (s.splat(x.largest), s.splat(x.temperature));
        for (i, block) in x.z.chunks(LANES).enumerate() {
            let z = s.load_or(block, f32::NEG_INFINITY);
            let score = s.div(s.sub(z, largest), temperature);
            // Rounding is monotonic: what fails with the largest noise fails with any.
            if s.mask_ge(s.add(score, s.splat(NOISE_LIMIT)), s.splat(best.score)) == 0 {
                continue;
            }
            let base = (i * LANES) as u32;
            let mut u = [0.0f32; LANES];
            for l in 0..LANES {
                u[l] = uniform(key, position, base + l as u32);
            }
            let score = s.add(score, gumbel(s, s.load(&u)));
            if s.mask_ge(score, s.splat(best.score)) != 0 {
                for (l, &score) in s.array(score)[..block.len()].iter().enumerate() {
                    best.offer(score, base + l as u32);
                }
            }
        }
        best.token
    }
}

simd! {
    /// The winner of a draw among `candidates`.
    fn draw_from[](s, x: Scores<'_>, candidates: &[u64], key: u64, position: u32) -> u32 {
        let mut best = Best { score: f32::NEG_INFINITY, token: u32::MAX };
        for block in candidates.chunks(LANES) {
            let (mut z, mut u) = ([f32::NEG_INFINITY; LANES], [0.5f32; LANES]);
            for (l, &candidate) in block.iter().enumerate() {
                let token = token_of(candidate);
                z[l] = x.z[token as usize];
                u[l] = uniform(key, position, token);
            }
            let score = s.div(s.sub(s.load(&z), s.splat(x.largest)), s.splat(x.temperature));
            let score = s.array(s.add(score, gumbel(s, s.load(&u))));
            for (&score, &candidate) in score.iter().zip(block) {
                best.offer(score, token_of(candidate));
            }
        }
        best.token
    }
}

/// A number that sorts tokens from the best to the worst: the larger logit first, then the lower id.
#[inline(always)]
fn sort_key(z: f32, token: u32) -> u64 {
    // -0 and 0 are equal logits.
    let bits = (z + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!ascending) << 32 | u64::from(token)
}

#[inline(always)]
fn token_of(key: u64) -> u32 {
    key as u32
}

simd! {
    /// Collects the tokens with `z >= lowest`, in the order of their ids.
    fn gather[](s, z: &[f32], lowest: f32, out: &mut Vec<u64>) {
        out.clear();
        for (i, block) in z.chunks(LANES).enumerate() {
            let mut mask = s.mask_ge(s.load_or(block, f32::NAN), s.splat(lowest));
            while mask != 0 {
                let l = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                out.push(sort_key(block[l], (i * LANES + l) as u32));
            }
        }
    }
}

simd! {
    /// The masses `exp(score)` of `candidates`.
    fn masses[](s, x: Scores<'_>, candidates: &[u64], out: &mut Vec<f32>) {
        out.clear();
        out.extend(candidates.iter().map(|&candidate| x.z[token_of(candidate) as usize]));
        for z in out.chunks_mut(LANES) {
            let score = s.div(s.sub(s.load_or(z, 0.0), s.splat(x.largest)), s.splat(x.temperature));
            s.store_some(z, math::exp(s, score));
        }
    }
}

/// How many of the sorted `masses` a top-p of `p` of `total` keeps, at least one; `None` where none of them
/// is cut, so that more may follow.
fn nucleus(masses: &[f32], p: f32, total: f64) -> Option<usize> {
    let limit = f64::from(p) * total;
    let mut better = 0.0f64;
    for (i, &mass) in masses.iter().enumerate() {
        if i > 0 && better >= limit {
            return Some(i);
        }
        better += f64::from(mass);
    }
    (better >= limit).then_some(masses.len())
}

/// The most bytes that drawing from rows of `vocab` logits holds; growing lists may have twice the room they need.
pub(super) fn task_bytes(vocab: usize) -> usize {
    vocab * (size_of::<f32>() + 2 * (size_of::<u64>() + size_of::<f32>()))
}

/// Leaves in `scratch.candidates` the tokens that survive top-k, then top-p and then min-p.
fn survivors(level: Level, x: Scores<'_>, draw: &Draw, scratch: &mut Scratch) {
    if draw.limits_count(x.z.len()) || draw.top_p < 1.0 {
        leading(level, x, draw, scratch);
    } else {
        gather(level, x.z, lowest_of_min_p(x, draw.min_p), &mut scratch.candidates);
    }
    if draw.min_p > 0.0 {
        let Scratch { candidates, scores: found, .. } = scratch;
        masses(level, x, candidates, found);
        let mut of = found.iter();
        candidates.retain(|_| of.next().is_some_and(|&mass| mass >= draw.min_p));
    }
}

/// A logit that none of the tokens that survive min-p is below. The most likely token has mass 1.
fn lowest_of_min_p(x: Scores<'_>, min_p: f32) -> f32 {
    // In f64 and a little further, so that no rounding loses a token: of the masses, which decide,
    // of this logarithm, or of the logits' distances.
    let reach = -f64::from(min_p).ln() * (1.0 + 1e-4) + 1e-4;
    (f64::from(x.largest) - reach * f64::from(x.temperature)) as f32
}

/// Leaves in `scratch.candidates` the tokens that survive top-k and then top-p.
fn leading(level: Level, x: Scores<'_>, draw: &Draw, scratch: &mut Scratch) {
    let Scratch { candidates, scores: found, .. } = scratch;
    let top_k = if draw.limits_count(x.z.len()) { draw.top_k as usize } else { x.z.len() };
    let by_mass = draw.top_p < 1.0;
    let lowest = |reach: f32| x.largest - reach * x.temperature;
    if top_k < x.z.len() {
        for reach in REACHES {
            gather(level, x.z, lowest(reach), candidates);
            if candidates.len() >= top_k {
                candidates.select_nth_unstable(top_k - 1);
                candidates.truncate(top_k);
                break;
            }
        }
        if by_mass {
            candidates.sort_unstable();
            masses(level, x, candidates, found);
            let total = found.iter().map(|&m| f64::from(m)).sum();
            let kept = nucleus(found, draw.top_p, total).unwrap_or(candidates.len());
            candidates.truncate(kept);
        }
        return;
    }
    let total = mass(level, x.z, x.largest, x.temperature);
    for reach in REACHES {
        gather(level, x.z, lowest(reach), candidates);
        candidates.sort_unstable();
        masses(level, x, candidates, found);
        if let Some(kept) = nucleus(found, draw.top_p, total) {
            return candidates.truncate(kept);
        }
    }
}

simd! {
    /// `out = Σ weight softmax(z / temperature)` over the members of a group, in their order; its logarithm with `ln`.
    fn mix_rows[](s, members: &[Member<'_>], temperature: f32, ln: bool, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(LANES).enumerate() {
            let mut q = s.splat(0.0);
            for m in members {
                let z = s.load_or(&m.z[i * LANES..][..out.len()], f32::NEG_INFINITY);
                let score = s.div(s.sub(z, s.splat(m.lse.largest)), s.splat(temperature));
                q = s.fma(s.splat(m.factor), math::exp(s, score), q);
            }
            s.store_some(out, if ln { math::ln(s, q) } else { q });
        }
    }
}

simd! {
    /// `ln Σ weight exp(logprob)`.
    fn mix_logprobs[](s, parts: &mut [f32], weights: &[DrawRow]) -> f32 {
        for (x, w) in parts.iter_mut().zip(weights) {
            *x += math::ln1(s, w.weight);
        }
        let largest = parts.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for x in parts.iter() {
            sum += math::exp1(s, *x - largest);
        }
        largest + math::ln1(s, sum)
    }
}

/// One row of a group.
#[derive(Clone, Copy)]
struct Member<'a> {
    z: &'a [f32],
    lse: Lse,
    /// Its weight over the mass of its distribution.
    factor: f32,
}

/// Draws a token and gives its log-probability. `row` finds the logits of a logit row.
fn draw_one<'a>(
    level: Level,
    draw: &Draw,
    group: &[DrawRow],
    row: impl Fn(&DrawRow) -> (&'a [f32], Lse),
    scratch: &mut Scratch,
) -> (u32, f32) {
    if let [only] = group {
        let (z, lse) = row(only);
        let x = Scores { z, largest: lse.largest, temperature: draw.temperature };
        let token = choose(level, x, draw, scratch);
        return (token, -lse.nll(z[token as usize]));
    }
    // At temperature 0 the most likely token of the mixture at temperature 1 is taken.
    let temperature = if draw.temperature == 0.0 { 1.0 } else { draw.temperature };
    let members: Vec<Member> = group
        .iter()
        .map(|part| {
            let (z, lse) = row(part);
            let total =
                if temperature == 1.0 { lse.mass } else { mass(level, z, lse.largest, temperature) as f32 };
            Member { z, lse, factor: part.weight / total }
        })
        .collect();
    let mut mixture = std::mem::take(&mut scratch.mixture);
    mixture.resize(members[0].z.len(), 0.0);
    mix_rows(level, &members, temperature, draw.temperature > 0.0, &mut mixture);
    let largest = math::largest(level, &mixture);
    // Any other temperature is in the mixture already.
    let temperature = if draw.temperature == 0.0 { 0.0 } else { 1.0 };
    let x = Scores { z: &mixture, largest, temperature };
    let token = choose(level, x, draw, scratch);
    scratch.mixture = mixture;
    let mut parts: Vec<f32> = members.iter().map(|m| -m.lse.nll(m.z[token as usize])).collect();
    (token, mix_logprobs(level, &mut parts, group))
}

/// The token of a draw from one distribution.
fn choose(level: Level, x: Scores<'_>, draw: &Draw, scratch: &mut Scratch) -> u32 {
    let first = first_at_least(level, x.z, x.largest).unwrap_or(0) as u32;
    // Without a finite logit there is nothing to compare; the log-probability will say so.
    if x.temperature == 0.0 || !x.largest.is_finite() {
        return first;
    }
    if !draw.limits_count(x.z.len()) && draw.top_p >= 1.0 && draw.min_p == 0.0 {
        return draw_from_all(level, x, first, draw.key, draw.position);
    }
    survivors(level, x, draw, scratch);
    draw_from(level, x, &scratch.candidates, draw.key, draw.position)
}

/// [`Op::LmHeadSample`].
pub fn run(c: &mut CpuBackend, op: &LmHeadSample) -> Result<()> {
    let LmHeadWork { width: d, vocabulary: v, capacity } = op.check(c)?;
    let &LmHeadSample { hidden, lm_head, workspace, tokens, logprobs } = op;
    let plan = c.plan.clone();
    let mut drawn = vec![(0u32, 0.0f32); plan.draws.len()];
    let mut z = c.take(workspace)?;
    let weights = &c.linears[lm_head.0 as usize];
    let hidden = c.f32(hidden)?;
    let mut batch = Batch::new(&plan, d, v);
    // Draws of one logit row come together, so that its logits are computed once.
    let mut order: Vec<usize> = (0..plan.draws.len()).collect();
    order.sort_by_key(|&i| plan.draw_rows[plan.draws[i].rows_start as usize].logit_row);
    for i in order {
        if !batch.fits(i, capacity) {
            batch.run(c, weights, hidden, &mut z, &mut drawn);
        }
        batch.add(i);
    }
    batch.run(c, weights, hidden, &mut z, &mut drawn);

    c.put(workspace, z);
    if let Some(Some(TensorBuffer { data: Data::U32(out), .. })) = c.tensors.get_mut(tokens.0 as usize) {
        out.iter_mut().zip(&drawn).for_each(|(out, (token, _))| *out = *token);
    }
    rows::write(c, logprobs, drawn.len(), |_, out| {
        out.iter_mut().zip(&drawn).for_each(|(out, (_, logprob))| *out = *logprob);
        Ok(())
    })
}

/// Draws whose logit rows are in the workspace together.
struct Batch<'a> {
    plan: &'a BatchPlan,
    d: usize,
    v: usize,
    /// Draws, by their place in the plan.
    draws: Vec<usize>,
    /// The logit rows they need.
    rows: Vec<u32>,
    /// Where in the workspace each logit row is; `u32::MAX` for nowhere.
    place: Vec<u32>,
    /// Hidden rows side by side, where they are not so already.
    gathered: Vec<f32>,
}

impl<'a> Batch<'a> {
    fn new(plan: &'a BatchPlan, d: usize, v: usize) -> Self {
        let place = vec![u32::MAX; plan.logit_rows.len()];
        Self { plan, d, v, draws: vec![], rows: vec![], place, gathered: vec![] }
    }

    fn group(&self, draw: usize) -> &'a [DrawRow] {
        let draw = &self.plan.draws[draw];
        &self.plan.draw_rows[draw.rows_start as usize..draw.rows_end as usize]
    }

    /// Whether the workspace has room for the rows that a draw needs besides those it holds.
    fn fits(&self, draw: usize, capacity: usize) -> bool {
        let new = self.group(draw).iter().filter(|r| self.place[r.logit_row as usize] == u32::MAX).count();
        self.rows.len() + new <= capacity
    }

    fn add(&mut self, draw: usize) {
        for r in self.group(draw) {
            let place = &mut self.place[r.logit_row as usize];
            if *place == u32::MAX {
                *place = self.rows.len() as u32;
                self.rows.push(r.logit_row);
            }
        }
        self.draws.push(draw);
    }

    /// Computes the logits and draws; leaves the batch empty.
    fn run(
        &mut self,
        c: &CpuBackend,
        weights: &linear::LinearWeights,
        hidden: &[f32],
        z: &mut [f32],
        drawn: &mut [(u32, f32)],
    ) {
        let (d, v, count) = (self.d, self.v, self.rows.len());
        if count == 0 {
            return;
        }
        let consecutive = self.rows.windows(2).all(|w| w[0] + 1 == w[1]);
        let x = if consecutive {
            &hidden[self.rows[0] as usize * d..][..count * d]
        } else {
            self.gathered.clear();
            for &row in &self.rows {
                self.gathered.extend_from_slice(&hidden[row as usize * d..][..d]);
            }
            &self.gathered
        };
        logits(c, weights, x, count, z);
        let z = &z[..count * v];
        let level = Level::detect();
        let one = |scratch: &mut Scratch, i: usize, lses: &[Lse]| {
            let row = |r: &DrawRow| {
                let place = self.place[r.logit_row as usize] as usize;
                (&z[place * v..][..v], lses[place])
            };
            draw_one(level, &self.plan.draws[i], self.group(i), row, scratch)
        };
        if rows::serial(&c.pool, count * v * 8) {
            let lses: Vec<Lse> = z.chunks_exact(v).map(|z| lse(level, z)).collect();
            let mut scratch = Scratch::default();
            self.draws.iter().for_each(|&i| drawn[i] = one(&mut scratch, i, &lses));
        } else {
            let mut lses = vec![Lse::default(); count];
            c.pool.each(&mut lses, || (), |(), i, out| *out = lse(level, &z[i * v..][..v]));
            let mut results = vec![(0, 0.0); self.draws.len()];
            c.pool.each(&mut results, Scratch::default, |scratch, i, out| {
                *out = one(scratch, self.draws[i], &lses)
            });
            self.draws.iter().zip(results).for_each(|(&i, result)| drawn[i] = result);
        }
        for &row in &self.rows {
            self.place[row as usize] = u32::MAX;
        }
        self.rows.clear();
        self.draws.clear();
    }
}
