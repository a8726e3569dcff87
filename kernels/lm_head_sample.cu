// Drawing tokens from rows of logits: temperature, top-k, top-p, min-p and Gumbel-max (Maddison et al. 2014, arXiv 1411.0030).
//
//   q = Σ weight softmax(z / T) over the members of a draw; of the tokens that survive top-k, then top-p, then min-p (q >= min_p max q) the one with the largest ln q - ln(-ln u),
//   u = uniform(key, position, token) as in src/backend/plan.rs; ties go to the lower token. T = 0: the largest q at T = 1.
//   log-probability: ln Σ weight softmax(z), with the log-sum-exp of the loss (lm_head.cuh).
//
//   lm_head_gather           rows of the hidden state side by side, for a chunk whose rows are not consecutive       a warp a row
//   lm_head_lse              log-sum-exp and most likely token of each row of a chunk                                 a block a row
//   lm_head_sample           the chunk's draws from one row, without top-k, top-p and min-p                           a block a draw
//   lm_head_sample_filtered  the chunk's other draws                                        a block a draw; as many as run at once with mixtures
//
// z f32 [C, V]. The noise of a token is a function of (key, position, token), so the order in which tokens are looked at is free, and one that cannot win with the largest
// noise, or not with its own, is left out before its logarithms are taken. A draw without top-k, top-p and min-p reads its row once.
//
// Top-k and top-p need no sorting. Tokens are ordered by logit, then by lower id; what survives is a beginning of that order, given by the last survivor:
// its logit, as the bits of an ordered integer, is found by a search of 16 steps of 2 bits for the largest x with Σ over {logit >= x} of (1 or mass) >= (k or
// p total), its id among equal logits likewise. All survivors are usually within 16 T of the largest logit: one pass counts and weighs those within
// 4, 8, 16; if some distance has enough and at most kListed tokens, the block lists them in shared memory (in the order of threads, then of ids) and one warp
// searches the list. Otherwise the block searches the row itself. All sums have one order that the row alone decides.
//
// Min-p compares a token's mass, which is that of the most likely token times exp(score), with min_p. The
// survivors are a beginning of the same order. A list needs to reach no further than they do, unless
// top-p is a share of the mass of top-k's survivors, which it then has to hold.
//
// A mixture of several members is first written to memory, ln q (q where T = 0), one row a block, and then treated as a row at T = 1.
// Shared memory: 24.3 KB, of which the list has 24, for filtered draws; else the partial results of the warps.
#include "lm_head.cuh"

struct LmHeadSampleParams {
    const Plan* plan;
    const float* logits;
    LogSumExp* lses;             // [C]
    uint32_t* tokens;            // [draws]
    float* logprobs;             // [draws]
    float* mixtures;             // [blocks, mixture_stride] if any draw has several members
    const uint32_t* places;      // row in the chunk of each entry of draw_rows; null: its logit row - first
    const uint32_t* draw_chunks; // with places: the chunk of each draw
    uint32_t vocabulary, first, capacity, chunk, mixture_stride, unused;
};

struct LmHeadGatherParams {
    const uint32_t* rows;  // [C], 0xffffffff for none
    const bf16* hidden;
    bf16* out;
    uint32_t width, capacity;
};

constexpr int kGatherThreads = 256;

KERNEL(lm_head_gather, LmHeadGatherParams, kGatherThreads, 1) {
    const uint32_t i = blockIdx.x * (kGatherThreads / kWarp) + threadIdx.x / kWarp;
    if (i >= p.capacity) return;
    const uint32_t row = p.rows[i];
    const bool found = row != 0xffffffffu;
    const bf16* from = p.hidden + static_cast<uint64_t>(found ? row : 0) * p.width;
    bf16* to = p.out + static_cast<uint64_t>(i) * p.width;
    for (uint32_t j = threadIdx.x % kWarp * 8; j < p.width; j += kWarp * 8) {
        store_16(to + j, found ? load_16(from + j) : make_uint4(0, 0, 0, 0));
    }
}

KERNEL(lm_head_lse, LmHeadSampleParams, kThreads, 1) {
    if (blockIdx.x >= p.capacity || (!p.places && p.first + blockIdx.x >= p.plan->logit_row_count)) return;
    const Row row = row_of(p.logits, blockIdx.x, p.vocabulary);
    const LogSumExp lse = log_sum_exp(row, reinterpret_cast<BlockScratch*>(shared_memory()));
    if (threadIdx.x == 0) p.lses[blockIdx.x] = lse;
}

