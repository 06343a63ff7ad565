// How a kernel runs, and where its variants live.
#pragma once

namespace spicore {

struct Exec {
  int threads = 1;        // CPU: OpenMP threads; results do not depend on it
  void *stream = nullptr; // CUDA: the caller's stream
};

// Orientations that lie side by side in a panel of `expand` (two 64-byte lines).
constexpr int kLanes = 32;

} // namespace spicore

// Declares one operation for every backend: one copy per CPU instruction set, one for
// CUDA. With AMX the kernels are those of AVX-512, but for the ones that use its tiles.
#define SPICORE_DECLARE(name, ...)                                                       \
  namespace spicore::cpu::baseline {                                                     \
  void name(__VA_ARGS__);                                                                \
  }                                                                                      \
  namespace spicore::cpu::avx2 {                                                         \
  void name(__VA_ARGS__);                                                                \
  }                                                                                      \
  namespace spicore::cpu::avx512 {                                                       \
  void name(__VA_ARGS__);                                                                \
  }                                                                                      \
  namespace spicore::cuda {                                                              \
  void name(__VA_ARGS__);                                                                \
  }
#define SPICORE_OPERATION(name, ...)                                                     \
  SPICORE_DECLARE(name, __VA_ARGS__)                                                     \
  namespace spicore::cpu::amx {                                                          \
  using avx512::name;                                                                    \
  }
#define SPICORE_TILE_OPERATION(name, ...)                                                \
  SPICORE_DECLARE(name, __VA_ARGS__)                                                     \
  namespace spicore::cpu::amx {                                                          \
  void name(__VA_ARGS__);                                                                \
  }
