// One tensor-core product, for tests/ops/emulator/tensor_cores.rs. It exists in the emulator only: no image is
// made of it.
#include "../device.cuh"

namespace {

struct MmaOnceParams {
    float* c;        // [16, 8], in and out
    const bf16* a;   // [16, 16]
    const bf16* b;   // [16, 8]
};

DEVICE uint32_t pair(bf16 low, bf16 high) { return static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits) << 16; }

// Block x takes product x.
KERNEL(mma_once, MmaOnceParams, kWarp, 1) {
    const bf16 *a = p.a + blockIdx.x * 256, *b = p.b + blockIdx.x * 128;
    float* c = p.c + blockIdx.x * 128;
    const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4 * 2;
    uint32_t fragment_a[4], fragment_b[2];
    float sum[4];
    for (int i = 0; i < 4; i++) {
        const bf16* at = a + (g + i % 2 * 8) * 16 + t + i / 2 * 8;
        fragment_a[i] = pair(at[0], at[1]);
        sum[i] = c[(g + i / 2 * 8) * 8 + t + i % 2];
    }
    for (int i = 0; i < 2; i++) fragment_b[i] = pair(b[(t + i * 8) * 8 + g], b[(t + i * 8 + 1) * 8 + g]);
    mma_bf16(sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + t + i % 2] = sum[i];
}

}  // namespace
