// The tensor-core instructions, and the layouts of their operands.
//
// Layouts are functions of host and device, so that `micro selftest` can check them without a GPU.
// Sources: PTX ISA 9.0, "mma.m16n8k16", "wgmma.mma_async.m64nNk16", "Matrix Descriptor Format".
#pragma once

#include "common.cuh"

#define BOTH __host__ __device__ __forceinline__

// ---------------------------------------------------------------- layouts

// Register i of a lane's accumulators: of an m16n8 tile i < 4; of an m64nN tile, where `lane`
// counts the 128 threads, i < N / 2.
BOTH int accumulator_row(int lane, int i) {
    return lane / 32 * 16 + lane % 32 / 4 + i % 4 / 2 * 8;
}
BOTH int accumulator_column(int lane, int i) { return i / 4 * 8 + lane % 4 * 2 + i % 2; }

// Register i < 4 of A (16 rows a warp): the row, and the first of its two columns k, k + 1.
BOTH int a_row(int lane, int i) { return lane / 32 * 16 + lane % 32 / 4 + i % 2 * 8; }
BOTH int a_column(int lane, int i) { return lane % 4 * 2 + i / 2 * 8; }
// Register i < 2 of B: the column n < 8, and the first of its two rows k, k + 1.
BOTH int b_column(int lane) { return lane % 32 / 4; }
BOTH int b_row(int lane, int i) { return lane % 4 * 2 + i * 8; }

// Byte of element (row, k < 64) of a K-major tile, 128 bytes a row, SWIZZLE_128B: the number of a
// 16-byte chunk within its row is exclusive-or-ed with row % 8. Tiles start on 1024 bytes.
BOTH int k_major_byte(int row, int k) {
    return row * 128 + ((k / 8) ^ (row & 7)) * 16 + k % 8 * 2;
}
// Byte of element (m < 64, k) of an M-major tile: 128 bytes (64 m) for each k, the same swizzle.
BOTH int m_major_byte(int m, int k) { return k * 128 + ((m / 8) ^ (k & 7)) * 16 + m % 8 * 2; }

// The descriptor of a tile with SWIZZLE_128B: start address / 16 in bits 0-13, stride byte offset
// 1024 / 16 in bits 32-45 (from eight rows of 128 bytes to the next), swizzle 1 in bits 62-63.
// The leading byte offset (bits 16-29) is not used by K-major swizzled tiles, nor by an M-major one
// of 64 m; it is set to 1. The base offset (bits 49-51) is 0: tiles start on 1024 bytes.
BOTH uint64_t descriptor(uint32_t address) {
    return static_cast<uint64_t>((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
// Bytes from one k16 to the next.
constexpr int kStepKMajor = 16 * 2;
constexpr int kStepMMajor = 16 * 128;

// ---------------------------------------------------------------- instructions

#ifdef __CUDACC__

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// c += a b, one m16n8k16.
__device__ __forceinline__ void mma_k16(float (&c)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c += a b, one m16n8k8.
__device__ __forceinline__ void mma_k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
}

// Orders register accesses before the next wgmma.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// Makes this thread's ordinary writes to shared memory visible to wgmma; a barrier must follow.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Keeps the compiler from moving reads or writes of the accumulators across this place.
template <int COUNT>
__device__ __forceinline__ void hold(float (&c)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(c[i])::"memory");
}

// Lists of operands: "%10,...,%19" for TEN(1), and the constraints of 4, 16, 64 accumulators.
#define FIVE(T) "%" #T "0,%" #T "1,%" #T "2,%" #T "3,%" #T "4,"
#define TEN(T) FIVE(T) "%" #T "5,%" #T "6,%" #T "7,%" #T "8,%" #T "9"
#define LIST4 "%0,%1,%2,%3"
#define LIST8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define LIST16 TEN() ",%10,%11,%12,%13,%14,%15"
#define LIST32 TEN() "," TEN(1) "," TEN(2) ",%30,%31"
#define LIST60 TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5)
#define LIST64 LIST60 ",%60,%61,%62,%63"
#define LIST100 LIST60 "," TEN(6) "," TEN(7) "," TEN(8) "," TEN(9)
#define LIST128 LIST100 "," TEN(10) "," TEN(11) ",%120,%121,%122,%123,%124,%125,%126,%127"
#define C4(I) "+f"(c[I]), "+f"(c[I + 1]), "+f"(c[I + 2]), "+f"(c[I + 3])
#define C8(I) C4(I), C4(I + 4)
#define C16(I) C8(I), C8(I + 8)
#define C32(I) C16(I), C16(I + 16)
#define C64(I) C32(I), C32(I + 32)
#define C128(I) C64(I), C64(I + 64)

// c += A B for m64nNk16 with B [N, 16] K-major in shared memory, and A
//   ss             K-major in shared memory
//   ss_m_major     M-major in shared memory (imm-trans-a = 1)
//   rs             in registers
template <int N>
struct Wgmma;

// O0.. are the numbers of the operands that follow the accumulators.
#define DEFINE_WGMMA(N, HALF, O0, O1, O2, O3, O4)                                                  \
    template <>                                                                                    \
    struct Wgmma<N> {                                                                              \
        static __device__ __forceinline__ void ss(float (&c)[HALF], uint64_t a, uint64_t b) {      \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST##HALF   \
                         "}, %" #O0 ", %" #O1 ", 1, 1, 1, 0, 0;"                                   \
                         : C##HALF(0)                                                              \
                         : "l"(a), "l"(b));                                                        \
        }                                                                                          \
        static __device__ __forceinline__ void ss_m_major(float (&c)[HALF], uint64_t a,            \
                                                          uint64_t b) {                            \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST##HALF   \
                         "}, %" #O0 ", %" #O1 ", 1, 1, 1, 1, 0;"                                   \
                         : C##HALF(0)                                                              \
                         : "l"(a), "l"(b));                                                        \
        }                                                                                          \
        static __device__ __forceinline__ void rs(float (&c)[HALF], const uint32_t (&a)[4],        \
                                                  uint64_t b) {                                    \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST##HALF   \
                         "}, {%" #O0 ",%" #O1 ",%" #O2 ",%" #O3 "}, %" #O4 ", 1, 1, 1, 0;"         \
                         : C##HALF(0)                                                              \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                    \
        }                                                                                          \
    }

DEFINE_WGMMA(8, 4, 4, 5, 6, 7, 8);
DEFINE_WGMMA(16, 8, 8, 9, 10, 11, 12);
DEFINE_WGMMA(32, 16, 16, 17, 18, 19, 20);
DEFINE_WGMMA(64, 32, 32, 33, 34, 35, 36);
DEFINE_WGMMA(128, 64, 64, 65, 66, 67, 68);
DEFINE_WGMMA(256, 128, 128, 129, 130, 131, 132);

#endif
