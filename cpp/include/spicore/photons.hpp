#pragma once

#include <cstdint>

namespace spicore {

// A block of sparse frames, pixels renumbered to tomogram rows and sorted within a frame:
// rows that orient first (begin[d] .. orient_end[d]), rows that only merge after them
// (.. begin[d + 1]).
struct Photons {
  std::int64_t n_frames;
  const std::int64_t *begin;      // [n_frames + 1]
  const std::int64_t *orient_end; // [n_frames]
  const std::uint32_t *row;
  const std::uint16_t *count;
};

} // namespace spicore
