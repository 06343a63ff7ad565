// What every launch shares: block size, grid size, error check.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "spicore/exec.hpp"

namespace spicore::cuda {

constexpr int kThreads = 256; // per block: 8 blocks fill a multiprocessor of 2048 threads

// Throws CudaError. After a launch: check(cudaGetLastError(), "name of the operation").
void check(cudaError_t status, const char *operation);

// Blocks along one axis of the grid for n > 0 pieces of work, `per_block` in each. The
// y axis allows 65535 (x more, but so many fill any GPU): kernels stride over the rest.
inline unsigned blocks(std::int64_t n, std::int64_t per_block) {
  constexpr std::int64_t most = 65535;
  const std::int64_t wanted = (n + per_block - 1) / per_block;
  return unsigned(wanted < most ? wanted : most);
}

inline cudaStream_t stream(const Exec &exec) {
  return static_cast<cudaStream_t>(exec.stream);
}

} // namespace spicore::cuda
