// Fourier transforms along the in-plane angle, 16 side by side: straight-line codelets in
// two passes, A = N1 x N2. Only for files in src/.
//
//   complex_to_real  out[j][lane] = sum over all m of C[m] exp(+2 pi i m j / A), C
//   Hermitian real_to_complex  out[m][re,im][lane] = sum_j in[j] exp(-2 pi i m j / A), m
//   = 0 .. A / 2
//
// The imaginary parts of orders 0 and A / 2 are ignored. Neither is normalised.
#pragma once

#include "spicore/math/angular_dft.hpp"
#include "vec.hpp"

#define SPICORE_INLINE inline __attribute__((always_inline))

// Internal linkage throughout: each file has its own copy for its instruction set.
namespace spicore::cpu::SPICORE_SIMD {
namespace {

constexpr int kWide = 16; // transforms side by side

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

template <class Body> bool with_angles(std::int64_t n_angles, const Body &body) {
  return with_factors<Angular>(n_angles, body);
}

} // namespace
} // namespace spicore::cpu::SPICORE_SIMD
