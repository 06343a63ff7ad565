#include "spicore/polar_views.hpp"
#include "operations.hpp"
#include "order_tensors.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::bindings::checked;
using spicore::bindings::OrderTensors;
using spicore::bindings::require;
using spicore::bindings::Tensor;

void spicore::bindings::add_polar_views(py::module_ &m) {
  m.def("polar_views", [](Tensor<const float, 3> panels,
                          const OrderTensors &order_tensors,
                          Tensor<const float, 1> reference,
                          Tensor<const float, 3> exposure, std::int64_t mirrors,
                          Tensor<float, 4> logs, Tensor<float, 4> totals, Exec exec) {
    const AngularOrders orders = checked(order_tensors);
    const std::int64_t n_panels = panels.shape[0], n_bins = panels.shape[1];
    const std::int64_t n_groups = n_panels * (kLanes / kViewGroup);
    require(panels.shape[2] == kLanes && n_bins >= orders.n_radii * orders.n_angles,
            "panels must be [P, at least Q A, lanes]");
    require(reference.shape[0] == orders.n_radii, "reference must be [Q]");
    require(exposure.shape[0] == orders.n_radii &&
                exposure.shape[1] == orders.n_angles / 2 + 1 && exposure.shape[2] == 2,
            "exposure must be [Q, A / 2 + 1, 2]");
    require(mirrors == 1 || mirrors == 2, "mirrors must be 1 or 2");
    require(logs.shape[0] == n_groups && logs.shape[1] == orders.n_coefficients() &&
                logs.shape[2] == 2 && logs.shape[3] == kViewGroup,
            "logs must be [2 P, C, 2, 16]");
    require(totals.shape[0] == n_groups && totals.shape[1] == mirrors &&
                totals.shape[2] == orders.n_angles && totals.shape[3] == kViewGroup,
            "totals must be [2 P, mirrors, A, 16]");
    SPICORE_CALL(polar_views, exec, panels.data, n_panels, n_bins, orders, reference.data,
                 exposure.data, mirrors, logs.data, totals.data);
  });
}
