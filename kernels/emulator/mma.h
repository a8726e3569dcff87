// The arithmetic of the emulated tensor core: C += A B of one m16n8k16 product, bf16 into f32.
//
// Rounding (`products` 0): adds one product after another and rounds each sum to the nearest f32.
//
// Truncating: adds as tensor cores were found to do. Products are exact. A block of products and
// the accumulator are aligned to the largest exponent among them; a product's exponent is the sum
// of its factors' exponents. Of each term, bits lower than `23 + extra_bits` places below that
// exponent are cut off. The sum of the rest is exact, then cut off to f32; from 2^128 on it is
// infinite. Blocks follow one another in the order of k.
//   A100 (Ampere): 8 products a block, 1 extra bit, exponents below -132 count as -132.
//   H100 (Hopper): 16 products a block, 2 extra bits, exponents below -133 count as -133.
//
// Sources:
// - Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer
//   Science 7:e330: exact products, one alignment a block, truncation, subnormal numbers.
// - Khattak, Mikaitis, "Accurate models of NVIDIA tensor cores", arXiv 2512.07004, and the models
//   published with it (github.com/north-numerical-computing/MATLAB-tensor-core, A100TC.m and
//   H100TC.m): block, extra bits and least exponent for bf16.
//
// An element whose operands are not all finite, or whose terms are all zero, is that of rounding.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

// The twin of `Mma` in src/backend/cuda/emulator/mma.rs.
struct MmaArithmetic {
    int32_t products;  // of a block: 4, 8 or 16; 0: rounding
    int32_t extra_bits;
    int32_t least_exponent;
};

constexpr int kM = 16, kN = 8, kK = 16;
// The exponent of zero: below all others, as the sum of two as well.
constexpr int16_t kExponentOfZero = -8192;

// The exponent of a finite number: subnormal numbers have that of the smallest normal one.
inline int16_t exponent_of(float x) {
    const int biased = static_cast<int>(std::bit_cast<uint32_t>(x) >> 23 & 0xff);
    return x == 0 ? kExponentOfZero : static_cast<int16_t>(biased == 0 ? -126 : biased - 127);
}

// 2^e of a normal double.
inline double power_of_two(int e) { return std::bit_cast<double>(static_cast<uint64_t>(1023 + e) << 52); }

// Towards zero; 2^128 and more are infinite.
inline float truncated(double x) {
    if (std::fabs(x) >= power_of_two(128)) return static_cast<float>(std::copysign(INFINITY, x));
    const float nearest = static_cast<float>(x);
    return std::fabs(static_cast<double>(nearest)) > std::fabs(x) ? std::bit_cast<float>(std::bit_cast<uint32_t>(nearest) - 1) : nearest;
}

// A product of two bf16 is exact in f32 unless it leaves the range of f32, so a fused
// multiply-add would give the same.
inline void multiply_add_rounding(const float (&a)[kM][kK], const float (&b)[kK][kN], float (&c)[kM][kN]) {
    for (int i = 0; i < kM; i++) {
        for (int k = 0; k < kK; k++) {
            for (int j = 0; j < kN; j++) c[i][j] += a[i][k] * b[k][j];
        }
    }
}

// One block of one row of C; all operands are finite, the accumulators at least when they came.
inline void add_block(const MmaArithmetic& how, const float* a, const float (*b)[kN], const int16_t* a_exponents, const int16_t (*b_exponents)[kN], float* c) {
    int16_t top[kN];
    for (int j = 0; j < kN; j++) top[j] = exponent_of(c[j]);
    for (int k = 0; k < how.products; k++) {
        for (int j = 0; j < kN; j++) {
            const int16_t e = static_cast<int16_t>(a_exponents[k] + b_exponents[k][j]);
            top[j] = e > top[j] ? e : top[j];
        }
    }
    // Doubles hold every product, and every sum of integers, exactly.
    double scale[kN];
    for (int j = 0; j < kN; j++) {
        scale[j] = power_of_two(23 + how.extra_bits - (top[j] < how.least_exponent ? how.least_exponent : top[j]));
    }
    // At most 16 * 255^2 * 2^11 < 2^31. A conversion to an integer cuts off.
    int32_t sum[kN] = {};
    for (int k = 0; k < how.products; k++) {
        const double x = a[k];
        for (int j = 0; j < kN; j++) sum[j] += static_cast<int32_t>(x * scale[j] * static_cast<double>(b[k][j]));
    }
    for (int j = 0; j < kN; j++) {
        if (!std::isfinite(c[j])) continue;
        if (top[j] < 2 * -126) {
            for (int k = 0; k < how.products; k++) c[j] += a[k] * b[k][j];
            continue;
        }
        const int64_t total = sum[j] + static_cast<int64_t>(c[j] * scale[j]);
        c[j] = truncated(static_cast<double>(total) / scale[j]);
    }
}

inline void multiply_add_truncating(const MmaArithmetic& how, float (&a)[kM][kK], float (&b)[kK][kN], float (&c)[kM][kN]) {
    bool bad_row[kM] = {}, bad_column[kN] = {}, bad_element[kM][kN], any = false;
    for (int i = 0; i < kM; i++) {
        for (int k = 0; k < kK; k++) bad_row[i] |= !std::isfinite(a[i][k]);
    }
    for (int k = 0; k < kK; k++) {
        for (int j = 0; j < kN; j++) bad_column[j] |= !std::isfinite(b[k][j]);
    }
    for (int i = 0; i < kM; i++) {
        for (int j = 0; j < kN; j++) any |= bad_element[i][j] = bad_row[i] || bad_column[j] || !std::isfinite(c[i][j]);
    }
    float rounding[kM][kN];
    if (any) {
        std::memcpy(rounding, c, sizeof c);
        multiply_add_rounding(a, b, rounding);
        for (int i = 0; i < kM; i++) {
            for (int k = 0; k < kK; k++) a[i][k] = bad_row[i] ? 0 : a[i][k];
        }
        for (int k = 0; k < kK; k++) {
            for (int j = 0; j < kN; j++) b[k][j] = bad_column[j] ? 0 : b[k][j];
        }
        for (int i = 0; i < kM; i++) {
            for (int j = 0; j < kN; j++) c[i][j] = bad_element[i][j] ? 0 : c[i][j];
        }
    }
    int16_t a_exponents[kM][kK], b_exponents[kK][kN];
    for (int i = 0; i < kM; i++) {
        for (int k = 0; k < kK; k++) a_exponents[i][k] = exponent_of(a[i][k]);
    }
    for (int k = 0; k < kK; k++) {
        for (int j = 0; j < kN; j++) b_exponents[k][j] = exponent_of(b[k][j]);
    }
    for (int i = 0; i < kM; i++) {
        for (int k = 0; k < kK; k += how.products) add_block(how, &a[i][k], &b[k], &a_exponents[i][k], &b_exponents[k], c[i]);
    }
    for (int i = 0; any && i < kM; i++) {
        for (int j = 0; j < kN; j++) c[i][j] = bad_element[i][j] ? rounding[i][j] : c[i][j];
    }
}

inline void multiply_add(const MmaArithmetic& how, float (&a)[kM][kK], float (&b)[kK][kN], float (&c)[kM][kN]) {
    return how.products == 0 ? multiply_add_rounding(a, b, c) : multiply_add_truncating(how, a, b, c);
}

}  // namespace emulator
