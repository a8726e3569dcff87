// The loss over the vocabulary of a chunk of rows of logits, and its gradient in place.
//
//   nll = lse(z) - z[label]     correct = argmax(z) == label     g = coefficient (softmax(z) - onehot(label))
//
// z f32 [C, V] with the logits of the logit rows first .. first + C, out f32 [L, 2], g bf16 over the memory of z: row r at the bytes of row r of z, so 2 V
// elements from row to row. A row whose coefficient is 0 has the gradient 0 whatever its logits.
//
// A block of 512 threads a row (lm_head.cuh), three passes over it: maximum, mass, gradient; the row, 4 V bytes, comes from the L2 cache. Tiles of the
// gradient are written in ascending order: g[j] lies on the bytes of z[j / 2], so tile k lands on what tile k / 2 held, which every thread has read
// by the barrier before the write. Shared memory: the partial results of the warps.
#include "lm_head.cuh"

struct LmHeadLossParams {
    const Plan* plan;
    float* logits;
    float* out;
    uint32_t vocabulary, first, capacity, gradient;
};

DEVICE void store_gradient(bf16* g, const Row& row, int i, const float (&f)[4]) {
    if (row.wide) {
        *reinterpret_cast<uint2*>(g + i) = make_uint2(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]));
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (i + j < row.count) g[i + j] = to_bf16(f[j]);
        }
    }
}

KERNEL(lm_head_loss, LmHeadLossParams, kThreads, 1) {
    const uint32_t index = p.first + blockIdx.x;
    if (blockIdx.x >= p.capacity || index >= p.plan->logit_row_count) return;
    BlockScratch* scratch = reinterpret_cast<BlockScratch*>(shared_memory());
    float* z = p.logits + static_cast<uint64_t>(blockIdx.x) * p.vocabulary;
    const Row row = row_of(p.logits, blockIdx.x, p.vocabulary);
    const LogSumExp lse = log_sum_exp(row, scratch);
    const Label label = p.plan->labels[index];
    if (threadIdx.x == 0) {
        const float at = z[label.token];
        p.out[2 * index] = nll(lse, at);
        p.out[2 * index + 1] = at == lse.largest && label.token == lse.best ? 1.0f : 0.0f;
    }
    if (!p.gradient) return;
    const float factor = label.coefficient / lse.mass;
    bf16* g = reinterpret_cast<bf16*>(z);
    float f[4];
    int i = static_cast<int>(threadIdx.x) * 4;
    load_4(row, i, f);
    for (int tile = 0; tile < row.count; tile += kTile, i += kTile) {
        float next[4], out[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float softmax = exponential(f[j] - lse.largest) * factor;
            const float x = static_cast<uint32_t>(i + j) == label.token ? softmax - label.coefficient : softmax;
            out[j] = label.coefficient == 0.0f ? 0.0f : x;
        }
        // Every thread has this tile, and all before it, in registers.
        sync_threads();
        load_4(row, i + kTile, next);
        if (i < row.count) store_gradient(g, row, i, out);
#pragma unroll
        for (int j = 0; j < 4; j++) f[j] = next[j];
    }
}
