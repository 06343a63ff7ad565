// Discrete Fourier transforms as straight-line code: roots of unity, small complex
// transforms, and their real forms. V: float, or a vector of floats side by side.
#pragma once

#include <cstdint>
#include <utility>

#include "spicore/host_device.hpp"

// Internal linkage throughout: each file has its own copy for its instruction set.
namespace spicore {
namespace {

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

// exp(2 pi i k / n), where device code may use it.
template <int k, int n, class T = float> struct Turn {
  static constexpr T c = T(turn_cosine(k, n)), s = T(turn_sine(k, n));
};

// exp(2 pi i k / n) for k = 0 .. n - 1.
template <int n> struct Turns {
  float c[n] = {}, s[n] = {};
  constexpr Turns() {
    for (int k = 0; k < n; ++k) {
      c[k] = float(turn_cosine(k, n));
      s[k] = float(turn_sine(k, n));
    }
  }
};

// std::integral_constant that device code may read.
template <int i> struct Constant {
  static constexpr int value = i;
  SPI_HD constexpr operator int() const { return i; }
};

template <class Body, int... i>
SPI_HD void unrolled(const Body &body, std::integer_sequence<int, i...>) {
  (body(Constant<i>{}), ...);
}
template <int n, class Body> SPI_HD void unrolled(const Body &body) {
  unrolled(body, std::make_integer_sequence<int, n>{});
}

// y = DFT of x (x read with a stride), sign of the exponent as given; natural order.
template <int N, int sign> struct Dft {
  static constexpr int R = N % 4 == 0 ? 4 : N % 3 == 0 ? 3 : N % 2 == 0 ? 2 : N;
  static_assert(N == 1 || R < N || N <= 4, "sizes have the factors 2, 3 and 4");

  template <class V>
  static SPI_HD void run(const V *xr, const V *xi, int stride, V *yr, V *yi) {
    constexpr int n = N / R;
    unrolled<R>([&](auto r) {
      Dft<n, sign>::run(xr + r * stride, xi + r * stride, stride * R, yr + r * n,
                        yi + r * n);
    });
    unrolled<n>([&](auto k) {
      V tr[R], ti[R];
      unrolled<R>([&](auto r) {
        constexpr int turn = decltype(r)::value * decltype(k)::value;
        constexpr float c = Turn<turn, N>::c, s = sign * Turn<turn, N>::s;
        const V ar = yr[r * n + k], ai = yi[r * n + k];
        if constexpr (turn == 0) {
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

  template <class V>
  static SPI_HD void butterfly(const V *tr, const V *ti, V *yr, V *yi, int n) {
    if constexpr (R == 2) {
      yr[0] = tr[0] + tr[1], yi[0] = ti[0] + ti[1];
      yr[n] = tr[0] - tr[1], yi[n] = ti[0] - ti[1];
    } else if constexpr (R == 3) {
      constexpr float s = sign * Turn<1, 3>::s;
      const V sr = tr[1] + tr[2], si = ti[1] + ti[2];
      const V dr = (tr[1] - tr[2]) * s, di = (ti[1] - ti[2]) * s;
      const V cr = tr[0] - sr * 0.5f, ci = ti[0] - si * 0.5f;
      yr[0] = tr[0] + sr, yi[0] = ti[0] + si;
      yr[n] = cr - di, yi[n] = ci + dr;
      yr[2 * n] = cr + di, yi[2 * n] = ci - dr;
    } else {
      const V ar = tr[0] + tr[2], ai = ti[0] + ti[2];
      const V br = tr[0] - tr[2], bi = ti[0] - ti[2];
      const V cr = tr[1] + tr[3], ci = ti[1] + ti[3];
      const V dr = (tr[1] - tr[3]) * float(sign), di = (ti[1] - ti[3]) * float(sign);
      yr[0] = ar + cr, yi[0] = ai + ci;
      yr[n] = br - di, yi[n] = bi + dr;
      yr[2 * n] = ar - cr, yi[2 * n] = ai - ci;
      yr[3 * n] = br + di, yi[3 * n] = bi - dr;
    }
  }
};

template <int sign> struct Dft<1, sign> {
  template <class V> static SPI_HD void run(const V *xr, const V *xi, int, V *yr, V *yi) {
    yr[0] = xr[0], yi[0] = xi[0];
  }
};

// x[j] = sum over all k of X[k] exp(2 pi i k j / N) from X[0 .. N / 2], through a complex
// transform of half the size.
template <int N, class V> SPI_HD void hermitian_to_real(const V *Xr, const V *Xi, V *x) {
  constexpr int h = N / 2;
  V zr[h], zi[h], yr[h], yi[h];
  zr[0] = Xr[0] + Xr[h], zi[0] = Xr[0] - Xr[h];
  unrolled<h - 1>([&](auto i) {
    constexpr int k = decltype(i)::value + 1;
    constexpr float c = Turn<k, N>::c, s = Turn<k, N>::s;
    const V ar = Xr[k] + Xr[h - k], ai = Xi[k] - Xi[h - k];
    const V br = Xr[k] - Xr[h - k], bi = Xi[k] + Xi[h - k];
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
template <int N, class V> SPI_HD void real_to_hermitian(const V *x, V *Xr, V *Xi) {
  constexpr int h = N / 2;
  V zr[h], zi[h], yr[h], yi[h];
  unrolled<h>([&](auto n) {
    zr[n] = x[2 * n];
    zi[n] = x[2 * n + 1];
  });
  Dft<h, -1>::run(zr, zi, 1, yr, yi);
  Xr[0] = yr[0] + yi[0], Xi[0] = yr[0] * 0.0f;
  Xr[h] = yr[0] - yi[0], Xi[h] = yr[0] * 0.0f;
  unrolled<h - 1>([&](auto i) {
    constexpr int k = decltype(i)::value + 1;
    constexpr float c = Turn<k, N>::c, s = Turn<k, N>::s;
    const V ar = (yr[k] + yr[h - k]) * 0.5f, ai = (yi[k] - yi[h - k]) * 0.5f;
    const V br = (yr[k] - yr[h - k]) * 0.5f, bi = (yi[k] + yi[h - k]) * 0.5f;
    // -i (br + i bi) (c - i s)
    Xr[k] = ar + (bi * c - br * s);
    Xi[k] = ai - (br * c + bi * s);
  });
}

// Calls body(Angular<N1, N2>{}) for a supported number of angles A = N1 N2; false for any
// other.
template <template <int, int> class Angular, class Body>
bool with_factors(std::int64_t n_angles, const Body &body) {
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
} // namespace spicore
