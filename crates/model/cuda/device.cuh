// What nvcc and the emulator compile differently: kernel entries, 16-bit floats, vector loads, shuffles, asynchronous copies,
// matrix fragments. Everything else in the kernels is the same C++17 for both.
//
// A kernel: `KERNEL(name, Args, threads) { ... args ... }`, launched with exactly `threads` threads a block, a multiple of 32.
// It may be let begin while the kernel before it ends (programmatic dependent launch, CUDA Programming Guide), and waits there for
// that one's end. `KERNEL_AHEAD` waits where its body says so, in every thread: until `wait_for_earlier` it reads nothing that a
// kernel of the same step writes, and writes nothing at all. Weights, vectors and what the host sent up for the step are there. Its
// body knows `begins_early`, and whether it is worth while to read something first.
// Functions beside it are `DEVICE`, shared arrays `SHARED`. Shuffles and matrix operations are asked by all 32 lanes of a warp.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define KERNEL_AHEAD(name, Args, threads)                                                 \
    DEVICE void name##_body(const Args& args, bool begins_early);                         \
    extern "C" __global__ void __launch_bounds__(threads)                                 \
        name(const __grid_constant__ Args args, const __grid_constant__ uint32_t early) { \
        let_next_begin();                                                                 \
        name##_body(args, early != 0);                                                    \
    }                                                                                     \
    DEVICE void name##_body(const Args& args, [[maybe_unused]] bool begins_early)
#define KERNEL(name, Args, threads)                                                       \
    DEVICE void name##_waited(const Args& args);                                          \
    KERNEL_AHEAD(name, Args, threads) {                                                   \
        wait_for_earlier();                                                               \
        name##_waited(args);                                                              \
    }                                                                                     \
    DEVICE void name##_waited(const Args& args)
// A shared array, 16-byte aligned, with undefined contents: `SHARED(float[8], sums)`.
#define SHARED(Type, name)    \
    using name##_type = Type; \
    __shared__ __align__(16) name##_type name
// The launch's shared memory, 128-byte aligned, as `Type* name`.
#define DYNAMIC_SHARED(Type, name)                                  \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    Type* name = reinterpret_cast<Type*>(dynamic_shared)

// Lets the next kernel begin as soon as every block of this one has come here, and there is room beside them.
DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// Waits until the kernels before this one have ended and everything that they wrote can be seen.
DEVICE void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

using f16 = __half;
using bf16 = __nv_bfloat16;

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(f16 x) { return __half2float(x); }
DEVICE float to_float(bf16 x) { return __bfloat162float(x); }

// The nearest value of T, ties to even.
template <class T>
DEVICE T from_float(float x) {
    if constexpr (std::is_same_v<T, f16>) {
        return __float2half_rn(x);
    } else if constexpr (std::is_same_v<T, bf16>) {
        return __float2bfloat16_rn(x);
    } else {
        return x;
    }
}

// Loads and stores of 4, 8 or 16 bytes at a place that is a multiple of that.
template <class V>
DEVICE V load_vector(const void* from) { return *static_cast<const V*>(from); }
template <class V>
DEVICE void store_vector(void* to, V value) { *static_cast<V*>(to) = value; }

// What another block of the same launch wrote before a `__threadfence`: a read past this multiprocessor's cache.
DEVICE float load_of_block(const float* from) { return __ldcg(from); }

DEVICE uint32_t shared_address(const void* place) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(place));
}

// Copies 16 bytes from global to shared memory, or zeros where there is nothing to copy; visible after `cp_async_wait`.
DEVICE void cp_async_16(void* to_shared, const void* from, bool there = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}
// Makes one group of the copies asked since the last group.
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` groups of this thread are under way; other threads see them after `__syncthreads`.
template <int pending>
DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

// Loads four 8x8 matrices of 16-bit numbers from shared memory; lanes 8m..8m+7 name the rows of matrix m (PTX ISA, ldmatrix).
DEVICE void ldmatrix_x4(uint32_t (&matrices)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// As `ldmatrix_x4`, each matrix transposed.
DEVICE void ldmatrix_x4_trans(uint32_t (&matrices)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a b of a 16x16 by a 16x8 matrix, in fragments (PTX ISA, mma.m16n8k16). With g = lane / 4 and t = lane % 4:
// a: rows g, g+8, g, g+8 at columns 2t..2t+1, twice, then 2t+8..2t+9, twice; b: rows 2t..2t+1, then 2t+8..2t+9, of column g;
// d: columns 2t, 2t+1 of row g, then of row g+8. The lower half of a register has the lower index.
template <class T>
DEVICE void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (std::is_same_v<T, f16>) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        static_assert(std::is_same_v<T, bf16>, "f16 or bf16");
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
}

#else
#include "emulator/shim.h"
#endif

constexpr uint32_t WARP_SIZE = 32;
constexpr uint32_t ALL_LANES = 0xFFFFFFFFu;

// Two numbers in one register, the first in the lower half.
template <class T>
DEVICE uint32_t pack2(float low, float high) {
    const T pair[2] = {from_float<T>(low), from_float<T>(high)};
    uint32_t packed;
    memcpy(&packed, pair, sizeof packed);
    return packed;
}
template <class T>
DEVICE float2 unpack2(uint32_t packed) {
    T pair[2];
    memcpy(pair, &packed, sizeof packed);
    return make_float2(to_float(pair[0]), to_float(pair[1]));
}

// The sum over the lanes of a warp, in every lane: pairs at distance 16, 8, 4, 2, 1.
DEVICE float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}
DEVICE float warp_max(float value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// Four numbers as f32; the place is a multiple of their size.
template <class T>
DEVICE float4 load4(const T* from) {
    if constexpr (std::is_same_v<T, float>) {
        return load_vector<float4>(from);
    } else {
        const uint2 packed = load_vector<uint2>(from);
        const float2 low = unpack2<T>(packed.x), high = unpack2<T>(packed.y);
        return make_float4(low.x, low.y, high.x, high.y);
    }
}
template <class T>
DEVICE void store4(T* to, float4 values) {
    if constexpr (std::is_same_v<T, float>) {
        store_vector(to, values);
    } else {
        store_vector(to, make_uint2(pack2<T>(values.x, values.y), pack2<T>(values.z, values.w)));
    }
}

// Whether `load4` may read f32 there.
DEVICE bool takes_load4(const float* place) { return reinterpret_cast<uintptr_t>(place) % sizeof(float4) == 0; }
