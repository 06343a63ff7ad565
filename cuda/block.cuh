// Sums that the threads of a block work out together.
#pragma once

#include <type_traits>

#include "launch.cuh"

namespace spicore::cuda {
namespace {

constexpr int kWarps = kThreads / 32;

// Sum over the threads before this one, and over all of the block. T is that of the
// total.
template <class T> __device__ T sum_before(std::common_type_t<T> value, T &total) {
  __shared__ T of_warp[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(~0u, sum, step);
    sum += lane >= step ? other : T(0);
  }
  __syncthreads(); // the sums of the call before have been read
  if (lane == 31)
    of_warp[warp] = sum;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    before += w < warp ? of_warp[w] : T(0);
    total += of_warp[w];
  }
  return before + sum - value;
}

// Sum over the block, in an order that does not depend on the launch.
template <class T> __device__ T sum_of_block(T value) {
  __shared__ T of_warp[kWarps];
  for (int bit = 16; bit > 0; bit /= 2)
    value += __shfl_xor_sync(~0u, value, bit);
  __syncthreads(); // the sums of the call before have been read
  if (threadIdx.x % 32 == 0)
    of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < kWarps; ++w)
    sum += of_warp[w];
  return sum;
}

} // namespace
} // namespace spicore::cuda
