// Rotary position embedding (Su et al. 2021, half-split) of q and k in place, its inverse for the gradients, and the write of K and V to the row's page.
//
//   (a, b) -> (a cos - b sin, b cos + a sin)   for the pairs (i, i + half) of each of the H + K first heads of a row q | k | v
//
// qkv bf16 [R, (H + 2 K) D], cos and sin f32 [table_rows, half] by the plan's rope_rows, rows beyond them in its rope_extra, 2 half <= D, D a multiple of 8; the inverse takes -sin. With pages, K (after the rotation)
// and V go to keys and values, each bf16 [pages, page_tokens, K D]. The values are rounded once: page and qkv hold the same bits.
//
// A row is cut into units: N pairs of a head; with pages also M elements of the rest of a key head beyond 2 half (nothing where the rotation is of the whole
// head) and 8 elements of V. N is 8 where half is a multiple of 8, so that both sides of the pairs are 16 bytes, 4 where it is one of 4 (head sizes such as 24
// or 40), 1 otherwise; M is 8, or 1 with N = 1. The grid has one thread a unit. A unit reads and writes only its own elements. No shared memory.
#include "plan.cuh"

struct RopeParams {
    const Plan* plan;
    bf16* qkv;
    const float* cos;
    const float* sin;
    bf16* keys;  // null: no pages
    bf16* values;
    uint32_t heads, kv_heads, head_dim, half, page_tokens, inverse, table_rows, unused;
};

constexpr int kThreads = 256;

// N bf16 at once.
template <int N>
struct Group;
template <>
struct Group<8> {
    uint4 v;
};
template <>
struct Group<4> {
    uint2 v;
};
template <>
struct Group<1> {
    bf16 v;
};
template <int N>
DEVICE Group<N> load_group(const bf16* from) {
    return *reinterpret_cast<const Group<N>*>(from);
}
template <int N>
DEVICE void store_group(bf16* to, Group<N> x) {
    *reinterpret_cast<Group<N>*>(to) = x;
}

DEVICE void unpack(const Group<8>& x, float (&f)[8]) { unpack_8(x.v, f); }
DEVICE void unpack(const Group<4>& x, float (&f)[4]) {
    f[0] = low_bf16(x.v.x);
    f[1] = high_bf16(x.v.x);
    f[2] = low_bf16(x.v.y);
    f[3] = high_bf16(x.v.y);
}
DEVICE void unpack(const Group<1>& x, float (&f)[1]) { f[0] = to_float(x.v); }
DEVICE Group<8> pack(const float (&f)[8]) { return {pack_8(f)}; }
DEVICE Group<4> pack(const float (&f)[4]) { return {make_uint2(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]))}; }
DEVICE Group<1> pack(const float (&f)[1]) { return {to_bf16(f[0])}; }

// N numbers of a table that may start at any multiple of N numbers.
template <int N>
DEVICE void load_table(const float* from, float (&f)[N]) {
    if constexpr (N == 1) {
        f[0] = *from;
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const uint4 v = load_16(from + i);
            f[i] = bits_float(v.x);
            f[i + 1] = bits_float(v.y);
            f[i + 2] = bits_float(v.z);
            f[i + 3] = bits_float(v.w);
        }
    }
}

// First element of the row's position in the keys (and values).
DEVICE uint64_t page_row(const RopeParams& p, uint32_t row) {
    const Sequence& sequence = p.plan->sequences[p.plan->row_sequence[row]];
    const uint32_t position = sequence.first_position + (row - sequence.start);
    const uint64_t page = p.plan->page_table[sequence.pages_start + position / p.page_tokens];
    return (page * p.page_tokens + position % p.page_tokens) * (p.kv_heads * p.head_dim);
}

template <int N>
DEVICE void run(const RopeParams& p) {
    constexpr uint32_t M = N == 1 ? 1 : 8;
    const uint32_t q_width = p.heads * p.head_dim, kv_width = p.kv_heads * p.head_dim;
    const uint32_t head_units = p.half / N, rest_units = (p.head_dim - 2 * p.half) / M;
    const uint32_t rotated = (p.heads + p.kv_heads) * head_units;
    const uint32_t rest = p.keys ? p.kv_heads * rest_units : 0, copied = p.keys ? kv_width / 8 : 0;
    const uint32_t units = rotated + rest + copied;
    const uint64_t index = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const uint64_t at = index / units;
    if (at >= p.plan->rows) return;
    const uint32_t row = static_cast<uint32_t>(at);
    uint32_t unit = static_cast<uint32_t>(index - at * units);
    bf16* line = p.qkv + at * (q_width + 2 * kv_width);

    if (unit < rotated) {
        const uint32_t head = unit / head_units, i = (unit - head * head_units) * N;
        const uint32_t turn = p.plan->rope_rows[row];
        const float *cosines, *sines;
        if (turn < p.table_rows) {
            const uint64_t angle = static_cast<uint64_t>(turn) * p.half + i;
            cosines = p.cos + angle;
            sines = p.sin + angle;
        } else {
            cosines = p.plan->rope_extra + static_cast<uint64_t>(turn - p.table_rows) * (2 * p.half) + i;
            sines = cosines + p.half;
        }
        bf16* first = line + head * p.head_dim + i;
        bf16* second = first + p.half;
        float a[N], b[N], c[N], s[N], x[N], y[N];
        unpack(load_group<N>(first), a);
        unpack(load_group<N>(second), b);
        load_table<N>(cosines, c);
        load_table<N>(sines, s);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float sine = p.inverse ? -s[j] : s[j];
            x[j] = fmaf(-b[j], sine, a[j] * c[j]);
            y[j] = fmaf(a[j], sine, b[j] * c[j]);
        }
        store_group<N>(first, pack(x));
        store_group<N>(second, pack(y));
        if (p.keys && head >= p.heads) {
            bf16* key = p.keys + page_row(p, row) + (head - p.heads) * p.head_dim + i;
            store_group<N>(key, pack(x));
            store_group<N>(key + p.half, pack(y));
        }
        return;
    }
    unit -= rotated;
    if (unit < rest) {
        const uint32_t head = unit / rest_units, i = head * p.head_dim + 2 * p.half + (unit - head * rest_units) * M;
        store_group<M>(p.keys + page_row(p, row) + i, load_group<M>(line + q_width + i));
        return;
    }
    const uint32_t i = (unit - rest) * 8;
    store_group<8>(p.values + page_row(p, row) + i, load_group<8>(line + q_width + kv_width + i));
}

KERNEL(rope_8, RopeParams, kThreads, 1) { run<8>(p); }
KERNEL(rope_4, RopeParams, kThreads, 1) { run<4>(p); }
KERNEL(rope_1, RopeParams, kThreads, 1) { run<1>(p); }
