#pragma once

#include <cstdint>

#include "spicore/exec.hpp"
#include "spicore/photons.hpp"

// Posterior-weighted sum of frames for a tile of orientations:
//
//   compress             out[r, t] = sum_d P[d, r] K[d, t]
//   compress_dense       the same with dense values[d, t]
//   compress_background  out[r, t] = sum_d P[d, r] K[d, t] * signal(d, r, t),
//                        signal = fluence[d] W[r,t] / (fluence[d] W[r,t] + scale[d]
//                        B[t]); signal_photons[d] += sum over orienting rows of the same
//                        terms
//
//   posterior   element (d, r) at posterior[d * stride + r]
//   panels      [panels, n_pixels, kLanes] linear tomograms of expand
//   scratch     [threads, n_pixels, kLanes], not used on a GPU
//   out         [n_orientations, n_pixels], overwritten
//
// Frames with no posterior in a panel cost nothing. float32: a row sums at most n_frames
// terms of one block. Thread-independent: one thread owns a panel (on a GPU a warp some
// of its rows) and walks the frames in order; signal_photons [panels, n_frames] is
// reduced by the caller.
SPICORE_OPERATION(compress, const Exec &exec, const float *posterior, std::int64_t stride,
                  std::int64_t n_orientations, const Photons &photons,
                  std::int64_t n_pixels, float *scratch, float *out)
SPICORE_OPERATION(compress_dense, const Exec &exec, const float *posterior,
                  std::int64_t stride, std::int64_t n_orientations, const float *values,
                  std::int64_t n_frames, std::int64_t n_pixels, float *scratch,
                  float *out)
SPICORE_OPERATION(compress_background, const Exec &exec, const float *posterior,
                  std::int64_t stride, std::int64_t n_orientations,
                  const Photons &photons, std::int64_t n_pixels, const float *panels,
                  const float *fluence, const float *background,
                  const float *background_scale, float *scratch, float *out,
                  double *signal_photons)
