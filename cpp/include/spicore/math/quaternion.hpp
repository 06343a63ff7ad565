// Unit quaternions (w, x, y, z), active rotations: q_model = R(quat) q_detector.
#pragma once

#include "spicore/host_device.hpp"

namespace spicore {

struct Rotation {
  float m[9]; // row-major
};

// Rotation matrix of a unit quaternion; formed in float64, kept in float32.
SPI_HD Rotation rotation_matrix(const double *quat) {
  const double w = quat[0], x = quat[1], y = quat[2], z = quat[3];
  return Rotation{{float(1 - 2 * (y * y + z * z)), float(2 * (x * y - w * z)),
                   float(2 * (x * z + w * y)), float(2 * (x * y + w * z)),
                   float(1 - 2 * (x * x + z * z)), float(2 * (y * z - w * x)),
                   float(2 * (x * z - w * y)), float(2 * (y * z + w * x)),
                   float(1 - 2 * (x * x + y * y))}};
}

} // namespace spicore
