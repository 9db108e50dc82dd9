// Draws from what top-k, top-p and min-p keep of a row, as `draw_filtered` in src/sampling/draw.rs does.
//
// What is kept is always the first so many tokens by weight, and few as a rule. So whole bins of `sample_sums`' counts are taken
// from the heaviest on while at most MOST tokens are in them; these are collected, sorted and cut, and what is left is put in
// order of ids for the draw. Where more would be needed the row is left undecided, and the host chooses from its logits.
//
// Arithmetic, not measured, for a vocabulary of 128256: a block of 1024 threads a row reads its 513 kB; at 64 bytes a cycle and
// 1.7 GHz, 5 us. Sorting 2048 keys is 66 steps between barriers.

#include "sample.cuh"

constexpr uint32_t FILTER_THREADS = 1024;
// Tokens of a row that are sorted: a power of two.
constexpr uint32_t MOST = 2048;
// Behind every key.
constexpr uint64_t NO_KEY = ~uint64_t{0};

// A token by weight, the heaviest first, and of equal ones the lower id.
DEVICE uint64_t weight_key(float weight, uint32_t id) { return static_cast<uint64_t>(~bits_of(weight)) << 32 | id; }
DEVICE float weight_in(uint64_t weight_key) { return float_of(~static_cast<uint32_t>(weight_key >> 32)); }
// The same token by id.
DEVICE uint64_t id_key(uint64_t weight_key) { return weight_key << 32 | bits_of(weight_in(weight_key)); }

