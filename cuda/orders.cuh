// Angular orders as kernels take them: by value, since they lie in host memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "spicore/angular_orders.hpp"

namespace spicore::cuda {

constexpr int kMostAngles = 512;

struct DeviceOrders {
  std::int32_t n_angles, n_radii, n_orders;
  std::int32_t begin[kMostAngles / 2 + 2]; // of each order, and the end of the last

  explicit DeviceOrders(const AngularOrders &orders)
      : n_angles(std::int32_t(orders.n_angles)), n_radii(std::int32_t(orders.n_radii)),
        n_orders(std::int32_t(orders.n_orders)), begin{} {
    for (std::int32_t m = 0; m <= n_orders; ++m)
      begin[m] = std::int32_t(orders.begin[m]);
  }

  __device__ int radii(int m) const { return begin[m + 1] - begin[m]; }
  __device__ std::int64_t n_coefficients() const { return begin[n_orders]; }
};

} // namespace spicore::cuda
