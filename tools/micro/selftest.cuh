// What can be checked without a GPU: the host's models and references, and the layouts.
#pragma once

#include <set>

#include "bits.cuh"
#include "graph.cuh"

class SelfTest {
   public:
    int run() {
        numbers();
        layouts();
        hand_worked();
        exact_when_wide();
        models_are_told_apart();
        inputs();
        differences();
        chain();
        json();
        if (failed_) {
            fprintf(stderr, "selftest: %d of %d checks failed\n", failed_, checks_);
            return 1;
        }
        printf("selftest: %d checks hold\n", checks_);
        return 0;
    }

   private:
    void expect(bool holds, const char* what) {
        checks_++;
        if (holds) return;
        failed_++;
        fprintf(stderr, "selftest: does not hold: %s\n", what);
    }

    void numbers() {
        expect(bf16_bits(1.0f) == 0x3f80 && bf16_value(0xc040) == -3.0f, "bf16 of 1 and -3");
        expect(bf16_bits(1.00390625f) == 0x3f80, "a tie of bf16 goes to the even neighbour");
        expect(bf16_bits(1.01171875f) == 0x3f82, "a tie of bf16 goes up to the even neighbour");
        expect(ulps(1.0f, std::nextafter(1.0f, 2.0f)) == 1, "neighbours are one ulp apart");
        expect(ulps(-0.0f, 0.0f) == 0, "zeros are no ulp apart");
        expect(ulps(float_of(0x80000001), float_of(1)) == 2, "ulps across zero");
        expect(to_f32(1 + 0x1p-24, true) == 1 && to_f32(1 + 0x1.8p-24, false) == 1 &&
                   to_f32(1 + 0x1.8p-24, true) == 1 + 0x1p-23f &&
                   to_f32(-1 - 0x1.8p-24, false) == -1,
               "to f32, to nearest and cut off");
        expect(to_f32(0x1.8p-149, false) == 0x1p-149f && to_f32(0x1p-150, false) == 0,
               "subnormals are cut off");
        Random random(1);
        bool products = true, parts = true;
        for (int i = 0; i < 10000; i++) {
            const uint16_t a = draw_element(Draw::kSpread, random, false);
            const uint16_t b = draw_element(Draw::kTiny, random, true);
            const Parts p = product_of(a, b), q = parts_of_f32(bf16_value(a));
            products = products && std::ldexp(double(p.significand), p.exponent - 14) ==
                                       double(bf16_value(a)) * bf16_value(b);
            parts = parts && std::ldexp(double(q.significand), q.exponent - 23) == bf16_value(a);
        }
        expect(products, "significand and exponent are the product");
        expect(parts, "significand and exponent are the number");
        expect(median({3, 1, 2}) == 2 && median({4, 1, 2, 3}) == 2.5, "median");
    }

