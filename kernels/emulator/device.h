// device.cuh for a C++ compiler: a thread is a fibre, warp and tensor-core operations are exact to the lane.
//
// It is unkind on purpose: shared memory starts as NaN, an asynchronous copy leaves NaN until its wait, warps and lanes run in a seeded random order, and
// a lane that misses a warp operation, a barrier that not all threads reach, a copy that nobody waits for, and a misaligned access are errors.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

// As __forceinline__ in device.cuh. It also keeps functions of the same name in different .cu files apart: none is left for the linker to merge.
#define DEVICE inline __attribute__((always_inline))

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

struct Dim {
    unsigned x, y, z;
};

// What a running thread can see of itself.
struct Thread {
    Dim thread, block, block_dim, grid_dim;
    unsigned char* shared;
};

// The thread that runs on this operating system thread.
extern constinit thread_local Thread* current;

enum class Operation : int { Barrier, SyncWarp, Exchange, Ballot, LoadMatrix, Mma };

struct Exchange {
    uint64_t in, out;
    int source;  // the lane to read
};
struct Ballot {
    bool in;
    uint32_t out;
};
struct LoadMatrix {
    uint32_t row[4];  // what this lane's address points at
    uint32_t out[4];
    int count;
    bool transposed;
};
struct Mma {
    const uint32_t *a, *b;
    float* c;
};

// Waits for the other 31 lanes at the same operation; the last one carries it out for all.
void collective(Operation operation, void* operand, const char* file, int line);
void barrier(const char* file, int line);
void copy_async(void* shared, const void* global, bool valid, const char* file, int line);
void commit_copies();
void wait_copies(int pending);
// Ends the launch with an error.
[[noreturn]] void fail(const char* what, const char* file, int line);

// Makes a kernel known by its name.
struct Registration {
    Registration(const char* name, const char* file, unsigned long params, int threads, void (*run)(const void*));
};

inline void aligned(const void* p, unsigned bytes, const char* file, int line) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fail("misaligned access", file, line);
}

template <class T>
inline T exchange(T x, int source, const char* file, int line) {
    static_assert(sizeof(T) <= 8);
    Exchange e{};
    std::memcpy(&e.in, &x, sizeof(T));
    e.source = source;
    collective(Operation::Exchange, &e, file, line);
    std::memcpy(&x, &e.out, sizeof(T));
    return x;
}

inline int lane() { return static_cast<int>(current->thread.x % 32); }

template <int N>
inline void load_matrix(uint32_t (&r)[N], const void* row, bool transposed, const char* file, int line) {
    LoadMatrix m{};
    m.count = N;
    m.transposed = transposed;
    if (lane() < 8 * N) {
        aligned(row, 16, file, line);
        std::memcpy(m.row, row, 16);
    }
    collective(Operation::LoadMatrix, &m, file, line);
    for (int i = 0; i < N; i++) r[i] = m.out[i];
}

}  // namespace emulator

#define threadIdx (::emulator::current->thread)
#define blockIdx (::emulator::current->block)
#define blockDim (::emulator::current->block_dim)
#define gridDim (::emulator::current->grid_dim)

#define KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS)                                                       \
    static void NAME(const PARAMS& p);                                                                  \
    static const ::emulator::Registration registration_##NAME{                                          \
        #NAME, __FILE__, sizeof(PARAMS), THREADS,                                                       \
        [](const void* params) { NAME(*static_cast<const PARAMS*>(params)); }};                         \
    static void NAME(const PARAMS& p)

struct bf16 {
    uint16_t bits;
};

inline uint32_t float_bits(float x) { return std::bit_cast<uint32_t>(x); }
inline float bits_float(uint32_t x) { return std::bit_cast<float>(x); }
inline float to_float(bf16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
inline bf16 to_bf16(float x) {
    uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return {static_cast<uint16_t>(bits >> 16)};
}
inline uint32_t pack_bf16(float low, float high) {
    return static_cast<uint32_t>(to_bf16(low).bits) | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}

inline unsigned char* shared_memory() { return ::emulator::current->shared; }

// Functions with a call site: where a lane waits is part of every report.
#define sync_threads() ::emulator::barrier(__FILE__, __LINE__)
#define sync_warp() ::emulator::collective(::emulator::Operation::SyncWarp, nullptr, __FILE__, __LINE__)
#define shuffle(X, LANE) ::emulator::exchange((X), (LANE) & 31, __FILE__, __LINE__)
#define shuffle_xor(X, MASK) ::emulator::exchange((X), ::emulator::lane() ^ (MASK), __FILE__, __LINE__)
#define shuffle_up(X, DELTA) \
    ::emulator::exchange((X), ::emulator::lane() < (DELTA) ? ::emulator::lane() : ::emulator::lane() - (DELTA), __FILE__, __LINE__)
#define warp_ballot(X) ::emulator::vote((X), __FILE__, __LINE__)
#define copy_async_16(...) ::emulator::copy_async_call(__FILE__, __LINE__, __VA_ARGS__)
#define copy_async_commit() ::emulator::commit_copies()
#define load_matrix_x4(R, ROW) ::emulator::load_matrix<4>((R), (ROW), false, __FILE__, __LINE__)
#define load_matrix_x4_transposed(R, ROW) ::emulator::load_matrix<4>((R), (ROW), true, __FILE__, __LINE__)
#define load_matrix_x2(R, ROW) ::emulator::load_matrix<2>((R), (ROW), false, __FILE__, __LINE__)
#define load_matrix_x2_transposed(R, ROW) ::emulator::load_matrix<2>((R), (ROW), true, __FILE__, __LINE__)
#define mma_bf16(C, A, B) ::emulator::mma((C), (A), (B), __FILE__, __LINE__)
#define load_16(P) ::emulator::load16((P), __FILE__, __LINE__)
#define load_16_coherent(P) ::emulator::load16((P), __FILE__, __LINE__)
#define store_16(P, X) ::emulator::store16((P), (X), __FILE__, __LINE__)

template <int N>
inline void copy_async_wait() {
    ::emulator::wait_copies(N);
}

inline float exp2_approximate(float x) { return std::exp2(x); }

namespace emulator {

inline uint32_t vote(bool x, const char* file, int line) {
    Ballot b{x, 0};
    collective(Operation::Ballot, &b, file, line);
    return b.out;
}
inline void copy_async_call(const char* file, int line, void* shared, const void* global, bool valid = true) {
    copy_async(shared, global, valid, file, line);
}
inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file, int line) {
    Mma m{a, b, c};
    collective(Operation::Mma, &m, file, line);
}
inline uint4 load16(const void* p, const char* file, int line) {
    aligned(p, 16, file, line);
    uint4 x;
    std::memcpy(&x, p, 16);
    return x;
}
inline void store16(void* p, uint4 x, const char* file, int line) {
    aligned(p, 16, file, line);
    std::memcpy(p, &x, 16);
}

}  // namespace emulator
