// Rows by index: the embedding of tokens, the rows that get logits, and the way back.
//
//   embed     out[r] = table[token(r)]                table [V, d], out [R, d]
//             token(r) = tokens[r], or drawn[i] where tokens[r] = 2^31 + i: what the sampling step before drew, which the host need not know yet
//   gather    out[i] = x[logit_rows[i]]               x [R, d], out [L, d]
//   scatter   dx = 0, dx[logit_rows[i]] = dy[i]       dy [L, d], dx [R, d]
//
// All bf16, d a multiple of 8. A warp copies a row, 16 bytes a lane; a block has 8 warps, the grid one warp a row. No shared memory.
#include "plan.cuh"

struct EmbedParams {
    const Plan* plan;
    const bf16* source;
    const uint32_t* drawn;  // embed
    bf16* out;
    uint32_t width;
    uint32_t vocabulary;  // embed
};

constexpr int kRowsPerBlock = 8;
constexpr uint32_t kDrawn = 1u << 31;

DEVICE int warp_row() { return static_cast<int>(blockIdx.x) * kRowsPerBlock + static_cast<int>(threadIdx.x) / kWarp; }

// from null: zeros.
DEVICE void copy_row(const bf16* from, bf16* to, int width) {
    for (int i = static_cast<int>(threadIdx.x) % kWarp * 8; i < width; i += kWarp * 8) {
        store_16(to + i, from ? load_16(from + i) : make_uint4(0, 0, 0, 0));
    }
}

KERNEL(embed, EmbedParams, kRowsPerBlock * kWarp, 1) {
    const int row = warp_row();
    if (row >= static_cast<int>(p.plan->rows)) return;
    uint32_t token = p.plan->tokens[row];
    if (token & kDrawn) token = p.drawn[token ^ kDrawn];
    // What was drawn from logits that are no numbers is thrown away with its row, but must not be an address.
    if (token >= p.vocabulary) token = 0;
    copy_row(p.source + static_cast<uint64_t>(token) * p.width, p.out + static_cast<uint64_t>(row) * p.width, static_cast<int>(p.width));
}

KERNEL(gather_rows, EmbedParams, kRowsPerBlock * kWarp, 1) {
    const int i = warp_row();
    if (i >= static_cast<int>(p.plan->logit_row_count)) return;
    const uint64_t row = p.plan->logit_rows[i];
    copy_row(p.source + row * p.width, p.out + static_cast<uint64_t>(i) * p.width, static_cast<int>(p.width));
}

KERNEL(scatter_rows, EmbedParams, kRowsPerBlock * kWarp, 1) {
    const int row = warp_row();
    if (row >= static_cast<int>(p.plan->rows)) return;
    // The first logit row that is not before this row.
    int low = 0, high = static_cast<int>(p.plan->logit_row_count);
    while (low < high) {
        const int middle = (low + high) / 2;
        if (static_cast<int>(p.plan->logit_rows[middle]) < row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const bool found = low < static_cast<int>(p.plan->logit_row_count) && static_cast<int>(p.plan->logit_rows[low]) == row;
    const bf16* from = found ? p.source + static_cast<uint64_t>(low) * p.width : nullptr;
    copy_row(from, p.out + static_cast<uint64_t>(row) * p.width, static_cast<int>(p.width));
}
