// Fourier transforms of lines in shared memory, in place, by all threads of a block.
//
//   forward  y[place(k)] = sum_j x[j] exp(-2 pi i j k / n), not normalised
//   inverse  y[j] = sum_k x[place(k)] exp(+2 pi i j k / n)
//
// Decimation in frequency leaves frequencies at digit-reversed places, and the inverse
// takes them from there: no stage moves an element, so none needs a second buffer.
// Radices 2, 3, 4, 5, 7, 8 and, at n^2 cost, larger primes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "spicore/host_device.hpp"
#include "spicore/math/butterfly.hpp"

namespace spicore::cuda {

template <class T> struct alignas(2 * sizeof(T)) Complex { T r, i; };

template <class T> SPI_HD Complex<T> product(const Complex<T> &a, const Complex<T> &b) {
  return {a.r * b.r - a.i * b.i, a.r * b.i + a.i * b.r};
}

template <class T> SPI_HD Complex<T> exchanged(const Complex<T> &a) { return {a.i, a.r}; }

// --- plans

constexpr int kMostStages = 16; // of a length that fits shared memory

struct LinePlan {
  int n, n_stages;
  int radix[kMostStages];
};

inline LinePlan line_plan(int n) {
  LinePlan plan = {n, 0, {}};
  for (int rest = n; rest > 1; rest /= plan.radix[plan.n_stages++])
    plan.radix[plan.n_stages] = next_radix(rest);
  return plan;
}

SPI_HD int place_of(const LinePlan &plan, int frequency) {
  int place = 0, m = plan.n;
  for (int i = 0; i < plan.n_stages; ++i) {
    m /= plan.radix[i];
    place += frequency % plan.radix[i] * m;
    frequency /= plan.radix[i];
  }
  return place;
}

// --- stages

// Division of numbers below 2^16 by a fixed one: processors have none.
struct Divisor {
  unsigned by, magic; // ceil(2^32 / by), 0 for 1

  Divisor() = default;
  SPI_HD explicit Divisor(int n)
      : by(unsigned(n)), magic(n > 1 ? 0xffffffffu / unsigned(n) + 1 : 0) {}

  SPI_HD int quotient(int a) const {
    return magic ? int(std::uint64_t(unsigned(a)) * magic >> 32) : a;
  }
  SPI_HD int rest(int a, int quotient) const { return a - quotient * int(by); }
};

// Where the elements of a line are: even and odd ones apart.
struct Path {
  int even, odd, step;
  __device__ int operator()(int j) const {
    return (j & 1 ? odd : even) + (j >> 1) * step;
  }
};

// `Lines` has a count and at(l), the path of line l. turns: exp(-2 pi i j / n), j < n.
template <class T> struct Field {
  Complex<T> *values;
  const Complex<T> *turns;
  int n;
};

// A stage of radix R takes n into blocks of R m. Neighbouring threads have neighbouring
// lines, which do not share banks of memory, and the same twiddles.
template <class T, int R, bool inverse, class Lines>
__device__ void run_stage(const Field<T> &field, int m, const Lines &lines) {
  const int step = field.n / (R * m), total = lines.count * (field.n / R);
  const Divisor by_count(lines.count), by_m(m);
  for (int t = threadIdx.x; t < total; t += blockDim.x) {
    const int q = by_count.quotient(t), block = by_m.quotient(q);
    const int p = by_m.rest(q, block), first = block * R * m + p;
    const Path path = lines.at(by_count.rest(t, q));
    // Every other element is m steps of the path on.
    Complex<T> *const from[2] = {field.values + path(first),
                                 field.values + path(first + m)};
    const int apart = m * path.step;
    Complex<T> a[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Complex<T> v = from[r % 2][r / 2 * apart];
      a[r] = inverse ? exchanged(v) : v;
    }
    if (inverse && m > 1) {
#pragma unroll
      for (int r = 1; r < R; ++r)
        a[r] = product(a[r], field.turns[p * r * step]);
    }
    Butterfly<T, R>::run(a);
    if (!inverse && m > 1) {
#pragma unroll
      for (int r = 1; r < R; ++r)
        a[r] = product(a[r], field.turns[p * r * step]);
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
      from[r % 2][r / 2 * apart] = inverse ? exchanged(a[r]) : a[r];
  }
  __syncthreads();
}

constexpr int kOutputs = 4; // that a thread holds in a stage of any prime radix

// Output k of one butterfly of any radix.
template <class T, bool inverse>
__device__ Complex<T> output_of(const Field<T> &field, const Path &path, int radix, int m,
                                int p, int first, int k) {
  const int step = field.n / (radix * m), of_radix = field.n / radix;
  Complex<T> sum = {T(0), T(0)};
  int turn = 0; // r k mod radix
  for (int r = 0; r < radix; ++r) {
    const Complex<T> v = field.values[path(first + r * m)];
    Complex<T> a = inverse ? exchanged(v) : v;
    if (inverse)
      a = product(a, field.turns[p * r * step]);
    a = product(a, field.turns[turn * of_radix]);
    sum = {sum.r + a.r, sum.i + a.i};
    turn += k;
    turn -= turn >= radix ? radix : 0;
  }
  return inverse ? exchanged(sum) : product(sum, field.turns[p * k * step]);
}

// As many butterflies at a time as the threads can hold the outputs of.
template <class T, bool inverse, class Lines>
__device__ void run_general_stage(const Field<T> &field, int radix, int m,
                                  const Lines &lines) {
  const int total = lines.count * (field.n / radix);
  const int together = int(blockDim.x) * kOutputs / radix;
  for (int begin = 0; begin < total; begin += together) {
    const int end = (begin + together < total ? begin + together : total) * radix;
    Complex<T> outputs[kOutputs];
    int to[kOutputs];
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      const int o = begin * radix + int(threadIdx.x) + j * int(blockDim.x);
      to[j] = -1;
      if (o >= end)
        continue;
      const int t = o / radix, k = o % radix, q = t / lines.count, p = q % m;
      const int first = q / m * radix * m + p;
      const Path path = lines.at(t % lines.count);
      outputs[j] = output_of<T, inverse>(field, path, radix, m, p, first, k);
      to[j] = path(first + k * m);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kOutputs; ++j)
      if (to[j] >= 0)
        field.values[to[j]] = outputs[j];
    __syncthreads();
  }
}

template <class T, bool inverse, class Lines>
__device__ void run_radix(const Field<T> &field, int radix, int m, const Lines &lines) {
  switch (radix) {
  case 2:
    return run_stage<T, 2, inverse>(field, m, lines);
  case 3:
    return run_stage<T, 3, inverse>(field, m, lines);
  case 4:
    return run_stage<T, 4, inverse>(field, m, lines);
  case 5:
    return run_stage<T, 5, inverse>(field, m, lines);
  case 7:
    return run_stage<T, 7, inverse>(field, m, lines);
  case 8:
    return run_stage<T, 8, inverse>(field, m, lines);
  default:
    return run_general_stage<T, inverse>(field, radix, m, lines);
  }
}

// Ends with a barrier, unless n is 1.
template <class T, bool inverse, class Lines>
__device__ void transform(const Field<T> &field, const LinePlan &plan,
                          const Lines &lines) {
  int m = inverse ? 1 : plan.n; // length of a block's parts, radices of later stages
  for (int i = 0; i < plan.n_stages; ++i) {
    const int radix = plan.radix[inverse ? plan.n_stages - 1 - i : i];
    if (!inverse)
      m /= radix;
    run_radix<T, inverse>(field, radix, m, lines);
    if (inverse)
      m *= radix;
  }
}

} // namespace spicore::cuda
