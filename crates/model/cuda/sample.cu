// The next token of each row of logits, chosen as `decide` in src/sampling/ask.rs chooses: equal logits give the equal token.
// So the weights are rounded as on the CPU, and every sum has its order: 64 weights one after the other, then their sums.
//
// Three launches: `sample_largest` finds each row's largest logit in 32 parts; `sample_sums` weighs the rows of which a token is
// drawn and adds up each chunk; `sample_choose` puts the parts together and walks the chunks. A row that asks for its logits
// costs nothing, a greedy one skips the second.
//
// Arithmetic, not measured, for a vocabulary of 128256: a row is 513 kB, read once (greedy) or twice (drawn), mostly from the L2
// cache where the product left it: 128 rows are 66 MB or 131 MB, 15 or 31 us at 4.3 TB/s. The walk is 2004 + at most 2004
// dependent additions of f64; at 8 cycles each and 1.7 GHz, 9 to 19 us, all rows at once.

#include "args.cuh"
#include "device.cuh"

constexpr uint32_t THREADS = 256;
// Weights whose sum is made on its own, as in src/sampling/draw.rs.
constexpr uint32_t CHUNK = 64;
// Chunks of one block of `sample_sums`.
constexpr uint32_t BLOCK_CHUNKS = 64;

constexpr float INFINITE = __builtin_huge_valf();

// e^x to the bits of `exp` in src/kernels/lanes.rs (Cephes `expf`), held at the ends outside -87..=88. Every operation here and
// below is one that nvcc leaves as it stands: it would join a product and a sum into one rounding of its own accord.
DEVICE float exp_rn(float x) {
    constexpr float ROUND = 12582912.0f;
    constexpr float LOG2_E = 1.44269504088896340736f;
    constexpr float LN2_HIGH = 355.0f / 512.0f;
    constexpr float LN2_LOW = -2.1219444e-4f;
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float shifted = __fmaf_rn(x, LOG2_E, ROUND);
    const float n = __fadd_rn(shifted, -ROUND);
    const float r = __fmaf_rn(n, -LN2_LOW, __fmaf_rn(n, -LN2_HIGH, x));
    float poly = 1.9875691e-4f;
    poly = __fmaf_rn(poly, r, 1.3981999e-3f);
    poly = __fmaf_rn(poly, r, 8.333452e-3f);
    poly = __fmaf_rn(poly, r, 4.1665796e-2f);
    poly = __fmaf_rn(poly, r, 1.6666665e-1f);
    poly = __fmaf_rn(poly, r, 0.5f);
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float power_of_two;
    memcpy(&power_of_two, &bits, sizeof bits);
    return __fmul_rn(__fadd_rn(__fmaf_rn(poly, __fmul_rn(r, r), r), 1.0f), power_of_two);
}

DEVICE bool is_finite(float x) { return fabsf(x) < INFINITE; }

// Minus infinity before anything was looked at.
DEVICE LargestLogit nothing() { return {-INFINITE, NONE, 1}; }

// Of equal logits the lower id; what is not a number is never the largest.
DEVICE LargestLogit larger(const LargestLogit& a, const LargestLogit& b) {
    const bool takes_b = b.logit > a.logit || (b.logit == a.logit && b.token_id < a.token_id);
    LargestLogit found = takes_b ? b : a;
    found.is_finite = a.is_finite & b.is_finite;
    return found;
}

// Over the lanes of a warp, in every lane.
DEVICE LargestLogit warp_largest(LargestLogit found) {
    for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2) {
        const LargestLogit other = {__shfl_xor_sync(ALL_LANES, found.logit, distance),
                                    __shfl_xor_sync(ALL_LANES, found.token_id, distance),
                                    __shfl_xor_sync(ALL_LANES, found.is_finite, distance)};
        found = larger(found, other);
    }
    return found;
}

// The row's largest logit from its parts, in every thread of the block.
DEVICE LargestLogit row_largest(const SampleArgs& args, uint32_t row) {
    static_assert(SAMPLE_PARTS == WARP_SIZE, "a part a lane");
    SHARED(LargestLogit, shared);
    if (threadIdx.x < WARP_SIZE) {
        const LargestLogit found = warp_largest(args.largest[row * SAMPLE_PARTS + threadIdx.x]);
        if (threadIdx.x == 0) shared = found;
    }
    __syncthreads();
    return shared;
}

// As `weights` in src/kernels/logits.rs.
DEVICE float weight_of(float logit, float largest, float scale) {
    const float weight = exp_rn(__fmul_rn(__fadd_rn(logit, -largest), scale));
    return logit == -INFINITE ? 0.0f : weight;
}

DEVICE uint32_t num_chunks(const SampleArgs& args) { return (args.vocab_size + CHUNK - 1) / CHUNK; }

// Grid: parts, rows.
KERNEL(sample_largest, SampleArgs, THREADS) {
    const uint32_t part = blockIdx.x, row = blockIdx.y;
    if (args.asks[row].kind == ASK_LOGITS) return;
    const float* logits = args.logits + static_cast<size_t>(row) * args.vocab_size;
    const uint32_t size = (args.vocab_size + SAMPLE_PARTS - 1) / SAMPLE_PARTS;
    const uint32_t end = min((part + 1) * size, args.vocab_size);
    LargestLogit found = nothing();
#pragma unroll 4
    for (uint32_t id = part * size + threadIdx.x; id < end; id += THREADS) {
        const float logit = logits[id];
        found = larger(found, {logit, id, is_finite(logit) ? 1u : 0u});
    }
    SHARED(LargestLogit[THREADS / WARP_SIZE], of_warps);
    found = warp_largest(found);
    if (threadIdx.x % WARP_SIZE == 0) of_warps[threadIdx.x / WARP_SIZE] = found;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (uint32_t warp = 1; warp < THREADS / WARP_SIZE; ++warp) found = larger(found, of_warps[warp]);
    args.largest[row * SAMPLE_PARTS + part] = found;
}

