#include "spicore/polar_frames.hpp"

#include <algorithm>

#include "angular_fft.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

// Transforms one frame, 16 rings side by side. Photons are sorted by bin.
template <class Transform>
void transform_frame(const std::uint32_t *row, const std::uint16_t *count, std::int64_t n,
                     const AngularOrders &orders, float *out) {
  constexpr int n_angles = Transform::A;
  alignas(64) float rings[n_angles * kWide];
  alignas(64) float spectra[(n_angles + 2) * kWide];
  const float scale = 1.0f / n_angles;
  std::int64_t i = 0;
  for (std::int64_t first = 0; first < orders.n_radii; first += kWide) {
    std::fill(rings, rings + n_angles * kWide, 0.0f);
    for (; i < n; ++i) {
      // In a frame that is not sorted, a row before `first` wraps round and stops it too.
      const std::uint32_t bin = row[i] - std::uint32_t(first) * n_angles;
      if (bin >= kWide * n_angles)
        break;
      rings[bin % n_angles * kWide + bin / n_angles] += count[i];
    }
    Transform::real_to_complex(rings, spectra);
    for (std::int64_t m = 0; m < orders.n_orders; ++m) {
      const std::int64_t kept = std::min<std::int64_t>(kWide, orders.radii[m] - first);
      float *to = out + 2 * (orders.begin[m] + first);
      const float *from = spectra + 2 * kWide * m;
      for (std::int64_t q = 0; q < kept; ++q) {
        to[2 * q] = from[q] * scale;
        to[2 * q + 1] = from[kWide + q] * scale;
      }
    }
  }
}

} // namespace

void polar_frames(const Exec &exec, const Photons &photons, const AngularOrders &orders,
                  float *out) {
  with_angles(orders.n_angles, [&](auto transform) {
#pragma omp parallel for schedule(dynamic, 16) num_threads(exec.threads)
    for (std::int64_t d = 0; d < photons.n_frames; ++d) {
      const std::int64_t begin = photons.begin[d];
      transform_frame<decltype(transform)>(photons.row + begin, photons.count + begin,
                                           photons.orient_end[d] - begin, orders,
                                           out + d * 2 * orders.n_coefficients());
    }
  });
}

} // namespace spicore::cpu::SPICORE_SIMD
