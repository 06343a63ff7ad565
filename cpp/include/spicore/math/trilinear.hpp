// Where a rotated detector pixel falls in a cubic volume [x, y, z], C order, origin
// size/2.
#pragma once

#include <cstdint>

#include "spicore/host_device.hpp"
#include "spicore/math/quaternion.hpp"

namespace spicore {

struct Cell {
  std::int32_t ix, iy, iz; // lower corner
  float fx, fy, fz;        // position inside the cell, in [0, 1)
  bool inside;             // all eight corners exist; otherwise the corner is (0, 0, 0)
};

// `friedel`: a point with x < 0 is replaced by its inverse, so that only the half
// x >= 0 of a centrosymmetric volume is touched (half the cache footprint).
SPI_HD Cell locate(const Rotation &r, float qx, float qy, float qz, std::int32_t size,
                   bool friedel) {
  float x = r.m[0] * qx + r.m[1] * qy + r.m[2] * qz;
  float y = r.m[3] * qx + r.m[4] * qy + r.m[5] * qz;
  float z = r.m[6] * qx + r.m[7] * qy + r.m[8] * qz;
  const float sign = (friedel & (x < 0)) ? -1.0f : 1.0f;
  const float centre = float(size / 2);
  x = x * sign + centre;
  y = y * sign + centre;
  z = z * sign + centre;
  const float limit = float(size - 1);
  // Written so that NaN is outside.
  const bool inside =
      (x >= 0) & (x < limit) & (y >= 0) & (y < limit) & (z >= 0) & (z < limit);
  x = inside ? x : 0.0f;
  y = inside ? y : 0.0f;
  z = inside ? z : 0.0f;
  const std::int32_t ix = std::int32_t(x), iy = std::int32_t(y), iz = std::int32_t(z);
  return Cell{ix, iy, iz, x - float(ix), y - float(iy), z - float(iz), inside};
}

} // namespace spicore
