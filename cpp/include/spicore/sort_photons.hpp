#pragma once

#include <cstdint>

#include "spicore/exec.hpp"
#include "spicore/photons.hpp"

// Renumbers the pixels of a block of sparse frames to tomogram rows and sorts them by row
// within each frame, so that rows that orient (row < n_orient) come first.
//
//   offset      [n_frames + 1]  first photon of each frame in pixel and count
//   row_of      [n_pixels]      tomogram row of a detector pixel, -1 to ignore it; pixels
//                               beyond it are ignored too
//   begin       [n_frames + 1]  written, see photons.hpp
//   orient_end  [n_frames]      written
//   row_out, count_out          written; room for offset[n_frames] elements
//
// Entries of one row of a frame stay separate, sorted by count on a GPU, in any order on
// the CPU.
SPICORE_OPERATION(sort_photons, const Exec &exec, const std::int64_t *offset,
                  std::int64_t n_frames, const std::uint32_t *pixel,
                  const std::uint16_t *count, const std::int32_t *row_of,
                  std::int64_t n_pixels, std::int32_t n_orient, std::int64_t *begin,
                  std::int64_t *orient_end, std::uint32_t *row_out,
                  std::uint16_t *count_out)

// Adds every photon to out [n_frames, n_rows]; rows beyond n_rows are left out.
SPICORE_OPERATION(photons_to_dense, const Exec &exec, const Photons &photons,
                  std::int64_t n_rows, float *out)
