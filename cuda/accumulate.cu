#include "spicore/accumulate.hpp"

#include <algorithm>

#include "angular.cuh"
#include "launch.cuh"

namespace spicore::cuda {
namespace {

// Rings of a tomogram that a block holds: three such blocks fit a multiprocessor.
constexpr std::int64_t kHeldBytes = 72 << 10;

// Enough to keep 132 multiprocessors busy to the end, however unequal the views are.
constexpr std::int64_t kWantedBlocks = 2048;

struct Task {
  PosteriorTerms terms;
  Photons photons;
  const float *fluence;
  std::int64_t n_bins;
  unsigned span;   // orientations of a view
  unsigned n_held; // bins of a block, whole rings
  float *tomograms;
  double *exposures;
};

// What a block adds up: bins `first` .. first + n - 1 of a view.
struct Part {
  unsigned first_orientation, first, n;
  float *sums;
};

// Where angle t of a frame comes to lie in orientation j, or mirrored, A + j.
template <int A> __device__ unsigned turned(unsigned t, unsigned orientation) {
  const bool mirrored = orientation >= A;
  unsigned to = t + orientation - (mirrored ? A : 0);
  to -= to >= A ? A : 0;
  return mirrored && to > 0 ? A - to : to;
}

// Adds the photons of frame d under the terms of the lanes in `lanes`: each lane has a
// photon, which it reads once for all of them.
template <int A>
__device__ void add_photons(const Task &task, const Part &part, unsigned d,
                            unsigned lanes, unsigned orientation, float probability) {
  const Photons &photons = task.photons;
  const std::int64_t end = photons.begin[d + 1];
  for (std::int64_t i = photons.begin[d] + threadIdx.x % 32; i - threadIdx.x % 32 < end;
       i += 32) {
    unsigned bin = part.n;
    float count = 0.0f;
    if (i < end) {
      const unsigned row = photons.row[i];
      bin = row - (row < task.n_bins ? 0 : unsigned(task.n_bins)) - part.first;
      count = photons.count[i];
    }
    const unsigned t = bin % A;
    for (unsigned left = lanes; left != 0; left &= left - 1) {
      const int from = __ffs(int(left)) - 1;
      const float p = __shfl_sync(~0u, probability, from);
      const unsigned to = turned<A>(t, __shfl_sync(~0u, orientation, from));
      if (bin < part.n) // it wraps below `first`
        atomicAdd(part.sums + (bin - t + to), p * count);
    }
  }
}

// Takes 32 terms of the group from place i on, one a lane, frame by frame.
template <int A>
__device__ void add_terms(const Task &task, const Part &part, std::int64_t i,
                          std::int64_t end) {
  unsigned orientation = task.span, frame = 0;
  float p = 0.0f;
  if (i + threadIdx.x % 32 < end) {
    i += threadIdx.x % 32;
    orientation = task.terms.orientation[i] - part.first_orientation;
    frame = task.terms.frame[i];
    p = task.terms.probability[i];
  }
  const bool own = orientation < task.span && frame < task.photons.n_frames && p != 0.0f;
  if (own && part.first == 0)
    atomicAdd(task.exposures + part.first_orientation + orientation,
              double(p) * task.fluence[frame]);
  for (unsigned left = __ballot_sync(~0u, own); left != 0;) {
    const unsigned d = __shfl_sync(~0u, frame, __ffs(int(left)) - 1);
    const unsigned same = __ballot_sync(~0u, own && frame == d);
    add_photons<A>(task, part, d, same, orientation, p);
    left &= ~same;
  }
}

// Grid: views along x, ranges of rings along y, and every gridDim.z-th chunk along z. A
// block holds its part of the tomogram in shared memory; its warps share the terms of the
// group and leave those of other views.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const __grid_constant__ Task task) {
  constexpr int kWarps = kThreads / 32;
  const unsigned first = blockIdx.y * task.n_held, left = unsigned(task.n_bins) - first;
  const Part part{blockIdx.x * task.span, first, left < task.n_held ? left : task.n_held,
                  dynamic_shared<float>()};
  for (unsigned i = threadIdx.x; i < part.n; i += kThreads)
    part.sums[i] = 0.0f;
  __syncthreads();
  for (std::int64_t c = blockIdx.z; c < task.terms.n_chunks; c += gridDim.z) {
    const std::int64_t *begin =
        task.terms.begin + c * (task.terms.n_groups + 1) + blockIdx.x / kViewGroup;
    // Chunks may have fewer terms than there are threads: they begin with another warp.
    const unsigned turn = (threadIdx.x / 32 + unsigned(c / gridDim.z)) % kWarps;
    for (std::int64_t i = begin[0] + 32 * turn; i < begin[1]; i += kThreads)
      add_terms<Transform::A>(task, part, i, begin[1]);
  }
  __syncthreads();
  float *tomogram = task.tomograms + blockIdx.x * task.n_bins + first;
  for (unsigned i = threadIdx.x; i < part.n; i += kThreads)
    if (part.sums[i] != 0.0f)
      atomicAdd(tomogram + i, part.sums[i]);
}

std::int64_t ceil_div(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

} // namespace

void accumulate(const Exec &exec, const PosteriorTerms &terms, const Photons &photons,
                const float *fluence, std::int64_t n_angles, std::int64_t mirrors,
                std::int64_t n_bins, float *, float *tomograms, double *exposures) {
  const std::int64_t n_views = terms.n_groups * kViewGroup,
                     n_rings = std::max<std::int64_t>(n_bins / n_angles, 1);
  if (n_views == 0 || terms.n_chunks == 0)
    return;
  const std::int64_t ring_bytes = n_angles * std::int64_t(sizeof(float));
  const std::int64_t n_ranges = ceil_div(n_rings, kHeldBytes / ring_bytes);
  const std::int64_t held = ceil_div(n_rings, n_ranges);
  const std::int64_t slices = ceil_div(kWantedBlocks, n_views * n_ranges);
  const dim3 grid(unsigned(n_views), unsigned(n_ranges),
                  unsigned(slices < terms.n_chunks ? slices : terms.n_chunks));
  const Task task{terms,
                  photons,
                  fluence,
                  n_bins,
                  unsigned(mirrors * n_angles),
                  unsigned(held * n_angles),
                  tomograms,
                  exposures};
  with_angles(n_angles, [&](auto transform) {
    launch(exec, "accumulate", scatter_kernel<decltype(transform)>, grid, kThreads,
           std::size_t(held * ring_bytes), task);
  });
}

} // namespace spicore::cuda
