#include "spicore/maximize.hpp"

#include <algorithm>
#include <cstring>

#include "spicore/math/elementary.hpp"
#include "vec.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

// Frames done by one thread at a time with one panel: enough to keep the panel's hot rows
// in the second-level cache, few enough to share the work evenly.
constexpr std::int64_t kFrames = 256;

constexpr int kVectors = kLanes / kNative;

struct Sum { // the 32 lanes of a panel
  f32n v[kVectors];
};

inline __attribute__((always_inline)) void add(Sum &s, const float *p, float k) {
  for (int j = 0; j < kVectors; ++j)
    s.v[j] += k * load_native(p + j * kNative);
}

// Partial sums that hide the add latency and stay in registers.
constexpr int kPartial = kVectors <= 2 ? 4 : kVectors <= 4 ? 2 : 1;

// Photons summed on their own before they join the total: blocks keep the rounding error
// of thousands of float32 terms to that of a hundred.
constexpr std::int64_t kBlocked = 128;

inline __attribute__((always_inline)) Sum block_sum(const float *panel,
                                                    const std::uint32_t *row,
                                                    const std::uint16_t *count,
                                                    std::int64_t n) {
  Sum s[kPartial] = {};
  std::int64_t i = 0;
  for (; i + kPartial <= n; i += kPartial)
    for (int j = 0; j < kPartial; ++j)
      add(s[j], panel + std::int64_t(row[i + j]) * kLanes, count[i + j]);
  for (; i < n; ++i)
    add(s[0], panel + std::int64_t(row[i]) * kLanes, count[i]);
  for (int step = 1; step < kPartial; step *= 2)
    for (int j = 0; j + step < kPartial; j += 2 * step)
      for (int k = 0; k < kVectors; ++k)
        s[j].v[k] += s[j + step].v[k];
  return s[0];
}

// Sum over one frame's photons of count * row.
inline Sum photon_sum(const float *panel, const std::uint32_t *row,
                      const std::uint16_t *count, std::int64_t n) {
  Sum total = {};
  for (std::int64_t i = 0; i < n; i += kBlocked) {
    const Sum s =
        block_sum(panel, row + i, count + i, std::min<std::int64_t>(kBlocked, n - i));
    for (int k = 0; k < kVectors; ++k)
      total.v[k] += s.v[k];
  }
  return total;
}

// out[lane] = sum[lane] - fluence * offset[lane]
inline void finish(const Sum &sum, float fluence, const float *offset, int lanes,
                   float *out) {
  alignas(64) float values[kLanes];
  for (int j = 0; j < kVectors; ++j)
    store_native(values + j * kNative, sum.v[j]);
  for (int lane = 0; lane < lanes; ++lane)
    out[lane] = values[lane] - fluence * offset[lane];
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Calls body(panel index, lanes, first frame, last frame) for all pairs, in parallel.
template <class Body>
void for_tiles(const Exec &exec, std::int64_t n_orientations, std::int64_t n_frames,
               const Body &body) {
  const std::int64_t n_panels = ceil_div(n_orientations, kLanes);
  const std::int64_t n_chunks = ceil_div(n_frames, kFrames);
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(exec.threads)
  for (std::int64_t p = 0; p < n_panels; ++p)
    for (std::int64_t c = 0; c < n_chunks; ++c)
      body(p, int(std::min<std::int64_t>(kLanes, n_orientations - p * kLanes)),
           c * kFrames, std::min(n_frames, (c + 1) * kFrames));
}

// Register block of the dense form: frames that share one load of a panel row.
constexpr int kDense = kVectors <= 2 ? 8 : kVectors <= 4 ? 2 : 1;

template <int n> // n frames at once
void dense_sums(const float *panel, std::int64_t n_pixels, const float *values,
                Sum *sums) {
  Sum s[n] = {};
  for (std::int64_t t = 0; t < n_pixels; ++t) {
    f32n row[kVectors];
    for (int j = 0; j < kVectors; ++j)
      row[j] = load_native(panel + t * kLanes + j * kNative);
    for (int d = 0; d < n; ++d)
      for (int j = 0; j < kVectors; ++j)
        s[d].v[j] += values[d * n_pixels + t] * row[j];
  }
  std::copy(s, s + n, sums);
}

struct BackgroundFrame {
  float fluence, scale;
};

// As photon_sum, with the logarithm of signal + background taken per photon and lane.
inline void background_sum(const float *panel, const std::uint32_t *row,
                           const std::uint16_t *count, std::int64_t n,
                           const BackgroundFrame &frame, const float *background,
                           const float *reference, float *sums) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float *p = panel + std::int64_t(row[i]) * kLanes;
    const float b = frame.scale * background[row[i]], ref = reference[row[i]];
    const float k = count[i];
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane)
      sums[lane] += k * (fast_log(frame.fluence * p[lane] + b) - ref);
  }
}

} // namespace

