// Root mean square norm (Zhang & Sennrich 2019) and its backward with a frozen weight.
//
//   rms_norm           out = x rstd w                              rstd = 1 / sqrt(mean(x²) + eps)
//   rms_norm_backward  dx (+)= rstd (w dy - x rstd² mean(w dy x))  dx may be dy
//
// x, out, dy, dx bf16 [rows, d], w f32 [d], d a multiple of 8; sums in f32. The rows are those of the batch or the logit rows.
//
// A row is read twice, the second time from L1: 2 (forward) and 3 or 4 (backward) bf16 move to or from memory for each element, and the arithmetic hides behind
// them. A narrow row is a warp's, eight rows a block; a wide one (d > kWarpWidth) is a block's, so that few rows of a decode step still have enough
// loads under way. Which it is, and so the order of the sums, depends on d alone: thread t adds the elements of its groups of 8 in
// ascending order, then comes a butterfly over the warp, then the warps in ascending order. A thread reads and writes only its own elements
// of a row, so dx may be dy. Shared memory: the 8 partial sums of a wide row.
#include "plan.cuh"

struct RmsNormParams {
    const Plan* plan;
    const bf16* x;
    const float* weight;
    const bf16* dy;  // backward
    bf16* out;       // dx in the backward
    uint32_t width;
    float eps;
    uint32_t gathered, accumulate;
};

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

DEVICE int row_count(const RmsNormParams& p) {
    return static_cast<int>(p.gathered ? p.plan->logit_row_count : p.plan->rows);
}

// The sum over the threads of a row: a warp, or the block.
template <bool WIDE>
DEVICE float row_sum(float x) {
    if (WIDE) return block_sum<kWarps>(x, reinterpret_cast<float*>(shared_memory()));
    return warp_sum(x);
}

template <bool WIDE>
DEVICE void forward(const RmsNormParams& p) {
    constexpr int kStep = (WIDE ? kThreads : kWarp) * 8;
    const int thread = static_cast<int>(threadIdx.x);
    const int row = WIDE ? static_cast<int>(blockIdx.x) : static_cast<int>(blockIdx.x) * kWarps + thread / kWarp;
    if (row >= row_count(p)) return;
    const int width = static_cast<int>(p.width), first = (WIDE ? thread : thread % kWarp) * 8;
    const bf16* x = p.x + static_cast<uint64_t>(row) * p.width;
    bf16* out = p.out + static_cast<uint64_t>(row) * p.width;
    float squares = 0;
    for (int i = first; i < width; i += kStep) {
        float f[8];
        unpack_8(load_16(x + i), f);
#pragma unroll
        for (int j = 0; j < 8; j++) squares = fmaf(f[j], f[j], squares);
    }
    const float rstd = 1.0f / sqrtf(row_sum<WIDE>(squares) / static_cast<float>(width) + p.eps);
    for (int i = first; i < width; i += kStep) {
        float f[8], w[8];
        unpack_8(load_16(x + i), f);
        load_floats_8(p.weight + i, w);
#pragma unroll
        for (int j = 0; j < 8; j++) f[j] = f[j] * rstd * w[j];
        store_16(out + i, pack_8(f));
    }
}

template <bool WIDE>
DEVICE void backward(const RmsNormParams& p) {
    constexpr int kStep = (WIDE ? kThreads : kWarp) * 8;
    const int thread = static_cast<int>(threadIdx.x);
    const int row = WIDE ? static_cast<int>(blockIdx.x) : static_cast<int>(blockIdx.x) * kWarps + thread / kWarp;
    if (row >= row_count(p)) return;
    const int width = static_cast<int>(p.width), first = (WIDE ? thread : thread % kWarp) * 8;
    const bf16* x = p.x + static_cast<uint64_t>(row) * p.width;
    const bf16* dy = p.dy + static_cast<uint64_t>(row) * p.width;
    bf16* dx = p.out + static_cast<uint64_t>(row) * p.width;
    float squares = 0, product = 0;
    for (int i = first; i < width; i += kStep) {
        float f[8], g[8], w[8];
        unpack_8(load_16(x + i), f);
        unpack_8(load_16_coherent(dy + i), g);
        load_floats_8(p.weight + i, w);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            squares = fmaf(f[j], f[j], squares);
            product = fmaf(w[j] * g[j], f[j], product);
        }
    }
    const float rstd = 1.0f / sqrtf(row_sum<WIDE>(squares) / static_cast<float>(width) + p.eps);
    const float c = row_sum<WIDE>(product) / static_cast<float>(width) * (rstd * rstd);
    for (int i = first; i < width; i += kStep) {
        float f[8], g[8], w[8];
        unpack_8(load_16(x + i), f);
        unpack_8(load_16_coherent(dy + i), g);
        load_floats_8(p.weight + i, w);
#pragma unroll
        for (int j = 0; j < 8; j++) f[j] = rstd * fmaf(-f[j], c, w[j] * g[j]);
        if (p.accumulate) {
            unpack_8(load_16_coherent(dx + i), g);
#pragma unroll
            for (int j = 0; j < 8; j++) f[j] = g[j] + f[j];
        }
        store_16(dx + i, pack_8(f));
    }
}

KERNEL(rms_norm, RmsNormParams, kThreads, 1) { forward<false>(p); }
KERNEL(rms_norm_wide, RmsNormParams, kThreads, 1) { forward<true>(p); }
KERNEL(rms_norm_backward, RmsNormParams, kThreads, 1) { backward<false>(p); }
KERNEL(rms_norm_backward_wide, RmsNormParams, kThreads, 1) { backward<true>(p); }
