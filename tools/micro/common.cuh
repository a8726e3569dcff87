// What every part of micro leans on: checked calls, device buffers, timing, random numbers, JSON.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// ---------------------------------------------------------------- errors

inline void require(bool holds, const std::string& otherwise) {
    if (!holds) throw std::runtime_error(otherwise);
}

inline void check(cudaError_t code, const char* call, const char* file, int line) {
    if (code == cudaSuccess) return;
    throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + call + ": " +
                             cudaGetErrorName(code) + " (" + cudaGetErrorString(code) + ")");
}
#define CHECK(call) check((call), #call, __FILE__, __LINE__)
// After a launch: whether it was accepted. Whether it ran is told by the next wait.
#define CHECK_LAUNCH() check(cudaGetLastError(), "kernel launch", __FILE__, __LINE__)

// ---------------------------------------------------------------- device memory and streams

// Device memory of `size` elements, freed at the end of its scope.
template <class T>
class Buffer {
   public:
    explicit Buffer(size_t size) : size_(size) { CHECK(cudaMalloc(&data_, size * sizeof(T))); }
    explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) { upload(from); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { (void)cudaFree(data_); }
    T* get() const { return data_; }
    size_t size() const { return size_; }
    size_t bytes() const { return size_ * sizeof(T); }
    void upload(const std::vector<T>& from) {
        require(from.size() == size_, "Buffer::upload: sizes differ");
        CHECK(cudaMemcpy(data_, from.data(), bytes(), cudaMemcpyHostToDevice));
    }
    std::vector<T> download() const {
        std::vector<T> to(size_);
        CHECK(cudaMemcpy(to.data(), data_, bytes(), cudaMemcpyDeviceToHost));
        return to;
    }
    // Sets every bit, so that an element that no kernel writes is found.
    void poison() { CHECK(cudaMemset(data_, 0xff, bytes())); }

   private:
    T* data_ = nullptr;
    size_t size_;
};

// Waits for the device and returns what a kernel wrote. Every element was poisoned before; one that
// still is was not written. (The hardware's own NaN is 0x7fffffff, not 0xffffffff.)
template <class T>
std::vector<T> written(const Buffer<T>& buffer, const char* kernel) {
    CHECK(cudaDeviceSynchronize());
    const std::vector<T> values = buffer.download();
    size_t missing = 0;
    const unsigned char poison[sizeof(T)] = {};
    for (const T& value : values) {
        unsigned char bytes[sizeof(T)];
        memcpy(bytes, &value, sizeof(T));
        for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(~byte);
        missing += memcmp(bytes, poison, sizeof(T)) == 0;
    }
    require(missing == 0, std::string(kernel) + " left " + std::to_string(missing) + " of " +
                              std::to_string(values.size()) + " elements unwritten");
    return values;
}

class Stream {
   public:
    Stream() { CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { (void)cudaStreamDestroy(stream_); }
    operator cudaStream_t() const { return stream_; }

   private:
    cudaStream_t stream_ = nullptr;
};

// ---------------------------------------------------------------- timing

inline double median(std::vector<double> values) {
    require(!values.empty(), "median of nothing");
    std::sort(values.begin(), values.end());
    const size_t half = values.size() / 2;
    return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Median milliseconds of `work` on the stream, by events, after `warm` runs that are not counted.
template <class Work>
double milliseconds(cudaStream_t stream, int warm, int repeats, Work work) {
    cudaEvent_t start, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    std::vector<double> times;
    for (int i = 0; i < warm + repeats; i++) {
        CHECK(cudaEventRecord(start, stream));
        work();
        CHECK(cudaEventRecord(stop, stream));
        CHECK(cudaEventSynchronize(stop));
        float time = 0;
        CHECK(cudaEventElapsedTime(&time, start, stop));
        if (i >= warm) times.push_back(time);
    }
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
    return median(times);
}

// ---------------------------------------------------------------- random numbers

// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
   public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    // In [0, below).
    uint32_t below(uint32_t below) { return static_cast<uint32_t>((next() >> 32) * below >> 32); }
    // In (0, 1).
    double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
    double normal() {
        return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
    }

   private:
    uint64_t state_;
};

// ---------------------------------------------------------------- numbers as bits

inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline float bf16_value(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
// Rounds a finite value to nearest even.
inline uint16_t bf16_bits(float x) {
    const uint32_t bits = bits_of(x);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline std::string hex(uint32_t bits, int digits) {
    char text[16];
    snprintf(text, sizeof text, "0x%0*x", digits, bits);
    return text;
}
// Places between two finite f32 in the order of all f32; -0 and +0 are no places apart.
inline uint64_t ulps(float a, float b) {
    const auto place = [](float x) {
        const uint32_t bits = bits_of(x);
        const int64_t magnitude = bits & 0x7fffffffu;
        return bits >> 31 ? -magnitude : magnitude;
    };
    const int64_t apart = place(a) - place(b);
    return static_cast<uint64_t>(apart < 0 ? -apart : apart);
}

// ---------------------------------------------------------------- JSON

inline std::string json_text(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return out + "\"";
}

inline std::string json_number(double x) {
    if (!std::isfinite(x)) return "null";
    char text[40];
    if (x == std::floor(x) && std::fabs(x) < 1e15) {
        snprintf(text, sizeof text, "%.0f", x);
    } else {
        snprintf(text, sizeof text, "%.6g", x);
    }
    return text;
}

// A JSON object, field after field; `done` is its text on one line.
class Object {
   public:
    Object& raw(const std::string& key, const std::string& value) {
        body_ += (body_.empty() ? "" : ", ") + json_text(key) + ": " + value;
        return *this;
    }
    Object& text(const std::string& key, const std::string& value) {
        return raw(key, json_text(value));
    }
    Object& number(const std::string& key, double value) { return raw(key, json_number(value)); }
    Object& boolean(const std::string& key, bool value) {
        return raw(key, value ? "true" : "false");
    }
    Object& object(const std::string& key, const Object& value) { return raw(key, value.done()); }
    std::string done() const { return "{" + body_ + "}"; }

   private:
    std::string body_;
};

inline std::string json_list(const std::vector<std::string>& items) {
    std::string out = "[";
    for (size_t i = 0; i < items.size(); i++) out += (i ? ", " : "") + items[i];
    return out + "]";
}
