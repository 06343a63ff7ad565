#include "spicore/accumulate.hpp"

#include <algorithm>

#include "accumulate_products.cuh"

namespace spicore::cuda {
namespace {

// Rings of a tomogram that a block holds: three such blocks fit a multiprocessor.
constexpr std::int64_t kHeldBytes = 72 << 10;

// Enough to keep 132 multiprocessors busy to the end, however unequal the views are.
constexpr std::int64_t kWantedBlocks = 2048;

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
      bin = row - (row < unsigned(task.n_bins) ? 0 : unsigned(task.n_bins)) - part.first;
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
  const unsigned span = task.mirrors * A;
  unsigned orientation = span, frame = 0;
  float p = 0.0f;
  if (i + threadIdx.x % 32 < end) {
    i += threadIdx.x % 32;
    orientation = task.terms.orientation[i] - part.first_orientation;
    frame = task.terms.frame[i];
    p = task.terms.probability[i];
  }
  const bool own = orientation < span && frame < task.photons.n_frames && p != 0.0f;
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

// Grid: views along x, ranges of `n_held` bins along y, and every gridDim.z-th chunk
// along z. A block holds its part of the tomogram in shared memory; its warps share the
// terms of the group and leave those of other views.
template <int A>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const __grid_constant__ Task task, unsigned n_held) {
  const unsigned group = blockIdx.x / kViewGroup, first = blockIdx.y * n_held;
  if (multiplies(task, group))
    return;
  const unsigned left = unsigned(task.n_bins) - first;
  const Part part{blockIdx.x * task.mirrors * A, first, left < n_held ? left : n_held,
                  dynamic_shared<float>()};
  for (unsigned i = threadIdx.x; i < part.n; i += kThreads)
    part.sums[i] = 0.0f;
  __syncthreads();
  for (std::int64_t c = blockIdx.z; c < task.terms.n_chunks; c += gridDim.z) {
    const std::int64_t *begin = task.begin(c) + group;
    // Chunks may have fewer terms than there are threads: they begin with another warp.
    const unsigned turn = (threadIdx.x / 32 + unsigned(c / gridDim.z)) % kWarps;
    for (std::int64_t i = begin[0] + 32 * turn; i < begin[1]; i += kThreads)
      add_terms<A>(task, part, i, begin[1]);
  }
  __syncthreads();
  float *tomogram = task.tomograms + std::int64_t(blockIdx.x) * task.n_bins + first;
  for (unsigned i = threadIdx.x; i < part.n; i += kThreads)
    if (part.sums[i] != 0.0f)
      atomicAdd(tomogram + i, part.sums[i]);
}

std::int64_t ceil_div(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

template <int A> void scatter(const Exec &exec, const Task &task) {
  constexpr std::int64_t most = kHeldBytes / (A * sizeof(float));
  const std::int64_t n_views = task.terms.n_groups * kViewGroup;
  const std::int64_t n_rings = std::max(task.n_rings, 1);
  const std::int64_t n_ranges = ceil_div(n_rings, most);
  const std::int64_t n_held = ceil_div(n_rings, n_ranges) * A;
  const std::int64_t slices = ceil_div(kWantedBlocks, n_views * n_ranges);
  const dim3 grid(unsigned(n_views), unsigned(n_ranges),
                  unsigned(std::min(slices, task.terms.n_chunks)));
  launch(exec, "accumulate", scatter_kernel<A>, grid, kThreads, n_held * sizeof(float),
         task, unsigned(n_held));
}

template <class Transform> void products(const Exec &exec, const Task &task) {
  constexpr int A = Transform::A;
  if (task.n_rings == 0 || task.photons.n_frames == 0)
    return;
  const auto n_groups = unsigned(task.terms.n_groups), n_rings = unsigned(task.n_rings);
  const Sharing sharing(task.n_rings);
  launch(exec, "accumulate", hold_kernel<Transform>, blocks(task.photons.n_frames, 1),
         kThreads, ring_bytes(A), task);
  const dim3 grid(n_groups, unsigned(ceil_div(A / 2 + 1, sharing.orders())),
                  unsigned(ceil_div(n_rings, sharing.rings())));
  launch(exec, "accumulate", products_kernel<A>, grid, kThreads,
         sharing.size() * sizeof(float), task, sharing);
  launch(exec, "accumulate", turn_back_kernel<Transform>, dim3(n_groups, n_rings),
         kThreads, (A + 2) * kViewStride * sizeof(float), task);
}

} // namespace

void accumulate(const Exec &exec, const PosteriorTerms &terms, const Photons &photons,
                const float *fluence, std::int64_t n_angles, std::int64_t mirrors,
                std::int64_t n_bins, float *work, float *tomograms, double *exposures) {
  if (terms.n_groups == 0 || terms.n_chunks == 0)
    return;
  const Task task{terms,
                  photons,
                  fluence,
                  int(n_angles),
                  int(mirrors),
                  int(n_bins),
                  int(n_bins / n_angles),
                  work,
                  accumulate_device_workspace(n_angles, n_bins, terms.n_chunks,
                                              terms.n_groups, photons.n_frames, 0),
                  tomograms,
                  exposures};
  check(cudaMemsetAsync(work + task.at.load, 0, terms.n_groups * sizeof(Load),
                        stream(exec)),
        "accumulate");
  const dim3 grid(unsigned(terms.n_groups), blocks(terms.n_chunks, 1));
  launch(exec, "accumulate", find_runs_kernel, grid, kThreads, 0, task);
  with_angles(n_angles, [&](auto transform) {
    using Transform = decltype(transform);
    scatter<Transform::A>(exec, task);
    products<Transform>(exec, task);
  });
}

} // namespace spicore::cuda
