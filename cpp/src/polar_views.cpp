#include "spicore/polar_views.hpp"

#include <algorithm>

#include "angular_fft.hpp"
#include "spicore/math/elementary.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

// sums += conj(e) I, and conj(e) conj(I) for the mirror image, at all orders of one ring.
void add_totals(const float *exposure, const float *spectra, std::int64_t n_orders,
                std::int64_t mirrors, float *sums) {
  for (std::int64_t m = 0; m < n_orders; ++m) {
    const float er = exposure[2 * m], ei = exposure[2 * m + 1];
    const float *re = spectra + 2 * kWide * m, *im = re + kWide;
    for (std::int64_t mirror = 0; mirror < mirrors; ++mirror) {
      const float sign = mirror ? -1.0f : 1.0f;
      float *sr = sums + (mirror * n_orders + m) * 2 * kWide, *si = sr + kWide;
#pragma omp simd
      for (int lane = 0; lane < kWide; ++lane) {
        sr[lane] += er * re[lane] + ei * (sign * im[lane]);
        si[lane] += er * (sign * im[lane]) - ei * re[lane];
      }
    }
  }
}

// One group of 16 views. ring: their values [A][32] within a panel of 32.
template <class Transform>
void transform_group(const float *panel, const AngularOrders &orders,
                     const float *reference, const float *exposure, std::int64_t mirrors,
                     float *logs, float *totals) {
  constexpr int n_angles = Transform::A, n_orders = n_angles / 2 + 1;
  alignas(64) float ring[n_angles * kWide], spectra[n_orders * 2 * kWide];
  alignas(64) float sums[2 * n_orders * 2 * kWide] = {};
  for (std::int64_t q = 0; q < orders.n_radii; ++q) {
    const float *values = panel + q * n_angles * kLanes;
    for (int t = 0; t < n_angles; ++t)
      std::copy(values + t * kLanes, values + t * kLanes + kWide, ring + t * kWide);
    Transform::real_to_complex(ring, spectra);
    add_totals(exposure + q * n_orders * 2, spectra, n_orders, mirrors, sums);
    const float offset = reference[q];
#pragma omp simd
    for (int i = 0; i < n_angles * kWide; ++i)
      ring[i] = fast_log(ring[i]) - offset;
    Transform::real_to_complex(ring, spectra);
    for (std::int64_t m = 0; m < orders.n_orders; ++m)
      if (orders.radii[m] > q)
        std::copy(spectra + 2 * kWide * m, spectra + 2 * kWide * (m + 1),
                  logs + (orders.begin[m] + q) * 2 * kWide);
  }
  for (float &x : sums)
    x *= 1.0f / n_angles;
  for (std::int64_t mirror = 0; mirror < mirrors; ++mirror)
    Transform::complex_to_real(sums + mirror * n_orders * 2 * kWide,
                               totals + mirror * n_angles * kWide);
}

} // namespace

void polar_views(const Exec &exec, const float *panels, std::int64_t n_panels,
                 std::int64_t n_bins, const AngularOrders &orders, const float *reference,
                 const float *exposure, std::int64_t mirrors, float *logs,
                 float *totals) {
  constexpr int per_panel = kLanes / kWide;
  with_angles(orders.n_angles, [&](auto transform) {
#pragma omp parallel for schedule(dynamic) num_threads(exec.threads)
    for (std::int64_t g = 0; g < n_panels * per_panel; ++g)
      transform_group<decltype(transform)>(
          panels + g / per_panel * n_bins * kLanes + g % per_panel * kWide, orders,
          reference, exposure, mirrors, logs + g * orders.n_coefficients() * 2 * kWide,
          totals + g * mirrors * orders.n_angles * kWide);
  });
}

} // namespace spicore::cpu::SPICORE_SIMD
