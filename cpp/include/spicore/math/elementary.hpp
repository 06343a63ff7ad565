// Branch-free logarithm and exponential in float32: they vectorise and give the same bits
// on every instruction set with fused multiply-add, unlike the C library's.
#pragma once

#include <cstdint>
#include <cstring>

#include "spicore/host_device.hpp"

namespace spicore {

// Smallest intensity whose logarithm is taken; below it log() is log(kTiny) = -82.9.
constexpr float kTiny = 1e-36f;

// Natural logarithm of x >= kTiny (smaller x, and NaN, count as kTiny). Relative error
// below 3e-7: log m = 2 atanh((m - 1) / (m + 1)), series to s^9, |s| < 0.172.
SPI_HD float fast_log(float x) {
  x = x >= kTiny ? x : kTiny;
  std::int32_t bits;
  std::memcpy(&bits, &x, 4);
  // 0x3f3504f3 is sqrt(1/2): the mantissa is brought to [sqrt(1/2), sqrt(2)).
  const std::int32_t shifted = bits - 0x3f3504f3;
  const std::int32_t exponent = shifted >> 23;
  bits = (shifted & 0x007fffff) + 0x3f3504f3;
  float m;
  std::memcpy(&m, &bits, 4);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float s2 = s * s;
  const float series =
      s2 * (0.333333333f + s2 * (0.2f + s2 * (0.142857143f + s2 * 0.111111111f)));
  return float(exponent) * 0.693147181f + 2.0f * (s + s * series);
}

// exp(x) for x <= 0; 0 below -87. Relative error below 3e-7 (Taylor to r^7, |r| < 0.347).
SPI_HD float fast_exp(float x) {
  const float clipped = x > -87.0f ? x : -87.0f;
  const float shifted = clipped * 1.44269504f - 0.5f;
  const std::int32_t k = std::int32_t(shifted); // truncation: shifted is negative
  const float r = (clipped - float(k) * 0.693359375f) - float(k) * -2.12194440e-4f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // A mask, not a choice: GCC would branch around everything above and not vectorise it.
  const std::int32_t bits = ((k + 127) << 23) & -std::int32_t(x > -87.0f);
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

} // namespace spicore