// ---- noise ----

DEVICE float gumbel(float u) { return -logf(-logf(u)); }

// Above the largest noise, 16.64 for u = 1 - 2^-24.
constexpr float kNoiseLimit = 16.7f;

// The best token so far.
struct Best {
    float score;
    uint32_t token;
};

DEVICE void consider(Best& best, float score, uint32_t token, uint64_t seed) {
    // Not with the largest noise. (NaN ends here.)
    if (!(score + kNoiseLimit >= best.score)) return;
    const float u = uniform(seed, token);
    // Noise of t or more takes -ln u <= e^-t, and 1 - u <= -ln u; the factor is more than all roundings.
    if (1.0f - u > 1.001f * exponential(best.score - score < 0 ? 0.0f : score - best.score)) return;
    const float noisy = score + gumbel(u);
    if (noisy > best.score || (noisy == best.score && token < best.token)) best = {noisy, token};
}

// ---- top-k, top-p and min-p ----

// Tokens within 4, 8 and 16 of the largest scaled logit are counted and weighed.
constexpr int kReachCount = 3;
DEVICE float reach_of(int i) { return static_cast<float>(4 << i); }
constexpr int kListed = 2048;

struct SampleScratch {
    BlockScratch block;
    uint32_t offsets[kWarps];
    uint32_t token;
    alignas(16) uint32_t keys[kListed];
    uint32_t ids[kListed];
    float masses[kListed];
};

// The distribution that a draw comes from: of token v, exp((z[v] - largest) scale) over their sum.
struct Distribution {
    Row row;
    float largest;
    float scale;     // 1 / T
    uint32_t first;  // the most likely token
    bool greedy;     // T = 0
};

// Without a finite logit there is nothing to compare; the log-probability will say so.
DEVICE bool is_decided(const Distribution& d) { return d.greedy || !(fabsf(d.largest) < infinity()); }

DEVICE float score_of(const Distribution& d, float z) { return (z - d.largest) * d.scale; }

struct Candidate {
    uint32_t key, id;
    float mass;
};

// Candidates of the list, for one warp.
struct Listed {
    const SampleScratch* scratch;

    DEVICE int first() const { return static_cast<int>(threadIdx.x); }
    DEVICE int step() const { return kWarp; }
    DEVICE Candidate get(int i) const { return {scratch->keys[i], scratch->ids[i], scratch->masses[i]}; }
    DEVICE float sum(float x) const { return warp_sum(x); }
    DEVICE uint64_t best(uint64_t rank) const { return warp_first(rank); }
};

// All tokens of the row, for the block.
struct Whole {
    const Distribution* distribution;
    SampleScratch* scratch;

    DEVICE int first() const { return static_cast<int>(threadIdx.x); }
    DEVICE int step() const { return kThreads; }
    DEVICE Candidate get(int i) const {
        const float z = distribution->row.z[i];
        return {ordered(z), static_cast<uint32_t>(i), exponential(score_of(*distribution, z))};
    }
    DEVICE float sum(float x) const { return block_sum<kWarps>(x, scratch->block.sums); }
    DEVICE uint64_t best(uint64_t rank) const { return block_first(rank, &scratch->block); }
};

// The last survivor.
struct Limit {
    uint32_t key, id;
};
DEVICE bool survives(const Limit& limit, const Candidate& c) { return c.key > limit.key || (c.key == limit.key && c.id <= limit.id); }

