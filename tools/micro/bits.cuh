// Whether the tensor-core instructions give the same bits, and which model of their sums does.
//
// D = start + A B for A [64, k] and B [256, k] (rows of k), all with k in ascending order. The
// whole of D is computed by every form of the instructions: of m64nNk16, block i does columns iN
// and on.
#pragma once

#include "mma.cuh"
#include "model.cuh"

constexpr int kRows = 64, kColumns = 256;

// ---------------------------------------------------------------- kernels

__device__ __forceinline__ uint32_t pair_at(const uint16_t* p) {
    return *reinterpret_cast<const uint32_t*>(p);
}

// Grid (4, 32), one warp: a tile of 16 rows and 8 columns, fragments straight from global memory.
template <bool K8>
__global__ void __launch_bounds__(32) mma_product(const uint16_t* a, const uint16_t* b,
                                                  const float* start, float* out, int k) {
    const int lane = threadIdx.x, row0 = blockIdx.x * 16, column0 = blockIdx.y * 8;
    float c[4];
    for (int i = 0; i < 4; i++) {
        const int row = row0 + accumulator_row(lane, i);
        c[i] = start[row * kColumns + column0 + accumulator_column(lane, i)];
    }
    for (int k0 = 0; k0 < k; k0 += 16) {
        uint32_t x[4], y[2];
        for (int i = 0; i < 4; i++) {
            x[i] = pair_at(a + (row0 + a_row(lane, i)) * k + k0 + a_column(lane, i));
        }
        for (int i = 0; i < 2; i++) {
            y[i] = pair_at(b + (column0 + b_column(lane)) * k + k0 + b_row(lane, i));
        }
        if (K8) {
            mma_k8(c, x[0], x[1], y[0]);
            mma_k8(c, x[2], x[3], y[1]);
        } else {
            mma_k16(c, x, y);
        }
    }
    for (int i = 0; i < 4; i++) {
        const int row = row0 + accumulator_row(lane, i);
        out[row * kColumns + column0 + accumulator_column(lane, i)] = c[i];
    }
}

enum class Form { kShared, kSharedMMajor, kRegisters };

// One k16 of the tile in shared memory: `at` is its number.
template <int N, Form FORM>
__device__ __forceinline__ void step(float (&c)[N / 2], const uint32_t (&x)[4], uint32_t tile_a,
                                     uint32_t tile_b, int at) {
    const uint64_t b = descriptor(tile_b + at * kStepKMajor);
    if (FORM == Form::kShared) Wgmma<N>::ss(c, descriptor(tile_a + at * kStepKMajor), b);
    if (FORM == Form::kSharedMMajor) {
        Wgmma<N>::ss_m_major(c, descriptor(tile_a + at * kStepMMajor), b);
    }
    if (FORM == Form::kRegisters) Wgmma<N>::rs(c, x, b);
}

// A's fragment of one k16 for wgmma with A in registers: as mma.sync's, 16 rows a warp.
template <Form FORM>
__device__ __forceinline__ void fragment(uint32_t (&x)[4], const uint16_t* a, int turn, int k,
                                         int k0) {
    if constexpr (FORM == Form::kRegisters) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = (a_row(threadIdx.x, i) + turn) % kRows;
            x[i] = pair_at(a + row * k + k0 + a_column(threadIdx.x, i));
        }
    }
}

