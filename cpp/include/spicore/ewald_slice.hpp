#pragma once

#include <cstdint>

#include "spicore/exec.hpp"

// Samples a volume on rotated Ewald surfaces, trilinear. Adjoint of ewald_merge.
//
//   volume  [size, size, size]   (x, y, z), origin at size / 2
//   quats   [n_slices, 4]        unit, (w, x, y, z), active
//   q       [3, n_pixels]        scattering vectors in voxels, one plane per component
//   friedel                      read only the half x >= 0 of a centrosymmetric volume
//   out     [n_slices, n_pixels] written; 0 outside the volume
//
// Nothing may alias. Cost: about 20 flops and 8 reads per sample.
SPICORE_OPERATION(ewald_slice, const Exec &exec, const float *volume, std::int64_t size,
                  const double *quats, std::int64_t n_slices, const float *q,
                  std::int64_t n_pixels, bool friedel, float *out)
