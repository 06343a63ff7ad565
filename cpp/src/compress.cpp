#include "spicore/compress.hpp"

#include <algorithm>

#include "spicore/math/background.hpp"
#include "vec.hpp"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

namespace spicore::cpu::SPICORE_SIMD {
namespace {

// The 32 posteriors of one frame; lanes past the last orientation are 0.
struct Weights {
  alignas(64) float p[kLanes];
  bool low, high; // any weight in lanes 0..15, 16..31

  Weights(const float *posterior, int lanes) : p{}, low(false), high(false) {
    for (int lane = 0; lane < lanes; ++lane) {
      p[lane] = posterior[lane];
      (lane < 16 ? low : high) |= p[lane] != 0.0f;
    }
  }
};

inline void add_scaled(float *row, float k, f32x16 p) {
  store16(row, load16(row) + k * p);
}

inline void scatter(const Weights &w, const std::uint32_t *row,
                    const std::uint16_t *count, std::int64_t n, float *panel) {
  const f32x16 a = load16(w.p), b = load16(w.p + 16);
  if (w.low && w.high) {
    for (std::int64_t i = 0; i < n; ++i) {
      float *p = panel + std::int64_t(row[i]) * kLanes;
      add_scaled(p, count[i], a);
      add_scaled(p + 16, count[i], b);
    }
  } else if (w.low || w.high) {
    float *half = panel + (w.low ? 0 : 16);
    for (std::int64_t i = 0; i < n; ++i)
      add_scaled(half + std::int64_t(row[i]) * kLanes, count[i], w.low ? a : b);
  }
}

void transpose(const float *panel, std::int64_t n_pixels, int lanes, float *out) {
  constexpr std::int64_t kRows =
      64; // a stripe of the panel stays in the first-level cache
  for (std::int64_t first = 0; first < n_pixels; first += kRows) {
    const std::int64_t last = std::min(n_pixels, first + kRows);
    for (int lane = 0; lane < lanes; ++lane)
      for (std::int64_t t = first; t < last; ++t)
        out[lane * n_pixels + t] = panel[t * kLanes + lane];
  }
}

// Calls body(panel index, lanes, scratch panel of zeros) and writes the transposed
// result.
template <class Body>
void for_panels(const Exec &exec, std::int64_t n_orientations, std::int64_t n_pixels,
                float *scratch, float *out, const Body &body) {
  const std::int64_t n_panels = (n_orientations + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(dynamic) num_threads(exec.threads)
  for (std::int64_t p = 0; p < n_panels; ++p) {
    const int lanes = int(std::min<std::int64_t>(kLanes, n_orientations - p * kLanes));
    float *panel = scratch + omp_get_thread_num() * n_pixels * kLanes;
    std::fill(panel, panel + n_pixels * kLanes, 0.0f);
    body(p, lanes, panel);
    transpose(panel, n_pixels, lanes, out + p * kLanes * n_pixels);
  }
}

struct BackgroundFrame {
  float fluence, scale;
};

// Adds P K signal / (signal + background) to the panel; returns the sum over all lanes.
inline double scatter_signal(const Weights &w, const std::uint32_t *row,
                             const std::uint16_t *count, std::int64_t n,
                             const float *tomograms, const float *background,
                             const BackgroundFrame &frame, float *panel) {
  double total = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t at = std::int64_t(row[i]) * kLanes;
    const float k = count[i], b = frame.scale * background[row[i]];
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float term =
          signal_part(w.p[lane] * k, frame.fluence * tomograms[at + lane], b);
      panel[at + lane] += term;
      sum += term;
    }
    total += sum;
  }
  return total;
}

} // namespace

void compress(const Exec &exec, const float *posterior, std::int64_t stride,
              std::int64_t n_orientations, const Photons &photons, std::int64_t n_pixels,
              float *scratch, float *out) {
  for_panels(exec, n_orientations, n_pixels, scratch, out,
             [&](std::int64_t p, int lanes, float *panel) {
               for (std::int64_t d = 0; d < photons.n_frames; ++d) {
                 const Weights w(posterior + d * stride + p * kLanes, lanes);
                 const std::int64_t i = photons.begin[d];
                 scatter(w, photons.row + i, photons.count + i, photons.begin[d + 1] - i,
                         panel);
               }
             });
}

void compress_dense(const Exec &exec, const float *posterior, std::int64_t stride,
                    std::int64_t n_orientations, const float *values,
                    std::int64_t n_frames, std::int64_t n_pixels, float *scratch,
                    float *out) {
  for_panels(exec, n_orientations, n_pixels, scratch, out,
             [&](std::int64_t p, int lanes, float *panel) {
               for (std::int64_t d = 0; d < n_frames; ++d) {
                 const Weights w(posterior + d * stride + p * kLanes, lanes);
                 if (!w.low && !w.high)
                   continue;
                 const f32x16 a = load16(w.p), b = load16(w.p + 16);
                 const float *x = values + d * n_pixels;
                 for (std::int64_t t = 0; t < n_pixels; ++t) {
                   add_scaled(panel + t * kLanes, x[t], a);
                   add_scaled(panel + t * kLanes + 16, x[t], b);
                 }
               }
             });
}

void compress_background(const Exec &exec, const float *posterior, std::int64_t stride,
                         std::int64_t n_orientations, const Photons &photons,
                         std::int64_t n_pixels, const float *panels, const float *fluence,
                         const float *background, const float *background_scale,
                         float *scratch, float *out, double *signal_photons) {
  for_panels(exec, n_orientations, n_pixels, scratch, out,
             [&](std::int64_t p, int lanes, float *panel) {
               const float *tomograms = panels + p * n_pixels * kLanes;
               for (std::int64_t d = 0; d < photons.n_frames; ++d) {
                 const Weights w(posterior + d * stride + p * kLanes, lanes);
                 double &signal = signal_photons[p * photons.n_frames + d];
                 signal = 0.0;
                 if (!w.low && !w.high)
                   continue;
                 const BackgroundFrame frame{fluence[d], background_scale[d]};
                 const std::int64_t i = photons.begin[d], j = photons.orient_end[d];
                 signal = scatter_signal(w, photons.row + i, photons.count + i, j - i,
                                         tomograms, background, frame, panel);
                 scatter_signal(w, photons.row + j, photons.count + j,
                                photons.begin[d + 1] - j, tomograms, background, frame,
                                panel);
               }
             });
}

} // namespace spicore::cpu::SPICORE_SIMD
