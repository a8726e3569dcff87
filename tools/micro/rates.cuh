// Peak rates: tensor cores, L2, device memory, shared memory.
//
// Every loop is of volatile instructions, so that none is left out or moved out of it; what it made
// is written, and checked.
#pragma once

#include "mma.cuh"

// Cycles and nanoseconds that a block took, by its first thread.
struct Span {
    long long cycles, nanoseconds;
};

__device__ __forceinline__ long long nanoseconds_now() {
    long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
    return now;
}

class SpanOfBlock {
   public:
    __device__ __forceinline__ SpanOfBlock() {
        __syncthreads();
        nanoseconds_ = nanoseconds_now();
        cycles_ = clock64();
    }
    __device__ __forceinline__ void write(Span* spans) {
        __syncthreads();
        if (threadIdx.x == 0) {
            spans[blockIdx.x] = {clock64() - cycles_, nanoseconds_now() - nanoseconds_};
        }
    }

   private:
    long long cycles_, nanoseconds_;
};

// ---------------------------------------------------------------- tensor-core kernels

constexpr int kMmaTiles = 4;  // a warp holds 4 x 4 tiles of 16 x 8: 64 x 32, 16 independent sums
constexpr int kFragmentWords = kMmaTiles * 4 + kMmaTiles * 2;

// One block an SM. `fragments`: 24 words for each of the block's threads. out: a sum a thread.
__global__ void __launch_bounds__(512, 1) mma_rate(const uint32_t* fragments, float* out,
                                                   Span* spans, int iterations) {
    uint32_t a[kMmaTiles][4], b[kMmaTiles][2];
    const uint32_t* mine = fragments + threadIdx.x * kFragmentWords;
#pragma unroll
    for (int i = 0; i < kMmaTiles * 4; i++) a[i / 4][i % 4] = mine[i];
#pragma unroll
    for (int i = 0; i < kMmaTiles * 2; i++) b[i / 2][i % 2] = mine[kMmaTiles * 4 + i];
    float c[kMmaTiles][kMmaTiles][4] = {};
    SpanOfBlock span;
#pragma unroll 1
    for (int it = 0; it < iterations; it++) {
#pragma unroll
        for (int m = 0; m < kMmaTiles; m++) {
#pragma unroll
            for (int n = 0; n < kMmaTiles; n++) mma_k16(c[m][n], a[m], b[n]);
        }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kMmaTiles * kMmaTiles * 4; i++) sum += fabsf(c[i / 16][i / 4 % 4][i % 4]);
    span.write(spans);
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// One block an SM of GROUPS warpgroups. Each has its own A of 64 x 64, all share B of N x 64. An
// iteration is two k64: eight wgmma, one group, waited for. out: a sum a thread.
constexpr int kWgmmaOfIteration = 8;

template <int N, int GROUPS>
__global__ void __launch_bounds__(GROUPS * 128, 1)
    wgmma_rate(const uint16_t* elements, float* out, Span* spans, int iterations) {
    extern __shared__ unsigned char raw_shared[];
    const uint32_t first = shared_address(raw_shared), padding = (1024 - first % 1024) % 1024;
    for (int q = threadIdx.x; q < (GROUPS * 64 + N) * 8; q += GROUPS * 128) {
        *reinterpret_cast<uint4*>(raw_shared + padding + q * 16) =
            reinterpret_cast<const uint4*>(elements)[q];
    }
    fence_proxy_async();
    __syncthreads();
    const uint32_t tile_a = first + padding + threadIdx.x / 128 * (64 * 128);
    const uint32_t tile_b = first + padding + GROUPS * (64 * 128);
    float c[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) c[i] = 0;
    SpanOfBlock span;
#pragma unroll 1
    for (int it = 0; it < iterations; it++) {
        hold(c);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kWgmmaOfIteration; i++) {
            const int at = i % 4 * kStepKMajor;
            Wgmma<N>::ss(c, descriptor(tile_a + at), descriptor(tile_b + at));
        }
        wgmma_commit();
        wgmma_wait();
        hold(c);
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < N / 2; i++) sum += fabsf(c[i]);
    span.write(spans);
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// ---------------------------------------------------------------- memory kernels

constexpr int kLoads = 8, kReadThreads = 256;
constexpr int kUnit = kLoads * kReadThreads;  // 16-byte words of a unit: 32 KiB

__device__ __forceinline__ uint4 load_l2(const uint4* p) {
    uint4 x;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p));
    return x;
}

