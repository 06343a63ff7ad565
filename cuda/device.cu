#include "device.hpp"

#include "launch.cuh"

namespace spicore::cuda {

void check(cudaError_t status, const char *operation) {
  if (status != cudaSuccess)
    throw CudaError(std::string(operation) + ": " + cudaGetErrorString(status) + " (" +
                    cudaGetErrorName(status) + ")");
}

int device_count(std::string &reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess)
    return count;
  reason = cudaGetErrorString(status);
  cudaGetLastError(); // or the next launch would report this error as its own
  return 0;
}

} // namespace spicore::cuda
