// Fourier transforms of any length, one vector of lines side by side. Only for files in
// src/.
//
//   y[k] = sum_j x[j] exp(-2 pi i j k / n), not normalised
//
// Elements are a vector of real and one of imaginary parts, at any stride. The inverse is
// the same with real and imaginary parts exchanged in x and in y. Stockham's stages
// (natural order without bit reversal), radices 2, 3, 4, 5, 7, 8 and larger primes: by
// Rader's convolution of length n - 1 where that is short, else at n^2 cost.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "angular_fft.hpp"
#include "spicore/math/butterfly.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

template <class T> struct Native;
template <> struct Native<float> {
  typedef float type __attribute__((vector_size(4 * kNative)));
  typedef std::int32_t mask __attribute__((vector_size(4 * kNative)));
  using integer = std::int32_t;
};
template <> struct Native<double> {
  typedef double type __attribute__((vector_size(4 * kNative)));
  typedef std::int64_t mask __attribute__((vector_size(4 * kNative)));
  using integer = std::int64_t;
};
template <class T> using Vector = typename Native<T>::type;
template <class T> constexpr int lanes_of = int(sizeof(Vector<T>) / sizeof(T));

template <class T> SPICORE_INLINE Vector<T> load(const T *p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T> SPICORE_INLINE void store(T *p, const Vector<T> &v) {
  std::memcpy(p, &v, sizeof v);
}

template <class T> struct Complex { Vector<T> r, i; };

// --- stages

// Of `s` interleaved transforms of length radix * m each.
template <class T> struct Stage {
  int radix;
  std::int64_t m, s;
  const T *twiddles; // [m][radix - 1][2], exp(-2 pi i p k / (radix m))
  const T *turns;    // [radix][2] cos, sin(2 pi r / radix); only of a general radix
  // Of Rader's convolution; n_inner is 0 without.
  const Stage *inner; // a transform of length radix - 1
  int n_inner;
  const T *powers;   // [radix - 1] of a generator modulo the radix, as integers
  const T *spectrum; // [radix - 1][2]
};

template <class T> SPICORE_INLINE Complex<T> get(const T *p) {
  return {load<T>(p), load<T>(p + lanes_of<T>)};
}
template <class T> SPICORE_INLINE void set(T *p, const Complex<T> &v) {
  store<T>(p, v.r);
  store<T>(p + lanes_of<T>, v.i);
}

// Where the elements of a line are, `step` values apart.
template <class T> struct Line {
  T *p;
  std::int64_t step;

  SPICORE_INLINE Line at(std::int64_t j) const { return {p + j * step, step}; }
  SPICORE_INLINE Complex<T> get(std::int64_t j) const {
    return SPICORE_SIMD::get<T>(p + j * step);
  }
  SPICORE_INLINE void set(std::int64_t j, const Complex<T> &v) const {
    SPICORE_SIMD::set<T>(p + j * step, v);
  }
};

template <class T> SPICORE_INLINE Complex<T> turned(const Complex<T> &a, const T *by) {
  return {a.r * by[0] - a.i * by[1], a.r * by[1] + a.i * by[0]};
}

template <class T, int R, bool last>
void run_stage(const Stage<T> &stage, const Line<T> &x, const Line<T> &y) noexcept {
  const std::int64_t from_step = stage.s * stage.m * x.step, to_step = stage.s * y.step;
  const T *from = x.p, *twiddles = stage.twiddles;
  T *to = y.p;
  for (std::int64_t p = 0; p < stage.m; ++p) {
    for (std::int64_t q = 0; q < stage.s; ++q) {
      Complex<T> a[R];
      unrolled<R>([&](auto r) { a[r] = get<T>(from + r * from_step); });
      Butterfly<T, R>::run(a);
      unrolled<R>([&](auto k) {
        if constexpr (last || k == 0)
          set<T>(to + k * to_step, a[k]);
        else
          set<T>(to + k * to_step, turned(a[k], twiddles + 2 * (k - 1)));
      });
      from += x.step;
      to += y.step;
    }
    to += (R - 1) * to_step;
    twiddles += 2 * (R - 1);
  }
}

// Outputs k .. k + n - 1 of any odd radix and their mirror images, from sums and
// differences of inputs r and R - r.
template <class T, int n>
SPICORE_INLINE void general_outputs(const Stage<T> &stage, const Complex<T> &first,
                                    const Line<T> &sum, const Line<T> &difference, int k,
                                    const T *twiddles, const Line<T> &to) {
  const int R = stage.radix;
  Complex<T> even[n], odd[n];
  int turn[n];
  unrolled<n>([&](auto j) {
    even[j] = first;
    odd[j] = Complex<T>{};
    turn[j] = k + j;
  });
  for (int r = 0; r < R / 2; ++r) {
    const Complex<T> a = sum.get(r), b = difference.get(r);
    unrolled<n>([&](auto j) {
      const T c = stage.turns[2 * turn[j]], s = stage.turns[2 * turn[j] + 1];
      even[j].r += a.r * c;
      even[j].i += a.i * c;
      odd[j].r += b.r * s;
      odd[j].i += b.i * s;
      turn[j] += k + j;
      turn[j] -= turn[j] >= R ? R : 0;
    });
  }
  unrolled<n>([&](auto j) {
    const int low = k + j, high = R - low;
    const Complex<T> a = {even[j].r + odd[j].i, even[j].i - odd[j].r};
    const Complex<T> b = {even[j].r - odd[j].i, even[j].i + odd[j].r};
    to.set(stage.s * low, turned(a, twiddles + 2 * (low - 1)));
    to.set(stage.s * high, turned(b, twiddles + 2 * (high - 1)));
  });
}

// Any odd radix. scratch [2 radix] vectors.
template <class T>
void run_general_stage(const Stage<T> &stage, const Line<T> &x, const Line<T> &y,
                       T *scratch) noexcept {
  constexpr int V = lanes_of<T>;
  const int R = stage.radix, h = R / 2;
  const Line<T> sum = {scratch, 4 * V}, difference = {scratch + 2 * V, 4 * V};
  for (std::int64_t p = 0; p < stage.m; ++p)
    for (std::int64_t q = 0; q < stage.s; ++q) {
      const Line<T> from = x.at(q + stage.s * p), to = y.at(q + stage.s * R * p);
      const Complex<T> first = from.get(0);
      Complex<T> total = first;
      for (int r = 1; r <= h; ++r) {
        const Complex<T> a = from.get(stage.s * stage.m * r);
        const Complex<T> b = from.get(stage.s * stage.m * (R - r));
        sum.set(r - 1, {a.r + b.r, a.i + b.i});
        difference.set(r - 1, {a.r - b.r, a.i - b.i});
        total.r += a.r + b.r;
        total.i += a.i + b.i;
      }
      to.set(0, total);
      const T *twiddles = stage.twiddles + p * 2 * (R - 1);
      int k = 1; // three at a time share their loads, and fill 16 registers
      for (; k + 2 <= h; k += 3)
        general_outputs<T, 3>(stage, first, sum, difference, k, twiddles, to);
      for (; k <= h; ++k)
        general_outputs<T, 1>(stage, first, sum, difference, k, twiddles, to);
    }
}

template <class T>
void run_stages(const Stage<T> *stages, int n_stages, std::int64_t n, const Line<T> &x,
                const Line<T> &y, T *scratch);

template <class T> SPICORE_INLINE std::int64_t power_at(const T *powers, std::int64_t i) {
  typename Native<T>::integer value;
  std::memcpy(&value, powers + i, sizeof value);
  return value;
}

// A prime radix. With a_q = x[g^q] and b_q = exp(-2 pi i g^-q / R), outputs g^-q are x[0]
// plus the cyclic convolution of a and b. scratch [4 radix] vectors of two.
template <class T>
void run_prime_stage(const Stage<T> &stage, const Line<T> &x, const Line<T> &y,
                     T *scratch) noexcept {
  constexpr std::int64_t step = 2 * lanes_of<T>;
  const int R = stage.radix, n = R - 1;
  const Line<T> line = {scratch, step};
  T *inner_scratch = scratch + R * step;
  const auto transform = [&] {
    run_stages(stage.inner, stage.n_inner, n, line, line, inner_scratch);
  };
  for (std::int64_t p = 0; p < stage.m; ++p)
    for (std::int64_t q = 0; q < stage.s; ++q) {
      const Line<T> from = x.at(q + stage.s * p), to = y.at(q + stage.s * R * p);
      const Complex<T> first = from.get(0);
      for (int i = 0; i < n; ++i)
        line.set(i, from.get(stage.s * stage.m * power_at(stage.powers, i)));
      transform();
      const Complex<T> rest = line.get(0);
      to.set(0, {first.r + rest.r, first.i + rest.i});
      for (int i = 0; i < n; ++i) { // exchanged, for the inverse
        const Complex<T> c = turned(line.get(i), stage.spectrum + 2 * i);
        line.set(i, {c.i, c.r});
      }
      const Complex<T> zero = line.get(0);
      line.set(0, {zero.r + first.i, zero.i + first.r});
      transform();
      const T *twiddles = stage.twiddles + p * 2 * n;
      for (int i = 0; i < n; ++i) {
        const Complex<T> c = line.get(i);
        const std::int64_t k = power_at(stage.powers, i == 0 ? 0 : n - i);
        to.set(stage.s * k, turned({c.i, c.r}, twiddles + 2 * (k - 1)));
      }
    }
}

template <class T, int R>
void run_fixed(const Stage<T> &stage, const Line<T> &x, const Line<T> &y) {
  stage.m == 1 ? run_stage<T, R, true>(stage, x, y) : run_stage<T, R, false>(stage, x, y);
}

template <class T>
void run(const Stage<T> &stage, const Line<T> &x, const Line<T> &y, T *scratch) {
  switch (stage.radix) {
  case 2:
    return run_fixed<T, 2>(stage, x, y);
  case 3:
    return run_fixed<T, 3>(stage, x, y);
  case 4:
    return run_fixed<T, 4>(stage, x, y);
  case 5:
    return run_fixed<T, 5>(stage, x, y);
  case 7:
    return run_fixed<T, 7>(stage, x, y);
  case 8:
    return run_fixed<T, 8>(stage, x, y);
  default:
    return stage.n_inner > 0 ? run_prime_stage(stage, x, y, scratch)
                             : run_general_stage(stage, x, y, scratch);
  }
}

// --- plans

constexpr int kMostStages = 32; // of an int's worth of elements

// Primes from here on are done by Rader's convolution, if n - 1 has no large factor:
// there the two ways break even.
constexpr int kRader = 61;

bool convolves(int prime) {
  int largest = 1;
  for (int rest = prime - 1; rest > 1;) {
    const int radix = next_radix(rest);
    largest = std::max(largest, radix);
    rest /= radix;
  }
  return prime >= kRader && largest <= prime / 4;
}

// Values a plan keeps in memory of the caller, and scratch of one transform.
template <class T> constexpr std::int64_t plan_size(std::int64_t n) { return 14 * n; }
template <class T> constexpr std::int64_t transform_scratch(std::int64_t n) {
  return (6 * n + 2) * 2 * lanes_of<T>;
}

// Stages one after the other. x and y may be the same line. scratch:
// transform_scratch(n).
template <class T>
void run_stages(const Stage<T> *stages, int n_stages, std::int64_t n, const Line<T> &x,
                const Line<T> &y, T *scratch) {
  constexpr std::int64_t step = 2 * lanes_of<T>;
  T *buffers[2] = {scratch, scratch + (n + 1) * step}; // one apart: not 4 kB aliases
  T *general = scratch + 2 * (n + 1) * step;
  if (n_stages == 0)
    y.set(0, x.get(0));
  Line<T> from = x;
  for (int i = 0; i < n_stages; ++i) {
    T *buffer = buffers[i % 2];
    const Line<T> to = i + 1 < n_stages ? Line<T>{buffer, step} : y;
    run(stages[i], from, to, general);
    from = to;
  }
}

template <class T> class LinePlan {
public:
  LinePlan(std::int64_t length, T *memory) : n_(length), memory_(memory) {
    n_stages_ = add_stages(length, stages_, true);
  }
  LinePlan(const LinePlan &) = delete; // stages point to others
  LinePlan &operator=(const LinePlan &) = delete;

  // x and y may be the same line. scratch: transform_scratch(n).
  void operator()(const Line<T> &x, const Line<T> &y, T *scratch) const {
    run_stages(stages_, n_stages_, n_, x, y, scratch);
  }

private:
  static constexpr double kTurn = 6.283185307179586476925;

  std::int64_t n_;
  T *memory_; // not yet in use
  int n_stages_ = 0, n_inner_ = 0;
  Stage<T> stages_[kMostStages], inner_[kMostStages];

  T *take(std::int64_t n) {
    T *part = memory_;
    memory_ += n;
    return part;
  }

  int add_stages(std::int64_t n, Stage<T> *stages, bool outer) {
    std::int64_t s = 1;
    int count = 0;
    for (std::int64_t rest = n; rest > 1; ++count) {
      const int radix = next_radix(rest);
      const std::int64_t m = rest / radix;
      Stage<T> &stage = stages[count];
      stage = {radix, m, s, twiddles(radix, m), nullptr, nullptr, 0, nullptr, nullptr};
      if (radix > 8)
        stage.turns = turns(radix);
      if (outer && convolves(radix))
        add_convolution(stage);
      s *= radix;
      rest = m;
    }
    return count;
  }

  const T *twiddles(int radix, std::int64_t m) {
    const std::int64_t n = radix * m;
    T *const first = take(2 * m * (radix - 1)), *value = first;
    for (std::int64_t p = 0; p < m; ++p)
      for (int k = 1; k < radix; ++k) {
        const double angle = kTurn * double(p * k % n) / double(n);
        *value++ = T(std::cos(angle));
        *value++ = T(-std::sin(angle));
      }
    return first;
  }

  const T *turns(int radix) {
    T *const first = take(2 * radix), *value = first;
    for (int r = 0; r < radix; ++r) {
      *value++ = T(std::cos(kTurn * r / radix));
      *value++ = T(std::sin(kTurn * r / radix));
    }
    return first;
  }

  void add_convolution(Stage<T> &stage) {
    stage.inner = inner_ + n_inner_;
    stage.n_inner = add_stages(stage.radix - 1, inner_ + n_inner_, false);
    n_inner_ += stage.n_inner;
    stage.powers = powers(stage.radix);
    stage.spectrum = convolution_spectrum(stage);
  }

  // Of the least number whose powers are all numbers below the prime.
  const T *powers(int prime) {
    T *first = take(prime - 1);
    for (std::int64_t generator = 2;; ++generator) {
      std::int64_t power = 1;
      int order = 0;
      do {
        const typename Native<T>::integer value = power;
        std::memcpy(first + order++, &value, sizeof value);
        power = power * generator % prime;
      } while (power != 1);
      if (order == prime - 1)
        return first;
    }
  }

  // Of b, over its length.
  const T *convolution_spectrum(const Stage<T> &stage) {
    const int n = stage.radix - 1;
    T *first = take(2 * n);
    for (int k = 0; k < n; ++k) {
      const double angle = kTurn * k / n, c = std::cos(angle), s = -std::sin(angle);
      double turn_r = 1.0, turn_i = 0.0, r = 0.0, i = 0.0;
      for (int q = 0; q < n; ++q) {
        const T *b = stage.turns + 2 * power_at(stage.powers, q == 0 ? 0 : n - q);
        r += turn_r * b[0] + turn_i * b[1]; // b is conjugate to the turn
        i += turn_i * b[0] - turn_r * b[1];
        const double next = turn_r * c - turn_i * s;
        turn_i = turn_r * s + turn_i * c;
        turn_r = next;
      }
      first[2 * k] = T(r / n);
      first[2 * k + 1] = T(i / n);
    }
    return first;
  }
};

// --- square blocks of lanes_of<T> vectors

template <class V, int... lane>
SPICORE_INLINE V shuffled(const V &a, const V &b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, lane...);
}

