// Trilinear sampling of one rotated pixel block, shared by ewald_slice and expand.
#pragma once

#include <cstdint>
#include <cstring>

#include "spicore/math/trilinear.hpp"

namespace spicore {

constexpr int kBlock = 64; // samples whose addresses are formed together, in vectors

// out[0..n) = trilinear samples at R q[:, first .. first + n), n <= kBlock.
inline __attribute__((always_inline)) void
sample_block(const float *__restrict__ volume, std::int32_t size,
             const Rotation &rotation, const float *__restrict__ q, std::int64_t n_pixels,
             std::int64_t first, int n, bool friedel, float *__restrict__ out) {
  alignas(64) std::int32_t base[kBlock];
  alignas(64) float fx[kBlock], fy[kBlock], fz[kBlock], scale[kBlock];
  const float *qx = q + first, *qy = qx + n_pixels, *qz = qy + n_pixels;
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const Cell c = locate(rotation, qx[i], qy[i], qz[i], size, friedel);
    base[i] = (c.ix * size + c.iy) * size + c.iz;
    fx[i] = c.fx;
    fy[i] = c.fy;
    fz[i] = c.fz;
    scale[i] = c.inside ? 1.0f : 0.0f;
  }
  const std::int64_t dy = size, dx = std::int64_t(size) * size;
  // Two neighbours along z at a time: one load and one store for both.
  alignas(64) float at00[2 * kBlock], at01[2 * kBlock], at10[2 * kBlock],
      at11[2 * kBlock];
  for (int i = 0; i < n; ++i) {
    const float *p = volume + base[i];
    std::memcpy(at00 + 2 * i, p, 2 * sizeof *p);
    std::memcpy(at01 + 2 * i, p + dy, 2 * sizeof *p);
    std::memcpy(at10 + 2 * i, p + dx, 2 * sizeof *p);
    std::memcpy(at11 + 2 * i, p + dx + dy, 2 * sizeof *p);
  }
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const auto along_z = [&](const float *pairs) {
      return pairs[2 * i] + fz[i] * (pairs[2 * i + 1] - pairs[2 * i]);
    };
    const float z00 = along_z(at00), z01 = along_z(at01);
    const float z10 = along_z(at10), z11 = along_z(at11);
    const float y0 = z00 + fy[i] * (z01 - z00);
    const float y1 = z10 + fy[i] * (z11 - z10);
    out[i] = scale[i] * (y0 + fx[i] * (y1 - y0));
  }
}

} // namespace spicore
