#include "spicore/maximize.hpp"

#include <algorithm>

#include "spicore/math/elementary.hpp"
#include "vec.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

// Frames done by one thread at a time with one panel: enough to keep the panel's hot rows
// in the second-level cache, few enough to share the work evenly.
constexpr std::int64_t kFrames = 256;

struct Sum { // the 32 lanes of a panel
  f32x16 a, b;
};

// Sum over one frame's photons of count * row; four partial sums hide the add latency.
inline Sum photon_sum(const float *panel, const std::uint32_t *row,
                      const std::uint16_t *count, std::int64_t n) {
  Sum s[4] = {};
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int j = 0; j < 4; ++j) {
      const float *p = panel + std::int64_t(row[i + j]) * kLanes;
      const float k = count[i + j];
      s[j].a += k * load16(p);
      s[j].b += k * load16(p + 16);
    }
  for (; i < n; ++i) {
    const float *p = panel + std::int64_t(row[i]) * kLanes;
    const float k = count[i];
    s[0].a += k * load16(p);
    s[0].b += k * load16(p + 16);
  }
  return {(s[0].a + s[1].a) + (s[2].a + s[3].a), (s[0].b + s[1].b) + (s[2].b + s[3].b)};
}

// out[lane] = sum[lane] - fluence * offset[lane]
inline void finish(const Sum &sum, float fluence, const float *offset, int lanes,
                   float *out) {
  alignas(64) float values[kLanes];
  store16(values, sum.a);
  store16(values + 16, sum.b);
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
constexpr int kDense = 8;

template <int n> // n frames at once
void dense_sums(const float *panel, std::int64_t n_pixels, const float *values,
                Sum *sums) {
  Sum s[n] = {};
  for (std::int64_t t = 0; t < n_pixels; ++t) {
    const f32x16 a = load16(panel + t * kLanes), b = load16(panel + t * kLanes + 16);
    for (int d = 0; d < n; ++d) {
      s[d].a += values[d * n_pixels + t] * a;
      s[d].b += values[d * n_pixels + t] * b;
    }
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
                background_sum(
                    panel, photons.row + i, photons.count + i, photons.orient_end[d] - i,
                    {fluence[d], background_scale[d]}, background, reference, sums);
                finish({load16(sums), load16(sums + 16)}, fluence[d], offset + p * kLanes,
                       lanes, out + d * stride + p * kLanes);
              }
            });
}

} // namespace spicore::cpu::SPICORE_SIMD
