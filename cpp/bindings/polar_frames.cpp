#include "spicore/polar_frames.hpp"
#include "operations.hpp"
#include "order_tensors.hpp"
#include "photon_tensors.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::bindings::checked;
using spicore::bindings::OrderTensors;
using spicore::bindings::PhotonTensors;
using spicore::bindings::require;
using spicore::bindings::Tensor;

void spicore::bindings::add_polar_frames(py::module_ &m) {
  m.def("polar_frames", [](const PhotonTensors &photon_tensors,
                           const OrderTensors &order_tensors, Tensor<float, 3> out,
                           Exec exec) {
    const AngularOrders orders = checked(order_tensors);
    const Photons photons =
        checked(photon_tensors, out.shape[0], orders.n_radii * orders.n_angles, true);
    require(out.shape[1] == orders.n_coefficients() && out.shape[2] == 2,
            "out must be [D, C, 2]");
    SPICORE_CALL(polar_frames, exec, photons, orders, out.data);
  });
}
