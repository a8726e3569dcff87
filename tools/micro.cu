// Measures what decides the design of kernels for compute capability 9.0 (H100, H200).
//
//   nvcc -std=c++17 -O3 -lineinfo -gencode arch=compute_90a,code=sm_90a -o micro tools/micro.cu
//
//   micro [--seed N]           all of the following
//   micro bits [--seed N] [--dump FILE]
//                              whether mma.sync and wgmma give the same bits, and which model of
//                              their sums does; FILE gets sums of 16 products, one JSON a line
//   micro rates [--seed N]     peaks of tensor cores, L2, device memory and shared memory
//   micro graph [--seed N]     time a kernel of a chain, with and without programmatic launch
//   micro selftest             checks the host's models and the layouts; needs no GPU
//
// Prints lines for people, and after each part one line of JSON with all that is known by then: the
// last line that begins with `{` is the result. Without --seed, inputs differ from run to run; the
// seed is printed. Takes less than 25 seconds and 3 GB of device memory.
//
// Exit codes: 0 done (whatever the bits are); 1 something failed or gave wrong values; 2 wrong
// usage; 3 refused, as there is no GPU of compute capability 9.0.
//
// With the compiler of tools/cuda_toolchain.sh, add -L tools/.cuda/nvidia/cu13/lib.

#include <errno.h>

#include <chrono>

#include "micro/bits.cuh"
#include "micro/graph.cuh"
#include "micro/rates.cuh"
#include "micro/selftest.cuh"

namespace {

struct Options {
    std::string part = "all";
    uint64_t seed = 0;
    std::string dump;
};

constexpr const char* kUsage =
    "usage: micro [bits|rates|graph|selftest] [--seed N] [--dump FILE]\n";

// Whether the arguments make sense.
bool parse(int count, char** arguments, Options& options) {
    options.seed = std::chrono::system_clock::now().time_since_epoch().count();
    for (int i = 1; i < count; i++) {
        const std::string argument = arguments[i];
        if (argument == "--seed" && i + 1 < count) {
            char* end = nullptr;
            options.seed = strtoull(arguments[++i], &end, 10);
            if (*arguments[i] < '0' || *arguments[i] > '9' || *end) return false;
        } else if (argument == "--dump" && i + 1 < count) {
            options.dump = arguments[++i];
        } else if (i == 1 && (argument == "bits" || argument == "rates" || argument == "graph" ||
                              argument == "selftest")) {
            options.part = argument;
        } else {
            return false;
        }
    }
    return options.dump.empty() || options.part == "all" || options.part == "bits";
}

// Why this machine is not one to measure; empty where it is.
std::string refusal(cudaDeviceProp& properties) {
    int devices = 0;
    const cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess) return std::string("no GPU to be had: ") + cudaGetErrorString(code);
    if (devices == 0) return "no GPU to be had";
    CHECK(cudaGetDeviceProperties(&properties, 0));
    if (properties.major == 9 && properties.minor == 0) return "";
    return std::string(properties.name) + " has compute capability " +
           std::to_string(properties.major) + "." + std::to_string(properties.minor) +
           ", expected 9.0";
}

Object describe(const cudaDeviceProp& properties) {
    int driver = 0, runtime = 0;
    CHECK(cudaDriverGetVersion(&driver));
    CHECK(cudaRuntimeGetVersion(&runtime));
    printf("%s, %d SMs, %.0f MiB L2, driver for CUDA %d, runtime %d\n", properties.name,
           properties.multiProcessorCount, properties.l2CacheSize / 1048576.0, driver, runtime);
    return Object()
        .text("name", properties.name)
        .number("sms", properties.multiProcessorCount)
        .number("l2_bytes", properties.l2CacheSize)
        .number("driver", driver)
        .number("runtime", runtime);
}

class Report {
   public:
    Report(const Options& options, const Object& device) : options_(options) {
        all_.text("tool", "micro").text("seed", std::to_string(options.seed));
        all_.object("device", device);
    }

    // Runs part(result) if it was asked for. An error of one part is reported beside what was
    // known by then, and the next one tried.
    template <class Part>
    void part(const std::string& name, Part part) {
        if (options_.part != "all" && options_.part != name) return;
        const auto start = std::chrono::steady_clock::now();
        Object result;
        try {
            part(result);
        } catch (const std::exception& error) {
            fprintf(stderr, "error: %s: %s\n", name.c_str(), error.what());
            result.text("error", error.what());
            failed_ = true;
        }
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        result.number("seconds", time.count());
        all_.object(name, result);
        printf("%s: %.1f s\n%s\n", name.c_str(), time.count(), all_.done().c_str());
        fflush(stdout);
    }
    int code() const { return failed_ ? 1 : 0; }

   private:
    Options options_;
    Object all_;
    bool failed_ = false;
};

int measure(const Options& options) {
    cudaDeviceProp properties = {};
    const std::string why = refusal(properties);
    if (!why.empty()) {
        fprintf(stderr, "refused: %s\n", why.c_str());
        return 3;
    }
    FILE* dump = nullptr;
    if (!options.dump.empty()) {
        dump = fopen(options.dump.c_str(), "w");
        require(dump != nullptr, "cannot write " + options.dump + ": " + strerror(errno));
    }
    CHECK(cudaSetDevice(0));
    Report report(options, describe(properties));
    report.part("bits", [&](Object& result) {
        Bits bits(options.seed, dump);
        try {
            bits.run();
        } catch (const std::exception&) {
            result = bits.json();
            throw;
        }
        result = bits.json();
        require(!bits.any_wrong(), "a way gave wrong values (column `error`)");
    });
    if (dump) require(fclose(dump) == 0, "cannot write " + options.dump);
    report.part("rates", [&](Object& result) {
        Rates(properties.multiProcessorCount, options.seed).run(result);
    });
    report.part("graph", [&](Object& result) {
        Rates(properties.multiProcessorCount, options.seed).warm_up();
        run_graph(options.seed, result);
    });
    return report.code();
}

}  // namespace

int main(int count, char** arguments) {
    Options options;
    if (!parse(count, arguments, options)) {
        fputs(kUsage, stderr);
        return 2;
    }
    try {
        return options.part == "selftest" ? SelfTest().run() : measure(options);
    } catch (const std::exception& error) {
        fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
