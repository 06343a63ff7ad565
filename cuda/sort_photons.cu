#include "spicore/sort_photons.hpp"

#include "block.cuh"

namespace spicore::cuda {
namespace {

// Entries of a frame that are sorted in shared memory, five such blocks on a
// multiprocessor; longer frames are sorted in place.
constexpr unsigned kShared = 7168;

struct Input {
  const std::int64_t *offset;
  std::int64_t n_frames;
  const std::uint32_t *pixel;
  const std::uint16_t *count;
  const std::int32_t *row_of;
  std::int64_t n_pixels;

  // Row of an entry, negative to ignore it.
  __device__ std::int32_t row(std::int64_t i) const {
    const std::uint32_t t = __ldg(pixel + i);
    return t < n_pixels ? __ldg(row_of + t) : -1;
  }
};

// A warp has a frame. begin[d + 1] and orient_end[d] become numbers of entries.
__global__ void __launch_bounds__(kThreads)
    count_kernel(Input in, std::int32_t n_orient, std::int64_t *begin,
                 std::int64_t *orient_end) {
  const int lane = threadIdx.x % 32;
  const std::int64_t step = std::int64_t(gridDim.x) * kWarps;
  for (std::int64_t d = std::int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
       d < in.n_frames; d += step) {
    std::int64_t kept = 0, orienting = 0;
    for (std::int64_t i = in.offset[d] + lane; i < in.offset[d + 1]; i += 32) {
      const std::int32_t row = in.row(i);
      kept += row >= 0;
      orienting += row >= 0 && row < n_orient;
    }
    for (int bit = 16; bit > 0; bit /= 2) {
      kept += __shfl_xor_sync(~0u, kept, bit);
      orienting += __shfl_xor_sync(~0u, orienting, bit);
    }
    if (lane == 0) {
      begin[d + 1] = kept;
      orient_end[d] = orienting;
    }
  }
}

// One block turns numbers of entries into places.
__global__ void __launch_bounds__(kThreads)
    place_kernel(std::int64_t n_frames, std::int64_t *begin, std::int64_t *orient_end) {
  std::int64_t first = 0;
  for (std::int64_t from = 0; from < n_frames; from += kThreads) {
    const std::int64_t d = from + threadIdx.x;
    const std::int64_t kept = d < n_frames ? begin[d + 1] : 0;
    std::int64_t total;
    const std::int64_t before = first + sum_before(kept, total);
    if (d < n_frames) {
      orient_end[d] += before;
      begin[d + 1] = before + kept;
    }
    first += total;
  }
  if (threadIdx.x == 0)
    begin[0] = 0;
}

// Entries of one frame, in shared memory or in place.
struct Entries {
  std::uint32_t *row;
  std::uint16_t *count;
  unsigned n;

  // Exchanges two that are out of order; beyond the last there is nothing larger.
  __device__ void order(unsigned low, unsigned high) const {
    if (high >= n)
      return;
    const std::uint32_t a = row[low], b = row[high];
    const std::uint16_t x = count[low], y = count[high];
    if (a < b || (a == b && x <= y))
      return;
    row[low] = b;
    row[high] = a;
    count[low] = y;
    count[high] = x;
  }

  // Bitonic sort (Batcher 1968) by the block. Each merge begins with pairs mirrored about
  // the middle of its run, so that all pairs are ordered upwards and n can be any number.
  __device__ void sort() const {
    for (unsigned run = 2; run / 2 < n; run *= 2)
      for (unsigned apart = run / 2; apart > 0; apart /= 2) {
        __syncthreads();
        const bool mirrored = apart == run / 2;
        for (unsigned pair = threadIdx.x;; pair += kThreads) {
          const unsigned first = pair / apart * 2 * apart, i = pair % apart;
          if (first + i >= n)
            break;
          order(first + i, first + (mirrored ? run - 1 - i : apart + i));
        }
      }
    __syncthreads();
  }
};

// A block has a frame at a time.
__global__ void __launch_bounds__(kThreads)
    sort_kernel(Input in, const std::int64_t *begin, std::uint32_t *row_out,
                std::uint16_t *count_out) {
  __shared__ unsigned found;
  std::uint32_t *shared = dynamic_shared<std::uint32_t>();
  for (std::int64_t d = blockIdx.x; d < in.n_frames; d += gridDim.x) {
    const unsigned n = unsigned(begin[d + 1] - begin[d]);
    const Entries out{row_out + begin[d], count_out + begin[d], n};
    const bool fits = n <= kShared;
    const Entries work =
        fits ? Entries{shared, reinterpret_cast<std::uint16_t *>(shared + kShared), n}
             : out;
    __syncthreads(); // the frame before has been written
    if (threadIdx.x == 0)
      found = 0;
    __syncthreads();
    for (std::int64_t i = in.offset[d] + threadIdx.x; i < in.offset[d + 1];
         i += kThreads) {
      const std::int32_t row = in.row(i);
      if (row < 0)
        continue;
      const unsigned at = atomicAdd(&found, 1u); // in any order: they are sorted next
      work.row[at] = std::uint32_t(row);
      work.count[at] = in.count[i];
    }
    work.sort();
    for (unsigned i = threadIdx.x; fits && i < n; i += kThreads) {
      out.row[i] = work.row[i];
      out.count[i] = work.count[i];
    }
  }
}

// Whole numbers below 2^24: in any order the same.
__global__ void __launch_bounds__(kThreads)
    dense_kernel(Photons photons, std::int64_t n_rows, float *out) {
  for (std::int64_t d = blockIdx.x; d < photons.n_frames; d += gridDim.x)
    for (std::int64_t i = photons.begin[d] + threadIdx.x; i < photons.begin[d + 1];
         i += kThreads)
      if (photons.row[i] < n_rows)
        atomicAdd(out + d * n_rows + photons.row[i], float(photons.count[i]));
}

} // namespace

void sort_photons(const Exec &exec, const std::int64_t *offset, std::int64_t n_frames,
                  const std::uint32_t *pixel, const std::uint16_t *count,
                  const std::int32_t *row_of, std::int64_t n_pixels,
                  std::int32_t n_orient, std::int64_t *begin, std::int64_t *orient_end,
                  std::uint32_t *row_out, std::uint16_t *count_out) {
  const Input in{offset, n_frames, pixel, count, row_of, n_pixels};
  const char *operation = "sort_photons";
  if (n_frames > 0)
    launch(exec, operation, count_kernel, blocks(n_frames, kWarps), kThreads, 0, in,
           n_orient, begin, orient_end);
  launch(exec, operation, place_kernel, 1, kThreads, 0, n_frames, begin, orient_end);
  if (n_frames > 0)
    launch(exec, operation, sort_kernel, blocks(n_frames, 1), kThreads,
           kShared * (sizeof(std::uint32_t) + sizeof(std::uint16_t)), in, begin, row_out,
           count_out);
}

void photons_to_dense(const Exec &exec, const Photons &photons, std::int64_t n_rows,
                      float *out) {
  if (photons.n_frames == 0)
    return;
  launch(exec, "photons_to_dense", dense_kernel, blocks(photons.n_frames, 1), kThreads, 0,
         photons, n_rows, out);
}

} // namespace spicore::cuda
