#include "spicore/posterior.hpp"

#include <cmath>

#include "block.cuh"
#include "spicore/math/elementary.hpp"

namespace spicore::cuda {
namespace {

constexpr float kNever = -INFINITY;

// The largest exponent of a frame, of equals the first.
struct Best {
  float value = kNever;
  std::int64_t index = 0;

  __device__ void take(float other, std::int64_t at) {
    if (other > value || (other == value && at < index)) {
      value = other;
      index = at;
    }
  }
};

__device__ Best best_of_block(Best best) {
  __shared__ float value[kWarps];
  __shared__ std::int64_t index[kWarps];
  for (int bit = 16; bit > 0; bit /= 2)
    best.take(__shfl_xor_sync(~0u, best.value, bit),
              __shfl_xor_sync(~0u, best.index, bit));
  __syncthreads(); // those of the call before have been read
  if (threadIdx.x % 32 == 0) {
    value[threadIdx.x / 32] = best.value;
    index[threadIdx.x / 32] = best.index;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w)
    best.take(value[w], index[w]);
  return best;
}

// One frame.
struct Row {
  float *ll;
  const float *log_prior;
  float beta, prior_power;

  // The same in every pass, whatever the compiler fuses.
  __device__ float exponent(std::int64_t r) const {
    return std::fma(beta, ll[r], prior_power * __ldg(log_prior + r));
  }
};

// information[d] = log of the prior's sum, until the frame's own is known. One block.
__global__ void __launch_bounds__(kThreads)
    prior_kernel(const float *log_prior, std::int64_t n_orientations,
                 std::int64_t n_frames, double *information) {
  double sum = 0.0;
  for (std::int64_t r = threadIdx.x; r < n_orientations; r += kThreads)
    sum += std::exp(double(__ldg(log_prior + r)));
  const double log_sum = std::log(sum_of_block(sum));
  for (std::int64_t d = threadIdx.x; d < n_frames; d += kThreads)
    information[d] = log_sum;
}

struct Outputs {
  std::int64_t *best;
  double *expected_ll, *information, *expected_total;
};

struct Sums {
  double norm = 0.0, ll = 0.0, information = 0.0, total = 0.0;
};

// A block has a frame. Three passes over its row, which stays in the caches: the largest
// exponent, the sums in double, the probabilities. No sum depends on the launch.
__global__ void __launch_bounds__(kThreads)
    posterior_kernel(float *ll, std::int64_t n_frames, std::int64_t n,
                     std::int64_t stride, const float *beta, const float *prior_power,
                     const float *log_prior, float cut, const double *total,
                     Outputs out) {
  for (std::int64_t d = blockIdx.x; d < n_frames; d += gridDim.x) {
    const Row row{ll + d * stride, log_prior, __ldg(beta + d), __ldg(prior_power + d)};
    Best best;
    for (std::int64_t r = threadIdx.x; r < n; r += kThreads)
      best.take(row.exponent(r), r);
    best = best_of_block(best);
    Sums sums;
    for (std::int64_t r = threadIdx.x; r < n; r += kThreads) {
      const float s = row.exponent(r) - best.value;
      if (!(s >= -cut))
        continue;
      const double p = fast_exp(s);
      sums.norm += p;
      sums.ll += p * row.ll[r];
      sums.information += p * (double(s) - double(__ldg(log_prior + r)));
      sums.total += p * __ldg(total + r);
    }
    sums.norm = sum_of_block(sums.norm);
    sums.ll = sum_of_block(sums.ll);
    sums.information = sum_of_block(sums.information);
    sums.total = sum_of_block(sums.total);
    const float scale = float(1.0 / sums.norm);
    for (std::int64_t r = threadIdx.x; r < n; r += kThreads) {
      const float s = row.exponent(r) - best.value;
      row.ll[r] = s >= -cut ? fast_exp(s) * scale : 0.0f;
    }
    if (threadIdx.x == 0) {
      out.best[d] = best.index;
      out.expected_ll[d] = sums.ll / sums.norm;
      out.information[d] += sums.information / sums.norm - std::log(sums.norm);
      out.expected_total[d] = sums.total / sums.norm;
    }
  }
}

} // namespace

void posterior(const Exec &exec, float *ll, std::int64_t n_frames,
               std::int64_t n_orientations, std::int64_t stride, const float *beta,
               const float *prior_power, const float *log_prior, float cut,
               const double *total, std::int64_t *best, double *expected_ll,
               double *information, double *expected_total) {
  if (n_frames == 0)
    return;
  launch(exec, "posterior", prior_kernel, 1, kThreads, 0, log_prior, n_orientations,
         n_frames, information);
  const Outputs out{best, expected_ll, information, expected_total};
  launch(exec, "posterior", posterior_kernel, blocks(n_frames, 1), kThreads, 0, ll,
         n_frames, n_orientations, stride, beta, prior_power, log_prior, cut, total, out);
}

} // namespace spicore::cuda
