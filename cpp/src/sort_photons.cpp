#include "spicore/sort_photons.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

struct Photon {
  std::uint32_t row;
  std::uint16_t count;
};

// Sorts two arrays together without scratch memory, which std::sort cannot.
void shell_sort(std::uint32_t *row, std::uint16_t *count, std::int64_t n) {
  // Gaps of Ciura (2001); continued by 2.25 for frames with many lit pixels.
  static constexpr std::int64_t gaps[] = {1636500, 727333, 323259, 143671, 63854, 28379,
                                          12613,   5605,   2491,   1107,   492,   218,
                                          97,      43,     19,     8,      3,     1};
  for (const std::int64_t gap : gaps)
    for (std::int64_t i = gap; i < n; ++i) {
      const Photon photon{row[i], count[i]};
      std::int64_t j = i;
      for (; j >= gap && row[j - gap] > photon.row; j -= gap) {
        row[j] = row[j - gap];
        count[j] = count[j - gap];
      }
      row[j] = photon.row;
      count[j] = photon.count;
    }
}

} // namespace

void sort_photons(const Exec &exec, const std::int64_t *offset, std::int64_t n_frames,
                  const std::uint32_t *pixel, const std::uint16_t *count,
                  const std::int32_t *row_of, std::int64_t n_pixels,
                  std::int32_t n_orient, std::int64_t *begin, std::int64_t *orient_end,
                  std::uint32_t *row_out, std::uint16_t *count_out) {
  const auto row_at = [&](std::int64_t i) {
    return pixel[i] < n_pixels ? row_of[pixel[i]] : -1;
  };
  begin[0] = 0;
  for (std::int64_t d = 0; d < n_frames; ++d) {
    std::int64_t kept = 0;
    for (std::int64_t i = offset[d]; i < offset[d + 1]; ++i)
      kept += row_at(i) >= 0;
    begin[d + 1] = begin[d] + kept;
  }
#pragma omp parallel for schedule(static) num_threads(exec.threads)
  for (std::int64_t d = 0; d < n_frames; ++d) {
    std::uint32_t *row = row_out + begin[d];
    std::int64_t n = 0, n_orienting = 0;
    for (std::int64_t i = offset[d]; i < offset[d + 1]; ++i) {
      const std::int32_t r = row_at(i);
      if (r < 0)
        continue;
      row[n] = std::uint32_t(r);
      count_out[begin[d] + n] = count[i];
      n_orienting += r < n_orient;
      ++n;
    }
    shell_sort(row, count_out + begin[d], n);
    orient_end[d] = begin[d] + n_orienting;
  }
}

void photons_to_dense(const Exec &exec, const Photons &photons, std::int64_t n_rows,
                      float *out) {
#pragma omp parallel for schedule(static) num_threads(exec.threads)
  for (std::int64_t d = 0; d < photons.n_frames; ++d)
    for (std::int64_t i = photons.begin[d]; i < photons.begin[d + 1]; ++i)
      if (photons.row[i] < n_rows)
        out[d * n_rows + photons.row[i]] += photons.count[i];
}

} // namespace spicore::cpu::SPICORE_SIMD
