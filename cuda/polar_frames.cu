#include "spicore/polar_frames.hpp"

#include "frame_rings.cuh"
#include "orders.cuh"

namespace spicore::cuda {
namespace {

// A block has a frame at a time.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    frames_kernel(Photons photons, DeviceOrders orders, float *out) {
  constexpr unsigned no_fold = ~0u; // only rows that orient are read
  for (std::int64_t d = blockIdx.x; d < photons.n_frames; d += gridDim.x)
    for (int first = 0; first < orders.n_radii; first += kRings)
      transform_rings<Transform>(
          photons, photons.begin[d], photons.orient_end[d], no_fold, first,
          [&](int ring, int m, float re, float im) {
            if (m >= orders.n_orders || ring >= orders.radii(m))
              return;
            float *to = out + 2 * (d * orders.n_coefficients() + orders.begin[m] + ring);
            to[0] = re * (1.0f / Transform::A);
            to[1] = im * (1.0f / Transform::A);
          });
}

} // namespace

void polar_frames(const Exec &exec, const Photons &photons, const AngularOrders &orders,
                  float *out) {
  if (photons.n_frames == 0)
    return;
  with_angles(orders.n_angles, [&](auto transform) {
    using Transform = decltype(transform);
    launch(exec, "polar_frames", frames_kernel<Transform>, blocks(photons.n_frames, 1),
           kThreads, ring_bytes(Transform::A), photons, DeviceOrders(orders), out);
  });
}

} // namespace spicore::cuda
