// Causal attention with grouped heads and a sliding window, over packed sequences and over pages (Dao 2023, arXiv 2307.08691; the online softmax is Milakov &
// Gimelshein 2018, arXiv 1805.02867).
//
//   out[r, h] = softmax(scale q[r, h] k[j, h / G]) v[j, h / G]       over the positions j that row r sees, G = H / K query heads share a key/value head
//
// q, k, v: [R, (H + 2 K) D] bf16 (packed), or k and v in pages [pages, page_tokens, K D]; out [R, H D]. Head sizes 8 .. 128, multiples of 8.
//
// Same bits for a row wherever it is computed: positions are taken in tiles of 64 and splits of 512, both counted from position 0 of the sequence. Within a split
// (m, l, o) start afresh and take the tiles in ascending order; splits merge in ascending order (merge below). One routine does a tile for every kernel:
// scores, maximum, exponentials and sums of a row lie in the same lanes of one warp, and an output column sums over the same 16 positions at a time. A tile
// or split that a row does not see leaves its (m, l, o) alone.
//
// Kernels, 128 threads each, head size padded to 32, 64, 96, 128 in shared memory:
//   attend_rows    a block takes up to 64 rows of one sequence and one query head (16 a warp) through all tiles that they see. For training, scoring and
//                  prefill, packed or over pages. Grid (tiles of rows, K, G).
//   attend_splits  a block takes one split for up to 4 rows of one sequence and all their heads of a group, 16 (row, head) pairs at a time: for decode. All
//                  four warps compute the scores (little work: 16 rows), each adds P V for a quarter of the columns. Each K and V
//                  is read once for the group. (m, l, o) of rows that see several splits go to a workspace. Grid (rows x splits, K, pairs / 16).
//   merge_splits   merges them, a warp a (row, head). Grid (rows x splits, H / 4); works where split = 0.
//
// Shared memory: a ring of half tiles (K, V, K, ...), 64 x D bf16 each, filled by cp.async two (three for decode) ahead; attend_rows keeps the merged o of the
// splits so far there too (f32, used by sequences longer than a split). D = 128: 80 KB and 64 KB, two blocks an SM on A100 and H100;
// D = 64: half of that, three blocks by registers.
// The place of each 16 positions (page table or row) is looked up once a split.
#include "attention.cuh"

struct AttentionParams {
    const Plan* plan;
    const bf16* qkv;
    const bf16* keys;
    const bf16* values;
    bf16* out;
    float* partials;  // [rows x splits, partial_pitch]: o [H, D], then (m, l) [H, 2]; null: no row has more than one split
    uint32_t heads, kv_heads, head_dim, window;  // window 0: none
    uint32_t pitch;                              // of keys and values, in elements
    uint32_t page_tokens;                        // 0: packed
    float scale;                                 // of the scores, times log2 e
    uint32_t unused;
};

// Floats from one state to the next: each starts on 16 bytes, with an odd number of heads too.
DEVICE uint64_t partial_pitch(const AttentionParams& p) { return (p.heads * (p.head_dim + 2) + 3) / 4 * 4; }

// The state of the online softmax for rows lane / 4 and lane / 4 + 8 of a warp; l is this lane's part of the sum until finish().
template <int N>
struct Softmax {
    float m[2], l[2], o[N][4];

    DEVICE void clear() {
#pragma unroll
        for (int half = 0; half < 2; half++) m[half] = -kInfinity, l[half] = 0;
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) o[n][i] = 0;
        }
    }

    // Takes the scores of a tile, and gives its probabilities as fragments of A. With kMasked only positions in `seen` count; without all do. No multiplication
    // here feeds an addition but through fmaf, so that no compiler contracts the two forms differently.
    template <bool kMasked>
    DEVICE void take(uint32_t (&p)[kTile / 16][4], float (&s)[kTile / 8][4], float scale, const Range (&seen)[2]) {
        const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float largest = -kInfinity;
#pragma unroll
            for (int n = 0; n < kTile / 8; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float x = s[n][2 * half + e] * scale;
                    largest = fmaxf(largest, !kMasked || inside(seen[half], n * 8 + 2 * t + e) ? x : -kInfinity);
                }
            }
            largest = fmaxf(largest, shuffle_xor(largest, 1));
            largest = fmaxf(largest, shuffle_xor(largest, 2));
            const float old = m[half], now = fmaxf(old, largest);
            const float shrink = old == now ? 1.0f : exp2_approximate(old - now);
            m[half] = now;
            float sum = 0;
