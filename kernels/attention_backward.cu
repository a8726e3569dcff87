// Backward of attention over packed sequences (Dao 2023, arXiv 2307.08691): scores are recomputed, sums have one order, nothing is added atomically.
//
//   P = softmax(scale Q Kᵀ), dP = dO Vᵀ, delta = rowsum(dO O), dS = P (dP - delta)
//   dQ = scale dS K,  dK = scale dSᵀ Q,  dV = Pᵀ dO                       dK and dV summed over the G = H / K query heads that share a key/value head
//
// qkv, dqkv: [R, (H + 2 K) D] bf16; out, dout: [R, H D] bf16. Head sizes 8 .. 128, multiples of 8. P and dS are rounded to bf16 for the products.
//
// Two kernels, 128 threads, one after the other, head size padded to 32, 64, 96, 128 in shared memory:
//   attention_dq    a block takes up to 64 rows of one sequence and one query head through the tiles of 64 positions that they see, in one sweep: dQ is summed
//                   with the online softmax's unnormalised probabilities, rescaled as their maximum grows, and divided by their sum at the end. It leaves
//                   (log2 of the sum of 2^scores, delta) of each row for the second kernel. Grid (tiles of rows, K, G).
//   attention_dkv   a block takes 64 positions of one sequence and one key/value head through the group's query heads and, in each, the tiles of 64 rows that
//                   see them, both ascending. Grid (tiles of rows, K).
// Seven products for the five of a backward that keeps the scores; no pass of its own for the softmax's sums. Tiles are counted from position 0, so nothing depends on
// what else is in the batch.
//
// A warp has 16 of the 64 rows on the mma's M and 32 columns at once, so that dK and dV (D = 128: 128 registers) stay in registers. Shared memory: the
// block's own two tiles and a ring of half tiles (K, V, K, .. or Q, dO, Q, ..) filled by cp.async, four, or three for D = 128: 80 KB, two blocks an SM on A100 and H100.
// What is not finite and not visible is kept out as attention.cuh says: K in dQ, Q in dK, dO in dV.
#include "attention.cuh"

struct AttentionBackwardParams {
    const Plan* plan;
    const bf16* qkv;
    const bf16* out;
    const bf16* dout;
    bf16* dqkv;
    float2* stats;  // [H, stats_pitch]: log2 Σ 2^s and delta of each row, a sequence from a multiple of 64 on
    uint32_t heads, kv_heads, head_dim, window;  // window 0: none
    float scale, scale_log2;                     // of the scores, and times log2 e
    uint32_t stats_pitch, unused;
};

// Columns that a warp takes at once.
constexpr int kColumns = 32;

DEVICE uint32_t qkv_pitch(const AttentionBackwardParams& p) { return (p.heads + 2 * p.kv_heads) * p.head_dim; }
DEVICE uint32_t out_pitch(const AttentionBackwardParams& p) { return p.heads * p.head_dim; }
// Stats of the rows of a sequence start at a tile of their own.
DEVICE float2* stats_of_head(const AttentionBackwardParams& p, const AttentionTile& tile, const Sequence& sequence, int head) {
    return p.stats + static_cast<uint64_t>(head) * p.stats_pitch + (sequence.start / kTile + tile.sequence) * kTile;
}

template <int D>
constexpr int kSlots = D == 128 ? 3 : 4;

// One tile of some columns of a matrix; the sequence has rows row0 .. row0 + tokens of it. Zeros beyond them.
template <int D>
DEVICE void load_tile(int to, const bf16* columns, uint32_t pitch, uint32_t row0, int tokens, int width, int tile) {
#pragma unroll
    for (int j = 0; j < Tile<D>::kCopies; j++) {
        const int row = Tile<D>::copied_row(j), chunk = Tile<D>::copied_chunk(j), token = tile * kTile + row;
        const bool valid = token < tokens && chunk * 8 < width;
        copy_async_16(shared_at(to + Tile<D>::at(row, chunk)), valid ? columns + static_cast<uint64_t>(row0 + static_cast<uint32_t>(token)) * pitch + chunk * 8 : columns, valid);
    }
}

