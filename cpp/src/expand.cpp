#include "spicore/expand.hpp"

#include <algorithm>

#include "sampling.hpp"
#include "spicore/math/elementary.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

// Makes W, or log W - reference, of one block of pixels; returns the sum of W.
inline double tomogram_block(const float *exposure, const float *reference, int n,
                             float *values) {
  float sum = 0.0f; // at most kBlock terms
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) {
    values[i] *= exposure[i];
    sum += values[i];
  }
  if (reference) {
#pragma omp simd
    for (int i = 0; i < n; ++i)
      values[i] = fast_log(values[i]) - reference[i];
  }
  return sum;
}

void expand_panel(const float *volume, std::int32_t size, const double *quats, int lanes,
                  const float *q, std::int64_t n_pixels, const float *exposure,
                  const float *reference, bool friedel, float *out, double *total) {
  Rotation rotations[kLanes];
  for (int lane = 0; lane < lanes; ++lane) {
    rotations[lane] = rotation_matrix(quats + 4 * lane);
    total[lane] = 0.0;
  }
  alignas(64) float values[kLanes][kBlock] = {};
  for (std::int64_t first = 0; first < n_pixels; first += kBlock) {
    const int n = int(std::min<std::int64_t>(kBlock, n_pixels - first));
    for (int lane = 0; lane < lanes; ++lane) {
      sample_block(volume, size, rotations[lane], q, n_pixels, first, n, friedel,
                   values[lane]);
      total[lane] += tomogram_block(
          exposure + first, reference ? reference + first : nullptr, n, values[lane]);
    }
    for (int i = 0; i < n; ++i)
      for (int lane = 0; lane < kLanes; ++lane)
        out[(first + i) * kLanes + lane] = values[lane][i];
  }
}

} // namespace

void expand(const Exec &exec, const float *volume, std::int64_t size, const double *quats,
            std::int64_t n_orientations, const float *q, std::int64_t n_pixels,
            const float *exposure, const float *reference, bool friedel, float *out,
            double *total) {
  const std::int64_t n_panels = (n_orientations + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(dynamic) num_threads(exec.threads)
  for (std::int64_t p = 0; p < n_panels; ++p) {
    const std::int64_t r = p * kLanes;
    expand_panel(volume, std::int32_t(size), quats + 4 * r,
                 int(std::min<std::int64_t>(kLanes, n_orientations - r)), q, n_pixels,
                 exposure, reference, friedel, out + p * n_pixels * kLanes, total + r);
  }
}

} // namespace spicore::cpu::SPICORE_SIMD
