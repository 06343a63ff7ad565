#pragma once

#include <cstdint>

#include "spicore/angular_orders.hpp"
#include "spicore/exec.hpp"

namespace spicore {

// How products of frames and views are summed over the radii; the value is the number of
// bf16 (8 bits of significand) that stand for a float32. bf16_split leaves out the
// product of the two low parts. Order 0 is float32 in each: it is the largest, and one of
// many. Products of bf16 run on AMX tiles, or on their emulation where there are none; on
// CUDA all run on tensor cores, float32 as three bf16 and their six largest products.
enum class Arithmetic { float32 = 0, bf16 = 1, bf16_split = 2 };

// Transformed frames and views, as `polar_frames` and `polar_views` leave them. With
// x(d, v, j) = sum_{q,t} K[d, q, t] L_v(q, t + j), and L_v(q, -(t + j)) for the mirror
// image, the score of orientation (view * mirrors + mirror) * A + j is
//
//   l = x * norm(v, j) - fluence[d] * totals(v, j)
struct Correlation {
  AngularOrders
      orders; // of this call: at most `stride` coefficients, a divisor of A angles
  Arithmetic arithmetic;
  std::int64_t n_frames, n_groups, mirrors;
  std::int64_t stride;    // coefficients in memory between frames and between groups
  std::int64_t n_angles;  // A of totals, norm and the orientations
  const float *frames;    // [n_frames, stride, 2]
  const float *views;     // [n_groups, stride, 2, 16]
  const float *totals;    // [n_groups, mirrors, A, 16]
  const float *norm;      // as totals, or null: 1
  const float *fluence;   // [n_frames]
  const float *beta;      // [n_frames]
  const float *log_prior; // [16 n_groups] of each orientation of a view; -inf: no view
};

// Posterior terms, sorted by group of 16 views within a chunk of frames.
struct TermLists {
  std::int64_t chunk;         // frames of a chunk, the last may have less
  std::int64_t capacity;      // terms that fit a chunk
  std::uint32_t *orientation; // [chunks, capacity]
  std::uint32_t *frame;
  float *probability;
  std::int64_t
      *begin; // [chunks, n_groups + 1] positions in these arrays; where a chunk did
              // not fit its begin[0] is -1 and its frames are to be done again
};

struct PosteriorSums { // all [n_frames]
  std::int64_t *best;  // most probable orientation
  double *evidence;    // log sum prior exp(beta l)
  double *expected_score;
  double *information; // sum P log(P / prior), nats
  double *expected_total;
};

// Scratch of one thread: spectra of a tile of frames that stay in the second-level cache,
// and the scores of one frame.
constexpr std::int64_t kCorrelateBytes = 256 << 10;
constexpr int kCorrelateTile = 24; // frames at most
constexpr int kTileFrames = 16;    // frames, and radii, of a tile of bf16

// Frames that a thread of `screen` and `match` takes at a time, at most.
constexpr std::int64_t kMatchChunk = 64;

static inline std::int64_t correlate_spectrum(std::int64_t n_angles) {
  return (n_angles / 2 + 1) * 2 * kViewGroup;
}

// Floats between the spectra of two frames: an odd number of 64-byte lines.
static inline std::int64_t correlate_stride(std::int64_t n_angles, std::int64_t mirrors) {
  return mirrors * correlate_spectrum(n_angles) + kViewGroup;
}

// Frames of a tile; in float32 a multiple of the register blocks.
static inline int correlate_tile(std::int64_t n_angles, std::int64_t mirrors,
                                 Arithmetic arithmetic) {
  if (arithmetic != Arithmetic::float32)
    return kTileFrames;
  const std::int64_t n =
      kCorrelateBytes / 4 / correlate_stride(n_angles, mirrors) / 6 * 6;
  return int(n < 6 ? 6 : n < kCorrelateTile ? n : kCorrelateTile);
}

// Steps of 16 radii that the orders above 0 take in bf16.
static inline std::int64_t tile_steps(const AngularOrders &orders) {
  std::int64_t steps = 0;
  for (std::int64_t m = 1; m < orders.n_orders; ++m)
    steps += (orders.radii[m] + kTileFrames - 1) / kTileFrames;
  return steps;
}

// Spectra of a tile, scores of one frame, a chunk of frames and a group of views in bf16,
// and what it takes to begin at a 64-byte line.
static inline std::int64_t correlate_workspace(const AngularOrders &orders,
                                               std::int64_t mirrors,
                                               Arithmetic arithmetic,
                                               std::int64_t chunk) {
  const std::int64_t stride = correlate_stride(orders.n_angles, mirrors);
  return correlate_tile(orders.n_angles, mirrors, arithmetic) * stride +
         orders.n_angles * kViewGroup +
         int(arithmetic) * tile_steps(orders) * kTileFrames * (chunk + kViewGroup) +
         kViewGroup;
}

} // namespace spicore

// screen     scores[d, g] = largest beta l + log_prior of the orientations of a group
// correlate  P ~ prior exp(beta l), terms within `cut` nats of the largest, without ever
//            holding frames x orientations; keep [n_frames, n_groups] says which groups
//            to look at (null: all)
// match      best[d] = largest l, index[d] its orientation, mean[d] the mean of l
//
//   work  [threads, correlate_workspace(orders, mirrors, arithmetic, chunk)] scratch; the
//         chunk of screen and match is kMatchChunk; on CUDA not used
SPICORE_TILE_OPERATION(screen, const Exec &exec, const Correlation &task, float *work,
                       float *scores)
SPICORE_TILE_OPERATION(correlate, const Exec &exec, const Correlation &task,
                       const std::uint8_t *keep, float cut, float *work,
                       const TermLists &terms, const PosteriorSums &sums)
SPICORE_TILE_OPERATION(match, const Exec &exec, const Correlation &task, float *work,
                       float *best, std::int64_t *index, float *mean)