// Pairs of tiles low .. high of a head, then of the next one, `pairs` in all: K and V for attention_dq, Q and dO with their rows' stats for attention_dkv.
template <int D, bool kQueries>
struct Stream {
    const AttentionBackwardParams& p;
    const float2* stats;
    uint32_t row, column;  // the sequence's first row, the head's first column
    int tokens, low, high, pairs;
    int loading;  // the tile that is loaded next

    DEVICE Stream(const AttentionBackwardParams& params, const Sequence& sequence, uint32_t head) : p(params), stats(nullptr) {
        row = sequence.start;
        column = head * p.head_dim;
        tokens = static_cast<int>(sequence.end - sequence.start);
    }

    // Halves are loaded in order.
    DEVICE void load(int half) {
        if (half < 2 * pairs) {
            const bool second = half % 2 != 0;
            const bf16* columns = kQueries ? (second ? p.dout : p.qkv) : p.qkv + out_pitch(p) + (second ? p.kv_heads * p.head_dim : 0);
            const uint32_t pitch = kQueries && second ? out_pitch(p) : qkv_pitch(p);
            load_tile<D>(slot(half), columns + column, pitch, row, tokens, static_cast<int>(p.head_dim), loading);
            if (second) {
                const int i = static_cast<int>(threadIdx.x) * 2;
                if (kQueries && i < kTile) copy_async_16(&stats_of(half / 2)[i], stats + loading * kTile + i);
                if (loading++ == high) {
                    loading = low;
                    column += p.head_dim;
                    if (kQueries) stats += p.stats_pitch;
                }
            }
        }
        copy_async_commit();
    }

    // The second half of a pair and its stats are loaded at the same time.
    static DEVICE float2* stats_of(int pair) {
        constexpr int kStats = kSlots<D> / 2;
        return reinterpret_cast<float2*>(shared_at((2 + kSlots<D>) * Tile<D>::kBytes + kAttentionWarps * 4)) + pair % kStats * kTile;
    }
    // Behind the block's own two tiles, which start where shared memory does.
    static DEVICE int slot(int half) { return (2 + half % kSlots<D>) * Tile<D>::kBytes; }
    // [kAttentionWarps]
    static DEVICE uint32_t* flags() { return reinterpret_cast<uint32_t*>(shared_at((2 + kSlots<D>) * Tile<D>::kBytes)); }

    DEVICE void start() {
        loading = low;
#pragma unroll
        for (int half = 0; half < kSlots<D>; half++) load(half);
    }

    // A pair is there for everyone. With `look`, each warp notes whether what it copied and others multiply by zeros is finite.
    DEVICE void wait(int pair, bool look) {
        copy_async_wait<kSlots<D> - 2>();
        if (look) {
            bool bad = own_copies_not_finite<D>(slot(2 * pair));
            if (kQueries) bad = bad || own_copies_not_finite<D>(slot(2 * pair + 1));
            const uint32_t found = warp_ballot(bad);
            if (threadIdx.x % kWarp == 0) flags()[threadIdx.x / kWarp] = found;
        }
        sync_threads();
    }

    // Everyone is done with a pair.
    DEVICE void release(int pair) {
        sync_threads();
        load(2 * pair + kSlots<D>);
        load(2 * pair + kSlots<D> + 1);
    }

    DEVICE bool found() const {
        uint32_t any = 0;
#pragma unroll
        for (int w = 0; w < kAttentionWarps; w++) any |= flags()[w];
        return any != 0;
    }
};

// A of the next product from 32 columns of C.
DEVICE void pack(uint32_t (&a)[kColumns / 16][4], const float (&c)[kColumns / 8][4]) {
#pragma unroll
    for (int k = 0; k < kColumns / 16; k++) {
        a[k][0] = pack_bf16(c[2 * k][0], c[2 * k][1]);
        a[k][1] = pack_bf16(c[2 * k][2], c[2 * k][3]);
        a[k][2] = pack_bf16(c[2 * k + 1][0], c[2 * k + 1][1]);
        a[k][3] = pack_bf16(c[2 * k + 1][2], c[2 * k + 1][3]);
    }
}