// Cuts `limit` further: after the `target`th survivor, or (by mass) after the first before which the better ones weigh `target` or more.
template <class S>
DEVICE Limit cut(const S& from, int count, const Distribution& d, const Limit& limit, bool by_mass, float target) {
    // The largest x where those >= x reach the target.
    uint32_t x = 0;
    for (int bit = 30; bit >= 0; bit -= 2) {
        const uint32_t pivots[3] = {x | 1u << bit, x | 2u << bit, x | 3u << bit};
        float sums[3] = {0, 0, 0};
        for (int i = from.first(); i < count; i += from.step()) {
            const Candidate c = from.get(i);
            const float value = !survives(limit, c) ? 0.0f : by_mass ? c.mass : 1.0f;
#pragma unroll
            for (int j = 0; j < 3; j++) sums[j] += c.key >= pivots[j] ? value : 0.0f;
        }
        uint32_t digit = 0;
#pragma unroll
        for (int j = 0; j < 3; j++) {
            if (from.sum(sums[j]) >= target) digit = static_cast<uint32_t>(j) + 1;
        }
        x |= digit << bit;
    }
    // All together don't.
    if (x == 0) return limit;
    const uint32_t highest = ordered(d.largest);
    if (x > highest) x = highest;

    // Of those equal to x, how many.
    float better = 0, equal = 0;
    for (int i = from.first(); i < count; i += from.step()) {
        const Candidate c = from.get(i);
        if (!survives(limit, c)) continue;
        if (c.key > x) better += by_mass ? c.mass : 1.0f;
        if (c.key == x) equal += 1.0f;
    }
    better = from.sum(better);
    equal = from.sum(equal);
    const float each = by_mass ? exponential(score_of(d, unordered(x))) : 1.0f;
    const float kept = fminf(fmaxf(ceilf((target - better) / each), 1.0f), equal);
    if (kept == equal) return {x, limit.key == x ? limit.id : 0xffffffffu};

    // The id of the last of them: the largest y where fewer than `kept` are below y.
    uint32_t y = 0;
    for (int bit = 30; bit >= 0; bit -= 2) {
        float sums[3] = {0, 0, 0};
        for (int i = from.first(); i < count; i += from.step()) {
            const Candidate c = from.get(i);
#pragma unroll
            for (int j = 0; j < 3; j++) {
                const uint32_t pivot = y | (static_cast<uint32_t>(j) + 1) << bit;
                sums[j] += c.key == x && survives(limit, c) && c.id < pivot ? 1.0f : 0.0f;
            }
        }
        uint32_t digit = 0;
#pragma unroll
        for (int j = 0; j < 3; j++) {
            if (from.sum(sums[j]) < kept) digit = static_cast<uint32_t>(j) + 1;
        }
        y |= digit << bit;
    }
    return {x, y};
}

// The winner among the survivors of top-k, top-p and min-p. `total` is the mass that top-p is a share of where top-k leaves all.
template <class S>
DEVICE uint32_t draw_filtered(const S& from, int count, const Distribution& d, const Draw& draw, bool by_count, float total) {
    Limit limit{1, 0xffffffffu};
    if (by_count) limit = cut(from, count, d, limit, false, static_cast<float>(draw.top_k));
    if (draw.top_p < 1.0f) {
        if (by_count) {
            total = 0;
            for (int i = from.first(); i < count; i += from.step()) {
                const Candidate c = from.get(i);
                if (survives(limit, c)) total += c.mass;
            }
            total = from.sum(total);
        }
        limit = cut(from, count, d, limit, true, draw.top_p * total);
    }
    const uint64_t seed = uniform_seed(draw.key, draw.position);
    // The most likely token survives everything.
    Best best{gumbel(uniform(seed, d.first)), d.first};
    for (int i = from.first(); i < count; i += from.step()) {
        const Candidate c = from.get(i);
        if (survives(limit, c) && c.mass >= draw.min_p) consider(best, score_of(d, unordered(c.key)), c.id, seed);
    }
    return token_of(from.best(rank_of(best.score, best.token)));
}

// The winner among all tokens.
DEVICE uint32_t draw_from_all(const Distribution& d, const Draw& draw, BlockScratch* scratch) {
    const uint64_t seed = uniform_seed(draw.key, draw.position);
    Best best{gumbel(uniform(seed, d.first)), d.first};
    for (int i = static_cast<int>(threadIdx.x) * 4; i < d.row.count; i += kTile) {
        float f[4];
        load_4(d.row, i, f);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (i + j < d.row.count) consider(best, score_of(d, f[j]), static_cast<uint32_t>(i + j), seed);
        }
    }
    return token_of(block_first(rank_of(best.score, best.token), scratch));
}

// Lists the tokens within `reach` of the largest logit, of which this thread has `own`.
DEVICE void list(const Distribution& d, float reach, int own, SampleScratch* scratch) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    int at = own;
    for (int delta = 1; delta < kWarp; delta *= 2) {
        const int before = shuffle_up(at, delta);
        if (lane >= delta) at += before;
    }
    if (lane == kWarp - 1) scratch->offsets[warp] = static_cast<uint32_t>(at);
    sync_threads();
    at -= own;
    for (int i = 0; i < warp; i++) at += static_cast<int>(scratch->offsets[i]);
    for (int i = static_cast<int>(threadIdx.x) * 4; own > 0 && i < d.row.count; i += kTile) {
        float f[4];
        load_4(d.row, i, f);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float score = score_of(d, f[j]);
            if (i + j < d.row.count && score >= -reach) {
                scratch->keys[at] = ordered(f[j]);
                scratch->ids[at] = static_cast<uint32_t>(i + j);
                scratch->masses[at] = exponential(score);
                at++;
            }
        }
    }
    sync_threads();
}