// Lanes of a vector built from two of n lanes; n and above are the second's.
enum class Pick {
  low_blocks,  // blocks of h lanes in turn: even blocks of a, those before them of b
  high_blocks, // odd blocks of a, then of b
  low_pairs,   // in 16 bytes of floats: a0 b0 a1 b1
  high_pairs,  // a2 b2 a3 b3
};

template <int n, int h, Pick pick> constexpr int picked(int l) {
  const bool second = pick < Pick::low_pairs ? l & h : l & 1;
  const int from = pick == Pick::low_blocks    ? l & ~h
                   : pick == Pick::high_blocks ? l | h
                   : pick == Pick::low_pairs   ? (l & ~3) + (l & 3) / 2
                                               : (l & ~3) + (l & 3) / 2 + 2;
  return second ? n + from : from;
}

template <class V, int h, Pick pick, int... l>
SPICORE_INLINE V mixed(const V &a, const V &b, std::integer_sequence<int, l...>) {
  return __builtin_shufflevector(a, b, picked<sizeof...(l), h, pick>(l)...);
}

template <class T, int h, Pick pick>
SPICORE_INLINE Vector<T> mixed(const Vector<T> &a, const Vector<T> &b) {
  return mixed<Vector<T>, h, pick>(a, b, std::make_integer_sequence<int, lanes_of<T>>{});
}

