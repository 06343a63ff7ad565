// The constraints of phase retrieval, one value at a time.
#pragma once

#include <cfloat>
#include <cmath>

#include "line_fft.cuh"
#include "spicore/phase.hpp"

namespace spicore::cuda {

// --- the spectrum

// Place in `target` of frequency k of the last axis, with `blocks` of `lanes` in a plane.
// On a GPU a block holds all columns: planes are [n1][columns], then the edge.
template <class Index>
SPI_HD Index spectrum_index(Index blocks, Index lanes, Index n1, Index i0, Index i1,
                            Index k) {
  const Index plane = i0 * blocks;
  return k < lanes ? (plane + i1) * lanes + k : (plane + n1) * lanes + i1;
}

// Tables over shells, of one seed.
struct Shells {
  double *of_round, *of_value; // averages of the round before: tables 1 and 2
  double *round_sum, *value_sum;
};

// What one thread does in P_M.
template <class T> struct ModulusStep {
  const PhaseTask<T> &task;
  const BackgroundRound &round;
  std::int64_t seed;
  Shells shells;
  T norm;
  double error; // sum weight ||F| - A| over what is measured

  __device__ ModulusStep(const PhaseTask<T> &task_, const BackgroundRound &round_,
                         std::int64_t seed_, const Shells &shells_)
      : task(task_), round(round_), seed(seed_), shells(shells_),
        norm(T(1.0 / double(task_.grid.voxels()))), error(0.0) {}

  __device__ T *stored(std::int64_t at) const {
    const PhaseGrid &grid = task.grid;
    return task.background + seed * grid.n0 * grid.blocks() * grid.lanes + at;
  }

  __device__ T background(std::int64_t at) const {
    return T(round.f * *stored(at) + round.g * shells.of_value[task.shell[at]]);
  }

  __device__ void scale_background(std::int64_t at, T value, T by, double weight) const {
    const int shell = task.shell[at];
    const double b = value, mb = b * by;
    *stored(at) = T(round.keep * *stored(at) + round.a * b + round.b * mb +
                    round.h * shells.of_round[shell]);
    atomicAdd(shells.round_sum + shell, weight * (round.d * b + round.e * mb));
    atomicAdd(shells.value_sum + shell, weight * b);
  }

  // P_M of the frequency at `at`, that stands for `weight`, and the scale of an inverse.
  __device__ Complex<T> operator()(const Complex<T> &f, std::int64_t at, int weight) {
    const T tiny = sizeof(T) == sizeof(float) ? T(FLT_MIN) : T(DBL_MIN);
    const T a = task.target[at];
    const T b = task.background ? background(at) : T(0);
    const T square = f.r * f.r + f.i * f.i + b * b, length = std::sqrt(square);
    const bool vanishes = square < tiny; // then it has no phase
    const T ratio = std::abs(a) / length;
    const T scale = vanishes ? T(0) : a < T(0) && !(ratio < T(1)) ? T(1) : ratio;
    const T instead = vanishes && a > T(0) ? a : T(0);
    if (task.background)
      scale_background(at, b, scale, weight);
    if (!(a < T(0)))
      error += weight * double(std::abs(length - a));
    return {(f.r * scale + instead) * norm, f.i * scale * norm};
  }
};

// Averages of shells from their sums, which start again. One thread a shell.
inline __device__ void average_shell(const Shells &shells, int shell, double weight,
                                     const BackgroundRound &round) {
  const double of_round = fmax(shells.round_sum[shell] * weight, 0.0);
  const double of_value = fmax(shells.value_sum[shell] * weight, 0.0);
  shells.of_round[shell] = of_round;
  shells.of_value[shell] = round.pending ? round.c * of_round : of_value;
  shells.round_sum[shell] = shells.value_sum[shell] = 0.0;
}

// Adds up the threads' errors, always in the same order; thread 0 has the sum.
inline __device__ double block_sum(double *partial, double value) {
  constexpr int lanes = 32;
  const int n = int(blockDim.x), t = int(threadIdx.x);
  partial[t] = value;
  __syncthreads();
  double total = 0.0;
  for (int i = t; t < lanes && i < n; i += lanes)
    total += partial[i];
  if (t < lanes)
    partial[t] = total;
  __syncthreads();
  total = 0.0;
  for (int i = 0; t == 0 && i < lanes; ++i)
    total += partial[i];
  return total;
}

// --- the object

template <class T> SPI_HD T sum(T a, T x, T b, T y) { return a * x + b * y; }
template <class T>
SPI_HD Complex<T> sum(T a, const Complex<T> &x, T b, const Complex<T> &y) {
  return {a * x.r + b * y.r, a * x.i + b * y.i};
}

template <class T> struct Update {
  T a, b, c, d, e, f, g;
  bool from_old, reads_x, positive, bounded, wide;
  T low_r, low_i, high_r, high_i; // directions of the phase bounds

  Update() = default;
  Update(const PhaseTask<T> &task, const PhaseRound &round)
      : a(T(round.a)), b(T(round.b)), c(T(round.c)), d(T(round.d)), e(T(round.e)),
        f(T(round.f)), g(T(round.g)), from_old(round.from_old),
        reads_x(round.from_old || round.a != 0.0 || round.d != 0.0),
        positive(task.positive), bounded(task.bounded),
        wide(task.high - task.low > 3.141592653589793), low_r(T(std::cos(task.low))),
        low_i(T(std::sin(task.low))), high_r(T(std::cos(task.high))),
        high_i(T(std::sin(task.high))) {}

  // P_S of a real or a complex value.
  SPI_HD T project(T v, bool inside) const {
    return !inside || (positive && v < T(0)) ? T(0) : v;
  }
  SPI_HD Complex<T> project(const Complex<T> &v, bool inside) const {
    if (!inside)
      return {T(0), T(0)};
    if (positive)
      return {v.r < T(0) ? T(0) : v.r, T(0)};
    if (!bounded)
      return v;
    const bool past_low = low_r * v.i - low_i * v.r >= T(0);
    const bool before_high = high_i * v.r - high_r * v.i >= T(0);
    const bool good = wide ? past_low || before_high : past_low && before_high;
    return good ? v : Complex<T>{T(0), T(0)};
  }

  // x := what the round makes of it and p. Returns what is transformed next.
  template <class V> SPI_HD V operator()(V &x, const V &p, bool inside) const {
    const V old = reads_x ? x : V{};
    const V inner = project(sum(d, old, e, p), inside);
    x = sum(T(1), sum(a, old, b, p), c, inner);
    return from_old ? sum(f, old, g, project(old, inside)) : x;
  }
};

} // namespace spicore::cuda