// c += a times columns of rows row .. row + 32 of the tile; `seen`: the rows of the tile that belong to the two rows of a.
template <int D>
DEVICE void accumulate(float (&c)[D / 8][4], const uint32_t (&a)[kColumns / 16][4], int tile, int row, const Range (&seen)[2], bool not_finite) {
    if (not_finite) {
        times_columns<D>(c, a, tile, row, 0, true);
        add_not_finite<D>(c, seen, tile, row, row + kColumns, 0);
    } else {
        times_columns<D>(c, a, tile, row, 0, false);
    }
}

template <int D>
DEVICE void attention_dq(const AttentionBackwardParams& p) {
    constexpr int N = D / 8;
    if (blockIdx.x >= p.plan->packed_tile_count) return;
    const AttentionTile tile = p.plan->packed_tiles[blockIdx.x];
    const Sequence sequence = p.plan->sequences[tile.sequence];
    const int width = static_cast<int>(p.head_dim), window = static_cast<int>(p.window), rows = static_cast<int>(tile.rows);
    const int head = static_cast<int>(blockIdx.y * (p.heads / p.kv_heads) + blockIdx.z);
    const uint32_t pitch = qkv_pitch(p), out_width = out_pitch(p);
    const int start = static_cast<int>(tile.row - sequence.start), end = start + rows - 1, tokens = end + 1;

    constexpr int q = 0, dout = Tile<D>::kBytes;
    load_tile<D>(q, p.qkv + head * width, pitch, sequence.start, tokens, width, start / kTile);
    load_tile<D>(dout, p.dout + head * width, out_width, sequence.start, tokens, width, start / kTile);
    Stream<D, false> stream(p, sequence, blockIdx.y);
    stream.tokens = tokens;
    stream.low = seen_by(start, window).low / kTile;
    stream.high = end / kTile;
    stream.pairs = stream.high - stream.low + 1;
    stream.start();

    const int warp = static_cast<int>(threadIdx.x) / kWarp, g = static_cast<int>(threadIdx.x) % kWarp / 4, t = static_cast<int>(threadIdx.x) % 4;
    const int from = 16 * warp, to = smaller(from + 15, rows - 1);
    Range seen[2];
    float delta[2], m[2], l[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = from + g + 8 * half;
        seen[half] = seen_by(start + row, window);
        const uint64_t at = static_cast<uint64_t>(tile.row + row) * out_width + static_cast<uint64_t>(head * width);
        float sum = 0;
        for (int column = 2 * t; row < rows && column < width; column += 8) {
            const uint32_t o = *reinterpret_cast<const uint32_t*>(p.out + at + column), d = *reinterpret_cast<const uint32_t*>(p.dout + at + column);
            sum = fmaf(low_bf16(o), low_bf16(d), sum);
            sum = fmaf(high_bf16(o), high_bf16(d), sum);
        }
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        delta[half] = sum;
        m[half] = -kInfinity, l[half] = 0;
    }

    float dq[N][4];
    zero(dq);
    for (int pair = 0; pair < stream.pairs; pair++) {
        const int low = (stream.low + pair) * kTile, high = low + kTile - 1;
        const bool all_see_all = high <= start && low >= seen_by(end, window).low;
        stream.wait(pair, !all_see_all);
        const int keys = stream.slot(2 * pair);
        const int values = stream.slot(2 * pair + 1);
        const bool not_finite = !all_see_all && stream.found();
        const Range here[2] = {{seen[0].low - low, seen[0].high - low}, {seen[1].low - low, seen[1].high - low}};
#pragma unroll 1
        for (int column = 0; column < kTile; column += kColumns) {
            // Columns that no row of this warp sees.
            if (from > to || low + column > start + to || low + column + kColumns - 1 < seen_by(start + from, window).low) continue;
            float s[kColumns / 8][4], dp[kColumns / 8][4];
            zero(s);
            zero(dp);
            tile_times_rows<D>(s, q, from, keys, column);
            tile_times_rows<D>(dp, dout, from, values, column);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float largest = -kInfinity;
#pragma unroll
                for (int i = 0; i < kColumns / 4; i++) {
                    const float x = s[i / 2][2 * half + i % 2] * p.scale_log2;
                    largest = fmaxf(largest, inside_span(here[half], column + i / 2 * 8 + 2 * t + i % 2) ? x : -kInfinity);
                }
                largest = fmaxf(largest, shuffle_xor(largest, 1));
                largest = fmaxf(largest, shuffle_xor(largest, 2));
                const float now = fmaxf(m[half], largest);
                const float shrink = m[half] == now ? 1.0f : exp2_approximate(m[half] - now);
                m[half] = now;
                float sum = 0;
#pragma unroll
                for (int i = 0; i < kColumns / 4; i++) {
                    const bool visible = inside_span(here[half], column + i / 2 * 8 + 2 * t + i % 2);
                    const float x = exp2_approximate(fmaf(s[i / 2][2 * half + i % 2], p.scale_log2, -now));
                    sum += visible ? x : 0.0f;
                    s[i / 2][2 * half + i % 2] = visible ? x * (dp[i / 2][2 * half + i % 2] - delta[half]) : 0.0f;
                }
                l[half] = fmaf(l[half], shrink, sum);
#pragma unroll
                for (int n = 0; n < N; n++) {
                    dq[n][2 * half] *= shrink;
                    dq[n][2 * half + 1] *= shrink;
                }
            }
            uint32_t ds[kColumns / 16][4];
            pack(ds, s);
            accumulate<D>(dq, ds, keys, column, here, not_finite);
        }
        stream.release(pair);
    }
    copy_async_wait<0>();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        l[half] += shuffle_xor(l[half], 1);
        l[half] += shuffle_xor(l[half], 2);
        const int row = from + g + 8 * half;
        if (row >= rows) continue;
        store_rows(dq, half, p.dqkv + static_cast<uint64_t>(tile.row + row) * pitch + head * width, 0, width, p.scale / l[half]);
        if (t == 0) stats_of_head(p, tile, sequence, head)[start + row] = make_float2(m[half] + log2f(l[half]), delta[half]);
    }
}

