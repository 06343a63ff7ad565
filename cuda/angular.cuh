// Fourier transforms along the in-plane angle, A = N1 x N2, in place in shared memory and
// in two passes. Whoever does a piece of the first pass must have finished all of it, of
// one transform, before the second.
//
//   forward  X[m] = sum_j x[j] exp(-2 pi i m j / A), m = 0 .. A / 2; x[j] at x[j stride]
//   inverse  x[j] = sum over all m of X[m] exp(2 pi i m j / A), X Hermitian; re and im of
//            X[m] at 2 m stride and (2 m + 1) stride
//
// The imaginary parts of orders 0 and A / 2 are ignored. Neither is normalised.
#pragma once

#include <cuda_runtime.h>

#include "spicore/math/angular_dft.hpp"

namespace spicore::cuda {
namespace {

// In constant memory: the threads of a warp read the same root of unity.
template <int A> __constant__ const Turns<A> roots{};

template <int N1, int N2> struct Angular {
  static constexpr int A = N1 * N2, half = N1 / 2, columns = N2;

  // First pass forward, piece j2 of N2: column x[j2 + N2 j1] becomes the coefficients k
  // of its transform, re at row k, im at row N1 - k.
  static __device__ void forward_column(float *x, int stride, int j2) {
    float column[N1], re[half + 1], im[half + 1];
    unrolled<N1>([&](auto j1) { column[j1] = x[(j2 + N2 * j1) * stride]; });
    real_to_hermitian<N1>(column, re, im);
    unrolled<half + 1>([&](auto k) { x[(j2 + N2 * k) * stride] = re[k]; });
    unrolled<half - 1>([&](auto i) {
      constexpr int k = decltype(i)::value + 1;
      x[(j2 + N2 * (N1 - k)) * stride] = im[k];
    });
  }

  // Second pass forward, piece m1 of N1 / 2 + 1: calls emit(m, re, im) for its orders.
  template <class Emit>
  static __device__ void forward_row(const float *x, int stride, int m1,
                                     const Emit &emit) {
    float xr[N2], xi[N2], yr[N2], yi[N2];
    const bool real = m1 == 0 || m1 == half;
    const float *row_r = x + N2 * m1 * stride, *row_i = x + N2 * (N1 - m1) * stride;
    unrolled<N2>([&](auto j2) {
      const float c = roots<A>.c[m1 * j2], s = roots<A>.s[m1 * j2];
      const float re = row_r[j2 * stride], im = real ? 0.0f : row_i[j2 * stride];
      xr[j2] = re * c + im * s;
      xi[j2] = im * c - re * s;
    });
    Dft<N2, -1>::run(xr, xi, 1, yr, yi);
    unrolled<N2 / 2>([&](auto m2) {
      emit(m1 + N1 * m2, yr[m2], yi[m2]);
      if (!real) // else they are the same orders again
        emit(N1 * (m2 + 1) - m1, yr[N2 - 1 - m2], -yi[N2 - 1 - m2]);
    });
    if (m1 == 0)
      emit(A / 2, yr[N2 / 2], 0.0f);
  }

  // First pass inverse, piece m1 of N1 / 2 + 1: the orders +-m1 modulo N1.
  static __device__ void inverse_row(float *spectrum, int stride, int m1) {
    float xr[N2], xi[N2], yr[N2], yi[N2];
    unrolled<N2 / 2>([&](auto m2) {
      const float *low = spectrum + 2 * (m1 + N1 * m2) * stride;
      const float *high = spectrum + 2 * (N1 * (m2 + 1) - m1) * stride;
      xr[m2] = low[0], xi[m2] = low[stride];
      xr[N2 - 1 - m2] = high[0], xi[N2 - 1 - m2] = -high[stride];
    });
    Dft<N2, 1>::run(xr, xi, 1, yr, yi);
    unrolled<N2>([&](auto j2) {
      const float c = roots<A>.c[m1 * j2], s = roots<A>.s[m1 * j2];
      const float re = yr[j2] * c - yi[j2] * s, im = yr[j2] * s + yi[j2] * c;
      if (m1 == 0 || m1 == half) {
        spectrum[edge(m1, j2) * stride] = re;
      } else {
        spectrum[2 * order(m1, j2) * stride] = re;
        spectrum[(2 * order(m1, j2) + 1) * stride] = im;
      }
    });
  }

  // Second pass inverse, piece j2 of N2: calls emit(j, place, x[j]), where place is one
  // of those (times stride) that the piece has read.
  template <class Emit>
  static __device__ void inverse_column(const float *spectrum, int stride, int j2,
                                        const Emit &emit) {
    float re[half + 1], im[half + 1], x[N1];
    re[0] = spectrum[edge(0, j2) * stride], im[0] = 0.0f;
    re[half] = spectrum[edge(half, j2) * stride], im[half] = 0.0f;
    unrolled<half - 1>([&](auto i) {
      constexpr int k = decltype(i)::value + 1;
      re[k] = spectrum[2 * order(k, j2) * stride];
      im[k] = spectrum[(2 * order(k, j2) + 1) * stride];
    });
    hermitian_to_real<N1>(re, im, x);
    unrolled<N1>([&](auto j1) { emit(j2 + N2 * j1, place(j1, j2), x[j1]); });
  }

  // Where x[j] is kept after an inverse in place.
  static __device__ int place(int j) { return place(j / N2, j % N2); }

private:
  static __device__ int place(int j1, int j2) {
    if (j1 == 0 || j1 == half)
      return edge(j1, j2);
    return j1 < half ? 2 * order(j1, j2) : 2 * order(N1 - j1, j2) + 1;
  }

  // The order whose place holds element j2 of row m1, and the place of a real row's.
  static __device__ int order(int m1, int j2) {
    return j2 < N2 / 2 ? m1 + N1 * j2 : N1 * (N2 - j2) - m1;
  }
  static __device__ int edge(int m1, int j2) { return 2 * (m1 + N1 * (j2 / 2)) + j2 % 2; }
};

template <class Body> bool with_angles(std::int64_t n_angles, const Body &body) {
  return with_factors<Angular>(n_angles, body);
}

} // namespace
} // namespace spicore::cuda