// Grid 256 / N, one warpgroup. Row i of the tile is row (i + turn) % 64 of A and of D. `stepwise`
// waits after each k16; else the four of a k64 are one group (where k has a whole one).
template <int N, Form FORM>
__global__ void __launch_bounds__(128) wgmma_product(const uint16_t* a, const uint16_t* b,
                                                     const float* start, float* out, int k,
                                                     int turn, bool stepwise) {
    __shared__ unsigned char raw[1024 + (kRows + N) * 128];
    const uint32_t first = shared_address(raw), padding = (1024 - first % 1024) % 1024;
    unsigned char* tile_a = raw + padding;
    unsigned char* tile_b = tile_a + kRows * 128;
    const int column0 = blockIdx.x * N;
    float c[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const int row = (accumulator_row(threadIdx.x, i) + turn) % kRows;
        c[i] = start[row * kColumns + column0 + accumulator_column(threadIdx.x, i)];
    }
    for (int k0 = 0; k0 < k; k0 += 64) {
        const int depth = min(64, k - k0);
        for (int q = threadIdx.x; q < (kRows + N) * 8; q += 128) {
            const int row = q / 8, at = q % 8 * 8;
            if (at >= depth) continue;
            const uint16_t* from = row < kRows ? a + (row + turn) % kRows * k
                                               : b + (column0 + row - kRows) * k;
            const uint4 eight = *reinterpret_cast<const uint4*>(from + k0 + at);
            if (row >= kRows) {
                *reinterpret_cast<uint4*>(tile_b + k_major_byte(row - kRows, at)) = eight;
            } else if (FORM == Form::kShared) {
                *reinterpret_cast<uint4*>(tile_a + k_major_byte(row, at)) = eight;
            } else if (FORM == Form::kSharedMMajor) {
                const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    *reinterpret_cast<uint16_t*>(tile_a + m_major_byte(row, at + j)) =
                        static_cast<uint16_t>(words[j / 2] >> j % 2 * 16);
                }
            }
        }
        fence_proxy_async();
        __syncthreads();
        const uint32_t at_a = first + padding, at_b = at_a + kRows * 128;
        if (depth == 64 && !stepwise) {
            uint32_t x[4][4] = {};
#pragma unroll
            for (int at = 0; at < 4; at++) fragment<FORM>(x[at], a, turn, k, k0 + at * 16);
            hold(c);
            wgmma_fence();
#pragma unroll
            for (int at = 0; at < 4; at++) step<N, FORM>(c, x[at], at_a, at_b, at);
            wgmma_commit();
            wgmma_wait();
            hold(c);
        } else {
#pragma unroll 1
            for (int at = 0; at < depth / 16; at++) {
                uint32_t x[4] = {};
                fragment<FORM>(x, a, turn, k, k0 + at * 16);
                hold(c);
                wgmma_fence();
                step<N, FORM>(c, x, at_a, at_b, at);
                wgmma_commit();
                wgmma_wait();
                hold(c);
            }
        }
        // Nobody may overwrite what a warp's wgmma still reads.
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const int row = (accumulator_row(threadIdx.x, i) + turn) % kRows;
        out[row * kColumns + column0 + accumulator_column(threadIdx.x, i)] = c[i];
    }
}

// ---------------------------------------------------------------- inputs

enum class Draw { kNormal, kCancelling, kSpread, kTiny, kSparse };
constexpr Draw kDraws[] = {Draw::kNormal, Draw::kCancelling, Draw::kSpread, Draw::kTiny,
                           Draw::kSparse};

inline const char* name_of(Draw draw) {
    switch (draw) {
        case Draw::kNormal: return "normal";
        case Draw::kCancelling: return "2^-20..2^20, cancelling";
        case Draw::kSpread: return "2^-133..2^58";
        case Draw::kTiny: return "products near 2^-126";
        case Draw::kSparse: return "normal, half zeros";
    }
    return "";
}

// An element of A (`of_b` false) or B.
inline uint16_t draw_element(Draw draw, Random& random, bool of_b) {
    const auto with_exponent = [&](int field) {
        const uint32_t rest = random.below(256);
        return static_cast<uint16_t>((rest & 0x80) << 8 | field << 7 | (rest & 0x7f));
    };
    switch (draw) {
        case Draw::kNormal: return bf16_bits(static_cast<float>(random.normal()));
        case Draw::kCancelling: return with_exponent(107 + random.below(41));
        case Draw::kSpread: return with_exponent(random.below(186));
        case Draw::kTiny: return with_exponent(of_b ? 117 + random.below(21) : random.below(9));
        case Draw::kSparse:
            return random.below(2) ? bf16_bits(static_cast<float>(random.normal())) : 0;
    }
    return 0;
}

