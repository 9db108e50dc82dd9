// Products of few rows: out[row][feature] = sum over k of x[row][k] * weight[feature][k], plus bias. Every weight is read once.
// `gated_*` are products with the gate's and the up projection's rows, one after the other, and SwiGLU of their results.
//
// A block of 8 warps takes 16, 32 or 64 features and 8, 16, 24 or 32 rows. Its warps share the sum: k is cut into windows of 32,
// and warp w adds up windows w, w + 8, ..; then the warps' sums are added in order of the warps. So the order of the sum depends
// on in_features alone: a row's bits are the same whatever rows, tile or grid it is computed with.
//
// In a window lane 4g + t holds k = 8t..8t+7 of weight rows g, g + 8, .. and of rows g, g + 8, .. of x: 16 bytes each, which
// are the registers of two mma.m16n8k16 as they stand. For mma j, register pair (2j, 2j + 1) of a lane is what the instruction
// calls k = 2t, 2t+1 and k = 2t+8, 2t+9. That is another order of k than in memory, but the same one for both factors.
//
// The pieces pass through a ring in shared memory, each lane reading back only what it copied itself: no barrier, no bank
// conflict, zeros past every edge, and as much under way as the ring holds, whatever the compiler makes of the loop.
//
// Arithmetic, not measured. 4.3 TB/s over 132 multiprocessors at a latency of about 0.8 us want 26 kB under way in each, and
// 40 kB or more to be at ease. Weights under way a block, and blocks that fit a multiprocessor (228 KiB):
//   8 rows,  16 features: 4 stages * 8 kB = 32 kB, 4 blocks    16 rows, 32 features: 4 * 16 = 64 kB, 2 blocks
//   8 rows,  32 features: 4 * 16 = 64 kB, 2 blocks             16..32 rows, 64 features: 2 * 32 = 64 kB, 2 blocks
//   8 rows,  64 features: 3 * 32 = 96 kB, 2 blocks             24, 32 rows, 32 features: 4, 3 * 16 = 64, 48 kB, 2 blocks
// Bytes: weights 2 N K from memory; x comes from the L2 cache, rows / features of that again, so more rows want more features
// a block (`src/gpu/launch/products.rs` keeps it at a half or less, but where that leaves too few blocks). Rate of the matrix
// units: 2 * rows flop a weight of 2 bytes; at 32 rows and 4.3 TB/s that is 138 TFLOP/s of 989.
//
// Weights depend on no kernel before this one: where it begins early, the ring's first ones are under way while that is at work.

#include "args.cuh"
#include "device.cuh"
#include "swiglu.cuh"

constexpr uint32_t WARPS = 8;
// Of in_features, in one step of a warp.
constexpr uint32_t WINDOW = 32;
// Numbers of 16 bits in the 16 bytes that a lane copies at once.
constexpr uint32_t PIECE = 8;

// `m_tiles` of 16 features by `n_tiles` of 8 rows.
template <uint32_t m_tiles, uint32_t n_tiles>
struct Tile {
    static constexpr uint32_t FEATURES = 16 * m_tiles;
    static constexpr uint32_t ROWS = 8 * n_tiles;
    // What a lane copies in a window: a piece for each 8 features, then one for each 8 rows.
    static constexpr uint32_t PIECES = 2 * m_tiles + n_tiles;
    static constexpr uint32_t STAGE_BYTES = WARPS * PIECES * WARP_SIZE * sizeof(uint4);
    // Two blocks share the memory of a multiprocessor. `products.rs` counts the same.
    static constexpr uint32_t STAGES = 114688 / STAGE_BYTES < 4 ? 114688 / STAGE_BYTES : 4;
    // Of a row of sums: 4 more, so that the lanes of a warp write to 32 banks.
    static constexpr uint32_t STRIDE = FEATURES + 4;
    static_assert(WARPS * ROWS * STRIDE * sizeof(float) <= STAGES * STAGE_BYTES, "the sums reuse the ring");
};

// The fragments of one window, multiplied into the warp's sums.
template <class T, uint32_t m_tiles, uint32_t n_tiles>
DEVICE void multiply(const uint4* pieces, float (&sums)[m_tiles][n_tiles][4]) {
    uint4 rows[n_tiles];
#pragma unroll
    for (uint32_t n = 0; n < n_tiles; ++n) rows[n] = pieces[(2 * m_tiles + n) * WARP_SIZE];
#pragma unroll
    for (uint32_t m = 0; m < m_tiles; ++m) {
        const uint4 upper = pieces[2 * m * WARP_SIZE];
        const uint4 lower = pieces[(2 * m + 1) * WARP_SIZE];
        const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
        const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
        for (uint32_t n = 0; n < n_tiles; ++n) mma_16816<T>(sums[m][n], first, {rows[n].x, rows[n].y});
#pragma unroll
        for (uint32_t n = 0; n < n_tiles; ++n) mma_16816<T>(sums[m][n], second, {rows[n].z, rows[n].w});
    }
}