template <int D>
DEVICE void attention_dkv(const AttentionBackwardParams& p) {
    constexpr int N = D / 8;
    if (blockIdx.x >= p.plan->packed_tile_count) return;
    // The first positions of a sequence are seen by most rows: from the end of the list.
    const AttentionTile tile = p.plan->packed_tiles[p.plan->packed_tile_count - 1 - blockIdx.x];
    const Sequence sequence = p.plan->sequences[tile.sequence];
    const int window = static_cast<int>(p.window), group = static_cast<int>(p.heads / p.kv_heads), first_head = static_cast<int>(blockIdx.y) * group;
    const int tokens = static_cast<int>(sequence.end - sequence.start), start = static_cast<int>(tile.row - sequence.start);

    constexpr int keys = 0, values = Tile<D>::kBytes;
    const bf16* columns = p.qkv + out_pitch(p) + blockIdx.y * p.head_dim;
    load_tile<D>(keys, columns, qkv_pitch(p), sequence.start, tokens, static_cast<int>(p.head_dim), start / kTile);
    load_tile<D>(values, columns + p.kv_heads * p.head_dim, qkv_pitch(p), sequence.start, tokens, static_cast<int>(p.head_dim), start / kTile);
    Stream<D, true> stream(p, sequence, static_cast<uint32_t>(first_head));
    // The last row that sees the last position.
    const int end = start + static_cast<int>(tile.rows) - 1;
    const int last = window > 0 && window < tokens - end ? end + window - 1 : tokens - 1;
    stream.low = start / kTile;
    stream.high = last / kTile;
    stream.pairs = (stream.high - stream.low + 1) * group;
    stream.stats = stats_of_head(p, tile, sequence, first_head);
    stream.start();

    const int own = static_cast<int>(threadIdx.x) / kWarp * 16, g = static_cast<int>(threadIdx.x) % kWarp / 4, t = static_cast<int>(threadIdx.x) % 4;

    float dk[N][4], dv[N][4];
    zero(dk);
    zero(dv);
    for (int pair = 0, at = stream.low; pair < stream.pairs; pair++) {
        const int low = at * kTile, high = low + kTile - 1;
        const bool all_see_all = at > stream.low && high < tokens && (window == 0 || high - window < stream.low * kTile);
        stream.wait(pair, !all_see_all);
        const int q = stream.slot(2 * pair);
        const int dout = stream.slot(2 * pair + 1);
        const float2* stats = stream.stats_of(pair);
        const bool not_finite = !all_see_all && stream.found();
        const int from = stream.low * kTile + own;  // the warp's first position
        // The rows that see this lane's two positions (any, for those beyond the sequence: nobody reads their gradients).
        Range here[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int position = from + g + 8 * half;
            here[half] = {position - low, (window > 0 && window < tokens - position ? position + window - 1 : tokens - 1) - low};
        }
#pragma unroll 1
        for (int column = 0; column < kTile; column += kColumns) {
            // Rows that see no position of this warp.
            const int first = low + column;
            if (from >= tokens || first + kColumns - 1 < from || first >= tokens || (window > 0 && first - (from + 15) >= window)) continue;
            float s[kColumns / 8][4];
            zero(s);
            tile_times_rows<D>(s, keys, own, q, column);
            uint32_t a[kColumns / 16][4];
#pragma unroll
            for (int n = 0; n < kColumns / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = column + n * 8 + 2 * t + i % 2;
                    const float x = exp2_approximate(fmaf(s[n][i], p.scale_log2, -stats[row].x));
                    s[n][i] = inside_span(here[i / 2], row) ? x : 0.0f;
                }
            }
            pack(a, s);
            accumulate<D>(dv, a, dout, column, here, not_finite);
            float dp[kColumns / 8][4];
            zero(dp);
            tile_times_rows<D>(dp, values, own, dout, column);
#pragma unroll
            for (int n = 0; n < kColumns / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = column + n * 8 + 2 * t + i % 2;
                    s[n][i] = inside_span(here[i / 2], row) ? s[n][i] * (dp[n][i] - stats[row].y) : 0.0f;
                }
            }
            pack(a, s);
            accumulate<D>(dk, a, q, column, here, not_finite);
        }
        at = at == stream.high ? stream.low : at + 1;
        stream.release(pair);
    }
    copy_async_wait<0>();
    // Read and worked out again, so that no register holds it meanwhile.
    const AttentionTile done = p.plan->packed_tiles[p.plan->packed_tile_count - 1 - blockIdx.x];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t position = threadIdx.x / kWarp * 16 + threadIdx.x % kWarp / 4 + 8 * half;
        if (position >= done.rows) continue;
        bf16* row = p.dqkv + static_cast<uint64_t>(done.row + position) * qkv_pitch(p) + out_pitch(p) + blockIdx.y * p.head_dim;
        store_rows(dk, half, row, 0, static_cast<int>(p.head_dim), p.scale);
        store_rows(dv, half, row + p.kv_heads * p.head_dim, 0, static_cast<int>(p.head_dim), 1.0f);
    }
}

KERNEL(attention_dq_32, AttentionBackwardParams, kAttentionThreads, 3) { attention_dq<32>(p); }
KERNEL(attention_dq_64, AttentionBackwardParams, kAttentionThreads, 3) { attention_dq<64>(p); }
KERNEL(attention_dq_96, AttentionBackwardParams, kAttentionThreads, 2) { attention_dq<96>(p); }
KERNEL(attention_dq_128, AttentionBackwardParams, kAttentionThreads, 2) { attention_dq<128>(p); }
KERNEL(attention_dkv_32, AttentionBackwardParams, kAttentionThreads, 4) { attention_dkv<32>(p); }
KERNEL(attention_dkv_64, AttentionBackwardParams, kAttentionThreads, 3) { attention_dkv<64>(p); }
KERNEL(attention_dkv_96, AttentionBackwardParams, kAttentionThreads, 2) { attention_dkv<96>(p); }
KERNEL(attention_dkv_128, AttentionBackwardParams, kAttentionThreads, 2) { attention_dkv<128>(p); }
