#include "spicore/ewald_slice.hpp"

#include <algorithm>

#include "sampling.hpp"

namespace spicore::cpu::SPICORE_SIMD {

void ewald_slice(const Exec &exec, const float *volume, std::int64_t size,
                 const double *quats, std::int64_t n_slices, const float *q,
                 std::int64_t n_pixels, bool friedel, float *out) {
  const std::int64_t n_blocks = (n_pixels + kBlock - 1) / kBlock;
#pragma omp parallel for collapse(2) schedule(static) num_threads(exec.threads)
  for (std::int64_t r = 0; r < n_slices; ++r)
    for (std::int64_t b = 0; b < n_blocks; ++b) {
      const std::int64_t first = b * kBlock;
      const int n = int(std::min<std::int64_t>(kBlock, n_pixels - first));
      sample_block(volume, std::int32_t(size), rotation_matrix(quats + 4 * r), q,
                   n_pixels, first, n, friedel, out + r * n_pixels + first);
    }
}

} // namespace spicore::cpu::SPICORE_SIMD
