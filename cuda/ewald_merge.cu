#include "spicore/ewald_merge.hpp"

#include "launch.cuh"
#include "spicore/math/trilinear.hpp"

namespace spicore::cuda {
namespace {

// Four lanes share a sample: (value, weight) of two neighbours along z are 32 contiguous
// bytes, so the four atomics of one step fall on one or two memory sectors, not on four.
constexpr int kLanesPerSample = 4;
constexpr int kSamples = kThreads / kLanesPerSample; // of a block, in one step
constexpr int kSteps = 4; // enough to pay for the rotation that a block waits for first

struct Input {
  const float *slices, *slice_weights, *pixel_weights;
  std::int64_t stride, n_slices;
  const double *quats;
  const float *q;
  std::int64_t n_pixels, size;
  bool friedel;
};

// Adds one lane's share (one element of the pair, one of two z neighbours) of a sample.
__device__ void scatter(double *accumulator, std::int64_t size, Cell c, int lane,
                        float value, float weight) {
  const int is_weight = lane % 2, z_step = lane / 2;
  const double x1 = c.fx, x0 = 1.0 - x1, y1 = c.fy, y0 = 1.0 - y1;
  const double amount = double(is_weight ? weight : value) * (z_step ? c.fz : 1.0 - c.fz);
  const std::int64_t dy = 2 * size, dx = dy * size;
  double *p = accumulator + c.ix * dx + c.iy * dy + 2 * (c.iz + z_step) + is_weight;
  atomicAdd(p, amount * (x0 * y0));
  atomicAdd(p + dy, amount * (x0 * y1));
  atomicAdd(p + dx, amount * (x1 * y0));
  atomicAdd(p + dx + dy, amount * (x1 * y1));
}

// Grid: pixels along x, slices along y; a block holds one rotation at a time.
__global__ void __launch_bounds__(kThreads) merge_kernel(Input in, double *accumulator) {
  __shared__ Rotation rotation;
  const int lane = threadIdx.x % kLanesPerSample;
  const std::int64_t first =
      std::int64_t(blockIdx.x) * kSamples + threadIdx.x / kLanesPerSample;
  const std::int64_t step = std::int64_t(gridDim.x) * kSamples;
  for (std::int64_t r = blockIdx.y; r < in.n_slices; r += gridDim.y) {
    const float slice_weight = __ldg(in.slice_weights + r);
    if (slice_weight == 0.0f) // the same for the whole block: no barrier is missed
      continue;
    __syncthreads(); // all are done with the rotation of the slice before
    if (threadIdx.x == 0)
      rotation = rotation_matrix(in.quats + 4 * r);
    __syncthreads();
    for (std::int64_t t = first; t < in.n_pixels; t += step) {
      const float weight = slice_weight * __ldg(in.pixel_weights + r * in.stride + t);
      if (weight == 0.0f)
        continue;
      const Cell c =
          locate(rotation, __ldg(in.q + t), __ldg(in.q + in.n_pixels + t),
                 __ldg(in.q + 2 * in.n_pixels + t), std::int32_t(in.size), in.friedel);
      if (c.inside)
        scatter(accumulator, in.size, c, lane, __ldg(in.slices + r * in.n_pixels + t),
                weight);
    }
  }
}

} // namespace

void ewald_merge(const Exec &exec, const float *slices, const float *slice_weights,
                 const float *pixel_weights, std::int64_t stride, std::int64_t n_slices,
                 const double *quats, const float *q, std::int64_t n_pixels,
                 std::int64_t size, bool friedel, double *accumulator) {
  if (n_slices == 0 || n_pixels == 0)
    return;
  const Input in{slices, slice_weights, pixel_weights, stride, n_slices, quats,
                 q,      n_pixels,      size,          friedel};
  const dim3 grid(blocks(n_pixels, kSamples * kSteps), blocks(n_slices, 1));
  launch(exec, "ewald_merge", merge_kernel, grid, kThreads, 0, in, accumulator);
}

} // namespace spicore::cuda
