// SwiGLU (Shazeer 2020) and its backward, recomputing from the inputs.
//
//   swiglu           out = silu(gate) up                         silu(g) = g σ(g), σ(g) = 1 / (1 + exp(-g))
//   swiglu_backward  dgate = dout up σ (1 + gate (1 - σ))        dup = dout silu(gate)
//
// gate_up bf16 [R, 2 f] is gate | up, out and dout bf16 [R, f], dgate_up bf16 [R, 2 f], f a multiple of 8. dgate_up may be gate_up: a thread reads and
// writes only its own elements. A thread takes 8 elements, 16 bytes of each operand; the grid covers R f / 8 of them. 6 (forward) or 10 (backward)
// bytes move for each element. No shared memory.
#include "plan.cuh"

struct SwiGluParams {
    const Plan* plan;
    const bf16* gate_up;
    const bf16* dout;  // backward
    bf16* out;         // dgate_up in the backward
    uint32_t width, unused;
};

constexpr int kThreads = 256;
constexpr float kLog2E = 1.44269504f;

DEVICE float sigmoid(float g) { return 1.0f / (1.0f + exp2_approximate(-g * kLog2E)); }

// Row and column of this thread's first element; false beyond the batch.
DEVICE bool place(const SwiGluParams& p, uint64_t* row, uint32_t* column) {
    const uint32_t groups = p.width / 8;
    const uint64_t group = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
    *row = group / groups;
    *column = static_cast<uint32_t>(group - *row * groups) * 8;
    return *row < p.plan->rows;
}

KERNEL(swiglu, SwiGluParams, kThreads, 1) {
    uint64_t row;
    uint32_t column;
    if (!place(p, &row, &column)) return;
    const bf16* gates = p.gate_up + row * 2 * p.width + column;
    const uint4 gate = load_16(gates), up = load_16(gates + p.width);
    const uint32_t g[4] = {gate.x, gate.y, gate.z, gate.w}, u[4] = {up.x, up.y, up.z, up.w};
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float g0 = low_bf16(g[i]), g1 = high_bf16(g[i]);
        out[i] = pack_bf16(g0 * sigmoid(g0) * low_bf16(u[i]), g1 * sigmoid(g1) * high_bf16(u[i]));
    }
    store_16(p.out + row * p.width + column, make_uint4(out[0], out[1], out[2], out[3]));
}

struct Gradients {
    float gate, up;
};
DEVICE Gradients gradients(float gate, float up, float dout) {
    const float s = sigmoid(gate);
    return {dout * up * (s * fmaf(gate, 1.0f - s, 1.0f)), dout * (gate * s)};
}

KERNEL(swiglu_backward, SwiGluParams, kThreads, 1) {
    uint64_t row;
    uint32_t column;
    if (!place(p, &row, &column)) return;
    const uint64_t at = row * 2 * p.width + column;
    const uint4 gate = load_16_coherent(p.gate_up + at), up = load_16_coherent(p.gate_up + at + p.width);
    const uint4 dout = load_16(p.dout + row * p.width + column);
    const uint32_t g[4] = {gate.x, gate.y, gate.z, gate.w}, u[4] = {up.x, up.y, up.z, up.w}, d[4] = {dout.x, dout.y, dout.z, dout.w};
    uint32_t dgate[4], dup[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const Gradients low = gradients(low_bf16(g[i]), low_bf16(u[i]), low_bf16(d[i]));
        const Gradients high = gradients(high_bf16(g[i]), high_bf16(u[i]), high_bf16(d[i]));
        dgate[i] = pack_bf16(low.gate, high.gate);
        dup[i] = pack_bf16(low.up, high.up);
    }
    store_16(p.out + at, make_uint4(dgate[0], dgate[1], dgate[2], dgate[3]));
    store_16(p.out + at + p.width, make_uint4(dup[0], dup[1], dup[2], dup[3]));
}