// Where one lane copies from.
template <class T>
struct Lane {
    // Its first row of a matrix at its first column, and the matrix.
    const T* first;
    const T* matrix;
    // From the first row to the end of the matrix, or of its first half; 0 where there is none.
    uint32_t num_rows;
};

template <class T>
DEVICE Lane<T> lane_of(const void* matrix, uint32_t row, uint32_t rows, uint32_t column, uint32_t columns) {
    const T* start = static_cast<const T*>(matrix);
    return {start + static_cast<size_t>(row) * columns + column, start, row < rows ? rows - row : 0};
}

// Copies the lane's pieces of `tiles` times 8 rows, `offset` columns on; zeros where the matrix ends. With `half` rows in each
// half of the matrix every other piece is of the second one.
template <uint32_t tiles, class T>
DEVICE void copy(uint4* pieces, const Lane<T>& lane, uint32_t offset, uint32_t columns, bool within, uint32_t half = 0) {
#pragma unroll
    for (uint32_t i = 0; i < tiles; ++i) {
        const uint32_t row = half > 0 ? 8 * (i / 2) : 8 * i;
        const bool there = within && row < lane.num_rows;
        const T* from = lane.first + static_cast<size_t>(row + i % 2 * half) * columns + offset;
        cp_async_16(pieces + i * WARP_SIZE, there ? from : lane.matrix, there);
    }
}

// The sum of a tile's number over the warps, in order.
template <class Shape>
DEVICE float sum_of(const float* sums, uint32_t row, uint32_t feature) {
    float sum = sums[row * Shape::STRIDE + feature];
    for (uint32_t warp = 1; warp < WARPS; ++warp) sum += sums[(warp * Shape::ROWS + row) * Shape::STRIDE + feature];
    return sum;
}

// Adds up the warps' sums of a tile, and stores what lies within the matrix.
template <class Shape>
DEVICE void store(const MatmulArgs& args, const float* sums, uint32_t first_feature, uint32_t first_row) {
    for (uint32_t i = threadIdx.x; i < Shape::ROWS * Shape::FEATURES; i += WARPS * WARP_SIZE) {
        const uint32_t row = i / Shape::FEATURES, feature = i % Shape::FEATURES;
        if (first_row + row >= args.rows || first_feature + feature >= args.out_features) continue;
        float sum = sum_of<Shape>(sums, row, feature);
        if (args.bias != nullptr) sum += args.bias[first_feature + feature];
        args.out[static_cast<size_t>(first_row + row) * args.out_stride + first_feature + feature] = sum;
    }
}

// As `store`, of SwiGLU: of 16 features of a tile the first 8 are gates, and the others what they let through.
template <class Shape, class T>
DEVICE void store_gated(const MatmulArgs& args, const float* sums, uint32_t first_feature, uint32_t first_row) {
    constexpr uint32_t FEATURES = Shape::FEATURES / 2;
    for (uint32_t i = threadIdx.x; i < Shape::ROWS * FEATURES; i += WARPS * WARP_SIZE) {
        const uint32_t row = i / FEATURES, feature = i % FEATURES, gate = feature / 8 * 16 + feature % 8;
        if (first_row + row >= args.rows || first_feature + feature >= args.out_features / 2) continue;
        const float value = silu_times(sum_of<Shape>(sums, row, gate), sum_of<Shape>(sums, row, gate + 8));
        T* out = reinterpret_cast<T*>(args.out) + static_cast<size_t>(first_row + row) * args.out_stride;
        out[first_feature + feature] = from_float<T>(value);
    }
}

