#include "spicore/ewald_merge.hpp"
#include "operations.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::bindings::require;
using spicore::bindings::Tensor;

void spicore::bindings::add_ewald_merge(py::module_ &m) {
  m.def("ewald_merge",
        [](Tensor<const float, 2> slices, Tensor<const float, 1> slice_weights,
           Tensor<const float, 2> pixel_weights, Tensor<const double, 2> quats,
           Tensor<const float, 2> q, bool friedel, Tensor<double, 4> accumulator,
           Exec exec) {
          const std::int64_t n_slices = slices.shape[0], n_pixels = slices.shape[1];
          const std::int64_t size = accumulator.shape[0];
          require(quats.shape[1] == 4 && q.shape[0] == 3, "quats [R, 4], q [3, T]");
          require(quats.shape[0] == n_slices && slice_weights.shape[0] == n_slices,
                  "slices, slice_weights and quats must agree in R");
          require(q.shape[1] == n_pixels && pixel_weights.shape[1] == n_pixels,
                  "slices, pixel_weights and q must agree in T");
          require(pixel_weights.shape[0] == 1 || pixel_weights.shape[0] == n_slices,
                  "pixel_weights must be [1 or R, T]");
          const std::int64_t stride = pixel_weights.shape[0] == 1 ? 0 : n_pixels;
          require(accumulator.shape[1] == size && accumulator.shape[2] == size &&
                      accumulator.shape[3] == 2,
                  "accumulator must be [N, N, N, 2]");
          SPICORE_CALL(ewald_merge, exec, slices.data, slice_weights.data,
                       pixel_weights.data, stride, n_slices, quats.data, q.data, n_pixels,
                       size, friedel, accumulator.data);
        });
}
