// Transforms of frames along the angle, from their photons, a few rings at a time: shared
// by polar_frames and accumulate.
#pragma once

#include "angular.cuh"
#include "launch.cuh"
#include "spicore/photons.hpp"

namespace spicore::cuda {
namespace {

constexpr int kRings = 16; // transformed side by side
constexpr int kRingPieces = kThreads / kRings;

// Photons `begin` .. `end` - 1 in `kRings` rings from `first` on, as
// counts[angle][ring]; rows from n_bins on count as those that they merge with. Counts
// are summed as integers: in any order the same.
template <int A>
__device__ void bin_photons(const Photons &photons, std::int64_t begin, std::int64_t end,
                            unsigned n_bins, int first, unsigned *counts) {
  for (int i = threadIdx.x; i < A * kRings; i += kThreads)
    counts[i] = 0;
  __syncthreads();
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const unsigned row = photons.row[i] - (photons.row[i] < n_bins ? 0 : n_bins);
    const unsigned bin = row - unsigned(first) * A; // wraps below `first`
    if (bin < unsigned(kRings * A))
      atomicAdd(counts + bin % A * kRings + bin / A, unsigned(photons.count[i]));
  }
  __syncthreads();
}

constexpr std::size_t ring_bytes(int n_angles) {
  return std::size_t(n_angles) * kRings * sizeof(float);
}

// Calls emit(ring, m, re, im) for all orders of these rings, those of a lane the
// neighbour's of the next. All threads of the block call it.
template <class Transform, class Emit>
__device__ void transform_rings(const Photons &photons, std::int64_t begin,
                                std::int64_t end, unsigned n_bins, int first,
                                const Emit &emit) {
  constexpr int A = Transform::A;
  unsigned *counts = dynamic_shared<unsigned>();
  float *x = dynamic_shared<float>();
  const int ring = threadIdx.x % kRings, piece = threadIdx.x / kRings;
  bin_photons<A>(photons, begin, end, n_bins, first, counts);
  for (int i = threadIdx.x; i < A * kRings; i += kThreads)
    x[i] = float(counts[i]);
  __syncthreads();
  for (int j2 = piece; j2 < Transform::columns; j2 += kRingPieces)
    Transform::forward_column(x + ring, kRings, j2);
  __syncthreads();
  for (int m1 = piece; m1 <= Transform::half; m1 += kRingPieces)
    Transform::forward_row(x + ring, kRings, m1, [&](int m, float re, float im) {
      emit(first + ring, m, re, im);
    });
  __syncthreads(); // before the next rings take the place
}

} // namespace
} // namespace spicore::cuda
