#include "spicore/posterior.hpp"

#include <algorithm>
#include <cmath>

#include "spicore/math/elementary.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

struct Summary {
  std::int64_t best;
  double norm, ll, information, total;
};

// One frame: ll becomes P. `scratch`-free: s is recomputed from ll where it is needed.
Summary normalise(float *ll, std::int64_t n, float beta, float prior_power,
                  const float *log_prior, double log_prior_norm, float cut,
                  const double *total) {
  Summary out{0, 0.0, 0.0, 0.0, 0.0};
  float top = -INFINITY;
#pragma omp simd reduction(max : top)
  for (std::int64_t r = 0; r < n; ++r)
    top = std::max(top, beta * ll[r] + prior_power * log_prior[r]);
  out.best = -1;
  // Blocks keep the float64 sums exact enough and skip quickly where nothing survives.
  constexpr std::int64_t kChunk = 64;
  for (std::int64_t first = 0; first < n; first += kChunk) {
    const int m = int(std::min(kChunk, n - first));
    float *x = ll + first;
    const float *prior = log_prior + first;
    alignas(64) float p[kChunk], s[kChunk];
    float block_top = -INFINITY;
#pragma omp simd reduction(max : block_top)
    for (int i = 0; i < m; ++i) {
      s[i] = beta * x[i] + prior_power * prior[i] - top;
      block_top = std::max(block_top, s[i]);
    }
    if (!(block_top >= -cut)) {
      std::fill(x, x + m, 0.0f);
      continue;
    }
    // Two loops: a conditional exponential does not vectorise.
#pragma omp simd
    for (int i = 0; i < m; ++i)
      p[i] = fast_exp(s[i] < 0.0f ? s[i] : 0.0f);
#pragma omp simd
    for (int i = 0; i < m; ++i)
      p[i] = s[i] >= -cut ? p[i] : 0.0f;
    double norm = 0, expected = 0, information = 0, sum_total = 0;
#pragma omp simd reduction(+ : norm, expected, information, sum_total)
    for (int i = 0; i < m; ++i) {
      const double weight = p[i];
      norm += weight;
      expected += weight * (p[i] > 0 ? x[i] : 0.0f);
      information += weight * (double(p[i] > 0 ? s[i] : 0.0f) - double(prior[i]));
      sum_total += weight * total[first + i];
    }
    if (out.best < 0 && block_top >= 0.0f)
      out.best = first + (std::max_element(s, s + m) - s);
    out.norm += norm;
    out.ll += expected;
    out.information += information;
    out.total += sum_total;
    std::copy(p, p + m, x);
  }
  out.best = std::max<std::int64_t>(out.best, 0);
  const float scale = float(1.0 / out.norm);
#pragma omp simd
  for (std::int64_t r = 0; r < n; ++r)
    ll[r] *= scale;
  out.information = out.information / out.norm - std::log(out.norm) + log_prior_norm;
  out.ll /= out.norm;
  out.total /= out.norm;
  return out;
}

} // namespace

void posterior(const Exec &exec, float *ll, std::int64_t n_frames,
               std::int64_t n_orientations, std::int64_t stride, const float *beta,
               const float *prior_power, const float *log_prior, float cut,
               const double *total, std::int64_t *best, double *expected_ll,
               double *information, double *expected_total) {
  double prior_sum = 0.0;
  for (std::int64_t r = 0; r < n_orientations; ++r)
    prior_sum += std::exp(double(log_prior[r]));
  const double log_prior_norm = std::log(prior_sum);
#pragma omp parallel for schedule(dynamic, 16) num_threads(exec.threads)
  for (std::int64_t d = 0; d < n_frames; ++d) {
    const Summary s = normalise(ll + d * stride, n_orientations, beta[d], prior_power[d],
                                log_prior, log_prior_norm, cut, total);
    best[d] = s.best;
    expected_ll[d] = s.ll;
    information[d] = s.information;
    expected_total[d] = s.total;
  }
}

} // namespace spicore::cpu::SPICORE_SIMD