struct Case {
    Draw draw;
    int k;
    bool zero_start;
    std::vector<uint16_t> a, b;
    std::vector<float> start;
};

inline Case make_case(Draw draw, int k, bool zero_start, Random& random) {
    Case one{draw, k, zero_start, {}, {}, {}};
    for (int i = 0; i < kRows * k; i++) one.a.push_back(draw_element(draw, random, false));
    for (int i = 0; i < kColumns * k; i++) one.b.push_back(draw_element(draw, random, true));
    if (draw == Draw::kCancelling) {
        // Half of the products have one of about the same size and the other sign k / 2 later.
        for (int i = 0; i < k / 2; i++) {
            if (random.below(2)) continue;
            for (int r = 0; r < kRows; r++) one.a[r * k + i + k / 2] = one.a[r * k + i] ^ 0x8000;
            for (int r = 0; r < kColumns; r++) {
                one.b[r * k + i + k / 2] =
                    static_cast<uint16_t>(one.b[r * k + i] ^ random.below(4));
            }
        }
    }
    for (int i = 0; i < kRows * kColumns; i++) {
        const float x = bf16_value(draw_element(draw, random, false));
        const float y = bf16_value(draw_element(draw, random, true));
        // A product has 16 significant bits: the lower ones are filled.
        one.start.push_back(zero_start ? 0 : float_of(bits_of(x * y) | random.below(256)));
    }
    return one;
}

// ---------------------------------------------------------------- comparisons

struct Difference {
    uint64_t elements = 0, differing = 0, most_ulps = 0;
    double most_relative = 0;
    std::vector<std::string> examples;

    void see(const Case& one, const std::vector<float>& got, const std::vector<float>& expected) {
        for (size_t i = 0; i < got.size(); i++) {
            elements++;
            if (bits_of(got[i]) == bits_of(expected[i])) continue;
            differing++;
            const double apart = std::fabs(static_cast<double>(got[i]) - expected[i]);
            most_ulps = std::max(most_ulps, ulps(got[i], expected[i]));
            if (expected[i] != 0) {
                most_relative = std::max(most_relative, apart / std::fabs(double{expected[i]}));
            }
            if (examples.size() < 4) {
                examples.push_back(std::string(name_of(one.draw)) + ", k " +
                                   std::to_string(one.k) + ", row " +
                                   std::to_string(i / kColumns) + ", column " +
                                   std::to_string(i % kColumns) + ": " + hex(bits_of(got[i]), 8) +
                                   " against " + hex(bits_of(expected[i]), 8));
            }
        }
    }
};

// Sums in f64 of a fourth of D's elements, every row and column among them, and their scales.
struct Exact {
    std::vector<int> at;
    std::vector<double> value, scale;
};

inline Exact exact_sums(const Case& one) {
    const auto values = [](const std::vector<uint16_t>& from) {
        std::vector<double> to;
        for (const uint16_t x : from) to.push_back(bf16_value(x));
        return to;
    };
    const std::vector<double> a = values(one.a), b = values(one.b);
    Exact exact;
    for (int i = 0; i < kRows * kColumns; i++) {
        const int row = i / kColumns, column = i % kColumns;
        if ((row + column) % 4) continue;
        double sum = one.start[i], scale = std::fabs(sum);
        for (int j = 0; j < one.k; j++) {
            const double product = a[row * one.k + j] * b[column * one.k + j];
            sum += product;
            scale += std::fabs(product);
        }
        exact.at.push_back(i);
        exact.value.push_back(sum);
        exact.scale.push_back(scale);
    }
    return exact;
}

// Largest error as a share of the sum of magnitudes. What subnormals cannot hold is no error. Above
// kWrong it is no rounding: a layout or a descriptor is wrong.
constexpr double kWrong = 2e-3;
inline double error_share(const Exact& exact, const std::vector<float>& got, int k) {
    double worst = 0;
    for (size_t i = 0; i < exact.at.size(); i++) {
        const double value = got[exact.at[i]];
        if (!std::isfinite(value)) return INFINITY;
        const double error = std::fabs(value - exact.value[i]) - k * 0x1p-149;
        if (error > 0) worst = std::max(worst, error / exact.scale[i]);
    }
    return worst;
}