#pragma unroll
            for (int n = 0; n < kTile / 8; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float x = exp2_approximate(fmaf(s[n][2 * half + e], scale, -now));
                    const float kept = !kMasked || inside(seen[half], n * 8 + 2 * t + e) ? x : 0.0f;
                    sum += kept;
                    s[n][2 * half + e] = kept;
                }
            }
            l[half] = fmaf(l[half], shrink, sum);
#pragma unroll
            for (int n = 0; n < N; n++) {
                o[n][2 * half] *= shrink;
                o[n][2 * half + 1] *= shrink;
            }
        }
#pragma unroll
        for (int k = 0; k < kTile / 16; k++) {
            p[k][0] = pack_bf16(s[2 * k][0], s[2 * k][1]);
            p[k][1] = pack_bf16(s[2 * k][2], s[2 * k][3]);
            p[k][2] = pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
            p[k][3] = pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
        }
    }

    // l of the whole row in each of its four lanes.
    DEVICE void finish() {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            l[half] += shuffle_xor(l[half], 1);
            l[half] += shuffle_xor(l[half], 2);
        }
    }
};

// Merges (m, l) of a later split into `m`, `l`, and gives the factors of the two o. With an empty later split nothing changes.
struct Factors {
    float before, later;
};
DEVICE Factors merge(float& m, float& l, float later_m, float later_l) {
    const float now = fmaxf(m, later_m);
    const Factors f = {m == now ? 1.0f : exp2_approximate(m - now), later_m == now ? 1.0f : exp2_approximate(later_m - now)};
    m = now;
    l = fmaf(l, f.before, later_l * f.later);
    return f;
}
DEVICE float merge_o(float o, float later_o, Factors f) { return fmaf(o, f.before, later_o * f.later); }

// The ring, and what a block knows of its sequence.
template <int D, int SLOTS>
struct Positions {
    const AttentionParams& p;
    int sequence_start;  // its first row, or its first entry of the page table
    Range loaded;        // positions that some row of the block sees; others are zero-filled
    int first_tile;      // of the block
    int half_tiles;

    // It starts where shared memory does.
    static constexpr int kRing = SLOTS * Tile<D>::kBytes;
    // [2, kPlacesOfSplit]: rows of keys and values, of even and odd splits.
    static DEVICE uint32_t* places() { return reinterpret_cast<uint32_t*>(shared_at(kRing)); }
    // [kAttentionWarps]: a warp has found what is not finite.
    static DEVICE uint32_t* flags() { return places() + 2 * kPlacesOfSplit; }

    DEVICE Positions(const AttentionParams& params, const Sequence& sequence, Range seen) : p(params), loaded(seen) {
        sequence_start = static_cast<int>(p.page_tokens > 0 ? sequence.pages_start : sequence.start);
        first_tile = seen.low / kTile;
        half_tiles = 2 * (seen.high / kTile - first_tile + 1);
    }

    DEVICE void look_up(int split) {
        const int i = static_cast<int>(threadIdx.x), position = split * kSplit + i * kPlaced;
        if (i >= kPlacesOfSplit || position > loaded.high) return;
        const int page_tokens = static_cast<int>(p.page_tokens);
        uint32_t place = static_cast<uint32_t>(sequence_start + position);
        if (page_tokens > 0) {
            const uint32_t page = p.plan->page_table[sequence_start + position / page_tokens];
            place = page * p.page_tokens + static_cast<uint32_t>(position % page_tokens);
        }
        places()[split % 2 * kPlacesOfSplit + i] = place;
    }

    static DEVICE int slot(int half) { return half % SLOTS * Tile<D>::kBytes; }

    DEVICE void load(int half) {
        if (half < half_tiles) {
            const int to = slot(half), width = static_cast<int>(p.head_dim);
            const bf16* from = (half % 2 == 0 ? p.keys : p.values) + static_cast<int>(blockIdx.y) * width;
            const int first = (first_tile + half / 2) * kTile;
#pragma unroll
            for (int j = 0; j < Tile<D>::kCopies; j++) {
                const int row = Tile<D>::copied_row(j), chunk = Tile<D>::copied_chunk(j), position = first + row;
                const bool valid = inside(loaded, position) && chunk * 8 < width;
                const uint32_t place = places()[position / kPlaced % (2 * kPlacesOfSplit)] + static_cast<uint32_t>(row % kPlaced);
                copy_async_16(shared_at(to + Tile<D>::at(row, chunk)), valid ? from + static_cast<uint64_t>(place) * p.pitch + chunk * 8 : from, valid);
            }
        }
        copy_async_commit();
    }

