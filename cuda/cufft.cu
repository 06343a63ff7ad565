#include "cufft.hpp"

#include <dlfcn.h>

#include "device.hpp"

namespace spicore::cuda {
namespace {

// The library of CUDA 13 or 12: one that the process has already, or one on the search
// path.
void *open_library() {
  constexpr const char *names[] = {"libcufft.so.12", "libcufft.so.11"};
  for (const int only_loaded : {RTLD_NOLOAD, 0})
    for (const char *name : names)
      if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | only_loaded))
        return library;
  throw CudaError("phase: cuFFT is needed for objects of this size, but neither "
                  "libcufft.so.12 nor libcufft.so.11 can be loaded: install "
                  "nvidia-cufft from PyPI, or put the toolkit's on LD_LIBRARY_PATH");
}

template <class Function>
void find(void *library, const char *name, Function *&function) {
  function = reinterpret_cast<Function *>(dlsym(library, name));
  if (!function)
    throw CudaError(std::string("phase: cuFFT has no ") + name);
}

Cufft load() {
  void *library = open_library();
  Cufft f{};
  find(library, "cufftCreate", f.create);
  find(library, "cufftSetAutoAllocation", f.set_auto_allocation);
  find(library, "cufftMakePlanMany64", f.make_plan_many);
  find(library, "cufftSetWorkArea", f.set_work_area);
  find(library, "cufftSetStream", f.set_stream);
  find(library, "cufftExecR2C", f.real_to_complex);
  find(library, "cufftExecC2R", f.complex_to_real);
  find(library, "cufftExecC2C", f.complex_to_complex);
  find(library, "cufftExecD2Z", f.double_to_complex);
  find(library, "cufftExecZ2D", f.complex_to_double);
  find(library, "cufftExecZ2Z", f.double_complex);
  return f;
}

} // namespace

const Cufft &cufft() {
  static const Cufft functions = load(); // after a failure the next call tries again
  return functions;
}

} // namespace spicore::cuda
