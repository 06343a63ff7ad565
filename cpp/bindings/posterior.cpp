#include "spicore/posterior.hpp"
#include "operations.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::bindings::require;
using spicore::bindings::Tensor;

void spicore::bindings::add_posterior(py::module_ &m) {
  m.def("posterior", [](Tensor<float, 2> ll, Tensor<const float, 1> beta,
                        Tensor<const float, 1> prior_power,
                        Tensor<const float, 1> log_prior, float cut,
                        Tensor<const double, 1> total, Tensor<std::int64_t, 1> best,
                        Tensor<double, 1> expected_ll, Tensor<double, 1> information,
                        Tensor<double, 1> expected_total, Exec exec) {
    const std::int64_t n = ll.shape[0], n_orientations = ll.shape[1];
    require(n_orientations > 0, "ll must have at least one orientation");
    require(beta.shape[0] == n && prior_power.shape[0] == n && best.shape[0] == n &&
                expected_ll.shape[0] == n && information.shape[0] == n &&
                expected_total.shape[0] == n,
            "arrays per frame must agree with ll");
    require(log_prior.shape[0] == n_orientations && total.shape[0] == n_orientations,
            "arrays per orientation must agree with ll");
    SPICORE_CALL(posterior, exec, ll.data, n, n_orientations, n_orientations, beta.data,
                 prior_power.data, log_prior.data, cut, total.data, best.data,
                 expected_ll.data, information.data, expected_total.data);
  });
}
