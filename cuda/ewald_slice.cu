#include "spicore/ewald_slice.hpp"

#include "launch.cuh"
#include "sampling.cuh"

namespace spicore::cuda {
namespace {

// Pixels per thread: enough to pay for the rotation that a block waits for first.
constexpr int kPixels = 4;

// Grid: pixels along x, slices along y; a block holds one rotation at a time.
__global__ void __launch_bounds__(kThreads)
    slice_kernel(const float *__restrict__ volume, std::int64_t size,
                 const double *__restrict__ quats, std::int64_t n_slices,
                 const float *__restrict__ q, std::int64_t n_pixels, bool friedel,
                 float *__restrict__ out) {
  __shared__ Rotation rotation;
  const std::int64_t step = std::int64_t(gridDim.x) * kThreads;
  for (std::int64_t r = blockIdx.y; r < n_slices; r += gridDim.y) {
    __syncthreads(); // all are done with the rotation of the slice before
    if (threadIdx.x == 0)
      rotation = rotation_matrix(quats + 4 * r);
    __syncthreads();
    for (std::int64_t t = std::int64_t(blockIdx.x) * kThreads + threadIdx.x; t < n_pixels;
         t += step) {
      const Cell c = locate(rotation, __ldg(q + t), __ldg(q + n_pixels + t),
                            __ldg(q + 2 * n_pixels + t), std::int32_t(size), friedel);
      const float value = c.inside ? interpolate(volume, size, c) : 0.0f;
      __stcs(out + r * n_pixels + t, value); // streamed: leaves L2 to the volume
    }
  }
}

} // namespace

void ewald_slice(const Exec &exec, const float *volume, std::int64_t size,
                 const double *quats, std::int64_t n_slices, const float *q,
                 std::int64_t n_pixels, bool friedel, float *out) {
  if (n_slices == 0 || n_pixels == 0)
    return;
  const dim3 grid(blocks(n_pixels, kThreads * kPixels), blocks(n_slices, 1));
  launch(exec, "ewald_slice", slice_kernel, grid, kThreads, 0, volume, size, quats,
         n_slices, q, n_pixels, friedel, out);
}

} // namespace spicore::cuda
