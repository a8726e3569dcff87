// Root mean square norm of each query and key head (Henry et al. 2020), in place, and its backward with frozen weights.
//
//   head_norm           x = x rstd w                              rstd = 1 / sqrt(mean(x²) + eps), over the D numbers of a head
//   head_norm_backward  dx = rstd (w dy - x rstd² mean(w dy x))   in place of dy; x as the forward kept it
//
// qkv, dqkv bf16 [R, (H + 2 K) D], the H + K first heads of a row; raw bf16 [R, (H + K) D], or none in the forward; w f32 [D], one for queries and one for
// keys. D is a multiple of 8 and at most 128; sums in f32.
//
// A head is half a warp's, 8 elements a lane: lane l of the half adds its elements in ascending order, then comes a butterfly over the half. A head is read
// once and written once (twice with raw). No shared memory.
#include "plan.cuh"

struct HeadNormParams {
    const Plan* plan;
    bf16* qkv;  // dqkv in the backward
    bf16* raw;  // null: not kept
    const float* q_weight;
    const float* k_weight;
    float eps;
    uint32_t heads, kv_heads, head_dim;
};

constexpr int kThreads = 256;
constexpr int kLanes = kWarp / 2;

// The sum over the lanes of a head.
DEVICE float head_sum(float x) {
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

// What a lane works on: 8 elements of a head, or nothing. All lanes take part in the sums.
struct Lane {
    bool active;
    uint64_t in_qkv, in_raw;
    const float* weight;
};

DEVICE Lane lane_of(const HeadNormParams& p) {
    const uint32_t normed = p.heads + p.kv_heads;
    const uint64_t index = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const uint64_t unit = index / kLanes, row = unit / normed;
    const uint32_t head = static_cast<uint32_t>(unit - row * normed), i = static_cast<uint32_t>(index % kLanes) * 8;
    Lane lane;
    lane.active = row < p.plan->rows && i < p.head_dim;
    lane.in_qkv = row * ((normed + p.kv_heads) * p.head_dim) + head * p.head_dim + i;
    lane.in_raw = row * (normed * p.head_dim) + head * p.head_dim + i;
    lane.weight = (head < p.heads ? p.q_weight : p.k_weight) + i;
    return lane;
}

KERNEL(head_norm, HeadNormParams, kThreads, 1) {
    const Lane lane = lane_of(p);
    float f[8] = {}, w[8];
    float squares = 0;
    if (lane.active) {
        const uint4 x = load_16_coherent(p.qkv + lane.in_qkv);
        if (p.raw) store_16(p.raw + lane.in_raw, x);
        unpack_8(x, f);
#pragma unroll
        for (int j = 0; j < 8; j++) squares = fmaf(f[j], f[j], squares);
    }
    const float rstd = 1.0f / sqrtf(head_sum(squares) / static_cast<float>(p.head_dim) + p.eps);
    if (!lane.active) return;
    load_floats_8(lane.weight, w);
#pragma unroll
    for (int j = 0; j < 8; j++) f[j] = f[j] * rstd * w[j];
    store_16(p.qkv + lane.in_qkv, pack_8(f));
}

KERNEL(head_norm_backward, HeadNormParams, kThreads, 1) {
    const Lane lane = lane_of(p);
    float f[8] = {}, g[8] = {}, w[8];
    float squares = 0, product = 0;
    if (lane.active) {
        unpack_8(load_16(p.raw + lane.in_raw), f);
        unpack_8(load_16_coherent(p.qkv + lane.in_qkv), g);
        load_floats_8(lane.weight, w);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            g[j] *= w[j];
            squares = fmaf(f[j], f[j], squares);
            product = fmaf(g[j], f[j], product);
        }
    }
    const float width = static_cast<float>(p.head_dim);
    const float rstd = 1.0f / sqrtf(head_sum(squares) / width + p.eps);
    const float c = head_sum(product) / width * (rstd * rstd);
    if (!lane.active) return;
#pragma unroll
    for (int j = 0; j < 8; j++) f[j] = rstd * fmaf(-f[j], c, g[j]);
    store_16(p.qkv + lane.in_qkv, pack_8(f));
}
