// The part of CUDA that the kernels use, for g++: a thread of a block is a fiber, and whatever waits for other threads yields.
//
// What a warp does together (shuffles, ldmatrix, mma) is an exchange: every lane leaves its part, waits for the others, and
// takes what is its own. Fragments lie as the PTX ISA says for each instruction, so a kernel with another layout in mind gets
// wrong numbers here too.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define DEVICE static inline __attribute__((unused))
#define DEVICE_MEMBER inline
#define KERNEL_AHEAD(name, Args, threads)                                                            \
    static void name(const Args& args, bool begins_early);                                          \
    static const emulator::Kernel name##_kernel(#name, sizeof(Args), threads, [](const void* args) { \
        emulator::begin_ahead();                                                                     \
        name(*static_cast<const Args*>(args), emulator::begins_early());                            \
        emulator::end_ahead();                                                                       \
    });                                                                                             \
    static void name(const Args& args, [[maybe_unused]] bool begins_early)
#define KERNEL(name, Args, threads)            \
    static void name##_waited(const Args& args); \
    KERNEL_AHEAD(name, Args, threads) {        \
        wait_for_earlier();                    \
        name##_waited(args);                   \
    }                                          \
    static void name##_waited(const Args& args)
#define SHARED(Type, name)                            \
    static emulator::SharedValues<Type> name##_values; \
    auto& name = name##_values.values
#define DYNAMIC_SHARED(Type, name) Type* name = reinterpret_cast<Type*>(emulator::dynamic_shared())

struct Index {
    uint32_t x, y, z;
};
extern Index threadIdx, blockIdx, blockDim, gridDim;
void wait_for_earlier();

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class T>
T min(T a, T b) { return b < a ? b : a; }
template <class T>
T max(T a, T b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
template <class T>
T __ldg(const T* from) { return *from; }
// A fiber is not interrupted.
inline uint32_t atomicAdd(uint32_t* place, uint32_t value) {
    const uint32_t before = *place;
    *place += value;
    return before;
}

namespace emulator {

// A kernel that the launch command finds by its name.
struct Kernel {
    using Run = void (*)(const void* args);
    Kernel(const char* name, size_t args_size, uint32_t threads, Run run);

    const char* name;
    size_t args_size;
    uint32_t threads;
    Run run;
    const Kernel* next;
};

// A shared array: poisoned before each block.
struct SharedArray {
    SharedArray(void* start, size_t size);

    unsigned char* start;
    size_t size;
    const SharedArray* next;
};

template <class T>
struct SharedValues {
    alignas(16) T values;
    SharedArray array{&values, sizeof values};
};

// Ends the launch, and the program, with this text.
[[noreturn]] void fail(const char* what);
// Waits for all threads of the block that have not ended.
void block_barrier();
// Bytes of one lane's part of an exchange.
constexpr size_t PART = 32;
// Leaves this lane's part, waits for the other 31, and gives all parts, PART bytes each, until the next exchange but one.
// All lanes must ask for the same operation.
const unsigned char* exchange(const char* operation, const void* part, size_t size);
// A thread that is to wait for the kernels before its own: between these two it must call the third.
void begin_ahead();
void end_ahead();
void wait_for_earlier();
// So in one of the two orders of a launch.
bool begins_early();
unsigned char* dynamic_shared();
bool is_shared(const void* place, size_t size);
bool is_global(const void* place, size_t size);
// Copies at once in one of the two orders of a launch, and as late as allowed in the other.
void async_copy(void* to, const void* from, bool there);
void async_commit();
void async_wait(uint32_t pending);

template <class To, class From>
To copied(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <class T>
T part_of(const unsigned char* parts, uint32_t lane) {
    T value;
    memcpy(&value, parts + PART * lane, sizeof value);
    return value;
}

inline uint32_t lane() { return threadIdx.x % 32; }

inline void require(bool holds, const char* what) {
    if (!holds) fail(what);
}

inline bool is_aligned(const void* place, size_t bytes) { return reinterpret_cast<uintptr_t>(place) % bytes == 0; }

template <class T>
T shuffle(const char* operation, uint32_t mask, T value, uint32_t from_lane) {
    static_assert(sizeof(T) <= PART && std::is_trivially_copyable_v<T>);
    require(mask == 0xFFFFFFFFu, "a shuffle without all lanes");
    const unsigned char* parts = exchange(operation, &value, sizeof value);
    return part_of<T>(parts, from_lane < 32 ? from_lane : lane());
}

}  // namespace emulator

inline void __threadfence() {}
inline float load_of_block(const float* from) { return *from; }
inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::exchange("syncwarp", nullptr, 0); }
template <class T>
T __shfl_sync(uint32_t mask, T value, int from) { return emulator::shuffle("shfl", mask, value, from % 32); }
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int distance) {
    return emulator::shuffle("shfl.xor", mask, value, emulator::lane() ^ distance);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, uint32_t distance) {
    return emulator::shuffle("shfl.down", mask, value, emulator::lane() + distance);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, uint32_t distance) {
    return emulator::shuffle("shfl.up", mask, value, emulator::lane() - distance);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
    emulator::require(mask == 0xFFFFFFFFu, "a ballot without all lanes");
    const unsigned char* parts = emulator::exchange("ballot", &predicate, sizeof predicate);
    uint32_t ballot = 0;
    for (uint32_t lane = 0; lane < 32; lane++) ballot |= (emulator::part_of<int>(parts, lane) != 0 ? 1u : 0u) << lane;
    return ballot;
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) == 0xFFFFFFFFu; }

