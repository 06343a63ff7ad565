#include "spicore/expand.hpp"
#include "operations.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::bindings::require;
using spicore::bindings::Tensor;

void spicore::bindings::add_expand(py::module_ &m) {
  m.def("expand", [](Tensor<const float, 3> volume, Tensor<const double, 2> quats,
                     Tensor<const float, 2> q, Tensor<const float, 1> exposure,
                     Tensor<const float, 1> reference, bool logarithm, bool friedel,
                     Tensor<float, 3> out, Tensor<double, 1> total, Exec exec) {
    const std::int64_t size = volume.shape[0], n = quats.shape[0], n_pixels = q.shape[1];
    require(volume.shape[1] == size && volume.shape[2] == size, "volume must be cubic");
    require(quats.shape[1] == 4 && q.shape[0] == 3, "quats [R, 4], q [3, T]");
    require(exposure.shape[0] == n_pixels && reference.shape[0] == n_pixels,
            "exposure, reference and q must agree in T");
    require(out.shape[0] == (n + kLanes - 1) / kLanes && out.shape[1] == n_pixels &&
                out.shape[2] == kLanes && total.shape[0] == n,
            "out must be [panels, T, lanes], total [R]");
    SPICORE_CALL(expand, exec, volume.data, size, quats.data, n, q.data, n_pixels,
                 exposure.data, logarithm ? reference.data : nullptr, friedel, out.data,
                 total.data);
  });
}