    DEVICE void start() {
        look_up(first_tile * kTile / kSplit);
        look_up(first_tile * kTile / kSplit + 1);
        sync_threads();
#pragma unroll
        for (int half = 0; half < SLOTS - 1; half++) load(half);
    }

    // The next half tile is there for everyone, and loads go on. With `look` each warp notes whether its copies are finite.
    DEVICE int next(int half, bool look) {
        copy_async_wait<SLOTS - 2>();
        if (look) {
            const uint32_t found = warp_ballot(own_copies_not_finite<D>(slot(half)));
            if (threadIdx.x % kWarp == 0) flags()[threadIdx.x / kWarp] = found;
        }
        sync_threads();
        load(half + SLOTS - 1);
        return slot(half);
    }

    DEVICE bool found() const {
        uint32_t any = 0;
#pragma unroll
        for (int w = 0; w < kAttentionWarps; w++) any |= flags()[w];
        return any != 0;
    }
};

constexpr int kRowSlots = 3, kSplitSlots = 4;

// One tile for the 16 rows of a warp, of which this lane has those at positions `at`; columns first .. first + N of o.
template <int D, int N, int SLOTS>
DEVICE void take_tile(Softmax<N>& softmax, Positions<D, SLOTS>& positions, const uint32_t (&q)[D / 16][4], int tile, const int (&at)[2], int window,
                      bool sees_any, bool sees_all, bool look, float scale, int first) {
    const int half_tile = 2 * (tile - positions.first_tile);
    const int keys = positions.next(half_tile, false);
    Range here[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const Range seen = seen_by(at[half], window);
        here[half] = {seen.low - tile * kTile, seen.high - tile * kTile};
    }
    uint32_t p[kTile / 16][4];
    if (sees_any) {
        float s[kTile / 8][4];
        zero(s);
        times_rows<D>(s, q, keys);
        if (sees_all) {
            softmax.template take<false>(p, s, scale, here);
        } else {
            softmax.template take<true>(p, s, scale, here);
        }
    }
    const int values = positions.next(half_tile + 1, look);
    if (sees_any) {
        if (look && positions.found()) {
            times_columns<D>(softmax.o, p, values, 0, first, true);
            add_not_finite<D>(softmax.o, here, values, 0, kTile, first);
        } else {
            times_columns<D>(softmax.o, p, values, 0, first, false);
        }
    }
}

template <int D>
DEVICE void attend_rows(const AttentionParams& p) {
    constexpr int N = D / 8;
    const bool paged = p.page_tokens > 0;
    const int tiles = static_cast<int>(paged ? p.plan->wide_tile_count : p.plan->packed_tile_count);
    if (static_cast<int>(blockIdx.x) >= tiles) return;
    const AttentionTile tile = (paged ? p.plan->wide_tiles : p.plan->packed_tiles)[blockIdx.x];
    const Sequence sequence = p.plan->sequences[tile.sequence];
    const int window = static_cast<int>(p.window), rows = static_cast<int>(tile.rows), width = static_cast<int>(p.head_dim);
    const int head = static_cast<int>(blockIdx.y * (p.heads / p.kv_heads) + blockIdx.z);
    const int start = static_cast<int>(sequence.first_position + tile.row - sequence.start), end = start + rows - 1;
    Positions<D, kRowSlots> positions(p, sequence, {seen_by(start, window).low, end});
    // [N * 4, threads]: each thread's part of the merged o.
    float* merged = reinterpret_cast<float*>(positions.flags() + kAttentionWarps) + threadIdx.x;

    const int warp = static_cast<int>(threadIdx.x) / kWarp, g = static_cast<int>(threadIdx.x) % kWarp / 4;
    const int from = 16 * warp, to = smaller(from + 15, rows - 1);  // this warp's rows
    // Rows beyond the tile's compute too; nobody reads them.
    const int at[2] = {start + from + g, start + from + g + 8};
    const bf16* queries[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = from + g + 8 * half;
        const uint64_t place = static_cast<uint64_t>(tile.row + row) * ((p.heads + 2 * p.kv_heads) * p.head_dim) + static_cast<uint64_t>(head * width);
        queries[half] = row < rows ? p.qkv + place : nullptr;
    }
    uint32_t q[D / 16][4];
    load_rows<D>(q, queries[0], queries[1], width);

    positions.start();
    Softmax<N> softmax;
    softmax.clear();
    float m[2], l[2];
    bool first_split = true;
    for (int t = positions.first_tile; t <= end / kTile; t++) {
        const bool last = t == end / kTile;
        const int low = t * kTile, high = low + kTile - 1;
        // Of the rows from .. to, of all rows.
        const bool sees_any = from <= to && low <= start + to && high >= seen_by(start + from, window).low;
        const bool sees_all = high <= start + from && low >= seen_by(start + to, window).low;
        const bool all_see_all = high <= start && low >= seen_by(end, window).low;
        take_tile<D, N>(softmax, positions, q, t, at, window, sees_any, sees_all, !all_see_all, p.scale, 0);
        // Nobody waits for this before the second half tile from now, by when it is there for all.
        if (low % kSplit == 0 && t != positions.first_tile) positions.look_up(low / kSplit + 1);
        if ((t + 1) % (kSplit / kTile) != 0 && !last) continue;

        softmax.finish();
        if (first_split && last) break;
        Factors factors[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (first_split) {
                m[half] = softmax.m[half], l[half] = softmax.l[half];
            } else {
                factors[half] = merge(m[half], l[half], softmax.m[half], softmax.l[half]);
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float* place = merged + (n * 4 + i) * kAttentionThreads;
                const float o = first_split ? softmax.o[n][i] : merge_o(*place, softmax.o[n][i], factors[i / 2]);
                if (last) {
                    softmax.o[n][i] = o;
                } else {
                    *place = o;
                }
            }
        }
        if (last) {
            softmax.l[0] = l[0], softmax.l[1] = l[1];
        } else {
            softmax.clear();
        }
        first_split = false;
    }
    copy_async_wait<0>();
    // Read and worked out again, so that no register holds it meanwhile.
    const AttentionTile done = (paged ? p.plan->wide_tiles : p.plan->packed_tiles)[blockIdx.x];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = threadIdx.x / kWarp * 16 + threadIdx.x % kWarp / 4 + 8 * half;
        if (row >= done.rows) continue;
        const uint32_t column = (blockIdx.y * (p.heads / p.kv_heads) + blockIdx.z) * p.head_dim;
        bf16* out = p.out + static_cast<uint64_t>(done.row + row) * (p.heads * p.head_dim) + column;
        store_rows(softmax.o, half, out, 0, static_cast<int>(p.head_dim), 1.0f / softmax.l[half]);
    }
}