DEVICE uint32_t draw_survivor(const Distribution& d, const Draw& draw, SampleScratch* scratch) {
    const bool by_count = draw.top_k > 0 && draw.top_k < static_cast<uint32_t>(d.row.count);
    float total = 0, masses[kReachCount] = {0, 0, 0};
    int counts[kReachCount] = {0, 0, 0};
    for (int i = static_cast<int>(threadIdx.x) * 4; i < d.row.count; i += kTile) {
        float f[4];
        load_4(d.row, i, f);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float score = score_of(d, f[j]), e = exponential(score);
            if (i + j >= d.row.count) continue;
            total += e;
            if (!(score >= -reach_of(kReachCount - 1))) continue;
#pragma unroll
            for (int r = 0; r < kReachCount; r++) {
                const bool near = score >= -reach_of(r);
                counts[r] += near ? 1 : 0;
                masses[r] += near ? e : 0.0f;
            }
        }
    }
    total = block_sum<kWarps>(total, scratch->block.sums);
    // The nearest that has enough.
    bool found = false;
    float count = 0, reach = 0;
    int own = 0;
#pragma unroll
    for (int r = 0; r < kReachCount; r++) {
        const float all = block_sum<kWarps>(static_cast<float>(counts[r]), scratch->block.sums);
        const float near = block_sum<kWarps>(masses[r], scratch->block.sums);
        // The factor is more than all roundings.
        const bool beyond_min_p = draw.min_p > 1.0001f * exponential(-reach_of(r)) && !(by_count && draw.top_p < 1.0f);
        const bool enough = beyond_min_p || (by_count ? all >= static_cast<float>(draw.top_k) : draw.top_p < 1.0f && near >= draw.top_p * total);
        if (enough && !found) {
            found = true;
            count = all;
            reach = reach_of(r);
            own = counts[r];
        }
    }
    if (found && count <= static_cast<float>(kListed)) {
        list(d, reach, own, scratch);
        if (threadIdx.x < kWarp) {
            const Listed listed{scratch};
            const uint32_t token = draw_filtered(listed, static_cast<int>(count), d, draw, by_count, total);
            if (threadIdx.x == 0) scratch->token = token;
        }
        sync_threads();
        return scratch->token;
    }
    return draw_filtered(Whole{&d, scratch}, d.row.count, d, draw, by_count, total);
}

// ---- draws ----

DEVICE float scale_of(float temperature) { return fminf(1.0f / temperature, 1e38f); }

DEVICE uint32_t place_of(const LmHeadSampleParams& p, uint32_t member) {
    return p.places ? p.places[member] : p.plan->draw_rows[member].logit_row - p.first;
}

// ln Σ weight softmax(z / T) over the members of a draw, q itself where T = 0, to this block's row of the mixtures.
DEVICE Distribution mixture(const LmHeadSampleParams& p, const Draw& draw, SampleScratch* scratch) {
    const bool greedy = draw.temperature == 0.0f;
    const float scale = greedy ? 1.0f : scale_of(draw.temperature);
    float* out = p.mixtures + static_cast<uint64_t>(blockIdx.x) * p.mixture_stride;
    // Behind the row: the members' weights over the masses of their distributions.
    float* factors = out + (p.vocabulary + 3) / 4 * 4;
    const uint32_t members = draw.rows_end - draw.rows_start;
    for (uint32_t m = 0; m < members; m++) {
        const uint32_t place = place_of(p, draw.rows_start + m);
        const LogSumExp lse = p.lses[place];
        const float total = scale == 1.0f ? lse.mass : mass(row_of(p.logits, place, p.vocabulary), lse.largest, scale, &scratch->block);
        if (threadIdx.x == 0) factors[m] = p.plan->draw_rows[draw.rows_start + m].weight / total;
    }
    sync_threads();
    const int count = static_cast<int>(p.vocabulary);
    for (int i = static_cast<int>(threadIdx.x) * 4; i < count; i += kTile) {
        float q[4] = {0, 0, 0, 0};
        for (uint32_t m = 0; m < members; m++) {
            const uint32_t place = place_of(p, draw.rows_start + m);
            const float largest = p.lses[place].largest, factor = factors[m];
            float f[4];
            load_4(row_of(p.logits, place, p.vocabulary), i, f);
#pragma unroll
            for (int j = 0; j < 4; j++) q[j] = fmaf(factor, exponential((f[j] - largest) * scale), q[j]);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (i + j < count) out[i + j] = greedy ? q[j] : logf(q[j]);
        }
    }
    sync_threads();
    const Row row{out, count, count % 4 == 0};
    const Maximum m = maximum(row, &scratch->block);
    return {row, m.largest, 1.0f, m.token, greedy};
}

