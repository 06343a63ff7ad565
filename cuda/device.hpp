// What the bindings need to know of the GPU, without CUDA headers.
#pragma once

#include <stdexcept>
#include <string>

namespace spicore::cuda {

// A failed CUDA call; in Python spicore.errors.CudaError.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// GPUs this process can use; without a driver or a GPU 0, and `reason` says why.
int device_count(std::string &reason);

} // namespace spicore::cuda
