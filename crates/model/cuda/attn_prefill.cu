// Attention of up to PREFILL_ROWS rows of one sequence at once, over the paged cache.
//
// A block takes an item and up to 4 query heads of one key and value head, a warp each: 64 query rows share a tile of 64
// positions, copied to shared memory while the last one is computed. Products are mma.m16n8k16 with f32 sums; queries (scaled,
// once) and the softmax's weights are rounded to the cache's type on the way in, as in arXiv 2205.14135; the softmax is f32. No
// tile beyond the item's last position is read. Blocks begin with the last item: items of a sequence lie in ascending order, so
// the longest ones come first and the short ones fill up the end.
//
// Limit, Llama-3-8B shape, by arithmetic, not measured: 2048 rows from position 0 are 128 items * 8 sets = 1024 blocks, 34.4
// GFLOP a layer of what is not masked: 44 us at 790 TFLOP/s. The cache is read from L2: an item reads its positions once,
// 1024 blocks * 1056 positions on average * 512 B = 554 MB, 129 us even at the memory's 4.3 TB/s; 267 TFLOP/s is the most that
// leaves. A ldmatrix.x4 (512 B, 4 cycles of shared memory) feeds two mma, so shared memory allows half of the matrix rate. An SM
// holds 2 blocks for heads of 128 (171 registers, 66 kB shared), 3 for heads of 64.
#include "attention.cuh"

// Positions of a tile.
constexpr uint32_t TILE = 64;
// Heads of a block.
constexpr uint32_t PREFILL_SET = ATTENTION_WARPS;

// Two tiles of keys and two of values, the one that is computed and the next.
//
// Of row r of a tile the 16-byte piece c lies at c ^ r % 8: eight rows of one piece are in different banks.
template <class C, uint32_t D>
struct PrefillSpace {
    C k[2][TILE][D];
    C v[2][TILE][D];
    uint32_t places[2][TILE];
};

// Where an even piece + `odd` (0 or 1) of a row lies is `first_piece ^ piece`, in pieces from the first tile. With the stage in
// it the compiler keeps one register, not one for each piece.
template <uint32_t D>
DEVICE uint32_t first_piece(uint32_t stage, uint32_t row, uint32_t odd) {
    return (stage * TILE + row) * (D / 8) + (row % 8 ^ odd);
}

// What a block works on.
struct PrefillWork {
    HeadSet set;
    uint32_t first_row;
    uint32_t num_rows;
    uint32_t first_position;
    uint32_t last_position;
};

DEVICE PrefillWork prefill_work(const AttentionArgs& args, uint32_t idx, uint32_t set_size) {
    const StepHeader& step = *args.step;
    const uint32_t sets = args.heads.num_kv_heads * sets_per_group(args.heads, set_size);
    const uint32_t item = args.num_prefill_items - 1 - idx / sets;
    const uint32_t first_row = step.prefill_items[2 * item];
    const uint32_t num_rows = step.prefill_items[2 * item + 1];
    return {head_set(args.heads, idx % sets, set_size), first_row, num_rows, step.positions[first_row],
            step.positions[first_row + num_rows - 1]};
}

// Begins to copy a tile of keys and values.
template <class C, uint32_t D>
DEVICE void fetch_tiles(const AttentionArgs& args, PrefillSpace<C, D>& space, uint32_t stage) {
    constexpr uint32_t PIECES = D / 8;
#pragma unroll
    for (uint32_t i = threadIdx.x; i < TILE * PIECES; i += ATTENTION_THREADS) {
        const uint32_t row = i / PIECES;
        const size_t start = static_cast<size_t>(space.places[stage][row]) * D + i % PIECES * 8;
        const uint32_t to = (i % PIECES ^ row % 8) * 8;
        cp_async_16(&space.k[stage][row][to], static_cast<const C*>(args.k_pool) + start);
        cp_async_16(&space.v[stage][row][to], static_cast<const C*>(args.v_pool) + start);
    }
}

