// Operations that move or change single rows: embedding, SwiGLU, gather, bias. All of them wait for memory alone.
#include "args.cuh"
#include "device.cuh"
#include "swiglu.cuh"

constexpr uint32_t THREADS = 256;

// Grid: rows.
template <class T>
DEVICE void embed(const EmbedArgs& args) {
    const uint32_t row = blockIdx.x, hidden = args.hidden;
    const StepHeader& step = *args.step;
    const T* from = static_cast<const T*>(args.table) + static_cast<size_t>(step.token_ids[row]) * hidden;
    float* to = args.x + static_cast<size_t>(row) * hidden;
    if (hidden % 4 == 0) {
        for (uint32_t i = 4 * threadIdx.x; i < hidden; i += 4 * THREADS) store4(to + i, load4(from + i));
    } else {
        for (uint32_t i = threadIdx.x; i < hidden; i += THREADS) to[i] = to_float(from[i]);
    }
    if (threadIdx.x == 0) step.relative_norms[row] = 0.0f;
}
KERNEL(embed_f32, EmbedArgs, THREADS) { embed<float>(args); }
KERNEL(embed_f16, EmbedArgs, THREADS) { embed<f16>(args); }
KERNEL(embed_bf16, EmbedArgs, THREADS) { embed<bf16>(args); }

// Grid: rows, width in parts of 4 * THREADS.
template <class T>
DEVICE void swiglu(const SwigluArgs& args) {
    const uint32_t row = blockIdx.x, width = args.width;
    const float* gate = args.gate + static_cast<size_t>(row) * args.stride;
    const float* up = args.up + static_cast<size_t>(row) * args.stride;
    T* to = static_cast<T*>(args.activated) + static_cast<size_t>(row) * width;
    const uint32_t first = 4 * (blockIdx.y * THREADS + threadIdx.x);
    if (first >= width) return;
    if (width % 4 == 0 && takes_load4(gate) && takes_load4(up)) {
        const float4 g = load4(gate + first), u = load4(up + first);
        store4(to + first, make_float4(silu_times(g.x, u.x), silu_times(g.y, u.y), silu_times(g.z, u.z), silu_times(g.w, u.w)));
    } else {
        for (uint32_t i = first; i < min(first + 4, width); i++) to[i] = from_float<T>(silu_times(gate[i], up[i]));
    }
}
KERNEL(swiglu_f32, SwigluArgs, THREADS) { swiglu<float>(args); }
KERNEL(swiglu_f16, SwigluArgs, THREADS) { swiglu<f16>(args); }
KERNEL(swiglu_bf16, SwigluArgs, THREADS) { swiglu<bf16>(args); }

// Grid: wanted rows.
template <class T>
DEVICE void gather(const GatherArgs& args) {
    const uint32_t hidden = args.hidden, per_vector = sizeof(uint4) / sizeof(T);
    const T* from = static_cast<const T*>(args.from) + static_cast<size_t>(args.step->logit_rows[blockIdx.x]) * hidden;
    T* to = static_cast<T*>(args.to) + static_cast<size_t>(blockIdx.x) * hidden;
    if (hidden % per_vector == 0) {
        for (uint32_t i = per_vector * threadIdx.x; i < hidden; i += per_vector * THREADS) {
            store_vector(to + i, load_vector<uint4>(from + i));
        }
    } else {
        for (uint32_t i = threadIdx.x; i < hidden; i += THREADS) to[i] = from[i];
    }
}
// By the size of a number in bits.
KERNEL(gather_32, GatherArgs, THREADS) { gather<uint32_t>(args); }
KERNEL(gather_16, GatherArgs, THREADS) { gather<uint16_t>(args); }

// Grid: rows, features in parts of THREADS. What a library's product leaves out.
KERNEL(add_bias, MatmulArgs, THREADS) {
    const uint32_t feature = blockIdx.y * THREADS + threadIdx.x;
    if (feature >= args.out_features) return;
    args.out[static_cast<size_t>(blockIdx.x) * args.out_stride + feature] += args.bias[feature];
}
