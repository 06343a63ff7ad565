// Scratch of `phase` on a GPU, without CUDA headers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "spicore/phase.hpp"

namespace spicore::cuda {

// Values of `work` and doubles of `sums`, [1, this], for values of 4 or 8 bytes on the
// current GPU; none for seeds that fit into shared memory.
std::array<std::int64_t, 2> phase_scratch(const PhaseGrid &grid, std::int64_t n_seeds,
                                          std::int64_t n_shells, std::size_t value_size);

} // namespace spicore::cuda