// A warp's share: rows lane / 4 and lane / 4 + 8 of one head, in the places of mma's fragments.
template <uint32_t D>
struct Rows {
    uint32_t q[D / 16][4];
    // Since the scores are in powers of 2, `largest` is, too.
    float largest[2];
    float sums[2];
    float out[D / 8][4];
};

// One of a lane's two rows: beyond the item's rows the last one again, which is not stored.
DEVICE uint32_t row_of(const PrefillWork& work, uint32_t half) {
    const uint32_t idx = threadIdx.x % WARP_SIZE / 4 + 8 * half;
    return work.first_row + (idx < work.num_rows ? idx : work.num_rows - 1);
}

template <class C, uint32_t D>
DEVICE void begin_rows(const AttentionArgs& args, const PrefillWork& work, uint32_t head, Rows<D>& rows) {
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    const float scale = score_scale(args.heads) * LOG2_E;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t row = row_of(work, half);
        const float* q = args.q + static_cast<size_t>(row) * args.q_stride + static_cast<size_t>(head) * D + lane % 4 * 2;
#pragma unroll
        for (uint32_t i = 0; i < D / 16; i++) {
            rows.q[i][half] = pack2<C>(q[16 * i] * scale, q[16 * i + 1] * scale);
            rows.q[i][half + 2] = pack2<C>(q[16 * i + 8] * scale, q[16 * i + 9] * scale);
        }
        rows.largest[half] = -INFINITY;
        rows.sums[half] = 0.0f;
    }
#pragma unroll
    for (uint32_t i = 0; i < D / 8; i++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) rows.out[i][j] = 0.0f;
    }
}

// scores += q k^T of a tile.
template <class C, uint32_t D>
DEVICE void score_tile(const PrefillSpace<C, D>& space, uint32_t stage, const Rows<D>& rows, float (&scores)[TILE / 8][4]) {
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    // Matrices: positions 0-7 and 8-15 of 16, each with numbers 0-7, then 8-15 of the head's 16.
    const uint32_t start = first_piece<D>(stage, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++) {
#pragma unroll
        for (uint32_t n = 0; n < TILE / 16; n++) {
            uint32_t matrices[4];
            ldmatrix_x4(matrices, &space.k[0][16 * n][0] + (start ^ 2 * i) * 8);
            const uint32_t low[2] = {matrices[0], matrices[1]};
            const uint32_t high[2] = {matrices[2], matrices[3]};
            mma_16816<C>(scores[2 * n], rows.q[i], low);
            mma_16816<C>(scores[2 * n + 1], rows.q[i], high);
        }
    }
}

// out += weights v of a tile.
template <class C, uint32_t D>
DEVICE void weigh_tile(const PrefillSpace<C, D>& space, uint32_t stage, const float (&weights)[TILE / 8][4], Rows<D>& rows) {
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    // Matrices: numbers 0-7 and 8-15 of the head's 16, each of positions 0-7, then 8-15 of 16.
    const uint32_t start = first_piece<D>(stage, lane % 16, lane / 16);
#pragma unroll
    for (uint32_t i = 0; i < TILE / 16; i++) {
        // The fragments of two products' sums are the first factor's of the next.
        const float(&low)[4] = weights[2 * i];
        const float(&high)[4] = weights[2 * i + 1];
        const uint32_t a[4] = {pack2<C>(low[0], low[1]), pack2<C>(low[2], low[3]), pack2<C>(high[0], high[1]),
                               pack2<C>(high[2], high[3])};
#pragma unroll
        for (uint32_t n = 0; n < D / 16; n++) {
            uint32_t matrices[4];
            ldmatrix_x4_trans(matrices, &space.v[0][16 * i][0] + (start ^ 2 * n) * 8);
            const uint32_t first[2] = {matrices[0], matrices[1]};
            const uint32_t second[2] = {matrices[2], matrices[3]};
            mma_16816<C>(rows.out[2 * n], a, first);
            mma_16816<C>(rows.out[2 * n + 1], a, second);
        }
    }
}

