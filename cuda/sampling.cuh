// Trilinear sampling of a volume, shared by ewald_slice and expand.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "spicore/math/trilinear.hpp"

namespace spicore::cuda {
namespace {

__device__ float lerp(float a, float b, float f) { return a + f * (b - a); }

// Trilinear between the corners of a cell inside the volume; all eight loads are
// independent. Same order of operations as the CPU's sample_block.
__device__ float interpolate(const float *__restrict__ volume, std::int64_t size,
                             Cell c) {
  const std::int64_t dy = size, dx = size * size;
  const float *p = volume + c.ix * dx + c.iy * dy + c.iz;
  const float z00 = lerp(__ldg(p), __ldg(p + 1), c.fz);
  const float z01 = lerp(__ldg(p + dy), __ldg(p + dy + 1), c.fz);
  const float z10 = lerp(__ldg(p + dx), __ldg(p + dx + 1), c.fz);
  const float z11 = lerp(__ldg(p + dx + dy), __ldg(p + dx + dy + 1), c.fz);
  return lerp(lerp(z00, z01, c.fy), lerp(z10, z11, c.fy), c.fx);
}

} // namespace
} // namespace spicore::cuda
