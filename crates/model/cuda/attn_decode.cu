// Attention of single rows over the paged cache, in chunks of DECODE_CHUNK positions; a row's last chunk merges them.
//
// A work is one chunk of one row for the query heads of one key and value head. Blocks walk over the works, as many blocks as
// the card holds at once (src/gpu/launch/attention.rs): a captured graph must be launched for the longest context, where one block a work
// would start tens of thousands of blocks that find nothing to do.
//
// Limit, Llama-3-8B shape (8 groups of 4 heads of 128, f16 cache: 4096 bytes a token and layer), by arithmetic at 4.3 TB/s, not
// measured: 1 row of 1024: 4.2 MB, 1.0 us; 128 rows of 1024: 537 MB, 125 us, and 17 MB of partials (written and read, in L2) 3 %
// more. To keep the memory busy through 0.8 us (guessed) an SM must have 4.3e12 / 132 * 0.8e-6 = 26 kB under way. A block has
// up to 4 warps * STAGES * 2 KiB = 32 KiB; an SM holds 5 blocks for groups of up to 4 heads (96 registers, 40 kB shared), 3 for
// larger ones (160 registers): 96 to 160 KiB, so that blocks that merge or begin are covered. Arithmetic for 1 KiB of keys and
// values of 4 heads: about 110 instructions of a warp, of which an SM starts 4 a cycle: half of what it can do meanwhile.
#include "attention.cuh"

// Tiles that a warp has under way or at hand.
constexpr uint32_t STAGES = 4;
// 16-byte loads of a lane in a tile.
constexpr uint32_t STEPS = 4;

// How a tile of 2 KiB of keys or values lies across a warp: in each step LANES lanes have 16 bytes each of a row.
template <class C, uint32_t D>
struct Tile {
    static constexpr uint32_t WIDTH = 16 / sizeof(C);
    static constexpr uint32_t LANES = D / WIDTH;
    static constexpr uint32_t STEP_ROWS = WARP_SIZE / LANES;
    static constexpr uint32_t ROWS = STEPS * STEP_ROWS;
};

template <uint32_t D, uint32_t G>
struct DecodeSpace {
    // A lane reads only what it has copied itself, so that no barrier is needed between the copy and its use. At the end the
    // same memory takes the sums of each warp.
    alignas(16) float ring[ATTENTION_WARPS][STAGES][STEPS][WARP_SIZE][4];
    alignas(16) float scores[DECODE_CHUNK][G];
    alignas(16) float q[G][D];
    uint32_t places[DECODE_CHUNK];
    float largest[G];
    float sums[G];
};

// 16 bytes of the cache as f32.
template <class C>
DEVICE void unpack_16_bytes(const float (&bytes)[4], float (&values)[16 / sizeof(C)]) {
    const uint4 packed = load_vector<uint4>(bytes);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        if constexpr (sizeof(C) == 4) {
            memcpy(&values[i], &words[i], 4);
        } else {
            const float2 pair = unpack2<C>(words[i]);
            values[2 * i] = pair.x;
            values[2 * i + 1] = pair.y;
        }
    }
}

// Sums N values a lane over lanes that differ in the bits 2 * BIT - 1. While there is more than one value a lane, the lanes of
// a pair share them: the upper lane goes on with the upper half. So N values cost about N shuffles instead of N * log2(lanes).
// The sum is the same tree for each value.
template <uint32_t N, uint32_t BIT>
DEVICE void sum_across(float* values) {
    if constexpr (BIT > 0) {
        constexpr uint32_t HALF = N > 1 ? N / 2 : 1;
        if constexpr (N > 1) {
            const bool upper = threadIdx.x & BIT;
#pragma unroll
            for (uint32_t i = 0; i < HALF; i++) {
                const float sent = upper ? values[i] : values[i + HALF];
                const float kept = upper ? values[i + HALF] : values[i];
                values[i] = kept + __shfl_xor_sync(ALL_LANES, sent, BIT);
            }
        } else {
            values[0] += __shfl_xor_sync(ALL_LANES, values[0], BIT);
        }
        sum_across<HALF, BIT / 2>(values);
    }
}

