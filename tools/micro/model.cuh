// Candidate models of a tensor core's arithmetic, on the host.
//
// The products of a block of k and the accumulator are aligned to the largest exponent among them
// and cut off `fraction` bits below it. Their sum is exact. It is cut off (or rounded to nearest)
// to f32, and the next block begins with it. The exponent of a product is the sum of its factors'
// exponents, so its significand lies in [1, 4).
//
// Sources: Fasi et al., PeerJ Computer Science 7:e330, 2021; arXiv 2512.07004; arXiv 2511.10909,
// which gives blocks of 16 products and 25 bits for Hopper, 8 and 24 for Ampere.
#pragma once

#include "common.cuh"

// A finite number as significand * 2^(exponent - point), |significand| < 2^(point + 1). Subnormals
// and zero have the smallest exponent.
struct Parts {
    int32_t significand;
    int exponent;
};

inline Parts parts_of_f32(float x) {
    const uint32_t bits = bits_of(x);
    const int field = bits >> 23 & 0xff;
    const int32_t fraction = bits & 0x7fffff;
    const int32_t magnitude = field ? fraction | 0x800000 : fraction;
    return {bits >> 31 ? -magnitude : magnitude, (field ? field : 1) - 127};
}
// bf16: 8 bits of significand, point 7. f32: 24 bits, point 23.
inline Parts parts_of_bf16(uint16_t bits) {
    const Parts parts = parts_of_f32(bf16_value(bits));
    return {parts.significand / 65536, parts.exponent};
}
// A product of two bf16, exact: point 14.
inline Parts product_of(uint16_t a, uint16_t b) {
    const Parts x = parts_of_bf16(a), y = parts_of_bf16(b);
    return {x.significand * y.significand, x.exponent + y.exponent};
}

// significand * 2^shift, cut off towards zero.
inline int64_t aligned(int64_t significand, int shift) {
    if (shift >= 0) return significand * (int64_t{1} << shift);
    if (shift < -62) return 0;
    const int64_t magnitude = (significand < 0 ? -significand : significand) >> -shift;
    return significand < 0 ? -magnitude : magnitude;
}

// The f32 nearest to x (even on a tie), or the next one towards zero.
inline float to_f32(double x, bool nearest) {
    const float rounded = static_cast<float>(x);
    if (nearest || std::fabs(static_cast<double>(rounded)) <= std::fabs(x)) return rounded;
    return std::nextafter(rounded, 0.0f);
}

// c + the sum of `count` products, as one step of the hardware.
inline float accumulate(float c, const Parts* products, int count, int fraction, bool nearest) {
    const Parts start = parts_of_f32(c);
    int largest = start.exponent;
    for (int i = 0; i < count; i++) {
        if (products[i].significand) largest = std::max(largest, products[i].exponent);
    }
    int64_t sum = aligned(start.significand, fraction - 23 - (largest - start.exponent));
    for (int i = 0; i < count; i++) {
        const int shift = fraction - 14 - (largest - products[i].exponent);
        if (products[i].significand) sum += aligned(products[i].significand, shift);
    }
    return to_f32(std::ldexp(static_cast<double>(sum), largest - fraction), nearest);
}

struct Model {
    int block;      // products of a step; 1 stands for a fused multiply-add to nearest, one by one
    int fraction;   // bits kept below the largest exponent
    bool nearest;   // how the result becomes f32

    std::string name() const {
        if (block == 1) return "one by one, to nearest";
        return std::to_string(block) + " products, " + std::to_string(fraction) +
               " fraction bits, " + (nearest ? "to nearest" : "cut off");
    }
    // start + a b over k in ascending order.
    float dot(float start, const uint16_t* a, const uint16_t* b, const Parts* products,
              int k) const {
        float c = start;
        if (block == 1) {
            for (int i = 0; i < k; i++) c = std::fma(bf16_value(a[i]), bf16_value(b[i]), c);
            return c;
        }
        for (int i = 0; i < k; i += block) {
            c = accumulate(c, products + i, std::min(block, k - i), fraction, nearest);
        }
        return c;
    }
};

inline std::vector<Model> candidate_models() {
    std::vector<Model> models = {{1, 0, true}};
    for (const int block : {4, 8, 16}) {
        for (int fraction = 23; fraction <= 27; fraction++) {
            models.push_back({block, fraction, false});
            models.push_back({block, fraction, true});
        }
    }
    return models;
}

// How often each candidate gave the bits of one engine.
struct Fit {
    Model model;
    uint64_t tested = 0, wrong = 0;
    double share() const { return tested ? static_cast<double>(wrong) / tested : 1; }
};

// Candidates of one engine, told what it gave; one that is clearly wrong is tried no longer.
class Fits {
   public:
    Fits() {
        for (const Model& model : candidate_models()) fits_.push_back({model});
    }
    void see(float start, const uint16_t* a, const uint16_t* b, int k, float got) {
        products_.resize(k);
        for (int i = 0; i < k; i++) products_[i] = product_of(a[i], b[i]);
        for (Fit& fit : fits_) {
            if (fit.wrong >= 500) continue;
            fit.tested++;
            fit.wrong += bits_of(fit.model.dot(start, a, b, products_.data(), k)) != bits_of(got);
        }
    }
    // The best first; where shares are equal, what was tested more.
    std::vector<Fit> ranked() const {
        std::vector<Fit> fits = fits_;
        std::stable_sort(fits.begin(), fits.end(), [](const Fit& x, const Fit& y) {
            return x.share() != y.share() ? x.share() < y.share() : x.tested > y.tested;
        });
        return fits;
    }

   private:
    std::vector<Fit> fits_;
    std::vector<Parts> products_;
};
