// What the adapters of a linear group read in training: out[r][i] = bf16(x[r][i] factor(r, i)).
//
//   factor   0 where uniform(key, position, i) < rate, 1 / (1 - rate) elsewhere; key and rate are those of the row's sequence, the key mixed with the group
//
// x and out bf16 [R, K], K a multiple of 8. The factors are functions of their place (Dropout of src/backend/plan.rs), so the backward pass makes them again
// and nothing is kept. Rows of a rate of 0 are copied. A thread takes 8 elements, 16 bytes of each operand; the grid covers R K / 8 of them. 4 bytes move for
// each element. No shared memory.
#include "plan.cuh"

struct DropoutParams {
    const Plan* plan;
    const bf16* x;
    bf16* out;
    uint32_t width, group;
};

constexpr int kThreads = 256;

KERNEL(dropout, DropoutParams, kThreads, 1) {
    const uint32_t groups = p.width / 8;
    const uint64_t place = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const uint64_t row = place / groups;
    if (row >= p.plan->rows) return;
    const uint32_t column = static_cast<uint32_t>(place - row * groups) * 8;
    const uint64_t at = row * p.width + column;
    const uint4 x = load_16(p.x + at);
    const RowDropout dropout = row_dropout(*p.plan, p.group, static_cast<int>(row));
    if (dropout.rate == 0.0f) {
        store_16(p.out + at, x);
        return;
    }
    const uint32_t in[4] = {x.x, x.y, x.z, x.w};
    uint32_t out[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const float low = low_bf16(in[i]) * dropout.factor(column + 2 * i);
        out[i] = pack_bf16(low, high_bf16(in[i]) * dropout.factor(column + 2 * i + 1));
    }
    store_16(p.out + at, make_uint4(out[0], out[1], out[2], out[3]));
}
