// Seeded noise in the place of weights, for measurements: nothing has to be read from anywhere.
//
//   out[i] = bf16(scale u(i)),  u(i) = (mix(seed + (i + 1) 0x9e3779b97f4a7c15) >> 40) / 2^23 - 1, uniform in [-1, 1)
//
// mix is the finaliser of SplitMix64, so u(i) is number i of that generator started at `seed`: a function of its place alone, exact in f32, and the same on the host (`Noise` of
// src/backend/weights.rs). out bf16 [count], 16-byte aligned, count a multiple of 8. A thread makes 8 numbers and stores 16 bytes; the grid covers count / 8 threads. 2 bytes move for each
// number. No shared memory.
#include "plan.cuh"

struct NoiseParams {
    bf16* out;
    uint64_t count;
    uint64_t seed;
    float scale;
    uint32_t unused;
};

constexpr int kThreads = 256;

DEVICE float noise(const NoiseParams& p, uint64_t i) {
    const uint32_t bits = static_cast<uint32_t>(mix(p.seed + (i + 1) * 0x9e3779b97f4a7c15ull) >> 40);
    return p.scale * (static_cast<float>(bits) * (1.0f / 8388608.0f) - 1.0f);
}

KERNEL(fill_noise, NoiseParams, kThreads, 1) {
    const uint64_t first = (static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
    if (first >= p.count) return;
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = pack_bf16(noise(p, first + 2 * i), noise(p, first + 2 * i + 1));
    store_16(p.out + first, make_uint4(out[0], out[1], out[2], out[3]));
}
