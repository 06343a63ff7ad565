#include "operations.hpp"

#include <exception>
#include <string>
#include <utility>

#include <pybind11/stl.h>

#include "device.hpp"

namespace py = pybind11;

namespace {

void translate_cuda_error(std::exception_ptr p) {
  try {
    if (p)
      std::rethrow_exception(p);
  } catch (const spicore::cuda::CudaError &error) {
    const py::object type = py::module_::import("spicore.errors").attr("CudaError");
    PyErr_SetString(type.ptr(), error.what());
  }
}

} // namespace

#ifdef SPICORE_EMULATED
#define SPICORE_MODULE _emulated
#else
#define SPICORE_MODULE _cuda
#endif

PYBIND11_MODULE(SPICORE_MODULE, m) {
  m.doc() = "CUDA kernels of spicore. Private: use the functions of the package.";
  py::register_local_exception_translator(&translate_cuda_error);
  m.def(
      "device_status",
      [] {
        std::string reason;
        const int count = spicore::cuda::device_count(reason);
        return std::pair(count, reason);
      },
      "Number of usable GPUs, and if it is 0 the reason.");
  m.def(
      "device_count",
      [] {
        std::string reason;
        return spicore::cuda::device_count(reason);
      },
      "Number of usable GPUs.");
  spicore::bindings::add_sort_photons(m);
  spicore::bindings::add_ewald_slice(m);
  spicore::bindings::add_ewald_merge(m);
  spicore::bindings::add_phase(m);
  spicore::bindings::add_expand(m);
  spicore::bindings::add_maximize(m);
  spicore::bindings::add_posterior(m);
  spicore::bindings::add_compress(m);
  spicore::bindings::add_polar_frames(m);
  spicore::bindings::add_polar_views(m);
  spicore::bindings::add_correlate(m);
  spicore::bindings::add_accumulate(m);
}