// Scores to weights, with the sums so far brought to the new largest score.
template <uint32_t D>
DEVICE void soften(float (&scores)[TILE / 8][4], Rows<D>& rows) {
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        float largest = rows.largest[half];
#pragma unroll
        for (uint32_t n = 0; n < TILE / 8; n++) largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
        const float kept = exp2_approx(rows.largest[half] - largest);
        rows.largest[half] = largest;
        float sum = 0.0f;
#pragma unroll
        for (uint32_t n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (uint32_t j = 2 * half; j < 2 * half + 2; j++) {
                scores[n][j] = exp2_approx(scores[n][j] - largest);
                sum += scores[n][j];
            }
        }
        rows.sums[half] = rows.sums[half] * kept + sum;
#pragma unroll
        for (uint32_t n = 0; n < D / 8; n++) {
            rows.out[n][2 * half] *= kept;
            rows.out[n][2 * half + 1] *= kept;
        }
    }
}

template <class C, uint32_t D>
DEVICE void attend_tile(const AttentionArgs& args, const PrefillSpace<C, D>& space, uint32_t stage, uint32_t first,
                        const PrefillWork& work, Rows<D>& rows) {
    float scores[TILE / 8][4] = {};
    score_tile<C, D>(space, stage, rows, scores);
    if (first + TILE - 1 > work.first_position) {
        const uint32_t position = first + threadIdx.x % 4 * 2;
        const uint32_t last[2] = {args.step->positions[row_of(work, 0)], args.step->positions[row_of(work, 1)]};
#pragma unroll
        for (uint32_t n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (position + 8 * n + j % 2 > last[j / 2]) scores[n][j] = -INFINITY;
            }
        }
    }
    soften<D>(scores, rows);
    weigh_tile<C, D>(space, stage, scores, rows);
}

template <class Z, uint32_t D>
DEVICE void store_rows(const AttentionArgs& args, const PrefillWork& work, uint32_t head, const Rows<D>& rows) {
    const uint32_t lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        float sum = rows.sums[half];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        const uint32_t idx = lane / 4 + 8 * half;
        if (idx >= work.num_rows) continue;
        const size_t row = static_cast<size_t>(work.first_row + idx) * args.heads.num_heads + head;
        Z* z = static_cast<Z*>(args.z) + row * D + lane % 4 * 2;
#pragma unroll
        for (uint32_t n = 0; n < D / 8; n++) {
            const float first = rows.out[n][2 * half] / sum;
            const float second = rows.out[n][2 * half + 1] / sum;
            if constexpr (sizeof(Z) == 4) {
                store_vector(z + 8 * n, make_float2(first, second));
            } else {
                store_vector(z + 8 * n, pack2<Z>(first, second));
            }
        }
    }
}

// Heads of exactly D numbers, a cache of 16-bit numbers.
template <class C, class Z, uint32_t D>
DEVICE void attn_prefill_tuned(const AttentionArgs& args, PrefillSpace<C, D>& space) {
    const PrefillWork work = prefill_work(args, blockIdx.x, PREFILL_SET);
    const uint32_t warp = threadIdx.x / WARP_SIZE;
    const bool computes = warp < work.set.num_heads;
    const uint32_t head = work.set.first_head + (computes ? warp : 0);
    const CachePlaces cache = cache_places(args, work.first_row, work.set.kv_head);
    const uint32_t num_tiles = work.last_position / TILE + 1;
    // Positions beyond the last are read as the last, with weight 0: what lies there is not a number, perhaps.
    const auto place = [&](uint32_t position) {
        return place_of(cache, position < work.last_position ? position : work.last_position);
    };
    static_assert(2 * TILE == ATTENTION_THREADS, "a thread for each place");
    space.places[threadIdx.x / TILE][threadIdx.x % TILE] = place(threadIdx.x);
    __syncthreads();
    fetch_tiles<C, D>(args, space, 0);
    cp_async_commit();
    Rows<D> rows;
    begin_rows<C, D>(args, work, head, rows);
    for (uint32_t tile = 0; tile < num_tiles; tile++) {
        const uint32_t stage = tile % 2;
        if (tile + 1 < num_tiles) fetch_tiles<C, D>(args, space, 1 - stage);
        cp_async_commit();
        // Asked for here, so that it is there after this tile's arithmetic.
        uint32_t ahead = 0;
        if (threadIdx.x < TILE) ahead = place((tile + 2) * TILE + threadIdx.x);
        cp_async_wait<1>();
        __syncthreads();
        if (computes) attend_tile<C, D>(args, space, stage, tile * TILE, work, rows);
        if (threadIdx.x < TILE) space.places[stage][threadIdx.x] = ahead;
        __syncthreads();
    }
    if (computes) store_rows<Z, D>(args, work, head, rows);
}

