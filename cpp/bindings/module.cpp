#include "operations.hpp"

#include "spicore/exec.hpp"
#include <pybind11/stl.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace py = pybind11;
namespace cpu = spicore::cpu;

namespace {

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (int level = 0; level <= int(cpu::best_simd()); ++level)
    names.push_back(cpu::name(cpu::Simd(level)));
  return names;
}

void set_simd(const std::string &name) {
  for (int level = 0; level <= int(cpu::best_simd()); ++level)
    if (name == cpu::name(cpu::Simd(level)))
      return cpu::set_simd(cpu::Simd(level));
  throw std::invalid_argument("this machine cannot run the instruction set " + name);
}

// Freed memory that the C library keeps for itself counts as the process's own.
void trim_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

} // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "CPU kernels of spicore. Private: use the functions of the package.";
  m.def("simd_levels", &simd_levels,
        "Instruction sets this machine can run, worst first.");
  m.def(
      "simd", [] { return cpu::name(cpu::current_simd()); }, "The one in use.");
  m.def("set_simd", &set_simd, py::arg("name"));
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
  m.def("trim_memory", &trim_memory, "Give freed memory back to the system.");
  m.attr("lanes") = spicore::kLanes;
  spicore::bindings::add_sort_photons(m);
  spicore::bindings::add_ewald_slice(m);
  spicore::bindings::add_ewald_merge(m);
  spicore::bindings::add_expand(m);
  spicore::bindings::add_maximize(m);
  spicore::bindings::add_posterior(m);
  spicore::bindings::add_compress(m);
  spicore::bindings::add_polar_frames(m);
  spicore::bindings::add_polar_views(m);
  spicore::bindings::add_correlate(m);
  spicore::bindings::add_accumulate(m);
  spicore::bindings::add_phase(m);
}
