#pragma once

#include <cstdint>

namespace spicore {

// Which Fourier coefficients along the in-plane angle are kept. Radii run from the
// largest to the smallest, so that a band limit which grows with the radius is a prefix
// of them: order m keeps radii 0 .. radii[m] - 1, or none where it vanishes. Coefficient
// (m, q) is number begin[m] + q.
struct AngularOrders {
  std::int64_t n_angles;     // A: 32, 48, 64, 96, 128, 144, 192, 256, 384 or 512
  std::int64_t n_radii;      // Q
  std::int64_t n_orders;     // orders 0 .. n_orders - 1, at most A / 2 + 1
  const std::int32_t *radii; // [n_orders], at most Q
  const std::int64_t *begin; // [n_orders + 1], begin[0] = 0

  std::int64_t n_coefficients() const { return begin[n_orders]; }
};

// Views that lie side by side in the transformed tomograms.
constexpr int kViewGroup = 16;

} // namespace spicore