// Sorts by the whole block, at most MOST keys; there must be room for a power of two (K. E. Batcher's bitonic network).
DEVICE void sort(uint64_t* keys, uint32_t count) {
    uint32_t size = 1;
    while (size < count) size *= 2;
    for (uint32_t i = count + threadIdx.x; i < size; i += FILTER_THREADS) keys[i] = NO_KEY;
    __syncthreads();
    for (uint32_t length = 2; length <= size; length *= 2) {
        for (uint32_t distance = length / 2; distance > 0; distance /= 2) {
            for (uint32_t i = threadIdx.x; i < size / 2; i += FILTER_THREADS) {
                const uint32_t low = 2 * i - (i & (distance - 1)), high = low + distance;
                const uint64_t a = keys[low], b = keys[high];
                if ((a > b) == ((low & length) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            __syncthreads();
        }
    }
}

// The bins that are looked at, and how many tokens of the row weigh anything.
struct Bins {
    uint32_t first;
    uint32_t num_candidates;
};

// From the heaviest bin on, until `wanted` tokens are in them or no more fit.
DEVICE Bins choose_bins(const uint32_t* counts, uint32_t wanted) {
    constexpr uint32_t OWN = SAMPLE_BINS / FILTER_THREADS, WARPS = FILTER_THREADS / WARP_SIZE;
    SHARED(uint32_t[WARPS], of_warps);
    SHARED(uint32_t, num_bins);
    const uint32_t first = threadIdx.x * OWN, warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    // The thread's, the heaviest first, and the one behind them; behind the last is one that never fits.
    uint32_t own[OWN + 1], sum = 0;
    for (uint32_t i = 0; i <= OWN; ++i) {
        own[i] = first + i < SAMPLE_BINS ? counts[SAMPLE_BINS - 1 - first - i] : MOST + 1;
        if (i < OWN) sum += own[i];
    }
    uint32_t reached = sum;
    for (uint32_t distance = 1; distance < WARP_SIZE; distance *= 2) {
        const uint32_t before = __shfl_up_sync(ALL_LANES, reached, distance);
        if (lane >= distance) reached += before;
    }
    if (lane == WARP_SIZE - 1) of_warps[warp] = reached;
    if (threadIdx.x == 0) num_bins = 0;
    __syncthreads();
    uint32_t above = reached - sum, total = 0;
    for (uint32_t other = 0; other < WARPS; ++other) {
        if (other < warp) above += of_warps[other];
        total += of_warps[other];
    }
    const auto takes = [&](uint32_t count) { return above < wanted && above + count <= MOST; };
    for (uint32_t i = 0; i < OWN; ++i) {
        const bool taken = takes(own[i]);
        above += own[i];
        // Of all bins that are taken one is the last.
        if (taken && !takes(own[i + 1])) num_bins = first + i + 1;
    }
    __syncthreads();
    return {SAMPLE_BINS - num_bins, total};
}

// Puts the tokens in these bins into `keys`, in any order, and says how many they are.
DEVICE uint32_t collect(const float* logits, uint32_t vocab_size, float largest, float scale, uint32_t first_bin, uint64_t* keys) {
    SHARED(uint32_t, count);
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    // Below it by more than any rounding, nothing need be weighed.
    const float least = logf(float_of(first_bin << BIN_BITS)) - 0.01f;
#pragma unroll 4
    for (uint32_t id = threadIdx.x; id < vocab_size; id += FILTER_THREADS) {
        const float logit = logits[id];
        if (!(fmaxf(scaled(logit, largest, scale), LEAST_EXPONENT) >= least)) continue;
        const float weight = weight_of(logit, largest, scale);
        if (weight > 0.0f && bin_of(weight) >= first_bin) keys[atomicAdd(&count, 1u)] = weight_key(weight, id);
    }
    __syncthreads();
    return count;
}

// The sum of the row's chunks; only thread 0 knows it.
DEVICE double sum_chunks(const double* sums, uint32_t count) {
    constexpr uint32_t PIECE = 1024;
    SHARED(double[PIECE], piece);
    double total = 0.0;
    for (uint32_t first = 0; first < count; first += PIECE) {
        const uint32_t size = min(PIECE, count - first);
        for (uint32_t i = threadIdx.x; i < size; i += FILTER_THREADS) piece[i] = sums[first + i];
        __syncthreads();
        if (threadIdx.x == 0) {
#pragma unroll 8
            for (uint32_t i = 0; i < size; ++i) total = __dadd_rn(total, piece[i]);
        }
        __syncthreads();
    }
    return total;
}

// Tokens in order of their ids, and the sums of their chunks.
struct ById {
    uint64_t keys[MOST];
    double sums[MOST / CHUNK];

    DEVICE_MEMBER float weight(uint32_t i) const { return float_of(static_cast<uint32_t>(keys[i])); }
    DEVICE_MEMBER uint32_t id(uint32_t i) const { return static_cast<uint32_t>(keys[i] >> 32); }
};

// The first `count` tokens by weight; gives the sum of their weights.
DEVICE double put_by_id(const uint64_t* by_weight, uint32_t count, ById& by_id) {
    for (uint32_t i = threadIdx.x; i < count; i += FILTER_THREADS) by_id.keys[i] = id_key(by_weight[i]);
    sort(by_id.keys, count);
    const uint32_t num_chunks = (count + CHUNK - 1) / CHUNK;
    if (threadIdx.x < num_chunks) {
        const uint32_t first = threadIdx.x * CHUNK, end = min(first + CHUNK, count);
        double sum = 0.0;
        for (uint32_t i = first; i < end; ++i) sum = __dadd_rn(sum, by_id.weight(i));
        by_id.sums[threadIdx.x] = sum;
    }
    __syncthreads();
    double total = 0.0;
    for (uint32_t chunk = 0; chunk < num_chunks; ++chunk) total = __dadd_rn(total, by_id.sums[chunk]);
    return total;
}

// How many of the first tokens by weight are kept; where that is not known, as many are at hand, and perhaps more are kept.
struct Kept {
    uint32_t count;
    bool is_known;
};

// As `keep_top_p` in src/sampling/filter.rs; `wanted` is thread 0's.
DEVICE Kept keep_top_p(const uint64_t* by_weight, Kept kept, double wanted) {
    // Read before they are needed, so that a sum waits for nothing but the one before.
    constexpr uint32_t AHEAD = 8;
    SHARED(Kept, shared);
    if (threadIdx.x == 0) {
        shared = kept;
        double reached = 0.0;
        bool goes_on = true;
        for (uint32_t first = 0; goes_on && first < kept.count; first += AHEAD) {
            float weights[AHEAD];
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; ++i) weights[i] = weight_in(by_weight[first + i]);
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; ++i) {
                goes_on = goes_on && first + i < kept.count;
                if (!goes_on) continue;
                reached = __dadd_rn(reached, weights[i]);
                if (reached >= wanted) {
                    shared = {first + i + 1, true};
                    goes_on = false;
                }
            }
        }
    }
    __syncthreads();
    return shared;
}

// As `keep_min_p` in src/sampling/filter.rs.
DEVICE Kept keep_min_p(const uint64_t* by_weight, Kept kept, float min_p) {
    const float least = __fmul_rn(min_p, weight_in(by_weight[0]));
    uint32_t first = 0, end = kept.count;
    while (first < end) {
        const uint32_t middle = (first + end) / 2;
        if (weight_in(by_weight[middle]) >= least) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return {first, kept.is_known || first < kept.count};
}

// The token that `unit` draws, as `draw_from` in src/sampling/draw.rs; every weight is above 0.
DEVICE uint32_t draw_from(const ById& by_id, uint32_t count, double unit, double total) {
    double rest = __dmul_rn(unit, total);
    const uint32_t chunk = walk(by_id.sums, (count + CHUNK - 1) / CHUNK, rest);
    const uint32_t end = min((chunk + 1) * CHUNK, count);
    for (uint32_t i = chunk * CHUNK; i < end; ++i) {
        rest = __dadd_rn(rest, -static_cast<double>(by_id.weight(i)));
        if (rest < 0.0) return by_id.id(i);
    }
    return by_id.id(end - 1);
}

// The choice from a row of finite logits; only thread 0 knows it.
DEVICE ChosenToken choose(const SampleArgs& args, uint32_t row, float largest) {
    constexpr ChosenToken UNDECIDED = {0, 1, 0};
    SHARED(uint64_t[MOST], by_weight);
    SHARED(ById, by_id);
    const AskHeader ask = args.asks[row];
    const uint32_t vocab_size = args.vocab_size;
    const bool has_top_k = ask.top_k > 0 && ask.top_k < vocab_size;
    const Bins bins = choose_bins(args.counts + row * SAMPLE_BINS, has_top_k ? ask.top_k : MOST);
    // At extreme temperatures a weight may be no number, and is then no candidate.
    if (bins.num_candidates != vocab_size) return UNDECIDED;
    const float* logits = args.logits + static_cast<size_t>(row) * vocab_size;
    const float scale = __fdiv_rn(1.0f, ask.temperature);
    const uint32_t count = collect(logits, vocab_size, largest, scale, bins.first, by_weight);
    if (count == 0) return UNDECIDED;
    sort(by_weight, count);

    Kept kept = {count, count == vocab_size};
    if (has_top_k && ask.top_k <= count) kept = {ask.top_k, true};
    if (ask.top_p < 1.0f) {
        // Of the share of what top-k keeps.
        if (has_top_k && !kept.is_known) return UNDECIDED;
        const double total = has_top_k ? put_by_id(by_weight, kept.count, by_id)
                                       : sum_chunks(args.sums + static_cast<size_t>(row) * num_chunks(args), num_chunks(args));
        kept = keep_top_p(by_weight, kept, __dmul_rn(ask.top_p, total));
    }
    if (ask.min_p > 0.0f) kept = keep_min_p(by_weight, kept, ask.min_p);
    if (!kept.is_known) return UNDECIDED;
    const double total = put_by_id(by_weight, kept.count, by_id);
    return {threadIdx.x == 0 ? draw_from(by_id, kept.count, ask.unit, total) : NONE, 1, 1};
}

// Grid: rows.
KERNEL(sample_filter, SampleArgs, FILTER_THREADS) {
    const uint32_t row = blockIdx.x;
    if (args.asks[row].kind != ASK_FILTERED) return;
    const LargestLogit largest = row_largest(args, row);
    const ChosenToken token = largest.is_finite ? choose(args, row, largest.logit) : ChosenToken{0, 0, 1};
    if (threadIdx.x == 0) args.tokens[row] = token;
}
