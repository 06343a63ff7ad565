// Transforms of a few values in place, for transforms of lines of any length:
//
//   a[k] := sum_r a[r] exp(-2 pi i r k / R)
//
// The values have members r and i: of T, or vectors of them side by side.
#pragma once

#include "spicore/math/angular_dft.hpp"

namespace spicore {
namespace {

// Odd R, in pairs r and R - r.
template <class T, int R> struct Butterfly {
  static_assert(R % 2 == 1);
  template <class Value> static SPI_HD void run(Value *a) {
    constexpr int h = R / 2;
    Value sum[h], difference[h];
    const Value first = a[0];
    unrolled<h>([&](auto j) {
      const Value p = a[j + 1], q = a[R - 1 - j];
      sum[j] = {p.r + q.r, p.i + q.i};
      difference[j] = {p.r - q.r, p.i - q.i};
      a[0].r += sum[j].r;
      a[0].i += sum[j].i;
    });
    unrolled<h>([&](auto l) {
      constexpr int k = decltype(l)::value + 1;
      Value even = first, odd = {};
      unrolled<h>([&](auto j) {
        constexpr int turn = (decltype(j)::value + 1) * k;
        constexpr T c = Turn<turn, R, T>::c, s = Turn<turn, R, T>::s;
        even.r += sum[j].r * c;
        even.i += sum[j].i * c;
        odd.r += difference[j].r * s;
        odd.i += difference[j].i * s;
      });
      a[k] = {even.r + odd.i, even.i - odd.r};
      a[R - k] = {even.r - odd.i, even.i + odd.r};
    });
  }
};

template <class T> struct Butterfly<T, 2> {
  template <class Value> static SPI_HD void run(Value *a) {
    const Value p = a[0], q = a[1];
    a[0] = {p.r + q.r, p.i + q.i};
    a[1] = {p.r - q.r, p.i - q.i};
  }
};

template <class T> struct Butterfly<T, 4> {
  template <class Value> static SPI_HD void run(Value *a) {
    const Value p = {a[0].r + a[2].r, a[0].i + a[2].i};
    const Value q = {a[0].r - a[2].r, a[0].i - a[2].i};
    const Value r = {a[1].r + a[3].r, a[1].i + a[3].i};
    const Value s = {a[1].r - a[3].r, a[1].i - a[3].i};
    a[0] = {p.r + r.r, p.i + r.i};
    a[1] = {q.r + s.i, q.i - s.r};
    a[2] = {p.r - r.r, p.i - r.i};
    a[3] = {q.r - s.i, q.i + s.r};
  }
};

template <class T> struct Butterfly<T, 8> {
  template <class Value> static SPI_HD void run(Value *a) {
    constexpr T c = Turn<1, 8, T>::c;
    Value even[4] = {a[0], a[2], a[4], a[6]}, odd[4] = {a[1], a[3], a[5], a[7]};
    Butterfly<T, 4>::run(even);
    Butterfly<T, 4>::run(odd);
    odd[1] = {(odd[1].r + odd[1].i) * c, (odd[1].i - odd[1].r) * c};
    odd[2] = {odd[2].i, -odd[2].r};
    odd[3] = {(odd[3].i - odd[3].r) * c, -(odd[3].r + odd[3].i) * c};
    unrolled<4>([&](auto k) {
      a[k] = {even[k].r + odd[k].r, even[k].i + odd[k].i};
      a[k + 4] = {even[k].r - odd[k].r, even[k].i - odd[k].i};
    });
  }
};

// The factor to take first from n, above 1.
inline int next_radix(std::int64_t n) {
  if (n % 8 == 0 && n != 16) // 16 = 4 * 4
    return 8;
  for (const int radix : {4, 2, 3, 5, 7})
    if (n % radix == 0)
      return radix;
  for (std::int64_t radix = 11; radix * radix <= n; radix += 2)
    if (n % radix == 0)
      return int(radix);
  return int(n);
}

} // namespace
} // namespace spicore