    void layouts() {
        std::set<std::pair<int, int>> seen;
        for (int thread = 0; thread < 128; thread++) {
            for (int i = 0; i < 128; i++) {
                seen.insert({accumulator_row(thread, i), accumulator_column(thread, i)});
            }
        }
        expect(seen.size() == 64 * 256 && seen.rbegin()->first == 63, "accumulators cover D");
        seen.clear();
        for (int thread = 0; thread < 128; thread++) {
            for (int i = 0; i < 4; i++) seen.insert({a_row(thread, i), a_column(thread, i)});
        }
        expect(seen.size() == 64 * 8 && seen.rbegin()->first == 63, "fragments cover A");
        seen.clear();
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < 2; i++) seen.insert({b_column(lane), b_row(lane, i)});
        }
        expect(seen.size() == 8 * 8 && seen.rbegin()->first == 7, "fragments cover B");
        // SWIZZLE_128B is an exclusive or of address bits 4-6 with bits 7-9.
        bool swizzled = true;
        std::set<int> bytes, turned;
        for (int row = 0; row < 64; row++) {
            for (int k = 0; k < 64; k++) {
                const int plain = row * 128 + k * 2, other = k * 128 + row * 2;
                swizzled = swizzled && k_major_byte(row, k) == (plain ^ (plain >> 7 & 7) << 4) &&
                           m_major_byte(row, k) == (other ^ (other >> 7 & 7) << 4);
                bytes.insert(k_major_byte(row, k));
                turned.insert(m_major_byte(row, k));
            }
        }
        expect(swizzled, "tiles are swizzled by address bits");
        expect(bytes.size() == 4096 && turned.size() == 4096, "tiles hold every element once");
        expect(descriptor(0x12400) == 0x4000004000011240ull, "descriptor");
        expect(kStepKMajor == k_major_byte(0, 16) && kStepMMajor == m_major_byte(0, 16),
               "steps of k16");
    }

    // start + the sum of 16 products given as values that bf16 pairs can have.
    static float step_of(const Model& model, float start, const std::vector<float>& products) {
        std::vector<uint16_t> a(16, 0), b(16, bf16_bits(1));
        for (size_t i = 0; i < products.size(); i++) a[i] = bf16_bits(products[i]);
        std::vector<Parts> parts;
        for (int i = 0; i < 16; i++) parts.push_back(product_of(a[i], b[i]));
        return model.dot(start, a.data(), b.data(), parts.data(), 16);
    }

    void hand_worked() {
        const Model hopper = {16, 25, false}, ampere = {8, 24, false}, nearest = {16, 25, true};
        const Model serial = {1, 0, true}, wide = {16, 27, false};
        const std::vector<float> four(4, 0x1p-25f), eight(8, 0x1p-25f), one = {-0x1p-26f};
        expect(step_of(hopper, 1, four) == 1 + 0x1p-23f, "four products of 2^-25 are kept");
        expect(step_of(ampere, 1, eight) == 1, "24 bits lose products of 2^-25");
        expect(step_of(serial, 1, eight) == 1, "one by one loses products of 2^-25");
        expect(step_of(hopper, 1, one) == 1, "-2^-26 is lost at 25 bits");
        expect(step_of(wide, 1, one) == 1 - 0x1p-24f, "-2^-26 is cut off at 27 bits");
        expect(step_of(hopper, 1, {0x1p-24f, 0x1p-25f}) == 1, "0.75 ulp is cut off");
        expect(step_of(nearest, 1, {0x1p-24f, 0x1p-25f}) == 1 + 0x1p-23f, "0.75 ulp goes up");
        // 2^30 - 2^30 in one block with 1: aligned to 2^30, 1 is kept at 25 bits no more.
        expect(step_of(hopper, 0, {0x1p30f, 1, -0x1p30f}) == 0, "1 is lost beside 2^30");
        expect(step_of(hopper, 0, {0x1p25f, 1, -0x1p25f}) == 1, "1 is kept beside 2^25");
        const std::vector<float> apart = {0x1p30f, 0, 0, 0, 0, 0, 0, 0, 1, -0x1p30f};
        expect(step_of(ampere, 0, apart) == 0, "the second block begins with 2^30");
        std::vector<float> later(16, 0);
        later[0] = 0x1p30f, later[7] = -0x1p30f, later[8] = 1;
        expect(step_of(ampere, 0, later) == 1 && step_of(hopper, 0, later) == 0,
               "blocks of 8 and of 16 differ");
        expect(step_of(hopper, 0, {0x1p-133f}) == 0x1p-133f, "a subnormal product");
        // 1.5 * 1.5 = 2.25 has exponent 0: 2^-25 beside it is kept at 25 bits.
        const uint16_t a[16] = {bf16_bits(1.5f), bf16_bits(0x1p-24f), bf16_bits(-1.5f)};
        const uint16_t b[16] = {bf16_bits(1.5f), bf16_bits(0.5f), bf16_bits(1.5f)};
        Parts parts[16];
        for (int i = 0; i < 16; i++) parts[i] = product_of(a[i], b[i]);
        expect(hopper.dot(0, a, b, parts, 16) == 0x1p-25f, "a product's exponent is a sum");
    }

    // With few different exponents nothing is cut off before the end: the model is the exact sum,
    // cut off or rounded to f32.
    void exact_when_wide() {
        Random random(2);
        bool holds = true;
        for (int i = 0; i < 5000; i++) {
            uint16_t a[16], b[16];
            Parts parts[16];
            const float start = static_cast<float>(random.normal());
            double sum = start;
            for (int j = 0; j < 16; j++) {
                a[j] = static_cast<uint16_t>(0x3f80 | random.below(256) | random.below(2) << 15);
                b[j] = static_cast<uint16_t>(0x3f80 | random.below(128) | random.below(2) << 15);
                parts[j] = product_of(a[j], b[j]);
                sum += double(bf16_value(a[j])) * bf16_value(b[j]);
            }
            const bool near = i % 2;
            const float got = accumulate(start, parts, 16, 35, near);
            // Far below the products, the start itself is cut off.
            const double exact = std::fabs(start) < 0x1p-9 ? got : to_f32(sum, near);
            holds = holds && got == exact;
        }
        expect(holds, "a wide model is the exact sum");
    }

    // The right candidate is found, alone, from what a candidate itself makes of fresh inputs.
    void models_are_told_apart() {
        for (const Model& truth : {Model{16, 25, false}, Model{8, 24, false}, Model{1, 0, true}}) {
            Random random(3);
            Fits fits;
            for (const Draw draw : kDraws) {
                const Case one = make_case(draw, 32, draw == Draw::kSparse, random);
                std::vector<Parts> parts(32);
                for (int i = 0; i < kRows * kColumns; i += 17) {
                    const uint16_t* a = &one.a[i / kColumns * 32];
                    const uint16_t* b = &one.b[i % kColumns * 32];
                    for (int j = 0; j < 32; j++) parts[j] = product_of(a[j], b[j]);
                    const float got = truth.dot(one.start[i], a, b, parts.data(), 32);
                    fits.see(one.start[i], a, b, 32, got);
                }
            }
            const std::vector<Fit> ranked = fits.ranked();
            expect(ranked[0].model.name() == truth.name() && ranked[0].wrong == 0,
                   "the right model is first");
            expect(ranked[1].wrong > 0, "no other model fits");
        }
    }

    void inputs() {
        Random random(4);
        for (const Draw draw : kDraws) {
            const Case one = make_case(draw, 64, false, random);
            bool finite = true, subnormal = false;
            for (const uint16_t x : one.a) {
                finite = finite && std::isfinite(bf16_value(x));
                subnormal = subnormal || ((x & 0x7f80) == 0 && (x & 0x7f));
            }
            for (const float x : one.start) finite = finite && std::isfinite(x);
            const Exact exact = exact_sums(one);
            std::set<int> rows, columns;
            for (size_t i = 0; i < exact.at.size(); i++) {
                finite = finite && exact.scale[i] < 0x1p127;
                rows.insert(exact.at[i] / kColumns);
                columns.insert(exact.at[i] % kColumns);
            }
            expect(finite, "inputs and sums are finite");
            expect(rows.size() == kRows && columns.size() == kColumns, "every row is checked");
            const bool wants = draw == Draw::kSpread || draw == Draw::kTiny;
            expect(subnormal == wants, "subnormals where they are wanted");
            // A sum by fused multiply-adds is near; one with two rows exchanged is not.
            std::vector<float> near(kRows * kColumns), moved(kRows * kColumns);
            for (int i = 0; i < kRows * kColumns; i++) {
                float sum = one.start[i];
                for (int k = 0; k < 64; k++) {
                    sum = std::fma(bf16_value(one.a[i / kColumns * 64 + k]),
                                   bf16_value(one.b[i % kColumns * 64 + k]), sum);
                }
                near[i] = sum;
                moved[(i + kColumns) % (kRows * kColumns)] = sum;
            }
            expect(error_share(exact, near, 64) <= 1e-5, "sums in f32 are near the exact ones");
            expect(error_share(exact, moved, 64) > 10 * kWrong, "moved rows are seen");
        }
    }

    void differences() {
        Random random(5);
        const Case one = make_case(Draw::kNormal, 16, true, random);
        std::vector<float> x(kRows * kColumns, 1), y = x;
        y[300] = std::nextafter(1.0f, 0.0f);
        Difference same, other;
        same.see(one, x, x);
        other.see(one, y, x);
        expect(same.differing == 0 && same.elements == x.size(), "equal bits are equal");
        expect(other.differing == 1 && other.most_ulps == 1 && other.examples.size() == 1 &&
                   other.most_relative == 0x1p-24,
               "a bit that differs is seen");
        expect(other.examples[0] ==
                   "normal, k 16, row 1, column 44: 0x3f7fffff against 0x3f800000",
               "an example names its place");
    }

    void chain() {
        const std::vector<uint32_t> start = chain_start(128, 6), end = chain_end(start);
        // 3^400 x + sum of 3^(399 - s) s, from the place 400 * 97 further on.
        uint32_t power = 1, added = 0;
        for (uint32_t step = 0; step < kNodes; step++) power *= 3, added = 3 * added + step;
        bool holds = true;
        for (int i = 0; i < 128; i++) {
            holds = holds &&
                    end[i] == power * start[(i + kNodes * kNeighbour) % 128] + added;
        }
        expect(holds, "the chain's closed form");
    }

    void json() {
        const std::string text = Object()
                                     .text("a\"", "b\\")
                                     .number("n", 0.25)
                                     .number("big", 1e9)
                                     .number("none", NAN)
                                     .boolean("yes", true)
                                     .raw("list", json_list({"1", "2"}))
                                     .done();
        expect(text == "{\"a\\\"\": \"b\\\\\", \"n\": 0.25, \"big\": 1000000000, \"none\": null, "
                       "\"yes\": true, \"list\": [1, 2]}",
               "JSON");
    }

    int checks_ = 0, failed_ = 0;
};
