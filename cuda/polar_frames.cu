#include "spicore/polar_frames.hpp"

#include "angular.cuh"
#include "launch.cuh"
#include "orders.cuh"

namespace spicore::cuda {
namespace {

constexpr int kRings = 16; // transformed side by side
constexpr int kPieces = kThreads / kRings;

// Photons of one frame in `kRings` rings from `first` on, as counts[angle][ring].
template <int A>
__device__ void bin_photons(const Photons &photons, std::int64_t d, int first,
                            unsigned *counts) {
  for (int i = threadIdx.x; i < A * kRings; i += kThreads)
    counts[i] = 0;
  __syncthreads();
  const std::int64_t end = photons.orient_end[d];
  for (std::int64_t i = photons.begin[d] + threadIdx.x; i < end; i += kThreads) {
    const unsigned bin = photons.row[i] - unsigned(first) * A; // wraps below `first`
    if (bin < unsigned(kRings * A))
      atomicAdd(counts + bin % A * kRings + bin / A, unsigned(photons.count[i]));
  }
  __syncthreads();
}

// A block has a frame at a time. Counts are summed as integers: in any order the same.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    frames_kernel(Photons photons, DeviceOrders orders, float *out) {
  constexpr int A = Transform::A;
  unsigned *counts = dynamic_shared<unsigned>();
  float *x = dynamic_shared<float>();
  const int ring = threadIdx.x % kRings, piece = threadIdx.x / kRings;
  for (std::int64_t d = blockIdx.x; d < photons.n_frames; d += gridDim.x)
    for (int first = 0; first < orders.n_radii; first += kRings) {
      bin_photons<A>(photons, d, first, counts);
      for (int i = threadIdx.x; i < A * kRings; i += kThreads)
        x[i] = float(counts[i]);
      __syncthreads();
      for (int j2 = piece; j2 < Transform::columns; j2 += kPieces)
        Transform::forward_column(x + ring, kRings, j2);
      __syncthreads();
      float *to = out + 2 * (d * orders.n_coefficients() + first + ring);
      for (int m1 = piece; m1 <= Transform::half; m1 += kPieces)
        Transform::forward_row(x + ring, kRings, m1, [&](int m, float re, float im) {
          if (m >= orders.n_orders || first + ring >= orders.radii(m))
            return;
          to[2 * orders.begin[m]] = re * (1.0f / A);
          to[2 * orders.begin[m] + 1] = im * (1.0f / A);
        });
      __syncthreads(); // before the next rings take the place
    }
}

} // namespace

void polar_frames(const Exec &exec, const Photons &photons, const AngularOrders &orders,
                  float *out) {
  if (photons.n_frames == 0)
    return;
  with_angles(orders.n_angles, [&](auto transform) {
    using Transform = decltype(transform);
    launch(exec, "polar_frames", frames_kernel<Transform>, blocks(photons.n_frames, 1),
           kThreads, Transform::A * kRings * sizeof(float), photons, DeviceOrders(orders),
           out);
  });
}

} // namespace spicore::cuda
