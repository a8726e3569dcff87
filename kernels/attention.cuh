// What the attention kernels share: tiles of 64 rows in shared memory, the two matrix products, and masks that select.
//
// A tile holds 64 rows (positions, or queries) of one head, bf16, padded to D columns with zeros in shared memory only. 16-byte chunks of a row are XORed with
// the row (or the rows padded by a chunk, D = 96), so that ldmatrix has no bank conflicts.
//
// What a row must not see reaches it in no way. Its score is replaced by -inf in the maximum and its probability by 0. In P V that 0 still multiplies V, and
// 0 * NaN is NaN: rows that no row of the block sees are zero-filled as they are loaded, and where some rows of a block see a position that others do not (the
// diagonal, the edge of a window) the block looks for values that are not finite. Only if it finds one it takes a slow path, which replaces
// them by 0 in the product and adds them to the rows that see them.
#pragma once

#include "plan.cuh"

constexpr int kAttentionThreads = 128;
constexpr int kAttentionWarps = kAttentionThreads / kWarp;
// Positions of a tile.
constexpr int kTile = 64;
// Positions of a split: (m, l, o) start afresh at its multiples. kAttentionSplit of src/backend/cuda/attention.rs.
constexpr int kSplit = 512;
// Positions whose place in memory is looked up together; pages are multiples of it.
constexpr int kPlaced = 16;
constexpr int kPlacesOfSplit = kSplit / kPlaced;
static_assert(kSplit % kTile == 0 && kTile % kPlaced == 0 && kPlacesOfSplit <= kAttentionThreads, "tiles do not straddle splits");

constexpr float kInfinity = __builtin_huge_valf();

DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int larger(int a, int b) { return a > b ? a : b; }

// Inclusive, never empty.
struct Range {
    int low, high;
};
DEVICE bool inside(Range r, int x) { return r.low <= x && x <= r.high; }
// The same in one comparison, which the backward's kernels have the registers for.
DEVICE bool inside_span(Range r, int x) { return static_cast<uint32_t>(x - r.low) <= static_cast<uint32_t>(r.high - r.low); }
// The positions that `position` sees; window 0: all before it.
DEVICE Range seen_by(int position, int window) { return {window > 0 && position >= window ? position - window + 1 : 0, position}; }

// A tile is named by its byte offset in shared memory.
DEVICE unsigned char* shared_at(int offset) { return shared_memory() + offset; }

template <int D>
struct Tile {
    static_assert(D % 32 == 0 && D <= 128, "ldmatrix takes 32 columns at once");
    static constexpr int kChunks = D / 8;
    static constexpr bool kPadded = kChunks == 12;
    static constexpr int kRow = (kPadded ? 13 : kChunks) * 16;
    static constexpr int kBytes = kTile * kRow;
    static_assert(kTile * kChunks % kAttentionThreads == 0, "every thread copies as many chunks");
    static constexpr int kCopies = kTile * kChunks / kAttentionThreads;

    // Where 16-byte chunk `chunk` of row `row` starts. Eight rows on, the same chunk lies 8 kRow bytes on.
    static DEVICE int at(int row, int chunk) { return row * kRow + (chunk ^ (kPadded ? 0 : kChunks == 4 ? (row >> 1) & 3 : row & 7)) * 16; }
    // Chunk c + chunk from chunk c, where the two have no bit in common: one instruction, so that nobody keeps an address for each chunk.
    static DEVICE int step(int at, int chunk) { return kPadded ? at + chunk * 16 : at ^ chunk * 16; }

    // The row and the chunk that this thread copies in turn j.
    static DEVICE int copied_row(int j) {
        const int i = static_cast<int>(threadIdx.x);
        return kPadded ? i / 4 + j / 3 * (kAttentionThreads / 4) : i / kChunks + j * (kAttentionThreads / kChunks);
    }
    static DEVICE int copied_chunk(int j) {
        const int i = static_cast<int>(threadIdx.x);
        return kPadded ? i % 4 + j % 3 * 4 : i % kChunks;
    }
};

// Two bf16, each replaced by 0 where it is not finite.
DEVICE uint32_t finite_or_zero(uint32_t x) {
    const uint32_t low = (x & 0x7f80u) == 0x7f80u ? 0 : x & 0xffffu;
    const uint32_t high = (x & 0x7f800000u) == 0x7f800000u ? 0 : x & 0xffff0000u;
    return low | high;
}

// Whether one of the chunks that this thread has copied into `tile` is not finite.
template <int D>
DEVICE bool own_copies_not_finite(int tile) {
    // An exponent of ones carries into bit 15 or 31.
    uint32_t carries = 0;
#pragma unroll 2
    for (int j = 0; j < Tile<D>::kCopies; j++) {
        const uint4 x = *reinterpret_cast<const uint4*>(shared_at(tile + Tile<D>::at(Tile<D>::copied_row(j), Tile<D>::copied_chunk(j))));
        carries |= (x.x & 0x7fff7fffu) + 0x00800080u;
        carries |= (x.y & 0x7fff7fffu) + 0x00800080u;
        carries |= (x.z & 0x7fff7fffu) + 0x00800080u;
        carries |= (x.w & 0x7fff7fffu) + 0x00800080u;
    }
    return (carries & 0x80008000u) != 0;
}