// Reads `count` units, number i being unit i % units of the buffer. The compiler keeps at least
// four loads of a thread under way: 64 KiB an SM with four blocks, more than keeps L2 busy.
// out: a checksum a thread.
__global__ void __launch_bounds__(kReadThreads) read_rate(const uint4* from, uint32_t units,
                                                          uint32_t count, uint32_t* out) {
    uint32_t all = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < count; unit += gridDim.x) {
        const uint4* at = from + size_t{unit % units} * kUnit + threadIdx.x;
        uint4 x[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; i++) x[i] = load_l2(at + i * kReadThreads);
#pragma unroll
        for (int i = 0; i < kLoads / 2; i++) {
            const uint4 y = x[kLoads - 1 - i];
            all = 3 * all + (x[i].x ^ y.x);
            all = 3 * all + (x[i].y ^ y.y);
            all = 3 * all + (x[i].z ^ y.z);
            all = 3 * all + (x[i].w ^ y.w);
        }
    }
    // The checksum may happen to be the poison.
    out[blockIdx.x * kReadThreads + threadIdx.x] = all == 0xffffffffu ? 0 : all;
}

__global__ void __launch_bounds__(kReadThreads) copy_rate(const uint4* from, uint4* to,
                                                          uint32_t units) {
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const size_t at = size_t{unit} * kUnit + threadIdx.x;
        uint4 x[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; i++) x[i] = load_l2(from + at + i * kReadThreads);
#pragma unroll
        for (int i = 0; i < kLoads; i++) to[at + i * kReadThreads] = x[i];
    }
}

// Word i of a filled buffer; never all ones.
__device__ __forceinline__ uint32_t word_of(size_t i) {
    return (static_cast<uint32_t>(i) * 2654435761u ^ static_cast<uint32_t>(i >> 32)) & 0x7fffffffu;
}
__global__ void fill_words(uint32_t* to, size_t count) {
    const size_t step = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
        to[i] = word_of(i);
    }
}
// wrong: the number of words that are not what fill_words wrote.
__global__ void count_wrong(const uint32_t* from, size_t count, unsigned long long* wrong) {
    unsigned long long mine = 0;
    const size_t step = size_t{gridDim.x} * blockDim.x;
    for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
        mine += from[i] != word_of(i);
    }
    if (mine) atomicAdd(wrong, mine);
}

constexpr int kLdmatrixBytes = 32 * 1024, kLdmatrixThreads = 512;

// One block an SM; each warp reads 512 bytes at a time without bank conflicts.
__global__ void __launch_bounds__(kLdmatrixThreads, 1)
    ldmatrix_rate(const uint32_t* from, uint32_t* out, Span* spans, int iterations) {
    __shared__ __align__(128) uint32_t tile[kLdmatrixBytes / 4];
    for (int i = threadIdx.x; i < kLdmatrixBytes / 4; i += kLdmatrixThreads) tile[i] = from[i];
    const uint32_t first = shared_address(tile) + threadIdx.x % 32 * 16;
    const uint32_t warp = threadIdx.x / 32;
    uint32_t all = 0;
    SpanOfBlock span;
#pragma unroll 1
    for (int it = 0; it < iterations; it++) {
        uint32_t x[8][4];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t at = first + ((warp + it + i * 8) % 64) * 512;
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3])
                         : "r"(at)
                         : "memory");
        }
#pragma unroll
        for (int i = 0; i < 8; i++) all += x[i][0] ^ x[i][1] ^ x[i][2] ^ x[i][3];
    }
    span.write(spans);
    out[blockIdx.x * kLdmatrixThreads + threadIdx.x] = all == 0xffffffffu ? 0 : all;
}

// ---------------------------------------------------------------- the measurement

struct TensorRate {
    double tflops, megahertz, flop_per_cycle;  // the last: of one SM
};

class Rates {
   public:
    Rates(int sms, uint64_t seed) : sms_(sms), random_(seed) {
        std::vector<uint32_t> words(1 << 15);
        for (uint32_t& word : words) {
            const uint32_t low = bf16_bits(static_cast<float>(random_.normal()));
            const uint32_t high = bf16_bits(static_cast<float>(random_.normal()));
            word = high << 16 | low;
        }
        words_.upload(words);
    }

    // Keeps the tensor cores busy, so that the clock has risen before anything is timed.
    void warm_up() {
        Buffer<float> out(sms_ * 256);
        Buffer<Span> spans(sms_);
        for (int i = 0; i < 300; i++) {
            mma_rate<<<sms_, 256>>>(words_.get(), out.get(), spans.get(), 10000);
            CHECK_LAUNCH();
        }
        CHECK(cudaDeviceSynchronize());
    }