// Grid: out_features in tiles, rows in tiles. in_features is a multiple of 8, matrices begin at multiples of 16 bytes.
template <class T, uint32_t m_tiles, uint32_t n_tiles, bool gated>
DEVICE void skinny(const MatmulArgs& args, uint4* ring, bool begins_early) {
    using Shape = Tile<m_tiles, n_tiles>;
    const uint32_t warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    const uint32_t g = lane / 4, t = lane % 4;
    // Of a gated product: those of one half.
    const uint32_t features = gated ? args.out_features / 2 : args.out_features, half = gated ? features : 0;
    const uint32_t first_feature = blockIdx.x * Shape::FEATURES / (gated ? 2 : 1), first_row = blockIdx.y * Shape::ROWS;
    const uint32_t columns = args.in_features, column = PIECE * t;
    const auto weight = lane_of<T>(args.weight, first_feature + g, features, column, columns);
    const auto x = lane_of<T>(args.x, first_row + g, args.rows, column, columns);

    const uint32_t num_windows = (columns + WINDOW - 1) / WINDOW;
    uint4* own = ring + warp * Shape::PIECES * WARP_SIZE + lane;
    const auto pieces_of = [&](uint32_t stage) { return own + stage * (Shape::STAGE_BYTES / sizeof(uint4)); };
    const auto fetch_weight = [&](uint32_t stage, uint32_t window) {
        if (window >= num_windows) return;
        const uint32_t offset = window * WINDOW;
        copy<2 * m_tiles>(pieces_of(stage), weight, offset, columns, offset + column < columns, half);
    };
    const auto fetch_x = [&](uint32_t stage, uint32_t window) {
        if (window >= num_windows) return;
        const uint32_t offset = window * WINDOW;
        copy<n_tiles>(pieces_of(stage) + 2 * m_tiles * WARP_SIZE, x, offset, columns, offset + column < columns);
    };

    float sums[m_tiles][n_tiles][4] = {};
    if (begins_early) {
        for (uint32_t stage = 0; stage < Shape::STAGES; ++stage) fetch_weight(stage, warp + stage * WARPS);
    }
    wait_for_earlier();
    // One group of copies a window, empty ones too; the weights that were asked for early are in the first.
    for (uint32_t stage = 0; stage < Shape::STAGES; ++stage) {
        if (!begins_early) fetch_weight(stage, warp + stage * WARPS);
        fetch_x(stage, warp + stage * WARPS);
        cp_async_commit();
    }
    uint32_t stage = 0;
    for (uint32_t window = warp; window < num_windows; window += WARPS) {
        cp_async_wait<Shape::STAGES - 1>();
        multiply<T>(pieces_of(stage), sums);
        fetch_weight(stage, window + Shape::STAGES * WARPS);
        fetch_x(stage, window + Shape::STAGES * WARPS);
        cp_async_commit();
        stage = stage + 1 == Shape::STAGES ? 0 : stage + 1;
    }

    // All copies were waited for, so once every warp is here the ring is free.
    __syncthreads();
    float* shared_sums = reinterpret_cast<float*>(ring);
#pragma unroll
    for (uint32_t m = 0; m < m_tiles; ++m) {
#pragma unroll
        for (uint32_t n = 0; n < n_tiles; ++n) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t feature = 16 * m + g + 8 * (i / 2), row = 8 * n + 2 * t + i % 2;
                shared_sums[(warp * Shape::ROWS + row) * Shape::STRIDE + feature] = sums[m][n][i];
            }
        }
    }
    __syncthreads();
    if constexpr (gated) {
        store_gated<Shape, T>(args, shared_sums, first_feature, first_row);
    } else {
        store<Shape>(args, shared_sums, first_feature, first_row);
    }
}

#define SKINNY(T, m_tiles, n_tiles, tile)                      \
    KERNEL_AHEAD(skinny_##tile, MatmulArgs, WARPS * WARP_SIZE) { \
        DYNAMIC_SHARED(uint4, ring);                           \
        skinny<T, m_tiles, n_tiles, false>(args, ring, begins_early);        \
    }                                                          \
    KERNEL_AHEAD(gated_##tile, MatmulArgs, WARPS * WARP_SIZE) { \
        DYNAMIC_SHARED(uint4, ring);                           \
        skinny<T, m_tiles, n_tiles, true>(args, ring, begins_early);         \
    }
// Rows, then features of a tile.
#define SKINNY_TILES(T)           \
    SKINNY(T, 1, 1, T##_8x16)     \
    SKINNY(T, 2, 1, T##_8x32)     \
    SKINNY(T, 4, 1, T##_8x64)     \
    SKINNY(T, 2, 2, T##_16x32)    \
    SKINNY(T, 4, 2, T##_16x64)    \
    SKINNY(T, 2, 3, T##_24x32)    \
    SKINNY(T, 4, 3, T##_24x64)    \
    SKINNY(T, 2, 4, T##_32x32)    \
    SKINNY(T, 4, 4, T##_32x64)
SKINNY_TILES(bf16)
SKINNY_TILES(f16)

// The same product without matrix units: for f32, and for an in_features that is no multiple of 8. A warp takes one feature of
// one row: lane l adds up k = l, l + 32, .., then the lanes' sums pair by pair. Reads a weight once for each row.
// Grid: out_features in eights, rows.
template <class T>
DEVICE void plain(const MatmulArgs& args) {
    const uint32_t lane = threadIdx.x % WARP_SIZE, row = blockIdx.y;
    const uint32_t feature = blockIdx.x * WARPS + threadIdx.x / WARP_SIZE;
    if (feature >= args.out_features) return;
    const T* x = static_cast<const T*>(args.x) + static_cast<size_t>(row) * args.in_features;
    const T* weight = static_cast<const T*>(args.weight) + static_cast<size_t>(feature) * args.in_features;
    float sum = 0.0f;
    for (uint32_t k = lane; k < args.in_features; k += WARP_SIZE) {
        sum = fmaf(to_float(x[k]), to_float(weight[k]), sum);
    }
    sum = warp_sum(sum);
    if (args.bias != nullptr) sum += args.bias[feature];
    if (lane == 0) args.out[static_cast<size_t>(row) * args.out_stride + feature] = sum;
}

KERNEL(product_f32, MatmulArgs, WARPS * WARP_SIZE) { plain<float>(args); }
KERNEL(product_f16, MatmulArgs, WARPS * WARP_SIZE) { plain<f16>(args); }
KERNEL(product_bf16, MatmulArgs, WARPS * WARP_SIZE) { plain<bf16>(args); }