// ---------------------------------------------------------------- the measurement

struct Inputs {
    const uint16_t *a, *b;
    const float* start;
    float* out;
    int k;
};

template <bool K8>
void run_mma(const Inputs& x) {
    mma_product<K8><<<dim3(kRows / 16, kColumns / 8), 32>>>(x.a, x.b, x.start, x.out, x.k);
}
template <int N, Form FORM, int TURN = 0, bool STEPWISE = false>
void run_wgmma(const Inputs& x) {
    wgmma_product<N, FORM><<<kColumns / N, 128>>>(x.a, x.b, x.start, x.out, x.k, TURN, STEPWISE);
}

// A way to compute D, and the number of the way its bits are compared with.
struct Way {
    const char* name;
    int against;
    void (*run)(const Inputs&);
};

enum : int {
    kMma = 0,
    kWgmma = 1,
    kFirstN = 2,
    kLastN = 6,
    kFirstRegisters = 10,
    kFirstMMajor = 12,
    kMmaTwice = 14
};
constexpr Way kWays[] = {
    {"mma_m16n8k16", kMma, run_mma<false>},
    {"wgmma_n256", kMma, run_wgmma<256, Form::kShared>},
    {"wgmma_n8", kWgmma, run_wgmma<8, Form::kShared>},
    {"wgmma_n16", kWgmma, run_wgmma<16, Form::kShared>},
    {"wgmma_n32", kWgmma, run_wgmma<32, Form::kShared>},
    {"wgmma_n64", kWgmma, run_wgmma<64, Form::kShared>},
    {"wgmma_n128", kWgmma, run_wgmma<128, Form::kShared>},
    {"wgmma_n256_again", kWgmma, run_wgmma<256, Form::kShared>},
    {"wgmma_n256_rows_moved", kWgmma, run_wgmma<256, Form::kShared, 13>},
    {"wgmma_n256_wait_each_k16", kWgmma, run_wgmma<256, Form::kShared, 0, true>},
    {"wgmma_n8_a_in_registers", kWgmma, run_wgmma<8, Form::kRegisters>},
    {"wgmma_n128_a_in_registers", kWgmma, run_wgmma<128, Form::kRegisters>},
    {"wgmma_n8_a_m_major", kWgmma, run_wgmma<8, Form::kSharedMMajor>},
    {"wgmma_n128_a_m_major", kWgmma, run_wgmma<128, Form::kSharedMMajor>},
    {"mma_m16n8k8_twice", kMma, run_mma<true>},
};
constexpr int kWayCount = sizeof kWays / sizeof kWays[0];
static_assert(kWayCount == kMmaTwice + 1, "the numbers above are places in this table");

class Bits {
   public:
    Bits(uint64_t seed, FILE* dump) : seed_(seed), random_(seed), dump_(dump) {}

    void run() {
        printf("bits: D = start + A B, 64 x 256, seed %llu\n", (unsigned long long)seed_);
        const int depths[] = {16, 64, 576, 4096}, rounds[] = {4, 4, 2, 1};
        for (int d = 0; d < 4; d++) {
            for (const Draw draw : kDraws) {
                for (int round = 0; round < rounds[d]; round++) {
                    see(make_case(draw, depths[d], round % 2 == 0, random_));
                }
            }
            fflush(stdout);
        }
        report();
    }

    // Whether a way's values are no values of this product at all.
    bool any_wrong() const {
        return std::any_of(errors_, errors_ + kWayCount, [](double x) { return !(x <= kWrong); });
    }

