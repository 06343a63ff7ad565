#include "spicore/polar_views.hpp"

#include "angular.cuh"
#include "launch.cuh"
#include "orders.cuh"
#include "spicore/math/elementary.hpp"

namespace spicore::cuda {
namespace {

constexpr int kPieces = kThreads / kViewGroup;

struct Input {
  const float *panels;
  std::int64_t n_bins;
  const float *reference, *exposure;
  int mirrors;
};

// sums += conj(e) I, and conj(e) conj(I) for the mirror image, of one order and ring.
__device__ void add_totals(const float *exposure, float re, float im, int mirrors,
                           int mirror_stride, float *sums) {
  const float er = __ldg(exposure), ei = __ldg(exposure + 1);
  for (int mirror = 0; mirror < mirrors; ++mirror) {
    float *s = sums + mirror * mirror_stride;
    s[0] += er * re + ei * im;
    s[kViewGroup] += er * im - ei * re;
    im = -im;
  }
}

// A block has a group of 16 views, a thread one of them: ring[angle][view] is
// transformed in place, sums[mirror][m][re,im][view] become the totals at the end.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    views_kernel(Input in, DeviceOrders orders, float *logs, float *totals) {
  constexpr int A = Transform::A, n_orders = A / 2 + 1;
  constexpr int spectrum = n_orders * 2 * kViewGroup;
  const int view = threadIdx.x % kViewGroup, piece = threadIdx.x / kViewGroup;
  float *ring = dynamic_shared<float>() + view, *sums = ring + A * kViewGroup;
  for (int i = piece; i < in.mirrors * n_orders * 2; i += kPieces)
    sums[i * kViewGroup] = 0.0f;
  constexpr int per_panel = kLanes / kViewGroup;
  const std::int64_t g = blockIdx.x;
  const float *panel =
      in.panels + g / per_panel * in.n_bins * kLanes + g % per_panel * kViewGroup + view;
  float *group_logs = logs + g * orders.n_coefficients() * 2 * kViewGroup + view;

  for (int step = 0; step < 2 * orders.n_radii; ++step) { // intensity, then logarithm
    const int q = step / 2;
    const bool logarithm = step % 2;
    const float offset = in.reference[q];
    for (int t = piece; t < A; t += kPieces) {
      const float value = panel[(std::int64_t(q) * A + t) * kLanes];
      ring[t * kViewGroup] = logarithm ? fast_log(value) - offset : value;
    }
    __syncthreads();
    for (int j2 = piece; j2 < Transform::columns; j2 += kPieces)
      Transform::forward_column(ring, kViewGroup, j2);
    __syncthreads();
    for (int m1 = piece; m1 <= Transform::half; m1 += kPieces)
      Transform::forward_row(ring, kViewGroup, m1, [&](int m, float re, float im) {
        if (!logarithm) {
          add_totals(in.exposure + 2 * (q * n_orders + m), re, im, in.mirrors, spectrum,
                     sums + 2 * m * kViewGroup);
        } else if (m < orders.n_orders && q < orders.radii(m)) {
          float *to = group_logs + (orders.begin[m] + q) * 2 * kViewGroup;
          to[0] = re;
          to[kViewGroup] = im;
        }
      });
    __syncthreads();
  }

  for (int mirror = 0; mirror < in.mirrors; ++mirror)
    for (int m1 = piece; m1 <= Transform::half; m1 += kPieces)
      Transform::inverse_row(sums + mirror * spectrum, kViewGroup, m1);
  __syncthreads();
  for (int mirror = 0; mirror < in.mirrors; ++mirror) {
    float *to = totals + (g * in.mirrors + mirror) * A * kViewGroup + view;
    for (int j2 = piece; j2 < Transform::columns; j2 += kPieces)
      Transform::inverse_column(
          sums + mirror * spectrum, kViewGroup, j2,
          [&](int j, int, float x) { to[j * kViewGroup] = x * (1.0f / A); });
  }
}

} // namespace

void polar_views(const Exec &exec, const float *panels, std::int64_t n_panels,
                 std::int64_t n_bins, const AngularOrders &orders, const float *reference,
                 const float *exposure, std::int64_t mirrors, float *logs,
                 float *totals) {
  if (n_panels == 0)
    return;
  const Input in{panels, n_bins, reference, exposure, int(mirrors)};
  const unsigned n_groups = unsigned(n_panels) * (kLanes / kViewGroup);
  with_angles(orders.n_angles, [&](auto transform) {
    using Transform = decltype(transform);
    const std::size_t slots = Transform::A + mirrors * (Transform::A / 2 + 1) * 2;
    launch(exec, "polar_views", views_kernel<Transform>, n_groups, kThreads,
           slots * kViewGroup * sizeof(float), in, DeviceOrders(orders), logs, totals);
  });
}

} // namespace spicore::cuda
