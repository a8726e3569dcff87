// All that a kernel leans on: types, qualifiers, and every intrinsic and PTX instruction behind one function.
//
// The same kernel sources are compiled twice: by nvcc for a GPU (this file), and by a C++ compiler for the emulator
// (emulator/device.h, which gives every name below its meaning with one fibre a thread). Kernels include nothing else, so nothing of CUDA but
// threadIdx, blockIdx, gridDim, the vector types and the C mathematics functions may be spelled in a .cu file.
//
//   KERNEL(name, Params, threads, min_blocks) { ... p ... }   an entry point with one parameter struct p and blocks of exactly `threads`
//   DEVICE                                                    a function called from kernels
//   shared_memory()                                           the block's dynamic shared memory, 128-byte aligned; there is no static one
//
// Warp functions take all 32 lanes; a lane that is elsewhere is an error that the emulator reports.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_bf16.h>

#define DEVICE __device__ __forceinline__
#define KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS)                      \
    extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) \
        NAME(const __grid_constant__ PARAMS p)

// A bfloat16 in memory. Arithmetic is done in f32.
struct bf16 {
    uint16_t bits;
};

DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
// Rounds to nearest even; NaN stays NaN.
DEVICE bf16 to_bf16(float x) { return {__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }
// Two bfloat16 in a register, `low` at the lower address.
DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
DEVICE float bits_float(uint32_t x) { return __uint_as_float(x); }

DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char shared_bytes[];
    return shared_bytes;
}

DEVICE void sync_threads() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }

template <class T>
DEVICE T shuffle_xor(T x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}
template <class T>
DEVICE T shuffle(T x, int lane) {
    return __shfl_sync(0xffffffffu, x, lane);
}
template <class T>
DEVICE T shuffle_up(T x, int delta) {
    return __shfl_up_sync(0xffffffffu, x, delta);
}
DEVICE uint32_t warp_ballot(bool x) { return __ballot_sync(0xffffffffu, x); }

DEVICE uint32_t shared_address(const void* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); }

// 16 bytes from global to shared memory, asynchronously; zeros where `valid` is false (then `global` is not read, but must be a valid address).
DEVICE void copy_async_16(void* shared, const void* global, bool valid = true) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
// Ends a group of this thread's asynchronous copies.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's latest groups are under way. Other threads' copies are seen after a barrier.
template <int N>
DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four (two) 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, 16-byte aligned). r[i] of lane l
// holds of matrix i row l / 4, columns 2 (l % 4) and + 1; transposed: row 2 (l % 4) and + 1, column l / 4.
DEVICE void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrix_x2_transposed(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a b on the tensor cores: a 16x16 bf16, b 16x8 bf16, c 16x8 f32. With g = lane / 4, t = lane % 4:
//   a[0] = A[g][2t, 2t+1]    a[1] = A[g+8][2t, 2t+1]    a[2] = A[g][2t+8, 2t+9]    a[3] = A[g+8][2t+8, 2t+9]
//   b[0] = B[2t, 2t+1][g]    b[1] = B[2t+8, 2t+9][g]
//   c[0], c[1] = C[g][2t, 2t+1]    c[2], c[3] = C[g+8][2t, 2t+1]
DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 2^x, within 2 ulp; 2^-inf = 0.
DEVICE float exp2_approximate(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

// 16 bytes of global memory that nobody writes during the kernel.
DEVICE uint4 load_16(const void* global) { return __ldg(static_cast<const uint4*>(global)); }
// 16 bytes that other operands of the kernel may overwrite. (Said in PTX, since the compiler cannot know that an address it loads is a global one.)
DEVICE uint4 load_16_coherent(const void* global) {
    uint4 x;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(__cvta_generic_to_global(global))
                 : "memory");
    return x;
}
DEVICE void store_16(void* global, uint4 x) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
}

#else
#include "emulator/device.h"
#endif

constexpr int kWarp = 32;

DEVICE float low_bf16(uint32_t x) { return bits_float(x << 16); }
DEVICE float high_bf16(uint32_t x) { return bits_float(x & 0xffff0000u); }
// Eight bf16 in 16 bytes as f32, and back; eight f32 that start on 16 bytes.
DEVICE void unpack_8(uint4 v, float (&f)[8]) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = low_bf16(words[i]);
        f[2 * i + 1] = high_bf16(words[i]);
    }
}
DEVICE uint4 pack_8(const float (&f)[8]) {
    return make_uint4(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]), pack_bf16(f[6], f[7]));
}
DEVICE void load_floats_8(const float* from, float (&f)[8]) {
    const uint4 low = load_16(from), high = load_16(from + 4);
    const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] = bits_float(words[i]);
}

// The same sum in every lane, by a butterfly: one fixed order.
DEVICE float warp_sum(float x) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}
DEVICE float warp_max(float x) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}

// The sum of x over a block of WARPS warps, in every thread; `scratch` is WARPS floats of shared memory that no one else uses until the next barrier
// after the call.
template <int WARPS>
DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    sync_threads();
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
    sync_threads();
    float sum = scratch[0];
    for (int i = 1; i < WARPS; i++) sum += scratch[i];
    return sum;
}
template <int WARPS>
DEVICE float block_max(float x, float* scratch) {
    x = warp_max(x);
    sync_threads();
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
    sync_threads();
    float largest = scratch[0];
    for (int i = 1; i < WARPS; i++) largest = fmaxf(largest, scratch[i]);
    return largest;
}

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
DEVICE uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// The uniform number in (0, 1) of src/backend/plan.rs, in two steps: what is common to a position, and its number for one token or column.
DEVICE uint64_t uniform_seed(uint64_t key, uint32_t position) {
    return mix(key ^ (static_cast<uint64_t>(position) + 1) * 0x9e3779b97f4a7c15ull);
}
DEVICE float uniform(uint64_t seed, uint32_t token) {
    const uint64_t bits = mix(seed ^ (static_cast<uint64_t>(token) + 1) * 0xd1b54a32d192ed03ull) >> 41;
    return (static_cast<float>(static_cast<uint32_t>(bits)) + 0.5f) * (1.0f / 8388608.0f);
}