template <int N>
DEVICE void zero(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] = 0;
    }
}

// The mma's A operand from global memory: rows `low` and `high` (null: zeros) of lane / 4 and lane / 4 + 8.
template <int D>
DEVICE void load_rows(uint32_t (&a)[D / 16][4], const bf16* low, const bf16* high, int width) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const bf16* row = i % 2 == 0 ? low : high;
            const int column = k * 16 + i / 2 * 8 + 2 * t;
            a[k][i] = row && column < width ? *reinterpret_cast<const uint32_t*>(row + column) : 0;
        }
    }
}

// c[n] += a times rows n * 8 .. + 8 of the tile (a row is a column of the product), over its D columns in ascending order.
template <int D, int N>
DEVICE void times_rows(float (&c)[N][4], const uint32_t (&a)[D / 16][4], int tile) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    tile += Tile<D>::at(lane % 8, lane / 8);
#pragma unroll
    for (int k = 0; k < D / 32; k++) {
        const int at = Tile<D>::step(tile, 4 * k);
#pragma unroll
        for (int n = 0; n < N; n++) {
            uint32_t r[4];
            load_matrix_x4(r, shared_at(at + n * 8 * Tile<D>::kRow));
            const uint32_t even[2] = {r[0], r[1]}, odd[2] = {r[2], r[3]};
            mma_bf16(c[n], a[2 * k], even);
            mma_bf16(c[n], a[2 * k + 1], odd);
        }
    }
}

// The same with A from a tile too: its rows a_row .. + 16 times rows b_row + n * 8 .. + 8 of tile b.
template <int D, int N>
DEVICE void tile_times_rows(float (&c)[N][4], int a, int a_row, int b, int b_row) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    a += Tile<D>::at(a_row + lane % 16, lane / 16);
    b += Tile<D>::at(b_row + lane % 8, lane / 8);
#pragma unroll 2
    for (int k = 0; k < D / 32; k++) {
        uint32_t low[4], high[4];
        load_matrix_x4(low, shared_at(Tile<D>::step(a, 4 * k)));
        load_matrix_x4(high, shared_at(Tile<D>::step(a, 4 * k + 2)));
        const int at = Tile<D>::step(b, 4 * k);
#pragma unroll
        for (int n = 0; n < N; n++) {
            uint32_t r[4];
            load_matrix_x4(r, shared_at(at + n * 8 * Tile<D>::kRow));
            const uint32_t even[2] = {r[0], r[1]}, odd[2] = {r[2], r[3]};
            mma_bf16(c[n], low, even);
            mma_bf16(c[n], high, odd);
        }
    }
}

// c[n] += a times columns (first + n) * 8 .. + 8 of the tile, over rows row .. row + K * 16 of it in ascending order. `first` is a multiple of N.
template <int D, int N, int K>
DEVICE void times_columns(float (&c)[N][4], const uint32_t (&a)[K][4], int tile, int row, int first, bool only_finite) {
    static_assert(K % 2 == 0, "ldmatrix takes 32 rows at once");
    static_assert(Tile<D>::kPadded || (N & (N - 1)) == 0, "Tile::step adds without carries");
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    tile += Tile<D>::at(row + lane, first);
#pragma unroll
    for (int k = 0; k < K / 2; k++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            uint32_t r[4];
            load_matrix_x4_transposed(r, shared_at(Tile<D>::step(tile, n) + k * 32 * Tile<D>::kRow));
            if (only_finite) {
#pragma unroll
                for (int i = 0; i < 4; i++) r[i] = finite_or_zero(r[i]);
            }
            const uint32_t even[2] = {r[0], r[1]}, odd[2] = {r[2], r[3]};
            mma_bf16(c[n], a[2 * k], even);
            mma_bf16(c[n], a[2 * k + 1], odd);
        }
    }
}

// Adds what is not finite in rows from .. to of the tile to the rows of c that see it: `seen` of rows lane / 4 and lane / 4 + 8, in rows of the tile.
template <int D, int N>
DEVICE void add_not_finite(float (&c)[N][4], const Range (&seen)[2], int tile, int from, int to, int first) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll 1
    for (int k = from; k < to; k++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t x = *reinterpret_cast<const uint32_t*>(shared_at(tile + Tile<D>::at(k, first + n) + 4 * t));
            const uint32_t finite = finite_or_zero(x);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (x == finite || !inside(seen[half], k)) continue;
                c[n][2 * half] += low_bf16(x) == low_bf16(finite) ? 0.0f : low_bf16(x);
                c[n][2 * half + 1] += high_bf16(x) == high_bf16(finite) ? 0.0f : high_bf16(x);
            }
        }
    }
}

// Columns (first + n) * 8 .. of c to a row of `width` elements, times `scale`. + 0 turns -0, which depends on what a row does not see, into 0.
template <int N>
DEVICE void store_rows(const float (&c)[N][4], int half, bf16* row, int first, int width, float scale) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int column = (first + n) * 8 + 2 * t;
        if (column < width) {
            const float low = fmaf(c[n][2 * half], scale, 0.0f), high = fmaf(c[n][2 * half + 1], scale, 0.0f);
            *reinterpret_cast<uint32_t*>(row + column) = pack_bf16(low, high);
        }
    }
}
