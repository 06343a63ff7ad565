#pragma once

#include <cstdint>

#include "spicore/exec.hpp"

// Tomograms of a tile of orientations, orientation-fastest: one photon of a frame is then
// one vector load in `maximize`.
//
//   volume     [size, size, size]
//   friedel    the volume is centrosymmetric: read only its half x >= 0
//   quats      [n_orientations, 4]
//   q          [3, n_pixels]
//   exposure   [n_pixels]          solid angle x polarisation, > 0
//   reference  [n_pixels] or null  null: out = W; else out = log W - reference
//   out        [panels, n_pixels, kLanes], panels = ceil(n_orientations / kLanes);
//              W = exposure * I(R q); lanes past the last orientation are 0
//   total      [n_orientations]    sum of W over pixels, float64
//
// Taking off `reference` (the log of the radial mean) keeps sums of logs small, so that
// float32 is exact to 1e-3 in a log-likelihood of thousands.
SPICORE_OPERATION(expand, const Exec &exec, const float *volume, std::int64_t size,
                  const double *quats, std::int64_t n_orientations, const float *q,
                  std::int64_t n_pixels, const float *exposure, const float *reference,
                  bool friedel, float *out, double *total)