// Grid: chunks in parts of BLOCK_CHUNKS, rows.
KERNEL(sample_sums, SampleArgs, THREADS) {
    // One more a chunk, so that threads with a chunk each read from different banks.
    SHARED(float[BLOCK_CHUNKS * (CHUNK + 1)], weights);
    const uint32_t row = blockIdx.y;
    const AskHeader ask = args.asks[row];
    if (ask.kind != ASK_DRAW) return;
    const LargestLogit largest = row_largest(args, row);
    const float scale = __fdiv_rn(1.0f, ask.temperature);
    const float* logits = args.logits + static_cast<size_t>(row) * args.vocab_size;
    const uint32_t first_chunk = blockIdx.x * BLOCK_CHUNKS, first = first_chunk * CHUNK;
    const uint32_t size = min(BLOCK_CHUNKS * CHUNK, args.vocab_size - first);
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < size; i += THREADS) {
        weights[i / CHUNK * (CHUNK + 1) + i % CHUNK] =
            weight_of(logits[first + i], largest.logit, scale);
    }
    __syncthreads();
    const uint32_t chunk = threadIdx.x;
    if (chunk * CHUNK >= size) return;
    const float* own = weights + chunk * (CHUNK + 1);
    const uint32_t length = min(CHUNK, size - chunk * CHUNK);
    double sum = 0.0;
    for (uint32_t i = 0; i < length; ++i) sum = __dadd_rn(sum, own[i]);
    args.sums[static_cast<size_t>(row) * num_chunks(args) + first_chunk + chunk] = sum;
}

// The chunk in which the draw falls; `rest` is lessened by what lies before it.
DEVICE uint32_t walk(const double* sums, uint32_t count, double& rest) {
    constexpr uint32_t AHEAD = 8;
    uint32_t chunk = 0;
    bool goes_on = true;
    while (goes_on && chunk + AHEAD < count) {
        // Made before any is looked at, so that a difference waits for nothing but the one before.
        double left[AHEAD + 1] = {rest};
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; ++i) left[i + 1] = __dadd_rn(left[i], -sums[chunk + i]);
        uint32_t taken = 0;
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; ++i) {
            goes_on = goes_on && left[i] >= sums[chunk + i];
            if (goes_on) {
                rest = left[i + 1];
                taken = i + 1;
            }
        }
        chunk += taken;
    }
    while (goes_on && chunk + 1 < count && rest >= sums[chunk]) rest = __dadd_rn(rest, -sums[chunk++]);
    return chunk;
}

// The token that the row's number draws; only thread 0 knows it. `sums` has room for all chunks of the row.
DEVICE uint32_t draw(const SampleArgs& args, uint32_t row, const LargestLogit& largest, double* sums) {
    SHARED(uint32_t, drawn_chunk);
    SHARED(float[CHUNK], weights);
    const AskHeader ask = args.asks[row];
    const float scale = __fdiv_rn(1.0f, ask.temperature);
    const float* logits = args.logits + static_cast<size_t>(row) * args.vocab_size;
    const uint32_t count = num_chunks(args);
    for (uint32_t chunk = threadIdx.x; chunk < count; chunk += THREADS) {
        sums[chunk] = args.sums[static_cast<size_t>(row) * count + chunk];
    }
    __syncthreads();
    double rest = 0.0;
    if (threadIdx.x == 0) {
        double total = 0.0;
#pragma unroll 8
        for (uint32_t chunk = 0; chunk < count; ++chunk) total = __dadd_rn(total, sums[chunk]);
        rest = __dmul_rn(ask.unit, total);
        drawn_chunk = walk(sums, count, rest);
    }
    __syncthreads();
    const uint32_t first = drawn_chunk * CHUNK, length = min(CHUNK, args.vocab_size - first);
    if (threadIdx.x < length) {
        weights[threadIdx.x] = weight_of(logits[first + threadIdx.x], largest.logit, scale);
    }
    __syncthreads();
    if (threadIdx.x > 0) return NONE;
    for (uint32_t i = 0; i < length; ++i) {
        rest = __dadd_rn(rest, -static_cast<double>(weights[i]));
        if (rest < 0.0) return first + i;
    }
    // Rounding may leave a crumb behind the last one that weighs anything.
    for (uint32_t id = first + length; id-- > 0;) {
        if (weight_of(logits[id], largest.logit, scale) > 0.0f) return id;
    }
    return largest.token_id;
}

// Grid: rows. Shared memory: 8 bytes a chunk.
KERNEL(sample_choose, SampleArgs, THREADS) {
    DYNAMIC_SHARED(double, sums);
    const uint32_t row = blockIdx.x, kind = args.asks[row].kind;
    if (kind == ASK_LOGITS) return;
    const LargestLogit largest = row_largest(args, row);
    uint32_t id = largest.token_id;
    if (!largest.is_finite) {
        id = 0;
    } else if (kind == ASK_DRAW) {
        id = draw(args, row, largest, sums);
    }
    if (threadIdx.x == 0) args.tokens[row] = {id, largest.is_finite};
}
