// Angular orders as Python passes them: (n_angles, n_radii, radii, begin), in host memory
// in both modules.
#pragma once

#include <tuple>

#include <pybind11/stl.h>

#include "spicore/angular_orders.hpp"
#include "tensor.hpp"

namespace spicore::bindings {

using OrderTensors =
    std::tuple<std::int64_t, std::int64_t, HostTensor<const std::int32_t, 1>,
               HostTensor<const std::int64_t, 1>>;

inline bool has_transform(std::int64_t n_angles) {
  for (const int n : {32, 48, 64, 96, 128, 144, 192, 256, 384, 512})
    if (n == n_angles)
      return true;
  return false;
}

inline AngularOrders checked(const OrderTensors &tensors) {
  const auto &[n_angles, n_radii, radii, begin] = tensors;
  const std::int64_t n = radii.shape[0];
  require(has_transform(n_angles), "orders: no transform for this number of angles");
  require(n >= 1 && n <= n_angles / 2 + 1 && begin.shape[0] == n + 1 &&
              begin.data[0] == 0,
          "orders: radii and begin must agree");
  for (std::int64_t m = 0; m < n; ++m)
    require(radii.data[m] >= 0 && radii.data[m] <= n_radii &&
                begin.data[m + 1] == begin.data[m] + radii.data[m],
            "orders: radii must be at most Q, and begin must be their running sum");
  return AngularOrders{n_angles, n_radii, n, radii.data, begin.data};
}

} // namespace spicore::bindings