struct RowSpace {
    ChunkSpace chunk;
    // Sums of `exp(score - largest) * v` over the chunks so far.
    float out[MAX_SET][MAX_HEAD_DIM];
};

// Any shape and cache: a block takes one row of an item and puts its chunks together as they come, in ascending order. Reads
// keys and values once a row: right, not fast.
template <class C, class Z>
DEVICE void attn_prefill_any(const AttentionArgs& args, RowSpace& space) {
    const PrefillWork work = prefill_work(args, blockIdx.x / PREFILL_ROWS, MAX_SET);
    const uint32_t row = work.first_row + blockIdx.x % PREFILL_ROWS;
    if (row >= work.first_row + work.num_rows) return;
    const uint32_t dim = args.heads.head_dim;
    const uint32_t len = args.step->positions[row] + 1;
    float largest[MAX_SET], sums[MAX_SET];
    for (uint32_t first = 0; first < len; first += DECODE_CHUNK) {
        attend_chunk<C>(args, work.set, row, first, min(len - first, DECODE_CHUNK), space.chunk);
#pragma unroll
        for (uint32_t head = 0; head < MAX_SET; head++) {
            if (head >= work.set.num_heads) break;
            const float before = first > 0 ? largest[head] : -INFINITY;
            largest[head] = fmaxf(before, space.chunk.largest[head]);
            const float kept = exp2_approx((before - largest[head]) * LOG2_E);
            const float added = exp2_approx((space.chunk.largest[head] - largest[head]) * LOG2_E);
            sums[head] = (first > 0 ? sums[head] * kept : 0.0f) + space.chunk.sums[head] * added;
            // A thread's own numbers.
            for (uint32_t d = threadIdx.x; d < dim; d += ATTENTION_THREADS) {
                const float out = first > 0 ? space.out[head][d] * kept : 0.0f;
                space.out[head][d] = out + space.chunk.out[head][d] * added;
            }
        }
    }
    Z* z = static_cast<Z*>(args.z) + (static_cast<size_t>(row) * args.heads.num_heads + work.set.first_head) * dim;
#pragma unroll
    for (uint32_t head = 0; head < MAX_SET; head++) {
        if (head >= work.set.num_heads) break;
        for (uint32_t d = threadIdx.x; d < dim; d += ATTENTION_THREADS) z[head * dim + d] = from_float<Z>(space.out[head][d] / sums[head]);
    }
}

#define PREFILL_TUNED(C, Z, D)                                                  \
    KERNEL(attn_prefill_d##D##_##C##_##Z, AttentionArgs, ATTENTION_THREADS) {   \
        using Space = PrefillSpace<C, D>;                                       \
        DYNAMIC_SHARED(Space, space);                                           \
        attn_prefill_tuned<C, Z, D>(args, *space);                              \
    }
#define PREFILL_ANY(C, Z)                                                  \
    KERNEL(attn_prefill_##C##_##Z, AttentionArgs, ATTENTION_THREADS) {     \
        SHARED(RowSpace, space);                                           \
        attn_prefill_any<C, Z>(args, space);                               \
    }
#define PREFILL(Z)                 \
    PREFILL_TUNED(f16, Z, 64)      \
    PREFILL_TUNED(f16, Z, 128)     \
    PREFILL_TUNED(bf16, Z, 64)     \
    PREFILL_TUNED(bf16, Z, 128)    \
    PREFILL_ANY(f32, Z)            \
    PREFILL_ANY(f16, Z)            \
    PREFILL_ANY(bf16, Z)

PREFILL(f32)
PREFILL(f16)
PREFILL(bf16)