    Object json() const {
        Object differences, errors, verdict, all;
        for (int i = 0; i < kWayCount; i++) {
            errors.number(kWays[i].name, errors_[i]);
            if (i == kMma) continue;
            std::vector<std::string> examples;
            for (const std::string& example : differences_[i].examples) {
                examples.push_back(json_text(example));
            }
            differences.object(kWays[i].name,
                               Object()
                                   .text("against", kWays[kWays[i].against].name)
                                   .number("elements", differences_[i].elements)
                                   .number("differing", differences_[i].differing)
                                   .number("most_ulps", differences_[i].most_ulps)
                                   .number("most_relative", differences_[i].most_relative)
                                   .text("verdict", word(i, i))
                                   .raw("examples", json_list(examples)));
        }
        verdict.text("wgmma_across_n", word(kFirstN, kLastN))
            .text("wgmma_and_mma", word(kWgmma, kWgmma))
            .text("wgmma_a_in_registers", word(kFirstRegisters, kFirstRegisters + 1))
            .text("wgmma_a_m_major", word(kFirstMMajor, kFirstMMajor + 1))
            .text("mma_k16_and_two_k8", word(kMmaTwice, kMmaTwice))
            .text("best_model_mma", sentence(mma_fits_))
            .text("best_model_wgmma", sentence(wgmma_fits_));
        return all.text("seed", std::to_string(seed_))
            .object("verdict", verdict)
            .object("differences", differences)
            .object("error_shares", errors)
            .raw("models_mma", models(mma_fits_))
            .raw("models_wgmma", models(wgmma_fits_))
            .raw("cases", json_list(cases_));
    }

   private:
    void see(const Case& one) {
        const Buffer<uint16_t> a(one.a), b(one.b);
        const Buffer<float> start(one.start);
        Buffer<float> out(kRows * kColumns);
        const Exact exact = exact_sums(one);
        std::vector<std::vector<float>> got(kWayCount);
        Object differing;
        for (int i = 0; i < kWayCount; i++) {
            out.poison();
            kWays[i].run({a.get(), b.get(), start.get(), out.get(), one.k});
            CHECK_LAUNCH();
            got[i] = written(out, kWays[i].name);
            const double error = error_share(exact, got[i], one.k);
            if (!(error <= errors_[i])) errors_[i] = error;
            if (i == kMma) continue;
            const uint64_t before = differences_[i].differing;
            differences_[i].see(one, got[i], got[kWays[i].against]);
            const uint64_t now = differences_[i].differing - before;
            if (now) differing.number(kWays[i].name, static_cast<double>(now));
        }
        cases_.push_back(Object()
                             .text("draw", name_of(one.draw))
                             .number("k", one.k)
                             .text("start", one.zero_start ? "zero" : "drawn")
                             .object("differing", differing)
                             .done());
        fit(one, got[kMma], got[kWgmma]);
        if (dump_ && one.k == 16) write_dump(one, got[kMma], got[kWgmma]);
    }

    // Tries the models on a sample that covers rows and columns.
    void fit(const Case& one, const std::vector<float>& mma, const std::vector<float>& wgmma) {
        const int count = one.k <= 64 ? 1024 : one.k <= 576 ? 128 : 32;
        const int offset = random_.below(kRows * kColumns);
        for (int j = 0; j < count; j++) {
            const int i = (offset + j * 2731) % (kRows * kColumns);
            const uint16_t* a = &one.a[i / kColumns * one.k];
            const uint16_t* b = &one.b[i % kColumns * one.k];
            mma_fits_.see(one.start[i], a, b, one.k, mma[i]);
            wgmma_fits_.see(one.start[i], a, b, one.k, wgmma[i]);
        }
    }

    // Sums of 16 products with what the hardware made of them: one JSON object a line.
    void write_dump(const Case& one, const std::vector<float>& mma,
                    const std::vector<float>& wgmma) {
        for (int i = 0; i < kRows * kColumns; i += 257) {
            std::string a, b;
            for (int j = 0; j < 16; j++) {
                a += hex(one.a[i / kColumns * 16 + j], 4).substr(2);
                b += hex(one.b[i % kColumns * 16 + j], 4).substr(2);
            }
            const Object line = Object()
                                    .text("draw", name_of(one.draw))
                                    .text("a", a)
                                    .text("b", b)
                                    .text("start", hex(bits_of(one.start[i]), 8).substr(2))
                                    .text("mma", hex(bits_of(mma[i]), 8).substr(2))
                                    .text("wgmma", hex(bits_of(wgmma[i]), 8).substr(2));
            require(fprintf(dump_, "%s\n", line.done().c_str()) > 0, "cannot write the dump file");
        }
    }

