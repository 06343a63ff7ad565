// The part of CUDA that spicore's kernels use, on the CPU: found before the toolkit's
// header of this name, it lets g++ compile the unchanged .cu files as C++.
//
// Blocks run one after the other in the calling thread, their threads as fibers that
// change only at barriers and exchanges of a warp. What comes out of it is what the code
// computes: nothing of its speed, and of its races only those that the order of threads
// (up in one block, down in the next) shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
// All shared variables lie in one section, which is filled with NaN before each block.
#define __shared__ static __attribute__((section("spicore_shared")))

struct float2 {
  float x, y;
};

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)
      : x(x_), y(y_), z(z_) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};

enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

using cudaStream_t = struct Stream *;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

cudaError_t cudaGetLastError();
const char *cudaGetErrorName(cudaError_t status);
const char *cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);

namespace spicore::emulation {

constexpr int kWarp = 32;
constexpr int kMostSharedBytes = 227 << 10; // of a block on an H100

// What the threads of a warp do together once all have come. parts: what each brought,
// and takes away; null for lanes that are not in the mask or have left.
using Together = void (*)(void *const *parts);

void wait_for_block(const char *file, int line);
void wait_for_warp(unsigned mask, void *part, Together together);
int lane();

void *dynamic_shared();
void allow_dynamic_shared(const void *kernel, std::size_t bytes);
cudaError_t run(const cudaLaunchConfig_t &config, const void *kernel,
                void (*body)(void *), void *arguments);

template <class T> struct Shuffled {
  T value;
  int source;
};

template <class T> void shuffle_together(void *const *parts) {
  T given[kWarp];
  std::memset(given, 0xff, sizeof given); // what a lane outside the mask would give
  for (int i = 0; i < kWarp; ++i)
    if (parts[i])
      given[i] = static_cast<Shuffled<T> *>(parts[i])->value;
  for (int i = 0; i < kWarp; ++i)
    if (auto *part = static_cast<Shuffled<T> *>(parts[i]))
      part->value = given[part->source];
}

// The value of lane `source` of the segment of `width` lanes, or one's own beyond it.
template <class T> T shuffle(unsigned mask, T value, int source, int width) {
  static_assert(std::is_arithmetic_v<T>);
  const int first = lane() / width * width;
  const bool inside = source >= first && source < first + width;
  Shuffled<T> part{value, inside ? source : lane()};
  wait_for_warp(mask, &part, &shuffle_together<T>);
  return part.value;
}

unsigned ballot(unsigned mask, bool predicate);

} // namespace spicore::emulation

template <class T>
cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute, int value) {
  spicore::emulation::allow_dynamic_shared(reinterpret_cast<const void *>(kernel),
                                           std::size_t(value));
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config,
                               void (*kernel)(Parameters...), Arguments... arguments) {
  using Call = std::tuple<void (*)(Parameters...), std::decay_t<Parameters>...>;
  static_assert(sizeof(Call) <= 4096, "a kernel takes at most 4 KB of arguments");
  Call call(kernel, std::decay_t<Parameters>(arguments)...);
  const auto body = [](void *data) {
    std::apply([](auto function, auto... values) { function(values...); },
               *static_cast<Call *>(data));
  };
  return spicore::emulation::run(*config, reinterpret_cast<const void *>(kernel), body,
                                 &call);
}

inline cudaError_t cudaMemsetAsync(void *to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

// --- in kernels

#define __syncthreads() spicore::emulation::wait_for_block(__FILE__, __LINE__)

inline void __syncwarp(unsigned mask = ~0u) {
  spicore::emulation::wait_for_warp(mask, nullptr, nullptr);
}

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = spicore::emulation::lane() / width * width;
  return spicore::emulation::shuffle(mask, value, first + source % width, width);
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  return spicore::emulation::shuffle(mask, value, spicore::emulation::lane() ^ bits,
                                     width);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return spicore::emulation::shuffle(mask, value, spicore::emulation::lane() + int(delta),
                                     width);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return spicore::emulation::shuffle(mask, value, spicore::emulation::lane() - int(delta),
                                     width);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return spicore::emulation::ballot(mask, predicate);
}

inline int __any_sync(unsigned mask, int predicate) {
  return spicore::emulation::ballot(mask, predicate) != 0;
}

// Fibers change at barriers alone: what stands in one function is atomic.
template <class T> T atomicAdd(T *to, std::common_type_t<T> value) {
  const T before = *to;
  *to += value;
  return before;
}

template <class T> T atomicMax(T *to, std::common_type_t<T> value) {
  const T before = *to;
  *to = before < value ? value : before;
  return before;
}

template <class T> T __ldg(const T *p) { return *p; }

template <class T> void __stcs(T *p, std::common_type_t<T> value) { *p = value; }

inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline unsigned __float_as_uint(float x) { return unsigned(__float_as_int(x)); }

inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float __uint_as_float(unsigned bits) { return __int_as_float(int(bits)); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int __ffs(int bits) { return __builtin_ffs(bits); }