void maximize(const Exec &exec, const float *panels, std::int64_t n_pixels,
              std::int64_t n_orientations, const Photons &photons, const float *fluence,
              const float *offset, float *out, std::int64_t stride) {
  for_tiles(exec, n_orientations, photons.n_frames,
            [&](std::int64_t p, int lanes, std::int64_t d0, std::int64_t d1) {
              const float *panel = panels + p * n_pixels * kLanes;
              for (std::int64_t d = d0; d < d1; ++d) {
                const std::int64_t i = photons.begin[d];
                const Sum sum = photon_sum(panel, photons.row + i, photons.count + i,
                                           photons.orient_end[d] - i);
                finish(sum, fluence[d], offset + p * kLanes, lanes,
                       out + d * stride + p * kLanes);
              }
            });
}

void maximize_dense(const Exec &exec, const float *panels, std::int64_t n_pixels,
                    std::int64_t n_orientations, const float *values,
                    std::int64_t n_frames, const float *fluence, const float *offset,
                    float *out, std::int64_t stride) {
  for_tiles(exec, n_orientations, n_frames,
            [&](std::int64_t p, int lanes, std::int64_t d0, std::int64_t d1) {
              const float *panel = panels + p * n_pixels * kLanes;
              Sum sums[kDense];
              for (std::int64_t d = d0; d < d1; d += kDense) {
                const std::int64_t n = std::min<std::int64_t>(kDense, d1 - d);
                if (n == kDense)
                  dense_sums<kDense>(panel, n_pixels, values + d * n_pixels, sums);
                else
                  for (std::int64_t i = 0; i < n; ++i)
                    dense_sums<1>(panel, n_pixels, values + (d + i) * n_pixels, sums + i);
                for (std::int64_t i = 0; i < n; ++i)
                  finish(sums[i], fluence[d + i], offset + p * kLanes, lanes,
                         out + (d + i) * stride + p * kLanes);
              }
            });
}

void maximize_background(const Exec &exec, const float *panels, std::int64_t n_pixels,
                         std::int64_t n_orientations, const Photons &photons,
                         const float *fluence, const float *offset,
                         const float *background, const float *background_scale,
                         const float *reference, float *out, std::int64_t stride) {
  for_tiles(exec, n_orientations, photons.n_frames,
            [&](std::int64_t p, int lanes, std::int64_t d0, std::int64_t d1) {
              const float *panel = panels + p * n_pixels * kLanes;
              for (std::int64_t d = d0; d < d1; ++d) {
                const std::int64_t i = photons.begin[d];
                alignas(64) float sums[kLanes] = {};
                Sum sum;
                background_sum(
                    panel, photons.row + i, photons.count + i, photons.orient_end[d] - i,
                    {fluence[d], background_scale[d]}, background, reference, sums);
                std::memcpy(&sum, sums, sizeof sum);
                finish(sum, fluence[d], offset + p * kLanes, lanes,
                       out + d * stride + p * kLanes);
              }
            });
}

} // namespace spicore::cpu::SPICORE_SIMD
