// What the kernels of `accumulate` share: arguments, scratch, and which form a group
// takes.
#pragma once

#include "block.cuh"
#include "spicore/accumulate.hpp"

namespace spicore::cuda {
namespace {

// Photons of the terms of a group, and its runs of terms of one frame.
struct Load {
  unsigned long long photons, runs;
};

struct Task {
  PosteriorTerms terms;
  Photons photons;
  const float *fluence;
  int n_angles, mirrors, n_bins, n_rings;
  float *work;
  AccumulateDeviceWorkspace at;
  float *tomograms;
  double *exposures;

  __device__ Load *loads() const { return reinterpret_cast<Load *>(work + at.load); }
  __device__ int *n_runs(std::int64_t chunk) const {
    return reinterpret_cast<int *>(work + at.n_runs) + chunk * terms.n_groups;
  }
  // First term of each run, counted from the first of the group in the chunk, where whose
  // places are.
  __device__ unsigned *runs(std::int64_t first_term) const {
    return reinterpret_cast<unsigned *>(work + at.run) + first_term;
  }
  // K^ [orders, rings] of a frame, from an order on.
  __device__ float2 *held(std::int64_t d, int m) const {
    return reinterpret_cast<float2 *>(work + at.held) + d * held_stride() + m * n_rings;
  }
  __device__ std::int64_t held_stride() const {
    return std::int64_t(n_angles / 2 + 1) * n_rings;
  }
  // [A + 2]: re and im of each order.
  __device__ float *sums(std::int64_t view, int ring) const {
    return work + at.sums + (view * n_rings + ring) * (n_angles + 2);
  }
  __device__ const std::int64_t *begin(std::int64_t chunk) const {
    return terms.begin + chunk * (terms.n_groups + 1);
  }
};

// Products are chosen where the photons of all terms are more than this many per bin and
// run. Not measured; on paper, for 65 x 256 bins on 132 multiprocessors, an atomic in
// shared memory takes 1 to 3 ps, and a run of 100 terms 2 to 4 ps per bin: 14 ns for 3
// million multiply-adds of bf16, 12 ns to read K^ from the second-level cache, and 12 ns
// for the factors, next to or after each other. 6 on the CPU.
constexpr unsigned long long kCrossover = 4;

// Runs that the sums of a group cost as much as, as on the CPU.
constexpr unsigned long long kFixedRuns = 64;

__device__ inline bool multiplies(const Task &task, std::int64_t group) {
  const Load load = task.loads()[group];
  return load.photons >
         kCrossover * (load.runs + kFixedRuns) * (unsigned long long)(task.n_bins);
}

// Finds the runs of each group in each chunk, and what they weigh. Grid: groups along x,
// chunks along y.
__global__ void __launch_bounds__(kThreads)
    find_runs_kernel(const __grid_constant__ Task task) {
  const std::uint32_t *frame = task.terms.frame;
  const std::int64_t *photons = task.photons.begin;
  for (std::int64_t c = blockIdx.y; c < task.terms.n_chunks; c += gridDim.y) {
    const std::int64_t begin = task.begin(c)[blockIdx.x];
    const std::int64_t end = task.begin(c)[blockIdx.x + 1];
    Load load{};
    for (std::int64_t first = begin; first < end; first += kThreads) {
      const std::int64_t i = first + threadIdx.x;
      const bool starts = i < end && (i == begin || frame[i] != frame[i - 1]);
      const bool known = i < end && frame[i] < task.photons.n_frames;
      int n_starts, n_photons;
      const int before = sum_before(starts, n_starts);
      if (starts)
        task.runs(begin)[load.runs + before] = unsigned(i - begin);
      sum_before(known ? int(photons[frame[i] + 1] - photons[frame[i]]) : 0, n_photons);
      load.runs += n_starts;
      load.photons += n_photons;
    }
    if (threadIdx.x == 0) {
      task.n_runs(c)[blockIdx.x] = int(load.runs);
      atomicAdd(&task.loads()[blockIdx.x].photons, load.photons);
      atomicAdd(&task.loads()[blockIdx.x].runs, load.runs);
    }
  }
}

} // namespace
} // namespace spicore::cuda