template <int D>
DEVICE void attend_splits(const AttentionParams& p) {
    constexpr int N = D / 8 / kAttentionWarps;
    static_assert(N * 8 * kAttentionWarps == D, "warps share the columns");
    if (blockIdx.x >= p.plan->paged_tile_count) return;
    const AttentionTile tile = p.plan->paged_tiles[blockIdx.x];
    const Sequence sequence = p.plan->sequences[tile.sequence];
    const int window = static_cast<int>(p.window), rows = static_cast<int>(tile.rows), width = static_cast<int>(p.head_dim);
    const int group = static_cast<int>(p.heads / p.kv_heads), split = static_cast<int>(tile.split);
    const int first_pair = static_cast<int>(blockIdx.z) * 16, last_pair = smaller(first_pair + 15, rows * group - 1);
    if (first_pair > last_pair) return;
    // Rows of these pairs, and what they see of the split.
    const int start = static_cast<int>(sequence.first_position + tile.row - sequence.start);
    const int from = start + first_pair / group, to = start + last_pair / group;
    const Range loaded = {larger(seen_by(from, window).low, split * kSplit), smaller(to, split * kSplit + kSplit - 1)};
    if (loaded.low > loaded.high) return;
    Positions<D, kSplitSlots> positions(p, sequence, loaded);

    const int warp = static_cast<int>(threadIdx.x) / kWarp, g = static_cast<int>(threadIdx.x) % kWarp / 4, t = static_cast<int>(threadIdx.x) % 4;
    int at[2];
    const bf16* queries[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int pair = first_pair + g + 8 * half, row = pair / group;
        const int head = static_cast<int>(blockIdx.y) * group + pair % group;
        at[half] = start + row;
        const uint64_t place = static_cast<uint64_t>(tile.row + row) * ((p.heads + 2 * p.kv_heads) * p.head_dim) + static_cast<uint64_t>(head * width);
        queries[half] = pair <= last_pair ? p.qkv + place : nullptr;
    }
    uint32_t q[D / 16][4];
    load_rows<D>(q, queries[0], queries[1], width);

    positions.start();
    Softmax<N> softmax;
    softmax.clear();
    for (int i = positions.first_tile; i <= loaded.high / kTile; i++) {
        const int low = i * kTile, high = low + kTile - 1;
        const bool all_see_all = high <= from && low >= seen_by(to, window).low;
        take_tile<D, N>(softmax, positions, q, i, at, window, true, all_see_all, !all_see_all && from != to, p.scale, warp * N);
    }
    copy_async_wait<0>();
    softmax.finish();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int pair = first_pair + g + 8 * half, row = pair / group;
        const int head = static_cast<int>(blockIdx.y) * group + pair % group;
        const Range seen = seen_by(at[half], window);
        if (pair > last_pair || seen.low > split * kSplit + kSplit - 1 || seen.high < split * kSplit) continue;
        if (seen.low / kSplit == seen.high / kSplit) {
            bf16* out = p.out + static_cast<uint64_t>(tile.row + row) * (p.heads * p.head_dim) + head * width;
            store_rows(softmax.o, half, out, warp * N, width, 1.0f / softmax.l[half]);
        } else {
            float* partial = p.partials + static_cast<uint64_t>(tile.partial + row) * partial_pitch(p);
#pragma unroll
            for (int n = 0; n < N; n++) {
                const int column = (warp * N + n) * 8 + 2 * t;
                if (column < width) {
                    *reinterpret_cast<float2*>(partial + head * width + column) = make_float2(softmax.o[n][2 * half], softmax.o[n][2 * half + 1]);
                }
            }
            if (warp == 0 && t == 0) {
                *reinterpret_cast<float2*>(partial + p.heads * p.head_dim + 2 * head) = make_float2(softmax.m[half], softmax.l[half]);
            }
        }
    }
}