// Exchanges off-diagonal blocks of h rows and lanes.
template <class T, int h> SPICORE_INLINE void exchange_blocks(Vector<T> *rows) {
  unrolled<lanes_of<T> / 2>([&](auto j) {
    constexpr int i = j / h * 2 * h + j % h;
    const Vector<T> a = rows[i], b = rows[i + h];
    rows[i] = mixed<T, h, Pick::low_blocks>(a, b);
    rows[i + h] = mixed<T, h, Pick::high_blocks>(a, b);
  });
}

// Transposes 4 x 4 floats in each 16 bytes of four rows, without the blends that
// exchanging single floats would take.
SPICORE_INLINE void transpose_quads(f32n *rows) {
  unrolled<kNative / 4>([&](auto j) {
    f32n *r = rows + 4 * j;
    const f32n a = mixed<float, 1, Pick::low_pairs>(r[0], r[1]);
    const f32n b = mixed<float, 1, Pick::high_pairs>(r[0], r[1]);
    const f32n c = mixed<float, 1, Pick::low_pairs>(r[2], r[3]);
    const f32n d = mixed<float, 1, Pick::high_pairs>(r[2], r[3]);
    r[0] = mixed<float, 2, Pick::low_blocks>(a, c);
    r[1] = mixed<float, 2, Pick::high_blocks>(a, c);
    r[2] = mixed<float, 2, Pick::low_blocks>(b, d);
    r[3] = mixed<float, 2, Pick::high_blocks>(b, d);
  });
}

// rows[i][l] := rows[l][i]
template <class T, int h = lanes_of<T> / 2>
SPICORE_INLINE void transpose(Vector<T> *rows) {
  if constexpr (sizeof(T) == sizeof(float) && h < 4) {
    transpose_quads(rows);
  } else {
    exchange_blocks<T, h>(rows);
    if constexpr (h > 1)
      transpose<T, h / 2>(rows);
  }
}

} // namespace
} // namespace spicore::cpu::SPICORE_SIMD