// Begins to copy a tile: a lane's 16 bytes of each step.
template <class C, uint32_t D>
DEVICE void fetch_tile(float (&slot)[STEPS][WARP_SIZE][4], const void* pool, const uint32_t* places) {
    using T = Tile<C, D>;
    const uint32_t lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (uint32_t step = 0; step < STEPS; step++) {
        const size_t start = static_cast<size_t>(places[step * T::STEP_ROWS + lane / T::LANES]) * D;
        cp_async_16(slot[step][lane], static_cast<const C*>(pool) + start + lane % T::LANES * T::WIDTH);
    }
}

// Scores of a tile's keys, -inf from `len` on.
template <class C, uint32_t D, uint32_t G>
DEVICE void score_tile(const float (&slot)[STEPS][WARP_SIZE][4], const float (&q)[G][Tile<C, D>::WIDTH], uint32_t first,
                       uint32_t len, float (&scores)[DECODE_CHUNK][G]) {
    using T = Tile<C, D>;
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    float sums[STEPS * G];
#pragma unroll
    for (uint32_t step = 0; step < STEPS; step++) {
        float k[T::WIDTH];
        unpack_16_bytes<C>(slot[step][lane], k);
#pragma unroll
        for (uint32_t head = 0; head < G; head++) {
            float sum = q[head][0] * k[0];
#pragma unroll
            for (uint32_t i = 1; i < T::WIDTH; i++) sum = fmaf(q[head][i], k[i], sum);
            sums[step * G + head] = sum;
        }
    }
    sum_across<STEPS * G, T::LANES / 2>(sums);
    // Each lane has HELD of the values now; SHARE lanes have the same.
    constexpr uint32_t HELD = STEPS * G > T::LANES ? STEPS * G / T::LANES : 1;
    constexpr uint32_t SHARE = STEPS * G > T::LANES ? 1 : T::LANES / (STEPS * G);
#pragma unroll
    for (uint32_t i = 0; i < HELD; i++) {
        const uint32_t value = lane % T::LANES / SHARE * HELD + i;
        const uint32_t position = first + value / G * T::STEP_ROWS + lane / T::LANES;
        scores[position][value % G] = position < len ? sums[i] : -INFINITY;
    }
}

