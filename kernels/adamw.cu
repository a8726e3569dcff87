// Gradient norms and AdamW (Loshchilov & Hutter 2019, as in PyTorch) of all stepping slots at once, and zeroing of gradients.
//
//   norm[i] = sqrt(sum g^2)
//   g' = g min(1, max_norm / (norm + 1e-6)),  m = b1 m + (1 - b1) g',  v = b2 v + (1 - b2) g'^2
//   w = w (1 - lr wd) - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps);  weights = bf16(w);  g = 0
//
// All over the `elements` of a slot, a multiple of 8, f32; padding is zero in every buffer and stays so. Each number is read and written once: bound by memory, 16
// bytes a load. What changes from step to step (which slots, their scalars) lies in a table on the device. A slot whose norm is not finite only loses its gradient.
//
// A norm has one order: chunks of kNormChunk elements of a slot; in a chunk thread t takes elements 4 (t + 256 i) .. + 3; f64, as on the CPU, so that no
// gradient that f32 can hold overflows its square. grid: x chunks of the largest slot, y slots. No shared memory but the sums of 8 warps.
#include "plan.cuh"

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kNormChunk = 1 << 15;
constexpr int kNormStep = kThreads * 4;
static_assert(kNormChunk % kNormStep == 0, "a chunk is whole steps of the block");
constexpr int kAdamChunk = kThreads * 8;

struct NormParams {
    const SlotEntry* slots;
    const uint32_t* stepping;  // [gridDim.y]: slots
    double* sums;              // [gridDim.y, chunks]
    float* norms;              // [gridDim.y]
    uint32_t chunks, unused;
};

DEVICE double block_sum_f64(double x, double* scratch) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
    sync_threads();
    double sum = scratch[0];
    for (int i = 1; i < kWarps; i++) sum += scratch[i];
    return sum;
}

KERNEL(grad_norm_chunks, NormParams, kThreads, 1) {
    const SlotEntry& slot = p.slots[p.stepping[blockIdx.y]];
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * kNormChunk;
    if (first >= slot.elements) return;
    double sum = 0;
#pragma unroll 8
    for (int i = 0; i < kNormChunk; i += kNormStep) {
        const uint64_t at = first + i + threadIdx.x * 4;
        if (at >= slot.elements) break;
        const uint4 g = load_16(slot.gradient + at);
        const double x = bits_float(g.x), y = bits_float(g.y), z = bits_float(g.z), w = bits_float(g.w);
        sum += (x * x + y * y) + (z * z + w * w);
    }
    sum = block_sum_f64(sum, reinterpret_cast<double*>(shared_memory()));
    if (threadIdx.x == 0) p.sums[static_cast<uint64_t>(blockIdx.y) * p.chunks + blockIdx.x] = sum;
}

// grid: y slots.
KERNEL(grad_norms, NormParams, kThreads, 1) {
    const SlotEntry& slot = p.slots[p.stepping[blockIdx.y]];
    const uint32_t chunks = static_cast<uint32_t>((slot.elements + kNormChunk - 1) / kNormChunk);
    double sum = 0;
    for (uint32_t i = threadIdx.x; i < chunks; i += kThreads) sum += p.sums[static_cast<uint64_t>(blockIdx.y) * p.chunks + i];
    sum = block_sum_f64(sum, reinterpret_cast<double*>(shared_memory()));
    if (threadIdx.x == 0) p.norms[blockIdx.y] = static_cast<float>(sqrt(sum));
}

// One slot's step, its scalars rounded once from f64.
struct AdamWScalars {
    uint32_t slot;
    float max_norm;
    float decay;  // 1 - lr wd
    float beta1, one_minus_beta1;
    float beta2, one_minus_beta2;
    float step_size;         // lr / (1 - b1^t)
    float root_correction2;  // sqrt(1 - b2^t)
    float epsilon;
};

struct AdamWParams {
    const SlotEntry* slots;
    const AdamWScalars* steps;  // [gridDim.y]
    const float* norms;         // [gridDim.y]
};

DEVICE void adamw_element(const AdamWScalars& s, float clip, uint32_t gradient, uint32_t& weight, uint32_t& moment1, uint32_t& moment2) {
    const float g = bits_float(gradient) * clip;
    const float decayed = bits_float(weight) * s.decay;
    const float m = s.beta1 * bits_float(moment1) + s.one_minus_beta1 * g;
    const float v = s.beta2 * bits_float(moment2) + s.one_minus_beta2 * (g * g);
    const float denominator = sqrtf(v) / s.root_correction2 + s.epsilon;
    // With epsilon 0, 0 / 0 would turn untouched weights into NaN.
    const float ratio = denominator == 0.0f ? 0.0f : m / denominator;
    weight = float_bits(decayed - s.step_size * ratio);
    moment1 = float_bits(m);
    moment2 = float_bits(v);
}

KERNEL(adamw, AdamWParams, kThreads, 1) {
    const AdamWScalars s = p.steps[blockIdx.y];
    const SlotEntry& slot = p.slots[s.slot];
    const uint64_t at = static_cast<uint64_t>(blockIdx.x) * kAdamChunk + threadIdx.x * 8;
    if (at >= slot.elements) return;
    const float norm = p.norms[blockIdx.y];
    float* gradient = slot.gradient + at;
    // False for NaN too.
    if (fabsf(norm) < INFINITY) {
        const float clip = fminf(1.0f, s.max_norm / (norm + 1e-6f));
        uint4 g[2], w[2], m[2], v[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            g[i] = load_16_coherent(gradient + 4 * i);
            w[i] = load_16_coherent(slot.master + at + 4 * i);
            m[i] = load_16_coherent(slot.moment1 + at + 4 * i);
            v[i] = load_16_coherent(slot.moment2 + at + 4 * i);
        }
        uint32_t rounded[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            adamw_element(s, clip, g[i].x, w[i].x, m[i].x, v[i].x);
            adamw_element(s, clip, g[i].y, w[i].y, m[i].y, v[i].y);
            adamw_element(s, clip, g[i].z, w[i].z, m[i].z, v[i].z);
            adamw_element(s, clip, g[i].w, w[i].w, m[i].w, v[i].w);
            rounded[2 * i] = pack_bf16(bits_float(w[i].x), bits_float(w[i].y));
            rounded[2 * i + 1] = pack_bf16(bits_float(w[i].z), bits_float(w[i].w));
            store_16(slot.master + at + 4 * i, w[i]);
            store_16(slot.moment1 + at + 4 * i, m[i]);
            store_16(slot.moment2 + at + 4 * i, v[i]);
        }
        // The table calls the weights constant because all other kernels only read them.
        store_16(const_cast<bf16*>(slot.weights) + at, make_uint4(rounded[0], rounded[1], rounded[2], rounded[3]));
    }
    store_16(gradient, make_uint4(0, 0, 0, 0));
    store_16(gradient + 4, make_uint4(0, 0, 0, 0));
}

struct ZeroGradParams {
    const SlotEntry* slots;
    const uint32_t* zeroed;  // [gridDim.y]: slots
};

KERNEL(zero_grad, ZeroGradParams, kThreads, 1) {
    const SlotEntry& slot = p.slots[p.zeroed[blockIdx.y]];
    const uint64_t at = static_cast<uint64_t>(blockIdx.x) * kAdamChunk + threadIdx.x * 8;
    if (at >= slot.elements) return;
    store_16(slot.gradient + at, make_uint4(0, 0, 0, 0));
    store_16(slot.gradient + at + 4, make_uint4(0, 0, 0, 0));
}
