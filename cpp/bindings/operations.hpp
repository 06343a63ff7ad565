// One function per binding file; each adds one operation to the module.
#pragma once

#include <pybind11/pybind11.h>

#include "spicore/simd.hpp"

// Calls an operation without the GIL: on the CPU its variant for the instruction set in
// use.
#ifdef SPICORE_BACKEND_CUDA
#define SPICORE_CALL(name, ...)                                                          \
  do {                                                                                   \
    pybind11::gil_scoped_release release;                                                \
    spicore::cuda::name(__VA_ARGS__);                                                    \
  } while (false)
#else
#if SPICORE_SIMD_LEVELS == 4
#define SPICORE_CASE_AMX(name, ...)                                                      \
  case spicore::cpu::Simd::amx:                                                          \
    spicore::cpu::amx::name(__VA_ARGS__);                                                \
    break;
#else
#define SPICORE_CASE_AMX(name, ...)
#endif
#if SPICORE_SIMD_LEVELS >= 3
#define SPICORE_CASES_X86(name, ...)                                                     \
  SPICORE_CASE_AMX(name, __VA_ARGS__)                                                    \
  case spicore::cpu::Simd::avx512:                                                       \
    spicore::cpu::avx512::name(__VA_ARGS__);                                             \
    break;                                                                               \
  case spicore::cpu::Simd::avx2:                                                         \
    spicore::cpu::avx2::name(__VA_ARGS__);                                               \
    break;
#else
#define SPICORE_CASES_X86(name, ...)
#endif
#define SPICORE_CALL(name, ...)                                                          \
  do {                                                                                   \
    pybind11::gil_scoped_release release;                                                \
    switch (spicore::cpu::current_simd()) {                                              \
      SPICORE_CASES_X86(name, __VA_ARGS__)                                               \
    default:                                                                             \
      spicore::cpu::baseline::name(__VA_ARGS__);                                         \
    }                                                                                    \
  } while (false)
#endif

namespace spicore::bindings {

void add_sort_photons(pybind11::module_ &m); // sort_photons.cpp
void add_ewald_slice(pybind11::module_ &m);  // ewald_slice.cpp
void add_ewald_merge(pybind11::module_ &m);  // ewald_merge.cpp
void add_expand(pybind11::module_ &m);       // expand.cpp
void add_maximize(pybind11::module_ &m);     // maximize.cpp
void add_posterior(pybind11::module_ &m);    // posterior.cpp
void add_compress(pybind11::module_ &m);     // compress.cpp
void add_polar_frames(pybind11::module_ &m); // polar_frames.cpp
void add_polar_views(pybind11::module_ &m);  // polar_views.cpp
void add_correlate(pybind11::module_ &m);    // correlate.cpp
void add_accumulate(pybind11::module_ &m);   // accumulate.cpp
void add_phase(pybind11::module_ &m);        // phase.cpp

} // namespace spicore::bindings
