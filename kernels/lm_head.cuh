// What the loss and the sampler do alike with a row of logits: a block reads it in tiles of kTile, thread t the elements 4 t .. 4 t + 3 of each, and adds its own in
// ascending order in four accumulators before the block's fixed tree. The order depends on the vocabulary alone, so that a sampled
// log-probability is the trainer's, bit for bit.
#pragma once

#include "plan.cuh"

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTile = 4 * kThreads;
constexpr float kLog2E = 1.44269504f;

DEVICE float infinity() { return bits_float(0x7f800000u); }

// e^x.
DEVICE float exponential(float x) { return exp2_approximate(x * kLog2E); }

// Logits of one row.
struct Row {
    const float* z;
    int count;
    bool wide;  // rows start at multiples of 16 bytes
};

DEVICE Row row_of(const float* logits, uint64_t row, uint32_t vocabulary) {
    return {logits + row * vocabulary, static_cast<int>(vocabulary), vocabulary % 4 == 0};
}

// Logits i .. i + 3, i a multiple of 4; -inf beyond the end.
DEVICE void load_4(const Row& row, int i, float (&f)[4]) {
    if (row.wide && i < row.count) {
        const uint4 v = load_16_coherent(row.z + i);
        f[0] = bits_float(v.x);
        f[1] = bits_float(v.y);
        f[2] = bits_float(v.z);
        f[3] = bits_float(v.w);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) f[j] = i + j < row.count ? row.z[i + j] : -infinity();
    }
}

// Ascending with x; -0 and 0 are equal. NaN: 0, below -inf.
DEVICE uint32_t ordered(float x) {
    if (!(x == x)) return 0;
    const uint32_t bits = float_bits(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE float unordered(uint32_t key) { return bits_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// Ascending from the best to the worst: the larger number first, then the lower token.
DEVICE uint64_t rank_of(float x, uint32_t token) { return static_cast<uint64_t>(~ordered(x)) << 32 | token; }
DEVICE uint32_t token_of(uint64_t rank) { return static_cast<uint32_t>(rank); }

DEVICE uint64_t warp_first(uint64_t rank) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
        const uint64_t other = shuffle_xor(rank, mask);
        rank = other < rank ? other : rank;
    }
    return rank;
}

// What reductions over the block share.
struct BlockScratch {
    uint64_t ranks[kWarps];
    float sums[kWarps];
};

// The best rank of the block, in every thread.
DEVICE uint64_t block_first(uint64_t rank, BlockScratch* scratch) {
    rank = warp_first(rank);
    sync_threads();
    if (threadIdx.x % kWarp == 0) scratch->ranks[threadIdx.x / kWarp] = rank;
    sync_threads();
    uint64_t best = scratch->ranks[0];
    for (int i = 1; i < kWarps; i++) best = scratch->ranks[i] < best ? scratch->ranks[i] : best;
    return best;
}

struct Maximum {
    float largest;  // -inf where there is no number
    uint32_t token; // the lowest that has it
};

DEVICE Maximum maximum(const Row& row, BlockScratch* scratch) {
    float largest = -infinity();
    uint32_t token = 0xffffffffu;
    for (int i = static_cast<int>(threadIdx.x) * 4; i < row.count; i += kTile) {
        float f[4];
        load_4(row, i, f);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (f[j] > largest) {
                largest = f[j];
                token = static_cast<uint32_t>(i + j);
            }
        }
    }
    const uint64_t best = block_first(rank_of(largest, token), scratch);
    if (token_of(best) == 0xffffffffu) return {-infinity(), 0};
    return {unordered(~static_cast<uint32_t>(best >> 32)), token_of(best)};
}

// Σ exp((z - largest) scale).
DEVICE float mass(const Row& row, float largest, float scale, BlockScratch* scratch) {
    float sums[4] = {0, 0, 0, 0};
    for (int i = static_cast<int>(threadIdx.x) * 4; i < row.count; i += kTile) {
        float f[4];
        load_4(row, i, f);
#pragma unroll
        for (int j = 0; j < 4; j++) sums[j] += exponential((f[j] - largest) * scale);
    }
    return block_sum<kWarps>((sums[0] + sums[1]) + (sums[2] + sums[3]), scratch->sums);
}

// The log-sum-exp of a row in two parts, so that a token of probability near 1 keeps its small loss.
struct LogSumExp {
    float largest;
    float mass;  // Σ exp(z - largest)
    float ln_mass;
    uint32_t best;  // the most likely token, the lower of equal ones
};

DEVICE LogSumExp log_sum_exp(const Row& row, BlockScratch* scratch) {
    const Maximum m = maximum(row, scratch);
    const float sum = mass(row, m.largest, 1.0f, scratch);
    return {m.largest, sum, logf(sum), m.token};
}

// The negative log-likelihood of a token with logit z.
DEVICE float nll(const LogSumExp& lse, float z) { return lse.ln_mass - (z - lse.largest); }