    void run(Object& all) {
        warm_up();
        Object mma, wgmma;
        printf("rates: %d SMs\n", sms_);
        double best = 0;
        for (const int warps : {4, 8, 16}) {
            const TensorRate rate = time_mma(warps);
            best = std::max(best, rate.tflops);
            report("mma.sync m16n8k16, " + std::to_string(warps) + " warps an SM", rate);
            mma.object("warps_" + std::to_string(warps), json(rate));
        }
        mma.number("best_tflops", best);
        all.object("mma_m16n8k16", mma);
        time_wgmma_n<8>(wgmma);
        time_wgmma_n<16>(wgmma);
        time_wgmma_n<32>(wgmma);
        time_wgmma_n<64>(wgmma);
        time_wgmma_n<128>(wgmma);
        time_wgmma_n<256>(wgmma);
        all.object("wgmma_m64k16", wgmma);
        ldmatrix(all);
        memory(all);
    }

   private:
    static Object json(const TensorRate& rate) {
        return Object()
            .number("tflops", rate.tflops)
            .number("mhz", rate.megahertz)
            .number("flop_per_cycle_sm", rate.flop_per_cycle);
    }
    static void report(const std::string& what, const TensorRate& rate) {
        printf("  %-40s %7.1f TFLOP/s at %4.0f MHz, %4.0f FLOP a cycle and SM\n", what.c_str(),
               rate.tflops, rate.megahertz, rate.flop_per_cycle);
        fflush(stdout);
    }

    // Times `launch(iterations)`, whose blocks do `flop` an iteration, in runs of about `cycles`.
    template <class Launch>
    TensorRate time_tensor(const char* kernel, int threads, double flop, int iterations,
                           Launch launch) {
        Buffer<float> out(size_t(sms_) * threads);
        Buffer<Span> spans(sms_);
        const auto sums = [&](int count) {
            out.poison();
            launch(out.get(), spans.get(), count);
            CHECK_LAUNCH();
            return written(out, kernel);
        };
        // Each iteration adds the same products: five times the iterations, five times the sum.
        const std::vector<float> once = sums(4), more = sums(20);
        for (size_t i = 0; i < once.size(); i++) {
            require(once[i] > 0 && std::fabs(more[i] / once[i] - 5) < 1e-2,
                    std::string(kernel) + ": the sum does not grow with the iterations");
        }
        spans.poison();
        const double time = milliseconds(nullptr, 2, 9, [&] {
            launch(out.get(), spans.get(), iterations);
            CHECK_LAUNCH();
        });
        std::vector<double> clocks;
        double cycles = 0;
        for (const Span& span : written(spans, kernel)) {
            clocks.push_back(1e3 * span.cycles / std::max(span.nanoseconds, 1ll));
            cycles += static_cast<double>(span.cycles) / sms_;
        }
        written(out, kernel);
        const double work = flop * iterations;
        return {work * sms_ / time * 1e-9, median(clocks), work / cycles};
    }

    TensorRate time_mma(int warps) {
        const double flop = double(warps) * kMmaTiles * kMmaTiles * 16 * 8 * 16 * 2;
        return time_tensor("mma_rate", warps * 32, flop, 640000 / warps,
                           [&](float* out, Span* spans, int iterations) {
                               mma_rate<<<sms_, warps * 32>>>(words_.get(), out, spans, iterations);
                           });
    }

