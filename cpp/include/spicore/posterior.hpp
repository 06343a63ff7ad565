#pragma once

#include <cstdint>

#include "spicore/exec.hpp"

// Turns log-likelihoods into posterior probabilities, in place, frame by frame:
//
//   s = beta[d] * ll[d, r] + prior_power[d] * log_prior[r]
//   P = exp(s - max s), 0 where s < max s - cut, normalised over r
//
//   ll             [n_frames, n_orientations], rows `stride` apart; overwritten by P
//   beta           [n_frames], prior_power [n_frames], log_prior [n_orientations]
//   total          [n_orientations]  sum of the tomogram
//   best           [n_frames]  argmax of s
//   expected_ll    [n_frames]  sum_r P ll (log_prior not included)
//   information    [n_frames]  sum_r P log(P / prior), nats, prior normalised
//   expected_total [n_frames]  sum_r P total
//
// At cut = 14 what is dropped carries below 1e-5 of the posterior (polar_kernel.md).
SPICORE_OPERATION(posterior, const Exec &exec, float *ll, std::int64_t n_frames,
                  std::int64_t n_orientations, std::int64_t stride, const float *beta,
                  const float *prior_power, const float *log_prior, float cut,
                  const double *total, std::int64_t *best, double *expected_ll,
                  double *information, double *expected_total)
