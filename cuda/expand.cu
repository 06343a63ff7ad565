#include "spicore/expand.hpp"

#include "launch.cuh"
#include "sampling.cuh"
#include "spicore/math/elementary.hpp"

namespace spicore::cuda {
namespace {

static_assert(kLanes == 32, "a warp writes the orientations of a panel side by side");
constexpr int kWarps = 32;

struct Input {
  const float *volume;
  std::int64_t size;
  const double *quats;
  std::int64_t n_orientations;
  const float *q;
  std::int64_t n_pixels;
  const float *exposure, *reference;
  bool friedel;
};

// W of one pixel in one orientation.
__device__ float sample(const Input &in, const Rotation &rotation, std::int64_t t) {
  const Cell c =
      locate(rotation, __ldg(in.q + t), __ldg(in.q + in.n_pixels + t),
             __ldg(in.q + 2 * in.n_pixels + t), std::int32_t(in.size), in.friedel);
  return c.inside ? interpolate(in.volume, in.size, c) * __ldg(in.exposure + t) : 0.0f;
}

// A block has a panel, a lane one of its orientations, a warp every 32nd pixel: the
// order of the sums is always the same.
__global__ void __launch_bounds__(kLanes *kWarps)
    expand_kernel(Input in, float *__restrict__ out, double *__restrict__ total) {
  __shared__ double sums[kWarps][kLanes];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const std::int64_t r = std::int64_t(blockIdx.x) * kLanes + lane;
  const bool used = r < in.n_orientations;
  const Rotation rotation = rotation_matrix(in.quats + 4 * (used ? r : 0));
  float *panel = out + blockIdx.x * in.n_pixels * kLanes;
  double sum = 0.0;
  for (std::int64_t t = warp; t < in.n_pixels; t += kWarps) {
    const float w = sample(in, rotation, t);
    sum += w;
    const float value = in.reference ? fast_log(w) - __ldg(in.reference + t) : w;
    panel[t * kLanes + lane] = used ? value : 0.0f;
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || !used)
    return;
  for (int w = 1; w < kWarps; ++w)
    sum += sums[w][lane];
  total[r] = sum;
}

} // namespace

void expand(const Exec &exec, const float *volume, std::int64_t size, const double *quats,
            std::int64_t n_orientations, const float *q, std::int64_t n_pixels,
            const float *exposure, const float *reference, bool friedel, float *out,
            double *total) {
  if (n_orientations == 0)
    return;
  const Input in{volume,   size,     quats,     n_orientations, q,
                 n_pixels, exposure, reference, friedel};
  const dim3 grid(unsigned((n_orientations + kLanes - 1) / kLanes));
  launch(exec, "expand", expand_kernel, grid, kLanes * kWarps, 0, in, out, total);
}

} // namespace spicore::cuda