// Adds a tile's values, weighed, to a lane's numbers of the head.
template <class C, uint32_t D, uint32_t G>
DEVICE void weigh_tile(const float (&slot)[STEPS][WARP_SIZE][4], const float (&weights)[DECODE_CHUNK][G], uint32_t first,
                       float (&out)[G][Tile<C, D>::WIDTH]) {
    using T = Tile<C, D>;
    const uint32_t lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (uint32_t step = 0; step < STEPS; step++) {
        float v[T::WIDTH];
        unpack_16_bytes<C>(slot[step][lane], v);
        const float* weight = weights[first + step * T::STEP_ROWS + lane / T::LANES];
#pragma unroll
        for (uint32_t head = 0; head < G; head += 4) {
            const float4 four = load_vector<float4>(weight + head);
            const float w[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (uint32_t h = 0; h < 4; h++) {
#pragma unroll
                for (uint32_t i = 0; i < T::WIDTH; i++) out[head + h][i] = fmaf(w[h], v[i], out[head + h][i]);
            }
        }
    }
}

// Keys to weights, values to each lane's sums. Warps take tiles in turn, each its keys and then its values in one stream of
// copies that goes on through the barriers. Positions of the last tile from `len` on read the last position's rows, with weight
// 0: what lies behind a sequence's end is not a number, perhaps.
template <class C, uint32_t D, uint32_t G>
DEVICE void stream_chunk(const AttentionArgs& args, DecodeSpace<D, G>& space, uint32_t num_heads, uint32_t len,
                         float (&out)[G][Tile<C, D>::WIDTH]) {
    using T = Tile<C, D>;
    const uint32_t warp = threadIdx.x / WARP_SIZE;
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    const uint32_t tiles = (len + T::ROWS - 1) / T::ROWS;
    const uint32_t own = (tiles + ATTENTION_WARPS - 1 - warp) / ATTENTION_WARPS;
    auto fetch = [&](uint32_t i) {
        if (i < 2 * own) {
            const uint32_t tile = warp + ATTENTION_WARPS * (i < own ? i : i - own);
            fetch_tile<C, D>(space.ring[warp][i % STAGES], i < own ? args.k_pool : args.v_pool, &space.places[tile * T::ROWS]);
        }
        cp_async_commit();
    };
    for (uint32_t i = 0; i < STAGES; i++) fetch(i);
    float q[G][T::WIDTH];
#pragma unroll
    for (uint32_t head = 0; head < G; head++) {
#pragma unroll
        for (uint32_t i = 0; i < T::WIDTH; i++) q[head][i] = space.q[head][lane % T::LANES * T::WIDTH + i];
    }
    for (uint32_t i = 0; i < own; i++) {
        cp_async_wait<STAGES - 1>();
        score_tile<C, D, G>(space.ring[warp][i % STAGES], q, (warp + ATTENTION_WARPS * i) * T::ROWS, len, space.scores);
        fetch(i + STAGES);
    }
    __syncthreads();
    exponentiate(space.scores, num_heads, tiles * T::ROWS, space.largest, space.sums);
    __syncthreads();
    for (uint32_t i = own; i < 2 * own; i++) {
        cp_async_wait<STAGES - 1>();
        weigh_tile<C, D, G>(space.ring[warp][i % STAGES], space.scores, (warp + ATTENTION_WARPS * (i - own)) * T::ROWS, out);
        fetch(i + STAGES);
    }
}

// What a work is.
struct Work {
    uint32_t item;
    HeadSet set;
    uint32_t row;
    // Its positions.
    uint32_t first;
    uint32_t len;
};

DEVICE Work work_at(const AttentionArgs& args, uint32_t idx, uint32_t set_size) {
    const StepHeader& step = *args.step;
    const uint32_t sets = args.heads.num_kv_heads * sets_per_group(args.heads, set_size);
    const uint32_t item = idx / sets;
    const uint32_t row = step.decode_items[2 * item];
    const uint32_t first = step.decode_items[2 * item + 1] * DECODE_CHUNK;
    const uint32_t rest = step.positions[row] + 1 - first;
    return {item, head_set(args.heads, idx % sets, set_size), row, first, rest < DECODE_CHUNK ? rest : DECODE_CHUNK};
}

DEVICE uint32_t num_works(const AttentionArgs& args, uint32_t set_size) {
    return args.step->num_decode_items * args.heads.num_kv_heads * sets_per_group(args.heads, set_size);
}

// Where the partial result of a head of the work goes.
DEVICE float* partial_of(const AttentionArgs& args, const Work& work, uint32_t head) {
    const size_t idx = static_cast<size_t>(work.item) * args.heads.num_heads + work.set.first_head + head;
    return args.partials + idx * (args.heads.head_dim + 2);
}

DEVICE uint32_t num_chunks(const AttentionArgs& args, uint32_t row) {
    return args.step->row_items[row + 1] - args.step->row_items[row];
}

// A number of a row's result, `idx` from the row's first head on.
DEVICE void store_z(const AttentionArgs& args, uint32_t row, uint32_t idx, float value) {
    const size_t at = static_cast<size_t>(row) * args.heads.num_heads * args.heads.head_dim + idx;
    if (args.z_element == ELEMENT_F32) {
        static_cast<float*>(args.z)[at] = value;
    } else if (args.z_element == ELEMENT_F16) {
        static_cast<f16*>(args.z)[at] = from_float<f16>(value);
    } else {
        static_cast<bf16*>(args.z)[at] = from_float<bf16>(value);
    }
}

// Keeps a number of the work: of the result where it is the row's only chunk, else of its partial result.
DEVICE void keep(const AttentionArgs& args, const Work& work, uint32_t chunks, uint32_t i, float out, const float* largest,
                 const float* sums) {
    const uint32_t dim = args.heads.head_dim, head = i / dim;
    if (chunks == 1) {
        store_z(args, work.row, work.set.first_head * dim + i, out / sums[head]);
        return;
    }
    float* partial = partial_of(args, work, head);
    partial[2 + i % dim] = out;
    if (i % dim == 0) partial[0] = largest[head], partial[1] = sums[head];
}

// Puts the chunks of a row's head together in ascending order, by one warp.
DEVICE void merge(const AttentionArgs& args, uint32_t row, uint32_t head, uint32_t chunks) {
    const uint32_t dim = args.heads.head_dim, lane = threadIdx.x % WARP_SIZE;
    const size_t first = static_cast<size_t>(args.step->row_items[row]) * args.heads.num_heads + head;
    const float* partials = args.partials + first * (dim + 2);
    const size_t stride = static_cast<size_t>(args.heads.num_heads) * (dim + 2);
    float most = -INFINITY;
    for (uint32_t chunk = lane; chunk < chunks; chunk += WARP_SIZE) most = fmaxf(most, load_of_block(partials + chunk * stride));
    most = warp_max(most);
    for (uint32_t base = lane; base < dim; base += 4 * WARP_SIZE) {
        float sum = 0.0f;
        float out[4] = {};
#pragma unroll 4
        for (uint32_t chunk = 0; chunk < chunks; chunk++) {
            const float* partial = partials + chunk * stride;
            const float weight = exp2_approx((load_of_block(partial) - most) * LOG2_E);
            sum = fmaf(weight, load_of_block(partial + 1), sum);
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t d = base + i * WARP_SIZE;
                if (d < dim) out[i] = fmaf(weight, load_of_block(partial + 2 + d), out[i]);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t d = base + i * WARP_SIZE;
            if (d < dim) store_z(args, row, head * dim + d, out[i] / sum);
        }
    }
}

// Merges a row's set of heads if all of its other chunks are done. Which block is the last does not change what it computes.
DEVICE void merge_if_last(const AttentionArgs& args, const Work& work, uint32_t chunks) {
    if (chunks == 1) return;
    SHARED(uint32_t, is_last);
    // This thread's part can be seen before the block is counted.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* arrived = args.arrivals + static_cast<size_t>(work.row) * args.heads.num_heads + work.set.first_head;
        is_last = atomicAdd(arrived, 1u) + 1 == chunks;
        if (is_last) *arrived = 0;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (uint32_t head = threadIdx.x / WARP_SIZE; head < work.set.num_heads; head += ATTENTION_WARPS) {
        merge(args, work.row, work.set.first_head + head, chunks);
    }
}

// Heads of exactly D numbers; sets of up to G query heads (the rest is computed with queries of 0 and thrown away).
template <class C, uint32_t D, uint32_t G>
DEVICE void attn_decode_tuned(const AttentionArgs& args, DecodeSpace<D, G>& space) {
    using T = Tile<C, D>;
    const uint32_t warp = threadIdx.x / WARP_SIZE;
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    const float scale = score_scale(args.heads);
    const uint32_t end = num_works(args, G);
    for (uint32_t idx = blockIdx.x; idx < end; idx += gridDim.x) {
        const Work work = work_at(args, idx, G);
        const uint32_t chunks = num_chunks(args, work.row);
        const float* q = args.q + static_cast<size_t>(work.row) * args.q_stride + static_cast<size_t>(work.set.first_head) * D;
        const CachePlaces cache = cache_places(args, work.row, work.set.kv_head);
        uint32_t places[DECODE_CHUNK / ATTENTION_THREADS];
#pragma unroll
        for (uint32_t n = 0; n < DECODE_CHUNK / ATTENTION_THREADS; n++) {
            const uint32_t i = n * ATTENTION_THREADS + threadIdx.x;
            places[n] = place_of(cache, work.first + (i < work.len ? i : work.len - 1));
        }
        wait_for_earlier();
        // The last work's readers of these two are past the barrier before its final sums.
        for (uint32_t i = threadIdx.x; i < G * D; i += ATTENTION_THREADS) {
            space.q[i / D][i % D] = i < work.set.num_heads * D ? q[i] * scale : 0.0f;
        }
#pragma unroll
        for (uint32_t n = 0; n < DECODE_CHUNK / ATTENTION_THREADS; n++) space.places[n * ATTENTION_THREADS + threadIdx.x] = places[n];
        __syncthreads();
        float out[G][T::WIDTH] = {};
        stream_chunk<C, D, G>(args, space, work.set.num_heads, work.len, out);

        // The ring takes f32[STEP_ROWS][G][D] of each warp.
        float* sums = &space.ring[warp][0][0][0][0] + lane / T::LANES * G * D + lane % T::LANES * T::WIDTH;
        __syncwarp();
#pragma unroll
        for (uint32_t head = 0; head < G; head++) {
#pragma unroll
            for (uint32_t i = 0; i < T::WIDTH; i += 4) {
                store_vector(sums + head * D + i, make_float4(out[head][i], out[head][i + 1], out[head][i + 2], out[head][i + 3]));
            }
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < work.set.num_heads * D; i += ATTENTION_THREADS) {
            float sum = 0.0f;
            for (uint32_t part = 0; part < ATTENTION_WARPS * T::STEP_ROWS; part++) {
                sum += (&space.ring[part / T::STEP_ROWS][0][0][0][0])[part % T::STEP_ROWS * G * D + i];
            }
            keep(args, work, chunks, i, sum, space.largest, space.sums);
        }
        merge_if_last(args, work, chunks);
    }
    // A block without a work, too.
    wait_for_earlier();
}

template <class C>
DEVICE void attn_decode_any(const AttentionArgs& args, ChunkSpace& space) {
    const uint32_t dim = args.heads.head_dim;
    const uint32_t end = num_works(args, MAX_SET);
    for (uint32_t idx = blockIdx.x; idx < end; idx += gridDim.x) {
        const Work work = work_at(args, idx, MAX_SET);
        const uint32_t chunks = num_chunks(args, work.row);
        attend_chunk<C>(args, work.set, work.row, work.first, work.len, space);
        for (uint32_t i = threadIdx.x; i < work.set.num_heads * dim; i += ATTENTION_THREADS) {
            keep(args, work, chunks, i, space.out[i / dim][i % dim], space.largest, space.sums);
        }
        merge_if_last(args, work, chunks);
    }
}

#define DECODE_TUNED(C, D, G)                                                       \
    KERNEL_AHEAD(attn_decode_d##D##_g##G##_##C, AttentionArgs, ATTENTION_THREADS) { \
        using Space = DecodeSpace<D, G>;                                            \
        SHARED(Space, space);                                                       \
        attn_decode_tuned<C, D, G>(args, space);                                    \
    }
#define DECODE(C)                                               \
    DECODE_TUNED(C, 64, 4)                                      \
    DECODE_TUNED(C, 64, 8)                                      \
    DECODE_TUNED(C, 128, 4)                                     \
    DECODE_TUNED(C, 128, 8)                                     \
    KERNEL(attn_decode_##C, AttentionArgs, ATTENTION_THREADS) { \
        SHARED(ChunkSpace, space);                              \
        attn_decode_any<C>(args, space);                        \
    }

DECODE(f32)
DECODE(f16)
DECODE(bf16)