DEVICE float logprob_of(const LmHeadSampleParams& p, uint32_t place, uint32_t token) {
    return -nll(p.lses[place], p.logits[static_cast<uint64_t>(place) * p.vocabulary + token]);
}

// The log-probability in the mixture at T = 1.
DEVICE float mixed_logprob(const LmHeadSampleParams& p, const Draw& draw, uint32_t token) {
    float largest = -infinity(), sum = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t m = draw.rows_start; m < draw.rows_end; m++) {
            const float x = logprob_of(p, place_of(p, m), token) + logf(p.plan->draw_rows[m].weight);
            if (pass == 0) {
                largest = fmaxf(largest, x);
            } else {
                sum += exponential(x - largest);
            }
        }
    }
    return largest + logf(sum);
}

// Whether a draw is more than the best of one row's tokens, with their noise or without.
DEVICE bool is_filtered(const LmHeadSampleParams& p, const Draw& draw) {
    return draw.temperature != 0.0f && ((draw.top_k > 0 && draw.top_k < p.vocabulary) || draw.top_p < 1.0f || draw.min_p > 0.0f);
}

// Calls f(draw's index, draw) for this block's draws of the chunk that are (not) filtered or mixed.
template <bool FILTERED, class F>
DEVICE void each_draw(const LmHeadSampleParams& p, F f) {
    for (uint32_t index = blockIdx.x; index < p.plan->draw_count; index += gridDim.x) {
        const Draw draw = p.plan->draws[index];
        if ((draw.rows_end - draw.rows_start > 1 || is_filtered(p, draw)) != FILTERED) continue;
        const bool here = p.places ? p.draw_chunks[index] == p.chunk
                                   : p.plan->draw_rows[draw.rows_start].logit_row / p.capacity == p.chunk;
        if (!here) continue;
        // The draw before may still be read from shared memory.
        sync_threads();
        f(index, draw);
    }
}

DEVICE Distribution single(const LmHeadSampleParams& p, const Draw& draw) {
    const uint32_t place = place_of(p, draw.rows_start);
    const LogSumExp lse = p.lses[place];
    return {row_of(p.logits, place, p.vocabulary), lse.largest, scale_of(draw.temperature), lse.best, draw.temperature == 0.0f};
}

KERNEL(lm_head_sample, LmHeadSampleParams, kThreads, 2) {
    BlockScratch* scratch = reinterpret_cast<BlockScratch*>(shared_memory());
    each_draw<false>(p, [&](uint32_t index, const Draw& draw) {
        const Distribution d = single(p, draw);
        const uint32_t token = is_decided(d) ? d.first : draw_from_all(d, draw, scratch);
        if (threadIdx.x == 0) {
            p.tokens[index] = token;
            p.logprobs[index] = logprob_of(p, place_of(p, draw.rows_start), token);
        }
    });
}

KERNEL(lm_head_sample_filtered, LmHeadSampleParams, kThreads, 1) {
    SampleScratch* scratch = reinterpret_cast<SampleScratch*>(shared_memory());
    each_draw<true>(p, [&](uint32_t index, const Draw& draw) {
        const bool mixed = draw.rows_end - draw.rows_start > 1;
        const Distribution d = mixed ? mixture(p, draw, scratch) : single(p, draw);
        uint32_t token = d.first;
        if (!is_decided(d)) {
            token = is_filtered(p, draw) ? draw_survivor(d, draw, scratch) : draw_from_all(d, draw, &scratch->block);
        }
        if (threadIdx.x == 0) {
            p.tokens[index] = token;
            p.logprobs[index] = mixed ? mixed_logprob(p, draw, token) : logprob_of(p, place_of(p, draw.rows_start), token);
        }
    });
}