    // Of ways first..last against what each is compared with.
    std::string word(int first, int last) const {
        bool equal = true;
        for (int i = first; i <= last; i++) {
            if (differences_[i].elements == 0) return "not tested";
            if (!(errors_[i] <= kWrong) || !(errors_[kWays[i].against] <= kWrong)) {
                return "wrong values";
            }
            equal = equal && differences_[i].differing == 0;
        }
        return equal ? "equal" : "differs";
    }

    static std::string sentence(const Fits& fits) {
        const std::vector<Fit> ranked = fits.ranked();
        std::string text = ranked[0].model.name() + ": " + std::to_string(ranked[0].wrong) +
                           " wrong of " + std::to_string(ranked[0].tested);
        for (size_t i = 1; i < ranked.size() && ranked[i].wrong == 0; i++) {
            text += "; also " + ranked[i].model.name();
        }
        return text;
    }

    static std::string models(const Fits& fits) {
        std::vector<std::string> items;
        for (const Fit& fit : fits.ranked()) {
            items.push_back(Object()
                                .text("model", fit.model.name())
                                .number("block", fit.model.block)
                                .number("fraction_bits", fit.model.fraction)
                                .boolean("to_nearest", fit.model.nearest)
                                .number("wrong", static_cast<double>(fit.wrong))
                                .number("tested", static_cast<double>(fit.tested))
                                .done());
        }
        return json_list(items);
    }

    static void report_models(const char* engine, const Fits& fits) {
        printf("  models of %s:\n", engine);
        const std::vector<Fit> ranked = fits.ranked();
        for (int i = 0; i < 5; i++) {
            printf("      %-40s %llu wrong of %llu\n", ranked[i].model.name().c_str(),
                   (unsigned long long)ranked[i].wrong, (unsigned long long)ranked[i].tested);
        }
    }

    void report() const {
        printf("  %-27s %-13s %10s %10s %9s %10s %10s\n", "way", "against", "elements", "differing",
               "ulps", "relative", "error");
        for (int i = 0; i < kWayCount; i++) {
            const Difference& x = differences_[i];
            printf("  %-27s %-13s %10llu %10llu %9llu %10.2e %10.2e\n", kWays[i].name,
                   i == kMma ? "-" : kWays[kWays[i].against].name, (unsigned long long)x.elements,
                   (unsigned long long)x.differing, (unsigned long long)x.most_ulps,
                   x.most_relative, errors_[i]);
            for (const std::string& example : x.examples) printf("      %s\n", example.c_str());
        }
        report_models("mma.sync", mma_fits_);
        report_models("wgmma", wgmma_fits_);
        printf("wgmma across N: %s\n", word(kFirstN, kLastN).c_str());
        printf("wgmma = mma.sync: %s\n", word(kWgmma, kWgmma).c_str());
        printf("wgmma with A in registers: %s\n",
               word(kFirstRegisters, kFirstRegisters + 1).c_str());
        printf("wgmma with A M-major: %s\n", word(kFirstMMajor, kFirstMMajor + 1).c_str());
        printf("m16n8k16 = two m16n8k8: %s\n", word(kMmaTwice, kMmaTwice).c_str());
        printf("best model: mma.sync %s | wgmma %s\n", sentence(mma_fits_).c_str(),
               sentence(wgmma_fits_).c_str());
    }

    uint64_t seed_;
    Random random_;
    FILE* dump_;
    Difference differences_[kWayCount];
    double errors_[kWayCount] = {};
    Fits mma_fits_, wgmma_fits_;
    std::vector<std::string> cases_;
};
