#pragma once

#include <cstdint>

#include "spicore/exec.hpp"

// Scatters slices into a volume with the weights of ewald_slice (its exact adjoint), and
// beside every value its weight:
//
//   accumulator[voxel][0] += f * slices[r][t]
//   accumulator[voxel][1] += f * slice_weights[r] * pixel_weights[r * stride + t]
//
//   slices         [n_slices, n_pixels]
//   slice_weights  [n_slices]   slices of weight 0 are skipped
//   pixel_weights  [n_pixels], stride 0, or [n_slices, n_pixels], stride n_pixels;
//                  pixels of weight 0 are skipped
//   quats          [n_slices, 4], q [3, n_pixels] as in ewald_slice
//   friedel        fold points with x < 0 to their inverse: only planes x >= 0 are
//                  written
//   accumulator    [size, size, size, 2] float64, added to
//
// float64, because a voxel sums up to a million terms. On the CPU every x plane has one
// owner thread, so that the order of the sum does not depend on the number of threads; on
// CUDA atomics make it order-dependent (float64: relative 1e-12).
SPICORE_OPERATION(ewald_merge, const Exec &exec, const float *slices,
                  const float *slice_weights, const float *pixel_weights,
                  std::int64_t stride, std::int64_t n_slices, const double *quats,
                  const float *q, std::int64_t n_pixels, std::int64_t size, bool friedel,
                  double *accumulator)
