// Trilinear sampling of one rotated pixel block, shared by ewald_slice and expand.
#pragma once

#include <cstdint>

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
  alignas(64) float c00[kBlock], c01[kBlock], c10[kBlock], c11[kBlock];
  alignas(64) float d00[kBlock], d01[kBlock], d10[kBlock], d11[kBlock];
  for (int i = 0; i < n; ++i) {
    const float *p = volume + base[i];
    c00[i] = p[0];
    d00[i] = p[1];
    c01[i] = p[dy];
    d01[i] = p[dy + 1];
    c10[i] = p[dx];
    d10[i] = p[dx + 1];
    c11[i] = p[dx + dy];
    d11[i] = p[dx + dy + 1];
  }
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const float z00 = c00[i] + fz[i] * (d00[i] - c00[i]);
    const float z01 = c01[i] + fz[i] * (d01[i] - c01[i]);
    const float z10 = c10[i] + fz[i] * (d10[i] - c10[i]);
    const float z11 = c11[i] + fz[i] * (d11[i] - c11[i]);
    const float y0 = z00 + fy[i] * (z01 - z00);
    const float y1 = z10 + fy[i] * (z11 - z10);
    out[i] = scale[i] * (y0 + fx[i] * (y1 - y0));
  }
}

} // namespace spicore