KERNEL(merge_splits, AttentionParams, kAttentionThreads, 8) {
    if (blockIdx.x >= p.plan->paged_tile_count) return;
    const AttentionTile tile = p.plan->paged_tiles[blockIdx.x];
    const int head = static_cast<int>(blockIdx.y) * kAttentionWarps + static_cast<int>(threadIdx.x) / kWarp;
    if (tile.split != 0 || head >= static_cast<int>(p.heads)) return;
    const Sequence sequence = p.plan->sequences[tile.sequence];
    const int start = static_cast<int>(sequence.first_position + tile.row - sequence.start), rows = static_cast<int>(tile.rows);
    const int width = static_cast<int>(p.head_dim), column = static_cast<int>(threadIdx.x) % kWarp * 4;
    const uint64_t pitch = partial_pitch(p);
    for (int row = 0; row < rows; row++) {
        const Range seen = seen_by(start + row, static_cast<int>(p.window));
        if (seen.low / kSplit == seen.high / kSplit) continue;  // attend_splits has written it
        float m = -kInfinity, l = 0;
        float4 o = make_float4(0, 0, 0, 0);
        for (int split = seen.low / kSplit; split <= seen.high / kSplit; split++) {
            const float* partial = p.partials + (static_cast<uint64_t>(tile.partial) + static_cast<uint64_t>(split * rows + row)) * pitch;
            const float2 ml = *reinterpret_cast<const float2*>(partial + p.heads * p.head_dim + 2 * head);
            const Factors f = merge(m, l, ml.x, ml.y);
            if (column < width) {
                const float4 later = *reinterpret_cast<const float4*>(partial + head * width + column);
                o = make_float4(merge_o(o.x, later.x, f), merge_o(o.y, later.y, f), merge_o(o.z, later.z, f), merge_o(o.w, later.w, f));
            }
        }
        if (column < width) {
            const float scale = 1.0f / l;
            bf16* out = p.out + static_cast<uint64_t>(tile.row + row) * (p.heads * p.head_dim) + head * width + column;
            *reinterpret_cast<uint2*>(out) = make_uint2(pack_bf16(fmaf(o.x, scale, 0.0f), fmaf(o.y, scale, 0.0f)),
                                                        pack_bf16(fmaf(o.z, scale, 0.0f), fmaf(o.w, scale, 0.0f)));
        }
    }
}

KERNEL(attend_rows_32, AttentionParams, kAttentionThreads, 3) { attend_rows<32>(p); }
KERNEL(attend_rows_64, AttentionParams, kAttentionThreads, 3) { attend_rows<64>(p); }
KERNEL(attend_rows_96, AttentionParams, kAttentionThreads, 2) { attend_rows<96>(p); }
KERNEL(attend_rows_128, AttentionParams, kAttentionThreads, 2) { attend_rows<128>(p); }
KERNEL(attend_splits_32, AttentionParams, kAttentionThreads, 4) { attend_splits<32>(p); }
KERNEL(attend_splits_64, AttentionParams, kAttentionThreads, 3) { attend_splits<64>(p); }
KERNEL(attend_splits_96, AttentionParams, kAttentionThreads, 2) { attend_splits<96>(p); }
KERNEL(attend_splits_128, AttentionParams, kAttentionThreads, 2) { attend_splits<128>(p); }
