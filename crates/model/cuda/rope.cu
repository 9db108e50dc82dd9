// Rotates queries and keys by their position, and writes keys and values to the cache.
//
// A thread takes `width` adjacent pairs of a query or key head, one number of each half a pair, or `width` numbers of the
// values. Header, position and angles, which depend on each other, are read while the product before is still at work.
#include "args.cuh"
#include "device.cuh"

constexpr uint32_t THREADS = 256;

template <uint32_t width>
struct Numbers {
    float at[width];
};

template <uint32_t width, class T>
DEVICE Numbers<width> load(const T* from) {
    Numbers<width> numbers;
    if constexpr (width == 4) {
        const float4 four = load4(from);
        numbers = {{four.x, four.y, four.z, four.w}};
    } else {
        numbers.at[0] = to_float(*from);
    }
    return numbers;
}

template <uint32_t width, class T>
DEVICE void store(T* to, const Numbers<width>& numbers) {
    if constexpr (width == 4) {
        store4(to, make_float4(numbers.at[0], numbers.at[1], numbers.at[2], numbers.at[3]));
    } else {
        *to = from_float<T>(numbers.at[0]);
    }
}

// The number in a pool at which a head of a cache row begins.
DEVICE size_t in_pool(const HeadCounts& heads, uint32_t cache_row, uint32_t kv_head) {
    const size_t block = cache_row / heads.block_size, token = cache_row % heads.block_size;
    return ((block * heads.num_kv_heads + kv_head) * heads.block_size + token) * heads.head_dim;
}

template <class T, uint32_t width>
DEVICE void rope_cache(const RopeCacheArgs& args) {
    const HeadCounts& heads = args.heads;
    const uint32_t row = blockIdx.x, half = heads.head_dim / 2;
    const uint32_t parts_of_half = half / width, parts_of_head = heads.head_dim / width;
    const uint32_t rotated = (heads.num_heads + heads.num_kv_heads) * parts_of_half;
    const uint32_t all = rotated + heads.num_kv_heads * parts_of_head;
    const StepHeader& step = *args.step;
    const uint32_t position = step.positions[row], cache_row = step.cache_rows[row];
    // Padding: nobody reads it.
    if (cache_row == NONE) return wait_for_earlier();
    const float* angles = args.angles + static_cast<size_t>(position) * heads.head_dim;
    float* q = args.q + static_cast<size_t>(row) * args.q_stride;
    const float* k = args.k + static_cast<size_t>(row) * args.kv_stride;
    const float* v = args.v + static_cast<size_t>(row) * args.kv_stride;

    for (uint32_t part = blockIdx.y * THREADS + threadIdx.x; part < all; part += gridDim.y * THREADS) {
        if (part >= rotated) {
            wait_for_earlier();
            const uint32_t kv_head = (part - rotated) / parts_of_head, i = (part - rotated) % parts_of_head * width;
            T* to = static_cast<T*>(args.v_pool) + in_pool(heads, cache_row, kv_head);
            store(to + i, load<width>(v + kv_head * heads.head_dim + i));
            continue;
        }
        const uint32_t head = part / parts_of_half, i = part % parts_of_half * width;
        const bool is_key = head >= heads.num_heads;
        const float* from = is_key ? k + (head - heads.num_heads) * heads.head_dim : q + head * heads.head_dim;
        float2 angle[width];
#pragma unroll
        for (uint32_t n = 0; n < width; n++) angle[n] = load_vector<float2>(angles + 2 * (i + n));
        wait_for_earlier();
        const Numbers<width> first = load<width>(from + i), second = load<width>(from + half + i);
        Numbers<width> new_first, new_second;
#pragma unroll
        for (uint32_t n = 0; n < width; n++) {
            new_first.at[n] = first.at[n] * angle[n].x - second.at[n] * angle[n].y;
            new_second.at[n] = second.at[n] * angle[n].x + first.at[n] * angle[n].y;
        }
        if (is_key) {
            T* to = static_cast<T*>(args.k_pool) + in_pool(heads, cache_row, head - heads.num_heads);
            store(to + i, new_first);
            store(to + half + i, new_second);
        } else {
            store(q + head * heads.head_dim + i, new_first);
            store(q + head * heads.head_dim + half + i, new_second);
        }
    }
    // A thread without a part, too.
    wait_for_earlier();
}

// Grid: rows, parts of a row in THREADS (src/gpu/launch.rs counts them).
template <class T>
DEVICE void rope_cache(const RopeCacheArgs& args) {
    const bool in_fours = args.heads.head_dim % 8 == 0 && args.q_stride % 4 == 0 && args.kv_stride % 4 == 0 &&
                          takes_load4(args.q) && takes_load4(args.k) && takes_load4(args.v);
    if (in_fours) {
        rope_cache<T, 4>(args);
    } else {
        rope_cache<T, 1>(args);
    }
}
KERNEL_AHEAD(rope_cache_f32, RopeCacheArgs, THREADS) { rope_cache<float>(args); }
KERNEL_AHEAD(rope_cache_f16, RopeCacheArgs, THREADS) { rope_cache<f16>(args); }
KERNEL_AHEAD(rope_cache_bf16, RopeCacheArgs, THREADS) { rope_cache<bf16>(args); }
