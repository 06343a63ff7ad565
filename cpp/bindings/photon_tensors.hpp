// A block of prepared photons as Python passes it: (begin, orient_end, row, count).
#pragma once

#include <tuple>

#include <pybind11/stl.h>

#include "spicore/photons.hpp"
#include "tensor.hpp"

namespace spicore::bindings {

using PhotonTensors =
    std::tuple<Tensor<const std::int64_t, 1>, Tensor<const std::int64_t, 1>,
               Tensor<const std::uint32_t, 1>, Tensor<const std::uint16_t, 1>>;

// Rows are sorted within a frame, so the last one of each bounds them all.
// `orienting`: only rows up to orient_end are read.
inline void check_values(const Photons &photons, std::int64_t n_entries,
                         std::int64_t n_rows, bool orienting) {
  const auto &[n_frames, begin, orient_end, row, count] = photons;
  require(begin[0] == 0 && begin[n_frames] <= n_entries,
          "photons: begin must stay inside row and count");
  for (std::int64_t d = 0; d < n_frames; ++d) {
    const std::int64_t first = begin[d], last = begin[d + 1];
    require(first <= orient_end[d] && orient_end[d] <= last,
            "photons: orient_end must lie within its frame");
    const std::int64_t end = orienting ? orient_end[d] : last;
    require(first == end || row[end - 1] < std::uint64_t(n_rows),
            "photons: a row lies beyond the tomogram");
  }
}

// On a GPU values are not read: kernels leave out what lies beyond a tomogram.
inline Photons checked(const PhotonTensors &photons, std::int64_t n_frames,
                       std::int64_t n_rows, bool orienting) {
  const auto &[begin, orient_end, row, count] = photons;
  require(begin.shape[0] == n_frames + 1 && orient_end.shape[0] == n_frames,
          "photons and the block must agree in frames");
  require(row.shape[0] == count.shape[0],
          "photons: begin must stay inside row and count");
  const Photons result{n_frames, begin.data, orient_end.data, row.data, count.data};
  if constexpr (!kOnGpu)
    check_values(result, row.shape[0], n_rows, orienting);
  return result;
}

} // namespace spicore::bindings
