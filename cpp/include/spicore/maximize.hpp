#pragma once

#include <cstdint>

#include "spicore/exec.hpp"
#include "spicore/photons.hpp"

// Log-likelihood of every frame of a block in every orientation of a tile of `expand`,
// up to a constant per frame:
//
//   maximize             out[d, r] = sum_t K[d,t] * panels[r,t] - fluence[d] * offset[r]
//   maximize_dense       the same with dense values[d, t] (counts, or reals for the
//                        Gaussian form)
//   maximize_background  out[d, r] = sum_t K[d,t] * log(fluence[d] W[r,t] + scale[d]
//   B[t])
//                                    - log(radial form) - fluence[d] * offset[r]
//
//   panels      [panels, n_pixels, kLanes] of expand
//   fluence     [n_frames], offset [n_orientations] (total of expand minus a constant)
//   out         element (d, r) at out[d * stride + r]
//   background  [n_pixels], background_scale [n_frames]
//   reference   [n_pixels] subtracted from every log (see expand)
//
// Cost: one 128-byte load per lit pixel and panel. Sums in float32 (reference removed).
SPICORE_OPERATION(maximize, const Exec &exec, const float *panels, std::int64_t n_pixels,
                  std::int64_t n_orientations, const Photons &photons,
                  const float *fluence, const float *offset, float *out,
                  std::int64_t stride)
SPICORE_OPERATION(maximize_dense, const Exec &exec, const float *panels,
                  std::int64_t n_pixels, std::int64_t n_orientations, const float *values,
                  std::int64_t n_frames, const float *fluence, const float *offset,
                  float *out, std::int64_t stride)
SPICORE_OPERATION(maximize_background, const Exec &exec, const float *panels,
                  std::int64_t n_pixels, std::int64_t n_orientations,
                  const Photons &photons, const float *fluence, const float *offset,
                  const float *background, const float *background_scale,
                  const float *reference, float *out, std::int64_t stride)
