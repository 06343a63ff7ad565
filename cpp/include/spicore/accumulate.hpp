#pragma once

#include <cstdint>

#include "spicore/angular_orders.hpp"
#include "spicore/exec.hpp"
#include "spicore/photons.hpp"

namespace spicore {

// Posterior terms of a block of frames as `correlate` leaves them: chunks of frames, each
// sorted by group of 16 views. Chunk c holds the terms of group g at positions
// begin[c, g] .. begin[c, g + 1] - 1. Within them any order is right; terms of one frame
// side by side are fast.
struct PosteriorTerms {
  std::int64_t n_chunks, n_groups;
  const std::int64_t *begin;        // [n_chunks, n_groups + 1]
  const std::uint32_t *orientation; // (view * mirrors + mirror) * A + j
  const std::uint32_t *frame;
  const float *probability;
};

// Frames whose transforms are held at a time (4 MB at A = 64, 30 rings: they stay in the
// last-level cache while all groups read them), and frames of one matrix product.
constexpr int kHeldFrames = 512, kProductFrames = 64;

// Scratch of `accumulate` on the CPU, in floats: where its parts begin, and its size.
struct AccumulateWorkspace {
  std::int64_t form;           // [n_groups] int32, 1: matrix products
  std::int64_t place, count;   // [n_photons] uint32, float
  std::int64_t held;           // [A / 2 + 1, rings, kHeldFrames + 2, 2]
  std::int64_t thread, stride; // the first thread's part, and from one to the next
  std::int64_t slot, probability, spectrum, factors, sums; // in a thread's part
  std::int64_t size;
};

static constexpr AccumulateWorkspace
accumulate_workspace(std::int64_t n_angles, std::int64_t mirrors, std::int64_t n_bins,
                     std::int64_t n_groups, std::int64_t n_photons, int threads) {
  const std::int64_t orders = n_angles / 2 + 1, wide = kViewGroup;
  const std::int64_t rings = (n_bins / n_angles + wide - 1) / wide * wide;
  AccumulateWorkspace at{};
  at.place = n_groups;
  at.count = at.place + n_photons;
  at.held = at.count + n_photons;
  at.thread = at.held + orders * rings * (kHeldFrames + 2) * 2;
  at.probability = wide * mirrors * n_angles; // after `slot`, uint32
  at.spectrum = at.probability + wide * mirrors * n_angles;
  at.factors = at.spectrum + 2 * wide * 2 * orders;
  at.sums = at.factors + orders * (kProductFrames * 4 + 1) * wide;
  const std::int64_t products = at.sums + rings * orders * 2 * wide;
  const std::int64_t scatter = mirrors * (2 * n_bins + n_angles);
  at.stride = (products > scatter ? products : scatter) + wide; // no line is shared
  at.size = at.thread + threads * at.stride;
  return at;
}

// Scratch of `accumulate` on CUDA, in floats: where its parts begin, and its size.
struct AccumulateDeviceWorkspace {
  std::int64_t load;   // [n_groups, 2] uint64: photons and runs of the terms
  std::int64_t held;   // [n_frames, A / 2 + 1, rings, 2]
  std::int64_t sums;   // [16 n_groups, rings, A + 2]
  std::int64_t n_runs; // [n_chunks, n_groups] int32: of terms of one frame
  std::int64_t run;    // [n_terms] uint32: the first term of each
  std::int64_t size;
};

static constexpr AccumulateDeviceWorkspace
accumulate_device_workspace(std::int64_t n_angles, std::int64_t n_bins,
                            std::int64_t n_chunks, std::int64_t n_groups,
                            std::int64_t n_frames, std::int64_t n_terms) {
  const std::int64_t rings = n_bins / n_angles, coefficients = rings * (n_angles + 2);
  AccumulateDeviceWorkspace at{};
  at.held = 4 * n_groups;
  at.sums = at.held + n_frames * coefficients;
  at.n_runs = at.sums + kViewGroup * n_groups * coefficients;
  at.run = at.n_runs + n_chunks * n_groups;
  at.size = at.run + n_terms;
  return at;
}

} // namespace spicore

// The M-step: photons of a block, weighted by their posterior, into the tomograms of
// views.
//
//   tomograms[v, bin(q, t + j)]    += P K[d, bin(q, t)]   for a term (d, v, 0, j)
//   tomograms[v, bin(q, -(t + j))] += P K[d, bin(q, t)]   for its mirror image (d, v, 1,
//   j) exposures[v, mirror, j]        += P fluence[d]
//
//   photons    rows q * A + t of all bins, those that orient, then n_bins + q * A + t of
//              photons that only merge; both are added
//   fluence    [n_frames]
//   mirrors    1 or 2, as in `polar_views`
//   n_bins     bins of a tomogram, a multiple of A
//   work       [accumulate_workspace(..).size], on CUDA
//              [accumulate_device_workspace(..).size] scratch
//   tomograms  [16 n_groups, n_bins], added to
//   exposures  [16 n_groups, mirrors, A]  sum of P fluence of each orientation, added to;
//              float64: it sums over all frames
//
// A group of views with few terms scatters photons; one with many multiplies transforms
// along the angle. Both agree to float32 rounding; what is added is never below 0. On the
// CPU one thread owns a view, or a group, and takes its terms in order: results do not
// depend on the number of threads. On CUDA photons are scattered in any order.
SPICORE_OPERATION(accumulate, const Exec &exec, const PosteriorTerms &terms,
                  const Photons &photons, const float *fluence, std::int64_t n_angles,
                  std::int64_t mirrors, std::int64_t n_bins, float *work,
                  float *tomograms, double *exposures)
