// What every launch shares: block size, grid size, shared memory, error check.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "spicore/exec.hpp"
#include "spicore/host_device.hpp"

namespace spicore::cuda {

constexpr int kThreads = 256; // per block: 8 blocks fill a multiprocessor of 2048 threads

// Throws CudaError.
void check(cudaError_t status, const char *operation);

// Pieces that n things make.
SPI_HD std::int64_t pieces(std::int64_t n, std::int64_t per_piece) {
  return (n + per_piece - 1) / per_piece;
}

// Blocks along one axis of the grid for n > 0 pieces of work, `per_block` in each. The
// y axis allows 65535 (x more, but so many fill any GPU): kernels stride over the rest.
inline unsigned blocks(std::int64_t n, std::int64_t per_block) {
  constexpr std::int64_t most = 65535;
  const std::int64_t wanted = pieces(n, per_block);
  return unsigned(wanted < most ? wanted : most);
}

inline cudaStream_t stream(const Exec &exec) {
  return static_cast<cudaStream_t>(exec.stream);
}

// Shared memory that a block of the current GPU can ask for.
inline std::size_t most_shared_bytes(const char *operation) {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), operation);
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        operation);
  return std::size_t(bytes);
}

// The shared memory that a launch asks for by its number of bytes.
template <class T> __device__ T *dynamic_shared() {
#ifdef SPICORE_EMULATED
  return static_cast<T *>(emulation::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T *>(bytes);
#endif
}

// Puts a kernel on the caller's stream. A function, not <<<>>>: the kernels are C++ then,
// and compile for the emulation too.
template <class... Parameters, class... Arguments>
void launch(const Exec &exec, const char *operation, void (*kernel)(Parameters...),
            dim3 grid, dim3 block, std::size_t shared_bytes, Arguments... arguments) {
  constexpr std::size_t without_asking = 48 << 10;
  if (shared_bytes > without_asking)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shared_bytes)),
          operation);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream(exec);
  const cudaError_t status =
      cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
  cudaGetLastError(); // or the next launch would report this error as its own
  check(status, operation);
}

} // namespace spicore::cuda
