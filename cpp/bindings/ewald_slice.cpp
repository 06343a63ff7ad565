#include "spicore/ewald_slice.hpp"
#include "operations.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::bindings::require;
using spicore::bindings::Tensor;

void spicore::bindings::add_ewald_slice(py::module_ &m) {
  m.def("ewald_slice", [](Tensor<const float, 3> volume, Tensor<const double, 2> quats,
                          Tensor<const float, 2> q, bool friedel, Tensor<float, 2> out,
                          Exec exec) {
    const std::int64_t size = volume.shape[0];
    require(volume.shape[1] == size && volume.shape[2] == size, "volume must be cubic");
    require(quats.shape[1] == 4 && q.shape[0] == 3, "quats [R, 4], q [3, T]");
    require(out.shape[0] == quats.shape[0] && out.shape[1] == q.shape[1],
            "out must be [R, T]");
    SPICORE_CALL(ewald_slice, exec, volume.data, size, quats.data, quats.shape[0], q.data,
                 q.shape[1], friedel, out.data);
  });
}