// IEEE 754 binary16.
struct f16 {
    uint16_t bits;
};
// The upper half of a binary32.
struct bf16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return emulator::copied<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(f16 x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7FFFu;
    float value;
    if (magnitude < 0x0400) {
        value = static_cast<float>(magnitude) * 0x1p-24f;
    } else if (magnitude < 0x7C00) {
        value = emulator::copied<float>((magnitude << 13) + 0x38000000u);
    } else {
        value = emulator::copied<float>((magnitude << 13) + 0x70000000u);
    }
    return emulator::copied<float>(emulator::copied<uint32_t>(value) | sign);
}

inline uint16_t bf16_bits(float x) {
    const uint32_t bits = emulator::copied<uint32_t>(x);
    if (std::isnan(x)) return 0x7FFF;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline uint16_t f16_bits(float x) {
    const uint32_t bits = emulator::copied<uint32_t>(x), magnitude = bits & 0x7FFFFFFFu;
    const uint16_t sign = bits >> 16 & 0x8000u;
    if (std::isnan(x)) return 0x7FFF;
    // From half way between the largest number and 2^16.
    if (magnitude >= 0x477FF000u) return sign | 0x7C00;
    if (magnitude < 0x38800000u) return sign | static_cast<uint16_t>(nearbyintf(fabsf(x) * 0x1p24f));
    return sign | static_cast<uint16_t>((magnitude + 0x0FFF + (magnitude >> 13 & 1) - 0x38000000u) >> 13);
}
template <class T>
T from_float(float x) {
    if constexpr (std::is_same_v<T, f16>) {
        return {f16_bits(x)};
    } else if constexpr (std::is_same_v<T, bf16>) {
        return {bf16_bits(x)};
    } else {
        return x;
    }
}

template <class V>
V load_vector(const void* from) {
    emulator::require(emulator::is_aligned(from, sizeof(V)), "a vector load at a place that is no multiple of its size");
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}
template <class V>
void store_vector(void* to, V value) {
    emulator::require(emulator::is_aligned(to, sizeof(V)), "a vector store at a place that is no multiple of its size");
    memcpy(to, &value, sizeof value);
}

inline void cp_async_16(void* to, const void* from, bool there = true) {
    emulator::require(emulator::is_aligned(to, 16) && emulator::is_aligned(from, 16), "cp.async at a place that is no multiple of 16");
    emulator::require(emulator::is_shared(to, 16), "cp.async to a place that is not shared memory");
    emulator::require(!there || emulator::is_global(from, 16), "cp.async from a place that is not global memory");
    emulator::async_copy(to, from, there);
}
inline void cp_async_commit() { emulator::async_commit(); }
template <int pending>
void cp_async_wait() { emulator::async_wait(pending); }

namespace emulator {

// PTX ISA, ldmatrix: lane l gets of each matrix row l / 4, columns 2 (l % 4) and the next; transposed: those rows of column l / 4.
inline void load_matrices(uint32_t (&matrices)[4], const void* row, bool transposed) {
    require(is_aligned(row, 16) && is_shared(row, 16), "ldmatrix of a row that is not 16 bytes of shared memory at a multiple of 16");
    const unsigned char* parts = exchange(transposed ? "ldmatrix.trans" : "ldmatrix", &row, sizeof row);
    const uint32_t first = lane() / 4, second = 2 * (lane() % 4);
    for (uint32_t m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t r = transposed ? second + i : first, c = transposed ? first : second + i;
            memcpy(&pair[i], part_of<const uint16_t*>(parts, 8 * m + r) + c, sizeof pair[i]);
        }
        memcpy(&matrices[m], pair, sizeof pair);
    }
    // One instruction: no lane writes to the matrices before all have read.
    exchange("ldmatrix's end", nullptr, 0);
}

struct Factors {
    uint32_t a[4], b[2];
};

template <class T>
float half_of(uint32_t packed, uint32_t half) {
    return to_float(T{static_cast<uint16_t>(packed >> 16 * half)});
}

}  // namespace emulator

inline void ldmatrix_x4(uint32_t (&matrices)[4], const void* row) { emulator::load_matrices(matrices, row, false); }
inline void ldmatrix_x4_trans(uint32_t (&matrices)[4], const void* row) { emulator::load_matrices(matrices, row, true); }

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type". With g = lane / 4, t = lane % 4, and i the index of a
// number in a lane's fragment: a_i at row g + 8 [i is 2, 3, 6, 7], column 2t + i % 2 + 8 [i >= 4]; b_i at row 2t + i % 2 +
// 8 [i >= 2], column g; d_i at row g + 8 [i >= 2], column 2t + i % 2.
template <class T>
void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const emulator::Factors own{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char* parts = emulator::exchange(std::is_same_v<T, f16> ? "mma.f16" : "mma.bf16", &own, sizeof own);
    const uint32_t g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (uint32_t k = 0; k < 16; k++) {
        const uint32_t pair = k % 8 / 2, upper = k / 8, half = k % 2;
        const auto rows = emulator::part_of<emulator::Factors>(parts, 4 * g + pair);
        for (uint32_t i = 0; i < 4; i++) {
            const auto column = emulator::part_of<emulator::Factors>(parts, 4 * (2 * t + i % 2) + pair);
            d[i] += emulator::half_of<T>(rows.a[2 * upper + i / 2], half) * emulator::half_of<T>(column.b[upper], half);
        }
    }
}
