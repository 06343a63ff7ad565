// Fourier transforms along the in-plane angle, 16 side by side: straight-line codelets in
// two passes, A = N1 x N2. Only for files in src/.
//
//   complex_to_real  out[j][lane] = sum over all m of C[m] exp(+2 pi i m j / A), C
//   Hermitian real_to_complex  out[m][re,im][lane] = sum_j in[j] exp(-2 pi i m j / A), m
//   = 0 .. A / 2
//
// The imaginary parts of orders 0 and A / 2 are ignored. Neither is normalised.
#pragma once

#include <array>
#include <utility>

#include "vec.hpp"

#define SPICORE_INLINE inline __attribute__((always_inline))

// Internal linkage throughout: each file has its own copy for its instruction set.
namespace spicore::cpu::SPICORE_SIMD {
namespace {

constexpr int kWide = 16; // transforms side by side

constexpr int kMostAngles = 512;

// cos(2 pi k / n) by Taylor series after reduction to the first octant.
constexpr double turn_cosine(int k, int n);
constexpr double turn_sine(int k, int n) {
  k %= n;
  if (k < 0)
    k += n;
  if (2 * k > n)
    return -turn_sine(n - k, n);
  if (4 * k > n)
    return turn_sine(n - 2 * k, 2 * n); // sin(pi - x), in units of half steps
  if (8 * k > n)
    return turn_cosine(n - 4 * k, 4 * n); // cos(pi / 2 - x)
  const double x = 6.283185307179586476925 * k / n;
  double term = x, sum = x;
  for (int i = 1; i < 12; ++i) {
    term *= -x * x / ((2 * i) * (2 * i + 1));
    sum += term;
  }
  return sum;
}
constexpr double turn_cosine(int k, int n) {
  k %= n;
  if (k < 0)
    k += n;
  if (2 * k > n)
    k = n - k;
  if (4 * k > n)
    return -turn_cosine(n - 2 * k, 2 * n); // cos(pi - x)
  if (8 * k > n)
    return turn_sine(n - 4 * k, 4 * n); // sin(pi / 2 - x)
  const double x = 6.283185307179586476925 * k / n;
  double term = 1.0, sum = 1.0;
  for (int i = 1; i < 12; ++i) {
    term *= -x * x / ((2 * i - 1) * (2 * i));
    sum += term;
  }
  return sum;
}

// exp(2 pi i k / n) for k = 0 .. n - 1.
template <int n> struct Turns {
  std::array<float, n> c{}, s{};
  constexpr Turns() {
    for (int k = 0; k < n; ++k) {
      c[k] = float(turn_cosine(k, n));
      s[k] = float(turn_sine(k, n));
    }
  }
};

template <class Body, int... i>
SPICORE_INLINE void unrolled(const Body &body, std::integer_sequence<int, i...>) {
  (body(std::integral_constant<int, i>{}), ...);
}
template <int n, class Body> SPICORE_INLINE void unrolled(const Body &body) {
  unrolled(body, std::make_integer_sequence<int, n>{});
}

// y = DFT of x (x read with a stride), sign of the exponent as given; natural order.
template <int N, int sign> struct Dft {
  static constexpr int R = N % 4 == 0 ? 4 : N % 3 == 0 ? 3 : N % 2 == 0 ? 2 : N;
  static_assert(N == 1 || R < N || N <= 4, "sizes have the factors 2, 3 and 4");

  static SPICORE_INLINE void run(const f32n *xr, const f32n *xi, int stride, f32n *yr,
                                 f32n *yi) {
    constexpr int n = N / R;
    unrolled<R>([&](auto r) {
      Dft<n, sign>::run(xr + r * stride, xi + r * stride, stride * R, yr + r * n,
                        yi + r * n);
    });
    unrolled<n>([&](auto k) {
      f32n tr[R], ti[R];
      unrolled<R>([&](auto r) {
        constexpr float c = float(turn_cosine(r * k, N)),
                        s = float(sign * turn_sine(r * k, N));
        const f32n ar = yr[r * n + k], ai = yi[r * n + k];
        if constexpr (r * k == 0) {
          tr[r] = ar;
          ti[r] = ai;
        } else {
          tr[r] = ar * c - ai * s;
          ti[r] = ar * s + ai * c;
        }
      });
      butterfly(tr, ti, yr + k, yi + k, n);
    });
  }

  static SPICORE_INLINE void butterfly(const f32n *tr, const f32n *ti, f32n *yr, f32n *yi,
                                       int n) {
    if constexpr (R == 2) {
      yr[0] = tr[0] + tr[1], yi[0] = ti[0] + ti[1];
      yr[n] = tr[0] - tr[1], yi[n] = ti[0] - ti[1];
    } else if constexpr (R == 3) {
      constexpr float s = float(sign * turn_sine(1, 3));
      const f32n sr = tr[1] + tr[2], si = ti[1] + ti[2];
      const f32n dr = (tr[1] - tr[2]) * s, di = (ti[1] - ti[2]) * s;
      const f32n cr = tr[0] - sr * 0.5f, ci = ti[0] - si * 0.5f;
      yr[0] = tr[0] + sr, yi[0] = ti[0] + si;
      yr[n] = cr - di, yi[n] = ci + dr;
      yr[2 * n] = cr + di, yi[2 * n] = ci - dr;
    } else {
      const f32n ar = tr[0] + tr[2], ai = ti[0] + ti[2];
      const f32n br = tr[0] - tr[2], bi = ti[0] - ti[2];
      const f32n cr = tr[1] + tr[3], ci = ti[1] + ti[3];
      const f32n dr = (tr[1] - tr[3]) * float(sign), di = (ti[1] - ti[3]) * float(sign);
      yr[0] = ar + cr, yi[0] = ai + ci;
      yr[n] = br - di, yi[n] = bi + dr;
      yr[2 * n] = ar - cr, yi[2 * n] = ai - ci;
      yr[3 * n] = br + di, yi[3 * n] = bi - dr;
    }
  }
};

template <int sign> struct Dft<1, sign> {
  static SPICORE_INLINE void run(const f32n *xr, const f32n *xi, int, f32n *yr,
                                 f32n *yi) {
    yr[0] = xr[0], yi[0] = xi[0];
  }
};

// x[j] = sum over all k of X[k] exp(2 pi i k j / N) from X[0 .. N / 2], through a complex
// transform of half the size.
template <int N>
SPICORE_INLINE void hermitian_to_real(const f32n *Xr, const f32n *Xi, f32n *x) {
  constexpr int h = N / 2;
  f32n zr[h], zi[h], yr[h], yi[h];
  zr[0] = Xr[0] + Xr[h], zi[0] = Xr[0] - Xr[h];
  unrolled<h - 1>([&](auto i) {
    constexpr int k = i + 1;
    constexpr float c = float(turn_cosine(k, N)), s = float(turn_sine(k, N));
    const f32n ar = Xr[k] + Xr[h - k], ai = Xi[k] - Xi[h - k];
    const f32n br = Xr[k] - Xr[h - k], bi = Xi[k] + Xi[h - k];
    // i (br + i bi) (c + i s)
    zr[k] = ar - (br * s + bi * c);
    zi[k] = ai + (br * c - bi * s);
  });
  Dft<h, 1>::run(zr, zi, 1, yr, yi);
  unrolled<h>([&](auto n) {
    x[2 * n] = yr[n];
    x[2 * n + 1] = yi[n];
  });
}

// X[0 .. N / 2] = sum_j x[j] exp(-2 pi i k j / N).
template <int N>
SPICORE_INLINE void real_to_hermitian(const f32n *x, f32n *Xr, f32n *Xi) {
  constexpr int h = N / 2;
  f32n zr[h], zi[h], yr[h], yi[h];
  unrolled<h>([&](auto n) {
    zr[n] = x[2 * n];
    zi[n] = x[2 * n + 1];
  });
  Dft<h, -1>::run(zr, zi, 1, yr, yi);
  Xr[0] = yr[0] + yi[0], Xi[0] = yr[0] * 0.0f;
  Xr[h] = yr[0] - yi[0], Xi[h] = yr[0] * 0.0f;
  unrolled<h - 1>([&](auto i) {
    constexpr int k = i + 1;
    constexpr float c = float(turn_cosine(k, N)), s = float(turn_sine(k, N));
    const f32n ar = (yr[k] + yr[h - k]) * 0.5f, ai = (yi[k] - yi[h - k]) * 0.5f;
    const f32n br = (yr[k] - yr[h - k]) * 0.5f, bi = (yi[k] + yi[h - k]) * 0.5f;
    // -i (br + i bi) (c - i s)
    Xr[k] = ar + (bi * c - br * s);
    Xi[k] = ai - (br * c + bi * s);
  });
}

template <int N1, int N2> struct Angular {
  static constexpr int A = N1 * N2;
  static constexpr Turns<A> turns{};

  // in [A / 2 + 1][2][16], out [A][16]
  static void complex_to_real(const float *in, float *out) noexcept {
    for (int lane = 0; lane < kWide; lane += kNative) {
      f32n work_r[N1 / 2 + 1][N2], work_i[N1 / 2 + 1][N2];
      for (int m1 = 0; m1 <= N1 / 2; ++m1) {
        f32n xr[N2], xi[N2], yr[N2], yi[N2];
        unrolled<N2 / 2>([&](auto m2) {
          const float *low = in + 2 * kWide * (m1 + N1 * m2) + lane;
          const float *high = in + 2 * kWide * (N1 * (m2 + 1) - m1) + lane;
          xr[m2] = load_native(low), xi[m2] = load_native(low + kWide);
          xr[N2 - 1 - m2] = load_native(high),
                      xi[N2 - 1 - m2] = -load_native(high + kWide);
        });
        Dft<N2, 1>::run(xr, xi, 1, yr, yi);
        unrolled<N2>([&](auto j2) {
          const float c = turns.c[m1 * j2], s = turns.s[m1 * j2];
          work_r[m1][j2] = yr[j2] * c - yi[j2] * s;
          work_i[m1][j2] = yr[j2] * s + yi[j2] * c;
        });
      }
      for (int j2 = 0; j2 < N2; ++j2) {
        f32n Xr[N1 / 2 + 1], Xi[N1 / 2 + 1], x[N1];
        unrolled<N1 / 2 + 1>([&](auto k) {
          Xr[k] = work_r[k][j2];
          Xi[k] = work_i[k][j2];
        });
        hermitian_to_real<N1>(Xr, Xi, x);
        unrolled<N1>(
            [&](auto j1) { store_native(out + kWide * (j2 + N2 * j1) + lane, x[j1]); });
      }
    }
  }

  // in [A][16], out [A / 2 + 1][2][16]
  static void real_to_complex(const float *in, float *out) noexcept {
    for (int lane = 0; lane < kWide; lane += kNative) {
      f32n work_r[N1 / 2 + 1][N2], work_i[N1 / 2 + 1][N2];
      for (int j2 = 0; j2 < N2; ++j2) {
        f32n x[N1], Xr[N1 / 2 + 1], Xi[N1 / 2 + 1];
        unrolled<N1>(
            [&](auto j1) { x[j1] = load_native(in + kWide * (j2 + N2 * j1) + lane); });
        real_to_hermitian<N1>(x, Xr, Xi);
        for (int m1 = 0; m1 <= N1 / 2; ++m1) {
          const float c = turns.c[m1 * j2], s = turns.s[m1 * j2];
          work_r[m1][j2] = Xr[m1] * c + Xi[m1] * s;
          work_i[m1][j2] = Xi[m1] * c - Xr[m1] * s;
        }
      }
      for (int m1 = 0; m1 <= N1 / 2; ++m1) {
        f32n yr[N2], yi[N2];
        Dft<N2, -1>::run(work_r[m1], work_i[m1], 1, yr, yi);
        unrolled<N2 / 2>([&](auto m2) {
          float *low = out + 2 * kWide * (m1 + N1 * m2) + lane;
          float *high = out + 2 * kWide * (N1 * (m2 + 1) - m1) + lane;
          store_native(high, yr[N2 - 1 - m2]);
          store_native(high + kWide, -yi[N2 - 1 - m2]);
          store_native(low, yr[m2]);
          store_native(low + kWide, yi[m2]);
        });
        if (m1 == 0) { // order A / 2, once
          store_native(out + kWide * A + lane, yr[N2 / 2]);
          store_native(out + kWide * A + kWide + lane, yi[N2 / 2] * 0.0f);
        }
      }
    }
  }
};

// Calls body(Angular<...>{}) for a supported number of angles; false for any other.
template <class Body> bool with_angles(std::int64_t n_angles, const Body &body) {
  switch (n_angles) {
  case 32:
    return body(Angular<8, 4>{}), true;
  case 48:
    return body(Angular<12, 4>{}), true;
  case 64:
    return body(Angular<8, 8>{}), true;
  case 96:
    return body(Angular<8, 12>{}), true;
  case 128:
    return body(Angular<8, 16>{}), true;
  case 144:
    return body(Angular<12, 12>{}), true;
  case 192:
    return body(Angular<16, 12>{}), true;
  case 256:
    return body(Angular<16, 16>{}), true;
  case 384:
    return body(Angular<16, 24>{}), true;
  case 512:
    return body(Angular<16, 32>{}), true;
  default:
    return false;
  }
}

} // namespace
} // namespace spicore::cpu::SPICORE_SIMD
