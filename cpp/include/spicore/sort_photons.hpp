#pragma once

#include <cstdint>

#include "spicore/exec.hpp"

// Renumbers the pixels of a block of sparse frames to tomogram rows and sorts them by row
// within each frame, so that rows that orient (row < n_orient) come first.
//
//   offset      [n_frames + 1]  first photon of each frame in pixel and count
//   row_of      [n_pixels]      tomogram row of a detector pixel, -1 to ignore it
//   begin       [n_frames + 1]  written, see photons.hpp
//   orient_end  [n_frames]      written
//   row_out, count_out          written; room for offset[n_frames] elements
//
// Pixel indices must be below the length of row_of.
SPICORE_OPERATION(sort_photons, const Exec &exec, const std::int64_t *offset,
                  std::int64_t n_frames, const std::uint32_t *pixel,
                  const std::uint16_t *count, const std::int32_t *row_of,
                  std::int32_t n_orient, std::int64_t *begin, std::int64_t *orient_end,
                  std::uint32_t *row_out, std::uint16_t *count_out)