    template <int N, int GROUPS>
    TensorRate time_wgmma() {
        const int bytes = 1024 + (GROUPS * 64 + N) * 128;
        CHECK(cudaFuncSetAttribute(wgmma_rate<N, GROUPS>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
        // At the full rate one wgmma takes N / 2 cycles; small ones take longer.
        const int iterations = 8000000 / (std::max(N / 2, 32) * GROUPS * kWgmmaOfIteration);
        return time_tensor(
            "wgmma_rate", GROUPS * 128, double(GROUPS) * kWgmmaOfIteration * 64 * N * 16 * 2,
            iterations, [&](float* out, Span* spans, int count) {
                wgmma_rate<N, GROUPS><<<sms_, GROUPS * 128, bytes>>>(
                    reinterpret_cast<const uint16_t*>(words_.get()), out, spans, count);
            });
    }

    template <int N>
    void time_wgmma_n(Object& all) {
        Object object;
        double best = 0;
        const auto see = [&](int groups, const TensorRate& rate) {
            best = std::max(best, rate.tflops);
            report("wgmma m64n" + std::to_string(N) + "k16, " + std::to_string(groups) +
                       " warpgroups an SM",
                   rate);
            object.object("warpgroups_" + std::to_string(groups), json(rate));
        };
        see(1, time_wgmma<N, 1>());
        see(2, time_wgmma<N, 2>());
        // Accumulators of four would not fit the registers.
        if constexpr (N < 256) see(4, time_wgmma<N, 4>());
        object.number("best_tflops", best);
        all.object("n" + std::to_string(N), object);
    }

    // Terabytes a second of reading `count` units out of a buffer of `units`.
    double time_read(const Buffer<uint32_t>& from, uint32_t units, uint32_t count) {
        const int blocks = sms_ * 4;
        Buffer<uint32_t> out(size_t(blocks) * kReadThreads);
        out.poison();
        const double time = milliseconds(nullptr, 3, 9, [&] {
            read_rate<<<blocks, kReadThreads>>>(reinterpret_cast<const uint4*>(from.get()), units,
                                                count, out.get());
            CHECK_LAUNCH();
        });
        written(out, "read_rate");
        return double(count) * kUnit * 16 / time * 1e-9;
    }

    void memory(Object& all) {
        constexpr size_t kGiB = size_t{1} << 30;
        constexpr uint32_t kUnitsOfGiB = kGiB / 16 / kUnit, kUnitsOfL2 = kUnitsOfGiB * 24 / 1024;
        Buffer<uint32_t> from(kGiB / 4), to(kGiB / 4);
        fill_words<<<sms_ * 8, 256>>>(from.get(), from.size());
        CHECK_LAUNCH();
        const double l2 = time_read(from, kUnitsOfL2, kUnitsOfL2 * 256);
        const double read = time_read(from, kUnitsOfGiB, kUnitsOfGiB);
        to.poison();
        const double copy = 2 * kGiB * 1e-9 / milliseconds(nullptr, 2, 9, [&] {
            copy_rate<<<sms_ * 8, kReadThreads>>>(reinterpret_cast<const uint4*>(from.get()),
                                                  reinterpret_cast<uint4*>(to.get()), kUnitsOfGiB);
            CHECK_LAUNCH();
        });
        check_copy(to, "copy_rate");
        to.poison();
        const double driver = 2 * kGiB * 1e-9 / milliseconds(nullptr, 2, 9, [&] {
            CHECK(cudaMemcpyAsync(to.get(), from.get(), kGiB, cudaMemcpyDeviceToDevice, nullptr));
        });
        check_copy(to, "cudaMemcpyAsync");
        printf("  L2 read, 24 MiB over and over            %7.2f TB/s\n", l2);
        printf("  device memory read, 1 GiB                %7.2f TB/s\n", read);
        printf("  copy of 1 GiB, read + written            %7.2f TB/s (cudaMemcpyAsync %.2f)\n",
               copy, driver);
        all.number("l2_read_tb_s", l2)
            .number("hbm_read_tb_s", read)
            .number("hbm_copy_tb_s", copy)
            .number("hbm_memcpy_tb_s", driver);
    }

    void check_copy(const Buffer<uint32_t>& to, const char* what) {
        Buffer<unsigned long long> wrong(std::vector<unsigned long long>{0});
        count_wrong<<<sms_ * 8, 256>>>(to.get(), to.size(), wrong.get());
        CHECK_LAUNCH();
        CHECK(cudaDeviceSynchronize());
        const unsigned long long count = wrong.download()[0];
        require(count == 0, std::string(what) + ": " + std::to_string(count) + " words are wrong");
    }

    void ldmatrix(Object& all) {
        const int iterations = 20000;
        Buffer<uint32_t> out(size_t(sms_) * kLdmatrixThreads);
        Buffer<Span> spans(sms_);
        out.poison();
        spans.poison();
        milliseconds(nullptr, 2, 3, [&] {
            ldmatrix_rate<<<sms_, kLdmatrixThreads>>>(words_.get(), out.get(), spans.get(),
                                                      iterations);
            CHECK_LAUNCH();
        });
        written(out, "ldmatrix_rate");
        std::vector<double> rates;
        for (const Span& span : written(spans, "ldmatrix_rate")) {
            rates.push_back(double(kLdmatrixThreads / 32) * 8 * 512 * iterations / span.cycles);
        }
        const double rate = median(rates);
        printf("  shared memory by ldmatrix.x4             %7.1f B a cycle and SM\n", rate);
        all.number("ldmatrix_bytes_per_cycle_sm", rate);
    }

    int sms_;
    Random random_;
    Buffer<uint32_t> words_{1 << 15};
};
